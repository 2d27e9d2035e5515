"""The datasets mirror: against the datasets package where it is installed, and by hand where not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import smhf_native.datasets as ours
from smhf_native.datasets.columns import Objects, Rows, Values, concat, make_column
from smhf_native.errors import ParseError


@pytest.fixture(scope="module")
def theirs(peer: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    import os

    os.environ.setdefault("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("hf")))
    module = peer("datasets")
    module.disable_progress_bars()
    return module


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode("utf-8"))
    return path


@pytest.mark.peers
def test_reviews_equal_the_package_row_by_row(theirs: Any, shared_data: Path, tmp_path: Path) -> None:
    files = {
        "train": str(shared_data / "reviews/train.csv"),
        "test": str(shared_data / "reviews/validate.csv"),
    }
    a = ours.load_dataset("csv", data_files=files)
    b = theirs.load_dataset("csv", data_files=files, cache_dir=str(tmp_path))
    assert a.num_rows == b.num_rows == {"train": 3600, "test": 928}
    for part in files:
        assert a[part].to_dict() == b[part].to_dict()
        assert a[part].column_names == b[part].column_names
        assert a[part].shuffle(seed=11)["text"] == list(b[part].shuffle(seed=11)["text"])
    for options in (
        {"test_size": 0.2, "seed": 1},
        {"train_size": 100, "test_size": 50, "seed": 2},
        {"shuffle": False},
    ):
        x, y = a["test"].train_test_split(**options), b["test"].train_test_split(**options)
        assert {k: v.to_dict() for k, v in x.items()} == {k: v.to_dict() for k, v in y.items()}


CELL = st.text(alphabet=st.sampled_from('ab ,"\n\r;é☃1.-NA'), max_size=8)


@pytest.mark.peers
@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(CELL, st.integers(-5, 5), st.sampled_from(["x", "", "NA", "null", "1"])), min_size=1
    )
)
def test_any_quoted_csv_equals_pandas(rows: list[Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    import csv

    pandas = pytest.importorskip("pandas")
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(["text", "n", "s"])
        writer.writerows(rows)
    expected = pandas.read_csv(path, dtype={"text": str, "s": str})
    got = ours.load_dataset("csv", data_files=str(path), split="train")
    assert got["n"] == [row[1] for row in rows]
    for name in ("text", "s"):
        reference = [
            None if gone else v for gone, v in zip(expected[name].isna(), expected[name], strict=True)
        ]
        mine = got[name]
        if all(value is None or not isinstance(value, str) for value in mine) and mine != reference:
            # A column that looks like numbers is one, in pandas too when it may choose.
            reference = pandas.read_csv(path)[name].tolist()
            assert [m for m in mine if m is not None] == [r for r in reference if r == r]
        else:
            assert mine == reference


def test_csv_quoting_line_breaks_and_types(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.csv",
        '\ufefftext,label,score,flag\r\n"a, ""quoted""\r\nline",1,0.5,True\r\n\r\nplain 5\'4" tall,2,1e-3,False\r\n',
    )
    data = ours.load_dataset("csv", data_files=str(path))["train"]
    assert data.to_dict() == {
        "text": ['a, "quoted"\r\nline', "plain 5'4\" tall"],
        "label": [1, 2],
        "score": [0.5, 0.001],
        "flag": [True, False],
    }
    assert [str(f.dtype) for f in data.features.values()] == ["string", "int64", "float64", "bool"]


@pytest.mark.parametrize(
    ("text", "row", "line", "why"),
    [
        ("text,label\na,1\nb,2,3\n", 2, 3, "3 cells, expected 2"),
        ('text,label\n"two\nlines",1\nb\n', 2, 4, "1 cells, expected 2"),
        ('text,label\n"a"b,1\n', 1, 2, "unreadable"),
        ('text,label\na,1\n"never closed,2\nx,3\n', 2, 3, "unexpected end of data"),
    ],
)
def test_unreadable_rows_are_named_by_row_and_line(
    tmp_path: Path, text: str, row: int, line: int, why: str
) -> None:
    path = write(tmp_path / "bad.csv", text)
    with pytest.raises(ParseError) as caught:
        ours.load_dataset("csv", data_files=str(path))
    said = str(caught.value)
    assert f"row {row} (line {line})" in said and why in said and "bad.csv" in said


def test_wrong_encoding_duplicate_header_and_empty_file(tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes(b"text,label\na,1\ncaf\xe9,2\n")
    with pytest.raises(ParseError, match="line 3 is not utf-8: byte 0xe9") as caught:
        ours.load_dataset("csv", data_files=str(tmp_path / "latin.csv"))
    assert caught.value.offset == 18
    assert ours.load_dataset("csv", data_files=str(tmp_path / "latin.csv"), encoding="latin-1")["train"][
        1
    ] == {
        "text": "café",
        "label": 2,
    }
    with pytest.raises(ParseError, match="'a' twice"):
        ours.load_dataset("csv", data_files=str(write(tmp_path / "d.csv", "a,a\n1,2\n")))
    with pytest.raises(ParseError, match="the file is empty"):
        ours.load_dataset("csv", data_files=str(write(tmp_path / "e.csv", "")))


def test_data_files_forms_splits_and_refusals(tmp_path: Path) -> None:
    one = write(tmp_path / "one.csv", "x\n1\n2\n3\n4\n")
    two = write(tmp_path / "two.csv", "x\n5\n6\n")
    assert ours.load_dataset("csv", data_files=[str(one), str(two)])["train"]["x"] == [1, 2, 3, 4, 5, 6]
    assert ours.load_dataset("csv", data_files=str(tmp_path / "*.csv"), split="train")["x"] == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]
    table = {"train": str(one), "test": str(two)}
    assert ours.load_dataset("csv", data_files=table, split="train[1:3]+test")["x"] == [2, 3, 5, 6]
    assert ours.load_dataset("csv", data_files=table, split="train[50%:]")["x"] == [3, 4]
    with pytest.raises(ValueError, match=r'Unknown split "dev"'):
        ours.load_dataset("csv", data_files=table, split="dev")
    with pytest.raises(FileNotFoundError, match=r"missing\.csv.*split 'train'"):
        ours.load_dataset("csv", data_files=str(tmp_path / "missing.csv"))
    with pytest.raises(ValueError, match="only local files"):
        ours.load_dataset("csv", data_files="https://host.invalid/a.csv")
    with pytest.raises(FileNotFoundError, match="imdb"):
        ours.load_dataset("imdb")
    with pytest.raises(TypeError, match=r"'delimeter'.*'delimiter'"):
        ours.load_dataset("csv", data_files=str(one), delimeter=";")


def test_json_lines_arrays_and_errors(tmp_path: Path) -> None:
    rows = [{"text": "a\u2028b", "label": 1}, {"text": "c", "label": 2}]
    lines = write(tmp_path / "a.jsonl", "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n")
    whole = write(tmp_path / "b.json", json.dumps({"data": rows}))
    assert ours.load_dataset("json", data_files=str(lines), split="train").to_list() == rows
    assert ours.load_dataset("json", data_files=str(whole), field="data", split="train").to_list() == rows
    with pytest.raises(ParseError, match=r"row 2 \(line 3\) is not JSON"):
        ours.load_dataset("json", data_files=str(write(tmp_path / "c.jsonl", '{"a":1}\n\n{"a":\n')))
    with pytest.raises(ParseError, match="row 1 is list, expected an object"):
        ours.load_dataset("json", data_files=str(write(tmp_path / "d.json", "[[1]]")))


@pytest.mark.peers
def test_map_filter_rename_and_formats_equal_the_package(theirs: Any) -> None:
    table = {"text": ["a b", "c", "d e f", "g"], "label": [0, 1, 2, 1], "x": [0.5, 1.5, 2.5, 3.5]}

    def run(module: Any) -> dict[str, Any]:
        data = module.Dataset.from_dict(table)
        out: dict[str, Any] = {}
        words = data.map(lambda b: {"n": [len(t.split()) for t in b["text"]]}, batched=True, batch_size=3)
        out["batched"] = words.to_dict()
        out["single"] = data.map(
            lambda row: {"text": row["text"].upper(), "two": [row["label"]] * 2}
        ).to_dict()
        out["grown"] = data.map(
            lambda b: {"w": [w for t in b["text"] for w in t.split()]},
            batched=True,
            remove_columns=["text", "label", "x"],
        ).to_dict()
        out["indices"] = data.map(lambda row, i: {"i": i}, with_indices=True)["i"][:]
        out["inputs"] = data.map(lambda label: {"twice": label * 2}, input_columns="label").to_dict()
        out["filter"] = data.filter(lambda row: row["label"] == 1).to_dict()
        out["filter_batched"] = data.filter(lambda b: [v > 0 for v in b["label"]], batched=True).to_dict()
        renamed = data.rename_column("label", "labels").rename_columns({"x": "y"})
        out["renamed"] = renamed.column_names
        out["select"] = renamed.select([3, 0]).to_dict()
        out["slice"] = renamed[1:3]
        out["row"] = renamed[-1]
        out["sorted"] = data.sort("x", reverse=True)["text"][:]
        out["unique"] = data.unique("label")
        out["encoded"] = data.class_encode_column("text").to_dict()
        numbers = data.with_format("numpy", columns=["label", "x"])
        out["numpy"] = {k: v.tolist() for k, v in numbers[:2].items()}
        out["joined"] = module.concatenate_datasets([data, data]).to_dict()
        out["removed"] = words.remove_columns("n").to_dict() == data.to_dict()
        return out

    assert run(ours) == run(theirs)


def test_torch_format_gives_int64_arrays_of_the_chosen_columns() -> None:
    data = ours.Dataset.from_dict({"ids": [[1, 2, 3], [4, 5, 6]], "text": ["a", "b"], "labels": [1, 0]})
    data.set_format("torch", columns=["ids", "labels"])
    row = data[0]
    assert list(row) == ["ids", "labels"] and row["ids"].dtype == np.int64
    assert row["ids"].size() == (3,) and row["labels"].item() == 1
    batch = data[:2]
    assert batch["ids"].shape == (2, 3) and batch["ids"].size(0) == 2
    assert batch["ids"].numpy().tolist() == [[1, 2, 3], [4, 5, 6]]
    assert data["labels"].tolist() == [1, 0]
    data.reset_format()
    assert data[0] == {"ids": [1, 2, 3], "text": "a", "labels": 1}
    with pytest.raises(ValueError, match="format 'jax'"):
        data.set_format("jax")
    with pytest.raises(KeyError, match="label"):
        data.set_format("torch", columns=["label"])


def test_padded_rows_are_stored_small() -> None:
    mask = [[1] * 40 + [0] * 472] * 1000
    ids = [[101, 30000, *range(200, 238)] + [0] * 472] * 1000
    data = ours.Dataset.from_dict({"text": ["x"] * 1000}).map(
        lambda batch: {"input_ids": ids[: len(batch["text"])], "attention_mask": mask[: len(batch["text"])]},
        batched=True,
    )
    stored = data.packed_rows("input_ids"), data.packed_rows("attention_mask")
    assert [rows.flat.dtype for rows in stored] == [np.int32, np.int8]
    assert sum(rows.flat.nbytes for rows in stored) == 1000 * 512 * 5
    assert data[3]["input_ids"] == ids[0]


def test_errors_name_what_is_wrong() -> None:
    data = ours.Dataset.from_dict({"a": [1, 2, 3]})
    with pytest.raises(KeyError, match=r"Column b not in the dataset.*\['a'\]"):
        data["b"]
    with pytest.raises(IndexError, match="row 7"):
        data[7]
    with pytest.raises(ValueError, match="differ in length"):
        ours.Dataset.from_dict({"a": [1], "b": [1, 2]})
    with pytest.raises(ValueError, match="two columns named"):
        ours.Dataset.from_dict({"a": [1], "b": [1]}).rename_column("a", "b")
    with pytest.raises(ValueError, match="remove_columns"):
        data.map(lambda batch: {"b": [1]}, batched=True)
    with pytest.raises(TypeError, match=r"'batchd'.*'batched'"):
        data.map(lambda batch: batch, batchd=True)
    with pytest.raises(ZeroDivisionError) as caught:
        data.map(lambda row: {"b": 1 // (row["a"] - 2)})
    assert any("row 1" in note for note in caught.value.__notes__)


def test_pandas_round_trip() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"text": ["a", None, "c"], "label": [1, 2, 3], "x": [0.5, float("nan"), 1.0]})
    data = ours.Dataset.from_pandas(frame)
    assert data.to_dict() == {"text": ["a", None, "c"], "label": [1, 2, 3], "x": [0.5, None, 1.0]}
    assert data.to_pandas()["label"].tolist() == [1, 2, 3]
    assert ours.Dataset.from_pandas(frame.set_index(pandas.Index([5, 3, 9]))).column_names == [
        "text",
        "label",
        "x",
        "__index_level_0__",
    ]


INTS = st.lists(st.integers(-(2**40), 2**40), max_size=6)


@settings(max_examples=80, deadline=None)
@given(rows=st.lists(INTS, min_size=1, max_size=12), data=st.data())
def test_rows_columns_take_cut_and_concat_like_lists(rows: list[list[int]], data: st.DataObject) -> None:
    column = make_column(rows)
    assert column.tolist() == rows
    index = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=8))
    assert column.take(np.array(index, dtype=np.int64)).tolist() == [rows[i] for i in index]
    start = data.draw(st.integers(0, len(rows)))
    stop = data.draw(st.integers(start, len(rows)))
    assert column.cut(start, stop).tolist() == rows[start:stop]
    assert concat([column, column.cut(start, stop)]).tolist() == rows + rows[start:stop]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2], Values),
        ([True, False], Values),
        ([1, 2.5], Values),
        ([1, True], Objects),
        ([2**70], Objects),
        (["a"], Objects),
        ([None, 1], Objects),
        ([[1], [2, 3]], Rows),
        ([[1.5], [2]], Rows),
        ([["a"]], Objects),
        ([[[1]]], Objects),
        ([[], []], Objects),
        ([[1], None], Objects),
    ],
)
def test_each_value_keeps_its_python_face(values: list[Any], kind: type) -> None:
    column = make_column(values)
    assert type(column) is kind and column.tolist() == values
