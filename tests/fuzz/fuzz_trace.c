/* fuzz_trace.c: the trace reader on any bytes.
 *
 * Whatever comes, the tolerant reader opens it or refuses it with a sentence; what it gives does
 * not depend on how much is read at a time; faults lie inside the text; and a text that the strict
 * reader takes has no fault. Queries run over every result.
 */
#include "trace/trace.h"

#include "common/mem.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int condition) {
    if (!condition) {
        abort();
    }
}

static smhf_trace *open_text(smhf_bytes_view text, int strict, size_t read_size) {
    smhf_trace_options options = SMHF_TRACE_DEFAULTS;
    smhf_error err = SMHF_ERROR_INIT;
    smhf_trace *trace = NULL;
    options.strict = strict;
    options.read_size = read_size;
    options.max_event = 4096;
    smhf_status status = smhf_trace_open_memory(text, "fuzz", &options, &trace, &err);
    require((status == SMHF_OK) == (trace != NULL));
    require(status == SMHF_OK || (status == SMHF_E_PARSE && err.message[0] != '\0'));
    return trace;
}

static void same(const smhf_trace *a, const smhf_trace *b) {
    const smhf_trace_events *x = smhf_trace_events_get(a), *y = smhf_trace_events_get(b);
    require(x->count == y->count && smhf_trace_rows_get(a)->count == smhf_trace_rows_get(b)->count);
    for (size_t i = 0; i < x->count; i++) {
        require(x->ph[i] == y->ph[i] && x->ts[i] == y->ts[i] && x->dur[i] == y->dur[i] &&
                x->name[i] == y->name[i] && x->args_length[i] == y->args_length[i]);
    }
    require(smhf_trace_fault_total(a) == smhf_trace_fault_total(b));
    for (size_t i = 0; i < smhf_trace_fault_count(a); i++) {
        const smhf_trace_fault *f = smhf_trace_fault_get(a, i), *g = smhf_trace_fault_get(b, i);
        require(f->offset == g->offset && f->line == g->line && f->length == g->length &&
                f->lost == g->lost);
    }
}

static void ask(const smhf_trace *trace) {
    smhf_trace_filter all = SMHF_TRACE_FILTER_ALL;
    smhf_trace_spans spans;
    smhf_trace_series series, thin;
    double q = 50.0, median;
    require(smhf_trace_spans_get(trace, &spans, NULL) == SMHF_OK);
    require(spans.count <= smhf_trace_events_get(trace)->count);
    smhf_trace_spans_deinit(&spans);
    require(smhf_trace_series_total(trace, &all, 0, &series, NULL) == SMHF_OK);
    require(smhf_trace_decimate(series.ts, series.value, series.count, 3, &thin, NULL) == SMHF_OK);
    require(thin.count <= 6);
    require(smhf_trace_percentiles(series.value, series.count, &q, 1, &median, NULL) == SMHF_OK);
    smhf_trace_series_deinit(&thin);
    smhf_trace_series_deinit(&series);
    for (size_t i = 0; i < smhf_trace_events_get(trace)->count; i++) {
        smhf_bytes_view value;
        (void)smhf_trace_args_find(smhf_trace_args(trace, i), "step_num", &value);
    }
    for (size_t i = 0; i < smhf_trace_name_count(trace); i++) {
        smhf_bytes_view name = smhf_trace_name(trace, (uint32_t)i);
        require(smhf_utf8_validate(name.data, name.size) == name.size);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    smhf_bytes_view text = {data, size};
    smhf_trace *whole = open_text(text, 0, size + 16);
    smhf_trace *pieces = open_text(text, 0, 1 + size % 7);
    require((whole == NULL) == (pieces == NULL));
    if (whole != NULL) {
        same(whole, pieces);
        ask(whole);
        for (size_t i = 0; i < smhf_trace_fault_count(whole); i++) {
            const smhf_trace_fault *fault = smhf_trace_fault_get(whole, i);
            require(fault->offset <= size && fault->length <= size - fault->offset);
        }
    }
    smhf_trace *strict = open_text(text, 1, size + 16);
    if (strict != NULL) {
        require(whole != NULL && smhf_trace_fault_total(whole) == 0);
        same(whole, strict);
    }
    smhf_trace_free(whole);
    smhf_trace_free(pieces);
    smhf_trace_free(strict);
    return 0;
}
