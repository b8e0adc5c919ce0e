"""Load the base in NF4 with double quantisation, and adapters on top of it (Dettmers et al. 2023).

The same code on CPU and CUDA; products are computed in float32 on the one and bfloat16 on the other
(``compute.py``). Nothing but the linear layers of the decoder is quantised, and nothing is upcast:
embeddings in float32 would cost an 8B model 2.1 GB and change no result that is supervised.

On a CPU, packed blocks are attended to segment by segment (``attend_segments``).
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.nn.modules import Linear4bit, Params4bit
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors import safe_open
from torch import Tensor
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    GenerationConfig,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.utils.logging import disable_progress_bar

from cordel.adaptation.hub import fetch
from cordel.compute import Compute
from cordel.runtime.errors import ArtifactError, InputError
from cordel.runtime.files import read_json, reading, write_json
from cordel.runtime.params import require

IDENTITY = "adaptation.json"  # in an adapter's folder: which base it belongs to
SEGMENTS = "sdpa_segments"  # our attention's name in transformers


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraParams:
    """The section ``lora`` of params.yaml (Hu et al. 2021)."""

    rank: int
    alpha: int  # the update is scaled by alpha / rank
    dropout: float
    targets: tuple[str, ...]  # names of linear layers

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(self.rank > 0, f"rank is {self.rank}, expected at least 1")
        require(self.alpha > 0, f"alpha is {self.alpha}, expected at least 1")
        require(0 <= self.dropout < 1, f"dropout is {self.dropout}, expected 0 <= x < 1")
        require(len(self.targets) > 0, "targets is empty, expected names of linear layers")


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseModel:
    """What ``open_base`` found out, as far as the weights are concerned."""

    source: str
    model: str  # a folder, or a name on the hub
    revision: str | None
    weights: str  # SHA-256 of the files, or the commit
    vocab_size: int
    max_length: int


def read_base(folder: Path) -> BaseModel | None:
    """Return the base that ``folder`` describes, or None where none is configured."""
    values = read_json(folder / "base.json")
    if values["source"] == "none":
        return None
    return BaseModel(**{name: values[name] for name in BaseModel.__slots__})


def attend_segments(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    segment_lengths: list[int] | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers' "sdpa" does, but to each segment of packed blocks by itself.

    A dense mask hides the ids of other pieces and those that come later, but a CPU computes them
    all the same: 85 % of the scores of the benchmark's conversations in blocks of 512, and more of
    longer blocks. One by one, a segment needs no mask, and the kernel leaves out what comes later.
    A pass over them takes 2.9 CPU seconds instead of 3.4, which is 3.0 times the supervised tokens
    of padding to the longest of 8, not 2.7 (2026-11-23, two shared AVX2 cores, benchmarks/sft.py).

    Without lengths (generation, windows that are scored) it is "sdpa" itself.

    Args:
        module: The attention of a layer.
        query: ``float[B, H, T, D]``.
        key: As the query, of as many heads or fewer.
        value: As the key.
        attention_mask: Not looked at where there are lengths, which say the same.
        segment_lengths: Of all segments, row by row (``packing.collate``).
        options: What else "sdpa" gets: scale, dropout and what it refuses (a soft cap).

    Returns:
        The output, ``float[B, T, H, D]``, and no weights.
    """
    if segment_lengths is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    row = [  # all blocks in one, float[1, H, B * T, D]
        states.transpose(1, 2).flatten(0, 1).transpose(0, 1)[None] for states in (query, key, value)
    ]
    segments = zip(*(states.split(segment_lengths, dim=2) for states in row), strict=True)
    outputs = [sdpa_attention_forward(module, q, k, v, None, **options)[0] for q, k, v in segments]
    return torch.cat(outputs, dim=1)[0].unflatten(0, (query.shape[0], -1)), None


AttentionInterface.register(SEGMENTS, attend_segments)
# Without this, transformers would drop the mask of a padded prompt in silence.
AttentionMaskInterface.register(SEGMENTS, sdpa_mask)


