/* config.c: config.json -> smhf_config. One pass collects the known keys, a second step reads them
 * by architecture, so that the order of keys in the file does not matter. */
#include "model/config.h"

#include "common/json.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#define MAX_TEXT 64
#define MAX_LABELS 100000
#define MAX_DIMENSION (1 << 24)

/* A known key and what the file says about it. */
typedef struct field {
    const char *key;
    smhf_json_kind kind; /* SMHF_JSON_END: absent */
    int64_t integer;     /* numbers without fraction */
    double number;
    int whole;           /* the number is an integer */
    size_t offset;       /* of the value */
    int empty;           /* objects and arrays: no members */
    char text[MAX_TEXT]; /* strings, cut */
} field;

typedef struct label_entry {
    int64_t id;
    const char *name; /* owned by the config's arena */
    struct label_entry *next;
} label_entry;

typedef struct label_map {
    label_entry *first;
    int64_t count;
    int seen;
} label_map;

static field *find(field *fields, const char *key) {
    for (field *f = fields; f->key != NULL; f++) {
        if (strcmp(f->key, key) == 0) {
            return f;
        }
    }
    return NULL;
}

static int present(const field *f) {
    return f->kind != SMHF_JSON_END && f->kind != SMHF_JSON_NULL;
}

/* Reads the value of a known key. Objects and arrays are skipped; only "empty or not" is kept. */
static smhf_status read_value(smhf_json_reader *reader, field *f, smhf_error *err) {
    smhf_json_event event;
    SMHF_TRY(smhf_json_next(reader, &event, err));
    f->kind = event.kind;
    f->offset = event.offset;
    if (event.kind == SMHF_JSON_STRING) {
        snprintf(f->text, sizeof f->text, "%.*s",
                 (int)(event.text.size < MAX_TEXT ? event.text.size : MAX_TEXT - 1),
                 (const char *)event.text.data);
    } else if (event.kind == SMHF_JSON_NUMBER) {
        SMHF_TRY(smhf_json_double(&event, f->key, &f->number, err));
        f->whole = smhf_json_int64(&event, f->key, &f->integer, NULL) == SMHF_OK;
    } else if (event.kind == SMHF_JSON_OBJECT_BEGIN || event.kind == SMHF_JSON_ARRAY_BEGIN) {
        const smhf_json_kind end =
            (event.kind == SMHF_JSON_OBJECT_BEGIN) ? SMHF_JSON_OBJECT_END : SMHF_JSON_ARRAY_END;
        f->empty = 1;
        for (;;) {
            SMHF_TRY(smhf_json_next(reader, &event, err));
            if (event.kind == end) {
                break;
            }
            f->empty = 0;
            if (end == SMHF_JSON_OBJECT_END) {
                SMHF_TRY(smhf_json_skip(reader, err)); /* the key's value */
            } else {
                int depth =
                    (event.kind == SMHF_JSON_OBJECT_BEGIN || event.kind == SMHF_JSON_ARRAY_BEGIN);
                while (depth > 0) {
                    SMHF_TRY(smhf_json_next(reader, &event, err));
                    depth += (event.kind == SMHF_JSON_OBJECT_BEGIN ||
                              event.kind == SMHF_JSON_ARRAY_BEGIN);
                    depth -=
                        (event.kind == SMHF_JSON_OBJECT_END || event.kind == SMHF_JSON_ARRAY_END);
                }
            }
        }
    }
    return SMHF_OK;
}

static smhf_status parse_label_id(smhf_bytes_view text, size_t offset, int64_t *id,
                                  smhf_error *err) {
    int64_t value = 0;
    int good = text.size > 0 && text.size <= 6;
    for (size_t i = 0; good && i < text.size; i++) {
        good = text.data[i] >= '0' && text.data[i] <= '9';
        value = value * 10 + (text.data[i] - '0');
    }
    if (!good || value >= MAX_LABELS) {
        return smhf_fail_at(err, SMHF_E_PARSE, offset,
                            "config.json: id2label: expected keys 0 to %d, found \"%.*s\"",
                            MAX_LABELS - 1, (int)(text.size < 40 ? text.size : 40),
                            (const char *)text.data);
    }
    *id = value;
    return SMHF_OK;
}

