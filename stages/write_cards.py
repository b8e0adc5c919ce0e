"""Write a card for every exported model, adapter and clean corpus, as the hub reads them."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cordel.reporting.cards.render import (
    CardParams,
    Facts,
    Origin,
    Source,
    adapter_card,
    base_of_arm,
    corpus_card,
    merged_card,
    run_card,
)
from cordel.runtime.console import run_stage
from cordel.runtime.files import new_directory, read_json
from cordel.runtime.params import known_profile, read_params, read_section

log = logging.getLogger(Path(__file__).stem)


def main() -> None:
    """Write ``<name>/README.md`` for each; an arm whose base is not configured gets none."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="metrics/lm/<run>.json")
    parser.add_argument("--arms", type=Path, nargs="+", required=True, help="metrics/lm/<arm>.json")
    parser.add_argument("--merged", type=Path, nargs="+", required=True, help="of export_adapter")
    parser.add_argument("--guardrails", type=Path, nargs="+", required=True, help="of the runs")
    parser.add_argument("--corpora", type=Path, nargs="+", required=True, help="of clean_corpus")
    parser.add_argument("--bases", type=Path, nargs="+", required=True, help="of open_base")
    for name in ("splits", "leaderboard", "references", "answers", "leakage", "costs"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    facts = Facts(
        profile=known_profile(read_section("profile", kind=str)),
        scores=by_name([*args.runs, *args.arms]),
        merged=by_name(args.merged),
        corpora=by_name(args.corpora),
        recipes={
            path.stem: read_section(f"cleaning.{path.stem}", kind=dict[str, Any])
            for path in args.corpora
        },
        clusters=read_json(args.splits),
        leaderboard=read_json(args.leaderboard),
        references=read_json(args.references),
        answers=read_json(args.answers),
        guardrails=by_name(args.guardrails),
        leakage=read_json(args.leakage),
        costs=read_json(args.costs),
        bases={folder.name: read_json(folder / "base.json") for folder in args.bases},
        lora={
            "rank": read_section("lora.rank", kind=int),
            "alpha": read_section("lora.alpha", kind=int),
            "targets": read_section("lora.targets", kind=tuple[str, ...]),
        },
        corpus=Origin(
            source=read_section("corpus.source", kind=Source),
            dataset=read_section("corpus.hub.dataset", kind=str),
        ),
        instructions=Origin(
            source=read_section("sft_data.source", kind=Source),
            dataset=read_section("sft_data.hub.dataset", kind=str),
        ),
        documents=read_section("cpt_data.documents", kind=str),
        licences=read_params("cards", CardParams),
        confidence=read_section("resampling.confidence", kind=float),
    )
    arms = [path.stem for path in args.arms if configured(path.stem, facts)]
    cards = {path.stem: run_card(path.stem, facts) for path in args.runs}
    cards |= {arm: adapter_card(arm, facts) for arm in arms}
    cards |= {
        f"{path.stem}_merged": merged_card(path.stem, facts)
        for path in args.merged
        if path.stem in arms
    }
    cards |= {path.stem: corpus_card(path.stem, facts) for path in args.corpora}
    with new_directory(args.out) as out:
        for name, card in cards.items():
            card.save(out / name / "README.md")
    log.info("%d cards: %s", len(cards), ", ".join(cards))


def by_name(paths: Sequence[Path]) -> dict[str, Any]:
    """Return the metrics of each file."""
    return {path.stem: read_json(path) for path in paths}


def configured(arm: str, facts: Facts) -> bool:
    """Return whether the arm's base is there."""
    return facts.bases[base_of_arm(arm)]["source"] != "none"


if __name__ == "__main__":
    run_stage(main)
