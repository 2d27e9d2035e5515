/* answer.c: media types, scores to bodies in the container's shapes, error bodies of both faces. */
#include "common/json.h"
#include "common/mem.h"
#include "server/server_room.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* --- media types --- */

const char *smhf_wire_mime(smhf_wire_format format) {
    return (format == SMHF_WIRE_CSV) ? "text/csv" : "application/json";
}

/* Length of a media type: up to parameters, list separator or blank. */
static size_t media_length(const char *text) {
    return strcspn(text, ";, \t");
}

static int media_is(const char *text, size_t size, const char *name) {
    return size == strlen(name) && strncasecmp(text, name, size) == 0;
}

smhf_status smhf_wire_content_type(const char *header, smhf_wire_format *out, smhf_error *err) {
    header += strspn(header, " \t");
    size_t size = media_length(header);
    *out = SMHF_WIRE_JSON;
    if (size == 0 || media_is(header, size, "application/json")) {
        return SMHF_OK;
    }
    if (media_is(header, size, "text/csv")) {
        *out = SMHF_WIRE_CSV;
        return SMHF_OK;
    }
    return smhf_fail(err, SMHF_E_UNSUPPORTED,
                     "Content type %.*s is not supported: expected application/json or text/csv",
                     (int)(size > 100 ? 100 : size), header);
}

smhf_status smhf_wire_accept(const char *header, smhf_wire_format *out, smhf_error *err) {
    const char *at = header + strspn(header, " \t");
    *out = SMHF_WIRE_JSON;
    if (*at == '\0') {
        return SMHF_OK;
    }
    while (*at != '\0') {
        size_t size = media_length(at);
        if (media_is(at, size, "application/json") || media_is(at, size, "*/*") ||
            media_is(at, size, "application/*")) {
            return SMHF_OK;
        }
        if (media_is(at, size, "text/csv")) {
            *out = SMHF_WIRE_CSV;
            return SMHF_OK;
        }
        at += strcspn(at, ",");
        at += strspn(at, ", \t");
    }
    return smhf_fail(err, SMHF_E_UNSUPPORTED,
                     "Accept type %.100s is not supported: expected application/json or text/csv",
                     header);
}

/* --- answers --- */

typedef struct ranked {
    float score;
    uint32_t label;
} ranked;

/* Highest score first; equal ones in label order, as a stable sort leaves them. */
static int compare_ranked(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    if (x->score != y->score) {
        return x->score > y->score ? -1 : 1;
    }
    return x->label < y->label ? -1 : 1;
}

static smhf_status write_entry(smhf_json_writer *json, const char *label, float score,
                               smhf_error *err) {
    SMHF_TRY(smhf_json_write_begin(json, '{', err));
    SMHF_TRY(smhf_json_write_key(json, "label", err));
    SMHF_TRY(smhf_json_write_string(json, smhf_bytes_from_string(label), err));
    SMHF_TRY(smhf_json_write_key(json, "score", err));
    SMHF_TRY(smhf_json_write_double(json, (double)score, err));
    return smhf_json_write_end(json, '}', err);
}

static size_t best_label(const float *scores, size_t count) {
    size_t best = 0;
    for (size_t i = 1; i < count; i++) {
        if (scores[i] > scores[best]) {
            best = i;
        }
    }
    return best;
}

/* The entries of one row, without the brackets. */
static smhf_status write_row(const smhf_wire_call *call, smhf_json_writer *json,
                             const char *const *labels, size_t label_count, const float *scores,
                             ranked *order, smhf_error *err) {
    if (!call->has_top_k && !call->return_all) {
        size_t best = best_label(scores, label_count);
        return write_entry(json, labels[best], scores[best], err);
    }
    for (size_t i = 0; i < label_count; i++) {
        order[i] = (ranked){scores[i], (uint32_t)i};
    }
    size_t count = label_count;
    if (call->has_top_k) {
        qsort(order, label_count, sizeof *order, compare_ranked);
        if (call->top_k > 0 && (uint64_t)call->top_k < count) {
            count = (size_t)call->top_k;
        }
    }
    for (size_t i = 0; i < count; i++) {
        SMHF_TRY(write_entry(json, labels[order[i].label], order[i].score, err));
    }
    return SMHF_OK;
}

