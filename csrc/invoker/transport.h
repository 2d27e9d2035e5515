/* transport.h: HTTP exchanges in flight (private to the room). The only door to libcurl.
 *
 * Exchanges are started, and come back finished one by one from wait, in any order. All run in the
 * thread that calls wait. rc 0 of libcurl proves little, so an exchange is `complete` only when its
 * header block ended and its body came whole by Content-Length or a terminated chunked coding.
 * Threads: one owner at a time. */
#ifndef SMHF_INVOKER_TRANSPORT_H
#define SMHF_INVOKER_TRANSPORT_H

#include "common/bytes.h"
#include "invoker/invoker.h"

typedef struct smhf_transport smhf_transport;

typedef struct smhf_transport_options {
    const char *ca_file;
    const char *user_agent;
    double connect_timeout;
    size_t max_response;
    int max_connections;
    int allow_http;
} smhf_transport_options;

typedef struct smhf_exchange {
    /* in; must live until the exchange is finished or cancelled */
    const char *url;
    smhf_header *headers; /* [header_count] */
    size_t header_count;
    smhf_bytes_view body;
    double timeout;   /* seconds */
    void *owner;      /* the caller's own */
    int keep_headers; /* fill response.headers */

    /* out */
    smhf_status outcome; /* OK: `response` is whole; else TIMEOUT, IO (network), HTTP (malformed) */
    char reason[256];    /* sentence when outcome is not OK */
    int fatal;           /* outcome is not OK and will not change: certificate refused, bad URL */
    int maybe_executed;  /* request bytes were sent */
    smhf_response response;
    char error_type[96]; /* x-amzn-errortype */
    double retry_after;  /* seconds that the answer asks to wait; < 0: none */
    int64_t server_date; /* Date header as epoch seconds; 0: none */
    uint64_t sent, received;
    int new_connections;

    /* private */
    void *handle;
    void *header_list;
    size_t max_response;
    int64_t content_length; /* -1: none */
    int chunked, headers_done, too_large, no_memory;
    char detail[256]; /* libcurl's own sentence */
    struct smhf_exchange *next;
} smhf_exchange;

void smhf_exchange_init(smhf_exchange *exchange);
void smhf_exchange_deinit(smhf_exchange *exchange);

/* SMHF_E_ARG for a URL that is not http(s), SMHF_E_UNSUPPORTED for plain http beyond loopback. */
smhf_status smhf_transport_open(const char *url, const smhf_transport_options *options,
                                smhf_transport **out, smhf_error *err) SMHF_MUST_USE;
/* Exchanges in flight are dropped. NULL is fine. */
void smhf_transport_close(smhf_transport *transport);
/* In a forked child: forget the parent's sockets without a goodbye on them. */
smhf_status smhf_transport_renew(smhf_transport *transport, smhf_error *err) SMHF_MUST_USE;

smhf_status smhf_transport_start(smhf_transport *transport, smhf_exchange *exchange,
                                 smhf_error *err) SMHF_MUST_USE;
/* Works for at most `milliseconds`; *finished is one finished exchange or NULL. */
smhf_status smhf_transport_wait(smhf_transport *transport, int milliseconds,
                                smhf_exchange **finished, smhf_error *err) SMHF_MUST_USE;
void smhf_transport_cancel(smhf_transport *transport, smhf_exchange *exchange);

/* Parts of a URL for the signer: host (with a port that is not the scheme's own) and path, percent
 * sequences as written. */
smhf_status smhf_transport_url_parts(const char *url, char *host, size_t host_size, char *path,
                                     size_t path_size, smhf_error *err) SMHF_MUST_USE;

#endif
