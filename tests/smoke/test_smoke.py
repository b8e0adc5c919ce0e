"""The whole DAG at toy sizes (profile ``smoke``), doing in a clone what users do."""

import shutil

import pytest

from tests.clones import Clone, stages_run

pytestmark = pytest.mark.minutes


@pytest.fixture(scope="module")
def clone(smoke: Clone, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """Return a clone in which the whole profile is reproduced and committed."""
    return smoke.copy(tmp_path_factory.mktemp("smoke"))


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
        "write_cards",
        "render_report",
    }
    clone.restore()


def test_the_edit_of_one_task_set_trains_nothing(clone: Clone):
    output = clone.run("dvc", "exp", "run", "-S", "tasks.per_task=2")
    arms = ("base", "cpt", "sft", "cpt_sft")
    assert stages_run(output) - {"generate_answers@instruct", "generate_answers@instruct_sft"} == {
        "prepare_tasks",
        *(f"generate_answers@{arm}" for arm in arms),
        "score_answers",
        "check_leakage",
        "account_costs",
        "write_cards",
        "render_report",
    }
    clone.restore()


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
    assert "xz_of_this_tree" in clone.at("own-code", "metrics/lm/references.json")
    clone.run("git", "reset", "-q", "--hard", "HEAD~1")
    clone.run("dvc", "checkout")


def test_two_runs_from_empty_caches_give_the_same_bytes(clone: Clone):
    before = clone.lock()
    for folder in (".dvc/cache", ".ckpt", "data/models", "data/tokens"):
        shutil.rmtree(clone.root / folder)
    clone.run("dvc", "repro", "-f")
    assert clone.lock() == before
    assert len(before) > 100
