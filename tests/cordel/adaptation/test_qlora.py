"""Training adapters: what is supervised, how it is averaged, and that a resumed run is the same."""

import math
import os
import signal
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers.trainer import TRAINER_STATE_NAME

from cordel import losses
from cordel.adaptation import qlora
from cordel.adaptation.packing import NO_TARGET, Block, collate, conversation_piece, pack
from cordel.adaptation.qlora import (
    Adaptation,
    AdaptationDivergedError,
    AdaptationParams,
    Adapted,
    BlockTrainer,
    adapt,
    curve_of,
    finished,
    last_checkpoint,
    model_flops,
    nats_and_hits,
    schedule_of,
    score_blocks,
    seal,
    supervised_nats,
    token_counts,
)
from cordel.adaptation.quantised import (
    BaseModel,
    LoraParams,
    head_of,
    load_adapters,
    load_base,
    new_adapter,
)
from cordel.compute import Compute, seed_everything
from cordel.runtime.console import Stopped
from cordel.runtime.files import read_json, write_json

pytestmark = pytest.mark.slow  # they train

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
DEFAULTS: dict[str, Any] = {
    "seed": 7,
    "block_length": 24,
    "batch_size": 4,
    "accumulation": 1,
    "epochs": 1.0,
    "learning_rate": 1e-3,
    "schedule": "constant_with_warmup",
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "grad_clip": 1.0,
    "optimizer": "adamw_torch",
    "evaluations": 2,
    "gradient_checkpointing": False,
}
Start = Callable[..., Adapted]


def params(**changes: Any) -> AdaptationParams:
    """Return params of a tiny run."""
    return AdaptationParams(**DEFAULTS | changes)


def lora(dropout: float = 0.0, more: tuple[str, ...] = ()) -> LoraParams:
    """Return a small adapter."""
    return LoraParams(rank=2, alpha=4, dropout=dropout, targets=(*TARGETS, *more))


def conversation(seed: int, prompt: int, response: int, *, ids: tuple[int, int] = (7, 400)) -> Any:
    """Return a conversation of arbitrary ids."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(*ids, (prompt + response,), generator=generator).tolist()
    return conversation_piece(drawn[:prompt], drawn[prompt:])


def single(seed: int, prompt: int, response: int, **kwargs: Any) -> Block:
    """Return a block of one conversation."""
    [block] = pack([conversation(seed, prompt, response, **kwargs)], 64)
    return block


# Of 4 to 23 ids and 1 to 14 targets: every mean of means differs from the mean. The second size has
# a target at its first place, as documents have.
SIZES = [(3, 2), (1, 14), (9, 1), (8, 8), (15, 3), (5, 11), (10, 14), (3, 5)]
BLOCKS = [single(seed, *SIZES[seed % 8]) for seed in range(24)]
EVALUATION = [single(100 + seed, *SIZES[seed]) for seed in range(5)]


@pytest.fixture(params=[(), ("embed_tokens", "lm_head")], ids=["seven", "nine"])
def model(base: BaseModel, cpu: Compute, request: pytest.FixtureRequest) -> Any:
    """Return the base in NF4 with an adapter that changes its logits, so that A has gradients."""
    seed_everything(0)
    adapted = new_adapter(load_base(base, cpu), lora(more=request.param))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name or "lora_embedding_A" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return adapted.eval()


@pytest.fixture
def start(base: BaseModel, cpu: Compute, tmp_path: Path) -> Start:
    """Return a function that trains an adapter in ``tmp_path / folder``."""

    def start(
        folder: str, *, dropout: float = 0.0, start: Path | None = None, **kwargs: Any
    ) -> Adapted:
        blocks = {name: kwargs.pop(name, BLOCKS) for name in ("train",)}
        evaluation = kwargs.pop("evaluation", EVALUATION)
        run = Adaptation(
            name="arm",
            base=base,
            start=start,
            lora=lora(dropout),
            params=params(**kwargs),
            compute=cpu,
            pad=0,
        )
        seed_everything(run.params.seed)  # as the stages do
        (tmp_path / folder).mkdir(exist_ok=True)
        return adapt(run, **blocks, evaluation=evaluation, folder=tmp_path / folder)

    return start


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a finished run."""
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def file_of(folder: Path) -> bytes:
    """Return the weights of a finished run as they lie on disk."""
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()


