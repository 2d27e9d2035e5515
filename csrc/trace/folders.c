/* folders.c: which files of a folder are traces, and folders made for new ones. */
#include "trace/trace_internal.h"

#include "common/mem.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define MAX_LEVELS 16

void smhf_trace_paths_deinit(trace_paths *paths) {
    for (size_t i = 0; i < paths->count; i++) {
        smhf_free(paths->items[i]);
    }
    smhf_free(paths->items);
    *paths = (trace_paths){0};
}

static char *join(const char *folder, const char *name) {
    size_t size = strlen(folder) + strlen(name) + 2;
    char *path = smhf_malloc(size);
    if (path != NULL) {
        snprintf(path, size, "%s/%s", folder, name);
    }
    return path;
}

static smhf_status paths_add(trace_paths *paths, char *path, smhf_error *err) {
    if (paths->count == paths->capacity) {
        size_t capacity = (paths->capacity == 0) ? 64 : paths->capacity * 2;
        char **items = smhf_realloc(paths->items, capacity * sizeof *items);
        if (items == NULL) {
            smhf_free(path);
            return smhf_fail_nomem(err, "list of files", capacity * sizeof *items);
        }
        paths->items = items;
        paths->capacity = capacity;
    }
    paths->items[paths->count++] = path;
    return SMHF_OK;
}

static int ends_with(const char *text, const char *tail) {
    size_t size = strlen(text), length = strlen(tail);
    return size >= length && strcmp(text + size - length, tail) == 0;
}

static int starts_with_digits(const char *name, size_t digits) {
    size_t i = 0;
    while (i < digits && name[i] >= '0' && name[i] <= '9') {
        i++;
    }
    return i == digits;
}

static int is_json(const char *name) {
    return ends_with(name, ".json") || ends_with(name, ".json.gz");
}

/* <10 digits>.<node>.json in system/, in any of the folders below it */
static int is_system_file(const char *name) {
    return starts_with_digits(name, 10) && name[10] == '.' && is_json(name);
}

/* <16 digits>_..._<kind>.json, or a TensorFlow / PyTorch trace of detailed profiling */
static int is_framework_file(const char *name) {
    return (starts_with_digits(name, 16) && name[16] == '_' && is_json(name)) ||
           ends_with(name, ".trace.json.gz") || ends_with(name, ".trace.json");
}

static int is_any_trace(const char *name) {
    return is_json(name) || ends_with(name, ".ndjson");
}

typedef int (*name_test)(const char *name);

static smhf_status walk(const char *folder, name_test wanted, int levels, trace_paths *out,
                        smhf_error *err) {
    DIR *listing = opendir(folder);
    if (listing == NULL) {
        return smhf_fail(err, SMHF_E_IO, "%s: cannot list: %s", folder, strerror(errno));
    }
    smhf_status status = SMHF_OK;
    const struct dirent *entry;
    while (status == SMHF_OK && (entry = readdir(listing)) != NULL) {
        if (entry->d_name[0] == '.') {
            continue;
        }
        char *path = join(folder, entry->d_name);
        struct stat info;
        if (path == NULL) {
            status = smhf_fail_nomem(err, folder, strlen(entry->d_name));
        } else if (lstat(path, &info) == 0 && S_ISDIR(info.st_mode)) {
            status = (levels > 0) ? walk(path, wanted, levels - 1, out, err) : SMHF_OK;
            smhf_free(path);
        } else if (wanted(entry->d_name) && stat(path, &info) == 0 && S_ISREG(info.st_mode)) {
            status = paths_add(out, path, err);
        } else {
            smhf_free(path);
        }
    }
    closedir(listing);
    return status;
}

static int compare_paths(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Is `word` one of the folder names in the path? */
static int path_holds(const char *path, const char *word) {
    size_t length = strlen(word);
    for (const char *p = strstr(path, word); p != NULL; p = strstr(p + 1, word)) {
        if ((p == path || p[-1] == '/') && (p[length] == '/' || p[length] == '\0')) {
            return 1;
        }
    }
    return 0;
}

static smhf_status walk_part(const char *folder, const char *part, name_test wanted, int *present,
                             trace_paths *out, smhf_error *err) {
    char *path = join(folder, part);
    struct stat info;
    smhf_status status = SMHF_OK;
    if (path == NULL) {
        return smhf_fail_nomem(err, folder, strlen(part));
    }
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode)) {
        *present = 1;
        if (wanted != NULL) {
            status = walk(path, wanted, MAX_LEVELS, out, err);
        }
    }
    smhf_free(path);
    return status;
}

