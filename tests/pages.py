"""The report's pages as tests read them: runs to render, and what stands in the HTML."""

import csv
import json
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import yaml

from cordel.reporting.page.run import Run
from cordel.runtime.files import write_json

ROOT = Path(__file__).parents[1]
HOSTILE = "</script><img src=x onerror=alert(1)> \u202eoirártnoc\u0000\u0007 <b>&amp;</b>"
VOID = {"meta", "br", "link", "img", "input", "hr"}
AUDIT = tuple(f"audit/results/{name}.json" for name in ("answers", "figures", "guardrails"))


def files_of(folder: Path) -> dict[str, Path]:
    """Return the files that git has of a run, by the names that the page gives them."""
    names = ("params.yaml", "dvc.lock", "answers.jsonl", "continuations.jsonl")
    paths = [p for part in ("metrics", "plots", "samples") for p in (folder / part).rglob("*.*")]
    paths += [folder / name for name in names]
    found = {path.relative_to(folder).as_posix(): path for path in sorted(paths) if path.is_file()}
    return found | {name: ROOT / name for name in AUDIT}


def with_hostile_texts(folder: Path, made: Path) -> dict[str, Path]:
    """Return the files of a run in which a model, a tokenizer and a name try to act.

    What differs from ``folder`` is written to ``made``.
    """
    files = files_of(folder)
    samples = json.loads(files["samples/v7.json"].read_text("utf-8"))
    for sample in samples["samples"]:
        sample |= {"text": HOSTILE, "prompt": HOSTILE}
    tokenizer = json.loads(files["metrics/tokenizers/unigram_v7.json"].read_text("utf-8"))
    board = json.loads(files["metrics/leaderboard.json"].read_text("utf-8"))
    lines = json.loads(files["metrics/lm/references.json"].read_text("utf-8"))
    changed = {
        "metrics/lm/references.json": lines | {HOSTILE: lines["xz"]},
        "samples/v7.json": samples,
        "metrics/tokenizers/unigram_v7.json": tokenizer | {"unwritable": HOSTILE},
        "metrics/leaderboard.json": board | {"x<img src=x>": board["v7"]},
    }
    for name, content in changed.items():
        write_json(made / name, content)
        files[name] = made / name
    return files | {"metrics/lm/x<img src=x>.json": files["metrics/lm/v7.json"]}


def run_of(folder: Path) -> Run:
    """Return the run whose files lie in ``folder``."""
    return Run(files_of(folder))


@dataclass(slots=True)
class Element:
    """An element with its attributes; ``parts`` are texts and elements in their order."""

    tag: str
    attributes: dict[str, str] = field(default_factory=dict)
    parts: "list[str | Element]" = field(default_factory=list)

    @property
    def text(self) -> str:
        """All that can be read in it."""
        return "".join(part if isinstance(part, str) else part.text for part in self.parts)

    def all(self, tag: str = "") -> "list[Element]":
        """Return the elements in it, of one name if it is given."""
        inside = [part for part in self.parts if isinstance(part, Element)]
        found = [each for part in inside for each in (part, *part.all())]
        return [each for each in found if not tag or each.tag == tag]


class _Builder(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open = [Element("")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        made = Element(tag, {key: value or "" for key, value in attrs})
        self.open[-1].parts.append(made)
        if tag not in VOID:
            self.open.append(made)

    def handle_endtag(self, tag: str) -> None:
        if self.open[-1].tag != tag:
            raise ValueError(f"</{tag}> closes <{self.open[-1].tag}> at {self.getpos()}")
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].parts.append(data)


def parsed(html: str) -> Element:
    """Return the page; every element must be closed in its order."""
    builder = _Builder()
    builder.feed(html)
    builder.close()
    (page,) = builder.open
    return page


def value_at(source: str, files: dict[str, Path]) -> Any:
    """Return what a file holds where ``data-source`` points: read anew, not as the page reads."""
    name, _, pointer = source.partition("#")
    text = files[name].read_text("utf-8")
    suffix = files[name].suffix
    if suffix == ".csv":
        value: Any = list(csv.DictReader(text.splitlines()))
    elif suffix == ".jsonl":
        value = [json.loads(line) for line in text.split("\n") if line.strip()]
    elif suffix == ".json":
        value = json.loads(text)
    else:
        if files[name].as_posix() not in _PARSED:
            _PARSED[files[name].as_posix()] = yaml.load(text, yaml.CSafeLoader)
        value = _PARSED[files[name].as_posix()]
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        value = value[int(key)] if isinstance(value, list) else value[key]
    return float(value) if suffix == ".csv" else value


_PARSED: dict[str, Any] = {}


def colours(css: str, start: str) -> dict[str, str]:
    """Return the custom properties that are colours in the first ``:root`` after ``start``."""
    block = re.search(r":root \{(.*?)\}", css[css.index(start) :], re.DOTALL)
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block[1])) if block else {}
