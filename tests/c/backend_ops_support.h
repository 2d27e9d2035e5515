/* backend_ops_support.h: arrays on host and device, and comparing them; for test_backend_ops.c. */
#ifndef SMHF_TEST_BACKEND_OPS_SUPPORT_H
#define SMHF_TEST_BACKEND_OPS_SUPPORT_H

#define OPS_BLOCKS 128
#define OPS_SEQUENCES 16
#define VOCAB 50
#define POSITIONS 520

typedef struct ops_context {
    smhf_device *dev;
    const smhf_backend *be;
    smhf_pack *pack;
    ref_pack ref;
    int32_t cu[OPS_SEQUENCES + 1], ids[1024], types[1024], picks[1024];
    uint32_t sequence_ids[OPS_SEQUENCES];
    smhf_step host_step;
    smhf_step *step; /* device */
    void *blocks[OPS_BLOCKS];
    void *hosts[OPS_BLOCKS];
    int block_count, host_count;
    uint32_t draws; /* position in the random stream */
    uint64_t hash;  /* of every result so far */
    const char *device;
    const smhf_bucket *bucket; /* of every batch; NULL: the counts */
    int spare;                 /* rows of device memory behind each array, for wider buckets */
} ops_context;

/* A matrix: dense doubles and floats on the host, rows `ld` apart on the device. */
typedef struct ops_array {
    int rows, cols, ld;
    float *host;    /* [rows, ld] what was uploaded or fetched */
    double *values; /* [rows, cols] */
    smhf_tensor t;
} ops_array;

static void *ctx_host(ops_context *ctx, size_t bytes) {
    void *block = calloc(bytes > 0 ? bytes : 1, 1);
    if (block == NULL || ctx->host_count == OPS_BLOCKS) {
        abort();
    }
    ctx->hosts[ctx->host_count++] = block;
    return block;
}

static double *ctx_doubles(ops_context *ctx, int rows, int cols) {
    return ctx_host(ctx, (size_t)rows * (size_t)cols * sizeof(double));
}

static void *ctx_device(ops_context *ctx, size_t bytes) {
    void *block = NULL;
    smhf_error err = SMHF_ERROR_INIT;
    if (ctx->block_count == OPS_BLOCKS ||
        ctx->be->alloc(ctx->dev, &block, bytes, &err) != SMHF_OK) {
        printf("  device memory: %s\n", err.message);
        abort();
    }
    ctx->blocks[ctx->block_count++] = block;
    return block;
}

static void ctx_sync(ops_context *ctx) {
    smhf_error err = SMHF_ERROR_INIT;
    CHECK_OK(ctx->be->sync(ctx->dev, &err), &err);
}

/* Frees what a case made. */
static void ctx_release(ops_context *ctx) {
    ctx_sync(ctx);
    for (int i = 0; i < ctx->block_count; i++) {
        ctx->be->free(ctx->dev, ctx->blocks[i]);
    }
    for (int i = 0; i < ctx->host_count; i++) {
        free(ctx->hosts[i]);
    }
    ctx->block_count = ctx->host_count = 0;
}

/* In (-1, 1), reproducible. */
static double ctx_random(ops_context *ctx) {
    uint32_t counter[4] = {ctx->draws++, 1, 2, 3}, out[4];
    smhf_philox(counter, 99, out);
    return 2.0 * (double)smhf_uniform(out[0]) - 1.0;
}

static void set_or_unset(const char *name, const char *value) {
    if (value != NULL) {
        setenv(name, value, 1);
    } else {
        unsetenv(name);
    }
}

