/* cuda_backend.cu: the table, and what is neither memory nor arithmetic: life, counts, graphs. */
#include "backend_cuda/cuda_product.cuh"
#include "backend_cuda/cuda_table.cuh"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#ifndef SMHF_CUDA_NAME
#define SMHF_CUDA_NAME "cuda"
#endif

/* ---- packs and dropout as kernels see them -------------------------------------------------------- */

cuda_pack cuda_pack_of(const smhf_pack *pack, smhf_axis axis) {
    cuda_pack view = {};
    view.counts = pack->counts;
    view.cu_seqlens = pack->cu_seqlens;
    view.ids = pack->ids;
    view.type_ids = pack->type_ids;
    view.positions = pack->positions;
    view.token_rows = pack->token_rows;
    view.word_order = pack->word_order;
    view.word_starts = pack->word_starts;
    view.picks = pack->picks;
    view.sequence_ids = pack->sequence_ids;
    view.axis = axis;
    view.count = axis == SMHF_AXIS_TOKENS ? SMHF_COUNT_TOKENS
                 : axis == SMHF_AXIS_ROWS ? SMHF_COUNT_ROWS
                                          : SMHF_COUNT_PICKS;
    return view;
}

cuda_drop cuda_drop_of(smhf_dropout dropout) {
    cuda_drop view = {};
    if (dropout.p > 0.0f) {
        view.step = dropout.step;
        view.seed = dropout.seed;
        view.site = dropout.site;
        view.threshold = smhf_dropout_threshold(dropout.p);
        view.scale = 1.0f / (1.0f - dropout.p);
    }
    return view;
}

int32_t cuda_rows_count(const smhf_pack *pack, smhf_axis axis) {
    return axis == SMHF_AXIS_TOKENS ? pack->bucket.tokens
           : axis == SMHF_AXIS_ROWS ? pack->bucket.rows
                                    : pack->bucket.picks;
}

/* ---- life ----------------------------------------------------------------------------------------- */

static void fill_info(smhf_device_info *info, const cudaDeviceProp *prop, const char *products) {
    int driver = 0, runtime = 0;
    memset(info, 0, sizeof *info);
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    snprintf(info->name, sizeof info->name, "%.63s", prop->name);
    snprintf(info->tier, sizeof info->tier, "sm%d%d", prop->major, prop->minor);
    snprintf(info->detail, sizeof info->detail,
             "%d multiprocessors, driver for CUDA %d.%d, runtime %d.%d, %s",
             prop->multiProcessorCount, driver / 1000, driver % 1000 / 10, runtime / 1000,
             runtime % 1000 / 10, products);
    info->units = prop->multiProcessorCount;
    /* two waves of 128 x 192 tiles of a product 768 wide: rows of 4 tiles, units / 4 of them */
    info->batch_tokens = 2 * 32 * prop->multiProcessorCount;
    info->caps = SMHF_CAP_ASYNC | SMHF_CAP_BF16 | SMHF_CAP_BF16_ACTIVATIONS |
                 SMHF_CAP_GRAPH;
    size_t available = 0, total = 0;
    if (cudaMemGetInfo(&available, &total) == cudaSuccess) {
        info->memory_bytes = total;
        info->memory_free = available;
    } else {
        info->memory_bytes = prop->totalGlobalMem;
    }
}

static smhf_status properties_of(int32_t ordinal, cudaDeviceProp *prop, smhf_error *err) {
    int count = 0;
    SMHF_TRY(cuda_status(cudaGetDeviceCount(&count), "CUDA cannot start", err));
    if (ordinal >= count) {
        return smhf_fail(err, SMHF_E_UNAVAILABLE, SMHF_CUDA_NAME ":%d: there %s %d CUDA device%s",
                         (int)ordinal, count == 1 ? "is" : "are", count, count == 1 ? "" : "s");
    }
    SMHF_TRY(cuda_status(cudaGetDeviceProperties(prop, ordinal), "device properties", err));
    if (prop->major < 8) {
        return smhf_fail(err, SMHF_E_UNSUPPORTED,
                         "%s has compute capability %d.%d: this plugin is written for 8.0 and later",
                         prop->name, prop->major, prop->minor);
    }
    return cuda_status(cudaSetDevice(ordinal), "selecting the device", err);
}

