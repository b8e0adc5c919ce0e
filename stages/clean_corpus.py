"""Clean the documents of every split by one recipe, counting what each rule dropped."""

import argparse
import logging
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from cordel.corpus.cleaning import CleaningParams, clean_text
from cordel.corpus.documents import DocumentWriter, count_documents, read_documents
from cordel.corpus.splits import RESERVED, SPLITS, read_splits
from cordel.runtime.console import progress, run_stage
from cordel.runtime.errors import ArtifactError, InputError
from cordel.runtime.files import new_directory, rounded, write_json
from cordel.runtime.params import read_params

log = logging.getLogger(Path(__file__).stem)


def main() -> None:
    """Write train, val, test and what is reserved, and the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--splits", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--metrics", type=Path, required=True)
    args = parser.parse_args()
    params = read_params(f"cleaning.{args.recipe}", CleaningParams)
    split_of = read_splits(args.splits)
    source = args.corpus / "documents.parquet"
    dropped: Counter[str] = Counter()
    read_bytes = kept_bytes = 0
    with new_directory(args.out) as out, ExitStack() as stack:
        writers = {
            split: stack.enter_context(DocumentWriter(out / f"{split}.parquet"))
            for split in (*SPLITS, RESERVED)
        }
        for document in progress(
            read_documents(source),
            label=args.recipe,
            unit="documents",
            total=count_documents(source),
        ):
            if document.id not in split_of:
                raise ArtifactError(f"{args.splits}: no document {document.id!r}; run split_corpus")
            text = clean_text(document.text, params, dropped)
            read_bytes += len(document.text.encode())
            if text is not None:
                kept_bytes += len(text.encode())
                writers[split_of[document.id]].write(replace(document, text=text))
        kept = {split: writer.count for split, writer in writers.items()}
        if not all(kept[split] for split in SPLITS):
            reasons = ", ".join(f"{key} {count:,}" for key, count in dropped.most_common())
            raise InputError(
                f"cleaning.{args.recipe} leaves {kept} documents; every split needs one "
                f"(dropped: {reasons or 'nothing'}); loosen the rule that drops most"
            )
    share = kept_bytes / read_bytes
    metrics = {
        "documents": sum(kept.values()),
        "kept": kept,
        "kept_bytes": kept_bytes,
        "kept_share": share,
        "read_bytes": read_bytes,
        "dropped": dict(sorted(dropped.items())),
    }
    write_json(args.metrics, rounded(metrics))
    log.info("%s: kept %.1f %% of the bytes", args.recipe, 100 * share)


if __name__ == "__main__":
    run_stage(main)
