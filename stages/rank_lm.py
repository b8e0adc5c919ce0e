"""Rank the runs, the arms and the reference lines by bits per byte on the common test text."""

import argparse
import logging
from pathlib import Path
from typing import Any

from cordel.evaluation.items import shared_documents
from cordel.evaluation.significance import ResamplingParams, evidence, holm, interval
from cordel.runtime.console import run_stage
from cordel.runtime.errors import ArtifactError
from cordel.runtime.files import read_json, read_jsonl, rounded, write_json
from cordel.runtime.params import read_params

log = logging.getLogger(Path(__file__).stem)


def main() -> None:
    """Write the leaderboard, best first; a lower bound is marked with ≥ in its name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--scores", type=Path, nargs="+", required=True, help="metrics/lm/<run>.json"
    )
    parser.add_argument(
        "--items", type=Path, nargs="+", required=True, help="metrics/items/<run>.jsonl"
    )
    parser.add_argument("--references", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--metrics", type=Path, required=True)
    args = parser.parse_args()
    params = read_params("resampling", ResamplingParams)
    # The score of an arm whose base is not configured is empty.
    scores = {path.stem: score for path in args.scores if (score := read_json(path))}
    items = {path.stem: list(read_jsonl(path)) for path in args.items if path.stem in scores}
    found = compare(scores, items, params) if scores else {}
    write_json(args.metrics, rounded(found))
    rows = [
        {"model": name if score["lossless"] else f"≥ {name}", "kind": "run"}
        | {"bits_per_byte": score["bits_per_byte"]}
        | {bound: found[name][bound] for bound in ("low", "high")}
        for name, score in scores.items()
    ]
    rows += [
        # A reference line has no interval, but DVC draws only rows that have the same keys.
        {"model": name, "bits_per_byte": line["bits_per_byte"], "kind": "reference"}
        | {"low": None, "high": None}
        for name, line in read_json(args.references).items()
    ]
    rows.sort(key=lambda row: (row["bits_per_byte"], row["model"]))
    write_json(args.out, rounded(rows))
    log.info("best: %s with %.4f bits per byte", rows[0]["model"], rows[0]["bits_per_byte"])


def compare(
    scores: dict[str, dict[str, Any]], items: dict[str, list[dict[str, Any]]], p: ResamplingParams
) -> dict[str, dict[str, Any]]:
    """Return interval of each run, and how far it is behind the best one without a bound.

    Raises:
        ArtifactError: The runs were not scored on the same documents.
    """
    names = list(scores)
    bits, size = shared_documents(*(items.get(name, []) for name in names))
    for name in names:
        if len(items.get(name, [])) != len(size) or not len(size):
            raise ArtifactError(
                f"{name} was scored on {len(items.get(name, []))} documents, of which all runs "
                f"share {len(size)}; the leaderboard wants the same for all: run dvc repro"
            )
    best = min(names, key=lambda n: (not scores[n]["lossless"], scores[n]["bits_per_byte"], n))
    behind = bits - bits[:, [names.index(best)]]
    own, gaps = interval(bits, size, p).T, interval(behind, size, p).T
    found: dict[str, dict[str, Any]] = {
        name: {
            "bits_per_byte": scores[name]["bits_per_byte"],
            "low": own[place, 0],
            "high": own[place, 1],
            "behind": float(behind[:, place].sum() / size.sum()),
            "behind_low": gaps[place, 0],
            "behind_high": gaps[place, 1],
            "bound": not scores[name]["lossless"],
            "documents": len(size),
        }
        for place, name in enumerate(names)
    }
    others = {name: column for name, column in zip(names, behind.T, strict=True) if name != best}
    p_values = [evidence(column, size, p, outcomes=False)["p"] for column in others.values()]
    for name, value, adjusted in zip(others, p_values, holm(p_values), strict=True):
        found[name] |= {"p": value, "p_holm": adjusted}
    return found


if __name__ == "__main__":
    run_stage(main)
