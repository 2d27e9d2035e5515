/* cpu_linear.c: the linear layers: arguments to a product and its epilogue, then to the kernels of
 * the weight's precision. */
#include "backend_cpu/cpu_device.h"
#include "backend_cpu/cpu_lowp.h"
#include "common/pool.h"

static void run_product(const cpu_product *product) {
    if (product->m <= 0 || product->n <= 0) {
        return;
    }
    if ((product->weight->uses & product->use) == 0) {
        smhf_device_fail(&product->cpu->base, SMHF_E_ARG,
                         "linear layer: weight of %d x %d was not prepared for %s products",
                         (int)product->weight->source.rows, (int)product->weight->source.cols,
                         product->use == SMHF_WEIGHT_FORWARD ? "forward" : "backward");
        return;
    }
    switch (product->weight->compute) {
    case SMHF_DTYPE_BF16:
        cpu_bf16_linear(product);
        break;
    case SMHF_DTYPE_I8:
        cpu_i8_linear(product);
        break;
    default:
        cpu_f32_linear(product);
        break;
    }
}

void cpu_linear_act_fwd(smhf_device *dev, smhf_tensor y, smhf_tensor pre, smhf_tensor x,
                        const smhf_weight *w, smhf_tensor bias, smhf_act act, const smhf_pack *pack,
                        smhf_axis axis) {
    cpu_device *cpu = cpu_begin(dev);
    if (cpu == NULL || !CPU_ALL_F32(dev, "linear_act_fwd", y, pre, x, bias)) {
        return;
    }
    SMHF_ASSERT(x.cols == w->source.cols && y.cols == w->source.rows);
    cpu_product product = {.cpu = cpu, .weight = w, .use = SMHF_WEIGHT_FORWARD};
    product.a = x.data;
    product.lda = x.ld;
    product.m = smhf_pack_count(pack, axis);
    product.n = w->source.rows;
    product.k = w->source.cols;
    product.epilogue = (cpu_epilogue){.y = y, .pre = pre, .bias = bias.data, .act = act};
    run_product(&product);
}

void cpu_linear_fwd(smhf_device *dev, smhf_tensor y, smhf_tensor x, const smhf_weight *w,
                    smhf_tensor bias, const smhf_pack *pack, smhf_axis axis) {
    cpu_linear_act_fwd(dev, y, SMHF_TENSOR_NONE, x, w, bias, SMHF_ACT_NONE, pack, axis);
}

static cpu_product product_backward(cpu_device *cpu, smhf_tensor dy, const smhf_weight *w,
                                    const smhf_pack *pack, smhf_axis axis) {
    cpu_product product = {.cpu = cpu, .weight = w, .use = SMHF_WEIGHT_BACKWARD};
    product.a = dy.data;
    product.lda = dy.ld;
    product.m = smhf_pack_count(pack, axis);
    product.n = w->source.cols;
    product.k = w->source.rows;
    return product;
}

void cpu_linear_bwd_input(smhf_device *dev, smhf_tensor dx, smhf_tensor dy, const smhf_weight *w,
                          int accumulate, const smhf_pack *pack, smhf_axis axis) {
    cpu_device *cpu = cpu_begin(dev);
    if (cpu == NULL || !CPU_ALL_F32(dev, "linear_bwd_input", dx, dy)) {
        return;
    }
    SMHF_ASSERT(dy.cols == w->source.rows && dx.cols == w->source.cols);
    cpu_product product = product_backward(cpu, dy, w, pack, axis);
    product.epilogue = (cpu_epilogue){.y = dx, .accumulate = accumulate};
    run_product(&product);
}

void cpu_linear_act_bwd_input(smhf_device *dev, smhf_tensor dpre, smhf_tensor dy,
                              const smhf_weight *w, smhf_tensor saved, smhf_act act,
                              const smhf_pack *pack, smhf_axis axis) {
    cpu_device *cpu = cpu_begin(dev);
    if (cpu == NULL || !CPU_ALL_F32(dev, "linear_act_bwd_input", dpre, dy, saved)) {
        return;
    }
    SMHF_ASSERT(dy.cols == w->source.rows && dpre.cols == w->source.cols);
    cpu_product product = product_backward(cpu, dy, w, pack, axis);
    product.epilogue = (cpu_epilogue){.y = dpre, .saved = saved, .act = act, .slope = 1};
    run_product(&product);
}

/* ---- column sums ---------------------------------------------------------------------------- */

typedef struct colsum_task {
    const cpu_kernels *kernels;
    float *out;
    smhf_tensor dy;
    int32_t rows;
} colsum_task;

#define COLSUM_COLS 128

/* Each chunk of columns runs down all rows, in blocks, so that no partial sum grows long. */
static void colsum_body(void *context, size_t begin, size_t end) {
    const colsum_task *task = context;
    int cols = (int)(end - begin);
    for (int32_t row = 0; row < task->rows; row += CPU_SUM_ROWS) {
        float block[COLSUM_COLS] = {0};
        int32_t stop = row + CPU_SUM_ROWS < task->rows ? row + CPU_SUM_ROWS : task->rows;
        for (int32_t r = row; r < stop; r++) {
            task->kernels->axpy(block, cpu_row(task->dy, r) + begin, 1.0f, (size_t)cols);
        }
        task->kernels->axpy(task->out + begin, block, 1.0f, (size_t)cols);
    }
}

void cpu_column_sums(cpu_device *cpu, float *out, smhf_tensor dy, int32_t rows) {
    colsum_task sums = {cpu->kernels, out, dy, rows};
    smhf_parallel_for((size_t)dy.cols, COLSUM_COLS, colsum_body, &sums);
}

void cpu_linear_bwd_weight(smhf_device *dev, smhf_tensor dw, smhf_tensor dbias, smhf_tensor dy,
                           smhf_tensor x, const smhf_pack *pack, smhf_axis axis,
                           smhf_dtype compute) {
    cpu_device *cpu = cpu_begin(dev);
    if (cpu == NULL || !CPU_ALL_F32(dev, "linear_bwd_weight", dw, dbias, dy, x)) {
        return;
    }
    SMHF_ASSERT(dw.rows == dy.cols && dw.cols == x.cols);
    int32_t rows = smhf_pack_count(pack, axis);
    if (rows <= 0) {
        return;
    }
    if (compute == SMHF_DTYPE_BF16 && (cpu_lowp_caps(&cpu->features) & SMHF_CAP_BF16) != 0) {
        cpu_bf16_weight_gradient(cpu, dw, dy, x, rows);
    } else if (cpu->own_kernels) {
        cpu_f32_weight_gradient(cpu, dw, dbias.data, dy, x, rows);
        return;
    } else {
        cpu_blas_weight_gradient(cpu, dw, dy, x, rows);
    }
    if (dbias.data != NULL) {
        cpu_column_sums(cpu, dbias.data, dy, rows);
    }
}
