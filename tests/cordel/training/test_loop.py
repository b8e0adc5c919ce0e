"""The training loop: what it optimises, what it reports, how it stops and resumes."""

import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cordel.runtime.console import Stopped
from cordel.tokens import SplitMeta
from cordel.training import loop
from cordel.training.loop import TrainingDivergedError
from cordel.training.params import BigramStart
from cordel.training.resume import load_state, save_state

EVERY = pytest.mark.parametrize("name", ["lstm", "gru", "gpt", "llama"])
RESUMABLE = pytest.mark.parametrize(
    ("name", "changes"),
    [
        pytest.param("lstm", {"optimizer": "adam"}, id="lstm with dropout"),
        pytest.param("gpt", {"schedule": "cosine", "warmup_steps": 3}, id="gpt with dropout"),
        pytest.param("llama", {"optimizer": "muon", "schedule": "wsd"}, id="llama with muon"),
        pytest.param("lstm", {"stride": 3, "targets": "last"}, id="lstm in windows"),
    ],
)


def repeated(value: int, n: int = 125) -> np.ndarray:
    """Return a text of one id."""
    return np.full(n, value, dtype=np.uint16)


def after_step(monkeypatch: pytest.MonkeyPatch, trainer, step: int, act: Callable) -> None:
    """Call ``act`` when ``trainer`` has taken ``step`` steps."""
    original = trainer.take_step

    def take_step() -> None:
        original()
        if trainer.state.step == step:
            act()

    monkeypatch.setattr(trainer, "take_step", take_step)


def interrupt(monkeypatch: pytest.MonkeyPatch, trainer, folder: Path, *, step: int) -> None:
    """Run ``trainer`` until it gets SIGTERM while it takes its ``step``-th step."""
    after_step(monkeypatch, trainer, step, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped):
        trainer.run(folder, "v0")
    monkeypatch.setattr("cordel.runtime.console._received", [])


def bytes_of(trainer) -> dict[str, bytes]:
    """Return the weights as bytes."""
    return {k: v.numpy().tobytes() for k, v in trainer.model.state_dict().items()}


# --- losses ---------------------------------------------------------------------------------------


def hidden_of(run: Any) -> torch.Tensor:
    """Return ``float[2, 3, D]`` made-up hidden states of a run's model."""
    width = run.model.head[0].shape[1]
    return torch.randn(2, 3, width, generator=torch.Generator().manual_seed(0)).requires_grad_()


IDS = torch.tensor([[4, 0, 1, 2], [3, 3, 0, 5]])


def test_the_mean_is_over_all_targets(trainer: Callable) -> None:
    run = trainer()
    hidden = hidden_of(run)
    objective, entropy = run.losses(hidden, IDS)
    logits = F.linear(hidden, *run.model.head)
    expected = F.cross_entropy(logits.flatten(0, 1), IDS[:, 1:].flatten())
    assert objective.item() == entropy.item() == pytest.approx(expected.item(), rel=1e-6)


def test_targets_last_supervises_one_target_a_window(trainer: Callable) -> None:
    run = trainer(targets="last")
    hidden = hidden_of(run)
    objective, entropy = run.losses(hidden, IDS)
    objective.backward()
    logits = F.linear(hidden[:, -1], *run.model.head)
    assert entropy.item() == pytest.approx(F.cross_entropy(logits, IDS[:, -1]).item(), rel=1e-6)
    assert hidden.grad.abs().sum(dim=2).bool().tolist() == [[False, False, True]] * 2


