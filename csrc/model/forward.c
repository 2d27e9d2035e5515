/* forward.c: the encoder, written once over the op table.
 *
 * Post-LN transformer (Vaswani et al. 2017; BERT, Devlin et al. 2018; DistilBERT, Sanh et al.
 * 2019). T tokens of B packed sequences, H hidden, F feed-forward. Each layer:
 *
 *     q, k, v  = x Wq + bq, x Wk + bk, x Wv + bv
 *     hidden   = LayerNorm(x + dropout(attention(q, k, v) Wo + bo))
 *     out      = LayerNorm(hidden + dropout(GELU(hidden W1 + b1) W2 + b2))
 *
 * A sequence classifier reads only the first token (CLS) of each sequence, so in its last layer
 * keys and values are made for every token, and everything else for the first ones alone: exact,
 * and a seventh of the work of six layers saved. Where the device attends without keys and values
 * (attention_first_fwd) not even those are made. Training and inference differ in the plan only.
 */
#include "model/network.h"

smhf_dropout smhf_pass_drop(const smhf_pass *pass, smhf_dropout_place place, int layer) {
    const smhf_config *config = pass->net->config;
    float p = 0.0f;
    uint32_t site = 0;
    switch (place) {
    case SMHF_DROP_EMBEDDING:
        p = config->embedding_dropout;
        break;
    case SMHF_DROP_ATTENTION:
        p = config->attention_dropout;
        site = 1 + 3 * (uint32_t)layer;
        break;
    case SMHF_DROP_PROJECTION:
        p = config->projection_dropout;
        site = 2 + 3 * (uint32_t)layer;
        break;
    case SMHF_DROP_FFN:
        p = config->ffn_dropout;
        site = 3 + 3 * (uint32_t)layer;
        break;
    case SMHF_DROP_HEAD:
        p = config->head_dropout;
        site = 1 + 3 * (uint32_t)config->layers;
        break;
    }
    if (!pass->dropout.on || p == 0.0f) {
        return SMHF_DROPOUT_NONE;
    }
    return (smhf_dropout){p, site, pass->dropout.seed, pass->dropout.step};
}

void smhf_pass_check(const smhf_pass *pass) {
    const smhf_cancel *cancel = pass->cancel;
    if (cancel != NULL && pass->dev->failure.code == SMHF_OK && cancel->stop(cancel->context)) {
        smhf_device_fail(pass->dev, SMHF_E_CANCELLED, "stopped by the caller");
    }
}

void smhf_layer_forward(const smhf_pass *pass, int l) {
    smhf_device *dev = pass->dev;
    const smhf_backend *be = dev->backend;
    const smhf_pack *pack = pass->pack;
    const smhf_layer *w = &pass->net->layers[l];
    const smhf_layer_activations *a = &pass->plan->layers[l];
    const int cls_layer = smhf_config_cls_layer(pass->net->config, l);
    const smhf_axis axis = cls_layer ? SMHF_AXIS_ROWS : SMHF_AXIS_TOKENS;
    smhf_tensor residual = a->x;

    smhf_pass_check(pass);
    if (cls_layer) {
        be->gather_rows(dev, a->cls, a->x, pack, SMHF_AXIS_ROWS);
        be->linear_fwd(dev, a->q, a->cls, w->q, w->q_bias, pack, axis);
        residual = a->cls;
    }
    if (cls_layer && pass->plan->shape.keyless) {
        be->attention_first_fwd(dev, a->context, a->lse, a->q, a->x, w->kv, w->kv_bias, pack,
                                w->heads, w->scale, smhf_pass_drop(pass, SMHF_DROP_ATTENTION, l));
    } else {
        be->linear_fwd(dev, a->kv, a->x, w->kv, w->kv_bias, pack, SMHF_AXIS_TOKENS);
        be->attention_fwd(dev, a->context, a->lse, a->q, a->k, a->v, pack, axis, w->heads, w->scale,
                          pass->net->compute, smhf_pass_drop(pass, SMHF_DROP_ATTENTION, l));
    }
    smhf_pass_check(pass);
    if (!pass->plan->shape.training && be->layer_tail_fwd != NULL &&
        be->layer_tail_fwd(dev, a->out, a->context, residual, w, pack, axis)) {
        return;
    }
    be->linear_fwd(dev, a->projected, a->context, w->out, w->out_bias, pack, axis);
    be->residual_layernorm_fwd(dev, a->hidden, a->sum1, a->stats1, a->projected, residual,
                               w->attention_gamma, w->attention_beta, w->eps, pack, axis,
                               smhf_pass_drop(pass, SMHF_DROP_PROJECTION, l));

    be->linear_act_fwd(dev, a->ffn, a->pre, a->hidden, w->ffn1, w->ffn1_bias, w->act, pack, axis);
    smhf_pass_check(pass);
    be->linear_fwd(dev, a->ffn_out, a->ffn, w->ffn2, w->ffn2_bias, pack, axis);
    be->residual_layernorm_fwd(dev, a->out, a->sum2, a->stats2, a->ffn_out, a->hidden,
                               w->output_gamma, w->output_beta, w->eps, pack, axis,
                               smhf_pass_drop(pass, SMHF_DROP_FFN, l));
}

/* Inference, layers whose input and output lie in one place: as many from `l` on as the device has
 * a quicker way for. */
static int layers_at_once(const smhf_pass *pass, int l) {
    const smhf_backend *be = pass->dev->backend;
    const smhf_layer_activations *a = &pass->plan->layers[l];
    int count = pass->net->config->layers - l;
    count -= smhf_config_cls_layer(pass->net->config, l + count - 1) ? 1 : 0;
    if (pass->plan->shape.training || be->layers_fwd == NULL || count == 0) {
        return 0;
    }
    SMHF_ASSERT(a->x.data == a->out.data);
    smhf_pass_check(pass);
    return be->layers_fwd(pass->dev, a->x, a->context, &pass->net->layers[l], count, pass->pack,
                          pass->net->compute);
}

void smhf_forward(const smhf_pass *pass) {
    const smhf_plan *plan = pass->plan;
    const int layers = pass->net->config->layers;

    smhf_embedding tables = pass->net->tables;
    tables.word = pass->words.data != NULL ? pass->words : tables.word;
    pass->dev->backend->embedding_fwd(pass->dev, plan->embedded, plan->embedded_stats, &tables,
                                      pass->net->config->layernorm_eps, pass->pack,
                                      smhf_pass_drop(pass, SMHF_DROP_EMBEDDING, 0));
    for (int l = 0; l < layers;) {
        const int done = layers_at_once(pass, l);
        if (done == 0) {
            smhf_layer_forward(pass, l);
        }
        l += done > 0 ? done : 1;
    }
    smhf_head_forward(pass, plan->layers[layers - 1].out);
}
