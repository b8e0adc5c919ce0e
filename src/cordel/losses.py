"""Cross-entropy of a linear head over large vocabularies, without ever holding all logits.

The gradient of cross-entropy with respect to the logits is the predicted distribution minus the
target's, so it is formed in the forward pass, in place of the logits, chunk by chunk. What is kept
for the backward pass is the gradient of the hidden states and of the head, not of the logits: at
4,096 places and 128,256 ids that is 0.03 instead of 6 GiB, and on a CPU a step is a tenth faster
(docs/performance.md). Source of the idea: Hsu et al. 2024, "Liger Kernel" (arXiv:2410.10989).

Shapes: N places, D width, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Places at once. On a CPU 256 x 16,000 logits stay in the cache: 234 ms for 1,024 places, where all
# at once take 262 and torch's own cross-entropy 313. A GPU wants fewer, larger products.
CHUNK = {"cpu": 256, "cuda": 1024}


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What is optimised where it is not plain cross-entropy; each part is off by default."""

    smoothing: float = 0.0  # share of the hard targets spread over the vocabulary
    penalty: float = 0.0  # x probability mass on the last ``penalised`` ids
    penalised: int = 0
    soft: Tensor | None = None  # a teacher's distributions, float32[N, V]
    soft_share: float = 0.0  # of the targets that are the teacher's
    weights: Tensor | None = None  # of the places, float32[N]


def linear_cross_entropy(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets_N: Tensor,
    objective: Objective | None = None,
) -> tuple[Tensor, Tensor]:
    """Return (objective, plain cross-entropy), both summed over the places, in nats.

    The logits are computed in the autocast dtype and reduced in float32. Only the objective has a
    gradient.
    """
    wanted = (hidden_ND, weight_VD, bias_V)
    grads = tuple(torch.is_grad_enabled() and t is not None and t.requires_grad for t in wanted)
    return _LinearCrossEntropy.apply(*wanted, targets_N, objective or Objective(), grads)  # pyright: ignore[reportReturnType]


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        objective: Objective,
        grads: tuple[bool, bool, bool],
    ) -> tuple[Tensor, Tensor]:
        of_hidden = torch.empty_like(hidden_ND) if grads[0] else None
        of_weight = torch.zeros_like(weight_VD) if grads[1] else None
        of_bias = torch.zeros_like(bias_V) if bias_V is not None and grads[2] else None
        sums = hidden_ND.new_zeros(2, dtype=torch.float32)
        chunk = CHUNK[hidden_ND.device.type]
        for start in range(0, len(targets_N), chunk):
            places = slice(start, start + chunk)
            hidden, targets = hidden_ND[places], targets_N[places, None]
            logits = F.linear(hidden, weight_VD, bias_V)
            log_p = logits.float().log_softmax(dim=-1)
            soft = None if objective.soft is None else objective.soft[places]
            values, d_logits = _of_chunk(log_p, targets, objective, soft)
            if objective.weights is not None:
                values = values * objective.weights[places]
                d_logits.mul_(objective.weights[places, None])
            sums += values.sum(dim=1)
            if not any(grads):
                continue
            if of_bias is not None:
                of_bias += d_logits.sum(dim=0)
            d_logits = d_logits.to(logits.dtype)  # products in the dtype of the forward ones
            if of_hidden is not None:
                of_hidden[places] = d_logits @ weight_VD
            if of_weight is not None:
                of_weight += d_logits.T @ hidden
        ctx.found = of_hidden, of_weight, of_bias
        value, entropy = sums.unbind()
        ctx.mark_non_differentiable(entropy)
        return value, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_value: Tensor, _: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        scaled = (None if g is None else g.mul_(d_value.to(g.dtype)) for g in ctx.found)
        return *scaled, None, None, None


def _of_chunk(
    log_p: Tensor, targets: Tensor, objective: Objective, soft: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return (objective and cross-entropy ``[2, N]``, gradient of the logits, over ``log_p``)."""
    o, V = objective, log_p.shape[1]
    entropy = -log_p.gather(1, targets)[:, 0]
    hard = 1.0 if soft is None else 1 - o.soft_share
    value = hard * (1 - o.smoothing) * entropy
    if o.smoothing:
        value = value - hard * o.smoothing / V * log_p.sum(dim=1)
    if soft is not None:
        value = value - o.soft_share * torch.linalg.vecdot(soft, log_p)
    d_logits = log_p.exp_()
    if o.penalty:
        last = d_logits[:, -o.penalised :].clone()
        mass = last.sum(dim=1)
        value = value + o.penalty * mass
        d_logits.mul_(1 - o.penalty * mass[:, None])[:, -o.penalised :].add_(last, alpha=o.penalty)
    if o.smoothing:
        d_logits.sub_(hard * o.smoothing / V)
    if soft is not None:
        d_logits.sub_(soft, alpha=o.soft_share)
    at_target = d_logits.new_full((), -hard * (1 - o.smoothing)).expand(targets.shape)
    d_logits.scatter_add_(1, targets, at_target)
    return torch.stack((value, entropy)), d_logits
