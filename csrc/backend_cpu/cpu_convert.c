/* cpu_convert.c: between fp32, bf16 and int8 with one scale a row. */
#include "backend_cpu/cpu_device.h"
#include "common/pool.h"

#include <math.h>
#include <string.h>

typedef struct convert_task {
    smhf_tensor dst, src;
} convert_task;

static float bf16_to_float(uint16_t half) {
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* nearest, ties to even; a NaN stays one */
static uint16_t float_to_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) {
        return (uint16_t)((bits >> 16) | 0x0040u);
    }
    return (uint16_t)((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

static float read_element(smhf_tensor t, int64_t row, int32_t col) {
    int64_t at = row * t.ld + col;
    switch (t.dtype) {
    case SMHF_DTYPE_BF16:
        return bf16_to_float(((const uint16_t *)t.data)[at]);
    case SMHF_DTYPE_I8:
        return (float)((const int8_t *)t.data)[at] * t.scales[row];
    default:
        return ((const float *)t.data)[at];
    }
}

static void quantize_row(const convert_task *task, int64_t row) {
    int8_t *out = (int8_t *)task->dst.data + row * task->dst.ld;
    float greatest = 0.0f;
    for (int32_t c = 0; c < task->dst.cols; c++) {
        float a = fabsf(read_element(task->src, row, c));
        greatest = a > greatest ? a : greatest;
    }
    float inverse = greatest > 0.0f ? 127.0f / greatest : 0.0f;
    task->dst.scales[row] = greatest / 127.0f;
    for (int32_t c = 0; c < task->dst.cols; c++) {
        float v = rintf(read_element(task->src, row, c) * inverse);
        v = v > 127.0f ? 127.0f : v;
        out[c] = (int8_t)(v >= -127.0f ? v : -127.0f); /* a NaN becomes -127: int8 has none */
    }
}

static void convert_body(void *context, size_t begin, size_t end) {
    const convert_task *task = context;
    for (size_t r = begin; r < end; r++) {
        int64_t row = (int64_t)r;
        if (task->dst.dtype == SMHF_DTYPE_I8) {
            quantize_row(task, row);
            continue;
        }
        for (int32_t c = 0; c < task->dst.cols; c++) {
            float value = read_element(task->src, row, c);
            int64_t at = row * task->dst.ld + c;
            if (task->dst.dtype == SMHF_DTYPE_BF16) {
                ((uint16_t *)task->dst.data)[at] = float_to_bf16(value);
            } else {
                ((float *)task->dst.data)[at] = value;
            }
        }
    }
}

void cpu_convert(smhf_device *dev, smhf_tensor dst, smhf_tensor src) {
    if (cpu_begin(dev) == NULL) {
        return;
    }
    if (dst.dtype == SMHF_DTYPE_I32 || src.dtype == SMHF_DTYPE_I32 ||
        dst.layout != SMHF_LAYOUT_ROWS || src.layout != SMHF_LAYOUT_ROWS ||
        (dst.dtype == SMHF_DTYPE_I8 && dst.scales == NULL) ||
        (src.dtype == SMHF_DTYPE_I8 && src.scales == NULL)) {
        smhf_device_fail(dev, SMHF_E_UNSUPPORTED,
                         "convert on the processor: expected fp32, bf16 or int8 with scales, in "
                         "row layout");
        return;
    }
    convert_task task = {dst, src};
    smhf_parallel_for((size_t)dst.rows, cpu_rows_chunk(dst.cols), convert_body, &task);
}
