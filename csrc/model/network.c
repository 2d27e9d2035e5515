/* network.c: views into the arenas of parameters and gradients. */
#include "model/network.h"

#include "common/mem.h"

#include <math.h>

/* --- views ---------------------------------------------------------------------------------------
 */

typedef struct viewer {
    const smhf_parameters *table;
    float *arena;
    const smhf_mapped *mapped; /* instead of the arena */
    const size_t *places;      /* of gradients: instead of the table's */
    float *spill;
} viewer;

/* A slot's values; of a mapped matrix only the sizes (data NULL); absent when it is frozen. */
static smhf_tensor view(const viewer *v, int layer, smhf_slot slot, int32_t rows, int32_t cols) {
    const size_t index = smhf_parameters_slot_index(v->table, layer, slot);
    if (v->mapped != NULL) {
        return smhf_tensor_of(v->mapped->places[index], rows, cols, SMHF_DTYPE_F32);
    }
    const size_t at = v->places != NULL ? v->places[index] : v->table->slots[index];
    return at == SMHF_NO_PLACE ? SMHF_TENSOR_NONE
                               : smhf_tensor_of(v->arena + at, rows, cols, SMHF_DTYPE_F32);
}

/* gamma or beta of a LayerNorm, whose gradient has to go somewhere. */
static smhf_tensor view_norm(const viewer *v, int layer, smhf_slot slot, int beta, int32_t H) {
    const smhf_tensor norm = view(v, layer, slot, 1, H);
    return norm.data == NULL && v->spill != NULL
               ? smhf_tensor_of(v->spill + (beta ? H : 0), 1, H, SMHF_DTYPE_F32)
               : norm;
}

/* Part of a tensor, which may be absent. */
static smhf_tensor part_rows(smhf_tensor t, int32_t first, int32_t count) {
    return t.cols == 0 ? t : smhf_tensor_rows(t, first, count);
}

static smhf_tensor part_cols(smhf_tensor t, int32_t first, int32_t count) {
    return t.cols == 0 ? t : smhf_tensor_cols(t, first, count);
}

static smhf_embedding view_embedding(const viewer *v, const smhf_config *config) {
    const int32_t H = config->hidden;
    return (smhf_embedding){
        .word = view(v, -1, SMHF_SLOT_WORD, config->vocab, H),
        .position = view(v, -1, SMHF_SLOT_POSITION, config->positions, H),
        .type =
            config->types > 0 ? view(v, -1, SMHF_SLOT_TYPE, config->types, H) : SMHF_TENSOR_NONE,
        .gamma = view_norm(v, -1, SMHF_SLOT_EMBED_GAMMA, 0, H),
        .beta = view_norm(v, -1, SMHF_SLOT_EMBED_BETA, 1, H),
        .padding_id = config->pad_id,
    };
}

/* Vectors and, for gradients, matrices of a layer. In a CLS layer the q rows stand alone. */
static smhf_layer_gradients view_layer(const viewer *v, const smhf_config *config, int layer) {
    const int32_t H = config->hidden, F = config->feedforward;
    const int cls_layer = smhf_config_cls_layer(config, layer);
    const smhf_tensor qkv = view(v, layer, SMHF_SLOT_QKV_WEIGHT, 3 * H, H);
    const smhf_tensor bias = view(v, layer, SMHF_SLOT_QKV_BIAS, 1, 3 * H);
    return (smhf_layer_gradients){
        .q = cls_layer ? part_rows(qkv, 0, H) : SMHF_TENSOR_NONE,
        .kv = cls_layer ? part_rows(qkv, H, 2 * H) : qkv,
        .out = view(v, layer, SMHF_SLOT_OUT_WEIGHT, H, H),
        .ffn1 = view(v, layer, SMHF_SLOT_FFN1_WEIGHT, F, H),
        .ffn2 = view(v, layer, SMHF_SLOT_FFN2_WEIGHT, H, F),
        .q_bias = cls_layer ? part_cols(bias, 0, H) : SMHF_TENSOR_NONE,
        .kv_bias = cls_layer ? part_cols(bias, H, 2 * H) : bias,
        .out_bias = view(v, layer, SMHF_SLOT_OUT_BIAS, 1, H),
        .ffn1_bias = view(v, layer, SMHF_SLOT_FFN1_BIAS, 1, F),
        .ffn2_bias = view(v, layer, SMHF_SLOT_FFN2_BIAS, 1, H),
        .attention_gamma = view_norm(v, layer, SMHF_SLOT_ATTN_GAMMA, 0, H),
        .attention_beta = view_norm(v, layer, SMHF_SLOT_ATTN_BETA, 1, H),
        .output_gamma = view_norm(v, layer, SMHF_SLOT_FFN_GAMMA, 0, H),
        .output_beta = view_norm(v, layer, SMHF_SLOT_FFN_BETA, 1, H),
    };
}

