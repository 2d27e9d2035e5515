/* test_cuda_model.c: the whole network on the CUDA backend on the host: the golden cases of
 * PyTorch, and training with dropout step by step beside the CPU backend. */
int test_model_main(void);
#define main test_model_main
#include "test_model.c"
#undef main

#include "cuda_test_device.h"

#define TRAIN_STEPS 10
#define TRAIN_ROWS 5

static const char BERT_TOY[] =
    "{\"model_type\": \"bert\", \"vocab_size\": 50, \"max_position_embeddings\": 70, "
    "\"hidden_size\": 48, \"num_attention_heads\": 3, \"num_hidden_layers\": 3, "
    "\"intermediate_size\": 72, \"hidden_dropout_prob\": 0.2, \"type_vocab_size\": 2, "
    "\"attention_probs_dropout_prob\": 0.3, \"initializer_range\": 0.2, \"num_labels\": 3, "
    "\"architectures\": [\"BertForSequenceClassification\"]}";

/* What ten steps left behind. */
typedef struct course {
    float losses[TRAIN_STEPS], norms[TRAIN_STEPS], logits[TRAIN_ROWS * 3];
    float *first, *gradients, *parameters; /* gradients of the first and last step; of the end */
    size_t floats;
} course;

/* Another batch every step: sequences of 1 to 64 tokens. */
static smhf_batch batch_of(int step, int32_t *ids, int32_t *types, int32_t *offsets,
                           int32_t *labels) {
    static const int32_t lengths[3][TRAIN_ROWS] = {
        {4, 31, 1, 17, 9}, {32, 2, 25, 7, 13}, {5, 5, 30, 16, 8}};
    int32_t at = 0;
    for (int r = 0; r < TRAIN_ROWS; r++) {
        offsets[r] = at;
        labels[r] = (r + step) % 3;
        for (int32_t i = 0; i < lengths[step % 3][r]; i++) {
            ids[at] = (at * 7 + step * 13 + i * i) % 50;
            types[at] = i > 3;
            at++;
        }
    }
    offsets[TRAIN_ROWS] = at;
    return (smhf_batch){ids, types, offsets, TRAIN_ROWS};
}

static void read_all(smhf_model *model, smhf_trainer *trainer, course *out) {
    smhf_error err = SMHF_ERROR_INIT;
    smhf_model_info info;
    smhf_model_describe(model, &info);
    out->floats = (size_t)info.parameter_floats;
    out->gradients = calloc(out->floats, sizeof(float));
    out->parameters = calloc(out->floats, sizeof(float));
    size_t at = 0;
    for (size_t i = 0; i < info.parameter_count; i++) {
        smhf_parameter_info p;
        smhf_model_parameter(model, i, &p);
        if (strstr(p.name, "k_lin.bias") != NULL || strstr(p.name, "key.bias") != NULL) {
            at += p.count; /* softmax does not see it: its gradient is rounding, which AdamW blows
                              up to whole steps */
            continue;
        }
        CHECK_OK(smhf_trainer_gradient_read(trainer, i, out->gradients + at, &err), &err);
        CHECK_OK(smhf_model_parameter_read(model, i, out->parameters + at, &err), &err);
        at += p.count;
    }
    CHECK_INT(at, out->floats);
}

