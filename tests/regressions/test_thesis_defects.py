"""The ten defects of the thesis (its audit, section 9): each has a test here that it would fail.

The modules' own tests say more; these are the list, one name a defect, so that none comes back.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from audit.check_answers import compare_rows, corrected_table, score
from audit.published import Published
from cordel.adaptation.generation import Request, generate_batch
from cordel.compute import Compute, seed_everything
from cordel.corpus.documents import Document, write_documents
from cordel.corpus.instructions import (
    Example,
    SftDataParams,
    folded_prompt,
    split_examples,
)
from cordel.corpus.splits import SplitParams, split_documents
from cordel.corpus.tasks import TaskParams, collect_tasks
from cordel.evaluation.answers import AS_PUBLISHED, CORRECTED
from cordel.evaluation.calibration import CalibrationParams, Guardrail, People, compare_reports
from cordel.evaluation.passages import FEATURES, Reference
from cordel.evaluation.sampling import Prompt, SamplingParams, choose, generate
from cordel.models import build_model, parse_architecture
from cordel.runtime.errors import ArtifactError
from cordel.runtime.files import read_json
from cordel.runtime.params import read_params
from cordel.tokenizers.params import TokenizerParams
from cordel.tokenizers.saved import fingerprint, load_tokenizer
from cordel.tokenizers.subword import learn_pieces
from cordel.tokens import SplitMeta
from cordel.training.loop import Trainer
from cordel.training.params import RunParams
from stages import check_samples, train_tokenizer

CPU = Compute(device="cpu", device_name="cpu", dtype="float32", threads=1, compile=False)
PORTUGUESE = (
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789áàâãéêíóôõúüçÁÀÂÃÉÊÍÓÔÕÚÜÇ"
)
QUOTES = "“”‘’—–…ºª°§"


@pytest.fixture(scope="module")
def v7_folder(project: Path, prose: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with v7's tokenizer as params.yaml asks for it, but of 1,200 pieces."""
    folder = tmp_path_factory.mktemp("v7")
    (folder / "tokenizer").mkdir()
    learn_pieces(prose, v7_params(project), folder / "tokenizer", section="unigram_v7")
    return folder


def v7_params(project: Path) -> TokenizerParams:
    params = read_params("tokenizers.unigram_v7", TokenizerParams, path=project / "params.yaml")
    return replace(params, vocab_size=1200)


@pytest.fixture(scope="module")
def v7_tokenizer(v7_folder: Path, project: Path) -> tuple[TokenizerParams, Any]:
    """Return the params and the tokenizer."""
    return v7_params(project), load_tokenizer(v7_folder / "tokenizer")


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """Compute on one core."""


# --- 1. The answer is what comes after the padded prompt ------------------------------------------


@pytest.fixture(scope="module")
def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415

    config = LlamaConfig(
        vocab_size=60,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    seed_everything(0)
    return LlamaForCausalLM(config).eval()


def test_1_an_answer_in_a_batch_of_unequal_prompts_is_the_answer_alone(llama: Any):
    short, long = Request((5, 9), 8), Request((7, 8, 9, 10, 11, 12, 13), 8)

    together = generate_batch(llama, [short, long], stop=(3,), pad=0, compute=CPU)
    alone = [generate_batch(llama, [r], stop=(3,), pad=0, compute=CPU)[0] for r in (short, long)]
    assert together == alone


# --- 2. The sampler -------------------------------------------------------------------------------

SETTINGS = pytest.mark.parametrize("temperature", [0.0, 0.3, 0.85, 2.0])
TOP_K = pytest.mark.parametrize("top_k", [0, 1, 80])
TOP_P = pytest.mark.parametrize("top_p", [0.5, 0.95, 1.0])


@SETTINGS
@TOP_K
@TOP_P
def test_2_a_one_hot_model_is_obeyed(temperature: float, top_k: int, top_p: float):
    logits = np.full(100, -np.inf)
    logits[42] = 0.0
    how: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p}

    drawn = {choose(logits, **how, rng=np.random.default_rng(seed)) for seed in range(20)}
    assert drawn == {42}


