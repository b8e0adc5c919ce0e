"""Choose and encode the documents of continued pretraining, and those that judge it."""

import argparse
import logging
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cordel.adaptation.chat import load_chat
from cordel.adaptation.corpus import EncodedWriter, encoded
from cordel.corpus.documents import read_documents
from cordel.corpus.splits import place_of, read_clusters
from cordel.runtime.console import progress, run_stage
from cordel.runtime.errors import InputError
from cordel.runtime.files import new_directory, write_json
from cordel.runtime.params import read_params, require

log = logging.getLogger(Path(__file__).stem)


@dataclass(frozen=True, slots=True, kw_only=True)
class CptDataParams:
    """The section ``cpt_data`` of params.yaml."""

    documents: Literal["reserved", "train"]  # `reserved`: what no run from scratch has seen
    max_documents: int
    evaluation: float  # share of the clusters of near-duplicates
    seed: int

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(
            self.max_documents > 1, f"max_documents is {self.max_documents}, expected at least 2"
        )
        require(0 < self.evaluation < 1, f"evaluation is {self.evaluation}, expected 0 < x < 1")


def main() -> None:
    """Write train and evaluation documents as ids of the base's tokenizer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clean", type=Path, required=True)
    parser.add_argument("--splits", type=Path, required=True)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--metrics", type=Path, required=True)
    args = parser.parse_args()
    params = read_params("cpt_data", CptDataParams)
    chat = load_chat(args.base)
    cluster_of = read_clusters(args.splits)
    source = args.clean / f"{params.documents}.parquet"
    documents = read_documents(source, limit=params.max_documents)
    with (
        new_directory(args.out) as out,
        closing(EncodedWriter(out / "train.parquet")) as train,
        closing(EncodedWriter(out / "evaluation.parquet")) as evaluation,
    ):
        for document in encoded(chat, progress(documents, label="encode", unit="documents")):
            # Whole clusters, so that no copy of an evaluation document is trained on.
            place = place_of(cluster_of[document.id], params.seed)
            (evaluation if place < params.evaluation else train).write(document)
        if not train.documents or not evaluation.documents:
            raise InputError(
                f"{source}: {train.documents} documents to train on and {evaluation.documents} to "
                "judge by; set splits.reserved_sources, cpt_data.documents or a larger "
                "cpt_data.max_documents"
            )
    metrics = {
        name: {"documents": writer.documents, "tokens": writer.tokens}
        for name, writer in (("train", train), ("evaluation", evaluation))
    }
    write_json(args.metrics, metrics)
    log.info("%s tokens to train on, %s to judge by", train.tokens, evaluation.tokens)


if __name__ == "__main__":
    run_stage(main)
