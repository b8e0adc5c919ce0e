"""The text grammar: what each kind of slot expands to, and what it remembers."""

import random

import pytest

from cordel.corpus.grammar import Expansion, GrammarError


def expand(rules: dict[str, list[str]], seed: int = 0) -> str:
    """Return one expansion of the rule ``start``."""
    return Expansion(rules, random.Random(seed)).expand("start")


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("um {gato}", "um gato"),
        ("{^gato} pardo", "Gato pardo"),
        ("{bicho=gato} e {bicho}", "gato e gato"),
        ("{^bicho=gato}, {bicho}", "Gato, gato"),
        ("{7..7} vidas", "7 vidas"),
        ("{n=7..7} vidas, {n}", "7 vidas, 7"),
        ("{3..3*gato}", "gato gato gato"),
    ],
)
def test_a_slot_expands_to_its_text(start: str, expected: str) -> None:
    assert expand({"start": [start], "gato": ["gato"]}) == expected


@pytest.mark.parametrize("seed", range(8))
def test_a_remembered_value_stays_the_same(seed: int) -> None:
    first, second = expand({"start": ["{k=cor} {k}"], "cor": list("abcdefgh")}, seed).split()
    assert first == second


def test_a_number_takes_every_value_of_its_range() -> None:
    numbers = {expand({"start": ["{2..4}"]}, seed) for seed in range(60)}
    assert numbers == {"2", "3", "4"}


@pytest.mark.parametrize("seed", range(8))
def test_no_alternative_follows_itself(seed: int) -> None:
    # With two alternatives that leaves only the two alternating sequences.
    assert expand({"start": ["{4..4*cor}"], "cor": ["a", "b"]}, seed) in {"a b a b", "b a b a"}


def test_the_same_seed_gives_the_same_text() -> None:
    rules = {"start": ["{20..20*cor}"], "cor": list("abcdefgh")}
    assert expand(rules, 5) == expand(rules, 5)
    assert expand(rules, 5) != expand(rules, 6)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"start": ["{nada}"]}, "no rule 'nada'"),
        ({"start": []}, "no rule 'start'"),
        ({"start": ["{start}"]}, "rule 'start' recurses more than 60 deep"),
    ],
)
def test_a_bad_grammar_names_the_rule(rules: dict[str, list[str]], message: str) -> None:
    with pytest.raises(GrammarError, match=message):
        expand(rules)


@pytest.mark.parametrize(("depth", "ends"), [(60, True), (61, False)])
def test_rules_may_nest_sixty_deep(depth: int, ends: bool) -> None:
    rules = {"start": ["{r1}"], f"r{depth}": ["fim"]}
    rules |= {f"r{i}": [f"{{r{i + 1}}}"] for i in range(1, depth)}
    if ends:
        assert expand(rules) == "fim"
    else:
        with pytest.raises(GrammarError, match="60 deep"):
            expand(rules)
