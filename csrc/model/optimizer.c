/* optimizer.c: schedule, parameter groups, clipping, AdamW (Loshchilov & Hutter 2019). */
#include "model/trainer_state.h"

#include "common/mem.h"

#include <math.h>
#include <stddef.h>

double smhf_schedule_factor(smhf_schedule schedule, int64_t step, int64_t warmup, int64_t total) {
    if (schedule == SMHF_SCHEDULE_CONSTANT) {
        return 1.0;
    }
    if (step < warmup) {
        return (double)step / (double)(warmup > 1 ? warmup : 1);
    }
    if (schedule == SMHF_SCHEDULE_CONSTANT_WITH_WARMUP) {
        return 1.0;
    }
    const int64_t span = total - warmup > 1 ? total - warmup : 1;
    if (schedule == SMHF_SCHEDULE_COSINE) {
        const double wave = 0.5 * (1.0 + cos(acos(-1.0) * (double)(step - warmup) / (double)span));
        return wave > 0.0 ? wave : 0.0;
    }
    return step < total ? (double)(total - step) / (double)span : 0.0;
}

double smhf_optimizer_rate(const smhf_trainer *trainer, int64_t step) {
    const smhf_trainer_options *o = &trainer->options;
    return o->learning_rate *
           smhf_schedule_factor(o->schedule, step, o->warmup_steps, o->total_steps);
}

static smhf_status check_scales(const smhf_trainer *trainer, smhf_error *err) {
    const float *scales = trainer->options.rate_scales;
    const smhf_parameters *table = &trainer->model->table;
    for (int i = 0; scales != NULL && i < table->count; i++) {
        if (!(scales[i] >= 0.0f) || isinf(scales[i])) {
            return smhf_fail(err, SMHF_E_ARG,
                             "learning rate of \"%s\": expected a factor of 0 or more, found %g",
                             table->items[i].name, (double)scales[i]);
        }
    }
    return SMHF_OK;
}

/* Whether the parameter goes on where the segment, whose last one is `last`, ends: in the model's
 * arena and in ours. The alignment gap between them rides along (its gradients are zero for ever).
 */
static int continues(const smhf_trainer *trainer, const smhf_segment *segment, int last, int i,
                     float decay, float scale) {
    const smhf_parameter *items = trainer->model->table.items;
    return i == last + 1 && segment->weight_decay == decay && segment->lr_scale == scale &&
           items[i].offset - items[last].offset == smhf_trained_place(&trainer->trained, i) -
                                                       smhf_trained_place(&trainer->trained, last);
}

/* Runs of trained neighbours with the same decay and rate; as a rule that is one run. */
smhf_status smhf_optimizer_init(smhf_trainer *trainer, smhf_error *err) {
    const smhf_parameters *table = &trainer->model->table;
    const float *scales = trainer->options.rate_scales;
    const float decay = (float)trainer->options.weight_decay;
    int last = -1;
    SMHF_TRY(check_scales(trainer, err));
    trainer->segments = smhf_calloc((size_t)table->count, sizeof *trainer->segments);
    if (trainer->segments == NULL) {
        return smhf_fail_nomem(err, "optimizer", (size_t)table->count * sizeof(smhf_segment));
    }
    smhf_segment *segment = trainer->segments;
    for (int i = 0; i < table->count; i++) {
        const smhf_parameter *p = &table->items[i];
        const float wanted = p->decays ? decay : 0.0f;
        const float scale = scales != NULL ? scales[i] : 1.0f;
        if (trainer->trained.frozen[i]) {
            continue;
        }
        const size_t place = smhf_trained_place(&trainer->trained, i);
        if (last >= 0 && continues(trainer, segment, last, i, wanted, scale)) {
            segment->count = (trainer->grads + place + p->count) - segment->grad;
        } else {
            segment = &trainer->segments[trainer->segment_count++];
            *segment = (smhf_segment){
                trainer->model->parameters + p->offset,
                trainer->grads + place,
                trainer->m + place,
                trainer->v + place,
                (int64_t)p->count,
                wanted,
                scale,
            };
        }
        last = i;
    }
    trainer->options.rate_scales = NULL; /* the caller's */
    return SMHF_OK;
}

/* Norm, new parameters from the gradients, and weights from them. Ops only. */
static void run_update(void *context) {
    const smhf_trainer *trainer = context;
    const smhf_adamw_options adamw = {trainer->options.beta1, trainer->options.beta2,
                                      trainer->options.eps};
    trainer->ws.dev->backend->grad_norm(trainer->ws.dev, trainer->step_on_device, trainer->segments,
                                        trainer->segment_count,
                                        (float)trainer->options.max_grad_norm);
    trainer->ws.dev->backend->adamw(trainer->ws.dev, trainer->step_on_device, trainer->segments,
                                    trainer->segment_count, &adamw);
    smhf_network_refresh(&trainer->model->net, trainer->ws.dev, &trainer->trained);
}

smhf_status smhf_optimizer_apply(smhf_trainer *trainer, int wait, smhf_error *err) {
    smhf_device *dev = trainer->ws.dev;
    const smhf_backend *be = dev->backend;
    const smhf_trainer_options *o = &trainer->options;
    const int64_t t = trainer->step + 1;
    const double rate = smhf_optimizer_rate(trainer, trainer->step);
    const smhf_pass pass = {.net = &trainer->model->net};
    smhf_step *step = &trainer->step_on_host;

    smhf_trainer_block *block = NULL;
    step->learning_rate = (float)rate;
    step->bias_correction1 = (float)(1.0 - pow(o->beta1, (double)t));
    step->bias_correction2_sqrt = (float)sqrt(1.0 - pow(o->beta2, (double)t));
    SMHF_TRY(smhf_ahead_begin(trainer, 0, &block, err));
    be->upload(dev, trainer->step_on_device, &block->step, offsetof(smhf_step, loss_sum));
    smhf_replay_run(trainer->ws.replay, NULL, smhf_pass_kind(&pass, SMHF_PASS_UPDATE, 0),
                    run_update, trainer);
    be->download(dev, &block->result, &trainer->step_on_device->grad_norm, sizeof block->result);
    trainer->step = t;
    trainer->micro_batches = 0;
    return smhf_ahead_end(trainer,
                          (smhf_trainer_work){
                              .block = block,
                              .step = t,
                              .rate = rate,
                              .update = 1,
                              .dropout_before = trainer->dropout_before,
                              .dropout_after = trainer->dropout_step,
                          },
                          wait, err);
}
