/* plan.c: one bump over a block; the order of the lines below is the order in memory. */
#include "model/plan.h"

#include <stdint.h>

#define ALIGN 256

typedef struct cursor {
    uintptr_t base; /* 0 while only counting */
    size_t at;
    int overflow;
} cursor;

static smhf_tensor take(cursor *c, int32_t rows, int32_t cols, smhf_dtype dtype) {
    size_t bytes = 0, end = 0;
    if (__builtin_mul_overflow((size_t)rows, (size_t)cols * smhf_dtype_size(dtype), &bytes) ||
        __builtin_add_overflow(c->at, bytes, &end) || end > SIZE_MAX - ALIGN) {
        c->overflow = 1;
        return SMHF_TENSOR_NONE;
    }
    const smhf_tensor tensor = smhf_tensor_of((void *)(c->base + c->at), rows, cols, dtype);
    c->at = (end + ALIGN - 1) / ALIGN * ALIGN;
    return tensor;
}

/* The same memory seen with other sizes (a smaller or equal number of bytes). */
static smhf_tensor reuse(smhf_tensor tensor, int32_t rows, int32_t cols) {
    return smhf_tensor_of(tensor.data, rows, cols, tensor.dtype);
}

/* Rows a multiple of 2 KiB apart would all lie in the same few sets of a processor's first cache.
 */
static int32_t gap_of(int32_t cols, smhf_dtype dtype) {
    return ((size_t)cols * smhf_dtype_size(dtype)) % 2048 == 0 ? 32 : 0;
}

/* The first columns of wider rows: a gap stays between them. */
static smhf_tensor narrow(smhf_tensor tensor, int32_t cols) {
    tensor.cols = cols;
    return tensor;
}

/* q, k and v as columns: of one [T, 3H] tensor, or k and v of a [T, 2H] one beside a given q. */
static void split(smhf_layer_activations *a, int cls_layer, int32_t H) {
    if (cls_layer) {
        a->k = smhf_tensor_cols(a->kv, 0, H);
        a->v = smhf_tensor_cols(a->kv, H, H);
        return;
    }
    a->q = smhf_tensor_cols(a->kv, 0, H);
    a->k = smhf_tensor_cols(a->kv, H, H);
    a->v = smhf_tensor_cols(a->kv, 2 * H, H);
}

/* Four buffers A, B, C, G serve all layers that keep nothing: x and out lie in A, context and
 * hidden in B, both branch outputs in C, and q|k|v and the feed-forward activations in G. */
typedef struct passing_room {
    smhf_tensor a, b, c, g; /* [T, H] three times; the wider of [T, 3H] and [T, F + gap] */
    smhf_tensor cls, q_cls; /* [B, H] */
    int32_t wide;
} passing_room;

static passing_room take_passing(cursor *c, const smhf_plan_shape *shape, smhf_tensor a) {
    const int32_t T = shape->tokens, B = shape->rows, H = shape->config->hidden,
                  F = shape->config->feedforward;
    passing_room room = {.a = a, .wide = F + gap_of(F, shape->dtype)};
    room.b = take(c, T, H, shape->dtype);
    room.c = take(c, T, H, shape->dtype);
    room.g = take(c, T, room.wide > 3 * H ? room.wide : 3 * H, shape->dtype);
    room.cls = take(c, B, H, shape->dtype);
    room.q_cls = take(c, B, H, shape->dtype);
    return room;
}

static void plan_passing_layer(smhf_plan *plan, int32_t l, const passing_room *room) {
    const smhf_config *config = plan->shape.config;
    const int32_t T = plan->shape.tokens, B = plan->shape.rows, H = config->hidden;
    const int cls_layer = smhf_config_cls_layer(config, l);
    const int32_t n = cls_layer ? B : T;
    smhf_layer_activations *a = &plan->layers[l];
    *a = (smhf_layer_activations){0};
    a->x = room->a;
    a->kv = reuse(room->g, T, cls_layer ? 2 * H : 3 * H);
    a->cls = cls_layer ? room->cls : SMHF_TENSOR_NONE;
    a->q = room->q_cls;
    split(a, cls_layer, H);
    a->context = a->hidden = reuse(room->b, n, H);
    a->projected = a->ffn_out = reuse(room->c, n, H);
    a->ffn = narrow(reuse(room->g, n, room->wide), config->feedforward);
    a->out = reuse(room->a, n, H);
}

