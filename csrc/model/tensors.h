/* tensors.h: the one table of parameters: our slot, checkpoint name, shape, place in the arena.
 *
 *     smhf_parameters table;
 *     SMHF_TRY(smhf_parameters_init(&table, &config, err));
 *     for (int i = 0; i < table.count; i++) { ... table.items[i].name, .rows, .cols, .offset ... }
 *     size_t at = smhf_parameters_slot(&table, 3, SMHF_SLOT_QKV_WEIGHT);   // floats from the start
 *     smhf_parameters_deinit(&table);
 *
 * Weights, gradients and the two moments of AdamW are four arenas of table.size floats with the
 * same offsets. A slot is what one op reads (the q, k and v matrices of a layer are one slot of
 * 3H rows); a parameter is what a checkpoint names. Names are those of `transformers`.
 * Threads: immutable after init. Ownership: names live in the table's arena.
 */
#ifndef SMHF_MODEL_TENSORS_H
#define SMHF_MODEL_TENSORS_H

#include "common/arena.h"
#include "model/config.h"
#include "model/safetensors.h"

/* Slots of the embeddings, of each layer, and of the head, in arena order. */
typedef enum smhf_slot {
    SMHF_SLOT_WORD,        /* [V, H] */
    SMHF_SLOT_POSITION,    /* [P, H] */
    SMHF_SLOT_TYPE,        /* [types, H]; BERT only */
    SMHF_SLOT_EMBED_GAMMA, /* [H] */
    SMHF_SLOT_EMBED_BETA,  /* [H] */

    SMHF_SLOT_QKV_WEIGHT,  /* [3H, H]: q, k, v */
    SMHF_SLOT_QKV_BIAS,    /* [3H] */
    SMHF_SLOT_OUT_WEIGHT,  /* [H, H] */
    SMHF_SLOT_OUT_BIAS,    /* [H] */
    SMHF_SLOT_ATTN_GAMMA,  /* [H]: LayerNorm after attention */
    SMHF_SLOT_ATTN_BETA,   /* [H] */
    SMHF_SLOT_FFN1_WEIGHT, /* [F, H] */
    SMHF_SLOT_FFN1_BIAS,   /* [F] */
    SMHF_SLOT_FFN2_WEIGHT, /* [H, F] */
    SMHF_SLOT_FFN2_BIAS,   /* [H] */
    SMHF_SLOT_FFN_GAMMA,   /* [H]: LayerNorm after the feed-forward part */
    SMHF_SLOT_FFN_BETA,    /* [H] */

    SMHF_SLOT_POOL_WEIGHT,  /* [H, H]: pre_classifier of DistilBERT, pooler of BERT; transform of a
                               masked-LM head */
    SMHF_SLOT_POOL_BIAS,    /* [H] */
    SMHF_SLOT_HEAD_GAMMA,   /* [H]: LayerNorm of a masked-LM head */
    SMHF_SLOT_HEAD_BETA,    /* [H] */
    SMHF_SLOT_LABEL_WEIGHT, /* [C, H]: classifier; a masked-LM head uses SMHF_SLOT_WORD */
    SMHF_SLOT_LABEL_BIAS,   /* [C], or [V] */
    SMHF_SLOT_COUNT,
} smhf_slot;

#define SMHF_SLOT_LAYER_FIRST SMHF_SLOT_QKV_WEIGHT
#define SMHF_SLOT_LAYER_END SMHF_SLOT_POOL_WEIGHT

typedef enum smhf_parameter_start {
    SMHF_START_NORMAL, /* N(0, initializer_range) */
    SMHF_START_ZERO,
    SMHF_START_ONE,
} smhf_parameter_start;

typedef struct smhf_parameter {
    const char *name; /* "distilbert.transformer.layer.0.attention.q_lin.weight" */
    smhf_slot slot;
    int layer;    /* -1 outside the layers */
    int ndim;     /* 2: [rows, cols]; 1: [cols] */
    int32_t rows; /* 1 for vectors */
    int32_t cols;
    size_t offset; /* floats from the start of an arena */
    size_t count;  /* floats */
    smhf_parameter_start start;
    int decays; /* weight decay applies: matrices; not biases, not LayerNorm */
    int head;   /* may be newly made when a checkpoint lacks it */
} smhf_parameter;

typedef struct smhf_parameters {
    smhf_parameter *items; /* in arena order */
    int count;
    size_t size; /* floats in one arena, padding included */
    int layers;
    const size_t *slots; /* offsets; private, use smhf_parameters_slot */
    size_t slot_count;   /* slot indices are below this */
    smhf_architecture architecture;
    const char *prefix; /* "distilbert." or "bert.": what encoder names start with */
    int tied;           /* the head multiplies by the word table */
    smhf_arena arena;
} smhf_parameters;

smhf_status smhf_parameters_init(smhf_parameters *table, const smhf_config *config,
                                 smhf_error *err) SMHF_MUST_USE;
void smhf_parameters_deinit(smhf_parameters *table);
/* Offset in floats of a slot; `layer` is ignored outside the layers. */
size_t smhf_parameters_slot(const smhf_parameters *table, int layer, smhf_slot slot);
/* Number of a slot among all slots of the model. */
size_t smhf_parameters_slot_index(const smhf_parameters *table, int layer, smhf_slot slot);
/* Index of the parameter of that checkpoint name, or -1. */
int smhf_parameters_find(const smhf_parameters *table, const char *name);

/* What a checkpoint lacked and what it had beyond the model; names as transformers prints them. */
typedef struct smhf_load_report {
    const char **missing; /* newly made */
    int missing_count;
    const char **unexpected; /* left unread */
    int unexpected_count;
    smhf_arena arena;
} smhf_load_report;

void smhf_load_report_init(smhf_load_report *report);
void smhf_load_report_deinit(smhf_load_report *report);

/* Maps every parameter to a tensor of the checkpoint (sources[i], NULL: to be newly made) and
 * writes the report. Accepts names with or without the encoder's prefix, and LayerNorm's old
 * gamma/beta. Refuses by name wrong shapes, dtypes that are no floats, an encoder weight that is
 * absent. Nothing of the model is touched. remake_head: a weight of the head that has another shape
 * counts as absent. */
smhf_status smhf_parameters_match(const smhf_parameters *table, const smhf_safetensors *file,
                                  int remake_head, const smhf_safetensor **sources,
                                  smhf_load_report *report, smhf_error *err) SMHF_MUST_USE;

/* New values for parameter `index`, from (seed, index) alone; the pad row is zero. */
void smhf_parameter_fill(const smhf_parameters *table, int index, const smhf_config *config,
                         uint64_t seed, float *out);

#endif
