/* encoding_type.c: _tokenizer.Encoding, packed rows that arrays are viewed or made from.
 *
 * The Python class derives from it and keeps its own state in the members here, so that the short
 * way (Tokenizer.plain) makes a finished object without a line of Python.
 * Threads: the rows are immutable; an array is made by whoever asks first (GIL, or the object's
 * own lock in free-threaded builds). */
#include "py_common.h"

#include "py_array.h"
#include "tokenizer_glue.h"

#include "common/mem.h"

#include <stddef.h>
#include <structmember.h>

enum { MADE_IDS, MADE_MASK, MADE_TYPES, MADE_COUNT }; /* arrays that are kept */

typedef struct encoding_object {
    PyObject_HEAD smhf_encoding *encoding;
    Py_ssize_t width; /* columns of arrays; -1: rows are arrays of their own length */
    long long pad_id;
    int left;      /* padding comes first */
    int item_size; /* bytes of an array's items: 8 or 4 */
    PyObject *made[MADE_COUNT];
    PyObject *tokenizer, *texts;      /* of the short way, else NULL */
    PyObject *again, *detail, *cache; /* the Python class's own */
    unsigned want;
} encoding_object;

/* A read-only one-dimensional buffer over one array of an encoding, which it keeps alive. */
typedef struct field_object {
    PyObject_HEAD PyObject *owner;
    void *data;
    Py_ssize_t count;
    Py_ssize_t item_size;
    char format[2];
} field_object;

/* State of the module that the base class belongs to; `type` may be derived in Python. */
static tokenizer_state *state_of(PyTypeObject *type) {
    PyObject *module = PyType_GetModuleByDef(type, &smhf_py_tokenizer_module);
    return (module != NULL) ? PyModule_GetState(module) : NULL;
}

PyObject *smhf_py_encoding_wrap(PyTypeObject *type, smhf_encoding *encoding) {
    encoding_object *self = (encoding_object *)type->tp_alloc(type, 0);
    if (self == NULL) {
        smhf_encoding_free(encoding);
        return NULL;
    }
    self->encoding = encoding;
    self->width = -1;
    self->item_size = 8;
    return (PyObject *)self;
}

void smhf_py_encoding_pad(PyObject *op, int padded, int left, long long pad, int item_size) {
    encoding_object *self = (encoding_object *)op;
    self->width = padded ? (Py_ssize_t)self->encoding->longest : -1;
    self->left = left;
    self->pad_id = pad;
    self->item_size = item_size;
}

void smhf_py_encoding_keep(PyObject *op, PyObject *tokenizer, PyObject *texts) {
    encoding_object *self = (encoding_object *)op;
    self->tokenizer = Py_NewRef(tokenizer);
    self->texts = Py_NewRef(texts);
}

static int encoding_traverse(PyObject *op, visitproc visit, void *arg) {
    encoding_object *self = (encoding_object *)op;
    for (int i = 0; i < MADE_COUNT; i++) {
        Py_VISIT(self->made[i]);
    }
    Py_VISIT(self->tokenizer);
    Py_VISIT(self->texts);
    Py_VISIT(self->again);
    Py_VISIT(self->detail);
    Py_VISIT(self->cache);
    Py_VISIT(Py_TYPE(op));
    return 0;
}

static int encoding_clear(PyObject *op) {
    encoding_object *self = (encoding_object *)op;
    for (int i = 0; i < MADE_COUNT; i++) {
        Py_CLEAR(self->made[i]);
    }
    Py_CLEAR(self->tokenizer);
    Py_CLEAR(self->texts);
    Py_CLEAR(self->again);
    Py_CLEAR(self->detail);
    Py_CLEAR(self->cache);
    return 0;
}

static void encoding_dealloc(PyObject *op) {
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)encoding_clear(op);
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

    PyTypeObject *type = (PyTypeObject *)state_of(Py_TYPE(op))->field_type;
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

        result = (status == SMHF_OK) ? Py_NewRef(Py_None)
                                     : smhf_py_raise(&state_of(Py_TYPE(op))->errors, &err);

done:
    smhf_py_view_release(&out);
    return result;
}

/* --- Arrays ---------------------------------------------------------------------------------- */

#define FEW_TOKENS 4096 /* less work than giving the GIL away and taking it back */

static int fill(const encoding_object *self, smhf_encoding_field field, void *data, size_t width,
                long long pad) {
    const smhf_encoding *encoding = self->encoding;
    smhf_error err = SMHF_ERROR_INIT;
    smhf_status status;
    if (encoding->rows * width <= FEW_TOKENS) {
        status = smhf_encoding_fill(encoding, field, data, (size_t)self->item_size, width, pad,
                                    self->left, &err);
    } else {
        Py_BEGIN_ALLOW_THREADS status = smhf_encoding_fill(
            encoding, field, data, (size_t)self->item_size, width, pad, self->left, &err);
        Py_END_ALLOW_THREADS
    }
    if (status != SMHF_OK) {
        smhf_py_raise(&state_of(Py_TYPE(self))->errors, &err);
        return -1;
    }
    return 0;
}

