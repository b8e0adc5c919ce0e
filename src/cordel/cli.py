"""The console command ``cordel``."""

import argparse
import logging
import math
import sys
from pathlib import Path
from typing import Any

from cordel.runtime.console import run_stage
from cordel.runtime.errors import ParamsError, UserError

DESCRIPTION = """\
Language models for Brazilian Portuguese: v1 to v7 from scratch, and an open model adapted.

The pipeline itself is DVC's: `dvc repro` rebuilds what changed, `dvc exp run -S key=value` tries a
variation, `dvc metrics diff main` compares branches. This command does what DVC does not.
"""
EXAMPLES = """\
examples:
  cordel estimate                      time, memory, disk and USD of each stage, before it runs
  cordel profile ptbr && dvc repro     train on a local folder of real text
  git checkout main -- params.yaml     back to the embedded sample
  cordel compare main HEAD             what changed between two revisions, and is it chance?
  cordel compare --models base sft     the same between two models of one revision
  cordel repro --jobs 2                 `dvc repro`, with independent stages at once
  cordel seeds v7 43 44 && dvc repro   train v7 twice more; `cordel seeds` shows the spread
  cordel publish-results ptbr          keep a profile's metrics in results/ptbr and docs/results.md
  cordel results                       render docs/results.md and the tables of other documents
  cordel report --results results/ptbr --out reports/ptbr   that profile's report as a page
  cordel offline-plots && dvc plots show   pages that open without a network (`make setup` did it)
  cordel verify                        is what DVC keeps still what was written?
  cordel guardrails --tokenizer data/tokenizers/*/tokenizer.model --text FOLDER --out table.md
                                       what guardrails tell from noise, in text of your own
"""
ESTIMATE = """\
Print what each stage of both tracks will take with the current params.yaml: tokens, time, memory,
disk and USD. The machine is measured for that, in under a second. Seconds are also written to
.ckpt/estimates.json, from where each stage's ledger takes them: `estimate_over_actual` in
metrics/costs.json says how good they were. Counts of data that is not there yet are assumed.
"""
ESTIMATE_EXAMPLES = """\
examples:
  cordel estimate                                             on this machine
  cordel profile thesis
  cordel estimate --gpu "NVIDIA GeForce RTX 4090" --tflops 165  before that GPU is rented

A GPU is priced by costs.usd_per_hour of params.yaml, under the name that nvidia-smi gives it; take
--tflops, dense bfloat16, from its data sheet (RTX 3090: 71, RTX 4090: 165, H100 SXM: 989).
"""
SEEDS = """\
Train a run or an SFT arm with further seeds. First says what each will cost, by the ledgers of the
default seed; then writes them into the section seeds of params.yaml, from which `dvc repro` runs
them and nothing else. Without arguments: what the seeds that are there show, as Markdown.
"""
SEEDS_EXAMPLES = """\
examples:
  cordel seeds v7 43 44 && dvc repro     two further seeds of v7
  cordel seeds sft 43 44 && dvc repro    two of the arm sft
  cordel seeds                           each seed's figures, mean, standard deviation, extremes
  cordel seeds --out docs/seeds.md       the same into a file
  cordel seeds --remove v7-43
"""

