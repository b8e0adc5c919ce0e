"""Early samples, verdicts and the gate, on the sample's prose in 420 pieces."""

import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from cordel.evaluation.calibration import CalibrationParams, GuardrailError
from cordel.evaluation.guardrails import GuardrailParams
from cordel.evaluation.passages import NOT_FOR_CHARACTERS
from cordel.runtime.errors import ArtifactError, ParamsError
from cordel.runtime.files import read_json, write_json
from cordel.runtime.params import parse
from cordel.tokenizers.char import learn_characters
from cordel.tokenizers.saved import fingerprint, load_tokenizer
from cordel.tokenizers.subword import learn_pieces
from cordel.tokens import Encoded, TokensMeta, read_ids, read_meta, write_meta, write_split
from cordel.training.loop import Trainer
from cordel.training.params import RunParams
from stages import check_samples, sample_early
from tests.cordel.evaluation.conftest import TINY
from tests.cordel.tokenizers.conftest import BPE

DECODING = {
    "max_new_tokens": 60,
    "min_new_tokens": 40,
    "temperature": 0.85,
    "top_k": 80,
    "top_p": 0.95,
    "frequency_penalty": 0.0,
}
PROMPTS = [{"seed": 101, "text": "O Brasil"}, {"seed": 102, "text": "A MÃE"}]
GUARDRAILS = {
    "on_failure": "warn",
    "must_pass": ["people"],
    "false_alarm_rate": 0.05,
    "windows": 60,
    "reference_tokens": 40_000,
    "order": 3,
    "char_order": 4,
    "seed": 42,
    "thesis": {"max_fallback_ratio": 0.03, "max_short_piece_ratio": 0.12},
}
NORMALISATION = {
    "filter_characters": True,
    "end_marker": "newline",
    "soft_hyphen": "space",
    "collapse_digits": False,
    "lowercase": True,
}
PIECES = replace(BPE, vocab_size=420, character_coverage=1.0, user_symbols=())
CHECK = (
    "--samples people.json noise.json --tokens toy toy --metrics m/people.json m/noise.json "
    "--early early.json --early-metrics m/tokenizers/toy.json"
)


def write_tokens(folder: Path, prose: list[str], learn: Callable[[list[str], Path], None]) -> None:
    """Write a folder of tokens: 100 train and 12 val documents in a tokenizer learnt from them."""
    (folder / "tokenizer").mkdir(parents=True)
    learn(prose, folder / "tokenizer")
    tokenizer = load_tokenizer(folder / "tokenizer")

    def encoded(number: int) -> Encoded:
        ids = [*tokenizer.begin, *tokenizer.encode(prose[number]), *tokenizer.end]
        return Encoded(id=f"d{number}", ids=ids, bytes=len(prose[number]), unknown_bytes=0)

    splits = {
        split: write_split(folder, split, map(encoded, numbers))
        for split, numbers in (("val", range(12)), ("train", range(12, 112)))
    }
    meta = TokensMeta(
        vocab_size=tokenizer.vocab_size,
        tokenizer="toy",
        tokenizer_sha256=fingerprint(folder / "tokenizer"),
        recipe="web",
        normalisation=NORMALISATION,
        begin=tokenizer.begin,
        end=tokenizer.end,
        context=tokenizer.context,
        splits=splits,
    )
    write_meta(folder, meta)


