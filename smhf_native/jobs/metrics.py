"""Metric definitions: regular expressions over the script's output lines.

Per line and definition the first match counts; its group 1 is the value, read as a float. Spec: each
line of the log is searched with each definition, as SageMaker's platform does.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["MetricScanner", "check_definitions"]

# What may follow a captured number when the regex cut its exponent off.
_EXPONENT = re.compile(r"[eE][+-]?\d+")


def _compile(definition: dict[str, Any]) -> re.Pattern[str]:
    with warnings.catch_warnings():
        # "\-" written in a plain Python text is the user's spelling, not ours to complain about.
        warnings.simplefilter("ignore", DeprecationWarning)
        return re.compile(definition["Regex"])


def check_definitions(definitions: Sequence[dict[str, Any]] | None) -> None:
    """Refuse metric definitions that the service refuses or that could never yield a value.

    Raises
    ------
    ValueError
        Names the definition: missing ``Name`` or ``Regex``, a malformed expression (with the position),
        no group 1, too long (255 / 500 characters), or more than 40 of them.
    """
    items = list(definitions or ())
    if len(items) > 40:
        raise ValueError(f"metric_definitions holds {len(items)} entries; at most 40 are allowed")
    for index, definition in enumerate(items):
        if not isinstance(definition, dict) or set(definition) != {"Name", "Regex"}:
            raise ValueError(
                f"metric_definitions[{index}] must be a dict with the keys 'Name' and 'Regex', "
                f"got {definition!r}"
            )
        name, regex = definition["Name"], definition["Regex"]
        if not isinstance(name, str) or not 1 <= len(name) <= 255:
            raise ValueError(f"metric_definitions[{index}]: the name must have 1 to 255 characters")
        if not isinstance(regex, str) or not 1 <= len(regex) <= 500:
            raise ValueError(f"metric {name!r}: the regular expression must have 1 to 500 characters")
        try:
            compiled = _compile(definition)
        except re.error as error:
            raise ValueError(
                f"metric {name!r}: the regular expression {regex!r} is malformed: {error}"
            ) from None
        if compiled.groups < 1:
            raise ValueError(f"metric {name!r}: the regular expression {regex!r} has no group to capture")


class MetricScanner:
    """Finds metric values in log lines.

    Parameters
    ----------
    definitions : sequence of dict
        ``{"Name", "Regex"}``, checked by :func:`check_definitions` before.
    warn : callable
        Gets one sentence per metric whose capture cuts a number's exponent off (``4.5`` of ``4.5e-05``).
    """

    def __init__(self, definitions: Sequence[dict[str, Any]] | None, warn: Callable[[str], None]) -> None:
        self._items = [(item["Name"], _compile(item)) for item in definitions or ()]
        self._warn = warn
        self._warned: set[str] = set()

    def scan(self, line: str) -> list[tuple[str, float]]:
        """Return ``(name, value)`` for each definition that matches ``line``."""
        found: list[tuple[str, float]] = []
        for name, regex in self._items:
            match = regex.search(line)
            if match is None or match.group(1) is None:
                continue
            text = match.group(1)
            try:
                value = float(text)
            except ValueError:
                continue
            if name not in self._warned and not re.search(r"[eE]", text):
                rest = _EXPONENT.match(line, match.end(1))
                if rest is not None:
                    self._warned.add(name)
                    self._warn(
                        f"metric {name!r}: its regular expression captured {text} of "
                        f"{text}{rest.group(0)} and lost the exponent; the stored value is {text}, "
                        "as it is in SageMaker"
                    )
            found.append((name, value))
        return found
