/* event_writer.c: framework events in smdebug's file layout; see trace.h.
 *
 * A file grows as `[`, then one `object,` a line, under a temporary name in framework/; closing
 * turns the last comma into `]` and gives the file its final name, which carries the end of its
 * last event. A file that was never closed is thus a whole array but for its tail, and any reader
 * that takes Chrome traces takes it.
 */
#include "trace/sampler_internal.h"

#include "common/json.h"
#include "common/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define FLUSH_BYTES ((size_t)8192)
#define BACKLOG_BYTES ((size_t)64 << 20) /* kept while the disk refuses; then spans are refused */
#define FLUSH_NS INT64_C(500000000)
#define NS_PER_S INT64_C(1000000000)
#define NS_PER_HOUR (3600 * NS_PER_S)

struct smhf_event_writer {
    char *folder, *node, *suffix;
    uint64_t max_bytes;
    int64_t max_ns;
    pthread_mutex_t lock;
    atomic_int owner; /* process that the fields below belong to */
    int closed;
    int fd; /* -1: no file begun */
    char temporary[4096];
    smhf_buffer text;   /* lines not yet in the file */
    uint64_t bytes;     /* in the file and in text */
    int64_t base_us;    /* ts of this file are relative to it */
    int64_t created_us; /* wall clock when the writer was made */
    int64_t begun_ns;   /* monotonic time of the file's first line */
    int64_t flushed_ns; /* monotonic time of the last write */
    int64_t hour;       /* of the file's first event */
    int64_t last_end_ns;
    trace_names phases; /* code = pid of the phase in this file; code 0 is the metadata */
};

/* --- Files
 * --------------------------------------------------------------------------------------------- */

static smhf_status flush_locked(smhf_event_writer *w, smhf_error *err) {
    if (w->fd < 0 || w->text.size == 0) {
        return SMHF_OK;
    }
    off_t before = lseek(w->fd, 0, SEEK_END);
    smhf_status status = smhf_trace_write_all(w->fd, w->text.data, w->text.size, w->temporary, err);
    if (status != SMHF_OK && before >= 0 && ftruncate(w->fd, before) != 0) {
        smhf_error_prefix(err, "a partial line was left behind");
    }
    if (status == SMHF_OK) {
        smhf_buffer_clear(&w->text);
        w->flushed_ns = smhf_trace_clock_ns(CLOCK_MONOTONIC);
    }
    return status;
}

/* Another writer of this process may use the same node: numbers keep them apart. */
static smhf_status create_temporary(smhf_event_writer *w, smhf_error *err) {
    char folder[4096];
    if (snprintf(folder, sizeof folder, "%s/framework", w->folder) >= (int)sizeof folder - 256) {
        return smhf_fail(err, SMHF_E_ARG, "%s: path too long", w->folder);
    }
    SMHF_TRY(smhf_trace_make_folders(folder, err));
    for (int serial = 0; serial < 10000; serial++) {
        int size = snprintf(w->temporary, sizeof w->temporary, "%s/framework/%d-%s_%s.%d.json.tmp",
                            w->folder, (int)getpid(), w->node, w->suffix, serial);
        if (size < 0 || (size_t)size >= sizeof w->temporary) {
            return smhf_fail(err, SMHF_E_ARG, "%s: path too long", w->folder);
        }
        w->fd = open(w->temporary, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666);
        if (w->fd >= 0) {
            return SMHF_OK;
        }
        if (errno != EEXIST) {
            break;
        }
    }
    return smhf_fail(err, SMHF_E_IO, "%s: cannot create: %s", w->temporary, strerror(errno));
}

static smhf_status begin_file(smhf_event_writer *w, int64_t start_ns, int64_t end_ns,
                              smhf_error *err) {
    smhf_trace_names_deinit(&w->phases);
    SMHF_TRY(smhf_trace_names_init(&w->phases, err));
    int64_t start_us = start_ns / 1000;
    w->base_us = (start_us < w->created_us) ? start_us : w->created_us;
    w->begun_ns = smhf_trace_clock_ns(CLOCK_MONOTONIC);
    w->flushed_ns = w->begun_ns;
    w->hour = end_ns / NS_PER_HOUR;
    w->last_end_ns = end_ns;
    smhf_buffer_clear(&w->text);
    SMHF_TRY(
        smhf_buffer_append_format(&w->text, err,
                                  "[\n{\"name\": \"process_name\", \"ph\": \"M\", \"pid\": 0, "
                                  "\"args\": {\"start_time_since_epoch_in_micros\": %lld}},\n"
                                  "{\"name\": \"process_sort_index\", \"ph\": \"M\", \"pid\": 0, "
                                  "\"args\": {\"sort_index\": 0}},\n",
                                  (long long)w->base_us));
    w->bytes = w->text.size;
    return create_temporary(w, err);
}

