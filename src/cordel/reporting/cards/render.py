"""Model and data cards as the Hugging Face hub reads them: front matter, results, cost, licences.

The words stand in ``model.md.jinja`` and ``data.md.jinja``; every number comes from
metrics. Cards are downstream of everything, so that neither a word nor a score retrains anything.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import (
    DatasetCard,
    DatasetCardData,
    EvalResult,
    ModelCard,
    ModelCardData,
)
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cordel.runtime.console import duration
from cordel.runtime.params import require

REPOSITORY = "OWNER/NAME"  # in a card until `cordel publish` knows better
TASKS = (
    ("qa", "em", "exact match"),
    ("qa", "f1", "F1"),
    ("summarization", "rouge_l", "ROUGE-L"),
    ("rewriting", "rouge_l", "ROUGE-L"),
)
SPLITS = {
    "train": "training",
    "val": "choosing checkpoints and settings",
    "test": "final scores",
    "reserved": "registers kept from training from scratch, for continued pretraining",
}
LEARNT = {
    "cpt": "continued pretraining on documents",
    "sft": "fine-tuning on instructions",
    "cpt_sft": "continued pretraining on documents, then fine-tuning on instructions",
    "instruct_sft": "fine-tuning of an instruct model on instructions",
}
STAGES = {
    "cpt": ("adapt_cpt",),
    "sft": ("adapt_sft@sft",),
    "cpt_sft": ("adapt_cpt", "adapt_sft@cpt_sft"),
    "instruct_sft": ("adapt_sft@instruct_sft",),
}
Source = Literal["sample", "jsonl", "hf"]
LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Licence:
    """What no file of an input says about it."""

    license: str  # an identifier of the hub, such as apache-2.0; `unknown` where nobody says
    gated: bool  # whether its owner grants access one by one
    note: str

    def __post_init__(self) -> None:
        """Check the identifier."""
        require(
            LICENSE.fullmatch(self.license) is not None,
            f"license is {self.license!r}, expected an identifier such as apache-2.0 or unknown",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CardParams:
    """The section ``cards`` of params.yaml: the inputs of corpora, models and adapters."""

    corpus: Licence
    instructions: Licence
    base: Licence
    instruct: Licence


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where text is from."""

    source: Source
    dataset: str  # of `hf`


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What cards tell: metrics as their stages wrote them, and the sections that made them."""

    profile: str
    scores: Mapping[str, Any]  # metrics/lm, of the runs and arms that get a card
    merged: Mapping[str, Any]  # metrics/export, of merged adapters
    corpora: Mapping[str, Any]  # metrics/corpus, by recipe
    recipes: Mapping[str, Any]  # cleaning, by recipe
    clusters: Mapping[str, Any]
    leaderboard: Mapping[str, Any]
    references: Mapping[str, Any]
    answers: Mapping[str, Any]
    guardrails: Mapping[str, Any]  # by run
    leakage: Mapping[str, Any]
    costs: Mapping[str, Any]
    bases: Mapping[str, Any]  # base.json, by key of base_models
    lora: Mapping[str, Any]
    corpus: Origin
    instructions: Origin
    documents: str  # of continued pretraining: reserved or train
    licences: CardParams
    confidence: float


def run_card(run: str, facts: Facts) -> ModelCard:
    """Return the card of a model that was trained from scratch.

    Raises:
        ArtifactError: A metric is missing.
    """
    inputs = [_corpus_input(facts)]
    data = ModelCardData(
        **_front_matter(run, inputs, facts, stages=[f"train_lm@{run}"]),
        library_name="transformers",
        tags=["cordel", "portuguese", "from-scratch"],
        eval_results=_language_results(run, facts),
    )
    return _model_card(
        data,
        _shared(run, inputs, facts, stages=[f"train_lm@{run}"]),
        kind="run",
        score=facts.scores[run],
        leader=facts.leaderboard[run],
        answers=None,
        guardrail=facts.guardrails[run],
        references=facts.references,
    )


def adapter_card(arm: str, facts: Facts) -> ModelCard:
    """Return the card of a LoRA adapter.

    Raises:
        ArtifactError: A metric is missing.
    """
    key = base_of_arm(arm)
    inputs = _arm_inputs(arm, facts)
    base = facts.bases[key]
    data = ModelCardData(
        **_front_matter(arm, inputs, facts, stages=STAGES[arm]),
        base_model=base["model"],
        base_model_relation="adapter",
        library_name="peft",
        tags=["cordel", "portuguese", "lora", "qlora"],
        eval_results=_language_results(arm, facts) + _answer_results(arm, facts),
    )
    return _model_card(
        data,
        _shared(arm, inputs, facts, stages=STAGES[arm]),
        kind="adapter",
        score=facts.scores[arm],
        leader=facts.leaderboard[arm],
        answers=facts.answers,
        shown=TASKS,
        base_arm=key,
        base_score=facts.leaderboard[key],
        base=base,
        lora=facts.lora,
        learnt=LEARNT[arm],
        guardrail=None,
    )


def merged_card(arm: str, facts: Facts) -> ModelCard:
    """Return the card of an adapter merged into its base, which nobody has scored as such."""
    inputs = _arm_inputs(arm, facts)
    base = facts.bases[base_of_arm(arm)]
    data = ModelCardData(
        **_front_matter(arm, inputs, facts, stages=STAGES[arm]),
        base_model=base["model"],
        base_model_relation="finetune",
        library_name="transformers",
        tags=["cordel", "portuguese", "merged"],
    )
    shared = _shared(arm, inputs, facts, stages=STAGES[arm]) | {"name": f"{arm}_merged"}
    return _model_card(
        data,
        shared,
        kind="merged",
        arm=arm,
        base=base,
        merged=facts.merged[arm],
        guardrail=None,
    )


def corpus_card(recipe: str, facts: Facts) -> DatasetCard:
    """Return the card of the clean documents of one recipe.

    They, and not the exported corpus, are what a reader can use: with splits, and as models read
    them.

    Raises:
        ArtifactError: A metric is missing.
    """
    source = _corpus_input(facts)
    counts = facts.corpora[recipe]
    splits = [split for split in SPLITS if split in counts["kept"]]
    documents = sum(counts["kept"][split] for split in splits)
    data = DatasetCardData(
        language="pt",
        license=source["license"],
        pretty_name=f"{recipe} ({facts.profile})",
        tags=["cordel", "portuguese"],
        task_categories=["text-generation"],
        size_categories=[_size_category(documents)],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": s, "path": f"{s}.parquet"} for s in splits],
            }
        ],
    )
    text = _rendered(
        "data.md.jinja",
        name=recipe,
        repository=REPOSITORY,
        profile=facts.profile,
        counts=counts,
        clusters=facts.clusters,
        recipe=_flat(facts.recipes[recipe]),
        splits=SPLITS,
        input=source,
        leakage=facts.leakage["test"]["train"],
    )
    return DatasetCard(f"---\n{data.to_yaml()}\n---\n\n{text}")


def base_of_arm(arm: str) -> Literal["base", "instruct"]:
    """Return the key of base_models on which the arm stands."""
    return "instruct" if arm.startswith("instruct") else "base"


def _model_card(data: ModelCardData, shared: dict[str, Any], **more: Any) -> ModelCard:
    text = _rendered("model.md.jinja", license=data.license, **shared, **more)
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")


def _front_matter(
    name: str, inputs: list[dict[str, Any]], facts: Facts, *, stages: list[str] | tuple[str, ...]
) -> dict[str, Any]:
    """Return what every model's card begins with; keys without a value are left out by the hub."""
    found = {i["license"] for i in inputs}
    license_of = found.pop() if len(found) == 1 else "other"
    hub = [i["hub"] for i in inputs if i["hub"] and i["what"] != "base"]
    costs = [facts.costs["stages"][stage] for stage in stages]
    kilograms = [cost["co2_kg"] for cost in costs]
    return {
        "language": "pt",
        "license": license_of,
        "license_name": "terms-of-the-inputs" if license_of == "other" else None,
        "model_name": name,
        "pipeline_tag": "text-generation",
        "datasets": hub or None,
        "co2_eq_emissions": None
        if None in kilograms
        else {"emissions": round(1000 * sum(kilograms), 3), "source": "measured by cordel"},
    }