@SETTINGS
@TOP_K
@TOP_P
def test_2_excluded_ids_are_never_drawn(temperature: float, top_k: int, top_p: float):
    logits = np.full(100, -np.inf)
    logits[[3, 50, 99]] = (1.0, 0.0, -1.0)
    rng = np.random.default_rng(0)
    how: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p}

    assert {choose(logits, **how, rng=rng) for _ in range(50)} <= {3, 50, 99}


@pytest.mark.parametrize("logits", [[math.nan, 0.0], [-math.inf, -math.inf], [math.inf, 0.0]])
def test_2_what_is_no_distribution_raises_and_is_not_replaced_by_noise(logits: list[float]):
    with pytest.raises(ValueError, match="not a distribution"):
        choose(np.array(logits), temperature=0.8, top_k=1, top_p=0.9, rng=np.random.default_rng(0))


# --- 3. Samples depend on the model ---------------------------------------------------------------

SHAPE = {"d_model": 16, "n_layer": 1, "n_head": 2, "d_ff": 32, "dropout": 0.0}


def tiny_gpt(seed: int) -> Any:
    torch.manual_seed(seed)
    params = parse_architecture("gpt", SHAPE, "tiny")
    return build_model("gpt", params, vocab_size=50, context_length=16).eval()


def sample(model: Any, *, seed: int) -> list[int]:
    params = SamplingParams(
        prompts=(Prompt(seed=seed, text="x"),),
        samples_per_prompt=1,
        max_new_tokens=30,
        min_new_tokens=0,
        temperature=0.85,
        top_k=20,
        top_p=0.95,
        frequency_penalty=0.0,
    )
    return generate(model, [1, 2], params, seed=seed, end=[50], banned=[], compute=CPU)


@pytest.mark.parametrize("seed", [101, 102, 103])
def test_3_two_checkpoints_with_one_seed_draw_different_samples(seed: int):
    assert sample(tiny_gpt(0), seed=seed) != sample(tiny_gpt(1), seed=seed)


@pytest.mark.parametrize("seed", [101, 102, 103])
def test_3_no_sample_is_what_a_uniform_generator_draws(seed: int):
    uniform = np.random.default_rng(seed).choice(50, 30).tolist()
    one_by_one = np.random.default_rng(seed)
    drawn = sample(tiny_gpt(0), seed=seed)
    assert drawn != uniform
    assert drawn != [int(one_by_one.choice(50)) for _ in range(30)]


# --- 4. The normaliser of answers -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("Sim, é verdade.", "sim é verdade"),  # punctuation
        ("A  resposta\té   sim", "resposta é sim"),  # article, spaces collapsed
        ("Os gatos e as uvas", "gatos e uvas"),
        ("Avó", "avo"),  # accents
    ],
)
def test_4_texts_that_say_the_same_are_equal(text: str, same: str):
    assert CORRECTED.normalise(text) == CORRECTED.normalise(same)


@pytest.mark.parametrize("answer", ["A", "o", "Um."])
def test_4_an_answer_that_is_only_an_article_stays(answer: str):
    assert CORRECTED.normalise(answer) == answer.lower().strip(".")


# --- 5. A guardrail report says what it is of, with people beside ---------------------------------

DECODING = {"max_new_tokens": 60, "min_new_tokens": 40, "temperature": 0.85, "top_k": 80}


@pytest.fixture(scope="module")
def guardrail(
    v7_tokenizer: tuple[TokenizerParams, Any], prose: list[str], project: Path
) -> Guardrail:
    """Return a guardrail in that tokenizer, calibrated on half of the prose."""
    _, tokenizer = v7_tokenizer
    ids = [np.asarray(tokenizer.encode(text)) for text in prose]
    params = read_params("guardrails", CalibrationParams, path=project / "params.yaml")
    reference = Reference(tokenizer, ids[56:], order=3, seed=0)
    windows = [reference.passage(document[:60]) for document in ids[:56]]
    people = People(fit=windows[:24], calibration=windows[24:48], evaluation=windows[48:])
    return Guardrail(reference, people, params)


