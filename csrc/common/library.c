#include "common/library.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

smhf_status smhf_library_open(const char *path, smhf_library **out, smhf_error *err) {
    *out = NULL;
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (handle == NULL) {
        const char *reason = dlerror();
        return smhf_fail(err, SMHF_E_UNAVAILABLE, "%s: %s", path,
                         reason != NULL ? reason : "cannot be loaded");
    }
    *out = (smhf_library *)handle;
    return SMHF_OK;
}

smhf_status smhf_library_symbol(smhf_library *library, const char *name, void **out,
                                smhf_error *err) {
    *out = dlsym((void *)library, name);
    if (*out == NULL) {
        return smhf_fail(err, SMHF_E_ABI, "symbol %s is missing", name);
    }
    return SMHF_OK;
}

smhf_status smhf_library_folder(char *out, size_t size, smhf_error *err) {
    const char *override = getenv("SMHF_LIBRARY_PATH");
    Dl_info info;
    const char *path = override;
    size_t length;
    if (override != NULL && override[0] != '\0') {
        length = strlen(override);
    } else {
        /* A symbol of this very file: the address tells which object carries it. */
        smhf_status (*anchor)(char *, size_t, smhf_error *) = smhf_library_folder;
        void *address;
        memcpy(&address, &anchor, sizeof address);
        if (dladdr(address, &info) == 0 || info.dli_fname == NULL) {
            return smhf_fail(err, SMHF_E_UNAVAILABLE, "the folder of libsmhf cannot be told");
        }
        path = info.dli_fname;
        const char *slash = strrchr(path, '/');
        length = (slash != NULL) ? (size_t)(slash - path) : 0;
        if (slash == NULL) {
            path = ".";
            length = 1;
        }
    }
    if (length + 1 > size) {
        return smhf_fail(err, SMHF_E_UNAVAILABLE, "library folder: path of %zu bytes is too long",
                         length);
    }
    memcpy(out, path, length);
    out[length] = '\0';
    return SMHF_OK;
}
