/* One predict call: rows become JSON bodies, bodies become exchanges, exchanges become columns. */
#include "invoker/job.h"

#include "common/mem.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define POLL_SECONDS 0.05

/* --- bodies -------------------------------------------------------------------------------------
 */

static smhf_status begin_body(smhf_buffer *body, smhf_error *err) {
    smhf_buffer_clear(body);
    return smhf_buffer_append_string(body, "{\"inputs\":[", err);
}

static smhf_status end_body(const smhf_job *job, smhf_buffer *body, smhf_error *err) {
    const char *parameters = job->invoker->options.parameters;
    SMHF_TRY(smhf_buffer_append_byte(body, ']', err));
    if (parameters != NULL) {
        SMHF_TRY(smhf_buffer_append_string(body, ",\"parameters\":", err));
        SMHF_TRY(smhf_buffer_append_string(body, parameters, err));
    }
    return smhf_buffer_append_byte(body, '}', err);
}

/* Appends one row. *taken 0: it did not fit and the body is as before. A text that cannot be sent
 * ends in an error of its own and costs nobody anything. */
static smhf_status add_row(smhf_job *job, smhf_buffer *body, size_t row, size_t live, size_t limit,
                           int *taken, smhf_error *err) {
    smhf_error problem = SMHF_ERROR_INIT;
    size_t before = body->size;
    *taken = 1;
    smhf_status status = (live > 0) ? smhf_buffer_append_byte(body, ',', &problem) : SMHF_OK;
    if (status == SMHF_OK) {
        status = smhf_rows_append(body, &job->texts[row], &problem);
    }
    if (status == SMHF_OK && (body->size <= limit || live == 0) &&
        body->size <= SMHF_INVOKER_MAX_BODY) {
        return SMHF_OK;
    }
    size_t size = body->size - before;
    body->size = before;
    if (status == SMHF_E_NOMEM) {
        return smhf_fail(err, SMHF_E_NOMEM, "%s", problem.message);
    }
    *taken = 0;
    if (status == SMHF_OK && live > 0) {
        return SMHF_OK; /* the next batch takes it */
    }
    if (status == SMHF_OK) {
        snprintf(problem.message, sizeof problem.message,
                 "a text of %zu bytes: requests hold at most %zu", size, SMHF_INVOKER_MAX_BODY);
    }
    return smhf_job_fail_row(job, row, SMHF_ROW_INPUT, 0, problem.message, err);
}

/* The next batch of rows nobody has: until rows or bytes are full. live 0: no such row is left. */
static smhf_status next_batch(smhf_job *job, smhf_buffer *body, smhf_batch_range *range,
                              smhf_error *err) {
    const smhf_sizer *sizer = &job->invoker->sizer;
    *range = (smhf_batch_range){.first = job->cursor};
    SMHF_TRY(begin_body(body, err));
    while (job->cursor < job->rows && range->live < sizer->rows) {
        size_t row = job->cursor;
        int taken = 0;
        if (job->state[row] == ROW_WAITING) {
            SMHF_TRY(add_row(job, body, row, range->live, sizer->bytes, &taken, err));
            if (!taken && job->state[row] == ROW_WAITING) {
                break;
            }
        }
        if (taken) {
            job->state[row] = ROW_CLAIMED;
            range->live++;
        }
        job->cursor++;
    }
    range->count = job->cursor - range->first;
    return end_body(job, body, err);
}

/* The rows of a range once more. */
static smhf_status same_batch(smhf_job *job, smhf_buffer *body, smhf_batch_range *range,
                              smhf_error *err) {
    size_t live = 0;
    int mine = range->probe ? ROW_PROBED : ROW_CLAIMED, taken;
    SMHF_TRY(begin_body(body, err));
    for (size_t row = range->first; row < range->first + range->count; row++) {
        if (job->state[row] == mine) {
            SMHF_TRY(add_row(job, body, row, live, SMHF_INVOKER_MAX_BODY, &taken, err));
            live += (size_t)taken;
        }
    }
    range->live = live;
    return end_body(job, body, err);
}

/* --- requests -----------------------------------------------------------------------------------
 */

