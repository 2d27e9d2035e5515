/* heads.c: what stands on the encoder. x is the last layer's output.
 *
 *     sequence classification   logits [B, C] = dropout(act(x_cls Wp + bp)) Wc + bc
 *     token classification      logits [T, C] = dropout(x) Wc + bc
 *     question answering        logits [T, 2] = dropout(x) Wc + bc
 *     embedding                 x itself
 *
 * with act = ReLU and Wp = pre_classifier in DistilBERT, tanh and the pooler in BERT.
 */
#include "model/network.h"

void smhf_head_forward(const smhf_pass *pass, smhf_tensor x) {
    smhf_device *dev = pass->dev;
    const smhf_backend *be = dev->backend;
    const smhf_network *net = pass->net;
    const smhf_plan *plan = pass->plan;
    const smhf_dropout drop = smhf_pass_drop(pass, SMHF_DROP_HEAD, 0);
    smhf_axis axis = SMHF_AXIS_TOKENS;

    switch (net->config->head) {
    case SMHF_HEAD_ENCODER:
        return;
    case SMHF_HEAD_SEQUENCE:
        axis = SMHF_AXIS_ROWS;
        be->linear_act_fwd(dev, plan->pooled, SMHF_TENSOR_NONE, x, net->pool, net->pool_bias,
                           net->pool_act, pass->pack, axis);
        be->dropout(dev, plan->dropped, plan->pooled, pass->pack, axis, drop);
        break;
    case SMHF_HEAD_TOKEN:
    case SMHF_HEAD_SPAN:
        be->dropout(dev, plan->dropped, x, pass->pack, axis, drop);
        break;
    }
    be->linear_fwd(dev, plan->logits, plan->dropped, net->label, net->label_bias, pass->pack, axis);
    if (plan->logits.dtype != SMHF_DTYPE_F32) {
        be->convert(dev, plan->logits_f32, plan->logits);
    }
}

void smhf_head_backward(const smhf_pass *pass, const smhf_gradients *gradients, smhf_tensor x) {
    smhf_device *dev = pass->dev;
    const smhf_backend *be = dev->backend;
    const smhf_network *net = pass->net;
    const smhf_plan *plan = pass->plan;
    const smhf_gradient_buffers *g = &plan->grads;
    const smhf_dropout drop = smhf_pass_drop(pass, SMHF_DROP_HEAD, 0);
    const int sequence = net->config->head == SMHF_HEAD_SEQUENCE;
    const smhf_axis axis = sequence ? SMHF_AXIS_ROWS : SMHF_AXIS_TOKENS;
    const smhf_tensor d = sequence ? g->dpooled : g->d;

    const int through = gradients->lowest < net->config->layers; /* the encoder is trained too */

    smhf_weight_backward(pass, gradients->label, gradients->label_bias, g->dlogits, plan->dropped,
                         axis);
    if (!through && gradients->pool.data == NULL) {
        return;
    }
    be->linear_bwd_input(dev, d, g->dlogits, net->label, 0, pass->pack, axis);
    be->dropout(dev, d, d, pass->pack, axis, drop);
    if (sequence) {
        be->act_bwd(dev, d, d, plan->pooled, net->pool_act, pass->pack, axis);
        smhf_weight_backward(pass, gradients->pool, gradients->pool_bias, d, x, axis);
    }
    if (sequence && through) {
        be->linear_bwd_input(dev, g->d_cls, d, net->pool, 0, pass->pack, axis);
    }
}
