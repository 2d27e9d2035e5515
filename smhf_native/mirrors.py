"""How ``sagemaker``, ``smdebug``, ``transformers`` and ``datasets`` come to mean our mirrors.

:func:`activate` puts one finder in front of the import system; ``import smhf_native.compat`` calls it.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterable, Sequence
from types import ModuleType

__all__ = ["MIRRORS", "activate", "deactivate"]

# Top-level name that scripts import -> package that answers to it.
MIRRORS = {
    "sagemaker": "smhf_native.sagemaker",
    "smdebug": "smhf_native.smdebug",
    "transformers": "smhf_native.transformers",
    "datasets": "smhf_native.datasets",
}


class _AliasLoader(importlib.abc.Loader):
    """Loads the mirror module and lets it stand under the old name as the same object."""

    def __init__(self, target: str) -> None:
        self.target = target

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = importlib.import_module(self.target)
        self.own_spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # The import system has just put the alias's spec on the shared module; its own one must
        # stay, or relative imports inside the mirror would resolve under the old name.
        module.__spec__ = self.own_spec


class MirrorFinder(importlib.abc.MetaPathFinder):
    """Answers for the mirrored top-level names and everything below them."""

    def __init__(self, mirrors: dict[str, str]) -> None:
        self.mirrors = mirrors

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The alias of a mirrored module; None hands over to the next finder."""
        top, _, rest = fullname.partition(".")
        if top not in self.mirrors:
            return None
        ours = self.mirrors[top] + ("." + rest if rest else "")
        if importlib.util.find_spec(ours) is None:
            raise ModuleNotFoundError(
                f"No module named {fullname!r}: smhf_native mirrors {top} and has no {ours}", name=fullname
            )
        spec = importlib.machinery.ModuleSpec(fullname, _AliasLoader(ours), is_package=True)
        return spec


_finder: MirrorFinder | None = None


def _forget(name: str) -> list[str]:
    """Drop a top-level module and its submodules from sys.modules; what was dropped."""
    dropped = [key for key in sys.modules if key == name or key.startswith(name + ".")]
    for key in dropped:
        del sys.modules[key]
    return dropped


def _real_package(name: str) -> bool:
    """Whether the real package could be imported too (the mirrors are not active yet)."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def activate(names: Iterable[str] = tuple(MIRRORS), *, announce: bool = True) -> None:
    """Let the mirrored names resolve to smhf_native in this process.  Calling again is free.

    Parameters
    ----------
    names
        Which of :data:`MIRRORS`; all by default.
    announce
        Print one line to stderr when a real package is installed and ours is used instead.

    Raises
    ------
    ValueError
        A name that is not mirrored.
    """
    global _finder
    wanted = {}
    for name in names:
        if name not in MIRRORS:
            raise ValueError(f"{name!r} is not mirrored; expected one of {', '.join(sorted(MIRRORS))}")
        wanted[name] = MIRRORS[name]
    fresh = [name for name in wanted if _finder is None or name not in _finder.mirrors]
    if fresh:
        shadowed = [name for name in fresh if _real_package(name)]
        loaded = [name for name in fresh if _forget(name)]
        if _finder is None:
            _finder = MirrorFinder({})
            sys.meta_path.insert(0, _finder)
        _finder.mirrors.update(wanted)
        if announce and shadowed:
            note = f" ({', '.join(loaded)} had been imported before)" if loaded else ""
            print(
                f"smhf_native: {', '.join(shadowed)} installed here; smhf_native answers to "
                f"the name in this process{note}",
                file=sys.stderr,
            )
    _hook_boto()
    _hook_shell()


def deactivate() -> None:
    """Take the mirrored names back (used by tests)."""
    global _finder
    if _finder is not None:
        for name in _finder.mirrors:
            _forget(name)
        sys.meta_path.remove(_finder)
        _finder = None


def _hook_boto() -> None:
    """Local endpoints through boto3; waits for botocore to be imported by somebody else."""
    from smhf_native import boto

    boto.install()


def _hook_shell() -> None:
    """In IPython, mind ``!pip install sagemaker`` and friends."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is not None:
        from smhf_native import shell as hooks

        hooks.install(shell)

