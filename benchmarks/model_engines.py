"""One engine in one process, for bench_model.py: reads requests as JSON lines, answers in JSON lines.

    python benchmarks/model_engines.py ENGINE FOLDER

FOLDER holds one model in each engine's format (``export`` makes the ONNX files).  Between requests an engine
sleeps on its standard input, so that two engines never compete for the cores.  Requests:

- ``{"run": "infer", "lengths": [...], "batching": "whole" | "one" | "unsorted" | "sorted"}``: seconds of a pass
- ``{"run": "train", "lengths": [...], "batch": 8}``: seconds of a pass of training steps over the rows
- ``{"run": "memory"}``: peak resident set so far, bytes

A pass follows one that is not counted: the other engine has had the caches since the last request.  Short
passes are repeated for half a second, and their median counts.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

THREADS = int(os.environ.get("BENCH_THREADS", "2"))
LABELS = 5
REPEAT_SECONDS = 0.5
Rows = list[np.ndarray]


def make_rows(lengths: Sequence[int]) -> Rows:
    """Seeded token ids of these lengths."""
    rng = np.random.default_rng(11)
    return [rng.integers(1000, 30000, length).astype(np.int64) for length in lengths]


def padded(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask, padded to the longest row."""
    width = max(len(row) for row in rows)
    ids = np.zeros((len(rows), width), np.int64)
    mask = np.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return ids, mask


def batches(rows: Rows, batching: str, size: int = 32) -> list[tuple[np.ndarray, np.ndarray]]:
    """Cut rows into padded batches the way users do."""
    if batching == "whole":
        return [padded(rows)]
    if batching == "one":
        return [padded([row]) for row in rows]
    if batching == "sorted":
        rows = sorted(rows, key=len)
    return [padded(rows[at : at + size]) for at in range(0, len(rows), size)]


def peak_memory() -> int:
    """Peak resident set of this program, bytes.

    getrusage counts what the process was before exec too: a large parent would show through.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


# -- engines: each gives forward(ids, mask) and, where it trains, train(ids, mask, labels) ---------

Forward = Callable[[np.ndarray, np.ndarray], Any]
Train = Callable[[np.ndarray, np.ndarray, np.ndarray], Any]


def ours(folder: Path, precision: str) -> tuple[Forward, Callable[[], Train]]:
    """smhf_native in one precision."""
    from smhf_native.model import Model, Trainer

    model = Model.from_pretrained(str(folder), precision=precision)

    def trainer() -> Train:
        options = {} if precision == "fp32" else {"precision": precision}
        steps = Trainer(model, total_steps=10**6, **options)
        return lambda ids, mask, labels: steps.step(ids, mask, labels)

    return model, trainer


def ort(path: Path) -> tuple[Forward, None]:
    """ONNX Runtime; its threads sleep between calls, which costs it nothing here (it is alone)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = {value.name for value in session.get_inputs()}

    def forward(ids: np.ndarray, mask: np.ndarray) -> Any:
        values = {"input_ids": ids, "attention_mask": mask}
        return session.run(None, {name: values[name] for name in names})[0]

    return forward, None


def pytorch(folder: Path, kind: str) -> tuple[Forward, Callable[[], Train]]:
    """Transformers on PyTorch: fp32, bf16 weights, or bf16 autocast; SDPA attention, fused AdamW."""
    import torch
    from transformers import AutoModelForSequenceClassification

    torch.set_num_threads(THREADS)
    model = AutoModelForSequenceClassification.from_pretrained(str(folder)).eval()
    if kind == "bf16":
        model = model.to(torch.bfloat16)
    autocast = kind == "autocast"

    def forward(ids: np.ndarray, mask: np.ndarray) -> Any:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            whole = None if mask.all() else torch.from_numpy(mask)
            return model(input_ids=torch.from_numpy(ids), attention_mask=whole).logits.float().numpy()

    def trainer() -> Train:
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, fused=True)

        def train(ids: np.ndarray, mask: np.ndarray, labels: np.ndarray) -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                loss = model(
                    input_ids=torch.from_numpy(ids),
                    attention_mask=None if mask.all() else torch.from_numpy(mask),
                    labels=torch.from_numpy(labels),
                ).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

        return train

    return forward, trainer


def load(engine: str, folder: Path) -> tuple[Forward, Callable[[], Train] | None]:
    """Open an engine by name, e.g. ``ours-fp32``, ``ort-int8``, ``torch-autocast``."""
    family, _, kind = engine.partition("-")
    if family == "ours":
        return ours(folder, kind)
    if family == "ort":
        return ort(folder / f"{kind}.onnx")
    return pytorch(folder, kind)


def export(folder: Path) -> None:
    """Write fp32.onnx, fused.onnx (ONNX Runtime's own optimizer) and int8.onnx, int8fused.onnx beside the model."""
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers import optimizer
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.from_pretrained(str(folder))
    model = AutoModelForSequenceClassification.from_pretrained(
        str(folder), attn_implementation="eager"
    ).eval()
    ids = torch.randint(1000, 2000, (2, 16))
    axes = {0: "rows", 1: "columns"}
    torch.onnx.export(
        model,
        (ids, torch.ones_like(ids)),
        str(folder / "fp32.onnx"),
        input_names=["input_ids", "attention_mask"],
        output_names=["logits"],
        dynamic_axes={"input_ids": axes, "attention_mask": axes},
        opset_version=17,
        dynamo=False,
    )
    fused = optimizer.optimize_model(
        str(folder / "fp32.onnx"),
        "bert",
        num_heads=config.num_attention_heads,
        hidden_size=config.hidden_size,
        opt_level=0,
    )
    fused.save_model_to_file(str(folder / "fused.onnx"))
    for source, target in (("fp32", "int8"), ("fused", "int8fused")):
        quantize_dynamic(
            str(folder / f"{source}.onnx"),
            str(folder / f"{target}.onnx"),
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={
                "DefaultTensorType": 1
            },  # onnx.TensorProto.FLOAT: the fused nodes have no shape inference
        )


def serve(engine: str, folder: Path) -> None:
    """Answer requests until standard input ends."""
    forward, make_trainer = load(engine, folder)
    train: Train | None = None
    kept: dict[str, Any] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if request["run"] == "memory":
            print(json.dumps(peak_memory()), flush=True)
            continue
        if line not in kept:
            rows = make_rows(request["lengths"])
            if request["run"] == "infer":
                kept[line] = batches(rows, request["batching"], request.get("batch", 32))
            else:
                labels = np.random.default_rng(5).integers(0, LABELS, len(rows))
                cut = batches(rows, "unsorted", request["batch"])
                kept[line] = [(*b, labels[i * request["batch"] :][: len(b[0])]) for i, b in enumerate(cut)]
        if request["run"] == "train" and train is None:
            assert make_trainer is not None
            train = make_trainer()
        run: Any = forward if request["run"] == "infer" else train
        print(json.dumps(median_pass(run, kept[line])), flush=True)


def median_pass(run: Any, parts: Sequence[tuple[np.ndarray, ...]]) -> float:
    """Seconds of one pass over the parts, as the module's docstring says."""
    seconds: list[float] = []
    while len(seconds) < 2 or sum(seconds) < REPEAT_SECONDS:
        start = time.perf_counter()
        for arrays in parts:
            run(*arrays)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


if __name__ == "__main__":
    if sys.argv[1] == "export":
        export(Path(sys.argv[2]))
    else:
        serve(sys.argv[1], Path(sys.argv[2]))
