/* invoker_room.h: what the files of the room share (private to the room). */
#ifndef SMHF_INVOKER_INVOKER_ROOM_H
#define SMHF_INVOKER_INVOKER_ROOM_H

#include "invoker/retry.h"
#include "invoker/sigv4.h"
#include "invoker/stats.h"
#include "invoker/transport.h"

#include <stdatomic.h>
#include <sys/types.h>

/* --- texts to JSON (rows_json.c) -------------------------------------------------------------- */

#define SMHF_INVOKER_MAX_BODY ((size_t)25 << 20) /* the service's ceiling */

/* Appends the text as a JSON string. SMHF_E_ARG with a sentence when it cannot be sent; `body` may
 * then hold part of it. */
smhf_status smhf_rows_append(smhf_buffer *body, const smhf_text_view *text,
                             smhf_error *err) SMHF_MUST_USE;

/* --- results (predictions.c) ------------------------------------------------------------------ */

/* Distinct strings, numbered from 0. */
typedef struct smhf_interner {
    char **items; /* owned; moves to smhf_predictions */
    size_t count, capacity;
    uint32_t *slots; /* open addressing: index + 1 */
    size_t slot_count;
} smhf_interner;

void smhf_interner_deinit(smhf_interner *interner);
smhf_status smhf_interner_add(smhf_interner *interner, smhf_bytes_view text, uint32_t *out,
                              smhf_error *err) SMHF_MUST_USE;

smhf_status smhf_predictions_new(size_t rows, smhf_predictions **out,
                                 smhf_error *err) SMHF_MUST_USE;

typedef struct smhf_answer {
    uint32_t label;
    double score;
} smhf_answer;

/* Reads exactly `expected` items, each {label, score} or a list of those (the best is taken), into
 * answers[expected]. SMHF_E_PARSE with a sentence when the answer is anything else. */
smhf_status smhf_answers_parse(smhf_bytes_view body, size_t expected, smhf_interner *labels,
                               smhf_answer *answers, smhf_error *err) SMHF_MUST_USE;

/* --- the invoker (invoker.c) ------------------------------------------------------------------ */

/* A lock that a forked child finds open again: it holds the pid of its process. */
typedef atomic_int smhf_pid_lock;

struct smhf_invoker {
    smhf_invoker_options options; /* strings point to our copies */
    char *strings[6];             /* owned */
    smhf_header *headers;         /* owned, with their strings */
    char host[300], path[2048];

    smhf_pid_lock busy; /* one call at a time */
    smhf_pid_lock credential_lock;
    pid_t pid; /* of the process that owns the sockets */
    smhf_transport *transport;
    smhf_sigv4 *signer;

    char *access_key, *secret_key, *token; /* wiped when replaced */
    uint64_t generation;                   /* of the credentials */

    smhf_jitter jitter;
    smhf_retry_budget budget;
    smhf_aimd aimd;
    smhf_pacer pacer;
    smhf_sizer sizer;
    int slots;   /* connections at most */
    double skew; /* seconds added to our clock when signing */
    smhf_stats stats;
};

double smhf_now(void); /* monotonic seconds */

/* Headers of one request: those of the options, `extra`, and the signature when there is a region.
 * Owned list; free with smhf_request_headers_free, which wipes. */
typedef struct smhf_request_headers {
    smhf_header *items;
    size_t count, capacity;
    char *owned[3]; /* date, token, authorization */
} smhf_request_headers;

smhf_status smhf_request_headers_make(smhf_invoker *invoker, const smhf_header *extra,
                                      size_t extra_count, smhf_bytes_view body,
                                      smhf_request_headers *out, uint64_t *generation,
                                      smhf_error *err) SMHF_MUST_USE;
void smhf_request_headers_free(smhf_request_headers *headers);

/* Removes copies of the credentials from a sentence that a peer wrote. */
void smhf_invoker_redact(smhf_invoker *invoker, char *text);
uint64_t smhf_invoker_generation(smhf_invoker *invoker);
/* Learns the clock's skew from an answer's Date; 1 when it changed. */
int smhf_invoker_learn_skew(smhf_invoker *invoker, const smhf_exchange *exchange);

/* Waits for the call lock, polling. SMHF_E_CANCELLED when poll says so. After fork() the sockets
 * are made anew here. */
smhf_status smhf_invoker_enter(smhf_invoker *invoker, smhf_invoker_poll poll, void *context,
                               smhf_error *err) SMHF_MUST_USE;
void smhf_invoker_leave(smhf_invoker *invoker);

#endif
