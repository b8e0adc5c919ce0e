"""Encode one dataset (recipe x tokenizer x document cap), and its two evaluation texts.

The evaluation texts are the test documents under the dataset's own recipe (``own``), and the common
test text, which is the lossless recipe's, under the recipe's normalisation alone (``common``).
"""

import argparse
import logging
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from cordel.corpus.cleaning import CleaningParams
from cordel.corpus.documents import Document, EvaluationParams, read_documents
from cordel.corpus.normalisation import normalise
from cordel.runtime.console import progress, run_stage
from cordel.runtime.files import new_directory
from cordel.runtime.params import read_params, require
from cordel.tokenizers.saved import Tokenizer, fingerprint, load_tokenizer
from cordel.tokens import Encoded, TokensMeta, write_meta, write_split

log = logging.getLogger(Path(__file__).stem)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetParams:
    """One entry of the section ``datasets``."""

    recipe: str
    tokenizer: str
    max_documents: int
    max_val_documents: int

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("max_documents", "max_val_documents"):
            value = getattr(self, name)
            require(value > 0, f"{name} is {value}, expected at least 1")


def encoded(tokenizer: Tokenizer, document: Document, text: str) -> Encoded:
    """Return the ids of ``text``, which stands for ``document``, whose bytes count."""
    ids = tokenizer.encode(text)
    return Encoded(
        id=document.id,
        ids=[*tokenizer.begin, *ids, *tokenizer.end],
        bytes=len(document.text.encode()),
        unknown_bytes=tokenizer.unknown_bytes(text) if tokenizer.unknown in ids else 0,
    )


def main() -> None:
    """Write the training tokens and the evaluation tokens."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--clean", type=Path, required=True, help="folder of the dataset's recipe")
    parser.add_argument(
        "--common", type=Path, required=True, help="test documents, lossless recipe"
    )
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--eval-out", type=Path, required=True)
    args = parser.parse_args()
    params = read_params(f"datasets.{args.dataset}", DatasetParams)
    evaluation = read_params("evaluation", EvaluationParams)
    rules = read_params(f"cleaning.{params.recipe}", CleaningParams).normalisation
    tokenizer = load_tokenizer(args.tokenizer)

    def own(split: str, limit: int) -> Iterator[Encoded]:
        documents = read_documents(args.clean / f"{split}.parquet", limit=limit)
        for document in progress(documents, label=f"{args.dataset} {split}", unit="documents"):
            yield encoded(tokenizer, document, document.text)

    exact = True

    def common() -> Iterator[Encoded]:
        nonlocal exact
        for document in read_documents(args.common, limit=evaluation.max_documents):
            text = normalise(document.text, rules)
            exact = exact and tokenizer.decode(tokenizer.encode(text)) == document.text
            yield encoded(tokenizer, document, text)

    meta = {
        "vocab_size": tokenizer.vocab_size,
        "tokenizer": params.tokenizer,
        "tokenizer_sha256": fingerprint(args.tokenizer),
        "recipe": params.recipe,
        "normalisation": asdict(rules),
        "begin": tokenizer.begin,
        "end": tokenizer.end,
        "context": tokenizer.context,
    }
    with new_directory(args.out) as out, new_directory(args.eval_out) as eval_out:
        train = write_split(out, "train", own("train", params.max_documents))
        val = write_split(out, "val", own("val", params.max_val_documents))
        write_meta(out, TokensMeta(**meta, splits={"train": train, "val": val}))
        shutil.copytree(args.tokenizer, out / "tokenizer")
        splits = {
            "own": write_split(eval_out, "own", own("test", evaluation.max_documents)),
            "common": write_split(eval_out, "common", common()),
        }
        write_meta(eval_out, TokensMeta(**meta, splits=splits, lossless=exact))
    log.info(
        "%s: %d tokens of %d documents to train on", args.dataset, train.tokens, train.documents
    )


if __name__ == "__main__":
    run_stage(main)
