/* workspace.c: capacities grow in steps, so that random shapes settle after a few batches. */
#include "model/workspace.h"

#include "common/mem.h"

#include <string.h>

#define TOKEN_STEP (2 * SMHF_BUCKET_TOKENS)
#define ROW_STEP SMHF_BUCKET_ROWS
#define PICK_STEP SMHF_BUCKET_PICKS

smhf_status smhf_workspace_init(smhf_workspace *ws, const char *device,
                                const smhf_plan_shape *shape, smhf_error *err) {
    const size_t layers = (size_t)shape->config->layers;
    const size_t bytes = layers * sizeof *ws->plan.layers;
    *ws = (smhf_workspace){.shape = *shape};
    ws->plan.layers = smhf_calloc(layers, sizeof *ws->plan.layers);
    if (ws->plan.layers == NULL) {
        return smhf_fail_nomem(err, "workspace", bytes);
    }
    SMHF_TRY(smhf_device_open(device, &ws->dev, err));
    ws->shape.keyless = ws->dev->backend->attention_first_fwd != NULL;
    return smhf_replay_new(ws->dev, &ws->replay, err);
}

static void release(smhf_workspace *ws) {
    smhf_replay_forget(ws->replay); /* it knows addresses */
    smhf_pack_free(ws->pack);
    smhf_free(ws->chunk_offsets);
    smhf_free(ws->words);
    smhf_free(ws->word_ids);
    smhf_free(ws->chunk_picks);
    if (ws->dev != NULL) {
        ws->dev->backend->free(ws->dev, ws->block);
    }
    ws->pack = NULL;
    ws->block = NULL;
    ws->chunk_offsets = NULL;
    ws->words = NULL;
    ws->word_ids = NULL;
    ws->chunk_picks = NULL;
    ws->shape.tokens = ws->shape.rows = ws->shape.picks = 0;
}

void smhf_workspace_deinit(smhf_workspace *ws) {
    release(ws);
    smhf_replay_free(ws->replay);
    smhf_packing_deinit(&ws->packing);
    smhf_free(ws->plan.layers);
    smhf_device_close(ws->dev);
    *ws = (smhf_workspace){0};
}

static int32_t round_up(size_t count, int32_t step) {
    const size_t rounded = (count + (size_t)step - 1) / (size_t)step * (size_t)step;
    return rounded > INT32_MAX ? INT32_MAX : (int32_t)rounded;
}

/* Activations grow with the tokens: the free memory tells how many there is room for. */
static void say_what_fits(smhf_device *dev, const smhf_plan_shape *shape, size_t bytes,
                          smhf_error *err) {
    smhf_device_info info;
    dev->backend->describe(dev, &info);
    const double fit = 0.9 * (double)info.memory_free * (double)shape->tokens / (double)bytes;
    if (info.memory_free > 0 && fit < (double)shape->tokens) {
        smhf_error_prefix(err, "activations of %d tokens in %d rows (about %.0f tokens would fit)",
                          shape->tokens, shape->rows, fit);
    } else {
        smhf_error_prefix(err, "activations of %d tokens in %d rows", shape->tokens, shape->rows);
    }
}

static smhf_status acquire(smhf_workspace *ws, smhf_plan_shape shape, smhf_error *err) {
    const smhf_config *config = shape.config;
    const smhf_limits limits = {
        .tokens = shape.tokens,
        .rows = shape.rows,
        .length = config->positions < shape.tokens ? config->positions : shape.tokens,
        .hidden = config->hidden,
        .heads = config->heads,
        .ffn = config->feedforward,
        .classes = smhf_config_outputs(config),
        .training = shape.training,
    };
    const size_t bytes = smhf_plan_make(&ws->plan, &shape, NULL);
    if (bytes == 0) {
        return smhf_fail(err, SMHF_E_NOMEM, "a batch of %d tokens is too large", shape.tokens);
    }
    ws->chunk_offsets = smhf_malloc(((size_t)shape.rows + 1) * sizeof *ws->chunk_offsets);
    ws->chunk_picks = smhf_malloc(((size_t)shape.picks + 1) * sizeof *ws->chunk_picks);
    if (ws->chunk_offsets == NULL || ws->chunk_picks == NULL) {
        return smhf_fail_nomem(err, "workspace", (size_t)shape.rows * sizeof *ws->chunk_offsets);
    }
    smhf_status status = ws->dev->backend->reserve(ws->dev, &limits, err);
    if (status == SMHF_OK) {
        status = smhf_pack_new_ahead(ws->dev, shape.tokens, shape.rows, shape.training ? 2 : 1,
                                     &ws->pack, err);
    }
    if (status == SMHF_OK) {
        status = ws->dev->backend->alloc(ws->dev, &ws->block, bytes, err);
    }
    if (status != SMHF_OK) {
        say_what_fits(ws->dev, &shape, bytes, err);
        return status;
    }
    smhf_plan_make(&ws->plan, &shape, ws->block);
    ws->shape = shape;
    return SMHF_OK;
}

