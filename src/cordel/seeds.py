"""Further training seeds: what they will cost, their place in params.yaml, and what they show.

The spread over training seeds is what separates a better recipe from a lucky run; the thesis
trained everything once (section 7, point 22). A further seed is an entry of the section ``seeds``,
from which dvc.yaml makes stages of its own: none that was there before runs again. The default
seed keeps its names.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from cordel.costs import CostParams, stage_costs
from cordel.profiles import flow_map, load_params, save_params
from cordel.reporting.markdown import markdown_table
from cordel.runtime.console import duration
from cordel.runtime.errors import ParamsError
from cordel.runtime.files import read_json
from cordel.runtime.params import LARGEST, PARAMS, read_params, read_section, require

STARTS = {"sft": "data/base/base", "cpt_sft": "data/adapters/cpt"}  # arms, and where they start
STAGES = {"models": ("train_lm", "score_lm"), "sft": ("adapt_sft", "generate_answers")}
SCORES = ("em", "f1", "rouge_l")
BASE = "base"  # the arm over which a gain is


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSeed:
    """One entry of ``seeds.models``."""

    run: str
    seed: int
    dataset: str  # this and the next repeat the run's: dvc.yaml cannot look them up
    architecture: str

    def __post_init__(self) -> None:
        """Check the range."""
        require(self.seed >= 0, f"seed is {self.seed}, expected at least 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmSeed:
    """One entry of ``seeds.sft``."""

    arm: str
    seed: int
    start: str  # the adapter that the arm goes on with, or its base

    def __post_init__(self) -> None:
        """Check the range."""
        require(self.seed >= 0, f"seed is {self.seed}, expected at least 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedParams:
    """The section ``seeds`` of params.yaml: entries by their names, such as ``v7-43``."""

    models: dict[str, RunSeed]
    sft: dict[str, ArmSeed]


@dataclass(frozen=True, slots=True)
class Cost:
    """Of training and evaluating one seed; None where a ledger or a price is missing."""

    seconds: float | None
    usd: float | None

    def __str__(self) -> str:
        """Return it as people say it."""
        if self.seconds is None:
            return "unknown, run `cordel estimate`"
        return f"{duration(self.seconds)}, " + (
            "no price" if self.usd is None else f"{self.usd:.4f} USD"
        )


@dataclass(frozen=True, slots=True)
class Spread:
    """One figure over training seeds; ``values`` by seed, the default one first."""

    name: str
    values: dict[int, float]

    @property
    def sd(self) -> float | None:
        """The sample standard deviation; None for one value."""
        return stdev(self.values.values()) if len(self.values) > 1 else None


# --- The section ----------------------------------------------------------------------------------


def add_seeds(name: str, seeds: list[int], *, root: Path = Path()) -> list[str]:
    """Write further seeds of a run or an arm into params.yaml; return the keys of the new entries.

    Raises:
        ParamsError: ``name`` is no run and no arm of ``STARTS``, or a seed is negative, the
            default one or already there.
    """
    group, entry = _kind(name, root)
    params = load_params(root / PARAMS)
    entries = params["seeds"][group]
    taken = [
        entry["seed"],
        *(other["seed"] for other in entries.values() if name in other.values()),
    ]
    for seed in seeds:
        if not 0 <= seed <= LARGEST or seed in taken or seeds.count(seed) > 1:
            raise ParamsError(
                f"seed {seed} of {name}: expected a new one, at least 0; "
                f"there are: {', '.join(map(str, taken))}"
            )
    for seed in seeds:
        entries[f"{name}-{seed}"] = flow_map(entry | {"seed": seed})
    save_params(root / PARAMS, params)
    return [f"{name}-{seed}" for seed in seeds]


def remove_seeds(keys: list[str], *, root: Path = Path()) -> None:
    """Take entries out of params.yaml; their files stay until ``dvc gc`` and ``git clean``.

    Raises:
        ParamsError: There is no such entry.
    """
    params = load_params(root / PARAMS)
    groups = params["seeds"]
    for key in keys:
        group = next((g for g in groups.values() if key in g), None)
        if group is None:
            known = ", ".join(k for g in groups.values() for k in g) or "none"
            raise ParamsError(f"params.yaml: no further seed {key!r}; there are: {known}")
        del group[key]
        if not group:
            group.fa.set_flow_style()  # {}
    save_params(root / PARAMS, params)


def _kind(name: str, root: Path) -> tuple[str, dict[str, Any]]:
    """Return the group of a run or arm, and what its entry would be with the default seed."""
    runs = read_section("models", path=root / PARAMS)
    if name in runs:
        run = runs[name]
        entry = {"run": name, "seed": run["training"]["seed"]}
        return "models", entry | {key: run[key] for key in ("dataset", "architecture")}
    if name in STARTS:
        seed = read_section("sft.seed", path=root / PARAMS)
        return "sft", {"arm": name, "seed": seed, "start": STARTS[name]}
    known = ", ".join([*runs, *STARTS])
    raise ParamsError(f"no run and no arm {name!r}; there are: {known}")


def _further(root: Path) -> dict[str, dict[str, RunSeed | ArmSeed]]:
    """Return the entries of the section, checked, by group and key.

    Raises:
        ParamsError: One no longer fits its run, which was edited after it was added.
    """
    section = read_params("seeds", SeedParams, path=root / PARAMS)
    found: dict[str, dict[str, RunSeed | ArmSeed]]
    found = {"models": dict(section.models), "sft": dict(section.sft)}
    for group, entries in found.items():
        for key, entry in entries.items():
            name = _owner(entry)
            _, default = _kind(name, root)
            fits = asdict(entry) == default | {"seed": entry.seed} and entry.seed != default["seed"]
            if not fits or key != f"{name}-{entry.seed}":
                raise ParamsError(
                    f"{PARAMS}: seeds.{group}.{key} is not what `cordel seeds {name} {entry.seed}` "
                    f"would write now; run `cordel seeds --remove {key}`, then add it again"
                )
    return found


def _owner(entry: RunSeed | ArmSeed) -> str:
    return entry.run if isinstance(entry, RunSeed) else entry.arm


# --- What they cost -------------------------------------------------------------------------------


def cost_of_one(name: str, *, root: Path = Path()) -> Cost:
    """Return what the default seed of a run or arm cost by its ledgers: so much each further one.

    Raises:
        ParamsError: As ``add_seeds``.
    """
    group, _ = _kind(name, root)
    return _cost([f"{stage}/{name}" for stage in STAGES[group]], root)


def _cost(ledgers: list[str], root: Path) -> Cost:
    prices = read_params("costs", CostParams, path=root / PARAMS)
    found = []
    for name in ledgers:
        path = root / "metrics" / "ledger" / f"{name}.json"
        attempts = read_json(path, kind=list) if path.exists() else []
        if not attempts:
            return Cost(None, None)
        found.append(stage_costs(name, attempts, prices))
    usd = [costs["usd"] for costs in found]
    seconds = 3600 * sum(costs["hours"] for costs in found)
    return Cost(seconds, None if None in usd else sum(usd))


# --- What they show -------------------------------------------------------------------------------


def spreads(name: str, *, root: Path = Path()) -> list[Spread]:
    """Return the figures of a run or arm over its training seeds, as far as they are there.

    For a run its bits per byte; for an arm each score of each task, and its gain over the base,
    whose answers no training seed moves.

    Raises:
        ParamsError: As ``add_seeds``.
    """
    group, entry = _kind(name, root)
    default = entry["seed"]
    metrics = root / "metrics"
    paths = {default: metrics / ("answers.json" if group == "sft" else f"lm/{name}.json")}
    folder = metrics / "seeds" / ("answers" if group == "sft" else "lm")
    for key, further in _further(root)[group].items():
        if _owner(further) == name:
            paths[further.seed] = folder / f"{key}.json"
    read = {seed: read_json(path) for seed, path in paths.items() if path.exists()}
    if group == "models":
        return [Spread("bits per byte", {s: m["bits_per_byte"] for s, m in read.items()})]
    summaries = {s: m[name if s == default else f"{name}-{s}"] for s, m in read.items()}
    return list(_arm_spreads(name, summaries, read.get(default, {}).get(BASE)))


def _arm_spreads(
    name: str, summaries: Mapping[int, Any], base: Mapping[str, Any] | None
) -> Iterator[Spread]:
    """Yield scores and gains; ``summaries`` and ``base`` are as ``answers.summarise`` has them."""
    for task in sorted({task for summary in summaries.values() for task in summary}):
        for score in SCORES:
            values = {seed: s[task][score]["mean"] for seed, s in summaries.items()}
            yield Spread(f"{task} {score}", values)
            if base is not None:
                zero = base[task][score]["mean"]
                gains = {seed: value - zero for seed, value in values.items()}
                yield Spread(f"{task} {score}, {name} − {BASE}", gains)


def render_seeds(*, root: Path = Path()) -> str:
    """Return, in Markdown, a table of each run and arm with further seeds, and their costs."""
    further = _further(root)
    names = [_owner(entry) for group in further.values() for entry in group.values()]
    if not names:
        return "No further training seeds; `cordel seeds v7 43 44` adds two of v7.\n"
    costs = []
    for group, entries in further.items():
        for key in entries:
            cost = _cost([f"{stage}_seeds/{key}" for stage in STAGES[group]], root)
            costs.append([key, "not run: `dvc repro`" if cost.seconds is None else str(cost)])
    parts = [_part(name, root) for name in dict.fromkeys(names)]
    return "\n\n".join([*parts, markdown_table(["further seed", "cost"], costs)]) + "\n"


def render_page(*, root: Path = Path()) -> str:
    """Return the table as a page that says how it was made."""
    seeds: dict[str, list[int]] = {}
    for group in _further(root).values():
        for entry in group.values():
            seeds.setdefault(_owner(entry), []).append(entry.seed)
    words = [" ".join(map(str, ["cordel seeds", name, *of])) for name, of in seeds.items()]
    commands = " && ".join([*words, "dvc repro"])
    profile = read_section("profile", path=root / PARAMS)
    return f"""# Variance over training seeds

Made by `{commands}` on profile `{profile}`,
and then `cordel seeds --out`; sd is the sample standard deviation, and a gain is over the untuned
base, which no training seed moves.

{render_seeds(root=root)}"""


def _part(name: str, root: Path) -> str:
    found = spreads(name, root=root)
    seeds = list(dict.fromkeys(seed for spread in found for seed in spread.values))
    header = [name, *(f"seed {seed}" for seed in seeds), "mean", "sd", "n", "min to max"]
    return markdown_table(header, [_row(spread, seeds) for spread in found])


def _row(spread: Spread, seeds: list[int]) -> list[str]:
    values = list(spread.values.values())
    shown = [f"{spread.values[s]:.4f}" if s in spread.values else "–" for s in seeds]
    if not values:
        return [spread.name, *shown, "–", "–", "0", "–"]
    sd = "–" if spread.sd is None else f"{spread.sd:.4f}"
    extent = f"{min(values):.4f} to {max(values):.4f}"
    return [spread.name, *shown, f"{mean(values):.4f}", sd, str(len(values)), extent]
