"""Compare the metrics of a new run with the committed ones, within stated tolerances.

usage: python .ci/compare_metrics.py COMMITTED NEW

The same machine gives the same bytes. Another CPU type rounds matrix products differently, and
training amplifies that, so what depends on trained weights may move a little, and what depends on
sampled text (which diverges at the first different draw) a lot. Ledgers and costs are not compared.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

# Of the default seed, and of further ones.
LM = ("metrics/lm/", "metrics/seeds/lm/")
ITEMS = ("metrics/items/", "metrics/seeds/items/")
ANSWERS = ("metrics/answers.json", "metrics/seeds/answers/")
ANSWER_ITEMS = ("metrics/items/answers-", "metrics/seeds/items/answers-")
# First match wins: (file prefixes, key, relative, absolute). None: not compared, with its reason.
TOLERANCES: list[tuple[str | tuple[str, ...], str, float | None, float | None]] = [
    # Adapted models: trained on a trained model, and far from it on other text.
    *(
        (f"metrics/lm/{arm}", key, relative, 0.05)
        for arm in ("cpt.", "sft.", "cpt_sft.")
        for key, relative in (("perplexity", 0.6), ("nats", 0.15), ("bits_per_byte", 0.15))
    ),
    ("metrics/adaptation.json", "perplexity", 0.6, 0.0),
    ("metrics/adaptation.json", "accuracy", 0.0, 0.05),
    ("metrics/adaptation.json", "nats", 0.15, 0.0),
    ("metrics/adaptation.json", "loss", 0.15, 0.0),
    ("metrics/adaptation.json", "bits_per_byte", 0.15, 0.0),
    (ANSWERS, "too_long", 0.0, 0.0),
    (ANSWERS, "n_items", 0.0, 0.0),
    # An untuned model rambles until it is cut: 19 words became 8 on other instructions of the CPU.
    (ANSWERS, "words", 0.5, 20.0),
    (ANSWERS, "per_seed", 0.0, 0.25),
    # Of differences that may move so far, p can be anything; and too few items may differ for the
    # smallest gain that could be shown.
    (ANSWERS, ".p", None, None),
    (ANSWERS, "detectable", None, None),
    (ANSWERS, "", 0.0, 0.25),
    ("metrics/leaderboard.json", ".p", None, None),
    *(  # the bits per byte of two models, so the sum of what these may move
        ("metrics/leaderboard.json", f"{arm}.behind", 0.0, 0.6) for arm in ("cpt", "sft", "cpt_sft")
    ),
    ("metrics/leaderboard.json", ".behind", 0.0, 0.15),
    *(
        ("metrics/leaderboard.json", f"{arm}.{key}", 0.15, 0.05)
        for arm in ("cpt", "sft", "cpt_sft")
        for key in ("bits_per_byte", "low", "high")
    ),
    *(
        ("metrics/leaderboard.json", f".{key}", relative, 0.0)
        for key, relative in (("bits_per_byte", 0.03), ("low", 0.04), ("high", 0.04))
    ),
    (ANSWER_ITEMS, "words", None, None),
    (ANSWER_ITEMS, "ended", None, None),
    (ANSWER_ITEMS, "", 0.0, 1.0),
    # Scores of a part of a set, which may be one item; counts and shares are of text: exact.
    ("metrics/leakage.json", ".overlapping.", 0.0, 1.0),
    *(("metrics/leakage.json", f".{score}", 0.0, 0.25) for score in ("em", "f1", "rouge_l")),
    *(("metrics/leakage.json", f".scores.{arm}.", 0.4, 0.05) for arm in ("cpt", "sft", "cpt_sft")),
    ("metrics/leakage.json", ".scores.", 0.15, 0.0),
    ("metrics/export/sft", "max", 0.5, 1e-3),
    ("metrics/export/sft", "", 0.3, 1e-4),
    ("metrics/lm/references", "", 1e-4, 1e-4),
    (LM, "perplexity", 0.10, 0.0),
    (LM, "nats", 0.03, 0.0),
    (LM, "accuracy", 0.0, 0.02),
    (LM, "bits_per_byte", 0.03, 0.0),
    *((f"metrics/items/{arm}.", "nats", 0.4, 20.0) for arm in ("cpt", "sft", "cpt_sft")),
    (ITEMS, "nats", 0.15, 5.0),  # one document
    # People and noise are drawn alike everywhere; a model that has hardly begun is not.
    ("metrics/guardrails/tokenizers/", "noise.early.auc", 0.0, 0.05),
    ("metrics/guardrails/tokenizers/", "noise.early.passages", 0.0, 0.0),
    ("metrics/guardrails/tokenizers/", "noise.early.", 0.0, 0.5),
    ("metrics/guardrails/tokenizers/", "", 0.0, 0.005),
    ("metrics/guardrails/", "decoding", 0.0, 0.0),
    ("metrics/guardrails/", "human.", 0.0, 0.005),
    # Of sampled text: each sample and each verdict, and only the means are held.
    ("metrics/guardrails/", "per_sample", None, None),
    ("metrics/guardrails/", "violations", None, None),
    ("metrics/guardrails/", "failing", None, None),
    ("metrics/guardrails/", "passes", None, None),
    ("metrics/guardrails/", "features.bits_per_byte", 0.0, 1.0),
    ("metrics/guardrails/", "features.order_gain", 0.0, 2.0),
    ("metrics/guardrails/", "features.", 0.0, 0.15),
    ("metrics/guardrails/", "_ratio", 0.0, 0.15),
    ("metrics/guardrails/", "threshold", 0.0, 0.005),
    ("metrics/guardrails/", "tokens", None, None),
    ("metrics/guardrails/", "chars", None, None),
]


def tolerance(file: str, key: str) -> tuple[float | None, float | None]:
    """Return (relative, absolute) for one number; (0, 0) where nothing is stated."""
    for prefixes, part, relative, absolute in TOLERANCES:
        if file.startswith(prefixes) and part in key:
            return relative, absolute
    return 0.0, 0.0


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings and lists under dotted keys."""
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, list):
        pairs = enumerate(value)
    else:
        return {prefix: value}
    leaves: dict[str, Any] = {}
    for key, item in pairs:
        leaves |= flatten(item, f"{prefix}.{key}" if prefix else str(key))
    return leaves


