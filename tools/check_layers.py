"""The dependency law of the house, checked.

    python tools/check_layers.py [ROOT]

Reads the includes of every file under csrc/ and the imports of smhf_native/, and prints one line
per violation: file, line, what was included, and the rule it breaks. Exit status 1 when there is one.
With a built core library it also checks that no object needs Python and that writable globals are
on the short list below.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

# Rule 2: room -> rooms whose one public header it may include (common is open to everybody).
ROOM_MAY_INCLUDE = {
    "common": set(),
    "tokenizer": set(),
    "backend": set(),
    "backend_cpu": {"backend"},
    "backend_cuda": {"backend"},
    "model": {"backend"},
    "invoker": set(),
    "server": set(),
    "trace": set(),
}
# Headers that make up a room's public face (one each; model's trainer and backend_cpu's entry are named).
PUBLIC_HEADERS = {
    "tokenizer": {"tokenizer.h"},
    "backend": {"backend.h"},
    "backend_cpu": {"backend_cpu.h"},
    "backend_cuda": {"backend_cuda.h"},
    "model": {"model.h", "trainer.h"},
    "invoker": {"invoker.h"},
    "server": {"server.h"},
    "trace": {"trace.h"},
}
# Rule 4: header prefix -> the only files (names, or a folder with a slash) that may include it.
RESTRICTED = {
    "Python.h": {"py_common.h"},
    "numpy/": {"py_array.c"},
    "curl/": {"transport_curl.c"},
    "microhttpd.h": {"listener.c"},
    "openssl/": {"sigv4.c"},
    "zlib.h": {"inflate.c"},
    "cuda": {"backend_cuda/"},
    "cublas": {"backend_cuda/"},
    "cblas.h": {"cpu_gemm_openblas.c"},
    "dlfcn.h": {"library.c"},
}
# Rule 6: objects of the core that may hold writable globals, with the reason.
WRITABLE_GLOBALS = {
    "mem.o": "allocation counters",
    "json.o": "the C locale, for numbers",
    "pool.o": "the one thread pool and its fork guard",
    "file.o": "serial number of temporary files",
    "registry.o": "the list of backends",
    "plugin.o": "the loaded plugin",
    "transport_curl.o": "libcurl's one-time start",
}
FLOOR3_ROOMS = {"tokenizer", "model", "invoker", "server", "trace"}
JOINERS = {"pipelines", "batch"}  # floor-3 modules that may join rooms

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')


def c_files(root: Path) -> list[Path]:
    """Hand-written C and CUDA files under csrc."""
    return sorted(p for p in (root / "csrc").rglob("*") if p.suffix in {".c", ".h", ".cu", ".cuh"})


def check_include(root: Path, path: Path, quoted: bool, target: str) -> str | None:
    """The rule that this include breaks, or None."""
    room = path.relative_to(root / "csrc").parts[0]
    for prefix, allowed in RESTRICTED.items():
        name = target.rsplit("/", 1)[-1] if prefix in {"cuda", "cublas"} else target
        if name.startswith(prefix) and not (path.name in allowed or f"{room}/" in allowed):
            return f"only {', '.join(sorted(allowed))} may include {prefix}*"
    if not quoted:
        return None
    if room == "python" and "/" not in target:
        return None if target.startswith("py_") or target.endswith("_glue.h") else "glue headers are py_*.h"
    if "/" not in target:
        return 'write includes as "room/file.h" from the csrc root'
    other, header = target.split("/", 1)
    if other in {room, "common"} and room != "common":
        return None
    if room == "common":
        return None if other == "common" else "common depends on nobody"
    if room != "python" and other not in ROOM_MAY_INCLUDE.get(room, set()):
        return f"room {room} may not include room {other}"
    if header not in PUBLIC_HEADERS.get(other, set()):
        return f"only the public header of {other} may be included from outside"
    if not (root / "csrc" / target).exists():
        return "no such file under csrc"
    return None


def check_core(root: Path) -> list[str]:
    """Includes, position of Python.h, unique file names."""
    problems: list[str] = []
    names: dict[str, Path] = {}
    for path in c_files(root):
        relative = path.relative_to(root)
        if path.name in names:
            problems.append(f"{relative}: the file name {path.name} is taken by {names[path.name]}")
        names[path.name] = relative
        first = True
        in_glue = path.relative_to(root / "csrc").parts[0] == "python"
        for number, line in enumerate(path.read_text().splitlines(), 1):
            match = INCLUDE.match(line)
            if match is None:
                continue
            quoted, target = match.group(1) == '"', match.group(2)
            reason = check_include(root, path, quoted, target)
            if reason is not None:
                problems.append(f"{relative}:{number}: includes {target}: {reason}")
            if first and in_glue and target != "Python.h" and not target.startswith("py_") and not (
                target.endswith("_glue.h")  # a room's own glue header, which includes py_common.h first
            ):
                problems.append(f"{relative}:{number}: py_common.h (Python.h) must be included first")
            first = False
    return problems


def imported_modules(path: Path, package: str) -> list[tuple[int, str]]:
    """(line, absolute module name) of every import in a file, function bodies included."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], base]).rstrip(".")
            found.append((node.lineno, base))
            found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
    return found


