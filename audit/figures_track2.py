"""Track 2 (CPT and SFT with QLoRA): what its logs, its configuration and shapes determine.

Sources: the thesis' repository, ``versions/trilha2-lora``. ``total_flos`` of a log is
transformers' own count: 6 x parameters without the input embedding x tokens given to the model,
padding included; it gives CPT's 13 430 784 tokens exactly.
"""

import math
import statistics
from collections.abc import Callable
from typing import Any

from audit.figures import Figure, agree
from audit.figures_track1 import PRICES
from cordel.sizing import (
    LLAMA_3_1_8B,
    full_training_bytes,
    lora_matrix_parameters,
    lora_parameters,
    nf4_bytes,
    total_parameters,
)

TRACK2 = "versions/trilha2-lora/"
LOGS = {run: f"{TRACK2}logs/train_{run}_qlora.json" for run in ("cpt", "sft")}
CONFIGS = {
    "cpt": f"{TRACK2}configs/cpt_qlora_llama31_8b_brwac10k.json",
    "sft": f"{TRACK2}configs/sft_qlora_llama31_8b_instruct_canarim10k.json",
}
BASELINES = f"{TRACK2}analysis/eval_trilha2_baselines.json"
EXTRINSIC = f"{TRACK2}analysis/eval_trilha2_extrinsic_multiseed.json"
SEEDS = {
    123: f"{TRACK2}analysis/eval_trilha2_extrinsic.json",
    456: f"{TRACK2}analysis/eval_trilha2_extrinsic_seed456.json",
    789: f"{TRACK2}analysis/eval_trilha2_extrinsic_seed789.json",
}
METRICS = {
    "qa_em": ("qa", "em"),
    "qa_f1": ("qa", "f1"),
    "summarization": ("summarization", "rouge_l_f1"),
    "rewriting": ("rewriting", "rouge_l_f1"),
}
DATA = {
    split: f"{TRACK2}datasets/canarim_sft_10k_{split}.jsonl" for split in ("train", "val", "test")
}
PRICE = PRICES["RTX 4090"]


def figures() -> dict[str, Figure]:
    """Return the figures of track 2 by name."""
    found: dict[str, Figure] = {}
    for run in LOGS:
        found |= _training(run) | _intrinsic(run)
    for metric, (task, name) in METRICS.items():
        found |= _extrinsic(metric, task, name)
    return found | _totals() | _protocol() | _tokens() | _shapes()


# --- Training -------------------------------------------------------------------------------------


def _hours(log: Any) -> float:
    return log["timers"]["duration_sec"] / 3600


def _training(run: str) -> dict[str, Figure]:
    log, config = LOGS[run], CONFIGS[run]
    price = f"{PRICE:.2f}"
    return {
        f"{run}.hours": Figure((log,), _hours, "duration_sec / 3600", "duration_sec / 3600"),
        f"{run}.gpu": Figure(
            (log,), lambda log: log["env"]["gpu_model"], "the GPU in the log", "a GPU no log"
        ),
        f"{run}.cost": Figure(
            (log,),
            lambda log: _hours(log) * PRICE,
            f"exact hours x {price}",
            f"horas exatas x {price}".replace(".", ","),
        ),
        f"{run}.cost_logged": Figure(
            (log,),
            lambda log: agree(
                log["cost"]["total_cost_usd"],
                _hours(log) * log["cost"]["cost_usd_per_hour"],
                relative=1e-12,
            ),
            "hours x price of the log",
            "horas x preço do log",
        ),
        f"{run}.eval_loss": Figure(
            (log,),
            lambda log: log["training"]["best_eval_loss"],
            "best_eval_loss of the log",
            "best_eval_loss do log",
        ),
        f"{run}.eval_ppl": Figure(
            (log,),
            lambda log: math.exp(log["training"]["best_eval_loss"]),
            "exp(best eval_loss)",
            "exp(melhor eval_loss)",
        ),
        f"{run}.eval_ppl_of_rounded_loss": Figure(
            (log,),
            lambda log: math.exp(round(log["training"]["best_eval_loss"], 3)),
            "exp(best eval_loss, rounded to three decimals)",
            "exp(melhor eval_loss arredondada para três casas)",
        ),
        f"{run}.seq_len": Figure(
            (config,),
            lambda config: config["data"]["seq_len"],
            "seq_len of the configuration",
            "seq_len da configuração",
        ),
        f"{run}.last_against_best": Figure(
            (log, BASELINES),
            lambda log, baselines: _last_against_best(log, baselines[run]),
            "eval_loss of the saved adapter - best eval_loss during training",
            "eval_loss do adaptador salvo - melhor eval_loss durante o treino",
        ),
        f"{run}.lora": Figure(
            (config,),
            lambda config: lora_parameters(
                LLAMA_3_1_8B, config["lora"]["r"], config["lora"]["target_modules"]
            ),
            "r (d + k) over the configuration's target modules of every layer",
            "r (d + k) sobre os módulos-alvo da configuração em cada camada",
        ),
        f"{run}.tokens": Figure(
            (log, config),
            _processed_tokens,
            "total_flos / (6 x parameters without the input embedding)",
            "total_flos / (6 x parâmetros sem o embedding de entrada)",
        ),
    }


