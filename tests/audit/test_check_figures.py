"""The thesis' figures: printed precision, claims, recomputation, and planted errors."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audit import figures_data, figures_track1, figures_track2
from audit.check_figures import CLAIMS, Claim, check, check_all, read_claims
from audit.figures import Figure, Reader, Survey, agree
from audit.printed import parse
from audit.published import Published
from cordel.runtime.errors import InputError

# --- Printed precision ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.1", 1.0778),
        ("13.88", 13.876_682_56),
        ("55.0%", 0.550_046_7),
        ("3,02", 3.0162),
        ("-19.2%", -0.192_166),
        ("−48.4%", -0.483_742),
        ("+145%", 1.454_545),
        ("2.0", 1.9842),
        ("0.04", 0.035),  # a half is rounded away from zero
        ("3.2k", 3200),
        ("16 x 10^6", 16_400_000),
        ("65 536", 65_536),
        ("16,8 milhões", 16_777_216),
        ("≈ 112 GB", 112e9),
        ("500x", 500.4),
    ],
)
def test_a_value_rounds_to_the_printed_figure(text: str, value: float):
    printed = parse(text)
    assert printed.rounded(value) == printed.number


@pytest.mark.parametrize(
    ("text", "value", "rounded"),
    [
        ("3,02", 3.014_79, "3.01"),
        ("3.02", 3.014_79, "3.01"),
        ("55.0%", 0.5495, "55.0"),
        ("55.0%", 0.549_49, "54.9"),
        ("13.88", 13.885, "13.89"),
        ("12k", 11_294, "11"),
        ("16k", 14_500, "15"),
        ("-0.5", -0.55, "-0.6"),
    ],
)
def test_rounding_keeps_the_printed_decimals(text: str, value: float, rounded: str):
    assert str(parse(text).rounded(value)) == rounded


@pytest.mark.parametrize(
    ("text", "value", "difference"),
    [("3.02", 3.0, -0.02), ("55.0%", 0.56, 1.0), ("12k", 11000, -1)],
)
def test_the_difference_is_in_the_printed_unit(text: str, value: float, difference: float):
    assert parse(text).difference(value) == pytest.approx(difference, abs=1e-12)


@pytest.mark.parametrize("text", ["", "many", "3.02 apples", "1.2.3", "10 20"])
def test_what_is_no_number_is_refused(text: str):
    with pytest.raises(InputError, match=r"claims.yaml: .* is no number"):
        parse(text)


# --- Claims ---------------------------------------------------------------------------------------

TABLE = """
claims:
  a:
    where: Uma tabela
    columns: [hours, cost]
    rows: {v1: ["1.1", "0.08"], v2: ["0.9", null]}
    figures: {v3.text: "sim"}
    notes:
      "*.hours": {en: all}
      v2.hours: {en: one}
