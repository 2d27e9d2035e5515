"""What all pipelines share: opening model and tokenizer, batches of a token budget, truncation, progress."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from smhf_native.hub import MODEL_FILES, TOKENIZER_FILES, resolve

__all__ = [
    "UNSET",
    "Opened",
    "Pipeline",
    "PredictInterrupted",
    "Progress",
    "as_rows",
    "open_parts",
    "softmax",
]

CHUNK = 8192  # rows tokenized at a time: bounds memory for any number of rows
_PIECE_SECONDS = 0.2  # one uninterruptible batch: half of what a user waits for after Ctrl-C
_LEAST_TOKENS = 256
UNSET: Any = object()


class Opened:
    """A model and its tokenizer, ready for a pipeline.

    Attributes
    ----------
    model, tokenizer : of floor 3
    config : what ``config.json`` says
    limit : tokens a row may have
    folder : where the model came from; None for an object
    """

    def __init__(self, model: Any, tokenizer: Any, config: dict[str, Any], limit: int, folder: Path | None):
        self.model = model
        self.tokenizer = tokenizer
        self.config = config
        self.limit = limit
        self.folder = folder


def open_parts(
    task: str, model: Any, tokenizer: Any, revision: Any, token: Any, device: Any, precision: str | None
) -> Opened:
    """Open what a pipeline was given.

    Parameters
    ----------
    task : of the floor-3 model, e.g. "token-classification"

    Raises
    ------
    ValueError
        A model object of another task; a tokenizer that does not belong to the weights.
    """
    native, config, folder = _open_model(task, model, revision, token, device, precision)
    native_tokenizer, limit = _open_tokenizer(tokenizer, model, folder, config, revision, token)
    known, rows = int(native_tokenizer.vocab_size), int(config.get("vocab_size") or 0)
    if rows and known > rows:
        raise ValueError(
            f"the tokenizer has {known} tokens, the model's vocabulary {rows}: tokenizer and weights do not "
            "belong together"
        )
    return Opened(native, native_tokenizer, config, limit, folder)


def _open_model(
    task: str, model: Any, revision: Any, token: Any, device: Any, precision: str | None
) -> tuple[Any, dict[str, Any], Path | None]:
    if not isinstance(model, (str, os.PathLike)):
        native = getattr(model, "native", model)
        found = getattr(native, "task", task)
        if found != task:
            raise ValueError(f"this pipeline needs a model for {task}, the given one is for {found}")
        config = model.config if isinstance(model.config, Mapping) else model.config.to_dict()
        return native, dict(config), None
    from smhf_native.model import Model
    from smhf_native.model.precision import resolve as resolve_precision
    from smhf_native.transformers.engine import model_folder

    folder = resolve(model, revision, needs=MODEL_FILES, token=token)
    name = "cpu" if device in (-1, "cpu") else ("cuda" if isinstance(device, int) and device >= 0 else device)
    with model_folder(folder, None) as source:
        start = "fp32" if resolve_precision(precision) == "auto" else precision  # auto is measured later
        native = Model.from_pretrained(str(source), device=str(name or "auto"), precision=start, task=task)
    fresh = native.load_report.missing
    if fresh:
        logging.getLogger("smhf_native").warning(
            "%s holds no weights of its own for %s: %s are made anew, so the answers mean nothing before training",
            model,
            task,
            ", ".join(fresh),
        )
    return native, dict(native.config), folder


def _open_tokenizer(
    tokenizer: Any, model: Any, folder: Path | None, config: Mapping[str, Any], revision: Any, token: Any
) -> tuple[Any, int]:
    limit = int(config.get("max_position_embeddings") or 512)
    if tokenizer is None and folder is None:
        raise ValueError("pipeline needs tokenizer= when model is an object")
    if tokenizer is not None and not isinstance(tokenizer, (str, os.PathLike)):
        native = getattr(tokenizer, "native", tokenizer)
        return native, min(limit, int(getattr(tokenizer, "model_max_length", None) or limit))
    from smhf_native.tokenizer import Tokenizer

    place = folder if tokenizer is None else resolve(tokenizer, revision, needs=TOKENIZER_FILES, token=token)
    assert place is not None
    if not any((place / name).is_file() for name in TOKENIZER_FILES[0]):
        place = resolve(
            model if tokenizer is None else tokenizer, revision, needs=TOKENIZER_FILES, token=token
        )
    native = Tokenizer.from_pretrained(str(place))
    return native, min(limit, native.model_max_length or limit)


class PredictInterrupted(KeyboardInterrupt):
    """Ctrl-C during a long call: everything that was finished is here.

    Attributes
    ----------
    done : int
        Rows finished: the first ones of the input.
    scores : ndarray of float32, shape (done, num_labels)
        Their scores.
    frame : pandas.DataFrame or None
        What :meth:`TextClassificationPipeline.predict` would have returned for the first ``done`` rows.
    """

    def __init__(self, done: int, total: int, scores: npt.NDArray[np.float32]):
        super().__init__(f"interrupted after {done} of {total} rows; they are in .scores (and .frame)")
        self.done = done
        self.scores = scores
        self.frame: Any = None


class Pipeline:
    """A model with its tokenizer; thread class: as the model's (calls may run at once).

    Attributes
    ----------
    truncated : number of texts cut to the model's maximum so far
    precision_report : dict or None: what ``precision="auto"`` measured and chose, and why
    """

    task = ""
    model_task = ""  #: what stands on the encoder

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        config: Mapping[str, Any],
        model_max_length: int,
        *,
        batch_size: int | None = None,
        token_budget: int = 4096,
        folder: Path | None = None,
        **options: Any,
    ):
        self.model = model
        self.tokenizer = tokenizer
        self.config = dict(config)
        labels = {int(key): str(value) for key, value in (config.get("id2label") or {}).items()}
        self.id2label = labels or {int(k): str(v) for k, v in getattr(model, "id2label", {}).items()}
        self.model_max_length = model_max_length
        self.batch_size = batch_size
        self.token_budget = token_budget
        self.folder = folder
        self._pace = min(512, token_budget)  # tokens that take about _PIECE_SECONDS; learned
        self.precision_report: dict[str, Any] | None = None
        self.truncated = 0
        self._warned = False
        self._defaults: dict[str, Any] = self.starting_options()
        # A wrong default is refused now, not at the first call.
        self._defaults = self.settings(options, "pipeline")

    def starting_options(self) -> dict[str, Any]:
        """Return the options of a call and what they are when nobody says."""
        raise NotImplementedError

    def settings(self, given: Mapping[str, Any], what: str = "the pipeline") -> dict[str, Any]:
        """Return the options of a call: what was given, else the defaults.

        Raises
        ------
        TypeError
            An option that the task does not have, with the closest one that it has.
        """
        unknown = {name: value for name, value in given.items() if name not in self._defaults}
        if unknown:
            from smhf_native.datasets.mapping import reject_unknown

            reject_unknown(what, unknown, {*self._defaults, "batch_size", "token_budget"})
        return {**self._defaults, **given}

    def run(
        self, encoding: Any, batch_size: int | None = None, call: Any = None
    ) -> Iterator[tuple[int, int, Any]]:
        """Run the model over the rows of an encoding; yield first row, last row (exclusive) and results.

        A batch's result does not depend on what else is in it, so its size may follow the machine's pace.
        """
        call = call or self.model
        bounds = encoding.packed_field("cu_seqlens")
        start, rows = 0, len(bounds) - 1
        while start < rows:
            stop = _cut(bounds, start, self._pace, batch_size or self.batch_size)
            tokens = int(bounds[stop] - bounds[start])
            began = time.perf_counter()
            values = call(_PackedRows(encoding, bounds, start, stop))
            self._learn(tokens, time.perf_counter() - began)
            yield start, stop, values
            start = stop

    def _learn(self, tokens: int, seconds: float) -> None:
        """Let the next batch take about ``_PIECE_SECONDS``, at most doubling from one to the next."""
        if tokens >= self._pace // 2:  # a last, small batch says little
            wanted = int(tokens * _PIECE_SECONDS / max(seconds, 1e-9))
            self._pace = max(_LEAST_TOKENS, min(wanted, 2 * self._pace, self.token_budget))

    def count_truncated(
        self, encoding: Any, base: int, cut: Any, limit: int, texts: list[str], pairs: list[str] | None
    ) -> None:
        """Count the rows that did not fit, warn once, or refuse them."""
        flags = np.asarray(encoding.truncated, dtype=bool)
        count = int(flags.sum())
        if count == 0:
            return
        if cut in (False, None, "do_not_truncate"):
            row = int(np.flatnonzero(flags)[0])
            pair = None if pairs is None else [pairs[row]]
            whole = self.tokenizer([texts[row]], pair)
            length = int(whole.lengths[0])
            raise ValueError(
                f"row {base + row} has {length} tokens, the model takes {limit}; truncation=True would cut it"
            )
        self.truncated += count
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"row {base + int(np.flatnonzero(flags)[0])} is longer than {limit} tokens and was truncated "
                "(further ones are only counted, in .truncated)",
                stacklevel=2,
            )


def as_rows(inputs: Any, what: str = "row") -> tuple[list[str], bool]:
    """Return texts, and whether one was given alone.

    Raises
    ------
    TypeError
        A text that is not a str: named by row.
    """
    single = isinstance(inputs, str)
    texts = [inputs] if single else list(inputs)
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"{what} {row} is {type(text).__name__}, expected str")
    return texts, single


def softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the softmax over the last axis, in float32 as transformers' pipelines compute it."""
    if not logits.size:
        return logits
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True), dtype=np.float32)


