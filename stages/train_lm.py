"""Train one run from scratch. A run that was interrupted goes on where it was saved."""

import argparse
import logging
from dataclasses import asdict, replace
from pathlib import Path

from cordel.checkpoints import ModelConfig, save_model
from cordel.compute import ComputeParams, decide, seed_everything
from cordel.models import build_model, count_parameters, parse_architecture
from cordel.runtime.console import run_stage
from cordel.runtime.files import new_directory, write_csv
from cordel.runtime.ledger import ledger
from cordel.runtime.params import read_params, seed
from cordel.runtime.unfinished import checkpoint_folder, fingerprint
from cordel.tokens import read_ids, read_meta
from cordel.training.loop import Trainer
from cordel.training.params import RunParams

log = logging.getLogger(Path(__file__).stem)
SOURCES = (
    "models/__init__.py",
    "compute.py",
    "kneser_ney.py",
    "losses.py",
    "training",
    "tokens.py",
)  # what the weights depend on


def source_files(architecture: str) -> list[Path]:
    """Return the code that a checkpoint in progress belongs to."""
    root = Path(__file__).resolve().parent.parent / "src" / "cordel"
    paths = [root / name for name in (*SOURCES, f"models/{architecture}.py")]
    return [
        file for path in paths for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path])
    ]


def main() -> None:
    """Write the model, its curve and its ledger."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True)
    parser.add_argument("--seed", type=seed, help="another one than the run's")
    parser.add_argument("--tokens", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--curve", type=Path, required=True)
    parser.add_argument("--ledger", type=Path, required=True)
    args = parser.parse_args()
    run = read_params(f"models.{args.run}", RunParams)
    name = args.run
    if args.seed is not None:
        name = f"{args.run}-{args.seed}"
        run = replace(run, training=replace(run.training, seed=args.seed))
    shape = parse_architecture(run.architecture, run.model, f"params.yaml: models.{args.run}")
    compute = decide(read_params("compute", ComputeParams))
    meta = read_meta(args.tokens)
    seed_everything(run.training.seed)
    model = build_model(
        run.architecture,
        shape,
        vocab_size=meta.vocab_size,
        context_length=run.training.context_length,
    )
    parameters = count_parameters(model)
    data = [args.tokens / "train.bin", args.tokens / "val.bin", args.tokens / "meta.json"]
    key = fingerprint(asdict(run), compute, files=data + source_files(run.architecture))
    with checkpoint_folder("train_lm", name, key) as folder:
        record_file = folder / "attempts.json"
        with ledger(args.ledger, stage=f"train_lm@{name}", pending=record_file) as record:
            trainer = Trainer(
                model,
                run.training,
                train_ids=read_ids(args.tokens, "train"),
                val_ids=read_ids(args.tokens, "val"),
                val_meta=meta.splits["val"],
                compute=compute,
            )
            log.info("%s: %s parameters, %d steps", name, f"{parameters:,}", trainer.total_steps)
            state = trainer.run(folder, name)
            record.update(compute.record() | {"parameters": parameters, "tokens": trainer.tokens()})
            record["gpu_peak_memory_mib"] = compute.gpu_peak_memory_mib()
        config = ModelConfig(
            run=name,
            architecture=run.architecture,
            model=asdict(shape),
            vocab_size=meta.vocab_size,
            context_length=run.training.context_length,
            parameters=parameters,
            tokenizer_sha256=meta.tokenizer_sha256,
            step=state.best_step,
            val_bits_per_byte=round(state.best_bits, 6),
        )
        with new_directory(args.out) as out:
            save_model(out, state.best_weights, config)
        write_csv(args.curve, state.curve)


if __name__ == "__main__":
    run_stage(main)
