/* invoker_module.c: the module smhf_native.invoker._invoker, and its bare signer. */
#include "py_common.h"

#include "invoker_glue.h"

#include "invoker/invoker.h"

#include <string.h>

struct smhf_header *smhf_invoker_headers(PyObject *pairs, Py_ssize_t *count) {
    *count = PyTuple_GET_SIZE(pairs);
    smhf_header *headers = PyMem_Calloc((size_t)*count + 1, sizeof *headers);
    if (headers == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    for (Py_ssize_t i = 0; i < *count; i++) {
        PyObject *pair = PyTuple_GET_ITEM(pairs, i);
        if (!PyTuple_Check(pair) ||
            !PyArg_ParseTuple(pair, "ss;a header is a pair (name, value) of str", &headers[i].name,
                              &headers[i].value)) {
            if (!PyErr_Occurred()) {
                PyErr_SetString(PyExc_TypeError, "a header is a pair (name, value) of str");
            }
            PyMem_Free(headers);
            return NULL;
        }
    }
    return headers;
}

static PyObject *text_of(const char *text) {
    return PyUnicode_DecodeUTF8(text, (Py_ssize_t)strlen(text), "replace");
}

static PyObject *wrap_signature(const smhf_invoker_signature *signature) {
    return Py_BuildValue("{s:N,s:N,s:N,s:N,s:N,s:N,s:N}", "amz_date", text_of(signature->amz_date),
                         "signature", text_of(signature->signature), "body_hash",
                         text_of(signature->body_hash), "canonical", text_of(signature->canonical),
                         "string_to_sign", text_of(signature->string_to_sign), "authorization",
                         text_of(signature->authorization), "query", text_of(signature->query));
}

static PyObject *sign_request(PyObject *module, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"method",    "path",       "query",      "headers",
                            "body",      "access_key", "secret_key", "token",
                            "region",    "service",    "epoch",      "normalize_path",
                            "sign_body", "omit_token", "expires",    NULL};
    invoker_state *state = PyModule_GetState(module);
    smhf_invoker_sign_options options = {.normalize_path = 1};
    smhf_credentials credentials = {NULL, NULL, NULL};
    smhf_invoker_signature signature = {0};
    smhf_error err = SMHF_ERROR_INIT;
    PyObject *pairs, *result = NULL;
    Py_buffer body;
    Py_ssize_t path_size, query_size;
    const char *path, *query;
    long long epoch;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs,
                                     "ss#s#O!y*ss"
                                     "zss"
                                     "L|$pppi:sign_request",
                                     names, &options.method, &path, &path_size, &query, &query_size,
                                     &PyTuple_Type, &pairs, &body, &credentials.access_key,
                                     &credentials.secret_key, &credentials.token, &options.region,
                                     &options.service, &epoch, &options.normalize_path,
                                     &options.sign_body, &options.omit_token, &options.expires)) {
        return NULL;
    }
    Py_ssize_t count = 0;
    smhf_header *headers = smhf_invoker_headers(pairs, &count);
    if (headers == NULL) {
        goto done;
    }
    options.path = (smhf_bytes_view){(const uint8_t *)path, (size_t)path_size};
    options.query = (smhf_bytes_view){(const uint8_t *)query, (size_t)query_size};
    options.headers = headers;
    options.header_count = (size_t)count;
    options.body = (smhf_bytes_view){body.buf, (size_t)body.len};
    options.epoch_seconds = epoch;
    smhf_status status;

    Py_BEGIN_ALLOW_THREADS status = smhf_invoker_sign(&options, &credentials, &signature, &err);
    Py_END_ALLOW_THREADS

        result =
            (status == SMHF_OK) ? wrap_signature(&signature) : smhf_py_raise(&state->errors, &err);

done:
    smhf_invoker_signature_deinit(&signature);
    PyMem_Free(headers);
    PyBuffer_Release(&body);
    return result;
}

static int module_exec(PyObject *module) {
    invoker_state *state = PyModule_GetState(module);
    if (smhf_py_errors_init(&state->errors) < 0) {
        return -1;
    }
    state->invoker_type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &smhf_invoker_type_spec, NULL);
    if (state->invoker_type == NULL || PyModule_AddType(module, state->invoker_type) < 0) {
        return -1;
    }
    PyObject *names = PyTuple_New(SMHF_ROW_ERROR_COUNT);
    for (int i = 0; names != NULL && i < SMHF_ROW_ERROR_COUNT; i++) {
        PyObject *name = PyUnicode_FromString(smhf_row_error_name((smhf_row_error)i));
        if (name == NULL) {
            Py_CLEAR(names);
        } else {
            PyTuple_SET_ITEM(names, i, name);
        }
    }
    int status = (names == NULL) ? -1 : PyModule_AddObjectRef(module, "ROW_ERRORS", names);
    Py_XDECREF(names);
    return status;
}

static int module_traverse(PyObject *module, visitproc visit, void *arg) {
    invoker_state *state = PyModule_GetState(module);
    Py_VISIT(state->invoker_type);
    return smhf_py_errors_traverse(&state->errors, visit, arg);
}

static int module_clear(PyObject *module) {
    invoker_state *state = PyModule_GetState(module);
    Py_CLEAR(state->invoker_type);
    smhf_py_errors_clear(&state->errors);
    return 0;
}

static void module_free(void *module) {
    module_clear(module);
}

static PyMethodDef functions[] = {
    {"sign_request", (PyCFunction)(void (*)(void))sign_request, METH_VARARGS | METH_KEYWORDS,
     "sign_request($module, method, path, query, headers, body, access_key, secret_key, token, "
     "region, service, epoch, *, normalize_path=True, sign_body=False, omit_token=False, "
     "expires=0)\n--\n\n"
     "AWS Signature Version 4 of one request, with every intermediate text.\n\n"
     "headers is a tuple of (name, value); x-amz-date and the token are added. expires > 0 signs\n"
     "the query instead. Returns amz_date, signature, body_hash, canonical, string_to_sign,\n"
     "authorization (header form) and query (query form)."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)module_exec},
    SMHF_PY_SHARED_GIL SMHF_PY_MOD_GIL_NOT_USED{0, NULL},
};

struct PyModuleDef smhf_invoker_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "smhf_native.invoker._invoker",
    .m_doc = "Batched endpoint client: rows out, columns back.",
    .m_size = sizeof(invoker_state),
    .m_methods = functions,
    .m_slots = slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__invoker(void); /* -Wmissing-prototypes wants it */

PyMODINIT_FUNC PyInit__invoker(void) {
    return PyModuleDef_Init(&smhf_invoker_module);
}
