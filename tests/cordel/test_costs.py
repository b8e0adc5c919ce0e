"""Hours, money, tokens and energy from ledgers, worked out by hand; and the thesis' own table."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cordel.costs import GROUPS, CostParams, account, group_of, stage_costs
from cordel.runtime.errors import ArtifactError
from cordel.runtime.files import read_json

GPU_4090 = "NVIDIA GeForce RTX 4090"
# Vast.ai's 25th percentile, as published (thesis 5.8).
PRICES = CostParams(
    usd_per_hour={"NVIDIA GeForce RTX 3080": 0.07, "NVIDIA GeForce RTX 3090": 0.13, GPU_4090: 0.30},
    cpu_usd_per_hour=0.02,
    kg_co2_per_kwh=0.1,
)


def attempt(seconds: float, gpu: str | None = None, **known: Any) -> dict[str, Any]:
    """Return a record of ``seconds`` on ``gpu``, or on the CPU."""
    compute = {"device": "cuda", "device_name": gpu} if gpu else {"device": "cpu"}
    return {"seconds": seconds, "completed": True, "compute": compute} | known


def costs_of(*attempts: dict[str, Any]) -> dict[str, Any]:
    """Return the costs of one stage."""
    return stage_costs("train_lm@v1", list(attempts), PRICES)


def total_of(ledgers: dict[str, list[Any]], **known: Any) -> dict[str, Any]:
    """Return the account with nothing known of the current run unless stated."""
    return account(ledgers, PRICES, repro_started_at=known.get("repro_started_at"))


# --- money ----------------------------------------------------------------------------------------


def test_a_gpu_hour_costs_its_price_and_a_cpu_hour_that_of_the_machine() -> None:
    assert costs_of(attempt(7200, GPU_4090))["usd"] == pytest.approx(0.60)
    assert costs_of(attempt(7200))["usd"] == pytest.approx(0.04)


def test_a_stage_that_states_no_device_used_the_cpu() -> None:
    assert costs_of({"seconds": 3600})["usd"] == pytest.approx(0.02)


def test_each_attempt_is_paid_where_it_ran() -> None:
    # 1 h x 0.30 + 2 h x 0.02.
    assert costs_of(attempt(3600, GPU_4090), attempt(7200))["usd"] == pytest.approx(0.34)


def test_a_gpu_without_a_price_costs_nobody_knows_what() -> None:
    costs = costs_of(attempt(3600, "NVIDIA H200"), attempt(3600))
    assert costs["usd"] is None
    assert costs["usd_missing"] == [
        "no price for 'NVIDIA H200' in costs.usd_per_hour of params.yaml"
    ]


def test_a_sum_with_an_unknown_price_is_unknown_and_says_why() -> None:
    found = total_of({"adapt_cpt": [attempt(3600, "NVIDIA H200")], "train_lm@v1": [attempt(3600)]})
    assert found["total"]["usd"] is None
    assert "H200" in found["total"]["usd_missing"][0]
    assert found["groups"]["track_1"]["usd"] == pytest.approx(0.02)


@pytest.mark.parametrize("key", ["cpu_usd_per_hour", "kg_co2_per_kwh"])
def test_negative_prices_are_refused(key: str) -> None:
    good: dict[str, Any] = {"usd_per_hour": {}, "cpu_usd_per_hour": 0.0, "kg_co2_per_kwh": 0.0}
    good[key] = -0.1
    with pytest.raises(ValueError, match=f"{key} is -0.1, expected at least 0"):
        CostParams(**good)


def test_a_negative_gpu_price_is_named() -> None:
    with pytest.raises(ValueError, match=r"usd_per_hour\.X is -1\.0, expected at least 0"):
        CostParams(usd_per_hour={"X": -1.0}, cpu_usd_per_hour=0.0, kg_co2_per_kwh=0.0)


# --- time -----------------------------------------------------------------------------------------


def test_seconds_of_all_attempts_count() -> None:
    costs = costs_of(
        attempt(900, completed=False, cpu_seconds=1800), attempt(2700, cpu_seconds=1800)
    )
    assert (costs["attempts"], costs["hours"], costs["cpu_hours"]) == (2, 1, 1)


@pytest.mark.parametrize(
    ("attempts", "lost_hours"),
    [
        # Resumed from a checkpoint, or not stated: nothing is taken for lost.
        ([attempt(3600, completed=False), attempt(7200)], 0),
        ([attempt(3600, completed=False), attempt(7200, resumed=True)], 0),
        # Begun again from the start.
        ([attempt(3600, completed=False), attempt(7200, resumed=False)], 1),
        # It knows itself what it lost: the 900 s since its last checkpoint.
        ([attempt(3600, completed=False, lost_seconds=900), attempt(7200, resumed=False)], 0.25),
        # A run that succeeded lost nothing, whatever ran after it.
        ([attempt(3600), attempt(7200, resumed=False)], 0),
    ],
)
def test_lost_work_is_told_apart(attempts: list[dict[str, Any]], lost_hours: float) -> None:
    assert costs_of(*attempts)["lost_hours"] == pytest.approx(lost_hours)


@pytest.mark.parametrize(("attempts", "problem"), [([], "no attempt"), ([{}], "no 'seconds'")])
def test_a_broken_ledger_is_named(attempts: list[Any], problem: str) -> None:
    with pytest.raises(ArtifactError, match=f"ledger of train_lm@v1: .*{problem}"):
        stage_costs("train_lm@v1", attempts, PRICES)


def test_an_estimate_is_put_beside_what_it_was() -> None:
    costs = costs_of(attempt(100, completed=False), attempt(300, estimated_seconds=500))
    assert (costs["estimated_seconds"], costs["estimate_over_actual"]) == (500, 1.25)


def test_without_an_estimate_there_is_no_ratio() -> None:
    assert costs_of(attempt(100))["estimate_over_actual"] is None


# --- work -----------------------------------------------------------------------------------------


def test_tokens_are_those_of_the_whole_run_not_summed_over_attempts() -> None:
    tokens = {"unique": 50, "processed": 400, "supervised": 100, "padding": 300}
    costs = costs_of(attempt(30, completed=False), attempt(10, tokens=tokens), attempt(0))
    assert costs["tokens"] == tokens | {"generated": None}
    # 400 tokens in 30 + 10 + 0 seconds, a quarter of them supervised.
    assert (costs["tokens_per_second"], costs["useful_share"]) == (10, 0.25)
    counts = costs["tokens"]
    assert costs["per_second"] == {k: None if v is None else v / 40 for k, v in counts.items()}


def test_generation_is_as_fast_as_its_new_tokens() -> None:
    costs = costs_of(attempt(20, tokens={"generated": 100}))
    assert (costs["tokens_per_second"], costs["useful_share"]) == (5, None)


def test_a_stage_without_tokens_has_no_speed() -> None:
    assert costs_of(attempt(20))["tokens_per_second"] is None


def test_memory_is_the_highest_of_the_attempts() -> None:
    first = attempt(1, peak_memory_mib=700.0, gpu_peak_memory_mib=None)
    costs = costs_of(first, attempt(1, peak_memory_mib=500.0, gpu_peak_memory_mib=None))
    assert (costs["peak_memory_mib"], costs["gpu_peak_memory_mib"]) == (700, None)


def test_utilisation_is_the_share_of_the_measured_peak() -> None:
    # 6e14 FLOP in 10 + 20 s at 1e14 FLOP/s: 6 s worth.
    costs = costs_of(
        attempt(10, completed=False), attempt(20, model_flops=6e14, matmul_peak_flops=1e14)
    )
    assert costs["utilisation"] == pytest.approx(0.2)


@pytest.mark.parametrize("known", [{"model_flops": 6e14}, {"matmul_peak_flops": 1e14}])
def test_utilisation_needs_both_halves(known: dict[str, float]) -> None:
    assert costs_of(attempt(10) | known)["utilisation"] is None


# --- energy ---------------------------------------------------------------------------------------


def test_energy_in_kwh_and_its_carbon() -> None:
    # 1.8 MJ twice is 1 kWh, at 0.1 kg.
    costs = costs_of(attempt(9, energy_joules=1.8e6), attempt(9, energy_joules=1.8e6))
    assert (costs["energy_kwh"], costs["co2_kg"]) == (1, pytest.approx(0.1))


def test_energy_that_was_measured_in_part_is_unknown() -> None:
    costs = costs_of(attempt(9, energy_joules=1.8e6), attempt(9, energy_joules=None))
    assert costs["energy_kwh"] is costs["co2_kg"] is None


def test_a_sum_of_energy_says_what_share_of_the_hours_it_covers() -> None:
    found = total_of(
        {"adapt_cpt": [attempt(10, energy_joules=3.6e6)], "train_lm@v1": [attempt(30)]}
    )
    total = found["total"]
    assert (total["energy_kwh"], total["energy_share_of_hours"]) == (1, 0.25)
    assert found["groups"]["track_1"]["energy_kwh"] is None


# --- groups and the cache -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "group"),
    [
        ("export_corpus", "data"),
        ("train_tokenizer@char", "data"),
        ("train_lm@v7", "track_1"),
        ("export_model@v7", "track_1"),
        ("adapt_sft@web-42", "track_2"),
        ("score_lm@v7", "evaluation"),
        ("sample_lm@v7", "evaluation"),
        ("generate_answers@base", "evaluation"),
    ],
)
def test_every_stage_has_one_group(stage: str, group: str) -> None:
    assert group_of(stage) == group


def test_groups_add_up_to_the_total() -> None:
    stages = ("export_corpus", "train_lm@v1", "train_lm@v2", "adapt_cpt", "score_lm@v1")
    found = total_of({name: [attempt(3600)] for name in stages})
    hours = {group: found["groups"][group]["hours"] for group in GROUPS}
    assert hours == {"data": 1, "track_1": 2, "track_2": 1, "evaluation": 1}
    assert (found["total"]["hours"], found["total"]["stages"]) == (5, 5)


def test_what_ran_before_this_repro_was_saved_by_the_cache() -> None:
    begun = datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp()
    before, after = "2026-01-01T11:59:59+00:00", "2026-01-01T12:00:01+00:00"
    found = total_of(
        {
            "train_lm@v1": [attempt(3600, GPU_4090, started_at=before)],
            "train_lm@v2": [attempt(3600, GPU_4090, started_at=after)],
            # Interrupted before and finished now: it ran in this repro.
            "train_lm@v3": [attempt(60, started_at=before), attempt(60, started_at=after)],
        },
        repro_started_at=begun,
    )
    saved = found["saved_by_cache"]
    assert saved == {"stages": 1, "hours": 1, "usd": pytest.approx(0.30), "usd_missing": []}


def test_outside_a_repro_nobody_knows_what_the_cache_saved() -> None:
    assert total_of({"train_lm@v1": [attempt(1)]})["saved_by_cache"] is None


@pytest.mark.parametrize("known", [{}, {"started_at": "ontem"}])
def test_a_record_without_a_start_is_refused_where_it_is_needed(known: dict[str, str]) -> None:
    with pytest.raises(ArtifactError, match="ledger of train_lm@v1: no valid 'started_at'"):
        total_of({"train_lm@v1": [attempt(1, **known)]}, repro_started_at=0.0)


# --- the thesis' table ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "gpu", "hours", "usd"),
    [
        ("v1", "3080", 1.1, 0.08),
        ("v2", "3080", 0.9, 0.06),
        ("v3", "3080", 2.0, 0.14),
        ("v4_subword", "3080", 1.2, 0.08),
        ("v4_subword_ep6", "3080", 3.7, 0.26),
        ("v4k_bf_ep2", "3080", 1.2, 0.08),
        ("v4k_bf_lstm_ep2", "3080", 1.4, 0.10),
        ("v5_main", "3090", 3.2, 0.42),
        ("v5b_long", "3090", 2.9, 0.38),
        ("v6_rc16k_v5b", "4090", 13.3, 3.99),
        ("v6_rc16k_v5b_aligned", "4090", 16.6, 4.98),
        ("cpt", "4090", 2.35, 0.71),
        ("sft", "4090", 1.06, 0.32),
        ("evaluation", "4090", 1.81, 0.54),
    ],
)
def test_the_thesis_costs_follow_from_its_rounded_hours(
    run: str, gpu: str, hours: float, usd: float
) -> None:
    record = attempt(hours * 3600, f"NVIDIA GeForce RTX {gpu}")
    # Half up, as published: 0.705 of the CPT became 0.71.
    cents = stage_costs(run, [record], PRICES)["usd"] * 100
    assert int(cents + 0.5 + 1e-9) / 100 == usd


def test_the_thesis_track_2_in_all() -> None:
    hours = {"adapt_cpt": 2.35, "adapt_sft": 1.06, "generate_answers": 1.81}
    found = total_of({name: [attempt(h * 3600, GPU_4090)] for name, h in hours.items()})
    assert found["total"]["hours"] == pytest.approx(5.22)
    assert round(found["total"]["usd"], 2) == 1.57
    assert found["groups"]["track_2"]["hours"] == pytest.approx(3.41)


@pytest.mark.shared
def test_the_aligned_run_costs_a_cent_less_from_its_exact_seconds(shared: Path) -> None:
    logs = shared / "data" / "golden" / "train_logs"
    log = read_json(logs / "v6-release-candidate__train_v6_rc16k_v5b_aligned.json")
    assert round(costs_of(attempt(log["total_time_sec"], GPU_4090))["usd"], 2) == 4.97


@pytest.mark.shared
@pytest.mark.parametrize("name", ["cpt", "sft"])
def test_the_thesis_adaptation_logs_state_the_same_cost(shared: Path, name: str) -> None:
    log = read_json(shared / "data" / "golden" / "trilha2" / f"train_{name}_qlora.json")
    record = attempt(log["timers"]["duration_sec"], log["env"]["gpu_model"])
    assert costs_of(record)["usd"] == pytest.approx(log["cost"]["total_cost_usd"], abs=1e-9)
