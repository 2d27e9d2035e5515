/* trace_module.c: smhf_native.trace._trace: module state, types, functions. */
#include "py_common.h"

#include "py_trace.h"

trace_state *trace_state_of(PyObject *self) {
    PyObject *module = PyType_GetModuleByDef(Py_TYPE(self), &trace_module);
    return (module != NULL) ? PyModule_GetState(module) : NULL;
}

static int add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **slot) {
    *slot = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    return (*slot == NULL) ? -1 : PyModule_AddType(module, *slot);
}

static int trace_exec(PyObject *module) {
    trace_state *state = PyModule_GetState(module);
    if (smhf_py_errors_init(&state->errors) < 0 ||
        add_type(module, &trace_column_spec, &state->column_type) < 0 ||
        add_type(module, &trace_type_spec, &state->trace_type) < 0 ||
        add_type(module, &sampler_type_spec, &state->sampler_type) < 0 ||
        add_type(module, &event_writer_type_spec, &state->event_writer_type) < 0) {
        return -1;
    }
    static const struct {
        const char *name;
        long value;
    } constants[] = {
        {"HAS_TS", SMHF_TRACE_HAS_TS},
        {"HAS_DUR", SMHF_TRACE_HAS_DUR},
        {"HAS_PID", SMHF_TRACE_HAS_PID},
        {"HAS_TID", SMHF_TRACE_HAS_TID},
        {"HAS_ID", SMHF_TRACE_HAS_ID},
        {"HAS_NAME", SMHF_TRACE_HAS_NAME},
        {"HAS_ARGS", SMHF_TRACE_HAS_ARGS},
        {"PID_CODE", SMHF_TRACE_PID_CODE},
        {"TID_CODE", SMHF_TRACE_TID_CODE},
        {"ID_CODE", SMHF_TRACE_ID_CODE},
        {"PID_TEXT", SMHF_TRACE_PID_TEXT},
        {"TID_TEXT", SMHF_TRACE_TID_TEXT},
        {"BIND_ENCLOSING", SMHF_TRACE_BIND_ENCLOSING},
        {"OUT_OF_RANGE", SMHF_TRACE_OUT_OF_RANGE},
        {"SYSTEM", SMHF_TRACE_SYSTEM},
        {"FRAMEWORK", SMHF_TRACE_FRAMEWORK},
    };
    for (size_t i = 0; i < sizeof constants / sizeof constants[0]; i++) {
        if (PyModule_AddIntConstant(module, constants[i].name, constants[i].value) < 0) {
            return -1;
        }
    }
    return 0;
}

static int trace_traverse(PyObject *module, visitproc visit, void *arg) {
    trace_state *state = PyModule_GetState(module);
    Py_VISIT(state->column_type);
    Py_VISIT(state->trace_type);
    Py_VISIT(state->sampler_type);
    Py_VISIT(state->event_writer_type);
    return smhf_py_errors_traverse(&state->errors, visit, arg);
}

static int trace_clear(PyObject *module) {
    trace_state *state = PyModule_GetState(module);
    Py_CLEAR(state->column_type);
    Py_CLEAR(state->trace_type);
    Py_CLEAR(state->sampler_type);
    Py_CLEAR(state->event_writer_type);
    smhf_py_errors_clear(&state->errors);
    return 0;
}

static void trace_free(void *module) {
    trace_clear(module);
}

static PyMethodDef functions[] = {
    {"decimate", trace_decimate, METH_VARARGS,
     "decimate($module, ts, value, buckets, /)\n--\n\nLeast and greatest value of each bucket."},
    {"percentiles", trace_percentiles, METH_VARARGS,
     "percentiles($module, value, q, /)\n--\n\nPercentiles, linear between neighbours."},
    {"parse_time", trace_parse_time, METH_VARARGS,
     "parse_time($module, text, digits, /)\n--\n\nDecimal text to an exact integer."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)trace_exec},
    SMHF_PY_OWN_GIL SMHF_PY_MOD_GIL_NOT_USED{0, NULL},
};

struct PyModuleDef trace_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "smhf_native.trace._trace",
    .m_doc = "Trace files to columns, and machine samples to trace files.",
    .m_size = sizeof(trace_state),
    .m_methods = functions,
    .m_slots = slots,
    .m_traverse = trace_traverse,
    .m_clear = trace_clear,
    .m_free = trace_free,
};

PyMODINIT_FUNC PyInit__trace(void);

PyMODINIT_FUNC PyInit__trace(void) {
    return PyModuleDef_Init(&trace_module);
}
