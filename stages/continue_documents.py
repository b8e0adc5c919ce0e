"""Continue held-out documents with the base and with its CPT adapter: the thesis' examples 1 and 2.

Greedy, as there (section 5.9). What the document's author wrote stands beside it.
"""

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path

from cordel.adaptation.chat import load_chat
from cordel.adaptation.corpus import read_encoded
from cordel.adaptation.generation import Request, generate_batch
from cordel.adaptation.quantised import arm, load_adapters, load_base, read_base
from cordel.compute import ComputeParams, decide
from cordel.runtime.console import run_stage
from cordel.runtime.errors import ArtifactError, ParamsError
from cordel.runtime.files import write_jsonl
from cordel.runtime.ledger import ledger
from cordel.runtime.params import read_params, require
from cordel.tokens import Encoded

log = logging.getLogger(Path(__file__).stem)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContinuationParams:
    """The section ``continuation`` of params.yaml."""

    documents: int
    prompt_tokens: int
    new_tokens: int

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("documents", "prompt_tokens", "new_tokens"):
            value = getattr(self, name)
            require(value > 0, f"{name} is {value}, expected at least 1")


def main() -> None:
    """Write one row a document: its beginning, its own next words, and those of each arm."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="the base's folder, if local")
    parser.add_argument("--adapter", type=Path, required=True)
    parser.add_argument("--documents", type=Path, required=True, help="of prepare_cpt")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--ledger", type=Path, required=True)
    args = parser.parse_args()
    params = read_params("continuation", ContinuationParams)
    compute = decide(read_params("compute", ComputeParams))
    base = read_base(args.base)
    if base is None:
        raise ArtifactError("base_models.base.source is none, so there is nobody to continue")
    if base.max_length <= params.new_tokens:
        raise ParamsError(
            f"params.yaml: continuation.new_tokens is {params.new_tokens}, but the base's context "
            f"of {base.max_length} has to hold the prompt as well; choose a smaller one"
        )
    chat = load_chat(args.base)
    documents = longest(read_encoded(args.documents / "evaluation.parquet"), params)
    room = min(params.prompt_tokens, base.max_length - params.new_tokens)
    prompts = [document.ids[: min(room, len(document.ids) // 2)] for document in documents]
    requests = [Request(tuple(ids), params.new_tokens) for ids in prompts]
    rows = [
        {
            "id": document.id,
            "prompt": chat.decode(ids),
            "author": chat.decode(document.ids[len(ids) : len(ids) + params.new_tokens]),
        }
        for document, ids in zip(documents, prompts, strict=True)
    ]
    generated = 0
    with ledger(args.ledger, stage="continue_documents") as record:
        model = load_adapters(load_base(base, compute), {"cpt": args.adapter}, base)
        for name, switched_on in (("base", None), ("cpt", "cpt")):
            with arm(model, switched_on):
                found = generate_batch(
                    model, requests, stop=chat.form.end, pad=chat.form.pad, compute=compute
                )
            for row, ids in zip(rows, found, strict=True):
                row[name] = chat.decode(ids)
            generated += sum(map(len, found))
        record.update(compute.record())
        record["tokens"] = {"generated": generated, "processed": 2 * sum(map(len, prompts))}
        record["gpu_peak_memory_mib"] = compute.gpu_peak_memory_mib()
    write_jsonl(args.out, rows)
    log.info("%d documents, continued by base and cpt", len(rows))


def longest(documents: list[Encoded], params: ContinuationParams) -> list[Encoded]:
    """Return the first documents that have prompt and continuation, or else the longest."""
    enough = params.prompt_tokens + params.new_tokens
    return sorted(documents, key=lambda d: -min(len(d.ids), enough))[: params.documents]


if __name__ == "__main__":
    run_stage(main)
