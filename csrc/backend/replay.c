/* replay.c: runs of ops, issued first, recorded next, launched from then on. */
#include "backend/backend.h"
#include "common/mem.h"

#include <stdlib.h>
#include <string.h>

typedef enum replay_state {
    REPLAY_FREE,
    REPLAY_SEEN,     /* has run once: what it needs is there now */
    REPLAY_RECORDED, /* graph */
    REPLAY_NEVER,    /* could not be recorded */
} replay_state;

typedef struct replay_entry {
    replay_state state;
    smhf_bucket bucket;
    const void *arrays; /* the pack's: another pack is another run */
    uint64_t kind, used;
    smhf_graph *graph;
} replay_entry;

struct smhf_replay {
    smhf_device *device;
    int records;
    uint64_t clock;
    replay_entry entries[SMHF_REPLAY_MAX];
};

smhf_status smhf_replay_new(smhf_device *device, smhf_replay **out, smhf_error *err) {
    const char *wish = getenv("SMHF_REPLAY");
    const smhf_backend *be = device->backend;
    *out = NULL;
    smhf_replay *replay = smhf_calloc(1, sizeof *replay);
    if (replay == NULL) {
        return smhf_fail_nomem(err, "replays", sizeof *replay);
    }
    replay->device = device;
    replay->records = be->graph_begin != NULL && be->graph_end != NULL &&
                      be->graph_launch != NULL && be->graph_free != NULL &&
                      (wish == NULL || strcmp(wish, "0") != 0);
    *out = replay;
    return SMHF_OK;
}

static void entry_clear(smhf_replay *replay, replay_entry *e) {
    if (e->graph != NULL) {
        replay->device->backend->graph_free(replay->device, e->graph);
    }
    *e = (replay_entry){0};
}

void smhf_replay_forget(smhf_replay *replay) {
    for (int i = 0; replay != NULL && i < SMHF_REPLAY_MAX; i++) {
        entry_clear(replay, &replay->entries[i]);
    }
}

void smhf_replay_free(smhf_replay *replay) {
    smhf_replay_forget(replay);
    smhf_free(replay);
}

static int same(const replay_entry *e, const replay_entry *wanted) {
    return e->state != REPLAY_FREE && e->kind == wanted->kind && e->arrays == wanted->arrays &&
           memcmp(&e->bucket, &wanted->bucket, sizeof e->bucket) == 0;
}

/* The entry of this run; a new one takes a free place, or that of the longest unused. */
static replay_entry *entry_of(smhf_replay *replay, const smhf_pack *pack, uint64_t kind) {
    replay_entry wanted = {.kind = kind};
    if (pack != NULL) {
        wanted.bucket = pack->bucket;
        wanted.arrays = pack->counts;
    }
    replay_entry *oldest = &replay->entries[0];
    for (int i = 0; i < SMHF_REPLAY_MAX; i++) {
        replay_entry *e = &replay->entries[i];
        if (same(e, &wanted)) {
            return e;
        }
        oldest = e->used < oldest->used ? e : oldest;
    }
    entry_clear(replay, oldest);
    *oldest = wanted;
    return oldest;
}

/* NEVER: the device is as if nothing had been asked. SEEN: the caller has cancelled, and the device
 * knows it. */
static replay_state record(smhf_replay *replay, replay_entry *e, smhf_replay_ops ops,
                           void *context) {
    smhf_device *dev = replay->device;
    const smhf_error fresh = SMHF_ERROR_INIT;
    if (dev->backend->graph_begin(dev, NULL) != SMHF_OK) {
        return REPLAY_NEVER;
    }
    ops(context);
    const smhf_status status = dev->backend->graph_end(dev, &e->graph, NULL);
    if (status == SMHF_OK) {
        return REPLAY_RECORDED;
    }
    e->graph = NULL;
    if (dev->failure.code == SMHF_E_CANCELLED) {
        return REPLAY_SEEN;
    }
    dev->failure = fresh; /* of the recording; what is wrong in earnest comes again */
    return REPLAY_NEVER;
}

void smhf_replay_run(smhf_replay *replay, const smhf_pack *pack, uint64_t kind, smhf_replay_ops ops,
                     void *context) {
    smhf_device *dev = replay->device;
    if (!replay->records || dev->failure.code != SMHF_OK) {
        ops(context);
        return;
    }
    replay_entry *e = entry_of(replay, pack, kind);
    e->used = ++replay->clock;
    if (e->state == REPLAY_SEEN) {
        e->state = record(replay, e, ops, context);
    }
    if (e->state == REPLAY_RECORDED) {
        dev->backend->graph_launch(dev, e->graph);
        return;
    }
    ops(context); /* nothing after a failure */
    if (e->state == REPLAY_FREE && dev->failure.code == SMHF_OK) {
        e->state = REPLAY_SEEN;
    }
}
