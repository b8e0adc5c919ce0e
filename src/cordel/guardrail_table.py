"""``cordel guardrails``: calibrate the guardrail on a text of one's own, and say what it is worth.

The documents of each register are dealt out by a hash: to the reference, to fit the scales, to set
the threshold, and to evaluate. Registers count alike, whatever their size.
"""

import logging
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np

from cordel.corpus.documents import Document
from cordel.corpus.sources import CorpusParams, HubParams, local_documents, rank
from cordel.evaluation.calibration import (
    RUN_LEVEL,
    CalibrationParams,
    Guardrail,
    People,
    allowed_failures,
)
from cordel.evaluation.guardrails import GuardrailParams
from cordel.evaluation.passages import (
    FEATURES,
    Passage,
    Reference,
    shuffled_words,
    uniform_noise,
    unigram_noise,
    windows_of,
)
from cordel.reporting.markdown import markdown_table
from cordel.runtime.errors import InputError
from cordel.runtime.files import write_text
from cordel.tokenizers.subword import SubwordTokenizer

log = logging.getLogger("cordel")

ROLES = ("reference", "fit", "calibration", "evaluation")
REFERENCE_CHARACTERS = 12_000_000  # of all registers together
DOCUMENT_CHARACTERS = 20_000  # of one document of the reference, at most
CHARACTERS_PER_ID = 6  # more than any of the thesis' tokenizers reaches
THESIS = GuardrailParams(max_fallback_ratio=0.03, max_short_piece_ratio=0.12)
NOISES = {"uniform": "(a) uniform", "unigram": "(b) unigram", "shuffled": "(c) shuffled words"}
SAMPLES = 5  # of one model, as in the thesis

INTRODUCTION = """\
# Guardrails on samples

A guardrail says whether a sample looks like text at all, before anybody reads it. The thesis' rule
cuts the sample into pieces again, and at most {short} of them may be one or two letters inside a
word, and at most {fallback} may be bytes. That measures the tokenizer: most of what people write
fails, and noise may pass (thesis sections 0.3, 4.4 and 7). Ours is calibrated on people.

## How it works

- **What is measured:** the ids that the model produced, without the prompt. The shares of unknown
  ids, of byte pieces and of short pieces; the share of 4-grams of ids that came before; the share
  of different 2-grams; the share of words that the reference text does not have; bits per byte
  under a Kneser-Ney n-gram (order {order}) over the same ids; and the **order gain**, by how many
  bits a word that n-gram prefers the sample to the same words in a random order. Noise of any kind
  gains nothing there, whatever its register.
- **What is normal:** human passages of the same length in the same tokenizer. On each side of each
  feature, the last fifth of them gives an edge and a unit, its mean excess; a sample's score is its
  worst deviation from an edge, in such units.
- **When a sample fails:** above a threshold from split conformal prediction on passages of other
  documents, so that at most {rate} of human passages fail. How many do, in documents of a third
  group, is printed below. Of {samples} samples of a run {allowed} may fail: people would exceed
  that in {beyond} of runs (at most {level} is allowed).
- **What that is worth:** the area under the ROC curve (AUC), the probability that noise scores
  worse than people. 1 is perfect, 0.5 is a coin, and below 0.5 noise looks better than people.

## How to read it, and what it cannot tell

A sample that fails is unlike the calibration text, and the report names the feature. A sample that
passes is not thereby true, coherent or useful, and one that was copied from the training text
passes too. The bands hold for this text, this tokenizer and this length; other text needs a
calibration of its own, which is one command. The false-alarm rate is that of all registers
together, not of each one (last table). Passages of one document are alike, which the guarantee does
not foresee: hence the measured rate beside it. A short sample says less than a long one.
"""
MEASURED = """\
## Measured

Text: `{text}`, {documents:,} documents in {registers} registers, which count alike. Made by:

```bash
{command}
```

A tokenizer without any capital gets lower-cased text (marked *). Noise (d), a model at 1 % of its
training, needs a training: the pipeline's stages `sample_early` and `check_samples` write its AUC
to `metrics/guardrails/tokenizers/`, beside the same figures for the pipeline's own tokenizers.

The documents were dealt to reference, fit, calibration and evaluation, and the roles then passed
on: {deals} deals in all. AUC of people against as many passages of noise, mean over the deals and
(lowest of them); people are those of all deals together.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was found for one tokenizer at one length."""

    tokenizer: str
    pieces: int
    lowercase: bool
    length: int
    separations: list[dict[str, Any]]  # one for each deal
    registers: dict[str, tuple[int, int]]  # passages of all deals, and how many of them fail

    def mean(self, *keys: str) -> float:
        """Return the mean over the deals of a value of ``separations``."""
        return float(np.mean(self.values(*keys)))

    def values(self, *keys: str) -> list[float]:
        """Return the value of each deal."""
        found: list[Any] = self.separations
        for key in keys:
            found = [value[key] for value in found]
        return found


