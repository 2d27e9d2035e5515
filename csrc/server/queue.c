/* queue.c: endpoints, their queues and workers: token-budget dynamic batching.
 *
 * A worker that frees up takes what is queued, oldest first, up to the limits on rows, tokens and
 * bytes. A request with more rows than fit gives a part and goes to the tail, so a huge request
 * never starves small ones. A client that closed its side (the HTTP library does not write to a
 * half-closed one, either) or was reset is dropped before its rows are computed. The sweeper
 * answers whatever passed its deadline, queued or running, and looks for gone clients.
 *
 * One lock per server; nothing is computed, parsed, written or sent while it is held.
 */
#include "common/mem.h"
#include "server/server_room.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SWEEP_MS 100
#define SWEEP_MAX 32 /* requests answered per look */

int64_t smhf_server_now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void deadline_in(struct timespec *when, int64_t ms) {
    clock_gettime(CLOCK_MONOTONIC, when);
    when->tv_sec += ms / 1000;
    when->tv_nsec += (ms % 1000) * 1000000;
    if (when->tv_nsec >= 1000000000) {
        when->tv_sec++;
        when->tv_nsec -= 1000000000;
    }
}

static int condition_init(pthread_cond_t *condition) {
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    int status = pthread_cond_init(condition, &attributes);
    pthread_condattr_destroy(&attributes);
    return status;
}

/* A thread that receives no signal: those belong to the program's own threads. */
static int start_thread(pthread_t *thread, void *(*body)(void *), void *argument) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int status = pthread_create(thread, NULL, body, argument);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return status;
}

/* --- lists
 * ---------------------------------------------------------------------------------------- */

/* Two intrusive memberships; `links` picks one of a request's. */
typedef smhf_request_links *(*links_of)(smhf_server_request *request);

static smhf_request_links *queue_links(smhf_server_request *request) {
    return &request->queue;
}

static smhf_request_links *pending_links(smhf_server_request *request) {
    return &request->pending;
}

static void list_append(smhf_request_list *list, smhf_server_request *request, links_of links) {
    smhf_request_links *mine = links(request);
    SMHF_ASSERT(mine->list == NULL);
    mine->list = list;
    mine->next = NULL;
    mine->previous = list->last;
    if (list->last != NULL) {
        links(list->last)->next = request;
    } else {
        list->first = request;
    }
    list->last = request;
    list->count++;
}

static void list_prepend(smhf_request_list *list, smhf_server_request *request, links_of links) {
    smhf_request_links *mine = links(request);
    SMHF_ASSERT(mine->list == NULL);
    mine->list = list;
    mine->previous = NULL;
    mine->next = list->first;
    if (list->first != NULL) {
        links(list->first)->previous = request;
    } else {
        list->last = request;
    }
    list->first = request;
    list->count++;
}

/* 1 when it was in a list. */
static int list_remove(smhf_server_request *request, links_of links) {
    smhf_request_links *mine = links(request);
    smhf_request_list *list = mine->list;
    if (list == NULL) {
        return 0;
    }
    if (mine->previous != NULL) {
        links(mine->previous)->next = mine->next;
    } else {
        list->first = mine->next;
    }
    if (mine->next != NULL) {
        links(mine->next)->previous = mine->previous;
    } else {
        list->last = mine->previous;
    }
    list->count--;
    *mine = (smhf_request_links){0};
    return 1;
}

/* --- requests
 * ------------------------------------------------------------------------------------- */

smhf_server_request *smhf_request_new(smhf_server *server) {
    smhf_server_request *request = smhf_calloc(1, sizeof *request);
    if (request == NULL) {
        return NULL;
    }
    request->server = server;
    request->fd = -1;
    request->references = 1;
    request->begun_ms = smhf_server_now_ms();
    request->deadline_ms = request->begun_ms + server->options.deadline_ms;
    smhf_buffer_init(&request->body, server->options.max_request_bytes);
    smhf_buffer_init(&request->answer, 0);
    smhf_wire_call_init(&request->call);
    strcpy(request->answer_type, "application/json");
    return request;
}

/* The lock is held; returns 1 when the caller must free it (without the lock). */
static int release_locked(smhf_server_request *request) {
    SMHF_ASSERT(request->references > 0);
    if (--request->references > 0) {
        return 0;
    }
    request->server->stats.memory_bytes -= request->charged;
    return 1;
}

static void request_free(smhf_server_request *request) {
    smhf_buffer_deinit(&request->body);
    smhf_buffer_deinit(&request->answer);
    smhf_wire_call_deinit(&request->call);
    smhf_free(request->scores);
    smhf_free(request);
}

void smhf_request_release(smhf_server_request *request) {
    smhf_server *server = request->server;
    pthread_mutex_lock(&server->lock);
    int last = release_locked(request);
    pthread_mutex_unlock(&server->lock);
    if (last) {
        request_free(request);
    }
}

int smhf_request_charge(smhf_server_request *request, size_t bytes) {
    smhf_server *server = request->server;
    pthread_mutex_lock(&server->lock);
    int fits = server->stats.memory_bytes + bytes <= server->options.max_memory_bytes;
    if (fits) {
        server->stats.memory_bytes += bytes;
        request->charged += bytes;
    }
    pthread_mutex_unlock(&server->lock);
    return fits;
}

