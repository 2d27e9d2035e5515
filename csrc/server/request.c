/* request.c: one request's life apart from queues: lists, references, claims, refusals. */
#include "common/mem.h"
#include "server/server_room.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

int64_t smhf_server_now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void smhf_deadline_in(struct timespec *when, int64_t ms) {
    clock_gettime(CLOCK_MONOTONIC, when);
    when->tv_sec += ms / 1000;
    when->tv_nsec += (ms % 1000) * 1000000;
    if (when->tv_nsec >= 1000000000) {
        when->tv_sec++;
        when->tv_nsec -= 1000000000;
    }
}

int smhf_condition_init(pthread_cond_t *condition) {
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    int status = pthread_cond_init(condition, &attributes);
    pthread_condattr_destroy(&attributes);
    return status;
}

/* A thread that receives no signal: those belong to the program's own threads. */
int smhf_thread_start(pthread_t *thread, void *(*body)(void *), void *argument) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int status = pthread_create(thread, NULL, body, argument);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return status;
}

/* --- lists --- */

static smhf_request_links *links_of(smhf_server_request *request, smhf_links_kind kind) {
    return (kind == SMHF_LINKS_QUEUE) ? &request->queue : &request->pending;
}

void smhf_requests_append(smhf_request_list *list, smhf_server_request *request,
                          smhf_links_kind kind) {
    smhf_request_links *mine = links_of(request, kind);
    SMHF_ASSERT(mine->list == NULL);
    mine->list = list;
    mine->next = NULL;
    mine->previous = list->last;
    if (list->last != NULL) {
        links_of(list->last, kind)->next = request;
    } else {
        list->first = request;
    }
    list->last = request;
    list->count++;
}

void smhf_requests_prepend(smhf_request_list *list, smhf_server_request *request,
                           smhf_links_kind kind) {
    smhf_request_links *mine = links_of(request, kind);
    SMHF_ASSERT(mine->list == NULL);
    mine->list = list;
    mine->previous = NULL;
    mine->next = list->first;
    if (list->first != NULL) {
        links_of(list->first, kind)->previous = request;
    } else {
        list->last = request;
    }
    list->first = request;
    list->count++;
}

int smhf_requests_remove(smhf_server_request *request, smhf_links_kind kind) {
    smhf_request_links *mine = links_of(request, kind);
    smhf_request_list *list = mine->list;
    if (list == NULL) {
        return 0;
    }
    if (mine->previous != NULL) {
        links_of(mine->previous, kind)->next = mine->next;
    } else {
        list->first = mine->next;
    }
    if (mine->next != NULL) {
        links_of(mine->next, kind)->previous = mine->previous;
    } else {
        list->last = mine->previous;
    }
    list->count--;
    *mine = (smhf_request_links){0};
    return 1;
}

/* --- requests --- */

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
    snprintf(request->answer_type, sizeof request->answer_type, "%s", "application/json");
    return request;
}

int smhf_request_release_locked(smhf_server_request *request) {
    SMHF_ASSERT(request->references > 0);
    if (--request->references > 0) {
        return 0;
    }
    request->server->stats.memory_bytes -= request->charged;
    return 1;
}

void smhf_request_free(smhf_server_request *request) {
    smhf_buffer_deinit(&request->body);
    smhf_buffer_deinit(&request->answer);
    smhf_wire_call_deinit(&request->call);
    smhf_free(request->scores);
    smhf_free(request);
}

void smhf_request_release(smhf_server_request *request) {
    smhf_server *server = request->server;
    pthread_mutex_lock(&server->lock);
    int last = smhf_request_release_locked(request);
    pthread_mutex_unlock(&server->lock);
    if (last) {
        smhf_request_free(request);
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
void smhf_request_wrap(smhf_server_request *request) {
    smhf_buffer container = request->answer;
    smhf_buffer_init(&request->answer, 0);
    fail_plainly(request,
                 smhf_wire_model_error(&request->answer, request->http_status, request->endpoint,
                                       smhf_buffer_view(&container), NULL));
    smhf_buffer_deinit(&container);
    request->http_status = 424;
    request->error_type = "ModelError";
    snprintf(request->answer_type, sizeof request->answer_type, "%s", "application/json");
}

void smhf_request_fail(smhf_server_request *request, int http_status, const char *message) {
    request->http_status = http_status;
    snprintf(request->answer_type, sizeof request->answer_type, "%s", "application/json");
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

void smhf_request_fail_from_model(smhf_server_request *request, const smhf_error *err) {
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
        smhf_request_wrap(request);
    }
}

int smhf_request_claim_locked(smhf_server_request *request) {
    if (request->state != SMHF_REQUEST_PENDING) {
        return 0;
    }
    request->state = SMHF_REQUEST_ANSWERED;
    smhf_requests_remove(request, SMHF_LINKS_PENDING);
    if (smhf_requests_remove(request, SMHF_LINKS_QUEUE)) {
        request->references--; /* the connection still holds one */
        SMHF_ASSERT(request->references > 0);
    }
    return 1;
}

int smhf_request_claim(smhf_server_request *request) {
    pthread_mutex_lock(&request->server->lock);
    int mine = smhf_request_claim_locked(request);
    pthread_mutex_unlock(&request->server->lock);
    return mine;
}
