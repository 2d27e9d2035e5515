/* cpu_lowp.h: bf16 and int8 products; private to backend_cpu.
 *
 * Activations are F32 in memory: they are rounded (bf16) or quantised (int8) inside, sums and
 * results are F32.
 *
 *     cpu_i8_linear(&product);      // panels from cpu_weight_panels, the rest to kernels->finish
 *
 * One product runs in two steps over blocks of rows: the rows are rounded into scratch, then tiles
 * of `kernels.rows` x 32 are summed over the whole of k and finished in cache. Nothing depends on
 * the thread count, and a row's result depends on that row and the weight alone.
 *
 * int8: q = rint(x / scale) + zero, 0 <= q <= levels, one scale and zero for each row, from its
 * least and greatest element (0 included); weights -127..127, one scale for each output. Sums are
 * exact in int32 on every tier. A row with NaN or infinity (or a range past the largest float)
 * gives NaN; so does an output whose weights hold one. Few weights that lie far outside their
 * output's others (cpu_i8_outlier) stay in fp32 with the activations they meet.
 * bf16: to nearest, ties to even; NaN stays NaN, infinity stays. The sums run in fp32; the vector
 * and tile instructions flush subnormals, the other tiers do not.
 * Threads: as ops. */
#ifndef SMHF_BACKEND_CPU_CPU_LOWP_H
#define SMHF_BACKEND_CPU_CPU_LOWP_H

#include "backend_cpu/cpu_attention.h"
#include "backend_cpu/cpu_device.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* SMHF_CAP_BF16, SMHF_CAP_I8: what weight_prepare accepts with these features. */
uint32_t cpu_lowp_caps(const cpu_features *features);

/* epilogue = sums of op(x) W^T or dy W, see cpu_product. Only called when the cap is there. */
void cpu_bf16_linear(const cpu_product *product);
void cpu_i8_linear(const cpu_product *product);
/* A weight's panels, packed now if they are not there; NULL on failure, which is kept. */
const void *cpu_bf16_panels(cpu_device *cpu, const smhf_weight *weight, uint32_t use);
const void *cpu_i8_panels(cpu_device *cpu, const smhf_weight *weight);

/* dw [N, K] += dy^T x over `rows` rows, operands rounded to bf16. The bias gradient is not its
 * business. */
void cpu_bf16_weight_gradient(cpu_device *cpu, smhf_tensor dw, smhf_tensor dy, smhf_tensor x,
                              int32_t rows);

/* Attention with bf16 products: a body of the loop over rows * heads, for inference (no lse) and
 * queries of all tokens. The kernels are NULL where fp32 is as fast. */
const struct cpu_bf16_kernels *cpu_bf16_attention_kernels(const cpu_features *features);
size_t cpu_bf16_attention_scratch(int32_t length, int32_t size);
void cpu_bf16_attention_body(void *context, size_t begin, size_t end);

/* One head of one sequence from q, k and v in bf16, `ld` apart; size is a multiple of 32. q may be
 * read (not used) behind the last row, as tiles of `whole` kernels are. The same bits as above. */
typedef struct cpu_bf16_head {
    const struct cpu_bf16_kernels *bf16;
    const cpu_kernels *kernels;
    const uint16_t *q, *k, *v;
    int64_t ld;
    int32_t length, size;
    float scale;
    float *out;
    int64_t out_ld;
} cpu_bf16_head;
/* scratch: cpu_bf16_attention_scratch of at least this length */
void cpu_bf16_attend(const cpu_bf16_head *head, char *scratch);

/* Slot scratch (for each thread) that the products need for a batch up to these limits. */
size_t cpu_lowp_scratch(const cpu_features *features, const smhf_limits *limits);
/* The same for the op's own scratch (cpu_partials_reserve). */
size_t cpu_lowp_partials(const cpu_features *features, const smhf_limits *limits);

/* ---- shared by the kernels ------------------------------------------------------------------ */

/* Weights lie in panels of 32 outputs. A panel is a run of 128-byte lines; line g holds, for each
 * of its outputs in turn, the 4 bytes of int8 (or the pair of bf16) of inputs 4g .. 4g + 3
 * (2g, 2g + 1). k is padded with zeros to CPU_LOWP_LINES lines. */
#define CPU_LOWP_COLS CPU_I8_COLS
#define CPU_LOWP_LINE 128
#define CPU_LOWP_LINES 16

