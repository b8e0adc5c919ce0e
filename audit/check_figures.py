"""Recompute every figure that is arithmetic over published logs and compare it with the text.

``audit/claims.yaml`` holds the figures as the thesis prints them; figures_track1, figures_track2
and figures_data know how each follows from the artifacts.
"""

import argparse
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from audit import figures_data, figures_track1, figures_track2
from audit.figures import Figure, Reader
from audit.printed import parse
from audit.published import Published, missing, tried, write_results
from cordel.runtime.console import run_stage
from cordel.runtime.errors import InputError

log = logging.getLogger(Path(__file__).stem)
CLAIMS = Path(__file__).with_name("claims.yaml")
PORTUGUESE = str.maketrans(".,", ",.")
ROUNDING = "half away from zero, on the shortest decimal of the float"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One figure or sentence, and the figure that it is compared with."""

    id: str
    where: str
    figure: str
    published: str | None  # None: the artifact's own, ``logged`` of the figure
    note: dict[str, Any]  # en, pt; caveat; explained_by


def read_claims(text: str) -> Iterator[Claim]:
    """Yield the claims of ``claims.yaml``, rows and columns of its tables unfolded."""
    for section, content in yaml.safe_load(text)["claims"].items():
        for figure, published in _printed(content):
            notes = content.get("notes", {})
            note = notes.get(figure) or notes.get(f"*.{figure.rpartition('.')[2]}") or {}
            yield Claim(
                id=f"{section}.{figure}",
                where=content["where"],
                figure=figure,
                published=published,
                note=note,
            )


def _printed(section: dict[str, Any]) -> Iterator[tuple[str, str | None]]:
    for row, cells in section.get("rows", {}).items():
        for column, cell in zip(section["columns"], cells, strict=True):
            if cell is not None:
                yield f"{row}.{column}", cell
    yield from section.get("figures", {}).items()


# --- One claim ------------------------------------------------------------------------------------


def check(claim: Claim, figures: dict[str, Figure], read: Reader) -> dict[str, Any]:
    """Return the claim beside what its figure gives, and whether it holds.

    Raises:
        InputError: ``claims.yaml`` names an unknown figure or prints no number where one is due.
    """
    figure = _known(claim.figure, figures)
    entry = {
        "id": claim.id,
        "where": claim.where,
        "published": claim.published,
        "source": list(figure.sources),
        "how_en": figure.en,
        "how_pt": figure.pt,
    }
    found = tried(lambda: {"value": figure.value(read)})
    if "not_checkable" in found:
        return entry | found
    value = found["value"]
    entry |= {"recomputed": value, "caveat": bool(claim.note.get("caveat"))}
    entry |= _compared(claim.published, value)
    entry |= _explained(claim, figures, read)
    return entry | _notes(claim.note, figure, entry)


def _known(name: str, figures: dict[str, Figure]) -> Figure:
    if name not in figures:
        raise InputError(
            f"audit/claims.yaml: no figure {name!r}; name one of audit/figures_*.py or add it there"
        )
    return figures[name]


def _compared(published: str | None, value: Any) -> dict[str, Any]:
    """Return ``holds``, and for a number its rounded value and the difference."""
    if isinstance(value, dict):
        own = {} if published is not None else {"published": value.get("logged")}
        return {"holds": value["holds"]} | own
    if published is None:
        raise InputError("audit/claims.yaml: a figure that is a number needs what is printed")
    if isinstance(value, str):
        return {"holds": published in value}
    printed = parse(published)
    rounded = printed.rounded(value)
    return {
        "holds": rounded == printed.number,
        "rounded": str(rounded),
        "rounding": f"to {printed.decimals} decimals, {ROUNDING}",
        "difference": printed.difference(value),
    }


def _explained(claim: Claim, figures: dict[str, Figure], read: Reader) -> dict[str, Any]:
    """Say whether another way of computing it gives what is printed: rounded parts, a premise."""
    if "explained_by" not in claim.note or claim.published is None:
        return {}
    other = _known(claim.note["explained_by"], figures)
    found: dict[str, Any] = tried(lambda: {"value": other.value(read)})
    if "not_checkable" in found:
        return {"explained_by": found}
    printed = parse(claim.published)
    explanation = {
        "kind": claim.note["kind"],
        "how_en": other.en,
        "how_pt": other.pt,
        "value": found["value"],
        "gives_the_printed": printed.rounded(found["value"]) == printed.number,
    }
    return {"explained_by": explanation}


# --- Notes ----------------------------------------------------------------------------------------


class Spoken(float):
    """A number that formats itself as its language writes it."""

    portuguese = False

    def __format__(self, spec: str) -> str:
        """Return the formatted number; in Portuguese with a decimal comma."""
        text = format(float(self), spec or ",.6g" if self % 1 else spec or ",.0f")
        return text.translate(PORTUGUESE) if self.portuguese else text


class Falado(Spoken):
    """The same in Portuguese."""

    portuguese = True


def _spoken(value: Any, number: type[Spoken]) -> Any:
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        return number(value)
    if isinstance(value, dict):
        return {key: _spoken(item, number) for key, item in value.items()}
    if isinstance(value, list):
        return [_spoken(item, number) for item in value]
    return value


def _notes(note: dict[str, Any], figure: Figure, entry: dict[str, Any]) -> dict[str, str]:
    """Fill the note's ``{value}``; without a note, say how the figure was recomputed."""
    plain = not isinstance(entry["recomputed"], dict)
    default = {
        "en": "Recomputed as {how}: {value}." if plain else "Recomputed as {how}.",
        "pt": "Recalculado como {how}: {value}." if plain else "Recalculado como {how}.",
    }
    texts = {}
    for language, how, number in (("en", figure.en, Spoken), ("pt", figure.pt, Falado)):
        text = note.get(language) or default[language]
        value = _spoken(entry["recomputed"], number)
        texts[f"note_{language}"] = text.strip().format(how=how, value=value)
    return texts