def _last_against_best(log: Any, baseline: Any) -> dict[str, Any]:
    best, last = log["training"]["best_eval_loss"], baseline["adapter"]["eval_loss"]
    return {
        "best": best,
        "last": last,
        "difference": last - best,
        "ppl_of_best": math.exp(best),
        "ppl_of_last": math.exp(last),
    }


def _processed_tokens(log: Any, config: Any) -> dict[str, Any]:
    """Compare tokens_seen with what transformers counted in total_flos."""
    adapter = lora_parameters(LLAMA_3_1_8B, config["lora"]["r"], config["lora"]["target_modules"])
    embedding = LLAMA_3_1_8B.vocab_size * LLAMA_3_1_8B.d_model
    parameters = total_parameters(LLAMA_3_1_8B) + adapter - embedding
    training = log["training"]
    tokens = training["trainer_metrics"]["total_flos"] / (6 * parameters)
    seconds = log["timers"]["duration_sec"]
    epochs = config["training"]["num_train_epochs"]
    return agree(
        training["tokens_seen"],
        round(tokens),
        exact=tokens,
        logged_over_computed=training["tokens_seen"] / tokens,
        logged_per_second=training["tokens_per_sec"],
        computed_per_second=tokens / seconds,
        samples_x_seq_len_x_epochs=training["train_samples"] * config["data"]["seq_len"] * epochs,
    )


def _tokens() -> dict[str, Figure]:
    def bound(config: Any, train: Any) -> dict[str, Any]:
        text = sum(len("".join(row.values()).encode()) for row in train)
        epochs = config["training"]["num_train_epochs"]
        return {"utf8_bytes": text, "bytes_x_epochs": text * epochs, "rows": len(train)}

    def estimate(val: Any, train: Any, baselines: Any) -> dict[str, Any]:
        tokens = baselines["sft"]["base"]["label_tokens"]
        characters = sum(len(row["output"]) for row in val)
        per_token = characters / (tokens - len(val))  # an end token each is no character
        text = sum(len(row[key]) for row in train for key in row)
        return {
            "response_tokens": tokens,
            "characters_per_token": per_token,
            "estimated_text_tokens": text / per_token,
        }

    return {
        "sft.most_tokens": Figure(
            (CONFIGS["sft"], DATA["train"]),
            bound,
            "UTF-8 bytes of the train split: no text has more tokens than bytes",
            "bytes UTF-8 do treino: nenhum texto tem mais tokens que bytes",
        ),
        "sft.text_tokens_estimate": Figure(
            (DATA["val"], DATA["train"], BASELINES),
            estimate,
            "train characters / (validation characters of answers a token); an estimate",
            "caracteres do treino / (caracteres de respostas da validação por token); estimativa",
        ),
    }


# --- Intrinsic evaluation -------------------------------------------------------------------------


def _intrinsic(run: str) -> dict[str, Figure]:
    found = {
        f"{run}.reduction": Figure(
            (BASELINES,),
            lambda content: (
                math.exp(content[run]["adapter"]["eval_loss"] - content[run]["base"]["eval_loss"])
                - 1
            ),
            "exp(adapter loss - base loss) - 1",
            "exp(perda do adaptador - perda da base) - 1",
        ),
        f"{run}.reduction_logged": Figure(
            (BASELINES,),
            lambda content: agree(
                content[run]["delta"]["perplexity_reduction_ratio"],
                1 - content[run]["adapter"]["perplexity"] / content[run]["base"]["perplexity"],
                relative=1e-12,
            ),
            "1 - adapter perplexity / base perplexity",
            "1 - perplexidade do adaptador / perplexidade da base",
        ),
    }
    for side in ("base", "adapter"):
        found[f"{run}.{side}_loss"] = Figure(
            (BASELINES,),
            lambda content, side=side: content[run][side]["eval_loss"],
            "eval_loss of the file",
            "eval_loss do arquivo",
        )
        found[f"{run}.{side}_ppl"] = Figure(
            (BASELINES,),
            lambda content, side=side: math.exp(content[run][side]["eval_loss"]),
            "exp(eval_loss)",
            "exp(eval_loss)",
        )
    return found


