"""From clean documents to an exported model, on a corpus of 112 documents and toy sizes."""

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cordel.checkpoints import load_model
from cordel.corpus.documents import Document, read_documents, write_documents
from cordel.runtime.files import read_json
from cordel.tokenizers.char import CharTokenizer
from cordel.tokenizers.saved import load_tokenizer
from cordel.tokens import read_ids, read_meta, read_split
from stages import encode_corpus, export_model, train_lm, train_tokenizer

MAINS = {
    "train_tokenizer": train_tokenizer.main,
    "encode_corpus": encode_corpus.main,
    "train_lm": train_lm.main,
    "export_model": export_model.main,
}
# As dvc.yaml has them, for the runs v7 (pieces, Llama) and v1 (characters, LSTM).
TOKENIZER = (
    "train_tokenizer --name {tokenizer} --clean data/clean/{recipe} "
    "--out data/tokenizers/{tokenizer} --metrics metrics/tokenizers/{tokenizer}.json "
    "--ledger metrics/ledger/train_tokenizer/{tokenizer}.json"
)
TOKENS = (
    "encode_corpus --dataset {dataset} --clean data/clean/{recipe} "
    "--common data/clean/lossless/test.parquet --tokenizer data/tokenizers/{tokenizer} "
    "--out data/tokens/{dataset} --eval-out data/eval_tokens/{dataset}"
)
TRAIN = (
    "train_lm --run {run} --tokens data/tokens/{dataset} --out data/models/{run} "
    "--curve plots/curves/{run}.csv --ledger metrics/ledger/train_lm/{run}.json"
)
SEEDED = (
    "train_lm --run {run} --seed 43 --tokens data/tokens/{dataset} --out OUT "
    "--curve OUT.csv --ledger OUT.json"
)
EXPORT = (
    "export_model --run {run} --model data/models/{run} --tokens data/tokens/{dataset} "
    "--out data/export/{run} --metrics metrics/export/{run}.json"
)
V7 = {"run": "v7", "dataset": "v7_lossless", "tokenizer": "unigram_v7", "recipe": "lossless"}
V1 = {"run": "v1", "dataset": "char_web_20k", "tokenizer": "char", "recipe": "web"}
RUNS = pytest.mark.parametrize("names", [V7, V1], ids=["v7", "v1"])


def tiny_params(project: Path) -> dict[str, Any]:
    """Return the real params.yaml with toy sizes for v7 and v1."""
    params = yaml.safe_load((project / "params.yaml").read_text("utf-8"))
    params["compute"] = {"device": "cpu", "threads": 1, "compile": False}
    params["tokenizers"]["unigram_v7"]["vocab_size"] = 700
    params["models"]["v7"]["model"] |= {"d_model": 16, "n_layer": 2, "n_head": 2, "d_ff": 24}
    params["models"]["v1"]["model"] |= {"d_embedding": 8, "d_model": 16}
    for run, epochs in (("v7", 0.05), ("v1", 0.02)):
        training = params["models"][run]["training"]
        training |= {"context_length": 32, "stride": 32, "batch_size": 4, "evaluations": 2}
        training |= {"epochs": epochs, "schedule_epochs": epochs}
    return params


def write_params(folder: Path, params: dict[str, Any]) -> None:
    """Write params.yaml."""
    (folder / "params.yaml").write_text(yaml.safe_dump(params), "utf-8")


def run(command: str, names: dict[str, str]) -> None:
    """Run a stage in this process and in the working directory."""
    words = command.format(**names).split()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", words)
        MAINS[words[0]]()


