"""Results as Markdown: sorted, marked, and whatever a model wrote stays inside its fence."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from cordel.reporting.portuguese import in_portuguese
from cordel.reporting.results import (
    HEADER,
    markdown_table,
    publish_results,
    render_results,
    results_table,
    samples_section,
    stage_list,
    tokenizer_table,
)
from cordel.runtime.errors import InputError
from cordel.runtime.files import read_json, write_json

ATTEMPTS = [
    {"tokens": {"processed": 1_000_000}, "cpu_seconds": 30.0},
    {"tokens": {"processed": 2_500_000}, "cpu_seconds": 60.0},
]
README = """\
# Title
<!-- results: rendered by `cordel results` -->
old
<!-- end of results -->
between
<!-- stages: rendered by `cordel results` -->
<!-- end of stages -->
after
"""
STAGES = {
    "export_corpus": {"desc": "Read 1\\1.", "cmd": "x"},
    "train_lm": {"foreach": "${models}", "do": {"desc": "Train ${key}.", "cmd": "x"}},
    "encode": {"matrix": {"item": []}, "desc": "Encode ${item.run}.", "cmd": "x"},
}


def score(bits: float, **changes: Any) -> dict[str, Any]:
    """Return metrics of a run as ``score_lm`` writes them."""
    values = {"bits_per_byte": bits, "bits_per_byte_own": bits + 0.25, "perplexity": 1234.56}
    return values | {"accuracy": 0.5, "lossless": False, "parameters": 94668} | changes


def guardrail(ratio: float | None, passes: bool | None) -> dict[str, Any]:
    """Return a report of which the thesis' part says this."""
    thesis = {"aggregate": {"short_alpha_ratio": ratio}, "passes": passes}
    return {"failing": 2, "per_sample": [{}] * 5, "passes": False, "thesis": thesis}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a project with two runs that went through the whole pipeline."""
    params = {"profile": "sample", "models": {"v1": {}, "v7": {}}, "cleaning": {"web": {}}}
    params |= {"evaluation": {"max_documents": 120}, "leakage": {"contained_share": 0.8}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), "utf-8")
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}, sort_keys=False))
    (tmp_path / "dvc.lock").write_text("lock")
    (tmp_path / "README.md").write_text(README)
    (tmp_path / "README.pt-BR.md").write_text(README.partition("between")[0])
    metrics = tmp_path / "metrics"
    write_json(metrics / "lm/v1.json", score(2.5))
    write_json(metrics / "lm/v7.json", score(1.75, lossless=True))
    lines = {"xz": {"bits_per_byte": 2.0}, "uniform": {"bits_per_byte": 8.0}}
    write_json(metrics / "lm/references.json", lines)
    for run in ("v1", "v7"):
        write_json(metrics / f"ledger/train_lm/{run}.json", ATTEMPTS)
        sample = {"seed": 101, "text": "linha um\n\nlinha  dois"}
        write_json(tmp_path / f"data/samples/{run}.json", {"samples": [sample] * 3})
    write_json(metrics / "guardrails/v1.json", guardrail(None, None))
    write_json(metrics / "guardrails/v7.json", guardrail(0.25, passes=False))
    overlaps = dict.fromkeys(("items", "exact", "near", "contained", "clean", "overlapping"), 0)
    write_json(metrics / "leakage.json", {"test": {"train": overlaps}})
    counts = {"documents": 4200, "near_duplicates": 9, "train": 3000, "val": 7, "test": 8}
    write_json(metrics / "corpus/splits.json", counts)
    write_json(metrics / "corpus/web.json", {"kept_bytes": 6_540_000})
    tokenizer = {"vocab_size": 2182, "vocab_size_asked": 3000, "bytes_per_token": 2.9}
    tokenizer |= {"tokens_per_word": 2.0, "unknown_rate": 0.0012, "unwritable": "a|`"}
    write_json(metrics / "tokenizers/unigram.json", tokenizer)
    (tmp_path / "plots").mkdir()
    return tmp_path


def rows_of(table: str) -> list[list[str]]:
    """Return the cells of a table's rows, without header and alignment."""
    return [[c.strip() for c in line.strip("|").split("|")] for line in table.splitlines()[2:]]


# --- tables ---------------------------------------------------------------------------------------


def test_a_table_has_a_header_an_alignment_and_its_rows() -> None:
    assert markdown_table(("a", "b"), [[1, "x"], [2, "y"]]) == (
        "| a | b |\n| --- | ---: |\n| 1 | x |\n| 2 | y |"
    )


def test_runs_and_reference_lines_are_sorted_best_first(root: Path) -> None:
    found = [(row[0], row[1]) for row in rows_of(results_table(root))]
    assert found == [
        ("**v7**", "1.750"),
        ("*xz -9e, no training text*", "2.000"),
        ("v1", "≥ 2.500"),
        ("*uniform over bytes*", "8.000"),
    ]


def test_a_leaderboard_adds_intervals(root: Path) -> None:
    write_json(root / "metrics/leaderboard.json", {"v1": {"low": 2.4321, "high": 2.5678}})
    found = {row[0]: row[1] for row in rows_of(results_table(root))}
    assert found["v1"] == "≥ 2.500 [2.432, 2.568]"
    assert found["**v7**"] == "1.750"


