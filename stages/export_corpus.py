"""Export the corpus: a seeded sample of all documents of the source, as Parquet."""

import argparse
import logging
from pathlib import Path

from cordel.corpus.sources import CorpusParams, export_documents
from cordel.runtime.console import run_stage
from cordel.runtime.files import new_directory, write_json
from cordel.runtime.ledger import ledger
from cordel.runtime.params import read_params

log = logging.getLogger(Path(__file__).stem)  # __name__ is "__main__" under python -m


def main() -> None:
    """Write documents.parquet and meta.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", type=Path, required=True, help="corpus.path, for DVC to watch")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--ledger", type=Path, required=True)
    args = parser.parse_args()
    params = read_params("corpus", CorpusParams)
    with ledger(args.ledger, stage="export_corpus") as record, new_directory(args.out) as out:
        meta = export_documents(params, out)
        write_json(out / "meta.json", meta)
        record.update(meta)
    log.info("kept %d of %d documents", meta["documents"], meta["documents_seen"])


if __name__ == "__main__":
    run_stage(main)
