/* archive.c: tar as POSIX.1-2001 (ustar, pax) and GNU long names describe it, nothing else of it.
 */
#include "common/archive.h"

#include "common/arena.h"
#include "common/inflate.h"
#include "common/mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLOCK 512
#define COPY ((size_t)64 * 1024)
#define MAX_DEPTH 64 /* folders inside folders */

typedef struct tar_header {
    char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type;
    char link[100], magic[6], version[2], user[32], group[32], major[8], minor[8], prefix[155];
    char padding[12];
} tar_header;

/* --- small shared pieces ---------------------------------------------------------------------- */

static smhf_status fail_member(smhf_error *err, smhf_status code, const char *archive,
                               const char *member, const char *reason) {
    return smhf_fail(err, code, "%s: member \"%.200s\" refused: %s", archive, member, reason);
}

static smhf_status fail_system(smhf_error *err, const char *archive, const char *member,
                               const char *verb) {
    char text[128];
    int code = errno;
    return smhf_fail(err, SMHF_E_IO, "%s: member \"%.160s\": cannot %s: %s", archive, member, verb,
                     strerror_r(code, text, sizeof text));
}

static unsigned header_checksum(const tar_header *header) {
    const unsigned char *bytes = (const unsigned char *)header;
    const size_t field = offsetof(tar_header, checksum);
    unsigned sum = 0;
    for (size_t i = 0; i < BLOCK; i++) {
        sum += (i >= field && i < field + 8) ? ' ' : bytes[i];
    }
    return sum;
}

/* Octal text, or base-256 when the first bit is set (GNU). -1 when malformed or too large. */
static int64_t parse_number(const char *field, size_t size) {
    const unsigned char *bytes = (const unsigned char *)field;
    int64_t value = 0;
    if (bytes[0] & 0x80) {
        if (bytes[0] != 0x80) {
            return -1; /* negative or above 2^88 */
        }
        for (size_t i = 1; i < size; i++) {
            if (value > (INT64_MAX >> 8)) {
                return -1;
            }
            value = (value << 8) | bytes[i];
        }
        return value;
    }
    size_t i = 0;
    while (i < size && field[i] == ' ') {
        i++;
    }
    for (; i < size && field[i] >= '0' && field[i] <= '7'; i++) {
        if (value > (INT64_MAX >> 3)) {
            return -1;
        }
        value = value * 8 + (field[i] - '0');
    }
    return (i == size || field[i] == ' ' || field[i] == '\0') ? value : -1;
}

/* --- reading ---------------------------------------------------------------------------------- */

typedef struct name_entry {
    struct name_entry *next;
    char *name;
} name_entry;

#define NAME_BUCKETS 1024

typedef struct extraction {
    const char *archive;
    smhf_archive_limits limits;
    smhf_inflate *in;
    int folder;
    smhf_arena names;
    name_entry *buckets[NAME_BUCKETS];
    size_t members;
    uint64_t content; /* bytes of file content so far */
    uint8_t *copy;    /* COPY bytes */
    smhf_buffer long_name;
    int64_t pax_size; /* -1: none pending */
} extraction;

/* Exactly `size` bytes, or a parse error: a tar has no optional tail. */
static smhf_status read_exactly(extraction *x, void *out, size_t size, smhf_error *err) {
    size_t filled = 0;
    while (filled < size) {
        size_t got;
        SMHF_TRY(smhf_inflate_read(x->in, (uint8_t *)out + filled, size - filled, &got, err));
        if (got == 0) {
            return smhf_fail_at(err, SMHF_E_PARSE, smhf_inflate_consumed(x->in),
                                "%s: the archive is cut short (expected %zu more bytes)",
                                x->archive, size - filled);
        }
        filled += got;
    }
    return SMHF_OK;
}