smhf_status smhf_trace_walk(const char *folder, int parts, trace_paths *out, smhf_error *err) {
    int layout = 0;
    SMHF_TRY(walk_part(folder, "framework",
                       (parts & SMHF_TRACE_FRAMEWORK) ? is_framework_file : NULL, &layout, out,
                       err));
    SMHF_TRY(walk_part(folder, "system", (parts & SMHF_TRACE_SYSTEM) ? is_system_file : NULL,
                       &layout, out, err));
    if (!layout) {
        name_test wanted = path_holds(folder, "system")      ? is_system_file
                           : path_holds(folder, "framework") ? is_framework_file
                                                             : is_any_trace;
        SMHF_TRY(walk(folder, wanted, MAX_LEVELS, out, err));
        if (out->count == 0) {
            return smhf_fail(err, SMHF_E_IO,
                             "%s: no trace files in this folder (looked for system/ and framework/ "
                             "of a profiler output, else for *.json and *.json.gz)",
                             folder);
        }
    }
    if (out->count > 1) {
        qsort(out->items, out->count, sizeof *out->items, compare_paths);
    }
    return SMHF_OK;
}

/* NODE_<start us>_<end us>.metadata -> start, else 0 */
static int64_t start_in_name(const char *name) {
    if (!ends_with(name, ".metadata")) {
        return 0;
    }
    size_t at = strlen(name) - strlen(".metadata");
    for (int part = 0; part < 2; part++) {
        size_t digits = 0;
        while (at > 0 && name[at - 1] >= '0' && name[at - 1] <= '9') {
            at--;
            digits++;
        }
        if (digits == 0 || digits > 18 || at == 0 || name[at - 1] != '_') {
            return 0;
        }
        if (part == 0) {
            at--;
        }
    }
    return strtoll(name + at, NULL, 10);
}

int64_t smhf_trace_metadata_start(const char *path) {
    if (!ends_with(path, ".trace.json.gz") && !ends_with(path, ".trace.json")) {
        return 0;
    }
    char folder[4096];
    const char *slash = strrchr(path, '/');
    size_t size = (slash == NULL) ? 0 : (size_t)(slash - path);
    if (size >= sizeof folder) {
        return 0;
    }
    snprintf(folder, sizeof folder, "%.*s", (int)size, path);
    if (size == 0) {
        snprintf(folder, sizeof folder, "%s", (slash == NULL) ? "." : "/");
    }
    DIR *listing = opendir(folder);
    int64_t start = 0;
    const struct dirent *entry;
    while (listing != NULL && start == 0 && (entry = readdir(listing)) != NULL) {
        start = start_in_name(entry->d_name);
    }
    if (listing != NULL) {
        closedir(listing);
    }
    return start;
}

smhf_status smhf_trace_make_folders(const char *path, smhf_error *err) {
    char *copy = smhf_strdup(path);
    if (copy == NULL) {
        return smhf_fail_nomem(err, path, strlen(path) + 1);
    }
    smhf_status status = SMHF_OK;
    for (char *p = copy + 1; status == SMHF_OK && *p != '\0'; p++) {
        int last = (p[1] == '\0' && *p != '/');
        if (*p == '/' || last) {
            char kept = *p;
            *p = last ? kept : '\0';
            if (mkdir(copy, 0777) != 0 && errno != EEXIST) {
                struct stat info; /* a read-only parent may still hold the folder */
                if (stat(copy, &info) != 0) {
                    status = smhf_fail(err, SMHF_E_IO, "%s: cannot make the folder: %s", copy,
                                       strerror(errno));
                }
            }
            *p = kept;
        }
    }
    smhf_free(copy);
    return status;
}