@pytest.fixture(scope="module")
def made(project: Path, prose: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which v7 and v1 went through all stages but the export."""
    folder = tmp_path_factory.mktemp("pipeline")
    documents = [Document(f"d{i}", "prosa", "", text) for i, text in enumerate(prose)]
    parts = {"val": documents[:6], "test": documents[6:14], "train": documents[14:]}
    for recipe in ("lossless", "web"):
        for split, part in parts.items():
            write_documents(folder / "data" / "clean" / recipe / f"{split}.parquet", part)
    write_params(folder, tiny_params(project))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("DVC_ROOT", raising=False)
        for names in (V7, V1):
            for command in (TOKENIZER, TOKENS, TRAIN):
                run(command, names)
    return folder


@pytest.fixture(autouse=True)
def _here(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in that folder, as if outside DVC."""
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(made)


# --- train_tokenizer ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokenizer", "files"),
    [
        ("unigram_v7", ["tokenizer.json", "tokenizer.model", "tokenizer_config.json"]),
        ("char", ["char.json"]),
    ],
)
def test_a_tokenizer_folder_holds_its_formats(tokenizer: str, files: list[str]) -> None:
    assert sorted(p.name for p in Path("data/tokenizers", tokenizer).iterdir()) == files


def test_the_metrics_of_v7_promise_lossless_text() -> None:
    metrics = read_json(Path("metrics/tokenizers/unigram_v7.json"))
    assert metrics["vocab_size"] == metrics["vocab_size_asked"] == 700
    assert (metrics["unknown_rate"], metrics["exact_documents_rate"]) == (0, 1)
    assert metrics["unwritable"] == ""


def test_a_character_tokenizer_was_asked_for_no_size() -> None:
    metrics = read_json(Path("metrics/tokenizers/char.json"))
    assert "vocab_size_asked" not in metrics
    assert metrics["bytes_per_token"] == pytest.approx(1.03, abs=0.02)  # accents have two bytes


# --- encode_corpus --------------------------------------------------------------------------------


@RUNS
@pytest.mark.parametrize(("split", "documents"), [("train", 98), ("val", 6)])
def test_every_document_is_encoded_with_its_frame(names: dict, split: str, documents: int) -> None:
    folder = Path("data/tokens", names["dataset"])
    tokenizer = load_tokenizer(folder / "tokenizer")
    texts = [d.text for d in read_documents(Path(f"data/clean/{names['recipe']}/{split}.parquet"))]
    found = read_split(folder, split)
    assert len(found) == documents
    framed = [[*tokenizer.begin, *tokenizer.encode(text), *tokenizer.end] for text in texts]
    assert [document.ids for document in found] == framed
    assert [document.bytes for document in found] == [len(text.encode()) for text in texts]


@RUNS
def test_the_meta_counts_what_the_arrays_hold(names: dict) -> None:
    folder = Path("data/tokens", names["dataset"])
    meta = read_meta(folder)
    assert meta.splits["train"].tokens == len(read_ids(folder, "train"))
    assert meta.tokenizer == names["tokenizer"]
    assert int(read_ids(folder, "train").max()) < meta.vocab_size


@pytest.mark.parametrize(("names", "lossless"), [(V7, True), (V1, False)], ids=["v7", "v1"])
def test_the_common_text_is_normalised_by_the_recipe_and_counts_its_own_bytes(
    names: dict, lossless: bool
) -> None:
    folder = Path("data/eval_tokens", names["dataset"])
    meta = read_meta(folder)
    tokenizer = load_tokenizer(Path("data/tokenizers", names["tokenizer"]))
    first = next(read_documents(Path("data/clean/lossless/test.parquet"))).text
    ids = read_split(folder, "common")[0].ids
    text = tokenizer.decode(ids[len(tokenizer.begin) : -len(tokenizer.end)])
    # The web recipe lower-cases; its bytes are still those of the document as it is.
    assert (text == first, text == text.lower()) == (lossless, not lossless)
    assert meta.lossless is lossless
    assert meta.splits["common"].bytes == meta.splits["own"].bytes


def test_hidden_bytes_are_looked_for_only_where_an_id_is_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokenizer, asked = CharTokenizer("\nanov~"), list[str]()

    def unknown_bytes(text: str) -> int:
        asked.append(text)
        return len("ã".encode())

    monkeypatch.setattr(tokenizer, "unknown_bytes", unknown_bytes)
    documents = [Document("d", "", "", text) for text in ("nova", "não", "ovo")]
    found = [encode_corpus.encoded(tokenizer, each, each.text).unknown_bytes for each in documents]
    assert (found, asked) == ([0, 2, 0], ["não"])


