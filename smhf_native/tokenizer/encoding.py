"""Encoding: the rows of one encoded batch, as arrays made when first asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from smhf_native.tokenizer import _tokenizer

__all__ = ["Encoding"]

Int64Array = npt.NDArray[np.int64]
Int32Array = npt.NDArray[np.int32]
Rows = Int64Array | list[Int64Array]


_WANTED = {
    "offsets": _tokenizer.WANT_OFFSETS,
    "word_ids": _tokenizer.WANT_WORD_IDS,
    "sequence_ids": _tokenizer.WANT_SEQUENCE_IDS,
    "special_mask": _tokenizer.WANT_SPECIAL_MASK,
}
_ALL = sum(_WANTED.values())
_INT64 = np.dtype(np.int64)


class Encoding:
    """Token ids and what belongs to them, for every row of a batch.

    The rows are kept packed (no padding).  With ``padding`` the arrays are 2-D, shape
    (rows, width), int64; without, each property is a list of 1-D int64 arrays, one per row,
    or a 2-D array when the batch is a single row.  Overflow rows follow the row they were cut
    from; :attr:`overflow_to_sample_mapping` tells which text each row came from.
    """

    __slots__ = ("_again", "_cache", "_core", "_left", "_pad_id", "_want", "_width")

    def __init__(
        self,
        core: _tokenizer.Encoding,
        width: int | None,
        left: bool,
        pad_id: int,
        want: int,
        again: tuple[_tokenizer.Tokenizer, tuple[Any, ...], tuple[Any, ...] | None, dict[str, Any]],
    ) -> None:
        self._core = core
        self._width = width
        self._left = left
        self._pad_id = pad_id
        self._want = want
        self._again = again  # tokenizer, texts, pairs, options: what a second pass encodes
        self._cache: dict[str, Any] = {}

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
        needed = _WANTED.get(name, 0)
        if needed & ~self._want:
            tokenizer, texts, pairs, options = self._again
            self._core = tokenizer.encode(texts, pairs, want=_ALL, **options)
            self._want = _ALL
        return self._core

    # --- rows -----------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Number of rows, overflow rows included."""
        return self._core.rows

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
    def truncated_count(self) -> int:
        """How many texts lost tokens."""
        return self._core.truncated_count

    @property
    def overflow_to_sample_mapping(self) -> Int64Array:
        """Index of the text that each row came from; shape (rows,)."""
        return self.packed_field("sample").astype(np.int64)

    @property
    def input_ids(self) -> Rows:
        """Token ids; padding is the pad token's id."""
        return self._rows("ids", _tokenizer.FIELD_IDS, self._pad_id)

    @property
    def attention_mask(self) -> Rows:
        """1 for tokens, 0 for padding."""
        return self._rows("attention", _tokenizer.FIELD_ATTENTION_MASK, 0)

    @property
    def token_type_ids(self) -> Rows:
        """0 for the text and its special tokens, 1 for the pair's; padding 0."""
        return self._rows("type_ids", _tokenizer.FIELD_TYPE_IDS, 0)

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
        cached: Rows | None = self._cache.get(name)
        if cached is not None:
            return cached
        core = self._source(name)
        rows, width = core.rows, self._width
        if width is None and rows == 1:
            width = core.longest
        shape: tuple[int, ...]
        result: Rows
        if width is not None:
            shape = (rows, width, 2) if name == "offsets" else (rows, width)
            array: Int64Array = np.empty(shape, _INT64)
            core.fill(field, array, width, pad, self._left)
            result = array
        else:
            cuts = self.packed_field("cu_seqlens")[1:-1]
            if name == "attention":
                flat: npt.NDArray[np.int64] = np.ones(core.tokens, dtype=np.int64)
            else:
                flat = self.packed_field(name).astype(np.int64)
            result = np.split(flat, cuts)[:rows]
        self._cache[name] = result
        return result

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
        core = self._core
        return f"Encoding(rows={core.rows}, tokens={core.tokens}, longest={core.longest})"
