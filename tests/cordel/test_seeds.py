"""Further training seeds in params.yaml, what they cost and the spread that they show."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from cordel.runtime.errors import ParamsError
from cordel.runtime.files import write_json
from cordel.seeds import (
    STARTS,
    Cost,
    Spread,
    add_seeds,
    cost_of_one,
    remove_seeds,
    render_page,
    render_seeds,
    spreads,
)


@pytest.fixture
def root(project: Path, tmp_path: Path) -> Path:
    """Return a folder with the project's params.yaml, without further seeds."""
    shutil.copyfile(project / "params.yaml", tmp_path / "params.yaml")
    entries = section(tmp_path)
    remove_seeds([*entries["models"], *entries["sft"]], root=tmp_path)
    return tmp_path


def section(root: Path) -> dict[str, Any]:
    """Return the section as it is now."""
    return yaml.safe_load((root / "params.yaml").read_text("utf-8"))["seeds"]


def write_ledger(root: Path, name: str, *attempts: dict[str, Any]) -> None:
    """Write a ledger."""
    write_json(root / "metrics/ledger" / f"{name}.json", list(attempts))


def summary(**means: float) -> dict[str, Any]:
    """Return an arm's summary of one task in which all three scores have the same mean."""
    scores = ("em", "f1", "rouge_l", "words")
    return {task: {score: {"mean": mean} for score in scores} for task, mean in means.items()}


# --- the section ----------------------------------------------------------------------------------


def test_entries_are_written_and_nothing_else_is_touched(root: Path) -> None:
    before = (root / "params.yaml").read_text("utf-8")
    assert add_seeds("v7", [43, 44], root=root) == ["v7-43", "v7-44"]
    assert add_seeds("cpt_sft", [7], root=root) == ["cpt_sft-7"]
    v7 = {"run": "v7", "dataset": "v7_lossless", "architecture": "llama"}
    assert section(root) == {
        "models": {"v7-43": v7 | {"seed": 43}, "v7-44": v7 | {"seed": 44}},
        "sft": {"cpt_sft-7": {"arm": "cpt_sft", "seed": 7, "start": "data/adapters/cpt"}},
    }
    lines = (root / "params.yaml").read_text("utf-8").splitlines()
    new = [line for line in lines if line not in before.splitlines()]
    assert new == [
        "  models:                     # v7-43: {run: v7, seed: 43, dataset: v7_lossless, "
        "architecture: llama}",
        "    v7-43: {run: v7, seed: 43, dataset: v7_lossless, architecture: llama}",
        "    v7-44: {run: v7, seed: 44, dataset: v7_lossless, architecture: llama}",
        "  sft:                        # sft-43: {arm: sft, seed: 43, start: data/base/base}",
        "    cpt_sft-7: {arm: cpt_sft, seed: 7, start: data/adapters/cpt}",
    ]
    remove_seeds(["v7-44", "cpt_sft-7", "v7-43"], root=root)
    assert (root / "params.yaml").read_text("utf-8") == before


@pytest.mark.parametrize(
    ("name", "seeds", "message"),
    [
        ("v8", [43], "no run and no arm 'v8'; there are: v1, v2, .*v7, sft, cpt_sft"),
        ("instruct_sft", [43], "no run and no arm 'instruct_sft'"),
        ("v7", [42], "seed 42 of v7: expected a new one, at least 0; there are: 42, 44"),
        ("v7", [43, 44], "seed 44 of v7: .* there are: 42, 44"),
        ("v7", [45, 45], "seed 45 of v7"),
        ("v7", [-1], "seed -1 of v7"),
    ],
)
def test_a_seed_that_is_none_is_named_and_nothing_is_written(
    name: str, seeds: list[int], message: str, root: Path
) -> None:
    add_seeds("v7", [44], root=root)
    before = (root / "params.yaml").read_text("utf-8")
    with pytest.raises(ParamsError, match=message):
        add_seeds(name, seeds, root=root)
    assert (root / "params.yaml").read_text("utf-8") == before


def test_removing_what_is_not_there_names_what_is(root: Path) -> None:
    add_seeds("sft", [44], root=root)
    with pytest.raises(ParamsError, match="no further seed 'v7-43'; there are: sft-44"):
        remove_seeds(["v7-43"], root=root)


def test_an_entry_by_hand_is_checked(root: Path) -> None:
    text = (root / "params.yaml").read_text("utf-8")
    entry = "sft: {sft-43: {arm: sft, seed: '43', start: data/base/base}}"
    (root / "params.yaml").write_text(text.replace("\n  sft: {}", f"\n  {entry}"), "utf-8")
    with pytest.raises(ParamsError, match=r"'sft\.sft-43\.seed' is '43', expected int"):
        render_seeds(root=root)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("seed: 43, dataset: v7_lossless", "seed: 43, dataset: char_web_20k"),
        ("    v7-43: {", "    v7-44: {"),
        ("v7-43: {run: v7, seed: 43", "v7-42: {run: v7, seed: 42"),
    ],
)
def test_an_entry_that_no_longer_fits_its_run_is_named(old: str, new: str, root: Path) -> None:
    add_seeds("v7", [43], root=root)
    head, mark, entries = (root / "params.yaml").read_text("utf-8").partition("\nseeds:")
    (root / "params.yaml").write_text(head + mark + entries.replace(old, new), "utf-8")
    with pytest.raises(
        ParamsError, match=r"seeds\.models\.v7-4\d is not what `cordel seeds v7 4\d`"
    ):
        render_seeds(root=root)


