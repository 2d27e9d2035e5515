#include "common/bytes.h"

#include "common/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

smhf_bytes_view smhf_bytes_from_string(const char *text) {
    return (smhf_bytes_view){(const uint8_t *)text, strlen(text)};
}

int smhf_bytes_equal_string(smhf_bytes_view view, const char *text) {
    return smhf_bytes_equal(view, smhf_bytes_from_string(text));
}

int smhf_bytes_equal(smhf_bytes_view a, smhf_bytes_view b) {
    return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

int32_t smhf_utf8_decode(const uint8_t *data, size_t size, size_t *at) {
    size_t i = *at;
    if (i >= size) {
        return -1;
    }
    uint32_t lead = data[i];
    if (lead < 0x80) {
        *at = i + 1;
        return (int32_t)lead;
    }
    size_t need;
    uint32_t value, least;
    if (lead >= 0xC2 && lead <= 0xDF) {
        need = 1, value = lead & 0x1F, least = 0x80;
    } else if (lead >= 0xE0 && lead <= 0xEF) {
        need = 2, value = lead & 0x0F, least = 0x800;
    } else if (lead >= 0xF0 && lead <= 0xF4) {
        need = 3, value = lead & 0x07, least = 0x10000;
    } else {
        return -1;
    }
    if (size - i <= need) {
        return -1;
    }
    for (size_t k = 1; k <= need; k++) {
        if ((data[i + k] & 0xC0) != 0x80) {
            return -1;
        }
        value = (value << 6) | (data[i + k] & 0x3Fu);
    }
    if (value < least || value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF)) {
        return -1;
    }
    *at = i + need + 1;
    return (int32_t)value;
}

size_t smhf_utf8_validate(const uint8_t *data, size_t size) {
    size_t at = 0;
    while (at < size) {
        uint64_t word;
        if (size - at >= sizeof word) {
            memcpy(&word, data + at, sizeof word);
            if ((word & 0x8080808080808080u) == 0) { /* eight ASCII bytes at once */
                at += sizeof word;
                continue;
            }
        }
        if (smhf_utf8_decode(data, size, &at) < 0) {
            return at;
        }
    }
    return size;
}

size_t smhf_utf8_encode(uint32_t code_point, uint8_t out[4]) {
    if (code_point < 0x80) {
        out[0] = (uint8_t)code_point;
        return 1;
    }
    if (code_point < 0x800) {
        out[0] = (uint8_t)(0xC0 | (code_point >> 6));
        out[1] = (uint8_t)(0x80 | (code_point & 0x3F));
        return 2;
    }
    if (code_point < 0x10000) {
        out[0] = (uint8_t)(0xE0 | (code_point >> 12));
        out[1] = (uint8_t)(0x80 | ((code_point >> 6) & 0x3F));
        out[2] = (uint8_t)(0x80 | (code_point & 0x3F));
        return 3;
    }
    out[0] = (uint8_t)(0xF0 | (code_point >> 18));
    out[1] = (uint8_t)(0x80 | ((code_point >> 12) & 0x3F));
    out[2] = (uint8_t)(0x80 | ((code_point >> 6) & 0x3F));
    out[3] = (uint8_t)(0x80 | (code_point & 0x3F));
    return 4;
}

void smhf_buffer_init(smhf_buffer *buffer, size_t limit) {
    *buffer = (smhf_buffer){NULL, 0, 0, limit > 0 ? limit : SIZE_MAX / 2};
}

void smhf_buffer_deinit(smhf_buffer *buffer) {
    smhf_free(buffer->data);
    smhf_buffer_init(buffer, buffer->limit);
}

void smhf_buffer_clear(smhf_buffer *buffer) {
    buffer->size = 0;
}

smhf_status smhf_buffer_reserve(smhf_buffer *buffer, size_t extra, smhf_error *err) {
    if (extra <= buffer->capacity - buffer->size) {
        return SMHF_OK;
    }
    if (extra > buffer->limit - buffer->size) {
        return smhf_fail(err, SMHF_E_ARG, "buffer: %zu more bytes after %zu pass its limit of %zu",
                         extra, buffer->size, buffer->limit);
    }
    size_t need = buffer->size + extra;
    size_t capacity = (buffer->capacity < 64) ? 64 : buffer->capacity;
    while (capacity < need) {
        capacity = (capacity > buffer->limit / 2) ? buffer->limit : capacity * 2;
    }
    if (capacity > buffer->limit) {
        capacity = buffer->limit; /* a limit under 64 */
    }
    uint8_t *grown = smhf_realloc(buffer->data, capacity);
    if (grown == NULL) {
        return smhf_fail_nomem(err, "buffer", capacity);
    }
    buffer->data = grown;
    buffer->capacity = capacity;
    return SMHF_OK;
}

smhf_status smhf_buffer_append(smhf_buffer *buffer, const void *data, size_t size,
                               smhf_error *err) {
    if (size == 0) {
        return SMHF_OK;
    }
    SMHF_TRY(smhf_buffer_reserve(buffer, size, err));
    memcpy(buffer->data + buffer->size, data, size);
    buffer->size += size;
    return SMHF_OK;
}

smhf_status smhf_buffer_append_byte(smhf_buffer *buffer, uint8_t byte, smhf_error *err) {
    return smhf_buffer_append(buffer, &byte, 1, err);
}

smhf_status smhf_buffer_append_string(smhf_buffer *buffer, const char *text, smhf_error *err) {
    return smhf_buffer_append(buffer, text, strlen(text), err);
}

smhf_status smhf_buffer_append_format(smhf_buffer *buffer, smhf_error *err, const char *format,
                                      ...) {
    va_list args;
    va_start(args, format);
    int length = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (length < 0) {
        return smhf_fail(err, SMHF_E_ARG, "buffer: bad format \"%s\"", format);
    }
    /* vsnprintf wants room for its NUL; it is not counted in size. */
    SMHF_TRY(smhf_buffer_reserve(buffer, (size_t)length + 1, err));
    va_start(args, format);
    vsnprintf((char *)buffer->data + buffer->size, (size_t)length + 1, format, args);
    va_end(args);
    buffer->size += (size_t)length;
    return SMHF_OK;
}

smhf_bytes_view smhf_buffer_view(const smhf_buffer *buffer) {
    return (smhf_bytes_view){buffer->data, buffer->size};
}
