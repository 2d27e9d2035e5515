#include "invoker/retry.h"

#include "common/json.h"
#include "common/rng.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* --- what an error body says -------------------------------------------------------------------
 */

typedef struct error_body {
    char code[96];
    char message[256];
    int original; /* OriginalStatusCode, -1: none */
    int parsed;
} error_body;

static void copy_text(char *out, size_t size, smhf_bytes_view text) {
    size_t length = (text.size < size - 1) ? text.size : size - 1;
    while (length > 0 && length < text.size && (text.data[length] & 0xC0) == 0x80) {
        length--; /* cut between characters */
    }
    for (size_t i = 0; i < length; i++) {
        if (text.data[i] == '\n' ||
            text.data[i] == '\r') { /* AWS appends the signed headers there */
            length = i;
            break;
        }
        out[i] = (char)(text.data[i] < 0x20 || text.data[i] == 0x7F ? ' ' : text.data[i]);
    }
    out[length] = '\0';
}

static int key_is(smhf_bytes_view key, const char *name) {
    return key.size == strlen(name) && strncasecmp((const char *)key.data, name, key.size) == 0;
}

typedef enum body_field {
    FIELD_NONE,
    FIELD_CODE,
    FIELD_MESSAGE,
    FIELD_OWN,
    FIELD_STATUS
} body_field;

static body_field field_of(smhf_bytes_view key) {
    if (key_is(key, "code") || key_is(key, "__type")) {
        return FIELD_CODE;
    }
    if (key_is(key, "OriginalMessage")) {
        return FIELD_OWN;
    }
    if (key_is(key, "message") || key_is(key, "error")) {
        return FIELD_MESSAGE;
    }
    return key_is(key, "OriginalStatusCode") ? FIELD_STATUS : FIELD_NONE;
}

static smhf_status read_error(smhf_json_reader *reader, error_body *out) {
    smhf_json_event event;
    int own = 0; /* the container's message was found: it beats the service's */
    SMHF_TRY(smhf_json_expect(reader, SMHF_JSON_OBJECT_BEGIN, "error", &event, NULL));
    for (;;) {
        SMHF_TRY(smhf_json_next(reader, &event, NULL));
        if (event.kind == SMHF_JSON_OBJECT_END) {
            out->parsed = 1;
            return SMHF_OK;
        }
        body_field field = field_of(event.text);
        if (field == FIELD_NONE) {
            SMHF_TRY(smhf_json_skip(reader, NULL));
            continue;
        }
        SMHF_TRY(smhf_json_next(reader, &event, NULL));
        if (event.kind == SMHF_JSON_OBJECT_BEGIN || event.kind == SMHF_JSON_ARRAY_BEGIN) {
            return SMHF_OK; /* not a shape that we read; what was found stays */
        }
        if (event.kind == SMHF_JSON_STRING && field == FIELD_CODE) {
            copy_text(out->code, sizeof out->code, event.text);
        } else if (event.kind == SMHF_JSON_STRING && field == FIELD_OWN) {
            copy_text(out->message, sizeof out->message, event.text);
            own = 1;
        } else if (event.kind == SMHF_JSON_STRING && field == FIELD_MESSAGE && !own) {
            copy_text(out->message, sizeof out->message, event.text);
        } else if (event.kind == SMHF_JSON_NUMBER && field == FIELD_STATUS) {
            int64_t value = -1;
            if (smhf_json_int64(&event, "OriginalStatusCode", &value, NULL) == SMHF_OK) {
                out->original = (int)(value < 0 || value > 999 ? -1 : value);
            }
        }
    }
}

/* The container's own error body inside OriginalMessage: {"code":400,"type":..,"message":".."}. */
static void unwrap_message(error_body *body) {
    error_body inner = {.original = -1};
    smhf_json_reader reader;
    smhf_json_reader_init(&reader, smhf_bytes_from_string(body->message), 16, 0);
    if (body->message[0] == '{' && read_error(&reader, &inner) == SMHF_OK &&
        inner.message[0] != '\0') {
        memcpy(body->message, inner.message, sizeof body->message);
    }
    smhf_json_reader_deinit(&reader);
}

static void parse_error_body(const smhf_exchange *exchange, error_body *out) {
    smhf_json_reader reader;
    *out = (error_body){.original = -1};
    smhf_json_reader_init(&reader, smhf_buffer_view(&exchange->response.body), 64, 0);
    if (read_error(&reader, out) != SMHF_OK && !out->parsed) {
        out->parsed = 0; /* HTML of a proxy, or cut: what was read before the fault still counts */
    }
    smhf_json_reader_deinit(&reader);
    unwrap_message(out);
    const char *header = exchange->error_type; /* "prefix#Code:http://..." */
    if (header[0] != '\0') {
        const char *hash = strchr(header, '#');
        header = (hash != NULL) ? hash + 1 : header;
        copy_text(out->code, sizeof out->code,
                  (smhf_bytes_view){(const uint8_t *)header, strcspn(header, ":")});
    } else {
        char *hash = strchr(out->code, '#');
        if (hash != NULL) {
            memmove(out->code, hash + 1, strlen(hash + 1) + 1);
        }
    }
}

