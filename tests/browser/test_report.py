"""The report as a reader opens it: from a file, without a network."""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from cordel.reporting.page.render import LANGUAGES, render
from cordel.reporting.page.run import Run
from tests.pages import HOSTILE, ROOT, files_of, with_hostile_texts

pytestmark = pytest.mark.browser
DESKTOP, PHONE = (1280, 900), (390, 844)
IMAGES = "CORDEL_IMAGES"  # names a folder: pictures of reports/ are then written there
FILES = [language.file for language in LANGUAGES]
DRAWN = "document.documentElement.dataset.drawn === 'true'"
# Groups of marks of a chart that have none.
EMPTY = """Array.from(document.querySelectorAll('.canvas'), place => [place.id,
  place.querySelectorAll('svg .mark-symbol path, svg .mark-rect path, svg .mark-line path').length,
  place.getBoundingClientRect().height]).filter(([, marks, height]) => !marks || height < 80)"""
# Of what is wider than the window, what no box of its own scrolls.
WIDE = """Array.from(document.querySelectorAll('main *, header *')).filter(e =>
  e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.scroll, svg, pre'))
  .map(e => e.outerHTML.slice(0, 120))"""


@dataclass(slots=True)
class Opened:
    """A page, what it asked the network for, and what it complained of."""

    page: Page
    seconds: float  # CPU time until all is drawn: the same with other work on the machine
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


