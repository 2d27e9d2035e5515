/* cuda_wgmma.cuh: what only Hopper (sm_90a) has: bulk tensor copies, barriers in shared memory that
 * they signal, products of four warps over operands in shared memory; plain versions for the host.
 *
 * Tiles in shared memory are rows of 64 BF16 (128 bytes), eight rows to an atom of 1,024 bytes, the
 * 16-byte words of row r at place (word ^ r % 8): "128-byte swizzle". Both sides use the same
 * address rule, address ^= (address >> 7 & 7) << 4, so tiles begin at multiples of 1,024.
 *
 *     tile_load           a box of a matrix into a tile; what lies outside the matrix is 0; one thread
 *     barrier_init/expect/arrive/wait  phases: `count` arrivals and all expected bytes end one. wait
 *                         takes the parity of the phase it waits for, and after seconds sets *late
 *                         and gives up: a wrong kernel must end, not hang
 *     product_64_192_16   d [64, 192] (+)= A [64, 16] B [192, 16]^T; the threads of four warps;
 *                         d[4 j + i]: as d[i] of mma_16_8_16 for columns 8 j, rows 16 w of warp w;
 *                         operands named by tile_operand (first row's address, column k of 64)
 *     product_fence       before the first product that touches d after other code did
 *     product_commit, product_wait<N>  all committed groups but the last N have been computed and
 *                         read */
#ifndef SMHF_BACKEND_CUDA_CUDA_WGMMA_CUH
#define SMHF_BACKEND_CUDA_CUDA_WGMMA_CUH

#include "backend_cuda/cuda_mma.cuh"

#define TILE_COLS 64
#define TILE_ROW_BYTES 128
#define TILE_ATOM 1024 /* bytes of eight rows */

#if defined(__CUDACC__)

#include <cuda.h>

typedef CUtensorMap cuda_tile_map;

static __device__ __forceinline__ void tile_load(void *tile, const cuda_tile_map *map, int col,
                                                 int row, uint64_t *barrier) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4}], [%2];" ::"r"(shared_address(tile)),
                 "l"((uint64_t)map), "r"(shared_address(barrier)), "r"(col), "r"(row)
                 : "memory");
}

static __device__ __forceinline__ void barrier_init(uint64_t *barrier, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
                 "r"(count)
                 : "memory");
}

/* After all barrier_init, before __syncthreads: the copy engine sees them too. */
static __device__ __forceinline__ void barrier_init_done() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async;" ::: "memory");
}

static __device__ __forceinline__ void barrier_expect(uint64_t *barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(
                     shared_address(barrier)),
                 "r"(bytes)
                 : "memory");
}

static __device__ __forceinline__ void barrier_arrive(uint64_t *barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
                 : "memory");
}

static __device__ __forceinline__ bool barrier_test(uint64_t *barrier, uint32_t parity) {
    uint32_t done;
    asm volatile("{\n.reg .pred p;\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                 "selp.u32 %0, 1, 0, p;\n}\n"
                 : "=r"(done)
                 : "r"(shared_address(barrier)), "r"(parity)
                 : "memory");
    return done != 0;
}

static __device__ __forceinline__ void barrier_wait(uint64_t *barrier, uint32_t parity,
                                                    volatile int *late) {
    for (int i = 0; !barrier_test(barrier, parity) && *late == 0; i++) { /* each try sleeps */
        if (i == 1 << 22) {
            *late = 1;
        }
    }
}

static __device__ __forceinline__ uint64_t tile_operand(const bf16 *row, int k) {
    const uint32_t address = shared_address(row) + (uint32_t)k * 2u;
    return (uint64_t)(address >> 4 & 0x3FFFu) | (uint64_t)1 << 16 |
           (uint64_t)(TILE_ATOM >> 4) << 32 | (uint64_t)1 << 62;
}

static __device__ __forceinline__ void product_fence() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

static __device__ __forceinline__ void product_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int OPEN> static __device__ __forceinline__ void product_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(OPEN) : "memory");
}

template <int REGISTERS> static __device__ __forceinline__ void registers_up() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

template <int REGISTERS> static __device__ __forceinline__ void registers_down() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

