/* py_view.c: buffer-protocol arguments, checked for dtype, shape and contiguity. */
#include "py_common.h"

#include <string.h>

/* The struct code of a native-order format, with C long folded into 'i' or 'q'; 0 if foreign. */
static char format_code(const Py_buffer *buffer) {
    const char *format = (buffer->format != NULL) ? buffer->format : "B";
    if (*format == '@' || *format == '=' || *format == '<') {
        format++;
    }
    if (format[0] == '\0' || format[1] != '\0') {
        return 0;
    }
    if (*format == 'l') {
        return (buffer->itemsize == 8) ? 'q' : 'i';
    }
    return *format;
}

int smhf_py_view_acquire(PyObject *object, const char *name, const char *formats, int ndim_min,
                         int ndim_max, int writable, smhf_py_view *view) {
    memset(view, 0, sizeof *view);
    int flags = PyBUF_FORMAT | PyBUF_C_CONTIGUOUS | (writable ? PyBUF_WRITABLE : 0);
    if (PyObject_GetBuffer(object, &view->buffer, flags) < 0) {
        PyErr_Format(PyExc_TypeError,
                     "%s: expected a C-contiguous%s array (buffer protocol), got %.100s", name,
                     writable ? " writable" : "", Py_TYPE(object)->tp_name);
        return -1;
    }
    view->format = format_code(&view->buffer);
    if (view->format == 0 || strchr(formats, view->format) == NULL) {
        PyErr_Format(PyExc_TypeError, "%s: expected element type in \"%s\", got \"%s\"", name,
                     formats, view->buffer.format != NULL ? view->buffer.format : "B");
        goto fail;
    }
    if (view->buffer.ndim < ndim_min || view->buffer.ndim > ndim_max) {
        PyErr_Format(PyExc_ValueError, "%s: expected %d to %d dimensions, got %d", name, ndim_min,
                     ndim_max, view->buffer.ndim);
        goto fail;
    }
    view->ndim = view->buffer.ndim;
    for (int d = 0; d < view->ndim && d < 2; d++) {
        view->shape[d] = view->buffer.shape[d];
    }
    view->data = view->buffer.buf;
    return 0;

fail:
    smhf_py_view_release(view);
    return -1;
}

void smhf_py_view_release(smhf_py_view *view) {
    if (view->buffer.obj != NULL) {
        PyBuffer_Release(&view->buffer);
    }
    memset(view, 0, sizeof *view);
}
