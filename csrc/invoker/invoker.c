/* The invoker itself: options, credentials, the one-call-at-a-time lock, and the raw call. */
#include "invoker/invoker_room.h"

#include "common/json.h"
#include "common/mem.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#define MAX_CONNECTIONS 256
#define POLL_MS 50

double smhf_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* --- locks that survive fork --------------------------------------------------------------------
 */

/* A lock held by another pid was held in the parent when it forked: nobody here holds it. */
static int try_lock(smhf_pid_lock *lock) {
    int me = (int)getpid(), seen = atomic_load(lock);
    if (seen == me) {
        return 0;
    }
    return atomic_compare_exchange_strong(lock, &seen, me);
}

static void unlock(smhf_pid_lock *lock) {
    atomic_store(lock, 0);
}

static void nap(long nanoseconds) {
    struct timespec pause = {0, nanoseconds};
    nanosleep(&pause, NULL);
}

static void lock_credentials(smhf_invoker *invoker) {
    while (!try_lock(&invoker->credential_lock)) {
        nap(20000);
    }
}

smhf_status smhf_invoker_enter(smhf_invoker *invoker, smhf_invoker_poll poll, void *context,
                               smhf_error *err) {
    long pause = 200000;
    double last = smhf_now();
    while (!try_lock(&invoker->busy)) {
        nap(pause);
        pause = (pause < 10000000) ? pause * 2 : pause;
        if (poll != NULL && smhf_now() - last > POLL_MS / 1000.0) {
            last = smhf_now();
            if (poll(context, 0) != 0) {
                return smhf_fail(err, SMHF_E_CANCELLED, "stopped while another call was running");
            }
        }
    }
    if (invoker->pid != getpid()) {
        smhf_status status = smhf_transport_renew(invoker->transport, err);
        if (status != SMHF_OK) {
            unlock(&invoker->busy);
            return status;
        }
        invoker->pid = getpid();
        invoker->jitter.key ^= (uint64_t)invoker->pid << 32;
    }
    return SMHF_OK;
}

void smhf_invoker_leave(smhf_invoker *invoker) {
    unlock(&invoker->busy);
}

/* --- options ------------------------------------------------------------------------------------
 */

static int plain_text(const char *text, int token) {
    for (const unsigned char *c = (const unsigned char *)text; *c != '\0'; c++) {
        if (*c < 0x20 || *c == 0x7F || (token && (*c == ' ' || *c == ':' || *c > 0x7F))) {
            return 0;
        }
    }
    return !token || *text != '\0';
}

static smhf_status check_parameters(const char *parameters, smhf_error *err) {
    smhf_json_reader reader;
    smhf_json_event event;
    smhf_json_reader_init(&reader, smhf_bytes_from_string(parameters), 64, 0);
    smhf_status status = (parameters[0] == '{') ? smhf_json_skip(&reader, err)
                                                : smhf_fail(err, SMHF_E_ARG, "not a JSON object");
    if (status == SMHF_OK) {
        status = smhf_json_expect(&reader, SMHF_JSON_END, "end", &event, err);
    }
    smhf_json_reader_deinit(&reader);
    if (status != SMHF_OK && status != SMHF_E_NOMEM) {
        smhf_error_prefix(err, "parameters");
    }
    return status;
}

