/* listener.c: HTTP. The only file that knows libmicrohttpd.
 *
 * One I/O thread of the library accepts, reads and writes; a whole request is suspended and pushed
 * to its queue, so /ping is answered in microseconds however busy the workers are. A body that is
 * refused is read to its end (up to a bound) before the refusal is sent: closing earlier would
 * reset the connection under a client that is still sending, and the answer would be lost.
 */
#include "common/mem.h"
#include "server/server_room.h"

#include <microhttpd.h>

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#define DISCARD_MAX ((uint64_t)64 << 20) /* bytes of a refused body that are read */
#define SERVICE_PREFIX "/endpoints/"
#define SERVICE_SUFFIX "/invocations"

/* --- socket --- */

static smhf_status bind_failure(const smhf_server_options *options, int code, smhf_error *err) {
    if (code == EADDRINUSE) {
        return smhf_fail(err, SMHF_E_IO,
                         "port %d on %s is in use by another program: choose another port, or 0 "
                         "for any free one",
                         options->port, options->host);
    }
    return smhf_fail(err, SMHF_E_IO, "port %d on %s could not be listened on: %s", options->port,
                     options->host, strerror(code));
}

static smhf_status listen_on(smhf_server *server, const struct addrinfo *address, int *out,
                             smhf_error *err) {
    const smhf_server_options *options = &server->options;
    int one = 1;
    int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return bind_failure(options, errno, err);
    }
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_storage bound = {0};
    socklen_t size = sizeof bound;
    if (bind(fd, address->ai_addr, address->ai_addrlen) != 0 || listen(fd, options->backlog) != 0 ||
        getsockname(fd, (struct sockaddr *)&bound, &size) != 0) {
        int code = errno;
        close(fd);
        return bind_failure(options, code, err);
    }
    server->port = ntohs(bound.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&bound)->sin6_port
                                                     : ((struct sockaddr_in *)&bound)->sin_port);
    *out = fd;
    return SMHF_OK;
}

static smhf_status open_socket(smhf_server *server, int *out, smhf_error *err) {
    const char *host = server->options.host;
    char port[8];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    snprintf(port, sizeof port, "%d", server->options.port);
    if (strcmp(host, "localhost") == 0) {
        host = "127.0.0.1";
    }
    if (getaddrinfo(host, port, &hints, &found) != 0) {
        return smhf_fail(err, SMHF_E_ARG, "host %s: expected a numeric address or localhost", host);
    }
    smhf_status status = listen_on(server, found, out, err);
    freeaddrinfo(found);
    return status;
}

int smhf_listener_gone(const smhf_server_request *request) {
    struct pollfd probe = {request->fd, POLLRDHUP, 0};
    return request->fd >= 0 && poll(&probe, 1, 0) > 0 &&
           (probe.revents & (POLLRDHUP | POLLERR | POLLHUP | POLLNVAL)) != 0;
}

/* --- answers --- */

static void add_header(struct MHD_Response *response, const char *name, const char *value) {
    if (MHD_add_response_header(response, name, value) != MHD_YES) {
        return; /* out of memory or a value with control characters: the answer goes without */
    }
}

static int is_draining(smhf_server *server) {
    pthread_mutex_lock(&server->lock);
    int draining = server->state >= SMHF_SERVER_DRAINING;
    pthread_mutex_unlock(&server->lock);
    return draining;
}

static enum MHD_Result send_response(smhf_server *server, struct MHD_Connection *connection,
                                     unsigned status, struct MHD_Response *response) {
    if (response == NULL) {
        return MHD_NO;
    }
    if (is_draining(server)) {
        add_header(response, MHD_HTTP_HEADER_CONNECTION, "close");
    }
    enum MHD_Result result = MHD_queue_response(connection, status, response);
    MHD_destroy_response(response);
    return result;
}

