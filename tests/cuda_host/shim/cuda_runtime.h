/* cuda_runtime.h: the part of CUDA's runtime that backend_cuda uses, on the host, for tests.
 *
 * Kernels run one block at a time; the threads of a block are fibers that change places at barriers
 * and warp exchanges. Work on a stream is queued and runs as late as CUDA allows: when somebody
 * synchronises. "Device" memory is poisoned under AddressSanitizer whenever no kernel is running,
 * and fresh memory, shared memory included, is all NaN. */
#ifndef SMHF_CUDA_HOST_RUNTIME_H
#define SMHF_CUDA_HOST_RUNTIME_H

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <math.h>

#define SMHF_CUDA_HOST 1

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static

/* ---- types ---------------------------------------------------------------------------------- */

struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {
    }
};

typedef enum cudaError {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorIllegalAddress = 700,
    cudaErrorNotSupported = 801,
    cudaErrorStreamCaptureUnsupported = 900,
} cudaError_t;

typedef struct cuda_host_stream *cudaStream_t;
typedef struct cuda_host_event *cudaEvent_t;
typedef struct cuda_host_graph *cudaGraph_t;
typedef struct cuda_host_graph *cudaGraphExec_t;

enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal };
enum { cudaStreamNonBlocking = 1, cudaEventDefault = 0, cudaEventDisableTiming = 2 };
enum cudaMemcpyKind {
    cudaMemcpyHostToDevice = 1,
    cudaMemcpyDeviceToHost = 2,
    cudaMemcpyDeviceToDevice = 3
};
enum cudaDeviceAttr {
    cudaDevAttrMultiProcessorCount = 16,
    cudaDevAttrComputeCapabilityMajor = 75,
    cudaDevAttrComputeCapabilityMinor = 76
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };

struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem;
    int major, minor, multiProcessorCount;
};

/* ---- runtime -------------------------------------------------------------------------------- */

cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *prop, int device);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total);
cudaError_t cudaGetLastError(void);
cudaError_t cudaPeekAtLastError(void);
const char *cudaGetErrorString(cudaError_t error);
const char *cudaGetErrorName(cudaError_t error);
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaRuntimeGetVersion(int *version);

cudaError_t cuda_host_malloc(void **out, size_t bytes);
template <typename T> static inline cudaError_t cudaMalloc(T **out, size_t bytes) {
    return cuda_host_malloc((void **)out, bytes);
}
cudaError_t cudaFree(void *block);
cudaError_t cudaMallocHost(void **out, size_t bytes);
cudaError_t cudaFreeHost(void *block);
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemsetAsync(void *dst, int byte, size_t bytes, cudaStream_t stream);

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags = 0);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph,
                                 unsigned long long flags = 0);
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph);

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to);

template <typename F>
static inline cudaError_t cudaFuncSetAttribute(F *function, cudaFuncAttribute attribute, int value) {
    (void)function;
    (void)attribute;
    return value <= 227 * 1024 ? cudaSuccess : cudaErrorInvalidValue;
}

/* ---- what a kernel sees ----------------------------------------------------------------------- */

struct cuda_host_where {
    uint3 thread, block;
    dim3 block_size, grid_size;
    unsigned char *shared; /* dynamic */
};

extern cuda_host_where *cuda_host_now; /* of the running fiber */
#define threadIdx (cuda_host_now->thread)
#define blockIdx (cuda_host_now->block)
#define blockDim (cuda_host_now->block_size)
#define gridDim (cuda_host_now->grid_size)

/* `extern __shared__` has no host form: kernels take the pointer from CUDA_SHARED(). */
#define CUDA_SHARED_HOST (cuda_host_now->shared)

void cuda_host_barrier(void);
void cuda_host_warp_barrier(unsigned mask);
/* Every lane of `mask` gives 16 bytes; returns where lane l's are, until the next exchange but one. */
const unsigned char *cuda_host_exchange(unsigned mask, const void *mine, size_t bytes);
#define CUDA_HOST_SLOT 64

/* Copies into shared memory that arrive as late as they may: when the thread waits for them.
 * `bytes` of 16 are copied, the others become 0. wait: until at most `open` groups are under way. */
void cuda_host_copy_async(void *dst, const void *src, int bytes);
void cuda_host_copy_commit(void);
void cuda_host_copy_wait(int open);

/* What a copy engine does by itself, one piece whenever a thread has to wait; products of four warps,
 * when they are waited for; barriers in shared memory with arrivals and bytes (see cuda_wgmma.cuh). */
void cuda_host_later(std::function<void()> work);
void cuda_host_yield(void);
void cuda_host_product(std::function<void()> work);
void cuda_host_product_commit(void);
void cuda_host_product_wait(int open);
void cuda_host_barrier_init(uint64_t *barrier, int count);
void cuda_host_barrier_arrive(uint64_t *barrier);
void cuda_host_barrier_bytes(uint64_t *barrier, int bytes); /* expected; negative: have come */
bool cuda_host_barrier_test(const uint64_t *barrier, uint32_t parity);

static inline void __syncthreads(void) {
    cuda_host_barrier();
}

static inline void __syncwarp(unsigned mask = 0xFFFFFFFFu) {
    cuda_host_warp_barrier(mask);
}

template <typename T> static inline T __shfl_sync(unsigned mask, T value, int from) {
    const unsigned char *slots = cuda_host_exchange(mask, &value, sizeof value);
    T out;
    memcpy(&out, slots + (size_t)(from % 32) * CUDA_HOST_SLOT, sizeof out);
    return out;
}

template <typename T> static inline T __shfl_xor_sync(unsigned mask, T value, int lanes) {
    return __shfl_sync(mask, value, (int)((threadIdx.x % 32) ^ (unsigned)lanes));
}

template <typename T> static inline T __shfl_down_sync(unsigned mask, T value, int by) {
    const int lane = (int)(threadIdx.x % 32);
    return __shfl_sync(mask, value, lane + by < 32 ? lane + by : lane);
}

#define __expf expf /* glibc has the name for itself */
#define __logf logf

static inline float __frcp_rn(float x) {
    return 1.0f / x;
}

static inline float rsqrtf(float x) {
    return 1.0f / sqrtf(x);
}

static inline int min(int a, int b) {
    return a < b ? a : b;
}

static inline int max(int a, int b) {
    return a > b ? a : b;
}

/* ---- launching -------------------------------------------------------------------------------- */

void cuda_host_queue(cudaStream_t stream, std::function<void()> work);
void cuda_host_run(const std::function<void()> &thread, dim3 grid, dim3 block, size_t shared);
int cuda_host_config(dim3 grid, dim3 block, size_t shared); /* 0 and the error when it cannot be */

/* Arguments are copied now, as CUDA does; the kernel runs when the stream is drained. */
template <typename... P, typename... A>
static inline void cuda_host_launch(cudaStream_t stream, void (*kernel)(P...), dim3 grid, dim3 block,
                                    size_t shared, A... arguments) {
    if (!cuda_host_config(grid, block, shared)) {
        return;
    }
    std::function<void()> thread = [=]() { kernel(static_cast<P>(arguments)...); };
    cuda_host_queue(stream, [=]() { cuda_host_run(thread, grid, block, shared); });
}

#endif
