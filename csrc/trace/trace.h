/* trace.h: both sides of profiling: files -> columns (reader), machine -> files (sampler, writer).
 *
 *     smhf_trace *trace = NULL;
 *     smhf_trace_options options = SMHF_TRACE_DEFAULTS;
 *     const char *paths[] = {"profiler-output"};                  // file, .gz or directory
 *     SMHF_TRY(smhf_trace_open(paths, 1, &options, &trace, err));
 *     const smhf_trace_events *e = smhf_trace_events_get(trace);  // e->ts[i], e->dur[i]: int64 ns
 *     const smhf_trace_rows *r = smhf_trace_rows_get(trace);      // r->value[i], r->ts[i]
 *     for (size_t i = 0; i < smhf_trace_fault_count(trace); i++) { ... }
 *     smhf_trace_free(trace);
 *
 * Takes Chrome / Kineto / TensorFlow trace events (array, or object with traceEvents anywhere),
 * Horovod timelines, SageMaker framework timelines, SageMaker system metrics (one object a line, or
 * an array of them) and scalar lines; gzip is told by its magic. Times are exact int64 nanoseconds
 * from the decimal text, never through a double. Whatever is damaged costs itself alone: it becomes
 * a fault with byte offset, line, length and reason; options.strict makes the first one an error.
 *
 * Threads: smhf_trace is immutable after open (no lock). smhf_sampler and smhf_event_writer are
 * internally locked. Ownership: arrays, views and strings are borrowed until the trace is freed.
 */
#ifndef SMHF_TRACE_TRACE_H
#define SMHF_TRACE_TRACE_H

#include "common/bytes.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct smhf_trace smhf_trace;

/* --- Reading ---------------------------------------------------------------------------------- */

enum { SMHF_TRACE_SYSTEM = 1, SMHF_TRACE_FRAMEWORK = 2, SMHF_TRACE_ALL = 3 };

typedef struct smhf_trace_options {
    int strict;        /* 1: the first fault is SMHF_E_PARSE with its offset */
    int keep_args;     /* 1: the text of each event's args is kept for smhf_trace_args */
    int parts;         /* of a directory: SMHF_TRACE_SYSTEM, _FRAMEWORK or _ALL */
    size_t max_event;  /* bytes of one event or header value; a longer one is a fault */
    size_t max_faults; /* listed; further ones are only counted */
    size_t read_size;  /* bytes asked for at a time, at least 1; results do not depend on it */
} smhf_trace_options;

#define SMHF_TRACE_DEFAULTS                                                                        \
    { 0, 1, SMHF_TRACE_ALL, (size_t)256 << 20, 1000, (size_t)256 << 10 }

/* Reads every path in order; a directory is walked for the files of the SageMaker layout
 * (system/incremental, framework/pevents, framework detailed profiling), else for all *.json,
 * *.json.gz in it, sorted by name. A file that holds no events at all (but is not merely cut or
 * empty) is refused by name: SMHF_E_PARSE; inside a directory it is a fault unless strict.
 * `options` NULL takes the defaults. Caller frees with smhf_trace_free. */
smhf_status smhf_trace_open(const char *const *paths, size_t count,
                            const smhf_trace_options *options, smhf_trace **out,
                            smhf_error *err) SMHF_MUST_USE;
/* The same for one plain text in memory; `name` stands in sentences. */
smhf_status smhf_trace_open_memory(smhf_bytes_view text, const char *name,
                                   const smhf_trace_options *options, smhf_trace **out,
                                   smhf_error *err) SMHF_MUST_USE;
void smhf_trace_free(smhf_trace *trace);

/* "events", "system", "scalars", "mixed" or "empty". Static storage. */
const char *smhf_trace_kind(const smhf_trace *trace);

