"""The format of a trained model: ``model.safetensors`` plus ``config.json`` in one folder.

A contract between ``train_lm`` (writer) and the stages that score, sample and export (readers).
No pickle: a checkpoint from anywhere can be opened without running code.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from cordel.models import build_model, parse_architecture
from cordel.runtime.errors import ArtifactError, EnvironmentProblem
from cordel.runtime.files import read_json, write_json


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Everything but the weights."""

    run: str
    architecture: str
    model: dict[str, Any]
    vocab_size: int
    context_length: int
    parameters: int
    tokenizer_sha256: str
    step: int  # the optimiser step whose weights these are: the best on val
    val_bits_per_byte: float


def save_model(folder: Path, weights: dict[str, torch.Tensor], config: ModelConfig) -> None:
    """Write the two files into ``folder``."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    try:
        save_file(tensors, folder / "model.safetensors")
    except SafetensorError as error:
        raise EnvironmentProblem(
            f"{folder / 'model.safetensors'}: cannot be written ({error}); free some disk space"
        ) from None
    write_json(folder / "config.json", asdict(config))


def load_model(folder: Path) -> tuple[Any, ModelConfig]:
    """Return the model in evaluation mode, on the CPU, and its configuration.

    Raises:
        ArtifactError: A file is missing, broken, or does not fit the other.
    """
    values = read_json(folder / "config.json")
    try:
        config = ModelConfig(**values)
    except TypeError as error:
        raise ArtifactError(f"{folder / 'config.json'}: {error}; rerun train_lm") from None
    params = parse_architecture(config.architecture, config.model, str(folder / "config.json"))
    model: nn.Module = build_model(
        config.architecture,
        params,
        vocab_size=config.vocab_size,
        context_length=config.context_length,
    )
    path = folder / "model.safetensors"
    try:
        model.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        message = " ".join(str(error).split())[:600]
        raise ArtifactError(
            f"{path}: not the weights of {config.run} ({message}); rerun train_lm"
        ) from None
    return model.eval(), config
