"""Which edit makes which stages stale: the table in docs/architecture.md.

It is derived from dvc.yaml alone. A test makes every edit in a copy and asks `dvc status`.
"""

import ast
import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import yaml

from cordel.pipeline import Stage, read_pipeline, with_downstream
from cordel.reporting.markdown import markdown_table, replace_between
from cordel.runtime.files import write_text

DOCUMENT = Path("docs/architecture.md")
HEADER = ("edit", "stale at once", "with all that follows, at most", "of them train, at most")
STAGE_FILES = ("each file of `stages/`", "its stage", "", "")
# Of each of their items dvc.yaml makes stages of that name.
ITEMS = ("cleaning", "tokenizers", "datasets", "models", "base_models")
NAMED = 3  # so many items of a stage are named, more are counted


def render_reruns(*, root: Path) -> None:
    """Write the table of reruns into docs/architecture.md."""
    path = root / DOCUMENT
    text = path.read_text(encoding="utf-8")
    write_text(path, replace_between(text, "reruns", reruns_table(root)))


def reruns_table(root: Path) -> str:
    """Return a row for each fate, with the edits that share it."""
    stages = default_stages(root)
    similar: dict[str, dict[str, frozenset[str]]] = defaultdict(dict)
    for edit, stale in fates(root, stages).items():
        if not edit.startswith("stages/"):
            similar[_pattern(edit)][_item(edit)] = stale
    rows: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for pattern, stale_of in similar.items():
        rows[_cells(stale_of, stages)].append(pattern)
    table = [(_label(patterns, root), *cells) for cells, patterns in rows.items()]
    table.sort(key=lambda row: row[1] == "nothing")
    return markdown_table(HEADER, [STAGE_FILES, *table], align=":---")


def default_stages(root: Path) -> dict[str, Stage]:
    """Return the stages without those of further seeds, which share the fate of the first."""
    return {
        name: stage for name, stage in read_pipeline(root=root).items() if "_seeds@" not in name
    }


def trainings(names: Iterable[str]) -> set[str]:
    """Return the stages among ``names`` that train a model."""
    return {name for name in names if re.match(r"(train_lm|adapt_)", name)}


def fates(root: Path, stages: Mapping[str, Stage]) -> dict[str, frozenset[str]]:
    """Return the stages that an edit makes stale, for every edit.

    An edit is a file of code, such as ``src/cordel/tokens.py``, or a key of params.yaml, such as
    ``models.v7`` or ``models.v7.dataset``. The first of those stands for what is below it and has
    no fate of its own, as the second has: dvc.yaml names it in paths.
    """
    in_paths = keys_in_paths(root, stages)
    declared = {key for stage in stages.values() for key in stage.params}
    found = {
        path: frozenset(name for name, stage in stages.items() if path in stage.deps)
        for path in code_files(root)
    }
    params = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    known = declared | in_paths.keys()
    known |= {key for key in params if not any(_covers(key, other) for other in known)}
    for key in sorted(known, key=lambda key: ([*params].index(key.split(".")[0]), key)):
        reads = {
            name
            for name, stage in stages.items()
            if any(_covers(other, key) for other in stage.params)
        }
        found[key] = frozenset(reads | in_paths.get(key, set()))
    return found


def code_files(root: Path) -> list[str]:
    """Return the files of code, templates included.

    An ``__init__`` that holds only a docstring is none.
    """
    files = [*sorted((root / "src/cordel").rglob("*.*")), *sorted((root / "stages").glob("*.py"))]
    return [
        file.relative_to(root).as_posix()
        for file in files
        if file.is_file() and file.suffix != ".pyc" and not _is_empty(file)
    ]


def _is_empty(file: Path) -> bool:
    """Say whether a package's ``__init__`` holds only a docstring."""
    return file.name == "__init__.py" and len(ast.parse(file.read_text(encoding="utf-8")).body) <= 1


