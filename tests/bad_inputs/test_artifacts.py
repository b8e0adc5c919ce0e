"""Every file that a stage hands to the next: absent, cut, garbage, or another's."""

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load, save

from tests.bad_inputs.harness import Project
from tests.bad_inputs.toy import command_of, main_of

pytestmark = pytest.mark.slow
TOKENS, MODEL = "data/tokens/v7_lossless", "data/models/v7"
BASE, EXPORT = "data/base/base", "data/export/v7"
READS = {  # stage: what distinguishes its command, and the files that it cannot do without
    "split_corpus": ("", ["data/corpus/documents.parquet"]),
    "clean_corpus": ("web", ["data/corpus/documents.parquet", "data/splits.parquet"]),
    "train_tokenizer": (
        "unigram",
        ["data/clean/lossless/train.parquet", "data/clean/lossless/val.parquet"],
    ),
    "encode_corpus": (
        "v7",
        [
            *(f"data/clean/lossless/{split}.parquet" for split in ("train", "val", "test")),
            "data/tokenizers/unigram_v7/tokenizer.model",
        ],
    ),
    "encode_corpus ": ("char", ["data/tokenizers/char/char.json"]),
    "train_lm": ("v7", [f"{TOKENS}/{name}" for name in ("meta.json", "train.bin", "val.bin")]),
    "score_lm": (
        "v7",
        [
            *(f"{MODEL}/{name}" for name in ("config.json", "model.safetensors")),
            *(
                f"data/eval_tokens/v7_lossless/{name}"
                for name in ("meta.json", "own.bin", "own.parquet", "common.bin", "common.parquet")
            ),
        ],
    ),
    "score_references": (
        "",
        [
            *(f"data/clean/lossless/{split}.parquet" for split in ("train", "test")),
            "data/tokenizers/unigram_v7/tokenizer.model",
        ],
    ),
    "sample_lm": (
        "v7",
        [
            *(f"{MODEL}/{name}" for name in ("config.json", "model.safetensors")),
            *(f"{TOKENS}/{name}" for name in ("meta.json", "tokenizer/tokenizer.model")),
        ],
    ),
    "sample_early": ("v7", [f"{TOKENS}/{name}" for name in ("meta.json", "train.bin")]),
    "check_samples": (
        "",
        [
            "data/samples/v7.json",
            "data/early/unigram_v7.json",
            *(f"{TOKENS}/{name}" for name in ("meta.json", "train.bin", "val.bin")),
            *(f"{TOKENS}/{name}" for name in ("train.parquet", "tokenizer/tokenizer.model")),
        ],
    ),
    "export_model": (
        "",
        [
            *(f"{MODEL}/{name}" for name in ("config.json", "model.safetensors")),
            f"{TOKENS}/meta.json",
            f"{TOKENS}/tokenizer/tokenizer_config.json",
        ],
    ),
    "open_base": ("", [f"{EXPORT}/config.json", f"{EXPORT}/tokenizer.json"]),
    "prepare_cpt": (
        "",
        [
            *("data/clean/prose/reserved.parquet", "data/splits.parquet"),
            *(f"{BASE}/chat.json", f"{BASE}/tokenizer.json"),
        ],
    ),
    "prepare_tasks": ("", ["data/sft/train.jsonl"]),
    "adapt_cpt": (
        "",
        [
            *(f"{BASE}/{name}" for name in ("base.json", "chat.json", "tokenizer.json")),
            *(f"data/cpt/{name}.parquet" for name in ("train", "evaluation")),
            *(f"{EXPORT}/{name}" for name in ("config.json", "model.safetensors")),
        ],
    ),
    "adapt_sft": (
        "",
        [
            *(f"data/sft/{name}.jsonl" for name in ("train", "val")),
            "data/adapters/cpt/adapter_config.json",
            "data/adapters/cpt/adapter_model.safetensors",
        ],
    ),
    "score_adaptation": (
        "",
        [
            *("data/sft/test.jsonl", "data/cpt/evaluation.parquet", f"{BASE}/base.json"),
            "data/clean/lossless/test.parquet",
            "data/adapters/sft/adapter_model.safetensors",
        ],
    ),
    "continue_documents": (
        "",
        ["data/cpt/evaluation.parquet", "data/adapters/cpt/adapter_model.safetensors"],
    ),
    "generate_answers": (
        "sft",
        ["data/tasks.jsonl", f"{BASE}/base.json", "data/adapters/sft/adapter_model.safetensors"],
    ),
    "score_answers": ("", ["data/answers/sft.jsonl"]),
    "export_adapter": (
        "",
        [
            *("data/cpt/evaluation.parquet", "data/adapters/sft/adapter_model.safetensors"),
            f"{EXPORT}/model.safetensors",
        ],
    ),
    "rank_lm": ("", ["metrics/lm/v7.json", "metrics/lm/references.json", "metrics/items/v7.jsonl"]),
    "check_leakage": (
        "",
        [
            *("data/tasks.jsonl", "data/sft/test.jsonl", "data/cpt/train.parquet"),
            *("metrics/items/v7.jsonl", "metrics/items/answers-sft.jsonl"),
        ],
    ),
    "account_costs": ("", ["metrics/ledger/train_lm/v7.json", f"{MODEL}/config.json"]),
    "write_cards": (
        "",
        [
            f"{BASE}/base.json",
            *(
                f"metrics/{name}.json"
                for name in (
                    "lm/v7",
                    "lm/sft",
                    "leaderboard",
                    "answers",
                    "leakage",
                    "costs",
                    "splits",
                )
            ),
            *(f"metrics/{name}.json" for name in ("export/sft", "corpus/web", "guardrails/v7")),
        ],
    ),
    "render_report": (
        "",
        [
            *("metrics/leaderboard.json", "metrics/answers.json", "data/samples/v7.json"),
            *("metrics/ledger/train_lm/v7.json", "data/scored_answers/sft.jsonl"),
            "plots/curves/v7.csv",
        ],
    ),
}
# What is no fault: nobody needs a key of a tokenizer's settings; an empty object is the score of an
# arm whose base is not configured, and no rows are that of its items and answers.
LEGAL = {
    ("metrics/lm/v7.json", "{}"),
    ("metrics/lm/references.json", "{}"),
    ("metrics/items/answers-sft.jsonl", "empty"),
    ("metrics/items/v7.jsonl", "check_leakage empty"),
    ("data/answers/sft.jsonl", "empty"),
    ("data/sft/train.jsonl", "prepare_tasks empty"),
    ("data/sft/test.jsonl", "check_leakage empty"),
    (f"{TOKENS}/tokenizer/tokenizer_config.json", "{}"),
    # The report leaves out what is not there.
    ("metrics/answers.json", "{}"),
    ("data/samples/v7.json", "render_report {}"),
    ("plots/curves/v7.csv", "cut"),  # half a number is one
    ("metrics/ledger/train_lm/v7.json", "render_report []"),
    *(("data/scored_answers/sft.jsonl", spoiler) for spoiler in ("absent", "empty")),
}


