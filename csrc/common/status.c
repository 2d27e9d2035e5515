#include "common/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *smhf_status_name(smhf_status code) {
    switch (code) {
    case SMHF_OK:
        return "OK";
    case SMHF_E_NOMEM:
        return "NOMEM";
    case SMHF_E_ARG:
        return "ARG";
    case SMHF_E_PARSE:
        return "PARSE";
    case SMHF_E_IO:
        return "IO";
    case SMHF_E_HTTP:
        return "HTTP";
    case SMHF_E_TIMEOUT:
        return "TIMEOUT";
    case SMHF_E_CANCELLED:
        return "CANCELLED";
    case SMHF_E_UNSUPPORTED:
        return "UNSUPPORTED";
    case SMHF_E_UNAVAILABLE:
        return "UNAVAILABLE";
    case SMHF_E_ABI:
        return "ABI";
    case SMHF_E_BUSY:
        return "BUSY";
    case SMHF_E_BACKEND:
        return "BACKEND";
    }
    return "UNKNOWN";
}

/* A cut sentence must stay valid UTF-8: drop a sequence whose tail did not fit. */
static void trim_partial_utf8(char *message) {
    size_t size = strlen(message);
    size_t start = size;
    while (start > 0 && ((unsigned char)message[start - 1] & 0xC0) == 0x80) {
        start--;
    }
    if (start == 0) {
        return;
    }
    unsigned char lead = (unsigned char)message[start - 1];
    size_t need = (lead >= 0xF0) ? 4 : (lead >= 0xE0) ? 3 : (lead >= 0xC0) ? 2 : 1;
    if (size - (start - 1) < need) {
        message[start - 1] = '\0';
    }
}

smhf_status smhf_fail_impl(smhf_error *err, const char *file, int line, smhf_status code,
                           int64_t offset, const char *format, ...) {
    if (err == NULL) {
        return code;
    }
    err->code = code;
    err->http_status = 0;
    err->offset = offset;
    err->file = file;
    err->line = line;
    va_list args;
    va_start(args, format);
    int length = vsnprintf(err->message, sizeof err->message, format, args);
    va_end(args);
    if (length >= (int)sizeof err->message) {
        trim_partial_utf8(err->message);
    }
    return code;
}

void smhf_error_prefix(smhf_error *err, const char *format, ...) {
    if (err == NULL) {
        return;
    }
    char sentence[SMHF_ERROR_MESSAGE_SIZE];
    memcpy(sentence, err->message, sizeof sentence);
    va_list args;
    va_start(args, format);
    int length = vsnprintf(err->message, sizeof err->message, format, args);
    va_end(args);
    if (length < 0 || length >= (int)sizeof err->message) {
        trim_partial_utf8(err->message);
        return;
    }
    int room = (int)sizeof err->message - length;
    if (snprintf(err->message + length, (size_t)room, ": %s", sentence) >= room) {
        trim_partial_utf8(err->message);
    }
}

void smhf_error_clear(smhf_error *err) {
    if (err != NULL) {
        *err = (smhf_error)SMHF_ERROR_INIT;
    }
}
