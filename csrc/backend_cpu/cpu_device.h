/* cpu_device.h: what the op files of backend_cpu share; private to the room. */
#ifndef SMHF_BACKEND_CPU_CPU_DEVICE_H
#define SMHF_BACKEND_CPU_CPU_DEVICE_H

#include "backend_cpu/cpu_epilogue.h"
#include "backend_cpu/cpu_features.h"
#include "backend_cpu/cpu_kernels.h"
#include "backend_cpu/cpu_matmul.h"

#include <pthread.h>
#include <stdatomic.h>

typedef struct cpu_device {
    smhf_device base; /* first: a smhf_device * is a cpu_device * */
    cpu_features features;
    const cpu_kernels *kernels; /* features.kernels */
    int own_kernels;            /* fp32 products by cpu_f32.c, else by BLAS or plain C */
    int refined;                /* as refine said last */
    cpu_matmul matmul;          /* for a whole product, from one thread */
    cpu_matmul tiles;           /* for products in several threads at once: the same, or plain C */

    /* scratch for bodies of a parallel loop: each takes a slot for as long as it runs */
    char *slots;
    size_t slot_bytes;
    int slot_count;
    atomic_int *slot_taken; /* [slot_count] */

    /* scratch of a whole op: partial sums of two-stage reductions */
    char *partials;
    size_t partials_bytes;
} cpu_device;

/* A weight in the order of a product's kernel; made at the first product that asks. */
typedef struct cpu_panels {
    void *data;       /* kept over a refresh, so that a steady state allocates nothing */
    size_t bytes;     /* of data */
    atomic_int fresh; /* data holds what source holds now */
} cpu_panels;

/* Devices that share a weight run the same tier: panels are in its order. */
struct smhf_weight {
    smhf_tensor source; /* F32, [N, K], rows ld apart; data NULL once only panels are kept */
    float *copy;        /* owned: source's memory, where no panels can be kept instead */
    smhf_dtype compute; /* F32, BF16, I8 */
    uint32_t uses;      /* SMHF_WEIGHT_FORWARD, _BACKWARD */
    pthread_mutex_t lock;
    cpu_panels forward, backward; /* behind lock until fresh */
    atomic_int products;          /* forward products since the last refresh */
};

/* One linear layer's product: sums [m, n] of a [m, k], row layout F32, with
 *   SMHF_WEIGHT_FORWARD:  W^T (n = source.rows, k = source.cols): y = x W^T
 *   SMHF_WEIGHT_BACKWARD: W   (n = source.cols, k = source.rows): dx = dy W
 * then the epilogue. a never aliases epilogue.y; epilogue.saved may be epilogue.y. m, n, k may be
 * 0. */
typedef struct cpu_product {
    cpu_device *cpu;
    const smhf_weight *weight;
    uint32_t use;
    const float *a;
    int64_t lda;
    int32_t m, n, k;
    cpu_epilogue epilogue;
} cpu_product;

/* By the kernels of cpu_kernels_matrix.h; by BLAS or plain C. */
void cpu_f32_linear(const cpu_product *product);
void cpu_blas_linear(const cpu_product *product);
/* A weight's forward panels, packed now if they are not there; NULL on failure, which is kept. */
const void *cpu_f32_panels(cpu_device *cpu, const smhf_weight *weight);
/* The same of a weight for attention_first: panels of k, then of v. */
const void *cpu_attention_first_panels(cpu_device *cpu, const smhf_weight *weight);
/* dw [N, K] += dy^T x over `rows` rows; dbias [N] += sums of dy's columns, unless NULL. */
void cpu_f32_weight_gradient(cpu_device *cpu, smhf_tensor dw, float *dbias, smhf_tensor dy,
                             smhf_tensor x, int32_t rows);
/* out [N] += sums of dy's columns: blocks of CPU_SUM_ROWS rows, then the blocks, in order. */
#define CPU_SUM_ROWS 64
void cpu_column_sums(cpu_device *cpu, float *out, smhf_tensor dy, int32_t rows);
void cpu_blas_weight_gradient(cpu_device *cpu, smhf_tensor dw, smhf_tensor dy, smhf_tensor x,
                              int32_t rows);

/* Writes a weight's panels for one use; may use the pool. */
typedef void (*cpu_pack_fn)(void *panels, const smhf_weight *weight, uint32_t use,
                            const cpu_features *features);
/* The weight's panels for one use: `bytes` long, 64-byte aligned, packed now by `pack` if they are
 * not there (once; other threads wait). NULL on failure, which is kept. Borrowed until refresh. */
const void *cpu_weight_panels(cpu_device *cpu, const smhf_weight *weight, uint32_t use,
                              size_t bytes, cpu_pack_fn pack);

smhf_status cpu_weight_prepare(smhf_device *dev, smhf_weight **out, smhf_tensor source,
                               const smhf_weight_options *options, smhf_error *err);
