/* test_backend_async.c: the network over a device that runs late and cannot be looked into.
 *
 * forward.c and backward.c, unchanged, on the backend of async_backend.h: every answer must have
 * the bits of the CPU backend, which runs each op at once. */
#include "async_backend.h"
#include "model/model.h"
#include "model/trainer.h"
#include "smhf_test.h"

#include "common/pool.h"

#define TOKENS 61
#define ROWS 5
#define STEPS 4

static const char DISTILBERT[] =
    "{\"model_type\": \"distilbert\", \"architectures\": "
    "[\"DistilBertForSequenceClassification\"], \"vocab_size\": 97, "
    "\"max_position_embeddings\": 40, \"dim\": 24, \"n_heads\": 3, \"n_layers\": 3, "
    "\"hidden_dim\": 52, \"dropout\": 0.1, \"attention_dropout\": 0.1, "
    "\"seq_classif_dropout\": 0.2, \"activation\": \"gelu\", \"num_labels\": 3, "
    "\"pad_token_id\": 0}";
static const char BERT[] =
    "{\"model_type\": \"bert\", \"architectures\": [\"BertForSequenceClassification\"], "
    "\"vocab_size\": 97, \"max_position_embeddings\": 40, \"type_vocab_size\": 2, "
    "\"hidden_size\": 24, \"num_attention_heads\": 3, \"num_hidden_layers\": 3, "
    "\"intermediate_size\": 52, \"hidden_dropout_prob\": 0.1, "
    "\"attention_probs_dropout_prob\": 0.1, \"hidden_act\": \"gelu\", \"num_labels\": 3, "
    "\"layer_norm_eps\": 1e-12, \"pad_token_id\": 0}";

static int32_t ids[TOKENS], types[TOKENS], labels[ROWS];
static const int32_t cu_seqlens[ROWS + 1] = {0, 1, 14, 17, 48, TOKENS};

/* The batch of one step: other words each time, the same arrays, so that a stale read shows. */
static smhf_batch make_batch(uint32_t step) {
    for (uint32_t t = 0; t < TOKENS; t++) {
        uint32_t counter[4] = {t, step, 0, 0}, draws[4];
        smhf_philox(counter, 7, draws);
        ids[t] = (int32_t)(draws[0] % 97);
        types[t] = (int32_t)(draws[1] % 2);
    }
    for (uint32_t r = 0; r < ROWS; r++) {
        labels[r] = (int32_t)((r + step) % 3);
    }
    smhf_batch batch = {ids, types, cu_seqlens, ROWS};
    return batch;
}

typedef struct outcome {
    float logits[ROWS * 3], trained[ROWS * 3];
    float losses[STEPS], norms[STEPS];
} outcome;

static smhf_status train(smhf_model *model, outcome *out, smhf_error *err) {
    smhf_trainer_options options = SMHF_TRAINER_DEFAULTS;
    smhf_trainer *trainer = NULL;
    options.total_steps = STEPS;
    options.learning_rate = 1e-3;
    options.weight_decay = 0.01;
    options.gradient_accumulation_steps = 2;
    SMHF_TRY(smhf_trainer_new(model, &options, &trainer, err));
    smhf_status status = SMHF_OK;
    for (uint32_t step = 0; step < STEPS && status == SMHF_OK; step++) {
        for (uint32_t part = 0; part < 2 && status == SMHF_OK; part++) {
            smhf_batch batch = make_batch(2 * step + part);
            smhf_examples examples = {.batch = &batch, .labels = {labels, 4}};
            status = smhf_trainer_forward_backward(trainer, &examples, &out->losses[step], err);
        }
        smhf_step_report report = {0};
        if (status == SMHF_OK) {
            status = smhf_trainer_optimizer_step(trainer, &report, err);
            out->norms[step] = (float)report.grad_norm;
        }
    }
    smhf_trainer_free(trainer);
    return status;
}

