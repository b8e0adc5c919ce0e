"""Instruction examples: what each reader refuses, what each drop is called, no prompt twice."""

import gzip
import json
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cordel.corpus import instructions
from cordel.corpus.instruction_sample import InstructionExample
from cordel.corpus.instructions import (
    Example,
    FieldNames,
    SftDataParams,
    check_quality,
    folded,
    folded_prompt,
    read_examples,
    read_written,
    split_examples,
    write_examples,
)
from cordel.corpus.sources import HubParams
from cordel.runtime.errors import ArtifactError, EnvironmentProblem, InputError, ParamsError

FIELDS = FieldNames(instruction="instruction", input="input", output="output")
ROWS = [
    {"instruction": " Some. ", "input": "1 e 2", "output": "3\n"},
    {"instruction": "Diga olá.", "input": None, "output": "Olá!"},
]
READ = [
    Example("dados.jsonl:1", "Some.", "1 e 2", "3"),
    Example("dados.jsonl:2", "Diga olá.", "", "Olá!"),
]


def sft_data(path: Path, **changes: Any) -> SftDataParams:
    """Return the parameters of local files."""
    params = SftDataParams(
        source="jsonl",
        path=str(path),
        pattern="*",
        fields=FIELDS,
        hub=HubParams(dataset=str(path), revision="main", split="train"),
        max_examples=1000,
        seed=42,
        val=0.2,
        test=0.2,
        shingle_words=3,
        permutations=128,
        bands=32,
        min_similarity=0.7,
        junk=("(?:rs){20}",),
        near_duplicates="keep",
    )
    return replace(params, **changes)


PARAMS = sft_data(Path("unused"))


def write(path: Path, rows: Iterable[Any]) -> Path:
    """Write ``rows`` in the format that the name of ``path`` tells."""
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines))
    elif path.suffix == ".zst":
        path.write_bytes(pa.compress(lines, codec="zstd", asbytes=True))
    else:
        path.write_bytes(lines)
    return path


def example(name: str, instruction: str, output: str = "Sim.", context: str = "") -> Example:
    """Return an example; its context is called ``input`` there."""
    return Example(name, instruction, context, output)


# --- Reading ---------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "jsonl.zst", "parquet"])
def test_every_format_gives_the_same_stripped_texts(tmp_path: Path, suffix: str) -> None:
    file = write(tmp_path / f"dados.{suffix}", ROWS)
    found = list(read_examples(sft_data(file)))
    assert found == [replace(e, id=e.id.replace("jsonl", suffix)) for e in READ]


def test_files_of_a_folder_are_read_in_order_and_their_ids_begin_with_their_names(
    tmp_path: Path,
) -> None:
    (tmp_path / "b").mkdir()
    write(tmp_path / "b" / "x.jsonl", ROWS[:1])
    write(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "leia.txt").write_text("não é dado", encoding="utf-8")
    found = read_examples(sft_data(tmp_path, pattern="**/*"))
    assert [e.id for e in found] == ["a.jsonl:1", "a.jsonl:2", "b/x.jsonl:1"]


def test_a_byte_order_mark_and_blank_lines_are_no_matter(tmp_path: Path) -> None:
    file = tmp_path / "dados.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(ROWS[0]).encode() + b"\n\n")
    assert list(read_examples(sft_data(file))) == READ[:1]


def test_an_id_of_the_record_is_used(tmp_path: Path) -> None:
    file = write(tmp_path / "dados.jsonl", [ROWS[0] | {"id": 7}])
    assert [e.id for e in read_examples(sft_data(file))] == ["7"]


