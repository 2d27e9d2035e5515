"""Full-size DistilBERT on this machine: inference and one training step, ours and PyTorch's in the same run.

    python benchmarks/bench_model.py [--rows 8] [--columns 128] [--repeat 5] [--json FILE]

Sides alternate and the best time of each counts, so that a busy machine hurts both alike.  Ratios above
1 mean that ours is faster.  "RL" is a batch of realistic short texts (log-normal lengths, median 20)
padded to its longest row: PyTorch computes the padding, ours does not.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from smhf_native.model import Model, Trainer, backends

CONFIG = {
    "model_type": "distilbert", "vocab_size": 30522, "dim": 768, "n_heads": 12, "n_layers": 6, "hidden_dim": 3072,
    "max_position_embeddings": 512, "id2label": {str(i): f"LABEL_{i}" for i in range(5)},
}  # fmt: skip
PER_TOKEN, PER_PAIR = 84.93e6, 18432.0  # FLOPs of a forward pass: a token; a token and key


def batch(rows: int, columns: int, short: bool) -> dict[str, np.ndarray]:
    """Ids, mask and labels; `short` draws realistic lengths."""
    rng = np.random.default_rng(1)
    lengths = np.full(rows, columns)
    if short:
        lengths = np.clip(rng.lognormal(np.log(20), 0.95, rows).astype(int), 3, columns)
    mask = (np.arange(lengths.max())[None] < lengths[:, None]).astype(np.int64)
    ids = rng.integers(1000, 30000, mask.shape) * mask
    return {"input_ids": ids, "attention_mask": mask, "labels": rng.integers(0, 5, rows)}


def flops(inputs: dict[str, np.ndarray]) -> float:
    """Of a forward pass over real tokens, the whole last layer counted."""
    lengths = inputs["attention_mask"].sum(1).astype(float)
    return float(PER_TOKEN * lengths.sum() + PER_PAIR * (lengths**2).sum())


def torch_side(folder: str) -> tuple[Callable[..., Any], Callable[..., Any]] | None:
    """Forward and training step of the same weights in PyTorch, or None."""
    try:
        import torch
        from transformers import AutoModelForSequenceClassification
    except ImportError:
        return None
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, fused=True)

    def forward(inputs: dict[str, np.ndarray]) -> None:
        model.eval()
        with torch.inference_mode():
            model(
                input_ids=torch.tensor(inputs["input_ids"]),
                attention_mask=torch.tensor(inputs["attention_mask"]),
            )

    def train(inputs: dict[str, np.ndarray]) -> None:
        model.train()
        model(**{key: torch.tensor(value) for key, value in inputs.items()}).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return forward, train


def best_of(sides: list[Callable[[], Any]], repeat: int) -> list[float]:
    """Seconds of each side, in turn, the best of `repeat` after one warm-up."""
    best = [float("inf")] * len(sides)
    for round_ in range(repeat + 1):
        for i, side in enumerate(sides):
            start = time.perf_counter()
            side()
            if round_ > 0:
                best[i] = min(best[i], time.perf_counter() - start)
    return best


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--columns", type=int, default=128)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json")
    args = parser.parse_args()
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        model = Model.from_config(CONFIG)
        model.save_pretrained(folder)
        theirs = torch_side(folder)
    trainer = Trainer(model, total_steps=10**6)
    print(f"{'case':<22}{'ours s':>9}{'GFLOP/s':>9}{'torch s':>9}{'ratio':>7}")
    for name, short in ((f"{args.rows}x{args.columns}", False), (f"{4 * args.rows} RL", True)):
        inputs = batch(4 * args.rows if short else args.rows, args.columns, short)
        arrays = {key: inputs[key] for key in ("input_ids", "attention_mask")}
        cases = [
            (f"forward {name}", 1.0, lambda a=arrays: model(**a), 0),
            (f"training step {name}", 3.0, lambda i=inputs: trainer.step(**i), 1),
        ]
        for case, factor, ours, which in cases:
            sides = [ours]
            if theirs is not None:
                sides.append(lambda i=inputs, w=which: theirs[w](i))
            seconds = best_of(sides, args.repeat)
            rate = factor * flops(inputs) / seconds[0] / 1e9
            row = {"case": case, "ours_s": seconds[0], "gflops": rate}
            text = f"{case:<22}{seconds[0]:>9.3f}{rate:>9.0f}"
            if len(seconds) == 2:
                row |= {"torch_s": seconds[1], "ratio": seconds[1] / seconds[0]}
                text += f"{seconds[1]:>9.3f}{row['ratio']:>7.2f}"
            print(text)
            results.append(row)
    if args.json:
        record = {
            "machine": platform.processor() or platform.machine(),
            "cpu": backends()["cpu"],
            "results": results,
        }
        with open(args.json, "w", encoding="utf-8") as stream:
            json.dump(record, stream, indent=1)


if __name__ == "__main__":
    main()