static smhf_status check_options(const smhf_invoker_options *o, smhf_error *err) {
    if (o->url == NULL) {
        return smhf_fail(err, SMHF_E_ARG, "url is missing");
    }
    if (o->connections < 0 || o->connections > MAX_CONNECTIONS) {
        return smhf_fail(err, SMHF_E_ARG, "connections %d: expected 1 to %d, or 0 for automatic",
                         o->connections, MAX_CONNECTIONS);
    }
    if (!(o->timeout > 0.0 && o->timeout < 1e6) || !(o->connect_timeout > 0.0) ||
        !(o->connect_timeout < 1e6) || !(o->deadline >= 0.0 && o->deadline < 1e9)) {
        return smhf_fail(err, SMHF_E_ARG,
                         "timeout %g, connect_timeout %g, deadline %g: expected seconds above 0",
                         o->timeout, o->connect_timeout, o->deadline);
    }
    if (o->attempts < 1 || o->attempts > 1000) {
        return smhf_fail(err, SMHF_E_ARG, "attempts %d: expected 1 to 1000", o->attempts);
    }
    if (!(o->backoff_base >= 0.0) || !(o->backoff_cap >= 0.0) || !(o->backoff_cap < 1e6)) {
        return smhf_fail(err, SMHF_E_ARG, "backoff %g up to %g: expected seconds of at least 0",
                         o->backoff_base, o->backoff_cap);
    }
    for (size_t i = 0; i < o->header_count; i++) {
        if (!plain_text(o->headers[i].name, 1) || !plain_text(o->headers[i].value, 0)) {
            return smhf_fail(err, SMHF_E_ARG, "header %zu: control characters, or no valid name",
                             i);
        }
    }
    if (o->region != NULL && (!plain_text(o->region, 1) || strchr(o->region, '/') != NULL)) {
        return smhf_fail(err, SMHF_E_ARG, "region \"%.60s\": expected a name like us-west-2",
                         o->region);
    }
    if (o->region != NULL && (strchr(o->url, '?') != NULL || o->service == NULL)) {
        return smhf_fail(err, SMHF_E_ARG,
                         "signed requests need a service name and a URL without a query");
    }
    return (o->parameters != NULL) ? check_parameters(o->parameters, err) : SMHF_OK;
}

static smhf_status keep_string(smhf_invoker *invoker, int slot, const char **text,
                               smhf_error *err) {
    if (*text != NULL) {
        invoker->strings[slot] = smhf_strdup(*text);
        if (invoker->strings[slot] == NULL) {
            return smhf_fail_nomem(err, "invoker", strlen(*text));
        }
        *text = invoker->strings[slot];
    }
    return SMHF_OK;
}

static smhf_status keep_options(smhf_invoker *invoker, smhf_error *err) {
    smhf_invoker_options *o = &invoker->options;
    const smhf_header *given = o->headers;
    size_t count = o->header_count;
    o->headers = NULL;
    o->header_count = 0;
    SMHF_TRY(keep_string(invoker, 0, &o->url, err));
    SMHF_TRY(keep_string(invoker, 1, &o->region, err));
    SMHF_TRY(keep_string(invoker, 2, &o->service, err));
    SMHF_TRY(keep_string(invoker, 3, &o->ca_file, err));
    SMHF_TRY(keep_string(invoker, 4, &o->user_agent, err));
    SMHF_TRY(keep_string(invoker, 5, &o->parameters, err));
    if (count > 0) {
        invoker->headers = smhf_calloc(count, sizeof *invoker->headers);
        if (invoker->headers == NULL) {
            return smhf_fail_nomem(err, "headers", count * sizeof *given);
        }
        o->headers = invoker->headers;
        o->header_count = count;
        for (size_t i = 0; i < count; i++) {
            invoker->headers[i].name = smhf_strdup(given[i].name);
            invoker->headers[i].value = smhf_strdup(given[i].value);
            if (invoker->headers[i].name == NULL || invoker->headers[i].value == NULL) {
                return smhf_fail_nomem(err, "headers", strlen(given[i].value));
            }
        }
    }
    return SMHF_OK;
}

static smhf_status start(smhf_invoker *invoker, smhf_error *err) {
    smhf_invoker_options *o = &invoker->options;
    SMHF_TRY(keep_options(invoker, err));
    o->max_response = (o->max_response > 0) ? o->max_response : (size_t)64 << 20;
    smhf_aimd_init(&invoker->aimd, o->connections);
    smhf_sizer_init(&invoker->sizer, o->batch_rows, o->batch_bytes);
    invoker->slots = (int)invoker->aimd.cap;
    smhf_retry_budget_init(&invoker->budget, invoker->slots);
    smhf_stats_init(&invoker->stats, smhf_aimd_limit(&invoker->aimd), invoker->sizer.rows);
    smhf_transport_options transport = {
        .ca_file = o->ca_file,
        .user_agent = o->user_agent,
        .connect_timeout = o->connect_timeout,
        .max_response = o->max_response,
        .max_connections = invoker->slots,
        .allow_http = o->allow_http,
    };
    SMHF_TRY(smhf_transport_open(o->url, &transport, &invoker->transport, err));
    SMHF_TRY(smhf_transport_url_parts(o->url, invoker->host, sizeof invoker->host, invoker->path,
                                      sizeof invoker->path, err));
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    invoker->pid = getpid();
    invoker->jitter.key = ((uint64_t)now.tv_nsec << 32) ^ (uint64_t)now.tv_sec ^
                          (uint64_t)invoker->pid ^ (uint64_t)(uintptr_t)invoker;
    return smhf_sigv4_new(&invoker->signer, err);
}

