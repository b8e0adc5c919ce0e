"""Keep a profile's results under ``results/``, and render them as Markdown.

``docs/results.md`` is rendered from ``results/<profile>/`` and the table in the README from
``metrics/``: no number is typed by hand. What a reader should know beside the numbers is written in
``results/<profile>/notes.md`` and quoted as it is.
"""

import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from cordel.reporting.adaptation import (
    ARMS,
    adaptation_section,
    answers_table,
    chosen_answers,
    gains_table,
)
from cordel.reporting.leakage import leakage_section
from cordel.reporting.markdown import markdown_table, replace_between
from cordel.reporting.portuguese import in_portuguese
from cordel.runtime.errors import InputError
from cordel.runtime.files import new_directory, read_json, write_jsonl, write_text

SAMPLES_SHOWN = 2
SAMPLE_CHARS = 420
LINES = {
    "kneser_ney_subword": "Kneser–Ney over subwords",
    "kneser_ney_char": "Kneser–Ney over characters",
    "xz": "xz -9e, no training text",
    "gzip": "gzip -9, no training text",
    "uniform": "uniform over bytes",
}
HEADER = (
    "run",
    "bits per byte",
    "own cleaning",
    "perplexity",
    "accuracy",
    "million tokens",
    "CPU min",
    "parameters",
    "samples failing",
    "thesis' guardrail",
)
LEGEND = (
    "Bits per byte on the common test text, lower is better, with its 95 % bootstrap interval over "
    "documents; ≥ marks a lower bound (the run's "
    "normalisation erases case, digits, line breaks or characters, and is excused from them). "
    "Perplexity and accuracy are per token of the run's own tokenizer and compare only runs that "
    "share it. Samples fail by guardrails calibrated on people, of whose passages 1 in 20 would: a "
    "run passes with 1 of 5. The thesis' guardrail is its short-piece ratio with its verdict "
    "(threshold 0.12), which human text fails too."
)


def publish_results(name: str, *, root: Path) -> None:
    """Copy metrics, plots, samples, params.yaml and dvc.lock to ``results/<name>/``.

    Raises:
        InputError: params.yaml is another profile's, or something has not been run.
    """
    profile = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8")).get("profile")
    if profile != name:
        raise InputError(
            f"params.yaml is profile {profile!r}, not {name!r}; run `cordel profile {name}` first"
        )
    missing = [
        path
        for path in ("metrics", "plots", "data/samples", "dvc.lock")
        if not (root / path).exists()
    ]
    if missing:
        raise InputError(f"{', '.join(missing)}: not there yet; run `dvc repro` first")
    target = root / "results" / name
    notes = target / "notes.md"
    with new_directory(target) as out:
        if notes.exists():
            shutil.copyfile(notes, out / "notes.md")
        for folder in ("metrics", "plots"):
            shutil.copytree(root / folder, out / folder)
        shutil.copytree(
            root / "data/samples", out / "samples", ignore=shutil.ignore_patterns(".gitignore")
        )
        for file in ("dvc.lock", "params.yaml"):
            shutil.copyfile(root / file, out / file)
        if (root / "data/scored_answers").exists():
            write_jsonl(out / "answers.jsonl", chosen_answers(root / "data/scored_answers"))
        if (root / "data/continuations.jsonl").exists():
            shutil.copyfile(root / "data/continuations.jsonl", out / "continuations.jsonl")


def render_results(*, root: Path) -> None:
    """Write docs/results.md from results/, and the READMEs' tables from metrics/."""
    profiles = sorted(
        path for path in (root / "results").glob("*") if (path / "params.yaml").exists()
    )
    parts = ["# Results\n", "Rendered by `cordel results` from `results/`; do not edit.\n"]
    for folder in profiles:
        parts.append(profile_section(folder))
    tables = {"results": results_table(root), "stages": stage_list(root)}
    if (root / "metrics/answers.json").exists():
        tables["answers"] = f"{answers_table(root)}\n\n{gains_table(root)}"
    readme, translated = root / "README.md", root / "README.pt-BR.md"
    write_text(root / "docs" / "results.md", "\n".join(parts))
    write_text(readme, _filled(readme, tables))
    del tables["stages"]  # one language: what dvc.yaml says
    write_text(translated, _filled(translated, {k: in_portuguese(v) for k, v in tables.items()}))


def _filled(path: Path, tables: Mapping[str, str]) -> str:
    """Return a document with its tables as they are now."""
    text = path.read_text(encoding="utf-8")
    for name, table in tables.items():
        text = replace_between(text, name, table)
    return text


def stage_list(root: Path) -> str:
    """Return the stages of dvc.yaml with what each is for."""
    stages = yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    rows = []
    for name, block in stages.items():
        many = "foreach" in block or "matrix" in block
        desc = re.sub(r"\$\{[^}]*\}", "…", block.get("do", block)["desc"])
        rows.append([f"`{name}{'@…' if many else ''}`", desc])
    return markdown_table(("stage", "what it is for"), rows, align=":---")


