"""Make tests/golden/tokenizer with the package ``tokenizers``; tests read it without that package.

    python tools/make_golden_tokenizer.py [cases] [codepoints]

``cases.json``: texts with every option drawn at random and what the reference makes of them.
``codepoints.json``: for each of 16 normalizer option sets and each plane, a hash over ids, offsets
and word ids of all scalar values, each between letters and alone.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

TARGET = Path(__file__).resolve().parent.parent / "tests" / "golden" / "tokenizer"
HEAD = {"magic": "smhf-golden", "version": "1",
        "generator": f"tools/make_golden_tokenizer.py, tokenizers {tokenizers.__version__}"}  # fmt: skip
# The vocabulary as a rule, so that no vocabulary need be stored.
RULE = {
    "words": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "un", "##aff", "##able", "token",
              "##ization", "##ing", "work", "hello", "world", "caf", "##é", "école", "ecole", "12", "##34"],
    "chars": [[0, 0x30000]],
    "continued": [[0, 0x10000]],
}  # fmt: skip

EDGES = [
    "", " ", "\x01\x02", "a\x00b\ufffdc", "a\x0bb\x0cc\x85d\x1ce", "a\xa0b\u3000c\u2028d",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467", "a\ufe0f 1\ufe0f\u20e3", "\U0001f1e9\U0001f1ea",
    "x\U000e0067\U000e007fy", "\ue000\U000f0000\U00100000", "\ufeffab\ufeffc",
    "a\u200fb\u200ec\u061cd\u2066e\u2069", "co\xadop", "x" * 99, "x" * 100, "x" * 101, "é" * 100,
    "é" * 101, "ก" * 101, "\U00010400" * 101, "가" * 33, "가" * 34, "각" * 33, "각" * 34, "가" * 50,
    "e" + "\u0301" * 101, "가각\u1100\u1161\u11a8", "ก\u0e31\u0e33\u0e48", "क\u093c\u094d\u0958",
    "\u0f71\u0f72\u0f73\u0f74\u0f75\u0f81", "ខ្មែរ", "မြန်\u103aမာ", "\u0344\u0340\u0341 a\u0344",
    "\U0001d15e\U0001d15f\U0001d1c0 \U0001d165\U0001d16d", "a\u302e\u302f\u0301b",
    "\u08d4\u0301\u08d5", "\u0301\u1b44\u0334\u05b0a", "a\u1b44\u0327\u1bf2\u0301\u302e", "\u1734",
    "\U00011938", "\U0002b820\U0002b91f\U0002b920\U0002ceaf\U0002ceb0", "\uf900\ufa0e\U0002f800",
    "\u0130İi\u0307 ΑΣ ὈΔΥΣΣΕΎΣ \u01c5 \ufb01 \u1e9e \u212a\u212b\u2126", "！ＡＢ", "\u166d\u2e43",
    "[CLS][SEP]", "[CLS", "[UNK][UNK]", "[MASK].", "[cls] [ CLS ]", "## ##a a##b", "\r\n\ttext\r\n",
    "\ufffe\uffff\U0010ffff", "don't we've I'm they're do not", "中文字混abc排", "naïve café ÉCOLE",
    "unaffable tokenization, working!", "a" * 500,
]  # fmt: skip
FRAGMENTS = [
    *EDGES[:8], "[SEP]", "[MASK]", "the", "un", "aff", "able", "working", "Hello", " ", "  ", "é", "e\u0301",
    "\u1b44", "\u0334", "\u302e", "中", "가", "!", "<x>", "New York", "\u0130", "12", "1234",
]  # fmt: skip


def scalars(ranges: list[list[int]]) -> list[int]:
    """Scalar values of half-open ranges."""
    return [c for low, high in ranges for c in range(low, high) if not 0xD800 <= c < 0xE000]


def vocabulary() -> dict[str, int]:
    """The vocabulary that RULE describes."""
    tokens = [*RULE["words"], *map(chr, scalars(RULE["chars"])),
              *("##" + chr(c) for c in scalars(RULE["continued"]))]  # fmt: skip
    vocab: dict[str, int] = {}
    for token in tokens:
        vocab.setdefault(token, len(vocab))
    return vocab


def reference(vocab: dict[str, int], options: dict[str, Any], added: list[dict[str, Any]]) -> Tokenizer:
    """A BERT tokenizer of the reference library."""
    made = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(**options)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece(prefix="##")
    made.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    made.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    made.add_tokens([AddedToken(**token) for token in added])
    return made


def options_of(number: int) -> dict[str, bool]:
    """One of 16 option sets of BertNormalizer."""
    names = ("clean_text", "handle_chinese_chars", "strip_accents", "lowercase")
    return {name: bool(number >> bit & 1) for bit, name in enumerate(names)}


def codepoint_hashes(vocab: dict[str, int]) -> dict[str, list[str]]:
    """Hashes per option set and plane; 64 code points a text."""
    result = {}
    for number in range(16):
        tokenizer = reference(vocab, options_of(number), [])
        planes = []
        for plane in range(17):
            codes = scalars([[plane << 16, (plane + 1) << 16]])
            texts = ["".join(f"a{chr(c)}b {chr(c)} " for c in codes[at : at + 64])
                     for at in range(0, len(codes), 64)]  # fmt: skip
            digest = hashlib.sha256()
            for e in tokenizer.encode_batch(texts, add_special_tokens=False):
                digest.update(np.asarray(e.ids, dtype="<i4").tobytes())
                digest.update(np.asarray(e.offsets, dtype="<i4").tobytes())
                digest.update(np.asarray(e.word_ids, dtype="<i4").tobytes())
            planes.append(digest.hexdigest()[:16])
        result[str(number)] = planes
        print(number, flush=True)
    return result


def row(e: Any, sample: int) -> list[Any]:
    """One row as the tests compare it."""
    minus = [[-1 if x is None else x for x in values] for values in (e.word_ids, e.sequence_ids)]
    return [sample, e.ids, e.type_ids, e.attention_mask, [x for pair in e.offsets for x in pair], *minus,
            e.special_tokens_mask]  # fmt: skip


def make_case(rng: random.Random, vocab: dict[str, int], number: int) -> dict[str, Any]:
    """One configuration with a few texts."""
    options = options_of(15 if rng.random() < 0.4 else rng.randrange(16))
    added = [
        {"content": content, **{flag: rng.random() < 0.4 for flag in
                                ("single_word", "lstrip", "rstrip", "normalized", "special")}}
        for content in rng.sample(["<x>", "New York", "un", "中", "école"], rng.choice([0, 0, 1, 2]))
    ]  # fmt: skip
    tokenizer = reference(vocab, options, added)

    def text() -> str:
        if rng.random() < 0.4:
            return rng.choice([edge for edge in EDGES if len(edge) < 60])
        return "".join(rng.choice(FRAGMENTS) for _ in range(rng.randrange(10)))

    texts = [text() for _ in range(5)]
    pairs = [text() for _ in range(5)] if rng.random() < 0.4 else None
    if number < 12:
        texts, pairs = EDGES[number * 5 : number * 5 + 5], None
    case: dict[str, Any] = {"options": options, "added": added, "texts": texts, "pairs": pairs,
                            "add_special_tokens": rng.random() < 0.8}  # fmt: skip
    specials = (3 if pairs else 2) if case["add_special_tokens"] else 0
    if rng.random() < 0.6:
        max_length = rng.randrange(6, 16)
        stride = rng.choice([0, 0, 1]) if max_length - specials > 4 else 0
        truncation = {"max_length": max_length, "stride": stride, "strategy": "longest_first",
                      "direction": rng.choice(["right", "left"])}  # fmt: skip
        tokenizer.enable_truncation(**truncation)
        case["truncation"] = truncation
    if rng.random() < 0.5:
        padding = {"direction": rng.choice(["right", "left"]), "length": rng.choice([None, 16]),
                   "pad_to_multiple_of": rng.choice([None, 8])}  # fmt: skip
        tokenizer.enable_padding(pad_id=0, pad_token="[PAD]", **padding)
        case["padding"] = padding
    inputs = texts if pairs is None else list(zip(texts, pairs, strict=True))
    encoded = tokenizer.encode_batch(inputs, add_special_tokens=case["add_special_tokens"])
    case["rows"] = [row(part, i) for i, e in enumerate(encoded) for part in [e, *e.overflowing]]
    case["decoded"] = [tokenizer.decode(e.ids, skip_special_tokens=bool(i % 2)) for i, e in enumerate(encoded)]
    return case


def main() -> None:
    """Write both files."""
    TARGET.mkdir(parents=True, exist_ok=True)
    rng = random.Random(20260101)
    vocab = vocabulary()
    cases = [make_case(rng, vocab, number) for number in range(60)]
    text = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    head = json.dumps({**HEAD, "vocabulary": RULE})[:-1]
    if "cases" in (sys.argv[1:] or "cases"):
        (TARGET / "cases.json").write_text(f'{head}, "cases": [\n{text}\n]}}\n')
    if "codepoints" not in (sys.argv[1:] or "codepoints"):
        return
    hashes = {**HEAD, "vocabulary": RULE, "options": "bits 0-3: clean_text, handle_chinese_chars, strip_accents, "
              "lowercase", "planes": codepoint_hashes(vocab)}  # fmt: skip
    (TARGET / "codepoints.json").write_text(json.dumps(hashes, indent=1) + "\n")


if __name__ == "__main__":
    main()
