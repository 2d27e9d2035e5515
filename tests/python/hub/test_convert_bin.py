"""pytorch_model.bin to safetensors: real files of torch convert exactly, hostile ones are refused by name."""

from __future__ import annotations

import collections
import io
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smhf_native import convert
from smhf_native.errors import ParseError

MARKER = "SMHF_HOSTILE_PICKLE_RAN"


class Hostile:
    """Unpickling this runs a function."""

    def __init__(self, function: Any, *args: Any):
        self.function, self.args = function, args

    def __reduce__(self) -> Any:
        return self.function, self.args


def archive(path: Path, data: bytes, storages: dict[str, bytes], **entries: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        file.writestr("archive/data.pkl", data)
        file.writestr("archive/byteorder", entries.pop("byteorder", b"little"))
        for key, block in storages.items():
            file.writestr(f"archive/data/{key}", block)
    return path


def pickled_tensor(shape: tuple[int, ...], stride: tuple[int, ...], numel: int, offset: int = 0) -> bytes:
    """Write by hand the pickle of {"w": tensor} that torch would write."""
    out = io.BytesIO()
    out.write(b"\x80\x02}q\x00X\x01\x00\x00\x00wq\x01ctorch._utils\n_rebuild_tensor_v2\nq\x02((")
    out.write(
        b"X\x07\x00\x00\x00storageq\x03ctorch\nFloatStorage\nq\x04X\x01\x00\x00\x000q\x05X\x03\x00\x00\x00cpuq\x06"
    )
    out.write(b"J" + struct.pack("<i", numel) + b"tq\x07QJ" + struct.pack("<i", offset))
    for values in (shape, stride):
        out.write(b"(" + b"".join(b"J" + struct.pack("<i", v) for v in values) + b"t")
    out.write(b"\x89ccollections\nOrderedDict\nq\x08)Rq\x09tq\x0aRq\x0bs.")
    return out.getvalue()


def test_a_handmade_archive_is_read(tmp_path: Path) -> None:
    values = np.arange(6, dtype="<f4")
    path = archive(tmp_path / "a.bin", pickled_tensor((3, 2), (1, 3), 6), {"0": values.tobytes()})
    assert convert.read_bin(path)["w"][1].tolist() == values.reshape(2, 3).T.tolist()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (pickled_tensor((3, 3), (3, 1), 6), "reaches element 8 of a storage of 6"),
        (pickled_tensor((2, 2), (2, 1), 6, offset=5), "reaches element 8"),
        (pickled_tensor((99999, 6), (0, 1), 6), "repeats the elements of its storage"),
        (pickled_tensor((2, -2), (2, 1), 6), "broken shape or stride"),
        (pickled_tensor((2,), (2, 1), 6), "broken shape or stride"),
        (pickled_tensor((6,), (1,), 600), "24 bytes, expected 2400"),
        (b"\x80\x02]q\x00.", "a list, expected a dict"),
        (b"\x80\x02}q\x00.", "holds no tensors"),
        (b"\x80\x02}q\x00", "ends without STOP|damaged|pickle exhausted"),
        (b"\x80\x09}.", "protocol 9"),
        (b"\x80\x02h\x07.", "BINGET finds no fitting value"),
        (b"\x80\x020.", "opcode POP is refused"),
        (b"", "damaged|exhausted"),
    ],
)
def test_broken_pickles_are_refused(tmp_path: Path, data: bytes, said: str) -> None:
    path = archive(tmp_path / "a.bin", data, {"0": bytes(24)})
    with pytest.raises(ParseError, match=said):
        convert.read_bin(path)


HOSTILE = [
    Hostile(os.putenv, MARKER, "1"),
    Hostile(eval, "1"),
    Hostile(getattr, "text", "upper"),
    {"w": Hostile(os.system, "exit 0")},
    [Hostile(print, "x")],
    collections.Counter("ab"),
    {"w": np.arange(3)},
    Path("x"),
    slice,
]


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: type(value).__name__)
def test_pickles_that_would_run_code_are_refused_by_name(tmp_path: Path, value: Any, protocol: int) -> None:
    path = archive(tmp_path / "a.bin", pickle.dumps(value, protocol), {})
    with pytest.raises(ParseError, match=r"the name [\w.]+ is refused|opcode \w+ is refused") as caught:
        convert.read_bin(path)
    assert "only tensors are read" in str(caught.value) and caught.value.offset is not None


def test_calls_hidden_behind_allowed_names_are_refused(tmp_path: Path) -> None:
    cases = {
        b"\x80\x02ccollections\nOrderedDict\n(X\x01\x00\x00\x00atR.": "a call of collections.OrderedDict",
        b"\x80\x02ctorch\nFloatStorage\n(K\x08tR.": "a call of torch.FloatStorage",
        b"\x80\x02X\x01\x00\x00\x00a)R.": "not a listed name",
        b"\x80\x02}(X\x01\x00\x00\x00aK\x01dbb.": "DICT is refused",
        b"\x80\x02]}b.": "its own state",
        b"\x80\x02X\x05\x00\x00\x00posixX\x06\x00\x00\x00system\x93.": "the name posix.system is refused",
        b"\x80\x02cos\nsystem\n.": "the name os.system is refused",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.": "without a storage",
        b"\x80\x02K\x01Q.": "not a storage",
    }
    for data, said in cases.items():
        with pytest.raises(ParseError, match=said):
            convert.read_bin(archive(tmp_path / "a.bin", data, {}))


