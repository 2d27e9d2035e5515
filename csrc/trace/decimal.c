/* decimal.c: decimal text -> exact int64 of a decimal unit, or the nearest double; see trace.h. */
#include "trace/trace_internal.h"

#include "common/json.h"

/* The decimal digits of a number text: value = 0.d1 d2 d3 ... * 10^point. */
typedef struct decimal {
    const uint8_t *text; /* digits, possibly one '.' among them */
    size_t size;
    int64_t point;
    int negative;
} decimal;

static int read_decimal(smhf_bytes_view text, decimal *out) {
    const uint8_t *p = text.data, *end = text.data + text.size;
    out->negative = (p < end && *p == '-');
    p += (p < end && (*p == '-' || *p == '+'));
    out->text = p;
    int64_t whole = 0;
    size_t digits = 0;
    const uint8_t *dot = NULL;
    for (; p < end && ((*p >= '0' && *p <= '9') || (*p == '.' && dot == NULL)); p++) {
        if (*p == '.') {
            dot = p;
        } else {
            digits++;
            whole += (dot == NULL);
        }
    }
    out->size = (size_t)(p - out->text);
    int64_t exponent = 0;
    if (digits == 0) {
        return -1;
    }
    if (p < end && (*p == 'e' || *p == 'E')) {
        p++;
        int down = (p < end && *p == '-');
        p += (p < end && (*p == '-' || *p == '+'));
        if (p >= end) {
            return -1;
        }
        for (; p < end && *p >= '0' && *p <= '9'; p++) {
            exponent = (exponent < 1000000) ? exponent * 10 + (*p - '0') : exponent;
        }
        exponent = down ? -exponent : exponent;
    }
    out->point = whole + exponent;
    return (p == end) ? 0 : -1;
}

int smhf_trace_parse_time(smhf_bytes_view text, int digits, int64_t *out) {
    decimal number;
    *out = 0;
    if (read_decimal(text, &number) < 0) {
        return -1;
    }
    int64_t keep = number.point + digits; /* digits that make up the integer part of the result */
    uint64_t value = 0;
    int64_t seen = 0;
    int next = 0, rest = 0; /* first digit cut off; anything but 0 after it */
    for (size_t i = 0; i < number.size; i++) {
        if (number.text[i] == '.') {
            continue;
        }
        int digit = number.text[i] - '0';
        if (seen < keep) {
            if (value > (UINT64_MAX - 9) / 10) {
                return -2;
            }
            value = value * 10 + (uint64_t)digit;
        } else if (seen == keep) {
            next = digit;
        } else {
            rest |= digit;
        }
        seen++;
    }
    for (; seen < keep && value != 0; seen++) {
        if (value > (UINT64_MAX - 9) / 10) {
            return -2;
        }
        value *= 10;
    }
    if (next > 5 || (next == 5 && (rest != 0 || (value & 1) != 0))) {
        value++;
    }
    if (value > (uint64_t)INT64_MAX) {
        return -2;
    }
    *out = number.negative ? -(int64_t)value : (int64_t)value;
    return 0;
}

int smhf_trace_parse_double(smhf_bytes_view text, double *out) {
    /* Up to 2^53 and 10^22 both parts are exact doubles, so one division rounds once. */
    static const double powers[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                    1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                    1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    const uint8_t *p = text.data, *end = text.data + text.size;
    int negative = (p < end && *p == '-');
    p += negative;
    uint64_t whole = 0;
    int digits = 0, fraction = 0, dot = 0;
    for (; p < end && digits < 19; p++) {
        if (*p == '.' && !dot && digits > 0) {
            dot = 1;
        } else if (*p >= '0' && *p <= '9') {
            whole = whole * 10 + (uint64_t)(*p - '0');
            digits++;
            fraction += dot;
        } else {
            break;
        }
    }
    if (p == end && digits > 0 && whole <= (UINT64_C(1) << 53) && !(dot && fraction == 0)) {
        double value = (double)whole / powers[fraction];
        *out = negative ? -value : value;
        return 0;
    }
    decimal number;
    if (read_decimal(text, &number) < 0) {
        return -1;
    }
    smhf_json_event event = {SMHF_JSON_NUMBER, 0, text};
    return smhf_json_double(&event, "number", out, NULL) == SMHF_OK ? 0 : -1;
}
