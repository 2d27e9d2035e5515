/* pack.c: a batch of sequences, back to back, on host and device. */
#include "backend/backend.h"
#include "common/mem.h"

#include <string.h>

/* Offsets of the arrays inside the one block, in int32s; each starts on a 64-byte boundary. */
typedef struct pack_offsets {
    size_t counts, cu_seqlens, sequence_ids, ids, type_ids, positions, token_rows, word_order,
        word_starts, picks, total;
} pack_offsets;

static size_t place(size_t *at, size_t count) {
    size_t here = *at;
    *at += (count + 15) / 16 * 16;
    return here;
}

static pack_offsets pack_layout(size_t tokens, size_t rows) {
    pack_offsets o;
    size_t at = 0;
    o.counts = place(&at, SMHF_COUNT_SIZE);
    o.cu_seqlens = place(&at, rows + 1);
    o.sequence_ids = place(&at, rows);
    o.ids = place(&at, tokens);
    o.type_ids = place(&at, tokens);
    o.positions = place(&at, tokens);
    o.token_rows = place(&at, tokens);
    o.word_order = place(&at, tokens);
    o.word_starts = place(&at, tokens + 1);
    o.picks = place(&at, tokens);
    o.total = at;
    return o;
}

static void point_into(smhf_pack *pack, const pack_offsets *o) {
    const int32_t *base = pack->device_block;
    pack->counts = base + o->counts;
    pack->cu_seqlens = base + o->cu_seqlens;
    pack->sequence_ids = (const uint32_t *)(base + o->sequence_ids);
    pack->ids = base + o->ids;
    pack->type_ids = base + o->type_ids;
    pack->positions = base + o->positions;
    pack->token_rows = base + o->token_rows;
    pack->word_order = base + o->word_order;
    pack->word_starts = base + o->word_starts;
    pack->picks = base + o->picks;
    pack->host_cu_seqlens = pack->host_block + o->cu_seqlens;
}

/* What the host writes: the device's own memory where that is host memory, else blocks of staging.
 */
static smhf_status alloc_host(smhf_pack *pack, uint32_t caps, int32_t blocks, smhf_error *err) {
    if ((caps & SMHF_CAP_HOST_MEMORY) != 0) {
        pack->host_block = pack->device_block;
        memset(pack->host_block, 0, pack->block_size);
        return SMHF_OK;
    }
    SMHF_TRY(smhf_staging_new(pack->device, pack->block_size, blocks, &pack->staging, err));
    pack->host_block = smhf_staging_turn(pack->staging);
    return SMHF_OK;
}

smhf_status smhf_pack_new(smhf_device *device, int32_t token_capacity, int32_t row_capacity,
                          smhf_pack **out, smhf_error *err) {
    return smhf_pack_new_ahead(device, token_capacity, row_capacity, 1, out, err);
}

smhf_status smhf_pack_new_ahead(smhf_device *device, int32_t token_capacity, int32_t row_capacity,
                                int32_t blocks, smhf_pack **out, smhf_error *err) {
    *out = NULL;
    if (token_capacity < 0 || row_capacity < 0) {
        return smhf_fail(err, SMHF_E_ARG, "pack of %d tokens in %d rows: expected no negative",
                         (int)token_capacity, (int)row_capacity);
    }
    smhf_pack *pack = smhf_calloc(1, sizeof *pack);
    if (pack == NULL) {
        return smhf_fail_nomem(err, "batch", sizeof *pack);
    }
    pack_offsets offsets = pack_layout((size_t)token_capacity, (size_t)row_capacity);
    smhf_device_info info;
    device->backend->describe(device, &info);
    pack->device = device;
    pack->replays = (info.caps & SMHF_CAP_GRAPH) != 0;
    pack->token_capacity = token_capacity;
    pack->row_capacity = row_capacity;
    pack->block_size = offsets.total * sizeof(int32_t);
    smhf_status status = device->backend->alloc(device, &pack->device_block, pack->block_size, err);
    if (status == SMHF_OK) {
        status = alloc_host(pack, info.caps, blocks, err);
    }
    if (status != SMHF_OK) {
        smhf_pack_free(pack);
        return status;
    }
    point_into(pack, &offsets);
    *out = pack;
    return SMHF_OK;
}

void smhf_pack_free(smhf_pack *pack) {
    if (pack == NULL) {
        return;
    }
    pack->device->backend->free(pack->device, pack->device_block);
    smhf_staging_free(pack->staging);
    smhf_free(pack);
}