def test_archives_that_torch_never_writes_are_refused(tmp_path: Path) -> None:
    good = pickled_tensor((6,), (1,), 6)
    with pytest.raises(ParseError, match="lacks archive/data/0"):
        convert.read_bin(archive(tmp_path / "a.bin", good, {}))
    with pytest.raises(ParseError, match="big-endian"):
        convert.read_bin(archive(tmp_path / "b.bin", good, {"0": bytes(24)}, byteorder=b"big"))
    with zipfile.ZipFile(tmp_path / "c.bin", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", good)
    with pytest.raises(ParseError, match="compressed"):
        convert.read_bin(tmp_path / "c.bin")
    (tmp_path / "d.bin").write_bytes(b"PK\x03\x04" + bytes(40))
    with pytest.raises(ParseError, match="zip archive is damaged"):
        convert.read_bin(tmp_path / "d.bin")
    (tmp_path / "e.bin").write_bytes(b"no checkpoint at all")
    with pytest.raises(ParseError):
        convert.read_bin(tmp_path / "e.bin")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_pickles_give_tensors_or_a_parse_error(tmp_path: Path, data: st.DataObject) -> None:
    good = bytearray(pickled_tensor((3, 2), (2, 1), 6))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    path = archive(tmp_path / "m.bin", bytes(good), {"0": bytes(24)})
    try:
        tensors = convert.read_bin(path)
    except ParseError:
        return
    assert all(array.nbytes <= 4096 for _, array in tensors.values())


@pytest.mark.peers
@pytest.mark.parametrize("legacy", [False, True])
def test_files_of_torch_convert_exactly(peer: Any, tmp_path: Path, legacy: bool) -> None:
    torch = peer("torch")
    load_file = peer("safetensors.torch").load_file
    base = torch.randn(4, 6)
    state = collections.OrderedDict(
        a=base, transposed=base.t(), part=base[1:3, 2:], half=base.half(), brain=base.bfloat16(), double=base.double(),
        long=torch.arange(5), byte=torch.arange(5, dtype=torch.uint8), flag=torch.tensor([True, False]),
        scalar=torch.tensor(2.5), empty=torch.zeros(0, 3), parameter=torch.nn.Parameter(base.clone()),
    )  # fmt: skip
    state["x.LayerNorm.gamma"] = torch.ones(3)
    state._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    names = convert.convert_file(tmp_path / "pytorch_model.bin", tmp_path / "model.safetensors")
    assert "x.LayerNorm.weight" in names and not (tmp_path / ".model.safetensors.tmp").exists()
    result = load_file(tmp_path / "model.safetensors")
    assert len(result) == len(state)
    for name, tensor in state.items():
        other = result[name.replace("gamma", "weight")]
        assert other.dtype == tensor.dtype and torch.equal(other, tensor.detach()), name
    torch.save(
        {"model": torch.nn.Linear(2, 2)}, tmp_path / "module.bin", _use_new_zipfile_serialization=not legacy
    )
    with pytest.raises(ParseError, match=r"the name torch\.nn\.modules\.linear\.Linear is refused"):
        convert.read_bin(tmp_path / "module.bin")


@pytest.mark.peers
def test_an_old_model_folder_loads_when_asked(
    peer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch, transformers = peer("torch"), peer("transformers")
    from smhf_native.transformers import AutoModelForSequenceClassification

    config = transformers.DistilBertConfig(
        vocab_size=40, dim=32, n_heads=2, n_layers=1, hidden_dim=64, num_labels=3
    )
    model = transformers.DistilBertForSequenceClassification(config).eval()
    folder = tmp_path / "old"
    config.architectures = ["DistilBertForSequenceClassification"]
    config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ParseError, match=r"smhf_native\.convert.*SMHF_ALLOW_BIN=1"):
        AutoModelForSequenceClassification.from_pretrained(folder)
    monkeypatch.setenv("SMHF_ALLOW_BIN", "1")
    ids = np.array([[2, 7, 9, 3], [2, 5, 3, 0]])
    mask = np.array([[1, 1, 1, 1], [1, 1, 1, 0]])
    ours = AutoModelForSequenceClassification.from_pretrained(folder)(ids, mask).logits
    with torch.no_grad():
        theirs = model(torch.tensor(ids), torch.tensor(mask)).logits.numpy()
    assert np.abs(ours - theirs).max() <= 2e-5
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "pytorch_model.bin"]
    assert convert.main([str(folder), str(tmp_path / "new")]) == 0
    assert {p.name for p in (tmp_path / "new").iterdir()} == {"config.json", "model.safetensors"}
    assert convert.main([str(tmp_path / "new"), str(tmp_path / "again")]) == 1
