"""Train a run for the first hundredth of its steps and sample it: a noise for the guardrail."""

import argparse
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cordel.compute import Compute, ComputeParams, decide, seed_everything
from cordel.corpus.normalisation import Normalisation, normalise
from cordel.evaluation.sampling import SamplingParams, generate
from cordel.models import build_model, parse_architecture
from cordel.runtime.console import progress, run_stage
from cordel.runtime.files import write_json
from cordel.runtime.ledger import ledger
from cordel.runtime.params import read_params, require
from cordel.tokenizers.saved import load_tokenizer
from cordel.tokens import TokensMeta, read_ids, read_meta
from cordel.training.loop import Trainer
from cordel.training.params import RunParams

log = logging.getLogger(Path(__file__).stem)
SEED_STEP = 1000  # between samples of one prompt, as in sample_lm


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyParams:
    """The section ``early`` of params.yaml."""

    share: float  # of the run's steps
    samples: int

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(0 < self.share <= 1, f"share is {self.share}, expected 0 < x <= 1")
        require(self.samples > 0, f"samples is {self.samples}, expected at least 1")


def trained(
    run: RunParams, share: float, *, tokens: Path, meta: TokensMeta, compute: Compute, label: str
) -> tuple[Any, int, int]:
    """Return the model after its first steps, how many, and how many make the whole run.

    The steps are those of train_lm: the same weights, windows and rates, since a schedule's length
    is a parameter of its own; but what counting gives a run at its start is left out, as a text of
    bigrams is no noise. Nothing is saved or evaluated.
    """
    shape = parse_architecture(run.architecture, run.model, f"params.yaml: models.{label}")
    seed_everything(run.training.seed)
    model = build_model(
        run.architecture,
        shape,
        vocab_size=meta.vocab_size,
        context_length=run.training.context_length,
    )
    trainer = Trainer(
        model,
        replace(run.training, bigram_start=None, teacher_share=0.0),
        train_ids=read_ids(tokens, "train"),
        val_ids=read_ids(tokens, "val"),
        val_meta=meta.splits["val"],
        compute=compute,
    )
    steps = max(1, round(share * trainer.total_steps))
    for _ in progress(range(steps), label=label, unit="steps", total=steps):
        trainer.take_step()
    return trainer.model.eval(), steps, trainer.total_steps


def sampled(
    model: Any,
    count: int,
    params: SamplingParams,
    *,
    tokens: Path,
    meta: TokensMeta,
    compute: Compute,
) -> list[dict[str, Any]]:
    """Return ``count`` continuations of the standard prompts, in turn."""
    rules = Normalisation(**meta.normalisation)
    tokenizer = load_tokenizer(tokens / "tokenizer")
    found = []
    for number in progress(range(count), label="early", unit="samples", total=count):
        prompt = params.prompts[number % len(params.prompts)]
        seed = prompt.seed + SEED_STEP * (number // len(params.prompts))
        ids = generate(
            model,
            [*tokenizer.context, *tokenizer.encode(normalise(prompt.text, rules))],
            params,
            seed=seed,
            end=tokenizer.end,
            banned=tokenizer.undrawable,
            compute=compute,
        )
        found.append({"seed": seed, "ids": ids, "text": tokenizer.decode(ids)})
    return found


def main() -> None:
    """Write one JSON file with the samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True)
    parser.add_argument("--tokens", type=Path, required=True, help="tokens of its dataset")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--ledger", type=Path, required=True)
    args = parser.parse_args()
    early = read_params("early", EarlyParams)
    params = read_params("sampling", SamplingParams)
    run = read_params(f"models.{args.run}", RunParams)
    compute = decide(read_params("compute", ComputeParams))
    meta = read_meta(args.tokens)
    shared: dict[str, Any] = {"tokens": args.tokens, "meta": meta, "compute": compute}
    with ledger(args.ledger, stage=f"sample_early@{meta.tokenizer}") as record:
        model, steps, all_steps = trained(run, early.share, label=args.run, **shared)
        samples = sampled(model, early.samples, params, **shared)
        processed = steps * run.training.batch_size * run.training.context_length
        generated = sum(len(sample["ids"]) for sample in samples)
        record.update(
            compute.record() | {"tokens": {"processed": processed, "generated": generated}}
        )
    log.info("%s: %d samples after %d of %d steps", args.run, len(samples), steps, all_steps)
    head = {"run": args.run, "dataset": args.tokens.name, "steps": steps, "all_steps": all_steps}
    head |= {"tokenizer": meta.tokenizer, "tokenizer_sha256": meta.tokenizer_sha256}
    write_json(args.out, head | {"decoding": params.decoding(), "samples": samples})


if __name__ == "__main__":
    run_stage(main)
