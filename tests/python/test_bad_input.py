"""Bad input across rooms: hostile archives, a vocabulary that does not fit the weights, empty texts."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import smhf_native as smhf
from smhf_native.errors import ParseError
from smhf_native.model import create_archive, extract_archive

# --- archives: every refusal names archive, member and reason, and leaves nothing behind -------------


Adder = Callable[[tarfile.TarFile], None]


def member(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"x", link: str = "") -> Adder:
    def add(archive: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.type = kind
        info.linkname = link
        info.size = len(data) if kind == tarfile.REGTYPE else 0
        archive.addfile(info, io.BytesIO(data) if kind == tarfile.REGTYPE else None)

    return add


HOSTILE = {
    "symbolic link": [member("a", tarfile.SYMTYPE, link="/etc/passwd")],
    "hard link": [member("good"), member("b", tarfile.LNKTYPE, link="good")],
    "device": [member("dev", tarfile.CHRTYPE)],
    "FIFO": [member("pipe", tarfile.FIFOTYPE)],
    "absolute path": [member("/etc/evil")],
    '".."': [member("sub/../../evil")],
    "appears twice": [member("a"), member("./a")],
    "nested folders": [member("/".join(["d"] * 70) + "/f")],
    "name too long": [member("/".join(["n" * 200] * 30))],
}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("reason", HOSTILE)
def test_hostile_archive_is_refused(reason: str, form: int, tmp_path: Path) -> None:
    path, target = tmp_path / "model.tar.gz", tmp_path / "out"
    try:
        with tarfile.open(path, "w:gz", format=form) as archive:
            for add in [member("first"), *HOSTILE[reason]]:
                add(archive)
    except ValueError:
        pytest.skip("this tar format cannot hold such a name")
    target.mkdir()
    with pytest.raises(ParseError) as caught:
        extract_archive(path, target)
    assert reason in str(caught.value) and "model.tar.gz" in str(caught.value)
    assert list(target.iterdir()) == []


def test_bomb_is_refused(tmp_path: Path) -> None:
    path, target = tmp_path / "bomb.tar.gz", tmp_path / "out"
    with tarfile.open(path, "w:gz") as archive:
        member("zeros", data=bytes(20_000_000))(archive)
    target.mkdir()
    with pytest.raises(ParseError, match="ratio"):
        extract_archive(path, target)
    assert list(target.iterdir()) == []


@pytest.mark.parametrize("cut", [0, 1, 100, 511, 513, 700, 1023])
def test_cut_archive_is_refused(cut: int, tmp_path: Path) -> None:
    whole, part, target = tmp_path / "whole.tar", tmp_path / "part.tar", tmp_path / "out"
    with tarfile.open(whole, "w") as archive:
        member("a", data=b"y" * 600)(archive)
    part.write_bytes(whole.read_bytes()[:cut])
    target.mkdir()
    with pytest.raises(ParseError, match="cut short"):
        extract_archive(part, target)
    assert list(target.iterdir()) == []


def test_damaged_header_is_refused(tmp_path: Path) -> None:
    path, target = tmp_path / "a.tar", tmp_path / "out"
    with tarfile.open(path, "w") as archive:
        member("a")(archive)
    data = bytearray(path.read_bytes())
    data[3] ^= 0x40
    path.write_bytes(data)
    target.mkdir()
    with pytest.raises(ParseError, match="checksum"):
        extract_archive(path, target)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_good_archives_of_every_form(form: int, tmp_path: Path) -> None:
    path, target = tmp_path / "a.tar.gz", tmp_path / "out"
    long_name = "code/" + "é" * 60 + ".py" if form != tarfile.USTAR_FORMAT else "code/inference.py"
    with tarfile.open(path, "w:gz", format=form) as archive:
        member("./config.json", data=b"{}")(archive)
        member("code", tarfile.DIRTYPE)(archive)
        member(long_name, data=b"print()")(archive)
    target.mkdir()
    extract_archive(path, target)
    assert (target / "config.json").read_bytes() == b"{}"
    assert (target / long_name).read_bytes() == b"print()"


def test_our_archives_read_with_tarfile(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "code").mkdir(parents=True)
    (tree / "model.bin").write_bytes(np.random.default_rng(0).bytes(100_000))
    deep = tree / "code" / ("n" * 120 + ".py")
    deep.write_text("x")
    create_archive(tmp_path / "a.tar.gz", tree)
    with tarfile.open(tmp_path / "a.tar.gz") as archive:
        assert archive.getnames() == ["code", f"code/{deep.name}", "model.bin"]
        extracted = archive.extractfile("model.bin")
        assert extracted is not None and extracted.read() == (tree / "model.bin").read_bytes()
        assert {m.mtime for m in archive.getmembers()} == {0}


# --- model and texts ------------------------------------------------------------------------------


CONFIG = {
    "model_type": "distilbert", "dim": 16, "max_position_embeddings": 32, "n_layers": 1, "n_heads": 2,
    "hidden_dim": 32, "num_labels": 2, "pad_token_id": 0,
}  # fmt: skip
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "dress", "##es"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    target = tmp_path / "model"
    target.mkdir()
    smhf.Model.from_config({**CONFIG, "vocab_size": len(WORDS)}, seed=1).save_pretrained(str(target))
    smhf.Tokenizer.from_vocab(WORDS).save_pretrained(str(target))
    return target


def test_vocabulary_larger_than_the_weights(folder: Path) -> None:
    smhf.Tokenizer.from_vocab([*WORDS, "extra", "words"]).save_pretrained(str(folder))
    with pytest.raises(ValueError) as caught:
        smhf.pipeline("text-classification", model=str(folder))(["extra words"])
    assert "9" in str(caught.value)  # the weights hold nine words
    with pytest.raises(ValueError), smhf.serve(str(folder)):
        pass


def test_weights_of_another_model(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    smhf.Model.from_config({**CONFIG, "vocab_size": 12, "dim": 32}, seed=1).save_pretrained(str(other))
    (folder / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    with pytest.raises(ValueError) as caught:
        smhf.Model.from_pretrained(str(folder))
    assert "embeddings" in str(caught.value) and "12" in str(caught.value) and "9" in str(caught.value)


def test_empty_texts_are_texts(folder: Path) -> None:
    classify = smhf.pipeline("text-classification", model=str(folder))
    results = classify(["", " ", "good dress", "\x00"])
    assert len(results) == 4 and results[0] == results[1] == results[3]
    pandas = pytest.importorskip("pandas")
    frame = classify.predict(pandas.Series(["", "good"], index=[7, 3]))
    assert frame.index.tolist() == [7, 3] and frame["label"].notna().all()


def test_no_texts_at_all(folder: Path) -> None:
    pytest.importorskip("pandas")
    classify = smhf.pipeline("text-classification", model=str(folder))
    assert classify([]) == []
    assert len(classify.predict([])) == 0
