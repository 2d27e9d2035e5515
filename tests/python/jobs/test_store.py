"""The folder store against the rules of S3 addresses."""

from __future__ import annotations

import os

import pytest

from smhf_native.exceptions import ObjectNotFoundError
from smhf_native.store import Store, join_uri, parse_uri


def test_round_trip_and_prefix_listing(tmp_path):
    store = Store(tmp_path)
    for key in ("data/train.csv", "data/train/a.txt", "data/validate.csv", "other"):
        store.write(f"s3://b/{key}", key.encode())
    assert store.list("s3://b/data/train") == ["s3://b/data/train.csv", "s3://b/data/train/a.txt"]
    assert store.list("s3://b/data/train/") == ["s3://b/data/train/a.txt"]
    assert len(store.list("s3://b")) == 4
    assert store.list("s3://b/none/here") == []
    assert store.read("s3://b/data/train/a.txt") == b"data/train/a.txt"
    assert store.size("s3://b/data/train") == len("data/train.csv") + len("data/train/a.txt")
    assert store.exists("s3://b/oth") and not store.exists("s3://b/x")


def test_delete_removes_empty_folders(tmp_path):
    store = Store(tmp_path)
    store.write("s3://b/a/b/c", b"1")
    assert store.delete("s3://b/a") == 1
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    "uri", ["http://x/y", "s3://", "s3:///key", "s3://b/../etc", "s3://../x", "s3://b/a/./c", "s3://b/a\0c"]
)
def test_bad_addresses_are_refused(tmp_path, uri):
    with pytest.raises(ValueError):
        Store(tmp_path).path(uri)


def test_nothing_leaves_the_root(tmp_path):
    store = Store(tmp_path / "root")
    store.write("s3://b//double//slash", b"x")
    assert store.list("s3://b/double/") == ["s3://b/double/slash"]
    assert store.path("s3://b//etc/passwd") == tmp_path / "root" / "b" / "etc" / "passwd"


def test_object_and_prefix_conflict_is_named(tmp_path):
    store = Store(tmp_path)
    store.write("s3://b/a/b", b"1")
    with pytest.raises(ValueError, match="prefix of other objects"):
        store.write("s3://b/a", b"2")
    with pytest.raises(ValueError, match="is an object"):
        store.write("s3://b/a/b/c", b"2")
    with pytest.raises(ValueError, match="names no object"):
        store.write("s3://b/", b"2")


def test_missing_object_says_how_to_supply_it(tmp_path):
    store = Store(tmp_path)
    store.write("s3://b/p/data/test.csv", b"1")
    with pytest.raises(ObjectNotFoundError) as caught:
        store.read("s3://b/p/data/train.csv")
    text = str(caught.value)
    assert "s3://b/p/data/train.csv" in text and "upload_data" in text and "s3://b/p/data/test.csv" in text


def test_failed_write_leaves_the_old_object(tmp_path):
    store = Store(tmp_path)
    store.write("s3://b/k", b"old")
    with pytest.raises(FileNotFoundError):
        store.upload(tmp_path / "absent", "s3://b/k")
    assert store.read("s3://b/k") == b"old"
    assert os.listdir(tmp_path / "b") == ["k"]


def test_join_and_parse():
    assert join_uri("s3://b/p/", "/x/", "y") == "s3://b/p/x/y"
    assert parse_uri("s3://b") == ("b", "")
