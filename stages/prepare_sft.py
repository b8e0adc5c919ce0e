"""Read the instruction examples, drop the bad ones for a named reason, split them by prompt."""

import argparse
import logging
from pathlib import Path

from cordel.corpus.instructions import (
    SftDataParams,
    check_quality,
    read_examples,
    split_examples,
    write_examples,
)
from cordel.runtime.console import progress, run_stage
from cordel.runtime.files import new_directory, rounded, write_json
from cordel.runtime.params import read_params

log = logging.getLogger(Path(__file__).stem)


def main() -> None:
    """Write train, val and test, and the quality report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--metrics", type=Path, required=True)
    args = parser.parse_args()
    params = read_params("sft_data", SftDataParams)
    examples = progress(read_examples(params), label="read", unit="examples")
    kept, report = check_quality(examples, params)
    splits = split_examples(kept, params)
    with new_directory(args.out) as out:
        for split, members in splits.items():
            write_examples(out / f"{split}.jsonl", members)
    report |= {split: len(members) for split, members in splits.items()}
    write_json(args.metrics, rounded(report))
    log.info("kept %d of %d examples", report["kept"], report["read"])


if __name__ == "__main__":
    run_stage(main)
