"""Make the golden files of tests/golden with the reference libraries (torch, transformers).

    python tools/make_golden.py [--out tests/golden] [model]

Tests read the files without these libraries.  Every file is a safetensors file whose metadata
holds ``magic``, ``version`` and ``generator``; tests/golden/README.md says what is inside.
The files are a function of the seeds below and of the library versions named in ``generator``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
)

ROOT = Path(__file__).resolve().parent.parent
MAGIC, VERSION = "smhf-golden", "1"
ROWS, COLUMNS, STEPS = 6, 17, 20
# What the twenty steps are trained with; repeated in the metadata for the readers.
TRAINING = {
    "learning_rate": 5e-3,
    "beta1": 0.9,
    "beta2": 0.999,
    "eps": 1e-8,
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
    "warmup_steps": 3,
    "total_steps": 25,
}


def toy_distilbert() -> torch.nn.Module:
    """Two layers of 32, weights large enough that attention is far from uniform."""
    config = DistilBertConfig(
        vocab_size=97, dim=32, n_heads=4, n_layers=2, hidden_dim=64, max_position_embeddings=40,
        num_labels=5, initializer_range=0.12, dropout=0.0, attention_dropout=0.0,
        seq_classif_dropout=0.0, attn_implementation="eager",
    )  # fmt: skip
    return DistilBertForSequenceClassification(config)


def toy_bert() -> torch.nn.Module:
    """Two layers of 24 (not a multiple of a vector), token types, pooler."""
    config = BertConfig(
        vocab_size=61, hidden_size=24, num_attention_heads=3, num_hidden_layers=2, intermediate_size=40,
        max_position_embeddings=32, num_labels=3, initializer_range=0.12, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, classifier_dropout=0.0, attn_implementation="eager",
    )  # fmt: skip
    return BertForSequenceClassification(config)


def shake(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Give biases and LayerNorms values of their own: zeros and ones hide mistakes."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
            elif name.endswith("word_embeddings.weight"):
                parameter[0].zero_()


def make_batch(config: Any, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Padded ids of random lengths (one row full, one of a single token), mask, types, labels."""
    vocab = config.vocab_size
    ids = torch.randint(1, vocab, (ROWS, COLUMNS), generator=generator)
    lengths = torch.randint(2, COLUMNS, (ROWS,), generator=generator)
    lengths[0], lengths[1] = COLUMNS, 1
    mask = (torch.arange(COLUMNS)[None, :] < lengths[:, None]).long()
    types = (torch.arange(COLUMNS)[None, :] >= (lengths[:, None] + 1) // 2).long() * mask
    labels = ids[:, 0] % config.num_labels  # something to learn
    return {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": types, "labels": labels}


def arguments(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What the model's forward takes of a batch."""
    drop = set() if isinstance(model, BertForSequenceClassification) else {"token_type_ids"}
    return {key: value for key, value in batch.items() if key not in drop}


def factor(step: int) -> float:
    """Linear warm-up and decay of transformers' Trainer."""
    warmup, total = TRAINING["warmup_steps"], TRAINING["total_steps"]
    if step < warmup:
        return step / max(1, warmup)
    return max(0.0, (total - step) / max(1, total - warmup))


def train(model: torch.nn.Module, batches: list[dict[str, torch.Tensor]]) -> list[float]:
    """Twenty steps of torch.optim.AdamW with the Trainer's parameter groups; losses."""
    decays = [p for n, p in model.named_parameters() if p.ndim == 2]
    rest = [p for n, p in model.named_parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decays, "weight_decay": TRAINING["weight_decay"]}, {"params": rest, "weight_decay": 0.0}],
        lr=TRAINING["learning_rate"], betas=(TRAINING["beta1"], TRAINING["beta2"]), eps=TRAINING["eps"],
    )  # fmt: skip
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    losses = []
    model.train()
    for batch in batches:
        loss = model(**arguments(model, batch)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), TRAINING["max_grad_norm"])
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def make_model(name: str, model: torch.nn.Module, out: Path) -> None:
    """Write one toy model's folder: the model as transformers saves it, and case.safetensors."""
    generator = torch.Generator().manual_seed(20211)
    shake(model, generator)
    folder = out / name
    model.save_pretrained(folder)
    config = model.config
    case = make_batch(config, generator)
    batches = [make_batch(config, generator) for _ in range(STEPS)]
    tensors: dict[str, torch.Tensor] = {key: value.int() for key, value in case.items()}
    for key in case:
        tensors[f"train.{key}"] = torch.stack([batch[key] for batch in batches]).int()

    state = {key: value.clone() for key, value in model.state_dict().items()}
    for suffix, dtype in (("64", torch.float64), ("32", torch.float32)):
        model.load_state_dict(state)
        model.to(dtype)
        model.train()
        result = model(**arguments(model, case))
        result.loss.backward()
        tensors[f"logits{suffix}"] = result.logits.detach().clone()
        tensors[f"loss{suffix}"] = result.loss.detach().reshape(1).clone()
        for parameter_name, parameter in model.named_parameters():
            tensors[f"grad{suffix}.{parameter_name}"] = parameter.grad.detach().clone()
        model.zero_grad()
        losses = train(model, batches)
        tensors[f"losses{suffix}"] = torch.tensor(losses, dtype=torch.float64)
        if suffix == "64":
            for parameter_name, parameter in model.named_parameters():
                tensors[f"final64.{parameter_name}"] = parameter.detach().float().clone()
    metadata = {
        "magic": MAGIC,
        "version": VERSION,
        "generator": f"tools/make_golden.py (torch {torch.__version__.split('+')[0]}, "
        f"transformers {transformers.__version__})",
        "training": json.dumps(TRAINING, sort_keys=True),
    }
    save_file(
        {key: value.contiguous() for key, value in tensors.items()}, folder / "case.safetensors", metadata
    )
    print(f"{folder}: losses {losses[0]:.4f} .. {losses[-1]:.4f}")


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "tests" / "golden")
    parser.add_argument("kinds", nargs="*", default=["model"])
    args = parser.parse_args()
    if "model" in args.kinds:
        for name, make in (("distilbert", toy_distilbert), ("bert", toy_bert)):
            torch.manual_seed(20210)
            make_model(name, make(), args.out / "model")
    return 0


if __name__ == "__main__":
    sys.exit(main())
