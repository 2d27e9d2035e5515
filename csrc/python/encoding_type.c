/* encoding_type.c: _tokenizer.Encoding, packed rows that arrays are viewed or filled from.
 * Threads: immutable. */
#include "py_common.h"

#include "tokenizer_glue.h"

typedef struct encoding_object {
    PyObject_HEAD smhf_encoding *encoding;
} encoding_object;

/* A read-only one-dimensional buffer over one array of an encoding, which it keeps alive. */
typedef struct field_object {
    PyObject_HEAD PyObject *owner;
    void *data;
    Py_ssize_t count;
    Py_ssize_t item_size;
    char format[2];
} field_object;

PyObject *smhf_py_encoding_wrap(tokenizer_state *state, smhf_encoding *encoding) {
    PyTypeObject *type = (PyTypeObject *)state->encoding_type;
    encoding_object *self = (encoding_object *)type->tp_alloc(type, 0);
    if (self == NULL) {
        smhf_encoding_free(encoding);
        return NULL;
    }
    self->encoding = encoding;
    return (PyObject *)self;
}

static void encoding_dealloc(PyObject *op) {
    PyTypeObject *type = Py_TYPE(op);
    smhf_encoding_free(((encoding_object *)op)->encoding);
    type->tp_free(op);
    Py_DECREF(type);
}

/* --- view ------------------------------------------------------------------------------------ */

typedef struct field_shape {
    const char *name;
    void *data;
    size_t count;
    size_t item_size;
    char format;
} field_shape;

static int find_field(const smhf_encoding *e, const char *name, field_shape *out) {
    const field_shape fields[] = {
        {"ids", e->ids, e->tokens, 4, 'i'},
        {"type_ids", e->type_ids, e->tokens, 4, 'i'},
        {"cu_seqlens", e->cu_seqlens, e->rows + 1, 4, 'i'},
        {"offsets", e->offsets, e->tokens * 2, 4, 'i'},
        {"word_ids", e->word_ids, e->tokens, 4, 'i'},
        {"sequence_ids", e->sequence_ids, e->tokens, 1, 'b'},
        {"special_mask", e->special_mask, e->tokens, 1, 'B'},
        {"sample", e->sample, e->rows, 4, 'i'},
        {"truncated", e->truncated, e->rows, 1, 'B'},
    };
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        if (strcmp(fields[i].name, name) == 0 && fields[i].data != NULL) {
            *out = fields[i];
            return 0;
        }
    }
    PyErr_Format(PyExc_ValueError, "Encoding has no field \"%s\", or it was not asked for", name);
    return -1;
}

static PyObject *encoding_view(PyObject *op, PyObject *name_object) {
    const char *name = PyUnicode_AsUTF8(name_object);
    field_shape shape;
    if (name == NULL || find_field(((encoding_object *)op)->encoding, name, &shape) < 0) {
        return NULL;
    }

    tokenizer_state *state = smhf_py_tokenizer_state(Py_TYPE(op));
    PyTypeObject *type = (PyTypeObject *)state->field_type;
    field_object *field = (field_object *)type->tp_alloc(type, 0);
    if (field == NULL) {
        return NULL;
    }
    field->owner = Py_NewRef(op);
    field->data = shape.data;
    field->count = (Py_ssize_t)shape.count;
    field->item_size = (Py_ssize_t)shape.item_size;
    field->format[0] = shape.format;

    PyObject *view = PyMemoryView_FromObject((PyObject *)field);
    Py_DECREF(field);
    return view;
}

static int field_getbuffer(PyObject *op, Py_buffer *view, int flags) {
    field_object *self = (field_object *)op;
    if (flags & PyBUF_WRITABLE) {
        PyErr_SetString(PyExc_BufferError, "encodings are read-only");
        view->obj = NULL;
        return -1;
    }
    view->obj = Py_NewRef(op);
    view->buf = self->data;
    view->len = self->count * self->item_size;
    view->readonly = 1;
    view->itemsize = self->item_size;
    view->format = (flags & PyBUF_FORMAT) ? self->format : NULL;
    view->ndim = 1;
    view->shape = (flags & PyBUF_ND) ? &self->count : NULL;
    view->strides = ((flags & PyBUF_STRIDES) == PyBUF_STRIDES) ? &self->item_size : NULL;
    view->suboffsets = NULL;
    view->internal = NULL;
    return 0;
}