static smhf_status check_name(const extraction *x, const char *name, size_t size, smhf_error *err) {
    if (size == 0) {
        return fail_member(err, SMHF_E_PARSE, x->archive, name, "empty name");
    }
    if (size > x->limits.max_name) {
        return fail_member(err, SMHF_E_PARSE, x->archive, name, "name too long");
    }
    if (memchr(name, '\0', size) != NULL) {
        return fail_member(err, SMHF_E_PARSE, x->archive, name, "NUL byte in its name");
    }
    if (name[0] == '/') {
        return fail_member(err, SMHF_E_PARSE, x->archive, name, "absolute path");
    }
    int depth = 0;
    for (const char *part = name; *part != '\0';) {
        size_t length = strcspn(part, "/");
        if (length == 2 && part[0] == '.' && part[1] == '.') {
            return fail_member(err, SMHF_E_PARSE, x->archive, name, "\"..\" in its path");
        }
        depth += (length > 0);
        part += length + (part[length] == '/');
    }
    if (depth > MAX_DEPTH) {
        return fail_member(err, SMHF_E_PARSE, x->archive, name, "more than 64 nested folders");
    }
    return SMHF_OK;
}

/* "./a//b/" becomes "a/b"; in place. */
static void tidy_name(char *name) {
    char *out = name;
    for (const char *part = name; *part != '\0';) {
        size_t length = strcspn(part, "/");
        int step = (length == 0) || (length == 1 && part[0] == '.');
        const char *next = part + length + (part[length] == '/');
        if (!step) {
            if (out != name) {
                *out++ = '/';
            }
            memmove(out, part, length);
            out += length;
        }
        part = next;
    }
    *out = '\0';
}

static smhf_status remember_name(extraction *x, const char *name, smhf_error *err) {
    size_t hash = 5381;
    for (const char *c = name; *c != '\0'; c++) {
        hash = hash * 33 + (unsigned char)*c;
    }
    name_entry **bucket = &x->buckets[hash % NAME_BUCKETS];
    for (const name_entry *entry = *bucket; entry != NULL; entry = entry->next) {
        if (strcmp(entry->name, name) == 0) {
            return fail_member(err, SMHF_E_PARSE, x->archive, name, "the name appears twice");
        }
    }
    name_entry *entry = smhf_arena_alloc(&x->names, sizeof *entry);
    char *copy = smhf_arena_copy_string(&x->names, name, strlen(name));
    if (entry == NULL || copy == NULL) {
        return smhf_fail_nomem(err, x->archive, strlen(name));
    }
    *entry = (name_entry){*bucket, copy};
    *bucket = entry;
    return SMHF_OK;
}

