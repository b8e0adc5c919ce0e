"""Reproduce the published guardrail reports, and ask of the rule what it says of people and noise.

Golden items G8 to G11. Which samples and which tokenizer a report is of is found by trying all of
them, since file names and the keys within them do not settle it.
"""

import argparse
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import stdev
from typing import Any

import sentencepiece as spm

from audit.forgery import forge_with
from audit.published import NotAtHandError, Published, expected, tried, write_results
from audit.samples import (
    TOKENIZERS,
    SampleSet,
    published_sets,
    samples_not_at_hand,
    tokenizers_at_hand,
)
from cordel.evaluation.guardrails import GuardrailParams, Sample, thesis_report
from cordel.runtime.console import run_stage

log = logging.getLogger(Path(__file__).stem)
THESIS = GuardrailParams(max_fallback_ratio=0.03, max_short_piece_ratio=0.12)
FINAL = "samples_v5b_long_final_tp075"
# The thesis' table of guardrails: its row, the samples it is of, the ratio and the verdict.
TABLE = {
    "v5b_long_final": (FINAL, 0.050, True),
    "v6_rc16k_v5b": ("samples_v6_rc16k_v5b:v6_brwac_transformer_v6_rc16k_v5b", 0.149, False),
    "v6_rc16k_v5b_aligned": (
        "samples_v6_rc16k_v5b_aligned:v6_brwac_transformer_v6_rc16k_v5b_aligned",
        0.155,
        False,
    ),
}
OWN_TOKENIZER = (  # of a set of samples, by the first pattern that its name matches
    (r"v5b_long_final|40k", "v5b_40k"),
    (r"v5b_long", "v5b_12k"),
    (r"samples_v6_preflight:v6_brwac_transformer_v6_long", "v6_12k"),  # audit.check_samples
    (r"samples_v6_", "v6_16k"),
)
OURS = {"token_count": "tokens", "char_count": "chars"}
OURS |= {"total_tokens": "tokens", "total_chars": "chars"}
CANARIM = "versions/trilha2-lora/datasets/canarim_sft_10k_val.jsonl"
NOISE_SEEDS = range(1000)
Row = dict[str, Any]


class Rule:
    """The published rule, with each tokenizer at hand; remembers how a text is cut."""

    def __init__(self, tokenizers: Mapping[str, spm.SentencePieceProcessor]) -> None:
        """Judge with ``tokenizers``."""
        self.tokenizers = tokenizers
        self._pieces = {name: cache(_cutter(found)) for name, found in tokenizers.items()}

    def report(
        self, samples: Sequence[Sample], tokenizer: str, limits: GuardrailParams = THESIS
    ) -> Row:
        """Return the thesis' report on ``samples``."""
        return thesis_report(samples, self._pieces[tokenizer], limits)

    def ratio(self, texts: Sequence[str], tokenizer: str) -> float:
        """Return the share of short pieces of all pieces of ``texts``."""
        report = self.report([Sample(-1, text) for text in texts], tokenizer)
        return report["aggregate"]["short_alpha_ratio"]


def _cutter(processor: spm.SentencePieceProcessor) -> Callable[[str], list[str]]:
    return lambda text: processor.encode(text, out_type=str)


# --- G8 to G11: the published reports -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PublishedReport:
    """A report in our words."""

    file: str
    model_key: str
    tokenizer: str | None  # by our name; None if it is none of the published ones
    limits: GuardrailParams
    values: Row


def read_report(published: Published, file: str) -> PublishedReport:
    """Return the report in ``file``."""
    content = published.json(file)
    path = content["tokenizer"].replace("\\", "/")
    names = {path: name for name, path in TOKENIZERS.items()}
    values = {
        "aggregate": _renamed(content["aggregate"]),
        "per_sample": [_renamed(row) for row in content["per_sample"]],
        "passes": content["passes"],
        "violations": [
            row | {"type": row["type"].replace("short_piece", "short_alpha")}
            for row in content["violations"]
        ],
    }
    limits = GuardrailParams(**content["thresholds"])
    return PublishedReport(file, content["model_key"], names.get(path), limits, values)


def _renamed(row: Row) -> Row:
    return {OURS.get(key, key): value for key, value in row.items() if key != "model_key"}


def recompute(rule: Rule, samples: SampleSet, tokenizer: str, limits: GuardrailParams) -> Row:
    """Return the report on a set of samples, with the averages that only the thesis' has."""
    texts = [Sample(s.seed if s.seed_published else -1, s.output) for s in samples.samples]
    report = rule.report(texts, tokenizer, limits)
    total, count = report["aggregate"], max(1, len(texts))
    averages = {f"avg_{key}_per_sample": total[key] / count for key in ("tokens", "chars")}
    return report | {"aggregate": total | averages}


