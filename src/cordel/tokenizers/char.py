"""The character tokenizer of v1 to v3: the sorted characters of the training text.

As in the thesis (section 2.1) there is no padding, no beginning and no end: documents are joined by
a blank line, and an unknown character becomes ``~``.
"""

from collections.abc import Iterable
from pathlib import Path

from cordel.runtime.errors import ArtifactError
from cordel.runtime.files import read_json, write_json

UNKNOWN = "~"
SEPARATOR = "\n\n"
FILE = "char.json"


class CharTokenizer:
    """One id a character; the id is the character's rank."""

    kind = "char"

    def __init__(self, characters: str) -> None:
        """Take the vocabulary as a string of distinct characters in order."""
        self.characters = characters
        self._ids = {character: index for index, character in enumerate(characters)}
        self.unknown = self._ids[UNKNOWN]
        self.vocab_size = len(characters)
        # What a model reads before a document's first character, and predicts after its last.
        self.begin: list[int] = []
        self.end = self.encode(SEPARATOR)
        self.context = self.end
        self.undrawable: list[int] = []

    def encode(self, text: str) -> list[int]:
        """Return one id a character."""
        unknown = self.unknown
        return [self._ids.get(character, unknown) for character in text]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ``ids``; an unknown character stays ``~``."""
        return "".join(self.characters[index] for index in ids)

    def unknown_bytes(self, text: str) -> int:
        """Return the UTF-8 bytes of the characters outside the vocabulary."""
        return sum(len(c.encode()) for c in text if c not in self._ids)

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """Return the characters of ``ids``."""
        return [self.characters[index] for index in ids]


def learn_characters(texts: Iterable[str], out: Path) -> None:
    """Write the vocabulary of ``texts`` to the folder ``out``."""
    found = set(UNKNOWN + SEPARATOR)
    for text in texts:
        found.update(text)
    write_json(out / FILE, {"characters": "".join(sorted(found))})


def load_characters(folder: Path) -> CharTokenizer:
    """Return the tokenizer that ``learn_characters`` wrote.

    Raises:
        ArtifactError: The file is not a vocabulary.
    """
    value = read_json(folder / FILE)
    characters = value.get("characters", "") if isinstance(value, dict) else ""
    if UNKNOWN not in characters or len(set(characters)) != len(characters):
        raise ArtifactError(f"{folder / FILE}: not a character vocabulary; rerun train_tokenizer")
    return CharTokenizer(characters)
