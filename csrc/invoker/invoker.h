/* invoker.h: many texts, one endpoint: batches, connections, retries, and a verdict for every row.
 *
 *     smhf_invoker_options options = SMHF_INVOKER_DEFAULTS;
 *     options.url = "http://127.0.0.1:8080/invocations";
 *     SMHF_TRY(smhf_invoker_open(&options, &invoker, err));
 *     status = smhf_invoker_predict(invoker, texts, rows, NULL, NULL, &predictions, err);
 *     predictions->labels[r], predictions->scores[r], predictions->errors[r] ...
 *     smhf_predictions_free(predictions);
 *     smhf_invoker_close(invoker);
 *
 * Rows are sent as {"inputs": [...]} in batches over several kept-alive connections and come back
 * in input order. Every row ends in exactly one slot: a label and score, or an error with a
 * sentence. A batch that the model refuses is split in halves until the bad row stands alone.
 * Requests may reach the endpoint more than once (a lost answer is asked for again); results are
 * taken once.
 *
 * Threads (class L): one call at a time runs, others wait with their poll still called. After
 * fork() the child opens its own connections. Ownership: strings in options are copied. */
#ifndef SMHF_INVOKER_INVOKER_H
#define SMHF_INVOKER_INVOKER_H

#include "common/bytes.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct smhf_invoker smhf_invoker;

typedef struct smhf_header {
    const char *name;
    const char *value;
} smhf_header;

/* NUL-terminated strings; token NULL: none. Borrowed during the call that takes them. */
typedef struct smhf_credentials {
    const char *access_key;
    const char *secret_key;
    const char *token;
} smhf_credentials;

typedef struct smhf_invoker_options {
    const char *url;     /* of the invocations resource */
    const char *region;  /* NULL: requests are not signed */
    const char *service; /* signing name */
    const char *ca_file; /* NULL: libcurl's own */
    const char *user_agent;
    const char *parameters;     /* JSON object put beside "inputs", or NULL */
    const smhf_header *headers; /* sent (and signed) with every request */
    size_t header_count;
    int connections;        /* at once; 0: found by additive increase, halving when throttled */
    size_t batch_rows;      /* rows of a request; 0: starts at 32 and adapts */
    size_t batch_bytes;     /* body bytes of a request; 0: 1 MiB */
    size_t max_response;    /* bytes of one answer; 0: 64 MiB */
    double connect_timeout; /* seconds */
    double timeout;         /* seconds for one request */
    double deadline;        /* seconds for one predict call; 0: none */
    int attempts;           /* requests for one batch at most, the first included; answers that
                               throttle are counted apart, up to four times as many */
    double backoff_base;    /* seconds; full jitter over base * 2^(n - 1) */
    double backoff_cap;     /* seconds */
    int allow_http;         /* plain http beyond loopback */
} smhf_invoker_options;

#define SMHF_INVOKER_DEFAULTS                                                                      \
    {                                                                                              \
        NULL, NULL, "sagemaker", NULL, "smhf_native", NULL, NULL, 0, 0, 0, 0, 0, 5.0, 80.0, 0.0,   \
            5, 0.05, 20.0, 0                                                                       \
    }

/* Why a row has no result. */
typedef enum smhf_row_error {
    SMHF_ROW_OK = 0,
    SMHF_ROW_INPUT,     /* the text cannot be sent (lone surrogate, invalid UTF-8, too large) */
    SMHF_ROW_MODEL,     /* the model refused this very row */
    SMHF_ROW_HTTP,      /* the endpoint answered with an error status */
    SMHF_ROW_NETWORK,   /* no whole answer came */
    SMHF_ROW_TIMEOUT,   /* the request's or the call's time ran out */
    SMHF_ROW_RESPONSE,  /* the answer is not what was asked for (JSON, count, shape) */
    SMHF_ROW_AUTH,      /* credentials were refused */
    SMHF_ROW_THROTTLED, /* still throttled after the last attempt */
    SMHF_ROW_CANCELLED, /* stopped before it was answered */
    SMHF_ROW_ERROR_COUNT,
} smhf_row_error;

/* "model", "network", ... Static storage. */
const char *smhf_row_error_name(smhf_row_error error);

/* Columns over `rows` rows. Owned; caller frees with smhf_predictions_free. */
typedef struct smhf_predictions {
    size_t rows;
    int32_t *labels;    /* index into label_names, -1: no result */
    double *scores;     /* NaN: no result */
    uint8_t *errors;    /* smhf_row_error */
    uint16_t *attempts; /* requests that carried the row */
    int16_t *statuses;  /* HTTP status of the last answer, 0: none */
    uint32_t *messages; /* index into message_texts; 0 is the empty one */
    char **label_names;
    size_t label_count;
    char **message_texts;
    size_t message_count;
    uint64_t requests; /* sent for this call */
    uint64_t retries;
    uint64_t splits;
} smhf_predictions;

