/* backend.h: the contract between the network (model) and whatever computes it.
 *
 * A backend is a const table of function pointers. The network is written once over it; the CPU
 * backend is linked in, CUDA is a plugin, a test backend runs on a worker queue. In use:
 *
 *     smhf_device *dev;                                       // one ordered queue of work
 *     SMHF_TRY(smhf_device_open("auto", &dev, err));          // "auto" | "cpu" | "cuda" | "cuda:1"
 *     const smhf_backend *be = dev->backend;
 *     be->linear_fwd(dev, qkv, x, w_qkv, b_qkv, pack, SMHF_AXIS_TOKENS);
 *     be->attention_fwd(dev, ctx, lse, q, k, v, pack, SMHF_AXIS_TOKENS, heads, scale, drop);
 *     be->download(dev, logits, logits_on_device, bytes);     // enqueued, like every op
 *     SMHF_TRY(be->sync(dev, err));                           // first failure of all of the above
 *
 * Rules that hold for every op
 *  - Ops return nothing. They are put on the device's queue and run in order, perhaps later. A
 *    failure is kept in the device (the first one only) and comes out of sync; after it the ops do
 *    nothing until sync has reported. Host structs passed by pointer (pack, options, segments) are
 *    read during the call; arrays in device memory, and host memory named in upload/download, must
 *    live and stay unchanged until sync.
 *  - Pointers called "device" must not be read by the host, except under SMHF_CAP_HOST_MEMORY.
 *  - Argument order: device, outputs, inputs, pack, scalars. Outputs are overwritten unless the
 *    comment says "+=". Outputs never alias inputs unless the comment allows it.
 *  - Activations are 2-D, one row for each token (SMHF_AXIS_TOKENS), for each sequence
 *    (SMHF_AXIS_ROWS) or for each picked token (SMHF_AXIS_PICKS), sequences packed back to back
 *    without padding. Rows past the pack's actual
 *    count are never read and hold anything afterwards. A count of 0 is legal everywhere.
 *  - Activations x, y, dx, dy of one op share a dtype: F32, or BF16 under
 *    SMHF_CAP_BF16_ACTIVATIONS. Precision of the products is another matter: a weight prepared for
 *    BF16 or I8, or `compute` BF16, lets a product round (or quantise) F32 operands on their way
 *    in; sums stay F32. `compute` F32 is exact, and any op may be exact when asked for less.
 * Vectors (bias, gamma, beta), parameter gradients, optimizer state, statistics, losses are F32
 * always; sums run in F32 or wider. A dtype that an op cannot do is SMHF_E_UNSUPPORTED, with a
 * sentence.
 *  - Results depend on inputs, shapes and device only: not on the number of threads, on timing, or
 *    on earlier calls. No floating-point atomics. One exception: a backend may choose between two
 *    ways of a product by measuring them once; then bits may differ between two processes, and a
 *    setting of the backend fixes the way.
 *  - NaN and infinity pass through as IEEE arithmetic gives them; they are not failures.
 *  - Once `reserve` was called with limits that cover the calls, ops allocate nothing.
 *  - "tol" in a comment bounds |result - float64 reference| for F32; u = 2^-24. For BF16 the rule
 *    is: no farther from the reference than twice PyTorch's BF16 (three times for gradients).
 *
 * Letters: T tokens, B sequences of a pack, H hidden size, F feed-forward size, A heads, D = H/A,
 * V vocabulary, P positions, C classes, N x K a weight (out x in features).
 *
 * Threads: a device is used by one thread at a time. Devices opened on the same hardware share
 * memory and weights: one may read what another wrote before its sync. Tables are immutable.
 * Ownership: written at each function. */
#ifndef SMHF_BACKEND_BACKEND_H
#define SMHF_BACKEND_BACKEND_H

#include "common/rng.h"
#include "common/status.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Raised by any change of this file that a built plugin could notice. */
#define SMHF_BACKEND_ABI 6

typedef struct smhf_backend smhf_backend; /* the table, below */
typedef struct smhf_device smhf_device;   /* an open backend, below */
typedef struct smhf_weight smhf_weight;   /* a matrix prepared for multiplication; opaque */
typedef struct smhf_event smhf_event;     /* a point in a queue; opaque */
typedef struct smhf_graph smhf_graph;     /* a captured run of ops; opaque */

/* ---- tensors ------------------------------------------------------------------------------- */

typedef enum smhf_dtype {
    SMHF_DTYPE_F32 = 0,
    SMHF_DTYPE_BF16 = 1,
    SMHF_DTYPE_I8 = 2, /* value = int8 * scales[row] */
    SMHF_DTYPE_I32 = 3,
} smhf_dtype;

typedef enum smhf_layout {
    SMHF_LAYOUT_ROWS = 0,    /* element (r, c) at data[r * ld + c] */
    SMHF_LAYOUT_BACKEND = 1, /* an order of the backend's own; only made and read by its ops */
} smhf_layout;

/* A view; owns nothing. Passed by value. A zeroed one (SMHF_TENSOR_NONE) means "absent". */
typedef struct smhf_tensor {
    void *data;    /* device */
    float *scales; /* device, [rows]; I8 only, else NULL */
    int64_t ld;    /* leading dimension: elements from one row to the next, >= cols */
    int32_t rows;  /* capacity; how many are in use is the pack's business */
    int32_t cols;
    smhf_dtype dtype;
    smhf_layout layout;
} smhf_tensor;

#define SMHF_TENSOR_NONE ((smhf_tensor){NULL, NULL, 0, 0, 0, SMHF_DTYPE_F32, SMHF_LAYOUT_ROWS})

static inline size_t smhf_dtype_size(smhf_dtype dtype) {
    return dtype == SMHF_DTYPE_I8 ? 1u : dtype == SMHF_DTYPE_BF16 ? 2u : 4u;
}

