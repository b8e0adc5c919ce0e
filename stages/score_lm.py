"""Score one run on the common test text and on its own: nats, perplexity, bits per byte."""

import argparse
import logging
from pathlib import Path
from typing import Any

from cordel.checkpoints import load_model
from cordel.compute import ComputeParams, decide
from cordel.evaluation.likelihood import Likelihood, total
from cordel.evaluation.scoring import ScoringParams, score_documents, window_protocol
from cordel.runtime.console import Progress, run_stage
from cordel.runtime.errors import ArtifactError
from cordel.runtime.files import rounded, write_json, write_jsonl
from cordel.runtime.ledger import ledger
from cordel.runtime.params import read_params
from cordel.tokens import read_meta, read_split

log = logging.getLogger(Path(__file__).stem)


def main() -> None:
    """Write the run's metrics and its score on each document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument(
        "--tokens", type=Path, required=True, help="evaluation tokens of its dataset"
    )
    parser.add_argument("--metrics", type=Path, required=True)
    parser.add_argument("--items", type=Path, required=True)
    parser.add_argument("--ledger", type=Path, required=True)
    args = parser.parse_args()
    params = read_params("scoring", ScoringParams)
    compute = decide(read_params("compute", ComputeParams))
    meta = read_meta(args.tokens)
    model, config = load_model(args.model)
    if config.tokenizer_sha256 != meta.tokenizer_sha256:
        raise ArtifactError(
            f"{args.model}: trained with another tokenizer than {args.tokens}; run dvc repro"
        )
    model = model.to(compute.device)

    def scored(split: str) -> list[Likelihood]:
        documents = read_split(args.tokens, split)
        shown = Progress(f"{args.run} {split}", "tokens", sum(len(d.ids) for d in documents))
        result = score_documents(
            model,
            documents,
            context=meta.context,
            begin=meta.begin,
            batch_size=params.batch_size,
            compute=compute,
            advance=shown.advance,
        )
        shown.close()
        return result

    with ledger(args.ledger, stage=f"score_lm@{args.run}") as record:
        per_document = scored("common")
        common, own = total(per_document), total(scored("own"))
        metrics: dict[str, Any] = {
            "nats": common.nats,
            "tokens": common.tokens,
            "bytes": common.bytes,
            "unk_bytes": common.unk_bytes,
            "perplexity": common.perplexity,
            "accuracy": common.accuracy,
            "bits_per_byte": common.bits_per_byte,
            "bits_per_byte_own": own.bits_per_byte,
            "lossless": meta.lossless,
            "parameters": config.parameters,
        }
        if model.carries_state and params.max_windows:
            stream = [i for d in read_split(args.tokens, "own") for i in d.ids]
            metrics["window_protocol"] = window_protocol(
                model,
                stream,
                context_length=config.context_length,
                stride=params.subword_stride if meta.begin else params.char_stride,
                max_windows=params.max_windows,
                batch_size=params.batch_size,
                compute=compute,
            )
        record.update(compute.record() | {"tokens": {"supervised": common.tokens + own.tokens}})
    write_json(args.metrics, rounded(metrics))
    ids = [document.id for document in read_split(args.tokens, "common")]
    rows = [
        {"id": i, "nats": p.nats, "tokens": p.tokens, "bytes": p.bytes, "unk_bytes": p.unk_bytes}
        for i, p in zip(ids, per_document, strict=True)
    ]
    write_jsonl(args.items, [rounded(row) for row in rows])
    bound = "" if meta.lossless else " (a lower bound: its normalisation erases information)"
    log.info("%s: %.4f bits per byte%s", args.run, common.bits_per_byte, bound)


if __name__ == "__main__":
    run_stage(main)