/* flags of an event */
enum {
    SMHF_TRACE_HAS_TS = 1 << 0,
    SMHF_TRACE_HAS_DUR = 1 << 1,
    SMHF_TRACE_HAS_PID = 1 << 2,
    SMHF_TRACE_HAS_TID = 1 << 3,
    SMHF_TRACE_HAS_ID = 1 << 4,
    SMHF_TRACE_HAS_NAME = 1 << 5,
    SMHF_TRACE_HAS_ARGS = 1 << 6,
    SMHF_TRACE_PID_CODE = 1 << 7, /* pid is a dictionary code, of a JSON string or a wide number */
    SMHF_TRACE_TID_CODE = 1 << 8,
    SMHF_TRACE_ID_CODE = 1 << 9,
    SMHF_TRACE_PID_TEXT = 1 << 10, /* the code stands for a JSON string */
    SMHF_TRACE_TID_TEXT = 1 << 11,
    SMHF_TRACE_BIND_ENCLOSING = 1 << 12, /* flow end with bp:"e" */
    SMHF_TRACE_OUT_OF_RANGE = 1 << 13,   /* ts or dur does not fit int64 ns; it counts as absent */
};

#define SMHF_TRACE_NO_TIME INT64_MIN /* ts of an event without one */

typedef struct smhf_trace_events {
    size_t count;
    uint8_t *ph;          /* phase letter */
    uint16_t *flags;      /* SMHF_TRACE_HAS_... */
    int64_t *ts;          /* ns since the epoch where the file says its base, else as in the file */
    int64_t *dur;         /* ns; -1: none (HAS_DUR tells -1 ns apart) */
    int32_t *pid, *tid;   /* value, or dictionary code (flags) */
    uint32_t *name, *cat; /* dictionary codes; 0 is "" */
    uint64_t *id;         /* number, hex string as number, or dictionary code (flags) */
    uint64_t *args_offset; /* into the kept args text */
    uint32_t *args_length; /* 0: none */
    uint32_t *file;        /* index of smhf_trace_file_get */
} smhf_trace_events;

typedef struct smhf_trace_rows { /* system metrics; scalars have type "scalar" */
    size_t count;
    uint32_t *type, *name, *dimension, *node; /* dictionary codes */
    double *value;
    int64_t *ts;        /* ns since the epoch */
    int64_t *iteration; /* scalars: IterationNumber; else -1 */
    uint32_t *file;
} smhf_trace_rows;

const smhf_trace_events *smhf_trace_events_get(const smhf_trace *trace);
const smhf_trace_rows *smhf_trace_rows_get(const smhf_trace *trace);

/* One column by position, for code that treats them alike (the glue). */
typedef struct smhf_trace_column {
    const char *name;
    char format;  /* struct letter: B H i I q Q d */
    uint8_t size; /* bytes of one element */
    const void *data;
    size_t count;
} smhf_trace_column;
/* `table` 0 events, 1 rows. Returns 0 when `index` is past the last column. */
int smhf_trace_column_get(const smhf_trace *trace, int table, size_t index, smhf_trace_column *out);

/* The dictionary: names, categories, types, dimensions, nodes, texts of ids. Valid UTF-8. */
size_t smhf_trace_name_count(const smhf_trace *trace);
smhf_bytes_view smhf_trace_name(const smhf_trace *trace, uint32_t code);
/* 1 and the code, or 0 when the text does not occur. */
int smhf_trace_name_find(const smhf_trace *trace, smhf_bytes_view text, uint32_t *code);

typedef struct smhf_trace_file {
    const char *path;
    int gzip;
    int64_t base_ns; /* what was added to the file's times; 0 without a base */
    uint64_t bytes;  /* of text, after unpacking */
    size_t first_event, event_count;
    size_t first_row, row_count;
} smhf_trace_file;
size_t smhf_trace_file_count(const smhf_trace *trace);
const smhf_trace_file *smhf_trace_file_get(const smhf_trace *trace, size_t index);

typedef struct smhf_trace_fault {
    uint64_t offset; /* byte of the unpacked text where the damaged part starts */
    uint64_t line;   /* of that byte, from 1 */
    uint64_t length; /* bytes of the damaged part; 0 when something is merely absent */
    uint32_t file;
    int lost;         /* 1: an event was lost; 0: everything was kept */
    char reason[152]; /* a phrase */
} smhf_trace_fault;
/* Faults found in all; the first smhf_trace_fault_count are listed. */
uint64_t smhf_trace_fault_total(const smhf_trace *trace);
size_t smhf_trace_fault_count(const smhf_trace *trace);
const smhf_trace_fault *smhf_trace_fault_get(const smhf_trace *trace, size_t index);

