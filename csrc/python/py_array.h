/* py_array.h: NumPy's one door: new arrays for results. Only py_array.c sees NumPy headers. */
#ifndef SMHF_PY_ARRAY_H
#define SMHF_PY_ARRAY_H

#include "py_common.h"

/* Loads NumPy's C API; -1 with an exception set. Call from Py_mod_exec, or before the first array.
 */
int smhf_py_array_init(void);

/* A new C-contiguous float32 array that owns its memory (not cleared), [shape[0]] or
 * [shape[0], shape[1]]; *data points at it while the array lives. NULL with an exception set. */
PyObject *smhf_py_array_f32(int ndim, const size_t shape[2], float **data);
/* The same, 1-D int64. */
PyObject *smhf_py_array_i64(size_t count, int64_t **data);
/* The same, int32 or int64 (`item_size` 4 or 8) with 1 to 3 dimensions. */
PyObject *smhf_py_array_int(int ndim, const size_t shape[3], size_t item_size, void **data);
/* The same over memory that `owner` keeps; the reference to the owner is taken over. The memory was
 * allocated, so its size fits. */
PyObject *smhf_py_array_int_over(int ndim, const size_t shape[3], size_t item_size, void *memory,
                                 PyObject *owner);

#endif
