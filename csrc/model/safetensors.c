/* safetensors.c: header parse with every refusal of safetensors.h, conversion, atomic save. */
#include "model/safetensors.h"

#include "common/arena.h"
#include "common/file.h"
#include "common/json.h"
#include "common/mem.h"

#include <stdlib.h>
#include <string.h>

#define MAX_HEADER ((uint64_t)100 * 1000 * 1000)
#define MAX_DEPTH 8
#define HEADER_ALIGN 8
#define FORMAT_KEY "format" /* transformers refuses files whose metadata lacks it */

typedef struct metadata_pair {
    const char *key;
    const char *value;
    struct metadata_pair *next;
} metadata_pair;

struct smhf_safetensors {
    smhf_bytes_view map;    /* owned: unmapped at close; empty when parsed from bytes */
    int fd;                 /* owned: of the map; -1 when parsed from bytes */
    smhf_arena arena;       /* names, metadata */
    smhf_safetensor *items; /* sorted by name */
    size_t count;
    size_t capacity;
    metadata_pair *metadata;
    smhf_bytes_view data; /* the section behind the header */
    size_t header_end;    /* file offset of the data section */
};

/* --- dtypes ----------------------------------------------------------------------------------- */

typedef struct dtype_row {
    const char *name;
    unsigned size; /* bytes per element */
    smhf_safetensor_dtype dtype;
} dtype_row;

static const dtype_row DTYPES[] = {
    {"F64", 8, SMHF_ST_F64},    {"F32", 4, SMHF_ST_F32},       {"F16", 2, SMHF_ST_F16},
    {"BF16", 2, SMHF_ST_BF16},  {"I64", 8, SMHF_ST_OTHER},     {"U64", 8, SMHF_ST_OTHER},
    {"I32", 4, SMHF_ST_OTHER},  {"U32", 4, SMHF_ST_OTHER},     {"I16", 2, SMHF_ST_OTHER},
    {"U16", 2, SMHF_ST_OTHER},  {"I8", 1, SMHF_ST_OTHER},      {"U8", 1, SMHF_ST_OTHER},
    {"BOOL", 1, SMHF_ST_OTHER}, {"F8_E4M3", 1, SMHF_ST_OTHER}, {"F8_E5M2", 1, SMHF_ST_OTHER},
};

static const dtype_row *dtype_find(smhf_bytes_view name) {
    for (size_t i = 0; i < sizeof DTYPES / sizeof DTYPES[0]; i++) {
        if (smhf_bytes_equal_string(name, DTYPES[i].name)) {
            return &DTYPES[i];
        }
    }
    return NULL;
}

/* --- header ------------------------------------------------------------------------------------
 */

static smhf_status read_u64(smhf_json_reader *reader, const char *what, uint64_t *out,
                            smhf_error *err) {
    smhf_json_event event;
    int64_t value = 0;
    SMHF_TRY(smhf_json_expect(reader, SMHF_JSON_NUMBER, what, &event, err));
    SMHF_TRY(smhf_json_int64(&event, what, &value, err));
    if (value < 0) {
        return smhf_fail_at(err, SMHF_E_PARSE, event.offset, "%s: expected 0 or more, found %lld",
                            what, (long long)value);
    }
    *out = (uint64_t)value;
    return SMHF_OK;
}

static smhf_status read_shape(smhf_json_reader *reader, smhf_safetensor *tensor, smhf_error *err) {
    smhf_json_event event;
    SMHF_TRY(smhf_json_expect(reader, SMHF_JSON_ARRAY_BEGIN, "shape", &event, err));
    tensor->ndim = 0;
    for (;;) {
        int64_t value = 0;
        SMHF_TRY(smhf_json_next(reader, &event, err));
        if (event.kind == SMHF_JSON_ARRAY_END) {
            return SMHF_OK;
        }
        if (event.kind != SMHF_JSON_NUMBER || tensor->ndim == SMHF_SAFETENSORS_MAX_DIMS) {
            return smhf_fail_at(
                err, SMHF_E_PARSE, event.offset, "shape: expected at most %d integers, found %s",
                SMHF_SAFETENSORS_MAX_DIMS,
                event.kind == SMHF_JSON_NUMBER ? "one more" : smhf_json_kind_name(event.kind));
        }
        SMHF_TRY(smhf_json_int64(&event, "shape", &value, err));
        if (value < 0) {
            return smhf_fail_at(err, SMHF_E_PARSE, event.offset,
                                "shape: expected 0 or more, found %lld", (long long)value);
        }
        tensor->shape[tensor->ndim++] = (uint64_t)value;
    }
}

