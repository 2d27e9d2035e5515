/* test_model.c: the model room in C: golden cases of PyTorch, dropout's identities, failing the Nth
 * allocation, steady state, refusals of the parsers. */
#include "smhf_test.h"

#include "backend/backend.h"
#include "backend_cpu/backend_cpu.h"
#include "common/file.h"
#include "common/mem.h"
#include "common/pool.h"
#include "model/batch.h"
#include "model/config.h"
#include "model/model.h"
#include "model/safetensors.h"
#include "model/trainer.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#define ROWS 6
#define COLUMNS 17
#define STEPS 20

static char root[1024];    /* tests/golden/model */
static char scratch[1024]; /* a folder of this run */

static const char *path_of(const char *kind, const char *name) {
    static char path[2200];
    snprintf(path, sizeof path, "%s/%s%s%s", root, kind, name[0] != '\0' ? "/" : "", name);
    return path;
}

/* --- golden -------------------------------------------------------------------------------------
 */

static const int32_t *ints(const smhf_safetensors *file, const char *name) {
    const smhf_safetensor *tensor = smhf_safetensors_find(file, name);
    CHECK(tensor != NULL && strcmp(tensor->dtype_name, "I32") == 0);
    return tensor != NULL ? (const int32_t *)(const void *)tensor->data.data : NULL;
}

/* Largest |value - golden| of a tensor, as floats. */
static double distance(const smhf_safetensors *file, const char *prefix, const char *name,
                       const float *values, size_t count) {
    char full[256];
    double worst = 0.0;
    snprintf(full, sizeof full, "%s%s", prefix, name);
    const smhf_safetensor *tensor = smhf_safetensors_find(file, full);
    float *golden = malloc((count + 1) * sizeof *golden);
    if (tensor == NULL || golden == NULL || tensor->count != count ||
        smhf_safetensor_to_f32(tensor, golden, NULL) != SMHF_OK) {
        free(golden);
        return 1e9;
    }
    for (size_t i = 0; i < count; i++) {
        const double d = fabs((double)values[i] - (double)golden[i]);
        worst = (d > worst || isnan(d)) ? d : worst;
    }
    free(golden);
    return worst;
}

static smhf_padded case_inputs(const smhf_safetensors *file, const char *prefix, size_t step) {
    char name[64];
    const size_t at = step * ROWS * COLUMNS;
    smhf_padded padded = {{NULL, 4}, {NULL, 4}, {NULL, 4}, ROWS, COLUMNS};
    snprintf(name, sizeof name, "%sinput_ids", prefix);
    padded.ids.data = ints(file, name) + at;
    snprintf(name, sizeof name, "%sattention_mask", prefix);
    padded.mask.data = ints(file, name) + at;
    snprintf(name, sizeof name, "%stoken_type_ids", prefix);
    padded.type_ids.data = ints(file, name) + at;
    return padded;
}

/* The settings of tools/make_golden.py (metadata "training"). */
static smhf_trainer_options golden_options(void) {
    smhf_trainer_options options = SMHF_TRAINER_DEFAULTS;
    options.learning_rate = 5e-3;
    options.weight_decay = 0.01;
    options.warmup_steps = 3;
    options.total_steps = 25;
    return options;
}

static void check_gradients(const smhf_safetensors *file, smhf_model *model,
                            smhf_trainer *trainer) {
    smhf_model_info info;
    smhf_error err = SMHF_ERROR_INIT;
    smhf_model_describe(model, &info);
    for (size_t i = 0; i < info.parameter_count; i++) {
        smhf_parameter_info parameter;
        smhf_model_parameter(model, i, &parameter);
        float *gradient = malloc(parameter.count * sizeof *gradient);
        CHECK_OK(smhf_trainer_gradient_read(trainer, i, gradient, &err), &err);
        const double off = distance(file, "grad64.", parameter.name, gradient, parameter.count);
        if (!(off <= 2e-6)) {
            smhf_test_broken++;
            printf("  gradient of %s is %.3g off\n", parameter.name, off);
        }
        free(gradient);
    }
}

