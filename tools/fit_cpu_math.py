"""Fits the normal tail and the coarse GELU of csrc/backend_cpu/cpu_kernels_body.h; prints the coefficients.

The tail probability of a standard normal is exp(-x^2 / 2) R(x) for x >= 0, where R falls smoothly
from 1/2. R is fitted by P(x) / Q(x) with Q(0) = 1 on [0, LIMIT]: weighted linear least squares,
reweighted until the relative error is level (Lawson), then judged in float32.

    python tools/fit_cpu_math.py
"""

from __future__ import annotations

import math

import numpy as np

LIMIT = 13.2  # exp(-LIMIT^2 / 2) leaves the normal float32 range
P_DEGREE, Q_DEGREE = 4, 5


def tail_ratio(x: np.ndarray) -> np.ndarray:
    """exp(x^2 / 2) times the normal tail above x, in float64."""
    return np.array([0.5 * math.erfc(v / math.sqrt(2)) * math.exp(v * v / 2) for v in x])


def fit() -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of P and Q, lowest power first."""
    n = 4000
    s = 0.5 * (1 - np.cos(np.pi * (np.arange(n) + 0.5) / n))
    x = LIMIT * s**2  # dense where R bends
    r = tail_ratio(x)
    t = x / LIMIT
    powers_p = t[:, None] ** np.arange(P_DEGREE + 1)
    powers_q = t[:, None] ** np.arange(1, Q_DEGREE + 1)
    lawson, q_value = np.ones(n), np.ones(n)
    best = (np.inf, np.zeros(1), np.zeros(1))
    for _ in range(400):
        row = np.sqrt(lawson) / (q_value * r)
        design = np.hstack([powers_p, -r[:, None] * powers_q]) * row[:, None]
        norm = np.linalg.norm(design, axis=0)
        solution = np.linalg.lstsq(design / norm, r * row, rcond=1e-15)[0] / norm
        p, q = solution[: P_DEGREE + 1], np.concatenate([[1.0], solution[P_DEGREE + 1 :]])
        q_value = np.polyval(q[::-1], t)
        error = np.abs(np.polyval(p[::-1], t) / q_value / r - 1)
        if error.max() < best[0]:
            best = (error.max(), p, q)
        lawson *= error / error.max() + 1e-2
        lawson /= lawson.mean()
    print(f"float64 relative {best[0]:.3g}")
    scale = LIMIT ** -np.arange(max(P_DEGREE, Q_DEGREE) + 1.0)
    return best[1] * scale[: P_DEGREE + 1], best[2] * scale[: Q_DEGREE + 1]


def judge(p: np.ndarray, q: np.ndarray) -> float:
    """Largest relative error of R with every operation rounded to float32."""
    x = np.linspace(0, LIMIT, 200_001).astype(np.float32)
    up = np.full_like(x, np.float32(p[-1]))
    for a in p[-2::-1]:
        up = up * x + np.float32(a)
    down = np.full_like(x, np.float32(q[-1]))
    for a in q[-2::-1]:
        down = down * x + np.float32(a)
    return float(np.abs((up / down).astype(np.float64) / tail_ratio(x.astype(np.float64)) - 1).max())


COARSE_LIMIT, COARSE_TERMS = 4.0, 8


def fit_coarse() -> tuple[np.ndarray, float]:
    """Coefficients (lowest power of x^2 first) of (Phi(x) - 1/2) / x on [0, COARSE_LIMIT], and the error.

    The error of x Phi(x) is what counts, beyond the limit too, where x goes on and Phi stays: the last
    point weighs more.
    """
    x = np.linspace(1e-3, COARSE_LIMIT, 3000)
    want = np.array([0.5 * math.erf(v / math.sqrt(2)) for v in x])
    weight = np.maximum(x, 0.05)
    weight[-1] *= 2.5
    powers = x[:, None] * (x[:, None] / COARSE_LIMIT) ** (2 * np.arange(COARSE_TERMS))
    lawson = np.ones(len(x))
    best = (np.inf, np.zeros(1))
    for _ in range(2000):
        row = np.sqrt(lawson) * weight
        q = np.linalg.lstsq(powers * row[:, None], want * row, rcond=None)[0]
        error = weight * np.abs(powers @ q - want)
        if error.max() < best[0]:
            best = (error.max(), q)
        lawson *= error / error.max() + 1e-2
        lawson /= lawson.mean()
    return best[1] / COARSE_LIMIT ** (2.0 * np.arange(COARSE_TERMS)), best[0]


def main() -> None:
    """Print the C initialisers and the errors."""
    p, q = fit()
    print("P:", ", ".join(f"{np.float32(a):.9e}f" for a in p))
    print("Q:", ", ".join(f"{np.float32(a):.9e}f" for a in q))
    print(f"float32 relative {judge(p, q):.3g}")
    terms, error = fit_coarse()
    print("coarse:", ", ".join(f"{np.float32(a):.8e}f" for a in terms[::-1]))
    print(f"error of x Phi(x) {error:.3g}")


if __name__ == "__main__":
    main()
