"""``cordel publish-results``, ``results`` and ``report``."""

import logging
from argparse import ArgumentParser, Namespace
from pathlib import Path

from cordel.verbs import Verb

log = logging.getLogger("cordel")


def _add_name(parser: ArgumentParser) -> None:
    parser.add_argument("name", help="the profile that was run")


def _publish(args: Namespace) -> None:
    from cordel.reporting.results import publish_results  # noqa: PLC0415

    publish_results(args.name, root=Path())
    _render(args)


def _render(_: Namespace) -> None:
    from cordel.reporting.reruns import render_reruns  # noqa: PLC0415
    from cordel.reporting.results import render_results  # noqa: PLC0415

    render_results(root=Path())
    render_reruns(root=Path())
    log.info("rendered docs/results.md, and the tables of both READMEs and docs/architecture.md")


def _add_folders(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--results", type=Path, required=True, metavar="DIR", help="such as results/ptbr"
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="where both pages go, made if need be",
    )


def _report(args: Namespace) -> None:
    from cordel.reporting.page.render import render_folder  # noqa: PLC0415

    render_folder(args.results, args.out)
    log.info("wrote %s", args.out / "index.html")


PUBLISH_RESULTS = Verb(
    name="publish-results",
    help="keep the current run under results/NAME",
    add_arguments=_add_name,
    run=_publish,
)
RESULTS = Verb(
    name="results",
    help="render docs/results.md and the tables of both READMEs and docs/architecture.md",
    run=_render,
)
REPORT = Verb(
    name="report",
    help="render the report of a folder of results/ as a page",
    add_arguments=_add_folders,
    run=_report,
)