static smhf_status unavailable(smhf_status status, smhf_error *err) {
    if (err != NULL && status == SMHF_E_BACKEND) {
        err->code = SMHF_E_UNAVAILABLE; /* a device that cannot be opened is not there */
    }
    return status == SMHF_E_BACKEND ? SMHF_E_UNAVAILABLE : status;
}

static smhf_status cuda_probe(int32_t ordinal, smhf_device_info *info, smhf_error *err) {
    cudaDeviceProp prop;
    const smhf_status status = properties_of(ordinal, &prop, err);
    if (status != SMHF_OK) {
        return unavailable(status, err);
    }
    fill_info(info, &prop, "cuBLASLt opened at first use");
    return SMHF_OK;
}

static void cuda_close(smhf_device *dev) {
    cuda_device *cuda = (cuda_device *)dev;
    if (cuda == NULL) {
        return;
    }
    if (cuda_enter(cuda, NULL) == SMHF_OK) { /* in a fork there is nothing to give back */
        if (cuda->stream != NULL) {
            cudaStreamSynchronize(cuda->stream);
        }
        cuda_gemm_close(cuda);
        cuda_segments_close(cuda);
        cudaFree(cuda->scratch);
        while (cuda->retired != NULL) {
            cuda_retired *next = cuda->retired->next;
            cudaFree(cuda->retired->block);
            smhf_free(cuda->retired);
            cuda->retired = next;
        }
        if (cuda->stream != NULL) {
            cudaStreamDestroy(cuda->stream);
        }
        cudaGetLastError();
    }
    smhf_free(cuda);
}

static smhf_status start(cuda_device *cuda, smhf_error *err) {
    SMHF_TRY(cuda_status(cudaStreamCreateWithFlags(&cuda->stream, cudaStreamNonBlocking),
                         "a stream", err));
    cuda_product_open(cuda);
    return cuda_gemm_open(cuda, err);
}

static smhf_status cuda_open(int32_t ordinal, smhf_device **out, smhf_error *err) {
    cudaDeviceProp prop;
    *out = NULL;
    smhf_status status = properties_of(ordinal, &prop, err);
    if (status != SMHF_OK) {
        return unavailable(status, err);
    }
    cuda_device *cuda = (cuda_device *)smhf_calloc(1, sizeof *cuda);
    if (cuda == NULL) {
        return smhf_fail_nomem(err, "cuda device", sizeof *cuda);
    }
    const smhf_error fresh = SMHF_ERROR_INIT;
    cuda->base.backend = smhf_backend_entry();
    cuda->base.failure = fresh;
    cuda->ordinal = ordinal;
    cuda->pid = getpid();
    cuda->units = prop.multiProcessorCount;
    cuda->major = prop.major;
    cuda->minor = prop.minor;
    status = start(cuda, err);
    if (status != SMHF_OK) {
        cuda_close(&cuda->base);
        return unavailable(status, err);
    }
    *out = &cuda->base;
    return SMHF_OK;
}

static void cuda_describe(smhf_device *dev, smhf_device_info *info) {
    cuda_device *cuda = (cuda_device *)dev;
    cudaDeviceProp prop;
    memset(info, 0, sizeof *info);
    if (properties_of(cuda->ordinal, &prop, NULL) == SMHF_OK) {
        fill_info(info, &prop, cuda_gemm_name(cuda));
    }
}

static smhf_status cuda_reserve(smhf_device *dev, const smhf_limits *limits, smhf_error *err) {
    cuda_device *cuda = (cuda_device *)dev;
    SMHF_TRY(cuda_enter(cuda, err));
    size_t most = cuda_linear_scratch(limits);
    const size_t others[] = {cuda_layernorm_scratch(limits), cuda_embedding_scratch(limits),
                             cuda_loss_scratch(limits)};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        most = others[i] > most ? others[i] : most;
    }
    return cuda_scratch_reserve(cuda, most, err);
}

