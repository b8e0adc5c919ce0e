"""``cordel guardrails``."""

import logging
from argparse import ArgumentParser, Namespace
from pathlib import Path

from cordel.verbs import Verb

log = logging.getLogger("cordel")


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--tokenizer", type=Path, nargs="+", required=True, metavar="FILE.model")
    parser.add_argument("--text", required=True, metavar="FOLDER_OR_GLOB")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.md")


def _run(args: Namespace) -> None:
    from cordel.guardrail_table import write_guardrail_table  # noqa: PLC0415

    write_guardrail_table(args.tokenizer, args.text, args.out)
    log.info("wrote %s", args.out)


GUARDRAILS = Verb(
    name="guardrails",
    help="calibrate guardrails on a text, and say what they tell from noise",
    add_arguments=_add_arguments,
    run=_run,
)