static smhf_status run_on(const char *device, const char *config, outcome *out, smhf_error *err) {
    smhf_model_options options = SMHF_MODEL_DEFAULTS;
    smhf_model *model = NULL;
    smhf_bytes_view text = {(const void *)config, strlen(config)};
    memset(out, 0, sizeof *out);
    options.device = device;
    SMHF_TRY(smhf_model_new(text, &options, &model, err));
    smhf_batch batch = make_batch(100);
    smhf_status status = smhf_model_forward(model, &batch, out->logits, err);
    if (status == SMHF_OK) {
        status = train(model, out, err);
    }
    if (status == SMHF_OK) {
        batch = make_batch(100);
        status = smhf_model_forward(model, &batch, out->trained, err);
    }
    smhf_model_free(model);
    return status;
}

static void compare(const char *config) {
    smhf_error err = SMHF_ERROR_INIT;
    outcome near_by, far_away;
    CHECK_OK(run_on("cpu", config, &near_by, &err), &err);
    CHECK_OK(run_on("async", config, &far_away, &err), &err);
    CHECK(memcmp(&near_by, &far_away, sizeof near_by) == 0);
    CHECK(isfinite(near_by.losses[0]) && isfinite(near_by.losses[STEPS - 1]));
    CHECK(near_by.norms[0] > 0.0f);
    CHECK(memcmp(near_by.logits, near_by.trained, sizeof near_by.logits) != 0);
}

static void test_distilbert_late(void) {
    compare(DISTILBERT);
}

static void test_bert_late(void) {
    compare(BERT);
}

/* --- a trainer that nobody waits for ------------------------------------------------------------
 */

#define AHEAD_STEPS 12
#define BAD_WORD 96

typedef struct ahead_run {
    smhf_model *model;
    smhf_trainer *trainer;
    smhf_step_report reports[AHEAD_STEPS];
    int reported;
} ahead_run;

static void ahead_open(ahead_run *run, const char *device) {
    smhf_error err = SMHF_ERROR_INIT;
    smhf_model_options options = SMHF_MODEL_DEFAULTS;
    smhf_trainer_options training = SMHF_TRAINER_DEFAULTS;
    smhf_bytes_view text = {(const void *)DISTILBERT, strlen(DISTILBERT)};
    memset(run, 0, sizeof *run);
    options.device = device;
    training.total_steps = 2 * AHEAD_STEPS;
    training.learning_rate = 1e-3;
    training.weight_decay = 0.01;
    CHECK_OK(smhf_model_new(text, &options, &run->model, &err), &err);
    CHECK_OK(smhf_trainer_new(run->model, &training, &run->trainer, &err), &err);
}

static void ahead_close(ahead_run *run) {
    smhf_trainer_free(run->trainer);
    smhf_model_free(run->model);
}

static smhf_status ahead_step(ahead_run *run, uint32_t step, int bad, int wait, smhf_error *err) {
    smhf_batch batch = make_batch(step);
    for (int t = 0; t < TOKENS; t++) {
        ids[t] = ids[t] == BAD_WORD ? 1 : ids[t];
    }
    ids[3] = bad ? BAD_WORD : ids[3];
    const smhf_examples examples = {.batch = &batch, .labels = {labels, 4}};
    smhf_step_report *report = &run->reports[run->reported];
    SMHF_TRY(smhf_trainer_step(run->trainer, &examples, wait ? report : NULL, err));
    int found = wait;
    if (!wait) {
        SMHF_TRY(smhf_trainer_collect(run->trainer, 0, report, &found, err));
    }
    run->reported += found;
    return SMHF_OK;
}

static void ahead_finish(ahead_run *run) {
    smhf_error err = SMHF_ERROR_INIT;
    int found = 1;
    while (found && run->reported < AHEAD_STEPS) {
        CHECK_OK(smhf_trainer_collect(run->trainer, 1, &run->reports[run->reported], &found, &err),
                 &err);
        run->reported += found;
    }
}

