"""What of each evaluation set was seen in training, and bits per byte without it, as Markdown."""

from pathlib import Path
from typing import Any

from cordel.reporting.markdown import markdown_table
from cordel.runtime.files import read_json

KINDS = ("exact", "near", "contained")
HEADER = ("evaluation set", "against", "items", *KINDS, "overlapping")
SCORES = ("run", "all", "clean part", "overlapping part")


def leakage_section(folder: Path, share: float) -> str:
    """Return the overlaps of all sets, and the test documents' scores on either part.

    Args:
        folder: With ``metrics/leakage.json``.
        share: Of an item's shingles, from which it counts as contained.
    """
    found = read_json(folder / "metrics/leakage.json")
    sets = {name: against for name, against in found.items() if isinstance(against, dict)}
    rows = [
        [name, other, f"{row['items']:,}", *(f"{row[kind]:,}" for kind in (*KINDS, "overlapping"))]
        for name, against in sets.items()
        for other, row in against.items()
    ]
    return "\n".join(
        [
            "An item overlaps if it is equal to a training text (exact), a near-duplicate of one "
            f"(near), or has {share:.0%} of its shingles in any of them (contained).\n",
            markdown_table(HEADER, rows),
            *_scores(sets["test"]["train"]),
        ]
    )


def _scores(test: dict[str, Any]) -> list[str]:
    """Return bits per byte of each run on the parts, best first, if there are two."""
    if not test["overlapping"] or not test["clean"]:
        return []
    scores = sorted(test["scores"].items(), key=lambda pair: pair[1]["clean"])
    rows = [
        [name, *(f"{score[part]:.3f}" for part in ("all", "clean", "overlapping"))]
        for name, score in scores
    ]
    return ["\nBits per byte of the test documents, against train:\n", markdown_table(SCORES, rows)]
