"""Track 2 from an opened base to its costs, on a tiny Llama, 40 documents and 60 instructions."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from cordel.adaptation.chat import Chat, load_chat, user_message
from cordel.adaptation.corpus import read_encoded
from cordel.adaptation.quantised import load_adapters, load_base, read_base
from cordel.compute import ComputeParams, decide
from cordel.corpus.documents import Document, write_documents
from cordel.corpus.splits import write_splits
from cordel.runtime.console import SIGNALS, run_stage
from cordel.runtime.files import read_json, read_jsonl, write_json, write_jsonl
from cordel.tokens import Encoded
from stages import (
    account_costs,
    adapt_cpt,
    adapt_sft,
    continue_documents,
    export_adapter,
    generate_answers,
    open_base,
    prepare_cpt,
    prepare_sft,
    prepare_tasks,
    score_adaptation,
    score_answers,
)
from stages.continue_documents import ContinuationParams, longest
from tests.cordel.adaptation import conftest as tiny

pytestmark = pytest.mark.slow
model_folder = tiny.model_folder

MAINS = {
    "account_costs": account_costs.main,
    "adapt_cpt": adapt_cpt.main,
    "adapt_sft": adapt_sft.main,
    "continue_documents": continue_documents.main,
    "export_adapter": export_adapter.main,
    "generate_answers": generate_answers.main,
    "open_base": open_base.main,
    "prepare_cpt": prepare_cpt.main,
    "prepare_sft": prepare_sft.main,
    "prepare_tasks": prepare_tasks.main,
    "score_adaptation": score_adaptation.main,
    "score_answers": score_answers.main,
}
# As dvc.yaml has them.
ARMS = ("base", "cpt", "sft", "cpt_sft", "instruct", "instruct_sft")
OWN = ARMS[:4]  # those whose base is configured
ADAPTED = {  # arm: base, start
    "sft": ("base", "data/base/base"),
    "cpt_sft": ("base", "data/adapters/cpt"),
    "instruct_sft": ("instruct", "data/base/instruct"),
}
ANSWERING = {  # arm: base, adapter
    "base": ("base", "data/base/base"),
    "instruct": ("instruct", "data/base/instruct"),
    "cpt": ("base", "data/adapters/cpt"),
} | {arm: (base, f"data/adapters/{arm}") for arm, (base, _) in ADAPTED.items()}
OPEN = "open_base --base {0} --model model --out data/base/{0}"
CPT_DATA = (
    "prepare_cpt --clean data/clean/prose --splits data/splits.parquet --base data/base/base "
    "--out data/cpt --metrics metrics/adaptation/cpt_data.json"
)
SFT_DATA = "prepare_sft --input in --out data/sft --metrics metrics/adaptation/sft_data.json"
TASKS = (
    "prepare_tasks --input in --examples data/sft --out data/tasks.jsonl "
    "--metrics metrics/adaptation/tasks.json"
)
CPT = (
    "adapt_cpt --base data/base/base --model model --documents data/cpt --out data/adapters/cpt "
    "--curve plots/adaptation/cpt.csv --ledger metrics/ledger/adapt_cpt.json"
)
SFT = (
    "adapt_sft --arm {0} --base data/base/{1} --model model --start {2} --examples data/sft "
    "--out data/adapters/{0} --curve plots/adaptation/{0}.csv "
    "--ledger metrics/ledger/adapt_sft/{0}.json"
)
SCORE = (
    "score_adaptation --bases data/base/base data/base/instruct --models model model --adapters "
    + " ".join(f"data/adapters/{arm}" for arm in ("cpt", *ADAPTED))
    + " --documents data/cpt --examples data/sft --common data/clean/lossless/test.parquet "
    "--metrics metrics/adaptation.json --lm-metrics "
    + " ".join(f"metrics/lm/{arm}.json" for arm in ARMS)
    + " --items "
    + " ".join(f"metrics/items/{arm}.jsonl" for arm in ARMS)
    + " --ledger metrics/ledger/score_adaptation.json"
)
CONTINUE = (
    "continue_documents --base data/base/base --model model --adapter data/adapters/cpt "
    "--documents data/cpt --out data/continuations.jsonl "
    "--ledger metrics/ledger/continue_documents.json"
)
GENERATE = (
    "generate_answers --arm {0} --base data/base/{1} --model model --adapter {2} "
    "--tasks data/tasks.jsonl --out data/answers/{0}.jsonl "
    "--ledger metrics/ledger/generate_answers/{0}.json"
)
ANSWERS = (
    "score_answers --answers "
    + " ".join(f"data/answers/{arm}.jsonl" for arm in ARMS)
    + " --metrics metrics/answers.json --items "
    + " ".join(f"metrics/items/answers-{arm}.jsonl" for arm in ARMS)
    + " --out data/scored_answers"
)
EXPORT = (
    "export_adapter --base data/base/base --model model --adapter data/adapters/sft "
    "--documents data/cpt --out data/export/sft --metrics metrics/export/sft.json"
)
LEDGERS = ["adapt_cpt", *(f"adapt_sft/{arm}" for arm in ADAPTED), "score_adaptation"]
LEDGERS += ["continue_documents"]
LEDGERS += [f"generate_answers/{arm}" for arm in ARMS] + ["train_lm/v7"]
COSTS = (
    "account_costs --metrics metrics/costs.json --ledgers "
    + " ".join(f"metrics/ledger/{name}.json" for name in LEDGERS)
    + " --models data/models/v7"
)
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TARGETS += ["embed_tokens", "lm_head"]
# Seven matrices and two norms in each of two layers, embedding, head and a norm at the end.
MATRICES = 2 * (4 * 64 * 64 + 3 * 64 * 128)
BASE_PARAMETERS = MATRICES + 2 * 2 * 64 + 2 * 420 * 64 + 64
# A and B of rank 4 on all of these but the norms.
LORA_PARAMETERS = 4 * (2 * (4 * 128 + 3 * 192) + 2 * (420 + 64))
LONG = {"id": "f" * 40, "task": "rewriting", "seed": 123, "instruction": "Reescreva o texto."}
LONG |= {"input": "A praça ficou fechada. " * 60, "reference": "A praça fechou."}


def tiny_params(project: Path) -> dict[str, Any]:
    """Return the real params.yaml with toy sizes."""
    params = yaml.safe_load((project / "params.yaml").read_text("utf-8"))
    params["compute"] = {"device": "cpu", "threads": 1, "compile": False}
    params["base_models"]["base"] |= {"source": "local", "path": "model", "max_length": 0}
    params["base_models"]["instruct"] |= {"source": "none", "path": "model"}
    params["lora"] |= {"rank": 4, "targets": TARGETS}
    params["cpt_data"] |= {"documents": "reserved", "max_documents": 40, "evaluation": 0.25}
    instructions = str(project / "data" / "sample" / "instructions")
    params["sft_data"] |= {"source": "sample", "path": instructions, "max_examples": 60}
    params["sft_data"] |= {"val": 0.2, "test": 0.2}
    params["tasks"] |= {"source": "sample", "path": instructions}
    params["tasks"] |= {"seeds": [123, 456], "per_task": 3}
    for arm in ("cpt", "sft"):
        params[arm] |= {"block_length": 256, "batch_size": 2, "accumulation": 2, "epochs": 1.0}
        params[arm] |= {"evaluations": 2, "warmup_steps": 1, "learning_rate": 5e-3}
    params["generation"] |= {"batch_size": 4, "brief_request": "Responda de forma breve."}
    params["generation"]["max_new_tokens"] = {"qa": 4, "summarization": 6, "rewriting": 6}
    params["continuation"] = {"documents": 2, "prompt_tokens": 16, "new_tokens": 12}
    params["scoring_adaptation"] = {"batch_size": 4, "block_length": 256}
    params["resampling"] |= {"resamples": 50}
    params["evaluation"] = {"max_documents": 3}
    return params


def write_params(folder: Path, params: dict[str, Any]) -> None:
    """Write params.yaml."""
    (folder / "params.yaml").write_text(yaml.safe_dump(params), "utf-8")


def run(command: str, *names: str) -> None:
    """Run a stage in this process and in the working directory."""
    words = command.format(*names).split()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", words)
        MAINS[words[0]]()


def write_corpus(folder: Path, prose: list[str]) -> None:
    """Write 40 reserved documents, two a cluster, and 6 test documents."""
    documents = [Document(f"d{i}", "prosa", "", text) for i, text in enumerate(prose[:46])]
    write_documents(folder / "data" / "clean" / "prose" / "reserved.parquet", documents[:40])
    write_documents(folder / "data" / "clean" / "lossless" / "test.parquet", documents[40:])
    columns = {
        "id": [document.id for document in documents],
        "cluster": [f"d{i // 2 * 2}" for i in range(46)],
        "split": ["reserved"] * 40 + ["test"] * 6,
    }
    write_splits(folder / "data" / "splits.parquet", columns)


def write_run_from_scratch(folder: Path) -> None:
    """Write what account_costs wants to know of track 1."""
    model = {"d_model": 8, "n_layer": 2, "n_head": 2, "d_ff": 12, "dropout": 0.0, "tied": False}
    model |= {"rope_theta": 10000.0, "norm_epsilon": 1e-5, "init_sd": 0.05}
    config = {"architecture": "llama", "model": model, "vocab_size": 50, "context_length": 16}
    write_json(folder / "data" / "models" / "v7" / "config.json", config)
    attempt = {"stage": "train_lm@v7", "seconds": 3.6, "started_at": "2026-01-01T00:00:00+00:00"}
    attempt |= {"tokens": {"processed": 1000}, "completed": True}
    write_json(folder / "metrics" / "ledger" / "train_lm" / "v7.json", [attempt])


@pytest.fixture(scope="module")
def made(
    project: Path, prose: list[str], model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return a folder in which every stage of track 2 ran once."""
    folder = tmp_path_factory.mktemp("adaptation")
    shutil.copytree(model_folder, folder / "model")
    config = read_json(folder / "model" / "config.json")  # rotary positions have no weights
    write_json(folder / "model" / "config.json", config | {"max_position_embeddings": 256})
    write_corpus(folder, prose)
    write_run_from_scratch(folder)
    write_params(folder, tiny_params(project))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("DVC_ROOT", raising=False)
        for command, *names in [(OPEN, "base"), (OPEN, "instruct"), (CPT_DATA,), (SFT_DATA,)]:
            run(command, *names)
        run(TASKS)
        with Path("data/tasks.jsonl").open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(LONG) + "\n")
        run(CPT)
        for arm, (base, start) in ADAPTED.items():
            run(SFT, arm, base, start)
        run(SCORE)
        run(CONTINUE)
        for arm, (base, adapter) in ANSWERING.items():
            run(GENERATE, arm, base, adapter)
        for command in (ANSWERS, EXPORT, COSTS):
            run(command)
    return folder


