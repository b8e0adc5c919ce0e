"""One section of params.yaml becomes one dataclass, or one message that names every problem."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from cordel.runtime.errors import ParamsError
from cordel.runtime.params import parse, read_params, read_section, require


@dataclass(frozen=True, kw_only=True)
class Nested:
    """A part of ``Recipe`` with a range."""

    spoons: int

    def __post_init__(self) -> None:
        """Check the range."""
        require(self.spoons > 0, f"spoons is {self.spoons}, expected at least 1")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One key of every kind that the sections of params.yaml use."""

    name: str
    rate: float
    sweet: bool
    kind: Literal["bolo", "pão"]
    sugar: Nested
    patience: int | None = None
    steps: tuple[str, ...] = ()
    weights: dict[str, float] | None = None


GOOD: dict[str, Any] = {
    "name": "pão de mel",
    "rate": 0.5,
    "sweet": True,
    "kind": "pão",
    "sugar": {"spoons": 2},
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a params.yaml with a section and a section within it."""
    path = tmp_path / "params.yaml"
    path.write_text("receitas:\n  mel: {spoons: 2}\n  sal: {spoons: 0}\n", encoding="utf-8")
    return path


def test_a_section_becomes_its_dataclass(file: Path) -> None:
    assert read_params("receitas.mel", Nested, path=file) == Nested(spoons=2)


def test_every_kind_of_value_is_kept_as_it_is() -> None:
    values = GOOD | {"patience": 3, "steps": ["misturar", "assar"], "weights": {"mel": 0.25}}
    recipe = parse(values, Recipe, "receita")
    assert (recipe.name, recipe.sugar, recipe.patience) == ("pão de mel", Nested(spoons=2), 3)
    assert recipe.steps == ("misturar", "assar")  # a list becomes a tuple
    assert recipe.weights == {"mel": 0.25}


def test_a_key_with_a_default_may_be_left_out_and_null_is_none() -> None:
    assert parse(GOOD, Recipe, "receita").patience is None
    assert parse(GOOD | {"patience": None}, Recipe, "receita").patience is None


def test_a_missing_section_is_named_with_the_part_that_is_absent(file: Path) -> None:
    with pytest.raises(ParamsError, match=r"no section 'receitas\.sul' \(stopped at 'sul'\)"):
        read_section("receitas.sul", path=file)


def test_a_section_below_a_value_does_not_exist(file: Path) -> None:
    with pytest.raises(ParamsError, match=r"no section 'receitas\.mel\.spoons\.x'"):
        read_section("receitas.mel.spoons.x", path=file)


def test_a_missing_file_says_where_to_run(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"nada\.yaml: no such file; run from the root"):
        read_section("receitas", path=tmp_path / "nada.yaml")


@pytest.mark.parametrize("content", [b"a: [1\n", "a: maçã\n".encode("latin-1")])
def test_a_file_that_is_no_yaml_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(ParamsError, match=r"params\.yaml: not valid YAML: \S[^\n]*$"):
        read_section("a", path=path)


def test_a_missing_key_is_named_with_its_section(file: Path) -> None:
    file.write_text("receitas: {mel: {}}\n", encoding="utf-8")
    with pytest.raises(ParamsError, match=r"section 'receitas\.mel': missing key 'spoons'$"):
        read_params("receitas.mel", Nested, path=file)


def test_an_empty_section_is_shown(file: Path) -> None:
    file.write_text("receitas: {mel: }\n", encoding="utf-8")
    with pytest.raises(ParamsError, match="the section is None, expected keys and values"):
        read_params("receitas.mel", Nested, path=file)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"nmae": "x"}, "unknown key 'nmae'"),
        ({"sugar": {"spoons": 2, "spon": 1}}, "unknown key 'sugar.spon'"),
        ({"sugar": {}}, "missing key 'sugar.spoons'"),
        ({"sugar": 2}, "sugar is 2, expected keys and values"),
        ({"name": 7}, "'name' is 7, expected str"),
        ({"sweet": 1}, "'sweet' is 1, expected bool"),
        ({"sugar": {"spoons": True}}, "'sugar.spoons' is True, expected int"),
        ({"patience": 2.0}, "'patience' is 2.0, expected int"),
        ({"name": None}, "'name' is None, expected str"),
        ({"kind": "pao"}, "'kind' is 'pao', expected one of bolo, pão"),
        ({"steps": "assar"}, "'steps' is 'assar', expected a list"),
        ({"steps": ["assar", 2]}, "'steps.1' is 2, expected str"),
        ({"weights": [1]}, r"'weights' is \[1\], expected keys and values"),
        ({"weights": {"mel": "x"}}, "'weights.mel' is 'x', expected float"),
        ({"sugar": {"spoons": 0}}, r"sugar\.spoons is 0, expected at least 1"),
    ],
)
def test_a_wrong_value_is_named_with_its_key(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError, match=f"^receita: {message}"):
        parse(GOOD | changed, Recipe, "receita")


@pytest.mark.parametrize(("written", "found"), [("1e-4", "'1e-4'"), ("1", "1")])
def test_a_float_that_yaml_reads_otherwise_comes_with_the_remedy(
    file: Path, written: str, found: str
) -> None:
    file.write_text(f"receita: {{rate: {written}}}\n", encoding="utf-8")
    values = GOOD | read_section("receita", path=file)
    with pytest.raises(ParamsError, match=rf"'rate' is {found}, expected float \(.*1\.0e-4\)"):
        parse(values, Recipe, "receita")


def test_all_problems_are_reported_at_once() -> None:
    values = {"nmae": "x", "rate": 1, "sweet": True, "kind": "pão", "sugar": {"spoons": 0}}
    with pytest.raises(ParamsError, match="receita: ") as caught:
        parse(values, Recipe, "receita")
    # One unknown key, one missing key, one wrong type and one wrong range.
    problems = str(caught.value).removeprefix("receita: ").split("; ")
    assert [problem.split()[0] for problem in problems] == [
        "unknown", "missing", "'rate'", "sugar.spoons",
    ]  # fmt: skip
