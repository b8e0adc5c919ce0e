"""The DAG is the architecture: dvc.yaml must say exactly what the code does.

DVC reruns a stage when a file in its ``deps`` changes, and only then. It cannot see imports. So a
dep we forget gives stale numbers that look fresh, and a dep we do not need burns GPU hours.
"""

import ast
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.repo import Repo

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
REGISTRY = "src/cordel/models/__init__.py"
BUILDERS = {"src/cordel/checkpoints.py", "src/cordel/training/loop.py"}  # who load and who train
CODE = ("src/", "stages/")
PLUMBING = "src/cordel/runtime/"  # logs, progress, file I/O: cannot change an output's bytes

STAGES = {stage.addressing: stage for stage in Repo(str(ROOT)).index.stages}
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
every_stage = pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)


def entry_point(stage: Any) -> Path:
    module = shlex.split(stage.cmd)[2]
    return ROOT / (module.replace(".", "/") + ".py")


def module_files(name: str) -> list[Path]:
    """Files Python would read for ``import name``: the module and its parent packages."""
    path = SOURCE.joinpath(*name.split("."))
    packages = [p for p in (path, *path.parents) if p.is_relative_to(SOURCE / "cordel")]
    candidates = [path.with_suffix(".py"), *(p / "__init__.py" for p in packages)]
    return [file for file in candidates if file.exists()]


def imported_names(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] == "cordel"}


def is_code(file: Path) -> bool:
    """A package ``__init__`` holding only a docstring cannot change anything."""
    return file.name != "__init__.py" or len(ast.parse(file.read_text(encoding="utf-8")).body) > 1


def import_closure(entry: Path) -> set[str]:
    todo, seen = [entry], set()
    while todo:
        file = todo.pop()
        relative = file.relative_to(ROOT).as_posix()
        if file in seen or relative.startswith(PLUMBING):
            continue
        seen.add(file)
        todo += [f for name in imported_names(file) for f in module_files(name)]
    found = {f for f in seen if is_code(f)}
    found |= {read for file in found for read in read_beside(file)}
    return {f.relative_to(ROOT).as_posix() for f in found}


def read_beside(file: Path) -> set[Path]:
    """Templates, styles, texts: what lies in a module's folder and is none is read by it."""
    beside = (SOURCE / "cordel") in file.parents
    return (
        {f for f in file.parent.iterdir() if f.is_file() and f.suffix != ".py"} if beside else set()
    )


def code_deps(stage: Any) -> set[str]:
    return {dep.def_path for dep in stage.deps if dep.def_path.startswith(CODE)}


def declared_params(stage: Any) -> list[str]:
    return [key for dep in stage.deps for key in getattr(dep, "params", [])]


def read_sections(stage: Any) -> set[str]:
    """Top-level sections named in the stage's calls of read_params and read_section."""
    found = set()
    for node in ast.walk(ast.parse(entry_point(stage).read_text(encoding="utf-8"))):
        called = (
            getattr(getattr(node, "func", None), "id", "") if isinstance(node, ast.Call) else ""
        )
        if called in ("read_params", "read_section"):
            section = node.args[0]  # "sft", or f"models.{name}"
            literal = section if isinstance(section, ast.Constant) else section.values[0]
            found.add(literal.value.split(".")[0])
    return found


def test_the_pipeline_has_the_stages_it_is_known_for():
    defaults = [name for name in STAGES if "_seeds@" not in name]
    assert 80 <= len(defaults) <= 90  # and so the parametrized tests below are not empty
    assert len(PARAMS["models"]) == 12


def test_every_stage_file_is_a_stage_and_back():
    files = {p for p in (ROOT / "stages").glob("*.py") if p.name != "__init__.py"}
    assert files == {entry_point(stage) for stage in STAGES.values()}


@every_stage
def test_every_stage_says_what_it_is_for(stage: Any):
    assert stage.desc
    assert stage.desc.endswith(".")


@every_stage
def test_code_deps_are_the_import_closure(stage: Any):
    declared, imported = code_deps(stage), import_closure(entry_point(stage))
    if imported & BUILDERS:  # it builds one architecture by name: declare exactly one
        chosen = {d for d in declared if Path(d).parent == Path(REGISTRY).parent} - {REGISTRY}
        assert len(chosen) == 1
        imported |= chosen
    assert declared == imported


@every_stage
def test_command_names_every_input_and_output(stage: Any):
    words = set(shlex.split(stage.cmd)[3:])
    inputs = {dep.def_path for dep in stage.deps if not dep.def_path.startswith(CODE)}
    data = (inputs - {"params.yaml"}) | {out.def_path for out in stage.outs}
    assert data <= words, "declared but not passed to the command"
    assert {w for w in words if "/" in w} <= data, "passed to the command but not declared"


@every_stage
def test_sections_read_are_the_params_declared(stage: Any):
    assert read_sections(stage) == {key.split(".")[0] for key in declared_params(stage)}


@every_stage
def test_a_stage_of_one_run_depends_on_that_run_alone(stage: Any):
    # `models` as a whole would retrain everything when one run changes.
    assert not set(declared_params(stage)) & {"models", "tokenizers", "cleaning", "datasets"}


