/* lane_body.h: the loops of lane.h, compiled once per tier.
 *
 * The including file defines TIER_NAME, TIER_TABLE and TIER (0 plain C, 1 AVX2, 2 AVX-512) and has
 * switched the compiler to the tier. No include guard: each tier includes it once.
 */

/* --- 64 ASCII characters --------------------------------------------------------------------- */

/* What the characters of a block are, one bit each. `other` needs a look into the table: NUL,
 * control characters, DEL, everything from 0x80 on. */
typedef struct block_bits {
    uint64_t space, punct, other;
} block_bits;

#if TIER == 2
static inline block_bits classify(const uint8_t *in, size_t count, int lower, uint8_t *out) {
    __mmask64 valid = (count >= 64) ? ~(__mmask64)0 : ((__mmask64)1 << count) - 1;
    __m512i x = _mm512_maskz_loadu_epi8(valid, in);
    __m512i folded = _mm512_or_si512(x, _mm512_set1_epi8(0x20));
    __mmask64 letter = _mm512_cmple_epu8_mask(_mm512_sub_epi8(folded, _mm512_set1_epi8('a')),
                                              _mm512_set1_epi8(25));
    __mmask64 digit =
        _mm512_cmple_epu8_mask(_mm512_sub_epi8(x, _mm512_set1_epi8('0')), _mm512_set1_epi8(9));
    __mmask64 shown =
        _mm512_cmple_epu8_mask(_mm512_sub_epi8(x, _mm512_set1_epi8(0x21)), _mm512_set1_epi8(0x5D));
    __mmask64 space = _mm512_cmpeq_epi8_mask(x, _mm512_set1_epi8(' ')) |
                      _mm512_cmpeq_epi8_mask(x, _mm512_set1_epi8('\t')) |
                      _mm512_cmpeq_epi8_mask(x, _mm512_set1_epi8('\n')) |
                      _mm512_cmpeq_epi8_mask(x, _mm512_set1_epi8('\r'));
    _mm512_storeu_si512(out, _mm512_mask_blend_epi8(lower ? letter : 0, x, folded));
    return (block_bits){space & valid, shown & ~(letter | digit) & valid, ~(shown | space) & valid};
}
#elif TIER == 1
/* Bits of bytes that are at most `last` after subtraction of `first`. */
static inline __m256i in_range(__m256i x, char first, char span) {
    __m256i moved = _mm256_sub_epi8(x, _mm256_set1_epi8(first));
    return _mm256_cmpeq_epi8(_mm256_min_epu8(moved, _mm256_set1_epi8(span)), moved);
}

static inline block_bits classify_half(const uint8_t *in, int lower, uint8_t *out) {
    __m256i x = _mm256_loadu_si256((const __m256i *)(const void *)in);
    __m256i folded = _mm256_or_si256(x, _mm256_set1_epi8(0x20));
    __m256i letter = in_range(folded, 'a', 25);
    __m256i known = _mm256_or_si256(letter, in_range(x, '0', 9));
    __m256i shown = in_range(x, 0x21, 0x5D);
    __m256i space = _mm256_or_si256(_mm256_or_si256(_mm256_cmpeq_epi8(x, _mm256_set1_epi8(' ')),
                                                    _mm256_cmpeq_epi8(x, _mm256_set1_epi8('\t'))),
                                    _mm256_or_si256(_mm256_cmpeq_epi8(x, _mm256_set1_epi8('\n')),
                                                    _mm256_cmpeq_epi8(x, _mm256_set1_epi8('\r'))));
    __m256i lowered = lower ? _mm256_blendv_epi8(x, folded, letter) : x;
    _mm256_storeu_si256((__m256i *)(void *)out, lowered);
    uint32_t s = (uint32_t)_mm256_movemask_epi8(space);
    uint32_t v = (uint32_t)_mm256_movemask_epi8(shown);
    uint32_t k = (uint32_t)_mm256_movemask_epi8(known);
    return (block_bits){s, v & ~k, (uint32_t) ~(s | v)};
}

