"""Two people, one Git server and one remote: a change, an experiment, and what ``gc`` deletes."""

import shutil
import subprocess
from pathlib import Path

import pytest

from cordel.profiles import load_params, save_params
from tests.clones import Clone, stages_run

pytestmark = pytest.mark.minutes


class Team:
    """An author's clone, the Git server that it pushes to, and the storage of both people."""

    def __init__(self, folder: Path, author: Clone) -> None:
        self.folder, self.author = folder, author
        subprocess.run(["git", "clone", "-q", "--bare", author.root, folder / "hub"], check=True)
        author.run("git", "remote", "set-url", "origin", str(folder / "hub"))
        author.run("git", "fetch", "-q", "origin")
        author.run("git", "branch", "-q", "--set-upstream-to", "origin/smoke")
        author.add_remote(str(folder / "storage"))
        author.run("dvc", "push")

    def teammate(self, name: str) -> Clone:
        """Return a new clone from the server, without data."""
        clone = Clone(self.folder / name, source=self.folder / "hub")
        clone.add_remote(str(self.folder / "storage"))
        return clone


@pytest.fixture(scope="module")
def team(smoke: Clone, tmp_path_factory: pytest.TempPathFactory) -> Team:
    folder = tmp_path_factory.mktemp("team")
    return Team(folder, smoke.copy(folder / "author"))


def test_a_teammates_change_reruns_only_its_part_and_comes_back(team: Team) -> None:
    mate = team.teammate("mate")
    params = load_params(mate.root / "params.yaml")
    params["models"]["v1"]["training"]["learning_rate"] = 0.01
    save_params(mate.root / "params.yaml", params)
    output = mate.run("dvc", "repro", "--pull", "--allow-missing", "score_lm@v1")
    assert stages_run(output) == {"train_lm@v1", "score_lm@v1"}
    fetched = {path.name for path in (mate.root / "data/models").iterdir()}
    assert fetched == {"v1"}  # of other runs and of track 2 nothing was needed
    assert not (mate.root / "data/adapters").exists()
    mate.run("dvc", "pull")
    assert stages_run(mate.run("dvc", "repro")) == {
        "sample_lm@v1",
        "check_samples",
        "rank_lm",
        "check_leakage",
        "account_costs",
        "write_cards",
        "render_report",
    }
    mate.commit("v1: another learning rate")
    mate.run("dvc", "push")
    mate.run("git", "push", "-q")

    team.author.run("git", "pull", "-q")
    team.author.run("dvc", "pull")
    assert stages_run(team.author.run("dvc", "repro")) == set()
    assert team.author.lock() == mate.lock()


def test_an_experiment_travels_between_clones(team: Team) -> None:
    change = ("-S", "references.char_order=2")
    team.author.run("dvc", "exp", "run", "--temp", "-n", "bigrams", *change, "score_references")
    assert team.author.run("git", "status", "--short") == ""  # --temp: another folder
    team.author.run("dvc", "exp", "push", "origin", "bigrams")

    mate = team.teammate("reader")
    assert "bigrams" in mate.run("dvc", "exp", "list", "origin")
    mate.run("dvc", "exp", "pull", "origin", "bigrams")
    mate.run("dvc", "exp", "apply", "bigrams")
    scores = "metrics/lm/references.json"
    assert '"order": 2' in (mate.root / scores).read_text("utf-8")
    assert (mate.root / scores).read_text("utf-8") == team.author.at("bigrams", scores)


def test_two_clones_share_one_cache_by_hard_links(team: Team) -> None:
    reader = team.teammate("shared-cache")
    reader.run("dvc", "cache", "dir", "--local", str(team.author.root / ".dvc/cache"))
    reader.run("dvc", "config", "--local", "cache.type", "hardlink,symlink")
    reader.run("dvc", "checkout", "--relink")
    tasks = reader.root / "data/tasks.jsonl"
    assert tasks.stat().st_nlink > 1  # no second copy
    assert tasks.stat().st_mode & 0o222 == 0  # and protected
    text = tasks.read_bytes()
    output = reader.run("dvc", "exp", "run", "-S", "tasks.per_task=2", "prepare_tasks")
    assert stages_run(output) == {"prepare_tasks"}
    assert tasks.read_bytes() != text
    reader.restore()
    assert tasks.read_bytes() == text  # the object in the cache was not written through


def test_gc_of_the_workspace_deletes_the_other_branches_objects(team: Team) -> None:
    author = team.author
    author.run("dvc", "gc", "-f", "--all-branches", "--all-tags", "--all-experiments")
    author.run("dvc", "checkout")  # all of it is still there
    author.run("git", "switch", "-q", "sample")
    author.run("dvc", "gc", "-f", "--workspace")
    author.run("git", "switch", "-q", "smoke")
    shutil.rmtree(author.root / "data/models")  # the workspace had the last copy
    assert "missing-files" in author.run("dvc", "checkout", check=False)
    author.run("dvc", "pull")  # what had been pushed is not lost
    assert "up to date" in author.run("dvc", "status")
