/* model.h: a DistilBERT or BERT encoder and the head on it: open, run, save.
 *
 *     smhf_model_options options = SMHF_MODEL_DEFAULTS;
 *     smhf_model *model;
 *     SMHF_TRY(smhf_model_open("folder", &options, &model, err));    // config.json + .safetensors
 *     smhf_batch batch = {ids, NULL, cu_seqlens, rows};              // packed, no padding
 *     SMHF_TRY(smhf_model_forward(model, &batch, logits, err));      // [rows, num_labels]
 *     smhf_model_free(model);
 *
 * Padding does not exist below this header: smhf_padded arrays lose it on the way in. A batch of
 * any size runs in pieces of at most options.batch_tokens tokens.
 * Threads: I. Any number of threads may call forward: each takes a workspace (its own device queue
 * and activation memory) from a free list, makes one while there are fewer than max_workspaces,
 * else waits. A trainer (trainer.h) that writes the weights waits for readers and the reverse.
 * Ownership: open/new → free; a model outlives its trainers. Returned names live with the model.
 */
#ifndef SMHF_MODEL_H
#define SMHF_MODEL_H

#include "common/bytes.h"
#include "common/status.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct smhf_model smhf_model;

typedef struct smhf_model_options {
    const char *device;    /* "auto", "cpu", "cuda", "cuda:1" */
    const char *precision; /* "fp32", "bf16" or "int8"; where the device has it */
    int num_labels;        /* 0: as config.json says */
    uint64_t seed;         /* of newly made weights */
    int max_workspaces;    /* forward calls that run at the same time; 0: 4 */
    int batch_tokens;      /* tokens computed at once; 0: what suits the device */
    const char *task;      /* what stands on the encoder: see smhf_head_parse in config.h; NULL:
                              "sequence-classification" */
    int remake_head;       /* a head of another size than the checkpoint's is newly made */
} smhf_model_options;

#define SMHF_MODEL_DEFAULTS                                                                        \
    { "auto", "fp32", 0, 42, 0, 0, NULL, 0 }

/* Opens folder/config.json and folder/model.safetensors. Weights of the classification head that
 * the checkpoint lacks are newly made (see the load report); anything else that does not fit is
 * refused by name and nothing is kept. Caller frees with smhf_model_free. */
smhf_status smhf_model_open(const char *folder, const smhf_model_options *options, smhf_model **out,
                            smhf_error *err) SMHF_MUST_USE;
/* All weights new, from the text of a config.json and options->seed. */
smhf_status smhf_model_new(smhf_bytes_view config_json, const smhf_model_options *options,
                           smhf_model **out, smhf_error *err) SMHF_MUST_USE;
/* The same weights under another precision ("fp32", "bf16", "int8"), for calls from now on. The
 * fp32 values stay what they are: training in bf16 updates them, saving writes them. int8 is for
 * inference: SMHF_E_BUSY while a trainer holds the model. On failure nothing changes. */
smhf_status smhf_model_set_precision(smhf_model *model, const char *precision,
                                     smhf_error *err) SMHF_MUST_USE;
/* Writes folder/model.safetensors, whole or not at all. The folder must exist. */
smhf_status smhf_model_save(smhf_model *model, const char *folder, smhf_error *err) SMHF_MUST_USE;
/* NULL is fine. */
void smhf_model_free(smhf_model *model);

/* --- running -----------------------------------------------------------------------------------
 */

/* A packed batch. Borrowed during the call. */
typedef struct smhf_batch {
    const int32_t *ids;        /* [tokens] */
    const int32_t *type_ids;   /* [tokens], or NULL: all 0; not read by DistilBERT */
    const int32_t *cu_seqlens; /* [rows + 1], from 0; row r is [cu_seqlens[r], cu_seqlens[r + 1]) */
    size_t rows;
} smhf_batch;

/* Integers of another owner, 1 (unsigned), 4 or 8 bytes each. data NULL: absent. */
typedef struct smhf_int_view {
    const void *data;
    int bytes;
} smhf_int_view;

/* Element `index` of a view that is there. */
static inline int64_t smhf_int_at(smhf_int_view view, size_t index) {
    return view.bytes == 8   ? ((const int64_t *)view.data)[index]
           : view.bytes == 4 ? ((const int32_t *)view.data)[index]
                             : ((const uint8_t *)view.data)[index];
}

