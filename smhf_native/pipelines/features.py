"""``pipeline("feature-extraction")``: hidden states; ``pipeline("sentence-embeddings")``: one vector a text."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from smhf_native.pipelines.base import CHUNK, Pipeline, Progress, as_rows

__all__ = ["FeatureExtractionPipeline", "SentenceEmbeddingsPipeline"]


class FeatureExtractionPipeline(Pipeline):
    """The last hidden states of every token.

    Parameters
    ----------
    truncation : False (default) refuses a text that is too long, by row; True cuts it
    max_length : tokens kept per text (default: the model's maximum)
    return_tensors : True: an array of shape (1, tokens, hidden) for each text; else nested lists
    tokenize_kwargs : dict with ``truncation`` and ``max_length``, as transformers takes them
    """

    task = "feature-extraction"
    model_task = "embedding"

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        config: Mapping[str, Any],
        model_max_length: int,
        *,
        batch_size: int | None = None,
        token_budget: int = 4096,
        **options: Any,
    ):
        super().__init__(
            model, tokenizer, config, model_max_length, batch_size=batch_size, token_budget=token_budget
        )
        self._defaults: dict[str, Any] = {"truncation": False, "max_length": None, "return_tensors": False}
        self._defaults = self._settings("pipeline", options)

    def _settings(self, what: str, given: dict[str, Any]) -> dict[str, Any]:
        given = {**(given.pop("tokenize_kwargs", None) or {}), **given}
        unknown = {name: value for name, value in given.items() if name not in self._defaults}
        if unknown:
            from smhf_native.datasets.mapping import reject_unknown

            known = {*self._defaults, "tokenize_kwargs", "batch_size", "token_budget"}
            reject_unknown(what, unknown, known)
        return {**self._defaults, **{name: value for name, value in given.items() if value is not None}}

    def __call__(self, inputs: Any, *, batch_size: int | None = None, **given: Any) -> Any:
        """Return the hidden states of one text or many.

        Returns
        -------
        nested list (or float32 array) of shape (1, tokens, hidden); a list of them for many texts.
        """
        options = self._settings("the pipeline", given)
        texts, single = as_rows(inputs)
        limit = min(int(options["max_length"] or self.model_max_length), self.model_max_length)
        results: list[Any] = []
        for base in range(0, len(texts), CHUNK):
            part = texts[base : base + CHUNK]
            encoding = self.tokenizer(part, truncation=True, max_length=limit)
            self.count_truncated(encoding, base, options["truncation"], limit, part, None)
            lengths = encoding.lengths
            for first, stop, states in self.run(encoding, batch_size):
                rows = [states[row - first, : lengths[row]][None] for row in range(first, stop)]
                results += [_tensor(row) if options["return_tensors"] else row.tolist() for row in rows]
        return results[0] if single else results


def _tensor(row: npt.NDArray[np.float32]) -> Any:
    from smhf_native.datasets.tensors import as_tensor

    return as_tensor(row.copy())


class SentenceEmbeddingsPipeline(Pipeline):
    """One vector for each text; dot products of normalised vectors are cosine similarities.

    Parameters
    ----------
    pooling : "mean" (over a text's tokens) or "cls" (its first token); default: what the folder's
        ``1_Pooling/config.json`` says (folders of sentence-transformers have one), else "mean"
    normalize : scale vectors to length 1 (default)
    max_length : tokens kept per text; default: ``max_seq_length`` of the folder's ``sentence_bert_config.json``,
        else the model's maximum.  Longer texts are cut, counted in ``.truncated`` and announced once
    truncation : False refuses a text that is too long, by row
    """

    task = "sentence-embeddings"
    model_task = "embedding"

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
        pooling: str | None = None,
        normalize: bool = True,
        max_length: int | None = None,
        truncation: Any = True,
        **unknown: Any,
    ):
        if unknown:
            from smhf_native.datasets.mapping import reject_unknown

            known = {"pooling", "normalize", "max_length", "truncation", "batch_size", "token_budget"}
            reject_unknown("pipeline", unknown, known)
        super().__init__(
            model, tokenizer, config, model_max_length, batch_size=batch_size, token_budget=token_budget
        )
        own = _read_json(folder, "sentence_bert_config.json").get("max_seq_length")
        self.pooling = pooling or _folder_pooling(folder)
        self.normalize = normalize
        self.max_length = min(int(max_length or own or model_max_length), model_max_length)
        self.truncation = truncation

    def __call__(
        self,
        inputs: Any,
        *,
        pooling: str | None = None,
        normalize: bool | None = None,
        truncation: Any = None,
        batch_size: int | None = None,
        progress: bool = False,
    ) -> npt.NDArray[np.float32]:
        """Return the vectors of one text, (hidden,), or of many, (texts, hidden), float32, in order.

        Parameters
        ----------
        inputs : a str or an iterable of str
        pooling, normalize, truncation : as in the class
        progress : show rows/s and the time left
        """
        texts, single = as_rows(inputs)
        cut = self.truncation if truncation is None else truncation
        options: dict[str, Any] = {
            "pooling": pooling or self.pooling,
            "normalize": self.normalize if normalize is None else normalize,
        }
        vectors: npt.NDArray[np.float32] | None = None
        encode = functools.partial(self.model.encode, **options)
        bar = Progress(len(texts)) if progress else None
        try:
            for base in range(0, len(texts), CHUNK):
                part = texts[base : base + CHUNK]
                encoding = self.tokenizer(part, truncation=True, max_length=self.max_length)
                self.count_truncated(encoding, base, cut, self.max_length, part, None)
                for first, stop, values in self.run(encoding, batch_size, encode):
                    if vectors is None:
                        vectors = np.empty((len(texts), values.shape[1]), dtype=np.float32)
                    vectors[base + first : base + stop] = values
                    if bar is not None:
                        bar.update(stop - first)
        finally:
            if bar is not None:
                bar.close()
        if vectors is None:
            vectors = np.empty((0, int(self.model.info["hidden"])), dtype=np.float32)
        return vectors[0] if single else vectors


def _read_json(folder: Path | None, name: str) -> dict[str, Any]:
    path = folder / name if folder is not None else None
    if path is None or not path.is_file():
        return {}
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values


def _folder_pooling(folder: Path | None) -> str:
    """Pooling of a folder of sentence-transformers."""
    settings = _read_json(folder, "1_Pooling/config.json")
    modes = [name for name, value in settings.items() if name.startswith("pooling_mode_") and value is True]
    known = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}
    other = [mode for mode in modes if mode not in known]
    if other or len(modes) > 1:
        raise ValueError(
            f"{folder}: pooling {', '.join(modes)} is not supported; give pooling='mean' or 'cls'"
        )
    return known[modes[0]] if modes else "mean"
