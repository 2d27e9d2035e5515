/* cpu_attention_first.c: attention of first tokens alone, without keys and values.
 *
 * Where one token of a sequence asks, keys and values of all the others are the long way round:
 *
 *     S[t] = q . (Wk x[t] + bk)            = (Wk^T q) . x[t] + q . bk
 *     sum_t p[t] (Wv x[t] + bv)            = Wv (sum_t p[t] x[t]) + bv sum_t p[t]
 *
 * Per head, Wk and Wv meet one vector of a sequence instead of every token; tokens are only read.
 * Exact: sums in another order. In fp32 whatever the model's precision: there is little to do.
 *
 * Forward: u = Wk^T q (a head, a group of sequences), then scores, softmax and z = sum p x (a
 * sequence, all heads as the rows of one tile), then out = Wv z (a head, a group). Backward: each
 * head makes its gradients of q and of the weights, then each token sums its gradient over heads;
 * one output has one writer, and sums have one order. */
#include "backend_cpu/cpu_device.h"
#include "common/pool.h"

#include <math.h>
#include <string.h>

#define ROWS_AT_ONCE 24 /* sequences: bounds the scratch */
#define GROUP 12        /* sequences that share a head's weights; a multiple of every tile_rows */

typedef struct first_task {
    cpu_device *cpu;
    const smhf_weight *weight;
    const float *keys, *values; /* panels of Wk and of Wv^T: any head is a part of them */
    smhf_tensor bias;
    const smhf_pack *pack;
    smhf_tensor out, lse, q, x;
    smhf_tensor dq, dx, dkv, dkv_bias, dout;
    smhf_dropout dropout;
    int32_t H, heads, D;
    float scale;
    int32_t row, rows; /* the sequences of this round */
    int64_t ld;        /* of u and z: H in whole panels */
    int64_t score_ld;
    float *u;       /* [rows, heads, ld] forward: u, then z in its place; backward: u */
    float *sums;    /* [rows, heads, 2]: sum of exp, sum of what dropout kept of it */
    float *dz;      /* [rows, heads, ld] backward */
    float *p, *ds;  /* [heads, tokens of the round] backward: probabilities, gradient of scores */
    int32_t tokens; /* of the round */
} first_task;

static int32_t least(int32_t a, int32_t b) {
    return a < b ? a : b;
}

static size_t up(size_t n, size_t multiple) {
    return (n + multiple - 1) / multiple * multiple;
}

static float *vector(const first_task *task, float *all, int32_t r, int32_t head) {
    return all + ((int64_t)r * task->heads + head) * task->ld;
}

/* Row `feature` of a head's share of Wk (part 0) or Wv (part 1). */
static float *weight_row(const first_task *task, smhf_tensor kv, int part, int32_t head,
                         int32_t feature) {
    return cpu_row(kv, (int64_t)part * task->H + head * task->D + feature);
}

static float *bias_of(const first_task *task, smhf_tensor bias, int part, int32_t head) {
    return (float *)bias.data + (int64_t)part * task->H + head * task->D;
}

static const cpu_draw *draw_of(cpu_draw *draw, const first_task *task, int32_t b, int32_t head) {
    const cpu_draw *on = cpu_draw_row(draw, &task->dropout, task->pack, SMHF_AXIS_ROWS, b);
    draw->head = (uint32_t)head;
    return on;
}

/* ---- forward -------------------------------------------------------------------------------- */

/* u = Wk^T q: one head, up to GROUP sequences. */
static void ask(const first_task *task, int32_t head, int32_t first, int32_t count, float *tile) {
    const cpu_kernels *kernels = task->cpu->kernels;
    const float *q = cpu_row(task->q, task->row + first) + head * task->D;
    (void)tile;
    for (int32_t j = 0; j < task->H; j += kernels->panel) {
        const float *panel = task->keys + (int64_t)j * task->H + head * task->D * kernels->panel;
        for (int32_t i = 0; i < count; i += kernels->tile_rows) {
            kernels->gemm_tile(vector(task, task->u, first + i, head) + j, task->heads * task->ld,
                               q + i * task->q.ld, task->q.ld, 1, panel, task->D,
                               least(count - i, kernels->tile_rows), NULL, 0);
        }
    }
}

