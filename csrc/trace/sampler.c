/* sampler.c: the sampling thread and its minute files; see trace.h.
 *
 * Deadlines are absolute on the monotonic clock, so ticks do not drift; one that has passed already
 * is dropped and counted. All rows of a tick carry one wall-clock time (a sample takes some tens of
 * microseconds) and go out in one write, so that a reader of the live file sees whole rows.
 */
#include "trace/sampler_internal.h"

#include "common/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_MS INT64_C(1000000)
#define NS_PER_S INT64_C(1000000000)
#define LEAST_LAST_NS (10 * NS_PER_MS) /* a last sample closer to the one before says nothing */

struct smhf_sampler {
    char *folder, *node, *sys_folder;
    int64_t interval_ns;
    pid_t owner; /* process whose thread it is */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    int stopping;             /* under lock */
    int stopped;              /* under lock: stop has been called */
    smhf_sampler_stats stats; /* under lock */
    /* below: the thread's alone while it runs */
    proc_machine machine;
    smhf_nvml *nvml;
    smhf_buffer text; /* rows of one tick */
    uint64_t rows;    /* in text */
    int fd;
    int64_t minute; /* of fd, seconds since the epoch */
    char path[4096];
};

/* --- Small things
 * ------------------------------------------------------------------------------------ */

int64_t smhf_trace_clock_ns(int clock) {
    struct timespec now;
    clock_gettime((clockid_t)clock, &now);
    return (int64_t)now.tv_sec * NS_PER_S + now.tv_nsec;
}

void smhf_trace_hour(int64_t epoch_ns, char out[11]) {
    time_t seconds = (time_t)(epoch_ns / NS_PER_S);
    struct tm utc;
    gmtime_r(&seconds, &utc);
    strftime(out, 11, "%Y%m%d%H", &utc);
}

int smhf_trace_node_is_plain(const char *node) {
    size_t size = strlen(node);
    return size >= 1 && size <= 63 &&
           strspn(node, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") ==
               size;
}

smhf_status smhf_trace_write_all(int fd, const void *data, size_t size, const char *path,
                                 smhf_error *err) {
    const char *at = data;
    while (size > 0) {
        ssize_t done = write(fd, at, size);
        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done <= 0) {
            return smhf_fail(err, SMHF_E_IO, "%s: cannot write: %s", path,
                             done < 0 ? strerror(errno) : "no progress");
        }
        at += done;
        size -= (size_t)done;
    }
    return SMHF_OK;
}

/* --- Rows
 * ---------------------------------------------------------------------------------------------- */

/* Numbers are printed from integers: %f would follow the program's locale. */
static smhf_status add_row(smhf_sampler *s, int64_t now_ns, const char *type, const char *name,
                           long index, const char *dimension, double value, smhf_error *err) {
    int64_t hundredths = (value >= 0.0 && value < 9e15) ? (int64_t)llround(value * 100.0) : 0;
    char number[24] = "";
    if (index >= 0) {
        snprintf(number, sizeof number, "%ld", index);
    }
    s->rows++;
    return smhf_buffer_append_format(
        &s->text, err,
        "{\"Type\":\"%s\",\"Name\":\"%s%s\",\"Dimension\":\"%s\",\"Value\":%lld.%02d,"
        "\"NodeId\":\"%s\",\"Timestamp\":%lld.%06d}\n",
        type, name, number, dimension, (long long)(hundredths / 100), (int)(hundredths % 100),
        s->node, (long long)(now_ns / NS_PER_S), (int)(now_ns % NS_PER_S / 1000));
}

static smhf_status add_gpus(smhf_sampler *s, int64_t now_ns, smhf_error *err) {
    for (unsigned i = 0; i < smhf_nvml_count(s->nvml); i++) {
        double busy, memory;
        if (smhf_nvml_read(s->nvml, i, &busy, &memory) == 0) {
            SMHF_TRY(add_row(s, now_ns, "gpu", "gpu", (long)i, "GPUUtilization", busy, err));
            SMHF_TRY(
                add_row(s, now_ns, "gpu", "gpu", (long)i, "GPUMemoryUtilization", memory, err));
        }
    }
    return SMHF_OK;
}

