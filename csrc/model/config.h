/* config.h: a checkpoint's config.json as numbers, validated once.
 *
 *     smhf_config config;
 *     SMHF_TRY(smhf_config_parse(&config, view, 0, head, err)); // 0 labels: as the file says
 *     ... config.hidden, config.layers, config.labels[2] ...
 *     smhf_config_deinit(&config);
 *
 * DistilBERT and BERT encoders under the key names of `transformers`. What the engine does not
 * compute (relative positions, decoders, other activations) is refused by
 * the name of its key: a model that loads is a model that is computed as it was trained.
 * Threads: immutable after parse. Ownership: strings live in the config's own arena.
 */
#ifndef SMHF_MODEL_CONFIG_H
#define SMHF_MODEL_CONFIG_H

#include "common/arena.h"
#include "common/bytes.h"

typedef enum smhf_architecture {
    SMHF_DISTILBERT,
    SMHF_BERT,
} smhf_architecture;

/* What stands on the encoder. */
typedef enum smhf_head {
    SMHF_HEAD_SEQUENCE, /* classes of a whole text, from its first token */
    SMHF_HEAD_TOKEN,    /* classes of every token */
    SMHF_HEAD_SPAN,     /* start and end of an answer: two numbers for every token */
    SMHF_HEAD_ENCODER,  /* nothing: the last hidden states themselves */
    SMHF_HEAD_MASKED,   /* words of the vocabulary for picked tokens */
} smhf_head;

/* What the labels of a sequence mean, and with that the loss. */
typedef enum smhf_problem {
    SMHF_PROBLEM_SINGLE,     /* one class: cross-entropy */
    SMHF_PROBLEM_MULTI,      /* any number of classes: binary cross-entropy */
    SMHF_PROBLEM_REGRESSION, /* numbers: mean squared error */
} smhf_problem;

typedef struct smhf_config {
    smhf_architecture architecture;
    smhf_head head;
    smhf_problem problem; /* of SMHF_HEAD_SEQUENCE */
    int problem_given;    /* by name; else taken from the number of labels */
    int vocab;            /* V */
    int positions;        /* P: longest sequence */
    int types;            /* token types; 0: the architecture has none */
    int hidden;           /* H: hidden size */
    int heads;            /* A; D = H / A */
    int layers;           /* L */
    int feedforward;      /* F */
    int num_labels;
    int pad_id; /* row of the word embedding that is zero and takes no gradient; -1: none */
    float layernorm_eps;
    float initializer_range;
    float embedding_dropout;  /* after the embedding LayerNorm */
    float attention_dropout;  /* on attention probabilities */
    float projection_dropout; /* after the attention output projection: BERT only, else 0 */
    float ffn_dropout;        /* after the second feed-forward matrix */
    float head_dropout;       /* before the classifier */
    const char **labels;      /* [num_labels] id -> name */
    smhf_arena arena;
} smhf_config;

/* Fills *config from the text of config.json. `num_labels` > 0 overrides the file: when its
 * id2label has another size the names become LABEL_0, LABEL_1, ... as in transformers.
 * SMHF_E_PARSE with offset for bad JSON and wrong types, SMHF_E_ARG for values out of range,
 * SMHF_E_UNSUPPORTED naming the key for what is not computed. Deinit also after failure. */
smhf_status smhf_config_parse(smhf_config *config, smhf_bytes_view json, int num_labels,
                              smhf_head head, smhf_error *err) SMHF_MUST_USE;
/* "sequence-classification", "token-classification", "question-answering", "embedding",
 * "masked-lm". */
smhf_status smhf_head_parse(const char *task, smhf_head *out, smhf_error *err) SMHF_MUST_USE;
const char *smhf_head_name(smhf_head head);

/* In this layer only the first token of each sequence goes on behind keys and values. */
static inline int smhf_config_cls_layer(const smhf_config *config, int layer) {
    return config->head == SMHF_HEAD_SEQUENCE && layer == config->layers - 1;
}
/* Results stand for tokens, not for sequences. */
static inline int smhf_config_per_token(const smhf_config *config) {
    return config->head != SMHF_HEAD_SEQUENCE;
}
/* Columns of the logits: C. */
static inline int smhf_config_outputs(const smhf_config *config) {
    return config->head == SMHF_HEAD_MASKED ? config->vocab : config->num_labels;
}
void smhf_config_deinit(smhf_config *config);

#endif
