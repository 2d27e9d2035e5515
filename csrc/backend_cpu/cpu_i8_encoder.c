/* cpu_i8_encoder.c: whole encoder layers with int8 weights and attention in bf16, for inference.
 *
 * Two parts of a layer need nothing from elsewhere: a head of a group of whole sequences (its
 * columns of q, k, v, then its attention), and a block of rows behind attention (cpu_i8_layer.c).
 * What lies inside a part stays in the cache of its thread: q, k and v of a head are written in
 * bf16, as attention reads them. Two ways through the layers:
 *  - apart: a thread takes a group of sequences through all layers, and nobody waits for anybody.
 *  - together: all threads share the heads of a layer, then its blocks; for few, long sequences.
 * Both give the bits of the ops one by one: a part's result depends on its own rows alone. */
#include "backend_cpu/cpu_i8_layer.h"
#include "common/pool.h"

#define GROUP_MOST 160 /* tokens, unless one sequence has more: a group's rows fit the cache */
#define GROUP_LEAST 48 /* tokens aimed at where the last groups get smaller */
#define LAYERS_MOST 32
#define TOKENS_MOST 16384 /* times layers, in one call: the caller looks for Ctrl-C in between */
#define LEAST_APART 24    /* tokens for each thread; below, weights are better read once */
#define ROWS_PADDED 32    /* tiles of `whole` kernels read that many */

/* Whole sequences that follow each other. */
typedef struct seq_group {
    int32_t sequence, sequences;
    int32_t row, rows; /* tokens */
    int32_t q_row;     /* where its quantised rows begin */
} seq_group;

typedef struct encoder_task {
    cpu_device *cpu;
    cpu_i8_run run;
    const cpu_bf16_kernels *bf16;
    cpu_i8_tail tail;
    const cpu_i8_layer *layers;
    int32_t count;
    int32_t layer; /* together: the one at work */
    int32_t heads, size;
    smhf_tensor x, context;
    const smhf_pack *pack;
    seq_group *groups;
    int32_t group_count;
    cpu_i8_rows rows; /* x, quantised */
    size_t attention_at;
} encoder_task;

static int32_t lines_for(int32_t width) {
    return cpu_lowp_round_up(width, 4 * CPU_LOWP_LINES) / 4;
}

static int32_t greater(int32_t a, int32_t b) {
    return a > b ? a : b;
}

/* ---- groups --------------------------------------------------------------------------------- */

/* Sequences in order, cut into groups that get smaller towards the end, so that threads end
 * together; then the largest first. */
static int32_t make_groups(seq_group *groups, const smhf_pack *pack, int32_t threads, int padded) {
    const int32_t *starts = pack->cu_seqlens;
    int32_t count = 0;
    for (int32_t b = 0; b < pack->rows;) {
        const int32_t share = (pack->tokens - starts[b]) / (2 * threads);
        const int32_t target = share < GROUP_LEAST  ? GROUP_LEAST
                               : share > GROUP_MOST ? GROUP_MOST
                                                    : share;
        int32_t end = b + 1;
        while (end < pack->rows && starts[end + 1] - starts[b] <= target) {
            end++;
        }
        seq_group g = {.sequence = b, .sequences = end - b, .row = starts[b]};
        g.rows = starts[end] - starts[b];
        g.q_row = g.row + (padded ? count * ROWS_PADDED : 0);
        int32_t at = count++;
        for (; at > 0 && groups[at - 1].rows < g.rows; at--) {
            groups[at] = groups[at - 1];
        }
        groups[at] = g;
        b = end;
    }
    return count;
}

#define THREADS_MOST 64

/* Tokens of the busiest thread if each takes the next group as soon as it is free. */
static int32_t busiest(const seq_group *groups, int32_t count, int32_t threads) {
    int32_t load[THREADS_MOST] = {0}, most = 0;
    for (int32_t g = 0; g < count; g++) {
        int32_t least = 0;
        for (int32_t t = 1; t < threads; t++) {
            least = load[t] < load[least] ? t : least;
        }
        load[least] += groups[g].rows;
        most = greater(most, load[least]);
    }
    return most;
}

