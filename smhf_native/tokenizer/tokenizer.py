"""Tokenizer: loading, encoding, decoding."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from smhf_native.errors import BackendError
from smhf_native.paths import real_path
from smhf_native.tokenizer import _tokenizer
from smhf_native.tokenizer.encoding import Encoding

__all__ = ["AddedToken", "Tokenizer"]

_TRUNCATION = {"longest_first": 1, "only_first": 2, "only_second": 3}
_ALL = (
    _tokenizer.WANT_OFFSETS
    | _tokenizer.WANT_WORD_IDS
    | _tokenizer.WANT_SEQUENCE_IDS
    | _tokenizer.WANT_SPECIAL_MASK
)


@dataclass(frozen=True)
class AddedToken:
    """A token that is cut out of the text before WordPiece sees it.

    Parameters
    ----------
    content : str
    single_word : bool
        Only where no word character touches it.
    lstrip, rstrip : bool
        Takes the white space on that side with it.
    normalized : bool, optional
        Search in the normalized text; default: unless ``special``.
    special : bool
        Left out by ``decode(skip_special_tokens=True)``.
    """

    content: str
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool | None = None
    special: bool = False

    def _fields(self) -> tuple[str, bool, bool, bool, bool, bool]:
        normalized = (not self.special) if self.normalized is None else self.normalized
        return (self.content, self.single_word, self.lstrip, self.rstrip, normalized, self.special)


def _as_texts(texts: Any, name: str) -> Any:
    """A list or tuple of str, or a column that hands out Arrow capsules, from whatever holds texts."""
    if isinstance(texts, (list, tuple)):
        return texts
    if isinstance(texts, (str, bytes)):
        return (texts,)
    if texts is None:
        raise TypeError(f"{name}: expected str or a sequence of str, got None")
    column = _arrow_column(texts)
    if column is not None:
        return column
    tolist = getattr(texts, "tolist", None)  # numpy arrays and pandas Series give Python objects
    if tolist is not None:
        values = tolist()
        if not isinstance(values, list):
            return (values,)  # a 0-d array
        if values and isinstance(values[0], list):
            raise ValueError(f"{name}: expected one dimension, got {getattr(texts, 'ndim', 2)}")
        return values
    if isinstance(texts, Iterable) and not isinstance(texts, (Mapping, set, frozenset)):  # sets have no order
        return list(texts)
    raise TypeError(f"{name}: expected str or a sequence of str, got {type(texts).__name__}")


def _arrow_column(texts: Any) -> Any:
    """An immutable column behind the Arrow C data interface, None when the texts are Python objects.

    pandas keeps strings as Python objects or in Arrow's memory; the latter are taken as they lie.
    """
    array = getattr(texts, "array", texts)  # of a Series or Index
    dtype = getattr(array, "dtype", None)
    if getattr(dtype, "storage", None) == "pyarrow" or type(dtype).__name__ == "ArrowDtype":
        array = array.__arrow_array__()  # pandas: the pyarrow column, not a copy
    elif array is not texts or type(texts).__module__.partition(".")[0] in ("pandas", "numpy"):
        return None
    exported = hasattr(array, "__arrow_c_array__") or hasattr(array, "__arrow_c_stream__")
    return array if exported else None


def _as_words(rows: Any, name: str) -> tuple[list[Any], Any]:
    """Rows of words as one flat list and the positions where rows begin."""
    rows = _as_texts(rows, name)
    if rows and isinstance(rows[0], (str, bytes)):  # one row
        rows = [rows]
    flat: list[Any] = []
    starts = [0]
    for i, row in enumerate(rows):
        if isinstance(row, (str, bytes)) or not isinstance(row, Iterable):
            raise TypeError(f"{name}[{i}]: expected a list of words, got {type(row).__name__}")
        flat.extend(row)
        starts.append(len(flat))
    return flat, np.asarray(starts, dtype=np.int64)


class Tokenizer:
    """A BERT WordPiece tokenizer; use :meth:`from_pretrained` or :meth:`from_vocab` to get one.

    Encoding options are arguments of each call, never state: any number of threads may use one
    tokenizer at once.  Results equal those of the package ``tokenizers`` 0.22.2 and 0.23.3.
    """

    def __init__(self, core: _tokenizer.Tokenizer) -> None:
        self._core = core
        self._info: dict[str, Any] = core.info()
        pad = self.pad_token_id
        self._pad_id = pad if pad is not None else 0
        self._pads_left = bool(self._info["padding_left"])

    # --- loading --------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        do_lower_case: bool | None = None,
        strip_accents: bool | None = None,
        tokenize_chinese_chars: bool | None = None,
        clean_text: bool | None = None,
        model_max_length: int | None = None,
        **special_tokens: str | None,
    ) -> Tokenizer:
        """Load a tokenizer from a folder, a ``vocab.txt``, a ``tokenizer.json``, or by hub name.

        Parameters
        ----------
        name_or_path : str or path
            A folder is searched for tokenizer.json, then vocab.txt; tokenizer_config.json and
            special_tokens_map.json in it are read too.  A name that is no path is looked up as
            the hub's names are (``smhf_native.hub``).
        do_lower_case, strip_accents, tokenize_chinese_chars, clean_text : bool, optional
            Override what the files say; a bare vocab.txt says nothing and is taken as uncased.
        model_max_length : int, optional
            Tokens of a row, special ones included; the default of ``truncation=True``.
        **special_tokens
            ``unk_token``, ``sep_token``, ``pad_token``, ``cls_token``, ``mask_token``.

        Raises
        ------
        ParseError
            A file breaks its format; the sentence says where.
        BackendError
            The file holds another kind of tokenizer (BPE, Unigram, …).
        OSError
            Nothing was found under this name.
        """
        path = os.fspath(name_or_path)
        if not os.path.exists(path):
            if path.endswith((".txt", ".json")) or os.path.isabs(path) or path.startswith("."):
                raise FileNotFoundError(f"{path}: no such file or folder")
            from smhf_native import hub

            path = os.fspath(hub.resolve(path, needs=hub.TOKENIZER_FILES))
        refuse_other_kinds(path)
        core = _tokenizer.open(
            real_path(path),
            do_lower_case=do_lower_case,
            strip_accents=strip_accents,
            tokenize_chinese_chars=tokenize_chinese_chars,
            clean_text=clean_text,
            model_max_length=model_max_length,
            **special_tokens,
        )
        return cls(core)

    @classmethod
    def from_vocab(
        cls,
        vocab: Sequence[str] | dict[str, int] | str | os.PathLike[str],
        *,
        do_lower_case: bool = True,
        strip_accents: bool | None = None,
        tokenize_chinese_chars: bool = True,
        model_max_length: int | None = None,
        **special_tokens: str | None,
    ) -> Tokenizer:
        """Make a tokenizer from a list of tokens (ids are positions), a dict, or a vocab.txt.

        Raises
        ------
        ParseError
            The vocabulary is empty or lacks the unknown, class or separator token.
        """
        options: dict[str, Any] = {
            "do_lower_case": do_lower_case,
            "strip_accents": strip_accents,
            "tokenize_chinese_chars": tokenize_chinese_chars,
            "model_max_length": model_max_length,
            **special_tokens,
        }
        if isinstance(vocab, (str, os.PathLike)):
            return cls.from_pretrained(vocab, **options)
        if isinstance(vocab, dict):
            tokens = sorted(vocab, key=vocab.__getitem__)
            if [vocab[t] for t in tokens] != list(range(len(tokens))):
                raise ValueError("vocab: expected the ids 0 to n - 1, each once")
            return cls(_tokenizer.from_tokens(tokens, **options))
        return cls(_tokenizer.from_tokens(list(vocab), **options))

    @classmethod
    def from_json(cls, text: str | bytes, **options: Any) -> Tokenizer:
        """Make a tokenizer from the text of a tokenizer.json; options as in :meth:`from_pretrained`."""
        data = text.encode() if isinstance(text, str) else text
        return cls(_tokenizer.from_json(data, **options))

    def save_pretrained(self, folder: str | os.PathLike[str]) -> tuple[str, ...]:
        """Write tokenizer.json, vocab.txt, tokenizer_config.json and special_tokens_map.json.

        Returns
        -------
        tuple of str
            The paths written; ``transformers`` and ``tokenizers`` load the folder.
        """
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        self._core.save(real_path(path))
        names = ("tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "tokenizer.json")
        return tuple(str(path / name) for name in names)

    # --- encoding -------------------------------------------------------------------------------

    def __call__(
        self,
        texts: Any,
        pairs: Any = None,
        *,
        truncation: bool | str = False,
        max_length: int | None = None,
        padding: bool | str = False,
        stride: int = 0,
        add_special_tokens: bool = True,
        return_overflowing_tokens: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        truncation_side: str | None = None,
        is_split_into_words: bool = False,
        split_special_tokens: bool = False,
        details: bool = False,
        dtype: npt.DTypeLike | None = None,
    ) -> Encoding:
        """Encode texts.

        Parameters
        ----------
        texts : str, or list, tuple, ndarray, pandas Series, pyarrow array, iterable of str
            A single str gives an Encoding of one row.  Arrow columns (also those inside a pandas
            Series) are read where they lie.
        pairs : the same, optional
            Second texts, as many as ``texts``.
        truncation : bool or {"longest_first", "only_first", "only_second", "do_not_truncate"}
            True is ``"longest_first"``.
        max_length : int, optional
            Tokens of a row, special ones included; default :attr:`model_max_length`.
        padding : bool or {"longest", "max_length", "do_not_pad"}
            True is ``"longest"``: to the longest row of this call.
        stride : int
            Tokens that consecutive overflow rows share.
        add_special_tokens : bool
        return_overflowing_tokens : bool
            Cut-off parts follow as further rows.
        pad_to_multiple_of : int, optional
            The padded width is rounded up to a multiple of it.
        padding_side, truncation_side : {"right", "left"}, optional
            Default: what tokenizer_config.json says, else right.
        is_split_into_words : bool
            ``texts`` is a list of words, or a list of lists of words.
        split_special_tokens : bool
            Special tokens in the text are ordinary text.
        details : bool
            Compute offsets, word ids, sequence ids and special-token masks now.  Without it they
            come from a second pass over the texts when first asked for.
        dtype : {"int64", "int32"}, optional
            Of the arrays; default int64.

        Returns
        -------
        Encoding
            Arrays of shape (rows, width) when padded, lists of 1-D arrays when not.

        Raises
        ------
        TypeError
            A row is not a text; the sentence names it.
        ValueError
            A lone surrogate (row and character named); ``max_length`` below the number of special
            tokens; a stride that leaves nothing; unequal numbers of texts and pairs.
        """
        if (
            truncation is False
            and (padding is False or padding is True)
            and (type(texts) is str or type(texts) is list)
            and add_special_tokens is True
            and pairs is None
            and max_length is None
            and pad_to_multiple_of is None
            and padding_side is None
            and truncation_side is None
            and dtype is None
            and not (
                stride or return_overflowing_tokens or is_split_into_words or split_special_tokens or details
            )
        ):  # nothing to resolve: the short way for single calls
            return self._core.plain(Encoding, texts, padding, self._pads_left, self._pad_id, 8)
        strategy = self._strategy(truncation)
        length = self._length(max_length, strategy, padding)
        starts = pair_starts = None
        rows: Any
        if is_split_into_words:
            rows, starts = _as_words(texts, "texts")
            if pairs is not None:
                pairs, pair_starts = _as_words(pairs, "pairs")
        else:
            rows = _as_texts(texts, "texts")
            if pairs is not None:
                pairs = _as_texts(pairs, "pairs")
        side = truncation_side if truncation_side is not None else self.truncation_side
        arguments: dict[str, Any] = {
            "add_special_tokens": add_special_tokens,
            "truncation": strategy,
            "truncation_left": _is_left(side, "truncation_side"),
            "max_length": length if strategy else 0,
            "stride": stride,
            "overflow": return_overflowing_tokens,
            "split_special_tokens": split_special_tokens,
            "word_starts": starts,
            "pair_word_starts": pair_starts,
        }
        core = self._core
        want = _ALL if details else 0
        item_size = _item_size(dtype)
        left = _is_left(padding_side or self.padding_side, "padding_side")
        along: dict[str, Any] = {}
        if (padding is True or padding == "longest") and pad_to_multiple_of is None:
            along = {"padded": item_size, "pad_id": self._pad_id, "pad_left": left}
        try:
            encoded = core.encode(rows, pairs, want=want, cls=Encoding, **arguments, **along)
        except (TypeError, ValueError) as failure:
            if is_split_into_words:
                raise _of_words(failure, {"texts": starts, "pairs": pair_starts}) from None
            raise
        # The second pass must see the texts as they are now, whatever becomes of the caller's list.
        kept = tuple(rows) if isinstance(rows, list) else rows
        kept_pairs = tuple(pairs) if isinstance(pairs, list) else pairs
        encoded.layout(
            self._width(encoded.longest, padding, length, pad_to_multiple_of),
            self._pad_id,
            left,
            item_size,
        )
        encoded._want = want
        encoded._again = (core, kept, kept_pairs, arguments)
        return encoded

    def stream(
        self, texts: Iterable[Any], pairs: Iterable[Any] | None = None, *, chunk: int = 1024, **options: Any
    ) -> Iterator[Encoding]:
        """Encode an iterable piece by piece; at most ``chunk`` texts are held at a time.

        Parameters
        ----------
        texts, pairs : iterable of str
            Generators are read only as far as the next Encoding needs.
        chunk : int
            Texts of each Encoding, fewer in the last one.
        **options
            As of a call; ``padding=True`` pads to the longest row of each chunk.

        Yields
        ------
        Encoding
            ``overflow_to_sample_mapping`` counts within the chunk; errors name the row of the whole.
        """
        if chunk < 1:
            raise ValueError(f"chunk: expected at least 1, got {chunk}")
        if isinstance(texts, (str, bytes)):
            raise TypeError(f"texts: expected an iterable of str, got one {type(texts).__name__}")
        rows, seconds = iter(texts), iter(pairs) if pairs is not None else None
        first = 0
        while True:
            part = list(islice(rows, chunk))
            beside = list(islice(seconds, chunk)) if seconds is not None else None
            if not part and not beside:
                return
            try:
                encoding = self(part, beside, **options)
            except (TypeError, ValueError) as failure:
                raise _of_whole(failure, first) from None
            yield encoding
            first += len(part)

    @staticmethod
    def _strategy(truncation: bool | str | None) -> int:
        if truncation is None or truncation is False or truncation == "do_not_truncate":
            return 0
        if truncation is True:
            return 1
        if truncation not in _TRUNCATION:
            raise ValueError(
                f"truncation: expected a bool or one of {[*_TRUNCATION, 'do_not_truncate']}, got {truncation!r}"
            )
        return _TRUNCATION[truncation]

    def _length(self, max_length: int | None, strategy: int, padding: bool | str) -> int:
        """Maximum length in force; 0 when there is none."""
        if max_length is None:
            return self._info["model_max_length"] if self._info["model_max_length"] > 0 else 0
        if max_length < 1:
            raise ValueError(f"max_length: expected at least 1, got {max_length}")
        return max_length

    @staticmethod
    def _width(longest: int, padding: bool | str | None, length: int, multiple: int | None) -> int | None:
        """Columns of the padded arrays, or None without padding."""
        if padding is None or padding is False or padding == "do_not_pad":
            return None
        if padding is True or padding == "longest":
            width = longest
        elif padding == "max_length":
            if length == 0:
                raise ValueError("padding='max_length': give max_length; this tokenizer has no model_max_length")
            width = length
        else:
            raise ValueError(
                f"padding: expected a bool, 'longest', 'max_length' or 'do_not_pad', got {padding!r}"
            )
        if multiple is not None:
            if multiple < 1:
                raise ValueError(f"pad_to_multiple_of: expected at least 1, got {multiple}")
            width = -(-width // multiple) * multiple
        return max(width, longest)

    def tokenize(self, text: str, pair: str | None = None, add_special_tokens: bool = False) -> list[str]:
        """Tokens of one text as strings."""
        encoded = self._core.encode(
            (text,), None if pair is None else (pair,), add_special_tokens=add_special_tokens
        )
        return [self._core.id_to_token(i) or "" for i in encoded.view("ids")]

    # --- decoding -------------------------------------------------------------------------------

    def decode(self, ids: Any, skip_special_tokens: bool = False, cleanup: bool | None = None) -> str:
        """Text of one row of ids.

        Parameters
        ----------
        ids : int, sequence of int, or 1-D integer array
        skip_special_tokens : bool
        cleanup : bool, optional
            Close up punctuation and contractions; default: what the tokenizer file says (yes).
        """
        array = np.atleast_1d(np.asarray(ids))
        if array.size == 0:
            return ""
        if array.dtype.kind not in "iu" or array.ndim != 1:
            raise TypeError(f"ids: expected integers in one dimension, got {array.dtype}, {array.ndim}-D")
        wide = array.astype(np.int64, copy=False)
        fits = (wide >= 0) & (wide <= np.iinfo(np.int32).max)
        small = np.where(fits, wide, -1).astype(np.int32)
        return self._core.decode(np.ascontiguousarray(small), skip_special_tokens, cleanup)

    def batch_decode(
        self, rows: Iterable[Any], skip_special_tokens: bool = False, cleanup: bool | None = None
    ) -> list[str]:
        """Texts of many rows of ids; see :meth:`decode`."""
        return [self.decode(row, skip_special_tokens, cleanup) for row in rows]

    # --- vocabulary -----------------------------------------------------------------------------

    def token_to_id(self, token: str) -> int | None:
        """Id of a token, None when unknown."""
        return self._core.token_to_id(token)

    def id_to_token(self, id: int) -> str | None:
        """Token of an id, None when unknown."""
        return self._core.id_to_token(id)

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> Any:
        """Id of one token or ids of many; unknown ones give the unknown token's id."""
        if isinstance(tokens, str):
            found = self._core.token_to_id(tokens)
            return self.unk_token_id if found is None else found
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """Token of one id or tokens of many (None for an unknown id)."""
        if isinstance(ids, (int, np.integer)):
            return self._core.id_to_token(int(ids))
        numbers = [int(i) for i in ids]
        if skip_special_tokens:
            numbers = [i for i in numbers if not self._core.is_special(i)]
        return [self._core.id_to_token(i) for i in numbers]

    def get_vocab(self) -> dict[str, int]:
        """All tokens with their ids, added tokens included."""
        return self._core.vocab()

    @property
    def vocab_size(self) -> int:
        """Tokens of the model's vocabulary, added tokens not counted."""
        return int(self._info["vocab_size"])

    def __len__(self) -> int:
        """Number of tokens, added ones included."""
        return int(self._info["total_size"])

    @property
    def added_tokens(self) -> dict[int, AddedToken]:
        """Added tokens, special ones included, by id."""
        return {id: AddedToken(content, *flags) for content, id, *flags in self._core.added_tokens()}

    def with_tokens(self, tokens: Iterable[str | AddedToken], special: bool = False) -> Tokenizer:
        """Make a copy that also knows these tokens; this tokenizer stays as it is.

        Parameters
        ----------
        tokens : iterable of str or AddedToken
        special : bool
            What plain strings become.
        """
        added = [t if isinstance(t, AddedToken) else AddedToken(t, special=special) for t in tokens]
        return Tokenizer(self._core.with_tokens([t._fields() for t in added]))

    # --- properties -----------------------------------------------------------------------------

    @property
    def model_max_length(self) -> int | None:
        """Tokens that a row may have, None when no file says."""
        length = int(self._info["model_max_length"])
        return length if length > 0 else None

    @property
    def padding_side(self) -> str:
        """``"right"`` or ``"left"``."""
        return "left" if self._info["padding_left"] else "right"

    @property
    def truncation_side(self) -> str:
        """``"right"`` or ``"left"``."""
        return "left" if self._info["truncation_left"] else "right"

    @property
    def do_lower_case(self) -> bool:
        """Whether texts are lower-cased."""
        return bool(self._info["do_lower_case"])

    @property
    def strip_accents(self) -> bool:
        """Whether accents are removed."""
        return bool(self._info["strip_accents"])

    @property
    def tokenize_chinese_chars(self) -> bool:
        """Whether CJK characters are words of their own."""
        return bool(self._info["tokenize_chinese_chars"])

    @property
    def clean_up_tokenization_spaces(self) -> bool:
        """Whether :meth:`decode` closes up punctuation and contractions when not told."""
        return bool(self._info["decode_cleanup"])

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Special tokens that encoding adds to a row."""
        return int(self._info["specials_pair" if pair else "specials_single"])

    @property
    def unk_token(self) -> str | None:
        """Token of words that the vocabulary cannot spell."""
        return self._role("unk_token")

    @property
    def sep_token(self) -> str | None:
        """Token after each text."""
        return self._role("sep_token")

    @property
    def pad_token(self) -> str | None:
        """Token of padding."""
        return self._role("pad_token")

    @property
    def cls_token(self) -> str | None:
        """Token before the first text."""
        return self._role("cls_token")

    @property
    def mask_token(self) -> str | None:
        """Token of masked positions."""
        return self._role("mask_token")

    @property
    def unk_token_id(self) -> int | None:
        """Id of :attr:`unk_token`."""
        return self._role_id("unk_token")

    @property
    def sep_token_id(self) -> int | None:
        """Id of :attr:`sep_token`."""
        return self._role_id("sep_token")

    @property
    def pad_token_id(self) -> int | None:
        """Id of :attr:`pad_token`."""
        return self._role_id("pad_token")

    @property
    def cls_token_id(self) -> int | None:
        """Id of :attr:`cls_token`."""
        return self._role_id("cls_token")

    @property
    def mask_token_id(self) -> int | None:
        """Id of :attr:`mask_token`."""
        return self._role_id("mask_token")

    @property
    def all_special_tokens(self) -> list[str]:
        """Special tokens in order of id."""
        return [row[0] for row in self._core.added_tokens() if row[6]]

    @property
    def all_special_ids(self) -> list[int]:
        """Ids of the special tokens."""
        return [row[1] for row in self._core.added_tokens() if row[6]]

    def _role(self, role: str) -> str | None:
        token: str | None = self._info[role]
        return token

    def _role_id(self, role: str) -> int | None:
        token = self._role(role)
        return None if token is None else self._core.token_to_id(token)

    def _capsule(self) -> Any:
        """PyCapsule ``smhf.tokenizer`` with the C handle; it keeps the tokenizer alive."""
        return self._core._capsule()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the text of tokenizer.json and the settings beside it."""
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            self._core.save(folder)
            files = {f.name: f.read_bytes() for f in Path(folder).iterdir()}
        return _restore, (files,)

    def __repr__(self) -> str:
        case = "lower-case" if self.do_lower_case else "cased"
        return f"Tokenizer({self.vocab_size} tokens, {case}, model_max_length={self.model_max_length})"