static smhf_status send_slot(smhf_job *job, smhf_slot *slot, double now, smhf_error *err) {
    static const smhf_header json[] = {
        {"Content-Type", "application/json"},
        {"Accept", "application/json"},
    };
    smhf_invoker *invoker = job->invoker;
    smhf_request_headers headers;
    smhf_exchange *exchange = &slot->exchange;
    if (slot->range.live > job->answer_capacity) {
        smhf_answer *grown = smhf_realloc(job->answers, slot->range.live * sizeof *grown);
        if (grown == NULL) {
            return smhf_fail_nomem(err, "answers", slot->range.live * sizeof *grown);
        }
        job->answers = grown;
        job->answer_capacity = slot->range.live;
    }
    smhf_bytes_view body = smhf_buffer_view(&slot->body);
    SMHF_TRY(smhf_request_headers_make(invoker, json, 2, body, &headers, &slot->generation, err));
    smhf_exchange_init(exchange);
    exchange->url = invoker->options.url;
    exchange->headers = headers.items;
    exchange->header_count = headers.count;
    exchange->body = body;
    exchange->owner = slot;
    exchange->timeout = invoker->options.timeout;
    if (job->deadline > 0.0) {
        exchange->timeout = fmin(exchange->timeout, fmax(job->deadline - now, 0.001));
    }
    smhf_status status = smhf_transport_start(invoker->transport, exchange, err);
    smhf_request_headers_free(&headers);
    if (status != SMHF_OK) {
        smhf_exchange_deinit(exchange);
        return status;
    }
    slot->used = 1;
    slot->started = now;
    slot->running = ++job->running;
    smhf_pacer_start(&invoker->pacer, now);
    for (size_t row = slot->range.first; row < slot->range.first + slot->range.count; row++) {
        int mine = slot->range.probe ? ROW_PROBED : ROW_CLAIMED;
        if (job->state[row] == mine && job->out->attempts[row] < UINT16_MAX) {
            job->out->attempts[row]++;
        }
    }
    job->out->requests++;
    smhf_stats_add(&invoker->stats.requests, 1);
    return SMHF_OK;
}

/* Takes the latest pushed range whose time has come. */
static int take_pending(smhf_job *job, double now, smhf_batch_range *range) {
    for (size_t i = job->pending_count; i > 0; i--) {
        if (job->pending[i - 1].not_before <= now) {
            *range = job->pending[i - 1];
            memmove(&job->pending[i - 1], &job->pending[i],
                    (job->pending_count - i) * sizeof *job->pending);
            job->pending_count--;
            return 1;
        }
    }
    return 0;
}

static smhf_slot *free_slot(smhf_job *job) {
    for (int i = 0; i < job->invoker->slots; i++) {
        if (!job->slots[i].used) {
            return &job->slots[i];
        }
    }
    return NULL;
}

/* Ranges that wait before another attempt. They count as running for fresh rows: an endpoint in
 * trouble gets the same few batches again and not all of them. One that throttles but answers is
 * not in trouble: the pacer finds its rate. */
static int sleeping(const smhf_job *job, double now) {
    int count = 0, paced = job->invoker->pacer.on;
    for (size_t i = 0; i < job->pending_count; i++) {
        count += job->pending[i].not_before > now && !(paced && job->pending[i].throttled);
    }
    return count;
}

static smhf_status start_requests(smhf_job *job, double now, smhf_error *err) {
    while (job->running < smhf_aimd_limit(&job->invoker->aimd) && now >= job->hold_until &&
           !job->want && smhf_pacer_wait(&job->invoker->pacer, now) == 0.0) {
        smhf_slot *slot = free_slot(job);
        if (slot == NULL) {
            return SMHF_OK;
        }
        if (take_pending(job, now, &slot->range)) {
            SMHF_TRY(same_batch(job, &slot->body, &slot->range, err));
        } else if (job->cursor < job->rows &&
                   job->running + sleeping(job, now) < smhf_aimd_limit(&job->invoker->aimd)) {
            SMHF_TRY(next_batch(job, &slot->body, &slot->range, err));
        } else {
            return SMHF_OK;
        }
        if (slot->range.live > 0) {
            SMHF_TRY(send_slot(job, slot, now, err));
        }
    }
    return SMHF_OK;
}

