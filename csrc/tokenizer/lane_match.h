/* lane_match.h: units of normalized text → tokens; the part of lane_body.h that asks the
 * vocabulary.
 *
 * Units are taken in blocks. All of a block are looked up as whole words first; those that are
 * none are then cut into longest pieces, all together, because each step of one waits for memory
 * while the others can go on. Compiled once per tier, hence no include guard.
 */

#define BLOCK 32 /* units that are looked up together */

/* The lowest `bits` (up to 255) bits of a word, all of them from 64 on. */
static inline uint64_t keep_low(uint64_t value, size_t bits) {
#if TIER > 0
    return _bzhi_u64(value, (unsigned)bits);
#else
    return (bits >= 64) ? value : value & (((uint64_t)1 << bits) - 1);
#endif
}

/* Keys of a line that are equal to one of up to 8 bytes, as bits. */
static inline uint32_t short_hits(const smhf_short_line *line, uint64_t key) {
#if TIER == 2
    __m512i wanted = _mm512_set1_epi64((long long)key);
    return (uint32_t)_mm512_cmpeq_epi64_mask(_mm512_load_si512(line), wanted) & 31u;
#elif TIER == 1
    __m256i wanted = _mm256_set1_epi64x((long long)key);
    __m256i four = _mm256_load_si256((const __m256i *)(const void *)line);
    __m256d equal = _mm256_castsi256_pd(_mm256_cmpeq_epi64(four, wanted));
    return (uint32_t)_mm256_movemask_pd(equal) | (uint32_t)(line->keys[4] == key) << 4;
#else
    uint32_t hits = 0;
    for (uint32_t i = 0; i < WORD_SHORT_KEYS; i++) {
        hits |= (uint32_t)(line->keys[i] == key) << i;
    }
    return hits;
#endif
}

static inline uint32_t long_hits(const smhf_long_line *line, uint64_t low, uint64_t high) {
#if TIER == 2
    __m512i wanted =
        _mm512_mask_set1_epi64(_mm512_set1_epi64((long long)low), 0x38, (long long)high);
    uint32_t equal = (uint32_t)_mm512_cmpeq_epi64_mask(_mm512_load_si512(line), wanted);
    return equal & equal >> WORD_LONG_KEYS & 7u;
#else
    uint32_t hits = 0;
    for (uint32_t i = 0; i < WORD_LONG_KEYS; i++) {
        hits |= (uint32_t)((line->low[i] == low) & (line->high[i] == high)) << i;
    }
    return hits;
#endif
}

/* What a line says of a key: its id + 1, 0 when it is not there, WORD_OVERFLOW when it may be in
 * the next line. Without a branch: whether a word is a token cannot be guessed. */
static inline uint32_t in_short_line(const smhf_short_line *line, uint64_t key) {
    const uint32_t *ids = line->ids;
    return ids[__builtin_ctz(short_hits(line, key) | 1u << WORD_SHORT_KEYS)];
}

static inline uint32_t in_long_line(const smhf_long_line *line, uint64_t low, uint64_t high) {
    const uint32_t *ids = line->ids;
    return ids[__builtin_ctz(long_hits(line, low, high) | 1u << WORD_LONG_KEYS)];
}

/* The id of a key, looked for from its line on; -1 when absent. */
static inline int32_t look_short(const smhf_word_table *table, const smhf_short_line *line,
                                 uint64_t key) {
    const smhf_short_line *last = table->short_lines + table->short_count - 1;
    uint32_t found;
    while ((found = in_short_line(line, key)) == WORD_OVERFLOW) {
        line = (line < last) ? line + 1 : table->short_lines;
    }
    return (int32_t)found - 1;
}

static inline int32_t look_long(const smhf_word_table *table, const smhf_long_line *line,
                                uint64_t low, uint64_t high) {
    const smhf_long_line *last = table->long_lines + table->long_count - 1;
    uint32_t found;
    while ((found = in_long_line(line, low, high)) == WORD_OVERFLOW) {
        line = (line < last) ? line + 1 : table->long_lines;
    }
    return (int32_t)found - 1;
}

static inline int32_t find_short(const smhf_word_table *table, uint64_t key) {
    size_t at = smhf_word_line(smhf_word_hash(key, 0), table->short_count);
    return look_short(table, &table->short_lines[at], key);
}

static inline int32_t find_long(const smhf_word_table *table, uint64_t low, uint64_t high) {
    size_t at = smhf_word_line(smhf_word_hash(low, high), table->long_count);
    return look_long(table, &table->long_lines[at], low, high);
}

