/* server.c: endpoints come and go, the sweeper, start, drain and end.
 *
 * The sweeper answers whatever passed its deadline, queued or running, drops queued requests whose
 * clients left, and hangs up on connections that drip headers for ever.
 */
#include "common/mem.h"
#include "server/server_room.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SWEEP_MS 100
#define SWEEP_MAX 32 /* requests answered per look */

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
        smhf_request_claim_locked(r);
        server->stats.expired++;
        timed_out[count] = 1;
        out[count++] = r;
    }
    for (smhf_server_lane *lane = server->lanes; lane != NULL; lane = lane->next) {
        for (smhf_server_request *r = lane->queue.first; r != NULL && count < SWEEP_MAX; r = next) {
            next = r->queue.next;
            if (smhf_listener_gone(r)) {
                smhf_request_claim_locked(r);
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
        smhf_listener_hang_up_locked(server);
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
        smhf_deadline_in(&when, SWEEP_MS);
        pthread_cond_timedwait(&server->sweep, &server->lock, &when);
    }
    pthread_mutex_unlock(&server->lock);
    return NULL;
}

/* --- endpoints --- */

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
    smhf_condition_init(&lane->wake);
    lane->server = server;
    lane->endpoint = *endpoint;
    snprintf(lane->name, sizeof lane->name, "%s", endpoint->name);
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
        smhf_lane_worker *worker = smhf_lane_worker_new(lane);
        if (worker == NULL ||
            smhf_thread_start(&lane->workers[i], smhf_lane_worker_body, worker) != 0) {
            smhf_lane_worker_free(worker);
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

/* --- the server --- */

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
    snprintf(server->host, sizeof server->host, "%s", options->host);
    server->options.host = server->host;
    server->process = (long)getpid();
    pthread_mutex_init(&server->lock, NULL);
    smhf_condition_init(&server->idle);
    smhf_condition_init(&server->sweep);
    smhf_status status = smhf_listener_open(server, err);
    if (status != SMHF_OK) {
        server_destroy(server);
        return status;
    }
    if (smhf_thread_start(&server->sweeper, sweeper_body, server) != 0) {
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
    smhf_deadline_in(&until, timeout_ms > 0 ? timeout_ms : 0);
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
            smhf_request_claim_locked(request);
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