static smhf_status cuda_sync(smhf_device *dev, smhf_error *err) {
    cuda_device *cuda = (cuda_device *)dev;
    const smhf_status entered = cuda_enter(cuda, err);
    if (entered == SMHF_OK) {
        cuda_check(cuda, cudaStreamSynchronize(cuda->stream), "running what was queued");
    } else if (dev->failure.code == SMHF_OK) {
        return entered;
    }
    const smhf_status code = dev->failure.code;
    if (code != SMHF_OK) {
        const smhf_error fresh = SMHF_ERROR_INIT;
        cudaGetLastError();
        if (err != NULL) {
            *err = dev->failure;
        }
        dev->failure = fresh;
    }
    return code;
}

/* ---- events --------------------------------------------------------------------------------------- */

struct smhf_event {
    cudaEvent_t event;
};

static smhf_status cuda_event_new(smhf_device *dev, smhf_event **out, smhf_error *err) {
    *out = NULL;
    SMHF_TRY(cuda_enter((cuda_device *)dev, err));
    smhf_event *event = (smhf_event *)smhf_calloc(1, sizeof *event);
    if (event == NULL) {
        return smhf_fail_nomem(err, "event", sizeof *event);
    }
    const smhf_status status =
        cuda_status(cudaEventCreateWithFlags(&event->event, cudaEventDefault), "an event", err);
    if (status != SMHF_OK) {
        smhf_free(event);
        return status;
    }
    *out = event;
    return SMHF_OK;
}

static void cuda_event_free(smhf_device *dev, smhf_event *event) {
    if (event != NULL && cuda_enter((cuda_device *)dev, NULL) == SMHF_OK) {
        cudaEventDestroy(event->event);
        smhf_free(event);
    }
}

static void cuda_event_record(smhf_device *dev, smhf_event *event) {
    cuda_device *cuda = cuda_begin(dev);
    if (cuda != NULL) {
        cuda_check(cuda, cudaEventRecord(event->event, cuda->stream), "recording an event");
    }
}

static void cuda_event_wait(smhf_device *dev, smhf_event *event) {
    cuda_device *cuda = cuda_begin(dev);
    if (cuda != NULL) {
        cuda_check(cuda, cudaStreamWaitEvent(cuda->stream, event->event, 0), "waiting for an event");
    }
}

static void cuda_event_sync(smhf_device *dev, smhf_event *event) {
    if (cuda_enter((cuda_device *)dev, NULL) == SMHF_OK) {
        (void)cudaEventSynchronize(event->event); /* the queue's own call says what went wrong */
    }
}

static smhf_status cuda_event_elapsed_ms(smhf_device *dev, smhf_event *from, smhf_event *to,
                                         float *out, smhf_error *err) {
    *out = 0.0f;
    SMHF_TRY(cuda_enter((cuda_device *)dev, err));
    SMHF_TRY(cuda_status(cudaEventSynchronize(to->event), "waiting for an event", err));
    return cuda_status(cudaEventElapsedTime(out, from->event, to->event), "time between events",
                       err);
}

/* ---- graphs --------------------------------------------------------------------------------------- */

struct smhf_graph {
    cudaGraphExec_t exec;
};

static smhf_status cuda_graph_begin(smhf_device *dev, smhf_error *err) {
    cuda_device *cuda = (cuda_device *)dev;
    SMHF_TRY(cuda_enter(cuda, err));
    if (cuda->capturing) {
        return smhf_fail(err, SMHF_E_ARG, "cuda:%d: a graph is being captured already",
                         cuda->ordinal);
    }
    SMHF_TRY(cuda_status(cudaStreamBeginCapture(cuda->stream, cudaStreamCaptureModeThreadLocal),
                         "capturing a graph", err));
    cuda->capturing = 1;
    cuda->graphs++;
    return SMHF_OK;
}