/* Bit i: the filter knows the key base + (i + 1 bytes of `word`) * spread. */
static inline uint32_t filter_eight(const smhf_key_filter *filter, uint64_t word, uint64_t spread,
                                    uint64_t base) {
#if TIER == 2
    const __m512i keep = _mm512_setr_epi64(0xFF, 0xFFFF, 0xFFFFFF, 0xFFFFFFFF, 0xFFFFFFFFFF,
                                           0xFFFFFFFFFFFF, 0xFFFFFFFFFFFFFF, -1);
    const __m512i five = _mm512_set1_epi64(31), one = _mm512_set1_epi64(1);
    __m512i x = _mm512_and_si512(_mm512_set1_epi64((long long)word), keep);
    if (spread != 1) {
        x = _mm512_mullo_epi64(x, _mm512_set1_epi64((long long)spread));
    }
    x = _mm512_add_epi64(x, _mm512_set1_epi64((long long)base));
    x = _mm512_xor_si512(x, _mm512_srli_epi64(x, 32));
    x = _mm512_mullo_epi64(x, _mm512_set1_epi64((long long)FILTER_MIX));
    __m512i below = _mm512_srl_epi64(x, _mm_cvtsi32_si128((int)filter->shift - 10));
    __m512i words = _mm512_cvtepu32_epi64(
        _mm512_i64gather_epi32(_mm512_srli_epi64(below, 10), filter->words, 4));
    __m512i first = _mm512_srlv_epi64(words, _mm512_and_si512(below, five));
    __m512i second = _mm512_srlv_epi64(words, _mm512_and_si512(_mm512_srli_epi64(below, 5), five));
    return _mm512_test_epi64_mask(_mm512_and_si512(first, second), one);
#else
    uint32_t found = 0;
    for (uint32_t i = 0; i < 8; i++) {
        uint64_t x = base + keep_low(word, 8 * (i + 1)) * spread;
        x = (x ^ (x >> 32)) * FILTER_MIX;
        uint32_t missing = ~filter->words[x >> filter->shift] & smhf_filter_bits(filter, x);
        found |= (uint32_t)(missing == 0) << i;
    }
    return found;
#endif
}

/* --- Words that are no token as a whole ------------------------------------------------------ */

/* Such a word, cut into the longest pieces one after the other. Each step waits for memory, so all
 * words of a block are on their way at once. */
#define HUNT_BYTES 31 /* longest word; longer ones are cut alone */
typedef struct hunt {
    const uint8_t *data;
    uint32_t unit;      /* of its block */
    uint32_t size, at;  /* bytes; `at`: where the next piece begins */
    uint32_t found;     /* bit n - 1: perhaps a key of n bytes begins there */
    uint32_t length;    /* bytes of the key that is looked up now */
    const void *line;   /* where it would be */
    uint64_t low, high; /* 16 bytes from `at` */
    uint32_t count;     /* pieces; 0 in the end: the word is unknown */
    uint8_t ends[HUNT_BYTES + 1];
    int32_t ids[HUNT_BYTES + 1];
} hunt;

/* Turns to the longest key that may be there; 0 when there is none. */
static inline int hunt_aim(const smhf_vocab *vocab, hunt *h) {
    const smhf_word_table *table = &vocab->words[h->at > 0];
    if (h->found == 0) {
        return 0;
    }
    h->length = 32 - (uint32_t)__builtin_clz(h->found);
    h->found ^= 1u << (h->length - 1);
    int is_long = h->length > 8;
    uint64_t low = keep_low(h->low, 8 * h->length);
    uint64_t high = is_long ? keep_low(h->high, 8 * h->length - 64) : 0;
    uint32_t hash = smhf_word_hash(low, high);
    const uint8_t *lines =
        is_long ? (const uint8_t *)table->long_lines : (const uint8_t *)table->short_lines;
    uint32_t number = is_long ? table->long_count : table->short_count;
    h->line = lines + smhf_word_line(hash, number) * SMHF_CACHE_LINE;
    __builtin_prefetch(h->line);
    return 1;
}