static smhf_status encode_json_body(const smhf_wire_call *call, const char *const *labels,
                                    size_t label_count, const float *scores, ranked *order,
                                    smhf_buffer *out, smhf_error *err) {
    int lists = call->has_top_k || call->return_all;
    /* One text with top_k is a flat list, as in the pipeline; with return_all_scores it is not. */
    int outer =
        call->shape == SMHF_WIRE_LIST || (call->shape == SMHF_WIRE_TEXT && !call->has_top_k);
    smhf_json_writer json;
    smhf_json_writer_init(&json, out);
    if (outer) {
        SMHF_TRY(smhf_json_write_begin(&json, '[', err));
    }
    for (size_t row = 0; row < call->count; row++) {
        if (lists) {
            SMHF_TRY(smhf_json_write_begin(&json, '[', err));
        }
        SMHF_TRY(
            write_row(call, &json, labels, label_count, scores + row * label_count, order, err));
        if (lists) {
            SMHF_TRY(smhf_json_write_end(&json, ']', err));
        }
    }
    return outer ? smhf_json_write_end(&json, ']', err) : SMHF_OK;
}

static smhf_status write_csv_text(smhf_buffer *out, const char *text, smhf_error *err) {
    if (strpbrk(text, ",\"\r\n") == NULL) {
        return smhf_buffer_append_string(out, text, err);
    }
    SMHF_TRY(smhf_buffer_append_byte(out, '"', err));
    for (const char *at = text; *at != '\0'; at++) {
        if (*at == '"') {
            SMHF_TRY(smhf_buffer_append_byte(out, '"', err));
        }
        SMHF_TRY(smhf_buffer_append_byte(out, (uint8_t)*at, err));
    }
    return smhf_buffer_append_byte(out, '"', err);
}

static smhf_status encode_csv_body(const smhf_wire_call *call, const char *const *labels,
                                   size_t label_count, const float *scores, ranked *order,
                                   smhf_buffer *out, smhf_error *err) {
    int flat_list = call->shape == SMHF_WIRE_TEXT && call->has_top_k;
    if (call->shape == SMHF_WIRE_PAIR || (!flat_list && (call->has_top_k || call->return_all))) {
        return smhf_fail(err, SMHF_E_UNSUPPORTED,
                         "Accept text/csv: expected an answer of one entry per row; ask for "
                         "application/json with this combination of inputs and parameters");
    }
    SMHF_TRY(smhf_buffer_append_string(out, "label,score\r\n", err));
    for (size_t row = 0; row < call->count; row++) {
        const float *mine = scores + row * label_count;
        size_t count = 1;
        if (flat_list) {
            for (size_t i = 0; i < label_count; i++) {
                order[i] = (ranked){mine[i], (uint32_t)i};
            }
            qsort(order, label_count, sizeof *order, compare_ranked);
            count = (call->top_k > 0 && (uint64_t)call->top_k < label_count) ? (size_t)call->top_k
                                                                             : label_count;
        } else {
            size_t best = best_label(mine, label_count);
            order[0] = (ranked){mine[best], (uint32_t)best};
        }
        for (size_t i = 0; i < count; i++) {
            SMHF_TRY(write_csv_text(out, labels[order[i].label], err));
            SMHF_TRY(smhf_buffer_append_byte(out, ',', err));
            smhf_json_writer number;
            smhf_json_writer_init(&number, out);
            SMHF_TRY(smhf_json_write_double(&number, (double)order[i].score, err));
            SMHF_TRY(smhf_buffer_append_string(out, "\r\n", err));
        }
    }
    return SMHF_OK;
}

smhf_status smhf_wire_encode(const smhf_wire_call *call, smhf_wire_format format,
                             const char *const *labels, size_t label_count, const float *scores,
                             smhf_buffer *out, smhf_error *err) {
    char buffer[32];
    for (size_t i = 0; i < call->count * label_count; i++) {
        if (!isfinite(scores[i])) {
            return smhf_fail(err, SMHF_E_ARG, "%s: the score of label %zu is not a finite number",
                             smhf_wire_place(buffer, call->shape, i / label_count),
                             i % label_count);
        }
    }
    ranked *order = smhf_calloc(label_count + 1, sizeof *order);
    if (order == NULL) {
        return smhf_fail_nomem(err, "ranking of labels", label_count * sizeof *order);
    }
    smhf_status status = (format == SMHF_WIRE_CSV)
                             ? encode_csv_body(call, labels, label_count, scores, order, out, err)
                             : encode_json_body(call, labels, label_count, scores, order, out, err);
    smhf_free(order);
    return status;
}

