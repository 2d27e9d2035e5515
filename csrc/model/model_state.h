/* model_state.h: the inside of a model, for model.c and trainer*.c.
 *
 * Locking: `mutex` guards the fields behind it and is never held during compute. Readers (passes)
 * and the one writer (optimizer step, load) exclude each other; a waiting writer goes first.
 */
#ifndef SMHF_MODEL_STATE_H
#define SMHF_MODEL_STATE_H

#include "backend/backend.h"
#include "model/model.h"
#include "model/network.h"
#include "model/tensors.h"
#include "model/workspace.h"

#include <pthread.h>

typedef struct smhf_trainer smhf_trainer; /* trainer.h */

struct smhf_model {
    smhf_config config;
    smhf_parameters table;
    smhf_load_report report;
    char *device;    /* owned; what every workspace opens */
    char *precision; /* owned */
    size_t batch_tokens;
    int max_workspaces;
    float tie_margin; /* of int8, see ties.h */

    smhf_device *dev;   /* owned; used only by the writer */
    float *parameters;  /* owned, device: table.size floats; NULL while mapped */
    smhf_mapped mapped; /* file NULL: the values are in parameters */
    smhf_network net;
    smhf_network_options options; /* that net was prepared with */

    pthread_mutex_t mutex;
    pthread_cond_t changed;
    int readers;
    int writing;
    int writers_waiting;
    smhf_workspace *free_workspaces;
    int workspaces; /* made */
    int trainers;   /* alive */

    /* A trainer that has queued work and not waited for it; everybody else waits for the event. */
    const smhf_trainer *ahead;
    smhf_event *ahead_event; /* borrowed */
};

void smhf_model_read_begin(smhf_model *model);
void smhf_model_read_end(smhf_model *model);
void smhf_model_write_begin(smhf_model *model);
void smhf_model_write_end(smhf_model *model);
/* Waits for the trainer that runs ahead, unless it is `except`. Between begin and end. */
void smhf_model_settle(smhf_model *model, smhf_device *dev, const smhf_trainer *except);

/* Makes sure that weights serve these uses. Not to be called between begin and end. */
smhf_status smhf_model_prepare(smhf_model *model, uint32_t uses, smhf_error *err) SMHF_MUST_USE;

#endif