def _shared(
    name: str, inputs: list[dict[str, Any]], facts: Facts, *, stages: list[str] | tuple[str, ...]
) -> dict[str, Any]:
    return {
        "name": name,
        "repository": REPOSITORY,
        "profile": facts.profile,
        "inputs": inputs,
        "confidence": facts.confidence,
        "costs": {stage: facts.costs["stages"][stage] for stage in stages},
        "leakage": facts.leakage["test"]["train"],
    }


def _language_results(name: str, facts: Facts) -> list[EvalResult]:
    score = facts.scores[name]
    bound = "" if score["lossless"] else " (a lower bound)"
    labels = {
        "bits_per_byte": f"bits per byte{bound}",
        "perplexity": "perplexity",
        "accuracy": "accuracy of the next token",
    }
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=f"cordel-{facts.profile}",
            dataset_name="cordel's common test documents",
            dataset_config="lossless",
            dataset_split="test",
            metric_type=metric,
            metric_name=label,
            metric_value=score[metric],
        )
        for metric, label in labels.items()
    ]


def _answer_results(arm: str, facts: Facts) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=f"cordel-{facts.profile}",
            dataset_name=f"cordel's {task} prompts",
            dataset_config=task,  # results of one configuration are one entry of model-index
            dataset_split="test",
            metric_type=metric,
            metric_name=f"{label}, mean over the seeds of the task sets",
            metric_value=facts.answers[arm][task][metric]["mean"],
        )
        for task, metric, label in TASKS
    ]