/* {"0": "negative", ...}; a number as value (seen in the wild) is taken as its text. */
static smhf_status read_labels(smhf_config *config, smhf_json_reader *reader, label_map *map,
                               smhf_error *err) {
    smhf_json_event event;
    SMHF_TRY(smhf_json_next(reader, &event, err));
    if (event.kind == SMHF_JSON_NULL) {
        return SMHF_OK;
    }
    if (event.kind != SMHF_JSON_OBJECT_BEGIN) {
        return smhf_fail_at(err, SMHF_E_PARSE, event.offset,
                            "config.json: id2label: expected an object, found %s",
                            smhf_json_kind_name(event.kind));
    }
    map->seen = 1;
    for (;;) {
        int64_t id = 0;
        SMHF_TRY(smhf_json_next(reader, &event, err));
        if (event.kind == SMHF_JSON_OBJECT_END) {
            return SMHF_OK;
        }
        SMHF_TRY(parse_label_id(event.text, event.offset, &id, err));
        SMHF_TRY(smhf_json_next(reader, &event, err));
        if (event.kind != SMHF_JSON_STRING && event.kind != SMHF_JSON_NUMBER) {
            return smhf_fail_at(err, SMHF_E_PARSE, event.offset,
                                "config.json: id2label[%lld]: expected a string, found %s",
                                (long long)id, smhf_json_kind_name(event.kind));
        }
        label_entry *entry = smhf_arena_alloc(&config->arena, sizeof *entry);
        char *name = smhf_arena_copy_string(&config->arena, event.text.data, event.text.size);
        if (entry == NULL || name == NULL) {
            return smhf_fail_nomem(err, "config.json: id2label", event.text.size);
        }
        *entry = (label_entry){id, name, map->first};
        map->first = entry;
        map->count++;
    }
}

/* --- reading fields ------------------------------------------------------------------------- */

/* `fallback` < 0: the key must be there. */
static smhf_status take_int(field *fields, const char *key, int least, int most, int fallback,
                            int *out, smhf_error *err) {
    const field *f = find(fields, key);
    if (!present(f)) {
        if (fallback < 0) {
            return smhf_fail(err, SMHF_E_ARG, "config.json: %s: expected an integer, found nothing",
                             key);
        }
        *out = fallback;
        return SMHF_OK;
    }
    if (f->kind != SMHF_JSON_NUMBER || !f->whole) {
        return smhf_fail_at(
            err, SMHF_E_PARSE, f->offset, "config.json: %s: expected an integer, found %s", key,
            f->kind == SMHF_JSON_NUMBER ? "a fraction" : smhf_json_kind_name(f->kind));
    }
    if (f->integer < least || f->integer > most) {
        return smhf_fail(err, SMHF_E_ARG, "config.json: %s: expected %d to %d, found %lld", key,
                         least, most, (long long)f->integer);
    }
    *out = (int)f->integer;
    return SMHF_OK;
}

static smhf_status take_float(field *fields, const char *key, double least, double below,
                              double fallback, float *out, smhf_error *err) {
    const field *f = find(fields, key);
    if (!present(f)) {
        *out = (float)fallback;
        return SMHF_OK;
    }
    if (f->kind != SMHF_JSON_NUMBER) {
        return smhf_fail_at(err, SMHF_E_PARSE, f->offset,
                            "config.json: %s: expected a number, found %s", key,
                            smhf_json_kind_name(f->kind));
    }
    if (!(f->number >= least && f->number < below)) {
        return smhf_fail(err, SMHF_E_ARG, "config.json: %s: expected %g <= value < %g, found %g",
                         key, least, below, f->number);
    }
    *out = (float)f->number;
    return SMHF_OK;
}

/* The key, when present, must hold exactly this string. */
static smhf_status require_text(field *fields, const char *key, const char *only, smhf_error *err) {
    const field *f = find(fields, key);
    if (present(f) && (f->kind != SMHF_JSON_STRING || strcmp(f->text, only) != 0)) {
        return smhf_fail(err, SMHF_E_UNSUPPORTED,
                         "config.json: %s: only \"%s\" is computed, found \"%s\"", key, only,
                         f->kind == SMHF_JSON_STRING ? f->text : smhf_json_kind_name(f->kind));
    }
    return SMHF_OK;
}

/* The key, when present, must be false, null, 0 or empty. */
static smhf_status require_off(field *fields, const char *key, smhf_error *err) {
    const field *f = find(fields, key);
    if (!present(f) || f->kind == SMHF_JSON_FALSE) {
        return SMHF_OK;
    }
    if ((f->kind == SMHF_JSON_OBJECT_BEGIN || f->kind == SMHF_JSON_ARRAY_BEGIN) && f->empty) {
        return SMHF_OK;
    }
    return smhf_fail(err, SMHF_E_UNSUPPORTED,
                     "config.json: %s: this option is not supported (expected false or absent)",
                     key);
}

