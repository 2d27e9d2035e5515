/* Columns of results, and the answers that fill them. */
#include "invoker/invoker_room.h"

#include "common/json.h"
#include "common/mem.h"

#include <math.h>
#include <string.h>

#define MAX_LABEL 4096 /* bytes */

const char *smhf_row_error_name(smhf_row_error error) {
    static const char *const names[SMHF_ROW_ERROR_COUNT] = {
        "",        "input",    "model", "http",      "network",
        "timeout", "response", "auth",  "throttled", "cancelled",
    };
    return ((unsigned)error < SMHF_ROW_ERROR_COUNT) ? names[error] : "unknown";
}

/* --- distinct strings ---------------------------------------------------------------------------
 */

static uint64_t hash_text(smhf_bytes_view text) { /* FNV-1a */
    uint64_t hash = 0xCBF29CE484222325u;
    for (size_t i = 0; i < text.size; i++) {
        hash = (hash ^ text.data[i]) * 0x100000001B3u;
    }
    return hash ^ (hash >> 32);
}

static smhf_status grow_slots(smhf_interner *interner, smhf_error *err) {
    size_t count = interner->slot_count > 0 ? 2 * interner->slot_count : 64;
    uint32_t *slots = smhf_calloc(count, sizeof *slots);
    if (slots == NULL) {
        return smhf_fail_nomem(err, "results", count * sizeof *slots);
    }
    for (size_t i = 0; i < interner->count; i++) {
        size_t at = (size_t)hash_text(smhf_bytes_from_string(interner->items[i])) & (count - 1);
        while (slots[at] != 0) {
            at = (at + 1) & (count - 1);
        }
        slots[at] = (uint32_t)i + 1;
    }
    smhf_free(interner->slots);
    interner->slots = slots;
    interner->slot_count = count;
    return SMHF_OK;
}

static smhf_status append_item(smhf_interner *interner, smhf_bytes_view text, smhf_error *err) {
    if (interner->count == interner->capacity) {
        size_t capacity = interner->capacity > 0 ? 2 * interner->capacity : 16;
        char **grown = smhf_realloc(interner->items, capacity * sizeof *grown);
        if (grown == NULL) {
            return smhf_fail_nomem(err, "results", capacity * sizeof *grown);
        }
        interner->items = grown;
        interner->capacity = capacity;
    }
    char *copy = smhf_malloc(text.size + 1);
    if (copy == NULL) {
        return smhf_fail_nomem(err, "results", text.size + 1);
    }
    if (text.size > 0) {
        memcpy(copy, text.data, text.size);
    }
    copy[text.size] = '\0';
    interner->items[interner->count++] = copy;
    return SMHF_OK;
}

smhf_status smhf_interner_add(smhf_interner *interner, smhf_bytes_view text, uint32_t *out,
                              smhf_error *err) {
    if (2 * (interner->count + 1) > interner->slot_count) {
        SMHF_TRY(grow_slots(interner, err));
    }
    size_t at = (size_t)hash_text(text) & (interner->slot_count - 1);
    while (interner->slots[at] != 0) {
        const char *item = interner->items[interner->slots[at] - 1];
        if (smhf_bytes_equal_string(text, item)) {
            *out = interner->slots[at] - 1;
            return SMHF_OK;
        }
        at = (at + 1) & (interner->slot_count - 1);
    }
    SMHF_TRY(append_item(interner, text, err));
    interner->slots[at] = (uint32_t)interner->count;
    *out = (uint32_t)interner->count - 1;
    return SMHF_OK;
}

static void free_items(char **items, size_t count) {
    for (size_t i = 0; i < count; i++) {
        smhf_free(items[i]);
    }
    smhf_free(items);
}

void smhf_interner_deinit(smhf_interner *interner) {
    free_items(interner->items, interner->count);
    smhf_free(interner->slots);
    *interner = (smhf_interner){0};
}

/* --- columns ------------------------------------------------------------------------------------
 */

smhf_status smhf_predictions_new(size_t rows, smhf_predictions **out, smhf_error *err) {
    smhf_predictions *made = smhf_calloc(1, sizeof *made);
    *out = NULL;
    if (made == NULL) {
        return smhf_fail_nomem(err, "results", sizeof *made);
    }
    made->rows = rows;
    made->labels = smhf_calloc(rows + 1, sizeof *made->labels);
    made->scores = smhf_calloc(rows + 1, sizeof *made->scores);
    made->errors = smhf_calloc(rows + 1, sizeof *made->errors);
    made->attempts = smhf_calloc(rows + 1, sizeof *made->attempts);
    made->statuses = smhf_calloc(rows + 1, sizeof *made->statuses);
    made->messages = smhf_calloc(rows + 1, sizeof *made->messages);
    if (made->labels == NULL || made->scores == NULL || made->errors == NULL ||
        made->attempts == NULL || made->statuses == NULL || made->messages == NULL) {
        smhf_predictions_free(made);
        return smhf_fail_nomem(err, "results", rows * 25);
    }
    for (size_t r = 0; r < rows; r++) {
        made->labels[r] = -1;
        made->scores[r] = NAN;
    }
    *out = made;
    return SMHF_OK;
}

void smhf_predictions_free(smhf_predictions *predictions) {
    if (predictions == NULL) {
        return;
    }
    smhf_free(predictions->labels);
    smhf_free(predictions->scores);
    smhf_free(predictions->errors);
    smhf_free(predictions->attempts);
    smhf_free(predictions->statuses);
    smhf_free(predictions->messages);
    free_items(predictions->label_names, predictions->label_count);
    free_items(predictions->message_texts, predictions->message_count);
    smhf_free(predictions);
}

