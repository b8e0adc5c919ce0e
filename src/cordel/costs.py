"""Ledgers and prices to costs: hours, money, tokens, energy, by stage and by group.

What was not measured, or has no price, is None with the reason beside it, never 0. A sum over such
values is None as well; only energy is summed over what was measured, with its share of the hours.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cordel.runtime.errors import ArtifactError
from cordel.runtime.params import require

Attempt = Mapping[str, Any]  # one record of a ledger, see runtime/ledger.py
JOULES_PER_KWH = 3.6e6
TOKEN_COUNTS = ("unique", "processed", "supervised", "padding", "generated")
GROUPS = ("data", "track_1", "track_2", "evaluation")
# By how a stage's name begins; what is left makes data.
GROUP_OF = {
    "train_lm": "track_1",
    "export_model": "track_1",
    "adapt_": "track_2",
    "export_adapter": "track_2",
    "check_": "evaluation",
    "continue_": "evaluation",
    "generate_": "evaluation",
    "rank_": "evaluation",
    "sample_": "evaluation",
    "score_": "evaluation",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CostParams:
    """The section ``costs`` of params.yaml."""

    usd_per_hour: dict[str, float]  # by the name that the driver gives the GPU
    cpu_usd_per_hour: float  # of the machine, for stages that use no GPU
    kg_co2_per_kwh: float  # of the grid

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, price in self.usd_per_hour.items():
            require(price >= 0, f"usd_per_hour.{name} is {price}, expected at least 0")
        for key in ("cpu_usd_per_hour", "kg_co2_per_kwh"):
            value = getattr(self, key)
            require(value >= 0, f"{key} is {value}, expected at least 0")


def hourly_price(device: str, device_name: str, params: CostParams) -> tuple[float | None, str]:
    """Return (USD an hour, "") or (None, why there is no price)."""
    if device != "cuda":
        return params.cpu_usd_per_hour, ""
    if device_name in params.usd_per_hour:
        return params.usd_per_hour[device_name], ""
    return None, f"no price for {device_name!r} in costs.usd_per_hour of params.yaml"


def account(
    ledgers: Mapping[str, list[Attempt]],
    params: CostParams,
    *,
    repro_started_at: float | None,
) -> dict[str, Any]:
    """Return what ``metrics/costs.json`` holds: by stage, by group, in all, and saved by the cache.

    Args:
        ledgers: The attempts of each stage, under names like ``train_lm@v7``.
        params: Prices and the grid.
        repro_started_at: When the current ``dvc repro`` was started, in seconds since 1970. What
            last ran before it was restored from the cache; None: not known which.

    Raises:
        ArtifactError: A ledger is empty or a record lacks its duration or, if needed, its start.
    """
    stages = {name: stage_costs(name, ledgers[name], params) for name in sorted(ledgers)}
    groups = {
        group: summed([costs for name, costs in stages.items() if group_of(name) == group])
        for group in GROUPS
    }
    saved = None
    if repro_started_at is not None:
        old = [n for n in stages if _last_start(n, ledgers[n]) < repro_started_at]
        sums = summed([stages[name] for name in old])
        saved = {key: sums[key] for key in ("stages", "hours", "usd", "usd_missing")}
    return {
        "stages": stages,
        "groups": groups,
        "total": summed(list(stages.values())),
        "saved_by_cache": saved,
    }


def group_of(stage: str) -> str:
    """Return which of ``GROUPS`` a stage belongs to."""
    return next((group for start, group in GROUP_OF.items() if stage.startswith(start)), "data")


def stage_costs(stage: str, attempts: list[Attempt], params: CostParams) -> dict[str, Any]:
    """Return what all attempts of one stage cost together.

    Seconds, money and energy are sums over attempts. Token counts and ``model_flops`` are those of
    the whole stage, which the last attempt that states them knows: a resumed run counts from 0.
    """
    if not attempts:
        raise ArtifactError(f"ledger of {stage}: no attempt; rerun the stage")
    if any("seconds" not in attempt for attempt in attempts):
        raise ArtifactError(f"ledger of {stage}: an attempt has no 'seconds'; rerun the stage")
    seconds = sum(attempt["seconds"] for attempt in attempts)
    usd, missing = _money(attempts, params)
    tokens = {key: _last(attempts, "tokens", {}).get(key) for key in TOKEN_COUNTS}
    energy = _energy_kwh(attempts)
    estimated = _last(attempts, "estimated_seconds", None)
    return {
        "attempts": len(attempts),
        "hours": seconds / 3600,
        "lost_hours": _lost_seconds(attempts) / 3600,
        "cpu_hours": sum(attempt.get("cpu_seconds", 0) for attempt in attempts) / 3600,
        "usd": usd,
        "usd_missing": missing,
        "tokens": tokens,
        "tokens_per_second": _ratio(_worked(tokens), seconds),
        "per_second": {key: _ratio(count, seconds) for key, count in tokens.items()},
        "useful_share": _ratio(tokens["supervised"], tokens["processed"]),
        "peak_memory_mib": _highest(attempts, "peak_memory_mib"),
        "gpu_peak_memory_mib": _highest(attempts, "gpu_peak_memory_mib"),
        "utilisation": _utilisation(attempts, seconds),
        "energy_kwh": energy,
        "co2_kg": None if energy is None else energy * params.kg_co2_per_kwh,
        "estimated_seconds": estimated,
        "estimate_over_actual": _ratio(estimated, seconds),
    }


def summed(costs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the sums over stages: money is None if one is; energy says what it covers."""
    measured = [c for c in costs if c["energy_kwh"] is not None]
    hours = sum(c["hours"] for c in costs)
    prices = [c["usd"] for c in costs]
    return {
        "stages": len(costs),
        "hours": hours,
        "lost_hours": sum(c["lost_hours"] for c in costs),
        "cpu_hours": sum(c["cpu_hours"] for c in costs),
        "usd": None if None in prices else sum(prices),
        "usd_missing": sorted({reason for c in costs for reason in c["usd_missing"]}),
        "energy_kwh": sum(c["energy_kwh"] for c in measured) if measured else None,
        "energy_share_of_hours": _ratio(sum(c["hours"] for c in measured), hours),
        "co2_kg": sum(c["co2_kg"] for c in measured) if measured else None,
    }