/* Columns of finished z Wv^T that belong to the head, of up to a tile of sequences. */
static void answer_tile(const first_task *task, int32_t head, int32_t first, int32_t rows,
                        int32_t panel, const float *tile) {
    const int32_t width = task->cpu->kernels->panel;
    const int32_t begin = head * task->D > panel * width ? head * task->D : panel * width;
    const int32_t end = least((head + 1) * task->D, (panel + 1) * width);
    const float *bias = (const float *)task->bias.data + task->H;
    for (int32_t r = 0; r < rows; r++) {
        const float *sums = task->sums + 2 * ((first + r) * task->heads + head);
        float *out = cpu_row(task->out, task->row + first + r);
        for (int32_t c = begin; c < end; c++) {
            out[c] = (tile[r * width + c - panel * width] + bias[c] * sums[1]) / sums[0];
        }
    }
}

/* out = Wv z + bv: one head, up to GROUP sequences. */
static void answer(const first_task *task, int32_t head, int32_t first, int32_t count,
                   float *tile) {
    const cpu_kernels *kernels = task->cpu->kernels;
    const int32_t width = kernels->panel;
    for (int32_t j = head * task->D / width; j * width < (head + 1) * task->D; j++) {
        const float *panel = task->values + (int64_t)j * width * task->H;
        for (int32_t i = 0; i < count; i += kernels->tile_rows) {
            const int32_t rows = least(count - i, kernels->tile_rows);
            kernels->gemm_tile(tile, width, vector(task, task->u, first + i, head),
                               task->heads * task->ld, 1, panel, task->H, rows, NULL, 0);
            answer_tile(task, head, first + i, rows, j, tile);
        }
    }
}

/* Scores of one sequence become probabilities, not yet divided by their sum. */
static void weigh(const first_task *task, int32_t r, float *scores, int32_t S) {
    const cpu_kernels *kernels = task->cpu->kernels;
    const int32_t b = task->row + r;
    for (int32_t head = 0; head < task->heads; head++) {
        float *p = scores + head * task->score_ld,
              *sums = task->sums + 2 * (r * task->heads + head);
        const float shift = kernels->dot(cpu_row(task->q, b) + head * task->D,
                                         bias_of(task, task->bias, 0, head), task->D);
        float greatest, kept = 0.0f;
        cpu_draw draw;
        for (int32_t t = 0; t < S; t++) {
            p[t] += shift;
        }
        sums[0] = kernels->softmax_fwd(p, &greatest, task->scale, draw_of(&draw, task, b, head), S);
        for (int32_t t = 0; t < S; t++) {
            kept += p[t];
        }
        sums[1] = kept;
        if (task->lse.data != NULL) {
            cpu_row(task->lse, b)[head] = greatest + logf(sums[0]);
        }
    }
}

/* Scores, softmax and z = sum p x of one sequence; z takes the place of u. */
static void look(const first_task *task, int32_t r, float *panel, float *scores) {
    const cpu_kernels *kernels = task->cpu->kernels;
    const int32_t from = task->pack->cu_seqlens[task->row + r];
    const int32_t S = task->pack->cu_seqlens[task->row + r + 1] - from;
    float *u = vector(task, task->u, r, 0);
    for (int32_t t = 0; t < S; t += kernels->panel) {
        kernels->pack_columns(panel, cpu_row(task->x, from + t), task->x.ld,
                              least(S - t, kernels->panel), task->H);
        for (int32_t i = 0; i < task->heads; i += kernels->tile_rows) {
            kernels->gemm_tile(scores + i * task->score_ld + t, task->score_ld, u + i * task->ld,
                               task->ld, 1, panel, task->H,
                               least(task->heads - i, kernels->tile_rows), NULL, 0);
        }
    }
    weigh(task, r, scores, S);
    for (int32_t j = 0; j < task->H; j += kernels->panel) {
        kernels->pack_rows(panel, cpu_row(task->x, from) + j, task->x.ld,
                           least(task->H - j, kernels->panel), S);
        for (int32_t i = 0; i < task->heads; i += kernels->tile_rows) {
            kernels->gemm_tile(u + i * task->ld + j, task->ld, scores + i * task->score_ld,
                               task->score_ld, 1, panel, S,
                               least(task->heads - i, kernels->tile_rows), NULL, 0);
        }
    }
}

typedef void (*group_fn)(const first_task *task, int32_t head, int32_t first, int32_t count,
                         float *panel);

static void run_groups(const first_task *task, size_t begin, size_t end, group_fn run) {
    int slot = 0;
    float *scratch = cpu_slot_take(task->cpu, &slot);
    for (size_t i = begin; i < end; i++) {
        const int32_t first = (int32_t)(i / (size_t)task->heads) * GROUP;
        run(task, (int32_t)(i % (size_t)task->heads), first, least(task->rows - first, GROUP),
            scratch);
    }
    cpu_slot_give(task->cpu, slot);
}