def test_the_fallback_penalty_is_on_the_last_256_ids(
    trainer: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cordel.training.loop.FALLBACK_IDS", 4)
    run = trainer(fallback_penalty=0.25)
    hidden = hidden_of(run)
    objective, entropy = run.losses(hidden, IDS)
    mass = F.linear(hidden, *run.model.head).softmax(dim=-1)[..., -4:].sum(dim=-1).mean()
    assert (objective - entropy).item() == pytest.approx(0.25 * mass.item(), rel=1e-4)


def test_a_teacher_is_asked_for_its_share_of_the_targets(trainer: Callable) -> None:
    run = trainer("llama", teacher_share=0.7)
    hidden = hidden_of(run)
    objective, entropy = run.losses(hidden, IDS)
    log_p = F.linear(hidden, *run.model.head).log_softmax(dim=-1).flatten(0, 1)
    soft = -(run.teacher.rows(IDS) * log_p).sum(dim=-1).mean()
    expected = 0.7 * soft.item() + 0.3 * entropy.item()
    assert objective.item() == pytest.approx(expected, rel=1e-5)


def test_a_start_at_bigrams_is_made_once_and_not_again_by_a_resumed_run(
    trainer: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = BigramStart(batches=3, contexts=4, learning_rate=0.02, embedding_rms=2.0)
    for folder in ("whole", "cut"):
        (tmp_path / folder).mkdir()
    whole = trainer("llama", bigram_start=start, teacher_share=0.5)
    whole.run(tmp_path / "whole", "v0")
    cut = trainer("llama", bigram_start=start, teacher_share=0.5)
    interrupt(monkeypatch, cut, tmp_path / "cut", step=4)
    monkeypatch.setattr(
        "cordel.training.loop.start_at_bigrams", lambda *_, **__: pytest.fail("again")
    )
    resumed = trainer("llama", bigram_start=start, teacher_share=0.5)
    resumed.run(tmp_path / "cut", "v0")
    assert bytes_of(resumed) == bytes_of(whole)
    assert bytes_of(whole) != bytes_of(trainer("llama", teacher_share=0.5))
    # Before the start and after it; the tiny text has bigrams to learn.
    before, after = whole.state.curve[:2]
    assert (before["step"], after["step"], whole.state.curve[2]["step"]) == (0, 0, 4)
    assert after["val_bits_per_byte"] != before["val_bits_per_byte"]
    assert resumed.state.curve == whole.state.curve


@pytest.mark.parametrize("change", [{"label_smoothing": 0.3}, {"fallback_penalty": 0.5}])
def test_an_extra_in_the_objective_leaves_the_reported_loss_plain(
    trainer: Callable, change: dict
) -> None:
    # The first step starts from the same weights, so its cross-entropy is the same.
    plain, other = trainer("llama"), trainer("llama", **change)
    for each in (plain, other):
        each.take_step()
    assert other.look(Path("x")) == plain.look(Path("x"))
    assert bytes_of(other) != bytes_of(plain)


def test_validation_ignores_smoothing(trainer: Callable) -> None:
    smoothed = trainer(label_smoothing=0.3, fallback_penalty=0.5)
    assert smoothed.val_nats_per_token() == trainer().val_nats_per_token()


# --- validation -----------------------------------------------------------------------------------


def uniform(trainer):
    """Make the model of ``trainer`` give every id the same probability."""
    trainer.model.output.weight.data.zero_()
    trainer.model.output.bias.data.zero_()
    return trainer


def test_a_uniform_model_costs_the_logarithm_of_the_vocabulary(trainer: Callable) -> None:
    assert uniform(trainer()).val_nats_per_token() == pytest.approx(math.log(13))


def test_bits_per_byte_count_tokens_bytes_and_hidden_bytes(trainer: Callable) -> None:
    # 41 tokens of log2(13) = 3.700440 bits over 80 bytes, 10 of them hidden at 8 bits each:
    # 41 x 3.700440 / 80 + 1 = 2.896475
    meta = SplitMeta(documents=1, tokens=41, bytes=80, unknown_bytes=10)
    found = uniform(trainer(data={"val_meta": meta}))
    found.evaluate()
    assert found.state.curve[0]["val_bits_per_byte"] == pytest.approx(2.896475, abs=2e-6)
    assert found.state.curve[0]["val_bits_per_token"] == pytest.approx(3.700440, abs=1e-6)


def test_validation_covers_the_text_in_lanes(trainer: Callable) -> None:
    # 40 targets / context 5 = 8 lanes of one window: the loss of the text cut into eighths.
    found = trainer("gpt")
    ids = torch.from_numpy(found.val_ids.astype(np.int64)).unfold(0, 6, 5)
    with torch.no_grad():
        logits = found.model.eval()(ids[:, :-1])[0]
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    assert found.val_nats_per_token() == pytest.approx(expected.item(), rel=1e-6)


def test_validation_reads_a_text_shorter_than_the_context(trainer: Callable) -> None:
    found = trainer(data={"val_ids": repeated(1, 3)})
    assert uniform(found).val_nats_per_token() == pytest.approx(math.log(13))


def test_validation_of_a_recurrent_model_carries_its_state(
    trainer: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "VAL_LANES", 1)
    found = trainer("lstm")
    ids = torch.from_numpy(found.val_ids.astype(np.int64))[None]
    with torch.no_grad():
        logits = found.model.eval()(ids[:, :-1])[0]
    expected = torch.nn.functional.cross_entropy(logits[0], ids[0, 1:])
    assert found.val_nats_per_token() == pytest.approx(expected.item(), rel=1e-5)


def test_validation_leaves_the_random_state_alone(trainer: Callable) -> None:
    found, before = trainer("gpt"), torch.get_rng_state()
    found.evaluate()
    assert torch.equal(torch.get_rng_state(), before)


# --- a whole run ----------------------------------------------------------------------------------


@EVERY
def test_training_learns_a_text_of_one_id(trainer: Callable, tmp_path: Path, name: str) -> None:
    data = {"train_ids": repeated(4), "val_ids": repeated(4, 41)}
    found = trainer(name, data=data, epochs=4.0, learning_rate=0.05)
    found.run(tmp_path, "v0")
    assert found.state.curve[0]["val_bits_per_token"] > 3
    assert found.state.curve[-1]["val_bits_per_token"] < 1


def test_the_curve_has_a_row_at_the_start_and_at_even_steps(
    trainer: Callable, tmp_path: Path
) -> None:
    curve = trainer(evaluations=3).run(tmp_path, "v0").curve
    assert [row["step"] for row in curve] == [0, 4, 8, 12]
    assert [row["train_tokens"] for row in curve] == [0, 40, 80, 120]  # 2 windows of 5 a step
    assert curve[0]["train_bits_per_token"] is None


def test_the_training_loss_of_a_row_is_the_mean_since_the_last_row(
    trainer: Callable, tmp_path: Path
) -> None:
    # One evaluation a step against one in four: the mean of the four.
    fine = trainer(evaluations=12).run(tmp_path, "v0").curve
    (tmp_path / "state.pt").unlink()
    coarse = trainer(evaluations=3).run(tmp_path, "v0").curve
    mean = sum(row["train_bits_per_token"] for row in fine[5:9]) / 4
    assert coarse[2]["train_bits_per_token"] == pytest.approx(mean, abs=2e-6)


def test_the_curve_shows_the_rate_of_the_last_step(trainer: Callable, tmp_path: Path) -> None:
    changes = {"schedule": "wsd", "decay_share": 0.5, "learning_rate": 0.01}
    curve = trainer(evaluations=4, **changes).run(tmp_path, "v0").curve
    # 12 steps, the last 6 decay: steps 2 and 5 have the whole rate, 8 has 4/6 and 11 has 1/6.
    assert [row["learning_rate"] for row in curve[1:]] == [0.01, 0.01, 0.00666667, 0.00166667]


def test_a_run_cut_short_of_its_schedule_ends_with_a_rate_above_zero(
    trainer: Callable, tmp_path: Path
) -> None:
    found = trainer(schedule="cosine", epochs=1.0, schedule_epochs=3.0, learning_rate=0.01)
    curve = found.run(tmp_path, "v0").curve
    # Step 11 of 36: (1 + cos 55 degrees) / 2 = (1 + 0.573576) / 2
    assert curve[-1]["learning_rate"] == pytest.approx(0.00786788, abs=1e-8)
    assert found.state.step == 12


def test_the_optimiser_uses_the_scheduled_rate(trainer: Callable) -> None:
    found = trainer(optimizer="muon", name="llama", warmup_steps=3)
    for _ in range(2):
        found.take_step()
    rates = [g["lr"] for o in found.optimizers for g in o.param_groups]
    assert rates == [0.02 * 2 / 4, 0.01 * 2 / 4]  # the second of three steps of warm-up


@pytest.mark.parametrize(("epochs", "steps"), [(1.0, 12), (0.5, 6), (2.25, 27), (0.01, 1)])
def test_epochs_may_be_fractions(trainer: Callable, epochs: float, steps: int) -> None:
    assert trainer(epochs=epochs).total_steps == steps


@pytest.mark.parametrize(
    ("name", "stride", "kind"),
    [
        ("lstm", 5, "LaneBatches"),
        ("lstm", 2, "WindowBatches"),
        ("gpt", 5, "WindowBatches"),
    ],
)
def test_only_recurrent_models_on_disjoint_windows_read_in_lanes(
    trainer: Callable, name: str, stride: int, kind: str
) -> None:
    found = trainer(name, stride=stride)
    assert type(found.batches).__name__ == kind
    found.take_step()
    assert (found.state.hidden is not None) == (kind == "LaneBatches")


def test_a_carried_state_is_the_one_after_the_last_window(trainer: Callable) -> None:
    found, other = trainer("lstm", learning_rate=1e-30), trainer("lstm", learning_rate=1e-30)
    for each in (found, other):
        each.model.input_dropout.p = 0.0
        each.take_step()
    _, expected = other.model(torch.from_numpy(other.batches.batch(0).ids[:, :-1]))
    torch.testing.assert_close(found.state.hidden[0][0], expected[0][0])
    assert not found.state.hidden[0][0].requires_grad


def test_a_new_epoch_begins_without_the_state_of_the_old(trainer: Callable) -> None:
    found = trainer("gru", epochs=2.0)
    found.state.step = 12
    found.state.hidden = [torch.full((1, 2, 8), math.nan)]
    found.take_step()
    assert math.isfinite(found.look(Path("x")))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"unique": 120, "processed": 120, "supervised": 120}),
        # 12 steps of 2 windows: one target each.
        ({"targets": "last"}, {"unique": 120, "processed": 120, "supervised": 24}),
        # Windows 2 apart: a step of 2 x 5 tokens sees 2 x 2 new ones.
        ({"stride": 2, "epochs": 0.4}, {"unique": 48, "processed": 120, "supervised": 120}),
    ],
)
def test_the_three_token_counts_differ(
    trainer: Callable, tmp_path: Path, changes: dict, expected: dict
) -> None:
    found = trainer(**changes)
    found.run(tmp_path, "v0")
    assert found.state.step == 12
    assert found.tokens() == expected


