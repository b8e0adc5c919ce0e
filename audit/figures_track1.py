"""Track 1 (v1 to v6): what its published logs and results determine.

Sources: the thesis' repository, ``versions/v*/logs`` and ``analysis/artifacts/results``; the
meaning of each field as in the thesis' section on the experimental line.
"""

import math
from collections.abc import Iterator
from typing import Any

from audit.figures import Figure, Survey, agree, pieces_of
from audit.published import expected
from cordel.sizing import sizes

RESULTS = "analysis/artifacts/results/"
V4 = "versions/v4-subword-lstm/logs/train_brwac_v4_"
V5 = "versions/v5-transformer/logs/train_v5"
V5B = "versions/v5b-transformer/"
V6 = "versions/v6-release-candidate/"
PRICES = {"RTX 3080": 0.07, "RTX 3090": 0.13, "RTX 4090": 0.30}  # US$ an hour, as the thesis has it

# Recurrent runs: log, results file, name in it.
RNN = {
    "v1": ("versions/v1-char-rnn/logs/train_brwac_v1_20k.json", "char_models_20k", "v1_brwac_20k"),
    "v2": ("versions/v2-char-lm/logs/train_brwac_v2_20k.json", "char_models_20k", "v2_brwac_20k"),
    "v3": (
        "versions/v3-stacked-lstm/logs/train_brwac_v3_20k.json",
        "char_models_20k",
        "v3_brwac_20k",
    ),
    "v4_subword": (f"{V4}subword.json", "subword_models_20k", "v4_brwac_subword"),
    "v4_subword_ep6": (
        f"{V4}subword_ep6.json",
        "subword_models_v4_ep6",
        "v4_brwac_subword_ep6",
    ),
    "v4k_bf_ep2": (
        f"{V4}subword_v4k_bf_ep2.json",
        "subword_models_v4k_bf_ep2",
        "v4_brwac_subword_v4k_bf_ep2",
    ),
    "v4k_bf_lstm_ep2": (
        f"{V4}lstm_v4k_bf_ep2.json",
        "subword_models_v4k_bf_lstm_ep2",
        "v4_brwac_subword_v4k_bf_lstm_ep2",
    ),
}
# Transformers: metrics of each epoch, GPU, and the SentencePiece model.
V5B_METRICS = [f"{V5B}logs/metrics_v5b_long/metrics_epoch_{n:02d}.json" for n in range(1, 5)]
TRANSFORMERS = {
    "v5_main": ([f"{V5}_main.json"], "RTX 3090"),
    "v5b_long": (V5B_METRICS, "RTX 3090"),
    "v6_rc16k_v5b": ([f"{V6}logs/train_v6_rc16k_v5b.json"], "RTX 4090"),
    "v6_rc16k_v5b_aligned": ([f"{V6}logs/train_v6_rc16k_v5b_aligned.json"], "RTX 4090"),
}
MODELS = {
    "v5_main": "versions/v4-subword-lstm/tokenizer_v4k_bf/spm_v4k_bf.model",
    "v5b_long": f"{V5B}tokenizers/unigram_12k/spm_v5b.model",
    "v6_rc16k_v5b": f"{V6}tokenizers/unigram_16k/spm_v6.model",
    "v6_rc16k_v5b_aligned": f"{V6}tokenizers/unigram_16k/spm_v6.model",
}


def figures() -> dict[str, Figure]:
    """Return the figures of track 1 by name."""
    found: dict[str, Figure] = {}
    for run, (log, results, name) in RNN.items():
        found |= _rnn_results(run, log, f"{RESULTS}results_{results}.json", name)
        found |= _rnn_log(run, log)
    for run, (logs, gpu) in TRANSFORMERS.items():
        found |= _transformer(run, logs, gpu)
    return found | _consistency() | _v5() | _v5b() | _v6() | _accounting()


# --- Recurrent runs -------------------------------------------------------------------------------


def _rnn_results(run: str, log: str, results: str, name: str) -> dict[str, Figure]:
    def entry(content: Any) -> Any:
        return content["results"][name]

    return {
        f"{run}.loss": Figure(
            (results,),
            lambda content: entry(content)["avg_loss"],
            "the mean loss of the standard evaluation",
            "a perda média da avaliação padronizada",
        ),
        f"{run}.ppl": Figure(
            (results,),
            lambda content: math.exp(entry(content)["avg_loss"]),
            "exp(mean loss)",
            "exp(perda média)",
        ),
        f"{run}.accuracy": Figure(
            (results,),
            lambda content: entry(content)["accuracy"],
            "the accuracy of the standard evaluation",
            "a acurácia da avaliação padronizada",
        ),
        f"{run}.bits_per_char": Figure(
            (log, results),
            lambda log, content: _bits_per_char(entry(content)["avg_loss"], log["dataset"]),
            "loss / ln 2 x training tokens / training characters",
            "perda / ln 2 x tokens de treino / caracteres de treino",
        ),
    }