/* A number that names this answer in logs; the shape of a UUID, unique per server and time. */
static void request_id(smhf_server *server, char out[40]) {
    pthread_mutex_lock(&server->lock);
    uint64_t serial = ++server->request_serial;
    pthread_mutex_unlock(&server->lock);
    uint64_t high = (uint64_t)server->process << 32 ^ (uint64_t)smhf_server_now_ms();
    uint64_t mixed = (serial + (uint64_t)(uintptr_t)server) * 0x9E3779B97F4A7C15u;
    snprintf(out, 40, "%08x-%04x-%04x-%04x-%012llx", (unsigned)(high >> 32),
             (unsigned)(high >> 16) & 0xFFFF, (unsigned)high & 0xFFFF,
             (unsigned)(mixed >> 48) & 0xFFFF,
             (unsigned long long)((mixed ^ serial) & 0xFFFFFFFFFFFFu));
}

static enum MHD_Result send_answer(smhf_server_request *request,
                                   struct MHD_Connection *connection) {
    char number[40];
    /* The buffer lives until the request is released, after the last byte was sent. */
    struct MHD_Response *response = MHD_create_response_from_buffer(
        request->answer.size, request->answer.data, MHD_RESPMEM_PERSISTENT);
    if (response == NULL) {
        return MHD_NO;
    }
    add_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, request->answer_type);
    if (request->truncated > 0) {
        snprintf(number, sizeof number, "%zu", request->truncated);
        add_header(response, "X-Smhf-Truncated", number);
    }
    if (request->retry_after_s > 0) {
        snprintf(number, sizeof number, "%d", request->retry_after_s);
        add_header(response, MHD_HTTP_HEADER_RETRY_AFTER, number);
    }
    if (request->service_face) {
        request_id(request->server, number);
        add_header(response, "x-amzn-RequestId", number);
        if (request->error_type != NULL) {
            add_header(response, "x-amzn-errortype", request->error_type);
        } else {
            add_header(response, "x-Amzn-Invoked-Production-Variant", "AllTraffic");
        }
    }
    smhf_request_count(request);
    return send_response(request->server, connection, (unsigned)request->http_status, response);
}

/* For requests that never become invocations: /ping, unknown paths, protocol faults. */
static enum MHD_Result send_plain(smhf_server *server, struct MHD_Connection *connection,
                                  unsigned status, const char *type, const char *message) {
    smhf_buffer body;
    smhf_buffer_init(&body, 0);
    if (message != NULL && smhf_wire_error(&body, (int)status, type, message, NULL) != SMHF_OK) {
        smhf_buffer_clear(&body);
    }
    struct MHD_Response *response =
        MHD_create_response_from_buffer(body.size, body.data, MHD_RESPMEM_MUST_COPY);
    smhf_buffer_deinit(&body);
    if (response == NULL) {
        return MHD_NO;
    }
    if (message != NULL) {
        add_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "application/json");
    }
    if (status == MHD_HTTP_METHOD_NOT_ALLOWED) {
        add_header(response, MHD_HTTP_HEADER_ALLOW, "POST");
    }
    return send_response(server, connection, status, response);
}

static enum MHD_Result answer_ping(smhf_server *server, struct MHD_Connection *connection) {
    pthread_mutex_lock(&server->lock);
    int ready = server->state == SMHF_SERVER_READY;
    pthread_mutex_unlock(&server->lock);
    return send_plain(server, connection, ready ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE, "",
                      NULL);
}

/* --- the beginning of a request --- */

static const char *header_of(struct MHD_Connection *connection, const char *name) {
    const char *value = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, name);
    return value != NULL ? value : "";
}

static void copy_header(char *out, size_t size, struct MHD_Connection *connection,
                        const char *name) {
    snprintf(out, size, "%s", header_of(connection, name));
}

typedef struct header_count {
    const char *name;
    int count;
} header_count;

static enum MHD_Result count_header(void *cls, enum MHD_ValueKind kind, const char *key,
                                    const char *value) {
    header_count *wanted = cls;
    (void)kind;
    (void)value;
    wanted->count += key != NULL && strcasecmp(key, wanted->name) == 0;
    return MHD_YES;
}

static int headers_named(struct MHD_Connection *connection, const char *name) {
    header_count wanted = {name, 0};
    MHD_get_connection_values(connection, MHD_HEADER_KIND, count_header, &wanted);
    return wanted.count;
}