/* --- the table ---------------------------------------------------------------------------------
 */

static int starts_with_any(const char *code, const char *const *names) {
    for (; *names != NULL; names++) {
        if (strncasecmp(code, *names, strlen(*names)) == 0) {
            return 1;
        }
    }
    return 0;
}

static const char *const THROTTLE_CODES[] = {
    "Throttl",
    "TooManyRequests",
    "RequestLimitExceeded",
    "RequestThrottled",
    "LimitExceeded",
    "BandwidthLimitExceeded",
    "SlowDown",
    "PriorRequestNotComplete",
    "ProvisionedThroughputExceeded",
    "TransactionInProgress",
    "EC2Throttled",
    "ModelNotReady",
    NULL,
};
static const char *const AUTH_CODES[] = {
    "ExpiredToken",
    "UnrecognizedClient",
    "InvalidClientToken",
    "InvalidSignature",
    "IncompleteSignature",
    "MissingAuth",
    "AccessDenied",
    "SignatureDoesNotMatch",
    "InvalidAccessKeyId",
    "AuthFailure",
    "RequestExpired",
    "RequestInTheFuture",
    "RequestTimeTooSkewed",
    "NotAuthorized",
    "OptInRequired",
    "InvalidToken",
    NULL,
};
static const char *const CLOCK_CODES[] = {
    "AuthFailure",
    "InvalidSignature",
    "RequestExpired",
    "RequestInTheFuture",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    NULL,
};

static int says_size(const char *message) {
    return strcasestr(message, "too large") != NULL || strcasestr(message, "exceed") != NULL ||
           strcasestr(message, "length less than or equal to") != NULL;
}

static void set(smhf_fault *out, smhf_verdict verdict, smhf_row_error row_error) {
    out->verdict = verdict;
    out->row_error = row_error;
}

static void judge_container(smhf_fault *out, int original) {
    if (original == 413) {
        set(out, SMHF_VERDICT_SHRINK, SMHF_ROW_INPUT);
    } else if (original == 429 || original == 503) {
        set(out, SMHF_VERDICT_THROTTLED, SMHF_ROW_THROTTLED);
    } else if (original == 0 || original == 408) { /* the container took too long */
        set(out, SMHF_VERDICT_TIMEOUT, SMHF_ROW_TIMEOUT);
    } else if (original == 507) { /* the model is being loaded or thrown out */
        set(out, SMHF_VERDICT_RETRY, SMHF_ROW_MODEL);
    } else if (original >= 400 && original < 500) {
        set(out, SMHF_VERDICT_SPLIT, SMHF_ROW_MODEL);
    } else {
        set(out, SMHF_VERDICT_RETRY, SMHF_ROW_MODEL);
        out->splits = 1;
    }
}

static void judge_400(smhf_fault *out, const char *message) {
    if (strncasecmp(out->code, "Validation", 10) == 0) {
        if (says_size(message)) {
            set(out, SMHF_VERDICT_SHRINK, SMHF_ROW_INPUT);
        } else {
            set(out, SMHF_VERDICT_FATAL, SMHF_ROW_HTTP);
        }
    } else if (strncasecmp(out->code, "RequestTimeout", 14) == 0) {
        set(out, SMHF_VERDICT_RETRY, SMHF_ROW_TIMEOUT);
    } else { /* containers answer 400 to whatever their model raises */
        set(out, SMHF_VERDICT_SPLIT, SMHF_ROW_MODEL);
    }
}

static void judge_status(smhf_fault *out, const error_body *body) {
    int status = out->status;
    if (status == 403 || status == 401 ||
        (status >= 400 && status < 500 && starts_with_any(out->code, AUTH_CODES))) {
        set(out, SMHF_VERDICT_AUTH, SMHF_ROW_AUTH);
        out->clock = starts_with_any(out->code, CLOCK_CODES);
    } else if (status == 429 || status == 503 || starts_with_any(out->code, THROTTLE_CODES)) {
        set(out, SMHF_VERDICT_THROTTLED, SMHF_ROW_THROTTLED);
    } else if (status == 424) {
        judge_container(out, body->original < 0 ? 500 : body->original);
    } else if (status == 400) {
        judge_400(out, body->message);
    } else if (status == 413) {
        set(out, SMHF_VERDICT_SHRINK, SMHF_ROW_INPUT);
    } else if (status == 408) {
        set(out, SMHF_VERDICT_RETRY, SMHF_ROW_TIMEOUT);
    } else if (status == 422) {
        set(out, SMHF_VERDICT_SPLIT, SMHF_ROW_MODEL);
    } else if (status >= 500) {
        set(out, SMHF_VERDICT_RETRY, SMHF_ROW_HTTP);
        out->splits = status == 500 && strncasecmp(out->code, "InternalFailure", 15) != 0;
    } else { /* redirects (a signature is for one host), 404, 405, 415 ... */
        set(out, SMHF_VERDICT_FATAL, SMHF_ROW_HTTP);
    }
}