/* Asks the filter about all keys that may begin at `at`. */
static inline int hunt_start(const smhf_vocab *vocab, hunt *h) {
    const smhf_key_filter *filter = &vocab->filter;
    uint64_t salt = (h->at > 0) ? FILTER_CONTINUED : 0;
    uint32_t left = h->size - h->at;
    h->low = smhf_load8(h->data + h->at);
    h->high = smhf_load8(h->data + h->at + 8);
    h->found = filter_eight(filter, h->low, 1, salt);
    if (left > 8) {
        h->found |= filter_eight(filter, h->high, FILTER_SPREAD, h->low + salt) << 8;
        if (left > WORD_LONG_BYTES &&
            smhf_filter_has(filter, h->low, h->high, salt + FILTER_LONGER)) {
            size_t most = vocab->others[h->at > 0].max_bytes;
            for (uint32_t n = (left < most) ? left : (uint32_t)most; n > WORD_LONG_BYTES; n--) {
                int32_t id = smhf_vocab_find_other(vocab, h->at > 0, h->data + h->at, n);
                if (id >= 0) { /* a key that no line holds */
                    h->length = n;
                    h->line = NULL;
                    h->ids[h->count] = id;
                    return 1;
                }
            }
        }
    }
    h->found = (uint32_t)keep_low(h->found, left < WORD_LONG_BYTES ? left : WORD_LONG_BYTES);
    return hunt_aim(vocab, h);
}

/* Looks the key up; 1: go on with this word. */
static inline int hunt_look(const smhf_vocab *vocab, hunt *h) {
    uint64_t low = keep_low(h->low, 8 * h->length);
    int32_t id = h->ids[h->count];
    if (h->line != NULL && h->length <= 8) {
        id = look_short(&vocab->words[h->at > 0], h->line, low);
    } else if (h->line != NULL) {
        id = look_long(&vocab->words[h->at > 0], h->line, low,
                       keep_low(h->high, 8 * h->length - 64));
    }
    if (id < 0) {
        if (!hunt_aim(vocab, h)) {
            h->count = 0;
            return 0;
        }
        return 1;
    }
    h->at += h->length;
    h->ids[h->count] = id;
    h->ends[h->count++] = (uint8_t)h->at;
    h->found = 0;
    h->line = NULL;
    h->length = 0; /* the next turn starts at the filter */
    return h->at < h->size;
}

/* The first 16 bytes of a word, zeros behind it. */
static inline void word_key(const uint8_t *data, size_t size, uint64_t key[2]) {
    size_t kept = (size < WORD_LONG_BYTES) ? size : WORD_LONG_BYTES;
    key[0] = keep_low(smhf_load8(data), 8 * kept);
    key[1] = keep_low(smhf_load8(data + 8), kept > 8 ? 8 * kept - 64 : 0);
}

static inline const smhf_cached_word *cache_line(const smhf_cached_word *cache, uint64_t low,
                                                 uint64_t high) {
    return &cache[smhf_word_hash(low, high) & (WORD_CACHE_LINES - 1)];
}

/* A word without pieces becomes the unknown token, if there is one. */
static inline void hunt_settle(hunt *h, int32_t unk_id) {
    if (h->count == 0 && unk_id >= 0) {
        h->ids[0] = unk_id;
        h->ends[0] = (uint8_t)h->size;
        h->count = 1;
    }
}

/* Remembers a word, unless it or the list of its pieces is too long. */
static inline void cache_put(smhf_cached_word *cache, const hunt *h, const uint64_t key[2]) {
    if (h->size > WORD_LONG_BYTES || h->count > CACHED_PIECES) {
        return;
    }
    smhf_cached_word *line = (smhf_cached_word *)cache_line(cache, key[0], key[1]);
    line->low = key[0];
    line->high = key[1];
    memcpy(line->ids, h->ids, sizeof line->ids);
    memcpy(line->ends, h->ends, sizeof line->ends);
    line->count = h->count;
}

/* Hunts for the `left` of them that `active` lists. */
static inline void hunt_listed(const smhf_vocab *vocab, hunt *hunts, uint8_t *active, size_t left) {
    while (left > 0) {
        size_t kept = 0;
        for (size_t i = 0; i < left; i++) {
            hunt *h = &hunts[active[i]];
            if (h->length > 0 || hunt_start(vocab, h)) {
                active[kept++] = active[i];
                continue;
            }
            h->count = 0;
        }
        left = kept;
        kept = 0;
        for (size_t i = 0; i < left; i++) {
            if (hunt_look(vocab, &hunts[active[i]])) {
                active[kept++] = active[i];
            }
        }
        left = kept;
    }
}

