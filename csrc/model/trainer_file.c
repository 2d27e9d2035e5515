/* trainer_file.c: the optimizer's state as a safetensors file.
 *
 * Tensors "m.<parameter>" and "v.<parameter>" of what is trained; metadata smhf_kind, smhf_version,
 * step, dropout_step, seed. Everything is checked before the first byte of the trainer changes.
 */
#include "model/trainer_state.h"

#include "common/mem.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KIND "trainer-state"
#define VERSION "1"
#define MAX_NAME 176
#define PIECE ((size_t)1 << 20)

/* --- save ----------------------------------------------------------------------------------------
 */

/* Where moment i lies: m and v of parameter i / 2. */
static float *moments(const smhf_trainer *trainer, int i) {
    return (i % 2 == 0 ? trainer->m : trainer->v) + smhf_trained_place(&trainer->trained, i / 2);
}

static smhf_status write_moments(smhf_trainer *trainer, smhf_safetensors_writer *writer,
                                 float *piece, smhf_error *err) {
    const smhf_parameters *table = &trainer->model->table;
    smhf_device *dev = trainer->ws.dev;
    for (int i = 0; i < 2 * table->count; i++) {
        const smhf_parameter *p = &table->items[i / 2];
        if (trainer->trained.frozen[i / 2]) {
            continue;
        }
        const float *source = moments(trainer, i);
        for (size_t at = 0; at < p->count; at += PIECE) {
            const size_t count = (p->count - at < PIECE) ? p->count - at : PIECE;
            dev->backend->download(dev, piece, source + at, count * sizeof *piece);
            SMHF_TRY(dev->backend->sync(dev, err));
            SMHF_TRY(smhf_safetensors_writer_append(writer, piece, count, err));
        }
    }
    return SMHF_OK;
}

static smhf_status save(smhf_trainer *trainer, const char *path, smhf_error *err) {
    const smhf_parameters *table = &trainer->model->table;
    const size_t count = 2 * (size_t)trainer->trained.count;
    size_t entry = 0;
    char step[32], dropout_step[32], seed[32];
    smhf_safetensors_writer *writer = NULL;
    smhf_status status = SMHF_OK;
    if (trainer->micro_batches != 0) {
        return smhf_fail(err, SMHF_E_ARG,
                         "%s: %d micro-batches wait for an optimizer step; save after it", path,
                         trainer->micro_batches);
    }
    float *piece = smhf_malloc(PIECE * sizeof *piece);
    smhf_safetensors_entry *entries = smhf_calloc(count, sizeof *entries);
    char(*names)[MAX_NAME] = smhf_calloc(count, sizeof *names);
    if (piece == NULL || entries == NULL || names == NULL) {
        status = smhf_fail_nomem(err, path, PIECE * sizeof *piece);
        goto done;
    }
    for (int i = 0; i < 2 * table->count; i++) {
        const smhf_parameter *p = &table->items[i / 2];
        if (!trainer->trained.frozen[i / 2]) {
            snprintf(names[entry], MAX_NAME, "%c.%s", i % 2 == 0 ? 'm' : 'v', p->name);
            entries[entry] = (smhf_safetensors_entry){
                .name = names[entry],
                .ndim = p->ndim,
                .shape = {(uint64_t)(p->ndim == 2 ? p->rows : p->cols), (uint64_t)p->cols},
            };
            entry++;
        }
    }
    snprintf(step, sizeof step, "%lld", (long long)trainer->step);
    snprintf(dropout_step, sizeof dropout_step, "%lu", (unsigned long)trainer->dropout_step);
    snprintf(seed, sizeof seed, "%llu", (unsigned long long)trainer->options.seed);
    const smhf_safetensors_pair metadata[] = {{"smhf_kind", KIND},
                                              {"smhf_version", VERSION},
                                              {"step", step},
                                              {"dropout_step", dropout_step},
                                              {"seed", seed}};
    status = smhf_safetensors_writer_open(path, entries, count, metadata,
                                          sizeof metadata / sizeof metadata[0], &writer, err);
    if (status == SMHF_OK) {
        status = write_moments(trainer, writer, piece, err);
    }
    if (status == SMHF_OK) {
        status = smhf_safetensors_writer_commit(writer, err);
        writer = NULL;
    }

done:
    smhf_safetensors_writer_abort(writer);
    smhf_free(names);
    smhf_free(entries);
    smhf_free(piece);
    return status;
}

smhf_status smhf_trainer_save(smhf_trainer *trainer, const char *path, smhf_error *err) {
    SMHF_TRY(smhf_trainer_enter(trainer, err));
    smhf_status status = smhf_ahead_settle(trainer, err);
    if (status == SMHF_OK) {
        status = save(trainer, path, err);
    }
    smhf_trainer_leave(trainer);
    return status;
}