static inline block_bits classify(const uint8_t *in, size_t count, int lower, uint8_t *out) {
    uint8_t copy[64];
    uint64_t valid = UINT64_MAX;
    if (count < 64) {
        memset(copy, 0, sizeof copy);
        memcpy(copy, in, count);
        in = copy;
        valid = ((uint64_t)1 << count) - 1;
    }
    block_bits a = classify_half(in, lower, out), b = classify_half(in + 32, lower, out + 32);
    return (block_bits){(a.space | b.space << 32) & valid, (a.punct | b.punct << 32) & valid,
                        (a.other | b.other << 32) & valid};
}
#else
static inline block_bits classify(const uint8_t *in, size_t count, int lower, uint8_t *out) {
    block_bits bits = {0, 0, 0};
    count = (count < 64) ? count : 64;
    for (size_t i = 0; i < count; i++) {
        uint8_t x = in[i], folded = x | 0x20;
        uint64_t letter = (uint8_t)(folded - 'a') <= 25, digit = (uint8_t)(x - '0') <= 9;
        uint64_t shown = (uint8_t)(x - 0x21) <= 0x5D;
        uint64_t space = x == ' ' || x == '\t' || x == '\n' || x == '\r';
        out[i] = (lower && letter) ? folded : x;
        bits.space |= space << i;
        bits.punct |= (shown & ~(letter | digit)) << i;
        bits.other |= ((shown | space) ^ 1) << i;
    }
    return bits;
}
#endif

/* Leading ASCII characters of a text of 2- or 4-byte units, at most 64, as bytes. Fewer than 8 are
 * not worth a block: 0. */
static inline size_t narrow(const smhf_text_view *text, int kind, size_t at, size_t end,
                            uint8_t *out) {
    size_t done = 0, room = (end - at < 64) ? end - at : 64;
    while (done + 16 <= room) {
        uint32_t high = 0;
        for (size_t i = 0; i < 16; i++) {
            uint32_t c = (kind == 2) ? ((const uint16_t *)text->data)[at + done + i]
                                     : ((const uint32_t *)text->data)[at + done + i];
            high |= c;
            out[done + i] = (uint8_t)c;
        }
        if (high >= 0x80) {
            break;
        }
        done += 16;
    }
    size_t whole = done;
    while (done < room) {
        uint32_t c = (kind == 2) ? ((const uint16_t *)text->data)[at + done]
                                 : ((const uint32_t *)text->data)[at + done];
        if (c >= 0x80) {
            break;
        }
        out[done++] = (uint8_t)c;
    }
    return (done - whole >= 8 || done == room) ? done : whole;
}

/* --- Stage one ------------------------------------------------------------------------------- */

#define SINGLES 48      /* characters done one by one after a block meets one that it cannot do, */
#define ASCII_AGAIN 8   /* or fewer: up to so many ASCII characters in a row */
#define SINGLE_BYTES 20 /* of one character: five code points of four bytes */

/* Four bytes are written whatever the length, which is returned. */
static inline size_t put_utf8(uint8_t *out, uint32_t value) {
#if TIER > 0
    /* without a branch: scripts are mixed within a word */
    static const uint32_t places[4] = {0x7F, 0x1F3F, 0x0F3F3F, 0x073F3F3F};
    static const uint32_t marks[4] = {0, 0xC080, 0xE08080, 0xF0808080};
    uint32_t more = (uint32_t)(value >= 0x80) + (value >= 0x800) + (value >= 0x10000);
    uint32_t bytes = _pdep_u32(value, places[more]) | marks[more];
    bytes = __builtin_bswap32(bytes) >> (24 - 8 * more);
    memcpy(out, &bytes, sizeof bytes);
    return more + 1;
#else
    if (value < 0x80) {
        out[0] = (uint8_t)value;
        return 1;
    }
    return smhf_utf8_encode(value, out);
#endif
}

#define SINGLE_WORDS (SINGLES * SINGLE_BYTES / 64 + 2) /* of bitmaps that they may reach */

static inline void set_bit(uint64_t *bits, size_t at, uint64_t value) {
    bits[at >> 6] |= value << (at & 63);
}

/* One normalized code point with its flags at byte `at`; returns the byte after it. */
static inline size_t put_char(smhf_lane_scratch *out, size_t at, uint32_t entry) {
    if (entry & CHAR_SPACE) { /* one byte, whatever it was: one bit must do */
        out->bytes[at] = ' ';
        set_bit(out->space, at, 1);
        set_bit(out->edge, at, 1);
        set_bit(out->edge, at + 1, 1);
        return at + 1;
    }
    size_t after = at + put_utf8(out->bytes + at, entry & CHAR_VALUE);
    if (entry & CHAR_ISOLATE) {
        set_bit(out->edge, at, 1);
        set_bit(out->edge, after, 1);
    }
    return after;
}

static size_t put_expansion(const smhf_charmap *map, uint32_t entry, smhf_lane_scratch *out,
                            size_t at) {
    uint32_t parts[4];
    if (entry & CHAR_MULTI) {
        const uint32_t *pooled = map->pool + (entry & CHAR_VALUE);
        for (uint32_t i = 1; i <= pooled[0]; i++) {
            at = put_char(out, at, pooled[i]);
        }
        return at;
    }
    size_t count = smhf_char_decompose(entry & CHAR_VALUE, parts);
    for (size_t i = 0; i < count; i++) {
        at = put_char(out, at, parts[i]);
    }
    return at;
}

