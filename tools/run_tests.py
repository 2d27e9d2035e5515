"""``make test``: C tests, pytest, lint; counts and skips by reason at the end.

The last line is the plain closing line ``N passed, N failed, N skipped`` over C tests and pytest.
"""

from __future__ import annotations

import collections
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CLOSING = re.compile(r"^(\d+) passed, (\d+) failed, (\d+) skipped$", re.M)
WORDS = re.compile(r"(\d+) (passed|failed|skipped|error|errors|xfailed|xpassed)\b")


def run(command: list[str]) -> tuple[int, str]:
    """Run a command, passing its output through while keeping it."""
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        sys.stdout.write(line)
        sys.stdout.flush()
        lines.append(line)
    return process.wait(), "".join(lines)


def c_tests() -> tuple[int, collections.Counter[str], collections.Counter[str]]:
    """Exit status, counts, skips by reason."""
    status, output = run([sys.executable, "tools/buildconf.py", "ctests", "--run"])
    host_status, host_output = run([sys.executable, "tools/buildconf.py", "cudahost", "--run"])
    status, output = status or host_status, output + host_output
    counts: collections.Counter[str] = collections.Counter()
    for passed, failed, skipped in CLOSING.findall(output):
        counts += collections.Counter(passed=int(passed), failed=int(failed), skipped=int(skipped))
    reasons = collections.Counter(re.findall(r"^skip \S+: (.*)$", output, re.M))
    return status, counts, reasons


def python_tests() -> tuple[int, collections.Counter[str], collections.Counter[str]]:
    """Exit status, counts, skips by reason."""
    command = [sys.executable, "-m", "pytest", "-rs", "--durations=15"]
    status, output = run(command)
    counts: collections.Counter[str] = collections.Counter()
    summary = [line for line in output.splitlines() if re.search(r"\d+ \w+.* in [\d.]+s", line)]
    for number, word in WORDS.findall(summary[-1] if summary else ""):
        counts["failed" if word.startswith("error") else word] += int(number)
    reasons: collections.Counter[str] = collections.Counter()
    for number, reason in re.findall(r"^SKIPPED \[(\d+)\] \S+ (.*)$", output, re.M):
        reasons[reason] += int(number)
    return status, counts, reasons


def main() -> int:
    """Run everything, even after a failure; 1 when something failed."""
    c_status, c_counts, c_reasons = c_tests()
    py_status, py_counts, py_reasons = python_tests()
    lint_status, _ = run([sys.executable, "tools/lint.py"])
    for reason, number in (c_reasons + py_reasons).most_common():
        print(f"skipped {number}: {reason}")
    total = c_counts + py_counts
    failed = total["failed"] + (1 if lint_status else 0)
    if lint_status:
        print("lint failed (counted as one failed test)")
    print(f"{total['passed']} passed, {failed} failed, {total['skipped']} skipped")
    return 1 if c_status or py_status or failed else 0


if __name__ == "__main__":
    sys.exit(main())
