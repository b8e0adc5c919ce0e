"""``cordel estimate``: time, memory, disk and money of each stage before it runs.

Seconds are FLOPs / (matmul peak of this machine x the share of it that each architecture reaches).
The shares on the CPU are measured; those on CUDA are assumed, as no run of ours used one yet.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from cordel.costs import CostParams, hourly_price
from cordel.runtime.console import duration
from cordel.runtime.files import read_json, write_json
from cordel.runtime.hardware import matmul_peak
from cordel.runtime.params import parse
from cordel.sizing import (
    Shape,
    Sizes,
    adapter_disk_bytes,
    checkpoint_disk_bytes,
    kv_cache_bytes,
    lora_parameters,
    qlora_flops_per_token,
    qlora_peak_bytes,
    sizes,
    total_parameters,
)

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

# Python, torch and the token arrays; a stage that only samples touches less of torch. Same ledgers.
CPU_BASE_BYTES, CPU_SAMPLING_BYTES = 400_000_000, 295_000_000
CPU_ADAPTATION_BYTES = 650_000_000  # transformers' Trainer, peft and bitsandbytes: 540 MB imported
CUDA_BASE_BYTES = 1_000_000_000  # CUDA context and workspaces
SCORING_OVERLAP = 2  # a Transformer's windows overlap by half; an RNN reads each token once
VAL_LANES = 16

# QLoRA: the thesis' CPT on an RTX 4090 (thesis 5.4): 1584 tokens/s x 45.3 GFLOP / 165 TFLOP/s.
# On the CPU that of the Llama from scratch, which runs the same products.
ADAPTATION_EFFICIENCY = {"cuda": 0.43, "cpu": 0.40}
# Its generation (thesis 5.7): 60 to 70 ms a step through 32 layers in NF4, whatever the batch.
DECODE_SECONDS_PER_LAYER = {"cuda": 0.065 / 32, "cpu": 6.1e-4}


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
    """Return the estimates of train_lm, score_lm and sample_lm for each run, in this order.

    Early stopping (``patience``) is not foreseen: these are upper bounds there.

    Args:
        params: All of params.yaml.
        machine: From ``calibrate``.
        root: Of the project; ``data/tokens/<dataset>/meta.json`` below it gives real counts.
    """
    price, _ = price_of(params, machine)
    found = []
    for name, run in params["models"].items():
        data = dataset_counts(params, run["dataset"], root=root)
        size = sizes(
            run["architecture"],
            run["model"],
            vocab_size=data.vocab_size,
            context_length=run["training"]["context_length"],
        )
        kind = run["model"]["cell"] if run["architecture"] == "rnn" else run["architecture"]
        found.append(_training(name, run["training"], data, size, kind, machine))
        found.append(_scoring(name, run["training"], params, data, size, kind, machine))
        found.append(_sampling(name, params["sampling"], size, kind, machine))
    ordered = [
        e for start in ("train_", "score_", "sample_") for e in found if e.stage.startswith(start)
    ]
    return [_priced(e, price) for e in ordered]


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


def _priced(e: StageEstimate, usd_per_hour: float | None) -> StageEstimate:
    usd = None if usd_per_hour is None else usd_per_hour * e.seconds / 3600
    return replace(e, usd=usd)


def dataset_counts(params: Mapping[str, Any], name: str, *, root: Path) -> Dataset:
    """Return a dataset's counts: real ones if it is encoded, else assumed from its caps."""
    path = root / "data" / "tokens" / name / "meta.json"
    if path.exists():
        meta = read_json(path)
        train, val = meta["splits"]["train"], meta["splits"]["val"]
        return Dataset(
            vocab_size=meta["vocab_size"],
            train_tokens=train["tokens"],
            val_tokens=val["tokens"],
            tokens_per_document=train["tokens"] / train["documents"],
        )
    section, splits = params["datasets"][name], params["splits"]
    tokenizer = params["tokenizers"][section["tokenizer"]]
    assumed = SAMPLE if params["corpus"]["source"] == "sample" else WEB
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
        peak_memory_bytes=_training_memory(size, data, batch, context, machine),
        disk_bytes=checkpoint_disk_bytes(size.parameters) + 4 * size.parameters,
        usd=None,
    )


def _training_memory(
    size: Sizes, data: Dataset, batch: int, context: int, machine: Calibration
) -> int:
    """Weights, gradient, moments and best weights; activations; three arrays of logits."""
    base = CUDA_BASE_BYTES if machine.device == "cuda" else CPU_BASE_BYTES
    activations = 4 * 16 * size.n_layer * batch * context * size.d_model
    logits = 3 * 4 * max(batch, VAL_LANES) * context * data.vocab_size
    return base + 20 * size.parameters + activations + logits


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