def _bits_per_char(loss: float, dataset: Any) -> float:
    """Tokens, ``<s>`` and ``</s>`` among them, over characters; a character model has one each."""
    return (
        loss
        / math.log(2)
        * dataset.get("train_tokens", dataset["train_chars"])
        / dataset["train_chars"]
    )


def _rnn_log(run: str, log: str) -> dict[str, Figure]:
    found = {
        f"{run}.hours": Figure(
            (log,),
            lambda log: log["timestamps"]["elapsed_sec"] / 3600,
            "elapsed seconds / 3600",
            "segundos decorridos / 3600",
        ),
        f"{run}.gpu": Figure(
            (log,),
            lambda log: ", ".join(log["env"]["gpu_devices"]),
            "the GPU in the log",
            "a GPU no log",
        ),
        f"{run}.tokens_b": Figure(
            (log,),
            lambda log: _window_tokens(log) / 1e9,
            "windows x sequence length x epochs / 10^9",
            "janelas x comprimento da sequência x épocas / 10^9",
        ),
        f"{run}.epochs": Figure(
            (log,),
            lambda log: log["train_config"]["epocas"],
            "the epochs in the log",
            "as épocas no log",
        ),
        f"{run}.tokens_total": Figure(
            (log,),
            lambda log: agree(log["performance"]["tokens_total_est"], _window_tokens(log)),
            "estimated windows x sequence length x epochs",
            "janelas estimadas x comprimento da sequência x épocas",
        ),
        f"{run}.windows": Figure(
            (log,),
            _windows,
            "window arithmetic from the characters or tokens in the log",
            "aritmética de janelas a partir dos caracteres ou tokens no log",
        ),
    } | _costs(run, (log,), lambda log: log["timestamps"]["elapsed_sec"], "RTX 3080", digits=1)
    if run == "v1":
        return found | _v1_embedding(log)
    cell = {"v2": "lstm", "v3": "lstm"}
    return found | {
        f"{run}.rnn": Figure(
            (log,),
            lambda log: log["train_config"].get("rnn_type", cell.get(run, "")).upper(),
            "the cell in the log",
            "a célula no log",
        ),
        f"{run}.vocabulary": Figure(
            (log,),
            lambda log: log["model"]["vocab_size"],
            "the vocabulary in the log",
            "o vocabulário no log",
        ),
        f"{run}.parameters": Figure(
            (log,),
            lambda log: agree(log["model"]["params"], _rnn_parameters(log)),
            "the formula of the layers' sizes",
            "a fórmula dos tamanhos das camadas",
        ),
        f"{run}.flops": Figure(
            (log,),
            lambda log: agree(
                log["performance"]["approx_flops_per_token_train"],
                _logged_flops(log, log["model"]["vocab_size"]),
            ),
            "3 x (2 x matrices + elementwise) for each layer and the output",
            "3 x (2 x matrizes + elementares) para cada camada e a saída",
        ),
    }


def _window_tokens(log: Any) -> int:
    config, windows = log["train_config"], log["model"]["train_windows_est"]
    return windows * config["tamanho_sequencia"] * config["epocas"]


def _windows(log: Any) -> dict[str, Any]:
    """Compare windows and steps with the arithmetic of each version's data pipeline.

    All floor (tokens - length) / stride. v1 leaves the separators of
    documents out, v2 and v3 count two characters a document. The last batch is partial.
    """
    config, model, data = log["train_config"], log["model"], log["dataset"]
    length, stride = config["tamanho_sequencia"], config["stride"]
    logged, computed = {}, {}
    for split in ("train", "val"):
        if not data[f"{split}_docs"]:
            continue
        separators = 0 if config["arch"] == "v1" else 2 * data[f"{split}_docs"]
        tokens = data.get(f"{split}_tokens", data[f"{split}_chars"] + separators)
        windows = (tokens - length) // stride
        logged[f"{split}_windows"] = model[f"{split}_windows"]
        computed[f"{split}_windows"] = windows
        if f"{split}_batches" in model:
            logged[f"{split}_batches"] = model[f"{split}_batches"]
            computed[f"{split}_batches"] = math.ceil(windows / config["batch_size"])
    return agree(logged, computed)


