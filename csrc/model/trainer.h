/* trainer.h: fine-tuning: forward, loss, backward, accumulate, clip, AdamW.
 *
 *     smhf_trainer_options options = SMHF_TRAINER_DEFAULTS;
 *     options.total_steps = 100;
 *     SMHF_TRY(smhf_trainer_new(model, &options, &trainer, err));
 *     smhf_examples examples = {.batch = &batch, .labels = {labels, 4}};
 *     SMHF_TRY(smhf_trainer_forward_backward(trainer, &examples, &loss, err));
 *     SMHF_TRY(smhf_trainer_optimizer_step(trainer, &report, err));
 *     smhf_trainer_free(trainer);
 *
 * The arithmetic is that of transformers' Trainer with torch.optim.AdamW: decoupled weight decay
 * on matrices only, bias correction, linear warm-up and decay, clipping by the global L2 norm.
 * Dropout draws depend on (seed, forward pass, place, sequence, position) alone, so the same state
 * gives the same bits again. Steady state allocates nothing.
 * Threads: B. A second thread in the same trainer gets SMHF_E_BUSY. Model calls of other threads
 * run between optimizer steps. Ownership: new → free, before the model.
 */
#ifndef SMHF_MODEL_TRAINER_H
#define SMHF_MODEL_TRAINER_H

#include "model/model.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct smhf_trainer smhf_trainer;

/* Factor on the learning rate for step k = 0, 1, ... of N with W steps of warm-up; all but
 * CONSTANT rise as k / W first. */
typedef enum smhf_schedule {
    SMHF_SCHEDULE_LINEAR,               /* (N - k) / (N - W) */
    SMHF_SCHEDULE_COSINE,               /* (1 + cos(pi (k - W) / (N - W))) / 2 */
    SMHF_SCHEDULE_CONSTANT,             /* 1 */
    SMHF_SCHEDULE_CONSTANT_WITH_WARMUP, /* 1 */
} smhf_schedule;

double smhf_schedule_factor(smhf_schedule schedule, int64_t step, int64_t warmup, int64_t total);

typedef struct smhf_trainer_options {
    double learning_rate;
    double beta1, beta2, eps;
    double weight_decay;  /* matrices and embeddings only */
    double max_grad_norm; /* 0: no clipping */
    int64_t warmup_steps;
    int64_t total_steps; /* 0: only with a constant schedule */
    smhf_schedule schedule;
    int gradient_accumulation_steps;
    double label_smoothing;
    uint64_t seed;              /* of dropout */
    int dropout;                /* 0: off, as in evaluation */
    const float *class_weights; /* [num_labels], read by smhf_trainer_new; cross-entropy over
                                   classes of a text or of tokens; NULL: all 1 */
    /* By parameter, as smhf_model_parameter counts; read by smhf_trainer_new. */
    const uint8_t *frozen;      /* not 0: no gradient, no moments, no update; NULL: none */
    const float *rate_scales;   /* factors on the learning rate; NULL: all 1 */
    int gradient_checkpointing; /* keep the outputs of layers only and compute their inside again
                                   for the backward pass: less memory, a third more work, the same
                                   bits */
} smhf_trainer_options;

#define SMHF_TRAINER_DEFAULTS                                                                      \
    {                                                                                              \
        5e-5, 0.9, 0.999, 1e-8, 0.0, 1.0, 0, 0, SMHF_SCHEDULE_LINEAR, 1, 0.0, 42, 1, NULL, NULL,   \
            NULL, 0                                                                                \
    }

/* Caller frees with smhf_trainer_free. SMHF_E_ARG names the option. */
smhf_status smhf_trainer_new(smhf_model *model, const smhf_trainer_options *options,
                             smhf_trainer **out, smhf_error *err) SMHF_MUST_USE;
void smhf_trainer_free(smhf_trainer *trainer); /* NULL is fine */