/* Characters [*begin, end) until ASCII ones prevail again; *begin is where it stopped. */
static inline size_t put_singles(const smhf_charmap *map, const smhf_text_view *text, int kind,
                                 size_t *begin, size_t end, int want_source, smhf_lane_scratch *out,
                                 size_t at) {
    const uint16_t *index = map->index;
    const uint32_t *entries = map->entries;
    uint8_t *bytes = out->bytes;
    uint32_t seen = 0, ascii = 0;
    size_t i = *begin;
    for (; i < end && ascii < ASCII_AGAIN; i++) {
        uint32_t c = (kind == 1)   ? ((const uint8_t *)text->data)[i]
                     : (kind == 2) ? ((const uint16_t *)text->data)[i]
                                   : ((const uint32_t *)text->data)[i];
        size_t before = at;
        ascii = (c < 0x80) ? ascii + 1 : 0;
        if (kind == 4 && c > 0x10FFFF) {
            seen |= CHAR_SURROGATE; /* the long way says what is wrong */
            continue;
        }
        uint32_t entry = entries[(uint32_t)index[c >> 7] << 7 | (c & 127u)];
        uint32_t value = (entry + c) & CHAR_VALUE;
        seen |= entry & ~CHAR_VALUE;
        if ((entry & (CHAR_COMPLEX | CHAR_SPACE | CHAR_ISOLATE)) == 0) {
            seen |= (value == 0) ? LANE_NUL : 0;
            at += put_utf8(bytes + at, value);
        } else if ((entry & CHAR_COMPLEX) == 0) {
            seen |= (value == 0) ? LANE_NUL : 0;
            at = put_char(out, at, (entry & ~CHAR_VALUE) | value);
        } else if ((entry & CHAR_DROP) == 0) {
            at = put_expansion(map, (entry & ~CHAR_VALUE) | value, out, at);
        }
        if (want_source) {
            for (; before < at; before++) {
                out->source[before] = (uint32_t)i;
            }
        }
    }
    out->seen |= seen;
    *begin = i;
    return at;
}

/* From here on bytes and characters no longer go hand in hand. */
static smhf_status start_source(smhf_lane_scratch *out, size_t at, smhf_error *err) {
    SMHF_TRY(smhf_lane_reserve_source(out, err));
    for (size_t i = 0; i < at; i++) {
        out->source[i] = out->base + (uint32_t)i;
    }
    out->mapped = 1;
    return SMHF_OK;
}

/* Positions of the set bits of `bits`, plus `base`; up to 64 are written whatever their number. */
static inline size_t put_positions(uint64_t bits, uint32_t base, uint32_t *out) {
    size_t count = (size_t)__builtin_popcountll(bits);
#if TIER == 2
    const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __m512i at = _mm512_add_epi32(first, _mm512_set1_epi32((int)base));
    for (int part = 0; part < 4; part++) {
        __mmask16 mask = (__mmask16)(bits >> (16 * part));
        _mm512_storeu_si512(out, _mm512_maskz_compress_epi32(mask, at));
        out += __builtin_popcount(mask);
        at = _mm512_add_epi32(at, _mm512_set1_epi32(16));
    }
#else
    for (size_t i = 0; bits != 0; i += 8) {
        for (size_t k = 0; k < 8; k++) { /* a fixed number: no branch to guess */
            out[i + k] = base + (uint32_t)__builtin_ctzll(bits | (uint64_t)1 << 63);
            bits &= bits - 1;
        }
    }
#endif
    return count;
}

static smhf_status find_units(smhf_lane_scratch *text, smhf_error *err) {
    size_t words = (text->size >> 6) + 1, edges = 0, starts = 0, ends = 0;
    uint64_t carried = 1; /* nothing ends at byte 0 */
    for (size_t w = 0; w < words; w++) {
        edges += (size_t)__builtin_popcountll(text->edge[w]);
    }
    SMHF_TRY(smhf_lane_reserve_units(text, edges, err));
    for (size_t w = 0; w < words; w++) {
        uint64_t edge = text->edge[w], space = text->space[w];
        uint32_t base = (uint32_t)(w << 6);
        starts += put_positions(edge & ~space, base, text->starts + starts);
        ends += put_positions(edge & ~(space << 1 | carried), base, text->ends + ends);
        carried = space >> 63;
    }
    SMHF_ASSERT(starts == ends);
    text->units = starts;
    return SMHF_OK;
}

