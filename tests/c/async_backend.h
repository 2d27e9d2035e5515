/* async_backend.h: a test backend that behaves like a device which is far away.
 *
 *     smhf_backend_register(smhf_async_backend(), 0, &err);       // the name is "async"
 *     smhf_device_open("async", &dev, &err);
 *
 * Ops are only written down; a thread of the device's own runs them, through the CPU backend, when
 * sync asks for it: as late as the contract allows. So a caller that reads a result early, reuses
 * an upload's source, or changes an options struct that should have been copied, gets garbage
 * every time. Device pointers carry a tag that makes them invalid addresses: a host that looks
 * through one dies at once. Fresh memory is all NaN. Waiting for an event runs what stands before
 * it, and no more; smhf_async_waits counts the waits of the whole queue and of events.
 * Included by one test program each; everything is static. */
#ifndef SMHF_TEST_ASYNC_BACKEND_H
#define SMHF_TEST_ASYNC_BACKEND_H

#include "backend/backend.h"
#include "backend_cpu/backend_cpu.h"
#include "common/mem.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ASYNC_TAG ((uintptr_t)1 << 62) /* no processor of ours has addresses there */

typedef enum async_kind {
    ASYNC_COPY_IN,
    ASYNC_COPY_OUT,
    ASYNC_COPY,
    ASYNC_FILL,
    ASYNC_REFRESH,
    ASYNC_EMBEDDING_FWD,
    ASYNC_EMBEDDING_BWD,
    ASYNC_LINEAR_FWD,
    ASYNC_LINEAR_ACT_FWD,
    ASYNC_LINEAR_BWD_INPUT,
    ASYNC_LINEAR_ACT_BWD_INPUT,
    ASYNC_LINEAR_BWD_WEIGHT,
    ASYNC_ACT_BWD,
    ASYNC_ATTENTION_FWD,
    ASYNC_ATTENTION_BWD,
    ASYNC_FIRST_FWD,
    ASYNC_FIRST_BWD,
    ASYNC_NORM_FWD,
    ASYNC_NORM_BWD,
    ASYNC_GATHER,
    ASYNC_SCATTER,
    ASYNC_MEAN,
    ASYNC_MEAN_BWD,
    ASYNC_DROPOUT,
    ASYNC_LOSS,
    ASYNC_SPAN_LOSS,
    ASYNC_GRAD_NORM,
    ASYNC_ADAMW,
    ASYNC_AXPY,
    ASYNC_CONVERT,
    ASYNC_EVENT,
} async_kind;

/* One op with all its arguments, by value. */
typedef struct async_job {
    struct async_job *next;
    async_kind kind;
    smhf_tensor t[10];
    smhf_embedding tables, grads;
    smhf_pack pack;
    smhf_axis axis;
    smhf_dropout dropout;
    const smhf_weight *weight;
    smhf_act act;
    smhf_dtype compute;
    int flag;
    int32_t heads;
    float number;
    void *dst;
    const void *src;
    size_t bytes;
    smhf_loss_options loss;
    smhf_step *step;
    smhf_segment *segments;
    smhf_adamw_options adamw;
    smhf_event *event;
    uint64_t mark;
} async_job;

/* Where the queue had come to: `done` follows `wanted`. */
struct smhf_event {
    struct async_device *device; /* of the last record; NULL: never */
    uint64_t wanted, done;
};

static struct { atomic_ulong syncs, events; /* events: those that had to wait */ } smhf_async_waits;

typedef struct async_device {
    smhf_device base;
    smhf_device *cpu;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    async_job *first, **last;
    int draining, closing;
    const smhf_event *until; /* drain as far as this; NULL: everything */
} async_device;

static void *async_tag(const void *p) {
    return p != NULL ? (void *)((uintptr_t)p | ASYNC_TAG) : NULL;
}

/* A pointer without the tag is a host pointer where a device pointer belongs. */
static void *async_untag(const void *p) {
    if (p != NULL && ((uintptr_t)p & ASYNC_TAG) == 0) {
        fprintf(stderr, "async backend: host pointer %p given for a device pointer\n", p);
        abort();
    }
    return (void *)((uintptr_t)p & ~ASYNC_TAG);
}

static smhf_tensor async_tensor(smhf_tensor t) {
    t.data = async_untag(t.data);
    t.scales = async_untag(t.scales);
    return t;
}

