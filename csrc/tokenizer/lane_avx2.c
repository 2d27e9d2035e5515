/* lane_avx2.c: the loops of lane_body.h for processors with AVX2. */
#include "tokenizer/tokenizer_internal.h"

#include "common/mem.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,bmi,bmi2,lzcnt,popcnt"))),                \
                             apply_to = function)
#else
#pragma GCC target("avx2,bmi,bmi2,lzcnt,popcnt")
#endif
#define TIER 1
#define TIER_NAME "avx2"
#define TIER_TABLE smhf_lane_avx2
#include "tokenizer/lane_body.h"
#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
