/* archive.h: model.tar.gz and sourcedir.tar.gz, read with suspicion and written reproducibly.
 *
 * Reading takes ustar, pax and GNU long names, gzip or plain. Regular files and directories only:
 * links, devices, FIFOs, absolute names, "..", NUL bytes, duplicate names are refused by name
 * before anything of that member is written. Members are created below a directory descriptor
 * with openat, O_NOFOLLOW and O_EXCL; modes are masked to 0644 / 0755. Threads: no shared state.
 */
#ifndef SMHF_COMMON_ARCHIVE_H
#define SMHF_COMMON_ARCHIVE_H

#include "common/status.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct smhf_archive_limits {
    size_t max_members; /* 10,000 */
    uint64_t max_bytes; /* 64 GiB of file content in all */
    uint64_t max_ratio; /* 200: content bytes per compressed byte, once past 1 MiB */
    size_t max_name;    /* 4,096 bytes */
} smhf_archive_limits;

#define SMHF_ARCHIVE_LIMITS_DEFAULTS                                                               \
    { 10000, (uint64_t)64 << 30, 200, 4096 }

/* Extracts into `folder`, which must exist and be empty. On failure what was written is removed
 * again and the sentence names archive, member and reason. `limits` NULL takes the defaults. */
smhf_status smhf_archive_extract(const char *path, const char *folder,
                                 const smhf_archive_limits *limits, smhf_error *err) SMHF_MUST_USE;

/* Packs the children of `folder` (recursively, sorted, mtime 0, uid 0; links are refused) into a
 * gzip tar at `path`, atomically. */
smhf_status smhf_archive_create(const char *path, const char *folder,
                                smhf_error *err) SMHF_MUST_USE;

#ifdef __cplusplus
}
#endif
#endif
