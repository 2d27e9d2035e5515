"""``AutoTokenizer``: the mirror's face of :class:`smhf_native.Tokenizer`.

Calls return a :class:`BatchEncoding` whose columns stay packed until somebody looks at them as lists, so
that ``dataset.map(tokenize, batched=True)`` with ``padding="max_length"`` makes no Python lists at all.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import UserDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from smhf_native.datasets.columns import Column, Rows, make_column
from smhf_native.datasets.tensors import as_tensor
from smhf_native.hub import TOKENIZER_FILES, resolve
from smhf_native.transformers.utils import logging

__all__ = ["AutoTokenizer", "BatchEncoding", "PreTrainedTokenizerFast"]

logger = logging.get_logger(__name__)

_VERY_LARGE = int(1e30)
_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)


class BatchEncoding(UserDict[str, Any]):
    """Columns of an encoding by name; also as attributes (``enc.input_ids``)."""

    def __init__(self, data: Mapping[str, Any] | None = None, native: Any = None, tensor_type: Any = None):
        self.native = native
        self._lists: dict[str, Any] = {}
        super().__init__(data or {})
        if tensor_type is not None:
            self.convert_to_tensors(tensor_type)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, (int, np.integer)):
            return {name: self[name][int(key)] for name in self.data}
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

    def packed_columns(self) -> dict[str, Column]:
        """Return the columns that are still packed (for ``Dataset.map``; lists handed out are copies)."""
        ready: dict[str, Column] = {}
        for name, value in self.data.items():
            if isinstance(value, Rows):
                shown = self._lists.get(name)
                # A list that was looked at may have been changed in place: it then counts.
                ready[name] = value if shown is None else make_column(shown)
        return ready

    def convert_to_tensors(self, tensor_type: Any, prepend_batch_axis: bool = False) -> BatchEncoding:
        """Turn columns into arrays ("np") or tensor-like arrays ("pt"); rows must be of one length."""
        kind = getattr(tensor_type, "value", tensor_type)
        if kind not in ("pt", "np", "numpy"):
            raise ValueError(f"return_tensors={kind!r} is not supported: use 'np' or 'pt' (NumPy-backed)")
        for name, value in list(self.data.items()):
            rows = value if isinstance(value, Rows) else None
            array = rows.matrix() if rows is not None else np.asarray(value)
            if array is None or array.dtype == object:
                raise ValueError(
                    f"the rows of {name!r} differ in length: use padding=True and truncation=True to make arrays"
                )
            array = array.astype(np.int64) if array.dtype.kind in "iub" else array
            if prepend_batch_axis:
                array = array[None]
            self[name] = as_tensor(array) if kind == "pt" else array
        return self

    def to(self, *_args: Any, **_kwargs: Any) -> BatchEncoding:
        """Return the encoding itself: there is one device."""
        return self


class PreTrainedTokenizerFast:
    """A tokenizer with the methods that training scripts call on transformers' tokenizers."""

    is_fast = True
    padding_side = "right"
    truncation_side = "right"

    def __init__(self, native: Any, folder: Path | None, name_or_path: str, settings: dict[str, Any]):
        self.native = native
        self.folder = folder
        self.name_or_path = name_or_path
        self.init_kwargs = settings
        self.model_max_length = _max_length(folder, settings)
        self._types = _wants_token_types(folder, settings)
        self._warned = False

    # -- encoding -----------------------------------------------------------------------------

    @property
    def model_input_names(self) -> list[str]:
        """Return the columns that the model takes."""
        return (
            ["input_ids", "token_type_ids", "attention_mask"]
            if self._types
            else ["input_ids", "attention_mask"]
        )

    def __call__(
        self,
        text: Any = None,
        text_pair: Any = None,
        add_special_tokens: bool = True,
        padding: Any = False,
        truncation: Any = None,
        max_length: int | None = None,
        stride: int = 0,
        pad_to_multiple_of: int | None = None,
        return_tensors: Any = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        verbose: bool = True,
        **unknown: Any,
    ) -> BatchEncoding:
        """Encode one text or a list of texts (and pairs); parameters as in transformers.

        Returns
        -------
        BatchEncoding with input_ids, attention_mask (and token_type_ids for BERT): lists, or int64 arrays
        with ``return_tensors``.
        """
        if unknown:
            from smhf_native.datasets.mapping import reject_unknown

            reject_unknown("tokenizer(...)", unknown, set(_CALL_OPTIONS))
        if return_overflowing_tokens or stride:
            raise NotImplementedError(
                "return_overflowing_tokens and stride: use smhf_native.Tokenizer, which has them, directly"
            )
        single = isinstance(text, str)
        texts = [text] if single else list(text)
        pairs = (
            None if text_pair is None else ([text_pair] if isinstance(text_pair, str) else list(text_pair))
        )
        if pairs is None and texts and isinstance(texts[0], (tuple, list)):
            pairs = [str(item[1]) for item in texts]
            texts = [str(item[0]) for item in texts]
        limit = self._limit(truncation, padding, max_length)
        options: dict[str, Any] = {"padding": True}
        if limit is not None:
            options["truncation"] = truncation
            options["max_length"] = limit
        if not add_special_tokens:
            options["add_special_tokens"] = False
        if not texts:
            return BatchEncoding({name: [] for name in self.model_input_names})
        native = self.native(texts, pairs, **options) if pairs is not None else self.native(texts, **options)
        lengths = np.asarray(native.lengths, dtype=np.int64)
        if (
            limit is None
            and verbose
            and not self._warned
            and len(lengths)
            and lengths.max() > self.model_max_length
        ):
            self._warned = True
            logger.warning(
                "Token indices sequence length is longer than the specified maximum sequence length for this model "
                "(%d > %d). Running this sequence through the model will result in indexing errors",
                int(lengths.max()),
                self.model_max_length,
            )
        width = self._width(padding, lengths, max_length, pad_to_multiple_of)
        columns: dict[str, Any] = {"input_ids": _pack(native.input_ids, lengths, width, self.pad_token_id)}
        if self._types if return_token_type_ids is None else return_token_type_ids:
            columns["token_type_ids"] = _pack(native.token_type_ids, lengths, width, 0)
        if return_attention_mask is not False:
            ones = np.ones((len(lengths), int(lengths.max())), dtype=np.int8)
            columns["attention_mask"] = _pack(ones, lengths, width, 0)
        if return_special_tokens_mask:
            special = np.isin(native.input_ids, self.all_special_ids).astype(np.int8)
            columns["special_tokens_mask"] = _pack(special, lengths, width, 1)
        if return_offsets_mapping:
            columns["offset_mapping"] = _offsets(native, lengths, width)
        if return_length:
            columns["length"] = [int(width or n) for n in lengths]
        encoding = BatchEncoding(columns, native)
        if return_tensors is not None:
            return encoding.convert_to_tensors(return_tensors)
        if single:
            return BatchEncoding({name: encoding[name][0] for name in encoding}, native)
        return encoding

    def _limit(self, truncation: Any, padding: Any, max_length: int | None) -> int | None:
        if truncation in (None, False, "do_not_truncate"):
            return None
        limit = max_length if max_length is not None else self.model_max_length
        if limit > _VERY_LARGE // 2:
            logger.warning(
                "truncation is asked for but the model has no maximum length: nothing is truncated"
            )
            return None
        return int(limit)

    def _width(self, padding: Any, lengths: Any, max_length: int | None, multiple: int | None) -> int | None:
        """Return the padded row length, or None for no padding."""
        if padding in (False, None, "do_not_pad"):
            return None
        if padding == "max_length":
            width = max_length if max_length is not None else self.model_max_length
            if width > _VERY_LARGE // 2:
                raise ValueError(
                    'padding="max_length" needs max_length= for a model without a maximum length'
                )
        elif padding in (True, "longest"):
            width = int(lengths.max())
        else:
            raise ValueError(f"padding={padding!r} is not one of True, 'longest', 'max_length', False")
        if multiple:
            width = -(-int(width) // multiple) * multiple
        return int(width)

    def pad(
        self,
        encoded_inputs: Any,
        padding: Any = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: Any = None,
        **_: Any,
    ) -> BatchEncoding:
        """Pad rows (a list of dicts, or a dict of lists) to one length; other columns are stacked."""
        if isinstance(encoded_inputs, Mapping):
            names = list(encoded_inputs)
            count = len(encoded_inputs["input_ids"])
            rows = [{name: encoded_inputs[name][i] for name in names} for i in range(count)]
        else:
            rows = [dict(row) for row in encoded_inputs]
        if not rows or "input_ids" not in rows[0]:
            raise ValueError(f"pad() needs rows with input_ids, found {list(rows[0]) if rows else 'no rows'}")
        lengths = np.array([len(row["input_ids"]) for row in rows], dtype=np.int64)
        width = self._width(padding, lengths, max_length, pad_to_multiple_of)
        fill = {
            "input_ids": self.pad_token_id,
            "token_type_ids": 0,
            "attention_mask": 0,
            "special_tokens_mask": 1,
        }
        batch: dict[str, Any] = {}
        for name in rows[0]:
            values = [row[name] for row in rows]
            if name in fill:
                batch[name] = [_extend(value, width, fill[name]) for value in values]
            else:
                batch[name] = [value.tolist() if isinstance(value, np.ndarray) else value for value in values]
        if "attention_mask" not in batch and return_attention_mask is not False:
            batch["attention_mask"] = [_extend([1] * int(n), width, 0) for n in lengths]
        encoding = BatchEncoding(batch)
        return encoding.convert_to_tensors(return_tensors) if return_tensors is not None else encoding

    def encode(self, text: str, text_pair: str | None = None, **options: Any) -> Any:
        """Return the ids of one text."""
        return self(text, text_pair, **options)["input_ids"]

    def encode_plus(self, text: str, text_pair: str | None = None, **options: Any) -> BatchEncoding:
        """Encode one text (old name of the call)."""
        return self(text, text_pair, **options)

    def batch_encode_plus(self, batch_text_or_text_pairs: Any, **options: Any) -> BatchEncoding:
        """Encode a list of texts (old name of the call)."""
        return self(batch_text_or_text_pairs, **options)

    def tokenize(self, text: str, **_: Any) -> list[str]:
        """Return the tokens of a text without special tokens."""
        ids = self(text, add_special_tokens=False, verbose=False)["input_ids"]
        return [str(token) for token in self.convert_ids_to_tokens(ids)]

    # -- vocabulary ---------------------------------------------------------------------------

    def decode(self, token_ids: Any, skip_special_tokens: bool = False, **_: Any) -> Any:
        """Return the text of ids (or a list of texts for a list of rows)."""
        ids = np.asarray(token_ids).tolist()
        if isinstance(ids, int):
            ids = [ids]
        if ids and isinstance(ids[0], list):
            return self.batch_decode(ids, skip_special_tokens)
        return self.native.decode(ids, skip_special_tokens=skip_special_tokens)

    def batch_decode(self, sequences: Any, skip_special_tokens: bool = False, **_: Any) -> list[str]:
        """Return the texts of rows of ids."""
        return [str(self.decode(row, skip_special_tokens)) for row in sequences]

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """Return the token of an id, or the tokens of a list of ids."""
        if isinstance(ids, (int, np.integer)):
            return self.native.id_to_token(int(ids))
        special = set(self.all_special_ids) if skip_special_tokens else set()
        return [self.native.id_to_token(int(i)) for i in np.asarray(ids).tolist() if int(i) not in special]

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """Return the id of a token, or the ids of a list; unknown tokens give the unknown id."""
        if isinstance(tokens, str):
            found = self.native.token_to_id(tokens)
            return self.unk_token_id if found is None else found
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def get_vocab(self) -> dict[str, int]:
        """Return token to id."""
        return dict(self.native.get_vocab())

    @property
    def vocab(self) -> dict[str, int]:
        """Return token to id."""
        return self.get_vocab()

    @property
    def vocab_size(self) -> int:
        """Return the number of tokens."""
        return int(self.native.vocab_size)

    def __len__(self) -> int:
        return self.vocab_size

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Return how many special tokens one row (or pair) gets."""
        return 3 if pair else 2

    def _special(self, role: str, default: str) -> str:
        value = self.init_kwargs.get(f"{role}_token", default)
        return str(value["content"]) if isinstance(value, dict) else str(value)

    @property
    def pad_token(self) -> str:
        """Return the padding token."""
        return self._special("pad", "[PAD]")

    @property
    def cls_token(self) -> str:
        """Return the token in front of a row."""
        return self._special("cls", "[CLS]")

    @property
    def sep_token(self) -> str:
        """Return the token after a text."""
        return self._special("sep", "[SEP]")

    @property
    def unk_token(self) -> str:
        """Return the token of unknown words."""
        return self._special("unk", "[UNK]")

    @property
    def mask_token(self) -> str:
        """Return the mask token."""
        return self._special("mask", "[MASK]")

    @property
    def pad_token_id(self) -> int:
        """Return the id of the padding token."""
        return int(self.native.token_to_id(self.pad_token) or 0)

    @property
    def cls_token_id(self) -> Any:
        """Return the id of the token in front of a row."""
        return self.native.token_to_id(self.cls_token)

    @property
    def sep_token_id(self) -> Any:
        """Return the id of the token after a text."""
        return self.native.token_to_id(self.sep_token)

    @property
    def unk_token_id(self) -> Any:
        """Return the id of unknown words."""
        return self.native.token_to_id(self.unk_token)

    @property
    def mask_token_id(self) -> Any:
        """Return the id of the mask token."""
        return self.native.token_to_id(self.mask_token)

    @property
    def all_special_tokens(self) -> list[str]:
        """Return the special tokens that the vocabulary holds."""
        roles = (self.unk_token, self.sep_token, self.pad_token, self.cls_token, self.mask_token)
        return [token for token in dict.fromkeys(roles) if self.native.token_to_id(token) is not None]

    @property
    def all_special_ids(self) -> list[int]:
        """Return the ids of the special tokens."""
        return [int(self.native.token_to_id(token)) for token in self.all_special_tokens]

    # -- files --------------------------------------------------------------------------------

    def save_pretrained(self, save_directory: str | os.PathLike[str], **_: Any) -> tuple[str, ...]:
        """Write the tokenizer's files into a folder; return their paths."""
        target = Path(save_directory)
        target.mkdir(parents=True, exist_ok=True)
        self.native.save_pretrained(str(target))
        settings = dict(self.init_kwargs)
        settings.setdefault("tokenizer_class", "BertTokenizer" if self._types else "DistilBertTokenizer")
        if self.model_max_length < _VERY_LARGE // 2:
            settings["model_max_length"] = self.model_max_length
        text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
        (target / "tokenizer_config.json").write_text(text, encoding="utf-8")
        if self.folder is not None:
            for name in ("special_tokens_map.json", "added_tokens.json"):
                source = self.folder / name
                if source.is_file() and source.resolve() != (target / name).resolve():
                    shutil.copyfile(source, target / name)
        return tuple(str(target / name) for name in _FILES if (target / name).is_file())

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **options: Any) -> Any:
        """Load from a folder or hub name; see :class:`AutoTokenizer`."""
        return AutoTokenizer.from_pretrained(pretrained_model_name_or_path, **options)

    def __repr__(self) -> str:
        return (
            f"PreTrainedTokenizerFast(name_or_path={self.name_or_path!r}, vocab_size={self.vocab_size}, "
            f"model_max_length={self.model_max_length})"
        )


