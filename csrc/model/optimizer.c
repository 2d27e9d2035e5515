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

/* Runs of neighbours with the same decay; the alignment gaps between them ride along (their
 * gradients are zero for ever). Without decay that is one run. */
smhf_status smhf_optimizer_init(smhf_trainer *trainer, smhf_error *err) {
    const smhf_parameters *table = &trainer->model->table;
    const float decay = (float)trainer->options.weight_decay;
    trainer->segments = smhf_calloc((size_t)table->count, sizeof *trainer->segments);
    if (trainer->segments == NULL) {
        return smhf_fail_nomem(err, "optimizer", (size_t)table->count * sizeof(smhf_segment));
    }
    float last = -1.0f;
    for (int i = 0; i < table->count; i++) {
        const smhf_parameter *p = &table->items[i];
        const float wanted = p->decays ? decay : 0.0f;
        const size_t end = (i + 1 < table->count) ? table->items[i + 1].offset : table->size;
        if (wanted != last) {
            trainer->segments[trainer->segment_count++] = (smhf_segment){
                trainer->model->parameters + p->offset,
                trainer->grads + p->offset,
                trainer->m + p->offset,
                trainer->v + p->offset,
                0,
                wanted,
                1.0f,
            };
            last = wanted;
        }
        trainer->segments[trainer->segment_count - 1].count += (int64_t)(end - p->offset);
    }
    return SMHF_OK;
}

smhf_status smhf_optimizer_apply(smhf_trainer *trainer, smhf_step_report *report, smhf_error *err) {
    smhf_device *dev = trainer->ws.dev;
    const smhf_backend *be = dev->backend;
    const smhf_trainer_options *o = &trainer->options;
    const int64_t t = trainer->step + 1;
    const double rate = smhf_optimizer_rate(trainer, trainer->step);
    const smhf_adamw_options adamw = {o->beta1, o->beta2, o->eps};
    smhf_step *step = &trainer->step_on_host;

    step->learning_rate = (float)rate;
    step->bias_correction1 = (float)(1.0 - pow(adamw.beta1, (double)t));
    step->bias_correction2_sqrt = (float)sqrt(1.0 - pow(adamw.beta2, (double)t));
    be->upload(dev, trainer->step_on_device, step, offsetof(smhf_step, grad_norm));
    be->grad_norm(dev, trainer->step_on_device, trainer->segments, trainer->segment_count,
                  (float)o->max_grad_norm);
    be->download(dev, &step->grad_norm,
                 (const char *)trainer->step_on_device + offsetof(smhf_step, grad_norm),
                 sizeof step->grad_norm);
    SMHF_TRY(be->sync(dev, err));
    if (!isfinite(step->grad_norm)) {
        return smhf_fail(err, SMHF_E_ARG,
                         "the gradient norm is %g at step %lld (learning rate %g); the weights are "
                         "as they were before this step",
                         (double)step->grad_norm, (long long)t, rate);
    }
    be->adamw(dev, trainer->step_on_device, trainer->segments, trainer->segment_count, &adamw);
    smhf_network_refresh(&trainer->model->net, dev);
    SMHF_TRY(be->sync(dev, err));
    trainer->step = t;
    *report = (smhf_step_report){t, rate, (double)step->grad_norm};
    return SMHF_OK;
}
