/* test_invoker.c: the invoker room over real loopback sockets, against a small server written here. */
#include "common/json.h"
#include "common/mem.h"
#include "invoker/invoker.h"
#include "invoker/invoker_room.h"
#include "smhf_test.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* --- a server of a few lines ---------------------------------------------------------------------- */

enum { HONEST, POISON, BUSY_FIRST, SILENT };

static int listener = -1, port;
static atomic_int mode, busy_left;

/* Rows are "r<digits>" or "bad"; row n gets label L<n % 3> and score n / 1000. */
static void answer_rows(const char *body, char *out, size_t size) {
    size_t at = (size_t)snprintf(out, size, "[");
    for (const char *row = strstr(body, "\"r"); row != NULL; row = strstr(row + 1, "\"r")) {
        long n = strtol(row + 2, NULL, 10);
        at += (size_t)snprintf(out + at, size - at, "%s{\"label\":\"L%ld\",\"score\":%ld.5e-3}",
                               at > 1 ? "," : "", n % 3, n);
    }
    snprintf(out + at, size - at, "]");
}

static int serve_one(int fd) {
    static const char *const statuses[] = {"200 OK", "424 Failed", "503 Busy"};
    char request[16384] = "", body[16384], out[17000];
    size_t at = 0;
    char *end = NULL, *length;
    while (end == NULL || at < (size_t)(end + 4 - request) + strtoul(length + 15, NULL, 10)) {
        ssize_t got = recv(fd, request + at, sizeof request - 1 - at, 0);
        if (got <= 0) {
            return 0;
        }
        at += (size_t)got;
        request[at] = '\0';
        end = strstr(request, "\r\n\r\n");
        length = strstr(request, "Content-Length:");
        if (end != NULL && length == NULL) {
            return 0;
        }
    }
    int kind = 0, now = atomic_load(&mode);
    if (now == SILENT) {
        return recv(fd, body, 1, 0) > 0; /* until the client hangs up */
    }
    if (now == POISON && strstr(end, "\"bad\"") != NULL) {
        kind = 1;
        snprintf(body, sizeof body,
                 "{\"OriginalStatusCode\":400,\"OriginalMessage\":\"bad\\u0020row\",\"Message\":\"x\"}");
    } else if (now == BUSY_FIRST && atomic_fetch_sub(&busy_left, 1) > 0) {
        kind = 2;
        snprintf(body, sizeof body, "{}");
    } else {
        answer_rows(end, body, sizeof body);
    }
    int size = snprintf(out, sizeof out,
                        "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                        statuses[kind], strlen(body), body);
    return send(fd, out, (size_t)size, MSG_NOSIGNAL) == size;
}

static void *serve(void *context) {
    int fd = (int)(intptr_t)context;
    while (serve_one(fd)) {
    }
    close(fd);
    return NULL;
}

static void *accept_loop(void *context) {
    (void)context;
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        if (fd < 0) {
            return NULL;
        }
        pthread_t thread;
        if (pthread_create(&thread, NULL, serve, (void *)(intptr_t)fd) == 0) {
            pthread_detach(thread);
        }
    }
}

static char url[64];

static void start_server(void) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t size = sizeof address;
    pthread_t thread;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&address, size) != 0 || listen(listener, 64) != 0 ||
        getsockname(listener, (struct sockaddr *)&address, &size) != 0 ||
        pthread_create(&thread, NULL, accept_loop, NULL) != 0) {
        printf("no loopback server\n");
        exit(1);
    }
    pthread_detach(thread);
    port = ntohs(address.sin_port);
    snprintf(url, sizeof url, "http://127.0.0.1:%d/invocations", port);
}

/* --- texts ---------------------------------------------------------------------------------------- */

