/* server.h: a local inference endpoint: HTTP in, dynamic batches out to a callback.
 *
 *     smhf_server_options options = SMHF_SERVER_OPTIONS_DEFAULTS;
 *     options.port = 8080;                                     // 0: any free port
 *     SMHF_TRY(smhf_server_start(&options, &server, err));     // the port is taken, /ping says 503
 *     SMHF_TRY(smhf_server_add(server, &endpoint, err));       // labels and a batch callback
 *     smhf_server_set_ready(server);                           // /ping says 200
 *     ...
 *     status = smhf_server_drain(server, 25000, err);          // /ping 503, finish what is in
 * flight smhf_server_free(server);
 *
 * Two faces on one port: GET /ping and POST /invocations are a container's (the first endpoint, or
 * the one marked as default, answers); POST /endpoints/NAME/invocations is the service's, which
 * wraps a container's refusal as ModelError (424) and answers ValidationError (400) for a name it
 * does not know. The room knows neither tokenizer nor model: rows of text go to the callback,
 * scores come back. When a worker frees up it takes whatever is queued, from one request or many,
 * up to the limits on rows, tokens and bytes: no timer, so a lone request never waits.
 *
 * Threads: L (internally locked). Every function may be called from any thread but
 * smhf_server_free, which must be the last call. Callbacks run on worker threads of the room, one
 * per endpoint unless it asks for more, with all signals blocked; they must not call back.
 * Ownership: the caller owns the server; options and endpoint descriptions are copied, callback
 * contexts are borrowed until `release` was called with them.
 */
#ifndef SMHF_SERVER_SERVER_H
#define SMHF_SERVER_SERVER_H

#include "common/bytes.h"
#include "common/status.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct smhf_server smhf_server;

/* 6,553,500 bytes is what the Hugging Face container's server takes, for requests and answers. */
#define SMHF_SERVER_MAX_MESSAGE 6553500

typedef struct smhf_server_options {
    const char *host;          /* numeric address or "localhost"; default 127.0.0.1 */
    int port;                  /* 0: any free port, see smhf_server_port */
    int backlog;               /* of the listening socket */
    int max_connections;       /* more are not accepted until one ends */
    size_t max_header_bytes;   /* request line and headers; more gets 431 */
    size_t max_request_bytes;  /* body; more gets 413 */
    size_t max_response_bytes; /* a longer answer becomes an error */
    size_t max_memory_bytes;   /* bodies held at once, over all connections; past it 503 */
    int max_queue;             /* requests waiting per endpoint; past it 503 with Retry-After */
    int retry_after_s;         /* the value of that header */
    int deadline_ms;           /* from request to answer; past it 503 */
    int idle_timeout_s;      /* a silent connection is closed; headers may take deadline_ms more */
    int max_batch_rows;      /* per callback */
    size_t max_batch_tokens; /* per callback, estimated: see smhf_server_endpoint */
    size_t max_batch_bytes;  /* of text, per callback; one longer row still goes alone */
    size_t max_request_rows; /* rows of one request; more gets 400 */
} smhf_server_options;

#define SMHF_SERVER_OPTIONS_DEFAULTS                                                               \
    {                                                                                              \
        "127.0.0.1", 0, 1024, 1000, 32768, SMHF_SERVER_MAX_MESSAGE, SMHF_SERVER_MAX_MESSAGE,       \
            (size_t)256 << 20, 100, 1, 60000, 75, 64, 16384, (size_t)1 << 20, 131072               \
    }

typedef enum smhf_server_truncation {
    SMHF_SERVER_TRUNCATE_DEFAULT, /* nothing was asked: cut and count */
    SMHF_SERVER_TRUNCATE_LONGEST, /* true, "longest_first" */
    SMHF_SERVER_TRUNCATE_FIRST,   /* "only_first" */
    SMHF_SERVER_TRUNCATE_SECOND,  /* "only_second" */
    SMHF_SERVER_TRUNCATE_OFF,     /* false, "do_not_truncate": a long text is an error */
} smhf_server_truncation;

typedef enum smhf_server_function {
    SMHF_SERVER_FUNCTION_DEFAULT, /* the model's: softmax, sigmoid for one label or many-hot */
    SMHF_SERVER_FUNCTION_SOFTMAX,
    SMHF_SERVER_FUNCTION_SIGMOID,
    SMHF_SERVER_FUNCTION_NONE,
} smhf_server_function;

/* One text, or one pair of texts, as a request asked for it. Borrowed during the callback. */
typedef struct smhf_server_row {
    smhf_bytes_view text; /* valid UTF-8 */
    smhf_bytes_view pair; /* pair.data == NULL: none */
    smhf_server_truncation truncation;
    smhf_server_function function;
    int max_length; /* 0: the model's */
} smhf_server_row;

