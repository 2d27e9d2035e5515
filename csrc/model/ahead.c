/* ahead.c: passes and updates that were queued and not waited for, and what became of them.
 *
 * Each has a block of staging: what it uploads, and where its one result, a loss or a norm, comes
 * down. A block's turn comes round when its work is done, and then the result is looked at, so that
 * the host is never more than SMHF_TRAINER_BLOCKS runs ahead. Nothing is lost when a result is bad:
 * the device itself has held back the update and all behind it (smhf_step.halted). */
#include "model/trainer_state.h"

#include "common/mem.h"

#include <math.h>
#include <stdio.h>

static smhf_status staging_make(smhf_trainer *trainer, size_t labels, smhf_error *err) {
    size_t bytes = 0;
    smhf_staging_free(trainer->staging);
    trainer->staging = NULL;
    trainer->staged_labels = 0;
    if (smhf_mul_size(labels, sizeof(int32_t), &bytes) != 0) {
        return smhf_fail_nomem(err, "labels", bytes);
    }
    SMHF_TRY(smhf_staging_new(trainer->ws.dev, sizeof(smhf_trainer_block) + bytes,
                              SMHF_TRAINER_BLOCKS, &trainer->staging, err));
    trainer->staged_labels = labels;
    return SMHF_OK;
}

/* --- who else uses the weights ------------------------------------------------------------------
 */

/* 1 when this trainer is, from now on, the one that others wait for. */
static int claim(smhf_trainer *trainer) {
    smhf_model *model = trainer->model;
    pthread_mutex_lock(&model->mutex);
    const int ours = model->ahead == NULL || model->ahead == trainer;
    if (ours) {
        model->ahead = trainer;
        model->ahead_event = smhf_staging_event(trainer->staging);
    }
    pthread_mutex_unlock(&model->mutex);
    return ours;
}

void smhf_ahead_unclaim(smhf_trainer *trainer) {
    smhf_model *model = trainer->model;
    pthread_mutex_lock(&model->mutex);
    if (model->ahead == trainer) {
        model->ahead = NULL;
        model->ahead_event = NULL;
    }
    pthread_mutex_unlock(&model->mutex);
}

/* --- results -------------------------------------------------------------------------------------
 */

static smhf_trainer_work *work_at(smhf_trainer *trainer, int i) {
    return &trainer->works[(trainer->work_first + i) % SMHF_TRAINER_BLOCKS];
}

static void keep_report(smhf_trainer *trainer, const smhf_trainer_work *work, float norm) {
    if (trainer->report_count == SMHF_TRAINER_REPORTS) { /* nobody asks: the oldest goes */
        trainer->report_first = (trainer->report_first + 1) % SMHF_TRAINER_REPORTS;
        trainer->report_count--;
    }
    const int at = (trainer->report_first + trainer->report_count++) % SMHF_TRAINER_REPORTS;
    trainer->reports[at] =
        (smhf_step_report){work->step, work->rate, (double)norm, trainer->step_loss};
    trainer->step_loss = 0.0;
}

/* Takes the result of the oldest work; 0 when it is bad, and then the work stays. */
static int take_oldest(smhf_trainer *trainer) {
    const smhf_trainer_work *work = work_at(trainer, 0);
    const float result = work->block->result;
    if (!isfinite(result)) {
        return 0;
    }
    if (work->update) {
        keep_report(trainer, work, result);
    } else {
        trainer->loss = result;
        trainer->step_loss += (double)result / work->accumulation;
    }
    trainer->work_first = (trainer->work_first + 1) % SMHF_TRAINER_BLOCKS;
    trainer->work_count--;
    return 1;
}