def write_guardrail_table(
    models: Sequence[Path],
    text: str,
    out: Path,
    *,
    lengths: Sequence[int] = (280, 80),
    windows: int = 400,
    rate: float = 0.05,
    seed: int = 42,
    deals: int = len(ROLES),
) -> list[Measured]:
    """Calibrate on ``text`` in each tokenizer and write the tables.

    Args:
        models: SentencePiece models.
        text: A folder, a file or a glob of documents (see ``cordel.corpus.sources``).
        out: The Markdown file.
        lengths: Of passages, in ids.
        windows: Human passages to fit, to calibrate, to evaluate, and of each noise.
        rate: Of human passages that may fail.
        seed: Of everything that is drawn.
        deals: How often the roles are passed on: with 4, each document has had each.

    Raises:
        InputError: A model or the text cannot be read, or there is too little text.
    """
    params = CalibrationParams(
        on_failure="warn",
        must_pass=(),
        false_alarm_rate=rate,
        windows=windows,
        reference_tokens=REFERENCE_CHARACTERS,
        order=3,
        char_order=6,
        seed=seed,
        thesis=THESIS,
    )
    tokenizers = {_name(path, models): _load(path) for path in models}
    dealt = deal(read_registers(text), seed=seed)
    found = []
    for name, tokenizer in tokenizers.items():
        turns = [
            measure(name, tokenizer, passed_on(dealt, turn), lengths, params)
            for turn in range(deals)
        ]
        found += [pooled(same_length) for same_length in zip(*turns, strict=True)]
        log.info("%s: done", name)
    lines = [
        *(quote(str(path)) for path in models),
        f"--text {quote(text)} --out {quote(str(out))}",
    ]
    command = " \\\n  ".join(["cordel guardrails --tokenizer", *lines])
    write_text(out, render(found, dealt, params, text=text, command=command))
    return found


# --- The text -------------------------------------------------------------------------------------


def read_registers(text: str) -> dict[str, list[Document]]:
    """Return the documents below ``text`` by their source; without one, they are of one register.

    Raises:
        InputError: Nothing is there, or a file is broken.
    """
    path = Path(text)
    wild = next((k for k, part in enumerate(path.parts) if set(part) & set("*?[")), None)
    root = path if wild is None else Path(*path.parts[:wild])
    pattern = "*" if wild is None else str(Path(*path.parts[wild:]))
    params = CorpusParams(
        source="jsonl",
        path=str(root),
        pattern=pattern,
        text_field="text",
        hub=HubParams(dataset="", revision="", split=""),
        max_documents=1,
        seed=0,
        paragraph_marker="",
    )
    registers: dict[str, list[Document]] = defaultdict(list)
    for document in local_documents(params):
        registers[document.source or "text"].append(document)
    return dict(registers)


def deal(
    registers: Mapping[str, Sequence[Document]], *, seed: int
) -> dict[str, dict[str, list[str]]]:
    """Return the texts of each register by role, dealt in turn in the order of a hash.

    Raises:
        InputError: A register has fewer documents than there are roles.
    """
    dealt = {}
    for register, documents in sorted(registers.items()):
        if len(documents) < len(ROLES):
            raise InputError(
                f"{register}: {len(documents)} documents, expected at least {len(ROLES)}: to learn "
                "from, to fit, to calibrate and to evaluate; leave it out or divide its documents"
            )
        ordered = sorted(documents, key=lambda document: rank(seed, document.id))
        dealt[register] = {
            role: [d.text for d in ordered[k :: len(ROLES)]] for k, role in enumerate(ROLES)
        }
    return dealt


def passed_on(
    dealt: Mapping[str, Mapping[str, list[str]]], turn: int
) -> dict[str, dict[str, list[str]]]:
    """Return the deal after each role's documents went ``turn`` roles further."""
    places = range(len(ROLES))
    return {
        register: {ROLES[(k + turn) % len(ROLES)]: texts[ROLES[k]] for k in places}
        for register, texts in dealt.items()
    }


def pooled(turns: Sequence[Measured]) -> Measured:
    """Return what was found in several deals of one tokenizer and length."""
    counts = {
        register: np.sum([m.registers[register] for m in turns], axis=0).tolist()
        for register in turns[0].registers
    }
    return replace(
        turns[0],
        separations=[separation for m in turns for separation in m.separations],
        registers={register: (n, failed) for register, (n, failed) in counts.items()},
    )


