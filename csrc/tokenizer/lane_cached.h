/* lane_cached.h: units of normalized text → tokens, for vocabularies beyond a core's own caches;
 * the other way of lane_match.h, compiled once per tier after it.
 *
 * A probe of their tables waits for memory further away, and that of a word which is no token waits
 * in vain. So each unit is looked for among the last words of this thread first, whatever they
 * became: two thirds are there in prose of many languages. What is not is hunted for at once; the
 * longest piece may be the whole word.
 */

/* Starts loading the cache's lines of the first units. */
static void aim(const smhf_cached_word *cache, const smhf_lane_scratch *text) {
    size_t count = (text->units < BLOCK) ? text->units : BLOCK;
    for (size_t i = 0; i < count; i++) {
        uint64_t key[2];
        word_key(text->bytes + text->starts[i], text->ends[i] - text->starts[i], key);
        __builtin_prefetch(cache_line(cache, key[0], key[1]));
    }
}

/* What became of a unit: a line of the cache, or a hunt. */
typedef struct found {
    const int32_t *ids;
    const uint8_t *ends;
    uint32_t count;
} found;

/* The pieces of a unit. Eight are copied whatever their number: it cannot be guessed. */
static inline void put_found(const smhf_lane_scratch *text, smhf_lane_job *job, int detail,
                             size_t begin, const found *unit, smhf_pieces *out) {
    size_t n = out->count, from = begin;
    if (unit->count == 0) {
        job->unknown = begin;
    }
    if (!detail) {
        memcpy(out->ids + n, unit->ids, CACHED_PIECES * sizeof *out->ids);
        for (size_t i = CACHED_PIECES; i < unit->count; i++) {
            out->ids[n + i] = unit->ids[i];
        }
        out->count = n + unit->count;
        return;
    }
    for (size_t i = 0; i < unit->count; i++) {
        size_t to = begin + unit->ends[i];
        put_token(text, job, detail, unit->ids[i], from, to, out, n++);
        from = to;
    }
    out->count = n;
}

/* --- The block ------------------------------------------------------------------------------- */

/* Units [from, from + count) that the cache does not have, as bits; *found of the others. */
static inline uint32_t ask_cache(const smhf_cached_word *cache, const smhf_lane_scratch *text,
                                 size_t from, size_t count, uint64_t keys[BLOCK][2],
                                 found *restrict out) {
    uint32_t missing = 0;
    for (size_t i = 0; i < count; i++) {
        size_t begin = text->starts[from + i], size = text->ends[from + i] - begin;
        word_key(text->bytes + begin, size, keys[i]);
        const smhf_cached_word *line = cache_line(cache, keys[i][0], keys[i][1]);
        uint32_t miss =
            (line->low != keys[i][0]) | (line->high != keys[i][1]) | (size > WORD_LONG_BYTES);
        missing |= miss << i;
        out[i] = (found){line->ids, line->ends, (uint32_t)line->count};
    }
    return missing;
}

static inline smhf_status match_cached(const smhf_vocab *vocab, const smhf_lane_scratch *text,
                                       smhf_lane_job *job, int detail, smhf_pieces *out,
                                       smhf_error *err) {
    size_t hunted_bytes = (job->max_chars < HUNT_BYTES) ? job->max_chars : HUNT_BYTES;
    uint64_t keys[BLOCK][2];
    found units[BLOCK];
    hunt hunts[BLOCK];
    uint8_t active[BLOCK];
    for (size_t from = 0; from < text->units && out->count < job->stop; from += BLOCK) {
        size_t count = (text->units - from < BLOCK) ? text->units - from : BLOCK;
        size_t room = BLOCK * (HUNT_BYTES + 1), waiting = 0;
        uint32_t missing = ask_cache(job->cache, text, from, count, keys, units);
        for (uint32_t rest = missing; rest != 0; rest &= rest - 1) {
            size_t i = (size_t)__builtin_ctz(rest), begin = text->starts[from + i];
            size_t size = text->ends[from + i] - begin;
            hunt *h = &hunts[waiting];
            if (size > hunted_bytes) {
                units[i].ids = NULL;
                room += size;
                continue;
            }
            h->data = text->bytes + begin;
            h->size = (uint32_t)size;
            h->unit = (uint32_t)i;
            h->at = h->count = h->length = 0;
            active[waiting] = (uint8_t)waiting;
            waiting++;
        }
        SMHF_TRY(smhf_pieces_reserve(out, out->count + room, err));
        if (waiting > 0) {
            hunt_listed(vocab, hunts, active, waiting);
            for (size_t w = 0; w < waiting; w++) {
                hunt_settle(&hunts[w], job->unk_id);
                units[hunts[w].unit] = (found){hunts[w].ids, hunts[w].ends, hunts[w].count};
            }
        }
        for (size_t i = 0; i < count; i++) {
            size_t begin = text->starts[from + i], end = text->ends[from + i];
            if (units[i].ids == NULL) {
                put_pieces(vocab, text, job, detail, begin, end, out);
            } else {
                put_found(text, job, detail, begin, &units[i], out);
            }
            if (job->unknown != SIZE_MAX) {
                return SMHF_OK;
            }
            if (detail) {
                job->word += !job->fixed_word;
            }
        }
        for (size_t w = 0; w < waiting; w++) {
            cache_put(job->cache, &hunts[w], keys[hunts[w].unit]);
        }
    }
    return SMHF_OK;
}

static smhf_status match(const smhf_vocab *vocab, const smhf_lane_scratch *text, smhf_lane_job *job,
                         smhf_pieces *out, smhf_error *err) {
    job->unknown = SIZE_MAX;
    if (vocab->large) {
        return job->detail ? match_cached(vocab, text, job, 1, out, err)
                           : match_cached(vocab, text, job, 0, out, err);
    }
    return job->detail ? match_units(vocab, text, job, 1, out, err)
                       : match_units(vocab, text, job, 0, out, err);
}