static void field_dealloc(PyObject *op) {
    PyTypeObject *type = Py_TYPE(op);
    Py_DECREF(((field_object *)op)->owner);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyType_Slot field_slots[] = {
    {Py_tp_dealloc, field_dealloc},
    {Py_bf_getbuffer, field_getbuffer},
    {Py_tp_doc, "Read-only buffer over one array of an Encoding."},
    {0, NULL},
};

PyType_Spec smhf_py_field_spec = {
    .name = "smhf_native.tokenizer._tokenizer.Field",
    .basicsize = sizeof(field_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = field_slots,
};

/* --- fill ------------------------------------------------------------------------------------ */

PyDoc_STRVAR(encoding_fill_doc, "fill($self, field, out, width, pad, left, /)\n--\n\n"
                                "Write one field, padded, into a writable int32 or int64 array.");

static PyObject *encoding_fill(PyObject *op, PyObject *args) {
    const smhf_encoding *encoding = ((encoding_object *)op)->encoding;
    smhf_py_view out = {0};
    smhf_error err = SMHF_ERROR_INIT;
    smhf_status status;
    int field, left;
    long long pad;
    Py_ssize_t width;
    PyObject *array, *result = NULL;
    if (!PyArg_ParseTuple(args, "iOnLp:fill", &field, &array, &width, &pad, &left)) {
        return NULL;
    }
    if (smhf_py_view_acquire(array, "out", "iq", 1, 3, 1, &out) < 0) {
        return NULL;
    }
    size_t items = (field == SMHF_FIELD_OFFSETS) ? 2 : 1;
    if (field < 0 || field > SMHF_FIELD_OFFSETS || width < 0 ||
        (size_t)out.buffer.len !=
            encoding->rows * (size_t)width * items * (size_t)out.buffer.itemsize) {
        PyErr_SetString(PyExc_ValueError, "out: its size is not rows x width, or unknown field");
        goto done;
    }

    Py_BEGIN_ALLOW_THREADS status =
        smhf_encoding_fill(encoding, (smhf_encoding_field)field, out.buffer.buf,
                           (size_t)out.buffer.itemsize, (size_t)width, pad, left, &err);
    Py_END_ALLOW_THREADS

        result = (status == SMHF_OK)
                     ? Py_NewRef(Py_None)
                     : smhf_py_raise(&smhf_py_tokenizer_state(Py_TYPE(op))->errors, &err);

done:
    smhf_py_view_release(&out);
    return result;
}

/* --- Type ------------------------------------------------------------------------------------ */

static PyObject *encoding_get_rows(PyObject *op, void *closure) {
    (void)closure;
    return PyLong_FromSize_t(((encoding_object *)op)->encoding->rows);
}

static PyObject *encoding_get_tokens(PyObject *op, void *closure) {
    (void)closure;
    return PyLong_FromSize_t(((encoding_object *)op)->encoding->tokens);
}

static PyObject *encoding_get_longest(PyObject *op, void *closure) {
    (void)closure;
    return PyLong_FromSize_t(((encoding_object *)op)->encoding->longest);
}

static PyObject *encoding_get_truncated_count(PyObject *op, void *closure) {
    (void)closure;
    return PyLong_FromSize_t(((encoding_object *)op)->encoding->truncated_count);
}

static PyGetSetDef encoding_getset[] = {
    {"rows", encoding_get_rows, NULL, "Number of rows, overflow rows included.", NULL},
    {"tokens", encoding_get_tokens, NULL, "Number of tokens in all rows.", NULL},
    {"longest", encoding_get_longest, NULL, "Tokens of the longest row.", NULL},
    {"truncated_count", encoding_get_truncated_count, NULL, "Texts that lost tokens.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef encoding_methods[] = {
    {"view", encoding_view, METH_O,
     "view($self, name, /)\n--\n\nRead-only memoryview of a packed array, without a copy."},
    {"fill", encoding_fill, METH_VARARGS, encoding_fill_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot encoding_slots[] = {
    {Py_tp_dealloc, encoding_dealloc},
    {Py_tp_methods, encoding_methods},
    {Py_tp_getset, encoding_getset},
    {Py_tp_doc, "Packed rows of one encoded batch."},
    {0, NULL},
};

PyType_Spec smhf_py_encoding_spec = {
    .name = "smhf_native.tokenizer._tokenizer.Encoding",
    .basicsize = sizeof(encoding_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = encoding_slots,
};