/* The args of one event as JSON text (as in the file, tokens such as NaN included). */
smhf_bytes_view smhf_trace_args(const smhf_trace *trace, size_t event);
/* The value of `key` at the top of an args text, as its JSON text; 1 when it is there. */
int smhf_trace_args_find(smhf_bytes_view args, const char *key, smhf_bytes_view *value);
/* out[i], i < events: the integer of `key` (also from a numeric string), else `missing`. */
void smhf_trace_args_int64(const smhf_trace *trace, const char *key, int64_t missing, int64_t *out);

/* Decimal text -> integer of 10^-digits units (digits 9: seconds -> ns; 3: microseconds -> ns).
 * Exponents are taken; what is finer rounds half to even. Returns 0; -1 not a number; -2 too big.
 */
int smhf_trace_parse_time(smhf_bytes_view text, int digits, int64_t *out);

/* --- Asking ----------------------------------------------------------------------------------- */

typedef struct smhf_trace_filter {
    int64_t start_ns, end_ns;                   /* both inclusive */
    const char *type, *name, *dimension, *node; /* rows; NULL: any. events: name and type (= cat) */
    char ph;                                    /* events; 0: any */
} smhf_trace_filter;

#define SMHF_TRACE_FILTER_ALL                                                                      \
    { INT64_MIN, INT64_MAX, NULL, NULL, NULL, NULL, 0 }

/* Indices of matching rows (events) in file order. An event matches when start and end lie in the
 * range, as smdebug does. `*out` is freed by the caller with smhf_free (NULL when none). */
smhf_status smhf_trace_select_rows(const smhf_trace *trace, const smhf_trace_filter *filter,
                                   uint64_t **out, size_t *count, smhf_error *err) SMHF_MUST_USE;
smhf_status smhf_trace_select_events(const smhf_trace *trace, const smhf_trace_filter *filter,
                                     uint64_t **out, size_t *count, smhf_error *err) SMHF_MUST_USE;

typedef struct smhf_trace_series {
    size_t count;
    int64_t *ts; /* ns, ascending */
    double *value;
} smhf_trace_series;
/* Points of the matching rows in time order (equal times keep file order). Free with deinit. */
smhf_status smhf_trace_series_get(const smhf_trace *trace, const smhf_trace_filter *filter,
                                  smhf_trace_series *out, smhf_error *err) SMHF_MUST_USE;
/* One point a tick: the mean over the names that have a row in it (cores, GPUs); its time is the
 * mean time. Rows belong to one tick while they lie within `window_ns` of its first (0: 20 ms, as
 * SageMaker's rules merge) and their name is new in it, so a tick may lack a core. Rows of several
 * nodes or dimensions are all averaged: filter first. */
smhf_status smhf_trace_series_total(const smhf_trace *trace, const smhf_trace_filter *filter,
                                    int64_t window_ns, smhf_trace_series *out,
                                    smhf_error *err) SMHF_MUST_USE;
void smhf_trace_series_deinit(smhf_trace_series *series);
/* At most 2 * buckets points: the first least and first greatest value of each of `buckets` equal
 * spans of time, in time order. NaN is passed over. `ts` ascending. */
smhf_status smhf_trace_decimate(const int64_t *ts, const double *value, size_t count,
                                size_t buckets, smhf_trace_series *out,
                                smhf_error *err) SMHF_MUST_USE;
/* out[i] = percentile q[i] in 0..100, linear between neighbours (NumPy's default); NaN when there
 * is no value. NaN values are left out. */
smhf_status smhf_trace_percentiles(const double *value, size_t count, const double *q, size_t asked,
                                   double *out, smhf_error *err) SMHF_MUST_USE;

typedef struct smhf_trace_spans { /* complete spans: X events and matched B/E pairs */
    size_t count;
    uint64_t *event; /* index of the X or B */
    uint64_t *end;   /* index of the E; the X itself */
    int64_t *ts, *dur;
    uint64_t unmatched_begins, unmatched_ends;
} smhf_trace_spans;
/* B and E are matched in time order per file, pid and tid, last opened first; an E with a name
 * takes the nearest open B of that name. Spans come in file order of their X or B. Free with
 * deinit. */
smhf_status smhf_trace_spans_get(const smhf_trace *trace, smhf_trace_spans *out,
                                 smhf_error *err) SMHF_MUST_USE;
