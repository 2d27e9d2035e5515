/* cuda_product.cu: which way a product with bias and activation goes.
 *
 * Ways: cuBLASLt's product, whose epilogue knows a bias but not our GELU, with a pass over it where
 * one is needed; or a product of ours with everything inside. Which is faster depends on device and
 * shape, so the first time a shape is met both run on its own operands and the answer is kept. Ours
 * must also agree with cuBLASLt there: a kernel that this device computes wrongly is never used.
 * The choice belongs to the process: bits may differ between two processes on one machine unless
 * SMHF_CUDA_GEMM says the way (lt, own, plain: neither, the slow product). */
#include "backend_cuda/cuda_product.cuh"
#include "backend_cuda/cuda_gelu.cuh"
#include "backend_cuda/cuda_gemm_mma.cuh"
#include "backend_cuda/cuda_kernels.cuh"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define SHAPES 128
#define BUCKET 128
#define TRIES 5
#define SAMPLES 256 /* rows that are compared */

typedef enum product_way {
    WAY_UNKNOWN,
    WAY_LT,  /* cuda_gemm_run, and passes */
    WAY_MMA, /* cuda_gemm_mma */
    WAY_SM90A,
    WAYS,
} product_way;

typedef struct product_key {
    int32_t ordinal, M, N, K;
    uint8_t out, act, keeps, bias;
} product_key;

/* All devices of a process share their answers: two queues on one card, two threads of one model,
 * give the same bits. Measuring holds the lock. */
static struct {
    pthread_mutex_t lock;
    int count;
    product_key keys[SHAPES];
    product_way ways[SHAPES];
} choices = {PTHREAD_MUTEX_INITIALIZER, 0, {}, {}};

void cuda_product_open(cuda_device *cuda) {
    const char *wish = getenv("SMHF_CUDA_GEMM"), *hopper = getenv("SMHF_CUDA_SM90A");
    cuda->product_way = WAY_UNKNOWN;
    cuda->sm90a = cuda->major == 9 && cuda->minor == 0 && hopper != NULL && strcmp(hopper, "1") == 0;
    if (wish != NULL && strcmp(wish, "own") == 0) {
        cuda->product_way = cuda->sm90a ? WAY_SM90A : WAY_MMA;
    } else if (wish != NULL && strcmp(wish, "measure") != 0) {
        cuda->product_way = WAY_LT;
    }
}

/* ---- the ways ----------------------------------------------------------------------------------- */

static void run_lt(cuda_device *cuda, const cuda_product *p) {
    cuda_gemm g = p->gemm;
    if (p->act == SMHF_ACT_NONE && p->pre.data == NULL) {
        g.bias = p->bias.data;
        if (p->bias.data != NULL && g.out == SMHF_DTYPE_BF16) {
            /* the epilogue takes a bias in the result's own dtype */
            cuda_convert_dense(cuda, p->bias_copy, SMHF_DTYPE_BF16, p->bias, 1);
            g.bias = p->bias_copy;
        }
        cuda_gemm_run(cuda, &g);
        return;
    }
    const smhf_tensor raw = p->pre.data != NULL ? p->pre : p->y;
    g.d = raw.data;
    g.ldd = raw.ld;
    cuda_gemm_run(cuda, &g);
    cuda_bias_act(cuda, p->y, p->pre, raw, (const float *)p->bias.data, p->act, g.M, p->pack);
}

static void run_way(cuda_device *cuda, const cuda_product *p, product_way way) {
    cuda_epilogue e;
    e.bias = (const float *)p->bias.data;
    e.pre = p->pre.data;
    e.ld_pre = p->pre.ld;
    e.act = p->act;
    e.pack = p->pack;
    if (way == WAY_MMA) {
        cuda_gemm_mma(cuda, &p->gemm, &e);
    } else if (way == WAY_SM90A) {
        cuda_gemm_sm90a(cuda, &p->gemm, &e);
    } else {
        run_lt(cuda, p);
    }
}

static int way_fits(const cuda_device *cuda, const cuda_product *p, product_way way) {
    return way == WAY_LT || (way == WAY_MMA && cuda_gemm_mma_fits(&p->gemm, p->act)) ||
           (way == WAY_SM90A && cuda_gemm_sm90a_fits(cuda, &p->gemm, p->act));
}

/* ---- agreement ---------------------------------------------------------------------------------- */

/* A block for each sampled row: *bad = 1 where x is farther from y than rounding explains. */
template <typename T>
__global__ void __launch_bounds__(256)
    compare_rows_kernel(int *bad, cuda_rows<const T> x, cuda_rows<const T> y, int M, int cols,
                        cuda_pack pack) {
    __shared__ float shared[CUDA_WARP];
    const int r = (int)((int64_t)blockIdx.x * M / gridDim.x);
    if (r >= pack_rows(pack)) {
        return;
    }
    float top = 0.0f;
    for (int c = threadIdx.x; c < cols; c += blockDim.x) {
        top = fmaxf(top, fabsf(to_float(y.data[r * y.ld + c])));
    }
    top = block_max(top, shared);
    for (int c = threadIdx.x; c < cols; c += blockDim.x) {
        const float a = to_float(x.data[r * x.ld + c]), b = to_float(y.data[r * y.ld + c]);
        if (!(fabsf(a - b) <= 0.03f * top) && !(a != a && b != b)) {
            *bad = 1; /* whoever writes it writes the same */
        }
    }
}

