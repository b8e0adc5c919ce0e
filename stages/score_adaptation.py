"""Score every arm on the CPT and SFT evaluation splits and on track 1's test documents.

Each base is loaded once; its arms are its adapters, switched on one after the other.
"""

import argparse
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cordel.adaptation.chat import Chat, load_chat
from cordel.adaptation.corpus import encoded, read_encoded
from cordel.adaptation.packing import Block, conversation_blocks, document_blocks
from cordel.adaptation.qlora import score_blocks
from cordel.adaptation.quantised import (
    adapter_in,
    arm,
    base_of,
    count_parameters,
    load_adapters,
    load_base,
    read_base,
)
from cordel.adaptation.scoring import AsLanguageModel
from cordel.compute import Compute, ComputeParams, decide
from cordel.corpus.documents import EvaluationParams, read_documents
from cordel.evaluation.likelihood import Likelihood, total
from cordel.evaluation.scoring import score_documents
from cordel.runtime.console import Progress, run_stage
from cordel.runtime.errors import ArtifactError
from cordel.runtime.files import read_jsonl, rounded, write_json, write_jsonl
from cordel.runtime.ledger import ledger
from cordel.runtime.params import read_params, require
from cordel.tokens import Encoded

log = logging.getLogger(Path(__file__).stem)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptationScoringParams:
    """The section ``scoring_adaptation``."""

    batch_size: int  # blocks or windows at once
    block_length: int  # of the packed evaluation blocks, at most the base's max_length

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("batch_size", "block_length"):
            value = getattr(self, name)
            require(value > 0, f"{name} is {value}, expected at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Packed blocks, and the bytes of text behind their targets."""

    blocks: list[Block]
    bytes: int
    unknown_bytes: int
    too_long: int


def main() -> None:
    """Write metrics/adaptation.json, and for each arm what score_lm writes for a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bases", type=Path, nargs="+", required=True)
    parser.add_argument("--models", type=Path, nargs="+", required=True, help="folders, if local")
    parser.add_argument("--adapters", type=Path, nargs="+", required=True)
    parser.add_argument("--documents", type=Path, required=True, help="of prepare_cpt")
    parser.add_argument("--examples", type=Path, required=True, help="of prepare_sft")
    parser.add_argument("--common", type=Path, required=True, help="test documents, lossless")
    parser.add_argument("--metrics", type=Path, required=True)
    parser.add_argument("--lm-metrics", type=Path, nargs="+", required=True)
    parser.add_argument("--items", type=Path, nargs="+", required=True)
    parser.add_argument("--ledger", type=Path, required=True)
    args = parser.parse_args()
    params = read_params("scoring_adaptation", AdaptationScoringParams)
    limit = read_params("evaluation", EvaluationParams).max_documents
    compute = decide(read_params("compute", ComputeParams))
    adapters = adapters_of(args.bases, args.adapters)
    metrics: dict[str, Any] = {}
    common: dict[str, tuple[list[Encoded], list[Likelihood], dict[str, Any]]] = {}
    with ledger(args.ledger, stage="score_adaptation") as record:
        for folder in args.bases:
            base = read_base(folder)
            if base is None:
                continue
            chat = load_chat(folder)
            texts = list(read_documents(args.common, limit=limit))
            documents = list(encoded(chat, texts))
            exact = all(chat.decode(chat.encode(d.text)) == d.text for d in texts)
            length = min(params.block_length, base.max_length)
            splits = evaluation_splits(chat, args.documents, args.examples, length)
            own = {path.name: path for path in adapters if base_of(path) == base.weights}
            model = load_base(base, compute)
            if own:
                model = load_adapters(model, own, base)
            for name in (folder.name, *own):
                with arm(model, None if name == folder.name else name):
                    metrics[name] = {
                        key: score_split(model, split, f"{name} {key}", params, compute, chat)
                        for key, split in splits.items()
                    }
                    shown = Progress(f"{name} test", "tokens", sum(len(d.ids) for d in documents))
                    scores = score_documents(
                        AsLanguageModel(model, base.max_length),  # pyright: ignore[reportArgumentType]
                        documents,
                        context=[*(chat.form.begin or chat.form.end)],
                        begin=[*chat.form.begin],
                        batch_size=params.batch_size,
                        compute=compute,
                        advance=shown.advance,
                    )
                    shown.close()
                adapter = None if name == folder.name else name
                facts = {"parameters": count_parameters(model, adapter), "lossless": exact}
                common[name] = documents, scores, facts
                log.info("%s: %.4f bits per byte", name, total(scores).bits_per_byte)
        supervised = sum(s["tokens"] for arm_ in metrics.values() for s in arm_.values())
        record.update(compute.record() | {"tokens": {"supervised": supervised}})
        record["gpu_peak_memory_mib"] = compute.gpu_peak_memory_mib()
    write_json(args.metrics, rounded(metrics))
    for path in args.lm_metrics:
        write_json(path, rounded(lm_metrics(*common[path.stem])) if path.stem in common else {})
    for path in args.items:
        write_jsonl(path, lm_items(*common[path.stem][:2]) if path.stem in common else [])


def adapters_of(bases: Sequence[Path], folders: Sequence[Path]) -> list[Path]:
    """Return the folders that hold an adapter, each of which must belong to one of the bases."""
    known = {base.weights for base in map(read_base, bases) if base}
    adapters = [path for path in map(adapter_in, folders) if path]
    for path in adapters:
        if base_of(path) not in known:
            raise ArtifactError(f"{path}: belongs to none of the bases; run dvc repro")
    return adapters


def evaluation_splits(chat: Chat, documents: Path, examples: Path, length: int) -> dict[str, Split]:
    """Return the CPT and the SFT evaluation split as packed blocks."""
    texts = read_encoded(documents / "evaluation.parquet")
    tested = examples / "test.jsonl"
    blocks, answer_bytes, too_long = conversation_blocks(chat, read_jsonl(tested), length)
    if not blocks:
        raise ArtifactError(f"{tested}: no example fits {length} ids; rerun prepare_sft")
    return {
        "cpt": Split(
            blocks=document_blocks(texts, length),
            bytes=sum(d.bytes for d in texts),
            unknown_bytes=sum(d.unknown_bytes for d in texts),
            too_long=0,
        ),
        "sft": Split(blocks=blocks, bytes=answer_bytes, unknown_bytes=0, too_long=too_long),
    }


def score_split(
    model: Any,
    split: Split,
    label: str,
    params: AdaptationScoringParams,
    compute: Compute,
    chat: Chat,
) -> dict[str, Any]:
    """Return loss, perplexity and bits per byte of one arm on one split."""
    shown = Progress(label, "blocks", len(split.blocks))
    advance: Callable[[int], None] = shown.advance
    nats, targets, hits = score_blocks(
        model,
        split.blocks,
        batch_size=params.batch_size,
        pad=chat.form.pad,
        compute=compute,
        advance=advance,
    )
    shown.close()
    likelihood = Likelihood(
        nats=nats, tokens=targets, bytes=split.bytes, unk_bytes=split.unknown_bytes, correct=hits
    )
    return {
        "loss": nats / targets,
        "nats": nats,
        "tokens": targets,
        "bytes": split.bytes,
        "perplexity": likelihood.perplexity,
        "accuracy": likelihood.accuracy,
        "bits_per_byte": likelihood.bits_per_byte,
        "too_long": split.too_long,
    }


def lm_metrics(_: list[Encoded], scores: list[Likelihood], facts: dict[str, Any]) -> dict[str, Any]:
    """Return the same keys as score_lm writes for a run from scratch."""
    common = total(scores)
    return {
        "nats": common.nats,
        "tokens": common.tokens,
        "bytes": common.bytes,
        "unk_bytes": common.unk_bytes,
        "perplexity": common.perplexity,
        "accuracy": common.accuracy,
        "bits_per_byte": common.bits_per_byte,
        "bits_per_byte_own": common.bits_per_byte,
    } | facts


def lm_items(documents: list[Encoded], scores: list[Likelihood]) -> list[dict[str, Any]]:
    """Return the score of each document."""
    return [
        rounded(
            {"id": d.id, "nats": s.nats, "tokens": s.tokens, "bytes": s.bytes}
            | {"unk_bytes": s.unk_bytes}
        )
        for d, s in zip(documents, scores, strict=True)
    ]


if __name__ == "__main__":
    run_stage(main)
