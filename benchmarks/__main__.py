"""Measure, keep the figures in ``benchmarks/results``, and render docs/performance.md from them.

The sections read what `dvc repro` leaves in data/, so that is run first.
"""

import argparse
import json
import logging
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

import stages  # noqa: F401  (its filters of libraries' warnings)
from benchmarks.measure import environment
from benchmarks.tables import TABLES, render
from cordel.runtime.console import run_stage
from cordel.runtime.files import write_text

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
    here = [n for n in SECTIONS if args.quick or n != "gpu" or torch.cuda.is_available()]
    for name in args.sections or here:
        log.info("%s", name)
        measure: Callable[..., dict[str, Any]] = import_module(f"benchmarks.{name}").measure
        before = environment()
        found = {"environment": before} | measure(quick=args.quick)
        found["environment"]["load_after"] = environment()["load"]
        if args.quick:
            sys.stdout.write(f"{TABLES[name](found)}\n\n")
        else:
            # Not sorted: a table has its rows in the order in which they were measured.
            write_text(RESULTS / f"{name}.json", json.dumps(found, indent=1, ensure_ascii=False))
    if not args.quick:
        render(RESULTS, Path("docs/performance.md"))


if __name__ == "__main__":
    run_stage(main)
