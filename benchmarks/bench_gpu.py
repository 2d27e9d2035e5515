"""Full-size DistilBERT on one GPU beside its peers, in one run: the goals G1-G5, G10 and G11 as a table.

    python benchmarks/bench_gpu.py [--seconds 240] [--markdown FILE] [--json FILE]

Ours: ``device="cuda"``, bf16 with fp32 master weights. Peers, where torch with CUDA and transformers are
installed: transformers eager in bf16 with SDPA; ``torch.compile`` (max-autotune for throughput,
reduce-overhead, with CUDA graphs, for latency); training with fused AdamW. Each figure is the median of
repeated calls after warming up, host arrays in, host arrays out; training also by steps that nobody
waits for (``Trainer.submit``). The matmul peak is measured in the same run (largest rate of three square
bf16 products), and MFU counts FLOPs of real tokens only, the whole last layer included. What is not
measured says why: nothing here is an estimate. The file is written after each figure, ours first and
torch.compile last, so a run that is stopped has kept what it measured.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import smhf_native
from smhf_native.model import Model, Trainer

CONFIG = {
    "model_type": "distilbert", "vocab_size": 30522, "dim": 768, "n_heads": 12, "n_layers": 6, "hidden_dim": 3072,
    "max_position_embeddings": 512, "id2label": {str(i): f"LABEL_{i}" for i in range(2)},
}  # fmt: skip
PER_TOKEN, PER_PAIR = 84.93e6, 18432.0  # FLOPs of a forward pass: a token; a token and key
PEERS = ("HF eager", "torch.compile")


@dataclass
class Row:
    """One line of the table."""

    goal: str
    what: str
    unit: str
    must: str
    ours: float | None = None
    queued: float | None = None  # a step that nobody waits for
    peers: dict[str, float] = field(default_factory=dict)
    flops: float = 0.0
    why: str = ""

    def cells(self, peak: float | None, reason: str) -> list[str]:
        """Markdown cells."""
        ours = f"not measured: {self.why or reason or 'the run was stopped before'}"
        if self.ours is not None:
            ours = f"{self.ours:.4g} {self.unit}"
            ours += f" ({self.queued:.4g} queued)" if self.queued is not None else ""
        share = "-"
        if self.ours is not None and self.flops and peak:
            share = f"{100 * self.flops / (self.ours * 1e-3) / peak:.1f} %"
        peers = []
        for name in PEERS:
            if name in self.peers and self.ours is not None:
                peers.append(f"{self.peers[name]:.4g} {self.unit} ({self.peers[name] / self.ours:.2f}x)")
            else:
                peers.append("not measured")
        return [self.goal, self.what, ours, share, *peers, self.must]


def lengths_of(rows: int, columns: int, short: bool, seed: int = 1) -> np.ndarray:
    """Fixed, or log-normal with median 20, cut at `columns`."""
    if not short:
        return np.full(rows, columns)
    rng = np.random.default_rng(seed)
    return np.clip(rng.lognormal(np.log(20), 0.95, rows).astype(int), 3, columns)


def batch(lengths: np.ndarray) -> dict[str, np.ndarray]:
    """Ids, mask and labels of rows of these lengths, padded to the longest."""
    rng = np.random.default_rng(2)
    mask = (np.arange(lengths.max())[None] < lengths[:, None]).astype(np.int64)
    ids = rng.integers(1000, 30000, mask.shape) * mask
    return {"input_ids": ids, "attention_mask": mask, "labels": rng.integers(0, 2, len(lengths))}


def forward_flops(lengths: np.ndarray) -> float:
    """Of a forward pass over real tokens."""
    n = lengths.astype(float)
    return float(PER_TOKEN * n.sum() + PER_PAIR * (n**2).sum())


def median_ms(call: Callable[[], Any], budget: float) -> float:
    """Median of repeated calls, at least 5, within about `budget` seconds."""
    for _ in range(3):
        call()
    times: list[float] = []
    end = time.perf_counter() + budget
    while len(times) < 5 or (time.perf_counter() < end and len(times) < 300):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


class TorchSide:
    """The peers, on the same weights."""

    def __init__(self, folder: str) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification

        if not torch.cuda.is_available():
            raise RuntimeError("torch sees no CUDA device")
        self.torch = torch
        self.folder = folder
        self.load = AutoModelForSequenceClassification.from_pretrained
        self.model = self.load(folder, dtype=torch.bfloat16, attn_implementation="sdpa").cuda().eval()

    def peak(self) -> float:
        """The largest rate of three square bf16 products, FLOP/s."""
        torch, best = self.torch, 0.0
        for n in (4096, 8192, 12288):
            a = torch.randn(n, n, device="cuda", dtype=torch.bfloat16)
            b = torch.randn(n, n, device="cuda", dtype=torch.bfloat16)

            def product(a: Any = a, b: Any = b) -> None:
                torch.matmul(a, b)
                torch.cuda.synchronize()

            best = max(best, 2.0 * n**3 / (median_ms(product, 1.0) * 1e-3))
        return best

    def forward(self, inputs: dict[str, np.ndarray], mode: str | None) -> Callable[[], Any]:
        """Host arrays in, host logits out; `mode` of torch.compile or None."""
        torch = self.torch
        model = torch.compile(self.model, mode=mode, dynamic=False) if mode else self.model
        ids, mask = (torch.from_numpy(inputs[k]).pin_memory() for k in ("input_ids", "attention_mask"))

        def call() -> Any:
            with torch.inference_mode():
                on = {
                    "input_ids": ids.cuda(non_blocking=True),
                    "attention_mask": mask.cuda(non_blocking=True),
                }
                return model(**on).logits.float().cpu()

        return call

    def train(self, inputs: dict[str, np.ndarray], mode: str | None) -> Callable[[], Any]:
        """One step: autocast bf16, clip, fused AdamW over fp32 weights."""
        torch = self.torch
        model = self.load(self.folder, attn_implementation="sdpa").cuda().train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, fused=True)
        run = torch.compile(model, mode=mode, dynamic=False) if mode else model
        on = {k: torch.from_numpy(v).cuda() for k, v in inputs.items()}

        def call() -> float:
            with torch.autocast("cuda", dtype=torch.bfloat16):
                loss = run(**on).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return float(loss)

        return call


def plan() -> list[tuple[Row, np.ndarray, bool, str | None]]:
    """Row, lengths, training?, mode of torch.compile."""
    fixed, latency = "max-autotune", "reduce-overhead"
    table = [
        ("G2", "inference F128, 32 rows", lengths_of(32, 128, False), False, fixed, ">= 1.2x compile, 50 % MFU"),
        ("G2", "inference F128, 264 rows", lengths_of(264, 128, False), False, fixed, ">= 1.2x compile, 60 % MFU"),
        ("G3", "latency, 1 row of 32", lengths_of(1, 32, False), False, latency, "<= 0.13 ms, >= 1.6x compile"),
        ("G3", "latency, 1 row of 128", lengths_of(1, 128, False), False, latency, "<= 0.13 ms, >= 1.6x compile"),
        ("G1", "inference, real lengths, 256 rows", lengths_of(256, 512, True), False, None, ">= 4x HF"),
        ("G4", "training step F128, 32 rows", lengths_of(32, 128, False), True, fixed, "<= 2.9 ms, >= 1.25x compile"),
        ("G5", "training step, real lengths, 32 rows", lengths_of(32, 512, True), True, None, "<= 1.25 ms, >= 5x HF"),
        ("G5", "training step, real lengths, 256 rows", lengths_of(256, 512, True), True, None, ">= 4x HF"),
    ]  # fmt: skip
    rows = []
    for goal, what, lengths, training, mode, must in table:
        work = forward_flops(lengths) * (3.0 if training else 1.0)
        rows.append((Row(goal, what, "ms", must, flops=work), lengths, training, mode))
    return rows


def ours_forward(model: Model, inputs: dict[str, np.ndarray]) -> Callable[[], Any]:
    """Padded host arrays in, logits out."""
    return lambda: model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])


def ours_train(folder: str, inputs: dict[str, np.ndarray]) -> Callable[[], Any]:
    """One whole step."""
    model = Model.from_pretrained(folder, device="cuda", precision="bf16")
    trainer = Trainer(model, learning_rate=5e-5, total_steps=100000, max_grad_norm=1.0)
    return lambda: trainer.step(inputs["input_ids"], inputs["attention_mask"], inputs["labels"])


def ours_queued(folder: str, inputs: dict[str, np.ndarray]) -> float:
    """Milliseconds a step of many that are queued without waiting."""
    model = Model.from_pretrained(folder, device="cuda", precision="bf16")
    trainer = Trainer(model, learning_rate=5e-5, total_steps=100000, max_grad_norm=1.0)
    times = []
    for count in (8, 40, 40, 40):
        start = time.perf_counter()
        for _ in range(count):
            trainer.submit(inputs["input_ids"], inputs["attention_mask"], inputs["labels"])
        trainer.results()
        times.append((time.perf_counter() - start) * 1e3 / count)
    return statistics.median(times[1:])


def free_mib() -> float:
    """Free memory of the device."""
    return float(smhf_native.backends()["cuda"]["memory_free"]) / 2**20


def training_memory(row: Row, folder: str, inputs: dict[str, np.ndarray], torch_side: TorchSide | None) -> None:
    """What one training set-up adds after three steps: ours by the device's free memory, HF by its allocator."""
    before = free_mib()
    step = ours_train(folder, inputs)
    for _ in range(3):
        step()
    row.ours = before - free_mib()
    del step
    if torch_side is not None:
        cuda = torch_side.torch.cuda
        cuda.empty_cache()
        cuda.reset_peak_memory_stats()
        base = cuda.memory_allocated()
        theirs = torch_side.train(inputs, None)
        for _ in range(3):
            theirs()
        row.peers["HF eager"] = (cuda.max_memory_allocated() - base) / 2**20


