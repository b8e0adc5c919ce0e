"""The console command: its help teaches, and a mistake is one line."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MAIN = "from cordel.cli import main; main()"


@pytest.fixture
def folder(project: Path, tmp_path: Path) -> Path:
    """Return a folder with the project's params.yaml and profiles."""
    shutil.copytree(project / "profiles", tmp_path / "profiles")
    shutil.copyfile(project / "params.yaml", tmp_path / "params.yaml")
    return tmp_path


def cordel(folder: Path, project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command in ``folder``."""
    return subprocess.run(
        [sys.executable, "-c", MAIN, *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(project / "src"), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_teaches_the_verbs_and_examples(folder: Path, project: Path) -> None:
    done = cordel(folder, project, "--help")
    assert done.returncode == 0
    for words in (
        "estimate",
        "profile",
        "publish-results",
        "repro",
        "seeds",
        "results",
        "dvc repro",
        "cordel profile ptbr && ",
    ):
        assert words in done.stdout


@pytest.mark.parametrize("words", [(), ("reproduce",)])
def test_without_a_known_verb_the_usage_is_shown(
    words: tuple[str, ...], folder: Path, project: Path
) -> None:
    done = cordel(folder, project, *words)
    assert done.returncode == 2
    assert "usage: cordel" in done.stderr


def test_at_least_one_stage_at_once(folder: Path, project: Path) -> None:
    done = cordel(folder, project, "repro", "--jobs", "0")
    assert done.returncode == 2
    assert "--jobs is 0, expected at least 1" in done.stderr


def test_several_at_once_need_a_pipeline(folder: Path, project: Path) -> None:
    done = cordel(folder, project, "repro", "--gpus", "0,1")
    assert done.returncode == 1
    assert done.stderr.startswith("error: dvc: ")
    assert done.stderr.count("\n") == 1


def test_an_unknown_profile_is_one_line_and_exit_code_one(folder: Path, project: Path) -> None:
    done = cordel(folder, project, "profile", "huge")
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert line == "error: no profile 'huge'; there are: ptbr, smoke, thesis"


def test_a_profile_says_how_many_keys_changed_and_what_next(folder: Path, project: Path) -> None:
    done = cordel(folder, project, "profile", "smoke")
    assert done.returncode == 0
    assert "params.yaml is now profile smoke: " in done.stderr
    assert "dvc repro" in done.stderr
    assert "\nprofile: smoke " in (folder / "params.yaml").read_text("utf-8")


# --- estimate -------------------------------------------------------------------------------------

GPU = ("estimate", "--gpu", "NVIDIA GeForce RTX 4090", "--tflops", "165")


def test_help_of_estimate_teaches_an_example(folder: Path, project: Path) -> None:
    done = cordel(folder, project, "estimate", "--help")
    assert done.returncode == 0
    for words in ('--gpu "NVIDIA GeForce RTX 4090" --tflops 165', ".ckpt/estimates.json"):
        assert words in done.stdout


def test_a_gpu_that_is_not_here_is_estimated_and_priced(folder: Path, project: Path) -> None:
    done = cordel(folder, project, *GPU)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["stage", "tokens", "time", "memory", "disk", "USD"]
    assert [line.split()[0] for line in lines][-3:] == [
        "generate_answers@sft",
        "generate_answers@cpt_sft",
        "total",
    ]
    assert "RTX 4090 at 165 TFLOP/s (as given; not measured)" in done.stderr
    assert "price: 0.30 USD an hour, costs.usd_per_hour of NVIDIA GeForce" in done.stderr
    assert "assumed in track 1: " in done.stderr
    assert "assumed in track 2: " in done.stderr


def test_a_gpu_that_is_not_here_leaves_the_ledgers_alone(folder: Path, project: Path) -> None:
    assert cordel(folder, project, *GPU).returncode == 0
    assert not (folder / ".ckpt").exists()


@pytest.mark.slow
def test_estimates_for_this_machine_are_kept_for_the_ledgers(folder: Path, project: Path) -> None:
    done = cordel(folder, project, "estimate")
    assert done.returncode == 0
    assert "(measured)" in done.stderr
    kept = json.loads((folder / ".ckpt" / "estimates.json").read_text("utf-8"))
    assert {"train_lm@v7", "adapt_sft@cpt_sft", "generate_answers@base"} <= kept.keys()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--gpu", "A"), "--gpu and --tflops go together"),
        (("--tflops", "165"), "--gpu and --tflops go together"),
        (("--gpu", "A", "--tflops", "-1"), "--tflops is -1.0, expected above 0"),
    ],
)
def test_half_a_gpu_is_refused(
    words: tuple[str, ...], message: str, folder: Path, project: Path
) -> None:
    done = cordel(folder, project, "estimate", *words)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_missing_section_is_named(folder: Path, project: Path) -> None:
    path = folder / "params.yaml"
    path.write_text(path.read_text("utf-8").replace("\nlora:", "\nlaro:"), encoding="utf-8")
    done = cordel(folder, project, *GPU)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line == "error: params.yaml: no key 'lora'; see `git diff params.yaml`"


# --- results --------------------------------------------------------------------------------------


def test_publishing_another_profile_is_refused(folder: Path, project: Path) -> None:
    done = cordel(folder, project, "publish-results", "ptbr")
    assert done.returncode == 1
    assert "params.yaml is profile 'sample', not 'ptbr'" in done.stderr


# --- seeds ----------------------------------------------------------------------------------------


def test_the_cost_of_a_seed_is_said_before_it_is_written(folder: Path, project: Path) -> None:
    before = (folder / "params.yaml").read_text("utf-8")
    done = cordel(folder, project, "seeds", "v6_rc16k_v5b", "143")
    assert done.returncode == 0
    first, second = done.stderr.splitlines()
    unknown = "each further seed of v6_rc16k_v5b: unknown, run `cordel estimate`"
    assert first.startswith(f"cordel: {unknown}")
    assert second.endswith("v6_rc16k_v5b-143 now; next: dvc repro, then cordel seeds")
    assert cordel(folder, project, "seeds", "--remove", "v6_rc16k_v5b-143").returncode == 0
    assert (folder / "params.yaml").read_text("utf-8") == before


def test_the_table_of_seeds_goes_to_the_terminal_or_a_file(folder: Path, project: Path) -> None:
    cordel(folder, project, "seeds", "v7", "143")
    shown = cordel(folder, project, "seeds").stdout
    assert "| v7-143 | not run: `dvc repro` |" in shown
    done = cordel(folder, project, "seeds", "--out", "docs/seeds.md")
    assert (done.returncode, done.stdout) == (0, "")
    assert (folder / "docs/seeds.md").read_text("utf-8").endswith(shown)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("v7",), 2, "which seeds? such as: cordel seeds v7 43 44"),
        (("v7", "x"), 2, "argument seed: invalid int value: 'x'"),
        (("v7", "43", "--out", "a"), 2, "a name with its seeds, --remove and --out do not go"),
        (("v8", "43"), 1, "error: no run and no arm 'v8'; there are: v1, "),
    ],
)
def test_seeds_that_are_none_are_said_in_one_line(
    words: tuple[str, ...], code: int, message: str, folder: Path, project: Path
) -> None:
    done = cordel(folder, project, "seeds", *words)
    assert done.returncode == code
    assert done.stderr.splitlines()[-1].removeprefix("cordel seeds: error: ").startswith(message)


def test_a_text_that_is_not_there_is_one_line(folder: Path, project: Path) -> None:
    words = ("--tokenizer", "none.model", "--text", "nowhere", "--out", "table.md")
    done = cordel(folder, project, "guardrails", *words)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: none.model: not a SentencePiece model")
    assert len(done.stderr.splitlines()) == 1
    assert not (folder / "table.md").exists()
