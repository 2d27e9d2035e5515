"""``smhf run``: execute a notebook or a published page in a real Jupyter kernel, unchanged."""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from typing import Any, TextIO

from smhf_native.errors import MissingExtraError, ParseError
from smhf_native.kernel import KERNEL_NAME, write_spec

__all__ = ["load", "run"]

_FENCE = re.compile(r"^(?P<fence>`{3,}|~{3,})\s*(?P<language>[\w+-]*)[^\n]*$")


def _page_cells(text: str, name: str) -> list[tuple[str, str]]:
    """Cells of a Markdown page: ("code", source) for python fences, ("markdown", text) between."""
    cells: list[tuple[str, str]] = []
    prose: list[str] = []
    code: list[str] | None = None
    fence = ""
    for number, line in enumerate(text.split("\n"), 1):
        if code is not None:
            if line.strip() == fence:
                cells.append(("code", "\n".join(code)))
                code = None
            else:
                code.append(line)
            continue
        match = _FENCE.match(line)
        if match is not None and match["language"].lower() in {"python", "python3", "py"}:
            if "\n".join(prose).strip():
                cells.append(("markdown", "\n".join(prose).strip("\n")))
            prose, code, fence, opened = [], [], match["fence"], number
        else:
            prose.append(line)
    if code is not None:
        raise ParseError(f"{name}: the code block opened in line {opened} is never closed")
    if "\n".join(prose).strip():
        cells.append(("markdown", "\n".join(prose).strip("\n")))
    return cells


def load(path: Path) -> Any:
    """Read an ``.ipynb`` notebook or a Markdown page as a notebook object (nbformat 4).

    Code cells of a page are the text between its ``python`` fences, byte for byte.

    Raises
    ------
    ParseError
        A code block that never ends, a page without code, a notebook that nbformat refuses.
    """
    try:
        import nbformat
    except ImportError as error:
        raise MissingExtraError.of("nbformat", "notebook", "smhf run") from error
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        try:
            return nbformat.reads(text, as_version=4)  # type: ignore[no-untyped-call]
        except Exception as error:
            raise ParseError(f"{path}: not a notebook that nbformat reads: {error}") from error
    cells = _page_cells(text, str(path))
    if not any(kind == "code" for kind, _ in cells):
        raise ParseError(f"{path}: no ```python block found; expected a notebook or a Markdown page")
    notebook = nbformat.v4.new_notebook()  # type: ignore[no-untyped-call]
    for kind, source in cells:
        make = nbformat.v4.new_code_cell if kind == "code" else nbformat.v4.new_markdown_cell
        notebook.cells.append(make(source))  # type: ignore[no-untyped-call]
    notebook.metadata["kernelspec"] = {
        "name": "python3", "display_name": "Python 3", "language": "python",
    }  # fmt: skip
    return notebook


def _report_failure(notebook: Any, error: Exception, stream: TextIO) -> None:
    """Show the failing cell and its traceback."""
    for index, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            if output.get("output_type") == "error":
                rule = "-" * 60
                print(f"cell {index} failed:\n{rule}\n{cell.source}\n{rule}", file=stream)
                print("\n".join(output.get("traceback", [])), file=stream)
                return
    print(f"the run failed: {error}", file=stream)


def run(
    path: str | Path,
    *,
    cwd: str | Path | None = None,
    output: str | Path | None = None,
    timeout: float | None = None,
    stream: TextIO | None = None,
) -> int:
    """Execute every cell in order; stop at the first that fails.

    Parameters
    ----------
    path
        ``NOTEBOOK.ipynb`` or ``PAGE.md``.
    cwd
        Folder that the cells run in (default: that of the notebook).
    output
        Where the executed notebook goes, also after a failure.
    timeout
        Seconds for one cell; None: no bound.
    stream
        Where failures are shown (default: stderr).

    Returns
    -------
    int
        0 when every cell ran, 1 at a failing cell.
    """
    try:
        import nbformat
        from jupyter_client.kernelspec import KernelSpecManager
        from jupyter_client.manager import AsyncKernelManager
        from nbclient import NotebookClient
        from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
    except ImportError as error:
        raise MissingExtraError.of("nbclient", "notebook", "smhf run") from error
    source = Path(path)
    folder = Path(cwd) if cwd is not None else source.resolve().parent
    if not folder.is_dir():
        raise NotADirectoryError(f"--cwd {folder}: no such folder")
    notebook = load(source)
    status = 0
    with tempfile.TemporaryDirectory(prefix="smhf-kernel-") as specs:
        write_spec(Path(specs) / KERNEL_NAME)
        spec_manager = KernelSpecManager(kernel_dirs=[specs], ensure_native_kernel=False)
        # Sockets in our own private folder instead of TCP ports: nobody else on the machine can connect.
        manager = AsyncKernelManager(
            kernel_name=KERNEL_NAME,
            kernel_spec_manager=spec_manager,
            transport="ipc",
            ip=str(Path(specs) / "socket"),
        )
        client = NotebookClient(
            notebook,
            km=manager,
            timeout=int(timeout) if timeout else None,
            resources={"metadata": {"path": str(folder)}},
            shutdown_kernel="graceful",
        )
        client.owns_km = True  # it was made for this run: nbclient must end the kernel with it
        try:
            client.execute()
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            _report_failure(notebook, error, stream or sys.stderr)
            status = 1
        finally:
            if output is not None:
                Path(output).parent.mkdir(parents=True, exist_ok=True)
                nbformat.write(notebook, str(output))  # type: ignore[no-untyped-call]
    return status