static void test_texts_of_every_kind(void) {
    static const uint8_t latin[] = {'a', '"', '\\', 0xE9, '\n', 0x01, '\t', '\r', 0x7F};
    static const uint16_t wide[] = {0x20AC, 'b', 0xFFFF};
    static const uint32_t full[] = {0x1F600, 'c', 0x10FFFF};
    static const char utf8[] = "d\xC3\xA9\"";
    const smhf_text_view views[] = {{latin, 9, 1}, {wide, 3, 2}, {full, 3, 4}, {utf8, 4, 0}};
    static const char *const expected[] = {"a\"\\\xC3\xA9\n\x01\t\r\x7F", "\xE2\x82\xAC" "b\xEF\xBF\xBF",
                                           "\xF0\x9F\x98\x80" "c\xF4\x8F\xBF\xBF", "d\xC3\xA9\""};
    for (size_t i = 0; i < 4; i++) {
        smhf_buffer body;
        smhf_json_reader reader;
        smhf_json_event event;
        smhf_buffer_init(&body, 0);
        CHECK_INT(smhf_rows_append(&body, &views[i], NULL), SMHF_OK);
        smhf_json_reader_init(&reader, smhf_buffer_view(&body), 4, 0);
        CHECK_INT(smhf_json_expect(&reader, SMHF_JSON_STRING, "text", &event, NULL), SMHF_OK);
        CHECK(smhf_bytes_equal_string(event.text, expected[i]));
        smhf_json_reader_deinit(&reader);
        smhf_buffer_deinit(&body);
    }
}

static void test_texts_that_cannot_be_sent(void) {
    static const uint16_t lone[] = {'a', 0xD800};
    static const uint32_t beyond[] = {0x110000};
    const smhf_text_view views[] = {
        {lone, 2, 2}, {beyond, 1, 4}, {"\xC3", 1, 0}, {NULL, 0, -1}, {"", (size_t)1 << 40, 1}};
    for (size_t i = 0; i < 5; i++) {
        smhf_buffer body;
        smhf_error err = SMHF_ERROR_INIT;
        smhf_buffer_init(&body, 0);
        CHECK_INT(smhf_rows_append(&body, &views[i], &err), SMHF_E_ARG);
        CHECK(err.message[0] != '\0');
        smhf_buffer_deinit(&body);
    }
}

/* --- answers -------------------------------------------------------------------------------------- */

static smhf_status parse(const char *text, size_t expected, smhf_answer *answers,
                         smhf_interner *labels) {
    return smhf_answers_parse(smhf_bytes_from_string(text), expected, labels, answers, NULL);
}

static void test_answers(void) {
    smhf_interner labels = {0};
    smhf_answer answers[4];
    CHECK_INT(parse("[{\"label\":\"b\",\"score\":0.25},{\"score\":1,\"x\":[{}],\"label\":\"a\"}]", 2,
                    answers, &labels), SMHF_OK);
    CHECK_STR(labels.items[answers[0].label], "b");
    CHECK_STR(labels.items[answers[1].label], "a");
    CHECK(answers[0].score == 0.25 && answers[1].score == 1.0);
    CHECK_INT(parse("[[{\"label\":\"b\",\"score\":0.25},{\"label\":\"c\",\"score\":0.5},"
                    "{\"label\":\"d\",\"score\":0.5}]]", 1, answers, &labels), SMHF_OK);
    CHECK_STR(labels.items[answers[0].label], "c"); /* the best, the first of equals */
    CHECK_INT(parse("[]", 0, answers, &labels), SMHF_OK);
    static const char *const wrong[] = {
        "", "{}", "[", "[]", "[1]", "[[]]", "[[1]]", "[{}]", "[{\"label\":\"a\"}]", "[{\"score\":1}]",
        "[{\"label\":1,\"score\":1}]", "[{\"label\":\"a\",\"score\":\"1\"}]",
        "[{\"label\":\"a\",\"score\":1},{\"label\":\"a\",\"score\":1}]",
        "[{\"label\":\"a\",\"label\":\"a\",\"score\":1}]", "[{\"label\":\"a\",\"score\":1}] x",
        "[{\"label\":\"a\\u0000b\",\"score\":1}]", "[{\"label\":\"a\",\"score\":NaN}]", "null",
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        CHECK_INT(parse(wrong[i], 1, answers, &labels), SMHF_E_PARSE);
    }
    smhf_interner_deinit(&labels);
}

