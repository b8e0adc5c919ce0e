"""Continue the standard prompts with one run; keep ids, text, settings and the tokenizer's hash."""

import argparse
import logging
from pathlib import Path

from cordel.checkpoints import load_model
from cordel.compute import ComputeParams, decide
from cordel.corpus.normalisation import Normalisation, normalise
from cordel.evaluation.sampling import SamplingParams, generate
from cordel.runtime.console import progress, run_stage
from cordel.runtime.files import write_json
from cordel.runtime.ledger import ledger
from cordel.runtime.params import read_params
from cordel.tokenizers.saved import load_tokenizer
from cordel.tokens import read_meta

log = logging.getLogger(Path(__file__).stem)
SEED_STEP = 1000  # between samples of one prompt


def main() -> None:
    """Write one JSON file with all samples of the run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--tokens", type=Path, required=True, help="tokens of its dataset")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--ledger", type=Path, required=True)
    args = parser.parse_args()
    params = read_params("sampling", SamplingParams)
    compute = decide(read_params("compute", ComputeParams))
    meta = read_meta(args.tokens)
    rules = Normalisation(**meta.normalisation)
    tokenizer = load_tokenizer(args.tokens / "tokenizer")
    model, _ = load_model(args.model)
    model = model.to(compute.device)
    draws = [(p, k) for p in params.prompts for k in range(params.samples_per_prompt)]
    samples = []
    with ledger(args.ledger, stage=f"sample_lm@{args.run}") as record:
        for prompt, k in progress(draws, label=args.run, unit="samples", total=len(draws)):
            # What the model would have seen in training: its own normalisation, accents kept.
            text = normalise(prompt.text, rules)
            seed = prompt.seed + SEED_STEP * k
            ids = generate(
                model,
                [*tokenizer.context, *tokenizer.encode(text)],
                params,
                seed=seed,
                end=tokenizer.end,
                banned=tokenizer.undrawable,
                compute=compute,
            )
            sample = {"seed": seed, "prompt": text, "ids": ids, "text": tokenizer.decode(ids)}
            samples.append(sample | {"prompt_included": False})
        record.update(
            compute.record() | {"tokens": {"generated": sum(len(s["ids"]) for s in samples)}}
        )
    value = {
        "run": args.run,
        "tokenizer": meta.tokenizer,
        "tokenizer_sha256": meta.tokenizer_sha256,
        "kind": tokenizer.kind,
        "decoding": params.decoding(),
        "samples": samples,
    }
    write_json(args.out, value)
    log.info("%s: %d samples", args.run, len(samples))


if __name__ == "__main__":
    run_stage(main)
