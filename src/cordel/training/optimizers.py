"""Adam, AdamW and Muon behind one small interface, and the two ways of clipping."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from cordel.training.params import TrainingParams

# Coefficients of the quintic Newton-Schulz iteration. Source: Jordan et al. 2024, "Muon".
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
MOMENTUM = 0.95
EMBEDDING_OR_OUTPUT = ("embed", "tokens.", "positions.", "lm_head", "output.", "vocab_bias")


def orthogonalise(matrix: Tensor) -> Tensor:
    """Return the nearest semi-orthogonal matrix, approximately, by Newton-Schulz iteration.

    In float32 on the CPU: torch.optim.Muon iterates in bf16, which was 31 times slower there.
    """
    x = matrix.bfloat16() if matrix.is_cuda else matrix.float()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised: for hidden matrices only.

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks". The
    update is scaled by sqrt(max(1, rows / columns)).
    """

    def __init__(self, params: Iterable[nn.Parameter], *, lr: float, weight_decay: float) -> None:
        """Take matrices only."""
        super().__init__(list(params), {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Apply one update (Nesterov momentum, decoupled weight decay)."""
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                momentum = state.setdefault("momentum", torch.zeros_like(p))
                momentum.lerp_(p.grad, 1 - MOMENTUM)
                update = orthogonalise(p.grad.lerp(momentum, MOMENTUM))
                scale = max(1.0, p.shape[0] / p.shape[1]) ** 0.5
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * scale)


def build_optimizers(model: nn.Module, params: TrainingParams) -> list[torch.optim.Optimizer]:
    """Return the optimisers of one run; each group remembers its peak rate as ``peak``."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    betas = (params.beta1, params.beta2)
    optimizers: list[torch.optim.Optimizer] = []
    if params.optimizer == "muon":
        hidden = [p for n, p in named if p.dim() == 2 and not n_is_outer(n)]
        optimizers.append(
            Muon(hidden, lr=params.muon_learning_rate, weight_decay=params.weight_decay)
        )
        named = [(n, p) for n, p in named if p.dim() != 2 or n_is_outer(n)]
    decay_all = params.decay_scope == "all"
    groups = [
        {
            "params": [p for _, p in named if decay_all or p.dim() >= 2],
            "weight_decay": params.weight_decay,
        },
        {"params": [p for _, p in named if not decay_all and p.dim() < 2], "weight_decay": 0.0},
    ]
    kind = torch.optim.Adam if params.optimizer == "adam" else torch.optim.AdamW
    groups = [group for group in groups if group["params"]]
    optimizers.append(
        kind(groups, lr=params.learning_rate, betas=betas, eps=params.epsilon, fused=True)
    )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def n_is_outer(name: str) -> bool:
    """Tell whether a parameter belongs to the embedding or the output, which Muon leaves alone."""
    return any(part in name for part in EMBEDDING_OR_OUTPUT)


def clip(model: nn.Module, params: TrainingParams) -> None:
    """Clip the gradients to norm ``grad_clip``, all together or each variable by itself."""
    if not params.grad_clip:
        return
    tensors = [p for p in model.parameters() if p.grad is not None]
    groups = [[p] for p in tensors] if params.clip_mode == "per_variable" else [tensors]
    for group in groups:
        nn.utils.clip_grad_norm_(group, params.grad_clip)