static void clear_slot(smhf_job *job, smhf_slot *slot) {
    smhf_exchange_deinit(&slot->exchange);
    slot->used = 0;
    job->running--;
}

static void cancel_running(smhf_job *job) {
    for (int i = 0; job->slots != NULL && i < job->invoker->slots; i++) {
        if (job->slots[i].used) {
            smhf_transport_cancel(job->invoker->transport, &job->slots[i].exchange);
            clear_slot(job, &job->slots[i]);
        }
    }
}

static smhf_status finish_exchange(smhf_job *job, smhf_exchange *exchange, smhf_fault *stop,
                                   smhf_error *err) {
    smhf_slot *slot = exchange->owner;
    smhf_stats *stats = &job->invoker->stats;
    smhf_stats_add(&stats->bytes_sent, exchange->sent);
    smhf_stats_add(&stats->bytes_received, exchange->received);
    smhf_stats_add(&stats->connections_opened, (uint64_t)exchange->new_connections);
    smhf_status status = smhf_job_judge(job, slot, smhf_now(), stop, err);
    clear_slot(job, slot);
    atomic_store(&stats->connections, smhf_aimd_limit(&job->invoker->aimd));
    atomic_store(&stats->batch_rows, job->invoker->sizer.rows);
    return status;
}

/* --- the loop -----------------------------------------------------------------------------------
 */

static int wait_milliseconds(const smhf_job *job, double now) {
    double until = now + POLL_SECONDS;
    for (size_t i = 0; i < job->pending_count; i++) {
        until = fmin(until, fmax(job->pending[i].not_before, job->hold_until));
    }
    if (job->pending_count == 0 && job->hold_until > now) {
        until = fmin(until, job->hold_until);
    }
    if (job->cursor < job->rows && smhf_pacer_wait(&job->invoker->pacer, now) > 0.0) {
        until = fmin(until, now + smhf_pacer_wait(&job->invoker->pacer, now));
    }
    if (job->deadline > 0.0) {
        until = fmin(until, job->deadline);
    }
    if (job->running >= smhf_aimd_limit(&job->invoker->aimd)) {
        until = now + POLL_SECONDS; /* pending ranges wait for a free connection */
    }
    return (int)fmax(ceil((until - now) * 1000.0), 1.0);
}

static smhf_status poll_caller(smhf_job *job, smhf_invoker_poll poll, void *context, double now,
                               double *last, smhf_fault *stop, smhf_error *err) {
    if (!job->want && now - *last < POLL_SECONDS) {
        return SMHF_OK;
    }
    *last = now;
    int cancelled = poll != NULL && poll(context, job->want) != 0;
    if (cancelled) {
        cancel_running(job);
        SMHF_TRY(
            smhf_job_fail_rest(job, SMHF_ROW_CANCELLED, 0, "stopped before it was answered", err));
        return smhf_fail(err, SMHF_E_CANCELLED, "stopped with %zu of %zu rows answered",
                         job->finished, job->rows);
    }
    if (job->want) {
        job->want = 0;
        if (smhf_invoker_generation(job->invoker) == job->refused) {
            *stop = job->auth; /* nobody has better ones */
        }
    }
    return SMHF_OK;
}

static smhf_status stop_all(smhf_job *job, const smhf_fault *stop, smhf_error *err) {
    cancel_running(job);
    return smhf_job_fail_rest(job, stop->row_error, stop->status, stop->message, err);
}

