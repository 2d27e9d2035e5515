"""What a tokenizer of the mirror is besides its calls: vocabulary, special tokens, settings, files."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from smhf_native.tokenizer import AddedToken

__all__ = ["ROLES", "TokenizerBase"]

ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_NATIVE_ROLES = ("unk", "sep", "pad", "cls", "mask")
_VERY_LARGE = int(1e30)
_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)


class RoleToken:
    """The token of a role ("pad"), None when there is none; an attribute of a tokenizer."""

    def __init__(self, role: str):
        self.role = role

    def __get__(self, tokenizer: Any, owner: Any = None) -> str | None:
        """Return the token."""
        roles: dict[str, str] = {} if tokenizer is None else tokenizer._roles
        return roles.get(self.role)

    def __set__(self, tokenizer: Any, value: Any) -> None:
        """Set the token (the vocabulary stays as it is)."""
        if value is None:
            tokenizer._roles.pop(self.role, None)
        else:
            tokenizer._roles[self.role] = _content(value)


class RoleId:
    """The id of the token of a role, None when there is none."""

    def __init__(self, role: str):
        self.role = role

    def __get__(self, tokenizer: Any, owner: Any = None) -> int | None:
        """Return the id."""
        token = None if tokenizer is None else tokenizer._roles.get(self.role)
        found: int | None = None if token is None else tokenizer.convert_tokens_to_ids(token)
        return found

    def __set__(self, tokenizer: Any, value: int | None) -> None:
        """Make the token of an id the role's."""
        token = None if value is None else tokenizer.native.id_to_token(int(value))
        if value is not None and token is None:
            raise ValueError(f"{self.role}_token_id = {value}: the vocabulary has no such id")
        setattr(tokenizer, f"{self.role}_token", token)