/* All values of the model, whose floats are `count`. */
static float *ahead_values(ahead_run *run, size_t *count) {
    smhf_error err = SMHF_ERROR_INIT;
    smhf_model_info info;
    smhf_model_describe(run->model, &info);
    *count = (size_t)info.parameter_floats;
    float *values = calloc(*count, sizeof *values);
    size_t at = 0;
    for (size_t i = 0; i < info.parameter_count; i++) {
        smhf_parameter_info p;
        smhf_model_parameter(run->model, i, &p);
        CHECK_OK(smhf_model_parameter_read(run->model, i, values + at, &err), &err);
        at += p.count;
    }
    return values;
}

static void same_values(ahead_run *a, ahead_run *b) {
    size_t count = 0;
    float *x = ahead_values(a, &count), *y = ahead_values(b, &count);
    CHECK(memcmp(x, y, count * sizeof *x) == 0);
    free(x);
    free(y);
}

/* Twelve steps without one wait for the queue, and all bits and reports are those of the CPU. */
static void test_steps_that_nobody_waits_for(void) {
    smhf_error err = SMHF_ERROR_INIT;
    ahead_run waited, ahead;
    ahead_open(&waited, "cpu");
    ahead_open(&ahead, "async");
    for (uint32_t step = 0; step < AHEAD_STEPS; step++) {
        CHECK_OK(ahead_step(&waited, step, 0, 1, &err), &err);
    }
    CHECK_OK(ahead_step(&ahead, 0, 0, 0, &err), &err); /* makes its memory */
    const unsigned long syncs = smhf_async_waits.syncs, events = smhf_async_waits.events;
    for (uint32_t step = 1; step < AHEAD_STEPS; step++) {
        CHECK_OK(ahead_step(&ahead, step, 0, 0, &err), &err);
        CHECK_INT(ahead.reported, step < 2 ? 0 : (int)step - 1); /* two steps behind */
    }
    CHECK_INT(smhf_async_waits.syncs, syncs);
    CHECK(smhf_async_waits.events > events); /* for what was queued two steps before */
    ahead_finish(&ahead);
    CHECK_INT(ahead.reported, AHEAD_STEPS);
    CHECK(memcmp(waited.reports, ahead.reports, sizeof waited.reports) == 0);
    CHECK(waited.reports[0].loss > 0.0 && waited.reports[AHEAD_STEPS - 1].step == AHEAD_STEPS);
    same_values(&waited, &ahead);
    ahead_close(&waited);
    ahead_close(&ahead);
}

/* A step that is waited for costs one wait. */
static void test_a_step_waits_once(void) {
    smhf_error err = SMHF_ERROR_INIT;
    ahead_run run;
    ahead_open(&run, "async");
    CHECK_OK(ahead_step(&run, 0, 0, 1, &err), &err);
    const unsigned long syncs = smhf_async_waits.syncs;
    for (uint32_t step = 1; step < 5; step++) {
        CHECK_OK(ahead_step(&run, step, 0, 1, &err), &err);
    }
    CHECK_INT(smhf_async_waits.syncs - syncs, 4);
    ahead_close(&run);
}

/* Weights are read, and used on another queue, while steps are under way: after those steps. */
static void test_readers_come_after_queued_steps(void) {
    smhf_error err = SMHF_ERROR_INIT;
    ahead_run waited, ahead;
    float want[ROWS * 3], got[ROWS * 3];
    ahead_open(&waited, "cpu");
    ahead_open(&ahead, "async");
    for (uint32_t step = 0; step < 3; step++) {
        CHECK_OK(ahead_step(&waited, step, 0, 1, &err), &err);
        CHECK_OK(ahead_step(&ahead, step, 0, 0, &err), &err);
    }
    smhf_batch batch = make_batch(50);
    CHECK_OK(smhf_model_forward(waited.model, &batch, want, &err), &err);
    CHECK_OK(smhf_model_forward(ahead.model, &batch, got, &err), &err);
    CHECK(memcmp(want, got, sizeof want) == 0);
    CHECK_OK(ahead_step(&waited, 3, 0, 1, &err), &err);
    CHECK_OK(ahead_step(&ahead, 3, 0, 0, &err), &err);
    same_values(&waited, &ahead);
    ahead_close(&waited);
    ahead_close(&ahead);
}

