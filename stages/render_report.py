"""Render the report of this run as a page in English and in Portuguese."""

import argparse
import logging
from pathlib import Path

from cordel.reporting.adaptation import chosen_answers
from cordel.reporting.page.render import render
from cordel.reporting.page.run import Run
from cordel.runtime.console import run_stage
from cordel.runtime.files import write_jsonl
from cordel.runtime.params import PARAMS, known_profile, read_section

log = logging.getLogger(Path(__file__).stem)


def main() -> None:
    """Write the pages, and beside them the answers that they show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=Path, nargs="+", required=True, help="what is shown")
    parser.add_argument("--answers", type=Path, required=True, help="of score_answers")
    # No dep of the stage, which DVC writes into it: of it the page quotes hashes of deps alone.
    parser.add_argument("--lock", type=Path, required=True)
    parser.add_argument("--shown", type=Path, required=True, help="the answers on the page")
    parser.add_argument(
        "--pages", type=Path, nargs=2, required=True, metavar=("ENGLISH", "PORTUGUESE")
    )
    args = parser.parse_args()
    profile = known_profile(read_section("profile", kind=str))
    answers = list(chosen_answers(args.answers))
    files = {path.as_posix(): path for path in [*args.files, PARAMS]}
    if args.lock.exists():
        files["dvc.lock"] = args.lock
    render(Run(files, {args.shown.as_posix(): answers}), args.pages)
    write_jsonl(args.shown, answers)
    log.info("the report of profile %s: %s, %s", profile, *args.pages)


if __name__ == "__main__":
    run_stage(main)
