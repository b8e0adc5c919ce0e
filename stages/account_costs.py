"""What everything cost: hours, money, tokens, energy, and what the cache saved."""

import argparse
import logging
from pathlib import Path

from cordel.costs import CostParams, account
from cordel.runtime.console import duration, run_stage
from cordel.runtime.errors import ArtifactError
from cordel.runtime.files import read_json, rounded, write_json
from cordel.runtime.hardware import started_by_dvc_at
from cordel.runtime.params import read_params
from cordel.sizing import sizes

log = logging.getLogger(Path(__file__).stem)


def main() -> None:
    """Write metrics/costs.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ledgers", type=Path, nargs="+", required=True)
    parser.add_argument("--models", type=Path, nargs="+", required=True, help="trained runs")
    parser.add_argument("--metrics", type=Path, required=True)
    args = parser.parse_args()
    params = read_params("costs", CostParams)
    ledgers = {}
    for path in args.ledgers:
        attempts = read_json(path, kind=list)
        if attempts:  # an arm whose base is not configured cost nothing
            ledgers[attempts[-1]["stage"]] = attempts
    for folder in args.models:
        stage = f"train_lm@{folder.name}"
        if stage not in ledgers:
            raise ArtifactError(f"{folder}: none of the ledgers is of {stage}; run dvc repro")
        attempt = ledgers[stage][-1]
        attempt["model_flops"] = training_flops_of(folder, attempt["tokens"]["processed"])
    costs = account(ledgers, params, repro_started_at=started_by_dvc_at())
    write_json(args.metrics, rounded(costs))
    total = costs["total"]
    log.info("%d stages, %s", total["stages"], duration(3600 * total["hours"]))


def training_flops_of(folder: Path, tokens: int) -> int:
    """Return the FLOPs of training a run on ``tokens``: forward, and twice that backward."""
    config = read_json(folder / "config.json")
    context = config["context_length"]
    run = sizes(
        config["architecture"],
        config["model"],
        vocab_size=config["vocab_size"],
        context_length=context,
    )
    return 3 * run.forward_flops(context) * tokens


if __name__ == "__main__":
    run_stage(main)
