"""The learning rate against tables worked out by hand."""

import pytest

from cordel.training.schedule import learning_rate_factor

# A warm-up of 3 steps: 1/4, 2/4, 3/4, then the whole rate at step 3.
WARM = [(0, 0.25), (1, 0.5), (2, 0.75), (3, 1.0)]
# Cosine over 3..11: cos of 0, 45, 90, 135 and 180 degrees at a quarter each.
COSINE = [(5, 0.853553), (7, 0.5), (9, 0.146447), (11, 0.0), (40, 0.0)]
# wsd with a share of 0.4 of 10 steps: 4 steps of decay, 6 to 9, then nothing.
WSD = [(4, 1.0), (6, 1.0), (7, 0.75), (8, 0.5), (9, 0.25), (10, 0.0), (12, 0.0)]


@pytest.mark.parametrize("kind", ["constant", "cosine", "wsd"])
@pytest.mark.parametrize(("step", "expected"), WARM)
def test_every_schedule_warms_up_linearly(kind: str, step: int, expected: float) -> None:
    factor = learning_rate_factor(step, kind=kind, total_steps=11, warmup_steps=3, decay_share=0.4)
    assert factor == expected


@pytest.mark.parametrize(("step", "expected"), COSINE)
def test_cosine_falls_to_zero_and_stays_there(step: int, expected: float) -> None:
    factor = learning_rate_factor(
        step, kind="cosine", total_steps=11, warmup_steps=3, decay_share=0.4
    )
    assert factor == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("step", "expected"), WSD)
def test_wsd_stays_and_falls_linearly_at_the_end(step: int, expected: float) -> None:
    factor = learning_rate_factor(step, kind="wsd", total_steps=10, warmup_steps=3, decay_share=0.4)
    assert factor == pytest.approx(expected)


@pytest.mark.parametrize("step", [0, 5, 99])
def test_constant_stays_whatever_the_length(step: int) -> None:
    factor = learning_rate_factor(
        step, kind="constant", total_steps=10, warmup_steps=0, decay_share=0.4
    )
    assert factor == 1
