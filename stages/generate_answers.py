"""Answer every task prompt of all seeds with one arm; an interrupted run goes on."""

import argparse
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cordel.adaptation.chat import Chat, load_chat, user_message
from cordel.adaptation.generation import GenerationParams, Request, generate_all
from cordel.adaptation.quantised import (
    BaseModel,
    adapter_in,
    load_adapters,
    load_base,
    read_base,
)
from cordel.compute import Compute, ComputeParams, decide
from cordel.runtime.console import Progress, run_stage
from cordel.runtime.errors import ArtifactError
from cordel.runtime.files import read_jsonl, write_json, write_jsonl
from cordel.runtime.ledger import ledger
from cordel.runtime.params import read_params
from cordel.runtime.unfinished import checkpoint_folder, fingerprint

log = logging.getLogger(Path(__file__).stem)
SOURCES = [
    Path(__file__).resolve().parent.parent / "src" / "cordel" / "adaptation" / f"{name}.py"
    for name in ("chat", "generation", "quantised")
]  # what an answer depends on
Row = dict[str, Any]


def main() -> None:
    """Write one row an item: prompt, reference, answer, and how the answer ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arm", required=True)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="the base's folder, if local")
    parser.add_argument("--adapter", type=Path, required=True, help="or the base's folder again")
    parser.add_argument("--tasks", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--ledger", type=Path, required=True)
    args = parser.parse_args()
    params = read_params("generation", GenerationParams)
    compute = decide(read_params("compute", ComputeParams))
    base = read_base(args.base)
    if base is None:
        log.info("%s: no base is configured, so nobody answers", args.arm)
        write_jsonl(args.out, [])
        write_json(args.ledger, [])
        return
    chat, adapter = load_chat(args.base), adapter_in(args.adapter)
    items = list(read_jsonl(args.tasks))
    if not items:
        raise ArtifactError(f"{args.tasks}: no items; rerun prepare_tasks")
    rows = prompted(chat, items, params, args.arm, trained=bool(adapter))
    fitting = [row for row in rows if fits(row, base)]
    if len(fitting) < len(rows):
        lost = len(rows) - len(fitting)
        log.info("%s: %d of %d prompts leave no room for an answer", args.arm, lost, len(rows))
    files = [args.base / "chat.json", args.base / "tokenizer.json", *SOURCES]
    files += [adapter / "adapter_model.safetensors"] if adapter else []
    # Without the prompts: a new task seed finds the answers of the others.
    key = fingerprint(base, compute, files=files)
    with (
        checkpoint_folder("generate_answers", args.arm, key) as folder,
        ledger(
            args.ledger, stage=f"generate_answers@{args.arm}", pending=folder / "attempts.json"
        ) as record,
    ):
        requests = [row["request"] for row in fitting]
        shown = Progress(args.arm, "answers", len({request.key for request in requests}))
        answers = generate_all(
            quantised_arm(base, adapter, compute),
            requests,
            stop=chat.form.stop,
            pad=chat.form.pad,
            batch_size=params.batch_size,
            compute=compute,
            journal=folder / "answers.jsonl",
            advance=shown.advance,
        )
        shown.close()
        record.update(compute.record())
        record["tokens"] = {
            "generated": sum(map(len, answers.values())),
            "processed": sum(len(r.ids) for r in {r.key: r for r in requests}.values()),
        }
        record["gpu_peak_memory_mib"] = compute.gpu_peak_memory_mib()
        write_jsonl(args.out, [answered(row, answers, chat) for row in rows])
    log.info("%s: %d items, %d distinct answers", args.arm, len(rows), len(answers))


def prompted(
    chat: Chat, items: list[Row], params: GenerationParams, name: str, *, trained: bool
) -> list[Row]:
    """Return the items with the requests that ask for their answers.

    A base that was not tuned to the answers' style is asked a second time, to answer briefly.
    """
    asked = [(name, "")]
    if params.brief_request and not trained:
        asked.append((f"{name}_brief", f" {params.brief_request}"))
    limits = asdict(params.max_new_tokens)
    rows = []
    for label, suffix in asked:
        for item in items:
            message = user_message(item["instruction"] + suffix, item["input"])
            request = Request(tuple(chat.prompt(message)), limits[item["task"]])
            rows.append(item | {"arm": label, "prompt": message, "request": request})
    return rows


def fits(row: Row, base: BaseModel) -> bool:
    """Return whether prompt and longest answer fit the base's context: nothing is ever cut."""
    request: Request = row["request"]
    return len(request.ids) + request.max_new_tokens <= base.max_length


def quantised_arm(base: BaseModel, adapter: Path | None, compute: Compute) -> Any:
    """Return the base in NF4 with the arm's adapter switched on."""
    model = load_base(base, compute)
    if adapter is None:
        return model
    return load_adapters(model, {"arm": adapter}, base)


def answered(row: Row, answers: dict[str, list[int]], chat: Chat) -> Row:
    """Return the item's row as written."""
    request: Request = row["request"]
    ids = answers.get(request.key)
    text, ended = chat.answer(ids or [])
    kept = ("arm", "task", "seed", "id", "instruction", "input", "prompt", "reference")
    return {name: row[name] for name in kept} | {
        "answer": text,
        "new_tokens": len(ids or []),
        "ended": ended,
        "too_long": ids is None,
    }


if __name__ == "__main__":
    run_stage(main)
