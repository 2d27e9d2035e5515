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

static smhf_status take_class_weights(smhf_trainer *trainer, smhf_error *err) {
    const smhf_config *config = &trainer->model->config;
    const float *weights = trainer->options.class_weights;
    const size_t bytes = (size_t)config->num_labels * sizeof *weights;
    smhf_device *dev = trainer->ws.dev;
    void *block = NULL;
    trainer->options.class_weights = NULL; /* the caller's */
    if (weights == NULL) {
        return SMHF_OK;
    }
    if (config->head == SMHF_HEAD_SPAN || config->head == SMHF_HEAD_MASKED ||
        (config->head == SMHF_HEAD_SEQUENCE && config->problem != SMHF_PROBLEM_SINGLE)) {
        return smhf_fail(err, SMHF_E_ARG,
                         "class_weights: only a loss over single classes has them");
    }
    for (int c = 0; c < config->num_labels; c++) {
        if (!(weights[c] >= 0.0f) || isinf(weights[c])) {
            return smhf_fail(err, SMHF_E_ARG, "class_weights[%d]: expected 0 or more, found %g", c,
                             (double)weights[c]);
        }
    }
    SMHF_TRY(dev->backend->alloc(dev, &block, bytes, err));
    trainer->class_weights = block;
    dev->backend->upload(dev, block, weights, bytes);
    return dev->backend->sync(dev, err);
}

static smhf_status init_trainer(smhf_trainer *trainer, smhf_error *err) {
    smhf_model *model = trainer->model;
    void *block = NULL;
    if (model->config.head == SMHF_HEAD_ENCODER) {
        return smhf_fail(err, SMHF_E_UNSUPPORTED,
                         "a model opened with task=\"embedding\" has no head, so no loss to train");
    }
    SMHF_TRY(smhf_model_prepare(model, SMHF_WEIGHT_FORWARD | SMHF_WEIGHT_BACKWARD, err));
    SMHF_TRY(smhf_trained_init(&trainer->trained, &model->table, trainer->options.frozen, err));
    trainer->options.frozen = NULL; /* the caller's */
    const smhf_plan_shape shape = {
        .config = &model->config,
        .training = 1,
        .dtype = model->options.dtype,
        .lowest = trainer->trained.lowest,
        .checkpointing = trainer->options.gradient_checkpointing != 0,
    };
    SMHF_TRY(smhf_workspace_init(&trainer->ws, model->device, &shape, err));
    smhf_device *dev = trainer->ws.dev;
    const size_t size = trainer->trained.size, spill = 2 * (size_t)model->config.hidden;
    const size_t bytes = (3 * size + spill) * sizeof(float);
    SMHF_TRY(dev->backend->alloc(dev, &block, bytes, err));
    trainer->block = block;
    trainer->grads = trainer->block;
    trainer->m = trainer->block + size;
    trainer->v = trainer->block + 2 * size;
    dev->backend->fill(dev, trainer->block, 0, bytes);
    SMHF_TRY(dev->backend->alloc(dev, &block, sizeof(smhf_step), err));
    trainer->step_on_device = block;
    dev->backend->fill(dev, trainer->step_on_device, 0, sizeof(smhf_step));
    SMHF_TRY(smhf_gradients_init(&trainer->gradients, &trainer->trained, &model->config,
                                 trainer->grads, trainer->block + 3 * size, err));
    SMHF_TRY(smhf_optimizer_init(trainer, err));
    SMHF_TRY(take_class_weights(trainer, err));
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
    smhf_model_write_begin(trainer->model);
    trainer->model->trainers--;
    smhf_ahead_unclaim(trainer); /* nobody is waiting: there are no readers now */
    smhf_model_write_end(trainer->model);
    if (dev != NULL) {
        dev->backend->free(dev, trainer->block);
        dev->backend->free(dev, trainer->step_on_device);
        dev->backend->free(dev, trainer->class_weights);
    }
    smhf_gradients_deinit(&trainer->gradients);
    smhf_trained_deinit(&trainer->trained);
    smhf_staging_free(trainer->staging);
    smhf_workspace_deinit(&trainer->ws);
    smhf_free(trainer->segments);
    smhf_free(trainer->labels);
    smhf_free(trainer->picks);
    smhf_free(trainer);
}

/* --- a pass --------------------------------------------------------------------------------------
 */

