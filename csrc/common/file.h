/* file.h: read-only maps, whole-file reads, and writes that are either whole or absent.
 *
 * Sentences name the path. Threads: no shared state.
 */
#ifndef SMHF_COMMON_FILE_H
#define SMHF_COMMON_FILE_H

#include "common/bytes.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Maps a regular file read-only (an empty file gives {NULL, 0}). Borrowed until unmap. A file
 * that shrinks under the map raises SIGBUS: callers map only files that are replaced atomically. */
smhf_status smhf_file_map(const char *path, smhf_bytes_view *out, smhf_error *err) SMHF_MUST_USE;
/* The same, and the descriptor stays open for smhf_file_read_at; caller closes it with
 * smhf_file_close. -1 for an empty file. */
smhf_status smhf_file_map_open(const char *path, smhf_bytes_view *out, int *fd,
                               smhf_error *err) SMHF_MUST_USE;
/* Exactly `size` bytes from `offset`; a file that ends before is SMHF_E_IO. Unlike a map it leaves
 * no pages behind. May be called from several threads. */
smhf_status smhf_file_read_at(int fd, const char *path, uint64_t offset, void *out, size_t size,
                              smhf_error *err) SMHF_MUST_USE;
void smhf_file_close(int *fd); /* -1 is fine; leaves -1 */
/* The whole pages inside this part of a map will not be read soon: they stop counting as this
 * process's memory, and are read again from the file if they are needed after all. */
void smhf_file_map_forget(smhf_bytes_view part);
/* {NULL, 0} is fine; sets it to {NULL, 0}. */
void smhf_file_unmap(smhf_bytes_view *view);
/* Appends the whole file to `out`, whose limit bounds it. */
smhf_status smhf_file_read(const char *path, smhf_buffer *out, smhf_error *err) SMHF_MUST_USE;

/* A file that appears under its name only when complete: bytes go to `path`.tmp-<pid>-<n> in the
 * same folder; commit flushes, fsyncs, renames over `path` and fsyncs the folder. */
typedef struct smhf_file_writer smhf_file_writer;
smhf_status smhf_file_writer_open(const char *path, smhf_file_writer **out,
                                  smhf_error *err) SMHF_MUST_USE;
smhf_status smhf_file_writer_write(smhf_file_writer *writer, const void *data, size_t size,
                                   smhf_error *err) SMHF_MUST_USE;
/* Ends the writer whether it succeeds or not. */
smhf_status smhf_file_writer_commit(smhf_file_writer *writer, smhf_error *err) SMHF_MUST_USE;
/* Removes the temporary file and ends the writer. NULL is fine. */
void smhf_file_writer_abort(smhf_file_writer *writer);
/* open + write + commit */
smhf_status smhf_file_write_atomic(const char *path, smhf_bytes_view data,
                                   smhf_error *err) SMHF_MUST_USE;

#ifdef __cplusplus
}
#endif
#endif
