"""The report's page: every figure is that of its file, in both languages, and text stays text."""

import json
import re
from collections.abc import Callable
from decimal import ROUND_HALF_EVEN, Decimal
from functools import cache
from itertools import pairwise
from pathlib import Path
from string import Formatter
from typing import Any

import pytest
import yaml
from markupsafe import Markup

from cordel.cli import main as cordel
from cordel.reporting.page import render as rendering
from cordel.reporting.page.render import (
    LANGUAGES,
    Language,
    page,
    render,
    render_folder,
)
from cordel.reporting.page.run import Run
from cordel.reporting.page.sections import family, from_scratch, frontier, ranking
from cordel.reporting.page.values import Sourced, Writer, quoted, visible
from cordel.runtime.console import duration
from cordel.runtime.errors import ArtifactError, InputError
from cordel.runtime.files import read_json, write_json
from tests.pages import (
    HOSTILE,
    ROOT,
    Element,
    colours,
    files_of,
    parsed,
    run_of,
    value_at,
    with_hostile_texts,
)

pytestmark = pytest.mark.slow  # a page of some thousand figures each

HERE = Path(rendering.__file__).parent
FOLDERS = {"sample": ROOT, "ptbr": ROOT / "results/ptbr"}
ENGLISH, PORTUGUESE = LANGUAGES
# What may hold digits and is no figure: names of runs, tokenizers, stages, measures and examples.
NAMES = re.compile(
    r"\b(?:train_lm@|adapt_sft@|score_lm@|sample_lm@|sample_early@|train_tokenizer@)?"
    r"(?:v[1-7]\w*|bpe\w+|unigram\w+)\b|\bF1\b|95 %|\b(?:Example|Exemplo) [12]\b"
)


@cache
def html(folder: str, language: Language) -> str:
    """Return a page of the committed results."""
    return page(run_of(FOLDERS[folder]), language)


@cache
def tree(folder: str, language: Language) -> Element:
    return parsed(html(folder, language))


pages = pytest.mark.parametrize(
    ("folder", "language"),
    [(folder, language) for folder in FOLDERS for language in LANGUAGES],
    ids=[f"{folder}-{language.code}" for folder in FOLDERS for language in LANGUAGES],
)


# --- Values and how they are written --------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "form", "english", "portuguese"),
    [
        (1.7617, "3", "1.762", "1,762"),
        (1234567, "0", "1,234,567", "1.234.567"),
        (0.0944, "+3", "+0.094", "+0,094"),
        (-0.0468, "+3", "−0.047", "−0,047"),
        (-0.0001, "+3", "0.000", "0,000"),
        (0.2194, "1%", "21.9 %", "21,9 %"),
        (195584, "2M", "0.20", "0,20"),
        (195584, "2Bs", "0.00020", "0,00020"),
        (0.006248, "2s", "0.0062", "0,0062"),
        (48.7, "2s", "49", "49"),
        (0, "2s", "0.00", "0,00"),
        (0.0025, "time", "9.0 s", "9,0 s"),
        (0.156194, "time", "9 min 22 s", "9 min 22 s"),
        (2.5, "time", "2 h 30 min", "2 h 30 min"),
    ],
)
def test_numbers_as_each_language_writes_them(
    value: float, form: str, english: str, portuguese: str
) -> None:
    assert Writer(comma=False).written(value, form) == english
    assert Writer(comma=True).written(value, form) == portuguese


def test_a_figure_names_its_file_and_key() -> None:
    found = Sourced({"a/b": [{"c": 0.5}]}, "m.json#")["a/b"][0]["c"]
    assert Writer(comma=True).num(found, "2") == Markup(
        '<data value="0.5" data-source="m.json#/a~1b/0/c" data-form="2">0,50</data>'
    )
    assert "–" in Writer(comma=True).num(None)


@pytest.mark.parametrize("value", ["1.5", True, [1.5]])
def test_what_is_no_number_is_refused_as_one(value: object) -> None:
    with pytest.raises(ArtifactError, match=r"m\.json#/a: .* is no number"):
        Writer(comma=False).num(Sourced({"a": value}, "m.json#")["a"])


def test_what_has_no_such_key_is_refused() -> None:
    with pytest.raises(ArtifactError, match=r"m\.json#/a: 7 has no 'b'"):
        Sourced({"a": 7}, "m.json#")["a"]["b"]
    with pytest.raises(ArtifactError, match="expected an object"):
        list(Sourced([1], "m.json#").pairs())


