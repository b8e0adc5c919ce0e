"""The page of ``cordel play`` in a real Chromium, on a toy project: v5_main and sft are missing."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.cordel.play import conftest as toy

pytestmark = pytest.mark.browser
built = toy.built
ROOT = Path(__file__).parents[2]
CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
WAIT = 120_000  # ms: the first arm takes ten CPU seconds of imports
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 900}


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Run `cordel play` in a project, and give the address that it prints."""
    command = "import sys; from cordel.cli import main; sys.argv[0] = 'cordel'; main()"
    paths = [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    with subprocess.Popen(
        [sys.executable, "-c", command, "play", "--port", "0"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        try:
            found = re.search(r"http://127\.0\.0\.1:\d+/", process.stderr.readline())
            assert found
            yield found[0]
        finally:
            process.send_signal(signal.SIGINT)
        assert "Traceback" not in process.stderr.read()


@pytest.fixture(scope="module")
def address(built: Path) -> Iterator[str]:
    """Return the address of the toy project's page."""
    with served(built) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Return a Chromium with an empty profile that can reach this machine only."""
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@dataclass
class Visit:
    """A page, what its console said and whom it asked."""

    page: Page
    said: list[str] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)


@pytest.fixture
def visit(browser: Browser, address: str, request: pytest.FixtureRequest) -> Iterator[Visit]:
    """Open the page as a desktop in English, or as the parameters say; it must not complain."""
    how = {"locale": "en-US", "viewport": DESKTOP} | getattr(request, "param", {})
    context = browser.new_context(**how)
    found = Visit(context.new_page())
    found.page.on("console", lambda message: found.said.append(message.text))
    found.page.on("pageerror", lambda error: found.said.append(str(error)))
    found.page.on("request", lambda asked: found.asked.add(asked.url))
    found.page.goto(address)
    expect(found.page.locator("#models input")).to_have_count(7)
    yield found
    context.close()
    assert found.said == []
    assert {url for url in found.asked if not url.startswith(address)} == set()


def choose(page: Page, *names: str) -> None:
    page.locator("#none").click()
    for name in names:
        page.locator(f"#models input[value={name}]").check()


@pytest.mark.parametrize(
    "visit",
    [{}, {"locale": "pt-BR", "viewport": PHONE, "color_scheme": "dark"}],
    indirect=True,
)
def test_two_models_continue_a_prompt_side_by_side(visit: Visit) -> None:
    page = visit.page
    choose(page, "v1", "v7")
    page.locator("#prompt").fill("Era uma vez")
    page.locator("#tokens").fill("9")
    page.locator("#generate button.main").click()
    for name in ("v1", "v7"):
        card = page.locator(f"article[data-model={name}]")
        expect(card.locator(".note")).not_to_be_empty(timeout=WAIT)
        assert card.locator(".t[title$='%']").count() >= 4
        expect(card).to_have_attribute("aria-busy", "false")
    colours = page.locator(".t").evaluate_all(
        "tokens => tokens.map(token => getComputedStyle(token).backgroundColor)"
    )
    assert all(colour != "rgba(0, 0, 0, 0)" for colour in colours)
    page.locator("#text").fill("Em 1994, a cooperativa encerrou a colheita.")
    page.locator("#score button.main").click()
    expect(page.locator("#rows tr")).to_have_count(2, timeout=WAIT)
    bits = page.locator("#rows td.number:nth-of-type(1)").all_inner_texts()
    assert sum(text.startswith("≥ ") for text in bits) == 1  # v1 erases case and digits
    expect(page.locator("#bound")).to_be_visible()
    width = page.evaluate_handle("document.documentElement.scrollWidth").json_value()
    assert width == (page.viewport_size or {})["width"]


def test_a_missing_model_is_named_with_its_command(visit: Visit) -> None:
    page = visit.page
    expect(page.locator("#models input[value=v5_main]")).to_be_disabled()
    expect(page.locator("#missing")).to_contain_text("v5_main (dvc repro train_lm@v5_main)")
    expect(page.locator("#missing")).to_contain_text("sft (dvc repro adapt_sft@sft)")


def test_an_adapted_model_answers_an_instruction(visit: Visit) -> None:
    page = visit.page
    page.locator("#instruction").check()
    expect(page.locator("#models input[value=v7]")).to_be_disabled()
    page.locator("#tokens").fill("4")
    page.locator("#prompt").fill("Onde fica?")
    page.locator("#prompt").press("Tab")  # by keyboard from here on
    page.locator("#generate button.main").press("Enter")
    expect(page.locator("article")).to_have_count(2, timeout=WAIT)
    expect(page.locator("article[data-model=cpt] .note")).not_to_be_empty(timeout=WAIT)
    page.locator("article[data-model=cpt] summary").press("Enter")
    expect(page.locator("article[data-model=cpt] td.number").first).to_contain_text("%")


def test_stop_stops(visit: Visit) -> None:
    page = visit.page
    choose(page, "base", "cpt")
    page.locator("#tokens").fill("400")
    page.locator("#temperature").fill("0")
    page.locator("#generate button.main").click()
    expect(page.locator("article .t").first).to_be_visible(timeout=WAIT)
    page.locator("#stop").click()
    expect(page.locator("#status")).to_have_text("stopped")
    assert page.locator("article .t").count() < 800
    expect(page.locator("#generate button.main")).to_be_enabled()


def test_the_language_can_be_switched(visit: Visit) -> None:
    page = visit.page
    expect(page.locator("html")).to_have_attribute("lang", "en")
    page.locator("[data-language=pt]").click()
    expect(page.locator("html")).to_have_attribute("lang", "pt-BR")
    expect(page.locator("#generate button.main")).to_have_text("Continuar")
    assert page.locator("[data-say]:text-matches('^$')").count() == 0


def test_text_of_a_model_is_text(visit: Visit) -> None:
    # The prompt comes back through the model's own normalisation, as its text does.
    page = visit.page
    choose(page, "v7")
    page.locator("#prompt").fill("<img src=x onerror=alert(1)><b>oi</b>")
    page.locator("#tokens").fill("2")
    page.locator("#generate button.main").click()
    expect(page.locator("article .note")).not_to_be_empty(timeout=WAIT)
    expect(page.locator("article .prompt")).to_have_text("<img src=x onerror=alert(1)><b>oi</b>")
    assert page.locator("article img, article b").count() == 0


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("play.png", {"locale": "en-US", "viewport": DESKTOP}),
        ("play.pt-BR.png", {"locale": "pt-BR", "viewport": PHONE, "color_scheme": "dark"}),
    ],
)
def test_pictures_show_the_models_of_this_project(
    name: str, how: dict[str, Any], browser: Browser, built: Path
) -> None:
    # The sample's models where they are trained. CORDEL_SCREENSHOTS=docs/images keeps the pictures.
    trained = (ROOT / "data/models/v7").is_dir()
    context = browser.new_context(**how)
    page = context.new_page()
    with served(ROOT if trained else built) as found:
        page.goto(found)
        expect(page.locator("#models input").first).to_be_visible()
        choose(page, "v1", "v7")
        page.locator("#prompt").fill("A cooperativa dos cafeicultores")
        page.locator("#generate button.main").click()
        expect(page.locator("article details")).to_have_count(2, timeout=WAIT)
        page.locator("#text").fill("A cooperativa encerrou a colheita deste ano com 186 mil sacas.")
        page.locator("#score button.main").click()
        expect(page.locator("#rows tr")).to_have_count(2, timeout=WAIT)
        if folder := os.environ.get("CORDEL_SCREENSHOTS"):
            page.screenshot(path=Path(folder, name), full_page=True)
    context.close()