# --- train_lm -------------------------------------------------------------------------------------


def curve_of(run: str) -> list[dict[str, str]]:
    """Return the rows of a curve."""
    with Path(f"plots/curves/{run}.csv").open() as lines:
        return list(csv.DictReader(lines))


@RUNS
def test_training_gets_better_and_keeps_the_best(names: dict) -> None:
    bits = [float(row["val_bits_per_byte"]) for row in curve_of(names["run"])]
    config = read_json(Path("data/models", names["run"], "config.json"))
    assert len(bits) == (4 if names["run"] == "v7" else 3)  # v7: before its start at bigrams, too
    assert bits[0] > bits[-1] == config["val_bits_per_byte"]
    assert config["step"] == int(curve_of(names["run"])[-1]["step"]) > 10


@RUNS
def test_the_model_loads_with_the_size_of_its_tokenizer(names: dict) -> None:
    _, config = load_model(Path("data/models", names["run"]))
    meta = read_meta(Path("data/tokens", names["dataset"]))
    assert (config.vocab_size, config.context_length) == (meta.vocab_size, 32)
    assert config.tokenizer_sha256 == meta.tokenizer_sha256


def test_the_ledger_counts_parameters_and_tokens() -> None:
    attempt = read_json(Path("metrics/ledger/train_lm/v7.json"), kind=list)[0]
    # Embedding and output 700 x 16 each; a block 4 x 16 x 16 + 3 x 16 x 24 + 2 x 16; last norm 16.
    assert attempt["parameters"] == 2 * 11200 + 2 * 2208 + 16
    steps = int(curve_of("v7")[-1]["step"])
    assert attempt["tokens"] == dict.fromkeys(("unique", "processed", "supervised"), 128 * steps)
    assert (attempt["completed"], attempt["compute"]["dtype"]) == (True, "float32")


@RUNS
def test_training_from_scratch_again_gives_the_same_bytes(
    names: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))  # no checkpoint there
    elsewhere = TRAIN.replace("data/models/{run}", str(tmp_path))
    run(elsewhere.replace("metrics/", f"{tmp_path}/"), names)
    for name in ("model.safetensors", "config.json"):
        expected = Path("data/models", names["run"], name).read_bytes()
        assert (tmp_path / name).read_bytes() == expected


