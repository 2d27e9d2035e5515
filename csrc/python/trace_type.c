/* trace_type.c: Column (a read-only buffer over C memory) and Trace (class I: immutable). */
#include "py_common.h"

#include "py_trace.h"

#include "common/mem.h"

/* --- Column
 * --------------------------------------------------------------------------------------- */

typedef struct column_object {
    PyObject_HEAD PyObject *owner; /* keeps data alive; NULL: data is ours */
    void *data;
    Py_ssize_t count, size;
    char format[2];
} column_object;

PyObject *trace_column_new(trace_state *state, PyObject *owner, void *data, size_t count,
                           char format, size_t size) {
    column_object *self = PyObject_New(column_object, state->column_type);
    if (self == NULL) {
        if (owner == NULL) {
            smhf_free(data);
        }
        return NULL;
    }
    self->owner = Py_XNewRef(owner);
    self->data = data;
    self->count = (Py_ssize_t)count;
    self->size = (Py_ssize_t)size;
    self->format[0] = format;
    self->format[1] = '\0';
    return (PyObject *)self;
}

static void column_dealloc(PyObject *object) {
    column_object *self = (column_object *)object;
    PyTypeObject *type = Py_TYPE(object);
    if (self->owner == NULL) {
        smhf_free(self->data);
    }
    Py_XDECREF(self->owner);
    PyObject_Free(self);
    Py_DECREF(type);
}

static int column_getbuffer(PyObject *object, Py_buffer *view, int flags) {
    column_object *self = (column_object *)object;
    if ((flags & PyBUF_WRITABLE) != 0) {
        PyErr_SetString(PyExc_BufferError, "trace columns are read-only");
        view->obj = NULL;
        return -1;
    }
    view->obj = Py_NewRef(object);
    view->buf = (self->data != NULL) ? self->data : (void *)self; /* empty: any address */
    view->len = self->count * self->size;
    view->readonly = 1;
    view->itemsize = self->size;
    view->format = (flags & PyBUF_FORMAT) != 0 ? self->format : NULL;
    view->ndim = 1;
    view->shape = (flags & PyBUF_ND) != 0 ? &self->count : NULL;
    view->strides = (flags & PyBUF_STRIDES) == PyBUF_STRIDES ? &self->size : NULL;
    view->suboffsets = NULL;
    view->internal = NULL;
    return 0;
}

static Py_ssize_t column_length(PyObject *object) {
    return ((column_object *)object)->count;
}

static PyType_Slot column_slots[] = {
    {Py_tp_dealloc, (void *)column_dealloc},
    {Py_bf_getbuffer, (void *)column_getbuffer},
    {Py_sq_length, (void *)column_length},
    {Py_tp_doc, "Read-only one-dimensional buffer; numpy.asarray(column) makes no copy."},
    {0, NULL},
};

