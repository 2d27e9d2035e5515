/* cpu_i8_layer.c: what follows attention in an encoder layer with int8 weights, in one go.
 *
 * Everything behind attention belongs to one row alone: projection, residual and LayerNorm, both
 * feed-forward products, residual and LayerNorm. A thread takes a block of rows through all of it,
 * so that what lies between stays in its cache and nobody waits in between. The same bits as the
 * ops one by one: sums are exact and each step is the same kernel. */
#include "backend_cpu/cpu_i8_layer.h"
#include "common/pool.h"

/* Of one block's scratch. A little more than a second-level cache: taller blocks read the weights
 * less often, and what lies between is read once, in order. */
#define BLOCK_BYTES ((size_t)1300 << 10)
#define BLOCK_LEAST 12 /* rows; fewer for each thread run faster panel by panel */
#define ROWS_PADDED 32 /* tiles of `whole` kernels read that many */

typedef struct tail_task {
    cpu_i8_tail tail;
    cpu_i8_layer layer;
    cpu_device *cpu;
    smhf_tensor out, context, residual;
    int32_t count; /* rows */
} tail_task;

static int32_t lines_for(int32_t width) {
    return cpu_lowp_round_up(width, 4 * CPU_LOWP_LINES) / 4;
}

static size_t widest_row(int32_t hidden, int32_t ffn) {
    return cpu_lowp_row_bytes(lines_for(hidden > ffn ? hidden : ffn), 0);
}

/* The tallest block whose scratch fits the cache. */
static int32_t tallest_block(int32_t hidden, int32_t ffn) {
    size_t row = sizeof(float) * (size_t)(hidden + ffn) + widest_row(hidden, ffn);
    size_t rows = BLOCK_BYTES / row;
    return rows > BLOCK_LEAST ? (int32_t)rows : BLOCK_LEAST;
}

/* Rows a multiple of 4 KiB apart would all want the same place in cache. */
static int64_t wide_ld(int32_t ffn) {
    return (int64_t)ffn + 32;
}

cpu_i8_tail cpu_i8_tail_of(const cpu_i8_run *run, int32_t hidden, int32_t ffn, int32_t block) {
    cpu_i8_tail t = {.run = *run, .hidden = hidden, .ffn = ffn};
    t.block = block > 0 ? block : tallest_block(hidden, ffn);
    t.row_bytes = (int64_t)widest_row(hidden, ffn);
    t.hidden_at = ((size_t)t.block * sizeof(cpu_i8_row) + 63) / 64 * 64;
    t.wide_at = t.hidden_at + (size_t)t.block * (size_t)hidden * sizeof(float);
    t.q_at = t.wide_at + (size_t)t.block * (size_t)wide_ld(ffn) * sizeof(float);
    t.end = t.q_at + (size_t)(t.block + ROWS_PADDED) * (size_t)t.row_bytes;
    return t;
}

size_t cpu_i8_tail_scratch(int32_t hidden, int32_t ffn) {
    const cpu_i8_run none = {0};
    return cpu_i8_tail_of(&none, hidden, ffn, 0).end;
}

int32_t cpu_i8_tail_rows(int32_t count, int32_t tallest) {
    const int32_t threads = smhf_pool_threads();
    int32_t blocks = (count + tallest - 1) / tallest;
    blocks = cpu_lowp_round_up(blocks, threads);
    return count >= blocks * BLOCK_LEAST ? (count + blocks - 1) / blocks : 0;
}

static void quantize(const cpu_i8_run *run, const cpu_i8_rows *to, int32_t row, const float *x,
                     const cpu_i8_matrix *m) {
    run->i8->quantize(to->q + row * to->row_bytes, &to->info[row], x, m->k, 4 * m->lines,
                      run->i8->levels);
}

/* y [rows, n] = act(x W^T + bias) + residual for the block's rows; `q` holds x quantised. */
static void product(const cpu_i8_tail *tail, const cpu_i8_rows *q, float *y, int64_t ldy,
                    const float *x, int64_t ldx, int32_t rows, const cpu_i8_matrix *m,
                    const cpu_i8_finish *how) {
    const cpu_i8_activations a = {q->q, q->row_bytes, q->info, x, ldx};
    for (int32_t panel = 0; panel < m->n / CPU_I8_COLS; panel++) {
        const int32_t col = panel * CPU_I8_COLS;
        cpu_i8_finish finish = *how;
        finish.bias = how->bias != NULL ? how->bias + col : NULL;
        finish.residual = how->residual != NULL ? how->residual + col : NULL;
        cpu_i8_panel_run(&tail->run, m, panel, &a, 0, rows, y + col, ldy, finish);
    }
}

/* LayerNorm in place; then, while the row is at hand, the next product's input. */
static void normalize(const cpu_i8_tail *tail, float *x, int64_t ld, int32_t rows,
                      smhf_tensor gamma, smhf_tensor beta, float eps, const cpu_i8_rows *next,
                      const cpu_i8_matrix *m) {
    float stats[2];
    for (int32_t r = 0; r < rows; r++) {
        float *row = x + r * ld;
        tail->run.kernels->layernorm_fwd(row, stats, row, gamma.data, beta.data, tail->hidden, eps);
        if (next->q != NULL) {
            quantize(&tail->run, next, r, row, m);
        }
    }
}