@pytest.mark.parametrize(("raw", "there"), [(0, True), (0.0, True), ("", False), (False, False)])
def test_zero_is_something(raw: object, there: bool) -> None:
    assert bool(Sourced(raw, "m.json#")) is there


def test_characters_that_act_are_shown() -> None:
    assert visible("a\u0000\u0007\u202eb\u0085\n") == "a␀␇⟨U+202E⟩b⟨U+0085⟩\n"
    shown = quoted(Sourced("<b> ", "m.json#"))
    assert shown == Markup('<bdi class="quoted" dir="auto" data-source="m.json#">&lt;b&gt;</bdi>')


# --- The page of a real run -----------------------------------------------------------------------


def rewritten(value: float, form: str, *, comma: bool) -> str:
    """Write a number as the page should, by decimal arithmetic instead of format()."""
    if form == "time":
        seconds = 3600 * value
        text = f"{seconds:.1f} s" if seconds < 10 else duration(seconds)
        return text.replace(".", ",") if comma else text
    sign, digits, unit, significant = re.fullmatch(r"(\+?)(\d)([%MB]?)(s?)", form).groups()
    number = Decimal(value) * {"%": 100, "M": Decimal("1e-6"), "B": Decimal("1e-9")}.get(unit, 1)
    places = int(digits)
    if significant and number:
        places = max(0, places - 1 - Decimal(str(float(number))).adjusted())
    number = number.quantize(Decimal(1).scaleb(-places), ROUND_HALF_EVEN)
    whole, _, fraction = f"{abs(number):f}".partition(".")
    groups = re.sub(r"(?<=\d)(?=(\d{3})+$)", "." if comma else ",", whole)
    text = groups + (("," if comma else ".") + fraction if fraction else "")
    prefix = "−" if number < 0 else "+" if sign and number else ""
    return prefix + text + (" %" if unit == "%" else "")


@pages
def test_every_figure_is_that_of_its_file(folder: str, language: Language) -> None:
    files = files_of(FOLDERS[folder])
    figures = tree(folder, language).all("data")
    wrong = []
    for figure in figures:
        value = value_at(figure.attributes["data-source"], files)
        shown = rewritten(value, figure.attributes["data-form"], comma=language.comma)
        if float(figure.attributes["value"]) != value or figure.text != shown:
            wrong.append((figure.attributes, figure.text, value, shown))
    assert wrong == []
    assert len(figures) > 1000


@pages
def test_every_quotation_is_that_of_its_file(folder: str, language: Language) -> None:
    files = files_of(FOLDERS[folder])
    quotations = [e for e in tree(folder, language).all() if "data-source" in e.attributes]
    quotations = [e for e in quotations if e.tag != "data"]
    for found in quotations:
        text = visible(str(value_at(found.attributes["data-source"], files)))
        if found.tag == "bdi":
            text = text.strip()
        if "data-printed" in found.attributes:
            text = text.replace("-", "−").replace(".", "," if language.comma else ".")
        assert found.text == text[: int(found.attributes.get("data-chars", len(text)))]
    assert len(quotations) > 60


def unsourced(element: Element) -> str:
    """Return what can be read and is from no file."""
    if element.tag in ("script", "style") or "data-source" in element.attributes:
        return " "
    inside = "".join(p if isinstance(p, str) else unsourced(p) for p in element.parts)
    return inside + " ".join(
        ["", *(element.attributes.get(k, "") for k in ("title", "aria-label"))]
    )


@pages
def test_no_digit_stands_outside_of_a_figure(folder: str, language: Language) -> None:
    text = NAMES.sub("", unsourced(tree(folder, language)))
    assert re.findall(r".{0,30}\d.{0,30}", text) == []


def drawings(found: str) -> dict[str, Any]:
    return json.loads(re.search(r'(?s)id="charts">(.*?)</script>', found)[1])


def rows_of(spec: Any) -> list[dict[str, Any]]:
    """Return all rows of data in a chart."""
    return [row for rows in spec.get("datasets", {}).values() for row in rows] + [
        row
        for part in [spec, *spec.get("layer", [])]
        for row in part.get("data", {}).get("values", [])
    ]