/* A dense row-major tensor over `data`. */
static inline smhf_tensor smhf_tensor_of(void *data, int32_t rows, int32_t cols, smhf_dtype dtype) {
    smhf_tensor t = {data, NULL, cols, rows, cols, dtype, SMHF_LAYOUT_ROWS};
    return t;
}

/* Columns [first, first + count), e.g. q, k, v out of qkv. Row layout only. */
static inline smhf_tensor smhf_tensor_cols(smhf_tensor t, int32_t first, int32_t count) {
    t.data = (char *)t.data + (size_t)first * smhf_dtype_size(t.dtype);
    t.cols = count;
    return t;
}

/* Rows [first, first + count), e.g. the q, k, v weights out of one block. Row layout only. */
static inline smhf_tensor smhf_tensor_rows(smhf_tensor t, int32_t first, int32_t count) {
    t.data = (char *)t.data + (size_t)first * (size_t)t.ld * smhf_dtype_size(t.dtype);
    t.scales = t.scales != NULL ? t.scales + first : NULL;
    t.rows = count;
    return t;
}

/* ---- packs: batches without padding -------------------------------------------------------- */

/* Which rows an activation has. */
typedef enum smhf_axis {
    SMHF_AXIS_TOKENS = 0, /* row t = token t */
    SMHF_AXIS_ROWS = 1,   /* row b = sequence b; its token is the first (CLS), at cu_seqlens[b] */
    SMHF_AXIS_PICKS = 2,  /* row p = token picks[p]: those that a masked-LM head looks at */
} smhf_axis;

/* Order of pack->counts in device memory. */
enum {
    SMHF_COUNT_TOKENS = 0,
    SMHF_COUNT_ROWS = 1,
    SMHF_COUNT_MAX_LENGTH = 2,
    SMHF_COUNT_WORDS = 3, /* distinct ids */
    SMHF_COUNT_PICKS = 4,
    SMHF_COUNT_SIZE = 8,
};

/* What ops launch for: at least the counts. Two batches of one bucket are the same run of ops over
 * the same addresses, so that one recording serves both (see smhf_replay below): kernels read the
 * counts on the device, and products run over the bucket. Without rounding it is the counts. */
typedef struct smhf_bucket {
    int32_t tokens, rows, length, words, picks;
} smhf_bucket;

/* B sequences of T tokens in all. Sequence b is tokens [cu_seqlens[b], cu_seqlens[b + 1]), never
 * empty. The device arrays of a bucket lie at the same addresses in every batch; another bucket has
 * others. Open for reading; made and filled by the smhf_pack_* functions only. */
typedef struct smhf_pack {
    int32_t tokens, rows, max_length, words, pick_count; /* counts, as the host knows them */
    smhf_bucket bucket;
    int32_t token_capacity, row_capacity;
    int32_t has_order;              /* word_* below are filled (training) */
    const int32_t *host_cu_seqlens; /* [rows + 1] */

    /* device memory */
    const int32_t *counts;        /* [SMHF_COUNT_SIZE] actual counts */
    const int32_t *cu_seqlens;    /* [bucket.rows + 1]; entries past rows repeat the last */
    const uint32_t *sequence_ids; /* [bucket.rows] who the sequence is, for dropout */
    const int32_t *ids;           /* [bucket.tokens] vocabulary id */
    const int32_t *type_ids;      /* [bucket.tokens] 0 where the caller gave none */
    const int32_t *positions;     /* [bucket.tokens] 0, 1, 2 ... within its sequence */
    const int32_t *token_rows;    /* [bucket.tokens] sequence b that the token belongs to */
    /* tokens grouped by id, ascending, each group in token order: the embedding gradient sums
     * group w = word_order[word_starts[w] .. word_starts[w + 1]) without atomics */
    const int32_t *word_order;  /* [bucket.tokens] */
    const int32_t *word_starts; /* [bucket.tokens + 1] */
    const int32_t *picks;       /* [bucket.tokens] picked tokens, ascending */

    /* private */
    smhf_device *device;
    void *device_block; /* all arrays above, one allocation */
    int32_t *host_block;
    struct smhf_staging *staging; /* NULL: host_block is device_block */
    size_t block_size;
    int32_t replays;
} smhf_pack;

/* What a batch is on the host. Arrays are borrowed during smhf_pack_fill. */
typedef struct smhf_pack_input {
    const int32_t *ids;           /* [cu_seqlens[rows]] */
    const int32_t *type_ids;      /* the same, or NULL: all 0 */
    const int32_t *cu_seqlens;    /* [rows + 1], from 0, strictly ascending */
    const uint32_t *sequence_ids; /* [rows], or NULL: 0, 1, 2 ... */
    int32_t rows;
    int32_t training;     /* build word_order / word_starts */
    const int32_t *picks; /* [pick_count] tokens, strictly ascending; NULL with 0 of them */
    int32_t pick_count;
} smhf_pack_input;

/* ---- the device ---------------------------------------------------------------------------- */

/* An open backend: one queue. Every backend's own struct begins with this. */
struct smhf_device {
    const smhf_backend *backend;
    smhf_error failure; /* first one since the last sync; the host looks only through sync */
};

/* Keeps the sentence if it is the first. For implementations of ops. */
void smhf_device_fail(smhf_device *device, smhf_status code, const char *format, ...)
    SMHF_PRINTF(3, 4);

#define SMHF_CAP_HOST_MEMORY                                                                       \
    1u                     /* device pointers are host pointers, and the reverse (mmap too)        \
                            */
#define SMHF_CAP_ASYNC 2u  /* ops return before they are done */
#define SMHF_CAP_BF16 4u   /* products in BF16: weights, and `compute` */
#define SMHF_CAP_I8 8u     /* weights in I8, forward */
#define SMHF_CAP_GRAPH 16u /* graph_* are there */
#define SMHF_CAP_BF16_ACTIVATIONS 32u /* activations in BF16 */

