"""A run more, or less: its block of params.yaml, and its files in the lists of dvc.yaml.

The stages of one run follow from ``models`` by themselves (``foreach``). Blocks that join all runs
list their files, since a folder would go on counting a run that is gone, and DVC has no loop for a
list of files. Both files are edited as text: comments, quotes and order stay as they are.
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from cordel.runtime.errors import InputError, ParamsError
from cordel.runtime.files import write_text
from cordel.runtime.params import PARAMS

PIPELINE = Path("dvc.yaml")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
FILES = r"(?:data/(?:models|samples)|metrics/(?:guardrails|items|lm|ledger/\w+_lm)|plots/curves)"


def add_run(name: str, like: str, *, root: Path = Path()) -> int:
    """Write a copy of the run ``like`` beside it, as ``name``; return in how many places.

    Raises:
        ParamsError: ``name`` is no plain word or taken, or there is no run ``like``.
    """
    params, pipeline = _read(root)
    if not NAME.fullmatch(name):
        raise ParamsError(f"run {name!r}: expected letters, digits, _ and -, as it names files")
    start, end = _block(params, like)
    if _named(name, [*params[slice(*_section(params))], *pipeline]):
        raise ParamsError(f"models.{name}: there is something of this name already; choose another")
    copy = [f"  {name}:  # begun as a copy of {like}\n", *params[start + 1 : end]]
    found, places = [], 0
    for line, joins in _lines(pipeline, list(_runs(params))):
        places += joins * len(_files_of(like).findall(line))
        found += _with_copies(line, like, name) if joins else [line]
    _write(root, params[:end] + copy + params[end:], found)
    return places


def remove_run(name: str, *, root: Path = Path()) -> int:
    """Take a run out of params.yaml and of every list of dvc.yaml; return of how many places.

    Raises:
        ParamsError: There is no such run.
        InputError: dvc.yaml or the section ``seeds`` names it elsewhere too, as a model that is
            exported, say: nothing is changed then.
    """
    params, pipeline = _read(root)
    start, end = _block(params, name)
    rest, left, places = params[:start] + params[end:], [], 0
    files = _files_of(name)
    for line, joins in _lines(pipeline, list(_runs(params))):
        kept = files.sub("", line) if joins else line
        if kept == line or kept.strip() not in _NOTHING:
            left.append(line if kept == line else _tidy(kept))
        places += joins * len(files.findall(line))
    for path, lines in ((PIPELINE, left), (root / PARAMS, rest)):
        if found := _named(name, lines):
            number, line = found[0]
            raise InputError(
                f"{path.name} names {name} elsewhere too (line {number}: {line.strip()!r:.70}); "
                "give that another run, or delete it, first"
            )
    _write(root, rest, left)
    return places


_NOTHING = {
    "",
    "-",
    "- : {cache: false}",
    ": val_bits_per_byte",
}  # what is left of a line of one file


def _lines(pipeline: list[str], runs: list[str]) -> Iterator[tuple[str, bool]]:
    """Yield the lines of dvc.yaml, and whether each is of a block that joins all runs."""
    starts = [i for i, line in enumerate(pipeline) if re.match(r"(?:  )?\w[\w-]*:", line)]
    for start, end in pairwise(sorted({0, *starts, len(pipeline)})):
        block = pipeline[start:end]
        joins = all(_files_of(run).search("".join(block)) for run in runs)
        yield from ((line, joins) for line in block)


def _files_of(run: str) -> re.Pattern[str]:
    """Return what matches a file of ``run``: a word of a command, or an entry of a list."""
    run = re.escape(run)
    return re.compile(
        rf"({FILES}/){run}((?:\.\w+)?)(?![\w.-])|('data/tokens/\$\{{models\.){run}(\.dataset\}}')"
    )


def _with_copies(line: str, like: str, name: str) -> list[str]:
    """Return a line of dvc.yaml, then lines with the files of ``name`` after those of ``like``."""
    files = _files_of(like)
    if not files.search(line):
        return [line]
    if re.match(r"\s*(?:- |\S+: )", line):  # of a list; of a command, a line may begin with a file
        return [line, files.sub(rf"\1\3{name}\2\4", line)]
    indent = line[: len(line) - len(line.lstrip())]
    # Of a folded command, in which the order of words counts and line breaks do not.
    broken = files.sub(rf"\g<0>\n{indent}\1\3{name}\2\4\n{indent}", line).splitlines()
    return [f"{indent}{part.strip()}\n" for part in broken if part.strip()]


def _tidy(line: str) -> str:
    """Return a line from which words are gone, without the blanks around them."""
    indent = line[: len(line) - len(line.lstrip())]
    return indent + " ".join(line.split()) + "\n"


def _named(name: str, lines: list[str]) -> list[tuple[int, str]]:
    """Return the lines, counted from 1, that name a run outside comments."""
    word = re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])")
    code = (line.split("#")[0] for line in lines)
    return [(i, line) for i, line in enumerate(code, start=1) if word.search(line)]


def _section(params: list[str]) -> tuple[int, int]:
    """Return where the section ``models`` of params.yaml begins and ends, in lines."""
    starts = [i for i, line in enumerate(params) if line.startswith("models:")]
    if not starts:
        raise ParamsError(f"{PARAMS}: no section 'models'")
    after = range(starts[0] + 1, len(params))
    end = next((i for i in after if re.match(r"[^\s#]", params[i])), len(params))
    return starts[0], end


def _runs(params: list[str]) -> dict[str, int]:
    """Return in which line each run begins."""
    first, last = _section(params)
    found = ((re.match(r"  ([\w-]+):\s*(#.*)?$", params[i]), i) for i in range(first + 1, last))
    return {match[1]: i for match, i in found if match}


def _block(params: list[str], run: str) -> tuple[int, int]:
    """Return where the block of a run begins and ends, in lines."""
    runs = _runs(params)
    if run not in runs:
        raise ParamsError(f"models.{run}: no such run; there are: {', '.join(runs)}")
    start = runs[run]
    end = min((i for i in runs.values() if i > start), default=_section(params)[1])
    inside = (i for i in range(start, end) if params[i].startswith("    "))
    return start, max(inside, default=start) + 1


def _read(root: Path) -> tuple[list[str], list[str]]:
    found = []
    for path in (root / PARAMS, root / PIPELINE):
        if not path.exists():
            raise ParamsError(f"{path}: no such file; run from the root of the project")
        found.append(path.read_text(encoding="utf-8").splitlines(keepends=True))
    return found[0], found[1]


def _write(root: Path, params: list[str], pipeline: list[str]) -> None:
    write_text(root / PARAMS, "".join(params))
    write_text(root / PIPELINE, "".join(pipeline))