static smhf_embedding async_tables(const smhf_embedding *e) {
    smhf_embedding out = *e;
    out.word = async_tensor(e->word);
    out.position = async_tensor(e->position);
    out.type = async_tensor(e->type);
    out.gamma = async_tensor(e->gamma);
    out.beta = async_tensor(e->beta);
    return out;
}

static smhf_pack async_pack(const smhf_pack *p) {
    smhf_pack out = *p;
    out.counts = async_untag(p->counts);
    out.cu_seqlens = async_untag(p->cu_seqlens);
    out.sequence_ids = async_untag(p->sequence_ids);
    out.ids = async_untag(p->ids);
    out.type_ids = async_untag(p->type_ids);
    out.positions = async_untag(p->positions);
    out.token_rows = async_untag(p->token_rows);
    out.word_order = async_untag(p->word_order);
    out.word_starts = async_untag(p->word_starts);
    out.picks = async_untag(p->picks);
    return out;
}

static smhf_dropout async_dropout(smhf_dropout d) {
    d.step = d.p > 0.0f ? async_untag(d.step) : NULL;
    return d;
}

/* ---- running ---- */

static void async_run(smhf_device *cpu, async_job *j) {
    const smhf_backend *be = cpu->backend;
    smhf_tensor *t = j->t;
    const smhf_pack *pack = &j->pack;
    switch (j->kind) {
    case ASYNC_COPY_IN:
    case ASYNC_COPY_OUT:
    case ASYNC_COPY:
        be->copy(cpu, j->dst, j->src, j->bytes);
        break;
    case ASYNC_FILL:
        be->fill(cpu, j->dst, j->flag, j->bytes);
        break;
    case ASYNC_REFRESH:
        be->weight_refresh(cpu, (smhf_weight *)j->weight);
        break;
    case ASYNC_EMBEDDING_FWD:
        be->embedding_fwd(cpu, t[0], t[1], &j->tables, j->number, pack, j->dropout);
        break;
    case ASYNC_EMBEDDING_BWD:
        be->embedding_bwd(cpu, &j->grads, t[0], t[1], &j->tables, pack, j->dropout);
        break;
    case ASYNC_LINEAR_FWD:
        be->linear_fwd(cpu, t[0], t[1], j->weight, t[2], pack, j->axis);
        break;
    case ASYNC_LINEAR_ACT_FWD:
        be->linear_act_fwd(cpu, t[0], t[1], t[2], j->weight, t[3], j->act, pack, j->axis);
        break;
    case ASYNC_LINEAR_BWD_INPUT:
        be->linear_bwd_input(cpu, t[0], t[1], j->weight, j->flag, pack, j->axis);
        break;
    case ASYNC_LINEAR_ACT_BWD_INPUT:
        be->linear_act_bwd_input(cpu, t[0], t[1], j->weight, t[2], j->act, pack, j->axis);
        break;
    case ASYNC_LINEAR_BWD_WEIGHT:
        be->linear_bwd_weight(cpu, t[0], t[1], t[2], t[3], pack, j->axis, j->compute);
        break;
    case ASYNC_ACT_BWD:
        be->act_bwd(cpu, t[0], t[1], t[2], j->act, pack, j->axis);
        break;
    case ASYNC_ATTENTION_FWD:
        be->attention_fwd(cpu, t[0], t[1], t[2], t[3], t[4], pack, j->axis, j->heads, j->number,
                          j->compute, j->dropout);
        break;
    case ASYNC_ATTENTION_BWD:
        be->attention_bwd(cpu, t[0], t[1], t[2], t[3], t[4], t[5], t[6], t[7], t[8], pack, j->axis,
                          j->heads, j->number, j->compute, j->dropout);
        break;
    case ASYNC_FIRST_FWD:
        be->attention_first_fwd(cpu, t[0], t[1], t[2], t[3], j->weight, t[4], pack, j->heads,
                                j->number, j->dropout);
        break;
    case ASYNC_FIRST_BWD:
        be->attention_first_bwd(cpu, t[0], t[1], t[2], t[3], t[4], t[5], t[6], t[7], t[8],
                                j->weight, t[9], pack, j->heads, j->number, j->dropout);
        break;
    case ASYNC_NORM_FWD:
        be->residual_layernorm_fwd(cpu, t[0], t[1], t[2], t[3], t[4], t[5], t[6], j->number, pack,
                                   j->axis, j->dropout);
        break;
    case ASYNC_NORM_BWD:
        be->residual_layernorm_bwd(cpu, t[0], t[1], t[2], t[3], t[4], t[5], t[6], t[7], pack,
                                   j->axis, j->dropout);
        break;
    case ASYNC_GATHER:
        be->gather_rows(cpu, t[0], t[1], pack, j->axis);
        break;
    case ASYNC_SCATTER:
        be->scatter_add_rows(cpu, t[0], t[1], pack, j->axis);
        break;
    case ASYNC_MEAN:
        be->mean_rows(cpu, t[0], t[1], pack);
        break;
    case ASYNC_MEAN_BWD:
        be->mean_rows_bwd(cpu, t[0], t[1], pack);
        break;
    case ASYNC_SPAN_LOSS:
        be->span_loss(cpu, j->dst, t[0], t[1], t[2], &j->loss, pack);
        break;
    case ASYNC_DROPOUT:
        be->dropout(cpu, t[0], t[1], pack, j->axis, j->dropout);
        break;
    case ASYNC_LOSS:
        be->loss(cpu, j->dst, t[0], t[1], t[2], &j->loss, pack, j->axis);
        break;
    case ASYNC_GRAD_NORM:
        be->grad_norm(cpu, j->step, j->segments, j->heads, j->number);
        break;
    case ASYNC_ADAMW:
        be->adamw(cpu, j->step, j->segments, j->heads, &j->adamw);
        break;
    case ASYNC_AXPY:
        be->axpy(cpu, j->dst, j->src, j->number, (int64_t)j->bytes);
        break;
    case ASYNC_CONVERT:
        be->convert(cpu, t[0], t[1]);
        break;
    case ASYNC_EVENT:
        break; /* async_main notes it */
    }
}

