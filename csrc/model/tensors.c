/* tensors.c: the table, its layout in an arena, and how a checkpoint is matched to it. */
#include "model/tensors.h"

#include "common/rng.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALIGN_FLOATS 16 /* 64 bytes: every slot starts a cache line */
#define MAX_NAME 160

/* One row of the table. Sizes are letters: V vocabulary, P positions, T types, H hidden,
 * F feed-forward, C columns of the logits; rows '1' makes a vector. NULL: the architecture has no
 * such one. */
typedef struct table_row {
    smhf_slot slot;
    const char *distilbert, *bert;
    char rows, cols;
    smhf_parameter_start start;
} table_row;

#define MATRIX SMHF_START_NORMAL
#define BIAS SMHF_START_ZERO
#define GAMMA SMHF_START_ONE

static const table_row TABLE[] = {
    {SMHF_SLOT_WORD, "embeddings.word_embeddings.weight", "embeddings.word_embeddings.weight", 'V',
     'H', MATRIX},
    {SMHF_SLOT_POSITION, "embeddings.position_embeddings.weight",
     "embeddings.position_embeddings.weight", 'P', 'H', MATRIX},
    {SMHF_SLOT_TYPE, NULL, "embeddings.token_type_embeddings.weight", 'T', 'H', MATRIX},
    {SMHF_SLOT_EMBED_GAMMA, "embeddings.LayerNorm.weight", "embeddings.LayerNorm.weight", '1', 'H',
     GAMMA},
    {SMHF_SLOT_EMBED_BETA, "embeddings.LayerNorm.bias", "embeddings.LayerNorm.bias", '1', 'H',
     BIAS},

    {SMHF_SLOT_QKV_WEIGHT, "attention.q_lin.weight", "attention.self.query.weight", 'H', 'H',
     MATRIX},
    {SMHF_SLOT_QKV_WEIGHT, "attention.k_lin.weight", "attention.self.key.weight", 'H', 'H', MATRIX},
    {SMHF_SLOT_QKV_WEIGHT, "attention.v_lin.weight", "attention.self.value.weight", 'H', 'H',
     MATRIX},
    {SMHF_SLOT_QKV_BIAS, "attention.q_lin.bias", "attention.self.query.bias", '1', 'H', BIAS},
    {SMHF_SLOT_QKV_BIAS, "attention.k_lin.bias", "attention.self.key.bias", '1', 'H', BIAS},
    {SMHF_SLOT_QKV_BIAS, "attention.v_lin.bias", "attention.self.value.bias", '1', 'H', BIAS},
    {SMHF_SLOT_OUT_WEIGHT, "attention.out_lin.weight", "attention.output.dense.weight", 'H', 'H',
     MATRIX},
    {SMHF_SLOT_OUT_BIAS, "attention.out_lin.bias", "attention.output.dense.bias", '1', 'H', BIAS},
    {SMHF_SLOT_ATTN_GAMMA, "sa_layer_norm.weight", "attention.output.LayerNorm.weight", '1', 'H',
     GAMMA},
    {SMHF_SLOT_ATTN_BETA, "sa_layer_norm.bias", "attention.output.LayerNorm.bias", '1', 'H', BIAS},
    {SMHF_SLOT_FFN1_WEIGHT, "ffn.lin1.weight", "intermediate.dense.weight", 'F', 'H', MATRIX},
    {SMHF_SLOT_FFN1_BIAS, "ffn.lin1.bias", "intermediate.dense.bias", '1', 'F', BIAS},
    {SMHF_SLOT_FFN2_WEIGHT, "ffn.lin2.weight", "output.dense.weight", 'H', 'F', MATRIX},
    {SMHF_SLOT_FFN2_BIAS, "ffn.lin2.bias", "output.dense.bias", '1', 'H', BIAS},
    {SMHF_SLOT_FFN_GAMMA, "output_layer_norm.weight", "output.LayerNorm.weight", '1', 'H', GAMMA},
    {SMHF_SLOT_FFN_BETA, "output_layer_norm.bias", "output.LayerNorm.bias", '1', 'H', BIAS},

    {SMHF_SLOT_POOL_WEIGHT, "pre_classifier.weight", "bert.pooler.dense.weight", 'H', 'H', MATRIX},
    {SMHF_SLOT_POOL_BIAS, "pre_classifier.bias", "bert.pooler.dense.bias", '1', 'H', BIAS},
    {SMHF_SLOT_HEAD_GAMMA, "vocab_layer_norm.weight", "cls.predictions.transform.LayerNorm.weight",
     '1', 'H', GAMMA},
    {SMHF_SLOT_HEAD_BETA, "vocab_layer_norm.bias", "cls.predictions.transform.LayerNorm.bias", '1',
     'H', BIAS},
    {SMHF_SLOT_LABEL_WEIGHT, "classifier.weight", "classifier.weight", 'C', 'H', MATRIX},
    {SMHF_SLOT_LABEL_BIAS, "classifier.bias", "classifier.bias", '1', 'C', BIAS},
};