/* One micro-batch: packed, or padded when `batch` is NULL. Borrowed during the call. */
typedef struct smhf_examples {
    const smhf_batch *batch;
    const smhf_padded *padded;
    /* What the loss compares with, by task: classes of texts: [rows], or numbers in `values`
     * (several labels at once, regression): [rows, num_labels]. Classes of tokens: shaped like the
     * ids, packed or padded, -100 where a token counts for nothing. Question answering: [rows, 2],
     * positions of start and end; outside the sequence: counts for nothing. Masked LM: words,
     * shaped like the ids, -100 where a token is not asked about; one at least is. */
    smhf_int_view labels;
    const float *values;
    const uint32_t *sequence_ids; /* [rows] identity for dropout, or NULL: 0, 1, 2, ... */
    int accumulation;             /* micro-batches of this step; 0: as the options say */
    const smhf_cancel *cancel;    /* or NULL */
} smhf_examples;

/* Adds the gradient of (mean loss / accumulation) to what the step has so far; *loss: the mean.
 * loss NULL: the pass is queued and not waited for (see smhf_trainer_collect). SMHF_E_ARG names row
 * and value of a label outside num_labels (position too, for tokens), and refuses a loss that is
 * not finite (step and learning rate in the sentence); then the gradients of this step are dropped
 * and the weights are untouched. So it is with SMHF_E_CANCELLED, after which the step can be done
 * again with the dropout that it would have had. */
smhf_status smhf_trainer_forward_backward(smhf_trainer *trainer, const smhf_examples *examples,
                                          float *loss, smhf_error *err) SMHF_MUST_USE;
/* Mean loss without dropout and without gradients. */
smhf_status smhf_trainer_evaluate(smhf_trainer *trainer, const smhf_examples *examples, float *loss,
                                  smhf_error *err) SMHF_MUST_USE;

typedef struct smhf_step_report {
    int64_t step;         /* steps done, this one included */
    double learning_rate; /* that it used */
    double grad_norm;     /* before clipping */
    double loss;          /* sum over the passes of (mean loss / accumulation) */
} smhf_step_report;

/* Clips, updates the weights, forgets the gradients. report NULL: it is queued and not waited for.
 * SMHF_E_ARG when there are no gradients, and when their norm is not finite (the weights are
 * untouched). */
smhf_status smhf_trainer_optimizer_step(smhf_trainer *trainer, smhf_step_report *report,
                                        smhf_error *err) SMHF_MUST_USE;

/* A pass and the optimizer step that makes it a step, waited for once, or not at all (NULL). */
smhf_status smhf_trainer_step(smhf_trainer *trainer, const smhf_examples *examples,
                              smhf_step_report *report, smhf_error *err) SMHF_MUST_USE;

/* The oldest report of a step that nobody waited for; *found 0: there is none (yet, unless `wait`).
 * A caller who waits for nothing is at most two steps ahead of the device, and the host never stops
 * for it: it is busy with the next batch meanwhile. A loss or norm that is not finite comes out of
 * the first call after it is known, with the sentence of a step that was waited for: weights, step
 * and dropout are as before that step, and what was queued behind it has changed nothing. At most
 * 16 reports are kept. Where the backend has no events (the CPU), all work is waited for. */
smhf_status smhf_trainer_collect(smhf_trainer *trainer, int wait, smhf_step_report *report,
                                 int *found, smhf_error *err) SMHF_MUST_USE;

/* Steps done or queued, and the learning rate that the next one will use. */
void smhf_trainer_progress(const smhf_trainer *trainer, int64_t *step, double *learning_rate);

/* Whether parameter `index` is trained: not frozen. */
int smhf_trainer_trains(const smhf_trainer *trainer, size_t index);
/* Bytes of activations and their gradients, planned for the largest batch so far. */
size_t smhf_trainer_activation_bytes(const smhf_trainer *trainer);

/* Gradient of parameter `index` (as smhf_model_parameter counts): what has been accumulated, or
 * what the last optimizer step used. SMHF_E_ARG when it is frozen. */
smhf_status smhf_trainer_gradient_read(smhf_trainer *trainer, size_t index, float *out,
                                       smhf_error *err) SMHF_MUST_USE;

/* Moments of what is trained, step, dropout counter and seed as a safetensors file, whole or not
 * at all; between optimizer steps only. With the saved weights and the same options, training
 * continues to the same bytes. load refuses by name what does not fit and then changes nothing. */
smhf_status smhf_trainer_save(smhf_trainer *trainer, const char *path,
                              smhf_error *err) SMHF_MUST_USE;
smhf_status smhf_trainer_load(smhf_trainer *trainer, const char *path,
                              smhf_error *err) SMHF_MUST_USE;

#ifdef __cplusplus
}
#endif
#endif
