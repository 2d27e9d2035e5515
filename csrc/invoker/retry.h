/* retry.h: what an answer means, how long to wait, how much to try (private to the room).
 *
 * The table is that of the service (a code in x-amzn-errortype or in the body, else the status) and
 * of the containers behind it; delays and the retry budget follow botocore's newer standard mode.
 * None of this touches a socket. Threads: one owner at a time. */
#ifndef SMHF_INVOKER_RETRY_H
#define SMHF_INVOKER_RETRY_H

#include "invoker/transport.h"

typedef enum smhf_verdict {
    SMHF_VERDICT_OK,        /* a 2xx answer, whole; its body is not judged here */
    SMHF_VERDICT_RETRY,     /* the same rows again, later */
    SMHF_VERDICT_THROTTLED, /* again, later, and less at once */
    SMHF_VERDICT_TIMEOUT,   /* again in smaller pieces */
    SMHF_VERDICT_SPLIT,     /* refused for its content: halve until the bad row is alone */
    SMHF_VERDICT_SHRINK,    /* too large: halve, and stay smaller */
    SMHF_VERDICT_AUTH,      /* credentials or signature refused */
    SMHF_VERDICT_FATAL,     /* no request of this kind can succeed */
    SMHF_VERDICT_NOMEM,     /* we are out of memory */
} smhf_verdict;

typedef struct smhf_fault {
    smhf_verdict verdict;
    smhf_row_error row_error; /* what the rows get when there is no further attempt */
    int status;               /* HTTP status, 0: no answer */
    int splits;               /* RETRY: when attempts are used up, split instead of failing */
    int clock;                /* AUTH: the code is one that a wrong clock causes */
    int executed;             /* the endpoint may have seen the request */
    char code[96];            /* "ThrottlingException", "" */
    char message[SMHF_ERROR_MESSAGE_SIZE]; /* one sentence without secrets' carriers */
} smhf_fault;

/* Judges a finished exchange. */
void smhf_retry_classify(const smhf_exchange *exchange, smhf_fault *out);

/* Jitter. Seeded once; not for secrets. */
typedef struct smhf_jitter {
    uint64_t key, count;
} smhf_jitter;

double smhf_jitter_next(smhf_jitter *jitter); /* [0, 1) */

/* Seconds before attempt n + 1 after n failures: uniform over [0, base * 2^(n - 1)], at most `cap`;
 * a throttled answer starts from 20 times the base (at most 1 s). `retry_after` >= 0 is waited for
 * at least, up to a minute. */
double smhf_retry_delay(smhf_jitter *jitter, int failures, double base, double cap, int throttled,
                        double retry_after);

/* A bucket of tokens: a retry takes 14 (5 when throttled), a success gives the retries of its rows
 * back and one more. 500 as in botocore, more when more than four requests run at once. */
typedef struct smhf_retry_budget {
    int tokens, capacity;
} smhf_retry_budget;

void smhf_retry_budget_init(smhf_retry_budget *budget, int connections);

int smhf_retry_cost(int throttled);
/* 1 and the tokens are taken, or 0: none left. */
int smhf_retry_take(smhf_retry_budget *budget, int cost);
void smhf_retry_refund(smhf_retry_budget *budget, int cost);

/* Additive increase, multiplicative decrease of what runs at once. */
typedef struct smhf_aimd {
    double limit;
    double cap;
    double cut; /* monotonic seconds of the last halving */
} smhf_aimd;

void smhf_aimd_init(smhf_aimd *aimd, int connections);
int smhf_aimd_limit(const smhf_aimd *aimd);
/* One clean answer: one more connection per round of answers. */
void smhf_aimd_success(smhf_aimd *aimd);
/* A throttled answer to a request started at `started`: at most one halving per round trip. */
void smhf_aimd_throttled(smhf_aimd *aimd, double started, double now);

/* The rate of requests after a throttle: the cubic of botocore's adaptive mode (cut to 0.7, back at
 * the old rate after a while, then beyond). It works where one connection alone is already too
 * fast. */
typedef struct smhf_pacer {
    int on;
    double measured;  /* answers per second that were not throttled, smoothed; 0: none yet */
    double window;    /* start of the current window */
    int count;        /* answers in it */
    double peak, cut; /* rate at the last cut, its time */
    double next;      /* earliest next start */
} smhf_pacer;

void smhf_pacer_answer(smhf_pacer *pacer, double started, double now, int throttled);
/* Seconds until a request may start; 0: now. */
double smhf_pacer_wait(const smhf_pacer *pacer, double now);
/* A request starts now. */
void smhf_pacer_start(smhf_pacer *pacer, double now);

/* The size of a batch: doubles while the cost per row falls, halves when the endpoint says too
 * much. */
typedef struct smhf_sizer {
    size_t rows, bytes; /* current */
    int fixed;          /* rows were given by the caller: only halving */
    size_t rows_cap;
    double previous; /* seconds per row at half the size; 0: none */
    double sum;      /* of the current size */
    int samples;
} smhf_sizer;

void smhf_sizer_init(smhf_sizer *sizer, size_t rows, size_t bytes);
/* A full batch of `rows` answered in `seconds` while `running` ran at once. */
void smhf_sizer_success(smhf_sizer *sizer, size_t rows, double seconds, int running);
/* A batch of `rows` and `bytes` was too much. `learn`: the endpoint said so (413), never grow
 * again; otherwise it was only slow. */
void smhf_sizer_shrink(smhf_sizer *sizer, size_t rows, size_t bytes, int learn);

#endif
