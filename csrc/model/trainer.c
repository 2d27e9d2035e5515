/* trainer.c: one training step. */
#include "model/trainer_state.h"

#include "common/mem.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

#define NO_LABEL (-100) /* torch's ignore_index; never passes the check below */

smhf_status smhf_trainer_enter(smhf_trainer *trainer, smhf_error *err) {
    if (atomic_flag_test_and_set_explicit(&trainer->busy, memory_order_acquire)) {
        return smhf_fail(err, SMHF_E_BUSY, "the trainer is in use by another thread");
    }
    return SMHF_OK;
}

void smhf_trainer_leave(smhf_trainer *trainer) {
    atomic_flag_clear_explicit(&trainer->busy, memory_order_release);
}

/* --- life ----------------------------------------------------------------------------------------
 */

static smhf_status check_range(const char *name, double value, double least, double below,
                               smhf_error *err) {
    if (!(value >= least && value < below)) {
        return smhf_fail(err, SMHF_E_ARG, "%s: expected %g <= value < %g, found %g", name, least,
                         below, value);
    }
    return SMHF_OK;
}

static smhf_status check_options(const smhf_trainer_options *o, smhf_error *err) {
    SMHF_TRY(check_range("learning_rate", o->learning_rate, 0.0, INFINITY, err));
    SMHF_TRY(check_range("betas[0]", o->beta1, 0.0, 1.0, err));
    SMHF_TRY(check_range("betas[1]", o->beta2, 0.0, 1.0, err));
    SMHF_TRY(check_range("eps", o->eps, 0.0, INFINITY, err));
    SMHF_TRY(check_range("weight_decay", o->weight_decay, 0.0, INFINITY, err));
    SMHF_TRY(check_range("max_grad_norm", o->max_grad_norm, 0.0, INFINITY, err));
    SMHF_TRY(check_range("label_smoothing", o->label_smoothing, 0.0, 1.0, err));
    SMHF_TRY(check_range("warmup_steps", (double)o->warmup_steps, 0.0, 1e15, err));
    SMHF_TRY(check_range("gradient_accumulation_steps", (double)o->gradient_accumulation_steps, 1.0,
                         1e6, err));
    const int needs_total =
        o->schedule == SMHF_SCHEDULE_LINEAR || o->schedule == SMHF_SCHEDULE_COSINE;
    return check_range("total_steps", (double)o->total_steps, needs_total ? 1.0 : 0.0, 1e15, err);
}

static smhf_status init_trainer(smhf_trainer *trainer, smhf_error *err) {
    smhf_model *model = trainer->model;
    void *block = NULL;
    const size_t size = model->table.size;
    SMHF_TRY(smhf_model_prepare(model, SMHF_WEIGHT_FORWARD | SMHF_WEIGHT_BACKWARD, err));
    SMHF_TRY(smhf_workspace_init(&trainer->ws, model->device, &model->config, 1,
                                 model->options.dtype, err));
    smhf_device *dev = trainer->ws.dev;
    SMHF_TRY(dev->backend->alloc(dev, &block, 3 * size * sizeof(float), err));
    trainer->block = block;
    trainer->grads = trainer->block;
    trainer->m = trainer->block + size;
    trainer->v = trainer->block + 2 * size;
    dev->backend->fill(dev, trainer->block, 0, 3 * size * sizeof(float));
    SMHF_TRY(dev->backend->alloc(dev, &block, sizeof(smhf_step), err));
    trainer->step_on_device = block;
    dev->backend->fill(dev, trainer->step_on_device, 0, sizeof(smhf_step));
    SMHF_TRY(smhf_gradients_init(&trainer->gradients, &model->table, &model->config, trainer->grads,
                                 err));
    SMHF_TRY(smhf_optimizer_init(trainer, err));
    return dev->backend->sync(dev, err);
}

smhf_status smhf_trainer_new(smhf_model *model, const smhf_trainer_options *options,
                             smhf_trainer **out, smhf_error *err) {
    *out = NULL;
    SMHF_TRY(check_options(options, err));
    smhf_trainer *trainer = smhf_calloc(1, sizeof *trainer);
    if (trainer == NULL) {
        return smhf_fail_nomem(err, "trainer", sizeof *trainer);
    }
    trainer->model = model;
    trainer->options = *options;
    atomic_flag_clear(&trainer->busy);
    smhf_model_write_begin(model);
    model->trainers++;
    smhf_model_write_end(model);
    const smhf_status status = init_trainer(trainer, err);
    if (status != SMHF_OK) {
        smhf_trainer_free(trainer);
        return status;
    }
    *out = trainer;
    return SMHF_OK;
}

