/* trainer_state.h: the inside of a trainer, for trainer.c, optimizer.c and trainer_file.c. */
#ifndef SMHF_MODEL_TRAINER_STATE_H
#define SMHF_MODEL_TRAINER_STATE_H

#include "model/model_state.h"
#include "model/trainer.h"

#include <stdatomic.h>

#define SMHF_TRAINER_BLOCKS 4   /* passes and updates that may be under way */
#define SMHF_TRAINER_REPORTS 16 /* kept for smhf_trainer_collect */

/* A block of staging: what one pass or update uploads, and its result. */
typedef struct smhf_trainer_block {
    smhf_step step;
    float result; /* loss, or norm of the gradients */
    uint32_t reserved[15];
    uint32_t labels[]; /* int32 or float */
} smhf_trainer_block;

/* A pass or update that was queued. */
typedef struct smhf_trainer_work {
    smhf_trainer_block *block;
    int64_t step; /* the optimizer step it belongs to, 1 for the first */
    double rate;
    int update;                             /* else a pass */
    int accumulation;                       /* a pass's */
    uint32_t dropout_before, dropout_after; /* before the step; after this work */
} smhf_trainer_work;

struct smhf_trainer {
    smhf_model *model; /* borrowed; outlives the trainer */
    smhf_trainer_options options;
    smhf_workspace ws;
    smhf_trained trained;
    float *block; /* owned, device: gradients, m, v, trained.size floats each, then the spill */
    float *grads, *m, *v;
    smhf_gradients gradients; /* views of grads */
    smhf_segment *segments;   /* owned: runs of equal decay and rate */
    int32_t segment_count;
    smhf_step *step_on_device; /* owned */
    smhf_step step_on_host;    /* what is uploaded */
    void *labels;              /* owned, host: int32 or float */
    int32_t *picks;            /* owned, host: masked LM: tokens that have a label */
    size_t label_capacity;     /* elements of labels and picks */
    smhf_loss_kind loss_kind;  /* of the last batch */
    float *class_weights;      /* owned, device, or NULL */
    int64_t step;              /* optimizer steps done */
    uint32_t dropout_step;     /* forward passes with dropout done */
    uint32_t dropout_before;   /* the same before the step that is being accumulated */
    int micro_batches;         /* accumulated since the last optimizer step */

    /* ahead.c */
    smhf_staging *staging;                        /* owned; NULL until the first pass */
    size_t staged_labels;                         /* that a block has room for */
    smhf_trainer_work works[SMHF_TRAINER_BLOCKS]; /* under way, oldest first */
    int work_first, work_count;
    smhf_step_report reports[SMHF_TRAINER_REPORTS]; /* done, not collected */
    int report_first, report_count;
    float loss;       /* of the pass that was taken last */
    double step_loss; /* of the step whose passes are being taken */
    atomic_flag busy;
};

/* B: a second thread is refused. */
smhf_status smhf_trainer_enter(smhf_trainer *trainer, smhf_error *err) SMHF_MUST_USE;
void smhf_trainer_leave(smhf_trainer *trainer);

/* optimizer.c */
smhf_status smhf_optimizer_init(smhf_trainer *trainer, smhf_error *err) SMHF_MUST_USE;
double smhf_optimizer_rate(const smhf_trainer *trainer, int64_t step);
/* Queues norm, clip, AdamW, refresh; model locks are the caller's. */
smhf_status smhf_optimizer_apply(smhf_trainer *trainer, int wait, smhf_error *err) SMHF_MUST_USE;

/* ahead.c */

/* A block for the next pass or update, `step` filled in. Looks at the result of the work whose turn
 * is over: this is one of the places where what went wrong comes out. */
smhf_status smhf_ahead_begin(smhf_trainer *trainer, size_t labels, smhf_trainer_block **out,
                             smhf_error *err) SMHF_MUST_USE;
/* The work is queued; waits for all of it when asked, when something has failed already, and where
 * the backend has no events. */
smhf_status smhf_ahead_end(smhf_trainer *trainer, smhf_trainer_work work, int wait,
                           smhf_error *err) SMHF_MUST_USE;
/* Waits for everything and looks at every result. */
smhf_status smhf_ahead_settle(smhf_trainer *trainer, smhf_error *err) SMHF_MUST_USE;
/* The same, whatever came of it; reports go too. */
void smhf_ahead_forget(smhf_trainer *trainer);
/* Nobody waits for this trainer any more. */
void smhf_ahead_unclaim(smhf_trainer *trainer);

#endif
