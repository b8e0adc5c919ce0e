"""``cordel offline-plots`` and ``verify``."""

import logging
from argparse import Namespace
from pathlib import Path

from cordel.verbs import Verb

log = logging.getLogger("cordel")


def _offline_plots(_: Namespace) -> None:
    from cordel.reporting.offline_plots import write_offline_page  # noqa: PLC0415

    log.info("wrote %s, the page of `dvc plots show` and `diff` from now on", write_offline_page())


def _verify(_: Namespace) -> None:
    from dvc.repo import Repo  # noqa: PLC0415

    from cordel.verification import remove_damaged  # noqa: PLC0415

    cache = Path(Repo().cache.local.path)
    checked, removed = remove_damaged(Path(), cache)
    for path in removed:
        log.info("deleted %s: not what was written", path)
    remedy = "`dvc pull` or `dvc repro` brings it back" if removed else "nothing to do"
    log.info("%d objects hashed, %d files deleted; %s", checked, len(removed), remedy)


OFFLINE_PLOTS = Verb(
    name="offline-plots",
    help="make the pages of `dvc plots` open without a network",
    run=_offline_plots,
)
VERIFY = Verb(
    name="verify",
    help="hash the whole DVC cache and delete what a disk has damaged",
    run=_verify,
)
