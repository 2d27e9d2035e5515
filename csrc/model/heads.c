/* heads.c: what stands on the encoder. x is the last layer's output.
 *
 *     sequence classification   logits [B, C] = dropout(act(x_cls Wp + bp)) Wc + bc
 *     token classification      logits [T, C] = dropout(x) Wc + bc
 *     question answering        logits [T, 2] = dropout(x) Wc + bc
 *     embedding                 x itself
 *     masked LM                 logits [P, V] = LayerNorm(GELU(x_picked Wt + bt)) E^T + b
 *
 * E is the word table: its gradient is that of the product plus that of the embedding. Only picked
 * tokens are looked at, in training those with a label, so there is no [T, V] matrix.
 * act = ReLU and Wp = pre_classifier in DistilBERT, tanh and the pooler in BERT.
 */
#include "model/network.h"

static void masked_forward(const smhf_pass *pass, smhf_tensor x) {
    smhf_device *dev = pass->dev;
    const smhf_backend *be = dev->backend;
    const smhf_network *net = pass->net;
    const smhf_plan *plan = pass->plan;
    const smhf_axis axis = SMHF_AXIS_PICKS;
    const smhf_tensor sum = plan->shape.training ? plan->picked_act : SMHF_TENSOR_NONE;

    be->gather_rows(dev, plan->picked, x, pass->pack, axis);
    be->linear_act_fwd(dev, plan->picked_act, plan->picked_pre, plan->picked, net->pool,
                       net->pool_bias, net->pool_act, pass->pack, axis);
    be->residual_layernorm_fwd(dev, plan->picked_out, sum, plan->picked_stats, plan->picked_act,
                               SMHF_TENSOR_NONE, net->head_gamma, net->head_beta,
                               net->config->layernorm_eps, pass->pack, axis, SMHF_DROPOUT_NONE);
    smhf_pass_check(pass);
    be->linear_fwd(dev, plan->logits, plan->picked_out, net->label, net->label_bias, pass->pack,
                   axis);
}

static void masked_backward(const smhf_pass *pass, const smhf_gradients *gradients, int through) {
    smhf_device *dev = pass->dev;
    const smhf_backend *be = dev->backend;
    const smhf_network *net = pass->net;
    const smhf_plan *plan = pass->plan;
    const smhf_gradient_buffers *g = &plan->grads;
    const smhf_pack *pack = pass->pack;
    const smhf_axis axis = SMHF_AXIS_PICKS;
    const smhf_tensor d = g->dpicked;

    smhf_weight_backward(pass, gradients->label, gradients->label_bias, g->dlogits,
                         plan->picked_out, axis);
    smhf_pass_check(pass);
    be->linear_bwd_input(dev, d, g->dlogits, net->label, 0, pack, axis);
    be->residual_layernorm_bwd(dev, d, SMHF_TENSOR_NONE, gradients->head_gamma,
                               gradients->head_beta, d, plan->picked_act, plan->picked_stats,
                               net->head_gamma, pack, axis, SMHF_DROPOUT_NONE);
    be->act_bwd(dev, d, d, plan->picked_pre, net->pool_act, pack, axis);
    smhf_weight_backward(pass, gradients->pool, gradients->pool_bias, d, plan->picked, axis);
    if (through) {
        be->linear_bwd_input(dev, plan->picked, d, net->pool, 0, pack, axis); /* its last use */
        be->fill(dev, g->d.data, 0,
                 (size_t)pack->tokens * (size_t)g->d.cols * smhf_dtype_size(g->d.dtype));
        be->scatter_add_rows(dev, g->d, plan->picked, pack, axis);
    }
}

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
    case SMHF_HEAD_MASKED:
        masked_forward(pass, x);
        break;
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
    if (net->config->head != SMHF_HEAD_MASKED) {
        be->linear_fwd(dev, plan->logits, plan->dropped, net->label, net->label_bias, pass->pack,
                       axis);
    }
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

    if (net->config->head == SMHF_HEAD_MASKED) {
        masked_backward(pass, gradients, through);
        return;
    }
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
