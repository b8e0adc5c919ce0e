"""v7: the Llama layout, so that Hugging Face, vLLM and llama.cpp load its weights unchanged.

RMSNorm, rotary positions, SwiGLU, no biases. Modules carry the names of transformers'
``LlamaForCausalLM``, whose ``state_dict`` this one's is. Sources: Touvron et al. 2023
(arXiv:2302.13971) for the layout, Su et al. 2021 (arXiv:2104.09864) for rotary positions.

Shapes: B batch, T time, D width, H heads, K head width, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cordel.runtime.params import require


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """The shape of one Llama."""

    d_model: int
    n_layer: int
    n_head: int
    d_ff: int
    tied: bool  # output matrix = embedding: fewer parameters, a little less quality (measured)
    rope_theta: float
    norm_epsilon: float
    init_sd: float

    def __post_init__(self) -> None:
        """Check ranges and the combinations that cannot be built."""
        for name in (
            "d_model",
            "n_layer",
            "n_head",
            "d_ff",
            "rope_theta",
            "norm_epsilon",
            "init_sd",
        ):
            value = getattr(self, name)
            require(value > 0, f"{name} is {value}, expected more than 0")
        require(
            self.d_model % self.n_head == 0 and self.d_model // self.n_head % 2 == 0,
            f"d_model {self.d_model} / n_head {self.n_head} is not an even head width",
        )


class RMSNorm(nn.Module):
    """Root-mean-square normalisation with a gain."""

    def __init__(self, width: int, epsilon: float) -> None:
        """Start with a gain of one."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` with unit mean square over its last axis, times the gain."""
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.epsilon))


def rotate(x_BHTK: Tensor, cos_TK: Tensor, sin_TK: Tensor) -> Tensor:
    """Apply rotary positions in Hugging Face's half-split order."""
    first, second = x_BHTK.chunk(2, dim=-1)
    return x_BHTK * cos_TK + torch.cat((-second, first), dim=-1) * sin_TK


