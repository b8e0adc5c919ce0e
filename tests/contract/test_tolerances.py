"""How far a metric may move on another machine, and that nothing else may."""

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("compare_metrics", ROOT / ".ci/compare_metrics.py")
assert SPEC is not None
assert SPEC.loader is not None
compare_metrics = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(compare_metrics)

FILES: dict[str, Any] = {
    "metrics/tokenizers/bpe4k.json": {"vocab_size": 2000, "bytes_per_token": 3.25},
    "metrics/corpus/splits.json": {"documents": 4200, "train": 3780},
    "metrics/lm/v1.json": {
        "accuracy": 0.4,
        "bits_per_byte": 2.0,
        "bytes": 1000,
        "lossless": False,
        "nats": 1400.0,
        "perplexity": 20.0,
        "window_protocol": {"windows": 256, "nats_per_token": 2.0},
    },
    "metrics/lm/references.json": {"xz": {"bits_per_byte": 2.0}},
    "metrics/guardrails/v1.json": {
        "allowed_failures": 1,
        "decoding": {"top_k": 80},
        "failing": 3,
        "features": {"bits_per_byte": 2.0, "order_gain": 3.0, "distinct_2": 0.8, "unk_ratio": 0.1},
        "human": {"order_gain": {"low": 1.0}},
        "passes": False,
        "per_sample": [{"score": 2.0, "fails": True}],
        "thesis": {
            "aggregate": {
                "short_alpha_ratio": 0.2,
                "tokens": 377,
                "chars": 998,
                "samples_count": 5,
            },
            "passes": False,
            "violations": [{"type": "aggregate", "value": 0.2, "threshold": 0.12}],
        },
        "threshold": 2.0,
    },
    "metrics/guardrails/tokenizers/char.json": {
        "noise": {
            "early": {"auc": 1.0, "pass_share": 0.0, "passages": 40},
            "uniform": {"auc": 1.0, "passages": 300},
        },
        "threshold": 2.0,
    },
    "metrics/ledger/train_lm/v1.json": [{"seconds": 10.0}],
    "metrics/costs.json": {"total": {"hours": 0.2}},
    "metrics/lm/sft.json": {"bits_per_byte": 3.0, "bytes": 1000},
    "metrics/lm/base.json": {"bits_per_byte": 2.0},
    "metrics/adaptation.json": {"sft": {"cpt": {"loss": 4.0, "tokens": 100}}},
    "metrics/answers.json": {
        "sft": {"qa": {"f1": {"mean": 0.3, "ci": [0.2, 0.4]}, "words": {"mean": 4.0}}},
        "gains": {
            "sft-base": {
                "qa": {
                    "f1": {
                        "mean": 0.3,
                        "per_seed": {"123": 0.3},
                        "p": 0.04,
                        "p_holm": 0.2,
                        "n_items": 120,
                        "detectable": 0.1,
                    },
                    "words": {"n_items": 120},
                }
            }
        },
        "too_long": {"sft": 0},
    },
    "metrics/leaderboard.json": {
        "v1": {
            "bits_per_byte": 2.0,
            "low": 1.9,
            "high": 2.1,
            "behind": 0.3,
            "behind_low": 0.2,
            "p": 0.04,
            "p_holm": 0.2,
            "bound": True,
            "documents": 120,
        },
        "sft": {"bits_per_byte": 3.0, "low": 2.9, "behind": 1.3},
    },
    "metrics/seeds/lm/v7-43.json": {"bits_per_byte": 2.0},
    "metrics/seeds/answers/sft-43.json": {"sft-43": {"qa": {"f1": {"mean": 0.3}}}},
    "metrics/leakage.json": {
        "test": {"train": {"overlapping": 9, "scores": {"v7": {"clean": 2.0, "overlapping": 2.0}}}},
        "tasks": {
            "sft_train": {
                "mean_share": 0.5,
                "scores": {"sft": {"qa": {"clean": {"em": 0.5}, "overlapping": {"em": 0.0}}}},
            }
        },
    },
    "metrics/export/sft.json": {"merged_minus_unquantised_adapter": {"max": 1e-5}},
}


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    """Return two equal trees of metrics."""
    for file, value in FILES.items():
        path = tmp_path / "committed" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))
    items = tmp_path / "committed/metrics/items/v1.jsonl"
    items.parent.mkdir()
    items.write_text('{"id": "a", "nats": 90.0, "tokens": 30}\n{"id": "b", "nats": 9.0}\n')
    shutil.copytree(tmp_path / "committed", tmp_path / "new")
    return tmp_path / "committed", tmp_path / "new"


