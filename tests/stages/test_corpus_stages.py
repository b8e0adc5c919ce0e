"""The three corpus stages in a row on a tiny corpus, and what they say of a bad one."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from cordel.corpus.documents import read_documents
from cordel.runtime.errors import ArtifactError, InputError
from cordel.runtime.files import read_json
from stages import clean_corpus, export_corpus, split_corpus

SPLITS = ("train", "val", "test")
SENTENCE = "A prefeitura de São João anunciou a reforma número {} da praça da estação. <END> "
Write = Callable[..., None]


def rows(count: int = 40) -> list[dict[str, Any]]:
    """Return documents that differ in every line: four lines of text and one of dirt."""
    texts = ["".join(SENTENCE.format(f"{i}x{n}") for n in range(4)) for i in range(count)]
    return [{"id": f"d{i}", "text": f"{texts[i]}Leia mais"} for i in range(count)]


@pytest.fixture
def write(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Return a function that writes corpus and params.yaml to an empty working directory."""
    monkeypatch.chdir(tmp_path)
    params = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))

    def write(records: list[dict[str, Any]] | bytes, **corpus: Any) -> None:
        content = records
        if isinstance(content, list):
            content = b"".join(json.dumps(record).encode() + b"\n" for record in content)
        Path("in").mkdir()
        Path("in/a.jsonl").write_bytes(content)
        params["corpus"] |= {"source": "jsonl", "path": "in", "max_documents": 30} | corpus
        params["splits"] |= {
            "val": 0.3,
            "test": 0.3,
            "min_similarity": 0.9,
            "reserved_sources": [],
        }
        Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")

    return write


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that runs a command line in this process, as dvc.yaml has it."""
    mains = {
        "export_corpus": export_corpus.main,
        "split_corpus": split_corpus.main,
        "clean_corpus": clean_corpus.main,
    }

    def stage(command: str) -> None:
        monkeypatch.setattr(sys, "argv", command.split())
        mains[command.split()[0]]()

    return stage


EXPORT = "export_corpus --input in --out data/corpus --ledger metrics/export.json"
SPLIT = "split_corpus --corpus data/corpus --out data/splits.parquet --metrics metrics/splits.json"
CLEAN = (
    "clean_corpus --recipe {} --corpus data/corpus --splits data/splits.parquet "
    "--out data/clean --metrics metrics/clean.json"
)


def run(project: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Run a command line as dvc does, in the working directory."""
    return subprocess.run(
        [sys.executable, "-m", *f"stages.{command}".split()],
        env=os.environ | {"PYTHONPATH": f"{project / 'src'}{os.pathsep}{project}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_corpus_is_a_sample_with_its_record_and_ledger(
    write: Write, stage: Callable[[str], None]
) -> None:
    write(rows())
    stage(EXPORT)
    expected = {"source": "jsonl", "documents_seen": 40, "documents": 30}
    assert read_json(Path("data/corpus/meta.json")) == expected
    (record,) = read_json(Path("metrics/export.json"), kind=list)
    assert expected.items() <= record.items()
    texts = [document.text for document in read_documents(Path("data/corpus/documents.parquet"))]
    assert len(texts) == 30
    assert all(text.count("\n") == 4 and "<END>" not in text for text in texts)


def test_splitting_counts_documents_and_near_duplicates(
    write: Write, stage: Callable[[str], None]
) -> None:
    copies = [rows()[3] | {"id": "copy1"}, rows()[3] | {"id": "copy2"}]
    write([*rows(), *copies], max_documents=1000)
    stage(EXPORT)
    stage(SPLIT)
    metrics = read_json(Path("metrics/splits.json"))
    # 40 different documents and two copies of one of them: 40 clusters, one of them of 3.
    expected = {"documents": 42, "clusters": 40, "near_duplicates": 2, "largest_cluster": 3}
    assert expected.items() <= metrics.items()
    assert sum(metrics[split] for split in SPLITS) == 42
    assert pq.read_table("data/splits.parquet").column_names == ["id", "cluster", "split"]


def test_cleaning_writes_every_document_to_its_split_and_counts_what_it_dropped(
    write: Write, stage: Callable[[str], None]
) -> None:
    write(rows())
    for command in (EXPORT, SPLIT, CLEAN.format("lossless")):
        stage(command)
    table = pq.read_table("data/splits.parquet")
    split_of = dict(zip(table["id"].to_pylist(), table["split"].to_pylist(), strict=True))
    written = {d.id: s for s in SPLITS for d in read_documents(Path(f"data/clean/{s}.parquet"))}
    assert written == split_of
    metrics = read_json(Path("metrics/clean.json"))
    assert metrics["dropped"] == {"line_too_short": 30}  # "Leia mais", once a document
    assert metrics["documents"] == sum(metrics["kept"].values()) == 30
    # Each document loses the 9 bytes of "Leia mais" and the newline before it.
    assert metrics["read_bytes"] - metrics["kept_bytes"] == 30 * 10
    assert metrics["kept_share"] == round(metrics["kept_bytes"] / metrics["read_bytes"], 6)


@pytest.mark.parametrize(
    ("recipe", "line"),
    [
        ("web", "a prefeitura de são joão anunciou a reforma número {}x1 da praça"),
        ("lossless", "A prefeitura de São João anunciou a reforma número {}x1 da praça"),
    ],
)
def test_a_recipe_writes_what_it_promises(
    write: Write, stage: Callable[[str], None], recipe: str, line: str
) -> None:
    write(rows())
    for command in (EXPORT, SPLIT, CLEAN.format(recipe)):
        stage(command)
    document = next(read_documents(Path("data/clean/train.parquet")))
    number = document.id.removeprefix("d")
    if recipe == "web" and len(number) > 1:
        number = "0"
    assert document.text.split("\n")[1] == f"{line.format(number)} da estação."


def test_the_same_input_gives_the_same_bytes(write: Write, stage: Callable[[str], None]) -> None:
    write(rows())
    contents = []
    for _ in range(2):
        for command in (EXPORT, SPLIT, CLEAN.format("web")):
            stage(command)
        names = ("corpus/documents", "splits", "clean/train", "clean/val", "clean/test")
        contents.append([Path(f"data/{name}.parquet").read_bytes() for name in names])
    assert contents[0] == contents[1]


def test_everything_dropped_by_cleaning_says_which_rule_dropped_how_much(
    write: Write, stage: Callable[[str], None]
) -> None:
    text = "3333-4444 / 5555-6666 / 7777-8888 / 9999-0000 <END> Publicidade <END> Leia mais"
    # 30 documents of four lines that are no copies of each other, thanks to the last line.
    write([{"id": f"d{i}", "text": f"{text} <END> Oi {i} {i * i}"} for i in range(30)])
    stage(EXPORT)
    stage(SPLIT)
    reasons = "line_too_short 90, line_few_letters 30, document_too_short 30"
    expected = rf"cleaning\.lossless leaves .*'train': 0.* \(dropped: {reasons}\); loosen the rule"
    with pytest.raises(InputError, match=expected):
        stage(CLEAN.format("lossless"))
    assert not Path("data/clean").exists()
    assert not Path("metrics/clean.json").exists()


@pytest.mark.parametrize("command", [SPLIT, CLEAN.format("web")])
def test_a_stage_without_its_input_names_it(
    write: Write, stage: Callable[[str], None], command: str
) -> None:
    write(rows())
    stage(EXPORT)
    stage(SPLIT)
    Path("data/corpus/documents.parquet").unlink()
    with pytest.raises(ArtifactError, match=r"data/corpus/documents\.parquet: no such file"):
        stage(command)


@pytest.mark.parametrize(
    ("content", "corpus", "message"),
    [
        (b'{"text": "a"}\n{"text": \n', {}, "in/a.jsonl:2: not JSON"),
        (b'{"text": "ol\xe1"}\n', {}, "in/a.jsonl:1: not UTF-8 (byte 0xe1 at 12)"),
        (b'{"text": "\\udc80"}\n', {}, "in/a.jsonl:1: half of a surrogate pair"),
        (b'{"corpo": "a"}\n', {}, "in/a.jsonl:1: field 'text' is missing (found: corpo)"),
        (b'{"id": 1, "text": "a"}\n' * 2, {}, "document id '1' occurs twice"),
        (b"", {}, "in/a.jsonl: empty file"),
        (b"{}", {"path": "fora"}, "corpus.path fora: no such file or folder"),
        (b"{}", {"pattern": "*.txt"}, "corpus.path in: no file matches pattern '*.txt'"),
        (b"{}", {"pattern": ""}, "corpus.pattern ''"),
        (b"{}", {"sed": 1}, "params.yaml: section 'corpus': unknown key 'sed'"),
        (b"{}", {"max_documents": 0}, "params.yaml: section 'corpus': max_documents is 0"),
    ],
)
def test_a_bad_input_is_one_line_and_leaves_no_folder(
    project: Path, write: Write, content: bytes, corpus: dict[str, Any], message: str
) -> None:
    write(content, **corpus)
    done = run(project, EXPORT)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1  # and so no traceback
    assert not list(Path().glob("data/*"))
    assert not Path("metrics").exists()


def test_a_folder_without_params_is_said_in_one_line(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(project, EXPORT)
    expected = "error: params.yaml: no such file; run from the root of the project\n"
    assert (done.returncode, done.stderr) == (1, expected)


def test_an_unknown_recipe_is_said_in_one_line(project: Path, write: Write) -> None:
    write(rows())
    done = run(project, CLEAN.format("webb"))
    expected = "error: params.yaml: no section 'cleaning.webb' (stopped at 'webb'); add it\n"
    assert (done.returncode, done.stderr) == (1, expected)


def test_a_failed_export_keeps_the_corpus_of_the_last_good_one(
    write: Write, stage: Callable[[str], None]
) -> None:
    write(rows())
    stage(EXPORT)
    Path("in/a.jsonl").write_bytes(b"{")
    with pytest.raises(InputError, match=r"in/a\.jsonl:1: not JSON"):
        stage(EXPORT)
    assert len(list(read_documents(Path("data/corpus/documents.parquet")))) == 30
    assert [path.name for path in Path("data").iterdir()] == ["corpus"]
