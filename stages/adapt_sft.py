"""Fine-tune a base, or its CPT adapter, on instructions (QLoRA). An interrupted run goes on."""

import argparse
import logging
import shutil
from dataclasses import asdict, replace
from pathlib import Path

from cordel.adaptation.chat import load_chat
from cordel.adaptation.packing import Block, conversation_blocks
from cordel.adaptation.qlora import Adaptation, AdaptationParams, adapt, finished, token_counts
from cordel.adaptation.quantised import LoraParams, adapter_in, read_base
from cordel.compute import ComputeParams, decide, seed_everything
from cordel.runtime.console import run_stage
from cordel.runtime.files import new_directory, read_jsonl, write_csv, write_json
from cordel.runtime.ledger import ledger
from cordel.runtime.params import read_params, seed
from cordel.runtime.unfinished import checkpoint_folder, fingerprint

log = logging.getLogger(Path(__file__).stem)
SOURCES = [
    Path(__file__).resolve().parent.parent / "src" / "cordel" / f"{name}.py"
    for name in (
        "adaptation/chat",
        "adaptation/packing",
        "adaptation/qlora",
        "adaptation/quantised",
        "losses",
    )
]  # what the weights depend on


def leave_empty(out: Path, curve: Path, record: Path) -> None:
    """Write what DVC expects of an arm whose base is not configured: nothing, in its place."""
    with new_directory(out) as folder:
        write_json(folder / "base.json", {"source": "none"})
    write_csv(curve, [{"step": None, "eval_nats_per_token": None}])
    write_json(record, [])


def main() -> None:
    """Write the adapter, its curve and its ledger."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arm", required=True)
    parser.add_argument("--seed", type=seed, help="another one than the section's")
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="the base's folder, if local")
    parser.add_argument(
        "--start", type=Path, required=True, help="adapter to go on with, or a base"
    )
    parser.add_argument("--examples", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--curve", type=Path, required=True)
    parser.add_argument("--ledger", type=Path, required=True)
    args = parser.parse_args()
    params = read_params("sft", AdaptationParams)
    params = replace(params, seed=params.seed if args.seed is None else args.seed)
    lora = read_params("lora", LoraParams)
    compute = decide(read_params("compute", ComputeParams))
    base = read_base(args.base)
    if base is None:
        log.info("%s: no base is configured, so there is nothing to adapt", args.arm)
        leave_empty(args.out, args.curve, args.ledger)
        return
    start = adapter_in(args.start)
    chat = load_chat(args.base)
    length = min(params.block_length, base.max_length)
    blocks: dict[str, list[Block]] = {}
    too_long = 0
    for name in ("train", "val"):
        examples = read_jsonl(args.examples / f"{name}.jsonl")
        blocks[name], _, left_out = conversation_blocks(chat, examples, length)
        too_long += left_out
    if too_long:
        log.info("%s: %d conversations longer than %d ids left out", args.arm, too_long, length)
    data = [args.examples / f"{name}.jsonl" for name in blocks]
    data += [start / "adapter_model.safetensors"] if start else []
    data += [args.base / "chat.json", args.base / "tokenizer.json"]
    key = fingerprint(asdict(params), asdict(lora), base, compute, files=data + SOURCES)
    seed_everything(params.seed)
    run = Adaptation(
        name=args.arm,
        base=base,
        start=start,
        lora=lora,
        params=params,
        compute=compute,
        pad=chat.form.pad,
    )
    with (
        checkpoint_folder("adapt_sft", args.arm, key) as folder,
        ledger(
            args.ledger, stage=f"adapt_sft@{args.arm}", pending=folder / "attempts.json"
        ) as record,
    ):
        adapted = finished(folder)
        if adapted is None:
            adapted = adapt(run, train=blocks["train"], evaluation=blocks["val"], folder=folder)
        else:
            log.info("found it finished in %s; delete that folder to train it anew", folder)
        record.update(compute.record() | {"parameters": adapted.trainable_parameters})
        record["model_flops"] = adapted.model_flops
        record["tokens"] = token_counts(blocks["train"], params)
        record["too_long"] = too_long
        record["gpu_peak_memory_mib"] = compute.gpu_peak_memory_mib()
        with new_directory(args.out) as out:
            shutil.copytree(folder / "adapter", out, dirs_exist_ok=True)
        write_csv(args.curve, adapted.curve)


if __name__ == "__main__":
    run_stage(main)
