"""Two revisions or two models: what changed, what did not, and what cannot be compared."""

import json
import math
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cordel.comparison import (
    Comparison,
    Scores,
    compare,
    model_of,
    read_scores,
    render,
    write_comparison,
)
from cordel.evaluation.passages import FEATURES
from cordel.evaluation.significance import ResamplingParams
from cordel.runtime.errors import InputError
from cordel.runtime.files import read_json, write_json, write_jsonl
from tests.cordel.test_cli import cordel

QUICK = ResamplingParams(resamples=4096, confidence=0.95, seed=0)
DOCUMENTS = 12


def documents(per_byte: float, *, first: int = 0, count: int = DOCUMENTS) -> list[dict[str, Any]]:
    """Return documents of 10 bytes that cost so many bits each byte."""
    nats = 10 * per_byte * math.log(2)
    return [
        {"id": f"d{n:02}", "nats": nats, "tokens": 5, "bytes": 10, "unk_bytes": 0}
        for n in range(first, first + count)
    ]


def answers(arm: str, right: str, *, task: str = "qa", first: int = 0) -> list[dict[str, Any]]:
    """Return an answer for each letter: R is right, w is wrong."""
    scores = [(float(letter == "R"), number) for number, letter in enumerate(right, start=first)]
    return [
        {"arm": arm, "task": task, "seed": 1, "id": f"i{number:02}", "too_long": False}
        | {"em": value, "f1": value, "rouge_l": 0.5, "words": 3.0, "ended": True}
        for value, number in scores
    ]


def guardrail(tokenizer: str = "a" * 64, *, failing: int = 5, **changes: Any) -> dict[str, Any]:
    """Return a report as ``check_samples`` writes it."""
    features = {name: changes.pop(name, 0.5) for name in FEATURES}
    return {
        "run": "v1",
        "tokenizer": "t",
        "tokenizer_sha256": tokenizer,
        "decoding": {"top_k": 80},
        "features": features,
        "human": {"order_gain": {"centre": 3.0, "low": 0.4, "high": None}},
        "per_sample": [{}] * 5,
        "failing": failing,
    } | changes


def uncalibrated() -> dict[str, Any]:
    """Return a report that has the thesis' rule alone, as it was written once."""
    return {"aggregate": {"short_alpha_ratio": 0.1}, "tokenizer_sha256": "a" * 64}


def git(*words: str) -> str:
    """Run git in the folder."""
    who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *who, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit(subject: str) -> str:
    """Commit all files and return the commit."""
    git("add", "-A")
    git("commit", "-q", "-m", subject)
    return git("rev-parse", "HEAD")