/* --- weights -------------------------------------------------------------------------------------
 */

typedef struct preparer {
    smhf_network *net;
    smhf_device *dev;
    smhf_weight_options options;
    viewer values;
    float *scratch; /* of mapped matrices */
} preparer;

static smhf_status prepare(preparer *p, int layer, smhf_slot slot, smhf_tensor source,
                           const smhf_weight **out, smhf_error *err) {
    smhf_weight *weight = NULL;
    SMHF_TRY(p->dev->backend->weight_prepare(p->dev, &weight, source, &p->options, err));
    p->net->owned_slots[p->net->owned_count] =
        smhf_parameters_slot_index(p->values.table, layer, slot);
    p->net->owned[p->net->owned_count++] = weight;
    *out = weight;
    return SMHF_OK;
}

/* The whole matrix of a slot, wherever its values come from. */
static smhf_status matrix(preparer *p, int layer, smhf_slot slot, int32_t rows, int32_t cols,
                          smhf_tensor *out, smhf_error *err) {
    *out = view(&p->values, layer, slot, rows, cols);
    return p->values.mapped == NULL
               ? SMHF_OK
               : smhf_mapped_matrix(p->values.mapped, layer, slot, p->scratch, out, err);
}

static void matrix_done(preparer *p, int layer, smhf_slot slot) {
    if (p->values.mapped != NULL) {
        smhf_mapped_done(p->values.mapped, layer, slot);
    }
}

static smhf_status prepare_slot(preparer *p, int layer, smhf_slot slot, int32_t rows, int32_t cols,
                                const smhf_weight **out, smhf_error *err) {
    smhf_tensor source;
    SMHF_TRY(matrix(p, layer, slot, rows, cols, &source, err));
    SMHF_TRY(prepare(p, layer, slot, source, out, err));
    matrix_done(p, layer, slot);
    return SMHF_OK;
}

/* Keys and values of a CLS layer, which some devices attend without. */
static smhf_status prepare_kv(preparer *p, int l, smhf_tensor kv, smhf_layer *layer,
                              smhf_error *err) {
    const smhf_weight_options before = p->options;
    if (p->dev->backend->attention_first_fwd != NULL) {
        p->options.compute = SMHF_DTYPE_F32;
        p->options.uses = SMHF_WEIGHT_FIRST | (before.uses & SMHF_WEIGHT_COPY);
    }
    const smhf_status status = prepare(p, l, SMHF_SLOT_QKV_WEIGHT, kv, &layer->kv, err);
    p->options = before;
    return status;
}

/* q, k and v as one product; in a CLS layer q alone, because only first tokens ask. */
static smhf_status prepare_qkv(preparer *p, int l, smhf_layer *layer, smhf_error *err) {
    const int32_t H = p->net->config->hidden;
    smhf_tensor qkv;
    SMHF_TRY(matrix(p, l, SMHF_SLOT_QKV_WEIGHT, 3 * H, H, &qkv, err));
    if (smhf_config_cls_layer(p->net->config, l)) {
        SMHF_TRY(prepare(p, l, SMHF_SLOT_QKV_WEIGHT, smhf_tensor_rows(qkv, 0, H), &layer->q, err));
        SMHF_TRY(prepare_kv(p, l, smhf_tensor_rows(qkv, H, 2 * H), layer, err));
    } else {
        SMHF_TRY(prepare(p, l, SMHF_SLOT_QKV_WEIGHT, qkv, &layer->kv, err));
    }
    matrix_done(p, l, SMHF_SLOT_QKV_WEIGHT);
    return SMHF_OK;
}

