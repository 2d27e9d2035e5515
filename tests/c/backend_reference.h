/* backend_reference.h: every op of backend.h as plain loops in double, to be read beside the
 * contract. Arrays are dense and row-major. Included by test_backend_ops.c.
 *
 * Each forward function also gives, where asked, a bound: the magnitude of the terms that were
 * summed, which is what rounding errors grow from. */
#ifndef SMHF_TEST_BACKEND_REFERENCE_H
#define SMHF_TEST_BACKEND_REFERENCE_H

#include "backend/backend.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define U 5.960464477539063e-08 /* 2^-24 */

/* A batch on the host. */
typedef struct ref_pack {
    int tokens, rows;
    const int32_t *cu, *ids, *types;
    const uint32_t *sequence_ids;
    const int32_t *picks;
    int pick_count;
} ref_pack;

static inline double *ref_new(size_t n) {
    double *p = calloc(n > 0 ? n : 1, sizeof *p);
    if (p == NULL) {
        abort();
    }
    return p;
}

static int ref_row_of(const ref_pack *pack, int t) {
    int b = 0;
    while (t >= pack->cu[b + 1]) {
        b++;
    }
    return b;
}

/* The token that a row of an activation stands for. */
static int ref_token(const ref_pack *pack, smhf_axis axis, int row) {
    return axis == SMHF_AXIS_TOKENS ? row
           : axis == SMHF_AXIS_ROWS ? pack->cu[row]
                                    : pack->picks[row];
}

/* What dropout multiplies feature `feature` by. */
static double ref_factor(const smhf_dropout *d, uint32_t step, uint32_t sequence_id, uint32_t head,
                         uint32_t position, uint32_t feature) {
    uint32_t draws[4];
    if (d->p <= 0.0f) {
        return 1.0;
    }
    smhf_dropout_draw(d->seed, step, d->site, sequence_id, head, position, feature / 4, draws);
    return (draws[feature % 4] >> 8) >= (uint32_t)((double)d->p * 16777216.0 + 0.5)
               ? 1.0 / (1.0 - (double)d->p)
               : 0.0;
}

static double ref_row_factor(const smhf_dropout *d, uint32_t step, const ref_pack *pack,
                             smhf_axis axis, int row, int feature) {
    int token = ref_token(pack, axis, row), b = ref_row_of(pack, token);
    uint32_t position = (uint32_t)(token - pack->cu[b]);
    return ref_factor(d, step, pack->sequence_ids[b], 0, position, (uint32_t)feature);
}

/* ---- activations ---- */

static double ref_act(double x, smhf_act act) {
    double inner = sqrt(2.0 / acos(-1.0)) * (x + 0.044715 * x * x * x);
    switch (act) {
    case SMHF_ACT_GELU:
        return 0.5 * x * erfc(-x / sqrt(2.0));
    case SMHF_ACT_GELU_TANH:
        return 0.5 * x * (1.0 + tanh(inner));
    case SMHF_ACT_RELU:
        return x < 0.0 ? 0.0 : x;
    case SMHF_ACT_TANH:
        return tanh(x);
    default:
        return x;
    }
}

/* Derivative at the pre-activation x. */
static double ref_act_slope(double x, smhf_act act) {
    double root = sqrt(2.0 / acos(-1.0)), t = tanh(root * (x + 0.044715 * x * x * x));
    switch (act) {
    case SMHF_ACT_GELU:
        return 0.5 * erfc(-x / sqrt(2.0)) + x * exp(-0.5 * x * x) / sqrt(2.0 * acos(-1.0));
    case SMHF_ACT_GELU_TANH:
        return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * root * (1.0 + 3.0 * 0.044715 * x * x);
    case SMHF_ACT_RELU:
        return x > 0.0 ? 1.0 : 0.0;
    case SMHF_ACT_TANH:
        return 1.0 - tanh(x) * tanh(x);
    default:
        return 1.0;
    }
}

/* ---- linear ---- */

/* c [m, n] += op(a) op(b); size [m, n] += |op(a)| |op(b)| where not NULL. */
static void ref_matmul(double *c, double *size, const double *a, const double *b, int m, int n,
                       int k, int ta, int tb) {
    for (int i = 0; i < m; i++) {
        for (int p = 0; p < k; p++) {
            double x = ta ? a[(size_t)p * m + i] : a[(size_t)i * k + p];
            for (int j = 0; j < n; j++) {
                double y = tb ? b[(size_t)j * k + p] : b[(size_t)p * n + j];
                c[(size_t)i * n + j] += x * y;
                if (size != NULL) {
                    size[(size_t)i * n + j] += fabs(x * y);
                }
            }
        }
    }
}

