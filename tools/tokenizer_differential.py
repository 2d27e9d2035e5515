"""Ours against ``tokenizers`` over many strings: 0 differences expected.

    python tools/tokenizer_differential.py [--strings 1000000] [--seed 1] [--vocab NAME ...]
        [--slice I/N] [--journal FILE] [--seconds N] [--only scalars|data|fuzz ...]

For each vocabulary: every Unicode scalar value in four contexts; every row of the real texts under several draws
of options; seeded fuzz strings (random code points, fragments, mutated rows of real text, long words, control
characters, special tokens inside text, empty ones).  Work comes in blocks, and each block draws its own texts
and options (pairs, words, truncation, stride, sides, padding) from (seed, vocabulary, kind, number), so any block
can be run alone: ``--slice 0/4`` takes every fourth of them, and with ``--journal`` finished blocks are noted and
left out when the same build runs again.  Ids, type ids, offsets, word ids, sequence ids, special and attention
masks are compared, padding and overflow rows too.  Exit status 1 when a row differs; the first ones are printed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
ROOT = Path(__file__).resolve().parent.parent
for _folder in (ROOT, ROOT / "tests" / "support", ROOT / "benchmarks"):
    sys.path.insert(0, str(_folder))

import tokenizers  # noqa: E402
from bench_tokenizer import DATA, rows_of  # noqa: E402
from tokenizer_rows import (  # noqa: E402
    differences,
    draw_options,
    fuzz_text,
    mutated,
    oracle_options,
    oracle_padded,
    our_padded,
)
from tokenizers.implementations import BertWordPieceTokenizer  # noqa: E402

import smhf_native as smhf  # noqa: E402

VOCABULARIES = ("uncased", "cased", "multilingual-cased")
KINDS = ("scalars", "data", "fuzz")
BLOCK = 2000  # strings
SCALARS = 8192  # scalar values of a block
DATA_DRAWS = 6  # how often the real texts come, each time under other options


def load(name: str) -> tuple[Any, smhf.Tokenizer]:
    """(reference, ours)."""
    folder = DATA / "vocab" / f"bert-base-{name}"
    if name == "cased":  # only a vocab.txt exists
        made = BertWordPieceTokenizer.from_file(str(folder / "vocab.txt"), lowercase=False)
        return made._tokenizer, smhf.Tokenizer.from_pretrained(folder / "vocab.txt", do_lower_case=False)
    path = folder / "tokenizer.json"
    return tokenizers.Tokenizer.from_file(str(path)), smhf.Tokenizer.from_pretrained(path)


def build_name() -> str:
    """Name of what is tested: a hash of the compiled library and of the reference's version."""
    library = Path(smhf.__file__).parent / "_lib" / "libsmhf.so"
    text = library.read_bytes() + tokenizers.__version__.encode()
    return hashlib.sha256(text).hexdigest()[:12]


def compare(theirs: Any, ours: smhf.Tokenizer, texts: list[str], rng: random.Random | None) -> list[str]:
    """Differences of one block under one draw of options (None: none)."""
    drawn = draw_options(rng, texts) if rng is not None else {}
    with oracle_options(theirs, drawn):
        expected = oracle_padded(theirs, texts, drawn)
    found = differences(texts, our_padded(ours, texts, drawn), expected)
    shown = {name: value for name, value in drawn.items() if name not in ("pairs", "words")}
    return [f"{line} under {shown}" for line in found]


def blocks(kind: str, strings: int, real: list[str]) -> int:
    """How many blocks a kind has."""
    if kind == "scalars":
        return -(-0x110000 // SCALARS)
    return -(-len(real) // BLOCK) * DATA_DRAWS if kind == "data" else -(-strings // BLOCK)


def block_of(kind: str, number: int, rng: random.Random, real: list[str]) -> list[str]:
    """Texts of one block."""
    if kind == "scalars":
        values = [c for c in range(number * SCALARS, (number + 1) * SCALARS) if not 0xD800 <= c < 0xE000]
        return ["".join(f"a{chr(c)}b {chr(c)} {chr(c)}x x{chr(c)} " for c in values[at : at + 64])
                for at in range(0, len(values), 64)]  # fmt: skip
    if kind == "data":
        parts = -(-len(real) // BLOCK)
        return real[number % parts * BLOCK :][:BLOCK]
    return [mutated(rng, real) if rng.random() < 0.4 else fuzz_text(rng) for _ in range(BLOCK)]


class Journal:
    """Finished blocks, one JSON object a line; those of another build do not count."""

    def __init__(self, path: Path | None, build: str) -> None:
        self.path, self.build = path, build
        self.lines: dict[tuple[Any, ...], dict[str, Any]] = {}
        if path is not None and path.exists():
            for text in path.read_text(encoding="utf-8").splitlines():
                line = json.loads(text)
                if line["build"] == build:
                    self.lines[self.key(**line)] = line

    @staticmethod
    def key(vocab: str, kind: str, seed: int, block: int, **_: Any) -> tuple[Any, ...]:
        """Name a block."""
        return vocab, kind, seed, block

    def add(self, **line: Any) -> None:
        """Note a finished block."""
        line["build"] = self.build
        self.lines[self.key(**line)] = line
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def of(self, vocab: str, seed: int) -> Iterator[dict[str, Any]]:
        """Finished blocks of a vocabulary."""
        return (line for line in self.lines.values() if line["vocab"] == vocab and line["seed"] == seed)


def main() -> int:
    """Run it; print counts and time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strings", type=int, default=1_000_000, help="fuzz strings for each vocabulary")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--slice", default="0/1", help="I/N: blocks whose number leaves I when divided by N")
    parser.add_argument("--journal", type=Path, help="where finished blocks are noted")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time (blocks are whole)")
    parser.add_argument("--vocab", nargs="*", default=list(VOCABULARIES), choices=VOCABULARIES)
    parser.add_argument("--only", nargs="*", default=list(KINDS), choices=KINDS)
    args = parser.parse_args()
    take, of = (int(part) for part in args.slice.split("/"))
    real = rows_of("reviews/*.csv") + rows_of("text/*.csv") + rows_of("text/*.tsv")
    journal = Journal(args.journal, build_name())
    begin, failed = time.monotonic(), 0
    for name in args.vocab:
        theirs, ours = load(name)
        for kind in args.only:
            for number in range(take, blocks(kind, args.strings, real), of):
                place = {"vocab": name, "kind": kind, "seed": args.seed, "block": number}
                if time.monotonic() - begin > args.seconds or journal.key(**place) in journal.lines:
                    continue
                rng = random.Random(f"{args.seed} {name} {kind} {number}")
                start = time.monotonic()
                texts = block_of(kind, number, rng, real)
                found = compare(theirs, ours, texts, rng if kind != "scalars" else None)
                for difference in found[:5]:
                    print(f"{name} {kind} block {number}: {difference}", flush=True)
                journal.add(
                    **place, strings=len(texts), differences=len(found),
                    seconds=round(time.monotonic() - start, 3),
                )  # fmt: skip
        done = list(journal.of(name, args.seed))
        total = {kind: sum(line["strings"] for line in done if line["kind"] == kind) for kind in KINDS}
        values = sum(SCALARS for line in done if line["kind"] == "scalars")
        wrong = sum(line["differences"] for line in done)
        failed += wrong
        print(f"{name}: {min(values, 0x110000 - 0x800)} scalar values in 4 contexts, {total['data']} rows of data, "
              f"{total['fuzz']} fuzz strings, {wrong} differences, {sum(line['seconds'] for line in done):.0f} s",
              flush=True)  # fmt: skip
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