@pytest.fixture(scope="module")
def made(prose: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the tokens ``toy`` (pieces) and ``letters`` (characters)."""
    folder = tmp_path_factory.mktemp("guardrails")
    write_tokens(
        folder / "toy", prose, lambda texts, out: learn_pieces(texts, PIECES, out, section="toy")
    )
    write_tokens(folder / "letters", prose, learn_characters)
    return folder


def samples_of(run: str, folder: Path, ids: list[list[int]]) -> dict[str, Any]:
    """Return samples as ``sample_lm`` writes them."""
    tokenizer = load_tokenizer(folder / "tokenizer")
    samples = [
        {"seed": 101 + n, "ids": row, "text": tokenizer.decode(row), "prompt_included": False}
        for n, row in enumerate(ids)
    ]
    head = {"run": run, "tokenizer": "toy", "kind": tokenizer.kind, "decoding": DECODING}
    return head | {"tokenizer_sha256": fingerprint(folder / "tokenizer"), "samples": samples}


@pytest.fixture
def check(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that judges people, noise and an early model, with changed parameters."""
    monkeypatch.chdir(tmp_path)
    for name in ("toy", "letters"):
        Path(name).symlink_to(made / name)

    def check(tokens: str = "toy", **changes: Any) -> None:
        folder = Path(tokens)
        people = [d[:50].tolist() for d in documents(folder)[:5]]
        size = read_meta(folder).vocab_size
        noise = np.random.default_rng(0).integers(3, size, (7, 50)).tolist()
        write_json(Path("people.json"), samples_of("people", folder, people))
        write_json(Path("noise.json"), samples_of("noise", folder, noise[:5]))
        early = {"dataset": tokens, "steps": 1, "all_steps": 100}
        write_json(Path("early.json"), samples_of("people", folder, noise[5:]) | early)
        Path("params.yaml").write_text(yaml.safe_dump({"guardrails": GUARDRAILS | changes}))
        words = CHECK.replace("toy toy", f"{tokens} {tokens}").split()
        monkeypatch.setattr(sys, "argv", ["check_samples", *words])
        check_samples.main()

    return check


def documents(folder: Path, split: str = "val") -> list[np.ndarray]:
    """Return the documents of a split without their frame."""
    return check_samples.documents_of(folder, split, read_meta(folder))


# --- documents and people -------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", ["toy", "letters"])
def test_documents_come_without_begin_and_end(tokens: str, made: Path, prose: list[str]) -> None:
    found = documents(made / tokens)
    tokenizer = load_tokenizer(made / tokens / "tokenizer")
    assert len(found) == 12
    assert [d.tolist() for d in found] == [tokenizer.encode(text) for text in prose[:12]]


def test_people_and_reference_share_no_document(made: Path) -> None:
    changes = {"reference_tokens": 10**6, "windows": 120}
    params = parse(GUARDRAILS | changes, CalibrationParams, "guardrails")
    found = check_samples.build_guardrail(made / "toy", (40, 60), params)
    people = [getattr(found.people, role) for role in check_samples.ROLES]
    assert [len(passages) for passages in people] == [120, 120, 120]
    lengths = [len(passage.ids) for passages in people for passage in passages]
    assert (min(lengths), max(lengths)) == (40, 60)
    # More than val has: train documents were held out, and then the reference has not seen them.
    val, train = (len(read_ids(made / "toy", split)) for split in ("val", "train"))
    assert sum(lengths) > val
    assert 0.4 * train < found.reference.tokens < 0.6 * train


def test_documents_that_are_not_needed_go_to_the_reference(made: Path) -> None:
    # 19 passages for each purpose need 57 documents: 12 of val, and 45 of 100 of train.
    params = parse(GUARDRAILS | {"reference_tokens": 10**6, "windows": 19}, CalibrationParams, "g")
    found = check_samples.build_guardrail(made / "toy", (40, 60), params)
    passages = [p for role in check_samples.ROLES for p in getattr(found.people, role)]
    train = [d.tolist() for d in documents(made / "toy", "train")]
    sources = [{n for n, d in enumerate(train) if holds(d, p.ids.tolist())} for p in passages]
    assert len([s for s in sources if s]) == 45
    assert len(set().union(*sources)) == 45  # one passage a document
    assert found.reference.tokens == sum(map(len, train)) - sum(
        len(train[n]) for n in set().union(*sources)
    )


def holds(document: list[int], part: list[int]) -> bool:
    """Return whether ``part`` stands in ``document``."""
    return any(document[n : n + len(part)] == part for n in range(len(document)))


def test_each_document_gives_a_passage_before_one_gives_two() -> None:
    rows = [[np.array([10 * n + k]) for k in range(count)] for n, count in enumerate((2, 1, 3))]
    found = check_samples.spread(rows, 5)
    assert [int(window[0]) for window in found] == [0, 10, 20, 1, 21]


def test_a_reference_is_no_longer_than_its_cap(made: Path) -> None:
    params = parse(GUARDRAILS | {"reference_tokens": 3000}, CalibrationParams, "guardrails")
    found = check_samples.build_guardrail(made / "toy", (40, 60), params)
    assert found.reference.tokens == 3000


# --- reports --------------------------------------------------------------------------------------


def test_people_pass_and_noise_fails(check: Callable) -> None:
    check()
    people, noise = (read_json(Path(f"m/{run}.json")) for run in ("people", "noise"))
    assert (people["passes"], noise["passes"], noise["failing"]) == (True, False, 5)
    assert [sample["seed"] for sample in people["per_sample"]] == [101, 102, 103, 104, 105]


def test_a_report_carries_run_tokenizer_settings_and_people(check: Callable) -> None:
    check()
    report = read_json(Path("m/people.json"))
    assert (report["run"], report["tokenizer"], report["dataset"]) == ("people", "toy", "toy")
    assert report["tokenizer_sha256"] == fingerprint(Path("toy/tokenizer"))
    assert (report["decoding"], report["prompt_included"]) == (DECODING, False)
    assert report["false_alarm_rate"] == 0.05
    assert report["human"]["order_gain"]["high"] is None
    assert report["human"]["order_gain"]["low"] < report["human"]["order_gain"]["centre"]


def test_the_thesis_report_stands_beside(check: Callable) -> None:
    check()
    found = read_json(Path("m/people.json"))["thesis"]
    assert found["aggregate"]["samples_count"] == 5
    assert found["passes"] is False  # as people do by that rule
    assert {v["type"] for v in found["violations"]} >= {"aggregate_short_alpha_ratio"}


def test_both_rules_are_measured_against_every_noise(check: Callable) -> None:
    check()
    found = read_json(Path("m/tokenizers/toy.json"))
    assert {name: row["passages"] for name, row in found["noise"].items()} == {
        "uniform": 60,
        "unigram": 60,
        "shuffled": 60,
        "early": 2,
    }
    for name in ("uniform", "unigram", "early"):
        assert found["noise"][name]["auc"] >= 0.99
    assert found["noise"]["uniform"]["thesis_auc"] < 0.5
    assert found["early"] == {"run": "people", "steps": 1, "all_steps": 100}


def test_characters_have_reasons_in_place_of_shares_of_pieces(check: Callable) -> None:
    check(tokens="letters")
    report = read_json(Path("m/noise.json"))
    reasons = dict.fromkeys(("fallback_ratio", "short_piece_ratio"), NOT_FOR_CHARACTERS)
    assert report["not_measured"] == reasons
    assert report["features"]["fallback_ratio"] is None
    assert (report["passes"], report["thesis"]["passes"]) == (False, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer_sha256": "0" * 64}, "samples of people are not from toy/tokenizer; run dvc"),
        ({"samples": [{"prompt_included": True}]}, "samples of people hold their prompts"),
    ],
)
def test_samples_that_cannot_be_judged_are_refused(
    changes: dict[str, Any], message: str, check: Callable
) -> None:
    check()
    samples = read_json(Path("people.json")) | changes
    params = parse(GUARDRAILS, CalibrationParams, "guardrails")
    guardrail = check_samples.build_guardrail(Path("toy"), (40, 60), params)
    with pytest.raises(ArtifactError, match=message):
        check_samples.check(samples, guardrail, Path("toy"))