/* --- load ----------------------------------------------------------------------------------------
 */

static smhf_status read_number(const smhf_safetensors *file, const char *key, uint64_t most,
                               uint64_t *out, smhf_error *err) {
    const char *text = smhf_safetensors_metadata(file, key);
    char *end = NULL;
    errno = 0;
    const unsigned long long value = (text != NULL) ? strtoull(text, &end, 10) : 0;
    if (text == NULL || *text < '0' || *text > '9' || *end != '\0' || errno != 0 || value > most) {
        return smhf_fail(err, SMHF_E_PARSE, "metadata %s: expected a number, found \"%.40s\"", key,
                         text != NULL ? text : "");
    }
    *out = value;
    return SMHF_OK;
}

/* The moment tensor of parameter i / 2, checked; NULL when that is frozen. */
static smhf_status find_moment(const smhf_trainer *trainer, const smhf_safetensors *file, int i,
                               const smhf_safetensor **out, smhf_error *err) {
    char name[MAX_NAME];
    const smhf_parameter *p = &trainer->model->table.items[i / 2];
    snprintf(name, sizeof name, "%c.%s", i % 2 == 0 ? 'm' : 'v', p->name);
    const smhf_safetensor *tensor = smhf_safetensors_find(file, name);
    if (trainer->trained.frozen[i / 2]) {
        *out = NULL;
        return tensor == NULL ? SMHF_OK
                              : smhf_fail(err, SMHF_E_ARG,
                                          "tensor \"%s\": this trainer has that parameter "
                                          "frozen, the saved one trained it",
                                          name);
    }
    if (tensor == NULL || tensor->dtype != SMHF_ST_F32 || tensor->count != p->count) {
        return smhf_fail(err, SMHF_E_ARG,
                         "tensor \"%s\": expected %zu F32 values, found %llu %s; is the state of "
                         "another model, or of a trainer that had it frozen?",
                         name, p->count, tensor != NULL ? (unsigned long long)tensor->count : 0ull,
                         tensor != NULL ? tensor->dtype_name : "(absent)");
    }
    *out = tensor;
    return SMHF_OK;
}

static smhf_status load(smhf_trainer *trainer, const smhf_safetensors *file, smhf_error *err) {
    const smhf_parameters *table = &trainer->model->table;
    smhf_device *dev = trainer->ws.dev;
    const smhf_safetensor *tensor = NULL;
    const char *kind = smhf_safetensors_metadata(file, "smhf_kind");
    const char *version = smhf_safetensors_metadata(file, "smhf_version");
    uint64_t step = 0, dropout_step = 0, seed = 0;
    if (kind == NULL || strcmp(kind, KIND) != 0) {
        return smhf_fail(err, SMHF_E_ARG, "expected a saved trainer state, found another file");
    }
    if (version == NULL || strcmp(version, VERSION) != 0) {
        return smhf_fail(err, SMHF_E_UNSUPPORTED, "version %.20s: this build reads version %s",
                         version != NULL ? version : "(none)", VERSION);
    }
    SMHF_TRY(read_number(file, "step", INT64_MAX, &step, err));
    SMHF_TRY(read_number(file, "dropout_step", UINT32_MAX, &dropout_step, err));
    SMHF_TRY(read_number(file, "seed", UINT64_MAX, &seed, err));
    for (int i = 0; i < 2 * table->count; i++) {
        SMHF_TRY(find_moment(trainer, file, i, &tensor, err));
    }
    smhf_ahead_forget(trainer);
    for (int i = 0; i < 2 * table->count; i++) {
        SMHF_TRY(find_moment(trainer, file, i, &tensor, err));
        if (tensor != NULL) {
            dev->backend->upload(dev, moments(trainer, i), tensor->data.data,
                                 (size_t)tensor->count * sizeof(float));
        }
    }
    SMHF_TRY(dev->backend->sync(dev, err));
    trainer->step = (int64_t)step;
    trainer->dropout_step = (uint32_t)dropout_step;
    trainer->options.seed = seed;
    trainer->micro_batches = 0;
    return SMHF_OK;
}

smhf_status smhf_trainer_load(smhf_trainer *trainer, const char *path, smhf_error *err) {
    smhf_safetensors *file = NULL;
    SMHF_TRY(smhf_trainer_enter(trainer, err));
    smhf_status status = smhf_safetensors_open(path, &file, err);
    if (status == SMHF_OK) {
        status = load(trainer, file, err);
        if (status != SMHF_OK) {
            smhf_error_prefix(err, "%s", path);
        }
    }
    smhf_safetensors_close(file);
    smhf_trainer_leave(trainer);
    return status;
}
