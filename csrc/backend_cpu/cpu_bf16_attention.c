/* cpu_bf16_attention.c: attention for inference with products in bf16, one (sequence, head) at a
 * time, on the tiles of cpu_lowp.h.
 *
 * Queries, keys, values and the probabilities exp(S - max S) are rounded to bf16; sums, softmax and
 * the division by its sum run in fp32. Keys are one set of panels (outputs: keys), values another
 * (outputs: features). Training stays in fp32: its backward pass makes the scores again. */
#include "backend_cpu/cpu_lowp.h"

#define TILE_MOST 32 /* rows of any kernel's tile */

/* Where the parts of a slot's scratch begin, in bytes. */
typedef struct scratch_map {
    size_t keys, values; /* panels */
    size_t rounded;      /* a tile of queries, then of probabilities */
    size_t scores;       /* [TILE_MOST, score_ld] */
    size_t out;          /* [TILE_MOST, out_ld] */
    size_t end;
    int64_t score_ld, out_ld, rounded_ld;
} scratch_map;

static scratch_map map_scratch(int32_t length, int32_t size) {
    scratch_map m = {0};
    int32_t longest = length > size ? length : size;
    m.score_ld = cpu_lowp_round_up(length, CPU_LOWP_COLS) + 16;
    m.out_ld = cpu_lowp_round_up(size, CPU_LOWP_COLS) + 16;
    m.rounded_ld = cpu_lowp_round_up(longest, 2 * CPU_LOWP_LINES) + 32;
    m.values = m.keys + cpu_bf16_panels_bytes(length, size);
    m.rounded = m.values + cpu_bf16_panels_bytes(size, length);
    m.scores = m.rounded + sizeof(uint16_t) * TILE_MOST * (size_t)m.rounded_ld;
    m.out = m.scores + sizeof(float) * TILE_MOST * (size_t)m.score_ld;
    m.end = m.out + sizeof(float) * TILE_MOST * (size_t)m.out_ld;
    return m;
}

const cpu_bf16_kernels *cpu_bf16_attention_kernels(const cpu_features *features) {
    const cpu_bf16_kernels *kernels = cpu_bf16_kernels_of(features);
    return kernels->native ? kernels : NULL;
}

size_t cpu_bf16_attention_scratch(int32_t length, int32_t size) {
    return map_scratch(length > 0 ? length : 1, size > 0 ? size : 1).end;
}

/* out [rows, 32 * panels of n] = a [rows, k] x panels */
static void multiply(const cpu_bf16_kernels *kernels, float *out, int64_t ld, const uint16_t *a,
                     int64_t lda, const char *panels, int32_t n, int32_t k, int rows) {
    int32_t lines = cpu_lowp_round_up(k, 2 * CPU_LOWP_LINES) / 2;
    for (int32_t j = 0; j < n; j += CPU_LOWP_COLS) {
        const char *panel = panels + (size_t)j * (size_t)lines * 4;
        kernels->tile(out + j, ld, a, lda, (const uint16_t *)(const void *)panel, lines, rows);
    }
}

/* Rows of a head lie a whole row of q, k and v apart, which no prefetcher of the processor follows.
 */
static void fetch_rows(smhf_tensor x, int32_t first, int32_t rows, int32_t column, int32_t size) {
    for (int32_t r = first; r < first + rows; r++) {
        const float *at = cpu_row(x, r) + column;
        for (int32_t c = 0; c < size; c += 16) {
            __builtin_prefetch(at + c);
        }
    }
}

static void head_fwd(const attention_task *task, const head_range *r, char *scratch,
                     const scratch_map *m, const cpu_bf16_kernels *kernels) {
    const int32_t S = r->keys, D = task->size;
    char *keys = scratch + m->keys, *values = scratch + m->values;
    uint16_t *rounded = (uint16_t *)(void *)(scratch + m->rounded);
    float *scores = (float *)(void *)(scratch + m->scores);
    float *sums = (float *)(void *)(scratch + m->out);
    fetch_rows(task->k, r->first_key, S, r->column, D);
    fetch_rows(task->v, r->first_key, S, r->column, D);
    fetch_rows(task->q, r->first_query, r->queries, r->column, D);
    cpu_bf16_pack(keys, cpu_row(task->k, r->first_key) + r->column, task->k.ld, S, D, 0, kernels);
    cpu_bf16_pack(values, cpu_row(task->v, r->first_key) + r->column, task->v.ld, D, S, 1, kernels);
    for (int32_t first = 0; first < r->queries; first += kernels->rows) {
        int32_t left = r->queries - first;
        int count = left < kernels->rows ? left : kernels->rows;
        int64_t row = r->first_query + first;
        float inverse[TILE_MOST];
        for (int i = 0; i < count; i++) {
            kernels->round(rounded + i * m->rounded_ld, cpu_row(task->q, row + i) + r->column, D,
                           cpu_lowp_round_up(D, 2 * CPU_LOWP_LINES));
        }
        multiply(kernels, scores, m->score_ld, rounded, m->rounded_ld, keys, S, D, count);
        for (int i = 0; i < count; i++) {
            cpu_draw storage;
            float greatest;
            const cpu_draw *draw = cpu_attention_draw(&storage, task, r, first + i);
            float *p = scores + i * m->score_ld;
            inverse[i] = 1.0f / task->cpu->kernels->softmax_fwd(p, &greatest, task->scale, draw, S);
            kernels->round(rounded + i * m->rounded_ld, p, S,
                           cpu_lowp_round_up(S, 2 * CPU_LOWP_LINES));
        }
        multiply(kernels, sums, m->out_ld, rounded, m->rounded_ld, values, D, S, count);
        for (int i = 0; i < count; i++) {
            float *out = cpu_row(task->out, row + i) + r->column;
            const float *from = sums + i * m->out_ld;
            for (int32_t c = 0; c < D; c++) {
                out[c] = from[c] * inverse[i];
            }
        }
    }
}

