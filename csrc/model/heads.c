/* heads.c: what stands on the encoder. One head so far, sequence classification:
 *
 *     logits = dropout(act(cls Wp + bp)) Wc + bc
 *
 * with act = ReLU and Wp = pre_classifier in DistilBERT, tanh and the pooler in BERT.
 */
#include "model/network.h"

void smhf_head_forward(const smhf_pass *pass, smhf_tensor cls) {
    smhf_device *dev = pass->dev;
    const smhf_backend *be = dev->backend;
    const smhf_network *net = pass->net;
    const smhf_plan *plan = pass->plan;
    const smhf_axis axis = SMHF_AXIS_ROWS;

    be->linear_act_fwd(dev, plan->pooled, SMHF_TENSOR_NONE, cls, net->pool, net->pool_bias,
                       net->pool_act, pass->pack, axis);
    be->dropout(dev, plan->dropped, plan->pooled, pass->pack, axis,
                smhf_pass_drop(pass, SMHF_DROP_HEAD, 0));
    be->linear_fwd(dev, plan->logits, plan->dropped, net->label, net->label_bias, pass->pack, axis);
    if (plan->logits.dtype != SMHF_DTYPE_F32) {
        be->convert(dev, plan->logits_f32, plan->logits);
    }
}

void smhf_head_backward(const smhf_pass *pass, const smhf_gradients *gradients, smhf_tensor cls) {
    smhf_device *dev = pass->dev;
    const smhf_backend *be = dev->backend;
    const smhf_network *net = pass->net;
    const smhf_plan *plan = pass->plan;
    const smhf_gradient_buffers *g = &plan->grads;
    const smhf_axis axis = SMHF_AXIS_ROWS;

    be->linear_bwd_weight(dev, gradients->label, gradients->label_bias, g->dlogits, plan->dropped,
                          pass->pack, axis, net->compute);
    be->linear_bwd_input(dev, g->dpooled, g->dlogits, net->label, 0, pass->pack, axis);
    be->dropout(dev, g->dpooled, g->dpooled, pass->pack, axis,
                smhf_pass_drop(pass, SMHF_DROP_HEAD, 0));
    be->act_bwd(dev, g->dpooled, g->dpooled, plan->pooled, net->pool_act, pass->pack, axis);
    be->linear_bwd_weight(dev, gradients->pool, gradients->pool_bias, g->dpooled, cls, pass->pack,
                          axis, net->compute);
    be->linear_bwd_input(dev, g->d_cls, g->dpooled, net->pool, 0, pass->pack, axis);
}
