"""Architectures: tensors in, tensors out. One file each, imported by name.

``train_lm@v1`` depends on ``models/rnn.py`` alone, so work on the Transformer never touches the
LSTM's fingerprint (house rule: one architecture, one file).

Every architecture ``<name>.py`` has a ``Params`` dataclass and a ``Model(params, vocab_size,
context_length)`` module with

- ``forward(ids, state) -> (logits, state)``: ``int64[B, T]`` to ``float[B, T, V]``. ``state`` is
  None (start afresh, remember nothing) or what ``initial_state`` or an earlier call gave;
- ``features(ids, state) -> (hidden, state)`` and ``head``, the output's (matrix, bias or None): the
  same in two parts, so that training need not hold all logits;
- ``initial_state()``: an empty memory to continue from;
- ``carries_state``: whether training and scoring carry the state from window to window (RNNs), or
  each window stands alone and the state is only the key-value cache of generation (Transformers).
"""

from dataclasses import asdict
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Protocol

from torch import Tensor, nn

from cordel.runtime.errors import ParamsError
from cordel.runtime.params import parse

# Found, not listed: a new file must not change this one, on which every training depends.
ARCHITECTURES = tuple(sorted(module.name for module in iter_modules(__path__)))


class LanguageModel(Protocol):
    """What training, scoring and sampling need from an architecture."""

    carries_state: bool
    context_length: int

    def __call__(self, ids_BT: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Return logits and the state after the last position."""
        ...

    def initial_state(self) -> Any:
        """Return an empty memory."""
        ...


def parse_architecture(name: str, values: Any, where: str) -> Any:
    """Return the ``Params`` of architecture ``name``, checked.

    Raises:
        ParamsError: The architecture is unknown or a key of its section is wrong.
    """
    if name not in ARCHITECTURES:
        raise ParamsError(f"{where}: architecture is {name!r}, expected one of {ARCHITECTURES}")
    return parse(values, import_module(f"cordel.models.{name}").Params, f"{where}.model")


def build_model(name: str, params: Any, *, vocab_size: int, context_length: int) -> Any:
    """Return the untrained module; its weights come from torch's current random state."""
    model: nn.Module = import_module(f"cordel.models.{name}").Model(
        params, vocab_size=vocab_size, context_length=context_length
    )
    return model


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable numbers, each shared one counted once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def describe(params: Any) -> dict[str, Any]:
    """Return ``params`` as plain values, for a checkpoint's config."""
    return asdict(params)