static smhf_status check_picks(const smhf_pack_input *input, int32_t tokens, smhf_error *err) {
    int32_t previous = -1;
    for (int32_t p = 0; p < input->pick_count; p++) {
        if (input->picks[p] <= previous || input->picks[p] >= tokens) {
            return smhf_fail(err, SMHF_E_ARG,
                             "picks[%d] is %d: expected ascending tokens, from %d to %d", (int)p,
                             (int)input->picks[p], (int)previous + 1, (int)tokens - 1);
        }
        previous = input->picks[p];
    }
    return SMHF_OK;
}

static smhf_status check_input(const smhf_pack *pack, const smhf_pack_input *input,
                               smhf_error *err) {
    if (input->rows < 0 || input->rows > pack->row_capacity) {
        return smhf_fail(err, SMHF_E_ARG, "batch of %d rows: this workspace holds %d",
                         (int)input->rows, (int)pack->row_capacity);
    }
    if (input->rows == 0) {
        return check_picks(input, 0, err);
    }
    const int32_t *cu = input->cu_seqlens;
    if (cu[0] != 0) {
        return smhf_fail(err, SMHF_E_ARG, "cu_seqlens[0] is %d: expected 0", (int)cu[0]);
    }
    for (int32_t b = 0; b < input->rows; b++) {
        if (cu[b + 1] <= cu[b]) {
            return smhf_fail(err, SMHF_E_ARG,
                             "row %d of the batch is empty (cu_seqlens %d then %d): expected at "
                             "least one token",
                             (int)b, (int)cu[b], (int)cu[b + 1]);
        }
    }
    if (cu[input->rows] > pack->token_capacity) {
        return smhf_fail(err, SMHF_E_ARG, "batch of %d tokens: this workspace holds %d",
                         (int)cu[input->rows], (int)pack->token_capacity);
    }
    return check_picks(input, cu[input->rows], err);
}

/* Sorts 0..n-1 by ids, equal ids in order: least-significant-digit counting sort, 11 bits a pass.
 * `order` and `spare` hold n each. Ids are below 2^22 in any vocabulary we know; more passes run
 * when they are not. */
static void sort_by_id(int32_t *order, int32_t *spare, const int32_t *ids, int32_t n) {
    uint32_t greatest = 0;
    for (int32_t t = 0; t < n; t++) {
        order[t] = t;
        greatest |= (uint32_t)ids[t];
    }
    int32_t *from = order, *to = spare;
    for (unsigned shift = 0; shift < 32 && (greatest >> shift) != 0; shift += 11) {
        int32_t starts[2049] = {0};
        for (int32_t i = 0; i < n; i++) {
            starts[(((uint32_t)ids[i] >> shift) & 2047u) + 1]++;
        }
        for (int digit = 0; digit < 2048; digit++) {
            starts[digit + 1] += starts[digit];
        }
        for (int32_t i = 0; i < n; i++) {
            to[starts[((uint32_t)ids[from[i]] >> shift) & 2047u]++] = from[i];
        }
        int32_t *swap = from;
        from = to;
        to = swap;
    }
    if (from != order) {
        memcpy(order, from, (size_t)n * sizeof *order);
    }
}

/* word_order and word_starts; returns the number of distinct ids. The starts array doubles as the
 * sort's spare space. */
static int32_t group_words(int32_t *order, int32_t *starts, const int32_t *ids, int32_t n) {
    sort_by_id(order, starts, ids, n);
    int32_t words = 0;
    for (int32_t i = 0; i < n; i++) {
        if (i == 0 || ids[order[i]] != ids[order[i - 1]]) {
            starts[words++] = i;
        }
    }
    starts[words] = n;
    return words;
}

/* ---- buckets --------------------------------------------------------------------------------- */

/* `n` up to a multiple of a power of two: about n / parts, within these bounds. */
static int32_t round_to_step(int32_t n, int32_t parts, int32_t least, int32_t most) {
    int32_t step = least;
    while (step < most && 2 * step <= n / parts) {
        step *= 2;
    }
    return n > INT32_MAX - step ? n : (n + step - 1) / step * step;
}

static int32_t at_least(int32_t wanted, int32_t count, int32_t capacity) {
    wanted = wanted < capacity ? wanted : capacity;
    return wanted > count ? wanted : count;
}

