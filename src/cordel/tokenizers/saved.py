"""Load whichever tokenizer a folder holds, and identify it."""

from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from cordel.tokenizers import char, subword


class Tokenizer(Protocol):
    """What encoding, scoring and sampling need from a tokenizer.

    Attributes:
        kind: ``char`` or ``subword``.
        vocab_size: Number of ids.
        begin: Ids written before each document.
        end: Ids written after each document; predicting them is part of a document's cost.
        context: Ids that stand before a document when it is scored or sampled.
        undrawable: Ids that are no text: unknown, padding, beginning and other control symbols.
    """

    kind: str
    vocab_size: int
    unknown: int
    begin: list[int]
    end: list[int]
    context: list[int]
    undrawable: list[int]

    def encode(self, text: str) -> list[int]:
        """Return the ids of ``text``."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ``ids``."""
        ...

    def unknown_bytes(self, text: str) -> int:
        """Return the bytes of ``text`` behind unknown ids."""
        ...

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """Return the piece of each id."""
        ...


def load_tokenizer(folder: Path) -> Tokenizer:
    """Return the tokenizer in ``folder``.

    Raises:
        ArtifactError: There is none, or it is broken.
    """
    if (folder / char.FILE).exists():
        return char.load_characters(folder)
    return subword.load_pieces(folder)


def fingerprint(folder: Path) -> str:
    """Return the SHA-256 of the tokenizer's file, which a report carries beside its numbers."""
    path = folder / char.FILE
    path = path if path.exists() else folder / subword.FILE
    return sha256(path.read_bytes()).hexdigest()
