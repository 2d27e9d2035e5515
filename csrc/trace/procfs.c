/* procfs.c: one sample of /proc/stat, meminfo, diskstats and net/dev; see sampler_internal.h.
 *
 * Files stay open and are read with pread from offset 0, which makes the kernel write them anew.
 * /proc/stat is read once a tick and parsed up to the last cpu line: its interrupt sums are costly
 * enough for the kernel already.
 */
#include "trace/sampler_internal.h"

#include "common/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_CORES 8192
#define MAX_INTERFACES 256
#define SECTOR 512.0 /* bytes; the unit of /proc/diskstats whatever the disk */

/* --- Files
 * ----------------------------------------------------------------------------------------- */

static smhf_status file_open(proc_file *file, const char *folder, const char *name, int needed,
                             smhf_error *err) {
    char path[512];
    file->fd = -1;
    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path) {
        return smhf_fail(err, SMHF_E_ARG, "%s/%s: path too long", folder, name);
    }
    file->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (file->fd < 0 && needed) {
        return smhf_fail(err, SMHF_E_IO, "%s: cannot open: %s", path, strerror(errno));
    }
    return SMHF_OK;
}

static void file_close(proc_file *file) {
    if (file->fd >= 0) {
        close(file->fd);
    }
    smhf_free(file->text);
    *file = (proc_file){.fd = -1};
}

/* The whole file into file->text; an unreadable one gives an empty text. */
static smhf_status file_read(proc_file *file, smhf_error *err) {
    file->size = 0;
    for (;;) {
        if (file->capacity == 0 || file->size + 1 >= file->capacity) {
            size_t capacity = (file->capacity == 0) ? 16384 : file->capacity * 2;
            char *text = smhf_realloc(file->text, capacity);
            if (text == NULL) {
                return smhf_fail_nomem(err, "/proc text", capacity);
            }
            file->text = text;
            file->capacity = capacity;
        }
        ssize_t got = (file->fd < 0) ? 0
                                     : pread(file->fd, file->text + file->size,
                                             file->capacity - 1 - file->size, (off_t)file->size);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            break;
        }
        file->size += (size_t)got;
    }
    file->text[file->size] = '\0';
    return SMHF_OK;
}

/* --- Parsing
 * --------------------------------------------------------------------------------------- */

/* Next unsigned number on this line; 0 when there is none. Moves *at. */
static int next_number(const char **at, uint64_t *out) {
    const char *p = *at;
    while (*p == ' ' || *p == '\t' || *p == ':') {
        p++;
    }
    if (*p < '0' || *p > '9') {
        return 0;
    }
    uint64_t value = 0;
    for (; *p >= '0' && *p <= '9'; p++) {
        value = value * 10 + (uint64_t)(*p - '0');
    }
    *at = p;
    *out = value;
    return 1;
}

static const char *next_line(const char *p) {
    const char *end = strchr(p, '\n');
    return (end == NULL) ? p + strlen(p) : end + 1;
}

static smhf_status core_slot(proc_machine *machine, size_t index, smhf_error *err) {
    if (index < machine->core_count) {
        return SMHF_OK;
    }
    proc_core *cores = smhf_realloc(machine->cores, (index + 1) * sizeof *cores);
    if (cores == NULL) {
        return smhf_fail_nomem(err, "list of cores", (index + 1) * sizeof *cores);
    }
    memset(cores + machine->core_count, 0, (index + 1 - machine->core_count) * sizeof *cores);
    machine->cores = cores;
    machine->core_count = index + 1;
    return SMHF_OK;
}

static double percent(uint64_t now, uint64_t before, uint64_t total) {
    if (total == 0 || now <= before) {
        return 0.0; /* iowait may even fall; nothing passed means nothing was busy */
    }
    double share = 100.0 * (double)(now - before) / (double)total;
    return (share > 100.0) ? 100.0 : share;
}

/* "cpu3 user nice system idle iowait irq softirq steal guest guest_nice": guest is inside user. */
static smhf_status parse_core(proc_machine *machine, const char *line, smhf_error *err) {
    const char *p = line + 3;
    uint64_t index, field[8] = {0};
    if (!next_number(&p, &index) || index >= MAX_CORES) {
        return SMHF_OK;
    }
    for (int i = 0; i < 8 && next_number(&p, &field[i]); i++) {
    }
    SMHF_TRY(core_slot(machine, (size_t)index, err));
    proc_core *core = &machine->cores[index];
    uint64_t total = 0;
    for (int i = 0; i < 8; i++) {
        total += field[i];
    }
    uint64_t busy = total - field[3] - field[4];
    uint64_t passed = (total > core->total) ? total - core->total : 0;
    core->busy_percent = percent(busy, core->busy, passed);
    core->wait_percent = percent(field[4], core->wait, passed);
    core->fresh = core->known;
    core->known = core->seen = 1;
    core->busy = busy;
    core->wait = field[4];
    core->total = total;
    return SMHF_OK;
}