/* dtype x shape must be exactly the bytes between the offsets, inside the data section. */
static smhf_status check_range(smhf_safetensors *file, smhf_safetensor *tensor, unsigned size,
                               uint64_t begin, uint64_t end, size_t offset, smhf_error *err) {
    uint64_t count = 1, bytes = 0;
    for (int d = 0; d < tensor->ndim; d++) {
        if (__builtin_mul_overflow(count, tensor->shape[d], &count)) {
            return smhf_fail_at(err, SMHF_E_PARSE, offset,
                                "shape: the number of elements overflows");
        }
    }
    if (__builtin_mul_overflow(count, (uint64_t)size, &bytes)) {
        return smhf_fail_at(err, SMHF_E_PARSE, offset, "shape: the number of bytes overflows");
    }
    if (begin > end || end > file->data.size) {
        return smhf_fail_at(err, SMHF_E_PARSE, offset,
                            "data_offsets [%llu, %llu] do not lie in the %zu bytes of data",
                            (unsigned long long)begin, (unsigned long long)end, file->data.size);
    }
    if (end - begin != bytes) {
        return smhf_fail_at(
            err, SMHF_E_PARSE, offset, "dtype %s and shape need %llu bytes, data_offsets hold %llu",
            tensor->dtype_name, (unsigned long long)bytes, (unsigned long long)(end - begin));
    }
    tensor->count = count;
    tensor->begin = (size_t)begin;
    tensor->data = (smhf_bytes_view){file->data.data + begin, (size_t)bytes};
    return SMHF_OK;
}

static smhf_status read_entry(smhf_safetensors *file, smhf_json_reader *reader,
                              smhf_safetensor *tensor, smhf_error *err) {
    enum { DTYPE = 1, SHAPE = 2, OFFSETS = 4 };
    smhf_json_event event;
    const dtype_row *row = NULL;
    uint64_t begin = 0, end = 0;
    int seen = 0;
    SMHF_TRY(smhf_json_expect(reader, SMHF_JSON_OBJECT_BEGIN, "entry", &event, err));
    const size_t offset = event.offset;
    for (;;) {
        SMHF_TRY(smhf_json_next(reader, &event, err));
        if (event.kind == SMHF_JSON_OBJECT_END) {
            break;
        }
        const int key = smhf_bytes_equal_string(event.text, "dtype")          ? DTYPE
                        : smhf_bytes_equal_string(event.text, "shape")        ? SHAPE
                        : smhf_bytes_equal_string(event.text, "data_offsets") ? OFFSETS
                                                                              : 0;
        if (key == 0 || (seen & key) != 0) {
            return smhf_fail_at(err, SMHF_E_PARSE, event.offset,
                                "expected dtype, shape and data_offsets once each, found \"%.*s\"",
                                (int)(event.text.size < 40 ? event.text.size : 40),
                                (const char *)event.text.data);
        }
        seen |= key;
        if (key == DTYPE) {
            SMHF_TRY(smhf_json_expect(reader, SMHF_JSON_STRING, "dtype", &event, err));
            row = dtype_find(event.text);
            if (row == NULL) {
                return smhf_fail_at(err, SMHF_E_UNSUPPORTED, event.offset, "unknown dtype \"%.*s\"",
                                    (int)(event.text.size < 40 ? event.text.size : 40),
                                    (const char *)event.text.data);
            }
            tensor->dtype = row->dtype;
            tensor->dtype_name = row->name;
        } else if (key == SHAPE) {
            SMHF_TRY(read_shape(reader, tensor, err));
        } else {
            SMHF_TRY(smhf_json_expect(reader, SMHF_JSON_ARRAY_BEGIN, "data_offsets", &event, err));
            SMHF_TRY(read_u64(reader, "data_offsets", &begin, err));
            SMHF_TRY(read_u64(reader, "data_offsets", &end, err));
            SMHF_TRY(smhf_json_expect(reader, SMHF_JSON_ARRAY_END, "data_offsets", &event, err));
        }
    }
    if (seen != (DTYPE | SHAPE | OFFSETS)) {
        return smhf_fail_at(err, SMHF_E_PARSE, offset, "%s is missing",
                            !(seen & DTYPE)   ? "dtype"
                            : !(seen & SHAPE) ? "shape"
                                              : "data_offsets");
    }
    return check_range(file, tensor, row->size, begin, end, offset, err);
}

