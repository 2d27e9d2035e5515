"""The model: an encoder and what stands on it; open, call, save."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from smhf_native.model import _model
from smhf_native.model import precision as precisions
from smhf_native.model.backends import warn_of_fallback
from smhf_native.model.inputs import as_batch, unpack
from smhf_native.paths import real_path

__all__ = ["LoadReport", "Model"]

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
TASKS = {
    "sequence-classification": "ForSequenceClassification",
    "token-classification": "ForTokenClassification",
    "question-answering": "ForQuestionAnswering",
    "embedding": "Model",
    "masked-lm": "ForMaskedLM",
}
FAMILIES = {"distilbert": "DistilBert", "bert": "Bert"}
POOLINGS = {"none": 0, "mean": 1, "cls": 2}


def task_of(config: Mapping[str, Any]) -> str:
    """Task of a checkpoint: by its first architecture's name; sequence classification for any other.

    A masked-LM checkpoint is what people fine-tune from, so it gets a new classification head; so does a
    bare encoder (ask for ``task="masked-lm"`` or ``"embedding"`` to use them as they are).
    """
    name = str((config.get("architectures") or [""])[0])
    for task in ("token-classification", "question-answering"):
        if name.endswith(TASKS[task]):
            return task
    return "sequence-classification"


class LoadReport(NamedTuple):
    """What did not match between a checkpoint and the model; names as in the checkpoint."""

    missing: list[str]  #: newly made weights: the checkpoint has none
    unexpected: list[str]  #: tensors of the checkpoint that the model does not use


def _write_atomic(path: Path, text: str) -> None:
    """Write a small text so that it appears under its name whole or not at all."""
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _check_folder(folder: Path) -> None:
    """Say what is missing before the core says only that it cannot open a file."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: expected a folder with {CONFIG_NAME} and {WEIGHTS_NAME}")
    if not (folder / CONFIG_NAME).is_file():
        raise FileNotFoundError(f"{folder}: {CONFIG_NAME} is missing")
    if (folder / WEIGHTS_NAME).is_file():
        return
    hint = ""
    if (folder / f"{WEIGHTS_NAME}.index.json").is_file():
        hint = " (the weights are split over several files, which is not supported)"
    elif (folder / "pytorch_model.bin").is_file():
        hint = " (there is pytorch_model.bin: convert it with `smhf convert`)"
    raise FileNotFoundError(f"{folder}: {WEIGHTS_NAME} is missing{hint}")


