/* cpu_lowp.c: how a bf16 or int8 product is cut up; the arithmetic is in the kernels. */
#include "backend_cpu/cpu_lowp.h"
#include "common/pool.h"

#define BLOCK_ROWS 512 /* rows that are rounded at a time: they stay in the outer caches */
#define TILE_ROWS 96   /* rows that are summed before the epilogue; a multiple of every kernel's */
#define GROUP_PANELS 4 /* panels of one chunk, at most */
#define GROUP_BYTES ((size_t)400 << 10)
#define CHUNKS_WANTED 12

typedef struct lowp_task {
    const cpu_lowp_product *product;
    const cpu_epilogue *epilogue;
    int32_t lines;       /* of a panel */
    int32_t first, rows; /* this block of rows */
    int32_t panels, group;
    size_t row_bytes; /* of the rounded rows */
    char *rounded;
    cpu_i8_row *info;     /* int8 */
    cpu_i8_matrix matrix; /* int8 */
    const char *weights;  /* bf16: panels */
} lowp_task;

static int32_t lines_of(int32_t k, int per_line) {
    return cpu_lowp_round_up(k > 0 ? k : 1, per_line * CPU_LOWP_LINES) / per_line;
}

/* ---- step 1: rows into scratch -------------------------------------------------------------- */

static void round_body(void *context, size_t begin, size_t end) {
    const lowp_task *task = context;
    const cpu_lowp_product *p = task->product;
    for (size_t r = begin; r < end; r++) {
        const float *x = p->a + ((int64_t)task->first + (int64_t)r) * p->lda;
        char *to = task->rounded + r * task->row_bytes;
        if (p->i8 != NULL) {
            p->i8->quantize((uint8_t *)to, &task->info[r], x, p->k, task->lines * 4, p->i8->levels);
        } else {
            p->bf16->round(to, x, p->k, task->lines * 2);
        }
    }
}

/* Columns of a become rows, 16 at a time through a small block. */
static void turn_body(void *context, size_t begin, size_t end) {
    const lowp_task *task = context;
    const cpu_lowp_product *p = task->product;
    float block[16][256];
    int32_t count = (int32_t)(end - begin);
    size_t element = p->bf16->wide ? 4 : 2;
    for (int32_t k = 0; k < task->lines * 2; k += 256) {
        int32_t width = task->lines * 2 - k < 256 ? task->lines * 2 - k : 256;
        int32_t real = p->k - k < width ? p->k - k : width;
        real = real > 0 ? real : 0;
        for (int32_t j = 0; j < real; j++) {
            const float *x = p->a + (int64_t)(k + j) * p->lda + task->first + (int64_t)begin;
            for (int32_t r = 0; r < count; r++) {
                block[r][j] = x[r];
            }
        }
        for (int32_t r = 0; r < count; r++) {
            char *to = task->rounded + (begin + (size_t)r) * task->row_bytes;
            p->bf16->round(to + (size_t)k * element, block[r], real, width);
        }
    }
}

/* ---- step 2: tiles -------------------------------------------------------------------------- */

/* int8: whole panels go to their place in one step, if what comes after the sums is simple. */
static int finishes_at_once(const cpu_epilogue *e) {
    return e->pre.data == NULL && !e->slope && !e->accumulate &&
           (e->act == SMHF_ACT_NONE || e->act == SMHF_ACT_GELU);
}

static void i8_rows(const lowp_task *task, float *tile, int64_t ld, int32_t row, int32_t rows,
                    int32_t panel) {
    const cpu_lowp_product *p = task->product;
    const cpu_i8_run run = {p->i8, p->cpu->kernels};
    const cpu_i8_activations a = {(const uint8_t *)task->rounded, (int64_t)task->row_bytes,
                                  task->info, p->a + task->first * p->lda, p->lda};
    const int32_t col = panel * CPU_LOWP_COLS;
    const cpu_epilogue *e = task->epilogue;
    if (col + CPU_LOWP_COLS <= p->n && finishes_at_once(e)) {
        const cpu_i8_finish finish = {.bias = e->bias != NULL ? e->bias + col : NULL,
                                      .act = e->act};
        float *out = (float *)e->y.data + (int64_t)(task->first + row) * e->y.ld + col;
        cpu_i8_panel_run(&run, &task->matrix, panel, &a, row, rows, out, e->y.ld, finish);
        return;
    }
    cpu_i8_panel_run(&run, &task->matrix, panel, &a, row, rows, tile, ld, (cpu_i8_finish){0});
    const int32_t cols = p->n - col < CPU_LOWP_COLS ? p->n - col : CPU_LOWP_COLS;
    run.kernels->finish(e, tile, ld, task->first + row, rows, col, cols);
}