/* Opens the folder that holds the last component, making missing ones; *leaf points into name. */
static smhf_status open_parent(extraction *x, char *name, int *parent, char **leaf,
                               smhf_error *err) {
    int at = dup(x->folder);
    if (at < 0) {
        return fail_system(err, x->archive, name, "open its folder");
    }
    char *part = name;
    for (char *slash = strchr(part, '/'); slash != NULL; slash = strchr(part, '/')) {
        *slash = '\0';
        int made = mkdirat(at, part, 0755);
        int next = (made == 0 || errno == EEXIST)
                       ? openat(at, part, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
                       : -1;
        *slash = '/';
        if (next < 0) {
            smhf_status status = fail_system(err, x->archive, name, "make its folder");
            close(at);
            return status;
        }
        close(at);
        at = next;
        part = slash + 1;
    }
    *parent = at;
    *leaf = part;
    return SMHF_OK;
}

static smhf_status check_content(extraction *x, const char *name, uint64_t more, smhf_error *err) {
    x->content += more;
    if (x->content > x->limits.max_bytes) {
        return fail_member(err, SMHF_E_PARSE, x->archive, name, "the archive holds too many bytes");
    }
    uint64_t consumed = smhf_inflate_consumed(x->in);
    if (x->content > ((uint64_t)1 << 20) && x->content / x->limits.max_ratio > consumed) {
        return fail_member(err, SMHF_E_PARSE, x->archive, name,
                           "the archive inflates beyond the permitted ratio");
    }
    return SMHF_OK;
}

/* Copies one member's content (and its padding) into fd, or drops it when fd is -1. */
static smhf_status copy_content(extraction *x, const char *name, int fd, uint64_t size,
                                smhf_error *err) {
    uint64_t left = size;
    while (left > 0) {
        size_t part = (left < COPY) ? (size_t)left : COPY;
        SMHF_TRY(read_exactly(x, x->copy, part, err));
        SMHF_TRY(check_content(x, name, part, err));
        for (size_t put = 0; fd >= 0 && put < part;) {
            ssize_t wrote = write(fd, x->copy + put, part - put);
            if (wrote < 0 && errno == EINTR) {
                continue;
            }
            if (wrote < 0) {
                return fail_system(err, x->archive, name, "write");
            }
            put += (size_t)wrote;
        }
        left -= part;
    }
    size_t padding = (size_t)((BLOCK - size % BLOCK) % BLOCK);
    return padding > 0 ? read_exactly(x, x->copy, padding, err) : SMHF_OK;
}

static smhf_status extract_file(extraction *x, char *name, uint64_t size, int executable,
                                smhf_error *err) {
    int parent = -1;
    char *leaf;
    SMHF_TRY(open_parent(x, name, &parent, &leaf, err));
    int fd = openat(parent, leaf, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                    executable ? 0755 : 0644);
    smhf_status status;
    if (fd < 0) {
        status = fail_system(err, x->archive, name, "create");
    } else {
        status = copy_content(x, name, fd, size, err);
        if (close(fd) != 0 && status == SMHF_OK) {
            status = fail_system(err, x->archive, name, "close");
        }
    }
    close(parent);
    return status;
}

static smhf_status extract_folder(extraction *x, char *name, smhf_error *err) {
    int parent = -1;
    char *leaf;
    SMHF_TRY(open_parent(x, name, &parent, &leaf, err));
    smhf_status status = SMHF_OK;
    if (mkdirat(parent, leaf, 0755) != 0) {
        struct stat info;
        if (errno != EEXIST || fstatat(parent, leaf, &info, AT_SYMLINK_NOFOLLOW) != 0 ||
            !S_ISDIR(info.st_mode)) {
            status = fail_system(err, x->archive, name, "make");
        }
    }
    close(parent);
    return status;
}

/* Content of an extension header (pax, GNU long name), bounded. */
static smhf_status read_extension(extraction *x, uint64_t size, smhf_buffer *out, smhf_error *err) {
    smhf_buffer_clear(out);
    if (size > 2 * x->limits.max_name + 4096) {
        return smhf_fail_at(err, SMHF_E_PARSE, smhf_inflate_consumed(x->in),
                            "%s: an extension header of %llu bytes is too large", x->archive,
                            (unsigned long long)size);
    }
    SMHF_TRY(smhf_buffer_reserve(out, (size_t)size + 1, err));
    SMHF_TRY(read_exactly(x, out->data, (size_t)size, err));
    out->size = (size_t)size;
    out->data[size] = '\0';
    size_t padding = (size_t)((BLOCK - size % BLOCK) % BLOCK);
    return padding > 0 ? read_exactly(x, x->copy, padding, err) : SMHF_OK;
}

/* pax records are "LENGTH KEY=VALUE\n"; only path and size change what we write. */
static smhf_status read_pax(extraction *x, const smhf_buffer *records, smhf_error *err) {
    size_t at = 0;
    while (at < records->size) {
        const char *text = (const char *)records->data + at;
        char *end;
        unsigned long length = strtoul(text, &end, 10);
        size_t head = (size_t)(end - text);
        if (end == text || *end != ' ' || length > records->size - at || length < head + 3 ||
            text[length - 1] != '\n') {
            return smhf_fail_at(err, SMHF_E_PARSE, smhf_inflate_consumed(x->in),
                                "%s: a pax record is malformed", x->archive);
        }
        const char *key = end + 1;
        const char *equals = memchr(key, '=', length - head - 2);
        if (equals == NULL) {
            return smhf_fail_at(err, SMHF_E_PARSE, smhf_inflate_consumed(x->in),
                                "%s: a pax record has no '='", x->archive);
        }
        size_t value_size = length - (size_t)(equals + 1 - text) - 1;
        if (equals - key == 4 && memcmp(key, "path", 4) == 0) {
            smhf_buffer_clear(&x->long_name);
            SMHF_TRY(smhf_buffer_append(&x->long_name, equals + 1, value_size, err));
        } else if (equals - key == 4 && memcmp(key, "size", 4) == 0) {
            char digits[24] = {0};
            memcpy(digits, equals + 1, value_size < 20 ? value_size : 20);
            x->pax_size = strtoll(digits, &end, 10);
            if (end == digits || *end != '\0' || x->pax_size < 0) {
                return smhf_fail_at(err, SMHF_E_PARSE, smhf_inflate_consumed(x->in),
                                    "%s: a pax size is not a number", x->archive);
            }
        }
        at += length;
    }
    return SMHF_OK;
}

/* The member's name: the pending long one, else prefix/name of the header. Into x->long_name. */
static smhf_status take_name(extraction *x, const tar_header *header, smhf_error *err) {
    if (x->long_name.size == 0) {
        size_t name = strnlen(header->name, sizeof header->name);
        size_t prefix = (memcmp(header->magic, "ustar\0", 6) == 0)
                            ? strnlen(header->prefix, sizeof header->prefix)
                            : 0;
        if (prefix > 0) {
            SMHF_TRY(smhf_buffer_append(&x->long_name, header->prefix, prefix, err));
            SMHF_TRY(smhf_buffer_append_byte(&x->long_name, '/', err));
        }
        SMHF_TRY(smhf_buffer_append(&x->long_name, header->name, name, err));
    }
    size_t size = x->long_name.size;
    SMHF_TRY(smhf_buffer_append_byte(&x->long_name, '\0', err));
    SMHF_TRY(check_name(x, (const char *)x->long_name.data, size, err));
    tidy_name((char *)x->long_name.data);
    return SMHF_OK;
}

static const char *type_reason(char type) {
    switch (type) {
    case '1':
        return "hard link";
    case '2':
        return "symbolic link";
    case '3':
    case '4':
        return "device";
    case '6':
        return "FIFO";
    default:
        return "not a regular file or folder";
    }
}

static smhf_status extract_member(extraction *x, const tar_header *header, smhf_error *err) {
    int64_t size = (x->pax_size >= 0) ? x->pax_size : parse_number(header->size, 12);
    int64_t mode = parse_number(header->mode, 8);
    x->pax_size = -1;
    if (size < 0) {
        return smhf_fail_at(err, SMHF_E_PARSE, smhf_inflate_consumed(x->in),
                            "%s: a member's size is malformed", x->archive);
    }
    SMHF_TRY(take_name(x, header, err));
    char *name = (char *)x->long_name.data;
    char type = header->type;
    if (type != '0' && type != '\0' && type != '5') {
        return fail_member(err, SMHF_E_PARSE, x->archive, name, type_reason(type));
    }
    if (++x->members > x->limits.max_members) {
        return fail_member(err, SMHF_E_PARSE, x->archive, name, "the archive has too many members");
    }
    if (name[0] == '\0') { /* "./" itself */
        return (type == '5') ? SMHF_OK
                             : fail_member(err, SMHF_E_PARSE, x->archive, name, "empty name");
    }
    SMHF_TRY(remember_name(x, name, err));
    if (type == '5') {
        SMHF_TRY(extract_folder(x, name, err));
        return copy_content(x, name, -1, (uint64_t)size, err);
    }
    return extract_file(x, name, (uint64_t)size, mode >= 0 && (mode & 0100) != 0, err);
}

static smhf_status extract_all(extraction *x, smhf_error *err) {
    smhf_buffer records;
    smhf_status status = SMHF_OK;
    smhf_buffer_init(&records, 0);
    int zero_blocks = 0;
    while (zero_blocks < 2) {
        tar_header header;
        status = read_exactly(x, &header, BLOCK, err);
        if (status != SMHF_OK) {
            break;
        }
        static const tar_header empty;
        if (memcmp(&header, &empty, BLOCK) == 0) {
            zero_blocks++;
            continue;
        }
        if (zero_blocks > 0 ||
            (int64_t)header_checksum(&header) != parse_number(header.checksum, 8)) {
            status =
                smhf_fail_at(err, SMHF_E_PARSE, smhf_inflate_consumed(x->in),
                             "%s: not a tar archive, or a damaged header (checksum)", x->archive);
            break;
        }
        int64_t size = parse_number(header.size, 12);
        if (header.type == 'x' || header.type == 'g' || header.type == 'L') {
            smhf_buffer *target = (header.type == 'L') ? &x->long_name : &records;
            status = (size < 0) ? smhf_fail(err, SMHF_E_PARSE, "%s: bad extension size", x->archive)
                                : read_extension(x, (uint64_t)size, target, err);
            if (status == SMHF_OK && header.type == 'x') {
                status = read_pax(x, &records, err);
            }
            if (status == SMHF_OK && header.type == 'L') { /* stored with its NUL */
                target->size = strnlen((const char *)target->data, target->size);
            }
        } else {
            status = extract_member(x, &header, err);
            smhf_buffer_clear(&x->long_name);
        }
        if (status != SMHF_OK) {
            break;
        }
    }
    smhf_buffer_deinit(&records);
    return status;
}

/* Removes everything below an open folder; best effort, it runs on the way out of a failure. */
static void remove_children(int folder, int depth) {
    int again = dup(folder);
    DIR *dir = (again >= 0) ? fdopendir(again) : NULL;
    if (dir == NULL) {
        if (again >= 0) {
            close(again);
        }
        return;
    }
    rewinddir(dir);
    for (struct dirent *entry = readdir(dir); entry != NULL; entry = readdir(dir)) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) {
            continue;
        }
        if (unlinkat(folder, entry->d_name, 0) == 0 || depth > MAX_DEPTH) {
            continue;
        }
        int child = openat(folder, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (child >= 0) {
            remove_children(child, depth + 1);
            close(child);
            unlinkat(folder, entry->d_name, AT_REMOVEDIR);
        }
    }
    closedir(dir);
}