static void *async_main(void *argument) {
    async_device *dev = argument;
    pthread_mutex_lock(&dev->lock);
    while (!dev->closing) {
        const int reached = dev->until != NULL && dev->until->done >= dev->until->wanted;
        async_job *job = dev->draining && !reached ? dev->first : NULL;
        if (job == NULL) {
            dev->draining = 0;
            pthread_cond_broadcast(&dev->changed);
            pthread_cond_wait(&dev->changed, &dev->lock);
            continue;
        }
        dev->first = job->next;
        if (dev->first == NULL) {
            dev->last = &dev->first;
        }
        pthread_mutex_unlock(&dev->lock);
        async_run(dev->cpu, job);
        pthread_mutex_lock(&dev->lock);
        if (job->event != NULL) {
            job->event->done = job->mark;
        }
        smhf_free(job->segments);
        smhf_free(job);
    }
    pthread_mutex_unlock(&dev->lock);
    return NULL;
}

/* Waiters take turns: the queue runs for one of them at a time. */
static void async_drain_until(async_device *dev, const smhf_event *until) {
    pthread_mutex_lock(&dev->lock);
    while (dev->draining) {
        pthread_cond_wait(&dev->changed, &dev->lock);
    }
    dev->until = until;
    dev->draining = 1;
    pthread_cond_broadcast(&dev->changed);
    while (dev->draining) {
        pthread_cond_wait(&dev->changed, &dev->lock);
    }
    pthread_mutex_unlock(&dev->lock);
}

static void async_drain(async_device *dev) {
    async_drain_until(dev, NULL);
}

static async_job *async_new(smhf_device *dev, async_kind kind) {
    async_job *job = smhf_calloc(1, sizeof *job);
    if (job == NULL) {
        smhf_device_fail(((async_device *)dev)->cpu, SMHF_E_NOMEM, "async queue: out of memory");
        return NULL;
    }
    job->kind = kind;
    return job;
}

static void async_push(smhf_device *dev, async_job *job) {
    async_device *async = (async_device *)dev;
    pthread_mutex_lock(&async->lock);
    *async->last = job;
    async->last = &job->next;
    pthread_mutex_unlock(&async->lock);
}

/* ---- the table ---- */

static const smhf_backend *smhf_async_backend(void);

static smhf_status async_probe(int32_t ordinal, smhf_device_info *info, smhf_error *err) {
    return smhf_cpu_backend()->probe(ordinal, info, err);
}