/* --- answers ------------------------------------------------------------------------------------
 */

static smhf_status parse_fields(smhf_json_reader *reader, size_t item, smhf_interner *labels,
                                smhf_answer *out, smhf_error *err) {
    smhf_json_event event;
    int has_label = 0, has_score = 0;
    for (;;) {
        SMHF_TRY(smhf_json_next(reader, &event, err));
        if (event.kind == SMHF_JSON_OBJECT_END) {
            break;
        }
        if (smhf_bytes_equal_string(event.text, "label") && !has_label) {
            SMHF_TRY(smhf_json_expect(reader, SMHF_JSON_STRING, "label", &event, err));
            if (event.text.size > MAX_LABEL ||
                (event.text.size > 0 && memchr(event.text.data, 0, event.text.size) != NULL)) {
                return smhf_fail_at(err, SMHF_E_PARSE, event.offset,
                                    "item %zu: a label of more than %d bytes, or with NUL", item,
                                    MAX_LABEL);
            }
            SMHF_TRY(smhf_interner_add(labels, event.text, &out->label, err));
            has_label = 1;
        } else if (smhf_bytes_equal_string(event.text, "score") && !has_score) {
            SMHF_TRY(smhf_json_expect(reader, SMHF_JSON_NUMBER, "score", &event, err));
            SMHF_TRY(smhf_json_double(&event, "score", &out->score, err));
            has_score = 1;
        } else if (smhf_bytes_equal_string(event.text, "label") ||
                   smhf_bytes_equal_string(event.text, "score")) {
            return smhf_fail_at(err, SMHF_E_PARSE, event.offset, "item %zu: a key comes twice",
                                item);
        } else {
            SMHF_TRY(smhf_json_skip(reader, err));
        }
    }
    if (!has_label || !has_score) {
        return smhf_fail_at(err, SMHF_E_PARSE, event.offset, "item %zu: no %s", item,
                            has_label ? "score" : "label");
    }
    return SMHF_OK;
}

/* One row: an object, or a list of objects of which the best is taken (the first of equals). */
static smhf_status parse_item(smhf_json_reader *reader, const smhf_json_event *begin, size_t item,
                              smhf_interner *labels, smhf_answer *out, smhf_error *err) {
    if (begin->kind == SMHF_JSON_OBJECT_BEGIN) {
        return parse_fields(reader, item, labels, out, err);
    }
    if (begin->kind != SMHF_JSON_ARRAY_BEGIN) {
        return smhf_fail_at(
            err, SMHF_E_PARSE, begin->offset,
            "item %zu: expected {\"label\", \"score\"} or a list of those, found %s", item,
            smhf_json_kind_name(begin->kind));
    }
    int found = 0;
    for (;;) {
        smhf_json_event event;
        smhf_answer one = {0, 0.0};
        SMHF_TRY(smhf_json_next(reader, &event, err));
        if (event.kind == SMHF_JSON_ARRAY_END) {
            break;
        }
        if (event.kind != SMHF_JSON_OBJECT_BEGIN) {
            return smhf_fail_at(err, SMHF_E_PARSE, event.offset,
                                "item %zu: expected a list of {\"label\", \"score\"}, found %s",
                                item, smhf_json_kind_name(event.kind));
        }
        SMHF_TRY(parse_fields(reader, item, labels, &one, err));
        if (!found || one.score > out->score) {
            *out = one;
            found = 1;
        }
    }
    return found ? SMHF_OK
                 : smhf_fail_at(err, SMHF_E_PARSE, begin->offset, "item %zu: an empty list", item);
}

static smhf_status parse_items(smhf_json_reader *reader, size_t expected, smhf_interner *labels,
                               smhf_answer *answers, smhf_error *err) {
    smhf_json_event event;
    size_t count = 0;
    SMHF_TRY(smhf_json_next(reader, &event, err));
    if (event.kind != SMHF_JSON_ARRAY_BEGIN) {
        return smhf_fail_at(err, SMHF_E_PARSE, event.offset,
                            "expected a list of %zu results, found %s", expected,
                            smhf_json_kind_name(event.kind));
    }
    for (;; count++) {
        SMHF_TRY(smhf_json_next(reader, &event, err));
        if (event.kind == SMHF_JSON_ARRAY_END) {
            break;
        }
        if (count == expected) {
            return smhf_fail_at(err, SMHF_E_PARSE, event.offset, "expected %zu results, found more",
                                expected);
        }
        SMHF_TRY(parse_item(reader, &event, count, labels, &answers[count], err));
    }
    if (count != expected) {
        return smhf_fail_at(err, SMHF_E_PARSE, event.offset, "expected %zu results, found %zu",
                            expected, count);
    }
    return smhf_json_expect(reader, SMHF_JSON_END, "end of the answer", &event, err);
}

smhf_status smhf_answers_parse(smhf_bytes_view body, size_t expected, smhf_interner *labels,
                               smhf_answer *answers, smhf_error *err) {
    smhf_json_reader reader;
    smhf_json_reader_init(&reader, body, 64, 0);
    smhf_status status = parse_items(&reader, expected, labels, answers, err);
    smhf_json_reader_deinit(&reader);
    return status;
}