def run_scored(name: str, rows: list[dict[str, Any]], *, lossless: bool = True) -> None:
    """Write what scoring a run leaves under git."""
    write_jsonl(Path(f"metrics/items/{name}.jsonl"), rows)
    write_json(Path(f"metrics/lm/{name}.json"), {"lossless": lossless} if rows else {})


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a repository whose first commit, the tag ``one``, has three runs and an arm."""
    (tmp_path / "repository").mkdir()
    monkeypatch.chdir(tmp_path / "repository")
    git("init", "-q", "-b", "main")
    run_scored("v1", documents(3.0), lossless=False)
    run_scored("v7", documents(2.0))
    run_scored("gone", documents(4.0))
    run_scored("instruct", [])
    write_jsonl(Path("metrics/items/answers-sft.jsonl"), answers("sft", "RRwwwwwwwwww"))
    write_jsonl(Path("metrics/items/answers-instruct.jsonl"), [])
    commit("One: the first")
    git("tag", "one")
    return Path()


@pytest.fixture
def changed(repository: Path) -> Path:
    """Return it after a second commit, ``main``: v7 is better, a run is renamed."""
    run_scored("v7", documents(1.5))
    Path("metrics/items/gone.jsonl").rename("metrics/items/new.jsonl")
    write_jsonl(Path("metrics/items/answers-sft.jsonl"), answers("sft", "wRRRRRRRRRww"))
    commit("Two: better")
    return repository


def between(a: str, b: str, results: Path = Path()) -> Comparison:
    """Compare two revisions."""
    return compare(read_scores(a, results), read_scores(b, results), QUICK)


# --- two revisions --------------------------------------------------------------------------------


@pytest.mark.usefixtures("changed")
def test_a_run_that_changed_is_told_with_its_interval_and_p() -> None:
    [v7, *_] = between("one", "main").changes
    assert (v7.name, v7.figure, v7.lower_is_better) == ("v7", "bits per byte", True)
    assert (v7.a, v7.b, v7.difference) == pytest.approx((2.0, 1.5, -0.5))
    assert (v7.low, v7.high) == pytest.approx((-0.5, -0.5))
    # All twelve documents: 2 / 2^12. Three rows, so Holm takes it three times.
    assert (v7.p, v7.p_holm) == (2 / 4096, 6 / 4096)
    assert (v7.n_items, v7.verdict) == (12, "better")


@pytest.mark.usefixtures("changed")
def test_answers_are_tested_by_what_was_won_and_lost() -> None:
    _, em, f1 = between("one", "main").changes
    assert (em.name, em.figure, em.lower_is_better) == ("sft", "qa EM", False)
    # Won are 8 of 12, lost is one: 2 (1 + 9) / 2^9, corrected for two tests that are left.
    assert (em.a, em.b, em.difference) == pytest.approx((2 / 12, 9 / 12, 7 / 12))
    assert (em.p, f1.p) == (0.0390625, 0.0390625)
    assert em.p_holm == 2 * 0.0390625
    assert em.verdict == "no difference shown; p < 0.05 by itself, but not as one of 3 tests"


@pytest.mark.usefixtures("changed")
def test_what_is_identical_is_said_once() -> None:
    found = between("one", "main")
    assert found.identical == {"bits per byte": ["v1"], "qa ROUGE-L": ["sft"]}
    assert render(found).count("v1") == 1


@pytest.mark.usefixtures("changed")
def test_runs_of_one_side_are_named() -> None:
    assert between("one", "main").notes == {
        "bits per byte only in A": ["gone"],
        "bits per byte only in B": ["new"],
    }


@pytest.mark.usefixtures("changed")
def test_the_other_way_round_what_was_better_is_worse() -> None:
    [v7, *_] = between("main", "one").changes
    assert (v7.difference, v7.verdict) == (pytest.approx(0.5), "worse")


@pytest.mark.usefixtures("changed")
def test_a_revision_and_itself_differ_in_nothing() -> None:
    found = between("main", "HEAD")
    assert (found.changes, found.notes) == ([], {})
    assert "nothing differs\n\nidentical:\n  bits per byte: new, v1, v7\n  answers: sft" in render(
        found
    )


@pytest.mark.usefixtures("changed")
def test_the_workspace_is_the_files_as_they_are() -> None:
    run_scored("v1", documents(2.5), lossless=False)
    [v1] = between("main", "workspace").changes
    assert (v1.name, v1.b, v1.verdict) == ("v1", pytest.approx(2.5), "better")
    assert between("workspace", "workspace").changes == []


@pytest.mark.usefixtures("changed")
def test_an_experiment_is_found_by_its_name() -> None:
    run_scored("v1", documents(2.0), lossless=False)
    tried = commit("An experiment")
    git("update-ref", f"refs/exps/ab/{'c' * 38}/lilac-vole", tried)
    git("reset", "-q", "--hard", "HEAD~1")
    [v1] = between("HEAD", "lilac-vole").changes
    assert (v1.name, v1.b) == ("v1", pytest.approx(2.0))


@pytest.mark.usefixtures("changed")
def test_an_experiment_name_of_two_is_refused_with_their_commits() -> None:
    for place, name in (("ab", "one"), ("cd", "main")):
        git("update-ref", f"refs/exps/{place}/{'c' * 38}/lilac-vole", git("rev-parse", name))
    with pytest.raises(
        InputError, match=r"'lilac-vole' names several DVC experiments: [0-9a-f]{10}"
    ):
        between("one", "lilac-vole")


@pytest.mark.usefixtures("repository")
def test_other_documents_are_left_out_and_that_is_said() -> None:
    # Shared are d02 to d11; those that are not shared cost 9 bits a byte.
    run_scored("v7", [*documents(1.5, first=2, count=10), *documents(9.0, first=12, count=5)])
    [v7] = between("one", "workspace").changes
    assert (v7.n_items, v7.a, v7.b) == (10, pytest.approx(2.0), pytest.approx(1.5))
    assert between("one", "workspace").notes == {
        "bits per byte of only those 10 documents that are in both (12 in A, 15 in B)": ["v7"]
    }


@pytest.mark.usefixtures("repository")
def test_a_run_that_only_lost_documents_is_as_before_on_the_rest() -> None:
    run_scored("v7", documents(2.0, count=7))
    found = between("one", "workspace")
    assert found.changes == []
    assert "v7" in found.identical["bits per byte"]
    [note] = found.notes
    assert note.startswith("bits per byte of only those 7 documents")


@pytest.mark.usefixtures("repository")
def test_other_answers_are_left_out_and_that_is_said() -> None:
    rows = answers("sft", "RRRRRRRR", first=6) + answers("sft", "RR", task="rewriting")
    write_jsonl(Path("metrics/items/answers-sft.jsonl"), rows)
    found = between("one", "workspace")
    assert [(c.figure, c.n_items, c.a, c.b) for c in found.changes] == [
        ("qa EM", 6, 0, 1),
        ("qa F1", 6, 0, 1),
    ]
    assert found.notes == {
        "qa of only those 6 answers that are in both (12 in A, 8 in B)": ["sft"],
        "rewriting not compared: none of the answers is in both (0 in A, 2 in B)": ["sft"],
    }


@pytest.mark.usefixtures("repository")
def test_without_a_shared_document_nothing_is_compared() -> None:
    for name in ("v1", "v7", "gone"):
        run_scored(name, documents(1.5, first=50))
    Path("metrics/items/answers-sft.jsonl").unlink()
    found = between("one", "workspace")
    assert found.notes[
        "bits per byte not compared: none of the documents is in both (12 in A, 12 in B)"
    ] == [
        "gone",
        "v1",
        "v7",
    ]
    assert "nothing could be compared" in render(found)


@pytest.mark.usefixtures("repository")
def test_results_of_another_profile_are_read_from_their_folder() -> None:
    Path("results/ptbr").mkdir(parents=True)
    Path("metrics").rename("results/ptbr/metrics")
    commit("Moved")
    run_there = Path("results/ptbr/metrics/items/v7.jsonl")
    write_jsonl(run_there, documents(1.0))
    [v7] = between("HEAD", "workspace", Path("results/ptbr")).changes
    assert (v7.a, v7.b) == pytest.approx((2, 1))


@pytest.mark.usefixtures("repository")
def test_a_folder_inside_the_repository_is_a_root_too(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("project").mkdir()
    Path("metrics").rename("project/metrics")
    commit("Moved")
    monkeypatch.chdir("project")
    assert read_scores("HEAD", Path()).documents.keys() == {"v1", "v7", "gone"}


# --- two models -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("changed")
def test_two_models_of_one_revision() -> None:
    scores = read_scores("main", Path())
    found = compare(model_of(scores, "v1"), model_of(scores, "v7"), QUICK)
    [bits] = found.changes
    assert (bits.a, bits.b, bits.verdict) == (3, 1.5, "better (A is a lower bound)")
    assert "bits per byte ↓  ≥ 3.0000  1.5000  -1.5000" in render(found)
    assert "≥ marks a lower bound" in render(found)


@pytest.mark.usefixtures("changed")
def test_an_arm_has_bits_and_answers() -> None:
    run_scored("sft", documents(2.5))
    scores = read_scores("workspace", Path())
    found = compare(model_of(scores, "v7"), model_of(scores, "sft"), QUICK)
    assert [c.figure for c in found.changes] == ["bits per byte"]
    assert found.notes == {"answers only in B": []}
    assert "\n  answers only in B\n" in render(found)


@pytest.mark.usefixtures("repository")
def test_a_model_that_is_not_there_is_named_with_those_that_are() -> None:
    message = r"no run or arm 'v8' in workspace; there are: gone, sft, v1, v7"
    with pytest.raises(InputError, match=message):
        model_of(read_scores("workspace", Path()), "v8")


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (guardrail(), guardrail(failing=1), "too few: 5 of 5 fail in A, 1 of 5 fail in B"),
        (
            guardrail(),
            guardrail(order_gain=0.1),
            "in B; order_gain 0.500, 0.100 (people from 0.400)",
        ),
        (
            guardrail(order_gain=None),
            guardrail(order_gain=0.3),
            "order_gain none, 0.300 (people from 0.400)",
        ),
        (guardrail(), guardrail("b" * 64), "count pieces, and these are of other tokenizers"),
        (guardrail(), guardrail(decoding={"top_k": 9}), "drawn with other settings"),
        (uncalibrated(), guardrail(), "one report is of before it was calibrated on people"),
        (guardrail(), guardrail(), None),
    ],
)
def test_guardrails_compare_only_the_same_pieces(
    a: dict[str, Any], b: dict[str, Any], expected: str | None
) -> None:
    notes = compare(
        Scores(title="A", guardrails={"v1": a, "v2": a}),
        Scores(title="B", guardrails={"v1": b, "v2": b}),
    ).notes
    assert list(notes.values()) == ([["v1", "v2"]] if expected else [])
    assert all(note.endswith(expected or "") for note in notes)


# --- what is said ---------------------------------------------------------------------------------


def scores_of(rows: list[dict[str, Any]]) -> Scores:
    """Return an arm's answers as one side."""
    return Scores(title="side", answers={"": rows})


