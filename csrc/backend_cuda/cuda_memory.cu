/* cuda_memory.cu: device and page-locked memory, transfers, the scratch of ops, failures. */
#include "backend_cuda/cuda_common.cuh"
#include "backend_cuda/cuda_table.cuh"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* ---- failures ------------------------------------------------------------------------------- */

void cuda_fail(cuda_device *cuda, smhf_status code, const char *format, ...) {
    if (cuda->base.failure.code != SMHF_OK) {
        return;
    }
    va_list args;
    char text[SMHF_ERROR_MESSAGE_SIZE];
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    smhf_fail(&cuda->base.failure, code, "%s", text);
}

static smhf_status code_of(cudaError_t code) {
    return code == cudaErrorMemoryAllocation ? SMHF_E_NOMEM : SMHF_E_BACKEND;
}

int cuda_check(cuda_device *cuda, cudaError_t code, const char *what) {
    if (code == cudaSuccess) {
        return 1;
    }
    cuda_fail(cuda, code_of(code), "cuda:%d, %s: %s (%s)", cuda->ordinal, what,
              cudaGetErrorString(code), cudaGetErrorName(code));
    return 0;
}

smhf_status cuda_status(cudaError_t code, const char *what, smhf_error *err) {
    if (code == cudaSuccess) {
        return SMHF_OK;
    }
    cudaGetLastError(); /* said here: the next launch must not say it again */
    return smhf_fail(err, code_of(code), "%s: %s (%s)", what, cudaGetErrorString(code),
                     cudaGetErrorName(code));
}

static smhf_status forked(smhf_error *err) {
    return smhf_fail(err, SMHF_E_UNAVAILABLE,
                     "this process is a fork of the one that opened the CUDA device, and CUDA does "
                     "not live on in forks: open the device in the child, or start it with spawn");
}

cuda_device *cuda_begin(smhf_device *dev) {
    cuda_device *cuda = (cuda_device *)dev;
    if (dev->failure.code != SMHF_OK) {
        return NULL;
    }
    if (cuda->pid != getpid()) {
        (void)forked(&dev->failure);
        return NULL;
    }
    if (!cuda_check(cuda, cudaSetDevice(cuda->ordinal), "selecting the device")) {
        return NULL;
    }
    return cuda;
}

smhf_status cuda_enter(cuda_device *cuda, smhf_error *err) {
    if (cuda->pid != getpid()) {
        return forked(err);
    }
    return cuda_status(cudaSetDevice(cuda->ordinal), "selecting the device", err);
}

int cuda_all(cuda_device *cuda, const char *op, smhf_dtype dtype, const smhf_tensor *tensors,
             size_t count) {
    static const char *const names[] = {"fp32", "bf16", "int8", "int32"};
    if (dtype != SMHF_DTYPE_F32 && dtype != SMHF_DTYPE_BF16) {
        cuda_fail(cuda, SMHF_E_UNSUPPORTED, "%s on CUDA: expected fp32 or bf16, found %s", op,
                  (unsigned)dtype < 4 ? names[dtype] : "unknown");
        return 0;
    }
    for (size_t i = 0; i < count; i++) {
        if (tensors[i].data == NULL) {
            continue;
        }
        if (tensors[i].dtype != dtype || tensors[i].layout != SMHF_LAYOUT_ROWS) {
            cuda_fail(cuda, SMHF_E_UNSUPPORTED,
                      "%s on CUDA: argument %zu is %s, expected %s rows as the others", op, i + 1,
                      (unsigned)tensors[i].dtype < 4 ? names[tensors[i].dtype] : "unknown",
                      names[dtype]);
            return 0;
        }
    }
    return 1;
}

/* ---- memory ----------------------------------------------------------------------------------- */

smhf_status cuda_alloc(smhf_device *dev, void **out, size_t bytes, smhf_error *err) {
    cuda_device *cuda = (cuda_device *)dev;
    *out = NULL;
    SMHF_TRY(cuda_enter(cuda, err));
    const cudaError_t code = cudaMalloc(out, bytes > 0 ? bytes : 1);
    if (code == cudaErrorMemoryAllocation) {
        size_t available = 0, total = 0;
        cudaGetLastError();
        cudaMemGetInfo(&available, &total);
        *out = NULL;
        return smhf_fail(err, SMHF_E_NOMEM,
                         "cuda:%d is out of memory: %.1f MiB wanted, %.1f of %.1f MiB are free; a "
                         "smaller batch or precision=\"bf16\" needs less",
                         cuda->ordinal, (double)bytes / 1048576.0, (double)available / 1048576.0,
                         (double)total / 1048576.0);
    }
    return cuda_status(code, "device memory", err);
}