def read(path: Path) -> Any:
    """Return the value of a JSON or JSON Lines file."""
    text = path.read_text(encoding="utf-8")
    return (
        [json.loads(line) for line in text.splitlines() if line.strip()]
        if path.suffix == ".jsonl"
        else json.loads(text)
    )


def differences(file: str, committed: Any, new: Any) -> list[str]:
    """Return one line for each number that moved too far, or that only one side has."""
    old_leaves, new_leaves = flatten(committed), flatten(new)
    found = []
    for key in sorted(old_leaves.keys() | new_leaves.keys()):
        relative, absolute = tolerance(file, key)
        if relative is None or absolute is None:
            continue
        old, now = old_leaves.get(key, "absent"), new_leaves.get(key, "absent")
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (old, now))
        if numbers and math.isclose(old, now, rel_tol=relative, abs_tol=absolute):
            continue
        if old != now:
            found.append(
                f"{file}: {key}: committed {old}, new {now} "
                f"(allowed {relative:g} relative, {absolute:g} absolute)"
            )
    return found


def main() -> None:
    """Print the differences and exit with 1 if there are any."""
    committed, new = Path(sys.argv[1]), Path(sys.argv[2])
    files = sorted(
        {
            path.relative_to(root).as_posix()
            for root in (committed, new)
            for path in (root / "metrics").rglob("*.json*")
            if "ledger" not in path.parts and path.name != "costs.json"
        }
    )
    found: list[str] = []
    for file in files:
        missing = [str(root) for root in (committed, new) if not (root / file).exists()]
        if missing:
            found.append(f"{file}: missing in {missing[0]}")
        else:
            found += differences(file, read(committed / file), read(new / file))
    print("\n".join(found))
    print(f"{len(files)} metrics files compared, {len(found)} differences")
    sys.exit(1 if found or not files else 0)


if __name__ == "__main__":
    main()