typedef struct smhf_device_info {
    char name[64];    /* "AMD EPYC 7R13", "NVIDIA H200" */
    char tier[32];    /* which kernels run: "avx512", "sm90" */
    char detail[128]; /* "2 threads, OpenBLAS 0.3.21 (SkylakeX)" */
    uint32_t caps;
    int32_t units;                      /* threads, multiprocessors */
    int32_t batch_tokens;               /* a good number of tokens to compute at once; 0: any */
    int32_t i8_levels;                  /* steps of a row of activations under I8: 255, 127; or 0 */
    uint64_t memory_bytes, memory_free; /* 0: unknown */
} smhf_device_info;

/* The largest batch and model that will be used; see reserve. */
typedef struct smhf_limits {
    int32_t tokens, rows, length;        /* T, B, longest sequence */
    int32_t hidden, heads, ffn, classes; /* H, A, F, C */
    int32_t training;
} smhf_limits;

/* ---- arguments of single ops --------------------------------------------------------------- */

typedef enum smhf_act {
    SMHF_ACT_NONE = 0,
    SMHF_ACT_GELU = 1,      /* x * (1 + erf(x / sqrt 2)) / 2, exact */
    SMHF_ACT_RELU = 2,      /* DistilBERT's pre_classifier */
    SMHF_ACT_TANH = 3,      /* BERT's pooler */
    SMHF_ACT_GELU_TANH = 4, /* "gelu_new"; only when the checkpoint's config asks for it */
} smhf_act;

/* Scalars of one training step, in DEVICE memory, so that a captured graph can be replayed with
 * new ones and nobody waits for the host: the host uploads the first half before the step and may
 * look at the second whenever it comes by. */
typedef struct smhf_step {
    uint32_t dropout_step; /* counts forward passes, micro-batches of one step included */
    uint32_t reserved0;
    float learning_rate;
    float bias_correction1;      /* 1 - beta1^t, made in double on the host */
    float bias_correction2_sqrt; /* sqrt(1 - beta2^t) */
    float reserved1[2];
    float loss_sum;   /* of the step's passes; the caller adds */
    float grad_norm;  /* out of grad_norm */
    float clip_scale; /* out of grad_norm, into adamw; 1 when clipping is off */
    uint32_t halted;  /* not 0: adamw does nothing. grad_norm sets it where grad_norm or loss_sum is
                         not finite; only the host clears it, so the steps that were queued behind a
                         bad one change nothing either */
    float reserved2[5];
} smhf_step;

/* Dropout of one place of the network. An element is zero when its draw is below p, else it is
 * multiplied by 1 / (1 - p). No mask is stored: see smhf_dropout_draw. */
typedef struct smhf_dropout {
    float p;       /* 0: off, and the rest is not read; < 1 */
    uint32_t site; /* number of the place in the network, < 65536 */
    uint64_t seed;
    const smhf_step *step; /* device */
} smhf_dropout;

#define SMHF_DROPOUT_NONE ((smhf_dropout){0.0f, 0, 0, NULL})

/* The four draws for features 4 * group .. 4 * group + 3 (of a hidden vector; of a row of
 * attention probabilities the feature is the key's position in its sequence). `head` is 0 except
 * in attention. Only identities enter, never where a token lies in the pack. */
static inline SMHF_HOST_DEVICE void smhf_dropout_draw(uint64_t seed, uint32_t dropout_step,
                                                      uint32_t site, uint32_t sequence_id,
                                                      uint32_t head, uint32_t position,
                                                      uint32_t group, uint32_t draws[4]) {
    uint32_t counter[4];
    counter[0] = (site << 16) | group; /* group < 65536: up to 262,144 features */
    counter[1] = (head << 16) | position;
    counter[2] = sequence_id;
    counter[3] = dropout_step;
    smhf_philox(counter, seed, draws);
}

/* An element is kept when (draw >> 8) >= this: integers, the same on every device. */
static inline SMHF_HOST_DEVICE uint32_t smhf_dropout_threshold(float p) {
    return (uint32_t)(p * 16777216.0f + 0.5f);
}

/* Tables of the embedding layer, or the gradients of them (the same fields). */
typedef struct smhf_embedding {
    smhf_tensor word;        /* [V, H] F32 (or BF16, forward only) */
    smhf_tensor position;    /* [P, H] */
    smhf_tensor type;        /* [types, H]; absent in DistilBERT */
    smhf_tensor gamma, beta; /* [1, H] */
    int32_t padding_id;      /* this word's row gets no gradient; -1: none */
} smhf_embedding;

#define SMHF_WEIGHT_FORWARD 1u  /* will be used in y = x W^T */
#define SMHF_WEIGHT_BACKWARD 2u /* will be used in dx = dy W */
/* Host-memory backends: take what is needed from the source now; it may go away when prepare
 * returns, and refresh is not legal. Forward only. */
#define SMHF_WEIGHT_COPY 4u
/* Instead of the other two: [2H, H] F32, rows of k, then of v, for attention_first_*. */
#define SMHF_WEIGHT_FIRST 8u
/* I8, forward: keep what rounding takes from the weights too, for products under `refine`. Half as
 * much memory on top; other products do not touch it. */
#define SMHF_WEIGHT_REST 16u

typedef struct smhf_weight_options {
    smhf_dtype compute; /* F32, BF16 or I8 (one scale per output row) */
    uint32_t uses;
} smhf_weight_options;

typedef enum smhf_loss_kind {
    SMHF_LOSS_CROSS_ENTROPY = 0, /* torch.nn.CrossEntropyLoss */
    SMHF_LOSS_MSE = 1,           /* torch.nn.MSELoss */
    SMHF_LOSS_BCE = 2,           /* torch.nn.BCEWithLogitsLoss */
} smhf_loss_kind;

