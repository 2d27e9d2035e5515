"""Checkpoints that cannot be half-written.

A checkpoint is the folder ``checkpoint-N``.  It is written as ``.tmp-N-PID``, every file is fsynced,
``MANIFEST.json`` (size and SHA-256 of each file) is written last, the folder is renamed and its parent
fsynced.  A crash at any moment leaves either the whole new checkpoint or none; the previous one is never
touched before the new one is durable.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from smhf_native.errors import SmhfError
from smhf_native.transformers.utils import logging

__all__ = [
    "MANIFEST_NAME",
    "PREFIX_CHECKPOINT_DIR",
    "CheckpointError",
    "checkpoint_problem",
    "checkpoint_steps",
    "last_checkpoint",
    "rotate_checkpoints",
    "write_checkpoint",
]

PREFIX_CHECKPOINT_DIR = "checkpoint"
MANIFEST_NAME = "MANIFEST.json"
_CHECKPOINT = re.compile(r"checkpoint-([0-9]+)\Z")
_TEMPORARY = re.compile(r"\.tmp-[0-9]+-([0-9]+)\Z")

logger = logging.get_logger(__name__)


class CheckpointError(SmhfError, OSError):
    """A checkpoint is missing, damaged or could not be written; the sentence says which and why."""


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_checkpoint(folder: str | os.PathLike[str], step: int, fill: Callable[[Path], None]) -> Path:
    """Write ``folder/checkpoint-step`` atomically.

    Parameters
    ----------
    folder : the run's output folder (created when missing)
    step : optimizer step, part of the name
    fill : writes the files into the temporary folder it is given

    Returns
    -------
    Path of the finished checkpoint.

    Raises
    ------
    CheckpointError
        The disk is full or the folder cannot be written; earlier checkpoints are untouched.
    """
    parent = Path(folder)
    target = parent / f"{PREFIX_CHECKPOINT_DIR}-{step}"
    temporary = parent / f".tmp-{step}-{os.getpid()}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(parent)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        fill(temporary)
        manifest: dict[str, dict[str, int | str]] = {}
        for path in sorted(temporary.rglob("*")):
            if path.is_file():
                _fsync(path)
                name = path.relative_to(temporary).as_posix()
                manifest[name] = {"size": path.stat().st_size, "sha256": _digest(path)}
        text = json.dumps({"version": 1, "step": step, "files": manifest}, indent=2, sort_keys=True) + "\n"
        with open(temporary / MANIFEST_NAME, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        _fsync(temporary)
        if target.exists():
            # A resumed run reaches the same step again: the old folder steps aside for the rename.
            aside = parent / f".tmp-{step}-{os.getpid()}.old"
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(target, aside)
            os.rename(temporary, target)
            shutil.rmtree(aside, ignore_errors=True)
        else:
            os.rename(temporary, target)
        _fsync(parent)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        kept = last_checkpoint(parent) if parent.is_dir() else None
        hint = "the disk is full" if error.errno == errno.ENOSPC else (error.strerror or str(error))
        raise CheckpointError(
            f"checkpoint {target} was not written: {hint}; "
            + (f"the last whole checkpoint is {kept}" if kept else "there is no earlier checkpoint")
        ) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return target


def _remove_abandoned(parent: Path) -> None:
    """Delete temporary folders of processes that are gone."""
    for entry in parent.glob(".tmp-*-*"):
        match = _TEMPORARY.match(entry.name.removesuffix(".old"))
        if match is None or not entry.is_dir():
            continue
        try:
            os.kill(int(match[1]), 0)
        except ProcessLookupError:
            shutil.rmtree(entry, ignore_errors=True)
        except (PermissionError, OverflowError):
            continue


def checkpoint_steps(folder: str | os.PathLike[str]) -> list[tuple[int, Path]]:
    """Return (step, folder) of every ``checkpoint-N`` below ``folder``, lowest step first."""
    parent = Path(folder)
    found = []
    for entry in os.listdir(parent) if parent.is_dir() else []:
        match = _CHECKPOINT.match(entry)
        if match is not None and os.path.isdir(parent / entry):
            found.append((int(match[1]), parent / entry))
    return sorted(found)


def checkpoint_problem(folder: str | os.PathLike[str]) -> str | None:
    """Return why a checkpoint cannot be used, or None when it is whole."""
    path = Path(folder)
    manifest = path / MANIFEST_NAME
    if not manifest.is_file():
        if (path / "trainer_state.json").is_file() and any(
            (path / name).is_file() for name in ("model.safetensors", "pytorch_model.bin")
        ):
            return None  # written by another trainer, which keeps no manifest
        return f"it has no {MANIFEST_NAME} and lacks trainer_state.json or weights"
    try:
        listed = json.loads(manifest.read_text(encoding="utf-8"))["files"]
        for name, entry in listed.items():
            file = path / name
            if ".." in Path(name).parts or Path(name).is_absolute():
                return f"{MANIFEST_NAME} names {name!r} outside the folder"
            if not file.is_file():
                return f"{name} is missing"
            size = file.stat().st_size
            if size != entry["size"]:
                return f"{name} has {size} bytes, {MANIFEST_NAME} says {entry['size']}"
            if _digest(file) != entry["sha256"]:
                return f"the SHA-256 of {name} differs from {MANIFEST_NAME}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST_NAME} is unreadable ({type(error).__name__}: {error})"
    return None


def last_checkpoint(folder: str | os.PathLike[str]) -> str | None:
    """Return the whole checkpoint with the highest step below ``folder`` as a string path, or None."""
    for _step, path in reversed(checkpoint_steps(folder)):
        problem = checkpoint_problem(path)
        if problem is None:
            return str(path)
        logger.warning("checkpoint %s is skipped: %s", path, problem)
    return None


def rotate_checkpoints(folder: str | os.PathLike[str], limit: int | None, best: str | None = None) -> None:
    """Delete the oldest checkpoints until ``limit`` are left; the newest and ``best`` always stay.

    Call it only after the newest one is durable (``write_checkpoint`` has returned).
    """
    if limit is None or limit <= 0:
        return
    entries = checkpoint_steps(folder)
    if not entries:
        return
    protected = {entries[-1][1].resolve()}
    if best is not None:
        protected.add(Path(best).resolve())
    keep = max(limit, len(protected))
    remaining = len(entries)
    for _step, path in entries:
        if remaining <= keep:
            break
        if path.resolve() not in protected:
            # Rename first: a deletion cut short must not leave something that looks like a checkpoint.
            doomed = path.with_name(f".tmp-0-{os.getpid()}.old")
            shutil.rmtree(doomed, ignore_errors=True)
            os.rename(path, doomed)
            shutil.rmtree(doomed, ignore_errors=True)
            remaining -= 1
