"""Encodings of ours and of the reference as equal tuples."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import smhf_native as smhf

Row = tuple[Any, ...]

POOL = [
    *list(range(32, 127)) * 3, *list(range(0x300, 0x370)) * 2, *range(0x8D0, 0x900), 0x1B44, 0x302E, 0x302F,
    0xA953, *range(0x1D15E, 0x1D173), 0xAC00, 0xAC01, 0xD7A3, 0x1100, 0x1161, 0x11A8, 0xF900, 0x2F800,
    0x4E00, 0x20000, 0x130, 0x1E9E, 0x3A3, 0x344, 0x340, 0xF73, 0xF75, 0xF81, 0, 0xFFFD, 0x200D, 0xFE0F,
    0xAD, 0xA0, 0x3000, 0x2028, 9, 10, 13, 11, 12, 0x85, 0x1C, 0xE0067, 0xE000, 0xFEFF, 0xFFFF,
]  # fmt: skip
FRAGMENTS = [
    "[CLS]", "[SEP]", "[UNK]", "[MASK]", "[PAD]", "[CLS", "##", "don't", " ", "  ", "hello", "World", "ÉCOLE",
    "привет", "中文", "\u0344", "\u0e31", "한국어", "x" * 99, "x" * 100, "x" * 101, "é" * 100, "unbelievable",
]  # fmt: skip


def fuzz_text(rng: random.Random) -> str:
    """A short string of characters and fragments that are delicate to tokenize."""
    parts = []
    for _ in range(rng.randrange(30)):
        kind = rng.random()
        if kind < 0.6:
            parts.append(chr(rng.choice(POOL)))
        elif kind < 0.8:
            parts.append(rng.choice(FRAGMENTS))
        else:
            c = rng.randrange(0x110000 if rng.random() < 0.5 else 0x3000)
            parts.append("A" if 0xD800 <= c < 0xE000 else chr(c))
    return "".join(parts)


def mutated(rng: random.Random, rows: list[str]) -> str:
    """A row of real text with a few places changed, cut, doubled, shouted or filled with oddities."""
    text = rng.choice(rows)[: rng.choice([60, 300, 1000])]
    for _ in range(rng.randrange(4)):
        at, kind = rng.randrange(len(text) + 1), rng.randrange(6)
        if kind == 0:  # cut or replaced
            text = text[:at] + fuzz_text(rng)[: rng.randrange(6)] + text[at + rng.randrange(4) :]
        elif kind == 1:
            text = text[:at] + rng.choice(FRAGMENTS) + text[at:]
        elif kind == 2:  # control characters and spaces of all kinds
            text = text[:at] + chr(rng.choice([*range(33), *range(0x7F, 0xA1), 0x2028, 0xFEFF])) + text[at:]
        elif kind == 3:  # a long word
            text = text[:at] + text[at : at + 7].replace(" ", "") * rng.randrange(20) + text[at:]
        elif kind == 4:
            text = text[:at] + text[at:].swapcase()
        else:  # two scripts in one row
            text = text[:at] + rng.choice(rows)[:80] + text[at:]
    return text


def draw_options(rng: random.Random, texts: list[str]) -> dict[str, Any]:
    """One draw of what an encode call may be told, for ours and the reference alike."""
    drawn: dict[str, Any] = {"specials": rng.random() < 0.85, "words": rng.random() < 0.15}
    strategy = rng.choice(["longest_first", "longest_first", "only_first", "only_second"])
    if rng.random() < 0.45 or strategy == "only_second":
        drawn["pairs"] = rng.sample(texts, len(texts))
    if rng.random() < 0.65 or strategy == "only_second":
        # The row that is not cut must leave room, and a stride less than what is left: short on purpose.
        length = rng.choice([rng.randrange(40, 64), rng.randrange(40, 64), 128])
        stride = rng.choice([0, 0, 1, 2, rng.randrange(8)])
        drawn |= {"strategy": strategy, "length": length, "stride": stride, "side": rng.choice(["left", "right"])}
        drawn["overflow"] = rng.random() < 0.5
        if strategy == "only_first" and "pairs" in drawn:
            drawn["pairs"] = [text[:5] for text in drawn["pairs"]]
    if rng.random() < 0.4:
        drawn["padding"] = rng.choice(["longest", "max_length"])
        drawn["pad_side"], drawn["multiple"] = rng.choice(["left", "right"]), rng.choice([None, None, 8, 13])
        if drawn["padding"] == "max_length" and "length" not in drawn:
            drawn["padding"] = "longest"
    return drawn


@contextmanager
def oracle_options(theirs: Any, drawn: dict[str, Any]) -> Iterator[None]:
    """Truncation and padding of the reference, which are state there."""
    if "length" in drawn:
        theirs.enable_truncation(
            drawn["length"], stride=drawn["stride"], strategy=drawn["strategy"], direction=drawn["side"]
        )
    if "padding" in drawn:
        theirs.enable_padding(
            direction=drawn["pad_side"], pad_id=0, pad_token="[PAD]", pad_to_multiple_of=drawn["multiple"],
            length=drawn["length"] if drawn["padding"] == "max_length" else None,
        )  # fmt: skip
    try:
        yield
    finally:
        theirs.no_truncation()
        theirs.no_padding()


def _uncut(texts: list[str], drawn: dict[str, Any]) -> list[str]:
    """Texts that nothing truncates below the length must be short (only_second with long first texts)."""
    return [text[:5] for text in texts] if drawn.get("strategy") == "only_second" else texts


def oracle_padded(theirs: Any, texts: list[str], drawn: dict[str, Any]) -> list[Row]:
    """(sample, ids, type ids, offsets, word ids, special mask, sequence ids, attention) of every row."""
    texts, pairs = _uncut(texts, drawn), drawn.get("pairs")
    inputs: list[Any] = [text.split(" ") for text in texts] if drawn.get("words") else texts
    if pairs is not None:
        seconds = [text.split(" ") for text in pairs] if drawn.get("words") else pairs
        inputs = list(zip(inputs, seconds, strict=True))
    encodings = theirs.encode_batch(
        inputs, is_pretokenized=drawn.get("words", False), add_special_tokens=drawn.get("specials", True)
    )
    return [
        (i, x.ids, x.type_ids, x.offsets, x.word_ids, x.special_tokens_mask, x.sequence_ids, x.attention_mask)
        for i, e in enumerate(encodings)
        for x in [e, *(e.overflowing if drawn.get("overflow") else [])]
    ]


def our_padded(ours: smhf.Tokenizer, texts: list[str], drawn: dict[str, Any]) -> list[Row]:
    """The same of ours."""
    texts, pairs = _uncut(texts, drawn), drawn.get("pairs")
    options: dict[str, Any] = {"add_special_tokens": drawn.get("specials", True), "details": True}
    rows: list[Any] = list(texts)
    if drawn.get("words"):
        options["is_split_into_words"] = True
        rows = [text.split(" ") for text in texts]
        pairs = None if pairs is None else [text.split(" ") for text in pairs]
    if "length" in drawn:
        options |= {
            "truncation": drawn["strategy"], "max_length": drawn["length"], "stride": drawn["stride"],
            "truncation_side": drawn["side"], "return_overflowing_tokens": drawn["overflow"],
        }  # fmt: skip
    if "padding" not in drawn:
        return [(*row, [1] * len(row[1])) for row in our_rows(ours(rows, pairs, **options))]
    enc = ours(
        rows, pairs, padding=drawn["padding"], padding_side=drawn["pad_side"], pad_to_multiple_of=drawn["multiple"],
        **options,
    )  # fmt: skip
    columns = [
        array.tolist()
        for array in (
            enc.overflow_to_sample_mapping, enc.input_ids, enc.token_type_ids, enc.offsets, enc.word_ids,
            enc.special_tokens_mask, enc.sequence_ids, enc.attention_mask,
        )
    ]  # fmt: skip
    return [
        (sample, ids, types, [tuple(pair) for pair in offsets], [None if w < 0 else w for w in words], special,
         [None if s < 0 else s for s in sequence], attention)
        for sample, ids, types, offsets, words, special, sequence, attention in zip(*columns, strict=True)
    ]  # fmt: skip


def our_rows(enc: smhf.Encoding) -> list[Row]:
    """(sample, ids, type ids, offsets, word ids, special mask, sequence ids) of every unpadded row."""
    cu = enc.packed()[1]
    fields = {
        name: enc.packed_field(name)
        for name in ("ids", "type_ids", "offsets", "word_ids", "special_mask", "sequence_ids")
    }
    flat = {name: array.tolist() for name, array in fields.items()}
    sample = enc.packed_field("sample").tolist()
    rows = []
    for r in range(len(enc)):
        part = slice(int(cu[r]), int(cu[r + 1]))
        rows.append((
            sample[r], flat["ids"][part], flat["type_ids"][part],
            [tuple(pair) for pair in flat["offsets"][part]],
            [None if w < 0 else w for w in flat["word_ids"][part]],
            flat["special_mask"][part],
            [None if s < 0 else s for s in flat["sequence_ids"][part]],
        ))  # fmt: skip
    return rows


def oracle_rows(encodings: list[Any], overflow: bool = False) -> list[Row]:
    """The same of what the reference returned."""
    return [
        (i, x.ids, x.type_ids, x.offsets, x.word_ids, x.special_tokens_mask, x.sequence_ids)
        for i, e in enumerate(encodings)
        for x in [e, *(e.overflowing if overflow else [])]
    ]


def differences(texts: list[Any], ours: list[Row], theirs: list[Row]) -> list[str]:
    """The first few rows that differ, for the assertion's message."""
    if len(ours) != len(theirs):
        return [f"{len(ours)} rows, expected {len(theirs)}"]
    return [
        f"{texts[a[0]]!r}: {a[1:5]} expected {b[1:5]}" for a, b in zip(ours, theirs, strict=True) if a != b
    ][:5]