/* 0 and a skipped test when the device is not there. */
static int ctx_open(ops_context *ctx, const char *device, const char *tier, const char *blas) {
    static char reason[SMHF_ERROR_MESSAGE_SIZE];
    smhf_error err = SMHF_ERROR_INIT;
    memset(ctx, 0, sizeof *ctx);
    if (tier != NULL ||
        blas != NULL) { /* other threads may be opening devices: set only if asked */
        set_or_unset("SMHF_CPU_TIER", tier);
        set_or_unset("SMHF_BLAS", blas);
    }
    smhf_status status = smhf_device_open(device, &ctx->dev, &err);
    if (status == SMHF_OK) {
        smhf_limits limits = {1024, 16, 512, 64, 4, 96, 8, 1};
        status = ctx->dev->backend->reserve(ctx->dev, &limits, &err);
        CHECK_OK(status, &err);
    }
    if (tier != NULL || blas != NULL) {
        set_or_unset("SMHF_CPU_TIER", NULL);
        set_or_unset("SMHF_BLAS", NULL);
    }
    if (status != SMHF_OK) {
        snprintf(reason, sizeof reason, "%s", err.message);
        smhf_test_skip_reason = reason;
        return 0;
    }
    ctx->be = ctx->dev->backend;
    ctx->device = device;
    ctx->hash = 14695981039346656037u;
    CHECK_OK(smhf_pack_new(ctx->dev, 600, OPS_SEQUENCES, &ctx->pack, &err), &err);
    void *step = NULL;
    CHECK_OK(ctx->be->alloc(ctx->dev, &step, sizeof *ctx->step, &err), &err);
    ctx->step = step;
    ctx->host_step.dropout_step = 5;
    ctx->be->upload(ctx->dev, ctx->step, &ctx->host_step, sizeof ctx->host_step);
    ctx_sync(ctx);
    return 1;
}

static void ctx_close(ops_context *ctx) {
    ctx_release(ctx);
    ctx->be->free(ctx->dev, ctx->step);
    smhf_pack_free(ctx->pack);
    smhf_device_close(ctx->dev);
}

/* The batch: sequences of these lengths, words and types at random. */
static void ctx_batch(ops_context *ctx, const int *lengths, int training) {
    smhf_error err = SMHF_ERROR_INIT;
    int rows = 0, tokens = 0;
    for (; lengths[rows] > 0; rows++) {
        ctx->cu[rows] = tokens;
        ctx->sequence_ids[rows] = 1000u + 7u * (uint32_t)rows;
        tokens += lengths[rows];
    }
    ctx->cu[rows] = tokens;
    for (int t = 0; t < tokens; t++) {
        ctx->ids[t] = (int32_t)((ctx_random(ctx) + 1.0) * 0.5 * VOCAB);
        ctx->ids[t] = ctx->ids[t] >= VOCAB ? 0 : ctx->ids[t];
        ctx->types[t] = ctx_random(ctx) > 0.0;
    }
    int picks = 0;
    for (int t = 1; t < tokens; t += 3) {
        ctx->picks[picks++] = t;
    }
    smhf_pack_input input = {ctx->ids, ctx->types, ctx->cu,    ctx->sequence_ids,
                             rows,     training,   ctx->picks, picks};
    CHECK_OK(ctx->bucket != NULL ? smhf_pack_fill_bucket(ctx->pack, &input, ctx->bucket, &err)
                                 : smhf_pack_fill(ctx->pack, &input, &err),
             &err);
    ctx_sync(ctx);
    ctx->ref = (ref_pack){tokens,     rows, ctx->cu, ctx->ids, ctx->types, ctx->sequence_ids,
                          ctx->picks, picks};
}

static int ctx_rows(const ops_context *ctx, smhf_axis axis) {
    return axis == SMHF_AXIS_TOKENS ? ctx->ref.tokens
           : axis == SMHF_AXIS_ROWS ? ctx->ref.rows
                                    : ctx->ref.pick_count;
}

static ops_array array_make(ops_context *ctx, int rows, int cols, int gap) {
    ops_array a;
    a.rows = rows;
    a.cols = cols;
    a.ld = cols + gap;
    size_t bytes = (size_t)rows * (size_t)a.ld * sizeof(float);
    a.host = ctx_host(ctx, bytes);
    a.values = ctx_doubles(ctx, rows, cols);
    a.t = smhf_tensor_of(ctx_device(ctx, bytes + (size_t)ctx->spare * (size_t)a.ld * sizeof(float)),
                         rows, cols, SMHF_DTYPE_F32);
    a.t.ld = a.ld;
    memset(a.host, 0xFF, bytes);
    return a;
}