def _cut(bounds: npt.NDArray[np.int32], start: int, budget: int, most: int | None) -> int:
    """End of the batch that begins at row ``start``: at most ``budget`` tokens (and ``most`` rows), one row
    at least."""
    rows = len(bounds) - 1
    stop = int(np.searchsorted(bounds, bounds[start] + budget, side="right")) - 1
    return min(max(stop, start + 1), rows, start + most if most is not None else rows)


class _PackedRows:
    """Rows ``start`` to ``stop`` of an encoding as the model takes them: packed, without padding."""

    def __init__(self, encoding: Any, bounds: npt.NDArray[np.int32], start: int, stop: int):
        first, last = int(bounds[start]), int(bounds[stop])
        self._fields = {
            "ids": encoding.packed_field("ids")[first:last],
            "type_ids": encoding.packed_field("type_ids")[first:last],
            "cu_seqlens": bounds[start : stop + 1] - bounds[start],
        }

    def packed_field(self, name: str) -> Any:
        return self._fields[name]


class Progress:
    """tqdm when installed; otherwise a line every few seconds: rows, rows/s, time left."""

    def __init__(self, total: int):
        self._total, self._done = total, 0
        self._began = self._shown = time.monotonic()
        self._bar: Any = None
        try:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=total, unit="row", dynamic_ncols=True)
        except ImportError:
            pass

    def update(self, rows: int) -> None:
        """Count rows that are done."""
        self._done += rows
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(rows)
        elif now - self._shown > 3.0:
            self._shown = now
            rate = self._done / (now - self._began)
            left = (self._total - self._done) / rate
            minutes, seconds = divmod(round(left), 60)
            print(
                f"{self._done} of {self._total} rows, {rate:.0f} rows/s, {minutes}:{seconds:02d} left",
                file=sys.stderr,
                flush=True,
            )

    def close(self) -> None:
        """End the display."""
        if self._bar is not None:
            self._bar.close()