static void bf16_rows(const lowp_task *task, float *tile, int64_t ld, int32_t row, int32_t rows,
                      int32_t panel) {
    const cpu_bf16_kernels *bf16 = task->product->bf16;
    const int64_t lda = (int64_t)(task->row_bytes / (bf16->wide ? 4 : 2));
    const char *b = task->weights + (size_t)panel * (size_t)task->lines * CPU_LOWP_LINE;
    const int32_t parts = (rows + bf16->rows - 1) / bf16->rows;
    const int32_t part = bf16->whole ? bf16->rows : (rows + parts - 1) / parts;
    for (int32_t r = 0; r < rows; r += part) {
        const char *a = task->rounded + (size_t)(row + r) * task->row_bytes;
        bf16->tile(tile + r * ld, ld, a, lda, (const uint16_t *)(const void *)b, task->lines,
                   rows - r < part ? rows - r : part);
    }
}

/* All rows of the block times a group of panels. */
static void tiles_body(void *context, size_t begin, size_t end) {
    const lowp_task *task = context;
    const cpu_lowp_product *p = task->product;
    int slot = 0;
    float *tile = cpu_slot_take(p->cpu, &slot);
    void (*start)(void) = p->i8 != NULL ? p->i8->begin : p->bf16->begin;
    void (*stop)(void) = p->i8 != NULL ? p->i8->end : p->bf16->end;
    if (start != NULL) {
        start();
    }
    for (size_t chunk = begin; chunk < end; chunk++) {
        int32_t first = (int32_t)chunk * task->group;
        int32_t last = first + task->group < task->panels ? first + task->group : task->panels;
        int64_t ld = (int64_t)(last - first) * CPU_LOWP_COLS;
        int32_t col = first * CPU_LOWP_COLS;
        int32_t cols = p->n - col < (int32_t)ld ? p->n - col : (int32_t)ld;
        for (int32_t row = 0; row < task->rows; row += TILE_ROWS) {
            int32_t rows = task->rows - row < TILE_ROWS ? task->rows - row : TILE_ROWS;
            for (int32_t panel = first; panel < last; panel++) {
                float *out = tile + (panel - first) * CPU_LOWP_COLS;
                if (p->i8 != NULL) {
                    i8_rows(task, out, ld, row, rows, panel);
                } else {
                    bf16_rows(task, out, ld, row, rows, panel);
                }
            }
            if (p->bf16 != NULL) {
                p->cpu->kernels->finish(task->epilogue, tile, ld, task->first + row, rows, col,
                                        cols);
            }
        }
    }
    if (stop != NULL) {
        stop();
    }
    cpu_slot_give(p->cpu, slot);
}

/* ---- scratch -------------------------------------------------------------------------------- */

static size_t slot_bytes(void) {
    return sizeof(float) * TILE_ROWS * GROUP_PANELS * CPU_LOWP_COLS;
}

static size_t block_bytes(int32_t rows, size_t row_bytes) {
    rows = rows < BLOCK_ROWS ? cpu_lowp_round_up(rows, 32) : BLOCK_ROWS;
    size_t bytes = (size_t)rows * (row_bytes + sizeof(cpu_i8_row));
    return (bytes + 63) / 64 * 64;
}

void cpu_lowp_run(const cpu_lowp_product *product) {
    const cpu_lowp_product *p = product;
    int wide = p->bf16 != NULL && p->bf16->wide;
    lowp_task task = {.product = p, .epilogue = p->epilogue};
    task.lines = lines_of(p->k, p->i8 != NULL ? 4 : 2);
    task.row_bytes = cpu_lowp_row_bytes(task.lines, wide);
    task.panels = (p->n + CPU_LOWP_COLS - 1) / CPU_LOWP_COLS;
    size_t panel_bytes = (size_t)task.lines * CPU_LOWP_LINE;
    task.group = task.panels / CHUNKS_WANTED;
    while (task.group > 1 && (size_t)task.group * panel_bytes > GROUP_BYTES) {
        task.group--;
    }
    task.group = task.group > GROUP_PANELS ? GROUP_PANELS : task.group > 1 ? task.group : 1;
    size_t rounded_bytes = block_bytes(p->m, task.row_bytes);
    size_t made_bytes = p->panels == NULL ? cpu_bf16_panels_bytes(p->n, p->k) : 0;
    task.rounded = cpu_partials_reserve(p->cpu, rounded_bytes + made_bytes);
    if (task.rounded == NULL || !cpu_slots_reserve(p->cpu, slot_bytes())) {
        return;
    }
    int32_t block = p->m < BLOCK_ROWS ? cpu_lowp_round_up(p->m, 32) : BLOCK_ROWS;
    task.info = (cpu_i8_row *)(task.rounded + (size_t)block * task.row_bytes);
    task.weights = p->panels;
    if (p->panels == NULL) {
        char *made = task.rounded + rounded_bytes;
        cpu_bf16_pack(made, p->b, p->ldb, p->n, p->k, 1, p->bf16);
        task.weights = made;
    }
    if (p->i8 != NULL) {
        task.matrix = cpu_i8_matrix_of(p->panels, p->n, p->k);
    }
    for (task.first = 0; task.first < p->m; task.first += BLOCK_ROWS) {
        task.rows = p->m - task.first < BLOCK_ROWS ? p->m - task.first : BLOCK_ROWS;
        if (p->transposed) {
            smhf_parallel_for((size_t)task.rows, 16, turn_body, &task);
        } else {
            smhf_parallel_for((size_t)task.rows, cpu_rows_chunk(p->k), round_body, &task);
        }
        size_t chunks = (size_t)((task.panels + task.group - 1) / task.group);
        smhf_parallel_for(chunks, 1, tiles_body, &task);
    }
}

