"""Assign each cluster of near-duplicate documents to train, val or test, or reserve it."""

import argparse
import logging
from collections import Counter
from pathlib import Path

from cordel.corpus.documents import count_documents, read_documents
from cordel.corpus.splits import RESERVED, SPLITS, SplitParams, split_documents, write_splits
from cordel.runtime.console import progress, run_stage
from cordel.runtime.files import write_json
from cordel.runtime.params import read_params

log = logging.getLogger(Path(__file__).stem)


def main() -> None:
    """Write the table of ids, clusters and splits, and how many there are of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--metrics", type=Path, required=True)
    args = parser.parse_args()
    params = read_params("splits", SplitParams)
    source = args.corpus / "documents.parquet"
    total = count_documents(source)
    documents = progress(read_documents(source), label="sign", unit="documents", total=total)
    columns = split_documents(documents, params)
    write_splits(args.out, columns)
    sizes = Counter(columns["cluster"]).values()
    counts = Counter(columns["split"])
    metrics = {
        "documents": total,
        "clusters": len(sizes),
        "near_duplicates": total - len(sizes),
        "largest_cluster": max(sizes),
    } | {split: counts[split] for split in (*SPLITS, RESERVED)}
    write_json(args.metrics, metrics)
    log.info("%s", ", ".join(f"{key} {value:,}" for key, value in metrics.items()))


if __name__ == "__main__":
    run_stage(main)
