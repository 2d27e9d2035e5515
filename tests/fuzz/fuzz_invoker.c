/* fuzz_invoker.c: answers and error bodies that a peer may send. The first byte chooses how many rows were
 * asked for and which status came. */
#include "invoker/invoker_room.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const int statuses[] = {400, 403, 413, 424, 429, 500, 503, 302};
    if (size == 0) {
        return 0;
    }
    smhf_answer answers[4];
    smhf_interner labels = {0};
    smhf_error err = SMHF_ERROR_INIT;
    size_t expected = data[0] % 4;
    smhf_bytes_view body = {data + 1, size - 1};
    if (smhf_answers_parse(body, expected, &labels, answers, &err) == SMHF_OK) {
        for (size_t i = 0; i < expected; i++) {
            if (answers[i].label >= labels.count) {
                abort();
            }
        }
    }
    smhf_interner_deinit(&labels);

    smhf_exchange exchange;
    smhf_fault fault;
    smhf_exchange_init(&exchange);
    exchange.response.status = statuses[data[0] >> 5];
    exchange.maybe_executed = 1;
    size_t header = (size > 8) ? data[0] % 8u : 0;
    memcpy(exchange.error_type, data + 1, header);
    if (smhf_buffer_append(&exchange.response.body, body.data, body.size, NULL) == SMHF_OK) {
        smhf_retry_classify(&exchange, &fault);
        size_t length = strnlen(fault.message, sizeof fault.message);
        if (length == sizeof fault.message || fault.verdict == SMHF_VERDICT_OK ||
            smhf_utf8_validate((const uint8_t *)fault.message, length) != length) {
            abort();
        }
    }
    smhf_exchange_deinit(&exchange);
    return 0;
}
