/* fuzz_server.c: request bodies of any bytes ('j' or 'c' first: JSON or CSV). What is decoded must
 * be valid UTF-8 inside the body or the arena, and its answer must be JSON again; what is refused
 * must say why, with an offset inside the body where it has one. */
#include "common/json.h"
#include "server/server_room.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int condition) {
    if (!condition) {
        abort();
    }
}

static void check_answer(const smhf_wire_call *call) {
    static const char *const labels[] = {"A", "B\"", "\xC3\xBC"};
    float *scores = calloc(call->count * 3 + 1, sizeof *scores);
    smhf_buffer out;
    smhf_error err = SMHF_ERROR_INIT;
    check(scores != NULL);
    for (size_t i = 0; i < call->count * 3; i++) {
        scores[i] = (float)((i * 7919) % 1000) / 1000.0f;
    }
    smhf_buffer_init(&out, 0);
    check(smhf_wire_encode(call, SMHF_WIRE_JSON, labels, 3, scores, &out, &err) == SMHF_OK);
    smhf_json_reader reader;
    smhf_json_event event;
    smhf_json_reader_init(&reader, smhf_buffer_view(&out), 8, 0);
    do {
        check(smhf_json_next(&reader, &event, &err) == SMHF_OK);
    } while (event.kind != SMHF_JSON_END);
    smhf_json_reader_deinit(&reader);
    smhf_buffer_deinit(&out);
    free(scores);
}

static void check_refusal(const smhf_error *err, size_t size) {
    smhf_buffer out;
    check(err->message[0] != '\0');
    check(err->offset < 0 || (size_t)err->offset <= size);
    smhf_buffer_init(&out, 0);
    check(smhf_wire_error(&out, 400, "InternalServerException", err->message, NULL) == SMHF_OK);
    smhf_buffer service;
    smhf_buffer_init(&service, 0);
    check(smhf_wire_model_error(&service, 400, "name", smhf_buffer_view(&out), NULL) == SMHF_OK);
    smhf_buffer_deinit(&service);
    smhf_buffer_deinit(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) {
        return 0;
    }
    smhf_bytes_view body = {data + 1, size - 1};
    smhf_wire_call call;
    smhf_error err = SMHF_ERROR_INIT;
    smhf_wire_call_init(&call);
    if (smhf_wire_decode(&call, data[0] == 'c' ? SMHF_WIRE_CSV : SMHF_WIRE_JSON, body, 1000,
                         &err) == SMHF_OK) {
        for (size_t i = 0; i < call.count; i++) {
            const smhf_server_row *row = &call.rows[i];
            check(row->text.data != NULL);
            check(smhf_utf8_validate(row->text.data, row->text.size) == row->text.size);
            check(smhf_utf8_validate(row->pair.data, row->pair.size) == row->pair.size);
        }
        check_answer(&call);
    } else {
        check_refusal(&err, body.size);
    }
    smhf_wire_call_deinit(&call);
    return 0;
}