static smhf_status run_job(smhf_job *job, smhf_invoker_poll poll, void *context, smhf_error *err) {
    double last = smhf_now();
    while (job->finished < job->rows) {
        smhf_fault stop = {.verdict = SMHF_VERDICT_OK};
        double now = smhf_now();
        SMHF_TRY(poll_caller(job, poll, context, now, &last, &stop, err));
        if (stop.verdict == SMHF_VERDICT_OK && job->deadline > 0.0 && now >= job->deadline) {
            stop = (smhf_fault){.verdict = SMHF_VERDICT_FATAL, .row_error = SMHF_ROW_TIMEOUT};
            snprintf(stop.message, sizeof stop.message,
                     "the call's deadline of %g s passed before it was answered",
                     job->invoker->options.deadline);
        }
        if (stop.verdict != SMHF_VERDICT_OK) {
            return stop_all(job, &stop, err);
        }
        SMHF_TRY(start_requests(job, now, err));
        int wait = (job->finished < job->rows) ? wait_milliseconds(job, now) : 0;
        for (;;) {
            smhf_exchange *finished = NULL;
            SMHF_TRY(smhf_transport_wait(job->invoker->transport, wait, &finished, err));
            if (finished == NULL) {
                break;
            }
            SMHF_TRY(finish_exchange(job, finished, &stop, err));
            if (stop.verdict != SMHF_VERDICT_OK) {
                return stop_all(job, &stop, err);
            }
            wait = 0;
        }
    }
    return SMHF_OK;
}

static smhf_status begin_job(smhf_job *job, smhf_error *err) {
    uint32_t empty;
    job->state = smhf_calloc(job->rows + 1, 1);
    job->slots = smhf_calloc((size_t)job->invoker->slots, sizeof *job->slots);
    if (job->state == NULL || job->slots == NULL) {
        return smhf_fail_nomem(err, "batches", job->rows);
    }
    for (int i = 0; i < job->invoker->slots; i++) {
        smhf_buffer_init(&job->slots[i].body, SMHF_INVOKER_MAX_BODY + ((size_t)1 << 20));
    }
    SMHF_TRY(smhf_predictions_new(job->rows, &job->out, err));
    return smhf_interner_add(&job->messages, (smhf_bytes_view){(const uint8_t *)"", 0}, &empty,
                             err);
}

static void end_job(smhf_job *job) {
    cancel_running(job);
    for (int i = 0; job->slots != NULL && i < job->invoker->slots; i++) {
        smhf_buffer_deinit(&job->slots[i].body);
    }
    smhf_free(job->slots);
    smhf_free(job->state);
    smhf_free(job->answers);
    smhf_free(job->pending);
    smhf_interner_deinit(&job->labels);
    smhf_interner_deinit(&job->messages);
    smhf_predictions_free(job->out);
}

static void hand_over(smhf_job *job, smhf_predictions **out) {
    smhf_predictions *made = job->out;
    size_t failed = 0;
    made->label_names = job->labels.items;
    made->label_count = job->labels.count;
    made->message_texts = job->messages.items;
    made->message_count = job->messages.count;
    job->labels.items = job->messages.items = NULL;
    job->labels.count = job->messages.count = 0;
    job->out = NULL;
    for (size_t row = 0; row < made->rows; row++) {
        failed += made->errors[row] != SMHF_ROW_OK;
    }
    smhf_stats_add(&job->invoker->stats.rows, made->rows);
    smhf_stats_add(&job->invoker->stats.rows_failed, failed);
    *out = made;
}

smhf_status smhf_invoker_predict(smhf_invoker *invoker, const smhf_text_view *texts, size_t rows,
                                 smhf_invoker_poll poll, void *context, smhf_predictions **out,
                                 smhf_error *err) {
    *out = NULL;
    if (rows > INT32_MAX) {
        return smhf_fail(err, SMHF_E_ARG, "%zu rows: expected at most %d", rows, INT32_MAX);
    }
    SMHF_TRY(smhf_invoker_enter(invoker, poll, context, err));
    smhf_job job = {.invoker = invoker, .texts = texts, .rows = rows, .streak = {.probes = -1}};
    if (invoker->options.deadline > 0.0) {
        job.deadline = smhf_now() + invoker->options.deadline;
    }
    smhf_retry_budget_init(&invoker->budget, invoker->slots); /* one for each call */
    smhf_status status = begin_job(&job, err);
    if (status == SMHF_OK) {
        status = run_job(&job, poll, context, err);
        cancel_running(&job);
    }
    if (status == SMHF_OK || status == SMHF_E_CANCELLED) {
        hand_over(&job, out);
    }
    end_job(&job);
    smhf_invoker_leave(invoker);
    return status;
}
