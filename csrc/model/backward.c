/* backward.c: the gradients of forward.c, line by line from the bottom up.
 *
 * Activation gradients overwrite, parameter gradients accumulate. `d` holds the gradient of a
 * layer's output on entry and of its input on exit; the residual path keeps it in place while the
 * branch path is added to it. In a CLS layer that is d_cls, [B, H], whose rows are then added
 * to the first tokens of d. The pass ends at the lowest layer that has something to train.
 * Under gradient checkpointing a layer's inside is computed again before its gradient: dropout is
 * drawn from counters, so it comes out the same to the bit.
 */
#include "model/network.h"

/* Backward of out = LayerNorm(residual + dropout(branch)): d becomes the residual's gradient; the
 * branch's is returned. Without dropout both are the same memory. */
static smhf_tensor norm_backward(const smhf_pass *pass, smhf_tensor d, smhf_tensor dgamma,
                                 smhf_tensor dbeta, smhf_tensor sum, smhf_tensor stats,
                                 smhf_tensor gamma, smhf_axis axis, smhf_dropout dropout) {
    smhf_tensor branch = SMHF_TENSOR_NONE;
    if (dropout.p > 0.0f) {
        branch = pass->plan->grads.branch;
        branch.rows = d.rows;
    }
    pass->dev->backend->residual_layernorm_bwd(pass->dev, d, branch, dgamma, dbeta, d, sum, stats,
                                               gamma, pass->pack, axis, dropout);
    return (dropout.p > 0.0f) ? branch : d;
}

void smhf_weight_backward(const smhf_pass *pass, smhf_tensor dw, smhf_tensor dbias, smhf_tensor dy,
                          smhf_tensor x, smhf_axis axis) {
    if (dw.data != NULL) {
        pass->dev->backend->linear_bwd_weight(pass->dev, dw, dbias, dy, x, pass->pack, axis,
                                              pass->net->compute);
    }
}

/* Attention and the products that made q, k and v of every token (in a CLS layer k and v): their
 * gradients, and the input's in g->d. */
static void keys_backward(const smhf_pass *pass, int l, const smhf_layer_gradients *dw,
                          smhf_tensor dcontext, int through) {
    smhf_device *dev = pass->dev;
    const smhf_backend *be = dev->backend;
    const smhf_layer *w = &pass->net->layers[l];
    const smhf_layer_activations *a = &pass->plan->layers[l];
    const smhf_gradient_buffers *g = &pass->plan->grads;
    const int32_t H = pass->net->config->hidden;
    const int cls_layer = smhf_config_cls_layer(pass->net->config, l);
    const smhf_tensor dkv =
        smhf_tensor_of(g->dkv.data, g->dkv.rows, cls_layer ? 2 * H : 3 * H, g->dkv.dtype);
    const smhf_tensor dq = cls_layer ? g->dq_cls : smhf_tensor_cols(dkv, 0, H);
    const smhf_tensor dk = smhf_tensor_cols(dkv, cls_layer ? 0 : H, H);
    const smhf_tensor dv = smhf_tensor_cols(dkv, cls_layer ? H : 2 * H, H);
    be->attention_bwd(dev, dq, dk, dv, dcontext, a->context, a->lse, a->q, a->k, a->v, pass->pack,
                      cls_layer ? SMHF_AXIS_ROWS : SMHF_AXIS_TOKENS, w->heads, w->scale,
                      pass->net->compute, smhf_pass_drop(pass, SMHF_DROP_ATTENTION, l));
    smhf_pass_check(pass);
    /* q, k, v = x Wq + bq, x Wk + bk, x Wv + bv */
    smhf_weight_backward(pass, dw->kv, dw->kv_bias, dkv, a->x, SMHF_AXIS_TOKENS);
    if (through) {
        be->linear_bwd_input(dev, g->d, dkv, w->kv, !cls_layer, pass->pack, SMHF_AXIS_TOKENS);
    }
}

