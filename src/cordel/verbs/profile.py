"""``cordel profile``."""

import logging
from argparse import ArgumentParser, Namespace

from cordel.verbs import Verb

log = logging.getLogger("cordel")


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "name", help="smoke | ptbr | thesis; back to the sample: git checkout main -- params.yaml"
    )


def _run(args: Namespace) -> None:
    from cordel.profiles import apply_profile  # noqa: PLC0415  (each verb loads its own)

    changed = apply_profile(args.name)
    log.info("params.yaml is now profile %s: %d keys changed", args.name, len(changed))
    log.info("see them with `git diff params.yaml`, run it with `dvc repro`")


PROFILE = Verb(
    name="profile",
    help="merge an overlay of profiles/ into params.yaml",
    add_arguments=_add_arguments,
    run=_run,
)
