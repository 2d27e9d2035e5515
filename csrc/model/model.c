/* model.c: life of a model, its locks, and forward for any number of threads. */
#include "model/model_state.h"
#include "model/ties.h"

#include "common/file.h"
#include "common/mem.h"

#include <stdio.h>
#include <string.h>

#define DEFAULT_WORKSPACES 4
#define DEFAULT_BATCH_TOKENS 4096
#define MAX_CONFIG ((size_t)16 << 20)
#define PIECE ((size_t)1 << 20) /* floats moved between device and host at a time */
#define PICK_FLOATS                                                                                \
    ((size_t)1 << 24) /* masked-LM logits computed at once, unless one row has more */

/* --- locks ---------------------------------------------------------------------------------------
 */

static void wait_for_reading_locked(smhf_model *model) {
    while (model->writing || model->writers_waiting > 0) {
        pthread_cond_wait(&model->changed, &model->mutex);
    }
}

void smhf_model_read_begin(smhf_model *model) {
    pthread_mutex_lock(&model->mutex);
    wait_for_reading_locked(model);
    model->readers++;
    pthread_mutex_unlock(&model->mutex);
}

void smhf_model_read_end(smhf_model *model) {
    pthread_mutex_lock(&model->mutex);
    model->readers--;
    pthread_cond_broadcast(&model->changed);
    pthread_mutex_unlock(&model->mutex);
}

void smhf_model_write_begin(smhf_model *model) {
    pthread_mutex_lock(&model->mutex);
    model->writers_waiting++;
    while (model->writing || model->readers > 0) {
        pthread_cond_wait(&model->changed, &model->mutex);
    }
    model->writers_waiting--;
    model->writing = 1;
    pthread_mutex_unlock(&model->mutex);
}

void smhf_model_write_end(smhf_model *model) {
    pthread_mutex_lock(&model->mutex);
    model->writing = 0;
    pthread_cond_broadcast(&model->changed);
    pthread_mutex_unlock(&model->mutex);
}

void smhf_model_settle(smhf_model *model, smhf_device *dev, const smhf_trainer *except) {
    pthread_mutex_lock(&model->mutex);
    smhf_event *event = model->ahead != except ? model->ahead_event : NULL;
    pthread_mutex_unlock(&model->mutex);
    if (event != NULL) {
        dev->backend->event_sync(dev, event);
    }
}

/* For writers that use model->dev. */
static void writer_begin(smhf_model *model) {
    smhf_model_write_begin(model);
    smhf_model_settle(model, model->dev, NULL);
}

/* A workspace from the free list, a new one, or the next that comes back. Counts as a reader. */
static smhf_status workspace_acquire(smhf_model *model, smhf_workspace **out, smhf_error *err) {
    smhf_workspace *ws = NULL;
    smhf_status status = SMHF_OK;
    pthread_mutex_lock(&model->mutex);
    for (;;) {
        wait_for_reading_locked(model);
        if (model->free_workspaces != NULL || model->workspaces < model->max_workspaces) {
            break;
        }
        pthread_cond_wait(&model->changed, &model->mutex);
    }
    model->readers++;
    ws = model->free_workspaces;
    if (ws != NULL) {
        model->free_workspaces = ws->next;
    } else {
        model->workspaces++;
    }
    pthread_mutex_unlock(&model->mutex);
    if (ws != NULL) {
        smhf_model_settle(model, ws->dev, NULL);
        *out = ws;
        return SMHF_OK;
    }

    const smhf_plan_shape shape = {.config = &model->config, .dtype = model->options.dtype};
    ws = smhf_calloc(1, sizeof *ws);
    status = (ws == NULL) ? smhf_fail_nomem(err, "workspace", sizeof *ws)
                          : smhf_workspace_init(ws, model->device, &shape, err);
    if (status != SMHF_OK) {
        if (ws != NULL) {
            smhf_workspace_deinit(ws);
            smhf_free(ws);
            ws = NULL;
        }
        pthread_mutex_lock(&model->mutex);
        model->workspaces--;
        model->readers--;
        pthread_cond_broadcast(&model->changed);
        pthread_mutex_unlock(&model->mutex);
    } else {
        smhf_model_settle(model, ws->dev, NULL);
    }
    *out = ws;
    return status;
}

static void workspace_release(smhf_model *model, smhf_workspace *ws) {
    pthread_mutex_lock(&model->mutex);
    ws->next = model->free_workspaces;
    model->free_workspaces = ws;
    model->readers--;
    pthread_cond_broadcast(&model->changed);
    pthread_mutex_unlock(&model->mutex);
}

/* --- life ----------------------------------------------------------------------------------------
 */