smhf_status smhf_invoker_open(const smhf_invoker_options *options, smhf_invoker **out,
                              smhf_error *err) {
    *out = NULL;
    SMHF_TRY(check_options(options, err));
    smhf_invoker *invoker = smhf_calloc(1, sizeof *invoker);
    if (invoker == NULL) {
        return smhf_fail_nomem(err, "invoker", sizeof *invoker);
    }
    invoker->options = *options;
    smhf_status status = start(invoker, err);
    if (status != SMHF_OK) {
        smhf_invoker_close(invoker);
        return status;
    }
    *out = invoker;
    return SMHF_OK;
}

static void free_secret(char *secret) {
    if (secret != NULL) {
        smhf_secret_wipe(secret, strlen(secret));
        smhf_free(secret);
    }
}

void smhf_invoker_close(smhf_invoker *invoker) {
    if (invoker == NULL) {
        return;
    }
    if (invoker->transport != NULL && invoker->pid != getpid()) {
        smhf_error ignored; /* a forked child must not say goodbye on its parent's connections */
        if (smhf_transport_renew(invoker->transport, &ignored) != SMHF_OK) {
            invoker->transport = NULL;
        }
    }
    smhf_transport_close(invoker->transport);
    smhf_sigv4_free(invoker->signer);
    free_secret(invoker->access_key);
    free_secret(invoker->secret_key);
    free_secret(invoker->token);
    for (size_t i = 0; i < sizeof invoker->strings / sizeof *invoker->strings; i++) {
        smhf_free(invoker->strings[i]);
    }
    for (size_t i = 0; invoker->headers != NULL && i < invoker->options.header_count; i++) {
        free_secret((char *)(uintptr_t)invoker->headers[i].name); /* may be an API key */
        free_secret((char *)(uintptr_t)invoker->headers[i].value);
    }
    smhf_free(invoker->headers);
    smhf_free(invoker);
}

/* --- credentials --------------------------------------------------------------------------------
 */

smhf_status smhf_invoker_set_credentials(smhf_invoker *invoker, const smhf_credentials *credentials,
                                         smhf_error *err) {
    const char *token = credentials->token;
    if (credentials->access_key == NULL || credentials->secret_key == NULL ||
        !plain_text(credentials->access_key, 1) || !plain_text(credentials->secret_key, 0) ||
        (token != NULL && !plain_text(token, 0))) {
        return smhf_fail(
            err, SMHF_E_ARG,
            "credentials: expected an access key and a secret key of plain characters");
    }
    char *access_key = smhf_strdup(credentials->access_key);
    char *secret_key = smhf_strdup(credentials->secret_key);
    char *copy = (token != NULL && token[0] != '\0') ? smhf_strdup(token) : NULL;
    if (access_key == NULL || secret_key == NULL ||
        (token != NULL && token[0] != '\0' && copy == NULL)) {
        free_secret(access_key);
        free_secret(secret_key);
        free_secret(copy);
        return smhf_fail(err, SMHF_E_NOMEM, "credentials: out of memory");
    }
    lock_credentials(invoker);
    char *old[3] = {invoker->access_key, invoker->secret_key, invoker->token};
    int same = old[0] != NULL && strcmp(old[0], access_key) == 0 &&
               strcmp(old[1], secret_key) == 0 && (old[2] == NULL) == (copy == NULL) &&
               (copy == NULL || strcmp(old[2], copy) == 0);
    invoker->access_key = access_key;
    invoker->secret_key = secret_key;
    invoker->token = copy;
    invoker->generation += !same;
    unlock(&invoker->credential_lock);
    for (size_t i = 0; i < 3; i++) {
        free_secret(old[i]);
    }
    return SMHF_OK;
}

