/* query.c: filters, series, means per tick, decimation, percentiles, spans; see trace.h. */
#include "trace/trace_internal.h"

#include "common/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_TICK_NS INT64_C(20000000)

/* --- Args ------------------------------------------------------------------------------------- */

smhf_bytes_view smhf_trace_args(const smhf_trace *trace, size_t event) {
    SMHF_ASSERT(event < trace->events.count);
    size_t length = trace->events.args_length[event];
    if (length == 0) {
        return (smhf_bytes_view){(const uint8_t *)"", 0};
    }
    return (smhf_bytes_view){trace->args.data + trace->events.args_offset[event], length};
}

void smhf_trace_args_int64(const smhf_trace *trace, const char *key, int64_t missing,
                           int64_t *out) {
    for (size_t i = 0; i < trace->events.count; i++) {
        smhf_bytes_view value;
        out[i] = missing;
        if (smhf_trace_args_find(smhf_trace_args(trace, i), key, &value)) {
            if (value.size >= 2 && value.data[0] == '"') {
                value.data++; /* smdebug writes step_num as a string */
                value.size -= 2;
            }
            int64_t number;
            if (smhf_trace_parse_time(value, 0, &number) == 0) {
                out[i] = number;
            }
        }
    }
}

/* --- Filters ---------------------------------------------------------------------------------- */

/* A text of the filter as a code. *matters 0: any; returns 0 when the text occurs nowhere. */
static int wanted_code(const smhf_trace *trace, const char *text, int *matters, uint32_t *code) {
    *matters = (text != NULL);
    *code = 0;
    return text == NULL || smhf_trace_name_find(trace, smhf_bytes_from_string(text), code);
}

typedef struct code_filter {
    int by_type, by_name, by_dimension, by_node;
    uint32_t type, name, dimension, node;
} code_filter;

/* 0: nothing can match. */
static int compile(const smhf_trace *trace, const smhf_trace_filter *filter, code_filter *out) {
    return wanted_code(trace, filter->type, &out->by_type, &out->type) &&
           wanted_code(trace, filter->name, &out->by_name, &out->name) &&
           wanted_code(trace, filter->dimension, &out->by_dimension, &out->dimension) &&
           wanted_code(trace, filter->node, &out->by_node, &out->node);
}

static int row_matches(const smhf_trace_rows *rows, size_t i, const smhf_trace_filter *filter,
                       const code_filter *codes) {
    return rows->ts[i] >= filter->start_ns && rows->ts[i] <= filter->end_ns &&
           (!codes->by_type || rows->type[i] == codes->type) &&
           (!codes->by_name || rows->name[i] == codes->name) &&
           (!codes->by_dimension || rows->dimension[i] == codes->dimension) &&
           (!codes->by_node || rows->node[i] == codes->node);
}

static int event_matches(const smhf_trace_events *e, size_t i, const smhf_trace_filter *filter,
                         const code_filter *codes) {
    if ((filter->ph != 0 && e->ph[i] != (uint8_t)filter->ph) ||
        (codes->by_name && e->name[i] != codes->name) ||
        (codes->by_type && e->cat[i] != codes->type)) {
        return 0;
    }
    if (filter->start_ns == INT64_MIN && filter->end_ns == INT64_MAX) {
        return 1;
    }
    if ((e->flags[i] & SMHF_TRACE_HAS_TS) == 0 || e->ts[i] < filter->start_ns) {
        return 0;
    }
    int64_t last = e->ts[i];
    if ((e->flags[i] & SMHF_TRACE_HAS_DUR) != 0 && e->dur[i] > 0 &&
        __builtin_add_overflow(last, e->dur[i], &last)) {
        last = INT64_MAX;
    }
    return last <= filter->end_ns;
}

smhf_status smhf_trace_select_rows(const smhf_trace *trace, const smhf_trace_filter *filter,
                                   uint64_t **out, size_t *count, smhf_error *err) {
    code_filter codes;
    *out = NULL;
    *count = 0;
    if (!compile(trace, filter, &codes)) {
        return SMHF_OK;
    }
    size_t found = 0;
    for (size_t i = 0; i < trace->rows.count; i++) {
        found += (size_t)row_matches(&trace->rows, i, filter, &codes);
    }
    if (found == 0) {
        return SMHF_OK;
    }
    uint64_t *list = smhf_malloc(found * sizeof *list);
    if (list == NULL) {
        return smhf_fail_nomem(err, "list of rows", found * sizeof *list);
    }
    for (size_t i = 0; i < trace->rows.count; i++) {
        if (row_matches(&trace->rows, i, filter, &codes)) {
            list[(*count)++] = i;
        }
    }
    *out = list;
    return SMHF_OK;
}