/* What products and activations are made of, under a precision's name on this device. */
static smhf_status choose_precision(smhf_device *dev, const char *precision,
                                    smhf_network_options *out, smhf_error *err) {
    smhf_device_info info;
    uint32_t needed = 0;
    dev->backend->describe(dev, &info);
    out->compute = out->dtype = SMHF_DTYPE_F32;
    if (strcmp(precision, "bf16") == 0) {
        out->compute = SMHF_DTYPE_BF16;
        needed = SMHF_CAP_BF16;
        if ((info.caps & SMHF_CAP_BF16_ACTIVATIONS) != 0) {
            out->dtype = SMHF_DTYPE_BF16;
        }
    } else if (strcmp(precision, "int8") == 0) {
        out->compute = SMHF_DTYPE_I8;
        needed = SMHF_CAP_I8;
    } else if (strcmp(precision, "fp32") != 0) {
        return smhf_fail(err, SMHF_E_ARG,
                         "precision \"%.40s\": expected \"fp32\", \"bf16\" or \"int8\"", precision);
    }
    if ((info.caps & needed) != needed) {
        return smhf_fail(err, SMHF_E_UNSUPPORTED,
                         "precision \"%s\": the backend \"%s\" (%s) does not compute it; use "
                         "\"fp32\"",
                         precision, dev->backend->name, info.name);
    }
    return SMHF_OK;
}

/* Everything but the values of the parameters. */
static smhf_status prepare_model(smhf_model *model, smhf_bytes_view config_json,
                                 const smhf_model_options *options, smhf_error *err) {
    smhf_head head = SMHF_HEAD_SEQUENCE;
    if (options->task != NULL) {
        SMHF_TRY(smhf_head_parse(options->task, &head, err));
    }
    SMHF_TRY(smhf_config_parse(&model->config, config_json, options->num_labels, head, err));
    SMHF_TRY(smhf_parameters_init(&model->table, &model->config, err));
    model->max_workspaces =
        options->max_workspaces > 0 ? options->max_workspaces : DEFAULT_WORKSPACES;
    model->batch_tokens =
        options->batch_tokens > 0 ? (size_t)options->batch_tokens : DEFAULT_BATCH_TOKENS;
    model->device = smhf_strdup(options->device != NULL ? options->device : "auto");
    model->precision = smhf_strdup(options->precision != NULL ? options->precision : "fp32");
    if (model->device == NULL || model->precision == NULL) {
        return smhf_fail(err, SMHF_E_NOMEM, "model options: out of memory");
    }
    SMHF_TRY(smhf_device_open(model->device, &model->dev, err));
    smhf_device_info info;
    model->dev->backend->describe(model->dev, &info);
    model->tie_margin = smhf_tie_margin(info.i8_levels);
    if (options->batch_tokens == 0 && info.batch_tokens > 0) {
        model->batch_tokens = (size_t)info.batch_tokens;
    }
    SMHF_TRY(choose_precision(model->dev, model->precision, &model->options, err));
    return SMHF_OK;
}

static smhf_status alloc_parameters(smhf_model *model, smhf_error *err) {
    void *block = NULL;
    const size_t bytes = model->table.size * sizeof(float);
    SMHF_TRY(model->dev->backend->alloc(model->dev, &block, bytes, err));
    model->parameters = block;
    model->dev->backend->fill(model->dev, block, 0, bytes); /* the gaps between slots too */
    return SMHF_OK;
}

static smhf_values values_of(const smhf_model *model) {
    return (smhf_values){model->parameters, model->mapped.file != NULL ? &model->mapped : NULL};
}

/* How weights are used without a trainer. int8: near ties are settled, where the device can. */
static uint32_t uses_of(const smhf_model *model, smhf_dtype compute) {
    const int settles = compute == SMHF_DTYPE_I8 && model->config.head == SMHF_HEAD_SEQUENCE &&
                        model->config.problem != SMHF_PROBLEM_REGRESSION &&
                        model->dev->backend->refine != NULL;
    return SMHF_WEIGHT_FORWARD | (settles ? SMHF_WEIGHT_REST : 0);
}

static smhf_status finish_model(smhf_model *model, smhf_error *err) {
    model->options.uses = uses_of(model, model->options.compute);
    SMHF_TRY(smhf_network_init(&model->net, model->dev, &model->table, &model->config,
                               values_of(model), &model->options, err));
    return model->dev->backend->sync(model->dev, err);
}

