"""Rank the runs, the arms and the reference lines by bits per byte on the common test text."""

import argparse
import logging
from pathlib import Path

from cordel.runtime.console import run_stage
from cordel.runtime.files import read_json, rounded, write_json

log = logging.getLogger(Path(__file__).stem)


def main() -> None:
    """Write the leaderboard, best first; a lower bound is marked with ≥ in its name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--metrics", type=Path, nargs="+", required=True, help="metrics/lm/<run>.json"
    )
    parser.add_argument("--references", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rows = []
    for path in args.metrics:
        score = read_json(path)
        if not score:  # an arm whose base is not configured
            continue
        name = path.stem if score["lossless"] else f"≥ {path.stem}"
        rows.append({"model": name, "bits_per_byte": score["bits_per_byte"], "kind": "run"})
    for name, line in read_json(args.references).items():
        rows.append({"model": name, "bits_per_byte": line["bits_per_byte"], "kind": "reference"})
    rows.sort(key=lambda row: (row["bits_per_byte"], row["model"]))
    write_json(args.out, rounded(rows))
    log.info("best: %s with %.4f bits per byte", rows[0]["model"], rows[0]["bits_per_byte"])


if __name__ == "__main__":
    run_stage(main)
