"""train_wordpiece against the trainer of ``tokenizers`` on the same texts."""

from __future__ import annotations

from typing import Any

import pytest

import smhf_native as smhf
from smhf_native.errors import Cancelled

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.mark.parametrize(("size", "lowercase"), [(1500, True), (6000, True), (4000, False)])
def test_as_good_as_the_reference(real_texts: list[str], tokenizers_peer: Any, size: int, lowercase: bool) -> None:
    texts = real_texts[:4000]
    ours = smhf.train_wordpiece(texts, size, lowercase=lowercase)
    theirs = tokenizers_peer.Tokenizer(tokenizers_peer.models.WordPiece(unk_token="[UNK]"))
    theirs.normalizer = tokenizers_peer.normalizers.BertNormalizer(lowercase=lowercase)
    theirs.pre_tokenizer = tokenizers_peer.pre_tokenizers.BertPreTokenizer()
    theirs.train_from_iterator(
        texts,
        tokenizers_peer.trainers.WordPieceTrainer(
            vocab_size=size, min_frequency=2, limit_alphabet=1000, special_tokens=SPECIALS, show_progress=False
        ),
    )
    assert ours.vocab_size == theirs.get_vocab_size()
    assert list(ours.get_vocab())[:5] == SPECIALS
    held_out = real_texts[4000:6000]
    for part in (texts, held_out):
        pieces = len(ours(part, add_special_tokens=False).packed()[0])
        expected = sum(len(e.ids) for e in theirs.encode_batch(part, add_special_tokens=False))
        assert abs(pieces / expected - 1) < 0.005
    shared = set(ours.get_vocab()) & set(theirs.get_vocab())
    assert len(shared) >= 0.99 * ours.vocab_size


def test_deterministic_and_limited() -> None:
    texts = ["low lower lowest", "new newer newest", "LÖW 中文"] * 3
    first = smhf.train_wordpiece(texts, 60)
    assert first.get_vocab() == smhf.train_wordpiece(iter(texts), 60).get_vocab()
    assert "low" in first.get_vocab() and "LÖW" not in first.get_vocab()
    assert "löw" in smhf.train_wordpiece(["LÖW löw"] * 3, 60, lowercase=False).get_vocab()
    few = smhf.train_wordpiece(texts, 200, limit_alphabet=4)
    assert len([t for t in few.get_vocab() if len(t) == 1]) == 4
    assert not any(t in few.get_vocab() for t in ("中", "文"))
    rare = smhf.train_wordpiece(["once upon", "a time a"], 200, min_frequency=2)
    assert "once" not in rare.get_vocab()
    own = smhf.train_wordpiece(texts, 60, special_tokens=["[UNK]", "[CLS]", "[SEP]", "<x>"])
    assert list(own.get_vocab())[:4] == ["[UNK]", "[CLS]", "[SEP]", "<x>"]


def test_progress_cancel_and_errors() -> None:
    seen: list[tuple[int, int]] = []
    texts = [f"w{i} word{i} {i}{i}ing" for i in range(3000)]
    trained = smhf.train_wordpiece(texts, 2000, progress=lambda done, total: seen.append((done, total)))
    assert all(total == 2000 for _, total in seen) and seen[-1] == (trained.vocab_size, 2000)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        smhf.train_wordpiece(texts, 2000, progress=stop)
    with pytest.raises(TypeError, match=r"texts\[1\]"):
        smhf.train_wordpiece(["a", 5], 100)
    with pytest.raises(ValueError, match=r"texts\[0\]: lone surrogate"):
        smhf.train_wordpiece(["\ud800"], 100)
    with pytest.raises(ValueError, match="vocab_size"):
        smhf.train_wordpiece(["a"], 0)
    with pytest.raises(ValueError, match=r"special_tokens\[0\]"):
        smhf.train_wordpiece(["a"], 100, special_tokens=["a\nb"])
    assert issubclass(Cancelled, Exception)


def test_any_number_of_threads_gives_the_same_vocabulary(real_texts: list[str]) -> None:
    from smhf_native.tokenizer import _tokenizer

    texts = [*real_texts[:6000], "long " * 300_000, *real_texts[6000:9000]]  # several parts of a round
    vocabularies = []
    try:
        for threads in (1, 2, 5):
            _tokenizer.set_threads(threads)
            vocabularies.append(list(smhf.train_wordpiece(texts, 3000).get_vocab()))
    finally:
        _tokenizer.set_threads(2)
    assert vocabularies[0] == vocabularies[1] == vocabularies[2]
    # The first of several faults is the one that is told, whichever thread meets it.
    broken = [*texts[:5000], "a\udc00", *texts[5000:], "b\ud800"]
    with pytest.raises(ValueError, match=r"texts\[5000\]: lone surrogate U\+DC00 at character 1"):
        smhf.train_wordpiece(broken, 3000)


@pytest.mark.parametrize("installed", [True, False])
def test_progress_is_shown(
    installed: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], peer: Any
) -> None:
    import sys
    import time

    if installed:
        peer("tqdm")
    else:
        monkeypatch.setitem(sys.modules, "tqdm", None)
        clock = iter(range(0, 100_000, 3))
        monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))  # 3 s between two looks
    smhf.train_wordpiece([f"w{i} word{i} {i}{i}ing" for i in range(3000)], 2000, progress=True)
    err = capsys.readouterr().err
    assert "reading" in err if installed else "merging: " in err and "of 2000 tokens, " in err and "s left" in err
