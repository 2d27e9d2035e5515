/* server_room.h: the inside of the room, shared by listener.c, queue.c and wire.c only.
 *
 * A request is born in listener.c when its headers are in, collects its body there, is pushed
 * (queue.c) with its connection suspended, decoded and answered by a worker (wire.c makes the
 * bytes), and sent by listener.c once resumed. Exactly one party claims a request and writes its
 * answer: a worker, or the sweeper when the deadline passed, or stop.
 */
#ifndef SMHF_SERVER_SERVER_ROOM_H
#define SMHF_SERVER_SERVER_ROOM_H

#include "common/arena.h"
#include "common/bytes.h"
#include "server/server.h"

#include <pthread.h>

/* --- wire.c, answer.c: bytes to rows, scores to bytes --- */

typedef enum smhf_wire_shape {
    SMHF_WIRE_TEXT, /* "inputs" is one string: the answer is a list all the same */
    SMHF_WIRE_PAIR, /* "inputs" is {"text", "text_pair"}, or the body itself is: a bare object */
    SMHF_WIRE_LIST, /* "inputs" is a list: one entry per row */
} smhf_wire_shape;

typedef struct smhf_wire_call {
    smhf_server_row *rows; /* owned; texts point into the body or into `texts` */
    size_t count;
    size_t capacity;
    smhf_arena texts; /* strings that held escapes */
    smhf_wire_shape shape;
    int has_top_k;  /* entries become lists, sorted by score */
    int64_t top_k;  /* with has_top_k; 0: all */
    int return_all; /* the older parameter: lists in label order */
} smhf_wire_call;

typedef enum smhf_wire_format { SMHF_WIRE_JSON, SMHF_WIRE_CSV } smhf_wire_format;

void smhf_wire_call_init(smhf_wire_call *call);
void smhf_wire_call_deinit(smhf_wire_call *call);
/* Content-Type to format ("" is JSON), Accept to format (first one we can serve; "" and any
 * wildcard are JSON). SMHF_E_UNSUPPORTED names the type. */
smhf_status smhf_wire_content_type(const char *header, smhf_wire_format *out,
                                   smhf_error *err) SMHF_MUST_USE;
smhf_status smhf_wire_accept(const char *header, smhf_wire_format *out,
                             smhf_error *err) SMHF_MUST_USE;
/* Where in "inputs" a fault is, for sentences: "inputs", "inputs[3]". */
const char *smhf_wire_place(char out[32], smhf_wire_shape shape, size_t row);
const char *smhf_wire_mime(smhf_wire_format format);
/* Rows of a body; they borrow from it. */
smhf_status smhf_wire_decode(smhf_wire_call *call, smhf_wire_format format, smhf_bytes_view body,
                             size_t max_rows, smhf_error *err) SMHF_MUST_USE;
/* scores[row * label_count + label]; a score that is not finite is an error naming the row. */
smhf_status smhf_wire_encode(const smhf_wire_call *call, smhf_wire_format format,
                             const char *const *labels, size_t label_count, const float *scores,
                             smhf_buffer *out, smhf_error *err) SMHF_MUST_USE;
/* {"code":400,"type":"InternalServerException","message":"..."} */
smhf_status smhf_wire_error(smhf_buffer *out, int http_status, const char *type,
                            const char *message, smhf_error *err) SMHF_MUST_USE;
/* The service's wrapping of a container's refusal; `original` is the container's body. */
smhf_status smhf_wire_model_error(smhf_buffer *out, int http_status, const char *endpoint,
                                  smhf_bytes_view original, smhf_error *err) SMHF_MUST_USE;
/* The service's own errors: {"Code":..., "Message":...}. */
smhf_status smhf_wire_service_error(smhf_buffer *out, const char *code, const char *message,
                                    smhf_error *err) SMHF_MUST_USE;

/* --- requests and lanes --- */

typedef enum smhf_request_state {
    SMHF_REQUEST_READING,  /* owned by the listener */
    SMHF_REQUEST_PENDING,  /* queued or in a batch: whoever claims it answers */
    SMHF_REQUEST_ANSWERED, /* claimed; the answer is being written or sent */
} smhf_request_state;

#define SMHF_ENDPOINT_NAME_SIZE 64

typedef struct smhf_server_lane smhf_server_lane;
typedef struct smhf_server_request smhf_server_request;

typedef struct smhf_request_list {
    smhf_server_request *first, *last;
    size_t count;
} smhf_request_list;

typedef struct smhf_request_links {
    smhf_server_request *next, *previous;
    smhf_request_list *list; /* NULL: in none */
} smhf_request_links;

struct smhf_server_request {
    smhf_server *server;
    void *connection; /* of the HTTP library; listener.c only */
    int fd;
    int service_face;                       /* came by /endpoints/NAME/invocations */
    char endpoint[SMHF_ENDPOINT_NAME_SIZE]; /* "" : the default one */
    char content_type[128];
    char accept[256];
    char custom_attributes[1025];
    int64_t begun_ms;    /* monotonic */
    int64_t deadline_ms; /* monotonic */

    /* while reading */
    int refusal;        /* HTTP status decided before the body was in; 0: none */
    uint64_t discarded; /* bytes of a refused body */
    smhf_buffer body;
    size_t charged; /* bytes counted in server->memory */

    /* below the server's lock */
    smhf_request_state state;
    int references;
    smhf_request_links queue;   /* in its lane's queue */
    smhf_request_links pending; /* in the server's list, oldest first */
    smhf_server_lane *lane;     /* while pending */

