"""Which line or document each rule drops, one tiny text a rule, and the published recipes."""

import re
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cordel.corpus.cleaning import CleaningParams, clean_text
from cordel.corpus.normalisation import Normalisation
from cordel.runtime.params import read_params

GOOD = "Uma linha boa."
PARAMS = CleaningParams(
    normalisation=Normalisation(
        filter_characters=False,
        end_marker="newline",
        soft_hyphen="space",
        collapse_digits=False,
        lowercase=False,
    ),
    min_line_chars=5,
    min_letter_share=0.5,
    drop_uppercase=True,
    drop_broken=True,
    min_document_chars=10,
)
LOOSE = replace(
    PARAMS, min_line_chars=0, min_letter_share=0.0, drop_uppercase=False, min_document_chars=0
)


def clean(text: str, params: CleaningParams = PARAMS) -> tuple[str | None, dict[str, int]]:
    """Return the cleaned text and how often each rule dropped something."""
    dropped: Counter[str] = Counter()
    return clean_text(text, params, dropped), dict(dropped)


read_once = cache(read_params)  # parsing takes longer than most of these tests


def published(project: Path, recipe: str, **changes: Any) -> CleaningParams:
    """Return a recipe of params.yaml."""
    path = project / "params.yaml"
    return replace(read_once(f"cleaning.{recipe}", CleaningParams, path=path), **changes)


# --- Reasons ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("", "line_empty"),
        ("         ", "line_empty"),
        ("Olá!", "line_too_short"),  # 4 of 5
        ("Fone: 3333-4444", "line_few_letters"),  # 4 of 15
        ("DA REDAÇÃO, EM BELÉM", "line_uppercase"),
        ("Uma a\ufffd\ufffdo quebrada", "line_broken"),
    ],
)
def test_a_line_is_dropped_for_exactly_one_reason(line: str, reason: str) -> None:
    assert clean(f"{GOOD}\n{line}\n{GOOD}") == (f"{GOOD}\n{GOOD}", {reason: 1})


@pytest.mark.parametrize("text", ["Curtinho.", "", "\n\n"])
def test_a_document_is_dropped_if_it_is_too_short(text: str) -> None:
    cleaned, dropped = clean(text)
    assert cleaned is None
    assert dropped["document_too_short"] == 1


def test_a_document_is_measured_after_cleaning() -> None:
    text = "Curtinho.\n" + 100 * "1"
    assert clean(text) == (None, {"line_few_letters": 1, "document_too_short": 1})


def test_a_document_of_which_nothing_is_left_is_dropped_whatever_the_limit() -> None:
    assert clean("1234\n5678", replace(PARAMS, min_document_chars=0))[0] is None


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Cinco", True),  # 5 letters of at least 5
        ("Seis", False),
        ("ab 123", False),  # 2 letters of 6 characters
        ("abc123", True),  # 3 of 6, at least a half
        ("a b c ", True),  # 3 of 6: the spaces count below the line
        ("a b c  ", False),  # 3 of 7
        ("A" * 79, False),
        ("A" * 80, True),  # at 80 characters an upper-case line counts as text
        ("ABC DE 12", False),  # figures have no case
        ("ABC De 12", True),
        ("Linha\tcom tabulação", True),
    ],
)
def test_a_limit_itself_is_kept(text: str, kept: bool) -> None:
    assert (clean(text, replace(PARAMS, min_document_chars=0))[0] == text) is kept


@pytest.mark.parametrize(("limit", "kept"), [(29, True), (30, False)])
def test_the_newlines_of_a_document_count(limit: int, kept: bool) -> None:
    # Two lines of 14 characters and the newline between them: 29.
    text = f"{GOOD}\n{GOOD}"
    assert (clean(text, replace(PARAMS, min_document_chars=limit))[0] == text) is kept


@pytest.mark.parametrize(
    "character",
    ["\ufffd", "\u2581", "\u0000", "\u0007", "\u000b", "\r", "\u001b", "\u007f", "\u0085", "\u009f",
     "\u00ad", "\u200b", "\u2028", "\u2029", "\ufeff"],
)  # fmt: skip
def test_a_broken_or_invisible_character_drops_its_line(character: str) -> None:
    text = f"Uma linha{character}boa"
    assert clean(text, LOOSE) == (None, {"line_broken": 1, "document_too_short": 1})
    assert clean(text, replace(LOOSE, drop_broken=False)) == (text, {})


@pytest.mark.parametrize("rule", ["min_letter_share", "drop_uppercase", "drop_broken"])
def test_a_rule_that_is_off_drops_nothing(rule: str) -> None:
    lines = {
        "min_letter_share": "3333-4444 / 5555",
        "drop_uppercase": "DA REDAÇÃO, EM BELÉM",
        "drop_broken": "Uma a\ufffd\ufffdo quebrada",
    }
    off = replace(PARAMS, **{rule: type(getattr(PARAMS, rule))(0)})
    assert clean(lines[rule])[0] is None
    assert clean(lines[rule], off) == (lines[rule], {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_line_chars": -1}, "min_line_chars is -1, expected at least 0"),
        ({"min_document_chars": -1}, "min_document_chars is -1, expected at least 0"),
        ({"min_letter_share": 1.5}, "min_letter_share is 1.5, expected 0 <= x <= 1"),
    ],
)
def test_a_parameter_out_of_range_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        replace(PARAMS, **changes)


