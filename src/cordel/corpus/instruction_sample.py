"""Invented instructions in the shape of Canarim: questions, summaries and rewritings.

They come from one grammar, a file for each task in ``data/sample/instructions``. An alternative of
the rules ``qa``, ``summarization`` and ``rewriting`` writes the whole example, so its reference is
correct by construction. What a file lists under ``partition``, facts and phrasings alike, is
divided between training and evaluation. ``qa.yaml`` says how the files are written.
"""

import random
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Literal, get_args

import yaml

from cordel.corpus.grammar import Expansion, GrammarError
from cordel.corpus.sample import SampleError

Task = Literal["qa", "summarization", "rewriting"]
TASKS: tuple[Task, ...] = get_args(Task)
HELD_OUT = 0.25  # share of the alternatives that only evaluation sees
DRAWS = ("", "2", "3")  # rows of a table that one example may use, all different
UNACCENTED = "~"  # an input that is the output without its accents
SECTIONS = ("partition", "tables", "rules")


@dataclass(frozen=True, slots=True)
class InstructionExample:
    """One instruction, the text that it is about and the reference answer."""

    id: str
    task: Task
    instruction: str
    input: str
    output: str


@dataclass(frozen=True, slots=True)
class _Source:
    """One side of the grammar: rules, and tables whose first row names the columns."""

    rules: Mapping[str, Sequence[str]]
    tables: Mapping[str, Sequence[str]]


def generate_instructions(
    folder: Path, *, n: int, seed: int, held_out: bool
) -> Iterator[InstructionExample]:
    """Return a generator of ``n`` examples, the three tasks in turn.

    Example ``i`` depends on ``(seed, held_out, i)`` only, so a larger set begins with the smaller
    one. No alternative of a partitioned rule or table occurs both with and without ``held_out``.

    Raises:
        SampleError: A file is missing or malformed; from the generator, an example lacks a rule
            or is not three lines.
    """
    source = _side(*_read_folder(folder), held_out=held_out)
    return (_example(folder, source, index, seed, held_out) for index in range(n))


def without_accents(text: str) -> str:
    """Return ``text`` with every accent, tilde and cedilla removed."""
    decomposed = unicodedata.normalize("NFD", text)
    return "".join(c for c in decomposed if not unicodedata.combining(c))


def _example(
    folder: Path, source: _Source, index: int, seed: int, held_out: bool
) -> InstructionExample:
    task = TASKS[index % len(TASKS)]
    rng = random.Random(f"{seed}/{held_out}/{index}")
    expansion = Expansion(source.rules, rng)
    expansion.remembered.update(_draw(source.tables, rng))
    try:
        lines = [line.strip() for line in expansion.expand(task).split("\n")]
    except GrammarError as error:
        raise SampleError(f"{folder}: {error}; mend the grammar") from error
    if len(lines) != 3 or not all(lines):
        raise SampleError(
            f"{folder}: an example of {task!r} is {lines}, expected three lines: input, "
            "instruction and output; mend the grammar"
        )
    text, instruction, output = (line[0].upper() + line[1:] for line in lines)
    name = f"{seed}-{'evaluation' if held_out else 'training'}-{index:07d}"
    text = without_accents(output) if text == UNACCENTED else text
    return InstructionExample(name, task, instruction, text, output)


