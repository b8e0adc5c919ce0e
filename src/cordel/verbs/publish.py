"""``cordel publish``."""

import logging
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import NoReturn

from cordel.runtime.errors import InputError
from cordel.verbs import Verb

log = logging.getLogger("cordel")


DESCRIPTION = """\
Push an exported model, an adapter or a clean corpus to the Hugging Face hub, with its card from
data/cards. Without --yes nothing is sent: files, sizes, the card's front matter and the licences of
the inputs are shown. Stale outs are refused, and so are weights of a gated base in a public
repository. The token is your own (`hf auth login`, or HF_TOKEN). To keep a run's metrics in this
repository, see `cordel publish-results`.
"""
EXAMPLES = """\
examples:
  cordel publish v7                                    what would be sent
  cordel publish v7 --to OWNER/v7 --yes                send it
  cordel publish sft --base OWNER/v7 --to OWNER/sft    an adapter, and where its base is
  cordel publish lossless --to OWNER/corpus --private  a clean corpus
"""


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", help="a card's: v7, sft, sft_merged, lossless, …")
    parser.add_argument("--to", metavar="OWNER/REPO", help="the repository of the hub")
    parser.add_argument("--base", metavar="OWNER/REPO", help="where an adapter's own base is")
    parser.add_argument("--private", action="store_true", help="if it is created, for you alone")
    parser.add_argument("--yes", action="store_true", help="send it [only show what would be]")


def _check(args: Namespace, error: Callable[[str], NoReturn]) -> None:
    if args.yes and args.to is None:
        error("--yes wants to know where: --to OWNER/REPO")


def _run(args: Namespace) -> None:
    from cordel.publishing import (  # noqa: PLC0415
        check_repository,
        describe,
        publish,
        read_publication,
        refusal,
    )

    to = None if args.to is None else check_repository(args.to)
    found = read_publication(args.name, base=args.base)
    sys.stdout.write(describe(found, to=to, private=args.private) + "\n")
    sys.stdout.flush()
    if to is not None and args.yes:
        log.info("published: %s", publish(found, to=to, private=args.private))
        return
    if why := refusal(found, private=args.private):
        raise InputError(why)
    log.info("nothing was sent; it is with --to OWNER/REPO --yes, by your own token of the hub")


PUBLISH = Verb(
    name="publish",
    help="push a model, adapter or corpus with its card to the Hugging Face hub",
    description=DESCRIPTION,
    examples=EXAMPLES,
    add_arguments=_add_arguments,
    check=_check,
    run=_run,
)