# --- Lossless --------------------------------------------------------------------------------

CHARACTERS = st.one_of(
    st.characters(codec="utf-8"), st.sampled_from("aãçº ª§\t\r\u00ad\u200b\ufffd\u2581\u0085A10.")
)
LINES = st.text(CHARACTERS, max_size=90).map(lambda line: line.replace("\n", " "))
SENTENCES = st.sampled_from(
    ["O Sr. João  pagou R$ 1.234,56 pelo 2º lote, “à vista”.", "Três cães — no máximo — dormiam…"]
)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["", *3 * ["x"]]), SENTENCES, LINES), max_size=6))
def test_the_lossless_recipe_keeps_lines_as_they_are_or_drops_them(
    project: Path, parts: list[tuple[str, str, str]]
) -> None:
    params = published(project, "lossless", min_document_chars=0)
    text = "\n".join(sentence + line if keep else line for keep, sentence, line in parts)
    cleaned, dropped = clean(text, params)
    given_lines = iter(text.split("\n"))
    kept = cleaned.split("\n") if cleaned is not None else []
    assert all(line in given_lines for line in kept)  # each is in what follows the one before
    lost = sum(count for reason, count in dropped.items() if reason.startswith("line_"))
    assert len(kept) + lost == len(text.split("\n"))


def test_the_lossless_recipe_keeps_a_clean_document_to_the_character(project: Path) -> None:
    line = "  O 2º “artigo”, § 3º — R$ 1.234,56…\tPagou  à vista ☺ quem não tinha dívida alguma."
    text = "\n".join([line] * 3)
    assert clean(text, published(project, "lossless")) == (text, {})


# --- The published recipes -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        # Thesis, section 1.3: min_line, min_alpha, drop upper, min_doc, lower, norm. numbers.
        ("web", (40, 0.4, True, 200, True, True)),
        ("prose", (80, 0.6, False, 200, False, False)),
    ],
)
def test_a_recipe_of_the_thesis_has_its_published_values(
    project: Path, recipe: str, expected: tuple[Any, ...]
) -> None:
    p = published(project, recipe)
    n = p.normalisation
    found = (p.min_line_chars, p.min_letter_share, p.drop_uppercase, p.min_document_chars)
    assert (*found, n.lowercase, n.collapse_digits) == expected
    assert (n.filter_characters, n.end_marker, n.soft_hyphen) == (True, "newline", "space")
    assert not p.drop_broken


TEXT_OF_39 = "Uma linha de trinta e nove caracteres.."
TEXT_OF_40 = "Uma linha de quarenta caracteres justos."
HEADING = "CADERNO DE ESPORTES E DE CULTURA DE SÃO PAULO"


@pytest.mark.parametrize(
    ("recipe", "line", "kept"),
    [
        ("web", TEXT_OF_39, None),
        ("web", TEXT_OF_40, "uma linha de quarenta caracteres justos."),
        ("web", HEADING, None),  # its case is looked at before it is lowered
        ("web", f"{HEADING}, 1994", None),
        ("web", f"{HEADING} em 1994", "caderno de esportes e de cultura de são paulo em 0"),
        ("web", "<END>  " + TEXT_OF_40, "uma linha de quarenta caracteres justos."),
        ("web", TEXT_OF_39 + " http://exemplo.com.br", None),  # measured without the URL
        ("prose", 2 * TEXT_OF_39, None),  # 78 of 80
        ("prose", 2 * TEXT_OF_40, 2 * TEXT_OF_40),
        ("prose", f"{HEADING}: {HEADING}", f"{HEADING}: {HEADING}"),
        ("lossless", TEXT_OF_39, None),
        ("lossless", TEXT_OF_40, TEXT_OF_40),
        ("lossless", HEADING, None),
        ("lossless", TEXT_OF_40 + "\u00ad", None),
        ("lossless", TEXT_OF_40 + " http://exemplo.com.br", TEXT_OF_40 + " http://exemplo.com.br"),
    ],
)
def test_a_published_recipe_keeps_or_drops_a_line(
    project: Path, recipe: str, line: str, kept: str | None
) -> None:
    assert clean(line, published(project, recipe, min_document_chars=0))[0] == kept


@pytest.mark.parametrize("recipe", ["web", "prose", "lossless"])
@pytest.mark.parametrize(("characters", "kept"), [(199, False), (200, True)])
def test_every_recipe_wants_documents_of_two_hundred_characters(
    project: Path, recipe: str, characters: int, kept: bool
) -> None:
    line = "a" * characters
    assert (clean(line, published(project, recipe))[0] == line) is kept