def test_a_row_has_scores_cost_and_verdict(root: Path) -> None:
    # 2.5 million tokens in the end; 30 + 60 CPU seconds in both attempts.
    assert rows_of(results_table(root))[0][2:] == [
        "2.000",
        "1,234.6",
        "0.500",
        "2.50",
        "1.5",
        "94,668",
        "2 of 5",
        "0.250 fail",
    ]


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (guardrail(None, None), "–"),
        (guardrail(0.05, passes=True), "0.050 pass"),
        (guardrail(0.0, passes=True), "0.000 pass"),
    ],
)
def test_the_verdict_is_said_or_left_open(report: dict, expected: str, root: Path) -> None:
    write_json(root / "metrics/guardrails/v1.json", report)
    assert rows_of(results_table(root))[2][-1] == expected


def test_every_row_has_as_many_cells_as_the_header(root: Path) -> None:
    assert {len(row) for row in rows_of(results_table(root))} == {len(HEADER)}


def test_characters_that_mean_something_in_markdown_stay_in_their_cell(root: Path) -> None:
    # A code span that holds a backtick needs two around it, and a table a backslash before a bar.
    line = tokenizer_table(root).splitlines()[-1]
    assert line == "| unigram | 2,182 | 3,000 | 2.90 | 2.00 | 0.12 % | `` a\\|` `` |"


def test_a_tokenizer_that_writes_everything_has_a_dash(root: Path) -> None:
    path = root / "metrics/tokenizers/unigram.json"
    values = read_json(path) | {"unwritable": ""}
    del values["vocab_size_asked"]
    write_json(path, values)
    [row] = rows_of(tokenizer_table(root))
    assert (row[2], row[-1]) == ("–", "–")


def test_stages_are_listed_with_what_they_are_for(root: Path) -> None:
    assert rows_of(stage_list(root)) == [
        ["`export_corpus`", "Read 1\\1."],
        ["`train_lm@…`", "Train …."],
        ["`encode@…`", "Encode …."],
    ]


# --- samples --------------------------------------------------------------------------------------


def sample_of(folder: Path, text: str) -> str:
    """Return how one sample is shown."""
    write_json(folder / "samples/v1.json", {"samples": [{"seed": 101, "text": text}]})
    return samples_section(folder, ["v1"])


@pytest.mark.parametrize("text", ["fim ``` # título", "`````", "a\n```\n# título\n````b"])
def test_a_model_cannot_leave_its_fence(text: str, tmp_path: Path) -> None:
    lines = sample_of(tmp_path, text).splitlines()
    fences = [n for n, line in enumerate(lines) if "```" in line]
    assert [lines[n] for n in fences] == ["```text", "```"]
    assert fences[1] - fences[0] == 2  # and one line of text between them


def test_a_sample_is_one_line_and_not_too_long(tmp_path: Path) -> None:
    assert sample_of(tmp_path, "um\n\ndois  três") == (
        "**v1**, seed 101:\n\n```text\n… um dois três\n```\n"
    )
    assert "ã" * 420 + "\n" in sample_of(tmp_path, "ã" * 500)


def test_two_samples_of_each_run_are_shown(root: Path) -> None:
    publish_results("sample", root=root)
    text = samples_section(root / "results/sample", ["v1", "v7"])
    assert (text.count("**v1**, seed 101"), text.count("**v7**, seed 101")) == (2, 2)


# --- publish and render ---------------------------------------------------------------------------


def test_publishing_keeps_metrics_samples_parameters_and_lock(root: Path) -> None:
    publish_results("sample", root=root)
    found = sorted(path.name for path in (root / "results/sample").iterdir())
    assert found == ["dvc.lock", "metrics", "params.yaml", "plots", "samples"]
    assert results_table(root / "results/sample") == results_table(root)


def test_publishing_again_keeps_the_notes_and_drops_old_runs(root: Path) -> None:
    publish_results("sample", root=root)
    folder = root / "results/sample"
    (folder / "notes.md").write_text("seen by a person")
    (folder / "metrics/lm/v0.json").write_text("{}")
    publish_results("sample", root=root)
    assert (folder / "notes.md").read_text() == "seen by a person"
    assert not (folder / "metrics/lm/v0.json").exists()


def test_another_profiles_parameters_are_not_published(root: Path) -> None:
    message = "params.yaml is profile 'sample', not 'ptbr'; run `cordel profile ptbr` first"
    with pytest.raises(InputError, match=message):
        publish_results("ptbr", root=root)
    assert not (root / "results").exists()


def test_what_was_not_run_is_not_published(root: Path) -> None:
    (root / "dvc.lock").unlink()
    (root / "plots").rmdir()
    with pytest.raises(InputError, match=r"plots, dvc\.lock: not there yet; run `dvc repro` first"):
        publish_results("sample", root=root)


def test_rendering_replaces_only_what_is_between_the_marks(root: Path) -> None:
    render_results(root=root)
    text = (root / "README.md").read_text()
    assert results_table(root) in text
    assert stage_list(root) in text
    assert "old" not in text
    assert in_portuguese(results_table(root)) in (root / "README.pt-BR.md").read_text()
    assert (text.startswith("# Title\n<!-- results"), text.endswith("-->\nafter\n")) == (True, True)


def test_rendering_again_changes_nothing(root: Path) -> None:
    publish_results("sample", root=root)
    render_results(root=root)
    files = [root / name for name in ("README.md", "README.pt-BR.md", "docs/results.md")]
    before = [file.read_bytes() for file in files]
    render_results(root=root)
    assert [file.read_bytes() for file in files] == before


def test_each_published_profile_is_a_chapter_with_its_notes(root: Path) -> None:
    publish_results("sample", root=root)
    (root / "results/sample/notes.md").write_text("What no number says.\n")
    render_results(root=root)
    text = (root / "docs/results.md").read_text()
    assert "## Profile `sample`\n\n4,200 documents, 9 of them " in text
    assert "web 6.5 MB" in text
    assert "What no number says." in text
