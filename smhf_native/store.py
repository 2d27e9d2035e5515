"""``s3://`` addresses as files of a folder: the store of local mode.

``s3://bucket/key`` is the file ``ROOT/bucket/key``. Listing follows S3: a prefix is a string, not a
folder. Keys cannot leave the store: ``..`` and absolute parts are refused. Empty parts of a key
(``a//b``) collapse, and an object cannot also be the folder of another one; S3 knows neither limit.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from smhf_native.exceptions import ObjectNotFoundError

__all__ = ["Store", "join_uri", "parse_uri", "relative_key"]

# Files being written; they are never listed.
_TEMPORARY = ".smhf-tmp-"


def parse_uri(uri: str) -> tuple[str, str]:
    """Split ``s3://bucket/key`` into bucket and key (the key may be empty).

    Raises
    ------
    ValueError
        Another scheme, no bucket, or a part that a file name cannot be.
    """
    text = str(uri)
    if not text.startswith("s3://"):
        raise ValueError(f"expected an address that starts with s3://, got {text!r}")
    bucket, _, key = text[5:].partition("/")
    if not bucket or bucket in (".", ".."):
        raise ValueError(f"no bucket name in the address {text!r}")
    for part in [bucket, *key.split("/")]:
        if part in (".", ".."):
            raise ValueError(f"the part {part!r} is not allowed in the address {text!r}")
        if "\0" in part:
            raise ValueError(f"a NUL character is not allowed in the address {text!r}")
        if len(os.fsencode(part)) > 255:
            raise ValueError(f"a part of the address is longer than 255 bytes: {part[:40]!r}…")
    return bucket, key


def join_uri(base: str, *parts: str) -> str:
    """Join an address and further parts with exactly one slash between them."""
    return "/".join([base.rstrip("/"), *(part.strip("/") for part in parts if part.strip("/"))])


def relative_key(key: str, prefix: str) -> str:
    """Return ``key`` relative to the folder ``prefix``, or to the parent of a prefix that is no folder."""
    folder = prefix.rstrip("/")
    if folder and key.startswith(folder + "/"):
        return key[len(folder) + 1 :]
    parent = prefix.rpartition("/")[0]
    return key[len(parent) + 1 :] if parent else key


class Store:
    """The local folder store.

    Parameters
    ----------
    root : path, optional
        Folder of the store; default ``$SMHF_HOME/store``. It is made when first written to.
    """

    def __init__(self, root: str | os.PathLike[str] | None = None) -> None:
        if root is None:
            from smhf_native.jobs.records import home

            root = home() / "store"
        self.root = Path(os.path.abspath(root))

    def __repr__(self) -> str:
        return f"Store({str(self.root)!r})"

    def path(self, uri: str) -> Path:
        """Return the file or folder that ``uri`` means; it need not exist."""
        bucket, key = parse_uri(uri)
        return self.root.joinpath(bucket, *(part for part in key.split("/") if part))

    def exists(self, uri: str) -> bool:
        """Tell whether ``uri`` is an object or the prefix of at least one."""
        return next(self._matches(uri), None) is not None

    def list(self, uri: str) -> list[str]:
        """Return the addresses of all objects whose address starts with ``uri``, sorted."""
        return sorted(self._matches(uri))

    def size(self, uri: str) -> int:
        """Return the number of bytes of all objects under the prefix ``uri``."""
        return sum(self.path(item).stat().st_size for item in self._matches(uri))

    def read(self, uri: str) -> bytes:
        """Return the content of one object; raises :class:`ObjectNotFoundError`."""
        path = self.path(uri)
        if not path.is_file():
            raise ObjectNotFoundError(self.missing(uri))
        return path.read_bytes()

    def upload(self, source: str | os.PathLike[str], uri: str) -> str:
        """Copy the local file ``source`` to the object ``uri`` (whole or not at all); return ``uri``."""
        self._place(uri, lambda temporary: shutil.copyfile(source, temporary))
        return uri

    def write(self, uri: str, data: bytes) -> str:
        """Write ``data`` as the object ``uri`` (whole or not at all); return ``uri``."""
        self._place(uri, lambda temporary: temporary.write_bytes(data))
        return uri

    def download(self, uri: str, target: str | os.PathLike[str]) -> Path:
        """Copy the object ``uri`` to the local file ``target``; its folder is made if absent."""
        path = self.path(uri)
        if not path.is_file():
            raise ObjectNotFoundError(self.missing(uri))
        target = Path(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        return target

    def delete(self, uri: str) -> int:
        """Delete every object whose address starts with ``uri``; return how many there were."""
        count = 0
        for item in self.list(uri):
            path = self.path(item)
            path.unlink(missing_ok=True)
            count += 1
            for folder in path.parents:
                if folder == self.root:
                    break
                try:
                    folder.rmdir()
                except OSError:
                    break
        return count

    def missing(self, uri: str) -> str:
        """Return the sentence for an object that does not exist: where it was looked for, how to give it."""
        bucket, key = parse_uri(uri)
        folder, _, name = key.rstrip("/").rpartition("/")
        near = self.list(join_uri(f"s3://{bucket}", folder) + "/")[:3] if folder else []
        hint = f"; under the same prefix there is {', '.join(near)}" if near else ""
        return (
            f"no object {uri} in the local store (looked for {self.path(uri)}){hint}. Supply it with "
            f"Session().upload_data({name or 'FILE'!r}, bucket={bucket!r}, key_prefix={folder!r})"
        )

    def _matches(self, uri: str) -> Iterator[str]:
        bucket, key = parse_uri(uri)
        key = "/".join(part for part in key.split("/") if part) + ("/" if key.endswith("/") else "")
        key = "" if key == "/" else key
        top = self.root / bucket
        # Walk the deepest folder that every match lies in, then filter by the string prefix.
        folder = key.rpartition("/")[0]
        start = top.joinpath(*folder.split("/")) if folder else top
        for current, folders, files in os.walk(start):
            folders[:] = sorted(name for name in folders if not name.startswith(_TEMPORARY))
            relative = os.path.relpath(current, top).replace(os.sep, "/")
            prefix = "" if relative == "." else relative + "/"
            for name in sorted(files):
                found = prefix + name
                if found.startswith(key) and not name.startswith(_TEMPORARY):
                    yield f"s3://{bucket}/{found}"

    def _place(self, uri: str, fill: object) -> None:
        path = self.path(uri)
        if path == self.root or path.parent == self.root:
            raise ValueError(f"the address {uri!r} names no object: a key is missing")
        if path.is_dir():
            raise ValueError(f"{uri} is a prefix of other objects in the local store; it cannot be an object")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise ValueError(f"a part of {uri} is an object in the local store, not a prefix") from None
        temporary = path.with_name(f"{_TEMPORARY}{os.getpid()}-{path.name[:150]}")
        try:
            fill(temporary)  # type: ignore[operator]
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