static void test_interner(void) {
    smhf_interner interner = {0};
    char text[16];
    uint32_t index = 0;
    for (int turn = 0; turn < 2; turn++) {
        for (uint32_t i = 0; i < 5000; i++) {
            snprintf(text, sizeof text, "label %u", i);
            CHECK_INT(smhf_interner_add(&interner, smhf_bytes_from_string(text), &index, NULL), SMHF_OK);
            CHECK_INT(index, i);
        }
    }
    CHECK_INT(interner.count, 5000);
    smhf_interner_deinit(&interner);
}

/* --- what answers mean ---------------------------------------------------------------------------- */

static smhf_fault judge(int status, const char *type, const char *body) {
    smhf_exchange exchange;
    smhf_fault fault;
    smhf_exchange_init(&exchange);
    exchange.response.status = status;
    snprintf(exchange.error_type, sizeof exchange.error_type, "%s", type);
    CHECK_INT(smhf_buffer_append_string(&exchange.response.body, body, NULL), SMHF_OK);
    smhf_retry_classify(&exchange, &fault);
    smhf_exchange_deinit(&exchange);
    return fault;
}

static void test_the_table_of_answers(void) {
    static const struct {
        int status;
        const char *type, *body;
        smhf_verdict verdict;
        smhf_row_error row_error;
    } cases[] = {
        {200, "", "", SMHF_VERDICT_OK, SMHF_ROW_OK},
        {400, "ValidationError", "{\"message\":\"x\"}", SMHF_VERDICT_FATAL, SMHF_ROW_HTTP},
        {400, "ValidationException:http://a/b",
         "{\"message\":\"Member must have length less than or equal to 6291456\"}",
         SMHF_VERDICT_SHRINK, SMHF_ROW_INPUT},
        {400, "ThrottlingException", "{\"message\":null}", SMHF_VERDICT_THROTTLED, SMHF_ROW_THROTTLED},
        {400, "com.amazon#ThrottlingException:", "", SMHF_VERDICT_THROTTLED, SMHF_ROW_THROTTLED},
        {400, "", "{\"__type\":\"a.b#TooManyRequestsException\"}", SMHF_VERDICT_THROTTLED,
         SMHF_ROW_THROTTLED},
        {400, "", "{\"code\":400,\"type\":\"X\",\"message\":\"m\"}", SMHF_VERDICT_SPLIT, SMHF_ROW_MODEL},
        {400, "ExpiredTokenException", "", SMHF_VERDICT_AUTH, SMHF_ROW_AUTH},
        {401, "", "", SMHF_VERDICT_AUTH, SMHF_ROW_AUTH},
        {403, "SignatureDoesNotMatch", "", SMHF_VERDICT_AUTH, SMHF_ROW_AUTH},
        {404, "", "", SMHF_VERDICT_FATAL, SMHF_ROW_HTTP},
        {307, "", "", SMHF_VERDICT_FATAL, SMHF_ROW_HTTP},
        {408, "", "", SMHF_VERDICT_RETRY, SMHF_ROW_TIMEOUT},
        {413, "", "", SMHF_VERDICT_SHRINK, SMHF_ROW_INPUT},
        {422, "", "", SMHF_VERDICT_SPLIT, SMHF_ROW_MODEL},
        {424, "ModelError", "{\"OriginalStatusCode\":400}", SMHF_VERDICT_SPLIT, SMHF_ROW_MODEL},
        {424, "ModelError", "{\"OriginalStatusCode\":413}", SMHF_VERDICT_SHRINK, SMHF_ROW_INPUT},
        {424, "ModelError", "{\"OriginalStatusCode\":429}", SMHF_VERDICT_THROTTLED, SMHF_ROW_THROTTLED},
        {424, "ModelError", "{\"OriginalStatusCode\":503}", SMHF_VERDICT_THROTTLED, SMHF_ROW_THROTTLED},
        {424, "ModelError", "{\"OriginalStatusCode\":507}", SMHF_VERDICT_RETRY, SMHF_ROW_MODEL},
        {424, "ModelError", "{\"OriginalStatusCode\":0}", SMHF_VERDICT_TIMEOUT, SMHF_ROW_TIMEOUT},
        {424, "ModelError", "{\"OriginalStatusCode\":500}", SMHF_VERDICT_RETRY, SMHF_ROW_MODEL},
        {424, "", "<html>", SMHF_VERDICT_RETRY, SMHF_ROW_MODEL},
        {429, "ModelNotReadyException", "", SMHF_VERDICT_THROTTLED, SMHF_ROW_THROTTLED},
        {500, "InternalFailure", "", SMHF_VERDICT_RETRY, SMHF_ROW_HTTP},
        {502, "", "<html>", SMHF_VERDICT_RETRY, SMHF_ROW_HTTP},
        {503, "", "", SMHF_VERDICT_THROTTLED, SMHF_ROW_THROTTLED},
        {530, "InternalDependencyException", "", SMHF_VERDICT_RETRY, SMHF_ROW_HTTP},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        smhf_fault fault = judge(cases[i].status, cases[i].type, cases[i].body);
        if (fault.verdict != cases[i].verdict || fault.row_error != cases[i].row_error) {
            printf("  case %zu: status %d %s\n", i, cases[i].status, cases[i].type);
        }
        CHECK_INT(fault.verdict, cases[i].verdict);
        CHECK_INT(fault.row_error, cases[i].row_error);
    }
    CHECK_INT(judge(500, "", "").splits, 1);
    CHECK_INT(judge(500, "InternalFailure", "").splits, 0);
    CHECK_INT(judge(403, "RequestTimeTooSkewed", "").clock, 1);
    CHECK_INT(judge(403, "AccessDeniedException", "").clock, 0);
}

