"""A fine-tuning step on instructions: useful supervised tokens a CPU second, by how rows are made.

The lengths of prompts and answers are those of the run's own SFT examples; the ids are random, so
the model is one of random weights with a vocabulary of 16k, in NF4 with LoRA on the seven layers.

Where ``trl`` is installed (``pip install -c constraints.txt trl==1.16.0``), its SFTTrainer is a
peer. It gets what is best for it on a CPU: float32 (its default is bfloat16, a hundred times as
slow on most), LoRA in float32 (it casts a quantised model's to bfloat16) and no checkpointing. What
it does beside the others: clipping and AdamW (so does the row "in its Trainer"), and each token's
entropy and accuracy. Off CUDA it scores all places, on CUDA (Triton) only the supervised ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from benchmarks.measure import Seconds, Work, interleave, rates
from cordel.adaptation.chat import load_chat, user_message
from cordel.adaptation.packing import NO_TARGET, Piece, collate, conversation_piece, pack
from cordel.adaptation.qlora import BlockTrainer, supervised_nats
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
BLOCK, BLOCKS = 512, 4  # ids of a packed block and blocks at once, as the profile `ptbr`
BATCH = 8  # rows of a padded batch
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
    pieces = conversations(16 if quick else 72)
    supervised = sum(t != NO_TARGET for p in pieces for t in p.targets)
    model = random_base(compute)
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
    batches = {name: rows.batches for name, rows in ways.items()}
    name = "cordel: the same in its Trainer"
    works[name], batches[name] = own_trainer(model, pieces, compute), packed(pieces)
    few = {"packed": packed(pieces[:16]), "padded": padded(pieces[:16], BATCH)}
    if find_spec("trl"):
        theirs = random_base(compute)  # the same weights; TRL changes the model that it is given
        for name, packing in (("TRL, packed", True), (f"TRL, padded, {BATCH}", False)):
            works[name], batches[name] = trl_trainer(theirs, pieces, packing=packing)
            _, few[name] = trl_trainer(theirs, pieces[:16], packing=packing)
    took = interleave(works, rounds=1 if quick else 5, warm_up=0)
    for name, seconds in took.items():
        inside = sum(int((b["labels"] != NO_TARGET).sum()) for b in batches[name])
        places = sum(b["labels"].numel() for b in batches[name])
        found[name] = rates(seconds, inside) | {"useful_share": inside / places}
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


def random_base(compute: Compute, **shape: int) -> Any:
    """Return a Llama of random weights (always the same) in NF4, with a LoRA adapter."""
    values: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "max_position_embeddings": 2048,
        "dtype": "bfloat16" if compute.device == "cuda" else "float32",
    }
    values |= shape
    config = LlamaConfig(**values)
    seed_everything(0)
    with TemporaryDirectory() as folder:
        with torch.device(compute.device):  # eight billion numbers are drawn faster there
            LlamaForCausalLM._from_config(config).save_pretrained(folder)
        base = BaseModel(
            source="local",
            model=folder,
            revision=None,
            weights="0" * 64,
            vocab_size=config.vocab_size,
            max_length=2048,
        )
        lora = LoraParams(rank=16, alpha=32, dropout=0.0, targets=TARGETS)
        return new_adapter(load_base(base, compute), lora)


def packed(pieces: Sequence[Piece]) -> list[dict[str, Tensor]]:
    """Return batches of packed blocks."""
    blocks = pack(pieces, BLOCK)
    return [collate(blocks[at : at + BLOCKS], pad=PAD) for at in range(0, len(blocks), BLOCKS)]


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
                nats = supervised_nats(model, batch)
            nats.backward()
        model.zero_grad(set_to_none=True)

    return work


class _Clock(TrainerCallback):
    """Looks at the clocks when training begins and after each step: set-up does not count."""

    def __init__(self) -> None:
        self.begun = self.ended = Seconds(0.0, 0.0)

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.begun = Seconds(process_time(), perf_counter())

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ended = Seconds(process_time(), perf_counter())


ARGUMENTS: dict[str, Any] = {
    "num_train_epochs": 1,
    "learning_rate": 0.0,  # so that every round sees the same model
    "optim": "adamw_torch_fused",
    "use_cpu": True,
    "bf16": False,
    "save_strategy": "no",
    "logging_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}


def _pass(trainer: Any) -> Work:
    """Return a unit of work: one epoch."""
    clock = _Clock()
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(clock)

    def work() -> Seconds:
        trainer.train()
        return Seconds(clock.ended.cpu - clock.begun.cpu, clock.ended.wall - clock.begun.wall)

    return work


def own_trainer(model: Any, pieces: Sequence[Piece], compute: Compute) -> Work:
    """Return a pass over the packed blocks by the Trainer of ``adapt_sft``."""
    trainer = BlockTrainer(
        model=model,
        args=TrainingArguments(
            output_dir=mkdtemp(),
            per_device_train_batch_size=BLOCKS,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            **ARGUMENTS,
        ),
        train_dataset=pack(pieces, BLOCK),
        data_collator=partial(collate, pad=PAD),
        compute=compute,
        pad=PAD,
    )
    return _pass(trainer)


def trl_trainer(
    model: Any, pieces: Sequence[Piece], *, packing: bool
) -> tuple[Work, list[dict[str, Tensor]]]:
    """Return a pass over the conversations by TRL's SFTTrainer, and what its collator makes.

    Its labels stand at their own places; those of the batches that are returned are shifted, as
    all others here.
    """
    from datasets import Dataset, disable_progress_bars  # noqa: PLC0415  (only TRL wants it)
    from tokenizers import Tokenizer  # noqa: PLC0415
    from tokenizers.models import WordLevel  # noqa: PLC0415
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415
    from trl.trainer.sft_config import SFTConfig  # noqa: PLC0415  # pyright: ignore
    from trl.trainer.sft_trainer import SFTTrainer  # noqa: PLC0415  # pyright: ignore  (optional)

    disable_progress_bars()
    vocabulary = Tokenizer(WordLevel({"<pad>": PAD}, unk_token="<pad>"))  # noqa: S106  (no secret)
    rows = [
        {"input_ids": [*p.ids, p.targets[-1]], "labels": [NO_TARGET, *p.targets]} for p in pieces
    ]
    arguments = SFTConfig(
        output_dir=mkdtemp(),
        per_device_train_batch_size=1 if packing else BATCH,  # four blocks at once: 0.7 x
        max_length=BLOCK,
        packing=packing,
        gradient_checkpointing=False,
        **ARGUMENTS,
    )
    trainer: Any = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=PreTrainedTokenizerFast(tokenizer_object=vocabulary, pad_token="<pad>"),  # noqa: S106
    )
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    batches = list(trainer.get_train_dataloader())
    for batch in batches:
        batch["labels"] = F.pad(batch["labels"][:, 1:], (0, 1), value=NO_TARGET)
    return _pass(trainer), batches


@torch.no_grad()
def logits_of(model: Any, batches: Sequence[dict[str, Tensor]]) -> dict[tuple[int, ...], Tensor]:
    """Return the logits that predict each conversation's answer, by the answer's ids."""
    found = {}
    for batch in batches:
        if batch.get("attention_mask", torch.empty(0)).dim() == 4:  # cordel's own
            logits_BTV = head_of(model)(hidden_states(model, batch))
        else:
            how = {name: value for name, value in batch.items() if name != "labels"}
            logits_BTV = model(**how, use_cache=False).logits
        rows, width = batch["labels"].shape
        positions_BT = batch.get("position_ids", torch.arange(width).expand(rows, width))
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