/* Prepares the weights anew; the old ones stay when that fails. The caller writes. */
static smhf_status rebuild(smhf_model *model, const smhf_network_options *options,
                           smhf_error *err) {
    smhf_network fresh;
    smhf_status status = smhf_network_init(&fresh, model->dev, &model->table, &model->config,
                                           values_of(model), options, err);
    if (status == SMHF_OK) {
        status = model->dev->backend->sync(model->dev, err);
    }
    if (status == SMHF_OK) {
        const smhf_network old = model->net;
        fresh.generation = old.generation + 1;
        model->net = fresh;
        model->options = *options;
        fresh = old;
    }
    smhf_network_deinit(&fresh, model->dev);
    return status;
}

static smhf_status set_values(smhf_model *model, const smhf_safetensor **sources, uint64_t seed,
                              smhf_error *err);

/* From the mapped file into an arena of the model's own: now its values may change. The caller
 * writes. On failure the model stays as it was. */
static smhf_status move_to_arena(smhf_model *model, smhf_error *err) {
    if (model->mapped.file == NULL) {
        return SMHF_OK;
    }
    smhf_mapped mapped = model->mapped;
    smhf_status status = alloc_parameters(model, err);
    if (status == SMHF_OK) {
        status = set_values(model, mapped.sources, mapped.seed, err);
    }
    if (status == SMHF_OK) {
        model->mapped = (smhf_mapped){0};
        status = rebuild(model, &model->options, err);
    }
    if (status != SMHF_OK) {
        model->mapped = mapped;
        model->dev->backend->free(model->dev, model->parameters);
        model->parameters = NULL;
        return status;
    }
    smhf_mapped_deinit(&mapped);
    return SMHF_OK;
}

smhf_status smhf_model_prepare(smhf_model *model, uint32_t uses, smhf_error *err) {
    smhf_status status = SMHF_OK;
    writer_begin(model);
    smhf_network_options options = model->options;
    options.uses |= uses;
    if (options.compute == SMHF_DTYPE_I8 && (uses & SMHF_WEIGHT_BACKWARD) != 0) {
        status = smhf_fail(err, SMHF_E_UNSUPPORTED,
                           "precision \"int8\" is for inference; train in \"fp32\" or \"bf16\"");
    } else if (options.uses != model->options.uses) {
        status = move_to_arena(model, err);
        if (status == SMHF_OK) {
            status = rebuild(model, &options, err);
        }
    }
    smhf_model_write_end(model);
    return status;
}

static void free_workspaces(smhf_model *model) {
    while (model->free_workspaces != NULL) {
        smhf_workspace *ws = model->free_workspaces;
        model->free_workspaces = ws->next;
        model->workspaces--;
        smhf_workspace_deinit(ws);
        smhf_free(ws);
    }
}

smhf_status smhf_model_set_precision(smhf_model *model, const char *precision, smhf_error *err) {
    char *name = smhf_strdup(precision);
    if (name == NULL) {
        return smhf_fail_nomem(err, "precision", strlen(precision));
    }
    writer_begin(model);
    smhf_network_options options = model->options;
    smhf_status status = choose_precision(model->dev, name, &options, err);
    options.uses &= ~SMHF_WEIGHT_REST;
    if (status == SMHF_OK && options.compute == SMHF_DTYPE_I8) {
        options.uses = uses_of(model, SMHF_DTYPE_I8);
        if (model->trainers > 0) {
            status = smhf_fail(err, SMHF_E_BUSY,
                               "precision \"int8\" is for inference, and a trainer holds this "
                               "model");
        }
    }
    if (status == SMHF_OK && options.dtype != model->options.dtype && model->trainers > 0) {
        status = smhf_fail(err, SMHF_E_BUSY,
                           "precision \"%s\" keeps activations of another type, and a trainer "
                           "holds this model",
                           name);
    }
    if (status == SMHF_OK) {
        status = rebuild(model, &options, err);
    }
    if (status == SMHF_OK) {
        free_workspaces(model); /* nobody reads: all are on the list */
        smhf_free(model->precision);
        model->precision = name;
        name = NULL;
    }
    smhf_model_write_end(model);
    smhf_free(name);
    return status;
}

static smhf_model *model_alloc(smhf_error *err) {
    smhf_model *model = smhf_calloc(1, sizeof *model);
    if (model == NULL) {
        (void)smhf_fail_nomem(err, "model", sizeof *model);
        return NULL;
    }
    smhf_load_report_init(&model->report);
    pthread_mutex_init(&model->mutex, NULL);
    pthread_cond_init(&model->changed, NULL);
    return model;
}

void smhf_model_free(smhf_model *model) {
    if (model == NULL) {
        return;
    }
    SMHF_ASSERT(model->readers == 0 && !model->writing);
    free_workspaces(model);
    smhf_network_deinit(&model->net, model->dev);
    if (model->dev != NULL) {
        model->dev->backend->free(model->dev, model->parameters);
    }
    smhf_mapped_deinit(&model->mapped);
    smhf_device_close(model->dev);
    smhf_load_report_deinit(&model->report);
    smhf_parameters_deinit(&model->table);
    smhf_config_deinit(&model->config);
    smhf_free(model->device);
    smhf_free(model->precision);
    pthread_cond_destroy(&model->changed);
    pthread_mutex_destroy(&model->mutex);
    smhf_free(model);
}