static void ask_body(void *context, size_t begin, size_t end) {
    run_groups(context, begin, end, ask);
}

static void answer_body(void *context, size_t begin, size_t end) {
    run_groups(context, begin, end, answer);
}

/* Floats of a slot's scratch: a panel, then scores. */
static size_t panel_floats(const cpu_kernels *kernels, int32_t H, int32_t length) {
    return (size_t)(H > length ? H : length) * (size_t)kernels->panel;
}

static void look_body(void *context, size_t begin, size_t end) {
    const first_task *task = context;
    int slot = 0;
    float *scratch = cpu_slot_take(task->cpu, &slot);
    float *scores = scratch + panel_floats(task->cpu->kernels, task->H, task->pack->max_length);
    for (size_t r = begin; r < end; r++) {
        look(task, (int32_t)r, scratch, scores);
    }
    cpu_slot_give(task->cpu, slot);
}

/* ---- backward ------------------------------------------------------------------------------- */

/* y [n] = sum over i < count of alpha[i] * rows[i] */
static void combine(const cpu_kernels *kernels, float *y, const float *alpha, const float *rows,
                    int64_t ld, int32_t count, int32_t n) {
    memset(y, 0, (size_t)n * sizeof *y);
    for (int32_t i = 0; i < count; i++) {
        kernels->axpy(y, rows + i * ld, alpha[i], (size_t)n);
    }
}

/* One head of one sequence: p, ds, u and dz for the tokens, dq, and what the weights gain. */
static void head_bwd(const first_task *task, int32_t head, int32_t r, int32_t at, float *z,
                     float *du) {
    const cpu_kernels *kernels = task->cpu->kernels;
    const smhf_tensor kv = task->weight->source;
    const int32_t H = task->H, D = task->D, b = task->row + r;
    const int32_t from = task->pack->cu_seqlens[b], S = task->pack->cu_seqlens[b + 1] - from;
    const float *q = cpu_row(task->q, b) + head * D, *dout = cpu_row(task->dout, b) + head * D;
    const float *key_bias = bias_of(task, task->bias, 0, head);
    const float *value_bias = bias_of(task, task->bias, 1, head);
    float *u = vector(task, task->u, r, head), *dz = vector(task, task->dz, r, head);
    float *p = task->p + (int64_t)head * task->tokens + at;
    float *ds = task->ds + (int64_t)head * task->tokens + at;
    const float shift = kernels->dot(q, key_bias, D), dshift = kernels->dot(dout, value_bias, D);
    /* sum over keys of p dp, dropout included, is dout . out */
    const float delta = kernels->dot(dout, cpu_row(task->out, b) + head * D, D);
    float kept = 0.0f, asked = 0.0f;
    cpu_draw draw;

    combine(kernels, u, q, weight_row(task, kv, 0, head, 0), kv.ld, D, H);
    combine(kernels, dz, dout, weight_row(task, kv, 1, head, 0), kv.ld, D, H);
    for (int32_t t = 0; t < S; t++) {
        p[t] = kernels->dot(u, cpu_row(task->x, from + t), H) + shift;
        ds[t] = kernels->dot(dz, cpu_row(task->x, from + t), H) + dshift;
    }
    kernels->softmax_bwd(p, ds, cpu_row(task->lse, b)[head], delta, task->scale,
                         draw_of(&draw, task, b, head), S);
    for (int32_t t = 0; t < S; t++) {
        kept += p[t];
        asked += ds[t];
    }
    combine(kernels, z, p, cpu_row(task->x, from), task->x.ld, S, H);
    combine(kernels, du, ds, cpu_row(task->x, from), task->x.ld, S, H);
    for (int32_t d = 0; d < D; d++) {
        cpu_row(task->dq, b)[head * D + d] =
            kernels->dot(weight_row(task, kv, 0, head, d), du, H) + key_bias[d] * asked;
        if (task->dkv.data != NULL) {
            kernels->axpy(weight_row(task, task->dkv, 0, head, d), du, q[d], (size_t)H);
            kernels->axpy(weight_row(task, task->dkv, 1, head, d), z, dout[d], (size_t)H);
        }
        if (task->dkv_bias.data != NULL) {
            bias_of(task, task->dkv_bias, 0, head)[d] += asked * q[d];
            bias_of(task, task->dkv_bias, 1, head)[d] += kept * dout[d];
        }
    }
}

