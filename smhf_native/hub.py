"""Model names to folders, the way the hub does it: local folder, cache, download, or a clear error.

::

    from smhf_native.hub import resolve
    folder = resolve("distilbert-base-uncased")        # a Path with config.json, vocabulary and weights

Order: a local folder of that name; the caches (``HF_HUB_CACHE``, ``HUGGINGFACE_HUB_CACHE``,
``TRANSFORMERS_CACHE``, ``$HF_HOME/hub``, ``~/.cache/huggingface/hub``) in the hub's own layout
``models--org--name/{refs,snapshots}``; a download through ``huggingface_hub`` (extra ``hub``).
Every environment variable is read when the function is called: ``HF_ENDPOINT``, ``HF_TOKEN``,
``HF_HUB_OFFLINE``, ``TRANSFORMERS_OFFLINE``.  Nothing outside the cache is written.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from smhf_native.errors import MissingExtraError, SmhfError

__all__ = ["ModelNotFoundError", "cache_folders", "is_offline", "resolve"]

# org/name or name: the characters the hub allows.
_REPO_ID = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*\Z")
_COMMIT = re.compile(r"[0-9a-f]{40}\Z")

#: Files that make a tokenizer, and files that make a model (one of each inner tuple must be there).
TOKENIZER_FILES = (("tokenizer.json", "vocab.txt"),)
MODEL_FILES = (("config.json",), ("model.safetensors", "pytorch_model.bin", "pytorch_model.bin.index.json"))
CONFIG_FILES = (("config.json",),)

_TEXT_PATTERNS = ["*.json", "vocab.txt", "*.model", "merges.txt"]
_TRUE = {"1", "ON", "YES", "TRUE"}


class ModelNotFoundError(SmhfError, OSError):
    """A model name led nowhere; the sentence says where it was looked for and how to supply it."""


def is_offline() -> bool:
    """Return whether ``HF_HUB_OFFLINE`` or ``TRANSFORMERS_OFFLINE`` forbids downloads."""
    return any(
        os.environ.get(name, "").upper() in _TRUE for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def cache_folders(cache_dir: str | os.PathLike[str] | None = None) -> list[Path]:
    """Return the cache folders to search, first hit wins; the first one receives downloads."""
    if cache_dir is not None:
        return [Path(cache_dir).expanduser()]
    folders: list[Path] = []
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE"):
        value = os.environ.get(name)
        if value:
            folders.append(Path(value).expanduser())
    home = os.environ.get("HF_HOME")
    if home:
        folders.append(Path(home).expanduser() / "hub")
    if not folders:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        folders.append(Path(base).expanduser() / "huggingface" / "hub")
    return list(dict.fromkeys(folders))


def resolve(
    name: str | os.PathLike[str],
    revision: str | None = None,
    *,
    needs: Iterable[Iterable[str]] = CONFIG_FILES,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> Path:
    """Find the folder of a model.

    Parameters
    ----------
    name : a local folder, or a hub name such as "distilbert-base-uncased" or "org/name"
    revision : branch, tag or commit of a hub name (default "main")
    needs : groups of file names; one file of each group must be there for a cached copy to count
        (see ``CONFIG_FILES``, ``TOKENIZER_FILES``, ``MODEL_FILES``)
    cache_dir : search and download here instead of the caches of the environment
    local_files_only : never download
    token : access token; None takes ``HF_TOKEN``, False sends none

    Returns
    -------
    Path of the local folder or of the cache's snapshot folder.

    Raises
    ------
    ModelNotFoundError
        Nothing found; says what was looked for, where, and how to supply it offline.
    MissingExtraError
        A download is allowed and needed but ``huggingface_hub`` is not installed.
    """
    text = os.fspath(name)
    groups = [tuple(group) for group in needs]
    local = Path(text).expanduser()
    if text and local.is_dir():
        missing = _missing(local, groups)
        if missing:
            raise ModelNotFoundError(f"the folder {text} lacks {missing}; it holds: {_listing(local)}")
        return local
    if not _REPO_ID.match(text) or text.count("/") > 1 or ".." in text:
        raise ModelNotFoundError(f"{text!r} is neither a local folder nor a model name such as 'org/name'")
    wanted = revision or "main"
    looked: list[str] = []
    for cache in cache_folders(cache_dir):
        snapshot, finding = _cached(cache, text, wanted, groups)
        if snapshot is not None:
            return snapshot
        looked.append(f"{cache} ({finding})")
    offline = is_offline()
    if local_files_only or offline:
        reason = (
            "local_files_only=True" if local_files_only else "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set"
        )
        raise ModelNotFoundError(_sentence(text, wanted, looked, f"not downloaded: {reason}"))
    return _download(text, wanted, groups, cache_folders(cache_dir)[0], token, looked)


def _missing(folder: Path, groups: list[tuple[str, ...]]) -> str:
    """Name the groups of which no file exists, or return an empty string."""
    lacking = [" or ".join(group) for group in groups if not any((folder / name).is_file() for name in group)]
    return ", ".join(lacking)


def _listing(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir())
    return ", ".join(names[:12]) + (" …" if len(names) > 12 else "") if names else "nothing"


def _cached(cache: Path, name: str, revision: str, groups: list[tuple[str, ...]]) -> tuple[Path | None, str]:
    """Look into one cache; return (snapshot, "") or (None, what was found instead)."""
    folder = cache / ("models--" + name.replace("/", "--"))
    if not cache.is_dir():
        return None, "no such folder"
    if not folder.is_dir():
        return None, f"no {folder.name}"
    reference = folder / "refs" / revision
    commit = revision if _COMMIT.match(revision) else None
    if commit is None:
        if ".." in revision or not reference.is_file():
            return None, f"{folder.name} has no refs/{revision}"
        commit = reference.read_text(encoding="utf-8").strip()
    snapshot = folder / "snapshots" / commit
    if not snapshot.is_dir():
        return None, f"{folder.name} has no snapshots/{commit}"
    missing = _missing(snapshot, groups)
    if missing:
        return None, f"{folder.name}/snapshots/{commit} lacks {missing}"
    return snapshot, ""


def _sentence(name: str, revision: str, looked: list[str], reason: str) -> str:
    places = "; ".join(looked)
    return (
        f"model {name!r} (revision {revision}) was not found. Looked for: a local folder {name!r}; "
        f"the cache {places}; {reason}. To supply it offline, copy its files (config.json, vocab.txt or "
        "tokenizer.json, model.safetensors) into a folder and pass that folder's path, or copy the folder "
        f"models--{name.replace('/', '--')} of another machine's hub cache and set HF_HUB_CACHE"
    )


def _download(
    name: str,
    revision: str,
    groups: list[tuple[str, ...]],
    cache: Path,
    token: str | bool | None,
    looked: list[str],
) -> Path:
    endpoint = os.environ.get("HF_ENDPOINT") or None
    if token is None:
        token = os.environ.get("HF_TOKEN") or None
    try:
        import huggingface_hub
    except ImportError as error:
        problem = MissingExtraError.of("huggingface_hub", "hub", f"downloading the model {name!r}")
        problem.add_note(
            _sentence(name, revision, looked, "not downloaded: huggingface_hub is not installed")
        )
        raise problem from error

    def fetch(patterns: list[str]) -> Path:
        return Path(
            huggingface_hub.snapshot_download(
                name,
                revision=revision,
                cache_dir=str(cache),
                allow_patterns=patterns,
                ignore_patterns=["onnx/*", "openvino/*", "*/*"],
                endpoint=endpoint,
                token=token,
                tqdm_class=_quiet_bar(),
            )
        )

    wants_weights = any("model.safetensors" in group for group in groups)
    try:
        folder = fetch([*_TEXT_PATTERNS, *(["model.safetensors"] if wants_weights else [])])
        if wants_weights and not (folder / "model.safetensors").is_file():
            folder = fetch(["pytorch_model*.bin"])
    except Exception as error:  # the hub client has many classes; the sentence keeps what it said
        said = " ".join(str(error).split())[:300]
        where = endpoint or "the hub"
        reason = f"the download from {where} failed: {type(error).__name__}: {said}"
        raise ModelNotFoundError(_sentence(name, revision, looked, reason)) from error
    missing = _missing(folder, groups)
    if missing:
        raise ModelNotFoundError(
            _sentence(name, revision, looked, f"downloaded, but the repository lacks {missing}")
        )
    return folder


def _quiet_bar() -> Any:
    """Return a progress bar class that draws on a terminal only."""
    import sys

    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    if sys.stderr.isatty():
        return tqdm

    class Quiet(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any):
            kwargs["disable"] = True
            super().__init__(*args, **kwargs)

    return Quiet