/* What would let two parsers disagree on where a request ends; NULL: nothing. */
static const char *framing_fault(struct MHD_Connection *connection, long long *length) {
    const char *text = header_of(connection, MHD_HTTP_HEADER_CONTENT_LENGTH);
    int lengths = headers_named(connection, MHD_HTTP_HEADER_CONTENT_LENGTH);
    int codings = headers_named(connection, MHD_HTTP_HEADER_TRANSFER_ENCODING);
    *length = -1;
    if (lengths + codings > 1) {
        return "expected one Content-Length or one Transfer-Encoding header, found several";
    }
    if (codings == 1) {
        return strcasecmp(header_of(connection, MHD_HTTP_HEADER_TRANSFER_ENCODING), "chunked") == 0
                   ? NULL
                   : "Transfer-Encoding: only chunked is understood";
    }
    if (lengths == 0) {
        *length = 0;
        return NULL;
    }
    if (text[0] == '\0' || strlen(text) > 18 || text[strspn(text, "0123456789")] != '\0') {
        return "Content-Length: expected a number";
    }
    *length = strtoll(text, NULL, 10);
    return NULL;
}

/* "/endpoints/NAME/invocations" to NAME; 0 when the path is another. */
static int service_name(const char *path, char name[SMHF_ENDPOINT_NAME_SIZE]) {
    size_t prefix = strlen(SERVICE_PREFIX), suffix = strlen(SERVICE_SUFFIX), size = strlen(path);
    if (size < prefix + suffix || strncmp(path, SERVICE_PREFIX, prefix) != 0 ||
        strcmp(path + size - suffix, SERVICE_SUFFIX) != 0) {
        return 0;
    }
    size_t length = size - prefix - suffix;
    if (!smhf_endpoint_name_valid(path + prefix, length)) {
        return 0;
    }
    memcpy(name, path + prefix, length);
    name[length] = '\0';
    return 1;
}

static void set_busy_locked(struct MHD_Connection *connection, int busy) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    smhf_server_peer *peer = (info != NULL) ? info->socket_context : NULL;
    if (peer != NULL) {
        peer->busy = busy;
        peer->since_ms = smhf_server_now_ms();
    }
}

/* Decides before the body whether the request can be taken; the refusal is sent after it. */
static void refuse_early(smhf_server_request *request, long long length) {
    smhf_server *server = request->server;
    char message[256] = "";
    int status = 503;
    pthread_mutex_lock(&server->lock);
    server->stats.in_flight++;
    set_busy_locked(request->connection, 1);
    if (server->state != SMHF_SERVER_READY) {
        snprintf(message, sizeof message, "the server is %s",
                 server->state == SMHF_SERVER_STARTING ? "starting" : "shutting down");
    } else if (length > 0 && (uint64_t)length > server->options.max_request_bytes) {
        status = 413;
        server->stats.refused_size++;
        snprintf(message, sizeof message,
                 "the request of %lld bytes is over the limit of %zu bytes: send fewer rows",
                 length, server->options.max_request_bytes);
    } else if (smhf_server_find_locked(server, request->endpoint) == NULL) {
        status = (request->endpoint[0] != '\0') ? 400 : 503;
        if (request->endpoint[0] != '\0') {
            snprintf(message, sizeof message, "Endpoint %s not found", request->endpoint);
        } else {
            snprintf(message, sizeof message, "no endpoint is loaded");
        }
    }
    pthread_mutex_unlock(&server->lock);
    if (message[0] != '\0') {
        request->refusal = status;
        smhf_request_fail(request, status, message);
    }
}

