"""Render the report of a run, one self-contained page a language."""

import base64
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from cordel.reporting.page import charts, sections
from cordel.reporting.page.run import Run
from cordel.reporting.page.values import Sourced, Writer, quoted, text
from cordel.reporting.vega import vega_script
from cordel.runtime.errors import InputError
from cordel.runtime.files import write_text
from cordel.runtime.params import LOADER

HERE = Path(__file__).parent
COMPARABLE = ("thesis",)  # profiles of the thesis' data and sizes
CLAIMS = (
    "sample",
    "smoke",
    "ptbr",
    "thesis",
)  # profiles of which texts.yaml says what they may claim
# Of a run, or of results/: the answers to show, and the documents that arms continued.
ANSWERS = ("reports/answers.jsonl", "answers.jsonl")
CONTINUED = ("data/continuations.jsonl", "continuations.jsonl")
EXAMPLES_OF_DOCUMENTS = 2  # of the thesis' five
SECTIONS = (
    *("board", "pareto", "curves", "tokenizers", "samples", "guardrails"),
    *("answers", "ten", "overlap", "costs", "thesis", "provenance"),
)
TRACK_1 = ("results_char", "results_subword", "results_transformer")  # of audit/claims.yaml


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """A page: how it is called and what it writes like."""

    code: str
    key: str  # in texts.yaml
    file: str
    comma: bool
    audit: str  # the audit's report in this language

    @property
    def locale(self) -> dict[str, Any]:
        """Numbers, as d3 wants to be told of them."""
        decimal, thousands = (",", ".") if self.comma else (".", ",")
        return {"decimal": decimal, "thousands": thousands, "grouping": [3], "currency": ["", ""]}


LANGUAGES = (
    Language(code="en", key="en", file="index.html", comma=False, audit="report.md"),
    Language(code="pt-BR", key="pt", file="index.pt-BR.html", comma=True, audit="report.pt-BR.md"),
)


def render(run: Run, pages: Sequence[Path], *, audit: str = "../audit") -> None:
    """Write the page of ``run`` in each language.

    Args:
        run: The files; a section whose files are not there says so in a sentence.
        pages: What to write, one file a language, in the order of LANGUAGES.
        audit: The folder of the audit's reports, as seen from the pages.

    Raises:
        ArtifactError: A file is broken; nothing is written.
    """
    made = [page(run, language, audit=audit) for language in LANGUAGES]
    for path, html in zip(pages, made, strict=True):
        write_text(path, html)


def render_folder(results: Path, out: Path, *, audit: Path = Path("audit")) -> None:
    """Write the page of a folder that `cordel publish-results` filled.

    Raises:
        InputError: The folder is no such folder.
    """
    if not (results / "metrics/leaderboard.json").is_file():
        raise InputError(
            f"{results}: no metrics/leaderboard.json in it; give a folder that `cordel "
            "publish-results` filled, such as results/ptbr"
        )
    paths = [path for path in sorted(results.rglob("*.*")) if path.is_file()]
    files = {path.relative_to(results).as_posix(): path for path in paths}
    files |= {path.as_posix(): path for path in sorted((audit / "results").glob("*.json"))}
    pages = [out / language.file for language in LANGUAGES]
    render(Run(files), pages, audit=Path(os.path.relpath(audit, out)).as_posix())


def page(run: Run, language: Language, *, audit: str = "../audit") -> str:
    """Return the page in one language."""
    texts = read_texts(language.key)
    words = charts.Labels(texts=texts)
    shown = contents(run)
    specs = drawings(shown, words)
    vega, draw = vega_script(charts.VEGA_LITE), (HERE / "draw.js").read_text(encoding="utf-8")
    (other,) = (each for each in LANGUAGES if each != language)

    def t(key: str, **values: Any) -> Markup:
        if key not in texts:  # a name of the run's own
            return escape(words[key])
        return Markup(texts[key]).format(**values)  # noqa: S704  (values are escaped)

    link = Markup('<a href="{0}/{1}">audit/{1}</a>').format(audit, language.audit)
    environment = _environment(Writer(comma=language.comma))
    return environment.get_template("page.html.jinja").render(
        shown,
        t=t,
        lang=language.code,
        other=other.file,
        other_lang=other.code,
        policy=_policy(vega, draw),
        style=(HERE / "style.css").read_text(encoding="utf-8"),
        specs=specs,
        charts_json=_json({"specs": specs, "config": charts.CONFIG, "locale": language.locale}),
        vega=vega,
        draw=draw,
        audit_link=link,
        copying=_copying(shown["answer"], t),
        frontier=_names(shown["frontier"]),
    )


def read_texts(key: str) -> dict[str, str]:
    """Return the words of the page in the language ``key`` of texts.yaml."""
    texts = yaml.load((HERE / "texts.yaml").read_text(encoding="utf-8"), LOADER)  # noqa: S506
    return {name: languages[key] for name, languages in texts.items()}