COLD = """
import sys, time
start = time.perf_counter()
import numpy as np
from smhf_native.model import Model
model = Model.from_pretrained(sys.argv[1], device="cuda", precision="bf16")
model(input_ids=np.full((1, 32), 2000), attention_mask=np.ones((1, 32), dtype=np.int64))
print(time.perf_counter() - start)
"""


def cold_start(folder: str) -> float:
    """Seconds from the first import to the first label, the better of two new processes."""
    times = []
    for _ in range(2):
        command = [sys.executable, "-c", COLD, folder]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
        times.append(float(done.stdout))
    return min(times)


# Our own ways, one process each; the default measures products once for each shape.
WAYS = (
    ("graphs off", {"SMHF_REPLAY": "0"}),
    ("cuBLASLt and passes", {"SMHF_CUDA_GEMM": "lt"}),
    ("own products", {"SMHF_CUDA_GEMM": "own"}),
    ("own products for Hopper", {"SMHF_CUDA_GEMM": "own", "SMHF_CUDA_SM90A": "1"}),
    ("the faster, Hopper's too", {"SMHF_CUDA_SM90A": "1"}),
)
WAY = """
import sys
sys.path.insert(0, sys.argv[2])
import bench_gpu as b
model = b.Model.from_pretrained(sys.argv[1], device="cuda", precision="bf16")
many, one = b.batch(b.lengths_of(32, 128, False)), b.batch(b.lengths_of(1, 32, False))
print(b.median_ms(b.ours_forward(model, many), 1.0), b.median_ms(b.ours_forward(model, one), 1.0),
      b.median_ms(b.ours_train(sys.argv[1], many), 1.0))
"""


