"""The page of ``dvc plots`` that needs no network."""

from pathlib import Path

import pytest
from dvc.config import Config
from dvc.repo import Repo

from cordel.reporting.offline_plots import PAGE, write_offline_page
from cordel.runtime.errors import EnvironmentProblem


@pytest.mark.slow
def test_the_page_holds_vega_and_is_set_for_this_clone_only(tmp_path: Path) -> None:
    Repo.init(str(tmp_path), no_scm=True).close()
    committed = (tmp_path / ".dvc/config").read_text("utf-8")

    page = write_offline_page(tmp_path).read_text("utf-8")

    assert "window.vegaEmbed=" in page
    assert page.count("<script") == page.count("</script>") == 1  # nothing loads another
    assert page.count("{plot_divs}") == page.count("{refresh_tag}") == 1  # DVC fills them
    assert (tmp_path / ".dvc/config").read_text("utf-8") == committed
    assert Config(str(tmp_path / ".dvc"))["plots"]["html_template"] == PAGE


def test_outside_of_a_project_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match=r"no \.dvc here"):
        write_offline_page(tmp_path)
    assert list(tmp_path.iterdir()) == []
