"""Experiments and branches, as docs/experiments.md describes them."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.clones import Clone, stages_run

pytestmark = pytest.mark.minutes
REFERENCES = "metrics/lm/references.json"
QUEUED = {"order-2": 2, "order-4": 4, "order-5": 5}  # names, and references.char_order


@pytest.fixture(scope="module")
def project(smoke: Clone, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """Return one clone for all experiments here; each test gets a clean workspace of it."""
    return smoke.copy(tmp_path_factory.mktemp("experiments"))


@pytest.fixture
def clone(project: Clone) -> Iterator[Clone]:
    yield project
    project.restore()
    assert project.run("git", "status", "--short") == ""


@pytest.fixture(scope="module")
def queued(project: Clone) -> Clone:
    """Return the clone after a queue of three experiments that two workers ran."""
    for name, order in QUEUED.items():
        change = ("-S", f"references.char_order={order}")
        project.run("dvc", "exp", "run", "--queue", "-n", name, *change, "score_references")
    project.run("dvc", "queue", "start", "-j", "2")
    for _ in range(300):
        status = project.run("dvc", "queue", "status")
        if not re.search(r"Queued|Running|[1-9] (active|idle)", status):
            return project
        time.sleep(2)
    raise AssertionError(status)


def params_of(clone: Clone) -> dict:
    return yaml.safe_load((clone.root / "params.yaml").read_text(encoding="utf-8"))


def read(clone: Clone, path: str) -> dict:
    return json.loads((clone.root / path).read_text(encoding="utf-8"))


# --- dvc exp run -S -------------------------------------------------------------------------------


def test_a_scalar_and_a_list(clone: Clone) -> None:
    scalar, items = "references.char_order=2", "tasks.seeds=[7,8,9]"
    output = clone.run(
        *("dvc", "exp", "run", "-S", scalar, "-S", items, "score_references", "prepare_tasks")
    )
    assert stages_run(output) == {"score_references", "prepare_tasks"}
    assert params_of(clone)["tasks"]["seeds"] == [7, 8, 9]
    assert read(clone, REFERENCES)["kneser_ney_char"]["order"] == 2


def test_a_new_run_is_trained_and_scored_but_is_in_no_join(clone: Clone) -> None:
    output = clone.run(
        *("dvc", "exp", "run", "-n", "new-run", "-S", "+models.v8=${models.v1}", "score_lm@v8")
    )
    assert stages_run(output) == {"train_lm@v8", "score_lm@v8"}
    assert params_of(clone)["models"]["v8"] == params_of(clone)["models"]["v1"]
    assert read(clone, "metrics/lm/v8.json") == read(clone, "metrics/lm/v1.json")
    assert "bits per byte only in B: v8" in clone.cordel("compare", "smoke", "new-run")
    assert "nothing differs" in clone.cordel("compare", "--models", "v1", "v8")


def test_a_removed_run_is_refused_until_the_joins_no_longer_name_it(clone: Clone) -> None:
    words = ("dvc", "exp", "run", "-S", "~models.v1", "rank_lm")
    refused = clone.ended(*words)
    assert refused.returncode != 0
    assert "Could not find 'models.v1" in refused.stderr
    assert clone.run("git", "status", "--short") == ""

    pipeline = clone.root / "dvc.yaml"
    pipeline.write_text(without_run("v1", pipeline.read_text("utf-8")), "utf-8")
    assert stages_run(clone.run(*words)) == {"rank_lm"}
    assert set(params_of(clone)["models"]) >= {"v2", "v7"}
    assert "v1" not in read(clone, "metrics/leaderboard.json")


def without_run(run: str, pipeline: str) -> str:
    """Return dvc.yaml without the lines and words that name the files of a run."""
    tokens = rf"'data/tokens/\$\{{models\.{run}\.\w+\}}'"
    file = rf"(?:data|metrics|plots)/[\w/]*/{run}(?:\.\w+)?|{tokens}"
    pipeline = re.sub(rf"(?m)^\s+(?:- )?(?:{file})(?::.*)?\n", "", pipeline)
    return re.sub(rf"(?:{file}) | (?:{file})(?=\n)", "", pipeline)  # indentation must stay


def test_a_killed_experiment_leaves_nothing_that_checkout_does_not_take_back(clone: Clone) -> None:
    # An order of its own: what another test has run would come from the run-cache.
    words = ("dvc", "exp", "run", "-S", "references.char_order=7", "score_references")
    running = subprocess.Popen(
        words, cwd=clone.root, env=clone.env, stdout=subprocess.PIPE, start_new_session=True
    )
    assert running.stdout is not None
    started = any(b"Running stage" in line for line in running.stdout)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert started
    assert params_of(clone)["references"]["char_order"] == 7  # the change is still there
    clone.restore()
    assert "up to date" in clone.run("dvc", "status")


# --- The queue, and what is done with its results -------------------------------------------------


def test_a_queue_of_three_with_two_workers(queued: Clone) -> None:
    assert queued.run("dvc", "queue", "status").count("Success") == len(QUEUED)
    orders = {name: json.loads(queued.at(name, REFERENCES)) for name in QUEUED}
    assert {name: lines["kneser_ney_char"]["order"] for name, lines in orders.items()} == QUEUED
    bits = [lines["kneser_ney_char"]["bits_per_byte"] for lines in orders.values()]
    assert bits == sorted(bits, reverse=True)  # a longer memory is better
    assert queued.run("git", "status", "--short") == ""


def test_experiments_are_shown_and_compared(queued: Clone) -> None:
    table = queued.run("dvc", "exp", "show", "--only-changed", "--csv")
    shown = {line.split(",")[0] for line in table.splitlines()}
    assert shown >= set(QUEUED)
    assert "| references.char_order | 2" in " ".join(
        queued.run("dvc", "exp", "diff", "order-2", "order-4", "--md").split()
    )
    assert "kneser_ney_char.order" in queued.run("dvc", "metrics", "diff", "smoke", "order-4")
    assert "nothing differs" in queued.cordel("compare", "smoke", "order-4")  # of the runs


@pytest.mark.usefixtures("queued")
def test_an_experiment_is_applied_and_becomes_a_branch(clone: Clone) -> None:
    clone.run("dvc", "exp", "apply", "order-4")
    assert params_of(clone)["references"]["char_order"] == 4
    assert read(clone, REFERENCES)["kneser_ney_char"]["order"] == 4
    clone.run("dvc", "exp", "branch", "order-5", "longer-memory")
    scores = json.loads(clone.run("git", "show", f"longer-memory:{REFERENCES}"))
    assert scores["kneser_ney_char"]["order"] == 5


# --- Branches -------------------------------------------------------------------------------------


def test_metrics_and_params_of_two_branches_line_up(clone: Clone) -> None:
    targets = ("--targets", "metrics/lm/v7.json")
    metrics = json.loads(
        clone.ended("dvc", "metrics", "diff", "--json", "sample", "smoke", *targets).stdout
    )
    (found,) = metrics["diff"].values() if "diff" in metrics else metrics.values()
    assert found["parameters"]["old"] > found["parameters"]["new"] > 0
    params = json.loads(clone.ended("dvc", "params", "diff", "--json", "sample", "smoke").stdout)
    changed = params.get("diff", params)["params.yaml"]
    assert changed["profile"] == {"old": "sample", "new": "smoke"}
    assert all(value["old"] != value["new"] for value in changed.values())


@pytest.mark.parametrize("words", [("show",), ("diff", "sample", "smoke")])
def test_plots_open_without_a_network(words: tuple[str, ...], clone: Clone, tmp_path: Path) -> None:
    clone.cordel("offline-plots")
    said = clone.run("dvc", "plots", *words, "-o", str(tmp_path))
    assert "WARNING" not in said
    page = (tmp_path / "index.html").read_text("utf-8")
    markup = re.sub(r"(?s)(<script[^>]*>).*?</script>", r"\1", page)
    assert markup.count("<script") > 1
    assert not re.search(r"\b(src|href)\b", markup)  # all scripts are inside
    assert "window.vegaEmbed=" in page
    assert page.count("vegaEmbed('#") == (1 + 12) + (1 + 4) + 1  # all curves and each, leaderboard