def test_too_little_is_said_with_what_could_have_been_shown() -> None:
    # Four wins and three losses of twelve.
    a, b = answers("a", "RRRwwwwwwwww"), answers("a", "wwwRRRRwwwww")
    em, _ = compare(scores_of(a), scores_of(b), QUICK).changes
    assert em.p == 1
    assert em.verdict == f"no difference shown; 12 items could show ≥ {em.detectable:.4f}"
    # sd of 4 ones, 3 minus ones and 5 zeros is 0.7930; 2.8016 x sd / sqrt(12).
    assert em.detectable == pytest.approx(0.6413, abs=1e-4)


def test_too_few_items_that_differ_are_said() -> None:
    found = compare(scores_of(answers("a", "RRRw")), scores_of(answers("a", "wwww")), QUICK)
    assert found.changes[0].verdict == "no difference shown; too few of 4 items differ"


@pytest.mark.usefixtures("changed")
def test_lower_bounds_on_both_sides_are_marked_but_not_excused() -> None:
    run_scored("v1", documents(2.5), lossless=False)
    text = render(between("main", "workspace"))
    assert "v1: bits per byte ↓  ≥ 3.0000  ≥ 2.5000  -0.5000" in text
    assert "A difference\nfrom it is one of bounds." in text


@pytest.mark.usefixtures("changed")
def test_the_caveat_of_training_seeds_is_told() -> None:
    text = render(between("one", "main"))
    assert "not over training runs" in text
    assert "the number of rows here, 3." in text
    assert "≥ marks" not in text  # v1, the only bound, is as before