@every_stage
def test_git_tracked_files_are_metrics_or_plots(stage: Any):
    # A plain out with cache: false switches DVC's run-cache off for its stage.
    for out in stage.outs:
        assert out.use_cache is not bool(out.metric or out.plot)


RUNS = set(PARAMS["models"])
ARMS = {"base", "cpt", "sft", "cpt_sft", "instruct", "instruct_sft"}


def joined(stage: str, folder: str) -> set[str]:
    """Return the names of the files of ``folder`` that a join depends on."""
    paths = [Path(dep.def_path) for dep in STAGES[stage].deps]
    return {path.stem for path in paths if path.parent == Path(folder)}


def test_joins_list_every_run():
    assert joined("rank_lm", "metrics/lm") - {"references"} == RUNS | ARMS
    assert joined("rank_lm", "metrics/items") == RUNS | ARMS
    assert joined("check_samples", "data/samples") == RUNS
    assert joined("score_answers", "data/answers") == ARMS
    assert joined("account_costs", "data/models") == RUNS
    assert joined("render_report", "metrics/lm") - {"references"} == RUNS | ARMS
    assert joined("render_report", "metrics/guardrails") == RUNS
    assert joined("render_report", "metrics/guardrails/tokenizers") == set(PARAMS["tokenizers"])
    assert joined("render_report", "metrics/tokenizers") == set(PARAMS["tokenizers"])
    assert joined("render_report", "plots/curves") == RUNS
    assert joined("render_report", "plots/adaptation") == ARMS - {"base", "instruct"}
    assert joined("render_report", "data/samples") == RUNS
    assert joined("render_report", "metrics/ledger/train_lm") == RUNS
    assert joined("check_leakage", "metrics/items") == RUNS | ARMS | {f"answers-{a}" for a in ARMS}


def in_order(stage: str, flag: str) -> list[str]:
    """Return the values of a flag of a stage's command."""
    words = shlex.split(STAGES[stage].cmd)
    values = words[words.index(flag) + 1 :]
    return values[: next((n for n, word in enumerate(values) if word.startswith("--")), None)]


def test_samples_are_judged_in_the_text_of_their_run():
    runs = [Path(path).stem for path in in_order("check_samples", "--samples")]
    found = [Path(path).name for path in in_order("check_samples", "--tokens")]
    assert found == [PARAMS["models"][run]["dataset"] for run in runs]
    assert [Path(path).stem for path in in_order("check_samples", "--metrics")] == runs


def test_the_last_run_over_each_tokenizer_is_sampled_early():
    # As `cordel estimate` assumes.
    models, datasets = PARAMS["models"], PARAMS["datasets"]
    last = {datasets[models[run]["dataset"]]["tokenizer"]: run for run in models}
    drawn = {name: in_order(f"sample_early@{name}", "--run") for name in PARAMS["tokenizers"]}
    assert drawn == {tokenizer: [run] for tokenizer, run in last.items()}
    assert joined("check_samples", "data/early") == set(PARAMS["tokenizers"])
    early = [Path(path).stem for path in in_order("check_samples", "--early")]
    assert [Path(path).stem for path in in_order("check_samples", "--early-metrics")] == early


def test_only_costs_and_the_report_read_ledgers():
    # A ledger differs at every run, so whatever reads one is never restored from a cache.
    readers = {
        name for name, stage in STAGES.items() if any("ledger" in d.def_path for d in stage.deps)
    }
    assert readers == {"account_costs", "render_report"}


def test_costs_are_of_every_ledger_but_those_of_further_seeds():
    ledgers = {
        out.def_path for stage in STAGES.values() for out in stage.outs if "ledger" in out.def_path
    }
    written = {path for path in ledgers if "_seeds/" not in path}
    read = {dep.def_path for dep in STAGES["account_costs"].deps if "ledger" in dep.def_path}
    assert read == written


def test_generating_needs_nothing_that_scoring_needs():
    # Generate once, score often: no edit of a metric may cost GPU hours.
    for arm in ARMS:
        assert not {d for d in code_deps(STAGES[f"generate_answers@{arm}"]) if "evaluation" in d}


@pytest.mark.parametrize(
    ("title", "folder", "names"),
    [
        ("Validation bits per byte", "curves", RUNS),
        ("Evaluation loss of the adapted models", "adaptation", ARMS - {"base", "instruct"}),
    ],
)
def test_plots_of_all_curves_list_every_one(title: str, folder: str, names: set[str]):
    (curves,) = (plot[title] for plot in PIPELINE["plots"] if title in plot)
    assert set(curves["y"]) == {f"plots/{folder}/{name}.csv" for name in names}


def test_every_plot_has_a_title_and_named_axes():
    plots = [out for stage in STAGES.values() for out in stage.outs if out.plot]
    assert len(plots) == len(RUNS) + 4 + 1
    for out in plots:
        assert {"title", "x_label"} <= out.plot.keys(), out.def_path
        assert out.plot["template"] in ("simple", "leaderboard")


def test_a_stage_imports_cordel_from_its_own_tree():
    # Queued experiments run in a clone: an installed cordel would be another tree's code.
    import stages  # noqa: PLC0415

    assert (Path(stages.__file__).parents[1] / "src").as_posix() in __import__("sys").path
    assert "sys.path.insert(0" in Path(stages.__file__).read_text(encoding="utf-8")
