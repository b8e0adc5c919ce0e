"""What changed between two revisions, or two models of one, and whether it is more than chance.

Reads only what git tracks: the scores of items under ``metrics/items``, whether they are lower
bounds (``metrics/lm``), and the guardrail reports. So it works in a clone without any data.
"""

import json
import os
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np

from cordel.evaluation.calibration import compare_reports
from cordel.evaluation.items import (
    METRICS,
    QUALITY,
    Row,
    answers_by_key,
    gains,
    seed_means,
    shared_documents,
)
from cordel.evaluation.significance import ALPHA, ResamplingParams, evidence, holm, interval
from cordel.runtime.errors import ArtifactError, EnvironmentProblem, InputError
from cordel.runtime.files import rounded, write_json

WORKSPACE = "workspace"
RESAMPLING = ResamplingParams(resamples=10_000, confidence=0.95, seed=0)
FOLDERS = ("metrics/items", "metrics/lm", "metrics/guardrails")
DOCUMENT_KEYS = frozenset({"id", "nats", "bytes", "unk_bytes"})
ANSWER_KEYS = frozenset({"arm", "task", "seed", "id", *METRICS})
NAMES = {"em": "EM", "f1": "F1", "rouge_l": "ROUGE-L"}
BITS = "bits per byte"

LEGEND = """\
↓ lower is better, ↑ higher is better. A verdict of better or worse is one with p Holm < 0.05,
which is p corrected for the number of rows here, {rows}. p is McNemar's exact test for EM, and else
how often a difference of this size comes of swapping the scores of items at random ({resamples:,}
swaps). "n items could show ≥ x": a true difference below x would be missed by more than one in
five such tests. Intervals and p are over documents and items, not over training runs: the same
recipe trained with another seed may score outside of them.
"""
BOUNDS = """\
≥ marks a lower bound: the run's normalisation erases what it is then not charged for. A difference
from it is one of bounds.
"""

