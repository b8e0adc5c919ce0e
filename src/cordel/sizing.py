"""Parameters, memory and arithmetic of models, from their shapes alone.

Bytes and FLOPs are exact integers where the formula is; GB is 10^9 bytes, as in the thesis.

Sources: Kaplan et al. 2020, section 2.1 (arXiv:2001.08361) for 6 N D; Hu et al. 2021
(arXiv:2106.09685) for LoRA; Dettmers et al. 2023 (arXiv:2305.14314) for NF4 and its double
quantisation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cordel.runtime.errors import ParamsError
from cordel.runtime.params import require

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
GATES = {"lstm": 4, "gru": 3}
CUDA_CONTEXT_BYTES = 1_200_000_000  # context, library workspaces and fragmentation: 1.0 to 1.5 GB
LOGIT_BYTES = 2 + 4 + 4 + 4  # bf16 logits; in fp32 logits, log-softmax and gradient


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A decoder in the Llama layout."""

    vocab_size: int
    d_model: int
    n_layer: int
    n_head: int
    n_kv_head: int
    d_ff: int
    tied: bool  # output matrix = embedding

    def __post_init__(self) -> None:
        """Check ranges and the combinations that cannot be built."""
        for name in ("vocab_size", "d_model", "n_layer", "n_head", "n_kv_head", "d_ff"):
            value = getattr(self, name)
            require(value > 0, f"{name} is {value}, expected at least 1")
        require(
            self.d_model % self.n_head == 0,
            f"d_model {self.d_model} is not a multiple of n_head {self.n_head}",
        )
        require(
            self.n_head % self.n_kv_head == 0,
            f"n_head {self.n_head} is not a multiple of n_kv_head {self.n_kv_head}",
        )

    @property
    def d_kv(self) -> int:
        """Width of the keys, and of the values."""
        return self.d_model // self.n_head * self.n_kv_head

    def projections(self) -> dict[str, tuple[int, int]]:
        """Return (inputs, outputs) of each matrix of a layer."""
        d, kv, ff = self.d_model, self.d_kv, self.d_ff
        widths = ((d, d), (d, kv), (d, kv), (d, d), (d, ff), (d, ff), (ff, d))
        return dict(zip(PROJECTIONS, widths, strict=True))


LLAMA_3_1_8B = Shape(
    vocab_size=128_256,
    d_model=4096,
    n_layer=32,
    n_head=32,
    n_kv_head=8,
    d_ff=14_336,
    tied=False,
)
LLAMA_3_1_70B = Shape(
    vocab_size=128_256,
    d_model=8192,
    n_layer=80,
    n_head=64,
    n_kv_head=8,
    d_ff=28_672,
    tied=False,
)


# --- Parameters -----------------------------------------------------------------------------------


def layer_linear_parameters(shape: Shape) -> int:
    """Return the numbers in the seven matrices of one layer."""
    return sum(inputs * outputs for inputs, outputs in shape.projections().values())


def embedding_parameters(shape: Shape) -> int:
    """Return the numbers in embedding and output matrix; one matrix if they are tied."""
    return shape.vocab_size * shape.d_model * (1 if shape.tied else 2)


def total_parameters(shape: Shape) -> int:
    """Return all trainable numbers: matrices, embeddings, and 2 L + 1 norms."""
    norms = (2 * shape.n_layer + 1) * shape.d_model
    return shape.n_layer * layer_linear_parameters(shape) + embedding_parameters(shape) + norms


def lora_matrix_parameters(inputs: int, outputs: int, rank: int) -> int:
    """Return r (d + k): the two thin matrices beside one of d x k (thesis, chapter on LoRA)."""
    return rank * (inputs + outputs)


def lora_parameters(shape: Shape, rank: int, targets: Sequence[str] = PROJECTIONS) -> int:
    """Return the numbers of a LoRA adapter on ``targets`` of every layer.

    The thesis says 16 million for Llama 3 8B at r = 64; on all seven matrices it is 167.8 million,
    and at its own r = 16 it is 41.9 million.

    Raises:
        ValueError: The rank is not positive or a target is not one of ``PROJECTIONS``.
    """
    require(rank > 0, f"rank is {rank}, expected at least 1")
    widths = shape.projections()
    for target in targets:
        require(target in widths, f"target is {target!r}, expected one of {', '.join(PROJECTIONS)}")
    return shape.n_layer * sum(lora_matrix_parameters(*widths[name], rank) for name in targets)


