"""Habits of the C code that a compiler does not check.

    python tools/check_c.py [ROOT]

Banned calls (the heap outside common/mem.c, unbounded string functions, printing and ending the
process in the core), line length, tabs, trailing space, file length. One line per finding.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

BANNED_EVERYWHERE = {
    "sprintf": "use snprintf", "strcpy": "use memcpy with a known size", "gets": "never",
    "strncpy": "use memcpy", "atol": "use strtol", "alloca": "use an arena",
}  # fmt: skip
BANNED_IN_CORE = {
    "malloc": "use smhf_malloc", "calloc": "use smhf_calloc", "realloc": "use smhf_realloc",
    "free": "use smhf_free", "strdup": "use smhf_strdup", "printf": "the core never prints",
    "puts": "the core never prints", "exit": "the core never exits", "abort": "the core never aborts",
    "perror": "the core never prints", "system": "never",
}  # fmt: skip
HEAP_OWNERS = {"mem.c"}
MAX_LINE, MAX_FILE = 110, 1000
GENERATED = {"unicode_tables.h"}
COMMENT_OR_STRING = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', re.S)


def blank(match: re.Match[str]) -> str:
    """Replace comments and strings by spaces, keeping line numbers."""
    return re.sub(r"[^\n]", " ", match.group())


def check_file(root: Path, path: Path) -> list[str]:
    """Findings of one file."""
    relative = path.relative_to(root)
    text = path.read_text()
    findings = []
    lines = text.splitlines()
    if len(lines) > MAX_FILE:
        findings.append(f"{relative}: {len(lines)} lines, the cap is {MAX_FILE}")
    for number, line in enumerate(lines, 1):
        if "\t" in line or line != line.rstrip():
            findings.append(f"{relative}:{number}: tab or trailing space")
        if len(line) > MAX_LINE:
            findings.append(f"{relative}:{number}: {len(line)} columns")
    banned = dict(BANNED_EVERYWHERE)
    if relative.parts[0] == "csrc" and relative.parts[1] != "python":
        banned |= BANNED_IN_CORE
    for number, line in enumerate(COMMENT_OR_STRING.sub(blank, text).splitlines(), 1):
        for name, advice in banned.items():
            if path.name in HEAP_OWNERS and name in {"malloc", "calloc", "realloc", "free"}:
                continue
            if re.search(rf"(?<![\w.>]){name}\s*\(", line):
                findings.append(f"{relative}:{number}: {name}(): {advice}")
    return findings


def main() -> int:
    """Check csrc and tests."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent)
    files = [
        p
        for folder in ("csrc", "tests")
        for p in sorted((root / folder).rglob("*"))
        if p.suffix in {".c", ".h", ".cu", ".cuh"} and p.name not in GENERATED
    ]
    findings = [finding for path in files for finding in check_file(root, path)]
    for finding in findings:
        print(finding)
    print(f"C habits: {len(findings)} findings in {len(files)} files")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
