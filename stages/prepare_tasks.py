"""Collect the task sets of all seeds: no prompt that SFT trains on, no near-duplicate of one."""

import argparse
import logging
from itertools import chain
from pathlib import Path

from cordel.corpus.instructions import read_written
from cordel.corpus.tasks import TaskParams, collect_tasks, item_row
from cordel.runtime.console import run_stage
from cordel.runtime.files import rounded, write_json, write_jsonl
from cordel.runtime.params import read_params

log = logging.getLogger(Path(__file__).stem)


def main() -> None:
    """Write one row an item, and what was dropped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--examples", type=Path, required=True, help="of prepare_sft")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--metrics", type=Path, required=True)
    args = parser.parse_args()
    params = read_params("tasks", TaskParams)
    trained_on = [args.examples / f"{split}.jsonl" for split in ("train", "val", "test")]
    items, report = collect_tasks(params, chain.from_iterable(map(read_written, trained_on)))
    write_jsonl(args.out, [item_row(item) for item in items])
    write_json(args.metrics, rounded(report))
    log.info("%d items of %d seeds", len(items), len(params.seeds))


if __name__ == "__main__":
    run_stage(main)