# --- Extrinsic evaluation -------------------------------------------------------------------------


def _scores(side: str, task: str, name: str, contents: tuple[Any, ...]) -> list[float]:
    return [content["tasks"][task]["metrics"][side][name] for content in contents]


def _extrinsic(metric: str, task: str, name: str) -> dict[str, Figure]:
    def mean(side: str) -> Callable[..., float]:
        return lambda *contents: statistics.fmean(_scores(side, task, name, contents))

    def spread(side: str) -> Callable[..., float]:
        return lambda *contents: statistics.stdev(_scores(side, task, name, contents))

    files, base, sft = tuple(SEEDS.values()), mean("base"), mean("sft")
    found = {
        f"{metric}.n": Figure(
            files,
            lambda *contents: min(content["tasks"][task]["n"] for content in contents),
            "n of each seed's file",
            "n do arquivo de cada semente",
        ),
        f"{metric}.gain": Figure(
            files,
            lambda *contents: sft(*contents) - base(*contents),
            "mean with SFT - mean without, over the three files",
            "média com SFT - média sem, sobre os três arquivos",
        ),
        f"{metric}.gain_share": Figure(
            files,
            lambda *contents: sft(*contents) / base(*contents) - 1,
            "mean with SFT / mean without - 1",
            "média com SFT / média sem - 1",
        ),
        f"{metric}.every_seed_gains": Figure(
            files,
            lambda *contents: {
                "holds": all(
                    low < high
                    for low, high in zip(
                        _scores("base", task, name, contents),
                        _scores("sft", task, name, contents),
                        strict=True,
                    )
                ),
                "base": _scores("base", task, name, contents),
                "sft": _scores("sft", task, name, contents),
            },
            "SFT above the baseline for every seed",
            "SFT acima do baseline em cada semente",
        ),
        f"{metric}.multiseed": Figure(
            (EXTRINSIC, *files),
            _aggregate(task, name),
            "mean and sample standard deviation of the three files",
            "média e desvio padrão amostral dos três arquivos",
        ),
    }
    for side in ("base", "sft"):
        found[f"{metric}.{side}_mean"] = Figure(
            files, mean(side), "mean of the three seeds", "média das três sementes"
        )
        found[f"{metric}.{side}_sd"] = Figure(
            files,
            spread(side),
            "sample standard deviation (n - 1) of the three seeds",
            "desvio padrão amostral (n - 1) das três sementes",
        )
    return found


def _aggregate(task: str, name: str) -> Callable[..., dict[str, Any]]:
    def compare(multiseed: Any, *contents: Any) -> dict[str, Any]:
        summary = multiseed["aggregate"]
        differences = []
        for side in ("base", "sft"):
            logged, scores = summary[task][side][name], _scores(side, task, name, contents)
            differences.append(abs(logged["mean"] - statistics.fmean(scores)))
            differences.append(abs(logged["std"] - statistics.stdev(scores)))
        return {"holds": max(differences) <= 1e-12, "largest_difference": max(differences)}

    return compare


# --- Totals ---------------------------------------------------------------------------------------


def _extrinsic_hours(*contents: Any) -> float:
    return sum(content["cost"]["total_duration_sec"] for content in contents) / 3600


