#include "common/file.h"

#include "common/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static smhf_status fail_errno(const char *path, const char *verb, smhf_error *err) {
    int code = errno;
    char text[128];
    /* GNU strerror_r: returns the text, which may or may not be in the buffer. */
    return smhf_fail(err, SMHF_E_IO, "%s: cannot %s: %s", path, verb,
                     strerror_r(code, text, sizeof text));
}

static smhf_status open_regular(const char *path, int *fd, size_t *size, smhf_error *err) {
    struct stat info;
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not hang us */
    if (*fd < 0) {
        return fail_errno(path, "open", err);
    }
    if (fstat(*fd, &info) != 0) {
        smhf_status status = fail_errno(path, "stat", err);
        close(*fd);
        return status;
    }
    if (!S_ISREG(info.st_mode)) {
        close(*fd);
        return smhf_fail(err, SMHF_E_IO, "%s: expected a regular file, found a %s", path,
                         S_ISDIR(info.st_mode) ? "folder" : "device, pipe or socket");
    }
    *size = (size_t)info.st_size;
    return SMHF_OK;
}

smhf_status smhf_file_map_open(const char *path, smhf_bytes_view *out, int *fd, smhf_error *err) {
    size_t size = 0;
    *out = (smhf_bytes_view){NULL, 0};
    *fd = -1;
    SMHF_TRY(open_regular(path, fd, &size, err));
    if (size == 0) {
        smhf_file_close(fd);
        return SMHF_OK;
    }
    void *at = mmap(NULL, size, PROT_READ, MAP_PRIVATE, *fd, 0);
    if (at == MAP_FAILED) {
        const smhf_status status = fail_errno(path, "map", err);
        smhf_file_close(fd);
        return status;
    }
    *out = (smhf_bytes_view){at, size};
    return SMHF_OK;
}

smhf_status smhf_file_map(const char *path, smhf_bytes_view *out, smhf_error *err) {
    int fd = -1;
    const smhf_status status = smhf_file_map_open(path, out, &fd, err);
    smhf_file_close(&fd);
    return status;
}

smhf_status smhf_file_read_at(int fd, const char *path, uint64_t offset, void *out, size_t size,
                              smhf_error *err) {
    for (size_t done = 0; done < size;) {
        const ssize_t count =
            pread(fd, (char *)out + done, size - done, (off_t)(offset + (uint64_t)done));
        if (count < 0 && errno != EINTR) {
            return fail_errno(path, "read", err);
        }
        if (count == 0) {
            return smhf_fail(err, SMHF_E_IO, "%s: ends before byte %llu; was it changed in place?",
                             path, (unsigned long long)(offset + size));
        }
        done += count > 0 ? (size_t)count : 0;
    }
    return SMHF_OK;
}

void smhf_file_close(int *fd) {
    if (*fd >= 0) {
        close(*fd);
    }
    *fd = -1;
}

void smhf_file_map_forget(smhf_bytes_view part) {
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    const uintptr_t begin = ((uintptr_t)part.data + page - 1) / page * page;
    const uintptr_t end = ((uintptr_t)part.data + part.size) / page * page;
    if (part.data != NULL && begin < end) {
        (void)madvise((void *)begin, end - begin, MADV_DONTNEED); /* a hint: it may be refused */
    }
}

void smhf_file_unmap(smhf_bytes_view *view) {
    if (view->data != NULL) {
        munmap((void *)(uintptr_t)view->data, view->size);
    }
    *view = (smhf_bytes_view){NULL, 0};
}

smhf_status smhf_file_read(const char *path, smhf_buffer *out, smhf_error *err) {
    int fd = -1;
    size_t size = 0;
    SMHF_TRY(open_regular(path, &fd, &size, err));
    smhf_status status = smhf_buffer_reserve(out, size, err);
    while (status == SMHF_OK) {
        if (out->capacity == out->size) { /* the file grew while we read */
            status = smhf_buffer_reserve(out, 65536, err);
            continue;
        }
        ssize_t got = read(fd, out->data + out->size, out->capacity - out->size);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            status = fail_errno(path, "read", err);
        }
        if (got <= 0) {
            break;
        }
        out->size += (size_t)got;
        if (out->size >= size && got > 0) {
            uint8_t probe; /* at the expected end: one more read tells whether it grew */
            ssize_t more = read(fd, &probe, 1);
            if (more <= 0) {
                break;
            }
            status = smhf_buffer_append_byte(out, probe, err);
        }
    }
    close(fd);
    if (status != SMHF_OK && status != SMHF_E_IO) {
        smhf_error_prefix(err, "%s", path);
    }
    return status;
}