/* A weight far outside its output's others: 0 in the panel, its product is added in fp32. */
typedef struct cpu_i8_outlier {
    int32_t input, output; /* output: within the panel */
    float weight;
} cpu_i8_outlier;

/* Of one panel, in order of outputs; they lie behind the totals. */
typedef struct cpu_i8_outliers {
    int32_t count;
    cpu_i8_outlier entries[];
} cpu_i8_outliers;

static inline int32_t cpu_i8_outliers_room(int32_t k) {
    return k / 16;
}

static inline size_t cpu_i8_outliers_bytes(int32_t k) {
    return sizeof(cpu_i8_outliers) + (size_t)cpu_i8_outliers_room(k) * sizeof(cpu_i8_outlier);
}

static inline const cpu_i8_outliers *cpu_i8_outliers_of(const char *first, int32_t panel,
                                                        int32_t k) {
    return (const cpu_i8_outliers *)(const void *)(first +
                                                   (size_t)panel * cpu_i8_outliers_bytes(k));
}

/* A weight prepared for SMHF_WEIGHT_REST also keeps what rounding took from it: 4 bits each, in
 * 15ths of its step. A line of a panel is 64 bytes there: its first 64 values in their low halves,
 * the other 64 in their high ones. */
#define CPU_I8_REST_STEPS 15.0f

typedef struct cpu_i8_kernels {
    const char *name;
    int rows;   /* of a tile, at most */
    int whole;  /* tiles are written (and a is read) whole, whatever `rows` asks for */
    int levels; /* 255, or 127 where products of pairs are summed in 16 bits */
    void (*quantize)(uint8_t *q, cpu_i8_row *row, const float *x, int32_t k, int32_t padded,
                     int levels);
    /* sums [rows, 32] = a [rows, 4 * lines] x panel, exact */
    void (*tile)(int32_t *sums, const uint8_t *a, int64_t lda, const int8_t *panel, int32_t lines,
                 int rows);
    /* The same (may be NULL); a cache line at `ahead`, `step` bytes further at each line, is
     * fetched into the first cache on the way. */
    void (*tile_fetching)(int32_t *sums, const uint8_t *a, int64_t lda, const int8_t *panel,
                          int32_t lines, int rows, const char *ahead, int64_t step);
    void (*begin)(void); /* around a thread's share of tiles; may be NULL */
    void (*end)(void);
} cpu_i8_kernels;

typedef struct cpu_bf16_kernels {
    const char *name;
    int rows;
    int whole;
    int native; /* the processor multiplies bf16: faster than fp32, not only smaller */
    int wide;   /* a holds the rounded values as fp32 instead of bf16 */
    void (*pack)(void *to, const float *x, int32_t k, int32_t padded); /* to bf16; zeros behind */
    void (*round)(void *a, const float *x, int32_t k, int32_t padded); /* pack, or wide */
    /* sums [rows, 32] = a [rows, 2 * lines] x panel; lda in elements of a */
    void (*tile)(float *sums, int64_t ld, const void *a, int64_t lda, const uint16_t *panel,
                 int32_t lines, int rows);
    void (*begin)(void);
    void (*end)(void);

    /* The rest may be NULL: then as the plain loops of cpu_bf16_attention.c. */
    /* kernels->finish_i8 of sums [rows, 32], then `round` of what it gives; without residual, act
     */
    void (*finish_i8)(uint16_t *out, int64_t ld, const int32_t *sums, int rows,
                      const cpu_i8_finish *finish);
    /* `count` rows of `size` bf16 (a multiple of 32) become panels as cpu_bf16_pack makes them:
     * keys are the outputs of theirs, features the outputs of the values' */
    void (*pack_keys)(uint16_t *panels, const uint16_t *rows, int64_t ld, int32_t count,
                      int32_t size);
    void (*pack_values)(uint16_t *panels, const uint16_t *rows, int64_t ld, int32_t count,
                        int32_t size);
    /* out[i] = x[i] * factor */
    void (*scale)(float *out, const float *x, float factor, int32_t size);
} cpu_bf16_kernels;

/* What these features run. Every int8 kernel with the same levels gives the same bits. */
const cpu_i8_kernels *cpu_i8_kernels_of(const cpu_features *features);
const cpu_bf16_kernels *cpu_bf16_kernels_of(const cpu_features *features);

