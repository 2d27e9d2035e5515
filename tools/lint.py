"""Everything that nags: layers, C habits, formatting, ruff, mypy, notebooks without outputs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def step(name: str, command: list[str]) -> bool:
    """Run one check; show its output when it fails."""
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(f"{'ok  ' if result.returncode == 0 else 'FAIL'} {name}", flush=True)
    if result.returncode != 0:
        print(result.stdout + result.stderr)
    return result.returncode == 0


def notebooks_are_clean() -> bool:
    """No stored outputs, no execution counts."""
    clean = True
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in json.loads(path.read_text())["cells"]:
            if cell["cell_type"] == "code" and (cell["outputs"] or cell["execution_count"]):
                print(f"FAIL {path.name}: a cell holds outputs")
                clean = False
                break
    return clean


def main() -> int:
    """Run all checks; 1 when one failed."""
    python = sys.executable
    checks = [
        step("layers", [python, "tools/check_layers.py"]),
        step("C habits", [python, "tools/check_c.py"]),
        step("ruff", [python, "-m", "ruff", "check", "."]),
        step("mypy --strict", [python, "-m", "mypy"]),
        notebooks_are_clean(),
    ]
    if shutil.which("clang-format"):
        files = [str(p) for p in sorted((ROOT / "csrc").rglob("*.[ch]")) if p.name != "unicode_tables.h"]
        checks.append(step("clang-format", ["clang-format", "--dry-run", "-Werror", *files]))
    else:
        print("skip clang-format: not installed")
    return 0 if all(checks) else 1


if __name__ == "__main__":
    sys.exit(main())