static smhf_status reserve_labels(smhf_trainer *trainer, size_t count, smhf_error *err) {
    size_t bytes = 0;
    if (count <= trainer->label_capacity) {
        return SMHF_OK;
    }
    void *grown = smhf_mul_size(count, sizeof(int32_t), &bytes) == 0
                      ? smhf_realloc(trainer->labels, bytes)
                      : NULL;
    if (grown == NULL) {
        return smhf_fail_nomem(err, "labels", bytes);
    }
    trainer->labels = grown;
    if (trainer->model->config.head == SMHF_HEAD_MASKED) {
        grown = smhf_realloc(trainer->picks, bytes);
        if (grown == NULL) {
            return smhf_fail_nomem(err, "labels", bytes);
        }
        trainer->picks = grown;
    }
    trainer->label_capacity = count;
    return SMHF_OK;
}

/* One class number for each text. */
static smhf_status take_classes(smhf_trainer *trainer, smhf_int_view labels, size_t rows,
                                smhf_error *err) {
    const int C = trainer->model->config.num_labels;
    int32_t *out = trainer->labels;
    for (size_t row = 0; row < rows; row++) {
        const int64_t label = smhf_int_at(labels, row);
        if (label < 0 || label >= C) {
            return smhf_fail(err, SMHF_E_ARG,
                             "labels row %zu: expected 0 to %d (the model has %d labels), found "
                             "%lld",
                             row, C - 1, C, (long long)label);
        }
        out[row] = (int32_t)label;
    }
    return SMHF_OK;
}

/* One class number for each token; of padded labels those behind the tokens are not looked at. */
static smhf_status take_token_classes(smhf_trainer *trainer, const smhf_examples *examples,
                                      const smhf_batch *batch, smhf_error *err) {
    const int C = smhf_config_outputs(&trainer->model->config);
    int32_t *out = trainer->labels;
    for (size_t row = 0; row < batch->rows; row++) {
        const size_t begin = (size_t)batch->cu_seqlens[row];
        const size_t tokens = (size_t)batch->cu_seqlens[row + 1] - begin;
        const size_t from = examples->batch != NULL ? begin : row * examples->padded->columns;
        for (size_t t = 0; t < tokens; t++) {
            const int64_t label = smhf_int_at(examples->labels, from + t);
            if (label != NO_LABEL && (label < 0 || label >= C)) {
                return smhf_fail(err, SMHF_E_ARG,
                                 "labels row %zu, position %zu: expected 0 to %d or %d, found %lld",
                                 row, t, C - 1, NO_LABEL, (long long)label);
            }
            out[begin + t] = (int32_t)label;
        }
    }
    return SMHF_OK;
}

/* Keeps the tokens that have a label, and their labels, in order. */
static smhf_status take_picks(smhf_trainer *trainer, size_t tokens, size_t *count,
                              smhf_error *err) {
    int32_t *labels = trainer->labels;
    *count = 0;
    for (size_t t = 0; t < tokens; t++) {
        if (labels[t] != NO_LABEL) {
            labels[*count] = labels[t];
            trainer->picks[(*count)++] = (int32_t)t;
        }
    }
    return *count > 0
               ? SMHF_OK
               : smhf_fail(err, SMHF_E_ARG, "labels: all %zu are %d: the batch has no masked token",
                           tokens, NO_LABEL);
}

/* Start and end of each answer; anything outside the sequence becomes -1. */
static void take_spans(smhf_trainer *trainer, smhf_int_view labels, const smhf_batch *batch) {
    int32_t *out = trainer->labels;
    for (size_t i = 0; i < 2 * batch->rows; i++) {
        const int64_t position = smhf_int_at(labels, i);
        const int32_t tokens = batch->cu_seqlens[i / 2 + 1] - batch->cu_seqlens[i / 2];
        out[i] = position >= 0 && position < tokens ? (int32_t)position : -1;
    }
}

