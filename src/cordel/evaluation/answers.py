r"""Answers against references: exact match, token F1 and ROUGE-L, over items and over seeds.

There are two scorers. ``AS_PUBLISHED`` is the thesis' own (section 5.7), kept with its faults so
that its figures can be reproduced to the last digit: a doubled backslash in its patterns left the
articles in and the spaces uncollapsed. ``CORRECTED`` does what was meant::

    reference           as published         corrected
    Sim,  é verdade.    "sim   e verdade"    "sim e verdade"
    A Terra             "a terra"            "terra"
    A                   "a"                  "a" (only an article: stays)
    \frac               "\frac"              "frac"

Three outputs of four of the published files begin with the end of the prompt; ``remove_leak``
finds where the answer begins. Intervals come from a percentile bootstrap over items (Efron and
Tibshirani 1993, section 13.3).
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from rouge_score.rouge_scorer import RougeScorer

from cordel.runtime.errors import ArtifactError
from cordel.runtime.params import require

METRICS = ("em", "f1", "rouge_l", "words")
ARTICLES = frozenset({"o", "a", "os", "as", "um", "uma", "uns", "umas"})
BaselineKind = Literal["copy", "lead1", "empty"]
BASELINES: tuple[BaselineKind, ...] = get_args(BaselineKind)
LEAK = "assistant\n\n"  # the last of the chat template before the answer, as decoded

Row = Mapping[str, Any]
Summary = dict[str, dict[str, dict[str, Any]]]

WORD = re.compile(r"\w+")
FIRST_SENTENCE = re.compile(r""".*?\w.*?(?:[.!?…]+["'”’»)\]]*(?=\s)|$)""", re.MULTILINE)
RESAMPLES_AT_ONCE = 200  # bounds the memory, changes no result


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerScoringParams:
    """The section ``scoring_answers`` of params.yaml."""

    bootstrap_resamples: int
    confidence: float  # of the intervals
    seed: int  # of the resampling

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(
            self.bootstrap_resamples > 0,
            f"bootstrap_resamples is {self.bootstrap_resamples}, expected at least 1",
        )
        require(0 < self.confidence < 1, f"confidence is {self.confidence}, expected 0 < x < 1")
        require(self.seed >= 0, f"seed is {self.seed}, expected at least 0")


# --- one answer -----------------------------------------------------------------------------------


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


# --- many answers ---------------------------------------------------------------------------------


def summarise(rows: Iterable[Row], params: AnswerScoringParams) -> Summary:
    """Return mean, spread over seeds and interval of each task and metric, not rounded.

    Args:
        rows: ``task``, ``seed`` (of the task's set), ``id`` (of the item) and the ``METRICS``.
        params: How to resample.

    Returns:
        ``{task: {metric: {"mean", "sd", "ci": [low, high], "per_seed": {"123": mean}}}}``. ``mean``
        is over seeds, of each seed's plain mean; ``sd`` is the sample standard deviation of those
        (None for one seed). ``ci`` is of the mean of all rows, which is ``mean`` where seeds have
        equally many. An item that several seeds drew, or one seed twice, is resampled as one.
    """
    tasks: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        tasks[row["task"]].append(row)
    return {task: _summarise_task(tasks[task], params) for task in sorted(tasks)}


def gains(
    rows_a: Iterable[Row],
    rows_b: Iterable[Row],
    params: AnswerScoringParams,
    *,
    names: tuple[str, str] = ("a", "b"),
) -> Summary:
    """Return what arm b gains over arm a, each item against itself, in ``summarise``'s shape.

    Rows pair by task, seed and id; the n-th of equal ones with the n-th.

    Raises:
        ArtifactError: One arm (called by its name in ``names``) lacks items of the other.
    """
    before, after = _by_item(rows_a), _by_item(rows_b)
    missing = [
        f"arm {name!r} lacks {len(keys)} items, first {_item_name(min(keys))}"
        for name, keys in zip(
            names, (after.keys() - before.keys(), before.keys() - after.keys()), strict=True
        )
        if keys
    ]
    if missing:
        raise ArtifactError(
            f"answers cannot be paired: {'; '.join(missing)}; both arms must answer the same "
            "items: rerun generate_answers"
        )
    differences = (
        dict(row) | {metric: after[key][metric] - row[metric] for metric in METRICS}
        for key, row in before.items()
    )
    return summarise(differences, params)


_Key = tuple[str, int, str, int]  # task, seed, id, how many equal ones came before


def _by_item(rows: Iterable[Row]) -> dict[_Key, Row]:
    seen: Counter[tuple[str, int, str]] = Counter()
    found = {}
    for row in rows:
        key = (row["task"], row["seed"], row["id"])
        found[*key, seen[key]] = row
        seen[key] += 1
    return found


def _item_name(key: _Key) -> str:
    task, seed, item, occurrence = key
    return f"{task}, seed {seed}, id {item!r}" + (" (repeated)" if occurrence else "")


def _summarise_task(rows: list[Row], params: AnswerScoringParams) -> dict[str, dict[str, Any]]:
    values = np.asarray([[row[metric] for metric in METRICS] for row in rows], dtype=np.float64)
    seed_of = np.asarray([row["seed"] for row in rows])
    seeds = np.unique(seed_of)
    means = np.stack([values[seed_of == seed].mean(axis=0) for seed in seeds])
    spread = means.std(axis=0, ddof=1).tolist() if len(seeds) > 1 else [None] * len(METRICS)
    # Numbered in the order of their ids: the order of a file must not decide what is drawn.
    _, item_of = np.unique([row["id"] for row in rows], return_inverse=True)
    low, high = _interval(values, item_of, params)
    return {
        metric: {
            "mean": float(means[:, place].mean()),
            "sd": spread[place],
            "ci": [float(low[place]), float(high[place])],
            "per_seed": dict(zip(map(str, seeds), means[:, place].tolist(), strict=True)),
        }
        for place, metric in enumerate(METRICS)
    }


def _interval(values: np.ndarray, item_of: np.ndarray, params: AnswerScoringParams) -> np.ndarray:
    """Return the bootstrap interval of each column's mean, ``float64[2, columns]``.

    Args:
        values: ``float64[rows, columns]``.
        item_of: ``int64[rows]``, the item (0, 1, ...) of each row.
        params: How to resample.
    """
    items = int(item_of.max()) + 1
    totals = np.zeros((items, values.shape[1] + 1))  # the last column counts the item's rows
    np.add.at(totals, item_of, np.column_stack([values, np.ones(len(values))]))
    rng = np.random.default_rng(params.seed)
    parts = []
    for start in range(0, params.bootstrap_resamples, RESAMPLES_AT_ONCE):
        count = min(RESAMPLES_AT_ONCE, params.bootstrap_resamples - start)
        parts.append(_times_drawn(rng, count, items) @ totals)
    drawn = np.concatenate(parts)
    tail = (1 - params.confidence) / 2
    return np.quantile(drawn[:, :-1] / drawn[:, -1:], [tail, 1 - tail], axis=0)


def _times_drawn(rng: np.random.Generator, resamples: int, items: int) -> np.ndarray:
    """Return how often each resample draws each item, ``float64[resamples, items]``."""
    drawn = rng.integers(items, size=(resamples, items))
    places = drawn + np.arange(resamples)[:, None] * items
    counts = np.bincount(places.ravel(), minlength=resamples * items)
    return counts.reshape(resamples, items).astype(np.float64)