static inline smhf_status normalize_kind(const smhf_charmap *map, const smhf_text_view *text,
                                         int kind, size_t begin, size_t end, int want_source,
                                         smhf_lane_scratch *out, smhf_error *err) {
    size_t at = begin, pos = 0;
    int lower = map->lower;
    out->seen = 0;
    out->mapped = 0;
    out->base = (uint32_t)begin;
    SMHF_TRY(smhf_lane_reserve(out, end - begin, err));
    out->edge[0] = 1;
    out->space[0] = 0;
    while (at < end) {
        uint8_t narrowed[64];
        const uint8_t *in = narrowed;
        size_t count;
        if (kind == 1) {
            in = (const uint8_t *)text->data + at;
            count = (end - at < 64) ? end - at : 64;
        } else {
            count = narrow(text, kind, at, end, narrowed);
        }
        if (count > 0) {
            if (pos + 64 > out->capacity) {
                SMHF_TRY(smhf_lane_reserve(out, pos + (end - at) + 64, err));
            }
            block_bits bits = classify(in, count, lower, out->bytes + pos);
            uint64_t keep = (count >= 64) ? UINT64_MAX : ((uint64_t)1 << count) - 1;
            if (bits.other != 0) {
                count = (size_t)__builtin_ctzll(bits.other);
                keep = ((uint64_t)1 << count) - 1;
            }
            uint64_t space = bits.space & keep, split = (bits.space | bits.punct) & keep;
            uint64_t edge = (split | split << 1) & keep; /* the bit after is set below */
            size_t w = pos >> 6, shift = pos & 63;
            out->space[w] |= space << shift;
            out->edge[w] |= edge << shift;
            out->space[w + 1] = (shift > 0) ? space >> (64 - shift) : 0;
            out->edge[w + 1] = (shift > 0) ? edge >> (64 - shift) : 0;
            if (count > 0) {
                set_bit(out->edge, pos + count, split >> (count - 1) & 1);
            }
            if (out->mapped && want_source) {
                for (size_t i = 0; i < count; i++) {
                    out->source[pos + i] = (uint32_t)(at + i);
                }
            }
            at += count;
            pos += count;
            if (bits.other == 0 && (kind == 1 || count == 64 || at == end)) {
                continue;
            }
        }
        size_t stop = (end - at < SINGLES) ? end : at + SINGLES;
        if (pos + SINGLES * SINGLE_BYTES > out->capacity) {
            size_t left = end - at;
            SMHF_TRY(smhf_lane_reserve(out, pos + left + left / 2 + SINGLES * SINGLE_BYTES, err));
        }
        if (want_source && !out->mapped) {
            SMHF_TRY(start_source(out, pos, err));
        } else if (want_source) {
            SMHF_TRY(smhf_lane_reserve_source(out, err));
        }
        memset(out->space + (pos >> 6) + 1, 0, SINGLE_WORDS * sizeof *out->space);
        memset(out->edge + (pos >> 6) + 1, 0, SINGLE_WORDS * sizeof *out->edge);
        pos = put_singles(map, text, kind, &at, stop, want_source, out, pos);
    }
    out->size = pos;
    memset(out->bytes + pos, 0, 16); /* lookups load whole words */
    set_bit(out->space, pos, 1);
    set_bit(out->edge, pos, 1);
    return find_units(out, err);
}

static smhf_status normalize(const smhf_charmap *map, const smhf_text_view *text, size_t begin,
                             size_t end, int want_source, smhf_lane_scratch *out, smhf_error *err) {
    switch (text->kind) {
    case 1:
        return normalize_kind(map, text, 1, begin, end, want_source, out, err);
    case 2:
        return normalize_kind(map, text, 2, begin, end, want_source, out, err);
    default:
        return normalize_kind(map, text, 4, begin, end, want_source, out, err);
    }
}

/* --- Stage two ------------------------------------------------------------------------------- */

#include "tokenizer/lane_match.h"

#include "tokenizer/lane_cached.h"

/* --- Rows ------------------------------------------------------------------------------------ */

static void widen_row(int64_t *out, const int32_t *values, size_t count, size_t width, int64_t pad,
                      int left) {
    int64_t *padding = left ? out : out + count;
    int64_t *tokens = left ? out + (width - count) : out;
    for (size_t i = 0; i < count; i++) {
        tokens[i] = values[i];
    }
    for (size_t i = 0; i < width - count; i++) {
        padding[i] = pad;
    }
}

static void mask_row(int64_t *out, size_t count, size_t width, int left) {
    int64_t *padding = left ? out : out + count;
    int64_t *tokens = left ? out + (width - count) : out;
    for (size_t i = 0; i < count; i++) {
        tokens[i] = 1;
    }
    for (size_t i = 0; i < width - count; i++) {
        padding[i] = 0;
    }
}

const smhf_lane TIER_TABLE = {TIER_NAME, normalize, aim, match, widen_row, mask_row};
