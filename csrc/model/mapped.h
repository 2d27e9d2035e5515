/* mapped.h: a checkpoint used where it lies, for inference on a device that reads host memory.
 *
 *     smhf_mapped mapped;
 *     SMHF_TRY(smhf_mapped_init(&mapped, &table, &config, file, sources, seed, err));
 *     const float *word = mapped.places[smhf_parameters_slot_index(&table, -1, SMHF_SLOT_WORD)];
 *     SMHF_TRY(smhf_mapped_matrix(&mapped, layer, SMHF_SLOT_OUT_WEIGHT, scratch, &matrix, err));
 *     smhf_mapped_deinit(&mapped);
 *
 * Nothing is copied that need not be: rows of the word table are read from the file as they are
 * asked for; vectors are copied, they are small; matrices are looked at once, when a backend
 * prepares them, and their pages given back. A model that will be trained or written to moves into
 * an arena first. The file must not be changed in place (replacing it is fine). Threads: immutable
 * after init, matrix excepted (its scratch is the caller's). Ownership: takes over file and
 * sources, also when init fails.
 */
#ifndef SMHF_MODEL_MAPPED_H
#define SMHF_MODEL_MAPPED_H

#include "backend/backend.h"
#include "model/tensors.h"

typedef struct smhf_mapped {
    const smhf_parameters *table;
    const smhf_config *config;
    smhf_safetensors *file;          /* owned */
    const smhf_safetensor **sources; /* owned; [table->count], NULL: newly made from the seed */
    uint64_t seed;
    float *block;   /* owned: vectors, and tables that the file does not hold as aligned fp32 */
    float **places; /* owned; by slot index; NULL for matrices */
} smhf_mapped;

smhf_status smhf_mapped_init(smhf_mapped *mapped, const smhf_parameters *table,
                             const smhf_config *config, smhf_safetensors *file,
                             const smhf_safetensor **sources, uint64_t seed,
                             smhf_error *err) SMHF_MUST_USE;
void smhf_mapped_deinit(smhf_mapped *mapped);

/* Values of parameter `index`. */
smhf_status smhf_mapped_read(const smhf_mapped *mapped, int index, float *out,
                             smhf_error *err) SMHF_MUST_USE;
/* Floats that smhf_mapped_matrix may need: of the largest matrix slot. */
size_t smhf_mapped_scratch(const smhf_mapped *mapped);
/* A whole matrix slot: the file's own memory where it is one aligned fp32 tensor, else `scratch`.
 */
smhf_status smhf_mapped_matrix(const smhf_mapped *mapped, int layer, smhf_slot slot, float *scratch,
                               smhf_tensor *out, smhf_error *err) SMHF_MUST_USE;
/* Whether smhf_mapped_words can be used: the file holds the word table as fp32. */
int smhf_mapped_has_words(const smhf_mapped *mapped);
/* out [count, hidden] = rows of the word table, read from the file. Through the map every row would
 * bring its neighbourhood along (a page cache in large pages: up to 2 MiB), and a few hundred words
 * keep the whole table resident. Ids must be inside the table. May run in several threads. */
smhf_status smhf_mapped_words(const smhf_mapped *mapped, const int32_t *ids, int32_t count,
                              float *out, smhf_error *err) SMHF_MUST_USE;
/* The pages of a matrix slot will not be read soon. */
void smhf_mapped_done(const smhf_mapped *mapped, int layer, smhf_slot slot);

#endif
