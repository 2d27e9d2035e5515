/* cuda_fibers.cpp: one block of a kernel at a time, each thread a fiber with a stack of its own.
 *
 * A fiber runs until it meets a barrier or an exchange whose others are not there yet. Who runs
 * next goes round the block in an order that changes with every turn, so that code which leans on an
 * order (a missing barrier) does not get away with it. A barrier that some threads never reach is
 * found: nobody can run, and the process stops with the place. Shared memory of a launch is a heap
 * block of exactly its size, all NaN in each block. */
#include "cuda_runtime.h"

#include "cuda_fibers.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <sys/mman.h>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#define STACK_SIZE ((size_t)128 << 10)
#define WARP 32
#define MAX_THREADS 1024

cuda_host_where *cuda_host_now;
unsigned long cuda_host_switches;

namespace {

enum state { READY, AT_BARRIER, AT_WARP, DONE };

struct late_copy {
    void *dst;
    const void *src;
    int bytes;
};

struct fiber {
    std::deque<std::vector<late_copy>> groups; /* committed, oldest first */
    std::vector<late_copy> open_group;
    std::deque<std::vector<std::function<void()>>> products; /* committed, oldest first */
    std::vector<std::function<void()>> open_products;
    cuda_host_where where;
    state at;
    char *stack;
    void *fake; /* AddressSanitizer's */
#if defined(__x86_64__)
    void *sp;
#else
    ucontext_t context;
#endif
};

struct warp {
    unsigned char slots[2][WARP][CUDA_HOST_SLOT];
    unsigned turn;    /* which half of the slots the next exchange takes */
    unsigned arrived; /* lanes */
    unsigned mask;    /* that they wait for */
};

fiber fibers[MAX_THREADS];
warp warps[MAX_THREADS / WARP];
int thread_count, done_count, barrier_count;
int current;
const std::function<void()> *body;
std::deque<std::function<void()>> engine; /* the copy engine's work */

#if defined(__x86_64__)
void *main_sp;
#else
ucontext_t main_context;
#endif
#if defined(__SANITIZE_ADDRESS__)
void *main_fake;
const void *main_stack;
size_t main_stack_size;
#endif

#if defined(__x86_64__)
/* Saves what a called function must keep, changes stacks, takes it from there. */
extern "C" void cuda_fiber_swap(void **save, void *load);
asm(".text\n"
    ".globl cuda_fiber_swap\n"
    ".type cuda_fiber_swap,@function\n"
    "cuda_fiber_swap:\n"
    "    pushq %rbp\n    pushq %rbx\n    pushq %r12\n    pushq %r13\n    pushq %r14\n    pushq %r15\n"
    "    movq %rsp, (%rdi)\n"
    "    movq %rsi, %rsp\n"
    "    popq %r15\n    popq %r14\n    popq %r13\n    popq %r12\n    popq %rbx\n    popq %rbp\n"
    "    ret\n"
    ".size cuda_fiber_swap,.-cuda_fiber_swap\n");
#endif

void to_main(fiber *f, bool last) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(last ? NULL : &f->fake, main_stack, main_stack_size);
#else
    (void)last;
#endif
#if defined(__x86_64__)
    cuda_fiber_swap(&f->sp, main_sp);
#else
    swapcontext(&f->context, &main_context);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(f->fake, &main_stack, &main_stack_size);
#endif
    cuda_host_now = &f->where;
}

void fiber_main() {
    fiber *f = &fibers[current];
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(NULL, &main_stack, &main_stack_size);
#endif
    cuda_host_now = &f->where;
    (*body)();
    f->at = DONE;
    done_count++;
    to_main(f, true);
    abort();
}

void to_fiber(int index) {
    fiber *f = &fibers[index];
    current = index;
    cuda_host_switches++;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&main_fake, f->stack, STACK_SIZE);
#endif
#if defined(__x86_64__)
    cuda_fiber_swap(&main_sp, f->sp);
#else
    swapcontext(&main_context, &f->context);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(main_fake, NULL, NULL);
#endif
}

