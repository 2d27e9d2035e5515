/* cuda_host.cpp: CUDA's runtime on the host: memory, streams, events, graphs; see shim/cuda_runtime.h.
 *
 * One lock, one order: work of all streams is queued in the order of submission and runs under the
 * lock. SMHF_CUDA_HOST_MEMORY sets the size of the device in bytes (tests of running out);
 * SMHF_CUDA_HOST_FAULT=n: when it is waited for the n-th time, the device has met an illegal address,
 * and answers every later call with that error, as a real one does. */
#include "cuda_runtime.h"

#include "cuda_fibers.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

extern "C" unsigned long cuda_host_graph_launches;
extern "C" float (*cuda_host_elapsed)(void);

/* Behind each block of device memory, where AddressSanitizer does not watch: bytes that must stay. */
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define GUARD ((size_t)0)
#else
#define GUARD ((size_t)512)
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

typedef std::function<void()> work_item;

struct cuda_host_graph {
    std::vector<work_item> nodes;
};

struct cuda_host_stream {
    std::unique_ptr<cuda_host_graph> capture;
};

struct cuda_host_event {
    int recorded;
};

namespace {

std::recursive_mutex lock;
std::deque<work_item> queue;
std::map<void *, size_t> blocks; /* device memory */
size_t in_use;
cudaError_t last_error;

typedef std::lock_guard<std::recursive_mutex> guard;

size_t device_size() {
    const char *text = getenv("SMHF_CUDA_HOST_MEMORY");
    return text != NULL ? (size_t)strtoull(text, NULL, 10) : (size_t)2 << 30;
}

cudaError_t fail(cudaError_t error) {
    last_error = error;
    return error;
}

bool broken;

/* Counts one wait; true when the device is broken, and what was queued is lost. */
bool meets_fault(bool waiting) {
    static const char *const text = getenv("SMHF_CUDA_HOST_FAULT");
    static long waits_left = text != NULL ? atol(text) : -1;
    if (waiting && waits_left > 0 && --waits_left == 0) {
        broken = true;
    }
    if (broken) {
        queue.clear();
    }
    return broken;
}

void poison() {
    for (const auto &b : blocks) {
        ASAN_POISON_MEMORY_REGION(b.first, b.second);
    }
}

void unpoison() {
    for (const auto &b : blocks) {
        ASAN_UNPOISON_MEMORY_REGION(b.first, b.second);
    }
}

void check_guard(void *block, size_t bytes) {
    const size_t guard_bytes = GUARD;
    for (size_t i = 0; i != guard_bytes; i++) {
        if (((unsigned char *)block)[bytes + i] != 0xA5) {
            fprintf(stderr, "cuda_host: a kernel wrote %zu bytes behind a block of %zu\n", i, bytes);
            abort();
        }
    }
}

/* Runs everything that is queued. */
void drain() {
    if (queue.empty()) {
        return;
    }
    unpoison();
    while (!queue.empty()) {
        work_item item = std::move(queue.front());
        queue.pop_front();
        item();
    }
    for (const auto &b : blocks) {
        check_guard(b.first, b.second);
    }
    poison();
}

} // namespace

void cuda_host_queue(cudaStream_t stream, work_item work) {
    guard hold(lock);
    if (stream->capture) {
        stream->capture->nodes.push_back(std::move(work));
    } else {
        queue.push_back(std::move(work));
    }
}

int cuda_host_config(dim3 grid, dim3 block, size_t shared) {
    const size_t threads = (size_t)block.x * block.y * block.z;
    const int fine = threads > 0 && threads <= 1024 && grid.x > 0 && grid.x <= 2147483647u &&
                     grid.y > 0 && grid.y <= 65535 && grid.z > 0 && grid.z <= 65535 &&
                     shared <= 227 * 1024;
    if (!fine) {
        guard hold(lock);
        fail(cudaErrorInvalidConfiguration);
    }
    return fine;
}

/* ---- devices and errors ------------------------------------------------------------------------ */

cudaError_t cudaGetDeviceCount(int *count) {
    *count = 1;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
    guard hold(lock);
    if (meets_fault(false)) {
        return fail(cudaErrorIllegalAddress);
    }
    return device == 0 ? cudaSuccess : fail(cudaErrorInvalidDevice);
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *prop, int device) {
    if (device != 0) {
        return fail(cudaErrorInvalidDevice);
    }
    memset(prop, 0, sizeof *prop);
    snprintf(prop->name, sizeof prop->name, "host fibers");
    prop->totalGlobalMem = device_size();
    prop->major = 9;
    prop->minor = 0;
    prop->multiProcessorCount = 4;
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total) {
    guard hold(lock);
    *total = device_size();
    *free_bytes = *total > in_use ? *total - in_use : 0;
    return cudaSuccess;
}