def differences(published: Any, recomputed: Any, where: str = "") -> dict[str, Row]:
    """Return each value that differs, by its dotted place; floats must be equal to the last bit."""
    if isinstance(published, dict) and isinstance(recomputed, dict):
        pairs = {
            str(key): (published.get(key), recomputed.get(key))
            for key in sorted(published.keys() | recomputed.keys(), key=str)
        }
    elif (
        isinstance(published, list)
        and isinstance(recomputed, list)
        and len(published) == len(recomputed)
    ):
        pairs = {str(n): pair for n, pair in enumerate(zip(published, recomputed, strict=True))}
    else:
        same = published == recomputed
        return {} if same else {where: {"published": published, "recomputed": recomputed}}
    return {
        place: value
        for key, (a, b) in pairs.items()
        for place, value in differences(a, b, f"{where}.{key}".lstrip(".")).items()
    }


def pair(report: PublishedReport, sets: Sequence[SampleSet], rule: Rule) -> Row:
    """Return which samples and tokenizer give ``report`` exactly, of all that are at hand.

    Where none do, the nearest pair with the report's own tokenizer is shown with what differs, and
    so is the pair that its names point to.
    """
    exact, apart = [], {}
    for samples in sets:
        for tokenizer in rule.tokenizers:
            found = recompute(rule, samples, tokenizer, report.limits)
            unlike = differences(report.values, found)
            label = {"samples": samples.name, "tokenizer": tokenizer}
            if not unlike:
                exact.append(label)
            elif tokenizer == report.tokenizer:
                key = (samples.model_key != report.model_key, _distance(report.values, found))
                apart[samples.name] = (key, label | {"differences": unlike})
    own = [label for label in exact if label["tokenizer"] == report.tokenizer]
    row: Row = {
        "model_key": report.model_key,
        "tokenizer": report.tokenizer,
        "published": report.values["aggregate"],
        "passes": report.values["passes"],
        "tried": len(sets) * len(rule.tokenizers),
        "reproduced_by": exact,
        "holds": bool(own),
    }
    if not own and apart:
        row["by_name"] = min(apart.values(), key=lambda found: found[0])[1]
        row["nearest"] = min(apart.values(), key=lambda found: found[0][1])[1]
    return row


def _distance(published: Row, recomputed: Row) -> int:
    """Return by how many tokens and characters the totals of two reports differ."""
    one, other = published["aggregate"], recomputed["aggregate"]
    return sum(abs(one[key] - other[key]) for key in ("tokens", "chars"))


def stale_as_noise(report: PublishedReport, tokenizer: str, rule: Rule) -> Row:
    """Return a report whose samples are lost beside the report on noise of the same seeds.

    Noise with some tokens chosen by a model (audit.check_samples) has its counts but for a few.
    """
    rows = report.values["per_sample"]
    processor = rule.tokenizers[tokenizer]
    noise = [Sample(row["seed"], forge_with(processor, row["seed"])) for row in rows]
    found = rule.report(noise, tokenizer, report.limits)["per_sample"]
    return {
        str(a["seed"]): {
            key: {"published": a[key], "noise": b[key]}
            for key in ("tokens", "chars", "short_alpha_tokens")
        }
        for a, b in zip(rows, found, strict=True)
    }


def reports(published: Published, sets: Sequence[SampleSet], rule: Rule) -> Row:
    """Return every published report and what gives it."""
    lacking = samples_not_at_hand(published)

    def one(file: str) -> Row:
        report = read_report(published, file)
        if report.tokenizer is None or report.tokenizer not in rule.tokenizers:
            raise NotAtHandError(f"its tokenizer, {report.tokenizer}, is not at hand")
        row = pair(report, sets, rule)
        if not row["holds"] and lacking:
            raise NotAtHandError(f"no samples at hand give it, and {len(lacking)} files are not")
        if not row["holds"]:
            row["beside_noise"] = stale_as_noise(report, report.tokenizer, rule)
        return row

    names = sorted(name for name in expected() if "guardrails_" in name or "_guardrails" in name)
    return {name: tried(lambda name=name: one(name)) for name in names}


# --- like for like --------------------------------------------------------------------------------


def own_tokenizer(samples: SampleSet) -> str | None:
    """Return the tokenizer that a set of v5b or v6 was generated with, by our name."""
    return next((name for pattern, name in OWN_TOKENIZER if re.search(pattern, samples.name)), None)