Said = dict[str, list[str]]  # a figure, or what is to be said of it; the runs and arms


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What one side is compared by; ``title`` says which revision or model it is."""

    title: str
    documents: dict[str, list[Row]] = field(default_factory=dict)  # by run, arms among them
    bounds: frozenset[str] = frozenset()  # runs whose bits per byte are lower bounds
    answers: dict[str, list[Row]] = field(default_factory=dict)  # by arm
    guardrails: dict[str, dict[str, Any]] = field(default_factory=dict)  # by run


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One figure on both sides; ``difference`` is b - a, with its interval."""

    name: str  # run or arm; "" where the sides are models
    figure: str  # "bits per byte", or task and metric
    a: float
    b: float
    difference: float
    low: float
    high: float
    p: float
    n_items: int
    detectable: float | None
    a_is_bound: bool = False
    b_is_bound: bool = False
    p_holm: float = 1.0
    verdict: str = ""

    @property
    def lower_is_better(self) -> bool:
        """Of bits per byte, not of scores of answers."""
        return self.figure == BITS


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All that is known about two sides."""

    a: str
    b: str
    changes: list[Change]
    identical: Said
    notes: Said  # what was compared in part, not tested or not compared, and why


# --- reading --------------------------------------------------------------------------------------


def read_scores(revision: str, results: Path) -> Scores:
    """Return the scores under ``results`` at a revision, or as the files are (``workspace``).

    Raises:
        InputError: Unknown revision, no git repository, nothing there, or a file that is broken.
        EnvironmentProblem: There is no git.
    """
    if revision == WORKSPACE:
        title, files = WORKSPACE, dict(_files_in(results))
    else:
        title, files = _files_at(revision, results)
    parsed = {name: _parse(f"{revision}:{name}", text) for name, text in files.items()}
    items = {Path(name): rows for name, rows in parsed.items() if name.endswith(".jsonl")}
    documents: dict[str, list[Row]] = {}
    answers: dict[str, list[Row]] = {}
    for path, rows in items.items():
        of_answers = path.stem.startswith("answers-")
        _check(f"{revision}:{path}", rows, ANSWER_KEYS if of_answers else DOCUMENT_KEYS)
        for row in rows:
            group = answers if of_answers else documents
            group.setdefault(row["arm"] if of_answers else path.stem, []).append(row)
    if not documents and not answers:
        raise InputError(
            f"{revision}: no scores of items in {results / FOLDERS[0]}; name another folder with "
            "--results (results/ptbr), or run `dvc repro`"
        )
    reports = {Path(name): v for name, v in parsed.items() if name.endswith(".json") and v}
    return Scores(
        title=title,
        documents=documents,
        bounds=frozenset(
            p.stem
            for p, v in reports.items()
            if p.parent.name == "lm" and v.get("lossless") is False
        ),
        answers=answers,
        guardrails={p.stem: v for p, v in reports.items() if p.parent.name == "guardrails"},
    )


def model_of(scores: Scores, name: str) -> Scores:
    """Return what is known of one run or arm.

    Raises:
        InputError: There is none of this name.
    """
    known = sorted({*scores.documents, *scores.answers})
    if name not in known:
        raise InputError(f"no run or arm {name!r} in {scores.title}; there are: {', '.join(known)}")
    return Scores(
        title=f"{name} ({scores.title})",
        documents={"": scores.documents[name]} if name in scores.documents else {},
        bounds=frozenset({""}) if name in scores.bounds else frozenset(),
        answers={"": scores.answers[name]} if name in scores.answers else {},
        guardrails={"": scores.guardrails[name]} if name in scores.guardrails else {},
    )


def _files_in(results: Path) -> Iterator[tuple[str, str]]:
    for folder in FOLDERS:
        for path in sorted((results / folder).glob("*.json*")):
            yield path.as_posix(), path.read_text(encoding="utf-8")


def _files_at(revision: str, results: Path) -> tuple[str, dict[str, str]]:
    """Return the commit in words, and the files by their names in the repository."""
    top = Path(_git("rev-parse", "--show-toplevel").strip())
    try:
        root = results.resolve().relative_to(top.resolve()).as_posix()
    except ValueError:
        raise InputError(f"{results} is not in the git repository {top}") from None
    prefix = "" if root == "." else f"{root}/"
    commit = _commit(revision)
    folders = [f"{prefix}{folder}" for folder in FOLDERS]
    names = _git("ls-tree", "-r", "-z", "--full-tree", "--name-only", commit, "--", *folders)
    title = _git("show", "-s", "--format=%h, %cs, %s", commit).strip()
    if not commit.startswith(revision):
        title = f"{revision}: {title}"
    return title, {
        name: _git("show", f"{commit}:{name}")
        for name in names.split("\0")
        if Path(name).suffix in (".json", ".jsonl")
    }


def _commit(revision: str) -> str:
    """Return the full id of a branch, tag, commit or DVC experiment."""
    found = _git("rev-parse", "--verify", "-q", "--end-of-options", revision + "^{commit}", or_="")
    if found:
        return found.strip()
    references = _git("for-each-ref", "--format=%(objectname) %(refname)", "refs/exps").split("\n")
    experiments = [line.split() for line in references if line.endswith(f"/{revision}")]
    if len(experiments) > 1:
        commits = ", ".join(commit[:10] for commit, _ in experiments)
        raise InputError(
            f"{revision!r} names several DVC experiments: {commits}; give one of these"
        )
    if not experiments:
        raise InputError(
            f"no revision {revision!r}: not a branch, tag or commit of this repository, nor a DVC "
            f"experiment (`dvc exp list -A`); the files as they are: {WORKSPACE}"
        )
    return experiments[0][0]


def _git(*words: str, or_: str | None = None) -> str:
    """Return what a git command says, or ``or_`` where it fails and that is given."""
    try:
        done = subprocess.run(  # noqa: S603
            ["git", *words],  # noqa: S607
            env=os.environ | {"LC_ALL": "C"},  # its complaints are read below
            capture_output=True,
            check=False,
        )
    except OSError:
        raise EnvironmentProblem(
            f"revisions are read with git, which cannot be run; install it; {WORKSPACE} needs none"
        ) from None
    if done.returncode == 0:
        return done.stdout.decode("utf-8")
    if or_ is not None:
        return or_
    said = done.stderr.decode("utf-8", errors="replace").strip()
    if "not a git repository" in said:
        raise InputError(
            f"{Path.cwd()}: not a git repository, so there are no revisions; compare with --models"
        )
    raise InputError(f"git {words[0]}: {said}")


def _parse(where: str, text: str) -> Any:
    try:
        if where.endswith(".jsonl"):
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not JSON ({error})") from None


def _check(where: str, rows: Sequence[Row], keys: frozenset[str]) -> None:
    for number, row in enumerate(rows, start=1):
        if not keys <= row.keys():
            lacking = ", ".join(sorted(keys - row.keys()))
            raise InputError(f"{where}: row {number} lacks {lacking}: not scores of items")


# --- comparing ------------------------------------------------------------------------------------


def compare(a: Scores, b: Scores, params: ResamplingParams = RESAMPLING) -> Comparison:
    """Return every figure that both sides have, on the items that both sides have.

    The rows of the table are one family for Holm's correction. Figures of which no item differs are
    not among them: no test of them could reject anything.
    """
    changes: list[Change] = []
    identical, notes = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for name in _in_both("bits per byte", a.documents, b.documents, notes):
        changes += _documents(a, b, name, params, notes, identical)
    for name in _in_both("answers", a.answers, b.answers, notes):
        if a.answers[name] == b.answers[name]:
            identical["answers"].append(name)
        else:
            sides = (a.answers[name], b.answers[name])
            changes += _answers(sides, name, params, notes, identical)
    for name in sorted(a.guardrails.keys() & b.guardrails.keys()):
        if said := _guardrail(a.guardrails[name], b.guardrails[name]):
            notes[said].append(name)
    family = len(changes)
    adjusted = [
        replace(change, p_holm=p)
        for change, p in zip(changes, holm([change.p for change in changes]), strict=True)
    ]
    return Comparison(
        a=a.title,
        b=b.title,
        changes=[replace(change, verdict=_verdict(change, family)) for change in adjusted],
        identical=_named(identical),
        notes=_named(notes),
    )


def _named(said: Said) -> Said:
    """Return it without the names of two models, which the titles say."""
    return {what: [name for name in names if name] for what, names in said.items()}


def _label(name: str, figure: str) -> str:
    return f"{name}: {figure}" if name else figure


def _in_both(what: str, a: Mapping[str, Any], b: Mapping[str, Any], notes: Said) -> list[str]:
    """Return the names that both sides have; note the others."""
    for side, names in (("A", a.keys() - b.keys()), ("B", b.keys() - a.keys())):
        if names:
            notes[f"{what} only in {side}"] = sorted(names)
    return sorted(a.keys() & b.keys())


def _sharing(shared: int, a: int, b: int, what: str) -> str:
    """Return what to say where not all items are shared."""
    if shared == a == b:
        return ""
    if not shared:
        return f"not compared: none of the {what} is in both ({a} in A, {b} in B)"
    return f"of only those {shared} {what} that are in both ({a} in A, {b} in B)"


def _documents(
    a: Scores, b: Scores, name: str, params: ResamplingParams, notes: Said, identical: Said
) -> Iterator[Change]:
    rows = (a.documents[name], b.documents[name])
    bits, size = shared_documents(*rows)
    if said := _sharing(len(size), len(rows[0]), len(rows[1]), "documents"):
        notes[f"{BITS} {said}"].append(name)
    difference = bits[:, 1] - bits[:, 0]
    if not difference.any():
        if len(size):
            identical[BITS].append(name)
        return
    low, high = interval(difference[:, None], size, params)[:, 0]
    first, second = (bits.sum(axis=0) / size.sum()).tolist()
    yield Change(
        name=name,
        figure=BITS,
        a=first,
        b=second,
        difference=second - first,
        low=float(low),
        high=float(high),
        a_is_bound=name in a.bounds,
        b_is_bound=name in b.bounds,
        **evidence(difference, size, params, outcomes=False),
    )


def _answers(
    sides: tuple[list[Row], list[Row]],
    name: str,
    params: ResamplingParams,
    notes: Said,
    identical: Said,
) -> Iterator[Change]:
    before, after = map(answers_by_key, sides)
    for task in sorted({key[0] for key in before.keys() | after.keys()}):
        in_a, in_b = ({k for k in side if k[0] == task} for side in (before, after))
        shared = sorted(in_a & in_b)
        if said := _sharing(len(shared), len(in_a), len(in_b), "answers"):
            notes[f"{task} {said}"].append(name)
        if not shared:
            continue
        first, second = [before[key] for key in shared], [after[key] for key in shared]
        found = gains(first, second, params)[task]
        means = [np.mean(list(seed_means(rows).values()), axis=0) for rows in (first, second)]
        for place, metric in enumerate(QUALITY):
            figure, gain = f"{task} {NAMES[metric]}", found[metric]
            if all(x[metric] == y[metric] for x, y in zip(first, second, strict=True)):
                identical[figure].append(name)
                continue
            yield Change(
                name=name,
                figure=figure,
                a=float(means[0][place]),
                b=float(means[1][place]),
                difference=gain["mean"],
                low=gain["ci"][0],
                high=gain["ci"][1],
                **{key: gain[key] for key in ("p", "n_items", "detectable")},
            )


def _guardrail(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """Return what to say of two reports: how many samples fail, and of which features."""
    if a == b:
        return ""
    if not all("per_sample" in report for report in (a, b)):
        return "guardrail not compared: one report is of before it was calibrated on people"
    try:
        found = compare_reports(a, b)
    except ArtifactError:
        return "guardrail not compared: its ratios count pieces, and these are of other tokenizers"
    if not found["same_decoding"]:
        return "guardrail not compared: the samples were drawn with other settings"
    failing = " in A, ".join(
        f"{report['failing']} of {len(report['per_sample'])} fail" for report in (a, b)
    )
    beyond = [_beyond(name, row) for name, row in found["features"].items() if _is_beyond(row)]
    few = len(a["per_sample"])
    return "; ".join([f"guardrail not tested, {few} samples are too few: {failing} in B", *beyond])


def _is_beyond(row: Mapping[str, Any]) -> bool:
    """Return whether the mean of either side is outside of what people write."""
    low, high = _bounds(row)
    return any(
        (low is not None and row[side] < low) or (high is not None and row[side] > high)
        for side in ("a", "b")
        if row[side] is not None
    )


def _beyond(name: str, row: Mapping[str, Any]) -> str:
    low, high = _bounds(row)
    people = (f"from {low:.3f}" if low is not None else "") + (
        f" to {high:.3f}" if high is not None else ""
    )
    sides = ", ".join("none" if row[s] is None else f"{row[s]:.3f}" for s in ("a", "b"))
    return f"{name} {sides} (people {people.strip()})"


def _bounds(row: Mapping[str, Any]) -> tuple[float | None, float | None]:
    human = row["human"] or {}
    return human.get("low"), human.get("high")


def _verdict(change: Change, family: int) -> str:
    if change.p_holm < ALPHA:
        verdict = "better" if (change.difference < 0) == change.lower_is_better else "worse"
    else:
        verdict = "no difference shown; " + _limits(change, family)
    if change.a_is_bound != change.b_is_bound:
        verdict += f" ({'A' if change.a_is_bound else 'B'} is a lower bound)"
    return verdict


def _limits(change: Change, family: int) -> str:
    if change.p < ALPHA:
        return f"p < {ALPHA} by itself, but not as one of {family} tests"
    if change.detectable is None:
        return f"too few of {change.n_items} items differ"
    return f"{change.n_items} items could show ≥ {change.detectable:.4f}"


# --- telling --------------------------------------------------------------------------------------


def write_comparison(path: Path, found: Comparison) -> None:
    """Write the comparison as JSON, metrics rounded as everywhere."""
    changes = [asdict(c) | {"lower_is_better": c.lower_is_better} for c in found.changes]
    write_json(path, rounded(asdict(found) | {"changes": changes}))


def render(found: Comparison) -> str:
    """Return the comparison as text for a terminal."""
    blocks = [[f"A  {found.a}", f"B  {found.b}"]]
    if found.changes:
        blocks.append(_table(found.changes))
    elif found.identical:
        blocks.append(["nothing differs"])
    else:
        blocks.append(["nothing could be compared"])
    for title, said in (("identical", found.identical), ("notes", found.notes)):
        if said:
            blocks.append([f"{title}:", *(_saying(what, names) for what, names in said.items())])
    if found.changes:
        blocks.append(_legend(found))
    return "\n\n".join("\n".join(lines) for lines in blocks)


def _saying(what: str, names: Sequence[str]) -> str:
    text = what + (f": {', '.join(names)}" if names else "")
    return fill(text, 100, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)


def _table(changes: Sequence[Change]) -> list[str]:
    header = ("", "A", "B", "B − A", "95 % interval", "items", "p", "p Holm", "verdict on B")
    rows = [header, *map(_cells, changes)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(header))]
    last = len(header) - 1
    return [
        "  ".join(
            cell if place == last else (cell.rjust if place else cell.ljust)(widths[place])
            for place, cell in enumerate(row)
        ).rstrip()
        for row in rows
    ]


def _cells(c: Change) -> tuple[str, ...]:
    return (
        f"{_label(c.name, c.figure)} {'↓' if c.lower_is_better else '↑'}",
        f"{'≥ ' * c.a_is_bound}{c.a:.4f}",
        f"{'≥ ' * c.b_is_bound}{c.b:.4f}",
        f"{c.difference:+.4f}",
        f"[{c.low:+.4f}, {c.high:+.4f}]",
        f"{c.n_items:,}",
        _p(c.p),
        _p(c.p_holm),
        c.verdict,
    )


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _legend(found: Comparison) -> list[str]:
    text = LEGEND.format(rows=len(found.changes), resamples=RESAMPLING.resamples)
    if any(c.a_is_bound or c.b_is_bound for c in found.changes):
        text += BOUNDS
    return text.splitlines()
