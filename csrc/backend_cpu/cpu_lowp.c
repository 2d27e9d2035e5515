/* cpu_lowp.c: how a bf16 or int8 product is cut up; the arithmetic is in the kernels. */
#include "backend_cpu/cpu_lowp.h"
#include "common/pool.h"

#define BLOCK_ROWS 512 /* rows that are rounded at a time: they stay in the outer caches */
#define TILE_ROWS 96   /* rows that are summed before the epilogue; a multiple of every kernel's */
#define GROUP_PANELS 4 /* panels of one chunk, at most */
#define GROUP_BYTES ((size_t)400 << 10)
#define CHUNKS_WANTED 12
#define LINE_BYTES 4 /* of one row of a in one line */

typedef struct lowp_task {
    const cpu_lowp_product *product;
    const cpu_epilogue *epilogue;
    int32_t lines;       /* of a panel */
    int32_t first, rows; /* this block of rows */
    int32_t panels, group;
    int32_t tile_rows; /* of the kernel */
    int whole;
    size_t row_bytes; /* of the rounded rows */
    char *rounded;
    cpu_i8_row *info;      /* int8 */
    const float *scales;   /* int8: behind the panels */
    const int32_t *totals; /* int8 */
    char *outliers;        /* int8 */
    const char *weights;   /* panels */
} lowp_task;

static size_t padded_row_bytes(int32_t lines, int wide) {
    /* one more cache line: rows at a multiple of 4 KiB would all want the same place in cache */
    return (size_t)lines * LINE_BYTES * (wide ? 2 : 1) + 64;
}

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

static void run_tile(const lowp_task *task, float *out, int64_t ld, int32_t row, int rows,
                     int32_t panel) {
    const cpu_lowp_product *p = task->product;
    const char *a = task->rounded + (size_t)row * task->row_bytes;
    const char *b = task->weights + (size_t)panel * (size_t)task->lines * CPU_LOWP_LINE;
    if (p->i8 != NULL) {
        int32_t sums[32 * CPU_LOWP_COLS];
        p->i8->tile(sums, (const uint8_t *)a, (int64_t)task->row_bytes, (const int8_t *)b,
                    task->lines, rows);
        p->i8->dequantize(out, ld, sums, rows, task->info + row,
                          task->scales + panel * CPU_LOWP_COLS,
                          task->totals + panel * CPU_LOWP_COLS);
        return;
    }
    p->bf16->tile(out, ld, a, (int64_t)(task->row_bytes / (p->bf16->wide ? 4 : 2)),
                  (const uint16_t *)b, task->lines, rows);
}

/* out [rows, 32] += the outliers of a panel times their activations; row 0 of a is `first`. */
static void add_outliers(const lowp_task *task, float *out, int64_t ld, int32_t first, int32_t rows,
                         int32_t panel) {
    const cpu_lowp_product *p = task->product;
    const cpu_i8_outliers *list = cpu_i8_outliers_of(task->outliers, panel, p->k);
    for (int32_t r = 0; r < rows && list->count > 0; r++) {
        const float *x = p->a + (int64_t)(first + r) * p->lda;
        float *to = out + r * ld;
        for (int32_t i = 0; i < list->count; i++) {
            const cpu_i8_outlier *o = &list->entries[i];
            to[o->output] += x[o->input] * o->weight;
        }
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
            int32_t parts = (rows + task->tile_rows - 1) / task->tile_rows;
            int32_t part = task->whole ? task->tile_rows : (rows + parts - 1) / parts;
            for (int32_t panel = first; panel < last; panel++) {
                float *out = tile + (panel - first) * CPU_LOWP_COLS;
                for (int32_t r = 0; r < rows; r += part) {
                    int count = rows - r < part ? rows - r : part;
                    run_tile(task, out + r * ld, ld, row + r, count, panel);
                }
                if (p->i8 != NULL) {
                    add_outliers(task, out, ld, task->first + row, rows, panel);
                }
            }
            p->cpu->kernels->finish(task->epilogue, tile, ld, task->first + row, rows, col, cols);
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
    task.row_bytes = padded_row_bytes(task.lines, wide);
    task.tile_rows = p->i8 != NULL ? p->i8->rows : p->bf16->rows;
    task.whole = p->i8 != NULL ? p->i8->whole : p->bf16->whole;
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
        const char *behind = task.weights + (size_t)task.panels * panel_bytes;
        task.scales = (const float *)behind;
        task.totals = (const int32_t *)(task.scales + task.panels * CPU_LOWP_COLS);
        task.outliers = (char *)(task.totals + task.panels * CPU_LOWP_COLS);
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
    (void)features;
    (void)limits;
    return slot_bytes();
}

size_t cpu_lowp_partials(const cpu_features *features, const smhf_limits *limits) {
    int wide = cpu_bf16_kernels_of(features)->wide;
    int32_t widest = limits->ffn > limits->hidden ? limits->ffn : limits->hidden;
    widest = widest > 3 * limits->hidden ? widest : 3 * limits->hidden; /* dy of q | k | v */
    size_t linear = block_bytes(limits->tokens, padded_row_bytes(lines_of(widest, 2), wide));
    if (!limits->training) {
        return linear;
    }
    int32_t most =
        limits->tokens < CPU_LOWP_GRADIENT_ROWS ? limits->tokens : CPU_LOWP_GRADIENT_ROWS;
    size_t gradient = block_bytes(BLOCK_ROWS, padded_row_bytes(lines_of(most, 2), wide)) +
                      cpu_bf16_panels_bytes(widest, most);
    return linear > gradient ? linear : gradient;
}
