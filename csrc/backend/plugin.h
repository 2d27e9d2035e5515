/* plugin.h: a backend in a shared object; private to the backend room (registry.c calls it). */
#ifndef SMHF_BACKEND_PLUGIN_H
#define SMHF_BACKEND_PLUGIN_H

#include "backend/backend.h"

#define SMHF_PLUGIN_FILE_SIZE 256

typedef struct smhf_plugin {
    char file[SMHF_PLUGIN_FILE_SIZE]; /* name or path of the shared object; empty: not a plugin */
    char driver[64];                  /* library that must open first; empty: none */
} smhf_plugin;

/* Copies the names. SMHF_E_ARG when one is too long. */
smhf_status smhf_plugin_describe(smhf_plugin *out, const char *file, const char *driver,
                                 smhf_error *err);
/* Driver, then file, then entry symbol, then abi and size. Never closed. */
smhf_status smhf_plugin_load(const smhf_plugin *plugin, const char *name, const smhf_backend **out,
                             smhf_error *err);
/* abi, size and name; then that no required entry is NULL. */
smhf_status smhf_plugin_check_table(const smhf_backend *backend, const char *what, smhf_error *err);

#endif
