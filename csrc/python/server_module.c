/* server_module.c: the module smhf_native.server._server. */
#include "py_common.h"

#include "server_glue.h"

static int module_exec(PyObject *module) {
    server_state *state = PyModule_GetState(module);
    if (smhf_py_errors_init(&state->errors) < 0) {
        return -1;
    }
    state->server_type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &smhf_server_type_spec, NULL);
    if (state->server_type == NULL || PyModule_AddType(module, state->server_type) < 0) {
        return -1;
    }
    return PyModule_AddIntConstant(module, "MAX_MESSAGE", SMHF_SERVER_MAX_MESSAGE);
}

static int module_traverse(PyObject *module, visitproc visit, void *arg) {
    server_state *state = PyModule_GetState(module);
    Py_VISIT(state->server_type);
    return smhf_py_errors_traverse(&state->errors, visit, arg);
}

static int module_clear(PyObject *module) {
    server_state *state = PyModule_GetState(module);
    Py_CLEAR(state->server_type);
    smhf_py_errors_clear(&state->errors);
    return 0;
}

static void module_free(void *module) {
    module_clear(module);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    SMHF_PY_SHARED_GIL SMHF_PY_MOD_GIL_NOT_USED{0, NULL},
};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_server",
    .m_doc = "Local inference endpoint: HTTP in, dynamic batches out to C or Python.",
    .m_size = sizeof(server_state),
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__server(void); /* -Wmissing-prototypes wants it */

PyMODINIT_FUNC PyInit__server(void) {
    return PyModuleDef_Init(&module_definition);
}
