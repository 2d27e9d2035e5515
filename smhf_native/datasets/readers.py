"""Read CSV, JSON and text files into columns, naming what cannot be read by row and line.

CSV follows RFC 4180 (quoted commas, quotes and line breaks) through Python's ``csv`` in strict mode.
Types and missing values follow what ``datasets`` gives through pandas: a column whose cells are all
integers is int64, numbers are float64, ``True``/``False`` are booleans, and empty cells are None.
"""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from smhf_native.datasets.columns import Column, Objects, Values, make_column
from smhf_native.errors import ParseError

__all__ = ["read_csv", "read_json", "read_text"]

# Cells that pandas reads as missing (its documented default list).
_MISSING = frozenset(
    ["", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>"]
    + ["N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"]
)
_INT = re.compile(r"[+-]?[0-9]+\Z")
_FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\Z|[+-]?(inf|Inf|INF|infinity)\Z")
_FIELD_LIMIT = 64 * 1024 * 1024  # one cell; a missing closing quote otherwise eats the file silently


def _decode(path: Path, encoding: str) -> str:
    data = path.read_bytes()
    if encoding.replace("_", "-").lower() in ("utf-8", "utf8") and data.startswith(b"\xef\xbb\xbf"):
        data = data[3:]
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problem = ParseError(
            f"{path}: line {line} is not {encoding}: byte 0x{data[error.start]:02x} at offset {error.start}"
        )
        problem.offset = error.start
        raise problem from None


def read_csv(
    path: Path,
    *,
    delimiter: str = ",",
    quotechar: str = '"',
    column_names: list[str] | None = None,
    skiprows: int = 0,
    encoding: str = "utf-8",
    keep_default_na: bool = True,
    escapechar: str | None = None,
) -> dict[str, Column]:
    """Read one CSV file.

    Parameters
    ----------
    path : file to read
    column_names : names of the columns when the file has no header line
    keep_default_na : read "NA", "null", … (pandas' list) as None; False: only empty cells
    delimiter, quotechar, skiprows, encoding, escapechar : as in pandas

    Returns
    -------
    dict of column name to column, in file order.

    Raises
    ------
    ParseError
        A row that breaks the quoting rules or has another number of cells than the header; the
        sentence names the data row (1 = first row after the header) and the line of the file.
    """
    text = _decode(path, encoding)
    stream = io.StringIO(text, newline="")
    for _ in range(skiprows):
        stream.readline()
    header: list[str] | None = list(column_names) if column_names is not None else None
    cells: list[list[str]] = [[] for _ in header] if header is not None else []
    previous_limit = csv.field_size_limit(_FIELD_LIMIT)
    try:
        reader = csv.reader(
            stream,
            delimiter=delimiter,
            quotechar=quotechar,
            escapechar=escapechar,
            strict=True,
            doublequote=True,
        )
        row = 0
        while True:
            line = reader.line_num + 1 + skiprows
            try:
                record = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                where = "the header" if header is None else f"row {row + 1}"
                raise ParseError(f"{path}: {where} (line {line}) is unreadable: {error}") from None
            if not record:
                continue  # an empty line, as pandas skips it
            if header is None:
                header = _header(path, record, line)
                cells = [[] for _ in header]
                continue
            row += 1
            if len(record) != len(header):
                raise ParseError(
                    f"{path}: row {row} (line {line}) has {len(record)} cells, expected {len(header)} "
                    f"({', '.join(header)}); a text with a comma, a quote or a line break must be quoted"
                )
            for column, cell in zip(cells, record, strict=True):
                column.append(cell)
    finally:
        csv.field_size_limit(previous_limit)
    if header is None:
        raise ParseError(f"{path}: no header line: the file is empty")
    missing = _MISSING if keep_default_na else frozenset([""])
    return {name: _typed(column, missing) for name, column in zip(header, cells, strict=True)}


def _header(path: Path, record: list[str], line: int) -> list[str]:
    seen: set[str] = set()
    for i, name in enumerate(record):
        if name in seen:
            raise ParseError(f"{path}: line {line}: the header names the column {name!r} twice")
        seen.add(name)
        if name == "":
            record[i] = f"Unnamed: {i}"  # pandas' name for it
    return record


def _typed(cells: list[str], missing: frozenset[str]) -> Column:
    """Infer one column: int64, float64, bool or text with None."""
    if not cells:
        return Objects([])
    has_missing = False
    kinds = {"int", "float", "bool"}
    for cell in cells:
        if cell in missing:
            has_missing = True
            continue
        if "int" in kinds and not _INT.match(cell):
            kinds.discard("int")
        if "float" in kinds and not _FLOAT.match(cell):
            kinds.discard("float")
        if "bool" in kinds and cell not in ("True", "False", "TRUE", "FALSE", "true", "false"):
            kinds.discard("bool")
        if not kinds:
            return Objects([None if value in missing else value for value in cells])
    if len(kinds) == 3:  # nothing but missing cells
        return Objects([None] * len(cells))
    if "int" in kinds and not has_missing:
        try:
            return Values(np.array([int(cell) for cell in cells], dtype=np.int64))
        except OverflowError:
            return Objects(list(cells))
    if "float" in kinds:
        numbers = [None if cell in missing else float(cell) for cell in cells]
        return Objects(list(numbers)) if has_missing else Values(np.array(numbers, dtype=np.float64))
    if has_missing:
        return Objects([None if cell in missing else cell.lower() == "true" for cell in cells])
    return Values(np.array([cell.lower() == "true" for cell in cells], dtype=np.bool_))


def read_json(path: Path, *, field: str | None = None, encoding: str = "utf-8") -> dict[str, Column]:
    """Read JSON lines, or one JSON array of objects, or (with ``field``) the array under that key.

    Raises
    ------
    ParseError
        Invalid JSON (named by line) or a row that is not an object.
    """
    text = _decode(path, encoding)
    rows: list[Any]
    stripped = text.lstrip()
    if field is not None or stripped.startswith("["):
        try:
            document = json.loads(text)
        except json.JSONDecodeError as error:
            raise ParseError(f"{path}: line {error.lineno}: {error.msg}") from None
        if field is not None:
            if not isinstance(document, dict) or field not in document:
                raise ParseError(f"{path}: no field {field!r} at the top")
            document = document[field]
        if isinstance(document, dict):
            return {str(name): make_column(list(values)) for name, values in document.items()}
        rows = list(document)
    else:
        rows = []
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.strip():
                continue
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise ParseError(
                    f"{path}: row {len(rows) + 1} (line {number}) is not JSON: {error.msg}"
                ) from None
    names: dict[str, None] = {}
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ParseError(f"{path}: row {number} is {type(row).__name__}, expected an object")
        names.update(dict.fromkeys(row))
    return {name: make_column([row.get(name) for row in rows]) for name in names}


def read_text(path: Path, *, encoding: str = "utf-8") -> dict[str, Column]:
    """Read a text file: one row per line, in the column "text"."""
    lines = _decode(path, encoding).split("\n")
    if lines[-1] == "":
        lines.pop()
    return {"text": Objects([line.removesuffix("\r") for line in lines])}
