"""The one place where the mirror touches floor 3: models and optimizer steps of :mod:`smhf_native.model`."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from smhf_native.errors import BackendError, ParseError
from smhf_native.transformers.utils import logging

__all__ = [
    "StepEngine",
    "add_tensors",
    "load_model",
    "logits_at",
    "model_folder",
    "read_tensors",
    "reload_model",
    "results_of",
]

logger = logging.get_logger(__name__)

_STATE = "optimizer.safetensors"


@contextmanager
def model_folder(folder: Path, config: dict[str, Any] | None) -> Iterator[Path]:
    """Yield a folder with safetensors weights and (when given) another ``config.json``.

    The original is used as it is when nothing differs; otherwise a temporary folder links to its weights.
    A ``pytorch_model.bin`` is converted there without unpickling, when ``SMHF_ALLOW_BIN=1`` permits it.
    """
    weights = folder / "model.safetensors"
    sharded = folder / "model.safetensors.index.json"
    needs_conversion = not weights.is_file() and not sharded.is_file()
    if needs_conversion:
        old = [
            name
            for name in ("pytorch_model.bin", "pytorch_model.bin.index.json")
            if (folder / name).is_file()
        ]
        if not old:
            raise FileNotFoundError(f"{folder} holds no model.safetensors")
        if os.environ.get("SMHF_ALLOW_BIN", "") not in ("1", "true", "yes"):
            raise ParseError(
                f"{folder} holds {old[0]} but no model.safetensors. It can be converted without unpickling: "
                f"python -m smhf_native.convert {folder} NEW_FOLDER, or set SMHF_ALLOW_BIN=1 to do it on loading"
            )
    if config is None and not needs_conversion:
        yield folder
        return
    temporary = Path(tempfile.mkdtemp(prefix="smhf-model-"))
    try:
        if needs_conversion:
            from smhf_native.convert import convert_folder

            convert_folder(folder, temporary)
        else:
            for path in folder.iterdir():
                if path.name.startswith("model") and path.is_file():
                    os.symlink(path.resolve(), temporary / path.name)
        if config is not None:
            (temporary / "config.json").write_text(json.dumps(config), encoding="utf-8")
        elif not (temporary / "config.json").exists():
            shutil.copyfile(folder / "config.json", temporary / "config.json")
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load_model(
    folder: Path,
    config: dict[str, Any] | None,
    num_labels: int,
    seed: int,
    task: str | None = None,
    ignore_mismatched_sizes: bool = False,
) -> Any:
    """Load a floor-3 model; ``config`` replaces the folder's ``config.json`` when given."""
    from smhf_native.model import Model

    with model_folder(folder, config) as source:
        try:
            return Model.from_pretrained(
                str(source),
                num_labels=num_labels,
                seed=seed,
                task=task,
                ignore_mismatched_sizes=ignore_mismatched_sizes,
            )
        except (ValueError, OSError) as error:
            if error.args and isinstance(error.args[0], str):  # name the user's folder, not the temporary one
                error.args = (error.args[0].replace(str(source), str(folder)), *error.args[1:])
            raise


def reload_model(folder: str | os.PathLike[str], task: str | None = None) -> Any:
    """Load a floor-3 model that was saved by :meth:`save_pretrained`, as it is."""
    from smhf_native.model import Model

    return Model.from_pretrained(str(folder), task=task)


