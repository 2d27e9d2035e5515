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
        smhf_step_report report = {0, 0, 0};
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
    RUN(test_threads);
    smhf_pool_shutdown();
    return smhf_test_finish();
}
