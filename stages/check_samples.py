"""Judge the samples of all runs by guardrails calibrated on people, and by the thesis' own."""

import argparse
import logging
from collections.abc import Iterator, Sequence
from itertools import cycle, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cordel.evaluation.calibration import (
    CalibrationParams,
    Guardrail,
    GuardrailError,
    People,
    failure,
)
from cordel.evaluation.guardrails import GuardrailParams, Sample, thesis_report
from cordel.evaluation.passages import (
    NOT_FOR_CHARACTERS,
    Passage,
    Pieces,
    Reference,
    opening,
    shuffled_words,
    uniform_noise,
    unigram_noise,
    windows_of,
)
from cordel.runtime.console import run_stage
from cordel.runtime.errors import ArtifactError, ParamsError
from cordel.runtime.files import read_json, rounded, write_json
from cordel.runtime.params import read_params
from cordel.runtime.tables import read_rows
from cordel.tokenizers.saved import fingerprint, load_tokenizer
from cordel.tokens import TokensMeta, read_ids, read_meta

log = logging.getLogger(Path(__file__).stem)
LENGTHS = pa.schema([("tokens", pa.int64())])
ROLES = ("fit", "calibration", "evaluation")


def documents_of(folder: Path, split: str, meta: TokensMeta) -> list[np.ndarray]:
    """Return the documents of a split without begin and end, mapped and not loaded."""
    ids = read_ids(folder, split)
    rows = read_rows(folder / f"{split}.parquet", LENGTHS, maker="encode_corpus")
    lengths = np.asarray([row["tokens"] for row in rows], dtype=np.int64)
    ends = np.cumsum(lengths)
    if ends[-1] != len(ids):
        message = f"{folder}: {split}.bin and {split}.parquet disagree; rerun encode_corpus"
        raise ArtifactError(message)
    bounds = zip((ends - lengths).tolist(), ends.tolist(), strict=True)
    return [ids[a + len(meta.begin) : b - len(meta.end)] for a, b in bounds]


