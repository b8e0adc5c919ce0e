"""The thesis' normalisation, rule by rule (section 1.2), with its quirks by name."""

import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cordel.corpus.cleaning import CleaningParams
from cordel.corpus.normalisation import (
    ALLOWED,
    Normalisation,
    finish_line,
    letter_share,
    normalise,
    normalise_lines,
)
from cordel.runtime.params import read_params

RULES = Normalisation(
    filter_characters=True,
    end_marker="newline",
    soft_hyphen="space",
    collapse_digits=False,
    lowercase=False,
)
NOTHING = replace(RULES, filter_characters=False)


def normalised(text: str, **changes: Any) -> str:
    """Return ``text`` under the thesis' rules, case and digits kept, but for ``changes``."""
    return normalise(text, replace(RULES, **changes))


# --- Rule 1: Unicode -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1º lugar, 2ª vez", "1o lugar, 2a vez"),
        ("e então…", "e então..."),
        ("a´b", "a b"),  # a space and a combining accent, which the filter drops
        ("25 m²", "25 m2"),
        ("ﬁm", "fim"),
        ("Ⅷ", "VIII"),
        ("a\u00a0b", "a b"),
        ("corac\u0327a\u0303o", "coração"),
    ],
)
def test_nfkc_replaces_what_the_allowed_list_seems_to_keep(text: str, expected: str) -> None:
    assert normalised(text) == expected


@pytest.mark.parametrize("invisible", ["\ufeff", "\u200b"])
def test_byte_order_marks_and_zero_width_spaces_vanish(invisible: str) -> None:
    assert normalised(f"cora{invisible}ção") == "coração"


@pytest.mark.parametrize(("rule", "expected"), [("space", "cora ção"), ("delete", "coração")])
def test_a_soft_hyphen_splits_the_word_or_is_deleted(rule: str, expected: str) -> None:
    assert normalised("cora\u00adção", soft_hyphen=rule) == expected


def test_one_soft_hyphen_rule_does_not_leak_into_the_other() -> None:
    for rule, expected in (("delete", "ab"), ("space", "a b"), ("delete", "ab")):
        assert normalised("a\u00adb", soft_hyphen=rule) == expected


@pytest.mark.parametrize("invisible", ["\u200d", "\u2060", "\u0007", "\u2028"])
def test_other_invisible_characters_split_the_word(invisible: str) -> None:
    assert normalised(f"cora{invisible}ção") == "cora ção"


# --- Rules 2 and 3: markers, URLs, e-mails ---------------------------------------------------


@pytest.mark.parametrize(("rule", "expected"), [("newline", "Um.\nDois."), ("space", "Um. Dois.")])
@pytest.mark.parametrize("text", ["Um. <END> Dois.", "Um.<END>Dois.", "Um.\n <END>\n\tDois."])
def test_the_end_marker_becomes_a_newline_or_a_space(text: str, rule: str, expected: str) -> None:
    assert normalised(text, end_marker=rule) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Veja https://exemplo.com.br/água?x=1 e volte", "Veja e volte"),
        ("Veja (http://exemplo.com), já", "Veja ( já"),  # up to the next space: ")," goes too
        ("Veja http://exemplo.com<END>Fim", "Veja\nFim"),  # the marker comes first
        ("Veja www.exemplo.com e HTTP://EXEMPLO", "Veja www.exemplo.com e HTTP://EXEMPLO"),
        ("http é o que diz http:// no começo", "http é o que diz http:// no começo"),
        ("Fale com joana@exemplo.com, hoje", "Fale com hoje"),
        ("Siga @joana ou joana @ casa", "Siga @joana ou joana @ casa"),
        ("(joão@exemplo.com) e http://a@b", "e"),
    ],
)
def test_urls_and_e_mails_go_with_whatever_touches_them(text: str, expected: str) -> None:
    assert normalised(text) == expected


# --- Rules 4 to 6: characters and blanks -----------------------------------------------------


@pytest.mark.parametrize("text", ["Москва", "東京", "مرحبا", "Ñandú", "ÁÂÃÀÇÉÊÍÓÔÕÚÜ", "٣"])
def test_letters_and_numbers_of_any_script_are_kept(text: str) -> None:
    assert normalised(text) == text


# The thesis' list without º ª … ´, copied by hand.
@pytest.mark.parametrize("character", ",.;:!?\"'()[]{}-–—_/\\%&*+=@#$°|«»`’‘“”~^·•<>€")
def test_an_allowed_character_is_kept(character: str) -> None:
    assert normalised(f"x {character} x") == f"x {character} x"


