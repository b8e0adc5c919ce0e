"""Expand a small text grammar: the generator behind most of the embedded sample.

A grammar is a mapping from rule names to lists of alternatives, written as YAML in
``data/sample/grammar/``. Inside an alternative, braces expand:

===================  ==========================================================================
``{rule}``           one alternative of the rule, drawn uniformly
``{^rule}``          the same with its first letter in upper case
``{key=rule}``       expand the rule, print it and remember it: ``{key}`` repeats it later
``{lo..hi}``         a whole number between the two, both included
``{lo..hi*rule}``    between lo and hi expansions joined by a space, no alternative twice in a row
===================  ==========================================================================

Remembered values are what keeps a generated document consistent (the same mayor, the same price),
so that a model has facts to learn within a document.
"""

import random
import re
from collections.abc import Mapping, Sequence

from cordel.runtime.errors import InputError

SLOT = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"(\d+)\.\.(\d+)(?:\*(.+))?")
MAX_DEPTH = 60  # a grammar that recurses deeper than this does not end

Grammar = Mapping[str, Sequence[str]]


class GrammarError(InputError):
    """A rule that does not exist, is empty, or never ends."""


class Expansion:
    """One document's expansion: a random generator plus the values it remembers."""

    def __init__(self, grammar: Grammar, rng: random.Random) -> None:
        """Start with nothing remembered."""
        self.grammar = grammar
        self.rng = rng
        self.remembered: dict[str, str] = {}
        self._last: dict[str, str] = {}  # the alternative a rule used last

    def expand(self, rule: str, depth: int = 0) -> str:
        """Return one expansion of ``rule``, or its remembered value.

        Raises:
            GrammarError: The rule is unknown or empty, or the recursion does not end.
        """
        if rule in self.remembered:
            return self.remembered[rule]
        if depth > MAX_DEPTH:
            raise GrammarError(f"rule {rule!r} recurses more than {MAX_DEPTH} deep")
        alternatives = self.grammar.get(rule)
        if not alternatives:
            raise GrammarError(f"no rule {rule!r} in the grammar")
        choice = self.rng.choice(alternatives)
        if choice == self._last.get(rule) and len(alternatives) > 1:
            choice = self.rng.choice([a for a in alternatives if a != choice] or alternatives)
        self._last[rule] = choice
        return SLOT.sub(lambda match: self._slot(match[1], depth + 1), choice)

    def _slot(self, slot: str, depth: int) -> str:
        if match := RANGE.fullmatch(slot):
            number = self.rng.randint(int(match[1]), int(match[2]))
            if match[3] is None:
                return str(number)
            return " ".join(self._slot(match[3], depth) for _ in range(number))
        if slot.startswith("^"):
            text = self._slot(slot[1:], depth)
            return text[:1].upper() + text[1:]
        if "=" in slot:
            key, rule = slot.split("=", 1)
            self.remembered[key] = self._slot(rule, depth)
            return self.remembered[key]
        return self.expand(slot, depth)