def _arm_inputs(arm: str, facts: Facts) -> list[dict[str, Any]]:
    key = base_of_arm(arm)
    base = facts.bases[key]
    hub = base["model"] if base["source"] == "hf" else None
    inputs = [_input("base", f"`{base['model']}`", hub, getattr(facts.licences, key))]
    if arm.startswith("cpt"):
        inputs.append(_corpus_input(facts) | {"what": f"documents ({facts.documents})"})
    if arm.endswith("sft"):
        source, hub = _source(facts.instructions)
        inputs.append(_input("instructions", source, hub, facts.licences.instructions))
    return inputs


def _corpus_input(facts: Facts) -> dict[str, Any]:
    source, hub = _source(facts.corpus)
    return _input("documents", source, hub, facts.licences.corpus)


def _source(origin: Origin) -> tuple[str, str | None]:
    """Return where text is from in words, and its name on the hub if it is from there."""
    if origin.source == "hf":
        return f"`{origin.dataset}` of the hub", origin.dataset
    kind = "cordel's embedded sample" if origin.source == "sample" else "files of its maker"
    return kind, None


def _input(what: str, source: str, hub: str | None, licence: Licence) -> dict[str, Any]:
    return {
        "what": what,
        "source": source,
        "hub": hub,
        "license": licence.license,
        "gated": licence.gated,
        "note": licence.note,
    }


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings under dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        nested = isinstance(value, Mapping)
        found |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return found


def _size_category(documents: int) -> str:
    """Return the hub's name of a number of documents, such as ``1K<n<10K``."""
    names = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M")
    return names[min(max(0, len(str(documents)) - 3), len(names) - 1)]


class _Environment(Environment):
    """Reads keys before methods, and lets a file say by name which key it lacks."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Return the value under a key, or an attribute."""
        return obj[attribute] if isinstance(obj, Mapping) else super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Return the value under a key or at a place."""
        return obj[argument] if isinstance(obj, Mapping) else super().getitem(obj, argument)


def _rendered(template: str, **values: Any) -> str:
    environment = _Environment(  # Markdown: `cell` escapes what is not ours
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "whole": lambda value: "–" if value is None else f"{value:,}",
        "decimals": lambda value, places=3: "–" if value is None else f"{value:,.{places}f}",
        "percent": lambda value, places=0: f"{100 * value:.{places}f} %",
        "megabytes": lambda value: f"{value / 1e6:,.1f} MB",
        "time": lambda hours: duration(3600 * hours),
        "money": lambda usd: "–" if usd is None else f"{usd:.2f}" if usd >= 0.1 else f"{usd:.2g}",
        "comma": lambda text: text.translate(str.maketrans(",.", ".,")),
        "cell": lambda value: " ".join(str(value).split()).replace("|", r"\|"),
    }
    text = environment.get_template(template).render(values)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