@pages
def test_every_chart_shows_what_its_files_hold(folder: str, language: Language) -> None:
    files = files_of(FOLDERS[folder])
    charts = drawings(html(folder, language))["specs"]
    assert len(charts) == 11
    for name, spec in charts.items():
        rows = rows_of(spec)
        assert rows, name
        for row in rows:
            numbers = {k for k, v in row.items() if isinstance(v, int | float) and v is not True}
            numbers -= {k for k, v in row.items() if isinstance(v, bool)}
            assert numbers <= row["sources"].keys(), name
            assert {k: row[k] for k in row["sources"]} == {
                k: value_at(source, files) for k, source in row["sources"].items()
            }


@pages
def test_a_page_is_one_file_and_light(folder: str, language: Language) -> None:
    found = tree(folder, language)
    assert len(html(folder, language).encode()) < 3_000_000
    assert not any("src" in element.attributes for element in found.all())
    assert found.all("link") == []
    links = {element.attributes["href"] for element in found.all("a")}
    assert {link for link in links if not link.startswith("#")} == {
        "index.pt-BR.html" if language == ENGLISH else "index.html",
        f"../audit/{language.audit}",
    }
    ids = [e.attributes["id"] for e in found.all() if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)


@pages
def test_a_page_can_be_read_without_seeing_it(folder: str, language: Language) -> None:
    found = tree(folder, language)
    assert found.all("html")[0].attributes["lang"] == language.code
    levels = [int(e.tag[1]) for e in found.all() if re.fullmatch(r"h\d", e.tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    for table in found.all("table"):
        assert table.all("caption")[0].text.strip()
        assert all(cell.attributes["scope"] in ("col", "row") for cell in table.all("th"))
        widths = {len(row.all("th")) + len(row.all("td")) for row in table.all("tr")}
        assert len(widths) == 1, table.all("caption")[0].text
    charts = [e for e in found.all("div") if e.attributes.get("id", "").startswith("chart-")]
    assert len(charts) == 11
    assert all(e.attributes["role"] == "img" and e.attributes["aria-label"] for e in charts)
    regions = [e for e in found.all("div") if e.attributes.get("class") == "scroll"]
    assert all(e.attributes["tabindex"] == "0" and e.attributes["aria-label"] for e in regions)


def test_both_languages_show_the_same_figures() -> None:
    def figures(language: Language) -> list[tuple[str, str]]:
        found = tree("ptbr", language).all("data")
        return [(e.attributes["data-source"], e.attributes["data-form"]) for e in found]

    assert figures(ENGLISH) == figures(PORTUGUESE)


def test_the_answer_follows_the_figures(tmp_path: Path) -> None:
    def answer(run: Run) -> str:
        return parsed(page(run, ENGLISH)).all("ul")[0].text

    files = files_of(ROOT)
    sample = answer(Run(files))
    assert "v7 is the best, with 1.157 bits per byte" in sample
    assert "although its text was made easier" in sample  # v7 is ahead of a lower bound
    assert "No network here beats a Kneser–Ney n-gram over subwords" in sample
    assert "still scores higher in summarization and rewriting" in sample
    name, ahead = "metrics/leaderboard.json", tmp_path / "leaderboard.json"
    board = read_json(files[name])
    board["v4_subword"]["bits_per_byte"] = 1.1
    write_json(ahead, board)
    assert "so the two cannot be ranked" in answer(Run(files | {name: ahead}))  # and behind one


def test_only_the_profile_of_the_thesis_sets_published_figures_beside_its_own(
    tmp_path: Path,
) -> None:
    files = files_of(ROOT)
    params = tmp_path / "params.yaml"
    params.write_text("profile: thesis\n", "utf-8")
    thesis = parsed(page(Run(files | {"params.yaml": params}), ENGLISH)).text
    assert "stand beside ours" in thesis
    assert "Perplexity, published" in thesis
    assert "75.83" in thesis
    other = tree("sample", ENGLISH).text
    assert "may not be compared with the published ones" in other
    assert "Perplexity, published" not in other


# --- What a run may lack, and what a file may hold ------------------------------------------------


def without(*patterns: str) -> Run:
    files = files_of(FOLDERS["ptbr"])
    return Run({n: p for n, p in files.items() if not any(re.match(x, n) for x in patterns)})


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        (r"metrics/answers\.json", "no adapted models"),
        (r"metrics/costs\.json", "no costs"),
        (r"metrics/leakage\.json", "not checked for overlap"),
        (r"metrics/guardrails/", "no guardrails"),
        (r"metrics/tokenizers/", "no metrics of tokenizers"),
        (r"metrics/ledger/", "no ledgers"),
        (r"plots/curves/", "no curves"),
        (r"samples/", "no samples"),
        (r"answers\.jsonl", "no answers to show"),
        (r"continuations\.jsonl", "No document was continued"),
        (r"audit/", "audit are not beside"),
        (r"dvc\.lock", "Where this comes from"),
        (r"metrics/lm/(base|cpt|sft|cpt_sft)\.json", "Bits per byte"),
        (r"metrics/lm/references\.json", "Bits per byte"),
        (r"(metrics/(?!lm/v7|leaderboard)|plots|samples|answers|dvc)", "v7 is the best"),
    ],
)
def test_what_a_run_lacks_is_said_in_a_sentence(missing: str, said: str) -> None:
    made = page(without(missing), ENGLISH)
    found = parsed(made)
    places = {e.attributes["id"] for e in found.all("div") if "id" in e.attributes}
    assert places == {f"chart-{name}" for name in drawings(made)["specs"]}
    assert said in found.text