typedef struct smhf_loss_options {
    smhf_loss_kind kind;
    float label_smoothing;      /* cross-entropy */
    const float *class_weights; /* device [C], or NULL; cross-entropy */
    int32_t ignore_label;       /* cross-entropy: such rows count for nothing; torch's is -100 */
    float denominator;          /* divide the sum by this instead of this pack's own count (a batch
                                   in several packs or on several devices); 0: own count */
    float grad_scale;           /* multiplies dlogits only: 1 / accumulation steps */
} smhf_loss_options;

/* One contiguous run of parameters with the same decay. Device pointers, F32, `count` each. */
typedef struct smhf_segment {
    float *param, *grad, *m, *v;
    int64_t count;
    float weight_decay;
    float lr_scale; /* 1 unless layers learn at different rates */
} smhf_segment;

/* In double: 1 - beta2 is taken before anything is rounded to float, as torch does. */
typedef struct smhf_adamw_options {
    double beta1, beta2, eps;
} smhf_adamw_options;

/* Everything of one encoder layer. */
typedef struct smhf_layer {
    const smhf_weight *q, *kv; /* or q = NULL and kv = fused q|k|v */
    const smhf_weight *out, *ffn1, *ffn2;
    smhf_tensor q_bias, kv_bias, out_bias, ffn1_bias, ffn2_bias;
    smhf_tensor attention_gamma, attention_beta, output_gamma, output_beta;
    int32_t heads;
    float scale, eps;
    smhf_act act;
} smhf_layer;

/* ---- the table ----------------------------------------------------------------------------- */

struct smhf_backend {
    uint32_t abi;     /* SMHF_BACKEND_ABI */
    uint32_t size;    /* sizeof(smhf_backend) */
    const char *name; /* "cpu", "cuda" */

    /* -- life ------------------------------------------------------------------------------- */

    /* Can device `ordinal` be opened here? OK fills *info; else the sentence says why not. */
    smhf_status (*probe)(int32_t ordinal, smhf_device_info *info, smhf_error *err);
    /* Caller closes. */
    smhf_status (*open)(int32_t ordinal, smhf_device **out, smhf_error *err);
    /* Waits, then frees the queue and its scratch. Memory, weights, events and graphs must have
     * been freed before. NULL is fine. */
    void (*close)(smhf_device *dev);
    void (*describe)(smhf_device *dev, smhf_device_info *info);
    /* Makes room for ops up to these limits (grows only). Without it ops grow scratch as needed. */
    smhf_status (*reserve)(smhf_device *dev, const smhf_limits *limits, smhf_error *err);

    /* -- memory ----------------------------------------------------------------------------- */

    /* 256-byte aligned, not cleared. Caller frees with `free`. Size 0 gives a valid pointer. */
    smhf_status (*alloc)(smhf_device *dev, void **out, size_t bytes, smhf_error *err);
    /* Queued work that uses the block is waited for. NULL is fine. */
    void (*free)(smhf_device *dev, void *block);
    void (*upload)(smhf_device *dev, void *dst, const void *host_src, size_t bytes);
    void (*download)(smhf_device *dev, void *host_dst, const void *src, size_t bytes);
    /* Device to device; the blocks do not overlap. */
    void (*copy)(smhf_device *dev, void *dst, const void *src, size_t bytes);
    /* Every byte becomes `byte` (0: zero gradients). */
    void (*fill)(smhf_device *dev, void *dst, int byte, size_t bytes);
    /* Waits until the queue is empty; returns the first failure since the last sync and forgets
     * it. The only place where failures surface. */
    smhf_status (*sync)(smhf_device *dev, smhf_error *err);

    /* -- weights ---------------------------------------------------------------------------- */

    /* Prepares source [N, K] F32, row layout, any ld, for multiplication. The backend may keep
     * reading `source` (the CPU's F32 weights are the source): it must outlive the weight and
     * stay unchanged while ops use it, except through weight_refresh. Several weights may share
     * rows of one source. With SMHF_WEIGHT_COPY none of this holds: the source is read now. Caller
     * frees with weight_free. */
    smhf_status (*weight_prepare)(smhf_device *dev, smhf_weight **out, smhf_tensor source,
                                  const smhf_weight_options *options, smhf_error *err);
    /* Op. The source has new values (optimizer step, load). */
    void (*weight_refresh)(smhf_device *dev, smhf_weight *weight);
    /* Queued work that uses the weight is waited for. NULL is fine. */
    void (*weight_free)(smhf_device *dev, smhf_weight *weight);

    /* -- forward ---------------------------------------------------------------------------- */

    /* out[t] = dropout(LayerNorm(word[ids[t]] + position[positions[t]] + type[type_ids[t]]))
     * LayerNorm(s) = (s - mean) * rstd * gamma + beta, rstd = 1 / sqrt(variance + eps), variance
     * over H with divisor H. out [T, H]. stats [T, 2] F32: mean, rstd; absent: not kept.
     * ids, positions and type ids must be inside their tables (the model has checked): outside,
     * the row becomes NaN. tol 8u * max(1, |out|) + 4u * rstd * max|s| * |gamma|, times the factor
     * that dropout multiplies by. */
    void (*embedding_fwd)(smhf_device *dev, smhf_tensor out, smhf_tensor stats,
                          const smhf_embedding *tables, float eps, const smhf_pack *pack,
                          smhf_dropout dropout);

    /* y = x W^T + bias. x [n, K], W [N, K], bias [1, N] or absent, y [n, N].
     * tol 8u * (|x| |W|^T + |bias|), elementwise. I8 weights: x is quantised per row inside. */
    void (*linear_fwd)(smhf_device *dev, smhf_tensor y, smhf_tensor x, const smhf_weight *w,
                       smhf_tensor bias, const smhf_pack *pack, smhf_axis axis);

