"""The pages of ``dvc plots``, as docs/experiments.md has them made."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.clones import Clone

pytestmark = pytest.mark.browser
# Of charts that show something: a line or a point.
DRAWN = """Array.from(document.querySelectorAll('svg.marks')).filter(chart =>
  chart.querySelector('.role-mark.mark-line path[d], .role-mark.mark-symbol path[d]')).length"""


@pytest.mark.parametrize("words", [("show",), ("diff", "HEAD")])
def test_every_plot_is_drawn_without_a_network(
    words: tuple[str, ...], browser: Browser, tmp_path: Path
) -> None:
    clone = Clone(tmp_path)
    clone.cordel("offline-plots")
    clone.run("dvc", "plots", *words, "-o", str(tmp_path / "plots"))
    page = browser.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    page.goto((tmp_path / "plots/index.html").as_uri())
    page.wait_for_function("document.querySelectorAll('svg.marks').length === 19")
    page.wait_for_load_state("networkidle")
    # The arm whose base is not configured has a curve without points.
    assert page.evaluate(DRAWN) == 18
    assert errors == []
    page.close()