def load_base(base: BaseModel, compute: Compute, *, quantise: bool = True) -> Any:
    """Return the frozen base in evaluation mode, in NF4 unless told otherwise.

    Raises:
        ArtifactError: Its folder is gone or cannot be read.
    """
    dtype = torch.bfloat16 if compute.dtype == "bfloat16" else torch.float32
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    disable_progress_bar()  # of the layers; a download still shows its own
    folder = Path(base.model) if base.revision is None else fetch(base.model, base.revision)
    if not folder.is_dir():  # or transformers would look for it on the hub
        raise ArtifactError(f"{folder}: the base is gone; restore it, or rerun open_base")
    auto: Any = AutoModelForCausalLM  # its annotation forgets output_loading_info
    with reading(folder, maker="open_base"):
        model, loaded = auto.from_pretrained(
            folder,
            output_loading_info=True,
            quantization_config=nf4 if quantise else None,
            dtype=dtype,
            device_map={"": compute.device},
            attn_implementation="sdpa",
            use_safetensors=True,
            trust_remote_code=False,
        )
    if missing := sorted(loaded["missing_keys"]):  # transformers would go on with random weights
        raise ArtifactError(f"{folder}: the weights lack {missing[0]}, so they are another model's")
    model.generation_config = GenerationConfig()  # its own habits (penalties, sampling) stay out
    for layer in linear4bit_layers(model):
        # On CPUs that have AVX512-BF16, bitsandbytes would repack the weights at the first product
        # in evaluation mode and compute in bfloat16 from then on: other numbers than in training.
        layer.support_avx512bf16_for_cpu = False
    if compute.device == "cpu" and model.is_backend_compatible():  # its layers hand lengths on
        model.set_attn_implementation(SEGMENTS)
    model.requires_grad_(False)
    return model.eval()


def new_adapter(model: Any, params: LoraParams) -> PeftModel:
    """Return the model with a trainable LoRA adapter, which changes nothing yet (B is zero).

    Raises:
        InputError: No layer has one of the names.
    """
    layers = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    if unknown := sorted(set(params.targets) - layers):
        raise InputError(f"lora.targets names {', '.join(unknown)}, which this model does not have")
    shared = {"embed_tokens", "lm_head"} & set(params.targets)
    if shared and model.config.get_text_config().tie_word_embeddings:
        raise InputError(
            f"lora.targets names {' and '.join(sorted(shared))}, which are one matrix in this "
            "model (tie_word_embeddings) and could not be merged; take them out"
        )
    config = LoraConfig(
        r=params.rank,
        lora_alpha=params.alpha,
        lora_dropout=params.dropout,
        target_modules=list(params.targets),
        bias="none",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)  # pyright: ignore[reportReturnType]


def load_adapters(model: Any, folders: dict[str, Path], base: BaseModel) -> PeftModel:
    """Return the model with the adapters of ``folders`` loaded under their names, none trainable.

    Raises:
        ArtifactError: An adapter is missing, or was trained on another base.
    """
    (first, path), *rest = folders.items()
    for folder in folders.values():
        check_identity(folder, base)
    adapted = _with_adapter(model, path, adapter_name=first)
    for name, folder in rest:
        with reading(folder):
            adapted.load_adapter(folder, adapter_name=name)
        _check_weights(adapted, folder, name)
    return adapted.eval()


def trainable_copy(model: Any, folder: Path, base: BaseModel) -> PeftModel:
    """Return the model with a copy of the adapter of ``folder``, to be trained further."""
    check_identity(folder, base)
    return _with_adapter(model, folder, is_trainable=True)


def _with_adapter(model: Any, folder: Path, adapter_name: str = "default", **how: Any) -> PeftModel:
    with reading(folder):
        adapted = PeftModel.from_pretrained(model, folder, adapter_name=adapter_name, **how)
    _check_weights(adapted, folder, adapter_name)
    return adapted