def test_the_arms_start_where_the_pipeline_starts_them(project: Path) -> None:
    stages = yaml.safe_load((project / "dvc.yaml").read_text("utf-8"))["stages"]
    arms = stages["adapt_sft"]["foreach"]
    assert {arm: arms[arm]["start"] for arm in STARTS} == STARTS
    assert {arms[arm]["base"] for arm in STARTS} == {"base"}  # as adapt_sft_seeds has it


# --- costs ----------------------------------------------------------------------------------------


def test_a_further_seed_costs_what_the_default_one_did(root: Path) -> None:
    # 100 s in two attempts and 80 s of scoring at 0.04 USD an hour.
    write_ledger(root, "train_lm/v7", {"seconds": 30.0}, {"seconds": 70.0})
    write_ledger(root, "score_lm/v7", {"seconds": 80.0})
    cost = cost_of_one("v7", root=root)
    assert (cost.seconds, cost.usd) == (180.0, pytest.approx(0.04 * 180 / 3600))
    assert str(cost) == "3 min 00 s, 0.0020 USD"


def test_a_gpu_has_its_own_price_or_none(root: Path) -> None:
    gpu = {"device": "cuda", "device_name": "NVIDIA GeForce RTX 4090"}
    write_ledger(root, "adapt_sft/sft", {"seconds": 3600.0, "compute": gpu})
    write_ledger(root, "generate_answers/sft", {"seconds": 3600.0})
    cost = cost_of_one("sft", root=root)
    assert (cost.seconds, cost.usd) == (7200.0, pytest.approx(0.34))
    unknown = gpu | {"device_name": "Abaco 1"}
    write_ledger(root, "adapt_sft/sft", {"seconds": 3600.0, "compute": unknown})
    assert str(cost_of_one("sft", root=root)) == "2 h 00 min, no price"


def test_without_a_ledger_the_cost_is_unknown(root: Path) -> None:
    write_ledger(root, "train_lm/v7", {"seconds": 30.0})
    assert str(cost_of_one("v7", root=root)) == "unknown, run `cordel estimate`"
    write_ledger(root, "score_lm/v7")  # of a base that is not configured
    assert cost_of_one("v7", root=root) == Cost(None, None)


# --- spread ---------------------------------------------------------------------------------------


def test_the_spread_of_a_run_is_of_the_seeds_in_params(root: Path) -> None:
    add_seeds("v7", [43, 44], root=root)
    write_json(root / "metrics/lm/v7.json", {"bits_per_byte": 2.0})
    for seed, bits in ((43, 2.3), (44, 1.9), (45, 9.9)):  # 45 was removed from params.yaml
        write_json(root / f"metrics/seeds/lm/v7-{seed}.json", {"bits_per_byte": bits})
    [spread] = spreads("v7", root=root)
    assert spread == Spread("bits per byte", {42: 2.0, 43: 2.3, 44: 1.9})
    # Deviations from 62/30 are -2/30, 7/30 and -5/30: variance (4 + 49 + 25) / 900 / 2.
    assert spread.sd == pytest.approx((78 / 1800) ** 0.5)


def test_the_spread_of_an_arm_has_scores_and_gains(root: Path) -> None:
    add_seeds("sft", [43], root=root)
    answers = {"base": summary(qa=0.1), "sft": summary(qa=0.5), "gains": {}, "too_long": {}}
    write_json(root / "metrics/answers.json", answers)
    further = {"sft-43": summary(qa=0.7), "copy": summary(qa=0.2), "gains": {}, "too_long": {}}
    write_json(root / "metrics/seeds/answers/sft-43.json", further)
    found = {spread.name: spread.values for spread in spreads("sft", root=root)}
    assert list(found) == [
        f"qa {score}{gain}" for score in ("em", "f1", "rouge_l") for gain in ("", ", sft − base")
    ]
    assert found["qa f1"] == {42: 0.5, 43: 0.7}
    assert found["qa f1, sft − base"] == pytest.approx({42: 0.4, 43: 0.6})


def test_a_seed_that_was_not_run_is_no_value(root: Path) -> None:
    add_seeds("v7", [43], root=root)
    write_json(root / "metrics/lm/v7.json", {"bits_per_byte": 2.0})
    [spread] = spreads("v7", root=root)
    assert (spread.values, spread.sd) == ({42: 2.0}, None)


def test_the_table_shows_every_seed_and_what_the_further_ones_cost(root: Path) -> None:
    add_seeds("v7", [43, 44], root=root)
    write_json(root / "metrics/lm/v7.json", {"bits_per_byte": 2.0})
    write_json(root / "metrics/seeds/lm/v7-43.json", {"bits_per_byte": 2.2})
    write_ledger(root, "train_lm_seeds/v7-43", {"seconds": 50.0})
    write_ledger(root, "score_lm_seeds/v7-43", {"seconds": 10.0})
    assert render_seeds(root=root).splitlines() == [
        "| v7 | seed 42 | seed 43 | mean | sd | n | min to max |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| bits per byte | 2.0000 | 2.2000 | 2.1000 | 0.1414 | 2 | 2.0000 to 2.2000 |",
        "",
        "| further seed | cost |",
        "| --- | ---: |",
        "| v7-43 | 1 min 00 s, 0.0007 USD |",
        "| v7-44 | not run: `dvc repro` |",
    ]


def test_without_further_seeds_the_command_is_shown(root: Path) -> None:
    assert "`cordel seeds v7 43 44`" in render_seeds(root=root)


def test_the_page_says_which_commands_made_it(root: Path) -> None:
    add_seeds("sft", [7], root=root)
    add_seeds("v7", [43, 44], root=root)
    page = render_page(root=root)
    assert page.startswith("# Variance over training seeds\n")
    assert "`cordel seeds v7 43 44 && cordel seeds sft 7 && dvc repro` on profile `sample`" in page
    assert page.endswith(render_seeds(root=root))