class Attention(nn.Module):
    """Causal self-attention with rotary positions."""

    def __init__(self, params: Params) -> None:
        """Build the four projections."""
        super().__init__()
        self.n_head = params.n_head
        self.q_proj = nn.Linear(params.d_model, params.d_model, bias=False)
        self.k_proj = nn.Linear(params.d_model, params.d_model, bias=False)
        self.v_proj = nn.Linear(params.d_model, params.d_model, bias=False)
        self.o_proj = nn.Linear(params.d_model, params.d_model, bias=False)

    def forward(
        self, x_BTD: Tensor, rotary: tuple[Tensor, Tensor], cache: Any
    ) -> tuple[Tensor, Any]:
        """Return the attended values and the extended cache (None without one)."""
        B, T, D = x_BTD.shape
        q_BHTK, k_BHTK, v_BHTK = (
            proj(x_BTD).view(B, T, self.n_head, D // self.n_head).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        q_BHTK, k_BHTK = rotate(q_BHTK, *rotary), rotate(k_BHTK, *rotary)
        mask = None
        if cache is not None:
            if len(cache):
                past = cache[0].shape[2]
                k_BHTK = torch.cat((cache[0], k_BHTK), dim=2)
                v_BHTK = torch.cat((cache[1], v_BHTK), dim=2)
                mask = torch.ones(T, past + T, dtype=torch.bool, device=x_BTD.device).tril(past)
            cache = (k_BHTK, v_BHTK)
        y_BHTK = F.scaled_dot_product_attention(
            q_BHTK, k_BHTK, v_BHTK, attn_mask=mask, is_causal=mask is None
        )
        return self.o_proj(y_BHTK.transpose(1, 2).reshape(B, T, D)), cache


class MLP(nn.Module):
    """SwiGLU feed-forward."""

    def __init__(self, params: Params) -> None:
        """Build the three projections."""
        super().__init__()
        self.gate_proj = nn.Linear(params.d_model, params.d_ff, bias=False)
        self.up_proj = nn.Linear(params.d_model, params.d_ff, bias=False)
        self.down_proj = nn.Linear(params.d_ff, params.d_model, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return ``down(silu(gate(x)) * up(x))``."""
        return self.down_proj(F.silu(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))


class Block(nn.Module):
    """Attention and feed-forward, each behind an RMSNorm and beside a residual."""

    def __init__(self, params: Params) -> None:
        """Build one block."""
        super().__init__()
        self.input_layernorm = RMSNorm(params.d_model, params.norm_epsilon)
        self.self_attn = Attention(params)
        self.post_attention_layernorm = RMSNorm(params.d_model, params.norm_epsilon)
        self.mlp = MLP(params)

    def forward(
        self, x_BTD: Tensor, rotary: tuple[Tensor, Tensor], cache: Any
    ) -> tuple[Tensor, Any]:
        """Return the block's output and its extended cache."""
        y_BTD, cache = self.self_attn(self.input_layernorm(x_BTD), rotary, cache)
        x_BTD = x_BTD + y_BTD
        return x_BTD + self.mlp(self.post_attention_layernorm(x_BTD)), cache


class Decoder(nn.Module):
    """Everything below the output matrix, under the name that transformers gives it."""

    def __init__(self, params: Params, vocab_size: int) -> None:
        """Build embedding, blocks and the final norm."""
        super().__init__()
        self.embed_tokens = nn.Embedding(vocab_size, params.d_model)
        self.layers = nn.ModuleList(Block(params) for _ in range(params.n_layer))
        self.norm = RMSNorm(params.d_model, params.norm_epsilon)


class Model(nn.Module):
    """A Llama language model."""

    carries_state = False

    def __init__(self, params: Params, *, vocab_size: int, context_length: int) -> None:
        """Build and initialise the layers (normal, projections into the residual scaled down)."""
        super().__init__()
        self.params, self.context_length = params, context_length
        self.model = Decoder(params, vocab_size)
        self.lm_head = None if params.tied else nn.Linear(params.d_model, vocab_size, bias=False)
        residual_sd = params.init_sd / (2 * params.n_layer) ** 0.5
        for name, value in self.named_parameters():
            if value.dim() == 2:
                sd = residual_sd if name.endswith(("o_proj.weight", "down_proj.weight")) else None
                nn.init.normal_(value, std=sd or params.init_sd)

    def initial_state(self) -> list[Any]:
        """Return an empty key-value cache per block."""
        return [()] * len(self.model.layers)

    def _rotary(self, past: int, T: int, like: Tensor) -> tuple[Tensor, Tensor]:
        width = self.params.d_model // self.params.n_head
        powers = torch.arange(0, width, 2, device=like.device, dtype=torch.float32) / width
        positions_T = torch.arange(past, past + T, device=like.device, dtype=torch.float32)
        # Rounded as transformers rounds it: 1 / theta^p, not theta^-p.
        angles_TK = torch.outer(positions_T, 1 / self.params.rope_theta**powers).repeat(1, 2)
        return angles_TK.cos().to(like.dtype), angles_TK.sin().to(like.dtype)

    @property
    def head(self) -> tuple[Tensor, None]:
        """Return the output's matrix; it has no bias."""
        return (self.model.embed_tokens if self.lm_head is None else self.lm_head).weight, None

    @property
    def embedding(self) -> Tensor:
        """Return the embedding's matrix."""
        return self.model.embed_tokens.weight

    def past_blocks(self, ids_N: Tensor) -> Tensor:
        """Return the head's input ``float[N, D]`` as if no block added anything."""
        return self.model.norm(self.model.embed_tokens(ids_N))

    def features(self, ids_BT: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Return the head's input ``float[B, T, D]`` and, if a cache was given, the longer one."""
        past = state[0][0].shape[2] if state and len(state[0]) else 0
        x_BTD = self.model.embed_tokens(ids_BT)
        rotary = self._rotary(past, ids_BT.shape[1], x_BTD)
        after = []
        blocks = self.model.layers
        for block, cache in zip(blocks, state or [None] * len(blocks), strict=True):
            x_BTD, cache = block(x_BTD, rotary, cache)  # noqa: PLW2901
            after.append(cache)
        return self.model.norm(x_BTD), after if state is not None else None

    def forward(self, ids_BT: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Return ``float[B, T, V]`` logits and what ``features`` returns beside."""
        x_BTD, after = self.features(ids_BT, state)
        return F.linear(x_BTD, *self.head), after
