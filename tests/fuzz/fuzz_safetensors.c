/* fuzz_safetensors.c: the checkpoint parser on any bytes. What it accepts must hold together: names
 * in order and found again, data inside the input, every byte of the data section owned once, and
 * each float tensor converted without reading past its end. */
#include "model/safetensors.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int condition) {
    if (!condition) {
        abort();
    }
}

static void check_tensor(const smhf_safetensor *tensor, smhf_bytes_view input) {
    require(tensor->data.data >= input.data && tensor->data.size <= input.size &&
            (size_t)(tensor->data.data - input.data) <= input.size - tensor->data.size);
    float *values = malloc((size_t)tensor->count * sizeof *values + 1); /* <= 2 x input */
    if (values != NULL) {
        const smhf_status status = smhf_safetensor_to_f32(tensor, values, NULL);
        require((status == SMHF_OK) == (tensor->dtype != SMHF_ST_OTHER));
        free(values);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t *copy = malloc(size + 1); /* exact end, so that a read past it is seen */
    smhf_safetensors *file = NULL;
    smhf_error err = SMHF_ERROR_INIT;
    size_t bytes = 0;
    if (copy == NULL) {
        return 0;
    }
    memcpy(copy, data, size);
    const smhf_bytes_view input = {copy, size};
    const smhf_status status = smhf_safetensors_parse(input, &file, &err);
    require((status == SMHF_OK) == (file != NULL));
    if (status != SMHF_OK) {
        require(err.message[0] != '\0' && err.offset <= (int64_t)size);
        free(copy);
        return 0;
    }
    for (size_t i = 0; i < smhf_safetensors_count(file); i++) {
        const smhf_safetensor *tensor = smhf_safetensors_at(file, i);
        require(i == 0 || strcmp(smhf_safetensors_at(file, i - 1)->name, tensor->name) < 0);
        require(smhf_safetensors_find(file, tensor->name) == tensor);
        check_tensor(tensor, input);
        bytes += tensor->data.size;
    }
    require(bytes <= size - 8);
    (void)smhf_safetensors_metadata(file, "format");
    smhf_safetensors_close(file);
    free(copy);
    return 0;
}