/* --- values --------------------------------------------------------------------------------------
 */

/* One parameter onto the device. Waits, because the host memory may go away. */
static smhf_status upload_parameter(smhf_model *model, int index, const void *values,
                                    smhf_error *err) {
    const smhf_parameter *p = &model->table.items[index];
    model->dev->backend->upload(model->dev, model->parameters + p->offset, values,
                                p->count * sizeof(float));
    return model->dev->backend->sync(model->dev, err);
}

/* `sources` NULL, or NULL entries: new values. */
static smhf_status set_values(smhf_model *model, const smhf_safetensor **sources, uint64_t seed,
                              smhf_error *err) {
    float *scratch = NULL;
    size_t capacity = 0;
    smhf_status status = SMHF_OK;
    for (int i = 0; i < model->table.count && status == SMHF_OK; i++) {
        const smhf_parameter *p = &model->table.items[i];
        const smhf_safetensor *source = (sources != NULL) ? sources[i] : NULL;
        if (source != NULL && source->dtype == SMHF_ST_F32) {
            status = upload_parameter(model, i, source->data.data, err); /* from the map */
            continue;
        }
        if (p->count > capacity) {
            smhf_free(scratch);
            capacity = p->count;
            scratch = smhf_malloc_aligned(capacity * sizeof *scratch, SMHF_CACHE_LINE);
        }
        if (scratch == NULL) {
            status = smhf_fail_nomem(err, p->name, capacity * sizeof *scratch);
            break;
        }
        if (source != NULL) {
            status = smhf_safetensor_to_f32(source, scratch, err);
        } else {
            smhf_parameter_fill(&model->table, i, &model->config, seed, scratch);
        }
        if (status == SMHF_OK) {
            status = upload_parameter(model, i, scratch, err);
        }
    }
    smhf_free(scratch);
    return status;
}

/* A device that reads host memory uses the file where it lies; others get a copy. */
static smhf_status load_values(smhf_model *model, const char *path,
                               const smhf_model_options *options, smhf_error *err) {
    const uint64_t seed = options->seed;
    smhf_device_info info;
    smhf_safetensors *file = NULL;
    const smhf_safetensor **sources = NULL;
    smhf_status status = smhf_safetensors_open(path, &file, err);
    if (status != SMHF_OK) {
        return status;
    }
    sources = smhf_calloc((size_t)model->table.count, sizeof(const smhf_safetensor *));
    if (sources == NULL) {
        status = smhf_fail_nomem(err, path, (size_t)model->table.count * sizeof *sources);
    } else {
        status = smhf_parameters_match(&model->table, file, options->remake_head, sources,
                                       &model->report, err);
    }
    model->dev->backend->describe(model->dev, &info);
    if (status == SMHF_OK && (info.caps & SMHF_CAP_HOST_MEMORY) != 0) {
        status = smhf_mapped_init(&model->mapped, &model->table, &model->config, file, sources,
                                  seed, err);
        file = NULL;
        sources = NULL;
    } else if (status == SMHF_OK) {
        status = alloc_parameters(model, err);
        if (status == SMHF_OK) {
            status = set_values(model, sources, seed, err);
        }
    }
    if (status != SMHF_OK) {
        smhf_error_prefix(err, "%s", path);
    }
    smhf_free(sources);
    smhf_safetensors_close(file);
    return status;
}

static smhf_status join_path(char *out, size_t size, const char *folder, const char *name,
                             smhf_error *err) {
    const int written = snprintf(out, size, "%s/%s", folder, name);
    if (written < 0 || (size_t)written >= size) {
        return smhf_fail(err, SMHF_E_ARG, "path too long: %.80s...", folder);
    }
    return SMHF_OK;
}

static smhf_status open_into(smhf_model *model, const char *folder, smhf_buffer *json,
                             const smhf_model_options *options, smhf_error *err) {
    char path[4096];
    SMHF_TRY(join_path(path, sizeof path, folder, "config.json", err));
    SMHF_TRY(smhf_file_read(path, json, err));
    const smhf_status status = prepare_model(model, smhf_buffer_view(json), options, err);
    if (status != SMHF_OK) {
        smhf_error_prefix(err, "%s", folder);
        return status;
    }
    SMHF_TRY(join_path(path, sizeof path, folder, "model.safetensors", err));
    SMHF_TRY(load_values(model, path, options, err));
    return finish_model(model, err);
}

