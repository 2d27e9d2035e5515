/* plugin.c: loads a backend from a shared object and says politely why not. */
#include "backend/plugin.h"
#include "common/library.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static smhf_status copy_name(char *out, size_t size, const char *name, const char *what,
                             smhf_error *err) {
    size_t length = name != NULL ? strlen(name) : 0;
    if (length >= size) {
        return smhf_fail(err, SMHF_E_ARG, "%s \"%.60s...\" is longer than %zu bytes", what, name,
                         size - 1);
    }
    memset(out, 0, size);
    if (length > 0) {
        memcpy(out, name, length);
    }
    return SMHF_OK;
}

smhf_status smhf_plugin_describe(smhf_plugin *out, const char *file, const char *driver,
                                 smhf_error *err) {
    SMHF_TRY(copy_name(out->file, sizeof out->file, file, "plugin file", err));
    return copy_name(out->driver, sizeof out->driver, driver, "driver library", err);
}

smhf_status smhf_plugin_check_table(const smhf_backend *backend, const char *what,
                                    smhf_error *err) {
    if (backend == NULL) {
        return smhf_fail(err, SMHF_E_ABI, "%s gave no table of operations", what);
    }
    if (backend->abi != SMHF_BACKEND_ABI || backend->size != sizeof(smhf_backend)) {
        return smhf_fail(err, SMHF_E_ABI,
                         "%s was built for contract %u (%u bytes); this library has contract %u "
                         "(%zu bytes): build both from the same source",
                         what, (unsigned)backend->abi, (unsigned)backend->size,
                         (unsigned)SMHF_BACKEND_ABI, sizeof(smhf_backend));
    }
    if (backend->name == NULL || backend->name[0] == '\0') {
        return smhf_fail(err, SMHF_E_ABI, "%s has no name", what);
    }
#define REQUIRE(entry)                                                                             \
    if (backend->entry == NULL) {                                                                  \
        return smhf_fail(err, SMHF_E_ABI, "backend \"%s\" lacks the required entry \"%s\"",        \
                         backend->name, #entry);                                                   \
    }
    REQUIRE(probe)
    REQUIRE(open)
    REQUIRE(close)
    REQUIRE(describe)
    REQUIRE(reserve)
    REQUIRE(alloc)
    REQUIRE(free)
    REQUIRE(upload)
    REQUIRE(download)
    REQUIRE(copy)
    REQUIRE(fill)
    REQUIRE(sync)
    REQUIRE(weight_prepare)
    REQUIRE(weight_refresh)
    REQUIRE(weight_free)
    REQUIRE(embedding_fwd)
    REQUIRE(linear_fwd)
    REQUIRE(linear_act_fwd)
    REQUIRE(attention_fwd)
    REQUIRE(residual_layernorm_fwd)
    REQUIRE(gather_rows)
    REQUIRE(mean_rows)
    REQUIRE(dropout)
    REQUIRE(loss)
    REQUIRE(span_loss)
    REQUIRE(linear_bwd_input)
    REQUIRE(linear_act_bwd_input)
    REQUIRE(linear_bwd_weight)
    REQUIRE(act_bwd)
    REQUIRE(attention_bwd)
    REQUIRE(residual_layernorm_bwd)
    REQUIRE(scatter_add_rows)
    REQUIRE(mean_rows_bwd)
    REQUIRE(embedding_bwd)
    REQUIRE(grad_norm)
    REQUIRE(adamw)
    REQUIRE(axpy)
    REQUIRE(convert)
#undef REQUIRE
    if ((backend->attention_first_fwd == NULL) != (backend->attention_first_bwd == NULL)) {
        return smhf_fail(err, SMHF_E_ABI, "backend \"%s\" has one half of attention_first",
                         backend->name);
    }
    return SMHF_OK;
}

/* folder/file into out; 0 when it is a file that exists. */
static int join_existing(char *out, size_t size, const char *folder, const char *file) {
    int length = snprintf(out, size, "%s/%s", folder, file);
    struct stat info;
    return length > 0 && (size_t)length < size && stat(out, &info) == 0 && S_ISREG(info.st_mode);
}

/* SMHF_BACKEND_PATH names a folder or the file itself; else the folder of this library. */
static smhf_status find_file(const char *file, char *out, size_t size, smhf_error *err) {
    if (strchr(file, '/') != NULL) {
        return copy_name(out, size, file, "plugin file", err);
    }
    const char *wanted = getenv("SMHF_BACKEND_PATH");
    if (wanted != NULL && wanted[0] != '\0') {
        struct stat info;
        if (stat(wanted, &info) != 0) {
            return smhf_fail(err, SMHF_E_UNAVAILABLE, "SMHF_BACKEND_PATH=%.200s does not exist",
                             wanted);
        }
        if (S_ISREG(info.st_mode)) {
            return copy_name(out, size, wanted, "SMHF_BACKEND_PATH", err);
        }
        if (join_existing(out, size, wanted, file)) {
            return SMHF_OK;
        }
        return smhf_fail(err, SMHF_E_UNAVAILABLE, "SMHF_BACKEND_PATH=%.200s holds no %s", wanted,
                         file);
    }
    char folder[SMHF_PLUGIN_FILE_SIZE * 4];
    SMHF_TRY(smhf_library_folder(folder, sizeof folder, err));
    if (join_existing(out, size, folder, file)) {
        return SMHF_OK;
    }
    return smhf_fail(err, SMHF_E_UNAVAILABLE, "%s is not built (looked in %.200s)", file, folder);
}

smhf_status smhf_plugin_load(const smhf_plugin *plugin, const char *name, const smhf_backend **out,
                             smhf_error *err) {
    *out = NULL;
    smhf_library *library = NULL;
    if (plugin->driver[0] != '\0') {
        smhf_error why = SMHF_ERROR_INIT;
        if (smhf_library_open(plugin->driver, &library, &why) != SMHF_OK) {
            /* the loader begins with the library's name by itself: say it once */
            size_t length = strlen(plugin->driver);
            const char *reason = why.message;
            if (strncmp(reason, plugin->driver, length) == 0 && reason[length] == ':') {
                reason += length + 1;
                reason += strspn(reason, " ");
            }
            return smhf_fail(err, SMHF_E_UNAVAILABLE, "no %s driver: %s", name, reason);
        }
    }
    char path[SMHF_PLUGIN_FILE_SIZE * 4];
    SMHF_TRY(find_file(plugin->file, path, sizeof path, err));
    SMHF_TRY(smhf_library_open(path, &library, err));
    void *symbol = NULL;
    SMHF_TRY(smhf_library_symbol(library, SMHF_BACKEND_ENTRY, &symbol, err));
    smhf_backend_entry_fn entry;
    memcpy(&entry, &symbol, sizeof entry);
    const smhf_backend *backend = entry();
    SMHF_TRY(smhf_plugin_check_table(backend, path, err));
    if (strcmp(backend->name, name) != 0) {
        return smhf_fail(err, SMHF_E_ABI, "%s: expected the backend \"%s\", found \"%s\"", path,
                         name, backend->name);
    }
    *out = backend;
    return SMHF_OK;
}
