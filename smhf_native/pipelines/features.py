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

    def starting_options(self) -> dict[str, Any]:
        """Return the options of a call and what they are when nobody says."""
        return {"truncation": False, "max_length": None, "return_tensors": False}

    def settings(self, given: Mapping[str, Any], what: str = "the pipeline") -> dict[str, Any]:
        """Return the options of a call; those of the tokenizer may come in a dict of their own."""
        options = dict(given)
        options = {**(options.pop("tokenize_kwargs", None) or {}), **options}
        return super().settings({k: v for k, v in options.items() if v is not None}, what)

    def __call__(self, inputs: Any, *, batch_size: int | None = None, **given: Any) -> Any:
        """Return the hidden states of one text or many.

        Returns
        -------
        nested list (or float32 array) of shape (1, tokens, hidden); a list of them for many texts.
        """
        options = self.settings(given)
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

    def starting_options(self) -> dict[str, Any]:
        """Return the options of a call and what they are when nobody says."""
        own = _read_json(self.folder, "sentence_bert_config.json").get("max_seq_length")
        limit = int(own or self.model_max_length)
        return {"pooling": None, "normalize": True, "truncation": True, "max_length": limit}

    def settings(self, given: Mapping[str, Any], what: str = "the pipeline") -> dict[str, Any]:
        """Return the options of a call; the folder's own pooling where none is given."""
        options = super().settings({k: v for k, v in given.items() if v is not None}, what)
        options["pooling"] = options["pooling"] or _folder_pooling(self.folder)
        options["max_length"] = min(int(options["max_length"]), self.model_max_length)
        return options

    def __call__(
        self, inputs: Any, *, batch_size: int | None = None, progress: bool = False, **given: Any
    ) -> npt.NDArray[np.float32]:
        """Return the vectors of one text, (hidden,), or of many, (texts, hidden), float32, in order.

        Parameters
        ----------
        inputs : a str or an iterable of str
        progress : show rows/s and the time left
        given : the options of the class
        """
        texts, single = as_rows(inputs)
        options = self.settings(given)
        limit, cut = options["max_length"], options["truncation"]
        encode = functools.partial(
            self.model.encode, pooling=options["pooling"], normalize=options["normalize"]
        )
        vectors: npt.NDArray[np.float32] | None = None
        bar = Progress(len(texts)) if progress else None
        try:
            for base in range(0, len(texts), CHUNK):
                part = texts[base : base + CHUNK]
                encoding = self.tokenizer(part, truncation=True, max_length=limit)
                self.count_truncated(encoding, base, cut, limit, part, None)
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