@pytest.mark.usefixtures("changed")
def test_the_sides_say_what_they_are() -> None:
    first, second, *_ = render(between("one", "workspace")).splitlines()
    assert first.startswith(f"A  one: {git('rev-parse', '--short', 'one')}, 20")
    assert first.endswith(", One: the first")
    assert second == "B  workspace"
    sha = git("rev-parse", "HEAD")[:9]
    assert read_scores(sha, Path()).title.startswith(git("rev-parse", "--short", "HEAD") + ", 20")


@pytest.mark.usefixtures("changed")
def test_the_same_as_data(tmp_path: Path) -> None:
    found = between("one", "main")
    write_comparison(tmp_path / "out.json", found)
    data = read_json(tmp_path / "out.json")
    assert data.keys() == {"a", "b", "changes", "identical", "notes"}
    [v7, *_] = data["changes"]
    assert v7 == {
        "name": "v7",
        "figure": "bits per byte",
        "lower_is_better": True,
        "a": 2.0,
        "b": 1.5,
        "difference": -0.5,
        "low": -0.5,
        "high": -0.5,
        "p": 0.000488,
        "p_holm": 0.001465,
        "n_items": 12,
        "detectable": None,
        "a_is_bound": False,
        "b_is_bound": False,
        "verdict": "better",
    }


