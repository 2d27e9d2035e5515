/* cpu_loss.c: cross-entropy, mean squared error, binary cross-entropy, with their gradients, in
 * double precision. */
#include "backend_cpu/cpu_device.h"

#include "common/pool.h"

#include <math.h>
#include <string.h>

static double class_weight(const smhf_loss_options *o, int32_t c) {
    return o->class_weights != NULL ? (double)o->class_weights[c] : 1.0;
}

static int32_t label_of(smhf_tensor targets, int32_t row) {
    return ((const int32_t *)targets.data)[(int64_t)row * targets.ld];
}

/* log of the sum of exponentials */
static double log_sum(const float *x, int32_t n) {
    double greatest = (double)x[0], sum = 0.0;
    for (int32_t c = 1; c < n; c++) {
        greatest = (double)x[c] > greatest ? (double)x[c] : greatest;
    }
    for (int32_t c = 0; c < n; c++) {
        sum += exp((double)x[c] - greatest);
    }
    return greatest + log(sum);
}

static void scale_row(float *d, double alpha, int32_t n) {
    for (int32_t c = 0; c < n; c++) {
        d[c] = (float)((double)d[c] * alpha);
    }
}

/* The row's loss, before the division; its gradient into d when present. d may be x. */
static double cross_entropy_row(float *d, const float *x, int32_t label, int32_t n,
                                const smhf_loss_options *o, double grad_factor) {
    if (label < 0 || label >= n) {
        for (int32_t c = 0; d != NULL && c < n; c++) {
            d[c] = NAN;
        }
        return NAN;
    }
    double smooth = (double)o->label_smoothing, lse = log_sum(x, n);
    double hard = (1.0 - smooth) * class_weight(o, label);
    double loss = hard * (lse - (double)x[label]), weight_sum = 0.0;
    if (smooth > 0.0) {
        for (int32_t c = 0; c < n; c++) {
            loss += smooth / n * class_weight(o, c) * (lse - (double)x[c]);
            weight_sum += class_weight(o, c);
        }
    }
    for (int32_t c = 0; d != NULL && c < n; c++) {
        double p = exp((double)x[c] - lse);
        double g = (hard + smooth / n * weight_sum) * p - (c == label ? hard : 0.0) -
                   (smooth > 0.0 ? smooth / n * class_weight(o, c) : 0.0);
        d[c] = (float)(g * grad_factor);
    }
    return loss;
}

typedef struct rows_task {
    smhf_tensor dlogits, logits, targets;
    const smhf_loss_options *options;
    double grad_factor;
    double *losses; /* [rows] */
} rows_task;

static void rows_body(void *context, size_t begin, size_t end) {
    const rows_task *task = context;
    for (size_t i = begin; i < end; i++) {
        const int32_t r = (int32_t)i, label = label_of(task->targets, r);
        float *d = task->dlogits.data != NULL ? cpu_row(task->dlogits, r) : NULL;
        task->losses[r] = 0.0;
        if (label != task->options->ignore_label) {
            task->losses[r] =
                cross_entropy_row(d, cpu_row(task->logits, r), label, task->logits.cols,
                                  task->options, task->grad_factor);
        } else if (d != NULL) {
            memset(d, 0, (size_t)task->logits.cols * sizeof *d);
        }
    }
}

/* Rows in parallel, because those of a vocabulary are long; their losses are added in order. */
static void cross_entropy(cpu_device *cpu, float *loss, smhf_tensor dlogits, smhf_tensor logits,
                          smhf_tensor targets, const smhf_loss_options *o, int32_t rows) {
    double count = 0.0, sum = 0.0;
    double *losses = cpu_partials_reserve(cpu, ((size_t)rows + 1) * sizeof *losses);
    if (losses == NULL) {
        return;
    }
    for (int32_t r = 0; r < rows; r++) {
        int32_t label = label_of(targets, r);
        if (label != o->ignore_label) {
            count += label >= 0 && label < logits.cols ? class_weight(o, label) : 1.0;
        }
    }
    double divisor = o->denominator > 0.0f ? (double)o->denominator : count;
    rows_task task = {dlogits, logits, targets, o, (double)o->grad_scale / divisor, losses};
    smhf_parallel_for((size_t)rows, cpu_rows_chunk(logits.cols), rows_body, &task);
    for (int32_t r = 0; r < rows; r++) {
        sum += losses[r];
    }
    *loss = (float)(sum / divisor);
}

/* ---- spans ---------------------------------------------------------------------------------- */

