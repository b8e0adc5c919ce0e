"""CPU time until v7 is as good as the thesis' v6 recipe at its best.

Both train on the same documents with as many parameters (within a tenth), three seeds each, for
the times below; rates come from the recipe as the thesis has it, and from one sweep over the same
rates for both. Lengths are in CPU seconds, so steps come from a few that are timed first. Scores
are bits per byte of the common test documents in consecutive windows.

Sizes are those of ``quality.yaml`` over params.yaml, which ``cordel profile ptbr`` should have set;
the text is all of ``data/clean``, not the share that the profile's runs train on.
"""

import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.measure import summary
from cordel.compute import ComputeParams, decide, seed_everything
from cordel.corpus.cleaning import CleaningParams
from cordel.corpus.documents import Document, read_documents
from cordel.corpus.normalisation import Normalisation, normalise
from cordel.models import build_model, count_parameters, parse_architecture
from cordel.runtime.params import parse, read_params, read_section
from cordel.tokenizers.saved import load_tokenizer
from cordel.tokens import SplitMeta
from cordel.training.loop import Trainer
from cordel.training.params import RunParams
from stages.encode_corpus import DatasetParams

log = logging.getLogger("quality")

RECIPE, OURS, SHORT = "v6_rc16k_v5b_aligned", "v7", "v7, a sixth of the start"
SEEDS = (1, 2, 3)
RATES = (5e-4, 1e-3, 2e-3, 4e-3)
TESTED = 24  # documents of each text that is scored
QUICK_TESTED, QUICK_DOCUMENTS = 1, 300
OVERLAY = Path(__file__).with_name("quality.yaml")


@dataclass(frozen=True, slots=True)
class Budget:
    """CPU seconds."""

    recipe: float
    ours: float
    sweep: float
    marks: int  # evaluations of a run


FULL = Budget(recipe=300, ours=120, sweep=60, marks=8)
QUICK = Budget(recipe=2, ours=2, sweep=1, marks=2)

Curve = list[tuple[float, ...]]  # CPU seconds, then bits per byte of each text


@dataclass(frozen=True, slots=True)
class Text:
    """A text as one run reads it."""

    ids: np.ndarray
    documents: list[np.ndarray]
    meta: SplitMeta


def measure(*, quick: bool) -> dict[str, Any]:
    """Return curves of bits per byte over CPU seconds, and what they say."""
    budget = QUICK if quick else FULL
    seeds = SEEDS[:1] if quick else SEEDS
    recipe, ours = (Run(name, quick=quick) for name in (RECIPE, OURS))
    short = Run(OURS, quick=quick, overlay=SHORT)
    found: dict[str, Any] = {"budget": asdict(budget)}
    found["parameters"] = {RECIPE: recipe.parameters, OURS: ours.parameters}
    rates = RATES[1:3] if quick else RATES
    found["sweep"] = {
        run.name: {f"{rate:g}": swept(run, budget.sweep, rate) for rate in rates}
        for run in (recipe, ours)
    }
    best = {name: float(min(bits, key=bits.__getitem__)) for name, bits in found["sweep"].items()}
    found["rates"] = {"thesis": recipe.params.training.learning_rate} | best
    names = ("recipe, the thesis' rate", "recipe, rate from the sweep", OURS, SHORT)
    curves: dict[str, list[Any]] = {name: [] for name in names}
    for seed in seeds:
        for name, run, seconds, rate in (
            ("recipe, the thesis' rate", recipe, budget.recipe, None),
            ("recipe, rate from the sweep", recipe, budget.recipe, best[RECIPE]),
            (OURS, ours, budget.ours, best[OURS]),
            (SHORT, short, budget.ours, best[OURS]),
        ):
            curve, _ = run.train(seconds, ["test"], seed=seed, rate=rate, marks=budget.marks)
            curves[name].append(curve)
            log.info("%s, seed %d: %s", name, seed, curves[name][-1][-1])
    found["curves"] = curves
    found["ratios"] = {
        f"{own}; the {name}": ratios(curves[name], curves[own])
        for name in names[:2]
        for own in (OURS, SHORT)
    }
    return found


def swept(run: "Run", seconds: float, rate: float) -> float:
    """Return bits per byte of val at the end of a run of the sweep."""
    curve, _ = run.train(seconds, ["val"], seed=SEEDS[0], rate=rate, marks=1)
    return curve[-1][1]


def ratios(theirs: Sequence[Curve], ours: Sequence[Curve]) -> Any:
    """Return, seed by seed, CPU time of ours over theirs until theirs' best bits per byte.

    Theirs counts up to the evaluation at which it was best; ours, linear between evaluations. None
    where ours never was as good.
    """
    pairs = []
    for other, own in zip(theirs, ours, strict=True):
        bits = min(point[1] for point in other)
        until = next(point[0] for point in other if point[1] == bits)
        reached = crossing(own, bits)
        pairs.append({"bits": bits, "theirs": until, "ours": reached})
    done = [p["theirs"] / p["ours"] for p in pairs if p["ours"]]
    return {"pairs": pairs, "times_faster": summary(done) if len(done) == len(pairs) else None}