static void run_course(const char *device, const char *precision, const char *config, course *out) {
    smhf_error err = SMHF_ERROR_INIT;
    smhf_model_options options = SMHF_MODEL_DEFAULTS;
    smhf_trainer_options training = SMHF_TRAINER_DEFAULTS;
    smhf_model *model = NULL;
    smhf_trainer *trainer = NULL;
    smhf_step_report report;
    int32_t ids[200], types[200], offsets[TRAIN_ROWS + 1], labels[TRAIN_ROWS];
    options.device = device;
    options.precision = precision;
    training.learning_rate = 1e-3;
    training.total_steps = 20;
    training.weight_decay = 0.01;
    memset(out, 0, sizeof *out);
    CHECK_OK(smhf_model_new(smhf_bytes_from_string(config), &options, &model, &err), &err);
    CHECK_OK(smhf_trainer_new(model, &training, &trainer, &err), &err);
    for (int step = 0; step < TRAIN_STEPS; step++) {
        const smhf_batch batch = batch_of(step, ids, types, offsets, labels);
        const smhf_examples examples = {.batch = &batch, .labels = {labels, 4}};
        CHECK_OK(smhf_trainer_forward_backward(trainer, &examples, &out->losses[step], &err), &err);
        if (step == 0) {
            read_all(model, trainer, out);
            out->first = out->gradients;
            free(out->parameters);
        }
        CHECK_OK(smhf_trainer_optimizer_step(trainer, &report, &err), &err);
        out->norms[step] = (float)report.grad_norm;
    }
    const smhf_batch batch = batch_of(1, ids, types, offsets, labels);
    CHECK_OK(smhf_model_forward(model, &batch, out->logits, &err), &err);
    read_all(model, trainer, out);
    smhf_trainer_free(trainer);
    smhf_model_free(model);
}

static void course_free(course *c) {
    free(c->first);
    free(c->gradients);
    free(c->parameters);
}

static double farthest(const float *x, const float *y, size_t n) {
    double worst = 0.0;
    for (size_t i = 0; i < n; i++) {
        const double d = fabs((double)x[i] - (double)y[i]);
        worst = d > worst || isnan(d) ? d : worst;
    }
    return worst;
}

/* The same over parameters whose gradient was 0 or more than rounding in the first step: AdamW
 * makes nearly whole steps of the smallest gradient. The others, few, are within one step. */
static double farthest_settled(const course *x, const course *y, double step) {
    double worst = 0.0;
    size_t left = 0;
    for (size_t i = 0; i < y->floats; i++) {
        const double d = fabs((double)x->parameters[i] - (double)y->parameters[i]);
        const double g = fabs((double)y->first[i]);
        if (g > 0.0 && g < 2e-6) {
            left++;
            CHECK(d <= step);
        } else {
            worst = d > worst || isnan(d) ? d : worst;
        }
    }
    CHECK(left < y->floats / 200);
    return worst;
}

/* |x - y| / |y|, lengths of vectors. */
static double apart(const float *x, const float *y, size_t n) {
    double off = 0.0, size = 0.0;
    for (size_t i = 0; i < n; i++) {
        off += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
        size += (double)y[i] * (double)y[i];
    }
    return sqrt(off / size);
}

/* Dropout on: the masks are the same, so the courses are. */
static void compare_courses(const char *config) {
    course cpu, cuda;
    run_course("cpu", "fp32", config, &cpu);
    run_course(DEVICE, "fp32", config, &cuda);
    CHECK_INT(cuda.floats, cpu.floats);
    CHECK(farthest(cuda.losses, cpu.losses, TRAIN_STEPS) <= 1e-5);
    for (int i = 0; i < TRAIN_STEPS; i++) { /* a norm is as large as its gradients are */
        CHECK(fabs((double)cuda.norms[i] - (double)cpu.norms[i]) <= 1e-5 * (double)cpu.norms[i]);
    }
    CHECK(farthest(cuda.logits, cpu.logits, TRAIN_ROWS * 3) <= 2e-5);
    CHECK(farthest(cuda.gradients, cpu.gradients, cpu.floats) <= 2e-5);
    CHECK(farthest_settled(&cuda, &cpu, 1e-3) <= 2e-5);
    CHECK(fabsf(cpu.losses[0] - cpu.losses[TRAIN_STEPS - 1]) > 1e-3f); /* something was learnt */
    CHECK(apart(cuda.first, cpu.first, cpu.floats) <= 5e-6);           /* both round */
    course_free(&cpu);
    course_free(&cuda);
}

static const char WIDE_TOY[] = /* heads of 64: tensor cores */
    "{\"model_type\": \"distilbert\", \"vocab_size\": 50, \"max_position_embeddings\": 70, "
    "\"dim\": 128, \"n_heads\": 2, \"n_layers\": 2, \"hidden_dim\": 192, \"dropout\": 0.1, "
    "\"attention_dropout\": 0.1, \"seq_classif_dropout\": 0.1, \"num_labels\": 3}";

