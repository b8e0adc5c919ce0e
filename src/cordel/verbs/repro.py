"""``cordel repro``."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import NoReturn

from cordel.verbs import Verb

DESCRIPTION = """\
Do what `dvc repro` does, with independent stages at once: only what is stale or follows from it,
the longest way to the end first, each stage by a DVC of its own, with its output in logs/. A plain
`dvc repro` ends it. Ctrl-C lets the stages that run save their checkpoints; the same command goes
on from there. Each stage takes compute.threads threads and its own memory.
"""
EXAMPLES = """\
examples:
  cordel repro --jobs 2                 two stages at once; `make repro JOBS=2` is the same
  cordel repro --jobs 2 train_lm        the runs from scratch and what they need
  cordel repro --gpus 0,1               one stage on each of two GPUs
  cordel repro --gpus 0,1 --jobs 4      two on each
"""


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("targets", nargs="*", help="stages, as for dvc repro [all]")
    parser.add_argument("--jobs", metavar="N", type=int, help="stages at once [2, or one a GPU]")
    parser.add_argument("--gpus", metavar="0,1", default="", help="GPUs by nvidia-smi's numbers")
    parser.add_argument(
        "--keep-going", action="store_true", help="after a failure, run what does not depend on it"
    )


def _check(args: Namespace, error: Callable[[str], NoReturn]) -> None:
    if args.jobs is not None and args.jobs < 1:
        error(f"--jobs is {args.jobs}, expected at least 1")


def _run(args: Namespace) -> None:
    from cordel.parallel import repro  # noqa: PLC0415

    gpus = [gpu for gpu in args.gpus.split(",") if gpu]
    jobs = args.jobs or len(gpus) or 2
    repro(args.targets, jobs=jobs, gpus=gpus, keep_going=args.keep_going)


REPRO = Verb(
    name="repro",
    help="`dvc repro` with independent stages at once, on one or more GPUs",
    description=DESCRIPTION,
    examples=EXAMPLES,
    add_arguments=_add_arguments,
    check=_check,
    run=_run,
)