def furthest(a: Path, b: Path) -> float:
    """Return by how much the weights of two runs differ at most."""
    left, right = weights(a), weights(b)
    assert left.keys() == right.keys()
    return max((left[name] - right[name]).abs().max().item() for name in left)


# --- the loss -------------------------------------------------------------------------------------


def test_the_loss_is_that_of_the_response_given_the_prompt(model: Any) -> None:
    prompt, response = [2, 50, 51, 52, 53], [60, 61, 62, 5]
    [block] = pack([conversation_piece(prompt, response)], 16)
    nats = supervised_nats(model, collate([block], pad=0))
    logits = model(input_ids=torch.tensor([[*prompt, *response]]), use_cache=False).logits[0]
    # The last id of the prompt predicts the first of the response, and so on.
    expected = sum(
        -torch.log_softmax(logits[4 + place], dim=-1)[index].item()
        for place, index in enumerate(response)
    )
    assert nats.item() == pytest.approx(expected, abs=1e-5)


def test_the_prompt_has_no_targets_so_only_the_response_has_a_gradient(model: Any) -> None:
    prompt, response = [2, 50, 51, 52, 53], [60, 61, 62, 5]
    [block] = pack([conversation_piece(prompt, response)], 16)
    assert block.targets[:4] == [NO_TARGET] * 4
    found = gradients(model, lambda: supervised_nats(model, collate([block], pad=0)))

    def by_hand() -> torch.Tensor:
        logits = model(input_ids=torch.tensor([[*prompt, *response]]), use_cache=False).logits[0]
        return F.cross_entropy(logits[4:8], torch.tensor(response), reduction="sum")

    expected = gradients(model, by_hand)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-5)