/* BF16 activations and products, F32 master weights, the same masks: the course is that of F32 but
 * for rounding (8 bits a number). */
static void test_bf16_follows_fp32(void) {
    course exact, half;
    run_course("cpu", "fp32", WIDE_TOY, &exact);
    run_course(DEVICE, "bf16", WIDE_TOY, &half);
    CHECK_INT(half.floats, exact.floats);
    CHECK(farthest(half.losses, exact.losses, TRAIN_STEPS) <= 1e-3);
    CHECK(farthest(half.logits, exact.logits, TRAIN_ROWS * 3) <= 5e-3);
    const double off = apart(half.first, exact.first, exact.floats);
    CHECK(off <= 0.015);
    CHECK(off > 1e-5); /* something was rounded */
    course_free(&exact);
    course_free(&half);
}

#ifndef SMHF_REAL_DEVICE
extern unsigned long cuda_host_graph_launches;

/* Recorded passes are those that are issued op by op, bit for bit; and they are used. */
static void compare_replays(const char *precision, const char *config) {
    course issued, replayed;
    setenv("SMHF_REPLAY", "0", 1);
    const unsigned long before = cuda_host_graph_launches;
    run_course(DEVICE, precision, config, &issued);
    CHECK_INT(cuda_host_graph_launches, before);
    unsetenv("SMHF_REPLAY");
    run_course(DEVICE, precision, config, &replayed);
    /* batches of two buckets, each issued first: all other passes, and all updates but the first */
    CHECK_INT(cuda_host_graph_launches - before, TRAIN_STEPS - 2 + TRAIN_STEPS - 1);
    CHECK(memcmp(issued.losses, replayed.losses, sizeof issued.losses) == 0);
    CHECK(memcmp(issued.norms, replayed.norms, sizeof issued.norms) == 0);
    CHECK(memcmp(issued.logits, replayed.logits, sizeof issued.logits) == 0);
    CHECK(memcmp(issued.gradients, replayed.gradients, issued.floats * sizeof(float)) == 0);
    CHECK(memcmp(issued.parameters, replayed.parameters, issued.floats * sizeof(float)) == 0);
    course_free(&issued);
    course_free(&replayed);
}

/* Weights prepared anew in the middle of training lie elsewhere: recordings of the old ones end. */
static void train_some(int prepare_anew, float losses[6]) {
    smhf_error err = SMHF_ERROR_INIT;
    smhf_model_options options = SMHF_MODEL_DEFAULTS;
    smhf_trainer_options training = SMHF_TRAINER_DEFAULTS;
    smhf_model *model = NULL;
    smhf_trainer *trainer = NULL;
    smhf_step_report report;
    int32_t ids[200], types[200], offsets[TRAIN_ROWS + 1], labels[TRAIN_ROWS];
    options.device = DEVICE;
    training.learning_rate = 1e-3;
    training.total_steps = 20;
    CHECK_OK(smhf_model_new(smhf_bytes_from_string(TOY), &options, &model, &err), &err);
    CHECK_OK(smhf_trainer_new(model, &training, &trainer, &err), &err);
    for (int step = 0; step < 6; step++) {
        const smhf_batch batch = batch_of(0, ids, types, offsets, labels);
        const smhf_examples examples = {.batch = &batch, .labels = {labels, 4}};
        if (step == 4 && prepare_anew) {
            CHECK_OK(smhf_model_set_precision(model, "fp32", &err), &err);
        }
        CHECK_OK(smhf_trainer_forward_backward(trainer, &examples, &losses[step], &err), &err);
        CHECK_OK(smhf_trainer_optimizer_step(trainer, &report, &err), &err);
    }
    smhf_trainer_free(trainer);
    smhf_model_free(model);
}

static void test_recordings_end_with_their_weights(void) {
    float straight[6], anew[6];
    train_some(0, straight);
    train_some(1, anew);
    CHECK(memcmp(straight, anew, sizeof straight) == 0 && straight[5] != straight[4]);
}

