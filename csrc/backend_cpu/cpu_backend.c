/* cpu_backend.c: the table, and everything that is not arithmetic: life, memory, scratch, weights.
 *
 * Ops run before they return, so the queue is always empty and sync only reports. */
#include "backend_cpu/backend_cpu.h"
#include "backend_cpu/cpu_device.h"
#include "backend_cpu/cpu_lowp.h"
#include "common/mem.h"
#include "common/pool.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CPU_ALIGN 256
#define NORM_PARTIALS ((size_t)256 << 10) /* grad_norm's partial sums for 10^9 parameters */

/* ---- life ----------------------------------------------------------------------------------- */

static void fill_info(smhf_device_info *info, const cpu_features *features, const char *matmul) {
    memset(info, 0, sizeof *info);
    cpu_features_name(info->name, sizeof info->name);
    snprintf(info->tier, sizeof info->tier, "%s", features->tier);
    info->units = smhf_pool_threads();
    snprintf(info->detail, sizeof info->detail, "%d thread%s, %s", (int)info->units,
             info->units == 1 ? "" : "s", matmul);
    info->caps = SMHF_CAP_HOST_MEMORY | cpu_lowp_caps(features);
    info->i8_levels = cpu_i8_kernels_of(features)->levels;
    long pages = sysconf(_SC_PHYS_PAGES), free_pages = sysconf(_SC_AVPHYS_PAGES);
    long size = sysconf(_SC_PAGESIZE);
    if (pages > 0 && free_pages > 0 && size > 0) {
        info->memory_bytes = (uint64_t)pages * (uint64_t)size;
        info->memory_free = (uint64_t)free_pages * (uint64_t)size;
    }
}

static smhf_status check_ordinal(int32_t ordinal, smhf_error *err) {
    if (ordinal != 0) {
        return smhf_fail(err, SMHF_E_UNAVAILABLE, "cpu:%d: there is one processor device, cpu:0",
                         (int)ordinal);
    }
    return SMHF_OK;
}

/* Where the compiler's vectors are narrow a BLAS knows the processor better. But it chooses its
 * loops by the number of rows, so that a row's last bit depends on its neighbours: who asks for a
 * tier gets that tier's kernels, which do not. */
static int use_own_kernels(const cpu_features *features) {
    const char *wanted = getenv("SMHF_BLAS"), *tier = getenv("SMHF_CPU_TIER");
    if (wanted != NULL && wanted[0] != '\0') {
        return strcmp(wanted, "own") == 0;
    }
    return (features->flags & CPU_HAS_AVX2) != 0 || (tier != NULL && strcmp(tier, "scalar") == 0);
}

static const char *matmul_name(const cpu_device *cpu, const cpu_features *features) {
    if (cpu != NULL ? cpu->own_kernels : use_own_kernels(features)) {
        return "own matrix kernels";
    }
    return cpu != NULL && cpu->matmul.ready ? cpu->matmul.name
                                            : "matmul library opened at first use";
}

static smhf_status cpu_probe(int32_t ordinal, smhf_device_info *info, smhf_error *err) {
    SMHF_TRY(check_ordinal(ordinal, err));
    cpu_features features;
    cpu_features_get(&features);
    fill_info(info, &features, matmul_name(NULL, &features));
    return SMHF_OK;
}

static smhf_status cpu_open(int32_t ordinal, smhf_device **out, smhf_error *err) {
    *out = NULL;
    SMHF_TRY(check_ordinal(ordinal, err));
    cpu_device *cpu = smhf_calloc(1, sizeof *cpu);
    if (cpu == NULL) {
        return smhf_fail_nomem(err, "cpu device", sizeof *cpu);
    }
    cpu->base.backend = smhf_cpu_backend();
    cpu->base.failure = (smhf_error)SMHF_ERROR_INIT;
    cpu_features_get(&cpu->features);
    cpu->kernels = cpu->features.kernels;
    cpu->own_kernels = use_own_kernels(&cpu->features);
    *out = &cpu->base;
    return SMHF_OK;
}

static void cpu_close(smhf_device *dev) {
    cpu_device *cpu = (cpu_device *)dev;
    if (cpu == NULL) {
        return;
    }
    smhf_free(cpu->slots);
    smhf_free(cpu->slot_taken);
    smhf_free(cpu->partials);
    smhf_free(cpu);
}

static void cpu_describe(smhf_device *dev, smhf_device_info *info) {
    cpu_device *cpu = (cpu_device *)dev;
    fill_info(info, &cpu->features, matmul_name(cpu, &cpu->features));
}