def _draw(tables: Mapping[str, Sequence[str]], rng: random.Random) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each cell of the rows drawn: ``pessoa2.nome``, ``Helena``."""
    for table, (header, *rows) in tables.items():
        drawn = rng.sample(rows, min(len(DRAWS), len(rows)))
        for draw, row in zip(DRAWS, drawn, strict=False):
            for column, cell in zip(header.split("|"), row.split("|"), strict=True):
                yield f"{table}{draw}.{column}", cell


def _side(
    rules: Mapping[str, Sequence[str]],
    tables: Mapping[str, Sequence[str]],
    partitioned: set[str],
    *,
    held_out: bool,
) -> _Source:
    def keep(name: str, texts: Sequence[str]) -> Sequence[str]:
        return partition(texts)[held_out] if name in partitioned else texts

    return _Source(
        {name: keep(name, texts) for name, texts in rules.items()},
        {name: [rows[0], *keep(name, rows[1:])] for name, rows in tables.items()},
    )


def partition(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the texts for training and for evaluation, ``HELD_OUT`` of the distinct ones.

    The lowest hashes are held out, so that order does not matter and a new text moves at most one
    other. Neither side is empty, given two distinct texts.
    """
    distinct = sorted(set(texts), key=lambda text: blake2b(text.encode(), digest_size=8).digest())
    held_out = set(distinct[: max(1, round(HELD_OUT * len(distinct)))])
    return [t for t in texts if t not in held_out], [t for t in texts if t in held_out]


def _read_folder(
    folder: Path,
) -> tuple[dict[str, Sequence[str]], dict[str, Sequence[str]], set[str]]:
    """Return the rules, the tables and the partitioned names of all three files."""
    rules: dict[str, Sequence[str]] = {}
    tables: dict[str, Sequence[str]] = {}
    partitioned: set[str] = set()
    for task in TASKS:
        path = folder / f"{task}.yaml"
        own_rules, own_tables, names = _read_file(path)
        for name in (*own_rules, *own_tables):
            if name in rules or name in tables:
                raise SampleError(f"{path}: {name!r} is in another file already; rename one")
        rules |= own_rules
        tables |= own_tables
        partitioned |= names
        for name in sorted(names):
            if len({*own_rules.get(name, ()), *own_tables.get(name, ())[1:]}) < 2:
                raise SampleError(
                    f"{path}: partition names {name!r}, which is no rule or table of this file "
                    "with two different alternatives; add some or take it out"
                )
    return rules, tables, partitioned


def _read_file(path: Path) -> tuple[dict[str, list[str]], dict[str, list[str]], set[str]]:
    try:
        # BaseLoader builds texts only, so that an alternative "no" or "1.50" stays as it is.
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CBaseLoader)  # noqa: S506
    except (OSError, UnicodeDecodeError) as error:
        raise SampleError(f"{path}: cannot be read ({error}); restore it") from error
    except yaml.YAMLError as error:
        raise SampleError(f"{path}: not YAML ({' '.join(str(error).split())}); mend it") from error
    if not isinstance(content, dict) or set(content) != set(SECTIONS):
        found = sorted(content) if isinstance(content, dict) else content
        raise SampleError(f"{path}: sections {found}, expected {list(SECTIONS)}; mend it")
    names = _texts(path, "partition", content["partition"])
    tables, rules = (_lists(path, section, content[section]) for section in ("tables", "rules"))
    for name, rows in tables.items():
        _check_table(path, name, rows)
    if path.stem not in rules:
        raise SampleError(f"{path}: no rule {path.stem!r}, from which examples start; add it")
    return rules, tables, set(names)


def _lists(path: Path, section: str, content: object) -> dict[str, list[str]]:
    if not isinstance(content, dict):
        raise SampleError(
            f"{path}: section {section!r} is {content!r:.60}, expected names with lists; mend it"
        )
    return {name: _texts(path, name, texts) for name, texts in content.items()}


def _texts(path: Path, name: str, content: object) -> list[str]:
    if isinstance(content, list) and content and all(isinstance(text, str) for text in content):
        return content
    raise SampleError(
        f"{path}: {name!r} is {content!r:.60}, expected a list of quoted texts; mend it"
    )


def _check_table(path: Path, name: str, rows: Sequence[str]) -> None:
    columns = rows[0].count("|")
    if len(rows) == 1:
        raise SampleError(f"{path}: table {name!r} has only its columns {rows[0]!r}; add rows")
    for row in rows:
        if row.count("|") != columns:
            raise SampleError(
                f"{path}: table {name!r}: row {row!r} does not have the columns {rows[0]!r}; "
                "mend it"
            )