cudaError_t cudaGetLastError(void) {
    guard hold(lock);
    const cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

cudaError_t cudaPeekAtLastError(void) {
    guard hold(lock);
    return last_error;
}

const char *cudaGetErrorName(cudaError_t error) {
    return error == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : "cudaError";
}

const char *cudaGetErrorString(cudaError_t error) {
    switch (error) {
    case cudaSuccess:
        return "no error";
    case cudaErrorMemoryAllocation:
        return "out of memory";
    case cudaErrorInvalidConfiguration:
        return "invalid configuration argument";
    case cudaErrorInvalidDevice:
        return "invalid device ordinal";
    case cudaErrorIllegalAddress:
        return "an illegal memory access was encountered";
    case cudaErrorStreamCaptureUnsupported:
        return "operation not permitted when stream is capturing";
    default:
        return "unknown error";
    }
}

cudaError_t cudaDriverGetVersion(int *version) {
    *version = 13000;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = 13000;
    return cudaSuccess;
}

/* ---- memory ------------------------------------------------------------------------------------ */

cudaError_t cuda_host_malloc(void **out, size_t bytes) {
    guard hold(lock);
    *out = NULL;
    if (in_use + bytes > device_size()) {
        return fail(cudaErrorMemoryAllocation);
    }
    void *block = NULL;
    if (posix_memalign(&block, 256, bytes + GUARD > 0 ? bytes + GUARD : 1) != 0) {
        return fail(cudaErrorMemoryAllocation);
    }
    memset(block, 0xFF, bytes);
    std::fill_n((unsigned char *)block + bytes, GUARD, (unsigned char)0xA5);
    blocks[block] = bytes;
    in_use += bytes;
    ASAN_POISON_MEMORY_REGION(block, bytes);
    *out = block;
    return cudaSuccess;
}

cudaError_t cudaFree(void *block) {
    guard hold(lock);
    if (block == NULL) {
        return cudaSuccess;
    }
    drain();
    const auto found = blocks.find(block);
    if (found == blocks.end()) {
        return fail(cudaErrorInvalidValue);
    }
    ASAN_UNPOISON_MEMORY_REGION(block, found->second);
    in_use -= found->second;
    blocks.erase(found);
    free(block);
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **out, size_t bytes) {
    return posix_memalign(out, 256, bytes > 0 ? bytes : 1) == 0 ? cudaSuccess
                                                                : fail(cudaErrorMemoryAllocation);
}

cudaError_t cudaFreeHost(void *block) {
    guard hold(lock);
    drain();
    free(block);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
    (void)kind;
    cuda_host_queue(stream, [=]() { memcpy(dst, src, bytes); });
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *dst, int byte, size_t bytes, cudaStream_t stream) {
    cuda_host_queue(stream, [=]() { memset(dst, byte, bytes); });
    return cudaSuccess;
}

/* ---- streams, graphs, events ------------------------------------------------------------------- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags) {
    (void)flags;
    *out = new cuda_host_stream();
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    guard hold(lock);
    drain();
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    guard hold(lock);
    if (stream->capture) {
        return fail(cudaErrorStreamCaptureUnsupported);
    }
    if (meets_fault(true)) {
        return fail(cudaErrorIllegalAddress);
    }
    drain();
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
    (void)stream;
    (void)flags;
    return event->recorded ? cudaSuccess : fail(cudaErrorInvalidValue);
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
    guard hold(lock);
    (void)mode;
    if (stream->capture) {
        return fail(cudaErrorStreamCaptureUnsupported);
    }
    stream->capture.reset(new cuda_host_graph());
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out) {
    guard hold(lock);
    *out = stream->capture.release();
    return *out != NULL ? cudaSuccess : fail(cudaErrorInvalidValue);
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long flags) {
    (void)flags;
    *out = new cuda_host_graph(*graph);
    return cudaSuccess;
}

unsigned long cuda_host_graph_launches; /* for tests that ask whether graphs are used */

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
    cuda_host_graph_launches++;
    for (const work_item &node : graph->nodes) {
        cuda_host_queue(stream, node);
    }
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags) {
    (void)flags;
    *out = new cuda_host_event();
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    (void)stream;
    event->recorded = 1;
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    guard hold(lock);
    (void)event;
    drain();
    return cudaSuccess;
}

float (*cuda_host_elapsed)(void); /* for tests of choices by time */

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to) {
    *ms = cuda_host_elapsed != NULL ? cuda_host_elapsed() : 1e-3f;
    return from->recorded && to->recorded ? cudaSuccess : fail(cudaErrorInvalidValue);
}
