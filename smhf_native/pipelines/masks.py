"""``pipeline("fill-mask")``: what may stand where a text has ``[MASK]``."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from smhf_native.pipelines.base import CHUNK, Pipeline, as_rows, softmax

__all__ = ["FillMaskPipeline"]


class FillMaskPipeline(Pipeline):
    """The likeliest words for every mask; only masks are computed, not the other tokens.

    Parameters
    ----------
    top_k : words for each mask (default 5)
    targets : str or list of str, only these compete; one that the vocabulary lacks is taken by its first token,
        with a warning
    truncation : False (default) refuses a text that is too long, by row; True cuts it
    tokenizer_kwargs : dict with ``truncation``, as transformers takes it
    """

    task = "fill-mask"
    model_task = "masked-lm"

    def starting_options(self) -> dict[str, Any]:
        """Return the options of a call and what they are when nobody says."""
        return {"top_k": 5, "targets": None, "truncation": False, "max_length": None}

    def settings(self, given: Mapping[str, Any], what: str = "the pipeline") -> dict[str, Any]:
        """Return the options of a call; those of the tokenizer may come in a dict of their own."""
        if self.tokenizer.mask_token_id is None:
            raise ValueError("fill-mask: the tokenizer has no mask token")
        options = dict(given)
        options = {**(options.pop("tokenizer_kwargs", None) or {}), **options}
        return super().settings({k: v for k, v in options.items() if v is not None}, what)

    def __call__(self, inputs: Any, *, batch_size: int | None = None, **given: Any) -> Any:
        """Fill the masks of one text or many.

        Returns
        -------
        list of dicts ``{"score", "token", "token_str", "sequence"}``, best first; a list of such lists for a text
        with several masks (each filled by itself), and for several texts.

        Raises
        ------
        ValueError
            A text without a mask, named by row.
        """
        options = self.settings(given)
        texts, _ = as_rows(inputs)
        allowed = None if options["targets"] is None else self._target_ids(options["targets"])
        limit = min(int(options["max_length"] or self.model_max_length), self.model_max_length)
        results: list[Any] = []
        for base in range(0, len(texts), CHUNK):
            part = texts[base : base + CHUNK]
            encoding = self.tokenizer(part, truncation=True, max_length=limit)
            self.count_truncated(encoding, base, options["truncation"], limit, part, None)
            ids, bounds = encoding.packed()
            masked = ids == self.tokenizer.mask_token_id
            counts = np.add.reduceat(masked, bounds[:-1]) if len(part) else np.zeros(0, int)
            if not counts.all():
                row = base + int(np.flatnonzero(counts == 0)[0])
                raise ValueError(f"row {row}: no mask_token ({self.tokenizer.mask_token}) in the text")
            for first, stop, logits in self.run(encoding, batch_size, self._masks):
                at = 0
                for row in range(first, stop):
                    scores = softmax(logits[at : at + counts[row]])
                    at += int(counts[row])
                    tokens = ids[bounds[row] : bounds[row + 1]]
                    results.append(self._filled(tokens, scores, allowed, options["top_k"]))
        return results[0] if len(results) == 1 else results

    def _masks(self, rows: Any) -> npt.NDArray[np.float32]:
        where = rows.packed_field("ids") == self.tokenizer.mask_token_id
        logits: npt.NDArray[np.float32] = self.model.logits_at(where, rows)
        return logits

    def _filled(
        self,
        tokens: npt.NDArray[np.int32],
        scores: npt.NDArray[np.float32],
        allowed: npt.NDArray[np.int64] | None,
        top_k: int,
    ) -> Any:
        """The best words of every mask of one text."""
        places = np.flatnonzero(tokens == self.tokenizer.mask_token_id)
        alone = len(places) == 1
        answers = []
        for place, row in zip(places, scores, strict=True):
            words = np.arange(len(row)) if allowed is None else allowed
            order = np.argsort(-row[words], kind="stable")[: int(top_k)]
            found = []
            for word in words[order].tolist():
                filled = tokens.copy()
                filled[place] = word
                found.append(
                    {
                        "score": float(row[word]),
                        "token": word,
                        "token_str": self.tokenizer.decode([word]),
                        # With several masks the others stay visible, and so do the special tokens.
                        "sequence": self.tokenizer.decode(filled, skip_special_tokens=alone),
                    }
                )
            answers.append(found)
        return answers[0] if alone else answers

    def _target_ids(self, targets: Any) -> npt.NDArray[np.int64]:
        found = set()
        for target in [targets] if isinstance(targets, str) else list(targets):
            token = self.tokenizer.token_to_id(target)
            if token is None:
                ids, _ = self.tokenizer(target, add_special_tokens=False).packed()
                if not len(ids):
                    continue
                token = int(ids[0])
                logging.getLogger("smhf_native").warning(
                    "fill-mask: the vocabulary has no %r; %r is taken instead",
                    target,
                    self.tokenizer.id_to_token(token),
                )
            found.add(int(token))
        if not found:
            raise ValueError("targets: at least one word must be given")
        return np.array(sorted(found), dtype=np.int64)
