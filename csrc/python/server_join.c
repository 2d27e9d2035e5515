/* server_join.c: tokenizer and model joined into the server's batch callback, without the GIL.
 *
 * Rows of one call may ask for different truncation; those that agree are encoded and computed
 * together, and as hardly any request asks for its own, that is nearly always all of them.
 */
#include "py_common.h"

#include "server_glue.h"

#include "common/mem.h"
#include "model/model.h"
#include "tokenizer/tokenizer.h"

#include <math.h>

struct server_join {
    PyObject *tokenizer_capsule; /* each keeps its owner alive */
    PyObject *model_capsule;
    const smhf_tokenizer *tokenizer;
    smhf_model *model;
    smhf_server_function function;
    size_t labels;
    size_t max_length;   /* tokens that the model takes, specials included */
    int truncation_left; /* the tokenizer's own side: 1 keeps the end of a text */
};

server_join *smhf_server_join_new(PyObject *tokenizer_capsule, PyObject *model_capsule,
                                  smhf_server_function function) {
    smhf_tokenizer *tokenizer = PyCapsule_GetPointer(tokenizer_capsule, "smhf.tokenizer");
    if (tokenizer == NULL) {
        return NULL;
    }
    smhf_model *model = PyCapsule_GetPointer(model_capsule, "smhf.model");
    if (model == NULL) {
        return NULL;
    }
    server_join *join = PyMem_Calloc(1, sizeof *join);
    if (join == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    smhf_tokenizer_info words;
    smhf_model_info network;
    smhf_tokenizer_describe(tokenizer, &words);
    smhf_model_describe(model, &network);
    if (words.total_size > network.vocab) {
        PyErr_Format(PyExc_ValueError,
                     "tokenizer and model do not fit each other: the vocabulary has %d tokens, the "
                     "model's embedding %d rows",
                     (int)words.total_size, network.vocab);
        PyMem_Free(join);
        return NULL;
    }
    join->tokenizer = tokenizer;
    join->model = model;
    join->tokenizer_capsule = Py_NewRef(tokenizer_capsule);
    join->model_capsule = Py_NewRef(model_capsule);
    join->function = function;
    join->labels = (size_t)network.num_labels;
    join->max_length = (size_t)network.positions;
    join->truncation_left = words.truncation_left;
    if (words.model_max_length > 0 && (uint64_t)words.model_max_length < join->max_length) {
        join->max_length = (size_t)words.model_max_length;
    }
    return join;
}

void smhf_server_join_free(server_join *join) {
    if (join != NULL) {
        Py_XDECREF(join->tokenizer_capsule);
        Py_XDECREF(join->model_capsule);
        PyMem_Free(join);
    }
}

int smhf_server_join_labels(const server_join *join) {
    return (int)join->labels;
}

size_t smhf_server_join_max_length(const server_join *join) {
    return join->max_length;
}

/* Logits to scores. In double, rounded once: closer to the exact value than float32 steps. */
static void apply_function(smhf_server_function function, const float *logits, size_t count,
                           float *scores) {
    if (function == SMHF_SERVER_FUNCTION_NONE) {
        memcpy(scores, logits, count * sizeof *scores);
        return;
    }
    if (function == SMHF_SERVER_FUNCTION_SIGMOID) {
        for (size_t i = 0; i < count; i++) {
            scores[i] = (float)(1.0 / (1.0 + exp(-(double)logits[i])));
        }
        return;
    }
    double most = logits[0], sum = 0.0;
    for (size_t i = 1; i < count; i++) {
        most = logits[i] > most ? logits[i] : most;
    }
    for (size_t i = 0; i < count; i++) {
        sum += exp((double)logits[i] - most);
    }
    for (size_t i = 0; i < count; i++) {
        scores[i] = (float)(exp((double)logits[i] - most) / sum);
    }
}

/* Memory of one call. */
typedef struct join_scratch {
    smhf_text_view *texts, *pairs;
    size_t *index;       /* rows of the group at hand */
    int32_t *cu_seqlens; /* of a run of rows that can be computed */
    float *logits;
    char *done;
} join_scratch;

static void scratch_free(join_scratch *scratch) {
    smhf_free(scratch->texts);
    smhf_free(scratch->pairs);
    smhf_free(scratch->index);
    smhf_free(scratch->cu_seqlens);
    smhf_free(scratch->logits);
    smhf_free(scratch->done);
}

static smhf_status scratch_init(join_scratch *scratch, size_t rows, size_t labels,
                                smhf_error *err) {
    scratch->texts = smhf_calloc(rows, sizeof *scratch->texts);
    scratch->pairs = smhf_calloc(rows, sizeof *scratch->pairs);
    scratch->index = smhf_calloc(rows, sizeof *scratch->index);
    scratch->cu_seqlens = smhf_calloc(rows + 1, sizeof *scratch->cu_seqlens);
    scratch->logits = smhf_calloc(rows * labels, sizeof *scratch->logits);
    scratch->done = smhf_calloc(rows, 1);
    if (scratch->texts == NULL || scratch->pairs == NULL || scratch->index == NULL ||
        scratch->cu_seqlens == NULL || scratch->logits == NULL || scratch->done == NULL) {
        return smhf_fail(err, SMHF_E_NOMEM, "no memory for a batch of %zu rows", rows);
    }
    return SMHF_OK;
}

/* Rows [first, last) of the encoding, all short enough, through the model. */
static smhf_status compute_run(const server_join *join, join_scratch *scratch,
                               const smhf_encoding *encoding, size_t first, size_t last,
                               smhf_error *err) {
    int32_t base = encoding->cu_seqlens[first];
    for (size_t i = first; i <= last; i++) {
        scratch->cu_seqlens[i - first] = encoding->cu_seqlens[i] - base;
    }
    smhf_batch batch = {encoding->ids + base, encoding->type_ids + base, scratch->cu_seqlens,
                        last - first};
    return smhf_model_forward(join->model, &batch, scratch->logits + first * join->labels, err);
}

static size_t row_tokens(const smhf_encoding *encoding, size_t row) {
    return (size_t)(encoding->cu_seqlens[row + 1] - encoding->cu_seqlens[row]);
}

static smhf_status compute_group(const server_join *join, join_scratch *scratch,
                                 const smhf_encoding *encoding, const smhf_server_row *rows,
                                 smhf_server_result *results, smhf_error *err) {
    size_t count = encoding->rows, first = 0;
    while (first < count) { /* texts that were not to be cut and are too long split the group */
        size_t last = first;
        while (last < count && row_tokens(encoding, last) <= join->max_length) {
            last++;
        }
        if (last > first) {
            SMHF_TRY(compute_run(join, scratch, encoding, first, last, err));
        }
        for (size_t i = first; i < last; i++) {
            size_t row = scratch->index[i];
            smhf_server_function function = rows[row].function;
            apply_function(function == SMHF_SERVER_FUNCTION_DEFAULT ? join->function : function,
                           scratch->logits + i * join->labels, join->labels, results[row].scores);
            results[row].truncated = encoding->truncated[i];
        }
        if (last < count) {
            smhf_error *row_error = &results[scratch->index[last]].error;
            smhf_status noted = smhf_fail(row_error, SMHF_E_ARG,
                                          "the text has %zu tokens, the model takes %zu, and "
                                          "truncation is off",
                                          row_tokens(encoding, last), join->max_length);
            (void)noted;
            last++;
        }
        first = last;
    }
    return SMHF_OK;
}

static int same_encoding(const smhf_server_row *a, const smhf_server_row *b) {
    return a->truncation == b->truncation && a->max_length == b->max_length &&
           (a->pair.data == NULL) == (b->pair.data == NULL);
}

static smhf_encode_options encode_options(const server_join *join, const smhf_server_row *row) {
    smhf_encode_options options = SMHF_ENCODE_DEFAULTS;
    options.truncation_left = join->truncation_left;
    options.max_length = join->max_length;
    if (row->max_length > 0 && (size_t)row->max_length < join->max_length) {
        options.max_length = (size_t)row->max_length;
    }
    switch (row->truncation) {
    case SMHF_SERVER_TRUNCATE_DEFAULT:
    case SMHF_SERVER_TRUNCATE_LONGEST:
        options.truncation = SMHF_TRUNCATE_LONGEST_FIRST;
        break;
    case SMHF_SERVER_TRUNCATE_FIRST:
        options.truncation = SMHF_TRUNCATE_ONLY_FIRST;
        break;
    case SMHF_SERVER_TRUNCATE_SECOND:
        options.truncation = SMHF_TRUNCATE_ONLY_SECOND;
        break;
    case SMHF_SERVER_TRUNCATE_OFF:
        options.truncation = SMHF_TRUNCATE_NONE;
        break;
    }
    return options;
}

/* All rows that agree with rows[lead]; marks them done. */
static smhf_status run_group(const server_join *join, join_scratch *scratch,
                             const smhf_server_row *rows, smhf_server_result *results, size_t lead,
                             size_t count, smhf_error *err) {
    size_t members = 0;
    for (size_t i = lead; i < count; i++) {
        if (!scratch->done[i] && same_encoding(&rows[lead], &rows[i])) {
            scratch->texts[members] = (smhf_text_view){rows[i].text.data, rows[i].text.size, 0};
            scratch->pairs[members] = (smhf_text_view){rows[i].pair.data, rows[i].pair.size, 0};
            scratch->index[members++] = i;
            scratch->done[i] = 1;
        }
    }
    smhf_encode_options options = encode_options(join, &rows[lead]);
    smhf_encoding *encoding = NULL;
    smhf_status status = smhf_tokenizer_encode_batch(
        join->tokenizer, scratch->texts, rows[lead].pair.data != NULL ? scratch->pairs : NULL,
        members, &options, &encoding, err);
    if (status == SMHF_OK) {
        status = compute_group(join, scratch, encoding, rows, results, err);
    }
    smhf_encoding_free(encoding);
    return status;
}

smhf_status smhf_server_join_batch(const server_join *join, const smhf_server_row *rows,
                                   smhf_server_result *results, size_t count, smhf_error *err) {
    join_scratch scratch = {0};
    smhf_status status = scratch_init(&scratch, count, join->labels, err);
    for (size_t i = 0; status == SMHF_OK && i < count; i++) {
        if (!scratch.done[i]) {
            status = run_group(join, &scratch, rows, results, i, count, err);
        }
    }
    scratch_free(&scratch);
    return status;
}