# --- mistakes -------------------------------------------------------------------------------------

EMPTY = "HEAD: no scores of items in elsewhere/metrics/items; name another folder with --results"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("one", "nope"),
            "no revision 'nope': not a branch, tag or commit of this repository, nor",
        ),
        (("one", "--", "-x"), "no revision '-x'"),
        (("one", "metrics"), "no revision 'metrics'"),
        (("one", "HEAD:metrics"), "no revision 'HEAD:metrics'"),
        (("HEAD", "one", "--results", "elsewhere"), EMPTY),
        (("HEAD", "one", "--results", "/"), "/ is not in the git repository"),
        (("--models", "v1", "v8"), "no run or arm 'v8' in workspace; there are: gone, sft, v1, v7"),
        (("--models", "v1", "v7", "--rev", "nope"), "no revision 'nope'"),
    ],
)
def test_a_mistake_is_one_line(
    words: tuple[str, ...], message: str, repository: Path, project: Path
) -> None:
    done = cordel(repository, project, "compare", *words)
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert line.startswith(f"error: {message}")


def test_outside_of_a_repository_only_files_can_be_read(
    tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    done = cordel(tmp_path, project, "compare", "main", "HEAD")
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path}: not a git repository, so there are no revisions")
    run_scored("v1", documents(3.0))
    run_scored("v2", documents(2.0))
    assert cordel(tmp_path, project, "compare", "--models", "v1", "v2").returncode == 0


def test_without_git_that_is_said(
    repository: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    done = cordel(repository, project, "compare", "main", "HEAD")
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("error: revisions are read with git, which cannot be run")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("v7.jsonl", "{", "workspace:metrics/items/v7.jsonl: not JSON"),
        ("v7.jsonl", '{"id": "a"}', "v7.jsonl: row 1 lacks bytes, nats, unk_bytes: not scores"),
        ("answers-sft.jsonl", '{"arm": "a"}', "row 1 lacks em, f1, id, rouge_l, seed, task, words"),
    ],
)
@pytest.mark.usefixtures("repository")
def test_a_broken_file_is_named(name: str, text: str, message: str) -> None:
    Path(f"metrics/items/{name}").write_text(text)
    with pytest.raises(InputError, match=message):
        read_scores("workspace", Path())


def test_rev_goes_with_models(repository: Path, project: Path) -> None:
    done = cordel(repository, project, "compare", "one", "main", "--rev", "main")
    assert done.returncode == 2
    assert "--rev goes with --models" in done.stderr


def test_help_teaches_examples(repository: Path, project: Path) -> None:
    done = cordel(repository, project, "compare", "--help")
    assert done.returncode == 0
    for words in ("cordel compare main HEAD", "--models base sft", "workspace", "experiment"):
        assert words in done.stdout


# --- this repository ------------------------------------------------------------------------------


def test_the_samples_arms_at_the_command_line(project: Path, tmp_path: Path) -> None:
    file = tmp_path / "changes.json"
    done = cordel(project, project, "compare", "--models", "base", "sft", "--json", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    changes = {c["figure"]: c for c in json.loads(file.read_text("utf-8"))["changes"]}
    score = {
        n: read_json(project / f"metrics/lm/{n}.json")["bits_per_byte"] for n in ("base", "sft")
    }
    bits = changes["bits per byte"]
    assert (bits["a"], bits["b"]) == pytest.approx((score["base"], score["sft"]), abs=2e-6)
    gain = read_json(project / "metrics/answers.json")["gains"]["sft-base"]["qa"]["f1"]
    f1 = changes["qa F1"]
    assert [f1["difference"], f1["low"], f1["high"]] == [gain["mean"], *gain["ci"]]
    assert f1["verdict"] == "better"
    assert "qa F1 ↑" in done.stdout


def test_the_published_profile_differs_from_itself_in_nothing(project: Path) -> None:
    done = cordel(project, project, "compare", "HEAD", "HEAD", "--results", "results/ptbr")
    assert (done.returncode, done.stderr) == (0, "")
    assert "nothing differs" in done.stdout