static smhf_status prepare_layer(preparer *p, int l, smhf_error *err) {
    const smhf_config *config = p->net->config;
    const int32_t H = config->hidden, F = config->feedforward;
    const smhf_layer_gradients t = view_layer(&p->values, config, l);
    smhf_layer *layer = &p->net->layers[l];
    *layer = (smhf_layer){
        .q_bias = t.q_bias,
        .kv_bias = t.kv_bias,
        .out_bias = t.out_bias,
        .ffn1_bias = t.ffn1_bias,
        .ffn2_bias = t.ffn2_bias,
        .attention_gamma = t.attention_gamma,
        .attention_beta = t.attention_beta,
        .output_gamma = t.output_gamma,
        .output_beta = t.output_beta,
        .heads = config->heads,
        .scale = 1.0f / sqrtf((float)(config->hidden / config->heads)),
        .eps = config->layernorm_eps,
        .act = SMHF_ACT_GELU,
    };
    SMHF_TRY(prepare_qkv(p, l, layer, err));
    SMHF_TRY(prepare_slot(p, l, SMHF_SLOT_OUT_WEIGHT, H, H, &layer->out, err));
    SMHF_TRY(prepare_slot(p, l, SMHF_SLOT_FFN1_WEIGHT, F, H, &layer->ffn1, err));
    return prepare_slot(p, l, SMHF_SLOT_FFN2_WEIGHT, H, F, &layer->ffn2, err);
}

/* The transform, and the word table itself. No few rows: in bf16 like the encoder; int8 stops at
 * the head, whose columns compete with thousands of others. */
static smhf_status prepare_masked(preparer *p, smhf_dtype compute, smhf_error *err) {
    const int32_t H = p->net->config->hidden;
    const smhf_weight *weight = NULL;
    if (compute == SMHF_DTYPE_BF16) {
        p->options.compute = compute;
    }
    SMHF_TRY(prepare_slot(p, -1, SMHF_SLOT_POOL_WEIGHT, H, H, &weight, err));
    p->net->pool = p->net->owned[p->net->owned_count - 1];
    SMHF_TRY(prepare(p, -1, SMHF_SLOT_WORD, p->net->tables.word, &weight, err));
    matrix_done(p, -1, SMHF_SLOT_WORD);
    p->net->label = p->net->owned[p->net->owned_count - 1];
    return SMHF_OK;
}

static smhf_status prepare_all(preparer *p, smhf_dtype head_compute, smhf_error *err) {
    const smhf_dtype compute = p->options.compute;
    const smhf_config *config = p->net->config;
    const int32_t H = config->hidden, C = config->num_labels;
    const smhf_weight *head = NULL;
    for (int l = 0; l < config->layers; l++) {
        SMHF_TRY(prepare_layer(p, l, err));
    }
    /* A few rows: exact at no cost, where the activations allow it. */
    p->options.compute = head_compute;
    if (config->head == SMHF_HEAD_MASKED) {
        return prepare_masked(p, compute, err);
    }
    if (config->head == SMHF_HEAD_SEQUENCE) {
        SMHF_TRY(prepare_slot(p, -1, SMHF_SLOT_POOL_WEIGHT, H, H, &head, err));
        p->net->pool = p->net->owned[p->net->owned_count - 1];
    }
    if (config->head != SMHF_HEAD_ENCODER) {
        SMHF_TRY(prepare_slot(p, -1, SMHF_SLOT_LABEL_WEIGHT, C, H, &head, err));
        p->net->label = p->net->owned[p->net->owned_count - 1];
    }
    return SMHF_OK;
}