static void check_golden(const char *kind) {
    smhf_error err = SMHF_ERROR_INIT;
    smhf_model_options options = SMHF_MODEL_DEFAULTS;
    smhf_trainer_options training = golden_options();
    smhf_safetensors *file = NULL;
    smhf_model *model = NULL;
    smhf_trainer *trainer = NULL;
    smhf_step_report report;
    float logits[ROWS * 8], losses[STEPS], loss = 0.0f;
    smhf_model_info info;

    CHECK_OK(smhf_safetensors_open(path_of(kind, "case.safetensors"), &file, &err), &err);
    if (file == NULL) {
        return;
    }
    const char *magic = smhf_safetensors_metadata(file, "magic");
    const char *settings = smhf_safetensors_metadata(file, "training");
    CHECK(magic != NULL && strcmp(magic, "smhf-golden") == 0);
    CHECK(settings != NULL && strstr(settings, "\"learning_rate\": 0.005") != NULL);

    CHECK_OK(smhf_model_open(path_of(kind, ""), &options, &model, &err), &err);
    if (model == NULL) {
        smhf_safetensors_close(file);
        return;
    }
    smhf_model_describe(model, &info);
    const smhf_padded inputs = case_inputs(file, "", 0);
    CHECK_OK(smhf_model_forward_padded(model, &inputs, logits, &err), &err);
    CHECK(distance(file, "logits64", "", logits, ROWS * (size_t)info.num_labels) <= 2e-5);

    CHECK_OK(smhf_trainer_new(model, &training, &trainer, &err), &err);
    smhf_examples examples = {.padded = &inputs, .labels = {ints(file, "labels"), 4}};
    CHECK_OK(smhf_trainer_forward_backward(trainer, &examples, &loss, &err), &err);
    CHECK(distance(file, "loss64", "", &loss, 1) <= 2e-6);
    check_gradients(file, model, trainer);
    smhf_trainer_free(trainer); /* with gradients waiting */

    CHECK_OK(smhf_trainer_new(model, &training, &trainer, &err), &err);
    for (size_t step = 0; step < STEPS; step++) {
        const smhf_padded batch = case_inputs(file, "train.", step);
        examples.padded = &batch;
        examples.labels.data = ints(file, "train.labels") + step * ROWS;
        CHECK_OK(smhf_trainer_forward_backward(trainer, &examples, &losses[step], &err), &err);
        CHECK_OK(smhf_trainer_optimizer_step(trainer, &report, &err), &err);
        CHECK_INT(report.step, step + 1);
    }
    CHECK(distance(file, "losses64", "", losses, STEPS) <= 1e-6);
    smhf_trainer_free(trainer);
    smhf_model_free(model);
    smhf_safetensors_close(file);
}

static void test_golden_distilbert(void) {
    check_golden("distilbert");
}

static void test_golden_bert(void) {
    check_golden("bert");
}

/* --- dropout ------------------------------------------------------------------------------------
 */

static const char TOY[] =
    "{\"model_type\": \"distilbert\", \"vocab_size\": 50, \"max_position_embeddings\": 32, "
    "\"dim\": 16, \"n_heads\": 2, \"n_layers\": 2, \"hidden_dim\": 24, \"dropout\": 0.2, "
    "\"attention_dropout\": 0.3, \"seq_classif_dropout\": 0.2, \"initializer_range\": 0.2, "
    "\"num_labels\": 3}";

static smhf_model *toy_model(smhf_error *err) {
    const smhf_model_options options = SMHF_MODEL_DEFAULTS;
    smhf_model *model = NULL;
    const smhf_status status = smhf_model_new(smhf_bytes_from_string(TOY), &options, &model, err);
    CHECK(status == SMHF_OK || err->code == SMHF_E_NOMEM);
    return model;
}

