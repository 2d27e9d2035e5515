/* test_common.c: floor 0. JSON cases follow RFC 8259; the Philox vectors are those of Random123's
 * kat_vectors; the permutation is torch.randperm's (written down from torch 2.13). */
#include "smhf_test.h"

#include "common/archive.h"
#include "common/arena.h"
#include "common/bytes.h"
#include "common/file.h"
#include "common/inflate.h"
#include "common/json.h"
#include "common/mem.h"
#include "common/pool.h"
#include "common/rng.h"
#include "common/status.h"

#include <locale.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char scratch_folder[] = "/tmp/smhf_test_common_XXXXXX";

static const char *scratch(const char *name) {
    static char paths[4][512];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", scratch_folder, name);
    return path;
}

/* --- status ------------------------------------------------------------------------------------ */

static void test_error_sentences(void) {
    smhf_error err = SMHF_ERROR_INIT;
    CHECK_INT(smhf_fail_at(&err, SMHF_E_PARSE, 17, "row %d", 3), SMHF_E_PARSE);
    CHECK_INT(err.offset, 17);
    CHECK_STR(err.message, "row 3");
    smhf_error_prefix(&err, "file %s", "a.csv");
    CHECK_STR(err.message, "file a.csv: row 3");
    CHECK_INT(smhf_fail(NULL, SMHF_E_IO, "nobody listens"), SMHF_E_IO);
    CHECK_STR(smhf_status_name(SMHF_E_BUSY), "BUSY");
}

static void test_error_is_cut_on_a_character(void) {
    smhf_error err = SMHF_ERROR_INIT;
    char text[600];
    for (size_t i = 0; i + 2 < sizeof text; i += 2) {
        memcpy(text + i, "\xC3\xA9", 2);
    }
    text[598] = '\0';
    (void)smhf_fail(&err, SMHF_E_ARG, "x%s", text);
    size_t size = strlen(err.message);
    CHECK(size < sizeof err.message);
    CHECK_INT(smhf_utf8_validate((const uint8_t *)err.message, size), size);
}

/* --- memory ------------------------------------------------------------------------------------ */

static void test_memory_counters_and_failure(void) {
    int64_t live = smhf_mem_live();
    uint64_t count = smhf_mem_count();
    void *a = smhf_malloc(10), *b = smhf_malloc_aligned(100, 64);
    CHECK_INT(smhf_mem_live() - live, 2);
    CHECK_INT(smhf_mem_count() - count, 2);
    CHECK_INT((uintptr_t)b % 64, 0);
    smhf_mem_fail_at(2);
    void *c = smhf_malloc(1), *d = smhf_malloc(1), *e = smhf_malloc(1);
    CHECK(c != NULL && d == NULL && e != NULL);
    CHECK(smhf_mem_fail_hit());
    smhf_mem_fail_at(0);
    CHECK(smhf_calloc(SIZE_MAX / 2, 4) == NULL);
    smhf_free(a);
    smhf_free(b);
    smhf_free(c);
    smhf_free(e);
    smhf_free(NULL);
    CHECK_INT(smhf_mem_live(), live);
}

static void test_arena_marks(void) {
    smhf_arena arena;
    smhf_arena_init(&arena, 1024);
    char *first = smhf_arena_alloc(&arena, 100);
    CHECK_INT((uintptr_t)first % 64, 0);
    memset(first, 'a', 100);
    smhf_arena_mark mark = smhf_arena_mark_get(&arena);
    char *second = smhf_arena_alloc(&arena, 5000); /* a block of its own */
    memset(second, 'b', 5000);
    char *third = smhf_arena_copy_string(&arena, "hello", 5);
    CHECK_STR(third, "hello");
    size_t capacity = smhf_arena_capacity(&arena);
    smhf_arena_reset(&arena, mark);
    uint64_t count = smhf_mem_count();
    CHECK(smhf_arena_alloc(&arena, 5000) != NULL);
    CHECK_INT(smhf_mem_count(), count); /* the kept block was used again */
    CHECK_INT(smhf_arena_capacity(&arena), capacity);
    CHECK_INT(first[99], 'a');
    CHECK(smhf_arena_alloc(&arena, SIZE_MAX - 8) == NULL);
    smhf_arena_deinit(&arena);
}

/* --- bytes -------------------------------------------------------------------------------------- */

