"""Write audit/report.md and audit/report.pt-BR.md from the results of the checks.

The words stand in report.md.jinja and report.pt-BR.md.jinja; every number comes from results/.
"""

import argparse
import logging
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from audit.published import expected, missing
from cordel.runtime.console import run_stage
from cordel.runtime.files import read_json, write_text

log = logging.getLogger(Path(__file__).stem)
TEMPLATES = Path(__file__).parent


def number(value: float | None, decimals: int = 4, *, comma: bool, signed: bool = False) -> str:
    """Return ``value`` with so many decimals, in the language's decimal sign; an en dash for None.

    Minus is written as the typographic sign, and zero never has one.
    """
    if value is None:
        return "–"
    text = f"{value:+,.{decimals}f}" if signed else f"{value:,.{decimals}f}"
    if not text.strip("+-0.,"):
        text = text.lstrip("+-")
    text = text.replace("-", "−")
    return text.translate(str.maketrans(",.", ".,")) if comma else text


def render(name: str, results: dict[str, Any], *, comma: bool) -> str:
    """Return the template ``name`` filled with ``results``."""
    environment = Environment(  # noqa: S701  (Markdown; cells are escaped by the filter below)
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["n"] = lambda value, decimals=4, signed=False: number(
        value, decimals, comma=comma, signed=signed
    )
    environment.filters["cell"] = cell
    text = environment.get_template(name).render(results)
    return re.sub(r"\n{3,}", "\n\n", re.sub(r" +\n", "\n", text)).strip() + "\n"


def cell(value: Any) -> str:
    """Return ``value`` as one cell of a Markdown table: one line, no column of its own."""
    return " ".join(str(value).split()).replace("|", r"\|").replace("<", "&lt;")


def checkable(results: dict[str, Any]) -> dict[str, Any]:
    """Return ``results`` with what a partial copy leaves open set apart from what was checked.

    A section of which a part is not checkable is that as a whole; guardrail reports and figures
    are told one by one.
    """
    answers, guardrails = results["answers"], results["guardrails"]
    reports, table = guardrails["reports"], guardrails["table"]
    claims, facts = results["figures"]["claims"], results["figures"]["facts"]
    return results | {
        "answers": _first_reason(answers) or answers,
        "claims": {name: claim for name, claim in claims.items() if "holds" in claim},
        "facts": {name: fact for name, fact in facts.items() if "note_en" in fact},
        "figures_not_checkable": {
            name: found["not_checkable"]
            for name, found in (claims | facts).items()
            if "not_checkable" in found
        },
        "reports": {name: row for name, row in reports.items() if "holds" in row},
        "reports_not_checkable": {
            name: row["not_checkable"] for name, row in reports.items() if "holds" not in row
        },
        "likeliest_by_chance": _likeliest(results["samples"].get("sets", {})),
        "table": _first_reason(table["rows"] | {"human": table["human"]}) or table,
    }


def _likeliest(sets: dict[str, Any]) -> float | None:
    """Return the highest chance, as a power of ten, that a model gives a sample read as noise."""
    chances = [
        sample["log10_chance"]
        for found in sets.values()
        if found["noise"]
        for sample in found["samples"].values()
    ]
    return max(chances, default=None)


def _first_reason(parts: dict[str, Any]) -> dict[str, str] | None:
    """Return why the first part that cannot be checked cannot, None where all can."""
    if "not_checkable" in parts:
        return parts
    open_parts = (p for p in parts.values() if isinstance(p, dict) and "not_checkable" in p)
    return next(open_parts, None)


def main() -> None:
    """Write the report in both languages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--published", type=Path, required=True)
    parser.add_argument("--results", type=Path, nargs="+", required=True)
    parser.add_argument(
        "--out", type=Path, nargs=2, required=True, metavar=("ENGLISH", "PORTUGUESE")
    )
    args = parser.parse_args()
    results = {path.stem: read_json(path) for path in args.results}
    results = checkable(results)
    results["artifacts"] = {"expected": len(expected()), "missing": missing(args.published)}
    english, portuguese = args.out
    write_text(english, render("report.md.jinja", results, comma=False))
    write_text(portuguese, render("report.pt-BR.md.jinja", results, comma=True))
    log.info("wrote %s and %s", english, portuguese)


if __name__ == "__main__":
    run_stage(main)
