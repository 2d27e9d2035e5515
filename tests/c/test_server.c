/* test_server.c: the server room over real loopback sockets, with callbacks written here. */
#include "common/mem.h"
#include "server/server.h"
#include "server/server_room.h"
#include "smhf_test.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* --- a client of a few lines
 * ---------------------------------------------------------------------- */

static int dial(int port) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    struct timeval limit = {20, 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static void send_text(int fd, const char *text) {
    size_t size = strlen(text), at = 0;
    while (at < size) {
        ssize_t sent = send(fd, text + at, size - at, MSG_NOSIGNAL);
        if (sent <= 0) {
            return;
        }
        at += (size_t)sent;
    }
}

typedef struct answer {
    int status; /* 0: none */
    char head[2048];
    char body[8192];
} answer;

/* Reads one answer with Content-Length. */
static answer read_answer(int fd) {
    answer out = {0};
    size_t head = 0;
    while (head + 1 < sizeof out.head && strstr(out.head, "\r\n\r\n") == NULL) {
        if (recv(fd, out.head + head, 1, 0) != 1) {
            return out;
        }
        head++;
    }
    const char *length = strcasestr(out.head, "content-length:");
    size_t size = length != NULL ? strtoul(length + 15, NULL, 10) : 0, at = 0;
    while (at < size && at + 1 < sizeof out.body) {
        ssize_t got = recv(fd, out.body + at, size - at, 0);
        if (got <= 0) {
            return out;
        }
        at += (size_t)got;
    }
    out.status = atoi(out.head + 9);
    return out;
}

static void post(int fd, const char *path, const char *type, const char *extra, const char *body) {
    size_t room = strlen(body) + 512;
    char *text = malloc(room);
    snprintf(text, room,
             "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\n%sContent-Length: %zu\r\n\r\n%s",
             path, type, extra, strlen(body), body);
    send_text(fd, text);
    free(text);
}

static answer ask(int port, const char *path, const char *body) {
    int fd = dial(port);
    post(fd, path, "application/json", "", body);
    answer out = read_answer(fd);
    close(fd);
    return out;
}

static answer ping(int port) {
    int fd = dial(port);
    send_text(fd, "GET /ping HTTP/1.1\r\nHost: x\r\n\r\n");
    answer out = read_answer(fd);
    close(fd);
    return out;
}

/* --- a callback whose scores follow from the text
 * -------------------------------------------------- */

typedef struct fake {
    int sleep_ms;
    int gate;    /* 1: hold every call until opened */
    int entered; /* calls begun */
    size_t largest;
    int released;
    pthread_mutex_t lock;
    pthread_cond_t wake;
} fake;

static void fake_init(fake *model) {
    memset(model, 0, sizeof *model);
    pthread_mutex_init(&model->lock, NULL);
    pthread_cond_init(&model->wake, NULL);
}

static void fake_open(fake *model) {
    pthread_mutex_lock(&model->lock);
    model->gate = 0;
    pthread_cond_broadcast(&model->wake);
    pthread_mutex_unlock(&model->lock);
}

static void fake_wait_entered(fake *model, int calls) {
    pthread_mutex_lock(&model->lock);
    while (model->entered < calls) {
        pthread_cond_wait(&model->wake, &model->lock);
    }
    pthread_mutex_unlock(&model->lock);
}

static void fake_release(void *context) {
    ((fake *)context)->released++;
}

/* Three labels; label 0 scores the text's length / 100. "bad" fails alone, "poison" takes the
 * whole call down, "nan" has no number, "long" counts as truncated unless that is off. */
static smhf_status fake_batch(void *context, const smhf_server_row *rows,
                              smhf_server_result *results, size_t count, smhf_error *err) {
    fake *model = context;
    pthread_mutex_lock(&model->lock);
    model->entered++;
    model->largest = count > model->largest ? count : model->largest;
    pthread_cond_broadcast(&model->wake);
    while (model->gate) {
        pthread_cond_wait(&model->wake, &model->lock);
    }
    pthread_mutex_unlock(&model->lock);
    if (model->sleep_ms > 0) {
        usleep((useconds_t)model->sleep_ms * 1000);
    }
    for (size_t i = 0; i < count; i++) {
        const smhf_server_row *row = &rows[i];
        if (smhf_bytes_equal_string(row->text, "poison")) {
            return smhf_fail(err, SMHF_E_ARG, "poison in the batch");
        }
        if (smhf_bytes_equal_string(row->text, "bad")) {
            smhf_status ignored = smhf_fail(&results[i].error, SMHF_E_ARG, "this text is bad");
            (void)ignored;
            continue;
        }
        if (smhf_bytes_equal_string(row->text, "long")) {
            if (row->truncation == SMHF_SERVER_TRUNCATE_OFF) {
                smhf_status ignored = smhf_fail(&results[i].error, SMHF_E_ARG, "600 tokens");
                (void)ignored;
                continue;
            }
            results[i].truncated = 1;
        }
        results[i].scores[0] = (float)row->text.size / 100.0f;
        results[i].scores[1] = 0.25f;
        results[i].scores[2] = (row->pair.data != NULL) ? 0.75f : 0.25f;
        if (smhf_bytes_equal_string(row->text, "nan")) {
            results[i].scores[1] = NAN;
        }
    }
    return SMHF_OK;
}

static const char *const LABELS[] = {"ZERO", "ONE", "TW\"O"};

static smhf_server *start(const smhf_server_options *options, fake *model, const char *name) {
    smhf_error err = SMHF_ERROR_INIT;
    smhf_server *server = NULL;
    CHECK_OK(smhf_server_start(options, &server, &err), &err);
    if (server != NULL && model != NULL) {
        smhf_server_endpoint endpoint = {.name = name,
                                         .labels = LABELS,
                                         .label_count = 3,
                                         .batch = fake_batch,
                                         .context = model,
                                         .release = fake_release};
        CHECK_OK(smhf_server_add(server, &endpoint, &err), &err);
        smhf_server_set_ready(server);
    }
    return server;
}

static const smhf_server_options DEFAULTS = SMHF_SERVER_OPTIONS_DEFAULTS;

/* --- shapes
 * --------------------------------------------------------------------------------------- */

#define ENTRY_01 "{\"label\":\"ONE\",\"score\":0.25}"

static void test_shapes(void) {
    fake model;
    fake_init(&model);
    smhf_server *server = start(&DEFAULTS, &model, "shapes");
    int port = smhf_server_port(server);
    static const struct {
        const char *body, *answer;
        int status;
    } cases[] = {
        {"{\"inputs\":\"a\"}", "[" ENTRY_01 "]", 200},
        {"{\"inputs\":[\"a\"]}", "[" ENTRY_01 "]", 200},
        {"{\"inputs\":[\"a\",\"b\"]}", "[" ENTRY_01 "," ENTRY_01 "]", 200},
        {"{\"inputs\":[]}", "[]", 200},
        {"{\"inputs\":{\"text\":\"a\",\"text_pair\":\"b\"}}",
         "{\"label\":\"TW\\\"O\",\"score\":0.75}", 200},
        {"{\"text\":\"a\",\"text_pair\":\"b\"}", "{\"label\":\"TW\\\"O\",\"score\":0.75}", 200},
        {"{\"inputs\":[{\"text\":\"a\",\"text_pair\":\"b\"},\"c\"]}",
         "[{\"label\":\"TW\\\"O\",\"score\":0.75}," ENTRY_01 "]", 200},
        {"{\"inputs\":\"a\",\"parameters\":{\"top_k\":2}}",
         "[" ENTRY_01 ",{\"label\":\"TW\\\"O\",\"score\":0.25}]", 200},
        {"{\"inputs\":[\"a\"],\"parameters\":{\"top_k\":1}}", "[[" ENTRY_01 "]]", 200},
        {"{\"parameters\":{\"return_all_scores\":true},\"inputs\":\"ab\"}",
         "[[{\"label\":\"ZERO\",\"score\":0.019999999552965164}," ENTRY_01
         ",{\"label\":\"TW\\\"O\",\"score\":0.25}]]",
         200},
        {"{\"inputs\":[\"a\",\"bad\"]}",
         "{\"code\":400,\"type\":\"InternalServerException\",\"message\":\"inputs[1]: this text is "
         "bad\"}",
         400},
        {"{\"inputs\":\"poison\"}",
         "{\"code\":400,\"type\":\"InternalServerException\",\"message\":\"inputs: poison in the "
         "batch\"}",
         400},
        {"{\"inputs\":[\"x\",\"long\"],\"parameters\":{\"truncation\":false}}",
         "{\"code\":400,\"type\":\"InternalServerException\",\"message\":\"inputs[1]: 600 "
         "tokens\"}",
         400},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        answer got = ask(port, "/invocations", cases[i].body);
        CHECK_INT(got.status, cases[i].status);
        CHECK_STR(got.body, cases[i].answer);
    }
    smhf_server_free(server);
    CHECK_INT(model.released, 1);
}

static void test_refusals(void) {
    fake model;
    fake_init(&model);
    smhf_server *server = start(&DEFAULTS, &model, "refusals");
    int port = smhf_server_port(server);
    static const struct {
        const char *body, *sentence;
    } cases[] = {
        {"", "end of input"},
        {"{", "end of input"},
        {"{\"inputs\":NaN}", "at byte 10"},
        {"[\"a\"]", "expected an object with the key"},
        {"\"a\"", "expected an object with the key"},
        {"{\"inputs\":7}", "found number at byte 10"},
        {"{\"inputs\":null}", "found null"},
        {"{\"inputs\":[\"a\",3]}", "inputs[1]: expected a string"},
        {"{\"inputs\":[[\"a\",\"b\"]]}", "inputs[0]: expected a string"},
        {"{\"inputs\":{\"text_pair\":\"b\"}}", "the key \\\"text\\\" is missing"},
        {"{\"inputs\":{\"question\":\"b\"}}", "found \\\"question\\\""},
        {"{\"other\":1}", "found \\\"other\\\""},
        {"{}", "found neither"},
        {"{\"inputs\":\"a\",\"parameters\":{\"top_k\":0}}", "parameters.top_k"},
        {"{\"inputs\":\"a\",\"parameters\":{\"top_k\":1.5}}", "found 1.5"},
        {"{\"inputs\":\"a\",\"parameters\":{\"wat\":1}}", "parameters.wat is not known"},
        {"{\"inputs\":\"a\",\"parameters\":{\"truncation\":\"x\"}}", "parameters.truncation"},
        {"{\"inputs\":\"a\",\"parameters\":[]}", "parameters: expected an object"},
        {"{\"inputs\":\"a\"} x", "at byte 15"},
        {"{\"inputs\":\"\\ud800\"}", "surrogate"},
        {"{\"inputs\":\"\xff\"}", "byte 11"},
        {"{\"inputs\":[\"a\",\"nan\"]}", "inputs[1]: the score of label 1 is not a finite number"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        answer got = ask(port, "/invocations", cases[i].body);
        CHECK_INT(got.status, 400);
        if (strstr(got.body, cases[i].sentence) == NULL) {
            printf("  %s: \"%s\" lacks \"%s\"\n", cases[i].body, got.body, cases[i].sentence);
            CHECK(0);
        }
    }
    CHECK_INT(ask(port, "/nowhere", "{}").status, 404);
    int fd = dial(port);
    send_text(fd, "GET /invocations HTTP/1.1\r\nHost: x\r\n\r\n");
    CHECK_INT(read_answer(fd).status, 405);
    close(fd);
    smhf_server_free(server);
}

/* One CSV field after another, as a table of bodies and first texts' lengths. */
static void test_wire_csv(void) {
    static const struct {
        const char *body;
        int rows; /* -1: refused */
        const char *last;
    } cases[] = {
        {"inputs\na\nb\n", 2, "b"},
        {"\xEF\xBB\xBFinputs\r\na\r\n", 1, "a"},
        {"id,inputs\r\n1,\"x,\"\"y\"\"\nz\"\r\n", 1, "x,\"y\"\nz"},
        {"inputs,id\n\n\nq,1\n\n", 1, "q"},
        {"inputs\n\"\"\n", 1, ""},
        {"id,inputs\n1,\n", 1, ""},
        {"question,context\na,b\n", -1, NULL},
        {"inputs\n", -1, NULL},
        {"", -1, NULL},
        {"a,inputs\n1\n", -1, NULL},
        {"inputs\n\"open\n", -1, NULL},
        {"inputs\n\"a\"b\n", -1, NULL},
        {"inputs\n\xff\n", -1, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        smhf_wire_call call;
        smhf_error err = SMHF_ERROR_INIT;
        smhf_wire_call_init(&call);
        smhf_status status =
            smhf_wire_decode(&call, SMHF_WIRE_CSV, smhf_bytes_from_string(cases[i].body), 10, &err);
        CHECK_INT(status == SMHF_OK ? (int)call.count : -1, cases[i].rows);
        if (status == SMHF_OK) {
            CHECK(smhf_bytes_equal_string(call.rows[call.count - 1].text, cases[i].last));
        } else {
            CHECK(strstr(err.message, "CSV") != NULL);
        }
        smhf_wire_call_deinit(&call);
    }
}

static void test_row_limit(void) {
    smhf_wire_call call;
    smhf_error err = SMHF_ERROR_INIT;
    smhf_wire_call_init(&call);
    CHECK_INT(smhf_wire_decode(&call, SMHF_WIRE_JSON,
                               smhf_bytes_from_string("{\"inputs\":[\"a\",\"b\",\"c\"]}"), 2, &err),
              SMHF_E_ARG);
    CHECK(strstr(err.message, "at most 2 rows") != NULL);
    smhf_wire_call_deinit(&call);
}

/* --- faces, endpoints
 * ----------------------------------------------------------------------------- */

static void test_faces(void) {
    fake first, second;
    fake_init(&first);
    fake_init(&second);
    smhf_error err = SMHF_ERROR_INIT;
    smhf_server *server = NULL;
    CHECK_OK(smhf_server_start(&DEFAULTS, &server, &err), &err);
    int port = smhf_server_port(server);
    CHECK_INT(ping(port).status, 503); /* not ready yet */
    smhf_server_endpoint endpoint = {.name = "one",
                                     .labels = LABELS,
                                     .label_count = 3,
                                     .batch = fake_batch,
                                     .context = &first,
                                     .release = fake_release};
    CHECK_OK(smhf_server_add(server, &endpoint, &err), &err);
    CHECK_INT(smhf_server_add(server, &endpoint, &err), SMHF_E_ARG); /* taken */
    CHECK(strstr(err.message, "taken") != NULL);
    endpoint.name = "two";
    endpoint.context = &second;
    CHECK_OK(smhf_server_add(server, &endpoint, &err), &err);
    endpoint.name = "-bad";
    CHECK_INT(smhf_server_add(server, &endpoint, &err), SMHF_E_ARG);
    smhf_server_set_ready(server);
    CHECK_INT(ping(port).status, 200);

    CHECK_INT(ask(port, "/endpoints/two/invocations", "{\"inputs\":\"a\"}").status, 200);
    CHECK_INT(second.entered, 1);
    CHECK_INT(ask(port, "/invocations", "{\"inputs\":\"a\"}").status, 200);
    CHECK_INT(first.entered, 1);

    answer got = ask(port, "/endpoints/three/invocations", "{\"inputs\":\"a\"}");
    CHECK_INT(got.status, 400);
    CHECK(strcasestr(got.head, "x-amzn-errortype: ValidationError") != NULL);
    CHECK(strstr(got.body, "Endpoint three not found") != NULL);
    got = ask(port, "/endpoints/two/invocations", "{\"inputs\":\"bad\"}");
    CHECK_INT(got.status, 424);
    CHECK(strcasestr(got.head, "x-amzn-errortype: ModelError") != NULL);
    CHECK(strstr(got.body, "\"OriginalStatusCode\":400") != NULL);
    CHECK(strstr(got.body, "this text is bad") != NULL);

    CHECK_OK(smhf_server_remove(server, "two", &err), &err);
    CHECK_INT(second.released, 1);
    CHECK_INT(smhf_server_has(server, "two"), 0);
    CHECK_INT(smhf_server_remove(server, "two", &err), SMHF_E_ARG);
    CHECK_INT(ask(port, "/endpoints/two/invocations", "{\"inputs\":\"a\"}").status, 400);
    smhf_server_free(server);
    CHECK_INT(first.released, 1);
}

static void test_port_in_use(void) {
    smhf_server *server = start(&DEFAULTS, NULL, NULL), *other = NULL;
    smhf_server_options options = DEFAULTS;
    smhf_error err = SMHF_ERROR_INIT;
    options.port = smhf_server_port(server);
    CHECK_INT(smhf_server_start(&options, &other, &err), SMHF_E_IO);
    CHECK(strstr(err.message, "in use") != NULL);
    CHECK(other == NULL);
    options.host = "example.test";
    CHECK_INT(smhf_server_start(&options, &other, &err), SMHF_E_ARG);
    smhf_server_free(server);
    smhf_server_free(NULL);
}

/* --- batching, queue, deadlines
 * ------------------------------------------------------------------- */

static void wait_queued(smhf_server *server, uint64_t queued) {
    smhf_server_stats stats;
    for (int i = 0; i < 2000; i++) {
        smhf_server_stats_get(server, &stats);
        if (stats.queued >= queued) {
            return;
        }
        usleep(1000);
    }
    CHECK(!"the requests never queued up");
}

static void test_batching(void) {
    fake model;
    fake_init(&model);
    model.gate = 1;
    smhf_server *server = start(&DEFAULTS, &model, "batch");
    int port = smhf_server_port(server), fds[11];
    fds[0] = dial(port);
    post(fds[0], "/invocations", "application/json", "", "{\"inputs\":\"first\"}");
    fake_wait_entered(&model, 1);
    for (int i = 1; i < 11; i++) {
        fds[i] = dial(port);
        post(fds[i], "/invocations", "application/json", "",
             i == 5 ? "{\"inputs\":[\"a\",\"bad\"]}" : "{\"inputs\":[\"a\",\"b\"]}");
    }
    wait_queued(server, 10);
    CHECK_INT(ping(port).status, 200); /* while the only worker is stuck */
    fake_open(&model);
    for (int i = 0; i < 11; i++) {
        CHECK_INT(read_answer(fds[i]).status, i == 5 ? 400 : 200); /* its neighbours are well */
        close(fds[i]);
    }
    smhf_server_stats stats;
    smhf_server_stats_get(server, &stats);
    CHECK_INT(stats.batches, 2);
    CHECK_INT(stats.rows, 21);
    CHECK_INT(stats.largest_batch, 20);
    CHECK_INT(stats.shared_batches, 1);
    CHECK_INT(model.largest, 20);
    smhf_server_free(server);
}

/* One request far over the batch limit does not hold up a small one behind it. */
static void test_large_request_shares(void) {
    fake model;
    fake_init(&model);
    model.gate = 1;
    smhf_server_options options = DEFAULTS;
    options.max_batch_rows = 4;
    smhf_server *server = start(&options, &model, "big");
    int port = smhf_server_port(server);
    int blocker = dial(port), big = dial(port), small = dial(port);
    post(blocker, "/invocations", "application/json", "", "{\"inputs\":\"first\"}");
    fake_wait_entered(&model, 1);
    char body[2048] = "{\"inputs\":[\"a\"";
    for (int i = 1; i < 101; i++) {
        strcat(body, i == 60 ? ",\"poison\"" : ",\"a\"");
    }
    strcat(body, "]}");
    post(big, "/invocations", "application/json", "", body);
    wait_queued(server, 1);
    post(small, "/invocations", "application/json", "", "{\"inputs\":[\"x\",\"y\"]}");
    wait_queued(server, 2);
    model.sleep_ms = 3;
    fake_open(&model);
    CHECK_INT(read_answer(small).status, 200);
    smhf_server_stats stats;
    smhf_server_stats_get(server, &stats);
    CHECK(stats.rows < 40); /* the big one was far from done */
    answer got = read_answer(big);
    CHECK_INT(got.status, 400);
    CHECK(strstr(got.body, "inputs[60]: poison") != NULL);
    CHECK_INT(read_answer(blocker).status, 200);
    close(blocker), close(big), close(small);
    smhf_server_free(server);
}

static void test_queue_full(void) {
    fake model;
    fake_init(&model);
    model.gate = 1;
    smhf_server_options options = DEFAULTS;
    options.max_queue = 2;
    options.retry_after_s = 3;
    smhf_server *server = start(&options, &model, "full");
    int port = smhf_server_port(server), fds[3];
    for (int i = 0; i < 3; i++) {
        fds[i] = dial(port);
        post(fds[i], "/invocations", "application/json", "", "{\"inputs\":\"a\"}");
        if (i == 0) {
            fake_wait_entered(&model, 1);
        }
    }
    wait_queued(server, 2);
    answer got = ask(port, "/invocations", "{\"inputs\":\"a\"}");
    CHECK_INT(got.status, 503);
    CHECK(strcasestr(got.head, "Retry-After: 3") != NULL);
    CHECK(strstr(got.body, "queue") != NULL);
    /* A client that left gives up its place. */
    shutdown(fds[1], SHUT_WR);
    usleep(5000);
    int late = dial(port);
    post(late, "/invocations", "application/json", "", "{\"inputs\":\"a\"}");
    fake_open(&model);
    answer left = read_answer(fds[1]); /* told or cut off, but not served */
    CHECK(left.status == 503 || left.status == 0);
    CHECK_INT(read_answer(late).status, 200);
    CHECK_INT(read_answer(fds[0]).status, 200);
    CHECK_INT(read_answer(fds[2]).status, 200);
    smhf_server_stats stats;
    smhf_server_stats_get(server, &stats);
    CHECK_INT(stats.refused_full, 1);
    CHECK_INT(stats.gone, 1);
    for (int i = 0; i < 3; i++) {
        close(fds[i]);
    }
    close(late);
    smhf_server_free(server);
}

static void test_deadline(void) {
    fake model;
    fake_init(&model);
    model.gate = 1;
    smhf_server_options options = DEFAULTS;
    options.deadline_ms = 300;
    smhf_server *server = start(&options, &model, "deadline");
    int port = smhf_server_port(server), running = dial(port), queued = dial(port);
    post(running, "/invocations", "application/json", "", "{\"inputs\":\"a\"}");
    fake_wait_entered(&model, 1);
    post(queued, "/invocations", "application/json", "", "{\"inputs\":\"a\"}");
    answer a = read_answer(running), b = read_answer(queued);
    CHECK_INT(a.status, 503);
    CHECK_INT(b.status, 503);
    CHECK(strstr(a.body, "deadline of 0.3 s") != NULL);
    fake_open(&model);
    CHECK_INT(ask(port, "/invocations", "{\"inputs\":\"a\"}").status, 200); /* it lives on */
    smhf_server_stats stats;
    smhf_server_stats_get(server, &stats);
    CHECK_INT(stats.expired, 2);
    CHECK_INT(model.entered, 2); /* the queued one was never computed */
    close(running), close(queued);
    smhf_server_free(server);
}

/* Rows of clients that left (reset or closed) are not computed. */
static void test_clients_leaving(void) {
    fake model;
    fake_init(&model);
    model.gate = 1;
    smhf_server *server = start(&DEFAULTS, &model, "leaving");
    int port = smhf_server_port(server), blocker = dial(port), reset = dial(port),
        shut = dial(port);
    post(blocker, "/invocations", "application/json", "", "{\"inputs\":\"a\"}");
    fake_wait_entered(&model, 1);
    post(reset, "/invocations", "application/json", "", "{\"inputs\":\"a\"}");
    post(shut, "/invocations", "application/json", "", "{\"inputs\":\"a\"}");
    wait_queued(server, 2);
    struct linger hard = {1, 0};
    setsockopt(reset, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    close(reset);
    close(shut);
    usleep(20000);
    fake_open(&model);
    CHECK_INT(read_answer(blocker).status, 200);
    CHECK_INT(ask(port, "/invocations", "{\"inputs\":\"a\"}").status, 200);
    smhf_server_stats stats;
    smhf_server_stats_get(server, &stats);
    CHECK_INT(stats.gone, 2);
    CHECK_INT(stats.rows, 2);
    close(blocker);
    smhf_server_free(server);
}

/* --- limits, protocol
 * ------------------------------------------------------------------------------ */

static void test_limits(void) {
    fake model;
    fake_init(&model);
    smhf_server_options options = DEFAULTS;
    options.max_request_bytes = 1000;
    options.max_response_bytes = 200;
    smhf_server *server = start(&options, &model, "limits");
    int port = smhf_server_port(server);
    char body[4096];
    memset(body, ' ', sizeof body);
    body[sizeof body - 1] = '\0';
    int fd = dial(port); /* refused after the body was read: the connection stays usable */
    post(fd, "/invocations", "application/json", "", body);
    answer got = read_answer(fd);
    CHECK_INT(got.status, 413);
    CHECK(strstr(got.body, "limit of 1000 bytes") != NULL);
    post(fd, "/invocations", "application/json", "", "{\"inputs\":\"a\"}");
    CHECK_INT(read_answer(fd).status, 200);
    close(fd);

    fd = dial(port); /* chunked: the size shows only on the way */
    send_text(fd, "POST /invocations HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    for (int i = 0; i < 4; i++) {
        char chunk[600];
        memset(chunk, ' ', sizeof chunk);
        snprintf(chunk, sizeof chunk, "200\r\n%512s\r\n", "");
        send_text(fd, chunk);
    }
    send_text(fd, "0\r\n\r\n");
    CHECK_INT(read_answer(fd).status, 413);
    close(fd);

    fd = dial(port);
    send_text(fd, "POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n"
                  "Expect: 100-continue\r\n\r\n");
    CHECK_INT(read_answer(fd).status, 413); /* no need to send it at all */
    close(fd);

    got = ask(port, "/invocations", "{\"inputs\":[\"a\",\"b\",\"c\",\"d\",\"e\",\"f\",\"g\"]}");
    CHECK_INT(got.status, 400);
    CHECK(strstr(got.body, "the answer for 7 rows is over 200 bytes") != NULL);

    static const char *const faults[] = {
        "POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        "POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n"
        "Transfer-Encoding: chunked\r\n\r\n{}",
        "POST /invocations HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n{}",
        "POST /invocations HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", /* no Host */
        "POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: -2\r\n\r\n{}",
        "rubbish\r\n\r\n",
    };
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
        fd = dial(port);
        send_text(fd, faults[i]);
        got = read_answer(fd);
        CHECK(got.status == 400 || got.status == 0); /* refused, or closed at once */
        close(fd);
    }
    fd = dial(port);
    send_text(fd, "GET /ping HTTP/1.1\r\nHost: x\r\nX-Long: ");
    for (int i = 0; i < 20; i++) {
        send_text(fd, body);
    }
    send_text(fd, "\r\n\r\n");
    got = read_answer(fd);
    CHECK(got.status == 431 || got.status == 414 || got.status == 0);
    close(fd);
    CHECK_INT(ping(port).status, 200);
    smhf_server_free(server);
}

/* A client that drips its headers is hung up on; one that rests between requests is not. */
static void test_dripping_headers(void) {
    fake model;
    fake_init(&model);
    smhf_server_options options = DEFAULTS;
    options.idle_timeout_s = 1;
    options.deadline_ms = 400;
    smhf_server *server = start(&options, &model, "drip");
    int fd = dial(smhf_server_port(server)), resting = dial(smhf_server_port(server)), closed = 0;
    send_text(fd, "GET /ping HTTP/1.1\r\nHost: x\r\nX-Slow: ");
    for (int i = 0; i < 30 && !closed; i++) {
        usleep(100000);
        closed = send(fd, "a", 1, MSG_NOSIGNAL) != 1;
        if (i % 5 == 0) {
            post(resting, "/invocations", "application/json", "", "{\"inputs\":\"a\"}");
            CHECK_INT(read_answer(resting).status, 200);
        }
    }
    CHECK(closed);
    smhf_server_stats stats;
    smhf_server_stats_get(server, &stats);
    CHECK_INT(stats.slow, 1);
    close(fd), close(resting);
    smhf_server_free(server);
}

/* --- many threads --- */

typedef struct hammer {
    int port;
    int wrong;
} hammer;

static void *hammer_body(void *argument) {
    hammer *mine = argument;
    int fd = dial(mine->port);
    for (int i = 0; i < 60; i++) {
        const char *path = (i % 3 == 0) ? "/endpoints/come-and-go/invocations" : "/invocations";
        post(fd, path, "application/json", "", "{\"inputs\":[\"a\",\"b\",\"c\"]}");
        int status = read_answer(fd).status;
        if (status != 200 && !(i % 3 == 0 && status == 400)) {
            mine->wrong++;
        }
        if (i % 20 == 19) { /* leave in the middle of a request */
            post(fd, "/invocations", "application/json", "", "{\"inputs\":\"a\"}");
            close(fd);
            fd = dial(mine->port);
        }
    }
    close(fd);
    return NULL;
}

static void test_threads(void) {
    int64_t live = smhf_mem_live();
    fake model, other;
    fake_init(&model);
    fake_init(&other);
    smhf_error err = SMHF_ERROR_INIT;
    smhf_server *server = start(&DEFAULTS, &model, "stays");
    hammer hammers[6];
    pthread_t threads[6];
    for (int i = 0; i < 6; i++) {
        hammers[i] = (hammer){smhf_server_port(server), 0};
        pthread_create(&threads[i], NULL, hammer_body, &hammers[i]);
    }
    smhf_server_endpoint endpoint = {.name = "come-and-go",
                                     .labels = LABELS,
                                     .label_count = 3,
                                     .batch = fake_batch,
                                     .context = &other,
                                     .release = fake_release,
                                     .workers = 3};
    for (int i = 0; i < 30; i++) {
        smhf_server_stats stats;
        CHECK_OK(smhf_server_add(server, &endpoint, &err), &err);
        smhf_server_stats_get(server, &stats);
        usleep(2000);
        CHECK_OK(smhf_server_remove(server, "come-and-go", &err), &err);
    }
    for (int i = 0; i < 6; i++) {
        pthread_join(threads[i], NULL);
        CHECK_INT(hammers[i].wrong, 0);
    }
    CHECK_INT(other.released, 30);
    smhf_server_free(server);
    CHECK_INT(smhf_mem_live(), live);
}

static void test_keep_alive(void) {
    fake model;
    fake_init(&model);
    smhf_server *server = start(&DEFAULTS, &model, "keep");
    int fd = dial(smhf_server_port(server));
    for (int i = 0; i < 50; i++) {
        post(fd, "/invocations", "application/json", "", "{\"inputs\":\"a\"}");
        CHECK_INT(read_answer(fd).status, 200);
    }
    for (int i = 0; i < 5; i++) { /* pipelined: five requests, then five answers in order */
        char body[64];
        snprintf(body, sizeof body, "{\"inputs\":\"%.*s\"}", (i + 1) * 8,
                 "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
        post(fd, "/invocations", "application/json", "", body);
    }
    static const char *const scores[] = {"0.25}", "0.25}", "0.25}", "0.31999", "0.40000"};
    for (int i = 0; i < 5; i++) {
        answer got = read_answer(fd);
        CHECK_INT(got.status, 200);
        CHECK(strstr(got.body, scores[i]) != NULL);
    }
    smhf_server_stats stats;
    smhf_server_stats_get(server, &stats);
    CHECK_INT(stats.connections, 1);
    CHECK_INT(stats.answered_2xx, 55);
    close(fd);
    smhf_server_free(server);
}

/* --- drain
 * ---------------------------------------------------------------------------------------- */

typedef struct drainer {
    smhf_server *server;
    smhf_status status;
} drainer;

static void *drain_body(void *argument) {
    drainer *mine = argument;
    mine->status = smhf_server_drain(mine->server, 10000, NULL);
    return NULL;
}

static void test_drain(void) {
    fake model;
    fake_init(&model);
    model.gate = 1;
    smhf_server *server = start(&DEFAULTS, &model, "drain");
    int port = smhf_server_port(server), fds[4], slow = dial(port);
    for (int i = 0; i < 4; i++) {
        fds[i] = dial(port);
        post(fds[i], "/invocations", "application/json", "", "{\"inputs\":\"a\"}");
        if (i == 0) {
            fake_wait_entered(&model, 1);
        }
    }
    send_text(slow, "POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n\r\n{\"inp");
    wait_queued(server, 3);
    smhf_server_stats stats;
    for (int i = 0; i < 1000; i++) {
        smhf_server_stats_get(server, &stats);
        if (stats.in_flight == 5) {
            break;
        }
        usleep(1000);
    }
    CHECK_INT(stats.in_flight, 5);
    CHECK_INT(smhf_server_drain(server, 10, NULL), SMHF_E_TIMEOUT);
    drainer drain = {server, SMHF_E_TIMEOUT};
    pthread_t thread;
    pthread_create(&thread, NULL, drain_body, &drain);
    CHECK_INT(ping(port).status, 503);
    CHECK_INT(ask(port, "/invocations", "{\"inputs\":\"a\"}").status, 503);
    fake_open(&model);
    send_text(slow, "uts\":\"a\"}");
    for (int i = 0; i < 4; i++) {
        answer got = read_answer(fds[i]);
        CHECK_INT(got.status, 200);
        CHECK(strcasestr(got.head, "Connection: close") != NULL);
        close(fds[i]);
    }
    CHECK_INT(read_answer(slow).status, 200);
    pthread_join(thread, NULL);
    CHECK_INT(drain.status, SMHF_OK);
    close(slow);
    smhf_server_free(server);
}

/* Stop in the middle: queued requests get 503, the running one ends, nothing hangs or leaks. */
static void test_stop_under_load(void) {
    int64_t live = smhf_mem_live();
    fake model;
    fake_init(&model);
    model.gate = 1;
    smhf_server *server = start(&DEFAULTS, &model, "stop");
    int port = smhf_server_port(server), fds[6];
    for (int i = 0; i < 6; i++) {
        fds[i] = dial(port);
        post(fds[i], "/invocations", "application/json", "", "{\"inputs\":[\"a\\n\",\"b\"]}");
        if (i == 0) {
            fake_wait_entered(&model, 1);
        }
    }
    wait_queued(server, 5);
    pthread_t thread;
    model.sleep_ms = 50;
    fake_open(&model);
    (void)thread;
    smhf_server_free(server);
    for (int i = 0; i < 6; i++) {
        answer got = read_answer(fds[i]);
        CHECK(got.status == 503 || got.status == 200);
        close(fds[i]);
    }
    CHECK_INT(model.released, 1);
    CHECK_INT(smhf_mem_live(), live);
}

/* --- whole requests
 * ------------------------------------------------------------------------------- */

static smhf_status echo_whole(void *context, const smhf_server_call *call, smhf_server_reply *reply,
                              smhf_error *err) {
    (void)context;
    if (smhf_bytes_equal_string(call->body, "fail")) {
        return smhf_fail(err, SMHF_E_ARG, "handler failed");
    }
    snprintf(reply->content_type, sizeof reply->content_type, "text/plain");
    return smhf_buffer_append_format(&reply->body, err, "%s|%s|%.*s", call->content_type,
                                     call->custom_attributes, (int)call->body.size,
                                     (const char *)call->body.data);
}

static void test_whole(void) {
    smhf_error err = SMHF_ERROR_INIT;
    smhf_server *server = NULL;
    CHECK_OK(smhf_server_start(&DEFAULTS, &server, &err), &err);
    smhf_server_endpoint endpoint = {.name = "echo", .whole = echo_whole, .workers = 2};
    CHECK_OK(smhf_server_add(server, &endpoint, &err), &err);
    smhf_server_set_ready(server);
    int fd = dial(smhf_server_port(server));
    post(fd, "/invocations", "x/y", "X-Amzn-SageMaker-Custom-Attributes: k=v\r\n", "hello");
    answer got = read_answer(fd);
    CHECK_INT(got.status, 200);
    CHECK_STR(got.body, "x/y|k=v|hello");
    CHECK(strcasestr(got.head, "content-type: text/plain") != NULL);
    post(fd, "/invocations", "x/y", "", "fail");
    CHECK_INT(read_answer(fd).status, 400);
    post(fd, "/endpoints/echo/invocations", "x/y", "", "fail");
    CHECK_INT(read_answer(fd).status, 424);
    close(fd);
    smhf_server_free(server);
}

/* Every allocation of a start, an add and one request fails once; nothing crashes or leaks. */
static void test_out_of_memory(void) {
    int64_t live = smhf_mem_live();
    int clean = 0;
    for (uint64_t n = 1; n < 200 && !clean; n++) {
        fake model;
        fake_init(&model);
        smhf_error err = SMHF_ERROR_INIT;
        smhf_server *server = NULL;
        smhf_server_endpoint endpoint = {.name = "oom",
                                         .labels = LABELS,
                                         .label_count = 3,
                                         .batch = fake_batch,
                                         .context = &model};
        smhf_mem_fail_at(n);
        smhf_status status = smhf_server_start(&DEFAULTS, &server, &err);
        if (status == SMHF_OK) {
            status = smhf_server_add(server, &endpoint, &err);
        }
        if (status == SMHF_OK) {
            smhf_server_set_ready(server);
            answer got = ask(smhf_server_port(server), "/invocations", "{\"inputs\":[\"a\\n\"]}");
            CHECK(got.status == 200 || got.status == 503);
            clean = !smhf_mem_fail_hit();
            CHECK(!clean || got.status == 200);
        } else {
            CHECK_INT(status, SMHF_E_NOMEM);
            CHECK(err.message[0] != '\0');
        }
        smhf_mem_fail_at(0);
        smhf_server_free(server);
        CHECK_INT(smhf_mem_live(), live);
    }
    CHECK(clean);
}

int main(void) {
    RUN(test_shapes);
    RUN(test_refusals);
    RUN(test_wire_csv);
    RUN(test_row_limit);
    RUN(test_faces);
    RUN(test_port_in_use);
    RUN(test_batching);
    RUN(test_large_request_shares);
    RUN(test_queue_full);
    RUN(test_deadline);
    RUN(test_clients_leaving);
    RUN(test_limits);
    RUN(test_keep_alive);
    RUN(test_dripping_headers);
    RUN(test_threads);
    RUN(test_drain);
    RUN(test_stop_under_load);
    RUN(test_whole);
    RUN(test_out_of_memory);
    return smhf_test_finish();
}