smhf_status smhf_model_open(const char *folder, const smhf_model_options *options, smhf_model **out,
                            smhf_error *err) {
    smhf_buffer json;
    *out = NULL;
    smhf_model *model = model_alloc(err);
    if (model == NULL) {
        return SMHF_E_NOMEM;
    }
    smhf_buffer_init(&json, MAX_CONFIG);
    const smhf_status status = open_into(model, folder, &json, options, err);
    smhf_buffer_deinit(&json);
    if (status != SMHF_OK) {
        smhf_model_free(model);
        return status;
    }
    *out = model;
    return SMHF_OK;
}

static smhf_status new_into(smhf_model *model, smhf_bytes_view config_json,
                            const smhf_model_options *options, smhf_error *err) {
    SMHF_TRY(prepare_model(model, config_json, options, err));
    SMHF_TRY(alloc_parameters(model, err));
    SMHF_TRY(set_values(model, NULL, options->seed, err));
    return finish_model(model, err);
}

smhf_status smhf_model_new(smhf_bytes_view config_json, const smhf_model_options *options,
                           smhf_model **out, smhf_error *err) {
    *out = NULL;
    smhf_model *model = model_alloc(err);
    if (model == NULL) {
        return SMHF_E_NOMEM;
    }
    const smhf_status status = new_into(model, config_json, options, err);
    if (status != SMHF_OK) {
        smhf_model_free(model);
        return status;
    }
    *out = model;
    return SMHF_OK;
}

/* --- saving --------------------------------------------------------------------------------------
 */

static smhf_status write_parameter(smhf_model *model, int index, smhf_safetensors_writer *writer,
                                   float *piece, smhf_error *err) {
    const smhf_parameter *p = &model->table.items[index];
    for (size_t at = 0; at < p->count; at += PIECE) {
        const size_t count = (p->count - at < PIECE) ? p->count - at : PIECE;
        model->dev->backend->download(model->dev, piece, model->parameters + p->offset + at,
                                      count * sizeof *piece);
        SMHF_TRY(model->dev->backend->sync(model->dev, err));
        SMHF_TRY(smhf_safetensors_writer_append(writer, piece, count, err));
    }
    return SMHF_OK;
}

/* `piece` holds PIECE floats, or a whole parameter when the model is mapped. */
static smhf_status write_values(smhf_model *model, smhf_safetensors_writer *writer, float *piece,
                                smhf_error *err) {
    for (int i = 0; i < model->table.count; i++) {
        if (model->mapped.file == NULL) {
            SMHF_TRY(write_parameter(model, i, writer, piece, err));
            continue;
        }
        SMHF_TRY(smhf_mapped_read(&model->mapped, i, piece, err));
        SMHF_TRY(smhf_safetensors_writer_append(writer, piece, model->table.items[i].count, err));
    }
    return SMHF_OK;
}

static size_t piece_floats(const smhf_model *model) {
    size_t most = PIECE;
    for (int i = 0; model->mapped.file != NULL && i < model->table.count; i++) {
        most = model->table.items[i].count > most ? model->table.items[i].count : most;
    }
    return most;
}

smhf_status smhf_model_save(smhf_model *model, const char *folder, smhf_error *err) {
    char path[4096];
    float *piece = NULL;
    smhf_safetensors_entry *entries = NULL;
    smhf_safetensors_writer *writer = NULL;
    const size_t count = (size_t)model->table.count;
    smhf_status status = join_path(path, sizeof path, folder, "model.safetensors", err);
    if (status != SMHF_OK) {
        return status;
    }
    writer_begin(model); /* model->dev is the writer's */
    piece = smhf_malloc(piece_floats(model) * sizeof *piece);
    entries = smhf_calloc(count, sizeof *entries);
    if (piece == NULL || entries == NULL) {
        status = smhf_fail_nomem(err, path, PIECE * sizeof *piece);
        goto done;
    }
    for (size_t i = 0; i < count; i++) {
        const smhf_parameter *p = &model->table.items[i];
        entries[i].name = p->name;
        entries[i].ndim = p->ndim;
        entries[i].shape[0] = (uint64_t)(p->ndim == 2 ? p->rows : p->cols);
        entries[i].shape[1] = (uint64_t)p->cols;
    }
    status = smhf_safetensors_writer_open(path, entries, count, NULL, 0, &writer, err);
    if (status == SMHF_OK) {
        status = write_values(model, writer, piece, err);
    }
    if (status == SMHF_OK) {
        status = smhf_safetensors_writer_commit(writer, err);
        writer = NULL;
    }

done:
    smhf_safetensors_writer_abort(writer);
    smhf_free(entries);
    smhf_free(piece);
    smhf_model_write_end(model);
    return status;
}