void cuda_free(smhf_device *dev, void *block) {
    cuda_device *cuda = (cuda_device *)dev;
    if (block != NULL && cuda_enter(cuda, NULL) == SMHF_OK) {
        cudaStreamSynchronize(cuda->stream);
        cudaFree(block);
        cudaGetLastError();
    }
}

static void transfer(smhf_device *dev, void *dst, const void *src, size_t bytes,
                     cudaMemcpyKind kind, const char *what) {
    cuda_device *cuda = cuda_begin(dev);
    if (cuda != NULL && bytes > 0) {
        cuda_check(cuda, cudaMemcpyAsync(dst, src, bytes, kind, cuda->stream), what);
    }
}

void cuda_upload(smhf_device *dev, void *dst, const void *host_src, size_t bytes) {
    transfer(dev, dst, host_src, bytes, cudaMemcpyHostToDevice, "upload");
}

void cuda_download(smhf_device *dev, void *host_dst, const void *src, size_t bytes) {
    transfer(dev, host_dst, src, bytes, cudaMemcpyDeviceToHost, "download");
}

void cuda_copy(smhf_device *dev, void *dst, const void *src, size_t bytes) {
    transfer(dev, dst, src, bytes, cudaMemcpyDeviceToDevice, "copy");
}

void cuda_fill(smhf_device *dev, void *dst, int byte, size_t bytes) {
    cuda_device *cuda = cuda_begin(dev);
    if (cuda != NULL && bytes > 0) {
        cuda_check(cuda, cudaMemsetAsync(dst, byte, bytes, cuda->stream), "fill");
    }
}

smhf_status cuda_pinned_alloc(smhf_device *dev, void **out, size_t bytes, smhf_error *err) {
    *out = NULL;
    SMHF_TRY(cuda_enter((cuda_device *)dev, err));
    return cuda_status(cudaMallocHost(out, bytes > 0 ? bytes : 1), "page-locked memory", err);
}

void cuda_pinned_free(smhf_device *dev, void *block) {
    if (block != NULL && cuda_enter((cuda_device *)dev, NULL) == SMHF_OK) {
        cudaStreamSynchronize(((cuda_device *)dev)->stream);
        cudaFreeHost(block);
        cudaGetLastError();
    }
}

/* ---- scratch ---------------------------------------------------------------------------------- */

void cuda_retire(cuda_device *cuda, void *block) {
    if (block == NULL) {
        return;
    }
    if (cuda->graphs == 0) {
        cudaStreamSynchronize(cuda->stream);
        cudaFree(block);
        return;
    }
    cuda_retired *entry = (cuda_retired *)smhf_malloc(sizeof *entry);
    if (entry != NULL) { /* else: lost until the process ends, which beats a graph's dangling end */
        entry->block = block;
        entry->next = cuda->retired;
        cuda->retired = entry;
    }
}

smhf_status cuda_scratch_reserve(cuda_device *cuda, size_t bytes, smhf_error *err) {
    void *block = NULL;
    if (bytes <= cuda->scratch_bytes) {
        return SMHF_OK;
    }
    if (cuda->capturing) {
        return smhf_fail(err, SMHF_E_ARG,
                         "cuda:%d: a graph is being captured and an op needs %zu bytes of scratch "
                         "where %zu are reserved: call reserve with the limits of the batch first",
                         cuda->ordinal, bytes, cuda->scratch_bytes);
    }
    SMHF_TRY(cuda_alloc(&cuda->base, &block, bytes, err));
    cuda_retire(cuda, cuda->scratch);
    cuda->scratch = block;
    cuda->scratch_bytes = bytes;
    return SMHF_OK;
}

void *cuda_scratch(cuda_device *cuda, size_t bytes) {
    if (bytes > cuda->scratch_bytes) {
        smhf_error err = SMHF_ERROR_INIT;
        if (cuda_scratch_reserve(cuda, bytes, &err) != SMHF_OK) {
            cuda_fail(cuda, err.code, "%s", err.message);
            return NULL;
        }
    }
    return cuda->scratch;
}
