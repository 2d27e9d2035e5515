"""``pipeline("text-classification")``: texts in, labels and scores out."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from smhf_native.errors import MissingExtraError
from smhf_native.pipelines.base import CHUNK, UNSET, Pipeline, PredictInterrupted, Progress, softmax

__all__ = ["TextClassificationPipeline", "score_function"]

_FUNCTIONS = ("softmax", "sigmoid", "none")


def score_function(config: Mapping[str, Any], num_labels: int) -> str:
    """Return what turns logits into scores, as transformers' pipeline chooses."""
    problem = config.get("problem_type")
    if problem == "regression":
        return "none"
    if problem == "multi_label_classification" or num_labels == 1:
        return "sigmoid"
    return "softmax"


class TextClassificationPipeline(Pipeline):
    """A classifier over a tokenizer and a model; thread class: as the model's (calls may run at once).

    Attributes
    ----------
    truncated : number of texts cut to the model's maximum so far
    precision_report : dict or None: what ``precision="auto"`` measured and chose, and why
    """

    task = "text-classification"
    model_task = "sequence-classification"

    def starting_options(self) -> dict[str, Any]:
        """Return the options of a call and what they are when nobody says."""
        return {"top_k": UNSET, "function_to_apply": None, "truncation": True, "max_length": None}

    def settings(self, given: Mapping[str, Any], what: str = "the pipeline") -> dict[str, Any]:
        """Return the options of a call; old names become new ones."""
        options = dict(given)
        options.pop("padding", None)  # rows are packed: padding has nothing to say
        if options.pop("return_all_scores", None):
            options["top_k"] = None
        for name in ("function_to_apply", "max_length"):
            if options.get(name, UNSET) is None:
                del options[name]  # None asks for the default
        return super().settings(options, what)

    # -- call ---------------------------------------------------------------------------------

    def __call__(self, inputs: Any, *, batch_size: int | None = None, **given: Any) -> Any:
        """Classify one text or many.

        Parameters
        ----------
        inputs : a str; a list, tuple, Series or other iterable of str; or dicts
            ``{"text": …, "text_pair": …}``
        top_k : left out: the best label of each text; a number: that many, best first; None: all
        function_to_apply : "softmax" (default for one of several labels), "sigmoid" (default for a single
            label and for several at once), "none" (default for regression); ``problem_type`` tells them apart
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
        options = self.settings(given)
        single = isinstance(inputs, (str, Mapping))
        rows = [inputs] if single else list(inputs)
        texts, pairs = _split_pairs(rows)
        best = options.pop("top_k")
        scores = self.scores(texts, pairs, batch_size=batch_size, **options)
        if best is UNSET:
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
        truncation: Any = UNSET,
        max_length: int | None = None,
        batch_size: int | None = None,
        progress: bool = False,
    ) -> npt.NDArray[np.float32]:
        """Return the scores of every label, float32 (rows, num_labels), in input order."""
        function = function_to_apply or self._defaults["function_to_apply"]
        function = str(function or score_function(self.config, len(self.id2label))).lower()
        if function not in _FUNCTIONS:
            raise ValueError(f"function_to_apply={function!r} is not one of {', '.join(_FUNCTIONS)}")
        for row, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"row {row} is {type(text).__name__}, expected str")
        cut = self._defaults["truncation"] if truncation is UNSET else truncation
        limit = max_length or self._defaults["max_length"] or self.model_max_length
        limit = min(int(limit), self.model_max_length)
        logits = np.empty((len(texts), len(self.id2label)), dtype=np.float32)
        bar = Progress(len(texts)) if progress else None
        done = 0
        try:
            for start in range(0, len(texts), CHUNK):
                part = texts[start : start + CHUNK]
                others = pairs[start : start + CHUNK] if pairs is not None else None
                pieces = self._pieces(part, others, start, cut, limit, batch_size)
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
        """Tokenize up to ``CHUNK`` rows; yield each batch's first row and its logits."""
        encoding = self.tokenizer(texts, pairs, truncation=True, max_length=limit)
        self.count_truncated(encoding, base, cut, limit, texts, pairs)
        for start, _stop, values in self.run(encoding, batch_size):
            yield base + start, values

    # -- tables -------------------------------------------------------------------------------

    def predict(
        self,
        texts: Any,
        *,
        errors: str = "column",
        truncation: Any = UNSET,
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


def _activate(logits: npt.NDArray[np.float32], function: str) -> npt.NDArray[np.float32]:
    if function == "none":
        return logits
    if function == "sigmoid":
        return np.asarray(1.0 / (1.0 + np.exp(-logits)), dtype=np.float32)
    return softmax(logits)
