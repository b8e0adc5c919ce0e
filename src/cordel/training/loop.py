"""The one training loop: v1 to v7, RNNs and Transformers, on CPU and CUDA.

The curve and every reported number is plain cross-entropy. What is optimised may add label
smoothing or the thesis' penalty, and goes by the name of objective.
"""

import copy
import logging
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cordel.compute import Compute
from cordel.losses import Objective, linear_cross_entropy
from cordel.runtime.console import Progress, Stopped, duration, stop_requests
from cordel.runtime.errors import UserError
from cordel.tokens import SplitMeta
from cordel.training.batches import LaneBatches, WindowBatches
from cordel.training.ngrams import TrigramTeacher, start_at_bigrams, start_at_unigrams
from cordel.training.optimizers import build_optimizers, clip
from cordel.training.params import TrainingParams
from cordel.training.resume import STATE, load_state, save_state
from cordel.training.schedule import learning_rate_factor

log = logging.getLogger("train_lm")

SAVE_EVERY_SECONDS = 60.0  # what a killed run can lose; a state is exact, so it changes no result
CHECK_EVERY = 10  # steps between looks at the loss: one wait for the GPU instead of ten
VAL_LANES = 16
FALLBACK_IDS = 256  # the thesis' penalty is on the last ids, which it took for the byte pieces


class TrainingDivergedError(UserError):
    """The loss became NaN or infinite: lower the learning rate or clip."""


@dataclass
class State:
    """All that changes while a run trains; what a checkpoint holds."""

    step: int = 0
    hidden: Any = None  # RNNs: the state at the end of the last window
    curve: list[dict[str, Any]] = field(default_factory=list)
    best_step: int = 0
    best_bits: float = math.inf
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    evaluations_since_best: int = 0
    done: bool = False


def detached(state: Any) -> Any:
    """Return a recurrent state cut from the graph, for truncated backpropagation."""
    if isinstance(state, Tensor):
        return state.detach()
    return None if state is None else type(state)(detached(item) for item in state)