static smhf_status open_empty_folder(const char *archive, const char *folder, int *out,
                                     smhf_error *err) {
    *out = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (*out < 0) {
        return fail_system(err, archive, folder, "open the target folder");
    }
    int again = dup(*out);
    DIR *dir = (again >= 0) ? fdopendir(again) : NULL;
    if (dir == NULL) {
        smhf_status status = fail_system(err, archive, folder, "read the target folder");
        if (again >= 0) {
            close(again);
        }
        return status;
    }
    int entries = 0;
    rewinddir(dir);
    while (readdir(dir) != NULL) {
        entries++;
    }
    closedir(dir);
    if (entries > 2) { /* "." and ".." */
        close(*out);
        *out = -1;
        return smhf_fail(err, SMHF_E_ARG,
                         "%s: expected an empty folder to extract into, %s has %d entries", archive,
                         folder, entries - 2);
    }
    return SMHF_OK;
}

smhf_status smhf_archive_extract(const char *path, const char *folder,
                                 const smhf_archive_limits *limits, smhf_error *err) {
    smhf_status status = SMHF_E_NOMEM;
    extraction *x = smhf_calloc(1, sizeof *x);
    if (x == NULL) {
        return smhf_fail_nomem(err, path, sizeof *x);
    }
    x->archive = path;
    x->limits = (limits != NULL) ? *limits : (smhf_archive_limits)SMHF_ARCHIVE_LIMITS_DEFAULTS;
    x->folder = -1;
    x->pax_size = -1;
    smhf_arena_init(&x->names, 0);
    smhf_buffer_init(&x->long_name, 4 * x->limits.max_name + 8192);
    x->copy = smhf_malloc(COPY);
    if (x->copy == NULL) {
        status = smhf_fail_nomem(err, path, COPY);
        goto done;
    }
    status = open_empty_folder(path, folder, &x->folder, err);
    if (status != SMHF_OK) {
        goto done;
    }
    status = smhf_inflate_open(path, &x->in, err);
    if (status == SMHF_OK) {
        status = extract_all(x, err);
    }
    if (status != SMHF_OK) {
        remove_children(x->folder, 0);
    }

done:
    smhf_inflate_close(x->in);
    if (x->folder >= 0) {
        close(x->folder);
    }
    smhf_buffer_deinit(&x->long_name);
    smhf_arena_deinit(&x->names);
    smhf_free(x->copy);
    smhf_free(x);
    return status;
}

