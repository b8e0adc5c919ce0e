"""The whole DAG at toy sizes (profile ``smoke``), doing in a clone what users do."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cordel.profiles import apply_profile

pytestmark = pytest.mark.minutes
ROOT = Path(__file__).parents[2]


class Clone:
    """A clone of the committed tree with its own caches."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "project"
        self.env = os.environ | {
            "DVC_SITE_CACHE_DIR": str(folder / "site"),
            "DVC_GLOBAL_CONFIG_DIR": str(folder / "config"),
            "OMP_NUM_THREADS": "1",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        self.env.pop("DVC_ROOT", None)
        subprocess.run(["git", "clone", "-q", str(ROOT), str(self.root)], check=True)

    def run(self, *words: str, check: bool = True) -> str:
        done = subprocess.run(
            words, cwd=self.root, env=self.env, capture_output=True, text=True, check=False
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(words)} ended with {done.returncode}:\n{done.stderr}")
        return done.stdout + done.stderr

    def commit(self, message: str) -> None:
        author = ("-c", "user.name=test", "-c", "user.email=test@example.org")
        self.run("git", "add", "-A")
        self.run("git", *author, "commit", "-q", "--allow-empty", "-m", message)

    def lock(self) -> dict[str, Any]:
        """The lock's outs, without ledgers and costs: what two runs must agree on."""
        stages = yaml.safe_load((self.root / "dvc.lock").read_text(encoding="utf-8"))["stages"]
        return {
            f"{name}: {out['path']}": out.get("md5")
            for name, stage in stages.items()
            for out in stage["outs"]
            if "ledger" not in out["path"] and out["path"] != "metrics/costs.json"
        }


def stages_run(output: str) -> set[str]:
    return {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    made = Clone(tmp_path_factory.mktemp("smoke"))
    apply_profile("smoke", root=made.root)
    made.run("dvc", "repro")
    made.commit("smoke")
    return made


def test_a_second_repro_runs_nothing(clone: Clone):
    assert stages_run(clone.run("dvc", "repro")) == set()
    assert "up to date" in clone.run("dvc", "status")


def test_one_tokenizer_parameter_reruns_only_what_depends_on_it(clone: Clone):
    # Three other changes of the same kind stand in docs/architecture.md.
    output = clone.run("dvc", "exp", "run", "-S", "tokenizers.unigram16k.vocab_size=700")
    runs = ("v6_rc16k_v5b", "v6_rc16k_v5b_aligned")
    assert stages_run(output) == {
        "train_tokenizer@unigram16k",
        "encode_corpus@unigram16k_web_100k",
        "encode_corpus@unigram16k_prose_100k",
        *(f"{stage}@{run}" for stage in ("train_lm", "score_lm", "sample_lm") for run in runs),
        "sample_early@unigram16k",
        "rank_lm",
        "check_samples",
        "check_leakage",
        "account_costs",
    }
    clone.run("git", "checkout", "-q", ".")
    clone.run("dvc", "checkout")


def test_the_edit_of_one_task_set_trains_nothing(clone: Clone):
    output = clone.run("dvc", "exp", "run", "-S", "tasks.per_task=2")
    arms = ("base", "cpt", "sft", "cpt_sft")
    assert stages_run(output) - {"generate_answers@instruct", "generate_answers@instruct_sft"} == {
        "prepare_tasks",
        *(f"generate_answers@{arm}" for arm in arms),
        "score_answers",
        "check_leakage",
        "account_costs",
    }
    clone.run("git", "checkout", "-q", ".")
    clone.run("dvc", "checkout")


def test_editing_one_input_file_makes_the_export_stale(clone: Clone):
    file = clone.root / "data/sample/prose/noticias.txt"
    with file.open("a", encoding="utf-8") as stream:
        stream.write("\n# Nota\nA feira mudou de lugar.\n")
    status = clone.run("dvc", "status", "export_corpus")
    clone.run("git", "checkout", "-q", ".")
    assert "data/sample" in status


def test_a_queued_experiment_runs_its_own_trees_code(clone: Clone):
    # The clone's own code is changed and committed: an installed cordel would not know the change.
    stage = clone.root / "src/cordel/evaluation/references.py"
    text = stage.read_text(encoding="utf-8")
    stage.write_text(text.replace('"xz": lzma', '"xz_of_this_tree": lzma'), encoding="utf-8")
    clone.commit("a change of code")
    clone.run("dvc", "exp", "run", "--temp", "-n", "own-code", "score_references")
    metrics = clone.run("git", "show", "own-code:metrics/lm/references.json", check=False)
    if "xz_of_this_tree" not in metrics:
        refs = clone.run("git", "for-each-ref", "--format=%(refname)", "refs/exps").split()
        ref = next(name for name in refs if name.endswith("own-code"))
        metrics = clone.run("git", "show", f"{ref}:metrics/lm/references.json")
    assert "xz_of_this_tree" in metrics
    clone.run("git", "reset", "-q", "--hard", "HEAD~1")
    clone.run("dvc", "checkout")


def test_two_runs_from_empty_caches_give_the_same_bytes(clone: Clone):
    before = clone.lock()
    for folder in (".dvc/cache", ".ckpt", "data/models", "data/tokens"):
        shutil.rmtree(clone.root / folder)
    clone.run("dvc", "repro", "-f")
    assert clone.lock() == before
    assert len(before) > 100
