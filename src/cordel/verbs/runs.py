"""``cordel add-run`` and ``remove-run``."""

import logging
from argparse import ArgumentParser, Namespace

from cordel.verbs import Verb

log = logging.getLogger("cordel")


ADD_DESCRIPTION = """\
Copy a run's block of params.yaml, and name the copy's files in dvc.yaml wherever all runs are
joined: leaderboard, guardrails, leakage, costs, curves. Nothing is trained; comments and order
stay. docs/add-a-version.md goes on from here.
"""
ADD_EXAMPLES = """\
examples:
  cordel add-run v8 --like v7          then edit models.v8 in params.yaml, and
  cordel estimate                      what it will take
  dvc repro                            train, score, sample and judge it, rank it with the others
  cordel compare --models v7 v8        is it better, and is that more than chance?
  cordel remove-run v8
"""


def _add_like(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="of the new run, such as v8")
    parser.add_argument("--like", metavar="RUN", required=True, help="the run that is copied")


def _add(args: Namespace) -> None:
    from cordel.runs import add_run  # noqa: PLC0415

    places = add_run(args.name, args.like)
    log.info("params.yaml has models.%s now, a copy of %s to edit", args.name, args.like)
    log.info("dvc.yaml names it in %d places; next: cordel estimate, dvc repro", places)


def _add_name(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME")


def _remove(args: Namespace) -> None:
    from cordel.runs import remove_run  # noqa: PLC0415

    places = remove_run(args.name)
    log.info("%s is gone from params.yaml and from %d places of dvc.yaml", args.name, places)
    log.info("next: dvc repro; `git clean` and `dvc gc` take its files (docs/remotes.md)")


ADD_RUN = Verb(
    name="add-run",
    help="begin a further run as a copy of another; then edit its block of params.yaml",
    description=ADD_DESCRIPTION,
    examples=ADD_EXAMPLES,
    add_arguments=_add_like,
    run=_add,
)
REMOVE_RUN = Verb(
    name="remove-run",
    help="take a run out of params.yaml and dvc.yaml",
    add_arguments=_add_name,
    run=_remove,
)