def _units(config: Any) -> list[int]:
    return config.get("rnn_units") or config.get("lstm_units") or [config["tamanho_lstm"]]


def _rnn_parameters(log: Any) -> int:
    config = log["train_config"]
    units = _units(config)
    model = {
        "cell": config.get("rnn_type", "lstm"),
        "n_layer": len(units),
        "d_model": units[0],
        "d_embedding": config["embedding_dim"],
        "layer_norm": config.get("layer_norm", False),
    }
    found = sizes("rnn", model, vocab_size=log["model"]["vocab_size"], context_length=0)
    return found.parameters


def _logged_flops(log: Any, vocabulary: int, embedding: int | None = None) -> int:
    """Return the FLOPs a token as the logs count them; found from those of v2, v3 and v4.

    Forward and twice as much backward; of a layer its gates' matrices and two operations a unit
    and gate, of the output its matrix and three a class.
    """
    config = log["train_config"]
    gates = 3 if config.get("rnn_type") == "gru" else 4
    inputs, total = embedding or config["embedding_dim"], 0
    for units in _units(config):
        total += gates * (2 * (inputs + units) * units + 2 * units)
        inputs = units
    return 3 * (total + vocabulary * (2 * inputs + 3))


def _v1_embedding(log: str) -> dict[str, Figure]:
    def implied(log: Any) -> dict[str, Any]:
        flops = log["performance"]["approx_flops_per_token_train"]
        widths = {
            (embedding, vocabulary)
            for embedding in range(1, 1025)
            for vocabulary in (1, 277)
            if _logged_flops(log, vocabulary, embedding) == flops
        }
        embedding, vocabulary = min(widths) if len(widths) == 1 else (None, None)
        model = {"cell": "lstm", "n_layer": 1, "d_model": 256, "layer_norm": False}
        counts = {
            width: sizes(
                "rnn", model | {"d_embedding": width}, vocab_size=277, context_length=0
            ).parameters
            for width in (64, 128)
        }
        return agree(
            log["train_config"]["embedding_dim"],
            embedding,
            vocabulary_in_the_flop_figure=vocabulary,
            flops_per_token=flops,
            parameters_at_64=counts[64],
            parameters_at_128=counts[128],
        )

    return {
        "v1.embedding": Figure(
            (log,),
            implied,
            "the embedding width that the log's own FLOPs a token imply",
            "a largura do embedding que os FLOPs por token do próprio log implicam",
        )
    }


# --- Transformers ---------------------------------------------------------------------------------


def _history(*logs: Any) -> list[Any]:
    """Return the epochs of a run, from one log with a history or from a file an epoch."""
    return logs[0]["history"] if "history" in logs[0] else list(logs)


def _seconds(*logs: Any) -> float:
    if "total_time_sec" in logs[0]:
        return logs[0]["total_time_sec"]
    return sum(epoch["epoch_time_sec"] for epoch in _history(*logs))


def _best(*logs: Any) -> Any:
    return min(_history(*logs), key=lambda epoch: epoch["val_loss"])


def _transformer(run: str, logs: list[str], gpu: str) -> dict[str, Figure]:
    return {
        f"{run}.hours": Figure(
            logs,
            lambda *logs: _seconds(*logs) / 3600,
            "logged seconds / 3600",
            "segundos registrados / 3600",
        ),
        f"{run}.tokens_b": Figure(
            logs,
            lambda *logs: _history(*logs)[-1]["tokens_seen_total"] / 1e9,
            "tokens_seen_total of the last epoch / 10^9",
            "tokens_seen_total da última época / 10^9",
        ),
        f"{run}.val_loss": Figure(
            logs,
            lambda *logs: _best(*logs)["val_loss"],
            "the lowest val_loss of the history",
            "a menor val_loss do histórico",
        ),
        f"{run}.val_ppl": Figure(
            logs,
            lambda *logs: math.exp(_best(*logs)["val_loss"]),
            "exp(lowest val_loss)",
            "exp(menor val_loss)",
        ),
        f"{run}.best_epoch": Figure(
            logs,
            lambda *logs: {
                "best_epoch": _best(*logs)["epoch"],
                "epochs": len(_history(*logs)),
                "val_loss": _best(*logs)["val_loss"],
                "last_val_loss": _history(*logs)[-1]["val_loss"],
            },
            "the epoch with the lowest val_loss",
            "a época com a menor val_loss",
        ),
        f"{run}.tokens_total": Figure(
            logs,
            lambda *logs: agree(
                _history(*logs)[-1]["tokens_seen_total"],
                sum(epoch["tokens_epoch"] for epoch in _history(*logs)),
            ),
            "the sum of tokens_epoch",
            "a soma de tokens_epoch",
        ),
    } | _costs(run, logs, _seconds, gpu, digits=1)