static void heads_body(void *context, size_t begin, size_t end) {
    const first_task *task = context;
    int slot = 0;
    float *scratch = cpu_slot_take(task->cpu, &slot);
    const int32_t *starts = task->pack->cu_seqlens + task->row;
    for (size_t head = begin; head < end; head++) {
        for (int32_t r = 0; r < task->rows; r++) {
            head_bwd(task, (int32_t)head, r, starts[r] - starts[0], scratch, scratch + task->ld);
        }
    }
    cpu_slot_give(task->cpu, slot);
}

/* dx[t] = sum over heads of p[t] dz + ds[t] u */
static void tokens_body(void *context, size_t begin, size_t end) {
    const first_task *task = context;
    const cpu_kernels *kernels = task->cpu->kernels;
    const int32_t first = task->pack->cu_seqlens[task->row];
    for (size_t t = begin; t < end; t++) {
        const int32_t r = task->pack->token_rows[first + (int32_t)t] - task->row;
        float *dx = cpu_row(task->dx, first + (int64_t)t);
        memset(dx, 0, (size_t)task->H * sizeof *dx);
        for (int32_t head = 0; head < task->heads; head++) {
            const size_t at = (size_t)head * (size_t)task->tokens + t;
            kernels->axpy(dx, vector(task, task->dz, r, head), task->p[at], (size_t)task->H);
            kernels->axpy(dx, vector(task, task->u, r, head), task->ds[at], (size_t)task->H);
        }
    }
}

/* ---- the weight ----------------------------------------------------------------------------- */

/* Panels are whole-matrix ones: a head is some lines of each panel of Wk, some panels of Wv^T. */
static void pack_first(void *panels, const smhf_weight *weight, uint32_t use,
                       const cpu_features *features) {
    const cpu_kernels *kernels = features->kernels;
    const smhf_tensor kv = weight->source;
    const int32_t H = kv.cols, width = kernels->panel;
    float *keys = panels, *values = keys + (size_t)H * up((size_t)H, (size_t)width);
    (void)use;
    for (int32_t j = 0; j < H; j += width) {
        kernels->pack_rows(keys + (int64_t)j * H, cpu_row(kv, 0) + j, kv.ld, least(H - j, width),
                           H);
        kernels->pack_columns(values + (int64_t)j * H, cpu_row(kv, H + j), kv.ld,
                              least(H - j, width), H);
    }
}

const void *cpu_attention_first_panels(cpu_device *cpu, const smhf_weight *weight) {
    const size_t H = (size_t)weight->source.cols;
    const size_t floats = 2 * H * up(H, (size_t)cpu->kernels->panel);
    SMHF_ASSERT(weight->source.rows == 2 * weight->source.cols);
    return cpu_weight_panels(cpu, weight, SMHF_WEIGHT_FORWARD, floats * sizeof(float), pack_first);
}

/* ---- the ops -------------------------------------------------------------------------------- */

static first_task task_of(cpu_device *cpu, smhf_tensor q, smhf_tensor x, const smhf_weight *kv,
                          smhf_tensor bias, const smhf_pack *pack, int32_t heads, float scale,
                          smhf_dropout dropout) {
    first_task task = {.cpu = cpu, .weight = kv, .bias = bias, .q = q, .x = x, .pack = pack};
    task.dropout = dropout;
    task.H = x.cols;
    task.heads = heads;
    task.D = x.cols / heads;
    task.scale = scale;
    task.ld = (int64_t)up((size_t)task.H, (size_t)cpu->kernels->panel);
    task.score_ld = (int64_t)up((size_t)pack->max_length, (size_t)cpu->kernels->panel) + 16;
    return task;
}

/* The next round of sequences; 0 when there is none. */
static int next_round(first_task *task) {
    task->row += task->rows;
    task->rows = least(task->pack->rows - task->row, ROWS_AT_ONCE);
    if (task->rows <= 0) {
        return 0;
    }
    const int32_t *starts = task->pack->cu_seqlens + task->row;
    task->tokens = starts[task->rows] - starts[0];
    return 1;
}

size_t cpu_attention_first_scratch(const cpu_kernels *kernels, int32_t hidden, int32_t heads,
                                   int32_t length) {
    const size_t score_ld = up((size_t)length, (size_t)kernels->panel) + 16;
    const size_t forward = panel_floats(kernels, hidden, length) + (size_t)heads * score_ld;
    const size_t backward = 2 * up((size_t)hidden, (size_t)kernels->panel);
    return (forward > backward ? forward : backward) * sizeof(float);
}