static smhf_status cuda_graph_end(smhf_device *dev, smhf_graph **out, smhf_error *err) {
    cuda_device *cuda = (cuda_device *)dev;
    cudaGraph_t graph = NULL;
    *out = NULL;
    SMHF_TRY(cuda_enter(cuda, err));
    if (!cuda->capturing) {
        return smhf_fail(err, SMHF_E_ARG, "cuda:%d: no graph is being captured", cuda->ordinal);
    }
    cuda->capturing = 0;
    smhf_status status = cuda_status(cudaStreamEndCapture(cuda->stream, &graph), "a graph", err);
    smhf_graph *made = NULL;
    if (status == SMHF_OK && dev->failure.code != SMHF_OK) { /* an op refused: sync will say it */
        status = smhf_fail(err, dev->failure.code, "%s", dev->failure.message);
    }
    if (status == SMHF_OK) {
        made = (smhf_graph *)smhf_calloc(1, sizeof *made);
        status = made != NULL
                     ? cuda_status(cudaGraphInstantiate(&made->exec, graph, 0), "a graph", err)
                     : smhf_fail_nomem(err, "graph", sizeof *made);
    }
    if (graph != NULL) {
        cudaGraphDestroy(graph);
    }
    if (status != SMHF_OK) {
        smhf_free(made);
        return status;
    }
    *out = made;
    return SMHF_OK;
}

static void cuda_graph_launch(smhf_device *dev, smhf_graph *graph) {
    cuda_device *cuda = cuda_begin(dev);
    if (cuda != NULL) {
        cuda_check(cuda, cudaGraphLaunch(graph->exec, cuda->stream), "launching a graph");
    }
}

static void cuda_graph_free(smhf_device *dev, smhf_graph *graph) {
    if (graph != NULL && cuda_enter((cuda_device *)dev, NULL) == SMHF_OK) {
        cudaStreamSynchronize(((cuda_device *)dev)->stream);
        cudaGraphExecDestroy(graph->exec);
        smhf_free(graph);
    }
}

/* ---- the table ------------------------------------------------------------------------------------ */

static const smhf_backend cuda_table = {
    .abi = SMHF_BACKEND_ABI,
    .size = sizeof(smhf_backend),
    .name = SMHF_CUDA_NAME,
    .probe = cuda_probe,
    .open = cuda_open,
    .close = cuda_close,
    .describe = cuda_describe,
    .reserve = cuda_reserve,
    .alloc = cuda_alloc,
    .free = cuda_free,
    .upload = cuda_upload,
    .download = cuda_download,
    .copy = cuda_copy,
    .fill = cuda_fill,
    .sync = cuda_sync,
    .weight_prepare = cuda_weight_prepare,
    .weight_refresh = cuda_weight_refresh,
    .weight_free = cuda_weight_free,
    .embedding_fwd = cuda_embedding_fwd,
    .linear_fwd = cuda_linear_fwd,
    .linear_act_fwd = cuda_linear_act_fwd,
    .attention_fwd = cuda_attention_fwd,
    .residual_layernorm_fwd = cuda_residual_layernorm_fwd,
    .gather_rows = cuda_gather_rows,
    .mean_rows = cuda_mean_rows,
    .dropout = cuda_dropout_op,
    .loss = cuda_loss,
    .span_loss = cuda_span_loss,
    .linear_bwd_input = cuda_linear_bwd_input,
    .linear_act_bwd_input = cuda_linear_act_bwd_input,
    .linear_bwd_weight = cuda_linear_bwd_weight,
    .act_bwd = cuda_act_bwd,
    .attention_bwd = cuda_attention_bwd,
    .residual_layernorm_bwd = cuda_residual_layernorm_bwd,
    .scatter_add_rows = cuda_scatter_add_rows,
    .mean_rows_bwd = cuda_mean_rows_bwd,
    .embedding_bwd = cuda_embedding_bwd,
    .grad_norm = cuda_grad_norm,
    .adamw = cuda_adamw,
    .axpy = cuda_axpy,
    .convert = cuda_convert,
    .pinned_alloc = cuda_pinned_alloc,
    .pinned_free = cuda_pinned_free,
    .event_new = cuda_event_new,
    .event_free = cuda_event_free,
    .event_record = cuda_event_record,
    .event_wait = cuda_event_wait,
    .event_sync = cuda_event_sync,
    .event_elapsed_ms = cuda_event_elapsed_ms,
    .graph_begin = cuda_graph_begin,
    .graph_end = cuda_graph_end,
    .graph_launch = cuda_graph_launch,
    .graph_free = cuda_graph_free,
    .layer_tail_fwd = NULL,
    .attention_first_fwd = NULL,
    .attention_first_bwd = NULL,
    .refine = NULL,
    .layers_fwd = NULL,
};

extern "C" const smhf_backend *smhf_backend_entry(void) {
    return &cuda_table;
}
