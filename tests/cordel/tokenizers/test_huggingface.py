"""tokenizer.json gives SentencePiece's ids: on prose, on nasty texts, on the thesis' own models."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from cordel.tokenizers.huggingface import encode_like_huggingface, write_huggingface
from cordel.tokenizers.subword import load_pieces

NASTY = [
    "",
    " ",
    "a\nb",
    "a\n\n b \n",
    "  dois  espaços  ",
    "x\u200by",
    "\ufeffcoração\u00a0\u00ad",
    "🙂👩\u200d👩\u200d👧",
    "1º … ﬁ ½ ㍿",
    "e\u0301 é",
    "日本語 Ελληνικά русский عربى",
    "0000000",
    "............",
    "\t\r\n",
    "R$ 1.234,56 — “aspas” d'água",
]
KINDS = pytest.mark.parametrize("kind", ["bpe", "bpe_unknown", "unigram", "v7"])
PUBLISHED = pytest.mark.parametrize(
    ("name", "pieces"),  # thesis section 2.2
    [
        ("v4k_bf", 4000),
        ("v5b_unigram_12k", 11294),
        ("v5b_unigram_40k", 40000),
        ("v6_unigram_12k", 11038),
        ("v6_unigram_16k", 14500),
    ],
)


@KINDS
def test_every_prose_document_has_sentencepieces_ids(
    learnt: dict, kind: str, prose: list[str]
) -> None:
    tokenizer = learnt[kind].tokenizer
    assert len(prose) == 112
    ids = encode_like_huggingface(learnt[kind].folder, prose)
    assert ids == [tokenizer.encode(text) for text in prose]


@KINDS
@pytest.mark.parametrize("text", NASTY, ids=repr)
def test_a_nasty_text_has_sentencepieces_ids(learnt: dict, kind: str, text: str) -> None:
    tokenizer = learnt[kind].tokenizer
    assert encode_like_huggingface(learnt[kind].folder, [text]) == [tokenizer.encode(text)]


@pytest.mark.parametrize("kind", ["bpe", "v7"])
@pytest.mark.parametrize("text", NASTY, ids=repr)
def test_both_formats_decode_alike(learnt: dict, kind: str, text: str) -> None:
    tokenizer = learnt[kind].tokenizer
    other = Tokenizer.from_file(str(learnt[kind].folder / "tokenizer.json"))
    ids = tokenizer.encode(text)
    assert other.decode(ids, skip_special_tokens=False) == tokenizer.decode(ids)


def test_a_user_symbol_of_bpe_is_found_in_text(learnt: dict) -> None:
    # What follows it may be cut otherwise than by SentencePiece; <sep> is id 4.
    [ids] = encode_like_huggingface(learnt["bpe"].folder, ["fim<sep>fim"])
    assert ids.count(4) == 1


def test_a_user_symbol_of_unigram_wins_over_likelier_pieces(
    learn: Callable, params: dict, prose: list[str], tmp_path: Path
) -> None:
    wanted = replace(params["unigram"], user_symbols=("e", "ão", "<sep>"))
    write_huggingface(learn(wanted, tmp_path))
    tokenizer = load_pieces(tmp_path)
    ids = encode_like_huggingface(tmp_path, prose[:20])
    assert ids == [tokenizer.encode(text) for text in prose[:20]]
    assert {4, 5} <= set(ids[0])


@pytest.mark.slow
@pytest.mark.parametrize("text", NASTY, ids=repr)
def test_transformers_loads_v7_with_its_ids_and_gives_the_text_back(
    learnt: dict, text: str
) -> None:
    from transformers import AutoTokenizer  # noqa: PLC0415  (several seconds)

    folder, tokenizer = learnt["v7"].folder, learnt["v7"].tokenizer
    loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    ids = loaded(text, add_special_tokens=False)["input_ids"]
    assert ids == tokenizer.encode(text)
    assert loaded.decode(ids) == text


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("bpe", {"pad": "<pad>", "unk": "<unk>", "bos": "<s>", "eos": "</s>"}),
        ("v7", {"pad": "<|pad|>", "unk": "<|unk|>", "bos": "<|bos|>", "eos": "<|eos|>"}),
    ],
)
def test_the_configuration_names_the_four_special_tokens(
    learnt: dict, kind: str, names: dict
) -> None:
    config = json.loads((learnt[kind].folder / "tokenizer_config.json").read_text())
    assert {name: config[f"{name}_token"] for name in names} == names
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert "model_max_length" not in config


def test_a_context_length_becomes_the_model_max_length(learnt: dict, tmp_path: Path) -> None:
    shutil.copy(learnt["v7"].folder / "tokenizer.model", tmp_path)
    write_huggingface(tmp_path, context_length=128)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["model_max_length"] == 128


# --- the thesis' models ---------------------------------------------------------------------------


def published(shared: Path, name: str, folder: Path) -> Path:
    """Copy a published model to ``folder`` under the name that ours have."""
    [model] = (shared / "data" / "golden" / "tokenizers" / name).glob("*.model")
    shutil.copy(model, folder / "tokenizer.model")
    return folder


@pytest.mark.shared
@PUBLISHED
def test_a_published_model_has_its_published_size(
    shared: Path, tmp_path: Path, name: str, pieces: int
) -> None:
    assert load_pieces(published(shared, name, tmp_path)).vocab_size == pieces


@pytest.mark.shared
@PUBLISHED
def test_a_published_model_converts_to_identical_ids(
    shared: Path, tmp_path: Path, name: str, pieces: int
) -> None:
    write_huggingface(published(shared, name, tmp_path))
    tokenizer = load_pieces(tmp_path)
    lines = (shared / "data" / "canarim" / "canarim_sft_10k_test.jsonl").read_text("utf-8")
    rows = [json.loads(line) for line in lines.splitlines()[:50]]
    texts = [f"{row['instruction']}\n{row['input']}\n{row['output']}" for row in rows]
    # Published unigram scores are not rounded, so a near tie may fall either way; none does here.
    assert encode_like_huggingface(tmp_path, texts) == [tokenizer.encode(text) for text in texts]
    assert max(max(tokenizer.encode(text)) for text in texts) < pieces
