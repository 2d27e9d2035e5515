"""``load_dataset`` for local CSV, JSON and text files."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from smhf_native.datasets.columns import Column
from smhf_native.datasets.dataset import Dataset, DatasetDict, concatenate_datasets
from smhf_native.datasets.mapping import reject_unknown
from smhf_native.datasets.readers import read_csv, read_json, read_text

__all__ = ["load_dataset"]

_IGNORED = {
    "cache_dir", "features", "download_config", "download_mode", "verification_mode", "keep_in_memory",
    "save_infos", "revision", "token", "use_auth_token", "task", "num_proc", "storage_options",
    "trust_remote_code", "name", "ignore_verifications",
}  # fmt: skip
_CSV = {
    "sep", "delimiter", "quotechar", "names", "column_names", "skiprows", "encoding", "keep_default_na", "escapechar",
}  # fmt: skip
_JSON = {"field", "encoding"}
_TEXT = {"encoding"}
_SUFFIX = {"csv": "csv", "tsv": "csv", "json": "json", "jsonl": "json", "ndjson": "json", "txt": "text"}
_SPLIT = re.compile(r"(?P<name>[\w.]+)(\[(?P<from>-?\d+%?)?:(?P<to>-?\d+%?)?\])?\Z")


def load_dataset(
    path: str,
    name: str | None = None,
    data_dir: str | None = None,
    data_files: str | os.PathLike[str] | list[Any] | Mapping[str, Any] | None = None,
    split: Any = None,
    **options: Any,
) -> Any:
    """Read local files into a :class:`DatasetDict`, or into one :class:`Dataset` when ``split`` is given.

    Parameters
    ----------
    path : "csv", "json", "text", or a folder or file with such data
    data_files : one path or glob, a list of them (split "train"), or a dict of split name to those
    data_dir : folder that relative ``data_files`` are looked up in
    split : e.g. "train", "train[:100]", "train[10%:20%]", "train+test"
    options : CSV: ``delimiter``/``sep``, ``quotechar``, ``names``/``column_names``, ``skiprows``,
        ``encoding``, ``keep_default_na``, ``escapechar``; JSON: ``field``, ``encoding``; options about
        caches and downloads are accepted and change nothing.

    Raises
    ------
    FileNotFoundError
        A file or folder is missing; the sentence names it.
    ParseError
        A row cannot be read; the sentence names row and line.
    """
    builder, data_files = _builder(path, data_dir, data_files)
    known = {"csv": _CSV, "json": _JSON, "text": _TEXT}[builder]
    reject_unknown(f'load_dataset("{builder}")', options, known | _IGNORED)
    reader = _reader(builder, {key: value for key, value in options.items() if key in known})
    files = _files(data_files, data_dir)
    if split is None:
        return DatasetDict({part: _read(reader, paths, part) for part, paths in files.items()})
    if isinstance(split, (list, tuple)):
        return [_split(str(one), files, reader) for one in split]
    return _split(str(split), files, reader)


def _builder(path: str, data_dir: str | None, data_files: Any) -> tuple[str, Any]:
    if path in ("csv", "json", "text"):
        if data_files is None and data_dir is not None:
            data_files = _folder_files(Path(data_dir))
        if data_files is None:
            raise ValueError(f'load_dataset("{path}") needs data_files= or data_dir=')
        return path, data_files
    local = Path(path)
    if local.is_file():
        suffix = local.suffix.lstrip(".").lower()
        if suffix in _SUFFIX:
            return _SUFFIX[suffix], str(local)
    if local.is_dir():
        found = data_files if data_files is not None else _folder_files(local)
        sample = (
            found
            if isinstance(found, str)
            else next(iter(found.values() if isinstance(found, dict) else found))
        )
        sample = sample[0] if isinstance(sample, list) else sample
        suffix = str(sample).rsplit(".", 1)[-1].lower()
        if suffix in _SUFFIX:
            if data_files is not None:
                found = _below(local, data_files)
            return _SUFFIX[suffix], found
    raise FileNotFoundError(
        f"load_dataset({path!r}): not one of the formats csv, json, text and no local file or folder of that "
        'name. Data sets are read from local files only: load_dataset("csv", data_files={"train": "train.csv"})'
    )


def _below(folder: Path, files: Any) -> Any:
    if isinstance(files, Mapping):
        return {name: _below(folder, value) for name, value in files.items()}
    if isinstance(files, (list, tuple)):
        return [str(folder / str(value)) for value in files]
    return str(folder / str(files))


def _folder_files(folder: Path) -> dict[str, list[str]]:
    """Sort the files of a folder into splits by their names, as the datasets package does."""
    if not folder.is_dir():
        raise FileNotFoundError(f"load_dataset: no folder {folder}")
    words = {"train": "train", "test": "test", "valid": "validation", "dev": "validation", "eval": "test"}
    found: dict[str, list[str]] = {}
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.suffix.lstrip(".").lower() in _SUFFIX:
            part = next((target for word, target in words.items() if word in file.stem.lower()), "train")
            found.setdefault(part, []).append(str(file))
    if not found:
        raise FileNotFoundError(f"load_dataset: {folder} holds no csv, json or txt file")
    return found


def _files(data_files: Any, data_dir: str | None) -> dict[str, list[Path]]:
    table = dict(data_files) if isinstance(data_files, Mapping) else {"train": data_files}
    result: dict[str, list[Path]] = {}
    for part, entries in table.items():
        paths: list[Path] = []
        for entry in entries if isinstance(entries, (list, tuple)) else [entries]:
            text = os.fspath(entry)
            if "://" in text:
                raise ValueError(
                    f"data_files[{str(part)!r}] = {text!r}: only local files are read; download it first"
                )
            if data_dir is not None and not os.path.isabs(text):
                text = os.path.join(data_dir, text)
            text = os.path.expanduser(text)
            if os.path.isfile(text):
                paths.append(Path(text))
                continue
            matches = sorted(match for match in glob.glob(text, recursive=True) if os.path.isfile(match))
            if not matches:
                raise FileNotFoundError(f"Unable to find {text!r} (data_files of the split {str(part)!r})")
            paths.extend(Path(match) for match in matches)
        result[str(part)] = paths
    return result


def _reader(builder: str, options: dict[str, Any]) -> Callable[[Path], dict[str, Column]]:
    if builder == "csv":
        if "sep" in options:
            options["delimiter"] = options.pop("sep")
        if "names" in options:
            options["column_names"] = options.pop("names")
        return lambda path: read_csv(path, **options)
    if builder == "json":
        return lambda path: read_json(path, **options)
    return lambda path: read_text(path, **options)


def _read(reader: Callable[[Path], dict[str, Column]], paths: list[Path], part: str) -> Dataset:
    parts = [Dataset(reader(path)) for path in paths]
    for path, dataset in zip(paths[1:], parts[1:], strict=True):
        if set(dataset.column_names) != set(parts[0].column_names):
            raise ValueError(
                f"{path} has columns {dataset.column_names}, {paths[0]} has {parts[0].column_names}: "
                f"one split ({part!r}) needs equal columns"
            )
    return concatenate_datasets(parts, split=part)


def _split(wanted: str, files: dict[str, list[Path]], reader: Callable[[Path], dict[str, Column]]) -> Dataset:
    pieces: list[Dataset] = []
    for piece in wanted.split("+"):
        match = _SPLIT.match(piece.strip())
        if match is None:
            raise ValueError(
                f"split {wanted!r} is not understood: write e.g. train, train[:100], train[10%:20%]"
            )
        part = match["name"]
        if part == "all":
            pieces.extend(_read(reader, paths, name) for name, paths in files.items())
            continue
        if part not in files:
            raise ValueError(f'Unknown split "{part}". Should be one of {list(files)}.')
        dataset = _read(reader, files[part], part)
        if match[2] is not None:
            n = len(dataset)
            start = _bound(match["from"], n, 0)
            stop = _bound(match["to"], n, n)
            dataset = dataset.select(range(start, max(start, stop)))
        pieces.append(dataset)
    whole = pieces[0] if len(pieces) == 1 else concatenate_datasets(pieces)
    whole.split = wanted
    return whole


def _bound(text: str | None, n: int, default: int) -> int:
    if text is None:
        return default
    value = round(n * int(text[:-1]) / 100) if text.endswith("%") else int(text)
    if value < 0:
        value += n
    return min(max(value, 0), n)
