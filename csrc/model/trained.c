/* trained.c: places for what is trained. */
#include "model/trained.h"

#include <string.h>

#define ALIGN_FLOATS 16 /* as in the table of parameters */

static size_t slot_index(const smhf_parameters *table, int index) {
    return smhf_parameters_slot_index(table, table->items[index].layer, table->items[index].slot);
}

/* The bias that belongs to a matrix, or the slot itself. */
static smhf_slot bias_of(const smhf_parameters *table, smhf_slot slot) {
    switch (slot) {
    case SMHF_SLOT_WORD:
        return table->tied ? SMHF_SLOT_LABEL_BIAS : slot;
    case SMHF_SLOT_QKV_WEIGHT:
    case SMHF_SLOT_OUT_WEIGHT:
    case SMHF_SLOT_FFN1_WEIGHT:
    case SMHF_SLOT_FFN2_WEIGHT:
    case SMHF_SLOT_POOL_WEIGHT:
    case SMHF_SLOT_LABEL_WEIGHT:
        return slot + 1;
    default:
        return slot;
    }
}

/* The op that makes a bias gradient makes the matrix's too. */
static int has_trained_bias(const smhf_trained *trained, int index) {
    const smhf_parameter *p = &trained->table->items[index];
    const smhf_slot bias = bias_of(trained->table, p->slot);
    for (int i = 0; i < trained->table->count; i++) {
        const smhf_parameter *other = &trained->table->items[i];
        if (other->slot == bias && other->layer == p->layer && !trained->frozen[i]) {
            return 1;
        }
    }
    return 0;
}

static void find_lowest(smhf_trained *trained) {
    const smhf_parameters *table = trained->table;
    trained->lowest = table->layers;
    for (int i = 0; i < table->count; i++) {
        const smhf_parameter *p = &table->items[i];
        const int layer = p->head ? table->layers : p->layer;
        if (!trained->frozen[i]) {
            trained->count++;
            trained->lowest = layer < trained->lowest ? layer : trained->lowest;
        }
    }
}

smhf_status smhf_trained_init(smhf_trained *trained, const smhf_parameters *table,
                              const uint8_t *frozen, smhf_error *err) {
    const size_t count = (size_t)table->count;
    *trained = (smhf_trained){.table = table};
    smhf_arena_init(&trained->arena, 16 * 1024);
    trained->frozen = smhf_arena_calloc(&trained->arena, count, sizeof *trained->frozen);
    trained->places =
        smhf_arena_calloc(&trained->arena, table->slot_count, sizeof *trained->places);
    if (trained->frozen == NULL || trained->places == NULL) {
        return smhf_fail_nomem(err, "table of gradients", count * sizeof *trained->places);
    }
    if (frozen != NULL) {
        memcpy(trained->frozen, frozen, count);
    }
    find_lowest(trained);
    if (trained->count == 0) {
        return smhf_fail(err, SMHF_E_ARG,
                         "freeze: all %d parameters are frozen, nothing is left to train",
                         table->count);
    }
    for (size_t slot = 0; slot < table->slot_count; slot++) {
        trained->places[slot] = SMHF_NO_PLACE;
    }
    for (int first = 0; first < table->count;) {
        const size_t slot = slot_index(table, first);
        size_t floats = 0;
        int end = first, wanted = 0;
        for (; end < table->count && slot_index(table, end) == slot; end++) {
            floats += table->items[end].count;
            wanted |= !trained->frozen[end];
        }
        if (wanted || has_trained_bias(trained, first)) {
            trained->places[slot] = trained->size;
            trained->size += (floats + ALIGN_FLOATS - 1) / ALIGN_FLOATS * ALIGN_FLOATS;
        }
        first = end;
    }
    return SMHF_OK;
}

void smhf_trained_deinit(smhf_trained *trained) {
    smhf_arena_deinit(&trained->arena);
    *trained = (smhf_trained){0};
}

size_t smhf_trained_place(const smhf_trained *trained, int index) {
    const smhf_parameter *p = &trained->table->items[index];
    const size_t slot = slot_index(trained->table, index);
    SMHF_ASSERT(!trained->frozen[index] && trained->places[slot] != SMHF_NO_PLACE);
    return trained->places[slot] + p->offset -
           smhf_parameters_slot(trained->table, p->layer, p->slot);
}
