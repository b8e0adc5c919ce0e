"""``cordel seeds``."""

import logging
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from cordel.verbs import Verb

log = logging.getLogger("cordel")


DESCRIPTION = """\
Add further seeds of a run or an SFT arm. First says what each will cost, by the ledgers of the
default seed; then writes them into the section seeds of params.yaml, from which `dvc repro` trains
them and nothing else. Without arguments: what the seeds that are there show, as Markdown.
"""
EXAMPLES = """\
examples:
  cordel seeds v7 43 44 && dvc repro     two further seeds of v7
  cordel seeds sft 43 44 && dvc repro    two of the arm sft
  cordel seeds                           each seed's figures, mean, standard deviation, extremes
  cordel seeds --out docs/seeds.md       the same into a file
  cordel seeds --remove v7-43
"""


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="a run of models, or sft or cpt_sft")
    parser.add_argument("seed", nargs="*", type=int)
    parser.add_argument("--remove", metavar="KEY", nargs="+", help="entries, such as v7-43")
    parser.add_argument("--out", metavar="FILE", type=Path, help="write the table here")


def _check(args: Namespace, error: Callable[[str], NoReturn]) -> None:
    if sum(map(bool, (args.name, args.remove, args.out))) > 1:
        error("a name with its seeds, --remove and --out do not go together")
    if args.name and not args.seed:
        error(f"which seeds? such as: cordel seeds {args.name} 43 44")


def _run(args: Namespace) -> None:
    from cordel.runtime.files import write_text  # noqa: PLC0415
    from cordel.seeds import (  # noqa: PLC0415
        add_seeds,
        cost_of_one,
        remove_seeds,
        render_page,
        render_seeds,
    )

    if args.remove:
        remove_seeds(args.remove)
        log.info("removed from params.yaml; `git clean` takes their files, and their objects:")
        log.info("dvc gc --all-branches --all-tags --all-experiments")  # not -w: docs/remotes.md
    elif args.name:
        each = cost_of_one(args.name)
        log.info("each further seed of %s: %s (as its default seed took)", args.name, each)
        keys = add_seeds(args.name, args.seed)
        log.info("params.yaml has %s now; next: dvc repro, then cordel seeds", ", ".join(keys))
    elif args.out:
        write_text(args.out, render_page())
        log.info("wrote %s", args.out)
    else:
        sys.stdout.write(render_seeds())


SEEDS = Verb(
    name="seeds",
    help="train a run or arm with further seeds, and show their spread",
    description=DESCRIPTION,
    examples=EXAMPLES,
    add_arguments=_add_arguments,
    check=_check,
    run=_run,
)