static smhf_status async_open(int32_t ordinal, smhf_device **out, smhf_error *err) {
    *out = NULL;
    async_device *dev = smhf_calloc(1, sizeof *dev);
    if (dev == NULL) {
        return smhf_fail_nomem(err, "async device", sizeof *dev);
    }
    smhf_status status = smhf_cpu_backend()->open(ordinal, &dev->cpu, err);
    if (status != SMHF_OK) {
        smhf_free(dev);
        return status;
    }
    dev->base.backend = smhf_async_backend();
    dev->last = &dev->first;
    pthread_mutex_init(&dev->lock, NULL);
    pthread_cond_init(&dev->changed, NULL);
    if (pthread_create(&dev->thread, NULL, async_main, dev) != 0) {
        smhf_device_close(dev->cpu);
        smhf_free(dev);
        return smhf_fail(err, SMHF_E_UNAVAILABLE, "async device: no thread");
    }
    *out = &dev->base;
    return SMHF_OK;
}

static void async_close(smhf_device *device) {
    async_device *dev = (async_device *)device;
    if (dev == NULL) {
        return;
    }
    async_drain(dev);
    pthread_mutex_lock(&dev->lock);
    dev->closing = 1;
    pthread_cond_broadcast(&dev->changed);
    pthread_mutex_unlock(&dev->lock);
    pthread_join(dev->thread, NULL);
    pthread_mutex_destroy(&dev->lock);
    pthread_cond_destroy(&dev->changed);
    smhf_device_close(dev->cpu);
    smhf_free(dev);
}

static void async_describe(smhf_device *device, smhf_device_info *info) {
    async_device *dev = (async_device *)device;
    dev->cpu->backend->describe(dev->cpu, info);
    info->caps = (info->caps & ~SMHF_CAP_HOST_MEMORY) | SMHF_CAP_ASYNC;
}

static smhf_status async_reserve(smhf_device *device, const smhf_limits *limits, smhf_error *err) {
    async_device *dev = (async_device *)device;
    async_drain(dev);
    return dev->cpu->backend->reserve(dev->cpu, limits, err);
}

static smhf_status async_alloc(smhf_device *device, void **out, size_t bytes, smhf_error *err) {
    async_device *dev = (async_device *)device;
    smhf_status status = dev->cpu->backend->alloc(dev->cpu, out, bytes, err);
    if (status == SMHF_OK) {
        memset(*out, 0xFF, bytes);
        *out = async_tag(*out);
    }
    return status;
}

static void async_free(smhf_device *device, void *block) {
    async_device *dev = (async_device *)device;
    if (block != NULL) {
        async_drain(dev);
        dev->cpu->backend->free(dev->cpu, async_untag(block));
    }
}

static void async_transfer(smhf_device *dev, async_kind kind, void *dst, const void *src,
                           size_t bytes) {
    async_job *job = async_new(dev, kind);
    if (job != NULL) {
        job->dst = kind == ASYNC_COPY_OUT ? dst : async_untag(dst);
        job->src = kind == ASYNC_COPY_IN ? src : async_untag(src);
        job->bytes = bytes;
        async_push(dev, job);
    }
}

static void async_upload(smhf_device *dev, void *dst, const void *src, size_t bytes) {
    async_transfer(dev, ASYNC_COPY_IN, dst, src, bytes);
}

static void async_download(smhf_device *dev, void *dst, const void *src, size_t bytes) {
    async_transfer(dev, ASYNC_COPY_OUT, dst, src, bytes);
}

static void async_copy(smhf_device *dev, void *dst, const void *src, size_t bytes) {
    async_transfer(dev, ASYNC_COPY, dst, src, bytes);
}

static void async_fill(smhf_device *dev, void *dst, int byte, size_t bytes) {
    async_job *job = async_new(dev, ASYNC_FILL);
    if (job != NULL) {
        job->dst = async_untag(dst);
        job->flag = byte;
        job->bytes = bytes;
        async_push(dev, job);
    }
}

static smhf_status async_sync(smhf_device *device, smhf_error *err) {
    async_device *dev = (async_device *)device;
    smhf_async_waits.syncs++;
    async_drain(dev);
    return dev->cpu->backend->sync(dev->cpu, err);
}

