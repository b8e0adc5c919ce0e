"""docs/performance.md from the figures in ``benchmarks/results``."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.measure import compared, spread
from benchmarks.study import overtakes
from benchmarks.tables_stages import stages
from benchmarks.tables_text import corpus, tokenizer
from cordel.reporting.markdown import markdown_table, replace_between
from cordel.runtime.files import read_json, write_text

Found = Mapping[str, Any]
TEXTS = ("test", "reserved")  # of benchmarks/line.py
FAR = 1e6  # CPU seconds: further than that no law is believed


def render(results: Path, document: Path) -> None:
    """Fill the tables of the sections that were measured into the document."""
    text = document.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        path = results / f"{name}.json"
        if path.exists():
            found = read_json(path)
            content = f"{table(found)}\n\n{_where(found)}"
            text = replace_between(text, name, content, by="make bench")
    write_text(document, text)


def _where(found: Found) -> str:
    e = found["environment"]
    versions = ", ".join(f"{name} {number}" for name, number in e["versions"].items())
    return (
        f"{e['date'][:10]}, {_cpu(e)}, {e['cores']} cores, one thread, load {e['load']} to "
        f"{e['load_after']}; Python {e['python']}, {versions}."
    )


def _cpu(environment: Found) -> str:
    instructions = environment.get("instructions")
    return f"{environment['cpu']}, {instructions}" if instructions else environment["cpu"]


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
                spread(row["per_cpu_second"]),
                compared(variants[ours]["per_cpu_second"], row["per_cpu_second"]),
                spread(row["utilisation"], ".0%"),
                spread(row["per_second"]),
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
            spread(row["per_cpu_second"]),
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
            spread(row["per_cpu_second"]),
            compared(ours, row["per_cpu_second"]),
            f"{row['useful_share']:.0%}",
        ]
        for name, row in found["variants"].items()
    ]
    errors = ", ".join(f"{name} {error:.1e}" for name, error in found["errors"].items())
    header = ("rows", "supervised tokens / CPU s", "ours is × as fast", "of places supervised")
    exact = f"Largest difference of a logit from one by one: {errors}."
    return f"{markdown_table(header, rows)}\n\n{exact}"


def answers(found: Found) -> str:
    """Return the table of batched answers."""
    alone = found["variants"]["one by one"]["per_cpu_second"]
    rows = [
        [
            name,
            spread(row["per_cpu_second"], ".2f"),
            compared(row["per_cpu_second"], alone),
            f"{row['identical']} of {found['prompts']}",
        ]
        for name, row in found["variants"].items()
    ]
    return markdown_table(("prompts at once", "prompts / CPU s", "× one by one", "identical"), rows)


def quality(found: Found) -> str:
    """Return the table of time to quality, seed by seed."""
    rows = []
    for name, result in found["ratios"].items():
        times, pairs = result["times_faster"], result["pairs"]
        rows.append(
            [
                name,
                ", ".join(f"{pair['bits']:.3f}" for pair in pairs),
                ", ".join(f"{pair['theirs']:.0f}" for pair in pairs),
                ", ".join("–" if p["ours"] is None else f"{p['ours']:.0f}" for p in pairs),
                "not with every seed" if times is None else spread(times, ".1f"),
            ]
        )
    header = ("", "the recipe's best bits per byte", "after CPU s", "v7 has them after", "× faster")
    sizes = ", ".join(f"{name} {count:,}" for name, count in found["parameters"].items())
    sweep = "; ".join(
        f"{name} " + ", ".join(f"{rate}: {bits:.3f}" for rate, bits in rates.items())
        for name, rates in found["sweep"].items()
    )
    budget = found["budget"]
    last = "; ".join(
        f"{name}: " + ", ".join(f"{curve[-1][1]:.3f}" for curve in curves)
        for name, curves in found["curves"].items()
        if name.startswith("v7")
    )
    return (
        f"{markdown_table(header, rows)}\n\nParameters: {sizes}. At the end of "
        f"{budget['ours']:.0f} s, {last}. Sweep of {budget['sweep']:.0f} s a rate, bits per byte "
        f"of val: {sweep}."
    )


def line(found: Found) -> str:
    """Return v7's runs beside the n-grams that they have to overtake."""
    rows = [
        [
            f"trigrams over {name}",
            *(f"{row[key]:.3f}" for key in ("cpu_seconds", *TEXTS)),
            "",
            "",
            "",
        ]
        for name, row in found["ngrams"].items()
    ]
    keys = (*TEXTS, *(f"{text}, mixed" for text in TEXTS), "share")
    rows += [
        ["v7", f"{run['cpu_seconds']:,.0f}", *(f"{run[key]:.3f}" for key in keys)]
        for run in found["runs"]
    ]
    header = ("", "CPU s", *(f"{text}, bits per byte" for text in TEXTS))
    header += (*(f"{text}, both mixed" for text in TEXTS), "share of v7")
    laws = "; ".join(
        f"{text} {law['floor']:.3f} + {law['factor']:.3g} × seconds^−{law['exponent']:.3g}, "
        f"off by at most {law['largest_error']:.3f}"
        for text, law in found["laws"].items()
    )
    said = [
        f"over {name} on {text} text {crossing_in_words(where)}"
        for name, texts in found["crossings"].items()
        for text, where in texts.items()
    ]
    return (
        f"{markdown_table(header, rows)}\n\nFitted to v7's runs: {laws}.\n\n"
        f"v7 overtakes the trigrams {'; '.join(said)}."
    )


