#include "invoker/stats.h"

void smhf_stats_init(smhf_stats *stats, int connections, size_t batch_rows) {
    atomic_init(&stats->requests, 0);
    atomic_init(&stats->retries, 0);
    atomic_init(&stats->splits, 0);
    atomic_init(&stats->rows, 0);
    atomic_init(&stats->rows_failed, 0);
    atomic_init(&stats->bytes_sent, 0);
    atomic_init(&stats->bytes_received, 0);
    atomic_init(&stats->connections_opened, 0);
    atomic_init(&stats->connections, connections);
    atomic_init(&stats->batch_rows, batch_rows);
    atomic_init(&stats->skew, 0.0);
}

void smhf_stats_read(smhf_stats *stats, smhf_invoker_stats *out) {
    out->requests = atomic_load(&stats->requests);
    out->retries = atomic_load(&stats->retries);
    out->splits = atomic_load(&stats->splits);
    out->rows = atomic_load(&stats->rows);
    out->rows_failed = atomic_load(&stats->rows_failed);
    out->bytes_sent = atomic_load(&stats->bytes_sent);
    out->bytes_received = atomic_load(&stats->bytes_received);
    out->connections_opened = atomic_load(&stats->connections_opened);
    out->connections = atomic_load(&stats->connections);
    out->batch_rows = atomic_load(&stats->batch_rows);
    out->skew = atomic_load(&stats->skew);
}
