/* event_writer_type.c: the writer of framework events as a Python object (class L). */
#include "py_common.h"

#include "py_trace.h"

typedef struct event_writer_object {
    PyObject_HEAD smhf_event_writer *writer;
} event_writer_object;

static PyObject *event_writer_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"folder", "node_id", "suffix", "max_bytes", "max_seconds", NULL};
    PyObject *module = PyType_GetModuleByDef(type, &trace_module);
    smhf_event_writer_options options = SMHF_EVENT_WRITER_DEFAULTS;
    smhf_error err = SMHF_ERROR_INIT;
    smhf_event_writer *writer = NULL;
    PyObject *folder = NULL;
    long long bytes = (long long)options.max_bytes, seconds = options.max_seconds;
    if (module == NULL || !PyArg_ParseTupleAndKeywords(
                              args, kwargs, "O&|ssLL:EventWriter", names, PyUnicode_FSConverter,
                              &folder, &options.node, &options.suffix, &bytes, &seconds)) {
        return NULL;
    }
    options.folder = PyBytes_AS_STRING(folder);
    options.max_bytes = (bytes > 0) ? (uint64_t)bytes : 0;
    options.max_seconds = seconds;

    smhf_status status = smhf_event_writer_open(&options, &writer, &err);

    Py_DECREF(folder);
    if (status != SMHF_OK) {
        trace_state *state = PyModule_GetState(module);
        return smhf_py_raise(&state->errors, &err);
    }
    event_writer_object *self = PyObject_New(event_writer_object, type);
    if (self == NULL) {
        smhf_event_writer_free(writer);
        return NULL;
    }
    self->writer = writer;
    return (PyObject *)self;
}

static void event_writer_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    smhf_event_writer *writer = ((event_writer_object *)self)->writer;

    Py_BEGIN_ALLOW_THREADS smhf_event_writer_free(writer);
    Py_END_ALLOW_THREADS

        PyObject_Free(self);
    Py_DECREF(type);
}

static PyObject *event_writer_span(PyObject *self, PyObject *args) {
    trace_state *state = trace_state_of(self);
    smhf_error err = SMHF_ERROR_INIT;
    const char *name, *phase, *json;
    long long start, end;
    smhf_status status;
    if (state == NULL ||
        !PyArg_ParseTuple(args, "szLLz:span", &name, &phase, &start, &end, &json)) {
        return NULL;
    }

    Py_BEGIN_ALLOW_THREADS status = smhf_event_writer_span(((event_writer_object *)self)->writer,
                                                           name, phase, start, end, json, &err);
    Py_END_ALLOW_THREADS

        if (status != SMHF_OK) {
        return smhf_py_raise(&state->errors, &err);
    }
    Py_RETURN_NONE;
}

static PyObject *run_plain(PyObject *self, smhf_status (*call)(smhf_event_writer *, smhf_error *)) {
    trace_state *state = trace_state_of(self);
    smhf_error err = SMHF_ERROR_INIT;
    smhf_status status;
    if (state == NULL) {
        return NULL;
    }

    Py_BEGIN_ALLOW_THREADS status = call(((event_writer_object *)self)->writer, &err);
    Py_END_ALLOW_THREADS

        if (status != SMHF_OK) {
        return smhf_py_raise(&state->errors, &err);
    }
    Py_RETURN_NONE;
}

static PyObject *event_writer_flush(PyObject *self, PyObject *Py_UNUSED(args)) {
    return run_plain(self, smhf_event_writer_flush);
}

static PyObject *event_writer_close(PyObject *self, PyObject *Py_UNUSED(args)) {
    return run_plain(self, smhf_event_writer_close);
}

static PyMethodDef event_writer_methods[] = {
    {"span", event_writer_span, METH_VARARGS,
     "span($self, name, phase, start_ns, end_ns, args, /)\n--\n\nWrite one complete span."},
    {"flush", event_writer_flush, METH_NOARGS,
     "flush($self, /)\n--\n\nHand buffered lines to the file."},
    {"close", event_writer_close, METH_NOARGS, "close($self, /)\n--\n\nFinish the current file."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot event_writer_slots[] = {
    {Py_tp_new, (void *)event_writer_new},
    {Py_tp_dealloc, (void *)event_writer_dealloc},
    {Py_tp_methods, event_writer_methods},
    {Py_tp_doc, "EventWriter(folder, node_id='algo-1', suffix='pythontimeline', "
                "max_bytes=10000000, max_seconds=60)\n--\n\nWriter of framework events."},
    {0, NULL},
};

PyType_Spec event_writer_type_spec = {
    .name = "smhf_native.trace._trace.EventWriter",
    .basicsize = sizeof(event_writer_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = event_writer_slots,
};
