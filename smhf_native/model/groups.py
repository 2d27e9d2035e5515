"""Which parameters are trained, and how fast: prefixes of names made into one value for each parameter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["frozen_by", "layer_of", "matching", "rate_scales"]

_FAMILIES = ("distilbert.", "bert.")
_STACKS = ("transformer.", "encoder.")


def _starts(name: str) -> list[int]:
    """Where a prefix may begin in a name: at its start, behind the family's name, behind the stack's."""
    starts = [0]
    for group in (_FAMILIES, _STACKS):
        for word in group:
            if name.startswith(word, starts[-1]):
                starts.append(starts[-1] + len(word))
    return starts


def _match(prefix: str, name: str) -> int:
    """End of the prefix within the name, or 0; whole words only, so ``layer.1`` is not ``layer.10``."""
    for start in _starts(name):
        end = start + len(prefix)
        if name.startswith(prefix, start) and (len(name) == end or name[end] == "."):
            return end
    return 0


def matching(prefix: str, names: Sequence[str]) -> list[str]:
    """Names that a prefix means: ``"embeddings"``, ``"layer.0"``, ``"layer.3.attention"``, ``"classifier"``, or
    a whole name as :meth:`Model.parameters` has it.

    Raises
    ------
    ValueError
        No parameter has that prefix.
    """
    found = [name for name in names if _match(prefix.rstrip("."), name)]
    if not found or not prefix.strip("."):
        raise ValueError(
            f'"{prefix}": no parameter of this model begins with it (examples: "embeddings", "layer.0", "{names[-1]}")'
        )
    return found


def frozen_by(freeze: str | Iterable[str], names: Sequence[str]) -> bytes | None:
    """One byte for each parameter, 1 where a prefix of ``freeze`` fits; None when none is frozen."""
    prefixes = [freeze] if isinstance(freeze, str) else list(freeze)
    if not prefixes:
        return None
    frozen: set[str] = set()
    for prefix in prefixes:
        try:
            frozen.update(matching(prefix, names))
        except ValueError as error:
            raise ValueError(f"freeze: {error}") from None
    return bytes(name in frozen for name in names)


def layer_of(name: str, layers: int) -> int:
    """Depth of a parameter: -1 the embeddings, 0 ... the layers, ``layers`` the head."""
    rest = name[_starts(name)[-1] :]
    if rest.startswith("layer."):
        return int(rest.split(".")[1])
    return -1 if rest.startswith("embeddings.") else layers


def rate_scales(
    names: Sequence[str],
    layers: int,
    learning_rate: float,
    decay: float | None,
    rates: Mapping[str, float] | None,
) -> npt.NDArray[np.float32] | None:
    """Factor of each parameter on the learning rate, or None when all are 1; see :class:`Trainer`."""
    if decay is None and not rates:
        return None
    if decay is not None and not (0.0 < decay < np.inf):
        raise ValueError(f"layer_lr_decay: expected a number above 0, got {decay}")
    scales = [1.0 if decay is None else decay ** (layers - layer_of(name, layers)) for name in names]
    reach = [0] * len(names)  # how much of the name the rate so far was given for
    for prefix, rate in (rates or {}).items():
        if not (0.0 <= rate < np.inf):
            raise ValueError(f'learning_rates["{prefix}"]: expected 0 or more, got {rate}')
        if learning_rate <= 0.0 and rate > 0.0:
            raise ValueError(
                f'learning_rates["{prefix}"]: needs a learning_rate above 0, of which it is a multiple'
            )
        try:
            matching(prefix, names)
        except ValueError as error:
            raise ValueError(f"learning_rates: {error}") from None
        for i, name in enumerate(names):
            end = _match(prefix.rstrip("."), name)
            if end > reach[i]:
                reach[i], scales[i] = end, rate / learning_rate if learning_rate > 0.0 else 0.0
    return np.array(scales, np.float32)