def _totals() -> dict[str, Figure]:
    logs, files = tuple(LOGS.values()), tuple(SEEDS.values())

    def hours(cpt: Any, sft: Any, *contents: Any) -> float:
        return _hours(cpt) + _hours(sft) + _extrinsic_hours(*contents)

    def of_rounded(cpt: Any, sft: Any, *contents: Any) -> float:
        parts = [_hours(cpt), _hours(sft), *([_extrinsic_hours(*contents)] if contents else [])]
        return sum(round(part, 2) for part in parts)

    def cost_of_rounded(cpt: Any, sft: Any, *contents: Any) -> float:
        parts = [_hours(cpt), _hours(sft), *([_extrinsic_hours(*contents)] if contents else [])]
        return sum(round(part * PRICE, 2) for part in parts)

    exact = "the sum of the exact values"
    exato = "a soma dos valores exatos"
    rounded, arredondado = "the sum of the rounded values", "a soma dos valores arredondados"
    return {
        "extrinsic.hours": Figure(
            files,
            _extrinsic_hours,
            "sum of total_duration_sec / 3600",
            "soma de total_duration_sec / 3600",
        ),
        "extrinsic.cost": Figure(
            files,
            lambda *contents: _extrinsic_hours(*contents) * PRICE,
            "exact hours x 0.30",
            "horas exatas x 0,30",
        ),
        "extrinsic.gpu": Figure(
            files,
            lambda *contents: ", ".join(sorted({c["env"]["gpu_model"] for c in contents})),
            "the GPU in the files",
            "a GPU nos arquivos",
        ),
        "extrinsic.cost_logged": Figure(
            (EXTRINSIC, *files),
            _logged_cost,
            "sum of the seeds' costs",
            "soma dos custos das sementes",
        ),
        "track2.hours": Figure((*logs, *files), hours, exact, exato),
        "track2.cost": Figure(
            (*logs, *files), lambda *contents: hours(*contents) * PRICE, exact, exato
        ),
        "track2.hours_of_rounded": Figure((*logs, *files), of_rounded, rounded, arredondado),
        "training.hours": Figure(logs, lambda cpt, sft: _hours(cpt) + _hours(sft), exact, exato),
        "training.cost": Figure(
            logs, lambda cpt, sft: (_hours(cpt) + _hours(sft)) * PRICE, exact, exato
        ),
        "training.cost_of_rounded": Figure(logs, cost_of_rounded, rounded, arredondado),
    }


def _logged_cost(multiseed: Any, *contents: Any) -> dict[str, Any]:
    return agree(
        multiseed["aggregate"]["cost"]["total_cost_usd_sum"],
        sum(
            c["cost"]["total_duration_sec"] / 3600 * c["cost"]["cost_usd_per_hour"]
            for c in contents
        ),
        relative=1e-12,
        seconds=sum(c["cost"]["total_duration_sec"] for c in contents),
    )


# --- Protocol -------------------------------------------------------------------------------------


def _protocol() -> dict[str, Figure]:
    files = tuple(SEEDS.values())
    manifests = tuple(
        f"{TRACK2}analysis/extrinsic{suffix}/canarim_extrinsic_manifest.json"
        for suffix in ("", "_seed456", "_seed789")
    )
    return {
        "extrinsic.seeds": Figure(
            manifests,
            lambda *contents: len({content["seed"] for content in contents}),
            "seeds in the manifests",
            "sementes nos manifestos",
        ),
        "extrinsic.seed_list": Figure(
            manifests,
            lambda *contents: "/".join(str(content["seed"]) for content in contents),
            "seeds in the manifests",
            "sementes nos manifestos",
        ),
        "extrinsic.deterministic": Figure(
            files,
            lambda *contents: {
                "holds": all(
                    (g["do_sample"], g["temperature"], g["top_p"]) == (False, 0, 1)
                    for g in (content["generation"] for content in contents)
                )
            },
            "generation settings of the three files",
            "configuração de geração dos três arquivos",
        ),
        "extrinsic.generated_tokens": Figure(
            files,
            _generated,
            "generated tokens against n x max_new_tokens, the most there can be",
            "tokens gerados contra n x max_new_tokens, o máximo possível",
        ),
        "cpt.validation_share": Figure(
            (CONFIGS["cpt"],),
            lambda config: config["data"]["valid_split"],
            "valid_split of the configuration",
            "valid_split da configuração",
        ),
        "cpt.train_share": Figure(
            (CONFIGS["cpt"],),
            lambda config: 1 - config["data"]["valid_split"],
            "1 - valid_split of the configuration",
            "1 - valid_split da configuração",
        ),
        "cpt.test_share": Figure(
            (CONFIGS["cpt"],),
            lambda config: float(config["data"].get("test_split", 0)),
            "test share of the configuration, which names none",
            "fração de teste da configuração, que não indica nenhuma",
        ),
        "cpt.documents": Figure(
            (f"{TRACK2}datasets/brwac_cpt_10k_stats.json",),
            lambda stats: stats["kept_docs"],
            "kept_docs of the statistics",
            "kept_docs das estatísticas",
        ),
        "cpt.documents_scanned": Figure(
            (f"{TRACK2}datasets/brwac_cpt_10k_stats.json",),
            lambda stats: {
                key: stats[key] for key in ("raw_docs_scanned", "kept_docs", "shuffle_buffer_size")
            },
            "counts of the statistics",
            "contagens das estatísticas",
        ),
        "cpt.vram_gb": Figure(
            (LOGS["cpt"],),
            lambda log: log["env"]["gpu_memory_gb"] * 2**30,
            "gpu_memory_gb of the log (GiB)",
            "gpu_memory_gb do log (GiB)",
        ),
    }