void smhf_request_count(smhf_server_request *request) {
    smhf_server *server = request->server;
    pthread_mutex_lock(&server->lock);
    server->stats.requests++;
    if (request->http_status < 300) {
        server->stats.answered_2xx++;
    } else if (request->http_status < 500) {
        server->stats.answered_4xx++;
    } else {
        server->stats.answered_5xx++;
    }
    pthread_mutex_unlock(&server->lock);
}

static const char *error_type(int http_status) {
    switch (http_status) {
    case 404:
        return "ResourceNotFoundException";
    case 405:
        return "MethodNotAllowedException";
    case 413:
        return "RequestEntityTooLargeException";
    case 503:
        return "ServiceUnavailableException";
    default:
        return "InternalServerException"; /* the container calls its 400s so, too */
    }
}

/* An answer that could not even be written: an empty body still carries the status. */
static void fail_plainly(smhf_server_request *request, smhf_status status) {
    if (status != SMHF_OK) {
        smhf_buffer_clear(&request->answer);
    }
}

/* On the service's face a container's refusal is wrapped; refusals for load stay what they are. */
static void wrap_for_service(smhf_server_request *request) {
    smhf_buffer container = request->answer;
    smhf_buffer_init(&request->answer, 0);
    fail_plainly(request,
                 smhf_wire_model_error(&request->answer, request->http_status, request->endpoint,
                                       smhf_buffer_view(&container), NULL));
    smhf_buffer_deinit(&container);
    request->http_status = 424;
    request->error_type = "ModelError";
    strcpy(request->answer_type, "application/json");
}

void smhf_request_fail(smhf_server_request *request, int http_status, const char *message) {
    request->http_status = http_status;
    strcpy(request->answer_type, "application/json");
    smhf_buffer_clear(&request->answer);
    if (http_status == 503) {
        request->retry_after_s = request->server->options.retry_after_s;
    }
    if (!request->service_face) {
        fail_plainly(request, smhf_wire_error(&request->answer, http_status,
                                              error_type(http_status), message, NULL));
        return;
    }
    request->error_type = (http_status == 503)   ? "ServiceUnavailable"
                          : (http_status == 500) ? "InternalFailure"
                                                 : "ValidationError";
    fail_plainly(request,
                 smhf_wire_service_error(&request->answer, request->error_type, message, NULL));
}

/* A refusal that came from the endpoint itself, not from the server around it. */
static void fail_from_model(smhf_server_request *request, const smhf_error *err) {
    int http_status;
    switch (err->code) {
    case SMHF_E_NOMEM:
    case SMHF_E_BUSY:
    case SMHF_E_UNAVAILABLE:
        smhf_request_fail(request, 503, err->message);
        return;
    case SMHF_E_BACKEND:
    case SMHF_E_IO:
        http_status = 500;
        break;
    default:
        http_status = 400; /* what the container says for every exception of its handler */
        break;
    }
    int service_face = request->service_face;
    request->service_face = 0;
    smhf_request_fail(request, http_status, err->message);
    request->service_face = service_face;
    if (service_face) {
        wrap_for_service(request);
    }
}

/* Whoever gets 1 writes the answer and resumes; nobody else does. */
static int claim_locked(smhf_server_request *request) {
    if (request->state != SMHF_REQUEST_PENDING) {
        return 0;
    }
    request->state = SMHF_REQUEST_ANSWERED;
    list_remove(request, pending_links);
    if (list_remove(request, queue_links)) {
        request->references--; /* the connection still holds one */
        SMHF_ASSERT(request->references > 0);
    }
    return 1;
}

static int claim(smhf_server_request *request) {
    pthread_mutex_lock(&request->server->lock);
    int mine = claim_locked(request);
    pthread_mutex_unlock(&request->server->lock);
    return mine;
}

static void answer_error(smhf_server_request *request, const smhf_error *err) {
    if (claim(request)) {
        fail_from_model(request, err);
        smhf_listener_resume(request);
    }
}

/* --- admission
 * ------------------------------------------------------------------------------------ */

int smhf_endpoint_name_valid(const char *name, size_t size) {
    if (size == 0 || size >= SMHF_ENDPOINT_NAME_SIZE) {
        return 0;
    }
    for (size_t i = 0; i < size; i++) {
        char c = name[i];
        int inner = i > 0 && i + 1 < size;
        int letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!letter && !(c == '-' && inner)) {
            return 0;
        }
    }
    return 1;
}

smhf_server_lane *smhf_server_find_locked(smhf_server *server, const char *name) {
    smhf_server_lane *first = NULL;
    for (smhf_server_lane *lane = server->lanes; lane != NULL; lane = lane->next) {
        if (lane->closing) {
            continue;
        }
        if (name[0] != '\0' ? strcmp(lane->name, name) == 0 : lane->endpoint.is_default) {
            return lane;
        }
        first = (first == NULL) ? lane : first;
    }
    return name[0] == '\0' ? first : NULL;
}