/* ---- what the processor can do -------------------------------------------------------------- */

uint32_t cpu_lowp_caps(const cpu_features *features) {
    (void)features;
    return SMHF_CAP_BF16 | SMHF_CAP_I8;
}

const cpu_i8_kernels *cpu_i8_kernels_of(const cpu_features *features) {
#if defined(__x86_64__) && defined(__GNUC__)
    uint32_t f = features->flags;
#ifdef CPU_LOWP_HAS_AMX
    if ((f & CPU_HAS_AMX) != 0) {
        return &cpu_i8_amx;
    }
#endif
    return (f & CPU_HAS_AVX512_VNNI) != 0 ? &cpu_i8_avx512_vnni
           : (f & CPU_HAS_AVX_VNNI) != 0  ? &cpu_i8_avx_vnni
           : (f & CPU_HAS_AVX512) != 0    ? &cpu_i8_avx512
           : (f & CPU_HAS_AVX2) != 0      ? &cpu_i8_avx2
                                          : &cpu_i8_plain;
#else
    (void)features;
    return &cpu_i8_plain;
#endif
}

const cpu_bf16_kernels *cpu_bf16_kernels_of(const cpu_features *features) {
#if defined(__x86_64__) && defined(__GNUC__)
    uint32_t f = features->flags;
#ifdef CPU_LOWP_HAS_AMX
    if ((f & CPU_HAS_AMX) != 0) {
        return &cpu_bf16_amx;
    }
#endif
    return (f & CPU_HAS_AVX512_BF16) != 0 ? &cpu_bf16_avx512_bf16
           : (f & CPU_HAS_AVX512) != 0    ? &cpu_bf16_avx512
           : (f & CPU_HAS_AVX2) != 0      ? &cpu_bf16_avx2
                                          : &cpu_bf16_plain;
#else
    (void)features;
    return &cpu_bf16_plain;
#endif
}

size_t cpu_lowp_scratch(const cpu_features *features, const smhf_limits *limits) {
    size_t tail = limits->training ? 0 : cpu_i8_encoder_scratch(features, limits);
    size_t wide = (size_t)(limits->ffn > limits->hidden ? limits->ffn : limits->hidden);
    size_t fine = limits->training ? 0 : cpu_i8_fine_scratch((int32_t)wide);
    size_t most = tail > slot_bytes() ? tail : slot_bytes();
    return most > fine ? most : fine;
}

size_t cpu_lowp_partials(const cpu_features *features, const smhf_limits *limits) {
    int wide = cpu_bf16_kernels_of(features)->wide;
    int32_t widest = limits->ffn > limits->hidden ? limits->ffn : limits->hidden;
    widest = widest > 3 * limits->hidden ? widest : 3 * limits->hidden; /* dy of q | k | v */
    size_t linear = block_bytes(limits->tokens, cpu_lowp_row_bytes(lines_of(widest, 2), wide));
    if (!limits->training) {
        size_t fine = cpu_i8_fine_partials(limits->tokens, widest);
        size_t layers = cpu_i8_encoder_partials(features, limits);
        fine = fine > layers ? fine : layers;
        return linear > fine ? linear : fine;
    }
    int32_t most =
        limits->tokens < CPU_LOWP_GRADIENT_ROWS ? limits->tokens : CPU_LOWP_GRADIENT_ROWS;
    size_t gradient = block_bytes(BLOCK_ROWS, cpu_lowp_row_bytes(lines_of(most, 2), wide)) +
                      cpu_bf16_panels_bytes(widest, most);
    return linear > gradient ? linear : gradient;
}
