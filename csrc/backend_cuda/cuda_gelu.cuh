/* cuda_gelu.cuh: the passes over a product, for cuda_linear.cu. */
#ifndef SMHF_BACKEND_CUDA_CUDA_GELU_CUH
#define SMHF_BACKEND_CUDA_CUDA_GELU_CUH

#include "backend_cuda/cuda_common.cuh"

/* z = raw + bias; pre = z; y = act(z). bias F32 or NULL; pre absent: not kept; raw may be y or
 * pre. */
void cuda_bias_act(cuda_device *cuda, smhf_tensor y, smhf_tensor pre, smhf_tensor raw,
                   const float *bias, smhf_act act, int rows, cuda_pack pack);
/* dpre = dy * act'(saved); dpre may be either. */
void cuda_act_slope(cuda_device *cuda, smhf_tensor dpre, smhf_tensor dy, smhf_tensor saved,
                    smhf_act act, int rows, cuda_pack pack);

#endif
