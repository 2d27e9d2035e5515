/* lane.c: the tier in force, and the scratch that all tiers write. */
#include "tokenizer/tokenizer_internal.h"

#include "common/mem.h"

#include <stdlib.h>
#include <string.h>

/* A tier is offered when the processor has it and the system saves its registers. */
static const smhf_lane *best_lane(void) {
#if defined(__x86_64__) && defined(__GNUC__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("bmi2") ||
        !__builtin_cpu_supports("bmi")) {
        return &smhf_lane_scalar;
    }
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
        return &smhf_lane_avx512;
    }
    return &smhf_lane_avx2;
#else
    return &smhf_lane_scalar;
#endif
}

const smhf_lane *smhf_lane_pick(void) {
    const smhf_lane *best = best_lane();
    const char *wanted = getenv("SMHF_CPU_TIER"); /* "avx512-vnni", "amx" mean all of AVX-512 */
    if (wanted == NULL || best == &smhf_lane_scalar) {
        return best;
    }
    if (strcmp(wanted, "scalar") == 0) {
        return &smhf_lane_scalar;
    }
#if defined(__x86_64__) && defined(__GNUC__)
    if (strncmp(wanted, "avx2", 4) == 0) {
        return &smhf_lane_avx2;
    }
#endif
    return best;
}

const char *smhf_tokenizer_tier(void) {
    return smhf_lane_pick()->tier;
}

void smhf_lane_scratch_deinit(smhf_lane_scratch *scratch) {
    smhf_free(scratch->bytes);
    smhf_free(scratch->space);
    smhf_free(scratch->edge);
    smhf_free(scratch->source);
    smhf_free(scratch->starts);
    smhf_free(scratch->ends);
    memset(scratch, 0, sizeof *scratch);
}

smhf_status smhf_lane_reserve(smhf_lane_scratch *scratch, size_t bytes, smhf_error *err) {
    if (bytes <= scratch->capacity && scratch->bytes != NULL) {
        return SMHF_OK;
    }
    size_t wanted = bytes + bytes / 2 + 256, have = 0;
    size_t words = wanted / 64 + LANE_SLACK / 64 + 2;
    scratch->capacity = 0; /* until all three have grown */
    SMHF_TRY(smhf_grow(&scratch->bytes, &have, wanted + LANE_SLACK, 1, err));
    have = 0;
    SMHF_TRY(smhf_grow(&scratch->space, &have, words, sizeof *scratch->space, err));
    have = 0;
    SMHF_TRY(smhf_grow(&scratch->edge, &have, words, sizeof *scratch->edge, err));
    scratch->capacity = wanted;
    return SMHF_OK;
}

smhf_status smhf_lane_reserve_source(smhf_lane_scratch *scratch, smhf_error *err) {
    return smhf_grow(&scratch->source, &scratch->source_capacity, scratch->capacity + LANE_SLACK,
                     sizeof *scratch->source, err);
}

smhf_status smhf_lane_reserve_units(smhf_lane_scratch *scratch, size_t units, smhf_error *err) {
    size_t starts = scratch->unit_capacity, ends = starts;
    if (units + 64 <= starts) {
        return SMHF_OK;
    }
    scratch->unit_capacity = 0;
    SMHF_TRY(smhf_grow(&scratch->starts, &starts, units + 64, sizeof *scratch->starts, err));
    SMHF_TRY(smhf_grow(&scratch->ends, &ends, units + 64, sizeof *scratch->ends, err));
    scratch->unit_capacity = (starts < ends) ? starts : ends;
    return SMHF_OK;
}

smhf_status smhf_pieces_reserve(smhf_pieces *pieces, size_t count, smhf_error *err) {
    size_t ids = pieces->capacity, spans = ids, words = ids;
    if (count <= ids) {
        return SMHF_OK;
    }
    pieces->capacity = 0;
    SMHF_TRY(smhf_grow(&pieces->ids, &ids, count, sizeof *pieces->ids, err));
    SMHF_TRY(smhf_grow(&pieces->spans, &spans, count, 2 * sizeof *pieces->spans, err));
    SMHF_TRY(smhf_grow(&pieces->words, &words, count, sizeof *pieces->words, err));
    pieces->capacity = ids;
    return SMHF_OK;
}