/* ---- layernorm ---- */

static void ref_layernorm_row(double *out, double *mean_out, double *rstd_out, const double *s,
                              const double *gamma, const double *beta, int n, double eps) {
    double mean = 0.0, variance = 0.0;
    for (int c = 0; c < n; c++) {
        mean += s[c] / n;
    }
    for (int c = 0; c < n; c++) {
        variance += (s[c] - mean) * (s[c] - mean) / n;
    }
    double rstd = 1.0 / sqrt(variance + eps);
    for (int c = 0; c < n; c++) {
        out[c] = (s[c] - mean) * rstd * gamma[c] + beta[c];
    }
    *mean_out = mean;
    *rstd_out = rstd;
}

/* dx of one row, dgamma and dbeta +=; dx_size, dgamma_size: magnitudes, may be NULL */
static void ref_layernorm_bwd_row(double *dx, double *dgamma, double *dbeta, double *dx_size,
                                  double *dgamma_size, const double *dout, const double *s,
                                  double mean, double rstd, const double *gamma, int n) {
    double mean_g = 0.0, mean_gx = 0.0, size_g = 0.0, size_gx = 0.0, greatest = 0.0;
    for (int c = 0; c < n; c++) {
        double g = dout[c] * gamma[c], xhat = (s[c] - mean) * rstd;
        mean_g += g / n;
        mean_gx += g * xhat / n;
        size_g += fabs(g) / n;
        size_gx += fabs(g * xhat) / n;
        greatest = fmax(greatest, fabs(s[c]));
    }
    for (int c = 0; c < n; c++) {
        double xhat = (s[c] - mean) * rstd;
        dx[c] = rstd * (dout[c] * gamma[c] - mean_g - xhat * mean_gx);
        dgamma[c] += dout[c] * xhat;
        dbeta[c] += dout[c];
        if (dx_size != NULL) {
            double spread = 1.0 + rstd * greatest;
            dx_size[c] = rstd * (fabs(dout[c] * gamma[c]) + size_g + fabs(xhat) * size_gx) * spread;
            dgamma_size[c] += fabs(dout[c]) * (fabs(xhat) + spread);
        }
    }
}

/* ---- attention ---- */

typedef struct ref_attention {
    const ref_pack *pack;
    smhf_axis query_axis;
    int heads, size; /* D */
    double scale;
    smhf_dropout dropout;
    uint32_t step;
} ref_attention;

/* Calls of one (sequence, head, query): p [keys] the probabilities, f [keys] dropout's factors,
 * *lse, *top = the largest |score|. */
static void ref_probabilities(const ref_attention *a, const double *q, const double *k, int b,
                              int head, int query, double *p, double *f, double *lse, double *top) {
    int first = a->pack->cu[b], keys = a->pack->cu[b + 1] - first, H = a->heads * a->size;
    int row = a->query_axis == SMHF_AXIS_TOKENS ? first + query : b;
    double greatest = -INFINITY, sum = 0.0;
    *top = 0.0;
    for (int j = 0; j < keys; j++) {
        p[j] = 0.0;
        for (int d = 0; d < a->size; d++) {
            int c = head * a->size + d;
            p[j] += a->scale * q[(size_t)row * H + c] * k[(size_t)(first + j) * H + c];
        }
        greatest = fmax(greatest, p[j]);
        *top = fmax(*top, fabs(p[j]));
    }
    for (int j = 0; j < keys; j++) {
        sum += exp(p[j] - greatest);
    }
    *lse = greatest + log(sum);
    for (int j = 0; j < keys; j++) {
        p[j] = exp(p[j] - *lse);
        f[j] = ref_factor(&a->dropout, a->step, a->pack->sequence_ids[b], (uint32_t)head,
                          (uint32_t)query, (uint32_t)j);
    }
}

/* out, lse, and bound on out's error */
static void ref_attention_fwd(const ref_attention *a, double *out, double *lse, double *bound,
                              const double *q, const double *k, const double *v) {
    int H = a->heads * a->size;
    double *p = ref_new((size_t)a->pack->tokens), *f = ref_new((size_t)a->pack->tokens);
    for (int b = 0; b < a->pack->rows; b++) {
        int first = a->pack->cu[b], keys = a->pack->cu[b + 1] - first;
        int queries = a->query_axis == SMHF_AXIS_TOKENS ? keys : 1;
        for (int head = 0; head < a->heads; head++) {
            for (int i = 0; i < queries; i++) {
                double row_lse, top;
                int row = a->query_axis == SMHF_AXIS_TOKENS ? first + i : b;
                ref_probabilities(a, q, k, b, head, i, p, f, &row_lse, &top);
                lse[(size_t)row * a->heads + head] = row_lse;
                for (int d = 0; d < a->size; d++) {
                    int c = head * a->size + d;
                    double sum = 0.0, greatest = 0.0;
                    for (int j = 0; j < keys; j++) {
                        double value = v[(size_t)(first + j) * H + c];
                        sum += p[j] * f[j] * value;
                        greatest = fmax(greatest, fabs(value * f[j]));
                    }
                    out[(size_t)row * H + c] = sum;
                    if (bound != NULL) {
                        bound[(size_t)row * H + c] = 16 * U * greatest * (1 + top);
                    }
                }
            }
        }
    }
    free(p);
    free(f);
}