static enum MHD_Result begin_invocation(smhf_server *server, struct MHD_Connection *connection,
                                        const char *name, void **slot) {
    long long length;
    const char *fault = framing_fault(connection, &length);
    if (fault != NULL) {
        return send_plain(server, connection, MHD_HTTP_BAD_REQUEST, "BadRequestException", fault);
    }
    smhf_server_request *request = smhf_request_new(server);
    if (request == NULL) {
        return send_plain(server, connection, MHD_HTTP_SERVICE_UNAVAILABLE,
                          "ServiceUnavailableException", "out of memory");
    }
    request->connection = connection;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    request->fd = (info != NULL) ? (int)info->connect_fd : -1;
    request->service_face = name[0] != '\0';
    snprintf(request->endpoint, sizeof request->endpoint, "%s", name);
    copy_header(request->content_type, sizeof request->content_type, connection,
                MHD_HTTP_HEADER_CONTENT_TYPE);
    copy_header(request->accept, sizeof request->accept, connection, MHD_HTTP_HEADER_ACCEPT);
    copy_header(request->custom_attributes, sizeof request->custom_attributes, connection,
                "X-Amzn-SageMaker-Custom-Attributes");
    *slot = request;
    refuse_early(request, length);
    /* A client that asks first, or one that announces far too much, is told at once. */
    int asks = strcasecmp(header_of(connection, MHD_HTTP_HEADER_EXPECT), "100-continue") == 0;
    if (request->refusal != 0 && (asks || (length > 0 && (uint64_t)length > DISCARD_MAX))) {
        request->state = SMHF_REQUEST_ANSWERED;
        return send_answer(request, connection);
    }
    return MHD_YES;
}

static enum MHD_Result begin(smhf_server *server, struct MHD_Connection *connection,
                             const char *path, const char *method, void **slot) {
    char name[SMHF_ENDPOINT_NAME_SIZE] = "";
    if (strcmp(path, "/ping") == 0) {
        if (strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0) {
            return answer_ping(server, connection);
        }
        return send_plain(server, connection, MHD_HTTP_METHOD_NOT_ALLOWED,
                          "MethodNotAllowedException", "/ping: expected GET");
    }
    if (strcmp(path, "/invocations") != 0 && !service_name(path, name)) {
        return send_plain(server, connection, MHD_HTTP_NOT_FOUND, "ResourceNotFoundException",
                          "unknown path: expected GET /ping, POST /invocations or POST "
                          "/endpoints/NAME/invocations");
    }
    if (strcmp(method, "POST") != 0) {
        return send_plain(server, connection, MHD_HTTP_METHOD_NOT_ALLOWED,
                          "MethodNotAllowedException", "invocations: expected POST");
    }
    return begin_invocation(server, connection, name, slot);
}

/* --- body --- */

static void refuse_now(smhf_server_request *request, int status, const char *message) {
    request->refusal = status;
    request->discarded = request->body.size;
    smhf_buffer_deinit(&request->body);
    smhf_request_fail(request, status, message);
}

static void count_stat(smhf_server *server, uint64_t *counter) {
    pthread_mutex_lock(&server->lock);
    (*counter)++;
    pthread_mutex_unlock(&server->lock);
}

static enum MHD_Result receive(smhf_server_request *request, const char *data, size_t size) {
    smhf_server *server = request->server;
    if (smhf_server_now_ms() > request->deadline_ms) {
        count_stat(server, &server->stats.slow);
        return MHD_NO; /* closes the connection: the library cannot answer in mid-body */
    }
    if (request->refusal == 0 && !smhf_request_charge(request, size)) {
        count_stat(server, &server->stats.refused_full);
        refuse_now(request, 503, "the server holds too many request bytes");
    }
    if (request->refusal == 0 && request->body.size + size > server->options.max_request_bytes) {
        char message[160];
        count_stat(server, &server->stats.refused_size);
        snprintf(message, sizeof message,
                 "the request is over the limit of %zu bytes: send fewer "
                 "rows",
                 server->options.max_request_bytes);
        refuse_now(request, 413, message);
    }
    if (request->refusal == 0 && smhf_buffer_append(&request->body, data, size, NULL) != SMHF_OK) {
        refuse_now(request, 503, "no memory for the request body");
    }
    if (request->refusal != 0) {
        request->discarded += size;
        return request->discarded > DISCARD_MAX ? MHD_NO : MHD_YES;
    }
    return MHD_YES;
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *connection, const char *path,
                                  const char *method, const char *version, const char *data,
                                  size_t *size, void **slot) {
    smhf_server *server = cls;
    smhf_server_request *request = *slot;
    (void)version;
    if (request == NULL) {
        return begin(server, connection, path, method, slot);
    }
    if (*size > 0) {
        size_t taken = *size;
        *size = 0;
        return receive(request, data, taken);
    }
    if (request->refusal != 0 || request->state == SMHF_REQUEST_ANSWERED) {
        return send_answer(request, connection);
    }
    MHD_suspend_connection(connection); /* before the push: a worker may answer at once */
    smhf_request_push(request);
    return MHD_YES;
}