static smhf_status async_event_new(smhf_device *dev, smhf_event **out, smhf_error *err) {
    (void)dev;
    *out = smhf_calloc(1, sizeof **out);
    return *out != NULL ? SMHF_OK : smhf_fail_nomem(err, "event", sizeof **out);
}

static void async_event_sync(smhf_device *dev, smhf_event *event) {
    (void)dev; /* the event knows its queue */
    if (event->device != NULL) {
        pthread_mutex_lock(&event->device->lock);
        const int waits = event->done < event->wanted;
        pthread_mutex_unlock(&event->device->lock);
        if (waits) {
            smhf_async_waits.events++;
            async_drain_until(event->device, event);
        }
    }
}

static void async_event_free(smhf_device *dev, smhf_event *event) {
    async_event_sync(dev, event);
    smhf_free(event);
}

static void async_event_record(smhf_device *device, smhf_event *event) {
    async_device *dev = (async_device *)device;
    async_job *job = async_new(device, ASYNC_EVENT);
    if (job != NULL) {
        pthread_mutex_lock(&dev->lock);
        event->device = dev;
        job->event = event;
        job->mark = ++event->wanted;
        pthread_mutex_unlock(&dev->lock);
        async_push(device, job);
    }
}

static smhf_status async_weight_prepare(smhf_device *device, smhf_weight **out, smhf_tensor source,
                                        const smhf_weight_options *options, smhf_error *err) {
    async_device *dev = (async_device *)device;
    return dev->cpu->backend->weight_prepare(dev->cpu, out, async_tensor(source), options, err);
}

static void async_weight_refresh(smhf_device *dev, smhf_weight *weight) {
    async_job *job = async_new(dev, ASYNC_REFRESH);
    if (job != NULL) {
        job->weight = weight;
        async_push(dev, job);
    }
}

static void async_weight_free(smhf_device *device, smhf_weight *weight) {
    async_device *dev = (async_device *)device;
    async_drain(dev);
    dev->cpu->backend->weight_free(dev->cpu, weight);
}

/* Starts a job, fills its tensors, and leaves the rest to the braces that follow. */
#define ASYNC_OP(device, op_kind, ...)                                                             \
    async_job *job = async_new((device), (op_kind));                                               \
    if (job == NULL) {                                                                             \
        return;                                                                                    \
    }                                                                                              \
    const smhf_tensor given[] = {__VA_ARGS__};                                                     \
    for (size_t i = 0; i < sizeof given / sizeof given[0]; i++) {                                  \
        job->t[i] = async_tensor(given[i]);                                                        \
    }

static void async_embedding_fwd(smhf_device *dev, smhf_tensor out, smhf_tensor stats,
                                const smhf_embedding *tables, float eps, const smhf_pack *pack,
                                smhf_dropout dropout) {
    ASYNC_OP(dev, ASYNC_EMBEDDING_FWD, out, stats)
    job->tables = async_tables(tables);
    job->number = eps;
    job->pack = async_pack(pack);
    job->dropout = async_dropout(dropout);
    async_push(dev, job);
}

static void async_embedding_bwd(smhf_device *dev, const smhf_embedding *grads, smhf_tensor dout,
                                smhf_tensor stats, const smhf_embedding *tables,
                                const smhf_pack *pack, smhf_dropout dropout) {
    ASYNC_OP(dev, ASYNC_EMBEDDING_BWD, dout, stats)
    job->tables = async_tables(tables);
    job->grads = async_tables(grads);
    job->pack = async_pack(pack);
    job->dropout = async_dropout(dropout);
    async_push(dev, job);
}

static void async_linear_fwd(smhf_device *dev, smhf_tensor y, smhf_tensor x, const smhf_weight *w,
                             smhf_tensor bias, const smhf_pack *pack, smhf_axis axis) {
    ASYNC_OP(dev, ASYNC_LINEAR_FWD, y, x, bias)
    job->weight = w;
    job->pack = async_pack(pack);
    job->axis = axis;
    async_push(dev, job);
}

static void async_linear_act_fwd(smhf_device *dev, smhf_tensor y, smhf_tensor pre, smhf_tensor x,
                                 const smhf_weight *w, smhf_tensor bias, smhf_act act,
                                 const smhf_pack *pack, smhf_axis axis) {
    ASYNC_OP(dev, ASYNC_LINEAR_ACT_FWD, y, pre, x, bias)
    job->weight = w;
    job->act = act;
    job->pack = async_pack(pack);
    job->axis = axis;
    async_push(dev, job);
}