# Files that say what a folder without tokenizer.json and vocab.txt holds.
_OTHER_KINDS = {
    "merges.txt": "a BPE tokenizer (vocab.json and merges.txt)",
    "spiece.model": "a SentencePiece tokenizer (Unigram or BPE)",
    "sentencepiece.bpe.model": "a SentencePiece tokenizer (BPE)",
    "tokenizer.model": "a SentencePiece or tiktoken tokenizer",
}


def refuse_other_kinds(path: str | os.PathLike[str]) -> None:
    """Raise BackendError when a folder holds files of another kind of tokenizer only."""
    folder = Path(path)
    if not folder.is_dir() or any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
        return
    for name, kind in _OTHER_KINDS.items():
        if (folder / name).is_file():
            raise BackendError(f"{folder}: {name} says that this is {kind}; only BERT's WordPiece is supported")


def _of_words(failure: Exception, starts: dict[str, Any]) -> Exception:
    """The same failure with row and word named instead of the position among all words."""

    def place(found: re.Match[str]) -> str:
        rows = starts[found[1]]
        row = int(np.searchsorted(rows, int(found[2]), side="right")) - 1
        return f"{found[1]}[{row}][{int(found[2]) - int(rows[row])}]:"

    if failure.args:
        failure.args = (re.sub(r"^(texts|pairs)\[(\d+)\]:", place, str(failure.args[0])), *failure.args[1:])
    return failure


def _of_whole(failure: Exception, first: int) -> Exception:
    """The same failure with its row counted from the beginning of a stream."""
    if first and failure.args:
        text = re.sub(
            r"^(texts|pairs)\[(\d+)\]", lambda m: f"{m[1]}[{int(m[2]) + first}]", str(failure.args[0])
        )
        failure.args = (text, *failure.args[1:])
    return failure


def _restore(files: dict[str, bytes]) -> Tokenizer:
    """Undo :meth:`Tokenizer.__reduce__`."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            Path(folder, Path(name).name).write_bytes(data)
        return Tokenizer(_tokenizer.open(folder))


def _is_left(side: str, name: str) -> bool:
    if side not in ("left", "right"):
        raise ValueError(f"{name}: expected 'left' or 'right', got {side!r}")
    return side == "left"


def _item_size(dtype: npt.DTypeLike | None) -> int:
    """Bytes of an array's items: 8 for int64 and None, 4 for int32."""
    if dtype is None:
        return 8
    wanted = np.dtype(dtype)
    if wanted not in (np.dtype(np.int64), np.dtype(np.int32)):
        raise ValueError(f"dtype: expected int64 or int32, got {wanted}")
    return wanted.itemsize