# --- Models from scratch --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What a model from scratch costs, whatever its architecture."""

    parameters: int  # trainable
    hidden: int  # numbers in the matrices that every token passes, output matrix excluded
    head: int  # in the output matrix
    attention: int  # FLOPs of attention of one token, forward, a position of context
    n_layer: int
    d_model: int

    def forward_flops(self, context_length: int) -> int:
        """Return 2 N + attention: the FLOPs of one token, forward (the backward takes twice)."""
        return 2 * (self.hidden + self.head) + self.attention * context_length


def sizes(
    architecture: str, model: Mapping[str, Any], *, vocab_size: int, context_length: int
) -> Sizes:
    """Return the sizes of a run of ``models`` in params.yaml.

    Raises:
        ParamsError: The architecture is unknown.
    """
    if architecture not in SIZES:
        known = ", ".join(SIZES)
        raise ParamsError(
            f"architecture is {architecture!r}, expected one of {known}; if it is yours, "
            "say in SIZES of src/cordel/sizing.py what it costs (docs/add-a-version.md)"
        )
    return SIZES[architecture](model, vocab_size, context_length)


def _rnn_sizes(model: Mapping[str, Any], vocab_size: int, _: int) -> Sizes:
    """Keras counts: one bias vector an LSTM gate, two a GRU gate (thesis section 3.1)."""
    d, n_layer, gates = model["d_model"], model["n_layer"], GATES[model["cell"]]
    biases = d * gates * (1 if model["cell"] == "lstm" else 2)
    norm = 2 * d if model["layer_norm"] else 0
    hidden = gates * d * (model["d_embedding"] + d + (n_layer - 1) * 2 * d)
    head = d * vocab_size
    return Sizes(
        parameters=vocab_size * (model["d_embedding"] + 1)
        + hidden
        + head
        + n_layer * (biases + norm),
        hidden=hidden,
        head=head,
        attention=0,
        n_layer=n_layer,
        d_model=d,
    )


def _gpt_sizes(model: Mapping[str, Any], vocab_size: int, context_length: int) -> Sizes:
    """Tied output with its own bias, learned positions, biases everywhere (section 3.2)."""
    d, n_layer, d_ff = model["d_model"], model["n_layer"], model["d_ff"]
    hidden = n_layer * (4 * d * d + 2 * d * d_ff)
    layer_vectors = 4 * d + (d_ff + d) + 4 * d  # biases of attention and feed-forward, two norms
    head = d * vocab_size
    return Sizes(
        parameters=head
        + vocab_size
        + context_length * d
        + hidden
        + n_layer * layer_vectors
        + 2 * d,
        hidden=hidden,
        head=head,
        attention=2 * n_layer * d,
        n_layer=n_layer,
        d_model=d,
    )


def _llama_sizes(model: Mapping[str, Any], vocab_size: int, _: int) -> Sizes:
    shape = Shape(
        vocab_size=vocab_size,
        d_model=model["d_model"],
        n_layer=model["n_layer"],
        n_head=model["n_head"],
        n_kv_head=model["n_head"],
        d_ff=model["d_ff"],
        tied=model["tied"],
    )
    return Sizes(
        parameters=total_parameters(shape),
        hidden=shape.n_layer * layer_linear_parameters(shape),
        head=shape.vocab_size * shape.d_model,
        # Scores and weighted values take 4 T d FLOPs a layer, of which causal masks leave half.
        attention=2 * shape.n_layer * shape.d_model,
        n_layer=shape.n_layer,
        d_model=shape.d_model,
    )


SIZES = {"gpt": _gpt_sizes, "llama": _llama_sizes, "rnn": _rnn_sizes}  # by architecture


# --- FLOPs ----------------------------------------------------------------------------------------


def training_flops(parameters: int, tokens: int) -> int:
    """Return C = 6 N D: 2 N D forward, 4 N D backward (thesis, chapter on scaling laws)."""
    return 6 * parameters * tokens


def qlora_flops_per_token(shape: Shape, *, checkpointing: bool) -> int:
    """Return the FLOPs of one token of QLoRA: 6 N with recomputation, 4 N without.

    N counts the layers' matrices and the output matrix. Forward, recomputation and the gradient
    of the activations take 2 N each; a frozen matrix has no gradient of its own. Attention and the
    adapter (0.6 % of N at r = 16) are left out.
    """
    matrices = shape.n_layer * layer_linear_parameters(shape) + shape.vocab_size * shape.d_model
    return (6 if checkpointing else 4) * matrices


# --- Memory ---------------------------------------------------------------------------------------


def full_training_bytes(parameters: int) -> int:
    """Return 16 bytes a parameter: fp32 weight, gradient and AdamW's two moments.

    7 billion parameters take 112 GB (thesis, analysis of GPU memory); activations come on top.
    """
    return 16 * parameters