void cpu_bf16_attention_body(void *context, size_t begin, size_t end) {
    const attention_task *task = context;
    const cpu_bf16_kernels *kernels = cpu_bf16_attention_kernels(&task->cpu->features);
    const scratch_map map = map_scratch(task->pack->max_length, task->size);
    int slot = 0;
    char *scratch = cpu_slot_take(task->cpu, &slot);
    if (kernels->begin != NULL) {
        kernels->begin();
    }
    for (size_t i = begin; i < end; i++) {
        head_range r = cpu_attention_range(task, i);
        head_fwd(task, &r, scratch, &map, kernels);
    }
    if (kernels->end != NULL) {
        kernels->end();
    }
    cpu_slot_give(task->cpu, slot);
}

/* ---- operands in bf16 already --------------------------------------------------------------- */

static void pack_keys_plain(uint16_t *panels, const uint16_t *rows, int64_t ld, int32_t count,
                            int32_t size) {
    for (int32_t key = 0; key < cpu_lowp_round_up(count, CPU_LOWP_COLS); key++) {
        uint16_t *to = panels + (int64_t)(key / CPU_LOWP_COLS) * CPU_LOWP_COLS * size +
                       2 * (int64_t)(key % CPU_LOWP_COLS);
        for (int32_t c = 0; c < size; c++) {
            to[c / 2 * 2 * CPU_LOWP_COLS + c % 2] = key < count ? rows[key * ld + c] : 0;
        }
    }
}

static void pack_values_plain(uint16_t *panels, const uint16_t *rows, int64_t ld, int32_t count,
                              int32_t size) {
    const int32_t padded = cpu_lowp_round_up(count, 2 * CPU_LOWP_LINES);
    for (int32_t key = 0; key < padded; key++) {
        for (int32_t c = 0; c < size; c++) {
            uint16_t *line = panels + (int64_t)(c / CPU_LOWP_COLS) * padded * CPU_LOWP_COLS +
                             key / 2 * 2 * CPU_LOWP_COLS;
            line[c % CPU_LOWP_COLS * 2 + key % 2] = key < count ? rows[key * ld + c] : 0;
        }
    }
}

static void scale_plain(float *out, const float *x, float factor, int32_t size) {
    for (int32_t c = 0; c < size; c++) {
        out[c] = x[c] * factor;
    }
}

void cpu_bf16_attend(const cpu_bf16_head *head, char *scratch) {
    const cpu_bf16_kernels *bf16 = head->bf16;
    const int32_t S = head->length, D = head->size;
    const scratch_map m = map_scratch(S, D);
    char *keys = scratch + m.keys, *values = scratch + m.values;
    uint16_t *rounded = (uint16_t *)(void *)(scratch + m.rounded);
    float *scores = (float *)(void *)(scratch + m.scores);
    float *sums = (float *)(void *)(scratch + m.out);
    void (*scale)(float *, const float *, float, int32_t) =
        bf16->scale != NULL ? bf16->scale : scale_plain;
    (bf16->pack_keys != NULL ? bf16->pack_keys : pack_keys_plain)((uint16_t *)(void *)keys, head->k,
                                                                  head->ld, S, D);
    (bf16->pack_values != NULL ? bf16->pack_values : pack_values_plain)((uint16_t *)(void *)values,
                                                                        head->v, head->ld, S, D);
    const int32_t parts = (S + bf16->rows - 1) / bf16->rows;
    const int32_t part = bf16->whole ? bf16->rows : (S + parts - 1) / parts;
    for (int32_t first = 0; first < S; first += part) {
        const int count = S - first < part ? S - first : part;
        float inverse[TILE_MOST];
        multiply(bf16, scores, m.score_ld, head->q + first * head->ld, head->ld, keys, S, D, count);
        for (int i = 0; i < count; i++) {
            float greatest, *p = scores + i * m.score_ld;
            inverse[i] = 1.0f / head->kernels->softmax_fwd(p, &greatest, head->scale, NULL, S);
            bf16->round(rounded + i * m.rounded_ld, p, S, cpu_lowp_round_up(S, 2 * CPU_LOWP_LINES));
        }
        multiply(bf16, sums, m.out_ld, rounded, m.rounded_ld, values, D, S, count);
        for (int i = 0; i < count; i++) {
            scale(head->out + (first + i) * head->out_ld, sums + i * m.out_ld, inverse[i], D);
        }
    }
}
