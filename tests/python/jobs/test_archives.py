"""Archives of source and artifacts: layout, equal bytes for equal content, refusals on reading."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import tarfile

import pytest

from smhf_native.jobs import archives


def tree(root):
    (root / "sub").mkdir(parents=True)
    (root / "train.py").write_text("print(1)")
    (root / "sub" / "x.txt").write_text("x" * 1000)
    (root / "run.sh").write_text("echo")
    (root / "run.sh").chmod(0o755)
    (root / "__pycache__").mkdir()
    (root / "__pycache__" / "t.pyc").write_text("")
    return root


def test_children_of_the_folder_are_at_the_root(tmp_path):
    root = tree(tmp_path / "src")
    archives.create(tmp_path / "a.tar.gz", archives.folder_members(root, source=True))
    with tarfile.open(tmp_path / "a.tar.gz") as archive:
        assert archive.getnames() == ["run.sh", "train.py", "sub/x.txt"]
        modes = {entry.name: entry.mode for entry in archive}
        assert modes == {"run.sh": 0o755, "train.py": 0o644, "sub/x.txt": 0o644}
        assert {(entry.uid, entry.uname, entry.mtime) for entry in archive} == {(0, "", 0)}
    # The system's tar reads it too.
    done = subprocess.run(["tar", "-tzf", tmp_path / "a.tar.gz"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["run.sh", "train.py", "sub/x.txt"]


def test_equal_content_gives_equal_bytes(tmp_path):
    for name in ("one", "two"):
        root = tree(tmp_path / name)
        os.utime(root / "train.py", (1, len(name)))
        archives.create(tmp_path / f"{name}.tar.gz", archives.folder_members(root))
    assert (tmp_path / "one.tar.gz").read_bytes() == (tmp_path / "two.tar.gz").read_bytes()


def test_links_are_followed_and_names_may_be_long(tmp_path):
    root = tree(tmp_path / "src")
    (root / "link.py").symlink_to(root / "train.py")
    long = "ä" * 100 + "/" + "b" * 200
    (root / long).parent.mkdir()
    (root / long).write_text("deep")
    archives.create(tmp_path / "a.tar.gz", archives.folder_members(root))
    assert archives.extract(tmp_path / "a.tar.gz", tmp_path / "out") == 6
    assert (tmp_path / "out" / "link.py").read_text() == "print(1)" and not (
        tmp_path / "out" / "link.py"
    ).is_symlink()
    assert (tmp_path / "out" / long).read_text() == "deep"
    assert os.access(tmp_path / "out" / "run.sh", os.X_OK)


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="two files"):
        members = [("a", tmp_path / "f"), ("a", tmp_path / "f")]
        (tmp_path / "f").write_text("1")
        archives.create(tmp_path / "a.tar.gz", members)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ValueError, match="no regular file"):
        archives.create(tmp_path / "a.tar.gz", [("fifo", tmp_path / "fifo")])
    assert sorted(os.listdir(tmp_path)) == ["f", "fifo"]


def packed(path, *entries):
    with tarfile.open(path, "w:gz") as archive:
        for name, kind, content in entries:
            entry = tarfile.TarInfo(name)
            entry.type = kind
            if kind == tarfile.REGTYPE:
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
            else:
                entry.linkname = "target"
                archive.addfile(entry)
    return path


@pytest.mark.parametrize(
    ("name", "kind", "word"),
    [
        ("../evil", tarfile.REGTYPE, r"'\.\.'"),
        ("a/../../evil", tarfile.REGTYPE, r"'\.\.'"),
        ("/etc/evil", tarfile.REGTYPE, "absolute"),
        ("link", tarfile.SYMTYPE, "link or device"),
        ("hard", tarfile.LNKTYPE, "link or device"),
        ("fifo", tarfile.FIFOTYPE, "link or device"),
        ("dev", tarfile.CHRTYPE, "link or device"),
        ("good", tarfile.REGTYPE, "twice"),
        ("x" * 5000, tarfile.REGTYPE, "too long"),
    ],
)
def test_dangerous_members_are_refused(tmp_path, name, kind, word):
    archive = packed(tmp_path / "a.tar.gz", ("good", tarfile.REGTYPE, b"1"), (name, kind, b"2"))
    with pytest.raises(ValueError, match=word):
        archives.extract(archive, tmp_path / "out")
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("keep", [0, 10, 60])
def test_damaged_archives_are_refused(tmp_path, keep):
    root = tree(tmp_path / "src")
    archives.create(tmp_path / "a.tar.gz", archives.folder_members(root))
    (tmp_path / "b.tar.gz").write_bytes((tmp_path / "a.tar.gz").read_bytes()[:keep])
    with pytest.raises(ValueError, match="damaged"):
        archives.extract(tmp_path / "b.tar.gz", tmp_path / "out")


def test_bytes_after_a_link_into_the_folder_cannot_escape(tmp_path):
    """A file is never written through a symbolic link that stands in the target already."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train.py").symlink_to(tmp_path / "victim")
    archive = packed(tmp_path / "a.tar.gz", ("train.py", tarfile.REGTYPE, b"evil"))
    with pytest.raises(OSError):
        archives.extract(archive, tmp_path / "out")
    assert not (tmp_path / "victim").exists()


def test_gzip_header_is_neutral(tmp_path):
    archives.create(tmp_path / "named.tar.gz", [])
    head = (tmp_path / "named.tar.gz").read_bytes()[:10]
    assert head[:4] == b"\x1f\x8b\x08\x00" and head[4:8] == b"\0\0\0\0"
    assert gzip.decompress((tmp_path / "named.tar.gz").read_bytes()).strip(b"\0") == b""


def test_bombs_are_refused(tmp_path):
    archive = packed(tmp_path / "a.tar.gz", ("zeros", tarfile.REGTYPE, b"\0" * 40_000_000))
    with pytest.raises(ValueError, match="200 times"):
        archives.extract(archive, tmp_path / "out")
    assert not (tmp_path / "out" / "zeros").exists()


def test_large_weights_are_stored_and_still_read_everywhere(tmp_path):
    root = tree(tmp_path / "src")
    assert archives.fitting_level(archives.folder_members(root)) == 6
    (root / "model.safetensors").write_bytes(os.urandom(1 << 20) * 9)
    members = list(archives.folder_members(root))
    assert archives.fitting_level(members) == 0
    archives.create(tmp_path / "m.tar.gz", members, level=0)
    done = subprocess.run(
        ["tar", "-xzOf", tmp_path / "m.tar.gz", "model.safetensors"], capture_output=True, check=True
    )
    assert done.stdout == (root / "model.safetensors").read_bytes()
    model = pytest.importorskip("smhf_native.model", reason="the model room is not built")
    (tmp_path / "c").mkdir()
    model.extract_archive(str(tmp_path / "m.tar.gz"), str(tmp_path / "c"))
    assert (tmp_path / "c" / "model.safetensors").read_bytes() == done.stdout
