"""Fetch a model of the Hugging Face hub: its configuration, tokenizer and safetensors only."""

from pathlib import Path

from huggingface_hub import snapshot_download

FILES = ("*.json", "*.safetensors", "*.jinja", "tokenizer.model")
UNUSED = ("original/*",)  # Meta's own copy of Llama's weights, as large again


def fetch(model: str, revision: str) -> Path:
    """Return the folder of the model at a commit, downloaded at most once."""
    folder = snapshot_download(
        model, revision=revision, allow_patterns=list(FILES), ignore_patterns=list(UNUSED)
    )
    return Path(folder)