static smhf_status cpu_reserve(smhf_device *dev, const smhf_limits *limits, smhf_error *err) {
    cpu_device *cpu = (cpu_device *)dev;
    if (!cpu->own_kernels) {
        cpu_matmul_of(cpu);
    }
    int32_t size = limits->heads > 0 ? limits->hidden / limits->heads : limits->hidden;
    size_t attention = cpu_attention_scratch(cpu, limits->length, size);
    size_t linear =
        cpu->own_kernels ? cpu_f32_scratch(cpu->kernels) : cpu_linear_scratch(&cpu->tiles);
    size_t lowp = cpu_lowp_scratch(&cpu->features, limits);
    size_t first =
        cpu_attention_first_scratch(cpu->kernels, limits->hidden, limits->heads, limits->length);
    lowp = lowp > first ? lowp : first;
    size_t partials = limits->training ? cpu_layernorm_partials(limits->tokens, limits->hidden) : 0;
    partials = partials > 0 && partials < NORM_PARTIALS ? NORM_PARTIALS : partials;
    if (limits->training && cpu->own_kernels) {
        int32_t wide = limits->ffn > 3 * limits->hidden ? limits->ffn : 3 * limits->hidden;
        size_t gradient =
            cpu_f32_gradient_partials(cpu->kernels, limits->tokens, wide, limits->hidden);
        size_t turned =
            cpu_f32_gradient_partials(cpu->kernels, limits->tokens, limits->hidden, wide);
        gradient = gradient > turned ? gradient : turned;
        partials = partials > gradient ? partials : gradient;
    }
    size_t rounded = cpu_lowp_partials(&cpu->features, limits);
    partials = partials > rounded ? partials : rounded;
    first = cpu_attention_first_partials(cpu->kernels, limits->hidden, limits->heads, limits->rows,
                                         limits->tokens, limits->training);
    partials = partials > first ? partials : first;
    smhf_error before = dev->failure;
    dev->failure = (smhf_error)SMHF_ERROR_INIT;
    size_t slots = attention > linear ? attention : linear;
    int fine = cpu_slots_reserve(cpu, slots > lowp ? slots : lowp) &&
               (partials == 0 || cpu_partials_reserve(cpu, partials) != NULL);
    smhf_error failure = dev->failure;
    dev->failure = before;
    return fine ? SMHF_OK : smhf_fail(err, failure.code, "%s", failure.message);
}

static smhf_status cpu_sync(smhf_device *dev, smhf_error *err) {
    smhf_status code = dev->failure.code;
    if (code != SMHF_OK) {
        if (err != NULL) {
            *err = dev->failure;
        }
        smhf_error_clear(&dev->failure);
    }
    return code;
}

/* ---- memory --------------------------------------------------------------------------------- */

static smhf_status cpu_alloc(smhf_device *dev, void **out, size_t bytes, smhf_error *err) {
    (void)dev;
    *out = cpu_large_alloc(bytes, CPU_ALIGN);
    return *out != NULL ? SMHF_OK : smhf_fail_nomem(err, "cpu memory", bytes);
}

static void cpu_free(smhf_device *dev, void *block) {
    (void)dev;
    smhf_free(block);
}

typedef struct copy_task {
    char *dst;
    const char *src;
    int byte;
} copy_task;

#define COPY_CHUNK ((size_t)1 << 20)

static void copy_body(void *context, size_t begin, size_t end) {
    const copy_task *task = context;
    memcpy(task->dst + begin, task->src + begin, end - begin);
}

static void fill_body(void *context, size_t begin, size_t end) {
    const copy_task *task = context;
    memset(task->dst + begin, task->byte, end - begin);
}

static void cpu_copy(smhf_device *dev, void *dst, const void *src, size_t bytes) {
    if (cpu_begin(dev) == NULL || bytes == 0 || dst == src) {
        return;
    }
    copy_task task = {dst, src, 0};
    smhf_parallel_for(bytes, COPY_CHUNK, copy_body, &task);
}

static void cpu_fill(smhf_device *dev, void *dst, int byte, size_t bytes) {
    if (cpu_begin(dev) == NULL || bytes == 0) {
        return;
    }
    copy_task task = {dst, NULL, byte};
    smhf_parallel_for(bytes, COPY_CHUNK, fill_body, &task);
}

/* ---- scratch -------------------------------------------------------------------------------- */

int cpu_slots_reserve(cpu_device *cpu, size_t bytes) {
    int threads = smhf_pool_threads();
    bytes = (bytes + CPU_ALIGN - 1) / CPU_ALIGN * CPU_ALIGN;
    if (threads <= cpu->slot_count && bytes <= cpu->slot_bytes) {
        return 1;
    }
    threads = threads > cpu->slot_count ? threads : cpu->slot_count;
    bytes = bytes > cpu->slot_bytes ? bytes : cpu->slot_bytes;
    size_t total = 0;
    char *slots = smhf_mul_size((size_t)threads, bytes, &total) == 0
                      ? cpu_large_alloc(total, CPU_ALIGN)
                      : NULL;
    atomic_int *taken = smhf_calloc((size_t)threads, sizeof *taken);
    if (slots == NULL || taken == NULL) {
        smhf_free(slots);
        smhf_free(taken);
        smhf_device_fail(&cpu->base, SMHF_E_NOMEM,
                         "cpu scratch: could not allocate %zu bytes for each of %d threads", bytes,
                         threads);
        return 0;
    }
    smhf_free(cpu->slots);
    smhf_free(cpu->slot_taken);
    cpu->slots = slots;
    cpu->slot_taken = taken;
    cpu->slot_bytes = bytes;
    cpu->slot_count = threads;
    return 1;
}

