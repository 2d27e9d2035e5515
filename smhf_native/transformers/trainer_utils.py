"""``transformers.trainer_utils``: enums, result tuples, seeds and the search for the last checkpoint."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np

from smhf_native.transformers.checkpoints import PREFIX_CHECKPOINT_DIR, last_checkpoint

__all__ = [
    "PREFIX_CHECKPOINT_DIR",
    "EvalLoopOutput",
    "EvalPrediction",
    "EvaluationStrategy",
    "HubStrategy",
    "IntervalStrategy",
    "PredictionOutput",
    "SaveStrategy",
    "SchedulerType",
    "TrainOutput",
    "current_seed",
    "denumpify_detensorize",
    "enable_full_determinism",
    "get_last_checkpoint",
    "has_length",
    "is_main_process",
    "set_seed",
    "speed_metrics",
]


class ExplicitEnum(StrEnum):
    """A string enum whose failed lookup names the choices."""

    @classmethod
    def _missing_(cls, value: object) -> Any:
        raise ValueError(
            f"{value!r} is not a valid {cls.__name__}, please select one of {[m.value for m in cls]}"
        )


class IntervalStrategy(ExplicitEnum):
    """When to log or evaluate."""

    NO = "no"
    STEPS = "steps"
    EPOCH = "epoch"


EvaluationStrategy = IntervalStrategy


class SaveStrategy(ExplicitEnum):
    """When to write a checkpoint."""

    NO = "no"
    STEPS = "steps"
    EPOCH = "epoch"
    BEST = "best"


class HubStrategy(ExplicitEnum):
    """What to push to the hub (accepted; nothing is pushed)."""

    END = "end"
    EVERY_SAVE = "every_save"
    CHECKPOINT = "checkpoint"
    ALL_CHECKPOINTS = "all_checkpoints"


class SchedulerType(ExplicitEnum):
    """How the learning rate moves."""

    LINEAR = "linear"
    COSINE = "cosine"
    CONSTANT = "constant"
    CONSTANT_WITH_WARMUP = "constant_with_warmup"


class EvalPrediction:
    """What ``compute_metrics`` receives: ``predictions`` (N, num_labels) and ``label_ids`` (N,)."""

    def __init__(self, predictions: Any, label_ids: Any, inputs: Any = None, losses: Any = None):
        self.predictions = predictions
        self.label_ids = label_ids
        self.inputs = inputs
        self.losses = losses
        self.elements: tuple[Any, ...] = (predictions, label_ids)
        if inputs is not None:
            self.elements += (inputs,)
        if losses is not None:
            self.elements += (losses,)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.elements)

    def __getitem__(self, index: int) -> Any:
        return self.elements[index]


class EvalLoopOutput(NamedTuple):
    """Result of one evaluation loop."""

    predictions: Any
    label_ids: Any
    metrics: dict[str, float] | None
    num_samples: int | None


class PredictionOutput(NamedTuple):
    """Result of ``Trainer.predict``."""

    predictions: Any
    label_ids: Any
    metrics: dict[str, float] | None


class TrainOutput(NamedTuple):
    """Result of ``Trainer.train``."""

    global_step: int
    training_loss: float
    metrics: dict[str, float]


_SEED = 42


def set_seed(seed: int, deterministic: bool = False) -> None:
    """Seed Python's and NumPy's generators and the engine's head initialisation and dropout."""
    global _SEED
    random.seed(seed)
    np.random.seed(seed % (1 << 32))
    _SEED = int(seed)


def current_seed() -> int:
    """Return the seed of the last :func:`set_seed` (42 before the first)."""
    return _SEED


def enable_full_determinism(seed: int, warn_only: bool = False) -> None:
    """Seed; the engine is deterministic anyway."""
    set_seed(seed)


def get_last_checkpoint(folder: str | os.PathLike[str]) -> str | None:
    """Return the ``checkpoint-N`` folder with the highest N that is whole, or None.

    A checkpoint of ours is whole when its manifest verifies (sizes and SHA-256); one without a manifest
    counts when it has a trainer state and weights.  Skipped ones are named in the log with the reason.
    """
    return last_checkpoint(folder)


def has_length(dataset: Any) -> bool:
    """Return whether ``len(dataset)`` works."""
    try:
        return len(dataset) is not None
    except (TypeError, AttributeError):
        return False


def is_main_process(local_rank: int) -> bool:
    """Return whether this process logs and saves."""
    return local_rank in (-1, 0)


def speed_metrics(
    split: str, start_time: float, num_samples: float | None = None, num_steps: int | None = None
) -> dict[str, float]:
    """Return ``{split}_runtime`` and rates, rounded as transformers rounds them (seconds, 1/s)."""
    runtime = time.time() - start_time
    result = {f"{split}_runtime": round(runtime, 4)}
    if runtime == 0:
        return result
    if num_samples is not None:
        result[f"{split}_samples_per_second"] = round(num_samples / runtime, 3)
    if num_steps is not None:
        result[f"{split}_steps_per_second"] = round(num_steps / runtime, 3)
    return result


def denumpify_detensorize(metrics: Any) -> Any:
    """Turn NumPy scalars inside dicts, lists and tuples into Python numbers."""
    if isinstance(metrics, (list, tuple)):
        return type(metrics)(denumpify_detensorize(item) for item in metrics)
    if isinstance(metrics, dict):
        return {key: denumpify_detensorize(value) for key, value in metrics.items()}
    if isinstance(metrics, np.generic) or (isinstance(metrics, np.ndarray) and metrics.ndim == 0):
        return metrics.item()
    return metrics
