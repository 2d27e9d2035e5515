"""Which precision a model computes in: asked for, from the environment, or chosen by measurement."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from smhf_native.errors import BackendError

if TYPE_CHECKING:
    from smhf_native.model.classifier import Model

__all__ = ["AGREEMENT", "CALIBRATION_NAME", "PRECISIONS", "choose", "read_calibration", "resolve"]

PRECISIONS = ("fp32", "bf16", "int8", "auto")
CALIBRATION_NAME = "calibration.json"
AGREEMENT = 0.999  #: share of labels that must equal fp32's


def resolve(precision: str | None) -> str:
    """Name of a precision: what is asked for, else ``SMHF_PRECISION``, else ``"fp32"``.

    Raises
    ------
    ValueError
        For another name; says whether it came from the environment.
    """
    source = "precision"
    if precision is None:
        precision = os.environ.get("SMHF_PRECISION") or "fp32"
        source = "SMHF_PRECISION"
    if precision not in PRECISIONS:
        raise ValueError(f'{source} "{precision}": expected one of {", ".join(PRECISIONS)}')
    return precision


def read_calibration(path: Path) -> dict[str, Any] | None:
    """Token ids of typical texts, kept beside a model, as padded arrays; None without the file.

    Raises
    ------
    ValueError
        The file is not of that form; names it.
    """
    if not path.is_file():
        return None
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["input_ids"]
        ids = np.zeros((len(rows), max(len(row) for row in rows)), np.int64)
        mask = np.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
            mask[i, : len(row)] = 1
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f'{path}: expected {{"input_ids": [[...], ...]}}, lists of integers: {error}'
        ) from error
    return {"input_ids": ids, "attention_mask": mask}


def _measure(model: Model, batch: Any) -> tuple[Any, float]:
    """Labels of a batch, and the seconds of the faster of two passes (the first one packs weights)."""
    took = []
    for _ in range(2):
        start = time.perf_counter()
        logits = model(batch)
        took.append(time.perf_counter() - start)
    return logits.argmax(-1), min(took)


def choose(model: Model, calibration: Any, agreement: float = AGREEMENT) -> dict[str, Any]:
    """Switch a model to the fastest precision whose labels agree with fp32's; fp32 when none does.

    Parameters
    ----------
    model : Model
        In any precision; afterwards in the chosen one.
    calibration : Encoding, mapping or None
        What :meth:`Model.__call__` takes: texts like those that will come.
    agreement : float
        Least share of equal labels.

    Returns
    -------
    dict
        ``chosen``, ``reason`` (a sentence), ``rows``, and for each precision that was tried
        ``seconds`` and ``agreement``, or ``refused`` with the reason.
    """
    report: dict[str, Any] = {"chosen": "fp32", "rows": 0, "tried": {}}
    model.set_precision("fp32")
    if calibration is None:
        report["reason"] = "fp32: there are no calibration texts to measure label agreement on"
        return report
    labels, seconds = _measure(model, calibration)
    report["rows"] = len(labels)
    report["tried"]["fp32"] = {"seconds": seconds, "agreement": 1.0}
    if len(labels) == 0:
        report["reason"] = "fp32: the calibration batch is empty"
        return report
    for name in ("bf16", "int8"):
        try:
            model.set_precision(name)
        except BackendError as error:
            report["tried"][name] = {"refused": str(error)}
            continue
        other, seconds = _measure(model, calibration)
        report["tried"][name] = {"seconds": seconds, "agreement": float((other == labels).mean())}
    good = {
        name: tried["seconds"]
        for name, tried in report["tried"].items()
        if tried.get("agreement", 0.0) >= agreement
    }
    chosen = min(good, key=lambda name: good[name])
    model.set_precision(chosen)
    report["chosen"] = chosen
    tried = report["tried"][chosen]
    speed = report["tried"]["fp32"]["seconds"] / tried["seconds"]
    report["reason"] = (
        f"{chosen}: {100 * tried['agreement']:.2f} % of {len(labels)} labels equal fp32's, {speed:.2f} times its speed"
    )
    if chosen == "fp32":
        others = ", ".join(
            f"{name} {100 * t['agreement']:.2f} %"
            for name, t in report["tried"].items()
            if name != "fp32" and "agreement" in t
        )
        report["reason"] = (
            f"fp32: nothing faster agrees with it on {100 * agreement:.1f} % of the labels ({others or 'none tried'})"
        )
    return report
