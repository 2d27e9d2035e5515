/* lane_avx512.c: the loops of lane_body.h for processors with AVX-512. */
#include "tokenizer/tokenizer_internal.h"

#include "common/mem.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#ifdef __clang__
#pragma clang attribute push(                                                                      \
    __attribute__((target("avx2,bmi,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512dq,avx512vl"))),      \
    apply_to = function)
#else
#pragma GCC target("avx2,bmi,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512dq,avx512vl")
#endif
#define TIER 2
#define TIER_NAME "avx512"
#define TIER_TABLE smhf_lane_avx512
#include "tokenizer/lane_body.h"
#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