smhf_status smhf_network_init(smhf_network *net, smhf_device *dev, const smhf_parameters *table,
                              const smhf_config *config, smhf_values values,
                              const smhf_network_options *options, smhf_error *err) {
    preparer p = {net, dev, {options->compute, options->uses}, {0}, NULL};
    const size_t L = (size_t)config->layers, most = 5 * L + 2;
    const int32_t H = config->hidden, C = smhf_config_outputs(config);
    p.values = (viewer){.table = table, .arena = values.arena, .mapped = values.mapped};
    *net = (smhf_network){.config = config};
    net->compute = options->compute == SMHF_DTYPE_F32 ? SMHF_DTYPE_F32 : SMHF_DTYPE_BF16;
    smhf_arena_init(&net->arena, 16 * 1024);
    net->layers = smhf_arena_calloc(&net->arena, L, sizeof *net->layers);
    net->owned = smhf_arena_calloc(&net->arena, most, sizeof *net->owned);
    net->owned_slots = smhf_arena_calloc(&net->arena, most, sizeof *net->owned_slots);
    if (net->layers == NULL || net->owned == NULL || net->owned_slots == NULL) {
        return smhf_fail_nomem(err, "network", L * sizeof *net->layers);
    }
    net->tables = view_embedding(&p.values, config);
    if (config->head == SMHF_HEAD_SEQUENCE || config->head == SMHF_HEAD_MASKED) {
        net->pool_bias = view(&p.values, -1, SMHF_SLOT_POOL_BIAS, 1, H);
    }
    if (config->head == SMHF_HEAD_MASKED) {
        net->head_gamma = view(&p.values, -1, SMHF_SLOT_HEAD_GAMMA, 1, H);
        net->head_beta = view(&p.values, -1, SMHF_SLOT_HEAD_BETA, 1, H);
    }
    if (config->head != SMHF_HEAD_ENCODER) {
        net->label_bias = view(&p.values, -1, SMHF_SLOT_LABEL_BIAS, 1, C);
    }
    net->pool_act = config->head == SMHF_HEAD_MASKED    ? SMHF_ACT_GELU
                    : config->architecture == SMHF_BERT ? SMHF_ACT_TANH
                                                        : SMHF_ACT_RELU;
    if (values.mapped != NULL) {
        const size_t floats = smhf_mapped_scratch(values.mapped);
        p.options.uses |= SMHF_WEIGHT_COPY;
        p.scratch = smhf_malloc_aligned(floats * sizeof *p.scratch, SMHF_CACHE_LINE);
        if (p.scratch == NULL) {
            return smhf_fail_nomem(err, "weights", floats * sizeof *p.scratch);
        }
    }
    const smhf_status status = prepare_all(&p, options->dtype, err);
    smhf_free(p.scratch);
    return status;
}

void smhf_network_refresh(const smhf_network *net, smhf_device *dev, const smhf_trained *trained) {
    for (int i = 0; i < net->owned_count; i++) {
        if (trained == NULL || trained->places[net->owned_slots[i]] != SMHF_NO_PLACE) {
            dev->backend->weight_refresh(dev, net->owned[i]);
        }
    }
}

void smhf_network_deinit(smhf_network *net, smhf_device *dev) {
    for (int i = 0; i < net->owned_count; i++) {
        dev->backend->weight_free(dev, net->owned[i]);
    }
    smhf_arena_deinit(&net->arena);
    *net = (smhf_network){0};
}

/* --- gradients
 * ------------------------------------------------------------------------------------ */

smhf_status smhf_gradients_init(smhf_gradients *gradients, const smhf_trained *trained,
                                const smhf_config *config, float *arena, float *spill,
                                smhf_error *err) {
    const viewer v = {trained->table, arena, NULL, trained->places, spill};
    const size_t L = (size_t)config->layers;
    const int32_t H = config->hidden, C = smhf_config_outputs(config);
    *gradients = (smhf_gradients){.lowest = trained->lowest};
    smhf_arena_init(&gradients->arena, 16 * 1024);
    gradients->layers = smhf_arena_calloc(&gradients->arena, L, sizeof *gradients->layers);
    if (gradients->layers == NULL) {
        return smhf_fail_nomem(err, "gradients", L * sizeof *gradients->layers);
    }
    gradients->tables = view_embedding(&v, config);
    for (int l = 0; l < config->layers; l++) {
        gradients->layers[l] = view_layer(&v, config, l);
    }
    if (config->head == SMHF_HEAD_SEQUENCE || config->head == SMHF_HEAD_MASKED) {
        gradients->pool = view(&v, -1, SMHF_SLOT_POOL_WEIGHT, H, H);
        gradients->pool_bias = view(&v, -1, SMHF_SLOT_POOL_BIAS, 1, H);
    }
    gradients->label_bias = view(&v, -1, SMHF_SLOT_LABEL_BIAS, 1, C);
    if (config->head == SMHF_HEAD_MASKED) {
        gradients->label = gradients->tables.word; /* the embedding's gradient comes on top */
        gradients->head_gamma = view_norm(&v, -1, SMHF_SLOT_HEAD_GAMMA, 0, H);
        gradients->head_beta = view_norm(&v, -1, SMHF_SLOT_HEAD_BETA, 1, H);
    } else {
        gradients->label = view(&v, -1, SMHF_SLOT_LABEL_WEIGHT, C, H);
    }
    return SMHF_OK;
}

void smhf_gradients_deinit(smhf_gradients *gradients) {
    smhf_arena_deinit(&gradients->arena);
    *gradients = (smhf_gradients){0};
}
