/* What a finished request means for its rows. */
#include "invoker/job.h"

#include "common/mem.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define REFUSALS_AT_START 16 /* alike, before anything succeeded */
#define REFUSALS_LATER 64    /* alike, since the last success */
#define PROBES 3

/* --- rows that end in an error ------------------------------------------------------------------
 */

smhf_status smhf_job_fail_row(smhf_job *job, size_t row, smhf_row_error error, int status,
                              const char *message, smhf_error *err) {
    uint32_t text = 0;
    if (job->state[row] == ROW_DONE) {
        return SMHF_OK;
    }
    SMHF_TRY(smhf_interner_add(&job->messages, smhf_bytes_from_string(message), &text, err));
    job->out->errors[row] = (uint8_t)error;
    job->out->messages[row] = text;
    if (status != 0) {
        job->out->statuses[row] = (int16_t)status;
    }
    job->state[row] = ROW_DONE;
    job->finished++;
    return SMHF_OK;
}

static int owns(const smhf_job *job, const smhf_batch_range *range, size_t row) {
    return job->state[row] == (range->probe ? ROW_PROBED : ROW_CLAIMED);
}

smhf_status smhf_job_fail_range(smhf_job *job, const smhf_batch_range *range, smhf_row_error error,
                                int status, const char *message, smhf_error *err) {
    for (size_t row = range->first; row < range->first + range->count; row++) {
        if (owns(job, range, row)) {
            SMHF_TRY(smhf_job_fail_row(job, row, error, status, message, err));
        }
    }
    return SMHF_OK;
}

smhf_status smhf_job_fail_rest(smhf_job *job, smhf_row_error error, int status, const char *message,
                               smhf_error *err) {
    for (size_t row = 0; row < job->rows; row++) {
        SMHF_TRY(smhf_job_fail_row(job, row, error, status, message, err));
    }
    return SMHF_OK;
}

smhf_status smhf_job_push(smhf_job *job, const smhf_batch_range *range, smhf_error *err) {
    if (job->pending_count == job->pending_capacity) {
        size_t capacity = job->pending_capacity > 0 ? 2 * job->pending_capacity : 32;
        smhf_batch_range *grown = smhf_realloc(job->pending, capacity * sizeof *grown);
        if (grown == NULL) {
            return smhf_fail_nomem(err, "batches", capacity * sizeof *grown);
        }
        job->pending = grown;
        job->pending_capacity = capacity;
    }
    job->pending[job->pending_count++] = *range;
    return SMHF_OK;
}

/* --- success ------------------------------------------------------------------------------------
 */

static smhf_status take_answers(smhf_job *job, const smhf_batch_range *range, int status) {
    size_t next = 0;
    for (size_t row = range->first; row < range->first + range->count; row++) {
        if (!owns(job, range, row)) {
            continue;
        }
        job->out->labels[row] = (int32_t)job->answers[next].label;
        job->out->scores[row] = job->answers[next].score;
        job->out->statuses[row] = (int16_t)status;
        job->state[row] = ROW_DONE;
        job->finished++;
        next++;
    }
    SMHF_ASSERT(next == range->live);
    return SMHF_OK;
}

static smhf_status succeed(smhf_job *job, const smhf_slot *slot, double now) {
    smhf_invoker *invoker = job->invoker;
    job->successes++;
    job->streak = (smhf_streak){.probes = -1};
    job->asked = 0;
    job->clock_fixes = 0;
    smhf_retry_refund(&invoker->budget, slot->range.cost);
    smhf_aimd_success(&invoker->aimd);
    smhf_sizer_success(&invoker->sizer, slot->range.live, now - slot->started, slot->running);
    return take_answers(job, &slot->range, slot->exchange.response.status);
}

/* --- refusals -----------------------------------------------------------------------------------
 */

static uint64_t hash_sentence(const char *text) {
    uint64_t hash = 0xCBF29CE484222325u;
    for (; *text != '\0' && *text != '['; text++) { /* the request id differs each time */
        hash = (hash ^ (uint8_t)*text) * 0x100000001B3u;
    }
    return hash;
}

/* Sends single rows from far apart: when these are refused alike, the rest is hopeless. */
static smhf_status send_probes(smhf_job *job, smhf_error *err) {
    size_t left = job->rows - job->cursor;
    size_t wanted[PROBES] = {job->rows - 1, job->cursor + left / 2,
                             job->cursor +
                                 (size_t)(smhf_jitter_next(&job->invoker->jitter) * (double)left)};
    job->streak.probes = 0;
    for (size_t i = 0; i < PROBES && left > 0; i++) {
        size_t row = (wanted[i] < job->rows) ? wanted[i] : job->rows - 1;
        if (job->state[row] == ROW_WAITING) {
            smhf_batch_range probe = {.first = row, .count = 1, .live = 1, .probe = 1};
            SMHF_TRY(smhf_job_push(job, &probe, err));
            job->state[row] = ROW_PROBED;
            job->streak.probes++;
        }
    }
    return SMHF_OK;
}

