/* pool.c: chunks are claimed with one atomic counter per job; jobs form a list that workers walk.
 *
 * A network is hundreds of short jobs one after the other, and waking a sleeping thread costs as
 * much as a short one takes. So a worker without work looks for the next job for some tens of
 * microseconds before it sleeps, and the caller as long for its last worker.
 *
 * A job lives on its caller's stack. The caller works through its own job first, then waits until
 * the workers that still hold a chunk of it have let go; no worker touches a job after that. */
#include "common/pool.h"

#include "common/mem.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_THREADS 256

typedef struct job {
    smhf_parallel_body body;
    void *context;
    size_t count;
    size_t chunk;
    size_t chunks;
    _Atomic size_t next; /* next chunk to claim */
    _Atomic int holders; /* workers inside this job; changed under the pool's lock */
    struct job *following;
} job;

static struct {
    pthread_mutex_t lock;
    pthread_cond_t work; /* a job was added, or the pool stops */
    pthread_cond_t done; /* a worker left a job */
    job *jobs;
    _Atomic unsigned added; /* jobs so far, and announced ones: something to look for */
    pthread_t threads[MAX_THREADS];
    int running; /* workers started */
    int target;  /* threads wanted, the caller's included; 0: not decided */
    int stopping;
    int fork_guarded;
    int spin; /* every thread has a CPU to itself, as far as this process can see */
} pool = {PTHREAD_MUTEX_INITIALIZER,
          PTHREAD_COND_INITIALIZER,
          PTHREAD_COND_INITIALIZER,
          NULL,
          0,
          {0},
          0,
          0,
          0,
          0,
          0};

static _Thread_local int inside; /* this thread runs a body: nested calls go inline */

/* About 30 us of looking; a spinning thread leaves the core's resources to its sibling. */
#define SPINS 800

static void spin_once(void) {
#if defined(__x86_64__) && defined(__GNUC__)
    __builtin_ia32_pause();
#endif
}

/* The lock is held for some tens of nanoseconds at a time, and at the end of a short job by all
 * threads at once: who sleeps for it loses a thousand times that. */
static void lock_pool(void) {
    for (int i = 0; i < SPINS / 4; i++) {
        if (pthread_mutex_trylock(&pool.lock) == 0) {
            return;
        }
        spin_once();
    }
    pthread_mutex_lock(&pool.lock);
}

static void run_chunks(job *work) {
    int outer = inside;
    inside = 1;
    for (;;) {
        size_t index = atomic_fetch_add_explicit(&work->next, 1, memory_order_relaxed);
        if (index >= work->chunks) {
            break;
        }
        size_t begin = index * work->chunk;
        size_t end = (work->count - begin < work->chunk) ? work->count : begin + work->chunk;
        work->body(work->context, begin, end);
    }
    inside = outer;
}

static job *claim_job_locked(void) {
    for (job *work = pool.jobs; work != NULL; work = work->following) {
        if (atomic_load_explicit(&work->next, memory_order_relaxed) < work->chunks) {
            return work;
        }
    }
    return NULL;
}

/* Waits a little for a job after the `seen`-th. */
static void spin_for_job(unsigned seen) {
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(&pool.added, memory_order_relaxed) != seen) {
            return;
        }
        spin_once();
    }
}

static void *worker_main(void *argument) {
    int index = (int)(size_t)argument;
    unsigned looked = 0; /* jobs there were when it last looked without result */
    lock_pool();
    while (!pool.stopping) {
        /* worker i serves while target > i + 1: a lowered target puts surplus workers to sleep */
        job *work = (index + 1 < pool.target) ? claim_job_locked() : NULL;
        if (work == NULL) {
            unsigned added = atomic_load_explicit(&pool.added, memory_order_relaxed);
            if (added != looked && pool.spin && index + 1 < pool.target) {
                looked = added;
                pthread_mutex_unlock(&pool.lock);
                spin_for_job(added);
                lock_pool();
            } else {
                pthread_cond_wait(&pool.work, &pool.lock);
            }
            continue;
        }
        work->holders++;
        pthread_mutex_unlock(&pool.lock);
        run_chunks(work);
        lock_pool();
        work->holders--;
        pthread_cond_broadcast(&pool.done);
    }
    pthread_mutex_unlock(&pool.lock);
    return NULL;
}

/* In the child of a fork no worker exists and the lock may be held by a thread that is gone. */
static void reset_in_child(void) {
    pthread_mutex_init(&pool.lock, NULL);
    pthread_cond_init(&pool.work, NULL);
    pthread_cond_init(&pool.done, NULL);
    pool.jobs = NULL;
    pool.running = 0;
    pool.stopping = 0;
    inside = 0;
}