#define TABLE_ROWS ((int)(sizeof TABLE / sizeof TABLE[0]))

static int32_t size_of(const smhf_config *config, char letter) {
    switch (letter) {
    case 'V':
        return config->vocab;
    case 'P':
        return config->positions;
    case 'T':
        return config->types;
    case 'H':
        return config->hidden;
    case 'F':
        return config->feedforward;
    case 'C':
        return smhf_config_outputs(config);
    default:
        return 1;
    }
}

static int is_layer(smhf_slot slot) {
    return slot >= SMHF_SLOT_LAYER_FIRST && slot < SMHF_SLOT_LAYER_END;
}

/* Names of a masked-LM head; its matrix is the word table. */
static const char *masked_name(const table_row *row, int bert) {
    switch (row->slot) {
    case SMHF_SLOT_POOL_WEIGHT:
        return bert ? "cls.predictions.transform.dense.weight" : "vocab_transform.weight";
    case SMHF_SLOT_POOL_BIAS:
        return bert ? "cls.predictions.transform.dense.bias" : "vocab_transform.bias";
    case SMHF_SLOT_LABEL_WEIGHT:
        return NULL;
    case SMHF_SLOT_LABEL_BIAS:
        return bert ? "cls.predictions.bias" : "vocab_projector.bias";
    default:
        return bert ? row->bert : row->distilbert;
    }
}

static const char *row_name(const smhf_parameters *table, const smhf_config *config,
                            const table_row *row) {
    const int label = row->slot >= SMHF_SLOT_LABEL_WEIGHT;
    if (config->head == SMHF_HEAD_MASKED) {
        return masked_name(row, table->architecture == SMHF_BERT);
    }
    if (row->slot == SMHF_SLOT_HEAD_GAMMA || row->slot == SMHF_SLOT_HEAD_BETA) {
        return NULL;
    }
    if (row->slot >= SMHF_SLOT_POOL_WEIGHT && !label && config->head != SMHF_HEAD_SEQUENCE) {
        return NULL; /* only sequence classification pools */
    }
    if (label && config->head == SMHF_HEAD_ENCODER) {
        return NULL;
    }
    if (label && config->head == SMHF_HEAD_SPAN) {
        return row->slot == SMHF_SLOT_LABEL_WEIGHT ? "qa_outputs.weight" : "qa_outputs.bias";
    }
    return (table->architecture == SMHF_BERT) ? row->bert : row->distilbert;
}

/* --- layout ------------------------------------------------------------------------------------
 */

size_t smhf_parameters_slot_index(const smhf_parameters *table, int layer, smhf_slot slot) {
    const int per_layer = (int)SMHF_SLOT_LAYER_END - (int)SMHF_SLOT_LAYER_FIRST;
    int index = (int)slot;
    if (is_layer(slot)) {
        index += layer * per_layer;
    } else if (slot >= SMHF_SLOT_LAYER_END) {
        index += (table->layers - 1) * per_layer;
    }
    return (size_t)index;
}

size_t smhf_parameters_slot(const smhf_parameters *table, int layer, smhf_slot slot) {
    return table->slots[smhf_parameters_slot_index(table, layer, slot)];
}