/* Counts a final refusal; 1 when nothing can be expected to succeed any more. */
static smhf_status count_refusal(smhf_job *job, const smhf_batch_range *range,
                                 const smhf_fault *fault, int *hopeless, smhf_error *err) {
    smhf_streak *streak = &job->streak;
    uint64_t hash = hash_sentence(fault->message);
    *hopeless = 0;
    if (streak->count > 0 && (streak->row_error != fault->row_error || streak->hash != hash)) {
        *streak = (smhf_streak){.probes = -1}; /* refusals that differ speak of rows */
    }
    streak->row_error = fault->row_error;
    streak->hash = hash;
    streak->count++;
    if (range->probe && streak->probes > 0) {
        streak->probes--;
        *hopeless = streak->probes == 0;
        return SMHF_OK;
    }
    int about_rows = fault->verdict == SMHF_VERDICT_SPLIT || fault->splits;
    if (!about_rows) { /* the endpoint, not the rows: no probe needed */
        *hopeless = (job->successes == 0)
                        ? (fault->verdict != SMHF_VERDICT_TIMEOUT || streak->count >= 8)
                        : streak->count >= 16;
        return SMHF_OK;
    }
    size_t enough = (job->successes == 0) ? REFUSALS_AT_START : REFUSALS_LATER;
    if (streak->count >= enough && streak->probes < 0) {
        SMHF_TRY(send_probes(job, err));
    }
    return SMHF_OK;
}

/* --- what happens next --------------------------------------------------------------------------
 */

static smhf_status split(smhf_job *job, const smhf_batch_range *range, smhf_error *err) {
    size_t half = range->live / 2, seen = 0, row = range->first;
    while (seen < half) {
        seen += (size_t)owns(job, range, row);
        row++;
    }
    smhf_batch_range left = *range, right = *range;
    left.count = row - range->first;
    left.live = half;
    right.first = row;
    right.count = range->count - left.count;
    right.live = range->live - half;
    right.cost = 0;
    job->out->splits++;
    smhf_stats_add(&job->invoker->stats.splits, 1);
    SMHF_TRY(smhf_job_push(job, &right, err));
    return smhf_job_push(job, &left, err);
}

static int may_retry(smhf_job *job, smhf_batch_range *range, const smhf_fault *fault) {
    const smhf_invoker_options *o = &job->invoker->options;
    int throttled = fault->verdict == SMHF_VERDICT_THROTTLED;
    int allowed = o->attempts;
    if (throttled) {
        range->throttles++;
        allowed = (o->attempts > 1) ? 4 * o->attempts : 1;
        if (range->throttles >= allowed) {
            return 0;
        }
    } else {
        range->failures++;
        /* An endpoint that has answered before and cannot be reached now is being restarted. */
        if (!fault->executed && job->successes > 0 && o->attempts > 1) {
            allowed *= 2;
        }
        if (range->failures >= allowed) {
            return 0;
        }
    }
    int cost = smhf_retry_cost(throttled);
    if (!smhf_retry_take(&job->invoker->budget, cost)) {
        return 0;
    }
    range->cost += cost;
    return 1;
}

static smhf_status retry(smhf_job *job, smhf_batch_range *range, const smhf_fault *fault,
                         double retry_after, double now, smhf_error *err) {
    const smhf_invoker_options *o = &job->invoker->options;
    int throttled = fault->verdict == SMHF_VERDICT_THROTTLED;
    int failures = throttled ? range->throttles : range->failures;
    double delay = smhf_retry_delay(&job->invoker->jitter, failures, o->backoff_base,
                                    o->backoff_cap, throttled, retry_after);
    range->not_before = now + delay;
    range->throttled = throttled;
    if (throttled && retry_after > 0.0) {
        job->hold_until = fmax(job->hold_until, now + fmin(retry_after, 60.0));
    }
    job->out->retries++;
    smhf_stats_add(&job->invoker->stats.retries, 1);
    return smhf_job_push(job, range, err);
}

static smhf_status give_up(smhf_job *job, smhf_batch_range *range, const smhf_fault *fault,
                           smhf_fault *stop, smhf_error *err) {
    int hopeless = 0;
    SMHF_TRY(count_refusal(job, range, fault, &hopeless, err));
    SMHF_TRY(smhf_job_fail_range(job, range, fault->row_error, fault->status, fault->message, err));
    if (hopeless) {
        *stop = *fault;
    }
    return SMHF_OK;
}