static void test_replays_are_the_same_bits(void) {
    compare_replays("fp32", TOY);
    compare_replays("bf16", WIDE_TOY);
    compare_replays("fp32", BERT_TOY);
}
#endif

static void test_distilbert_beside_cpu(void) {
    compare_courses(TOY);
}

static void test_bert_beside_cpu(void) {
    compare_courses(BERT_TOY);
}

#ifndef SMHF_REAL_DEVICE
/* Too large a batch is an error with numbers; the trainer goes on with a smaller one. */
static void test_too_large_a_batch(void) {
    enum { MANY = 4000, LENGTH = 32 };
    smhf_error err = SMHF_ERROR_INIT;
    smhf_model_options options = SMHF_MODEL_DEFAULTS;
    smhf_trainer_options training = SMHF_TRAINER_DEFAULTS;
    smhf_model *model = NULL;
    smhf_trainer *trainer = NULL;
    float loss = 0.0f;
    int32_t *ids = malloc(MANY * LENGTH * sizeof *ids), *labels = calloc(MANY, sizeof *labels);
    int32_t *offsets = malloc((MANY + 1) * sizeof *offsets);
    for (int i = 0; i < MANY * LENGTH; i++) {
        ids[i] = i % 50;
        offsets[i / LENGTH] = i / LENGTH * LENGTH;
    }
    offsets[MANY] = MANY * LENGTH;
    setenv("SMHF_CUDA_HOST_MEMORY", "104857600", 1);
    options.device = DEVICE;
    training.total_steps = 10;
    CHECK_OK(smhf_model_new(smhf_bytes_from_string(TOY), &options, &model, &err), &err);
    CHECK_OK(smhf_trainer_new(model, &training, &trainer, &err), &err);
    const smhf_batch large = {ids, NULL, offsets, MANY}, small = {ids, NULL, offsets, 6};
    smhf_examples examples = {.batch = &large, .labels = {labels, 4}};
    CHECK_INT(smhf_trainer_forward_backward(trainer, &examples, &loss, &err), SMHF_E_NOMEM);
    CHECK(strstr(err.message, "128000 tokens in 4000 rows (about ") != NULL);
    CHECK(strstr(err.message, "tokens would fit") != NULL);
    CHECK(strstr(err.message, "of 100.0 MiB are free") != NULL);
    examples.batch = &small;
    CHECK_OK(smhf_trainer_forward_backward(trainer, &examples, &loss, &err), &err);
    CHECK(isfinite(loss));
    smhf_trainer_free(trainer);
    smhf_model_free(model);
    unsetenv("SMHF_CUDA_HOST_MEMORY");
    free(ids);
    free(labels);
    free(offsets);
}
#endif

int main(void) {
    const char *source = getenv("SMHF_SOURCE_ROOT");
    snprintf(root, sizeof root, "%s/tests/golden/model", source != NULL ? source : ".");
    snprintf(scratch, sizeof scratch, "%s/smhf_cuda_model_XXXXXX",
             getenv("TMPDIR") != NULL ? getenv("TMPDIR") : "/tmp");
    if (mkdtemp(scratch) == NULL || !register_backends()) {
        return 1;
    }
    RUN(test_distilbert_beside_cpu);
    RUN(test_bert_beside_cpu);
    RUN(test_bf16_follows_fp32);
#ifndef SMHF_REAL_DEVICE
    RUN(test_replays_are_the_same_bits);
    RUN(test_recordings_end_with_their_weights);
    RUN(test_too_large_a_batch);
#endif
    setenv("SMHF_DEVICE", DEVICE, 1); /* the tests of the model room open "auto" */
    RUN(test_golden_distilbert);
    RUN(test_golden_bert);
    RUN(test_dropout_follows_identity);
    RUN(test_steady_state_allocates_nothing);
    RUN(test_every_allocation_may_fail);
    RUN(test_model_lives_on_after_failed_allocation);
    rmdir(scratch);
    smhf_pool_shutdown();
    return smhf_test_finish();
}