void smhf_trainer_free(smhf_trainer *trainer) {
    if (trainer == NULL) {
        return;
    }
    smhf_device *dev = trainer->ws.dev;
    if (dev != NULL) {
        dev->backend->free(dev, trainer->block);
        dev->backend->free(dev, trainer->step_on_device);
    }
    smhf_gradients_deinit(&trainer->gradients);
    smhf_workspace_deinit(&trainer->ws);
    smhf_free(trainer->segments);
    smhf_free(trainer->labels);
    smhf_model_write_begin(trainer->model);
    trainer->model->trainers--;
    smhf_model_write_end(trainer->model);
    smhf_free(trainer);
}

/* --- a pass --------------------------------------------------------------------------------------
 */

static smhf_status take_labels(smhf_trainer *trainer, smhf_int_view labels, size_t rows,
                               smhf_error *err) {
    const int C = trainer->model->config.num_labels;
    if (labels.data == NULL) {
        return smhf_fail(err, SMHF_E_ARG, "labels: expected one class number a row, found nothing");
    }
    if (rows > trainer->label_capacity) {
        int32_t *grown = smhf_realloc(trainer->labels, rows * sizeof *grown);
        if (grown == NULL) {
            return smhf_fail_nomem(err, "labels", rows * sizeof *grown);
        }
        trainer->labels = grown;
        trainer->label_capacity = rows;
    }
    for (size_t row = 0; row < rows; row++) {
        const int64_t label = smhf_int_at(labels, row);
        if (label < 0 || label >= C) {
            return smhf_fail(err, SMHF_E_ARG,
                             "labels row %zu: expected 0 to %d (the model has %d labels), found "
                             "%lld",
                             row, C - 1, C, (long long)label);
        }
        trainer->labels[row] = (int32_t)label;
    }
    return SMHF_OK;
}

/* Checks the examples and puts batch and labels on the device. */
static smhf_status take_examples(smhf_trainer *trainer, const smhf_examples *examples,
                                 smhf_error *err) {
    smhf_workspace *ws = &trainer->ws;
    const smhf_config *config = &trainer->model->config;
    smhf_batch packed;
    const smhf_batch *batch = examples->batch;
    if (batch == NULL) {
        SMHF_TRY(smhf_packing_fill(&ws->packing, config, examples->padded, &packed, err));
        batch = &packed;
    } else {
        SMHF_TRY(smhf_batch_check(config, batch, err));
    }
    if (batch->rows == 0) {
        return smhf_fail(err, SMHF_E_ARG, "the batch has no rows");
    }
    SMHF_TRY(take_labels(trainer, examples->labels, batch->rows, err));
    SMHF_TRY(smhf_workspace_fill(ws, batch, 0, batch->rows, examples->sequence_ids, err));
    ws->dev->backend->upload(ws->dev, ws->plan.targets.data, trainer->labels,
                             batch->rows * sizeof *trainer->labels);
    return SMHF_OK;
}

static void enqueue_loss(smhf_trainer *trainer, int want_gradient, int accumulation) {
    smhf_workspace *ws = &trainer->ws;
    const smhf_backend *be = ws->dev->backend;
    const smhf_plan *plan = &ws->plan;
    const smhf_loss_options options = {
        .kind = SMHF_LOSS_CROSS_ENTROPY,
        .label_smoothing = (float)trainer->options.label_smoothing,
        .ignore_label = NO_LABEL,
        .grad_scale = 1.0f / (float)accumulation,
    };
    be->loss(ws->dev, plan->loss.data, want_gradient ? plan->grads.dlogits : SMHF_TENSOR_NONE,
             plan->logits, plan->targets, &options, ws->pack, SMHF_AXIS_ROWS);
    be->download(ws->dev, &trainer->loss, plan->loss.data, sizeof trainer->loss);
}

