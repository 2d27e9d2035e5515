/* queue.c: admission, queues and workers: token-budget dynamic batching.
 *
 * A worker that frees up takes what is queued, oldest first, up to the limits on rows, tokens and
 * bytes. A request with more rows than fit gives a part and goes to the tail, so a huge request
 * never starves small ones. A client that closed its side (the HTTP library does not write to a
 * half-closed one, either) or was reset is dropped before its rows are computed.
 *
 * One lock per server; nothing is computed, parsed, written or sent while it is held.
 */
#include "common/mem.h"
#include "server/server_room.h"

#include <stdio.h>
#include <string.h>

static void answer_error(smhf_server_request *request, const smhf_error *err) {
    if (smhf_request_claim(request)) {
        smhf_request_fail_from_model(request, err);
        smhf_listener_resume(request);
    }
}

/* --- admission --- */

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
        smhf_request_claim_locked(request);
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
            smhf_requests_append(&server->pending, request, SMHF_LINKS_PENDING);
            smhf_requests_append(&lane->queue, request, SMHF_LINKS_QUEUE);
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

/* --- a worker's batch --- */

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
        smhf_request_claim_locked(request);
        lane->server->stats.gone++;
        *gone = request;
        return NULL;
    }
    smhf_requests_remove(request, SMHF_LINKS_QUEUE);
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
                    smhf_requests_append(&lane->queue, request, SMHF_LINKS_QUEUE);
                } else {
                    smhf_requests_prepend(&lane->queue, request, SMHF_LINKS_QUEUE);
                }
                request->references++;
                if (lane->worker_count > 1) {
                    pthread_cond_signal(&lane->wake);
                }
            }
        }
        if (!in_batch && smhf_request_release_locked(request)) { /* the popped reference */
            pthread_mutex_unlock(&server->lock);
            smhf_request_free(request);
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
    if (!smhf_request_claim(request)) {
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
        snprintf(request->answer_type, sizeof request->answer_type, "%s",
                 smhf_wire_mime(request->answer_format));
    } else {
        if (request->answer.size + 4096 > request->answer.limit) {
            smhf_fail(&err, SMHF_E_ARG,
                      "the answer for %zu rows is over %zu bytes: send fewer rows",
                      request->call.count, request->answer.limit);
        }
        smhf_buffer_deinit(&request->answer);
        smhf_buffer_init(&request->answer, 0);
        smhf_request_fail_from_model(request, &err);
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

/* --- whole requests: a user's own handlers --- */

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
    } else if (smhf_request_claim(request)) {
        smhf_buffer_deinit(&request->answer);
        request->answer = reply.body;
        request->http_status = reply.http_status;
        reply.content_type[sizeof reply.content_type - 1] = '\0';
        snprintf(request->answer_type, sizeof request->answer_type, "%s", reply.content_type);
        if (request->service_face && request->http_status >= 400) {
            smhf_request_wrap(request);
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

/* --- threads --- */

struct smhf_lane_worker {
    smhf_server_lane *lane;
    worker_batch batch;
};

void smhf_lane_worker_free(smhf_lane_worker *worker) {
    if (worker != NULL) {
        smhf_free(worker->batch.segment);
        smhf_free(worker->batch.row);
        smhf_free(worker->batch.result);
        smhf_free(worker);
    }
}

smhf_lane_worker *smhf_lane_worker_new(smhf_server_lane *lane) {
    size_t rows = (size_t)lane->server->options.max_batch_rows;
    smhf_lane_worker *worker = smhf_calloc(1, sizeof *worker);
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
        smhf_lane_worker_free(worker);
        return NULL;
    }
    return worker;
}

void *smhf_lane_worker_body(void *argument) {
    smhf_lane_worker *worker = argument;
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
    smhf_lane_worker_free(worker);
    return NULL;
}