/* Labels in the order of the pack; *count: elements of four bytes. */
static smhf_status take_labels(smhf_trainer *trainer, const smhf_examples *examples,
                               const smhf_batch *batch, size_t *count, smhf_error *err) {
    const smhf_config *config = &trainer->model->config;
    const int numbers = config->head == SMHF_HEAD_SEQUENCE && examples->values != NULL;
    if (!numbers && examples->labels.data == NULL) {
        return smhf_fail(err, SMHF_E_ARG, "labels: expected one for each row, found nothing");
    }
    if (config->head == SMHF_HEAD_SEQUENCE && !numbers && config->problem != SMHF_PROBLEM_SINGLE) {
        return smhf_fail(err, SMHF_E_ARG,
                         "labels: this model is trained on numbers (%s): expected floats, %d for "
                         "each row",
                         config->problem == SMHF_PROBLEM_MULTI ? "several labels at once"
                                                               : "regression",
                         config->num_labels);
    }
    if (numbers && config->problem == SMHF_PROBLEM_SINGLE && config->problem_given) {
        return smhf_fail(err, SMHF_E_ARG,
                         "labels: config.json says single_label_classification: expected class "
                         "numbers (integers), found floats");
    }
    trainer->loss_kind = !numbers                                     ? SMHF_LOSS_CROSS_ENTROPY
                         : config->problem == SMHF_PROBLEM_REGRESSION ? SMHF_LOSS_MSE
                                                                      : SMHF_LOSS_BCE;
    switch (config->head) {
    case SMHF_HEAD_TOKEN:
        *count = (size_t)batch->cu_seqlens[batch->rows];
        SMHF_TRY(reserve_labels(trainer, *count, err));
        return take_token_classes(trainer, examples, batch, err);
    case SMHF_HEAD_MASKED: {
        const size_t tokens = (size_t)batch->cu_seqlens[batch->rows];
        SMHF_TRY(reserve_labels(trainer, tokens, err));
        SMHF_TRY(take_token_classes(trainer, examples, batch, err));
        return take_picks(trainer, tokens, count, err);
    }
    case SMHF_HEAD_SPAN:
        *count = 2 * batch->rows;
        SMHF_TRY(reserve_labels(trainer, *count, err));
        take_spans(trainer, examples->labels, batch);
        return SMHF_OK;
    default:
        *count = batch->rows * (numbers ? (size_t)config->num_labels : 1);
        SMHF_TRY(reserve_labels(trainer, *count, err));
        if (numbers) {
            memcpy(trainer->labels, examples->values, *count * sizeof(float));
            return SMHF_OK;
        }
        return take_classes(trainer, examples->labels, batch->rows, err);
    }
}

/* Checks the examples and puts batch and labels on the device, through the block. */
static smhf_status take_examples(smhf_trainer *trainer, const smhf_examples *examples,
                                 smhf_trainer_block **block, smhf_error *err) {
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
    size_t count = 0;
    SMHF_TRY(take_labels(trainer, examples, batch, &count, err));
    const int masked = config->head == SMHF_HEAD_MASKED;
    const smhf_piece piece = {
        .batch = batch,
        .end = batch->rows,
        .sequence_ids = examples->sequence_ids,
        .picks = trainer->picks,
        .pick_count = masked ? count : 0,
    };
    SMHF_TRY(smhf_workspace_fill(ws, &piece, err));
    SMHF_TRY(smhf_ahead_begin(trainer, trainer->label_capacity, block, err));
    memcpy((*block)->labels, trainer->labels, count * sizeof(int32_t));
    ws->dev->backend->upload(ws->dev, ws->plan.targets.data, (*block)->labels,
                             count * sizeof(int32_t));
    return SMHF_OK;
}

static void enqueue_loss(smhf_trainer *trainer, int want_gradient, int accumulation) {
    smhf_workspace *ws = &trainer->ws;
    const smhf_backend *be = ws->dev->backend;
    const smhf_plan *plan = &ws->plan;
    const smhf_loss_options options = {
        .kind = trainer->loss_kind,
        .class_weights = trainer->class_weights,
        .label_smoothing = (float)trainer->options.label_smoothing,
        .ignore_label = NO_LABEL,
        .grad_scale = 1.0f / (float)accumulation,
    };
    const smhf_config *config = &trainer->model->config;
    const smhf_tensor dlogits = want_gradient ? plan->grads.dlogits : SMHF_TENSOR_NONE;
    smhf_tensor targets = plan->targets;
    if (config->head == SMHF_HEAD_SPAN) {
        be->span_loss(ws->dev, plan->loss.data, dlogits, plan->logits, targets, &options, ws->pack);
    } else {
        if (trainer->loss_kind ==
            SMHF_LOSS_CROSS_ENTROPY) { /* class numbers, whatever fits there */
            targets = smhf_tensor_of(targets.data, targets.rows, 1, SMHF_DTYPE_I32);
        }
        be->loss(ws->dev, plan->loss.data, dlogits, plan->logits, targets, &options, ws->pack,
                 config->head == SMHF_HEAD_MASKED ? SMHF_AXIS_PICKS
                 : smhf_config_per_token(config)  ? SMHF_AXIS_TOKENS
                                                  : SMHF_AXIS_ROWS);
    }
}

