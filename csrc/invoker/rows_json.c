/* Texts as their owner holds them, written as JSON strings. */
#include "invoker/invoker_room.h"

#include <string.h>

#define CHUNK 4096 /* code units between reservations */

static const char HEX[] = "0123456789abcdef";

/* Writes one code point; returns the new end. At most 6 bytes. */
static uint8_t *put(uint8_t *out, uint32_t c) {
    if (c >= 0x20 && c < 0x80 && c != '"' && c != '\\') {
        *out++ = (uint8_t)c;
        return out;
    }
    if (c >= 0x80) {
        return out + smhf_utf8_encode(c, out);
    }
    char letter = '\0';
    switch (c) {
    case '"':
    case '\\':
        letter = (char)c;
        break;
    case '\n':
        letter = 'n';
        break;
    case '\r':
        letter = 'r';
        break;
    case '\t':
        letter = 't';
        break;
    default:
        break;
    }
    *out++ = '\\';
    if (letter != '\0') {
        *out++ = (uint8_t)letter;
        return out;
    }
    memcpy(out, "u00", 3);
    out[3] = (uint8_t)HEX[c >> 4];
    out[4] = (uint8_t)HEX[c & 15];
    return out + 5;
}

static smhf_status append_units(smhf_buffer *body, const smhf_text_view *text, smhf_error *err) {
    for (size_t at = 0; at < text->length;) {
        size_t end = (text->length - at > CHUNK) ? at + CHUNK : text->length;
        SMHF_TRY(smhf_buffer_reserve(body, (end - at) * 6, err));
        uint8_t *out = body->data + body->size;
        for (; at < end; at++) {
            uint32_t c = (text->kind == 1)   ? ((const uint8_t *)text->data)[at]
                         : (text->kind == 2) ? ((const uint16_t *)text->data)[at]
                                             : ((const uint32_t *)text->data)[at];
            if (c >= 0xD800 && (c <= 0xDFFF || c > 0x10FFFF)) {
                return smhf_fail(err, SMHF_E_ARG,
                                 "the text holds a lone surrogate (U+%04X at character %zu), which "
                                 "no encoding can send",
                                 c, at);
            }
            out = put(out, c);
        }
        body->size = (size_t)(out - body->data);
    }
    return SMHF_OK;
}

static smhf_status append_utf8(smhf_buffer *body, const smhf_text_view *text, smhf_error *err) {
    const uint8_t *data = text->data;
    size_t bad = smhf_utf8_validate(data, text->length);
    if (bad != text->length) {
        return smhf_fail(err, SMHF_E_ARG, "the text is not UTF-8 (byte %zu)", bad);
    }
    for (size_t at = 0; at < text->length;) {
        size_t end = (text->length - at > CHUNK) ? at + CHUNK : text->length;
        SMHF_TRY(smhf_buffer_reserve(body, (end - at) * 6, err));
        uint8_t *out = body->data + body->size;
        for (; at < end; at++) {
            if (data[at] < 0x80) {
                out = put(out, data[at]);
            } else {
                *out++ = data[at];
            }
        }
        body->size = (size_t)(out - body->data);
    }
    return SMHF_OK;
}

smhf_status smhf_rows_append(smhf_buffer *body, const smhf_text_view *text, smhf_error *err) {
    if (text->kind < 0) {
        return smhf_fail(err, SMHF_E_ARG, "not a text");
    }
    if (text->length > SMHF_INVOKER_MAX_BODY) {
        return smhf_fail(err, SMHF_E_ARG,
                         "a text of %zu characters: requests hold at most %zu bytes", text->length,
                         SMHF_INVOKER_MAX_BODY);
    }
    SMHF_TRY(smhf_buffer_append_byte(body, '"', err));
    SMHF_TRY((text->kind == 0) ? append_utf8(body, text, err) : append_units(body, text, err));
    return smhf_buffer_append_byte(body, '"', err);
}