/* --- writing ---------------------------------------------------------------------------------- */

typedef struct packing {
    const char *root;
    smhf_deflate *out;
    smhf_buffer path; /* path below root, with a NUL kept after size */
    uint8_t *copy;
} packing;

/* Zero-padded octal digits and a NUL; the caller knows that the value fits. */
static void put_octal(char *field, size_t size, uint64_t value) {
    for (size_t i = size - 1; i-- > 0; value >>= 3) {
        field[i] = (char)('0' + (value & 7));
    }
    field[size - 1] = '\0';
}

static smhf_status write_header(packing *p, const char *name, char type, uint64_t size,
                                unsigned mode, smhf_error *err) {
    tar_header header;
    memset(&header, 0, sizeof header);
    memcpy(header.name, name, strnlen(name, sizeof header.name));
    put_octal(header.mode, sizeof header.mode, mode);
    put_octal(header.uid, sizeof header.uid, 0);
    put_octal(header.gid, sizeof header.gid, 0);
    put_octal(header.size, sizeof header.size, size);
    put_octal(header.mtime, sizeof header.mtime, 0);
    header.type = type;
    memcpy(header.magic, "ustar\0", 6);
    memcpy(header.version, "00", 2);
    unsigned sum = header_checksum(&header);
    put_octal(header.checksum, 7, sum); /* six digits, NUL, space */
    header.checksum[7] = ' ';
    return smhf_deflate_write(p->out, &header, sizeof header, err);
}

