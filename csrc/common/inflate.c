#include "common/inflate.h"

#include "common/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>
#ifdef SMHF_NO_ZLIB
#include "common/zlib_absent.h"
#else
#include <zlib.h>
#endif

#define WINDOW ((size_t)64 * 1024)
#define GZIP_WINDOW_BITS (15 + 16)

/* zlib allocates through us so that counters and fault injection see it. */
static void *zlib_alloc(void *opaque, unsigned count, unsigned size) {
    (void)opaque;
    return smhf_calloc(count, size);
}

static void zlib_free(void *opaque, void *block) {
    (void)opaque;
    smhf_free(block);
}

static smhf_status fail_start(int code, const char *path, smhf_error *err) {
    if (code == Z_VERSION_ERROR) {
        return smhf_fail(err, SMHF_E_UNSUPPORTED, "%s: this build has no zlib for compressed files",
                         path);
    }
    return smhf_fail_nomem(err, path, WINDOW);
}

struct smhf_inflate {
    int fd;
    int gzip;
    int inside_member; /* gzip: between a member's header and its trailer */
    int input_ended;
    int z_ready;
    uint64_t read_bytes; /* taken from the file */
    size_t at;           /* plain: first unread byte of window */
    size_t filled;
    z_stream z;
    char *path;
    uint8_t window[WINDOW];
};

static smhf_status refill(smhf_inflate *stream, smhf_error *err) {
    ssize_t got;
    do {
        got = read(stream->fd, stream->window, WINDOW);
    } while (got < 0 && errno == EINTR);
    if (got < 0) {
        char text[128];
        return smhf_fail(err, SMHF_E_IO, "%s: cannot read: %s", stream->path,
                         strerror_r(errno, text, sizeof text));
    }
    stream->input_ended = (got == 0);
    stream->read_bytes += (uint64_t)got;
    stream->at = 0;
    stream->filled = (size_t)got;
    stream->z.next_in = stream->window;
    stream->z.avail_in = (uInt)got;
    return SMHF_OK;
}

smhf_status smhf_inflate_open(const char *path, smhf_inflate **out, smhf_error *err) {
    smhf_status status = SMHF_OK;
    smhf_inflate *stream = smhf_malloc(sizeof *stream);
    *out = NULL;
    if (stream == NULL) {
        return smhf_fail_nomem(err, path, sizeof *stream);
    }
    memset(stream, 0, offsetof(struct smhf_inflate, window));
    stream->fd = -1;
    stream->path = smhf_strdup(path);
    if (stream->path == NULL) {
        status = smhf_fail_nomem(err, path, strlen(path));
        goto done;
    }
    stream->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (stream->fd < 0) {
        char text[128];
        status = smhf_fail(err, SMHF_E_IO, "%s: cannot open: %s", path,
                           strerror_r(errno, text, sizeof text));
        goto done;
    }
    status = refill(stream, err);
    if (status != SMHF_OK) {
        goto done;
    }
    stream->gzip = stream->filled >= 2 && stream->window[0] == 0x1F && stream->window[1] == 0x8B;
    if (stream->gzip) {
        stream->z.zalloc = zlib_alloc;
        stream->z.zfree = zlib_free;
        const int code = inflateInit2(&stream->z, GZIP_WINDOW_BITS);
        if (code != Z_OK) {
            status = fail_start(code, path, err);
            goto done;
        }
        stream->z_ready = 1;
        stream->inside_member = 1;
    }
    *out = stream;

done:
    if (status != SMHF_OK) {
        smhf_inflate_close(stream);
    }
    return status;
}

static smhf_status read_plain(smhf_inflate *stream, uint8_t *out, size_t size, size_t *got,
                              smhf_error *err) {
    while (*got < size && !stream->input_ended) {
        if (stream->at == stream->filled) {
            SMHF_TRY(refill(stream, err));
            continue;
        }
        size_t part = stream->filled - stream->at;
        part = (part < size - *got) ? part : size - *got;
        memcpy(out + *got, stream->window + stream->at, part);
        stream->at += part;
        *got += part;
    }
    return SMHF_OK;
}

static smhf_status fail_gzip(const smhf_inflate *stream, const char *why, smhf_error *err) {
    return smhf_fail_at(err, SMHF_E_PARSE, smhf_inflate_consumed(stream),
                        "%s: gzip %s at compressed byte %llu", stream->path, why,
                        (unsigned long long)smhf_inflate_consumed(stream));
}

/* After a member's trailer: 1 when another member follows (its magic is there), else 0. */
static smhf_status next_member(smhf_inflate *stream, smhf_error *err) {
    if (stream->z.avail_in == 0) {
        SMHF_TRY(refill(stream, err));
    }
    if (stream->z.avail_in == 0) {
        return SMHF_OK;
    }
    if (stream->z.next_in[0] != 0x1F) {
        return fail_gzip(stream, "has trailing bytes after its end", err);
    }
    if (inflateReset(&stream->z) != Z_OK) {
        return fail_gzip(stream, "state is broken", err);
    }
    stream->inside_member = 1;
    return SMHF_OK;
}