@pytest.fixture
def compared(
    trees: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, list[str]]]:
    """Return a function that compares the trees: exit code and the lines of differences."""

    def compared(committed: Path = trees[0], new: Path = trees[1]) -> tuple[int, list[str]]:
        monkeypatch.setattr(sys, "argv", ["compare_metrics", str(committed), str(new)])
        with pytest.raises(SystemExit) as stopped:
            compare_metrics.main()
        return int(str(stopped.value.code)), capsys.readouterr().out.splitlines()

    return compared


def changed(root: Path, file: str, *keys: str | int, value: Any) -> None:
    """Change one value of a metrics file; None removes it."""
    path = root / "metrics" / file
    content = json.loads(path.read_text())
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    if value is None:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = value
    path.write_text(json.dumps(content))


def test_equal_metrics_have_no_differences(compared: Callable) -> None:
    # 15 JSON files and the items; ledger and costs are not counted.
    assert compared() == (0, ["", "16 metrics files compared, 0 differences"])


# 3 % of 2.0 bits, 10 % of perplexity 20, 0.02 of accuracy; exact counts; 1e-4 of reference lines.
GAIN = ("gains", "sft-base", "qa")
MOVES = [
    ("tokenizers/bpe4k.json", ["vocab_size"], 2001, True),
    ("tokenizers/bpe4k.json", ["bytes_per_token"], 3.250001, True),
    ("corpus/splits.json", ["train"], 3779, True),
    ("lm/v1.json", ["bits_per_byte"], 2.05, False),
    ("lm/v1.json", ["bits_per_byte"], 2.07, True),
    ("lm/v1.json", ["bits_per_byte"], 1.95, False),
    ("lm/v1.json", ["bits_per_byte"], 1.93, True),
    ("lm/v1.json", ["perplexity"], 21.9, False),
    ("lm/v1.json", ["perplexity"], 22.5, True),
    ("lm/v1.json", ["accuracy"], 0.415, False),
    ("lm/v1.json", ["accuracy"], 0.425, True),
    ("lm/v1.json", ["nats"], 1430.0, False),
    ("lm/v1.json", ["nats"], 1450.0, True),
    ("lm/v1.json", ["bytes"], 1001, True),
    ("lm/v1.json", ["lossless"], True, True),
    ("lm/v1.json", ["window_protocol", "nats_per_token"], 2.05, False),
    ("lm/v1.json", ["window_protocol", "windows"], 255, True),
    ("lm/references.json", ["xz", "bits_per_byte"], 2.0001, False),
    ("lm/references.json", ["xz", "bits_per_byte"], 2.01, True),
    ("guardrails/v1.json", ["passes"], True, False),
    ("guardrails/v1.json", ["failing"], 0, False),
    ("guardrails/v1.json", ["per_sample"], [], False),
    ("guardrails/v1.json", ["allowed_failures"], 2, True),
    ("guardrails/v1.json", ["threshold"], 2.004, False),
    ("guardrails/v1.json", ["threshold"], 2.006, True),
    ("guardrails/v1.json", ["human", "order_gain", "low"], 1.004, False),
    ("guardrails/v1.json", ["human", "order_gain", "low"], 1.006, True),
    ("guardrails/v1.json", ["features", "order_gain"], 4.9, False),
    ("guardrails/v1.json", ["features", "order_gain"], 5.1, True),
    ("guardrails/v1.json", ["features", "bits_per_byte"], 2.9, False),
    ("guardrails/v1.json", ["features", "bits_per_byte"], 3.1, True),
    ("guardrails/v1.json", ["features", "distinct_2"], 0.9, False),
    ("guardrails/v1.json", ["features", "distinct_2"], 0.96, True),
    ("guardrails/v1.json", ["features", "unk_ratio"], 0.3, True),
    ("guardrails/v1.json", ["thesis", "passes"], True, False),
    ("guardrails/v1.json", ["thesis", "violations"], [], False),
    ("guardrails/v1.json", ["thesis", "aggregate", "tokens"], 300, False),
    ("guardrails/v1.json", ["thesis", "aggregate", "chars"], 900, False),
    ("guardrails/v1.json", ["thesis", "aggregate", "short_alpha_ratio"], 0.34, False),
    ("guardrails/v1.json", ["thesis", "aggregate", "short_alpha_ratio"], 0.36, True),
    ("guardrails/v1.json", ["thesis", "aggregate", "samples_count"], 4, True),
    ("guardrails/v1.json", ["decoding", "top_k"], 40, True),
    ("guardrails/tokenizers/char.json", ["noise", "early", "auc"], 0.96, False),
    ("guardrails/tokenizers/char.json", ["noise", "early", "auc"], 0.94, True),
    ("guardrails/tokenizers/char.json", ["noise", "early", "pass_share"], 0.4, False),
    ("guardrails/tokenizers/char.json", ["noise", "early", "passages"], 39, True),
    ("guardrails/tokenizers/char.json", ["noise", "uniform", "auc"], 0.996, False),
    ("guardrails/tokenizers/char.json", ["noise", "uniform", "auc"], 0.994, True),
    ("guardrails/tokenizers/char.json", ["noise", "uniform", "passages"], 299, True),
    ("ledger/train_lm/v1.json", [0, "seconds"], 99.0, False),
    ("costs.json", ["total", "hours"], 99.0, False),
    ("lm/sft.json", ["bits_per_byte"], 3.4, False),
    ("lm/sft.json", ["bits_per_byte"], 3.6, True),
    ("lm/sft.json", ["bytes"], 1001, True),
    ("lm/base.json", ["bits_per_byte"], 2.05, False),
    ("lm/base.json", ["bits_per_byte"], 2.07, True),
    ("adaptation.json", ["sft", "cpt", "loss"], 4.5, False),
    ("adaptation.json", ["sft", "cpt", "loss"], 4.8, True),
    ("adaptation.json", ["sft", "cpt", "tokens"], 101, True),
    ("answers.json", ["sft", "qa", "f1", "mean"], 0.5, False),
    ("answers.json", ["sft", "qa", "f1", "mean"], 0.6, True),
    ("answers.json", ["sft", "qa", "words", "mean"], 23.0, False),
    ("answers.json", ["sft", "qa", "words", "mean"], 26.0, True),
    ("answers.json", ["too_long", "sft"], 1, True),
    ("answers.json", [*GAIN, "f1", "mean"], 0.5, False),
    ("answers.json", [*GAIN, "f1", "mean"], 0.6, True),
    ("answers.json", [*GAIN, "f1", "per_seed", "123"], 0.5, False),
    ("answers.json", [*GAIN, "f1", "per_seed", "123"], 0.6, True),
    ("answers.json", [*GAIN, "f1", "p"], 1.0, False),
    ("answers.json", [*GAIN, "f1", "p_holm"], 1.0, False),
    ("answers.json", [*GAIN, "f1", "detectable"], None, False),
    ("answers.json", [*GAIN, "f1", "n_items"], 119, True),
    ("answers.json", [*GAIN, "words", "n_items"], 119, True),
    ("leaderboard.json", ["v1", "bits_per_byte"], 2.05, False),
    ("leaderboard.json", ["v1", "bits_per_byte"], 2.07, True),
    ("leaderboard.json", ["v1", "low"], 1.97, False),
    ("leaderboard.json", ["v1", "low"], 1.99, True),
    ("leaderboard.json", ["v1", "high"], 2.18, False),
    ("leaderboard.json", ["v1", "high"], 2.2, True),
    ("leaderboard.json", ["v1", "behind"], 0.44, False),
    ("leaderboard.json", ["v1", "behind"], 0.46, True),
    ("leaderboard.json", ["v1", "behind_low"], 0.34, False),
    ("leaderboard.json", ["v1", "behind_low"], 0.36, True),
    ("leaderboard.json", ["v1", "p"], 1.0, False),
    ("leaderboard.json", ["v1", "p_holm"], 1.0, False),
    ("leaderboard.json", ["v1", "bound"], False, True),
    ("leaderboard.json", ["v1", "documents"], 119, True),
    ("leaderboard.json", ["sft", "bits_per_byte"], 3.4, False),
    ("leaderboard.json", ["sft", "bits_per_byte"], 3.6, True),
    ("leaderboard.json", ["sft", "low"], 3.3, False),
    ("leaderboard.json", ["sft", "low"], 3.5, True),
    ("leaderboard.json", ["sft", "behind"], 1.8, False),
    ("leaderboard.json", ["sft", "behind"], 2.0, True),
    ("seeds/lm/v7-43.json", ["bits_per_byte"], 2.05, False),
    ("seeds/lm/v7-43.json", ["bits_per_byte"], 2.07, True),
    ("seeds/answers/sft-43.json", ["sft-43", "qa", "f1", "mean"], 0.5, False),
    ("seeds/answers/sft-43.json", ["sft-43", "qa", "f1", "mean"], 0.6, True),
    ("leakage.json", ["test", "train", "overlapping"], 10, True),
    ("leakage.json", ["test", "train", "scores", "v7", "clean"], 2.3, False),
    ("leakage.json", ["test", "train", "scores", "v7", "clean"], 2.4, True),
    ("leakage.json", ["tasks", "sft_train", "mean_share"], 0.500001, True),
    ("leakage.json", ["tasks", "sft_train", "scores", "sft", "qa", "clean", "em"], 0.7, False),
    ("leakage.json", ["tasks", "sft_train", "scores", "sft", "qa", "clean", "em"], 0.8, True),
    (
        "leakage.json",
        ["tasks", "sft_train", "scores", "sft", "qa", "overlapping", "em"],
        1.0,
        False,
    ),
    ("export/sft.json", ["merged_minus_unquantised_adapter", "max"], 5e-4, False),
    ("export/sft.json", ["merged_minus_unquantised_adapter", "max"], 5e-3, True),
]