    /* pre = x W^T + bias; y = act(pre). `pre` [n, N] is kept for the backward pass of GELU; absent
     * in inference and for RELU, TANH (their backward reads y). tol: linear_fwd's times 1.2, plus
     * 4u * |y|. */
    void (*linear_act_fwd)(smhf_device *dev, smhf_tensor y, smhf_tensor pre, smhf_tensor x,
                           const smhf_weight *w, smhf_tensor bias, smhf_act act,
                           const smhf_pack *pack, smhf_axis axis);

    /* For each sequence and head a: S[i, j] = scale * q[i] . k[j], P = softmax over j,
     * out[i] = sum_j dropout(P[i, j]) v[j]. Head a is columns [a * D, (a + 1) * D) of q, k, v, out.
     * k, v [T, H]. query_axis TOKENS: q, out [T, H], every token asks. ROWS: q, out [B, H], only
     * the first token of each sequence asks (position 0 for dropout). lse [T or B, A] F32:
     * log(sum_j exp(S[i, j])); absent: not kept. q, k, v may be column views of one tensor.
     * tol 16u * max|v| * (1 + max|S|) with compute F32. */
    void (*attention_fwd)(smhf_device *dev, smhf_tensor out, smhf_tensor lse, smhf_tensor q,
                          smhf_tensor k, smhf_tensor v, const smhf_pack *pack, smhf_axis query_axis,
                          int32_t heads, float scale, smhf_dtype compute, smhf_dropout dropout);

    /* sum = residual + dropout(x); out = LayerNorm(sum). All [n, H]. residual absent: sum =
     * dropout(x). `sum` may be x itself, or absent when nothing is kept; stats as above.
     * tol as embedding_fwd. */
    void (*residual_layernorm_fwd)(smhf_device *dev, smhf_tensor out, smhf_tensor sum,
                                   smhf_tensor stats, smhf_tensor x, smhf_tensor residual,
                                   smhf_tensor gamma, smhf_tensor beta, float eps,
                                   const smhf_pack *pack, smhf_axis axis, smhf_dropout dropout);

    /* Rows of tokens: axis ROWS: out[b] = x[cu_seqlens[b]], the CLS rows; PICKS: out[p] =
     * x[picks[p]]. x [T, C], out [n, C]. Exact. */
    void (*gather_rows)(smhf_device *dev, smhf_tensor out, smhf_tensor x, const smhf_pack *pack,
                        smhf_axis axis);

    /* out[b] = mean of x over the tokens of sequence b. x [T, C], out [B, C]. tol 8u * max|x|. */
    void (*mean_rows)(smhf_device *dev, smhf_tensor out, smhf_tensor x, const smhf_pack *pack);

    /* y = dropout(x); with dy for x it is its own backward pass. y may be x. Exact but for one
     * rounding. */
    void (*dropout)(smhf_device *dev, smhf_tensor y, smhf_tensor x, const smhf_pack *pack,
                    smhf_axis axis, smhf_dropout dropout);

    /* loss[0] = mean over counted rows, dlogits = grad_scale * d loss / d logits.
     * logits [n, C]; dlogits the same, or absent, or logits itself; loss: device, one F32.
     * Cross-entropy: targets [n, 1] I32 class numbers. With e = label_smoothing, c = class_weights
     * (1 when NULL), y the label: row = (1 - e) c[y] (-logp[y]) + e / C * sum_k c[k] (-logp[k]);
     * the divisor is the sum of c[y] over rows whose label is not ignore_label. A label that is
     * neither a class nor ignore_label makes its row's loss and gradient NaN.
     * MSE, BCE: targets [n, C] F32; the divisor is n * C. n = 0 gives NaN, as torch does.
     * tol 16u * (1 + max|logits|). */
    void (*loss)(smhf_device *dev, float *loss, smhf_tensor dlogits, smhf_tensor logits,
                 smhf_tensor targets, const smhf_loss_options *options, const smhf_pack *pack,
                 smhf_axis axis);

    /* Extractive question answering: logits [T, 2] (start, end); targets [B, 2] I32, positions
     * within the sequence. For each column a cross-entropy over the tokens of the sequence,
     * averaged over the sequences whose target lies inside them (others count for nothing; none at
     * all gives NaN); loss[0] = (start + end) / 2, dlogits [T, 2] = grad_scale * d loss / d logits,
     * or absent. Of options only denominator (sequences, the same for both columns) and grad_scale
     * are read. tol as loss. */
    void (*span_loss)(smhf_device *dev, float *loss, smhf_tensor dlogits, smhf_tensor logits,
                      smhf_tensor targets, const smhf_loss_options *options, const smhf_pack *pack);

    /* -- backward: activation gradients overwrite, parameter gradients accumulate (+=) ----------
     */

    /* dx = dy W, or dx += dy W when accumulate. dy [n, N], dx [n, K]. tol 8u * |dy| |W|. */
    void (*linear_bwd_input)(smhf_device *dev, smhf_tensor dx, smhf_tensor dy, const smhf_weight *w,
                             int accumulate, const smhf_pack *pack, smhf_axis axis);

    /* dpre = (dy W) * act'(saved). `saved` [n, K] is pre for GELU, y for RELU and TANH; dpre may
     * be saved. FFN: the gradient passes through the second matrix and the activation. tol
     * linear_bwd_input's times 1.2 * max(1, |act'|). */
    void (*linear_act_bwd_input)(smhf_device *dev, smhf_tensor dpre, smhf_tensor dy,
                                 const smhf_weight *w, smhf_tensor saved, smhf_act act,
                                 const smhf_pack *pack, smhf_axis axis);

