"""Score the reference lines on the common test text: compressors, uniform, Kneser-Ney n-grams."""

import argparse
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cordel.corpus.documents import EvaluationParams, read_documents
from cordel.evaluation.references import ReferenceParams, compressed_bits_per_byte
from cordel.kneser_ney import KneserNey
from cordel.runtime.console import progress, run_stage
from cordel.runtime.files import rounded, write_json
from cordel.runtime.ledger import ledger
from cordel.runtime.params import read_params
from cordel.tokenizers.char import SEPARATOR, CharTokenizer
from cordel.tokenizers.saved import Tokenizer, load_tokenizer

log = logging.getLogger(Path(__file__).stem)


def ngram_line(
    tokenizer: Tokenizer, order: int, train: Callable[[], Iterator[str]], test: list[str]
) -> dict[str, Any]:
    """Return the bits per byte of an n-gram over ``tokenizer``, trained on ``train``."""

    def encoded(texts: Iterator[str]) -> Iterator[np.ndarray]:
        for text in texts:
            yield np.asarray(tokenizer.encode(text) + tokenizer.end, dtype=np.int64)

    begin = tokenizer.begin[0] if tokenizer.begin else tokenizer.vocab_size
    vocab_size = max(tokenizer.vocab_size, begin + 1)
    model = KneserNey(order, vocab_size, begin=begin).fit(encoded(train()))
    nats = sum(model.nats(ids) for ids in encoded(iter(test)))
    size = sum(len(text.encode()) for text in test)
    hidden = sum(tokenizer.unknown_bytes(text) for text in test)
    return {
        "bits_per_byte": (nats + hidden * math.log(256)) / (math.log(2) * size),
        "order": order,
        "unk_bytes": hidden,
        "vocab_size": tokenizer.vocab_size,
    }


def main() -> None:
    """Write metrics/lm/references.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clean", type=Path, required=True, help="folder of the lossless recipe")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--metrics", type=Path, required=True)
    parser.add_argument("--ledger", type=Path, required=True)
    args = parser.parse_args()
    params = read_params("references", ReferenceParams)
    limit = read_params("evaluation", EvaluationParams).max_documents
    test = [d.text for d in read_documents(args.clean / "test.parquet", limit=limit)]

    def train() -> Iterator[str]:
        documents = read_documents(args.clean / "train.parquet")
        return (d.text for d in progress(documents, label="n-gram", unit="documents"))

    with ledger(args.ledger, stage="score_references"):
        counts: Counter[str] = Counter()
        for text in train():
            counts.update(text)
        counts[SEPARATOR[0]] += 1
        common = sorted(c for c, _ in counts.most_common(params.char_vocab_size - 1))
        characters = CharTokenizer("".join(sorted({*common, "~", "\n"})))
        lines = {
            name: {"bits_per_byte": bits}
            for name, bits in compressed_bits_per_byte("\n\n".join(test).encode()).items()
        }
        lines["uniform"] = {"bits_per_byte": 8.0}
        lines["kneser_ney_char"] = ngram_line(characters, params.char_order, train, test)
        subwords = load_tokenizer(args.tokenizer)
        lines["kneser_ney_subword"] = ngram_line(subwords, params.subword_order, train, test)
    write_json(args.metrics, rounded(lines))
    log.info("%s", ", ".join(f"{k} {v['bits_per_byte']:.3f}" for k, v in lines.items()))


if __name__ == "__main__":
    run_stage(main)
