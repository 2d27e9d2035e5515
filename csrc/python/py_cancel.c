/* py_cancel.c: see py_cancel.h. */
#include "py_cancel.h"

#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define EVERY 50000000 /* nanoseconds between two questions */

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int ask(void *context) {
    smhf_py_cancel *self = context;
    const int64_t time = now();
    if (time < self->next) {
        return 0;
    }
    self->next = time + EVERY;
    PyEval_RestoreThread(self->thread);
    const int stop = PyErr_CheckSignals() != 0;
    self->thread = PyEval_SaveThread();
    return stop;
}

void smhf_py_cancel_begin(smhf_py_cancel *cancel) {
    cancel->cancel = (smhf_cancel){ask, cancel};
    cancel->main_thread = syscall(SYS_gettid) == getpid();
    cancel->next = now() + EVERY;
    cancel->thread = PyEval_SaveThread();
}

void smhf_py_cancel_end(smhf_py_cancel *cancel) {
    PyEval_RestoreThread(cancel->thread);
}

const smhf_cancel *smhf_py_cancel_of(const smhf_py_cancel *cancel) {
    return cancel->main_thread ? &cancel->cancel : NULL;
}
