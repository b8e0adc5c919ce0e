"""Train a LoRA adapter on packed blocks with transformers' Trainer.

The loss is the sum of the cross-entropy over the targets, divided by the number of targets of the
whole accumulation, so that 4 x 1 blocks are 1 x 4 blocks. The head runs on supervised places only:
a conversation's prompt costs no logits. All blocks of all epochs stand in one seeded order, so the
batch is a function of the step, and a resumed run gives the bytes of an uninterrupted one.

Trainer's own save is not atomic: a mark is written last, the fingerprint of the files, and only
checkpoints that still match theirs are resumed.
"""

import logging
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.data import SequentialSampler
from transformers import DefaultFlowCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback

from cordel.adaptation.packing import NO_TARGET, Block, collate
from cordel.adaptation.quantised import (
    BaseModel,
    LoraParams,
    head_of,
    hidden_states,
    linear4bit_layers,
    load_base,
    new_adapter,
    save_adapter,
    trainable_copy,
    trainable_parameters,
)
from cordel.compute import Compute
from cordel.losses import linear_cross_entropy
from cordel.runtime.console import Progress, Stopped, stop_requests
from cordel.runtime.errors import ArtifactError, UserError
from cordel.runtime.files import new_directory, read_json, write_json, write_text
from cordel.runtime.params import require
from cordel.runtime.unfinished import fingerprint

log = logging.getLogger("adapt")

HEAD_CHUNK = 1024  # places at once: 0.5 GiB of float32 logits at 128k ids
SAVE_EVERY_SECONDS = 300.0
MARK = "complete"  # in a checkpoint that was written to its end: what it then was
FINISHED = "finished.json"
CURVE = ("step", "train_nats_per_token", "eval_nats_per_token", "eval_accuracy", "learning_rate")


class AdaptationDivergedError(UserError):
    """The loss became NaN or infinite: lower the learning rate or clip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptationParams:
    """The sections ``cpt`` and ``sft`` of params.yaml."""

    seed: int
    block_length: int  # ids of a packed block, at most the base's max_length
    batch_size: int  # blocks at once
    accumulation: int  # batches a step
    epochs: float
    learning_rate: float
    schedule: Literal["cosine", "linear", "constant_with_warmup"]
    warmup_steps: int
    weight_decay: float
    grad_clip: float
    optimizer: Literal["adamw_torch", "paged_adamw_8bit"]
    evaluations: int  # evenly spaced; the best of them is kept
    gradient_checkpointing: bool

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("block_length", "batch_size", "accumulation", "evaluations"):
            value = getattr(self, name)
            require(value > 0, f"{name} is {value}, expected at least 1")
        for name in ("epochs", "learning_rate", "grad_clip"):
            value = getattr(self, name)
            require(value > 0, f"{name} is {value}, expected above 0")
        for name in ("warmup_steps", "weight_decay", "seed"):
            value = getattr(self, name)
            require(value >= 0, f"{name} is {value}, expected at least 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapted:
    """What training gave beside the weights, which are in the model."""

    curve: list[dict[str, Any]]
    steps: int
    best_step: int
    best_nats_per_token: float
    trainable_parameters: int
    model_flops: int  # of frozen matrices: forward and back to the input; no recomputation


# --- the loss -------------------------------------------------------------------------------------


def supervised(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the hidden states ``float[N, D]`` of a batch's targets, and the targets."""
    chosen_BT = batch["labels"] != NO_TARGET
    return hidden_states(model, batch)[chosen_BT], batch["labels"][chosen_BT]