/* `through`: something below is trained, so the input's gradient is wanted. */
static void layer_backward(const smhf_pass *pass, int l, const smhf_layer_gradients *dw,
                           int through) {
    smhf_device *dev = pass->dev;
    const smhf_backend *be = dev->backend;
    const smhf_pack *pack = pass->pack;
    const smhf_layer *w = &pass->net->layers[l];
    const smhf_layer_activations *a = &pass->plan->layers[l];
    const smhf_gradient_buffers *g = &pass->plan->grads;
    const int cls_layer = smhf_config_cls_layer(pass->net->config, l);
    const smhf_axis axis = cls_layer ? SMHF_AXIS_ROWS : SMHF_AXIS_TOKENS;
    const smhf_tensor d = cls_layer ? g->d_cls : g->d;
    const smhf_tensor dpre = a->pre; /* overwritten: its last use is here */
    smhf_tensor branch;

    smhf_pass_check(pass);
    /* out = LayerNorm(hidden + dropout(GELU(hidden W1 + b1) W2 + b2)) */
    branch = norm_backward(pass, d, dw->output_gamma, dw->output_beta, a->sum2, a->stats2,
                           w->output_gamma, axis, smhf_pass_drop(pass, SMHF_DROP_FFN, l));
    smhf_weight_backward(pass, dw->ffn2, dw->ffn2_bias, branch, a->ffn, axis);
    be->linear_act_bwd_input(dev, dpre, branch, w->ffn2, a->pre, w->act, pack, axis);
    smhf_pass_check(pass);
    smhf_weight_backward(pass, dw->ffn1, dw->ffn1_bias, dpre, a->hidden, axis);
    be->linear_bwd_input(dev, d, dpre, w->ffn1, 1, pack, axis);

    smhf_pass_check(pass);
    /* hidden = LayerNorm(x + dropout(attention(q, k, v) Wo + bo)) */
    smhf_tensor dcontext = g->dcontext;
    dcontext.rows = d.rows;
    branch = norm_backward(pass, d, dw->attention_gamma, dw->attention_beta, a->sum1, a->stats1,
                           w->attention_gamma, axis, smhf_pass_drop(pass, SMHF_DROP_PROJECTION, l));
    smhf_weight_backward(pass, dw->out, dw->out_bias, branch, a->context, axis);
    be->linear_bwd_input(dev, dcontext, branch, w->out, 0, pack, axis);

    if (cls_layer && pass->plan->shape.keyless) {
        be->attention_first_bwd(dev, g->dq_cls, through ? g->d : SMHF_TENSOR_NONE, dw->kv,
                                dw->kv_bias, dcontext, a->context, a->lse, a->q, a->x, w->kv,
                                w->kv_bias, pack, w->heads, w->scale,
                                smhf_pass_drop(pass, SMHF_DROP_ATTENTION, l));
    } else {
        keys_backward(pass, l, dw, dcontext, through);
    }
    if (!cls_layer) {
        return;
    }
    smhf_weight_backward(pass, dw->q, dw->q_bias, g->dq_cls, a->cls, axis);
    if (through) {
        be->linear_bwd_input(dev, d, g->dq_cls, w->q, 1, pack, axis);
        be->scatter_add_rows(dev, g->d, d, pack, SMHF_AXIS_ROWS);
    }
}

void smhf_backward(const smhf_pass *pass, const smhf_gradients *gradients) {
    const smhf_plan *plan = pass->plan;
    const int layers = pass->net->config->layers, lowest = gradients->lowest;

    smhf_head_backward(pass, gradients, plan->layers[layers - 1].out);
    for (int l = layers - 1; l >= 0 && l >= lowest; l--) {
        if (plan->shape.checkpointing && l < layers - 1) {
            smhf_layer_forward(pass, l); /* what layers above have overwritten */
        }
        layer_backward(pass, l, &gradients->layers[l], l > lowest);
    }
    if (lowest < 0) {
        pass->dev->backend->embedding_bwd(pass->dev, &gradients->tables, plan->grads.d,
                                          plan->embedded_stats, &pass->net->tables, pass->pack,
                                          smhf_pass_drop(pass, SMHF_DROP_EMBEDDING, 0));
    }
}
