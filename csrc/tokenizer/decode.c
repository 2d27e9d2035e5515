/* decode.c: ids → text, as the WordPiece decoder of the reference joins and cleans tokens. */
#include "tokenizer/tokenizer_internal.h"

#include <string.h>

/* Applied one after the other to each token (with its leading space), so that most of them can
 * only fire at a token's start. */
static const char *const cleanups[][2] = {
    {" .", "."},   {" ?", "?"},     {" !", "!"},     {" ,", ","},
    {" ' ", "'"},  {" n't", "n't"}, {" 'm", "'m"},   {" do not", " don't"},
    {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"},
};

/* Replaces every `from` in out[begin..size) by the shorter or equal `to`. */
static void replace_all(smhf_buffer *out, size_t begin, const char *from, const char *to) {
    size_t n = strlen(from), m = strlen(to), write = begin, read = begin;
    SMHF_ASSERT(m <= n);
    while (read < out->size) {
        if (out->size - read >= n && memcmp(out->data + read, from, n) == 0) {
            memcpy(out->data + write, to, m);
            write += m;
            read += n;
        } else {
            out->data[write++] = out->data[read++];
        }
    }
    out->size = write;
}

/* The first `prefix` goes, wherever the reference's replace-once would find it: at the start. */
static smhf_bytes_view without_prefix(smhf_bytes_view token, smhf_bytes_view prefix, int *glued) {
    *glued = token.size >= prefix.size && prefix.size > 0 &&
             memcmp(token.data, prefix.data, prefix.size) == 0;
    if (prefix.size == 0) {
        *glued = 1;
    }
    if (*glued && prefix.size > 0) {
        token.data += prefix.size;
        token.size -= prefix.size;
    }
    return token;
}

smhf_status smhf_tokenizer_decode(const smhf_tokenizer *tokenizer, const int32_t *ids, size_t count,
                                  int skip_special_tokens, int cleanup, smhf_buffer *out,
                                  smhf_error *err) {
    int first = 1;
    int clean = (cleanup == SMHF_UNSET) ? tokenizer->info.decode_cleanup : cleanup;
    for (size_t i = 0; i < count; i++) {
        smhf_bytes_view token;
        int glued = 0;
        size_t begin = out->size;
        if (!smhf_tokenizer_id_to_token(tokenizer, ids[i], &token) ||
            (skip_special_tokens && smhf_tokenizer_is_special(tokenizer, ids[i]))) {
            continue;
        }
        if (!first && tokenizer->has_decoder) {
            token = without_prefix(token, tokenizer->decoder_prefix, &glued);
        }
        if (!first && !glued) {
            SMHF_TRY(smhf_buffer_append_byte(out, ' ', err));
        }
        SMHF_TRY(smhf_buffer_append(out, token.data, token.size, err));
        if (tokenizer->has_decoder && clean) {
            for (size_t k = 0; k < sizeof cleanups / sizeof *cleanups; k++) {
                replace_all(out, begin, cleanups[k][0], cleanups[k][1]);
            }
        }
        first = 0;
    }
    return SMHF_OK;
}
