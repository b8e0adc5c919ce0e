"""Every kind of input that a user brings: corpora, instructions, task sets, models of the hub."""

import copy
import gzip
import json
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.bad_inputs.harness import SECRETS, Project, call, tree
from tests.bad_inputs.toy import command_of, main_of, toy_params

pytestmark = pytest.mark.slow
PARAMS = toy_params()
TEXT = "O rio corre devagar perto da casa, e a tarde cai sobre o campo. " * 8
PUBLISHED = {"task": "qa", "instruction": "Quem?", "input": "", "reference": "Ana", "hash": "0"}


def lines(*rows: object) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def parquet(**columns: list[Any]) -> bytes:
    sink = BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def zstd(raw: bytes) -> bytes:
    return pa.compress(raw, codec="zstd", asbytes=True)


GOOD = lines({"id": "a", "text": TEXT}, {"id": "b", "text": TEXT})
PACKED = {".jsonl": GOOD, ".jsonl.gz": gzip.compress(GOOD * 50), ".jsonl.zst": zstd(GOOD * 50)}
PACKED[".parquet"] = parquet(id=["a", "b"], text=[TEXT, TEXT])
CORPORA = {  # file name: content; None is an empty folder
    **{f"empty{suffix}": b"" for suffix in (*PACKED, ".txt")},
    **{f"cut{suffix}": raw[: len(raw) * 2 // 3] for suffix, raw in PACKED.items()},
    **{f"garbage{suffix}": b"\xff\xfe\x00\x81" * 9 for suffix in (*PACKED, ".txt")},
    **{f"folder{suffix}": None for suffix in (*PACKED, ".txt")},
    "latin-1.txt": "ação".encode("latin-1"),
    "latin-1.jsonl": '{"text": "ação"}\n'.encode("latin-1"),
    "utf-16.jsonl": '{"text": "ação"}\n'.encode("utf-16"),
    "a list.jsonl": lines(["text"]),
    "a number.jsonl": lines(7),
    "a string.jsonl": lines("text"),
    "null.jsonl": lines(None),
    "other field.jsonl": lines({"texto": TEXT}),
    "no text.jsonl": lines({"text": None}),
    "a number as text.jsonl": lines({"text": 7}),
    "a list as text.jsonl": lines({"text": [TEXT]}),
    "an id twice.jsonl": lines({"id": "a", "text": TEXT}, {"id": "a", "text": TEXT}),
    "half a line.jsonl": GOOD + b'{"id": "c", "te',
    "two objects a line.jsonl": b'{"text": "a"} {"text": "b"}\n',
    "blank.jsonl": b"\n\n\n",
    "deep.jsonl": b'{"text": ' + b"[" * 99999,
    "other columns.parquet": parquet(texto=["a"]),
    "nulls.parquet": parquet(id=["a"], text=pa.nulls(1, pa.string())),
    "numbers.parquet": parquet(id=["a"], text=[7]),
    "no rows.parquet": parquet(id=pa.array([], pa.string()), text=pa.array([], pa.string())),
    "other.csv": b"id,text\na,b\n",
}


def with_section(section: str, **values: Any) -> bytes:
    params = copy.deepcopy({section: PARAMS[section]})
    params[section] |= values
    return yaml.safe_dump(params).encode()


@pytest.mark.parametrize("name", CORPORA)
def test_a_corpus_that_cannot_be_read_is_refused(toy: Project, name: str) -> None:
    content = CORPORA[name]
    params = with_section("corpus", source="jsonl", path="in", pattern="**/*")
    with (
        toy.changed("params.yaml", params),
        toy.changed(f"in/{name}", content, folder=content is None),
    ):
        toy.refuses(main_of("export_corpus"), command_of("export_corpus"), "in", "id 'a'")


def example(**values: Any) -> dict[str, Any]:
    return {"instruction": "Quem escreveu?", "input": "", "output": "Machado."} | values


EXAMPLES = {
    **{n: c for n, c in CORPORA.items() if not n.endswith(".txt") and "an id" not in n},
    "other fields.jsonl": lines({"pergunta": "?", "resposta": "!"}),
    "no output.jsonl": lines({"instruction": "a", "input": ""}),
    "null output.jsonl": lines(example(output=None)),
    "a list as input.jsonl": lines(example(input=["a"])),
    "an id twice.jsonl": lines(*(example(id="a") for _ in range(2))),
    "one example.jsonl": lines(example()),
    "nothing in them.jsonl": lines(*(example(id=str(i), output=" ") for i in range(5))),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_instructions_that_cannot_be_read_are_refused(toy: Project, name: str) -> None:
    content = EXAMPLES[name]
    params = with_section("sft_data", source="jsonl", path="in", pattern="**/*")
    with (
        toy.changed("params.yaml", params),
        toy.changed(f"in/{name}", content, folder=content is None),
    ):
        toy.refuses(main_of("prepare_sft"), command_of("prepare_sft"), "in", "id 'a'", "split")


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_pool_of_tasks_that_cannot_be_read_is_refused(toy: Project, name: str) -> None:
    content = EXAMPLES[name]
    params = with_section("tasks", source="pool", path="in", pattern="**/*")
    with (
        toy.changed("params.yaml", params),
        toy.changed(f"in/{name}", content, folder=content is None),
    ):
        toy.refuses(main_of("prepare_tasks"), command_of("prepare_tasks"), "in", "tasks.")


SETS = {  # a published set in which one file is wrong
    "no manifest": {"m_manifest.json": None},
    "a broken manifest": {"m_manifest.json": b"{"},
    "a manifest in another code": {"m_manifest.json": b"\xff\xfe{"},
    "a manifest that is a list": {"m_manifest.json": b"[]"},
    "a manifest of another seed": {"m_manifest.json": b'{"seed": 7}'},
    "a manifest whose seed is a list": {"m_manifest.json": b'{"seed": [123]}'},
    "no file of a task": {"a_qa.jsonl": None},
    "two files of a task": {"b_qa.jsonl": b""},
    "a broken line": {"a_qa.jsonl": b"{\n"},
    "a list": {"a_qa.jsonl": b"[]\n"},
    "another task": {"a_qa.jsonl": lines(PUBLISHED | {"task": "rewriting"})},
    "no reference": {"a_qa.jsonl": lines(PUBLISHED | {"reference": None})},
    "another code": {"a_qa.jsonl": '{"task": "ã"}'.encode("latin-1")},
}


@pytest.mark.parametrize("case", SETS)
def test_a_published_task_set_that_is_wrong_is_refused(toy: Project, case: str) -> None:
    files: dict[str, bytes | None] = {"m_manifest.json": b'{"seed": 123}'}
    for task in ("qa", "summarization", "rewriting"):
        files[f"a_{task}.jsonl"] = lines(PUBLISHED | {"task": task})
    files |= SETS[case]
    folder = toy.root / "in"
    folder.mkdir()
    for name, content in files.items():
        if content is not None:
            (folder / name).write_bytes(content)
    try:
        with toy.changed("params.yaml", with_section("tasks", source="published", path="in")):
            toy.refuses(main_of("prepare_tasks"), command_of("prepare_tasks"), "in")
    finally:
        toy.restore()


VALUES = {  # of the right type, and yet no value for it
    "corpus": [
        *({"path": name} for name in ("nada", "", "a" * 300, "~/nada", "https://example.org/a")),
        *({"source": "jsonl", "path": "in", "pattern": p} for p in ("", "/", "**/nada", "..", "[")),
        *({"source": "jsonl", "path": name} for name in ("nada", "params.yaml", "data/splits")),
        *(
            {"source": "hf", "hub": {"dataset": d, "revision": r, "split": "train"}}
            for d in (
                "",
                "ninguém/nada",
                "a/b/c",
                "../../etc",
                "a b",
                "-",
                "https://x.org/d",
                "a;b",
            )
            for r in ("main", "")
        ),
        {"max_documents": 0},
    ],
    "splits": [
        *({"val": v} for v in (0.0, 1.0, 0.95, 5.0)),
        *({"bands": b} for b in (0, 3, 33)),
        *({"permutations": 0}, {"min_similarity": 0.0}, {"min_similarity": 1.5}),
        *({"shingle_words": 0}, {"reserved_sources": ["nada"]}),
        {"reserved_sources": [p.stem for p in ()] or ["leis", "nada"]},
    ],
    "sft_data": [
        *({"path": name} for name in ("nada", "", "params.yaml")),
        *({"junk": [e]} for e in ("(", "*", "[a", "(?P<a")),
        *({"fields": {"instruction": "", "input": "", "output": "o"}}, {"max_examples": 1}),
        {"source": "hf", "hub": {"dataset": "ninguém/nada", "revision": "main", "split": "x"}},
    ],
    "tasks": [
        *({"path": name} for name in ("nada", "")),
        *({"seeds": s} for s in ([], [1, 1])),
        *({"per_task": 0}, {"source": "published", "path": "nada"}),
        {"source": "pool", "hub": {"dataset": "ninguém/nada", "revision": "x", "split": "x"}},
    ],
}
STAGE_OF = {
    "corpus": "export_corpus",
    "splits": "split_corpus",
    "sft_data": "prepare_sft",
    "tasks": "prepare_tasks",
}


@pytest.mark.parametrize(
    ("section", "values"), [(section, value) for section, many in VALUES.items() for value in many]
)
def test_a_value_that_leads_nowhere_is_refused(
    toy: Project, section: str, values: dict[str, Any]
) -> None:
    stage = STAGE_OF[section]
    with toy.changed("params.yaml", with_section(section, **values)):
        toy.refuses(main_of(stage), command_of(stage))


BASES = [
    *({"path": name} for name in ("nada", "", "data/models/v7", "params.yaml", "data/tokenizers")),
    *({"max_length": 257}, {"max_length": 10**9}),
    *(
        {"source": "hf", "hub": {"model": model, "revision": revision}}
        for model in ("", "ninguém/nada", "a/b/c", "../../etc", "a b", "x" * 200, "a;b", "a\nb")
        for revision in ("main", "", "f" * 40, "../main")
    ),
]


@pytest.mark.parametrize("values", BASES)
def test_a_base_that_cannot_be_opened_is_refused(toy: Project, values: dict[str, Any]) -> None:
    params = copy.deepcopy(PARAMS["base_models"])
    params["base"] |= values
    text = yaml.safe_dump({"base_models": params}).encode()
    with toy.changed("params.yaml", text):
        toy.refuses(main_of("open_base"), command_of("open_base"))


SIZES = [  # of the right type, and more than a machine or a file has
    ("train_lm", "models", {"v7": {"model": {"d_model": 2**31, "d_ff": 2**31}}}),
    ("train_lm", "models", {"v7": {"model": {"d_model": 17}}}),
    ("train_lm", "models", {"v7": {"training": {"epochs": 2.0, "schedule_epochs": 1.0}}}),
    ("train_lm", "models", {"v7": {"architecture": "../rnn"}}),
    ("train_lm", "models", {"v7": {"architecture": "rnn"}}),
    ("train_tokenizer", "tokenizers", {"unigram_v7": {"vocab_size": 60000}}),
    ("train_tokenizer", "tokenizers", {"unigram_v7": {"vocab_size": 65537}}),
    ("train_tokenizer", "tokenizers", {"unigram_v7": {"vocab_size": 3}}),
    ("train_tokenizer", "tokenizers", {"unigram_v7": {"control_symbols": ["<s>", "<s>"]}}),
    ("train_tokenizer", "tokenizers", {"unigram_v7": {"user_symbols": [""]}}),
    ("encode_corpus", "datasets", {"v7_lossless": {"recipe": "nenhuma"}}),
    ("clean_corpus", "cleaning", {"web": {"min_document_chars": 10**9}}),
    ("check_samples", "guardrails", {"must_pass": ["v99"]}),
    ("check_samples", "guardrails", {"false_alarm_rate": 1.0e-300}),
    ("adapt_cpt", "lora", {"targets": ["nenhuma"]}),
    ("adapt_cpt", "lora", {"targets": []}),
    ("adapt_cpt", "cpt", {"optimizer": "sgd"}),
    ("adapt_sft", "sft", {"block_length": 1}),
    ("score_adaptation", "scoring_adaptation", {"block_length": 1}),
    ("score_lm", "compute", {"device": "cuda"}),
    ("score_references", "references", {"char_order": 0}),
    ("score_references", "references", {"char_vocab_size": 0}),
    ("sample_lm", "sampling", {"top_p": 1.5}),
    ("sample_early", "early", {"share": 1.5}),
    ("check_leakage", "leakage", {"bands": 5}),
    ("check_leakage", "evaluation", {"max_documents": 0}),
    ("score_answers", "resampling", {"resamples": 0}),
]


def merged(values: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    found = values | over
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            found[key] = merged(values[key], value)
    return found


@pytest.mark.parametrize(("stage", "section", "values"), SIZES)
def test_a_size_that_cannot_be_is_refused(
    toy: Project, stage: str, section: str, values: dict[str, Any]
) -> None:
    params = merged(PARAMS, {section: values})
    item = next(iter(values)) if section in ("models", "tokenizers", "datasets", "cleaning") else ""
    with toy.changed("params.yaml", yaml.safe_dump(params).encode()):
        toy.refuses(main_of(stage), command_of(stage, item))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(rows=st.lists(st.binary(max_size=40) | anything.map(lambda v: lines(v)), max_size=4))
def test_no_line_of_a_corpus_ends_in_a_traceback(toy: Project, rows: list[bytes]) -> None:
    params = with_section("corpus", source="jsonl", path="in/a.jsonl")
    with toy.changed("params.yaml", params), toy.changed("in/a.jsonl", b"\n".join(rows)):
        toy.cases += 1
        before = tree(toy.root)
        found = call(main_of("export_corpus"), command_of("export_corpus"))
        assert "Traceback" not in found.stderr, found.stderr
        if found.code:
            assert found.error.startswith("error: "), found.stderr
            assert tree(toy.root) == before
    toy.restore()


def test_no_secret_of_the_environment_is_in_any_file_of_a_run(toy: Project) -> None:
    files = [path for path in toy.pristine.rglob("*") if path.is_file()]
    assert len(files) > 80
    leaks = [f for f in files if any(s.encode() in f.read_bytes() for s in SECRETS.values())]
    assert leaks == []


def test_a_token_in_a_name_is_masked(toy: Project) -> None:
    hub = {"dataset": f"eu/{SECRETS['HF_TOKEN']}", "revision": "main", "split": "train"}
    with toy.changed("params.yaml", with_section("corpus", source="hf", hub=hub)):
        toy.refuses(main_of("export_corpus"), command_of("export_corpus"), "<HF_TOKEN>")