smhf_status smhf_trace_select_events(const smhf_trace *trace, const smhf_trace_filter *filter,
                                     uint64_t **out, size_t *count, smhf_error *err) {
    code_filter codes;
    *out = NULL;
    *count = 0;
    if (!compile(trace, filter, &codes)) {
        return SMHF_OK;
    }
    size_t found = 0;
    for (size_t i = 0; i < trace->events.count; i++) {
        found += (size_t)event_matches(&trace->events, i, filter, &codes);
    }
    if (found == 0) {
        return SMHF_OK;
    }
    uint64_t *list = smhf_malloc(found * sizeof *list);
    if (list == NULL) {
        return smhf_fail_nomem(err, "list of events", found * sizeof *list);
    }
    for (size_t i = 0; i < trace->events.count; i++) {
        if (event_matches(&trace->events, i, filter, &codes)) {
            list[(*count)++] = i;
        }
    }
    *out = list;
    return SMHF_OK;
}

/* --- Series ----------------------------------------------------------------------------------- */

typedef struct point {
    int64_t ts;
    uint64_t row; /* breaks ties: file order */
} point;

static int compare_points(const void *a, const void *b) {
    const point *x = a, *y = b;
    if (x->ts != y->ts) {
        return (x->ts < y->ts) ? -1 : 1;
    }
    return (x->row < y->row) ? -1 : (x->row > y->row);
}

/* Matching rows in time order; caller frees with smhf_free. */
static smhf_status sorted_points(const smhf_trace *trace, const smhf_trace_filter *filter,
                                 point **out, size_t *count, smhf_error *err) {
    uint64_t *rows;
    *out = NULL;
    SMHF_TRY(smhf_trace_select_rows(trace, filter, &rows, count, err));
    if (*count == 0) {
        return SMHF_OK;
    }
    point *points = smhf_malloc(*count * sizeof *points);
    if (points == NULL) {
        smhf_free(rows);
        return smhf_fail_nomem(err, "series", *count * sizeof *points);
    }
    int ordered = 1;
    for (size_t i = 0; i < *count; i++) {
        points[i] = (point){trace->rows.ts[rows[i]], rows[i]};
        ordered &= (i == 0 || points[i - 1].ts <= points[i].ts);
    }
    smhf_free(rows);
    if (!ordered) {
        qsort(points, *count, sizeof *points, compare_points);
    }
    *out = points;
    return SMHF_OK;
}

static smhf_status series_reserve(smhf_trace_series *series, size_t count, smhf_error *err) {
    *series = (smhf_trace_series){0};
    if (count == 0) {
        return SMHF_OK;
    }
    series->ts = smhf_malloc(count * sizeof *series->ts);
    series->value = smhf_malloc(count * sizeof *series->value);
    if (series->ts == NULL || series->value == NULL) {
        smhf_trace_series_deinit(series);
        return smhf_fail_nomem(err, "series", count * 2 * sizeof *series->ts);
    }
    return SMHF_OK;
}

void smhf_trace_series_deinit(smhf_trace_series *series) {
    smhf_free(series->ts);
    smhf_free(series->value);
    *series = (smhf_trace_series){0};
}

smhf_status smhf_trace_series_get(const smhf_trace *trace, const smhf_trace_filter *filter,
                                  smhf_trace_series *out, smhf_error *err) {
    point *points;
    size_t count;
    *out = (smhf_trace_series){0};
    SMHF_TRY(sorted_points(trace, filter, &points, &count, err));
    smhf_status status = series_reserve(out, count, err);
    for (size_t i = 0; status == SMHF_OK && i < count; i++) {
        out->ts[i] = points[i].ts;
        out->value[i] = trace->rows.value[points[i].row];
        out->count++;
    }
    smhf_free(points);
    return status;
}