size_t cpu_attention_first_partials(const cpu_kernels *kernels, int32_t hidden, int32_t heads,
                                    int32_t rows, int32_t tokens, int training) {
    const size_t vectors = (size_t)least(rows, ROWS_AT_ONCE) * (size_t)heads;
    const size_t ld = up((size_t)hidden, (size_t)kernels->panel);
    return sizeof(float) *
           (training ? 2 * (vectors * ld + (size_t)heads * (size_t)tokens) : vectors * (ld + 2));
}

static float *reserve(const first_task *task, int training) {
    const cpu_kernels *kernels = task->cpu->kernels;
    const smhf_pack *pack = task->pack;
    const int32_t wide = least(pack->rows, ROWS_AT_ONCE) * pack->max_length;
    return cpu_slots_reserve(task->cpu, cpu_attention_first_scratch(kernels, task->H, task->heads,
                                                                    pack->max_length))
               ? cpu_partials_reserve(task->cpu, cpu_attention_first_partials(
                                                     kernels, task->H, task->heads, pack->rows,
                                                     least(wide, pack->tokens), training))
               : NULL;
}

void cpu_attention_first_fwd(smhf_device *dev, smhf_tensor out, smhf_tensor lse, smhf_tensor q,
                             smhf_tensor x, const smhf_weight *kv, smhf_tensor kv_bias,
                             const smhf_pack *pack, int32_t heads, float scale,
                             smhf_dropout dropout) {
    cpu_device *cpu = cpu_begin(dev);
    if (cpu == NULL || !CPU_ALL_F32(dev, "attention_first_fwd", out, lse, q, x, kv_bias)) {
        return;
    }
    first_task task = task_of(cpu, q, x, kv, kv_bias, pack, heads, scale, dropout);
    task.keys = cpu_attention_first_panels(cpu, kv);
    task.u = reserve(&task, 0);
    if (task.keys == NULL || task.u == NULL) {
        return; /* the failure is kept */
    }
    task.values = task.keys + (size_t)task.H * (size_t)task.ld;
    task.out = out;
    task.lse = lse;
    while (next_round(&task)) {
        const size_t groups = ((size_t)task.rows + GROUP - 1) / GROUP * (size_t)task.heads;
        task.sums = task.u + (int64_t)task.rows * task.heads * task.ld;
        smhf_parallel_for(groups, 1, ask_body, &task);
        smhf_parallel_for((size_t)task.rows, 1, look_body, &task);
        smhf_parallel_for(groups, 1, answer_body, &task);
    }
}

void cpu_attention_first_bwd(smhf_device *dev, smhf_tensor dq, smhf_tensor dx, smhf_tensor dkv,
                             smhf_tensor dkv_bias, smhf_tensor dout, smhf_tensor out,
                             smhf_tensor lse, smhf_tensor q, smhf_tensor x, const smhf_weight *kv,
                             smhf_tensor kv_bias, const smhf_pack *pack, int32_t heads, float scale,
                             smhf_dropout dropout) {
    cpu_device *cpu = cpu_begin(dev);
    if (cpu == NULL || !CPU_ALL_F32(dev, "attention_first_bwd", dq, dx, dkv, dkv_bias, dout, out,
                                    lse, q, x, kv_bias)) {
        return;
    }
    first_task task = task_of(cpu, q, x, kv, kv_bias, pack, heads, scale, dropout);
    float *partials = reserve(&task, 1);
    if (partials == NULL) {
        return;
    }
    task.out = out;
    task.lse = lse;
    task.dq = dq;
    task.dx = dx;
    task.dkv = dkv;
    task.dkv_bias = dkv_bias;
    task.dout = dout;
    while (next_round(&task)) {
        const size_t vectors = (size_t)task.rows * (size_t)task.heads * (size_t)task.ld;
        task.u = partials;
        task.dz = task.u + vectors;
        task.p = task.dz + vectors;
        task.ds = task.p + (size_t)task.heads * (size_t)task.tokens;
        smhf_parallel_for((size_t)task.heads, 1, heads_body, &task);
        if (dx.data != NULL) {
            smhf_parallel_for((size_t)task.tokens, cpu_rows_chunk(task.H), tokens_body, &task);
        }
    }
}
