"""What an edit reruns: the table in docs/architecture.md, and what it must never say."""

import pytest

from cordel.pipeline import Stage, with_downstream
from cordel.reporting.reruns import (
    DOCUMENT,
    code_files,
    default_stages,
    fates,
    reruns_table,
    trainings,
)
from tests.contract.test_pipeline_contract import PARAMS, ROOT

# What may be edited while the GPU is not at hand.
NEVER_RETRAINS = ("evaluation/", "reporting/", "runtime/", "costs.py", "comparison.py")


@pytest.fixture(scope="module")
def stages() -> dict[str, Stage]:
    return default_stages(ROOT)


@pytest.fixture(scope="module")
def fate_of(stages: dict[str, Stage]) -> dict[str, frozenset[str]]:
    return fates(ROOT, stages)


def test_the_committed_table_is_what_would_be_rendered_now() -> None:
    text = (ROOT / DOCUMENT).read_text("utf-8")
    assert text.count("rendered by `cordel results`") == 1
    assert f"\n{reruns_table(ROOT)}\n<!-- end of reruns -->" in text, "run `cordel results`"


def test_every_module_and_every_section_has_a_fate(fate_of: dict[str, frozenset[str]]) -> None:
    keys = {edit.split(".")[0] for edit in fate_of if "/" not in edit}
    assert keys == set(PARAMS)
    assert {edit for edit in fate_of if "/" in edit} == set(code_files(ROOT))
    assert len(code_files(ROOT)) > 80


def test_evaluation_cost_and_report_code_never_retrains(
    stages: dict[str, Stage], fate_of: dict[str, frozenset[str]]
) -> None:
    edits = [
        edit for edit in fate_of if edit.removeprefix("src/cordel/").startswith(NEVER_RETRAINS)
    ]
    retrained = {edit: trainings(with_downstream(fate_of[edit], stages)) for edit in edits}
    assert {edit: names for edit, names in retrained.items() if names} == {}
    assert len(edits) >= 15


def test_training_code_does(fate_of: dict[str, frozenset[str]]) -> None:
    # Or the test above could not fail.
    loop = trainings(fate_of["src/cordel/training/loop.py"])
    assert loop == {f"train_lm@{run}" for run in PARAMS["models"]}
    qlora = trainings(fate_of["src/cordel/adaptation/qlora.py"])
    assert qlora == {
        "adapt_cpt",
        *(f"adapt_sft@{arm}" for arm in ("sft", "cpt_sft", "instruct_sft")),
    }


@pytest.mark.parametrize(
    ("edit", "stale"),
    [
        ("models.v7", {"train_lm@v7", "sample_early@unigram_v7"}),
        (
            "models.v7.architecture",
            {"train_lm@v7", "score_lm@v7", "sample_lm@v7", "sample_early@unigram_v7"},
        ),
        ("cpt_data", {"prepare_cpt"}),
        ("cpt_data.documents", {"prepare_cpt", "check_leakage", "write_cards"}),
        ("corpus.path", {"export_corpus"}),
        ("base_models.instruct", {"open_base@instruct"}),
        ("costs", {"account_costs"}),
        ("seeds", set()),
    ],
)
def test_keys_of_a_section_may_differ(
    edit: str, stale: set[str], fate_of: dict[str, frozenset[str]]
) -> None:
    assert fate_of[edit] == stale
