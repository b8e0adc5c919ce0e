"""Values that know where they come from, and how a language writes them.

A template cannot write a bare number: it is given ``Sourced`` values only, and ``Writer`` turns
those into elements that carry the value, its file and its key.
"""

import math
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from cordel.runtime.console import duration
from cordel.runtime.errors import ArtifactError

# Marks that turn the direction of what follows, and would do so beyond the end of a text.
DIRECTIONS = {
    chr(code) for code in (0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}
FORM = re.compile(r"(\+?)(\d)(%|M|B)?(s)?")


@dataclass(frozen=True, slots=True)
class Sourced:
    """A value of a file, and where in it: ``metrics/lm/v7.json#/bits_per_byte``."""

    raw: Any
    source: str

    def __getitem__(self, key: str | int) -> "Sourced":
        """Return what is below.

        Raises:
            ArtifactError: There is no such key, or nothing that could have one.
        """
        name = str(key).replace("~", "~0").replace("/", "~1")
        try:
            return Sourced(self.raw[key], f"{self.source}/{name}")
        except (TypeError, IndexError):
            found = f"{self.raw!r:.40} has no {key!r}"
            raise ArtifactError(f"{self.source}: {found}; run `dvc repro`") from None

    def get(self, *keys: str) -> "Sourced | None":
        """Return what is below ``keys``, None where a file may leave it out."""
        found = self
        for key in keys:
            if not isinstance(found.raw, dict) or key not in found.raw:
                return None
            found = found[key]
        return None if found.raw is None else found

    def __bool__(self) -> bool:
        """Say whether there is anything in it: zero is something, false and nothing are not."""
        number = isinstance(self.raw, int | float) and not isinstance(self.raw, bool)
        return number or bool(self.raw)

    def __iter__(self) -> Iterator["Sourced"]:
        """Yield the items of a list."""
        return (self[place] for place in range(len(self._checked(list))))

    def pairs(self) -> Iterator[tuple[str, "Sourced"]]:
        """Yield the keys of an object with their values."""
        return ((key, self[key]) for key in self._checked(dict))

    def _checked(self, kind: type) -> Any:
        if not isinstance(self.raw, kind):
            names = {dict: "an object", list: "a list"}
            raise ArtifactError(
                f"{self.source}: {self.raw!r:.40}, expected {names[kind]}; run `dvc repro`"
            )
        return self.raw


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """Writes values as HTML in one language."""

    comma: bool  # the decimal sign

    def num(self, value: Sourced | None, form: str = "3") -> Markup:
        """Return a number as an element that names its source.

        Args:
            value: A number, or None for what was not measured.
            form: Decimals, after ``+`` with a sign; ``%``: of a hundred, ``M``, ``B``: in
                millions, in billions; then ``s``: so many significant digits.
                ``time``: hours, as people say them.

        Raises:
            ArtifactError: There is no number.
        """
        if value is None or value.raw is None:
            return Markup('<span class="none">–</span>')
        if isinstance(value.raw, bool) or not isinstance(value.raw, int | float):
            raise ArtifactError(f"{value.source}: {value.raw!r:.40} is no number; run `dvc repro`")
        return Markup('<data value="{}" data-source="{}" data-form="{}">{}</data>').format(
            value.raw, value.source, form, self.written(value.raw, form)
        )

    def printed(self, value: Sourced | None) -> Markup:
        """Return a figure as a text printed it, with the decimal sign of the language."""
        if value is None or value.raw is None:
            return Markup('<span class="none">–</span>')
        shown = str(value.raw).replace("-", "−")
        return Markup('<span data-source="{}" data-printed>{}</span>').format(
            value.source, shown.replace(".", ",") if self.comma else shown
        )

    def written(self, value: float, form: str) -> str:
        """Return a number as the language writes it; minus is the typographic sign."""
        if not math.isfinite(value):
            return str(value)
        if form == "time":
            return _time(3600 * value, comma=self.comma)
        match = FORM.fullmatch(form)
        if match is None:
            raise ValueError(f"{form!r} is no form of a number")
        sign, digits, unit, significant = match.groups()
        scaled = value * {"%": 100, "M": 1e-6, "B": 1e-9}.get(unit or "", 1)
        decimals = _decimals(scaled, int(digits)) if significant else int(digits)
        text = f"{scaled:{sign},.{decimals}f}"
        if not text.strip("+-0.,"):
            text = text.lstrip("+-")  # zero has no sign
        return _translated(text.replace("-", "−"), comma=self.comma) + (" %" if unit == "%" else "")


def text(value: Sourced | None, chars: int | None = None) -> Markup:
    """Return words of a file, such as a version or the beginning of a hash, with their source."""
    if value is None or value.raw is None:
        return Markup('<span class="none">–</span>')
    cut = Markup(' data-chars="{}"').format(chars) if chars else ""
    return Markup('<span data-source="{}"{}>{}</span>').format(
        value.source, cut, visible(str(value.raw))[:chars]
    )


def quoted(value: Sourced) -> Markup:
    """Return what a model or a person wrote, in isolation: nothing in it is markup or acts."""
    return Markup('<bdi class="quoted" dir="auto" data-source="{}">{}</bdi>').format(
        value.source, escape(visible(str(value.raw)).strip())
    )


def visible(text: str) -> str:
    """Return ``text`` with characters that are not seen, but act, written as symbols."""
    return "".join(_visible(char) for char in text.replace("\r\n", "\n"))


def _visible(char: str) -> str:
    code = ord(char)
    if char in "\n\t":
        return char
    if code < 0x20:
        return chr(0x2400 + code)  # the pictures of control characters
    if char in DIRECTIONS or unicodedata.category(char) in ("Cc", "Cs"):
        return f"⟨U+{code:04X}⟩"
    return char


def _decimals(value: float, digits: int) -> int:
    return max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else digits


def _time(seconds: float, *, comma: bool) -> str:
    short = f"{seconds:.1f} s" if seconds < 10 else duration(seconds)
    return _translated(short, comma=comma)


def _translated(text: str, *, comma: bool) -> str:
    return text.translate(str.maketrans(",.", ".,")) if comma else text
