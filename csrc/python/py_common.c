/* py_common.c: exceptions and small conversions shared by all glue. */
#include "py_common.h"

static int import_class(PyObject *module, const char *name, PyObject **slot) {
    *slot = PyObject_GetAttrString(module, name);
    return (*slot == NULL) ? -1 : 0;
}

int smhf_py_errors_init(smhf_py_errors *errors) {
    PyObject *module = PyImport_ImportModule("smhf_native.errors");
    if (module == NULL) {
        return -1;
    }
    int status = (import_class(module, "SmhfError", &errors->smhf_error) < 0 ||
                  import_class(module, "ParseError", &errors->parse_error) < 0 ||
                  import_class(module, "BackendError", &errors->backend_error) < 0 ||
                  import_class(module, "HTTPError", &errors->http_error) < 0 ||
                  import_class(module, "BusyError", &errors->busy_error) < 0 ||
                  import_class(module, "Cancelled", &errors->cancelled) < 0)
                     ? -1
                     : 0;
    Py_DECREF(module);
    return status;
}

int smhf_py_errors_traverse(const smhf_py_errors *errors, visitproc visit, void *arg) {
    Py_VISIT(errors->smhf_error);
    Py_VISIT(errors->parse_error);
    Py_VISIT(errors->backend_error);
    Py_VISIT(errors->http_error);
    Py_VISIT(errors->busy_error);
    Py_VISIT(errors->cancelled);
    return 0;
}

void smhf_py_errors_clear(smhf_py_errors *errors) {
    Py_CLEAR(errors->smhf_error);
    Py_CLEAR(errors->parse_error);
    Py_CLEAR(errors->backend_error);
    Py_CLEAR(errors->http_error);
    Py_CLEAR(errors->busy_error);
    Py_CLEAR(errors->cancelled);
}

/* Raises klass(message) with one extra attribute; both objects may fail to be made. */
static void raise_with_attribute(PyObject *klass, const char *message, const char *attribute,
                                 PyObject *value) {
    PyObject *exception = PyObject_CallFunction(klass, "s", message);
    if (exception != NULL && value != NULL &&
        PyObject_SetAttrString(exception, attribute, value) == 0) {
        PyErr_SetObject(klass, exception);
    }
    Py_XDECREF(value);
    Py_XDECREF(exception);
}

PyObject *smhf_py_raise(const smhf_py_errors *errors, const smhf_error *err) {
    const char *message = err->message[0] != '\0' ? err->message : smhf_status_name(err->code);
    switch (err->code) {
    case SMHF_E_NOMEM:
        PyErr_SetString(PyExc_MemoryError, message);
        break;
    case SMHF_E_ARG:
        PyErr_SetString(PyExc_ValueError, message);
        break;
    case SMHF_E_PARSE:
        raise_with_attribute(errors->parse_error, message, "offset",
                             err->offset < 0 ? Py_NewRef(Py_None)
                                             : PyLong_FromLongLong(err->offset));
        break;
    case SMHF_E_IO:
        PyErr_SetString(PyExc_OSError, message);
        break;
    case SMHF_E_HTTP:
        raise_with_attribute(errors->http_error, message, "status",
                             PyLong_FromLong(err->http_status));
        break;
    case SMHF_E_TIMEOUT:
        PyErr_SetString(PyExc_TimeoutError, message);
        break;
    case SMHF_E_CANCELLED:
        PyErr_SetString(errors->cancelled, message);
        break;
    case SMHF_E_BUSY:
        PyErr_SetString(errors->busy_error, message);
        break;
    case SMHF_E_UNSUPPORTED:
    case SMHF_E_UNAVAILABLE:
    case SMHF_E_ABI:
    case SMHF_E_BACKEND:
        PyErr_SetString(errors->backend_error, message);
        break;
    case SMHF_OK:
        PyErr_SetString(PyExc_SystemError, "smhf_py_raise called without an error");
        break;
    }
    return NULL;
}

PyObject *smhf_py_path(PyObject *object) {
    PyObject *path = NULL;
    return PyUnicode_FSConverter(object, &path) ? path : NULL;
}
