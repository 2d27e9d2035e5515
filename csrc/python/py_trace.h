/* py_trace.h: module state and the pieces that the glue files of the trace room share. */
#ifndef SMHF_PY_TRACE_H
#define SMHF_PY_TRACE_H

#include "py_common.h"

#include "trace/trace.h"

typedef struct trace_state {
    smhf_py_errors errors;
    PyTypeObject *column_type;
    PyTypeObject *trace_type;
    PyTypeObject *sampler_type;
    PyTypeObject *event_writer_type;
} trace_state;

extern struct PyModuleDef trace_module;

trace_state *trace_state_of(PyObject *self);

/* A column over `data`, which `owner` keeps alive (NULL: the column frees it with smhf_free). */
PyObject *trace_column_new(trace_state *state, PyObject *owner, void *data, size_t count,
                           char format, size_t size);

extern PyType_Spec trace_column_spec;
extern PyType_Spec trace_type_spec;
extern PyType_Spec sampler_type_spec;
extern PyType_Spec event_writer_type_spec;

PyObject *trace_decimate(PyObject *module, PyObject *args);
PyObject *trace_percentiles(PyObject *module, PyObject *args);
PyObject *trace_parse_time(PyObject *module, PyObject *args);

#endif
