"""A tiny Llama with random weights as a base model: its folder, opened, and its chat format."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cordel.adaptation.chat import Chat, load_chat
from cordel.tokenizers.huggingface import write_huggingface
from cordel.tokenizers.params import TokenizerParams
from cordel.tokenizers.subword import learn_pieces

if TYPE_CHECKING:  # at run time in the fixtures: seconds, which not every test needs
    from cordel.adaptation.quantised import BaseModel
    from cordel.compute import Compute

TOKENIZER = TokenizerParams(  # as v7, the project's own export
    kind="unigram",
    recipe="lossless",
    max_documents=1000,
    vocab_size=420,  # 256 of them bytes
    character_coverage=0.9999,
    byte_fallback=True,
    seed_pieces=10_000,
    hard_limit=True,
    normalization="identity",
    dummy_prefix=False,
    keep_whitespace=True,
    required_characters="<|>_",
    control_symbols=("<|im_start|>", "<|im_end|>"),
    user_symbols=("\n",),
)
MAX_POSITIONS = 128


@pytest.fixture(scope="session")
def model_folder(prose: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Hugging Face folder as the project's own export writes it: no chat template."""
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415

    from cordel.compute import seed_everything  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("export") / "tiny"
    folder.mkdir()
    learn_pieces(prose, TOKENIZER, folder, section="tokenizers.tiny")
    write_huggingface(folder, context_length=MAX_POSITIONS)
    config = LlamaConfig(
        vocab_size=TOKENIZER.vocab_size,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_POSITIONS,
        initializer_range=0.2,  # ten times the usual: logits far enough apart to see a difference
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )
    seed_everything(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def base_folder(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what ``open_base`` writes of the tiny model."""
    from cordel.adaptation.base import BaseModelParams, HubModel, open_base  # noqa: PLC0415

    params = BaseModelParams(
        source="local",
        path=str(model_folder),
        hub=HubModel(model="nobody/nothing", revision="main"),
        max_length=0,
    )
    out = tmp_path_factory.mktemp("base")
    open_base(params, out, key="base_models.base")
    return out


@pytest.fixture(scope="session")
def base(base_folder: Path) -> "BaseModel":
    """Return the tiny base as the other stages know it."""
    from cordel.adaptation.quantised import read_base  # noqa: PLC0415

    found = read_base(base_folder)
    assert found is not None
    return found


@pytest.fixture(scope="session")
def chat(base_folder: Path) -> Chat:
    """Return the tiny base's tokenizer with its chat format."""
    return load_chat(base_folder)


@pytest.fixture(scope="session")
def cpu() -> "Compute":
    """Compute on one core, in float32."""
    from cordel.compute import ComputeParams, decide  # noqa: PLC0415

    return decide(ComputeParams(device="cpu", threads=1, compile=False))