def profile_section(folder: Path) -> str:
    """Return one profile's chapter: table, reference lines, cost, notes, samples."""
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    splits = read_json(folder / "metrics/corpus/splits.json")
    cleaned = {
        recipe: read_json(folder / f"metrics/corpus/{recipe}.json") for recipe in params["cleaning"]
    }
    megabytes = ", ".join(f"{k} {v['kept_bytes'] / 1e6:.1f} MB" for k, v in cleaned.items())
    notes = folder / "notes.md"
    return "\n".join(
        [
            f"## Profile `{folder.name}`\n",
            f"{splits['documents']:,} documents, {splits['near_duplicates']:,} of them copies of "
            f"another; train {splits['train']:,}, val {splits['val']:,}, "
            f"test {splits['test']:,}. "
            f"After cleaning: {megabytes}. Every run is scored on the same "
            f"{params['evaluation']['max_documents']} test documents (or all, if fewer).\n",
            results_table(folder),
            "\n### Tokenizers\n",
            tokenizer_table(folder),
            f"\n{LEGEND}\n",
            notes.read_text(encoding="utf-8") if notes.exists() else "",
            "### Samples\n",
            samples_section(folder, list(params["models"])),
            adaptation_section(folder),
            "\n### Overlap with training text\n",
            leakage_section(folder, params["leakage"]["contained_share"]),
        ]
    )


def results_table(folder: Path) -> str:
    """Return runs and reference lines, best first."""
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    rows = [_run_row(folder, run) for run in params["models"]]
    rows += [row for arm in ARMS for row in _arm_rows(folder, arm)]
    references = read_json(folder / "metrics/lm/references.json")
    rows += [
        (
            line["bits_per_byte"],
            [f"*{LINES[name]}*", f"{line['bits_per_byte']:.3f}", *[""] * (len(HEADER) - 2)],
        )
        for name, line in references.items()
    ]
    rows.sort(key=lambda row: row[0])
    return markdown_table(HEADER, [cells for _, cells in rows])


def _bits_per_byte(folder: Path, run: str, score: Mapping[str, Any]) -> str:
    """Return bits per byte, with its interval where there is a leaderboard that knows it."""
    path = folder / "metrics/leaderboard.json"
    known = read_json(path).get(run) if path.exists() else None
    interval = f" [{known['low']:.3f}, {known['high']:.3f}]" if known else ""
    return f"{'' if score['lossless'] else '≥ '}{score['bits_per_byte']:.3f}{interval}"


def _run_row(folder: Path, run: str) -> tuple[float, list[str]]:
    score = read_json(folder / f"metrics/lm/{run}.json")
    attempts = read_json(folder / f"metrics/ledger/train_lm/{run}.json", kind=list)
    guardrail = read_json(folder / f"metrics/guardrails/{run}.json")
    thesis = guardrail["thesis"]
    ratio = thesis["aggregate"]["short_alpha_ratio"]
    verdict = "–" if ratio is None else f"{ratio:.3f} {'pass' if thesis['passes'] else 'fail'}"
    bits = score["bits_per_byte"]
    return bits, [
        f"**{run}**" if score["lossless"] else run,
        _bits_per_byte(folder, run, score),
        f"{score['bits_per_byte_own']:.3f}",
        f"{score['perplexity']:,.1f}",
        f"{score['accuracy']:.3f}",
        f"{attempts[-1]['tokens']['processed'] / 1e6:.2f}",
        f"{sum(a['cpu_seconds'] for a in attempts) / 60:.1f}",
        f"{score['parameters']:,}",
        f"{guardrail['failing']} of {len(guardrail['per_sample'])}",
        verdict,
    ]


def _arm_rows(folder: Path, arm: str) -> list[tuple[float, list[str]]]:
    """Return the row of an adapted model, if it was scored."""
    path = folder / f"metrics/lm/{arm}.json"
    score = read_json(path) if path.exists() else {}
    if not score:
        return []
    ledgers = [
        folder / f"metrics/ledger/{name}.json" for name in (f"adapt_{arm}", f"adapt_sft/{arm}")
    ]
    attempts = [a for ledger in ledgers if ledger.exists() for a in read_json(ledger, kind=list)]
    tokens = f"{attempts[-1]['tokens']['processed'] / 1e6:.2f}" if attempts else "–"
    minutes = f"{sum(a['cpu_seconds'] for a in attempts) / 60:.1f}" if attempts else "–"
    bits = score["bits_per_byte"]
    return [
        (
            bits,
            [
                f"{arm} (track 2)",
                _bits_per_byte(folder, arm, score),
                "–",
                f"{score['perplexity']:,.1f}",
                f"{score['accuracy']:.3f}",
                tokens,
                minutes,
                f"{score['parameters']:,}",
                "–",
                "–",
            ],
        )
    ]


def tokenizer_table(folder: Path) -> str:
    """Return what each tokenizer does to held-out text."""
    header = (
        "tokenizer",
        "pieces",
        "asked",
        "bytes per token",
        "tokens per word",
        "unknown",
        "unwritable",
    )
    rows = []
    for path in sorted((folder / "metrics/tokenizers").glob("*.json")):
        m = read_json(path)
        # Two backticks, since one may be among the characters.
        shown = f"`` {m['unwritable']} ``".replace("|", "\\|") if m["unwritable"] else "–"
        rows.append(
            [
                path.stem,
                f"{m['vocab_size']:,}",
                f"{m['vocab_size_asked']:,}" if "vocab_size_asked" in m else "–",
                f"{m['bytes_per_token']:.2f}",
                f"{m['tokens_per_word']:.2f}",
                f"{100 * m['unknown_rate']:.2f} %",
                shown,
            ]
        )
    return markdown_table(header, rows)


def samples_section(folder: Path, runs: Iterable[str]) -> str:
    """Return the first samples of each run; model text is fenced, so nothing in it is markup."""
    parts = []
    for run in runs:
        for sample in read_json(folder / f"samples/{run}.json")["samples"][:SAMPLES_SHOWN]:
            text = " ".join(sample["text"].split())[:SAMPLE_CHARS].replace("```", "'''")
            parts.append(f"**{run}**, seed {sample['seed']}:\n\n```text\n… {text}\n```\n")
    return "\n".join(parts)