static void write_sentence(const smhf_exchange *exchange, const error_body *body, smhf_fault *out) {
    char origin[40] = "", request[80] = "";
    if (body->original >= 0) {
        snprintf(origin, sizeof origin, " (container status %d)", body->original);
    }
    if (exchange->response.request_id[0] != '\0') {
        snprintf(request, sizeof request, " [request %.60s]", exchange->response.request_id);
    }
    snprintf(out->message, sizeof out->message, "HTTP %d%s%.60s%s%s%.180s%s", out->status,
             out->code[0] != '\0' ? " " : "", out->code, origin,
             body->message[0] != '\0' ? ": " : "", body->message, request);
    /* A cut inside a character must not leave half of it. */
    size_t size = strlen(out->message);
    out->message[smhf_utf8_validate((const uint8_t *)out->message, size)] = '\0';
}

void smhf_retry_classify(const smhf_exchange *exchange, smhf_fault *out) {
    memset(out, 0, sizeof *out);
    out->status = exchange->response.status;
    out->executed = exchange->maybe_executed;
    if (exchange->outcome != SMHF_OK) {
        if (exchange->outcome == SMHF_E_NOMEM) {
            set(out, SMHF_VERDICT_NOMEM, SMHF_ROW_NETWORK);
        } else if (exchange->outcome == SMHF_E_TIMEOUT) {
            set(out, SMHF_VERDICT_TIMEOUT, SMHF_ROW_TIMEOUT);
        } else if (exchange->too_large) {
            set(out, SMHF_VERDICT_SPLIT, SMHF_ROW_RESPONSE);
        } else {
            set(out, exchange->fatal ? SMHF_VERDICT_FATAL : SMHF_VERDICT_RETRY, SMHF_ROW_NETWORK);
        }
        snprintf(out->message, sizeof out->message, "no answer: %s", exchange->reason);
        size_t size = strlen(out->message);
        out->message[smhf_utf8_validate((const uint8_t *)out->message, size)] = '\0';
        return;
    }
    if (out->status >= 200 && out->status < 300) {
        return;
    }
    error_body body;
    parse_error_body(exchange, &body);
    memcpy(out->code, body.code, sizeof out->code);
    judge_status(out, &body);
    write_sentence(exchange, &body, out);
}

/* --- waiting -----------------------------------------------------------------------------------
 */

double smhf_jitter_next(smhf_jitter *jitter) {
    uint32_t counter[4] = {(uint32_t)jitter->count, (uint32_t)(jitter->count >> 32), 0, 0}, out[4];
    jitter->count++;
    smhf_philox(counter, jitter->key, out);
    return (double)smhf_uniform(out[0]);
}

double smhf_retry_delay(smhf_jitter *jitter, int failures, double base, double cap, int throttled,
                        double retry_after) {
    if (throttled) {
        base = fmin(20.0 * base, fmax(base, 1.0));
    }
    double ceiling = fmin(base * pow(2.0, fmin(failures - 1, 30)), cap);
    double delay = smhf_jitter_next(jitter) * ceiling;
    if (retry_after >= 0.0) {
        delay = fmax(delay, fmin(retry_after, 60.0) + 0.1 * delay);
    }
    return delay;
}

void smhf_retry_budget_init(smhf_retry_budget *budget, int connections) {
    budget->capacity = (connections > 4) ? 125 * connections : 500;
    budget->tokens = budget->capacity;
}

int smhf_retry_cost(int throttled) {
    return throttled ? 5 : 14;
}

int smhf_retry_take(smhf_retry_budget *budget, int cost) {
    if (budget->tokens < cost) {
        return 0;
    }
    budget->tokens -= cost;
    return 1;
}

void smhf_retry_refund(smhf_retry_budget *budget, int cost) {
    int tokens = budget->tokens + cost + 1;
    budget->tokens = (tokens < budget->capacity) ? tokens : budget->capacity;
}

/* --- how many at once, how many rows -----------------------------------------------------------
 */

void smhf_aimd_init(smhf_aimd *aimd, int connections) {
    aimd->limit = (connections > 0) ? connections : 4;
    aimd->cap = (connections > 0) ? connections : 16;
    aimd->cut = 0.0;
}