"""


def test_a_table_unfolds_to_claims_with_their_notes():
    claims = {claim.id: claim for claim in read_claims(TABLE)}

    assert [*claims] == ["a.v1.hours", "a.v1.cost", "a.v2.hours", "a.v3.text"]
    assert claims["a.v1.cost"].published == "0.08"
    assert claims["a.v1.hours"].note == {"en": "all"}
    assert claims["a.v2.hours"].note == {"en": "one"}


def constant(value: Any) -> Figure:
    return Figure((), lambda: value, "a way", "um modo")


def checked(published: str | None, value: Any, folder: Path, **note: Any) -> dict[str, Any]:
    claim = Claim(id="c", where="w", figure="f", published=published, note=note)
    figures = {"f": constant(value), "other": constant(1.25)}
    return check(claim, figures, Reader(Published(folder)))


@pytest.mark.parametrize(
    ("published", "value", "holds"),
    [
        ("1.2", 1.234, True),
        ("1.3", 1.234, False),
        ("RTX 3080", "NVIDIA GeForce RTX 3080", True),
        ("RTX 3090", "NVIDIA GeForce RTX 3080", False),
        (None, agree(3, 3), True),
        (None, agree(3, 4), False),
        ("uma frase", {"holds": True}, True),
    ],
)
def test_a_claim_holds_or_does_not(published: str | None, value: Any, holds: bool, tmp_path: Path):
    assert checked(published, value, tmp_path)["holds"] is holds


def test_an_artifact_s_own_figure_is_what_it_logged(tmp_path: Path):
    assert checked(None, agree(3, 4), tmp_path)["published"] == 3


def test_a_number_needs_what_is_printed(tmp_path: Path):
    with pytest.raises(InputError, match="needs what is printed"):
        checked(None, 1.0, tmp_path)


def test_what_explains_a_figure_is_stated(tmp_path: Path):
    entry = checked("1.3", 1.234, tmp_path, explained_by="other", kind="double_rounding")

    assert not entry["holds"]
    assert entry["explained_by"]["gives_the_printed"]  # 1.25 is a half
    assert entry["explained_by"]["kind"] == "double_rounding"


def test_notes_speak_both_languages(tmp_path: Path):
    entry = checked("1.2", 1234.5, tmp_path, en="x {value:,.2f}", pt="y {value:,.2f}")
    assert (entry["note_en"], entry["note_pt"]) == ("x 1,234.50", "y 1.234,50")

    entry = checked("1.2", 1.25, tmp_path)
    assert entry["note_en"] == "Recomputed as a way: 1.25."
    assert entry["note_pt"] == "Recalculado como um modo: 1,25."


def test_an_unknown_figure_is_named(tmp_path: Path):
    claim = Claim(id="c", where="w", figure="typo", published="1", note={})
    with pytest.raises(InputError, match="no figure 'typo'"):
        check(claim, {}, Reader(Published(tmp_path)))


def test_agreement_within_a_share_of_the_computed_one():
    assert agree(1.01, 1.0, relative=0.02)["holds"]
    assert not agree(1.01, 1.0, relative=0.005)["holds"]


# --- Figures, by hand -----------------------------------------------------------------------------


def test_a_survey_does_with_what_there_is(tmp_path: Path):
    (tmp_path / "a.json").write_text('{"x": 1}', encoding="utf-8")

    survey = Survey(("a.json", "b.json"), lambda found: sorted(found), "", "")
    assert survey.value(Reader(Published(tmp_path))) == ["a.json"]


def rnn_log(arch: str, *, windows: int, batches: int, **dataset: int) -> dict[str, Any]:
    config = {"arch": arch, "tamanho_sequencia": 10, "stride": 4, "batch_size": 3, "epocas": 2}
    model = {"train_windows": windows, "train_batches": batches}
    data = {"train_docs": 2, "val_docs": 0, "train_chars": 50}
    return {"train_config": config, "model": model, "dataset": data | dataset}


@pytest.mark.parametrize(
    ("arch", "windows", "batches", "dataset"),
    [
        ("v1", 10, 4, {}),  # (50 - 10) // 4
        ("v2", 11, 4, {}),  # (50 + 2 x 2 - 10) // 4
        ("v4", 5, 2, {"train_tokens": 33}),  # (33 - 10) // 4
    ],
)
def test_windows(arch: str, windows: int, batches: int, dataset: dict[str, int]):
    of = figures_track1.figures()["v2.windows"].of
    assert of(rnn_log(arch, windows=windows, batches=batches, **dataset))["holds"]
    assert not of(rnn_log(arch, windows=windows + 1, batches=batches, **dataset))["holds"]
    assert not of(rnn_log(arch, windows=windows, batches=batches - 1, **dataset))["holds"]


def test_three_counts_of_a_recurrent_run():
    of = figures_track1.figures()["v2.three_counts"].of
    assert of(rnn_log("v2", windows=10, batches=4)) == {
        "unique": 50,
        "targets": 20,  # 10 windows x 2 epochs
        "processed": 200,  # each of 10 characters
        "times_seen": 4.0,
    }


def test_steps_bound_the_tokens_of_the_data():
    of = figures_track1.figures()["v6_long.steps"].of
    mapping = {"batch_size": 2, "sequence_length": 4, "stride": 3}
    found = of(mapping, {"history": [{"tokens_epoch": 24}]})

    assert (found["holds"], found["steps"]) == (True, 3)
    # (tokens - 4) // 3 // 2 is 3 from 6 windows to 7: 22 to 27 tokens.
    assert (found["least_unique_tokens"], found["most_unique_tokens"]) == (22, 27)
    assert not of(mapping, {"history": [{"tokens_epoch": 25}]})["holds"]


def test_two_runs_in_one_folder_are_seen():
    of = figures_track1.figures()["v6_long.one_run"].of
    files = {
        "a": {"tokens_epoch": 8, "epoch": 1, "val_loss": 2.0},
        "b": {"tokens_epoch": 9, "epoch": 2, "val_loss": 1.0},
    }
    assert not of(files)["holds"]
    assert of({"a": files["a"]})["holds"]


def test_perplexities_are_found_however_deep():
    of = figures_track1.figures()["logs.ppl_is_exp_loss"].of
    content = {
        "history": [{"loss": 0.0, "perplexity": 1.0, "val_loss": 0.0, "val_perplexity": 1.1}]
    }
    found = of({"x.json": content})

    assert (found["pairs"], found["holds"], found["where"]) == (2, False, "x.json")
    assert found["largest_relative_difference"] == pytest.approx(0.1)


def test_tokens_follow_from_the_flops():
    of = figures_track2.figures()["sft.tokens"].of
    parameters = 8_030_261_248 + 41_943_040 - 128_256 * 4096
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    lora = {"r": 16, "target_modules": modules}
    config = {"lora": lora, "data": {"seq_len": 50}, "training": {"num_train_epochs": 2}}
    metrics = {"total_flos": 6.0 * parameters * 70}
    training = {"tokens_seen": 700, "tokens_per_sec": 7, "train_samples": 7}
    log = {"training": training | {"trainer_metrics": metrics}, "timers": {"duration_sec": 10}}
    found = of(log, config)

    assert (found["holds"], found["computed"], found["computed_per_second"]) == (False, 70, 7.0)
    assert (found["logged_over_computed"], found["samples_x_seq_len_x_epochs"]) == (10.0, 700)


def extrinsic(instruction: str, context: str, reference: str) -> dict[str, str]:
    return {"instruction": instruction, "input": context, "reference": reference}


def test_rewritings_by_the_word_revisao_alone():
    long = " ".join(["palavra"] * 20)
    rows = [
        extrinsic("Classifique a revisão", "", "positivo"),
        extrinsic("Reescreva a revisão", "", "um dois três"),
        extrinsic("A revisão do texto", long, long),
        extrinsic("Mude", long, long),
    ]
    of = figures_data.figures()["extrinsic.rewriting_by_revisao"].of
    assert of(rows[:2], rows[2:]) == {
        "rows": 4,
        "revisao_only": 1,
        "other_word": 1,
        "similar_length": 2,
        "references_of_two_words_or_less": 1,
    }


def test_quality_counts_repetitions_and_leaks():
    def example(instruction: str, output: str) -> dict[str, str]:
        return {"instruction": instruction, "input": "", "output": output}

    train = [example("a", "x"), example("a ", "x"), example("a", ""), example("b", "ssrsrsrsr")]
    found = figures_data.figures()["sft.quality"].of(
        train, [example("a", "z")], [example("a", "x")]
    )

    expected = {
        "rows": 4,
        "empty_inputs": 4,
        "empty_outputs": 1,
        "repeated_triples": 1,
        "repeated_prompts": 2,
        "junk_rows": 1,
        "mean_characters": [1.0, 0.0, 2.75],
    }
    assert found["train"] == expected
    assert (found["val"]["prompts_in_train"], found["val"]["triples_in_train"]) == (1, 0)
    assert found["test"]["triples_in_train"] == 1


@pytest.mark.parametrize(("marks", "holds"), [((1, 1), False), ((1, 2), True)])
def test_the_judge(marks: tuple[int, int], holds: bool):
    names = ("v3_brwac_20k", "v4_brwac_subword")
    evaluations = [
        {"model": name, "evaluation": dict.fromkeys(("relevancia", "coerencia", "estilo"), mark)}
        for name, mark in zip(names, marks, strict=True)
    ]
    of = figures_data.figures()["judge.v4_above_v3"].of
    assert of({"model": "m", "evaluations": evaluations})["holds"] is holds


# --- All of them ----------------------------------------------------------------------------------


def test_without_artifacts_only_shapes_are_checked(tmp_path: Path):
    results = check_all(Published(tmp_path), CLAIMS.read_text(encoding="utf-8"))

    with_source = [entry for entry in results["claims"].values() if entry["source"]]
    assert all(
        "is not at hand" in e["not_checkable"] or "none of" in e["not_checkable"]
        for e in with_source
    )
    assert results["summary"]["checked"] == len(results["claims"]) - len(with_source) == 18
    assert all("not_checkable" in entry for entry in results["facts"].values() if entry["source"])


@pytest.fixture(scope="session")
def results(published: Published) -> dict[str, Any]:
    return check_all(published, CLAIMS.read_text(encoding="utf-8"))


NOT_HOLDING = """
artifacts.extrinsic.generated_tokens artifacts.sft.tokens artifacts.v1.embedding
artifacts.v5b_long.batch_in_base_yaml artifacts.v5b_long.epochs_in_base_yaml
artifacts.v6_12k.asked artifacts.v6_12k.cleaning artifacts.v6_12k.documents
artifacts.v6_16k.asked artifacts.v6_16k.cleaning artifacts.v6_16k.documents
artifacts.v6_long.one_run costs.v5_main.cost costs.v6_rc16k_v5b_aligned.cost
data.cpt.test_share data.cpt.train_share data.cpt.validation_share
lora.lora.r64 lora.lora.r64_optimizer lora.lora.r64_reduction lora.lora.r64_total
lora.lora.r64_weights statements_track1.judge.v4_above_v3
statements_track1.v5_fixed.logged_loss_is_cross_entropy
statements_track1.v5_scaleplus.logged_loss_is_cross_entropy
synthesis.training.cost tokenizers.v5b_12k.pieces tokenizers.v6_16k.pieces
total.track2.hours training.sft.eval_ppl
"""


@pytest.mark.shared
def test_what_does_not_hold(results: dict[str, Any]):
    summary = results["summary"]

    assert summary["not_holding_list"] == sorted(NOT_HOLDING.split())
    assert summary["checked"] == len(results["claims"])
    assert summary["of_the_thesis"] == {"checked": 200, "holding": 182}
    assert summary["of_the_artifacts"] == {"checked": 64, "holding": 52}
    assert results["missing_artifacts"] == []


@pytest.mark.shared
def test_double_rounding_and_premises_explain_what_they_should(results: dict[str, Any]):
    explained = {
        name: entry["explained_by"]["gives_the_printed"]
        for name, entry in results["claims"].items()
        if "explained_by" in entry
    }
    assert len(explained) == 9
    assert all(explained.values())


@pytest.mark.shared
@pytest.mark.parametrize(
    ("run", "parameters"),
    [
        ("v5b_long", 11_105_694),
        ("v6_rc16k_v5b", 12_134_820),
        ("v6_rc16k_v5b_aligned", 12_134_820),
        ("v6_long", 26_484_900),
    ],
)
def test_parameters_of_the_transformers(run: str, parameters: int, results: dict[str, Any]):
    assert results["facts"][f"{run}.parameters"]["recomputed"] == parameters


@pytest.mark.shared
def test_facts_of_the_text(results: dict[str, Any]):
    facts = {name: entry["recomputed"] for name, entry in results["facts"].items()}
    steps = results["claims"]["artifacts.v6_rc16k_v5b.steps"]["recomputed"]

    assert facts["v6_rc16k_v5b.best_epoch"]["best_epoch"] == 23
    assert facts["v1.bits_per_char"] == pytest.approx(2.19556, abs=1e-5)
    assert set("YÀ—“”•€") <= set(facts["v6_16k.unknown_characters"]["characters"])
    assert facts["v5b_12k.unknown_characters"]["count"] == 0
    assert facts["extrinsic.rewriting_by_revisao"]["revisao_only"] == 217
    assert steps["least_unique_tokens"] <= 58_762_451 <= steps["most_unique_tokens"]
    assert results["claims"]["artifacts.cpt.tokens"]["recomputed"]["exact"] == 13_430_784
    assert results["claims"]["artifacts.sft.tokens"]["recomputed"]["exact"] == 2_720_160


Change = Callable[[Any], None]


def set_accuracy(content: Any) -> None:
    content["results"]["v1_brwac_20k"]["accuracy"] = 0.56


def set_loss(content: Any) -> None:
    content["results"]["v2_brwac_20k"]["avg_loss"] += 0.01


def set_parameters(content: Any) -> None:
    content["model"]["params"] += 1


def set_questions(content: Any) -> None:
    content["tasks"]["qa"]["metrics"]["sft"]["em"] = 0.083


PLANTED = [
    (
        "analysis/artifacts/results/results_char_models_20k.json",
        set_accuracy,
        {"results_char.v1.accuracy"},
    ),
    (
        "analysis/artifacts/results/results_char_models_20k.json",
        set_loss,
        {"results_char.v2.loss", "results_char.v2.ppl", "statements_track1.logs.ppl_is_exp_loss"},
    ),
    (
        "versions/v3-stacked-lstm/logs/train_brwac_v3_20k.json",
        set_parameters,
        {"artifacts.v3.parameters"},
    ),
    (
        "versions/trilha2-lora/analysis/eval_trilha2_extrinsic.json",
        set_questions,
        {
            "extrinsic.qa_em.sft_mean",
            "extrinsic.qa_em.gain",
            "extrinsic.qa_em.gain_share",
            "artifacts.qa_em.multiseed",
        },
    ),
]


@pytest.mark.shared
@pytest.mark.parametrize(("name", "change", "broken"), PLANTED)
def test_a_planted_error_breaks_its_claims_alone(
    name: str,
    change: Change,
    broken: set[str],
    published: Published,
    results: dict[str, Any],
    tmp_path: Path,
):
    copy = Published(tmp_path / "published")
    shutil.copytree(published.folder, copy.folder, copy_function=os.link)
    content = copy.json(name)
    change(content)
    copy.path(name).unlink()  # a link: the session's own file must stay
    (copy.folder / name).write_text(json.dumps(content), encoding="utf-8")

    summary = check_all(copy, CLAIMS.read_text(encoding="utf-8"))["summary"]
    before = set(results["summary"]["not_holding_list"])
    assert set(summary["not_holding_list"]) - before == broken
    assert before <= set(summary["not_holding_list"])
