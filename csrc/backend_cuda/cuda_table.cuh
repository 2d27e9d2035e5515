/* cuda_table.cuh: the functions of the table, one group for each file. */
#ifndef SMHF_BACKEND_CUDA_CUDA_TABLE_CUH
#define SMHF_BACKEND_CUDA_CUDA_TABLE_CUH

#include "backend_cuda/cuda_common.cuh"

/* cuda_memory.cu */
smhf_status cuda_enter(cuda_device *cuda, smhf_error *err);
smhf_status cuda_scratch_reserve(cuda_device *cuda, size_t bytes, smhf_error *err);
smhf_status cuda_alloc(smhf_device *dev, void **out, size_t bytes, smhf_error *err);
void cuda_free(smhf_device *dev, void *block);
void cuda_upload(smhf_device *dev, void *dst, const void *host_src, size_t bytes);
void cuda_download(smhf_device *dev, void *host_dst, const void *src, size_t bytes);
void cuda_copy(smhf_device *dev, void *dst, const void *src, size_t bytes);
void cuda_fill(smhf_device *dev, void *dst, int byte, size_t bytes);
smhf_status cuda_pinned_alloc(smhf_device *dev, void **out, size_t bytes, smhf_error *err);
void cuda_pinned_free(smhf_device *dev, void *block);

/* cuda_linear.cu */
smhf_status cuda_weight_prepare(smhf_device *dev, smhf_weight **out, smhf_tensor source,
                                const smhf_weight_options *options, smhf_error *err);
void cuda_weight_refresh(smhf_device *dev, smhf_weight *weight);
void cuda_weight_free(smhf_device *dev, smhf_weight *weight);
void cuda_linear_fwd(smhf_device *dev, smhf_tensor y, smhf_tensor x, const smhf_weight *w,
                     smhf_tensor bias, const smhf_pack *pack, smhf_axis axis);
void cuda_linear_act_fwd(smhf_device *dev, smhf_tensor y, smhf_tensor pre, smhf_tensor x,
                         const smhf_weight *w, smhf_tensor bias, smhf_act act,
                         const smhf_pack *pack, smhf_axis axis);
void cuda_linear_bwd_input(smhf_device *dev, smhf_tensor dx, smhf_tensor dy, const smhf_weight *w,
                           int accumulate, const smhf_pack *pack, smhf_axis axis);
void cuda_linear_act_bwd_input(smhf_device *dev, smhf_tensor dpre, smhf_tensor dy,
                               const smhf_weight *w, smhf_tensor saved, smhf_act act,
                               const smhf_pack *pack, smhf_axis axis);
void cuda_linear_bwd_weight(smhf_device *dev, smhf_tensor dw, smhf_tensor dbias, smhf_tensor dy,
                            smhf_tensor x, const smhf_pack *pack, smhf_axis axis,
                            smhf_dtype compute);

/* cuda_gelu.cu */
void cuda_act_bwd(smhf_device *dev, smhf_tensor dpre, smhf_tensor dy, smhf_tensor saved,
                  smhf_act act, const smhf_pack *pack, smhf_axis axis);

/* cuda_embedding.cu */
void cuda_embedding_fwd(smhf_device *dev, smhf_tensor out, smhf_tensor stats,
                        const smhf_embedding *tables, float eps, const smhf_pack *pack,
                        smhf_dropout dropout);
void cuda_embedding_bwd(smhf_device *dev, const smhf_embedding *grads, smhf_tensor dout,
                        smhf_tensor stats, const smhf_embedding *tables, const smhf_pack *pack,
                        smhf_dropout dropout);

/* cuda_attention.cu, cuda_attention_bwd.cu */
void cuda_attention_fwd(smhf_device *dev, smhf_tensor out, smhf_tensor lse, smhf_tensor q,
                        smhf_tensor k, smhf_tensor v, const smhf_pack *pack, smhf_axis query_axis,
                        int32_t heads, float scale, smhf_dtype compute, smhf_dropout dropout);
void cuda_attention_bwd(smhf_device *dev, smhf_tensor dq, smhf_tensor dk, smhf_tensor dv,
                        smhf_tensor dout, smhf_tensor out, smhf_tensor lse, smhf_tensor q,
                        smhf_tensor k, smhf_tensor v, const smhf_pack *pack, smhf_axis query_axis,
                        int32_t heads, float scale, smhf_dtype compute, smhf_dropout dropout);

/* cuda_layernorm.cu */
void cuda_residual_layernorm_fwd(smhf_device *dev, smhf_tensor out, smhf_tensor sum,
                                 smhf_tensor stats, smhf_tensor x, smhf_tensor residual,
                                 smhf_tensor gamma, smhf_tensor beta, float eps,
                                 const smhf_pack *pack, smhf_axis axis, smhf_dropout dropout);
void cuda_residual_layernorm_bwd(smhf_device *dev, smhf_tensor dsum, smhf_tensor dx,
                                 smhf_tensor dgamma, smhf_tensor dbeta, smhf_tensor dout,
                                 smhf_tensor sum, smhf_tensor stats, smhf_tensor gamma,
                                 const smhf_pack *pack, smhf_axis axis, smhf_dropout dropout);

/* cuda_dropout.cu */
void cuda_dropout_op(smhf_device *dev, smhf_tensor y, smhf_tensor x, const smhf_pack *pack,
                     smhf_axis axis, smhf_dropout dropout);
void cuda_gather_rows(smhf_device *dev, smhf_tensor out, smhf_tensor x, const smhf_pack *pack,
                      smhf_axis axis);
void cuda_scatter_add_rows(smhf_device *dev, smhf_tensor dx, smhf_tensor dout,
                           const smhf_pack *pack, smhf_axis axis);
void cuda_mean_rows(smhf_device *dev, smhf_tensor out, smhf_tensor x, const smhf_pack *pack);
void cuda_mean_rows_bwd(smhf_device *dev, smhf_tensor dx, smhf_tensor dout, const smhf_pack *pack);

/* cuda_loss.cu */
void cuda_loss(smhf_device *dev, float *loss, smhf_tensor dlogits, smhf_tensor logits,
               smhf_tensor targets, const smhf_loss_options *options, const smhf_pack *pack,
               smhf_axis axis);
void cuda_span_loss(smhf_device *dev, float *loss, smhf_tensor dlogits, smhf_tensor logits,
                    smhf_tensor targets, const smhf_loss_options *options, const smhf_pack *pack);

/* cuda_adamw.cu */
void cuda_grad_norm(smhf_device *dev, smhf_step *step, const smhf_segment *segments,
                    int32_t segment_count, float max_norm);
void cuda_adamw(smhf_device *dev, const smhf_step *step, const smhf_segment *segments,
                int32_t segment_count, const smhf_adamw_options *options);
void cuda_axpy(smhf_device *dev, float *y, const float *x, float alpha, int64_t count);

/* cuda_convert.cu */
void cuda_convert(smhf_device *dev, smhf_tensor dst, smhf_tensor src);

#endif
