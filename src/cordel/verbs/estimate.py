"""``cordel estimate``."""

import logging
import math
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import NoReturn

from cordel.runtime.errors import ParamsError, UserError
from cordel.verbs import Verb

log = logging.getLogger("cordel")


DESCRIPTION = """\
Print what each stage of both tracks will take with the current params.yaml: tokens, time, memory,
disk and USD. The machine is measured for that, in under a second. Seconds are also written to
.ckpt/estimates.json, from where each stage's ledger takes them: `estimate_over_actual` in
metrics/costs.json says how good they were. Counts of data that is not there yet are assumed.
"""
EXAMPLES = """\
examples:
  cordel estimate                                             on this machine
  cordel profile thesis
  cordel estimate --gpu "NVIDIA GeForce RTX 4090" --tflops 165  before that GPU is rented

A GPU is priced by costs.usd_per_hour of params.yaml, under the name that nvidia-smi gives it; take
--tflops, dense bfloat16, from its data sheet (RTX 3090: 71, RTX 4090: 165, H100 SXM: 989).
"""


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--gpu", metavar="NAME", help="a GPU that is not here, by its name")
    parser.add_argument("--tflops", metavar="X", type=float, help="its bfloat16 peak, in TFLOP/s")


def _check(args: Namespace, error: Callable[[str], NoReturn]) -> None:
    if (args.gpu is None) != (args.tflops is None):
        error("--gpu and --tflops go together: a GPU's name and its bfloat16 peak")
    if args.tflops is not None and not 0 < args.tflops < math.inf:
        error(f"--tflops is {args.tflops}, expected above 0 and finite")


def _run(args: Namespace) -> None:
    from cordel.estimate import (  # noqa: PLC0415
        ESTIMATES,
        Calibration,
        assumptions,
        calibrate,
        estimate,
        price_of,
        read_all,
        render,
        save_estimates,
    )
    from cordel.estimate_adaptation import estimate_track_2  # noqa: PLC0415

    params = read_all()
    try:
        if args.gpu is None:
            compute = params["compute"]
            machine = calibrate(compute["device"], threads=compute["threads"])
        else:
            machine = Calibration(
                device="cuda", device_name=args.gpu, matmul_peak=1e12 * args.tflops
            )
        found = estimate(params, machine=machine)
        adapted, notes = estimate_track_2(params, machine=machine)
        assumed = assumptions(params)
        price, source = price_of(params, machine)
    except UserError:
        raise
    except KeyError as error:
        raise ParamsError(f"params.yaml: no key {error}; see `git diff params.yaml`") from error
    found += adapted
    sys.stdout.write(render(found) + "\n")
    sys.stdout.flush()
    log.info(
        "%s at %.3g TFLOP/s%s",
        machine.device_name,
        machine.matmul_peak / 1e12,
        " (measured)" if args.gpu is None else " (as given; not measured)",
    )
    log.info("price: %s", source if price is None else f"{price:.2f} USD an hour, {source}")
    for note in [assumed, *notes]:
        log.info("%s", note)
    if args.gpu is None:
        save_estimates(found)
        log.info("wrote the seconds to %s, for the ledgers", ESTIMATES)


ESTIMATE = Verb(
    name="estimate",
    help="say what each stage will take, before it runs",
    description=DESCRIPTION,
    examples=EXAMPLES,
    add_arguments=_add_arguments,
    check=_check,
    run=_run,
)
