"""Track 2 as Markdown: what every arm scores, what it gains, what it costs, what it answers."""

from collections.abc import Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from cordel.reporting.markdown import markdown_table
from cordel.runtime.files import read_json, read_jsonl

ARMS = ("base", "cpt", "sft", "cpt_sft", "instruct", "instruct_sft")
TASKS = ("qa", "summarization", "rewriting")
MAIN = {"qa": ("em", "f1"), "summarization": ("rouge_l",), "rewriting": ("rouge_l",)}
NAMES = {"em": "EM", "f1": "F1", "rouge_l": "ROUGE-L", "words": "words"}
TITLES = {"qa": "QA", "summarization": "summarization", "rewriting": "rewriting"}
ANSWERS_SHOWN = 10
SHOWN_ARMS = ("base", "sft", "cpt_sft")
CHARS = 180
Key = tuple[str, int, str]  # task, seed and id of an item
# The questions of the thesis' worked examples 3 to 5, of its test sets of seed 123.
EXAMPLES = {
    "3": "Eu quero comprar uma guitarra elétrica",
    "4": "Encontre um artigo de notícias sobre o governo local",
    "5": "Descubra qual das seguintes frases é escrita em voz passiva",
}
LEGEND = (
    "Each figure is the mean over the seeds of the task sets ± the sample standard deviation "
    "between them. *copy* answers with the input, *lead1* with its first sentence; *base_brief* is "
    "the base asked to answer briefly. Gains are paired by item, with 95 % bootstrap intervals "
    "over items."
)


def adaptation_section(folder: Path) -> str:
    """Return track 2's part of one profile's chapter; empty if it was not run."""
    if not (folder / "metrics/answers.json").exists():
        return ""
    return "\n".join(
        [
            "\n### Adaptation: loss and bits per byte\n",
            intrinsic_table(folder),
            "\n### Adaptation: answers\n",
            answers_table(folder),
            f"\n{LEGEND}{_too_long(folder)}\n",
            gains_table(folder),
            "\n### Costs\n",
            costs_table(folder),
            answers_shown(folder),
        ]
    )


def intrinsic_table(folder: Path) -> str:
    """Return every arm on the CPT and SFT evaluation splits and on track 1's test documents."""
    metrics = read_json(folder / "metrics/adaptation.json")
    header = ["arm"]
    for split in ("CPT split", "SFT split"):
        header += [f"{split}: nats per token", "perplexity", "bits per byte"]
    rows = []
    for arm in _present(metrics):
        row = [arm]
        for split in ("cpt", "sft"):
            m = metrics[arm][split]
            row += [f"{m['loss']:.3f}", f"{m['perplexity']:,.1f}", f"{m['bits_per_byte']:.3f}"]
        test = read_json(folder / f"metrics/lm/{arm}.json")
        rows.append([*row, f"{test['bits_per_byte']:.3f}"])
    return markdown_table([*header, "test documents: bits per byte"], rows)


def answers_table(folder: Path) -> str:
    """Return each arm's and each baseline's scores on the tasks, and how long it answers."""
    metrics = read_json(folder / "metrics/answers.json")
    header = ["arm"]
    for task in TASKS:
        header += [f"{TITLES[task]} {NAMES[m]}" for m in (*MAIN[task], "words")]
    rows = []
    for arm in _answering(metrics):
        row = [arm]
        for task in TASKS:
            row += [_mean_sd(metrics[arm][task][m]) for m in MAIN[task]]
            row.append(f"{metrics[arm][task]['words']['mean']:.0f}")
        rows.append(row)
    return markdown_table(header, rows)


def gains_table(folder: Path) -> str:
    """Return the paired gains with their intervals."""
    gains = read_json(folder / "metrics/answers.json")["gains"]
    header = ["gain"] + [f"{TITLES[t]} {NAMES[m]}" for t in TASKS for m in MAIN[t]]
    rows = [
        [name.replace("-", " − ")] + [_gain(tasks[t][m]) for t in TASKS for m in MAIN[t]]
        for name, tasks in gains.items()
    ]
    return markdown_table(header, rows)


def costs_table(folder: Path) -> str:
    """Return the groups, the stages of track 2 and the total."""
    costs = read_json(folder / "metrics/costs.json")
    header = ("", "hours", "USD", "tokens per second", "useful", "utilisation", "peak MiB")
    stages = {
        name: cost for name, cost in costs["stages"].items() if name.startswith(("adapt", "gener"))
    }
    rows = [[name, *_cost(cost)] for name, cost in stages.items()]
    rows += [[f"*{name}*", *_cost(cost)] for name, cost in costs["groups"].items()]
    rows.append(["**total**", *_cost(costs["total"])])
    return markdown_table(header, rows)


