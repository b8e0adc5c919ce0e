"""docs/performance.md from the figures in ``benchmarks/results``."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.measure import compared
from cordel.reporting.markdown import markdown_table, replace_between
from cordel.runtime.files import read_json, write_text

Found = Mapping[str, Any]


def render(results: Path, document: Path) -> None:
    """Fill the tables of the sections that were measured into the document."""
    text = document.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        path = results / f"{name}.json"
        if path.exists():
            found = read_json(path)
            text = replace_between(text, name, f"{table(found)}\n\n{_where(found)}")
    write_text(document, text)


def _where(found: Found) -> str:
    e = found["environment"]
    versions = ", ".join(f"{name} {number}" for name, number in e["versions"].items())
    return (
        f"{e['date'][:10]}, {e['cpu']}, {e['cores']} cores, one thread, load {e['load']} to "
        f"{e['load_after']}; Python {e['python']}, {versions}."
    )


def _spread(value: Mapping[str, float], form: str = ",.0f") -> str:
    """Return median (least–most)."""
    return f"{value['median']:{form}} ({value['min']:{form}}–{value['max']:{form}})"


def steps(found: Found) -> str:
    """Return the training step's tables, one a shape."""
    parts = []
    for case in ("v6", "v7"):
        result = found[case]
        variants = result["variants"]
        ours = "cordel gpt" if case == "v6" else "cordel llama"
        rows = [
            [
                f"**{name}**" if name == ours else name,
                f"{row['parameters']:,}",
                _spread(row["per_cpu_second"]),
                compared(variants[ours]["per_cpu_second"], row["per_cpu_second"]),
                _spread(row["utilisation"], ".0%"),
                _spread(row["per_second"]),
            ]
            for name, row in variants.items()
        ]
        header = ("", "parameters", "tokens / CPU s", "ours is × as fast")
        header += ("of the matmul peak", "tokens / s")
        peak = result["peak_flops"]["median"] / 1e9
        parts.append(
            f"{case}'s shape, {result['tokens_a_step']:,} tokens a step; peak {peak:.0f} GFLOP/s\n"
        )
        parts.append(markdown_table(header, rows))
    return "\n".join(parts)


def rnn(found: Found) -> str:
    """Return the RNN's table."""
    ours = found["variants"]["every position"]["per_cpu_second"]
    rows = [
        [
            name,
            _spread(row["per_cpu_second"]),
            compared(ours, row["per_cpu_second"]),
            f"{row['val_bits_per_byte']:.3f}",
        ]
        for name, row in found["variants"].items()
    ]
    last = f"bits per byte (val) after {found['cpu_seconds']:.0f} CPU s"
    return markdown_table(("targets", "targets / CPU s", "ours is × as fast", last), rows)


def sft(found: Found) -> str:
    """Return the table of fine-tuning steps."""
    names = list(found["variants"])
    ours = found["variants"][names[0]]["per_cpu_second"]
    rows = [
        [
            name,
            _spread(row["per_cpu_second"]),
            compared(ours, row["per_cpu_second"]),
            f"{row['useful_share']:.0%}",
        ]
        for name, row in found["variants"].items()
    ]
    errors = ", ".join(f"{name} {error:.1e}" for name, error in found["errors"].items())
    header = ("rows", "supervised tokens / CPU s", "ours is × as fast", "of places supervised")
    return f"{markdown_table(header, rows)}\n\nLargest difference of a logit from one by one: {errors}."


def answers(found: Found) -> str:
    """Return the table of batched answers."""
    alone = found["variants"]["one by one"]["per_cpu_second"]
    rows = [
        [
            name,
            _spread(row["per_cpu_second"], ".2f"),
            compared(row["per_cpu_second"], alone),
            f"{row['identical']} of {found['prompts']}",
        ]
        for name, row in found["variants"].items()
    ]
    return markdown_table(("prompts at once", "prompts / CPU s", "× one by one", "identical"), rows)


TABLES: dict[str, Callable[[Found], str]] = {
    "steps": steps,
    "rnn": rnn,
    "sft": sft,
    "answers": answers,
}