def samples_of(run: str, folder: Path, *, prompt_included: bool = False) -> dict[str, Any]:
    """Return five samples of uniform noise as ``sample_lm`` writes them."""
    tokenizer = load_tokenizer(folder / "tokenizer")
    drawn = np.random.default_rng(0).integers(10, tokenizer.vocab_size, (5, 60)).tolist()
    samples = [
        {"seed": n, "ids": ids, "text": tokenizer.decode(ids), "prompt_included": prompt_included}
        for n, ids in enumerate(drawn)
    ]
    sha256 = fingerprint(folder / "tokenizer")
    head = {"run": run, "tokenizer": "unigram_v7", "tokenizer_sha256": sha256}
    return head | {"decoding": DECODING, "samples": samples}


def test_5_a_report_names_run_tokenizer_and_settings(guardrail: Guardrail, v7_folder: Path):
    report = check_samples.check(samples_of("v7", v7_folder), guardrail, v7_folder)
    assert (report["run"], report["decoding"]) == ("v7", DECODING)
    assert report["tokenizer_sha256"] == fingerprint(v7_folder / "tokenizer")
    assert report["prompt_included"] is False


def test_5_people_stand_beside_every_ratio(guardrail: Guardrail, v7_folder: Path):
    report = check_samples.check(samples_of("v7", v7_folder), guardrail, v7_folder)
    measured = {name for name, value in report["features"].items() if value is not None}
    assert set(report["human"]) == measured == set(FEATURES)
    assert all(band["centre"] is not None for band in report["human"].values())
    assert report["passes"] is False  # uniform noise, which the thesis' thresholds had passed


def test_5_samples_with_their_prompts_are_refused(guardrail: Guardrail, v7_folder: Path):
    with pytest.raises(ArtifactError, match="hold their prompts"):
        check_samples.check(samples_of("v7", v7_folder, prompt_included=True), guardrail, v7_folder)


def test_5_reports_of_two_tokenizers_are_not_compared(guardrail: Guardrail, v7_folder: Path):
    report = check_samples.check(samples_of("v7", v7_folder), guardrail, v7_folder)
    assert compare_reports(report, report | {"run": "v8"})["same_decoding"]
    with pytest.raises(ArtifactError, match="compare runs of one tokenizer"):
        compare_reports(report, report | {"run": "v6", "tokenizer_sha256": "0" * 64})


def test_5_the_committed_report_of_every_run_has_them(project: Path):
    reports = {p.stem: read_json(p) for p in (project / "metrics" / "guardrails").glob("*.json")}
    assert len(reports) >= 12
    for run, report in reports.items():
        assert (report["run"], report["prompt_included"]) == (run, False)
        assert len(report["tokenizer_sha256"]) == 64
        assert report["decoding"]
        assert report["human"]


# --- 6. What is reported is the cross-entropy -----------------------------------------------------

IDS = ((np.arange(400) ** 2) % 50).astype(np.uint16)
META = SplitMeta(documents=1, tokens=len(IDS), bytes=1000, unknown_bytes=0)


def trainer(project: Path, **changes: Any) -> Trainer:
    params = read_params("models.v5_main", RunParams, path=project / "params.yaml").training
    small: dict[str, Any] = {"context_length": 16, "stride": 16, "batch_size": 2, "epochs": 1.0}
    params = replace(params, **(small | {"schedule_epochs": 1.0} | changes))
    return Trainer(tiny_gpt(0), params, train_ids=IDS, val_ids=IDS, val_meta=META, compute=CPU)


@pytest.mark.parametrize("extra", [{"label_smoothing": 0.1}, {"fallback_penalty": 0.25}])
def test_6_smoothing_and_penalties_are_optimised_and_never_reported(
    extra: dict[str, float], project: Path
):
    run = trainer(project, **({"label_smoothing": 0.0, "fallback_penalty": 0.0} | extra))
    ids = torch.randint(0, 50, (2, 17))
    hidden = 20 * torch.randn(2, 16, run.model.head[0].shape[1])  # logits of about 1

    objective, reported = run.losses(hidden, ids)
    logits = F.linear(hidden, *run.model.head).flatten(0, 1)
    assert reported.item() == pytest.approx(
        F.cross_entropy(logits, ids[:, 1:].flatten()).item(), rel=1e-6
    )
    assert objective.item() != pytest.approx(reported.item(), rel=1e-3)
    plain = trainer(project, label_smoothing=0.0, fallback_penalty=0.0)
    assert run.val_nats_per_token() == plain.val_nats_per_token()


