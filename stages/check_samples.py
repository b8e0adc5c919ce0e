"""Judge the samples of all runs by the thesis' guardrails."""

import argparse
import logging
from pathlib import Path
from typing import Any

from cordel.evaluation.guardrails import GuardrailParams, Sample, thesis_report
from cordel.runtime.console import run_stage
from cordel.runtime.errors import ArtifactError
from cordel.runtime.files import read_json, rounded, write_json
from cordel.runtime.params import read_params
from cordel.tokenizers.saved import fingerprint, load_tokenizer

log = logging.getLogger(Path(__file__).stem)
NOT_FOR_CHARACTERS = (
    "every piece of a character tokenizer is one character, so the ratios say nothing"
)


def check(
    samples: dict[str, Any], tokenizer_folder: Path, params: GuardrailParams
) -> dict[str, Any]:
    """Return the report on one run's samples.

    Raises:
        ArtifactError: The samples were made with another tokenizer.
    """
    if samples["tokenizer_sha256"] != fingerprint(tokenizer_folder):
        raise ArtifactError(
            f"samples of {samples['run']} are not from {tokenizer_folder}; run dvc repro"
        )
    head = {key: samples[key] for key in ("run", "tokenizer", "tokenizer_sha256", "decoding")}
    head |= {"prompt_included": any(s["prompt_included"] for s in samples["samples"])}
    if samples["kind"] == "char":
        nothing = {"fallback_ratio": None, "short_alpha_ratio": None}
        return head | {"aggregate": nothing, "passes": None, "reason": NOT_FOR_CHARACTERS}
    tokenizer = load_tokenizer(tokenizer_folder)
    texts = [Sample(s["seed"], s["text"]) for s in samples["samples"]]
    return head | thesis_report(
        texts, lambda text: tokenizer.pieces(tokenizer.encode(text)), params
    )


def main() -> None:
    """Write one report a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=Path, nargs="+", required=True)
    parser.add_argument("--tokenizers", type=Path, nargs="+", required=True)
    parser.add_argument(
        "--metrics", type=Path, nargs="+", required=True, help="in the order of --samples"
    )
    args = parser.parse_args()
    params = read_params("guardrails", GuardrailParams)
    folders = {folder.name: folder for folder in args.tokenizers}
    for source, target in zip(args.samples, args.metrics, strict=True):
        samples = read_json(source)
        report = check(samples, folders[samples["tokenizer"]], params)
        write_json(target, rounded(report))
        log.info(
            "%s: %s",
            samples["run"],
            {True: "passes", False: "fails", None: "not judged"}[report["passes"]],
        )


if __name__ == "__main__":
    run_stage(main)