def check_import(module: str, target: str) -> str | None:
    """The rule that `module` breaks by importing `target`, or None."""
    parts, other = module.split("."), target.split(".")
    if other[0] in {"tools", "tests"}:
        return "nothing imports tools or tests"
    if other[0] != "smhf_native" or len(other) < 2:
        return None
    room = parts[1] if len(parts) > 1 else ""
    compiled = len(other) > 2 and other[1] in FLOOR3_ROOMS and other[2] == f"_{other[1]}"
    if compiled and room != other[1]:
        return "a compiled module is imported by its own room only"
    if room in FLOOR3_ROOMS and other[1] in FLOOR3_ROOMS and other[1] != room:
        where = ", ".join(sorted(JOINERS))
        return f"room {room} may not import room {other[1]}; join them in {where} or floor 4"
    return None


def check_facade(root: Path) -> list[str]:
    """Imports of the Python package."""
    problems = []
    for path in sorted((root / "smhf_native").rglob("*.py")):
        relative = path.relative_to(root)
        module = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        seen = set()
        for line, target in imported_modules(path, package):
            reason = check_import(module, target)
            if reason is not None and (line, reason) not in seen:
                seen.add((line, reason))
                problems.append(f"{relative}:{line}: imports {target}: {reason}")
    return problems


def check_objects(root: Path) -> list[str]:
    """Symbols of built objects: no Python in the core, no unlisted writable global."""
    problems = []
    for path in sorted((root / "build" / "obj" / "csrc").rglob("*.o")):
        room = path.relative_to(root / "build" / "obj" / "csrc").parts[0]
        if room == "python":
            continue
        output = subprocess.run(["objdump", "-t", str(path)], capture_output=True, text=True, check=True)
        for line in output.stdout.splitlines():
            section = re.search(r"(\*UND\*|\.t?(?:data|bss)(?:\.\S*)?)\s+[0-9a-f]+\s+(\S+)$", line)
            if section is None or " d  " in line or section.group(1).startswith(".data.rel.ro"):
                continue
            where, symbol = section.groups()
            if where == "*UND*":
                if symbol.startswith(("Py", "_Py")):
                    problems.append(f"{room}/{path.name}: the core needs the Python symbol {symbol}")
            elif path.name not in WRITABLE_GLOBALS:
                problems.append(f"{room}/{path.name}: writable global {symbol} is not on the list")
    return problems


def main() -> int:
    """Print every violation of the tree given (default: this one)."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent)
    problems = check_core(root) + check_facade(root) + check_objects(root)
    for problem in problems:
        print(problem)
    print(f"layers: {len(problems)} violations")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