def _read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, tuple[str, npt.NDArray[Any]]]]:
    """Return the metadata and the tensors of a small file, or of one that we wrote: (dtype, bytes)."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    tensors: dict[str, tuple[str, npt.NDArray[Any]]] = {}
    for name, entry in header.items():
        begin, end = (8 + length + at for at in entry["data_offsets"])
        dtype = _DTYPES.get(entry["dtype"])
        if dtype is None:
            raise ParseError(f"{path}: {name} is of type {entry['dtype']}; expected one of {sorted(_DTYPES)}")
        array = np.frombuffer(data[begin:end], dtype=dtype).reshape(entry["shape"])
        tensors[name] = (entry["dtype"], array)
    return metadata, tensors


_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "BF16": np.dtype("<u2"),
}


def read_tensors(folder: Path, names: list[str]) -> dict[str, npt.NDArray[np.float32]]:
    """Return tensors of a checkpoint that the engine has no use for, as float32."""
    with model_folder(folder, None) as source:
        _, tensors = _read_safetensors(source / "model.safetensors")
    result = {}
    for name in names:
        dtype, array = tensors[name]
        if dtype == "BF16":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        result[name] = np.array(array, dtype=np.float32)
    return result


def add_tensors(path: Path, extra: dict[str, npt.NDArray[np.float32]]) -> None:
    """Write further float32 tensors into a safetensors file; it is replaced whole or not at all."""
    from smhf_native.convert import write_safetensors

    metadata, tensors = _read_safetensors(path)
    tensors.update({name: ("F32", np.ascontiguousarray(array)) for name, array in extra.items()})
    write_safetensors(path, tensors, metadata)


class StepEngine:
    """Forward, backward and optimizer steps of one run.

    Parameters
    ----------
    model : floor-3 model, trained in place
    args : TrainingArguments
    warmup, total : schedule in optimizer steps
    done : steps made before, whose optimizer state cannot be read: the moments start at zero, and the
        schedule goes on where it was when it is linear past its warm-up or constant
    freeze : names of weights that are not trained
    checkpointing : compute the inside of layers again in the backward pass
    """

    def __init__(
        self,
        model: Any,
        args: Any,
        warmup: int,
        total: int,
        done: int = 0,
        freeze: Iterable[str] = (),
        checkpointing: bool = False,
    ):
        from smhf_native.model import Trainer

        rate = args.learning_rate
        if 0 < done < total and args.lr_scheduler_type.value == "linear" and done >= warmup:
            # The rest of a straight line is a straight line from its present height.
            rate *= (total - done) / max(1, total - warmup)
            warmup, total = 0, total - done

        if args.bf16 and model.precision != "bf16":
            try:
                model.set_precision("bf16")
            except BackendError as error:
                logger.warning("bf16=True: training runs in %s (%s)", model.precision, error)

        # transformers smooths where a batch has ``labels``; answers have positions instead.
        smoothing = args.label_smoothing_factor if model.task != "question-answering" else 0.0
        self._native = Trainer(
            model,
            learning_rate=rate,
            betas=(args.adam_beta1, args.adam_beta2),
            eps=args.adam_epsilon,
            weight_decay=args.weight_decay,
            max_grad_norm=args.max_grad_norm,
            warmup_steps=warmup,
            total_steps=total,
            schedule=args.lr_scheduler_type.value,
            gradient_accumulation_steps=args.gradient_accumulation_steps,
            label_smoothing=smoothing,
            seed=args.seed,
            dropout=True,
            freeze=sorted(freeze),
            gradient_checkpointing=checkpointing or args.gradient_checkpointing,
        )

    def forward_backward(self, batch: dict[str, npt.NDArray[Any]], accumulation: int) -> float:
        """Add one batch to the gradients, divided by ``accumulation``; return its mean loss."""
        return float(
            self._native.forward_backward(
                batch["input_ids"],
                attention_mask=batch.get("attention_mask"),
                labels=batch["labels"],
                token_type_ids=batch.get("token_type_ids"),
                accumulation=accumulation,
            )
        )

    def optimizer_step(self) -> tuple[float, float]:
        """Clip, move the weights, clear the gradients; return (gradient norm before clipping, learning rate)."""
        result = self._native.optimizer_step()
        return float(result["grad_norm"]), float(result["learning_rate"])

    def save(self, folder: Path) -> None:
        """Write optimizer moments, step and seed into a checkpoint folder."""
        self._native.save_state(str(folder / _STATE))

    def load(self, folder: Path) -> None:
        """Restore what :meth:`save` wrote."""
        self._native.load_state(str(folder / _STATE))

    @staticmethod
    def has_state(folder: Path) -> bool:
        """Return whether a checkpoint folder holds what :meth:`save` wrote."""
        return (folder / _STATE).is_file()


def logits_at(
    model: Any, batch: dict[str, npt.NDArray[Any]], where: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float32]:
    """Return the masked-LM logits of some tokens of a batch, (how many, vocabulary)."""
    logits: npt.NDArray[np.float32] = model.logits_at(
        where, batch["input_ids"], batch.get("attention_mask"), batch.get("token_type_ids")
    )
    return logits


def results_of(model: Any, batch: dict[str, npt.NDArray[Any]]) -> Any:
    """Return what the head gives for one batch without dropout: a float32 array, or (start, end)."""
    return model(
        input_ids=batch["input_ids"],
        attention_mask=batch.get("attention_mask"),
        token_type_ids=batch.get("token_type_ids"),
    )