/* The oldest queued request whose client left gives its place; NULL: none. */
static smhf_server_request *evict_locked(smhf_server_lane *lane) {
    smhf_server_request *request = lane->queue.first;
    while (request != NULL && !smhf_listener_gone(request)) {
        request = request->queue.next;
    }
    if (request != NULL) {
        claim_locked(request);
        lane->server->stats.gone++;
    }
    return request;
}

void smhf_request_push(smhf_server_request *request) {
    smhf_server *server = request->server;
    smhf_server_request *evicted = NULL;
    char refusal[160] = "";
    int http_status = 503;
    pthread_mutex_lock(&server->lock);
    smhf_server_lane *lane = smhf_server_find_locked(server, request->endpoint);
    if (server->state == SMHF_SERVER_STOPPING) {
        snprintf(refusal, sizeof refusal, "the server is stopping");
    } else if (lane == NULL) {
        http_status = (request->endpoint[0] != '\0') ? 400 : 503;
        snprintf(refusal, sizeof refusal, "Endpoint %s not found: it was removed meanwhile",
                 request->endpoint[0] != '\0' ? request->endpoint : "(default)");
    } else {
        if (lane->queue.count >= (size_t)server->options.max_queue) {
            evicted = evict_locked(lane);
        }
        if (lane->queue.count >= (size_t)server->options.max_queue) {
            server->stats.refused_full++;
            snprintf(refusal, sizeof refusal, "the queue of the endpoint is full (%d requests)",
                     server->options.max_queue);
        } else {
            request->state = SMHF_REQUEST_PENDING;
            request->lane = lane;
            request->references++;
            list_append(&server->pending, request, pending_links);
            list_append(&lane->queue, request, queue_links);
            pthread_cond_signal(&lane->wake);
        }
    }
    if (refusal[0] != '\0') {
        request->state = SMHF_REQUEST_ANSWERED;
    }
    pthread_mutex_unlock(&server->lock);
    if (refusal[0] != '\0') {
        smhf_request_fail(request, http_status, refusal);
        smhf_listener_resume(request);
    }
    if (evicted != NULL) {
        smhf_request_fail(evicted, 503, "the client is gone");
        smhf_listener_resume(evicted);
    }
}

/* --- a worker's batch
 * ------------------------------------------------------------------------------ */

typedef struct segment {
    smhf_server_request *request; /* a reference is held */
    size_t first_row;             /* of the request */
    size_t first;                 /* of the batch */
    size_t count;
} segment;

typedef struct worker_batch {
    smhf_server_lane *lane;
    size_t rows, tokens, bytes;
    size_t segments;
    segment *segment;           /* max_batch_rows entries */
    smhf_server_row *row;       /* the same */
    smhf_server_result *result; /* the same */
} worker_batch;

/* Removes the next request to serve; the queue's reference passes to the caller. NULL with *gone
 * set: that client left, and its request is claimed. */
static smhf_server_request *pop_locked(smhf_server_lane *lane, smhf_server_request **gone) {
    smhf_server_request *request = lane->queue.first;
    if (request == NULL) {
        return NULL;
    }
    if (smhf_listener_gone(request)) {
        claim_locked(request);
        lane->server->stats.gone++;
        *gone = request;
        return NULL;
    }
    list_remove(request, queue_links);
    return request;
}

static size_t estimate_tokens(const smhf_server_lane *lane, const smhf_server_row *row) {
    size_t tokens = 2 + (row->text.size + row->pair.size) / 4;
    size_t most = lane->endpoint.max_row_tokens;
    if (row->max_length > 0 && (size_t)row->max_length < most) {
        most = (size_t)row->max_length;
    }
    return tokens < most ? tokens : most;
}

/* Parses the body and makes room for scores; answers the request itself when it is not to be
 * batched (bad, or without rows). 1: it has rows. */
static int decode_request(smhf_server_lane *lane, smhf_server_request *request) {
    smhf_error err = SMHF_ERROR_INIT;
    smhf_wire_format format;
    smhf_status status = smhf_wire_content_type(request->content_type, &format, &err);
    if (status == SMHF_OK) {
        status = smhf_wire_accept(request->accept, &request->answer_format, &err);
    }
    if (status == SMHF_OK) {
        status = smhf_wire_decode(&request->call, format, smhf_buffer_view(&request->body),
                                  lane->server->options.max_request_rows, &err);
    }
    if (status == SMHF_OK) {
        request->scores = smhf_calloc(request->call.count * lane->endpoint.label_count + 1,
                                      sizeof *request->scores);
        if (request->scores == NULL) {
            status = smhf_fail(&err, SMHF_E_NOMEM, "no memory for the scores of %zu rows",
                               request->call.count);
        }
    }
    request->decoded = 1;
    if (status != SMHF_OK) {
        answer_error(request, &err);
        return 0;
    }
    return request->call.count > 0;
}

static void finish_request(smhf_server_lane *lane, smhf_server_request *request);