typedef struct trainer_run {
    smhf_trainer *trainer;
    smhf_pass pass;
    int first, accumulation; /* the first micro-batch of a step; how many there are */
} trainer_run;

/* The pack's ids and labels -> loss and gradients. Ops only. */
static void run_pass(void *context) {
    const trainer_run *run = context;
    smhf_trainer *trainer = run->trainer;
    if (run->first) {
        trainer->ws.dev->backend->fill(trainer->ws.dev, trainer->grads, 0,
                                       trainer->trained.size * sizeof(float));
    }
    smhf_forward(&run->pass);
    enqueue_loss(trainer, 1, run->accumulation);
    trainer->ws.dev->backend->axpy(trainer->ws.dev, &trainer->step_on_device->loss_sum,
                                   trainer->ws.plan.loss.data, 1.0f, 1);
    smhf_backward(&run->pass, &trainer->gradients);
}

/* The pack's ids and labels -> loss. Ops only. */
static void run_loss(void *context) {
    const trainer_run *run = context;
    smhf_forward(&run->pass);
    enqueue_loss(run->trainer, 0, 1);
}

static smhf_status run_training(smhf_trainer *trainer, const smhf_examples *examples, int wait,
                                smhf_error *err) {
    smhf_workspace *ws = &trainer->ws;
    const smhf_backend *be = ws->dev->backend;
    const int accumulation = examples->accumulation > 0
                                 ? examples->accumulation
                                 : trainer->options.gradient_accumulation_steps;
    smhf_trainer_block *block = NULL;
    SMHF_TRY(take_examples(trainer, examples, &block, err));
    trainer_run run = {
        trainer,
        {
            ws->dev,
            &trainer->model->net,
            &ws->plan,
            ws->pack,
            {trainer->options.seed, trainer->step_on_device, trainer->options.dropout},
            SMHF_TENSOR_NONE,
            examples->cancel,
        },
        trainer->micro_batches == 0,
        accumulation,
    };
    const int detail = accumulation << 3 | (int)trainer->loss_kind << 1 | run.first;
    trainer->dropout_before = run.first ? trainer->dropout_step : trainer->dropout_before;
    trainer->step_on_host.dropout_step = block->step.dropout_step = trainer->dropout_step;
    be->upload(ws->dev, trainer->step_on_device, &block->step,
               run.first ? offsetof(smhf_step, grad_norm) : offsetof(smhf_step, loss_sum));
    smhf_pass_check(&run.pass);
    smhf_replay_run(ws->replay, ws->pack, smhf_pass_kind(&run.pass, SMHF_PASS_TRAIN, detail),
                    run_pass, &run);
    be->download(ws->dev, &block->result, ws->plan.loss.data, sizeof block->result);
    trainer->dropout_step++;
    trainer->micro_batches++;
    return smhf_ahead_end(trainer,
                          (smhf_trainer_work){
                              .block = block,
                              .step = trainer->step + 1,
                              .rate = smhf_optimizer_rate(trainer, trainer->step),
                              .accumulation = accumulation,
                              .dropout_before = trainer->dropout_before,
                              .dropout_after = trainer->dropout_step,
                          },
                          wait, err);
}

static smhf_status run_evaluation(smhf_trainer *trainer, const smhf_examples *examples, float *loss,
                                  smhf_error *err) {
    smhf_workspace *ws = &trainer->ws;
    smhf_trainer_block *block = NULL;
    SMHF_TRY(smhf_ahead_settle(trainer, err));
    SMHF_TRY(take_examples(trainer, examples, &block, err));
    trainer_run run = {
        .trainer = trainer,
        .pass =
            {
                .dev = ws->dev,
                .net = &trainer->model->net,
                .plan = &ws->plan,
                .pack = ws->pack,
                .cancel = examples->cancel,
            },
        .accumulation = 1,
    };
    smhf_pass_check(&run.pass);
    smhf_replay_run(ws->replay, ws->pack,
                    smhf_pass_kind(&run.pass, SMHF_PASS_EVALUATE, (int)trainer->loss_kind),
                    run_loss, &run);
    ws->dev->backend->download(ws->dev, &block->result, ws->plan.loss.data, sizeof block->result);
    SMHF_TRY(ws->dev->backend->sync(ws->dev, err));
    *loss = block->result;
    return SMHF_OK;
}

