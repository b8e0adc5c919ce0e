"""What each section of the page shows: rows of sourced values, or None where a run lacks them."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cordel.reporting.page.run import Run
from cordel.reporting.page.values import Sourced
from cordel.runtime.errors import ArtifactError

ARMS = ("base", "cpt", "sft", "cpt_sft", "instruct", "instruct_sft")
BASELINES = ("copy", "lead1", "empty")
TASKS = {"qa": ("em", "f1"), "summarization": ("rouge_l",), "rewriting": ("rouge_l",)}
# Which design a run is of, by its name.
FAMILIES = {
    "characters": re.compile(r"v[123]\b"),
    "subwords": re.compile(r"v4"),
    "transformer": re.compile(r"v[56]"),
    "v7": re.compile(r"v7"),
}
NOISE = ("uniform", "unigram", "shuffled", "early")
COMPARED = ("sft-base", "cpt-base", "cpt_sft-base", "sft-copy", "instruct_sft-instruct")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A run, an arm or a reference line on the common test text."""

    name: str
    family: str  # of FAMILIES, or adapted, reference, other
    score: Sourced  # with bits_per_byte and, but for a reference, low, high, bound
    lm: Sourced | None = None  # with perplexity, accuracy, parameters
    cost: Sourced | None = None  # with hours, usd, tokens
    guardrail: Sourced | None = None

    @property
    def bits(self) -> float:
        """Bits per byte, to sort by."""
        return self.score["bits_per_byte"].raw

    @property
    def bound(self) -> bool:
        """Say whether the figure is a lower bound: the run is excused from what it erases."""
        found = self.score.get("bound")
        return found is not None and bool(found.raw)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The study's answer in figures: what its sentences are chosen by and filled with."""

    best: Row  # of the runs that pay for every byte
    thesis: Row | None  # the best of the others
    line: Row | None  # the best reference line
    sft: Sourced | None = None  # gains by task
    copying: Mapping[str, bool] = field(default_factory=dict)  # is the baseline ahead of SFT?

    @property
    def line_is_ahead(self) -> bool:
        """Say whether an n-gram or a compressor is ahead of the best run."""
        return self.line is not None and self.line.bits < self.best.bits


def family(name: str) -> str:
    """Return the design of a run, or ``adapted`` of an arm."""
    if name in ARMS:
        return "adapted"
    return next((key for key, names in FAMILIES.items() if names.match(name)), "other")


def ranking(run: Run) -> list[Row]:
    """Return runs, arms and reference lines, best first.

    A run that no join names, such as one of `dvc exp run -S +models.v8=…`, was not ranked.

    Raises:
        ArtifactError: None of the runs was ranked.
    """
    scores = run.below("metrics/lm")
    references = scores.pop("references", None)
    board = run.read("metrics/leaderboard.json")
    costs = run.read("metrics/costs.json")["stages"] if run.has("metrics/costs.json") else None
    guardrails = run.below("metrics/guardrails")
    rows = [
        Row(
            name=name,
            family=family(name),
            score=board[name],
            lm=lm,
            cost=costs and costs.get(_trained_by(name)),
            guardrail=guardrails.get(name),
        )
        for name, lm in scores.items()
        if board.get(name) is not None
    ]
    if scores and not rows:
        raise ArtifactError(f"{board.source}: none of the runs is in it; run `dvc repro rank_lm`")
    if references is not None:
        rows += [Row(name=name, family="reference", score=s) for name, s in references.pairs()]
    return sorted(rows, key=lambda row: (row.bits, row.name))


def _trained_by(name: str) -> str:
    if name == "cpt":
        return "adapt_cpt"
    return f"adapt_sft@{name}" if name in ARMS else f"train_lm@{name}"


def from_scratch(rows: Iterable[Row]) -> list[Row]:
    """Return the runs that were trained from scratch."""
    return [row for row in rows if row.family not in ("adapted", "reference")]


def answer(run: Run, rows: list[Row]) -> Answer | None:
    """Return the figures of the answer, None where no run pays for every byte."""
    runs = from_scratch(rows)
    paying = [row for row in runs if not row.bound]
    if not paying:
        return None
    answers = run.read("metrics/answers.json") if run.has("metrics/answers.json") else None
    sft = answers and answers.get("gains", "sft-base")
    return Answer(
        best=paying[0],
        thesis=next((row for row in runs if row.bound), None),
        line=next((row for row in rows if row.family == "reference"), None),
        sft=sft,
        copying=_copying(answers) if answers and sft else {},
    )


def _copying(answers: Sourced) -> dict[str, bool]:
    copy, sft = answers.get("copy"), answers.get("sft")
    if copy is None or sft is None:
        return {}
    main = {task: metrics[-1] for task, metrics in TASKS.items()}
    return {
        task: copy[task][metric]["mean"].raw > sft[task][metric]["mean"].raw
        for task, metric in main.items()
    }


