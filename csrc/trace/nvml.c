/* nvml.c: the two cheap questions to NVIDIA's management library, opened when it is there.
 *
 * Only utilisation rates and memory: the others (running processes above all) hold the driver's
 * global lock for milliseconds and would slow the training that is being measured. The few
 * declarations below restate NVML's stable C ABI; no header of it is needed to build.
 */
#include "trace/sampler_internal.h"

#include "common/library.h"
#include "common/mem.h"

#include <string.h>

#define MAX_GPUS 64

typedef void *nvml_device;

typedef struct nvml_utilization {
    unsigned gpu, memory; /* percent of the driver's last sample period */
} nvml_utilization;

typedef struct nvml_memory {
    unsigned long long total, free, used; /* bytes */
} nvml_memory;

struct smhf_nvml {
    int (*shutdown)(void);
    int (*utilization)(nvml_device, nvml_utilization *);
    int (*memory)(nvml_device, nvml_memory *);
    unsigned count;
    nvml_device devices[MAX_GPUS];
};

static smhf_status symbol(smhf_library *library, const char *name, void *function,
                          smhf_error *err) {
    void *found;
    SMHF_TRY(smhf_library_symbol(library, name, &found, err));
    memcpy(function, &found, sizeof found);
    return SMHF_OK;
}

static smhf_status find_devices(smhf_library *library, smhf_nvml *nvml, smhf_error *err) {
    int (*count)(unsigned *);
    int (*handle)(unsigned, nvml_device *);
    SMHF_TRY(symbol(library, "nvmlDeviceGetCount_v2", &count, err));
    SMHF_TRY(symbol(library, "nvmlDeviceGetHandleByIndex_v2", &handle, err));
    SMHF_TRY(symbol(library, "nvmlDeviceGetUtilizationRates", &nvml->utilization, err));
    SMHF_TRY(symbol(library, "nvmlDeviceGetMemoryInfo", &nvml->memory, err));
    unsigned present = 0;
    int code = count(&present);
    if (code != 0) {
        return smhf_fail(err, SMHF_E_UNAVAILABLE, "NVML cannot count GPUs: code %d", code);
    }
    for (unsigned i = 0; i < present && nvml->count < MAX_GPUS; i++) {
        nvml_device device;
        if (handle(i, &device) == 0) {
            nvml->devices[nvml->count++] = device;
        }
    }
    if (nvml->count == 0) {
        return smhf_fail(err, SMHF_E_UNAVAILABLE, "NVML reports %u GPUs, none can be opened",
                         present);
    }
    return SMHF_OK;
}

smhf_status smhf_nvml_open(const char *path, smhf_nvml **out, smhf_error *err) {
    smhf_library *library;
    int (*init)(void);
    smhf_nvml *nvml = NULL;
    *out = NULL;
    if (path[0] == '\0') {
        return smhf_fail(err, SMHF_E_UNAVAILABLE, "GPU sampling is switched off");
    }
    SMHF_TRY(smhf_library_open(path, &library, err));
    SMHF_TRY(symbol(library, "nvmlInit_v2", &init, err));
    nvml = smhf_calloc(1, sizeof *nvml);
    if (nvml == NULL) {
        return smhf_fail_nomem(err, "NVML", sizeof *nvml);
    }
    smhf_status status = symbol(library, "nvmlShutdown", &nvml->shutdown, err);
    if (status != SMHF_OK) {
        smhf_free(nvml);
        return status;
    }
    int code = init();
    if (code != 0) {
        smhf_free(nvml);
        return smhf_fail(err, SMHF_E_UNAVAILABLE,
                         "NVML does not start: code %d (9: no driver, 12: library too old)", code);
    }
    status = find_devices(library, nvml, err);
    if (status != SMHF_OK) {
        smhf_nvml_close(nvml);
        nvml = NULL;
    }
    *out = nvml;
    return status;
}

unsigned smhf_nvml_count(const smhf_nvml *nvml) {
    return (nvml != NULL) ? nvml->count : 0;
}

int smhf_nvml_read(const smhf_nvml *nvml, unsigned index, double *busy, double *memory) {
    nvml_utilization rates;
    nvml_memory info;
    SMHF_ASSERT(index < nvml->count);
    if (nvml->utilization(nvml->devices[index], &rates) != 0 ||
        nvml->memory(nvml->devices[index], &info) != 0 || info.total == 0) {
        return -1;
    }
    *busy = (double)rates.gpu;
    *memory = 100.0 * (double)info.used / (double)info.total;
    return 0;
}

void smhf_nvml_close(smhf_nvml *nvml) {
    if (nvml != NULL) {
        (void)nvml->shutdown();
        smhf_free(nvml);
    }
}