static smhf_status add_rates(smhf_sampler *s, int64_t now_ns, smhf_error *err) {
    static const char *const sides[] = {"Algorithm", "Platform"};
    const proc_machine *m = &s->machine;
    if (m->diskstats.fd >= 0) {
        SMHF_TRY(add_row(s, now_ns, "i/o", "IOPS", -1, "", m->iops, err));
        SMHF_TRY(add_row(s, now_ns, "i/o", "ReadThroughputInBytesPerSecond", -1, "", m->read_bytes,
                         err));
        SMHF_TRY(add_row(s, now_ns, "i/o", "WriteThroughputInBytesPerSecond", -1, "",
                         m->written_bytes, err));
    }
    for (int side = 0; side < 2 && m->netdev.fd >= 0; side++) {
        SMHF_TRY(add_row(s, now_ns, "network", "ReceiveBytesPerSecond", -1, sides[side],
                         m->received[side], err));
        SMHF_TRY(add_row(s, now_ns, "network", "TransmitBytesPerSecond", -1, sides[side],
                         m->sent[side], err));
    }
    return SMHF_OK;
}

static smhf_status add_tick(smhf_sampler *s, int64_t now_ns, smhf_error *err) {
    const proc_machine *m = &s->machine;
    for (size_t i = 0; i < m->core_count; i++) {
        if (m->cores[i].fresh) {
            SMHF_TRY(add_row(s, now_ns, "cpu", "cpu", (long)i, "CPUUtilization",
                             m->cores[i].busy_percent, err));
        }
    }
    for (size_t i = 0; i < m->core_count; i++) {
        if (m->cores[i].fresh) {
            SMHF_TRY(add_row(s, now_ns, "cpu", "cpu", (long)i, "I/OWaitPercentage",
                             m->cores[i].wait_percent, err));
        }
    }
    SMHF_TRY(add_gpus(s, now_ns, err));
    if (!isnan(m->memory_percent)) {
        SMHF_TRY(add_row(s, now_ns, "memory", "MemoryUsedPercent", -1, "", m->memory_percent, err));
    }
    return m->rates_known ? add_rates(s, now_ns, err) : SMHF_OK;
}

/* --- Files
 * --------------------------------------------------------------------------------------------- */

static void close_file(smhf_sampler *s) {
    if (s->fd >= 0) {
        close(s->fd);
        s->fd = -1;
    }
}