/* Loss of one pass of a fresh trainer. */
static float first_loss(smhf_model *model, const smhf_batch *batch, const int32_t *labels,
                        const uint32_t *who) {
    smhf_error err = SMHF_ERROR_INIT;
    smhf_trainer_options options = SMHF_TRAINER_DEFAULTS;
    smhf_trainer *trainer = NULL;
    float loss = -1.0f;
    options.total_steps = 10;
    CHECK_OK(smhf_trainer_new(model, &options, &trainer, &err), &err);
    const smhf_examples examples = {.batch = batch, .labels = {labels, 4}, .sequence_ids = who};
    CHECK_OK(smhf_trainer_forward_backward(trainer, &examples, &loss, &err), &err);
    smhf_trainer_free(trainer);
    return loss;
}

/* A sequence draws by who it is, not by where it lies: swapped rows with swapped identities give
 * the same loss, and a row alone gives the loss that it had in company. */
static void test_dropout_follows_identity(void) {
    smhf_error err = SMHF_ERROR_INIT;
    smhf_model *model = toy_model(&err);
    const int32_t ids[] = {2, 7, 9, 3, 2, 11, 3, 2, 7, 9, 3}, offsets[] = {0, 4, 7};
    const int32_t swapped_offsets[] = {0, 3, 7}, alone_offsets[] = {0, 4};
    const int32_t labels[] = {0, 2}, swapped_labels[] = {2, 0};
    const uint32_t who[] = {40, 90}, swapped_who[] = {90, 40}, others[] = {90, 40};
    const smhf_batch batch = {ids, NULL, offsets, 2};
    const smhf_batch swapped = {ids + 4, NULL, swapped_offsets, 2};
    const smhf_batch first = {ids, NULL, alone_offsets, 1};
    const int32_t second_offsets[] = {0, 3};
    const smhf_batch second = {ids + 4, NULL, second_offsets, 1};
    const float together = first_loss(model, &batch, labels, who);

    CHECK_CLOSE(first_loss(model, &swapped, swapped_labels, swapped_who), together, 1e-6);
    CHECK(fabsf(first_loss(model, &batch, labels, others) - together) > 1e-4f);
    const float apart =
        (first_loss(model, &first, labels, who) + first_loss(model, &second, labels + 1, who + 1)) /
        2.0f;
    CHECK_CLOSE(apart, together, 1e-6);
    smhf_model_free(model);
}

/* --- memory -------------------------------------------------------------------------------------
 */

static const int32_t some_ids[] = {2, 7, 9, 3, 2, 11, 3, 2, 5, 6, 7, 8, 9, 3};
static const int32_t some_offsets[] = {0, 4, 7, 14}, some_labels[] = {0, 2, 1};
static const smhf_batch some_batch = {some_ids, NULL, some_offsets, 3};

typedef smhf_status (*scenario)(smhf_error *err);

static smhf_status scenario_open_forward(smhf_error *err) {
    const smhf_model_options options = SMHF_MODEL_DEFAULTS;
    const int64_t padded_ids[] = {2, 7, 9, 3, 2, 9, 3, 0}, mask[] = {1, 1, 1, 1, 1, 1, 1, 0};
    const smhf_padded padded = {{padded_ids, 8}, {mask, 8}, {NULL, 0}, 2, 4};
    smhf_model *model = NULL;
    float logits[32];
    smhf_status status = smhf_model_open(path_of("distilbert", ""), &options, &model, err);
    if (status == SMHF_OK) {
        status = smhf_model_forward(model, &some_batch, logits, err);
    }
    if (status == SMHF_OK) {
        status = smhf_model_forward_padded(model, &padded, logits, err);
    }
    smhf_model_free(model);
    return status;
}

