"""Character-level normalisation: what a cleaning recipe does to the text that it keeps.

The thesis' rules (section 1.2) in its order, each of its quirks under a name. No line or document
is dropped here (see ``cordel.corpus.cleaning``), so this is also the function *f* under which a
run is scored on the common test text (design.md 5.1), and what a prompt goes through.
"""

import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import Literal

# Kept beside letters and numbers. Of these º ª … ´ cannot survive NFKC: they become o, a, ...,
# and a space with a combining accent (a quirk of the thesis that its list hides).
ALLOWED = set(""",.;:!?"'()[]{}-–—_/\\%&*+=@#$°ºª|«»`´’‘“”~^…·•<>€ \n""")
END_MARKER = re.compile(r"\s*<END>\s*")
URL = re.compile(r"https?://\S+")
EMAIL = re.compile(r"\S+@\S+")
DIGIT_RUN = re.compile(r"\d\d+")  # faster than \d{2,}


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalisation:
    """What is done to the characters. ``none`` of it is done by the lossless recipe."""

    filter_characters: bool  # NFKC, markers, URLs, e-mails and odd characters (rules 1 to 6)
    end_marker: Literal["newline", "space"]  # what BrWaC's <END> becomes
    soft_hyphen: Literal["space", "delete"]  # the thesis' filter splits words at U+00AD: "space"
    collapse_digits: bool  # runs of two or more digits become 0; single digits survive
    lowercase: bool


class _CharacterFilter(dict[str, str]):
    """What becomes of each character, decided when it first occurs."""

    def __missing__(self, character: str) -> str:
        """Keep letters, numbers and the allowed characters; anything else becomes a space."""
        keep = character in ALLOWED or unicodedata.category(character)[0] in "LN"
        self[character] = character if keep else " "
        return self[character]


@cache
def _filter_table(soft_hyphen: str) -> _CharacterFilter:
    deleted = {"\ufeff": "", "\u200b": "", "\r": "", "\t": " "}
    if soft_hyphen == "delete":
        deleted["\u00ad"] = ""
    return _CharacterFilter(deleted)


def normalise_lines(text: str, rules: Normalisation) -> list[str]:
    """Return the normalised, stripped lines of ``text`` before lower-casing.

    Lower case comes last (``finish_line``), because the rule on upper-case lines looks at the case.
    """
    if not rules.filter_characters:
        return text.split("\n")
    if not unicodedata.is_normalized("NFKC", text):
        text = unicodedata.normalize("NFKC", text)
    if "<END>" in text:
        text = END_MARKER.sub("\n" if rules.end_marker == "newline" else " ", text)
    if "http" in text:
        text = URL.sub(" ", text)
    if "@" in text:
        text = EMAIL.sub(" ", text)
    table = _filter_table(rules.soft_hyphen)
    for character in set(text):  # few are not kept, so this is faster than str.translate
        if table[character] != character:
            text = text.replace(character, table[character])
    for blank in " \n":
        while 2 * blank in text:
            text = text.replace(2 * blank, blank)
    if rules.collapse_digits:
        text = DIGIT_RUN.sub("0", text)
    return [line.strip() for line in text.split("\n")]


def finish_line(line: str, rules: Normalisation) -> str:
    """Return the line in the case that the recipe wants."""
    return line.lower() if rules.lowercase else line


def normalise(text: str, rules: Normalisation) -> str:
    """Return ``text`` under *f*: every line normalised, none dropped but the empty ones.

    Without the character filter the text comes back as it is but for case and digits.
    """
    if not rules.filter_characters:
        return finish_line(DIGIT_RUN.sub("0", text) if rules.collapse_digits else text, rules)
    lines = normalise_lines(text, rules)
    return "\n".join(finish_line(line, rules) for line in lines if line)


LATIN_LETTERS = bytes(code for code in range(256) if chr(code).isalpha())


def letter_share(line: str) -> float:
    """Return letters / characters of ``line`` (spaces count below the line), 0 if empty."""
    if not line:
        return 0.0
    try:
        others = len(line.encode("latin-1").translate(None, LATIN_LETTERS))
    except UnicodeEncodeError:  # a dash, a quotation mark: such a line takes twice as long
        others = len(line) - sum(map(str.isalpha, line))
    return (len(line) - others) / len(line)