/* The file of the minute that `now_ns` lies in. */
static smhf_status open_minute(smhf_sampler *s, int64_t now_ns, smhf_error *err) {
    int64_t minute = now_ns / NS_PER_S / 60 * 60;
    if (s->fd >= 0 && minute == s->minute) {
        return SMHF_OK;
    }
    close_file(s);
    char hour[11];
    smhf_trace_hour(now_ns, hour);
    int size = snprintf(s->path, sizeof s->path, "%s/system/incremental/%s", s->folder, hour);
    if (size < 0 || (size_t)size + 96 > sizeof s->path) {
        return smhf_fail(err, SMHF_E_ARG, "%s: path too long", s->folder);
    }
    SMHF_TRY(smhf_trace_make_folders(s->path, err));
    snprintf(s->path + size, sizeof s->path - (size_t)size, "/%010lld.%s.json", (long long)minute,
             s->node);
    s->fd = open(s->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (s->fd < 0) {
        return smhf_fail(err, SMHF_E_IO, "%s: cannot create: %s", s->path, strerror(errno));
    }
    s->minute = minute;
    return SMHF_OK;
}

/* All rows of the tick or none: what a full disk took of them is taken back. */
static smhf_status write_tick(smhf_sampler *s, int64_t now_ns, smhf_error *err) {
    SMHF_TRY(open_minute(s, now_ns, err));
    off_t before = lseek(s->fd, 0, SEEK_END);
    smhf_status status = smhf_trace_write_all(s->fd, s->text.data, s->text.size, s->path, err);
    if (status != SMHF_OK) {
        if (before < 0 || ftruncate(s->fd, before) != 0) {
            smhf_error_prefix(err, "a partial tick was left behind");
        }
        close_file(s); /* try to open it again at the next tick */
    }
    return status;
}

/* One sample of everything into the file; failures are counted, never fatal. */
static void take_sample(smhf_sampler *s) {
    smhf_error err = SMHF_ERROR_INIT;
    int64_t now_ns = smhf_trace_clock_ns(CLOCK_REALTIME);
    smhf_buffer_clear(&s->text);
    s->rows = 0;
    smhf_status status = smhf_proc_sample(&s->machine, smhf_trace_clock_ns(CLOCK_MONOTONIC), &err);
    if (status == SMHF_OK) {
        status = add_tick(s, now_ns, &err);
    }
    if (status == SMHF_OK && s->text.size > 0) {
        status = write_tick(s, now_ns, &err);
    }
    int64_t cpu_ns = smhf_trace_clock_ns(CLOCK_THREAD_CPUTIME_ID);
    pthread_mutex_lock(&s->lock);
    if (status == SMHF_OK) {
        s->stats.ticks++;
        s->stats.rows += s->rows;
        s->stats.bytes += s->text.size;
    } else {
        s->stats.write_errors++;
        memcpy(s->stats.last_error, err.message, sizeof s->stats.last_error);
    }
    s->stats.cpu_ns = cpu_ns;
    pthread_mutex_unlock(&s->lock);
}

/* --- Thread
 * -------------------------------------------------------------------------------------------- */

/* Sleeps until `deadline`; 1 when it is time to stop. */
static int wait_until(smhf_sampler *s, int64_t deadline) {
    struct timespec at = {(time_t)(deadline / NS_PER_S), (long)(deadline % NS_PER_S)};
    pthread_mutex_lock(&s->lock);
    while (!s->stopping && smhf_trace_clock_ns(CLOCK_MONOTONIC) < deadline) {
        pthread_cond_timedwait(&s->wake, &s->lock, &at);
    }
    int stopping = s->stopping;
    pthread_mutex_unlock(&s->lock);
    return stopping;
}

static void *sampler_run(void *argument) {
    smhf_sampler *s = argument;
    int64_t deadline = s->machine.last_ns + s->interval_ns;
    while (!wait_until(s, deadline)) {
        take_sample(s);
        deadline += s->interval_ns;
        int64_t late = smhf_trace_clock_ns(CLOCK_MONOTONIC) - deadline;
        if (late >= 0) { /* the machine slept, or the disk was slow: keep to the grid */
            int64_t missed = late / s->interval_ns + 1;
            deadline += missed * s->interval_ns;
            pthread_mutex_lock(&s->lock);
            s->stats.late_ticks += (uint64_t)missed;
            pthread_mutex_unlock(&s->lock);
        }
    }
    if (smhf_trace_clock_ns(CLOCK_MONOTONIC) - s->machine.last_ns >= LEAST_LAST_NS) {
        take_sample(s);
    }
    return NULL;
}

static smhf_status start_thread(smhf_sampler *s, smhf_error *err) {
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&s->wake, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_mutex_init(&s->lock, NULL);
    sigset_t all, before;
    sigfillset(&all); /* signals belong to the program's own threads */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int code = pthread_create(&s->thread, NULL, sampler_run, s);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (code != 0) {
        pthread_mutex_destroy(&s->lock);
        pthread_cond_destroy(&s->wake);
        return smhf_fail(err, SMHF_E_IO, "sampler: cannot start a thread: %s", strerror(code));
    }
    pthread_setname_np(s->thread, "smhf-sampler");
    return SMHF_OK;
}

static smhf_status check_options(const smhf_sampler_options *options, smhf_error *err) {
    if (options->folder == NULL || options->folder[0] == '\0') {
        return smhf_fail(err, SMHF_E_ARG, "sampler: expected a folder");
    }
    if (options->interval_ms < 100 || options->interval_ms > 60000) {
        return smhf_fail(err, SMHF_E_ARG, "interval_ms: expected 100 to 60000, got %lld",
                         (long long)options->interval_ms);
    }
    if (options->node == NULL || !smhf_trace_node_is_plain(options->node)) {
        return smhf_fail(err, SMHF_E_ARG,
                         "node: expected 1 to 63 letters, digits, '.', '_' or '-', got \"%.80s\"",
                         options->node != NULL ? options->node : "");
    }
    return SMHF_OK;
}

static void discard(smhf_sampler *s) {
    close_file(s);
    smhf_proc_close(&s->machine);
    smhf_buffer_deinit(&s->text);
    smhf_free(s->folder);
    smhf_free(s->node);
    smhf_free(s->sys_folder);
    smhf_free(s);
}

smhf_status smhf_sampler_start(const smhf_sampler_options *options, smhf_sampler **out,
                               smhf_error *err) {
    smhf_error why = SMHF_ERROR_INIT;
    *out = NULL;
    SMHF_TRY(check_options(options, err));
    smhf_sampler *s = smhf_calloc(1, sizeof *s);
    if (s == NULL) {
        return smhf_fail_nomem(err, "sampler", sizeof *s);
    }
    s->fd = -1;
    s->machine.stat.fd = s->machine.meminfo.fd = -1;
    s->machine.diskstats.fd = s->machine.netdev.fd = -1;
    s->owner = getpid();
    s->interval_ns = options->interval_ms * NS_PER_MS;
    smhf_buffer_init(&s->text, 0);
    s->folder = smhf_strdup(options->folder);
    s->node = smhf_strdup(options->node);
    s->sys_folder = smhf_strdup(options->sys_folder);
    smhf_status status = SMHF_OK;
    if (s->folder == NULL || s->node == NULL || s->sys_folder == NULL) {
        status = smhf_fail_nomem(err, "sampler", strlen(options->folder) + 1);
        goto done;
    }
    status = smhf_proc_open(&s->machine, options->proc_folder, s->sys_folder, err);
    if (status != SMHF_OK) {
        goto done;
    }
    if (smhf_nvml_open(options->nvml_path, &s->nvml, &why) != SMHF_OK) {
        memcpy(s->stats.no_gpu_reason, why.message, sizeof s->stats.no_gpu_reason);
    }
    s->stats.gpus = (int)smhf_nvml_count(s->nvml);
    status = smhf_proc_sample(&s->machine, smhf_trace_clock_ns(CLOCK_MONOTONIC), err);
    if (status != SMHF_OK) {
        goto done;
    }
    status =
        open_minute(s, smhf_trace_clock_ns(CLOCK_REALTIME), err); /* a bad folder is told now */
    if (status != SMHF_OK) {
        goto done;
    }
    status = start_thread(s, err);
    *out = (status == SMHF_OK) ? s : NULL;

done:
    if (status != SMHF_OK) {
        smhf_nvml_close(s->nvml);
        discard(s);
    }
    return status;
}

void smhf_sampler_stats_get(smhf_sampler *s, smhf_sampler_stats *out) {
    if (getpid() != s->owner) {
        *out =
            s->stats; /* a forked child: nobody else is there, and the lock may be held for ever */
        return;
    }
    pthread_mutex_lock(&s->lock);
    *out = s->stats;
    pthread_mutex_unlock(&s->lock);
}

static smhf_status write_end_file(const smhf_sampler *s, smhf_error *err) {
    char path[4096];
    if (snprintf(path, sizeof path, "%s/system/training_job_end.ts", s->folder) >=
        (int)sizeof path) {
        return smhf_fail(err, SMHF_E_ARG, "%s: path too long", s->folder);
    }
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) {
        return smhf_fail(err, SMHF_E_IO, "%s: cannot create: %s", path, strerror(errno));
    }
    close(fd);
    return SMHF_OK;
}

smhf_status smhf_sampler_stop(smhf_sampler *s, smhf_error *err) {
    if (getpid() != s->owner) {
        return SMHF_OK; /* the thread stayed with the parent */
    }
    pthread_mutex_lock(&s->lock);
    int before = s->stopped;
    s->stopped = 1;
    s->stopping = 1;
    pthread_cond_broadcast(&s->wake);
    pthread_mutex_unlock(&s->lock);
    if (before) {
        return SMHF_OK;
    }
    pthread_join(s->thread, NULL);
    close_file(s);
    smhf_nvml_close(s->nvml);
    s->nvml = NULL;
    return write_end_file(s, err);
}

void smhf_sampler_free(smhf_sampler *s) {
    if (s == NULL) {
        return;
    }
    if (getpid() == s->owner) {
        (void)!smhf_sampler_stop(s, NULL);
        pthread_mutex_destroy(&s->lock);
        pthread_cond_destroy(&s->wake);
    }
    discard(s);
}