static smhf_status ensure(smhf_workspace *ws, size_t tokens, size_t rows, size_t picks,
                          smhf_error *err) {
    if (tokens > INT32_MAX - TOKEN_STEP || rows > tokens) {
        return smhf_fail(err, SMHF_E_ARG, "a batch of %zu tokens in %zu rows is too large", tokens,
                         rows);
    }
    SMHF_ASSERT(picks <= tokens);
    if (ws->pack != NULL && tokens <= (size_t)ws->shape.tokens && rows <= (size_t)ws->shape.rows &&
        picks <= (size_t)ws->shape.picks) {
        return SMHF_OK;
    }
    smhf_plan_shape shape = ws->shape;
    if (tokens > (size_t)shape.tokens) {
        shape.tokens = round_up(tokens, TOKEN_STEP);
    }
    if (rows > (size_t)shape.rows) {
        shape.rows = round_up(rows, ROW_STEP);
    }
    if (picks > (size_t)shape.picks) {
        shape.picks = round_up(picks, PICK_STEP);
    }
    release(ws); /* before asking for more, so that the two never stand side by side */
    const smhf_status status = acquire(ws, shape, err);
    if (status != SMHF_OK) {
        release(ws);
    }
    return status;
}

/* Room for the words' rows; made at the first batch of a mapped model. */
static smhf_status ensure_words(smhf_workspace *ws, smhf_error *err) {
    if (ws->words != NULL) {
        return SMHF_OK;
    }
    const size_t tokens = (size_t)ws->shape.tokens;
    const size_t bytes = tokens * (size_t)ws->shape.config->hidden * sizeof *ws->words;
    ws->word_ids = smhf_malloc(tokens * sizeof *ws->word_ids);
    ws->words = ws->word_ids != NULL ? smhf_malloc_aligned(bytes, SMHF_CACHE_LINE) : NULL;
    if (ws->words == NULL) {
        smhf_free(ws->word_ids);
        ws->word_ids = NULL;
        return smhf_fail_nomem(err, "workspace", bytes);
    }
    for (size_t i = 0; i < tokens; i++) {
        ws->word_ids[i] = (int32_t)i;
    }
    return SMHF_OK;
}

smhf_tensor smhf_workspace_words(const smhf_workspace *ws) {
    return ws->mapped == NULL ? SMHF_TENSOR_NONE
                              : smhf_tensor_of(ws->words, ws->shape.tokens,
                                               ws->shape.config->hidden, SMHF_DTYPE_F32);
}

smhf_status smhf_workspace_fill(smhf_workspace *ws, const smhf_piece *piece, smhf_error *err) {
    const smhf_batch *batch = piece->batch;
    const size_t rows = piece->end - piece->first;
    const int32_t start = batch->cu_seqlens[piece->first];
    const int32_t tokens = batch->cu_seqlens[piece->end] - start;
    SMHF_TRY(ensure(ws, (size_t)tokens, rows, piece->pick_count, err));
    for (size_t row = 0; row <= rows; row++) {
        ws->chunk_offsets[row] = batch->cu_seqlens[piece->first + row] - start;
    }
    for (size_t p = 0; p < piece->pick_count; p++) {
        ws->chunk_picks[p] = piece->picks[p] - start;
    }
    const int32_t *ids = batch->ids + start;
    if (ws->mapped != NULL) {
        SMHF_TRY(ensure_words(ws, err));
        SMHF_TRY(smhf_mapped_words(ws->mapped, ids, tokens, ws->words, err));
        ids = ws->word_ids;
    }
    const smhf_pack_input input = {
        .ids = ids,
        .type_ids = batch->type_ids != NULL ? batch->type_ids + start : NULL,
        .cu_seqlens = ws->chunk_offsets,
        .sequence_ids = piece->sequence_ids != NULL ? piece->sequence_ids + piece->first : NULL,
        .rows = (int32_t)rows,
        .training = ws->shape.training,
        .picks = piece->pick_count > 0 ? ws->chunk_picks : NULL,
        .pick_count = (int32_t)piece->pick_count,
    };
    return smhf_pack_fill_bucket(ws->pack, &input, NULL, err);
}
