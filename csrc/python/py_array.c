/* py_array.c: results are written by the core straight into memory that the array owns. */
#include "py_array.h"

#include <numpy/arrayobject.h>

static int load_numpy(void) {
    import_array1(-1);
    return 0;
}

int smhf_py_array_init(void) {
    return load_numpy();
}

static PyObject *new_array(int ndim, const size_t *shape, int type, void **data) {
    npy_intp dims[3] = {0, 0, 0};
    for (int d = 0; d < ndim; d++) {
        if (shape[d] > (size_t)NPY_MAX_INTP) {
            return PyErr_NoMemory();
        }
        dims[d] = (npy_intp)shape[d];
    }
    PyObject *array = PyArray_SimpleNew(ndim, dims, type);
    if (array != NULL) {
        *data = PyArray_DATA((PyArrayObject *)array);
    }
    return array;
}

PyObject *smhf_py_array_f32(int ndim, const size_t shape[2], float **data) {
    void *memory = NULL;
    PyObject *array = new_array(ndim, shape, NPY_FLOAT32, &memory);
    *data = memory;
    return array;
}

PyObject *smhf_py_array_i64(size_t count, int64_t **data) {
    void *memory = NULL;
    PyObject *array = new_array(1, &count, NPY_INT64, &memory);
    *data = memory;
    return array;
}

PyObject *smhf_py_array_int(int ndim, const size_t shape[3], size_t item_size, void **data) {
    return new_array(ndim, shape, (item_size == 4) ? NPY_INT32 : NPY_INT64, data);
}

PyObject *smhf_py_array_int_over(int ndim, const size_t shape[3], size_t item_size, void *memory,
                                 PyObject *owner) {
    npy_intp dims[3] = {0, 0, 0};
    for (int d = 0; d < ndim; d++) {
        dims[d] = (npy_intp)shape[d];
    }
    PyObject *array =
        PyArray_SimpleNewFromData(ndim, dims, (item_size == 4) ? NPY_INT32 : NPY_INT64, memory);
    if (array == NULL) {
        Py_DECREF(owner);
        return NULL;
    }
    if (PyArray_SetBaseObject((PyArrayObject *)array, owner) < 0) { /* takes the owner over */
        Py_DECREF(array);
        return NULL;
    }
    return array;
}