/* --- errors --- */

/* A member whose value may quote a client's bytes: what is not UTF-8 becomes '?'. */
static smhf_status write_member(smhf_json_writer *json, const char *key, smhf_bytes_view value,
                                smhf_error *err) {
    SMHF_TRY(smhf_json_write_key(json, key, err));
    size_t fault = smhf_utf8_validate(value.data, value.size);
    if (fault >= value.size) {
        return smhf_json_write_string(json, value, err);
    }
    uint8_t *copy = smhf_malloc(value.size);
    if (copy == NULL) {
        return smhf_fail_nomem(err, "error body", value.size);
    }
    memcpy(copy, value.data, value.size);
    while (fault < value.size) {
        copy[fault++] = '?';
        fault += smhf_utf8_validate(copy + fault, value.size - fault);
    }
    smhf_status status = smhf_json_write_string(json, (smhf_bytes_view){copy, value.size}, err);
    smhf_free(copy);
    return status;
}

smhf_status smhf_wire_error(smhf_buffer *out, int http_status, const char *type,
                            const char *message, smhf_error *err) {
    smhf_json_writer json;
    smhf_json_writer_init(&json, out);
    SMHF_TRY(smhf_json_write_begin(&json, '{', err));
    SMHF_TRY(smhf_json_write_key(&json, "code", err));
    SMHF_TRY(smhf_json_write_int64(&json, http_status, err));
    SMHF_TRY(write_member(&json, "type", smhf_bytes_from_string(type), err));
    SMHF_TRY(write_member(&json, "message", smhf_bytes_from_string(message), err));
    return smhf_json_write_end(&json, '}', err);
}

smhf_status smhf_wire_service_error(smhf_buffer *out, const char *code, const char *message,
                                    smhf_error *err) {
    smhf_json_writer json;
    smhf_json_writer_init(&json, out);
    SMHF_TRY(smhf_json_write_begin(&json, '{', err));
    SMHF_TRY(write_member(&json, "Code", smhf_bytes_from_string(code), err));
    SMHF_TRY(write_member(&json, "Message", smhf_bytes_from_string(message), err));
    return smhf_json_write_end(&json, '}', err);
}

static smhf_status model_message(smhf_buffer *message, int http_status, const char *endpoint,
                                 smhf_bytes_view original, smhf_error *err) {
    SMHF_TRY(smhf_buffer_append_format(
        message, err, "Received %s error (%d) from endpoint %s with message \"",
        http_status >= 500 ? "server" : "client", http_status, endpoint));
    SMHF_TRY(smhf_buffer_append(message, original.data, original.size, err));
    return smhf_buffer_append_byte(message, '"', err);
}

static smhf_status model_error(smhf_json_writer *json, int http_status, smhf_bytes_view message,
                               smhf_bytes_view original, smhf_error *err) {
    const char *code = http_status >= 500 ? "SERVER_ERROR_FROM_MODEL" : "CLIENT_ERROR_FROM_MODEL";
    SMHF_TRY(smhf_json_write_begin(json, '{', err));
    SMHF_TRY(write_member(json, "ErrorCode", smhf_bytes_from_string(code), err));
    SMHF_TRY(write_member(json, "LogStreamArn", smhf_bytes_from_string(""), err));
    SMHF_TRY(write_member(json, "Message", message, err));
    SMHF_TRY(write_member(json, "OriginalMessage", original, err));
    SMHF_TRY(smhf_json_write_key(json, "OriginalStatusCode", err));
    SMHF_TRY(smhf_json_write_int64(json, http_status, err));
    return smhf_json_write_end(json, '}', err);
}

smhf_status smhf_wire_model_error(smhf_buffer *out, int http_status, const char *endpoint,
                                  smhf_bytes_view original, smhf_error *err) {
    smhf_buffer message;
    smhf_json_writer json;
    smhf_buffer_init(&message, 0);
    smhf_json_writer_init(&json, out);
    smhf_status status = model_message(&message, http_status, endpoint, original, err);
    if (status == SMHF_OK) {
        status = model_error(&json, http_status, smhf_buffer_view(&message), original, err);
    }
    smhf_buffer_deinit(&message);
    return status;
}
