"""The learning rate as a pure function of the step."""

import math
from typing import Literal


def learning_rate_factor(
    step: int,
    *,
    kind: Literal["constant", "cosine", "wsd"],
    total_steps: int,
    warmup_steps: int,
    decay_share: float,
) -> float:
    """Return the factor on the peak learning rate at ``step`` (0 is the first), in [0, 1].

    Warm-up is linear and reaches 1 at step ``warmup_steps``. ``cosine`` then falls to 0 at
    ``total_steps`` (Loshchilov and Hutter 2017, arXiv:1608.03983); ``wsd`` stays and falls linearly
    over the last ``decay_share`` of the steps (Hu et al. 2024, arXiv:2404.06395).
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if kind == "cosine":
        progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    if kind == "wsd":
        decay_steps = max(1, round(decay_share * total_steps))
        return min(1.0, max(0.0, (total_steps - step) / decay_steps))
    return 1.0