static smhf_status add_parameter(smhf_parameters *table, const smhf_config *config,
                                 const table_row *row, int layer, size_t *slots, smhf_error *err) {
    char name[MAX_NAME];
    smhf_parameter *p = &table->items[table->count];
    const char *stem = row_name(table, config, row);
    const char *layers = (table->architecture == SMHF_BERT) ? "encoder" : "transformer";
    int size;
    if (stem == NULL) {
        return SMHF_OK;
    }
    if (layer >= 0) {
        size = snprintf(name, sizeof name, "%s%s.layer.%d.%s", table->prefix, layers, layer, stem);
    } else {
        const int head = row->slot >= SMHF_SLOT_POOL_WEIGHT;
        size = snprintf(name, sizeof name, "%s%s", head ? "" : table->prefix, stem);
    }
    const int32_t rows = size_of(config, row->rows), cols = size_of(config, row->cols);
    const size_t at = smhf_parameters_slot_index(table, layer, row->slot);
    const int continues = table->count > 0 && table->items[table->count - 1].slot == row->slot &&
                          table->items[table->count - 1].layer == layer;
    if (!continues) { /* q, k, v of one slot stay back to back */
        table->size = (table->size + ALIGN_FLOATS - 1) / ALIGN_FLOATS * ALIGN_FLOATS;
        slots[at] = table->size;
    }
    *p = (smhf_parameter){
        .name = smhf_arena_copy_string(&table->arena, name, (size_t)size),
        .slot = row->slot,
        .layer = layer,
        .ndim = (row->rows == '1') ? 1 : 2,
        .rows = rows,
        .cols = cols,
        .offset = table->size,
        .count = (size_t)rows * (size_t)cols,
        .start = row->start,
        .decays = row->start == MATRIX,
        .head = row->slot >= SMHF_SLOT_POOL_WEIGHT,
    };
    if (p->name == NULL) {
        return smhf_fail_nomem(err, "table of parameters", size);
    }
    table->size += p->count;
    table->count++;
    return SMHF_OK;
}

smhf_status smhf_parameters_init(smhf_parameters *table, const smhf_config *config,
                                 smhf_error *err) {
    const size_t most = (size_t)TABLE_ROWS * (size_t)(config->layers + 1);
    *table = (smhf_parameters){0};
    smhf_arena_init(&table->arena, 16 * 1024);
    table->layers = config->layers;
    table->architecture = config->architecture;
    table->tied = config->head == SMHF_HEAD_MASKED;
    table->prefix = (config->architecture == SMHF_BERT) ? "bert." : "distilbert.";
    table->items = smhf_arena_calloc(&table->arena, most, sizeof *table->items);
    size_t *slots = smhf_arena_calloc(&table->arena, most, sizeof *slots);
    if (table->items == NULL || slots == NULL) {
        return smhf_fail_nomem(err, "table of parameters", most * sizeof *table->items);
    }
    table->slots = slots;
    table->slot_count = most;

    int row = 0;
    for (; !is_layer(TABLE[row].slot); row++) {
        SMHF_TRY(add_parameter(table, config, &TABLE[row], -1, slots, err));
    }
    const int first = row;
    for (int layer = 0; layer < config->layers; layer++) {
        for (row = first; is_layer(TABLE[row].slot); row++) {
            SMHF_TRY(add_parameter(table, config, &TABLE[row], layer, slots, err));
        }
    }
    for (; row < TABLE_ROWS; row++) {
        SMHF_TRY(add_parameter(table, config, &TABLE[row], -1, slots, err));
    }
    table->size = (table->size + ALIGN_FLOATS - 1) / ALIGN_FLOATS * ALIGN_FLOATS;
    return SMHF_OK;
}

void smhf_parameters_deinit(smhf_parameters *table) {
    smhf_arena_deinit(&table->arena);
    *table = (smhf_parameters){0};
}

int smhf_parameters_find(const smhf_parameters *table, const char *name) {
    for (int i = 0; i < table->count; i++) {
        if (strcmp(table->items[i].name, name) == 0) {
            return i;
        }
    }
    return -1;
}

/* --- matching a checkpoint ---------------------------------------------------------------------
 */

void smhf_load_report_init(smhf_load_report *report) {
    *report = (smhf_load_report){0};
    smhf_arena_init(&report->arena, 4096);
}

void smhf_load_report_deinit(smhf_load_report *report) {
    smhf_arena_deinit(&report->arena);
    *report = (smhf_load_report){0};
}