int smhf_aimd_limit(const smhf_aimd *aimd) {
    return (int)aimd->limit;
}

void smhf_aimd_success(smhf_aimd *aimd) {
    aimd->limit = fmin(aimd->limit + 1.0 / aimd->limit, aimd->cap);
}

void smhf_aimd_throttled(smhf_aimd *aimd, double started, double now) {
    if (started >= aimd->cut) {
        aimd->limit = fmax(floor(aimd->limit / 2.0), 1.0);
        aimd->cut = now;
    }
}

#define WINDOW 0.25 /* seconds */
#define PLATEAU 1.5 /* seconds from a cut until the old rate is reached again */

static double pacer_rate(const smhf_pacer *pacer, double now) {
    double t = (now - pacer->cut) / PLATEAU - 1.0;
    double rate = pacer->peak * (1.0 + 0.3 * t * t * t);
    return fmax(fmin(rate, 2.0 * pacer->measured), 0.5);
}

void smhf_pacer_answer(smhf_pacer *pacer, double started, double now, int throttled) {
    double elapsed = now - pacer->window;
    if (elapsed > 4 * WINDOW) { /* between calls */
        pacer->window = now;
        pacer->count = 0;
    } else if (elapsed >= WINDOW || (throttled && pacer->measured == 0.0 && pacer->count > 0)) {
        double rate = pacer->count / fmax(elapsed, 0.02);
        pacer->measured = (pacer->measured > 0.0) ? 0.5 * (pacer->measured + rate) : rate;
        pacer->window = now;
        pacer->count = 0;
    }
    pacer->count += !throttled;
    if (throttled && started >= pacer->cut && pacer->measured > 0.0) {
        pacer->peak = pacer->on ? fmin(pacer->measured, pacer_rate(pacer, now)) : pacer->measured;
        pacer->cut = now;
        pacer->on = 1;
    } else if (pacer->on && now - pacer->cut > 8.0 * PLATEAU) {
        pacer->on = 0;
    }
}

double smhf_pacer_wait(const smhf_pacer *pacer, double now) {
    return (pacer->on && pacer->next > now) ? pacer->next - now : 0.0;
}

void smhf_pacer_start(smhf_pacer *pacer, double now) {
    if (pacer->on) { /* up to 20 ms of lateness are caught up with */
        pacer->next = fmax(pacer->next, now - 0.02) + 1.0 / pacer_rate(pacer, now);
    }
}

#define AUTO_ROWS 32
#define AUTO_ROWS_CAP                                                                              \
    256 /* containers without dynamic batching pad the whole list as one batch                     \
         */
#define SAMPLES 4

void smhf_sizer_init(smhf_sizer *sizer, size_t rows, size_t bytes) {
    *sizer = (smhf_sizer){.rows = rows > 0 ? rows : AUTO_ROWS,
                          .bytes = bytes > 0 ? bytes : (size_t)1 << 20,
                          .fixed = rows > 0,
                          .rows_cap = rows > 0 ? rows : AUTO_ROWS_CAP};
}

void smhf_sizer_success(smhf_sizer *sizer, size_t rows, double seconds, int running) {
    if (sizer->fixed || rows != sizer->rows || rows >= sizer->rows_cap) {
        return;
    }
    /* Seconds of the endpoint per row: what ran beside this batch shared the time. */
    sizer->sum += seconds / (double)rows / (double)(running > 0 ? running : 1);
    if (++sizer->samples < SAMPLES) {
        return;
    }
    double mean = sizer->sum / SAMPLES;
    sizer->sum = 0.0;
    sizer->samples = 0;
    if (sizer->previous == 0.0 || mean < 0.9 * sizer->previous) {
        sizer->previous = mean;
        sizer->rows = (2 * sizer->rows < sizer->rows_cap) ? 2 * sizer->rows : sizer->rows_cap;
    } else {
        sizer->rows = (mean > 1.1 * sizer->previous) ? sizer->rows / 2 : sizer->rows;
        sizer->rows_cap = sizer->rows; /* settled */
    }
}

void smhf_sizer_shrink(smhf_sizer *sizer, size_t rows, size_t bytes, int learn) {
    if (rows > 1 && 2 * rows > sizer->rows) { /* smaller ones are halves and say nothing new */
        sizer->rows = rows / 2;
        if (learn) {
            sizer->rows_cap = sizer->rows;
        }
    }
    if (learn && (rows <= 1 || bytes > 65536)) { /* small bodies are refused for their rows */
        size_t fewer = (rows <= 1) ? bytes - 1 : bytes / 2;
        sizer->bytes = (fewer < sizer->bytes && fewer > 0) ? fewer : sizer->bytes;
    }
    sizer->sum = 0.0;
    sizer->samples = 0;
}
