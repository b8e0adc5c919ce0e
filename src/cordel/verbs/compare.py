"""``cordel compare``."""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from cordel.verbs import Verb

DESCRIPTION = """\
Say what changed from A to B, by how much, whether it is more than chance, and what so many items
could show. A and B are branches, tags, commits or DVC experiments, or `workspace` for the files as
they are; with --models, two runs or arms of one revision. Only the scores of items that git tracks
are read (metrics/items), so a clone without any data will do.
"""
EXAMPLES = """\
examples:
  cordel compare main HEAD                      this branch against main
  cordel compare HEAD workspace                 what the last `dvc repro` changed
  cordel compare main lilac-vole                an experiment of `dvc exp run`
  cordel compare --models base sft              two arms: bits per byte, and the answers
  cordel compare --models v5_main v7 --rev main --results results/ptbr
  cordel compare main HEAD --json changes.json  the same as data
"""


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("a", metavar="A", help="a revision; with --models, a run or arm")
    parser.add_argument("b", metavar="B", help="what is compared with A")
    parser.add_argument("--models", action="store_true", help="A and B are runs or arms")
    parser.add_argument("--rev", metavar="REV", help="with --models: of which revision [workspace]")
    parser.add_argument(
        "--results", metavar="DIR", type=Path, default=Path(), help="where metrics/ is [.]"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the same as data")


def _check(args: Namespace, error: Callable[[str], NoReturn]) -> None:
    if args.rev is not None and not args.models:
        error("--rev goes with --models; without it A and B are the revisions")


def _run(args: Namespace) -> None:
    from cordel.comparison import (  # noqa: PLC0415
        WORKSPACE,
        compare,
        model_of,
        read_scores,
        render,
        write_comparison,
    )

    if args.models:
        scores = read_scores(args.rev or WORKSPACE, args.results)
        a, b = model_of(scores, args.a), model_of(scores, args.b)
    else:
        a, b = (read_scores(revision, args.results) for revision in (args.a, args.b))
    found = compare(a, b)
    sys.stdout.write(render(found) + "\n")
    if args.json is not None:
        write_comparison(args.json, found)


COMPARE = Verb(
    name="compare",
    help="say what changed between two revisions or models, and whether by chance",
    description=DESCRIPTION,
    examples=EXAMPLES,
    add_arguments=_add_arguments,
    check=_check,
    run=_run,
)
