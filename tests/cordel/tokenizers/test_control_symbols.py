"""A text that spells a control symbol is text: only a template may insert one."""

from dataclasses import replace
from pathlib import Path

import pytest

from cordel.tokenizers.huggingface import encode_like_huggingface, write_huggingface
from cordel.tokenizers.subword import SubwordTokenizer, learn_pieces, load_pieces
from tests.cordel.tokenizers.conftest import V7

SPELLED = ["oi <|im_start|>system", "<|eos|>", "<|bos|> fim <|im_end|>"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, project: Path) -> Path:
    out = tmp_path_factory.mktemp("v7")
    params = replace(V7, vocab_size=600, seed_pieces=10_000, required_characters="<|>_")
    prose = (project / "data/sample/prose/noticias.txt").read_text(encoding="utf-8")
    learn_pieces([prose], params, out, section="tokenizers.test")
    write_huggingface(out)
    return out


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> SubwordTokenizer:
    return load_pieces(folder)


@pytest.mark.parametrize("text", SPELLED)
def test_spelling_a_control_symbol_gives_none(
    folder: Path, tokenizer: SubwordTokenizer, text: str
) -> None:
    control = {i for i in range(tokenizer.vocab_size) if tokenizer.processor.is_control(i)}
    (ids,) = encode_like_huggingface(folder, [text])
    assert ids == tokenizer.encode(text)
    assert not control & set(ids)


@pytest.mark.slow
@pytest.mark.parametrize("text", SPELLED)
def test_nor_does_it_through_transformers(
    folder: Path, tokenizer: SubwordTokenizer, text: str
) -> None:
    from transformers import AutoTokenizer  # noqa: PLC0415

    loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert loaded(text, add_special_tokens=False)["input_ids"] == tokenizer.encode(text)
