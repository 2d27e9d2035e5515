/* cuda_test_device.h: which CUDA backend the tests of this folder run on: the one on the host, or,
 * with SMHF_REAL_DEVICE, the plugin on a GPU (tools/device_check.sh). */
#ifndef SMHF_CUDA_TEST_DEVICE_H
#define SMHF_CUDA_TEST_DEVICE_H

#include "backend/backend.h"
#include "backend_cpu/backend_cpu.h"

#ifdef SMHF_REAL_DEVICE
#define DEVICE "cuda"

static smhf_status register_cuda(smhf_error *err) {
    return smhf_backend_register_plugin(DEVICE, "libsmhf_cuda.so", "libcuda.so.1", 0, err);
}
#else
#include "backend_cuda/backend_cuda.h"
#define DEVICE "cuda-host"

static smhf_status register_cuda(smhf_error *err) {
    return smhf_backend_register(smhf_backend_entry(), 0, err);
}
#endif

/* 0 with the sentence printed when there is nothing to test on. */
static int register_backends(void) {
    smhf_error err = SMHF_ERROR_INIT;
    smhf_device *dev = NULL;
    if (smhf_backend_register(smhf_cpu_backend(), SMHF_CPU_PRIORITY, &err) != SMHF_OK ||
        register_cuda(&err) != SMHF_OK || smhf_device_open(DEVICE, &dev, &err) != SMHF_OK) {
        printf("%s\n0 passed, 1 failed, 0 skipped\n", err.message);
        return 0;
    }
    smhf_device_close(dev);
    return 1;
}

#endif
