"""``cordel play``."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import NoReturn

from cordel.verbs import Verb

DESCRIPTION = """\
Ask every trained model, side by side: v1 to v7 and the arms of track 2. Without --text and --score
it serves a page on this machine, which makes no request elsewhere. Models that are not here are
named with the command that trains them.
"""
EXAMPLES = """\
examples:
  cordel play                                         the page
  cordel play --text "Era uma vez" --models v1 v7     two continuations
  cordel play --text "Qual é a capital?" --instruction --models base sft
  cordel play --score texto.txt                       bits per byte of a text under each model
  cordel play --score - < texto.txt
"""


def _add_arguments(parser: ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--text", metavar="PROMPT", help="continue this in the terminal")
    what.add_argument("--score", metavar="FILE", help="bits per byte of a text; - is the input")
    parser.add_argument(
        "--models", metavar="NAME", nargs="+", default=[], help="[all that are here]"
    )
    parser.add_argument("--instruction", action="store_true", help="--text is a request to an arm")
    parser.add_argument(
        "--temperature", metavar="X", type=float, help="0: the likeliest [params.yaml]"
    )
    parser.add_argument("--top-p", metavar="X", type=float, help="[params.yaml]")
    parser.add_argument("--seed", metavar="N", type=int, help="[that of the first standard prompt]")
    parser.add_argument("--tokens", metavar="N", type=int, help="new ones, at most [params.yaml]")
    parser.add_argument("--host", default="127.0.0.1", help="address of the page [%(default)s]")
    parser.add_argument("--port", type=int, default=8765, help="0: a free one [%(default)s]")


def _check(args: Namespace, error: Callable[[str], NoReturn]) -> None:
    if args.instruction and args.text is None:
        error("--instruction goes with --text")


def _run(args: Namespace) -> None:
    from cordel.play.verb import continue_here, score_here, serve_here  # noqa: PLC0415

    if args.text is not None:
        continue_here(
            args.text,
            args.models,
            instruction=args.instruction,
            temperature=args.temperature,
            top_p=args.top_p,
            seed=args.seed,
            tokens=args.tokens,
        )
    elif args.score is not None:
        score_here(args.score, args.models)
    else:
        serve_here(args.host, args.port)


PLAY = Verb(
    name="play",
    help="ask every trained model side by side, on a local page or in the terminal",
    description=DESCRIPTION,
    examples=EXAMPLES,
    add_arguments=_add_arguments,
    check=_check,
    run=_run,
)
