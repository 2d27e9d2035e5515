/* test_sampler.c: the writing side of the trace room: /proc rates worked out by hand from fake
 * files, the sampling thread, the framework event writer; what they write, our reader reads back.
 */
#include "trace_support.h"

#include "trace/sampler_internal.h"
#include "trace/trace.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* --- Sampler
 * -----------------------------------------------------------------------------------------------
 */

static void fake_proc(const char *stat, const char *disks, const char *net) {
    put(scratch("proc/stat"), stat);
    put(scratch("proc/meminfo"), "MemTotal:       1000 kB\nMemFree:         100 kB\n"
                                 "MemAvailable:    250 kB\n");
    put(scratch("proc/diskstats"), disks);
    put(scratch("proc/net/dev"), net);
}

#define NET_HEAD "Inter-|   Receive    |  Transmit\n face |bytes    packets|bytes\n"

static void test_machine_rates(void) {
    proc_machine machine;
    smhf_error err = SMHF_ERROR_INIT;
    put(scratch("sys/class/net/eth0/device"), "");
    fake_proc("cpu  0 0 0 0\ncpu0 100 0 100 800 0 0 0 0 50 0\ncpu2 0 0 0 0 0 0 0 0\nintr 5\n",
              " 254 0 vda 10 0 100 0 20 0 200 0 0 0 0\n 254 1 vda1 10 0 100 0 20 0 200 0\n"
              " 7 0 loop0 99 0 99 0 99 0 99 0\n 259 0 nvme0n1 1 0 8 0 1 0 8 0\n"
              " 259 1 nvme0n1p1 1 0 8 0 1 0 8 0\n",
              NET_HEAD "    lo: 5 0 0 0 0 0 0 0 5 0\n  eth0: 1000 0 0 0 0 0 0 0 500 0\n"
                       "veth1:10 0 0 0 0 0 0 0 20 0\n");
    CHECK_OK(smhf_proc_open(&machine, scratch("proc"), scratch("sys"), &err), &err);
    CHECK_OK(smhf_proc_sample(&machine, INT64_C(1000000000), &err), &err);
    CHECK_INT(machine.core_count, 3);
    CHECK(!machine.cores[0].fresh && !machine.rates_known);
    smhf_proc_close(&machine);

    /* the same files, changed between two samples: open descriptors must see it */
    CHECK_OK(smhf_proc_open(&machine, scratch("proc"), scratch("sys"), &err), &err);
    CHECK_OK(smhf_proc_sample(&machine, INT64_C(1000000000), &err), &err);
    static const struct {
        const char *name, *text;
    } later[] = {
        {"proc/stat", "cpu  0 0 0 0\ncpu0 130 0 110 840 20 0 0 0 70 0\n"
                      "cpu2 0 0 0 10 0 0 0 0\ncpu3 1 1 1 1 1 1 1 1\nintr 5\n"},
        {"proc/diskstats",
         " 254 0 vda 15 0 140 0 25 0 260 0 0 0 0\n 259 0 nvme0n1 1 0 8 0 1 0 8 0\n"},
        {"proc/net/dev",
         NET_HEAD "    lo: 99 0 0 0 0 0 0 0 99 0\n  eth0: 3000 0 0 0 0 0 0 0 700 0\n"
                  "veth1:110 0 0 0 0 0 0 0 220 0\n new0: 9999 0 0 0 0 0 0 0 9 0\n"},
    };
    for (size_t i = 0; i < 3; i++) { /* in place: the descriptor stays on the same file */
        FILE *file = fopen(scratch(later[i].name), "w");
        fputs(later[i].text, file);
        fclose(file);
    }
    CHECK_OK(smhf_proc_sample(&machine, INT64_C(3000000000), &err), &err);
    CHECK(machine.cores[0].fresh && machine.cores[2].fresh && !machine.cores[3].fresh);
    CHECK_CLOSE(machine.cores[0].busy_percent, 40.0, 1e-12); /* 30 user + 10 system of 100 */
    CHECK_CLOSE(machine.cores[0].wait_percent, 20.0, 1e-12);
    CHECK_CLOSE(machine.cores[2].busy_percent, 0.0, 0.0);
    CHECK_CLOSE(machine.memory_percent, 75.0, 1e-12);
    CHECK_CLOSE(machine.iops, 5.0, 1e-12); /* 10 operations in 2 s */
    CHECK_CLOSE(machine.read_bytes, 40 * 512 / 2.0, 1e-9);
    CHECK_CLOSE(machine.written_bytes, 60 * 512 / 2.0, 1e-9);
    CHECK_CLOSE(machine.received[0], 1050.0, 1e-9); /* eth0 2000 + veth1 100; new0 is new */
    CHECK_CLOSE(machine.received[1], 1000.0, 1e-9);
    CHECK_CLOSE(machine.sent[0], 200.0, 1e-9);
    CHECK_CLOSE(machine.sent[1], 100.0, 1e-9);
    CHECK_OK(smhf_proc_sample(&machine, INT64_C(4000000000), &err), &err);
    CHECK(machine.cores[3].fresh); /* came up between the samples before */
    smhf_proc_close(&machine);
    CHECK_INT(smhf_proc_open(&machine, scratch("absent"), "/sys", &err), SMHF_E_IO);
}

