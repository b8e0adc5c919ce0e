"""The ranges of a run's parameters."""

from collections.abc import Callable

import pytest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context_length": 0}, "context_length is 0, expected more than 0"),
        ({"stride": 0}, "stride is 0, expected more than 0"),
        ({"batch_size": 0}, "batch_size is 0, expected more than 0"),
        ({"epochs": 0.0}, "epochs is 0.0, expected more than 0"),
        ({"evaluations": 0}, "evaluations is 0, expected more than 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0, expected more than 0"),
        ({"muon_learning_rate": 0.0}, "muon_learning_rate is 0.0, expected more than 0"),
        ({"epsilon": 0.0}, "epsilon is 0.0, expected more than 0"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1, expected at least 0"),
        ({"grad_clip": -1.0}, "grad_clip is -1.0, expected at least 0"),
        ({"warmup_steps": -1}, "warmup_steps is -1, expected at least 0"),
        ({"fallback_penalty": -0.5}, "fallback_penalty is -0.5, expected at least 0"),
        ({"beta1": 1.0}, "beta1 is 1.0, expected 0 <= x < 1"),
        ({"beta2": -0.1}, "beta2 is -0.1, expected 0 <= x < 1"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0, expected 0 <= x < 1"),
        ({"decay_share": 0.0}, "decay_share is 0.0, expected 0 < x <= 1"),
        ({"schedule_epochs": 0.5}, "schedule_epochs 0.5 is less than epochs 1.0"),
        ({"stride": 6}, "stride 6 is more than context_length 5: tokens would be skipped"),
    ],
)
def test_a_parameter_out_of_range_is_named(training: Callable, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        training(**change)