def test_fields_may_have_other_names_and_the_input_none(tmp_path: Path) -> None:
    fields = FieldNames(instruction="prompt", input="", output="resposta")
    row = {"prompt": "Diga olá.", "resposta": "Olá!", "input": "ignorado"}
    file = write(tmp_path / "dados.jsonl", [row])
    found = list(read_examples(sft_data(file, fields=fields)))
    assert found == [Example("dados.jsonl:1", "Diga olá.", "", "Olá!")]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            {"prompt": "a", "input": "", "output": "b"},
            "field 'instruction' is missing (found: prompt, input, output); "
            "set sft_data.fields.instruction to the name of its field",
        ),
        (
            {"instruction": "a", "output": "b"},
            "field 'input' is missing (found: instruction, output); "
            'set sft_data.fields.input to the name of its field (or "" for none)',
        ),
        ({}, "field 'instruction' is missing (found: no field)"),
        ({"instruction": "a", "input": "", "output": None}, "field 'output' is None, expected"),
        ({"instruction": "a", "input": 3, "output": "b"}, "field 'input' is 3, expected text"),
        (["a", "b"], "expected an object, found list"),
    ],
)
def test_a_record_without_its_texts_names_its_line_and_its_fields(
    tmp_path: Path, record: Any, message: str
) -> None:
    file = write(tmp_path / "dados.jsonl", [ROWS[0], record])
    with pytest.raises(InputError, match=re.escape(f"{file}:2: {message}")):
        list(read_examples(sft_data(file)))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", b'{"a": \n', r"x.jsonl:1: not JSON \(Expecting value at column 6\)"),
        ("x.jsonl", b"", "x.jsonl: empty file; expected at least one example"),
        ("x.jsonl", b"{}\xe7\n", r"x.jsonl: not UTF-8 \(after line 0\); convert the file"),
        (
            "x.jsonl.gz",
            gzip.compress(b"{}" * 99, mtime=0)[:-9],
            "x.jsonl.gz: cannot be read .*complete",
        ),
        ("x.parquet", b"PAR1", "x.parquet: cannot be read"),
        ("x.csv", b"a", "path .*: no file matches pattern '.' with one of .jsonl, .jsonl.gz, "),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(read_examples(sft_data(tmp_path)))


def test_a_path_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sft_data.path .*/nada: no such file or folder; check"):
        list(read_examples(sft_data(tmp_path / "nada")))


@pytest.mark.parametrize("pattern", ["", "/tudo/*"])
def test_a_pattern_that_is_none_is_named(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(ParamsError, match=r"sft_data.pattern '.*': .*; expected such as '\*'"):
        list(read_examples(sft_data(tmp_path, pattern=pattern)))


def test_the_sample_is_of_the_whole_source_in_its_order_and_grows(tmp_path: Path) -> None:
    rows = [{"id": i, "instruction": "a", "input": "", "output": "b"} for i in range(1000)]
    file = write(tmp_path / "dados.jsonl", rows)
    few, more = (
        [int(e.id) for e in read_examples(sft_data(file, max_examples=n))] for n in (50, 100)
    )
    assert len(few) == 50
    assert few == sorted(few)
    assert set(few) < set(more)
    assert 350 < sum(few) / 50 < 650  # 499.5 with a standard deviation of 41
    other = read_examples(sft_data(file, max_examples=50, seed=43))
    assert few != [int(e.id) for e in other]


def test_an_id_that_repeats_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "dados.jsonl", [ROWS[0] | {"id": "x"}, ROWS[1] | {"id": "x"}])
    with pytest.raises(InputError, match="example id 'x' occurs twice; ids must be unique"):
        list(read_examples(sft_data(file)))


def test_the_embedded_sample_gives_its_training_side(monkeypatch: pytest.MonkeyPatch) -> None:
    def generate(folder: Path, *, n: int, seed: int, held_out: bool) -> Any:
        name = f"{folder}/{n}/{seed}/{held_out}"
        return iter([InstructionExample(name, "qa", " O quê? ", "", " Isto. ")])

    monkeypatch.setattr(instructions, "generate_instructions", generate)
    params = sft_data(Path("pasta"), source="sample", max_examples=9, seed=5)
    assert list(read_examples(params)) == [Example("pasta/9/5/False", "O quê?", "", "Isto.")]


@pytest.mark.slow
def test_a_dataset_of_the_hub_gives_its_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "dados"
    folder.mkdir()
    write(folder / "train.jsonl", ROWS)
    params = sft_data(folder, source="hf")
    expected = [replace(e, id=f"train:{i}") for i, e in enumerate(READ)]
    assert list(read_examples(params)) == expected
    other = replace(params, fields=replace(FIELDS, output="resposta"))
    with pytest.raises(InputError, match=r"\[train\]:0: field 'resposta' is missing \(found: in"):
        list(read_examples(other))
    unknown = replace(params, hub=replace(params.hub, split="teste"))
    with pytest.raises(EnvironmentProblem, match=r"sft_data.hub: cannot load .* split 'teste' \("):
        list(read_examples(unknown))


# --- Quality ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Olá,  MUNDO!\n", "olá mundo"),
        ("Ola\u0301", "olá"),  # the accent as a character of its own
        ("avó", "avó"),  # not "avo"
        ("+", "+"),
        ("", ""),
    ],
)
def test_folding_keeps_words_and_accents_only(text: str, expected: str) -> None:
    assert folded(text) == expected


def test_a_word_more_in_the_instruction_is_not_a_word_more_in_the_input() -> None:
    assert folded_prompt("Traduza isto", "casa") != folded_prompt("Traduza", "isto casa")