static void async_linear_bwd_input(smhf_device *dev, smhf_tensor dx, smhf_tensor dy,
                                   const smhf_weight *w, int accumulate, const smhf_pack *pack,
                                   smhf_axis axis) {
    ASYNC_OP(dev, ASYNC_LINEAR_BWD_INPUT, dx, dy)
    job->weight = w;
    job->flag = accumulate;
    job->pack = async_pack(pack);
    job->axis = axis;
    async_push(dev, job);
}

static void async_linear_act_bwd_input(smhf_device *dev, smhf_tensor dpre, smhf_tensor dy,
                                       const smhf_weight *w, smhf_tensor saved, smhf_act act,
                                       const smhf_pack *pack, smhf_axis axis) {
    ASYNC_OP(dev, ASYNC_LINEAR_ACT_BWD_INPUT, dpre, dy, saved)
    job->weight = w;
    job->act = act;
    job->pack = async_pack(pack);
    job->axis = axis;
    async_push(dev, job);
}

static void async_linear_bwd_weight(smhf_device *dev, smhf_tensor dw, smhf_tensor dbias,
                                    smhf_tensor dy, smhf_tensor x, const smhf_pack *pack,
                                    smhf_axis axis, smhf_dtype compute) {
    ASYNC_OP(dev, ASYNC_LINEAR_BWD_WEIGHT, dw, dbias, dy, x)
    job->pack = async_pack(pack);
    job->axis = axis;
    job->compute = compute;
    async_push(dev, job);
}

static void async_act_bwd(smhf_device *dev, smhf_tensor dpre, smhf_tensor dy, smhf_tensor saved,
                          smhf_act act, const smhf_pack *pack, smhf_axis axis) {
    ASYNC_OP(dev, ASYNC_ACT_BWD, dpre, dy, saved)
    job->act = act;
    job->pack = async_pack(pack);
    job->axis = axis;
    async_push(dev, job);
}

static void async_attention_fwd(smhf_device *dev, smhf_tensor out, smhf_tensor lse, smhf_tensor q,
                                smhf_tensor k, smhf_tensor v, const smhf_pack *pack,
                                smhf_axis query_axis, int32_t heads, float scale,
                                smhf_dtype compute, smhf_dropout dropout) {
    ASYNC_OP(dev, ASYNC_ATTENTION_FWD, out, lse, q, k, v)
    job->pack = async_pack(pack);
    job->axis = query_axis;
    job->heads = heads;
    job->number = scale;
    job->compute = compute;
    job->dropout = async_dropout(dropout);
    async_push(dev, job);
}

static void async_attention_bwd(smhf_device *dev, smhf_tensor dq, smhf_tensor dk, smhf_tensor dv,
                                smhf_tensor dout, smhf_tensor out, smhf_tensor lse, smhf_tensor q,
                                smhf_tensor k, smhf_tensor v, const smhf_pack *pack,
                                smhf_axis query_axis, int32_t heads, float scale,
                                smhf_dtype compute, smhf_dropout dropout) {
    ASYNC_OP(dev, ASYNC_ATTENTION_BWD, dq, dk, dv, dout, out, lse, q, k, v)
    job->pack = async_pack(pack);
    job->axis = query_axis;
    job->heads = heads;
    job->number = scale;
    job->compute = compute;
    job->dropout = async_dropout(dropout);
    async_push(dev, job);
}

static void async_first_fwd(smhf_device *dev, smhf_tensor out, smhf_tensor lse, smhf_tensor q,
                            smhf_tensor x, const smhf_weight *kv, smhf_tensor kv_bias,
                            const smhf_pack *pack, int32_t heads, float scale,
                            smhf_dropout dropout) {
    ASYNC_OP(dev, ASYNC_FIRST_FWD, out, lse, q, x, kv_bias)
    job->weight = kv;
    job->pack = async_pack(pack);
    job->heads = heads;
    job->number = scale;
    job->dropout = async_dropout(dropout);
    async_push(dev, job);
}