void smhf_listener_resume(smhf_server_request *request) {
    MHD_resume_connection(request->connection);
}

static void on_completed(void *cls, struct MHD_Connection *connection, void **slot,
                         enum MHD_RequestTerminationCode code) {
    smhf_server *server = cls;
    smhf_server_request *request = *slot;
    (void)code;
    *slot = NULL;
    pthread_mutex_lock(&server->lock);
    set_busy_locked(connection, 0);
    if (request != NULL) {
        server->stats.in_flight--;
        pthread_cond_broadcast(&server->idle);
    }
    pthread_mutex_unlock(&server->lock);
    if (request != NULL) {
        smhf_request_release(request);
    }
}

static void on_connection(void *cls, struct MHD_Connection *connection, void **slot,
                          enum MHD_ConnectionNotificationCode code) {
    smhf_server *server = cls;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        smhf_server_peer *peer = smhf_calloc(1, sizeof *peer); /* NULL: it goes unwatched */
        const union MHD_ConnectionInfo *info =
            MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
        pthread_mutex_lock(&server->lock);
        server->stats.connections++;
        if (peer != NULL && info != NULL) {
            *peer = (smhf_server_peer){server->peers, NULL, (int)info->connect_fd, 0,
                                       smhf_server_now_ms()};
            if (server->peers != NULL) {
                server->peers->previous = peer;
            }
            server->peers = peer;
        }
        pthread_mutex_unlock(&server->lock);
        *slot = peer;
        return;
    }
    smhf_server_peer *peer = *slot; /* its descriptor is closed after this call */
    *slot = NULL;
    if (peer == NULL) {
        return;
    }
    pthread_mutex_lock(&server->lock);
    if (peer->previous != NULL) {
        peer->previous->next = peer->next;
    } else if (server->peers == peer) {
        server->peers = peer->next;
    }
    if (peer->next != NULL) {
        peer->next->previous = peer->previous;
    }
    pthread_mutex_unlock(&server->lock);
    smhf_free(peer);
}

void smhf_listener_hang_up_locked(smhf_server *server) {
    int64_t limit = (int64_t)server->options.idle_timeout_s * 1000 + server->options.deadline_ms;
    int64_t now = smhf_server_now_ms();
    for (smhf_server_peer *peer = server->peers; peer != NULL; peer = peer->next) {
        if (!peer->busy && now - peer->since_ms > limit) {
            shutdown(peer->fd, SHUT_RDWR);
            peer->since_ms = now;
            server->stats.slow++;
        }
    }
}

/* --- open, close --- */

smhf_status smhf_listener_open(smhf_server *server, smhf_error *err) {
    const smhf_server_options *options = &server->options;
    int fd = -1;
    SMHF_TRY(open_socket(server, &fd, err));
    sigset_t all, before; /* the library's thread receives no signal */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    server->daemon = MHD_start_daemon(
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_TURBO, 0, NULL, NULL,
        on_request, server, MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)options->max_connections, MHD_OPTION_CONNECTION_TIMEOUT,
        (unsigned)options->idle_timeout_s, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        options->max_header_bytes, MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_NOTIFY_COMPLETED,
        on_completed, server, MHD_OPTION_NOTIFY_CONNECTION, on_connection, server, MHD_OPTION_END);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (server->daemon == NULL) {
        int code = errno;
        close(fd);
        return smhf_fail(err, SMHF_E_IO, "HTTP service on port %d could not be started: %s",
                         server->port, strerror(code));
    }
    return SMHF_OK;
}

void smhf_listener_close(smhf_server *server) {
    MHD_stop_daemon(server->daemon);
    server->daemon = NULL;
}
