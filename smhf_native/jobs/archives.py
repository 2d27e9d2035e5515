"""``sourcedir.tar.gz``, ``model.tar.gz`` and ``output.tar.gz``: written the same for the same content.

Members are sorted, owned by nobody, dated 1970 and have the mode 0644 or 0755, so equal folders give
equal bytes. Symbolic links are followed; what they point to is stored as a file.
"""

from __future__ import annotations

import gzip
import os
import shutil
import stat
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["create", "extract", "fitting_level", "folder_members"]

# Refusals on reading, as for every archive of this project.
_MAX_MEMBERS = 10_000
_MAX_BYTES = 64 << 30
_MAX_NAME = 4096
_MAX_RATIO = 200

_SKIPPED = frozenset({"__pycache__", ".git", ".ipynb_checkpoints"})


def folder_members(folder: str | os.PathLike[str], *, source: bool = False) -> Iterator[tuple[str, Path]]:
    """Yield ``(name in the archive, file)`` for everything in ``folder``, sorted; children at the root.

    Parameters
    ----------
    source : bool
        Leave out caches and version-control folders, which no script needs.
    """
    root = Path(folder)
    for current, folders, files in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not (source and name in _SKIPPED))
        relative = os.path.relpath(current, root)
        prefix = "" if relative == "." else relative.replace(os.sep, "/") + "/"
        for name in sorted(files):
            yield prefix + name, Path(current) / name


def fitting_level(members: Iterable[tuple[str, Path]]) -> int:
    """Return the gzip level for ``members``: 0 (stored) when large weights make up most of the bytes.

    Trained floats shrink by less than a tenth and would cost seconds per hundred megabytes.
    """
    weights = total = 0
    for name, file in members:
        size = file.stat().st_size
        total += size
        if name.endswith((".safetensors", ".bin", ".npy", ".pt")):
            weights += size
    return 0 if weights > 8 << 20 and 2 * weights > total else 6


def create(path: str | os.PathLike[str], members: Iterable[tuple[str, Path]], *, level: int = 6) -> int:
    """Write a ``.tar.gz`` of ``members`` to ``path`` (whole or not at all); return their number.

    Parameters
    ----------
    level : int
        Of gzip; see :func:`fitting_level`.

    Raises
    ------
    ValueError
        Two members have the same name, or one is neither file nor folder.
    OSError
        Reading or writing failed; a half-written file is removed.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".smhf-tmp-{os.getpid()}-{target.name}")
    seen: set[str] = set()
    try:
        with (
            open(temporary, "wb") as raw,
            gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=level, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for name, file in members:
                if name in seen:
                    raise ValueError(f"two files would have the name {name!r} in {target.name}")
                seen.add(name)
                status = os.stat(file)
                if not stat.S_ISREG(status.st_mode):
                    raise ValueError(f"{file} is no regular file; {target.name} cannot hold it")
                entry = tarfile.TarInfo(name)
                entry.size = status.st_size
                entry.mode = 0o755 if status.st_mode & 0o100 else 0o644
                with open(file, "rb") as stream:
                    archive.addfile(entry, stream)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return len(seen)


def extract(path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> int:
    """Unpack a ``.tar.gz`` of regular files into ``folder``; return their number.

    Raises
    ------
    ValueError
        The archive is damaged or holds what is refused: a link, a device, an absolute name, ``..``, a
        name twice, more than 10,000 members or 64 GiB. The sentence names archive and member.
    """
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    seen: set[str] = set()
    total = 0
    size = os.path.getsize(path)
    try:
        with tarfile.open(path, "r:gz") as archive:
            for entry in archive:
                name = entry.name.removeprefix("./").rstrip("/")
                if entry.isdir() and name in ("", "."):
                    continue
                parts = name.split("/")
                problem = (
                    "an absolute name" if name.startswith("/")
                    else "a '..' in its name" if ".." in parts
                    else "an empty part in its name" if "" in parts or "." in parts
                    else "a NUL in its name" if "\0" in name
                    else "a name that is too long" if len(os.fsencode(name)) > _MAX_NAME
                    else "the kind of a link or device" if not (entry.isreg() or entry.isdir())
                    else "a name that is there twice" if name in seen
                    else None
                )  # fmt: skip
                if problem is None and len(seen) >= _MAX_MEMBERS:
                    problem = f"a place beyond the limit of {_MAX_MEMBERS} members"
                total += entry.size
                if problem is None and total > _MAX_BYTES:
                    problem = f"a size beyond the limit of {_MAX_BYTES >> 30} GiB in all"
                if problem is None and total > _MAX_RATIO * size + (1 << 20):
                    problem = f"a size beyond {_MAX_RATIO} times the archive's own"
                if problem is not None:
                    raise ValueError(
                        f"archive {os.fspath(path)}: member {entry.name!r} has {problem}: refused"
                    )
                target = root.joinpath(*parts)
                if entry.isdir():
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                seen.add(name)
                target.parent.mkdir(parents=True, exist_ok=True)
                source = archive.extractfile(entry)
                assert source is not None  # a regular member always has content
                mode = 0o755 if entry.mode & 0o100 else 0o644
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
                with source, os.fdopen(os.open(target, flags, mode), "wb") as stream:
                    shutil.copyfileobj(source, stream, 1 << 20)
    except (tarfile.TarError, EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"archive {os.fspath(path)} is damaged: {error}") from error
    return len(seen)