def state(name: str, note: dict[str, Any], figures: dict[str, Figure], read: Reader) -> Any:
    """Return a fact: a figure that the thesis does not print, with its note."""
    figure = _known(name, figures)
    entry = {
        "id": name,
        "source": list(figure.sources),
        "how_en": figure.en,
        "how_pt": figure.pt,
    }
    found = tried(lambda: {"recomputed": figure.value(read)})
    return entry | found | ({} if "not_checkable" in found else _notes(note, figure, found))


# --- All of them ----------------------------------------------------------------------------------


def check_all(published: Published, text: str) -> dict[str, Any]:
    """Return claims, facts, what cannot be checked, and a summary of counts.

    Args:
        published: The artifacts.
        text: The content of ``claims.yaml``.
    """
    figures = figures_track1.figures() | figures_track2.figures() | figures_data.figures()
    read, listed = Reader(published), yaml.safe_load(text)
    claims = {claim.id: check(claim, figures, read) for claim in read_claims(text)}
    facts = {name: state(name, note, figures, read) for name, note in listed["facts"].items()}
    return {
        "claims": claims,
        "facts": facts,
        "not_checkable": listed["not_checkable"],
        "not_published": listed["not_published"],
        "missing_artifacts": missing(published.folder),
        "summary": _summary(claims, listed["not_checkable"]),
    }


def _summary(claims: dict[str, Any], not_checkable: dict[str, Any]) -> dict[str, Any]:
    checked = {name: entry for name, entry in claims.items() if "holds" in entry}
    absent = sorted(claims.keys() - checked.keys())
    holding = [name for name, entry in checked.items() if entry["holds"]]
    own = [name for name in checked if name.startswith("artifacts.")]  # no sentence of the thesis
    return {
        "of_the_thesis": {
            "checked": len(checked) - len(own),
            "holding": len(set(holding) - set(own)),
        },
        "of_the_artifacts": {"checked": len(own), "holding": len(set(holding) & set(own))},
        "checked": len(checked),
        "holding": len(holding),
        "holding_with_caveat": sorted(n for n in holding if checked[n]["caveat"]),
        "not_holding": len(checked) - len(holding),
        "not_holding_list": sorted(checked.keys() - set(holding)),
        "not_checkable": len(absent) + len(not_checkable),
        "not_checkable_list": sorted([*absent, *not_checkable]),
    }


def main() -> None:
    """Check every claim and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--published", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    results = check_all(Published(args.published), CLAIMS.read_text(encoding="utf-8"))
    write_results(args.out, results)
    for name in results["summary"]["not_holding_list"]:
        entry = results["claims"][name]
        log.info("does not hold: %s, published %s. %s", name, entry["published"], entry["note_en"])
    log.info(
        "%(checked)d claims checked: %(holding)d hold, %(not_holding)d do not; "
        "%(not_checkable)d cannot be checked",
        results["summary"],
    )


if __name__ == "__main__":
    run_stage(main)
