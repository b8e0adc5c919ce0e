"""What the bench says of its figures: medians, ties, crossings, ratios; and that it is whole."""

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from benchmarks.line import Trigrams, best_share, mixed, token_nats
from benchmarks.measure import Seconds, compared, interleave, rates, spread, summary
from benchmarks.quality import crossing, merged, ratios
from benchmarks.study import PLAN, foretold, overtakes
from benchmarks.tables import TABLES, crossing_in_words, render
from cordel.compute import ComputeParams, decide, seed_everything
from cordel.evaluation.scoring import score_documents
from cordel.models import build_model, parse_architecture
from cordel.tokens import Encoded

ROOT = Path(__file__).resolve().parent.parent.parent
CURVE = [(10.0, 3.0), (20.0, 2.0), (40.0, 1.0)]


def test_rounds_are_interleaved_and_each_begins_with_another() -> None:
    done: list[str] = []
    found = interleave({n: lambda n=n: done.append(n) for n in "abc"}, rounds=3, warm_up=1)
    assert "".join(done) == "cababcbcacab"
    assert {n: len(took) for n, took in found.items()} == {"a": 3, "b": 3, "c": 3}


def test_a_unit_that_measures_itself_is_taken_at_its_word() -> None:
    [took] = interleave({"a": lambda: Seconds(cpu=2.0, wall=4.0)}, rounds=1)["a"]
    assert rates([took], 8)["per_cpu_second"]["median"] == 4
    assert rates([took], 8)["per_second"]["median"] == 2


def test_a_summary_has_the_median_and_the_range() -> None:
    assert spread(summary([5.0, 1.0, 3.0]), ".1f") == "3.0 (1.0–5.0)"


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        ([11.0, 12.0, 13.0], [9.0, 11.0, 12.0], "1.09 (tie)"),
        ([12.0, 12.0, 12.0], [11.0, 11.0, 11.0], "1.09"),  # little, but the ranges are apart
        ([20.0, 30.0, 40.0], [10.0, 15.0, 35.0], "2.00"),
        ([10.0, 10.5, 12.0], [10.5, 12.0, 13.0], "0.88 (tie)"),
    ],
)
def test_what_is_within_noise_is_called_a_tie(
    ours: list[float], theirs: list[float], said: str
) -> None:
    assert compared(summary(ours), summary(theirs)) == said


@pytest.mark.parametrize(
    ("bits", "second"), [(3.5, 10.0), (3.0, 10.0), (2.5, 15.0), (1.25, 35.0), (0.5, None)]
)
def test_a_curve_crosses_between_two_evaluations(bits: float, second: float | None) -> None:
    assert crossing(CURVE, bits) == second


def test_times_faster_is_to_the_other_ones_best() -> None:
    # The best of theirs is at 100 s; ours has 2.5 after 15.
    theirs = [(50.0, 2.6), (100.0, 2.5), (200.0, 2.7)]
    found = ratios([theirs, theirs], [CURVE, [(5.0, 2.5)]])
    assert found["pairs"][0] == {"bits": 2.5, "theirs": 100.0, "ours": 15.0}
    assert found["times_faster"]["min"] == pytest.approx(100 / 15, rel=1e-5)
    assert found["times_faster"]["max"] == 20


def test_there_is_no_ratio_where_one_seed_never_came_so_far() -> None:
    assert ratios([[(9.0, 0.5)]], [CURVE])["times_faster"] is None


def test_an_overlay_changes_what_it_names_only() -> None:
    values = {"a": 1, "b": {"c": 2, "d": 3}}
    assert merged(values, {"b": {"d": 4}}) == {"a": 1, "b": {"c": 2, "d": 4}}


def test_the_last_size_is_foretold_from_the_others() -> None:
    seconds = [40, 80, 160, 320, 640]
    sizes = [{"cpu_seconds": s, "val_bits_per_byte": 1.2 + 3 * s**-0.4} for s in seconds]
    sizes[-1] = {"cpu_seconds": 640, "val_bits_per_byte": 9.9}  # not looked at
    found = foretold(sizes)
    assert found["foretold"] == pytest.approx(1.2 + 3 * 640**-0.4, abs=2e-3)
    assert found["floor"] == pytest.approx(1.2, abs=0.02)
    assert found["largest_error"] < 1e-3


POINTS = [(s, 1.2 + 3 * s**-0.4) for s in (50.0, 100.0, 200.0, 400.0)]


