"""Continue the base model's pretraining on documents (QLoRA). An interrupted run goes on."""

import argparse
import logging
import shutil
from dataclasses import asdict
from pathlib import Path

from cordel.adaptation.chat import load_chat
from cordel.adaptation.corpus import read_encoded
from cordel.adaptation.packing import document_blocks
from cordel.adaptation.qlora import Adaptation, AdaptationParams, adapt, finished, token_counts
from cordel.adaptation.quantised import LoraParams, read_base
from cordel.compute import ComputeParams, decide, seed_everything
from cordel.runtime.console import run_stage
from cordel.runtime.errors import ArtifactError
from cordel.runtime.files import new_directory, write_csv
from cordel.runtime.ledger import ledger
from cordel.runtime.params import read_params
from cordel.runtime.unfinished import checkpoint_folder, fingerprint

log = logging.getLogger(Path(__file__).stem)
ARM = "cpt"
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


def main() -> None:
    """Write the adapter, its curve and its ledger."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="the base's folder, if local")
    parser.add_argument("--documents", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--curve", type=Path, required=True)
    parser.add_argument("--ledger", type=Path, required=True)
    args = parser.parse_args()
    params = read_params("cpt", AdaptationParams)
    lora = read_params("lora", LoraParams)
    compute = decide(read_params("compute", ComputeParams))
    base = read_base(args.base)
    if base is None:
        raise ArtifactError("base_models.base.source is none, but cpt adapts it: use local or hf")
    pad = load_chat(args.base).form.pad
    length = min(params.block_length, base.max_length)
    blocks = {
        name: document_blocks(read_encoded(args.documents / f"{name}.parquet"), length)
        for name in ("train", "evaluation")
    }
    data = [args.documents / f"{name}.parquet" for name in blocks]
    data += [args.base / "chat.json", args.base / "tokenizer.json"]
    key = fingerprint(asdict(params), asdict(lora), base, compute, files=data + SOURCES)
    seed_everything(params.seed)
    run = Adaptation(
        name=ARM, base=base, start=None, lora=lora, params=params, compute=compute, pad=pad
    )
    with (
        checkpoint_folder("adapt_cpt", ARM, key) as folder,
        ledger(args.ledger, stage="adapt_cpt", pending=folder / "attempts.json") as record,
    ):
        adapted = finished(folder)
        if adapted is None:
            adapted = adapt(
                run, train=blocks["train"], evaluation=blocks["evaluation"], folder=folder
            )
        else:
            log.info("found it finished in %s; delete that folder to train it anew", folder)
        record.update(compute.record() | {"parameters": adapted.trainable_parameters})
        record["model_flops"] = adapted.model_flops
        record["tokens"] = token_counts(blocks["train"], params)
        record["gpu_peak_memory_mib"] = compute.gpu_peak_memory_mib()
        with new_directory(args.out) as out:
            shutil.copytree(folder / "adapter", out, dirs_exist_ok=True)
        write_csv(args.curve, adapted.curve)


if __name__ == "__main__":
    run_stage(main)
