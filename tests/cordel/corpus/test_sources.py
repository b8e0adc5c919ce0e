"""Documents from local files and the hub: formats, sampling, and what a bad file is called."""

import gzip
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cordel.corpus import sources
from cordel.corpus.documents import Document, read_documents
from cordel.corpus.sources import (
    CorpusParams,
    HubParams,
    Stream,
    export_documents,
    normal_form,
    resolve_revision,
    sample_documents,
    source_state,
)
from cordel.runtime.console import Stopped
from cordel.runtime.errors import EnvironmentProblem, InputError, ParamsError

ROWS = [{"id": "a", "text": "Três cães."}, {"id": "b", "text": "Água", "title": "Rio", "n": 1}]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def corpus(path: Path, **changes: Any) -> CorpusParams:
    """Return the parameters of a corpus of local files."""
    hub = HubParams(dataset=str(path), revision="main", split="train")
    params = CorpusParams(
        source="jsonl",
        path=str(path),
        pattern="*",
        text_field="text",
        hub=hub,
        max_documents=1000,
        seed=42,
        paragraph_marker="<END>",
    )
    return replace(params, **changes)


def lines(rows: Iterable[Any]) -> bytes:
    """Return ``rows`` as JSON Lines."""
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write ``rows`` in the format that the name of ``path`` tells."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines(rows)))
    elif path.suffix == ".zst":
        path.write_bytes(pa.compress(lines(rows), codec="zstd", asbytes=True))
    else:
        path.write_bytes(lines(rows))
    return path