static void plan_inference(smhf_plan *plan, cursor *c) {
    const smhf_config *config = plan->shape.config;
    const int32_t T = plan->shape.tokens, B = plan->shape.rows, H = config->hidden,
                  L = config->layers;
    plan->embedded = take(c, T, H, plan->shape.dtype);
    const passing_room room = take_passing(c, &plan->shape, plan->embedded);
    for (int32_t l = 0; l < L; l++) {
        plan_passing_layer(plan, l, &room);
    }
    plan->pooled = plan->dropped = reuse(room.b, B, H);
    if (config->head == SMHF_HEAD_MASKED) {
        plan->picked = plan->picked_out = take(c, plan->shape.picks, H, plan->shape.dtype);
        plan->picked_act = take(c, plan->shape.picks, H, plan->shape.dtype);
    }
    if (config->head != SMHF_HEAD_SEQUENCE) {
        plan->dropped = plan->layers[L - 1].out;
    }
}

/* What the loss compares with: class numbers, or numbers, or two positions. */
static smhf_tensor plan_targets(cursor *c, const smhf_plan_shape *shape) {
    const smhf_config *config = shape->config;
    const int32_t B = shape->rows;
    switch (config->head) {
    case SMHF_HEAD_TOKEN:
        return take(c, shape->tokens, 1, SMHF_DTYPE_I32);
    case SMHF_HEAD_MASKED:
        return take(c, shape->picks, 1, SMHF_DTYPE_I32);
    case SMHF_HEAD_SPAN:
        return take(c, B, 2, SMHF_DTYPE_I32);
    default: /* room for numbers: a classifier may be given probabilities */
        return take(c, B, config->num_labels, SMHF_DTYPE_F32);
    }
}

/* Everything of a layer that its backward pass reads, but input and output. */
static void plan_inside(smhf_plan *plan, cursor *c, int32_t l) {
    const smhf_config *config = plan->shape.config;
    const int32_t T = plan->shape.tokens, B = plan->shape.rows, H = config->hidden,
                  F = config->feedforward;
    const smhf_dtype dtype = plan->shape.dtype;
    const int cls_layer = smhf_config_cls_layer(config, l);
    const int32_t n = cls_layer ? B : T;
    smhf_layer_activations *a = &plan->layers[l];
    if (cls_layer) {
        a->cls = take(c, B, H, dtype);
        a->q = take(c, B, H, dtype);
    }
    if (!cls_layer || !plan->shape.keyless) {
        a->kv = take(c, T, cls_layer ? 2 * H : 3 * H, dtype);
        split(a, cls_layer, H);
    }
    a->lse = take(c, n, config->heads, SMHF_DTYPE_F32);
    a->context = take(c, n, H, dtype);
    a->projected = a->sum1 = take(c, n, H, dtype);
    a->stats1 = take(c, n, 2, SMHF_DTYPE_F32);
    a->hidden = take(c, n, H, dtype);
    a->pre = narrow(take(c, n, F + gap_of(F, dtype), dtype), F);
    a->ffn = narrow(take(c, n, F + gap_of(F, dtype), dtype), F);
    a->ffn_out = a->sum2 = take(c, n, H, dtype);
    a->stats2 = take(c, n, 2, SMHF_DTYPE_F32);
}

/* Memory from c->at on may be given out again; what was there counts for the whole. */
static void rewind_to(cursor *c, size_t at, size_t *most) {
    *most = c->at > *most ? c->at : *most;
    c->at = at;
}

