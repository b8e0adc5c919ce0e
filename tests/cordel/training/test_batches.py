"""Windows over tokens: each is a target once an epoch, and a batch depends on its step alone."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cordel.runtime.errors import ParamsError
from cordel.training.batches import LaneBatches, WindowBatches

IDS = np.arange(101, dtype=np.uint16)  # an id is its own place


def lanes(n: int = 101) -> LaneBatches:
    """Return 4 lanes of 25 tokens in 5 windows of 5."""
    return LaneBatches(IDS[:n], context_length=5, batch_size=4)


def windows(stride: int = 5, *, n: int = 101, seed: int = 0, batch_size: int = 3) -> WindowBatches:
    """Return shuffled windows of 5."""
    return WindowBatches(IDS[:n], context_length=5, stride=stride, batch_size=batch_size, seed=seed)


def targets(batches: LaneBatches | WindowBatches, epoch: int = 0) -> Counter:
    """Count how often each place is a target in one epoch."""
    steps = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
    return Counter(i for step in steps for i in batches.batch(step).ids[:, 1:].ravel().tolist())


def test_the_first_batch_of_lanes_begins_equal_distances_apart() -> None:
    # 100 targets in 4 lanes: they begin at 0, 25, 50, 75.
    expected = [[0, 1, 2, 3, 4, 5], [25, 26, 27, 28, 29, 30]]
    assert lanes().batch(0).ids[:2].tolist() == expected
    assert lanes().batch(0).ids[:, 0].tolist() == [0, 25, 50, 75]


@pytest.mark.parametrize("step", range(4))
def test_a_lane_reads_on_where_its_last_window_ended(step: int) -> None:
    before, after = lanes().batch(step).ids, lanes().batch(step + 1).ids
    assert before[:, -1].tolist() == after[:, 0].tolist()


def test_in_lanes_every_token_but_the_first_is_a_target_once() -> None:
    assert targets(lanes()) == Counter(range(1, 101))


def test_lanes_leave_out_only_what_does_not_fill_a_window() -> None:
    # 99 targets / 4 lanes = 24 each, of which 4 windows of 5 are used.
    starts = [0, 24, 48, 72]
    assert targets(lanes(100)) == Counter(s + i for s in starts for i in range(1, 21))


def test_only_the_first_step_of_an_epoch_forgets() -> None:
    afresh = [step for step in range(12) if lanes().batch(step).starts_afresh]
    assert afresh == [0, 5, 10]


def test_the_second_epoch_of_lanes_repeats_the_first() -> None:
    assert lanes().batch(7).ids.tolist() == lanes().batch(2).ids.tolist()


@pytest.mark.parametrize("epoch", range(4))
def test_disjoint_windows_make_a_token_a_target_once_an_epoch(epoch: int) -> None:
    # (100 - 5 - 4) // 5 + 1 = 19 windows: 18 in 6 batches of 3, 90 of 100 targets.
    counts = targets(windows(), epoch)
    assert set(counts.values()) == {1}
    assert len(counts) == 90


def test_windows_of_one_a_batch_leave_no_gap() -> None:
    counts = targets(windows(batch_size=1))
    assert max(counts) - min(counts) + 1 == len(counts) == 95


def test_overlapping_windows_make_an_inner_token_a_target_of_several() -> None:
    # A stride of 1 and a context of 5: each place is inside 5 windows, but at the ends.
    counts = targets(windows(1, batch_size=1))
    assert len(counts) == 100
    assert {counts[place] for place in range(5, 97)} == {5}


def test_windows_share_no_memory_with_the_step_before() -> None:
    assert all(windows().batch(step).starts_afresh for step in range(8))


def test_each_epoch_has_another_order_and_the_seed_chooses_it() -> None:
    first, again, second = (
        starts_in_order(windows(), 0),
        starts_in_order(windows(), 0),
        starts_in_order(windows(), 1),
    )
    assert first == again != second
    assert first != starts_in_order(windows(seed=1), 0)


def test_windows_come_in_a_random_order_each_once() -> None:
    order = starts_in_order(windows(batch_size=1), 0)
    assert order != sorted(order)
    assert sorted(order) == list(range(min(order), min(order) + 5 * 19, 5))


def starts_in_order(batches: WindowBatches, epoch: int) -> list[int]:
    """Return where the windows of one epoch begin."""
    steps = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
    return [start for step in steps for start in batches.batch(step).ids[:, 0].tolist()]


def test_epochs_start_from_different_offsets() -> None:
    offsets = {windows().batch(6 * epoch).ids[0, 0] % 5 for epoch in range(30)}
    assert offsets == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("make", [lanes, windows])
def test_a_batch_depends_on_its_step_alone(make) -> None:
    wanted = [7, 0, 13, 7, 6, 0]
    batches = make()
    jumping = [batches.batch(step).ids.tolist() for step in wanted]
    assert jumping == [make().batch(step).ids.tolist() for step in wanted]


@pytest.mark.parametrize("make", [lanes, windows])
def test_ids_come_as_64_bits_with_one_more_than_the_context(make) -> None:
    ids = make().batch(0).ids
    assert ids.dtype == np.int64
    assert ids.shape[1] == 6


@settings(deadline=None, max_examples=200)
@given(
    n=st.integers(2, 101),
    context=st.integers(1, 12),
    stride=st.integers(1, 12),
    epoch=st.integers(0, 3),
)
def test_no_window_reaches_beyond_the_text(n: int, context: int, stride: int, epoch: int) -> None:
    try:
        batches = WindowBatches(
            IDS[:n], context_length=context, stride=stride, batch_size=1, seed=2
        )
    except ParamsError:
        return
    assert all(
        (np.diff(batches.batch(epoch * batches.steps_per_epoch + k).ids) == 1).all()
        for k in range(batches.steps_per_epoch)
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda n: LaneBatches(IDS[:n], context_length=5, batch_size=4),
        lambda n: WindowBatches(IDS[:n], context_length=5, stride=5, batch_size=4, seed=0),
    ],
    ids=["lanes", "windows"],
)
@pytest.mark.parametrize("n", [1, 5, 20])
def test_too_little_text_names_the_three_numbers(make, n: int) -> None:
    message = f"context_length 5 x batch_size 4 needs more than the {n} training tokens"
    with pytest.raises(ParamsError, match=message):
        make(n)


@pytest.mark.parametrize(
    ("make", "n"),
    [
        # 4 lanes of 5 and the first input; 4 windows, 4 tokens of offset and the first input.
        (lambda n: LaneBatches(IDS[:n], context_length=5, batch_size=4), 21),
        (lambda n: WindowBatches(IDS[:n], context_length=5, stride=5, batch_size=4, seed=0), 25),
    ],
    ids=["lanes", "windows"],
)
def test_just_enough_text_gives_one_step(make, n: int) -> None:
    assert make(n).steps_per_epoch == 1
    with pytest.raises(ParamsError, match=f"{n - 1} training tokens"):
        make(n - 1)
