"""Export the corpus: a seeded sample of all documents of the source, as Parquet.

An interrupted export goes on where it was.
"""

import argparse
import logging
from dataclasses import asdict
from pathlib import Path

from cordel.corpus.sources import (
    CorpusParams,
    export_documents,
    resolve_revision,
    source_state,
)
from cordel.runtime.console import run_stage
from cordel.runtime.files import new_directory, write_json
from cordel.runtime.ledger import ledger
from cordel.runtime.params import read_params
from cordel.runtime.unfinished import checkpoint_folder, fingerprint

log = logging.getLogger(Path(__file__).stem)  # __name__ is "__main__" under python -m
SOURCES = [
    Path(__file__).resolve().parent.parent / "src" / "cordel" / "corpus" / f"{name}.py"
    for name in ("documents", "grammar", "sample", "sources")
]  # what the sample depends on


def main() -> None:
    """Write documents.parquet and meta.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", type=Path, required=True, help="corpus.path, for DVC to watch")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--ledger", type=Path, required=True)
    args = parser.parse_args()
    params = read_params("corpus", CorpusParams)
    revision = resolve_revision(params.hub) if params.source == "hf" else ""
    key = fingerprint(asdict(params), source_state(params, revision), files=SOURCES)
    with (
        checkpoint_folder("export_corpus", "corpus", key) as parts,
        ledger(args.ledger, stage="export_corpus", pending=parts / "attempts.json") as record,
        new_directory(args.out) as out,
    ):
        meta = export_documents(params, out, revision=revision, parts=parts)
        write_json(out / "meta.json", meta)
        record.update(meta)
    log.info("kept %d of %d documents", meta["documents"], meta["documents_seen"])


if __name__ == "__main__":
    run_stage(main)
