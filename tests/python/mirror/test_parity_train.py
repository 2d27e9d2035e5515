"""The short form of tools/parity_train.py: 20 steps of both trainers, and a fault that must be noticed."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def tool(repo_root: Path) -> Any:
    spec = importlib.util.spec_from_file_location("parity_train", repo_root / "tools" / "parity_train.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["parity_train"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.peers
@pytest.mark.slow
def test_losses_agree_and_a_fault_does_not(tool: Any, peer: Any, shared_data: Path, tmp_path: Path) -> None:
    for name in ("torch", "transformers", "datasets", "accelerate"):
        peer(name)
    # 15 batches an epoch in groups of 4: the last group of each of the 5 epochs holds 3.
    options = argparse.Namespace(
        steps=20, batch_size=4, accumulation=4, max_length=32, weight_decay=0.5, full_size=False, dim=128
    )
    files = tool.data_files(shared_data, tmp_path, 60)
    model = tmp_path / "model"
    tool.make_checkpoint(model, shared_data / "vocab/bert-base-uncased/vocab.txt", options, dropout=False)
    ours = tool.launch("native", tmp_path, model, options, evaluate=True, **files)["none"]
    runs = tool.launch(
        "torch", tmp_path, model, options, evaluate=True, fault="none,missing-gradient", **files
    )
    theirs = runs["none"]
    result = tool.compare(ours["losses"], theirs["losses"])
    assert result["steps"] == 20 and result["agrees"], result
    assert ours["learning_rates"] == pytest.approx(theirs["learning_rates"], rel=1e-12)
    assert ours["grad_norms"] == pytest.approx(theirs["grad_norms"], rel=1e-3)
    assert abs(ours["eval_loss"] - theirs["eval_loss"]) <= 1e-5
    assert not tool.compare(ours["losses"], runs["missing-gradient"]["losses"])["agrees"]


def test_the_comparison_itself_can_fail(tool: Any) -> None:
    losses = [1.6 - 0.01 * i for i in range(30)]
    assert tool.compare(losses, losses)["agrees"] and tool.compare(losses, losses)["falls"]
    early = [*losses[:5], losses[5] + 2e-5, *losses[6:]]
    late = [*losses[:25], losses[25] + 2e-3, *losses[26:]]
    assert not tool.compare(losses, early)["agrees"] and not tool.compare(losses, late)["agrees"]
    assert not tool.compare([1.0] * 30, [1.0] * 30)["falls"]
