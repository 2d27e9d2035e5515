"""Ours against ``tokenizers`` over many strings: 0 differences expected.

    python tools/tokenizer_differential.py [--strings 1000000] [--seed 1] [--seconds N] [--vocab NAME ...]

For each vocabulary: every Unicode scalar value in four contexts, then seeded fuzz strings (random code points,
fragments, mutated rows of real text) in blocks, each block with its own draw of pairs, truncation, stride and
side.  Ids, type ids, offsets, word ids and special masks are compared, overflow rows too.  Exit status 1 when
a row differs; the first ones are printed.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
for _folder in (ROOT, ROOT / "tests" / "support", ROOT / "tests" / "python" / "tokenizer", ROOT / "benchmarks"):
    sys.path.insert(0, str(_folder))

import tokenizers  # noqa: E402
from bench_tokenizer import DATA, rows_of  # noqa: E402
from test_tokenizer_oracle import fuzz_text  # noqa: E402
from tokenizer_rows import differences, oracle_rows, our_rows  # noqa: E402
from tokenizers.implementations import BertWordPieceTokenizer  # noqa: E402

import smhf_native as smhf  # noqa: E402

VOCABULARIES = ("uncased", "cased", "multilingual-cased")
BLOCK = 2000


def load(name: str) -> tuple[Any, smhf.Tokenizer]:
    """(reference, ours)."""
    folder = DATA / "vocab" / f"bert-base-{name}"
    if name == "cased":  # only a vocab.txt exists
        made = BertWordPieceTokenizer.from_file(str(folder / "vocab.txt"), lowercase=False)
        return made._tokenizer, smhf.Tokenizer.from_pretrained(folder / "vocab.txt", do_lower_case=False)
    path = folder / "tokenizer.json"
    return tokenizers.Tokenizer.from_file(str(path)), smhf.Tokenizer.from_pretrained(path)


def mutated(rng: random.Random, rows: list[str]) -> str:
    """A row of real text with a few characters changed, doubled or cut."""
    text = list(rng.choice(rows)[:300])
    for _ in range(rng.randrange(4)):
        at = rng.randrange(len(text) + 1)
        text[at : at + rng.randrange(3)] = fuzz_text(rng)[: rng.randrange(6)]
    return "".join(text)


def compare(theirs: Any, ours: smhf.Tokenizer, texts: list[str], rng: random.Random | None) -> list[Any]:
    """Differences of one block under one draw of options."""
    pairs = rng.sample(texts, len(texts)) if rng and rng.random() < 0.4 else None
    options: dict[str, Any] = {}
    overflow = False
    if rng and rng.random() < 0.6:
        length = rng.randrange(12, 64)
        stride, side = rng.choice([0, 0, 1, 2]), rng.choice(["left", "right"])
        overflow = rng.random() < 0.3
        theirs.enable_truncation(length, stride=stride, strategy="longest_first", direction=side)
        options = {"truncation": True, "max_length": length, "stride": stride, "truncation_side": side,
                   "return_overflowing_tokens": overflow}  # fmt: skip
    try:
        inputs = texts if pairs is None else list(zip(texts, pairs, strict=True))
        expected = oracle_rows(theirs.encode_batch(inputs), overflow)
    finally:
        theirs.no_truncation()
    return list(differences(texts, our_rows(ours(texts, pairs, details=True, **options)), expected))


def main() -> int:
    """Run it; print counts and time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strings", type=int, default=1_000_000, help="fuzz strings for each vocabulary")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="of fuzzing, for each vocabulary")
    parser.add_argument("--vocab", nargs="*", default=list(VOCABULARIES))
    parser.add_argument("--skip-scalars", action="store_true")
    args = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    real = rows_of("reviews/*.csv") + rows_of("text/*.csv") + rows_of("text/*.tsv")
    failed = 0
    for name in args.vocab:
        theirs, ours = load(name)
        begin, found, scalars, strings = time.monotonic(), [], 0, 0
        if not args.skip_scalars:
            values = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
            for at in range(0, len(values), 64):
                part = "".join(f"a{chr(c)}b {chr(c)} {chr(c)}x x{chr(c)} " for c in values[at : at + 64])
                found += compare(theirs, ours, [part], None)
                scalars += len(values[at : at + 64])
        rng = random.Random(args.seed)
        fuzzed = time.monotonic()
        while strings < args.strings and time.monotonic() - fuzzed < args.seconds and len(found) < 20:
            texts = [mutated(rng, real) if rng.random() < 0.3 else fuzz_text(rng) for _ in range(BLOCK)]
            found += compare(theirs, ours, texts, rng)
            strings += BLOCK
        seconds = time.monotonic() - begin
        print(f"{name}: {scalars} scalar values, {strings} strings, {len(found)} differences, {seconds:.0f} s",
              flush=True)  # fmt: skip
        for difference in found[:5]:
            print("  ", difference)
        failed += len(found)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