/* The means of the ticks of `points`. last_tick[name code] = tick that name was last seen in. */
static void mean_ticks(const smhf_trace *trace, const point *points, size_t count,
                       int64_t window_ns, uint64_t *last_tick, smhf_trace_series *out) {
    size_t i = 0;
    while (i < count) {
        int64_t first = points[i].ts;
        uint64_t tick = out->count + 1;
        double sum = 0.0;
        int64_t lag = 0; /* sum of ts - first; a tick is short and small, so this cannot overflow */
        size_t members = 0;
        for (; i < count; i++) {
            uint32_t name = trace->rows.name[points[i].row];
            uint64_t distance = (uint64_t)points[i].ts - (uint64_t)first;
            if (distance > (uint64_t)window_ns || last_tick[name] == tick) {
                break;
            }
            last_tick[name] = tick;
            sum += trace->rows.value[points[i].row];
            lag += (int64_t)distance;
            members++;
        }
        out->ts[out->count] = first + lag / (int64_t)members;
        out->value[out->count] = sum / (double)members;
        out->count++;
    }
}

smhf_status smhf_trace_series_total(const smhf_trace *trace, const smhf_trace_filter *filter,
                                    int64_t window_ns, smhf_trace_series *out, smhf_error *err) {
    point *points;
    uint64_t *last_tick = NULL;
    size_t count;
    *out = (smhf_trace_series){0};
    if (window_ns < 0 || window_ns > INT64_C(60000000000)) {
        return smhf_fail(err, SMHF_E_ARG, "window_ns: expected 0 to 60 seconds, got %lld ns",
                         (long long)window_ns);
    }
    SMHF_TRY(sorted_points(trace, filter, &points, &count, err));
    smhf_status status = series_reserve(out, count, err);
    if (status != SMHF_OK) {
        goto done;
    }
    last_tick = smhf_calloc(trace->names.count, sizeof *last_tick);
    if (last_tick == NULL) {
        status = smhf_fail_nomem(err, "series", trace->names.count * sizeof *last_tick);
        goto done;
    }
    mean_ticks(trace, points, count, window_ns == 0 ? DEFAULT_TICK_NS : window_ns, last_tick, out);

done:
    smhf_free(last_tick);
    smhf_free(points);
    if (status != SMHF_OK) {
        smhf_trace_series_deinit(out);
    }
    return status;
}

/* --- Decimation and percentiles
 * --------------------------------------------------------------------- */

smhf_status smhf_trace_decimate(const int64_t *ts, const double *value, size_t count,
                                size_t buckets, smhf_trace_series *out, smhf_error *err) {
    *out = (smhf_trace_series){0};
    if (buckets == 0 || buckets > (size_t)1 << 30) {
        return smhf_fail(err, SMHF_E_ARG, "buckets: expected 1 to 2^30, got %zu", buckets);
    }
    size_t most = (count / 2 < buckets) ? count : buckets * 2;
    SMHF_TRY(series_reserve(out, most, err));
    if (count == 0) {
        return SMHF_OK;
    }
    uint64_t first = (uint64_t)ts[0];
    uint64_t span = (uint64_t)ts[count - 1] - first;
    uint64_t width = span / buckets + 1; /* so that the last point falls into the last bucket */
    size_t i = 0;
    while (i < count) {
        uint64_t bucket = ((uint64_t)ts[i] - first) / width;
        size_t low = SIZE_MAX, high = SIZE_MAX;
        for (; i < count && ((uint64_t)ts[i] - first) / width == bucket; i++) {
            if (isnan(value[i])) {
                continue;
            }
            low = (low == SIZE_MAX || value[i] < value[low]) ? i : low;
            high = (high == SIZE_MAX || value[i] > value[high]) ? i : high;
        }
        size_t pair[2] = {low < high ? low : high, low < high ? high : low};
        for (int k = 0; low != SIZE_MAX && k < (low == high ? 1 : 2); k++) {
            out->ts[out->count] = ts[pair[k]];
            out->value[out->count] = value[pair[k]];
            out->count++;
        }
    }
    return SMHF_OK;
}

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

