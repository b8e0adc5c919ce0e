"""A quantity that published artifacts determine, and how."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from sentencepiece import sentencepiece_model_pb2

from audit.published import NotAtHandError, Published


class Reader:
    """Reads each artifact once, as what its name says it is."""

    def __init__(self, published: Published) -> None:
        """Read from ``published``."""
        self.published = published
        self._read: dict[str, Any] = {}

    def __call__(self, name: str) -> Any:
        """Return the content of the artifact ``name``.

        Raises:
            NotAtHandError: It was not found.
        """
        if name not in self._read:
            self._read[name] = self._parse(name)
        return self._read[name]

    def _parse(self, name: str) -> Any:
        kind = name.rpartition(".")[2]
        if kind == "json":
            return self.published.json(name)
        if kind == "jsonl":
            return self.published.jsonl(name)
        if kind == "csv":
            return list(csv.DictReader(io.StringIO(self.published.text(name))))
        if kind == "yaml":
            return yaml.safe_load(self.published.text(name))
        return self.published.path(name).read_bytes()


@dataclass(frozen=True, slots=True)
class Figure:
    """``of`` computes the quantity from the contents of ``sources``, given in their order.

    A quantity is a number, a text, or a dict. A dict with ``holds`` judges itself: it compares an
    artifact with its own parts (``logged``, ``computed``) or says whether a sentence is true.
    """

    sources: Sequence[str]
    of: Callable[..., Any]
    en: str  # how it is computed, in a phrase
    pt: str

    def value(self, read: Reader) -> Any:
        """Return the quantity.

        Raises:
            NotAtHandError: A source was not found.
        """
        return self.of(*(read(name) for name in self.sources))


@dataclass(frozen=True, slots=True)
class Survey(Figure):
    """``of`` gets a dict of those sources that are at hand, by name; at least one must be."""

    def value(self, read: Reader) -> Any:
        """Return the quantity, computed from what there is."""
        found: dict[str, Any] = {}
        for name in self.sources:
            try:
                found[name] = read(name)
            except NotAtHandError:
                continue
        if not found:
            raise NotAtHandError(f"none of {len(self.sources)} artifacts such as {self.sources[0]}")
        return self.of(found)


def agree(logged: Any, computed: Any, *, relative: float = 0.0, **details: Any) -> dict[str, Any]:
    """Return a comparison of what an artifact says with what follows from its parts.

    Args:
        logged: As the artifact says: a number, a text, or a dict of them.
        computed: The same, recomputed.
        relative: How far numbers may be apart, as a share of the computed one.
        details: Whatever explains the comparison.
    """
    if isinstance(logged, float | int) and isinstance(computed, float | int):
        holds = abs(logged - computed) <= relative * abs(computed)
    else:
        holds = logged == computed
    return {"holds": holds, "logged": logged, "computed": computed} | details


def pieces_of(model: bytes) -> Any:
    """Return the ModelProto in a SentencePiece file."""
    return sentencepiece_model_pb2.ModelProto.FromString(model)  # pyright: ignore[reportAttributeAccessIssue]