static void test_sampler_options(void) {
    static const int64_t intervals[] = {0, 99, 60001, -5};
    smhf_sampler_options options = SMHF_SAMPLER_DEFAULTS;
    smhf_sampler *sampler = NULL;
    smhf_error err = SMHF_ERROR_INIT;
    CHECK_INT(smhf_sampler_start(&options, &sampler, &err), SMHF_E_ARG);
    options.folder = scratch("sampler");
    for (size_t i = 0; i < 4; i++) {
        options.interval_ms = intervals[i];
        CHECK_INT(smhf_sampler_start(&options, &sampler, &err), SMHF_E_ARG);
    }
    options.interval_ms = 500;
    options.node = "a/b";
    CHECK_INT(smhf_sampler_start(&options, &sampler, &err), SMHF_E_ARG);
    options.node = "algo-1";
    put(scratch("plain"), "x");
    options.folder = scratch("plain/below");
    CHECK_INT(smhf_sampler_start(&options, &sampler, &err), SMHF_E_IO);
    CHECK(sampler == NULL);
}

static void test_sampler_runs_and_stops(void) {
    smhf_sampler_options options = SMHF_SAMPLER_DEFAULTS;
    smhf_sampler *sampler = NULL;
    smhf_sampler_stats stats;
    smhf_error err = SMHF_ERROR_INIT;
    char folder[512];
    snprintf(folder, sizeof folder, "%s", scratch("live"));
    options.folder = folder;
    options.interval_ms = 100;
    options.nvml_path = "";
    CHECK_OK(smhf_sampler_start(&options, &sampler, &err), &err);
    struct timespec wait = {0, 50000000};
    do { /* three ticks, however long a loaded machine takes */
        nanosleep(&wait, NULL);
        smhf_sampler_stats_get(sampler, &stats);
    } while (stats.ticks < 3);
    pid_t child = fork();
    if (child == 0) { /* the child has no thread; it may look, stop and free without harm */
        smhf_sampler_stats_get(sampler, &stats);
        int bad = smhf_sampler_stop(sampler, NULL) != SMHF_OK;
        smhf_sampler_free(sampler);
        _exit(bad);
    }
    int code = -1;
    CHECK_INT(waitpid(child, &code, 0), child);
    CHECK_INT(code, 0);
    CHECK_OK(smhf_sampler_stop(sampler, &err), &err);
    CHECK_OK(smhf_sampler_stop(sampler, &err), &err); /* once more does nothing */
    smhf_sampler_stats_get(sampler, &stats);
    smhf_sampler_free(sampler);
    CHECK(stats.ticks >= 3);
    CHECK(stats.no_gpu_reason[0] != '\0' && stats.gpus == 0);
    CHECK_INT(stats.write_errors, 0);
    smhf_trace *trace = NULL;
    const char *path = folder;
    CHECK_OK(smhf_trace_open(&path, 1, NULL, &trace, &err), &err);
    CHECK_INT(smhf_trace_rows_get(trace)->count, stats.rows);
    CHECK_INT(smhf_trace_fault_total(trace), 0);
    smhf_trace_free(trace);
    CHECK_INT(access(scratch("live/system/training_job_end.ts"), F_OK), 0);
}

/* A file that cannot be written to is counted, tick by tick; the job goes on. */
static void test_sampler_survives_write_errors(void) {
    smhf_sampler_options options = SMHF_SAMPLER_DEFAULTS;
    smhf_sampler *sampler = NULL;
    smhf_sampler_stats stats;
    smhf_error err = SMHF_ERROR_INIT;
    char folder[512], hour[11], path[700];
    snprintf(folder, sizeof folder, "%s", scratch("full"));
    int64_t now = smhf_trace_clock_ns(CLOCK_REALTIME);
    for (int minute = 0; minute < 2; minute++) { /* the minute may change under the test */
        int64_t at = now + minute * INT64_C(60000000000);
        smhf_trace_hour(at, hour);
        snprintf(path, sizeof path, "%s/system/incremental/%s", folder, hour);
        CHECK_OK(smhf_trace_make_folders(path, &err), &err);
        snprintf(path, sizeof path, "%s/system/incremental/%s/%010lld.algo-1.json", folder, hour,
                 (long long)(at / INT64_C(60000000000) * 60));
        CHECK_INT(symlink("/dev/full", path), 0);
    }
    options.folder = folder;
    options.interval_ms = 100;
    options.nvml_path = "";
    CHECK_OK(smhf_sampler_start(&options, &sampler, &err), &err);
    struct timespec wait = {0, 250000000};
    nanosleep(&wait, NULL);
    CHECK_OK(smhf_sampler_stop(sampler, &err), &err);
    smhf_sampler_stats_get(sampler, &stats);
    smhf_sampler_free(sampler);
    CHECK(stats.write_errors >= 1 && stats.ticks == 0);
    CHECK(strstr(stats.last_error, "cannot write") != NULL);
}

