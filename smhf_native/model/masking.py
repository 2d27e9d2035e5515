"""Masked-LM batches: which tokens are asked about, and what stands in their place (Devlin et al. 2018)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["NO_LABEL", "mask_tokens"]

NO_LABEL = -100


def mask_tokens(
    input_ids: Any,
    allowed: Any,
    *,
    mask_id: int,
    vocab_size: int,
    rng: np.random.Generator,
    probability: float = 0.15,
    mask_share: float = 0.8,
    random_share: float = 0.1,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Pick tokens at random and hide most of them.

    Parameters
    ----------
    input_ids : array_like of int, shape (rows, columns)
    allowed : array_like of bool, same shape
        False for what is never picked: special tokens and padding.
    mask_id, vocab_size : int
        Id of ``[MASK]``; random words are drawn from 0 to ``vocab_size - 1``.
    rng : numpy.random.Generator
        The same state picks the same tokens.
    probability : float
        Share of the allowed tokens that are picked, each on its own.
    mask_share, random_share : float
        Share of the picked ones that become ``[MASK]`` and a random word; the rest stay what they are.

    Returns
    -------
    input_ids, labels : ndarray of int64, shape (rows, columns)
        Labels are the original ids where a token was picked, -100 elsewhere.

    Raises
    ------
    ValueError
        A share is outside 0 to 1, or both together are above 1.
    """
    for name, share in (
        ("probability", probability),
        ("mask_share", mask_share),
        ("random_share", random_share),
    ):
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"{name}: expected 0 to 1, got {share}")
    if mask_share + random_share > 1.0 + 1e-9:
        raise ValueError(
            f"mask_share and random_share: expected at most 1 together, got {mask_share + random_share}"
        )
    ids = np.array(input_ids, np.int64)
    picked = (rng.random(ids.shape) < probability) & np.asarray(allowed, bool)
    fate = rng.random(ids.shape)
    words = rng.integers(0, vocab_size, ids.shape)
    labels = np.where(picked, ids, NO_LABEL)
    ids[picked & (fate < mask_share)] = mask_id
    swapped = picked & (fate >= mask_share) & (fate < mask_share + random_share)
    ids[swapped] = words[swapped]
    return ids, labels