static smhf_status read_metadata(smhf_safetensors *file, smhf_json_reader *reader,
                                 smhf_error *err) {
    smhf_json_event event;
    SMHF_TRY(smhf_json_expect(reader, SMHF_JSON_OBJECT_BEGIN, "__metadata__", &event, err));
    for (;;) {
        SMHF_TRY(smhf_json_next(reader, &event, err));
        if (event.kind == SMHF_JSON_OBJECT_END) {
            return SMHF_OK;
        }
        metadata_pair *pair = smhf_arena_alloc(&file->arena, sizeof *pair);
        const char *key = smhf_arena_copy_string(&file->arena, event.text.data, event.text.size);
        SMHF_TRY(smhf_json_expect(reader, SMHF_JSON_STRING, "__metadata__ value", &event, err));
        const char *value = smhf_arena_copy_string(&file->arena, event.text.data, event.text.size);
        if (pair == NULL || key == NULL || value == NULL) {
            return smhf_fail_nomem(err, "__metadata__", event.text.size);
        }
        *pair = (metadata_pair){key, value, file->metadata};
        file->metadata = pair;
    }
}

static smhf_safetensor *add_item(smhf_safetensors *file) {
    if (file->count == file->capacity) {
        const size_t capacity = (file->capacity == 0) ? 64 : file->capacity * 2;
        smhf_safetensor *grown = smhf_realloc(file->items, capacity * sizeof *grown);
        if (grown == NULL) {
            return NULL;
        }
        file->items = grown;
        file->capacity = capacity;
    }
    smhf_safetensor *item = &file->items[file->count];
    *item = (smhf_safetensor){0};
    return item;
}

static smhf_status read_header(smhf_safetensors *file, smhf_json_reader *reader, smhf_error *err) {
    smhf_json_event event;
    int metadata_seen = 0;
    SMHF_TRY(smhf_json_expect(reader, SMHF_JSON_OBJECT_BEGIN, "header", &event, err));
    for (;;) {
        SMHF_TRY(smhf_json_next(reader, &event, err));
        if (event.kind == SMHF_JSON_OBJECT_END) {
            break;
        }
        if (smhf_bytes_equal_string(event.text, "__metadata__")) {
            if (metadata_seen++) {
                return smhf_fail_at(err, SMHF_E_PARSE, event.offset, "__metadata__ appears twice");
            }
            SMHF_TRY(read_metadata(file, reader, err));
            continue;
        }
        if (memchr(event.text.data, '\0', event.text.size) != NULL) {
            return smhf_fail_at(err, SMHF_E_PARSE, event.offset, "a tensor name holds a NUL");
        }
        smhf_safetensor *item = add_item(file);
        const char *name = smhf_arena_copy_string(&file->arena, event.text.data, event.text.size);
        if (item == NULL || name == NULL) {
            return smhf_fail_nomem(err, "header", event.text.size + sizeof *item);
        }
        item->name = name;
        const smhf_status status = read_entry(file, reader, item, err);
        if (status != SMHF_OK) {
            smhf_error_prefix(err, "tensor \"%.80s\"", name);
            return status;
        }
        file->count++;
    }
    return smhf_json_expect(reader, SMHF_JSON_END, "header", &event, err);
}

/* --- ranges ------------------------------------------------------------------------------------
 */

static int by_begin(const void *a, const void *b) {
    const smhf_safetensor *x = a, *y = b;
    if (x->begin != y->begin) {
        return x->begin < y->begin ? -1 : 1;
    }
    return (x->data.size > y->data.size) - (x->data.size < y->data.size); /* empty ones first */
}

static int by_name(const void *a, const void *b) {
    const smhf_safetensor *x = a, *y = b;
    return strcmp(x->name, y->name);
}