static void test_sentences_of_answers(void) {
    smhf_fault fault = judge(424, "ModelError", "{\"Message\":\"outer\",\"OriginalStatusCode\":400,"
                             "\"OriginalMessage\":\"{\\\"code\\\":400,\\\"message\\\":\\\"inner\\\"}\"}");
    CHECK_STR(fault.message, "HTTP 424 ModelError (container status 400): inner");
    fault = judge(403, "X", "{\"message\":\"first line\\nAuthorization: secret\"}");
    CHECK_STR(fault.message, "HTTP 403 X: first line");
    char body[4000] = "{\"message\":\"";
    for (int i = 0; i < 600; i++) {
        strcat(body, "\xE2\x82\xAC"); /* cut between characters, not inside one */
    }
    strcat(body, "\"}");
    fault = judge(500, "", body);
    CHECK_INT(smhf_utf8_validate((const uint8_t *)fault.message, strlen(fault.message)),
              strlen(fault.message));
}

/* --- waiting and adapting ------------------------------------------------------------------------- */

static void test_delays(void) {
    smhf_jitter jitter = {42, 0};
    double sum = 0.0;
    for (int i = 0; i < 2000; i++) {
        double delay = smhf_retry_delay(&jitter, 3, 0.05, 20.0, 0, -1.0);
        CHECK(delay >= 0.0 && delay <= 0.2);
        sum += delay;
    }
    CHECK(sum / 2000 > 0.09 && sum / 2000 < 0.11); /* uniform over [0, 0.2] */
    for (int i = 0; i < 200; i++) {
        CHECK(smhf_retry_delay(&jitter, 60, 0.05, 20.0, 0, -1.0) <= 20.0);
        CHECK(smhf_retry_delay(&jitter, 1, 0.05, 20.0, 1, -1.0) <= 1.0);
        double asked = smhf_retry_delay(&jitter, 1, 0.05, 20.0, 1, 2.5);
        CHECK(asked >= 2.5 && asked < 2.7);
        CHECK(smhf_retry_delay(&jitter, 1, 0.05, 20.0, 1, 1e9) < 61.0);
    }
}

