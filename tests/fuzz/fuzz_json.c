/* fuzz_json.c: the pull parser on any bytes. What it accepts is written back by the writer and
 * must be accepted again with the same number of events. */
#include "common/json.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static smhf_status copy_event(smhf_json_writer *writer, const smhf_json_event *event) {
    smhf_status status;
    switch (event->kind) {
    case SMHF_JSON_OBJECT_BEGIN:
        return smhf_json_write_begin(writer, '{', NULL);
    case SMHF_JSON_ARRAY_BEGIN:
        return smhf_json_write_begin(writer, '[', NULL);
    case SMHF_JSON_OBJECT_END:
        return smhf_json_write_end(writer, '}', NULL);
    case SMHF_JSON_ARRAY_END:
        return smhf_json_write_end(writer, ']', NULL);
    case SMHF_JSON_KEY: /* a key may hold NUL bytes, which write_key cannot take */
        status = smhf_json_write_string(writer, event->text, NULL);
        writer->need_comma = 0;
        return status == SMHF_OK ? smhf_buffer_append_byte(writer->out, ':', NULL) : status;
    case SMHF_JSON_STRING:
        return smhf_json_write_string(writer, event->text, NULL);
    case SMHF_JSON_NUMBER:
        return smhf_json_write_raw(writer, (const char *)event->text.data, event->text.size, NULL);
    case SMHF_JSON_TRUE:
        return smhf_json_write_raw(writer, "true", 4, NULL);
    case SMHF_JSON_FALSE:
        return smhf_json_write_raw(writer, "false", 5, NULL);
    case SMHF_JSON_NULL:
        return smhf_json_write_raw(writer, "null", 4, NULL);
    case SMHF_JSON_END:
        return SMHF_OK;
    }
    abort();
}

static long walk(smhf_bytes_view input, smhf_buffer *copy) {
    smhf_json_reader reader;
    smhf_json_writer writer;
    smhf_json_event event;
    smhf_error err = SMHF_ERROR_INIT;
    long events = 0;
    smhf_json_reader_init(&reader, input, 100, 1 << 20);
    if (copy != NULL) {
        smhf_json_writer_init(&writer, copy);
    }
    for (;;) {
        if (smhf_json_next(&reader, &event, &err) != SMHF_OK) {
            if (err.offset < 0 || (size_t)err.offset > input.size || err.message[0] == '\0') {
                abort(); /* every refusal points into the input */
            }
            events = -1;
            break;
        }
        events++;
        if (copy != NULL && copy_event(&writer, &event) != SMHF_OK) {
            abort();
        }
        if (event.kind == SMHF_JSON_END) {
            break;
        }
    }
    smhf_json_reader_deinit(&reader);
    return events;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    smhf_buffer copy;
    smhf_buffer_init(&copy, 0);
    long events = walk((smhf_bytes_view){data, size}, &copy);
    if (events >= 0 && walk(smhf_buffer_view(&copy), NULL) != events) {
        abort();
    }
    smhf_buffer_deinit(&copy);
    return 0;
}
