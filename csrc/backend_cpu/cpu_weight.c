/* cpu_weight.c: weights and their panels, packed when a product first asks for them. */
#include "backend_cpu/cpu_lowp.h"
#include "common/mem.h"

#include <string.h>
#include <sys/mman.h>

#define HUGE_PAGE ((size_t)2 << 20)

const char *cpu_dtype_name(smhf_dtype dtype) {
    static const char *const names[] = {"fp32", "bf16", "int8", "int32"};
    return (unsigned)dtype < 4 ? names[dtype] : "unknown";
}

static int can_compute(const cpu_device *cpu, smhf_dtype compute) {
    uint32_t caps = cpu_lowp_caps(&cpu->features);
    switch (compute) {
    case SMHF_DTYPE_F32:
        return 1;
    case SMHF_DTYPE_BF16:
        return (caps & SMHF_CAP_BF16) != 0;
    case SMHF_DTYPE_I8:
        return (caps & SMHF_CAP_I8) != 0;
    default:
        return 0;
    }
}

/* The source may go away: panels are made now, or a copy where products read the source itself. */
static smhf_status take_copy(cpu_device *cpu, smhf_weight *weight, smhf_error *err) {
    const smhf_tensor source = weight->source;
    const void *panels = NULL;
    if ((weight->uses & SMHF_WEIGHT_FIRST) != 0) {
        panels = cpu_attention_first_panels(cpu, weight);
    } else if (weight->compute == SMHF_DTYPE_BF16) {
        panels = cpu_bf16_panels(cpu, weight, SMHF_WEIGHT_FORWARD);
    } else if (weight->compute == SMHF_DTYPE_I8) {
        panels = cpu_i8_panels(cpu, weight);
    } else if (cpu->own_kernels) {
        panels = cpu_f32_panels(cpu, weight);
    } else {
        const size_t row = (size_t)source.cols * sizeof(float);
        weight->copy = smhf_malloc_aligned(row * (size_t)source.rows + 1, SMHF_CACHE_LINE);
        if (weight->copy == NULL) {
            return smhf_fail_nomem(err, "weight", row * (size_t)source.rows);
        }
        for (int32_t r = 0; r < source.rows; r++) {
            memcpy(weight->copy + (size_t)r * (size_t)source.cols, cpu_row(source, r), row);
        }
        weight->source = smhf_tensor_of(weight->copy, source.rows, source.cols, SMHF_DTYPE_F32);
        return SMHF_OK;
    }
    weight->source.data = NULL;
    return panels != NULL ? SMHF_OK : cpu->base.backend->sync(&cpu->base, err);
}

smhf_status cpu_weight_prepare(smhf_device *dev, smhf_weight **out, smhf_tensor source,
                               const smhf_weight_options *options, smhf_error *err) {
    const cpu_device *cpu = (const cpu_device *)dev;
    *out = NULL;
    if (!can_compute(cpu, options->compute)) {
        return smhf_fail(err, SMHF_E_UNSUPPORTED,
                         "%s weights on this processor (%s): not possible; use "
                         "precision=\"fp32\"",
                         cpu_dtype_name(options->compute), cpu->features.tier);
    }
    if (source.dtype != SMHF_DTYPE_F32 || source.layout != SMHF_LAYOUT_ROWS) {
        return smhf_fail(err, SMHF_E_ARG, "weight of %d x %d: expected fp32 rows, found %s",
                         (int)source.rows, (int)source.cols, cpu_dtype_name(source.dtype));
    }
    smhf_weight *weight = smhf_calloc(1, sizeof *weight);
    if (weight == NULL) {
        return smhf_fail_nomem(err, "weight", sizeof *weight);
    }
    weight->source = source;
    weight->compute = options->compute;
    weight->uses = options->uses;
    pthread_mutex_init(&weight->lock, NULL);
    if ((options->uses & SMHF_WEIGHT_COPY) != 0) {
        smhf_status status = take_copy((cpu_device *)dev, weight, err);
        if (status != SMHF_OK) {
            cpu_weight_free(dev, weight);
            return status;
        }
    }
    *out = weight;
    return SMHF_OK;
}

void cpu_weight_refresh(smhf_device *dev, smhf_weight *weight) {
    (void)dev;
    SMHF_ASSERT(weight->source.data != NULL && weight->copy == NULL);
    atomic_store(&weight->forward.fresh, 0);
    atomic_store(&weight->backward.fresh, 0);
    atomic_store(&weight->products, 0);
}

void cpu_weight_free(smhf_device *dev, smhf_weight *weight) {
    (void)dev;
    if (weight == NULL) {
        return;
    }
    smhf_free(weight->forward.data);
    smhf_free(weight->backward.data);
    smhf_free(weight->copy);
    pthread_mutex_destroy(&weight->lock);
    smhf_free(weight);
}

void *cpu_large_alloc(size_t bytes, size_t alignment) {
    int large = bytes >= 2 * HUGE_PAGE;
    void *block = smhf_malloc_aligned(bytes > 0 ? bytes : 1, large ? HUGE_PAGE : alignment);
#ifdef MADV_HUGEPAGE
    if (block != NULL && large) {
        (void)madvise(block, bytes, MADV_HUGEPAGE);
    }
#endif
    return block;
}

const void *cpu_weight_panels(cpu_device *cpu, const smhf_weight *weight, uint32_t use,
                              size_t bytes, cpu_pack_fn pack) {
    smhf_weight *w = (smhf_weight *)weight; /* panels are a cache: the weight stays what it is */
    cpu_panels *panels = use == SMHF_WEIGHT_FORWARD ? &w->forward : &w->backward;
    if (atomic_load_explicit(&panels->fresh, memory_order_acquire)) {
        return panels->data;
    }
    pthread_mutex_lock(&w->lock);
    if (!atomic_load_explicit(&panels->fresh, memory_order_relaxed)) {
        if (panels->data == NULL || panels->bytes < bytes) {
            smhf_free(panels->data);
            panels->data = cpu_large_alloc(bytes, SMHF_CACHE_LINE);
            panels->bytes = bytes;
        }
        if (panels->data != NULL) {
            pack(panels->data, w, use, &cpu->features);
            atomic_store_explicit(&panels->fresh, 1, memory_order_release);
        }
    }
    void *data = panels->data;
    pthread_mutex_unlock(&w->lock);
    if (data == NULL) {
        smhf_device_fail(&cpu->base, SMHF_E_NOMEM,
                         "weight of %d x %d: could not allocate %zu bytes for its panels",
                         (int)weight->source.rows, (int)weight->source.cols, bytes);
    }
    return data;
}
