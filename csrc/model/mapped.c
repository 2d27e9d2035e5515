/* mapped.c: places of vectors and tables, and matrices one at a time. */
#include "model/mapped.h"

#include "common/file.h"
#include "common/mem.h"
#include "common/pool.h"

#include <stdatomic.h>
#include <string.h>

#define ALIGN_FLOATS 16

static int is_matrix(const smhf_parameter *p) {
    return p->ndim == 2 && p->slot != SMHF_SLOT_WORD && p->slot != SMHF_SLOT_POSITION &&
           p->slot != SMHF_SLOT_TYPE;
}

/* The file's memory can be read as it is. */
static int in_place(const smhf_safetensor *source) {
    return source != NULL && source->dtype == SMHF_ST_F32 &&
           ((uintptr_t)source->data.data & (sizeof(float) - 1)) == 0;
}

static size_t slot_of(const smhf_mapped *mapped, int index) {
    const smhf_parameter *p = &mapped->table->items[index];
    return smhf_parameters_slot_index(mapped->table, p->layer, p->slot);
}

/* Whether parameter `index` begins its slot (q, k and v share one). */
static int is_first(const smhf_mapped *mapped, int index) {
    return index == 0 || slot_of(mapped, index - 1) != slot_of(mapped, index);
}

static int is_copied(const smhf_mapped *mapped, int index) {
    const smhf_parameter *p = &mapped->table->items[index];
    return !is_matrix(p) && (p->ndim == 1 || !in_place(mapped->sources[index]));
}

static size_t block_floats(const smhf_mapped *mapped) {
    size_t floats = 0;
    for (int i = 0; i < mapped->table->count; i++) {
        if (is_copied(mapped, i)) {
            if (is_first(mapped, i)) {
                floats = (floats + ALIGN_FLOATS - 1) / ALIGN_FLOATS * ALIGN_FLOATS;
            }
            floats += mapped->table->items[i].count;
        }
    }
    return floats;
}

static smhf_status place_all(smhf_mapped *mapped, smhf_error *err) {
    const size_t floats = block_floats(mapped);
    size_t at = 0;
    mapped->places = smhf_calloc(mapped->table->slot_count, sizeof *mapped->places);
    mapped->block = smhf_malloc_aligned((floats + 1) * sizeof(float), SMHF_CACHE_LINE);
    if (mapped->places == NULL || mapped->block == NULL) {
        return smhf_fail_nomem(err, "weights", floats * sizeof(float));
    }
    for (int i = 0; i < mapped->table->count; i++) {
        const smhf_parameter *p = &mapped->table->items[i];
        if (is_matrix(p)) {
            continue;
        }
        if (!is_copied(mapped, i)) { /* never written through: see the header */
            mapped->places[slot_of(mapped, i)] = (float *)(uintptr_t)mapped->sources[i]->data.data;
            continue;
        }
        if (is_first(mapped, i)) {
            at = (at + ALIGN_FLOATS - 1) / ALIGN_FLOATS * ALIGN_FLOATS;
            mapped->places[slot_of(mapped, i)] = mapped->block + at;
        }
        SMHF_TRY(smhf_mapped_read(mapped, i, mapped->block + at, err));
        at += p->count;
    }
    return SMHF_OK;
}

smhf_status smhf_mapped_init(smhf_mapped *mapped, const smhf_parameters *table,
                             const smhf_config *config, smhf_safetensors *file,
                             const smhf_safetensor **sources, uint64_t seed, smhf_error *err) {
    *mapped = (smhf_mapped){table, config, file, sources, seed, NULL, NULL};
    return place_all(mapped, err);
}

void smhf_mapped_deinit(smhf_mapped *mapped) {
    smhf_free(mapped->places);
    smhf_free(mapped->block);
    smhf_free(mapped->sources);
    smhf_safetensors_close(mapped->file);
    *mapped = (smhf_mapped){0};
}

smhf_status smhf_mapped_read(const smhf_mapped *mapped, int index, float *out, smhf_error *err) {
    if (mapped->sources[index] != NULL) {
        return smhf_safetensor_to_f32(mapped->sources[index], out, err);
    }
    smhf_parameter_fill(mapped->table, index, mapped->config, mapped->seed, out);
    return SMHF_OK;
}