static __device__ __forceinline__ void product_64_192_16(float d[96], uint64_t a, uint64_t b,
                                                         int add) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %98, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n192k16.f32.bf16.bf16 "
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, "
                 " %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, "
                 " %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, "
                 " %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 " %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, "
                 " %60, %61, %62, %63, %64, %65, %66, %67, %68, %69, %70, %71, "
                 " %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, "
                 " %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95}, "
                 "%96, %97, p, 1, 1, 0, 0;\n}\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]),
                   "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]),
                   "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]),
                   "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
                   "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),
                   "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]),
                   "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]),
                   "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
                   "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]),
                   "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]),
                   "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63]), "+f"(d[64]), "+f"(d[65]),
                   "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71]),
                   "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]),
                   "+f"(d[78]), "+f"(d[79]), "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]),
                   "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87]), "+f"(d[88]), "+f"(d[89]),
                   "+f"(d[90]), "+f"(d[91]), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95])
                 : "l"(a), "l"(b), "r"(add));
}

#else

#define __grid_constant__

typedef struct cuda_tile_map {
    const bf16 *data;
    int64_t ld;
    int rows, cols, box_rows;
} cuda_tile_map;

static inline size_t tile_place(size_t address) {
    return address ^ (address >> 7 & 7) << 4;
}

static inline size_t tile_address(const void *p) {
    return (size_t)((const unsigned char *)p - CUDA_SHARED_HOST);
}

static inline void tile_load(void *tile, const cuda_tile_map *map, int col, int row,
                             uint64_t *barrier) {
    const cuda_tile_map m = *map;
    unsigned char *shared = CUDA_SHARED_HOST;
    const size_t at = tile_address(tile);
    cuda_host_later([=]() { /* when somebody waits */
        for (int r = 0; r < m.box_rows; r++) {
            for (int c = 0; c < TILE_COLS; c++) {
                const bool inside = row + r < m.rows && col + c < m.cols;
                const bf16 value = inside ? m.data[(row + r) * m.ld + col + c] : bf16{0};
                memcpy(shared + tile_place(at + (size_t)r * TILE_ROW_BYTES + (size_t)c * 2), &value,
                       sizeof value);
            }
        }
        cuda_host_barrier_bytes(barrier, -m.box_rows * TILE_ROW_BYTES);
    });
}

static inline void barrier_init(uint64_t *barrier, int count) {
    cuda_host_barrier_init(barrier, count);
}

static inline void barrier_init_done() {
}

static inline void barrier_expect(uint64_t *barrier, int bytes) {
    cuda_host_barrier_bytes(barrier, bytes);
    cuda_host_barrier_arrive(barrier);
}

static inline void barrier_arrive(uint64_t *barrier) {
    cuda_host_barrier_arrive(barrier);
}

static inline void barrier_wait(uint64_t *barrier, uint32_t parity, volatile int *late) {
    for (int i = 0; !cuda_host_barrier_test(barrier, parity) && *late == 0; i++) {
        if (i == 1 << 14) {
            *late = 1;
        }
        cuda_host_yield();
    }
}

static inline uint64_t tile_operand(const bf16 *row, int k) {
    return (uint64_t)tile_address(row) + (uint64_t)k * 2;
}

static inline void product_fence() {
}

static inline void product_commit() {
    cuda_host_product_commit();
}

template <int OPEN> static inline void product_wait() {
    cuda_host_product_wait(OPEN);
}

template <int REGISTERS> static inline void registers_up() {
}

template <int REGISTERS> static inline void registers_down() {
}

static inline float tile_value(const unsigned char *shared, uint64_t operand, int row, int k) {
    bf16 value;
    const size_t at = (size_t)operand + (size_t)(row / 8) * TILE_ATOM +
                      (size_t)(row % 8) * TILE_ROW_BYTES + (size_t)k * 2;
    memcpy(&value, shared + tile_place(at), sizeof value);
    return __bfloat162float(value);
}

/* Computed when it is waited for: operands that are overwritten too early are met. */
static inline void product_64_192_16(float d[96], uint64_t a, uint64_t b, int add) {
    const unsigned char *shared = CUDA_SHARED_HOST;
    const int warp = (int)(threadIdx.x % 128) / 32, g = (int)(threadIdx.x % 32) / 4;
    const int t = (int)(threadIdx.x % 4);
    cuda_host_product([=]() {
        for (int at = 0; at < 96; at++) {
            const int row = 16 * warp + g + (at % 4 >= 2 ? 8 : 0), col = at / 4 * 8 + 2 * t + at % 2;
            float sum = add ? d[at] : 0.0f;
            for (int k = 0; k < 16; k++) {
                sum += tile_value(shared, a, row, k) * tile_value(shared, b, col, k);
            }
            d[at] = sum;
        }
    });
}

#endif
#endif
