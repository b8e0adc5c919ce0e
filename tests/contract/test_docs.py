"""What the documents say is what is there."""

import re
from pathlib import Path

import pytest

from cordel.reporting.results import render_results

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    "README.md",
    "README.pt-BR.md",
    "CONTRIBUTING.md",
    *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
]
# Made by a run and not in the repository; everything else that looks like a path must be there.
MADE = re.compile(
    r"^(data/(?!sample)|logs/|reports/|\.git/|\.dvc/(?:offline\.html|config\.local)|\.venv|\.ckpt|\.\./shared"
    r"|(?:meta|tokenizer)\.json|campaign\.md|(?:src/cordel/)?models/(?:NAME|conv)\.py|meta-llama/"
    r"|.*[*{<…$ ])"
)
LOOKS_LIKE_A_PATH = re.compile(
    r"^[\w./-]+(\.(py|md|yaml|toml|lock|json|txt)|/)$|^[\w.-]+/[\w./-]+$"
)


@pytest.fixture
def rendered(tmp_path: Path) -> Path:
    """Return a folder in which `cordel results` has rendered the repository's documents."""
    for name in ("metrics", "results", "params.yaml", "dvc.yaml"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("README.md", "README.pt-BR.md"):
        (tmp_path / name).write_text((ROOT / name).read_text("utf-8"), "utf-8")
    render_results(root=tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["README.md", "README.pt-BR.md", "docs/results.md"])
def test_tables_are_what_would_be_rendered_now(name: str, rendered: Path) -> None:
    committed = ROOT / name
    assert committed.exists(), f"{name} is missing; run `cordel results`"
    texts = [(root / name).read_text("utf-8") for root in (ROOT, rendered)]
    same = len({without_cpu_minutes(text) for text in texts}) == 1
    assert same, f"{name} is not what `cordel results` renders now; run it"


def without_cpu_minutes(text: str) -> str:
    """Return the text without the CPU minutes of the runs: a rerun changes those, and no more."""
    return re.sub(r"(?m)^(\| (?:[^|]+\|){6}) \d+[.,]\d \|", r"\1 |", text)


def test_the_readme_has_the_marks_of_both_tables(rendered: Path) -> None:
    text = (rendered / "README.md").read_text("utf-8")
    assert text.count("rendered by `cordel results`") == 3
    # 12 runs, 4 arms and 5 reference lines; the arms and their gains.
    assert len(re.findall(r"(?m)^\| (\*\*|\*|v)", text)) == 12 + 5
    assert len(re.findall(r"(?m)^\| (base|cpt|sft|cpt_sft) \(track 2\) \|", text)) == 4
    assert len(re.findall(r"(?m)^\| (base|cpt|sft|cpt_sft) \|", text)) == 4
    assert "| sft − base | +" in text
    assert len(re.findall(r"(?m)^\| `\w+(@…)?` \|", text)) == len(stage_names())


def stage_names() -> list[str]:
    """Return the stages of dvc.yaml: keys two spaces in."""
    text = (ROOT / "dvc.yaml").read_text("utf-8").partition("stages:")[2].partition("\nplots:")[0]
    return re.findall(r"(?m)^  (\w+):", text)


def paths_in(document: str) -> list[str]:
    """Return what looks like a path of the repository, in backticks or as the target of a link."""
    text = (ROOT / document).read_text("utf-8")
    text = re.sub(r"(?s)^```.*?^```", "", text, flags=re.MULTILINE)
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    codes = [code for code in re.findall(r"`([^`\n]+)`", text) if LOOKS_LIKE_A_PATH.match(code)]
    return [path for path in [*codes, *links] if not MADE.match(path)]


def is_there(path: str, beside: Path) -> bool:
    """Look at the root, beside the document, and where modules are named without their folder."""
    places = (ROOT, beside, ROOT / "src/cordel", ROOT / "src/cordel/evaluation")
    return any((place / path).exists() for place in places)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_that_a_document_names_is_there(document: str) -> None:
    paths = paths_in(document)
    missing = [path for path in paths if not is_there(path, (ROOT / document).parent)]
    assert missing == []


def test_paths_are_found_in_documents() -> None:
    assert sum(len(paths_in(document)) for document in DOCUMENTS) >= 100


def test_the_changelog_tells_what_is_not_released() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert text.startswith("# Changelog\n")
    assert re.search(r"(?m)^## Unreleased\n\n- ", text)