def compare_ways(folder: str | None, reason: str) -> list[str]:
    """Lines of a table: inference and training F128 of 32 rows, and one row of 32, by way."""
    lines = ["", "| our way, ms | F128 32 rows | 1 row of 32 | training step F128 32 rows |", "|---|---|---|---|"]
    for name, settings in WAYS:
        cells = [f"not measured: {reason}", "not measured", "not measured"]
        if folder is not None:
            command = [sys.executable, "-c", WAY, folder, os.path.dirname(os.path.abspath(__file__))]
            env = {**os.environ, **settings}
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
            said = done.stderr.strip().splitlines()
            cells = (
                [f"{float(ms):.4g}" for ms in done.stdout.split()]
                if done.returncode == 0
                else [f"failed: {said[-1] if said else done.returncode}", "", ""]
            )
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


class Table:
    """Everything that is measured, and the file it is written to after each figure."""

    def __init__(self, cuda: dict[str, Any], markdown: str | None) -> None:
        self.cuda, self.markdown = cuda, markdown
        self.reason = "" if cuda["available"] else str(cuda["reason"])
        self.plan = plan()
        self.memory = Row("G10", "training memory F128, 32 rows", "MiB", "<= 0.5x HF")
        self.start = Row("G11", "first import to first label", "s", "<= 1.0 s")
        self.peak: float | None = None
        self.ways = compare_ways(None, self.reason or "the run was stopped before")

    def rows(self) -> list[Row]:
        return [row for row, *_ in self.plan] + [self.memory, self.start]

    def text(self) -> str:
        name = str(self.cuda.get("name") or "no device") if self.cuda["available"] else "no device"
        peak = f"{self.peak / 1e12:.0f} TFLOP/s" if self.peak else "not measured"
        lines = [f"Device: {name}; bf16 matmul peak {peak}", ""]
        lines += ["| goal | what | ours | share of peak | " + " | ".join(PEERS) + " | must |", "|" + "---|" * 7]
        lines += ["| " + " | ".join(row.cells(self.peak, self.reason)) + " |" for row in self.rows()]
        return "\n".join(lines + self.ways) + "\n"

    def save(self) -> None:
        if self.markdown:
            with open(self.markdown, "w") as file:
                file.write(self.text())