static smhf_status run_training(smhf_trainer *trainer, const smhf_examples *examples, float *loss,
                                smhf_error *err) {
    smhf_workspace *ws = &trainer->ws;
    const smhf_backend *be = ws->dev->backend;
    const int accumulation = examples->accumulation > 0
                                 ? examples->accumulation
                                 : trainer->options.gradient_accumulation_steps;
    SMHF_TRY(take_examples(trainer, examples, err));
    const smhf_pass pass = {
        ws->dev,
        &trainer->model->net,
        &ws->plan,
        ws->pack,
        {trainer->options.seed, trainer->step_on_device, trainer->options.dropout},
    };
    if (trainer->micro_batches == 0) {
        be->fill(ws->dev, trainer->grads, 0, trainer->model->table.size * sizeof(float));
    }
    trainer->step_on_host.dropout_step = trainer->dropout_step;
    be->upload(ws->dev, trainer->step_on_device, &trainer->step_on_host,
               offsetof(smhf_step, grad_norm));
    smhf_forward(&pass);
    enqueue_loss(trainer, 1, accumulation);
    smhf_backward(&pass, &trainer->gradients);
    const smhf_status status = be->sync(ws->dev, err);
    trainer->dropout_step++;
    if (status != SMHF_OK || !isfinite(trainer->loss)) {
        trainer->micro_batches = 0; /* the next pass starts from zero gradients */
    }
    SMHF_TRY(status);
    if (!isfinite(trainer->loss)) {
        return smhf_fail(err, SMHF_E_ARG,
                         "the loss is %g at step %lld (learning rate %g); the weights are as they "
                         "were before this step",
                         (double)trainer->loss, (long long)trainer->step + 1,
                         smhf_optimizer_rate(trainer, trainer->step));
    }
    trainer->micro_batches++;
    *loss = trainer->loss;
    return SMHF_OK;
}

static smhf_status run_evaluation(smhf_trainer *trainer, const smhf_examples *examples, float *loss,
                                  smhf_error *err) {
    smhf_workspace *ws = &trainer->ws;
    SMHF_TRY(take_examples(trainer, examples, err));
    const smhf_pass pass = {ws->dev, &trainer->model->net, &ws->plan, ws->pack, {0, NULL, 0}};
    smhf_forward(&pass);
    enqueue_loss(trainer, 0, 1);
    SMHF_TRY(ws->dev->backend->sync(ws->dev, err));
    *loss = trainer->loss;
    return SMHF_OK;
}

smhf_status smhf_trainer_forward_backward(smhf_trainer *trainer, const smhf_examples *examples,
                                          float *loss, smhf_error *err) {
    SMHF_TRY(smhf_trainer_enter(trainer, err));
    smhf_model_read_begin(trainer->model);
    const smhf_status status = run_training(trainer, examples, loss, err);
    smhf_model_read_end(trainer->model);
    smhf_trainer_leave(trainer);
    return status;
}

smhf_status smhf_trainer_evaluate(smhf_trainer *trainer, const smhf_examples *examples, float *loss,
                                  smhf_error *err) {
    SMHF_TRY(smhf_trainer_enter(trainer, err));
    smhf_model_read_begin(trainer->model);
    const smhf_status status = run_evaluation(trainer, examples, loss, err);
    smhf_model_read_end(trainer->model);
    smhf_trainer_leave(trainer);
    return status;
}

smhf_status smhf_trainer_optimizer_step(smhf_trainer *trainer, smhf_step_report *report,
                                        smhf_error *err) {
    smhf_status status;
    SMHF_TRY(smhf_trainer_enter(trainer, err));
    if (trainer->micro_batches == 0) {
        status = smhf_fail(err, SMHF_E_ARG,
                           "optimizer step %lld: there are no gradients; call forward_backward "
                           "first",
                           (long long)trainer->step + 1);
    } else {
        smhf_model_write_begin(trainer->model);
        status = smhf_optimizer_apply(trainer, report, err);
        smhf_model_write_end(trainer->model);
        trainer->micro_batches = 0;
    }
    smhf_trainer_leave(trainer);
    return status;
}

void smhf_trainer_progress(const smhf_trainer *trainer, int64_t *step, double *learning_rate) {
    *step = trainer->step;
    *learning_rate = smhf_optimizer_rate(trainer, trainer->step);
}

smhf_status smhf_trainer_gradient_read(smhf_trainer *trainer, size_t index, float *out,
                                       smhf_error *err) {
    SMHF_ASSERT(index < (size_t)trainer->model->table.count);
    const smhf_parameter *p = &trainer->model->table.items[index];
    smhf_device *dev = trainer->ws.dev;
    SMHF_TRY(smhf_trainer_enter(trainer, err));
    dev->backend->download(dev, out, trainer->grads + p->offset, p->count * sizeof *out);
    const smhf_status status = dev->backend->sync(dev, err);
    smhf_trainer_leave(trainer);
    return status;
}