extern const cpu_i8_kernels cpu_i8_plain;
extern const cpu_bf16_kernels cpu_bf16_plain;
#if defined(__x86_64__) && defined(__GNUC__)
extern const cpu_i8_kernels cpu_i8_avx2, cpu_i8_avx_vnni, cpu_i8_avx512, cpu_i8_avx512_vnni;
extern const cpu_bf16_kernels cpu_bf16_avx2, cpu_bf16_avx512, cpu_bf16_avx512_bf16;
void cpu_i8_quantize_avx512(uint8_t *q, cpu_i8_row *row, const float *x, int32_t k, int32_t padded,
                            int levels);
void cpu_bf16_round_avx512(void *a, const float *x, int32_t k, int32_t padded);
#endif
#if defined(__x86_64__) && defined(__has_include)
#if __has_include(<amxbf16intrin.h>) /* gcc 11, clang 12 */
#define CPU_LOWP_HAS_AMX
extern const cpu_i8_kernels cpu_i8_amx;
extern const cpu_bf16_kernels cpu_bf16_amx;
#endif
#endif
/* The AMX kernels over tiles in plain C, for tests on machines without AMX. */
extern const cpu_i8_kernels cpu_i8_amx_plain;
extern const cpu_bf16_kernels cpu_bf16_amx_plain;

/* Weights to panels; a buffer of cpu_i8_panels_bytes (with `fine`: cpu_i8_fine_bytes),
 * cpu_bf16_panels_bytes. */
size_t cpu_i8_panels_bytes(int32_t n, int32_t k);
size_t cpu_i8_fine_bytes(int32_t n, int32_t k); /* with the rests */
void cpu_i8_pack(void *panels, const float *w, int64_t ld, int32_t n, int32_t k, int fine);
size_t cpu_bf16_panels_bytes(int32_t n, int32_t k);
/* element (output, input) at w[output * ld + input], or at w[input * ld + output] */
void cpu_bf16_pack(void *panels, const float *w, int64_t ld, int32_t n, int32_t k, int transposed,
                   const cpu_bf16_kernels *kernels);
void cpu_i8_quantize_plain(uint8_t *q, cpu_i8_row *row, const float *x, int32_t k, int32_t padded,
                           int levels);
void cpu_bf16_round_plain(void *a, const float *x, int32_t k, int32_t padded);

/* What lies in a weight's panels. */
typedef struct cpu_i8_matrix {
    const int8_t *panels;
    const float *scales;
    const int32_t *totals;
    const char *outliers;
    const uint8_t *rest; /* of a weight packed `fine` */
    const int32_t *rest_totals;
    int32_t n, k, lines;
} cpu_i8_matrix;

cpu_i8_matrix cpu_i8_matrix_of(const void *panels, int32_t n, int32_t k);

/* Rows of activations, quantised and as they were. */
typedef struct cpu_i8_activations {
    const uint8_t *q;
    int64_t row_bytes;
    const cpu_i8_row *rows;
    const float *x;
    int64_t ldx;
} cpu_i8_activations;

typedef struct cpu_i8_run {
    const cpu_i8_kernels *i8;
    const cpu_kernels *kernels;
} cpu_i8_run;

/* out [rows, 32] = rows [first, first + rows) of `a` times one panel of `m`, finished; out is row
 * `first`'s, as is finish.residual. Of `finish` the fields rows, scales and totals are filled in
 * here. The tiles of `whole` kernels read rows of `a` beyond `rows`. */
void cpu_i8_panel_run(const cpu_i8_run *run, const cpu_i8_matrix *m, int32_t panel,
                      const cpu_i8_activations *a, int32_t first, int32_t rows, float *out,
                      int64_t ld, cpu_i8_finish finish);

/* out [rows, 32] += a panel's outliers times the activations they meet; out is row `first`'s. */
void cpu_i8_add_outliers(float *out, int64_t ld, const cpu_i8_outliers *list,
                         const cpu_i8_activations *a, int32_t first, int rows);

/* Tile `index` of the `count` that use a panel. Each fetches its share of the panel that comes next
 * (NULL: unknown): the processor alone fetches too late, and the first tile of each panel waits. */
