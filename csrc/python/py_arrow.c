/* py_arrow.c: columns of strings through the Arrow C data interface, read where they lie.
 *
 * An object with __arrow_c_array__ or __arrow_c_stream__ (pyarrow, polars, pandas, ...) hands out
 * capsules over the structs below, whose layout is the interface's. Texts are views of UTF-8 into
 * the producer's buffers; what keeps those alive is held until smhf_py_arrow_release.
 * Nothing of Arrow's own is linked or included.
 */
#include "py_common.h"

typedef struct arrow_schema {
    const char *format, *name, *metadata;
    int64_t flags, children;
    struct arrow_schema **child;
    struct arrow_schema *dictionary;
    void (*release)(struct arrow_schema *);
    void *private_data;
} arrow_schema;

typedef struct arrow_array {
    int64_t length, nulls, offset, buffer_count, children;
    const void **buffers; /* [0]: validity bits or NULL */
    struct arrow_array **child;
    struct arrow_array *dictionary;
    void (*release)(struct arrow_array *);
    void *private_data;
} arrow_array;

typedef struct arrow_stream {
    int (*get_schema)(struct arrow_stream *, arrow_schema *out);
    int (*get_next)(struct arrow_stream *, arrow_array *out);
    const char *(*get_last_error)(struct arrow_stream *);
    void (*release)(struct arrow_stream *);
    void *private_data;
} arrow_stream;

/* What keeps the texts alive: capsules, or chunks that a stream gave. */
struct smhf_py_arrow {
    PyObject *capsules;
    arrow_array *chunks;
    Py_ssize_t chunk_count, chunk_capacity;
};

void smhf_py_arrow_release(smhf_py_arrow *arrow) {
    if (arrow == NULL) {
        return;
    }
    for (Py_ssize_t i = 0; i < arrow->chunk_count; i++) {
        if (arrow->chunks[i].release != NULL) {
            arrow->chunks[i].release(&arrow->chunks[i]);
        }
    }
    PyMem_Free(arrow->chunks);
    Py_XDECREF(arrow->capsules);
    PyMem_Free(arrow);
}

/* --- One value ------------------------------------------------------------------------------- */

static int is_valid(const arrow_array *array, int64_t at) {
    const uint8_t *bits = (array->buffer_count > 0) ? array->buffers[0] : NULL;
    return bits == NULL || (bits[at >> 3] >> (at & 7) & 1);
}

/* The bytes that offsets count in; a column of empty strings may have no buffer. */
static const uint8_t *bytes_of(const arrow_array *array, int64_t buffer) {
    static const uint8_t none[1] = {0};
    return (array->buffers[buffer] != NULL) ? array->buffers[buffer] : none;
}

/* The text at `at` (offset counted in), 0 when the format is none of strings. */
static int string_at(const arrow_array *array, const char *format, int64_t at,
                     smhf_text_view *view) {
    view->kind = 0;
    if (strcmp(format, "u") == 0) {
        const int32_t *offsets = array->buffers[1];
        view->data = bytes_of(array, 2) + offsets[at];
        view->length = (size_t)(offsets[at + 1] - offsets[at]);
        return 1;
    }
    if (strcmp(format, "U") == 0) {
        const int64_t *offsets = array->buffers[1];
        view->data = bytes_of(array, 2) + offsets[at];
        view->length = (size_t)(offsets[at + 1] - offsets[at]);
        return 1;
    }
    if (strcmp(format, "vu") == 0) { /* 16 bytes: length, then the text or where it lies */
        const uint8_t *entry = (const uint8_t *)array->buffers[1] + at * 16;
        int32_t fields[4];
        memcpy(fields, entry, sizeof fields);
        view->length = (size_t)fields[0];
        view->data = (fields[0] <= 12) ? entry + 4
                                       : (const uint8_t *)array->buffers[2 + fields[2]] + fields[3];
        return 1;
    }
    return 0;
}

/* The index at `at` of a dictionary-encoded column, -1 when the format is none of integers. */
static int64_t index_at(const arrow_array *array, char format, int64_t at) {
    const void *data = array->buffers[1];
    switch (format) {
    case 'c':
        return ((const int8_t *)data)[at];
    case 'C':
        return ((const uint8_t *)data)[at];
    case 's':
        return ((const int16_t *)data)[at];
    case 'S':
        return ((const uint16_t *)data)[at];
    case 'i':
        return ((const int32_t *)data)[at];
    case 'I':
        return ((const uint32_t *)data)[at];
    case 'l':
    case 'L':
        return ((const int64_t *)data)[at];
    default:
        return -1;
    }
}

static int is_text_format(const char *format) {
    return strcmp(format, "u") == 0 || strcmp(format, "U") == 0 || strcmp(format, "vu") == 0;
}

/* --- Columns --------------------------------------------------------------------------------- */

