"""Scores, reference lines, samples, verdicts and the leaderboard, on files made by hand."""

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from dvc.render.converter.vega import get_datapoints

from cordel.checkpoints import ModelConfig, save_model
from cordel.corpus.documents import Document, read_documents, write_documents
from cordel.evaluation.references import compressed_bits_per_byte
from cordel.models import build_model, parse_architecture
from cordel.runtime.errors import ArtifactError
from cordel.runtime.files import read_json, read_jsonl, write_json, write_jsonl
from cordel.tokenizers.char import learn_characters
from cordel.tokenizers.saved import fingerprint
from cordel.tokenizers.subword import learn_pieces
from cordel.tokens import Encoded, TokensMeta, write_meta, write_split
from stages import rank_lm, sample_lm, score_lm, score_references
from tests.cordel.evaluation.conftest import CONTEXT_LENGTH, TINY
from tests.cordel.tokenizers.conftest import BPE

COMPUTE = {"device": "cpu", "threads": 1, "compile": False}
SCORING = {"batch_size": 2, "max_windows": 5, "char_stride": 3, "subword_stride": 2}
SAMPLING = {
    "prompts": [{"seed": 101, "text": "O Brasil"}, {"seed": 102, "text": "A MÃE"}],
    "samples_per_prompt": 2,
    "max_new_tokens": 9,
    "min_new_tokens": 4,
    "temperature": 0.85,
    "top_k": 80,
    "top_p": 0.95,
    "frequency_penalty": 0.0,
}
REFERENCES = {"char_order": 3, "char_vocab_size": 30, "subword_order": 2}
NORMALISATION = {
    "filter_characters": True,
    "end_marker": "newline",
    "soft_hyphen": "space",
    "collapse_digits": True,
    "lowercase": True,
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, str], None]:
    """Return a function that runs a stage with a command line in an empty folder."""
    params = {"compute": COMPUTE, "scoring": SCORING, "sampling": SAMPLING}
    params |= {"resampling": {"resamples": 1024, "confidence": 0.95, "seed": 0}}
    params |= {"references": REFERENCES, "evaluation": {"max_documents": 2}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), "utf-8")
    monkeypatch.chdir(tmp_path)

    def run(stage: Any, command: str) -> None:
        monkeypatch.setattr(sys, "argv", [stage.__name__, *command.split()])
        stage.main()

    return run


def write_model(name: str, folder: Path, *, vocab_size: int, tokenizer_sha256: str) -> None:
    """Write a tiny untrained model of an architecture."""
    params = parse_architecture(name, TINY[name], "tiny")
    torch.manual_seed(1)
    model = build_model(name, params, vocab_size=vocab_size, context_length=CONTEXT_LENGTH)
    config = ModelConfig(
        run=folder.name,
        architecture=name,
        model=TINY[name],
        vocab_size=vocab_size,
        context_length=CONTEXT_LENGTH,
        parameters=123,
        tokenizer_sha256=tokenizer_sha256,
        step=1,
        val_bits_per_byte=3.0,
    )
    folder.mkdir()
    save_model(folder, model.state_dict(), config)


