/* cpu_amx.h: the tile operations behind the AMX kernels; private to backend_cpu.
 *
 * Eight tiles of 16 rows x 64 bytes. The includer defines CPU_AMX_PLAIN to get them in plain C, bit
 * for bit as the manual defines them, so that cpu_amx_body.h is compiled and tested where there is
 * no AMX; otherwise they are the instructions. Tile numbers are constants.
 *
 *     amx_tiles tiles;
 *     amx_zero(tiles, 0);
 *     amx_load(tiles, 4, a, lda);      // 16 rows, lda bytes apart
 *     amx_load(tiles, 6, b, 128);
 *     amx_dot_u8s8(tiles, 0, 4, 6);
 *     amx_store(tiles, 0, sums, ld);
 *
 * Threads: a thread configures its tiles (amx_begin) before it uses them. */
#ifndef SMHF_BACKEND_CPU_CPU_AMX_H
#define SMHF_BACKEND_CPU_CPU_AMX_H

#include <stdint.h>
#include <string.h>

#ifdef CPU_AMX_PLAIN

#define AMX_TARGET

typedef struct amx_tiles {
    uint8_t tile[8][16][64];
} amx_tiles;

#define amx_begin NULL
#define amx_end NULL

#define amx_zero(tiles, t) memset((tiles).tile[t], 0, sizeof(tiles).tile[t])

static inline void amx_copy_in(uint8_t (*tile)[64], const void *from, int64_t stride) {
    for (int r = 0; r < 16; r++) {
        memcpy(tile[r], (const char *)from + r * stride, 64);
    }
}

static inline void amx_copy_out(void *to, int64_t stride, uint8_t (*tile)[64]) {
    for (int r = 0; r < 16; r++) {
        memcpy((char *)to + r * stride, tile[r], 64);
    }
}

#define amx_load(tiles, t, from, stride) amx_copy_in((tiles).tile[t], from, stride)
#define amx_store(tiles, t, to, stride) amx_copy_out(to, stride, (tiles).tile[t])

/* tdpbusd: c[m][n] += sum of four u8 a[m][k] * s8 b[k][n], in wrapping int32 */
static inline void amx_plain_u8s8(uint8_t (*c)[64], uint8_t (*a)[64], uint8_t (*b)[64]) {
    for (int m = 0; m < 16; m++) {
        uint32_t sum[16];
        memcpy(sum, c[m], sizeof sum);
        for (int k = 0; k < 16; k++) {
            for (int n = 0; n < 16; n++) {
                for (int i = 0; i < 4; i++) {
                    sum[n] += (uint32_t)((int32_t)a[m][4 * k + i] * (int8_t)b[k][4 * n + i]);
                }
            }
        }
        memcpy(c[m], sum, sizeof sum);
    }
}

/* bf16 to fp32, subnormals to zero */
static inline float amx_plain_value(const uint8_t *at) {
    uint16_t half;
    memcpy(&half, at, sizeof half);
    uint32_t bits = (half & 0x7F80u) == 0 ? (uint32_t)(half & 0x8000u) << 16 : (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* tdpbf16ps: even and odd products are summed apart over the tile, each with one rounding a step;
 * then c += even + odd */
static inline void amx_plain_bf16(uint8_t (*c)[64], uint8_t (*a)[64], uint8_t (*b)[64]) {
    for (int m = 0; m < 16; m++) {
        float even[16] = {0}, odd[16] = {0}, sum[16];
        memcpy(sum, c[m], sizeof sum);
        for (int k = 0; k < 16; k++) {
            float a0 = amx_plain_value(a[m] + 4 * k), a1 = amx_plain_value(a[m] + 4 * k + 2);
            for (int n = 0; n < 16; n++) {
                /* products of bf16 are exact in fp32: one rounding, as the instruction does */
                even[n] += a0 * amx_plain_value(b[k] + 4 * n);
                odd[n] += a1 * amx_plain_value(b[k] + 4 * n + 2);
            }
        }
        for (int n = 0; n < 16; n++) {
            sum[n] += even[n] + odd[n];
        }
        memcpy(c[m], sum, sizeof sum);
    }
}

#define amx_dot_u8s8(tiles, c, a, b)                                                               \
    amx_plain_u8s8((tiles).tile[c], (tiles).tile[a], (tiles).tile[b])
#define amx_dot_bf16(tiles, c, a, b)                                                               \
    amx_plain_bf16((tiles).tile[c], (tiles).tile[a], (tiles).tile[b])

#else

#include <immintrin.h>

#define AMX_TARGET __attribute__((target("amx-tile,amx-int8,amx-bf16")))

/* The registers are the processor's. */
typedef struct amx_tiles {
    char unused;
} amx_tiles;

typedef struct amx_configuration {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} amx_configuration;

AMX_TARGET static void amx_begin(void) {
    amx_configuration config = {.palette = 1};
    for (int t = 0; t < 8; t++) {
        config.row_bytes[t] = 64;
        config.rows[t] = 16;
    }
    /* gcc 12 thinks that loadconfig reads 8 bytes: all 64 must have been stored before it */
    __asm__ volatile("" : : "r"(&config) : "memory");
    _tile_loadconfig(&config);
}

AMX_TARGET static void amx_end(void) {
    _tile_release();
}

#define amx_zero(tiles, t) _tile_zero(t)
#define amx_load(tiles, t, from, stride) _tile_loadd(t, from, stride)
#define amx_store(tiles, t, to, stride) _tile_stored(t, to, stride)
#define amx_dot_u8s8(tiles, c, a, b) _tile_dpbusd(c, a, b)
#define amx_dot_bf16(tiles, c, a, b) _tile_dpbf16ps(c, a, b)

#endif
#endif