/* Sorted by begin, each range starts where the one before ended, and the last ends the file. */
static smhf_status check_cover(smhf_safetensors *file, smhf_error *err) {
    size_t at = 0;
    if (file->count > 0) {
        qsort(file->items, file->count, sizeof *file->items, by_begin);
    }
    for (size_t i = 0; i < file->count; i++) {
        const smhf_safetensor *item = &file->items[i];
        if (item->begin != at) {
            return smhf_fail_at(err, SMHF_E_PARSE, file->header_end + item->begin,
                                "tensor \"%.80s\" begins at byte %zu of the data, expected %zu: %s",
                                item->name, item->begin, at,
                                item->begin < at ? "ranges overlap" : "ranges leave a hole");
        }
        at += item->data.size;
    }
    if (at != file->data.size) {
        return smhf_fail_at(err, SMHF_E_PARSE, file->header_end + at,
                            "the tensors end at byte %zu of the data, the file holds %zu", at,
                            file->data.size);
    }
    if (file->count > 0) {
        qsort(file->items, file->count, sizeof *file->items, by_name);
    }
    for (size_t i = 1; i < file->count; i++) {
        if (strcmp(file->items[i - 1].name, file->items[i].name) == 0) {
            return smhf_fail(err, SMHF_E_PARSE, "tensor \"%.80s\" appears twice",
                             file->items[i].name);
        }
    }
    return SMHF_OK;
}

static smhf_status parse_into(smhf_safetensors *file, smhf_bytes_view bytes, smhf_error *err) {
    uint64_t header = 0;
    if (bytes.size < 8) {
        return smhf_fail_at(err, SMHF_E_PARSE, bytes.size,
                            "expected an 8-byte header size, found %zu bytes", bytes.size);
    }
    for (int i = 7; i >= 0; i--) {
        header = (header << 8) | bytes.data[i];
    }
    if (header > MAX_HEADER) {
        return smhf_fail_at(err, SMHF_E_PARSE, 0, "header size %llu: expected at most %llu",
                            (unsigned long long)header, (unsigned long long)MAX_HEADER);
    }
    if (header > bytes.size - 8) {
        return smhf_fail_at(err, SMHF_E_PARSE, 0,
                            "header size %llu: the file has only %zu bytes behind it (truncated?)",
                            (unsigned long long)header, bytes.size - 8);
    }
    file->header_end = 8 + (size_t)header;
    file->data = (smhf_bytes_view){bytes.data + file->header_end, bytes.size - file->header_end};

    smhf_json_reader reader;
    smhf_json_reader_init(&reader, (smhf_bytes_view){bytes.data + 8, (size_t)header}, MAX_DEPTH, 0);
    const smhf_status status = read_header(file, &reader, err);
    smhf_json_reader_deinit(&reader);
    if (status != SMHF_OK) {
        if (err != NULL && err->offset >= 0) {
            err->offset += 8; /* of the file, not of the header */
        }
        return status;
    }
    return check_cover(file, err);
}

smhf_status smhf_safetensors_parse(smhf_bytes_view bytes, smhf_safetensors **out, smhf_error *err) {
    *out = NULL;
    smhf_safetensors *file = smhf_calloc(1, sizeof *file);
    if (file == NULL) {
        return smhf_fail_nomem(err, "safetensors", sizeof *file);
    }
    file->fd = -1;
    smhf_arena_init(&file->arena, 8192);
    const smhf_status status = parse_into(file, bytes, err);
    if (status != SMHF_OK) {
        smhf_safetensors_close(file);
        return status;
    }
    *out = file;
    return SMHF_OK;
}

smhf_status smhf_safetensors_open(const char *path, smhf_safetensors **out, smhf_error *err) {
    smhf_bytes_view map = {0};
    int fd = -1;
    *out = NULL;
    SMHF_TRY(smhf_file_map_open(path, &map, &fd, err));
    const smhf_status status = smhf_safetensors_parse(map, out, err);
    if (status != SMHF_OK) {
        smhf_error_prefix(err, "%s", path);
        smhf_file_unmap(&map);
        smhf_file_close(&fd);
        return status;
    }
    (*out)->map = map;
    (*out)->fd = fd;
    return SMHF_OK;
}

smhf_status smhf_safetensors_read(const smhf_safetensors *file, const smhf_safetensor *tensor,
                                  size_t offset, void *out, size_t size, smhf_error *err) {
    SMHF_ASSERT(file->fd >= 0 && offset + size <= tensor->data.size);
    const size_t begin =
        (size_t)((const char *)tensor->data.data - (const char *)file->map.data) + offset;
    return smhf_file_read_at(file->fd, tensor->name, begin, out, size, err);
}

