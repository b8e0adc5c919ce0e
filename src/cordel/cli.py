"""The console command ``cordel``: its verbs are in ``verbs/``."""

import argparse

from cordel.runtime.console import run_stage
from cordel.verbs import Verb
from cordel.verbs.compare import COMPARE
from cordel.verbs.estimate import ESTIMATE
from cordel.verbs.guardrails import GUARDRAILS
from cordel.verbs.play import PLAY
from cordel.verbs.profile import PROFILE
from cordel.verbs.publish import PUBLISH
from cordel.verbs.repro import REPRO
from cordel.verbs.results import PUBLISH_RESULTS, REPORT, RESULTS
from cordel.verbs.runs import ADD_RUN, REMOVE_RUN
from cordel.verbs.seeds import SEEDS
from cordel.verbs.upkeep import OFFLINE_PLOTS, VERIFY

VERBS: tuple[Verb, ...] = (  # in the order of --help
    PROFILE,
    ESTIMATE,
    REPRO,
    COMPARE,
    SEEDS,
    ADD_RUN,
    REMOVE_RUN,
    PLAY,
    RESULTS,
    PUBLISH_RESULTS,
    REPORT,
    PUBLISH,
    GUARDRAILS,
    OFFLINE_PLOTS,
    VERIFY,
)
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
  cordel add-run v8 --like v7          a further run, in params.yaml and wherever runs are joined
  cordel seeds v7 43 44 && dvc repro   train v7 twice more; `cordel seeds` shows the spread
  cordel publish-results ptbr          keep a profile's metrics in results/ptbr and docs/results.md
  cordel publish v7 --to OWNER/REPO    show what would go to the Hugging Face hub; --yes sends it
  cordel play                          a page where every trained model continues your prompt
  cordel results                       render docs/results.md and the tables of other documents
  cordel report --results results/ptbr --out reports/ptbr   that profile's report as a page
  cordel offline-plots && dvc plots show   pages that open without a network (`make setup` did it)
  cordel verify                        is what DVC keeps still what was written?
  cordel guardrails --tokenizer data/tokenizers/*/tokenizer.model --text FOLDER --out table.md
                                       what guardrails tell from noise, in text of your own
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
    for verb in VERBS:
        its_own = verbs.add_parser(
            verb.name,
            help=verb.help,
            description=verb.description or f"{verb.help[0].upper()}{verb.help[1:]}.",
            epilog=verb.examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        verb.add_arguments(its_own)
    args = parser.parse_args()
    chosen = next(verb for verb in VERBS if verb.name == args.verb)
    chosen.check(args, verbs.choices[args.verb].error)
    run_stage(lambda: chosen.run(args))