static smhf_status parse_stat(proc_machine *machine, smhf_error *err) {
    for (size_t i = 0; i < machine->core_count; i++) {
        machine->cores[i].fresh = machine->cores[i].seen = 0;
    }
    for (const char *p = machine->stat.text; strncmp(p, "cpu", 3) == 0; p = next_line(p)) {
        if (p[3] >= '0' && p[3] <= '9') { /* offline cores leave holes in the numbers */
            SMHF_TRY(parse_core(machine, p, err));
        }
    }
    for (size_t i = 0; i < machine->core_count; i++) {
        machine->cores[i].known &=
            machine->cores[i].seen; /* offline: starts anew when it is back */
    }
    return SMHF_OK;
}

static void parse_meminfo(proc_machine *machine) {
    uint64_t total = 0, available = 0, free_kb = 0, cached = 0, buffers = 0;
    int have_available = 0;
    for (const char *p = machine->meminfo.text; *p != '\0'; p = next_line(p)) {
        const char *value = strchr(p, ':');
        if (value == NULL) {
            break;
        }
        uint64_t kb = 0;
        (void)next_number(&value, &kb);
        if (strncmp(p, "MemTotal:", 9) == 0) {
            total = kb;
        } else if (strncmp(p, "MemFree:", 8) == 0) {
            free_kb = kb;
        } else if (strncmp(p, "MemAvailable:", 13) == 0) {
            available = kb;
            have_available = 1;
        } else if (strncmp(p, "Buffers:", 8) == 0) {
            buffers = kb;
        } else if (strncmp(p, "Cached:", 7) == 0) {
            cached = kb;
            break;
        }
    }
    if (!have_available) { /* kernels before 3.14 */
        available = free_kb + buffers + cached;
    }
    machine->memory_percent =
        (total == 0) ? (double)NAN : percent(total > available ? total - available : 0, 0, total);
}

/* Disks that stand for others or for memory would count twice. */
static int is_virtual_disk(const char *name) {
    static const char *const prefixes[] = {"loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd"};
    for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++) {
        if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0) {
            return 1;
        }
    }
    return 0;
}

/* Partitions follow their disk: vda, vda1; nvme0n1, nvme0n1p1. */
static int is_partition_of(const char *name, const char *disk) {
    size_t length = strlen(disk);
    return length > 0 && strncmp(name, disk, length) == 0 &&
           ((name[length] >= '0' && name[length] <= '9') || name[length] == 'p');
}

static void parse_diskstats(proc_machine *machine, double seconds) {
    uint64_t operations = 0, sectors_read = 0, sectors_written = 0;
    char disk[64] = "";
    for (const char *p = machine->diskstats.text; *p != '\0'; p = next_line(p)) {
        char name[64];
        const char *at = p;
        uint64_t number, field[7] = {0};
        if (!next_number(&at, &number) || !next_number(&at, &number) ||
            sscanf(at, " %63[^ \n]", name) != 1 || is_virtual_disk(name) ||
            is_partition_of(name, disk)) {
            continue;
        }
        memcpy(disk, name, sizeof disk);
        at = strstr(at, name) + strlen(name);
        for (int i = 0; i < 7 && next_number(&at, &field[i]); i++) {
        }
        operations += field[0] + field[4]; /* reads and writes completed */
        sectors_read += field[2];
        sectors_written += field[6];
    }
    if (machine->disks_known && seconds > 0.0) {
        machine->iops = (operations > machine->disk_operations)
                            ? (double)(operations - machine->disk_operations) / seconds
                            : 0.0;
        machine->read_bytes =
            (sectors_read > machine->sectors_read)
                ? (double)(sectors_read - machine->sectors_read) * SECTOR / seconds
                : 0.0;
        machine->written_bytes =
            (sectors_written > machine->sectors_written)
                ? (double)(sectors_written - machine->sectors_written) * SECTOR / seconds
                : 0.0;
    }
    machine->disk_operations = operations;
    machine->sectors_read = sectors_read;
    machine->sectors_written = sectors_written;
    machine->disks_known = 1;
}

