"""``device="cuda"`` from Python to the kernels: the plugin's own sources over the stand-ins of tests/cuda_host,
loaded as the real one is, behind an empty ``libcuda.so.1``."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

backends_module = importlib.import_module("smhf_native.model.backends")  # the package has a function of that name

CHILD = """
import json
import numpy as np
import smhf_native as smhf

config = {"model_type": "distilbert", "vocab_size": 60, "dim": 64, "n_heads": 2, "n_layers": 2, "hidden_dim": 96,
          "max_position_embeddings": 40, "num_labels": 3, "id2label": {"0": "a", "1": "b", "2": "c"}}
rng = np.random.default_rng(3)
lengths = rng.integers(1, 33, 12)
mask = (np.arange(32)[None] < lengths[:, None]).astype(np.int64)
ids = rng.integers(1, 60, mask.shape) * mask
labels = rng.integers(0, 3, 12)

def course(device, precision):
    model = smhf.Model.from_config(config, seed=5, device=device, precision=precision)
    trainer = smhf.Trainer(model, learning_rate=1e-3, total_steps=20)
    before = model(input_ids=ids, attention_mask=mask)
    losses = [trainer.step(ids, mask, labels)["loss"] for _ in range(4)]
    after = model(input_ids=ids, attention_mask=mask)
    ahead = smhf.Trainer(smhf.Model.from_config(config, seed=5, device=device, precision=precision),
                         learning_rate=1e-3, total_steps=20)
    first = [ahead.submit(ids, mask, labels) for _ in range(4)]
    queued = [r["loss"] for r in first if r is not None] + [r["loss"] for r in ahead.results()]
    last = ahead.model(input_ids=ids, attention_mask=mask)
    same = queued == losses and bool((last == after).all())
    return model.info["backend"], np.array(losses), before, after, same, sum(r is None for r in first)

cpu, cuda, half = course("cpu", "fp32"), course("cuda", "fp32"), course("cuda", "bf16")
auto = smhf.Model.from_config(config, seed=5)
def off(a, b):
    return float(np.abs(a - b).max())
print(json.dumps({
    "names": [cpu[0], cuda[0], half[0], auto.info["backend"]],
    "fp32": [off(cuda[i], cpu[i]) for i in (1, 2, 3)], "bf16": [off(half[i], cpu[i]) for i in (1, 2, 3)],
    "submitted": [run[4] for run in (cpu, cuda, half)], "behind": [run[5] for run in (cpu, cuda, half)],
    "listed": smhf.backends()["cuda"]["available"], "capabilities": sorted(smhf.backends()["cuda"]["capabilities"]),
}))
"""


@pytest.fixture(scope="module")
def environment(
    repo_root: Path, tmp_path_factory: pytest.TempPathFactory, missing: Callable[[str, str], None]
) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("cuda")
    sys.path.insert(0, str(repo_root / "tools"))
    import buildconf

    try:
        subprocess.run([*buildconf.cxx(), "--version"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        missing("cuda", "no C++ compiler")
    plugin = buildconf.build_cuda_host_plugin(folder / "libsmhf_cuda.so")
    (folder / "driver.c").write_text("int smhf_no_driver;\n")
    command = [*shlex.split(os.environ.get("CC", "cc")), "-shared", "-o", str(folder / "libcuda.so.1"), "driver.c"]
    subprocess.run(command, cwd=folder, check=True)
    return os.environ | {"LD_LIBRARY_PATH": str(folder), "SMHF_BACKEND_PATH": str(plugin)}


@pytest.mark.slow
def test_the_same_program_on_cuda(environment: dict[str, str]) -> None:
    command = [sys.executable, "-c", CHILD]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["names"] == ["cpu", "cuda", "cuda", "cuda"]
    assert found["listed"] and {"bf16", "graph"} <= set(found["capabilities"])
    assert found["submitted"] == [True] * 3 and found["behind"] == [0, 2, 2], found
    assert max(found["fp32"]) <= 1e-5, found
    assert 1e-7 < max(found["bf16"]) <= 1e-2, found


@pytest.mark.slow
def test_ordinal_that_is_not_there(environment: dict[str, str]) -> None:
    code = """
import smhf_native as smhf
try:
    smhf.Model.from_config({"model_type": "distilbert", "vocab_size": 9, "dim": 8, "n_heads": 1, "n_layers": 1,
        "hidden_dim": 8, "max_position_embeddings": 8, "num_labels": 2}, device="cuda:7")
except smhf.errors.BackendError as error:
    print(error)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert "cuda:7" in result.stdout and "1 CUDA device" in result.stdout


TROUBLE = """
import sys
import numpy as np
import smhf_native as smhf

config = {"model_type": "distilbert", "vocab_size": 60, "dim": 64, "n_heads": 2, "n_layers": 2, "hidden_dim": 96,
          "max_position_embeddings": 40, "num_labels": 3}
ids, labels = np.full((int(sys.argv[1]), 32), 7), np.zeros(int(sys.argv[1]), int)
model = smhf.Model.from_config(config, seed=5, device="cuda")
trainer = smhf.Trainer(model, total_steps=90)
try:
    for _ in range(50):
        trainer.submit(ids, labels=labels)
        model(input_ids=ids[:2])
except (MemoryError, smhf.errors.BackendError) as error:
    print(type(error).__name__, error)
if sys.argv[2] == "goes on":
    print(trainer.step(ids[:4], labels=labels[:4])["step"])
del trainer, model
print(smhf.Model.from_config(config, seed=5, device="cpu")(input_ids=ids[:2]).shape)
"""


@pytest.mark.slow
def test_out_of_memory_is_an_error_with_numbers(environment: dict[str, str]) -> None:
    command = [sys.executable, "-c", TROUBLE, "4000", "goes on"]
    result = subprocess.run(
        command, env=environment | {"SMHF_CUDA_HOST_MEMORY": "104857600"}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    said, step, shape = result.stdout.splitlines()
    assert said.startswith("MemoryError activations of 128000 tokens in 4000 rows (about "), said
    assert "tokens would fit" in said and "of 100.0 MiB are free" in said
    assert (step, shape) == ("1", "(2, 3)")


@pytest.mark.slow
def test_a_broken_device_does_not_end_python(environment: dict[str, str]) -> None:
    command = [sys.executable, "-c", TROUBLE, "4", "ends"]
    result = subprocess.run(
        command, env=environment | {"SMHF_CUDA_HOST_FAULT": "60"}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    said, shape = result.stdout.splitlines()
    assert said.startswith("BackendError ") and "an illegal memory access" in said, said
    assert shape == "(2, 3)"


def test_auto_warns_where_a_gpu_is_left_unused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "no cuda driver: too old"
    monkeypatch.delenv("SMHF_DEVICE", raising=False)
    monkeypatch.setattr(backends_module, "backends", lambda: {"cuda": {"available": False, "reason": reason}})
    monkeypatch.setattr(backends_module, "_NVIDIA", tmp_path / "absent")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backends_module.warn_of_fallback("auto", "cpu")  # no device: nothing to say
        monkeypatch.setattr(backends_module, "_NVIDIA", tmp_path)
        backends_module.warn_of_fallback("cpu", "cpu")
        backends_module.warn_of_fallback("auto", "cuda")
    with pytest.warns(RuntimeWarning, match="too old"):
        backends_module.warn_of_fallback("auto", "cpu")
