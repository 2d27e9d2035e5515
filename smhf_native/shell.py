"""Shell escapes of old notebooks, minded: ``!pip install -Uq sagemaker smdebug`` installs nothing.

``!pip``, ``!python -m pip`` and ``%pip`` lose the names that smhf_native mirrors; other packages go
to the kernel's own interpreter.  Everything else in the command is left as written.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

from smhf_native.mirrors import MIRRORS

__all__ = ["install", "rewrite"]

# Options of `pip install` that take a value in the next word.
_VALUE_OPTIONS = {
    "-c", "--constraint", "-e", "--editable", "-t", "--target", "-i", "--index-url", "--extra-index-url",
    "-f", "--find-links", "--platform", "--python-version", "--prefix", "--root", "--src", "--proxy",
    "--timeout", "--retries", "--trusted-host", "--cert", "--client-cert", "--cache-dir", "--log",
    "--progress-bar", "--upgrade-strategy", "--no-binary", "--only-binary", "--report",
}  # fmt: skip
_OPERATORS = {"&&", "||", ";", "|", "&"}
_REDIRECTION = re.compile(r"^(\d*|&)(>>?|<)(?P<target>.*)$")
_NAME = re.compile(r"^\s*([A-Za-z0-9][A-Za-z0-9._-]*)")


def _mirrored(requirement: str) -> str | None:
    """The mirrored name that a requirement asks for, or None."""
    match = _NAME.match(requirement)
    name = match.group(1).lower().replace("_", "-") if match else ""
    return name if name in MIRRORS else None


def _segments(command: str) -> list[str]:
    """Split at shell operators outside quotes, operators kept as their own items."""
    parts: list[str] = []
    quote = ""
    current = ""
    at = 0
    while at < len(command):
        char = command[at]
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char in "&|;\n" and not (char == "&" and at > 0 and command[at - 1] == ">"):
            width = 2 if command[at : at + 2] in {"&&", "||"} else 1
            parts += [current, command[at : at + width]]
            current = ""
            at += width
            continue
        current += char
        at += 1
    return [*parts, current]


def _pip_arguments(words: list[str]) -> list[str] | None:
    """Words after ``pip install``, when the command is one; None otherwise."""
    if not words:
        return None
    program = os.path.basename(words[0])
    if re.fullmatch(r"pip[\d.]*", program):
        rest = words[1:]
    elif re.fullmatch(r"python[\d.]*", program) and words[1:3] == ["-m", "pip"]:
        rest = words[3:]
    else:
        return None
    return rest[1:] if rest[:1] == ["install"] else None


def _filter_requirements(path: str, dropped: list[str]) -> str:
    """A copy of a requirements file without mirrored names (a temporary file), or the path itself."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return path  # pip will say what is wrong with it
    kept = []
    for line in lines:
        name = _mirrored(line)
        if name is None:
            kept.append(line)
        else:
            dropped.append(name)
    if len(kept) == len(lines):
        return path
    with tempfile.NamedTemporaryFile("w", suffix="-requirements.txt", delete=False) as copy:
        copy.write("\n".join(kept) + "\n")
    return copy.name


def _take_redirections(words: list[str]) -> tuple[list[str], str]:
    """Words without redirections, and those as text to put behind the command."""
    plain: list[str] = []
    redirections: list[str] = []
    at = 0
    while at < len(words):
        match = _REDIRECTION.match(words[at])
        if match is None:
            plain.append(words[at])
        elif match["target"]:
            redirections.append(words[at])
        else:
            redirections += [words[at] + shlex.quote(word) for word in words[at + 1 : at + 2]]
            at += 1
        at += 1
    return plain, "".join(" " + text for text in redirections)


def _rewrite_segment(segment: str) -> str:
    """One simple command; pip installs are rewritten, anything else comes back as it is."""
    try:
        words, redirections = _take_redirections(shlex.split(segment))
    except ValueError:
        return segment
    arguments = _pip_arguments(words)
    if arguments is None:
        return segment
    kept: list[str] = []
    dropped: list[str] = []
    packages = 0
    at = 0
    while at < len(arguments):
        word = arguments[at]
        if word in {"-r", "--requirement"} and at + 1 < len(arguments):
            kept += [word, _filter_requirements(arguments[at + 1], dropped)]
            packages += 1
            at += 2
            continue
        if word in _VALUE_OPTIONS and at + 1 < len(arguments):
            packages += word in {"-e", "--editable"}
            kept += [word, arguments[at + 1]]
            at += 2
            continue
        name = None if word.startswith("-") else _mirrored(word)
        if name is not None:
            dropped.append(name)
        else:
            packages += not word.startswith("-")
            kept.append(word)
        at += 1
    note = ""
    if dropped:
        note = f"{', '.join(dropped)}: provided by smhf_native"
        if packages == 0:
            return f"echo {shlex.quote(note + '; nothing installed')}"
        note = f"echo {shlex.quote(note)} && "
    return f"{note}{shlex.join([sys.executable, '-m', 'pip', 'install', *kept])}{redirections}"


def rewrite(command: str) -> str:
    """A shell command with its ``pip install`` parts minded.

    >>> rewrite("pip install -Uq sagemaker smdebug")
    "echo 'sagemaker, smdebug: provided by smhf_native; nothing installed'"
    >>> rewrite("ls -l | wc -l")
    'ls -l | wc -l'
    """
    return "".join(
        part if part in _OPERATORS or part == "\n" else _pad(part) for part in _segments(command)
    )


def _pad(part: str) -> str:
    """Rewrite a segment, keeping the spaces around it."""
    stripped = part.strip()
    changed = _rewrite_segment(stripped)
    return part if changed == stripped else part.replace(stripped, changed)


def install(shell: Any) -> None:
    """Hook an IPython shell: ``!`` escapes, ``%pip``, and a PATH that starts with our programs.

    Parameters
    ----------
    shell
        The object that ``IPython.get_ipython()`` returns.
    """
    if getattr(shell, "_smhf_native_hooked", False):
        return
    shell._smhf_native_hooked = True
    system = shell.system
    getoutput = shell.getoutput

    def minded_system(command: str) -> Any:
        return system(rewrite(command))

    def minded_getoutput(command: str, *args: Any, **kwargs: Any) -> Any:
        return getoutput(rewrite(command), *args, **kwargs)

    def pip_magic(line: str) -> None:
        """Run pip in the kernel's own environment; mirrored names are left out."""
        command = f"{shlex.quote(sys.executable)} -m pip {shell.var_expand(line, depth=1)}"
        minded_system(command)

    # Traits of the shell class are plain attributes of the instance here.
    object.__setattr__(shell, "system", minded_system)
    object.__setattr__(shell, "getoutput", minded_getoutput)
    shell.register_magic_function(pip_magic, magic_kind="line", magic_name="pip")
    programs = os.path.dirname(sys.executable)
    paths = os.environ.get("PATH", "").split(os.pathsep)
    if paths[:1] != [programs]:
        os.environ["PATH"] = os.pathsep.join([programs, *paths])