# --- one stage ------------------------------------------------------------------------------------


def _money(attempts: list[Attempt], params: CostParams) -> tuple[float | None, list[str]]:
    """Return (USD, reasons): each attempt at the price of the device that it ran on."""
    total, reasons = 0.0, set()
    for attempt in attempts:
        compute = attempt.get("compute", {})  # stages over text state none: they use the CPU
        price, reason = hourly_price(
            compute.get("device", "cpu"), compute.get("device_name", ""), params
        )
        if price is None:
            reasons.add(reason)
        else:
            total += price * attempt["seconds"] / 3600
    return (None if reasons else total), sorted(reasons)


def _lost_seconds(attempts: list[Attempt]) -> float:
    """Return the seconds whose work was thrown away.

    An attempt may state its ``lost_seconds``. One that failed without it is lost as a whole if the
    next one states ``resumed: false``; where nothing is stated, nothing is taken for lost.
    """
    lost = 0.0
    for attempt, following in zip(attempts, [*attempts[1:], None], strict=True):
        if "lost_seconds" in attempt:
            lost += attempt["lost_seconds"]
        elif not attempt.get("completed", True) and following and following.get("resumed") is False:
            lost += attempt["seconds"]
    return lost


def _energy_kwh(attempts: list[Attempt]) -> float | None:
    """Return the energy of all attempts; None if one was not measured."""
    joules = [attempt.get("energy_joules") for attempt in attempts]
    known = [value for value in joules if value is not None]
    return sum(known) / JOULES_PER_KWH if len(known) == len(joules) else None


def _utilisation(attempts: list[Attempt], seconds: float) -> float | None:
    """Return model FLOPs over those that the device could have done in the same time."""
    flops = _last(attempts, "model_flops", None)
    peak = _last(attempts, "matmul_peak_flops", None)
    return None if flops is None or not peak else _ratio(flops, seconds * peak)


def _worked(tokens: Mapping[str, int | None]) -> int | None:
    """Return the count that the speed is about: what was computed, most inclusive first."""
    return next((tokens[k] for k in ("processed", "supervised", "generated") if tokens[k]), None)


def _last(attempts: list[Attempt], key: str, default: Any) -> Any:
    values = (attempt[key] for attempt in reversed(attempts) if attempt.get(key) is not None)
    return next(values, default)


def _highest(attempts: list[Attempt], key: str) -> float | None:
    values = (attempt.get(key) for attempt in attempts)
    return max((value for value in values if value is not None), default=None)


def _ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


def _last_start(stage: str, attempts: list[Attempt]) -> float:
    """Return when the last attempt began, in seconds since 1970."""
    try:
        return datetime.fromisoformat(attempts[-1]["started_at"]).timestamp()
    except (KeyError, ValueError):
        raise ArtifactError(
            f"ledger of {stage}: no valid 'started_at' in its last attempt; rerun the stage"
        ) from None
