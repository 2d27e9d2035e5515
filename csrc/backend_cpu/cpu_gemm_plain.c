/* cpu_gemm_plain.c: matrix product without a BLAS, after Goto & van de Geijn (2008): blocks of both
 * operands are packed so that the kernel reads memory in order; A's block stays in the second
 * cache, a panel of B in the first. */
#include "backend_cpu/cpu_matmul.h"

#include <string.h>

#define BLOCK_K 256
#define BLOCK_M 96  /* a multiple of every tier's gemm_rows */
#define BLOCK_N 768 /* a multiple of every tier's gemm_cols */
#define TILE_MAX (12 * 32)

size_t cpu_gemm_plain_scratch(void) {
    return (size_t)BLOCK_K * (BLOCK_M + BLOCK_N) * sizeof(float);
}

/* Panels of `width` rows of op(X), k-major, the last one filled up with zeros. Element (i, p) of
 * op(X) is x[i * row + p * column]; one of the two steps is 1. */
static void pack_panels(float *out, const float *x, int64_t row, int64_t column, int rows, int k,
                        int width) {
    for (int i0 = 0; i0 < rows; i0 += width) {
        int count = rows - i0 < width ? rows - i0 : width;
        const float *from = x + (int64_t)i0 * row;
        if (count < width) {
            memset(out, 0, (size_t)width * (size_t)k * sizeof *out);
        }
        if (row == 1) {
            for (int p = 0; p < k; p++) {
                memcpy(out + (size_t)p * (size_t)width, from + (int64_t)p * column,
                       (size_t)count * sizeof *out);
            }
        } else {
            for (int p0 = 0; p0 < k; p0 += 16) { /* small blocks: the writes stay in cache */
                int p1 = k - p0 < 16 ? k : p0 + 16;
                for (int i = 0; i < count; i++) {
                    const float *line = from + (int64_t)i * row;
                    for (int p = p0; p < p1; p++) {
                        out[(size_t)p * (size_t)width + (size_t)i] = line[p];
                    }
                }
            }
        }
        out += (size_t)width * (size_t)k;
    }
}

static void scale_output(float *c, int64_t ldc, int m, int n, float beta) {
    for (int i = 0; i < m && beta != 1.0f; i++) {
        float *row = c + (int64_t)i * ldc;
        if (beta == 0.0f) { /* whatever was there, NaN included, is gone */
            memset(row, 0, (size_t)n * sizeof *row);
        } else {
            for (int j = 0; j < n; j++) {
                row[j] *= beta;
            }
        }
    }
}

/* A block of C from packed blocks of A and B. */
static void multiply_block(const cpu_kernels *kernels, float *c, int64_t ldc, const float *a,
                           const float *b, int m, int n, int k) {
    int mr = kernels->gemm_rows, nr = kernels->gemm_cols;
    float edge[TILE_MAX];
    for (int j = 0; j < n; j += nr) {
        int columns = n - j < nr ? n - j : nr;
        const float *panel = b + (size_t)j * (size_t)k;
        for (int i = 0; i < m; i += mr) {
            int rows = m - i < mr ? m - i : mr;
            float *tile = c + (int64_t)i * ldc + j;
            if (rows == mr && columns == nr) {
                kernels->gemm_kernel(tile, (size_t)ldc, a + (size_t)i * (size_t)k, panel, k);
                continue;
            }
            memset(edge, 0, sizeof edge);
            kernels->gemm_kernel(edge, (size_t)nr, a + (size_t)i * (size_t)k, panel, k);
            for (int r = 0; r < rows; r++) {
                for (int s = 0; s < columns; s++) {
                    tile[(int64_t)r * ldc + s] += edge[r * nr + s];
                }
            }
        }
    }
}

void cpu_gemm_plain(const cpu_kernels *kernels, void *scratch, int ta, int tb, int m, int n, int k,
                    const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c,
                    int64_t ldc) {
    float *packed_a = scratch;
    float *packed_b = packed_a + (size_t)BLOCK_M * BLOCK_K;
    int64_t a_row = ta ? 1 : lda, a_column = ta ? lda : 1;
    int64_t b_row = tb ? ldb : 1, b_column = tb ? 1 : ldb; /* "rows" of B^T: columns of C */
    scale_output(c, ldc, m, n, beta);
    for (int p = 0; p < k; p += BLOCK_K) {
        int depth = k - p < BLOCK_K ? k - p : BLOCK_K;
        for (int j = 0; j < n; j += BLOCK_N) {
            int width = n - j < BLOCK_N ? n - j : BLOCK_N;
            pack_panels(packed_b, b + j * b_row + p * b_column, b_row, b_column, width, depth,
                        kernels->gemm_cols);
            for (int i = 0; i < m; i += BLOCK_M) {
                int height = m - i < BLOCK_M ? m - i : BLOCK_M;
                pack_panels(packed_a, a + i * a_row + p * a_column, a_row, a_column, height, depth,
                            kernels->gemm_rows);
                multiply_block(kernels, c + (int64_t)i * ldc + j, ldc, packed_a, packed_b, height,
                               width, depth);
            }
        }
    }
}