def write_tokens(folder: Path, begin: list[int], **changes: Any) -> None:
    """Write random evaluation tokens of a vocabulary of 11, and what they say of themselves."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    splits = {}
    for split, lengths in (("common", (20, 3, 12)), ("own", (9, 15))):
        documents = [
            Encoded(
                id=f"{split}{n}",
                ids=[*begin, *rng.integers(0, 11, length).tolist()],
                bytes=2 * length,
                unknown_bytes=n,
            )
            for n, length in enumerate(lengths)
        ]
        splits[split] = write_split(folder, split, documents)
    meta: dict[str, Any] = {"vocab_size": 11, "tokenizer": "toy", "tokenizer_sha256": "0" * 64}
    meta |= {"recipe": "web", "normalisation": NORMALISATION, "splits": splits, "lossless": False}
    meta |= {"begin": begin, "end": [2], "context": begin or [2]}
    write_meta(folder, TokensMeta(**(meta | changes)))


# --- score_lm -------------------------------------------------------------------------------------

SCORE = (
    "--run {run} --model model --tokens tokens --metrics metrics.json --items items.jsonl "
    "--ledger ledger.json"
)
RUNS = pytest.mark.parametrize(("name", "begin"), [("rnn", []), ("gpt", [1]), ("llama", [1])])


@RUNS
def test_the_metrics_are_the_sums_of_the_items(name: str, begin: list[int], run: Callable) -> None:
    write_model(name, Path("model"), vocab_size=11, tokenizer_sha256="0" * 64)
    write_tokens(Path("tokens"), begin)
    run(score_lm, SCORE.format(run=name))
    metrics, items = read_json(Path("metrics.json")), list(read_jsonl(Path("items.jsonl")))
    assert [item["id"] for item in items] == ["common0", "common1", "common2"]
    nats, size, hidden = (sum(item[k] for item in items) for k in ("nats", "bytes", "unk_bytes"))
    expected = (nats / math.log(2) + 8 * hidden) / size
    assert metrics["bits_per_byte"] == pytest.approx(expected, abs=1e-5)
    # 20 + 3 + 12 ids after the beginning, 70 bytes, 0 + 1 + 2 of them hidden.
    assert [metrics[k] for k in ("tokens", "bytes", "unk_bytes")] == [35, 70, 3]
    assert metrics["perplexity"] == pytest.approx(math.exp(nats / 35), abs=1e-5)


def test_both_texts_are_scored_and_counted_in_the_ledger(run: Callable) -> None:
    write_model("gpt", Path("model"), vocab_size=11, tokenizer_sha256="0" * 64)
    write_tokens(Path("tokens"), [1])
    run(score_lm, SCORE.format(run="v5"))
    metrics, [attempt] = read_json(Path("metrics.json")), read_json(Path("ledger.json"))
    assert metrics["bits_per_byte_own"] != metrics["bits_per_byte"]
    assert (metrics["lossless"], metrics["parameters"]) == (False, 123)
    # 35 of the common text, 9 + 15 of its own.
    assert (attempt["stage"], attempt["tokens"]) == ("score_lm@v5", {"supervised": 59})


@pytest.mark.parametrize(("begin", "stride", "windows"), [([], 3, 5), ([1], 2, 5)])
def test_an_rnn_is_also_scored_as_the_thesis_did(
    begin: list[int], stride: int, windows: int, run: Callable
) -> None:
    # 24 or 26 ids, windows of 8 and at most 5 of them: starts 0, 3, .. 12 or 0, 2, .. 8.
    write_model("rnn", Path("model"), vocab_size=11, tokenizer_sha256="0" * 64)
    write_tokens(Path("tokens"), begin)
    run(score_lm, SCORE.format(run="v1"))
    found = read_json(Path("metrics.json"))["window_protocol"]
    assert (found["stride"], found["windows"]) == (stride, windows)


def test_a_transformer_has_no_window_protocol(run: Callable) -> None:
    write_model("gpt", Path("model"), vocab_size=11, tokenizer_sha256="0" * 64)
    write_tokens(Path("tokens"), [1])
    run(score_lm, SCORE.format(run="v5"))
    assert "window_protocol" not in read_json(Path("metrics.json"))


def test_tokens_of_another_tokenizer_are_not_scored(run: Callable) -> None:
    write_model("gpt", Path("model"), vocab_size=11, tokenizer_sha256="f" * 64)
    write_tokens(Path("tokens"), [1])
    with pytest.raises(ArtifactError, match="model: trained with another tokenizer than tokens"):
        run(score_lm, SCORE.format(run="v5"))


# --- score_references -----------------------------------------------------------------------------


@pytest.fixture
def pieces(prose: list[str], tmp_path: Path) -> Path:
    """Return the folder of a BPE tokenizer of 300 pieces with byte fallback."""
    params = replace(BPE, vocab_size=420, character_coverage=1.0, user_symbols=())
    folder = tmp_path / "pieces"
    folder.mkdir()
    learn_pieces(prose[:10], params, folder, section="tokenizers.pieces")
    return folder


@pytest.fixture
def references(run: Callable, pieces: Path, prose: list[str]) -> dict[str, Any]:
    """Return the reference lines after training on 20 documents of prose, tested on 2 of 3."""
    documents = [Document(f"d{n}", "prosa", "", text) for n, text in enumerate(prose)]
    write_documents(Path("clean/train.parquet"), documents[:20])
    write_documents(Path("clean/test.parquet"), documents[20:23])
    run(
        score_references,
        f"--clean clean --tokenizer {pieces} --metrics references.json --ledger ledger.json",
    )
    return read_json(Path("references.json"))


def test_the_reference_lines_are_in_their_order_of_strength(references: dict) -> None:
    assert set(references) == {"gzip", "xz", "uniform", "kneser_ney_char", "kneser_ney_subword"}
    assert references["uniform"] == {"bits_per_byte": 8.0}
    bits = {name: line["bits_per_byte"] for name, line in references.items()}
    assert 1 < bits["kneser_ney_char"] < bits["gzip"] < bits["uniform"]


def test_only_so_many_test_documents_are_scored(references: dict) -> None:
    texts = [d.text for d in read_documents(Path("clean/test.parquet"), limit=2)]
    expected = compressed_bits_per_byte("\n\n".join(texts).encode())["gzip"]
    assert len(texts) == 2
    assert references["gzip"]["bits_per_byte"] == pytest.approx(expected, abs=1e-6)


def test_rare_characters_are_hidden_and_pay(references: dict) -> None:
    # The 29 most frequent characters, and ~ and the newline.
    line = references["kneser_ney_char"]
    assert (line["order"], line["vocab_size"]) in [(3, 30), (3, 31)]
    assert line["unk_bytes"] > 0


def test_pieces_with_byte_fallback_hide_nothing(references: dict) -> None:
    line = references["kneser_ney_subword"]
    assert (line["order"], line["vocab_size"], line["unk_bytes"]) == (2, 420, 0)


def test_an_ngram_of_order_one_by_hand(tmp_path: Path) -> None:
    # Trained on "a a", tested on "b" (2 ids of it are the blank line). Characters \n a ~ and the
    # beginning, 4 ids. Counts: a 2, \n 2, hence no n1, and D2 is half the count: 1.
    # p(a) = p(\n) = 1/4 + 2/4 x 1/4 = 3/8; p(~) = 1/8.
    learn_characters(["a"], tmp_path)
    tokenizer = score_references.load_tokenizer(tmp_path)
    found = score_references.ngram_line(tokenizer, 1, lambda: iter(["aa"]), ["b"])
    # 3 bits for ~, 8 for the byte behind it, 2 x log2(8/3) for the blank line; one byte.
    assert found["bits_per_byte"] == pytest.approx(3 + 8 + 2 * math.log2(8 / 3))
    assert (found["unk_bytes"], found["vocab_size"]) == (1, 3)


# --- sample_lm ------------------------------------------------------------------------------------

SAMPLE = "--run v1 --model model --tokens tokens --out samples.json --ledger ledger.json"


@pytest.fixture
def samples(run: Callable) -> dict[str, Any]:
    """Return the samples of an untrained LSTM over characters."""
    learn_characters(["o brasil a mãe canta"], Path("toy"))
    digest = fingerprint(Path("toy"))
    write_tokens(Path("tokens"), [], tokenizer_sha256=digest)
    Path("toy").rename("tokens/tokenizer")
    size = len(set("o brasil a mãe canta~\n"))
    write_model("rnn", Path("model"), vocab_size=size, tokenizer_sha256=digest)
    run(sample_lm, SAMPLE)
    return read_json(Path("samples.json"))


def test_samples_carry_their_settings_and_the_tokenizer(samples: dict) -> None:
    assert (samples["run"], samples["tokenizer"], samples["kind"]) == ("v1", "toy", "char")
    assert samples["tokenizer_sha256"] == fingerprint(Path("tokens/tokenizer"))
    assert samples["decoding"]["temperature"] == 0.85


def test_each_prompt_is_continued_with_its_seeds(samples: dict) -> None:
    found = [(sample["seed"], sample["prompt"]) for sample in samples["samples"]]
    # The prompts went through the run's normalisation: lower case, accents kept.
    assert found == [(101, "o brasil"), (1101, "o brasil"), (102, "a mãe"), (1102, "a mãe")]


def test_the_text_of_a_sample_is_what_its_ids_say(samples: dict) -> None:
    characters = sorted(set("o brasil a mãe canta~\n"))
    for sample in samples["samples"]:
        assert sample["text"] == "".join(characters[i] for i in sample["ids"])
    assert all(4 <= len(sample["ids"]) <= 9 for sample in samples["samples"])


def test_the_ledger_counts_the_ids_that_were_generated(samples: dict) -> None:
    [attempt] = read_json(Path("ledger.json"))
    assert attempt["tokens"] == {"generated": sum(len(s["ids"]) for s in samples["samples"])}


def test_a_prompt_of_characters_stands_after_a_blank_line(
    samples: dict, run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert samples["samples"]
    # A sampler that gives back what it was asked to continue.
    monkeypatch.setattr(sample_lm, "generate", lambda _, prompt, *__, **___: prompt)
    run(sample_lm, SAMPLE)
    found = read_json(Path("samples.json"))["samples"][0]
    assert found["text"] == "\n\no brasil"


def test_sampling_again_gives_the_same_samples(samples: dict, run: Callable) -> None:
    run(sample_lm, SAMPLE)
    assert read_json(Path("samples.json")) == samples


# --- rank_lm --------------------------------------------------------------------------------------


RANK = "--references references.json --out out.json --metrics metrics.json "
# Bits of the documents a (10 bytes) and b (30 bytes).
COSTS = {"v7": (19, 57), "v1": (25, 75), "v2": (6, 42)}  # 1.9, 2.5 and 1.2 bits per byte


def rank(run: Callable, costs: dict[str, tuple[float, ...]], bounds: tuple[str, ...] = ()) -> Any:
    """Rank runs that cost so many bits on each document; return plot and metrics."""
    for name, bits in costs.items():
        size = [10, 30, *[20] * len(bits)][: len(bits)]
        rows = [
            {"id": f"d{n}", "nats": cost * math.log(2), "bytes": size[n], "unk_bytes": 0}
            for n, cost in enumerate(bits)
        ]
        write_jsonl(Path(f"items/{name}.jsonl"), rows)
        score = {"bits_per_byte": sum(bits) / max(1, sum(size)), "lossless": name not in bounds}
        write_json(Path(f"lm/{name}.json"), score if bits else {})
    write_json(Path("references.json"), {"xz": {"bits_per_byte": 2.0, "order": 1}})
    names = {"scores": "lm/{}.json", "items": "items/{}.jsonl"}
    words = [f"--{flag} {' '.join(path.format(n) for n in costs)}" for flag, path in names.items()]
    run(rank_lm, RANK + " ".join(words))
    return read_json(Path("out.json")), read_json(Path("metrics.json"))


def test_the_leaderboard_is_best_first_and_marks_lower_bounds(run: Callable) -> None:
    plot, _ = rank(run, COSTS, bounds=("v1", "v2"))
    assert plot == [
        # Resamples hold a twice, both, or b twice: 6 / 10, 48 / 40, 42 / 30.
        {"model": "≥ v2", "bits_per_byte": 1.2, "kind": "run", "low": 0.6, "high": 1.4},
        {"model": "v7", "bits_per_byte": 1.9, "kind": "run", "low": 1.9, "high": 1.9},
        {"model": "xz", "bits_per_byte": 2.0, "kind": "reference", "low": None, "high": None},
        {"model": "≥ v1", "bits_per_byte": 2.5, "kind": "run", "low": 2.5, "high": 2.5},
    ]


def test_dvc_draws_the_leaderboard(run: Callable) -> None:
    # DVC gives up, with a warning that names no file, where the first row lacks keys of others.
    plot, _ = rank(run, {"v7": (25, 75)})
    assert plot[0]["kind"] == "reference"
    assert get_datapoints(plot) == plot


def test_runs_are_compared_with_the_best_that_is_no_bound(run: Callable) -> None:
    _, found = rank(run, COSTS, bounds=("v1", "v2"))
    assert found["v7"] == {
        "bits_per_byte": 1.9,
        "low": 1.9,
        "high": 1.9,
        "behind": 0.0,
        "behind_low": 0.0,
        "behind_high": 0.0,
        "bound": False,
        "documents": 2,
    }
    # Behind by (6 + 18) / 40; ahead by 13 / 10 and 15 / 30. Two items: p is 2 / 4 at the least.
    behind = ("behind", "behind_low", "behind_high", "p", "p_holm", "bound")
    assert [found["v1"][key] for key in behind] == [0.6, 0.6, 0.6, 0.5, 1.0, True]
    assert [found["v2"][key] for key in behind] == [-0.7, -1.3, -0.5, 0.5, 1.0, True]


def test_all_runs_but_the_best_are_one_family(run: Callable) -> None:
    # All ten documents are dearer by a bit: p = 2 / 2^10, twice; nine are and one is cheaper: 22.
    flat = (10.0,) * 10
    dearer = tuple(bits + 1 for bits in flat)
    _, found = rank(run, {"v7": flat, "v1": dearer, "v2": dearer, "v3": (9.0, *dearer[1:])})
    p = {name: (run.get("p"), run.get("p_holm")) for name, run in found.items()}
    assert p == {
        "v7": (None, None),
        "v1": (0.001953, 0.005859),
        "v2": (0.001953, 0.005859),
        "v3": (0.021484, 0.021484),
    }


def test_among_bounds_alone_the_lowest_is_the_best(run: Callable) -> None:
    _, found = rank(run, COSTS, bounds=("v1", "v2", "v7"))
    assert found["v2"]["behind"] == 0
    assert found["v7"]["behind"] == 0.7


def test_an_arm_whose_base_is_not_configured_is_left_out(run: Callable) -> None:
    plot, found = rank(run, COSTS | {"instruct": ()})
    assert found.keys() == COSTS.keys()
    assert len(plot) == 4


def test_a_run_of_other_documents_stops_the_ranking(run: Callable) -> None:
    message = "v1 was scored on 3 documents, of which all runs share 2; .* run dvc repro"
    with pytest.raises(ArtifactError, match=message):
        rank(run, COSTS | {"v1": (25, 75, 3)})


def test_a_run_that_was_not_scored_stops_the_ranking(run: Callable) -> None:
    with pytest.raises(ArtifactError, match=r"v9\.json: no such file; `dvc repro` makes it"):
        run(rank_lm, RANK + "--scores v9.json --items v9.jsonl")