def contents(run: Run) -> dict[str, Any]:
    """Return what the page shows: nothing of it depends on the language."""
    profile = run.read("params.yaml")["profile"]
    rows = sections.ranking(run)
    answers = _optional(run, "metrics/answers.json")
    ten = _first(run, ANSWERS)
    ledgers = sections.training_ledgers(run)
    figures = _optional(run, "audit/results/figures.json")
    leakage = _optional(run, "metrics/leakage.json")
    scored = sections.scored(answers) if answers else []
    last = next(reversed(ledgers.values()), None)
    return {
        "sections": SECTIONS,
        "profile": profile,
        "claim": f"claim.{profile.raw if profile.raw in CLAIMS else 'other'}",
        "comparable": profile.raw in COMPARABLE,
        "family": sections.family,
        "arm_order": sections.ARMS,
        "tasks": sections.TASKS,
        "rows": rows,
        "bounds": {row.name for row in rows if row.bound},
        "answer": sections.answer(run, rows),
        "costs": _optional(run, "metrics/costs.json"),
        "frontier": sections.frontier(sections.from_scratch(rows), "hours"),
        "curves": sections.curves(run, "plots/curves", "val_bits_per_byte"),
        "arm_curves": sections.curves(run, "plots/adaptation", "eval_nats_per_token"),
        "tokenizers": run.below("metrics/tokenizers"),
        "prompts": sections.prompts(run, sorted(row.name for row in rows)),
        "calibrations": run.below("metrics/guardrails/tokenizers"),
        "guardrails": run.below("metrics/guardrails"),
        "scored": scored,
        "instruct": any(name.startswith("instruct") for name, _ in scored),
        "gained": sections.gained(answers) if answers else [],
        "adaptation": _optional(run, "metrics/adaptation.json"),
        "ten": [row for row in ten or () if row.get("example") is None],
        "examples": {row["example"].raw: row for row in ten or () if row.get("example")},
        "continued": list(_first(run, CONTINUED) or ())[:EXAMPLES_OF_DOCUMENTS],
        "overlaps": sections.overlaps(leakage) if leakage else [],
        "clean_scores": sections.clean_scores(leakage) if leakage else [],
        "audit": _optional(run, "audit/results/answers.json"),
        "published": _published(figures),
        "published_loss": sections.published(figures, "intrinsic") if figures else {},
        "published_ratios": _optional(run, "audit/results/guardrails.json"),
        "thesis_runs": sorted(
            (row for row in sections.from_scratch(rows) if row.family != "v7"),
            key=lambda row: row.name,
        ),
        "ledgers": ledgers,
        "hashes": {stage: sections.output_hash(run, stage) for stage in ledgers},
        "versions": last and last.get("versions"),
        "commit": last and last.get("git_commit"),
    }


def drawings(shown: Mapping[str, Any], words: charts.Labels) -> dict[str, dict[str, Any]]:
    """Return the charts of what there is, by name."""
    rows = shown["rows"]
    runs = sections.from_scratch(rows)
    found: dict[str, dict[str, Any] | None] = {"ranking": charts.ranking(rows, words)}
    for key in ("hours", "usd"):
        best = sections.frontier(runs, key)
        found[key] = charts.pareto(runs, best, key, words) if best else None
    if shown["curves"]:
        families = {name: sections.family(name) for name in shown["curves"]}
        x, y = "train_tokens", "val_bits_per_byte"
        found["curves"] = charts.curves(shown["curves"], families, words, x=x, y=y)
    if shown["arm_curves"]:
        found["arms"] = charts.arms(shown["arm_curves"], words)
    if shown["tokenizers"]:
        found["tokenizers"] = charts.tokenizers(shown["tokenizers"], words)
    if shown["calibrations"]:
        for name, key in (("guardrails", "pass_share"), ("guardrails_thesis", "thesis_pass_share")):
            found[name] = charts.guardrails(shown["calibrations"], key, words)
    if shown["scored"]:
        for task in sections.TASKS:
            found[f"answers_{task}"] = charts.answers(shown["scored"], task, words)
    return {name: spec for name, spec in found.items() if spec is not None}


def _optional(run: Run, name: str) -> Sourced | None:
    return run.read(name) if run.has(name) else None


def _first(run: Run, names: Sequence[str]) -> Sourced | None:
    return next((run.read(name) for name in names if run.has(name)), None)


def _published(figures: Sourced | None) -> dict[str, dict[str, Sourced]]:
    """Return what the thesis prints of each run from scratch, and what its training cost."""
    if figures is None:
        return {}
    costs = sections.published(figures, "costs")
    parts = [sections.published(figures, section) for section in TRACK_1]
    return {row: columns | costs.get(row, {}) for part in parts for row, columns in part.items()}


def _copying(answer: sections.Answer | None, t: Any) -> Markup:
    ahead = (
        [t(f"task.{task}").lower() for task, yes in answer.copying.items() if yes] if answer else []
    )
    if not ahead:
        return Markup("")
    *most, last = ahead
    tasks = f"{', '.join(most)} {t('and')} {last}" if most else last
    return t("answer.copying", tasks=tasks)


def _names(rows: Iterable[sections.Row]) -> Markup:
    shown = Markup('<span class="name">{}</span>')
    return Markup(", ").join(shown.format(row.name) for row in rows)


@cache
def _environment(writer: Writer) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "num": writer.num,
        "printed": writer.printed,
        "txt": text,
        "quoted": quoted,
    }
    environment.globals["dict"] = dict
    return environment


def _policy(*scripts: str) -> str:
    """Return what the browser may run: these scripts and no other, and nothing of the network."""
    digests = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed} 'unsafe-eval'; style-src 'unsafe-inline'; "
        "base-uri 'none'; form-action 'none'"
    )


def _json(value: Any) -> str:
    """Return JSON that can stand in a script: nothing in it can end that, or be a newline of JS."""
    dumped = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return re.sub(r"[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", dumped)
