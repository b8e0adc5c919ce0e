"""v7 against one change at a time at equal CPU time, and sizes that foretell a larger one.

Every row is an experiment, run with ``dvc exp run --temp`` and kept by Git and DVC (``dvc exp
show``, ``dvc exp apply study-...``). Before it, a few steps are timed here, and its epochs are
those that fill the time with what is done before the first step. What ``dvc repro`` left must be
committed. Rows that ``benchmarks/results/study.json`` has already are not measured again.
"""

import csv
import io
import json
import logging
import math
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.measure import environment
from benchmarks.quality import crossing
from cordel.compute import ComputeParams, decide, seed_everything
from cordel.kneser_ney import KneserNey
from cordel.models import build_model, parse_architecture
from cordel.runtime.errors import UserError
from cordel.runtime.files import read_json, write_text
from cordel.runtime.params import parse, read_params, read_section
from cordel.tokens import read_ids, read_meta
from cordel.training.loop import Trainer
from cordel.training.params import RunParams

log = logging.getLogger("study")

PLAN = Path(__file__).with_suffix(".yaml")
KEPT = Path("benchmarks/results/study.json")
TOKENS = Path("data/tokens/v7_lossless")
PARTS = ("variants", "chosen", "sizes")
RUN = "models.v7"
VOCABULARY = "tokenizers.unigram_v7.vocab_size"
STAGES = ("train_tokenizer@unigram_v7", "encode_corpus@v7_lossless", "train_lm@v7")
TIMED_STEPS = 6
QUICK_SECONDS = 2.0

Changes = Mapping[str, Any]


def measure(*, quick: bool) -> dict[str, Any]:
    """Return the variants, the sizes, and the fit over the sizes but the last."""
    plan = yaml.safe_load(PLAN.read_text(encoding="utf-8"))
    found: dict[str, Any] = {"seconds": plan["seconds"]} | {part: {} for part in PARTS}
    if quick:
        found["chosen"]["as chosen"] = experiment("quick", {}, QUICK_SECONDS)
        call("dvc", "exp", "remove", "study-quick")
        return found | {"seconds": QUICK_SECONDS}
    if KEPT.exists():
        found |= {part: read_json(KEPT)[part] for part in PARTS}
    rows = [
        *(("variants", n, plan["seconds"], plan["base"] | c) for n, c in plan["variants"].items()),
        *(("chosen", n, plan["seconds"], c) for n, c in plan["chosen"].items()),
        *(("sizes", n, size["seconds"], size["changes"]) for n, size in plan["sizes"].items()),
    ]
    for part, name, seconds, changes in rows:
        kept = found[part].get(name, {})
        if (kept.get("seconds"), kept.get("changes")) != (seconds, changes):
            found[part][name] = experiment(name, changes, seconds)
            so_far = {"environment": environment() | {"load_after": None}} | found
            write_text(KEPT, json.dumps(so_far, indent=1, ensure_ascii=False))
        log.info("%s: %s", name, found[part][name]["val_bits_per_byte"])
    return found | {"fit": foretold(list(found["sizes"].values())), "trigrams": trigrams()}


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerLaw:
    """bits = floor + factor x seconds^-exponent."""

    floor: float
    factor: float
    exponent: float
    largest_error: float  # of the points that it was fitted to

    def at(self, seconds: float) -> float:
        """Return bits per byte after so many CPU seconds."""
        return self.floor + self.factor * seconds**-self.exponent

    def reaches(self, bits: float) -> float | None:
        """Return after how many CPU seconds it is down at ``bits``; None: never."""
        if bits <= self.floor or self.exponent <= 0:
            return None
        return float(f"{((bits - self.floor) / self.factor) ** (-1 / self.exponent):.3g}")

    def as_json(self) -> dict[str, float]:
        """Return the four numbers, rounded."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


def power_law(
    points: Sequence[tuple[float, float]], floors: Sequence[float] | None = None
) -> PowerLaw:
    """Fit a power law to (seconds, bits per byte).

    The floor is searched for, or one of ``floors``; the rest is a line through the logarithms.
    """
    seconds, bits = np.array(points).T
    tried = np.linspace(0.0, bits.min() - 0.01, 400).tolist() if floors is None else floors

    def fitted(floor: float) -> PowerLaw:
        slope, factor = np.polyfit(np.log(seconds), np.log(bits - floor), 1)
        error = np.abs(floor + np.exp(factor) * seconds**slope - bits).max()
        return PowerLaw(
            floor=floor,
            factor=float(np.exp(factor)),
            exponent=-float(slope),
            largest_error=float(error),
        )

    return min(map(fitted, tried), key=lambda law: law.largest_error)


def overtakes(points: Sequence[tuple[float, float]], line: float) -> dict[str, Any]:
    """Return when (seconds, bits per byte) come down to ``line``: measured, or by a law over them.

    Beside the law's own second stands that of one without a floor, which is never later.
    """
    if (measured := crossing(points, line)) is not None:
        return {"measured": round(measured)}
    law, straight = power_law(points), power_law(points, floors=(0.0,))
    return {"law": law.reaches(line), "law_without_floor": straight.reaches(line)}


def foretold(sizes: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Fit a power law to all sizes but the last, and foretell the last."""
    points = [(size["cpu_seconds"], size["val_bits_per_byte"]) for size in sizes]
    law = power_law(points[:-1])
    return law.as_json() | {"foretold": round(law.at(points[-1][0]), 4)}