/* --- Event writer
 * ------------------------------------------------------------------------------------------ */

static smhf_event_writer *new_writer(const char *folder, uint64_t max_bytes) {
    smhf_event_writer_options options = SMHF_EVENT_WRITER_DEFAULTS;
    smhf_error err = SMHF_ERROR_INIT;
    smhf_event_writer *writer = NULL;
    options.folder = folder;
    options.max_bytes = max_bytes;
    CHECK_OK(smhf_event_writer_open(&options, &writer, &err), &err);
    return writer;
}

static const int64_t EPOCH = INT64_C(1700000000000000000);

static void test_event_writer_round_trip(void) {
    smhf_error err = SMHF_ERROR_INIT;
    char folder[512];
    snprintf(folder, sizeof folder, "%s", scratch("events"));
    smhf_event_writer *writer = new_writer(folder, 1024);
    for (int i = 0; i < 20; i++) {
        int64_t start = EPOCH + i * INT64_C(1000000007);
        CHECK_OK(smhf_event_writer_span(writer, "step \"q\" \xC3\xA9", i % 2 ? "odd" : NULL, start,
                                        start + 123456789, "{\"step_num\": \"4\"}", &err),
                 &err);
    }
    CHECK_INT(smhf_event_writer_span(writer, "x", NULL, 5, 4, NULL, &err), SMHF_E_ARG);
    CHECK_INT(smhf_event_writer_span(writer, "x", NULL, 5, 6, "[1]", &err), SMHF_E_ARG);
    CHECK_INT(smhf_event_writer_span(writer, "x", NULL, 5, 6, "{} {}", &err), SMHF_E_ARG);
    CHECK_INT(smhf_event_writer_span(writer, "\xFF", NULL, 5, 6, NULL, &err), SMHF_E_ARG);
    CHECK_OK(smhf_event_writer_close(writer, &err), &err);
    CHECK_INT(smhf_event_writer_span(writer, "x", NULL, 5, 6, NULL, &err), SMHF_E_ARG);
    smhf_event_writer_free(writer);

    smhf_trace_options options = SMHF_TRACE_DEFAULTS;
    smhf_trace *trace = NULL;
    const char *path = folder;
    options.strict = 1; /* finished files are plain JSON */
    CHECK_OK(smhf_trace_open(&path, 1, &options, &trace, &err), &err);
    CHECK(smhf_trace_file_count(trace) > 1); /* rotated by size */
    const smhf_trace_events *e = smhf_trace_events_get(trace);
    int spans = 0;
    for (size_t i = 0; i < e->count; i++) {
        if (e->ph[i] == 'X') {
            CHECK_INT(e->ts[i], EPOCH + spans * INT64_C(1000000007)); /* to the nanosecond */
            CHECK_INT(e->dur[i], 123456789);
            spans++;
        }
    }
    CHECK_INT(spans, 20);
    smhf_trace_free(trace);
}

static void test_event_writer_after_fork(void) {
    smhf_error err = SMHF_ERROR_INIT;
    char folder[512];
    snprintf(folder, sizeof folder, "%s", scratch("forked"));
    smhf_event_writer *writer = new_writer(folder, 1 << 20);
    CHECK_OK(smhf_event_writer_span(writer, "parent", NULL, EPOCH, EPOCH + 1, NULL, &err), &err);
    pid_t child = fork();
    if (child == 0) {
        int bad = smhf_event_writer_span(writer, "child", NULL, EPOCH, EPOCH + 2, NULL, NULL) != 0;
        bad |= smhf_event_writer_close(writer, NULL) != SMHF_OK;
        _exit(bad);
    }
    int code = -1;
    CHECK_INT(waitpid(child, &code, 0), child);
    CHECK_INT(code, 0);
    smhf_event_writer_free(writer);
    smhf_trace *trace = NULL;
    const char *path = folder;
    CHECK_OK(smhf_trace_open(&path, 1, NULL, &trace, &err), &err);
    CHECK_INT(smhf_trace_file_count(trace), 2);
    CHECK_INT(smhf_trace_events_get(trace)->count, 2 * 5);
    smhf_trace_free(trace);
}

