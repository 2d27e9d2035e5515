/* network.h: the network over the op table: weights, gradients, forward, backward.
 *
 *     smhf_network net;                        // views of the parameters, weights prepared
 *     SMHF_TRY(smhf_network_init(&net, dev, &table, &config, values, &options, err));
 *     smhf_pass pass = {dev, &net, &plan, pack, {seed, step, 1}};
 *     smhf_forward(&pass);                     // ids of the pack -> plan->logits
 *     smhf_backward(&pass, &gradients);        // plan->grads.dlogits -> gradients +=
 *     SMHF_TRY(dev->backend->sync(dev, err));
 *
 * Nothing here asks which device it runs on, and nothing waits.
 * Threads: a network is immutable between refreshes; a pass belongs to the thread of its device.
 */
#ifndef SMHF_MODEL_NETWORK_H
#define SMHF_MODEL_NETWORK_H

#include "backend/backend.h"
#include "model/mapped.h"
#include "model/model.h"
#include "model/plan.h"
#include "model/tensors.h"
#include "model/trained.h"

/* Weights, prepared for multiplication, and vectors in place. */
typedef struct smhf_network {
    const smhf_config *config;
    smhf_embedding tables;
    smhf_layer *layers; /* [L]; the last one has q beside kv, the others q|k|v in kv */
    smhf_weight *pool, *label;
    smhf_dtype compute; /* of attention and weight gradients: F32 or BF16 */
    smhf_tensor pool_bias, label_bias;
    smhf_tensor head_gamma, head_beta; /* masked LM */
    smhf_act pool_act;   /* RELU for DistilBERT's pre_classifier, TANH for BERT's pooler, GELU for
                            the transform of a masked-LM head */
    smhf_weight **owned; /* every prepared weight, for refresh and free */
    size_t *owned_slots; /* whose values each one has */
    int owned_count;
    uint32_t generation; /* counts how often it was prepared anew: its addresses are others */
    smhf_arena arena;
} smhf_network;

/* Gradients of one layer, in the same split. Frozen matrices and biases are absent; frozen vectors
 * of a LayerNorm lie over memory that nobody reads. */
typedef struct smhf_layer_gradients {
    smhf_tensor q, kv, out, ffn1, ffn2;
    smhf_tensor q_bias, kv_bias, out_bias, ffn1_bias, ffn2_bias;
    smhf_tensor attention_gamma, attention_beta, output_gamma, output_beta;
} smhf_layer_gradients;

typedef struct smhf_gradients {
    smhf_embedding tables;
    smhf_layer_gradients *layers; /* [L] */
    smhf_tensor pool, pool_bias, label, label_bias;
    smhf_tensor head_gamma, head_beta; /* masked LM, whose label is the word table */
    int lowest;                        /* as smhf_trained has it */
    smhf_arena arena;
} smhf_gradients;

/* How a network multiplies. */
typedef struct smhf_network_options {
    uint32_t uses;      /* SMHF_WEIGHT_FORWARD, _BACKWARD */
    smhf_dtype compute; /* of the encoder's matrices */
    smhf_dtype dtype;   /* of activations */
} smhf_network_options;

/* Where the parameters lie: a device arena of table->size floats, or a mapped file. */
typedef struct smhf_values {
    float *arena;
    const smhf_mapped *mapped; /* NULL: in the arena */
} smhf_values;

/* `values` outlive the network. Deinit also after failure, with a device of the same hardware. */
smhf_status smhf_network_init(smhf_network *net, smhf_device *dev, const smhf_parameters *table,
                              const smhf_config *config, smhf_values values,
                              const smhf_network_options *options, smhf_error *err) SMHF_MUST_USE;
/* Op: the parameters have new values; all, or those that are trained. */
void smhf_network_refresh(const smhf_network *net, smhf_device *dev, const smhf_trained *trained);
void smhf_network_deinit(smhf_network *net, smhf_device *dev);

/* Views into a device arena of trained->size floats; `spill` takes what is computed of frozen
 * vectors, 2 * hidden floats. */
smhf_status smhf_gradients_init(smhf_gradients *gradients, const smhf_trained *trained,
                                const smhf_config *config, float *arena, float *spill,
                                smhf_error *err) SMHF_MUST_USE;
void smhf_gradients_deinit(smhf_gradients *gradients);

/* Dropout of a pass; off when `on` is 0. */
typedef struct smhf_pass_dropout {
    uint64_t seed;
    const smhf_step *step; /* device */
    int on;
} smhf_pass_dropout;

/* One pass over one pack. */
typedef struct smhf_pass {
    smhf_device *dev;
    const smhf_network *net;
    const smhf_plan *plan;
    const smhf_pack *pack;
    smhf_pass_dropout dropout;
    smhf_tensor words; /* rows that the pack's ids mean, instead of the word table; absent: not */
    const smhf_cancel *cancel; /* or NULL */
} smhf_pass;

/* Between ops of a long pass: when the caller wants to stop, the ops that follow do nothing, and
 * sync says SMHF_E_CANCELLED. */
void smhf_pass_check(const smhf_pass *pass);

/* The places where a network drops, and the number of each. */
typedef enum smhf_dropout_place {
    SMHF_DROP_EMBEDDING,
    SMHF_DROP_ATTENTION,
    SMHF_DROP_PROJECTION,
    SMHF_DROP_FFN,
    SMHF_DROP_HEAD,
} smhf_dropout_place;

smhf_dropout smhf_pass_drop(const smhf_pass *pass, smhf_dropout_place place, int layer);

/* What a workspace's device runs again and again; see smhf_replay. */
typedef enum smhf_pass_sort {
    SMHF_PASS_FORWARD = 1,  /* detail: pooling */
    SMHF_PASS_TRAIN = 2,    /* detail: loss, first micro-batch, accumulation */
    SMHF_PASS_EVALUATE = 3, /* detail: loss */
    SMHF_PASS_UPDATE = 4,   /* AdamW and what follows from new values */
} smhf_pass_sort;

/* The kind of a run: what it is and which network's addresses it knows. */
static inline uint64_t smhf_pass_kind(const smhf_pass *pass, smhf_pass_sort sort, int detail) {
    return (uint64_t)pass->net->generation << 32 | (uint64_t)(uint32_t)detail << 4 | (uint64_t)sort;
}

/* pack -> plan->logits_f32 */
void smhf_forward(const smhf_pass *pass);
/* One layer: plan->layers[l].x -> .out and what the plan keeps. */
void smhf_layer_forward(const smhf_pass *pass, int l);
/* plan->grads.dlogits -> gradients += */
void smhf_backward(const smhf_pass *pass, const smhf_gradients *gradients);
/* linear_bwd_weight, unless the matrix is frozen. */
void smhf_weight_backward(const smhf_pass *pass, smhf_tensor dw, smhf_tensor dbias, smhf_tensor dy,
                          smhf_tensor x, smhf_axis axis);

/* heads.c: the last layer's output x -> logits, and back to the gradient of x. */
void smhf_head_forward(const smhf_pass *pass, smhf_tensor x);
void smhf_head_backward(const smhf_pass *pass, const smhf_gradients *gradients, smhf_tensor x);

#endif