smhf_status smhf_trace_percentiles(const double *value, size_t count, const double *q, size_t asked,
                                   double *out, smhf_error *err) {
    for (size_t i = 0; i < asked; i++) {
        if (!(q[i] >= 0.0 && q[i] <= 100.0)) {
            return smhf_fail(err, SMHF_E_ARG, "percentile %zu: expected 0 to 100, got %g", i, q[i]);
        }
    }
    double *sorted = smhf_malloc((count + 1) * sizeof *sorted);
    if (sorted == NULL) {
        return smhf_fail_nomem(err, "percentiles", (count + 1) * sizeof *sorted);
    }
    size_t kept = 0;
    for (size_t i = 0; i < count; i++) {
        if (!isnan(value[i])) {
            sorted[kept++] = value[i];
        }
    }
    if (kept > 1) {
        qsort(sorted, kept, sizeof *sorted, compare_doubles);
    }
    for (size_t i = 0; i < asked; i++) {
        if (kept == 0) {
            out[i] = (double)NAN;
            continue;
        }
        double place = q[i] / 100.0 * (double)(kept - 1);
        size_t below = (size_t)place;
        size_t above = (below + 1 < kept) ? below + 1 : below;
        double share = place - (double)below;
        double gap = sorted[above] - sorted[below];
        /* NumPy interpolates from the nearer side */
        out[i] = (share >= 0.5) ? sorted[above] - gap * (1.0 - share) : sorted[below] + gap * share;
    }
    smhf_free(sorted);
    return SMHF_OK;
}

/* --- Spans
 * ------------------------------------------------------------------------------------------- */

#define MAX_OPEN_WALK 512

typedef struct open_span {
    uint64_t event;
    size_t before; /* entry below on the same chain, + 1; 0: none */
    int open;
} open_span;

/* B and E events that have a time, in time order (file order where equal). Freed by the caller. */
static smhf_status span_order(const smhf_trace_events *e, point **out, size_t *count,
                              smhf_error *err) {
    size_t found = 0;
    for (size_t i = 0; i < e->count; i++) {
        found += (e->ph[i] == 'B' || e->ph[i] == 'E');
    }
    point *order = smhf_malloc((found + 1) * sizeof *order);
    if (order == NULL) {
        return smhf_fail_nomem(err, "spans", (found + 1) * sizeof *order);
    }
    int sorted = 1;
    *count = 0;
    for (size_t i = 0; i < e->count; i++) {
        if ((e->ph[i] == 'B' || e->ph[i] == 'E') && (e->flags[i] & SMHF_TRACE_HAS_TS) != 0) {
            sorted &= (*count == 0 || order[*count - 1].ts <= e->ts[i]);
            order[(*count)++] = (point){e->ts[i], i};
        }
    }
    if (!sorted) {
        qsort(order, *count, sizeof *order, compare_points);
    }
    *out = order;
    return SMHF_OK;
}

static uint64_t lane_of(const smhf_trace_events *e, size_t i) {
    uint64_t lane = (uint64_t)(uint32_t)e->pid[i] << 32 | (uint32_t)e->tid[i];
    lane ^= (uint64_t)e->file[i] * 0x9E3779B97F4A7C15u;
    lane ^= (uint64_t)(e->flags[i] & (SMHF_TRACE_PID_CODE | SMHF_TRACE_TID_CODE)) << 17;
    lane *= 0xD6E8FEB86659FD93u;
    return lane ^ (lane >> 32);
}

static int same_lane(const smhf_trace_events *e, size_t a, size_t b) {
    const int codes = SMHF_TRACE_PID_CODE | SMHF_TRACE_TID_CODE;
    return e->file[a] == e->file[b] && e->pid[a] == e->pid[b] && e->tid[a] == e->tid[b] &&
           (e->flags[a] & codes) == (e->flags[b] & codes);
}

/* Walks the chain of open begins of the lane of E `i`; the one it closes, + 1, or 0. The walk is
 * bounded so that a file of ends that fit nothing stays linear. */
static size_t find_begin(const smhf_trace_events *e, const open_span *stack, size_t top, size_t i) {
    int named = e->name[i] != 0; /* Horovod's E has no name, or "" */
    int steps = 0;
    for (size_t at = top; at != 0 && steps < MAX_OPEN_WALK; at = stack[at - 1].before, steps++) {
        const open_span *candidate = &stack[at - 1];
        if (candidate->open && same_lane(e, candidate->event, i) &&
            (!named || e->name[candidate->event] == e->name[i])) {
            return at;
        }
    }
    return 0;
}