void start(fiber *f) {
    if (f->stack == NULL) {
        void *stack = mmap(NULL, STACK_SIZE, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (stack == MAP_FAILED) {
            perror("stack of a fiber");
            abort();
        }
        f->stack = (char *)stack;
    }
    f->at = READY;
    f->fake = NULL;
    f->groups.clear();
    f->open_group.clear();
    f->products.clear();
    f->open_products.clear();
#if defined(__x86_64__)
    /* six registers of no value, then where to go; the stack as a call leaves it */
    void **top = (void **)(f->stack + STACK_SIZE - 56);
    top[0] = NULL;
    top[-1] = (void *)fiber_main;
    f->sp = top - 7;
#else
    getcontext(&f->context);
    f->context.uc_stack.ss_sp = f->stack;
    f->context.uc_stack.ss_size = STACK_SIZE;
    f->context.uc_link = NULL;
    makecontext(&f->context, fiber_main, 0);
#endif
}

/* Lanes of a warp that have not ended. */
unsigned living(int w) {
    unsigned mask = 0;
    for (int l = 0; l < WARP && w * WARP + l < thread_count; l++) {
        mask |= fibers[w * WARP + l].at != DONE ? 1u << l : 0u;
    }
    return mask;
}

void release_barrier() {
    if (barrier_count > 0 && barrier_count + done_count == thread_count) {
        for (int i = 0; i < thread_count; i++) {
            if (fibers[i].at == AT_BARRIER) {
                fibers[i].at = READY;
            }
        }
        barrier_count = 0;
    }
}

void run_block() {
    unsigned turn = 0;
    done_count = barrier_count = 0;
    for (int w = 0; w * WARP < thread_count; w++) {
        warps[w].turn = warps[w].arrived = warps[w].mask = 0;
    }
    for (int i = 0; i < thread_count; i++) {
        start(&fibers[i]);
    }
    while (done_count < thread_count) {
        const int before = (int)(turn * 7919u % (unsigned)thread_count);
        int moved = 0;
        for (int k = 0; k < thread_count; k++) {
            const int i = (turn & 1) ? (before + thread_count - k) % thread_count
                                     : (before + k) % thread_count;
            if (fibers[i].at == READY) {
                to_fiber(i);
                moved = 1;
            }
        }
        release_barrier();
        turn++;
        if (!moved) {
            int stuck = 0;
            for (int i = 0; i < thread_count; i++) {
                stuck += fibers[i].at == READY;
            }
            if (stuck == 0) {
                fprintf(stderr, "cuda_host: threads wait for others that never come (barrier or "
                                "warp exchange in a branch)\n");
                abort();
            }
        }
    }
}

} // namespace

void cuda_host_barrier(void) {
    fiber *f = &fibers[current];
    f->at = AT_BARRIER;
    barrier_count++;
    to_main(f, false);
}

/* All lanes of the mask meet; the last one wakes the others. */
void cuda_host_warp_barrier(unsigned mask) {
    fiber *f = &fibers[current];
    const int w = current / WARP;
    warp *mine = &warps[w];
    const unsigned lane = 1u << (current % WARP);
    if (mine->arrived == 0) {
        mine->mask = mask;
    }
    if (mine->mask != mask || (mask & lane) == 0) {
        fprintf(stderr, "cuda_host: lanes of a warp name different masks (%08x, %08x)\n",
                mine->mask, mask);
        abort();
    }
    mine->arrived |= lane;
    if ((mine->arrived & mask) == (mask & living(w))) {
        if ((mask & living(w)) != mask && thread_count >= (w + 1) * WARP) {
            fprintf(stderr, "cuda_host: a warp exchange waits for lanes that have ended\n");
            abort();
        }
        for (int l = 0; l < WARP && w * WARP + l < thread_count; l++) {
            if (fibers[w * WARP + l].at == AT_WARP) {
                fibers[w * WARP + l].at = READY;
            }
        }
        mine->arrived = 0;
        mine->turn ^= 1u;
        return;
    }
    f->at = AT_WARP;
    to_main(f, false);
}

const unsigned char *cuda_host_exchange(unsigned mask, const void *mine, size_t bytes) {
    warp *w = &warps[current / WARP];
    const unsigned turn = w->turn;
    memcpy(w->slots[turn][current % WARP], mine, bytes);
    cuda_host_warp_barrier(mask);
    return &w->slots[turn][0][0];
}

void cuda_host_copy_async(void *dst, const void *src, int bytes) {
    fibers[current].open_group.push_back({dst, src, bytes});
}

void cuda_host_copy_commit(void) {
    fiber *f = &fibers[current];
    f->groups.push_back(std::move(f->open_group));
    f->open_group.clear();
}

