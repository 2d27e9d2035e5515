"""``AutoTokenizer``: the mirror's face of :class:`smhf_native.Tokenizer`.

Calls return a :class:`BatchEncoding` whose columns stay packed until somebody looks at them as lists, so
that ``dataset.map(tokenize, batched=True)`` with ``padding="max_length"`` makes no Python lists at all.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from smhf_native.datasets.columns import Rows
from smhf_native.hub import TOKENIZER_FILES, resolve
from smhf_native.transformers.batch_encoding import BatchEncoding, CharSpan, RowEncodings, TokenSpan
from smhf_native.transformers.tokenizer_base import TokenizerBase, native_options, read_settings
from smhf_native.transformers.utils import logging

__all__ = ["AutoTokenizer", "BatchEncoding", "CharSpan", "PreTrainedTokenizerFast", "TokenSpan"]

logger = logging.get_logger(__name__)

_VERY_LARGE = int(1e20)  # a greater model_max_length means none
_CALL_OPTIONS = (
    "text", "text_pair", "add_special_tokens", "padding", "truncation", "max_length", "stride",
    "is_split_into_words", "pad_to_multiple_of", "padding_side", "truncation_side", "return_tensors",
    "return_token_type_ids", "return_attention_mask", "return_overflowing_tokens", "return_special_tokens_mask",
    "return_offsets_mapping", "return_length", "verbose", "split_special_tokens",
)  # fmt: skip


class PreTrainedTokenizerFast(TokenizerBase):
    """A tokenizer with the methods that training scripts call on transformers' tokenizers."""

    # -- encoding -----------------------------------------------------------------------------

    def __call__(
        self,
        text: Any = None,
        text_pair: Any = None,
        add_special_tokens: bool = True,
        padding: Any = False,
        truncation: Any = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: Any = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        verbose: bool = True,
        split_special_tokens: bool | None = None,
        truncation_side: str | None = None,
        **unknown: Any,
    ) -> BatchEncoding:
        """Encode one text or a list of texts (and pairs); parameters as in transformers.

        Parameters
        ----------
        text, text_pair : str; list, array or Series of str; with ``is_split_into_words`` lists of words
            A list of (first, second) tuples is a batch of pairs.
        truncation_side : "right" or "left"
            Of this call (transformers has it as an attribute only).

        Returns
        -------
        BatchEncoding with input_ids, attention_mask (and token_type_ids for BERT): lists, or int64 arrays
        with ``return_tensors``.  Overflow rows follow their text's main row.

        Raises
        ------
        TypeError, ValueError
            A row is not a text (it is named); options that contradict each other.
        """
        if unknown:
            from smhf_native.datasets.mapping import reject_unknown

            reject_unknown("tokenizer(...)", unknown, set(_CALL_OPTIONS))
        texts, pairs, batched = _batch_of(text, text_pair, is_split_into_words)
        _refuse_bytes(texts, "texts")
        _refuse_bytes(pairs, "pairs")
        pad, cut, max_length = self._strategies(padding, truncation, max_length, pad_to_multiple_of, verbose)
        options: dict[str, Any] = {
            "add_special_tokens": add_special_tokens,
            "split_special_tokens": bool(split_special_tokens),
            "is_split_into_words": is_split_into_words,
            "return_overflowing_tokens": return_overflowing_tokens,
            "details": return_offsets_mapping or return_special_tokens_mask,
        }
        if cut != "do_not_truncate":
            options.update(
                truncation=cut, max_length=max_length, stride=stride,
                truncation_side=truncation_side or self.truncation_side,
            )  # fmt: skip
        if len(texts) == 0:
            return BatchEncoding({name: [] for name in self.model_input_names}, tensor_type=return_tensors)
        native = self.native(texts, pairs, **options)
        left = _is_left(padding_side or self.padding_side)
        spread = _OneRow(native, left) if len(native) == 1 else _Spread(native, left)
        if max_length is None and verbose:
            self._warn_of_length(spread.longest)
        width = _width(pad, spread.longest, max_length, pad_to_multiple_of)
        if width is not None:
            spread.pad_to(width)

        columns: dict[str, Any] = {"input_ids": spread.rows(native.packed_field("ids"), self._pad_id())}
        if (
            "token_type_ids" in self.model_input_names
            if return_token_type_ids is None
            else return_token_type_ids
        ):
            columns["token_type_ids"] = spread.rows(native.packed_field("type_ids"), self.pad_token_type_id)
        if return_attention_mask or (
            return_attention_mask is None and "attention_mask" in self.model_input_names
        ):
            columns["attention_mask"] = spread.ones()
        if return_special_tokens_mask:
            columns["special_tokens_mask"] = spread.rows(native.packed_field("special_mask").view(np.int8), 1)
        if return_offsets_mapping:
            columns["offset_mapping"] = spread.pairs(native.packed_field("offsets"))
        if return_length:
            columns["length"] = [int(n) for n in spread.widths]
        if return_overflowing_tokens:
            columns["overflow_to_sample_mapping"] = native.overflow_to_sample_mapping.tolist()
        rows = RowEncodings(native, self.native, pairs is not None, width, left, self._pad_id())
        if return_tensors is not None:
            return BatchEncoding(columns, rows, tensor_type=return_tensors, n_sequences=rows.n_sequences)
        if not batched and not return_overflowing_tokens:
            columns = {name: value if name == "length" else value[0] for name, value in columns.items()}
        return BatchEncoding(columns, rows, n_sequences=rows.n_sequences)

    def _strategies(
        self,
        padding: Any,
        truncation: Any,
        max_length: int | None,
        multiple: int | None,
        verbose: bool = True,
    ) -> tuple[str, str, int | None]:
        """Padding strategy, truncation strategy and maximum length in force."""
        padding, truncation = getattr(padding, "value", padding), getattr(truncation, "value", truncation)
        if max_length is not None and padding is False and truncation is None:
            truncation = "longest_first"  # a maximum length alone means truncation
        pad = {True: "longest", False: "do_not_pad", None: "do_not_pad"}.get(padding, padding)
        cut = {True: "longest_first", False: "do_not_truncate", None: "do_not_truncate"}.get(
            truncation, truncation
        )
        if pad not in ("longest", "max_length", "do_not_pad"):
            raise ValueError(
                f"padding={padding!r} is not one of True, 'longest', 'max_length', False, 'do_not_pad'"
            )
        if cut not in ("longest_first", "only_first", "only_second", "do_not_truncate"):
            raise ValueError(
                f"truncation={truncation!r} is not one of True, 'longest_first', 'only_first', 'only_second', False, "
                "'do_not_truncate'"
            )
        if padding is True and max_length is not None and cut == "do_not_truncate" and verbose:
            warnings.warn(
                "max_length is ignored with padding=True and no truncation; padding='max_length' pads to it",
                stacklevel=3,
            )
        if max_length is None and (pad == "max_length" or cut != "do_not_truncate"):
            if self.model_max_length > _VERY_LARGE:
                logger.warning(
                    "no maximum length is given and the model has none: nothing is cut or padded to it"
                )
                pad = "do_not_pad" if pad == "max_length" else pad
                cut = "do_not_truncate"
            else:
                max_length = self.model_max_length
        if pad != "do_not_pad" and self.pad_token is None:
            raise ValueError(
                "padding is asked for but the tokenizer has no padding token: set tokenizer.pad_token"
            )
        if (
            multiple
            and cut != "do_not_truncate"
            and pad != "do_not_pad"
            and max_length
            and max_length % multiple
        ):
            raise ValueError(
                f"truncation to max_length={max_length} and padding to a multiple of {multiple} contradict each "
                "other: choose a max_length that is a multiple"
            )
        return pad, cut, max_length

    def _warn_of_length(self, longest: int) -> None:
        if longest > self.model_max_length and not self._warned:
            self._warned = True
            logger.warning(
                "Token indices sequence length is longer than the specified maximum sequence length for this model "
                "(%d > %d). Running this sequence through the model will result in indexing errors",
                longest,
                self.model_max_length,
            )

    def pad(
        self,
        encoded_inputs: Any,
        padding: Any = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: Any = None,
        verbose: bool = True,
        **_: Any,
    ) -> BatchEncoding:
        """Pad rows (a list of dicts, a dict of lists, or one row as a dict) to one length.

        Columns other than the model's and ``special_tokens_mask`` are collected as they are.  Columns of arrays
        come back as arrays of the same kind.

        Raises
        ------
        ValueError
            There is no ``input_ids``; columns differ in their number of rows.
        """
        rows = encoded_inputs
        if isinstance(rows, Sequence) and not isinstance(rows, (str, bytes)) and rows:
            if not isinstance(rows[0], Mapping):
                raise ValueError(f"pad() takes dicts, found a list of {type(rows[0]).__name__}")
            rows = {name: [row[name] for row in rows] for name in rows[0]}
        data = {name: rows[name] for name in rows} if isinstance(rows, Mapping) else {}
        if "input_ids" not in data:
            raise ValueError(f"pad() needs rows with input_ids, found {list(data) or 'no rows'}")
        ids = data["input_ids"]
        if len(ids) == 0:
            return BatchEncoding({**data, **({"attention_mask": []} if return_attention_mask else {})})
        first = ids if hasattr(ids, "tolist") else ids[0]
        if return_tensors is None and hasattr(first, "tolist") and getattr(first, "ndim", 0) > 0:
            kind = type(first).__module__.partition(".")[0]
            return_tensors = "pt" if kind == "torch" else "np" if kind == "numpy" else "smhf"
        pad, _cut, max_length = self._strategies(padding, None, max_length, None, verbose)
        data = {name: _plain(value) for name, value in data.items()}
        single = not isinstance(data["input_ids"][0], list)
        if single:
            data = {name: [value] for name, value in data.items()}
        count = len(data["input_ids"])
        for name, values in data.items():
            if len(values) != count:
                raise ValueError(f"pad(): {name!r} has {len(values)} rows, input_ids {count}")
        if "attention_mask" not in data and (
            return_attention_mask
            or (return_attention_mask is None and "attention_mask" in self.model_input_names)
        ):
            data["attention_mask"] = [[1] * len(row) for row in data["input_ids"]]
        width = _width(pad, max(len(row) for row in data["input_ids"]), max_length, pad_to_multiple_of)
        left = _is_left(padding_side or self.padding_side)
        fill = {
            "input_ids": self._pad_id(),
            "token_type_ids": self.pad_token_type_id,
            "special_tokens_mask": 1,
        }
        if return_attention_mask is not False:
            fill["attention_mask"] = 0
        lengths = [len(row) for row in data["input_ids"]]
        for name, value in fill.items():
            if name in data and width is not None:
                data[name] = [
                    _extended(row, width - n, value, left) for row, n in zip(data[name], lengths, strict=True)
                ]
        if single:
            data = {name: value[0] for name, value in data.items()}
        return BatchEncoding(data, tensor_type=return_tensors)

    def encode(self, text: Any, text_pair: Any = None, **options: Any) -> Any:
        """Return the ids of one text."""
        return self(text, text_pair, **options)["input_ids"]

    def encode_plus(self, text: Any, text_pair: Any = None, **options: Any) -> BatchEncoding:
        """Encode one text (old name of the call)."""
        return self(text, text_pair, **options)

    def batch_encode_plus(self, batch_text_or_text_pairs: Any, **options: Any) -> BatchEncoding:
        """Encode a list of texts (old name of the call)."""
        return self(batch_text_or_text_pairs, **options)

    def tokenize(
        self, text: Any, pair: Any = None, add_special_tokens: bool = False, **options: Any
    ) -> list[str]:
        """Return the tokens of a text, without special tokens unless asked for."""
        options.setdefault("verbose", False)
        return self(text, pair, add_special_tokens=add_special_tokens, **options).tokens()

    # -- decoding -----------------------------------------------------------------------------

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **_: Any,
    ) -> Any:
        """Return the text of ids (or a list of texts for a list of rows)."""
        if isinstance(token_ids, Mapping):
            token_ids = token_ids["input_ids"]
        ids = _plain(token_ids)
        if isinstance(ids, list) and ids and isinstance(ids[0], list):
            return [self.decode(row, skip_special_tokens, clean_up_tokenization_spaces) for row in ids]
        text = self.native.decode(ids, skip_special_tokens=skip_special_tokens)
        clean = clean_up_tokenization_spaces
        if self.clean_up_tokenization_spaces if clean is None else clean:
            text = self.clean_up_tokenization(text)
        return text

    def batch_decode(
        self,
        sequences: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **_: Any,
    ) -> list[str]:
        """Return the texts of rows of ids."""
        if isinstance(sequences, Mapping):
            sequences = sequences["input_ids"]
        rows = _plain(sequences)
        return [str(self.decode(row, skip_special_tokens, clean_up_tokenization_spaces)) for row in rows]

    @staticmethod
    def clean_up_tokenization(text: str) -> str:
        """Close up punctuation and English contractions."""
        for spaced in (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're"):
            text = text.replace(spaced, spaced.strip(" "))
        return text

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Join tokens into a text; those that continue a word are glued on."""
        glued: list[str] = []
        for i, token in enumerate(tokens):
            piece = token[2:] if i and token.startswith("##") else token if i == 0 else f" {token}"
            glued.append(self._tidy(piece) if self._decoder_cleans else piece)
        return "".join(glued)

    @staticmethod
    def _tidy(piece: str) -> str:
        """What the decoder does to each token when it cleans up."""
        for spaced in (" .", " ?", " !", " ,", " ' ", " n't", " 'm"):
            piece = piece.replace(spaced, spaced.strip(" "))
        piece = piece.replace(" do not", " don't")
        for spaced in (" 's", " 've", " 're"):
            piece = piece.replace(spaced, spaced.strip(" "))
        return piece

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **options: Any) -> Any:
        """Load from a folder or hub name; see :class:`AutoTokenizer`."""
        return AutoTokenizer.from_pretrained(pretrained_model_name_or_path, **options)


class AutoTokenizer:
    """Load a BERT-type WordPiece tokenizer from a folder or hub name."""

    @staticmethod
    def from_pretrained(
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        cache_dir: str | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        **options: Any,
    ) -> PreTrainedTokenizerFast:
        """Return the tokenizer of a model.

        Parameters
        ----------
        options : ``do_lower_case``, ``strip_accents``, ``tokenize_chinese_chars``, ``model_max_length``, \
``padding_side``, ``truncation_side``, ``clean_up_tokenization_spaces``, ``pad_token`` and other roles
            Override the files.

        Raises
        ------
        ParseError
            A file breaks its format; the sentence names file and byte.
        BackendError
            The tokenizer is of another kind (BPE, Unigram, ...), which is named.
        """
        for name in ("use_auth_token", "use_fast", "trust_remote_code", "force_download", "config", "legacy"):
            options.pop(name, None)
        from smhf_native.tokenizer import Tokenizer
        from smhf_native.tokenizer.tokenizer import refuse_other_kinds

        refuse_other_kinds(pretrained_model_name_or_path)
        folder = resolve(
            pretrained_model_name_or_path,
            revision,
            needs=TOKENIZER_FILES,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            token=token,
        )
        native = Tokenizer.from_pretrained(str(folder), **native_options(options))
        settings = read_settings(folder, options)
        return PreTrainedTokenizerFast(native, folder, os.fspath(pretrained_model_name_or_path), settings)


class _OneRow:
    """The columns of a batch of one row as lists: arrays do not pay for so little."""

    def __init__(self, native: Any, left: bool):
        self.longest = len(native.packed_field("ids"))
        self.left = left
        self.missing = 0

    def pad_to(self, width: int) -> None:
        """Pad from now on."""
        self.missing = max(width - self.longest, 0)

    @property
    def widths(self) -> list[int]:
        """Return the length of the row, padding included."""
        return [self.longest + self.missing]

    def rows(self, flat: npt.NDArray[Any], fill: int) -> list[list[int]]:
        """Return a column."""
        return [_extended(flat.tolist(), self.missing, fill, self.left)]

    def ones(self) -> list[list[int]]:
        """Return the attention mask."""
        return [_extended([1] * self.longest, self.missing, 0, self.left)]

    def pairs(self, flat: npt.NDArray[Any]) -> list[list[tuple[int, int]]]:
        """Return offsets as tuples."""
        return [_extended(_tuples(flat), self.missing, (0, 0), self.left)]


class _Spread:
    """How packed rows come to lie in padded ones; rows longer than the width keep their tokens."""

    def __init__(self, native: Any, left: bool):
        self.bounds = native.packed_field("cu_seqlens").astype(np.int64)
        self.lengths = np.diff(self.bounds)
        self.longest = int(self.lengths.max())
        self.left = left
        self.width: int | None = None
        self.widths = self.lengths
        self.ends = self.bounds
        self.places: npt.NDArray[np.int64] | None = None

    def pad_to(self, width: int) -> None:
        """Pad from now on."""
        self.width, lengths, bounds = width, self.lengths, self.bounds
        self.widths = np.maximum(lengths, width)
        self.ends = np.concatenate([[0], np.cumsum(self.widths)]).astype(np.int64)
        starts = self.ends[:-1] + (self.widths - lengths if self.left else 0)
        self.places = np.repeat(starts - bounds[:-1], lengths) + np.arange(bounds[-1])

    def ones(self) -> Rows:
        """Return the attention mask."""
        return self.rows(np.ones(int(self.bounds[-1]), dtype=np.int8), 0)

    def rows(self, flat: npt.NDArray[Any], fill: int) -> Rows:
        """Return a packed column of padded rows, in int8 where that holds it."""
        small = flat.size == 0 or (flat.min() >= -128 and flat.max() <= 127 and -128 <= fill <= 127)
        dtype = np.int8 if small else np.int32
        if self.places is None:
            return Rows(flat.astype(dtype, copy=False), self.ends, "int64")
        padded = np.full(int(self.ends[-1]), fill, dtype=dtype)
        padded[self.places] = flat
        return Rows(padded, self.ends, "int64")

    def pairs(self, flat: npt.NDArray[Any]) -> list[list[tuple[int, int]]]:
        """Return offsets as lists of tuples."""
        values = _tuples(flat)
        parts = [values[a:b] for a, b in pairwise(self.bounds.tolist())]
        if self.width is None:
            return parts
        return [_extended(part, self.width - len(part), (0, 0), self.left) for part in parts]


def _tuples(flat: npt.NDArray[Any]) -> list[tuple[int, int]]:
    """Pairs of an (n, 2) array."""
    return list(zip(flat[:, 0].tolist(), flat[:, 1].tolist(), strict=True))


def _batch_of(text: Any, pair: Any, words: bool) -> tuple[Any, Any, bool]:
    """(texts, pairs or None, whether a batch was given) in the native tokenizer's terms."""
    if text is None:
        raise ValueError("tokenizer(...): expected a text or a list of texts, got None")
    if not words:
        if isinstance(text, str):
            if pair is not None and not isinstance(pair, str):
                raise TypeError(f"text_pair: expected a str beside a single text, got {type(pair).__name__}")
            return [text], [pair] if pair else None, False
        if isinstance(text, bytes) or not hasattr(text, "__iter__"):
            raise TypeError(f"text: expected str or a list of str, got {type(text).__name__}")
        if isinstance(pair, str):
            raise TypeError("text_pair: expected as many texts as in text, got a single str")
        if isinstance(text, (list, tuple)) and text and isinstance(text[0], (tuple, list)):
            return (*_unzipped(text, pair), True)
        sized = text if hasattr(text, "__len__") else list(text)
        return sized, pair if pair is None or hasattr(pair, "__len__") else list(pair), True
    if len(text) and not isinstance(text[0], (str, bytes)):
        if (
            pair is None
            and isinstance(text[0], (list, tuple))
            and text[0]
            and not isinstance(text[0][0], str)
        ):
            return (*_unzipped(text, pair), True)
        return text, pair, True
    return [text], [pair] if pair else None, False


def _refuse_bytes(texts: Any, name: str) -> None:
    """The native tokenizer takes UTF-8 bytes; transformers takes str alone."""
    if isinstance(texts, (list, tuple)) and bytes in set(map(type, texts)):
        row = next(i for i, text in enumerate(texts) if isinstance(text, bytes))
        raise TypeError(f"{name}[{row}]: expected str, got bytes: decode them first")


def _unzipped(rows: Any, pair: Any) -> tuple[list[Any], list[Any]]:
    """First and second texts of a batch of pairs."""
    if pair is not None:
        raise ValueError("text holds pairs already: text_pair must be None")
    for i, row in enumerate(rows):
        if not isinstance(row, (tuple, list)) or len(row) != 2:
            raise TypeError(f"text[{i}]: expected a pair of texts, as in text[0], got {row!r:.60}")
    return [row[0] for row in rows], [row[1] for row in rows]


def _width(pad: str, longest: int, max_length: int | None, multiple: int | None) -> int | None:
    """Length that rows are padded to, None for no padding."""
    if pad == "do_not_pad":
        return None
    width = max_length if pad == "max_length" and max_length is not None else longest
    if multiple:
        width = -(-width // multiple) * multiple
    return width


def _extended(row: list[Any], missing: int, value: Any, left: bool) -> list[Any]:
    if missing <= 0:
        return row
    return [value] * missing + row if left else row + [value] * missing


def _plain(value: Any) -> Any:
    """Python lists and numbers of arrays, tensors, packed rows, or lists of them."""
    if isinstance(value, (list, tuple)):
        return (
            [_plain(item) for item in value]
            if value and not isinstance(value[0], (int, str))
            else list(value)
        )
    tolist = getattr(value, "tolist", None)
    return tolist() if tolist is not None else value


def _is_left(side: str) -> bool:
    if side not in ("left", "right"):
        raise ValueError(f"padding_side: expected 'left' or 'right', got {side!r}")
    return side == "left"