/* Back to before the step of the oldest work, which went wrong. The queue is empty. */
static smhf_status go_back(smhf_trainer *trainer, smhf_status status, smhf_error *err) {
    static const uint32_t none = 0;
    const smhf_trainer_work work = *work_at(trainer, 0);
    smhf_device *dev = trainer->ws.dev;
    int later = 0;
    for (int i = 1; i < trainer->work_count; i++) {
        later += work_at(trainer, i)->update && work_at(trainer, i)->step > work.step;
    }
    trainer->step = work.step - 1;
    trainer->dropout_step = status == SMHF_E_CANCELLED ? work.dropout_before : work.dropout_after;
    trainer->micro_batches = 0; /* the next pass starts from zero gradients */
    trainer->work_count = 0;
    trainer->step_loss = 0.0;
    dev->backend->upload(dev, &trainer->step_on_device->halted, &none, sizeof none);
    if (status != SMHF_OK) {
        return status;
    }
    char behind[80] = "";
    if (later > 0) {
        snprintf(behind, sizeof behind, ", and of the %d queued behind it none was made", later);
    }
    return smhf_fail(err, SMHF_E_ARG,
                     "the %s is %g at step %lld (learning rate %g); the weights are as they were "
                     "before this step%s",
                     work.update ? "gradient norm" : "loss", (double)work.block->result,
                     (long long)work.step, work.rate, behind);
}

smhf_status smhf_ahead_settle(smhf_trainer *trainer, smhf_error *err) {
    smhf_device *dev = trainer->ws.dev;
    const smhf_status status = dev->backend->sync(dev, err);
    smhf_ahead_unclaim(trainer);
    while (trainer->work_count > 0) {
        if (!take_oldest(trainer)) {
            return go_back(trainer, status, err);
        }
    }
    if (status != SMHF_OK) {
        trainer->micro_batches = 0;
    }
    return status;
}

void smhf_ahead_forget(smhf_trainer *trainer) {
    const smhf_status status = smhf_ahead_settle(trainer, NULL);
    (void)status;
    trainer->report_count = 0;
    trainer->step_loss = 0.0;
}

/* --- work ----------------------------------------------------------------------------------------
 */

smhf_status smhf_ahead_begin(smhf_trainer *trainer, size_t labels, smhf_trainer_block **out,
                             smhf_error *err) {
    if (trainer->staging == NULL || labels > trainer->staged_labels) {
        SMHF_TRY(smhf_ahead_settle(trainer, err)); /* results lie in the blocks */
        SMHF_TRY(staging_make(trainer, labels, err));
    }
    smhf_trainer_block *block = smhf_staging_turn(trainer->staging);
    if (trainer->work_count == smhf_staging_blocks(trainer->staging) && !take_oldest(trainer)) {
        return smhf_ahead_settle(trainer, err);
    }
    block->step = trainer->step_on_host;
    block->result = NAN; /* what a device that failed leaves there */
    *out = block;
    return SMHF_OK;
}

smhf_status smhf_ahead_end(smhf_trainer *trainer, smhf_trainer_work work, int wait,
                           smhf_error *err) {
    const int blocks = smhf_staging_blocks(trainer->staging);
    smhf_staging_mark(trainer->staging);
    *work_at(trainer, trainer->work_count++) = work;
    if (wait || blocks == 1 || trainer->ws.dev->failure.code != SMHF_OK || !claim(trainer)) {
        return smhf_ahead_settle(trainer, err);
    }
    return SMHF_OK;
}

smhf_status smhf_trainer_collect(smhf_trainer *trainer, int wait, smhf_step_report *report,
                                 int *found, smhf_error *err) {
    *found = 0;
    SMHF_TRY(smhf_trainer_enter(trainer, err));
    smhf_status status = SMHF_OK;
    if (trainer->report_count == 0 && wait && trainer->work_count > 0) {
        status = smhf_ahead_settle(trainer, err);
    }
    if (status == SMHF_OK && trainer->report_count > 0) {
        *report = trainer->reports[trainer->report_first];
        trainer->report_first = (trainer->report_first + 1) % SMHF_TRAINER_REPORTS;
        trainer->report_count--;
        *found = 1;
    }
    smhf_trainer_leave(trainer);
    return status;
}