@pytest.fixture
def seeded(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work where params.yaml has seed 43 for v7, and train it as `other`; return that folder."""
    params = tiny_params(project)
    params["models"]["v7"]["training"]["seed"] = 43
    write_params(tmp_path, params)
    (tmp_path / "data").symlink_to(Path("data").resolve())
    monkeypatch.chdir(tmp_path)
    run(TRAIN.replace("data/models/{run}", "other"), V7)
    return tmp_path


def test_another_seed_gives_other_bytes(seeded: Path) -> None:
    name = "model.safetensors"
    assert (seeded / "other" / name).read_bytes() != Path("data/models/v7", name).read_bytes()


def test_a_seed_on_the_command_line_is_as_in_params_but_has_a_name_of_its_own(
    made: Path, seeded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made)
    monkeypatch.setenv("DVC_ROOT", str(seeded))  # where 43 was trained as v7
    run(SEEDED.replace("OUT", str(seeded / "further")), V7)
    name = "model.safetensors"
    assert (seeded / "further" / name).read_bytes() == (seeded / "other" / name).read_bytes()
    assert read_json(seeded / "further/config.json")["run"] == "v7-43"
    (record,) = read_json(seeded / "further.json", kind=list)
    assert record["stage"] == "train_lm@v7-43"
    # A folder of its own, or seeds would throw each other's checkpoints away.
    [further], [as_in_params] = (keys(seeded / ".ckpt/train_lm" / name) for name in ("v7-43", "v7"))
    assert further == as_in_params
    assert further not in keys(made / ".ckpt/train_lm/v7")


def keys(folder: Path) -> list[str]:
    """Return the fingerprints of which a run has a checkpoint."""
    return [path.name for path in folder.iterdir()]


def test_a_finished_run_says_so_and_gives_the_same_bytes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = Path("data/models/v7/model.safetensors")
    before = path.read_bytes()
    shutil.rmtree(path.parent)
    caplog.set_level("INFO")
    run(TRAIN, V7)
    assert "v7: found it finished in .ckpt/train_lm/v7/" in caplog.text
    assert path.read_bytes() == before


def test_finding_a_run_finished_keeps_what_it_cost() -> None:
    path = Path("metrics/ledger/train_lm/v1.json")
    before = read_json(path, kind=list)
    run(TRAIN, V1)
    assert read_json(path, kind=list)[:-1] == before
    assert before[0]["completed"]


def test_the_checkpoint_lies_in_the_working_directory_outside_dvc() -> None:
    [folder] = Path(".ckpt/train_lm/v1").iterdir()
    assert {"lock", "state.pt"} <= {p.name for p in folder.iterdir()}


# --- export_model ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_exported_folder_loads_in_transformers() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    run(EXPORT, V7)
    folder = Path("data/export/v7")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    text = "Coração de mãe\nsempre cabe mais um."
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    assert tokenizer.decode(ids[0]) == text
    assert model(ids).logits.shape == (1, ids.shape[1], 700)
    assert tokenizer.model_max_length == 32


@pytest.mark.slow
def test_the_export_records_the_bound_of_the_difference() -> None:
    run(EXPORT, V7)
    metrics = read_json(Path("metrics/export/v7.json"))
    assert metrics == {"max_logit_difference_below": 1e-5, "parameters": 26832}


# --- a user's mistakes, as dvc would show them ----------------------------------------------------


def wrong(*keys: str, value: Any) -> Callable[[dict], None]:
    """Return a change of one value of params.yaml."""

    def change(params: dict) -> None:
        for key in keys[:-1]:
            params = params[key]
        params[keys[-1]] = value

    return change


LARGE = "context_length 90000 x batch_size 4 needs more than the "
MISTAKES = [
    (
        TOKENIZER,
        wrong("tokenizers", "unigram_v7", "vocab_size", value="700"),
        "'vocab_size' is '700'",
    ),
    (
        TOKENIZER,
        wrong("tokenizers", "unigram_v7", "vocab_size", value=30000),
        "tokenizers.unigram_v7.vocab_size is 30000, but this corpus supports at most ",
    ),
    (TOKENS, wrong("datasets", "v7_lossless", "max_documents", value=0), "max_documents is 0"),
    (
        TRAIN,
        wrong("models", "v7", "training", "learning_rte", value=0.1),
        "unknown key 'training.learning_rte'",
    ),
    (TRAIN, wrong("models", "v7", "model", "n_head", value=3), "d_model 16 / n_head 3"),
    (TRAIN, wrong("models", "v7", "training", "context_length", value=90000), LARGE),
]


@pytest.mark.parametrize(
    ("command", "change", "message"), MISTAKES, ids=[message[:30] for _, _, message in MISTAKES]
)
def test_a_wrong_parameter_is_one_line_and_leaves_no_output(
    project: Path, made: Path, tmp_path: Path, command: str, change: Callable, message: str
) -> None:
    params = tiny_params(project)
    change(params)
    write_params(tmp_path, params)
    for name in ("clean", "tokenizers", "tokens"):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).symlink_to(made / "data" / name)
    words = command.replace("data/", "in/").replace("out in/", "out new/").format(**V7).split()
    paths = {"PYTHONPATH": f"{project / 'src'}:{project}", "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-m", f"stages.{words[0]}", *words[1:]],
        cwd=tmp_path,
        env=paths,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not list(tmp_path.glob("new/*/*"))
    assert not (tmp_path / "metrics").exists()