def _costs(run: str, logs: Any, seconds: Any, gpu: str, *, digits: int) -> dict[str, Figure]:
    price = PRICES[gpu]
    return {
        f"{run}.cost": Figure(
            logs,
            lambda *logs: seconds(*logs) / 3600 * price,
            f"exact hours x {price:.2f}",
            f"horas exatas x {price:.2f}".replace(".", ","),
        ),
        f"{run}.cost_of_rounded_hours": Figure(
            logs,
            lambda *logs: round(seconds(*logs) / 3600, digits) * price,
            f"hours as printed x {price:.2f}",
            f"horas como impressas x {price:.2f}".replace(".", ","),
        ),
    }


# --- All logs together ----------------------------------------------------------------------------

EVALUATIONS = ("eval_v5_fixed.json", "results_v5_scaleplus.json")


def _loss_and_ppl(value: Any) -> Iterator[tuple[float, float]]:
    """Yield every loss with the perplexity beside it, however deep."""
    names = (
        ("avg_loss", "perplexity"),
        ("loss", "perplexity"),
        ("val_loss", "val_perplexity"),
        ("eval_loss", "perplexity"),
    )
    if isinstance(value, dict):
        yield from (
            (value[loss], value[ppl]) for loss, ppl in names if loss in value and ppl in value
        )
    children = value.values() if isinstance(value, dict) else value
    for child in children if isinstance(value, dict | list) else ():
        yield from _loss_and_ppl(child)


def _all_perplexities(contents: dict[str, Any]) -> dict[str, Any]:
    largest, where, pairs, files = 0.0, "", 0, 0
    for name, content in contents.items():
        # "delta" subtracts perplexities: the one place where the two names are no loss and its exp
        plain = {k: v for k, v in content.items() if k not in ("cpt", "sft")} | {
            f"{k}.{side}": content[k][side]
            for k in ("cpt", "sft")
            if k in content
            for side in ("base", "adapter")
        }
        found = [abs(ppl / math.exp(loss) - 1) for loss, ppl in _loss_and_ppl(plain)]
        pairs, files = pairs + len(found), files + bool(found)
        if found and max(found) > largest:
            largest, where = max(found), name
    return {
        "holds": largest <= 1e-12,
        "largest_relative_difference": largest,
        "where": where,
        "pairs": pairs,
        "files": files,
    }


def _with_perplexities() -> list[str]:
    wanted = ("/results/", "/logs/", "eval_trilha2_baselines")
    unwanted = ("llm_review", "qlora")
    return [
        name
        for name in expected()
        if name.endswith(".json")
        and any(part in name for part in wanted)
        and not any(part in name for part in unwanted)
    ]


def _commits(contents: dict[str, Any]) -> dict[str, Any]:
    commits = {}
    for name, content in contents.items():
        commit = content.get("git", {}).get("commit") or content.get("env", {}).get("git_commit")
        commits[name] = commit or None
    known = [name for name, commit in commits.items() if commit]
    return {"logs": len(commits), "with_commit": len(known), "named": known}


def _seeds(contents: dict[str, Any]) -> dict[str, Any]:
    named = [name for name, log in contents.items() if "seed" in log.get("train_config", {})]
    return {"logs": len(contents), "with_seed": len(named), "named": named}


def _consistency() -> dict[str, Figure]:
    training = [n for n in expected() if "/logs/train_" in n and n.endswith(".json")]
    return {
        "logs.ppl_is_exp_loss": Survey(
            _with_perplexities(),
            _all_perplexities,
            "|perplexity / exp(loss) - 1| of every pair",
            "|perplexidade / exp(loss) - 1| de cada par",
        ),
        "logs.commits": Survey(
            training,
            _commits,
            "training logs that name the commit of the code",
            "logs de treino que dizem o commit do código",
        ),
        "logs.seeds": Survey(
            training, _seeds, "training logs that name a seed", "logs de treino que dizem a semente"
        ),
    }


# --- v5: the logged loss --------------------------------------------------------------------------


