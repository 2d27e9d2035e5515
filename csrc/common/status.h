/* status.h: how every fallible function of the core reports.
 *
 * A function that can fail returns smhf_status and takes `smhf_error *err` as its last argument.
 * NULL is allowed for err: the code still comes back, the sentence is dropped.
 *
 *     smhf_error err = SMHF_ERROR_INIT;
 *     if (smhf_vocab_open(path, &vocab, &err) != SMHF_OK) { puts(err.message); }
 *
 * Straight-line code forwards with SMHF_TRY; a function that holds a resource uses one
 * `goto done;` with one cleanup block. Never both in one function.
 * Threads: no state; an smhf_error belongs to its caller.
 */
#ifndef SMHF_COMMON_STATUS_H
#define SMHF_COMMON_STATUS_H

#include <assert.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum smhf_status {
    SMHF_OK = 0,
    SMHF_E_NOMEM,       /* an allocation failed */
    SMHF_E_ARG,         /* the caller's argument is wrong: wrong type, shape, range */
    SMHF_E_PARSE,       /* input bytes break their format; err->offset says where */
    SMHF_E_IO,          /* the operating system refused: open, read, write, rename, disk full */
    SMHF_E_HTTP,        /* an HTTP peer answered badly; err->http_status holds the status */
    SMHF_E_TIMEOUT,     /* a deadline passed */
    SMHF_E_CANCELLED,   /* the caller asked to stop (Ctrl-C, close) */
    SMHF_E_UNSUPPORTED, /* well formed, but not something this library does */
    SMHF_E_UNAVAILABLE, /* a device, library or service is not there */
    SMHF_E_ABI,         /* a plugin was built against another contract */
    SMHF_E_BUSY,        /* another thread is using the object */
    SMHF_E_BACKEND,     /* a compute device failed */
} smhf_status;

#if defined(__GNUC__)
#define SMHF_MUST_USE __attribute__((warn_unused_result))
#define SMHF_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define SMHF_MUST_USE
#define SMHF_PRINTF(fmt, args)
#endif

#define SMHF_ERROR_MESSAGE_SIZE 384

typedef struct smhf_error {
    smhf_status code;
    int http_status;  /* HTTP status of an SMHF_E_HTTP, else 0 */
    int64_t offset;   /* byte offset of a parse error, else -1 */
    const char *file; /* where it was raised; debug builds only, else NULL */
    int line;
    char message[SMHF_ERROR_MESSAGE_SIZE]; /* one sentence: what, expected, found, where */
} smhf_error;

#define SMHF_ERROR_INIT                                                                            \
    {                                                                                              \
        SMHF_OK, 0, -1, NULL, 0, {                                                                 \
            0                                                                                      \
        }                                                                                          \
    }

/* The code's name without prefix, e.g. "PARSE". Static storage. */
const char *smhf_status_name(smhf_status code);

/* Fills *err (when not NULL) with code and formatted sentence; returns code. Long sentences are
 * cut on a UTF-8 boundary. The first failure wins nothing: a later call overwrites. */
smhf_status smhf_fail_impl(smhf_error *err, const char *file, int line, smhf_status code,
                           int64_t offset, const char *format, ...) SMHF_PRINTF(6, 7);

/* Puts "prefix: " in front of a sentence already in err (e.g. the path of the file being read). */
void smhf_error_prefix(smhf_error *err, const char *format, ...) SMHF_PRINTF(2, 3);

/* Empties *err. NULL is fine. */
void smhf_error_clear(smhf_error *err);

#ifdef SMHF_DEBUG
#define SMHF_WHERE __FILE__, __LINE__
#define SMHF_ASSERT(condition) assert(condition)
#else
#define SMHF_WHERE NULL, 0
#define SMHF_ASSERT(condition) ((void)sizeof(!(condition)))
#endif

/* return smhf_fail(err, SMHF_E_ARG, "max_length %zu: expected at least %zu", got, least); */
#define smhf_fail(err, code, ...) smhf_fail_impl((err), SMHF_WHERE, (code), -1, __VA_ARGS__)
/* the same with the byte offset of the fault */
#define smhf_fail_at(err, code, offset, ...)                                                       \
    smhf_fail_impl((err), SMHF_WHERE, (code), (int64_t)(offset), __VA_ARGS__)
/* the usual sentence for a failed allocation; `what` is a string literal or char * */
#define smhf_fail_nomem(err, what, bytes)                                                          \
    smhf_fail((err), SMHF_E_NOMEM, "%s: could not allocate %zu bytes", (what), (size_t)(bytes))

#define SMHF_TRY(expr)                                                                             \
    do {                                                                                           \
        smhf_status smhf_try_status_ = (expr);                                                     \
        if (smhf_try_status_ != SMHF_OK) {                                                         \
            return smhf_try_status_;                                                               \
        }                                                                                          \
    } while (0)

#ifdef __cplusplus
}
#endif
#endif