def _check_weights(model: PeftModel, folder: Path, name: str) -> None:
    """Refuse a file with other matrices: peft warns, and goes on with an adapter that does nothing.

    Raises:
        ArtifactError: It has others.
    """
    path = folder / "adapter_model.safetensors"
    with reading(path), safe_open(path, framework="pt") as file:
        found = set(file.keys())
    expected = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    if other := sorted(found ^ expected.keys()):
        raise ArtifactError(f"{path}: not the weights of this adapter ({other[0]}); run dvc repro")


@contextmanager
def arm(model: Any, name: str | None) -> Iterator[Any]:
    """Switch to the adapter ``name``, or to the base alone (None), inside the block."""
    if name is not None:
        model.set_adapter(name)
        yield model
    elif isinstance(model, PeftModel):
        with model.disable_adapter():
            yield model
    else:
        yield model


def save_adapter(model: PeftModel, out: Path, base: BaseModel) -> None:
    """Write the adapter as Hugging Face reads it, with the same bytes for the same weights."""
    model.save_pretrained(str(out), save_embedding_layers=False)
    (out / "README.md").unlink(missing_ok=True)  # peft's empty card
    config = json.loads((out / "adapter_config.json").read_text(encoding="utf-8"))
    config["target_modules"] = sorted(config["target_modules"])  # a set, in any order
    config |= {"base_model_name_or_path": base.model, "revision": base.revision}
    write_json(out / "adapter_config.json", config)
    write_json(out / IDENTITY, {"base": base.model, "weights": base.weights})


def adapter_in(folder: Path) -> Path | None:
    """Return ``folder`` if it holds an adapter, None if it holds a base (``open_base``).

    Raises:
        ArtifactError: It holds neither.
    """
    if (folder / IDENTITY).exists():
        return folder
    if (folder / "base.json").exists():
        return None
    raise ArtifactError(f"{folder}: neither an adapter nor a base; rerun the stage that makes it")


def base_of(folder: Path) -> str:
    """Return what identifies the weights that the adapter in ``folder`` was trained on."""
    return str(read_json(folder / IDENTITY)["weights"])


def check_identity(folder: Path, base: BaseModel) -> None:
    """Refuse an adapter that was trained on another base.

    Raises:
        ArtifactError: It was, or the folder holds none.
    """
    weights = base_of(folder)
    if weights != base.weights:
        raise ArtifactError(
            f"{folder}: this adapter belongs to other weights ({weights[:12]}) than those of "
            f"{base.model} ({base.weights[:12]}); run dvc repro"
        )


def linear4bit_layers(model: Any) -> list[Any]:
    """Return the layers that are really quantised."""
    return [module for module in model.modules() if isinstance(module, Linear4bit)]


def count_parameters(model: Any, adapter: str | None) -> int:
    """Return the parameters of the base and of one of its adapters."""
    count = 0
    for name, parameter in model.named_parameters():
        if "lora_" not in name:  # a byte of NF4 holds two
            count += parameter.numel() * (2 if isinstance(parameter, Params4bit) else 1)
        elif adapter in name.split("."):
            count += parameter.numel()
    return count


def trainable_parameters(model: Any) -> int:
    """Return how many parameters have a gradient."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def hidden_states(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Return the decoder's output ``float[B, T, D]`` for a batch of ``packing.collate``.

    The cache stays off: with one, transformers would ignore where the pieces of a block end.

    Raises:
        InputError: A piece is longer than the model's sliding window, of which neither the mask
            nor the lengths of the batch know.
    """
    causal: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    config = causal.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    if window is not None and (longest := int(batch["position_ids"].max()) + 1) > window:
        raise InputError(
            f"a piece of {longest} ids does not fit the sliding window of this base; use a "
            f"block_length of at most {window}"
        )
    segments = {}
    if config._attn_implementation == SEGMENTS:
        segments["segment_lengths"] = batch["lengths"].tolist()
    return causal.get_decoder()(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        attention_mask=batch["attention_mask"],
        use_cache=False,
        **segments,
    ).last_hidden_state


def head_of(model: Any) -> Any:
    """Return the layer that makes logits of hidden states."""
    causal: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    return causal.get_output_embeddings()