def test_a_run_that_was_not_ranked_is_left_out_but_not_all_of_them(tmp_path: Path) -> None:
    lm, board = tmp_path / "v8.json", tmp_path / "board.json"
    write_json(lm, {"nats": 1})
    files = files_of(ROOT) | {"metrics/lm/v8.json": lm}
    assert "v8" not in {row.name for row in ranking(Run(files))}
    write_json(board, {})
    with pytest.raises(ArtifactError, match=r"leaderboard\.json#: none of the runs is in it"):
        ranking(Run(files | {"metrics/leaderboard.json": board}))


def test_an_arm_that_was_not_run_is_left_out() -> None:
    assert {row.name for row in ranking(run_of(ROOT))} & {"instruct", "instruct_sft"} == set()
    assert "No instruction model is configured" in tree("sample", ENGLISH).text


def test_a_hostile_text_stays_text(tmp_path: Path) -> None:
    found = page(Run(with_hostile_texts(FOLDERS["ptbr"], tmp_path)), ENGLISH)

    assert found.count("<script") == found.count("</script>") == 3
    assert parsed(found).all("img") == []
    assert not set("\u202e\u0000\u0007") & set(parsed(found).all("main")[0].text)
    assert "&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt; ⟨U+202E⟩oirártnoc␀␇" in found
    names = {row["name"] for row in rows_of(drawings(found)["specs"]["ranking"])}
    assert {"x<img src=x>", visible(HOSTILE)} <= names


def test_a_broken_file_is_one_line_and_nothing_is_written(tmp_path: Path) -> None:
    broken = tmp_path / "answers.json"
    broken.write_text('{"sft": ', "utf-8")
    files = files_of(ROOT) | {"metrics/answers.json": broken}
    with pytest.raises(ArtifactError, match=r"answers\.json: not JSON"):
        render(Run(files), [tmp_path / "en.html", tmp_path / "pt.html"])
    assert [path.name for path in tmp_path.iterdir()] == ["answers.json"]


@pytest.mark.parametrize("text", ["", "step,bits\n1\n", "step,bits\n1,dois\n"])
def test_a_broken_curve_is_named(text: str, tmp_path: Path) -> None:
    curve = tmp_path / "v1.csv"
    curve.write_text(text, "utf-8")
    with pytest.raises(ArtifactError, match=r"v1\.csv: cannot be read"):
        Run({"plots/curves/v1.csv": curve}).read("plots/curves/v1.csv")


def test_a_file_of_the_folder_is_read_and_no_other(tmp_path: Path) -> None:
    run = Run({}, {"answers.jsonl": [{"f1": 0.5}]})
    assert run.read("answers.jsonl")[0]["f1"] == Sourced(0.5, "answers.jsonl#/0/f1")
    assert not run.has("metrics/answers.json")
    with pytest.raises(ArtifactError, match=r"params\.yaml: no such file among those of the run"):
        page(without(r"params\.yaml"), ENGLISH)
    with pytest.raises(InputError, match=r"no metrics/leaderboard\.json"):
        render_folder(tmp_path, tmp_path / "out")


def test_the_verb_renders_a_folder_of_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    words = ["cordel", "report", "--results", "results/ptbr", "--out", str(tmp_path / "deep/out")]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit, match=r"^0$"):
        cordel()
    shown = (tmp_path / "deep/out/index.html").read_text("utf-8")
    link = re.search(r'href="([^"]*audit/report\.md)"', shown)[1]
    assert (tmp_path / "deep/out" / link).resolve() == ROOT / "audit/report.md"
    # Ten answers, and the thesis' five examples: two documents and three questions.
    assert shown.count('class="instruction"') == 10 + 2 + 3