/* Index of the first parameter of a slot. */
static int first_of_slot(const smhf_mapped *mapped, int layer, smhf_slot slot) {
    for (int i = 0; i < mapped->table->count; i++) {
        const smhf_parameter *p = &mapped->table->items[i];
        if (p->slot == slot && (p->layer == layer || p->layer < 0)) {
            return i;
        }
    }
    return mapped->table->count;
}

size_t smhf_mapped_scratch(const smhf_mapped *mapped) {
    size_t most = 0, slot = 0;
    for (int i = 0; i < mapped->table->count; i++) {
        if (is_matrix(&mapped->table->items[i])) {
            slot = is_first(mapped, i) ? 0 : slot;
            slot += mapped->table->items[i].count;
            most = slot > most ? slot : most;
        }
    }
    return most;
}

smhf_status smhf_mapped_matrix(const smhf_mapped *mapped, int layer, smhf_slot slot, float *scratch,
                               smhf_tensor *out, smhf_error *err) {
    const smhf_parameters *table = mapped->table;
    const int first = first_of_slot(mapped, layer, slot);
    SMHF_ASSERT(first < table->count);
    const int32_t cols = table->items[first].cols;
    int end = first + 1;
    int32_t rows = table->items[first].rows;
    while (end < table->count && !is_first(mapped, end)) {
        rows += table->items[end++].rows;
    }
    if (end == first + 1 && in_place(mapped->sources[first])) {
        void *data = (void *)(uintptr_t)mapped->sources[first]->data.data;
        *out = smhf_tensor_of(data, rows, cols, SMHF_DTYPE_F32);
        return SMHF_OK;
    }
    size_t at = 0;
    for (int i = first; i < end; i++) {
        SMHF_TRY(smhf_mapped_read(mapped, i, scratch + at, err));
        at += table->items[i].count;
    }
    *out = smhf_tensor_of(scratch, rows, cols, SMHF_DTYPE_F32);
    return SMHF_OK;
}

/* ---- rows of the word table --------------------------------------------------------------------
 */

#define WORDS_CHUNK 32

int smhf_mapped_has_words(const smhf_mapped *mapped) {
    return mapped->file != NULL &&
           in_place(mapped->sources[first_of_slot(mapped, -1, SMHF_SLOT_WORD)]);
}

typedef struct words_task {
    const smhf_mapped *mapped;
    const smhf_safetensor *table;
    const int32_t *ids;
    float *out;
    size_t hidden;
    atomic_int failed; /* some place that could not be read; -1: none */
} words_task;

static smhf_status read_word(const words_task *task, size_t at, smhf_error *err) {
    const size_t bytes = task->hidden * sizeof(float);
    return smhf_safetensors_read(task->mapped->file, task->table, (size_t)task->ids[at] * bytes,
                                 task->out + at * task->hidden, bytes, err);
}

static void words_body(void *context, size_t begin, size_t end) {
    words_task *task = context;
    for (size_t at = begin; at < end; at++) {
        smhf_error err = SMHF_ERROR_INIT;
        if (read_word(task, at, &err) != SMHF_OK) {
            atomic_store(&task->failed, (int)at);
        }
    }
}

smhf_status smhf_mapped_words(const smhf_mapped *mapped, const int32_t *ids, int32_t count,
                              float *out, smhf_error *err) {
    const int index = first_of_slot(mapped, -1, SMHF_SLOT_WORD);
    words_task task = {.mapped = mapped, .table = mapped->sources[index], .ids = ids, .out = out};
    task.hidden = (size_t)mapped->table->items[index].cols;
    atomic_init(&task.failed, -1);
    smhf_parallel_for((size_t)count, WORDS_CHUNK, words_body, &task);
    const int failed = atomic_load(&task.failed);
    return failed < 0 ? SMHF_OK : read_word(&task, (size_t)failed, err); /* once more, to say why */
}

void smhf_mapped_done(const smhf_mapped *mapped, int layer, smhf_slot slot) {
    for (int i = first_of_slot(mapped, layer, slot);
         i < mapped->table->count && mapped->table->items[i].slot == slot &&
         (mapped->table->items[i].layer == layer || mapped->table->items[i].layer < 0);
         i++) {
        if (mapped->sources[i] != NULL) {
            smhf_file_map_forget(mapped->sources[i]->data);
        }
    }
}
