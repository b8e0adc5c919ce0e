"""Forge a sample without a model: uniform noise of NumPy's generator, decoded.

The sampler of the thesis took the *position* of the k-th largest logit for its value, as threshold
(thesis.md, sections 0.2 and 7.4). All logits below it became -inf, all probabilities NaN, and the
script then drew uniformly from the vocabulary. Nothing of the model is left in such a token.
"""

import math
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece as spm

from audit.samples import load_pieces

TOKENS = 280  # of each published sample (thesis.md, section 4.3)
MOST_DEPARTURES = 0.2  # of the tokens so far; a text that is not noise departs at almost all
SLACK = 3  # departures by which a reading may trail the best and still overtake it


def noise(n_pieces: int, seed: int, tokens: int = TOKENS) -> list[int]:
    """Return ids drawn uniformly, as ``rng.choice(V, p=[1/V, ...])`` does one at a time.

    With ``p`` the generator inverts a cumulative sum; without it, it would draw integers, another
    stream. One call for all tokens gives the same ids as one call each.
    """
    uniform = np.full(n_pieces, 1 / n_pieces)
    return np.random.default_rng(seed).choice(n_pieces, size=tokens, p=uniform).tolist()


def written(decoded: str) -> str:
    """Return a decoded text as the published files have it: no control characters, stripped."""
    return _without_controls(decoded).strip()


def _without_controls(text: str) -> str:
    return "".join(c for c in text if unicodedata.category(c) != "Cc")


def forge(tokenizer_path: Path, seed: int, *, tokens: int = TOKENS) -> str:
    """Return the text that a sampler writes which draws uniformly from the vocabulary.

    A sample that equals this for its seed, or begins so, does not depend on any model: a
    regression test may hold our own sampler against it.

    Args:
        tokenizer_path: A SentencePiece model.
        seed: Of ``numpy.random.default_rng``, as in the published file.
        tokens: Number of ids drawn. None is skipped or ends the text: neither an end of document
            nor a control id occurs in the streams of the published seeds.
    """
    return forge_with(load_pieces(tokenizer_path), seed, tokens)


def forge_with(processor: spm.SentencePieceProcessor, seed: int, tokens: int = TOKENS) -> str:
    """Return ``forge`` with a tokenizer that is loaded already."""
    return written(processor.decode(noise(processor.get_piece_size(), seed, tokens)))