@pytest.mark.parametrize(("file", "keys", "value", "differs"), MOVES)
def test_a_metric_may_move_so_far_and_no_further(
    file: str,
    keys: list[str],
    value: Any,
    differs: bool,
    trees: tuple[Path, Path],
    compared: Callable,
) -> None:
    changed(trees[1], file, *keys, value=value)
    code, lines = compared()
    assert code == int(differs)
    assert lines[-1].endswith(f"compared, {int(differs)} differences")


def test_a_difference_names_file_key_values_and_tolerance(
    trees: tuple[Path, Path], compared: Callable
) -> None:
    changed(trees[1], "lm/v1.json", "bits_per_byte", value=2.5)
    line = compared()[1][0]
    assert line.startswith("metrics/lm/v1.json: bits_per_byte: committed 2.0, new 2.5")
    assert "0.03 relative" in line


@pytest.mark.parametrize("side", [0, 1])
def test_a_number_that_only_one_side_has_is_a_difference(
    side: int, trees: tuple[Path, Path], compared: Callable
) -> None:
    changed(trees[side], "lm/v1.json", "bits_per_byte", value=None)
    code, lines = compared()
    assert (code, "absent" in lines[0]) == (1, True)


@pytest.mark.parametrize("side", [0, 1])
def test_a_missing_file_is_a_difference(
    side: int, trees: tuple[Path, Path], compared: Callable
) -> None:
    (trees[side] / "metrics/lm/v1.json").unlink()
    code, lines = compared()
    assert (code, lines[0]) == (1, f"metrics/lm/v1.json: missing in {trees[side]}")


