/* registry.c: which backends there are, and opening a device by name. */
#include "backend/backend.h"
#include "backend/plugin.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct registry_entry {
    char name[32];
    int priority;
    const smhf_backend *backend; /* NULL: a plugin not loaded (yet) */
    smhf_plugin plugin;
    smhf_error failure; /* of the one attempt to load the plugin */
    int tried;
} registry_entry;

static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static registry_entry registry_entries[SMHF_BACKEND_MAX]; /* by falling priority */
static int registry_count;

void smhf_device_fail(smhf_device *device, smhf_status code, const char *format, ...) {
    if (device->failure.code != SMHF_OK) {
        return;
    }
    char sentence[SMHF_ERROR_MESSAGE_SIZE];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(sentence, sizeof sentence, format, arguments);
    va_end(arguments);
    smhf_fail(&device->failure, code, "%s", sentence);
}

static registry_entry *entry_find_locked(const char *name) {
    for (int i = 0; i < registry_count; i++) {
        if (strcmp(registry_entries[i].name, name) == 0) {
            return &registry_entries[i];
        }
    }
    return NULL;
}

/* A new entry at its place in the order; NULL with a sentence when the table is full. */
static registry_entry *entry_add_locked(const char *name, int priority, smhf_error *err) {
    if (strlen(name) >= sizeof registry_entries[0].name) {
        smhf_fail(err, SMHF_E_ARG, "backend name \"%.40s...\" is longer than 31 bytes", name);
        return NULL;
    }
    if (registry_count == SMHF_BACKEND_MAX) {
        smhf_fail(err, SMHF_E_ARG, "backend \"%s\": all %d places are taken", name,
                  SMHF_BACKEND_MAX);
        return NULL;
    }
    int at = registry_count;
    while (at > 0 && registry_entries[at - 1].priority < priority) {
        registry_entries[at] = registry_entries[at - 1];
        at--;
    }
    registry_count++;
    registry_entry *entry = &registry_entries[at];
    memset(entry, 0, sizeof *entry);
    snprintf(entry->name, sizeof entry->name, "%s", name);
    entry->priority = priority;
    return entry;
}

smhf_status smhf_backend_register(const smhf_backend *backend, int priority, smhf_error *err) {
    SMHF_TRY(smhf_plugin_check_table(backend, "linked-in backend", err));
    pthread_mutex_lock(&registry_lock);
    smhf_status status = SMHF_OK;
    registry_entry *entry = entry_find_locked(backend->name);
    if (entry == NULL) {
        entry = entry_add_locked(backend->name, priority, err);
        if (entry == NULL) {
            status = SMHF_E_ARG;
        } else {
            entry->backend = backend;
        }
    }
    pthread_mutex_unlock(&registry_lock);
    return status;
}

smhf_status smhf_backend_register_plugin(const char *name, const char *file, const char *driver,
                                         int priority, smhf_error *err) {
    smhf_plugin plugin;
    SMHF_TRY(smhf_plugin_describe(&plugin, file, driver, err));
    pthread_mutex_lock(&registry_lock);
    smhf_status status = SMHF_OK;
    if (entry_find_locked(name) == NULL) {
        registry_entry *entry = entry_add_locked(name, priority, err);
        if (entry == NULL) {
            status = SMHF_E_ARG;
        } else {
            entry->plugin = plugin;
        }
    }
    pthread_mutex_unlock(&registry_lock);
    return status;
}

/* Loads a plugin once; a failure is remembered and told again. */
static smhf_status entry_load_locked(registry_entry *entry, smhf_error *err) {
    if (entry->backend != NULL) {
        return SMHF_OK;
    }
    if (!entry->tried) {
        entry->tried = 1;
        smhf_error_clear(&entry->failure);
        smhf_status status =
            smhf_plugin_load(&entry->plugin, entry->name, &entry->backend, &entry->failure);
        if (status != SMHF_OK) {
            entry->backend = NULL;
        }
    }
    if (entry->backend == NULL) {
        return smhf_fail(err, entry->failure.code, "%s", entry->failure.message);
    }
    return SMHF_OK;
}

static void names_locked(char *out, size_t size) {
    size_t used = 0;
    out[0] = '\0';
    for (int i = 0; i < registry_count && used < size; i++) {
        used += (size_t)snprintf(out + used, size - used, "%s%s", i > 0 ? ", " : "",
                                 registry_entries[i].name);
    }
}