/* Cross-entropy over the tokens of a sequence, one column of [T, 2] at a time. */
static double span_row(smhf_tensor dlogits, smhf_tensor logits, int32_t first, int32_t tokens,
                       int32_t column, int32_t target, double grad_factor) {
    double greatest = -INFINITY, sum = 0.0;
    for (int32_t t = first; t < first + tokens; t++) {
        double x = (double)cpu_row(logits, t)[column];
        greatest = x > greatest ? x : greatest;
    }
    for (int32_t t = first; t < first + tokens; t++) {
        sum += exp((double)cpu_row(logits, t)[column] - greatest);
    }
    double lse = greatest + log(sum);
    double loss = lse - (double)cpu_row(logits, first + target)[column];
    for (int32_t t = first; dlogits.data != NULL && t < first + tokens; t++) {
        double p = exp((double)cpu_row(logits, t)[column] - lse);
        cpu_row(dlogits, t)[column] =
            (float)((p - (t == first + target ? 1.0 : 0.0)) * grad_factor);
    }
    return loss;
}

/* Sequences whose target lies inside them; what the pack itself says. */
static int32_t span_count(smhf_tensor targets, int32_t column, const smhf_pack *pack) {
    int32_t count = 0;
    for (int32_t b = 0; b < pack->rows; b++) {
        int32_t target = ((const int32_t *)targets.data)[(int64_t)b * targets.ld + column];
        count += target >= 0 && target < pack->cu_seqlens[b + 1] - pack->cu_seqlens[b];
    }
    return count;
}

void cpu_span_loss(smhf_device *dev, float *loss, smhf_tensor dlogits, smhf_tensor logits,
                   smhf_tensor targets, const smhf_loss_options *o, const smhf_pack *pack) {
    if (cpu_begin(dev) == NULL || !CPU_ALL_F32(dev, "span_loss", dlogits, logits)) {
        return;
    }
    double total = 0.0;
    for (int32_t column = 0; column < 2; column++) {
        double sum = 0.0, divisor = o->denominator > 0.0f
                                        ? (double)o->denominator
                                        : (double)span_count(targets, column, pack);
        for (int32_t b = 0; b < pack->rows; b++) {
            int32_t first = pack->cu_seqlens[b], tokens = pack->cu_seqlens[b + 1] - first;
            int32_t target = ((const int32_t *)targets.data)[(int64_t)b * targets.ld + column];
            if (target >= 0 && target < tokens) {
                sum += span_row(dlogits, logits, first, tokens, column, target,
                                0.5 * (double)o->grad_scale / divisor);
                continue;
            }
            for (int32_t t = first; dlogits.data != NULL && t < first + tokens; t++) {
                cpu_row(dlogits, t)[column] = 0.0f;
            }
        }
        total += sum / divisor;
    }
    *loss = (float)(total / 2.0);
}

/* ---- squares and bits ----------------------------------------------------------------------- */

/* Both are sums over all elements: (x - t)^2, or log(1 + e^x) - t x written so that nothing
 * overflows. */
static void elementwise(float *loss, smhf_tensor dlogits, smhf_tensor logits, smhf_tensor targets,
                        const smhf_loss_options *o, int32_t rows) {
    double divisor =
        o->denominator > 0.0f ? (double)o->denominator : (double)rows * (double)logits.cols;
    double sum = 0.0;
    for (int32_t r = 0; r < rows; r++) {
        float *d = dlogits.data != NULL ? cpu_row(dlogits, r) : NULL;
        for (int32_t c = 0; c < logits.cols; c++) {
            double x = (double)cpu_row(logits, r)[c], t = (double)cpu_row(targets, r)[c], g;
            if (o->kind == SMHF_LOSS_MSE) {
                sum += (x - t) * (x - t);
                g = 2.0 * (x - t);
            } else {
                double e = exp(-fabs(x));
                sum += (x < 0.0 ? 0.0 : x) - t * x + log1p(e);
                g = (x < 0.0 ? e / (1.0 + e) : 1.0 / (1.0 + e)) - t;
            }
            if (d != NULL) {
                d[c] = (float)g;
            }
        }
        if (d != NULL) {
            scale_row(d, (double)o->grad_scale / divisor, logits.cols);
        }
    }
    *loss = (float)(sum / divisor);
}

void cpu_loss(smhf_device *dev, float *loss, smhf_tensor dlogits, smhf_tensor logits,
              smhf_tensor targets, const smhf_loss_options *options, const smhf_pack *pack,
              smhf_axis axis) {
    cpu_device *cpu = cpu_begin(dev);
    if (cpu == NULL || !CPU_ALL_F32(dev, "loss", dlogits, logits)) {
        return;
    }
    int32_t rows = smhf_pack_count(pack, axis);
    if (options->kind == SMHF_LOSS_CROSS_ENTROPY) {
        cross_entropy(cpu, loss, dlogits, logits, targets, options, rows);
    } else {
        elementwise(loss, dlogits, logits, targets, options, rows);
    }
}
