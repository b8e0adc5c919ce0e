"""Measure, keep the figures in ``benchmarks/results``, and render docs/performance.md from them."""

import argparse
import json
import logging
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.measure import environment
from benchmarks.tables import TABLES, render
from cordel.runtime.console import run_stage
from cordel.runtime.files import write_json

log = logging.getLogger("benchmarks")

SECTIONS = tuple(TABLES)
RESULTS = Path("benchmarks/results")


def main() -> None:
    """Measure the sections that are asked for, one after the other, and render all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--quick", action="store_true", help="few rounds, and nothing is kept")
    args = parser.parse_args()
    if unknown := sorted(set(args.sections) - set(SECTIONS)):
        parser.error(f"unknown section {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    for name in args.sections or SECTIONS:
        log.info("%s", name)
        measure: Callable[..., dict[str, Any]] = import_module(f"benchmarks.{name}").measure
        before = environment()
        found = {"environment": before} | measure(quick=args.quick)
        found["environment"]["load_after"] = environment()["load"]
        if args.quick:
            print(json.dumps(found, indent=1, ensure_ascii=False))
            print(TABLES[name](found))
        else:
            write_json(RESULTS / f"{name}.json", found)
    if not args.quick:
        render(RESULTS, Path("docs/performance.md"))


if __name__ == "__main__":
    run_stage(main)