@pytest.fixture(autouse=True)
def _here(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in that folder, as if outside DVC."""
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(made)


def rows_of(path: str) -> list[dict[str, Any]]:
    """Return the rows of a JSON Lines file."""
    return list(read_jsonl(Path(path)))


# --- data -----------------------------------------------------------------------------------------


def test_an_opened_base_is_a_tokenizer_a_chat_format_and_an_identity() -> None:
    info = read_json(Path("data/base/base/base.json"))
    assert (info["source"], info["model"], info["max_length"]) == ("local", "model", 256)
    assert info["chat_template"] == "chatml"
    names = {path.name for path in Path("data/base/base").iterdir()}
    assert {"base.json", "chat.json", "tokenizer.json", "tokenizer_config.json"} <= names


def test_a_base_of_source_none_is_one_file() -> None:
    assert [path.name for path in Path("data/base/instruct").iterdir()] == ["base.json"]
    assert read_json(Path("data/base/instruct/base.json")) == {"source": "none"}


def test_no_cluster_is_trained_on_and_judged_by(prose: list[str]) -> None:
    chat = load_chat(Path("data/base/base"))
    parts = {
        name: read_encoded(Path("data/cpt", f"{name}.parquet")) for name in ("train", "evaluation")
    }
    clusters = {name: {int(d.id[1:]) // 2 for d in part} for name, part in parts.items()}
    assert not clusters["train"] & clusters["evaluation"]
    assert len(parts["train"]) + len(parts["evaluation"]) == 40
    for document in parts["evaluation"]:
        text = prose[int(document.id[1:])]
        assert document.ids == chat.document(text)
        assert document.bytes == len(text.encode())


def test_the_metrics_count_documents_and_tokens() -> None:
    metrics = read_json(Path("metrics/adaptation/cpt_data.json"))
    for name in ("train", "evaluation"):
        found = read_encoded(Path("data/cpt", f"{name}.parquet"))
        tokens = sum(len(document.ids) for document in found)
        assert metrics[name] == {"documents": len(found), "tokens": tokens}


def test_examples_and_tasks_share_no_prompt() -> None:
    examples = [
        row for split in ("train", "val", "test") for row in rows_of(f"data/sft/{split}.jsonl")
    ]
    assert {len(row) for row in examples} == {4}
    tasks = rows_of("data/tasks.jsonl")
    assert len(tasks) == 2 * 3 * 3 + 1
    prompts = [{(row["instruction"], row["input"]) for row in rows} for rows in (examples, tasks)]
    assert not prompts[0] & prompts[1]
    report = read_json(Path("metrics/adaptation/sft_data.json"))
    assert report["kept"] == len(examples) == sum(report[s] for s in ("train", "val", "test"))
    assert read_json(Path("metrics/adaptation/tasks.json"))["items"]["qa"] == 6


# --- training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("arm", ["cpt", "sft", "cpt_sft"])
def test_an_adapter_is_trained_and_knows_its_base(arm: str) -> None:
    folder = Path("data/adapters", arm)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["adaptation.json", "adapter_config.json", "adapter_model.safetensors"]
    weights = load_file(folder / "adapter_model.safetensors")
    assert any(tensor.abs().max() > 0 for name, tensor in weights.items() if "lora_B" in name)
    identity = read_json(folder / "adaptation.json")
    base = read_json(Path("data/base/base/base.json"))
    assert identity == {"base": "model", "weights": base["weights"]}


@pytest.mark.parametrize("arm", ["cpt", "sft", "cpt_sft"])
def test_a_curve_begins_with_the_start_and_gets_better(arm: str) -> None:
    with Path("plots/adaptation", f"{arm}.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    losses = [float(row["eval_nats_per_token"]) for row in rows]
    assert (rows[0]["step"], rows[0]["train_nats_per_token"]) == ("0", "")
    assert len(rows) == 3
    assert min(losses[1:]) < losses[0]


def test_sft_after_cpt_begins_where_cpt_ended_and_sft_at_the_base() -> None:
    firsts = []
    for arm in ("sft", "cpt_sft"):
        with Path("plots/adaptation", f"{arm}.csv").open() as lines:
            firsts.append(next(csv.DictReader(lines))["eval_nats_per_token"])
    assert firsts[0] != firsts[1]
    weights = [
        load_file(f"data/adapters/{arm}/adapter_model.safetensors") for arm in ("cpt", "cpt_sft")
    ]
    assert weights[0].keys() == weights[1].keys()


@pytest.mark.parametrize(
    ("ledger", "stage"),
    [("adapt_cpt", "adapt_cpt"), ("adapt_sft/sft", "adapt_sft@sft")],
)
def test_the_ledger_counts_tokens_parameters_and_flops(ledger: str, stage: str) -> None:
    attempt = read_json(Path(f"metrics/ledger/{ledger}.json"), kind=list)[0]
    tokens = attempt["tokens"]
    assert attempt["stage"] == stage
    assert attempt["parameters"] == LORA_PARAMETERS
    expected = MATRICES * tokens["processed"] + 64 * 420 * tokens["supervised"]
    assert attempt["model_flops"] == 4 * expected
    assert tokens["unique"] == tokens["processed"] - tokens["padding"]  # one epoch
    assert attempt["completed"] is True


def test_cpt_trains_on_every_token_of_its_documents_once() -> None:
    attempt = read_json(Path("metrics/ledger/adapt_cpt.json"), kind=list)[0]
    documents = read_encoded(Path("data/cpt/train.parquet"))
    expected = sum(len(document.ids) - 1 for document in documents)
    assert attempt["tokens"]["supervised"] == attempt["tokens"]["unique"] == expected


def test_an_arm_without_a_base_is_empty_and_breaks_nothing() -> None:
    assert read_json(Path("data/adapters/instruct_sft/base.json")) == {"source": "none"}
    assert read_json(Path("metrics/ledger/adapt_sft/instruct_sft.json"), kind=list) == []
    header, row = Path("plots/adaptation/instruct_sft.csv").read_text().splitlines()
    assert (header, row) == ("step,eval_nats_per_token", ",")
    for arm in ("instruct", "instruct_sft"):
        assert read_json(Path(f"metrics/lm/{arm}.json")) == {}
        assert read_json(Path(f"metrics/ledger/generate_answers/{arm}.json"), kind=list) == []
        for path in (
            "metrics/items/{}.jsonl",
            "metrics/items/answers-{}.jsonl",
            "data/answers/{}.jsonl",
        ):
            assert Path(path.format(arm)).read_text() == "\n"
        assert not Path(f"data/scored_answers/{arm}.jsonl").exists()


def curve_of(path: Path) -> list[dict[str, str]]:
    """Return the rows of a curve."""
    with path.open() as lines:
        return list(csv.DictReader(lines))


FINISHED = pytest.mark.parametrize(
    ("arm", "command"), [("cpt", CPT), ("sft", SFT.format("sft", *ADAPTED["sft"]))]
)


@FINISHED
def test_a_finished_run_says_so_and_gives_the_same_weights(
    caplog: pytest.LogCaptureFixture, arm: str, command: str
) -> None:
    path = Path("data/adapters", arm, "adapter_model.safetensors")
    before = path.read_bytes()
    shutil.rmtree(path.parent)
    caplog.set_level("INFO")
    run(command)
    assert f"found it finished in .ckpt/adapt_{arm}/{arm}/" in caplog.text
    assert path.read_bytes() == before


@FINISHED
def test_finding_a_run_finished_keeps_what_it_cost(arm: str, command: str) -> None:
    path = Path(f"metrics/ledger/adapt_{'cpt' if arm == 'cpt' else 'sft/sft'}.json")
    before = read_json(path, kind=list)
    run(command)
    assert read_json(path, kind=list)[:-1] == before
    assert read_json(path, kind=list)[-1]["tokens"] == before[0]["tokens"]


def test_a_finished_run_gives_the_same_curve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))  # no checkpoint there at first
    curves = []
    for place in ("trained", "found"):
        command = SFT.replace("data/adapters/", f"{tmp_path}/").replace("metrics/", f"{tmp_path}/")
        run(command.replace("plots/", f"{tmp_path}/{place}/"), "sft", *ADAPTED["sft"])
        curves.append((tmp_path / place / "adaptation" / "sft.csv").read_bytes())
    assert curves[0] == curves[1]


@pytest.mark.parametrize("arm", ["sft", "cpt_sft"])
def test_training_from_scratch_again_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arm: str
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))  # no checkpoint there
    elsewhere = SFT.replace("data/adapters/{0}", str(tmp_path / "out"))
    elsewhere = elsewhere.replace("metrics/", f"{tmp_path}/").replace("plots/", f"{tmp_path}/")
    run(elsewhere, arm, *ADAPTED[arm])
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        expected = Path("data/adapters", arm, name).read_bytes()
        assert (tmp_path / "out" / name).read_bytes() == expected
    for rows in zip(
        curve_of(Path("plots/adaptation", f"{arm}.csv")),
        curve_of(tmp_path / "adaptation" / f"{arm}.csv"),
        strict=True,
    ):
        assert rows[0] == rows[1]


@pytest.mark.usefixtures("elsewhere")
def test_a_seed_on_the_command_line_is_as_in_params(made: Path) -> None:
    command = SFT.replace("data/adapters/{0}", "{0}")
    run(command.replace("--arm", "--seed 43 --arm"), "sft-43", *ADAPTED["sft"])
    change(sft__seed=43)
    run(command, "sft", *ADAPTED["sft"])
    name = "adapter_model.safetensors"
    weights = [Path(arm, name).read_bytes() for arm in ("sft-43", "sft", "data/adapters/sft")]
    assert weights[0] == weights[1] != weights[2]
    (record,) = read_json(Path("metrics/ledger/adapt_sft/sft-43.json"), kind=list)
    assert record["stage"] == "adapt_sft@sft-43"
    folders = (Path(".ckpt/adapt_sft/sft-43"), Path(".ckpt/adapt_sft/sft"))
    [further], [as_in_params] = ([path.name for path in folder.iterdir()] for folder in folders)
    assert further == as_in_params
    assert not (made / ".ckpt/adapt_sft/sft" / further).exists()


# --- scores ---------------------------------------------------------------------------------------

KEYS = {"loss", "nats", "tokens", "bytes", "perplexity", "accuracy", "bits_per_byte", "too_long"}


def test_every_arm_is_scored_on_both_splits() -> None:
    metrics = read_json(Path("metrics/adaptation.json"))
    assert metrics.keys() == set(OWN)
    assert {frozenset(splits) for splits in metrics.values()} == {frozenset({"cpt", "sft"})}
    assert {frozenset(s) for arm in metrics.values() for s in arm.values()} == {frozenset(KEYS)}
    for split in ("cpt", "sft"):
        counts = {
            (m[split]["tokens"], m[split]["bytes"], m[split]["too_long"]) for m in metrics.values()
        }
        assert len(counts) == 1  # the same targets for every arm
        assert len({m[split]["loss"] for m in metrics.values()}) == 4


def conversation_length(chat: Chat, row: dict[str, Any]) -> int:
    """Return the ids of a conversation that are read: all but the last."""
    prompt = chat.prompt(user_message(row["instruction"], row["input"]))
    return len(prompt) + len(chat.response(row["output"])) - 1


def test_the_splits_hold_what_their_files_hold() -> None:
    metrics = read_json(Path("metrics/adaptation.json"))["base"]
    chat = load_chat(Path("data/base/base"))
    texts = read_encoded(Path("data/cpt/evaluation.parquet"))
    assert metrics["cpt"]["tokens"] == sum(len(d.ids) - 1 for d in texts)
    assert metrics["cpt"]["bytes"] == sum(d.bytes for d in texts)
    rows = rows_of("data/sft/test.jsonl")
    outputs = [row["output"] for row in rows if conversation_length(chat, row) <= 256]
    assert 0 < metrics["sft"]["too_long"] == len(rows) - len(outputs)
    assert metrics["sft"]["tokens"] == sum(len(chat.response(text)) for text in outputs)
    assert metrics["sft"]["bytes"] == sum(len(text.encode()) for text in outputs)


def test_each_training_helps_where_it_was_trained() -> None:
    loss = {
        (arm, split): scores["loss"]
        for arm, splits in read_json(Path("metrics/adaptation.json")).items()
        for split, scores in splits.items()
    }
    assert loss["cpt", "cpt"] < loss["base", "cpt"]
    assert loss["sft", "sft"] < loss["base", "sft"]
    assert loss["cpt_sft", "sft"] < loss["cpt", "sft"]


@pytest.mark.parametrize("arm", ["cpt", "sft"])
def test_the_loss_of_the_start_is_that_of_the_scores(arm: str) -> None:
    # Both judge the CPT split's documents; the curve's SFT split is val, the scores' is test.
    if arm == "cpt":
        with Path("plots/adaptation/cpt.csv").open() as lines:
            first = float(next(csv.DictReader(lines))["eval_nats_per_token"])
        scores = read_json(Path("metrics/adaptation.json"))["base"]["cpt"]
        assert scores["loss"] == pytest.approx(first, abs=1e-5)
    else:
        scores = read_json(Path("metrics/adaptation.json"))["sft"]["sft"]
        assert scores["loss"] == pytest.approx(scores["nats"] / scores["tokens"], abs=1e-5)


@pytest.mark.parametrize("arm", OWN)
def test_an_arm_has_the_metrics_of_a_run_from_scratch(project: Path, arm: str) -> None:
    metrics = read_json(Path(f"metrics/lm/{arm}.json"))
    of_a_run = read_json(project / "metrics" / "lm" / "v7.json")
    assert metrics.keys() == of_a_run.keys() - {"window_protocol"}
    lora = 0 if arm == "base" else LORA_PARAMETERS
    assert metrics["parameters"] == BASE_PARAMETERS + lora
    assert metrics["lossless"] is True
    assert metrics["bits_per_byte"] == metrics["bits_per_byte_own"]
    items = rows_of(f"metrics/items/{arm}.jsonl")
    assert [set(row) for row in items] == [{"id", "nats", "tokens", "bytes", "unk_bytes"}] * 3
    assert sum(row["nats"] for row in items) == pytest.approx(metrics["nats"], abs=1e-4)
    assert sum(row["tokens"] for row in items) == metrics["tokens"]


# --- answers --------------------------------------------------------------------------------------

ROW = {"arm", "task", "seed", "id", "instruction", "input", "prompt", "reference"}
ROW |= {"answer", "new_tokens", "ended", "too_long"}


@pytest.mark.parametrize("arm", OWN)
def test_every_item_of_every_seed_is_answered(arm: str) -> None:
    rows, tasks = rows_of(f"data/answers/{arm}.jsonl"), rows_of("data/tasks.jsonl")
    asked = ["base", "base_brief"] if arm == "base" else [arm]
    assert [row["arm"] for row in rows] == [name for name in asked for _ in tasks]
    assert [row["id"] for row in rows] == [task["id"] for task in tasks] * len(asked)
    assert {frozenset(row) for row in rows} == {frozenset(ROW)}
    limits = {"qa": 4, "summarization": 6, "rewriting": 6}
    for row in rows:
        assert row["new_tokens"] <= limits[row["task"]]
        assert row["ended"] or row["new_tokens"] in (0, limits[row["task"]])


def test_the_brief_request_is_part_of_the_instruction() -> None:
    plain, brief = (
        [row["prompt"] for row in rows_of("data/answers/base.jsonl") if row["arm"] == arm]
        for arm in ("base", "base_brief")
    )
    for row, a, b in zip(rows_of("data/tasks.jsonl"), plain, brief, strict=True):
        assert a.startswith(row["instruction"])
        request = f"{row['instruction']} Responda de forma breve."
        assert b == a.replace(row["instruction"], request, 1)


@pytest.mark.parametrize("arm", OWN)
def test_a_prompt_that_does_not_fit_is_counted_and_not_cut(arm: str) -> None:
    rows = [row for row in rows_of(f"data/answers/{arm}.jsonl") if row["id"] == LONG["id"]]
    for row in rows:
        request = " Responda de forma breve." if row["arm"] == "base_brief" else ""
        assert row["prompt"] == f"Reescreva o texto.{request}\n\nEntrada:\n{LONG['input']}"
        assert (row["answer"], row["new_tokens"], row["ended"]) == ("", 0, False)
        assert row["too_long"] is True
    others = [row for row in rows_of(f"data/answers/{arm}.jsonl") if row["id"] != LONG["id"]]
    chat = load_chat(Path("data/base/base"))
    limits = {"qa": 4, "summarization": 6, "rewriting": 6}
    for row in others:
        needed = len(chat.prompt(row["prompt"])) + limits[row["task"]]
        assert row["too_long"] is (needed > 256)
    assert sum(not row["too_long"] for row in others) > len(others) / 2


def test_the_ledger_counts_what_was_generated() -> None:
    attempt = read_json(Path("metrics/ledger/generate_answers/sft.json"), kind=list)[0]
    rows = [row for row in rows_of("data/answers/sft.jsonl") if not row["too_long"]]
    distinct = {(row["prompt"], row["task"]): row["new_tokens"] for row in rows}
    assert attempt["tokens"]["generated"] == sum(distinct.values())
    assert attempt["stage"] == "generate_answers@sft"


def test_a_new_prompt_is_the_only_one_generated(tmp_path: Path) -> None:
    [journal] = Path(".ckpt/generate_answers/sft").glob("*/answers.jsonl")
    before = journal.read_text().splitlines()
    more = [*rows_of("data/tasks.jsonl"), LONG | {"id": "e" * 40, "seed": 789, "input": "Oi."}]
    write_jsonl(tmp_path / "tasks.jsonl", more)
    command = GENERATE.replace("data/tasks.jsonl", str(tmp_path / "tasks.jsonl"))
    command = command.replace("data/answers/", f"{tmp_path}/").replace("metrics/", f"{tmp_path}/")
    run(command, "sft", *ANSWERING["sft"])
    after = journal.read_text().splitlines()
    assert after[:-1] == before
    rows = rows_of(str(tmp_path / "sft.jsonl"))
    assert rows[:-1] == rows_of("data/answers/sft.jsonl")
    assert rows[-1]["seed"] == 789


def test_the_metrics_of_answers_have_their_schema() -> None:
    metrics = read_json(Path("metrics/answers.json"))
    arms = {*OWN, "base_brief", "copy", "lead1", "empty"}
    assert metrics.keys() == arms | {"gains", "too_long"}
    assert metrics["gains"].keys() == {
        "sft-base",
        "cpt-base",
        "cpt_sft-base",
        "cpt_sft-sft",
        "base_brief-base",
        "sft-base_brief",
        "sft-copy",
    }
    for summary in [metrics[arm] for arm in arms] + list(metrics["gains"].values()):
        assert summary.keys() == {"qa", "summarization", "rewriting"}
        for task in summary.values():
            assert task.keys() == {"em", "f1", "rouge_l", "words"}
            for value in task.values():
                assert value.keys() >= {"mean", "sd", "ci", "per_seed"}
                assert value["per_seed"].keys() == {"123", "456"}
                assert len(value["ci"]) == 2


def test_gains_say_whether_they_are_by_chance() -> None:
    for summary in read_json(Path("metrics/answers.json"))["gains"].values():
        for task in summary.values():
            for metric, value in task.items():
                corrected = set() if metric == "words" else {"p_holm"}
                keys = {"mean", "sd", "ci", "per_seed", "p", "n_items", "detectable"} | corrected
                assert value.keys() == keys
                assert 0 < value["p"] <= value.get("p_holm", 1) <= 1
                assert value["n_items"] > 1


def test_gains_are_differences_and_baselines_need_no_model() -> None:
    metrics = read_json(Path("metrics/answers.json"))
    for task in ("qa", "summarization", "rewriting"):
        for metric in ("f1", "words"):
            gain = metrics["gains"]["sft-base"][task][metric]["mean"]
            difference = (
                metrics["sft"][task][metric]["mean"] - metrics["base"][task][metric]["mean"]
            )
            assert gain == pytest.approx(difference, abs=3e-6)
    assert metrics["empty"]["qa"]["words"]["mean"] == metrics["empty"]["qa"]["f1"]["mean"] == 0
    copied = [row["input"] or row["instruction"] for row in rows_of("data/tasks.jsonl")]
    assert metrics["copy"]["rewriting"]["words"]["mean"] > 4 < max(map(len, copied))


def test_too_long_prompts_are_counted_by_arm() -> None:
    counts = read_json(Path("metrics/answers.json"))["too_long"]
    assert counts.keys() == {*OWN, "base_brief"}
    for name, count in counts.items():
        path = f"data/answers/{name.removesuffix('_brief')}.jsonl"
        assert count == sum(row["too_long"] for row in rows_of(path) if row["arm"] == name) >= 1


@pytest.mark.parametrize("arm", OWN)
def test_items_under_git_have_scores_and_no_text(arm: str) -> None:
    items = rows_of(f"metrics/items/answers-{arm}.jsonl")
    answers = rows_of(f"data/answers/{arm}.jsonl")
    assert [(i["arm"], i["id"]) for i in items] == [(a["arm"], a["id"]) for a in answers]
    keys = {"arm", "task", "seed", "id", "too_long", "ended", "em", "f1", "rouge_l", "words"}
    assert {frozenset(item) for item in items} == {frozenset(keys)}
    assert {type(item[key]) for item in items for key in ("em", "f1", "rouge_l")} == {float}


def test_scored_answers_have_text_and_scores() -> None:
    names = {path.stem for path in Path("data/scored_answers").iterdir()}
    assert names == {*OWN, "base_brief"}
    for row in rows_of("data/scored_answers/sft.jsonl"):
        assert row.keys() == ROW | {"em", "f1", "rouge_l", "words"}


# --- continued documents --------------------------------------------------------------------------


def test_a_document_is_cut_in_two_and_its_author_goes_on() -> None:
    chat = load_chat(Path("data/base/base"))
    by_id = {d.id: d.ids for d in read_encoded(Path("data/cpt/evaluation.parquet"))}
    rows = rows_of("data/continuations.jsonl")
    assert len(rows) == 2
    for row in rows:
        ids = by_id[row["id"]]
        assert row["prompt"] == chat.decode(ids[:16])
        assert row["author"] == chat.decode(ids[16:28])


@pytest.mark.parametrize("name", ["base", "cpt"])
def test_each_arm_goes_on_with_its_likeliest_ids_one_by_one(name: str) -> None:
    import torch  # noqa: PLC0415

    base = read_base(Path("data/base/base"))
    assert base is not None
    model = load_base(base, decide(ComputeParams(device="cpu", threads=1, compile=False)))
    if name == "cpt":
        model = load_adapters(model, {"cpt": Path("data/adapters/cpt")}, base)
    chat = load_chat(Path("data/base/base"))
    for row in rows_of("data/continuations.jsonl"):
        ids = [*chat.form.begin, *chat.encode(row["prompt"])]
        start = len(ids)
        while len(ids) < start + 12 and ids[-1] not in chat.form.end:
            with torch.no_grad():
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        assert row[name] == chat.decode(ids[start:])


def test_the_ledger_counts_both_arms_of_both_documents() -> None:
    attempt = read_json(Path("metrics/ledger/continue_documents.json"), kind=list)[0]
    assert attempt["stage"] == "continue_documents"
    assert attempt["tokens"]["processed"] == 2 * 2 * 16
    assert 0 < attempt["tokens"]["generated"] <= 2 * 2 * 12


def test_the_first_full_documents_are_chosen_and_then_the_longest() -> None:
    params = ContinuationParams(documents=3, prompt_tokens=4, new_tokens=4)
    lengths = {"a": 3, "b": 9, "c": 5, "d": 20}
    found = longest([encoded_ids(*item) for item in lengths.items()], params)
    assert [document.id for document in found] == ["b", "d", "c"]


def encoded_ids(name: str, length: int) -> Encoded:
    """Return a document of so many ids."""
    return Encoded(id=name, ids=[7] * length, bytes=length, unknown_bytes=0)


# --- export and costs -----------------------------------------------------------------------------


def test_the_merged_model_is_the_adapter_on_the_unquantised_base() -> None:
    metrics = read_json(Path("metrics/export/sft.json"))
    assert metrics.keys() == {
        "merged_minus_unquantised_adapter",
        "merged_minus_quantised_adapter",
        "quantised_base_minus_base",
        "logit_sd",
        "tokens",
        "stop_ids",
    }
    assert 0 <= metrics["merged_minus_unquantised_adapter"]["max"] < 1e-4
    assert metrics["merged_minus_quantised_adapter"]["max"] > 1e-2  # what NF4 costs
    texts = read_encoded(Path("data/cpt/evaluation.parquet"))[:8]
    assert metrics["tokens"] == sum(min(256, len(d.ids)) for d in texts)


def test_both_exported_folders_load() -> None:
    import torch  # noqa: PLC0415
    from peft import PeftModel  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    folder = Path("data/export/sft")
    assert sorted(path.name for path in folder.iterdir()) == ["adapter", "merged"]
    merged = AutoModelForCausalLM.from_pretrained(folder / "merged", local_files_only=True).eval()
    plain = AutoModelForCausalLM.from_pretrained("model", local_files_only=True)
    adapted = PeftModel.from_pretrained(plain, folder / "adapter").eval()
    for name in ("merged", "adapter"):
        tokenizer = AutoTokenizer.from_pretrained(folder / name, local_files_only=True)
        assert "<|im_start|>" in tokenizer.chat_template
        ids = tokenizer("Bom dia a todos.", return_tensors="pt")["input_ids"]
        with torch.no_grad():
            difference = merged(ids).logits - adapted(input_ids=ids).logits
        assert difference.abs().max() < 1e-4


def test_the_merged_model_stops_where_its_answers_end() -> None:
    metrics = read_json(Path("metrics/export/sft.json"))
    stop = read_json(Path("data/base/base/chat.json"))["stop"]
    assert metrics["stop_ids"] == stop
    end = read_json(Path("data/export/sft/merged/generation_config.json"))["eos_token_id"]
    assert sorted(end if isinstance(end, list) else [end]) == stop


def test_costs_have_every_stage_with_a_ledger() -> None:
    costs = read_json(Path("metrics/costs.json"))
    stages = {"adapt_cpt", "score_adaptation", "continue_documents", "train_lm@v7"}
    stages |= {f"adapt_sft@{arm}" for arm in ("sft", "cpt_sft")}
    stages |= {f"generate_answers@{arm}" for arm in OWN}
    assert costs["stages"].keys() == stages
    assert costs["groups"]["track_2"]["stages"] == 3
    assert costs["groups"]["evaluation"]["stages"] == 6
    assert costs["stages"]["adapt_cpt"]["utilisation"] > 0
    assert costs["total"]["stages"] == len(stages)


# --- a user's mistakes, as dvc would show them ----------------------------------------------------


@pytest.fixture
def elsewhere(
    project: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Work in a copy of the folder, its checkpoints left out."""
    folder = tmp_path / "project"
    keep_out = shutil.ignore_patterns(".ckpt", "export", "answers", "scored_answers", "metrics")
    shutil.copytree(made, folder, ignore=keep_out)
    monkeypatch.chdir(folder)
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    write_params(folder, tiny_params(project))
    yield folder
    for number, handler in handlers.items():
        signal.signal(number, handler)


def change(**changes: Any) -> None:
    """Change values of params.yaml; dots in names are double underscores."""
    params = yaml.safe_load(Path("params.yaml").read_text("utf-8"))
    for name, value in changes.items():
        section = params
        *path, last = name.split("__")
        for key in path:
            section = section[key]
        section[last] = value
    write_params(Path(), params)


def foreign(arm: str) -> None:
    """Turn an adapter into one of other weights."""
    path = Path("data/adapters", arm, "adaptation.json")
    write_json(path, {"base": "other", "weights": "0123456789abcdef"})


def other_fields() -> None:
    """Take SFT's examples from a file with Portuguese field names."""
    write_jsonl(Path("in.jsonl"), [{"pergunta": "Quem?", "resposta": "Eu."}])
    change(sft_data__source="jsonl", sft_data__path="in.jsonl")


def no_base() -> None:
    """Leave the base out, and open it again."""
    change(base_models__base__source="none")
    shutil.rmtree("data/base/base")
    run(OPEN, "base")


def nothing_reserved() -> None:
    """Reserve no document."""
    write_documents(Path("data/clean/prose/reserved.parquet"), [])


def broken() -> None:
    """Leave of the model only its weights."""
    Path("model/config.json").unlink()


def one_cluster() -> None:
    """Reserve copies of one document only."""
    documents = [Document(f"d{i}", "prosa", "", "Bom dia.") for i in range(2)]
    write_documents(Path("data/clean/prose/reserved.parquet"), documents)


MISMATCH = r"data/adapters/{}: this adapter belongs to other weights \(0123456789ab\)"
MISTAKES = {
    "SFT fields": (
        SFT_DATA,
        other_fields,
        r"in\.jsonl:1: field 'instruction' is missing \(found: pergunta, resposta\)",
    ),
    "no folder": (
        OPEN.format("base"),
        lambda: change(base_models__base__path="nowhere"),
        r"base_models\.base\.path nowhere: no such folder",
    ),
    "no model, cpt": (CPT, broken, r"model: cannot be read"),
    "no model, score": (SCORE, broken, r"model: cannot be read"),
    "other base, sft": (
        SFT.format("cpt_sft", *ADAPTED["cpt_sft"]),
        lambda: foreign("cpt"),
        MISMATCH.format("cpt"),
    ),
    "other base, generate": (
        GENERATE.format("cpt", *ANSWERING["cpt"]),
        lambda: foreign("cpt"),
        MISMATCH.format("cpt"),
    ),
    "other base, export": (EXPORT, lambda: foreign("sft"), MISMATCH.format("sft")),
    "other base, score": (SCORE, lambda: foreign("sft"), "belongs to none of the bases"),
    "other base, continue": (CONTINUE, lambda: foreign("cpt"), MISMATCH.format("cpt")),
    "none, continue": (CONTINUE, no_base, r"base_models\.base\.source is none"),
    "no room to continue": (
        CONTINUE,
        lambda: change(continuation__new_tokens=256),
        r"continuation\.new_tokens is 256, but the base's context of 256 has to hold the prompt",
    ),
    "no reserved": (
        CPT_DATA,
        nothing_reserved,
        r"reserved\.parquet: 0 documents to train on and 0",
    ),
    "one cluster": (CPT_DATA, one_cluster, r"reserved\.parquet: 2 documents to train on and 0 to"),
    "no file": (
        CPT_DATA,
        lambda: Path("data/clean/prose/reserved.parquet").unlink(),
        r"reserved\.parquet: no such file",
    ),
    "none, cpt": (CPT, no_base, r"base_models\.base\.source is none, but cpt adapts it"),
    "none, cpt data": (CPT_DATA, no_base, r"base_models\.base\.source is none"),
    "none, export": (EXPORT, no_base, r"base_models\.base\.source is none"),
    "no adapter": (
        GENERATE.format("cpt", "base", "data/clean"),
        lambda: None,
        "data/clean: neither an adapter nor a base",
    ),
}
CASES = [pytest.param(*case, id=name) for name, case in MISTAKES.items()]


def tree() -> dict[str, bytes]:
    """Return every file below the working directory but the checkpoints' folder."""
    files = [path for path in Path().rglob("*") if path.is_file() and path.parts[0] != ".ckpt"]
    return {str(path): path.read_bytes() for path in files}


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(("command", "spoil", "message"), CASES)
def test_a_mistake_is_one_line_and_leaves_every_file_as_it_was(
    monkeypatch: pytest.MonkeyPatch, command: str, spoil: Callable, message: str
) -> None:
    spoil()
    before = tree()
    monkeypatch.setattr(sys, "argv", command.split())
    with pytest.raises(SystemExit, match=message) as stopped:
        run_stage(MAINS[command.split()[0]])
    line = str(stopped.value.code)  # sys.exit writes a text to stderr and gives code 1
    assert line.startswith("error: ")
    assert "\n" not in line
    assert tree() == before


@pytest.mark.usefixtures("elsewhere")
def test_as_a_command_it_is_one_line_and_code_1(project: Path) -> None:
    foreign("cpt")
    before = tree()
    words = SFT.format("cpt_sft", *ADAPTED["cpt_sft"]).split()
    done = subprocess.run(
        [sys.executable, "-m", f"stages.{words[0]}", *words[1:]],
        env={"PYTHONPATH": f"{project / 'src'}:{project}", "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    *_, line = done.stderr.splitlines()
    assert "Traceback" not in done.stderr
    assert line.startswith("error: data/adapters/cpt: this adapter belongs to other weights")
    assert tree() == before