/* One row alone as a 1-D array (2-D for offsets). */
static PyObject *row_array(const encoding_object *self, smhf_encoding_field field, size_t row) {
    const smhf_encoding *e = self->encoding;
    size_t begin = (size_t)e->cu_seqlens[row], count = (size_t)e->cu_seqlens[row + 1] - begin;
    int ndim = (field == SMHF_FIELD_OFFSETS) ? 2 : 1;
    smhf_error err = SMHF_ERROR_INIT;
    void *data;
    PyObject *array =
        smhf_py_array_int(ndim, (size_t[3]){count, 2, 0}, (size_t)self->item_size, &data);
    if (array != NULL &&
        smhf_encoding_fill_row(e, field, row, data, (size_t)self->item_size, &err) != SMHF_OK) {
        smhf_py_raise(&state_of(Py_TYPE(self))->errors, &err);
        Py_CLEAR(array);
    }
    return array;
}

#define LARGE_BYTES 65536 /* from here on memory is handed from batch to batch */

static void block_release(PyObject *capsule) {
    smhf_encoding_block_give(PyCapsule_GetPointer(capsule, NULL));
}

/* An array over a block, which it takes over. */
static PyObject *array_over(const encoding_object *self, int ndim, const size_t shape[3],
                            void *block) {
    PyObject *owner = PyCapsule_New(block, NULL, block_release);
    if (owner == NULL) {
        smhf_encoding_block_give(block);
        return NULL;
    }
    return smhf_py_array_int_over(ndim, shape, (size_t)self->item_size, block, owner);
}

/* A new array; large ones lie in memory that earlier arrays had. */
static PyObject *new_array(const encoding_object *self, int ndim, const size_t shape[3],
                           void **data) {
    size_t bytes = (size_t)self->item_size;
    for (int d = 0; d < ndim; d++) {
        if (smhf_mul_size(bytes, shape[d], &bytes) != 0) {
            return PyErr_NoMemory();
        }
    }
    if (bytes < LARGE_BYTES) {
        return smhf_py_array_int(ndim, shape, (size_t)self->item_size, data);
    }
    void *block = smhf_encoding_block_take(self->encoding, bytes);
    if (block == NULL) {
        return PyErr_NoMemory();
    }
    *data = block;
    return array_over(self, ndim, shape, block);
}

/* The block of a field that was made along with the rows, which is the caller's then; or NULL. */
static void *take_padded(const encoding_object *self, smhf_encoding_field field) {
    smhf_encoding *e = self->encoding;
    void **place = (field == SMHF_FIELD_IDS)              ? &e->padded_ids
                   : (field == SMHF_FIELD_ATTENTION_MASK) ? &e->padded_mask
                                                          : NULL;
    void *block = (place != NULL) ? *place : NULL;
    if (block != NULL) {
        *place = NULL;
    }
    return block;
}

static void drop_padded(const encoding_object *self) {
    smhf_encoding_block_give(take_padded(self, SMHF_FIELD_IDS));
    smhf_encoding_block_give(take_padded(self, SMHF_FIELD_ATTENTION_MASK));
}

/* A field as its properties show it: [rows, width], or a list of rows of their own lengths. */
static PyObject *make_rows(const encoding_object *self, smhf_encoding_field field, long long pad) {
    const smhf_encoding *e = self->encoding;
    tokenizer_state *state = state_of(Py_TYPE(self));
    if (state == NULL || (!state->has_numpy && smhf_py_array_init() < 0)) {
        return NULL;
    }
    state->has_numpy = 1;
    if (self->width >= 0 || e->rows == 1) {
        size_t width = (self->width >= 0) ? (size_t)self->width : e->longest;
        size_t shape[3] = {e->rows, width, 2};
        void *data = take_padded(self, field);
        if (data != NULL) {
            return array_over(self, 2, shape, data);
        }
        PyObject *array = new_array(self, (field == SMHF_FIELD_OFFSETS) ? 3 : 2, shape, &data);
        if (array != NULL && fill(self, field, data, width, pad) < 0) {
            Py_CLEAR(array);
        }
        return array;
    }
    PyObject *list = PyList_New((Py_ssize_t)e->rows);
    for (size_t row = 0; list != NULL && row < e->rows; row++) {
        PyObject *array = row_array(self, field, row);
        if (array == NULL) {
            Py_CLEAR(list);
        } else {
            PyList_SET_ITEM(list, (Py_ssize_t)row, array);
        }
    }
    return list;
}

static PyObject *encoding_get_made(PyObject *op, void *closure) {
    encoding_object *self = (encoding_object *)op;
    size_t which = (size_t)closure;
    static const smhf_encoding_field fields[] = {SMHF_FIELD_IDS, SMHF_FIELD_ATTENTION_MASK,
                                                 SMHF_FIELD_TYPE_IDS};
    PyObject *result;
    Py_BEGIN_CRITICAL_SECTION(op);
    if (self->made[which] == NULL) {
        self->made[which] = make_rows(self, fields[which], which == MADE_IDS ? self->pad_id : 0);
    }
    result = Py_XNewRef(self->made[which]);
    Py_END_CRITICAL_SECTION();
    return result;
}

