"""``cordel estimate``, track 1: time, memory, disk and money of each stage before it runs.

Seconds are FLOPs / (matmul peak of this machine x the share of it that each architecture reaches).
The shares on the CPU are measured; those on CUDA are assumed, as no run of ours used one yet.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml

from cordel.costs import CostParams, hourly_price
from cordel.runtime.console import duration
from cordel.runtime.files import read_json, write_json
from cordel.runtime.hardware import matmul_peak
from cordel.runtime.params import PARAMS, parse, read_section
from cordel.sizing import Sizes, checkpoint_disk_bytes, sizes

ESTIMATES = Path(".ckpt/estimates.json")
Kind = Literal["lstm", "gru", "gpt", "llama"]

# Geometric means over the sample's runs in metrics/ledger (one thread of an AMD EPYC, float32,
# 104.5 GFLOP/s, CPU seconds, 2026-11-23). A GRU's step is no fused kernel on the CPU: half an LSTM.
CPU_TRAINING = {"lstm": 0.82, "gru": 0.38, "gpt": 0.45, "llama": 0.40}
CPU_SCORING = {"lstm": 0.70, "gru": 0.39, "gpt": 0.49, "llama": 0.53}
# Assumed, not measured. Small models wait for kernel launches: hence the floors below.
CUDA_TRAINING = {"lstm": 0.15, "gru": 0.15, "gpt": 0.25, "llama": 0.30}
CUDA_STEP_SECONDS_PER_LAYER = 1.0e-3  # a training step: launches, forward to update
CUDA_TIME_STEP_SECONDS = 2.0e-5  # of an RNN's layer: forward and backward, one after the other
# Seconds a layer takes for one sampled token beside its arithmetic: on the CPU from the same
# ledgers, on CUDA assumed.
CPU_TOKEN_SECONDS = {"lstm": 2.1e-4, "gru": 1.2e-4, "gpt": 2.8e-4, "llama": 6.1e-4}
CUDA_TOKEN_SECONDS = 2.0e-4

HEAD_CHUNK = {"cpu": 256, "cuda": 1024}  # CHUNK of losses.py (a test compares them)
# Python, torch and the token arrays; a stage that only samples touches less of torch. Same ledgers.
CPU_BASE_BYTES, CPU_SAMPLING_BYTES = 400_000_000, 295_000_000
CUDA_BASE_BYTES = 1_000_000_000  # CUDA context and workspaces
SCORING_OVERLAP = 2  # a Transformer's windows overlap by half; an RNN reads each token once


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What the machine can do."""

    device: str  # cpu | cuda
    device_name: str
    matmul_peak: float  # FLOP/s


@dataclass(frozen=True, slots=True, kw_only=True)
class StageEstimate:
    """What one stage will take."""

    stage: str
    tokens: int  # processed or generated
    seconds: float
    peak_memory_bytes: int
    disk_bytes: int
    usd: float | None  # None: no price for this GPU


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumed:
    """What is assumed of a corpus that is not encoded yet."""

    document_characters: float
    characters_per_piece: float
    characters: int  # in the vocabulary of v1 to v3


# The sample as generated; BrWaC from thesis 1.3 and 3.1 (2168 characters, 605 pieces a document).
SAMPLE = Assumed(document_characters=965, characters_per_piece=2.8, characters=76)
WEB = Assumed(document_characters=2168, characters_per_piece=3.6, characters=277)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """The token counts of one dataset, real or assumed."""

    vocab_size: int
    train_tokens: int
    val_tokens: int
    tokens_per_document: float


def calibrate(device: str = "auto", *, threads: int = 1) -> Calibration:
    """Measure this machine, in under a second.

    Args:
        device: As ``compute.device`` in params.yaml.
        threads: As ``compute.threads``.

    Raises:
        EnvironmentProblem: CUDA is asked for and there is none.
    """
    import torch  # noqa: PLC0415  (1.3 seconds)

    torch.set_num_threads(threads)
    cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if not cuda:
        return Calibration(
            device="cpu", device_name="cpu", matmul_peak=matmul_peak("cpu", "float32")
        )
    peak = matmul_peak("cuda", "bfloat16")
    return Calibration(device="cuda", device_name=torch.cuda.get_device_name(), matmul_peak=peak)


# --- From scratch ---------------------------------------------------------------------------------


