"""The format of a trained model: it comes back exactly, and what does not fit is refused."""

import json
from pathlib import Path

import pytest
import torch

from cordel.checkpoints import ModelConfig, load_model, save_model
from cordel.models import build_model, describe, parse_architecture
from cordel.runtime.errors import ArtifactError, ParamsError

SHAPES = {
    "rnn": {
        "cell": "lstm",
        "d_embedding": 4,
        "d_model": 6,
        "n_layer": 2,
        "layer_norm": True,
        "input_dropout": 0.1,
        "output_dropout": 0.1,
    },
    "gpt": {"d_model": 8, "n_layer": 2, "n_head": 2, "d_ff": 12, "dropout": 0.1},
    "llama": {
        "d_model": 8,
        "n_layer": 2,
        "n_head": 2,
        "d_ff": 12,
        "tied": True,
        "rope_theta": 10000.0,
        "norm_epsilon": 1e-5,
        "init_sd": 0.02,
    },
}
IDS = torch.tensor([[1, 5, 2, 9, 0]])


def saved(folder: Path, architecture: str) -> torch.Tensor:
    """Save a small model as ``folder`` and return its logits on ``IDS``."""
    params = parse_architecture(architecture, SHAPES[architecture], "test")
    torch.manual_seed(1)
    model = build_model(architecture, params, vocab_size=11, context_length=8).eval()
    config = ModelConfig(
        run="v0",
        architecture=architecture,
        model=describe(params),
        vocab_size=11,
        context_length=8,
        parameters=1,
        tokenizer_sha256="0" * 64,
        step=3,
        val_bits_per_byte=2.5,
    )
    save_model(folder, model.state_dict(), config)
    return model(IDS)[0]


def edit_config(folder: Path, change: dict) -> None:
    """Overwrite keys of config.json; None deletes one."""
    values = json.loads((folder / "config.json").read_text()) | change
    values = {key: value for key, value in values.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(values))


@pytest.mark.parametrize("architecture", sorted(SHAPES))
def test_a_model_comes_back_with_the_same_logits_and_without_dropout(
    tmp_path: Path, architecture: str
) -> None:
    logits = saved(tmp_path, architecture)
    model, config = load_model(tmp_path)
    assert torch.equal(model(IDS)[0], logits)
    assert (config.run, config.step, config.val_bits_per_byte) == ("v0", 3, 2.5)


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    saved(tmp_path, "gpt")
    before = (tmp_path / "model.safetensors").read_bytes()
    saved(tmp_path, "gpt")
    assert (tmp_path / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "name"), [({"flavour": 1}, "flavour"), ({"step": None}, "'step'")]
)
def test_a_configuration_with_other_keys_is_refused(
    tmp_path: Path, change: dict, name: str
) -> None:
    saved(tmp_path, "gpt")
    edit_config(tmp_path, change)
    with pytest.raises(ArtifactError, match=rf"config\.json: .*{name}.*; rerun train_lm"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "mamba"}, r"config\.json: architecture is 'mamba'"),
        ({"model": {"d_model": 8}}, r"config\.json\.model: missing key 'd_ff'"),
    ],
)
def test_an_architecture_that_does_not_exist_is_refused(
    tmp_path: Path, change: dict, message: str
) -> None:
    saved(tmp_path, "gpt")
    edit_config(tmp_path, change)
    with pytest.raises(ParamsError, match=message):
        load_model(tmp_path)


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    saved(tmp_path, "gpt")
    edit_config(tmp_path, {"vocab_size": 12})
    with pytest.raises(ArtifactError, match=r"not the weights of v0 .*\[11, 8\].*\[12, 8\]"):
        load_model(tmp_path)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    saved(tmp_path, "gpt")
    weights = (tmp_path / "model.safetensors").read_bytes()
    saved(tmp_path, "llama")
    (tmp_path / "model.safetensors").write_bytes(weights)
    with pytest.raises(ArtifactError, match=r"not the weights of v0 .*embed_tokens"):
        load_model(tmp_path)


@pytest.mark.parametrize("size", [0, 100, None])
def test_cut_or_missing_weights_are_refused(tmp_path: Path, size: int | None) -> None:
    saved(tmp_path, "gpt")
    path = tmp_path / "model.safetensors"
    content = path.read_bytes()
    path.unlink()
    if size is not None:
        path.write_bytes(content[:size])
    with pytest.raises(ArtifactError, match=r"model\.safetensors: not the weights of v0"):
        load_model(tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"config\.json: no such file"):
        load_model(tmp_path)
