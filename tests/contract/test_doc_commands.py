"""Every command of the documents is run by a test, or says in docs/commands.md why not."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    if path.name
    not in ("CHANGELOG.md", "commands.md", "results.md")  # none is for the reader's hand
)
FENCE = re.compile(r"(?ms)^ *```(?:sh|bash)\n(.*?)^ *```$")
# What a command begins with, and the test that runs it: words that stand there in this order.
RUN_BY = {
    "make test": (".ci/run", "make test"),
    "make setup": ("Makefile", "repro: setup"),  # as a part of each other target
    "make repro JOBS=2": ("tests/smoke/test_parallel.py", "repro"),
    "make repro": (".ci/run", "dvc repro"),
    "python -m pytest": (".ci/run", "python -m pytest"),
    "python -m tests.faults.campaign": ("tests/faults/test_faults.py", "campaign("),
    "cordel --help": ("tests/cordel/test_cli.py", '"--help"'),
    "cordel profile thesis": ("tests/cordel/test_profiles.py", "thesis"),
    "cordel profile ptbr": ("tests/cordel/test_profiles.py", "ptbr"),
    "cordel profile": ("tests/clones.py", '"profile"'),
    "cordel estimate --gpu": ("tests/cordel/test_cli.py", "GPU"),
    "cordel estimate": ("tests/cordel/test_cli.py", '"estimate"'),
    "cordel compare --models": ("tests/cordel/test_comparison.py", '"compare", "--models"'),
    "cordel compare": ("tests/cordel/test_comparison.py", '"compare"'),
    "cordel add-run": ("tests/smoke/test_add_a_version.py", '"add-run"'),
    "cordel results": ("tests/contract/test_docs.py", "render_results"),
    "cordel play": ("tests/cordel/play/test_verb.py", '"cordel", "play"'),
    "cordel publish ": ("tests/cordel/test_publishing.py", "cli.main()"),
    "cordel publish-results": ("tests/cordel/test_cli.py", '"publish-results"'),
    "cordel guardrails": ("tests/cordel/test_cli.py", '"guardrails"'),
    "dvc exp run --queue": ("tests/remotes/test_experiments.py", '"--queue"'),
    "dvc exp run --temp": ("tests/remotes/test_teamwork.py", '"--temp"'),
    "dvc exp run": ("tests/smoke/test_smoke.py", '"exp", "run"'),
    "dvc exp show": ("tests/remotes/test_experiments.py", '"exp", "show"'),
    "dvc exp diff": ("tests/remotes/test_experiments.py", '"exp", "diff"'),
    "dvc exp apply": ("tests/remotes/test_experiments.py", '"exp", "apply"'),
    "dvc exp branch": ("tests/remotes/test_experiments.py", '"exp", "branch"'),
    "dvc exp push": ("tests/remotes/test_teamwork.py", '"exp", "push"'),
    "dvc exp list": ("tests/remotes/test_teamwork.py", '"exp", "list"'),
    "dvc exp pull": ("tests/remotes/test_teamwork.py", '"exp", "pull"'),
    "dvc queue start": ("tests/remotes/test_experiments.py", '"queue", "start"'),
    "dvc queue status": ("tests/remotes/test_experiments.py", '"queue", "status"'),
    "dvc metrics diff": ("tests/remotes/test_experiments.py", '"metrics", "diff"'),
    "dvc params diff": ("tests/remotes/test_experiments.py", '"params", "diff"'),
    "dvc plots diff": ("tests/remotes/test_experiments.py", '"dvc", "plots"'),
    "dvc remote add --local -d storage /mnt": ("tests/remotes/test_remotes.py", "folder_remote"),
    "dvc remote add --local -d storage s3": ("tests/remotes/test_remotes.py", "s3_remote"),
    "dvc remote modify --local storage endpointurl": (
        "tests/remotes/test_remotes.py",
        "endpointurl",
    ),
    "dvc push": ("tests/remotes/test_remotes.py", '"push"'),
    "dvc pull": ("tests/remotes/test_remotes.py", '"pull"'),
    "dvc repro --pull --allow-missing": ("tests/remotes/test_remotes.py", '"--allow-missing"'),
    "dvc repro": ("tests/smoke/test_smoke.py", '"dvc", "repro"'),
    "dvc checkout --relink": ("tests/remotes/test_teamwork.py", '"--relink"'),
    "dvc checkout": ("tests/clones.py", '"checkout"'),
    "dvc config --local cache.type": ("tests/remotes/test_teamwork.py", "cache.type"),
    "dvc cache dir": ("tests/remotes/test_teamwork.py", '"cache", "dir"'),
    "dvc gc --all-branches": ("tests/remotes/test_teamwork.py", '"--all-branches"'),
}


def commands(path: Path) -> Iterator[str]:
    """Yield each command of a document's shell blocks, without comments and line breaks."""
    for block in FENCE.findall(path.read_text("utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            text = re.sub(r"(^|\s+)#.*$", "", line)
            for command in re.split(r" && |; (?=do\b|done\b)|\bdo ", text):
                words = " ".join(command.split()).removeprefix("for order in 2 4 5")
                if words not in ("", "done"):
                    yield words


FOUND = [
    (path.relative_to(ROOT).as_posix(), words) for path in DOCUMENTS for words in commands(path)
]
ROWS = re.findall(r"(?m)^\| `([^`]+)` \| (.+) \|$", (ROOT / "docs/commands.md").read_text("utf-8"))
NOT_RUN = dict(ROWS)


def longest(words: str) -> str | None:
    """Return the most specific entry that a command begins with."""
    entries = [entry for entry in (*RUN_BY, *NOT_RUN) if f"{words} ".startswith(entry)]
    return max(entries, key=len, default=None)


def test_commands_are_found_in_many_documents() -> None:
    assert len({document for document, _ in FOUND}) >= 8
    assert len(FOUND) >= 80


@pytest.mark.parametrize(("document", "words"), FOUND)
def test_a_command_is_run_by_a_test_or_says_why_not(document: str, words: str) -> None:
    assert longest(words), f"{document}: `{words}`: run it in a test, or say why not in commands.md"


@pytest.mark.parametrize("entry", [*RUN_BY, *NOT_RUN])
def test_no_entry_is_left_over(entry: str) -> None:
    assert entry in {longest(words) for _, words in FOUND}


@pytest.mark.parametrize(("file", "words"), RUN_BY.values())
def test_the_test_has_the_command(file: str, words: str) -> None:
    assert words in (ROOT / file).read_text("utf-8")


@pytest.mark.parametrize(("command", "reason"), ROWS)
def test_a_command_that_is_not_run_has_a_reason(command: str, reason: str) -> None:
    assert len(reason) >= 10, command
