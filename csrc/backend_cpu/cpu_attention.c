/* cpu_attention.c: attention, one (sequence, head) at a time; memory for a tile of scores only.
 * The form over a BLAS or plain C; own kernels are in cpu_attention_own.c.
 *
 * A tile is QUERY_TILE queries against all keys of the sequence: scratch grows with the length,
 * not with its square. Backward recomputes the tile's probabilities from lse. A (sequence, head)
 * owns its columns of dq, dk, dv, so tasks never meet. */
#include "backend_cpu/cpu_attention.h"
#include "backend_cpu/cpu_lowp.h"
#include "common/pool.h"

#include <math.h>

#define QUERY_TILE 64

head_range cpu_attention_range(const attention_task *task, size_t index) {
    head_range r;
    int32_t b = (int32_t)(index / (size_t)task->heads);
    r.head = (int32_t)(index % (size_t)task->heads);
    r.first_key = task->pack->cu_seqlens[b];
    r.keys = task->pack->cu_seqlens[b + 1] - r.first_key;
    r.first_query = task->query_axis == SMHF_AXIS_TOKENS ? r.first_key : b;
    r.queries = task->query_axis == SMHF_AXIS_TOKENS ? r.keys : 1;
    r.sequence_id = task->pack->sequence_ids[b];
    r.column = r.head * task->size;
    return r;
}

const cpu_draw *cpu_attention_draw(cpu_draw *draw, const attention_task *task, const head_range *r,
                                   int32_t position) {
    if (task->dropout.p <= 0.0f) {
        return NULL;
    }
    draw->seed = task->dropout.seed;
    draw->site = task->dropout.site;
    draw->step = task->dropout.step->dropout_step;
    draw->sequence_id = r->sequence_id;
    draw->head = (uint32_t)r->head;
    draw->position = (uint32_t)position;
    draw->threshold = smhf_dropout_threshold(task->dropout.p);
    draw->scale = 1.0f / (1.0f - task->dropout.p);
    return draw;
}

static void head_fwd(const attention_task *task, const head_range *r, void *blas, float *scores) {
    const cpu_kernels *kernels = task->cpu->kernels;
    const cpu_matmul *matmul = &task->cpu->tiles;
    int64_t ld = task->score_ld;
    const float *k = cpu_row(task->k, r->first_key) + r->column;
    const float *v = cpu_row(task->v, r->first_key) + r->column;
    for (int32_t first = 0; first < r->queries; first += QUERY_TILE) {
        int32_t count = r->queries - first < QUERY_TILE ? r->queries - first : QUERY_TILE;
        int64_t row = r->first_query + first;
        float sums[QUERY_TILE];
        cpu_matmul_run(matmul, blas, 0, 1, count, r->keys, task->size,
                       cpu_row(task->q, row) + r->column, task->q.ld, k, task->k.ld, 0.0f, scores,
                       ld);
        for (int32_t i = 0; i < count; i++) {
            cpu_draw storage;
            float greatest;
            const cpu_draw *draw = cpu_attention_draw(&storage, task, r, first + i);
            sums[i] = kernels->softmax_fwd(scores + i * ld, &greatest, task->scale, draw, r->keys);
            if (task->lse.data != NULL) {
                cpu_row(task->lse, row + i)[r->head] = greatest + logf(sums[i]);
            }
        }
        cpu_matmul_run(matmul, blas, 0, 0, count, task->size, r->keys, scores, ld, v, task->v.ld,
                       0.0f, cpu_row(task->out, row) + r->column, task->out.ld);
        for (int32_t i = 0; i < count; i++) {
            kernels->scale(cpu_row(task->out, row + i) + r->column, 1.0f / sums[i], task->size);
        }
    }
}

/* Scratch of a slot: what the product needs, then two tiles of scores. */
static float *tiles_of(const attention_task *task, char *slot) {
    return (float *)(slot + task->cpu->tiles.scratch_bytes);
}

static void attention_body(void *context, size_t begin, size_t end) {
    const attention_task *task = context;
    int slot = 0;
    char *scratch = cpu_slot_take(task->cpu, &slot);
    for (size_t i = begin; i < end; i++) {
        head_range r = cpu_attention_range(task, i);
        head_fwd(task, &r, scratch, tiles_of(task, scratch));
    }
    cpu_slot_give(task->cpu, slot);
}

static void head_bwd(const attention_task *task, const head_range *r, void *blas, float *p,
                     float *dp) {
    const cpu_kernels *kernels = task->cpu->kernels;
    const cpu_matmul *matmul = &task->cpu->tiles;
    int64_t ld = task->score_ld;
    int32_t size = task->size;
    const float *k = cpu_row(task->k, r->first_key) + r->column;
    const float *v = cpu_row(task->v, r->first_key) + r->column;
    float *dk = cpu_row(task->dk, r->first_key) + r->column;
    float *dv = cpu_row(task->dv, r->first_key) + r->column;
    for (int32_t first = 0; first < r->queries; first += QUERY_TILE) {
        int32_t count = r->queries - first < QUERY_TILE ? r->queries - first : QUERY_TILE;
        int64_t row = r->first_query + first;
        const float *q = cpu_row(task->q, row) + r->column;
        const float *dout = cpu_row(task->dout, row) + r->column;
        float beta = first == 0 ? 0.0f : 1.0f;
        cpu_matmul_run(matmul, blas, 0, 1, count, r->keys, size, q, task->q.ld, k, task->k.ld, 0.0f,
                       p, ld);
        cpu_matmul_run(matmul, blas, 0, 1, count, r->keys, size, dout, task->dout.ld, v, task->v.ld,
                       0.0f, dp, ld);
        for (int32_t i = 0; i < count; i++) {
            cpu_draw storage;
            /* sum over keys of p dp, dropout included, is dout . out */
            float delta = kernels->dot(dout + i * task->dout.ld,
                                       cpu_row(task->out, row + i) + r->column, size);
            kernels->softmax_bwd(p + i * ld, dp + i * ld, cpu_row(task->lse, row + i)[r->head],
                                 delta, task->scale,
                                 cpu_attention_draw(&storage, task, r, first + i), r->keys);
        }
        cpu_matmul_run(matmul, blas, 1, 0, r->keys, size, count, p, ld, dout, task->dout.ld, beta,
                       dv, task->dv.ld);
        cpu_matmul_run(matmul, blas, 1, 0, r->keys, size, count, dp, ld, q, task->q.ld, beta, dk,
                       task->dk.ld);
        cpu_matmul_run(matmul, blas, 0, 0, count, size, r->keys, dp, ld, k, task->k.ld, 0.0f,
                       cpu_row(task->dq, row) + r->column, task->dq.ld);
    }
}