def gradients(model: Any, loss: Callable[[], torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the gradient of every trainable weight."""
    model.zero_grad()
    loss().backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
    assert max(gradient.abs().max() for gradient in found.values()) > 0.01
    return found


def packed_batch() -> dict[str, torch.Tensor]:
    """Return two blocks of several conversations, of different lengths."""
    pieces = [conversation(seed, *SIZES[seed]) for seed in range(6)]
    blocks = pack(pieces, 40)
    assert len({len(block.ids) for block in blocks}) > 1 < len(set(blocks[0].segments))
    return collate(blocks, pad=0)


def full_nats(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the summed cross-entropy by the logits of every place."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    logits = model(**inputs, use_cache=False).logits
    return F.cross_entropy(
        logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=NO_TARGET, reduction="sum"
    )


@pytest.mark.parametrize("chunk", [3, 2048])
def test_the_head_on_supervised_places_gives_the_loss_of_all_logits(
    model: Any, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(losses, "CHUNK", {"cpu": chunk})
    batch = packed_batch()
    nats = supervised_nats(model, batch)
    assert nats.item() / 39 == pytest.approx(full_nats(model, batch).item() / 39, abs=1e-5)
    found = gradients(model, lambda: supervised_nats(model, batch))
    expected = gradients(model, lambda: full_nats(model, batch))
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("chunk", [3, 2048])
def test_hits_are_the_places_whose_likeliest_id_is_the_target(
    model: Any, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(qlora, "HEAD_CHUNK", chunk)
    batch = packed_batch()
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    likeliest = model(**inputs, use_cache=False).logits.argmax(dim=-1)
    places = (batch["labels"] != NO_TARGET).nonzero().tolist()
    for row, column in places[::5]:  # 8 of 39
        batch["labels"][row, column] = likeliest[row, column]
    right = int((likeliest == batch["labels"]).sum())
    assert right >= 8 == len(places[::5])
    nats, hits = nats_and_hits(model, batch)
    assert hits == right
    assert nats == pytest.approx(full_nats(model, batch).item(), rel=1e-5)


def test_a_score_makes_the_logits_of_one_chunk_at_a_time(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qlora, "HEAD_CHUNK", 3)
    sizes: list[int] = []
    head_of(model).register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    nats_and_hits(model, packed_batch())
    assert sizes == [3] * 13


# --- many blocks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_scores_are_sums_over_targets_whatever_the_batches(
    model: Any, cpu: Compute, batch_size: int
) -> None:
    expected = [nats_and_hits(model, collate([block], pad=0)) for block in EVALUATION]
    done: list[int] = []
    nats, targets, hits = score_blocks(
        model, EVALUATION, batch_size=batch_size, pad=0, compute=cpu, advance=done.append
    )
    assert nats == pytest.approx(sum(n for n, _ in expected), abs=1e-3)
    assert (targets, hits) == (28, sum(h for _, h in expected))
    assert sum(done) == 5


def test_scoring_leaves_dropout_out(base: BaseModel, cpu: Compute) -> None:
    seed_everything(0)
    model = new_adapter(load_base(base, cpu), lora(dropout=0.5)).train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    scores = [score_blocks(model, EVALUATION, batch_size=5, pad=0, compute=cpu) for _ in range(2)]
    assert scores[0] == scores[1]


def test_the_evaluation_is_the_mean_over_targets_not_over_batches(
    start: Start, base: BaseModel, cpu: Compute
) -> None:
    few, many = single(1, 6, 2), single(2, 3, 18)
    plain = load_base(base, cpu)
    nats = [supervised_nats(plain, collate([b], pad=0)).item() for b in (few, many)]
    by_token, by_batch = sum(nats) / 20, (nats[0] / 2 + nats[1] / 18) / 2
    adapted = start("run", evaluation=[few, many], batch_size=1, train=BLOCKS[:2], evaluations=1)
    first = adapted.curve[0]
    assert (first["step"], first["train_nats_per_token"]) == (0, None)
    assert first["eval_nats_per_token"] == pytest.approx(by_token, abs=2e-6)
    assert abs(by_token - by_batch) > 0.01


# --- the order ------------------------------------------------------------------------------------


def order_of(epochs: float, **changes: Any) -> list[int]:
    """Return the places of the scheduled blocks among ``BLOCKS``."""
    places = {id(block): place for place, block in enumerate(BLOCKS)}
    return [places[id(b)] for b in schedule_of(BLOCKS, params(epochs=epochs, **changes))]


def test_every_epoch_has_each_block_once_in_an_order_of_its_own() -> None:
    order = order_of(3.0)
    epochs = [order[at : at + 24] for at in (0, 24, 48)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(24))] * 3
    assert len({tuple(epoch) for epoch in [*epochs, range(24)]}) == 4


@pytest.mark.parametrize(
    ("epochs", "blocks"), [(0.5, 12), (1.25, 30), (0.001, 1), (2.0, 48), (0.52, 12), (0.53, 13)]
)
def test_a_part_of_an_epoch_is_the_beginning_of_a_whole_one(epochs: float, blocks: int) -> None:
    assert order_of(epochs) == order_of(3.0)[:blocks]


def test_another_seed_is_another_order() -> None:
    assert order_of(1.0) != order_of(1.0, seed=8)


def test_the_trainer_takes_the_blocks_in_that_order(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []
    compute_loss = BlockTrainer.compute_loss

    def watched(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        seen.extend(inputs["input_ids"].tolist())
        return compute_loss(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(BlockTrainer, "compute_loss", watched)
    start("run", epochs=1.5, evaluations=1)
    rows = [b.ids for b in schedule_of(BLOCKS, params(epochs=1.5))]
    assert [row[: len(ids)] for row, ids in zip(seen, rows, strict=True)] == rows


# --- equal ways to the same weights ---------------------------------------------------------------


def test_accumulated_batches_of_one_are_one_batch(start: Start, tmp_path: Path) -> None:
    one = start("one", batch_size=4, accumulation=1)
    four = start("four", batch_size=1, accumulation=4)
    assert furthest(tmp_path / "one", tmp_path / "four") < 1e-6
    assert one.steps == four.steps == 6
    for name in ("train_nats_per_token", "eval_nats_per_token"):
        pairs = [(a[name], b[name]) for a, b in zip(one.curve[1:], four.curve[1:], strict=True)]
        assert [a for a, _ in pairs] == pytest.approx([b for _, b in pairs], abs=3e-6)


def test_the_training_loss_is_the_mean_over_the_targets_of_a_step(
    start: Start, base: BaseModel, cpu: Compute
) -> None:
    train = [BLOCKS[place] for place in (0, 1, 4, 9)]  # two of them with a target at place 0
    adapted = start("run", train=train, batch_size=2, accumulation=2, evaluations=1)
    assert adapted.steps == 1
    nats, targets, _ = score_blocks(  # the adapter changes nothing before its first step
        load_base(base, cpu), train, batch_size=1, pad=0, compute=cpu
    )
    assert targets == 2 + 14 + 3 + 14
    assert adapted.curve[1]["train_nats_per_token"] == pytest.approx(nats / targets, abs=3e-6)


def test_gradient_checkpointing_changes_no_weight_and_runs_the_layers_twice(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.llama.modeling_llama import LlamaMLP  # noqa: PLC0415

    calls = 0
    forward = LlamaMLP.forward

    def counted(self: Any, x: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += self.training
        return forward(self, x)

    monkeypatch.setattr(LlamaMLP, "forward", counted)
    start("without", gradient_checkpointing=False)
    without, calls = calls, 0
    start("with", gradient_checkpointing=True)
    assert (without, calls) == (6 * 2, 2 * 6 * 2)
    assert furthest(tmp_path / "without", tmp_path / "with") < 1e-6


def test_training_again_gives_the_same_bytes_and_another_seed_others(
    start: Start, tmp_path: Path
) -> None:
    for folder, seed in (("a", 7), ("b", 7), ("c", 8)):
        start(folder, seed=seed, dropout=0.05)
    assert file_of(tmp_path / "a") == file_of(tmp_path / "b") != file_of(tmp_path / "c")


def answer_block(reply: list[int]) -> Block:
    """Return a block of one conversation that ends in ``reply``."""
    return pack([conversation_piece([20, 21, 22], reply)], 16)[0]


WANTED, OTHER = answer_block(list(range(30, 40))), answer_block(list(range(60, 70)))


def wanted_then_other() -> list[Block]:
    """Return blocks that train what an evaluation wants, and after that the opposite of it."""
    blocks = [WANTED] * 12 + [OTHER] * 12
    train = list(blocks)
    places = {id(b): place for place, b in enumerate(BLOCKS)}
    for block_, scheduled in zip(blocks, schedule_of(BLOCKS, params()), strict=True):
        train[places[id(scheduled)]] = block_
    return train


# --- interruptions --------------------------------------------------------------------------------

LONG: dict[str, Any] = {"dropout": 0.05, "schedule": "cosine", "warmup_steps": 2, "batch_size": 2}
LONG |= {"accumulation": 2, "epochs": 1.25, "evaluations": 3}  # 8 steps, evaluated at 3, 6 and 8


@pytest.fixture
def whole(start: Start, tmp_path: Path) -> tuple[Adapted, bytes]:
    """Return the result of an uninterrupted run."""
    return start("whole", **LONG), file_of(tmp_path / "whole")


@pytest.fixture(autouse=True)
def _no_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the signals of each test."""
    monkeypatch.setattr("cordel.runtime.console._received", [])


def at_batch(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[Any], Any]) -> None:
    """Let ``act`` have the loss of the ``number``-th batch from now on (1 is the first)."""
    compute_loss = BlockTrainer.compute_loss
    calls = 0

    def watched(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        loss = compute_loss(*args, **kwargs)
        return act(loss) if calls == number else loss

    monkeypatch.setattr(BlockTrainer, "compute_loss", watched)


def interrupt(start: Start, monkeypatch: pytest.MonkeyPatch, *, batch: int) -> None:
    """Run to a SIGTERM in the given batch, two of which are a step."""

    def ask(loss: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return loss

    with pytest.MonkeyPatch.context() as patch:
        at_batch(patch, batch, ask)
        with pytest.raises(Stopped):
            start("run", **LONG)
    monkeypatch.setattr("cordel.runtime.console._received", [])


def steps_taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows with every batch."""
    batches: list[int] = []
    compute_loss = BlockTrainer.compute_loss

    def watched(*args: Any, **kwargs: Any) -> Any:
        batches.append(1)
        return compute_loss(*args, **kwargs)

    monkeypatch.setattr(BlockTrainer, "compute_loss", watched)
    return batches


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 4, 5, 14], ids="in batch {}".format)
def test_a_resumed_run_is_the_uninterrupted_one(
    start: Start,
    whole: tuple[Adapted, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    batch: int,
) -> None:
    interrupt(start, monkeypatch, batch=batch)
    assert not (tmp_path / "run" / "adapter").exists()
    batches = steps_taken(monkeypatch)
    resumed = start("run", **LONG)
    assert len(batches) == 15 - math.ceil(batch / 2) * 2  # nothing is done twice
    assert resumed == whole[0]
    assert file_of(tmp_path / "run") == whole[1]


@pytest.mark.slow
def test_a_run_may_be_interrupted_again_and_again(
    start: Start, whole: tuple[Adapted, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        interrupt(start, monkeypatch, batch=3)  # two steps further each time
    assert start("run", **LONG) == whole[0]
    assert file_of(tmp_path / "run") == whole[1]


def checkpoint(folder: Path, number: int, best: int | None = None) -> Path:
    """Write a whole checkpoint that goes by the best of an earlier step."""
    made = folder / f"checkpoint-{number}"
    made.mkdir()
    write_json(made / TRAINER_STATE_NAME, {"best_global_step": best})
    (made / "weights").write_bytes(bytes(100))
    (made / qlora.MARK).write_text(seal(made))
    return made


@pytest.mark.slow
def test_a_checkpoint_cut_short_by_a_kill_is_ignored_and_deleted(
    start: Start, whole: tuple[Adapted, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(start, monkeypatch, batch=9)  # checkpoints 3 (an evaluation's) and 5
    torn = tmp_path / "run" / "checkpoint-5"
    assert {p.name for p in torn.parent.glob("checkpoint-*")} == {"checkpoint-3", "checkpoint-5"}
    (torn / qlora.MARK).unlink()
    (torn / "optimizer.pt").unlink()
    assert start("run", **LONG) == whole[0]
    assert file_of(tmp_path / "run") == whole[1]


def test_only_marked_checkpoints_count_and_the_last_one_is_the_highest(tmp_path: Path) -> None:
    for number, marked in ((9, True), (10, True), (100, False)):
        if marked:
            checkpoint(tmp_path, number)
        else:
            (tmp_path / f"checkpoint-{number}").mkdir()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-9"]
    assert last_checkpoint(tmp_path / "checkpoint-9") is None


def test_a_checkpoint_of_other_bytes_is_said_to_be_damaged_and_deleted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = checkpoint(tmp_path, 4), checkpoint(tmp_path, 8)
    (second / "weights").write_bytes(bytes(99))
    assert last_checkpoint(tmp_path) == first
    assert f"{second} is damaged: going back to the checkpoint before it" in caplog.text
    assert not second.exists()
    caplog.clear()
    assert last_checkpoint(tmp_path) == first
    assert caplog.text == ""


def test_a_checkpoint_whose_best_one_is_gone_is_not_gone_on_with(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Trainer would warn, and end with the last weights instead of the best.
    checkpoint(tmp_path, 4, best=4)
    best = checkpoint(tmp_path, 8, best=8)
    checkpoint(tmp_path, 12, best=8)
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-12"
    (best / "weights").write_bytes(b"")
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-4"
    assert "checkpoint-12: its best checkpoint is not there: going back further" in caplog.text


def die(*_: Any) -> None:
    """End as by a kill."""
    raise KeyboardInterrupt


@pytest.mark.slow
def test_a_run_whose_folder_was_moved_still_finds_its_best_checkpoint(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = wanted_then_other()
    kwargs = {"train": train, "evaluation": [WANTED], "evaluations": 6}
    kwargs |= {"learning_rate": 0.05}
    whole = start("whole", **kwargs)
    assert whole.best_step < 5
    with monkeypatch.context() as patch:
        patch.setattr(qlora, "save_adapter", die)  # no checkpoint comes that would mend the path
        with pytest.raises(KeyboardInterrupt):
            start("run", **kwargs)
    (tmp_path / "run").rename(tmp_path / "moved")
    assert start("moved", **kwargs) == whole
    assert file_of(tmp_path / "moved") == file_of(tmp_path / "whole")


@pytest.mark.slow
def test_a_kill_after_the_last_checkpoint_loses_nothing(
    start: Start, whole: tuple[Adapted, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(qlora, "save_adapter", die)
        with pytest.raises(KeyboardInterrupt):
            start("run", **LONG)
    batches = steps_taken(monkeypatch)
    assert start("run", **LONG) == whole[0]
    assert file_of(tmp_path / "run") == whole[1]
    assert batches == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adapter/adapter_model.safetensors", "finished.json"])
def test_a_finished_adapter_that_was_damaged_is_trained_anew(
    start: Start,
    whole: tuple[Adapted, bytes],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    folder = tmp_path / "whole"
    found = finished(folder)
    assert found is not None
    assert found.best_step == whole[0].best_step
    (folder / name).write_bytes((folder / name).read_bytes()[:-40])
    assert finished(folder) is None
    assert "is damaged: training it anew" in caplog.text
    assert start("whole", **LONG) == whole[0]
    assert file_of(folder) == whole[1]


@pytest.mark.slow
def test_the_state_is_saved_between_evaluations_when_it_is_time(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qlora, "SAVE_EVERY_SECONDS", 0.0)

    at_batch(monkeypatch, 9, die)  # in step 5, without a chance to save
    with pytest.raises(KeyboardInterrupt):
        start("run", **LONG)
    last = last_checkpoint(tmp_path / "run")
    assert last is not None
    assert last.name == "checkpoint-4"


@pytest.mark.slow
def test_a_request_in_the_last_step_comes_too_late(
    start: Start, whole: tuple[Adapted, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(loss: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return loss

    at_batch(monkeypatch, 15, ask)
    assert start("run", **LONG) == whole[0]
    assert file_of(tmp_path / "run") == whole[1]


# --- what is kept ---------------------------------------------------------------------------------


def test_the_best_evaluation_is_kept_not_the_last(
    start: Start, base: BaseModel, cpu: Compute, tmp_path: Path
) -> None:
    train, evaluation = wanted_then_other(), [WANTED]
    adapted = start("run", train=train, evaluation=evaluation, evaluations=6, learning_rate=0.05)
    losses = [row["eval_nats_per_token"] for row in adapted.curve if row["step"]]
    best = losses.index(min(losses))
    assert best < len(losses) - 1
    assert losses[-1] > losses[best] + 0.5
    assert adapted.best_step == adapted.curve[best + 1]["step"]
    assert adapted.best_nats_per_token == pytest.approx(losses[best], abs=1e-6)
    model = load_adapters(load_base(base, cpu), {"arm": tmp_path / "run" / "adapter"}, base)
    nats, targets, _ = score_blocks(model, evaluation, batch_size=4, pad=0, compute=cpu)
    assert nats / targets == pytest.approx(losses[best], abs=1e-5)


def test_a_run_that_learns_keeps_its_last_evaluation(start: Start) -> None:
    same = [single(1, 4, 12)] * 24
    adapted = start("run", train=same, evaluation=same[:1], learning_rate=0.01, evaluations=3)
    losses = [row["eval_nats_per_token"] for row in adapted.curve]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] / 2
    assert adapted.best_step == adapted.steps == 6


def test_a_finished_run_is_found_with_what_it_gave(start: Start, tmp_path: Path) -> None:
    assert finished(tmp_path) is None
    adapted = start("run")
    assert finished(tmp_path / "run") == adapted
    sealed = {"seal": seal(tmp_path / "run" / "adapter")}
    assert read_json(tmp_path / "run" / qlora.FINISHED) == asdict(adapted) | sealed
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["adapter", qlora.FINISHED]


def test_the_curve_has_the_start_and_each_evaluation(start: Start) -> None:
    adapted = start("run", epochs=1.25, evaluations=3)
    assert [row["step"] for row in adapted.curve] == [0, 3, 6, 8]
    assert list(adapted.curve[0]) == [
        "step",
        "train_nats_per_token",
        "eval_nats_per_token",
        "eval_accuracy",
        "learning_rate",
    ]
    assert (adapted.steps, adapted.trainable_parameters) == (8, 2 * 2 * (4 * 128 + 3 * 192))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_run_that_diverges_says_at_which_step_and_gives_nothing(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    at_batch(monkeypatch, 5, lambda loss: loss * value)
    with pytest.raises(
        AdaptationDivergedError, match=r"arm: the loss is (nan|inf) at step 3 of 6; lower"
    ):
        start("run", batch_size=2, accumulation=2)
    assert not (tmp_path / "run" / "adapter").exists()
    assert finished(tmp_path / "run") is None


def test_a_step_that_breaks_the_weights_is_a_divergence_even_if_it_is_the_last(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poison(loss: torch.Tensor) -> torch.Tensor:  # its value is finite, its gradient is not
        loss.register_hook(lambda gradient: gradient * math.nan)
        return loss

    at_batch(monkeypatch, 6, poison)
    with pytest.raises(AdaptationDivergedError):
        start("run", evaluations=1)
    assert finished(tmp_path / "run") is None


# --- CPT, then SFT --------------------------------------------------------------------------------


def test_an_adapter_is_trained_further_and_its_file_left_alone(
    start: Start, tmp_path: Path
) -> None:
    first = start("cpt", learning_rate=0.01)
    path = tmp_path / "cpt" / "adapter"
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    second = start("cpt_sft", start=path, learning_rate=0.01, seed=8)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    assert second.curve[0]["eval_nats_per_token"] == pytest.approx(
        first.best_nats_per_token, abs=2e-6
    )
    assert second.trainable_parameters == first.trainable_parameters
    assert furthest(tmp_path / "cpt", tmp_path / "cpt_sft") > 1e-3


# --- counts ---------------------------------------------------------------------------------------


def block(length: int, supervised: int) -> Block:
    """Return a block of ``length`` ids of which the last ``supervised`` have targets."""
    targets = [NO_TARGET] * (length - supervised) + [9] * supervised
    return Block([8] * length, targets, [0] * length, list(range(length)))


def test_tokens_are_counted_over_all_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = [block(10, 4), block(6, 6), block(7, 1)]
    order = [0, 1, 2, 2, 0]
    monkeypatch.setattr(qlora, "schedule_of", lambda *_: [blocks[place] for place in order])
    # Batches (10, 6), (7, 7), (10): processed 20 + 14 + 10, of which 40 are real.
    assert token_counts(blocks, params(batch_size=2)) == {
        "unique": 23,
        "processed": 44,
        "supervised": 4 + 6 + 1 + 1 + 4,
        "padding": 4,
    }


def test_blocks_that_are_equal_but_not_the_same_are_counted_each() -> None:
    blocks = [block(10, 4), block(10, 4)]
    assert token_counts(blocks, params(epochs=3.0))["unique"] == 20


def test_blocks_never_trained_on_are_not_counted() -> None:
    counts = token_counts([block(10, 4), block(10, 4)], params(epochs=0.5))
    assert counts == {"unique": 10, "processed": 10, "supervised": 4, "padding": 0}


def test_frozen_weights_cost_four_flops_an_id(model: Any) -> None:
    layers = 2 * (4 * 64 * 64 + 3 * 64 * 128)
    found = model_flops(model, {"processed": 100, "supervised": 30})
    assert found == 4 * (100 * layers + 30 * 64 * 420)


def test_the_curve_averages_the_losses_between_evaluations() -> None:
    def step(number: int, loss: float, rate: float) -> dict[str, Any]:
        return {"step": number, "loss": loss, "learning_rate": rate, "grad_norm": 1.0}

    def evaluated(number: int, loss: float, accuracy: float) -> dict[str, Any]:
        return {"step": number, "eval_loss": loss, "eval_accuracy": accuracy}

    history = [
        evaluated(0, 5.0, 0.0),
        step(1, 4.0, 0.1),
        step(2, 3.0, 0.12345678),
        evaluated(2, 2.00000049, 0.25),
        step(3, 2.0, 0.05),
        evaluated(3, 1.5, 0.5),
        {"step": 3, "train_runtime": 1.0, "train_loss": 3.0},
    ]
    rows = [tuple(row.values()) for row in curve_of(history)]
    assert rows == [
        (0, None, 5.0, 0.0, 0.0),
        (2, 3.5, 2.0, 0.25, 0.123457),
        (3, 2.0, 1.5, 0.5, 0.05),
    ]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("block_length", 0, "block_length is 0, expected at least 1"),
        ("accumulation", 0, "accumulation is 0, expected at least 1"),
        ("epochs", 0.0, "epochs is 0.0, expected above 0"),
        ("learning_rate", -1.0, "learning_rate is -1.0, expected above 0"),
        ("warmup_steps", -1, "warmup_steps is -1, expected at least 0"),
    ],
)
def test_params_out_of_range_are_named(name: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        params(**{name: value})