static const char *const HEAD_NAMES[] = {"sequence-classification", "token-classification",
                                         "question-answering", "embedding", "masked-lm"};

const char *smhf_head_name(smhf_head head) {
    return HEAD_NAMES[head];
}

smhf_status smhf_head_parse(const char *task, smhf_head *out, smhf_error *err) {
    for (int i = 0; i < (int)(sizeof HEAD_NAMES / sizeof HEAD_NAMES[0]); i++) {
        if (strcmp(task, HEAD_NAMES[i]) == 0) {
            *out = (smhf_head)i;
            return SMHF_OK;
        }
    }
    return smhf_fail(err, SMHF_E_UNSUPPORTED,
                     "task \"%.40s\": expected \"sequence-classification\", "
                     "\"token-classification\", \"question-answering\", \"embedding\" or "
                     "\"masked-lm\"",
                     task);
}

/* Dropout in front of the head: each class of transformers has its own rule. */
static smhf_status read_head_dropout(smhf_config *config, field *fields, smhf_error *err) {
    config->head_dropout = config->embedding_dropout; /* of token classification in DistilBERT */
    if (config->head == SMHF_HEAD_ENCODER || config->head == SMHF_HEAD_MASKED) {
        config->head_dropout = 0.0f;
        return SMHF_OK;
    }
    if (config->architecture == SMHF_BERT) {
        if (config->head == SMHF_HEAD_SPAN) {
            config->head_dropout = 0.0f;
            return SMHF_OK;
        }
        return take_float(fields, "classifier_dropout", 0, 1, (double)config->embedding_dropout,
                          &config->head_dropout, err);
    }
    if (config->head == SMHF_HEAD_SEQUENCE) {
        return take_float(fields, "seq_classif_dropout", 0, 1, 0.2, &config->head_dropout, err);
    }
    if (config->head == SMHF_HEAD_SPAN) {
        return take_float(fields, "qa_dropout", 0, 1, 0.1, &config->head_dropout, err);
    }
    return SMHF_OK;
}

/* problem_type, else as transformers infers it from the number of labels. */
static smhf_status read_problem(smhf_config *config, field *fields, smhf_error *err) {
    static const char *const names[] = {"single_label_classification", "multi_label_classification",
                                        "regression"};
    const field *f = find(fields, "problem_type");
    config->problem = config->num_labels == 1 ? SMHF_PROBLEM_REGRESSION : SMHF_PROBLEM_SINGLE;
    if (!present(f)) {
        return SMHF_OK;
    }
    for (int i = 0; f->kind == SMHF_JSON_STRING && i < 3; i++) {
        if (strcmp(f->text, names[i]) == 0) {
            config->problem = (smhf_problem)i;
            config->problem_given = 1;
            return SMHF_OK;
        }
    }
    return smhf_fail(err, SMHF_E_UNSUPPORTED,
                     "config.json: problem_type: expected \"%s\", \"%s\" or \"%s\", found \"%s\"",
                     names[0], names[1], names[2],
                     f->kind == SMHF_JSON_STRING ? f->text : smhf_json_kind_name(f->kind));
}

static smhf_status read_distilbert(smhf_config *config, field *fields, smhf_error *err) {
    config->architecture = SMHF_DISTILBERT;
    config->types = 0;
    config->layernorm_eps = 1e-12f;
    config->projection_dropout = 0.0f;
    SMHF_TRY(take_int(fields, "dim", 1, 1 << 15, 768, &config->hidden, err));
    SMHF_TRY(take_int(fields, "n_heads", 1, 1 << 10, 12, &config->heads, err));
    SMHF_TRY(take_int(fields, "n_layers", 1, 256, 6, &config->layers, err));
    SMHF_TRY(take_int(fields, "hidden_dim", 1, 1 << 17, 3072, &config->feedforward, err));
    SMHF_TRY(take_float(fields, "dropout", 0, 1, 0.1, &config->embedding_dropout, err));
    config->ffn_dropout = config->embedding_dropout;
    SMHF_TRY(take_float(fields, "attention_dropout", 0, 1, 0.1, &config->attention_dropout, err));
    SMHF_TRY(require_text(fields, "activation", "gelu", err));
    return require_off(fields, "sinusoidal_pos_embds", err);
}

