/* test_trace.c: the trace room. Formats and malformations are those of spec/trace.md section 1;
 * expected numbers are worked out by hand from the texts, or by counting braces. */
#include "trace_support.h"

#include "trace/trace.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static smhf_status open_status(const char *text, int strict, size_t read_size, smhf_trace **out,
                               smhf_error *err) {
    smhf_trace_options options = SMHF_TRACE_DEFAULTS;
    options.strict = strict;
    options.read_size = read_size;
    return smhf_trace_open_memory(smhf_bytes_from_string(text), "text", &options, out, err);
}

static smhf_trace *open_text(const char *text) {
    smhf_trace *trace = NULL;
    smhf_error err = SMHF_ERROR_INIT;
    CHECK_OK(open_status(text, 0, 64, &trace, &err), &err);
    return trace;
}

static const char *name_of(const smhf_trace *trace, uint32_t code) {
    static char text[256];
    smhf_bytes_view view = smhf_trace_name(trace, code);
    snprintf(text, sizeof text, "%.*s", (int)view.size, (const char *)view.data);
    return text;
}

/* --- Numbers
 * ----------------------------------------------------------------------------------------- */

static void test_times_are_exact(void) {
    static const struct {
        const char *text;
        int digits, status;
        int64_t value;
    } cases[] = {
        {"1591748109.2321954", 9, 0, INT64_C(1591748109232195400)},
        {"1672531200000000.123", 3, 0, INT64_C(1672531200000000123)},
        {"0", 9, 0, 0},
        {"-0.5", 3, 0, -500},
        {"1.5e3", 3, 0, 1500000},
        {"15E-1", 0, 0, 2}, /* half to even: 1.5 */
        {"25e-1", 0, 0, 2}, /* 2.5 */
        {"2.5000001", 0, 0, 3},
        {"0.0004", 3, 0, 0},
        {"0.0005", 3, 0, 0}, /* half to even: 0.5 */
        {"0.0015", 3, 0, 2}, /* 1.5 */
        {"0.49999999999999999999999", 0, 0, 0},
        {"9223372036854775807", 0, 0, INT64_MAX},
        {"9223372036854775808", 0, -2, 0},
        {"18446744073709551616", 0, -2, 0},
        {"1e400", 3, -2, 0},
        {"1e-400", 3, 0, 0},
        {"9223372036854775.8074", 3, 0, INT64_MAX},
        {"9223372036854775.8075", 3, -2, 0},
        {"00012", 0, 0, 12},
        {"", 0, -1, 0},
        {"-", 0, -1, 0},
        {"1.2.3", 0, -1, 0},
        {"12a", 0, -1, 0},
        {"1e", 0, -1, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int64_t value = 77;
        int status =
            smhf_trace_parse_time(smhf_bytes_from_string(cases[i].text), cases[i].digits, &value);
        if (status != cases[i].status || (status == 0 && value != cases[i].value)) {
            printf("  %s: status %d value %lld\n", cases[i].text, status, (long long)value);
        }
        CHECK_INT(status, cases[i].status);
        CHECK(status != 0 || value == cases[i].value);
    }
}

static void test_doubles_are_nearest(void) {
    static const char *const texts[] = {"4.76",
                                        "0.83",
                                        "100",
                                        "1e-7",
                                        "-2.5",
                                        "0.1",
                                        "9007199254740993",
                                        "1234567890.123456789",
                                        "17976931348623157e292",
                                        "2.2250738585072014E-308"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        double value = 0.0;
        CHECK_INT(smhf_trace_parse_double(smhf_bytes_from_string(texts[i]), &value), 0);
        CHECK(value == strtod(texts[i], NULL));
    }
    double value;
    CHECK(smhf_trace_parse_double(smhf_bytes_from_string("1.x"), &value) != 0);
    CHECK(smhf_trace_parse_double(smhf_bytes_from_string(""), &value) != 0);
}

/* --- Formats
 * ------------------------------------------------------------------------------------------- */

static void test_event_fields(void) {
    smhf_trace *trace = open_text(
        "{\"schemaVersion\": 1, \"deviceProperties\": [{\"id\": 0}],\n"
        "\"traceEvents\": [\n"
        "{\"ph\":\"X\",\"cat\":\"cpu_op\",\"name\":\"aten::add\",\"pid\":12,\"tid\":\"python\","
        "\"ts\":3605057.412,\"dur\":1.5,\"args\":{\"External id\":7,\"step_num\":\"3\"}},\n"
        "{\"ph\":\"f\",\"id\":\"0x1F\",\"pid\":99999999999,\"tid\":-3,\"ts\":\"4\",\"bp\":\"e\"},\n"
        "{\"ph\":\"e\",\"id2\":{\"local\":\"0x7\"},\"name\":\"caf\\u00e9 \\ud83d\\ude00\"},\n"
        "{}],\n"
        "\"traceName\": \"a]b.json\", \"baseTimeNanoseconds\": 1727743122000000000}\n");
    const smhf_trace_events *e = smhf_trace_events_get(trace);
    CHECK_INT(e->count, 3);
    CHECK_INT(smhf_trace_fault_total(trace), 0);
    CHECK_STR(smhf_trace_kind(trace), "events");
    CHECK_INT(e->ph[0], 'X');
    CHECK_INT(e->ts[0], INT64_C(1727743122000000000) + INT64_C(3605057412));
    CHECK_INT(e->dur[0], 1500);
    CHECK_INT(e->pid[0], 12);
    CHECK((e->flags[0] & SMHF_TRACE_TID_CODE) != 0 && (e->flags[0] & SMHF_TRACE_TID_TEXT) != 0);
    CHECK_STR(name_of(trace, (uint32_t)e->tid[0]), "python");
    CHECK_STR(name_of(trace, e->name[0]), "aten::add");
    CHECK_STR(name_of(trace, e->cat[0]), "cpu_op");
    int64_t steps[3];
    smhf_trace_args_int64(trace, "step_num", -1, steps);
    CHECK_INT(steps[0], 3);
    CHECK_INT(steps[1], -1);
    CHECK_INT(e->id[1], 31);
    CHECK((e->flags[1] & SMHF_TRACE_PID_CODE) != 0 && (e->flags[1] & SMHF_TRACE_PID_TEXT) == 0);
    CHECK_STR(name_of(trace, (uint32_t)e->pid[1]), "99999999999");
    CHECK_INT(e->tid[1], -3);
    CHECK((e->flags[1] & SMHF_TRACE_BIND_ENCLOSING) != 0);
    CHECK_INT(e->ts[1], INT64_C(1727743122000004000));
    CHECK_INT(e->dur[1], -1);
    CHECK_INT(e->ts[2], SMHF_TRACE_NO_TIME);
    CHECK_INT(e->id[2], 7);
    CHECK_STR(name_of(trace, e->name[2]), "caf\xC3\xA9 \xF0\x9F\x98\x80");
    smhf_trace_free(trace);
}

static void test_smdebug_base(void) {
    smhf_trace *trace = open_text(
        "[\n{\"name\": \"process_name\", \"ph\": \"M\", \"pid\": 0, \"args\": "
        "{\"start_time_since_epoch_in_micros\": 1592860687560103}},\n"
        "{\"name\": \"4\", \"pid\": 1, \"ph\": \"X\", \"ts\": 8440610, \"dur\": 812355471858}\n]");
    const smhf_trace_events *e = smhf_trace_events_get(trace);
    CHECK_INT(e->ts[1], INT64_C(1592860696000713000));
    CHECK_INT(e->dur[1], INT64_C(812355471858000));
    CHECK_INT(smhf_trace_file_get(trace, 0)->base_ns, INT64_C(1592860687560103000));
    smhf_trace_free(trace);
}

/* A base that is stated although the times are absolute is not added. */
static void test_absolute_times_keep(void) {
    smhf_trace *trace = open_text("{\"baseTimeNanoseconds\": 1700000000000000000, \"traceEvents\": "
                                  "[{\"ph\":\"X\",\"ts\":1700000000000001.5,\"dur\":1}]}");
    CHECK_INT(smhf_trace_events_get(trace)->ts[0], INT64_C(1700000000000001500));
    smhf_trace_free(trace);
}

#define ROW_A                                                                                      \
    "{\"Type\":\"cpu\",\"Name\":\"cpu0\",\"Dimension\":\"CPUUtilization\",\"Value\":4.5,"          \
    "\"NodeId\":\"algo-1\",\"Timestamp\":1591748109.2321954}"
#define ROW_B                                                                                      \
    "{\"Type\": \"cpu\", \"Name\":\"cpu1\", \"Dimension\": \"CPUUtilization\", \"Value\":5.50,"    \
    "\"NodeId\":\"algo-1\",\"Timestamp\":1591748109.2321954}"

static void check_two_rows(const char *text) {
    smhf_trace *trace = open_text(text);
    const smhf_trace_rows *rows = smhf_trace_rows_get(trace);
    CHECK_INT(rows->count, 2);
    CHECK_STR(smhf_trace_kind(trace), "system");
    CHECK(rows->count == 2 && rows->value[0] == 4.5 && rows->value[1] == 5.5);
    CHECK(rows->count == 2 && rows->ts[1] == INT64_C(1591748109232195400));
    CHECK(rows->count == 2 && rows->type[0] == rows->type[1] && rows->name[0] != rows->name[1]);
    CHECK_INT(smhf_trace_fault_total(trace), 0);
    smhf_trace_free(trace);
}

static void test_system_rows(void) {
    check_two_rows(ROW_A "\n" ROW_B "\n");
    check_two_rows(ROW_A "\n" ROW_B);
    check_two_rows("[" ROW_A ",\n" ROW_B "]\n");
    check_two_rows("\xEF\xBB\xBF  " ROW_A "\r\n\r\n" ROW_B "\r\n");
}

static void test_scalars(void) {
    smhf_trace *trace =
        open_text("{\"MetricName\": \"loss\", \"Value\": 2.25, \"Timestamp\": 1596184359.0990152, "
                  "\"IterationNumber\": 500}\n"
                  "{\"MetricName\": \"loss\", \"Value\": NaN, \"Timestamp\": 1596184360, "
                  "\"IterationNumber\": 501}\n");
    const smhf_trace_rows *rows = smhf_trace_rows_get(trace);
    CHECK_INT(rows->count, 2);
    CHECK_STR(smhf_trace_kind(trace), "scalars");
    CHECK_INT(rows->iteration[0], 500);
    CHECK(isnan(rows->value[1]));
    CHECK_INT(smhf_trace_fault_total(trace), 1); /* NaN is not JSON; the row is kept */
    CHECK_INT(smhf_trace_fault_get(trace, 0)->lost, 0);
    smhf_trace_free(trace);
}

static void test_empty_texts(void) {
    static const char *const texts[] = {"", "  \n", "[]", "[\n", "{\"traceEvents\": []}", "[{}]"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        smhf_trace *trace = open_text(texts[i]);
        CHECK_STR(smhf_trace_kind(trace), "empty");
        CHECK_INT(smhf_trace_events_get(trace)->count, 0);
        smhf_trace_free(trace);
    }
}

static void test_refused_by_name(void) {
    static const char *const texts[] = {
        "[[-1, 1, 37888, 7], [0, 1, 512, 7]]",
        "[1, 2, 3]",
        "hello",
        "{}",
        "{\"foo\": 1}",
        "{\"traceEvents\": null}",
        "[{\"a\": 1}, {\"b\": 2}]",
        "{hello}",
        "\xFF\xFE[\0",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        for (int strict = 0; strict < 2; strict++) {
            smhf_error err = SMHF_ERROR_INIT;
            smhf_trace *trace = NULL;
            CHECK_INT(open_status(texts[i], strict, 64, &trace, &err), SMHF_E_PARSE);
            CHECK(trace == NULL);
            CHECK(strncmp(err.message, "text: ", 6) == 0);
            CHECK(err.offset >= 0);
        }
    }
}

/* --- Damage
 * --------------------------------------------------------------------------------------------- */

#define GOOD "{\"ph\":\"X\",\"name\":\"good\",\"ts\":9,\"dur\":1}"

enum { L = sizeof GOOD - 1 };

typedef struct damage {
    const char *text;
    size_t events; /* kept, the good ones included */
    size_t faults;
    int lost;       /* of the first fault */
    int64_t offset; /* of the first fault */
} damage;

static const damage DAMAGES[] = {
    /* crash-truncated files */
    {"[" GOOD "," GOOD, 2, 1, 0, 2 * L + 2},
    {"[" GOOD ",\n", 1, 1, 0, L + 3},
    {"[\n" GOOD ",\n{\"ph\":\"X\",\"na", 1, 1, 1, L + 4},
    /* trailing and leading commas */
    {"{\"traceEvents\":[" GOOD "," GOOD ",]}", 2, 1, 0, 2 * L + 18},
    {"[," GOOD "]", 1, 1, 0, 1},
    {"[" GOOD ",," GOOD "]", 2, 1, 0, L + 2},
    {"[" GOOD "\n" GOOD "]", 2, 1, 0, L + 2},
    /* Windows paths */
    {"[{\"ph\":\"X\",\"name\":\"C:\\Users\\x\"}," GOOD "]", 2, 1, 0, 1},
    {"[{\"ph\":\"X\",\"name\":\"C:\\dir\\\",\"ts\":1}," GOOD "]", 1, 1, 1, 1},
    /* raw control bytes, not UTF-8 */
    {"[{\"ph\":\"X\",\"name\":\"a\x01\x62\"}," GOOD "]", 2, 1, 0, 1},
    {"[{\"ph\":\"X\",\"name\":\"a\xFF\xC3(\"}," GOOD "]", 2, 1, 0, 1},
    /* unescaped quotes, a missing quote before a key */
    {"[{\"ph\":\"X\",\"name\":\"foo \"bar\" baz\",\"ts\":1}," GOOD "]", 1, 1, 1, 1},
    {"[{ph\":\"X\",\"name\":\"x\"}," GOOD "]", 1, 1, 1, 1},
    {"[{\"ph\":\"X\",name\":\"x\",\"args\":{\"ph\":\"X\"}}," GOOD "]", 1, 1, 1, 1},
    /* bare tokens */
    {"[{\"ph\":\"X\",\"args\":{\"a\":N/A,\"b\":nan,\"c\":-Infinity}}," GOOD "]", 2, 1, 0, 1},
    {"[{\"ph\":\"X\",\"ts\":NaN}," GOOD "]", 2, 1, 0, 1},
    {"[{\"ph\":\"X\",\"ts\":whatever}," GOOD "]", 1, 1, 1, 1},
    /* durations past int64 */
    {"[{\"ph\":\"X\",\"ts\":1,\"dur\":18446744073709551615}," GOOD "]", 2, 1, 0, 1},
    /* brackets: one missing inside args, one missing at the end of an event */
    {"[{\"ph\":\"X\",\"args\":{\"d\":[1,2}}," GOOD "]", 1, 1, 1, 1},
    {"[{\"ph\":\"X\",\"ts\":1," GOOD "]", 1, 1, 1, 1},
    {"{\"traceEvents\":[" GOOD "}", 1, 1, 0, L + 16},
    /* a writer that died and was started again on the same file */
    {"[" GOOD ",\n{\"ph\":\"X\",\"na[\n" GOOD ",\n" GOOD "\n]", 3, 1, 1, L + 3},
    /* strangers among events */
    {"[" GOOD ",null,7,\"x\"," GOOD "]", 2, 3, 1, L + 2},
    {"[" GOOD ",{\"a\":1}," GOOD "]", 2, 1, 1, L + 2},
    {"[" GOOD ",{\"ph\":\"XY\"}," GOOD "]", 2, 1, 1, L + 2},
    {"[" GOOD "] trailing " GOOD, 2, 1, 1, L + 3},
};

static void test_damage_costs_itself_alone(void) {
    for (size_t i = 0; i < sizeof DAMAGES / sizeof DAMAGES[0]; i++) {
        const damage *d = &DAMAGES[i];
        smhf_error err = SMHF_ERROR_INIT;
        for (size_t read_size = 1; read_size <= 4096; read_size *= 16) {
            smhf_trace *trace = NULL;
            CHECK_OK(open_status(d->text, 0, read_size, &trace, &err), &err);
            const smhf_trace_fault *fault =
                (smhf_trace_fault_count(trace) > 0) ? smhf_trace_fault_get(trace, 0) : NULL;
            if (smhf_trace_events_get(trace)->count != d->events ||
                smhf_trace_fault_total(trace) != d->faults || fault == NULL ||
                fault->lost != d->lost || (int64_t)fault->offset != d->offset) {
                printf("  %s\n  %zu events, %llu faults, %d lost, offset %lld: %s\n", d->text,
                       smhf_trace_events_get(trace)->count,
                       (unsigned long long)smhf_trace_fault_total(trace),
                       fault != NULL ? fault->lost : -1,
                       fault != NULL ? (long long)fault->offset : -1,
                       fault != NULL ? fault->reason : "");
                CHECK(0);
            }
            smhf_trace_free(trace);
        }
        smhf_trace *trace = NULL;
        CHECK_INT(open_status(d->text, 1, 64, &trace, &err), SMHF_E_PARSE);
        CHECK(trace == NULL && err.offset >= 0);
    }
}

static void test_fault_line_and_length(void) {
    smhf_trace *trace = open_text("[\n" GOOD ",\n{\"ph\" 1},\n" GOOD "\n]");
    CHECK_INT(smhf_trace_events_get(trace)->count, 2);
    const smhf_trace_fault *fault = smhf_trace_fault_get(trace, 0);
    CHECK_INT(fault->line, 3);
    CHECK_INT(fault->length, 10); /* up to the next event */
    CHECK(strstr(fault->reason, "expected ':' after a key at byte 49") != NULL);
    smhf_trace_free(trace);
}

/* The base stands after the events: a bad last event must not take it along. */
static void test_base_survives_a_bad_last_event(void) {
    smhf_trace *trace = open_text("{\"traceEvents\":[" GOOD ",{\"ph\":\"X\" \"ts\":1}],\n"
                                  "\"baseTimeNanoseconds\": 1727743122000000000}");
    CHECK_INT(smhf_trace_events_get(trace)->ts[0], INT64_C(1727743122000009000));
    CHECK_INT(smhf_trace_fault_total(trace), 1);
    smhf_trace_free(trace);
}

static void test_event_limit(void) {
    smhf_trace_options options = SMHF_TRACE_DEFAULTS;
    smhf_error err = SMHF_ERROR_INIT;
    smhf_trace *trace = NULL;
    char text[1024];
    snprintf(text, sizeof text, "[" GOOD ",{\"ph\":\"X\",\"name\":\"%0200d\"}," GOOD "]", 0);
    options.max_event = 100;
    CHECK_OK(smhf_trace_open_memory(smhf_bytes_from_string(text), "t", &options, &trace, &err),
             &err);
    CHECK_INT(smhf_trace_events_get(trace)->count, 2);
    CHECK_INT(smhf_trace_fault_total(trace), 1);
    smhf_trace_free(trace);
}

static void test_faults_are_capped(void) {
    enum { EVENTS = 3000 };
    static const char bad[] = "{\"ph\" 1},";
    char *text = smhf_malloc(EVENTS * (sizeof bad + 12));
    size_t size = 0;
    text[size++] = '[';
    for (int i = 0; i < EVENTS; i++) {
        memcpy(text + size, bad, sizeof bad - 1);
        size += sizeof bad - 1;
        if (i % 3 == 0) {
            memcpy(text + size, "{\"ph\":\"i\"}", 10);
            size += 10;
            text[size++] = ',';
        }
    }
    smhf_trace *trace = NULL;
    CHECK_OK(
        smhf_trace_open_memory((smhf_bytes_view){(uint8_t *)text, size}, "t", NULL, &trace, NULL),
        &(smhf_error)SMHF_ERROR_INIT);
    CHECK_INT(smhf_trace_events_get(trace)->count, EVENTS / 3);
    CHECK_INT(smhf_trace_fault_count(trace), 1000);
    CHECK(smhf_trace_fault_total(trace) > 1000);
    smhf_trace_free(trace);
    smhf_free(text);
}

/* Hostile nesting and brackets: time must grow with the size, not with its square. */
static void test_hostile_texts_stay_linear(void) {
    static const char *const units[] = {"{\"a\":[",
                                        "[{\"a\":",
                                        "{\"",
                                        ",{\"a\":[0,0,0,0,0,0,0,0",
                                        "{\"ph\":\"X\",\"args\":{\"l\":[",
                                        "\"\\"};
    enum { SIZE = 1 << 20 };
    char *text = smhf_malloc(SIZE);
    for (size_t u = 0; u < sizeof units / sizeof units[0]; u++) {
        size_t unit = strlen(units[u]), size = 1;
        text[0] = '[';
        while (size + unit < SIZE) {
            memcpy(text + size, units[u], unit);
            size += unit;
        }
        clock_t start = clock();
        smhf_trace *trace = NULL;
        (void)!smhf_trace_open_memory((smhf_bytes_view){(uint8_t *)text, size}, "t", NULL, &trace,
                                      NULL);
        smhf_trace_free(trace);
        double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
        if (seconds > 5.0) {
            printf("  unit %s: %.1f s\n", units[u], seconds);
        }
        CHECK(seconds < 5.0); /* quadratic would be minutes */
    }
    smhf_free(text);
}

/* --- Queries
 * --------------------------------------------------------------------------------------------- */

static smhf_trace *ticks(void) {
    /* three ticks of two cores; the second lacks cpu1, the third is shuffled and 1 ms apart */
    return open_text(
        "{\"Type\":\"cpu\",\"Name\":\"cpu0\",\"Dimension\":\"CPU\",\"Value\":10,\"NodeId\":\"n\","
        "\"Timestamp\":1.0}\n"
        "{\"Type\":\"cpu\",\"Name\":\"cpu1\",\"Dimension\":\"CPU\",\"Value\":30,\"NodeId\":\"n\","
        "\"Timestamp\":1.0}\n"
        "{\"Type\":\"cpu\",\"Name\":\"cpu0\",\"Dimension\":\"CPU\",\"Value\":50,\"NodeId\":\"n\","
        "\"Timestamp\":1.5}\n"
        "{\"Type\":\"cpu\",\"Name\":\"cpu1\",\"Dimension\":\"CPU\",\"Value\":70,\"NodeId\":\"n\","
        "\"Timestamp\":2.001}\n"
        "{\"Type\":\"cpu\",\"Name\":\"cpu0\",\"Dimension\":\"CPU\",\"Value\":90,\"NodeId\":\"n\","
        "\"Timestamp\":2.000}\n"
        "{\"Type\":\"gpu\",\"Name\":\"gpu0\",\"Dimension\":\"GPU\",\"Value\":1,\"NodeId\":\"n\","
        "\"Timestamp\":2.000}\n");
}

static void test_series_and_total(void) {
    smhf_trace *trace = ticks();
    smhf_trace_filter filter = SMHF_TRACE_FILTER_ALL;
    smhf_error err = SMHF_ERROR_INIT;
    smhf_trace_series series;
    filter.dimension = "CPU";
    CHECK_OK(smhf_trace_series_total(trace, &filter, 0, &series, &err), &err);
    CHECK_INT(series.count, 3);
    CHECK(series.count == 3 && series.value[0] == 20.0 && series.value[1] == 50.0 &&
          series.value[2] == 80.0);
    CHECK_INT(series.ts[2], INT64_C(2000500000));
    smhf_trace_series_deinit(&series);
    filter.name = "cpu0";
    CHECK_OK(smhf_trace_series_get(trace, &filter, &series, &err), &err);
    CHECK_INT(series.count, 3);
    CHECK(series.count == 3 && series.value[2] == 90.0);
    smhf_trace_series_deinit(&series);
    filter.start_ns = INT64_C(1500000000); /* both ends belong to the range */
    filter.end_ns = INT64_C(2000000000);
    CHECK_OK(smhf_trace_series_get(trace, &filter, &series, &err), &err);
    CHECK_INT(series.count, 2);
    smhf_trace_series_deinit(&series);
    filter.name = "cpu9";
    CHECK_OK(smhf_trace_series_total(trace, &filter, 0, &series, &err), &err);
    CHECK_INT(series.count, 0);
    smhf_trace_series_deinit(&series);
    CHECK_INT(smhf_trace_series_total(trace, &filter, -1, &series, &err), SMHF_E_ARG);
    smhf_trace_free(trace);
}

static void test_spans(void) {
    smhf_trace *trace = open_text("[{\"ph\":\"B\",\"name\":\"o\",\"ts\":1,\"pid\":1},"
                                  "{\"ph\":\"B\",\"name\":\"i\",\"ts\":2,\"pid\":1},"
                                  "{\"ph\":\"B\",\"name\":\"z\",\"ts\":2,\"pid\":2},"
                                  "{\"ph\":\"X\",\"name\":\"x\",\"ts\":2,\"dur\":7,\"pid\":1},"
                                  "{\"ph\":\"E\",\"ts\":3,\"pid\":1},"
                                  "{\"ph\":\"E\",\"name\":\"o\",\"ts\":4,\"pid\":1},"
                                  "{\"ph\":\"E\",\"ts\":5,\"pid\":1}]");
    smhf_trace_spans spans;
    smhf_error err = SMHF_ERROR_INIT;
    CHECK_OK(smhf_trace_spans_get(trace, &spans, &err), &err);
    CHECK_INT(spans.count, 3);
    CHECK_INT(spans.end[0], 5); /* o: begun first, ended by name */
    CHECK_INT(spans.dur[0], 3000);
    CHECK_INT(spans.end[1], 4); /* i: the nameless end takes the last begun */
    CHECK_INT(spans.dur[2], 7000);
    CHECK_INT(spans.unmatched_begins, 1);
    CHECK_INT(spans.unmatched_ends, 1);
    smhf_trace_spans_deinit(&spans);
    smhf_trace_free(trace);
}

static void test_decimate_and_percentiles(void) {
    enum { COUNT = 1000 };
    int64_t ts[COUNT];
    double value[COUNT];
    smhf_error err = SMHF_ERROR_INIT;
    smhf_trace_series thin;
    for (int i = 0; i < COUNT; i++) {
        ts[i] = INT64_C(1700000000000000000) + i * INT64_C(500000000);
        value[i] = (i == 500) ? 1e6 : (double)(i % 10);
    }
    value[3] = (double)NAN;
    CHECK_OK(smhf_trace_decimate(ts, value, COUNT, 20, &thin, &err), &err);
    CHECK_INT(thin.count, 40);
    int peak = 0;
    for (size_t i = 0; i < thin.count; i++) {
        peak |= (thin.value[i] == 1e6 && thin.ts[i] == ts[500]);
        CHECK(i == 0 || thin.ts[i - 1] < thin.ts[i]);
    }
    CHECK(peak);
    smhf_trace_series_deinit(&thin);
    CHECK_INT(smhf_trace_decimate(ts, value, COUNT, 0, &thin, &err), SMHF_E_ARG);
    const double few[] = {1.0, 2.0, 3.0, 4.0, (double)NAN}, q[] = {0.0, 25.0, 50.0, 100.0};
    double out[4];
    CHECK_OK(smhf_trace_percentiles(few, 5, q, 4, out, &err), &err);
    CHECK(out[0] == 1.0 && out[1] == 1.75 && out[2] == 2.5 && out[3] == 4.0);
    CHECK_OK(smhf_trace_percentiles(few + 4, 1, q, 1, out, &err), &err);
    CHECK(isnan(out[0]));
    const double wrong[] = {101.0};
    CHECK_INT(smhf_trace_percentiles(few, 4, wrong, 1, out, &err), SMHF_E_ARG);
}

/* --- Folders
 * ---------------------------------------------------------------------------------------------- */

static void test_profiler_folder(void) {
    put(scratch("job/system/incremental/2020061000/1591748100.algo-1.json"), ROW_A "\n");
    put(scratch("job/system/incremental/2020061000/1591748160.algo-1.json"), ROW_B "\n");
    put(scratch("job/system/incremental/2020061000/notes.json"), "hello");
    put(scratch("job/system/training_job_end.ts"), "");
    put(scratch("job/framework/pevents/2020061000/1591748100000000_7-algo-1_pythontimeline.json"),
        "[" GOOD "]");
    put(scratch("job/framework/7-algo-1_pythontimeline.0.json.tmp"), "[\n");
    smhf_error err = SMHF_ERROR_INIT;
    smhf_trace *trace = NULL;
    const char *path = scratch("job");
    CHECK_OK(smhf_trace_open(&path, 1, NULL, &trace, &err), &err);
    CHECK_STR(smhf_trace_kind(trace), "mixed");
    CHECK_INT(smhf_trace_file_count(trace), 3);
    CHECK_INT(smhf_trace_rows_get(trace)->count, 2);
    CHECK_INT(smhf_trace_events_get(trace)->count, 1);
    smhf_trace_free(trace);
    smhf_trace_options options = SMHF_TRACE_DEFAULTS;
    options.parts = SMHF_TRACE_SYSTEM;
    CHECK_OK(smhf_trace_open(&path, 1, &options, &trace, &err), &err);
    CHECK_STR(smhf_trace_kind(trace), "system");
    smhf_trace_free(trace);
    CHECK_INT(smhf_trace_open(&path, 0, NULL, &trace, &err), SMHF_E_ARG);
    path = scratch("absent.json");
    CHECK_INT(smhf_trace_open(&path, 1, NULL, &trace, &err), SMHF_E_IO);
    CHECK(strstr(err.message, "absent.json") != NULL);
    mkdir(scratch("nothing"), 0777);
    path = scratch("nothing");
    CHECK_INT(smhf_trace_open(&path, 1, NULL, &trace, &err), SMHF_E_IO);
}

/* One file that is no trace does not cost the folder. */
static void test_stranger_in_a_folder(void) {
    put(scratch("mix/a.json"), "[" GOOD "]");
    put(scratch("mix/b.json"), "[[1,2]]");
    put(scratch("mix/c.json"), "[" GOOD "]");
    smhf_error err = SMHF_ERROR_INIT;
    smhf_trace *trace = NULL;
    const char *path = scratch("mix");
    CHECK_OK(smhf_trace_open(&path, 1, NULL, &trace, &err), &err);
    CHECK_INT(smhf_trace_events_get(trace)->count, 2);
    CHECK_INT(smhf_trace_fault_total(trace), 1);
    CHECK_INT(smhf_trace_fault_get(trace, 0)->file, 1);
    CHECK(strstr(smhf_trace_fault_get(trace, 0)->reason, "array of arrays") != NULL);
    smhf_trace_free(trace);
    const char *alone = scratch("mix/b.json");
    CHECK_INT(smhf_trace_open(&alone, 1, NULL, &trace, &err), SMHF_E_PARSE);
}

static void test_tensorflow_metadata(void) {
    put(scratch("tf/host.trace.json"), "{\"traceEvents\":[" GOOD "]}");
    put(scratch("tf/1234-host_1591748100000000_1591748101000000.metadata"), "");
    smhf_error err = SMHF_ERROR_INIT;
    smhf_trace *trace = NULL;
    const char *path = scratch("tf/host.trace.json");
    CHECK_OK(smhf_trace_open(&path, 1, NULL, &trace, &err), &err);
    CHECK_INT(smhf_trace_events_get(trace)->ts[0], INT64_C(1591748100000009000));
    smhf_trace_free(trace);
}

/* --- Memory
 * ------------------------------------------------------------------------------------------------
 */

static smhf_status whole_scenario(const char *path, smhf_error *err) {
    smhf_trace *trace = NULL;
    smhf_trace_series series = {0};
    smhf_trace_spans spans = {0};
    smhf_trace_filter filter = SMHF_TRACE_FILTER_ALL;
    uint64_t *rows = NULL;
    size_t count;
    smhf_status status = smhf_trace_open(&path, 1, NULL, &trace, err);
    if (status == SMHF_OK) {
        status = smhf_trace_series_total(trace, &filter, 0, &series, err);
    }
    if (status == SMHF_OK) {
        status = smhf_trace_spans_get(trace, &spans, err);
    }
    if (status == SMHF_OK) {
        status = smhf_trace_select_events(trace, &filter, &rows, &count, err);
    }
    smhf_free(rows);
    smhf_trace_spans_deinit(&spans);
    smhf_trace_series_deinit(&series);
    smhf_trace_free(trace);
    return status;
}

static void test_reader_out_of_memory(void) {
    put(scratch("oom/system/incremental/2020061000/1591748100.algo-1.json"),
        ROW_A "\n" ROW_B "\n{\"Type\": \"cpu");
    put(scratch("oom/framework/pevents/2020061000/1591748100000000_7-a_pythontimeline.json"),
        "[{\"ph\":\"B\",\"ts\":1,\"name\":\"caf\\u00e9\"},{\"ph\":\"E\",\"ts\":2}," GOOD
        ",{\"ph\" 1}]");
    torture(whole_scenario, scratch("oom"));
}

int main(void) {
    if (scratch_open() != 0) {
        return 1;
    }
    RUN(test_times_are_exact);
    RUN(test_doubles_are_nearest);
    RUN(test_event_fields);
    RUN(test_smdebug_base);
    RUN(test_absolute_times_keep);
    RUN(test_system_rows);
    RUN(test_scalars);
    RUN(test_empty_texts);
    RUN(test_refused_by_name);
    RUN(test_damage_costs_itself_alone);
    RUN(test_fault_line_and_length);
    RUN(test_base_survives_a_bad_last_event);
    RUN(test_event_limit);
    RUN(test_faults_are_capped);
    RUN(test_hostile_texts_stay_linear);
    RUN(test_series_and_total);
    RUN(test_spans);
    RUN(test_decimate_and_percentiles);
    RUN(test_profiler_folder);
    RUN(test_stranger_in_a_folder);
    RUN(test_tensorflow_metadata);
    RUN(test_reader_out_of_memory);
    if (scratch_close() != 0) {
        return 1;
    }
    return smhf_test_finish();
}
