"""Comparison with stored results of the package ``tokenizers``, without that package."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import smhf_native as smhf


def scalars(ranges: list[list[int]]) -> list[int]:
    return [c for low, high in ranges for c in range(low, high) if not 0xD800 <= c < 0xE000]


def load(root: Path, name: str) -> tuple[dict[str, Any], list[str]]:
    """A golden file and the vocabulary that its rule describes."""
    data = json.loads((root / "tests" / "golden" / "tokenizer" / name).read_text())
    assert (data["magic"], data["version"]) == ("smhf-golden", "1")
    rule = data["vocabulary"]
    tokens = [*rule["words"], *map(chr, scalars(rule["chars"])), *("##" + chr(c) for c in scalars(rule["continued"]))]
    return data, list(dict.fromkeys(tokens))


def make(tokens: list[str], options: dict[str, bool]) -> smhf.Tokenizer:
    """A tokenizer under one option set; clean_text has no keyword in from_vocab."""
    from smhf_native.tokenizer import _tokenizer

    return smhf.Tokenizer(
        _tokenizer.from_tokens(
            tokens, do_lower_case=options["lowercase"], strip_accents=options["strip_accents"],
            tokenize_chinese_chars=options["handle_chinese_chars"], clean_text=options["clean_text"],
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def plane_texts() -> list[list[str]]:
    """Per plane, texts of 64 code points each: ``aXb X ``."""
    planes = []
    for plane in range(17):
        codes = scalars([[plane << 16, (plane + 1) << 16]])
        pieces = [f"a{chr(c)}b {chr(c)} " for c in codes]
        planes.append(["".join(pieces[at : at + 64]) for at in range(0, len(codes), 64)])
    return planes


def test_every_scalar_value_under_every_option_set(repo_root: Path, plane_texts: list[list[str]]) -> None:
    data, tokens = load(repo_root, "codepoints.json")
    names = ("clean_text", "handle_chinese_chars", "strip_accents", "lowercase")
    wrong = []
    for number in range(16):
        tokenizer = make(tokens, {name: bool(number >> bit & 1) for bit, name in enumerate(names)})
        for plane, texts in enumerate(plane_texts):
            enc = tokenizer(texts, add_special_tokens=False, details=True)
            ids, cu = enc.packed()
            offsets, words = enc.packed_field("offsets"), enc.packed_field("word_ids")
            digest = hashlib.sha256()
            for begin, end in zip(cu[:-1].tolist(), cu[1:].tolist(), strict=True):
                digest.update(ids[begin:end].tobytes())
                digest.update(offsets[begin:end].tobytes())
                digest.update(words[begin:end].tobytes())
            if digest.hexdigest()[:16] != data["planes"][str(number)][plane]:
                wrong.append((number, plane))
    assert wrong == []


def test_stored_cases(repo_root: Path) -> None:
    data, tokens = load(repo_root, "cases.json")
    made: dict[str, smhf.Tokenizer] = {}
    rows = 0
    for case in data["cases"]:
        key = json.dumps(case["options"])
        if key not in made:
            made[key] = make(tokens, case["options"])
        tokenizer = made[key]
        if case["added"]:
            tokenizer = tokenizer.with_tokens(smhf.tokenizer.AddedToken(**added) for added in case["added"])
        truncation, padding = case.get("truncation"), case.get("padding")
        options: dict[str, Any] = {}
        if truncation:
            options = {
                "truncation": truncation["strategy"], "max_length": truncation["max_length"],
                "stride": truncation["stride"], "truncation_side": truncation["direction"],
                "return_overflowing_tokens": True,
            }  # fmt: skip
        enc = tokenizer(
            case["texts"], case["pairs"], add_special_tokens=case["add_special_tokens"], padding=False,
            details=True, **options,
        )  # fmt: skip
        expected = case["rows"]
        main = np.flatnonzero(np.diff(enc.overflow_to_sample_mapping, prepend=-1))
        width = (padding["length"] or int(enc.lengths[main].max())) if padding else None
        if padding and padding["pad_to_multiple_of"]:
            width = -(-width // padding["pad_to_multiple_of"]) * padding["pad_to_multiple_of"]
        flat = {n: enc.packed_field(n).tolist() for n in
                ("ids", "type_ids", "offsets", "word_ids", "sequence_ids", "special_mask")}  # fmt: skip
        cu = enc.packed()[1].tolist()
        assert len(enc) == len(expected)
        for r, want in enumerate(expected):
            part = slice(cu[r], cu[r + 1])
            count = cu[r + 1] - cu[r]
            spans = [x for pair in flat["offsets"][part] for x in pair]
            got = [flat["ids"][part], flat["type_ids"][part], [1] * count, spans, flat["word_ids"][part],
                   flat["sequence_ids"][part], flat["special_mask"][part]]  # fmt: skip
            if padding:
                missing = max(0, width - count)
                for values, pad, per_token in zip(got, (0, 0, 0, 0, -1, -1, 1), (1, 1, 1, 2, 1, 1, 1), strict=True):
                    fill = [pad] * missing * per_token
                    values[:] = fill + values if padding["direction"] == "left" else values + fill
            sample = int(enc.overflow_to_sample_mapping[r])
            assert [sample, *got] == want, (case["texts"][sample], case["options"])
            rows += 1
        for i, r in enumerate(main):
            ids = expected[int(r)][1]
            assert tokenizer.decode(ids, skip_special_tokens=bool(i % 2)) == case["decoded"][i]
    assert rows > 300
