r"""One answer against its reference: exact match, token F1 and ROUGE-L.

There are two scorers. ``AS_PUBLISHED`` is the thesis' own (section 5.7), kept with its faults so
that its figures can be reproduced to the last digit: a doubled backslash in its patterns left the
articles in and the spaces uncollapsed. ``CORRECTED`` does what was meant::

    reference           as published         corrected
    Sim,  é verdade.    "sim   e verdade"    "sim e verdade"
    A Terra             "a terra"            "terra"
    A                   "a"                  "a" (only an article: stays)
    \frac               "\frac"              "frac"

Three outputs of four of the published files begin with the end of the prompt; ``remove_leak``
finds where the answer begins.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from rouge_score.rouge_scorer import RougeScorer

from cordel.runtime.params import require

ARTICLES = frozenset({"o", "a", "os", "as", "um", "uma", "uns", "umas"})
BaselineKind = Literal["copy", "lead1", "empty"]
BASELINES: tuple[BaselineKind, ...] = get_args(BaselineKind)
LEAK = "assistant\n\n"  # the last of the chat template before the answer, as decoded
WORD = re.compile(r"\w+")
FIRST_SENTENCE = re.compile(r""".*?\w.*?(?:[.!?…]+["'”’»)\]]*(?=\s)|$)""", re.MULTILINE)


class _Whitespace:
    """The thesis' tokens for ROUGE-L; the default tokenizer would drop the backslash."""

    @staticmethod
    def tokenize(text: str) -> list[str]:
        """Return what stands between spaces."""
        return text.split()


@dataclass(frozen=True, slots=True)
class Scorer:
    """How a text is normalised for exact match and F1, and how for ROUGE-L."""

    normalise: Callable[[str], str]
    rouge_text: Callable[[str], str]
    rouge: RougeScorer


def _plain(text: str) -> str:
    """Return ``text`` in lower case and without accents."""
    decomposed = unicodedata.normalize("NFD", text.lower())
    return "".join(char for char in decomposed if unicodedata.category(char) != "Mn")


def _normalised_as_published(text: str) -> str:
    return re.sub(r"[^a-z0-9\\]", " ", _plain(text)).strip()


def _normalised(text: str) -> str:
    tokens = re.findall(r"[a-z0-9]+", _plain(text))
    return " ".join([token for token in tokens if token not in ARTICLES] or tokens)


AS_PUBLISHED = Scorer(
    _normalised_as_published,
    _normalised_as_published,
    RougeScorer(["rougeL"], tokenizer=_Whitespace()),
)
CORRECTED = Scorer(_normalised, _plain, RougeScorer(["rougeL"], use_stemmer=False))


def score_answer(
    answer: str, reference: str, *, task: str, scorer: Scorer = CORRECTED
) -> dict[str, float]:
    """Return ``em``, ``f1`` and ``rouge_l``, all in [0, 1], and ``words`` of the whole answer.

    For task ``qa`` the three scores see only the first line of each text that is not blank. Where
    nothing is left of the answer or of the reference (empty, or punctuation only), they are 0,
    even where nothing is left of both.
    """
    words = float(len(WORD.findall(answer)))
    if task == "qa":
        answer, reference = _first_line(answer), _first_line(reference)
    found, expected = scorer.normalise(answer), scorer.normalise(reference)
    rouge = scorer.rouge.score(scorer.rouge_text(reference), scorer.rouge_text(answer))
    return {
        "em": float(bool(expected) and found == expected),
        "f1": _f1(found.split(), expected.split()),
        "rouge_l": float(rouge["rougeL"].fmeasure),
        "words": words,
    }


def _first_line(text: str) -> str:
    return next((line for line in text.splitlines() if line.strip()), "")


def _f1(found: Sequence[str], expected: Sequence[str]) -> float:
    """Return the F1 of two multisets of tokens, 0 where they share none.

    From precision and recall, as the published script did: 2 * shared / (a + b) is equal but for
    the last bit, and then 48 of the published rows would differ by 1e-16.
    """
    shared = (Counter(found) & Counter(expected)).total()
    if not shared:
        return 0.0
    precision, recall = shared / len(found), shared / len(expected)
    return 2 * precision * recall / (precision + recall)


def remove_leak(output: str) -> tuple[str, bool]:
    """Return the answer in a published output, and whether a part of the prompt stood before it.

    The thesis cut its left-padded batches at each prompt's own length and so left the end of all
    but the longest prompt in the output (section 5.7).
    """
    _, mark, answer = output.partition(LEAK)
    return (answer, True) if mark else (output, False)


def baseline_answer(kind: BaselineKind, *, instruction: str, input: str) -> str:  # noqa: A002
    """Return an answer that no model is needed for.

    ``copy`` is the input, or the instruction where the input is blank; ``lead1`` is the first
    sentence of that text; ``empty`` says nothing. A sentence ends with its line or at ``.!?…``
    before a space, so an abbreviation (``Dr. Silva``) ends one too.

    Raises:
        ValueError: ``kind`` is none of these.
    """
    require(kind in BASELINES, f"baseline is {kind!r}, expected one of {', '.join(BASELINES)}")
    text = input if input.strip() else instruction
    if kind == "copy":
        return text
    first = FIRST_SENTENCE.search(text) if kind == "lead1" else None
    return first[0].strip() if first else ""
