"""``pipeline("text-classification", model=…)``: texts in, labels and scores out.

::

    import smhf_native as smhf
    clf = smhf.pipeline("text-classification", model="model-folder")
    clf(["fits well", "too small"])      # [{'label': 'LABEL_4', 'score': 0.93}, …] like transformers
    frame = clf.predict(df["text"])      # DataFrame label, score, same index, any number of rows

Rows are handed to the model packed, without padding, in batches of a token budget that follows the
machine's pace, so that Ctrl-C acts at once and loses nothing (:class:`PredictInterrupted`); results come
back in the order of the input and do not depend on how rows were batched.  Texts longer than the model's
maximum are truncated, counted in ``clf.truncated`` and announced by one warning; ``truncation=False`` refuses
them by row.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from smhf_native.errors import MissingExtraError
from smhf_native.hub import MODEL_FILES, TOKENIZER_FILES, resolve

__all__ = ["PredictInterrupted", "TextClassificationPipeline", "pipeline"]

_TASKS = ("text-classification", "sentiment-analysis")
_FUNCTIONS = ("softmax", "sigmoid", "none")
_CHUNK = 8192  # rows tokenized at a time: bounds memory for any number of rows
_PIECE_SECONDS = 0.2  # one uninterruptible batch: half of what a user waits for after Ctrl-C
_LEAST_TOKENS = 256
_UNSET: Any = object()


def pipeline(
    task: str | None = None,
    model: Any = None,
    tokenizer: Any = None,
    *,
    device: Any = None,
    batch_size: int | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    precision: str | None = None,
    calibration: Any = None,
    **options: Any,
) -> TextClassificationPipeline:
    """Make a classifier.

    Parameters
    ----------
    task : "text-classification" (or "sentiment-analysis"); may be left out
    model : folder, hub name, or a model of the transformers mirror (then ``tokenizer`` is needed too)
    tokenizer : folder, hub name or tokenizer; default: the one beside the model
    device : "auto", "cpu", "cuda" or -1 (transformers' word for the processor)
    batch_size : rows per batch at most; None: by token budget alone
    precision : "fp32", "bf16", "int8" or "auto" (see :meth:`smhf_native.Model.from_pretrained`); None: the
        environment's ``SMHF_PRECISION``, else "fp32".  A model object keeps its own unless this is given
    calibration : list of texts like those that will come, for ``precision="auto"``; default: the folder's own
        ``calibration.json``.  ``clf.precision_report`` says what was measured and chosen
    options : defaults of the call: ``top_k``, ``function_to_apply``, ``truncation``, ``max_length``

    Raises
    ------
    ValueError
        Another task.
    smhf_native.hub.ModelNotFoundError, smhf_native.errors.ParseError
    """
    if task is not None and task not in _TASKS:
        raise ValueError(f"task {task!r} is not supported; supported: {', '.join(_TASKS)}")
    if model is None:
        raise ValueError("pipeline needs model=: a folder, a hub name or a model")
    for ignored in (
        "framework",
        "torch_dtype",
        "dtype",
        "device_map",
        "use_fast",
        "trust_remote_code",
        "config",
    ):
        options.pop(ignored, None)
    native, config, folder = _open_model(model, revision, token, device, precision)
    native_tokenizer, limit = _open_tokenizer(tokenizer, model, folder, config, revision, token)
    known, rows = int(native_tokenizer.vocab_size), int(config.get("vocab_size") or 0)
    if rows and known > rows:
        raise ValueError(
            f"the tokenizer has {known} tokens, the model's vocabulary {rows}: tokenizer and weights do not "
            "belong together"
        )
    report = _choose_precision(native, native_tokenizer, folder, limit, precision, calibration)
    made = TextClassificationPipeline(
        native, native_tokenizer, config, limit, batch_size=batch_size, **options
    )
    made.precision_report = report
    return made


def _choose_precision(
    native: Any, tokenizer: Any, folder: Path | None, limit: int, precision: str | None, calibration: Any
) -> dict[str, Any] | None:
    """Measure for ``"auto"``; the report."""
    from smhf_native.model import precision as precisions

    wanted = precisions.resolve(precision) if folder is not None or precision is not None else None
    if wanted != "auto":
        if folder is None and wanted is not None:
            native.set_precision(wanted)
        return None
    if calibration is not None:
        batch: Any = tokenizer(list(calibration), truncation=True, max_length=limit)
    else:
        batch = precisions.read_calibration(folder / precisions.CALIBRATION_NAME) if folder else None
    report = precisions.choose(native, batch)
    logging.getLogger("smhf_native").info("precision %s", report["reason"])
    return report


def _open_model(
    model: Any, revision: Any, token: Any, device: Any, precision: str | None
) -> tuple[Any, dict[str, Any], Path | None]:
    if not isinstance(model, (str, os.PathLike)):
        native = getattr(model, "native", model)
        config = model.config if isinstance(model.config, Mapping) else model.config.to_dict()
        return native, dict(config), None
    from smhf_native.model import Model
    from smhf_native.model.precision import resolve as resolve_precision
    from smhf_native.transformers.engine import model_folder

    folder = resolve(model, revision, needs=MODEL_FILES, token=token)
    name = "cpu" if device in (-1, "cpu") else ("cuda" if isinstance(device, int) and device >= 0 else device)
    with model_folder(folder, None) as source:
        start = "fp32" if resolve_precision(precision) == "auto" else precision  # auto is measured later
        native = Model.from_pretrained(str(source), device=str(name or "auto"), precision=start)
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


class TextClassificationPipeline:
    """A classifier over a tokenizer and a model; thread class: as the model's (calls may run at once).

    Attributes
    ----------
    truncated : number of texts cut to the model's maximum so far
    precision_report : dict or None: what ``precision="auto"`` measured and chose, and why
    """

    task = "text-classification"

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        config: Mapping[str, Any],
        model_max_length: int,
        *,
        batch_size: int | None = None,
        token_budget: int = 4096,
        top_k: Any = _UNSET,
        function_to_apply: str | None = None,
        truncation: Any = True,
        max_length: int | None = None,
        return_all_scores: bool | None = None,
        **unknown: Any,
    ):
        if unknown:
            from smhf_native.datasets.mapping import reject_unknown

            reject_unknown("pipeline", unknown, _OPTIONS)
        self.model = model
        self.tokenizer = tokenizer
        self.config = dict(config)
        labels = {int(key): str(value) for key, value in (config.get("id2label") or {}).items()}
        self.id2label = labels or {int(k): str(v) for k, v in getattr(model, "id2label", {}).items()}
        self.model_max_length = model_max_length
        self.batch_size = batch_size
        self.token_budget = token_budget
        self._pace = min(512, token_budget)  # tokens that take about _PIECE_SECONDS; learned
        self.precision_report: dict[str, Any] | None = None
        self.truncated = 0
        self._warned = False
        self._defaults = {
            "top_k": None if return_all_scores else top_k,
            "function_to_apply": function_to_apply,
            "truncation": truncation,
            "max_length": max_length,
        }

    # -- call ---------------------------------------------------------------------------------

    def __call__(
        self,
        inputs: Any,
        *,
        top_k: Any = _UNSET,
        function_to_apply: str | None = None,
        truncation: Any = _UNSET,
        max_length: int | None = None,
        batch_size: int | None = None,
        return_all_scores: bool | None = None,
        **unknown: Any,
    ) -> Any:
        """Classify one text or many.

        Parameters
        ----------
        inputs : a str; a list, tuple, Series or other iterable of str; or dicts
            ``{"text": …, "text_pair": …}``
        top_k : left out: the best label of each text; a number: that many, best first; None: all
        function_to_apply : "softmax" (default for several labels), "sigmoid" (default for one), "none"
        truncation : True (default) or False, which raises for a text that is too long
        max_length : tokens kept per text (default: the model's maximum)

        Returns
        -------
        list of dicts ``{"label", "score"}``; with ``top_k`` a list of lists (for one str: one list).

        Raises
        ------
        TypeError, ValueError
            A text that is not a str, or too long with ``truncation=False``: named by row.
        """
        unknown.pop("padding", None)  # rows are packed: padding has nothing to say
        if unknown:
            from smhf_native.datasets.mapping import reject_unknown

            reject_unknown("the pipeline", unknown, _OPTIONS)
        single = isinstance(inputs, (str, Mapping))
        rows = [inputs] if single else list(inputs)
        texts, pairs = _split_pairs(rows)
        if return_all_scores:
            top_k = None
        best = self._defaults["top_k"] if top_k is _UNSET else top_k
        scores = self.scores(
            texts,
            pairs,
            function_to_apply=function_to_apply,
            truncation=truncation,
            max_length=max_length,
            batch_size=batch_size,
        )
        if best is _UNSET:
            answers = self._best(scores)
            return answers[0] if isinstance(inputs, Mapping) else answers  # as transformers does
        ranked = [self._ranked(row, best) for row in scores]
        return ranked[0] if single else ranked

    def _best(self, scores: npt.NDArray[np.float32]) -> list[dict[str, Any]]:
        index = scores.argmax(axis=1) if len(scores) else []
        return [{"label": self.id2label[int(k)], "score": float(scores[i, k])} for i, k in enumerate(index)]

    def _ranked(self, row: npt.NDArray[np.float32], top_k: Any) -> list[dict[str, Any]]:
        order = np.argsort(-row, kind="stable")
        order = order if top_k is None else order[: int(top_k)]
        return [{"label": self.id2label[int(k)], "score": float(row[k])} for k in order]

    def scores(
        self,
        texts: list[str],
        pairs: list[str] | None = None,
        *,
        function_to_apply: str | None = None,
        truncation: Any = _UNSET,
        max_length: int | None = None,
        batch_size: int | None = None,
        progress: bool = False,
    ) -> npt.NDArray[np.float32]:
        """Return the scores of every label, float32 (rows, num_labels), in input order."""
        function = function_to_apply or self._defaults["function_to_apply"]
        function = str(function).lower() if function is not None else None
        if function is not None and function not in _FUNCTIONS:
            raise ValueError(f"function_to_apply={function!r} is not one of {', '.join(_FUNCTIONS)}")
        for row, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"row {row} is {type(text).__name__}, expected str")
        cut = self._defaults["truncation"] if truncation is _UNSET else truncation
        limit = max_length or self._defaults["max_length"] or self.model_max_length
        limit = min(int(limit), self.model_max_length)
        logits = np.empty((len(texts), len(self.id2label)), dtype=np.float32)
        bar = _Progress(len(texts)) if progress else None
        done = 0
        try:
            for start in range(0, len(texts), _CHUNK):
                part = texts[start : start + _CHUNK]
                others = pairs[start : start + _CHUNK] if pairs is not None else None
                pieces = self._pieces(part, others, start, cut, limit, batch_size or self.batch_size)
                for first, values in pieces:
                    logits[first : first + len(values)] = values
                    done = first + len(values)
                    if bar is not None:
                        bar.update(len(values))
        except KeyboardInterrupt:
            raise PredictInterrupted(done, len(texts), _activate(logits[:done], function)) from None
        finally:
            if bar is not None:
                bar.close()
        return _activate(logits, function)

    def _pieces(
        self,
        texts: list[str],
        pairs: list[str] | None,
        base: int,
        cut: Any,
        limit: int,
        batch_size: int | None,
    ) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """Tokenize up to ``_CHUNK`` rows; yield each batch's first row and its logits.

        A batch's result does not depend on what else is in it, so its size may follow the machine's pace.
        """
        encoding = self.tokenizer(texts, pairs, truncation=True, max_length=limit)
        self._count_truncated(encoding, base, cut, limit, texts, pairs)
        bounds = encoding.packed_field("cu_seqlens")
        start, rows = 0, len(bounds) - 1
        while start < rows:
            stop = _cut(bounds, start, self._pace, batch_size)
            tokens = int(bounds[stop] - bounds[start])
            began = time.perf_counter()
            values = self.model(_PackedRows(encoding, bounds, start, stop))
            self._learn(tokens, time.perf_counter() - began)
            yield base + start, values
            start = stop

    def _learn(self, tokens: int, seconds: float) -> None:
        """Let the next batch take about ``_PIECE_SECONDS``, at most doubling from one to the next."""
        if tokens >= self._pace // 2:  # a last, small batch says little
            wanted = int(tokens * _PIECE_SECONDS / max(seconds, 1e-9))
            self._pace = max(_LEAST_TOKENS, min(wanted, 2 * self._pace, self.token_budget))

    def _count_truncated(
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

    # -- tables -------------------------------------------------------------------------------

    def predict(
        self,
        texts: Any,
        *,
        errors: str = "column",
        truncation: Any = _UNSET,
        batch_size: int | None = None,
        progress: bool | None = None,
    ) -> Any:
        """Classify a column of any length.

        Parameters
        ----------
        texts : Series, list or other iterable of str
        errors : what a row without text (None, NaN, not a str) does.  "column" (default): its label and score
            are missing and a column ``error`` says why; "raise": ValueError naming the first such row
        truncation : as in the call
        progress : show rows/s and the time left; None: on a terminal or in a notebook from 20,000 rows on

        Raises
        ------
        PredictInterrupted
            Ctrl-C: within half a second, with the finished rows in ``.frame``.

        Returns
        -------
        pandas.DataFrame with label (str), score (float64), and error (str or None) when a row had one; the
        index of a Series is kept, rows stay in order.
        """
        try:
            import pandas
        except ImportError as error:
            raise MissingExtraError.of("pandas", "pandas", "predict() with a DataFrame result") from error
        if errors not in ("column", "raise"):
            raise ValueError(f"errors={errors!r} is not one of column, raise")
        if isinstance(texts, str):
            raise TypeError("predict takes a column of texts; for one text call the pipeline")
        if isinstance(texts, pandas.DataFrame):
            raise TypeError(f"predict takes one column, e.g. df['text']; the table has {list(texts.columns)}")
        index = texts.index if isinstance(texts, pandas.Series) else None
        values = list(texts)
        problems = {row: why for row, why in enumerate(map(_problem, values)) if why is not None}
        if problems and errors == "raise":
            row = next(iter(problems))
            raise ValueError(
                f"row {row}: {problems[row]} ({len(problems)} of {len(values)} rows have no text)"
            )
        good = [row for row in range(len(values)) if row not in problems]
        watched = sys.stderr.isatty() or "ipykernel" in sys.modules
        show = progress if progress is not None else len(values) >= 20000 and watched

        def frame(scores: npt.NDArray[np.float32], rows: int) -> Any:
            labels = np.full(rows, None, dtype=object)
            best = np.full(rows, math.nan)
            if len(scores):  # by columns: a dict for each row would be most of the memory
                winners = scores.argmax(axis=1)
                names = np.array([self.id2label[k] for k in range(scores.shape[1])], dtype=object)
                answered = good[: len(scores)]
                labels[answered] = names[winners]
                best[answered] = scores[np.arange(len(scores)), winners]
            columns: dict[str, Any] = {"label": labels, "score": best}
            part = index if index is None else index[:rows]
            if problems:
                reasons = [problems.get(row) for row in range(rows)]
                columns["error"] = pandas.Series(reasons, index=part, dtype=object)  # None stays None
            return pandas.DataFrame(columns, index=part)

        try:
            scores = self.scores(
                [values[row] for row in good], truncation=truncation, batch_size=batch_size, progress=show
            )
        except PredictInterrupted as interrupted:
            # In rows of the input: all before the first row that has a text and no answer.
            done = good[interrupted.done] if interrupted.done < len(good) else len(values)
            interrupted.frame = frame(interrupted.scores, done)
            interrupted.done = done
            raise
        return frame(scores, len(values))


_OPTIONS = {
    "top_k", "function_to_apply", "truncation", "max_length", "batch_size", "return_all_scores", "token_budget",
    "padding",
}  # fmt: skip


def _problem(value: Any) -> str | None:
    if isinstance(value, str):
        return None
    if value is None or (isinstance(value, float) and math.isnan(value)) or type(value).__name__ == "NAType":
        return "no text (missing value)"
    return f"no text ({type(value).__name__})"


def _split_pairs(rows: list[Any]) -> tuple[list[str], list[str] | None]:
    if not any(isinstance(row, Mapping) for row in rows):
        return rows, None
    texts: list[str] = []
    pairs: list[str | None] = []
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping) or not isinstance(row.get("text"), str):
            raise TypeError(f"row {number}: expected a dict with text (and text_pair), as the other rows")
        texts.append(row["text"])
        pairs.append(row.get("text_pair"))
    given = [pair for pair in pairs if pair is not None]
    if not given:
        return texts, None
    if len(given) != len(rows):
        raise TypeError(f"row {pairs.index(None)} has no text_pair, others have one")
    return texts, given


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


def _activate(logits: npt.NDArray[np.float32], function: str | None) -> npt.NDArray[np.float32]:
    if function is None:
        function = "sigmoid" if logits.shape[1] == 1 else "softmax"
    if function == "none":
        return logits
    if function == "sigmoid":
        return np.asarray(1.0 / (1.0 + np.exp(-logits)), dtype=np.float32)
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True)) if len(logits) else logits
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), dtype=np.float32)


class _Progress:
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
        if self._bar is not None:
            self._bar.close()
