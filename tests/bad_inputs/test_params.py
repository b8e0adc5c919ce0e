"""Every parameter of params.yaml, wrong in every way that its kind allows.

The cases come from params.yaml and from the stages' own calls of ``read_params``, so a new
parameter is covered as soon as it is there.
"""

import ast
import copy
import math
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from cordel import cli
from tests.bad_inputs.harness import Project
from tests.bad_inputs.toy import COMMANDS, ROOT, command_of, main_of, toy_params

pytestmark = pytest.mark.slow
PARAMS = toy_params()
ITEMS = {  # sections of which a stage reads one entry, and the flag that names it
    "cleaning": "--recipe",
    "tokenizers": "--name",
    "datasets": "--dataset",
    "models": "--run",
    "base_models": "--base",
}
VERBS = {"seeds": ["cordel", "seeds"], "profile": ["cordel", "profile", "smoke"]}  # no stage's
FREE = {"costs.usd_per_hour"}  # its keys are the user's, so none is missing or unknown
HUGE = 10**30


def read_by(stage: str) -> set[str]:
    """Return the sections that a stage names in its calls of read_params and read_section."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / "stages" / f"{stage}.py").read_text("utf-8"))):
        name = getattr(getattr(node, "func", None), "id", "") if isinstance(node, ast.Call) else ""
        if name in ("read_params", "read_section"):
            section: Any = node.args[0]  # pyright: ignore[reportAttributeAccessIssue]
            literal: Any = section if isinstance(section, ast.Constant) else section.values[0]
            found.add(literal.value.split(".")[0])
    return found


STAGES = list(dict.fromkeys(command.split()[0] for command in COMMANDS))
SECTIONS = {stage: read_by(stage) for stage in STAGES}


def leaves(values: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every value that is not a mapping with keys."""
    if isinstance(values, dict) and values:
        for key, value in values.items():
            yield from leaves(value, (*path, key))
    else:
        yield path


def distinct() -> dict[str, tuple[str, ...]]:
    """Return one path for each parameter, whatever the number of runs, recipes and so on."""
    found: dict[str, tuple[str, ...]] = {}
    for path in leaves(PARAMS):
        name = ".".join((path[0], "*", *path[2:]) if path[0] in ITEMS else path)
        found.setdefault(name, path)
    return found


PARAMETERS = distinct()


def words_of(section: str, item: str = "", *, stage: str = "") -> list[str]:
    """Return a command that reads a section, or its entry ``item``."""
    if section in VERBS:
        return VERBS[section]
    words = command_of(stage or next(s for s in STAGES if section in SECTIONS[s]))
    if section in ITEMS:
        words[words.index(ITEMS[section]) + 1] = item
    return words


def wrong(value: Any) -> list[Any]:
    """Return what can never stand where ``value`` does."""
    junk: list[Any] = [{"a": 1}, "sete"]
    if value is None:  # optional, and a number in this project
        return [*junk, [], True, -1, HUGE, math.nan]
    junk.append(None)
    if isinstance(value, bool):
        return [*junk, [], 1, 0.0]
    if isinstance(value, int):
        return [*junk, [], True, float(value), -1, HUGE, math.nan, f"{value}"]
    if isinstance(value, float):
        return [*junk, [], True, 1, -1.0, math.nan, math.inf, -math.inf, "1e-4"]
    if isinstance(value, str):
        return [{"a": 1}, None, [], [value], True, 7, 0.5, "a\0b", "\ud800"]
    if isinstance(value, list):
        return [*junk, True, 7, [None], [[]], [{"nenhum": 1}], [math.nan]]
    return [None, [], 7, "sete", True]