/* --- running -------------------------------------------------------------------------------------
 */

/* Picked tokens of a masked-LM call, from `pick` on, that lie below token `end`. */
static size_t picks_below(const smhf_run *run, size_t pick, size_t begin, size_t end) {
    size_t last = pick;
    if (run->picks == NULL) {
        return end - begin;
    }
    while (last < run->pick_count && (size_t)run->picks[last] < end) {
        last++;
    }
    return last - pick;
}

/* As many rows from `first` as fit the piece, one at least. Logits of a masked-LM head are as wide
 * as the vocabulary, so there their number has a limit too. */
static size_t piece_end(const smhf_model *model, const smhf_run *run, const smhf_batch *batch,
                        size_t first, size_t pick) {
    const size_t begin = (size_t)batch->cu_seqlens[first];
    const int masked = model->config.head == SMHF_HEAD_MASKED;
    const size_t most = PICK_FLOATS / (size_t)model->config.vocab;
    size_t end = first + 1;
    while (end < batch->rows) {
        const size_t stop = (size_t)batch->cu_seqlens[end + 1];
        if (stop - begin > model->batch_tokens ||
            (masked && picks_below(run, pick, begin, stop) > most)) {
            break;
        }
        end++;
    }
    return end;
}

/* Where a piece's results lie on the device; after the encoder, pooled as asked. */
static smhf_tensor results_of(const smhf_pass *pass, smhf_pooling pooling) {
    const smhf_plan *plan = pass->plan;
    const smhf_config *config = pass->net->config;
    if (config->head != SMHF_HEAD_ENCODER) {
        return plan->logits_f32;
    }
    smhf_tensor out =
        pooling == SMHF_POOLING_NONE ? plan->layers[config->layers - 1].out : plan->pooled;
    if (out.dtype != SMHF_DTYPE_F32) {
        out = smhf_tensor_of(plan->logits_f32.data, out.rows, out.cols, SMHF_DTYPE_F32);
    }
    return out;
}

typedef struct forward_pass {
    smhf_pass pass;
    smhf_pooling pooling;
} forward_pass;

/* The pack's ids -> results_of. Ops only. */
static void run_forward(void *context) {
    const forward_pass *p = context;
    const smhf_plan *plan = p->pass.plan;
    const smhf_config *config = p->pass.net->config;
    const smhf_backend *be = p->pass.dev->backend;
    smhf_forward(&p->pass);
    if (config->head != SMHF_HEAD_ENCODER) {
        return;
    }
    smhf_tensor out = plan->layers[config->layers - 1].out;
    if (p->pooling == SMHF_POOLING_MEAN) {
        be->mean_rows(p->pass.dev, plan->pooled, out, p->pass.pack);
        out = plan->pooled;
    } else if (p->pooling == SMHF_POOLING_CLS) {
        be->gather_rows(p->pass.dev, plan->pooled, out, p->pass.pack, SMHF_AXIS_ROWS);
        out = plan->pooled;
    }
    if (out.dtype != SMHF_DTYPE_F32) {
        be->convert(p->pass.dev, results_of(&p->pass, p->pooling), out);
    }
}

static size_t width_of(const smhf_config *config) {
    return (size_t)(config->head == SMHF_HEAD_ENCODER ? config->hidden
                                                      : smhf_config_outputs(config));
}

/* `every` [tokens]: 0, 1, 2 ... for a masked-LM call without picks, else NULL. */
static smhf_status forward_pieces(smhf_model *model, smhf_workspace *ws, const smhf_batch *batch,
                                  const smhf_run *run, const int32_t *every, int refined,
                                  float *out, smhf_error *err) {
    const size_t width = width_of(&model->config);
    const int masked = model->config.head == SMHF_HEAD_MASKED;
    const int tokens = smhf_config_per_token(&model->config) && run->pooling == SMHF_POOLING_NONE;
    const int32_t *picks = run->picks != NULL ? run->picks : every;
    size_t done = 0, pick = 0;
    ws->mapped = smhf_mapped_has_words(&model->mapped) ? &model->mapped : NULL;
    for (size_t first = 0; first < batch->rows;) {
        const size_t end = piece_end(model, run, batch, first, pick);
        const size_t begin = (size_t)batch->cu_seqlens[first];
        const size_t stop = (size_t)batch->cu_seqlens[end];
        const size_t picked = masked ? picks_below(run, pick, begin, stop) : 0;
        const size_t count = masked ? picked : tokens ? stop - begin : end - first;
        const smhf_piece piece = {batch, first, end, NULL, masked ? picks + pick : NULL, picked};
        if (!masked || picked > 0) {
            SMHF_TRY(smhf_workspace_fill(ws, &piece, err));
            forward_pass p = {
                .pass =
                    {
                        .dev = ws->dev,
                        .net = &model->net,
                        .plan = &ws->plan,
                        .pack = ws->pack,
                        .words = smhf_workspace_words(ws),
                        .cancel = run->cancel,
                    },
                .pooling = run->pooling,
            };
            smhf_pass_check(&p.pass); /* a recorded pass asks nobody */
            if (refined) {
                ws->dev->backend->refine(ws->dev, 1);
                run_forward(&p);
                ws->dev->backend->refine(ws->dev, 0);
            } else {
                smhf_replay_run(ws->replay, ws->pack,
                                smhf_pass_kind(&p.pass, SMHF_PASS_FORWARD, (int)run->pooling),
                                run_forward, &p);
            }
            ws->dev->backend->download(ws->dev, out + done * width,
                                       results_of(&p.pass, run->pooling).data,
                                       count * width * sizeof *out);
            SMHF_TRY(ws->dev->backend->sync(ws->dev, err));
        }
        done += count;
        pick += picked;
        first = end;
    }
    return SMHF_OK;
}