/* What the callback says about one row. Zeroed before the call, `scores` apart. */
typedef struct smhf_server_result {
    float *scores;    /* room for label_count values, to be filled */
    int truncated;    /* 1: the text was cut */
    smhf_error error; /* code SMHF_OK, or why this row alone has no scores */
} smhf_server_result;

/* Scores for rows[0..count). A row that cannot be answered sets its result's error and costs its
 * neighbours nothing. A status other than SMHF_OK fails the call as a whole: the room then halves
 * the batch until the row at fault is alone. */
typedef smhf_status (*smhf_server_batch)(void *context, const smhf_server_row *rows,
                                         smhf_server_result *results, size_t count,
                                         smhf_error *err);

/* The other kind of endpoint answers whole requests (a user's own handlers): body in, body out. */
typedef struct smhf_server_call {
    smhf_bytes_view body;
    const char *content_type;      /* "" when the client sent none */
    const char *accept;            /* the same */
    const char *custom_attributes; /* X-Amzn-SageMaker-Custom-Attributes, or "" */
} smhf_server_call;

typedef struct smhf_server_reply {
    int http_status;        /* 200 unless changed */
    char content_type[128]; /* "application/json" unless changed */
    smhf_buffer body;       /* appended to by the callback; limited to max_response_bytes */
} smhf_server_reply;

/* A status other than SMHF_OK becomes 400 with the sentence, as the container does it. */
typedef smhf_status (*smhf_server_whole)(void *context, const smhf_server_call *call,
                                         smhf_server_reply *reply, smhf_error *err);

typedef struct smhf_server_endpoint {
    const char *name;          /* 1-63 letters, digits and inner hyphens */
    const char *const *labels; /* label_count names (UTF-8); NULL with `whole` */
    size_t label_count;
    smhf_server_batch batch; /* exactly one of batch and whole */
    smhf_server_whole whole;
    void *context;
    void (*release)(void *context); /* called once when the endpoint is gone; may be NULL */
    int workers;                    /* threads that call back at once; 0: 1 */
    size_t max_row_tokens;          /* estimate of a row: min(2 + bytes / 4, this); 0: 512 */
    int is_default;                 /* answers POST /invocations */
} smhf_server_endpoint;

typedef struct smhf_server_stats {
    uint64_t connections;    /* accepted so far */
    uint64_t requests;       /* invocations answered or dropped so far */
    uint64_t rows;           /* rows of batches handed to callbacks */
    uint64_t batches;        /* calls of batch callbacks; splits after a failure are not counted */
    uint64_t largest_batch;  /* rows */
    uint64_t shared_batches; /* batches that held rows of more than one request */
    uint64_t truncated;      /* rows */
    uint64_t answered_2xx, answered_4xx, answered_5xx; /* invocations */
    uint64_t refused_full;                             /* 503: queue or memory full */
    uint64_t refused_size;                             /* 413 */
    uint64_t expired;                                  /* 503: past the deadline */
    uint64_t gone;         /* dropped: the client had left before its rows were computed */
    uint64_t slow;         /* hung up on: headers or body did not arrive in time */
    uint64_t queued;       /* waiting now */
    uint64_t in_flight;    /* requests begun and not yet sent, now */
    uint64_t memory_bytes; /* bodies held now */
} smhf_server_stats;

/* Takes the port and starts answering; /ping is 503 until smhf_server_set_ready. SMHF_E_IO names
 * host and port when they cannot be had. Caller frees with smhf_server_free. */
smhf_status smhf_server_start(const smhf_server_options *options, smhf_server **out,
                              smhf_error *err) SMHF_MUST_USE;
/* The port that is listened on. */
int smhf_server_port(const smhf_server *server);
void smhf_server_set_ready(smhf_server *server);

/* SMHF_E_ARG for a bad name or one that is taken; then `release` is not called. */
smhf_status smhf_server_add(smhf_server *server, const smhf_server_endpoint *endpoint,
                            smhf_error *err) SMHF_MUST_USE;
/* New requests for the name are refused at once, those queued are answered, then its workers end
 * and `release` is called. SMHF_E_ARG when there is no such endpoint. */
smhf_status smhf_server_remove(smhf_server *server, const char *name,
                               smhf_error *err) SMHF_MUST_USE;
/* 1 when an endpoint of this name answers. */
int smhf_server_has(smhf_server *server, const char *name);

/* From now on /ping is 503, new invocations get 503, connections close after their answer; waits
 * until what is in flight was sent. SMHF_E_TIMEOUT names how many are left. May be repeated. */
smhf_status smhf_server_drain(smhf_server *server, int timeout_ms, smhf_error *err) SMHF_MUST_USE;
/* Answers what still waits with 503, lets running callbacks end, closes everything. NULL is fine.
 * In a forked child, where no thread of the server exists, it only forgets the handle. */
void smhf_server_free(smhf_server *server);

void smhf_server_stats_get(smhf_server *server, smhf_server_stats *out);

#ifdef __cplusplus
}
#endif
#endif