class TokenizerBase:
    """Vocabulary, special tokens and files of a tokenizer; see ``tokenization`` for encoding."""

    is_fast = True
    pad_token_type_id = 0
    split_special_tokens = False
    bos_token, bos_token_id = RoleToken("bos"), RoleId("bos")
    eos_token, eos_token_id = RoleToken("eos"), RoleId("eos")
    unk_token, unk_token_id = RoleToken("unk"), RoleId("unk")
    sep_token, sep_token_id = RoleToken("sep"), RoleId("sep")
    pad_token, pad_token_id = RoleToken("pad"), RoleId("pad")
    cls_token, cls_token_id = RoleToken("cls"), RoleId("cls")
    mask_token, mask_token_id = RoleToken("mask"), RoleId("mask")

    def __init__(self, native: Any, folder: Path | None, name_or_path: str, settings: dict[str, Any]):
        self.native = native
        self.folder = folder
        self.name_or_path = name_or_path
        self.init_kwargs = settings
        self.padding_side = str(settings.get("padding_side", native.padding_side))
        self.truncation_side = str(settings.get("truncation_side", native.truncation_side))
        self.clean_up_tokenization_spaces = bool(settings.get("clean_up_tokenization_spaces", False))
        self.model_max_length = _max_length(folder, settings)
        names = ["input_ids", "token_type_ids", "attention_mask"]
        if not _wants_token_types(folder, settings):
            names.remove("token_type_ids")
        self.model_input_names = names
        self._roles: dict[str, str] = {}
        for role in ROLES:
            token = (
                getattr(native, f"{role}_token") if role in _NATIVE_ROLES else settings.get(f"{role}_token")
            )
            if token is not None:
                self._roles[role] = _content(token)
        extra = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
        self._extra = [_content(token) for token in extra] if isinstance(extra, list) else []
        self._warned = False

    # -- vocabulary ---------------------------------------------------------------------------

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """Return the token of an id, or the tokens of a list of ids."""
        if isinstance(ids, (int, np.integer)):
            return self.native.id_to_token(int(ids))
        special = set(self.all_special_ids) if skip_special_tokens else set()
        return [self.native.id_to_token(int(i)) for i in ids if int(i) not in special]

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """Return the id of a token, or the ids of a list; unknown tokens give the unknown id."""
        if isinstance(tokens, str):
            found = self.native.token_to_id(tokens)
            return self.unk_token_id if found is None else found
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def get_vocab(self) -> dict[str, int]:
        """Return token to id, added tokens included."""
        return dict(self.native.get_vocab())

    @property
    def vocab(self) -> dict[str, int]:
        """Return token to id."""
        return self.get_vocab()

    @property
    def vocab_size(self) -> int:
        """Return the number of tokens, added ones not counted."""
        return int(self.native.vocab_size)

    def __len__(self) -> int:
        return len(self.native)

    def __bool__(self) -> bool:
        return True

    @property
    def _decoder_cleans(self) -> bool:
        return bool(self.native.clean_up_tokenization_spaces)

    # -- added tokens -------------------------------------------------------------------------

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """Return the added tokens, special ones included, by id."""
        return dict(self.native.added_tokens)

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """Return the ids of the added tokens, special ones included."""
        return {token.content: i for i, token in sorted(self.native.added_tokens.items())}

    def get_added_vocab(self) -> dict[str, int]:
        """Return :attr:`added_tokens_encoder` as a new dict."""
        return self.added_tokens_encoder

    def add_tokens(self, new_tokens: Any, special_tokens: bool = False) -> int:
        """Add tokens that are matched whole in texts; return how many were not added tokens before.

        A model needs as many rows in its embeddings as ``len(tokenizer)``.
        """
        given = [new_tokens] if isinstance(new_tokens, str) or hasattr(new_tokens, "content") else new_tokens
        before = len(self.native.added_tokens)
        self.native = self.native.with_tokens([_added(token, special_tokens) for token in given])
        return len(self.native.added_tokens) - before

    def add_special_tokens(
        self, special_tokens_dict: Mapping[str, Any], replace_extra_special_tokens: bool = True
    ) -> int:
        """Add special tokens by role (``{"pad_token": "<pad>"}``) or as ``extra_special_tokens``.

        Returns
        -------
        int : how many were not added tokens before
        """
        tokens: list[Any] = []
        for key, value in special_tokens_dict.items():
            if key in ("extra_special_tokens", "additional_special_tokens"):
                tokens += value
                names = [_content(token) for token in value]
                self._extra = (
                    names if replace_extra_special_tokens else list(dict.fromkeys(self._extra + names))
                )
            elif key.removesuffix("_token") in ROLES:
                tokens.append(value)
                self._roles[key.removesuffix("_token")] = _content(value)
            else:
                known = [f"{role}_token" for role in ROLES]
                raise ValueError(
                    f"{key!r} is no special token; expected one of {known} or 'extra_special_tokens'"
                )
        return self.add_tokens(tokens, special_tokens=True) if tokens else 0

    # -- special tokens -----------------------------------------------------------------------

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Return how many special tokens one row (or pair) gets."""
        return int(self.native.num_special_tokens_to_add(pair))

    @property
    def max_len_single_sentence(self) -> int:
        """Return the tokens that a single text may have."""
        return self.model_max_length - self.num_special_tokens_to_add()

    @property
    def max_len_sentences_pair(self) -> int:
        """Return the tokens that both texts of a pair may have together."""
        return self.model_max_length - self.num_special_tokens_to_add(pair=True)

    def get_special_tokens_mask(
        self, token_ids_0: Any, token_ids_1: Any = None, already_has_special_tokens: bool = False
    ) -> list[int]:
        """Return 1 for special tokens in ids, else 0; without specials yet, as they will be placed."""
        special = set(self.all_special_ids)
        if already_has_special_tokens:
            if token_ids_1 is not None:
                raise ValueError(
                    "ids that have their special tokens come as one list: token_ids_1 must be None"
                )
            return [int(int(i) in special) for i in token_ids_0]
        mask = [1] + [0] * len(token_ids_0) + [1]
        return mask if token_ids_1 is None else mask + [0] * len(token_ids_1) + [1]

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """Return the special tokens by role ("pad_token", ...)."""
        return {f"{role}_token": self._roles[role] for role in ROLES if role in self._roles}

    @property
    def extra_special_tokens(self) -> list[str]:
        """Return the special tokens that have no role."""
        return list(self._extra)

    additional_special_tokens = extra_special_tokens

    @property
    def all_special_tokens(self) -> list[str]:
        """Return the special tokens that the vocabulary holds, by role, then the extra ones."""
        tokens = dict.fromkeys([*self.special_tokens_map.values(), *self._extra])
        return [token for token in tokens if self.native.token_to_id(token) is not None]

    @property
    def all_special_ids(self) -> list[int]:
        """Return the ids of the special tokens."""
        return [int(self.native.token_to_id(token)) for token in self.all_special_tokens]

    def _pad_id(self) -> int:
        return self.pad_token_id or 0

    # -- files --------------------------------------------------------------------------------

    def save_pretrained(self, save_directory: str | os.PathLike[str], **_: Any) -> tuple[str, ...]:
        """Write the tokenizer's files into a folder; return their paths."""
        target = Path(save_directory)
        target.mkdir(parents=True, exist_ok=True)
        self.native.save_pretrained(str(target))
        settings = {k: v for k, v in self.init_kwargs.items() if not k.startswith("_")}
        wants_types = "token_type_ids" in self.model_input_names
        settings.setdefault("tokenizer_class", "BertTokenizer" if wants_types else "DistilBertTokenizer")
        if self.model_max_length < _VERY_LARGE // 2:
            settings["model_max_length"] = self.model_max_length
        settings.update(self.special_tokens_map)
        for name in (
            "padding_side",
            "truncation_side",
            "do_lower_case",
            "strip_accents",
            "tokenize_chinese_chars",
        ):
            value = getattr(self if name.endswith("side") else self.native, name)
            if name in settings or name in ("do_lower_case", "tokenize_chinese_chars") or value == "left":
                settings[name] = value
        if self._extra:
            settings["extra_special_tokens"] = list(self._extra)
        _write_json(target / "tokenizer_config.json", settings)
        _write_json(
            target / "special_tokens_map.json",
            {**self.special_tokens_map, **({"extra_special_tokens": self._extra} if self._extra else {})},
        )
        source = self.folder / "added_tokens.json" if self.folder is not None else None
        if source is not None and source.is_file() and source.resolve() != (target / source.name).resolve():
            shutil.copyfile(source, target / source.name)
        return tuple(str(target / name) for name in _FILES if (target / name).is_file())

    def save_vocabulary(
        self, save_directory: str | os.PathLike[str], filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Write ``vocab.txt`` alone; return its path in a tuple."""
        path = Path(save_directory) / f"{filename_prefix + '-' if filename_prefix else ''}vocab.txt"
        ids = {i: token for token, i in self.get_vocab().items()}
        path.write_text("".join(f"{ids[i]}\n" for i in sorted(ids)), encoding="utf-8")
        return (str(path),)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(name_or_path={self.name_or_path!r}, vocab_size={self.vocab_size}, "
            f"model_max_length={self.model_max_length}, padding_side={self.padding_side!r}, "
            f"truncation_side={self.truncation_side!r}, special_tokens={self.special_tokens_map})"
        )


def _content(token: Any) -> str:
    """Text of a token given as str, dict or AddedToken."""
    if isinstance(token, Mapping):
        token = token["content"]
    return str(getattr(token, "content", token))


def _added(token: Any, special: bool) -> AddedToken:
    """Ours of a str or of an object with the fields of ``tokenizers.AddedToken``."""
    if isinstance(token, str):
        return AddedToken(token, special=special, normalized=not special)
    flags = {name: bool(getattr(token, name)) for name in ("single_word", "lstrip", "rstrip")}
    normalized = getattr(token, "normalized", None)
    return AddedToken(
        token.content,
        **flags,
        normalized=normalized,
        special=special or bool(getattr(token, "special", False)),
    )


def _write_json(path: Path, value: Any) -> None:
    path.write_text(
        json.dumps(value, indent=2, ensure_ascii=False, default=_plain_token) + "\n", encoding="utf-8"
    )


def _plain_token(token: Any) -> Any:
    """A token object in a settings file."""
    if hasattr(token, "content"):
        return _content(token)
    raise TypeError(f"a tokenizer setting of type {type(token).__name__} cannot be written as JSON")


def read_settings(folder: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """What tokenizer_config.json says, overridden by what the caller says."""
    settings: dict[str, Any] = {}
    file = folder / "tokenizer_config.json"
    if file.is_file():
        settings = json.loads(file.read_text(encoding="utf-8"))
    settings.update(options)
    return settings


def native_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The part of from_pretrained's options that the native tokenizer takes."""
    names: Iterable[str] = ("do_lower_case", "strip_accents", "tokenize_chinese_chars")
    taken = {name: options[name] for name in names if options.get(name) is not None}
    tokens = {f"{role}_token" for role in _NATIVE_ROLES}
    return taken | {
        name: _content(value) for name, value in options.items() if name in tokens and value is not None
    }


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