static smhf_status judge_auth(smhf_job *job, smhf_slot *slot, const smhf_fault *fault, int moved,
                              smhf_fault *stop, smhf_error *err) {
    smhf_batch_range *range = &slot->range;
    if (job->invoker->options.region == NULL) {
        *stop = *fault;
        return smhf_job_push(job, range, err);
    }
    if (fault->clock && moved && job->clock_fixes < 2) {
        job->clock_fixes++; /* signed with the endpoint's clock from now on */
    } else if (fault->clock && !moved && slot->started < job->clock_moved) {
        /* signed before the clock was put right */
    } else if (slot->generation != smhf_invoker_generation(job->invoker)) {
        /* signed with credentials that have been replaced since */
    } else if (!job->asked) {
        job->asked = 1;
        job->want = 1;
        job->auth = *fault;
        job->refused = slot->generation;
    } else if (!job->want) {
        *stop = *fault;
    }
    range->not_before = 0.0;
    job->out->retries++;
    return smhf_job_push(job, range, err);
}

static smhf_status judge_refusal(smhf_job *job, smhf_slot *slot, smhf_fault *fault, double now,
                                 int moved, smhf_fault *stop, smhf_error *err) {
    smhf_batch_range range = slot->range;
    smhf_sizer *sizer = &job->invoker->sizer;
    int hopeless = 0;
    switch (fault->verdict) {
    case SMHF_VERDICT_AUTH:
        return judge_auth(job, slot, fault, moved, stop, err);
    case SMHF_VERDICT_FATAL:
        *stop = *fault;
        return smhf_job_push(job, &range, err);
    case SMHF_VERDICT_SHRINK:
        smhf_sizer_shrink(sizer, range.live, slot->body.size, 1);
        if (range.live > 1) {
            return split(job, &range, err);
        }
        return smhf_job_fail_range(job, &range, fault->row_error, fault->status, fault->message,
                                   err);
    case SMHF_VERDICT_SPLIT:
        if (range.live > 1) {
            SMHF_TRY(count_refusal(job, &range, fault, &hopeless, err));
            return split(job, &range, err);
        }
        return give_up(job, &range, fault, stop, err);
    case SMHF_VERDICT_TIMEOUT:
        smhf_sizer_shrink(sizer, range.live, 0, 0);
        if (!may_retry(job, &range, fault)) {
            return give_up(job, &range, fault, stop, err);
        }
        job->out->retries++;
        smhf_stats_add(&job->invoker->stats.retries, 1);
        return (range.live > 1) ? split(job, &range, err) : smhf_job_push(job, &range, err);
    case SMHF_VERDICT_THROTTLED:
        smhf_aimd_throttled(&job->invoker->aimd, slot->started, now);
        break;
    default:
        if (!fault->executed) { /* not even reached */
            smhf_aimd_throttled(&job->invoker->aimd, slot->started, now);
        }
        break;
    }
    if (may_retry(job, &range, fault)) {
        return retry(job, &range, fault, slot->exchange.retry_after, now, err);
    }
    if (fault->splits && range.live > 1) { /* one more try for each half, and so on */
        SMHF_TRY(count_refusal(job, &range, fault, &hopeless, err));
        range.failures = job->invoker->options.attempts;
        return split(job, &range, err);
    }
    return give_up(job, &range, fault, stop, err);
}

smhf_status smhf_job_judge(smhf_job *job, smhf_slot *slot, double now, smhf_fault *stop,
                           smhf_error *err) {
    smhf_fault fault;
    smhf_retry_classify(&slot->exchange, &fault);
    int moved = smhf_invoker_learn_skew(job->invoker, &slot->exchange);
    if (moved) {
        job->clock_moved = now;
    }
    smhf_pacer_answer(&job->invoker->pacer, slot->started, now,
                      fault.verdict == SMHF_VERDICT_THROTTLED);
    for (size_t row = slot->range.first; row < slot->range.first + slot->range.count; row++) {
        if (owns(job, &slot->range, row)) {
            job->out->statuses[row] = (int16_t)fault.status;
        }
    }
    if (fault.verdict == SMHF_VERDICT_NOMEM) {
        return smhf_fail(err, SMHF_E_NOMEM, "answer: out of memory");
    }
    if (fault.verdict == SMHF_VERDICT_OK) {
        smhf_error problem = SMHF_ERROR_INIT;
        smhf_status status =
            smhf_answers_parse(smhf_buffer_view(&slot->exchange.response.body), slot->range.live,
                               &job->labels, job->answers, &problem);
        if (status == SMHF_OK) {
            return succeed(job, slot, now);
        }
        if (status == SMHF_E_NOMEM) {
            return smhf_fail(err, SMHF_E_NOMEM, "%s", problem.message);
        }
        fault.verdict = SMHF_VERDICT_SPLIT;
        fault.row_error = SMHF_ROW_RESPONSE;
        snprintf(fault.message, sizeof fault.message,
                 "HTTP %d, but not the answer asked for: %.300s", fault.status, problem.message);
    }
    smhf_invoker_redact(job->invoker, fault.message);
    return judge_refusal(job, slot, &fault, now, moved, stop, err);
}
