/* cpu_kernels.h: the innermost loops, compiled once for each tier of processor; private to
 * backend_cpu.
 *
 * cpu_kernels_body.h holds plain C loops. cpu_kernels_{scalar,avx2,avx512}.c include it under
 * another instruction set each and fill one table. Reductions keep 16 partial sums in a fixed
 * order, nothing is contracted, so every tier gives the same bits; gemm_kernel alone uses fused
 * multiply-add where the tier has it.
 * Threads: pure functions. */
#ifndef SMHF_BACKEND_CPU_CPU_KERNELS_H
#define SMHF_BACKEND_CPU_CPU_KERNELS_H

#include "backend/backend.h"
#include "backend_cpu/cpu_epilogue.h"

/* One row of dropout: the fixed part of its counters. NULL instead of a pointer to one: none. */
typedef struct cpu_draw {
    uint64_t seed;
    uint32_t site, step, sequence_id, head, position;
    uint32_t threshold; /* kept when (draw >> 8) >= threshold */
    float scale;        /* 1 / (1 - p) */
} cpu_draw;

typedef struct cpu_adamw {
    float beta2, eps;
    float rest1, rest2; /* 1 - beta1, 1 - beta2 */
    float decay;        /* 1 - lr * weight_decay */
    float step_size;    /* lr / bias_correction1 */
    float v_scale;      /* 1 / bias_correction2_sqrt */
    float grad_scale;
} cpu_adamw;

typedef struct cpu_kernels {
    const char *tier;

    /* v = src + bias; pre = v; y = act(v). bias, pre may be NULL; src may be y or pre */
    void (*bias_act)(float *y, float *pre, const float *src, const float *bias, int n, int act);
    /* dpre = dy * act'(saved); dpre may be dy or saved */
    void (*act_bwd)(float *dpre, const float *dy, const float *saved, int n, int act);

    /* rows x cols finished sums, rows ld apart, that belong at (row, col) of the output */
    void (*finish)(const cpu_epilogue *epilogue, const float *sums, int64_t ld, int32_t row,
                   int32_t rows, int32_t col, int32_t cols);

    /* out [rows, CPU_I8_COLS] of sums, as cpu_i8_finish says. sums NULL: `out` already holds
     * scale_row * scale_output * (sums - zero_row * total_output). The same bits on every tier. */
    void (*finish_i8)(float *out, int64_t ld, const int32_t *sums, int rows,
                      const cpu_i8_finish *finish);

    /* out = a + b + c (c may be NULL) */
    void (*add3)(float *out, const float *a, const float *b, const float *c, int n);
    /* out = (x - mean) rstd gamma + beta, stats = {mean, rstd}; out may be x */
    void (*layernorm_fwd)(float *out, float stats[2], const float *x, const float *gamma,
                          const float *beta, int n, float eps);
    /* dx overwritten (may be dout), dgamma and dbeta += */
    void (*layernorm_bwd)(float *dx, float *dgamma, float *dbeta, const float *dout, const float *x,
                          const float stats[2], const float *gamma, int n);

    /* out = residual + dropout(x); residual may be NULL; out may be x or residual */
    void (*dropout_add)(float *out, const float *x, const float *residual, const cpu_draw *draw,
                        int n);

    /* s = scale * row; e = exp(s - max s); row = dropout(e). Returns sum e; *max_out = max s. The
     * row has room for a multiple of 16 */
    float (*softmax_fwd)(float *row, float *max_out, float scale, const cpu_draw *draw, int n);
    /* p = exp(scale * row - lse), d = dropout'; dp = scale * p * (dp * d - delta); row = p * d */
    void (*softmax_bwd)(float *row, float *dp, float lse, float delta, float scale,
                        const cpu_draw *draw, int n);

    float (*dot)(const float *a, const float *b, int n);
    void (*axpy)(float *y, const float *x, float alpha, size_t n); /* y += alpha x */
    void (*scale)(float *y, float alpha, int n);                   /* y *= alpha */
    double (*square_sum)(const float *x, size_t n);
    void (*adamw)(float *param, const float *grad, float *m, float *v, size_t n,
                  const cpu_adamw *constants);

    /* cpu_kernels_matrix.h: c[r][j] = (add ? c[r][j] : 0) + (start ? start[j] : 0) + sum over p of
     * a[r * row + p * step] * b[p * panel + j] for r < rows <= tile_rows, j < panel */
    void (*gemm_tile)(float *c, int64_t ldc, const float *a, int64_t row, int64_t step,
                      const float *b, int k, int rows, const float *start, int add);
    /* panels of B or B^T; groups of A^T */
    void (*pack_rows)(float *panel, const float *src, int64_t ld, int cols, int k);
    void (*pack_columns)(float *panel, const float *src, int64_t ld, int cols, int k);
    void (*pack_groups)(float *out, int64_t stride, const float *src, int64_t ld, int cols, int k);
    int tile_rows, panel;

    /* for cpu_gemm_plain.c: C [gemm_rows, gemm_cols] += sum over k of a[k][.] b[k][.], panels
     * packed k-major */
    void (*gemm_kernel)(float *c, size_t ldc, const float *a, const float *b, int k);
    int gemm_rows, gemm_cols;
} cpu_kernels;

extern const cpu_kernels cpu_kernels_scalar;
#if defined(__x86_64__) && defined(__GNUC__)
extern const cpu_kernels cpu_kernels_avx2;
extern const cpu_kernels cpu_kernels_avx512;
#endif

#endif
