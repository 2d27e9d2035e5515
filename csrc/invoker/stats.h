/* stats.h: counters of an invoker, readable while a call runs (private to the room).
 * Threads: atomic. */
#ifndef SMHF_INVOKER_STATS_H
#define SMHF_INVOKER_STATS_H

#include "invoker/invoker.h"

#include <stdatomic.h>

typedef struct smhf_stats {
    atomic_uint_fast64_t requests, retries, splits, rows, rows_failed, bytes_sent, bytes_received;
    atomic_uint_fast64_t connections_opened;
    atomic_int connections;
    atomic_size_t batch_rows;
    _Atomic double skew;
} smhf_stats;

void smhf_stats_init(smhf_stats *stats, int connections, size_t batch_rows);
void smhf_stats_read(smhf_stats *stats, smhf_invoker_stats *out);

#define smhf_stats_add(counter, amount)                                                            \
    atomic_fetch_add_explicit((counter), (amount), memory_order_relaxed)

#endif
