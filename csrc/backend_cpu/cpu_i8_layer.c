/* cpu_i8_layer.c: what follows attention in an encoder layer with int8 weights, in one go.
 *
 * Everything behind attention belongs to one row alone: projection, residual and LayerNorm, both
 * feed-forward products, residual and LayerNorm. A thread takes a block of rows through all of it,
 * so that what lies between stays in its cache and nobody waits in between. The same bits as the
 * ops one by one: sums are exact and each step is the same kernel. */
#include "backend_cpu/cpu_lowp.h"
#include "common/pool.h"

#define BLOCK_BYTES ((size_t)900 << 10) /* of one block's scratch: most of a second-level cache */
#define BLOCK_LEAST 12                  /* rows; fewer for each thread run faster panel by panel */
#define ROWS_PADDED 32                  /* tiles of `whole` kernels read that many */

/* Where the parts of a slot's scratch begin, in bytes. */
typedef struct tail_scratch {
    size_t rows;   /* cpu_i8_row [block] */
    size_t hidden; /* [block, hidden] */
    size_t wide;   /* [block, ffn]: between the feed-forward products */
    size_t q;      /* the quantised input of a product; whole tiles behind the last row too */
    size_t end;
} tail_scratch;

typedef struct tail_task {
    cpu_i8_run run;
    cpu_device *cpu;
    const smhf_layer *layer;
    smhf_tensor out, context, residual;
    cpu_i8_matrix projection, first, second;
    int32_t count, block; /* rows */
    int64_t row_bytes;    /* of q */
    tail_scratch scratch;
} tail_task;

static int32_t lines_for(int32_t width) {
    return cpu_lowp_round_up(width, 4 * CPU_LOWP_LINES) / 4;
}

static size_t widest_row(int32_t hidden, int32_t ffn) {
    return cpu_lowp_row_bytes(lines_for(hidden > ffn ? hidden : ffn), 0);
}

static tail_scratch map_scratch(int32_t block, int32_t hidden, int32_t ffn) {
    tail_scratch s = {0};
    s.hidden = s.rows + ((size_t)block * sizeof(cpu_i8_row) + 63) / 64 * 64;
    s.wide = s.hidden + (size_t)block * (size_t)hidden * sizeof(float);
    s.q = s.wide + (size_t)block * (size_t)ffn * sizeof(float);
    s.end = s.q + (size_t)(block + ROWS_PADDED) * widest_row(hidden, ffn);
    return s;
}

/* The tallest block whose scratch fits the cache. */
static int32_t tallest_block(int32_t hidden, int32_t ffn) {
    size_t row = sizeof(float) * (size_t)(hidden + ffn) + widest_row(hidden, ffn);
    size_t rows = BLOCK_BYTES / row;
    return rows > BLOCK_LEAST ? (int32_t)rows : BLOCK_LEAST;
}

size_t cpu_i8_tail_scratch(int32_t hidden, int32_t ffn) {
    return map_scratch(tallest_block(hidden, ffn), hidden, ffn).end;
}

/* y [rows, n] = act(x W^T + bias) + residual for the block's rows; x is quantised into scratch. */
static void product(const tail_task *task, char *scratch, float *y, int64_t ldy, const float *x,
                    int64_t ldx, int32_t rows, const cpu_i8_matrix *m, const cpu_i8_finish *how) {
    cpu_i8_row *info = (cpu_i8_row *)(void *)(scratch + task->scratch.rows);
    uint8_t *q = (uint8_t *)scratch + task->scratch.q;
    for (int32_t r = 0; r < rows; r++) {
        task->run.i8->quantize(q + r * task->row_bytes, &info[r], x + r * ldx, m->k, 4 * m->lines,
                               task->run.i8->levels);
    }
    const cpu_i8_activations a = {q, task->row_bytes, info, x, ldx};
    for (int32_t panel = 0; panel < m->n / CPU_I8_COLS; panel++) {
        const int32_t col = panel * CPU_I8_COLS;
        cpu_i8_finish finish = *how;
        finish.bias = how->bias != NULL ? how->bias + col : NULL;
        finish.residual = how->residual != NULL ? how->residual + col : NULL;
        cpu_i8_panel_run(&task->run, m, panel, &a, 0, rows, y + col, ldy, finish);
    }
}

static void normalize(const tail_task *task, float *x, int64_t ld, int32_t rows, smhf_tensor gamma,
                      smhf_tensor beta) {
    float stats[2];
    for (int32_t r = 0; r < rows; r++) {
        task->run.kernels->layernorm_fwd(x + r * ld, stats, x + r * ld, gamma.data, beta.data,
                                         task->out.cols, task->layer->eps);
    }
}

