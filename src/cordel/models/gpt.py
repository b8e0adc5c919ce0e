"""v5 and v6: the thesis' decoder-only Transformer (thesis section 3.2).

Pre-LayerNorm blocks, learned absolute positions, biases everywhere, exact GELU, output tied to the
token embedding with a separate vocabulary bias. The initialisation is Keras' (uniform embedding,
glorot kernels, zero biases).

Shapes: B batch, T time, D width, H heads, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cordel.runtime.params import require

EPSILON = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """The shape of one Transformer."""

    d_model: int
    n_layer: int
    n_head: int
    d_ff: int
    dropout: float

    def __post_init__(self) -> None:
        """Check ranges and the one combination that cannot be built."""
        for name in ("d_model", "n_layer", "n_head", "d_ff"):
            value = getattr(self, name)
            require(value > 0, f"{name} is {value}, expected at least 1")
        require(0 <= self.dropout < 1, f"dropout is {self.dropout}, expected 0 <= x < 1")
        require(
            self.d_model % self.n_head == 0,
            f"d_model {self.d_model} is not a multiple of n_head {self.n_head}",
        )


class Block(nn.Module):
    """Attention and feed-forward, each behind a LayerNorm and beside a residual."""

    def __init__(self, params: Params) -> None:
        """Build one block."""
        super().__init__()
        d_model = params.d_model
        self.n_head, self.dropout = params.n_head, params.dropout
        self.norm_attention = nn.LayerNorm(d_model, eps=EPSILON)
        self.q_proj = nn.Linear(d_model, d_model)
        self.k_proj = nn.Linear(d_model, d_model)
        self.v_proj = nn.Linear(d_model, d_model)
        self.o_proj = nn.Linear(d_model, d_model)
        self.norm_ff = nn.LayerNorm(d_model, eps=EPSILON)
        self.up_proj = nn.Linear(d_model, params.d_ff)
        self.down_proj = nn.Linear(params.d_ff, d_model)

    def forward(self, x_BTD: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """Return the block's output and its extended key-value cache (None without one)."""
        B, T, D = x_BTD.shape
        y_BTD = self.norm_attention(x_BTD)
        q_BHTK, k_BHTK, v_BHTK = (
            proj(y_BTD).view(B, T, self.n_head, D // self.n_head).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        past = 0
        if cache is not None:
            if len(cache):
                past = cache[0].shape[2]
                k_BHTK = torch.cat((cache[0], k_BHTK), dim=2)
                v_BHTK = torch.cat((cache[1], v_BHTK), dim=2)
            cache = (k_BHTK, v_BHTK)
        # With a past, the queries are the last T of past + T positions: the mask is shifted.
        mask = None
        if past:
            mask = torch.ones(T, past + T, dtype=torch.bool, device=x_BTD.device).tril(past)
        dropout = self.dropout if self.training else 0.0
        y_BHTK = F.scaled_dot_product_attention(
            q_BHTK, k_BHTK, v_BHTK, attn_mask=mask, is_causal=mask is None, dropout_p=dropout
        )
        y_BTD = self.o_proj(y_BHTK.transpose(1, 2).reshape(B, T, D))
        x_BTD = x_BTD + F.dropout(y_BTD, self.dropout, self.training)
        y_BTD = F.gelu(self.up_proj(self.norm_ff(x_BTD)))
        return x_BTD + self.down_proj(F.dropout(y_BTD, self.dropout, self.training)), cache


def _initialise_attention(block: nn.Module, params: Params) -> None:
    """Draw the projections as Keras' MultiHeadAttention does.

    Its kernels have three axes, (D, H, K) and (H, K, D), and glorot reads all axes but the last two
    as a receptive field: the bound is sqrt(6 / (D (H + K))) and sqrt(6 / (H (K + D))).
    """
    D, H = params.d_model, params.n_head
    K = D // H
    for name, fans in (
        ("q", D * (H + K)),
        ("k", D * (H + K)),
        ("v", D * (H + K)),
        ("o", H * (K + D)),
    ):
        bound = (6 / fans) ** 0.5
        nn.init.uniform_(block.get_parameter(f"{name}_proj.weight"), -bound, bound)


class Model(nn.Module):
    """The thesis' Transformer language model."""

    carries_state = False

    def __init__(self, params: Params, *, vocab_size: int, context_length: int) -> None:
        """Build and initialise the layers; ``context_length`` is the table of positions."""
        super().__init__()
        self.context_length = context_length
        self.dropout = params.dropout
        self.tokens = nn.Embedding(vocab_size, params.d_model)
        self.positions = nn.Embedding(context_length, params.d_model)
        self.blocks = nn.ModuleList(Block(params) for _ in range(params.n_layer))
        self.norm = nn.LayerNorm(params.d_model, eps=EPSILON)
        self.vocab_bias = nn.Parameter(torch.zeros(vocab_size))
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.uniform_(module.weight, -0.05, 0.05)
            elif isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for block in self.blocks:
            _initialise_attention(block, params)

    def initial_state(self) -> list[Any]:
        """Return an empty key-value cache per block."""
        return [()] * len(self.blocks)

    @property
    def head(self) -> tuple[Tensor, Tensor]:
        """Return the output's matrix, which is the embedding's, and its bias."""
        return self.tokens.weight, self.vocab_bias

    def features(self, ids_BT: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Return the head's input ``float[B, T, D]`` and, if a cache was given, the longer one."""
        past = state[0][0].shape[2] if state and len(state[0]) else 0
        positions_T = torch.arange(past, past + ids_BT.shape[1], device=ids_BT.device)
        x_BTD = self.tokens(ids_BT) + self.positions(positions_T)
        x_BTD = F.dropout(x_BTD, self.dropout, self.training)
        after = []
        for block, cache in zip(self.blocks, state or [None] * len(self.blocks), strict=True):
            x_BTD, cache = block(x_BTD, cache)  # noqa: PLW2901
            after.append(cache)
        return self.norm(x_BTD), after if state is not None else None

    def forward(self, ids_BT: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Return ``float[B, T, V]`` logits and what ``features`` returns beside."""
        x_BTD, after = self.features(ids_BT, state)
        return F.linear(x_BTD, *self.head), after