uint64_t smhf_invoker_generation(smhf_invoker *invoker) {
    lock_credentials(invoker);
    uint64_t generation = invoker->generation;
    unlock(&invoker->credential_lock);
    return generation;
}

void smhf_invoker_redact(smhf_invoker *invoker, char *text) {
    lock_credentials(invoker);
    const char *secrets[3] = {invoker->secret_key, invoker->token, invoker->access_key};
    for (size_t i = 0; i < 3; i++) {
        size_t size = (secrets[i] != NULL) ? strlen(secrets[i]) : 0;
        for (char *at = text; size >= 8 && (at = strstr(at, secrets[i])) != NULL; at += size) {
            memset(at, '*', size);
        }
        /* A token longer than the sentence leaves only its start. */
        char *at = (size >= 16) ? memmem(text, strlen(text), secrets[i], 16) : NULL;
        if (at != NULL) {
            memset(at, '*', strlen(at));
        }
    }
    unlock(&invoker->credential_lock);
}

int smhf_invoker_learn_skew(smhf_invoker *invoker, const smhf_exchange *exchange) {
    if (invoker->options.region == NULL || exchange->server_date == 0) {
        return 0;
    }
    double ahead = (double)exchange->server_date - (double)time(NULL);
    if (fabs(ahead - invoker->skew) < 300.0) {
        return 0;
    }
    invoker->skew = ahead;
    atomic_store(&invoker->stats.skew, ahead);
    return 1;
}

/* --- headers of one request ---------------------------------------------------------------------
 */

static void push_header(smhf_request_headers *headers, const char *name, const char *value) {
    SMHF_ASSERT(headers->count < headers->capacity);
    headers->items[headers->count++] = (smhf_header){name, value};
}

static smhf_status own_header(smhf_request_headers *headers, int slot, const char *name,
                              const char *value, size_t size, smhf_error *err) {
    char *copy = smhf_malloc(size + 1);
    if (copy == NULL) {
        return smhf_fail_nomem(err, "headers", size + 1);
    }
    memcpy(copy, value, size);
    copy[size] = '\0';
    headers->owned[slot] = copy;
    push_header(headers, name, copy);
    return SMHF_OK;
}

static smhf_status sign_headers(smhf_invoker *invoker, smhf_bytes_view body,
                                smhf_request_headers *headers, smhf_error *err) {
    smhf_sigv4_signature signature;
    smhf_credentials credentials = {invoker->access_key, invoker->secret_key, invoker->token};
    if (credentials.access_key == NULL) {
        return smhf_fail(err, SMHF_E_ARG,
                         "requests to region %s are signed and there are no credentials",
                         invoker->options.region);
    }
    /* curl writes Host itself; it is signed, so it stands first here and is dropped after. */
    smhf_sigv4_request request = {
        .method = "POST",
        .path = smhf_bytes_from_string(invoker->path),
        .headers = headers->items,
        .header_count = headers->count,
        .body = body,
        .normalize_path = 1,
    };
    smhf_sigv4_signature_init(&signature);
    smhf_status status = smhf_sigv4_sign(
        invoker->signer, &request, &credentials, invoker->options.region, invoker->options.service,
        (int64_t)((double)time(NULL) + invoker->skew), &signature, err);
    memmove(headers->items, headers->items + 1, (headers->count - 1) * sizeof *headers->items);
    headers->count--;
    if (status == SMHF_OK) {
        status = own_header(headers, 0, "X-Amz-Date", signature.amz_date,
                            strlen(signature.amz_date), err);
    }
    if (status == SMHF_OK && credentials.token != NULL) {
        status = own_header(headers, 1, "X-Amz-Security-Token", credentials.token,
                            strlen(credentials.token), err);
    }
    if (status == SMHF_OK) {
        status = own_header(headers, 2, "Authorization", (const char *)signature.authorization.data,
                            signature.authorization.size, err);
    }
    if (signature.canonical.data != NULL) { /* holds the token */
        smhf_secret_wipe(signature.canonical.data, signature.canonical.size);
    }
    smhf_sigv4_signature_deinit(&signature);
    return status;
}