static void *write_spans(void *argument) {
    smhf_event_writer *writer = argument;
    int bad = 0;
    for (int i = 0; i < 500; i++) {
        bad |= smhf_event_writer_span(writer, "t", NULL, EPOCH + i, EPOCH + i + 1, NULL, NULL) != 0;
    }
    return bad ? argument : NULL;
}

static void test_event_writer_threads(void) {
    smhf_error err = SMHF_ERROR_INIT;
    char folder[512];
    pthread_t threads[4];
    snprintf(folder, sizeof folder, "%s", scratch("threads"));
    smhf_event_writer *writer = new_writer(folder, 1 << 14);
    for (int i = 0; i < 4; i++) {
        CHECK_INT(pthread_create(&threads[i], NULL, write_spans, writer), 0);
    }
    for (int i = 0; i < 4; i++) {
        void *bad = NULL;
        pthread_join(threads[i], &bad);
        CHECK(bad == NULL);
    }
    smhf_event_writer_free(writer);
    smhf_trace *trace = NULL;
    const char *path = folder;
    smhf_trace_filter filter = SMHF_TRACE_FILTER_ALL;
    uint64_t *list;
    size_t count;
    filter.ph = 'X';
    CHECK_OK(smhf_trace_open(&path, 1, NULL, &trace, &err), &err);
    CHECK_OK(smhf_trace_select_events(trace, &filter, &list, &count, &err), &err);
    CHECK_INT(count, 2000);
    smhf_free(list);
    smhf_trace_free(trace);
}

static smhf_status writer_scenario(const char *path, smhf_error *err) {
    smhf_event_writer_options options = SMHF_EVENT_WRITER_DEFAULTS;
    smhf_event_writer *writer = NULL;
    options.folder = path;
    smhf_status status = smhf_event_writer_open(&options, &writer, err);
    for (int i = 0; status == SMHF_OK && i < 3; i++) {
        status = smhf_event_writer_span(writer, "n", "p", EPOCH, EPOCH + i, "{\"a\": 1}", err);
    }
    if (status == SMHF_OK) {
        status = smhf_event_writer_close(writer, err);
    }
    smhf_event_writer_free(writer);
    return status;
}

static smhf_status sampler_scenario(const char *path, smhf_error *err) {
    smhf_sampler_options options = SMHF_SAMPLER_DEFAULTS;
    smhf_sampler *sampler = NULL;
    options.folder = path;
    options.nvml_path = "";
    smhf_status status = smhf_sampler_start(&options, &sampler, err);
    if (status == SMHF_OK) {
        status = smhf_sampler_stop(sampler, err);
    }
    smhf_sampler_free(sampler);
    return status;
}

static void test_writers_out_of_memory(void) {
    char folder[512];
    snprintf(folder, sizeof folder, "%s", scratch("oom_writer"));
    torture(writer_scenario, folder);
    snprintf(folder, sizeof folder, "%s", scratch("oom_sampler"));
    torture(sampler_scenario, folder);
}

/* An open writer allocates nothing more once its buffers have their size. */
static void test_steady_state_allocates_nothing(void) {
    char folder[512];
    snprintf(folder, sizeof folder, "%s", scratch("steady"));
    smhf_event_writer *writer = new_writer(folder, 1 << 24);
    for (int i = 0; i < 1000; i++) {
        CHECK_INT(smhf_event_writer_span(writer, "n", NULL, EPOCH, EPOCH + 1, NULL, NULL), SMHF_OK);
    }
    uint64_t before = smhf_mem_count();
    for (int i = 0; i < 1000; i++) {
        CHECK_INT(smhf_event_writer_span(writer, "n", NULL, EPOCH, EPOCH + 1, NULL, NULL), SMHF_OK);
    }
    CHECK_INT(smhf_mem_count(), before);
    smhf_event_writer_free(writer);
}

int main(void) {
    if (scratch_open() != 0) {
        return 1;
    }
    RUN(test_machine_rates);
    RUN(test_sampler_options);
    RUN(test_sampler_runs_and_stops);
    RUN(test_sampler_survives_write_errors);
    RUN(test_event_writer_round_trip);
    RUN(test_event_writer_after_fork);
    RUN(test_event_writer_threads);
    RUN(test_writers_out_of_memory);
    RUN(test_steady_state_allocates_nothing);
    if (scratch_close() != 0) {
        return 1;
    }
    return smhf_test_finish();
}