void cuda_host_copy_wait(int open) {
    fiber *f = &fibers[current];
    while ((int)f->groups.size() > open) {
        for (const late_copy &c : f->groups.front()) {
            memcpy(c.dst, c.src, (size_t)c.bytes);
            memset((char *)c.dst + c.bytes, 0, (size_t)(16 - c.bytes));
        }
        f->groups.pop_front();
    }
}

void cuda_host_later(std::function<void()> work) {
    engine.push_back(std::move(work));
}

void cuda_host_yield(void) {
    if (!engine.empty()) {
        std::function<void()> work = std::move(engine.front());
        engine.pop_front();
        work();
    }
    to_main(&fibers[current], false);
}

void cuda_host_product(std::function<void()> work) {
    fibers[current].open_products.push_back(std::move(work));
}

void cuda_host_product_commit(void) {
    fiber *f = &fibers[current];
    f->products.push_back(std::move(f->open_products));
    f->open_products.clear();
}

/* Four warps multiply together: a group of products begins when all 128 threads have given it, and is
 * done for all of them at once. */
void cuda_host_product_wait(int open) {
    fiber *f = &fibers[current], *group = &fibers[current / 128 * 128];
    while ((int)f->products.size() > open) {
        bool all = true;
        for (int i = 0; i < 128; i++) {
            all = all && !group[i].products.empty();
            if (group[i].at == DONE) {
                fprintf(stderr, "cuda_host: products of four warps wait for threads that have ended\n");
                abort();
            }
        }
        if (!all) {
            to_main(f, false);
            continue;
        }
        for (int i = 0; i < 128; i++) {
            for (const std::function<void()> &work : group[i].products.front()) {
                work();
            }
            group[i].products.pop_front();
        }
    }
}

/* phase in bit 63, arrivals still wanted and wanted in a phase 12 bits each, bytes 32 */
namespace {
struct barrier_parts {
    uint64_t phase;
    int pending, count;
    int32_t bytes;
};

barrier_parts barrier_of(const uint64_t *b) {
    barrier_parts p = {*b >> 63, (int)(*b >> 44 & 0xFFF), (int)(*b >> 32 & 0xFFF),
                       (int32_t)(uint32_t)*b};
    return p;
}

void barrier_store(uint64_t *b, barrier_parts p) {
    if (p.pending == 0 && p.bytes == 0) {
        p.phase ^= 1;
        p.pending = p.count;
    }
    *b = p.phase << 63 | (uint64_t)p.pending << 44 | (uint64_t)p.count << 32 | (uint32_t)p.bytes;
}
} // namespace

void cuda_host_barrier_init(uint64_t *barrier, int count) {
    *barrier = (uint64_t)count << 44 | (uint64_t)count << 32;
}

void cuda_host_barrier_arrive(uint64_t *barrier) {
    barrier_parts p = barrier_of(barrier);
    if (p.pending == 0) {
        fprintf(stderr, "cuda_host: one arrival too many at a barrier in shared memory\n");
        abort();
    }
    p.pending--;
    barrier_store(barrier, p);
}

void cuda_host_barrier_bytes(uint64_t *barrier, int bytes) {
    barrier_parts p = barrier_of(barrier);
    p.bytes += bytes;
    barrier_store(barrier, p);
}

bool cuda_host_barrier_test(const uint64_t *barrier, uint32_t parity) {
    return barrier_of(barrier).phase != parity;
}

void cuda_host_run(const std::function<void()> &thread, dim3 grid, dim3 block, size_t shared) {
    thread_count = (int)(block.x * block.y * block.z);
    body = &thread;
    unsigned char *memory = (unsigned char *)malloc(shared > 0 ? shared : 1);
    for (unsigned z = 0; z < grid.z; z++) {
        for (unsigned y = 0; y < grid.y; y++) {
            for (unsigned x = 0; x < grid.x; x++) {
                memset(memory, 0xFF, shared);
                for (int i = 0; i < thread_count; i++) {
                    cuda_host_where *w = &fibers[i].where;
                    w->thread.x = (unsigned)i % block.x;
                    w->thread.y = (unsigned)i / block.x % block.y;
                    w->thread.z = (unsigned)i / block.x / block.y;
                    w->block.x = x;
                    w->block.y = y;
                    w->block.z = z;
                    w->block_size = block;
                    w->grid_size = grid;
                    w->shared = memory;
                }
                run_block();
                if (!engine.empty()) {
                    fprintf(stderr, "cuda_host: copies are under way at the end of a block\n");
                    abort();
                }
            }
        }
    }
    cuda_host_now = NULL;
    free(memory);
}