/* ---- the parts ------------------------------------------------------------------------------ */

static void quantize_rows(const encoder_task *task, int32_t row, int32_t q_row, int32_t rows) {
    const cpu_i8_matrix *m = &task->layers[0].qkv;
    for (int32_t r = 0; r < rows; r++) {
        task->run.i8->quantize(task->rows.q + (q_row + r) * task->rows.row_bytes,
                               &task->rows.info[q_row + r], cpu_row(task->x, row + r), m->k,
                               4 * m->lines, task->run.i8->levels);
    }
}

/* One panel of outputs for all rows of `a`, in bf16. */
static void project_panel(const encoder_task *task, const cpu_i8_matrix *m, int32_t panel,
                          int32_t next, const cpu_i8_activations *a, int32_t rows,
                          const float *bias, uint16_t *out, int64_t ld) {
    const cpu_i8_kernels *i8 = task->run.i8;
    const size_t bytes = (size_t)m->lines * CPU_LOWP_LINE;
    const int8_t *weights = m->panels + (size_t)panel * bytes;
    const int exact = cpu_i8_outliers_of(m->outliers, panel, m->k)->count == 0;
    const int32_t parts = (rows + i8->rows - 1) / i8->rows;
    const int32_t part = i8->whole ? i8->rows : (rows + parts - 1) / parts;
    cpu_i8_finish finish = {.scales = m->scales + panel * CPU_I8_COLS,
                            .totals = m->totals + panel * CPU_I8_COLS,
                            .bias = bias};
    for (int32_t r = 0; r < rows; r += part) {
        const int count = rows - r < part ? rows - r : part;
        if (exact && task->bf16->finish_i8 != NULL) {
            int32_t sums[32 * CPU_I8_COLS];
            cpu_i8_tile(i8, sums, a->q + r * a->row_bytes, a->row_bytes, weights, m->lines, count,
                        m->panels + (size_t)next * bytes, r / part, parts);
            finish.rows = a->rows + r;
            task->bf16->finish_i8(out + r * ld, ld, sums, count, &finish);
            continue;
        }
        float values[32 * CPU_I8_COLS];
        cpu_i8_panel_run(&task->run, m, panel, a, r, count, values, CPU_I8_COLS, finish);
        for (int i = 0; i < count; i++) {
            task->bf16->round(out + (r + i) * ld, values + i * CPU_I8_COLS, CPU_I8_COLS,
                              CPU_I8_COLS);
        }
    }
}

/* Where column i of a head's q | k | v lies among all heads'. */
static int32_t column_of(int32_t i, int32_t hidden, int32_t size, int32_t head) {
    return i / size * hidden + head * size + i % size;
}

/* q, k and v of one head, then its attention. */
static void run_head(const encoder_task *task, const cpu_i8_layer *layer, const seq_group *g,
                     int32_t head, char *scratch) {
    const int32_t H = task->x.cols, D = task->size;
    const cpu_i8_matrix *m = &layer->qkv;
    const float *bias = layer->layer->kv_bias.data;
    const cpu_i8_activations a = {task->rows.q + g->q_row * task->rows.row_bytes,
                                  task->rows.row_bytes, task->rows.info + g->q_row,
                                  cpu_row(task->x, g->row), task->x.ld};
    uint16_t *qkv = (uint16_t *)(void *)scratch;
    const int64_t ld = 3 * D;
    for (int32_t i = 0; i < 3 * D; i += CPU_I8_COLS) {
        const int32_t col = column_of(i, H, D, head);
        const int32_t next = i + CPU_I8_COLS < 3 * D ? column_of(i + CPU_I8_COLS, H, D, head)
                                                     : column_of(0, H, D, (head + 1) % task->heads);
        project_panel(task, m, col / CPU_I8_COLS, next / CPU_I8_COLS, &a, g->rows,
                      bias != NULL ? bias + col : NULL, qkv + i, ld);
    }
    for (int32_t b = g->sequence; b < g->sequence + g->sequences; b++) {
        const int32_t row = task->pack->cu_seqlens[b];
        const uint16_t *q = qkv + (row - g->row) * ld;
        const cpu_bf16_head one = {
            .bf16 = task->bf16,
            .kernels = task->run.kernels,
            .q = q,
            .k = q + D,
            .v = q + 2 * D,
            .ld = ld,
            .length = task->pack->cu_seqlens[b + 1] - row,
            .size = D,
            .scale = layer->layer->scale,
            .out = cpu_row(task->context, row) + head * D,
            .out_ld = task->context.ld,
        };
        cpu_bf16_attend(&one, scratch + task->attention_at);
    }
}