_CALL_OPTIONS = (
    "text", "text_pair", "add_special_tokens", "padding", "truncation", "max_length", "return_tensors",
    "pad_to_multiple_of", "return_token_type_ids", "return_attention_mask", "return_special_tokens_mask",
    "return_offsets_mapping", "return_length", "verbose",
)  # fmt: skip


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
        options : ``do_lower_case``, ``model_max_length``, ``strip_accents`` override the files.
        """
        for name in ("use_auth_token", "use_fast", "trust_remote_code", "force_download", "config", "legacy"):
            options.pop(name, None)
        from smhf_native.tokenizer import Tokenizer

        folder = resolve(
            pretrained_model_name_or_path,
            revision,
            needs=TOKENIZER_FILES,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            token=token,
        )
        settings: dict[str, Any] = {}
        file = folder / "tokenizer_config.json"
        if file.is_file():
            settings = json.loads(file.read_text(encoding="utf-8"))
        settings.update(options)
        native_options = {k: options[k] for k in ("do_lower_case", "strip_accents") if k in options}
        native = Tokenizer.from_pretrained(str(folder), **native_options)
        return PreTrainedTokenizerFast(native, folder, os.fspath(pretrained_model_name_or_path), settings)


def _max_length(folder: Path | None, settings: dict[str, Any]) -> int:
    value = settings.get("model_max_length")
    if isinstance(value, (int, float)) and value < _VERY_LARGE // 2:
        return int(value)
    config = folder / "config.json" if folder is not None else None
    if config is not None and config.is_file():
        positions = json.loads(config.read_text(encoding="utf-8")).get("max_position_embeddings")
        if isinstance(positions, int):
            return positions
    return _VERY_LARGE


def _wants_token_types(folder: Path | None, settings: dict[str, Any]) -> bool:
    """Decide as AutoTokenizer does: by the tokenizer's own settings first, then by the model's type."""
    names = settings.get("model_input_names")
    if isinstance(names, list):
        return "token_type_ids" in names
    kind = settings.get("tokenizer_class")
    if kind is None and folder is not None and (folder / "config.json").is_file():
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    return "distilbert" not in str(kind or "bert").lower()


def _pack(matrix: Any, lengths: Any, width: int | None, fill: int) -> Rows:
    """Turn a (rows, longest) array into packed rows, padded to ``width`` or cut to their length."""
    matrix = np.asarray(matrix)
    mask = np.arange(matrix.shape[1]) < lengths[:, None]
    values = np.where(mask, matrix, fill)
    dtype = np.int8 if values.size == 0 or (values.min() >= -128 and values.max() <= 127) else np.int32
    if width is None:
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return Rows(values[mask].astype(dtype), offsets, "int64")
    width = max(width, int(lengths.max()))  # no truncation: a longer row keeps its tokens
    padded = np.full((len(lengths), width), fill, dtype=dtype)
    padded[:, : matrix.shape[1]] = values[:, :width]
    return Rows(padded.reshape(-1), np.arange(len(lengths) + 1, dtype=np.int64) * width, "int64")


def _offsets(native: Any, lengths: Any, width: int | None) -> list[list[tuple[int, int]]]:
    offsets = np.asarray(native.offsets)
    result = []
    for i, n in enumerate(lengths.tolist()):
        row = [(int(a), int(b)) for a, b in offsets[i][:n]]
        result.append(row + [(0, 0)] * (width - n) if width is not None and width > n else row)
    return result


def _extend(value: Any, width: int | None, fill: int) -> list[int]:
    row: list[int] = np.asarray(value).tolist()
    return row if width is None or len(row) >= width else row + [fill] * (width - len(row))
