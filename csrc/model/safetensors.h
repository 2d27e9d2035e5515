/* safetensors.h: the checkpoint format, read with suspicion and written atomically.
 *
 *     smhf_safetensors *file;
 *     SMHF_TRY(smhf_safetensors_open("model.safetensors", &file, err));       // mapped, checked
 *     const smhf_safetensor *weight = smhf_safetensors_find(file, "classifier.weight");
 *     smhf_safetensor_to_f32(weight, out);                                    // any float dtype
 *     smhf_safetensors_close(file);
 *
 * Layout: 8 bytes little-endian header size N, N bytes of JSON {name: {dtype, shape,
 * data_offsets: [begin, end]}, "__metadata__": {text: text}}, then the data. Before anything is
 * believed: N <= 100 MB and within the file, JSON depth <= 8, known dtypes, shape x dtype equal
 * to the byte range (overflow-checked), ranges that neither overlap nor leave holes and end with
 * the file, no name twice. Source: github.com/huggingface/safetensors, README.
 * Threads: an open file is immutable. Ownership: views are borrowed until close.
 */
#ifndef SMHF_MODEL_SAFETENSORS_H
#define SMHF_MODEL_SAFETENSORS_H

#include "common/bytes.h"

#define SMHF_SAFETENSORS_MAX_DIMS 8

typedef enum smhf_safetensor_dtype {
    SMHF_ST_F64,
    SMHF_ST_F32,
    SMHF_ST_F16,
    SMHF_ST_BF16,
    SMHF_ST_OTHER, /* integers, booleans, 8-bit floats: listed, not converted */
} smhf_safetensor_dtype;

typedef struct smhf_safetensor {
    const char *name; /* UTF-8, NUL-terminated */
    smhf_safetensor_dtype dtype;
    const char *dtype_name; /* as in the file */
    int ndim;
    uint64_t shape[SMHF_SAFETENSORS_MAX_DIMS];
    uint64_t count; /* elements */
    size_t begin;   /* byte offset in the data section */
    smhf_bytes_view data;
} smhf_safetensor;

typedef struct smhf_safetensors smhf_safetensors;

/* Caller frees with smhf_safetensors_close. Sentences name the path. */
smhf_status smhf_safetensors_open(const char *path, smhf_safetensors **out,
                                  smhf_error *err) SMHF_MUST_USE;
/* The same over bytes that outlive the result (fuzzing, tests). */
smhf_status smhf_safetensors_parse(smhf_bytes_view bytes, smhf_safetensors **out,
                                   smhf_error *err) SMHF_MUST_USE;
/* NULL is fine. */
void smhf_safetensors_close(smhf_safetensors *file);

size_t smhf_safetensors_count(const smhf_safetensors *file);
/* In order of name. */
const smhf_safetensor *smhf_safetensors_at(const smhf_safetensors *file, size_t index);
/* NULL when absent. */
const smhf_safetensor *smhf_safetensors_find(const smhf_safetensors *file, const char *name);
/* A value of __metadata__, or NULL. */
const char *smhf_safetensors_metadata(const smhf_safetensors *file, const char *key);

/* Bytes [offset, offset + size) of an opened file's tensor, read instead of mapped: they leave no
 * pages behind. May be called from several threads. */
smhf_status smhf_safetensors_read(const smhf_safetensors *file, const smhf_safetensor *tensor,
                                  size_t offset, void *out, size_t size,
                                  smhf_error *err) SMHF_MUST_USE;

/* Converts tensor->count elements; SMHF_E_UNSUPPORTED for SMHF_ST_OTHER. bf16 and f16 widen
 * exactly, f64 rounds to nearest. */
smhf_status smhf_safetensor_to_f32(const smhf_safetensor *tensor, float *out,
                                   smhf_error *err) SMHF_MUST_USE;

/* One tensor to be written, always F32. */
typedef struct smhf_safetensors_entry {
    const char *name;
    int ndim;
    uint64_t shape[SMHF_SAFETENSORS_MAX_DIMS];
} smhf_safetensors_entry;

typedef struct smhf_safetensors_pair {
    const char *key;
    const char *value;
} smhf_safetensors_pair;

/* Streaming writer: the header first, then the data of every entry in the same order. The file
 * appears under its name at commit, whole, or not at all. */
typedef struct smhf_safetensors_writer smhf_safetensors_writer;
smhf_status smhf_safetensors_writer_open(const char *path, const smhf_safetensors_entry *entries,
                                         size_t entry_count, const smhf_safetensors_pair *metadata,
                                         size_t pair_count, smhf_safetensors_writer **out,
                                         smhf_error *err) SMHF_MUST_USE;
smhf_status smhf_safetensors_writer_append(smhf_safetensors_writer *writer, const float *values,
                                           size_t count, smhf_error *err) SMHF_MUST_USE;
/* Ends the writer whether it succeeds or not. */
smhf_status smhf_safetensors_writer_commit(smhf_safetensors_writer *writer,
                                           smhf_error *err) SMHF_MUST_USE;
/* NULL is fine. */
void smhf_safetensors_writer_abort(smhf_safetensors_writer *writer);

#endif