def beginnings(texts: Sequence[str], characters: int) -> list[str]:
    """Return the beginnings of the first texts, ``characters`` together."""
    cut = [text[:DOCUMENT_CHARACTERS] for text in texts]
    sizes = np.cumsum([len(text) for text in cut])
    return cut[: int(np.searchsorted(sizes, characters)) + 1]


def excerpts(
    texts: Sequence[str], windows: int, length: int, rng: np.random.Generator
) -> list[str]:
    """Return a part of each of some texts, from a random word on: twice what ``windows`` take.

    Of as many texts as there are windows, if so many are long enough: windows of one document are
    alike, and a register whose windows come from two documents is those two documents.
    """
    window = length * CHARACTERS_PER_ID
    chosen = sorted(texts, key=lambda text: len(text) < window)[:windows]
    size = 2 * window * math.ceil(windows / len(chosen))
    found = []
    for text in chosen:
        start = int(rng.integers(max(1, len(text) - size)))
        start = text.find(" ", start) + 1 if start else 0
        found.append(text[start : start + size])
    return found


# --- One tokenizer --------------------------------------------------------------------------------


def _name(path: Path, models: Sequence[Path]) -> str:
    """Return the name of the model's folder, or its path if another one has that name."""
    name = path.resolve().parent.name
    return name if [other.resolve().parent.name for other in models].count(name) == 1 else str(path)


def _load(path: Path) -> SubwordTokenizer:
    try:
        return SubwordTokenizer(path.read_bytes())
    except (OSError, RuntimeError) as error:
        message = " ".join(str(error).split())
        raise InputError(f"{path}: not a SentencePiece model ({message}); give a .model") from None


def is_lowercase(tokenizer: SubwordTokenizer) -> bool:
    """Tell whether a tokenizer learnt from lower-cased text: none of its pieces has a capital."""
    ids = [k for k in range(tokenizer.vocab_size) if not tokenizer.processor.is_byte(k)]
    ids = [k for k in ids if k not in (*tokenizer.undrawable, *tokenizer.end)]
    return not any(c.isupper() for piece in tokenizer.pieces(ids) for c in piece)


def measure(
    name: str,
    tokenizer: SubwordTokenizer,
    dealt: Mapping[str, Mapping[str, Sequence[str]]],
    lengths: Sequence[int],
    params: CalibrationParams,
) -> list[Measured]:
    """Return what the guardrail is worth in one tokenizer, at each length."""
    lowercase = is_lowercase(tokenizer)
    each = math.ceil(params.windows / len(dealt))
    budget = REFERENCE_CHARACTERS // len(dealt)
    rng = np.random.default_rng(params.seed)

    def encoded(text: str) -> np.ndarray:
        return np.asarray(tokenizer.encode(text.lower() if lowercase else text), dtype=np.int64)

    learnt = [text for roles in dealt.values() for text in beginnings(roles["reference"], budget)]
    documents = [encoded(text) for text in learnt]
    people = {
        role: {
            register: [encoded(t) for t in excerpts(roles[role], each, max(lengths), rng)]
            for register, roles in dealt.items()
        }
        for role in ROLES[1:]
    }
    reference = Reference(tokenizer, documents, order=params.order, seed=params.seed)
    return [
        _measure_at(name, reference, people, length, each, params, lowercase=lowercase)
        for length in lengths
    ]


def _measure_at(
    name: str,
    reference: Reference,
    texts: Mapping[str, Mapping[str, Sequence[np.ndarray]]],
    length: int,
    each: int,
    params: CalibrationParams,
    *,
    lowercase: bool,
) -> Measured:
    rng = np.random.default_rng(params.seed)
    people: dict[str, list[Passage]] = {}
    registers: list[str] = []  # of the passages of the last role, evaluation
    for role, by_register in texts.items():
        people[role], registers = [], []
        for register, documents in by_register.items():
            chosen = spread(
                [windows_of(d, reference.opens, (length, length), rng) for d in documents], each
            )
            people[role] += [reference.passage(window) for window in chosen]
            registers += [register] * len(chosen)
    guardrail = Guardrail(reference, People(**people), params)
    fails = np.asarray(guardrail.human_scores) > guardrail.threshold
    names = np.asarray(registers)
    evaluation = people["evaluation"]
    noises = {
        "uniform": uniform_noise(reference, [length] * len(evaluation), rng),
        "unigram": unigram_noise(reference, [length] * len(evaluation), rng),
        "shuffled": shuffled_words(reference, evaluation, rng),
    }
    return Measured(
        tokenizer=name,
        pieces=reference.tokenizer.vocab_size,
        lowercase=lowercase,
        length=length,
        separations=[guardrail.separation(noises)],
        registers={
            register: (int((names == register).sum()), int(fails[names == register].sum()))
            for register in texts["evaluation"]
        },
    )