def _smoothing(log: Any, evaluation: Any) -> dict[str, Any]:
    logged, measured = log["history"][-1]["val_loss"], evaluation["loss"]
    return {
        "holds": abs(logged - measured) < 0.01,
        "logged": logged,
        "cross_entropy": measured,
        "difference": logged - measured,
        "exp_of_logged": math.exp(logged),
        "perplexity": math.exp(measured),
    }


def _v5() -> dict[str, Figure]:
    pairs = {"fixed": EVALUATIONS[0], "scaleplus": EVALUATIONS[1]}
    return {
        f"v5_{run}.logged_loss_is_cross_entropy": Figure(
            (f"{V5}_{run}.json", RESULTS + evaluation),
            _smoothing,
            "val_loss of the last epoch - cross-entropy measured afterwards",
            "val_loss da última época - entropia cruzada medida depois",
        )
        for run, evaluation in pairs.items()
    }


# --- v5b and v6: steps ----------------------------------------------------------------------------


def _v5b() -> dict[str, Figure]:
    config = f"{V5B}configs/base.yaml"

    def batch(config: Any, metrics: Any) -> dict[str, Any]:
        tokens, length = metrics["tokens_epoch"], config["data"]["seq_len"]
        stated = config["training"]["batch_sizes"]["long"]
        whole = not tokens % (stated * length)
        return {
            "holds": whole,
            "logged": stated,
            "steps_at_stated_batch": tokens / (stated * length),
            "steps_at_64": tokens / (64 * length),
        }

    return {
        "v5b_long.batch_in_base_yaml": Figure(
            (config, V5B_METRICS[0]),
            batch,
            "tokens_epoch / (batch x sequence length), which must be whole",
            "tokens_epoch / (batch x comprimento), que precisa ser inteiro",
        ),
        "v5b_long.epochs_in_base_yaml": Figure(
            (config, f"{V5B}logs/history_v5b_long.csv"),
            lambda config, history: agree(config["training"]["epochs"]["long"], len(history)),
            "rows of the history",
            "linhas do histórico",
        ),
        "v5b_long.parameters": Figure(
            (config, MODELS["v5b_long"]),
            lambda config, model: _gpt_parameters(config["model"], model, config["data"]),
            "the formula of the layers' sizes, with base.yaml and the published tokenizer",
            "a fórmula dos tamanhos das camadas, com base.yaml e o tokenizer publicado",
        ),
    }


def _gpt_parameters(model: Any, pieces: bytes | int, data: Any) -> int:
    vocabulary = pieces if isinstance(pieces, int) else len(pieces_of(pieces).pieces)
    shape = {"d_model": model["d_model"], "n_layer": model["num_layers"], "d_ff": model["d_ff"]}
    length = data.get("seq_len") or data["sequence_length"]
    return sizes("gpt", shape, vocab_size=vocabulary, context_length=length).parameters


def _steps(mapping: Any, *logs: Any) -> dict[str, Any]:
    """Steps of an epoch and the tokens they need: between one more window and one more batch."""
    tokens = _history(*logs)[0]["tokens_epoch"]
    batch, length, stride = (mapping[k] for k in ("batch_size", "sequence_length", "stride"))
    steps, rest = divmod(tokens, batch * length)
    least = steps * batch * stride + length
    return {
        "holds": rest == 0,
        "logged": tokens,
        "computed": steps * batch * length,
        "steps": steps,
        "least_unique_tokens": least,
        "most_unique_tokens": least + batch * stride - 1,
    }


def _one_run(contents: dict[str, Any]) -> dict[str, Any]:
    counts: dict[int, list[int]] = {}
    for content in contents.values():
        counts.setdefault(content["tokens_epoch"], []).append(content["epoch"])
    return {
        "holds": len(counts) == 1,
        "tokens_epoch": {str(tokens): sorted(epochs) for tokens, epochs in counts.items()},
        "lowest_val_loss": min(content["val_loss"] for content in contents.values()),
    }


def _three_logs(log: Any, history: Any, *metrics: Any) -> dict[str, Any]:
    """Largest difference of val_loss between the log, the history and the files an epoch."""
    rows = zip(log["history"], history, metrics, strict=True)
    differences = [
        max(
            abs(a["val_loss"] - float(b["val_loss"])),
            abs(a["val_loss"] - c["val_loss"]),
        )
        for a, b, c in rows
    ]
    return {"holds": max(differences) == 0.0, "largest_difference": max(differences)}


