"""Golden cases and tiny models for the tests of the model room."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests" / "support"))

import golden_file  # noqa: E402
import tiny_model  # noqa: E402


class Golden(NamedTuple):
    folder: Path
    tensors: dict[str, np.ndarray]
    training: dict[str, Any]

    def batch(self, step: int | None = None) -> dict[str, np.ndarray]:
        """Arguments of Trainer.step: the case, or one of the twenty training batches."""
        names = ("input_ids", "attention_mask", "labels", "token_type_ids")
        if step is None:
            return {name: self.tensors[name] for name in names}
        return {name: self.tensors[f"train.{name}"][step] for name in names}

    def inputs(self) -> dict[str, np.ndarray]:
        """Arguments of a model call."""
        batch = self.batch()
        batch.pop("labels")
        return batch

    def trainer_options(self) -> dict[str, Any]:
        options = dict(self.training)
        options["betas"] = (options.pop("beta1"), options.pop("beta2"))
        return options


@pytest.fixture(params=["distilbert", "bert"])
def golden(request: pytest.FixtureRequest) -> Golden:
    """A toy model of transformers with PyTorch's answers in float64."""
    folder = ROOT / "tests" / "golden" / "model" / request.param
    tensors, metadata = golden_file.read_golden(folder / "case.safetensors")
    return Golden(folder, tensors, json.loads(metadata["training"]))


@pytest.fixture
def tiny_folder(tmp_path: Path) -> Path:
    """A saved DistilBERT of two layers of 32, five labels, dropout as in the real one."""
    return tiny_model.build_tiny_model(tmp_path / "tiny")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(2021)