void cpu_weight_refresh(smhf_device *dev, smhf_weight *weight);
void cpu_weight_free(smhf_device *dev, smhf_weight *weight);
const char *cpu_dtype_name(smhf_dtype dtype);

/* The device, or NULL when an earlier op has failed: then this one does nothing. */
static inline cpu_device *cpu_begin(smhf_device *dev) {
    return dev->failure.code == SMHF_OK ? (cpu_device *)dev : NULL;
}

/* Row r of an F32 tensor. */
static inline float *cpu_row(smhf_tensor t, int64_t r) {
    return (float *)t.data + r * t.ld;
}

/* 0 and a kept sentence unless every present tensor of the op is F32 in row layout. */
int cpu_all_f32(smhf_device *dev, const char *op, const smhf_tensor *tensors, size_t count);
#define CPU_ALL_F32(dev, op, ...)                                                                  \
    cpu_all_f32((dev), (op), (const smhf_tensor[]){__VA_ARGS__},                                   \
                sizeof((smhf_tensor[]){__VA_ARGS__}) / sizeof(smhf_tensor))

/* At least `bytes` in each slot and one slot for each thread; 0 on failure, which is kept. */
int cpu_slots_reserve(cpu_device *cpu, size_t bytes);
/* Waits while all slots are taken (the pool grew in the middle of an op). */
void *cpu_slot_take(cpu_device *cpu, int *index);
void cpu_slot_give(cpu_device *cpu, int index);
/* Memory in large pages from a few MiB on: what is read from end to end, or in rows pages apart,
 * stalls at the ends of small ones. smhf_free frees it. NULL on failure. */
void *cpu_large_alloc(size_t bytes, size_t alignment);
/* The op's own scratch; NULL on failure, which is kept. */
void *cpu_partials_reserve(cpu_device *cpu, size_t bytes);

/* The BLAS, opened now if it was not. */
const cpu_matmul *cpu_matmul_of(cpu_device *cpu);

/* The token that a row of an activation stands for. */
static inline int32_t cpu_token_of(const smhf_pack *pack, smhf_axis axis, int64_t row) {
    return axis == SMHF_AXIS_TOKENS ? (int32_t)row
           : axis == SMHF_AXIS_ROWS ? pack->cu_seqlens[row]
                                    : pack->picks[row];
}

/* Counters of one row's dropout. Returns `draw`, or NULL when dropout is off. */
const cpu_draw *cpu_draw_row(cpu_draw *draw, const smhf_dropout *dropout, const smhf_pack *pack,
                             smhf_axis axis, int64_t row);

/* How many rows go into one chunk, so that a chunk is worth a thread's while; depends on the row's
 * length only. */
static inline size_t cpu_rows_chunk(int32_t cols) {
    size_t rows = 32768 / (size_t)(cols > 0 ? cols : 1);
    return rows > 0 ? rows : 1;
}

/* ops, one file each family */
void cpu_embedding_fwd(smhf_device *dev, smhf_tensor out, smhf_tensor stats,
                       const smhf_embedding *tables, float eps, const smhf_pack *pack,
                       smhf_dropout dropout);
void cpu_embedding_bwd(smhf_device *dev, const smhf_embedding *grads, smhf_tensor dout,
                       smhf_tensor stats, const smhf_embedding *tables, const smhf_pack *pack,
                       smhf_dropout dropout);
void cpu_linear_fwd(smhf_device *dev, smhf_tensor y, smhf_tensor x, const smhf_weight *w,
                    smhf_tensor bias, const smhf_pack *pack, smhf_axis axis);
void cpu_linear_act_fwd(smhf_device *dev, smhf_tensor y, smhf_tensor pre, smhf_tensor x,
                        const smhf_weight *w, smhf_tensor bias, smhf_act act, const smhf_pack *pack,
                        smhf_axis axis);
void cpu_linear_bwd_input(smhf_device *dev, smhf_tensor dx, smhf_tensor dy, const smhf_weight *w,
                          int accumulate, const smhf_pack *pack, smhf_axis axis);
void cpu_linear_act_bwd_input(smhf_device *dev, smhf_tensor dpre, smhf_tensor dy,
                              const smhf_weight *w, smhf_tensor saved, smhf_act act,
                              const smhf_pack *pack, smhf_axis axis);
void cpu_linear_bwd_weight(smhf_device *dev, smhf_tensor dw, smhf_tensor dbias, smhf_tensor dy,
                           smhf_tensor x, const smhf_pack *pack, smhf_axis axis,
                           smhf_dtype compute);
void cpu_act_bwd(smhf_device *dev, smhf_tensor dpre, smhf_tensor dy, smhf_tensor saved,
                 smhf_act act, const smhf_pack *pack, smhf_axis axis);