def _v6() -> dict[str, Figure]:
    found: dict[str, Figure] = {}
    for run in ("v6_preflight", "v6_long", "v6_rc16k_v5b", "v6_rc16k_v5b_aligned"):
        mapping, log = f"{V6}mappings/mapeamentos_{run}.json", f"{V6}logs/train_{run}.json"
        found[f"{run}.steps"] = Figure(
            (mapping, log),
            _steps,
            "tokens_epoch / (batch x sequence length), which must be whole",
            "tokens_epoch / (batch x comprimento), que precisa ser inteiro",
        )
        found[f"{run}.parameters"] = Figure(
            (mapping,),
            lambda mapping: _gpt_parameters(
                mapping["model"], mapping["tokenizer_vocab_size"], mapping
            ),
            "the formula of the layers' sizes, with the run's mapping",
            "a fórmula dos tamanhos das camadas, com o mapeamento da execução",
        )
    for run in ("v6_rc16k_v5b", "v6_rc16k_v5b_aligned"):
        metrics = [f"{V6}logs/metrics_{run}/metrics_epoch_{n:02d}.json" for n in range(1, 25)]
        found[f"{run}.logs_agree"] = Figure(
            (f"{V6}logs/train_{run}.json", f"{V6}logs/history_{run}.csv", *metrics),
            _three_logs,
            "val_loss of each epoch in the log, the CSV and the file of the epoch",
            "val_loss de cada época no log, no CSV e no arquivo da época",
        )
    found["v6_long.one_run"] = Survey(
        [f"{V6}logs/metrics_v6_long/metrics_epoch_{n:02d}.json" for n in range(1, 25)],
        _one_run,
        "tokens_epoch of each file of the folder",
        "tokens_epoch de cada arquivo da pasta",
    )
    aligned = [f"{V6}logs/train_{run}.json" for run in ("v6_rc16k_v5b", "v6_rc16k_v5b_aligned")]
    found["v6.alignment_improves"] = Figure(
        aligned,
        lambda plain, aligned: {
            "holds": _best(aligned)["val_loss"] < _best(plain)["val_loss"],
            "difference": _best(aligned)["val_loss"] - _best(plain)["val_loss"],
        },
        "best val_loss of v6_rc16k_v5b_aligned - that of v6_rc16k_v5b",
        "melhor val_loss de v6_rc16k_v5b_aligned - a de v6_rc16k_v5b",
    )
    return found


# --- Three counts of tokens -----------------------------------------------------------------------


def _rnn_counts(log: Any) -> dict[str, Any]:
    """v1 to v4: a window of ``length`` tokens is read to predict one."""
    config, data = log["train_config"], log["dataset"]
    targets = log["model"]["train_windows"] * config["epocas"]
    unique = data.get("train_tokens", data["train_chars"])
    processed = targets * config["tamanho_sequencia"]
    return _counts(unique, targets, processed)


def _counts(unique: int, targets: int, processed: int) -> dict[str, Any]:
    return {
        "unique": unique,
        "targets": targets,
        "processed": processed,
        "times_seen": processed / unique,
    }


def _transformer_counts(tokens_epoch: int, tokens: int, length: int, stride: int) -> dict[str, Any]:
    """v5 and v6: each token of a window is a target; windows overlap by length - stride."""
    return _counts(tokens_epoch // length * stride + length, tokens, tokens)


def _log_counts(length: int, stride: int, *logs: Any) -> dict[str, Any]:
    history = _history(*logs)
    return _transformer_counts(
        history[0]["tokens_epoch"], history[-1]["tokens_seen_total"], length, stride
    )


def _accounting() -> dict[str, Figure]:
    en = "unique tokens in the data; targets predicted; tokens processed, windows overlapping"
    pt = "tokens únicos nos dados; alvos preditos; tokens processados, com janelas sobrepostas"
    found = {
        f"{run}.three_counts": Figure((log,), _rnn_counts, en, pt) for run, (log, *_) in RNN.items()
    }
    found["v5b_long.three_counts"] = Figure(
        (f"{V5B}configs/base.yaml", *V5B_METRICS),
        lambda config, *logs: _log_counts(
            config["data"]["seq_len"], config["data"]["stride"], *logs
        ),
        en,
        pt,
    )
    for run in ("v6_rc16k_v5b", "v6_rc16k_v5b_aligned"):
        found[f"{run}.three_counts"] = Figure(
            (f"{V6}mappings/mapeamentos_{run}.json", f"{V6}logs/train_{run}.json"),
            lambda mapping, log: _log_counts(mapping["sequence_length"], mapping["stride"], log),
            en,
            pt,
        )
    return found