void *cpu_slot_take(cpu_device *cpu, int *index) {
    for (;;) {
        for (int i = 0; i < cpu->slot_count; i++) {
            int expected = 0;
            if (atomic_compare_exchange_strong(&cpu->slot_taken[i], &expected, 1)) {
                *index = i;
                return cpu->slots + (size_t)i * cpu->slot_bytes;
            }
        }
        sched_yield();
    }
}

void cpu_slot_give(cpu_device *cpu, int index) {
    atomic_store(&cpu->slot_taken[index], 0);
}

void *cpu_partials_reserve(cpu_device *cpu, size_t bytes) {
    if (bytes > cpu->partials_bytes || cpu->partials == NULL) {
        char *block = cpu_large_alloc(bytes, CPU_ALIGN);
        if (block == NULL) {
            smhf_device_fail(&cpu->base, SMHF_E_NOMEM,
                             "cpu partial sums: could not allocate %zu bytes", bytes);
            return NULL;
        }
        smhf_free(cpu->partials);
        cpu->partials = block;
        cpu->partials_bytes = bytes;
    }
    return cpu->partials;
}

const cpu_matmul *cpu_matmul_of(cpu_device *cpu) {
    if (!cpu->matmul.ready) {
        cpu_matmul_open(&cpu->matmul, cpu->kernels);
        cpu->tiles = cpu->matmul;
        if (!cpu->matmul.side_by_side) {
            cpu_matmul_plain(&cpu->tiles, cpu->kernels);
        }
    }
    return &cpu->matmul;
}

/* ---- tensors -------------------------------------------------------------------------------- */

int cpu_all_f32(smhf_device *dev, const char *op, const smhf_tensor *tensors, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (tensors[i].data == NULL) {
            continue;
        }
        if (tensors[i].dtype != SMHF_DTYPE_F32 || tensors[i].layout != SMHF_LAYOUT_ROWS) {
            smhf_device_fail(dev, SMHF_E_UNSUPPORTED,
                             "%s on the processor: argument %zu is %s, this build computes in fp32",
                             op, i + 1, cpu_dtype_name(tensors[i].dtype));
            return 0;
        }
    }
    return 1;
}

static void cpu_refine(smhf_device *dev, int on) {
    ((cpu_device *)dev)->refined = on;
}

static const smhf_backend cpu_table = {
    .abi = SMHF_BACKEND_ABI,
    .size = sizeof(smhf_backend),
    .name = "cpu",
    .probe = cpu_probe,
    .open = cpu_open,
    .close = cpu_close,
    .describe = cpu_describe,
    .reserve = cpu_reserve,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .upload = cpu_copy,
    .download = cpu_copy,
    .copy = cpu_copy,
    .fill = cpu_fill,
    .sync = cpu_sync,
    .weight_prepare = cpu_weight_prepare,
    .weight_refresh = cpu_weight_refresh,
    .weight_free = cpu_weight_free,
    .embedding_fwd = cpu_embedding_fwd,
    .linear_fwd = cpu_linear_fwd,
    .linear_act_fwd = cpu_linear_act_fwd,
    .attention_fwd = cpu_attention_fwd,
    .residual_layernorm_fwd = cpu_residual_layernorm_fwd,
    .gather_rows = cpu_gather_rows,
    .mean_rows = cpu_mean_rows,
    .dropout = cpu_dropout,
    .loss = cpu_loss,
    .span_loss = cpu_span_loss,
    .linear_bwd_input = cpu_linear_bwd_input,
    .linear_act_bwd_input = cpu_linear_act_bwd_input,
    .linear_bwd_weight = cpu_linear_bwd_weight,
    .act_bwd = cpu_act_bwd,
    .attention_bwd = cpu_attention_bwd,
    .residual_layernorm_bwd = cpu_residual_layernorm_bwd,
    .scatter_add_rows = cpu_scatter_add_rows,
    .mean_rows_bwd = cpu_mean_rows_bwd,
    .embedding_bwd = cpu_embedding_bwd,
    .grad_norm = cpu_grad_norm,
    .adamw = cpu_adamw_op,
    .axpy = cpu_axpy,
    .convert = cpu_convert,
    .layer_tail_fwd = cpu_layer_tail_fwd,
    .attention_first_fwd = cpu_attention_first_fwd,
    .attention_first_bwd = cpu_attention_first_bwd,
    .refine = cpu_refine,
    .layers_fwd = cpu_layers_fwd,
};

const smhf_backend *smhf_cpu_backend(void) {
    return &cpu_table;
}
