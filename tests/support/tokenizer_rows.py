"""Encodings of ours and of the reference as equal tuples."""

from __future__ import annotations

from typing import Any

import smhf_native as smhf

Row = tuple[Any, ...]


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
