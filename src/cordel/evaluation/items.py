"""The scores of items, summed up and compared: answers over task seeds, documents over runs.

These are the rows of ``metrics/items``, which git tracks; see ``significance`` for what is drawn
and tested.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from cordel.evaluation.significance import ResamplingParams, evidence, holm, interval
from cordel.runtime.errors import ArtifactError

QUALITY = ("em", "f1", "rouge_l")
METRICS = (*QUALITY, "words")

Row = Mapping[str, Any]
Summary = dict[str, dict[str, dict[str, Any]]]
AnswerKey = tuple[str, int, str, int]  # task, seed, id, how many equal ones came before


# --- answers --------------------------------------------------------------------------------------


def summarise(rows: Iterable[Row], params: ResamplingParams) -> Summary:
    """Return mean, spread over seeds and interval of each task and metric, not rounded.

    Args:
        rows: ``task``, ``seed`` (of the task's set), ``id`` (of the item) and the ``METRICS``.
        params: How to resample.

    Returns:
        ``{task: {metric: {"mean", "sd", "ci": [low, high], "per_seed": {"123": mean}}}}``. ``mean``
        is over seeds, of each seed's plain mean; ``sd`` is the sample standard deviation of those
        (None for one seed). ``ci`` is of the mean of all rows, which is ``mean`` where seeds have
        equally many. An item that several seeds drew, or one seed twice, is resampled as one.
    """
    return {task: _summarise_task(group, params) for task, group in _by_task(rows).items()}


def gains(
    rows_a: Iterable[Row],
    rows_b: Iterable[Row],
    params: ResamplingParams,
    *,
    names: tuple[str, str] = ("a", "b"),
) -> Summary:
    """Return what arm b gains over arm a, each item against itself, and whether it is by chance.

    Rows pair by task, seed and id; the n-th of equal ones with the n-th.

    Returns:
        ``summarise``'s shape, and for each metric ``p`` (exact McNemar for ``em``, where a win is
        an item that b has right and a has not; else by permutation), ``n_items`` and
        ``detectable``, the smallest gain that so many items could show.

    Raises:
        ArtifactError: One arm (called by its name in ``names``) lacks items of the other.
    """
    before, after = answers_by_key(rows_a), answers_by_key(rows_b)
    missing = [
        f"arm {name!r} lacks {len(keys)} items, first {_item_name(min(keys))}"
        for name, keys in zip(
            names, (after.keys() - before.keys(), before.keys() - after.keys()), strict=True
        )
        if keys
    ]
    if missing:
        raise ArtifactError(
            f"answers cannot be paired: {'; '.join(missing)}; both arms must answer the same "
            "items: rerun generate_answers"
        )
    differences = _by_task(
        dict(row) | {metric: after[key][metric] - row[metric] for metric in METRICS}
        for key, row in before.items()
    )
    return {
        task: _with_evidence(_summarise_task(rows, params), rows, params)
        for task, rows in differences.items()
    }


def with_holm(gains: Mapping[str, Summary]) -> dict[str, Summary]:
    """Return the gains with ``p_holm``: one family of all gains, tasks and metrics of quality."""
    found = {
        name: {
            task: {m: dict(value) for m, value in metrics.items()} for task, metrics in s.items()
        }
        for name, s in gains.items()
    }
    family = [value[m] for s in found.values() for value in s.values() for m in QUALITY]
    for value, p in zip(family, holm([value["p"] for value in family]), strict=True):
        value["p_holm"] = p
    return found


def answers_by_key(rows: Iterable[Row]) -> dict[AnswerKey, Row]:
    """Return the rows by what pairs them with the rows of another arm."""
    seen: Counter[tuple[str, int, str]] = Counter()
    found = {}
    for row in rows:
        key = (row["task"], row["seed"], row["id"])
        found[*key, seen[key]] = row
        seen[key] += 1
    return found


def seed_means(rows: Iterable[Row]) -> dict[int, np.ndarray]:
    """Return the mean of each seed's rows of one task, ``float64[METRICS]``."""
    by_seed: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        by_seed[row["seed"]].append(row)
    return {seed: _values(by_seed[seed]).mean(axis=0) for seed in sorted(by_seed)}


def _by_task(rows: Iterable[Row]) -> dict[str, list[Row]]:
    tasks: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        tasks[row["task"]].append(row)
    return {task: tasks[task] for task in sorted(tasks)}


def _item_name(key: AnswerKey) -> str:
    task, seed, item, occurrence = key
    return f"{task}, seed {seed}, id {item!r}" + (" (repeated)" if occurrence else "")


def _values(rows: list[Row]) -> np.ndarray:
    return np.asarray([[row[metric] for metric in METRICS] for row in rows], dtype=np.float64)


def _summarise_task(rows: list[Row], params: ResamplingParams) -> dict[str, dict[str, Any]]:
    by_seed = seed_means(rows)
    means = np.stack(list(by_seed.values()))
    spread = means.std(axis=0, ddof=1).tolist() if len(means) > 1 else [None] * len(METRICS)
    low, high = interval(*_item_totals(rows), params)
    return {
        metric: {
            "mean": float(means[:, place].mean()),
            "sd": spread[place],
            "ci": [float(low[place]), float(high[place])],
            "per_seed": dict(zip(map(str, by_seed), means[:, place].tolist(), strict=True)),
        }
        for place, metric in enumerate(METRICS)
    }


def _with_evidence(
    summary: dict[str, dict[str, Any]], rows: list[Row], params: ResamplingParams
) -> dict[str, dict[str, Any]]:
    totals, weights = _item_totals(rows)
    return {
        metric: summary[metric]
        | evidence(totals[:, place], weights, params, outcomes=metric == "em")
        for place, metric in enumerate(METRICS)
    }


def _item_totals(rows: list[Row]) -> tuple[np.ndarray, np.ndarray]:
    """Return what each item's rows sum to, ``float64[items, METRICS]``, and how many they are."""
    # Numbered in the order of their ids: the order of a file must not decide what is drawn.
    _, item_of, counts = np.unique(
        [row["id"] for row in rows], return_inverse=True, return_counts=True
    )
    totals = np.zeros((len(counts), len(METRICS)))
    np.add.at(totals, item_of, _values(rows))
    return totals, counts.astype(np.float64)


# --- documents ------------------------------------------------------------------------------------


def shared_documents(*runs: Iterable[Row]) -> tuple[np.ndarray, np.ndarray]:
    """Return the documents that all runs were scored on, by their ids.

    Args:
        runs: Of each run, the rows ``id``, ``nats``, ``bytes`` and ``unk_bytes``.

    Returns:
        Bits that each document costs each run, ``float64[documents, runs]``, with 8 for each byte
        behind an unknown id; and bytes, ``float64[documents]``. Sums of the first over sums of the
        second are bits per byte. A document of another length is another one.
    """
    bits = [{(row["id"], row["bytes"]): document_bits(row) for row in run} for run in runs]
    shared = sorted(set.intersection(*(set(run) for run in bits)))
    columns = [[run[key] for run in bits] for key in shared]
    return np.asarray(columns).reshape(-1, len(bits)), np.asarray(
        [size for _, size in shared], float
    )


def document_bits(row: Row) -> float:
    """Return the bits of one document."""
    return row["nats"] / math.log(2) + 8 * row["unk_bytes"]