static void async_first_bwd(smhf_device *dev, smhf_tensor dq, smhf_tensor dx, smhf_tensor dkv,
                            smhf_tensor dkv_bias, smhf_tensor dout, smhf_tensor out,
                            smhf_tensor lse, smhf_tensor q, smhf_tensor x, const smhf_weight *kv,
                            smhf_tensor kv_bias, const smhf_pack *pack, int32_t heads, float scale,
                            smhf_dropout dropout) {
    ASYNC_OP(dev, ASYNC_FIRST_BWD, dq, dx, dkv, dkv_bias, dout, out, lse, q, x, kv_bias)
    job->weight = kv;
    job->pack = async_pack(pack);
    job->heads = heads;
    job->number = scale;
    job->dropout = async_dropout(dropout);
    async_push(dev, job);
}

static void async_norm_fwd(smhf_device *dev, smhf_tensor out, smhf_tensor sum, smhf_tensor stats,
                           smhf_tensor x, smhf_tensor residual, smhf_tensor gamma, smhf_tensor beta,
                           float eps, const smhf_pack *pack, smhf_axis axis, smhf_dropout dropout) {
    ASYNC_OP(dev, ASYNC_NORM_FWD, out, sum, stats, x, residual, gamma, beta)
    job->number = eps;
    job->pack = async_pack(pack);
    job->axis = axis;
    job->dropout = async_dropout(dropout);
    async_push(dev, job);
}

static void async_norm_bwd(smhf_device *dev, smhf_tensor dsum, smhf_tensor dx, smhf_tensor dgamma,
                           smhf_tensor dbeta, smhf_tensor dout, smhf_tensor sum, smhf_tensor stats,
                           smhf_tensor gamma, const smhf_pack *pack, smhf_axis axis,
                           smhf_dropout dropout) {
    ASYNC_OP(dev, ASYNC_NORM_BWD, dsum, dx, dgamma, dbeta, dout, sum, stats, gamma)
    job->pack = async_pack(pack);
    job->axis = axis;
    job->dropout = async_dropout(dropout);
    async_push(dev, job);
}

static void async_gather_rows(smhf_device *dev, smhf_tensor out, smhf_tensor x,
                              const smhf_pack *pack, smhf_axis axis) {
    ASYNC_OP(dev, ASYNC_GATHER, out, x)
    job->pack = async_pack(pack);
    job->axis = axis;
    async_push(dev, job);
}

static void async_scatter_add_rows(smhf_device *dev, smhf_tensor dx, smhf_tensor dout,
                                   const smhf_pack *pack, smhf_axis axis) {
    ASYNC_OP(dev, ASYNC_SCATTER, dx, dout)
    job->pack = async_pack(pack);
    job->axis = axis;
    async_push(dev, job);
}

static void async_mean_rows(smhf_device *dev, smhf_tensor out, smhf_tensor x,
                            const smhf_pack *pack) {
    ASYNC_OP(dev, ASYNC_MEAN, out, x)
    job->pack = async_pack(pack);
    async_push(dev, job);
}

static void async_mean_rows_bwd(smhf_device *dev, smhf_tensor dx, smhf_tensor dout,
                                const smhf_pack *pack) {
    ASYNC_OP(dev, ASYNC_MEAN_BWD, dx, dout)
    job->pack = async_pack(pack);
    async_push(dev, job);
}

static void async_dropout_op(smhf_device *dev, smhf_tensor y, smhf_tensor x, const smhf_pack *pack,
                             smhf_axis axis, smhf_dropout dropout) {
    ASYNC_OP(dev, ASYNC_DROPOUT, y, x)
    job->pack = async_pack(pack);
    job->axis = axis;
    job->dropout = async_dropout(dropout);
    async_push(dev, job);
}

static void async_loss(smhf_device *dev, float *loss, smhf_tensor dlogits, smhf_tensor logits,
                       smhf_tensor targets, const smhf_loss_options *options, const smhf_pack *pack,
                       smhf_axis axis) {
    ASYNC_OP(dev, ASYNC_LOSS, dlogits, logits, targets)
    job->dst = async_untag(loss);
    job->loss = *options;
    job->loss.class_weights = async_untag(options->class_weights);
    job->pack = async_pack(pack);
    job->axis = axis;
    async_push(dev, job);
}

