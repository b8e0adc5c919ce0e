"""The report: numbers in each language, and the committed pages are what the results give."""

import copy
from pathlib import Path
from typing import Any

import pytest

from audit.published import expected
from audit.write_report import cell, checkable, number, render
from cordel.runtime.files import read_json

PAGES = [("report.md", False), ("report.pt-BR.md", True)]


@pytest.mark.parametrize(
    ("value", "decimals", "signed", "english", "portuguese"),
    [
        (0.25674, 4, False, "0.2567", "0,2567"),
        (1234.5, 1, False, "1,234.5", "1.234,5"),
        (0.05, 3, True, "+0.050", "+0,050"),
        (-1008.6, 0, False, "−1,009", "−1.009"),
        (-1e-17, 4, True, "0.0000", "0,0000"),
        (None, 4, False, "–", "–"),
    ],
)
def test_a_number_in_both_languages(
    value: float | None, decimals: int, signed: bool, english: str, portuguese: str
):
    assert number(value, decimals, comma=False, signed=signed) == english
    assert number(value, decimals, comma=True, signed=signed) == portuguese


def test_a_cell_is_one_line_of_one_column():
    assert cell("a | b\n<unk>") == r"a \| b &lt;unk>"


@pytest.fixture
def results(project: Path) -> dict[str, Any]:
    """Return the committed results, all artifacts at hand."""
    folder = project / "audit" / "results"
    found = {path.stem: read_json(path) for path in folder.glob("*.json")}
    return found | {"artifacts": {"expected": len(expected()), "missing": []}}


@pytest.mark.parametrize(("page", "comma"), PAGES)
def test_the_committed_page_is_what_the_results_give(
    page: str, comma: bool, results: dict[str, Any], project: Path
):
    text = render(f"{page}.jinja", checkable(results), comma=comma)
    assert (project / "audit" / page).read_text(encoding="utf-8") == text


@pytest.mark.parametrize(("page", "comma"), PAGES)
@pytest.mark.parametrize("lacking", ["answers", "samples", "guardrails", "figures"])
def test_what_a_partial_copy_lacks_is_said_and_the_rest_stands(
    page: str, comma: bool, lacking: str, results: dict[str, Any]
):
    partial = copy.deepcopy(results)
    reason = {"not_checkable": "some.json is not at hand"}
    if lacking == "guardrails":
        reports, table = partial["guardrails"]["reports"], partial["guardrails"]["table"]
        reports[min(reports)] = reason
        table["human"] = reason
    elif lacking == "figures":
        partial["figures"]["claims"]["costs.v5_main.cost"] = reason
    else:
        partial[lacking] = reason

    text = render(f"{page}.jinja", checkable(partial), comma=comma)
    assert "some.json is not at hand" in text
    assert text.count("## ") == render(f"{page}.jinja", checkable(results), comma=comma).count(
        "## "
    )
