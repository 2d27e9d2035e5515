/* trainer_state.h: the inside of a trainer, for trainer.c, optimizer.c and trainer_file.c. */
#ifndef SMHF_MODEL_TRAINER_STATE_H
#define SMHF_MODEL_TRAINER_STATE_H

#include "model/model_state.h"
#include "model/trainer.h"

#include <stdatomic.h>

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
    smhf_step step_on_host;    /* what is uploaded; lives until sync */
    void *labels;              /* owned, host: int32 or float */
    int32_t *picks;            /* owned, host: masked LM: tokens that have a label */
    size_t label_capacity;     /* elements of labels and picks */
    smhf_loss_kind loss_kind;  /* of the last batch */
    float *class_weights;      /* owned, device, or NULL */
    int64_t step;              /* optimizer steps done */
    uint32_t dropout_step;     /* forward passes with dropout done */
    int micro_batches;         /* accumulated since the last optimizer step */
    float loss;                /* download target */
    atomic_flag busy;
};

/* B: a second thread is refused. */
smhf_status smhf_trainer_enter(smhf_trainer *trainer, smhf_error *err) SMHF_MUST_USE;
void smhf_trainer_leave(smhf_trainer *trainer);

/* optimizer.c */
smhf_status smhf_optimizer_init(smhf_trainer *trainer, smhf_error *err) SMHF_MUST_USE;
double smhf_optimizer_rate(const smhf_trainer *trainer, int64_t step);
/* Norm, clip, AdamW, refresh; model locks are the caller's. */
smhf_status smhf_optimizer_apply(smhf_trainer *trainer, smhf_step_report *report,
                                 smhf_error *err) SMHF_MUST_USE;

#endif
