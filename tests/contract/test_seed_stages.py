"""Further training seeds: stages of their own, which obey the contract and touch no other stage."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo

from cordel.seeds import add_seeds, remove_seeds
from tests.contract import test_pipeline_contract as contract
from tests.contract.test_pipeline_contract import ROOT, code_deps, declared_params

PARAMS_WITHOUT = [*contract.PARAMS["seeds"]["models"], *contract.PARAMS["seeds"]["sft"]]
V7 = {f"{stage}_seeds@v7-143" for stage in ("train_lm", "score_lm")}
SFT = {
    f"{stage}_seeds@{key}"
    for stage in ("adapt_sft", "generate_answers", "score_answers")
    for key in ("sft-143", "cpt_sft-143")
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a DVC repository with this one's dvc.yaml and params.yaml, but no further seeds."""
    folder = tmp_path_factory.mktemp("seeds")
    Repo.init(str(folder), no_scm=True).close()
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copyfile(ROOT / name, folder / name)
    remove_seeds(PARAMS_WITHOUT, root=folder)
    return folder


def resolved(tree: Path) -> dict[str, Any]:
    """Return the stages by name."""
    with Repo(str(tree)) as repo:
        stages: list[Any] = list(repo.index.stages)
    return {stage.name: stage for stage in stages}


def told(stage: Any) -> dict[str, Any]:
    """Return all that decides whether a stage is run again."""
    return {
        "cmd": stage.cmd,
        "deps": sorted(d.def_path for d in stage.deps),
        "params": sorted(declared_params(stage)),
        "outs": sorted(o.def_path for o in stage.outs),
    }


@pytest.fixture(scope="module")
def before(tree: Path) -> dict[str, Any]:
    """Return the stages without further seeds."""
    return resolved(tree)


@pytest.fixture(scope="module")
def after(tree: Path, before: dict[str, Any]) -> dict[str, Any]:
    """Return the stages with one seed of v7 and of both arms."""
    assert before
    for name in ("v7", "sft", "cpt_sft"):
        add_seeds(name, [143], root=tree)
    return resolved(tree)


def test_without_further_seeds_there_is_no_stage_of_them(before: dict[str, Any]):
    assert not [name for name in before if "_seeds" in name]


def test_a_new_seed_adds_its_own_stages_and_changes_no_other(
    before: dict[str, Any], after: dict[str, Any]
):
    assert after.keys() - before.keys() == V7 | SFT
    assert {name: told(after[name]) for name in before} == {n: told(s) for n, s in before.items()}


def test_no_other_stage_reads_what_a_seed_writes(after: dict[str, Any]):
    written = {out.def_path for name in V7 | SFT for out in after[name].outs}
    others = {dep.def_path for n, s in after.items() if n not in V7 | SFT for dep in s.deps}
    assert len(written) == 6 + 2 * 8
    assert not written & others


def test_one_more_seed_leaves_the_first_ones_alone(tree: Path, after: dict[str, Any]):
    add_seeds("v7", [144], root=tree)
    more = resolved(tree)
    remove_seeds(["v7-144"], root=tree)
    assert more.keys() - after.keys() == {"train_lm_seeds@v7-144", "score_lm_seeds@v7-144"}
    assert {name: told(more[name]) for name in V7} == {name: told(after[name]) for name in V7}


@pytest.mark.parametrize(
    ("further", "default"),
    [
        ("train_lm_seeds@v7-143", "train_lm@v7"),
        ("score_lm_seeds@v7-143", "score_lm@v7"),
        ("adapt_sft_seeds@sft-143", "adapt_sft@sft"),
        ("adapt_sft_seeds@cpt_sft-143", "adapt_sft@cpt_sft"),
        ("generate_answers_seeds@sft-143", "generate_answers@sft"),
    ],
)
def test_a_further_seed_is_made_as_the_default_one(
    further: str, default: str, after: dict[str, Any]
):
    # The same params: editing models.v7 or sft reruns the seeds as well. The same code and inputs,
    # but for the key in the names of what came before.
    arm = default.partition("@")[2]
    new, old = told(after[further]), told(after[default])
    assert new["params"] == old["params"]
    assert sorted(d.replace(f"{arm}-143", arm) for d in new["deps"]) == old["deps"]


@pytest.mark.parametrize("name", sorted(V7 | SFT))
@pytest.mark.parametrize(
    "rule",
    [
        contract.test_every_stage_says_what_it_is_for,
        contract.test_code_deps_are_the_import_closure,
        contract.test_command_names_every_input_and_output,
        contract.test_sections_read_are_the_params_declared,
        contract.test_a_stage_of_one_run_depends_on_that_run_alone,
        contract.test_git_tracked_files_are_metrics_or_plots,
    ],
)
def test_the_stages_of_a_seed_keep_the_contract(name: str, rule: Any, after: dict[str, Any]):
    rule(after[name])


def test_each_seed_is_on_its_command_line(after: dict[str, Any]):
    assert " --run 'v7' --seed '143' " in after["train_lm_seeds@v7-143"].cmd
    assert " --arm 'cpt_sft-143' --seed '143' " in after["adapt_sft_seeds@cpt_sft-143"].cmd
    assert " --start 'data/adapters/cpt' " in after["adapt_sft_seeds@cpt_sft-143"].cmd


def test_no_stage_depends_on_the_list_of_seeds(after: dict[str, Any]):
    assert not [name for name, stage in after.items() if "seeds" in declared_params(stage)]
    assert "src/cordel/seeds.py" not in {dep for s in after.values() for dep in code_deps(s)}
