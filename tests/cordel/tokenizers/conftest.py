"""One tiny tokenizer of each kind, learnt once from the sample's prose."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cordel.tokenizers.huggingface import write_huggingface
from cordel.tokenizers.params import TokenizerParams
from cordel.tokenizers.subword import SubwordTokenizer, learn_pieces, load_pieces

BPE = TokenizerParams(  # as v4k_bf and v5_main of the thesis
    kind="bpe",
    recipe="prose",
    max_documents=1000,
    vocab_size=600,
    character_coverage=0.9995,
    byte_fallback=True,
    seed_pieces=600,
    hard_limit=True,
    normalization="nmt_nfkc",
    dummy_prefix=True,
    keep_whitespace=False,
    required_characters="",
    control_symbols=(),
    user_symbols=("<sep>", "<mask>"),
)
BPE_UNKNOWN = replace(BPE, byte_fallback=False, vocab_size=400)  # as v4
UNIGRAM = replace(BPE, kind="unigram", byte_fallback=False, vocab_size=500, seed_pieces=1_000_000)
V7 = replace(
    UNIGRAM,
    vocab_size=700,
    character_coverage=0.9999,
    byte_fallback=True,
    normalization="identity",
    dummy_prefix=False,
    keep_whitespace=True,
    required_characters="ÀKWY",
    control_symbols=("<|im_start|>", "<|im_end|>"),
    user_symbols=("\n",),
)
PARAMS = {"bpe": BPE, "bpe_unknown": BPE_UNKNOWN, "unigram": UNIGRAM, "v7": V7}


@dataclass(frozen=True)
class Learnt:
    """A folder with both formats, and the tokenizer loaded from it."""

    folder: Path
    tokenizer: SubwordTokenizer


@pytest.fixture(scope="session")
def learn(prose: list[str]) -> Callable[[TokenizerParams, Path], Path]:
    """Return a function that learns a tokenizer from the prose."""

    def learn(params: TokenizerParams, folder: Path) -> Path:
        folder.mkdir(exist_ok=True)
        learn_pieces(prose, params, folder, section="tokenizers.tiny")
        return folder

    return learn


@pytest.fixture(scope="session")
def learnt(
    learn: Callable[[TokenizerParams, Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Learnt]:
    """Return the tokenizers ``bpe``, ``bpe_unknown``, ``unigram`` and ``v7``."""
    found = {}
    for kind, params in PARAMS.items():
        folder = learn(params, tmp_path_factory.mktemp("tokenizers") / kind)
        write_huggingface(folder)
        found[kind] = Learnt(folder, load_pieces(folder))
    return found


@pytest.fixture
def params() -> dict[str, TokenizerParams]:
    """Return the parameters of the four."""
    return PARAMS
