/* inflate.h: gzip streams. The only room with zlib.
 *
 *     smhf_inflate *in;
 *     SMHF_TRY(smhf_inflate_open("trace.json.gz", &in, err));     // plain files pass through
 *     status = smhf_inflate_read(in, window, sizeof window, &got, err);  // got 0: end
 *     smhf_inflate_close(in);
 *
 * Reading sniffs the magic 1f 8b, takes several members in a row, and reports a cut stream as
 * SMHF_E_PARSE with the compressed offset, after handing out every whole byte before the cut.
 * Threads: one owner at a time.
 */
#ifndef SMHF_COMMON_INFLATE_H
#define SMHF_COMMON_INFLATE_H

#include "common/file.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct smhf_inflate smhf_inflate;

smhf_status smhf_inflate_open(const char *path, smhf_inflate **out, smhf_error *err) SMHF_MUST_USE;
/* Up to `size` bytes; fewer only at the end, or before a fault that the next call reports. */
smhf_status smhf_inflate_read(smhf_inflate *stream, void *out, size_t size, size_t *got,
                              smhf_error *err) SMHF_MUST_USE;
/* Compressed bytes consumed so far; equals the bytes handed out for a plain file. */
uint64_t smhf_inflate_consumed(const smhf_inflate *stream);
/* 1 when the file is gzip, 0 when it passes through. */
int smhf_inflate_is_gzip(const smhf_inflate *stream);
/* NULL is fine. */
void smhf_inflate_close(smhf_inflate *stream);

/* Writing: gzip level 6, no name and mtime 0 in the header, so equal input gives equal bytes. The
 * file appears when finished (file.h). finish ends the stream whether it succeeds or not. */
typedef struct smhf_deflate smhf_deflate;
smhf_status smhf_deflate_open(const char *path, smhf_deflate **out, smhf_error *err) SMHF_MUST_USE;
smhf_status smhf_deflate_write(smhf_deflate *stream, const void *data, size_t size,
                               smhf_error *err) SMHF_MUST_USE;
smhf_status smhf_deflate_finish(smhf_deflate *stream, smhf_error *err) SMHF_MUST_USE;
/* Drops the unfinished file. NULL is fine. */
void smhf_deflate_abort(smhf_deflate *stream);

#ifdef __cplusplus
}
#endif
#endif