def test_unique_tokens_are_never_more_than_the_text(trainer: Callable, tmp_path: Path) -> None:
    found = trainer(epochs=3.0)
    found.run(tmp_path, "v0")
    assert (found.tokens()["unique"], found.tokens()["processed"]) == (125, 360)


# --- best weights, patience, divergence -----------------------------------------------------------


def measured(trainer, *nats: float) -> None:
    """Make the evaluations of ``trainer`` give these losses, one after another."""
    found = iter(nats)
    trainer.val_nats_per_token = lambda: next(found)


def test_patience_stops_a_run_that_gets_worse(trainer: Callable, tmp_path: Path) -> None:
    found = trainer(evaluations=12, patience=3)
    measured(found, 3.0, 2.0, 2.5, 2.0, 2.1, 1.0)  # at steps 0 to 5; 2.0 again is no better
    state = found.run(tmp_path, "v0")
    assert (state.step, state.best_step, state.done) == (4, 1, True)


def test_without_patience_a_run_that_gets_worse_goes_on(trainer: Callable, tmp_path: Path) -> None:
    found = trainer(evaluations=12, patience=None)
    measured(found, *range(1, 14))
    state = found.run(tmp_path, "v0")
    assert (state.step, state.best_step) == (12, 0)


def test_an_improvement_renews_patience(trainer: Callable) -> None:
    found = trainer()
    measured(found, 3.0, 4.0, 5.0, 2.0, 4.0)
    waited = []
    for _ in range(5):
        found.evaluate()
        waited.append(found.state.evaluations_since_best)
    assert waited == [0, 1, 2, 0, 1]