static void test_budget(void) {
    smhf_retry_budget budget;
    int taken = 0;
    smhf_retry_budget_init(&budget, 4);
    while (smhf_retry_take(&budget, smhf_retry_cost(0))) {
        taken++;
    }
    CHECK_INT(taken, 35); /* 500 / 14 */
    smhf_retry_refund(&budget, 14);
    CHECK(smhf_retry_take(&budget, 14));
    CHECK(!smhf_retry_take(&budget, 14));
    for (int i = 0; i < 1000; i++) {
        smhf_retry_refund(&budget, 0);
    }
    CHECK_INT(budget.tokens, 500);
}

static void test_aimd(void) {
    smhf_aimd aimd;
    smhf_aimd_init(&aimd, 0);
    CHECK_INT(smhf_aimd_limit(&aimd), 4);
    for (int i = 0; i < 5; i++) {
        smhf_aimd_success(&aimd);
    }
    CHECK_INT(smhf_aimd_limit(&aimd), 5); /* one more in a round */
    for (int i = 0; i < 1000; i++) {
        smhf_aimd_success(&aimd);
    }
    CHECK_INT(smhf_aimd_limit(&aimd), 16);
    for (int i = 0; i < 16; i++) { /* one round of refusals halves once */
        smhf_aimd_throttled(&aimd, 10.0, 11.0);
    }
    CHECK_INT(smhf_aimd_limit(&aimd), 8);
    smhf_aimd_throttled(&aimd, 11.5, 12.0);
    CHECK_INT(smhf_aimd_limit(&aimd), 4);
    for (int i = 0; i < 10; i++) {
        smhf_aimd_throttled(&aimd, 13.0 + i, 13.5 + i);
    }
    CHECK_INT(smhf_aimd_limit(&aimd), 1);
}

/* An endpoint that takes 200 requests a second, asked as fast as the pacer lets us. */
static void test_pacer(void) {
    smhf_pacer pacer = {0};
    double tokens = 20.0, now = 100.0;
    int served = 0, refused = 0;
    smhf_pacer_answer(&pacer, now, now, 1);
    CHECK_INT(pacer.on, 0); /* nothing has been answered yet: there is no rate to cut */
    for (int step = 0; step < 30000; step++) {
        now += 0.001;
        tokens = fmin(tokens + 0.2, 20.0);
        while (smhf_pacer_wait(&pacer, now) == 0.0 && served + refused < 10 * (step + 1)) {
            int taken = tokens >= 1.0;
            smhf_pacer_start(&pacer, now);
            tokens -= taken;
            served += taken;
            refused += !taken;
            smhf_pacer_answer(&pacer, now, now, !taken);
        }
    }
    CHECK(served >= 30 * 200 * 8 / 10); /* at least 80% of what it takes */
    CHECK(refused <= served * 5 / 100);
    now += 60.0;
    smhf_pacer_answer(&pacer, now, now, 0);
    CHECK_INT(pacer.on, 0); /* forgotten after a while */
}

static void test_sizer(void) {
    smhf_sizer sizer;
    smhf_sizer_init(&sizer, 0, 0);
    for (int i = 0; i < 100; i++) { /* a fixed cost per request: larger is better */
        smhf_sizer_success(&sizer, sizer.rows, 0.1 + 1e-6 * (double)sizer.rows, 4);
    }
    CHECK_INT(sizer.rows, 256);
    smhf_sizer_init(&sizer, 0, 0);
    for (int i = 0; i < 100; i++) { /* a cost per row only: nothing is gained */
        smhf_sizer_success(&sizer, sizer.rows, 1e-3 * (double)sizer.rows, 4);
    }
    CHECK_INT(sizer.rows, 64);
    smhf_sizer_shrink(&sizer, 64, 100000, 1);
    CHECK_INT(sizer.rows, 32);
    CHECK_INT(sizer.bytes, 50000);
    smhf_sizer_shrink(&sizer, 1, 9000, 1); /* one row of 9000 bytes was too large */
    CHECK_INT(sizer.rows, 32);
    CHECK_INT(sizer.bytes, 8999);
}