def like_for_like(sets: Sequence[SampleSet], rule: Rule) -> Row:
    """Return each v5b and v6 set as published and without its prompt, under every tokenizer."""
    found: Row = {}
    seen: set[tuple[str, ...]] = set()  # some files are copies
    for samples in sets:
        own, texts = own_tokenizer(samples), tuple(s.output for s in samples.samples)
        if own is None or own not in rule.tokenizers or not texts or texts in seen:
            continue
        seen.add(texts)
        bare = [Sample(s.seed, s.without_prompt) for s in samples.samples]
        without = {name: _verdict(rule.report(bare, name)) for name in rule.tokenizers}
        found[samples.name] = {
            "own_tokenizer": own,
            "prompt_included": any(s.output.startswith(s.prompt) for s in samples.samples),
            "as_published": rule.ratio(texts, own),
            "without_prompt": without[own],
            "without_prompt_by_tokenizer": without,
        }
    return found


def _verdict(report: Row) -> Row:
    return {
        "ratio": report["aggregate"]["short_alpha_ratio"],
        "aggregate_passes": not any(
            violation["type"].startswith("aggregate") for violation in report["violations"]
        ),
        "passes": report["passes"],
    }


def thesis_table(rows: Row, human: Row, noise: Row) -> Row:
    """Return the thesis' three rows, and their verdicts under each one tokenizer for all."""
    found: Row = {}
    for name, (samples, ratio, passes) in TABLE.items():
        if samples not in rows:
            found[name] = {"not_checkable": f"{samples} or its tokenizer is not at hand"}
            continue
        row = rows[samples]
        by_tokenizer = row["without_prompt_by_tokenizer"]
        found[name] = {
            "published": {"short_piece_ratio": ratio, "passes": passes},
            "recomputed": row["as_published"],
            "holds": round(row["as_published"], 3) == ratio,
            "tokenizer": row["own_tokenizer"],
            "prompt_included": row["prompt_included"],
            "like_for_like": by_tokenizer,
            "verdict_holds_with": sorted(
                key for key, verdict in by_tokenizer.items() if verdict["passes"] == passes
            ),
        }
    common = [set(row["verdict_holds_with"]) for row in found.values() if "holds" in row]
    return {
        "rows": found,
        "tokenizers_that_give_all_three_verdicts": sorted(set.intersection(*common))
        if len(common) == len(TABLE)
        else [],
        "limit": THESIS.max_short_piece_ratio,
        "human": human,
        "noise": noise,
    }


# --- what the rule says of people and of noise ----------------------------------------------------


def noise_ratios(rule: Rule) -> Row:
    """Return the rule's ratio on uniform noise, 1,000 texts of 280 tokens, by tokenizer."""
    found: Row = {}
    limit = THESIS.max_short_piece_ratio
    for name, processor in rule.tokenizers.items():
        report = rule.report([Sample(n, forge_with(processor, n)) for n in NOISE_SEEDS], name)
        ratios = [row["short_alpha_ratio"] for row in report["per_sample"]]
        ratio = report["aggregate"]["short_alpha_ratio"]
        found[name] = {
            "ratio": ratio,
            "aggregate_passes": ratio <= limit,
            "texts": len(ratios),
            "standard_error": stdev(ratios) / len(ratios) ** 0.5,
            "share_of_texts_that_pass": sum(ratio <= limit for ratio in ratios) / len(ratios),
        }
    return found


def human_ratios(published: Published, rule: Rule) -> Row:
    """Return the rule's ratio on the published validation instructions with their answers."""
    rows = published.jsonl(CANARIM)
    texts = ["\n".join(row[key] for key in ("instruction", "input", "output")) for row in rows]
    cased = {name: rule.ratio(texts, name) for name in rule.tokenizers}
    lowered = [text.lower() for text in texts]
    lower = {name: rule.ratio(lowered, name) for name in rule.tokenizers}
    return {
        "texts": len(texts),
        "characters": sum(map(len, texts)),
        "ratios": {name: {"cased": cased[name], "lower_cased": lower[name]} for name in cased},
    }


def main() -> None:
    """Write all of it as one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--published", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    published = Published(args.published)
    rule = Rule(tokenizers_at_hand(published))
    sets = list(published_sets(published))
    of_reports, rows = reports(published, sets, rule), like_for_like(sets, rule)
    human, noise = tried(lambda: human_ratios(published, rule)), noise_ratios(rule)
    table = thesis_table(rows, human, noise)
    write_results(args.out, {"reports": of_reports, "like_for_like": rows, "table": table})
    for name, row in of_reports.items():
        why = row.get("not_checkable", "not reproduced")
        log.info("%s: %s", Path(name).stem, row.get("reproduced_by") or why)
    for name, row in table["rows"].items():
        log.info("%s: its verdict holds with %s", name, row.get("verdict_holds_with"))


if __name__ == "__main__":
    run_stage(main)
