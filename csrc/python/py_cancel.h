/* py_cancel.h: a long core call without the GIL that Ctrl-C can stop.
 *
 *     smhf_py_cancel cancel;
 *     smhf_py_cancel_begin(&cancel);                       // gives the GIL up
 *     status = smhf_model_run(model, &run, out, &err);     // run.cancel =
 * smhf_py_cancel_of(&cancel) smhf_py_cancel_end(&cancel);                         // has it again
 *     if (PyErr_Occurred()) ...                            // KeyboardInterrupt, or what the
 * handler raised
 *
 * Only the main thread runs Python's signal handlers, so only there anything is asked, and at most
 * twenty times a second: the GIL is taken for the question alone.
 */
#ifndef SMHF_PY_CANCEL_H
#define SMHF_PY_CANCEL_H

#include "py_common.h"

#include "model/model.h"

typedef struct smhf_py_cancel {
    smhf_cancel cancel;
    PyThreadState *thread; /* while the GIL is given up */
    int64_t next;          /* nanoseconds: not to be asked before */
    int main_thread;
} smhf_py_cancel;

void smhf_py_cancel_begin(smhf_py_cancel *cancel);
void smhf_py_cancel_end(smhf_py_cancel *cancel);
/* NULL off the main thread. */
const smhf_cancel *smhf_py_cancel_of(const smhf_py_cancel *cancel);

#endif