def estimate(
    params: Mapping[str, Any], *, machine: Calibration, root: Path = Path()
) -> list[StageEstimate]:
    """Return the estimates of train_lm, score_lm and sample_lm for each run, then sample_early.

    Early stopping (``patience``) is not foreseen: these are upper bounds there.

    Args:
        params: All of params.yaml.
        machine: From ``calibrate``.
        root: Of the project; ``data/tokens/<dataset>/meta.json`` below it gives real counts.
    """
    price, _ = price_of(params, machine)
    found = []
    early: dict[str, StageEstimate] = {}  # of the last run over each tokenizer
    for name, run in params["models"].items():
        data = dataset_counts(params, run["dataset"], root=root)
        size = sizes(
            run["architecture"],
            run["model"],
            vocab_size=data.vocab_size,
            context_length=run["training"]["context_length"],
        )
        kind = _kind(run)
        found.append(_training(name, run["training"], data, size, kind, machine))
        found.append(_scoring(name, run["training"], params, data, size, kind, machine))
        found.append(_sampling(name, params["sampling"], size, kind, machine))
        tokenizer = params["datasets"][run["dataset"]]["tokenizer"]
        early[tokenizer] = _early(tokenizer, run["training"], params, data, size, kind, machine)
    found += early.values()
    ordered = [
        e for start in ("train_", "score_", "sample_") for e in found if e.stage.startswith(start)
    ]
    return [priced(e, price) for e in ordered]


def _kind(run: Mapping[str, Any]) -> Kind:
    """Return as what a run is estimated: an architecture of yours as a Transformer."""
    architecture = run["architecture"]
    if architecture == "rnn":
        return run["model"]["cell"]
    return architecture if architecture in CPU_TRAINING else "gpt"


def price_of(params: Mapping[str, Any], machine: Calibration) -> tuple[float | None, str]:
    """Return (USD an hour of ``machine``, where it comes from) or (None, why there is none).

    Raises:
        ParamsError: The section ``costs`` is wrong.
    """
    if "costs" not in params:
        return None, "params.yaml has no section costs"
    costs = parse(params["costs"], CostParams, "params.yaml: section 'costs'")
    price, reason = hourly_price(machine.device, machine.device_name, costs)
    if price is None:
        return None, reason
    on_gpu = machine.device == "cuda"
    key = f"usd_per_hour of {machine.device_name}" if on_gpu else "cpu_usd_per_hour"
    return price, f"costs.{key} in params.yaml"


def priced(e: StageEstimate, usd_per_hour: float | None) -> StageEstimate:
    """Return ``e`` with its seconds' price; None where there is none."""
    usd = None if usd_per_hour is None else usd_per_hour * e.seconds / 3600
    return replace(e, usd=usd)


def read_all(path: Path = PARAMS) -> dict[str, Any]:
    """Return all sections of params.yaml.

    Raises:
        ParamsError: The file is missing, not YAML, or has no section ``profile``.
    """
    read_section("profile", path=path)
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def is_made(out: str, params: Mapping[str, Any], *, root: Path) -> bool:
    """Return whether ``out`` is there, and dvc.lock knows of no other parameters behind it.

    After ``cordel profile`` what is in ``data`` and ``metrics`` still is the sample's. Numbers that
    change no text, of models and devices, do not count.

    Args:
        out: A path as an ``outs`` or ``metrics`` entry of dvc.yaml has it.
        params: All of params.yaml.
        root: Of the project.
    """
    lock = root / "dvc.lock"
    if not (root / out).exists():
        return False
    return not lock.exists() or out not in _outdated(_stages(lock, lock.stat().st_mtime_ns), params)


@lru_cache(maxsize=1)
def _stages(lock: Path, _: int) -> list[Mapping[str, Any]]:
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # 0.1 s instead of 1
    return list(yaml.load(lock.read_text(encoding="utf-8"), loader)["stages"].values())  # noqa: S506


def _outdated(stages: Sequence[Mapping[str, Any]], params: Mapping[str, Any]) -> set[str]:
    """Return all outputs of stages that ran with other parameters, and of stages after them."""
    found: set[str] = set()
    before = -1
    while len(found) > before:
        before = len(found)
        for stage in stages:
            reads = {dep["path"] for dep in stage.get("deps", ())}
            recorded = stage.get("params", {}).get(PARAMS.name, {})
            changed = any(_differs(key, value, params) for key, value in recorded.items())
            if changed or reads & found:
                found |= {out["path"] for out in stage.get("outs", ())}
    return found


def _differs(key: str, value: Any, params: Mapping[str, Any]) -> bool:
    section, *rest = key.split(".")
    if section in ("models", "compute"):
        return False
    current: Any = params.get(section)
    for part in rest:
        current = current.get(part) if isinstance(current, Mapping) else None
    return current != value


