/* pool.h: one thread pool for the process.
 *
 *     static void scale_rows(void *context, size_t begin, size_t end) { ... }
 *     smhf_parallel_for(rows, 64, scale_rows, &task);
 *
 * [0, count) is cut into chunks of `chunk` items (the last one shorter). The cut depends on count
 * and chunk only, never on the number of threads: a body whose result depends on its range alone
 * gives bit-equal results for 1 or 8 threads. The caller's thread takes part. A call from inside
 * a body runs inline. Several threads may call at once; their work is interleaved.
 * Workers start at the first parallel call; after fork() the child starts its own lazily.
 * Bodies cannot fail through here: they report through their context.
 * Threads: every function may be called from any thread.
 */
#ifndef SMHF_COMMON_POOL_H
#define SMHF_COMMON_POOL_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef void (*smhf_parallel_body)(void *context, size_t begin, size_t end);

void smhf_parallel_for(size_t count, size_t chunk, smhf_parallel_body body, void *context);

/* A parallel call is about to come: sleeping workers wake meanwhile and look out for it for some
 * tens of microseconds. Worth it before a few microseconds of work that only the caller can do. */
void smhf_pool_rouse(void);

/* Threads used by a parallel call, the caller's included. Default: SMHF_NUM_THREADS, else the
 * CPUs that affinity and cgroup quota leave to this process. */
int smhf_pool_threads(void);
/* 1..256; clamped. Takes effect at the next call; surplus workers sleep. */
void smhf_pool_set_threads(int threads);
/* Joins the workers (used by leak checks at exit); the next call starts them again. */
void smhf_pool_shutdown(void);

#ifdef __cplusplus
}
#endif
#endif