static smhf_status write_padding(packing *p, uint64_t size, smhf_error *err) {
    static const uint8_t zeros[BLOCK];
    return smhf_deflate_write(p->out, zeros, (size_t)((BLOCK - size % BLOCK) % BLOCK), err);
}

/* A pax header where the name or the size does not fit ustar's fields. */
static smhf_status write_extension(packing *p, const char *name, uint64_t size, smhf_error *err) {
    smhf_buffer records;
    smhf_status status = SMHF_OK;
    char number[24];
    const char *keys[2] = {"path", "size"};
    const char *values[2] = {name, number};
    int wanted[2] = {strlen(name) > sizeof((tar_header *)0)->name, size >= (uint64_t)1 << 33};
    smhf_buffer_init(&records, 0);
    snprintf(number, sizeof number, "%llu", (unsigned long long)size);
    for (int i = 0; i < 2 && status == SMHF_OK; i++) {
        if (!wanted[i]) {
            continue;
        }
        /* The length counts its own digits: grow it until it is consistent. */
        size_t body = strlen(keys[i]) + strlen(values[i]) + 3, total = body + 1;
        char digits[24];
        while ((size_t)snprintf(digits, sizeof digits, "%zu", total) + body != total) {
            total++;
        }
        status = smhf_buffer_append_format(&records, err, "%zu %s=%s\n", total, keys[i], values[i]);
    }
    if (status == SMHF_OK && records.size > 0) {
        status = write_header(p, "pax", 'x', records.size, 0644, err);
        if (status == SMHF_OK) {
            status = smhf_deflate_write(p->out, records.data, records.size, err);
        }
        if (status == SMHF_OK) {
            status = write_padding(p, records.size, err);
        }
    }
    smhf_buffer_deinit(&records);
    return status;
}

static smhf_status pack_file(packing *p, int fd, const struct stat *info, smhf_error *err) {
    const char *name = (const char *)p->path.data;
    uint64_t size = (uint64_t)info->st_size;
    SMHF_TRY(write_extension(p, name, size, err));
    SMHF_TRY(write_header(p, name, '0', size >= (uint64_t)1 << 33 ? 0 : size,
                          (info->st_mode & 0100) ? 0755 : 0644, err));
    for (uint64_t left = size; left > 0;) {
        ssize_t got = read(fd, p->copy, left < COPY ? (size_t)left : COPY);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return (got < 0) ? fail_system(err, p->root, name, "read")
                             : smhf_fail(err, SMHF_E_IO, "%s/%s shrank while it was packed",
                                         p->root, name);
        }
        SMHF_TRY(smhf_deflate_write(p->out, p->copy, (size_t)got, err));
        left -= (uint64_t)got;
    }
    return write_padding(p, size, err);
}