static void plan_layers(smhf_plan *plan, cursor *c) {
    const smhf_config *config = plan->shape.config;
    const int32_t T = plan->shape.tokens, B = plan->shape.rows, H = config->hidden,
                  L = config->layers;
    const int32_t first = plan->shape.lowest > 0 ? plan->shape.lowest : 0;
    size_t most = 0;

    plan->embedded = take(c, T, H, plan->shape.dtype);
    smhf_tensor x = plan->embedded;
    if (first > 0) { /* done with before anything above is written */
        const size_t mark = c->at;
        const passing_room room = take_passing(c, &plan->shape, plan->embedded);
        for (int32_t l = 0; l < first; l++) {
            plan_passing_layer(plan, l, &room);
            x = plan->layers[l].out;
        }
        rewind_to(c, mark, &most);
    }
    for (int32_t l = first; l < L; l++) {
        plan->layers[l] = (smhf_layer_activations){.x = x};
        plan->layers[l].out =
            take(c, smhf_config_cls_layer(config, l) ? B : T, H, plan->shape.dtype);
        x = plan->layers[l].out;
    }
    const size_t mark = c->at;
    for (int32_t l = first; l < L; l++) {
        if (plan->shape.checkpointing) {
            rewind_to(c, mark, &most);
        }
        plan_inside(plan, c, l);
    }
    rewind_to(c, c->at, &most);
    c->at = most;
}

static void plan_training(smhf_plan *plan, cursor *c) {
    const smhf_config *config = plan->shape.config;
    const int32_t T = plan->shape.tokens, B = plan->shape.rows, H = config->hidden;
    const smhf_dtype dtype = plan->shape.dtype;

    plan_layers(plan, c);
    if (plan->shape.lowest < 0) {
        plan->embedded_stats = take(c, T, 2, SMHF_DTYPE_F32);
    }
    smhf_gradient_buffers *g = &plan->grads;
    if (config->head == SMHF_HEAD_MASKED) {
        const int32_t P = plan->shape.picks;
        plan->picked = take(c, P, H, dtype);
        plan->picked_pre = take(c, P, H, dtype);
        plan->picked_act = take(c, P, H, dtype);
        plan->picked_stats = take(c, P, 2, SMHF_DTYPE_F32);
        plan->picked_out = take(c, P, H, dtype);
        g->dpicked = take(c, P, H, dtype);
    } else {
        plan->pooled = take(c, B, H, dtype);
        plan->dropped = take(c, smhf_config_per_token(config) ? T : B, H, dtype);
        g->dpooled = take(c, B, H, dtype);
        g->dlogits = take(c, smhf_config_per_token(config) ? T : B, config->num_labels, dtype);
    }
    plan->targets = plan_targets(c, &plan->shape);
    plan->loss = take(c, 1, 1, SMHF_DTYPE_F32);
    if (plan->shape.lowest >= config->layers) {
        return; /* the gradient ends in the head */
    }
    g->d = take(c, T, H, dtype);
    g->d_cls = take(c, B, H, dtype);
    g->branch = take(c, T, H, dtype);
    g->dcontext = take(c, T, H, dtype);
    g->dkv = take(c, T, 3 * H, dtype);
    g->dq_cls = take(c, B, H, dtype);
}

size_t smhf_plan_make(smhf_plan *plan, const smhf_plan_shape *shape, void *base) {
    cursor c = {(uintptr_t)base, 0, 0};
    *plan = (smhf_plan){.shape = *shape, .layers = plan->layers};
    if (shape->training) {
        plan_training(plan, &c);
    } else {
        plan_inference(plan, &c);
    }
    const smhf_config *config = shape->config;
    const int32_t C = smhf_config_outputs(config);
    const int32_t n = config->head == SMHF_HEAD_MASKED ? shape->picks
                      : smhf_config_per_token(config)  ? shape->tokens
                                                       : shape->rows;
    if (config->head != SMHF_HEAD_ENCODER) {
        plan->logits = take(&c, n, C, shape->dtype);
        plan->logits_f32 =
            (shape->dtype == SMHF_DTYPE_F32) ? plan->logits : take(&c, n, C, SMHF_DTYPE_F32);
    } else if (shape->dtype != SMHF_DTYPE_F32) {
        plan->logits_f32 = take(&c, n, config->hidden, SMHF_DTYPE_F32);
    }
    if (shape->training && config->head == SMHF_HEAD_MASKED) {
        plan->grads.dlogits = plan->logits;
    }
    plan->bytes = c.overflow ? 0 : c.at;
    return plan->bytes;
}
