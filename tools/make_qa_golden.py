"""Write tests/golden/mirror/question_answering.json: what transformers' question-answering pipeline answers.

    python tools/make_qa_golden.py DATA_FOLDER

transformers 5 has that pipeline no more, so this runs with ``transformers<5`` (made with 4.57.1, tokenizers
0.22.1), torch, and this package.  Models and texts come from tests/support/text_models.py.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

OPTIONS: list[dict[str, object]] = [
    {},
    {"top_k": 3},
    {"top_k": 5, "handle_impossible_answer": True},
    {"handle_impossible_answer": True, "max_answer_len": 1},
    {"top_k": 4, "max_answer_len": 40, "align_to_words": False},
    {"top_k": 3, "max_seq_len": 64, "doc_stride": 20},
    {"max_seq_len": 48, "doc_stride": 0},
]


def main() -> None:
    """Ask every question under every set of options."""
    import text_models
    import transformers

    data = Path(sys.argv[1])
    vocab = data / "vocab" / "bert-base-uncased" / "vocab.txt"
    warnings.simplefilter("ignore")
    cases = []
    with tempfile.TemporaryDirectory() as scratch:
        for kind in ("distilbert", "bert"):
            folder = text_models.build(Path(scratch) / kind, vocab, kind, "question-answering")
            answer = transformers.pipeline("question-answering", model=str(folder), device="cpu")
            for options in OPTIONS:
                answers = [answer(**example, **options) for example in text_models.examples(data)]
                cases.append({"kind": kind, "options": options, "answers": answers})
    golden = {
        "magic": "smhf-golden",
        "version": 1,
        "generator": f"tools/make_qa_golden.py, transformers {transformers.__version__}",
        "cases": cases,
    }
    target = ROOT / "tests" / "golden" / "mirror" / "question_answering.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(golden, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{len(cases)} cases: {target}")


if __name__ == "__main__":
    main()