static smhf_status read_bert(smhf_config *config, field *fields, smhf_error *err) {
    config->architecture = SMHF_BERT;
    SMHF_TRY(take_int(fields, "hidden_size", 1, 1 << 15, 768, &config->hidden, err));
    SMHF_TRY(take_int(fields, "num_attention_heads", 1, 1 << 10, 12, &config->heads, err));
    SMHF_TRY(take_int(fields, "num_hidden_layers", 1, 256, 12, &config->layers, err));
    SMHF_TRY(take_int(fields, "intermediate_size", 1, 1 << 17, 3072, &config->feedforward, err));
    SMHF_TRY(take_int(fields, "type_vocab_size", 1, 1 << 10, 2, &config->types, err));
    SMHF_TRY(take_float(fields, "layer_norm_eps", 0, 1, 1e-12, &config->layernorm_eps, err));
    SMHF_TRY(take_float(fields, "hidden_dropout_prob", 0, 1, 0.1, &config->embedding_dropout, err));
    config->ffn_dropout = config->projection_dropout = config->embedding_dropout;
    SMHF_TRY(take_float(fields, "attention_probs_dropout_prob", 0, 1, 0.1,
                        &config->attention_dropout, err));
    SMHF_TRY(require_text(fields, "hidden_act", "gelu", err));
    SMHF_TRY(require_text(fields, "position_embedding_type", "absolute", err));
    SMHF_TRY(require_off(fields, "is_decoder", err));
    return require_off(fields, "add_cross_attention", err);
}

static smhf_status read_common(smhf_config *config, field *fields, smhf_error *err) {
    SMHF_TRY(take_int(fields, "vocab_size", 1, MAX_DIMENSION, 30522, &config->vocab, err));
    SMHF_TRY(take_int(fields, "max_position_embeddings", 1, 1 << 16, 512, &config->positions, err));
    SMHF_TRY(
        take_float(fields, "initializer_range", 0, 100, 0.02, &config->initializer_range, err));
    const field *pad = find(fields, "pad_token_id");
    if (pad->kind == SMHF_JSON_NULL) {
        config->pad_id = -1;
    } else {
        SMHF_TRY(take_int(fields, "pad_token_id", 0, config->vocab - 1, 0, &config->pad_id, err));
    }
    SMHF_TRY(require_off(fields, "pruned_heads", err));
    SMHF_TRY(require_off(fields, "quantization_config", err));
    const field *tied = find(fields, "tie_word_embeddings");
    if (config->head == SMHF_HEAD_MASKED && tied->kind == SMHF_JSON_FALSE) {
        return smhf_fail(err, SMHF_E_UNSUPPORTED,
                         "config.json: tie_word_embeddings: a masked-LM head of its own weights is "
                         "not supported (expected true or absent)");
    }
    if (config->hidden % config->heads != 0) {
        return smhf_fail(err, SMHF_E_ARG,
                         "config.json: %d hidden features do not divide into %d attention heads",
                         config->hidden, config->heads);
    }
    return SMHF_OK;
}

static smhf_status name_labels(smhf_config *config, const field *in_file, const label_map *map,
                               int override, smhf_error *err) {
    int64_t count = map->seen ? map->count : 2; /* the default of transformers */
    if (!map->seen && present(in_file) && in_file->whole) {
        count = in_file->integer;
    }
    if (override > 0) {
        count = override;
    }
    if (count < 1 || count > MAX_LABELS) {
        return smhf_fail(err, SMHF_E_ARG, "num_labels: expected 1 to %d, found %lld", MAX_LABELS,
                         (long long)count);
    }
    config->num_labels = (int)count;
    config->labels = smhf_arena_calloc(&config->arena, (size_t)count, sizeof *config->labels);
    if (config->labels == NULL) {
        return smhf_fail_nomem(err, "config.json: labels", (size_t)count * sizeof *config->labels);
    }
    if (map->seen && map->count == count) {
        for (const label_entry *entry = map->first; entry != NULL; entry = entry->next) {
            if (entry->id >= count || config->labels[entry->id] != NULL) {
                return smhf_fail(err, SMHF_E_ARG,
                                 "config.json: id2label: expected the ids 0 to %lld once each, "
                                 "found %lld",
                                 (long long)count - 1, (long long)entry->id);
            }
            config->labels[entry->id] = entry->name;
        }
        return SMHF_OK;
    }
    for (int64_t id = 0; id < count; id++) {
        char name[32];
        const int size = snprintf(name, sizeof name, "LABEL_%lld", (long long)id);
        config->labels[id] = smhf_arena_copy_string(&config->arena, name, (size_t)size);
        if (config->labels[id] == NULL) {
            return smhf_fail_nomem(err, "config.json: labels", (size_t)size);
        }
    }
    return SMHF_OK;
}

