"""Sample text from a language model.

The thesis' sampler compared logits with the *index* of the k-th best, set every one to minus
infinity, and fell back to uniform noise (thesis.md section 0.2). Here anything that is not a
distribution raises, and a test holds the sampler to a one-hot model.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from cordel.compute import Compute
from cordel.models import LanguageModel
from cordel.runtime.params import require


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One standard prompt and the seed that goes with it (thesis section 4.3)."""

    seed: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """The section ``sampling`` of params.yaml."""

    prompts: tuple[Prompt, ...]
    samples_per_prompt: int  # the k-th uses seed + 1000 k
    max_new_tokens: int
    min_new_tokens: int  # the end of a document is not drawn before
    temperature: float  # 0: greedy
    top_k: int  # 0: all
    top_p: float  # 1.0: all
    frequency_penalty: float  # x how often an id was drawn, off its logit

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(len(self.prompts) > 0, "prompts is empty, expected at least one")
        require(
            self.samples_per_prompt > 0,
            f"samples_per_prompt is {self.samples_per_prompt}, expected at least 1",
        )
        require(
            self.max_new_tokens > 0, f"max_new_tokens is {self.max_new_tokens}, expected at least 1"
        )
        for name in ("temperature", "top_k", "frequency_penalty", "min_new_tokens"):
            value = getattr(self, name)
            require(value >= 0, f"{name} is {value}, expected at least 0")
        require(0 < self.top_p <= 1, f"top_p is {self.top_p}, expected 0 < x <= 1")

    def decoding(self) -> dict[str, Any]:
        """Return the decode settings, which every sample carries."""
        settings = asdict(self)
        del settings["prompts"], settings["samples_per_prompt"]
        return settings


def choose(
    logits: np.ndarray, *, temperature: float, top_k: int, top_p: float, rng: np.random.Generator
) -> int:
    """Draw one id: temperature, then the ``top_k`` best, then the nucleus of mass ``top_p``.

    Args:
        logits: ``float[V]``; minus infinity excludes an id.
        temperature: 0 takes the best id (the lowest of equals).
        top_k: 0 keeps all. Ids that tie with the k-th are dropped beyond k, highest ids first.
        top_p: Keeps the smallest set of best ids whose probability reaches it.
        rng: Consumed once a call, also where only one id is left.

    Raises:
        ValueError: A logit is NaN or plus infinity, or all are minus infinity.
    """
    if np.isnan(logits).any() or np.isposinf(logits).any() or not np.isfinite(logits).any():
        raise ValueError("logits are not a distribution: NaN, infinite, or all excluded")
    if temperature == 0:
        return int(logits.argmax())
    order = np.argsort(-logits, kind="stable")
    order = order[: top_k or None]
    order = order[np.isfinite(logits[order])]  # or rounding could let an excluded id in
    scaled = logits[order].astype(np.float64) / temperature
    weights = np.exp(scaled - scaled[0])
    weights /= weights.sum()
    if top_p < 1:
        kept = int(np.searchsorted(np.cumsum(weights), top_p)) + 1
        order, weights = order[:kept], weights[:kept] / weights[:kept].sum()
    drawn = np.searchsorted(np.cumsum(weights), rng.random(), side="right")
    return int(order[min(int(drawn), len(order) - 1)])


@dataclass(frozen=True, slots=True)
class Draw:
    """An id that was drawn, and what it was drawn from."""

    id: int
    logits: np.ndarray  # float64[V] of the model itself: nothing excluded, nothing penalised

    @property
    def probability(self) -> float:
        """What the model gave this id, at temperature 1."""
        weights_V = np.exp(self.logits - self.logits.max())
        return float(weights_V[self.id] / weights_V.sum())


def generate(
    model: LanguageModel,
    prompt: Sequence[int],
    params: SamplingParams,
    *,
    seed: int,
    end: Sequence[int],
    banned: Sequence[int],
    compute: Compute,
) -> list[int]:
    """Return the new ids after ``prompt``, at most ``max_new_tokens``, without the end.

    Arguments are those of ``draws``.
    """
    how: dict[str, Any] = {"seed": seed, "end": end, "banned": banned, "compute": compute}
    drawn = [draw.id for draw in draws(model, prompt, params, **how)]
    return drawn[: -len(end)] if _at_end(drawn, params, end) else drawn


def _at_end(drawn: list[int], params: SamplingParams, end: Sequence[int]) -> bool:
    return len(drawn) >= params.min_new_tokens + len(end) and drawn[-len(end) :] == list(end)


@torch.no_grad()
def draws(
    model: LanguageModel,
    prompt: Sequence[int],
    params: SamplingParams,
    *,
    seed: int,
    end: Sequence[int],
    banned: Sequence[int],
    compute: Compute,
) -> Iterator[Draw]:
    """Yield the new ids after ``prompt`` one by one, those of the end included.

    The state or key-value cache is kept from step to step. When a Transformer's window is full,
    its second half is read again as a new window.

    Args:
        model: Any architecture, in evaluation mode.
        prompt: At least one id; a Transformer reads the last ``context_length`` of them.
        params: The decode settings.
        seed: Of the draw.
        end: Ids that close a document: generation stops when the last ones drawn equal them.
        banned: Ids never drawn (padding, beginning, unknown).
        compute: Where and how precisely.
    """
    rng = np.random.default_rng(seed)
    drawn: list[int] = []
    room = 0
    state: Any = None
    while len(drawn) < params.max_new_tokens:
        if state is None or (not model.carries_state and room == 0):
            history = [*prompt, *drawn]
            if not model.carries_state:
                keep = model.context_length if state is None else model.context_length // 2
                history = history[-max(1, keep) :]
                room = model.context_length - len(history)
            state, step = model.initial_state(), history
        else:
            step = drawn[-1:]
            room -= 1
        with compute.autocast():
            logits_BTV, state = model(torch.tensor([step], device=compute.device), state)
        own_V = logits_BTV[0, -1].float().cpu().numpy().astype(np.float64)
        logits_V = own_V.copy()
        logits_V[list(banned)] = -np.inf
        if params.frequency_penalty and drawn:
            ids, counts = np.unique(drawn, return_counts=True)
            logits_V[ids] -= params.frequency_penalty * counts
        if len(drawn) < params.min_new_tokens and len(end) == 1:
            logits_V[end[0]] = -np.inf
        drawn.append(
            choose(
                logits_V,
                temperature=params.temperature,
                top_k=params.top_k,
                top_p=params.top_p,
                rng=rng,
            )
        )
        yield Draw(drawn[-1], own_V)
        if _at_end(drawn, params, end):
            return