/* dq, dk, dv (all start at 0) and bounds on their errors (or NULL) */
static void ref_attention_bwd(const ref_attention *a, double *dq, double *dk, double *dv,
                              double *bq, double *bk, double *bv, const double *dout,
                              const double *q, const double *k, const double *v) {
    int H = a->heads * a->size;
    double *p = ref_new((size_t)a->pack->tokens), *f = ref_new((size_t)a->pack->tokens);
    double *dp = ref_new((size_t)a->pack->tokens), *ep = ref_new((size_t)a->pack->tokens);
    for (int b = 0; b < a->pack->rows; b++) {
        int first = a->pack->cu[b], keys = a->pack->cu[b + 1] - first;
        int queries = a->query_axis == SMHF_AXIS_TOKENS ? keys : 1;
        for (int head = 0; head < a->heads; head++) {
            for (int i = 0; i < queries; i++) {
                double lse, top, delta = 0.0, delta_size = 0.0;
                int row = a->query_axis == SMHF_AXIS_TOKENS ? first + i : b;
                ref_probabilities(a, q, k, b, head, i, p, f, &lse, &top);
                for (int j = 0; j < keys; j++) {
                    dp[j] = ep[j] = 0.0;
                    for (int d = 0; d < a->size; d++) {
                        int c = head * a->size + d;
                        double term = dout[(size_t)row * H + c] * v[(size_t)(first + j) * H + c];
                        dp[j] += f[j] * term;
                        ep[j] += f[j] * fabs(term);
                    }
                    delta += p[j] * dp[j];
                    delta_size += p[j] * ep[j];
                }
                for (int j = 0; j < keys; j++) {
                    double ds = a->scale * p[j] * (dp[j] - delta);
                    double es = 32 * U * (1 + top) * a->scale * p[j] * (ep[j] + delta_size);
                    for (int d = 0; d < a->size; d++) {
                        int c = head * a->size + d;
                        size_t at_q = (size_t)row * H + c, at_k = (size_t)(first + j) * H + c;
                        dq[at_q] += ds * k[at_k];
                        dk[at_k] += ds * q[at_q];
                        dv[at_k] += p[j] * f[j] * dout[at_q];
                        if (bq != NULL) {
                            bq[at_q] += es * fabs(k[at_k]);
                            bk[at_k] += es * fabs(q[at_q]);
                            bv[at_k] += 32 * U * (1 + top) * p[j] * f[j] * fabs(dout[at_q]);
                        }
                    }
                }
            }
        }
    }
    free(p);
    free(f);
    free(dp);
    free(ep);
}

/* ---- losses ---- */

/* Mean loss of logits [rows, C] (see smhf_backend.loss); weights may be NULL. */
static double ref_loss(const double *logits, const int32_t *labels, const double *targets, int rows,
                       int C, smhf_loss_kind kind, double smoothing, const double *weights,
                       int32_t ignore) {
    double sum = 0.0, count = 0.0;
    for (int r = 0; r < rows; r++) {
        const double *x = logits + (size_t)r * C;
        if (kind != SMHF_LOSS_CROSS_ENTROPY) {
            for (int c = 0; c < C; c++) {
                double t = targets[(size_t)r * C + c], p = 1.0 / (1.0 + exp(-x[c]));
                sum += kind == SMHF_LOSS_MSE ? (x[c] - t) * (x[c] - t)
                                             : -t * log(p) - (1.0 - t) * log(1.0 - p);
                count += 1.0;
            }
            continue;
        }
        if (labels[r] == ignore) {
            continue;
        }
        double total = 0.0;
        for (int c = 0; c < C; c++) {
            total += exp(x[c]);
        }
        for (int c = 0; c < C; c++) {
            double w = weights != NULL ? weights[c] : 1.0, nll = log(total) - x[c];
            sum += smoothing / C * w * nll + (c == labels[r] ? (1.0 - smoothing) * w * nll : 0.0);
            count += c == labels[r] ? w : 0.0;
        }
    }
    return sum / count;
}

#endif