def spoilt(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """Return params.yaml with another value at ``path``."""
    params = copy.deepcopy(PARAMS)
    place = params
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return params


def text_of(params: dict[str, Any], words: list[str]) -> bytes:
    """Return the file, with no more than the stage reads: of 700 lines most of a case's time."""
    if words[0] == "cordel":
        kept = params
    else:
        kept = {name: params[name] for name in SECTIONS[words[0]] if name in params}
    for section, flag in ITEMS.items():
        if flag in words and section in kept:
            item = words[words.index(flag) + 1]
            if isinstance(kept[section], dict) and section != "cleaning":
                kept[section] = {k: v for k, v in kept[section].items() if k == item}
    try:
        return yaml.dump(kept, Dumper=yaml.CSafeDumper).encode("ascii")
    except UnicodeEncodeError:  # of half a surrogate pair, which only the slow one escapes
        return yaml.dump(kept, Dumper=yaml.SafeDumper).encode("ascii")


def refuses(toy: Project, words: list[str], params: dict[str, Any], *names: str) -> None:
    """Run the command with other parameters."""
    with toy.changed("params.yaml", text_of(params, words)):
        main = cli.main if words[0] == "cordel" else main_of(words[0])
        toy.refuses(main, words, *names, verb=words[0] == "cordel")


def test_every_section_has_a_reader() -> None:
    assert {path[0] for path in PARAMETERS.values()} <= set().union(
        *SECTIONS.values()
    ) | VERBS.keys()
    assert {p.stem for p in (ROOT / "stages").glob("[!_]*.py")} == set(STAGES)
    assert len(PARAMETERS) > 200


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_parameter_of_the_wrong_kind_is_refused(toy: Project, name: str) -> None:
    path: Any = PARAMETERS[name]
    words = words_of(path[0], path[1] if len(path) > 1 else "")
    value: Any = PARAMS
    for key in path:
        value = value[key]
    if name == "profile":
        values: list[Any] = [None, 7, [], {"a": 1}, "outro"]
    else:
        values = wrong(value)
    for other in values:
        # YAML itself refuses half a surrogate pair, by line and column.
        refuses(toy, words, spoilt(path, other), path[-1], path[0], "not valid YAML")


@pytest.mark.parametrize("name", [n for n in PARAMETERS if n.rpartition(".")[0] not in FREE])
def test_a_missing_and_a_misspelt_key_are_refused(toy: Project, name: str) -> None:
    path: Any = PARAMETERS[name]
    words = words_of(path[0], path[1] if len(path) > 1 else "")
    params = copy.deepcopy(PARAMS)
    place = params
    for key in path[:-1]:
        place = place[key]
    value = place.pop(path[-1])
    refuses(toy, words, params, path[-1])
    place[f"{path[-1]}_"] = value
    if len(path) > 1:
        refuses(toy, words, params, f"{path[-1]}_", path[-1])


READERS = [(stage, section) for stage in STAGES for section in sorted(SECTIONS[stage])]


@pytest.mark.parametrize(("stage", "section"), READERS)
def test_a_section_that_is_none_is_refused_by_every_stage_that_reads_it(
    toy: Project, stage: str, section: str
) -> None:
    words = command_of(stage)
    for value in (None, [], 7, "sete", {}):
        refuses(toy, words, PARAMS | {section: value}, section)
    without = {name: value for name, value in PARAMS.items() if name != section}
    refuses(toy, words, without, section)


FILES = {
    "empty": b"",
    "null": b"null",
    "a list": b"- 1\n- 2\n",
    "text": b"sete",
    "not YAML": b"a: [1\nb: }",
    "tabs": b"corpus:\n\tpath: x\n",
    "not UTF-8": "corpus: {path: ção}".encode("latin-1"),
    "binary": bytes(range(256)),
    "no date": b"corpus: 2001-99-99\n",
    "python objects": b"corpus: !!python/object/apply:os.system ['touch pwned']\n",
    "nested too deep": b"[" * 5000,
    "an alias of nothing": b"corpus: *nada\n",
}


@pytest.mark.parametrize("stage", ["export_corpus", "train_lm", "adapt_cpt"])
@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_a_file_that_is_no_params_yaml_is_refused(toy: Project, stage: str, content: bytes) -> None:
    with toy.changed("params.yaml", content):
        toy.refuses(main_of(stage), command_of(stage), "params.yaml")


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_names_a_missing_params_yaml(toy: Project, stage: str) -> None:
    if not SECTIONS[stage]:
        return
    with toy.changed("params.yaml", None):
        toy.refuses(main_of(stage), command_of(stage), "params.yaml")
    with toy.changed("params.yaml", None, folder=True):
        toy.refuses(main_of(stage), command_of(stage), "params.yaml")
