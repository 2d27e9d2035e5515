/* fuzz_config.c: config.json on any bytes. What is accepted must be a network that can be laid out:
 * sizes in range, heads that divide, a name for every label. */
#include "model/config.h"
#include "model/tensors.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int condition) {
    if (!condition) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    smhf_config config;
    smhf_error err = SMHF_ERROR_INIT;
    const smhf_status status =
        smhf_config_parse(&config, (smhf_bytes_view){data, size}, 0, SMHF_HEAD_SEQUENCE, &err);
    if (status != SMHF_OK) {
        require(err.message[0] != '\0');
        smhf_config_deinit(&config);
        return 0;
    }
    require(config.vocab > 0 && config.positions > 0 && config.layers > 0 &&
            config.feedforward > 0);
    require(config.heads > 0 && config.hidden % config.heads == 0);
    require(config.pad_id < config.vocab && config.num_labels > 0);
    require(config.ffn_dropout >= 0.0f && config.ffn_dropout < 1.0f);
    for (int i = 0; i < config.num_labels; i++) {
        require(config.labels[i] != NULL);
    }
    smhf_parameters table;
    if (smhf_parameters_init(&table, &config, &err) == SMHF_OK) {
        size_t end = 0;
        for (int i = 0; i < table.count; i++) { /* parameters do not overlap */
            require(table.items[i].offset >= end);
            end = table.items[i].offset + table.items[i].count;
        }
        require(end <= table.size);
        require(smhf_parameters_find(&table, table.items[table.count - 1].name) == table.count - 1);
    }
    smhf_parameters_deinit(&table);
    smhf_config_deinit(&config);
    return 0;
}