/* end[i] for a B: its E + 1, or 0. `order` lists B and E in time order; `heads` has mask + 1
 * entries. */
static void match_spans(const smhf_trace_events *e, const point *order, size_t count,
                        open_span *stack, size_t *heads, size_t mask, uint64_t *end,
                        smhf_trace_spans *out) {
    size_t used = 0;
    for (size_t k = 0; k < count; k++) {
        size_t i = (size_t)order[k].row;
        size_t *head = &heads[lane_of(e, i) & mask];
        if (e->ph[i] == 'B') {
            stack[used] = (open_span){i, *head, 1};
            *head = ++used;
            out->unmatched_begins++;
            continue;
        }
        size_t at = find_begin(e, stack, *head, i);
        if (at == 0) {
            out->unmatched_ends++;
            continue;
        }
        stack[at - 1].open = 0;
        end[stack[at - 1].event] = i + 1;
        out->unmatched_begins--;
        while (*head != 0 && !stack[*head - 1].open) {
            *head = stack[*head - 1].before; /* closed tops leave the chain */
        }
    }
}

void smhf_trace_spans_deinit(smhf_trace_spans *spans) {
    smhf_free(spans->event);
    smhf_free(spans->end);
    smhf_free(spans->ts);
    smhf_free(spans->dur);
    *spans = (smhf_trace_spans){0};
}

static smhf_status spans_reserve(smhf_trace_spans *out, size_t count, smhf_error *err) {
    out->event = smhf_malloc(count * sizeof *out->event + 1);
    out->end = smhf_malloc(count * sizeof *out->end + 1);
    out->ts = smhf_malloc(count * sizeof *out->ts + 1);
    out->dur = smhf_malloc(count * sizeof *out->dur + 1);
    if (out->event == NULL || out->end == NULL || out->ts == NULL || out->dur == NULL) {
        return smhf_fail_nomem(err, "spans", count * 4 * sizeof *out->event);
    }
    return SMHF_OK;
}

static void collect_spans(const smhf_trace_events *e, const uint64_t *end, smhf_trace_spans *out) {
    for (size_t i = 0; i < e->count; i++) {
        int whole = e->ph[i] == 'X' && (e->flags[i] & SMHF_TRACE_HAS_TS) != 0;
        if (!whole && !(e->ph[i] == 'B' && end[i] != 0)) {
            continue;
        }
        size_t at = out->count++;
        out->event[at] = i;
        out->end[at] = whole ? i : end[i] - 1;
        out->ts[at] = e->ts[i];
        out->dur[at] = whole ? ((e->flags[i] & SMHF_TRACE_HAS_DUR) ? e->dur[i] : 0)
                             : e->ts[end[i] - 1] - e->ts[i];
    }
}

smhf_status smhf_trace_spans_get(const smhf_trace *trace, smhf_trace_spans *out, smhf_error *err) {
    const smhf_trace_events *e = &trace->events;
    size_t begins = 0, most = 0, mask = 63, count = 0;
    for (size_t i = 0; i < e->count; i++) {
        begins += (e->ph[i] == 'B');
        most += (e->ph[i] == 'B' || e->ph[i] == 'X');
    }
    while (mask < begins / 4) {
        mask = mask * 2 + 1;
    }
    *out = (smhf_trace_spans){0};
    point *order = NULL;
    open_span *stack = smhf_malloc((begins + 1) * sizeof *stack);
    size_t *heads = smhf_calloc(mask + 1, sizeof *heads);
    uint64_t *end = smhf_calloc(e->count + 1, sizeof *end);
    smhf_status status;
    if (stack == NULL || heads == NULL || end == NULL) {
        status = smhf_fail_nomem(err, "spans", (begins + 1) * sizeof *stack);
        goto done;
    }
    status = spans_reserve(out, most, err);
    if (status == SMHF_OK) {
        status = span_order(e, &order, &count, err);
    }
    if (status != SMHF_OK) {
        goto done;
    }
    match_spans(e, order, count, stack, heads, mask, end, out);
    collect_spans(e, end, out);

done:
    smhf_free(order);
    smhf_free(stack);
    smhf_free(heads);
    smhf_free(end);
    if (status != SMHF_OK) {
        smhf_trace_spans_deinit(out);
    }
    return status;
}