static void run_block(const encoder_task *task, int32_t layer, int32_t row, int32_t q_row,
                      int32_t rows, char *scratch) {
    cpu_i8_tail_rows_of block = {
        .context = cpu_row(task->context, row),
        .residual = cpu_row(task->x, row),
        .out = cpu_row(task->x, row),
        .context_ld = task->context.ld,
        .residual_ld = task->x.ld,
        .out_ld = task->x.ld,
        .rows = rows,
    };
    if (layer + 1 < task->count) {
        block.next = task->rows;
        block.next.q += q_row * block.next.row_bytes;
        block.next.info += q_row;
    }
    cpu_i8_tail_block(&task->tail, &task->layers[layer], scratch, &block);
}

/* ---- the two ways --------------------------------------------------------------------------- */

static char *enter(const encoder_task *task, int *slot) {
    char *scratch = cpu_slot_take(task->cpu, slot);
    if (task->run.i8->begin != NULL) {
        task->run.i8->begin();
    }
    return scratch;
}

static void leave(const encoder_task *task, int slot) {
    if (task->run.i8->end != NULL) {
        task->run.i8->end();
    }
    cpu_slot_give(task->cpu, slot);
}

static void apart_body(void *context, size_t begin, size_t end) {
    const encoder_task *task = context;
    int slot = 0;
    char *scratch = enter(task, &slot);
    for (size_t i = begin; i < end; i++) {
        const seq_group *g = &task->groups[i];
        const int32_t blocks = (g->rows + task->tail.block - 1) / task->tail.block;
        const int32_t block = (g->rows + blocks - 1) / blocks;
        quantize_rows(task, g->row, g->q_row, g->rows);
        for (int32_t l = 0; l < task->count; l++) {
            for (int32_t head = 0; head < task->heads; head++) {
                run_head(task, &task->layers[l], g, head, scratch);
            }
            for (int32_t r = 0; r < g->rows; r += block) {
                run_block(task, l, g->row + r, g->q_row + r,
                          g->rows - r < block ? g->rows - r : block, scratch);
            }
        }
    }
    leave(task, slot);
}

static void quantize_body(void *context, size_t begin, size_t end) {
    const encoder_task *task = context;
    quantize_rows(task, (int32_t)begin, (int32_t)begin, (int32_t)(end - begin));
}

static void heads_body(void *context, size_t begin, size_t end) {
    const encoder_task *task = context;
    int slot = 0;
    char *scratch = enter(task, &slot);
    for (size_t i = begin; i < end; i++) {
        run_head(task, &task->layers[task->layer], &task->groups[i / (size_t)task->heads],
                 (int32_t)(i % (size_t)task->heads), scratch);
    }
    leave(task, slot);
}

static void blocks_body(void *context, size_t begin, size_t end) {
    const encoder_task *task = context;
    int slot = 0;
    char *scratch = enter(task, &slot);
    for (size_t i = begin; i < end; i++) {
        const int32_t row = (int32_t)i * task->tail.block, left = task->pack->tokens - row;
        run_block(task, task->layer, row, row, left < task->tail.block ? left : task->tail.block,
                  scratch);
    }
    leave(task, slot);
}