/* Moves rows of a decoded request into the batch; 1 when all its rows have been given out. */
static int take_rows(worker_batch *batch, smhf_server_request *request) {
    const smhf_server_options *limits = &batch->lane->server->options;
    size_t labels = batch->lane->endpoint.label_count;
    segment *piece = &batch->segment[batch->segments];
    *piece = (segment){request, request->rows_taken, batch->rows, 0};
    while (request->rows_taken < request->call.count) {
        const smhf_server_row *row = &request->call.rows[request->rows_taken];
        size_t tokens = estimate_tokens(batch->lane, row), bytes = row->text.size + row->pair.size;
        if (batch->rows >= (size_t)limits->max_batch_rows ||
            (batch->rows > 0 && (batch->tokens + tokens > limits->max_batch_tokens ||
                                 batch->bytes + bytes > limits->max_batch_bytes))) {
            break;
        }
        batch->row[batch->rows] = *row;
        smhf_server_result *result = &batch->result[batch->rows];
        result->scores = request->scores + request->rows_taken * labels;
        result->truncated = 0;
        smhf_error_clear(&result->error);
        batch->rows++;
        batch->tokens += tokens;
        batch->bytes += bytes;
        request->rows_taken++;
        piece->count++;
    }
    if (piece->count > 0) {
        batch->segments++;
    }
    return request->rows_taken == request->call.count;
}

/* Gathers rows until a limit or an empty queue. Lock held on entry and exit, not throughout. */
static void gather_locked(worker_batch *batch) {
    smhf_server_lane *lane = batch->lane;
    smhf_server *server = lane->server;
    batch->rows = batch->tokens = batch->bytes = batch->segments = 0;
    int full = 0;
    while (!full && batch->rows < (size_t)server->options.max_batch_rows) {
        smhf_server_request *gone = NULL;
        smhf_server_request *request = pop_locked(lane, &gone);
        if (request == NULL && gone == NULL) {
            return;
        }
        pthread_mutex_unlock(&server->lock);
        if (gone != NULL) {
            smhf_request_fail(gone, 503, "the client is gone");
            smhf_listener_resume(gone);
            pthread_mutex_lock(&server->lock);
            continue;
        }
        int has_rows = request->decoded || decode_request(lane, request);
        if (!has_rows) {
            finish_request(lane, request); /* no rows: "[]"; answered already when it was bad */
            smhf_request_release(request);
            pthread_mutex_lock(&server->lock);
            continue;
        }
        size_t before = batch->segments;
        pthread_mutex_lock(&server->lock);
        int all_taken = take_rows(batch, request);
        int in_batch = batch->segments > before;
        if (!all_taken) {
            full = 1;
            if (request->state == SMHF_REQUEST_PENDING) {
                if (in_batch) { /* it had its turn */
                    list_append(&lane->queue, request, queue_links);
                } else {
                    list_prepend(&lane->queue, request, queue_links);
                }
                request->references++;
                if (lane->worker_count > 1) {
                    pthread_cond_signal(&lane->wake);
                }
            }
        }
        if (!in_batch && release_locked(request)) { /* the popped reference */
            pthread_mutex_unlock(&server->lock);
            request_free(request);
            pthread_mutex_lock(&server->lock);
        }
    }
}

/* Calls back; a failure as a whole is narrowed down by halving, so that one row's fault stays its
 * own. Counts no more than 2n - 1 calls. */
static void run_rows(const worker_batch *batch, size_t first, size_t count) {
    const smhf_server_endpoint *endpoint = &batch->lane->endpoint;
    smhf_error err = SMHF_ERROR_INIT;
    smhf_status status =
        endpoint->batch(endpoint->context, batch->row + first, batch->result + first, count, &err);
    if (status == SMHF_OK) {
        return;
    }
    if (count == 1) {
        err.code = status;
        batch->result[first].error = err;
        return;
    }
    for (size_t i = first; i < first + count; i++) {
        batch->result[i].truncated = 0;
        smhf_error_clear(&batch->result[i].error);
    }
    run_rows(batch, first, count / 2);
    run_rows(batch, first + count / 2, count - count / 2);
}

/* All rows have scores: writes the answer, if nobody answered meanwhile. */
static void finish_request(smhf_server_lane *lane, smhf_server_request *request) {
    if (!claim(request)) {
        return;
    }
    smhf_error err = SMHF_ERROR_INIT;
    smhf_buffer_deinit(&request->answer);
    smhf_buffer_init(&request->answer, lane->server->options.max_response_bytes);
    smhf_status status =
        smhf_wire_encode(&request->call, request->answer_format, (const char *const *)lane->labels,
                         lane->endpoint.label_count, request->scores, &request->answer, &err);
    if (status == SMHF_OK) {
        request->http_status = 200;
        strcpy(request->answer_type, smhf_wire_mime(request->answer_format));
    } else {
        if (request->answer.size + 4096 > request->answer.limit) {
            smhf_fail(&err, SMHF_E_ARG,
                      "the answer for %zu rows is over %zu bytes: send fewer rows",
                      request->call.count, request->answer.limit);
        }
        smhf_buffer_deinit(&request->answer);
        smhf_buffer_init(&request->answer, 0);
        fail_from_model(request, &err);
    }
    smhf_listener_resume(request);
}

