"""Exception classes of smhf_native.

The compiled modules import these at start, so that ``except smhf_native.errors.ParseError``
keeps working whichever module object raised it.  Codes of the core map as follows:
out of memory to :class:`MemoryError`, wrong arguments to :class:`ValueError`, operating-system
failures to :class:`OSError`, deadlines to :class:`TimeoutError`, everything else to a class below.
"""

from __future__ import annotations

__all__ = [
    "BackendError",
    "BusyError",
    "Cancelled",
    "HTTPError",
    "MissingExtraError",
    "ParseError",
    "SmhfError",
]


class SmhfError(Exception):
    """Base of every error that smhf_native defines."""


class ParseError(SmhfError, ValueError):
    """Input bytes break their format; ``offset`` is the byte where, or None."""

    offset: int | None = None


class BackendError(SmhfError, RuntimeError):
    """A device, plugin or option is unavailable or failed."""


class HTTPError(SmhfError, OSError):
    """An HTTP peer answered badly; ``status`` is its status code (0: no whole answer)."""

    status: int = 0


class BusyError(SmhfError, RuntimeError):
    """Another thread is using the object."""


class Cancelled(SmhfError):
    """The work was cancelled; what was finished is kept."""


class MissingExtraError(SmhfError, ImportError):
    """An optional package is not installed; the sentence names the extra to install."""

    @classmethod
    def of(cls, package: str, extra: str, purpose: str) -> MissingExtraError:
        """Build the sentence, e.g. ``of("pandas", "pandas", "DataFrame output")``."""
        return cls(
            f"{purpose} needs the package {package!r}: pip install 'smhf_native[{extra}]'",
            name=package,
        )