# --- the gate -------------------------------------------------------------------------------------


def test_a_run_that_need_not_pass_is_a_warning(
    check: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        check(on_failure="fail")
    assert "noise: 5 of 5 samples fail (at most 1 may), " in caplog.text


def test_the_gate_can_warn_only(check: Callable, caplog: pytest.LogCaptureFixture) -> None:
    check(must_pass=["noise"])
    assert "noise: 5 of 5 samples fail" in caplog.text


def test_a_run_that_had_to_pass_ends_the_stage_with_its_reports_written(check: Callable) -> None:
    message = (
        r"^noise: 5 of 5 samples fail \(at most 1 may\), fallback_ratio 0\.\d+, "
        r"expected any to 0\.\d+; train longer, or set guardrails\.on_failure: warn$"
    )
    with pytest.raises(GuardrailError, match=message):
        check(must_pass=["people", "noise"], on_failure="fail")
    assert read_json(Path("m/noise.json"))["passes"] is False


def test_a_run_that_is_none_cannot_have_to_pass(check: Callable) -> None:
    with pytest.raises(ParamsError, match=r"guardrails.must_pass names 'v8', which is no run"):
        check(must_pass=["v8"])


# --- sample_early ---------------------------------------------------------------------------------

TRAINING = {
    "seed": 1,
    "context_length": 16,
    "stride": 16,
    "targets": "all",
    "batch_size": 4,
    "epochs": 0.5,
    "schedule_epochs": 1.0,
    "patience": None,
    "evaluations": 1,
    "optimizer": "adamw",
    "unigram_bias": False,
    "bigram_start": None,
    "teacher_share": 0.0,
    "learning_rate": 0.01,
    "muon_learning_rate": 0.02,
    "beta1": 0.9,
    "beta2": 0.95,
    "epsilon": 1e-8,
    "weight_decay": 0.0,
    "decay_scope": "all",
    "schedule": "cosine",
    "warmup_steps": 2,
    "decay_share": 0.4,
    "grad_clip": 1.0,
    "clip_mode": "global",
    "label_smoothing": 0.0,
    "fallback_penalty": 0.0,
}
RUN = {"dataset": "toy", "architecture": "gpt", "model": TINY["gpt"], "training": TRAINING}


@pytest.fixture
def early(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict]:
    """Return a function that samples the run at a share of its steps, 3 times."""
    monkeypatch.chdir(tmp_path)
    Path("toy").symlink_to(made / "toy")
    words = "sample_early --run v0 --tokens toy --out early.json --ledger ledger.json"
    monkeypatch.setattr(sys, "argv", words.split())

    def early(share: float) -> dict[str, Any]:
        sampling = {"prompts": PROMPTS, "samples_per_prompt": 1} | DECODING
        params = {"models": {"v0": RUN}, "early": {"share": share, "samples": 3}}
        params |= {"compute": {"device": "cpu", "threads": 1, "compile": False}}
        Path("params.yaml").write_text(yaml.safe_dump(params | {"sampling": sampling}))
        sample_early.main()
        return read_json(Path("early.json"))

    return early


def test_an_early_model_is_sampled_with_the_settings_of_the_run(early: Callable) -> None:
    found = early(0.01)
    ids = len(read_ids(Path("toy"), "train"))
    all_steps = round(0.5 * (ids // 16 // 4))
    assert (found["all_steps"], found["steps"]) == (all_steps, round(0.01 * all_steps))
    assert (found["run"], found["dataset"], found["decoding"]) == ("v0", "toy", DECODING)
    assert [sample["seed"] for sample in found["samples"]] == [101, 102, 1101]
    tokenizer = load_tokenizer(Path("toy/tokenizer"))
    assert all(s["text"] == tokenizer.decode(s["ids"]) for s in found["samples"])
    [attempt] = read_json(Path("ledger.json"), kind=list)
    generated = sum(len(sample["ids"]) for sample in found["samples"])
    assert attempt["tokens"] == {"processed": found["steps"] * 64, "generated": generated}


def test_a_share_of_no_step_is_one_step(early: Callable) -> None:
    assert early(1e-6)["steps"] == 1


def test_an_early_model_has_the_weights_of_the_run_at_that_step(made: Path) -> None:
    run = parse(RUN, RunParams, "v0")
    compute = sample_early.decide(
        sample_early.ComputeParams(device="cpu", threads=1, compile=False)
    )
    meta = read_meta(made / "toy")
    shared: dict[str, Any] = {"tokens": made / "toy", "meta": meta, "compute": compute}
    found, steps, _ = sample_early.trained(run, 0.05, label="v0", **shared)
    torch.manual_seed(run.training.seed)
    shape = sample_early.parse_architecture("gpt", TINY["gpt"], "v0")
    model = sample_early.build_model("gpt", shape, vocab_size=420, context_length=16)
    ids = {f"{split}_ids": read_ids(made / "toy", split) for split in ("train", "val")}
    trainer = Trainer(model, run.training, val_meta=meta.splits["val"], compute=compute, **ids)
    whole = trainer.total_steps
    while trainer.state.step < steps:
        trainer.take_step()
    assert 1 < steps < whole
    expected = trainer.model.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in found.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"share": 0.0}, "share is 0.0, expected 0 < x <= 1"), ({"samples": 0}, "samples is 0")],
)
def test_a_parameter_out_of_range_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        parse({"share": 0.01, "samples": 3} | changes, sample_early.EarlyParams, "early")


def test_the_thesis_thresholds_are_its_own() -> None:
    params = parse(GUARDRAILS, CalibrationParams, "guardrails")
    assert params.thesis == GuardrailParams(max_fallback_ratio=0.03, max_short_piece_ratio=0.12)