/* Names the row in the sentence of a request with a list of inputs. */
static void fail_row(smhf_server_request *request, size_t row, const smhf_error *row_error) {
    smhf_error err = *row_error;
    if (request->call.shape == SMHF_WIRE_LIST) {
        smhf_error_prefix(&err, "inputs[%zu]", row);
    } else {
        smhf_error_prefix(&err, "inputs");
    }
    answer_error(request, &err);
}

/* Hands results to their requests; each segment's reference ends here. */
static void deliver(worker_batch *batch) {
    smhf_server *server = batch->lane->server;
    for (size_t s = 0; s < batch->segments; s++) {
        segment *piece = &batch->segment[s];
        smhf_server_request *request = piece->request;
        size_t truncated = 0, fault = piece->count;
        for (size_t i = 0; i < piece->count; i++) {
            const smhf_server_result *result = &batch->result[piece->first + i];
            truncated += (size_t)(result->truncated != 0);
            if (result->error.code != SMHF_OK && fault == piece->count) {
                fault = i;
            }
        }
        pthread_mutex_lock(&server->lock);
        if (request->state == SMHF_REQUEST_PENDING) { /* else its answer is being sent */
            request->truncated += truncated;
        }
        request->rows_done += piece->count;
        server->stats.truncated += truncated;
        int complete = request->rows_done == request->call.count;
        pthread_mutex_unlock(&server->lock);
        if (fault < piece->count) {
            fail_row(request, piece->first_row + fault, &batch->result[piece->first + fault].error);
        } else if (complete) {
            finish_request(batch->lane, request);
        }
        smhf_request_release(request);
    }
}

static void run_batch(worker_batch *batch) {
    smhf_server *server = batch->lane->server;
    run_rows(batch, 0, batch->rows);
    pthread_mutex_lock(&server->lock);
    server->stats.batches++;
    server->stats.rows += batch->rows;
    server->stats.shared_batches += batch->segments > 1;
    if (batch->rows > server->stats.largest_batch) {
        server->stats.largest_batch = batch->rows;
    }
    pthread_mutex_unlock(&server->lock);
    deliver(batch);
}

/* --- whole requests: a user's own handlers
 * ---------------------------------------------------------- */

static void run_whole(smhf_server_lane *lane, smhf_server_request *request) {
    smhf_error err = SMHF_ERROR_INIT;
    smhf_server_call call = {smhf_buffer_view(&request->body), request->content_type,
                             request->accept, request->custom_attributes};
    smhf_server_reply reply = {.http_status = 200, .content_type = "application/json"};
    smhf_buffer_init(&reply.body, lane->server->options.max_response_bytes);
    smhf_status status = lane->endpoint.whole(lane->endpoint.context, &call, &reply, &err);
    if (status != SMHF_OK) {
        err.code = status;
        answer_error(request, &err);
        smhf_buffer_deinit(&reply.body);
    } else if (claim(request)) {
        smhf_buffer_deinit(&request->answer);
        request->answer = reply.body;
        request->http_status = reply.http_status;
        reply.content_type[sizeof reply.content_type - 1] = '\0';
        strcpy(request->answer_type, reply.content_type);
        if (request->service_face && request->http_status >= 400) {
            wrap_for_service(request);
        }
        smhf_listener_resume(request);
    } else {
        smhf_buffer_deinit(&reply.body);
    }
    smhf_request_release(request);
}

static void serve_whole_locked(smhf_server_lane *lane) {
    smhf_server *server = lane->server;
    smhf_server_request *gone = NULL;
    smhf_server_request *request = pop_locked(lane, &gone);
    pthread_mutex_unlock(&server->lock);
    if (gone != NULL) {
        smhf_request_fail(gone, 503, "the client is gone");
        smhf_listener_resume(gone);
    } else if (request != NULL) {
        run_whole(lane, request);
    }
    pthread_mutex_lock(&server->lock);
}

/* --- threads
 * -------------------------------------------------------------------------------------- */

typedef struct worker_start {
    smhf_server_lane *lane;
    worker_batch batch;
} worker_start;

static void worker_free(worker_start *worker) {
    if (worker != NULL) {
        smhf_free(worker->batch.segment);
        smhf_free(worker->batch.row);
        smhf_free(worker->batch.result);
        smhf_free(worker);
    }
}

static worker_start *worker_new(smhf_server_lane *lane) {
    size_t rows = (size_t)lane->server->options.max_batch_rows;
    worker_start *worker = smhf_calloc(1, sizeof *worker);
    if (worker == NULL) {
        return NULL;
    }
    worker->lane = lane;
    worker->batch.lane = lane;
    worker->batch.segment = smhf_calloc(rows, sizeof(segment));
    worker->batch.row = smhf_calloc(rows, sizeof(smhf_server_row));
    worker->batch.result = smhf_calloc(rows, sizeof(smhf_server_result));
    if (worker->batch.segment == NULL || worker->batch.row == NULL ||
        worker->batch.result == NULL) {
        worker_free(worker);
        return NULL;
    }
    return worker;
}