static proc_interface *interface_slot(proc_machine *machine, const char *name) {
    for (size_t i = 0; i < machine->interface_count; i++) {
        if (strcmp(machine->interfaces[i].name, name) == 0) {
            return &machine->interfaces[i];
        }
    }
    if (machine->interface_count == MAX_INTERFACES) {
        return NULL; /* a machine of containers: what lies beyond is left out */
    }
    proc_interface *slot = &machine->interfaces[machine->interface_count++];
    char path[512];
    memset(slot, 0, sizeof *slot);
    memcpy(slot->name, name, sizeof slot->name);
    snprintf(path, sizeof path, "%s/class/net/%s/device", machine->sys_folder, name);
    slot->physical = access(path, F_OK) == 0;
    return slot;
}

static void parse_netdev(proc_machine *machine, double seconds) {
    uint64_t received[2] = {0, 0}, sent[2] = {0, 0};
    int physical = 0;
    for (const char *p = machine->netdev.text; *p != '\0'; p = next_line(p)) {
        char name[16] = {0};
        if (sscanf(p, " %15[^: \n]", name) != 1 || strchr(p, ':') == NULL ||
            strchr(p, ':') >= next_line(p) || strcmp(name, "lo") == 0) {
            continue; /* the two heading lines, loopback */
        }
        const char *at = strchr(p, ':') + 1;
        uint64_t field[9] = {0};
        int fields = 0;
        while (fields < 9 && next_number(&at, &field[fields])) {
            fields++;
        }
        proc_interface *slot = (fields == 9) ? interface_slot(machine, name) : NULL;
        if (slot == NULL) {
            continue;
        }
        uint64_t in = (slot->known && field[0] > slot->received) ? field[0] - slot->received : 0;
        uint64_t out = (slot->known && field[8] > slot->sent) ? field[8] - slot->sent : 0;
        received[0] += in;
        sent[0] += out;
        if (slot->physical) {
            physical = 1;
            received[1] += in;
            sent[1] += out;
        }
        slot->known = 1;
        slot->received = field[0];
        slot->sent = field[8];
    }
    for (int side = 0; side < 2 && seconds > 0.0; side++) {
        int from = (side == 1 && physical) ? 1 : 0; /* no hardware seen: one and the same */
        machine->received[side] = (double)received[from] / seconds;
        machine->sent[side] = (double)sent[from] / seconds;
    }
}

/* --- Machine
 * --------------------------------------------------------------------------------------- */

smhf_status smhf_proc_open(proc_machine *machine, const char *proc_folder, const char *sys_folder,
                           smhf_error *err) {
    memset(machine, 0, sizeof *machine);
    machine->stat.fd = machine->meminfo.fd = machine->diskstats.fd = machine->netdev.fd = -1;
    machine->sys_folder = sys_folder;
    machine->memory_percent = (double)NAN;
    machine->interfaces = smhf_calloc(MAX_INTERFACES, sizeof *machine->interfaces);
    if (machine->interfaces == NULL) {
        return smhf_fail_nomem(err, "list of interfaces", MAX_INTERFACES * sizeof(proc_interface));
    }
    smhf_status status = file_open(&machine->stat, proc_folder, "stat", 1, err);
    if (status == SMHF_OK) {
        status = file_open(&machine->meminfo, proc_folder, "meminfo", 0, err);
    }
    if (status == SMHF_OK) { /* absent in some containers: no rows then */
        status = file_open(&machine->diskstats, proc_folder, "diskstats", 0, err);
    }
    if (status == SMHF_OK) {
        status = file_open(&machine->netdev, proc_folder, "net/dev", 0, err);
    }
    if (status != SMHF_OK) {
        smhf_proc_close(machine);
    }
    return status;
}

void smhf_proc_close(proc_machine *machine) {
    file_close(&machine->stat);
    file_close(&machine->meminfo);
    file_close(&machine->diskstats);
    file_close(&machine->netdev);
    smhf_free(machine->cores);
    smhf_free(machine->interfaces);
    machine->cores = NULL;
    machine->interfaces = NULL;
    machine->core_count = machine->interface_count = 0;
}

smhf_status smhf_proc_sample(proc_machine *machine, int64_t now_ns, smhf_error *err) {
    SMHF_TRY(file_read(&machine->stat, err));
    SMHF_TRY(file_read(&machine->meminfo, err));
    SMHF_TRY(file_read(&machine->diskstats, err));
    SMHF_TRY(file_read(&machine->netdev, err));
    double seconds = (machine->last_ns != 0) ? (double)(now_ns - machine->last_ns) / 1e9 : 0.0;
    SMHF_TRY(parse_stat(machine, err));
    parse_meminfo(machine);
    parse_diskstats(machine, seconds);
    parse_netdev(machine, seconds);
    machine->rates_known = (seconds > 0.0);
    machine->last_ns = now_ns;
    return SMHF_OK;
}