static smhf_status pass(smhf_trainer *trainer, const smhf_examples *examples, int wait,
                        smhf_error *err) {
    smhf_model_read_begin(trainer->model);
    smhf_model_settle(trainer->model, trainer->ws.dev, trainer);
    const smhf_status status = run_training(trainer, examples, wait, err);
    smhf_model_read_end(trainer->model);
    return status;
}

/* Waits when there is somebody to report to. */
static smhf_status update(smhf_trainer *trainer, smhf_step_report *report, smhf_error *err) {
    if (trainer->micro_batches == 0) {
        return smhf_fail(err, SMHF_E_ARG,
                         "optimizer step %lld: there are no gradients; call forward_backward first",
                         (long long)trainer->step + 1);
    }
    smhf_model_write_begin(trainer->model);
    smhf_model_settle(trainer->model, trainer->ws.dev, trainer);
    const smhf_status status = smhf_optimizer_apply(trainer, report != NULL, err);
    smhf_model_write_end(trainer->model);
    if (status == SMHF_OK && report != NULL) { /* the last one is this step's */
        trainer->report_count--;
        *report =
            trainer
                ->reports[(trainer->report_first + trainer->report_count) % SMHF_TRAINER_REPORTS];
    }
    return status;
}

smhf_status smhf_trainer_forward_backward(smhf_trainer *trainer, const smhf_examples *examples,
                                          float *loss, smhf_error *err) {
    SMHF_TRY(smhf_trainer_enter(trainer, err));
    const smhf_status status = pass(trainer, examples, loss != NULL, err);
    if (status == SMHF_OK && loss != NULL) {
        *loss = trainer->loss;
    }
    smhf_trainer_leave(trainer);
    return status;
}

smhf_status smhf_trainer_evaluate(smhf_trainer *trainer, const smhf_examples *examples, float *loss,
                                  smhf_error *err) {
    SMHF_TRY(smhf_trainer_enter(trainer, err));
    smhf_model_read_begin(trainer->model);
    smhf_model_settle(trainer->model, trainer->ws.dev, trainer);
    const smhf_status status = run_evaluation(trainer, examples, loss, err);
    smhf_model_read_end(trainer->model);
    smhf_trainer_leave(trainer);
    return status;
}

smhf_status smhf_trainer_optimizer_step(smhf_trainer *trainer, smhf_step_report *report,
                                        smhf_error *err) {
    SMHF_TRY(smhf_trainer_enter(trainer, err));
    const smhf_status status = update(trainer, report, err);
    trainer->micro_batches = 0;
    smhf_trainer_leave(trainer);
    return status;
}

smhf_status smhf_trainer_step(smhf_trainer *trainer, const smhf_examples *examples,
                              smhf_step_report *report, smhf_error *err) {
    SMHF_TRY(smhf_trainer_enter(trainer, err));
    smhf_status status = pass(trainer, examples, 0, err);
    if (status == SMHF_OK) {
        status = update(trainer, report, err);
        trainer->micro_batches = 0;
    }
    smhf_trainer_leave(trainer);
    return status;
}

void smhf_trainer_progress(const smhf_trainer *trainer, int64_t *step, double *learning_rate) {
    *step = trainer->step;
    *learning_rate = smhf_optimizer_rate(trainer, trainer->step);
}

int smhf_trainer_trains(const smhf_trainer *trainer, size_t index) {
    SMHF_ASSERT(index < (size_t)trainer->model->table.count);
    return !trainer->trained.frozen[index];
}

size_t smhf_trainer_activation_bytes(const smhf_trainer *trainer) {
    return trainer->ws.block != NULL ? trainer->ws.plan.bytes : 0;
}

smhf_status smhf_trainer_gradient_read(smhf_trainer *trainer, size_t index, float *out,
                                       smhf_error *err) {
    SMHF_ASSERT(index < (size_t)trainer->model->table.count);
    const smhf_parameter *p = &trainer->model->table.items[index];
    smhf_device *dev = trainer->ws.dev;
    if (trainer->trained.frozen[index]) {
        return smhf_fail(err, SMHF_E_ARG, "parameter \"%s\" is frozen: it has no gradient",
                         p->name);
    }
    const float *gradient = trainer->grads + smhf_trained_place(&trainer->trained, (int)index);
    SMHF_TRY(smhf_trainer_enter(trainer, err));
    dev->backend->download(dev, out, gradient, p->count * sizeof *out);
    const smhf_status status = smhf_ahead_settle(trainer, err);
    smhf_trainer_leave(trainer);
    return status;
}