static void *worker_body(void *argument) {
    worker_start *worker = argument;
    smhf_server_lane *lane = worker->lane;
    smhf_server *server = lane->server;
    pthread_mutex_lock(&server->lock);
    for (;;) {
        while (lane->queue.first == NULL && !lane->closing) {
            pthread_cond_wait(&lane->wake, &server->lock);
        }
        if (lane->queue.first == NULL) {
            break;
        }
        if (lane->endpoint.whole != NULL) {
            serve_whole_locked(lane);
            continue;
        }
        gather_locked(&worker->batch);
        if (worker->batch.rows > 0) {
            pthread_mutex_unlock(&server->lock);
            run_batch(&worker->batch);
            pthread_mutex_lock(&server->lock);
        }
    }
    pthread_mutex_unlock(&server->lock);
    worker_free(worker);
    return NULL;
}

/* Claims up to SWEEP_MAX requests that passed their deadline or whose clients left. */
static size_t sweep_locked(smhf_server *server, smhf_server_request **out, int *timed_out) {
    int64_t now = smhf_server_now_ms();
    size_t count = 0;
    smhf_server_request *next;
    for (smhf_server_request *r = server->pending.first; r != NULL && count < SWEEP_MAX; r = next) {
        next = r->pending.next;
        if (now < r->deadline_ms) {
            continue; /* a slow upload may stand behind younger ones: no early end */
        }
        claim_locked(r);
        server->stats.expired++;
        timed_out[count] = 1;
        out[count++] = r;
    }
    for (smhf_server_lane *lane = server->lanes; lane != NULL; lane = lane->next) {
        for (smhf_server_request *r = lane->queue.first; r != NULL && count < SWEEP_MAX; r = next) {
            next = r->queue.next;
            if (smhf_listener_gone(r)) {
                claim_locked(r);
                server->stats.gone++;
                timed_out[count] = 0;
                out[count++] = r;
            }
        }
    }
    return count;
}

static void *sweeper_body(void *argument) {
    smhf_server *server = argument;
    smhf_server_request *found[SWEEP_MAX];
    int timed_out[SWEEP_MAX];
    char message[96];
    snprintf(message, sizeof message, "the deadline of %g s passed before the answer was ready",
             server->options.deadline_ms / 1000.0);
    pthread_mutex_lock(&server->lock);
    while (server->state != SMHF_SERVER_STOPPING) {
        size_t count = sweep_locked(server, found, timed_out);
        if (count > 0) {
            pthread_mutex_unlock(&server->lock);
            for (size_t i = 0; i < count; i++) {
                smhf_request_fail(found[i], 503, timed_out[i] ? message : "the client is gone");
                smhf_listener_resume(found[i]);
            }
            pthread_mutex_lock(&server->lock);
            continue;
        }
        struct timespec when;
        deadline_in(&when, SWEEP_MS);
        pthread_cond_timedwait(&server->sweep, &server->lock, &when);
    }
    pthread_mutex_unlock(&server->lock);
    return NULL;
}

/* --- endpoints
 * ------------------------------------------------------------------------------------ */

static void lane_free(smhf_server_lane *lane) {
    if (lane == NULL) {
        return;
    }
    for (size_t i = 0; lane->labels != NULL && i < lane->endpoint.label_count; i++) {
        smhf_free(lane->labels[i]);
    }
    smhf_free(lane->labels);
    smhf_free(lane->workers);
    pthread_cond_destroy(&lane->wake);
    smhf_free(lane);
}

static smhf_status lane_new(smhf_server *server, const smhf_server_endpoint *endpoint,
                            smhf_server_lane **out, smhf_error *err) {
    smhf_server_lane *lane = smhf_calloc(1, sizeof *lane);
    *out = NULL;
    if (lane == NULL) {
        return smhf_fail_nomem(err, "endpoint", sizeof *lane);
    }
    condition_init(&lane->wake);
    lane->server = server;
    lane->endpoint = *endpoint;
    strcpy(lane->name, endpoint->name);
    lane->endpoint.name = lane->name;
    lane->endpoint.workers = endpoint->workers > 0 ? endpoint->workers : 1;
    lane->endpoint.max_row_tokens = endpoint->max_row_tokens > 0 ? endpoint->max_row_tokens : 512;
    lane->labels = smhf_calloc(endpoint->label_count + 1, sizeof *lane->labels);
    lane->workers = smhf_calloc((size_t)lane->endpoint.workers, sizeof *lane->workers);
    int failed = lane->labels == NULL || lane->workers == NULL;
    for (size_t i = 0; !failed && i < endpoint->label_count; i++) {
        lane->labels[i] = smhf_strdup(endpoint->labels[i]);
        failed = lane->labels[i] == NULL;
    }
    if (failed) {
        lane_free(lane);
        return smhf_fail(err, SMHF_E_NOMEM, "endpoint %s: no memory for %zu labels", endpoint->name,
                         endpoint->label_count);
    }
    *out = lane;
    return SMHF_OK;
}