def build_guardrail(folder: Path, lengths: tuple[int, int], params: CalibrationParams) -> Guardrail:
    """Return the guardrail of a folder of tokens, for samples of these lengths.

    People are the val documents, and where those are too few for a passage each, train documents
    that the reference then does not see, half of them at most. Passages of one document are alike
    and the guarantee is over exchangeable ones: 300 passages of 13 documents had false-alarm rates
    of 0.08 to 0.12 where 0.05 was asked for.
    """
    meta = read_meta(folder)
    tokenizer = load_tokenizer(folder / "tokenizer")
    rng = np.random.default_rng(params.seed)
    val, train = (documents_of(folder, split, meta) for split in ("val", "train"))
    train = [train[k] for k in rng.permutation(len(train))]
    held_out, rest = train[: len(train) // 2], train[len(train) // 2 :]
    opens = opening(tokenizer.pieces(range(tokenizer.vocab_size)))
    people, used = [*val, *held_out], 0
    dealt: dict[str, list[list[np.ndarray]]] = {role: [] for role in ROLES}
    for document, role in zip(people, cycle(ROLES), strict=False):
        if min(map(len, dealt.values())) >= params.windows:
            break
        if windows := windows_of(document, opens, lengths, rng):
            dealt[role].append([windows[k] for k in rng.permutation(len(windows))])
        used += 1
    rest = held_out[max(0, used - len(val)) :] + rest
    order = params.char_order if tokenizer.kind == "char" else params.order
    documents = list(_up_to(rest, params.reference_tokens))
    reference = Reference(tokenizer, documents, order=order, seed=params.seed)
    chosen = {
        role: [reference.passage(window) for window in spread(documents, params.windows)]
        for role, documents in dealt.items()
    }
    return Guardrail(reference, People(**chosen), params)


def spread(documents: Sequence[Sequence[np.ndarray]], count: int) -> list[np.ndarray]:
    """Return the first window of each document, then the second of each, up to ``count``."""
    turns = zip_longest(*documents)
    return [window for turn in turns for window in turn if window is not None][:count]


def _up_to(documents: Sequence[np.ndarray], tokens: int) -> Iterator[np.ndarray]:
    for document in documents:
        if tokens <= 0:
            return
        yield document[:tokens]
        tokens -= len(document)


def check(samples: dict[str, Any], guardrail: Guardrail, folder: Path) -> dict[str, Any]:
    """Return the report on one run's samples.

    Raises:
        ArtifactError: They were made with another tokenizer, or hold their prompts.
    """
    run = samples["run"]
    if samples["tokenizer_sha256"] != fingerprint(folder / "tokenizer"):
        raise ArtifactError(f"samples of {run} are not from {folder}/tokenizer; run dvc repro")
    if any(sample["prompt_included"] for sample in samples["samples"]):
        raise ArtifactError(f"samples of {run} hold their prompts; run sample_lm again")
    head = {key: samples[key] for key in ("run", "tokenizer", "tokenizer_sha256", "decoding")}
    head |= {"dataset": folder.name, "prompt_included": False}
    report = guardrail.judge(passages_of(samples))
    for sample, verdict in zip(samples["samples"], report["per_sample"], strict=True):
        verdict["seed"] = sample["seed"]
    tokenizer = guardrail.reference.tokenizer
    return head | report | {"thesis": thesis(samples, tokenizer, guardrail.params.thesis)}


def passages_of(samples: dict[str, Any]) -> list[Passage]:
    """Return what the model drew, id by id."""
    return [
        Passage(np.asarray(sample["ids"], dtype=np.int64), sample["text"])
        for sample in samples["samples"]
    ]


def thesis(samples: dict[str, Any], tokenizer: Pieces, params: GuardrailParams) -> dict[str, Any]:
    """Return the report of the thesis' rule, which says nothing of characters."""
    if tokenizer.kind == "char":
        nothing = {"fallback_ratio": None, "short_alpha_ratio": None}
        return {"aggregate": nothing, "passes": None, "reason": NOT_FOR_CHARACTERS}
    texts = [Sample(s["seed"], s["text"]) for s in samples["samples"]]
    return thesis_report(texts, lambda text: tokenizer.pieces(tokenizer.encode(text)), params)


def separation(early: dict[str, Any], guardrail: Guardrail, folder: Path) -> dict[str, Any]:
    """Return how well both rules tell people from noise in one tokenizer."""
    sha256 = fingerprint(folder / "tokenizer")
    if early["tokenizer_sha256"] != sha256:
        raise ArtifactError(f"early samples of {early['run']} are not from {folder}; run dvc repro")
    reference, people = guardrail.reference, guardrail.people.evaluation
    rng = np.random.default_rng(guardrail.params.seed)
    lengths = [len(passage.ids) for passage in people]
    noises = {
        "uniform": uniform_noise(reference, lengths, rng),
        "unigram": unigram_noise(reference, lengths, rng),
        "shuffled": shuffled_words(reference, people, rng),
        "early": passages_of(early),
    }
    head = {"tokenizer": early["tokenizer"], "tokenizer_sha256": sha256, "dataset": folder.name}
    head |= {"early": {key: early[key] for key in ("run", "steps", "all_steps")}}
    return head | guardrail.separation(noises)


def lengths_of(decoding: dict[str, Any]) -> tuple[int, int]:
    """Return the shortest and longest sample that decode settings allow."""
    longest = decoding["max_new_tokens"]
    return max(1, min(decoding["min_new_tokens"], longest)), longest


def gate(reports: Sequence[dict[str, Any]], params: CalibrationParams) -> None:
    """Name the runs that fail; raise if one of them had to pass.

    Raises:
        GuardrailError: ``on_failure`` is ``fail`` and a run of ``must_pass`` fails.
    """
    failed = [report for report in reports if not report["passes"]]
    bound = [report for report in failed if report["run"] in params.must_pass]
    for report in failed:
        log.warning("%s", failure(report))
    if bound and params.on_failure == "fail":
        raise GuardrailError(
            f"{'; '.join(map(failure, bound))}; train longer, or set guardrails.on_failure: warn"
        )


def check_must_pass(runs: Sequence[str], params: CalibrationParams) -> None:
    """Refuse a name in ``must_pass`` that no run has.

    Raises:
        ParamsError: There is one.
    """
    if unknown := sorted(set(params.must_pass) - set(runs)):
        raise ParamsError(f"guardrails.must_pass names {unknown[0]!r}, which is no run of models")


def main() -> None:
    """Write one report a run and one a tokenizer, then hold the gate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=Path, nargs="+", required=True)
    for name in ("--tokens", "--metrics"):
        parser.add_argument(name, type=Path, nargs="+", required=True, help="as --samples")
    parser.add_argument("--early", type=Path, nargs="+", required=True)
    parser.add_argument("--early-metrics", type=Path, nargs="+", required=True, help="as --early")
    args = parser.parse_args()
    if not len(args.samples) == len(args.tokens) == len(args.metrics):
        parser.error("--samples, --tokens and --metrics go together: one of each for a run")
    if len(args.early) != len(args.early_metrics):
        parser.error("--early and --early-metrics go together: one of each for a tokenizer")
    params = read_params("guardrails", CalibrationParams)
    runs = list(zip(map(read_json, args.samples), args.tokens, args.metrics, strict=True))
    early = list(zip(map(read_json, args.early), args.early_metrics, strict=True))
    check_must_pass([samples["run"] for samples, _, _ in runs], params)
    reports: dict[Path, dict[str, Any]] = {}  # written together: all of them, or none
    separations: dict[Path, dict[str, Any]] = {}
    for folder in dict.fromkeys(args.tokens):  # one reference in memory at a time
        own = [(samples, target) for samples, tokens, target in runs if tokens == folder]
        guardrail = build_guardrail(folder, lengths_of(own[0][0]["decoding"]), params)
        for samples, target in own:
            report = reports[target] = check(samples, guardrail, folder)
            log.info("%s: %s", report["run"], "passes" if report["passes"] else "fails")
        for samples, target in early:
            if samples["dataset"] == folder.name:
                separations[target] = separation(samples, guardrail, folder)
    for target, report in (reports | separations).items():
        write_json(target, rounded(report))
    gate(list(reports.values()), params)


if __name__ == "__main__":
    run_stage(main)