/* Rows whose label hangs on less than int8's error are computed once more. */
static smhf_status settle_ties(smhf_model *model, smhf_workspace *ws, const smhf_batch *batch,
                               const smhf_run *run, float *out, smhf_error *err) {
    smhf_ties ties;
    if ((model->options.uses & SMHF_WEIGHT_REST) == 0) {
        return SMHF_OK;
    }
    SMHF_TRY(smhf_ties_find(&ties, &model->config, batch, out, model->tie_margin, err));
    if (ties.batch.rows == 0) {
        return SMHF_OK;
    }
    const size_t width = width_of(&model->config);
    const size_t bytes = ties.batch.rows * width * sizeof *out;
    smhf_status status = SMHF_OK;
    float *again = smhf_malloc(bytes);
    if (again == NULL) {
        status = smhf_fail_nomem(err, "near ties", bytes);
    } else {
        status = forward_pieces(model, ws, &ties.batch, run, NULL, 1, again, err);
    }
    if (status == SMHF_OK) {
        smhf_ties_settle(&ties, width, again, out);
    }
    smhf_free(again);
    smhf_ties_deinit(&ties);
    return status;
}

static smhf_status check_picks(const smhf_model *model, const smhf_run *run,
                               const smhf_batch *batch, smhf_error *err) {
    const int32_t tokens = batch->rows > 0 ? batch->cu_seqlens[batch->rows] : 0;
    int32_t least = 0;
    if (run->picks != NULL && model->config.head != SMHF_HEAD_MASKED) {
        return smhf_fail(err, SMHF_E_UNSUPPORTED,
                         "picks: the model was opened for \"%s\"; open it with "
                         "task=\"masked-lm\"",
                         smhf_head_name(model->config.head));
    }
    for (size_t p = 0; run->picks != NULL && p < run->pick_count; p++) {
        if (run->picks[p] < least || run->picks[p] >= tokens) {
            return smhf_fail(err, SMHF_E_ARG, "picks[%zu]: expected %d to %d, found %d", p,
                             (int)least, (int)tokens - 1, (int)run->picks[p]);
        }
        least = run->picks[p] + 1;
    }
    return SMHF_OK;
}

/* 0, 1, 2 ...; NULL in *out for heads that do not pick. */
static smhf_status count_tokens(const smhf_model *model, const smhf_run *run,
                                const smhf_batch *batch, int32_t **out, smhf_error *err) {
    *out = NULL;
    if (model->config.head != SMHF_HEAD_MASKED || run->picks != NULL || batch->rows == 0) {
        return SMHF_OK;
    }
    const size_t tokens = (size_t)batch->cu_seqlens[batch->rows];
    int32_t *every = smhf_malloc(tokens * sizeof *every);
    if (every == NULL) {
        return smhf_fail_nomem(err, "picks", tokens * sizeof *every);
    }
    for (size_t t = 0; t < tokens; t++) {
        every[t] = (int32_t)t;
    }
    *out = every;
    return SMHF_OK;
}

