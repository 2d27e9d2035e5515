"""Learning a WordPiece vocabulary against the trainer of ``tokenizers``, same texts and options, in one run.

    python benchmarks/bench_wordpiece.py [--sizes 8000 30000] [--repeat 3] [--copies 1]

Texts: the reviews and the text folder of the data (2.6 MB of seven languages).  ``--copies N`` makes N variants of
every text by numbering its words, so that there are more different words and more to read.  Medians of wall time;
"pieces" is our number of tokens for the texts over theirs (below 1: our vocabulary spells shorter).
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # before bench_tokenizer says otherwise
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import tokenizers  # noqa: E402
from bench_tokenizer import rows_of  # noqa: E402

import smhf_native as smhf  # noqa: E402
from smhf_native.tokenizer import _tokenizer  # noqa: E402

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def reference(texts: list[str], size: int) -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    made.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=size, min_frequency=2, limit_alphabet=1000, special_tokens=SPECIALS, show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    return made


def timed(call: Callable[[], object], repeat: int) -> tuple[float, object]:
    seconds, result = [], None
    for _ in range(repeat):
        start = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=[8000, 30000])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--copies", type=int, default=1)
    args = parser.parse_args()
    base = rows_of("reviews/*.csv") + rows_of("text/*.csv") + rows_of("text/*.tsv")
    texts = base + [text.replace("e", f"e{n}") for n in range(1, args.copies) for text in base]
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    print(f"{len(texts)} texts, {megabytes:.1f} MB, tokenizers {tokenizers.__version__}, {_tokenizer.tier()}")
    for size in args.sizes:
        rows = {}
        for threads in (1, 2):
            _tokenizer.set_threads(threads)
            rows[threads], ours = timed(lambda size=size: smhf.train_wordpiece(texts, size), args.repeat)
        peer, theirs = timed(lambda size=size: reference(texts, size), args.repeat)
        pieces = len(ours(texts, add_special_tokens=False).packed()[0])
        expected = sum(len(e.ids) for e in theirs.encode_batch(texts, add_special_tokens=False))
        print(
            f"{size} tokens ({ours.vocab_size} and {theirs.get_vocab_size()}): ours {rows[1]:.3f} s with one thread, "
            f"{rows[2]:.3f} s with two, theirs {peer:.3f} s (all cores): {peer / rows[1]:.1f} and "
            f"{peer / rows[2]:.1f} times; pieces {pieces / expected:.5f}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
