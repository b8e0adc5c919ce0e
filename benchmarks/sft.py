"""A fine-tuning step on instructions: useful supervised tokens a CPU second, by how rows are made.

The lengths of prompts and answers are those of the run's own SFT examples; the ids are random, so
the model is one of random weights with a vocabulary of 16k, in NF4 with LoRA on the seven layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import Work, interleave, rates
from cordel.adaptation.chat import load_chat, user_message
from cordel.adaptation.packing import NO_TARGET, Piece, collate, conversation_piece, pack
from cordel.adaptation.qlora import supervised_nats
from cordel.adaptation.quantised import (
    BaseModel,
    LoraParams,
    head_of,
    hidden_states,
    load_base,
    new_adapter,
)
from cordel.compute import Compute, ComputeParams, decide, seed_everything
from cordel.runtime.files import read_jsonl

VOCABULARY, WIDTH, LAYERS, HEADS, HIDDEN = 16_384, 256, 4, 4, 688
BLOCK, BATCH = 512, 8  # ids of a packed block on a CPU; rows of a padded batch
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PAD = 0


@dataclass(frozen=True, slots=True)
class Rows:
    """Batches of a way to make rows, and what they hold."""

    batches: list[dict[str, Tensor]]
    whole_logits: bool  # over all places, as models' own loss has it


def measure(*, quick: bool) -> dict[str, Any]:
    """Return supervised tokens a CPU second of every way, and how far its logits are off."""
    compute = decide(ComputeParams(device="cpu", threads=1, compile=False))
    pieces = conversations(24 if quick else 192)
    supervised = sum(t != NO_TARGET for p in pieces for t in p.targets)
    with TemporaryDirectory() as folder:
        model = random_base(Path(folder), compute)
    ways = {
        "cordel: packed, head on answers": Rows(packed(pieces), whole_logits=False),
        "one by one": Rows(padded(pieces, 1), whole_logits=True),
        f"padded to the longest of {BATCH}": Rows(padded(pieces, BATCH), whole_logits=True),
        f"grouped by length, {BATCH}": Rows(
            padded(sorted(pieces, key=lambda p: len(p.ids)), BATCH), whole_logits=True
        ),
        f"padded to {BLOCK}": Rows(padded(pieces[:8], 2, width=BLOCK), whole_logits=True),
    }
    alone = logits_of(model, padded(pieces[:16], 1))
    found: dict[str, Any] = {}
    works: dict[str, Work] = {name: step(model, rows) for name, rows in ways.items()}
    took = interleave(works, rounds=1 if quick else 5, warm_up=0)
    for name, rows in ways.items():
        inside = sum(int((b["labels"] != NO_TARGET).sum()) for b in rows.batches)
        places = sum(b["labels"].numel() for b in rows.batches)
        found[name] = rates(took[name], inside) | {"useful_share": inside / places}
    few = {"packed": packed(pieces[:16]), "padded": padded(pieces[:16], BATCH)}
    errors = {name: difference(alone, logits_of(model, rows)) for name, rows in few.items()}
    return {
        "variants": found,
        "conversations": len(pieces),
        "supervised": supervised,
        "errors": errors,
    }


def conversations(count: int) -> list[Piece]:
    """Return conversations of the lengths of ``data/sft/train.jsonl``, with random ids."""
    chat = load_chat(Path("data/base/base"))
    rng = np.random.default_rng(0)
    pieces = []
    for row in read_jsonl(Path("data/sft/train.jsonl")):
        prompt = len(chat.prompt(user_message(row["instruction"], row["input"])))
        answer = len(chat.response(row["output"]))
        if prompt + answer <= BLOCK:
            ids = rng.integers(1, VOCABULARY, prompt + answer).tolist()
            pieces.append(conversation_piece(ids[:prompt], ids[prompt:]))
        if len(pieces) == count:
            break
    return pieces


def random_base(folder: Path, compute: Compute) -> Any:
    """Return a Llama of random weights in NF4, with a LoRA adapter."""
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415

    seed_everything(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=HIDDEN,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            max_position_embeddings=2048,
        )
    ).save_pretrained(folder)
    base = BaseModel(
        source="local",
        model=str(folder),
        revision=None,
        weights="0" * 64,
        vocab_size=VOCABULARY,
        max_length=2048,
    )
    lora = LoraParams(rank=16, alpha=32, dropout=0.0, targets=TARGETS)
    return new_adapter(load_base(base, compute), lora)


def packed(pieces: Sequence[Piece]) -> list[dict[str, Tensor]]:
    """Return batches of one packed block."""
    return [collate([block], pad=PAD) for block in pack(pieces, BLOCK)]


def padded(pieces: Sequence[Piece], size: int, width: int = 0) -> list[dict[str, Tensor]]:
    """Return batches of whole conversations, padded on the right as collators do."""
    found = []
    for at in range(0, len(pieces), size):
        some = pieces[at : at + size]
        longest = max(width, max(len(p.ids) for p in some))
        fill = [longest - len(p.ids) for p in some]
        found.append(
            {
                "input_ids": torch.tensor(
                    [p.ids + [PAD] * n for p, n in zip(some, fill, strict=True)]
                ),
                "labels": torch.tensor(
                    [p.targets + [NO_TARGET] * n for p, n in zip(some, fill, strict=True)]
                ),
                "attention_mask": torch.tensor(
                    [[1] * len(p.ids) + [0] * n for p, n in zip(some, fill, strict=True)]
                ),
            }
        )
    return found


def step(model: Any, rows: Rows) -> Work:
    """Return a pass over all batches, forward and backward, without an update."""

    def work() -> None:
        for batch in rows.batches:
            if rows.whole_logits:
                logits = model(
                    input_ids=batch["input_ids"],
                    attention_mask=batch["attention_mask"],
                    use_cache=False,
                ).logits
                nats = F.cross_entropy(
                    logits.flatten(0, 1).float(), batch["labels"].flatten(), reduction="sum"
                )
            else:
                nats, _ = supervised_nats(model, batch)
            nats.backward()
        model.zero_grad(set_to_none=True)

    return work


@torch.no_grad()
def logits_of(model: Any, batches: Sequence[dict[str, Tensor]]) -> dict[tuple[int, ...], Tensor]:
    """Return the logits that predict each conversation's answer, by the answer's ids."""
    found = {}
    for batch in batches:
        if "position_ids" in batch:
            logits_BTV = head_of(model)(hidden_states(model, batch))
            positions_BT = batch["position_ids"]
        else:
            how = {name: batch[name] for name in ("input_ids", "attention_mask")}
            logits_BTV = model(**how, use_cache=False).logits
            positions_BT = torch.arange(logits_BTV.shape[1]).expand(logits_BTV.shape[:2])
        for row, positions_T in enumerate(positions_BT):
            starts = [*(positions_T == 0).nonzero().flatten().tolist(), len(positions_T)]
            for start, end in pairwise(starts):
                labels = batch["labels"][row, start:end]
                answer = labels != NO_TARGET
                found[tuple(labels[answer].tolist())] = logits_BTV[row, start:end][answer]
    return found


def difference(ours: dict[tuple[int, ...], Tensor], theirs: dict[tuple[int, ...], Tensor]) -> float:
    """Return the largest difference between the logits of the same answers."""
    return max(float((ours[key] - theirs[key]).abs().max()) for key in ours)
