/* plan.h: where every activation of a pass lies: one block, laid out for a capacity.
 *
 *     smhf_plan plan = {.layers = array_of_L};
 *     size_t bytes = smhf_plan_make(&plan, &shape, NULL);         // how much
 *     ... allocate `bytes` on the device ...
 *     smhf_plan_make(&plan, &shape, block);                        // views into the block
 *
 * forward.c and backward.c are the same for training and inference: the plan decides what is
 * kept. In inference every layer's views lie over the same few buffers and what only the backward
 * pass reads is absent; so it is in training below the lowest layer that is trained. From there up
 * each layer keeps its own; under gradient checkpointing only its output, and the inside of all of
 * them lies over one piece of memory (backward.c computes it again).
 */
#ifndef SMHF_MODEL_PLAN_H
#define SMHF_MODEL_PLAN_H

#include "backend/backend.h"
#include "model/config.h"

typedef struct smhf_plan_shape {
    const smhf_config *config;
    int32_t tokens, rows; /* capacities: T, B */
    int32_t picks;        /* P: tokens that a masked-LM head looks at; else 0 */
    int training;
    smhf_dtype dtype;  /* of activations: F32 or BF16 */
    int lowest;        /* training: as smhf_trained has it */
    int checkpointing; /* training: keep the outputs of layers only */
    int keyless;       /* the CLS layer attends without keys and values: attention_first_fwd */
} smhf_plan_shape;

/* Activations of one layer. n is T, or B in the last layer of a sequence classifier, where only
 * the first token of each sequence goes on behind keys and values ("CLS layer" below). */
typedef struct smhf_layer_activations {
    smhf_tensor x;         /* [T, H] input: the output of what is below */
    smhf_tensor cls;       /* [B, H] CLS layer: the first tokens of x; else absent */
    smhf_tensor kv;        /* [T, 3H] q|k|v side by side; CLS layer: [T, 2H] k|v, or absent */
    smhf_tensor q, k, v;   /* [n, H], [T, H], [T, H]: views of kv; CLS layer: q is its own */
    smhf_tensor lse;       /* [n, A] training */
    smhf_tensor context;   /* [n, H] */
    smhf_tensor projected; /* [n, H] */
    smhf_tensor sum1;      /* [n, H] training: input of the first LayerNorm (is `projected`) */
    smhf_tensor stats1;    /* [n, 2] training */
    smhf_tensor hidden;    /* [n, H] after the first LayerNorm */
    smhf_tensor pre;       /* [n, F] training: before GELU */
    smhf_tensor ffn;       /* [n, F] */
    smhf_tensor ffn_out;   /* [n, H] */
    smhf_tensor sum2;      /* [n, H] training (is `ffn_out`) */
    smhf_tensor stats2;    /* [n, 2] training */
    smhf_tensor out;       /* [n, H] */
} smhf_layer_activations;

/* Gradients of activations, reused from layer to layer. */
typedef struct smhf_gradient_buffers {
    smhf_tensor d;        /* [T, H] of a layer's output, then of its input */
    smhf_tensor d_cls;    /* [B, H] the same for a CLS layer */
    smhf_tensor branch;   /* [T, H] behind a dropout */
    smhf_tensor dcontext; /* [T, H] */
    smhf_tensor dkv;      /* [T, 3H] */
    smhf_tensor dq_cls;   /* [B, H] */
    smhf_tensor dpooled;  /* [B, H] sequence classification */
    smhf_tensor dlogits;  /* [B, T or P, C]; of a masked-LM head it is `logits` */
    smhf_tensor dpicked;  /* [P, H] masked LM */
} smhf_gradient_buffers;

typedef struct smhf_plan {
    smhf_plan_shape shape;
    smhf_tensor embedded;           /* [T, H] */
    smhf_tensor embedded_stats;     /* [T, 2] training */
    smhf_layer_activations *layers; /* [L], borrowed from the workspace */
    smhf_tensor pooled;             /* [B, H] after pre_classifier + ReLU, or pooler + tanh; the
                                       pooled hidden states of an encoder */
    smhf_tensor dropped;            /* [B or T, H] after the head's dropout */
    smhf_tensor picked;             /* [P, H] masked LM: picked tokens of the last layer's output */
    smhf_tensor picked_pre;         /* [P, H] training: before GELU */
    smhf_tensor picked_act;         /* [P, H] behind it, what the head's LayerNorm takes */
    smhf_tensor picked_stats;       /* [P, 2] training */
    smhf_tensor picked_out;         /* [P, H] what the word table is multiplied with */
    smhf_tensor logits;             /* [B, T or P, C]; absent without a head */
    smhf_tensor logits_f32;         /* what the host reads; is `logits` in fp32 */
    smhf_tensor targets;            /* training: what the loss compares with, see trainer.c */
    smhf_tensor loss;               /* [1, 1] F32 training */
    smhf_gradient_buffers grads;
    size_t bytes;
} smhf_plan;

/* Lays the plan out over `base` (NULL: only counts). plan->layers must hold config->layers
 * entries. Returns the bytes needed, 0 when they do not fit a size_t. */
size_t smhf_plan_make(smhf_plan *plan, const smhf_plan_shape *shape, void *base);

#endif
