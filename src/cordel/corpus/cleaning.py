"""Which lines and documents a recipe drops, and how many each rule dropped.

``web`` and ``prose`` are the thesis' two recipes (section 1.3). ``lossless`` is v7's: it may drop
lines or documents, and changes no character of what it keeps, newlines included.
"""

import re
from collections import Counter
from dataclasses import dataclass

from cordel.corpus.normalisation import Normalisation, finish_line, letter_share, normalise_lines
from cordel.runtime.params import require

# What no tokenizer should learn: undecodable bytes, control and invisible characters, and
# SentencePiece's own space mark, which could not be told from a space after decoding.
BROKEN = re.compile(
    "[\ufffd\u2581\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u200b\u2028\u2029\ufeff]"
)
UPPERCASE_LIMIT = 80  # characters; longer upper-case lines are text


@dataclass(frozen=True, slots=True, kw_only=True)
class CleaningParams:
    """One recipe of the section ``cleaning`` of params.yaml."""

    normalisation: Normalisation
    min_line_chars: int
    min_letter_share: float  # letters / characters of a line, spaces below the line
    drop_uppercase: bool  # upper-case lines under 80 characters: headings, bylines
    drop_broken: bool  # lines with undecodable or invisible characters
    min_document_chars: int

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("min_line_chars", "min_document_chars"):
            value = getattr(self, name)
            require(value >= 0, f"{name} is {value}, expected at least 0")
        share = self.min_letter_share
        require(0 <= share <= 1, f"min_letter_share is {share}, expected 0 <= x <= 1")


def clean_text(text: str, params: CleaningParams, dropped: Counter[str]) -> str | None:
    """Return the cleaned document, or None if it is dropped; count the reasons in ``dropped``."""
    kept = []
    for line in normalise_lines(text, params.normalisation):
        reason = _line_problem(line, params)
        if reason is None:
            kept.append(finish_line(line, params.normalisation))
        else:
            dropped[reason] += 1
    cleaned = "\n".join(kept)
    # The thesis measures the document after cleaning.
    if len(cleaned) < max(1, params.min_document_chars):
        dropped["document_too_short"] += 1
        return None
    return cleaned


def _line_problem(line: str, params: CleaningParams) -> str | None:
    if not line.strip():
        return "line_empty"
    if len(line) < params.min_line_chars:
        return "line_too_short"
    if params.min_letter_share and letter_share(line) < params.min_letter_share:
        return "line_few_letters"
    if params.drop_uppercase and len(line) < UPPERCASE_LIMIT and line.isupper():
        return "line_uppercase"
    if params.drop_broken and BROKEN.search(line):
        return "line_broken"
    return None