def crossing_in_words(where: Found) -> str:
    """Return when a line is crossed, and whether that is measured or extrapolated."""
    if (measured := where.get("measured")) is not None:
        return f"after {measured:,} CPU s (measured)"
    straight, law = (
        None if second is None or second > FAR else f"{second:,.0f} CPU s"
        for second in (where["law_without_floor"], where["law"])
    )
    if law is None:
        return f"not before {straight or 'any time'} (extrapolated, no floor; with one, never)"
    return f"between {straight} and {law} (extrapolated, without and with a floor)"


def study(found: Found) -> str:
    """Return the variants of v7 at equal CPU time, the sizes, and what was foretold of the last."""
    header = ("parameters", "tokens", "CPU s", "peak MiB")
    header += ("bits per byte of val before a step", "after the last")
    first = f"in {found['seconds']:.0f} CPU s"
    tables = [
        markdown_table(
            ("width" if part == "sizes" else first, *header),
            [
                [
                    name,
                    *(f"{row[key]:,}" for key in ("parameters", "tokens")),
                    f"{row['cpu_seconds']:.0f}",
                    f"{row['peak_memory_mib']:,.0f}",
                    f"{row['at_the_start']:.3f}",
                    f"{row['val_bits_per_byte']:.3f}",
                ]
                for name, row in found[part].items()
            ],
        )
        for part in ("variants", "chosen", "sizes")
        if found[part]
    ]
    if fit := found.get("fit"):
        every = [(r["cpu_seconds"], r["val_bits_per_byte"]) for r in found["sizes"].values()]
        when = overtakes(every, found["trigrams"])
        largest = list(found["sizes"].values())[-1]["val_bits_per_byte"]
        tables.append(
            f"Over the sizes but the last: {fit['floor']:.3f} + {fit['factor']:.3g} × "
            f"seconds^−{fit['exponent']:.3g}, off by at most {fit['largest_error']:.3f}. It "
            f"foretells {fit['foretold']:.3f} for the last; measured: {largest:.3f}. Trigrams of "
            f"the same train text have {found['trigrams']:.3f} on val; v7, growing so, comes down "
            f"to them {crossing_in_words(when)}."
        )
    return "\n\n".join(tables)


def gpu(found: Found) -> str:
    """Return the tables of a CUDA device."""
    training = [
        [
            row["case"],
            "compiled" if row["compile"] else "eager",
            f"{row['tokens_per_second']:,.0f}",
            f"{row['utilisation']:.0%}",
            _memory(row),
        ]
        for row in found["training"]
    ]
    qlora = [
        [
            f"{row['blocks']} × {row['ids']:,}",
            f"{row['tokens_per_second']:,.0f}" if row["tokens_per_second"] else "does not fit",
            _memory(row),
        ]
        for row in found["qlora"]
    ]
    answers = [
        [str(row["prompts"]), f"{row['new_tokens_per_second']:,.0f}", _memory(row)]
        for row in found["answers"]
    ]
    return "\n\n".join(
        [
            f"{found['device']}, bf16 matmul peak {found['peak_flops'] / 1e12:.0f} TFLOP/s.",
            markdown_table(("run", "", "tokens / s", "of the peak", "peak MiB"), training),
            markdown_table(("QLoRA of 8B: blocks × ids", "tokens / s", "peak MiB"), qlora),
            markdown_table(("answers of 8B: prompts at once", "new ids / s", "peak MiB"), answers),
        ]
    )


def _memory(row: Mapping[str, Any]) -> str:
    return "" if row["peak_memory_mib"] is None else f"{row['peak_memory_mib']:,.0f}"


TABLES: dict[str, Callable[[Found], str]] = {
    "steps": steps,
    "rnn": rnn,
    "quality": quality,
    "line": line,
    "study": study,
    "sft": sft,
    "answers": answers,
    "corpus": corpus,
    "tokenizer": tokenizer,
    "stages": stages,
    "gpu": gpu,
}