/* What a masked-LM checkpoint may hold beside the weights that it is tied to. */
static const char *const TIED[][2] = {
    {"vocab_projector.weight", "embeddings.word_embeddings.weight"},
    {"cls.predictions.decoder.weight", "embeddings.word_embeddings.weight"},
    {"cls.predictions.decoder.bias", "cls.predictions.bias"},
};

/* LayerNorm.weight was LayerNorm.gamma in checkpoints converted from TensorFlow. */
static const smhf_safetensor *find_old_name(const smhf_safetensors *file, const char *name) {
    static const char *const RENAMED[2][2] = {{"LayerNorm.weight", "LayerNorm.gamma"},
                                              {"LayerNorm.bias", "LayerNorm.beta"}};
    for (int i = 0; i < 2; i++) {
        const size_t tail = strlen(RENAMED[i][0]), size = strlen(name);
        if (size >= tail && strcmp(name + size - tail, RENAMED[i][0]) == 0) {
            char old[MAX_NAME];
            snprintf(old, sizeof old, "%.*s%s", (int)(size - tail), name, RENAMED[i][1]);
            return smhf_safetensors_find(file, old);
        }
    }
    return NULL;
}

static const smhf_safetensor *find_source(const smhf_parameters *table,
                                          const smhf_safetensors *file, const char *name) {
    const size_t prefix = strlen(table->prefix);
    const smhf_safetensor *found = smhf_safetensors_find(file, name);
    if (found == NULL) {
        found = find_old_name(file, name);
    }
    if (found == NULL && strcmp(name, TIED[2][1]) == 0) {
        found = smhf_safetensors_find(file, TIED[2][0]);
    }
    if (found == NULL && strncmp(name, table->prefix, prefix) == 0) {
        found = smhf_safetensors_find(file, name + prefix);
        if (found == NULL) {
            found = find_old_name(file, name + prefix);
        }
    }
    return found;
}

static void print_shape(char *out, size_t size, const uint64_t *shape, int ndim) {
    size_t at = (size_t)snprintf(out, size, "[");
    for (int d = 0; d < ndim && at < size; d++) {
        at += (size_t)snprintf(out + at, size - at, "%s%llu", d > 0 ? ", " : "",
                               (unsigned long long)shape[d]);
    }
    if (at < size) {
        snprintf(out + at, size - at, "]");
    }
}

static int has_shape(const smhf_parameter *p, const smhf_safetensor *source) {
    const uint64_t shape[2] = {(uint64_t)p->rows, (uint64_t)p->cols};
    return source->ndim == p->ndim &&
           memcmp(source->shape, shape + 2 - p->ndim, (size_t)p->ndim * sizeof *shape) == 0;
}

static smhf_status check_source(const smhf_parameter *p, const smhf_safetensor *source,
                                smhf_error *err) {
    if (!has_shape(p, source)) {
        const uint64_t shape[2] = {(uint64_t)p->rows, (uint64_t)p->cols};
        char want[64], got[96];
        print_shape(want, sizeof want, shape + 2 - p->ndim, p->ndim);
        print_shape(got, sizeof got, source->shape, source->ndim);
        return smhf_fail(err, SMHF_E_ARG,
                         "tensor \"%s\": config.json asks for shape %s, the checkpoint has %s%s",
                         source->name, want, got,
                         p->head ? " (ignore_mismatched_sizes=True makes a new head)" : "");
    }
    if (source->dtype == SMHF_ST_OTHER) {
        return smhf_fail(err, SMHF_E_UNSUPPORTED,
                         "tensor \"%s\": expected F32, F16, BF16 or F64, found %s", source->name,
                         source->dtype_name);
    }
    return SMHF_OK;
}

/* Buffers that older versions stored beside the weights. */
static int is_ignored(const char *name) {
    const char *tail = strstr(name, "embeddings.position_ids");
    return tail != NULL && strcmp(tail, "embeddings.position_ids") == 0;
}