static void test_utf8(void) {
    static const struct {
        const char *text;
        size_t size, valid;
    } cases[] = {
        {"plain ascii, more than eight", 28, 28},
        {"\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80", 9, 9},
        {"ab\xC0\xAF", 4, 2},                 /* overlong */
        {"\xE0\x80\x80", 3, 0},               /* overlong */
        {"\xED\xA0\x80", 3, 0},               /* surrogate */
        {"x\xF4\x90\x80\x80", 5, 1},          /* above U+10FFFF */
        {"12345678\xE2\x82", 10, 8},          /* cut */
        {"\xFF", 1, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        CHECK_INT(smhf_utf8_validate((const uint8_t *)cases[i].text, cases[i].size),
                  cases[i].valid);
    }
    for (uint32_t c = 0; c <= 0x10FFFF; c += (c < 0x1000) ? 1 : 61) {
        if (c >= 0xD800 && c <= 0xDFFF) {
            continue;
        }
        uint8_t out[4];
        size_t at = 0, size = smhf_utf8_encode(c, out);
        CHECK_INT(smhf_utf8_decode(out, size, &at), c);
        CHECK_INT(at, size);
    }
}

static void test_buffer_limit(void) {
    smhf_error err = SMHF_ERROR_INIT;
    smhf_buffer buffer;
    smhf_buffer_init(&buffer, 10);
    CHECK_OK(smhf_buffer_append_string(&buffer, "12345678", &err), &err);
    CHECK_INT(smhf_buffer_append_string(&buffer, "abc", &err), SMHF_E_ARG);
    CHECK_INT(buffer.size, 8); /* nothing half appended */
    CHECK_OK(smhf_buffer_append_byte(&buffer, 'x', &err), &err);
    smhf_buffer_deinit(&buffer);
    smhf_buffer_init(&buffer, 0);
    for (int i = 0; i < 1000; i++) {
        CHECK_OK(smhf_buffer_append_format(&buffer, &err, "%d,", i), &err);
    }
    CHECK(buffer.size == 3890 && memcmp(buffer.data + 3886, "999,", 4) == 0);
    smhf_buffer_deinit(&buffer);
}

/* --- json --------------------------------------------------------------------------------------- */

/* Walks a whole document; returns the status and leaves the offset in *err. */
static smhf_status walk(const char *text, size_t size, int max_depth, int *events,
                        smhf_error *err) {
    smhf_json_reader reader;
    smhf_json_event event;
    smhf_json_reader_init(&reader, (smhf_bytes_view){(const uint8_t *)text, size}, max_depth, 0);
    smhf_status status;
    *events = 0;
    do {
        status = smhf_json_next(&reader, &event, err);
        ++*events;
    } while (status == SMHF_OK && event.kind != SMHF_JSON_END);
    smhf_json_reader_deinit(&reader);
    return status;
}

static void test_json_accepts(void) {
    static const char *const good[] = {
        "0", "-0.5e+10", "\"\"", "true", "false", "null", "[]", "{}", " [1 , 2]\n",
        "{\"a\":[{\"b\":null}],\"c\":\"\\u00e9\\ud83d\\ude00\\n\"}", "[[[[[]]]]]", "[1E5,2e-1]",
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        smhf_error err = SMHF_ERROR_INIT;
        int events;
        CHECK_OK(walk(good[i], strlen(good[i]), 64, &events, &err), &err);
    }
}

static void test_json_refuses_with_offset(void) {
    static const struct {
        const char *text;
        int offset;
    } bad[] = {
        {"", 0},           {"[1,]", 3},       {"{\"a\" 1}", 5},   {"{a:1}", 1},   {"[01]", 2},
        {"[1.]", 3},       {"[+1]", 1},       {"[1e]", 3},        {"nul", 0},     {"[1] x", 4},
        {"\"\\x\"", 2},    {"\"abc", 4},      {"\"a\nb\"", 2},    {"[1 2]", 3},   {"{\"a\":1,}", 7},
        {"\"\\ud800\"", 3}, {"[NaN]", 1},     {"[Infinity]", 1},  {"{\"a\":}", 5}, {"]", 0},
        {"\"\xC3(\"", 1},  {"{\"a\":1", 6},   {"[", 1},           {"\"\\u12g4\"", 3},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        smhf_error err = SMHF_ERROR_INIT;
        int events;
        CHECK_INT(walk(bad[i].text, strlen(bad[i].text), 64, &events, &err), SMHF_E_PARSE);
        if (err.offset != bad[i].offset) {
            printf("  case %s: ", bad[i].text);
        }
        CHECK_INT(err.offset, bad[i].offset);
    }
    smhf_error err = SMHF_ERROR_INIT;
    int events;
    CHECK_INT(walk("[[[[1]]]]", 9, 3, &events, &err), SMHF_E_PARSE);
    CHECK_INT(err.offset, 3);
}

static void test_json_values(void) {
    static const char text[] = "{\"name\":\"a\\tb\\u20ac\",\"n\":-9223372036854775808,\"x\":0.1,"
                               "\"skip\":{\"deep\":[1,{\"y\":2}]},\"last\":9223372036854775808}";
    smhf_error err = SMHF_ERROR_INIT;
    smhf_json_reader reader;
    smhf_json_event event;
    smhf_json_reader_init(&reader, smhf_bytes_from_string(text), 64, 0);
    CHECK_OK(smhf_json_expect(&reader, SMHF_JSON_OBJECT_BEGIN, "document", &event, &err), &err);
    CHECK_OK(smhf_json_next(&reader, &event, &err), &err);
    CHECK(smhf_bytes_equal_string(event.text, "name"));
    CHECK_OK(smhf_json_next(&reader, &event, &err), &err);
    CHECK(smhf_bytes_equal_string(event.text, "a\tb\xE2\x82\xAC"));
    int64_t integer = 0;
    double number = 0;
    CHECK_OK(smhf_json_next(&reader, &event, &err), &err);
    CHECK_OK(smhf_json_next(&reader, &event, &err), &err);
    CHECK_OK(smhf_json_int64(&event, "n", &integer, &err), &err);
    CHECK(integer == INT64_MIN);
    CHECK_OK(smhf_json_next(&reader, &event, &err), &err);
    CHECK_OK(smhf_json_next(&reader, &event, &err), &err);
    CHECK_OK(smhf_json_double(&event, "x", &number, &err), &err);
    CHECK(number == 0.1);
    CHECK_INT(smhf_json_int64(&event, "x", &integer, &err), SMHF_E_PARSE);
    CHECK_OK(smhf_json_next(&reader, &event, &err), &err);
    CHECK_OK(smhf_json_skip(&reader, &err), &err);
    CHECK_OK(smhf_json_next(&reader, &event, &err), &err);
    CHECK(smhf_bytes_equal_string(event.text, "last"));
    CHECK_OK(smhf_json_next(&reader, &event, &err), &err);
    CHECK_INT(smhf_json_int64(&event, "last", &integer, &err), SMHF_E_PARSE);
    smhf_json_reader_deinit(&reader);
}

static void test_json_writer(void) {
    smhf_error err = SMHF_ERROR_INIT;
    smhf_buffer out;
    smhf_json_writer writer;
    smhf_buffer_init(&out, 0);
    smhf_json_writer_init(&writer, &out);
    CHECK_OK(smhf_json_write_begin(&writer, '{', &err), &err);
    CHECK_OK(smhf_json_write_key(&writer, "a", &err), &err);
    CHECK_OK(smhf_json_write_begin(&writer, '[', &err), &err);
    CHECK_OK(smhf_json_write_double(&writer, 0.1, &err), &err);
    CHECK_OK(smhf_json_write_double(&writer, 3.0, &err), &err);
    CHECK_OK(smhf_json_write_int64(&writer, -7, &err), &err);
    CHECK_OK(smhf_json_write_end(&writer, ']', &err), &err);
    CHECK_OK(smhf_json_write_key(&writer, "b", &err), &err);
    CHECK_OK(smhf_json_write_string(&writer, smhf_bytes_from_string("q\"\\\n\x01\xC3\xA9"), &err),
             &err);
    CHECK_OK(smhf_json_write_key(&writer, "c", &err), &err);
    CHECK_OK(smhf_json_write_raw(&writer, "null", 4, &err), &err);
    CHECK_OK(smhf_json_write_end(&writer, '}', &err), &err);
    CHECK(smhf_bytes_equal_string(
        smhf_buffer_view(&out),
        "{\"a\":[0.1,3.0,-7],\"b\":\"q\\\"\\\\\\n\\u0001\xC3\xA9\",\"c\":null}"));
    CHECK_INT(smhf_json_write_double(&writer, NAN, &err), SMHF_E_ARG);
    CHECK_INT(smhf_json_write_string(&writer, smhf_bytes_from_string("\xFF"), &err), SMHF_E_ARG);
    smhf_buffer_deinit(&out);
}

static void test_json_numbers_ignore_the_locale(void) {
    const char *const candidates[] = {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "ru_RU.UTF-8"};
    const char *set = NULL;
    for (size_t i = 0; i < sizeof candidates / sizeof *candidates && set == NULL; i++) {
        set = setlocale(LC_NUMERIC, candidates[i]);
    }
    if (set == NULL) {
        SKIP("no locale with a decimal comma is installed");
    }
    test_json_values();
    test_json_writer();
    setlocale(LC_NUMERIC, "C");
}

/* --- files, gzip, archives ---------------------------------------------------------------------- */

static void test_atomic_write(void) {
    smhf_error err = SMHF_ERROR_INIT;
    const char *path = scratch("file.bin");
    CHECK_OK(smhf_file_write_atomic(path, smhf_bytes_from_string("one"), &err), &err);
    smhf_file_writer *writer = NULL;
    CHECK_OK(smhf_file_writer_open(path, &writer, &err), &err);
    CHECK_OK(smhf_file_writer_write(writer, "half", 4, &err), &err);
    smhf_bytes_view view;
    CHECK_OK(smhf_file_map(path, &view, &err), &err);
    CHECK(smhf_bytes_equal_string(view, "one")); /* the old content until commit */
    smhf_file_unmap(&view);
    smhf_file_writer_abort(writer);
    smhf_buffer content;
    smhf_buffer_init(&content, 2);
    CHECK_INT(smhf_file_read(path, &content, &err), SMHF_E_ARG); /* over the ceiling */
    smhf_buffer_deinit(&content);
    CHECK_INT(smhf_file_map(scratch_folder, &view, &err), SMHF_E_IO);
    CHECK(strstr(err.message, "folder") != NULL);
    CHECK_INT(smhf_file_map(scratch("absent"), &view, &err), SMHF_E_IO);
    CHECK_INT(smhf_file_write_atomic(scratch("no/such/folder"), view, &err), SMHF_E_IO);
}

static void test_gzip_round_trip_and_cut(void) {
    smhf_error err = SMHF_ERROR_INIT;
    const char *path = scratch("data.gz");
    enum { SIZE = 300000 };
    uint8_t *data = smhf_malloc(SIZE), *back = smhf_malloc(SIZE + 1);
    for (size_t i = 0; i < SIZE; i++) {
        data[i] = (uint8_t)((i * 2654435761u) >> 13);
    }
    smhf_deflate *out;
    CHECK_OK(smhf_deflate_open(path, &out, &err), &err);
    CHECK_OK(smhf_deflate_write(out, data, SIZE, &err), &err);
    CHECK_OK(smhf_deflate_finish(out, &err), &err);
    smhf_inflate *in;
    size_t total = 0, got = 1;
    CHECK_OK(smhf_inflate_open(path, &in, &err), &err);
    while (got > 0) {
        CHECK_OK(smhf_inflate_read(in, back + total, 7777 < SIZE + 1 - total ? 7777 : SIZE + 1 - total,
                                   &got, &err), &err);
        total += got;
    }
    smhf_inflate_close(in);
    CHECK(total == SIZE && memcmp(data, back, SIZE) == 0);

    struct stat info;
    CHECK_INT(stat(path, &info), 0);
    CHECK_INT(truncate(path, info.st_size / 2), 0);
    CHECK_OK(smhf_inflate_open(path, &in, &err), &err);
    smhf_status status = SMHF_OK;
    for (total = 0, got = 1; status == SMHF_OK && got > 0; total += got) {
        status = smhf_inflate_read(in, back, 4096, &got, &err);
    }
    CHECK_INT(status, SMHF_E_PARSE);
    CHECK_INT(err.offset, info.st_size / 2);
    CHECK(total > 0);
    smhf_inflate_close(in);
    smhf_free(data);
    smhf_free(back);
}

static void write_text(const char *path, const char *text) {
    smhf_error err = SMHF_ERROR_INIT;
    CHECK_OK(smhf_file_write_atomic(path, smhf_bytes_from_string(text), &err), &err);
}

static void test_archive_round_trip(void) {
    smhf_error err = SMHF_ERROR_INIT;
    char long_name[200];
    memset(long_name, 'n', 150);
    long_name[150] = '\0';
    mkdir(scratch("tree"), 0755);
    mkdir(scratch("tree/code"), 0755);
    write_text(scratch("tree/model.bin"), "weights");
    write_text(scratch("tree/code/inference.py"), "print()");
    char path[800];
    snprintf(path, sizeof path, "%s/tree/code/%s", scratch_folder, long_name);
    write_text(path, "long");
    CHECK_OK(smhf_archive_create(scratch("a.tar.gz"), scratch("tree"), &err), &err);
    CHECK_OK(smhf_archive_create(scratch("b.tar.gz"), scratch("tree"), &err), &err);
    smhf_bytes_view a, b;
    CHECK_OK(smhf_file_map(scratch("a.tar.gz"), &a, &err), &err);
    CHECK_OK(smhf_file_map(scratch("b.tar.gz"), &b, &err), &err);
    CHECK(smhf_bytes_equal(a, b));
    smhf_file_unmap(&a);
    smhf_file_unmap(&b);
    mkdir(scratch("out"), 0755);
    CHECK_OK(smhf_archive_extract(scratch("a.tar.gz"), scratch("out"), NULL, &err), &err);
    snprintf(path, sizeof path, "%s/out/code/%s", scratch_folder, long_name);
    CHECK_OK(smhf_file_map(path, &a, &err), &err);
    CHECK(smhf_bytes_equal_string(a, "long"));
    smhf_file_unmap(&a);
    CHECK_INT(smhf_archive_extract(scratch("a.tar.gz"), scratch("out"), NULL, &err), SMHF_E_ARG);
    CHECK_INT(symlink("model.bin", scratch("tree/link")), 0);
    CHECK_INT(smhf_archive_create(scratch("c.tar.gz"), scratch("tree"), &err), SMHF_E_ARG);
    CHECK(access(scratch("c.tar.gz"), F_OK) != 0);
    CHECK_INT(unlink(scratch("tree/link")), 0);
}

static void test_archive_survives_every_allocation_failure(void) {
    int64_t live = smhf_mem_live();
    mkdir(scratch("oom"), 0755);
    for (uint64_t n = 1; n < 10000; n++) {
        smhf_error err = SMHF_ERROR_INIT;
        smhf_mem_fail_at(n);
        smhf_status status = smhf_archive_create(scratch("oom.tar.gz"), scratch("tree"), &err);
        if (status == SMHF_OK) {
            status = smhf_archive_extract(scratch("oom.tar.gz"), scratch("oom"), NULL, &err);
        }
        int hit = smhf_mem_fail_hit();
        smhf_mem_fail_at(0);
        CHECK_INT(smhf_mem_live(), live);
        if (!hit) {
            CHECK_OK(status, &err);
            CHECK(n > 10);
            return;
        }
        CHECK_INT(status, SMHF_E_NOMEM);
        CHECK(err.message[0] != '\0');
    }
    CHECK(!"the failures never ended");
}

/* --- rng ---------------------------------------------------------------------------------------- */

static void test_philox_vectors(void) {
    static const struct {
        uint32_t counter[4], key[2], expected[4];
    } cases[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint32_t out[4];
        smhf_philox(cases[i].counter, ((uint64_t)cases[i].key[1] << 32) | cases[i].key[0], out);
        CHECK(memcmp(out, cases[i].expected, sizeof out) == 0);
    }
}

static void test_torch_randperm(void) {
    static const int64_t expected[] = {12, 10, 9, 0, 15, 14, 6, 4, 7, 5,
                                       3, 13, 19, 1, 16, 8, 11, 18, 2, 17}; /* seed 44 */
    int64_t out[20];
    smhf_rng_torch_randperm(out, 20, 44);
    CHECK(memcmp(out, expected, sizeof out) == 0);
}

static void test_normal_moments(void) {
    enum { COUNT = 100001 };
    float *draws = smhf_malloc(COUNT * sizeof *draws);
    smhf_rng_normal(draws, COUNT, 0.02f, 7, 1);
    double mean = 0, square = 0;
    for (size_t i = 0; i < COUNT; i++) {
        mean += draws[i];
        square += (double)draws[i] * draws[i];
    }
    mean /= COUNT;
    CHECK_CLOSE(mean, 0, 0.02 * 4 / sqrt(COUNT));
    CHECK_CLOSE(sqrt(square / COUNT), 0.02, 0.0003);
    smhf_free(draws);
}

/* --- pool --------------------------------------------------------------------------------------- */

typedef struct sum_task {
    const float *values;
    float partial[512];
} sum_task;

static void sum_chunk(void *context, size_t begin, size_t end) {
    sum_task *task = context;
    float sum = 0;
    for (size_t i = begin; i < end; i++) {
        sum += task->values[i];
    }
    task->partial[begin / 100] = sum;
}

static void test_pool_is_deterministic(void) {
    enum { COUNT = 50021 };
    float *values = smhf_malloc(COUNT * sizeof *values);
    sum_task *tasks = smhf_calloc(4, sizeof *tasks);
    smhf_rng_normal(values, COUNT, 1, 1, 1);
    for (int threads = 1; threads <= 4; threads++) {
        smhf_pool_set_threads(threads);
        CHECK_INT(smhf_pool_threads(), threads);
        tasks[threads - 1].values = values;
        smhf_parallel_for(COUNT, 100, sum_chunk, &tasks[threads - 1]);
        CHECK(memcmp(tasks[0].partial, tasks[threads - 1].partial, sizeof tasks[0].partial) == 0);
    }
    smhf_free(values);
    smhf_free(tasks);
}

static void count_item(void *context, size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++) {
        __atomic_fetch_add(&((int *)context)[i], 1, __ATOMIC_RELAXED);
    }
}