def test_6_perplexity_is_of_the_plain_loss_and_has_bits_per_byte_beside_it(project: Path):
    scores = {path.stem: read_json(path) for path in (project / "metrics" / "lm").glob("*.json")}
    scores.pop("references")
    scored = {name: score for name, score in scores.items() if score}
    assert len(scored) >= 12
    for name, found in scored.items():
        nats = found["nats"]
        assert found["perplexity"] == pytest.approx(math.exp(nats / found["tokens"]), rel=1e-4)
        bits = (nats + math.log(256) * found["unk_bytes"]) / (math.log(2) * found["bytes"])
        assert found["bits_per_byte"] == pytest.approx(bits, rel=1e-5), name


# --- 7. Three counts of tokens --------------------------------------------------------------------


def test_7_unique_processed_and_supervised_tokens_are_three_numbers(project: Path, tmp_path: Path):
    # The thesis' recipe for its RNNs: overlapping windows with one target each.
    run = trainer(project, stride=2, targets="last", epochs=0.5, schedule_epochs=0.5)
    run.run(tmp_path, "v0")

    windows = (len(IDS) - 1 - 16) // 2 + 1
    steps = round(0.5 * (windows // 2))
    assert run.tokens() == {
        "unique": min(len(IDS), steps * 2 * 2),
        "processed": steps * 2 * 16,
        "supervised": steps * 2,
    }


def test_7_every_ledger_of_a_trained_run_has_the_three(project: Path):
    ledgers = sorted((project / "metrics" / "ledger" / "train_lm").glob("*.json"))
    assert len(ledgers) >= 12
    for path in ledgers:
        tokens = read_json(path, kind=list)[-1]["tokens"]
        assert tokens["unique"] <= tokens["processed"], path.name
        assert tokens["supervised"] <= tokens["processed"], path.name


# --- 8. Splits share no prompt, no document, no copy ----------------------------------------------


@pytest.fixture
def examples() -> list[Example]:
    """Return 300 prompts of which each three differ in case, one word or punctuation only."""
    texts = [" ".join(f"p{i}w{j}" for j in range(20)) for i in range(100)]
    forms: tuple[Callable[[str], str], ...] = (str, str.upper, lambda text: f"{text[:-1]}!")
    return [
        Example(f"e{i}-{form}", make(text), "", f"Resposta {form}.")
        for i, text in enumerate(texts)
        for form, make in enumerate(forms)
    ]


def test_8_no_prompt_and_no_near_copy_is_in_two_splits(project: Path, examples: list[Example]):
    params = read_params("sft_data", SftDataParams, path=project / "params.yaml")
    splits = split_examples(examples, params)

    folded = {
        name: {folded_prompt(e.instruction, e.input) for e in members}
        for name, members in splits.items()
    }
    for a, b in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not folded[a] & folded[b]
    of = {e.id: name for name, members in splits.items() for e in members}
    assert all(len({of[f"e{i}-{form}"] for form in range(3)}) == 1 for i in range(100))
    assert set(of.values()) == {"train", "val", "test"}


def test_8_no_task_item_resembles_a_prompt_that_was_trained_on(project: Path):
    params = read_params("tasks", TaskParams, path=project / "params.yaml")
    params = replace(params, path=str(project / params.path), per_task=15)
    items, _ = collect_tasks(params, [])
    trained = [
        Example(f"t{n}", item.instruction.upper(), item.input, "x")
        for n, item in enumerate(items[::7])
    ]

    kept, report = collect_tasks(params, trained)
    prompts = {folded_prompt(e.instruction, e.input) for e in trained}
    assert sum(report["dropped"]["equal"].values()) > 0
    assert not prompts & {folded_prompt(item.instruction, item.input) for item in kept}


def test_8_copies_of_documents_are_in_one_split(project: Path):
    params = read_params("splits", SplitParams, path=project / "params.yaml")
    params = replace(params, val=0.2, test=0.2, reserved_sources=())
    texts = [" ".join(f"d{i}w{j}" for j in range(60)) for i in range(60)]
    documents = [
        Document(f"{i}-{form}", "s", "", text if form == 0 else f"{text} fim")
        for i, text in enumerate(texts)
        for form in (0, 1)
    ]

    columns = split_documents(documents, params)
    of = dict(zip(columns["id"], columns["split"], strict=True))
    assert all(of[f"{i}-0"] == of[f"{i}-1"] for i in range(60))
    assert set(of.values()) == {"train", "val", "test"}


def test_8_a_tokenizer_learns_from_the_train_split_alone(
    project: Path, prose: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "params.yaml").write_bytes((project / "params.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)
    for split, mark in (("train", ""), ("val", "ж"), ("test", "ж")):
        documents = [Document(f"{split}{i}", "s", "", f"{t} {mark}") for i, t in enumerate(prose)]
        write_documents(tmp_path / "clean" / f"{split}.parquet", documents)
    command = "train_tokenizer --name char --clean clean --out out --metrics m.json --ledger l.json"
    monkeypatch.setattr(sys, "argv", command.split())

    train_tokenizer.main()
    assert load_tokenizer(tmp_path / "out").unknown_bytes("ж") == len("ж".encode())


# --- 9. The tokenizer has what was asked for ------------------------------------------------------


def test_9_it_has_as_many_pieces_as_were_asked_for(
    v7_tokenizer: tuple[TokenizerParams, Any], project: Path
):
    params, tokenizer = v7_tokenizer
    assert tokenizer.vocab_size == params.vocab_size
    assert params.seed_pieces >= 1_000_000  # the thesis' were the vocabulary's own size
    report = read_json(project / "metrics" / "tokenizers" / "unigram_v7.json")
    assert report["vocab_size"] == report["vocab_size_asked"]


@pytest.mark.parametrize("character", PORTUGUESE + QUOTES)
def test_9_every_portuguese_character_can_be_written(
    character: str, v7_tokenizer: tuple[TokenizerParams, Any]
):
    _, tokenizer = v7_tokenizer
    text = f"casa {character} casa"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.unknown_bytes(text) == 0


@pytest.mark.parametrize("character", "áàâãéêíóôõúüçÁÀÂÃÉÊÍÓÔÕÚÜÇKWYkwy" + QUOTES)
def test_9_the_rare_ones_are_pieces_and_not_bytes(
    character: str, v7_tokenizer: tuple[TokenizerParams, Any]
):
    _, tokenizer = v7_tokenizer
    pieces = tokenizer.pieces(tokenizer.encode(f"casa {character} casa"))
    assert not [piece for piece in pieces if piece.startswith("<0x")]


def test_9_lines_survive(v7_tokenizer: tuple[TokenizerParams, Any]):
    _, tokenizer = v7_tokenizer
    text = "Primeira linha.\nSegunda  linha.\n\nTerceira."
    assert tokenizer.decode(tokenizer.encode(text)) == text


# --- 10. Two scorers ------------------------------------------------------------------------------


@pytest.mark.shared
def test_10_the_published_figures_and_the_corrected_ones(shared: Path):
    published = Published(shared / "data" / "golden" / "trilha2")
    rows = [
        row | {"seed": seed}
        for seed, suffix in ((123, ""), (456, "_seed456"), (789, "_seed789"))
        for row in published.jsonl(f"eval_trilha2_extrinsic_details{suffix}.jsonl")
    ]

    assert compare_rows(rows, score(rows, AS_PUBLISHED, leaked=True))["differing"] == 0
    found = corrected_table(rows, AS_PUBLISHED)
    means = {
        (task, metric): tuple(round(found[task][metric][arm]["mean"], 4) for arm in ("base", "sft"))
        for task, metric in (("qa", "em"), ("qa", "f1"))
    } | {
        (task, "rouge_l"): tuple(
            round(found[task]["rouge_l"][arm]["mean"], 4) for arm in ("base", "sft")
        )
        for task in ("summarization", "rewriting")
    }
    assert means == {
        ("qa", "em"): (0.0800, 0.2567),
        ("qa", "f1"): (0.1627, 0.3815),
        ("summarization", "rouge_l"): (0.1742, 0.2842),
        ("rewriting", "rouge_l"): (0.2534, 0.5636),
    }
