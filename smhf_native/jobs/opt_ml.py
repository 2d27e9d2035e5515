"""Make ``/opt/ml`` mean the job's own tree inside the job's process.

Training scripts of SageMaker spell container paths such as ``/opt/ml/checkpoints``. :func:`install`
replaces ``open``, ``io.open`` and the path functions of ``os`` by wrappers that translate such paths;
``pathlib``, ``shutil``, ``glob``, ``tempfile``, ``zipfile`` and all Python code above them follow,
because they call these functions. The real ``/opt/ml`` is neither read nor written.

What stays outside: programs started as child processes and C libraries that open a path themselves.
Code of this project that hands a path to C calls :func:`smhf_native.paths.real_path` first.
"""

from __future__ import annotations

import builtins
import functools
import importlib.machinery
import io
import os
import posixpath
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from smhf_native import paths

__all__ = ["PREFIX", "install", "installed_base", "real_path", "uninstall"]

#: The container's root folder for a job.
PREFIX = "/opt/ml"

_Path = TypeVar("_Path")

# Functions of os whose first argument is a path, and those whose first two arguments are.
_ONE_PATH = (
    "access", "chdir", "chflags", "chmod", "chown", "getxattr", "lchflags", "lchmod", "lchown",
    "listdir", "listxattr", "lstat", "mkdir", "mkfifo", "mknod", "open", "pathconf", "readlink",
    "remove", "removexattr", "rmdir", "scandir", "setxattr", "stat", "statvfs", "truncate", "unlink",
    "utime", "execv", "execve",
)  # fmt: skip
_TWO_PATHS = ("link", "rename", "replace", "symlink")
# Names that the first (and second) path argument has as a keyword.
_KEYWORDS = ("path", "file", "src", "dst", "name")

_base: str | None = None
# (module, attribute, original) of everything replaced, for uninstall().
_replaced: list[tuple[Any, str, Any]] = []


def installed_base() -> str | None:
    """Return the folder that stands for ``/opt/ml``, or None when the mapping is not installed."""
    return _base


def _map_text(text: str) -> str | None:
    """Return where ``text`` really lies when it lies in ``/opt/ml``, else None."""
    if _base is None:
        return None
    if text.startswith("/"):
        if "opt" not in text or "ml" not in text:
            return None
        full = text
    else:
        # Relative paths reach /opt/ml only from a working folder above it, or with "..".
        if "ml" not in text:
            return None
        try:
            full = posixpath.join(os.getcwd(), text)
        except OSError:
            return None  # the working folder was removed
    full = posixpath.normpath(full)
    if full.startswith("//"):
        full = full[1:]
    if full == PREFIX:
        mapped = _base
    elif full.startswith(PREFIX + "/"):
        mapped = _base + full[len(PREFIX) :]
    else:
        return None
    # A trailing slash asks "must be a folder": keep the question.
    return mapped + "/" if text.endswith("/") and not mapped.endswith("/") else mapped


def real_path(path: _Path) -> _Path | str | bytes:
    """Return the real place of ``path``: the job's tree for ``/opt/ml/…``, else ``path`` itself.

    Parameters
    ----------
    path : str, bytes, path-like, or anything else
        Values that are no paths (file descriptors, None) come back unchanged.
    """
    if _base is None or isinstance(path, int) or path is None:
        return path
    try:
        text = os.fspath(path)  # type: ignore[call-overload]
    except TypeError:
        return path
    if isinstance(text, bytes):
        mapped = _map_text(os.fsdecode(text))
        return path if mapped is None else os.fsencode(mapped)
    mapped = _map_text(text)
    return path if mapped is None else mapped


def _wrap(original: Callable[..., Any], paths: int) -> Callable[..., Any]:
    @functools.wraps(original)
    def mapped(*args: Any, **kwargs: Any) -> Any:
        if args:
            first = tuple(real_path(value) for value in args[:paths])
            args = first + args[paths:]
        for name in _KEYWORDS:
            if name in kwargs:
                kwargs[name] = real_path(kwargs[name])
        return original(*args, **kwargs)

    mapped.__smhf_original__ = original  # type: ignore[attr-defined]
    return mapped


def _replace(module: Any, name: str, value: Any) -> None:
    _replaced.append((module, name, getattr(module, name)))
    setattr(module, name, value)


def _path_hook(path: str) -> Any:
    """Let ``sys.path`` entries below ``/opt/ml`` be imported from."""
    mapped = _map_text(path) if path.startswith("/") else None
    if mapped is None:
        raise ImportError(f"not below {PREFIX}")
    loaders = [
        (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES),
        (importlib.machinery.SourceFileLoader, importlib.machinery.SOURCE_SUFFIXES),
        (importlib.machinery.SourcelessFileLoader, importlib.machinery.BYTECODE_SUFFIXES),
    ]
    return importlib.machinery.FileFinder(mapped, *loaders)


def install(base: str | os.PathLike[str]) -> None:
    """Translate paths below ``/opt/ml`` to ``base`` in this process from now on.

    Modules imported earlier that keep references to the plain functions (``from os import listdir``)
    get the wrappers too.

    Parameters
    ----------
    base : path
        An existing folder. Its symbolic links are resolved, so that ``lstat("/opt/ml")`` sees a folder.

    Raises
    ------
    RuntimeError
        The mapping is installed already for another folder.
    """
    global _base
    resolved = os.path.realpath(base)
    if _base is not None:
        if _base != resolved:
            raise RuntimeError(f"{PREFIX} already means {_base} in this process")
        return
    wrappers: dict[int, Callable[..., Any]] = {}
    originals: list[Any] = []

    def wrap(module: Any, name: str, paths: int) -> None:
        original = getattr(module, name, None)
        if original is None:
            return
        if id(original) not in wrappers:
            wrappers[id(original)] = _wrap(original, paths)
            originals.append(original)
        _replace(module, name, wrappers[id(original)])

    wrap(builtins, "open", 1)
    wrap(io, "open", 1)
    if hasattr(io, "open_code"):
        wrap(io, "open_code", 1)
    for name in _ONE_PATH:
        wrap(os, name, 1)
    for name in _TWO_PATHS:
        wrap(os, name, 2)
    # shutil and others ask these sets what a function can do.
    for group in ("supports_fd", "supports_dir_fd", "supports_follow_symlinks", "supports_effective_ids"):
        known = getattr(os, group, None)
        if known is not None:
            known.update([wrappers[id(item)] for item in originals if item in known])
    for module_name, module in list(sys.modules.items()):
        if module is None or module_name in ("os", "io", "_io", "posix", "builtins", __name__):
            continue
        if module_name.startswith(("importlib", "_frozen_importlib")):
            continue
        for name, value in list(getattr(module, "__dict__", {}).items()):
            wrapper = wrappers.get(id(value))
            if wrapper is not None:
                _replace(module, name, wrapper)
    sys.path_hooks.insert(0, _path_hook)
    sys.path_importer_cache.clear()
    _base = resolved
    paths.set_mapper(real_path)


def uninstall() -> None:
    """Undo :func:`install` (for tests)."""
    global _base
    while _replaced:
        module, name, original = _replaced.pop()
        setattr(module, name, original)
    if _path_hook in sys.path_hooks:
        sys.path_hooks.remove(_path_hook)
        sys.path_importer_cache.clear()
    paths.set_mapper(None)
    _base = None