Open = Callable[..., Opened]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with the pages of the profile ``ptbr``."""
    out = tmp_path_factory.mktemp("pages")
    render(Run(files_of(ROOT / "results/ptbr")), [out / name for name in FILES])
    return out


@pytest.fixture
def opened(browser: Browser) -> Iterator[Open]:
    """Return a function that opens a file and waits until its charts are drawn."""
    contexts = []

    def open_file(path: Path, size: tuple[int, int] = DESKTOP, scheme: str = "light") -> Opened:
        viewport = {"width": size[0], "height": size[1]}
        contexts.append(browser.new_context(viewport=viewport, color_scheme=scheme))
        found = Opened(contexts[-1].new_page(), 0.0)
        found.page.on("console", lambda message: found.complaints.append(message.text))
        found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
        found.page.on("dialog", lambda dialog: found.complaints.append(dialog.message))
        found.page.on("request", lambda request: found.requests.append(request.url))
        devtools = contexts[-1].new_cdp_session(found.page)
        devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
        found.page.goto(path.as_uri())
        found.page.wait_for_function(DRAWN)
        metrics = devtools.send("Performance.getMetrics")["metrics"]
        [found.seconds] = [m["value"] for m in metrics if m["name"] == "TaskDuration"]
        return found

    yield open_file
    for context in contexts:
        context.close()


@pytest.mark.parametrize("file", FILES)
def test_it_opens_at_once_without_a_network_and_draws_every_chart(
    file: str, pages: Path, opened: Open
) -> None:
    found = opened(pages / file)
    assert found.complaints == []
    assert found.requests == [(pages / file).as_uri()]
    assert found.page.locator(".canvas svg").count() == 11
    assert found.page.evaluate(EMPTY) == []
    assert found.seconds < 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("file", FILES)
def test_nothing_is_wider_than_a_phone(file: str, scheme: str, pages: Path, opened: Open) -> None:
    found = opened(pages / file, PHONE, scheme)
    assert found.page.evaluate("document.documentElement.scrollWidth") == PHONE[0]
    assert found.page.evaluate(WIDE) == []
    assert found.page.evaluate(EMPTY) == []


def test_charts_follow_the_colour_scheme(pages: Path, opened: Open) -> None:
    def colours(scheme: str) -> list[str]:
        page = opened(pages / FILES[0], scheme=scheme).page
        style = "e => getComputedStyle(e).fill"
        return [
            page.evaluate("getComputedStyle(document.body).backgroundColor"),
            page.locator("#chart-ranking svg .mark-symbol path").first.evaluate(style),
            page.locator("#chart-ranking svg .role-axis-label text").first.evaluate(style),
        ]

    light, dark = colours("light"), colours("dark")
    assert light == ["rgb(251, 250, 247)", "rgb(107, 105, 100)", "rgb(93, 90, 84)"]
    assert dark == ["rgb(21, 23, 26)", "rgb(160, 156, 149)", "rgb(170, 166, 158)"]


def test_numbers_in_charts_are_those_of_the_language(pages: Path, opened: Open) -> None:
    labels = "#chart-ranking svg .role-axis-label text"
    english, portuguese = (
        opened(pages / file).page.locator(labels).all_text_contents() for file in FILES
    )
    numbers, translated = (
        [text for text in texts if re.fullmatch(rf"\d+{mark}\d+", text)]
        for texts, mark in ((english, r"\."), (portuguese, ","))
    )
    assert len(numbers) > 2
    assert [text.replace(".", ",") for text in numbers] == translated


def test_a_legend_singles_out_and_a_point_says_what_it_is(pages: Path, opened: Open) -> None:
    page = opened(pages / FILES[0]).page
    faded = "#chart-ranking svg .mark-symbol path[opacity='0.12']"
    assert page.locator(faded).count() == 0
    page.locator("#chart-ranking svg .role-legend-symbol path").nth(1).click(force=True)
    page.wait_for_selector(faded, state="attached")
    page.locator("#chart-hours svg .mark-symbol.role-mark path").first.hover(force=True)
    tip = page.locator("#vg-tooltip-element.visible")
    tip.wait_for()
    assert "bits per byte" in tip.inner_text()


def test_figures_say_where_they_are_from_and_keys_reach_everything(
    pages: Path, opened: Open
) -> None:
    page = opened(pages / FILES[0]).page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.url.endswith("#main")
    figure = page.locator(".tiles data").first
    figure.hover()
    assert figure.get_attribute("title") == "metrics/leaderboard.json#/v7/bits_per_byte"
    page = opened(pages / FILES[0], PHONE).page
    scrolling = "e => e.scrollWidth > e.clientWidth && e.tabIndex !== 0"
    boxes = page.locator(".scroll, pre")
    assert not any(boxes.nth(n).evaluate(scrolling) for n in range(boxes.count()))


def test_it_is_printed_in_black_on_white_with_all_samples(pages: Path, opened: Open) -> None:
    page = opened(pages / FILES[1], scheme="dark").page
    page.emulate_media(media="print")
    style = "getComputedStyle(document.body)"
    assert page.evaluate(f"{style}.backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate(f"{style}.color") == "rgb(0, 0, 0)"
    assert page.locator("nav").is_hidden()
    assert page.locator("details.prompt:not([open])").count() == 4
    assert len(page.pdf()) > 100_000
    assert page.locator("details.prompt:not([open])").count() == 0


def test_a_hostile_text_stays_inert(tmp_path: Path, opened: Open) -> None:
    files = with_hostile_texts(ROOT / "results/ptbr", tmp_path)
    render(Run(files), [tmp_path / name for name in FILES])
    found = opened(tmp_path / FILES[0])
    assert found.complaints == []
    assert found.page.locator("img").count() == 0
    shown = found.page.locator("blockquote .quoted", has_text="onerror").first.inner_text()
    assert shown.startswith(HOSTILE[:38])
    assert found.page.evaluate(EMPTY) == []


def test_the_browser_runs_no_script_but_ours(tmp_path: Path, pages: Path, opened: Open) -> None:
    # Were escaping ever forgotten, the page's policy would still stop what it let in.
    html = (pages / FILES[0]).read_text("utf-8")
    forged = html.replace("</main>", "<img src=x onerror=alert(1)><script>alert(2)</script></main>")
    (tmp_path / FILES[0]).write_text(forged, "utf-8")
    found = opened(tmp_path / FILES[0])
    assert {"1", "2"} & set(found.complaints) == set()
    assert sum("Content Security Policy" in text for text in found.complaints) == 3


@pytest.mark.parametrize(("name", "size"), [("desktop", DESKTOP), ("phone", PHONE)])
@pytest.mark.parametrize("file", FILES)
def test_pictures(name: str, size: tuple[int, int], file: str, pages: Path, opened: Open) -> None:
    """Take the pictures of docs/images, where ``CORDEL_IMAGES`` names that folder."""
    folder = os.environ.get(IMAGES)
    page = opened((ROOT / "reports" if folder else pages) / file, size).page
    picture = page.screenshot()
    assert len(picture) < 400_000
    if folder:
        (Path(folder) / f"report-{name}{Path(file).stem.removeprefix('index')}.png").write_bytes(
            picture
        )