/* A second copy of a tied weight, which must be one. */
static smhf_status is_tied(const smhf_parameters *table, const smhf_safetensor **sources,
                           const smhf_safetensor *tensor, int *out, smhf_error *err) {
    *out = 0;
    for (size_t i = 0; table->tied && i < sizeof TIED / sizeof TIED[0]; i++) {
        if (strcmp(tensor->name, TIED[i][0]) != 0) {
            continue;
        }
        for (int p = 0; p < table->count; p++) {
            const char *tail = strstr(table->items[p].name, TIED[i][1]);
            const smhf_safetensor *source = sources[p];
            if (tail == NULL || source == NULL) {
                continue;
            }
            if (source->dtype == tensor->dtype &&
                (source->data.size != tensor->data.size ||
                 memcmp(source->data.data, tensor->data.data, source->data.size) != 0)) {
                return smhf_fail(err, SMHF_E_UNSUPPORTED,
                                 "tensor \"%s\" differs from \"%s\": a masked-LM head of its own "
                                 "weights is not supported",
                                 tensor->name, source->name);
            }
            *out = 1;
        }
    }
    return SMHF_OK;
}

static int is_source(const smhf_parameters *table, const smhf_safetensor **sources,
                     const smhf_safetensor *tensor) {
    for (int i = 0; i < table->count; i++) {
        if (sources[i] == tensor) {
            return 1;
        }
    }
    return 0;
}

smhf_status smhf_parameters_match(const smhf_parameters *table, const smhf_safetensors *file,
                                  int remake_head, const smhf_safetensor **sources,
                                  smhf_load_report *report, smhf_error *err) {
    const size_t in_file = smhf_safetensors_count(file);
    int found = 0;
    for (int i = 0; i < table->count; i++) {
        sources[i] = find_source(table, file, table->items[i].name);
        found += sources[i] != NULL && !table->items[i].head;
    }
    if (found == 0) {
        return smhf_fail(err, SMHF_E_ARG,
                         "none of its %zu tensors is a weight of this model (expected \"%s\" and "
                         "so on%s%.80s%s): another architecture?",
                         in_file, table->items[0].name, in_file > 0 ? "; the first one is \"" : "",
                         in_file > 0 ? smhf_safetensors_at(file, 0)->name : "",
                         in_file > 0 ? "\"" : "");
    }
    report->missing =
        smhf_arena_calloc(&report->arena, (size_t)table->count, sizeof *report->missing);
    report->unexpected = smhf_arena_calloc(&report->arena, in_file, sizeof *report->unexpected);
    if (report->missing == NULL || report->unexpected == NULL) {
        return smhf_fail_nomem(err, "load report", in_file * sizeof *report->unexpected);
    }
    for (int i = 0; i < table->count; i++) {
        const smhf_parameter *p = &table->items[i];
        if (remake_head && p->head && sources[i] != NULL && !has_shape(p, sources[i])) {
            sources[i] = NULL;
        }
        if (sources[i] != NULL) {
            SMHF_TRY(check_source(p, sources[i], err));
        } else if (p->head) {
            report->missing[report->missing_count++] = p->name; /* the table outlives the report */
        } else {
            return smhf_fail(err, SMHF_E_ARG, "tensor \"%s\" is missing (only the head may be new)",
                             p->name);
        }
    }
    for (size_t i = 0; i < in_file; i++) {
        const smhf_safetensor *tensor = smhf_safetensors_at(file, i);
        int tied = 0;
        SMHF_TRY(is_tied(table, sources, tensor, &tied, err));
        if (tied || is_ignored(tensor->name) || is_source(table, sources, tensor)) {
            continue;
        }
        const char *name =
            smhf_arena_copy_string(&report->arena, tensor->name, strlen(tensor->name));
        if (name == NULL) {
            return smhf_fail_nomem(err, "load report", strlen(tensor->name));
        }
        report->unexpected[report->unexpected_count++] = name;
    }
    return SMHF_OK;
}

/* --- new values --------------------------------------------------------------------------------
 */

void smhf_parameter_fill(const smhf_parameters *table, int index, const smhf_config *config,
                         uint64_t seed, float *out) {
    const smhf_parameter *p = &table->items[index];
    if (p->start == SMHF_START_NORMAL) {
        smhf_rng_normal(out, p->count, config->initializer_range, seed, (uint64_t)index);
        if (p->slot == SMHF_SLOT_WORD && config->pad_id >= 0) {
            memset(out + (size_t)config->pad_id * (size_t)p->cols, 0,
                   (size_t)p->cols * sizeof *out);
        }
        return;
    }
    const float value = (p->start == SMHF_START_ONE) ? 1.0f : 0.0f;
    for (size_t i = 0; i < p->count; i++) {
        out[i] = value;
    }
}
