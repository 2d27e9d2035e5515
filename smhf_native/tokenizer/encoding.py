"""Encoding: the rows of one encoded batch, as arrays made when first asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from smhf_native.tokenizer import _tokenizer

__all__ = ["Encoding"]

Int64Array = npt.NDArray[np.int64]
Int32Array = npt.NDArray[np.int32]
Rows = Int64Array | list[Int64Array]  # int32 when asked for


_WANTED = {
    "offsets": _tokenizer.WANT_OFFSETS,
    "word_ids": _tokenizer.WANT_WORD_IDS,
    "sequence_ids": _tokenizer.WANT_SEQUENCE_IDS,
    "special_mask": _tokenizer.WANT_SPECIAL_MASK,
}
_ALL = sum(_WANTED.values())


class Encoding(_tokenizer.Encoding):
    """Token ids and what belongs to them, for every row of a batch.

    The rows are kept packed (no padding).  With ``padding`` the arrays are 2-D, shape
    (rows, width), int64 unless ``dtype`` said int32; without, each property is a list of 1-D
    arrays, one per row, or a 2-D array when the batch is a single row.  Overflow rows follow the
    row they were cut from; :attr:`overflow_to_sample_mapping` tells which text each row came from.
    ``input_ids``, ``attention_mask`` and ``token_type_ids`` are made by the compiled base class.
    """

    __slots__ = ()

    # --- packed ---------------------------------------------------------------------------------

    def packed(self) -> tuple[Int32Array, Int32Array]:
        """Ids of all rows without padding, and where rows begin.

        Returns
        -------
        ids : ndarray of int32, shape (tokens,)
        cu_seqlens : ndarray of int32, shape (rows + 1,)
            Row ``r`` is ``ids[cu_seqlens[r]:cu_seqlens[r + 1]]``.  Both are read-only views.
        """
        return self.packed_field("ids"), self.packed_field("cu_seqlens")

    def packed_field(self, name: str) -> npt.NDArray[Any]:
        """One packed array without a copy (read-only).

        Parameters
        ----------
        name : {"ids", "type_ids", "cu_seqlens", "offsets", "word_ids", "sequence_ids", \
"special_mask", "sample", "truncated"}
            ``offsets`` has shape (tokens, 2); word and sequence ids are -1 for special tokens.
        """
        array = np.asarray(self._source(name).view(name))
        return array.reshape(-1, 2) if name == "offsets" else array

    def _source(self, name: str) -> _tokenizer.Encoding:
        """Core encoding that holds a field: offsets and the like are computed when first asked for."""
        if _WANTED.get(name, 0) & ~self._want == 0:
            return self
        if self._detail is None:
            if self._again is None:  # made the short way
                texts = (self._texts,) if isinstance(self._texts, str) else self._texts
                made = self._tokenizer.encode(texts, want=_ALL)
            else:
                tokenizer, texts, pairs, options = self._again
                made = tokenizer.encode(texts, pairs, want=_ALL, **options)
            made.layout(None if self._width < 0 else self._width, self._pad_id, self._left, self._item_size)
            self._detail = made
        return self._detail

    # --- rows -----------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Number of rows, overflow rows included."""
        return self.rows

    @property
    def lengths(self) -> Int64Array:
        """Tokens of each row, padding not counted; shape (rows,)."""
        return np.diff(self.packed_field("cu_seqlens")).astype(np.int64)

    @property
    def truncated(self) -> npt.NDArray[np.bool_]:
        """True for rows of texts that were too long and lost tokens; shape (rows,)."""
        flags: npt.NDArray[np.bool_] = self.packed_field("truncated").astype(np.bool_)
        return flags

    @property
    def overflow_to_sample_mapping(self) -> Int64Array:
        """Index of the text that each row came from; shape (rows,)."""
        return self.packed_field("sample").astype(np.int64)

    @property
    def special_tokens_mask(self) -> Rows:
        """1 for special tokens that encoding added and for padding, else 0."""
        return self._rows("special_mask", _tokenizer.FIELD_SPECIAL_MASK, 1)

    @property
    def offsets(self) -> Rows:
        """Begin and end of each token in its text, in characters; last axis 2, (0, 0) for specials."""
        return self._rows("offsets", _tokenizer.FIELD_OFFSETS, 0)

    @property
    def word_ids(self) -> Rows:
        """Index of the word that each token is part of; -1 for special tokens and padding."""
        return self._rows("word_ids", _tokenizer.FIELD_WORD_IDS, -1)

    @property
    def sequence_ids(self) -> Rows:
        """0 for tokens of the text, 1 for the pair's; -1 for special tokens and padding."""
        return self._rows("sequence_ids", _tokenizer.FIELD_SEQUENCE_IDS, -1)

    def _rows(self, name: str, field: int, pad: int) -> Rows:
        """One field as the properties show it; kept, so that the same array comes back."""
        if self._cache is None:
            self._cache = {}
        cached: Rows | None = self._cache.get(name)
        if cached is None:
            cached = self._cache[name] = self._source(name).rows_of(field, pad)
        return cached

    # --- dict-like ------------------------------------------------------------------------------

    def keys(self) -> list[str]:
        """Names that a model takes: ``input_ids``, ``token_type_ids``, ``attention_mask``."""
        return ["input_ids", "token_type_ids", "attention_mask"]

    def __getitem__(self, name: str) -> Any:
        """``enc["input_ids"]`` is ``enc.input_ids``; the same for the other properties."""
        if not isinstance(name, str) or name.startswith("_") or not hasattr(type(self), name):
            raise KeyError(name)
        return getattr(self, name)

    def __repr__(self) -> str:
        return f"Encoding(rows={self.rows}, tokens={self.tokens}, longest={self.longest})"