# --- Adaptation -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptation:
    """One QLoRA training, in plain numbers: those of the sections ``cpt`` and ``sft``."""

    shape: Shape
    tokens_per_epoch: int  # after packing, padding included
    epochs: float
    block_length: int
    blocks: int  # a microbatch
    rank: int
    checkpointing: bool = True
    head_chunk: int | None = None  # tokens whose logits exist at once; None: all
    upcast: bool = False  # embedding and head in fp32
    val_tokens: int = 0  # in all evaluations together


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """The answers of one model, in plain numbers."""

    shape: Shape
    answers: int
    prompt_tokens: float  # mean, padding included
    new_tokens: float  # mean of the longest answer in each batch
    batch_size: int
    bytes_per_weight: float  # 0.52 in NF4, 2 in bf16


def estimate_adaptation(
    stage: str,
    job: Adaptation,
    *,
    machine: Calibration,
    usd_per_hour: float | None,
    efficiency: float | None = None,
) -> StageEstimate:
    """Return the estimate of ``adapt_cpt`` or ``adapt_sft``.

    Args:
        stage: Its name with its item.
        job: What is trained on what.
        machine: From ``calibrate``, or a data sheet's peak.
        usd_per_hour: The price of ``machine``; None if unknown.
        efficiency: Share of the peak; by default ``ADAPTATION_EFFICIENCY`` of the device.
    """
    share = efficiency or ADAPTATION_EFFICIENCY[machine.device]
    tokens = round(job.tokens_per_epoch * job.epochs)
    per_token = qlora_flops_per_token(job.shape, checkpointing=job.checkpointing)
    forward = qlora_flops_per_token(job.shape, checkpointing=False) // 2
    flops = tokens * per_token + job.val_tokens * forward
    microbatch = job.blocks * job.block_length
    parts = qlora_peak_bytes(
        job.shape,
        tokens=microbatch,
        rank=job.rank,
        head_chunk=job.head_chunk,
        upcast=job.upcast,
    )
    if not job.checkpointing:
        # Every layer keeps what one would compute again.
        parts["recompute"] *= job.shape.n_layer
        parts["checkpoints"] = 0
    if machine.device == "cpu":
        parts["context"] = CPU_ADAPTATION_BYTES
    adapter = lora_parameters(job.shape, job.rank)
    e = StageEstimate(
        stage=stage,
        tokens=tokens,
        seconds=flops / (machine.matmul_peak * share),
        peak_memory_bytes=sum(parts.values()),
        disk_bytes=adapter_disk_bytes(adapter) + checkpoint_disk_bytes(adapter),
        usd=None,
    )
    return _priced(e, usd_per_hour)


def estimate_generation(
    stage: str,
    job: Generation,
    *,
    machine: Calibration,
    usd_per_hour: float | None,
    layer_seconds: float | None = None,
) -> StageEstimate:
    """Return the estimate of ``generate_answers``: prompts read at once, then step by step.

    Args:
        stage: Its name with its item.
        job: What is generated by what.
        machine: From ``calibrate``, or a data sheet's peak.
        usd_per_hour: The price of ``machine``; None if unknown.
        layer_seconds: A step through one layer beside its arithmetic; by default
            ``DECODE_SECONDS_PER_LAYER`` of the device.
    """
    floor = layer_seconds or DECODE_SECONDS_PER_LAYER[machine.device]
    reached = machine.matmul_peak * ADAPTATION_EFFICIENCY[machine.device]
    forward = qlora_flops_per_token(job.shape, checkpointing=False) / 2
    batches = -(-job.answers // job.batch_size)
    step = max(floor * job.shape.n_layer, job.batch_size * forward / reached)
    prefill = job.answers * job.prompt_tokens * forward / reached
    tokens = round(job.answers * job.new_tokens)
    positions = round(job.batch_size * (job.prompt_tokens + job.new_tokens))
    e = StageEstimate(
        stage=stage,
        tokens=tokens,
        seconds=prefill + batches * job.new_tokens * step,
        peak_memory_bytes=round(total_parameters(job.shape) * job.bytes_per_weight)
        + kv_cache_bytes(job.shape, positions)
        + (CUDA_BASE_BYTES if machine.device == "cuda" else CPU_BASE_BYTES),
        disk_bytes=6 * tokens,
        usd=None,
    )
    return _priced(e, usd_per_hour)


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
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    name, *numbers = (word.rjust(width) for word, width in zip(row, widths, strict=True))
    return "  ".join([name.strip().ljust(widths[0]), *numbers])


def save_estimates(estimates: Sequence[StageEstimate], path: Path = ESTIMATES) -> None:
    """Write {stage: seconds}, which the ledger puts beside what the stage then took."""
    write_json(path, {e.stage: round(e.seconds, 2) for e in estimates})