def nf4_bits(*, block: int = 64, double_quantisation: bool = True, constants: int = 256) -> float:
    """Return the bits a parameter takes in NF4: 4, and its share of its block's constant.

    A constant is 32 bits (4.5 bits a parameter in all); quantised itself it is 8 bits, with one of
    32 bits for each ``constants`` of them: 4 + 8/64 + 32/(64 x 256) = 4.127.
    """
    if not double_quantisation:
        return 4 + 32 / block
    return 4 + 8 / block + 32 / (block * constants)


def nf4_bytes(parameters: int) -> int:
    """Return the bytes of ``parameters`` numbers in NF4 with double quantisation."""
    return round(parameters * nf4_bits() / 8)


def adapter_training_bytes(
    base_parameters: int,
    adapter_parameters: int,
    *,
    base_bytes: float,
    adapter_bytes: float = 16,
    overhead: int = 0,
) -> int:
    """Return the thesis' estimate of LoRA: frozen base, adapter in training, and an overhead.

    Its 16.3 GB are 8e9 x 2 bytes + 16e6 x 16 bytes (with 16 for the 167.8 million that r = 64 has:
    18.7 GB). Its 43.4 GB of a 70B model are 70e9 x 0.5 + 50e6 x 8 + 8e9 bytes: no quantisation
    constants (1.1 GB) and no optimizer states.

    Args:
        base_parameters: Of the frozen model.
        adapter_parameters: Trained.
        base_bytes: A frozen parameter: 2 in bf16, ``nf4_bits() / 8`` in NF4.
        adapter_bytes: A trained one: weight 4, gradient 4, AdamW 8.
        overhead: Activations and the rest.
    """
    return round(base_parameters * base_bytes + adapter_parameters * adapter_bytes) + overhead


def qlora_peak_bytes(
    shape: Shape,
    *,
    tokens: int,
    rank: int,
    head_chunk: int | None = None,
    upcast: bool = False,
) -> dict[str, int]:
    """Return what QLoRA training holds at its peak, part by part; their sum is the peak.

    AdamW in fp32, gradient checkpointing at every layer, compute in bf16. A model, not a
    measurement: 9 to 11 GB for Llama 3.1 8B at 2 x 2048 with a chunked head, 16 to 20 without.

    Args:
        shape: Of the base model.
        tokens: In a microbatch, padding included.
        rank: Of the adapter, on all seven matrices.
        head_chunk: Tokens whose logits exist at once; None: all of them.
        upcast: Whether embedding and head are held in fp32, as peft's preparation does.
    """
    widths = shape.projections()
    layer = _layer_activations(shape) + sum(inputs for inputs, _ in widths.values())
    largest = max(inputs * outputs for inputs, outputs in widths.values())
    logits = min(tokens, head_chunk or tokens) * shape.vocab_size
    return {
        "base": nf4_bytes(shape.n_layer * layer_linear_parameters(shape)),
        "embeddings": embedding_parameters(shape) * (4 if upcast else 2),
        "adapter": full_training_bytes(lora_parameters(shape, rank)),
        "checkpoints": shape.n_layer * tokens * shape.d_model * 2,
        # bf16: the layer's activations, the dropped-out inputs of LoRA, the gradients of gate and
        # up, and one matrix dequantised.
        "recompute": 2 * (tokens * (layer + 2 * shape.d_ff) + largest),
        "logits": LOGIT_BYTES * logits,
        "context": CUDA_CONTEXT_BYTES,
    }


def _layer_activations(shape: Shape) -> int:
    """Return the numbers a token leaves for the backward pass of one layer.

    Seven of width d (input, two norms, queries, attention, its projection, residual), keys and
    values, and four of the feed-forward (gate, up, silu, product).
    """
    return 7 * shape.d_model + 2 * shape.d_kv + 4 * shape.d_ff


def kv_cache_bytes(shape: Shape, tokens: int, *, bytes_per_value: int = 2) -> int:
    """Return the keys and values of ``tokens`` positions: 131 kB each for Llama 3.1 8B in bf16."""
    return 2 * shape.n_layer * shape.d_kv * tokens * bytes_per_value


# --- Disk -----------------------------------------------------------------------------------------


def adapter_disk_bytes(adapter_parameters: int) -> int:
    """Return the size of an adapter, saved in fp32."""
    return 4 * adapter_parameters


def checkpoint_disk_bytes(parameters: int) -> int:
    """Return the size of a checkpoint in progress: weights, best weights, AdamW's moments, fp32."""
    return 16 * parameters