/* --- whole calls ---------------------------------------------------------------------------------- */

#define ROWS 40
static char row_texts[ROWS][16];
static smhf_text_view rows_of[ROWS];

static void make_rows(void) {
    for (int i = 0; i < ROWS; i++) {
        snprintf(row_texts[i], sizeof row_texts[i], "r%d", i);
        rows_of[i] = (smhf_text_view){row_texts[i], strlen(row_texts[i]), 0};
    }
}

static smhf_invoker *open_invoker(smhf_invoker_options *options) {
    smhf_invoker *invoker = NULL;
    smhf_error err = SMHF_ERROR_INIT;
    options->url = url;
    options->backoff_base = 0.001;
    options->backoff_cap = 0.005;
    CHECK_INT(smhf_invoker_open(options, &invoker, &err), SMHF_OK);
    return invoker;
}

static void check_predictions(const smhf_predictions *p, int bad) {
    char label[16];
    for (int i = 0; i < (int)p->rows; i++) {
        if (i == bad) {
            CHECK_INT(p->errors[i], SMHF_ROW_MODEL);
            CHECK_INT(p->labels[i], -1);
            CHECK_STR(p->message_texts[p->messages[i]], "HTTP 424 (container status 400): bad row");
            continue;
        }
        snprintf(label, sizeof label, "L%d", i % 3);
        CHECK_INT(p->errors[i], SMHF_ROW_OK);
        CHECK_INT(p->statuses[i], 200);
        CHECK(p->attempts[i] >= 1);
        if (p->labels[i] >= 0) {
            CHECK_STR(p->label_names[p->labels[i]], label);
            CHECK(fabs(p->scores[i] - (i + 0.5) / 1000) < 1e-12);
        }
    }
}

static void test_predict(void) {
    smhf_invoker_options options = SMHF_INVOKER_DEFAULTS;
    smhf_predictions *p = NULL;
    options.batch_rows = 7;
    smhf_invoker *invoker = open_invoker(&options);
    atomic_store(&mode, HONEST);
    CHECK_INT(smhf_invoker_predict(invoker, rows_of, ROWS, NULL, NULL, &p, NULL), SMHF_OK);
    CHECK_INT(p->requests, 6);
    check_predictions(p, -1);
    smhf_predictions_free(p);
    CHECK_INT(smhf_invoker_predict(invoker, rows_of, 0, NULL, NULL, &p, NULL), SMHF_OK);
    CHECK_INT(p->requests, 0);
    smhf_predictions_free(p);
    atomic_store(&mode, BUSY_FIRST);
    atomic_store(&busy_left, 5);
    CHECK_INT(smhf_invoker_predict(invoker, rows_of, ROWS, NULL, NULL, &p, NULL), SMHF_OK);
    CHECK_INT(p->retries, 5);
    check_predictions(p, -1);
    smhf_predictions_free(p);
    smhf_invoker_close(invoker);
}

static void test_bad_row_alone(void) {
    smhf_invoker_options options = SMHF_INVOKER_DEFAULTS;
    smhf_predictions *p = NULL;
    options.batch_rows = 16;
    smhf_invoker *invoker = open_invoker(&options);
    atomic_store(&mode, POISON);
    smhf_text_view before = rows_of[21];
    rows_of[21] = (smhf_text_view){"bad", 3, 0};
    CHECK_INT(smhf_invoker_predict(invoker, rows_of, ROWS, NULL, NULL, &p, NULL), SMHF_OK);
    check_predictions(p, 21);
    CHECK_INT(p->splits, 4); /* 16, 8, 4, 2 */
    CHECK_INT(p->requests, 3 + 8);
    smhf_predictions_free(p);
    rows_of[21] = before;
    smhf_invoker_close(invoker);
}

static int polls_left;

static int cancel_later(void *context, int want_credentials) {
    CHECK(context == &polls_left);
    CHECK_INT(want_credentials, 0);
    return --polls_left <= 0;
}