    /* dw += dy^T x; dbias += column sums of dy (absent: not computed). dw [N, K], dbias [1, N].
     * tol 8u * (|dy|^T |x|) and 8u * sum|dy|, plus 2u * |accumulated|, with compute F32. */
    void (*linear_bwd_weight)(smhf_device *dev, smhf_tensor dw, smhf_tensor dbias, smhf_tensor dy,
                              smhf_tensor x, const smhf_pack *pack, smhf_axis axis,
                              smhf_dtype compute);

    /* dpre = dy * act'(saved), saved as above; dpre may be dy. tol 12u * |dy|. */
    void (*act_bwd)(smhf_device *dev, smhf_tensor dpre, smhf_tensor dy, smhf_tensor saved,
                    smhf_act act, const smhf_pack *pack, smhf_axis axis);

    /* Gradients of attention_fwd with the same q, k, v, dropout; out and lse are what it gave.
     * dq, dk, dv are overwritten (query_axis ROWS: dq [B, H]) and may be column views of one
     * tensor. tol 32u * (1 + max|S|) * the same sums over magnitudes, with compute F32. */
    void (*attention_bwd)(smhf_device *dev, smhf_tensor dq, smhf_tensor dk, smhf_tensor dv,
                          smhf_tensor dout, smhf_tensor out, smhf_tensor lse, smhf_tensor q,
                          smhf_tensor k, smhf_tensor v, const smhf_pack *pack, smhf_axis query_axis,
                          int32_t heads, float scale, smhf_dtype compute, smhf_dropout dropout);

    /* xhat = (sum - mean) rstd, g = dout gamma:
     * dsum = rstd (g - mean_H(g) - xhat mean_H(g xhat)): the residual's gradient;
     * dx = dropout'(dsum): the branch's. dx absent or dx = dsum only when dropout.p is 0 (then dsum
     * serves both). dgamma += sum dout xhat; dbeta += sum dout. dsum may be dout.
     * tol 16u * (1 + rstd max|sum|) * the same sums over magnitudes. */
    void (*residual_layernorm_bwd)(smhf_device *dev, smhf_tensor dsum, smhf_tensor dx,
                                   smhf_tensor dgamma, smhf_tensor dbeta, smhf_tensor dout,
                                   smhf_tensor sum, smhf_tensor stats, smhf_tensor gamma,
                                   const smhf_pack *pack, smhf_axis axis, smhf_dropout dropout);

    /* dx[cu_seqlens[b]] += dout[b], or dx[picks[p]] += dout[p]: backward of gather_rows. */
    void (*scatter_add_rows)(smhf_device *dev, smhf_tensor dx, smhf_tensor dout,
                             const smhf_pack *pack, smhf_axis axis);

    /* dx[t] = dout[b] / (tokens of b) for each token t of sequence b: backward of mean_rows. */
    void (*mean_rows_bwd)(smhf_device *dev, smhf_tensor dx, smhf_tensor dout,
                          const smhf_pack *pack);

    /* Backward of embedding_fwd: dropout, LayerNorm (the sum is gathered again from `tables`), then
     * grads->word[id] += ..., position, type (an absent table: nothing), gamma, beta. dout [T, H]
     * is used as scratch and holds the gradient of the sum afterwards. The pack must have been
     * filled with training = 1. Rows of words that do not occur are not touched. A fixed order of
     * sums, no atomics. */
    void (*embedding_bwd)(smhf_device *dev, const smhf_embedding *grads, smhf_tensor dout,
                          smhf_tensor stats, const smhf_embedding *tables, const smhf_pack *pack,
                          smhf_dropout dropout);

    /* -- optimizer -------------------------------------------------------------------------- */

    /* step->grad_norm = sqrt(sum over all segments of grad^2), a fixed order of sums;
     * step->clip_scale = min(1, max_norm / (grad_norm + 1e-6)), or 1 when max_norm <= 0.
     * A NaN norm gives a NaN scale, as torch.nn.utils.clip_grad_norm_ does; step->halted = 1 when
     * the norm or step->loss_sum is not finite, else it stays. rel tol 1e-6. */
    void (*grad_norm)(smhf_device *dev, smhf_step *step, const smhf_segment *segments,
                      int32_t segment_count, float max_norm);

    /* torch.optim.AdamW, one call for all segments, with lr = step->learning_rate * lr_scale and
     * g = grad * step->clip_scale: p -= lr wd p; m += (1 - b1)(g - m); v = b2 v + (1 - b2) g^2;
     * p -= lr / bias_correction1 * m / (sqrt(v) / bias_correction2_sqrt + eps).
     * Nothing when step->halted. */
    void (*adamw)(smhf_device *dev, const smhf_step *step, const smhf_segment *segments,
                  int32_t segment_count, const smhf_adamw_options *options);

    /* y += alpha x, F32, count elements. */
    void (*axpy)(smhf_device *dev, float *y, const float *x, float alpha, int64_t count);

    /* dst = src in dst's dtype, rows x cols of dst: F32 <-> BF16 (nearest even), F32/BF16 -> I8
     * (per row: scale = max|x| / 127, written to dst.scales), I8 -> F32. */
    void (*convert)(smhf_device *dev, smhf_tensor dst, smhf_tensor src);

    /* -- optional: may be NULL; the caller does without ---------------------------------------- */

    /* Page-locked host memory for upload and download. */
    smhf_status (*pinned_alloc)(smhf_device *dev, void **out, size_t bytes, smhf_error *err);
    void (*pinned_free)(smhf_device *dev, void *block);

    /* An event marks a point of the queue. wait: later ops of `dev` run after the event, which may
     * come from another device of the same backend. elapsed_ms waits for `to`. */
    smhf_status (*event_new)(smhf_device *dev, smhf_event **out, smhf_error *err);
    void (*event_free)(smhf_device *dev, smhf_event *event);
    void (*event_record)(smhf_device *dev, smhf_event *event);
    void (*event_wait)(smhf_device *dev, smhf_event *event);
    /* The host waits for the last record of the event, asked through any device of the backend.
     * What failed stays for sync. There where event_new is. */
    void (*event_sync)(smhf_device *dev, smhf_event *event);
    smhf_status (*event_elapsed_ms)(smhf_device *dev, smhf_event *from, smhf_event *to, float *out,
                                    smhf_error *err);