def dataset_counts(params: Mapping[str, Any], name: str, *, root: Path) -> Dataset:
    """Return a dataset's counts: real ones if it is encoded, else assumed from its caps."""
    if _is_encoded(name, params, root):
        meta = read_json(root / "data" / "tokens" / name / "meta.json")
        train, val = meta["splits"]["train"], meta["splits"]["val"]
        return Dataset(
            vocab_size=meta["vocab_size"],
            train_tokens=train["tokens"],
            val_tokens=val["tokens"],
            tokens_per_document=train["tokens"] / train["documents"],
        )
    section, splits = params["datasets"][name], params["splits"]
    tokenizer = params["tokenizers"][section["tokenizer"]]
    assumed = _assumed(params)
    is_char = tokenizer["kind"] == "char"
    per_document = assumed.document_characters / (1 if is_char else assumed.characters_per_piece)
    documents = params["corpus"]["max_documents"]
    train = min(section["max_documents"], documents * (1 - splits["val"] - splits["test"]))
    val = min(section["max_val_documents"], documents * splits["val"])
    return Dataset(
        vocab_size=assumed.characters if is_char else tokenizer["vocab_size"],
        train_tokens=round(train * per_document),
        val_tokens=round(val * per_document),
        tokens_per_document=per_document,
    )


def assumptions(params: Mapping[str, Any], *, root: Path = Path()) -> str:
    """Return one line that says whose token counts are assumed in track 1, and on what grounds."""
    names = [n for n in params["datasets"] if not _is_encoded(n, params, root)]
    if not names:
        return "assumed in track 1: no token count, all data sets are encoded"
    assumed = _assumed(params)
    return (
        f"assumed in track 1: tokens of {', '.join(names)} ({assumed.document_characters:.0f} "
        f"characters a document, {assumed.characters_per_piece} a piece)"
    )


def _assumed(params: Mapping[str, Any]) -> Assumed:
    return SAMPLE if params["corpus"]["source"] == "sample" else WEB


def _is_encoded(name: str, params: Mapping[str, Any], root: Path) -> bool:
    return is_made(f"data/tokens/{name}", params, root=root)


def _training(
    run: str,
    training: Mapping[str, Any],
    data: Dataset,
    size: Sizes,
    kind: Kind,
    machine: Calibration,
) -> StageEstimate:
    """Forward and backward over the windows, forward over val at each evaluation."""
    context, batch = training["context_length"], training["batch_size"]
    steps_per_epoch = data.train_tokens // training["stride"] // batch
    steps = max(1, round(training["epochs"] * steps_per_epoch))
    tokens = steps * batch * context
    forward = size.forward_flops(context)
    flops = forward * (3 * tokens + (training["evaluations"] + 1) * data.val_tokens)
    if start := training["bigram_start"]:
        flops += 3 * 2 * size.head * start["batches"] * start["contexts"]
    if machine.device == "cpu":
        seconds = flops / (machine.matmul_peak * CPU_TRAINING[kind])
    else:
        floor = CUDA_STEP_SECONDS_PER_LAYER
        if kind in ("lstm", "gru"):
            floor += CUDA_TIME_STEP_SECONDS * context
        arithmetic = flops / (machine.matmul_peak * CUDA_TRAINING[kind])
        seconds = max(arithmetic, steps * floor * size.n_layer)
    return StageEstimate(
        stage=f"train_lm@{run}",
        tokens=tokens,
        seconds=seconds,
        peak_memory_bytes=_training_memory(size, data, training, machine),
        disk_bytes=checkpoint_disk_bytes(size.parameters) + 4 * size.parameters,
        usd=None,
    )


def _training_memory(
    size: Sizes, data: Dataset, training: Mapping[str, Any], machine: Calibration
) -> int:
    """Weights, gradient, moments and best weights; activations; a chunk of logits; a teacher."""
    places = training["batch_size"] * training["context_length"]
    base = CUDA_BASE_BYTES if machine.device == "cuda" else CPU_BASE_BYTES
    activations = 4 * 16 * size.n_layer * places * size.d_model
    logits = 3 * 4 * HEAD_CHUNK[machine.device] * data.vocab_size
    teacher = 0
    if training["teacher_share"]:
        # All bigrams, the counts of trigrams while they are sorted, and a batch's targets.
        teacher = 4 * data.vocab_size * (data.vocab_size + places) + 60 * data.train_tokens
    return base + 20 * size.parameters + activations + logits + teacher


