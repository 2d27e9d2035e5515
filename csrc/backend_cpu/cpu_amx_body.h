/* cpu_amx_body.h: int8 and bf16 tiles of 32 x 32 as 2 x 2 AMX tiles; included by cpu_amx.c over the
 * instructions and by cpu_amx_plain.c over plain C.
 *
 * Tiles 0 .. 3 hold sums, 4 and 5 rows of a, 6 and 7 the two halves of a panel's lines. With up to
 * 16 rows the lower half is left out; each row's sums are the same. */

/* One step over 16 lines: four loads for four products. */
#define AMX_STEP(DOT)                                                                              \
    amx_load(tiles, 4, upper, stride);                                                             \
    amx_load(tiles, 6, line, CPU_LOWP_LINE);                                                       \
    DOT(tiles, 0, 4, 6);                                                                           \
    amx_load(tiles, 7, line + 64, CPU_LOWP_LINE);                                                  \
    DOT(tiles, 1, 4, 7);                                                                           \
    if (tall) {                                                                                    \
        amx_load(tiles, 5, upper + 16 * stride, stride);                                           \
        DOT(tiles, 2, 5, 6);                                                                       \
        DOT(tiles, 3, 5, 7);                                                                       \
    }

#define AMX_TILE(DOT, sums, ld_bytes)                                                              \
    amx_tiles tiles;                                                                               \
    (void)tiles;                                                                                   \
    int tall = rows > 16;                                                                          \
    amx_zero(tiles, 0);                                                                            \
    amx_zero(tiles, 1);                                                                            \
    amx_zero(tiles, 2);                                                                            \
    amx_zero(tiles, 3);                                                                            \
    for (int32_t at = 0; at < lines; at += CPU_LOWP_LINES) {                                       \
        AMX_STEP(DOT)                                                                              \
        upper += 64;                                                                               \
        line += (size_t)CPU_LOWP_LINES * CPU_LOWP_LINE;                                            \
    }                                                                                              \
    char *to = (char *)(sums);                                                                     \
    amx_store(tiles, 0, to, ld_bytes);                                                             \
    amx_store(tiles, 1, to + 64, ld_bytes);                                                        \
    if (tall) {                                                                                    \
        amx_store(tiles, 2, to + 16 * (ld_bytes), ld_bytes);                                       \
        amx_store(tiles, 3, to + 16 * (ld_bytes) + 64, ld_bytes);                                  \
    }

AMX_TARGET static void tile_i8(int32_t *sums, const uint8_t *a, int64_t lda, const int8_t *panel,
                               int32_t lines, int rows) {
    const char *upper = (const char *)a, *line = (const char *)panel;
    const int64_t stride = lda, width = CPU_LOWP_COLS * (int64_t)sizeof *sums;
    AMX_TILE(amx_dot_u8s8, sums, width)
}

AMX_TARGET static void tile_bf16(float *sums, int64_t ld, const void *a, int64_t lda,
                                 const uint16_t *panel, int32_t lines, int rows) {
    const char *upper = a, *line = (const char *)panel;
    const int64_t stride = 2 * lda, width = ld * (int64_t)sizeof *sums;
    AMX_TILE(amx_dot_bf16, sums, width)
}
