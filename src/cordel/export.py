"""A trained Llama as a Hugging Face folder: weights, configuration, tokenizer.

The layout is transformers' own (see ``cordel.models.llama``), so the export renames nothing.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from cordel.checkpoints import ModelConfig
from cordel.runtime.errors import ArtifactError
from cordel.runtime.files import read_json, write_json
from cordel.tokens import read_meta

PROBE_TOKENS = 64


def export_folder(model: Any, config: ModelConfig, tokens: Path, out: Path) -> None:
    """Fill ``out`` with config.json, model.safetensors and the tokenizer's files.

    Raises:
        ArtifactError: The architecture has no Hugging Face layout, or the tokenizer is another's.
    """
    if config.architecture != "llama":
        raise ArtifactError(
            f"{config.run} is a {config.architecture}; only the llama layout exports there"
        )
    meta = read_meta(tokens)
    if meta.tokenizer_sha256 != config.tokenizer_sha256:
        raise ArtifactError(f"{tokens}: not the tokenizer of {config.run}; run dvc repro")
    shape = config.model
    pad, (begin,), (end,) = 0, meta.begin, meta.end
    value = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": shape["d_model"],
        "intermediate_size": shape["d_ff"],
        "num_hidden_layers": shape["n_layer"],
        "num_attention_heads": shape["n_head"],
        "num_key_value_heads": shape["n_head"],
        "hidden_act": "silu",
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": shape["norm_epsilon"],
        "rope_parameters": {"rope_type": "default", "rope_theta": shape["rope_theta"]},
        "tie_word_embeddings": shape["tied"],
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": begin,
        "eos_token_id": end,
        "pad_token_id": pad,
        "dtype": "float32",
    }
    write_json(out / "config.json", value)
    ids = {"bos_token_id": begin, "eos_token_id": end, "pad_token_id": pad}
    write_json(out / "generation_config.json", ids)
    save_file(dict(model.state_dict()), out / "model.safetensors", metadata={"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model"):
        shutil.copyfile(tokens / "tokenizer" / name, out / name)
    settings = read_json(out / "tokenizer_config.json")
    write_json(
        out / "tokenizer_config.json", settings | {"model_max_length": config.context_length}
    )


@torch.no_grad()
def largest_difference(model: Any, config: ModelConfig, folder: Path) -> float:
    """Return max |logit difference| between ``model`` and what transformers loads."""
    from transformers import AutoModelForCausalLM  # noqa: PLC0415  (several CPU seconds)

    loaded = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    length = min(PROBE_TOKENS, config.context_length)
    ids = np.random.default_rng(0).integers(config.vocab_size, size=(2, length))
    probe = torch.from_numpy(ids)
    return (loaded(probe).logits - model(probe)[0]).abs().max().item()