@pytest.mark.parametrize(
    ("flawed", "reason"),
    [
        (example("x", ""), "empty_instruction"),
        (example("x", "", output=""), "empty_instruction"),  # the first reason, only
        (example("x", "Diga.", output=""), "empty_output"),
        (example("x", "Diga.", output="a\ufffdo"), "broken_characters"),
        (example("x", "Diga.", context="\x00"), "broken_characters"),
        (example("x", "Diga \x85.", output="rs" * 99), "broken_characters"),
        (example("x", "Diga.", output="\ud83d"), "broken_characters"),
        (example("x", "Diga.", output="E-mail : s" + "rs" * 99), "junk"),
        (example("x", "Diga " + "rs" * 99), "junk"),
        (example("x", "Qual é a capital?", output="LISBOA"), "duplicate"),
        (example("x", "qual é  a capital", output="Porto."), "duplicate_prompt"),
    ],
)
def test_a_drop_is_called_what_is_wrong(flawed: Example, reason: str) -> None:
    good = [example("a", "Qual é a capital?", "Lisboa."), example("b", "Liste.", "1\n2\t3")]
    kept, report = check_quality([*good, flawed], PARAMS)
    assert kept == good
    assert {name: n for name, n in report["dropped"].items() if n} == {reason: 1}
    assert report["dropped_ids"] == {reason: ["x"]}


def test_every_output_of_a_prompt_is_remembered() -> None:
    outputs = ["Lisboa", "Porto", "lisboa", "porto"]
    examples = [example(f"e{i}", "Qual?", output) for i, output in enumerate(outputs)]
    kept, report = check_quality(examples, PARAMS)
    assert kept == examples[:1]
    assert report["dropped_ids"] == {"duplicate_prompt": ["e1"], "duplicate": ["e2", "e3"]}


def test_a_laugh_is_no_junk_and_the_same_words_in_the_input_no_duplicate() -> None:
    examples = [
        example("a", "Ria.", "rsrsrs"),
        example("b", "Ria.", "rsrsrs", context="Agora."),
        example("c", "+", "mais"),
        example("d", "-", "menos"),
    ]
    assert check_quality(examples, PARAMS)[0] == examples


def test_the_report_counts_what_was_read_and_what_is_left() -> None:
    examples = [
        example("a", "Qual é a capital de Portugal?", "Lisboa."),
        example("b", "Traduza.", "A casa azul.", context="The blue house"),
        *(example(f"x{i}", "Diga.", "") for i in range(4)),
    ]
    assert check_quality(examples, PARAMS)[1] == {
        "read": 6,
        "kept": 2,
        "dropped": {
            "empty_instruction": 0,
            "empty_output": 4,
            "broken_characters": 0,
            "junk": 0,
            "duplicate": 0,
            "duplicate_prompt": 0,
            "near_duplicate": 0,
        },
        "dropped_ids": {"empty_output": ["x0", "x1", "x2"]},
        "mean_words": {"instruction": 3.5, "input": 1.5, "output": 2.0},
        "share_empty_input": 0.5,
    }


def test_no_examples_make_an_empty_report() -> None:
    kept, report = check_quality([], replace(PARAMS, near_duplicates="drop"))
    assert (kept, report["read"], report["mean_words"]["input"]) == ([], 0, 0.0)


NUMBERS = "um dois três quatro cinco seis sete oito nove dez onze doze treze catorze quinze"
NEAR = [  # 12 of 14 shingles are shared: the Jaccard similarity is 12/14 = 0.86
    example("a", NUMBERS),
    example("b", "Diga olá."),
    example("c", NUMBERS.replace("quinze", "vinte"), "Outra."),
]


@pytest.mark.parametrize(("what", "expected"), [("keep", ["a", "b", "c"]), ("drop", ["a", "b"])])
def test_near_duplicate_prompts_are_dropped_on_request(what: Any, expected: list[str]) -> None:
    kept, report = check_quality(NEAR, replace(PARAMS, near_duplicates=what))
    assert [e.id for e in kept] == expected
    assert report["dropped"]["near_duplicate"] == 3 - len(expected)
    assert report["kept"] == len(expected)


# --- Splits ----------------------------------------------------------------------------------


def many(count: int) -> list[Example]:
    """Return examples of which no prompt resembles another."""
    return [example(f"e{i}", f"Pergunta número {i}?", "Igual.") for i in range(count)]


def test_near_duplicate_prompts_are_in_one_split_whatever_their_outputs() -> None:
    texts = [" ".join(f"p{i}w{j}" for j in range(20)) for i in range(100)]
    first = [example(f"e{i}", text) for i, text in enumerate(texts)]
    # One word at the end is another: 17 of 19 shingles are shared.
    copies = [example(f"e{i}b", f"{text[:-1].upper()}!", "Não.") for i, text in enumerate(texts)]
    splits = split_examples([*first, *copies], PARAMS)
    where = {e.id: split for split, members in splits.items() for e in members}
    assert len(where) == 200
    assert {where[f"e{i}"] for i in range(100)} == {"train", "val", "test"}
    assert all(where[f"e{i}"] == where[f"e{i}b"] for i in range(100))


