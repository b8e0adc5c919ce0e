"""Score an adapted model by the very function that scores v1 to v7."""

from typing import Any

from torch import Tensor


class AsLanguageModel:
    """A causal model of transformers with the interface of our own models."""

    carries_state = False

    def __init__(self, model: Any, context_length: int) -> None:
        """Wrap the model; which adapter is on is the caller's affair."""
        self.model, self.context_length = model, context_length

    def __call__(self, ids: Tensor, state: None = None) -> tuple[Tensor, None]:
        """Return logits ``float[B, T, V]``."""
        return self.model(input_ids=ids, use_cache=False).logits, state

    def initial_state(self) -> None:
        """Return none: windows are independent."""
