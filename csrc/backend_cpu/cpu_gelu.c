/* cpu_gelu.c: backward of an activation by itself; forward is the linear layer's epilogue. */
#include "backend_cpu/cpu_device.h"
#include "common/pool.h"

typedef struct act_task {
    const cpu_kernels *kernels;
    smhf_tensor dpre, dy, saved;
    smhf_act act;
} act_task;

static void act_body(void *context, size_t begin, size_t end) {
    const act_task *task = context;
    for (size_t r = begin; r < end; r++) {
        int64_t row = (int64_t)r;
        task->kernels->act_bwd(cpu_row(task->dpre, row), cpu_row(task->dy, row),
                               cpu_row(task->saved, row), task->dy.cols, (int)task->act);
    }
}

void cpu_act_bwd(smhf_device *dev, smhf_tensor dpre, smhf_tensor dy, smhf_tensor saved,
                 smhf_act act, const smhf_pack *pack, smhf_axis axis) {
    cpu_device *cpu = cpu_begin(dev);
    if (cpu == NULL || !CPU_ALL_F32(dev, "act_bwd", dpre, dy, saved)) {
        return;
    }
    act_task task = {cpu->kernels, dpre, dy, saved, act};
    smhf_parallel_for((size_t)smhf_pack_count(pack, axis), cpu_rows_chunk(dy.cols), act_body,
                      &task);
}