static smhf_status scenario_train(smhf_error *err) {
    char path[1200];
    smhf_trainer_options options = SMHF_TRAINER_DEFAULTS;
    smhf_trainer *trainer = NULL;
    smhf_step_report report;
    const smhf_examples examples = {.batch = &some_batch, .labels = {some_labels, 4}};
    float loss;
    options.total_steps = 10;
    options.weight_decay = 0.1;
    snprintf(path, sizeof path, "%s/state.safetensors", scratch);
    smhf_model *model = toy_model(err);
    smhf_status status = (model == NULL) ? SMHF_E_NOMEM : SMHF_OK;
    if (status == SMHF_OK) {
        status = smhf_trainer_new(model, &options, &trainer, err);
    }
    if (status == SMHF_OK) {
        status = smhf_trainer_forward_backward(trainer, &examples, &loss, err);
    }
    if (status == SMHF_OK) {
        status = smhf_trainer_optimizer_step(trainer, &report, err);
    }
    if (status == SMHF_OK) {
        status = smhf_trainer_save(trainer, path, err);
    }
    if (status == SMHF_OK) {
        status = smhf_trainer_load(trainer, path, err);
    }
    smhf_trainer_free(trainer);
    smhf_model_free(model);
    return status;
}

static int stop_never(void *context) {
    ++*(int *)context;
    return 0;
}

static int stop_third(void *context) {
    return ++*(int *)context >= 3;
}

/* A masked-LM head, frozen parts, layers computed again, a pass that is broken off. */
static smhf_status scenario_masked(smhf_error *err) {
    smhf_model_options model_options = SMHF_MODEL_DEFAULTS;
    smhf_trainer_options options = SMHF_TRAINER_DEFAULTS;
    smhf_trainer *trainer = NULL;
    smhf_model *model = NULL;
    smhf_step_report report;
    int32_t words[14];
    const int32_t picks[] = {1, 9};
    int asked = 0;
    const smhf_cancel never = {stop_never, &asked}, third = {stop_third, &asked};
    smhf_examples examples = {.batch = &some_batch, .labels = {words, 4}, .cancel = &never};
    const smhf_run run = {.batch = &some_batch, .picks = picks, .pick_count = 2, .cancel = &never};
    float loss, logits[2 * 50];
    uint8_t frozen[64] = {1, 1, 0}; /* the tables */
    for (int t = 0; t < 14; t++) {
        words[t] = t % 5 == 1 ? t : -100;
    }
    options.total_steps = 10;
    options.gradient_checkpointing = 1;
    options.frozen = frozen;
    model_options.task = "masked-lm";
    smhf_status status = smhf_model_new(smhf_bytes_from_string(TOY), &model_options, &model, err);
    if (status == SMHF_OK) {
        status = smhf_trainer_new(model, &options, &trainer, err);
    }
    if (status == SMHF_OK) {
        status = smhf_trainer_forward_backward(trainer, &examples, &loss, err);
    }
    if (status == SMHF_OK) {
        status = smhf_trainer_optimizer_step(trainer, &report, err);
    }
    if (status == SMHF_OK) {
        status = smhf_model_run(model, &run, logits, err);
        CHECK(asked > 10);
    }
    if (status == SMHF_OK) {
        examples.cancel = &third;
        asked = 0;
        CHECK_INT(smhf_trainer_forward_backward(trainer, &examples, &loss, NULL), SMHF_E_CANCELLED);
        CHECK_INT(smhf_trainer_optimizer_step(trainer, &report, NULL), SMHF_E_ARG);
    }
    smhf_trainer_free(trainer);
    smhf_model_free(model);
    return status;
}

static smhf_status scenario_save(smhf_error *err) {
    smhf_model *model = toy_model(err);
    const smhf_status status =
        (model == NULL) ? SMHF_E_NOMEM : smhf_model_save(model, scratch, err);
    smhf_model_free(model);
    return status;
}

