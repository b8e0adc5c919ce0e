"""The console command ``cordel``."""

import argparse
import logging
from pathlib import Path

from cordel.runtime.console import run_stage

DESCRIPTION = """\
Language models for Brazilian Portuguese: v1 to v7 from scratch, and an open model adapted.

The pipeline itself is DVC's: `dvc repro` rebuilds what changed, `dvc exp run -S key=value` tries a
variation, `dvc metrics diff main` compares branches. This command does what DVC does not.
"""
EXAMPLES = """\
examples:
  cordel profile ptbr && dvc repro     train on a local folder of real text
  git checkout main -- params.yaml     back to the embedded sample
  cordel publish-results ptbr          keep a profile's metrics in results/ptbr and docs/results.md
  cordel results                       render docs/results.md and the README's table again
"""


def main() -> None:
    """Run one verb."""
    parser = argparse.ArgumentParser(
        prog="cordel",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    profile = verbs.add_parser("profile", help="merge an overlay of profiles/ into params.yaml")
    profile.add_argument("name", help="smoke | ptbr | thesis")
    publish = verbs.add_parser("publish-results", help="keep the current run under results/NAME")
    publish.add_argument("name", help="the profile that was run")
    verbs.add_parser("results", help="render docs/results.md and the README's table")
    args = parser.parse_args()
    run_stage(lambda: _run(args))


def _run(args: argparse.Namespace) -> None:
    log = logging.getLogger("cordel")
    if args.verb == "profile":
        from cordel.profiles import apply_profile  # noqa: PLC0415  (each verb loads its own)

        changed = apply_profile(args.name)
        log.info("params.yaml is now profile %s: %d keys changed", args.name, len(changed))
        log.info("see them with `git diff params.yaml`, run it with `dvc repro`")
        return
    from cordel.reporting.results import publish_results, render_results  # noqa: PLC0415

    if args.verb == "publish-results":
        publish_results(args.name, root=Path())
    render_results(root=Path())
    log.info("rendered docs/results.md and the README's table")
