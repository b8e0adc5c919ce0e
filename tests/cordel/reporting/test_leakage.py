"""Overlaps as a reader sees them."""

from pathlib import Path
from typing import Any

import pytest

from cordel.reporting.leakage import leakage_section
from cordel.runtime.files import write_json

RUNS = {
    "v1": {"all": 2.9, "clean": 2.95, "overlapping": 2.5},
    "v7": {"all": 1.7, "clean": 1.75, "overlapping": 1.25},
}


def against(overlapping: int, **changes: Any) -> dict[str, Any]:
    counts = {"items": 1200, "exact": 1, "near": 2, "contained": 3}
    return counts | {"overlapping": overlapping, "clean": 1200 - overlapping} | changes


@pytest.fixture
def rendered(tmp_path: Path, request: pytest.FixtureRequest) -> list[str]:
    found = {
        "recall_at_min_similarity": 0.99,
        "test": {"train": against(request.param, scores=RUNS)},
        "tasks": {"sft_train": against(0)},
    }
    write_json(tmp_path / "metrics/leakage.json", found)
    return leakage_section(tmp_path, 0.8).splitlines()


@pytest.mark.parametrize("rendered", [5], indirect=True)
def test_every_set_has_its_counts(rendered: list[str]) -> None:
    assert "has 80% of its shingles" in rendered[0]
    assert "| test | train | 1,200 | 1 | 2 | 3 | 5 |" in rendered
    assert "| tasks | sft_train | 1,200 | 1 | 2 | 3 | 0 |" in rendered


@pytest.mark.parametrize("rendered", [5], indirect=True)
def test_runs_are_scored_on_either_part_best_first(rendered: list[str]) -> None:
    assert rendered[-2:] == ["| v7 | 1.700 | 1.750 | 1.250 |", "| v1 | 2.900 | 2.950 | 2.500 |"]


@pytest.mark.parametrize("rendered", [0, 1200], indirect=True)
def test_without_two_parts_there_are_no_scores(rendered: list[str]) -> None:
    assert not [line for line in rendered if line.startswith("| v7")]