void smhf_trace_spans_deinit(smhf_trace_spans *spans);

/* --- Sampling --------------------------------------------------------------------------------- */

typedef struct smhf_sampler smhf_sampler;

typedef struct smhf_sampler_options {
    const char *folder;      /* the profiler-output folder; made when absent */
    const char *node;        /* "algo-1" */
    int64_t interval_ms;     /* 100..60,000 */
    const char *proc_folder; /* "/proc" */
    const char *sys_folder;  /* "/sys" */
    const char *nvml_path;   /* "libnvidia-ml.so.1"; "" does not look for GPUs */
} smhf_sampler_options;

#define SMHF_SAMPLER_DEFAULTS                                                                      \
    { NULL, "algo-1", 500, "/proc", "/sys", "libnvidia-ml.so.1" }

typedef struct smhf_sampler_stats {
    uint64_t ticks, rows, bytes;
    uint64_t late_ticks;   /* deadlines that had passed already and were dropped */
    uint64_t write_errors; /* ticks that could not be written */
    int64_t cpu_ns;        /* processor time of the sampling thread */
    int gpus;
    char no_gpu_reason[SMHF_ERROR_MESSAGE_SIZE]; /* why gpus is 0, else "" */
    char last_error[SMHF_ERROR_MESSAGE_SIZE];    /* last write error, else "" */
} smhf_sampler_stats;

/* Starts a thread that writes <folder>/system/incremental/YYYYMMDDHH/<minute>.<node>.json, one
 * write a tick. The whole machine is measured. A child made by fork() has no sampler. */
smhf_status smhf_sampler_start(const smhf_sampler_options *options, smhf_sampler **out,
                               smhf_error *err) SMHF_MUST_USE;
void smhf_sampler_stats_get(smhf_sampler *sampler, smhf_sampler_stats *out);
/* Takes a last sample, ends the thread, writes system/training_job_end.ts. Once. */
smhf_status smhf_sampler_stop(smhf_sampler *sampler, smhf_error *err) SMHF_MUST_USE;
/* Stops when still running. NULL is fine. */
void smhf_sampler_free(smhf_sampler *sampler);

/* --- Writing framework events ----------------------------------------------------------------- */

typedef struct smhf_event_writer smhf_event_writer;

typedef struct smhf_event_writer_options {
    const char *folder;  /* the profiler-output folder */
    const char *node;    /* "algo-1"; files carry <pid>-<node> */
    const char *suffix;  /* "pythontimeline" */
    uint64_t max_bytes;  /* rotate past this size */
    int64_t max_seconds; /* rotate this long after the file was begun */
} smhf_event_writer_options;

#define SMHF_EVENT_WRITER_DEFAULTS                                                                 \
    { NULL, "algo-1", "pythontimeline", (uint64_t)10 * 1000 * 1000, 60 }

/* Files appear as <folder>/framework/pevents/YYYYMMDDHH/<end us>_<pid>-<node>_<suffix>.json when
 * rotated or closed; until then framework/<pid>-<node>_<suffix>.json.tmp grows by whole lines, so
 * a cut loses one event at most. After fork() the child goes on in a file of its own. */
smhf_status smhf_event_writer_open(const smhf_event_writer_options *options,
                                   smhf_event_writer **out, smhf_error *err) SMHF_MUST_USE;
/* One complete span. `phase` groups spans into a process row (NULL: the name). `args` is a JSON
 * object text or NULL. Times are ns since the epoch; end >= start. */
smhf_status smhf_event_writer_span(smhf_event_writer *writer, const char *name, const char *phase,
                                   int64_t start_ns, int64_t end_ns, const char *args,
                                   smhf_error *err) SMHF_MUST_USE;
/* Hands buffered lines to the file. */
smhf_status smhf_event_writer_flush(smhf_event_writer *writer, smhf_error *err) SMHF_MUST_USE;
/* Finishes the current file; later spans are SMHF_E_ARG. Once. */
smhf_status smhf_event_writer_close(smhf_event_writer *writer, smhf_error *err) SMHF_MUST_USE;
/* Closes when still open. NULL is fine. */
void smhf_event_writer_free(smhf_event_writer *writer);

#ifdef __cplusplus
}
#endif
#endif
