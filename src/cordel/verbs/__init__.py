"""The verbs of ``cordel``: what each says of itself, its arguments, and what it calls.

A verb loads what it needs when it is called, so that ``cordel --help`` stays quick.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn


def _nothing(*_: object) -> None:
    """Add no arguments; find no fault with them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """One verb: what ``--help`` says, what it takes, what it does."""

    name: str
    help: str
    run: Callable[[Namespace], None]
    description: str = ""
    examples: str = ""
    add_arguments: Callable[[ArgumentParser], None] = _nothing
    check: Callable[[Namespace, Callable[[str], NoReturn]], None] = _nothing  # of the command line