/* Ends the workers of a lane that is out of the list or closing, then the lane itself. */
static void lane_end(smhf_server_lane *lane) {
    smhf_server *server = lane->server;
    pthread_mutex_lock(&server->lock);
    lane->closing = 1;
    pthread_cond_broadcast(&lane->wake);
    pthread_mutex_unlock(&server->lock);
    for (int i = 0; i < lane->worker_count; i++) {
        pthread_join(lane->workers[i], NULL);
    }
    if (lane->endpoint.release != NULL) {
        lane->endpoint.release(lane->endpoint.context);
    }
    pthread_mutex_lock(&server->lock);
    smhf_server_lane **at = &server->lanes;
    while (*at != NULL && *at != lane) {
        at = &(*at)->next;
    }
    if (*at == lane) {
        *at = lane->next;
    }
    pthread_mutex_unlock(&server->lock);
    lane_free(lane);
}

static smhf_status check_endpoint(const smhf_server_endpoint *endpoint, smhf_error *err) {
    if (endpoint->name == NULL ||
        !smhf_endpoint_name_valid(endpoint->name, strlen(endpoint->name))) {
        return smhf_fail(err, SMHF_E_ARG,
                         "endpoint name %.80s: expected 1-63 letters, digits and inner hyphens",
                         endpoint->name == NULL ? "(none)" : endpoint->name);
    }
    if ((endpoint->batch == NULL) == (endpoint->whole == NULL)) {
        return smhf_fail(err, SMHF_E_ARG, "endpoint %s: expected one of batch and whole",
                         endpoint->name);
    }
    if (endpoint->batch != NULL && (endpoint->label_count == 0 || endpoint->labels == NULL)) {
        return smhf_fail(err, SMHF_E_ARG, "endpoint %s: expected at least one label",
                         endpoint->name);
    }
    for (size_t i = 0; i < endpoint->label_count; i++) {
        size_t size = strlen(endpoint->labels[i]);
        if (smhf_utf8_validate((const uint8_t *)endpoint->labels[i], size) < size) {
            return smhf_fail(err, SMHF_E_ARG, "endpoint %s: label %zu is not UTF-8", endpoint->name,
                             i);
        }
    }
    if (endpoint->workers < 0 || endpoint->workers > 256) {
        return smhf_fail(err, SMHF_E_ARG, "endpoint %s: workers %d: expected 0..256",
                         endpoint->name, endpoint->workers);
    }
    return SMHF_OK;
}

/* Puts the lane into the list unless the name is taken. */
static smhf_status lane_enlist(smhf_server_lane *lane, smhf_error *err) {
    smhf_server *server = lane->server;
    smhf_status status = SMHF_OK;
    pthread_mutex_lock(&server->lock);
    smhf_server_lane **at = &server->lanes;
    for (; *at != NULL; at = &(*at)->next) {
        if (strcmp((*at)->name, lane->name) == 0) {
            status = smhf_fail(err, SMHF_E_ARG, "endpoint %s: the name is taken", lane->name);
            break;
        }
    }
    if (status == SMHF_OK) {
        *at = lane;
    }
    pthread_mutex_unlock(&server->lock);
    return status;
}

smhf_status smhf_server_add(smhf_server *server, const smhf_server_endpoint *endpoint,
                            smhf_error *err) {
    smhf_server_lane *lane;
    SMHF_TRY(check_endpoint(endpoint, err));
    SMHF_TRY(lane_new(server, endpoint, &lane, err));
    if (lane_enlist(lane, err) != SMHF_OK) {
        lane_free(lane);
        return SMHF_E_ARG;
    }
    for (int i = 0; i < lane->endpoint.workers; i++) {
        worker_start *worker = worker_new(lane);
        if (worker == NULL || start_thread(&lane->workers[i], worker_body, worker) != 0) {
            worker_free(worker);
            lane->endpoint.release = NULL; /* a failed add leaves the context to the caller */
            smhf_status status =
                smhf_fail(err, SMHF_E_NOMEM, "endpoint %s: no memory for worker %d", lane->name, i);
            lane_end(lane);
            return status;
        }
        lane->worker_count = i + 1;
    }
    return SMHF_OK;
}

smhf_status smhf_server_remove(smhf_server *server, const char *name, smhf_error *err) {
    pthread_mutex_lock(&server->lock);
    smhf_server_lane *lane = (name[0] != '\0') ? smhf_server_find_locked(server, name) : NULL;
    if (lane != NULL) {
        lane->closing = 1;
    }
    pthread_mutex_unlock(&server->lock);
    if (lane == NULL) {
        return smhf_fail(err, SMHF_E_ARG, "endpoint %.80s: there is none of this name", name);
    }
    lane_end(lane);
    return SMHF_OK;
}

int smhf_server_has(smhf_server *server, const char *name) {
    pthread_mutex_lock(&server->lock);
    int found = name[0] != '\0' && smhf_server_find_locked(server, name) != NULL;
    pthread_mutex_unlock(&server->lock);
    return found;
}

/* --- the server
 * ----------------------------------------------------------------------------------- */

