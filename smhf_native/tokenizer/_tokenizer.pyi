"""The compiled tokenizer room: packed encodings over libsmhf."""

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any, TypeVar, final, overload

from typing_extensions import disjoint_base

WANT_OFFSETS: int
WANT_WORD_IDS: int
WANT_SEQUENCE_IDS: int
WANT_SPECIAL_MASK: int
FIELD_IDS: int
FIELD_TYPE_IDS: int
FIELD_ATTENTION_MASK: int
FIELD_WORD_IDS: int
FIELD_SEQUENCE_IDS: int
FIELD_SPECIAL_MASK: int
FIELD_OFFSETS: int

@final
class Field: ...

@disjoint_base
class Encoding:
    _tokenizer: Tokenizer
    _texts: Any
    _again: Any
    _detail: Encoding | None
    _cache: dict[str, Any] | None
    _want: int
    _width: int
    _pad_id: int
    _left: int
    _item_size: int
    @property
    def rows(self) -> int: ...
    @property
    def tokens(self) -> int: ...
    @property
    def longest(self) -> int: ...
    @property
    def truncated_count(self) -> int: ...
    @property
    def input_ids(self) -> Any: ...
    @property
    def attention_mask(self) -> Any: ...
    @property
    def token_type_ids(self) -> Any: ...
    def view(self, name: str, /) -> memoryview: ...
    def fill(self, field: int, out: Any, width: int, pad: int, left: bool, /) -> None: ...
    def rows_of(self, field: int, pad: int, /) -> Any: ...
    def layout(self, width: int | None, pad_id: int, left: bool | int, item_size: int, /) -> None: ...

_E = TypeVar("_E", bound=Encoding)

@final
class Tokenizer:
    @overload
    def encode(
        self,
        texts: Any,
        pairs: Any = None,
        *,
        add_special_tokens: bool = True,
        truncation: int = 0,
        truncation_left: bool = False,
        max_length: int = 0,
        stride: int = 0,
        overflow: bool = False,
        want: int = 0,
        split_special_tokens: bool = False,
        word_starts: Any = None,
        pair_word_starts: Any = None,
        cls: None = None,
        padded: int = 0,
        pad_id: int = 0,
        pad_left: bool = False,
    ) -> Encoding: ...
    @overload
    def encode(
        self,
        texts: Any,
        pairs: Any = None,
        *,
        add_special_tokens: bool = True,
        truncation: int = 0,
        truncation_left: bool = False,
        max_length: int = 0,
        stride: int = 0,
        overflow: bool = False,
        want: int = 0,
        split_special_tokens: bool = False,
        word_starts: Any = None,
        pair_word_starts: Any = None,
        cls: type[_E],
        padded: int = 0,
        pad_id: int = 0,
        pad_left: bool = False,
    ) -> _E: ...
    def plain(
        self, cls: type[_E], texts: Any, padded: bool, left: bool, pad_id: int, item_size: int, /
    ) -> _E: ...
    def decode(self, ids: Any, skip_special_tokens: bool, cleanup: bool | None, /) -> str: ...
    def token_to_id(self, token: str, /) -> int | None: ...
    def id_to_token(self, id: int, /) -> str | None: ...
    def is_special(self, id: int, /) -> bool: ...
    def vocab(self, /) -> dict[str, int]: ...
    def added_tokens(self, /) -> list[tuple[str, int, bool, bool, bool, bool, bool]]: ...
    def info(self, /) -> dict[str, Any]: ...
    def with_tokens(
        self, tokens: Sequence[tuple[str, bool, bool, bool, bool, bool]], /
    ) -> Tokenizer: ...
    def save(self, folder: str | PathLike[str], /) -> None: ...
    def _capsule(self, /) -> Any: ...

def tier() -> str: ...
def set_threads(number: int, /) -> None: ...
def open(path: str | PathLike[str], **options: Any) -> Tokenizer: ...
def from_json(text: Any, **options: Any) -> Tokenizer: ...
def from_tokens(tokens: Sequence[str], **options: Any) -> Tokenizer: ...
def train_wordpiece(
    texts: Any,
    vocab_size: int,
    min_frequency: int,
    limit_alphabet: int,
    lowercase: bool,
    special_tokens: Sequence[bytes],
    progress: Callable[[int, int, int], object] | None,
    /,
) -> str: ...