static void run_together(encoder_task *task) {
    const int32_t T = task->pack->tokens, block = task->tail.block;
    smhf_parallel_for((size_t)T, cpu_rows_chunk(task->x.cols), quantize_body, task);
    for (task->layer = 0; task->layer < task->count; task->layer++) {
        smhf_parallel_for((size_t)(task->group_count * task->heads), 1, heads_body, task);
        smhf_parallel_for((size_t)((T + block - 1) / block), 1, blocks_body, task);
    }
}

/* ---- the op --------------------------------------------------------------------------------- */

/* Scratch of a slot: q, k, v of a head of a group, then attention's; or a block's. */
static size_t attention_offset(int32_t length, int32_t size) {
    const int32_t rows = greater(length, GROUP_MOST) + ROWS_PADDED;
    return ((size_t)rows * 3 * (size_t)size * sizeof(uint16_t) + 63) / 64 * 64;
}

static size_t scratch_bytes(int32_t length, int32_t size, int32_t hidden, int32_t ffn) {
    const size_t heads = attention_offset(length, size) + cpu_bf16_attention_scratch(length, size);
    const size_t tail = cpu_i8_tail_scratch(hidden, ffn);
    return heads > tail ? heads : tail;
}

/* Of the op: groups, and x quantised; a group has ROWS_PADDED rows behind it where tiles read them,
 * because another thread may be writing what follows. */
static size_t q_rows(int32_t tokens, int32_t rows) {
    const int32_t groups = tokens / (GROUP_LEAST / 2) + 1; /* two neighbours have more than that */
    return (size_t)tokens + ROWS_PADDED * (size_t)((rows < groups ? rows : groups) + 1);
}

static size_t info_offset(int32_t rows) {
    return ((size_t)rows * sizeof(seq_group) + 63) / 64 * 64;
}

static size_t q_offset(int32_t tokens, int32_t rows) {
    return info_offset(rows) + (q_rows(tokens, rows) * sizeof(cpu_i8_row) + 63) / 64 * 64;
}

static size_t partials_bytes(int32_t tokens, int32_t rows, int32_t hidden) {
    return q_offset(tokens, rows) + q_rows(tokens, rows) * cpu_lowp_row_bytes(lines_for(hidden), 0);
}

static int serves(const cpu_features *features, int32_t hidden, int32_t heads) {
    return cpu_bf16_attention_kernels(features) != NULL && heads > 0 && hidden % heads == 0 &&
           hidden / heads % CPU_I8_COLS == 0;
}

size_t cpu_i8_encoder_scratch(const cpu_features *features, const smhf_limits *limits) {
    return serves(features, limits->hidden, limits->heads)
               ? scratch_bytes(limits->length, limits->hidden / limits->heads, limits->hidden,
                               limits->ffn)
               : cpu_i8_tail_scratch(limits->hidden, limits->ffn);
}

size_t cpu_i8_encoder_partials(const cpu_features *features, const smhf_limits *limits) {
    return serves(features, limits->hidden, limits->heads)
               ? partials_bytes(limits->tokens, limits->rows, limits->hidden)
               : 0;
}

static int takes(const smhf_layer *layer, const smhf_layer *like, int32_t hidden) {
    return cpu_i8_is(layer->kv) && layer->q == NULL && layer->kv->source.rows == 3 * hidden &&
           cpu_i8_is(layer->out) && cpu_i8_is(layer->ffn1) && cpu_i8_is(layer->ffn2) &&
           layer->act == SMHF_ACT_GELU && layer->heads == like->heads &&
           layer->ffn1->source.rows == like->ffn1->source.rows;
}

static int get_layers(cpu_device *cpu, cpu_i8_layer *out, const smhf_layer *layers, int32_t count) {
    for (int32_t l = 0; l < count; l++) {
        const smhf_layer *from = &layers[l];
        out[l].layer = from;
        if (!cpu_i8_matrix_get(cpu, from->kv, &out[l].qkv) ||
            !cpu_i8_matrix_get(cpu, from->out, &out[l].projection) ||
            !cpu_i8_matrix_get(cpu, from->ffn1, &out[l].first) ||
            !cpu_i8_matrix_get(cpu, from->ffn2, &out[l].second)) {
            return 0;
        }
    }
    return 1;
}