/* Appends the texts of one array to *texts. */
static int append_array(const arrow_schema *schema, const arrow_array *array, const char *name,
                        smhf_py_texts *texts, Py_ssize_t *capacity) {
    const char *format = schema->format;
    const arrow_array *values = array;
    if (schema->dictionary != NULL) {
        format = schema->dictionary->format;
        values = array->dictionary;
    }
    if (!is_text_format(format) || array->length < 0 || array->offset < 0) {
        PyErr_Format(PyExc_TypeError, "%s: expected a column of strings, got Arrow format \"%s\"",
                     name, schema->format);
        return -1;
    }
    if (array->length > PY_SSIZE_T_MAX / 64 - texts->count) {
        PyErr_NoMemory();
        return -1;
    }
    Py_ssize_t needed = texts->count + (Py_ssize_t)array->length;
    if (needed > *capacity) {
        Py_ssize_t wanted = (needed > *capacity * 2) ? needed : *capacity * 2;
        smhf_text_view *grown = PyMem_Realloc(texts->views, (size_t)wanted * sizeof *grown);
        if (grown == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        texts->views = grown;
        *capacity = wanted;
    }
    for (int64_t i = 0; i < array->length; i++) {
        int64_t at = array->offset + i;
        int valid = is_valid(array, at);
        if (valid && values != array) {
            at = index_at(array, schema->format[0], at);
            if (at < 0 || at >= values->length) {
                PyErr_Format(PyExc_ValueError, "%s[%zd]: its dictionary has no entry %lld", name,
                             texts->count, (long long)at);
                return -1;
            }
            at += values->offset;
            valid = is_valid(values, at);
        }
        if (!valid) {
            PyErr_Format(PyExc_TypeError, "%s[%zd]: expected str or bytes, got null", name,
                         texts->count);
            return -1;
        }
        (void)string_at(values, format, at, &texts->views[texts->count++]);
    }
    return 0;
}

static void *pointer_of(PyObject *capsule, const char *kind) {
    return PyCapsule_IsValid(capsule, kind) ? PyCapsule_GetPointer(capsule, kind) : NULL;
}

static int read_array(PyObject *pair, const char *name, smhf_py_texts *texts,
                      Py_ssize_t *capacity) {
    const arrow_schema *schema = NULL;
    const arrow_array *array = NULL;
    if (PyTuple_Check(pair) && PyTuple_GET_SIZE(pair) == 2) {
        schema = pointer_of(PyTuple_GET_ITEM(pair, 0), "arrow_schema");
        array = pointer_of(PyTuple_GET_ITEM(pair, 1), "arrow_array");
    }
    if (schema == NULL || array == NULL || schema->release == NULL || array->release == NULL) {
        PyErr_Format(PyExc_TypeError, "%s: __arrow_c_array__ gave no pair of Arrow capsules", name);
        return -1;
    }
    return append_array(schema, array, name, texts, capacity);
}

static int read_stream(PyObject *capsule, const char *name, smhf_py_texts *texts,
                       Py_ssize_t *capacity) {
    arrow_stream *stream = pointer_of(capsule, "arrow_array_stream");
    arrow_schema schema = {0};
    smhf_py_arrow *arrow = texts->arrow;
    int status = -1;
    if (stream == NULL || stream->release == NULL) {
        PyErr_Format(PyExc_TypeError, "%s: __arrow_c_stream__ gave no Arrow stream", name);
        return -1;
    }
    if (stream->get_schema(stream, &schema) != 0) {
        goto failed;
    }
    for (;;) {
        if (arrow->chunk_count == arrow->chunk_capacity) {
            Py_ssize_t wanted = arrow->chunk_capacity * 2 + 4;
            arrow_array *grown = PyMem_Realloc(arrow->chunks, (size_t)wanted * sizeof *grown);
            if (grown == NULL) {
                PyErr_NoMemory();
                goto done;
            }
            arrow->chunks = grown;
            arrow->chunk_capacity = wanted;
        }
        arrow_array *chunk = &arrow->chunks[arrow->chunk_count];
        *chunk = (arrow_array){0};
        if (stream->get_next(stream, chunk) != 0) {
            goto failed;
        }
        if (chunk->release == NULL) { /* the end */
            break;
        }
        arrow->chunk_count++;
        if (append_array(&schema, chunk, name, texts, capacity) < 0) {
            goto done;
        }
    }
    status = 0;
    goto done;

failed:
    if (!PyErr_Occurred()) {
        const char *why = stream->get_last_error(stream);
        PyErr_Format(PyExc_ValueError, "%s: the Arrow stream failed: %.200s", name,
                     (why != NULL) ? why : "no reason given");
    }
done:
    if (schema.release != NULL) {
        schema.release(&schema);
    }
    return status;
}

/* An attribute's call without arguments; NULL without an exception when there is no attribute. */
static PyObject *call_if_there(PyObject *object, const char *method) {
    PyObject *bound = PyObject_GetAttrString(object, method);
    if (bound == NULL) {
        if (PyErr_ExceptionMatches(PyExc_AttributeError)) {
            PyErr_Clear();
        }
        return NULL;
    }
    PyObject *result = PyObject_CallNoArgs(bound);
    Py_DECREF(bound);
    return result;
}

int smhf_py_arrow_acquire(PyObject *object, const char *name, smhf_py_texts *texts) {
    int is_stream = 0;
    PyObject *capsules = call_if_there(object, "__arrow_c_array__");
    if (capsules == NULL && !PyErr_Occurred()) {
        is_stream = 1;
        capsules = call_if_there(object, "__arrow_c_stream__");
    }
    if (capsules == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    texts->arrow = PyMem_Calloc(1, sizeof *texts->arrow);
    if (texts->arrow == NULL) {
        Py_DECREF(capsules);
        PyErr_NoMemory();
        return -1;
    }
    texts->arrow->capsules = capsules;
    Py_ssize_t capacity = 0;
    int status = is_stream ? read_stream(capsules, name, texts, &capacity)
                           : read_array(capsules, name, texts, &capacity);
    return (status < 0) ? -1 : 1;
}
