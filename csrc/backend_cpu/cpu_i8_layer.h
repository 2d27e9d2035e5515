/* cpu_i8_layer.h: what the two runs over encoder layers with int8 weights share (cpu_i8_layer.c:
 * what follows attention; cpu_i8_encoder.c: whole layers); private to backend_cpu. */
#ifndef SMHF_BACKEND_CPU_CPU_I8_LAYER_H
#define SMHF_BACKEND_CPU_CPU_I8_LAYER_H

#include "backend_cpu/cpu_lowp.h"

/* The matrices of a layer; qkv only in whole layers. */
typedef struct cpu_i8_layer {
    const smhf_layer *layer;
    cpu_i8_matrix qkv, projection, first, second;
} cpu_i8_layer;

/* Quantised rows of activations. */
typedef struct cpu_i8_rows {
    uint8_t *q; /* NULL: not wanted */
    int64_t row_bytes;
    cpu_i8_row *info;
} cpu_i8_rows;

/* Where the parts of a slot's scratch begin, in bytes. */
typedef struct cpu_i8_tail {
    cpu_i8_run run;
    int32_t hidden, ffn, block; /* block: rows at most */
    int64_t row_bytes;          /* of q */
    size_t rows_at;             /* cpu_i8_row [block] */
    size_t hidden_at;           /* [block, hidden] */
    size_t wide_at;             /* [block, ffn]: between the feed-forward products */
    size_t q_at; /* the quantised input of a product; whole tiles behind the last row too */
    size_t end;
} cpu_i8_tail;

/* For blocks of `block` rows; 0: as many as a cache holds. */
cpu_i8_tail cpu_i8_tail_of(const cpu_i8_run *run, int32_t hidden, int32_t ffn, int32_t block);
/* The height of `count` rows' blocks: all alike, as many for each thread. 0: too few rows. */
int32_t cpu_i8_tail_rows(int32_t count, int32_t tallest);

/* One block of rows from attention's result to the layer's, which may lie over the residual;
 * quantised as well where `next` wants it. */
typedef struct cpu_i8_tail_rows_of {
    const float *context, *residual;
    float *out;
    int64_t context_ld, residual_ld, out_ld;
    int32_t rows;
    cpu_i8_rows next;
} cpu_i8_tail_rows_of;

void cpu_i8_tail_block(const cpu_i8_tail *tail, const cpu_i8_layer *layer, char *scratch,
                       const cpu_i8_tail_rows_of *block);

/* A weight that these products can take: int8, whole panels. */
static inline int cpu_i8_is(const smhf_weight *w) {
    return w != NULL && w->compute == SMHF_DTYPE_I8 && w->source.rows % CPU_I8_COLS == 0;
}

/* 0 on failure, which is kept. */
static inline int cpu_i8_matrix_get(cpu_device *cpu, const smhf_weight *w, cpu_i8_matrix *out) {
    const void *panels = cpu_i8_panels(cpu, w);
    if (panels == NULL) {
        return 0;
    }
    *out = cpu_i8_matrix_of(panels, w->source.rows, w->source.cols);
    return 1;
}

#endif