REPRO = """\
Do what `dvc repro` does, with independent stages at once: only what is stale or follows from it,
the longest way to the end first, each stage by a DVC of its own, with its output in logs/. A plain
`dvc repro` ends it. Ctrl-C lets the stages that run save their checkpoints; the same command goes
on from there. Each stage takes compute.threads threads and its own memory.
"""
REPRO_EXAMPLES = """\
examples:
  cordel repro --jobs 2                 two stages at once; `make repro JOBS=2` is the same
  cordel repro --jobs 2 train_lm        the runs from scratch and what they need
  cordel repro --gpus 0,1               one stage on each of two GPUs
  cordel repro --gpus 0,1 --jobs 4      two on each
"""
COMPARE = """\
Say what changed from A to B, by how much, whether it is more than chance, and what so many items
could show. A and B are branches, tags, commits or DVC experiments, or `workspace` for the files as
they are; with --models, two runs or arms of one revision. Only the scores of items that git tracks
are read (metrics/items), so a clone without any data will do.
"""
COMPARE_EXAMPLES = """\
examples:
  cordel compare main HEAD                      this branch against main
  cordel compare HEAD workspace                 what the last `dvc repro` changed
  cordel compare main lilac-vole                an experiment of `dvc exp run`
  cordel compare --models base sft              two arms: bits per byte, and the answers
  cordel compare --models v5_main v7 --rev main --results results/ptbr
  cordel compare main HEAD --json changes.json  the same as data
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
    estimate = verbs.add_parser(
        "estimate",
        help="say what each stage will take, before it runs",
        description=ESTIMATE,
        epilog=ESTIMATE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    estimate.add_argument("--gpu", metavar="NAME", help="a GPU that is not here, by its name")
    estimate.add_argument("--tflops", metavar="X", type=float, help="its bfloat16 peak, in TFLOP/s")
    compare = verbs.add_parser(
        "compare",
        help="say what changed between two revisions or models, and whether by chance",
        description=COMPARE,
        epilog=COMPARE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    compare.add_argument("a", metavar="A", help="a revision; with --models, a run or arm")
    compare.add_argument("b", metavar="B", help="what is compared with A")
    compare.add_argument("--models", action="store_true", help="A and B are runs or arms")
    compare.add_argument(
        "--rev", metavar="REV", help="with --models: of which revision [workspace]"
    )
    compare.add_argument(
        "--results", metavar="DIR", type=Path, default=Path(), help="where metrics/ is [.]"
    )
    compare.add_argument("--json", metavar="FILE", type=Path, help="write the same as data")
    seeds = verbs.add_parser(
        "seeds",
        help="train a run or arm with further seeds, and show their spread",
        description=SEEDS,
        epilog=SEEDS_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    seeds.add_argument("name", nargs="?", help="a run of models, or sft or cpt_sft")
    seeds.add_argument("seed", nargs="*", type=int)
    seeds.add_argument("--remove", metavar="KEY", nargs="+", help="entries, such as v7-43")
    seeds.add_argument("--out", metavar="FILE", type=Path, help="write the table here")
    repro = verbs.add_parser(
        "repro",
        help="`dvc repro` with independent stages at once, on one or more GPUs",
        description=REPRO,
        epilog=REPRO_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    repro.add_argument("targets", nargs="*", help="stages, as for dvc repro [all]")
    repro.add_argument("--jobs", metavar="N", type=int, help="stages at once [2, or one a GPU]")
    repro.add_argument("--gpus", metavar="0,1", default="", help="GPUs by nvidia-smi's numbers")
    repro.add_argument(
        "--keep-going", action="store_true", help="after a failure, run what does not depend on it"
    )
    _add_results(verbs)
    verbs.add_parser("offline-plots", help="make the pages of `dvc plots` open without a network")
    verbs.add_parser("verify", help="hash the whole DVC cache and delete what a disk has damaged")
    guardrails = verbs.add_parser(
        "guardrails", help="calibrate guardrails on a text, and say what they tell from noise"
    )
    guardrails.add_argument(
        "--tokenizer", type=Path, nargs="+", required=True, metavar="FILE.model"
    )
    guardrails.add_argument("--text", required=True, metavar="FOLDER_OR_GLOB")
    guardrails.add_argument("--out", type=Path, required=True, metavar="FILE.md")
    args = parser.parse_args()
    if args.verb == "estimate" and (args.gpu is None) != (args.tflops is None):
        estimate.error("--gpu and --tflops go together: a GPU's name and its bfloat16 peak")
    if args.verb == "estimate" and args.tflops is not None and not 0 < args.tflops < math.inf:
        estimate.error(f"--tflops is {args.tflops}, expected above 0 and finite")
    if args.verb == "compare" and args.rev is not None and not args.models:
        compare.error("--rev goes with --models; without it A and B are the revisions")
    if args.verb == "repro" and args.jobs is not None and args.jobs < 1:
        repro.error(f"--jobs is {args.jobs}, expected at least 1")
    if args.verb == "seeds" and sum(map(bool, (args.name, args.remove, args.out))) > 1:
        seeds.error("a name with its seeds, --remove and --out do not go together")
    if args.verb == "seeds" and args.name and not args.seed:
        seeds.error(f"which seeds? such as: cordel seeds {args.name} 43 44")
    run_stage(lambda: _run(args))


def _add_results(verbs: Any) -> None:
    """Add the verbs that keep and show results."""
    publish = verbs.add_parser("publish-results", help="keep the current run under results/NAME")
    publish.add_argument("name", help="the profile that was run")
    verbs.add_parser("results", help="render docs/results.md and the tables of other documents")
    report = verbs.add_parser("report", help="render the report of a folder of results/ as a page")
    report.add_argument("--results", type=Path, required=True, metavar="DIR")
    report.add_argument("--out", type=Path, required=True, metavar="DIR")


def _run(args: argparse.Namespace) -> None:
    log = logging.getLogger("cordel")
    if args.verb == "profile":
        from cordel.profiles import apply_profile  # noqa: PLC0415  (each verb loads its own)

        changed = apply_profile(args.name)
        log.info("params.yaml is now profile %s: %d keys changed", args.name, len(changed))
        log.info("see them with `git diff params.yaml`, run it with `dvc repro`")
        return
    if args.verb == "estimate":
        _estimate(args, log)
        return
    if args.verb == "guardrails":
        from cordel.guardrail_table import write_guardrail_table  # noqa: PLC0415

        write_guardrail_table(args.tokenizer, args.text, args.out)
        log.info("wrote %s", args.out)
        return
    if args.verb == "offline-plots":
        from cordel.reporting.offline_plots import write_offline_page  # noqa: PLC0415

        log.info(
            "wrote %s, the page of `dvc plots show` and `diff` from now on", write_offline_page()
        )
        return
    if args.verb == "compare":
        _compare(args)
        return
    if args.verb == "seeds":
        _seeds(args, log)
        return
    if args.verb == "repro":
        from cordel.parallel import repro  # noqa: PLC0415

        gpus = [gpu for gpu in args.gpus.split(",") if gpu]
        jobs = args.jobs or len(gpus) or 2
        repro(args.targets, jobs=jobs, gpus=gpus, keep_going=args.keep_going)
        return
    if args.verb == "report":
        from cordel.reporting.page.render import render_folder  # noqa: PLC0415

        render_folder(args.results, args.out)
        log.info("wrote %s", args.out / "index.html")
        return
    from cordel.reporting.reruns import render_reruns  # noqa: PLC0415

    if args.verb == "verify":
        _verify(log)
        return
    from cordel.reporting.results import publish_results, render_results  # noqa: PLC0415

    if args.verb == "publish-results":
        publish_results(args.name, root=Path())
    render_results(root=Path())
    render_reruns(root=Path())
    log.info("rendered docs/results.md, the README's tables and docs/architecture.md's of reruns")


def _compare(args: argparse.Namespace) -> None:
    from cordel.comparison import (  # noqa: PLC0415
        WORKSPACE,
        compare,
        model_of,
        read_scores,
        render,
        write_comparison,
    )

    if args.models:
        scores = read_scores(args.rev or WORKSPACE, args.results)
        a, b = model_of(scores, args.a), model_of(scores, args.b)
    else:
        a, b = (read_scores(revision, args.results) for revision in (args.a, args.b))
    found = compare(a, b)
    sys.stdout.write(render(found) + "\n")
    if args.json is not None:
        write_comparison(args.json, found)


def _estimate(args: argparse.Namespace, log: logging.Logger) -> None:
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


def _seeds(args: argparse.Namespace, log: logging.Logger) -> None:
    from cordel.runtime.files import write_text  # noqa: PLC0415
    from cordel.seeds import (  # noqa: PLC0415
        add_seeds,
        cost_of_one,
        remove_seeds,
        render_page,
        render_seeds,
    )

    if args.remove:
        remove_seeds(args.remove)
        log.info("removed from params.yaml; `git clean` takes their files, and their objects:")
        log.info("dvc gc --all-branches --all-tags --all-experiments")  # not -w: docs/remotes.md
    elif args.name:
        each = cost_of_one(args.name)
        log.info("each further seed of %s: %s (as its default seed took)", args.name, each)
        keys = add_seeds(args.name, args.seed)
        log.info("params.yaml has %s now; next: dvc repro, then cordel seeds", ", ".join(keys))
    elif args.out:
        write_text(args.out, render_page())
        log.info("wrote %s", args.out)
    else:
        sys.stdout.write(render_seeds())


def _verify(log: logging.Logger) -> None:
    from dvc.repo import Repo  # noqa: PLC0415

    from cordel.verification import remove_damaged  # noqa: PLC0415

    cache = Path(Repo().cache.local.path)
    checked, removed = remove_damaged(Path(), cache)
    for path in removed:
        log.info("deleted %s: not what was written", path)
    remedy = "`dvc pull` or `dvc repro` brings it back" if removed else "nothing to do"
    log.info("%d objects hashed, %d files deleted; %s", checked, len(removed), remedy)