smhf_status smhf_backend_find(const char *name, const smhf_backend **out, smhf_error *err) {
    *out = NULL;
    pthread_mutex_lock(&registry_lock);
    smhf_status status;
    registry_entry *entry = entry_find_locked(name);
    if (entry == NULL) {
        char known[SMHF_BACKEND_MAX * 34];
        names_locked(known, sizeof known);
        status = smhf_fail(err, SMHF_E_UNAVAILABLE, "no backend named \"%.31s\"; there are: %s",
                           name, known[0] != '\0' ? known : "none");
    } else {
        status = entry_load_locked(entry, err);
        *out = entry->backend;
    }
    pthread_mutex_unlock(&registry_lock);
    return status;
}

/* "cuda:1" -> "cuda", 1. */
static smhf_status parse_device(const char *device, char *name, size_t size, int32_t *ordinal,
                                smhf_error *err) {
    const char *colon = strchr(device, ':');
    size_t length = colon != NULL ? (size_t)(colon - device) : strlen(device);
    if (length == 0 || length >= size) {
        return smhf_fail(err, SMHF_E_ARG,
                         "device \"%.60s\": expected \"auto\", a backend's name or name:number",
                         device);
    }
    memcpy(name, device, length);
    name[length] = '\0';
    *ordinal = 0;
    if (colon != NULL) {
        char *end = NULL;
        long value = strtol(colon + 1, &end, 10);
        if (end == colon + 1 || *end != '\0' || value < 0 || value > 1023) {
            return smhf_fail(err, SMHF_E_ARG,
                             "device \"%.60s\": expected a number from 0 to 1023 after the colon",
                             device);
        }
        *ordinal = (int32_t)value;
    }
    return SMHF_OK;
}

static smhf_status open_named(const char *device, smhf_device **out, smhf_error *err) {
    char name[32];
    int32_t ordinal = 0;
    const smhf_backend *backend = NULL;
    SMHF_TRY(parse_device(device, name, sizeof name, &ordinal, err));
    SMHF_TRY(smhf_backend_find(name, &backend, err));
    return backend->open(ordinal, out, err);
}

/* The first that opens, by falling priority. The last sentence stays when none does. */
static smhf_status open_best(smhf_device **out, smhf_error *err) {
    char names[SMHF_BACKEND_MAX][32];
    int count;
    pthread_mutex_lock(&registry_lock);
    count = registry_count;
    for (int i = 0; i < count; i++) {
        memcpy(names[i], registry_entries[i].name, sizeof names[i]);
    }
    pthread_mutex_unlock(&registry_lock);
    smhf_status status =
        smhf_fail(err, SMHF_E_UNAVAILABLE, "no backend is registered in this process");
    for (int i = 0; i < count; i++) {
        status = open_named(names[i], out, err);
        if (status == SMHF_OK) {
            smhf_error_clear(err);
            break;
        }
    }
    return status;
}

smhf_status smhf_device_open(const char *device, smhf_device **out, smhf_error *err) {
    *out = NULL;
    if (strcmp(device, "auto") != 0) {
        return open_named(device, out, err);
    }
    const char *wanted = getenv("SMHF_DEVICE");
    if (wanted != NULL && wanted[0] != '\0' && strcmp(wanted, "auto") != 0) {
        smhf_status status = open_named(wanted, out, err);
        if (status != SMHF_OK) {
            smhf_error_prefix(err, "SMHF_DEVICE=%.40s", wanted);
        }
        return status;
    }
    return open_best(out, err);
}

void smhf_device_close(smhf_device *device) {
    if (device != NULL) {
        device->backend->close(device);
    }
}

int32_t smhf_backend_list(smhf_backend_status *out, int32_t capacity) {
    pthread_mutex_lock(&registry_lock);
    int32_t count = registry_count;
    for (int32_t i = 0; i < count && i < capacity; i++) {
        registry_entry *entry = &registry_entries[i];
        smhf_error err = SMHF_ERROR_INIT;
        memset(&out[i], 0, sizeof out[i]);
        memcpy(out[i].name, entry->name, sizeof out[i].name);
        smhf_status status = entry_load_locked(entry, &err);
        if (status == SMHF_OK) {
            status = entry->backend->probe(0, &out[i].info, &err);
        }
        out[i].available = status == SMHF_OK;
        if (status != SMHF_OK) {
            snprintf(out[i].reason, sizeof out[i].reason, "%s", err.message);
        }
    }
    pthread_mutex_unlock(&registry_lock);
    return count;
}
