"""Read one section of ``params.yaml`` into a frozen dataclass, strictly.

A misspelt key must stop the run before the GPU starts, not fall back to a default. So keys are
matched exactly, types are checked and never coerced, and every problem in a section is reported
at once. What no parameter can be is refused here, whatever its owner checks: a number that is
negative, infinite or above 2^32 - 1, and text that no file or command line can hold.
"""

import math
import types
from argparse import ArgumentTypeError
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from cordel.runtime.errors import ParamsError

T = TypeVar("T")
PARAMS = Path("params.yaml")
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a tenth of the time
LARGEST = 2**32 - 1  # the largest seed that every generator takes; no size comes near it
SHOWN = 60  # characters of a value that a message repeats


def read_params(section: str, owner: type[T], *, path: Path = PARAMS) -> T:
    """Return ``section`` (dotted, such as ``models.v3``) as an instance of ``owner``.

    Raises:
        ParamsError: The file or section is absent or not YAML, or a key is unknown, missing, of the
            wrong type or out of range (``owner.__post_init__`` raises ``ValueError`` for ranges).
    """
    return parse(read_section(section, path=path), owner, f"{path}: section {section!r}")


def parse(values: Any, owner: type[T], where: str) -> T:
    """Return ``values`` as an instance of the dataclass ``owner``; ``where`` begins the message.

    Raises:
        ParamsError: As ``read_params``.
    """
    problems: list[str] = []
    built = _build(values, owner, "", problems)
    if problems:
        raise ParamsError(f"{where}: " + "; ".join(problems))
    return built


def read_section(section: str, *, kind: Any = Any, path: Path = PARAMS) -> Any:
    """Return ``section`` as plain YAML values.

    Args:
        section: Dotted, such as ``sft.seed``.
        kind: What it must be, as a dataclass' field would be annotated.
        path: The file.

    Raises:
        ParamsError: The file is missing or not YAML, or the section is absent or of another kind.
    """
    try:
        values: Any = yaml.load(path.read_text(encoding="utf-8"), LOADER)  # noqa: S506
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file; run from the root of the project") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: dates, UTF-8
        raise ParamsError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    for key in section.split("."):
        if not isinstance(values, dict) or key not in values:
            raise ParamsError(f"{path}: no section {section!r} (stopped at {key!r}); add it")
        values = values[key]
    problems: list[str] = []
    checked = _check(values, kind, section, problems)
    if problems:
        raise ParamsError(f"{path}: {problems[0]}")
    return checked


def known_profile(name: str) -> str:
    """Return the name of a profile of this folder: the value of ``profile``, checked.

    Raises:
        ParamsError: There is none of that name.
    """
    overlay = Path("profiles", f"{name}.yaml")
    if name != "sample" and not overlay.is_file():
        raise ParamsError(f"{PARAMS}: profile is {name!r}, but {overlay} is not there")
    return name


def _build(values: Any, owner: Any, where: str, problems: list[str]) -> Any:
    """Check ``values`` against the dataclass ``owner``; append problems instead of raising."""
    if not isinstance(values, Mapping):
        problems.append(f"{where or 'the section'} is {_shown(values)}, expected keys and values")
        return None
    hints = get_type_hints(owner)
    required = {f.name for f in fields(owner) if f.default is f.default_factory is MISSING}
    before = len(problems)
    prefix = f"{where}." if where else ""
    unknown = sorted(str(key) for key in values.keys() - hints.keys())
    problems += [f"unknown key {prefix + key!r}" for key in unknown]
    problems += [f"missing key {prefix + key!r}" for key in sorted(required - values.keys())]
    built = {
        key: _check(values[key], hints[key], prefix + key, problems)
        for key in hints
        if key in values
    }
    if len(problems) > before:
        return None
    try:
        return owner(**built)
    except (ValueError, ArithmeticError) as error:
        problems.append(f"{prefix}{error}")
        return None


def _check(value: Any, hint: Any, where: str, problems: list[str]) -> Any:
    """Return ``value`` as ``hint`` wants it (lists become tuples), or append a problem."""
    if hint is Any:
        return value
    origin, arguments = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        return _build(value, hint, where, problems)
    if origin is Literal:
        if value not in arguments:
            problems.append(
                f"{where!r} is {_shown(value)}, expected one of {', '.join(map(str, arguments))}"
            )
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        rest = next(a for a in arguments if a is not type(None))
        return _check(value, rest, where, problems)
    if origin is tuple:
        if not isinstance(value, list):
            problems.append(f"{where!r} is {_shown(value)}, expected a list")
            return ()
        items = enumerate(value)
        return tuple(_check(v, arguments[0], f"{where}.{i}", problems) for i, v in items)
    if origin is dict:
        if not isinstance(value, Mapping):
            problems.append(f"{where!r} is {_shown(value)}, expected keys and values")
            return {}
        return {k: _check(v, arguments[1], f"{where}.{k}", problems) for k, v in value.items()}
    # bool is an int in Python and `1` is not a float in YAML; be exact about both.
    if type(value) is not hint:
        hints = " (YAML reads 1e-4 as text: write 1.0e-4)" if hint is float else ""
        problems.append(f"{where!r} is {_shown(value)}, expected {hint.__name__}{hints}")
    elif expected := _expected(value):
        problems.append(f"{where!r} is {_shown(value)}, expected {expected}")
    return value


def _expected(value: Any) -> str:
    """Return what a scalar of the right type should have been, or nothing if it may pass."""
    if isinstance(value, str):
        return "" if value.isascii() and "\0" not in value else _expected_text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "a finite number"
    if value < 0:
        return "at least 0"
    return f"at most {LARGEST}" if isinstance(value, int) and value > LARGEST else ""


def _expected_text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        return "whole characters, no halves of surrogate pairs"
    return "text without NUL" if "\0" in value else ""


def _shown(value: Any) -> str:
    """Return a value as a message repeats it."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def seed(text: str) -> int:
    """Return a seed of the command line (``type=seed`` of argparse)."""
    if text.isdecimal() and int(text) <= LARGEST:
        return int(text)
    raise ArgumentTypeError(
        f"{text!r} is no seed, expected 0 to {LARGEST}; a further one comes from the section seeds "
        "of params.yaml"
    )


def require(condition: bool, message: str) -> None:
    """Raise ``ValueError(message)`` unless ``condition``: one line a rule in ``__post_init__``."""
    if not condition:
        raise ValueError(message)