static void nested_body(void *context, size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++) {
        smhf_parallel_for(10, 1, count_item, (int *)context + i * 10);
    }
}

static void *hammer(void *context) {
    for (int round = 0; round < 200; round++) {
        smhf_parallel_for(64, 3, count_item, context);
    }
    return NULL;
}

static void test_pool_nested_and_concurrent(void) {
    int counts[640] = {0};
    smhf_pool_set_threads(3);
    smhf_parallel_for(64, 1, nested_body, counts);
    for (int i = 0; i < 640; i++) {
        CHECK_INT(counts[i], 1);
    }
    pthread_t threads[4];
    int shared[64] = {0};
    for (int i = 0; i < 4; i++) {
        CHECK_INT(pthread_create(&threads[i], NULL, hammer, shared), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
    }
    for (int i = 0; i < 64; i++) {
        CHECK_INT(shared[i], 800);
    }
}

static void test_pool_after_fork(void) {
    int counts[64] = {0};
    smhf_pool_set_threads(3);
    smhf_parallel_for(64, 1, count_item, counts);
    pid_t child = fork();
    if (child == 0) {
        alarm(20); /* a hang must not last */
        smhf_parallel_for(64, 1, count_item, counts);
        int right = 1;
        for (int i = 0; i < 64; i++) {
            right &= counts[i] == 2;
        }
        _exit(right ? 0 : 1);
    }
    int status = -1;
    CHECK_INT(waitpid(child, &status, 0), child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    smhf_pool_shutdown();
    smhf_parallel_for(64, 1, count_item, counts); /* starts again */
    CHECK_INT(counts[63], 2);
    smhf_pool_shutdown();
}

int main(void) {
    if (mkdtemp(scratch_folder) == NULL) {
        printf("no scratch folder\n0 passed, 1 failed, 0 skipped\n");
        return 1;
    }
    RUN(test_error_sentences);
    RUN(test_error_is_cut_on_a_character);
    RUN(test_memory_counters_and_failure);
    RUN(test_arena_marks);
    RUN(test_utf8);
    RUN(test_buffer_limit);
    RUN(test_json_accepts);
    RUN(test_json_refuses_with_offset);
    RUN(test_json_values);
    RUN(test_json_writer);
    RUN(test_json_numbers_ignore_the_locale);
    RUN(test_atomic_write);
    RUN(test_gzip_round_trip_and_cut);
    RUN(test_archive_round_trip);
    RUN(test_archive_survives_every_allocation_failure);
    RUN(test_philox_vectors);
    RUN(test_torch_randperm);
    RUN(test_normal_moments);
    RUN(test_pool_is_deterministic);
    RUN(test_pool_nested_and_concurrent);
    RUN(test_pool_after_fork);
    char command[600];
    snprintf(command, sizeof command, "rm -rf '%s'", scratch_folder);
    if (system(command) != 0) {
        printf("scratch folder %s was left behind\n", scratch_folder);
    }
    return smhf_test_finish();
}
