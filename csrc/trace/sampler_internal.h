/* sampler_internal.h: what sampler.c, procfs.c, nvml.c and event_writer.c share. Not for others. */
#ifndef SMHF_TRACE_SAMPLER_INTERNAL_H
#define SMHF_TRACE_SAMPLER_INTERNAL_H

#include "trace/trace_internal.h"

/* --- /proc ------------------------------------------------------------------------------------ */

typedef struct proc_file { /* opened once, read again from its start at every tick */
    int fd;
    char *text; /* NUL-terminated */
    size_t size, capacity;
} proc_file;

typedef struct proc_core {
    uint64_t busy, wait, total; /* ticks since boot at the last sample */
    double busy_percent, wait_percent;
    int seen;  /* in the text just read */
    int known; /* has an earlier sample */
    int fresh; /* was in the last sample, with percentages */
} proc_core;

typedef struct proc_interface {
    char name[16];
    uint64_t received, sent;
    int known, physical;
} proc_interface;

typedef struct proc_machine {
    proc_file stat, meminfo, diskstats, netdev;
    const char *sys_folder; /* borrowed */
    proc_core *cores;
    size_t core_count;
    double memory_percent; /* NaN: unknown */
    uint64_t disk_operations, sectors_read, sectors_written;
    int disks_known;
    double iops, read_bytes, written_bytes; /* per second */
    proc_interface *interfaces;
    size_t interface_count;
    double received[2], sent[2]; /* per second: [0] all but loopback, [1] hardware */
    int rates_known;             /* the per-second values are set */
    int64_t last_ns;             /* monotonic time of the last sample */
} proc_machine;

smhf_status smhf_proc_open(proc_machine *machine, const char *proc_folder, const char *sys_folder,
                           smhf_error *err) SMHF_MUST_USE;
void smhf_proc_close(proc_machine *machine);
/* Reads all files and sets percentages and rates against the sample before. A file that cannot be
 * read leaves its values unknown. Allocates only when the machine has grown. */
smhf_status smhf_proc_sample(proc_machine *machine, int64_t now_ns, smhf_error *err) SMHF_MUST_USE;

/* --- NVML ------------------------------------------------------------------------------------- */

typedef struct smhf_nvml smhf_nvml;

/* SMHF_E_UNAVAILABLE with the reason: no library, no driver, no GPU. */
smhf_status smhf_nvml_open(const char *path, smhf_nvml **out, smhf_error *err) SMHF_MUST_USE;
unsigned smhf_nvml_count(const smhf_nvml *nvml);
/* Percentages of GPU `index`: busy, and memory in use of all memory. 0 when both were read. */
int smhf_nvml_read(const smhf_nvml *nvml, unsigned index, double *busy, double *memory);
void smhf_nvml_close(smhf_nvml *nvml);

/* --- Small things
 * ---------------------------------------------------------------------------------- */

int64_t smhf_trace_clock_ns(int clock);
/* YYYYMMDDHH (UTC) of a time; `out` holds 11 bytes. */
void smhf_trace_hour(int64_t epoch_ns, char out[11]);
/* Is `node` fit for a file name and a JSON string: 1..63 of letters, digits, '.', '_', '-'? */
int smhf_trace_node_is_plain(const char *node);
/* All of it, or an error; EINTR is retried. */
smhf_status smhf_trace_write_all(int fd, const void *data, size_t size, const char *path,
                                 smhf_error *err) SMHF_MUST_USE;

#endif
