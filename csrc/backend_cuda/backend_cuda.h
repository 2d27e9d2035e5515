/* backend_cuda.h: the contract of backend.h on NVIDIA devices.
 *
 * A plugin, smhf_native/_lib/libsmhf_cuda.so, opened when a device is asked for and never closed:
 *
 *     smhf_backend_register_plugin("cuda", "libsmhf_cuda.so", "libcuda.so.1", priority, &err);
 *     smhf_device_open("cuda", &dev, &err);             // or "cuda:1", or "auto"
 *     dev->backend->describe(dev, &info);               // name, multiprocessors, memory
 *     dev->backend->linear_fwd(dev, y, x, w, b, pack, SMHF_AXIS_TOKENS);
 *     SMHF_TRY(dev->backend->sync(dev, &err));          // here device errors surface
 *     smhf_device_close(dev);
 *
 * Each device is a stream of its own. Kernels read the counts of a pack in device memory, so a
 * captured graph serves every batch of its bucket. Products go through cuBLASLt, which is opened
 * with the first device; without it, or with SMHF_CUDA_GEMM=plain, through cuda_gemm_plain.cu.
 * The same sources compile for the host in tests/cuda_host, and run there.
 * Threads: a device is used by one thread at a time; several devices in several threads are fine.
 * Ownership: as in backend.h. After fork() every call answers SMHF_E_UNAVAILABLE. */
#ifndef SMHF_BACKEND_CUDA_BACKEND_CUDA_H
#define SMHF_BACKEND_CUDA_BACKEND_CUDA_H

#include "backend/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The table; valid for ever. */
__attribute__((visibility("default"))) const smhf_backend *smhf_backend_entry(void);

#ifdef __cplusplus
}
#endif
#endif