smhf_status smhf_request_headers_make(smhf_invoker *invoker, const smhf_header *extra,
                                      size_t extra_count, smhf_bytes_view body,
                                      smhf_request_headers *out, uint64_t *generation,
                                      smhf_error *err) {
    const smhf_invoker_options *o = &invoker->options;
    int sign = o->region != NULL;
    *out = (smhf_request_headers){.capacity = o->header_count + extra_count + 4};
    out->items = smhf_calloc(out->capacity, sizeof *out->items);
    if (out->items == NULL) {
        return smhf_fail_nomem(err, "headers", out->capacity * sizeof *out->items);
    }
    if (sign) {
        push_header(out, "Host", invoker->host);
    }
    for (size_t i = 0; i < extra_count; i++) {
        push_header(out, extra[i].name, extra[i].value);
    }
    for (size_t i = 0; i < o->header_count; i++) {
        int given = 0; /* a header of the call replaces that of the invoker */
        for (size_t k = 0; k < extra_count; k++) {
            given |= strcasecmp(extra[k].name, o->headers[i].name) == 0;
        }
        if (!given) {
            push_header(out, o->headers[i].name, o->headers[i].value);
        }
    }
    smhf_status status = SMHF_OK;
    lock_credentials(invoker);
    *generation = invoker->generation;
    if (sign) {
        status = sign_headers(invoker, body, out, err);
    }
    unlock(&invoker->credential_lock);
    if (status != SMHF_OK) {
        smhf_request_headers_free(out);
    }
    return status;
}

void smhf_request_headers_free(smhf_request_headers *headers) {
    for (size_t i = 0; i < 3; i++) {
        free_secret(headers->owned[i]);
    }
    smhf_free(headers->items);
    *headers = (smhf_request_headers){0};
}

/* --- the raw call -------------------------------------------------------------------------------
 */

void smhf_response_init(smhf_response *response) {
    memset(response, 0, sizeof *response);
    smhf_buffer_init(&response->body, 0);
    smhf_buffer_init(&response->headers, (size_t)64 << 10);
}

void smhf_response_deinit(smhf_response *response) {
    smhf_buffer_deinit(&response->body);
    smhf_buffer_deinit(&response->headers);
}

static smhf_status wait_for(smhf_invoker *invoker, smhf_exchange *exchange, smhf_invoker_poll poll,
                            void *context, smhf_error *err) {
    smhf_exchange *finished = NULL;
    double last = smhf_now();
    while (finished == NULL) {
        SMHF_TRY(smhf_transport_wait(invoker->transport, POLL_MS, &finished, err));
        if (finished == NULL && poll != NULL && smhf_now() - last > 0.04) {
            last = smhf_now();
            if (poll(context, 0) != 0) {
                return smhf_fail(err, SMHF_E_CANCELLED, "stopped before the answer came");
            }
        }
    }
    SMHF_ASSERT(finished == exchange);
    (void)exchange;
    return SMHF_OK;
}

static smhf_status exchange_once(smhf_invoker *invoker, smhf_bytes_view body,
                                 const smhf_header *headers, size_t header_count,
                                 smhf_invoker_poll poll, void *context, smhf_exchange *exchange,
                                 uint64_t *generation, smhf_error *err) {
    smhf_request_headers list;
    SMHF_TRY(
        smhf_request_headers_make(invoker, headers, header_count, body, &list, generation, err));
    exchange->url = invoker->options.url;
    exchange->headers = list.items;
    exchange->header_count = list.count;
    exchange->body = body;
    exchange->timeout = invoker->options.timeout;
    exchange->keep_headers = 1;
    smhf_status status = smhf_transport_start(invoker->transport, exchange, err);
    smhf_request_headers_free(&list);
    if (status == SMHF_OK) {
        status = wait_for(invoker, exchange, poll, context, err);
        if (status != SMHF_OK) {
            smhf_transport_cancel(invoker->transport, exchange);
        }
    }
    smhf_stats_add(&invoker->stats.requests, 1);
    smhf_stats_add(&invoker->stats.bytes_sent, exchange->sent);
    smhf_stats_add(&invoker->stats.bytes_received, exchange->received);
    smhf_stats_add(&invoker->stats.connections_opened, (uint64_t)exchange->new_connections);
    return status;
}