class Trainer:
    """One run: its model, its data, its optimisers and its state."""

    def __init__(
        self,
        model: Any,
        params: TrainingParams,
        *,
        train_ids: np.ndarray,
        val_ids: np.ndarray,
        val_meta: SplitMeta,
        compute: Compute,
    ) -> None:
        """Put everything on the device."""
        self.params, self.compute = params, compute
        if params.unigram_bias:
            start_at_unigrams(model, train_ids)
        self.model = model.to(compute.device)
        self.features = self.model.features
        if compute.compile:
            self.features = torch.compile(self.features)
        self.train_ids = train_ids
        self.teacher: TrigramTeacher | None = None
        if params.teacher_share:
            self.teacher = TrigramTeacher(train_ids, len(model.head[0])).to(compute.device)
        self.carries_state = model.carries_state and params.stride == params.context_length
        shape = {"context_length": params.context_length, "batch_size": params.batch_size}
        if self.carries_state:
            self.batches: LaneBatches | WindowBatches = LaneBatches(train_ids, **shape)
        else:
            self.batches = WindowBatches(train_ids, stride=params.stride, seed=params.seed, **shape)
        self.total_steps = max(1, round(params.epochs * self.batches.steps_per_epoch))
        self.schedule_steps = max(1, round(params.schedule_epochs * self.batches.steps_per_epoch))
        self.val_ids, self.val_meta = val_ids, val_meta
        self.optimizers = build_optimizers(self.model, params)
        self.state = State()
        self._losses: list[Tensor] = []  # plain cross-entropy of each step since the last look
        self._sums: list[float] = []  # the same, looked at, since the last evaluation

    # --- state ------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """Return everything a resumed run needs to give the same bytes."""
        return {
            "state": vars(self.state) | {"losses": self._sums},
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state() if self.compute.device == "cuda" else None,
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Continue from ``snapshot``."""
        values = dict(snapshot["state"])
        self._sums = values.pop("losses")
        self.state = State(**values)
        self.state.hidden = _to(self.state.hidden, self.compute.device)
        self.model.load_state_dict(snapshot["model"])
        for optimizer, state in zip(self.optimizers, snapshot["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        torch.set_rng_state(snapshot["rng"])
        if self.compute.device == "cuda":
            torch.cuda.set_rng_state(snapshot["cuda_rng"])

    # --- one step ---------------------------------------------------------------------------------

    def begin(self) -> bool:
        """Give the untrained weights what counting knows; return whether the run wants it."""
        if (start := self.params.bigram_start) is None:
            return False
        log.info("fitting embedding and output to the bigrams of the train text")
        start_at_bigrams(self.model, self.train_ids, start, seed=self.params.seed)
        return True

    def losses(self, hidden_BTD: Tensor, ids_BT1: Tensor) -> tuple[Tensor, Tensor]:
        """Return (objective, cross-entropy) of windows, both in nats a token."""
        p = self.params
        targets_BT = ids_BT1[:, 1:]
        if p.targets == "last":
            hidden_BTD, targets_BT = hidden_BTD[:, -1:], targets_BT[:, -1:]
        objective = Objective(
            smoothing=p.label_smoothing,
            penalty=p.fallback_penalty,
            penalised=FALLBACK_IDS,
            soft=None if self.teacher is None else self.teacher.rows(ids_BT1),
            soft_share=p.teacher_share,
        )
        weight, bias = self.model.head
        summed = linear_cross_entropy(
            hidden_BTD.flatten(0, 1), weight, bias, targets_BT.flatten(), objective
        )
        value, entropy = (each / targets_BT.numel() for each in summed)
        return value, entropy

    def take_step(self) -> None:
        """Forward, backward, clip, update."""
        batch = self.batches.batch(self.state.step)
        ids = torch.from_numpy(batch.ids)
        if self.compute.device == "cuda":
            ids = ids.pin_memory().to("cuda", non_blocking=True)
        hidden = None if batch.starts_afresh else self.state.hidden
        self.model.train()
        with self.compute.autocast():
            hidden_BTD, hidden = self.features(ids[:, :-1], hidden)
            objective, entropy = self.losses(hidden_BTD, ids)
        self.state.hidden = detached(hidden) if self.carries_state else None
        objective.backward()
        clip(self.model, self.params)
        factor = self.factor(self.state.step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self._losses.append(entropy)
        self.state.step += 1

    def factor(self, step: int) -> float:
        """Return the schedule's factor on the learning rates at ``step``."""
        p = self.params
        return learning_rate_factor(
            step,
            kind=p.schedule,
            total_steps=self.schedule_steps,
            warmup_steps=p.warmup_steps,
            decay_share=p.decay_share,
        )

    def look(self, folder: Path) -> float:
        """Return the mean loss of the last steps.

        Raises:
            TrainingDivergedError: One of them is NaN or infinite.
        """
        values = torch.stack(self._losses).tolist()
        self._losses.clear()
        for index, value in enumerate(values):
            if not math.isfinite(value):
                step = self.state.step - len(values) + index + 1
                good = folder / STATE
                last = f"last good checkpoint: {good}" if good.exists() else "no checkpoint yet"
                raise TrainingDivergedError(
                    f"the loss is {value} at step {step} of {self.total_steps}; {last}; "
                    "lower learning_rate or set grad_clip"
                )
        self._sums += values
        return sum(values) / len(values)

    # --- evaluation -------------------------------------------------------------------------------

    @torch.no_grad()
    def val_nats_per_token(self) -> float:
        """Return the mean cross-entropy over the val split in consecutive windows."""
        self.model.eval()
        context = self.params.context_length
        lanes = max(1, min(VAL_LANES, (len(self.val_ids) - 1) // context))
        batches = LaneBatches(
            self.val_ids,
            context_length=min(context, (len(self.val_ids) - 1) // lanes),
            batch_size=lanes,
        )
        weight, bias = self.model.head
        nats, count, hidden = 0.0, 0, None
        for step in range(batches.steps_per_epoch):
            ids = torch.from_numpy(batches.batch(step).ids).to(self.compute.device)
            with self.compute.autocast():
                hidden_BTD, hidden = self.model.features(ids[:, :-1], hidden)
                targets_N = ids[:, 1:].flatten()
                hidden_ND = hidden_BTD.flatten(0, 1)
                nats += linear_cross_entropy(hidden_ND, weight, bias, targets_N)[1].item()
            hidden = hidden if self.model.carries_state else None
            count += targets_N.numel()
        return nats / count

    def evaluate(self) -> None:
        """Add a row to the curve and keep the weights if they are the best so far."""
        nats = self.val_nats_per_token()
        meta = self.val_meta
        # A byte behind an unknown id costs the 8 bits of a uniform guess.
        bits = nats * meta.tokens / (math.log(2) * meta.bytes) + 8 * meta.unknown_bytes / meta.bytes
        state, p = self.state, self.params
        train = sum(self._sums) / len(self._sums) / math.log(2) if self._sums else None
        row = {
            "step": state.step,
            "train_tokens": state.step * p.batch_size * p.context_length,
            "train_bits_per_token": None if train is None else round(train, 6),
            "val_bits_per_token": round(nats / math.log(2), 6),
            "val_bits_per_byte": round(bits, 6),
            "learning_rate": float(f"{p.learning_rate * self.factor(max(0, state.step - 1)):.6g}"),
        }
        state.curve.append(row)
        self._sums = []
        if bits < state.best_bits:
            state.best_step, state.best_bits = state.step, bits
            state.best_weights = copy.deepcopy(self.model.state_dict())
            state.evaluations_since_best = 0
        else:
            state.evaluations_since_best += 1

    # --- the run ----------------------------------------------------------------------------------

    def run(self, folder: Path, label: str) -> State:
        """Train to the end, or until patience ends; resume from and save to ``folder``.

        Raises:
            TrainingDivergedError: The loss became NaN or infinite.
            Stopped: SIGTERM or SIGINT came; the state was saved first.
        """
        if (snapshot := load_state(folder)) is not None:
            self.restore(snapshot)
            log.info("%s", self._resumed(label, folder))
        else:
            self.evaluate()
            if self.begin():
                self.evaluate()  # a second row at step 0: what counting gave
        p = self.params
        eval_steps = {round(self.total_steps * k / p.evaluations) for k in range(p.evaluations + 1)}
        tokens = p.batch_size * p.context_length
        total = self.total_steps * tokens
        shown = Progress(label, "tokens", total, done=self.state.step * tokens)
        saved_at = started_at = time.monotonic()
        with stop_requests() as stop_requested:
            while not self.state.done:
                self.take_step()
                step = self.state.step
                evaluating = step in eval_steps
                if step % CHECK_EVERY == 0 or evaluating:
                    loss = self.look(folder)
                    bits = self.state.curve[-1]["val_bits_per_byte"]
                    shown.advance(0, note=f"loss {loss:.3f}, val {bits:.3f} bits/byte")
                if evaluating:
                    self.evaluate()
                shown.advance(tokens)
                tired = p.patience is not None and self.state.evaluations_since_best >= p.patience
                self.state.done = step == self.total_steps or tired
                due = time.monotonic() - saved_at > SAVE_EVERY_SECONDS
                if self.state.done or due or stop_requested():
                    if self._losses:
                        self.look(folder)
                    save_state(folder, self.snapshot())
                    saved_at = time.monotonic()
                if stop_requested() and not self.state.done:
                    raise Stopped
        shown.close()
        state = self.state
        log.info(
            "%s: %d steps, %s, best val %.4f bits per byte at step %d",
            label,
            state.step,
            duration(time.monotonic() - started_at),
            state.best_bits,
            state.best_step,
        )
        return state

    def _resumed(self, label: str, folder: Path) -> str:
        if self.state.done:
            return f"{label}: found it finished in {folder}; delete that folder to train it anew"
        return f"{label}: resuming from step {self.state.step} of {self.total_steps}"

    def tokens(self) -> dict[str, int]:
        """Return the ledger's three counts: distinct, processed and supervised tokens."""
        p, step = self.params, self.state.step
        return {
            "unique": min(len(self.batches.ids), step * p.batch_size * p.stride),
            "processed": step * p.batch_size * p.context_length,
            "supervised": step * p.batch_size * (p.context_length if p.targets == "all" else 1),
        }


def _to(state: Any, device: str) -> Any:
    if isinstance(state, Tensor):
        return state.to(device)
    return None if state is None else type(state)(_to(item, device) for item in state)