static PyObject *encoding_rows_of(PyObject *op, PyObject *args) {
    int field;
    long long pad;
    if (!PyArg_ParseTuple(args, "iL:rows_of", &field, &pad)) {
        return NULL;
    }
    if (field < 0 || field > SMHF_FIELD_OFFSETS) {
        PyErr_Format(PyExc_ValueError, "field: unknown number %d", field);
        return NULL;
    }
    if (field == SMHF_FIELD_IDS || field == SMHF_FIELD_ATTENTION_MASK) {
        drop_padded((encoding_object *)op); /* their padding may be another */
    }
    return make_rows((encoding_object *)op, (smhf_encoding_field)field, pad);
}

PyDoc_STRVAR(encoding_layout_doc,
             "layout($self, width, pad_id, left, item_size, /)\n--\n\n"
             "Say how rows are shown: columns (None: as they are), padding and bytes of an item.");

static PyObject *encoding_layout(PyObject *op, PyObject *args) {
    encoding_object *self = (encoding_object *)op;
    PyObject *width_object;
    long long pad;
    int left, item_size;
    if (!PyArg_ParseTuple(args, "OLpi:layout", &width_object, &pad, &left, &item_size)) {
        return NULL;
    }
    Py_ssize_t width = (width_object == Py_None) ? -1 : PyLong_AsSsize_t(width_object);
    if (width == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if ((item_size != 4 && item_size != 8) ||
        (width >= 0 && (size_t)width < self->encoding->longest)) {
        PyErr_SetString(PyExc_ValueError, "expected items of 4 or 8 bytes, and a width of at least "
                                          "the longest row");
        return NULL;
    }
    if (width != self->width || pad != self->pad_id || left != self->left ||
        item_size != self->item_size) {
        drop_padded(self);
    }
    self->width = width;
    self->pad_id = pad;
    self->left = left;
    self->item_size = item_size;
    for (int i = 0; i < MADE_COUNT; i++) {
        Py_CLEAR(self->made[i]);
    }
    Py_RETURN_NONE;
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
    {"truncated_count", encoding_get_truncated_count, NULL, "How many texts lost tokens.", NULL},
    {"input_ids", encoding_get_made, NULL, "Token ids; padding is the pad token's id.",
     (void *)MADE_IDS},
    {"attention_mask", encoding_get_made, NULL, "1 for tokens, 0 for padding.", (void *)MADE_MASK},
    {"token_type_ids", encoding_get_made, NULL,
     "0 for the text and its special tokens, 1 for the pair's; padding 0.", (void *)MADE_TYPES},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef encoding_members[] = {
    {"_tokenizer", T_OBJECT, offsetof(encoding_object, tokenizer), READONLY, NULL},
    {"_texts", T_OBJECT, offsetof(encoding_object, texts), READONLY, NULL},
    {"_again", T_OBJECT, offsetof(encoding_object, again), 0, NULL},
    {"_detail", T_OBJECT, offsetof(encoding_object, detail), 0, NULL},
    {"_cache", T_OBJECT, offsetof(encoding_object, cache), 0, NULL},
    {"_want", T_UINT, offsetof(encoding_object, want), 0, NULL},
    {"_width", T_PYSSIZET, offsetof(encoding_object, width), READONLY, NULL},
    {"_pad_id", T_LONGLONG, offsetof(encoding_object, pad_id), READONLY, NULL},
    {"_left", T_INT, offsetof(encoding_object, left), READONLY, NULL},
    {"_item_size", T_INT, offsetof(encoding_object, item_size), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef encoding_methods[] = {
    {"view", encoding_view, METH_O,
     "view($self, name, /)\n--\n\nRead-only memoryview of a packed array, without a copy."},
    {"fill", encoding_fill, METH_VARARGS, encoding_fill_doc},
    {"rows_of", encoding_rows_of, METH_VARARGS,
     "rows_of($self, field, pad, /)\n--\n\nOne field as a new padded array, or a list of rows."},
    {"layout", encoding_layout, METH_VARARGS, encoding_layout_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot encoding_slots[] = {
    {Py_tp_dealloc, encoding_dealloc},
    {Py_tp_traverse, encoding_traverse},
    {Py_tp_clear, encoding_clear},
    {Py_tp_members, encoding_members},
    {Py_tp_methods, encoding_methods},
    {Py_tp_getset, encoding_getset},
    {Py_tp_doc, "Packed rows of one encoded batch."},
    {0, NULL},
};

PyType_Spec smhf_py_encoding_spec = {
    .name = "smhf_native.tokenizer._tokenizer.Encoding",
    .basicsize = sizeof(encoding_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE |
             Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = encoding_slots,
};
