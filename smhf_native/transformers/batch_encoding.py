"""``BatchEncoding``: what a tokenizer call returns, and the ways between characters, words and tokens.

Columns stay packed until somebody looks at them as lists.  Offsets, word ids and sequence ids are computed when
first asked for, for the whole batch, whether or not the call returned them as columns.
"""

from __future__ import annotations

from collections import UserDict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from smhf_native.datasets.columns import Column, Rows, make_column
from smhf_native.datasets.tensors import as_tensor
from smhf_native.errors import MissingExtraError

__all__ = ["BatchEncoding", "CharSpan", "RowEncoding", "TokenSpan"]


class CharSpan(NamedTuple):
    """Characters ``start`` to ``end`` (not included) of a text."""

    start: int
    end: int


class TokenSpan(NamedTuple):
    """Tokens ``start`` to ``end`` (not included) of a row."""

    start: int
    end: int


class RowEncoding:
    """One row of a batch, padding included, with the names of ``tokenizers.Encoding``."""

    def __init__(self, batch: RowEncodings, row: int):
        self._batch = batch
        self._row = row

    def _field(self, name: str, pad: Any) -> list[Any]:
        batch = self._batch
        start, stop = batch.bounds[self._row : self._row + 2]
        values: list[Any] = batch.native.packed_field(name)[start:stop].tolist()
        missing = [pad] * (batch.width - len(values)) if batch.width is not None else []
        return missing + values if batch.left else values + missing

    @property
    def ids(self) -> list[int]:
        """Return the token ids."""
        return self._field("ids", self._batch.pad_id)

    @property
    def type_ids(self) -> list[int]:
        """Return 0 or 1 for each token."""
        return self._field("type_ids", 0)

    @property
    def attention_mask(self) -> list[int]:
        """Return 1 for tokens, 0 for padding."""
        return [int(value is not None) for value in self._field("type_ids", None)]

    @property
    def special_tokens_mask(self) -> list[int]:
        """Return 1 for special tokens that encoding added and for padding."""
        return self._field("special_mask", 1)

    @property
    def offsets(self) -> list[tuple[int, int]]:
        """Return begin and end of each token in its text, in characters."""
        return [(pair[0], pair[1]) for pair in self._field("offsets", (0, 0))]

    @property
    def tokens(self) -> list[str]:
        """Return the tokens as strings."""
        return [self._batch.native_tokenizer.id_to_token(i) or "" for i in self.ids]

    @property
    def word_ids(self) -> list[int | None]:
        """Return the word of each token; None for special tokens and padding."""
        return [None if word < 0 else word for word in self._field("word_ids", -1)]

    @property
    def words(self) -> list[int | None]:
        """Return :attr:`word_ids` under its old name."""
        return self.word_ids

    @property
    def sequence_ids(self) -> list[int | None]:
        """Return 0 or 1 for tokens of the first or second text, else None."""
        return [None if sequence < 0 else sequence for sequence in self._field("sequence_ids", -1)]

    @property
    def n_sequences(self) -> int:
        """Return 2 for a pair, else 1."""
        return self._batch.n_sequences

    @property
    def overflowing(self) -> list[RowEncoding]:
        """Return the rows cut from the same text, when this is its main row and they were asked for."""
        batch = self._batch
        if self._row > 0 and batch.samples[self._row - 1] == batch.samples[self._row]:
            return []
        rows = range(self._row + 1, len(batch))
        return [batch[r] for r in rows if batch.samples[r] == batch.samples[self._row]]

    def __len__(self) -> int:
        batch = self._batch
        length = int(batch.bounds[self._row + 1] - batch.bounds[self._row])
        return max(length, batch.width or 0)

    def token_to_sequence(self, token_index: int) -> int | None:
        """Return the text that a token belongs to."""
        return self._at(self.sequence_ids, token_index)

    def token_to_word(self, token_index: int) -> int | None:
        """Return the word that a token is part of."""
        return self._at(self.word_ids, token_index)

    def token_to_chars(self, token_index: int) -> tuple[int, int] | None:
        """Return begin and end of a token in its text."""
        if self._at(self.sequence_ids, token_index) is None:
            return None
        return self.offsets[token_index]

    def char_to_token(self, char_pos: int, sequence_index: int = 0) -> int | None:
        """Return the first token that holds a character of a text."""
        owners, spans = self.sequence_ids, self.offsets
        for i, (owner, (start, end)) in enumerate(zip(owners, spans, strict=True)):
            if owner == sequence_index and start <= char_pos < end:
                return i
        return None

    def char_to_word(self, char_pos: int, sequence_index: int = 0) -> int | None:
        """Return the word that holds a character of a text."""
        token = self.char_to_token(char_pos, sequence_index)
        return None if token is None else self.word_ids[token]

    def word_to_tokens(self, word_index: int, sequence_index: int = 0) -> tuple[int, int] | None:
        """Return first token and token after the last one of a word."""
        owners, words = self.sequence_ids, self.word_ids
        found = [
            i
            for i, (o, w) in enumerate(zip(owners, words, strict=True))
            if o == sequence_index and w == word_index
        ]
        return (found[0], found[-1] + 1) if found else None

    def word_to_chars(self, word_index: int, sequence_index: int = 0) -> tuple[int, int] | None:
        """Return begin and end of a word in its text."""
        span = self.word_to_tokens(word_index, sequence_index)
        if span is None:
            return None
        spans = self.offsets
        return spans[span[0]][0], spans[span[1] - 1][1]

    @staticmethod
    def _at(values: list[int | None], index: int) -> int | None:
        return values[index] if 0 <= index < len(values) else None

    def __repr__(self) -> str:
        return f"Encoding(num_tokens={len(self)}, row {self._row})"


