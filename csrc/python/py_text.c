/* py_text.c: Python texts as smhf_text_view, read in place.
 *
 * str buffers are taken by PEP 393 kind; PyUnicode_AsUTF8 is avoided because it leaves a second
 * copy inside every non-ASCII str for life.
 */
#include "py_common.h"

int smhf_py_text_view(PyObject *item, const char *name, Py_ssize_t row, smhf_text_view *view) {
    if (PyUnicode_Check(item)) {
#if PY_VERSION_HEX < 0x030C0000
        if (PyUnicode_READY(item) < 0) {
            return -1;
        }
#endif
        view->data = PyUnicode_DATA(item);
        view->length = (size_t)PyUnicode_GET_LENGTH(item);
        view->kind = (int)PyUnicode_KIND(item);
        return 0;
    }
    if (PyBytes_Check(item)) {
        view->data = PyBytes_AS_STRING(item);
        view->length = (size_t)PyBytes_GET_SIZE(item);
        view->kind = 0;
        return 0;
    }
    PyErr_Format(PyExc_TypeError, "%s[%zd]: expected str or bytes, got %.100s", name, row,
                 Py_TYPE(item)->tp_name);
    return -1;
}

int smhf_py_texts_acquire(PyObject *sequence, const char *name, smhf_py_texts *texts) {
    *texts = (smhf_py_texts){0};
    if (PyUnicode_Check(sequence) || PyBytes_Check(sequence)) {
        PyErr_Format(PyExc_TypeError, "%s: expected a sequence of texts, got one %.100s", name,
                     Py_TYPE(sequence)->tp_name);
        return -1;
    }
    if (!PyList_Check(sequence) && !PyTuple_Check(sequence)) {
        int taken = smhf_py_arrow_acquire(sequence, name, texts);
        if (taken != 0) {
            return (taken < 0) ? -1 : 0;
        }
    }
    PyObject *fast = PySequence_Fast(sequence, "");
    if (fast == NULL) {
        if (PyErr_ExceptionMatches(PyExc_TypeError)) {
            PyErr_Format(PyExc_TypeError, "%s: expected a sequence of texts, got %.100s", name,
                         Py_TYPE(sequence)->tp_name);
        }
        return -1;
    }

    int status = -1;
    Py_ssize_t count = PySequence_Fast_GET_SIZE(fast);
    size_t entries = (count > 0) ? (size_t)count : 1;
    texts->views = PyMem_Calloc(entries, sizeof *texts->views);
    texts->owners = PyMem_Calloc(entries, sizeof *texts->owners);
    if (texts->views == NULL || texts->owners == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    for (Py_ssize_t row = 0; row < count; row++) {
        PyObject *item = PySequence_Fast_GET_ITEM(fast, row);
        texts->owners[row] = Py_NewRef(item);
        texts->count = row + 1;
        if (smhf_py_text_view(item, name, row, &texts->views[row]) < 0) {
            goto done;
        }
    }
    status = 0;

done:
    Py_DECREF(fast);
    return status;
}

int smhf_py_texts_borrow(PyObject *tuple, const char *name, smhf_py_texts *texts) {
    Py_ssize_t count = PyTuple_GET_SIZE(tuple);
    *texts = (smhf_py_texts){0};
    texts->views = PyMem_Malloc((size_t)(count > 0 ? count : 1) * sizeof *texts->views);
    if (texts->views == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t row = 0; row < count; row++) {
        if (smhf_py_text_view(PyTuple_GET_ITEM(tuple, row), name, row, &texts->views[row]) < 0) {
            return -1;
        }
    }
    texts->count = count;
    return 0;
}

void smhf_py_texts_release(smhf_py_texts *texts) {
    for (Py_ssize_t row = 0; texts->owners != NULL && row < texts->count; row++) {
        Py_XDECREF(texts->owners[row]);
    }
    PyMem_Free(texts->owners);
    smhf_py_arrow_release(texts->arrow);
    PyMem_Free(texts->views);
    *texts = (smhf_py_texts){0};
}