static smhf_status read_object(smhf_config *config, smhf_json_reader *reader, field *fields,
                               label_map *labels, smhf_error *err) {
    smhf_json_event event;
    SMHF_TRY(smhf_json_expect(reader, SMHF_JSON_OBJECT_BEGIN, "config.json", &event, err));
    for (;;) {
        SMHF_TRY(smhf_json_next(reader, &event, err));
        if (event.kind == SMHF_JSON_OBJECT_END) {
            break;
        }
        field *f = NULL;
        for (f = fields; f->key != NULL && !smhf_bytes_equal_string(event.text, f->key); f++) {
        }
        if (smhf_bytes_equal_string(event.text, "id2label")) {
            SMHF_TRY(read_labels(config, reader, labels, err));
        } else if (f->key != NULL) {
            SMHF_TRY(read_value(reader, f, err));
        } else {
            SMHF_TRY(smhf_json_skip(reader, err));
        }
    }
    return smhf_json_expect(reader, SMHF_JSON_END, "config.json", &event, err);
}

smhf_status smhf_config_parse(smhf_config *config, smhf_bytes_view json, int num_labels,
                              smhf_head head, smhf_error *err) {
#define ABSENT(key_)                                                                               \
    {                                                                                              \
        key_, SMHF_JSON_END, 0, 0.0, 0, 0, 0, {                                                    \
            0                                                                                      \
        }                                                                                          \
    }
    field fields[] = {
        ABSENT("model_type"),
        ABSENT("vocab_size"),
        ABSENT("max_position_embeddings"),
        ABSENT("initializer_range"),
        ABSENT("pad_token_id"),
        ABSENT("problem_type"),
        ABSENT("pruned_heads"),
        ABSENT("quantization_config"),
        ABSENT("tie_word_embeddings"),
        ABSENT("num_labels"),
        ABSENT("dim"),
        ABSENT("n_heads"),
        ABSENT("n_layers"),
        ABSENT("hidden_dim"),
        ABSENT("dropout"),
        ABSENT("attention_dropout"),
        ABSENT("seq_classif_dropout"),
        ABSENT("qa_dropout"),
        ABSENT("activation"),
        ABSENT("sinusoidal_pos_embds"),
        ABSENT("hidden_size"),
        ABSENT("num_attention_heads"),
        ABSENT("num_hidden_layers"),
        ABSENT("intermediate_size"),
        ABSENT("type_vocab_size"),
        ABSENT("layer_norm_eps"),
        ABSENT("hidden_dropout_prob"),
        ABSENT("attention_probs_dropout_prob"),
        ABSENT("classifier_dropout"),
        ABSENT("hidden_act"),
        ABSENT("position_embedding_type"),
        ABSENT("is_decoder"),
        ABSENT("add_cross_attention"),
        {NULL, SMHF_JSON_END, 0, 0.0, 0, 0, 0, {0}},
    };
#undef ABSENT
    label_map labels = {0};
    smhf_json_reader reader;
    *config = (smhf_config){.head = head};
    smhf_arena_init(&config->arena, 4096);
    smhf_json_reader_init(&reader, json, 16, 1 << 16);
    smhf_status status = read_object(config, &reader, fields, &labels, err);
    smhf_json_reader_deinit(&reader);
    SMHF_TRY(status);

    const field *type = find(fields, "model_type");
    if (type->kind == SMHF_JSON_STRING && strcmp(type->text, "distilbert") == 0) {
        SMHF_TRY(read_distilbert(config, fields, err));
    } else if (type->kind == SMHF_JSON_STRING && strcmp(type->text, "bert") == 0) {
        SMHF_TRY(read_bert(config, fields, err));
    } else {
        return smhf_fail(
            err, SMHF_E_UNSUPPORTED,
            "config.json: model_type: expected \"distilbert\" or \"bert\", found %s%s%s",
            type->kind == SMHF_JSON_STRING ? "\"" : "",
            type->kind == SMHF_JSON_STRING ? type->text
            : type->kind == SMHF_JSON_END  ? "nothing"
                                           : smhf_json_kind_name(type->kind),
            type->kind == SMHF_JSON_STRING ? "\"" : "");
    }
    SMHF_TRY(read_common(config, fields, err));
    SMHF_TRY(read_head_dropout(config, fields, err));
    if (head == SMHF_HEAD_SPAN) {
        num_labels = 2; /* start and end, whatever the file says */
    }
    SMHF_TRY(name_labels(config, find(fields, "num_labels"), &labels, num_labels, err));
    return read_problem(config, fields, err);
}

void smhf_config_deinit(smhf_config *config) {
    smhf_arena_deinit(&config->arena);
    *config = (smhf_config){0};
}