@pytest.mark.parametrize("character", ["§", "©", "£", "😀", "\u0301", "×", "→"])
def test_any_other_character_becomes_a_space(character: str) -> None:
    assert normalised(f"x{character}x") == "x x"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\r\nb", "a\nb"),
        ("a\rb", "ab"),
        ("a\tb", "a b"),
        ("a    b", "a b"),
        ("a" + 7 * " " + "b" + 5 * "\n" + "c", "a b\nc"),
        ("a \t\u00a0 b", "a b"),
        ("a\n\n\nb", "a\nb"),
        ("a \n \n  b ", "a\nb"),
    ],
)
def test_blanks_are_folded(text: str, expected: str) -> None:
    assert normalised(text) == expected


def test_blank_lines_are_folded_before_anyone_counts_them() -> None:
    assert normalise_lines("a\n\n\nb", RULES) == ["a", "b"]


@settings(deadline=None)
@given(st.text())
def test_only_letters_numbers_and_allowed_characters_come_out(text: str) -> None:
    found = normalised(text)
    assert all(c in ALLOWED or unicodedata.category(c)[0] in "LN" for c in found)
    assert "  " not in found
    assert all(line and line == line.strip() for line in found.split("\n") if found)


# --- Rules 7 and 8: digits and case ----------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("em 1994", "em 0"),
        ("7 de setembro", "7 de setembro"),
        ("R$ 1.234,56", "R$ 1.0,0"),
        ("3,5 e 12,75", "3,5 e 0,0"),
        ("a1b22", "a1b0"),
        ("10²", "0"),  # NFKC makes it 102
    ],
)
def test_a_single_digit_survives_and_a_run_becomes_zero(text: str, expected: str) -> None:
    assert normalised(text, collapse_digits=True) == expected
    assert normalised(text, collapse_digits=False) == unicodedata.normalize("NFKC", text)


def test_the_case_is_lowered_last() -> None:
    rules = replace(RULES, lowercase=True)
    assert normalise_lines("São PAULO\nÉ", rules) == ["São PAULO", "É"]
    assert finish_line("São PAULO", rules) == "são paulo"
    assert normalise("São PAULO\nÉ", rules) == "são paulo\né"


# --- Without the filter ----------------------------------------------------------------------


@settings(deadline=None)
@given(st.text(st.one_of(st.characters(), st.sampled_from(" \t\n\r\u00ad\u200bºª"))))
def test_without_the_filter_no_character_changes(text: str) -> None:
    assert normalise(text, NOTHING) == text
    assert "\n".join(normalise_lines(text, NOTHING)) == text


def test_without_the_filter_case_and_digits_may_still_be_folded() -> None:
    rules = replace(NOTHING, collapse_digits=True, lowercase=True)
    assert normalise("Em 1994,  7º\n\n", rules) == "em 0,  7º\n\n"


# --- The published recipes -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("web", "a 1a lei de 0, em são paulo: r$ 5 o artigo 3\nfim"),
        ("prose", "A 1a lei de 1994, em São Paulo: R$ 5 o artigo 3\nFim"),
        ("lossless", "A 1ª  lei de 1994, em São Paulo: R$ 5 §o artigo 3<END>Fim"),
    ],
)
def test_a_published_recipe_normalises_as_published(
    project: Path, recipe: str, expected: str
) -> None:
    params = read_params(f"cleaning.{recipe}", CleaningParams, path=project / "params.yaml")
    text = "A 1ª  lei de 1994, em São Paulo: R$ 5 §o artigo 3<END>Fim"
    assert normalise(text, params.normalisation) == expected


# --- Letters ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "share"),
    [
        ("", 0.0),
        ("1994", 0.0),
        ("água", 1.0),
        ("ab c", 0.75),
        ("a b ", 0.5),
        ("東京 1", 0.5),
        ("“é”", 1 / 3),
        ("1ª", 0.5),
    ],
)
def test_the_share_of_letters_has_spaces_below_the_line(line: str, share: float) -> None:
    assert letter_share(line) == share


@settings(deadline=None)
@given(st.text(st.characters(max_codepoint=255), min_size=1) | st.text(min_size=1))
def test_letters_are_those_of_python_in_latin_1_and_beyond(line: str) -> None:
    assert letter_share(line) == sum(character.isalpha() for character in line) / len(line)


@pytest.mark.parametrize("code", range(256))
def test_every_letter_of_latin_1_counts(code: int) -> None:
    assert letter_share(chr(code)) == chr(code).isalpha()