static smhf_status read_gzip(smhf_inflate *stream, uint8_t *out, size_t size, size_t *got,
                             smhf_error *err) {
    stream->z.next_out = out;
    stream->z.avail_out = (uInt)size;
    while (stream->z.avail_out > 0) {
        if (!stream->inside_member) {
            SMHF_TRY(next_member(stream, err));
            if (!stream->inside_member) {
                break;
            }
        }
        if (stream->z.avail_in == 0) {
            SMHF_TRY(refill(stream, err));
            if (stream->z.avail_in == 0) {
                if (*got > 0 || stream->z.avail_out < size) {
                    break; /* hand out what is whole; the next call reports the cut */
                }
                return fail_gzip(stream, "stream is cut short", err);
            }
        }
        int result = inflate(&stream->z, Z_NO_FLUSH);
        *got = size - stream->z.avail_out;
        if (result == Z_STREAM_END) {
            stream->inside_member = 0;
        } else if (result == Z_MEM_ERROR) {
            return smhf_fail_nomem(err, stream->path, WINDOW);
        } else if (result != Z_OK && result != Z_BUF_ERROR) {
            if (*got > 0) {
                break;
            }
            return fail_gzip(stream, stream->z.msg != NULL ? stream->z.msg : "data is damaged",
                             err);
        }
    }
    *got = size - stream->z.avail_out;
    return SMHF_OK;
}

smhf_status smhf_inflate_read(smhf_inflate *stream, void *out, size_t size, size_t *got,
                              smhf_error *err) {
    *got = 0;
    if (size > (size_t)1 << 30) {
        size = (size_t)1 << 30; /* zlib counts in unsigned int */
    }
    return stream->gzip ? read_gzip(stream, out, size, got, err)
                        : read_plain(stream, out, size, got, err);
}

uint64_t smhf_inflate_consumed(const smhf_inflate *stream) {
    size_t unread = stream->gzip ? stream->z.avail_in : stream->filled - stream->at;
    return stream->read_bytes - unread;
}

int smhf_inflate_is_gzip(const smhf_inflate *stream) {
    return stream->gzip;
}

void smhf_inflate_close(smhf_inflate *stream) {
    if (stream == NULL) {
        return;
    }
    if (stream->z_ready) {
        inflateEnd(&stream->z);
    }
    if (stream->fd >= 0) {
        close(stream->fd);
    }
    smhf_free(stream->path);
    smhf_free(stream);
}

struct smhf_deflate {
    smhf_file_writer *file;
    z_stream z;
    int z_ready;
    uint8_t window[WINDOW];
};

smhf_status smhf_deflate_open(const char *path, smhf_deflate **out, smhf_error *err) {
    *out = NULL;
    smhf_deflate *stream = smhf_malloc(sizeof *stream);
    if (stream == NULL) {
        return smhf_fail_nomem(err, path, sizeof *stream);
    }
    memset(stream, 0, offsetof(struct smhf_deflate, window));
    smhf_status status = smhf_file_writer_open(path, &stream->file, err);
    if (status != SMHF_OK) {
        smhf_free(stream);
        return status;
    }
    stream->z.zalloc = zlib_alloc;
    stream->z.zfree = zlib_free;
    const int code =
        deflateInit2(&stream->z, 6, Z_DEFLATED, GZIP_WINDOW_BITS, 8, Z_DEFAULT_STRATEGY);
    if (code != Z_OK) {
        smhf_deflate_abort(stream);
        return fail_start(code, path, err);
    }
    stream->z_ready = 1;
    *out = stream;
    return SMHF_OK;
}

/* Runs deflate until it has taken all input (Z_NO_FLUSH) or has ended (Z_FINISH). */
static smhf_status pump(smhf_deflate *stream, int flush, smhf_error *err) {
    int result;
    do {
        stream->z.next_out = stream->window;
        stream->z.avail_out = WINDOW;
        result = deflate(&stream->z, flush);
        SMHF_TRY(smhf_file_writer_write(stream->file, stream->window, WINDOW - stream->z.avail_out,
                                        err));
    } while (stream->z.avail_out == 0 || (flush == Z_FINISH && result == Z_OK));
    return SMHF_OK;
}

smhf_status smhf_deflate_write(smhf_deflate *stream, const void *data, size_t size,
                               smhf_error *err) {
    const uint8_t *at = data;
    while (size > 0) {
        size_t part = (size < WINDOW) ? size : WINDOW;
        stream->z.next_in = (Bytef *)(uintptr_t)at;
        stream->z.avail_in = (uInt)part;
        SMHF_TRY(pump(stream, Z_NO_FLUSH, err));
        at += part;
        size -= part;
    }
    return SMHF_OK;
}

smhf_status smhf_deflate_finish(smhf_deflate *stream, smhf_error *err) {
    stream->z.avail_in = 0;
    smhf_status status = pump(stream, Z_FINISH, err);
    if (status != SMHF_OK) {
        smhf_deflate_abort(stream);
        return status;
    }
    status = smhf_file_writer_commit(stream->file, err);
    stream->file = NULL;
    smhf_deflate_abort(stream);
    return status;
}

void smhf_deflate_abort(smhf_deflate *stream) {
    if (stream == NULL) {
        return;
    }
    if (stream->z_ready) {
        deflateEnd(&stream->z);
    }
    smhf_file_writer_abort(stream->file);
    smhf_free(stream);
}
