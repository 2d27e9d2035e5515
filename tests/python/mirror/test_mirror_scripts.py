"""Scripts as they are found: the seed's train.py and the imports of others, without torch."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smhf_native.convert import write_safetensors

START = """
import runpy, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "tokenizers", "pyarrow", "accelerate"):
            raise ModuleNotFoundError("No module named %r (planted)" % name, name=name)
sys.meta_path.insert(0, Absent())
from smhf_native import mirrors
mirrors.activate(("transformers", "datasets"), announce=False)
script, sys.argv = sys.argv[1], sys.argv[1:]
runpy.run_path(script, run_name="__main__")
"""


def run(script: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(part for part in sys.path if part)
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", START, str(script), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path, **environment},
    )


@pytest.fixture
def headless(tiny_model: Path, tmp_path: Path) -> Path:
    """The small model as a hub checkpoint without a classification head, and without labels."""
    folder = tmp_path / "headless"
    folder.mkdir()
    data = (tiny_model / "model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__" and "classifier" not in name:
            start, stop = (8 + size + offset for offset in entry["data_offsets"])
            tensors[name] = ("F32", np.frombuffer(data[start:stop], "<f4").reshape(entry["shape"]))
    write_safetensors(folder / "model.safetensors", tensors, {"format": "pt"})
    config = json.loads((tiny_model / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if "label" not in k}))
    (folder / "vocab.txt").write_bytes((tiny_model / "vocab.txt").read_bytes())
    return folder


@pytest.fixture
def job(tmp_path: Path, reviews: dict[str, Path]) -> dict[str, str]:
    for name in ("train", "test", "out", "model"):
        (tmp_path / name).mkdir()
    (tmp_path / "train" / "train.csv").write_bytes(reviews["train"].read_bytes())
    (tmp_path / "test" / "validate.csv").write_bytes(reviews["validate"].read_bytes())
    return {
        "SM_OUTPUT_DATA_DIR": str(tmp_path / "out"),
        "SM_MODEL_DIR": str(tmp_path / "model"),
        "SM_NUM_GPUS": "0",
        "SM_CHANNEL_TRAIN": str(tmp_path / "train"),
        "SM_CHANNEL_TEST": str(tmp_path / "test"),
    }


def test_the_seed_script_runs_unchanged_and_resumes(
    seed_folder: Path, headless: Path, job: dict[str, str], tmp_path: Path
) -> None:
    pytest.importorskip("sklearn")
    arguments = ("--epochs", "1", "--model_name", str(headless), "--train_batch_size", "32")
    arguments += ("--output_dir", str(tmp_path / "checkpoints"))
    first = run(seed_folder / "src/train.py", *arguments, **job)
    assert first.returncode == 0, first.stderr
    assert "newly initialized" in first.stderr and "classifier.weight" in first.stderr
    metrics = [
        line
        for line in first.stdout.splitlines()
        if re.match(r"\{'eval_loss': [0-9.]+, 'eval_accuracy'", line)
    ]
    assert len(metrics) == 2 and "'epoch': 1.0}" in metrics[0]
    results = dict(line.split(" = ") for line in (tmp_path / "out/eval_results.txt").read_text().splitlines())
    assert {"eval_loss", "eval_accuracy", "eval_f1", "eval_precision", "eval_recall", "epoch"} <= set(results)
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert {"config.json", "model.safetensors", "vocab.txt", "tokenizer_config.json"} <= names
    again = run(seed_folder / "src/train.py", *arguments[:1], "2", *arguments[2:], **job)
    assert again.returncode == 0 and "continue training" in again.stdout, again.stderr
    assert "'epoch': 2.0}" in again.stdout and (tmp_path / "checkpoints/checkpoint-4").is_dir()


def test_a_label_outside_the_model_stops_the_seed_script(
    seed_folder: Path, headless: Path, job: dict[str, str], tmp_path: Path
) -> None:
    pytest.importorskip("sklearn")
    with open(tmp_path / "train" / "train.csv", "a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerow(["six stars", 5])
    done = run(
        seed_folder / "src/train.py",
        "--model_name",
        str(headless),
        "--output_dir",
        str(tmp_path / "c"),
        **job,
    )
    assert done.returncode == 1
    assert "the label of row 64 is 5; the model has num_labels=5: 0 to 4" in done.stderr


IMPORTS = """
import datasets, transformers
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value, concatenate_datasets, load_dataset
from datasets.arrow_dataset import Dataset as Deep
from datasets.dataset_dict import DatasetDict as DeepDict
from transformers import (AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, BertTokenizerFast,
    DataCollatorWithPadding, DistilBertForSequenceClassification, DistilBertTokenizerFast, EarlyStoppingCallback,
    EvalPrediction, IntervalStrategy, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments,
    default_data_collator, logging, pipeline, set_seed)
from transformers.data.data_collator import DataCollatorWithPadding as DeepCollator
from transformers.trainer_callback import TrainerCallback as DeepCallback
from transformers.trainer_utils import PredictionOutput, SchedulerType, get_last_checkpoint
from transformers.utils import check_min_version
from transformers.utils.logging import set_verbosity_info
datasets.utils.logging.set_verbosity_error()
transformers.utils.logging.set_verbosity_error()
assert Deep is Dataset and DeepDict is DatasetDict and DeepCollator is DataCollatorWithPadding
assert issubclass(EarlyStoppingCallback, DeepCallback)
logging.get_logger("transformers").warning("hidden")
try:
    from transformers import LlamaForCausalLM
except ImportError as error:
    print(error)
"""


def test_names_are_where_scripts_look_for_them(tmp_path: Path) -> None:
    (tmp_path / "names.py").write_text(IMPORTS)
    done = run(tmp_path / "names.py")
    assert done.returncode == 0, done.stderr
    assert "LlamaForCausalLM" in done.stdout and done.stderr == ""


def test_importing_the_mirrors_prints_nothing_and_touches_no_root_logger() -> None:
    code = (
        "import logging, smhf_native.transformers.trainer, smhf_native.datasets\n"
        "assert logging.getLogger().handlers == [] and logging.getLogger().level == logging.WARNING\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    done: Any = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=environment)
    assert done.stdout == b"" and done.stderr == b""