class Model:
    """A DistilBERT or BERT encoder and the head of one task.

    Tasks: ``"sequence-classification"`` (one label, several labels at once, or numbers, as ``problem_type``
    says), ``"token-classification"``, ``"question-answering"``, ``"masked-lm"`` (words of the vocabulary, by a
    head that is tied to the word table), ``"embedding"`` (no head).  Made by
    :meth:`from_pretrained` or :meth:`from_config`.  Weights are float32; the names of
    parameters and files are those of `transformers`, so either loads what the other saves.
    Any number of threads may call one model; a call releases the GIL.

    Attributes
    ----------
    config : dict
        The content of ``config.json``.
    load_report : LoadReport
        Weights that the checkpoint lacked, and tensors that it had beyond the model.
    precision_report : dict or None
        What ``precision="auto"`` measured and chose, and why (see :func:`smhf_native.model.precision.choose`).
    """

    def __init__(self, core: _model.Model, config: dict[str, Any]) -> None:
        self._core = core
        self.config = config
        self.load_report = LoadReport(*core.report())
        self.precision_report: dict[str, Any] | None = None
        labels = core.labels()
        if len(config.get("id2label") or {}) != len(labels):
            self.id2label = dict(enumerate(labels))

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike[str],
        num_labels: int | None = None,
        device: str = "auto",
        precision: str | None = None,
        seed: int = 42,
        calibration: Any = None,
        task: str | None = None,
        ignore_mismatched_sizes: bool = False,
    ) -> Model:
        """Open a folder with ``config.json`` and ``model.safetensors``.

        Masked-LM checkpoints are taken too: their head is left unread, and the classification head
        is newly made from ``seed`` (see :attr:`load_report`).

        Parameters
        ----------
        folder : path
            A local folder; hub names are the business of :mod:`smhf_native.hub`.
        num_labels : int, optional
            Overrides the file.  With another count than its ``id2label``, labels become
            ``LABEL_0``, ``LABEL_1`` ...
        device : str
            ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        precision : str, optional
            ``"fp32"`` (exact, the default), ``"bf16"`` (products of bf16 numbers, everything else in
            fp32), ``"int8"`` (weights with one scale an output, activations with one a token; a row
            whose best classes lie within 0.04 of each other, 0.08 where activations have 7 bits, or a
            label of several within that of 0, is computed again with finer products), or ``"auto"``:
            the fastest whose labels agree with fp32's on the calibration texts.  None: the
            environment's ``SMHF_PRECISION``.
        seed : int
            For newly made weights.
        calibration : Encoding or mapping, optional
            Texts like those that will come, for ``"auto"``; default: ``calibration.json`` of the
            folder, which :meth:`save_pretrained` writes when asked.  Without any, ``"auto"`` is fp32.
        task : str, optional
            One of the class's tasks; default: what ``architectures`` in ``config.json`` names, else
            ``"sequence-classification"``.
        ignore_mismatched_sizes : bool
            A head of another size than the checkpoint's (another ``num_labels``) is newly made instead of
            refused; both names are in :attr:`load_report`.

        Raises
        ------
        FileNotFoundError
            A file is missing; the sentence says which.
        ParseError
            A file breaks its format; ``offset`` is the byte.
        ValueError
            Shapes or names of the checkpoint do not fit the configuration.
        BackendError
            The device, precision or an option of the configuration is not there.
        """
        path = Path(folder)
        _check_folder(path)
        wanted = precisions.resolve(precision)
        start = "fp32" if wanted == "auto" else wanted
        if task is None:
            try:
                task = task_of(json.loads((path / CONFIG_NAME).read_text(encoding="utf-8")))
            except (ValueError, AttributeError, TypeError):
                task = None  # the core says what is wrong with the file, and where
        core = _model.Model.open(
            real_path(path), num_labels or 0, device, start, seed, task, ignore_mismatched_sizes
        )
        warn_of_fallback(device, core.info()["backend"])
        config = json.loads((path / CONFIG_NAME).read_text(encoding="utf-8"))
        model = cls(core, config)
        if wanted == "auto":
            if calibration is None:
                calibration = precisions.read_calibration(path / precisions.CALIBRATION_NAME)
            model.precision_report = precisions.choose(model, calibration)
        return model

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        seed: int = 42,
        num_labels: int | None = None,
        device: str = "auto",
        precision: str | None = None,
        task: str | None = None,
    ) -> Model:
        """Make a model with new weights: matrices N(0, initializer_range), biases 0, LayerNorm (1, 0).

        Parameters
        ----------
        config : mapping
            As in ``config.json``; ``model_type`` is ``"distilbert"`` or ``"bert"``.
        seed : int
            The weights depend on it and on the sizes only.
        num_labels, device, precision, task
            As for :meth:`from_pretrained`.
        """
        task = task_of(config) if task is None else task
        text = json.dumps(dict(config)).encode()
        wanted = precisions.resolve(precision)
        core = _model.Model.new(
            text, num_labels or 0, device, "fp32" if wanted == "auto" else wanted, seed, task
        )
        warn_of_fallback(device, core.info()["backend"])
        return cls(core, json.loads(text))

    def __call__(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        token_type_ids: Any = None,
    ) -> Any:
        """Compute what the task's head gives.

        Parameters
        ----------
        input_ids : Encoding, mapping or array_like of int
            An Encoding of :class:`smhf_native.Tokenizer`, a mapping with ``input_ids``, or ids of
            shape (rows, columns).
        attention_mask : array_like of int or bool, optional
            Same shape; 1 for tokens, 0 for padding behind them.  Padding is not computed.
        token_type_ids : array_like of int, optional
            Same shape; read by BERT only.

        Returns
        -------
        ndarray of float32
            Sequence classification: logits (rows, num_labels).  Token classification: logits
            (rows, columns, num_labels), zero behind the tokens.  Question answering: a tuple of two arrays
            (rows, columns), start and end, the smallest float behind the tokens.  Embedding: the last
            hidden states (rows, columns, hidden), zero behind the tokens; see also :meth:`encode`.  Masked LM:
            logits (rows, columns, vocab), zero behind the tokens; see also :meth:`logits_at`.

        Raises
        ------
        ValueError
            Names the row (and position) of an id outside the vocabulary, a row without tokens, one
            longer than the model takes, or padding in front of tokens.
        """
        batch = as_batch(input_ids, attention_mask, token_type_ids)
        results = self._core.forward(*batch)
        if self.task == "sequence-classification":
            return results
        if self.task == "question-answering":
            padded = unpack(results, batch, float(np.finfo(np.float32).min))
            return padded[..., 0], padded[..., 1]
        return unpack(results, batch, 0.0)

    def logits_at(
        self,
        where: Any,
        input_ids: Any,
        attention_mask: Any = None,
        token_type_ids: Any = None,
    ) -> npt.NDArray[np.float32]:
        """Compute a masked-LM head for some tokens only.

        Parameters
        ----------
        where : array_like of bool
            True for the tokens that are asked about: shaped like ``input_ids``, or one for each token of
            an Encoding, row behind row.  What is behind the tokens of a row is not looked at.
        input_ids, attention_mask, token_type_ids
            As for a call.

        Returns
        -------
        ndarray of float32, shape (how many, vocab)
            In reading order.

        Raises
        ------
        BackendError
            The model was not opened with ``task="masked-lm"``.
        """
        batch = as_batch(input_ids, attention_mask, token_type_ids)
        asked = np.asarray(where, bool)
        if asked.shape != np.shape(batch.ids):
            raise ValueError(f"where: expected shape {np.shape(batch.ids)}, got {asked.shape}")
        there = np.ones_like(asked) if batch.mask is None else np.asarray(batch.mask, bool)
        picks = np.flatnonzero(asked[there]).astype(np.int32)
        return self._core.forward(*batch, picks)

    def encode(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        *,
        pooling: str = "mean",
        normalize: bool = True,
    ) -> npt.NDArray[np.float32]:
        """Compute one vector for each text.

        Parameters
        ----------
        input_ids, attention_mask, token_type_ids
            As for a call.
        pooling : "mean" (over a text's tokens) or "cls" (its first token)
        normalize : bool
            Scale each vector to length 1, so that a dot product is the cosine similarity.

        Returns
        -------
        ndarray of float32, shape (rows, hidden)

        Raises
        ------
        BackendError
            The model was not opened with ``task="embedding"``.
        """
        if pooling not in ("mean", "cls"):
            raise ValueError(f'pooling "{pooling}": expected "mean" or "cls"')
        vectors = self._core.encode(POOLINGS[pooling], *as_batch(input_ids, attention_mask, token_type_ids))
        if normalize:
            lengths = np.sqrt((vectors.astype(np.float64) ** 2).sum(-1, keepdims=True))
            vectors = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
        return vectors

    @property
    def task(self) -> str:
        """What stands on the encoder, e.g. ``"token-classification"``."""
        return str(self._core.info()["task"])

    @property
    def num_labels(self) -> int:
        """How many classes the model tells apart."""
        return len(self._core.labels())

    @property
    def id2label(self) -> dict[int, str]:
        """Class number to name; assigning replaces the names (and ``label2id``) in :attr:`config`."""
        return {int(key): str(name) for key, name in self.config["id2label"].items()}

    @id2label.setter
    def id2label(self, names: Mapping[Any, str]) -> None:
        ordered = {int(key): str(name) for key, name in names.items()}
        count = len(self._core.labels())
        if sorted(ordered) != list(range(count)):
            raise ValueError(f"id2label: expected the ids 0 to {count - 1} once each, got {sorted(ordered)}")
        self.config.pop("num_labels", None)
        self.config["id2label"] = {str(key): ordered[key] for key in range(count)}
        self.config["label2id"] = {ordered[key]: key for key in range(count)}

    @property
    def info(self) -> dict[str, Any]:
        """Sizes (``vocab``, ``positions``, ``hidden``, ``layers`` ...), ``backend``, ``precision``."""
        return self._core.info()

    @property
    def precision(self) -> str:
        """``"fp32"``, ``"bf16"`` or ``"int8"``: what products are computed in."""
        return str(self._core.info()["precision"])

    def set_precision(self, precision: str) -> None:
        """Compute in another precision from now on; the fp32 weights stay what they are.

        Parameters
        ----------
        precision : str
            ``"fp32"``, ``"bf16"`` or ``"int8"``.

        Raises
        ------
        BackendError
            The device does not compute it.
        BusyError
            ``"int8"`` while a :class:`Trainer` holds the model.
        """
        self._core.set_precision(precision)

    @property
    def parameter_names(self) -> list[str]:
        """Names of all weights, in the order of the network."""
        return list(self._core.parameter_names())

    def parameters(self) -> dict[str, npt.NDArray[np.float32]]:
        """Copy every weight: checkpoint name to float32 array."""
        return {name: self._core.parameter(i) for i, name in enumerate(self._core.parameter_names())}

    def set_parameter(self, name: str, values: Any) -> None:
        """Replace one weight by values of its shape; ``KeyError`` for an unknown name."""
        names = self._core.parameter_names()
        if name not in names:
            raise KeyError(f"{name}: not a parameter of this model (the first one is {names[0]})")
        self._core.set_parameter(names.index(name), np.ascontiguousarray(values, dtype=np.float32))

    def save_pretrained(
        self, folder: str | os.PathLike[str], *, calibration: Sequence[Sequence[int]] | None = None
    ) -> None:
        """Write ``model.safetensors`` and ``config.json``; each appears whole or not at all.

        The folder is made when it does not exist.

        Parameters
        ----------
        folder : path
        calibration : list of lists of int, optional
            Token ids of typical texts, kept as ``calibration.json`` for ``precision="auto"``.  Nothing of
            the data is kept unless this is given.
        """
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        self._core.save(real_path(path))
        config = dict(self.config)
        info = self._core.info()
        config["architectures"] = [FAMILIES[info["architecture"]] + TASKS[info["task"]]]
        for key in ("torch_dtype", "dtype"):
            if key in config:
                config[key] = "float32"
        _write_atomic(path / CONFIG_NAME, json.dumps(config, indent=2, sort_keys=True) + "\n")
        if calibration is not None:
            rows = [[int(token) for token in row] for row in calibration]
            _write_atomic(path / precisions.CALIBRATION_NAME, json.dumps({"input_ids": rows}))

    def _capsule(self) -> object:
        """C handle for the glue of other rooms (capsule ``smhf.model``); keeps the model alive."""
        return self._core._capsule()

    def __repr__(self) -> str:
        info = self._core.info()
        return (
            f"<Model {info['architecture']}: {info['layers']} layers of {info['hidden']}, "
            f"{info['num_labels']} labels, {info['precision']} on {info['backend']}>"
        )