def supervised_nats(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Return the summed nats over the targets of a batch of ``packing.collate``."""
    hidden_ND, targets_N = supervised(model, batch)
    head = head_of(model)
    if isinstance(head, torch.nn.Linear):
        return linear_cross_entropy(hidden_ND, head.weight, head.bias, targets_N)[0]
    # The head has an adapter of its own: one chunk's logits at a time, again on the way back.
    pairs = zip(hidden_ND.split(HEAD_CHUNK), targets_N.split(HEAD_CHUNK), strict=True)
    parts = [checkpoint(_head_nats, head, h, t, use_reentrant=False) for h, t in pairs]
    return torch.stack(parts).sum()  # pyright: ignore[reportArgumentType]


def _head_nats(head: Any, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
    return F.cross_entropy(head(hidden_ND).float(), targets_N, reduction="sum")


@torch.no_grad()
def nats_and_hits(model: Any, batch: dict[str, Tensor]) -> tuple[float, int]:
    """Return the summed nats over the targets, and how many are the likeliest id."""
    nats, hits = 0.0, 0
    parts = (each.split(HEAD_CHUNK) for each in supervised(model, batch))
    for hidden_ND, targets_N in zip(*parts, strict=True):
        logits_NV = head_of(model)(hidden_ND).float()
        nats += F.cross_entropy(logits_NV, targets_N, reduction="sum").item()
        hits += int((logits_NV.argmax(dim=-1) == targets_N).sum())
    return nats, hits


@torch.no_grad()
def score_blocks(
    model: Any,
    blocks: Sequence[Block],
    *,
    batch_size: int,
    pad: int,
    compute: Compute,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[float, int, int]:
    """Return (nats, targets, hits) over ``blocks``, each target once."""
    model.eval()
    nats, targets, hits = 0.0, 0, 0
    for at in range(0, len(blocks), batch_size):
        chosen = blocks[at : at + batch_size]
        batch = {k: v.to(compute.device) for k, v in collate(chosen, pad=pad).items()}
        with compute.autocast():
            summed, right = nats_and_hits(model, batch)
        nats, hits = nats + summed, hits + right
        targets += sum(block.supervised for block in chosen)
        advance(len(chosen))
    return nats, targets, hits


# --- the run --------------------------------------------------------------------------------------


def schedule_of(blocks: Sequence[Block], params: AdaptationParams) -> list[Block]:
    """Return the blocks in the order in which they are trained on, over all epochs."""
    order: list[Block] = []
    epoch = 0
    wanted = max(1, round(params.epochs * len(blocks)))
    while len(order) < wanted:
        shuffled = np.random.default_rng([params.seed, epoch]).permutation(len(blocks))
        order += [blocks[index] for index in shuffled]
        epoch += 1
    return order[:wanted]


class BlockTrainer(Trainer):
    """Trainer with our loss, our evaluation and our order; everything else is Trainer's."""

    def __init__(self, *args: Any, compute: Compute, pad: int, **kwargs: Any) -> None:
        """Remember where and how precisely."""
        self.compute, self.pad = compute, pad
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = True  # so that the accumulation's targets are counted
        self._loss_shifts_labels = False  # ours are shifted already

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return SequentialSampler(train_dataset or self.train_dataset)  # pyright: ignore[reportArgumentType]

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,  # noqa: ARG002  (Trainer's signature)
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the nats of the batch divided by the targets of the whole accumulation."""
        with self.compute.autocast():
            nats = supervised_nats(model, inputs)
        return nats / num_items_in_batch

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Return the mean nats over all targets of the evaluation blocks (not of batch means)."""
        nats, targets, hits = score_blocks(
            self.model,
            self.eval_dataset,  # pyright: ignore[reportArgumentType]
            batch_size=self.args.per_device_eval_batch_size,
            pad=self.pad,
            compute=self.compute,
        )
        if not math.isfinite(nats):  # before its weights are saved
            raise AdaptationDivergedError(
                f"the evaluation loss is {nats} at step {self.state.global_step} of "
                f"{self.state.max_steps}; lower learning_rate or grad_clip"
            )
        metrics = {"eval_loss": nats / targets, "eval_accuracy": hits / targets}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics


class _Watch(TrainerCallback):
    """Progress, time-based saves, requests to stop, divergence, the mark of a whole checkpoint."""

    def __init__(self, label: str, stop_requested: Callable[[], bool]) -> None:
        self.label, self.stop_requested = label, stop_requested
        self.shown = Progress(label, "steps")
        self.stopped = False
        self.saved_at = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Start the progress line where the run stands."""
        if state.best_global_step:  # its path is absolute, and Trainer drops it from a moved folder
            best = Path(args.output_dir) / f"checkpoint-{state.best_global_step}"
            state.best_model_checkpoint = str(best)
        self.shown = Progress(self.label, "steps", state.max_steps, done=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Stop at a loss that is none."""
        loss = kwargs.get("logs", {}).get("loss", 0.0)
        if not math.isfinite(loss):
            raise AdaptationDivergedError(
                f"{self.label}: the loss is {loss} at step {state.global_step} of "
                f"{state.max_steps}; lower learning_rate or grad_clip"
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Decide about evaluation, saving and stopping."""
        self.shown.advance()
        last = state.global_step >= state.max_steps
        control.should_log = True
        control.should_evaluate = last or state.global_step % args.eval_steps == 0
        due = time.monotonic() - self.saved_at > SAVE_EVERY_SECONDS
        control.should_save = control.should_evaluate or due
        if self.stop_requested() and not last:
            self.stopped = control.should_save = control.should_training_stop = True
        return control

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Mark the checkpoint as whole."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        write_text(folder / MARK, seal(folder))
        self.saved_at = time.monotonic()


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptation:
    """One arm to be trained.

    Attributes:
        name: Of the arm.
        base: The model, loaded in NF4.
        start: An adapter to train further (a copy of it), or None for a new one.
        lora: The shape of a new adapter.
        params: The schedule.
        compute: Where and how precisely.
        pad: The id that fills short rows.
    """

    name: str
    base: BaseModel
    start: Path | None
    lora: LoraParams
    params: AdaptationParams
    compute: Compute
    pad: int


def adapt(
    run: Adaptation, *, train: Sequence[Block], evaluation: Sequence[Block], folder: Path
) -> Adapted:
    """Train an adapter to its best evaluation loss and leave it in ``folder/adapter``.

    Args:
        run: What to train.
        train: Packed blocks.
        evaluation: Blocks by whose loss the best checkpoint is chosen.
        folder: Where checkpoints are kept, and an interrupted run is found again.

    Raises:
        ArtifactError: There is nothing to train on or to judge by.
        AdaptationDivergedError: The loss became NaN or infinite.
        Stopped: SIGTERM or SIGINT came; the state was saved first.
    """
    name, base, params, compute = run.name, run.base, run.params, run.compute
    if not train or not evaluation:
        raise ArtifactError(
            f"{name}: {len(train)} blocks to train on and {len(evaluation)} to judge by; use more "
            "data, a longer block_length, or rerun the stage that prepares it"
        )
    model = load_base(base, compute)
    if run.start is None:
        model = new_adapter(model, run.lora)
    else:
        model = trainable_copy(model, run.start, base)
    log.info(
        "%s: %d layers in 4 bits, %s trainable parameters",
        name,
        len(linear4bit_layers(model)),
        f"{trainable_parameters(model):,}",
    )
    blocks = schedule_of(train, params)
    total = math.ceil(len(blocks) / (params.batch_size * params.accumulation))
    last = last_checkpoint(folder)
    with stop_requests() as stop_requested:
        watch = _Watch(name, stop_requested)
        trainer = BlockTrainer(
            model=model,
            args=_arguments(params, compute, folder, total, resuming=last is not None),
            train_dataset=blocks,  # pyright: ignore[reportArgumentType]  (a list is one)
            eval_dataset=evaluation,  # pyright: ignore[reportArgumentType]
            data_collator=partial(collate, pad=run.pad),
            callbacks=[watch],
            compute=compute,
            pad=run.pad,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.remove_callback(DefaultFlowCallback)
        if last is not None:
            log.info("%s: resuming from %s", name, last)
        trainer.train(resume_from_checkpoint=None if last is None else str(last))
    watch.shown.close()
    if watch.stopped:
        raise Stopped
    state = trainer.state
    with new_directory(folder / "adapter") as out:
        save_adapter(model, out, base)
    adapted = Adapted(
        curve=curve_of(state.log_history),
        steps=state.global_step,
        best_step=int(state.best_global_step or 0),
        best_nats_per_token=float(state.best_metric or math.nan),
        trainable_parameters=trainable_parameters(model),
        model_flops=model_flops(model, token_counts(train, params)),
    )
    write_json(folder / FINISHED, asdict(adapted) | {"seal": seal(folder / "adapter")})
    for checkpoint_folder in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint_folder)
    return adapted


def model_flops(model: Any, tokens: dict[str, int]) -> int:
    """Return the FLOPs that training takes: 4 a frozen weight and id, where 6 N D trains them all.

    Gradients of frozen weights are never taken; those of LoRA are a few percent and left out, as is
    attention. The head sees supervised ids only.
    """
    layers = sum(layer.in_features * layer.out_features for layer in linear4bit_layers(model))
    return 4 * (layers * tokens["processed"] + head_of(model).weight.numel() * tokens["supervised"])


def seal(folder: Path) -> str:
    """Return the fingerprint of what is in a folder, but for the mark that keeps it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MARK)
    return fingerprint([path.relative_to(folder).as_posix() for path in files], files=files)


def finished(folder: Path) -> Adapted | None:
    """Return what a run gave that ended in ``folder``, or None; a damaged one is deleted."""
    if not (folder / FINISHED).exists():
        return None
    try:
        values = read_json(folder / FINISHED)
        whole = values.pop("seal") == seal(folder / "adapter")
    except (ArtifactError, AttributeError, KeyError):
        values, whole = {}, False
    if not whole:
        log.warning("the finished adapter in %s is damaged: training it anew", folder)
        (folder / FINISHED).unlink()
        return None
    curve = [{name: row[name] for name in CURVE} for row in values.pop("curve")]
    return Adapted(curve=curve, **values)


def last_checkpoint(folder: Path) -> Path | None:
    """Return the last checkpoint that is whole, and so is the best one that it goes by.

    One that a kill cut short has no mark, and is deleted; so is one that was damaged later, which
    is said.
    """
    whole: dict[str, Path] = {}
    for path in sorted(folder.glob("checkpoint-*"), key=_number):
        if not (path / MARK).exists():
            shutil.rmtree(path)
        elif (path / MARK).read_text(encoding="utf-8") == seal(path):
            whole[path.name] = path
        else:
            log.warning("%s is damaged: going back to the checkpoint before it", path)
            shutil.rmtree(path)
    for path in reversed(whole.values()):
        if _best_of(path) in {"", *whole}:
            return path
        log.warning("%s: its best checkpoint is not there: going back further", path)
        shutil.rmtree(path)
    return None


def _number(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _best_of(path: Path) -> str:
    """Return the name of the best checkpoint until then, or nothing."""
    step = read_json(path / TRAINER_STATE_NAME)["best_global_step"]
    return f"checkpoint-{step}" if step else ""


def _arguments(
    params: AdaptationParams, compute: Compute, folder: Path, total: int, *, resuming: bool
) -> TrainingArguments:
    every = math.ceil(total / params.evaluations)
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=1,  # the blocks of all epochs stand in one row
        per_device_train_batch_size=params.batch_size,
        per_device_eval_batch_size=params.batch_size,
        gradient_accumulation_steps=params.accumulation,
        learning_rate=params.learning_rate,
        lr_scheduler_type=params.schedule,
        warmup_steps=params.warmup_steps,
        weight_decay=params.weight_decay,
        max_grad_norm=params.grad_clip,
        optim=params.optimizer,
        activation_checkpointing=params.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        eval_strategy="steps",
        eval_steps=every,
        eval_on_start=not resuming,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=3,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        logging_steps=1,
        logging_nan_inf_filter=False,
        seed=params.seed,
        use_cpu=compute.device == "cpu",
        bf16=False,  # compute.autocast() decides
        dataloader_pin_memory=compute.device == "cuda",
        remove_unused_columns=False,
        label_names=["labels"],
        report_to="none",
        disable_tqdm=True,
    )
    _ = arguments.device  # counts the GPUs
    arguments._n_gpu = min(arguments.n_gpu, 1)  # or Trainer wraps the model in DataParallel
    return arguments


def curve_of(history: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row an evaluation: the mean training loss since the one before, and its own."""
    rows: list[dict[str, Any]] = []
    losses: list[float] = []
    rate = 0.0
    for entry in history:
        if "loss" in entry:
            losses.append(entry["loss"])
            rate = entry["learning_rate"]
        elif "eval_loss" in entry:
            train = round(sum(losses) / len(losses), 6) if losses else None
            losses_and_rate = (
                round(entry["eval_loss"], 6),
                round(entry["eval_accuracy"], 6),
                float(f"{rate:.6g}"),
            )
            rows.append(dict(zip(CURVE, (entry["step"], train, *losses_and_rate), strict=True)))
            losses = []
    return rows


def token_counts(train: Sequence[Block], params: AdaptationParams) -> dict[str, int]:
    """Return the ledger's counts of a whole run: distinct, processed, supervised, padding."""
    blocks = schedule_of(train, params)
    size = params.batch_size
    batches = [blocks[at : at + size] for at in range(0, len(blocks), size)]
    processed = sum(len(b) * max(len(block.ids) for block in b) for b in batches)
    real = sum(len(block.ids) for block in blocks)
    return {
        "unique": sum(len(block.ids) for block in {id(block): block for block in blocks}.values()),
        "processed": processed,
        "supervised": sum(block.supervised for block in blocks),
        "padding": processed - real,
    }