def keys_in_paths(root: Path, stages: Collection[str]) -> dict[str, set[str]]:
    """Return the keys of params.yaml that stand in commands and paths, with the stages."""
    blocks = yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    found: dict[str, set[str]] = defaultdict(set)
    for block_name, block in blocks.items():
        words = _interpolated(block.get("do", block))
        each = block.get("foreach", {})
        for name in stages:
            base, _, item = name.partition("@")
            if base != block_name:
                continue
            # `foreach: ${models}` or a mapping, whose values may name keys themselves.
            section = each.strip("${}") if isinstance(each, str) else None
            values = set() if isinstance(each, str) else _interpolated(each.get(item))
            for word in words | values:
                if word.startswith("item."):
                    if section:
                        found[f"{section}.{item}.{word.removeprefix('item.')}"].add(name)
                elif word not in ("key", "item"):
                    found[word].add(name)
    return found


def _interpolated(block: object) -> set[str]:
    """Return what stands between ``${`` and ``}``."""
    return set(re.findall(r"\$\{([\w.]+)\}", json.dumps(block)))


def _covers(key: str, other: str) -> bool:
    """Say whether ``other`` is ``key`` or below it."""
    return f"{other}.".startswith(f"{key}.")


def _item(edit: str) -> str:
    """Return what a key of params.yaml is of, such as v7 of ``models.v7.dataset``, or nothing."""
    section, _, rest = edit.partition(".")
    return rest.partition(".")[0] if section in ITEMS else ""


def _pattern(edit: str) -> str:
    """Return an edit with NAME instead of its item."""
    item = _item(edit)
    return edit.replace(f".{item}", ".NAME", 1) if item else edit


def _cells(
    stale_of: Mapping[str, frozenset[str]], stages: Mapping[str, Stage]
) -> tuple[str, str, str]:
    """Return the row of edits that differ in their item, which is called NAME, and in no more."""
    parts = []
    for base in sorted({name.partition("@")[0] for stale in stale_of.values() for name in stale}):
        found = [
            sorted(name for name in stale if name.partition("@")[0] == base)
            for stale in stale_of.values()
        ]
        own = all(f"{base}@{item}" in names for item, names in zip(stale_of, found, strict=True))
        parts.append(
            _part(base, found, own=own, total=sum(n.startswith(f"{base}@") for n in stages))
        )
    reruns = [with_downstream(stale, stages) for stale in stale_of.values()]
    return (
        ", ".join(parts) or "nothing",
        _range([len(names) for names in reruns]),
        _range([len(trainings(names)) for names in reruns]),
    )


def _part(base: str, found: list[list[str]], *, own: bool, total: int) -> str:
    """Return the items of a stage in a few words, such as ``train_lm (7 of 12)``."""
    if total == 0:
        return base
    counts = [len(names) for names in found]
    if own:
        more = _range([count - 1 for count in counts])
        return f"{base}@NAME" + ("" if more == "0" else f" and {more} more")
    if len(found) == 1 and counts[0] <= NAMED and (counts[0] < total or total == 1):
        return ", ".join(found[0])
    return f"{base} ({total})" if min(counts) == total else f"{base} ({_range(counts)} of {total})"


def _range(counts: list[int]) -> str:
    """Return the smallest and the largest count."""
    return f"{min(counts)}–{max(counts)}" if len(set(counts)) > 1 else str(counts[0])


def _label(patterns: list[str], root: Path) -> str:
    """Return edits that share a row in a few words: whole folders, no key below one of them."""
    files = [pattern for pattern in patterns if "/" in pattern]
    keys = [pattern for pattern in patterns if "/" not in pattern]
    everything = code_files(root)
    shown: list[str] = []
    for file in files:
        folder = Path(file).parent
        whole = {other for other in everything if Path(other).parent == folder} <= set(files)
        name = f"{folder.as_posix()}/" if whole and folder.parent.name == "cordel" else file
        shown.append(name.removeprefix("src/cordel/"))
    shown += [key for key in keys if not any(_covers(k, key) for k in keys if k != key)]
    return ", ".join(f"`{name}`" for name in dict.fromkeys(shown))
