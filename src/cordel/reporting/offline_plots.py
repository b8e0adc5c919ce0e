"""Pages of ``dvc plots`` that open without a network.

DVC's page loads Vega from a CDN and stays blank without one. DVC can be given another page: this
one is its own with Vega inside, as vl-convert bundles it (0.9 MB, so it is made and not committed).
"""

import subprocess
import sys
from pathlib import Path

from cordel.reporting.vega import vega_script
from cordel.runtime.errors import EnvironmentProblem
from cordel.runtime.files import write_text

PAGE = "offline.html"  # below .dvc/, from where DVC reads plots.html_template
VEGA_LITE = "5.21"  # of what vl-convert has, the last of the version that DVC's templates name


def write_offline_page(root: Path = Path()) -> Path:
    """Write ``.dvc/offline.html`` and make it the page of ``dvc plots`` in this clone.

    The setting is as local as the file: where the page is configured and missing, DVC fails, so a
    clone in which this never ran must not have the setting.

    Raises:
        EnvironmentProblem: ``root`` is no DVC project.
    """
    if not (root / ".dvc").is_dir():
        raise EnvironmentProblem(
            f"{root.resolve()}: no .dvc here; run from the root of the project"
        )
    page = root / ".dvc" / PAGE
    write_text(page, _page_with_vega())
    subprocess.run(  # noqa: S603  (no word of it comes from outside)
        [sys.executable, "-m", "dvc", "config", "-q", "--local", "plots.html_template", PAGE],
        cwd=root,
        check=True,
    )
    return page


def _page_with_vega() -> str:
    from dvc_render.html import PAGE_HTML  # noqa: PLC0415  (`cordel results` needs none)

    return PAGE_HTML.replace("{scripts}", f"<script>{vega_script(VEGA_LITE)}</script>")