def cut(raw: bytes) -> bytes:
    return raw[: len(raw) // 2]


def other_columns(_: bytes) -> bytes:
    return parquet(pa.table({"nada": [1, 2]}))


def nulls(raw: bytes) -> bytes:
    table = pq.read_table(BytesIO(raw))
    empty = [pa.nulls(len(table), field.type) for field in table.schema]
    return parquet(pa.table(empty, schema=table.schema))


def other_types(raw: bytes) -> bytes:
    table = pq.read_table(BytesIO(raw))
    return parquet(pa.table({name: [True] * len(table) for name in table.column_names}))


def parquet(table: pa.Table) -> bytes:
    sink = BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def other_shapes(raw: bytes) -> bytes:
    tensors = load(raw)
    return save({name: np.zeros((3, *t.shape), dtype=t.dtype) for name, t in tensors.items()})


def other_names(raw: bytes) -> bytes:
    return save({f"x.{name}": tensor for name, tensor in load(raw).items()})


def always(content: bytes) -> Callable[[bytes], bytes]:
    return lambda _: content


Spoiler = Callable[[bytes], bytes] | None
ANY: dict[str, Spoiler] = {
    "absent": None,
    "empty": always(b""),
    "cut": cut,
    "garbage": always(b"\xff\xfe\x00 isto n\xe3o"),
}
BY_SUFFIX: dict[str, dict[str, Spoiler]] = {
    ".json": {text: always(text.encode()) for text in ("[]", "null", "{}", "7", "[" * 9999)},
    ".jsonl": {
        "a broken line": lambda raw: raw + b"{quebrada\n",
        "a list": lambda raw: b"[]\n" + raw,
        "no keys": lambda raw: b"{}\n" + raw,
        "null": lambda raw: raw + b"null\n",
    },
    ".parquet": {"columns": other_columns, "nulls": nulls, "types": other_types},
    ".bin": {
        "an odd byte": lambda raw: raw[:-1],
        "one id less": lambda raw: raw[:-2],
        "ids too high": lambda raw: b"\xff\xff" * (len(raw) // 2),
    },
    ".safetensors": {"shapes": other_shapes, "names": other_names},
    ".model": {},
    ".csv": {"text": always(b"step,train_tokens\n0,nada\n")},
}
CASES = [
    (stage.strip(), item, name, spoiler)
    for stage, (item, names) in READS.items()
    for name in names
    for spoiler in (*ANY, "a folder", *BY_SUFFIX[Path(name).suffix])
    if not LEGAL & {(name, spoiler), (name, f"{stage} {spoiler}")}
]


@pytest.mark.parametrize(("stage", "item", "name", "spoiler"), CASES)
def test_a_broken_file_is_named(
    toy: Project, stage: str, item: str, name: str, spoiler: str
) -> None:
    made = (ANY | BY_SUFFIX[Path(name).suffix]).get(spoiler)
    content = made((toy.pristine / name).read_bytes()) if made else None
    with toy.changed(name, content, folder=spoiler == "a folder"):
        folder = str(Path(name).parent)
        names = (name, folder, Path(name).stem, "blocks to train on", "was scored on")
        toy.refuses(main_of(stage), command_of(stage, item), *names)


def edited(toy: Project, name: str, **values: Any) -> bytes:
    """Return a JSON file of the project with other values."""
    return json.dumps(json.loads((toy.pristine / name).read_text("utf-8")) | values).encode()


OTHERS = {  # stage: item, a file, and whose content it has
    "an RNN's weights": ("score_lm", "v7", f"{MODEL}/model.safetensors", "v1/model.safetensors"),
    "an RNN's configuration": ("score_lm", "v7", f"{MODEL}/config.json", "v1/config.json"),
    "another's meta.json": ("train_lm", "v7", f"{TOKENS}/meta.json", "char_web_20k/meta.json"),
    "another's ids": (
        "train_lm",
        "v1",
        "data/tokens/char_web_20k/train.bin",
        "v7_lossless/train.bin",
    ),
    "another's table": (
        "check_samples",
        "",
        f"{TOKENS}/train.parquet",
        "char_web_20k/train.parquet",
    ),
    "another's samples": ("check_samples", "", "data/samples/v7.json", "v1.json"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_file_of_another_is_named(toy: Project, case: str) -> None:
    stage, item, name, other = OTHERS[case]
    source = Path(name).parents[other.count("/")] / other
    with toy.changed(name, (toy.pristine / source).read_bytes()):
        toy.refuses(main_of(stage), command_of(stage, item), str(Path(name).parent), "samples of")


@pytest.mark.parametrize("stage", ["adapt_sft", "score_adaptation", "generate_answers"])
def test_an_adapter_of_another_base_is_refused(toy: Project, stage: str) -> None:
    arm = "cpt" if stage == "adapt_sft" else "sft"
    name = f"data/adapters/{arm}/adaptation.json"
    with toy.changed(name, edited(toy, name, weights="f" * 64)):
        toy.refuses(main_of(stage), command_of(stage, arm), f"data/adapters/{arm}")


@pytest.mark.parametrize("architecture", ["transformer", "", None, 7, "../x", "os"])
def test_a_checkpoint_of_an_unknown_architecture_is_refused(
    toy: Project, architecture: object
) -> None:
    name = f"{MODEL}/config.json"
    with toy.changed(name, edited(toy, name, architecture=architecture)):
        toy.refuses(main_of("score_lm"), command_of("score_lm", "v7"), name, MODEL)


def test_a_journal_with_a_broken_line_costs_its_answer_only(toy: Project) -> None:
    # The one spoilt file that is no error: unfinished work, which is done again.
    words = command_of("generate_answers", "sft")
    from tests.bad_inputs.harness import call  # noqa: PLC0415

    before = Path("data/answers/sft.jsonl").read_bytes()
    assert call(main_of("generate_answers"), words).code == 0
    (journal,) = Path(".ckpt/generate_answers").rglob("answers.jsonl")
    lines = journal.read_bytes().splitlines(keepends=True)
    for broken in (b'{"key": "x"\n', b"null\n", b"\xff\xfe\n", b'{"ids": 7}\n', b"[]\n"):
        toy.cases += 1
        journal.write_bytes(b"".join([lines[0], broken, *lines[2:]]))
        assert call(main_of("generate_answers"), words).code == 0
        assert Path("data/answers/sft.jsonl").read_bytes() == before
    toy.restore()