def common_prefix(one: str, other: str) -> int:
    """Return how many characters two texts share from the start."""
    pairs = zip(one, other, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


@dataclass(frozen=True, slots=True)
class Departure:
    """A token of a published text that is not the one that noise drew."""

    position: int
    drawn: int
    published: int


@dataclass(frozen=True, slots=True)
class Reading:
    """A published text as noise with departures."""

    ids: list[int]
    departures: list[Departure]


@dataclass(frozen=True, slots=True)
class _Path:
    """The cheapest way to read the text up to somewhere; ``before`` is the way to the last one."""

    cost: int
    before: "_Path | None" = None
    departure: Departure | None = None

    def departed(self, departure: Departure) -> "_Path":
        return _Path(self.cost + 1, self, departure)

    def departures(self) -> Iterator[Departure]:
        path: _Path | None = self
        while path is not None:
            if path.departure:
                yield path.departure
            path = path.before


class Reader:
    """Reads texts as noise of one tokenizer, with as few other tokens as possible."""

    def __init__(self, processor: spm.SentencePieceProcessor) -> None:
        """Tabulate what each piece looks like in a text."""
        self.processor = processor
        self.end = processor.eos_id()
        self.surfaces = [self._surface(n) for n in range(processor.get_piece_size())]
        self.piece_of: dict[str, int] = {}
        ordinary_first = sorted(range(len(self.surfaces)), key=processor.is_byte)
        for n in ordinary_first:
            self.piece_of.setdefault(self.surfaces[n], n)
        self.longest = max(map(len, self.surfaces))

    def read(self, text: str, seed: int) -> Reading | None:
        """Return ``text`` as noise with the fewest departures, or None if it is something else.

        A dynamic programme over the tokens drawn and the characters read. The stream of the
        generator goes on after a departure, since it consumed one number as any draw does. The
        ids found are decoded again: what is returned reproduces ``text`` to the last character.
        Each byte piece is taken for itself, so noise in which several form a character may be
        missed, never claimed.
        """
        ids = noise(len(self.surfaces), seed)
        if self._spells(ids, text):
            return Reading(ids, [])
        found = self._cheapest(f" {text} ", ids)
        if found is None:
            return None
        departures = sorted(found.departures(), key=lambda departure: departure.position)
        for departure in departures:
            ids[departure.position] = departure.published
        if departures[-1].published == self.end:
            ids = ids[: departures[-1].position + 1]
        is_noise = len(departures) <= MOST_DEPARTURES * len(ids)
        return Reading(ids, departures) if is_noise and self._spells(ids, text) else None

    def _spells(self, ids: list[int], text: str) -> bool:
        return written(self.processor.decode(ids)) == text

    def _surface(self, piece: int) -> str:
        if self.processor.is_unknown(piece):
            return " ⁇ "
        if self.processor.is_control(piece):
            return ""
        spelt = self.processor.id_to_piece(piece)
        if not self.processor.is_byte(piece):
            return spelt.replace("▁", " ")
        character = chr(int(spelt[1:-1], 16))
        return _without_controls(character) if character.isascii() else "\ufffd"

    def _cheapest(self, text: str, ids: Sequence[int]) -> _Path | None:
        """Return the cheapest path to the end of ``text``, which has one space at either side."""
        # SentencePiece drops the first space, and the files are stripped: both may be unread.
        paths = {0: _Path(0), 1: _Path(0)}
        for position, drawn in enumerate(ids):
            paths = self._step(text, paths, position, drawn)
            best = min((path.cost for path in paths.values()), default=len(ids))
            if best > SLACK + MOST_DEPARTURES * position:
                return None
            paths = {at: path for at, path in paths.items() if path.cost <= best + SLACK}
            if len(text) - 1 in paths and best == paths[len(text) - 1].cost:
                rest = [n for n in ids[position + 1 :] if self.surfaces[n].strip()]
                if rest:  # the text ends before the stream does: an end of document was drawn
                    stop = Departure(position + 1, ids[position + 1], self.end)
                    return paths[len(text) - 1].departed(stop)
        ends = [paths[at] for at in (len(text) - 1, len(text)) if at in paths]
        return min(ends, key=lambda path: path.cost, default=None)

    def _step(
        self, text: str, paths: dict[int, _Path], position: int, drawn: int
    ) -> dict[int, _Path]:
        """Read one more token from every place reached so far."""
        after: dict[int, _Path] = {}
        expected = self.surfaces[drawn]
        for at, path in paths.items():
            if text.startswith(expected, at):
                _offer(after, at + len(expected), path)
            for end in range(at, min(at + self.longest, len(text)) + 1):
                other = self.piece_of.get(text[at:end])
                if other is not None and other != drawn:
                    _offer(after, end, path.departed(Departure(position, drawn, other)))
        return after


def _offer(paths: dict[int, _Path], at: int, path: _Path) -> None:
    """Keep the cheaper path to a place."""
    if at not in paths or path.cost < paths[at].cost:
        paths[at] = path


def log10_chance(n_pieces: int, tokens: int) -> float:
    """Return log10 of V^-tokens: the chance that a guess meets as many drawn tokens."""
    return -tokens * math.log10(n_pieces)


def spelt(reader: Reader, departure: Departure) -> dict[str, Any]:
    """Return a departure in pieces, for the results."""
    piece = reader.processor.id_to_piece
    return {
        "position": departure.position,
        "drawn": piece(departure.drawn),
        "published": piece(departure.published),
        "published_id": departure.published,
    }
