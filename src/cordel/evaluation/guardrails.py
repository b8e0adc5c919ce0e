"""The thesis' guardrail on samples (section 4.4): two ratios of suspicious pieces and a threshold.

Kept exactly as published, so that its reports can be reproduced to the last digit. It measures the
tokenizer at least as much as the text: human Portuguese scores 0.17 to 0.20 with the published
tokenizers, uniform noise 0.11 to 0.13, and the threshold is 0.12 (thesis.md section 0.3).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cordel.runtime.params import require


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardrailParams:
    """The section ``guardrails`` of params.yaml; the thesis' thresholds are 0.03 and 0.12."""

    max_fallback_ratio: float
    max_short_piece_ratio: float

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("max_fallback_ratio", "max_short_piece_ratio"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"{name} is {value}, expected 0 <= x <= 1")


@dataclass(frozen=True, slots=True)
class Sample:
    """A generated text and the seed it was drawn with (-1 if unknown)."""

    seed: int
    text: str


def is_fallback(piece: str) -> bool:
    """Tell whether a piece stands for one byte, as ``<0xC3>`` does."""
    return piece.startswith("<0x") and piece.endswith(">")


def is_short_alpha(piece: str) -> bool:
    """Tell whether a piece is at most two letters inside a word.

    A piece that begins a word carries ``▁``, which is not a letter, and so is never counted.
    """
    return len(piece) <= 2 and piece.isalpha()


def thesis_report(
    samples: Sequence[Sample], pieces_of: Callable[[str], list[str]], params: GuardrailParams
) -> dict[str, Any]:
    """Return aggregate and per-sample ratios, violations and the verdict of the thesis' script.

    Args:
        samples: Texts as decoded; they are cut into pieces again.
        pieces_of: The tokenizer, without beginning and end of document.
        params: The thresholds. A ratio equal to one passes.
    """
    per_sample = []
    for sample in samples:
        pieces = pieces_of(sample.text)
        per_sample.append({"seed": sample.seed} | _ratios([pieces], [sample.text]))
    cut = [pieces_of(sample.text) for sample in samples]
    aggregate = _ratios(cut, [sample.text for sample in samples])
    limits = {
        "fallback_ratio": params.max_fallback_ratio,
        "short_alpha_ratio": params.max_short_piece_ratio,
    }
    violations = [
        {"type": f"{scope}_{key}", "value": row[key], "threshold": limit}
        | ({"seed": row["seed"]} if "seed" in row else {})
        for scope, rows in (("aggregate", [aggregate]), ("sample", per_sample))
        for row in rows
        for key, limit in limits.items()
        if row[key] > limit
    ]
    return {
        "aggregate": {"samples_count": len(samples)} | aggregate,
        "per_sample": per_sample,
        "violations": violations,
        "passes": not violations,
    }


def _ratios(cut: Sequence[Sequence[str]], texts: Sequence[str]) -> dict[str, Any]:
    """Return the counts and ratios of some samples together."""
    pieces = [piece for sample in cut for piece in sample]
    tokens = len(pieces)
    fallback = sum(map(is_fallback, pieces))
    short = sum(map(is_short_alpha, pieces))
    return {
        "tokens": tokens,
        "chars": sum(map(len, texts)),
        "fallback_tokens": fallback,
        "fallback_ratio": fallback / max(1, tokens),
        "short_alpha_tokens": short,
        "short_alpha_ratio": short / max(1, tokens),
    }