void smhf_safetensors_close(smhf_safetensors *file) {
    if (file == NULL) {
        return;
    }
    smhf_file_unmap(&file->map);
    smhf_file_close(&file->fd);
    smhf_arena_deinit(&file->arena);
    smhf_free(file->items);
    smhf_free(file);
}

size_t smhf_safetensors_count(const smhf_safetensors *file) {
    return file->count;
}

const smhf_safetensor *smhf_safetensors_at(const smhf_safetensors *file, size_t index) {
    return &file->items[index];
}

const smhf_safetensor *smhf_safetensors_find(const smhf_safetensors *file, const char *name) {
    smhf_safetensor key = {0};
    key.name = name;
    return (file->count == 0)
               ? NULL
               : bsearch(&key, file->items, file->count, sizeof *file->items, by_name);
}

const char *smhf_safetensors_metadata(const smhf_safetensors *file, const char *key) {
    for (const metadata_pair *pair = file->metadata; pair != NULL; pair = pair->next) {
        if (strcmp(pair->key, key) == 0) {
            return pair->value;
        }
    }
    return NULL;
}

/* --- conversion --------------------------------------------------------------------------------
 */

static float from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* IEEE half to float; subnormals are scaled by 2^-24, which float holds exactly. */
static float half_to_float(uint16_t half) {
    const uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    const uint32_t exponent = (half >> 10) & 0x1Fu;
    const uint32_t fraction = half & 0x3FFu;
    if (exponent == 0x1F) {
        return from_bits(sign | 0x7F800000u | (fraction << 13));
    }
    if (exponent == 0) {
        const float tiny = (float)fraction * (1.0f / 16777216.0f);
        return sign != 0 ? -tiny : tiny;
    }
    return from_bits(sign | ((exponent + 112u) << 23) | (fraction << 13));
}

smhf_status smhf_safetensor_to_f32(const smhf_safetensor *tensor, float *out, smhf_error *err) {
    const uint8_t *in = tensor->data.data;
    const size_t count = (size_t)tensor->count;
    switch (tensor->dtype) {
    case SMHF_ST_F32:
        if (count > 0) {
            memcpy(out, in, count * sizeof *out);
        }
        return SMHF_OK;
    case SMHF_ST_F64:
        for (size_t i = 0; i < count; i++) {
            double wide;
            memcpy(&wide, in + i * sizeof wide, sizeof wide); /* the file does not align */
            out[i] = (float)wide;
        }
        return SMHF_OK;
    case SMHF_ST_F16:
    case SMHF_ST_BF16:
        for (size_t i = 0; i < count; i++) {
            uint16_t bits;
            memcpy(&bits, in + i * sizeof bits, sizeof bits);
            out[i] = (tensor->dtype == SMHF_ST_F16) ? half_to_float(bits)
                                                    : from_bits((uint32_t)bits << 16);
        }
        return SMHF_OK;
    case SMHF_ST_OTHER:
        break;
    }
    return smhf_fail(err, SMHF_E_UNSUPPORTED,
                     "tensor \"%.80s\": expected F32, F16, BF16 or F64, found %s", tensor->name,
                     tensor->dtype_name);
}

/* --- writing -----------------------------------------------------------------------------------
 */

struct smhf_safetensors_writer {
    smhf_file_writer *file;
    uint64_t expected; /* floats announced by the header */
    uint64_t written;
};

static smhf_status write_entry(smhf_json_writer *json, const smhf_safetensors_entry *entry,
                               uint64_t begin, uint64_t end, smhf_error *err) {
    SMHF_TRY(smhf_json_write_key(json, entry->name, err));
    SMHF_TRY(smhf_json_write_begin(json, '{', err));
    SMHF_TRY(smhf_json_write_key(json, "dtype", err));
    SMHF_TRY(smhf_json_write_string(json, smhf_bytes_from_string("F32"), err));
    SMHF_TRY(smhf_json_write_key(json, "shape", err));
    SMHF_TRY(smhf_json_write_begin(json, '[', err));
    for (int d = 0; d < entry->ndim; d++) {
        SMHF_TRY(smhf_json_write_int64(json, (int64_t)entry->shape[d], err));
    }
    SMHF_TRY(smhf_json_write_end(json, ']', err));
    SMHF_TRY(smhf_json_write_key(json, "data_offsets", err));
    SMHF_TRY(smhf_json_write_begin(json, '[', err));
    SMHF_TRY(smhf_json_write_int64(json, (int64_t)begin, err));
    SMHF_TRY(smhf_json_write_int64(json, (int64_t)end, err));
    SMHF_TRY(smhf_json_write_end(json, ']', err));
    return smhf_json_write_end(json, '}', err);
}

