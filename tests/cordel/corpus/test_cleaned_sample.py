"""What cleaning catches of the dirt that was put into the sample on record, and what it misses."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cordel.corpus.cleaning import CleaningParams, clean_text
from cordel.corpus.normalisation import letter_share, normalise
from cordel.corpus.sample import Dirt, generate_sample
from cordel.corpus.sources import normal_form
from cordel.runtime.params import read_params

DOCUMENTS = 600
Shares = dict[tuple[str, str], float]


def kind(dirt: Dirt) -> str:
    """Return the kind, split where a rule can see one half of it only."""
    match dirt.kind:
        case "menu":
            return "menu of 40 or more" if len(dirt.text) >= 40 else "menu under 40"
        case "broken_characters":
            return "undecodable word" if "\ufffd" in dirt.text else "misread word"
        case "invisible":
            return "tab" if dirt.text == "\t" else "invisible character"
        case other:
            return other


def found(dirt: Dirt, cleaned: str, params: CleaningParams) -> bool:
    """Tell whether the dirt, as it was or as the recipe writes it, is in the cleaned text."""
    written = normalise(dirt.text, params.normalisation)  # empty, if it is cut out of its line
    return dirt.text in cleaned or (bool(written) and written in cleaned)


def counted(project: Path, recipe: str) -> Iterator[tuple[str, bool]]:
    """Yield the kind of each piece of dirt and whether ``recipe`` caught it."""
    params = read_params(f"cleaning.{recipe}", CleaningParams, path=project / "params.yaml")
    params = replace(params, min_document_chars=0)  # a dropped document would catch all its dirt
    for sample in generate_sample(project / "data" / "sample", n_documents=DOCUMENTS, seed=42):
        text = normal_form(sample.document, "<END>").text
        cleaned = clean_text(text, params, Counter()) or ""
        yield from ((kind(dirt), not found(dirt, cleaned, params)) for dirt in sample.dirt)


@pytest.fixture(scope="module")
def shares(project: Path) -> Shares:
    """Return the share that is caught by recipe and kind of dirt."""
    verdicts: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for recipe in ("web", "lossless"):
        for name, caught in counted(project, recipe):
            verdicts[recipe, name].append(caught)
    assert sum(map(len, verdicts.values())) > 1000  # hundreds of pieces, twice
    return {key: sum(values) / len(values) for key, values in verdicts.items()}


@pytest.mark.parametrize(
    ("recipe", "name", "at_least"),
    [
        ("web", "short_line", 0.95),  # under 40 characters
        ("web", "menu under 40", 0.95),
        ("web", "digits", 0.90),  # under 40 characters, or with few letters
        ("web", "uppercase_metadata", 0.95),
        ("web", "url", 0.98),  # cut out of the sentence
        ("web", "email", 0.98),
        ("web", "invisible character", 0.98),  # cut out of the word
        ("web", "tab", 0.98),
        ("lossless", "short_line", 0.95),
        ("lossless", "menu under 40", 0.95),
        ("lossless", "digits", 0.90),
        ("lossless", "uppercase_metadata", 0.95),
        ("lossless", "undecodable word", 0.98),  # with U+FFFD: its line is dropped
        ("lossless", "invisible character", 0.98),
    ],
)
def test_dirt_that_a_rule_can_see_is_caught(
    shares: Shares, recipe: str, name: str, at_least: float
) -> None:
    assert shares[recipe, name] >= at_least, f"{recipe} should catch {name}"


@pytest.mark.parametrize(
    ("recipe", "name", "at_most"),
    [
        ("web", "menu of 40 or more", 0.20),  # reads like a line of text: long, many letters
        ("lossless", "menu of 40 or more", 0.20),
        ("lossless", "misread word", 0.20),  # "nÃ£o" is made of good characters
        ("lossless", "url", 0.20),  # may not be cut out of a line that is kept as it is
        ("lossless", "email", 0.20),
        ("lossless", "tab", 0.60),  # only those before a paragraph marker, which takes them along
    ],
)
def test_dirt_that_no_rule_can_see_is_missed(
    shares: Shares, recipe: str, name: str, at_most: float
) -> None:
    assert shares[recipe, name] <= at_most, f"{recipe} catches {name}: raise the claim"


def test_most_of_the_text_of_clean_documents_is_kept(project: Path) -> None:
    params = read_params("cleaning.lossless", CleaningParams, path=project / "params.yaml")
    samples = generate_sample(project / "data" / "sample", n_documents=DOCUMENTS, seed=42)
    texts = [normal_form(s.document, "<END>").text for s in samples if not s.dirt]
    kept = [clean_text(text, params, Counter()) or "" for text in texts]
    assert len(texts) > 150
    assert sum(map(len, kept)) > 0.85 * sum(map(len, texts))


def test_menus_that_are_missed_have_many_letters(project: Path) -> None:
    samples = generate_sample(project / "data" / "sample", n_documents=DOCUMENTS, seed=42)
    menus = [d.text for s in samples for d in s.dirt if kind(d) == "menu of 40 or more"]
    assert menus
    assert all(letter_share(menu) >= 0.5 for menu in menus)
