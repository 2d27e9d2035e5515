"""``DataCollatorForLanguageModeling``: batches for masked-LM training, drawn from a seed."""

from __future__ import annotations

from typing import Any

import numpy as np

from smhf_native.datasets.tensors import as_tensor

__all__ = ["DataCollatorForLanguageModeling"]


class DataCollatorForLanguageModeling:
    """Pad the rows of a batch, hide some of their tokens and make the labels that ask for them.

    Parameters
    ----------
    tokenizer : a tokenizer of the mirror, with a mask token
    mlm : must be True: models that predict the next word are not supported
    mlm_probability : share of the tokens that are asked about; special tokens never are
    mask_replace_prob, random_replace_prob : of these, how many become the mask token, and a random word
    pad_to_multiple_of : as in ``tokenizer.pad``
    seed : of the draws; None: that of :func:`set_seed`
    """

    def __init__(
        self,
        tokenizer: Any,
        mlm: bool = True,
        mlm_probability: float | None = 0.15,
        mask_replace_prob: float = 0.8,
        random_replace_prob: float = 0.1,
        pad_to_multiple_of: int | None = None,
        return_tensors: str = "pt",
        seed: int | None = None,
    ):
        if not mlm:
            raise NotImplementedError("mlm=False: models that predict the next word are not supported")
        if tokenizer.mask_token is None:
            raise ValueError("mlm=True needs a tokenizer with a mask token")
        if not 0.0 <= mask_replace_prob + random_replace_prob <= 1.0:
            raise ValueError("mask_replace_prob + random_replace_prob must lie between 0 and 1")
        self.tokenizer = tokenizer
        self.mlm = mlm
        self.mlm_probability = 0.15 if mlm_probability is None else mlm_probability
        self.mask_replace_prob = mask_replace_prob
        self.random_replace_prob = random_replace_prob
        self.pad_to_multiple_of = pad_to_multiple_of
        self.return_tensors = return_tensors
        self.seed = seed
        self._rng: np.random.Generator | None = None

    def _generator(self) -> np.random.Generator:
        if self._rng is None:
            from smhf_native.transformers.trainer_utils import current_seed

            self._rng = np.random.default_rng(current_seed() if self.seed is None else self.seed)
        return self._rng

    def __call__(self, features: list[Any], return_tensors: str | None = None) -> dict[str, Any]:
        """Pad, hide and label."""
        from smhf_native.model.masking import mask_tokens

        rows = [row if isinstance(row, dict) else {"input_ids": row} for row in features]
        special = [row.get("special_tokens_mask") for row in rows]
        dropped = ("special_tokens_mask", "label", "labels", "label_ids")
        batch = dict(
            self.tokenizer.pad(
                [{key: value for key, value in row.items() if key not in dropped} for row in rows],
                pad_to_multiple_of=self.pad_to_multiple_of,
                return_tensors="smhf",
            )
        )
        ids = np.asarray(batch["input_ids"])
        allowed = ~np.isin(ids, np.asarray(self.tokenizer.all_special_ids))
        for row, marks in enumerate(special):
            if marks is not None:
                allowed[row, : len(marks)] = np.asarray(marks) == 0
                allowed[row, len(marks) :] = False
        hidden, labels = mask_tokens(
            ids,
            allowed,
            mask_id=self.tokenizer.mask_token_id,
            vocab_size=len(self.tokenizer),
            rng=self._generator(),
            probability=self.mlm_probability,
            mask_share=self.mask_replace_prob,
            random_share=self.random_replace_prob,
        )
        batch["input_ids"], batch["labels"] = as_tensor(hidden), as_tensor(labels)
        return batch