static void plant_bad_word(ahead_run *run) {
    smhf_error err = SMHF_ERROR_INIT;
    smhf_parameter_info p;
    smhf_model_parameter(run->model, 0, &p);
    float *values = malloc(p.count * sizeof *values);
    CHECK_OK(smhf_model_parameter_read(run->model, 0, values, &err), &err);
    CHECK(strstr(p.name, "word_embeddings") != NULL);
    values[BAD_WORD * 24] = NAN;
    CHECK_OK(smhf_model_parameter_write(run->model, 0, values, &err), &err);
    free(values);
}

/* The third step goes wrong and is heard of later; of what stands behind it nothing happens, and
 * training goes on as if the third step had been refused at once. */
static void test_a_bad_step_is_heard_of_later(void) {
    smhf_error err = SMHF_ERROR_INIT;
    ahead_run waited, ahead;
    ahead_open(&waited, "cpu");
    ahead_open(&ahead, "async");
    plant_bad_word(&waited);
    plant_bad_word(&ahead);
    for (uint32_t step = 0; step < 2; step++) {
        CHECK_OK(ahead_step(&waited, step, 0, 1, &err), &err);
        CHECK_OK(ahead_step(&ahead, step, 0, 0, &err), &err);
    }
    CHECK_INT(ahead_step(&waited, 2, 1, 1, &err), SMHF_E_ARG);
    CHECK(strstr(err.message, "the loss is nan at step 3 ") != NULL);
    smhf_status status = SMHF_OK;
    uint32_t step = 2;
    while (status == SMHF_OK && step < AHEAD_STEPS) {
        status = ahead_step(&ahead, step, step == 2, 0, &err);
        step++;
    }
    CHECK_INT(status, SMHF_E_ARG);
    CHECK_INT(step, 5); /* the third is looked at when the fifth needs its block */
    CHECK(strstr(err.message, "the loss is nan at step 3 ") != NULL);
    CHECK(strstr(err.message, "as they were before this step, and of the 1 queued") != NULL);
    same_values(&waited, &ahead);
    for (step = 3; step < AHEAD_STEPS; step++) {
        CHECK_OK(ahead_step(&waited, step, 0, 1, &err), &err);
        CHECK_OK(ahead_step(&ahead, step, 0, 0, &err), &err);
    }
    ahead_finish(&ahead);
    CHECK_INT(ahead.reported, AHEAD_STEPS - 1);
    CHECK(memcmp(waited.reports, ahead.reports, sizeof waited.reports) == 0);
    same_values(&waited, &ahead);
    ahead_close(&waited);
    ahead_close(&ahead);
}

/* Another number of threads, the same bits. */
static void test_threads(void) {
    smhf_error err = SMHF_ERROR_INIT;
    outcome one, three;
    smhf_pool_set_threads(1);
    CHECK_OK(run_on("cpu", DISTILBERT, &one, &err), &err);
    smhf_pool_set_threads(3);
    CHECK_OK(run_on("cpu", DISTILBERT, &three, &err), &err);
    CHECK(memcmp(&one, &three, sizeof one) == 0);
    smhf_pool_set_threads(2);
}

int main(void) {
    smhf_error err = SMHF_ERROR_INIT;
    if (smhf_backend_register(smhf_cpu_backend(), SMHF_CPU_PRIORITY, &err) != SMHF_OK ||
        smhf_backend_register(smhf_async_backend(), 0, &err) != SMHF_OK) {
        printf("%s\n", err.message);
        return 1;
    }
    RUN(test_distilbert_late);
    RUN(test_bert_late);
    RUN(test_steps_that_nobody_waits_for);
    RUN(test_a_step_waits_once);
    RUN(test_readers_come_after_queued_steps);
    RUN(test_a_bad_step_is_heard_of_later);
    RUN(test_threads);
    smhf_pool_shutdown();
    return smhf_test_finish();
}
