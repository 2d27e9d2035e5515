/* columns.c: the tables, the dictionary of names, the list of faults; see trace.h. */
#include "trace/trace_internal.h"

#include "common/mem.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#define FIRST_CAPACITY 256

/* --- Tables: one description, used by growth, freeing and the glue ---------------------------- */

typedef struct column_spec {
    const char *name;
    size_t at; /* offset of the pointer in the table struct */
    char format;
    uint8_t size;
} column_spec;

#define EVENT_COLUMN(field, letter, bytes)                                                         \
    { #field, offsetof(smhf_trace_events, field), letter, bytes }
#define ROW_COLUMN(field, letter, bytes)                                                           \
    { #field, offsetof(smhf_trace_rows, field), letter, bytes }

static const column_spec EVENT_COLUMNS[] = {
    EVENT_COLUMN(ph, 'B', 1),          EVENT_COLUMN(flags, 'H', 2),
    EVENT_COLUMN(ts, 'q', 8),          EVENT_COLUMN(dur, 'q', 8),
    EVENT_COLUMN(pid, 'i', 4),         EVENT_COLUMN(tid, 'i', 4),
    EVENT_COLUMN(name, 'I', 4),        EVENT_COLUMN(cat, 'I', 4),
    EVENT_COLUMN(id, 'Q', 8),          EVENT_COLUMN(args_offset, 'Q', 8),
    EVENT_COLUMN(args_length, 'I', 4), EVENT_COLUMN(file, 'I', 4),
};
static const column_spec ROW_COLUMNS[] = {
    ROW_COLUMN(type, 'I', 4),      ROW_COLUMN(name, 'I', 4),  ROW_COLUMN(dimension, 'I', 4),
    ROW_COLUMN(node, 'I', 4),      ROW_COLUMN(value, 'd', 8), ROW_COLUMN(ts, 'q', 8),
    ROW_COLUMN(iteration, 'q', 8), ROW_COLUMN(file, 'I', 4),
};

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

static void *column_load(const void *table, size_t at) {
    void *data;
    memcpy(&data, (const char *)table + at, sizeof data);
    return data;
}

static void column_store(void *table, size_t at, void *data) {
    memcpy((char *)table + at, &data, sizeof data);
}

static smhf_status resize(void *table, const column_spec *specs, size_t columns, size_t capacity,
                          smhf_error *err) {
    for (size_t i = 0; i < columns; i++) {
        size_t bytes;
        if (smhf_mul_size(capacity, specs[i].size, &bytes) < 0) {
            return smhf_fail(err, SMHF_E_NOMEM, "column %s: too many elements", specs[i].name);
        }
        void *data = smhf_realloc(column_load(table, specs[i].at), bytes);
        if (data == NULL) {
            return smhf_fail_nomem(err, specs[i].name, bytes);
        }
        column_store(table, specs[i].at, data);
    }
    return SMHF_OK;
}

static smhf_status grow(void *table, const column_spec *specs, size_t columns, size_t count,
                        size_t *capacity, smhf_error *err) {
    if (count < *capacity) {
        return SMHF_OK;
    }
    size_t wanted = (*capacity == 0) ? FIRST_CAPACITY : *capacity * 2;
    SMHF_TRY(resize(table, specs, columns, wanted, err));
    *capacity = wanted;
    return SMHF_OK;
}

smhf_status smhf_trace_grow_events(smhf_trace *trace, smhf_error *err) {
    return grow(&trace->events, EVENT_COLUMNS, COUNT_OF(EVENT_COLUMNS), trace->events.count,
                &trace->event_capacity, err);
}

smhf_status smhf_trace_grow_rows(smhf_trace *trace, smhf_error *err) {
    return grow(&trace->rows, ROW_COLUMNS, COUNT_OF(ROW_COLUMNS), trace->rows.count,
                &trace->row_capacity, err);
}

static void shrink(void *table, const column_spec *specs, size_t columns, size_t count) {
    for (size_t i = 0; i < columns; i++) {
        void *data = column_load(table, specs[i].at);
        if (data != NULL && count > 0) {
            void *smaller = smhf_realloc(data, count * specs[i].size);
            column_store(table, specs[i].at, smaller != NULL ? smaller : data);
        }
    }
}

void smhf_trace_shrink(smhf_trace *trace) {
    shrink(&trace->events, EVENT_COLUMNS, COUNT_OF(EVENT_COLUMNS), trace->events.count);
    shrink(&trace->rows, ROW_COLUMNS, COUNT_OF(ROW_COLUMNS), trace->rows.count);
}

static void free_columns(void *table, const column_spec *specs, size_t columns) {
    for (size_t i = 0; i < columns; i++) {
        smhf_free(column_load(table, specs[i].at));
    }
}

int smhf_trace_column_get(const smhf_trace *trace, int table, size_t index,
                          smhf_trace_column *out) {
    const column_spec *specs = (table == 0) ? EVENT_COLUMNS : ROW_COLUMNS;
    size_t columns = (table == 0) ? COUNT_OF(EVENT_COLUMNS) : COUNT_OF(ROW_COLUMNS);
    if (index >= columns) {
        return 0;
    }
    const void *from = (table == 0) ? (const void *)&trace->events : (const void *)&trace->rows;
    out->name = specs[index].name;
    out->format = specs[index].format;
    out->size = specs[index].size;
    out->data = column_load(from, specs[index].at);
    out->count = (table == 0) ? trace->events.count : trace->rows.count;
    return 1;
}

const smhf_trace_events *smhf_trace_events_get(const smhf_trace *trace) {
    return &trace->events;
}

const smhf_trace_rows *smhf_trace_rows_get(const smhf_trace *trace) {
    return &trace->rows;
}

const char *smhf_trace_kind(const smhf_trace *trace) {
    if (trace->events.count > 0) {
        return (trace->rows.count > 0) ? "mixed" : "events";
    }
    if (trace->rows.count > 0) {
        return (trace->scalar_count == trace->rows.count) ? "scalars" : "system";
    }
    return "empty";
}

void smhf_trace_free(smhf_trace *trace) {
    if (trace == NULL) {
        return;
    }
    free_columns(&trace->events, EVENT_COLUMNS, COUNT_OF(EVENT_COLUMNS));
    free_columns(&trace->rows, ROW_COLUMNS, COUNT_OF(ROW_COLUMNS));
    smhf_buffer_deinit(&trace->args);
    smhf_trace_names_deinit(&trace->names);
    for (size_t i = 0; i < trace->file_count; i++) {
        smhf_free((char *)(uintptr_t)trace->files[i].path);
    }
    smhf_free(trace->files);
    smhf_free(trace->faults);
    smhf_free(trace);
}

/* --- Dictionary ------------------------------------------------------------------------------- */

/* Multiply-and-fold over eight bytes at a time; only its spread matters, it is never stored. */
static uint32_t hash_text(const uint8_t *data, size_t size) {
    uint64_t hash = 0x9E3779B97F4A7C15u ^ size;
    while (size >= 8) {
        uint64_t word;
        memcpy(&word, data, 8);
        hash = (hash ^ word) * 0xD6E8FEB86659FD93u;
        hash ^= hash >> 32;
        data += 8;
        size -= 8;
    }
    uint64_t tail = 0;
    memcpy(&tail, data, size);
    hash = (hash ^ tail) * 0xD6E8FEB86659FD93u;
    hash ^= hash >> 32;
    return (uint32_t)(hash ^ (hash >> 17));
}

smhf_status smhf_trace_names_init(trace_names *names, smhf_error *err) {
    memset(names, 0, sizeof *names);
    smhf_buffer_init(&names->text, 0);
    uint32_t code;
    return smhf_trace_names_add(names, (smhf_bytes_view){(const uint8_t *)"", 0}, &code, err);
}

void smhf_trace_names_deinit(trace_names *names) {
    smhf_buffer_deinit(&names->text);
    smhf_free(names->starts);
    smhf_free(names->slots);
    smhf_free(names->hashes);
    memset(names, 0, sizeof *names);
}

static smhf_bytes_view name_at(const trace_names *names, size_t code) {
    uint64_t from = names->starts[code];
    const uint8_t *base = (names->text.data != NULL) ? names->text.data : (const uint8_t *)"";
    return (smhf_bytes_view){base + from, (size_t)(names->starts[code + 1] - from)};
}

/* Slot of the text, or the free slot where it belongs. */
static size_t find_slot(const trace_names *names, smhf_bytes_view text, uint32_t hash) {
    size_t mask = names->slot_count - 1;
    for (size_t slot = hash & mask;; slot = (slot + 1) & mask) {
        uint32_t entry = names->slots[slot];
        if (entry == 0) {
            return slot;
        }
        smhf_bytes_view known = name_at(names, entry - 1);
        if (names->hashes[entry - 1] == hash && known.size == text.size &&
            (text.size == 0 || memcmp(known.data, text.data, text.size) == 0)) {
            return slot;
        }
    }
}

static smhf_status names_grow(trace_names *names, smhf_error *err) {
    size_t capacity = (names->capacity == 0) ? 64 : names->capacity * 2;
    size_t slot_count = capacity * 2;
    if (capacity > UINT32_MAX / 2) {
        return smhf_fail(err, SMHF_E_UNSUPPORTED, "more than %u different names", UINT32_MAX / 2);
    }
    uint64_t *starts = smhf_realloc(names->starts, (capacity + 1) * sizeof *starts);
    if (starts == NULL) {
        return smhf_fail_nomem(err, "names", (capacity + 1) * sizeof *starts);
    }
    if (names->starts == NULL) {
        starts[0] = 0;
    }
    names->starts = starts;
    uint32_t *hashes = smhf_realloc(names->hashes, capacity * sizeof *hashes);
    if (hashes == NULL) {
        return smhf_fail_nomem(err, "names", capacity * sizeof *hashes);
    }
    names->hashes = hashes;
    uint32_t *slots = smhf_calloc(slot_count, sizeof *slots);
    if (slots == NULL) {
        return smhf_fail_nomem(err, "names", slot_count * sizeof *slots);
    }
    for (size_t code = 0; code < names->count; code++) {
        size_t slot = hashes[code] & (slot_count - 1);
        while (slots[slot] != 0) {
            slot = (slot + 1) & (slot_count - 1);
        }
        slots[slot] = (uint32_t)code + 1;
    }
    smhf_free(names->slots);
    names->slots = slots;
    names->slot_count = slot_count;
    names->capacity = capacity;
    return SMHF_OK;
}

smhf_status smhf_trace_names_add(trace_names *names, smhf_bytes_view text, uint32_t *code,
                                 smhf_error *err) {
    uint32_t hash = hash_text(text.data, text.size);
    if (names->slot_count > 0) {
        size_t slot = find_slot(names, text, hash);
        if (names->slots[slot] != 0) {
            *code = names->slots[slot] - 1;
            return SMHF_OK;
        }
    }
    if (names->count == names->capacity) {
        SMHF_TRY(names_grow(names, err));
    }
    SMHF_TRY(smhf_buffer_append(&names->text, text.data, text.size, err));
    size_t slot = find_slot(names, text, hash);
    *code = (uint32_t)names->count++;
    names->starts[names->count] = names->text.size;
    names->hashes[*code] = hash;
    names->slots[slot] = *code + 1;
    return SMHF_OK;
}

size_t smhf_trace_name_count(const smhf_trace *trace) {
    return trace->names.count;
}

smhf_bytes_view smhf_trace_name(const smhf_trace *trace, uint32_t code) {
    SMHF_ASSERT(code < trace->names.count);
    return name_at(&trace->names, code);
}

int smhf_trace_name_find(const smhf_trace *trace, smhf_bytes_view text, uint32_t *code) {
    size_t slot = find_slot(&trace->names, text, hash_text(text.data, text.size));
    if (trace->names.slots[slot] == 0) {
        return 0;
    }
    *code = trace->names.slots[slot] - 1;
    return 1;
}

/* --- Files and faults ------------------------------------------------------------------------- */

smhf_status smhf_trace_add_file(smhf_trace *trace, const char *path, uint32_t *index,
                                smhf_error *err) {
    if (trace->file_count == trace->file_capacity) {
        size_t capacity = (trace->file_capacity == 0) ? 8 : trace->file_capacity * 2;
        smhf_trace_file *files = smhf_realloc(trace->files, capacity * sizeof *files);
        if (files == NULL) {
            return smhf_fail_nomem(err, "list of files", capacity * sizeof *files);
        }
        trace->files = files;
        trace->file_capacity = capacity;
    }
    char *copy = smhf_strdup(path);
    if (copy == NULL) {
        return smhf_fail_nomem(err, "list of files", strlen(path) + 1);
    }
    *index = (uint32_t)trace->file_count;
    trace->files[trace->file_count++] = (smhf_trace_file){
        .path = copy, .first_event = trace->events.count, .first_row = trace->rows.count};
    return SMHF_OK;
}

size_t smhf_trace_file_count(const smhf_trace *trace) {
    return trace->file_count;
}

const smhf_trace_file *smhf_trace_file_get(const smhf_trace *trace, size_t index) {
    SMHF_ASSERT(index < trace->file_count);
    return &trace->files[index];
}

smhf_status smhf_trace_add_fault(smhf_trace *trace, const smhf_trace_fault *fault,
                                 size_t max_faults, smhf_error *err) {
    trace->fault_total++;
    if (trace->fault_count >= max_faults) {
        return SMHF_OK;
    }
    if (trace->fault_count == trace->fault_capacity) {
        size_t capacity = (trace->fault_capacity == 0) ? 8 : trace->fault_capacity * 2;
        smhf_trace_fault *faults = smhf_realloc(trace->faults, capacity * sizeof *faults);
        if (faults == NULL) {
            return smhf_fail_nomem(err, "list of faults", capacity * sizeof *faults);
        }
        trace->faults = faults;
        trace->fault_capacity = capacity;
    }
    trace->faults[trace->fault_count++] = *fault;
    return SMHF_OK;
}

uint64_t smhf_trace_fault_total(const smhf_trace *trace) {
    return trace->fault_total;
}

size_t smhf_trace_fault_count(const smhf_trace *trace) {
    return trace->fault_count;
}

const smhf_trace_fault *smhf_trace_fault_get(const smhf_trace *trace, size_t index) {
    SMHF_ASSERT(index < trace->fault_count);
    return &trace->faults[index];
}
