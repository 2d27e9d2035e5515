"""Everything that the published page needs to run: data, store, a hub cache, an own training script."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

REVISION = "0123456789abcdef0123456789abcdef01234567"
PREFIX = "sagemaker_huggingface_workshop"

OWN_SCRIPT = '''"""A second script for the page: callbacks, eval_strategy and dynamic padding."""

import argparse
import os

from datasets import load_dataset
from sklearn.metrics import accuracy_score
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)


class Announce(TrainerCallback):
    def on_epoch_end(self, args, state, control, **kwargs):
        print(f"epoch {state.epoch:.0f} is over after {state.global_step} steps")


parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=1)
parser.add_argument("--train_batch_size", type=int, default=32)
parser.add_argument("--model_name")
args = parser.parse_args()
data = load_dataset(
    "csv",
    data_files={
        "train": os.environ["SM_CHANNEL_TRAIN"] + "/train.csv",
        "test": os.environ["SM_CHANNEL_TEST"] + "/validate.csv",
    },
)
third = max(1, len(data["train"]) // args.train_batch_size // 3)
tokenizer = AutoTokenizer.from_pretrained(args.model_name)
data = data.map(lambda batch: tokenizer(batch["text"], truncation=True, max_length=128), batched=True)
trainer = Trainer(
    model=AutoModelForSequenceClassification.from_pretrained(args.model_name, num_labels=5),
    args=TrainingArguments(
        output_dir="/opt/ml/checkpoints",
        num_train_epochs=args.epochs,
        per_device_train_batch_size=args.train_batch_size,
        per_device_eval_batch_size=64,
        eval_strategy="steps",
        eval_steps=third,
        logging_steps=3 * third,
        save_strategy="no",
        report_to="none",
    ),
    train_dataset=data["train"],
    eval_dataset=data["test"],
    processing_class=tokenizer,
    data_collator=DataCollatorWithPadding(tokenizer),
    compute_metrics=lambda p: {"accuracy": accuracy_score(p.label_ids, p.predictions.argmax(-1))},
    callbacks=[Announce()],
)
trainer.train()
trainer.save_model(os.environ["SM_MODEL_DIR"])
'''


def write_safetensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """The format by hand: header length, JSON header, bytes."""
    header, offset = {}, 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(np.ascontiguousarray(tensor, dtype="<f4").tobytes())


def masked_lm_weights(dim: int, layers: int, hidden: int, vocab: int, seed: int) -> dict[str, np.ndarray]:
    """Random weights under the names of a distilbert masked-LM checkpoint."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape, dtype=np.float32) * np.float32(0.02)).astype(np.float32)

    tensors = {
        "distilbert.embeddings.word_embeddings.weight": normal(vocab, dim),
        "distilbert.embeddings.position_embeddings.weight": normal(512, dim),
        "distilbert.embeddings.LayerNorm.weight": np.ones(dim, np.float32),
        "distilbert.embeddings.LayerNorm.bias": np.zeros(dim, np.float32),
    }
    for layer in range(layers):
        base = f"distilbert.transformer.layer.{layer}"
        for name in ("q_lin", "k_lin", "v_lin", "out_lin"):
            tensors[f"{base}.attention.{name}.weight"] = normal(dim, dim)
            tensors[f"{base}.attention.{name}.bias"] = np.zeros(dim, np.float32)
        for name, rows, columns in (("lin1", hidden, dim), ("lin2", dim, hidden)):
            tensors[f"{base}.ffn.{name}.weight"] = normal(rows, columns)
            tensors[f"{base}.ffn.{name}.bias"] = np.zeros(rows, np.float32)
        for name in ("sa_layer_norm", "output_layer_norm"):
            tensors[f"{base}.{name}.weight"] = np.ones(dim, np.float32)
            tensors[f"{base}.{name}.bias"] = np.zeros(dim, np.float32)
    tensors["vocab_transform.weight"] = normal(dim, dim)
    tensors["vocab_transform.bias"] = np.zeros(dim, np.float32)
    tensors["vocab_layer_norm.weight"] = np.ones(dim, np.float32)
    tensors["vocab_layer_norm.bias"] = np.zeros(dim, np.float32)
    tensors["vocab_projector.bias"] = np.zeros(vocab, np.float32)
    return tensors