static void attention_bwd_body(void *context, size_t begin, size_t end) {
    const attention_task *task = context;
    int slot = 0;
    char *scratch = cpu_slot_take(task->cpu, &slot);
    float *p = tiles_of(task, scratch);
    for (size_t i = begin; i < end; i++) {
        head_range r = cpu_attention_range(task, i);
        head_bwd(task, &r, scratch, p, p + QUERY_TILE * task->score_ld);
    }
    cpu_slot_give(task->cpu, slot);
}

static int64_t score_ld_of(int32_t length) {
    return ((int64_t)(length > 0 ? length : 1) + 15) / 16 * 16;
}

size_t cpu_attention_scratch(cpu_device *cpu, int32_t length, int32_t size) {
    if (cpu->own_kernels) {
        size_t own = cpu_attention_own_scratch(cpu->kernels, length, size);
        int half = cpu_bf16_attention_kernels(&cpu->features) != NULL;
        size_t lowp = half ? cpu_bf16_attention_scratch(length, size) : 0;
        return own > lowp ? own : lowp;
    }
    cpu_matmul_of(cpu);
    return cpu->tiles.scratch_bytes + 2 * QUERY_TILE * (size_t)score_ld_of(length) * sizeof(float);
}

/* Short sequences: several (sequence, head) pairs make a chunk. By shapes only. */
static void run_heads(attention_task *task, smhf_parallel_body body) {
    const smhf_pack *pack = task->pack;
    task->size = task->k.cols / task->heads;
    task->score_ld = score_ld_of(pack->max_length);
    if (pack->rows <= 0 ||
        !cpu_slots_reserve(task->cpu,
                           cpu_attention_scratch(task->cpu, pack->max_length, task->size))) {
        return;
    }
    int64_t mean = pack->tokens / pack->rows + 1;
    int64_t work = (task->query_axis == SMHF_AXIS_TOKENS ? mean : 1) * mean * task->size;
    size_t chunk = (size_t)(1 + 100000 / work);
    chunk = chunk < (size_t)task->heads ? chunk : (size_t)task->heads;
    smhf_parallel_for((size_t)pack->rows * (size_t)task->heads, chunk, body, task);
}

void cpu_attention_fwd(smhf_device *dev, smhf_tensor out, smhf_tensor lse, smhf_tensor q,
                       smhf_tensor k, smhf_tensor v, const smhf_pack *pack, smhf_axis query_axis,
                       int32_t heads, float scale, smhf_dtype compute, smhf_dropout dropout) {
    cpu_device *cpu = cpu_begin(dev);
    if (cpu == NULL || !CPU_ALL_F32(dev, "attention_fwd", out, lse, q, k, v)) {
        return;
    }
    attention_task task = {.cpu = cpu, .out = out, .lse = lse, .q = q, .k = k, .v = v};
    task.pack = pack;
    task.query_axis = query_axis;
    task.heads = heads;
    task.scale = scale;
    task.dropout = dropout;
    int half = compute == SMHF_DTYPE_BF16 && !cpu->refined && lse.data == NULL &&
               query_axis == SMHF_AXIS_TOKENS && cpu->own_kernels &&
               cpu_bf16_attention_kernels(&cpu->features) != NULL;
    run_heads(&task, half               ? cpu_bf16_attention_body
                     : cpu->own_kernels ? cpu_attention_own_body
                                        : attention_body);
}

void cpu_attention_bwd(smhf_device *dev, smhf_tensor dq, smhf_tensor dk, smhf_tensor dv,
                       smhf_tensor dout, smhf_tensor out, smhf_tensor lse, smhf_tensor q,
                       smhf_tensor k, smhf_tensor v, const smhf_pack *pack, smhf_axis query_axis,
                       int32_t heads, float scale, smhf_dtype compute, smhf_dropout dropout) {
    (void)compute; /* exact whatever is asked for */
    cpu_device *cpu = cpu_begin(dev);
    if (cpu == NULL || !CPU_ALL_F32(dev, "attention_bwd", dq, dk, dv, dout, out, lse, q, k, v)) {
        return;
    }
    attention_task task = {.cpu = cpu, .out = out, .lse = lse, .q = q, .k = k, .v = v};
    task.dq = dq;
    task.dk = dk;
    task.dv = dv;
    task.dout = dout;
    task.pack = pack;
    task.query_axis = query_axis;
    task.heads = heads;
    task.scale = scale;
    task.dropout = dropout;
    run_heads(&task, cpu->own_kernels ? cpu_attention_own_bwd_body : attention_bwd_body);
}