# --- Rows -----------------------------------------------------------------------------------------


def test_the_frontier_is_what_no_other_beats_in_both(tmp_path: Path) -> None:
    def written(name: str, value: object) -> Path:
        write_json(tmp_path / name, value)
        return tmp_path / name

    # v1 is cheap, v2 dearer and worse, v3 dearer and better, v4 as dear as v3 and worse.
    found = {"v1": (1, 3.0), "v2": (2, 3.5), "v3": (4, 2.0), "v4": (4, 2.5)}
    lm = {f"metrics/lm/{name}.json": written(name, {"nats": 1}) for name in found}
    board = {name: {"bits_per_byte": bits, "bound": False} for name, (_, bits) in found.items()}
    costs = {"stages": {f"train_lm@{name}": {"hours": h} for name, (h, _) in found.items()}}
    files = {"metrics/leaderboard.json": board, "metrics/costs.json": costs}
    rows = ranking(Run(lm | {name: written(name, value) for name, value in files.items()}))
    assert [row.name for row in rows] == ["v3", "v4", "v1", "v2"]
    assert [row.name for row in frontier(from_scratch(rows), "hours")] == ["v1", "v3"]
    assert frontier(rows, "usd") == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("v3", "characters"),
        ("v4k_bf_ep2", "subwords"),
        ("v5b_long", "transformer"),
        ("v6_rc16k_v5b", "transformer"),
        ("v7", "v7"),
        ("cpt_sft", "adapted"),
        ("v8", "other"),
        ("v10", "other"),
    ],
)
def test_families_by_name(name: str, expected: str) -> None:
    assert family(name) == expected


# --- Words and colours ----------------------------------------------------------------------------

TEXTS = yaml.safe_load((HERE / "texts.yaml").read_text("utf-8"))


@pytest.mark.parametrize("key", TEXTS)
def test_every_text_is_there_in_both_languages(key: str) -> None:
    assert TEXTS[key].keys() == {"en", "pt"}
    assert all(text.strip() for text in TEXTS[key].values())
    assert len({frozenset(holes(text)) for text in TEXTS[key].values()}) == 1
    assert not re.search(r"\d", NAMES.sub("", " ".join(TEXTS[key].values())))


def holes(text: str) -> list[str]:
    return [name for _, name, _, _ in Formatter().parse(text) if name]


def test_every_text_of_the_template_is_written() -> None:
    template = (HERE / "page.html.jinja").read_text("utf-8")
    asked = set(re.findall(r'\bt\("([\w.]+)"', template))
    # One that ends with a point is the beginning of a key, such as "arm." of all arms.
    assert {key for key in asked if not any(known.startswith(key) for known in TEXTS)} == set()
    assert {key for key in asked if not key.endswith(".")} <= TEXTS.keys()
    assert len(asked) > 100


CSS = (HERE / "style.css").read_text("utf-8")
THEMES: dict[str, Callable[[], dict[str, str]]] = {
    "light": lambda: colours(CSS, ":root"),
    "dark": lambda: colours(CSS, "prefers-color-scheme: dark"),
    "print": lambda: colours(CSS, "@media print"),
}
INKS = ("ink", "muted", "accent", "good", "bad")
FAMILIES = ("characters", "subwords", "transformer", "v7", "adapted", "other", "reference")


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours (WCAG 2)."""

    def luminance(colour: str) -> float:
        parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
        red, green, blue = (
            p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_of_black_and_white() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("theme", THEMES)
def test_text_can_be_read_on_every_ground(theme: str) -> None:
    found = THEMES[theme]()
    low = {
        (ink, ground): round(contrast(found[ink], found[ground]), 2)
        for ink in (*INKS, *FAMILIES)
        for ground in ("paper", "panel", "shade")
        if contrast(found[ink], found[ground]) < 4.5
    }
    assert low == {}


def test_no_other_colour_is_used() -> None:
    outside = re.sub(r":root \{.*?\}", "", CSS, flags=re.DOTALL)
    assert re.findall(r"#[0-9a-fA-F]{3,8}\b", outside.replace("#vg-tooltip", "")) == []
    assert not re.search(r'"#[0-9a-f]{3}', (HERE / "charts.py").read_text("utf-8"))