/* Takes from the cache what it has and hunts for the others. */
static __attribute__((noinline)) void
hunt_uncached(const smhf_vocab *vocab, const smhf_lane_job *job, hunt *hunts, size_t count) {
    uint8_t active[BLOCK], fresh[BLOCK];
    uint64_t keys[BLOCK][2];
    size_t hunted = 0;
    for (size_t i = 0; i < count; i++) {
        word_key(hunts[i].data, hunts[i].size, keys[i]);
        __builtin_prefetch(cache_line(job->cache, keys[i][0], keys[i][1]));
    }
    for (size_t i = 0; i < count; i++) {
        hunt *h = &hunts[i];
        const smhf_cached_word *line = cache_line(job->cache, keys[i][0], keys[i][1]);
        if (line->low == keys[i][0] && line->high == keys[i][1] && h->size <= WORD_LONG_BYTES) {
            memcpy(h->ids, line->ids, sizeof line->ids);
            memcpy(h->ends, line->ends, sizeof line->ends);
            h->count = (uint32_t)line->count;
            continue;
        }
        active[hunted] = fresh[hunted] = (uint8_t)i;
        hunted++;
        h->at = h->count = h->length = 0;
    }
    hunt_listed(vocab, hunts, active, hunted);
    for (size_t i = 0; i < hunted; i++) {
        hunt_settle(&hunts[fresh[i]], job->unk_id);
        cache_put(job->cache, &hunts[fresh[i]], keys[fresh[i]]);
    }
}

/* Bytes of the longest key that `data` begins with, 0 if none. Keys are whole characters, so what
 * matches ends where a character ends. */
static size_t longest_prefix(const smhf_vocab *vocab, int continued, const uint8_t *data,
                             size_t size, int32_t *id) {
    const smhf_key_filter *filter = &vocab->filter;
    const smhf_word_table *table = &vocab->words[continued];
    uint64_t salt = continued ? FILTER_CONTINUED : 0;
    uint64_t low = smhf_load8(data), high = smhf_load8(data + 8);
    uint32_t found = filter_eight(filter, low, 1, salt);
    found |= filter_eight(filter, high, FILTER_SPREAD, low + salt) << 8;
    if (size > WORD_LONG_BYTES && smhf_filter_has(filter, low, high, salt + FILTER_LONGER)) {
        size_t most = vocab->others[continued].max_bytes;
        for (size_t n = (size < most) ? size : most; n > WORD_LONG_BYTES; n--) {
            if ((*id = smhf_vocab_find_other(vocab, continued, data, n)) >= 0) {
                return n;
            }
        }
    }
    found = (uint32_t)keep_low(found, size < WORD_LONG_BYTES ? size : WORD_LONG_BYTES);
    while (found != 0) {
        uint32_t n = 32 - (uint32_t)__builtin_clz(found);
        *id = (n <= 8) ? find_short(table, keep_low(low, 8 * n))
                       : find_long(table, low, keep_low(high, 8 * n - 64));
        if (*id >= 0) {
            return n;
        }
        found ^= 1u << (n - 1);
    }
    return 0;
}

static inline void put_token(const smhf_lane_scratch *text, const smhf_lane_job *job, int detail,
                             int32_t id, size_t begin, size_t end, smhf_pieces *out, size_t n) {
    out->ids[n] = id;
    if (detail) {
        out->spans[2 * n] = (int32_t)(text->mapped ? text->source[begin] : text->base + begin);
        out->spans[2 * n + 1] =
            (int32_t)(text->mapped ? text->source[end - 1] + 1 : text->base + end);
        out->words[n] = job->word;
    }
}

/* Characters of a word, or the first number beyond `most`. */
static size_t count_chars(const uint8_t *data, size_t size, size_t most) {
    size_t chars = 0;
    for (size_t i = 0; i < size && chars <= most; i++) {
        chars += (data[i] & 0xC0) != 0x80;
    }
    return chars;
}

/* A unit that is no token as a whole. Room for a token a byte is there. */
static __attribute__((noinline)) void put_pieces(const smhf_vocab *vocab,
                                                 const smhf_lane_scratch *text, smhf_lane_job *job,
                                                 int detail, size_t begin, size_t end,
                                                 smhf_pieces *out) {
    const uint8_t *data = text->bytes;
    size_t mark = out->count, at = begin, n = out->count;
    int known = end - begin <= job->max_chars ||
                count_chars(data + begin, end - begin, job->max_chars) <= job->max_chars;
    while (known && at < end) {
        int32_t id;
        size_t size = longest_prefix(vocab, at > begin, data + at, end - at, &id);
        known = size > 0;
        if (known) {
            put_token(text, job, detail, id, at, at + size, out, n++);
            at += size;
        }
    }
    if (!known) { /* one piece fails: the word is unknown as a whole */
        n = mark;
        if (job->unk_id < 0) {
            job->unknown = begin;
            return;
        }
        put_token(text, job, detail, job->unk_id, begin, end, out, n++);
    }
    out->count = n;
}

