"""Export an adapter as it is and merged into the unquantised base, and measure the difference.

Merging goes into the base as it was before quantisation: into the 4-bit model it would be quantised
a second time. So the merged model differs from what was trained by the error of NF4, which is
stated; the adapter on the unquantised base is what it must equal.
"""

import argparse
import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig

from cordel.adaptation.chat import load_chat
from cordel.adaptation.corpus import read_encoded
from cordel.adaptation.quantised import load_adapters, load_base, read_base
from cordel.compute import Compute, ComputeParams, decide
from cordel.runtime.console import run_stage
from cordel.runtime.errors import ArtifactError
from cordel.runtime.files import new_directory, rounded, write_json
from cordel.runtime.params import read_params

log = logging.getLogger(Path(__file__).stem)
PROBE = 8  # documents on which logits are compared


def main() -> None:
    """Write the folders ``adapter`` and ``merged``, and how far their logits are apart."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="the base's folder, if local")
    parser.add_argument("--adapter", type=Path, required=True)
    parser.add_argument("--documents", type=Path, required=True, help="of prepare_cpt, to compare")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--metrics", type=Path, required=True)
    args = parser.parse_args()
    compute = decide(read_params("compute", ComputeParams))
    base = read_base(args.base)
    if base is None:
        raise ArtifactError("base_models.base.source is none, so there is no adapter to export")
    chat = load_chat(args.base)
    documents = read_encoded(args.documents / "evaluation.parquet")[:PROBE]
    rows = [document.ids[: base.max_length] for document in documents]
    trained: Any = load_base(base, compute)
    base_quantised = logits(trained, rows, compute)
    quantised = logits(load_adapters(trained, {"arm": args.adapter}, base), rows, compute)
    del trained
    plain: Any = load_base(base, compute, quantise=False)
    base_exact = logits(plain, rows, compute)
    plain = load_adapters(plain, {"arm": args.adapter}, base)
    exact = logits(plain, rows, compute)
    merged: Any = plain.merge_and_unload()  # pyright: ignore[reportCallIssue]
    merged.generation_config = GenerationConfig(
        bos_token_id=next(iter(chat.form.begin), None),
        eos_token_id=list(chat.form.stop),
        pad_token_id=chat.form.pad,
    )
    with new_directory(args.out) as out:
        shutil.copytree(args.adapter, out / "adapter")
        merged.save_pretrained(out / "merged")
        for folder in (out / "adapter", out / "merged"):
            for file in args.base.iterdir():
                if file.name not in ("base.json", "chat.json"):
                    shutil.copy(file, folder / file.name)
        again = load_merged(out / "merged", compute)
        shipped = logits(again, rows, compute)
    metrics = {
        "merged_minus_unquantised_adapter": difference(shipped, exact),
        "merged_minus_quantised_adapter": difference(shipped, quantised),
        "quantised_base_minus_base": difference(base_quantised, base_exact),
        "logit_sd": float(torch.cat(exact).std()),
        "tokens": sum(map(len, rows)),
        "stop_ids": list(chat.form.stop),
    }
    write_json(args.metrics, rounded(metrics))
    log.info(
        "merged: logits differ by at most %.2g from the adapter on the unquantised base, by %.2g "
        "from what was trained in 4 bits",
        metrics["merged_minus_unquantised_adapter"]["max"],
        metrics["merged_minus_quantised_adapter"]["max"],
    )


@torch.no_grad()
def logits(model: Any, rows: list[list[int]], compute: Compute) -> list[Tensor]:
    """Return the logits ``float[T, V]`` of each row."""
    found = []
    for row in rows:
        with compute.autocast():
            out = model(input_ids=torch.tensor([row], device=compute.device), use_cache=False)
        found.append(out.logits[0].float().cpu())
    return found


def load_merged(folder: Path, compute: Compute) -> Any:
    """Return the model as its user will load it."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", use_safetensors=True)
    return model.to(compute.device).eval()


def difference(a: list[Tensor], b: list[Tensor]) -> dict[str, float]:
    """Return the largest and the mean absolute difference."""
    gap = (torch.cat(a) - torch.cat(b)).abs()
    return {"max": float(gap.max()), "mean": float(gap.mean())}


if __name__ == "__main__":
    run_stage(main)
