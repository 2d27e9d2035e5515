/* trained.h: which parameters a trainer trains, and where their gradients and moments lie.
 *
 *     smhf_trained trained;
 *     SMHF_TRY(smhf_trained_init(&trained, &table, frozen, err));     // frozen NULL: none
 *     float *gradient = arena + smhf_trained_place(&trained, 7);      // of parameter 7
 *     ... trained.lowest: the backward pass ends there ...
 *     smhf_trained_deinit(&trained);
 *
 * Frozen parameters have no place: gradients and both moments are arenas of trained.size floats,
 * with gaps as in the table of parameters, so that runs of trained neighbours stay runs. A slot
 * (q, k and v of a layer) has a place when one of its parameters is trained; so has a matrix whose
 * bias is.
 * Threads: immutable after init. Ownership: the table outlives it.
 */
#ifndef SMHF_MODEL_TRAINED_H
#define SMHF_MODEL_TRAINED_H

#include "model/tensors.h"

#define SMHF_NO_PLACE SIZE_MAX

typedef struct smhf_trained {
    const smhf_parameters *table;
    uint8_t *frozen; /* [table->count] */
    size_t *places;  /* [table->slot_count] floats from the start, or SMHF_NO_PLACE */
    size_t size;     /* floats in one arena */
    int count;       /* parameters that are trained */
    int lowest;      /* first layer with one; -1: the embeddings have; layers: only the head */
    smhf_arena arena;
} smhf_trained;

/* `frozen` [table->count], not 0: frozen; copied. SMHF_E_ARG when all are. */
smhf_status smhf_trained_init(smhf_trained *trained, const smhf_parameters *table,
                              const uint8_t *frozen, smhf_error *err) SMHF_MUST_USE;
void smhf_trained_deinit(smhf_trained *trained);
/* Of parameter `index`, which is not frozen. */
size_t smhf_trained_place(const smhf_trained *trained, int index);

#endif