/* Ids of units [from, from + count), and which of them are no token as a whole: their number. */
static inline size_t look_up(const smhf_word_table *table, const smhf_lane_scratch *text,
                             size_t from, size_t count, int32_t *restrict ids,
                             uint32_t *restrict missing) {
    const uint32_t *starts = text->starts + from, *ends = text->ends + from;
    const uint8_t *bytes = text->bytes;
    size_t misses = 0;
    for (size_t i = 0; i < count; i++) {
        size_t begin = starts[i], size = ends[i] - begin;
        uint64_t low = smhf_load8(bytes + begin);
        int32_t id = -1;
        if (size <= 8) {
            id = find_short(table, keep_low(low, 8 * size));
        } else if (size <= WORD_LONG_BYTES) {
            id = find_long(table, low, keep_low(smhf_load8(bytes + begin + 8), 8 * size - 64));
        }
        ids[i] = id;
        missing[misses] = (uint32_t)i;
        misses += id < 0;
    }
    return misses;
}

/* Units that are tokens, all with an id; room for BLOCK tokens is there. */
static inline void put_run(const smhf_lane_scratch *text, smhf_lane_job *job, int detail,
                           const int32_t *ids, size_t from, size_t count, smhf_pieces *out) {
    size_t n = out->count;
    for (size_t i = 0; i < count; i++) {
        put_token(text, job, detail, ids[i], text->starts[from + i], text->ends[from + i], out,
                  n + i);
        if (detail) {
            job->word += !job->fixed_word;
        }
    }
    out->count = n + count;
}

static inline void put_hunted(const smhf_lane_scratch *text, smhf_lane_job *job, int detail,
                              size_t begin, const hunt *h, smhf_pieces *out) {
    size_t n = out->count, from = begin;
    if (h->count == 0) {
        job->unknown = begin;
    }
    for (size_t i = 0; i < h->count; i++) {
        size_t to = begin + h->ends[i];
        put_token(text, job, detail, h->ids[i], from, to, out, n++);
        from = to;
    }
    out->count = n;
}

static inline smhf_status match_units(const smhf_vocab *vocab, const smhf_lane_scratch *text,
                                      smhf_lane_job *job, int detail, smhf_pieces *out,
                                      smhf_error *err) {
    const smhf_word_table *whole = &vocab->words[0];
    size_t units = text->units,
           hunted_bytes = (job->max_chars < HUNT_BYTES) ? job->max_chars : HUNT_BYTES;
    int32_t ids[BLOCK];
    uint32_t missing[BLOCK + 1];
    hunt hunts[BLOCK];
    for (size_t from = 0; from < units && out->count < job->stop; from += BLOCK) {
        size_t count = (units - from < BLOCK) ? units - from : BLOCK;
        size_t room = BLOCK, waiting = 0, done = 0;
        size_t misses = look_up(whole, text, from, count, ids, missing);
        for (size_t i = 0; i < misses; i++) {
            size_t begin = text->starts[from + missing[i]];
            size_t size = text->ends[from + missing[i]] - begin;
            room += size;
            if (size <= hunted_bytes) {
                hunts[waiting].data = text->bytes + begin;
                hunts[waiting++].size = (uint32_t)size;
            }
        }
        SMHF_TRY(smhf_pieces_reserve(out, out->count + room, err));
        if (waiting > 0) {
            hunt_uncached(vocab, job, hunts, waiting);
        }
        waiting = 0;
        for (size_t i = 0; i < misses; i++) {
            put_run(text, job, detail, ids + done, from + done, missing[i] - done, out);
            if (out->count >= job->stop) {
                return SMHF_OK;
            }
            done = missing[i];
            size_t begin = text->starts[from + done], end = text->ends[from + done];
            if (end - begin <= hunted_bytes) {
                put_hunted(text, job, detail, begin, &hunts[waiting++], out);
            } else {
                put_pieces(vocab, text, job, detail, begin, end, out);
            }
            if (job->unknown != SIZE_MAX) {
                return SMHF_OK;
            }
            if (detail) {
                job->word += !job->fixed_word;
            }
            done++;
        }
        put_run(text, job, detail, ids + done, from + done, count - done, out);
    }
    return SMHF_OK;
}