def test_an_accent_of_two_characters_makes_no_other_prompt() -> None:
    composed = [replace(e, instruction=f"É a pergunta {e.id}") for e in many(40)]
    split_in_two = [
        replace(e, id=f"{e.id}b", instruction=e.instruction.replace("É", "E\u0301"))
        for e in composed
    ]
    splits = split_examples(composed + split_in_two, PARAMS)
    names = [{e.id.removesuffix("b") for e in members} for members in splits.values()]
    assert sum(map(len, names)) == 40


def test_the_input_is_part_of_the_prompt() -> None:
    same = [replace(e, instruction="Traduza.", input=e.instruction) for e in many(60)]
    assert all(split_examples(same, PARAMS).values())


def test_shares_are_of_clusters_and_order_is_kept() -> None:
    splits = split_examples(many(1000), replace(PARAMS, val=0.1, test=0.3))
    # 100 with a standard deviation of 9, and 300 with one of 14.
    assert 70 < len(splits["val"]) < 130
    assert 255 < len(splits["test"]) < 345
    order = [int(e.id[1:]) for e in splits["train"]]
    assert order == sorted(order)


@pytest.mark.parametrize(("count", "split"), [(0, "train"), (1, "val")])
def test_a_split_that_gets_nothing_is_named(count: int, split: str) -> None:
    with pytest.raises(InputError, match=f"split '{split}' gets none of the {count} examples; use"):
        split_examples(many(count), PARAMS)


# --- Files -----------------------------------------------------------------------------------


def test_written_examples_are_read_back(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    write_examples(file, READ)
    assert list(read_written(file)) == READ
    first = json.loads(file.read_text("utf-8").splitlines()[0])
    assert first == {
        "id": "dados.jsonl:1",
        "instruction": "Some.",
        "input": "1 e 2",
        "output": "3",
    }


@pytest.mark.parametrize("content", [None, "{", '{"id": "a"}\n', "[1]\n"])
def test_a_file_of_something_else_is_named(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "train.jsonl"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"train.jsonl: cannot be read \(.*\); rerun the stage"):
        list(read_written(file))


# --- Parameters ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_examples": 0}, "max_examples is 0, expected at least 1"),
        ({"val": 0.0}, "val is 0.0, expected 0 < x < 1"),
        ({"min_similarity": 1.5}, "min_similarity is 1.5, expected 0 < x <= 1"),
        ({"bands": 7}, "permutations 128 is not a multiple of bands 7"),
        ({"junk": ("a", "(")}, "junk has '(', which is no regular expression ("),
    ],
)
def test_a_parameter_out_of_range_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        replace(PARAMS, **changes)


def test_a_field_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="output is '', expected the name of a field"):
        replace(FIELDS, output="")


# --- The thesis' examples --------------------------------------------------------------------


@pytest.mark.shared
def test_the_drops_of_the_thesis_train_file(shared: Path) -> None:
    file = shared / "data" / "canarim" / "canarim_sft_10k_train.jsonl"
    params = sft_data(file, max_examples=8000)
    kept, report = check_quality(read_examples(params), params)
    assert report["dropped"] == {
        "empty_instruction": 0,
        "empty_output": 5,
        "broken_characters": 0,
        "junk": 115,
        "duplicate": 53,
        "duplicate_prompt": 116,  # with the 53: the 169 repeated prompts of section 5.2
        "near_duplicate": 0,
    }
    assert (report["read"], report["kept"]) == (8000, 7711)
    prompts = [
        {folded_prompt(e.instruction, e.input) for e in members}
        for members in split_examples(kept, params).values()
    ]
    assert sum(map(len, prompts)) == len(set().union(*prompts)) == 7711


@pytest.mark.shared
def test_the_prompts_that_the_thesis_has_in_two_splits_are_in_one(shared: Path) -> None:
    folder = shared / "data" / "canarim"
    params = sft_data(folder, pattern="canarim_sft_10k_*.jsonl", max_examples=10_000)
    examples = list(read_examples(params))
    splits = split_examples(examples, params)
    prompts = [
        {folded_prompt(e.instruction, e.input) for e in members} for members in splits.values()
    ]
    assert sum(map(len, splits.values())) == 10_000
    assert sum(map(len, prompts)) == len(set().union(*prompts)) < 10_000