void cpu_i8_tail_block(const cpu_i8_tail *tail, const cpu_i8_layer *l, char *scratch,
                       const cpu_i8_tail_rows_of *b) {
    const smhf_layer *w = l->layer;
    const int32_t H = tail->hidden, F = tail->ffn, rows = b->rows;
    float *hidden = (float *)(void *)(scratch + tail->hidden_at);
    float *wide = (float *)(void *)(scratch + tail->wide_at);
    const cpu_i8_rows q = {(uint8_t *)scratch + tail->q_at, tail->row_bytes,
                           (cpu_i8_row *)(void *)(scratch + tail->rows_at)};
    SMHF_ASSERT(rows <= tail->block);
    const cpu_i8_finish projection = {
        .bias = w->out_bias.data, .residual = b->residual, .residual_ld = b->residual_ld};
    for (int32_t r = 0; r < rows; r++) {
        quantize(&tail->run, &q, r, b->context + r * b->context_ld, &l->projection);
    }
    product(tail, &q, hidden, H, b->context, b->context_ld, rows, &l->projection, &projection);
    normalize(tail, hidden, H, rows, w->attention_gamma, w->attention_beta, w->eps, &q, &l->first);
    const cpu_i8_finish first = {.bias = w->ffn1_bias.data, .act = w->act};
    product(tail, &q, wide, wide_ld(F), hidden, H, rows, &l->first, &first);
    for (int32_t r = 0; r < rows; r++) {
        quantize(&tail->run, &q, r, wide + r * wide_ld(F), &l->second);
    }
    const cpu_i8_finish second = {.bias = w->ffn2_bias.data, .residual = hidden, .residual_ld = H};
    product(tail, &q, b->out, b->out_ld, wide, wide_ld(F), rows, &l->second, &second);
    normalize(tail, b->out, b->out_ld, rows, w->output_gamma, w->output_beta, w->eps, &b->next,
              &l->projection); /* the next layer's q, k, v take rows of the same width */
}

static void tail_body(void *context, size_t begin, size_t end) {
    const tail_task *task = context;
    const cpu_i8_run *run = &task->tail.run;
    int slot = 0;
    char *scratch = cpu_slot_take(task->cpu, &slot);
    if (run->i8->begin != NULL) {
        run->i8->begin();
    }
    for (size_t i = begin; i < end; i++) {
        const int32_t row = (int32_t)i * task->tail.block, left = task->count - row;
        const cpu_i8_tail_rows_of block = {
            .context = cpu_row(task->context, row),
            .residual = cpu_row(task->residual, row),
            .out = cpu_row(task->out, row),
            .context_ld = task->context.ld,
            .residual_ld = task->residual.ld,
            .out_ld = task->out.ld,
            .rows = left < task->tail.block ? left : task->tail.block,
        };
        cpu_i8_tail_block(&task->tail, &task->layer, scratch, &block);
    }
    if (run->i8->end != NULL) {
        run->i8->end();
    }
    cpu_slot_give(task->cpu, slot);
}

int cpu_layer_tail_fwd(smhf_device *dev, smhf_tensor out, smhf_tensor context, smhf_tensor residual,
                       const smhf_layer *layer, const smhf_pack *pack, smhf_axis axis) {
    cpu_device *cpu = cpu_begin(dev);
    if (cpu == NULL || cpu->refined || !cpu_i8_is(layer->out) || !cpu_i8_is(layer->ffn1) ||
        !cpu_i8_is(layer->ffn2) || layer->act != SMHF_ACT_GELU) {
        return cpu == NULL;
    }
    const int32_t H = out.cols, F = layer->ffn1->source.rows;
    const int32_t count = smhf_pack_count(pack, axis);
    const int32_t block = cpu_i8_tail_rows(count, tallest_block(H, F));
    if (block == 0 || !CPU_ALL_F32(dev, "layer_tail_fwd", out, context, residual)) {
        return block != 0;
    }
    const cpu_i8_run run = {cpu_i8_kernels_of(&cpu->features), cpu->kernels};
    tail_task task = {.cpu = cpu, .out = out, .context = context, .residual = residual};
    task.count = count;
    task.layer.layer = layer;
    task.tail = cpu_i8_tail_of(&run, H, F, block);
    if (!cpu_i8_matrix_get(cpu, layer->out, &task.layer.projection) ||
        !cpu_i8_matrix_get(cpu, layer->ffn1, &task.layer.first) ||
        !cpu_i8_matrix_get(cpu, layer->ffn2, &task.layer.second) ||
        !cpu_slots_reserve(cpu, cpu_i8_tail_scratch(H, F))) {
        return 1; /* the failure is kept */
    }
    smhf_parallel_for((size_t)((count + block - 1) / block), 1, tail_body, &task);
    return 1;
}
