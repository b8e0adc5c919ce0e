"""Estimates of track 1 from params.yaml, against hand-worked figures."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from cordel.estimate import (
    CPU_SCORING,
    CPU_TRAINING,
    CUDA_STEP_SECONDS_PER_LAYER,
    Calibration,
    StageEstimate,
    assumptions,
    calibrate,
    dataset_counts,
    estimate,
    is_made,
    price_of,
    read_all,
    render,
    save_estimates,
)
from cordel.runtime.errors import ParamsError
from cordel.runtime.files import read_json, write_json

CPU = Calibration(device="cpu", device_name="cpu", matmul_peak=1e9)
RTX_4090 = Calibration(
    device="cuda",
    device_name="NVIDIA GeForce RTX 4090",
    matmul_peak=165e12,  # data sheet
)
TRAINING: dict[str, Any] = {
    "bigram_start": None,
    "teacher_share": 0.0,
    "context_length": 8,
    "stride": 8,
    "batch_size": 2,
    "epochs": 1.5,
    "evaluations": 3,
}
GPT = {"n_layer": 1, "d_model": 2, "d_ff": 3, "n_head": 1}  # forward: 2 x (28 + 2 V) + 4 T FLOPs


def params(**changes: Any) -> dict[str, Any]:
    """Return a params.yaml of one small GPT, with some sections changed."""
    return {
        "corpus": {"source": "sample", "max_documents": 100},
        "splits": {"val": 0.05, "test": 0.05},
        "tokenizers": {"bpe": {"kind": "bpe", "vocab_size": 5}},
        "datasets": {"d": {"tokenizer": "bpe", "max_documents": 60, "max_val_documents": 4}},
        "models": {
            "tiny": {"dataset": "d", "architecture": "gpt", "model": GPT, "training": TRAINING}
        },
        "evaluation": {"max_documents": 10},
        "scoring": {"batch_size": 4, "max_windows": 6},
        "sampling": {"prompts": [{}, {}], "samples_per_prompt": 3, "max_new_tokens": 7},
        "early": {"share": 0.1, "samples": 4},
    } | changes


@pytest.fixture
def encoded(tmp_path: Path) -> Path:
    """Return a project whose dataset has 1000 train tokens in 50 documents and 40 val tokens."""
    splits = {"train": {"documents": 50, "tokens": 1000}, "val": {"documents": 2, "tokens": 40}}
    meta = {"vocab_size": 5, "splits": splits}
    write_json(tmp_path / "data" / "tokens" / "d" / "meta.json", meta)
    return tmp_path


def of(stage: str, found: list[StageEstimate]) -> StageEstimate:
    """Return the estimate of one stage."""
    return next(e for e in found if e.stage == stage)


# --- from scratch ---------------------------------------------------------------------------------


def test_stages_come_in_the_order_of_the_pipeline(encoded: Path) -> None:
    found = [e.stage for e in estimate(params(), machine=CPU, root=encoded)]
    assert found == ["train_lm@tiny", "score_lm@tiny", "sample_lm@tiny", "sample_early@bpe"]


def test_training_is_three_forwards_and_evaluations_one(encoded: Path) -> None:
    found = of("train_lm@tiny", estimate(params(), machine=CPU, root=encoded))
    # 1000 // 8 // 2 = 62 steps an epoch, 93 in all, of 16 tokens.
    assert found.tokens == 93 * 16
    # 2 x (28 + 10) + 4 x 8 = 108 FLOPs a token forward; val at the start and 3 times more.
    flops = 108 * (3 * 93 * 16 + 4 * 40)
    assert found.seconds == pytest.approx(flops / (1e9 * CPU_TRAINING["gpt"]))


def test_a_start_at_bigrams_is_three_products_with_the_head_for_each_context(
    encoded: Path,
) -> None:
    plain = {"dataset": "d", "architecture": "gpt", "model": GPT, "training": TRAINING}
    start = {"batches": 7, "contexts": 11}
    run = plain | {"training": TRAINING | {"bigram_start": start}}
    without, begun = (
        of("train_lm@tiny", estimate(params(models={"tiny": r}), machine=CPU, root=encoded))
        for r in (plain, run)
    )
    # The head is 2 x 5 numbers: twice its FLOPs a context, three times.
    expected = 3 * 2 * 10 * 7 * 11 / (1e9 * CPU_TRAINING["gpt"])
    assert begun.seconds - without.seconds == pytest.approx(expected)


def test_a_teacher_holds_all_bigrams(encoded: Path) -> None:
    plain = {"dataset": "d", "architecture": "gpt", "model": GPT, "training": TRAINING}
    run = plain | {"training": TRAINING | {"teacher_share": 0.5}}
    without, taught = (
        of("train_lm@tiny", estimate(params(models={"tiny": r}), machine=CPU, root=encoded))
        for r in (plain, run)
    )
    # 5 x 5 bigrams and 16 targets of 5 numbers, 60 bytes for each of 1,000 tokens.
    more = taught.peak_memory_bytes - without.peak_memory_bytes
    assert more == 4 * 5 * (5 + 16) + 60 * 1000


def test_windows_that_overlap_cost_as_often_as_they_are_read(encoded: Path) -> None:
    training = TRAINING | {"stride": 2, "epochs": 1.0}
    run = {"dataset": "d", "architecture": "gpt", "model": GPT, "training": training}
    found = estimate(params(models={"tiny": run}), machine=CPU, root=encoded)
    # 500 windows, 250 steps of 2 x 8 tokens.
    assert of("train_lm@tiny", found).tokens == 4000


def test_scoring_reads_two_sets_of_documents_in_overlapping_windows(encoded: Path) -> None:
    found = of("score_lm@tiny", estimate(params(), machine=CPU, root=encoded))
    # 2 x 10 documents of 20 tokens, each read about twice.
    assert found.tokens == 400
    assert found.seconds == pytest.approx(2 * 400 * 108 / (1e9 * CPU_SCORING["gpt"]))


def test_a_recurrent_model_reads_once_and_then_the_thesis_windows(encoded: Path) -> None:
    model = {"cell": "gru", "d_embedding": 3, "d_model": 2, "n_layer": 1, "layer_norm": False}
    run = {"dataset": "d", "architecture": "rnn", "model": model, "training": TRAINING}
    found = estimate(params(models={"r": run}), machine=CPU, root=encoded)
    # 400 tokens and 6 windows of 8; 2 x (3 gates x 2 x 5 + 10) FLOPs each.
    expected = (400 + 48) * 80 / (1e9 * CPU_SCORING["gru"])
    assert of("score_lm@r", found).seconds == pytest.approx(expected)


def test_sampling_counts_every_sample_to_its_longest(encoded: Path) -> None:
    # 2 prompts x 3 samples x 7 tokens.
    assert of("sample_lm@tiny", estimate(params(), machine=CPU, root=encoded)).tokens == 42


def test_an_early_model_trains_for_a_share_of_its_steps_and_is_sampled(encoded: Path) -> None:
    found = of("sample_early@bpe", estimate(params(), machine=CPU, root=encoded))
    # 0.1 of 1.5 epochs of 62 steps: 9 of 16 tokens. 4 samples of 7.
    assert found.tokens == 9 * 16 + 4 * 7
    sampled = of("sample_lm@tiny", estimate(params(), machine=CPU, root=encoded)).seconds * 28 / 42
    # A token is 2 x (28 + 2 x 5) + 4 x 8 FLOPs, three times.
    trained = 3 * 144 * 108 / (1e9 * CPU_TRAINING["gpt"])
    assert found.seconds == pytest.approx(trained + sampled)


def test_a_small_model_on_a_gpu_waits_for_its_launches(encoded: Path) -> None:
    found = of("train_lm@tiny", estimate(params(), machine=RTX_4090, root=encoded))
    assert found.seconds == pytest.approx(93 * CUDA_STEP_SECONDS_PER_LAYER)


def test_twice_the_peak_takes_half_the_time(encoded: Path) -> None:
    fast = Calibration(device="cpu", device_name="cpu", matmul_peak=2e9)
    slow, quick = (estimate(params(), machine=m, root=encoded)[0] for m in (CPU, fast))
    assert slow.seconds == pytest.approx(2 * quick.seconds)


# --- counts ---------------------------------------------------------------------------------------


def test_an_encoded_dataset_gives_its_own_counts(encoded: Path) -> None:
    found = dataset_counts(params(), "d", root=encoded)
    assert (found.train_tokens, found.val_tokens, found.tokens_per_document) == (1000, 40, 20)


def test_before_that_its_caps_and_the_usual_document_do(tmp_path: Path) -> None:
    found = dataset_counts(params(), "d", root=tmp_path)
    # 60 of 90 train documents of 965 characters, 2.8 a piece; 4 of 5 val documents.
    assert (found.train_tokens, found.val_tokens) == (round(60 * 965 / 2.8), round(4 * 965 / 2.8))


def test_a_cap_above_the_corpus_gives_the_corpus(tmp_path: Path) -> None:
    caps = {"tokenizer": "char", "max_documents": 9999, "max_val_documents": 9999}
    changed = params(datasets={"d": caps}, tokenizers={"char": {"kind": "char"}})
    found = dataset_counts(changed, "d", root=tmp_path)
    assert (found.train_tokens, found.val_tokens) == (90 * 965, 5 * 965)


def test_web_documents_are_as_long_as_in_the_thesis(tmp_path: Path) -> None:
    caps = {"tokenizer": "bpe", "max_documents": 20_000, "max_val_documents": 2000}
    corpus = {"source": "hf", "max_documents": 100_000}
    found = dataset_counts(params(datasets={"d": caps}, corpus=corpus), "d", root=tmp_path)
    # v4k_bf_ep2: 12,104,723 tokens in 20,000 documents.
    assert found.train_tokens == pytest.approx(12_104_723, rel=0.01)


# --- prices ---------------------------------------------------------------------------------------

COSTS = {"usd_per_hour": {"NVIDIA GeForce RTX 4090": 0.3}, "cpu_usd_per_hour": 3600.0}


def test_a_stage_costs_its_time_at_the_price_of_the_machine(encoded: Path) -> None:
    costs = COSTS | {"kg_co2_per_kwh": 0.1}
    found = estimate(params(costs=costs), machine=CPU, root=encoded)[0]
    assert found.usd == pytest.approx(found.seconds)  # a dollar a second


@pytest.mark.parametrize("section", [{}, {"costs": COSTS | {"kg_co2_per_kwh": 0.1}}])
def test_without_a_price_the_cost_is_unknown(encoded: Path, section: dict[str, Any]) -> None:
    h200 = Calibration(device="cuda", device_name="NVIDIA H200", matmul_peak=1e12)
    assert estimate(params(**section), machine=h200, root=encoded)[0].usd is None


@pytest.mark.parametrize(
    ("machine", "price", "source"),
    [
        (CPU, 3600.0, "costs.cpu_usd_per_hour in params.yaml"),
        (RTX_4090, 0.3, "costs.usd_per_hour of NVIDIA GeForce RTX 4090 in params.yaml"),
        (
            replace(RTX_4090, device_name="NVIDIA H200"),
            None,
            "no price for 'NVIDIA H200' in costs.usd_per_hour of params.yaml",
        ),
    ],
)
def test_a_price_says_where_it_comes_from(
    machine: Calibration, price: float | None, source: str
) -> None:
    costs = COSTS | {"kg_co2_per_kwh": 0.1}
    assert price_of(params(costs=costs), machine) == (price, source)


def test_a_misspelt_price_is_named(encoded: Path) -> None:
    with pytest.raises(ParamsError, match="'costs': missing key 'kg_co2_per_kwh'"):
        estimate(params(costs=COSTS), machine=CPU, root=encoded)


# --- what is out of date --------------------------------------------------------------------------


def locked(root: Path, encoded_with: str, tokenizer_vocab: int = 5) -> None:
    """Write a dvc.lock of a tokenizer and of what was encoded with it."""
    stages = {
        "train_tokenizer@bpe": {
            "params": {"params.yaml": {"tokenizers.bpe": {"kind": "bpe", "vocab_size": 5}}},
            "outs": [{"path": "data/tokenizers/bpe"}],
        },
        "encode_corpus@d": {
            "deps": [{"path": "data/tokenizers/bpe"}],
            "params": {"params.yaml": {"datasets.d.tokenizer": encoded_with}},
            "outs": [{"path": "data/tokens/d"}],
        },
    }
    recorded = stages["train_tokenizer@bpe"]["params"]["params.yaml"]["tokenizers.bpe"]
    recorded["vocab_size"] = tokenizer_vocab
    (root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))


@pytest.mark.parametrize(
    ("encoded_with", "tokenizer_vocab", "made"),
    [("bpe", 5, True), ("char", 5, False), ("bpe", 6, False)],
)
def test_what_other_parameters_made_does_not_count(
    encoded: Path, encoded_with: str, tokenizer_vocab: int, made: bool
) -> None:
    locked(encoded, encoded_with, tokenizer_vocab)
    assert is_made("data/tokens/d", params(), root=encoded) is made
    assert (dataset_counts(params(), "d", root=encoded).train_tokens == 1000) is made


def test_how_a_model_is_trained_changes_no_text(encoded: Path) -> None:
    locked(encoded, "bpe")
    text = (encoded / "dvc.lock").read_text()
    (encoded / "dvc.lock").write_text(text.replace("tokenizers.bpe:", "models.tiny:"))
    assert is_made("data/tokens/d", params(), root=encoded)


def test_what_is_not_there_is_not_made(tmp_path: Path) -> None:
    assert not is_made("data/tokens/d", params(), root=tmp_path)


def test_data_sets_whose_tokens_are_assumed_are_named(encoded: Path, tmp_path: Path) -> None:
    assert "no token count" in assumptions(params(), root=encoded)
    (tmp_path / "data" / "tokens" / "d" / "meta.json").unlink()
    (tmp_path / "data" / "tokens" / "d").rmdir()
    assert "tokens of d (965 characters a document" in assumptions(params(), root=tmp_path)


# --- output ---------------------------------------------------------------------------------------


def made(stage: str, seconds: float, usd: float | None) -> StageEstimate:
    """Return an estimate of a thousand tokens, 2 GB of memory and 5 MB of disk."""
    return StageEstimate(
        stage=stage,
        tokens=1000,
        seconds=seconds,
        peak_memory_bytes=2_000_000_000,
        disk_bytes=5_000_000,
        usd=usd,
    )


def test_the_table_ends_with_totals() -> None:
    assert render([made("train_lm@v1", 3600, 0.25), made("score_lm@v1", 65, 0.5)]) == (
        "stage        tokens        time  memory     disk   USD\n"
        "train_lm@v1   1,000  1 h 00 min  2.0 GB   5.0 MB  0.25\n"
        "score_lm@v1   1,000  1 min 05 s  2.0 GB   5.0 MB  0.50\n"
        "total         2,000  1 h 01 min  2.0 GB  10.0 MB  0.75"
    )


def test_a_total_with_an_unknown_price_is_unknown() -> None:
    lines = render([made("a", 1, 0.25), made("b", 1, None)]).splitlines()
    assert [line.split()[-1] for line in lines] == ["USD", "0.25", "unknown", "unknown"]


def test_what_takes_no_disk_is_a_dash() -> None:
    assert render([replace(made("a", 1, 0.25), disk_bytes=0)]).splitlines()[1].split()[-2] == "-"


def test_estimates_are_kept_for_the_ledger(tmp_path: Path) -> None:
    path = tmp_path / ".ckpt" / "estimates.json"
    save_estimates([made("train_lm@v1", 12.3456, None)], path)
    assert read_json(path) == {"train_lm@v1": 12.35}


# --- the project itself ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_this_machine_can_be_calibrated() -> None:
    found = calibrate("cpu")
    assert (found.device, found.device_name) == ("cpu", "cpu")
    assert found.matmul_peak > 1e8


def test_every_run_of_the_project_has_an_estimate(project: Path, tmp_path: Path) -> None:
    own = read_all(project / "params.yaml")
    found = estimate(own, machine=CPU, root=tmp_path)
    assert len(found) == 3 * len(own["models"]) + len(own["tokenizers"])
    assert all(e.seconds > 0 and e.tokens > 0 and e.peak_memory_bytes > 0 for e in found)
