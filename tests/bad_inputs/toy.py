"""A project at toy size in which every stage ran once: what the cases spoil, one at a time."""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from tests.bad_inputs.harness import call

ROOT = Path(__file__).parents[2]
RUNS = {"v1": "char", "v7": "unigram_v7"}  # a run each, with its tokenizer
DATASETS = {"v1": "char_web_20k", "v7": "v7_lossless"}
RECIPES = {"char_web_20k": "web", "v7_lossless": "lossless"}
ARMS = ("base", "cpt", "sft")

# As in dvc.yaml, in its order: the stage's file, then its arguments.
COMMANDS = (
    "export_corpus --input in --out data/corpus --ledger metrics/ledger/export_corpus.json",
    "split_corpus --corpus data/corpus --out data/splits.parquet --metrics metrics/splits.json",
    *(
        f"clean_corpus --recipe {recipe} --corpus data/corpus --splits data/splits.parquet "
        f"--out data/clean/{recipe} --metrics metrics/corpus/{recipe}.json"
        for recipe in ("lossless", "prose", "web")
    ),
    *(
        f"train_tokenizer --name {name} --clean data/clean/{recipe} --out data/tokenizers/{name} "
        f"--metrics metrics/tokenizers/{name}.json --ledger metrics/ledger/{name}.json"
        for name, recipe in (("char", "web"), ("unigram_v7", "lossless"))
    ),
    *(
        f"encode_corpus --dataset {name} --clean data/clean/{RECIPES[name]} "
        f"--common data/clean/lossless/test.parquet --tokenizer data/tokenizers/{RUNS[run]} "
        f"--out data/tokens/{name} --eval-out data/eval_tokens/{name}"
        for run, name in DATASETS.items()
    ),
    *(
        f"train_lm --run {run} --tokens data/tokens/{name} --out data/models/{run} "
        f"--curve plots/curves/{run}.csv --ledger metrics/ledger/train_lm/{run}.json"
        for run, name in DATASETS.items()
    ),
    *(
        f"score_lm --run {run} --model data/models/{run} --tokens data/eval_tokens/{name} "
        f"--metrics metrics/lm/{run}.json --items metrics/items/{run}.jsonl "
        f"--ledger metrics/ledger/score_lm/{run}.json"
        for run, name in DATASETS.items()
    ),
    "score_references --clean data/clean/lossless --tokenizer data/tokenizers/unigram_v7 "
    "--metrics metrics/lm/references.json --ledger metrics/ledger/score_references.json",
    *(
        f"sample_lm --run {run} --model data/models/{run} --tokens data/tokens/{name} "
        f"--out data/samples/{run}.json --ledger metrics/ledger/sample_lm/{run}.json"
        for run, name in DATASETS.items()
    ),
    *(
        f"sample_early --run {run} --tokens data/tokens/{name} --out data/early/{RUNS[run]}.json "
        f"--ledger metrics/ledger/sample_early/{RUNS[run]}.json"
        for run, name in DATASETS.items()
    ),
    "check_samples --samples data/samples/v1.json data/samples/v7.json "
    "--tokens data/tokens/char_web_20k data/tokens/v7_lossless "
    "--metrics metrics/guardrails/v1.json metrics/guardrails/v7.json "
    "--early data/early/char.json data/early/unigram_v7.json "
    "--early-metrics metrics/guardrails/char.json metrics/guardrails/unigram_v7.json",
    "export_model --run v7 --model data/models/v7 --tokens data/tokens/v7_lossless "
    "--out data/export/v7 --metrics metrics/export/v7.json",
    "open_base --base base --model data/export/v7 --out data/base/base",
    "prepare_cpt --clean data/clean/prose --splits data/splits.parquet --base data/base/base "
    "--out data/cpt --metrics metrics/adaptation/cpt_data.json",
    "prepare_sft --input in --out data/sft --metrics metrics/adaptation/sft_data.json",
    "prepare_tasks --input in --examples data/sft --out data/tasks.jsonl "
    "--metrics metrics/adaptation/tasks.json",
    "adapt_cpt --base data/base/base --model data/export/v7 --documents data/cpt "
    "--out data/adapters/cpt --curve plots/adaptation/cpt.csv "
    "--ledger metrics/ledger/adapt_cpt.json",
    "adapt_sft --arm sft --base data/base/base --model data/export/v7 --start data/adapters/cpt "
    "--examples data/sft --out data/adapters/sft --curve plots/adaptation/sft.csv "
    "--ledger metrics/ledger/adapt_sft/sft.json",
    "score_adaptation --bases data/base/base --models data/export/v7 "
    "--adapters data/adapters/cpt data/adapters/sft --documents data/cpt --examples data/sft "
    "--common data/clean/lossless/test.parquet --metrics metrics/adaptation.json --lm-metrics "
    + " ".join(f"metrics/lm/{arm}.json" for arm in ARMS)
    + " --items "
    + " ".join(f"metrics/items/{arm}.jsonl" for arm in ARMS)
    + " --ledger metrics/ledger/score_adaptation.json",
    "continue_documents --base data/base/base --model data/export/v7 --adapter data/adapters/cpt "
    "--documents data/cpt --out data/continuations.jsonl "
    "--ledger metrics/ledger/continue_documents.json",
    *(
        f"generate_answers --arm {arm} --base data/base/base --model data/export/v7 "
        f"--adapter {adapter} --tasks data/tasks.jsonl --out data/answers/{arm}.jsonl "
        f"--ledger metrics/ledger/generate_answers/{arm}.json"
        for arm, adapter in (
            ("base", "data/base/base"),
            ("cpt", "data/adapters/cpt"),
            ("sft", "data/adapters/sft"),
        )
    ),
    "score_answers --answers "
    + " ".join(f"data/answers/{arm}.jsonl" for arm in ARMS)
    + " --metrics metrics/answers.json --items "
    + " ".join(f"metrics/items/answers-{arm}.jsonl" for arm in ARMS)
    + " --out data/scored_answers",
    "export_adapter --base data/base/base --model data/export/v7 --adapter data/adapters/sft "
    "--documents data/cpt --out data/export/sft --metrics metrics/export/sft.json",
    "rank_lm --out plots/leaderboard.json --metrics metrics/leaderboard.json "
    "--references metrics/lm/references.json --scores "
    + " ".join(f"metrics/lm/{name}.json" for name in (*RUNS, *ARMS))
    + " --items "
    + " ".join(f"metrics/items/{name}.jsonl" for name in (*RUNS, *ARMS)),
    "check_leakage --clean data/clean/lossless --prose data/clean/prose --documents data/cpt "
    "--examples data/sft --tasks data/tasks.jsonl --metrics metrics/leakage.json "
    "--overlapping metrics/overlaps.jsonl --items "
    + " ".join(f"metrics/items/{name}.jsonl" for name in (*RUNS, *ARMS))
    + " --answers "
    + " ".join(f"metrics/items/answers-{arm}.jsonl" for arm in ARMS),
    "account_costs --metrics metrics/costs.json --models data/models/v1 data/models/v7 --ledgers "
    + " ".join(
        f"metrics/ledger/{name}.json"
        for name in ("export_corpus", "train_lm/v1", "train_lm/v7", "adapt_cpt", "adapt_sft/sft")
    ),
    "write_cards --out data/cards --runs metrics/lm/v7.json --arms metrics/lm/cpt.json "
    "metrics/lm/sft.json --merged metrics/export/sft.json --guardrails metrics/guardrails/v7.json "
    "--corpora metrics/corpus/lossless.json metrics/corpus/prose.json metrics/corpus/web.json "
    "--bases data/base/base --splits metrics/splits.json --leaderboard metrics/leaderboard.json "
    "--references metrics/lm/references.json --answers metrics/answers.json "
    "--leakage metrics/leakage.json --costs metrics/costs.json",
    "render_report --lock dvc.lock --answers data/scored_answers --shown reports/answers.jsonl "
    "--pages reports/index.html reports/index.pt-BR.html --files metrics/leaderboard.json "
    "metrics/costs.json metrics/adaptation.json metrics/answers.json metrics/leakage.json "
    "metrics/lm/references.json metrics/ledger/adapt_cpt.json "
    + " ".join(f"metrics/lm/{name}.json" for name in (*RUNS, *ARMS))
    + " "
    + " ".join(
        f"metrics/guardrails/{run}.json data/samples/{run}.json plots/curves/{run}.csv "
        f"metrics/tokenizers/{tokenizer}.json metrics/ledger/train_lm/{run}.json"
        for run, tokenizer in RUNS.items()
    )
    + " plots/adaptation/cpt.csv plots/adaptation/sft.csv",
)