class RowEncodings(Sequence[RowEncoding]):
    """The rows of one native encoding as the mirror pads them."""

    def __init__(
        self, native: Any, native_tokenizer: Any, paired: bool, width: int | None, left: bool, pad_id: int
    ):
        self.native = native
        self.native_tokenizer = native_tokenizer
        self.paired = paired
        self.width = width
        self.left = left
        self.pad_id = pad_id

    @cached_property
    def bounds(self) -> npt.NDArray[Any]:
        """Where rows begin among the packed tokens."""
        rows: npt.NDArray[Any] = self.native.packed_field("cu_seqlens")
        return rows

    @cached_property
    def samples(self) -> npt.NDArray[Any]:
        """Which text each row came from."""
        texts: npt.NDArray[Any] = self.native.packed_field("sample")
        return texts

    @property
    def n_sequences(self) -> int:
        """2 for pairs, else 1."""
        return 2 if self.paired else 1

    def __len__(self) -> int:
        return len(self.native)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [RowEncoding(self, i) for i in range(*index.indices(len(self)))]
        place = int(index) + len(self) if index < 0 else int(index)
        if not 0 <= place < len(self):
            raise IndexError(f"row {index} of an encoding of {len(self)} rows")
        return RowEncoding(self, place)


class BatchEncoding(UserDict[str, Any]):
    """Columns of an encoding by name, also as attributes (``enc.input_ids``); rows by index.

    Parameters
    ----------
    data : columns by name
    encoding : the rows (``tokenizer(...)`` gives them), for tokens, words and characters
    tensor_type : "np" or "pt"
    prepend_batch_axis : bool
    n_sequences : 1, or 2 for pairs
    """

    def __init__(
        self,
        data: Mapping[str, Any] | None = None,
        encoding: Sequence[Any] | None = None,
        tensor_type: Any = None,
        prepend_batch_axis: bool = False,
        n_sequences: int | None = None,
    ):
        self._lists: dict[str, Any] = {}
        self._encodings = encoding
        self._n_sequences = n_sequences
        if n_sequences is None and encoding:
            self._n_sequences = int(encoding[0].n_sequences)
        self.data = dict(data) if data else {}
        if tensor_type is not None:
            self.convert_to_tensors(tensor_type, prepend_batch_axis)

    # -- dict ---------------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, str):
            if self._encodings is not None:
                return self._encodings[key]
            if isinstance(key, slice):
                return {name: self[name][key] for name in self.data}
            raise KeyError(f"{key!r}: this encoding has columns {list(self.data)} but no rows to index")
        value = self.data[key]
        if isinstance(value, Rows):
            if key not in self._lists:
                self._lists[key] = value.tolist()
            return self._lists[key]
        return value

    def __setitem__(self, key: str, item: Any) -> None:
        self._lists.pop(key, None)
        self.data[key] = item

    def __getattr__(self, name: str) -> Any:
        data = self.__dict__.get("data", {})
        if name in data:
            return self[name]
        raise AttributeError(f"this encoding has no {name!r}; it has {list(data)}")

    def __getstate__(self) -> dict[str, Any]:
        return {"data": {name: self[name] for name in self.data}, "n_sequences": self._n_sequences}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(
            data=state["data"], _lists={}, _encodings=None, _n_sequences=state["n_sequences"]
        )

    def packed_columns(self) -> dict[str, Column]:
        """Return the columns that are still packed (for ``Dataset.map``; lists handed out are copies)."""
        ready: dict[str, Column] = {}
        for name, value in self.data.items():
            if isinstance(value, Rows):
                shown = self._lists.get(name)
                # A list that was looked at may have been changed in place: it then counts.
                ready[name] = value if shown is None else make_column(shown)
        return ready

    # -- tensors ------------------------------------------------------------------------------

    def convert_to_tensors(self, tensor_type: Any = None, prepend_batch_axis: bool = False) -> BatchEncoding:
        """Turn columns into NumPy arrays ("np") or torch tensors ("pt").

        Rows of different lengths become an object array of arrays under "np", as in transformers.

        Raises
        ------
        ValueError
            Rows of a column differ in length ("pt"); its name is in the sentence.
        MissingExtraError
            "pt" without torch.
        """
        if tensor_type is None:
            return self
        kind = getattr(tensor_type, "value", tensor_type)
        if kind not in ("pt", "np", "smhf"):
            raise ValueError(f"return_tensors={kind!r} is not supported: expected 'np' or 'pt'")
        wrap = _wrapper(kind)
        for name, value in list(self.data.items()):
            if type(value).__module__.partition(".")[0] == "torch" and kind == "pt":
                continue
            array = value.matrix() if isinstance(value, Rows) else _array(value)
            if (array is None or array.dtype == object) and isinstance(value, Rows) and kind == "np":
                self[name] = _ragged(value)
                continue
            if array is None or array.dtype == object:
                raise ValueError(
                    f"the rows of {name!r} differ in length: use padding=True and truncation=True to make arrays"
                )
            if array.dtype.kind in "iub" or array.size == 0:
                array = array.astype(np.int64)
            self[name] = wrap(array[None] if prepend_batch_axis else array)
        return self

    def to(self, device: Any = None, **options: Any) -> BatchEncoding:
        """Move torch tensors to a device; NumPy arrays stay where they are."""
        for name, value in self.data.items():
            if type(value).__module__.partition(".")[0] == "torch":
                self.data[name] = value.to(device, **options)
        return self

    # -- rows, words, characters --------------------------------------------------------------

    @property
    def encodings(self) -> Sequence[Any] | None:
        """Return the rows, None when this object was not made by a tokenizer."""
        return self._encodings

    @property
    def is_fast(self) -> bool:
        """Return whether rows are there."""
        return self._encodings is not None

    @property
    def n_sequences(self) -> int | None:
        """Return 1, 2 for pairs, or None when not known."""
        return self._n_sequences

    def _row(self, index: int) -> Any:
        if not self._encodings:
            raise ValueError("tokens, words and characters are known only of what a tokenizer call returned")
        return self._encodings[index]

    def _placed(self, first: int, second: int | None) -> tuple[Any, int]:
        """(row, index in it) of a call with (index) or (row, index); negative indices count from the end."""
        row = self._row(first if second is not None else 0)
        index = first if second is None else second
        return row, index + len(row) if index < 0 else index

    def tokens(self, batch_index: int = 0) -> list[str]:
        """Return the tokens of a row."""
        return list(self._row(batch_index).tokens)

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """Return which text each token belongs to; None for special tokens and padding."""
        return list(self._row(batch_index).sequence_ids)

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """Return which word each token is part of; None for special tokens and padding."""
        return list(self._row(batch_index).word_ids)

    def words(self, batch_index: int = 0) -> list[int | None]:
        """Return :meth:`word_ids` under its old name."""
        return self.word_ids(batch_index)

    def token_to_sequence(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """Return the text that a token belongs to; arguments (token) or (row, token)."""
        row, token = self._placed(batch_or_token_index, token_index)
        found: int | None = row.token_to_sequence(token)
        return found

    def token_to_word(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """Return the word that a token is part of; arguments (token) or (row, token)."""
        row, token = self._placed(batch_or_token_index, token_index)
        found: int | None = row.token_to_word(token)
        return found

    def token_to_chars(self, batch_or_token_index: int, token_index: int | None = None) -> CharSpan | None:
        """Return the characters of a token, None for special tokens; arguments (token) or (row, token)."""
        row, token = self._placed(batch_or_token_index, token_index)
        span = row.token_to_chars(token)
        return None if span is None else CharSpan(*span)

    def word_to_tokens(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> TokenSpan | None:
        """Return the tokens of a word, None when it has none; arguments (word) or (row, word)."""
        row, word = self._placed(batch_or_word_index, word_index)
        span = row.word_to_tokens(word, sequence_index)
        return None if span is None else TokenSpan(*span)

    def word_to_chars(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> CharSpan:
        """Return the characters of a word; arguments (word) or (row, word)."""
        row, word = self._placed(batch_or_word_index, word_index)
        span = row.word_to_chars(word, sequence_index)
        if span is None:
            raise TypeError(f"word {word} of text {sequence_index} has no tokens in this row")
        return CharSpan(*span)

    def char_to_token(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """Return the token that holds a character, None for white space; arguments (char) or (row, char)."""
        row = self._row(batch_or_char_index if char_index is not None else 0)
        found: int | None = row.char_to_token(
            batch_or_char_index if char_index is None else char_index, sequence_index
        )
        return found

    def char_to_word(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """Return the word that holds a character; arguments (char) or (row, char)."""
        row = self._row(batch_or_char_index if char_index is not None else 0)
        found: int | None = row.char_to_word(
            batch_or_char_index if char_index is None else char_index, sequence_index
        )
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self.data)


def _array(value: Any) -> npt.NDArray[Any] | None:
    """An array of a column, None when rows differ in length."""
    try:
        return np.asarray(value)
    except ValueError:
        return None


def _ragged(rows: Rows) -> npt.NDArray[Any]:
    """An object array with one int64 array a row."""
    array = np.empty(len(rows), dtype=object)
    for i in range(len(rows)):
        array[i] = rows.row(i).astype(np.int64)
    return array


def _wrapper(kind: str) -> Any:
    """What makes a tensor of an int64 array: nothing, the engine's own array class, or torch."""
    if kind == "np":
        return np.asarray
    if kind == "smhf":
        return as_tensor
    try:
        import torch
    except ImportError as missing:
        raise MissingExtraError(
            "return_tensors='pt' needs the package 'torch', which is not installed: pip install torch, or use "
            "return_tensors='np' (the models of this package take NumPy arrays)",
            name="torch",
        ) from missing
    return torch.from_numpy
