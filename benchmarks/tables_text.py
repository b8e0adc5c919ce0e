"""The tables of docs/performance.md on text: the sections ``corpus`` and ``tokenizer``."""

from collections.abc import Mapping
from typing import Any

from benchmarks.measure import compared, spread
from cordel.reporting.markdown import markdown_table

Found = Mapping[str, Any]


def corpus(found: Found) -> str:
    """Return a table of every step, and one of how the stages grow."""
    parts = [f"Text: {found['text']}."]
    if found["left_out"]:
        parts.append(f"Not installed, hence left out: {', '.join(found['left_out'])}.")
    for step, result in found["steps"].items():
        note = f"{step}: {result['megabytes']:.1f} MB, {result['documents']:,} documents"
        if step == "near-duplicates":
            note += f", {found['copies']} of them copies on record"
        parts += [note, _ways(result["ways"], result["documents"])]
    return "\n\n".join([*parts, "The stages, each in a process of its own:", _growth(found)])


def _ways(ways: Found, documents: int) -> str:
    ours = next(iter(ways.values()))["per_cpu_second"]
    rows = [
        [
            f"**{name}**" if name.startswith("cordel") else name,
            spread(row["per_cpu_second"], ",.1f"),
            compared(ours, row["per_cpu_second"]),
            "" if row["agree"] is None else f"{row['agree']:,} of {documents:,}",
        ]
        for name, row in ways.items()
    ]
    header = ("", "MB / CPU s", "ours is × as fast", "documents that come out alike")
    return markdown_table(header, rows)


def _growth(found: Found) -> str:
    grown = found["growth"]
    sizes = [f"{size:,.1f} MB" for size in grown["megabytes"]]
    rows = []
    for name, stage in grown["stages"].items():
        exponent = stage["exponent"]
        rows.append(
            [
                name,
                f"{stage['start']['cpu']:.2f}",
                *(f"{run['cpu']:.2f}" for run in stage["runs"]),
                "" if exponent is None else f"{exponent:.2f}",
                f"{stage['start']['peak_mb']:.0f}",
                *(f"{run['peak_mb']:.0f}" for run in stage["runs"]),
            ]
        )
    header = ("stage", "CPU s: few documents", *sizes, "exponent")
    return markdown_table((*header, "peak MiB: few documents", *sizes), rows)


def tokenizer(found: Found) -> str:
    """Return a table of the trainers for each model, and one of encoding for each tokenizer."""
    size = found["megabytes"]
    parts = [
        f"Text: {found['text']}; learnt from {size['learnt']:.1f} MB, measured on "
        f"{size['held_out']:.1f} MB."
    ]
    for group, learners in found["learning"].items():
        parts += [f"Learning: {group}", _learning(learners)]
    for name, ways in found["encoding"].items():
        parts += [f"Encoding with {name}", _ways(ways, found["documents"])]
    return "\n\n".join(parts)


def _learning(learners: Found) -> str:
    ours = next(iter(learners.values()))["per_cpu_second"]
    rows = [
        [
            f"**{name}**" if name.startswith("cordel") else name,
            spread(row["per_cpu_second"], ".2f"),
            compared(ours, row["per_cpu_second"]),
            f"{row['pieces']:,}",
            f"{row['bytes_per_token']:.3f}",
            f"{row['unknown_share']:.3%}",
        ]
        for name, row in learners.items()
    ]
    header = ("", "MB / CPU s", "the first is × as fast", "pieces", "bytes / token", "unknown")
    return markdown_table(header, rows)