def _generated(*contents: Any) -> dict[str, Any]:
    over: dict[str, dict[str, int]] = {}
    for seed, content in zip(SEEDS, contents, strict=True):
        for task, result in content["tasks"].items():
            most = result["n"] * result["max_new_tokens"]
            for side, tokens in result["generation_tokens"].items():
                if tokens > most:
                    name = f"{task}.{side.removesuffix('_generated_tokens')}.seed{seed}"
                    over[name] = {"logged": tokens, "most": most}
    return {"holds": not over, "over_count": len(over), "over_the_most": over}


# --- Shapes ---------------------------------------------------------------------------------------


def _shapes() -> dict[str, Figure]:
    """Figures that follow from shapes alone. GB is 10^9 bytes, as in the thesis."""
    r64 = lora_parameters(LLAMA_3_1_8B, 64)
    square = lora_matrix_parameters(4096, 4096, 8)
    from_premise = "with the printed 16 x 10^6 parameters", "com os 16 x 10^6 parâmetros impressos"
    with_real = (
        f"with the {r64:,} parameters that r = 64 has",
        (f"com os {r64:,} parâmetros que r = 64 tem".replace(",", ".")),
    )
    table: dict[str, tuple[float, tuple[str, str]]] = {
        "full.parameters": (4 * 7e9, ("7 x 10^9 x 4 bytes", "7 x 10^9 x 4 bytes")),
        "full.gradients": (4 * 7e9, ("7 x 10^9 x 4 bytes", "7 x 10^9 x 4 bytes")),
        "full.optimizer": (8 * 7e9, ("7 x 10^9 x 8 bytes", "7 x 10^9 x 8 bytes")),
        "full.total": (
            float(full_training_bytes(7_000_000_000)),
            ("7 x 10^9 x 16 bytes", "7 x 10^9 x 16 bytes"),
        ),
        "full.deficit": (
            full_training_bytes(7_000_000_000) - 24e9,
            ("7 x 10^9 x 16 bytes - 24 GB", "7 x 10^9 x 16 bytes - 24 GB"),
        ),
        "lora.matrix": (4096.0 * 4096, ("4096 x 4096", "4096 x 4096")),
        "lora.matrix_r8": (float(square), ("8 (4096 + 4096)", "8 (4096 + 4096)")),
        "lora.matrix_reduction": (4096 * 4096 / square, ("d k / (r (d + k))", "d k / (r (d + k))")),
        "lora.r64": (
            float(r64),
            (
                "64 (d + k) over the seven matrices of 32 layers of Llama 3.1 8B",
                "64 (d + k) sobre as sete matrizes de 32 camadas do Llama 3.1 8B",
            ),
        ),
        "lora.r64_reduction": (8e9 / r64, with_real),
        "lora.r64_weights": (4.0 * r64, with_real),
        "lora.r64_optimizer": (8.0 * r64, with_real),
        "lora.r64_total": (16e9 + 16.0 * r64, with_real),
        "lora.premise_reduction": (8e9 / 16e6, from_premise),
        "lora.premise_weights": (4 * 16e6, from_premise),
        "lora.premise_optimizer": (8 * 16e6, from_premise),
        "lora.premise_total": (16e9 + 16 * 16e6, from_premise),
        "lora.base": (8e9 * 2, ("8 x 10^9 x 2 bytes", "8 x 10^9 x 2 bytes")),
        "qlora.fp16": (70e9 * 2, ("70 x 10^9 x 2 bytes", "70 x 10^9 x 2 bytes")),
        "qlora.nf4": (70e9 / 2, ("70 x 10^9 x 0.5 byte", "70 x 10^9 x 0,5 byte")),
        "qlora.nf4_with_constants": (
            float(nf4_bytes(70_000_000_000)),
            ("70 x 10^9 x 4.127 bits", "70 x 10^9 x 4,127 bits"),
        ),
        "qlora.reduction": (140 / 35, ("140 / 35", "140 / 35")),
        "qlora.total": (
            35e9 + 2 * 200e6 + 8e9,
            ("35 GB + 2 x 200 MB + 8 GB", "35 GB + 2 x 200 MB + 8 GB"),
        ),
    }
    return {
        name: Figure((), lambda value=value: value, *how) for name, (value, how) in table.items()
    }
