/* py_model.h: what the glue files of _model share. */
#ifndef SMHF_PY_MODEL_H
#define SMHF_PY_MODEL_H

#include "py_common.h"

#include "model/model.h"
#include "model/trainer.h"

typedef struct smhf_py_model_state {
    smhf_py_errors errors;
    PyTypeObject *model_type;
    PyTypeObject *trainer_type;
} smhf_py_model_state;

extern PyType_Spec smhf_py_model_spec;
extern PyType_Spec smhf_py_trainer_spec;

/* One model handle. Holds no Python objects. */
typedef struct smhf_py_model {
    PyObject_HEAD smhf_model *model; /* owned; never NULL once the object is visible */
} smhf_py_model;

/* The module state behind an instance of one of its (final) types. */
static inline smhf_py_model_state *smhf_py_model_state_of(PyObject *self) {
    return PyType_GetModuleState(Py_TYPE(self));
}

/* A batch argument: padded arrays, or packed ones when cu_seqlens is given. Holds buffers until
 * release; a zeroed one may be released. */
typedef struct smhf_py_batch {
    smhf_py_view ids, mask, type_ids, cu_seqlens;
    int is_packed;
    smhf_batch packed;
    smhf_padded padded;
    size_t rows;
} smhf_py_batch;

/* None counts as absent. -1 with an exception set; release in both cases. */
int smhf_py_batch_acquire(smhf_py_batch *batch, PyObject *ids, PyObject *mask, PyObject *type_ids,
                          PyObject *cu_seqlens);
void smhf_py_batch_release(smhf_py_batch *batch);

/* A view as the core reads integers. */
smhf_int_view smhf_py_int_view(const smhf_py_view *view);

#endif
