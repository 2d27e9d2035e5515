/* invoker_glue.h: state and types of smhf_native.invoker._invoker. */
#ifndef SMHF_PYTHON_INVOKER_GLUE_H
#define SMHF_PYTHON_INVOKER_GLUE_H

#include "py_common.h"

typedef struct invoker_state {
    smhf_py_errors errors; /* first, as in every room */
    PyTypeObject *invoker_type;
} invoker_state;

extern struct PyModuleDef smhf_invoker_module;
extern PyType_Spec smhf_invoker_type_spec;

/* Pairs of (name, value) str as smhf_header; strings are borrowed from `pairs`, a tuple that the
 * caller keeps. NULL with an exception set; free with PyMem_Free. */
struct smhf_header *smhf_invoker_headers(PyObject *pairs, Py_ssize_t *count);

#endif