def answers_shown(folder: Path) -> str:
    """Return some items with the answers of the arms side by side, fenced as text."""
    path = folder / "answers.jsonl"
    if not path.exists():
        return ""
    parts = ["\n### Ten answers\n", "Chosen by a hash of their ids, not for what they show.\n"]
    for row in read_jsonl(path):
        if "example" in row:  # the page shows those
            continue
        lines = [f"instruction: {_short(row['instruction'])}"]
        lines += [f"input:       {_short(row['input'])}"] if row["input"] else []
        lines.append(f"reference:   {_short(row['reference'])}")
        for arm, answer in row["answers"].items():
            text = "(prompt longer than the context)" if answer["too_long"] else answer["answer"]
            score = f"F1 {answer['f1']:.2f}, ROUGE-L {answer['rouge_l']:.2f}"
            lines.append(f"{arm + ':':12} {_short(text) or '(empty)'}   [{score}]")
        fence = "\n".join(lines)
        parts.append(f"**{TITLES[row['task']]}**\n\n```text\n{fence}\n```\n")
    return "\n".join(parts)


def chosen_answers(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the items to show, of ``data/scored_answers``: by a hash of their ids, task by task.

    Where the task sets hold the thesis' worked examples, those follow, with ``example``. An arm
    that was not scored is left out. Prompts and references are quoted in part: they may be other
    people's text.
    """
    paths = {arm: folder / f"{arm}.jsonl" for arm in SHOWN_ARMS}
    by_arm = {
        arm: {(row["task"], row["seed"], row["id"]): row for row in read_jsonl(path)}
        for arm, path in paths.items()
        if path.exists()
    }
    if not by_arm:
        return
    asked = next(iter(by_arm.values()))
    keys = sorted(asked, key=lambda key: blake2b(repr(key).encode()).digest())
    wanted = {task: -(-ANSWERS_SHOWN // len(TASKS)) for task in TASKS}
    shown = [key for task in TASKS for key in [k for k in keys if k[0] == task][: wanted[task]]]
    for key in shown[:ANSWERS_SHOWN]:
        yield _side_by_side(key, by_arm)
    for number, start in EXAMPLES.items():
        for key in [key for key in keys if asked[key]["instruction"].startswith(start)][:1]:
            yield _side_by_side(key, by_arm) | {"example": number}


def _side_by_side(
    key: Key, by_arm: Mapping[str, Mapping[Key, Mapping[str, Any]]]
) -> dict[str, Any]:
    kept = ("answer", "words", "f1", "rouge_l", "too_long", "ended")
    answers = {arm: {k: rows[key][k] for k in kept} for arm, rows in by_arm.items() if key in rows}
    first = next(rows[key] for rows in by_arm.values() if key in rows)
    quoted = {k: _short(first[k]) for k in ("instruction", "input", "reference")}
    return {k: first[k] for k in ("task", "id", "seed")} | quoted | {"answers": answers}


def _present(metrics: Mapping[str, Any]) -> list[str]:
    return [arm for arm in ARMS if arm in metrics]


def _answering(metrics: Mapping[str, Any]) -> list[str]:
    names = [a for arm in ARMS for a in (arm, f"{arm}_brief")] + ["copy", "lead1", "empty"]
    return [name for name in names if name in metrics]


def _too_long(folder: Path) -> str:
    counts = read_json(folder / "metrics/answers.json")["too_long"]
    most = max(counts.values(), default=0)
    if not most:
        return ""
    return (
        f" {most:,} prompts leave no room for an answer in the model's context; they are not cut "
        "but counted as answered with nothing."
    )


def _mean_sd(value: Mapping[str, Any]) -> str:
    return f"{value['mean']:.3f}" + ("" if value["sd"] is None else f" ± {value['sd']:.3f}")


def _gain(value: Mapping[str, Any]) -> str:
    low, high = value["ci"]
    return f"{value['mean']:+.3f} [{low:+.3f}, {high:+.3f}]"


def _cost(cost: Mapping[str, Any]) -> list[str]:
    def shown(key: str, form: str) -> str:
        value = cost.get(key)
        return "–" if value is None else format(value, form)

    return [
        shown("hours", ".3f"),
        shown("usd", ".4f"),
        shown("tokens_per_second", ",.0f"),
        shown("useful_share", ".2f"),
        shown("utilisation", ".2f"),
        shown("peak_memory_mib", ",.0f"),
    ]


def _short(text: str) -> str:
    """Return one line of text that cannot close its fence."""
    line = " ".join(text.split()).replace("```", "'''")
    return line if len(line) <= CHARS else line[:CHARS] + " …"
