"""Imports point down. An arrow missing here is a design decision, not an oversight."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.test_pipeline_contract import ROOT, SOURCE, imported_names

MAY_IMPORT: dict[str, set[str]] = {
    "runtime": set(),  # plumbing knows nothing about language models
    "corpus": {"runtime"},
    "tokenizers": {"runtime"},
    "tokens": {"runtime"},  # format, between encode_corpus and the stages that compute
    "models": {"runtime"},  # pure torch; runtime only for its checked parameters
    "compute": {"runtime"},
    "checkpoints": {"models", "runtime"},  # format, between train_lm and the stages that read it
    "kneser_ney": {"runtime"},
    "losses": set(),
    "training": {
        "compute",
        "kneser_ney",
        "losses",
        "runtime",
        "tokens",
    },  # never a model by name: it is given one
    "evaluation": {"compute", "kneser_ney", "models", "runtime", "tokens"},
    "export": {"checkpoints", "runtime", "tokens"},
    "adaptation": {
        "compute",
        "corpus",
        "losses",
        "runtime",
        "tokens",
    },  # never training: its own loop
    "sizing": {"runtime"},
    "costs": {"runtime"},
    "estimate": {"costs", "runtime", "sizing"},
    "estimate_adaptation": {"costs", "estimate", "runtime", "sizing"},
    "comparison": {"evaluation", "runtime"},
    "parallel": {"pipeline", "runtime"},
    "pipeline": {"runtime"},
    # It loads and runs every kind of model, as the stages do; no stage and no module imports it.
    "play": {
        "adaptation",
        "checkpoints",
        "compute",
        "corpus",
        "evaluation",
        "runtime",
        "tokenizers",
        "tokens",
    },
    "profiles": {"runtime"},
    "guardrail_table": {"corpus", "evaluation", "reporting", "runtime", "tokenizers"},
    "publishing": {"pipeline", "reporting", "runtime"},
    "reporting": {"pipeline", "runtime"},
    "runs": {"runtime"},
    "seeds": {"costs", "profiles", "reporting", "runtime"},
    "cli": {"runtime", "verbs"},
    "verbs": {
        "comparison",
        "estimate",
        "estimate_adaptation",
        "guardrail_table",
        "parallel",
        "play",
        "profiles",
        "publishing",
        "reporting",
        "runs",
        "runtime",
        "seeds",
        "verification",
    },
    "verification": {"runtime"},
}
HEAVY = ("torch", "transformers", "datasets", "peft", "bitsandbytes", "pandas")
TEXT_STAGES = (
    "export_corpus",
    "split_corpus",
    "clean_corpus",
    "train_tokenizer",
    "encode_corpus",
    "prepare_cpt",
    "prepare_sft",
    "prepare_tasks",
    "check_samples",
    "score_answers",
    "check_leakage",
    "account_costs",
    "write_cards",
    "render_report",
)


def files_of(layer: str) -> list[Path]:
    root = SOURCE / "cordel" / layer
    return sorted(root.rglob("*.py")) if root.is_dir() else [root.with_suffix(".py")]


@pytest.mark.parametrize("layer", MAY_IMPORT)
def test_imports_point_down(layer: str):
    seen = {
        name.split(".")[1] for f in files_of(layer) for name in imported_names(f) if "." in name
    }
    assert seen - {layer} <= MAY_IMPORT[layer]


def test_every_module_has_a_layer():
    modules = {p.stem for p in (SOURCE / "cordel").iterdir() if not p.name.startswith("__")}
    assert modules == set(MAY_IMPORT)


@pytest.mark.parametrize("stage", TEXT_STAGES)
def test_text_stages_never_import_torch(stage: str):
    # Importing torch costs 1.3 CPU seconds, Trainer and peft about 10.
    code = f"import sys, stages.{stage}; print([m for m in {HEAVY!r} if m in sys.modules])"

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