/* A rectangular batch as Python has it, all [rows, columns], C order. */
typedef struct smhf_padded {
    smhf_int_view ids;
    smhf_int_view mask;     /* 1: a token, 0: padding behind the tokens; absent: no padding */
    smhf_int_view type_ids; /* or absent */
    size_t rows, columns;
} smhf_padded;

/* A caller who may want to stop a long call is asked now and then, on the calling thread, a few
 * times in each layer. Not 0: the call ends with SMHF_E_CANCELLED. */
typedef struct smhf_cancel {
    int (*stop)(void *context);
    void *context;
} smhf_cancel;

/* What an encoder without a head gives. */
typedef enum smhf_pooling {
    SMHF_POOLING_NONE, /* the hidden state of every token */
    SMHF_POOLING_MEAN, /* of each sequence, the mean over its tokens */
    SMHF_POOLING_CLS,  /* of each sequence, its first token's */
} smhf_pooling;

/* A call with everything that can be said about it. */
typedef struct smhf_run {
    const smhf_batch *batch;   /* packed, or NULL: */
    const smhf_padded *padded; /* padded */
    smhf_pooling pooling;      /* embedding */
    const int32_t *picks;      /* masked LM: the tokens to look at, counted in packed order and
                                  ascending; NULL: all of them */
    size_t pick_count;
    const smhf_cancel *cancel; /* or NULL */
} smhf_run;

/* out: sequence classification: logits [rows, num_labels]; token classification and question
 * answering (start, end): [tokens, num_labels], packed; embedding: as smhf_model_encode; masked LM:
 * [picks, vocab]. SMHF_E_ARG names row and position of an id outside the vocabulary, a
 * row without tokens, one longer than max positions, a mask with padding before or inside. */
smhf_status smhf_model_run(smhf_model *model, const smhf_run *run, float *out,
                           smhf_error *err) SMHF_MUST_USE;
/* The same of a batch, or of padded arrays, and nothing else. */
smhf_status smhf_model_forward(smhf_model *model, const smhf_batch *batch, float *logits,
                               smhf_error *err) SMHF_MUST_USE;
smhf_status smhf_model_forward_padded(smhf_model *model, const smhf_padded *padded, float *logits,
                                      smhf_error *err) SMHF_MUST_USE;
/* Hidden states of the last layer, [tokens, hidden] packed or [rows, hidden], by run->pooling.
 * SMHF_E_UNSUPPORTED unless the task is "embedding". */
smhf_status smhf_model_encode(smhf_model *model, const smhf_run *run, float *out,
                              smhf_error *err) SMHF_MUST_USE;

/* --- asking ------------------------------------------------------------------------------------
 */

typedef struct smhf_model_info {
    const char *architecture; /* "distilbert", "bert" */
    const char *task;         /* "sequence-classification" ... */
    int per_token;            /* results stand for tokens, not for sequences */
    int width;                /* numbers in one result */
    int vocab, positions, types, hidden, heads, layers, feedforward, num_labels;
    size_t parameter_count; /* tensors */
    uint64_t parameter_floats;
    const char *backend;   /* "cpu", "cuda" */
    const char *precision; /* "fp32" */
} smhf_model_info;

void smhf_model_describe(const smhf_model *model, smhf_model_info *out);
/* Name of label `id`, 0 <= id < num_labels. Borrowed until smhf_model_free. */
const char *smhf_model_label(const smhf_model *model, int id);

typedef struct smhf_parameter_info {
    const char *name; /* as in the checkpoint */
    int ndim;
    size_t shape[2];
    size_t count;
} smhf_parameter_info;

/* `index` below parameter_count; the order is that of the network. */
void smhf_model_parameter(const smhf_model *model, size_t index, smhf_parameter_info *out);
/* Copies the values of one parameter out or in (info.count floats). */
smhf_status smhf_model_parameter_read(smhf_model *model, size_t index, float *out,
                                      smhf_error *err) SMHF_MUST_USE;
smhf_status smhf_model_parameter_write(smhf_model *model, size_t index, const float *values,
                                       smhf_error *err) SMHF_MUST_USE;

/* Names of weights that were newly made (missing = 1) or of tensors of the checkpoint that were
 * left unread (missing = 0). NULL past the end. Borrowed until smhf_model_free. */
const char *smhf_model_report(const smhf_model *model, int missing, size_t index);

#ifdef __cplusplus
}
#endif
#endif