/* Moves the temporary file to a name that no file has yet. */
static smhf_status publish(smhf_event_writer *w, smhf_error *err) {
    char path[4096], hour[11];
    int64_t end_us = w->last_end_ns / 1000;
    smhf_trace_hour(w->last_end_ns, hour);
    int size = snprintf(path, sizeof path, "%s/framework/pevents/%s", w->folder, hour);
    if (size < 0 || (size_t)size + 256 > sizeof path) {
        return smhf_fail(err, SMHF_E_ARG, "%s: path too long", w->folder);
    }
    SMHF_TRY(smhf_trace_make_folders(path, err));
    for (int attempt = 0; attempt < 1000; attempt++, end_us++) {
        snprintf(path + size, sizeof path - (size_t)size, "/%016lld_%d-%s_%s.json",
                 (long long)end_us, (int)getpid(), w->node, w->suffix);
        if (link(w->temporary, path) == 0) {
            unlink(w->temporary);
            return SMHF_OK;
        }
        if (errno != EEXIST) { /* a file system without hard links */
            if (access(path, F_OK) != 0 && rename(w->temporary, path) == 0) {
                return SMHF_OK;
            }
            break;
        }
    }
    return smhf_fail(err, SMHF_E_IO, "%s: cannot rename to %s: %s", w->temporary, path,
                     strerror(errno));
}

/* Ends the current file, if one was begun. Whatever fails, the next span begins a new one. */
static smhf_status finish_file(smhf_event_writer *w, smhf_error *err) {
    if (w->fd < 0) {
        return SMHF_OK;
    }
    smhf_status status = flush_locked(w, err);
    if (status == SMHF_OK) {
        off_t size = lseek(w->fd, 0, SEEK_END);
        if (size < 2 || ftruncate(w->fd, size - 2) != 0) { /* the last ",\n" */
            status =
                smhf_fail(err, SMHF_E_IO, "%s: cannot shorten: %s", w->temporary, strerror(errno));
        }
    }
    if (status == SMHF_OK) {
        status = smhf_trace_write_all(w->fd, "\n]\n", 3, w->temporary, err);
    }
    close(w->fd);
    w->fd = -1;
    if (status == SMHF_OK) {
        status = publish(w, err);
    }
    return status;
}

/* --- Lines
 * --------------------------------------------------------------------------------------------- */

static smhf_status append_string(smhf_event_writer *w, const char *text, smhf_error *err) {
    smhf_json_writer json;
    smhf_json_writer_init(&json, &w->text);
    return smhf_json_write_string(&json, smhf_bytes_from_string(text), err);
}

/* pid of a phase in this file; a new one is introduced by two lines of metadata. */
static smhf_status phase_of(smhf_event_writer *w, const char *phase, uint32_t *pid,
                            smhf_error *err) {
    size_t before = w->phases.count;
    SMHF_TRY(smhf_trace_names_add(&w->phases, smhf_bytes_from_string(phase), pid, err));
    if (w->phases.count == before) {
        return SMHF_OK;
    }
    SMHF_TRY(smhf_buffer_append_format(
        &w->text, err,
        "{\"name\": \"process_name\", \"ph\": \"M\", \"pid\": %u, \"args\": {\"name\": ", *pid));
    SMHF_TRY(append_string(w, phase, err));
    return smhf_buffer_append_format(
        &w->text, err,
        "}},\n{\"name\": \"process_sort_index\", \"ph\": \"M\", \"pid\": %u, "
        "\"args\": {\"sort_index\": %u}},\n",
        *pid, *pid);
}