static smhf_status nap_polling(double seconds, smhf_invoker_poll poll, void *context,
                               smhf_error *err) {
    double end = smhf_now() + seconds;
    while (smhf_now() < end) {
        nap((long)(fmin(end - smhf_now(), 0.04) * 1e9) + 1000);
        if (poll != NULL && poll(context, 0) != 0) {
            return smhf_fail(err, SMHF_E_CANCELLED, "stopped before the answer came");
        }
    }
    return SMHF_OK;
}

/* 1: worth another request, because this one was refused or lost before it was executed. */
static int call_again(smhf_invoker *invoker, const smhf_exchange *exchange, uint64_t generation,
                      int *asked, smhf_invoker_poll poll, void *context) {
    smhf_fault fault;
    smhf_retry_classify(exchange, &fault);
    int moved = smhf_invoker_learn_skew(invoker, exchange);
    if (fault.verdict == SMHF_VERDICT_RETRY || fault.verdict == SMHF_VERDICT_TIMEOUT) {
        return exchange->outcome != SMHF_OK && !exchange->maybe_executed;
    }
    if (fault.verdict != SMHF_VERDICT_AUTH || invoker->options.region == NULL) {
        return 0;
    }
    if (moved && fault.clock) {
        return 1;
    }
    if (!*asked && poll != NULL) {
        *asked = 1;
        return poll(context, 1) == 0 && smhf_invoker_generation(invoker) != generation;
    }
    return 0;
}

smhf_status smhf_invoker_call(smhf_invoker *invoker, smhf_bytes_view body,
                              const smhf_header *headers, size_t header_count,
                              smhf_invoker_poll poll, void *context, smhf_response *out,
                              smhf_error *err) {
    smhf_exchange exchange;
    uint64_t generation = 0;
    int asked = 0;
    for (size_t i = 0; i < header_count; i++) {
        if (!plain_text(headers[i].name, 1) || !plain_text(headers[i].value, 0)) {
            return smhf_fail(err, SMHF_E_ARG, "header %zu: control characters, or no valid name",
                             i);
        }
    }
    SMHF_TRY(smhf_invoker_enter(invoker, poll, context, err));
    smhf_exchange_init(&exchange);
    smhf_status status = SMHF_OK;
    for (int attempt = 1;; attempt++) {
        status = exchange_once(invoker, body, headers, header_count, poll, context, &exchange,
                               &generation, err);
        if (status != SMHF_OK || attempt >= invoker->options.attempts ||
            !call_again(invoker, &exchange, generation, &asked, poll, context)) {
            break;
        }
        smhf_stats_add(&invoker->stats.retries, 1);
        status =
            nap_polling(smhf_retry_delay(&invoker->jitter, attempt, invoker->options.backoff_base,
                                         invoker->options.backoff_cap, 0, -1.0),
                        poll, context, err);
        if (status != SMHF_OK) {
            break;
        }
        smhf_exchange_deinit(&exchange);
        smhf_exchange_init(&exchange);
    }
    smhf_invoker_leave(invoker);
    if (status == SMHF_OK && exchange.outcome != SMHF_OK) {
        status = smhf_fail(err, exchange.outcome, "no answer: %s", exchange.reason);
    }
    if (status == SMHF_OK) {
        *out = exchange.response;
        smhf_response_init(&exchange.response);
    }
    smhf_exchange_deinit(&exchange);
    return status;
}

void smhf_invoker_get_stats(smhf_invoker *invoker, smhf_invoker_stats *out) {
    smhf_stats_read(&invoker->stats, out);
}
