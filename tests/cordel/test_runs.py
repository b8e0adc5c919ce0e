"""A run more or less, in a small params.yaml and dvc.yaml, then in the committed ones."""

import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.repo import Repo

from cordel.runs import add_run, remove_run
from cordel.runtime.errors import InputError, ParamsError
from tests.contract import test_pipeline_contract as contract

ROOT = Path(__file__).parents[2]
PARAMS = """\
corpus: {path: x}

models:                 # one run each
  v1:                   # the first
    dataset: small      # of datasets
    model:
      d_model: 3

  v12:
    dataset: large

# --- Then ---
scoring:
  batch_size: 2
seeds: {models: {}}
"""
PIPELINE = """\
stages:
  join:  # v1 and the others
    cmd: >-
      python -m stages.join --scores metrics/lm/v1.json metrics/lm/v12.json --tokens
      'data/tokens/${models.v1.dataset}' --out metrics/all.json
    deps:
      - metrics/lm/v1.json
      - metrics/lm/v12.json
    metrics:
      - metrics/guardrails/v1.json: {cache: false}
  card:  # of one run, which is no join
    cmd: python -m stages.card --scores metrics/lm/v12.json
plots:
  - Curves:
      y:
        plots/curves/v1.csv: val_bits_per_byte
        plots/curves/v12.csv: val_bits_per_byte
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text(PARAMS, "utf-8")
    (tmp_path / "dvc.yaml").write_text(PIPELINE, "utf-8")
    return tmp_path


def texts(project: Path) -> tuple[str, str]:
    return tuple((project / name).read_text("utf-8") for name in ("params.yaml", "dvc.yaml"))  # type: ignore[return-value]


def test_a_copy_stands_beside_what_it_was_copied_from(project: Path) -> None:
    assert add_run("v2", "v1", root=project) == 5
    params, pipeline = texts(project)
    copy = "  v2:  # begun as a copy of v1\n    dataset: small      # of datasets\n"
    assert f"      d_model: 3\n{copy}    model:\n      d_model: 3\n\n  v12:\n" in params
    found = yaml.safe_load(pipeline)
    join = found["stages"]["join"]
    assert shlex.split(join["cmd"])[3:] == [
        *("--scores", "metrics/lm/v1.json", "metrics/lm/v2.json", "metrics/lm/v12.json"),
        *("--tokens", "data/tokens/${models.v1.dataset}", "data/tokens/${models.v2.dataset}"),
        *("--out", "metrics/all.json"),
    ]
    assert "\n" not in join["cmd"]  # a line that is indented further would stay a line of its own
    assert join["deps"] == ["metrics/lm/v1.json", "metrics/lm/v2.json", "metrics/lm/v12.json"]
    assert join["metrics"][1] == {"metrics/guardrails/v2.json": {"cache": False}}
    assert found["plots"][0]["Curves"]["y"]["plots/curves/v2.csv"] == "val_bits_per_byte"


def test_what_is_of_one_run_alone_stays_as_it_is(project: Path) -> None:
    add_run("v13", "v12", root=project)
    card = yaml.safe_load(texts(project)[1])["stages"]["card"]
    assert card["cmd"] == "python -m stages.card --scores metrics/lm/v12.json"
    with pytest.raises(InputError, match=r"dvc\.yaml names v12 elsewhere too \(line \d+: 'cmd: "):
        remove_run("v12", root=project)


def test_the_last_run_is_copied_without_what_follows_it(project: Path) -> None:
    add_run("v13", "v12", root=project)
    assert "  v13:  # begun as a copy of v12\n    dataset: large\n\n# --- Then" in texts(project)[0]


@pytest.mark.parametrize("run", ["v1", "v12"])
def test_what_was_added_can_be_removed(run: str, project: Path) -> None:
    before = [yaml.safe_load(text) for text in texts(project)]
    places = add_run("v2", run, root=project)
    assert remove_run("v2", root=project) == places
    assert [yaml.safe_load(text) for text in texts(project)] == before


def test_a_removed_run_is_in_no_list(project: Path) -> None:
    remove_run("v1", root=project)
    params, pipeline = texts(project)
    assert list(yaml.safe_load(params)["models"]) == ["v12"]
    assert "v1" not in pipeline.replace("v12", "").replace("# v1 and", "")
    words = shlex.split(yaml.safe_load(pipeline)["stages"]["join"]["cmd"])[3:]
    assert words == ["--scores", "metrics/lm/v12.json", "--tokens", "--out", "metrics/all.json"]


@pytest.mark.parametrize(
    ("name", "like", "message"),
    [
        ("v2; ls", "v1", "run 'v2; ls': expected letters"),
        ("../v2", "v1", "run '../v2': expected letters"),
        ("v12", "v1", r"models\.v12: there is something of this name already"),
        ("join", "v1", r"models\.join: there is something of this name already"),
        ("v2", "v3", r"models\.v3: no such run; there are: v1, v12"),
    ],
)
def test_what_cannot_be_added(name: str, like: str, message: str, project: Path) -> None:
    before = texts(project)
    with pytest.raises(ParamsError, match=message):
        add_run(name, like, root=project)
    assert texts(project) == before


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            "dvc.yaml",
            "plots:\n",
            "again:\n  run: [v1]\nplots:\n",
            r"dvc\.yaml .* \(line 12: 'run: ",
        ),
        ("params.yaml", "{models: {}}", "{models: {v1-7: {run: v1}}}", r"params\.yaml names v1"),
    ],
)
def test_a_run_that_is_named_elsewhere_stays(
    file: str, old: str, new: str, message: str, project: Path
) -> None:
    path = project / file
    path.write_text(path.read_text("utf-8").replace(old, new), "utf-8")
    before = texts(project)
    with pytest.raises(InputError, match=message):
        remove_run("v1", root=project)
    assert texts(project) == before


JOINS = ["rank_lm", "check_samples", "check_leakage", "account_costs", "render_report"]


@pytest.fixture(scope="module")
def stages_with_v8(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the stages of the committed pipeline after ``cordel add-run v8 --like v7``."""
    folder = tmp_path_factory.mktemp("added")
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copyfile(ROOT / name, folder / name)
    add_run("v8", "v7", root=folder)
    Repo.init(str(folder), no_scm=True)
    stages: list[Any] = list(Repo(str(folder)).index.stages)
    return {stage.name: stage for stage in stages}