void cpu_attention_fwd(smhf_device *dev, smhf_tensor out, smhf_tensor lse, smhf_tensor q,
                       smhf_tensor k, smhf_tensor v, const smhf_pack *pack, smhf_axis query_axis,
                       int32_t heads, float scale, smhf_dtype compute, smhf_dropout dropout);
void cpu_attention_bwd(smhf_device *dev, smhf_tensor dq, smhf_tensor dk, smhf_tensor dv,
                       smhf_tensor dout, smhf_tensor out, smhf_tensor lse, smhf_tensor q,
                       smhf_tensor k, smhf_tensor v, const smhf_pack *pack, smhf_axis query_axis,
                       int32_t heads, float scale, smhf_dtype compute, smhf_dropout dropout);
void cpu_attention_first_fwd(smhf_device *dev, smhf_tensor out, smhf_tensor lse, smhf_tensor q,
                             smhf_tensor x, const smhf_weight *kv, smhf_tensor kv_bias,
                             const smhf_pack *pack, int32_t heads, float scale,
                             smhf_dropout dropout);
void cpu_attention_first_bwd(smhf_device *dev, smhf_tensor dq, smhf_tensor dx, smhf_tensor dkv,
                             smhf_tensor dkv_bias, smhf_tensor dout, smhf_tensor out,
                             smhf_tensor lse, smhf_tensor q, smhf_tensor x, const smhf_weight *kv,
                             smhf_tensor kv_bias, const smhf_pack *pack, int32_t heads, float scale,
                             smhf_dropout dropout);
void cpu_residual_layernorm_fwd(smhf_device *dev, smhf_tensor out, smhf_tensor sum,
                                smhf_tensor stats, smhf_tensor x, smhf_tensor residual,
                                smhf_tensor gamma, smhf_tensor beta, float eps,
                                const smhf_pack *pack, smhf_axis axis, smhf_dropout dropout);
void cpu_residual_layernorm_bwd(smhf_device *dev, smhf_tensor dsum, smhf_tensor dx,
                                smhf_tensor dgamma, smhf_tensor dbeta, smhf_tensor dout,
                                smhf_tensor sum, smhf_tensor stats, smhf_tensor gamma,
                                const smhf_pack *pack, smhf_axis axis, smhf_dropout dropout);
void cpu_dropout(smhf_device *dev, smhf_tensor y, smhf_tensor x, const smhf_pack *pack,
                 smhf_axis axis, smhf_dropout dropout);
void cpu_gather_rows(smhf_device *dev, smhf_tensor out, smhf_tensor x, const smhf_pack *pack,
                     smhf_axis axis);
void cpu_scatter_add_rows(smhf_device *dev, smhf_tensor dx, smhf_tensor dout, const smhf_pack *pack,
                          smhf_axis axis);
void cpu_mean_rows(smhf_device *dev, smhf_tensor out, smhf_tensor x, const smhf_pack *pack);
void cpu_mean_rows_bwd(smhf_device *dev, smhf_tensor dx, smhf_tensor dout, const smhf_pack *pack);
void cpu_loss(smhf_device *dev, float *loss, smhf_tensor dlogits, smhf_tensor logits,
              smhf_tensor targets, const smhf_loss_options *options, const smhf_pack *pack,
              smhf_axis axis);
void cpu_span_loss(smhf_device *dev, float *loss, smhf_tensor dlogits, smhf_tensor logits,
                   smhf_tensor targets, const smhf_loss_options *options, const smhf_pack *pack);
void cpu_grad_norm(smhf_device *dev, smhf_step *step, const smhf_segment *segments,
                   int32_t segment_count, float max_norm);
void cpu_adamw_op(smhf_device *dev, const smhf_step *step, const smhf_segment *segments,
                  int32_t segment_count, const smhf_adamw_options *options);
void cpu_axpy(smhf_device *dev, float *y, const float *x, float alpha, int64_t count);
void cpu_convert(smhf_device *dev, smhf_tensor dst, smhf_tensor src);

/* Scratch that the ops of one file need for a batch up to these limits. */
size_t cpu_attention_scratch(cpu_device *cpu, int32_t length, int32_t size);
size_t cpu_attention_first_scratch(const cpu_kernels *kernels, int32_t hidden, int32_t heads,
                                   int32_t length);
size_t cpu_attention_first_partials(const cpu_kernels *kernels, int32_t hidden, int32_t heads,
                                    int32_t rows, int32_t tokens, int training);
size_t cpu_linear_scratch(const cpu_matmul *matmul);
size_t cpu_f32_scratch(const cpu_kernels *kernels);
size_t cpu_f32_gradient_partials(const cpu_kernels *kernels, int32_t rows, int32_t n, int32_t k);
size_t cpu_layernorm_partials(int32_t rows, int32_t hidden);

#endif
