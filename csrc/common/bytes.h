/* bytes.h: views that never own, and one growable buffer with a hard ceiling.
 *
 *     smhf_buffer out;
 *     smhf_buffer_init(&out, 1 << 20);               // never grows past 1 MiB
 *     SMHF_TRY(smhf_buffer_append(&out, "abc", 3, err));
 *     smhf_buffer_deinit(&out);
 *
 * Threads: none of these is locked; one owner at a time.
 */
#ifndef SMHF_COMMON_BYTES_H
#define SMHF_COMMON_BYTES_H

#include "common/status.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct smhf_bytes_view {
    const uint8_t *data;
    size_t size; /* bytes */
} smhf_bytes_view;

/* A text as its owner holds it (PEP 393): `length` code units of `kind` bytes each.
 * kind 1: code points 0..FF (ASCII or Latin-1); 2: UCS-2 without surrogate pairs (a lone surrogate
 * is an error of the text); 4: UCS-4; 0: UTF-8 bytes, length in bytes. Borrowed from the owner. */
typedef struct smhf_text_view {
    const void *data;
    size_t length;
    int kind;
} smhf_text_view;

smhf_bytes_view smhf_bytes_from_string(const char *text);
/* 1 when equal to the C string, else 0. */
int smhf_bytes_equal_string(smhf_bytes_view view, const char *text);
int smhf_bytes_equal(smhf_bytes_view a, smhf_bytes_view b);

/* First byte that is not valid UTF-8 (overlongs, surrogates and > U+10FFFF refused), or size. */
size_t smhf_utf8_validate(const uint8_t *data, size_t size);
/* Decodes one code point at data[*at] and advances *at; returns the code point, or -1 on a fault
 * (then *at is left on the offending byte). */
int32_t smhf_utf8_decode(const uint8_t *data, size_t size, size_t *at);
/* Writes 1..4 bytes; returns how many. `code_point` must be a scalar value. */
size_t smhf_utf8_encode(uint32_t code_point, uint8_t out[4]);

typedef struct smhf_buffer {
    uint8_t *data; /* owned; NULL while empty */
    size_t size;
    size_t capacity;
    size_t limit; /* hard ceiling in bytes */
} smhf_buffer;

/* Never allocates. `limit` 0 means "no ceiling but SIZE_MAX / 2". */
void smhf_buffer_init(smhf_buffer *buffer, size_t limit);
/* Frees and leaves the buffer reusable with the same limit. */
void smhf_buffer_deinit(smhf_buffer *buffer);
/* size = 0, memory kept. */
void smhf_buffer_clear(smhf_buffer *buffer);
/* Room for `extra` more bytes after size. SMHF_E_ARG past the limit, SMHF_E_NOMEM. */
smhf_status smhf_buffer_reserve(smhf_buffer *buffer, size_t extra, smhf_error *err) SMHF_MUST_USE;
smhf_status smhf_buffer_append(smhf_buffer *buffer, const void *data, size_t size,
                               smhf_error *err) SMHF_MUST_USE;
smhf_status smhf_buffer_append_byte(smhf_buffer *buffer, uint8_t byte,
                                    smhf_error *err) SMHF_MUST_USE;
smhf_status smhf_buffer_append_string(smhf_buffer *buffer, const char *text,
                                      smhf_error *err) SMHF_MUST_USE;
smhf_status smhf_buffer_append_format(smhf_buffer *buffer, smhf_error *err, const char *format, ...)
    SMHF_PRINTF(3, 4) SMHF_MUST_USE;
smhf_bytes_view smhf_buffer_view(const smhf_buffer *buffer);

#ifdef __cplusplus
}
#endif
#endif
