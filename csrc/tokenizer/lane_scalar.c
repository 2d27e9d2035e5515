/* lane_scalar.c: the loops of lane_body.h in plain C, for every processor. */
#include "tokenizer/tokenizer_internal.h"

#include "common/mem.h"

#define TIER 0
#define TIER_NAME "scalar"
#define TIER_TABLE smhf_lane_scalar
#include "tokenizer/lane_body.h"