static int compare_names(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Names of a folder's children, sorted, in an array of the arena. */
static smhf_status list_folder(packing *p, int fd, smhf_arena *arena, char ***names, size_t *count,
                               smhf_error *err) {
    size_t capacity = 0;
    int again = dup(fd);
    DIR *dir = (again >= 0) ? fdopendir(again) : NULL;
    *names = NULL;
    *count = 0;
    if (dir == NULL) {
        return fail_system(err, p->root, p->path.size > 0 ? (const char *)p->path.data : ".",
                           "read the folder");
    }
    smhf_status status = SMHF_OK;
    rewinddir(dir);
    for (struct dirent *entry = readdir(dir); entry != NULL; entry = readdir(dir)) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) {
            continue;
        }
        if (*count == capacity) {
            size_t wanted = capacity > 0 ? capacity * 2 : 16;
            char **grown = smhf_arena_alloc(arena, wanted * sizeof *grown);
            if (grown == NULL) {
                status = smhf_fail_nomem(err, p->root, wanted * sizeof *grown);
                break;
            }
            if (*count > 0) {
                memcpy(grown, *names, *count * sizeof *grown);
            }
            *names = grown;
            capacity = wanted;
        }
        char *name = smhf_arena_copy_string(arena, entry->d_name, strlen(entry->d_name));
        if (name == NULL) {
            status = smhf_fail_nomem(err, p->root, strlen(entry->d_name));
            break;
        }
        (*names)[(*count)++] = name;
    }
    closedir(dir);
    if (*count > 0) {
        qsort(*names, *count, sizeof **names, compare_names);
    }
    return status;
}

static smhf_status pack_folder(packing *p, int fd, int depth, smhf_error *err);

static smhf_status pack_entry(packing *p, int folder, const char *leaf, int depth,
                              smhf_error *err) {
    const char *name = (const char *)p->path.data;
    struct stat info;
    if (fstatat(folder, leaf, &info, AT_SYMLINK_NOFOLLOW) != 0) {
        return fail_system(err, p->root, name, "stat");
    }
    if (!S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode)) {
        return smhf_fail(err, SMHF_E_ARG,
                         "%s/%.200s: expected regular files and folders only, found a %s", p->root,
                         name, S_ISLNK(info.st_mode) ? "symbolic link" : "device, pipe or socket");
    }
    int fd = openat(folder, leaf, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        return fail_system(err, p->root, name, "open");
    }
    smhf_status status;
    if (S_ISREG(info.st_mode)) {
        status = pack_file(p, fd, &info, err);
    } else {
        status = write_extension(p, name, 0, err);
        if (status == SMHF_OK) {
            status = write_header(p, name, '5', 0, 0755, err);
        }
        if (status == SMHF_OK) {
            status = pack_folder(p, fd, depth + 1, err);
        }
    }
    close(fd);
    return status;
}

static smhf_status pack_folder(packing *p, int fd, int depth, smhf_error *err) {
    if (depth > MAX_DEPTH) {
        return smhf_fail(err, SMHF_E_ARG, "%s: more than %d nested folders", p->root, MAX_DEPTH);
    }
    smhf_arena arena;
    char **names;
    size_t count;
    size_t base = p->path.size;
    smhf_arena_init(&arena, 0);
    smhf_status status = list_folder(p, fd, &arena, &names, &count, err);
    for (size_t i = 0; i < count && status == SMHF_OK; i++) {
        if (base > 0) {
            status = smhf_buffer_append_byte(&p->path, '/', err);
        }
        if (status == SMHF_OK) {
            status = smhf_buffer_append(&p->path, names[i], strlen(names[i]) + 1, err);
        }
        if (status == SMHF_OK) {
            p->path.size--; /* the NUL stays behind the name */
            status = pack_entry(p, fd, names[i], depth, err);
        }
        p->path.size = base;
    }
    smhf_arena_deinit(&arena);
    return status;
}

smhf_status smhf_archive_create(const char *path, const char *folder, smhf_error *err) {
    packing p = {folder, NULL, {0}, NULL};
    static const uint8_t end[2 * BLOCK];
    smhf_status status;
    smhf_buffer_init(&p.path, 64 * 1024);
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        status = fail_system(err, folder, ".", "open the folder");
        goto done;
    }
    p.copy = smhf_malloc(COPY);
    if (p.copy == NULL) {
        status = smhf_fail_nomem(err, path, COPY);
        goto done;
    }
    status = smhf_deflate_open(path, &p.out, err);
    if (status != SMHF_OK) {
        goto done;
    }
    status = pack_folder(&p, fd, 0, err);
    if (status == SMHF_OK) {
        status = smhf_deflate_write(p.out, end, sizeof end, err);
    }
    if (status == SMHF_OK) {
        status = smhf_deflate_finish(p.out, err);
        p.out = NULL;
    }

done:
    smhf_deflate_abort(p.out);
    if (fd >= 0) {
        close(fd);
    }
    smhf_buffer_deinit(&p.path);
    smhf_free(p.copy);
    return status;
}