def spread(windows: Sequence[Sequence[np.ndarray]], count: int) -> list[np.ndarray]:
    """Return at most ``count`` windows: the first of each document, then the second, and so on."""
    turns = zip_longest(*windows)
    return [window for turn in turns for window in turn if window is not None][:count]


# --- The page -------------------------------------------------------------------------------------


def render(
    found: Sequence[Measured],
    dealt: Mapping[str, Mapping[str, Sequence[str]]],
    params: CalibrationParams,
    *,
    text: str,
    command: str,
) -> str:
    """Return the page."""
    allowed, beyond = allowed_failures(SAMPLES, params.false_alarm_rate)
    documents = sum(len(texts) for roles in dealt.values() for texts in roles.values())
    parts = [
        INTRODUCTION.format(
            short=_percent(THESIS.max_short_piece_ratio),
            fallback=_percent(THESIS.max_fallback_ratio),
            order=params.order,
            rate=_percent(params.false_alarm_rate),
            samples=SAMPLES,
            allowed=allowed,
            beyond=_percent(beyond),
            level=_percent(RUN_LEVEL),
        ),
        MEASURED.format(
            text=text,
            documents=documents,
            registers=len(dealt),
            deals=len(found[0].separations),
            command=command,
        ),
        _separation_table(found),
        "\n### Who passes\n\nThe share that passes; of people, 1 minus the false alarms.\n",
        _pass_table(found),
        "\n### Bands\n\nMedian of people, and beyond which value a sample fails by that alone, "
        "in the first deal.\n",
        _band_table(found),
        "\n### False alarms by register\n\nOver all tokenizers. "
        f"{_percent(params.false_alarm_rate)} is that of the mixture: registers that are unlike "
        "the others fail more often,\nand most fail less.\n",
        _register_table(found),
    ]
    return "\n".join(parts) + "\n"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def _label(m: Measured) -> list[str]:
    return [m.tokenizer + (" *" if m.lowercase else ""), f"{m.pieces:,}", str(m.length)]


def _separation_table(found: Sequence[Measured]) -> str:
    header = ["tokenizer", "pieces", "ids", "people", "false alarms"]
    header += [f"{title} {who}" for title in NOISES.values() for who in ("ours", "thesis")]
    rows = []
    for m in found:
        people = int(sum(m.values("human", "evaluation")))
        row = [*_label(m), f"{people:,}", f"{m.mean('realised_false_alarm_rate'):.3f}"]
        for noise in NOISES:
            lowest = min(m.values("noise", noise, "auc"))
            row.append(f"{m.mean('noise', noise, 'auc'):.3f} ({lowest:.3f})")
            row.append(f"{m.mean('noise', noise, 'thesis_auc'):.3f}")
        rows.append(row)
    return markdown_table(header, rows)


def _pass_table(found: Sequence[Measured]) -> str:
    header = ["tokenizer", "pieces", "ids"]
    header += [f"{t} {who}" for t in ("people", *NOISES.values()) for who in ("ours", "thesis")]
    rows = []
    for m in found:
        groups = [("human",), *(("noise", noise) for noise in NOISES)]
        keys = [(*group, key) for group in groups for key in ("pass_share", "thesis_pass_share")]
        rows.append([*_label(m), *(f"{m.mean(*path):.3f}" for path in keys)])
    return markdown_table(header, rows)


def _band_table(found: Sequence[Measured]) -> str:
    rows = [
        [*_label(m), *(_band(m.separations[0]["bands"][name]) for name in FEATURES)] for m in found
    ]
    return markdown_table(["tokenizer", "pieces", "ids", *FEATURES], rows)


def _band(band: Mapping[str, float | None]) -> str:
    low, high = band["low"], band["high"]
    if low is None:
        return f"{band['centre']:.3f} (≤ {high:.3f})"
    if high is None:
        return f"{band['centre']:.3f} (≥ {low:.3f})"
    return f"{band['centre']:.3f} ({low:.3f} to {high:.3f})"


def _register_table(found: Sequence[Measured]) -> str:
    """Return the false alarms of each register over all tokenizers, most first."""
    lengths = list(dict.fromkeys(m.length for m in found))
    shares: dict[str, list[float | None]] = {}
    for register in found[0].registers:
        at = [[m.registers[register] for m in found if m.length == n] for n in lengths]
        sums = [np.sum(counts, axis=0) for counts in at]
        shares[register] = [float(failed / n) if n else None for n, failed in sums]
    ordered = sorted(shares, key=lambda name: [-(share or 0.0) for share in shares[name]])
    rows = [
        [name, *("–" if share is None else f"{share:.3f}" for share in shares[name])]
        for name in ordered
    ]
    return markdown_table(["register", *(f"{n} ids" for n in lengths)], rows)