    /* owned by the worker that popped it; rows are shared out under the lock */
    int decoded;
    smhf_wire_format answer_format;
    smhf_wire_call call;
    float *scores;
    size_t rows_taken, rows_done, truncated;

    /* the answer; written by the claimant, read by the listener after resume */
    int http_status;
    const char *error_type; /* service face: value of x-amzn-errortype, else NULL */
    char answer_type[128];
    int retry_after_s; /* 0: no header */
    smhf_buffer answer;
};

/* One connection, for the time it may take to send its next headers. Below the server's lock. */
typedef struct smhf_server_peer {
    struct smhf_server_peer *next, *previous;
    int fd;
    int busy;         /* a request of it is being answered */
    int64_t since_ms; /* accepted, or the last answer sent */
} smhf_server_peer;

struct smhf_server_lane {
    smhf_server *server;
    smhf_server_lane *next;
    smhf_server_endpoint endpoint; /* name and labels are ours */
    char name[SMHF_ENDPOINT_NAME_SIZE];
    char **labels;
    smhf_request_list queue;
    int closing; /* no new requests; workers end when the lists are empty */
    pthread_cond_t wake;
    pthread_t *workers;
    int worker_count;
};

typedef enum smhf_server_state {
    SMHF_SERVER_STARTING,
    SMHF_SERVER_READY,
    SMHF_SERVER_DRAINING,
    SMHF_SERVER_STOPPING,
} smhf_server_state;

struct smhf_server {
    smhf_server_options options;
    char host[64];
    int port;
    long process; /* pid that started it */
    void *daemon; /* of the HTTP library; listener.c only */
    uint64_t request_serial;

    pthread_mutex_t lock;
    pthread_cond_t idle;  /* in_flight fell */
    pthread_cond_t sweep; /* wakes the sweeper for its end */
    pthread_t sweeper;
    smhf_server_state state;
    smhf_server_lane *lanes;
    smhf_request_list pending;
    smhf_server_peer *peers;
    smhf_server_stats stats;
};

int64_t smhf_server_now_ms(void);

/* request.c */
typedef enum smhf_links_kind { SMHF_LINKS_QUEUE, SMHF_LINKS_PENDING } smhf_links_kind;
void smhf_requests_append(smhf_request_list *list, smhf_server_request *request,
                          smhf_links_kind kind);
void smhf_requests_prepend(smhf_request_list *list, smhf_server_request *request,
                           smhf_links_kind kind);
/* 1 when it was in a list. */
int smhf_requests_remove(smhf_server_request *request, smhf_links_kind kind);
/* A moment `ms` from now for a condition made by the next; 0 or an errno. */
void smhf_deadline_in(struct timespec *when, int64_t ms);
int smhf_condition_init(pthread_cond_t *condition);
/* A thread that receives no signal: those belong to the program's own threads. 0 or an errno. */
int smhf_thread_start(pthread_t *thread, void *(*body)(void *), void *argument);
/* Whoever gets 1 writes the answer and resumes; nobody else does. */
int smhf_request_claim_locked(smhf_server_request *request);
int smhf_request_claim(smhf_server_request *request);
/* Lock held; 1: the caller must free it, without the lock. */
int smhf_request_release_locked(smhf_server_request *request);
void smhf_request_free(smhf_server_request *request);
/* A refusal that came from the endpoint itself, not from the server around it. Claimed only. */
void smhf_request_fail_from_model(smhf_server_request *request, const smhf_error *err);
/* On the service's face a container's refusal is wrapped as ModelError. */
void smhf_request_wrap(smhf_server_request *request);
/* New request with one reference (the connection's); NULL without memory. */
smhf_server_request *smhf_request_new(smhf_server *server);
void smhf_request_release(smhf_server_request *request);
/* Charges body bytes; 0 when the server holds too many already. */
int smhf_request_charge(smhf_server_request *request, size_t bytes);
/* Takes over a request whose body is in and whose connection is suspended; it will be answered
 * and resumed, perhaps before this returns. */
void smhf_request_push(smhf_server_request *request);
/* Fills the answer with an error in the shape of its face. For requests still READING, or claimed.
 * The sentence is cut to fit smhf_error. */
void smhf_request_fail(smhf_server_request *request, int http_status, const char *message);
/* Counts an answered invocation. */
void smhf_request_count(smhf_server_request *request);
/* Finds a lane that takes requests; "" finds the default one. Lock held. */
smhf_server_lane *smhf_server_find_locked(smhf_server *server, const char *name);
/* 1 for 1-63 letters, digits and inner hyphens. */
int smhf_endpoint_name_valid(const char *name, size_t size);

/* queue.c */
typedef struct smhf_lane_worker smhf_lane_worker; /* a thread of a lane, with its batch's memory */
smhf_lane_worker *smhf_lane_worker_new(smhf_server_lane *lane);
/* For one whose thread never started. NULL is fine. */
void smhf_lane_worker_free(smhf_lane_worker *worker);
/* Thread body; `argument` is the worker, freed at its end. */
void *smhf_lane_worker_body(void *argument);

/* listener.c */
smhf_status smhf_listener_open(smhf_server *server, smhf_error *err) SMHF_MUST_USE;
void smhf_listener_close(smhf_server *server);
/* Lets a suspended connection send its answer. Any thread, lock not held. */
void smhf_listener_resume(smhf_server_request *request);
/* Hangs up on connections that have been silent or dripping headers for too long. Lock held. */
void smhf_listener_hang_up_locked(smhf_server *server);
/* 1 when the client of a suspended request closed its side or was reset. */
int smhf_listener_gone(const smhf_server_request *request);

#endif