def main_of(stage: str) -> Any:
    """Return the ``main`` of a stage."""
    return import_module(f"stages.{stage}").main


def command_of(stage: str, item: str = "") -> list[str]:
    """Return the words of a stage's command: the first one, or the one that names ``item``."""
    pattern = re.compile(rf"{stage} .*{re.escape(item)}")
    return next(command for command in COMMANDS if pattern.match(command)).split()


def toy_params() -> dict[str, Any]:
    """Return the real params.yaml, at toy size."""
    params = yaml.load((ROOT / "params.yaml").read_text("utf-8"), yaml.CSafeLoader)
    params["compute"] = {"device": "cpu", "threads": 1, "compile": False}
    sample = ROOT / "data" / "sample"
    params["corpus"] |= {"path": str(sample), "max_documents": 300}
    params["splits"] |= {"val": 0.1, "test": 0.1, "permutations": 32, "bands": 8}
    params["tokenizers"] = {name: params["tokenizers"][name] for name in RUNS.values()}
    params["tokenizers"]["unigram_v7"] |= {"vocab_size": 700, "seed_pieces": 5000}
    params["datasets"] = {name: params["datasets"][name] for name in RECIPES}
    for dataset in params["datasets"].values():
        dataset |= {"max_documents": 40, "max_val_documents": 4}
    params["evaluation"] = {"max_documents": 4}
    params["models"] = {run: params["models"][run] for run in (*RUNS, "v5_main")}
    params["models"]["v1"]["model"] |= {"d_embedding": 8, "d_model": 8}
    params["models"]["v7"]["model"] |= {"d_model": 16, "n_layer": 1, "n_head": 2, "d_ff": 32}
    for run in params["models"].values():
        run["training"] |= {"epochs": 0.1, "schedule_epochs": 0.1, "evaluations": 1}
        run["training"] |= {"warmup_steps": 1, "batch_size": 8}
    params["scoring"] |= {"max_windows": 4}
    params["references"] |= {"char_order": 2, "subword_order": 2}
    params["sampling"] |= {"max_new_tokens": 12, "min_new_tokens": 4}
    params["early"] = {"share": 0.01, "samples": 2}
    params["guardrails"] |= {"windows": 20, "reference_tokens": 5000, "must_pass": []}
    params["base_models"]["base"]["path"] = "data/export/v7"
    params["lora"] |= {"rank": 2, "targets": ["q_proj", "v_proj"]}
    params["cpt_data"] |= {"max_documents": 12, "evaluation": 0.3}
    params["sft_data"] |= {"path": str(sample / "instructions"), "max_examples": 60}
    params["sft_data"] |= {"permutations": 32, "bands": 8}
    params["tasks"] |= {"path": str(sample / "instructions"), "seeds": [123], "per_task": 2}
    params["tasks"] |= {"permutations": 32}
    for arm in ("cpt", "sft"):
        params[arm] |= {"epochs": 0.3, "evaluations": 1, "warmup_steps": 0}
    params["generation"]["max_new_tokens"] = {"qa": 2, "summarization": 2, "rewriting": 2}
    params["resampling"]["resamples"] = 20
    params["leakage"] |= {"permutations": 32, "bands": 8}
    return params


def build(folder: Path) -> None:
    """Run every stage in ``folder``."""
    (folder / "params.yaml").write_text(yaml.safe_dump(toy_params(), allow_unicode=True), "utf-8")
    for command in COMMANDS:
        words = command.split()
        found = call(main_of(words[0]), words)
        if found.code:
            raise AssertionError(f"{command}\n{found.stderr}")