def trigrams() -> float:
    """Return bits per byte of val under Kneser-Ney trigrams of the train text."""
    meta = read_meta(TOKENS)
    train, val = (
        [ids[len(meta.begin) :] for ids in np.split(all_ids, np.flatnonzero(ends) + 1)[:-1]]
        for all_ids in (read_ids(TOKENS, "train"), read_ids(TOKENS, "val"))
        for ends in (np.isin(all_ids, meta.end),)
    )
    model = KneserNey(3, meta.vocab_size, begin=meta.begin[0]).fit(train)
    nats = sum(model.nats(ids) for ids in val)
    return round(nats / math.log(2) / meta.splits["val"].bytes, 4)


def experiment(name: str, changes: Changes, seconds: float) -> dict[str, Any]:
    """Run v7 with ``changes`` for about so many CPU seconds, as an experiment of DVC."""
    slug = "study-" + re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    begin, a_step, steps_per_epoch = timed(changes)
    steps = max(2, (seconds - begin) / a_step)
    epochs = float(f"{steps / steps_per_epoch:.4g}")
    values = {
        **changes,
        f"{RUN}.training.epochs": epochs,
        f"{RUN}.training.schedule_epochs": epochs,
        f"{RUN}.training.evaluations": 1,
    }
    sets = [part for key, value in values.items() for part in ("-S", f"{key}={_text(value)}")]
    stages = STAGES if VOCABULARY in changes else STAGES[-1:]
    call("dvc", "exp", "run", "--temp", "-f", "-s", "-n", slug, *sets, *stages)
    head = call("git", "rev-parse", "HEAD").strip()
    ref = f"refs/exps/{head[:2]}/{head[2:]}/{slug}"  # where DVC keeps experiments of a commit
    record = json.loads(call("git", "show", f"{ref}:metrics/ledger/train_lm/v7.json"))[-1]
    curve = list(csv.DictReader(io.StringIO(call("git", "show", f"{ref}:plots/curves/v7.csv"))))
    return {
        "seconds": seconds,
        "changes": dict(changes),
        "experiment": slug,
        "parameters": record["parameters"],
        "tokens": record["tokens"]["processed"],
        "steps": int(curve[-1]["step"]),
        "cpu_seconds": round(begin + a_step * int(curve[-1]["step"]), 1),
        "stage_cpu_seconds": record["cpu_seconds"],
        "peak_memory_mib": record["peak_memory_mib"],
        "at_the_start": float(
            next(r for r in reversed(curve) if r["step"] == "0")["val_bits_per_byte"]
        ),
        "val_bits_per_byte": float(curve[-1]["val_bits_per_byte"]),
    }


def timed(changes: Changes) -> tuple[float, float, int]:
    """Return CPU seconds before the first step and of a step, and steps an epoch.

    Another vocabulary is timed on the ids at hand, those that it does not have clipped.
    """
    section = {RUN: read_section(RUN)}
    for key, value in changes.items():
        if key.startswith(f"{RUN}."):
            *path, last = key.removeprefix(f"{RUN}.").split(".")
            inner = section[RUN]
            for part in path:
                inner = inner[part]
            inner[last] = value
    run = parse(section[RUN], RunParams, RUN)
    meta = read_meta(TOKENS)
    size = changes.get(VOCABULARY, meta.vocab_size)
    ids = np.minimum(read_ids(TOKENS, "train"), size - 1)
    seed_everything(run.training.seed)
    model = build_model(
        run.architecture,
        parse_architecture(run.architecture, run.model, RUN),
        vocab_size=size,
        context_length=run.training.context_length,
    )
    begun = time.process_time()
    trainer = Trainer(
        model,
        replace(run.training, epochs=1.0, schedule_epochs=1.0),
        train_ids=ids,
        val_ids=ids[:1],
        val_meta=meta.splits["val"],
        compute=decide(read_params("compute", ComputeParams)),
    )
    trainer.begin()
    before = time.process_time() - begun
    took = []
    for _ in range(TIMED_STEPS + 1):
        begun = time.process_time()
        trainer.take_step()
        took.append(time.process_time() - begun)
    return before, float(np.median(took[1:])), trainer.batches.steps_per_epoch


def call(*command: str) -> str:
    """Run a command of Git or DVC and return what it wrote.

    Raises:
        UserError: It failed.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise UserError(f"{' '.join(command)} failed: {done.stderr.strip()[-2000:]}")
    return done.stdout


def _text(value: Any) -> str:
    return "null" if value is None else str(value)