def build_hub_cache(hf_home: Path, vocab: Path, *, full_size: bool) -> None:
    """``distilbert-base-uncased`` in the hub's cache layout: 66 M parameters, or a small one."""
    dim, layers, heads, hidden = (768, 6, 12, 3072) if full_size else (64, 2, 4, 128)
    snapshot = hf_home / "hub" / "models--distilbert-base-uncased" / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text(REVISION)
    words = len((vocab / "vocab.txt").read_text(encoding="utf-8").splitlines())
    config = {
        "activation": "gelu", "architectures": ["DistilBertForMaskedLM"], "attention_dropout": 0.1, "dim": dim,
        "dropout": 0.1, "hidden_dim": hidden, "initializer_range": 0.02, "max_position_embeddings": 512,
        "model_type": "distilbert", "n_heads": heads, "n_layers": layers, "pad_token_id": 0, "qa_dropout": 0.1,
        "seq_classif_dropout": 0.2, "sinusoidal_pos_embds": False, "tie_weights_": True, "vocab_size": words,
    }  # fmt: skip
    (snapshot / "config.json").write_text(json.dumps(config))
    (snapshot / "tokenizer_config.json").write_text(
        json.dumps({"do_lower_case": True, "model_max_length": 512})
    )
    shutil.copy(vocab / "vocab.txt", snapshot / "vocab.txt")
    shutil.copy(vocab / "tokenizer.json", snapshot / "tokenizer.json")
    write_safetensors(snapshot / "model.safetensors", masked_lm_weights(dim, layers, hidden, words, seed=7))


def copy_rows(source: Path, target: Path, first: int, count: int) -> None:
    """Rows [first, first + count) of a CSV, requoted by the csv module."""
    with source.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    with target.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([rows[0], *rows[1 + first : 1 + first + count]])


@dataclass
class Page:
    """One prepared run of the page."""

    page: Path
    work: Path
    home: Path
    hf_home: Path
    output: Path
    repo: Path

    def environment(self, extra: dict[str, str] | None = None) -> dict[str, str]:
        """No AWS settings, own home, the checkout's package."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "SMHF_", "HF_", "SM_"))}
        return {
            **kept, "SMHF_HOME": str(self.home), "HF_HOME": str(self.hf_home), "HOME": str(self.work),
            "PYTHONPATH": str(self.repo), "PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1", **(extra or {}),
        }  # fmt: skip

    def python(self, code: str, **options: object) -> subprocess.CompletedProcess[str]:
        """Run code in the work folder with the page's environment."""
        command = [sys.executable, "-c", code]
        return subprocess.run(
            command,
            cwd=self.work,
            env=self.environment(),
            text=True,
            capture_output=True,
            check=False,
            **options,
        )  # type: ignore[call-overload, no-any-return]

    def run(self, **options: object) -> subprocess.CompletedProcess[str]:
        """``smhf run PAGE --cwd WORK --output OUT``."""
        command = [
            sys.executable, "-m", "smhf_native.cli", "run", str(self.page), "--cwd", str(self.work),
            "--output", str(self.output),
        ]  # fmt: skip
        return subprocess.run(
            command,
            cwd=self.work,
            env=self.environment(),
            text=True,
            capture_output=True,
            check=False,
            **options,
        )  # type: ignore[call-overload, no-any-return]


def prepare(
    folder: Path,
    repo: Path,
    seed: Path,
    data: Path,
    *,
    own_script: bool,
    full_size: bool,
    rows: tuple[int, int, int],
) -> Page:
    """Lay out WORK (script, data/test.csv), the hub cache, and fill the store through upload_data."""
    work, home, hf_home = folder / "work", folder / "home", folder / "hf"
    (work / "src").mkdir(parents=True)
    (work / "data").mkdir()
    home.mkdir()
    if own_script:
        (work / "src" / "train.py").write_text(OWN_SCRIPT)
    else:
        shutil.copy(seed / "src" / "train.py", work / "src" / "train.py")
    reviews = data / "reviews"
    upload = work / "upload"
    upload.mkdir()
    copy_rows(reviews / "train.csv", upload / "train.csv", 0, rows[0])
    copy_rows(reviews / "validate.csv", upload / "validate.csv", 0, rows[1])
    copy_rows(reviews / "train.csv", work / "data" / "test.csv", rows[0], rows[2])
    build_hub_cache(hf_home, data / "vocab" / "bert-base-uncased", full_size=full_size)
    return Page(seed / "2_finetune_deploy_huggingface.md", work, home, hf_home, folder / "OUT.ipynb", repo)


FILL_STORE = f"""
import smhf_native.compat, sagemaker
session = sagemaker.Session()
print(session.upload_data(path="upload", key_prefix="{PREFIX}/data"))
"""