/* Fails allocation 1, 2, 3 ... until the scenario gets through without meeting the failure. */
static void torture(const char *name, scenario run) {
    smhf_error err = SMHF_ERROR_INIT;
    CHECK_OK(run(&err), &err); /* starts what stays: pool, matmul library */
    const int64_t live = smhf_mem_live();
    for (uint64_t n = 1; n < 5000; n++) {
        smhf_error_clear(&err);
        smhf_mem_fail_at(n);
        const smhf_status status = run(&err);
        const int hit = smhf_mem_fail_hit();
        smhf_mem_fail_at(0);
        if (smhf_mem_live() != live) {
            smhf_test_broken++;
            printf("  %s: allocation %llu failed and %lld blocks are left\n", name,
                   (unsigned long long)n, (long long)(smhf_mem_live() - live));
            return;
        }
        if (!hit) {
            CHECK_OK(status, &err);
            CHECK(n > 10);
            return;
        }
        if (status != SMHF_OK && (status != SMHF_E_NOMEM || err.message[0] == '\0')) {
            smhf_test_broken++;
            printf("  %s: allocation %llu failed: %s: \"%s\"\n", name, (unsigned long long)n,
                   smhf_status_name(status), err.message);
            return;
        }
    }
    smhf_test_broken++;
}

static void test_every_allocation_may_fail(void) {
    torture("open and forward", scenario_open_forward);
    torture("train", scenario_train);
    torture("masked", scenario_masked);
    torture("save", scenario_save);
}

/* A failed call leaves the model as usable as before. */
static void test_model_lives_on_after_failed_allocation(void) {
    smhf_error err = SMHF_ERROR_INIT;
    float before[9], after[9];
    smhf_model *model = toy_model(&err);
    smhf_mem_fail_at(1);
    CHECK_INT(smhf_model_forward(model, &some_batch, before, &err), SMHF_E_NOMEM);
    smhf_mem_fail_at(3);
    CHECK_INT(smhf_model_forward(model, &some_batch, before, &err), SMHF_E_NOMEM);
    smhf_mem_fail_at(0);
    CHECK_OK(smhf_model_forward(model, &some_batch, before, &err), &err);
    CHECK_OK(smhf_model_forward(model, &some_batch, after, &err), &err);
    CHECK(memcmp(before, after, sizeof before) == 0);
    smhf_model_free(model);
}

static void test_steady_state_allocates_nothing(void) {
    smhf_error err = SMHF_ERROR_INIT;
    smhf_trainer_options options = SMHF_TRAINER_DEFAULTS;
    smhf_trainer *trainer = NULL;
    smhf_step_report report;
    float loss, logits[9];
    const smhf_examples examples = {.batch = &some_batch, .labels = {some_labels, 4}};
    smhf_model *model = toy_model(&err);
    uint64_t count = 0;
    options.total_steps = 200;
    CHECK_OK(smhf_trainer_new(model, &options, &trainer, &err), &err);
    for (int step = 0; step < 102; step++) {
        if (step == 2) {
            count = smhf_mem_count();
        }
        CHECK_OK(smhf_trainer_forward_backward(trainer, &examples, &loss, &err), &err);
        CHECK_OK(smhf_trainer_optimizer_step(trainer, &report, &err), &err);
        CHECK_OK(smhf_model_forward(model, &some_batch, logits, &err), &err);
    }
    CHECK_INT(smhf_mem_count(), count);
    smhf_trainer_free(trainer);
    smhf_model_free(model);
}

/* --- threads ------------------------------------------------------------------------------------
 */

typedef struct reader {
    smhf_model *model;
    atomic_int *stop;
    int calls, faults;
} reader;

/* Rows 0 and 3 are the same text: they agree in every call, whatever step the weights are at. */
static void *read_loop(void *context) {
    reader *self = context;
    static const int32_t ids[] = {2, 7, 9, 3, 2, 11, 3, 2, 5, 6, 7, 8, 9, 3, 2, 7, 9, 3};
    static const int32_t offsets[] = {0, 4, 7, 14, 18};
    const smhf_batch batch = {ids, NULL, offsets, 4};
    while (!atomic_load(self->stop) || self->calls < 3) {
        float logits[12];
        self->faults += smhf_model_forward(self->model, &batch, logits, NULL) != SMHF_OK;
        for (int c = 0; c < 3; c++) {
            self->faults += !(fabsf(logits[c] - logits[9 + c]) <= 1e-6f);
        }
        self->calls++;
    }
    return NULL;
}

