"""A Llama as a Hugging Face folder; the whole way through transformers is in tests/stages."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cordel.checkpoints import ModelConfig
from cordel.export import export_folder, largest_difference
from cordel.models import build_model, parse_architecture
from cordel.runtime.errors import ArtifactError
from cordel.tokens import TokensMeta, write_meta

SHAPE = {
    "d_model": 8,
    "n_layer": 2,
    "n_head": 2,
    "d_ff": 12,
    "tied": False,
    "rope_theta": 5000.0,
    "norm_epsilon": 1e-6,
    "init_sd": 0.2,
}
CONFIG = ModelConfig(
    run="v9",
    architecture="llama",
    model=SHAPE,
    vocab_size=11,
    context_length=16,
    parameters=1,
    tokenizer_sha256="a" * 64,
    step=3,
    val_bits_per_byte=2.5,
)
META = TokensMeta(
    vocab_size=11,
    tokenizer="tiny",
    tokenizer_sha256="a" * 64,
    recipe="lossless",
    normalisation={},
    begin=[2],
    end=[3],
    context=[2],
    splits={},
)


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """Compute on one core."""


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    """Return a folder of tokens; the export copies the tokenizer's files and reads only one."""
    folder = tmp_path / "tokens"
    (folder / "tokenizer").mkdir(parents=True)
    write_meta(folder, META)
    for name in ("tokenizer.json", "tokenizer.model"):
        (folder / "tokenizer" / name).write_text(name)
    settings = {"unk_token": "<|unk|>", "model_max_length": 999}
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Return an empty folder."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def model(**changes: Any) -> tuple[Any, ModelConfig]:
    """Return a small Llama and its configuration."""
    config = replace(CONFIG, model=SHAPE | changes)
    torch.manual_seed(0)
    params = parse_architecture("llama", config.model, "test")
    return build_model("llama", params, vocab_size=11, context_length=16).eval(), config


def test_the_folder_holds_the_six_files(tokens: Path, out: Path) -> None:
    export_folder(*model(), tokens, out)
    names = ["config", "generation_config", "model", "tokenizer", "tokenizer", "tokenizer_config"]
    assert sorted(path.stem for path in out.iterdir()) == names


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("hidden_size", 8),
        ("intermediate_size", 12),
        ("num_hidden_layers", 2),
        ("num_attention_heads", 2),
        ("num_key_value_heads", 2),
        ("max_position_embeddings", 16),
        ("rms_norm_eps", 1e-6),
        ("vocab_size", 11),
        ("rope_parameters", {"rope_type": "default", "rope_theta": 5000.0}),
        ("tie_word_embeddings", False),
        ("pad_token_id", 0),
        ("bos_token_id", 2),
        ("eos_token_id", 3),
    ],
)
def test_the_configuration_says_what_the_model_is(
    tokens: Path, out: Path, key: str, expected: object
) -> None:
    export_folder(*model(), tokens, out)
    assert json.loads((out / "config.json").read_text())[key] == expected


def test_generation_ends_with_the_end_of_a_document(tokens: Path, out: Path) -> None:
    export_folder(*model(), tokens, out)
    ids = json.loads((out / "generation_config.json").read_text())
    assert ids == {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}


def test_weights_keep_their_names_and_values(tokens: Path, out: Path) -> None:
    llama, config = model()
    export_folder(llama, config, tokens, out)
    found, expected = load_file(out / "model.safetensors"), llama.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_tokenizer_gets_the_context_of_the_model(tokens: Path, out: Path) -> None:
    export_folder(*model(), tokens, out)
    settings = json.loads((out / "tokenizer_config.json").read_text())
    assert settings == {"unk_token": "<|unk|>", "model_max_length": 16}
    assert (out / "tokenizer.model").read_text() == "tokenizer.model"


def test_another_architecture_has_no_such_layout(tokens: Path, out: Path) -> None:
    config = replace(CONFIG, run="v5_main", architecture="gpt")
    with pytest.raises(ArtifactError, match=r"v5_main is a gpt; only the llama layout exports"):
        export_folder(None, config, tokens, out)
    assert not list(out.iterdir())


def test_tokens_of_another_tokenizer_are_refused(tokens: Path, out: Path) -> None:
    llama, config = model()
    other = replace(config, tokenizer_sha256="b" * 64)
    with pytest.raises(ArtifactError, match=r"tokens: not the tokenizer of v9; run dvc repro"):
        export_folder(llama, other, tokens, out)


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_transformers_computes_the_same_logits(tokens: Path, out: Path, tied: bool) -> None:
    llama, config = model(tied=tied)
    export_folder(llama, config, tokens, out)
    assert largest_difference(llama, config, out) < 1e-5


@pytest.mark.slow
def test_other_weights_show_as_a_difference(tokens: Path, out: Path) -> None:
    llama, config = model()
    export_folder(llama, config, tokens, out)
    llama.lm_head.weight.data[0] += 1
    assert largest_difference(llama, config, out) > 0.01