def test_v7_overtakes_within_its_runs_or_by_the_law_over_them() -> None:
    assert overtakes(POINTS, POINTS[2][1]) == {"measured": 200}
    later = overtakes(POINTS, 1.2 + 3 * 2000**-0.4)
    assert later["law"] == pytest.approx(2000, rel=0.1)
    assert later["law_without_floor"] < later["law"]
    assert overtakes(POINTS, 1.0)["law"] is None  # below the floor


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({"measured": 1200}, "after 1,200 CPU s (measured)"),
        ({"law": 9000.0, "law_without_floor": 4000.0}, "between 4,000 CPU s and 9,000 CPU s"),
        ({"law": 2.4e6, "law_without_floor": 4000.0}, "not before 4,000 CPU s"),
        ({"law": None, "law_without_floor": None}, "not before any time"),
    ],
)
def test_what_is_extrapolated_is_marked_so(where: dict[str, float | None], said: str) -> None:
    found = crossing_in_words(where)
    assert found.startswith(said)
    assert ("extrapolated" in found) != ("measured" in found)


def test_a_mixture_is_between_its_parts_or_better_than_both() -> None:
    ours, theirs = np.array([0.1, 3.0, 1.0]), np.array([3.0, 0.1, 1.0])
    assert mixed(ours, theirs, 1.0) == pytest.approx(ours)
    assert mixed(ours, theirs, 0.0) == pytest.approx(theirs)
    assert mixed(ours, theirs, 0.5).sum() < min(ours.sum(), theirs.sum())
    assert best_share(ours, theirs) == 0.5
    assert best_share(ours, ours + 1) == 1.0


def test_trigrams_tell_every_token_what_their_sum_says() -> None:
    documents = [np.array([3, 4, 5, 3, 4, 1]), np.array([4, 5, 3, 1])]
    model = Trigrams(3, 8, begin=0)
    model.fit(documents)
    assert model.token_nats(documents[0]).sum() == pytest.approx(model.nats(documents[0]))


def test_every_token_of_a_text_is_scored_once_as_score_lm_does() -> None:
    params = {"d_model": 8, "n_layer": 1, "n_head": 2, "d_ff": 8, "tied": False}
    params |= {"rope_theta": 1e4, "norm_epsilon": 1e-5, "init_sd": 0.5}
    seed_everything(0)
    model = build_model(
        "llama", parse_architecture("llama", params, "test"), vocab_size=9, context_length=4
    )
    documents = [np.array([0, 3, 4, 5, 6, 7, 8, 2, 3, 1]), np.array([0, 3, 1])]
    run = SimpleNamespace(tokenizer=SimpleNamespace(begin=[0]))
    found = token_nats(model, run, SimpleNamespace(documents=documents))  # pyright: ignore
    assert len(found) == sum(len(ids) - 1 for ids in documents)
    wanted = score_documents(
        model.eval(),
        [Encoded(id="", ids=ids.tolist(), bytes=1, unknown_bytes=0) for ids in documents],
        context=[0],
        begin=[0],
        batch_size=2,
        compute=decide(ComputeParams(device="cpu", threads=1, compile=False)),
    )
    assert found.sum() == pytest.approx(sum(each.nats for each in wanted), rel=1e-6)


def test_the_study_changes_what_params_yaml_has() -> None:
    plan = yaml.safe_load(PLAN.read_text(encoding="utf-8"))
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    every = [plan["base"], *plan["variants"].values(), *plan["chosen"].values()]
    every += [size["changes"] for size in plan["sizes"].values()]
    for key in {key for changes in every for key in changes}:
        value = params
        for part in key.split("."):
            assert part in value, key
            value = value[part]


def test_every_section_has_a_module_and_a_place_in_the_document() -> None:
    document = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    for name in TABLES:
        assert find_spec(f"benchmarks.{name}"), name
        assert f"<!-- {name}: rendered by `make bench` -->" in document, name


def test_the_document_says_what_the_results_say(tmp_path: Path) -> None:
    copy = tmp_path / "performance.md"
    document = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    # Without what was rendered, so that it is rendered anew.
    marks = r"(?s)(rendered by `make bench` -->\n).*?(<!-- end of)"
    empty = re.sub(marks, r"\1\2", document)
    assert len(empty) < len(document)
    copy.write_text(empty, encoding="utf-8")
    render(ROOT / "benchmarks/results", copy)
    assert copy.read_text(encoding="utf-8") == document


def test_every_result_says_where_it_was_measured() -> None:
    results = sorted((ROOT / "benchmarks/results").glob("*.json"))
    assert results
    for path in results:
        where = json.loads(path.read_text(encoding="utf-8"))["environment"]
        assert {"date", "cpu", "cores", "load", "load_after", "python", "versions"} <= set(where)


def test_an_unknown_section_is_refused_in_one_line() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "benchmarks", "speed"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert found.returncode == 2
    assert "unknown section 'speed'; there are steps" in found.stderr
    assert "Traceback" not in found.stderr