void smhf_predictions_free(smhf_predictions *predictions); /* NULL is fine */

/* Called about every 100 ms from the calling thread. `want_credentials` is 1 once after the
 * endpoint refused the credentials: the callback may set fresh ones with
 * smhf_invoker_set_credentials. A return other than 0 cancels the call. */
typedef int (*smhf_invoker_poll)(void *context, int want_credentials);

/* Caller closes. SMHF_E_ARG names the option; SMHF_E_UNSUPPORTED plain http beyond loopback. */
smhf_status smhf_invoker_open(const smhf_invoker_options *options, smhf_invoker **out,
                              smhf_error *err) SMHF_MUST_USE;
void smhf_invoker_close(smhf_invoker *invoker); /* NULL is fine */

/* Copies; the old ones are wiped. May be called from the poll callback. */
smhf_status smhf_invoker_set_credentials(smhf_invoker *invoker, const smhf_credentials *credentials,
                                         smhf_error *err) SMHF_MUST_USE;

/* Classifies all rows. OK also when rows failed: see errors. SMHF_E_CANCELLED with *out set when
 * poll cancelled (answered rows are kept; *out stays NULL while the call had to wait for another).
 * Other failures leave *out NULL. A text of kind -1 stands for "no text" (SMHF_ROW_INPUT). */
smhf_status smhf_invoker_predict(smhf_invoker *invoker, const smhf_text_view *texts, size_t rows,
                                 smhf_invoker_poll poll, void *context, smhf_predictions **out,
                                 smhf_error *err) SMHF_MUST_USE;

/* One answer, as it came. Owned; free with smhf_response_deinit. */
typedef struct smhf_response {
    int status;
    smhf_buffer body;
    smhf_buffer headers; /* "name: value\n" lines, names in lower case; raw calls only */
    char content_type[128];
    char variant[128];     /* x-Amzn-Invoked-Production-Variant */
    char attributes[1088]; /* X-Amzn-SageMaker-Custom-Attributes */
    char request_id[80];
} smhf_response;

void smhf_response_init(smhf_response *response);
void smhf_response_deinit(smhf_response *response);

/* One POST of `body` with extra headers (a name that the options have too replaces that one). Sent
 * again (up to options.attempts) only when the connection failed before the request was sent, or
 * when the signature was refused and credentials or clock have changed since. An error status is
 * not a failure of this call. `out` is filled on success only. */
smhf_status smhf_invoker_call(smhf_invoker *invoker, smhf_bytes_view body,
                              const smhf_header *headers, size_t header_count,
                              smhf_invoker_poll poll, void *context, smhf_response *out,
                              smhf_error *err) SMHF_MUST_USE;

typedef struct smhf_invoker_stats {
    uint64_t requests, retries, splits, rows, rows_failed, bytes_sent, bytes_received;
    uint64_t connections_opened;
    int connections;   /* the current limit */
    size_t batch_rows; /* the current size */
    double skew;       /* seconds added to our clock when signing */
} smhf_invoker_stats;

void smhf_invoker_get_stats(smhf_invoker *invoker, smhf_invoker_stats *out);

/* --- the signer alone ------------------------------------------------------------------------- */

/* AWS Signature Version 4 of one request; see sigv4.h for what each field does. */
typedef struct smhf_invoker_sign_options {
    const char *method;
    smhf_bytes_view path, query;
    const smhf_header *headers;
    size_t header_count;
    smhf_bytes_view body;
    const char *region, *service;
    int64_t epoch_seconds;
    int normalize_path, sign_body, omit_token;
    int expires; /* > 0: query form */
} smhf_invoker_sign_options;

/* NUL-terminated, owned; free with smhf_invoker_signature_deinit (a zeroed one is fine). */
typedef struct smhf_invoker_signature {
    char amz_date[17], signature[65], body_hash[65];
    char *canonical, *string_to_sign;
    char *authorization; /* header form, else "" */
    char *query;         /* query form, else "" */
} smhf_invoker_signature;

smhf_status smhf_invoker_sign(const smhf_invoker_sign_options *options,
                              const smhf_credentials *credentials, smhf_invoker_signature *out,
                              smhf_error *err) SMHF_MUST_USE;
void smhf_invoker_signature_deinit(smhf_invoker_signature *signature);

#ifdef __cplusplus
}
#endif
#endif