/* The header as text, padded with spaces so that the data starts 8-aligned. */
static smhf_status write_header(smhf_buffer *out, const smhf_safetensors_entry *entries,
                                size_t entry_count, const smhf_safetensors_pair *metadata,
                                size_t pair_count, uint64_t *floats, smhf_error *err) {
    smhf_json_writer json;
    uint64_t at = 0;
    smhf_json_writer_init(&json, out);
    SMHF_TRY(smhf_json_write_begin(&json, '{', err));
    SMHF_TRY(smhf_json_write_key(&json, "__metadata__", err));
    SMHF_TRY(smhf_json_write_begin(&json, '{', err));
    SMHF_TRY(smhf_json_write_key(&json, FORMAT_KEY, err));
    SMHF_TRY(smhf_json_write_string(&json, smhf_bytes_from_string("pt"), err));
    for (size_t i = 0; i < pair_count; i++) {
        SMHF_TRY(smhf_json_write_key(&json, metadata[i].key, err));
        SMHF_TRY(smhf_json_write_string(&json, smhf_bytes_from_string(metadata[i].value), err));
    }
    SMHF_TRY(smhf_json_write_end(&json, '}', err));
    for (size_t i = 0; i < entry_count; i++) {
        uint64_t count = 1;
        for (int d = 0; d < entries[i].ndim; d++) {
            count *= entries[i].shape[d];
        }
        SMHF_TRY(write_entry(&json, &entries[i], at, at + count * sizeof(float), err));
        at += count * sizeof(float);
    }
    SMHF_TRY(smhf_json_write_end(&json, '}', err));
    while (out->size % HEADER_ALIGN != 0) {
        SMHF_TRY(smhf_buffer_append_byte(out, ' ', err));
    }
    *floats = at / sizeof(float);
    return SMHF_OK;
}

smhf_status smhf_safetensors_writer_open(const char *path, const smhf_safetensors_entry *entries,
                                         size_t entry_count, const smhf_safetensors_pair *metadata,
                                         size_t pair_count, smhf_safetensors_writer **out,
                                         smhf_error *err) {
    uint8_t size[8];
    smhf_buffer header;
    smhf_safetensors_writer *writer = NULL;
    smhf_status status = SMHF_OK;
    *out = NULL;
    smhf_buffer_init(&header, (size_t)MAX_HEADER);
    writer = smhf_calloc(1, sizeof *writer);
    if (writer == NULL) {
        status = smhf_fail_nomem(err, path, sizeof *writer);
        goto done;
    }
    status =
        write_header(&header, entries, entry_count, metadata, pair_count, &writer->expected, err);
    if (status != SMHF_OK) {
        goto done;
    }
    for (int i = 0; i < 8; i++) {
        size[i] = (uint8_t)((uint64_t)header.size >> (8 * i));
    }
    status = smhf_file_writer_open(path, &writer->file, err);
    if (status == SMHF_OK) {
        status = smhf_file_writer_write(writer->file, size, sizeof size, err);
    }
    if (status == SMHF_OK) {
        status = smhf_file_writer_write(writer->file, header.data, header.size, err);
    }

done:
    smhf_buffer_deinit(&header);
    if (status != SMHF_OK) {
        smhf_safetensors_writer_abort(writer);
        writer = NULL;
    }
    *out = writer;
    return status;
}

smhf_status smhf_safetensors_writer_append(smhf_safetensors_writer *writer, const float *values,
                                           size_t count, smhf_error *err) {
    writer->written += count;
    SMHF_ASSERT(writer->written <= writer->expected);
    return smhf_file_writer_write(writer->file, values, count * sizeof *values, err);
}

smhf_status smhf_safetensors_writer_commit(smhf_safetensors_writer *writer, smhf_error *err) {
    SMHF_ASSERT(writer->written == writer->expected);
    const smhf_status status = smhf_file_writer_commit(writer->file, err);
    smhf_free(writer);
    return status;
}

void smhf_safetensors_writer_abort(smhf_safetensors_writer *writer) {
    if (writer != NULL) {
        smhf_file_writer_abort(writer->file);
        smhf_free(writer);
    }
}