static smhf_status check_options(const smhf_server_options *options, smhf_error *err) {
    if (options->host == NULL || strlen(options->host) >= 64) {
        return smhf_fail(err, SMHF_E_ARG, "host: expected a numeric address or localhost");
    }
    if (options->port < 0 || options->port > 65535) {
        return smhf_fail(err, SMHF_E_ARG, "port %d: expected 0..65535", options->port);
    }
    if (options->max_batch_rows < 1 || options->max_batch_rows > 65536) {
        return smhf_fail(err, SMHF_E_ARG, "max_batch_rows %d: expected 1..65536",
                         options->max_batch_rows);
    }
    if (options->max_queue < 1 || options->deadline_ms < 1 || options->max_connections < 1 ||
        options->idle_timeout_s < 1 || options->backlog < 1 || options->retry_after_s < 0 ||
        options->max_request_bytes < 2 || options->max_response_bytes < 2 ||
        options->max_batch_tokens < 1 || options->max_request_rows < 1) {
        return smhf_fail(err, SMHF_E_ARG, "server options: expected every limit to be at least 1");
    }
    if (options->max_header_bytes < 4096) {
        return smhf_fail(err, SMHF_E_ARG, "max_header_bytes %zu: expected at least 4096",
                         options->max_header_bytes);
    }
    return SMHF_OK;
}

static void server_destroy(smhf_server *server) {
    pthread_cond_destroy(&server->idle);
    pthread_cond_destroy(&server->sweep);
    pthread_mutex_destroy(&server->lock);
    smhf_free(server);
}

smhf_status smhf_server_start(const smhf_server_options *options, smhf_server **out,
                              smhf_error *err) {
    *out = NULL;
    SMHF_TRY(check_options(options, err));
    smhf_server *server = smhf_calloc(1, sizeof *server);
    if (server == NULL) {
        return smhf_fail_nomem(err, "server", sizeof *server);
    }
    server->options = *options;
    strcpy(server->host, options->host);
    server->options.host = server->host;
    server->process = (long)getpid();
    pthread_mutex_init(&server->lock, NULL);
    condition_init(&server->idle);
    condition_init(&server->sweep);
    smhf_status status = smhf_listener_open(server, err);
    if (status != SMHF_OK) {
        server_destroy(server);
        return status;
    }
    if (start_thread(&server->sweeper, sweeper_body, server) != 0) {
        smhf_listener_close(server);
        server_destroy(server);
        return smhf_fail(err, SMHF_E_NOMEM, "server: could not start a thread");
    }
    *out = server;
    return SMHF_OK;
}

int smhf_server_port(const smhf_server *server) {
    return server->port;
}

void smhf_server_set_ready(smhf_server *server) {
    pthread_mutex_lock(&server->lock);
    if (server->state == SMHF_SERVER_STARTING) {
        server->state = SMHF_SERVER_READY;
    }
    pthread_mutex_unlock(&server->lock);
}

smhf_status smhf_server_drain(smhf_server *server, int timeout_ms, smhf_error *err) {
    struct timespec until;
    deadline_in(&until, timeout_ms > 0 ? timeout_ms : 0);
    pthread_mutex_lock(&server->lock);
    if (server->state < SMHF_SERVER_DRAINING) {
        server->state = SMHF_SERVER_DRAINING;
    }
    while (server->stats.in_flight > 0 &&
           pthread_cond_timedwait(&server->idle, &server->lock, &until) == 0) {
    }
    uint64_t left = server->stats.in_flight;
    pthread_mutex_unlock(&server->lock);
    if (left > 0) {
        return smhf_fail(err, SMHF_E_TIMEOUT,
                         "drain: %llu requests are still in flight after %d ms",
                         (unsigned long long)left, timeout_ms);
    }
    return SMHF_OK;
}

/* Answers whatever is pending; running callbacks find their requests claimed. */
static void refuse_pending(smhf_server *server) {
    for (;;) {
        pthread_mutex_lock(&server->lock);
        smhf_server_request *request = server->pending.first;
        if (request != NULL) {
            claim_locked(request);
        }
        pthread_mutex_unlock(&server->lock);
        if (request == NULL) {
            return;
        }
        smhf_request_fail(request, 503, "the server is stopping");
        smhf_listener_resume(request);
    }
}

void smhf_server_free(smhf_server *server) {
    if (server == NULL || server->process != (long)getpid()) {
        return;
    }
    pthread_mutex_lock(&server->lock);
    server->state = SMHF_SERVER_STOPPING;
    pthread_cond_broadcast(&server->sweep);
    pthread_mutex_unlock(&server->lock);
    pthread_join(server->sweeper, NULL);
    refuse_pending(server);
    while (server->lanes != NULL) {
        lane_end(server->lanes);
    }
    smhf_status left = smhf_server_drain(server, 1000, NULL); /* lets the last answers leave */
    (void)left;
    smhf_listener_close(server);
    server_destroy(server);
}

void smhf_server_stats_get(smhf_server *server, smhf_server_stats *out) {
    pthread_mutex_lock(&server->lock);
    *out = server->stats;
    out->queued = 0;
    for (smhf_server_lane *lane = server->lanes; lane != NULL; lane = lane->next) {
        out->queued += lane->queue.count;
    }
    pthread_mutex_unlock(&server->lock);
}
