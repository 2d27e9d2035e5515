/* library.h: the only door to dlopen.
 *
 * Optional parts (the BLAS provider, the CUDA plugin, NVML) are opened when first asked for and
 * never closed: live threads may be inside. Threads: no shared state.
 */
#ifndef SMHF_COMMON_LIBRARY_H
#define SMHF_COMMON_LIBRARY_H

#include "common/status.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct smhf_library smhf_library; /* an open shared object; never freed */

/* RTLD_NOW | RTLD_LOCAL. SMHF_E_UNAVAILABLE with the loader's own sentence. */
smhf_status smhf_library_open(const char *path, smhf_library **out, smhf_error *err) SMHF_MUST_USE;
/* SMHF_E_ABI naming the symbol when it is missing. Functions: copy the pointer with memcpy. */
smhf_status smhf_library_symbol(smhf_library *library, const char *name, void **out,
                                smhf_error *err) SMHF_MUST_USE;
/* Folder of the shared object (or program) that holds this code, without the final slash, into
 * `out`; SMHF_LIBRARY_PATH overrides it. SMHF_E_UNAVAILABLE when it cannot be told. */
smhf_status smhf_library_folder(char *out, size_t size, smhf_error *err) SMHF_MUST_USE;

#ifdef __cplusplus
}
#endif
#endif