/* More readers than workspaces, one trainer, one saver (the main thread). */
static void test_readers_while_training(void) {
    enum { READERS = 6 };
    smhf_error err = SMHF_ERROR_INIT;
    smhf_trainer_options options = SMHF_TRAINER_DEFAULTS;
    smhf_trainer *trainer = NULL;
    smhf_step_report report;
    pthread_t threads[READERS];
    reader readers[READERS];
    atomic_int stop = 0;
    float loss;
    const smhf_examples examples = {.batch = &some_batch, .labels = {some_labels, 4}};
    smhf_model *model = toy_model(&err);
    options.total_steps = 100;
    options.learning_rate = 1e-2;
    CHECK_OK(smhf_trainer_new(model, &options, &trainer, &err), &err);
    for (int i = 0; i < READERS; i++) {
        readers[i] = (reader){model, &stop, 0, 0};
        CHECK_INT(pthread_create(&threads[i], NULL, read_loop, &readers[i]), 0);
    }
    for (int step = 0; step < 30; step++) {
        CHECK_OK(smhf_trainer_forward_backward(trainer, &examples, &loss, &err), &err);
        CHECK_OK(smhf_trainer_optimizer_step(trainer, &report, &err), &err);
        if (step % 10 == 0) {
            CHECK_OK(smhf_model_save(model, scratch, &err), &err);
        }
    }
    atomic_store(&stop, 1);
    for (int i = 0; i < READERS; i++) {
        pthread_join(threads[i], NULL);
        CHECK_INT(readers[i].faults, 0);
        CHECK(readers[i].calls >= 3);
    }
    smhf_trainer_free(trainer);
    smhf_model_free(model);
}

/* --- edges --------------------------------------------------------------------------------------
 */

static void test_batches_are_checked(void) {
    smhf_error err = SMHF_ERROR_INIT;
    float logits[9];
    smhf_model *model = toy_model(&err);
    const int32_t ids[] = {2, 50, 3}, late[] = {1, 3}, falling[] = {0, 3, 1}, empty[] = {0, 0, 3};
    const int32_t whole[] = {0, 3};
    const smhf_batch outside = {ids, NULL, whole, 1}, starts_late = {ids, NULL, late, 1};
    const smhf_batch falls = {some_ids, NULL, falling, 2}, hollow = {some_ids, NULL, empty, 2};
    const smhf_batch none = {NULL, NULL, NULL, 0};
    CHECK_INT(smhf_model_forward(model, &outside, logits, &err), SMHF_E_ARG);
    CHECK(strstr(err.message, "row 0, position 1: id 50") != NULL);
    CHECK_INT(smhf_model_forward(model, &starts_late, logits, &err), SMHF_E_ARG);
    CHECK_INT(smhf_model_forward(model, &falls, logits, &err), SMHF_E_ARG);
    CHECK(strstr(err.message, "cu_seqlens[2]") != NULL);
    CHECK_INT(smhf_model_forward(model, &hollow, logits, &err), SMHF_E_ARG);
    CHECK(strstr(err.message, "row 0 has no tokens") != NULL);
    CHECK_INT(smhf_model_forward(model, &none, logits, NULL), SMHF_OK);
    CHECK_INT(smhf_model_forward(model, &outside, logits, NULL), SMHF_E_ARG); /* err may be NULL */
    smhf_model_free(model);
}