    /* Ops between begin and end are recorded, not run; all their arguments, addresses included,
     * are fixed except what lies in device memory (pack arrays, smhf_step): the recording serves
     * every batch of the pack's bucket. alloc, free, sync are not legal in between; reserve must
     * cover the ops, and they have run once before. launch is an op. Callers use smhf_replay. */
    smhf_status (*graph_begin)(smhf_device *dev, smhf_error *err);
    smhf_status (*graph_end)(smhf_device *dev, smhf_graph **out, smhf_error *err);
    void (*graph_launch)(smhf_device *dev, smhf_graph *graph);
    void (*graph_free)(smhf_device *dev, smhf_graph *graph);

    /* What follows attention in an encoder layer, without dropout, all [n, H]:
     * hidden = LayerNorm(residual + context Wo + bo), out = LayerNorm(hidden + act(hidden W1 + b1)
     * W2 + b2). out may be residual. The same result as the ops it replaces, to their tolerance.
     * 0: nothing was done, because the ops one by one are as fast here. */
    int (*layer_tail_fwd)(smhf_device *dev, smhf_tensor out, smhf_tensor context,
                          smhf_tensor residual, const smhf_layer *layer, const smhf_pack *pack,
                          smhf_axis axis);

    /* attention_fwd with query_axis ROWS, where k = x Wk^T + bk and v = x Wv^T + bv are made for
     * nothing else: the same result without making them (see cpu_attention_first.c). tol twice
     * attention_fwd's, with sums over magnitudes for v and S. q, out [B, H], x [T, H], lse [B, A]
     * or absent, kv prepared for SMHF_WEIGHT_FIRST, kv_bias [1, 2H]. Both or neither are there. */
    void (*attention_first_fwd)(smhf_device *dev, smhf_tensor out, smhf_tensor lse, smhf_tensor q,
                                smhf_tensor x, const smhf_weight *kv, smhf_tensor kv_bias,
                                const smhf_pack *pack, int32_t heads, float scale,
                                smhf_dropout dropout);
    /* dq [B, H] and dx [T, H] (absent: not wanted) are overwritten; dkv [2H, H] and dkv_bias
     * [1, 2H] += (absent: not computed). */
    void (*attention_first_bwd)(smhf_device *dev, smhf_tensor dq, smhf_tensor dx, smhf_tensor dkv,
                                smhf_tensor dkv_bias, smhf_tensor dout, smhf_tensor out,
                                smhf_tensor lse, smhf_tensor q, smhf_tensor x,
                                const smhf_weight *kv, smhf_tensor kv_bias, const smhf_pack *pack,
                                int32_t heads, float scale, smhf_dropout dropout);

    /* NULL where there is no such thing. While on, products of I8 weights that were prepared with
     * SMHF_WEIGHT_REST take three times their work and come within a few 1e-4 of F32 (relative to
     * the largest term), and attention is F32. Off in a device just opened; not changed by
     * failures. */
    void (*refine)(smhf_device *dev, int on);

    /* Encoder layers over all tokens one after the other, without dropout: x [T, H] becomes the
     * output of the last one; room [T, H] is scratch. `compute` as in attention_fwd. The same
     * result as the ops they replace, to their tolerance. Returns how many of the first layers it
     * did, 0 where it has no quicker way; the caller goes on from there. */
    int32_t (*layers_fwd)(smhf_device *dev, smhf_tensor x, smhf_tensor room,
                          const smhf_layer *layers, int32_t count, const smhf_pack *pack,
                          smhf_dtype compute);
};

/* How many rows an activation has now, as far as the host knows. */
static inline int32_t smhf_pack_count(const smhf_pack *pack, smhf_axis axis) {
    return axis == SMHF_AXIS_TOKENS ? pack->tokens
           : axis == SMHF_AXIS_ROWS ? pack->rows
                                    : pack->pick_count;
}

/* ---- packs (pack.c) ------------------------------------------------------------------------ */

/* Room for any batch up to these capacities, on host and device. Caller frees with smhf_pack_free,
 * before the device is closed. */
smhf_status smhf_pack_new(smhf_device *device, int32_t token_capacity, int32_t row_capacity,
                          smhf_pack **out, smhf_error *err) SMHF_MUST_USE;
/* The same for a caller who runs ahead of the device: see smhf_staging. */
smhf_status smhf_pack_new_ahead(smhf_device *device, int32_t token_capacity, int32_t row_capacity,
                                int32_t blocks, smhf_pack **out, smhf_error *err) SMHF_MUST_USE;
/* Checks the batch (offsets ascending from 0, picks ascending, capacities), fills the arrays and
 * enqueues one upload. Allocates nothing. Ops that are queued read the pack: without blocks that
 * take turns, fill it again only after a sync. */
smhf_status smhf_pack_fill(smhf_pack *pack, const smhf_pack_input *input,
                           smhf_error *err) SMHF_MUST_USE;
/* The same with a bucket of at least these sizes (and of the counts, where they are more). NULL: a
 * rounded one where the device replays, else the counts. Rounding stays within a capacity that is a
 * multiple of SMHF_BUCKET_TOKENS and SMHF_BUCKET_ROWS; picks go up to a multiple of
 * SMHF_BUCKET_PICKS at most. */
#define SMHF_BUCKET_TOKENS 128
#define SMHF_BUCKET_ROWS 8
#define SMHF_BUCKET_PICKS 32
smhf_status smhf_pack_fill_bucket(smhf_pack *pack, const smhf_pack_input *input,
                                  const smhf_bucket *least, smhf_error *err) SMHF_MUST_USE;