def crossing(curve: Sequence[tuple[float, ...]], bits: float) -> float | None:
    """Return the CPU second at which a curve comes down to ``bits``, or None."""
    before, higher = 0.0, math.inf
    for seconds, value, *_ in curve:
        if value <= bits:
            share = (higher - bits) / (higher - value) if math.isfinite(higher) else 1.0
            return before + (seconds - before) * share
        before, higher = seconds, value
    return None


def merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return nested ``values`` with ``changes``."""
    deeper = {
        key: merged(values[key], change) if isinstance(change, dict) else change
        for key, change in changes.items()
    }
    return values | deeper


class Run:
    """A run of params.yaml, trained for CPU time."""

    def __init__(self, name: str, *, quick: bool, overlay: str | None = None) -> None:
        """Read its texts and what it is, changed as ``quality.yaml`` says under ``overlay``."""
        changes = yaml.safe_load(OVERLAY.read_text(encoding="utf-8"))[overlay or name]
        section = merged(read_section(f"models.{name}"), changes)
        self.name, self.params = name, parse(section, RunParams, f"models.{name}")
        self.compute = decide(read_params("compute", ComputeParams))
        dataset = read_params(f"datasets.{self.params.dataset}", DatasetParams)
        self.tokenizer = load_tokenizer(Path("data/tokenizers") / dataset.tokenizer)
        rules = read_params(f"cleaning.{dataset.recipe}", CleaningParams).normalisation
        own, lossless = Path("data/clean", dataset.recipe), Path("data/clean/lossless")
        limit, tested = (QUICK_DOCUMENTS, QUICK_TESTED) if quick else (None, TESTED)
        train = self.text(read_documents(own / "train.parquet", limit=limit), None)
        self.train_ids = train.ids.astype(np.uint16)
        self.texts = {
            name: self.text(read_documents(lossless / f"{name}.parquet", limit=tested), rules)
            for name in ("val", "test", "reserved")
        }
        self.parameters = count_parameters(self.model(seed=0))

    def text(self, documents: Iterator[Document], rules: Normalisation | None) -> Text:
        """Return documents as this run's ids, with the bytes that they stand for."""
        t, parts, size, unknown = self.tokenizer, [], 0, 0
        for document in documents:
            text = normalise(document.text, rules) if rules else document.text
            parts.append(np.array([*t.begin, *t.encode(text), *t.end], dtype=np.int64))
            size += len(document.text.encode())
            unknown += t.unknown_bytes(text)
        ids = np.concatenate(parts)
        tokens = len(ids) - len(parts)  # the begin of a document is given, not predicted
        meta = SplitMeta(documents=len(parts), tokens=tokens, bytes=size, unknown_bytes=unknown)
        return Text(ids, parts, meta)

    def model(self, seed: int) -> Any:
        """Return the untrained model."""
        seed_everything(seed)
        return build_model(
            self.params.architecture,
            parse_architecture(self.params.architecture, self.params.model, self.name),
            vocab_size=self.tokenizer.vocab_size,
            context_length=self.params.training.context_length,
        )

    def trainer(self, *, seed: int, rate: float | None, steps: int) -> Trainer:
        """Return the trainer of a run of ``steps`` steps."""
        p = self.params.training
        windows = (len(self.train_ids) - p.context_length - p.stride) // p.stride + 1
        epochs = steps / max(1, windows // p.batch_size)
        training = replace(
            p,
            seed=seed,
            learning_rate=rate or p.learning_rate,
            epochs=epochs,
            schedule_epochs=epochs,
            warmup_steps=max(1, round(p.warmup_steps / 1000 * steps)),
        )
        text = self.texts["val"]
        return Trainer(
            self.model(seed),
            training,
            train_ids=self.train_ids,
            val_ids=text.ids,
            val_meta=text.meta,
            compute=self.compute,
        )

    def train(
        self, seconds: float, texts: Sequence[str], *, seed: int, rate: float | None, marks: int
    ) -> tuple[Curve, Any]:
        """Return (CPU seconds, bits per byte of each of ``texts``) along a run, and its model.

        ``seconds`` covers what is done before the first step, too.
        """
        timed = self.trainer(seed=seed, rate=rate, steps=1000)
        timed.take_step()
        begun = time.process_time()
        for _ in range(3):
            timed.take_step()
        a_step = (time.process_time() - begun) / 3
        begun = time.process_time()
        run = self.trainer(seed=seed, rate=rate, steps=1000)
        run.begin()
        spent = time.process_time() - begun
        steps = max(marks, round((seconds - spent) / a_step))
        schedule = self.trainer(seed=seed, rate=rate, steps=steps)
        run.schedule_steps, run.params = schedule.schedule_steps, schedule.params
        points = [self.point(run, texts, spent)]
        for mark in range(1, marks + 1):
            begun = time.process_time()
            while run.state.step < steps * mark // marks:
                run.take_step()
            spent += time.process_time() - begun
            points.append(self.point(run, texts, spent))
        return points, run.model

    def point(self, run: Trainer, texts: Sequence[str], spent: float) -> tuple[float, ...]:
        """Return one point of a curve."""
        found = [spent]
        for name in texts:
            text = self.texts[name]
            run.val_ids, run.val_meta = text.ids, text.meta
            run.evaluate()
            found.append(run.state.curve[-1]["val_bits_per_byte"])
        return tuple(round(value, 4) for value in found)