static void run_block(const tail_task *task, char *scratch, int32_t row, int32_t rows) {
    const smhf_layer *w = task->layer;
    const int32_t H = task->out.cols, F = task->first.n;
    float *hidden = (float *)(void *)(scratch + task->scratch.hidden);
    float *wide = (float *)(void *)(scratch + task->scratch.wide);
    float *out = cpu_row(task->out, row);
    const int64_t ld = task->out.ld;
    const cpu_i8_finish projection = {.bias = w->out_bias.data,
                                      .residual = cpu_row(task->residual, row),
                                      .residual_ld = task->residual.ld};
    product(task, scratch, hidden, H, cpu_row(task->context, row), task->context.ld, rows,
            &task->projection, &projection);
    normalize(task, hidden, H, rows, w->attention_gamma, w->attention_beta);
    const cpu_i8_finish first = {.bias = w->ffn1_bias.data, .act = w->act};
    product(task, scratch, wide, F, hidden, H, rows, &task->first, &first);
    const cpu_i8_finish second = {.bias = w->ffn2_bias.data, .residual = hidden, .residual_ld = H};
    product(task, scratch, out, ld, wide, F, rows, &task->second, &second);
    normalize(task, out, ld, rows, w->output_gamma, w->output_beta);
}

static void tail_body(void *context, size_t begin, size_t end) {
    const tail_task *task = context;
    int slot = 0;
    char *scratch = cpu_slot_take(task->cpu, &slot);
    if (task->run.i8->begin != NULL) {
        task->run.i8->begin();
    }
    for (size_t i = begin; i < end; i++) {
        const int32_t row = (int32_t)i * task->block, left = task->count - row;
        run_block(task, scratch, row, left < task->block ? left : task->block);
    }
    if (task->run.i8->end != NULL) {
        task->run.i8->end();
    }
    cpu_slot_give(task->cpu, slot);
}

static int is_i8(const smhf_weight *w) {
    return w->compute == SMHF_DTYPE_I8 && w->source.rows % CPU_I8_COLS == 0;
}

/* Blocks of equal height, as many for each thread. 0: too few rows to share out. */
static int32_t block_rows(int32_t count, int32_t tallest) {
    const int32_t threads = smhf_pool_threads();
    int32_t blocks = (count + tallest - 1) / tallest;
    blocks = cpu_lowp_round_up(blocks, threads);
    return count >= blocks * BLOCK_LEAST ? (count + blocks - 1) / blocks : 0;
}

int cpu_layer_tail_fwd(smhf_device *dev, smhf_tensor out, smhf_tensor context, smhf_tensor residual,
                       const smhf_layer *layer, const smhf_pack *pack, smhf_axis axis) {
    cpu_device *cpu = cpu_begin(dev);
    if (cpu == NULL || cpu->refined || !is_i8(layer->out) || !is_i8(layer->ffn1) ||
        !is_i8(layer->ffn2) || layer->act != SMHF_ACT_GELU) {
        return cpu == NULL;
    }
    const int32_t H = out.cols, F = layer->ffn1->source.rows;
    const int32_t count = smhf_pack_count(pack, axis);
    tail_task task = {.cpu = cpu, .layer = layer, .out = out, .context = context, .count = count};
    task.residual = residual;
    task.block = block_rows(count, tallest_block(H, F));
    if (task.block == 0 || !CPU_ALL_F32(dev, "layer_tail_fwd", out, context, residual)) {
        return task.block != 0;
    }
    task.run = (cpu_i8_run){cpu_i8_kernels_of(&cpu->features), cpu->kernels};
    const void *projection = cpu_i8_panels(cpu, layer->out);
    const void *first = cpu_i8_panels(cpu, layer->ffn1);
    const void *second = cpu_i8_panels(cpu, layer->ffn2);
    if (projection == NULL || first == NULL || second == NULL ||
        !cpu_slots_reserve(cpu, cpu_i8_tail_scratch(H, F))) {
        return 1; /* the failure is kept */
    }
    task.projection = cpu_i8_matrix_of(projection, H, H);
    task.first = cpu_i8_matrix_of(first, F, H);
    task.second = cpu_i8_matrix_of(second, H, F);
    task.row_bytes = (int64_t)widest_row(H, F);
    task.scratch = map_scratch(task.block, H, F);
    smhf_parallel_for((size_t)((count + task.block - 1) / task.block), 1, tail_body, &task);
    return 1;
}