void smhf_pack_free(smhf_pack *pack); /* NULL is fine */

/* ---- staging (staging.c) -------------------------------------------------------------------- */

/* Blocks of host memory, page-locked where the backend can, that take turns: the caller fills one
 * and enqueues uploads from it and downloads into it, while the device is still busy with the
 * others. So a host may run ahead of the device by as many runs as there are blocks:
 *
 *     SMHF_TRY(smhf_staging_new(dev, bytes, 3, &staging, err));
 *     block = smhf_staging_turn(staging);              // waits for the run before last but two
 *     fill(block); be->upload(dev, x, block, n); ...; be->download(dev, block + n, y, m);
 *     smhf_staging_mark(staging);                      // behind all that uses the block
 *
 * Without events in the backend there is one block, and the caller syncs before its turn.
 * Threads: as the device. Caller frees with smhf_staging_free, before the device is closed. */
typedef struct smhf_staging smhf_staging;

smhf_status smhf_staging_new(smhf_device *device, size_t bytes, int32_t blocks, smhf_staging **out,
                             smhf_error *err) SMHF_MUST_USE;
int32_t smhf_staging_blocks(const smhf_staging *staging); /* 1: no events */
void *smhf_staging_turn(smhf_staging *staging);
void smhf_staging_mark(smhf_staging *staging);
/* The last mark, for others to wait for; NULL with one block. Borrowed. */
smhf_event *smhf_staging_event(const smhf_staging *staging);
void smhf_staging_free(smhf_staging *staging); /* waits; NULL is fine */

/* ---- replays (replay.c) --------------------------------------------------------------------- */

/* Runs of ops that come again and again. Where the backend records (graph_*), the second run of a
 * kind is recorded and every later one is a single launch; elsewhere the ops are simply issued. The
 * caller writes the same lines for both:
 *
 *     static void step(void *context) { ... be->linear_fwd(...); be->loss(...); ... }  // ops only
 *
 *     SMHF_TRY(smhf_pack_fill_bucket(pack, &input, NULL, err));
 *     smhf_replay_run(replay, pack, kind, step, context);        // an op
 *     SMHF_TRY(be->sync(dev, err));
 *
 * A kind is a number of the caller's that says everything the ops depend on besides the pack's
 * bucket and what lies in device memory: which ops, over which tensors, with which scalars. When
 * addresses change (memory freed, weights prepared anew), smhf_replay_forget. Between bucket and
 * counts nothing is written into results, and nothing is read. A run that cannot be recorded is
 * issued for ever. At most SMHF_REPLAY_MAX recordings are kept, those used last.
 * SMHF_REPLAY=0 in the environment: nothing is recorded.
 * Threads: as the device. Caller frees with smhf_replay_free, before the device is closed. */
#define SMHF_REPLAY_MAX 64
typedef struct smhf_replay smhf_replay;
typedef void (*smhf_replay_ops)(void *context);

smhf_status smhf_replay_new(smhf_device *device, smhf_replay **out, smhf_error *err) SMHF_MUST_USE;
/* `pack` NULL: the ops read none. */
void smhf_replay_run(smhf_replay *replay, const smhf_pack *pack, uint64_t kind, smhf_replay_ops ops,
                     void *context);
void smhf_replay_forget(smhf_replay *replay); /* NULL is fine */
void smhf_replay_free(smhf_replay *replay);   /* NULL is fine */

/* ---- registry (registry.c, plugin.c) ------------------------------------------------------- */

/* The composition root (glue, a test's main) says what there is: the model never does. Both may be
 * called again with the same name (no effect). At most SMHF_BACKEND_MAX names. */
#define SMHF_BACKEND_MAX 8
/* Higher `priority` wins under "auto". The table must live for ever. */
smhf_status smhf_backend_register(const smhf_backend *backend, int priority,
                                  smhf_error *err) SMHF_MUST_USE;
/* A backend in a shared object, opened when first asked for and never closed. `driver` (may be
 * NULL) is a library without which there is no point in trying. `file` without a slash is looked
 * for in SMHF_BACKEND_PATH (a folder or a file), then in the folder of this library. Strings are
 * copied. The object exports `smhf_backend_entry`. */
smhf_status smhf_backend_register_plugin(const char *name, const char *file, const char *driver,
                                         int priority, smhf_error *err) SMHF_MUST_USE;

/* By name, loaded if need be; borrowed, valid for ever. SMHF_E_UNAVAILABLE says why not,
 * SMHF_E_ABI when the plugin was built for another version of this file. */
smhf_status smhf_backend_find(const char *name, const smhf_backend **out,
                              smhf_error *err) SMHF_MUST_USE;

/* "cpu", "cuda", "cuda:1", or "auto": SMHF_DEVICE where set, else the highest priority that
 * opens. A named device opens or fails with the reason. Caller closes with smhf_device_close. */
smhf_status smhf_device_open(const char *device, smhf_device **out, smhf_error *err) SMHF_MUST_USE;
void smhf_device_close(smhf_device *device); /* NULL is fine */

typedef struct smhf_backend_status {
    char name[32];
    int32_t available;
    smhf_device_info info;                /* when available */
    char reason[SMHF_ERROR_MESSAGE_SIZE]; /* why not, else empty */
} smhf_backend_status;

/* All registered names by falling priority, probed (a plugin is loaded when its driver is there).
 * Returns how many there are; fills at most `capacity`. */
int32_t smhf_backend_list(smhf_backend_status *out, int32_t capacity);

/* What a plugin exports. The loader compares abi and size before it looks at anything else. */
#define SMHF_BACKEND_ENTRY "smhf_backend_entry"
typedef const smhf_backend *(*smhf_backend_entry_fn)(void);

#ifdef __cplusplus
}
#endif
#endif