static void array_upload(ops_context *ctx, ops_array *a) {
    for (int r = 0; r < a->rows; r++) {
        for (int c = 0; c < a->cols; c++) {
            a->host[r * a->ld + c] = (float)a->values[r * a->cols + c];
            a->values[r * a->cols + c] = (double)a->host[r * a->ld + c];
        }
    }
    ctx->be->upload(ctx->dev, a->t.data, a->host, (size_t)a->rows * (size_t)a->ld * sizeof(float));
}

/* Random values of about this size; rows with a gap between them. */
static ops_array array_in(ops_context *ctx, int rows, int cols, double size) {
    ops_array a = array_make(ctx, rows, cols, 3);
    for (int i = 0; i < rows * cols; i++) {
        a.values[i] = size * ctx_random(ctx);
    }
    array_upload(ctx, &a);
    return a;
}

/* All NaN: what an op does not write shows. */
static ops_array array_out(ops_context *ctx, int rows, int cols) {
    ops_array a = array_make(ctx, rows, cols, 5);
    ctx->be->fill(ctx->dev, a.t.data, 0xFF, (size_t)rows * (size_t)a.ld * sizeof(float));
    return a;
}

static void hash_bytes(ops_context *ctx, const void *data, size_t bytes) {
    const unsigned char *p = data;
    for (size_t i = 0; i < bytes; i++) {
        ctx->hash = (ctx->hash ^ p[i]) * 1099511628211u;
    }
}

static void array_fetch(ops_context *ctx, ops_array *a) {
    size_t bytes = (size_t)a->rows * (size_t)a->ld * sizeof(float);
    ctx->be->download(ctx->dev, a->host, a->t.data, bytes);
    ctx_sync(ctx);
    hash_bytes(ctx, a->host, bytes);
}

/* Fetches `got`; |got - want| <= bound everywhere (bound: an array, or NULL and `least` alone), and
 * the gaps between rows are as they were. Says how close it came to the bound when it fails. */
static void compare(ops_context *ctx, const char *what, ops_array *got, const double *want,
                    const double *bound, double least) {
    double worst = 0.0;
    int worst_row = 0, worst_col = 0, touched = 0;
    array_fetch(ctx, got);
    for (int r = 0; r < got->rows; r++) {
        for (int c = 0; c < got->cols; c++) {
            size_t at = (size_t)r * (size_t)got->cols + (size_t)c;
            double limit = least + (bound != NULL ? bound[at] : 0.0);
            double error = fabs((double)got->host[r * got->ld + c] - want[at]);
            double ratio = error == 0.0 ? 0.0 : error / limit;
            if (!(ratio <= worst)) { /* NaN counts as the worst */
                worst = ratio;
                worst_row = r;
                worst_col = c;
            }
        }
        for (int c = got->cols; c < got->ld; c++) {
            uint32_t bits;
            memcpy(&bits, &got->host[r * got->ld + c], sizeof bits);
            touched += bits != 0xFFFFFFFFu;
        }
    }
    if (!(worst <= 1.0) || touched > 0) {
        smhf_test_broken++;
        printf("  %s on %s, %d tokens in %d rows: worst at (%d, %d): %.9g, expected %.9g "
               "(%.3g of the bound); %d gaps written\n",
               what, ctx->device, ctx->ref.tokens, ctx->ref.rows, worst_row, worst_col,
               got->rows > 0 ? (double)got->host[worst_row * got->ld + worst_col] : 0.0,
               got->rows > 0 ? want[worst_row * got->cols + worst_col] : 0.0, worst, touched);
    }
}

static smhf_dropout ctx_dropout(const ops_context *ctx, float p, uint32_t site) {
    smhf_dropout d = {p, site, 0x123456789ABCDEFu, ctx->step};
    return p > 0.0f ? d : SMHF_DROPOUT_NONE;
}

static smhf_weight *ctx_weight(ops_context *ctx, const ops_array *source) {
    smhf_weight *weight = NULL;
    smhf_error err = SMHF_ERROR_INIT;
    smhf_weight_options options = {SMHF_DTYPE_F32, SMHF_WEIGHT_FORWARD | SMHF_WEIGHT_BACKWARD};
    CHECK_OK(ctx->be->weight_prepare(ctx->dev, &weight, source->t, &options, &err), &err);
    ctx->be->weight_refresh(ctx->dev, weight);
    return weight;
}

#endif