/* CPUs that the cgroup's quota leaves, rounded up; 0 when there is none. */
static int cgroup_quota(void) {
    FILE *file = fopen("/sys/fs/cgroup/cpu.max", "re");
    long long quota = -1, period = 0;
    if (file != NULL) {
        if (fscanf(file, "%lld %lld", &quota, &period) != 2) {
            quota = -1; /* "max": no limit */
        }
        fclose(file);
    }
    return (quota > 0 && period > 0) ? (int)((quota + period - 1) / period) : 0;
}

/* CPUs that affinity and quota leave to this process. */
static int available_cpus(void) {
    cpu_set_t set;
    int count = (sched_getaffinity(0, sizeof set, &set) == 0) ? CPU_COUNT(&set) : 1;
    int quota = cgroup_quota();
    return (quota > 0 && quota < count) ? quota : count;
}

static int default_threads(void) {
    const char *wanted = getenv("SMHF_NUM_THREADS");
    return (wanted != NULL && atoi(wanted) > 0) ? atoi(wanted) : available_cpus();
}

static int clamp(int threads) {
    return (threads < 1) ? 1 : (threads > MAX_THREADS) ? MAX_THREADS : threads;
}

static int target_locked(void) {
    if (pool.target == 0) {
        pool.target = clamp(default_threads());
    }
    return pool.target;
}

/* Starts workers up to the target. Fewer than wanted is slower, never wrong. */
static void start_workers_locked(void) {
    if (!pool.fork_guarded) {
        pool.fork_guarded = 1;
        pthread_atfork(NULL, NULL, reset_in_child);
    }
    if (pool.running < pool.target - 1) {
        pool.spin = pool.target <= available_cpus();
    }
    while (pool.running < pool.target - 1) {
        void *index = (void *)(size_t)pool.running;
        if (pthread_create(&pool.threads[pool.running], NULL, worker_main, index) != 0) {
            return;
        }
        pool.running++;
    }
}

void smhf_parallel_for(size_t count, size_t chunk, smhf_parallel_body body, void *context) {
    if (count == 0) {
        return;
    }
    job work = {.body = body, .context = context, .count = count};
    work.chunk = (chunk > 0) ? chunk : 1;
    work.chunks = (count - 1) / work.chunk + 1;
    atomic_init(&work.next, 0);
    if (inside || work.chunks == 1) {
        run_chunks(&work);
        return;
    }
    lock_pool();
    if (target_locked() == 1) {
        pthread_mutex_unlock(&pool.lock);
        run_chunks(&work);
        return;
    }
    start_workers_locked();
    work.following = pool.jobs;
    pool.jobs = &work;
    int spin = pool.spin;
    pthread_cond_broadcast(&pool.work);
    pthread_mutex_unlock(&pool.lock);
    /* Those who look for it want the lock at once: not before it is free. */
    atomic_fetch_add_explicit(&pool.added, 1, memory_order_relaxed);

    run_chunks(&work);

    lock_pool();
    for (job **link = &pool.jobs; *link != NULL; link = &(*link)->following) {
        if (*link == &work) {
            *link = work.following;
            break;
        }
    }
    pthread_mutex_unlock(&pool.lock);
    for (int i = 0; i < SPINS && spin; i++) {
        if (atomic_load_explicit(&work.holders, memory_order_acquire) == 0) {
            return; /* it is off the list: nobody can come in any more */
        }
        spin_once();
    }
    lock_pool();
    while (work.holders > 0) {
        pthread_cond_wait(&pool.done, &pool.lock);
    }
    pthread_mutex_unlock(&pool.lock);
}

void smhf_pool_rouse(void) {
    lock_pool();
    if (pool.running > 0 && pool.target > 1 && pool.spin) {
        atomic_fetch_add_explicit(&pool.added, 1, memory_order_relaxed);
        pthread_cond_broadcast(&pool.work);
    }
    pthread_mutex_unlock(&pool.lock);
}

int smhf_pool_threads(void) {
    lock_pool();
    int threads = target_locked();
    pthread_mutex_unlock(&pool.lock);
    return threads;
}

void smhf_pool_set_threads(int threads) {
    lock_pool();
    pool.target = clamp(threads);
    pthread_cond_broadcast(&pool.work);
    pthread_mutex_unlock(&pool.lock);
}

void smhf_pool_shutdown(void) {
    lock_pool();
    int running = pool.running;
    pool.stopping = 1;
    pthread_cond_broadcast(&pool.work);
    pthread_mutex_unlock(&pool.lock);
    for (int i = 0; i < running; i++) {
        pthread_join(pool.threads[i], NULL);
    }
    lock_pool();
    pool.running = 0;
    pool.stopping = 0;
    pthread_mutex_unlock(&pool.lock);
}