struct smhf_file_writer {
    int fd;
    char *path;
    char *temporary;
};

static void writer_free(smhf_file_writer *writer) {
    if (writer->fd >= 0) {
        close(writer->fd);
    }
    smhf_free(writer->path);
    smhf_free(writer->temporary);
    smhf_free(writer);
}

smhf_status smhf_file_writer_open(const char *path, smhf_file_writer **out, smhf_error *err) {
    static _Atomic unsigned serial; /* two writers of one process never share a name */
    size_t room = strlen(path) + 40;
    smhf_status status = SMHF_OK;
    smhf_file_writer *writer = smhf_calloc(1, sizeof *writer);
    *out = NULL;
    if (writer == NULL) {
        return smhf_fail_nomem(err, path, sizeof *writer);
    }
    writer->fd = -1;
    writer->path = smhf_strdup(path);
    writer->temporary = smhf_malloc(room);
    if (writer->path == NULL || writer->temporary == NULL) {
        status = smhf_fail_nomem(err, path, room);
        goto done;
    }
    snprintf(writer->temporary, room, "%s.tmp-%ld-%u", path, (long)getpid(),
             atomic_fetch_add(&serial, 1));
    writer->fd = open(writer->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (writer->fd < 0) {
        status = fail_errno(writer->temporary, "create", err);
        goto done;
    }
    *out = writer;

done:
    if (status != SMHF_OK) {
        writer_free(writer);
    }
    return status;
}

smhf_status smhf_file_writer_write(smhf_file_writer *writer, const void *data, size_t size,
                                   smhf_error *err) {
    const uint8_t *at = data;
    while (size > 0) {
        ssize_t put = write(writer->fd, at, size);
        if (put < 0 && errno == EINTR) {
            continue;
        }
        if (put < 0) {
            return fail_errno(writer->path, "write", err);
        }
        at += put;
        size -= (size_t)put;
    }
    return SMHF_OK;
}

/* fsync of the folder makes the rename itself durable. */
static smhf_status sync_folder(const char *path, smhf_error *err) {
    char folder[4096];
    const char *slash = strrchr(path, '/');
    size_t length = (slash != NULL) ? (size_t)(slash - path) : 0;
    if (length >= sizeof folder) {
        return smhf_fail(err, SMHF_E_IO, "%s: folder name of %zu bytes is too long", path, length);
    }
    memcpy(folder, path, length);
    folder[length] = '\0';
    const char *name = (slash == NULL) ? "." : (length == 0) ? "/" : folder;
    int fd = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return fail_errno(name, "open", err);
    }
    smhf_status status = SMHF_OK;
    if (fsync(fd) != 0 && errno != EINVAL) { /* some file systems have no folder sync */
        status = fail_errno(name, "sync", err);
    }
    close(fd);
    return status;
}

smhf_status smhf_file_writer_commit(smhf_file_writer *writer, smhf_error *err) {
    smhf_status status = SMHF_OK;
    if (fsync(writer->fd) != 0) {
        status = fail_errno(writer->path, "sync", err);
    } else if (close(writer->fd) != 0) {
        writer->fd = -1;
        status = fail_errno(writer->path, "close", err);
    } else {
        writer->fd = -1;
        if (rename(writer->temporary, writer->path) != 0) {
            status = fail_errno(writer->path, "rename into place", err);
        }
    }
    if (status != SMHF_OK) {
        smhf_file_writer_abort(writer);
        return status;
    }
    status = sync_folder(writer->path, err);
    writer_free(writer);
    return status;
}

void smhf_file_writer_abort(smhf_file_writer *writer) {
    if (writer != NULL) {
        unlink(writer->temporary);
        writer_free(writer);
    }
}

smhf_status smhf_file_write_atomic(const char *path, smhf_bytes_view data, smhf_error *err) {
    smhf_file_writer *writer;
    SMHF_TRY(smhf_file_writer_open(path, &writer, err));
    smhf_status status = smhf_file_writer_write(writer, data.data, data.size, err);
    if (status != SMHF_OK) {
        smhf_file_writer_abort(writer);
        return status;
    }
    return smhf_file_writer_commit(writer, err);
}