def frontier(rows: Iterable[Row], key: str) -> list[Row]:
    """Return the runs that no other beats in both ``key`` of their cost and bits per byte."""
    costed = [row for row in rows if row.cost is not None and row.cost.get(key) is not None]
    found: list[Row] = []
    for row in sorted(costed, key=lambda row: (_cost(row, key), row.bits)):
        if not found or row.bits < found[-1].bits:
            found.append(row)
    return found


def _cost(row: Row, key: str) -> float:
    return row.cost[key].raw if row.cost is not None else 0.0


def curves(run: Run, folder: str, y: str) -> dict[str, list[Sourced]]:
    """Return the points of each run's curve that has ``y``."""
    points = {
        name: [row for row in rows if row.get(y) is not None]
        for name, rows in run.below(folder).items()
    }
    return {name: rows for name, rows in points.items() if rows}


def prompts(run: Run, order: list[str]) -> list[dict[str, Any]]:
    """Return each prompt with what every run in ``order`` wrote after it, and how it was judged."""
    found: dict[int, dict[str, Any]] = {}
    samples = run.below("data/samples") or run.below("samples")
    guardrails = run.below("metrics/guardrails")
    for name in [name for name in order if name in samples]:
        judged = guardrails[name]["per_sample"] if name in guardrails else None
        verdicts = {v["seed"].raw: v for v in judged or ()}
        for sample in samples[name]["samples"]:
            seed = sample["seed"].raw
            # A run over lower-cased text has a lower-cased prompt: show it as it was asked.
            entry = found.setdefault(seed, {"prompt": sample["prompt"], "seed": sample["seed"]})
            if sample["prompt"].raw != sample["prompt"].raw.lower():
                entry["prompt"] = sample["prompt"]
            shown = {"run": name, "sample": sample, "verdict": verdicts.get(seed)}
            entry.setdefault("samples", []).append(shown)
    return [found[seed] for seed in sorted(found)]


def scored(answers: Sourced) -> list[tuple[str, Sourced]]:
    """Return arms, arms asked for brevity, and baselines, as far as they were scored."""
    names = [name for arm in ARMS for name in (arm, f"{arm}_brief")] + list(BASELINES)
    return [(name, answers[name]) for name in names if name in answers.raw]


def gained(answers: Sourced) -> list[tuple[str, Sourced]]:
    """Return the gains, the most asked for first."""
    pairs = dict(answers["gains"].pairs())
    order = [name for name in COMPARED if name in pairs]
    return [(name, pairs[name]) for name in [*order, *(n for n in pairs if n not in order)]]


def overlaps(leakage: Sourced) -> list[tuple[str, str, Sourced]]:
    """Return each evaluation set against each training text that could hold it."""
    return [
        (name, other, counts)
        for name, against in leakage.pairs()
        if isinstance(against.raw, dict)
        for other, counts in against.pairs()
    ]


def clean_scores(leakage: Sourced) -> list[tuple[str, Sourced]]:
    """Return bits per byte of the test documents with and without overlap, if there are both."""
    counts = leakage.get("test", "train")
    if counts is None or not counts["overlapping"].raw or not counts["clean"].raw:
        return []
    scores = counts.get("scores")
    return sorted(scores.pairs(), key=lambda pair: pair[1]["clean"].raw) if scores else []


def training_ledgers(run: Run) -> dict[str, Sourced]:
    """Return the last attempt of each training, by its stage."""
    found: dict[str, Sourced] = {}
    for folder in ("metrics/ledger/train_lm", "metrics/ledger/adapt_sft", "metrics/ledger"):
        for attempts in run.below(folder).values():
            last = attempts[len(attempts.raw) - 1]
            if last["stage"].raw.startswith(("train_lm@", "adapt_")):
                found[last["stage"].raw] = last
    return found


def output_hash(run: Run, stage: str) -> Sourced | None:
    """Return the hash of what a stage made, of dvc.lock."""
    if not run.has("dvc.lock"):
        return None
    outs = run.read("dvc.lock")["stages"].get(stage)
    made = (
        [out for out in outs["outs"] if out.get("md5") and "data/" in out["path"].raw]
        if outs
        else []
    )
    return made[0]["md5"] if made else None


def published(audit: Sourced, section: str) -> dict[str, dict[str, Sourced]]:
    """Return a table of the thesis as the audit holds it: claims by row and column."""
    found: dict[str, dict[str, Sourced]] = {}
    for name, claim in audit["claims"].pairs():
        where, row, *column = name.split(".")
        if where == section and len(column) == 1 and claim.get("published") is not None:
            found.setdefault(row, {})[column[0]] = claim
    return found