PyType_Spec trace_column_spec = {
    .name = "smhf_native.trace._trace.Column",
    .basicsize = sizeof(column_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = column_slots,
};

/* --- Trace
 * ---------------------------------------------------------------------------------------- */

typedef struct trace_object {
    PyObject_HEAD smhf_trace *trace;
} trace_object;

static const smhf_trace *trace_of(PyObject *self) {
    return ((trace_object *)self)->trace;
}

static void trace_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    smhf_trace_free(((trace_object *)self)->trace);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyObject *wrap_trace(trace_state *state, smhf_trace *trace) {
    trace_object *self = PyObject_New(trace_object, state->trace_type);
    if (self == NULL) {
        smhf_trace_free(trace);
        return NULL;
    }
    self->trace = trace;
    return (PyObject *)self;
}

static trace_state *state_of_class(PyObject *klass) {
    PyObject *module = PyType_GetModuleByDef((PyTypeObject *)klass, &trace_module);
    return (module != NULL) ? PyModule_GetState(module) : NULL;
}

static PyObject *trace_open(PyObject *klass, PyObject *args) {
    trace_state *state = state_of_class(klass);
    PyObject *paths, *result = NULL;
    smhf_trace_options options = SMHF_TRACE_DEFAULTS;
    smhf_trace *trace = NULL;
    smhf_error err = SMHF_ERROR_INIT;
    smhf_status status;
    if (state == NULL || !PyArg_ParseTuple(args, "O!ppi:open", &PyTuple_Type, &paths,
                                           &options.strict, &options.keep_args, &options.parts)) {
        return NULL;
    }
    Py_ssize_t count = PyTuple_GET_SIZE(paths);
    const char **names = PyMem_Calloc((size_t)count + 1, sizeof *names);
    if (names == NULL) {
        return PyErr_NoMemory();
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        names[i] = PyBytes_AsString(PyTuple_GET_ITEM(paths, i));
        if (names[i] == NULL) {
            goto done;
        }
    }

    Py_BEGIN_ALLOW_THREADS status = smhf_trace_open(names, (size_t)count, &options, &trace, &err);
    Py_END_ALLOW_THREADS

        result =
            (status == SMHF_OK) ? wrap_trace(state, trace) : smhf_py_raise(&state->errors, &err);

done:
    PyMem_Free(names);
    return result;
}

static PyObject *trace_open_memory(PyObject *klass, PyObject *args) {
    trace_state *state = state_of_class(klass);
    Py_buffer text;
    const char *name;
    smhf_trace_options options = SMHF_TRACE_DEFAULTS;
    smhf_trace *trace = NULL;
    smhf_error err = SMHF_ERROR_INIT;
    smhf_status status;
    if (state == NULL || !PyArg_ParseTuple(args, "y*spp:open_memory", &text, &name, &options.strict,
                                           &options.keep_args)) {
        return NULL;
    }

    Py_BEGIN_ALLOW_THREADS status = smhf_trace_open_memory(
        (smhf_bytes_view){text.buf, (size_t)text.len}, name, &options, &trace, &err);
    Py_END_ALLOW_THREADS

        PyBuffer_Release(&text);
    return (status == SMHF_OK) ? wrap_trace(state, trace) : smhf_py_raise(&state->errors, &err);
}

static PyObject *trace_columns(PyObject *self, PyObject *args) {
    trace_state *state = trace_state_of(self);
    int table;
    if (state == NULL || !PyArg_ParseTuple(args, "i:columns", &table)) {
        return NULL;
    }
    PyObject *result = PyDict_New();
    smhf_trace_column column;
    for (size_t i = 0; result != NULL && smhf_trace_column_get(trace_of(self), table, i, &column);
         i++) {
        PyObject *item = trace_column_new(state, self, (void *)(uintptr_t)column.data, column.count,
                                          column.format, column.size);
        if (item == NULL || PyDict_SetItemString(result, column.name, item) < 0) {
            Py_CLEAR(result);
        }
        Py_XDECREF(item);
    }
    return result;
}

static PyObject *text_object(smhf_bytes_view text) {
    return PyUnicode_DecodeUTF8((const char *)text.data, (Py_ssize_t)text.size, "replace");
}

static PyObject *trace_names(PyObject *self, PyObject *Py_UNUSED(args)) {
    size_t count = smhf_trace_name_count(trace_of(self));
    PyObject *result = PyTuple_New((Py_ssize_t)count);
    for (size_t i = 0; result != NULL && i < count; i++) {
        PyObject *name = text_object(smhf_trace_name(trace_of(self), (uint32_t)i));
        if (name == NULL) {
            Py_CLEAR(result);
        } else {
            PyTuple_SET_ITEM(result, (Py_ssize_t)i, name);
        }
    }
    return result;
}

static PyObject *trace_files(PyObject *self, PyObject *Py_UNUSED(args)) {
    size_t count = smhf_trace_file_count(trace_of(self));
    PyObject *result = PyList_New((Py_ssize_t)count);
    for (size_t i = 0; result != NULL && i < count; i++) {
        const smhf_trace_file *file = smhf_trace_file_get(trace_of(self), i);
        PyObject *item = Py_BuildValue(
            "(NOLKKKKK)", PyUnicode_DecodeFSDefault(file->path), file->gzip ? Py_True : Py_False,
            (long long)file->base_ns, (unsigned long long)file->bytes,
            (unsigned long long)file->first_event, (unsigned long long)file->event_count,
            (unsigned long long)file->first_row, (unsigned long long)file->row_count);
        if (item == NULL) {
            Py_CLEAR(result);
        } else {
            PyList_SET_ITEM(result, (Py_ssize_t)i, item);
        }
    }
    return result;
}

static PyObject *trace_faults(PyObject *self, PyObject *Py_UNUSED(args)) {
    size_t count = smhf_trace_fault_count(trace_of(self));
    PyObject *result = PyList_New((Py_ssize_t)count);
    for (size_t i = 0; result != NULL && i < count; i++) {
        const smhf_trace_fault *fault = smhf_trace_fault_get(trace_of(self), i);
        PyObject *item = Py_BuildValue(
            "(KKKION)", (unsigned long long)fault->offset, (unsigned long long)fault->line,
            (unsigned long long)fault->length, (unsigned)fault->file,
            fault->lost ? Py_True : Py_False, text_object(smhf_bytes_from_string(fault->reason)));
        if (item == NULL) {
            Py_CLEAR(result);
        } else {
            PyList_SET_ITEM(result, (Py_ssize_t)i, item);
        }
    }
    return result;
}

static int event_index(PyObject *self, Py_ssize_t index) {
    if (index < 0 || (size_t)index >= smhf_trace_events_get(trace_of(self))->count) {
        PyErr_Format(PyExc_IndexError, "event %zd: the trace has %zu events", index,
                     smhf_trace_events_get(trace_of(self))->count);
        return -1;
    }
    return 0;
}

static PyObject *trace_args(PyObject *self, PyObject *args) {
    Py_ssize_t index;
    if (!PyArg_ParseTuple(args, "n:args", &index) || event_index(self, index) < 0) {
        return NULL;
    }
    smhf_bytes_view text = smhf_trace_args(trace_of(self), (size_t)index);
    return PyBytes_FromStringAndSize((const char *)text.data, (Py_ssize_t)text.size);
}

static PyObject *trace_args_value(PyObject *self, PyObject *args) {
    Py_ssize_t index;
    const char *key;
    smhf_bytes_view value;
    if (!PyArg_ParseTuple(args, "ns:args_value", &index, &key) || event_index(self, index) < 0) {
        return NULL;
    }
    if (!smhf_trace_args_find(smhf_trace_args(trace_of(self), (size_t)index), key, &value)) {
        Py_RETURN_NONE;
    }
    return PyBytes_FromStringAndSize((const char *)value.data, (Py_ssize_t)value.size);
}

static PyObject *trace_args_int64(PyObject *self, PyObject *args) {
    trace_state *state = trace_state_of(self);
    const char *key;
    long long missing;
    if (state == NULL || !PyArg_ParseTuple(args, "sL:args_int64", &key, &missing)) {
        return NULL;
    }
    size_t count = smhf_trace_events_get(trace_of(self))->count;
    int64_t *out = smhf_malloc((count + 1) * sizeof *out);
    if (out == NULL) {
        return PyErr_NoMemory();
    }

    Py_BEGIN_ALLOW_THREADS smhf_trace_args_int64(trace_of(self), key, missing, out);
    Py_END_ALLOW_THREADS

        return trace_column_new(state, NULL, out, count, 'q', sizeof *out);
}

static PyObject *trace_select(PyObject *self, PyObject *args) {
    trace_state *state = trace_state_of(self);
    smhf_trace_filter filter = SMHF_TRACE_FILTER_ALL;
    smhf_error err = SMHF_ERROR_INIT;
    long long start, end;
    int table, ph;
    uint64_t *rows = NULL;
    size_t count = 0;
    smhf_status status;
    if (state == NULL ||
        !PyArg_ParseTuple(args, "iLLzzzzC:select", &table, &start, &end, &filter.type, &filter.name,
                          &filter.dimension, &filter.node, &ph)) {
        return NULL;
    }
    filter.start_ns = start;
    filter.end_ns = end;
    filter.ph = (char)(ph < 128 ? ph : 1);

    Py_BEGIN_ALLOW_THREADS status =
        (table == 0) ? smhf_trace_select_events(trace_of(self), &filter, &rows, &count, &err)
                     : smhf_trace_select_rows(trace_of(self), &filter, &rows, &count, &err);
    Py_END_ALLOW_THREADS

        return (status == SMHF_OK)
        ? trace_column_new(state, NULL, rows, count, 'Q', sizeof *rows)
        : smhf_py_raise(&state->errors, &err);
}

/* (ts, value); takes over both arrays of the series. */
static PyObject *wrap_series(trace_state *state, smhf_trace_series *series) {
    PyObject *ts = trace_column_new(state, NULL, series->ts, series->count, 'q', 8);
    PyObject *value = trace_column_new(state, NULL, series->value, series->count, 'd', 8);
    PyObject *result = (ts != NULL && value != NULL) ? PyTuple_Pack(2, ts, value) : NULL;
    Py_XDECREF(ts);
    Py_XDECREF(value);
    return result;
}

static PyObject *trace_series(PyObject *self, PyObject *args) {
    trace_state *state = trace_state_of(self);
    smhf_trace_filter filter = SMHF_TRACE_FILTER_ALL;
    smhf_error err = SMHF_ERROR_INIT;
    smhf_trace_series series;
    long long start, end, window;
    int total;
    smhf_status status;
    if (state == NULL ||
        !PyArg_ParseTuple(args, "pLLLzzzz:series", &total, &window, &start, &end, &filter.type,
                          &filter.name, &filter.dimension, &filter.node)) {
        return NULL;
    }
    filter.start_ns = start;
    filter.end_ns = end;

    Py_BEGIN_ALLOW_THREADS status =
        total ? smhf_trace_series_total(trace_of(self), &filter, window, &series, &err)
              : smhf_trace_series_get(trace_of(self), &filter, &series, &err);
    Py_END_ALLOW_THREADS

        return (status == SMHF_OK)
        ? wrap_series(state, &series)
        : smhf_py_raise(&state->errors, &err);
}

static PyObject *trace_spans(PyObject *self, PyObject *Py_UNUSED(args)) {
    trace_state *state = trace_state_of(self);
    smhf_error err = SMHF_ERROR_INIT;
    smhf_trace_spans spans;
    smhf_status status;
    if (state == NULL) {
        return NULL;
    }

    Py_BEGIN_ALLOW_THREADS status = smhf_trace_spans_get(trace_of(self), &spans, &err);
    Py_END_ALLOW_THREADS

        if (status != SMHF_OK) {
        return smhf_py_raise(&state->errors, &err);
    }
    return Py_BuildValue(
        "(NNNNKK)", trace_column_new(state, NULL, spans.event, spans.count, 'Q', 8),
        trace_column_new(state, NULL, spans.end, spans.count, 'Q', 8),
        trace_column_new(state, NULL, spans.ts, spans.count, 'q', 8),
        trace_column_new(state, NULL, spans.dur, spans.count, 'q', 8),
        (unsigned long long)spans.unmatched_begins, (unsigned long long)spans.unmatched_ends);
}

static PyObject *trace_get_kind(PyObject *self, void *Py_UNUSED(closure)) {
    return PyUnicode_FromString(smhf_trace_kind(trace_of(self)));
}

static PyObject *trace_get_fault_total(PyObject *self, void *Py_UNUSED(closure)) {
    return PyLong_FromUnsignedLongLong(smhf_trace_fault_total(trace_of(self)));
}

static PyMethodDef trace_methods[] = {
    {"open", trace_open, METH_VARARGS | METH_CLASS,
     "open($type, paths, strict, keep_args, parts, /)\n--\n\nRead files and folders."},
    {"open_memory", trace_open_memory, METH_VARARGS | METH_CLASS,
     "open_memory($type, text, name, strict, keep_args, /)\n--\n\nRead one plain text."},
    {"columns", trace_columns, METH_VARARGS,
     "columns($self, table, /)\n--\n\nColumns of table 0 (events) or 1 (rows)."},
    {"names", trace_names, METH_NOARGS, "names($self, /)\n--\n\nThe dictionary, by code."},
    {"files", trace_files, METH_NOARGS,
     "files($self, /)\n--\n\n(path, gzip, base_ns, bytes, first_event, events, first_row, rows)."},
    {"faults", trace_faults, METH_NOARGS,
     "faults($self, /)\n--\n\n(offset, line, length, file, lost, reason)."},
    {"args", trace_args, METH_VARARGS, "args($self, event, /)\n--\n\nArgs of an event as JSON."},
    {"args_value", trace_args_value, METH_VARARGS,
     "args_value($self, event, key, /)\n--\n\nOne value of an event's args as JSON, or None."},
    {"args_int64", trace_args_int64, METH_VARARGS,
     "args_int64($self, key, missing, /)\n--\n\nThe integer of a key of every event's args."},
    {"select", trace_select, METH_VARARGS,
     "select($self, table, start, end, type, name, dimension, node, ph, /)\n--\n\n"
     "Indices of matching events or rows."},
    {"series", trace_series, METH_VARARGS,
     "series($self, total, window, start, end, type, name, dimension, node, /)\n--\n\n"
     "(ts, value) of matching rows in time order."},
    {"spans", trace_spans, METH_NOARGS,
     "spans($self, /)\n--\n\n(event, end, ts, dur, unmatched_begins, unmatched_ends)."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef trace_getset[] = {
    {"kind", trace_get_kind, NULL, "events, system, scalars, mixed or empty", NULL},
    {"fault_total", trace_get_fault_total, NULL, "faults found, listed or not", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot trace_slots[] = {
    {Py_tp_dealloc, (void *)trace_dealloc},
    {Py_tp_methods, trace_methods},
    {Py_tp_getset, trace_getset},
    {Py_tp_doc, "A trace read into columns."},
    {0, NULL},
};

PyType_Spec trace_type_spec = {
    .name = "smhf_native.trace._trace.Trace",
    .basicsize = sizeof(trace_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = trace_slots,
};

/* --- Functions of the module
 * ------------------------------------------------------------------------ */

PyObject *trace_decimate(PyObject *module, PyObject *args) {
    trace_state *state = PyModule_GetState(module);
    PyObject *ts_object, *value_object, *result = NULL;
    smhf_py_view ts = {0}, value = {0};
    smhf_trace_series series;
    smhf_error err = SMHF_ERROR_INIT;
    Py_ssize_t buckets;
    smhf_status status;
    if (!PyArg_ParseTuple(args, "OOn:decimate", &ts_object, &value_object, &buckets)) {
        return NULL;
    }
    if (smhf_py_view_acquire(ts_object, "ts", "q", 1, 1, 0, &ts) < 0 ||
        smhf_py_view_acquire(value_object, "value", "d", 1, 1, 0, &value) < 0) {
        goto done;
    }
    if (ts.shape[0] != value.shape[0] || buckets < 1) {
        PyErr_Format(PyExc_ValueError,
                     "decimate: expected as many times as values and at least one bucket, got %zd "
                     "times, %zd values, %zd buckets",
                     ts.shape[0], value.shape[0], buckets);
        goto done;
    }

    Py_BEGIN_ALLOW_THREADS status = smhf_trace_decimate(ts.data, value.data, (size_t)ts.shape[0],
                                                        (size_t)buckets, &series, &err);
    Py_END_ALLOW_THREADS

        result =
            (status == SMHF_OK) ? wrap_series(state, &series) : smhf_py_raise(&state->errors, &err);

done:
    smhf_py_view_release(&ts);
    smhf_py_view_release(&value);
    return result;
}

PyObject *trace_percentiles(PyObject *module, PyObject *args) {
    trace_state *state = PyModule_GetState(module);
    PyObject *value_object, *q_object, *result = NULL;
    smhf_py_view value = {0}, q = {0};
    smhf_error err = SMHF_ERROR_INIT;
    double *out = NULL;
    smhf_status status;
    if (!PyArg_ParseTuple(args, "OO:percentiles", &value_object, &q_object)) {
        return NULL;
    }
    if (smhf_py_view_acquire(value_object, "value", "d", 1, 1, 0, &value) < 0 ||
        smhf_py_view_acquire(q_object, "q", "d", 1, 1, 0, &q) < 0) {
        goto done;
    }
    out = smhf_malloc(((size_t)q.shape[0] + 1) * sizeof *out);
    if (out == NULL) {
        PyErr_NoMemory();
        goto done;
    }

    Py_BEGIN_ALLOW_THREADS status = smhf_trace_percentiles(value.data, (size_t)value.shape[0],
                                                           q.data, (size_t)q.shape[0], out, &err);
    Py_END_ALLOW_THREADS

        if (status == SMHF_OK) {
        result = trace_column_new(state, NULL, out, (size_t)q.shape[0], 'd', sizeof *out);
        out = NULL;
    }
    else {
        smhf_py_raise(&state->errors, &err);
    }

done:
    smhf_free(out);
    smhf_py_view_release(&value);
    smhf_py_view_release(&q);
    return result;
}

PyObject *trace_parse_time(PyObject *Py_UNUSED(module), PyObject *args) {
    const char *text;
    Py_ssize_t size;
    int digits;
    int64_t value;
    if (!PyArg_ParseTuple(args, "s#i:parse_time", &text, &size, &digits)) {
        return NULL;
    }
    int status = smhf_trace_parse_time((smhf_bytes_view){(const uint8_t *)text, (size_t)size},
                                       digits, &value);
    if (status == -2) {
        PyErr_Format(PyExc_OverflowError, "%.100s: does not fit 64 bits at 10^-%d", text, digits);
        return NULL;
    }
    if (status != 0) {
        PyErr_Format(PyExc_ValueError, "expected a decimal number, got \"%.100s\"", text);
        return NULL;
    }
    return PyLong_FromLongLong(value);
}