def test_every_stage_of_a_run_is_there_for_the_new_one(stages_with_v8: dict[str, Any]) -> None:
    new = {name for name in stages_with_v8 if name.endswith("@v8")}
    old = {n for n in stages_with_v8 if n.endswith("@v7") and not n.startswith("export_model")}
    assert {name.replace("@v8", "@v7") for name in new} == old
    assert len(new) == 3


@pytest.mark.parametrize("like", ["v1", "v6_rc16k_v5b", "v7"])
def test_a_run_that_comes_and_goes_leaves_the_pipeline_as_it_was(like: str, tmp_path: Path) -> None:
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    before = [yaml.safe_load(text) for text in texts(tmp_path)]
    add_run("v8", like, root=tmp_path)
    added = yaml.safe_load(texts(tmp_path)[1])["stages"]
    for name, stage in before[1]["stages"].items():  # each word once more, and no other
        words = shlex.split(added[name].get("do", added[name])["cmd"])
        assert [w for w in words if "v8" not in w] == shlex.split(stage.get("do", stage)["cmd"])
    remove_run("v8", root=tmp_path)
    assert [yaml.safe_load(text) for text in texts(tmp_path)] == before


@pytest.mark.parametrize("join", JOINS)
def test_every_join_names_the_new_run_as_often_as_the_old(
    join: str, stages_with_v8: dict[str, Any]
) -> None:
    stage = stages_with_v8[join]
    words = shlex.split(stage.cmd)
    paths = [dep.def_path for dep in stage.deps] + [out.def_path for out in stage.outs]
    for names in (words, paths):
        of_v7 = [n for n in names if Path(n).stem == "v7"]
        assert [n.replace("v7", "v8") for n in of_v7] == [n for n in names if Path(n).stem == "v8"]
    assert any(Path(word).stem == "v8" for word in words)
    assert "v8" not in stages_with_v8["write_cards"].cmd
    contract.test_command_names_every_input_and_output(stage)