static void test_cancel(void) {
    smhf_invoker_options options = SMHF_INVOKER_DEFAULTS;
    smhf_predictions *p = NULL;
    smhf_error err = SMHF_ERROR_INIT;
    smhf_response response;
    smhf_invoker *invoker = open_invoker(&options);
    atomic_store(&mode, SILENT);
    polls_left = 3;
    double start = smhf_now();
    CHECK_INT(smhf_invoker_predict(invoker, rows_of, ROWS, cancel_later, &polls_left, &p, &err),
              SMHF_E_CANCELLED);
    CHECK(smhf_now() - start < 0.5);
    for (int i = 0; p != NULL && i < ROWS; i++) {
        CHECK_INT(p->errors[i], SMHF_ROW_CANCELLED);
    }
    smhf_predictions_free(p);
    polls_left = 3;
    smhf_response_init(&response);
    CHECK_INT(smhf_invoker_call(invoker, smhf_bytes_from_string("{}"), NULL, 0, cancel_later,
                                &polls_left, &response, &err), SMHF_E_CANCELLED);
    smhf_response_deinit(&response);
    atomic_store(&mode, HONEST);
    CHECK_INT(smhf_invoker_predict(invoker, rows_of, ROWS, NULL, NULL, &p, NULL), SMHF_OK);
    check_predictions(p, -1);
    smhf_predictions_free(p);
    smhf_invoker_close(invoker);
}

static void *predict_often(void *context) {
    for (int turn = 0; turn < 10; turn++) {
        smhf_predictions *p = NULL;
        CHECK_INT(smhf_invoker_predict(context, rows_of, ROWS, NULL, NULL, &p, NULL), SMHF_OK);
        CHECK(p != NULL && p->labels[1] >= 0 && strcmp(p->label_names[p->labels[1]], "L1") == 0);
        smhf_predictions_free(p);
        smhf_invoker_stats stats;
        smhf_invoker_get_stats(context, &stats);
        CHECK(stats.requests >= (uint64_t)turn);
        smhf_credentials credentials = {"key", "secret", NULL};
        CHECK_INT(smhf_invoker_set_credentials(context, &credentials, NULL), SMHF_OK);
    }
    return NULL;
}