/* Which way suits the batch; fills what depends on it. 0: neither. */
static int choose(encoder_task *task, int *apart) {
    const int32_t T = task->pack->tokens, threads = smhf_pool_threads();
    task->group_count =
        make_groups(task->groups, task->pack, threads < THREADS_MOST ? threads : THREADS_MOST,
                    task->run.i8->whole);
    if (threads <= THREADS_MOST && T >= threads * LEAST_APART) {
        const int64_t most = busiest(task->groups, task->group_count, threads);
        *apart = most * threads * 25 <= (int64_t)T * 26;
        if (*apart) {
            return 1;
        }
    }
    for (int32_t g = 0; g < task->group_count; g++) { /* nobody writes while tiles read */
        task->groups[g].q_row = task->groups[g].row;
    }
    const int32_t parts = task->group_count * task->heads;
    const int32_t rounds = (parts + threads - 1) / threads;
    task->tail.block = cpu_i8_tail_rows(T, task->tail.block);
    return task->tail.block > 0 && parts * 7 >= rounds * threads * 6;
}

int32_t cpu_layers_fwd(smhf_device *dev, smhf_tensor x, smhf_tensor room, const smhf_layer *layers,
                       int32_t count, const smhf_pack *pack, smhf_dtype compute) {
    cpu_device *cpu = cpu_begin(dev);
    if (cpu == NULL || count == 0 || pack->tokens == 0) {
        return count;
    }
    const int32_t H = x.cols, T = pack->tokens;
    if (compute != SMHF_DTYPE_BF16 || cpu->refined || !cpu->own_kernels ||
        !serves(&cpu->features, H, layers[0].heads)) {
        return 0;
    }
    count = count < LAYERS_MOST ? count : LAYERS_MOST;
    count = count < TOKENS_MOST / T ? count : greater(TOKENS_MOST / T, 1);
    for (int32_t l = 0; l < count; l++) {
        count = takes(&layers[l], &layers[0], H) ? count : l;
    }
    if (count == 0 || !CPU_ALL_F32(dev, "layers_fwd", x, room)) {
        return count;
    }
    const int32_t size = H / layers[0].heads, F = layers[0].ffn1->source.rows;
    char *partials = cpu_partials_reserve(cpu, partials_bytes(T, pack->rows, H));
    cpu_i8_layer got[LAYERS_MOST];
    if (partials == NULL || !get_layers(cpu, got, layers, count) ||
        !cpu_slots_reserve(cpu, scratch_bytes(pack->max_length, size, H, F))) {
        return count; /* the failure is kept */
    }
    encoder_task task = {.cpu = cpu, .layers = got, .count = count, .x = x, .context = room};
    task.run = (cpu_i8_run){cpu_i8_kernels_of(&cpu->features), cpu->kernels};
    task.bf16 = cpu_bf16_attention_kernels(&cpu->features);
    task.tail = cpu_i8_tail_of(&task.run, H, F, 0);
    task.heads = layers[0].heads;
    task.size = size;
    task.pack = pack;
    task.groups = (seq_group *)(void *)partials;
    task.rows.info = (cpu_i8_row *)(void *)(partials + info_offset(pack->rows));
    task.rows.q = (uint8_t *)partials + q_offset(T, pack->rows);
    task.rows.row_bytes = (int64_t)cpu_lowp_row_bytes(lines_for(H), 0);
    task.attention_at = attention_offset(pack->max_length, size);
    int apart = 0;
    if (!choose(&task, &apart)) {
        return 0;
    }
    if (apart) {
        smhf_parallel_for((size_t)task.group_count, 1, apart_body, &task);
    } else {
        run_together(&task);
    }
    return count;
}