/* printf would cost more than the rest of a span. */
static smhf_status append_number(smhf_event_writer *w, uint64_t value, smhf_error *err) {
    char digits[20];
    size_t at = sizeof digits;
    do {
        digits[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value != 0);
    return smhf_buffer_append(&w->text, digits + at, sizeof digits - at, err);
}

/* Microseconds, with decimals only where there are any. `key` ends where the number starts. */
static smhf_status append_micros(smhf_event_writer *w, const char *key, int64_t ns,
                                 smhf_error *err) {
    uint64_t size = (ns < 0) ? 0 - (uint64_t)ns : (uint64_t)ns;
    SMHF_TRY(smhf_buffer_append_string(&w->text, key, err));
    if (ns < 0) {
        SMHF_TRY(smhf_buffer_append_byte(&w->text, '-', err));
    }
    SMHF_TRY(append_number(w, size / 1000, err));
    unsigned rest = (unsigned)(size % 1000);
    if (rest != 0) {
        char decimals[4] = {'.', (char)('0' + rest / 100), (char)('0' + rest / 10 % 10),
                            (char)('0' + rest % 10)};
        return smhf_buffer_append(&w->text, decimals, sizeof decimals, err);
    }
    return SMHF_OK;
}

/* The args object with the process's pid put in front, unless it names one. */
static smhf_status append_args(smhf_event_writer *w, const char *args, smhf_error *err) {
    smhf_bytes_view text = smhf_bytes_from_string(args != NULL ? args : "{}"), value;
    SMHF_TRY(smhf_buffer_append_string(&w->text, ", \"args\": {", err));
    const uint8_t *end = text.data + text.size;
    const uint8_t *inner = smhf_trace_skip_space(smhf_trace_skip_space(text.data, end) + 1, end);
    if (!smhf_trace_args_find(text, "pid", &value)) {
        SMHF_TRY(smhf_buffer_append_string(&w->text, "\"pid\": ", err));
        SMHF_TRY(append_number(w, (uint64_t)atomic_load(&w->owner), err));
        SMHF_TRY(smhf_buffer_append_string(&w->text, *inner == '}' ? "" : ", ", err));
    }
    return smhf_buffer_append(&w->text, inner, (size_t)(end - inner), err);
}

static smhf_status append_span(smhf_event_writer *w, const char *name, const char *phase,
                               int64_t start_ns, int64_t end_ns, const char *args,
                               smhf_error *err) {
    uint32_t pid;
    SMHF_TRY(phase_of(w, phase, &pid, err));
    SMHF_TRY(smhf_buffer_append_string(&w->text, "{\"name\": ", err));
    SMHF_TRY(append_string(w, name, err));
    SMHF_TRY(smhf_buffer_append_string(&w->text, ", \"pid\": ", err));
    SMHF_TRY(append_number(w, pid, err));
    SMHF_TRY(smhf_buffer_append_string(&w->text, ", \"ph\": \"X\"", err));
    SMHF_TRY(append_micros(w, ", \"ts\": ", start_ns - w->base_us * 1000, err));
    SMHF_TRY(append_micros(w, ", \"dur\": ", end_ns - start_ns, err));
    SMHF_TRY(append_args(w, args, err));
    return smhf_buffer_append_string(&w->text, "},\n", err);
}

/* --- Writer
 * -------------------------------------------------------------------------------------------- */

static void discard(smhf_event_writer *w) {
    smhf_buffer_deinit(&w->text);
    smhf_trace_names_deinit(&w->phases);
    smhf_free(w->folder);
    smhf_free(w->node);
    smhf_free(w->suffix);
    smhf_free(w);
}

smhf_status smhf_event_writer_open(const smhf_event_writer_options *options,
                                   smhf_event_writer **out, smhf_error *err) {
    *out = NULL;
    if (options->folder == NULL || options->folder[0] == '\0') {
        return smhf_fail(err, SMHF_E_ARG, "event writer: expected a folder");
    }
    if (options->node == NULL || !smhf_trace_node_is_plain(options->node) ||
        options->suffix == NULL || !smhf_trace_node_is_plain(options->suffix)) {
        return smhf_fail(err, SMHF_E_ARG,
                         "event writer: node and suffix: expected 1 to 63 letters, digits, '.', "
                         "'_' or '-', got \"%.64s\" and \"%.64s\"",
                         options->node != NULL ? options->node : "",
                         options->suffix != NULL ? options->suffix : "");
    }
    if (options->max_bytes < 1024 || options->max_seconds < 1) {
        return smhf_fail(err, SMHF_E_ARG,
                         "event writer: expected max_bytes >= 1024 and max_seconds >= 1, got %llu "
                         "and %lld",
                         (unsigned long long)options->max_bytes, (long long)options->max_seconds);
    }
    smhf_event_writer *w = smhf_calloc(1, sizeof *w);
    if (w == NULL) {
        return smhf_fail_nomem(err, "event writer", sizeof *w);
    }
    w->fd = -1;
    w->max_bytes = options->max_bytes;
    w->max_ns = options->max_seconds * NS_PER_S;
    w->created_us = smhf_trace_clock_ns(CLOCK_REALTIME) / 1000;
    atomic_init(&w->owner, (int)getpid());
    smhf_buffer_init(&w->text, BACKLOG_BYTES);
    w->folder = smhf_strdup(options->folder);
    w->node = smhf_strdup(options->node);
    w->suffix = smhf_strdup(options->suffix);
    if (w->folder == NULL || w->node == NULL || w->suffix == NULL) {
        discard(w);
        return smhf_fail_nomem(err, "event writer", strlen(options->folder) + 1);
    }
    pthread_mutex_init(&w->lock, NULL);
    *out = w;
    return SMHF_OK;
}

/* In a forked child: the file, its buffered lines and a lock that may be held stay the parent's. */
static void notice_fork(smhf_event_writer *w) {
    int before = atomic_load(&w->owner), now = (int)getpid();
    if (before != now && atomic_compare_exchange_strong(&w->owner, &before, now)) {
        pthread_mutex_init(&w->lock, NULL);
        if (w->fd >= 0) {
            close(w->fd);
            w->fd = -1;
        }
        smhf_buffer_clear(&w->text);
    }
}

static int due(const smhf_event_writer *w, int64_t end_ns, int64_t now_ns) {
    return w->bytes > w->max_bytes || now_ns - w->begun_ns > w->max_ns ||
           end_ns / NS_PER_HOUR != w->hour;
}

static smhf_status span_locked(smhf_event_writer *w, const char *name, const char *phase,
                               int64_t start_ns, int64_t end_ns, const char *args,
                               smhf_error *err) {
    int64_t now_ns = smhf_trace_clock_ns(CLOCK_MONOTONIC);
    if (w->closed) {
        return smhf_fail(err, SMHF_E_ARG, "event writer: closed; no more spans are taken");
    }
    if (w->fd >= 0 && due(w, end_ns, now_ns)) {
        SMHF_TRY(finish_file(w, err));
    }
    if (w->fd < 0) {
        SMHF_TRY(begin_file(w, start_ns, end_ns, err));
    }
    size_t before = w->text.size;
    smhf_status status = append_span(w, name, phase, start_ns, end_ns, args, err);
    if (status != SMHF_OK) {
        w->text.size = before; /* half a line helps nobody */
        return status;
    }
    w->bytes += w->text.size - before;
    w->last_end_ns = (end_ns > w->last_end_ns) ? end_ns : w->last_end_ns;
    if (w->text.size >= FLUSH_BYTES || now_ns - w->flushed_ns >= FLUSH_NS) {
        return flush_locked(w, err);
    }
    return SMHF_OK;
}

static smhf_status check_span(const char *name, const char *phase, int64_t start_ns, int64_t end_ns,
                              const char *args, smhf_error *err) {
    if (name == NULL || end_ns < start_ns || start_ns < 0) {
        return smhf_fail(err, SMHF_E_ARG,
                         "span: expected a name and 0 <= start <= end, got %lld to %lld ns",
                         (long long)start_ns, (long long)end_ns);
    }
    const char *texts[] = {name, phase != NULL ? phase : name};
    for (int i = 0; i < 2; i++) {
        size_t size = strlen(texts[i]);
        if (smhf_utf8_validate((const uint8_t *)texts[i], size) != size) {
            return smhf_fail(err, SMHF_E_ARG, "span: name or phase is not UTF-8");
        }
    }
    if (args != NULL) {
        const uint8_t *end = (const uint8_t *)args + strlen(args);
        scan_record record;
        if (args[0] != '{' ||
            smhf_trace_scan_object((const uint8_t *)args, end, 0, &record) != SCAN_OK ||
            record.next != end || record.notes != 0) {
            return smhf_fail(err, SMHF_E_ARG, "span: args: expected one JSON object, got %.100s",
                             args);
        }
    }
    return SMHF_OK;
}

smhf_status smhf_event_writer_span(smhf_event_writer *w, const char *name, const char *phase,
                                   int64_t start_ns, int64_t end_ns, const char *args,
                                   smhf_error *err) {
    SMHF_TRY(check_span(name, phase, start_ns, end_ns, args, err));
    notice_fork(w);
    pthread_mutex_lock(&w->lock);
    smhf_status status =
        span_locked(w, name, phase != NULL ? phase : name, start_ns, end_ns, args, err);
    pthread_mutex_unlock(&w->lock);
    return status;
}

smhf_status smhf_event_writer_flush(smhf_event_writer *w, smhf_error *err) {
    notice_fork(w);
    pthread_mutex_lock(&w->lock);
    smhf_status status = flush_locked(w, err);
    pthread_mutex_unlock(&w->lock);
    return status;
}

smhf_status smhf_event_writer_close(smhf_event_writer *w, smhf_error *err) {
    notice_fork(w);
    pthread_mutex_lock(&w->lock);
    smhf_status status = w->closed ? SMHF_OK : finish_file(w, err);
    w->closed = 1;
    pthread_mutex_unlock(&w->lock);
    return status;
}

void smhf_event_writer_free(smhf_event_writer *w) {
    if (w != NULL) {
        (void)!smhf_event_writer_close(w, NULL);
        pthread_mutex_destroy(&w->lock);
        discard(w);
    }
}