static void async_span_loss(smhf_device *dev, float *loss, smhf_tensor dlogits, smhf_tensor logits,
                            smhf_tensor targets, const smhf_loss_options *options,
                            const smhf_pack *pack) {
    ASYNC_OP(dev, ASYNC_SPAN_LOSS, dlogits, logits, targets)
    job->dst = async_untag(loss);
    job->loss = *options;
    job->pack = async_pack(pack);
    async_push(dev, job);
}

static int async_segments(async_job *job, const smhf_segment *segments, int32_t count) {
    size_t room = (size_t)(count > 0 ? count : 1);
    job->segments = smhf_calloc(room, sizeof *segments);
    job->heads = count;
    for (int32_t i = 0; job->segments != NULL && i < count; i++) {
        job->segments[i] = segments[i];
        job->segments[i].param = async_untag(segments[i].param);
        job->segments[i].grad = async_untag(segments[i].grad);
        job->segments[i].m = async_untag(segments[i].m);
        job->segments[i].v = async_untag(segments[i].v);
    }
    return job->segments != NULL;
}

static void async_grad_norm(smhf_device *dev, smhf_step *step, const smhf_segment *segments,
                            int32_t count, float max_norm) {
    async_job *job = async_new(dev, ASYNC_GRAD_NORM);
    if (job != NULL && async_segments(job, segments, count)) {
        job->step = async_untag(step);
        job->number = max_norm;
        async_push(dev, job);
    }
}

static void async_adamw(smhf_device *dev, const smhf_step *step, const smhf_segment *segments,
                        int32_t count, const smhf_adamw_options *options) {
    async_job *job = async_new(dev, ASYNC_ADAMW);
    if (job != NULL && async_segments(job, segments, count)) {
        job->step = async_untag(step);
        job->adamw = *options;
        async_push(dev, job);
    }
}

static void async_axpy(smhf_device *dev, float *y, const float *x, float alpha, int64_t count) {
    async_job *job = async_new(dev, ASYNC_AXPY);
    if (job != NULL) {
        job->dst = async_untag(y);
        job->src = async_untag(x);
        job->number = alpha;
        job->bytes = (size_t)count;
        async_push(dev, job);
    }
}

static void async_convert(smhf_device *dev, smhf_tensor dst, smhf_tensor src) {
    ASYNC_OP(dev, ASYNC_CONVERT, dst, src)
    async_push(dev, job);
}

static const smhf_backend *smhf_async_backend(void) {
    static const smhf_backend table = {
        .abi = SMHF_BACKEND_ABI,
        .size = sizeof(smhf_backend),
        .name = "async",
        .probe = async_probe,
        .open = async_open,
        .close = async_close,
        .describe = async_describe,
        .reserve = async_reserve,
        .alloc = async_alloc,
        .free = async_free,
        .upload = async_upload,
        .download = async_download,
        .copy = async_copy,
        .fill = async_fill,
        .sync = async_sync,
        .weight_prepare = async_weight_prepare,
        .weight_refresh = async_weight_refresh,
        .weight_free = async_weight_free,
        .embedding_fwd = async_embedding_fwd,
        .linear_fwd = async_linear_fwd,
        .linear_act_fwd = async_linear_act_fwd,
        .attention_fwd = async_attention_fwd,
        .residual_layernorm_fwd = async_norm_fwd,
        .gather_rows = async_gather_rows,
        .mean_rows = async_mean_rows,
        .dropout = async_dropout_op,
        .loss = async_loss,
        .span_loss = async_span_loss,
        .linear_bwd_input = async_linear_bwd_input,
        .linear_act_bwd_input = async_linear_act_bwd_input,
        .linear_bwd_weight = async_linear_bwd_weight,
        .act_bwd = async_act_bwd,
        .attention_bwd = async_attention_bwd,
        .residual_layernorm_bwd = async_norm_bwd,
        .scatter_add_rows = async_scatter_add_rows,
        .mean_rows_bwd = async_mean_rows_bwd,
        .embedding_bwd = async_embedding_bwd,
        .grad_norm = async_grad_norm,
        .adamw = async_adamw,
        .axpy = async_axpy,
        .convert = async_convert,
        .attention_first_fwd = async_first_fwd,
        .attention_first_bwd = async_first_bwd,
        .event_new = async_event_new,
        .event_free = async_event_free,
        .event_record = async_event_record,
        .event_sync = async_event_sync,
    };
    return &table;
}

#endif