/* Does `way` give what cuBLASLt gives on these operands? 0 also where there is no memory to ask. */
static int agrees(cuda_device *cuda, const cuda_product *p, product_way way) {
    const size_t bytes = (size_t)p->gemm.M * (size_t)p->y.ld * smhf_dtype_size(p->y.dtype);
    cuda_product other = *p;
    char *block = NULL;
    int bad = 1;
    if (cudaMalloc(&block, cuda_align(sizeof bad) + bytes) != cudaSuccess) {
        cudaGetLastError();
        return 0;
    }
    other.y.data = other.gemm.d = block + cuda_align(sizeof bad);
    cuda_check(cuda, cudaMemsetAsync(block, 0, sizeof bad, cuda->stream), "comparing products");
    run_way(cuda, &other, WAY_LT);
    run_way(cuda, p, way);
    const int rows = p->gemm.M < SAMPLES ? p->gemm.M : SAMPLES;
    CUDA_DTYPE(p->y.dtype, T, CUDA_LAUNCH(cuda, "comparing products", compare_rows_kernel<T>, rows,
                                          256, 0, (int *)block, cuda_rows_of<const T>(p->y),
                                          cuda_rows_of<const T>(other.y), p->gemm.M, p->y.cols,
                                          p->pack));
    cuda_check(cuda,
               cudaMemcpyAsync(&bad, block, sizeof bad, cudaMemcpyDeviceToHost, cuda->stream),
               "comparing products");
    cuda_check(cuda, cudaStreamSynchronize(cuda->stream), "comparing products");
    cudaFree(block);
    return bad == 0;
}

/* ---- time --------------------------------------------------------------------------------------- */

/* Milliseconds of TRIES runs, after one that is not counted; a negative number on failure. */
static float time_of(cuda_device *cuda, const cuda_product *p, product_way way) {
    cudaEvent_t from = NULL, to = NULL;
    float ms = -1.0f;
    if (cudaEventCreateWithFlags(&from, cudaEventDefault) == cudaSuccess &&
        cudaEventCreateWithFlags(&to, cudaEventDefault) == cudaSuccess) {
        run_way(cuda, p, way);
        cudaEventRecord(from, cuda->stream);
        for (int i = 0; i < TRIES; i++) {
            run_way(cuda, p, way);
        }
        cudaEventRecord(to, cuda->stream);
        if (cudaEventSynchronize(to) != cudaSuccess ||
            cudaEventElapsedTime(&ms, from, to) != cudaSuccess) {
            ms = -1.0f;
        }
    }
    if (from != NULL) {
        cudaEventDestroy(from);
    }
    if (to != NULL) {
        cudaEventDestroy(to);
    }
    return ms;
}

/* Another way must be a twentieth faster than cuBLASLt: ties are not worth a change. */
static product_way measure(cuda_device *cuda, const cuda_product *p) {
    product_way best = WAY_LT;
    float least = time_of(cuda, p, WAY_LT) / 1.05f;
    for (int way = WAY_LT + 1; way < WAYS; way++) {
        if (!way_fits(cuda, p, (product_way)way) || !agrees(cuda, p, (product_way)way)) {
            continue;
        }
        const float ms = time_of(cuda, p, (product_way)way);
        if (ms >= 0.0f && ms < least) {
            least = ms;
            best = (product_way)way;
        }
    }
    return best;
}

static product_way choose_locked(cuda_device *cuda, const cuda_product *p,
                                 const product_key *key) {
    for (int i = 0; i < choices.count; i++) {
        if (memcmp(&choices.keys[i], key, sizeof *key) == 0) {
            return choices.ways[i];
        }
    }
    if (cuda->capturing || choices.count == SHAPES) { /* nothing can be measured, or kept */
        return WAY_LT;
    }
    const product_way way = measure(cuda, p);
    choices.keys[choices.count] = *key;
    choices.ways[choices.count++] = way;
    return way;
}

static product_way choose(cuda_device *cuda, const cuda_product *p) {
    product_key key;
    memset(&key, 0, sizeof key);
    key.ordinal = cuda->ordinal;
    key.M = (p->gemm.M + BUCKET - 1) / BUCKET;
    key.N = p->gemm.N;
    key.K = p->gemm.K;
    key.out = (uint8_t)p->gemm.out;
    key.act = (uint8_t)p->act;
    key.keeps = p->pre.data != NULL;
    key.bias = p->bias.data != NULL;
    pthread_mutex_lock(&choices.lock);
    const product_way way = choose_locked(cuda, p, &key);
    pthread_mutex_unlock(&choices.lock);
    return way;
}

void cuda_product_run(cuda_device *cuda, const cuda_product *p) {
    product_way way = (product_way)cuda->product_way;
    if (way == WAY_UNKNOWN) {
        way = way_fits(cuda, p, WAY_MMA) ? choose(cuda, p) : WAY_LT;
    }
    run_way(cuda, p, way_fits(cuda, p, way) ? way : WAY_LT);
}