def export(params: CorpusParams, tmp_path: Path) -> list[Document]:
    """Return the documents that are exported."""
    export_documents(params, tmp_path / "out", revision="main", parts=tmp_path / "parts")
    return list(read_documents(tmp_path / "out" / "documents.parquet"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return an empty folder for the input."""
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the hub's library from the network and its cache out of the home folder."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))


# --- Formats ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_every_format_gives_the_same_documents(folder: Path, tmp_path: Path, name: str) -> None:
    path = write(folder / name, [ROWS[0] | {"title": ""}, ROWS[1]])
    assert export(corpus(path), tmp_path) == [
        Document("a", "", "", "Três cães."),
        Document("b", "", "Rio", "Água"),
    ]


def test_a_text_file_is_one_document_named_after_it(folder: Path, tmp_path: Path) -> None:
    (folder / "conto.txt").write_bytes("\ufeffEra uma vez\r\num coração.\n".encode())
    (document,) = export(corpus(folder), tmp_path)
    assert document == Document("conto.txt:1", "", "", "Era uma vez\num coração.")


def test_a_record_without_an_id_is_named_after_its_file_and_line(
    folder: Path, tmp_path: Path
) -> None:
    write(folder / "a.jsonl", [{"text": "um"}, {"text": "dois", "doc_id": 7}])
    assert [d.id for d in export(corpus(folder), tmp_path)] == ["a.jsonl:1", "7"]


def test_the_text_may_be_in_another_field(folder: Path, tmp_path: Path) -> None:
    write(folder / "a.jsonl", [{"corpo": "olá", "text": "resumo"}])
    assert export(corpus(folder, text_field="corpo"), tmp_path)[0].text == "olá"


def test_blank_lines_and_a_missing_last_newline_are_no_records(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "a.jsonl").write_bytes(b'\n{"text": "um"}\r\n \n{"text": "dois"}')
    assert [d.text for d in export(corpus(folder), tmp_path)] == ["um", "dois"]


def test_a_line_longer_than_the_read_buffer_stays_whole(folder: Path, tmp_path: Path) -> None:
    # 2.8 MB, so that the buffer of 1 MiB cuts it twice. The first cut is after 2 bytes of "ação ":
    # 1048576 - 10 of '{"text": "' - 6 of "inicio" = 7 x 149794 + 2, in the middle of ç.
    text = "inicio" + "ação " * 400_000
    write(folder / "a.jsonl", [{"text": text}, {"text": "fim"}])
    assert [d.text for d in export(corpus(folder), tmp_path)] == [text, "fim"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*", ["a", "b"]),
        ("**/*", ["a", "b", "c"]),
        ("sub/*.jsonl", ["c"]),
        ("b*", ["b"]),
    ],
)
def test_a_pattern_chooses_files_of_a_folder_in_the_order_of_their_names(
    folder: Path, tmp_path: Path, pattern: str, expected: list[str]
) -> None:
    (folder / "sub").mkdir()
    (folder / "leia.md").write_text("nenhum documento", encoding="utf-8")
    for path in ("sub/c.jsonl", "b.jsonl.gz", "a.jsonl"):
        write(folder / path, [{"text": Path(path).name[0]}])
    assert [d.text for d in export(corpus(folder, pattern=pattern), tmp_path)] == expected


def test_equal_names_in_two_folders_give_two_ids(folder: Path, tmp_path: Path) -> None:
    for name in ("um", "dois"):
        (folder / name).mkdir()
        write(folder / name / "a.jsonl", [{"text": name}])
    found = export(corpus(folder, pattern="**/*"), tmp_path)
    assert [d.id for d in found] == ["dois/a.jsonl:1", "um/a.jsonl:1"]


# --- Normal form -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("marker", "text", "expected"),
    [
        ("<END>", "Um. <END> Dois.", "Um.\nDois."),
        ("<END>", "Um.<END>Dois. \t<END>\n\n Três.", "Um.\nDois.\nTrês."),
        ("<END>", " <END> Um.  Dois. <END>", "Um.  Dois."),
        ("[p]", "Um. [p] Dois <END>.", "Um.\nDois <END>."),
        ("", "Um. <END> Dois.", "Um. <END> Dois."),
        ("", "Um.\r\nDois.\rTrês.\n", "Um.\nDois.\nTrês."),
        ("", "  recuo\n\nfim  ", "  recuo\n\nfim  "),
    ],
)
def test_the_paragraph_marker_becomes_a_newline(marker: str, text: str, expected: str) -> None:
    assert normal_form(Document("a", "", "", text), marker).text == expected


# --- Sampling --------------------------------------------------------------------------------


def sample(tmp_path: Path, ids: Iterable[str], *, keep: int, seed: int = 42) -> list[str]:
    """Return the ids that a sample of ``keep`` documents keeps."""
    path = tmp_path / "documents.parquet"
    documents = (Document(name, "", "", "texto") for name in ids)
    with TemporaryDirectory(dir=tmp_path) as parts:
        _, kept = sample_documents(
            lambda *_: Stream(documents, lambda: None),
            path,
            max_documents=keep,
            seed=seed,
            parts=Path(parts),
        )
    found = [document.id for document in read_documents(path)]
    assert len(found) == kept
    return found


IDS = [f"doc-{i:03d}" for i in range(400)]


def test_a_sample_does_not_depend_on_the_order_of_arrival(tmp_path: Path) -> None:
    forward = sample(tmp_path, IDS, keep=100)
    backward = sample(tmp_path, IDS[::-1], keep=100)
    assert forward == sorted(forward)  # each in its order of arrival
    assert backward == forward[::-1]


def test_every_document_has_about_the_same_chance_wherever_it_arrives(tmp_path: Path) -> None:
    # 100 of 400, for 40 seeds: each document is kept 10 times with a standard deviation of
    # sqrt(40 x 1/4 x 3/4) = 2.7, and each quarter of the stream gives 1000 with one of 24.
    samples = [sample(tmp_path, IDS, keep=100, seed=seed) for seed in range(40)]
    kept = Counter(name for names in samples for name in names)
    assert min(kept[name] for name in IDS) >= 1
    assert max(kept.values()) <= 24
    quarters = [sum(kept[name] for name in IDS[i : i + 100]) for i in (0, 100, 200, 300)]
    assert all(880 < quarter < 1120 for quarter in quarters)


def test_a_smaller_sample_is_part_of_a_larger_one(tmp_path: Path) -> None:
    assert set(sample(tmp_path, IDS, keep=30)) < set(sample(tmp_path, IDS, keep=31))


@pytest.mark.parametrize("keep", [400, 401])
def test_a_corpus_within_the_limit_is_kept_whole(tmp_path: Path, keep: int) -> None:
    assert sample(tmp_path, IDS, keep=keep) == IDS


def test_the_record_says_how_many_came_and_how_many_were_kept(folder: Path, tmp_path: Path) -> None:
    write(folder / "a.jsonl", [{"text": f"texto {i}"} for i in range(10)])
    record = export_documents(
        corpus(folder, max_documents=4), tmp_path / "out", revision="", parts=tmp_path / "parts"
    )
    assert record == {"source": "jsonl", "documents_seen": 10, "documents": 4}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["documents.parquet"]


def test_another_seed_gives_another_sample(folder: Path, tmp_path: Path) -> None:
    write(folder / "a.jsonl", [{"text": f"texto {i}"} for i in range(100)])
    first, second = (
        export(corpus(folder, max_documents=20, seed=seed), tmp_path) for seed in (1, 2)
    )
    assert first != second


def test_the_sample_source_generates_as_many_documents_as_asked(
    project: Path, tmp_path: Path
) -> None:
    params = corpus(project / "data" / "sample", source="sample", max_documents=150)
    documents = export(params, tmp_path)
    assert len(documents) == len({d.id for d in documents}) == 150
    assert not any("<END>" in d.text for d in documents)


# --- Interruptions ---------------------------------------------------------------------------

ROWS_40 = [{"text": f"texto {i}"} for i in range(40)]


class Cut(Exception):
    """The source stops answering."""


def cut_after(monkeypatch: pytest.MonkeyPatch, number: int) -> list[str]:
    """Let the source fail at its ``number``-th document from now; return what it was asked for."""
    asked: list[str] = []
    normal = sources.normal_form

    def counted(document: Document, marker: str) -> Document:
        if len(asked) == number:
            raise Cut
        asked.append(document.text)
        return normal(document, marker)

    monkeypatch.setattr(sources, "normal_form", counted)
    return asked


@pytest.fixture(params=["jsonl", pytest.param("hf", marks=pytest.mark.slow)])
def forty(request: pytest.FixtureRequest, folder: Path, offline: None) -> CorpusParams:  # noqa: ARG001
    """Return a corpus of 25 out of 40 documents, in two files."""
    write(folder / "train-1.jsonl", ROWS_40[:17])
    write(folder / "train-2.jsonl", ROWS_40[17:])
    return corpus(folder, source=request.param, max_documents=25)


def test_an_interrupted_export_goes_on_behind_its_last_part(
    forty: CorpusParams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exported(name: str) -> bytes:
        out = tmp_path / name
        export_documents(forty, out, revision="main", parts=tmp_path / f"{name}-parts")
        return (out / "documents.parquet").read_bytes()

    whole = exported("whole")
    monkeypatch.setattr(sources, "PART_SECONDS", -1.0)  # a part a document
    texts = []
    for number in (9, 14, 99):
        with monkeypatch.context() as patch:
            asked = cut_after(patch, number)
            if number < 99:
                with pytest.raises(Cut):
                    exported("cut")
                assert not (tmp_path / "cut" / "documents.parquet").exists()
            else:
                assert exported("cut") == whole
        texts += asked
    assert texts == [row["text"] for row in ROWS_40]  # each once


def test_a_request_to_stop_is_obeyed_once_the_part_is_written(
    forty: CorpusParams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cordel.runtime.console._received", [15])
    with pytest.raises(Stopped):
        export(forty, tmp_path)
    monkeypatch.setattr("cordel.runtime.console._received", [])
    asked = cut_after(monkeypatch, 99)
    found = export(forty, tmp_path)
    assert len(asked) == 39
    assert len(found) == 25


def test_a_source_that_was_read_to_its_end_is_found(
    forty: CorpusParams,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    first = export(forty, tmp_path)
    assert "found" not in caplog.text
    asked = cut_after(monkeypatch, 99)
    assert export(forty, tmp_path) == first
    assert asked == []
    assert f"found the whole source in {tmp_path}/parts; delete that folder" in caplog.text


@pytest.mark.parametrize("name", ["part-000003.parquet", "part-000003.npy", "part-000003.json"])
@pytest.mark.parametrize("damage", ["cut", "removed"])
def test_behind_a_damaged_part_the_source_is_read_again(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
    damage: str,
) -> None:
    write(folder / "a.jsonl", ROWS_40)
    params = corpus(folder, max_documents=25)
    monkeypatch.setattr(sources, "PART_SECONDS", -1.0)
    first = export(params, tmp_path)
    path = tmp_path / "parts" / name
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-3])
    else:
        path.unlink()
    asked = cut_after(monkeypatch, 99)
    assert export(params, tmp_path) == first
    assert asked == [row["text"] for row in ROWS_40[3:]]
    assert "is damaged: reading the source again from there" in caplog.text


def test_an_id_that_came_before_the_interruption_is_still_known(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder / "a.jsonl", [{"id": name, "text": "um"} for name in "abca"])
    monkeypatch.setattr(sources, "PART_SECONDS", -1.0)
    with monkeypatch.context() as patch:
        cut_after(patch, 2)
        with pytest.raises(Cut):
            export(corpus(folder), tmp_path)
    with pytest.raises(InputError, match="document id 'a' occurs twice"):
        export(corpus(folder), tmp_path)


def test_another_file_is_another_state_of_the_source(folder: Path) -> None:
    path = write(folder / "a.jsonl", ROWS)
    params = corpus(folder)
    before = source_state(params, "")
    assert before == source_state(params, "")
    write(folder / "b.jsonl", ROWS[:1])
    assert before != source_state(params, "")  # the folder has one more; the file is as it was
    assert source_state(replace(params, path=str(path)), "") == before


@pytest.mark.parametrize(("revision", "same"), [(COMMIT, True), ("main", False)])
def test_a_branch_that_was_not_resolved_is_never_gone_on_with(
    folder: Path, revision: str, same: bool
) -> None:
    params = corpus(folder, source="hf")
    params = replace(params, hub=replace(params.hub, dataset="nlpufg/brwac"))
    states = [source_state(params, revision) for _ in range(2)]
    assert (states[0] == states[1]) is same


# --- Bad files -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": "b"\n', r"a\.jsonl:2: not JSON \(Expecting ',' de"),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"text": "\xe1"}\n',
            r"a\.jsonl:2: not UTF-8 \(byte 0xe1 at 1",
        ),
        ("a.jsonl", b'{"text": "a"}\n{"text":', r"a\.jsonl:2: not JSON \(Expecting value at col"),
        ("a.txt", b"ol\xe1", r"a\.txt: not UTF-8 \(byte 0xe1 at 2\); convert the file"),
        ("a.jsonl", b'{"text": "a\\ud800"}\n', r"a\.jsonl:1: half of a surrogate pair"),
        ("a.jsonl", b'{"id": "\\udfff", "text": "a"}', r"a\.jsonl:1: half of a surrogate pair"),
        ("a.jsonl", b'{"text": "a"}\n["b"]\n', r"a\.jsonl:2: expected an object.* found list"),
        ("a.jsonl", b"", r"a\.jsonl: empty file; expected at least one document"),
        ("a.jsonl", b"\n \n", r"a\.jsonl: empty file"),
        ("a.jsonl.gz", gzip.compress(b"", mtime=0), r"a\.jsonl\.gz: empty file"),
        ("a.jsonl.gz", b"nada", r"a\.jsonl\.gz: cannot be read .*; is it complete\?"),
        ("a.jsonl.gz", gzip.compress(lines(ROWS), mtime=0)[:-12], r"a\.jsonl\.gz: cannot be read"),
        ("a.parquet", b"nada", r"a\.parquet: cannot be read .*; is it complete\?"),
        ("a.txt", b" \n", r"a\.txt:1: field 'text' is empty"),
    ],
)
def test_a_broken_file_is_named_with_its_line(
    folder: Path, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        export(corpus(folder), tmp_path)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"texto": "olá", "url": "x"}, r"'text' is missing \(found: texto, url\); set corpus"),
        ({}, r"'text' is missing \(found: no field\)"),
        ({"text": " \n"}, r"'text' is empty \(found: text\)"),
    ],
)
def test_a_record_without_text_names_its_line_and_the_fields_found(
    folder: Path, tmp_path: Path, record: dict[str, str], message: str
) -> None:
    # The blank second line is no record and still counts as a line, as in an editor.
    (folder / "a.jsonl").write_bytes(lines(ROWS[:1]) + b"\n" + lines([record]))
    with pytest.raises(InputError, match=rf"a\.jsonl:3: field {message}"):
        export(corpus(folder), tmp_path)


def test_half_of_a_surrogate_pair_is_refused_but_a_whole_pair_is_a_character(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "a.jsonl").write_bytes(b'{"text": "riso \\ud83d\\ude00"}')
    assert export(corpus(folder), tmp_path)[0].text == "riso 😀"


@pytest.mark.parametrize("keep", [1, 1000])
def test_an_id_that_repeats_is_named(folder: Path, tmp_path: Path, keep: int) -> None:
    write(folder / "a.jsonl", [*ROWS, {"id": "a", "text": "outro"}])
    with pytest.raises(InputError, match="document id 'a' occurs twice; ids must be unique"):
        export(corpus(folder, max_documents=keep), tmp_path)


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"corpus\.path .*nada: no such file or folder"):
        export(corpus(tmp_path / "nada"), tmp_path)


def test_an_empty_folder_names_the_pattern_and_the_formats(folder: Path, tmp_path: Path) -> None:
    expected = r"no file matches pattern '\*' with one of \.jsonl, \.jsonl\.gz, .*\.txt"
    with pytest.raises(InputError, match=expected):
        export(corpus(folder), tmp_path)


@pytest.mark.parametrize("pattern", ["", "/tudo/*"])
def test_a_pattern_that_is_none_is_named(folder: Path, tmp_path: Path, pattern: str) -> None:
    with pytest.raises(ParamsError, match=f"corpus.pattern '{pattern.replace('*', '.')}': "):
        export(corpus(folder, pattern=pattern), tmp_path)


def test_a_limit_of_no_documents_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_documents is 0, expected at least 1"):
        corpus(tmp_path, max_documents=0)


# --- Hub -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["train.jsonl", "train.parquet"])
def test_a_local_dataset_gives_its_split(folder: Path, tmp_path: Path, name: str) -> None:
    rows = [{"text": "Um. <END> Dois."}, {"text": "Três."}]
    write(folder / name, rows)
    params = corpus(tmp_path / "unused", source="hf")
    found = export(replace(params, hub=replace(params.hub, dataset=str(folder))), tmp_path)
    expected = [Document("train:0", "", "", "Um.\nDois."), Document("train:1", "", "", "Três.")]
    assert found == expected


@pytest.mark.slow
@pytest.mark.usefixtures("offline")
def test_an_empty_dataset_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / "train.csv").write_text("text\n", encoding="utf-8")
    params = corpus(tmp_path / "unused", source="hf")
    with pytest.raises(InputError, match=f"^{folder}: no documents found; expected at least one"):
        export(replace(params, hub=replace(params.hub, dataset=str(folder))), tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("offline")
def test_an_unknown_split_of_the_hub_is_named(folder: Path, tmp_path: Path) -> None:
    write(folder / "train.jsonl", ROWS[:1])
    params = corpus(folder, source="hf")
    with pytest.raises(EnvironmentProblem, match=r"split 'teste' \(.*; check the name, the netw"):
        export(replace(params, hub=replace(params.hub, split="teste")), tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("offline")
def test_a_hub_record_without_text_names_its_place_and_fields(folder: Path, tmp_path: Path) -> None:
    write(folder / "train.jsonl", [{"corpo": "olá"}])
    with pytest.raises(InputError, match=r"\[train\]:0: field 'text' is missing \(found: corpo\)"):
        export(corpus(folder, source="hf"), tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("offline")
def test_the_revision_of_a_hub_dataset_is_recorded(folder: Path, tmp_path: Path) -> None:
    write(folder / "train.jsonl", ROWS[:1])
    record = export_documents(
        corpus(folder, source="hf"), tmp_path / "out", revision="main", parts=tmp_path / "parts"
    )
    assert (record["dataset"], record["revision"]) == (str(folder), "main")


@pytest.mark.parametrize("revision", [COMMIT, "main"])
def test_a_commit_or_an_offline_revision_needs_no_network(
    monkeypatch: pytest.MonkeyPatch, revision: str
) -> None:
    if revision == "main":
        monkeypatch.setenv("HF_HUB_OFFLINE", "true")
    hub = HubParams(dataset="nlpufg/brwac", revision=revision, split="train")
    assert resolve_revision(hub) == revision