def measure(table: Table, folder: str, seconds: float) -> None:
    """Fill the table: ours, then transformers, then torch.compile while there is time."""
    end = time.perf_counter() + seconds
    torch_side = None
    try:
        torch_side = TorchSide(folder)
        table.peak = torch_side.peak()
    except Exception as error:  # whatever is wrong with the peers, ours are measured
        print(f"peers are not measured: {error}")
    model = Model.from_pretrained(folder, device="cuda", precision="bf16")
    for row, lengths, training, _ in table.plan:
        inputs = batch(lengths)
        try:
            row.ours = median_ms(ours_train(folder, inputs) if training else ours_forward(model, inputs), 2.0)
            row.queued = ours_queued(folder, inputs) if training else None
        except smhf_native.errors.SmhfError as error:
            row.why = str(error)
        table.save()
    table.start.ours = cold_start(folder)
    table.save()
    training_memory(table.memory, folder, batch(lengths_of(32, 128, False)), torch_side)
    table.save()
    table.ways = compare_ways(folder, "")
    table.save()
    if torch_side is None:
        return
    for row, lengths, training, _ in table.plan:
        make = torch_side.train if training else torch_side.forward
        row.peers["HF eager"] = median_ms(make(batch(lengths), None), 2.0)
        table.save()
    for row, lengths, training, mode in sorted(table.plan, key=lambda entry: entry[2]):
        if mode is not None and time.perf_counter() < end - 40:  # compiling takes its time
            make = torch_side.train if training else torch_side.forward
            row.peers["torch.compile"] = median_ms(make(batch(lengths), mode), 2.0)
            table.save()


def main() -> int:
    """Measure, or say why not; 0 either way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--markdown")
    parser.add_argument("--json")
    args = parser.parse_args()
    cuda = smhf_native.backends()["cuda"]
    table = Table(cuda, args.markdown)
    table.save()
    if cuda["available"]:
        with tempfile.TemporaryDirectory() as folder:
            Model.from_config(CONFIG, seed=1, device="cpu").save_pretrained(folder)
            measure(table, folder, args.seconds)
    table.save()
    print(table.text())
    if args.json:
        with open(args.json, "w") as file:
            rows = [vars(row) for row in table.rows()]
            json.dump({"device": cuda, "peak": table.peak, "rows": rows}, file, default=str)
    return 0


if __name__ == "__main__":
    sys.exit(main())
