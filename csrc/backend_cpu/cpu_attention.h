/* cpu_attention.h: what the two forms of attention (cpu_attention.c: over a BLAS or plain C;
 * cpu_attention_own.c: on own kernels) share; private to backend_cpu. */
#ifndef SMHF_BACKEND_CPU_CPU_ATTENTION_H
#define SMHF_BACKEND_CPU_CPU_ATTENTION_H

#include "backend_cpu/cpu_device.h"

typedef struct attention_task {
    cpu_device *cpu;
    smhf_tensor out, lse, q, k, v;
    smhf_tensor dq, dk, dv, dout;
    const smhf_pack *pack;
    smhf_axis query_axis;
    int32_t heads, size; /* size D = H / A */
    int64_t score_ld;
    float scale;
    smhf_dropout dropout;
} attention_task;

/* One (sequence, head). Rows of q, out: `queries` from first_query; of k, v: `keys` from
 * first_key. */
typedef struct head_range {
    int32_t first_query, queries, first_key, keys, head;
    uint32_t sequence_id;
    int32_t column;
} head_range;

head_range cpu_attention_range(const attention_task *task, size_t index);
/* Counters of one query's row of probabilities; NULL when dropout is off. */
const cpu_draw *cpu_attention_draw(cpu_draw *draw, const attention_task *task, const head_range *r,
                                   int32_t position);

/* Bodies of a parallel loop over rows * heads; each takes a slot with this much scratch. */
size_t cpu_attention_own_scratch(const cpu_kernels *kernels, int32_t length, int32_t size);
void cpu_attention_own_body(void *context, size_t begin, size_t end);
void cpu_attention_own_bwd_body(void *context, size_t begin, size_t end);

#endif