static void test_threads(void) {
    smhf_invoker_options options = SMHF_INVOKER_DEFAULTS;
    pthread_t threads[4];
    options.region = "eu-west-1";
    smhf_invoker *invoker = open_invoker(&options);
    smhf_credentials credentials = {"key", "secret", "token"};
    CHECK_INT(smhf_invoker_set_credentials(invoker, &credentials, NULL), SMHF_OK);
    atomic_store(&mode, HONEST);
    for (int i = 0; i < 4; i++) {
        CHECK_INT(pthread_create(&threads[i], NULL, predict_often, invoker), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
    }
    smhf_invoker_close(invoker);
}

/* A signed call needs credentials; the sentence says so and the invoker stays usable. */
static void test_missing_credentials(void) {
    smhf_invoker_options options = SMHF_INVOKER_DEFAULTS;
    smhf_predictions *p = NULL;
    smhf_error err = SMHF_ERROR_INIT;
    options.region = "eu-west-1";
    smhf_invoker *invoker = open_invoker(&options);
    CHECK_INT(smhf_invoker_predict(invoker, rows_of, ROWS, NULL, NULL, &p, &err), SMHF_E_ARG);
    CHECK(p == NULL && strstr(err.message, "no credentials") != NULL);
    smhf_invoker_close(invoker);
}

/* --- the signer ----------------------------------------------------------------------------------- */

/* get-vanilla of the published suite. */
static void test_signature(void) {
    const smhf_header headers[] = {{"Host", "example.amazonaws.com"}};
    const smhf_credentials credentials = {"AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", NULL};
    smhf_invoker_sign_options options = {
        .method = "GET", .path = smhf_bytes_from_string("/"), .headers = headers, .header_count = 1,
        .region = "us-east-1", .service = "service", .epoch_seconds = 1440938160, .normalize_path = 1,
    };
    smhf_invoker_signature signature;
    CHECK_INT(smhf_invoker_sign(&options, &credentials, &signature, NULL), SMHF_OK);
    CHECK_STR(signature.amz_date, "20150830T123600Z");
    CHECK_STR(signature.signature, "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31");
    smhf_invoker_signature_deinit(&signature);
}

/* --- every allocation fails once ------------------------------------------------------------------ */

/* One whole life: open, credentials, a predict with a bad row and retries, a raw call, close. */
static smhf_status whole_life(smhf_error *err) {
    smhf_invoker_options options = SMHF_INVOKER_DEFAULTS;
    const smhf_header headers[] = {{"X-A", "1"}};
    const smhf_credentials credentials = {"AKIDEXAMPLE", "a secret of some length", "a token of some length"};
    smhf_invoker *invoker = NULL;
    smhf_predictions *p = NULL;
    smhf_response response;
    options.url = url;
    options.region = "eu-west-1";
    options.parameters = "{\"a\":1}";
    options.headers = headers;
    options.header_count = 1;
    options.batch_rows = 4;
    options.connections = 1;
    options.backoff_base = 0.0;
    smhf_response_init(&response);
    smhf_status status = smhf_invoker_open(&options, &invoker, err);
    if (status == SMHF_OK) {
        status = smhf_invoker_set_credentials(invoker, &credentials, err);
    }
    if (status == SMHF_OK) {
        status = smhf_invoker_predict(invoker, rows_of, 8, NULL, NULL, &p, err);
    }
    if (status == SMHF_OK) {
        CHECK_INT(p->errors[5], SMHF_ROW_MODEL);
        CHECK_INT(p->errors[4], SMHF_ROW_OK);
        status = smhf_invoker_call(invoker, smhf_bytes_from_string("{\"inputs\":[\"r1\"]}"), headers, 1,
                                   NULL, NULL, &response, err);
    }
    if (status == SMHF_OK) {
        CHECK_INT(response.status, 200);
    }
    smhf_response_deinit(&response);
    smhf_predictions_free(p);
    smhf_invoker_close(invoker);
    return status;
}

static void test_out_of_memory(void) {
    smhf_error err = SMHF_ERROR_INIT;
    smhf_text_view before = rows_of[5];
    rows_of[5] = (smhf_text_view){"bad", 3, 0};
    atomic_store(&mode, POISON);
    CHECK_INT(whole_life(&err), SMHF_OK); /* what libcurl and OpenSSL keep is made */
    int64_t live = smhf_mem_live();
    uint64_t n = 1;
    for (; n < 5000; n++) {
        smhf_error_clear(&err);
        smhf_mem_fail_at(n);
        smhf_status status = whole_life(&err);
        int hit = smhf_mem_fail_hit();
        smhf_mem_fail_at(0);
        CHECK_INT(smhf_mem_live(), live);
        if (!hit) {
            CHECK_INT(status, SMHF_OK);
            break;
        }
        CHECK(status == SMHF_E_NOMEM || status == SMHF_OK); /* OK: a detail of an error sentence */
        CHECK(status == SMHF_OK || err.message[0] != '\0');
    }
    CHECK(n > 100 && n < 5000);
    rows_of[5] = before;
}

int main(void) {
    make_rows();
    start_server();
    RUN(test_texts_of_every_kind);
    RUN(test_texts_that_cannot_be_sent);
    RUN(test_answers);
    RUN(test_interner);
    RUN(test_the_table_of_answers);
    RUN(test_sentences_of_answers);
    RUN(test_delays);
    RUN(test_budget);
    RUN(test_aimd);
    RUN(test_pacer);
    RUN(test_sizer);
    RUN(test_predict);
    RUN(test_bad_row_alone);
    RUN(test_cancel);
    RUN(test_threads);
    RUN(test_missing_credentials);
    RUN(test_signature);
    RUN(test_out_of_memory);
    return smhf_test_finish();
}
