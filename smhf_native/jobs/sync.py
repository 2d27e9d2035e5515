"""Copy a growing folder to its place in the store, again and again, whole files only."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

__all__ = ["FolderSync", "prefill"]

_TEMPORARY = ".smhf-tmp-"
# A new subfolder is copied once nothing in it changed for this long (seconds): it is whole then.
_QUIET = 2.0

_State = dict[str, tuple[int, int]]


def _unfinished(name: str) -> bool:
    return name.startswith((".tmp", _TEMPORARY)) or name.endswith((".tmp", ".part"))


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    """Return relative name → (bytes, modification time in ns) of all whole files below ``folder``."""
    found: _State = {}
    for current, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _unfinished(name))
        for name in files:
            if _unfinished(name):
                continue
            path = os.path.join(current, name)
            try:
                status = os.stat(path)
            except OSError:
                continue
            found[os.path.relpath(path, folder)] = (status.st_size, status.st_mtime_ns)
    return found


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{_TEMPORARY}{os.getpid()}-{target.name[:150]}")
    try:
        shutil.copy2(source, temporary)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def prefill(source: Path, target: Path) -> int:
    """Copy everything below ``source`` to ``target``; return the number of files."""
    files = _files(source) if source.is_dir() else {}
    for name in sorted(files):
        _copy(source / name, target / name)
    return len(files)


class FolderSync:
    """Keeps ``target`` a copy of ``source`` while something writes to ``source``.

    A new subfolder appears in the target in one step, once it is quiet or at the end, so that whoever
    reads the target never sees half a checkpoint. Files that vanish from the source stay in the target.

    Parameters
    ----------
    source, target : path
    interval : float
        Seconds between two passes of the background thread.
    """

    def __init__(self, source: Path, target: Path, *, interval: float = 5.0) -> None:
        self.source = source
        self.target = target
        self.errors: list[str] = []
        self._interval = interval
        self._known: _State = _files(source) if source.is_dir() else {}
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the background thread."""
        self._thread = threading.Thread(target=self._run, name="smhf-sync", daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """Stop the thread and copy what is left; return how many files the source holds."""
        if self._thread is not None:
            self._wake.set()
            self._thread.join()
            self._thread = None
        self.pass_once(final=True)
        return len(_files(self.source)) if self.source.is_dir() else 0

    def _run(self) -> None:
        while not self._wake.wait(self._interval):
            self.pass_once()

    def pass_once(self, *, final: bool = False) -> None:
        """Copy what is new or changed. Failures go to ``errors``; the next pass tries again."""
        try:
            entries = sorted(os.scandir(self.source), key=lambda entry: entry.name)
        except OSError:
            return
        for entry in entries:
            if _unfinished(entry.name):
                continue
            try:
                if entry.is_dir():
                    self._folder(entry.name, final)
                else:
                    status = entry.stat()
                    self._file(entry.name, (status.st_size, status.st_mtime_ns))
            except FileNotFoundError:
                continue  # pruned by the script while we looked
            except OSError as error:
                message = f"{entry.name}: {error.strerror or error}"
                if message not in self.errors:
                    self.errors.append(message)

    def _file(self, name: str, state: tuple[int, int]) -> None:
        if self._known.get(name) == state:
            return
        _copy(self.source / name, self.target / name)
        self._known[name] = state

    def _folder(self, name: str, final: bool) -> None:
        files = _files(self.source / name)
        changed = {item: state for item, state in files.items() if self._known.get(f"{name}/{item}") != state}
        if not changed:
            return
        if not final and time.time_ns() - max(state[1] for state in files.values()) < _QUIET * 1e9:
            return
        target = self.target / name
        # The manifest of a checkpoint vouches for the rest: it goes last.
        order = sorted(changed, key=lambda item: (os.path.basename(item) == "MANIFEST.json", item))
        if target.exists():
            for item in order:
                _copy(self.source / name / item, target / item)
        else:
            stage = self.target / f"{_TEMPORARY}{os.getpid()}-{name[:150]}"
            shutil.rmtree(stage, ignore_errors=True)
            try:
                for item in order:
                    _copy(self.source / name / item, stage / item)
                if _files(self.source / name) != files:
                    raise FileNotFoundError(name)  # it is being written or pruned right now
                self.target.mkdir(parents=True, exist_ok=True)
                os.rename(stage, target)
            except BaseException:
                shutil.rmtree(stage, ignore_errors=True)
                raise
        for item, state in changed.items():
            self._known[f"{name}/{item}"] = state