/* Lengths only say how many blocks look for work: powers of two do. */
static smhf_bucket rounded(const smhf_pack *pack, int32_t tokens, int32_t rows, int32_t longest,
                           int32_t picks) {
    smhf_bucket b = {0, 0, 64, 0, 0};
    if (!pack->replays || tokens == 0) {
        return (smhf_bucket){0, 0, 0, 0, 0};
    }
    b.tokens = round_to_step(tokens, 16, 16, SMHF_BUCKET_TOKENS);
    b.rows = round_to_step(rows, 4, 1, SMHF_BUCKET_ROWS);
    while (b.length < longest) {
        b.length *= 2;
    }
    b.words = b.tokens;
    b.picks = picks > 0 ? round_to_step(picks, 8, 4, SMHF_BUCKET_PICKS) : 0;
    return b;
}

/* ---- filling ----------------------------------------------------------------------------------
 */

static smhf_status fill(smhf_pack *pack, const smhf_pack_input *input, const smhf_bucket *least,
                        int round, smhf_error *err) {
    SMHF_TRY(check_input(pack, input, err));
    int32_t rows = input->rows;
    int32_t tokens = rows > 0 ? input->cu_seqlens[rows] : 0;
    int32_t longest = 0;
    for (int32_t b = 0; b < rows; b++) {
        const int32_t length = input->cu_seqlens[b + 1] - input->cu_seqlens[b];
        longest = length > longest ? length : longest;
    }
    smhf_bucket bucket = {0, 0, 0, 0, 0};
    if (round) {
        bucket = rounded(pack, tokens, rows, longest, input->pick_count);
    } else if (least != NULL) {
        bucket = *least;
    }
    bucket.tokens = at_least(bucket.tokens, tokens, pack->token_capacity);
    bucket.rows = at_least(bucket.rows, rows, pack->row_capacity);
    bucket.length = at_least(bucket.length, longest, bucket.tokens);
    const pack_offsets o = pack_layout((size_t)bucket.tokens, (size_t)bucket.rows);
    if (pack->staging != NULL) {
        pack->host_block = smhf_staging_turn(pack->staging);
    }
    int32_t *base = pack->host_block;
    point_into(pack, &o);
    for (int32_t b = 0; b < rows; b++) {
        int32_t begin = input->cu_seqlens[b], end = input->cu_seqlens[b + 1];
        base[o.cu_seqlens + (size_t)b] = begin;
        base[o.sequence_ids + (size_t)b] =
            input->sequence_ids != NULL ? (int32_t)input->sequence_ids[b] : b;
        for (int32_t t = begin; t < end; t++) {
            base[o.positions + (size_t)t] = t - begin;
            base[o.token_rows + (size_t)t] = b;
        }
    }
    for (int32_t b = rows; b <= bucket.rows; b++) {
        base[o.cu_seqlens + (size_t)b] = tokens;
    }
    size_t bytes = (size_t)tokens * sizeof(int32_t);
    if (tokens > 0) {
        memcpy(base + o.ids, input->ids, bytes);
        if (input->type_ids != NULL) {
            memcpy(base + o.type_ids, input->type_ids, bytes);
        } else {
            memset(base + o.type_ids, 0, bytes);
        }
    }
    pack->tokens = tokens;
    pack->rows = rows;
    pack->max_length = longest;
    pack->has_order = input->training != 0;
    pack->words = input->training != 0
                      ? group_words(base + o.word_order, base + o.word_starts, input->ids, tokens)
                      : 0;
    pack->pick_count = input->pick_count;
    bucket.words = at_least(bucket.words, pack->words, input->training != 0 ? bucket.tokens : 0);
    bucket.picks = at_least(bucket.picks, pack->pick_count, bucket.tokens);
    pack->bucket = bucket;
    if (input->pick_count > 0) {
        memcpy(base + o.picks, input->picks, (size_t)input->pick_count * sizeof *base);
    }
    base[o.counts + SMHF_COUNT_PICKS] = input->pick_count;
    base[o.counts + SMHF_COUNT_TOKENS] = tokens;
    base[o.counts + SMHF_COUNT_ROWS] = rows;
    base[o.counts + SMHF_COUNT_MAX_LENGTH] = longest;
    base[o.counts + SMHF_COUNT_WORDS] = pack->words;
    if (pack->staging != NULL) {
        pack->device->backend->upload(pack->device, pack->device_block, pack->host_block,
                                      o.total * sizeof(int32_t));
        smhf_staging_mark(pack->staging);
    }
    return SMHF_OK;
}

smhf_status smhf_pack_fill(smhf_pack *pack, const smhf_pack_input *input, smhf_error *err) {
    return fill(pack, input, NULL, 0, err);
}

smhf_status smhf_pack_fill_bucket(smhf_pack *pack, const smhf_pack_input *input,
                                  const smhf_bucket *least, smhf_error *err) {
    return fill(pack, input, least, least == NULL, err);
}
