/* job.h: one predict call in flight (private to the room): batcher.c runs it, job.c judges. */
#ifndef SMHF_INVOKER_JOB_H
#define SMHF_INVOKER_JOB_H

#include "invoker/invoker_room.h"

/* Rows [first, first + count) that travel together. Only rows whose owner is this batch count: bad
 * rows inside the range are finished already, probed ones belong to their probe. */
typedef struct smhf_batch_range {
    size_t first, count;
    size_t live;  /* rows that still need a result */
    int failures; /* answers that failed, throttled ones apart */
    int throttles;
    int throttled; /* that was the last verdict */
    int cost;      /* retry budget taken, given back on success */
    int probe;     /* a single row that tells whether anything can succeed */
    double not_before;
} smhf_batch_range;

enum { ROW_WAITING = 0, ROW_CLAIMED, ROW_PROBED, ROW_DONE };

typedef struct smhf_slot {
    int used;
    smhf_batch_range range;
    smhf_exchange exchange;
    smhf_buffer body;
    double started;
    int running;         /* how many ran when it started, itself included */
    uint64_t generation; /* of the credentials it was signed with */
} smhf_slot;

/* Verdicts without a success between them; they decide when the rest is hopeless. */
typedef struct smhf_streak {
    size_t count;
    smhf_row_error row_error;
    uint64_t hash; /* of the sentence */
    int probes;    /* left to answer; -1: none were sent */
} smhf_streak;

typedef struct smhf_job {
    smhf_invoker *invoker;
    const smhf_text_view *texts;
    size_t rows, finished, cursor;
    uint8_t *state; /* [rows] ROW_* */
    smhf_predictions *out;
    smhf_interner labels, messages;
    smhf_answer *answers; /* scratch [answer_capacity] */
    size_t answer_capacity;
    smhf_slot *slots; /* [invoker->slots] */
    int running;
    smhf_batch_range *pending; /* to be sent again, last in first out */
    size_t pending_count, pending_capacity;
    double hold_until; /* the endpoint asked everybody to wait */
    double deadline;   /* monotonic; 0: none */
    uint64_t successes;
    smhf_streak streak;
    int asked;          /* for credentials since the last success */
    int want;           /* ask for credentials at the next poll */
    uint64_t refused;   /* generation that was refused */
    double clock_moved; /* when the skew was last learnt; what started before was signed before */
    int clock_fixes;    /* since the last success */
    smhf_fault auth;    /* why */
} smhf_job;

/* Ends rows of the range with an error. */
smhf_status smhf_job_fail_range(smhf_job *job, const smhf_batch_range *range, smhf_row_error error,
                                int status, const char *message, smhf_error *err) SMHF_MUST_USE;
/* Ends every row that has no result; nothing may be in flight. */
smhf_status smhf_job_fail_rest(smhf_job *job, smhf_row_error error, int status, const char *message,
                               smhf_error *err) SMHF_MUST_USE;
smhf_status smhf_job_fail_row(smhf_job *job, size_t row, smhf_row_error error, int status,
                              const char *message, smhf_error *err) SMHF_MUST_USE;
smhf_status smhf_job_push(smhf_job *job, const smhf_batch_range *range,
                          smhf_error *err) SMHF_MUST_USE;
/* Decides about the rows of a finished slot: results, another attempt, halves, or an error. Sets
 * *stop to the fault when the rest is hopeless. */
smhf_status smhf_job_judge(smhf_job *job, smhf_slot *slot, double now, smhf_fault *stop,
                           smhf_error *err) SMHF_MUST_USE;

#endif