@pytest.mark.parametrize(("nats", "code"), [(100.0, 0), (110.0, 1)])
def test_the_score_of_one_document_may_move_more(
    nats: float, code: int, trees: tuple[Path, Path], compared: Callable
) -> None:
    # 15 % of the larger: 15 of 100, 16.5 of 110 where 20 are between them.
    path = trees[1] / "metrics/items/v1.jsonl"
    path.write_text(path.read_text().replace("90.0", str(nats)))
    assert compared()[0] == code


def test_a_document_that_is_gone_is_a_difference(
    trees: tuple[Path, Path], compared: Callable
) -> None:
    path = trees[1] / "metrics/items/v1.jsonl"
    path.write_text(path.read_text().splitlines()[0])
    code, lines = compared()
    assert (code, "1.id: committed b, new absent" in lines[0]) == (1, True)


def test_no_files_at_all_fail(tmp_path: Path, compared: Callable) -> None:
    (tmp_path / "empty/metrics").mkdir(parents=True)
    empty = tmp_path / "empty"
    assert compared(empty, empty) == (1, ["", "0 metrics files compared, 0 differences"])


def test_the_committed_metrics_are_all_compared() -> None:
    # Every file of the repository's own metrics can be read, and equals itself.
    files = [p for p in (ROOT / "metrics").rglob("*.json*") if "ledger" not in p.parts]
    assert len(files) >= 40
    for file in files:
        value = compare_metrics.read(file)
        name = file.relative_to(ROOT).as_posix()
        assert compare_metrics.differences(name, value, value) == []