static inline void cpu_i8_tile(const cpu_i8_kernels *i8, int32_t *sums, const uint8_t *a,
                               int64_t lda, const int8_t *panel, int32_t lines, int rows,
                               const int8_t *next, int32_t index, int32_t count) {
    if (i8->tile_fetching == NULL || next == NULL) {
        i8->tile(sums, a, lda, panel, lines, rows);
        return;
    }
    const int64_t step = (CPU_LOWP_LINE + count - 1) / count;
    i8->tile_fetching(sums, a, lda, panel, lines, rows, (const char *)next + index * step * lines,
                      step);
}

/* layer_tail_fwd of backend.h, and the slot scratch that it needs. */
size_t cpu_i8_tail_scratch(int32_t hidden, int32_t ffn);
int cpu_layer_tail_fwd(smhf_device *dev, smhf_tensor out, smhf_tensor context, smhf_tensor residual,
                       const smhf_layer *layer, const smhf_pack *pack, smhf_axis axis);
/* layers_fwd of backend.h, the slot scratch and the op's own that it needs. */
size_t cpu_i8_encoder_scratch(const cpu_features *features, const smhf_limits *limits);
size_t cpu_i8_encoder_partials(const cpu_features *features, const smhf_limits *limits);
int32_t cpu_layers_fwd(smhf_device *dev, smhf_tensor x, smhf_tensor room, const smhf_layer *layers,
                       int32_t count, const smhf_pack *pack, smhf_dtype compute);

/* The products with given kernels and panels, for the linear layers and the tests. `m` rows of a;
 * the epilogue as in cpu_product. panels NULL: bf16 panels are made of b [k, n] (weight gradient;
 * k at most CPU_LOWP_GRADIENT_ROWS). */
#define CPU_LOWP_GRADIENT_ROWS 1024
typedef struct cpu_lowp_product {
    cpu_device *cpu;
    const float *a;
    int64_t lda;
    int32_t m, n, k;
    const void *panels;
    const float *b;
    int64_t ldb;
    const cpu_epilogue *epilogue;
    const cpu_i8_kernels *i8; /* one of the two */
    const cpu_bf16_kernels *bf16;
    int transposed; /* bf16: row r of the product is column r of a */
} cpu_lowp_product;

void cpu_lowp_run(const cpu_lowp_product *product);
/* int8 with panels packed `fine`, under `refine`: 12 bits of weights, twice `levels` of rows. And
 * its scratch: of a slot, and of the op with at most `rows` rows. */
void cpu_i8_fine_run(const cpu_lowp_product *product);
size_t cpu_i8_fine_scratch(int32_t k);
size_t cpu_i8_fine_partials(int32_t rows, int32_t k);

/* Four bytes as they lie. */
static inline int32_t cpu_lowp_word(const void *at) {
    int32_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

/* Bytes from one rounded row to the next: one more cache line, because rows at a multiple of 4 KiB
 * would all want the same place in cache. */
static inline size_t cpu_lowp_row_bytes(int32_t lines, int wide) {
    return (size_t)lines * 4 * (wide ? 2 : 1) + 64;
}

static inline int32_t cpu_lowp_round_up(int32_t value, int32_t multiple) {
    return (value + multiple - 1) / multiple * multiple;
}

/* The row's scale and zero from its least (<= 0) and greatest (>= 0) element. Returns what x is
 * multiplied by, or 0: then every q is 0, and scale says what comes out (0, or NaN). */
static inline float cpu_i8_row_init(cpu_i8_row *row, float least, float greatest, int finite,
                                    int levels) {
    float range = greatest - least;
    row->zero = 0;
    if (!finite || !(range <= FLT_MAX)) {
        row->scale = NAN;
        return 0.0f;
    }
    if (range < FLT_MIN * 512.0f) { /* 1 / range would be infinite */
        row->scale = 0.0f;
        return 0.0f;
    }
    float inverse = (float)levels / range;
    row->scale = range / (float)levels;
    row->zero = (int32_t)rintf(-least * inverse);
    return inverse;
}

/* nearest, ties to even; a NaN stays one */
static inline uint32_t cpu_bf16_bits(float value) {
    union {
        float value;
        uint32_t bits;
    } u = {value};
    uint32_t rounded = (u.bits + 0x7FFFu + ((u.bits >> 16) & 1u)) >> 16;
    uint32_t nan = (u.bits >> 16) | 0x0040u;
    return (u.bits & 0x7FFFFFFFu) > 0x7F800000u ? nan : rounded;
}

#endif