def _scoring(
    run: str,
    training: Mapping[str, Any],
    params: Mapping[str, Any],
    data: Dataset,
    size: Sizes,
    kind: Kind,
    machine: Calibration,
) -> StageEstimate:
    """Forward over the common test documents and over the run's own."""
    context, recurrent = training["context_length"], kind in ("lstm", "gru")
    tokens = round(2 * params["evaluation"]["max_documents"] * data.tokens_per_document)
    processed = tokens if recurrent else SCORING_OVERLAP * tokens
    if recurrent:
        processed += params["scoring"]["max_windows"] * context
    share = (CPU_SCORING if machine.device == "cpu" else CUDA_TRAINING)[kind]
    batch = params["scoring"]["batch_size"]
    return StageEstimate(
        stage=f"score_lm@{run}",
        tokens=tokens,
        seconds=processed * size.forward_flops(context) / (machine.matmul_peak * share),
        peak_memory_bytes=(CUDA_BASE_BYTES if machine.device == "cuda" else CPU_BASE_BYTES)
        + 4 * size.parameters
        + 2 * 4 * batch * context * data.vocab_size,
        disk_bytes=0,
        usd=None,
    )


def _sampling(
    run: str, sampling: Mapping[str, Any], size: Sizes, kind: Kind, machine: Calibration
) -> StageEstimate:
    """Token by token, each sample to its longest."""
    samples = len(sampling["prompts"]) * sampling["samples_per_prompt"]
    tokens = samples * sampling["max_new_tokens"]
    floor = CPU_TOKEN_SECONDS[kind] if machine.device == "cpu" else CUDA_TOKEN_SECONDS
    share = (CPU_SCORING if machine.device == "cpu" else CUDA_TRAINING)[kind]
    arithmetic = size.forward_flops(0) / (machine.matmul_peak * share)
    base = CUDA_BASE_BYTES if machine.device == "cuda" else CPU_SAMPLING_BYTES
    return StageEstimate(
        stage=f"sample_lm@{run}",
        tokens=tokens,
        seconds=tokens * (floor * size.n_layer + arithmetic),
        peak_memory_bytes=base + 4 * size.parameters,
        disk_bytes=6 * tokens,
        usd=None,
    )


def _early(
    tokenizer: str,
    training: Mapping[str, Any],
    params: Mapping[str, Any],
    data: Dataset,
    size: Sizes,
    kind: Kind,
    machine: Calibration,
) -> StageEstimate:
    """The first steps of a run, without an evaluation, and the samples."""
    early = params["early"]
    begun = {**training, "epochs": early["share"] * training["epochs"], "evaluations": -1}
    drawn = {**params["sampling"], "prompts": ("",), "samples_per_prompt": early["samples"]}
    steps = _training("", begun, data, size, kind, machine)
    samples = _sampling("", drawn, size, kind, machine)
    return StageEstimate(
        stage=f"sample_early@{tokenizer}",
        tokens=steps.tokens + samples.tokens,
        seconds=steps.seconds + samples.seconds,
        peak_memory_bytes=steps.peak_memory_bytes,
        disk_bytes=samples.disk_bytes,
        usd=None,
    )


# --- Output ---------------------------------------------------------------------------------------


def render(estimates: Sequence[StageEstimate]) -> str:
    """Return a table with a last row of totals: memory is the highest, the rest is summed."""
    prices = [e.usd for e in estimates if e.usd is not None]
    total = StageEstimate(
        stage="total",
        tokens=sum(e.tokens for e in estimates),
        seconds=sum(e.seconds for e in estimates),
        peak_memory_bytes=max((e.peak_memory_bytes for e in estimates), default=0),
        disk_bytes=sum(e.disk_bytes for e in estimates),
        usd=sum(prices) if len(prices) == len(estimates) else None,
    )
    rows = [("stage", "tokens", "time", "memory", "disk", "USD"), *map(_row, [*estimates, total])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(_line(row, widths) for row in rows)


def _row(e: StageEstimate) -> tuple[str, ...]:
    return (
        e.stage,
        f"{e.tokens:,}",
        duration(e.seconds),
        _size(e.peak_memory_bytes),
        _size(e.disk_bytes),
        "unknown" if e.usd is None else f"{e.usd:.2f}",
    )


def _size(count: int) -> str:
    if not count:
        return "-"
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    name, *numbers = (word.rjust(width) for word, width in zip(row, widths, strict=True))
    return "  ".join([name.strip().ljust(widths[0]), *numbers])


def save_estimates(estimates: Sequence[StageEstimate], path: Path = ESTIMATES) -> None:
    """Write {stage: seconds}, which the ledger puts beside what the stage then took."""
    write_json(path, {e.stage: round(e.seconds, 2) for e in estimates})