def test_the_best_weights_are_kept_and_not_the_last(
    trainer: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, seen = trainer(evaluations=3), {}
    measured(found, 3.0, 2.0, 4.0, 5.0)  # at steps 0, 4, 8, 12
    after_step(monkeypatch, found, 4, lambda: seen.update(bytes_of(found)))
    best = found.run(tmp_path, "v0").best_weights
    assert {k: v.numpy().tobytes() for k, v in best.items()} == seen != bytes_of(found)


def test_a_poisoned_weight_names_the_step_where_the_loss_broke(
    trainer: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = trainer(evaluations=1)
    after_step(monkeypatch, found, 6, lambda: found.model.output.bias.data.fill_(math.nan))
    message = r"the loss is nan at step 7 of 12; no checkpoint yet; lower learning_rate"
    with pytest.raises(TrainingDivergedError, match=message):
        found.run(tmp_path, "v0")


def test_a_divergence_names_the_last_good_checkpoint(
    trainer: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(monkeypatch, trainer(evaluations=1), tmp_path, step=3)
    found = trainer(evaluations=1)
    after_step(monkeypatch, found, 8, lambda: found.model.output.bias.data.fill_(math.nan))
    with pytest.raises(TrainingDivergedError, match=r"step 9 of 12; last good .*state\.pt"):
        found.run(tmp_path, "v0")
    assert load_state(tmp_path)["state"]["step"] == 3


def test_an_enormous_rate_diverges(trainer: Callable, tmp_path: Path) -> None:
    found = trainer("gpt", learning_rate=1e30, grad_clip=0.0)
    with pytest.raises(TrainingDivergedError, match=r"the loss is (nan|inf) at step \d+ of 12"):
        found.run(tmp_path, "v0")


def test_a_diverged_run_saves_no_broken_state(
    trainer: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = trainer(evaluations=1)
    monkeypatch.setattr(loop, "SAVE_EVERY_SECONDS", -1.0)  # after every step
    after_step(monkeypatch, found, 6, lambda: found.model.output.bias.data.fill_(math.nan))
    with pytest.raises(TrainingDivergedError, match="step 7 of 12"):
        found.run(tmp_path, "v0")
    assert load_state(tmp_path)["state"]["step"] == 6


# --- stopping and resuming ------------------------------------------------------------------------


@RESUMABLE
@pytest.mark.parametrize("step", [1, 5, 8])
def test_a_resumed_run_gives_the_same_bytes(
    trainer: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    changes: dict,
    step: int,
) -> None:
    changes = {"evaluations": 3} | changes
    if changes.get("stride"):
        changes |= {"epochs": 0.6}  # of 20 steps: 12 again
    straight, stopped = trainer(name, **changes), tmp_path / "stopped"
    straight.run(tmp_path, "v0")
    stopped.mkdir()
    interrupt(monkeypatch, trainer(name, **changes), stopped, step=step)
    resumed = trainer(name, seed=99, **changes)  # other weights and random state: all is restored
    resumed.run(stopped, "v0")
    assert straight.state.step == 12
    assert resumed.state.curve == straight.state.curve
    assert bytes_of(resumed) == bytes_of(straight)


def test_a_stop_is_obeyed_after_the_step_and_saved(
    trainer: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(monkeypatch, trainer(), tmp_path, step=5)
    assert load_state(tmp_path)["state"]["step"] == 5


def test_a_stop_in_the_last_step_ends_normally(
    trainer: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = trainer()
    after_step(monkeypatch, found, 12, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert found.run(tmp_path, "v0").done


def test_a_finished_run_is_found_and_not_trained_again(
    trainer: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = trainer()
    first.run(tmp_path, "v0")
    second = trainer(seed=99)
    caplog.set_level("INFO")
    second.run(tmp_path, "v0")
    assert f"v0: found it finished in {tmp_path}; delete that folder" in caplog.text
    assert second.state.curve == first.state.curve
    assert bytes_of(second) == bytes_of(first)


def test_a_resumed_run_says_where_it_resumes(
    trainer: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    interrupt(monkeypatch, trainer(), tmp_path, step=5)
    caplog.set_level("INFO")
    trainer().run(tmp_path, "v0")
    assert "v0: resuming from step 5 of 12" in caplog.text


def test_a_cut_state_starts_the_run_anew(trainer: Callable, tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes(b"PK\x03\x04 half of it")
    found = trainer()
    found.run(tmp_path, "v0")
    (tmp_path / "state.pt").unlink()
    straight = trainer()
    straight.run(tmp_path, "v0")
    assert bytes_of(found) == bytes_of(straight)


@EVERY
def test_a_snapshot_survives_the_file(trainer: Callable, tmp_path: Path, name: str) -> None:
    found = trainer(name)
    found.evaluate()
    for _ in range(3):
        found.take_step()
    found.look(tmp_path)
    save_state(tmp_path, found.snapshot())
    other = trainer(name, seed=99)
    other.restore(load_state(tmp_path))
    assert bytes_of(other) == bytes_of(found)
    assert (other.state.step, other.state.curve) == (3, found.state.curve)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt", "llama"])
def test_compiled_the_model_is_one_graph_and_trains_as_eager_does(
    trainer: Callable, name: str
) -> None:
    """Captured whole: a graph break would cost a launch of every kernel after it."""
    eager, compiled = trainer(name), trainer(name)
    compiled.features = torch.compile(compiled.features, backend="aot_eager", fullgraph=True)
    for each in (eager, compiled):
        for module in each.model.modules():
            if hasattr(module, "dropout"):
                module.dropout = 0.0
        each.take_step()
    assert compiled.look(Path("x")) == pytest.approx(eager.look(Path("x")), rel=1e-6)
    for key, value in eager.model.state_dict().items():
        torch.testing.assert_close(compiled.model.state_dict()[key], value, atol=1e-5, rtol=0)