static void test_schedule(void) {
    CHECK_CLOSE(smhf_schedule_factor(SMHF_SCHEDULE_LINEAR, 0, 0, 10), 1.0, 0);
    CHECK_CLOSE(smhf_schedule_factor(SMHF_SCHEDULE_LINEAR, 1, 4, 10), 0.25, 0);
    CHECK_CLOSE(smhf_schedule_factor(SMHF_SCHEDULE_LINEAR, 7, 4, 10), 0.5, 0);
    CHECK_CLOSE(smhf_schedule_factor(SMHF_SCHEDULE_LINEAR, 11, 4, 10), 0.0, 0);
    CHECK_CLOSE(smhf_schedule_factor(SMHF_SCHEDULE_COSINE, 5, 0, 10), 0.5, 1e-15);
    CHECK_CLOSE(smhf_schedule_factor(SMHF_SCHEDULE_CONSTANT, 0, 4, 0), 1.0, 0);
    CHECK_CLOSE(smhf_schedule_factor(SMHF_SCHEDULE_CONSTANT_WITH_WARMUP, 0, 4, 0), 0.0, 0);
}

/* Every prefix of a good file is refused, whatever its length, and so is every single bad byte of
 * the header that changes its meaning or not: nothing may crash. */
static void test_safetensors_survives_damage(void) {
    smhf_error err = SMHF_ERROR_INIT;
    smhf_bytes_view map = {0};
    smhf_safetensors *file = NULL;
    CHECK_OK(smhf_file_map(path_of("bert", "model.safetensors"), &map, &err), &err);
    const size_t header = 8 + ((size_t)map.data[0] | (size_t)map.data[1] << 8);
    for (size_t size = 0; size < map.size; size += (size < header + 8) ? 1 : 4099) {
        uint8_t *copy = malloc(size + 1); /* exact size: ASan sees a read past it */
        memcpy(copy, map.data, size);
        CHECK(smhf_safetensors_parse((smhf_bytes_view){copy, size}, &file, &err) != SMHF_OK);
        CHECK(file == NULL && err.message[0] != '\0');
        free(copy);
    }
    uint8_t *copy = malloc(map.size);
    int accepted = 0;
    for (size_t at = 0; at < header; at += 3) {
        memcpy(copy, map.data, map.size);
        copy[at] ^= (uint8_t)(1u << (at % 7));
        if (smhf_safetensors_parse((smhf_bytes_view){copy, map.size}, &file, &err) == SMHF_OK) {
            accepted++; /* a letter of a name */
        }
        smhf_safetensors_close(file);
    }
    CHECK(accepted > 0 && accepted < (int)(header / 3));
    free(copy);
    smhf_file_unmap(&map);
}

/* After all saves, the failed ones included, the folder holds the two files alone. */
static void test_no_temporary_file_is_left(void) {
    char path[1200];
    snprintf(path, sizeof path, "%s/state.safetensors", scratch);
    CHECK_INT(unlink(path), 0);
    snprintf(path, sizeof path, "%s/model.safetensors", scratch);
    CHECK_INT(unlink(path), 0);
    CHECK_INT(rmdir(scratch), 0);
}

int main(void) {
    smhf_error err = SMHF_ERROR_INIT;
    const char *source = getenv("SMHF_SOURCE_ROOT");
    snprintf(root, sizeof root, "%s/tests/golden/model", source != NULL ? source : ".");
    snprintf(scratch, sizeof scratch, "%s/smhf_model_XXXXXX",
             getenv("TMPDIR") != NULL ? getenv("TMPDIR") : "/tmp");
    if (mkdtemp(scratch) == NULL ||
        smhf_backend_register(smhf_cpu_backend(), SMHF_CPU_PRIORITY, &err) != SMHF_OK) {
        printf("set-up failed: %s\n", err.message);
        return 1;
    }
    RUN(test_golden_distilbert);
    RUN(test_golden_bert);
    RUN(test_dropout_follows_identity);
    RUN(test_every_allocation_may_fail);
    RUN(test_model_lives_on_after_failed_allocation);
    RUN(test_steady_state_allocates_nothing);
    RUN(test_readers_while_training);
    RUN(test_batches_are_checked);
    RUN(test_schedule);
    RUN(test_safetensors_survives_damage);
    RUN(test_no_temporary_file_is_left);
    smhf_pool_shutdown();
    return smhf_test_finish();
}
