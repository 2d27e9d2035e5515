/* windows.h: what truncation makes of a number of tokens, nothing but arithmetic. */
#ifndef SMHF_TOKENIZER_WINDOWS_H
#define SMHF_TOKENIZER_WINDOWS_H

#include <stddef.h>

typedef struct window {
    size_t begin, end;
} window;

/* The windows that truncation to `limit` tokens cuts `count` tokens into: number and the k-th. */
typedef struct windows {
    size_t count; /* at least 1; the first one is the row itself */
    size_t tokens, limit, step;
    int left, empty_first; /* limit 0: an empty row, then everything */
} windows;

static inline windows whole_window(size_t tokens) {
    return (windows){1, tokens, tokens, 1, 0, 0};
}

static inline windows cut_windows(size_t tokens, size_t limit, size_t stride, int left) {
    windows w = {1, tokens, limit, 1, left, 0};
    if (limit >= tokens) {
        return whole_window(tokens);
    }
    if (limit == 0) {
        w.count = 2;
        w.empty_first = 1;
        return w;
    }
    w.step = limit - stride;
    w.count = (tokens - limit + w.step - 1) / w.step + 1;
    return w;
}

static inline window window_at(const windows *w, size_t k) {
    if (w->empty_first) {
        return (k == 0) ? (window){0, 0} : (window){0, w->tokens};
    }
    size_t skip = k * w->step;
    size_t end = (skip + w->limit < w->tokens) ? skip + w->limit : w->tokens;
    if (w->left) {
        return (window){w->tokens - end, w->tokens - skip};
    }
    return (window){skip, end};
}

/* What longest_first leaves of both sides; on a tie the first one counts as the shorter. */
static inline void longest_first(size_t limit, size_t *first, size_t *second) {
    int swapped = *first > *second;
    size_t s = swapped ? *second : *first;
    size_t l;
    if (s > limit) {
        l = s;
    } else {
        l = (s > limit - s) ? s : limit - s;
    }
    if (s + l > limit) {
        s = limit / 2;
        l = s + limit % 2;
    }
    *first = swapped ? l : s;
    *second = swapped ? s : l;
}

#endif