smhf_status smhf_model_run(smhf_model *model, const smhf_run *run, float *out, smhf_error *err) {
    smhf_workspace *ws = NULL;
    smhf_batch packed;
    const smhf_batch *batch = run->batch;
    int32_t *every = NULL;
    if (batch != NULL) {
        SMHF_TRY(smhf_batch_check(&model->config, batch, err));
    }
    SMHF_TRY(workspace_acquire(model, &ws, err));
    smhf_status status = SMHF_OK;
    if (batch == NULL) {
        status = smhf_packing_fill(&ws->packing, &model->config, run->padded, &packed, err);
        batch = &packed;
    }
    if (status == SMHF_OK) {
        status = check_picks(model, run, batch, err);
    }
    if (status == SMHF_OK) {
        status = count_tokens(model, run, batch, &every, err);
    }
    if (status == SMHF_OK) {
        status = forward_pieces(model, ws, batch, run, every, 0, out, err);
    }
    if (status == SMHF_OK) {
        status = settle_ties(model, ws, batch, run, out, err);
    }
    smhf_free(every);
    workspace_release(model, ws);
    return status;
}

smhf_status smhf_model_forward(smhf_model *model, const smhf_batch *batch, float *logits,
                               smhf_error *err) {
    return smhf_model_run(model, &(smhf_run){.batch = batch}, logits, err);
}

smhf_status smhf_model_forward_padded(smhf_model *model, const smhf_padded *padded, float *logits,
                                      smhf_error *err) {
    return smhf_model_run(model, &(smhf_run){.padded = padded}, logits, err);
}

smhf_status smhf_model_encode(smhf_model *model, const smhf_run *run, float *out, smhf_error *err) {
    if (model->config.head != SMHF_HEAD_ENCODER) {
        return smhf_fail(err, SMHF_E_UNSUPPORTED,
                         "encode: the model was opened for \"%s\"; open it with task=\"embedding\"",
                         smhf_head_name(model->config.head));
    }
    return smhf_model_run(model, run, out, err);
}

/* --- asking --------------------------------------------------------------------------------------
 */

void smhf_model_describe(const smhf_model *model, smhf_model_info *out) {
    const smhf_config *config = &model->config;
    *out = (smhf_model_info){
        .architecture = (config->architecture == SMHF_BERT) ? "bert" : "distilbert",
        .task = smhf_head_name(config->head),
        .per_token = smhf_config_per_token(config),
        .width = (int)width_of(config),
        .vocab = config->vocab,
        .positions = config->positions,
        .types = config->types,
        .hidden = config->hidden,
        .heads = config->heads,
        .layers = config->layers,
        .feedforward = config->feedforward,
        .num_labels = config->num_labels,
        .parameter_count = (size_t)model->table.count,
        .backend = model->dev->backend->name,
        .precision = model->precision,
    };
    for (int i = 0; i < model->table.count; i++) {
        out->parameter_floats += model->table.items[i].count;
    }
}

const char *smhf_model_label(const smhf_model *model, int id) {
    SMHF_ASSERT(id >= 0 && id < model->config.num_labels);
    return model->config.labels[id];
}

void smhf_model_parameter(const smhf_model *model, size_t index, smhf_parameter_info *out) {
    SMHF_ASSERT(index < (size_t)model->table.count);
    const smhf_parameter *p = &model->table.items[index];
    *out = (smhf_parameter_info){p->name, p->ndim, {0, 0}, p->count};
    out->shape[0] = (size_t)(p->ndim == 2 ? p->rows : p->cols);
    out->shape[1] = (size_t)(p->ndim == 2 ? p->cols : 0);
}

smhf_status smhf_model_parameter_read(smhf_model *model, size_t index, float *out,
                                      smhf_error *err) {
    SMHF_ASSERT(index < (size_t)model->table.count);
    const smhf_parameter *p = &model->table.items[index];
    smhf_status status;
    writer_begin(model);
    if (model->mapped.file != NULL) {
        status = smhf_mapped_read(&model->mapped, (int)index, out, err);
    } else {
        model->dev->backend->download(model->dev, out, model->parameters + p->offset,
                                      p->count * sizeof *out);
        status = model->dev->backend->sync(model->dev, err);
    }
    smhf_model_write_end(model);
    return status;
}

smhf_status smhf_model_parameter_write(smhf_model *model, size_t index, const float *values,
                                       smhf_error *err) {
    SMHF_ASSERT(index < (size_t)model->table.count);
    writer_begin(model);
    smhf_status status = move_to_arena(model, err);
    if (status == SMHF_OK) {
        status = upload_parameter(model, (int)index, values, err);
        smhf_network_refresh(&model->net, model->dev, NULL);
        const smhf_status refreshed = model->dev->backend->sync(model->dev, err);
        status = status != SMHF_OK ? status : refreshed;
    }
    smhf_model_write_end(model);
    return status;
}

const char *smhf_model_report(const smhf_model *model, int missing, size_t index) {
    const smhf_load_report *report = &model->report;
    if (missing) {
        return index < (size_t)report->missing_count ? report->missing[index] : NULL;
    }
    return index < (size_t)report->unexpected_count ? report->unexpected[index] : NULL;
}
