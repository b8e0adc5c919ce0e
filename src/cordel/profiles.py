"""Merge an overlay of ``profiles/`` into ``params.yaml``, keeping its comments.

One params.yaml holds every number, so ``-S key=value`` and ``dvc params diff`` between branches
line up. An overlay holds only what differs from the sample.
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import RoundTripRepresenter

from cordel.runtime.errors import ParamsError
from cordel.runtime.files import write_text

BASE = "sample"
OPTIONAL = ("bigram_start",)  # sections that a run may be without: null


def apply_profile(name: str, *, root: Path = Path()) -> list[str]:
    """Merge ``profiles/<name>.yaml`` into ``params.yaml`` and return the keys that changed.

    Raises:
        ParamsError: The profile does not exist or names an unknown key, or params.yaml already is
            another profile's.
    """
    overlay_path, params_path = root / "profiles" / f"{name}.yaml", root / "params.yaml"
    known = sorted(path.stem for path in (root / "profiles").glob("*.yaml"))
    if name == BASE:
        raise ParamsError("params.yaml of main is the sample's: git checkout main -- params.yaml")
    if name not in known:
        raise ParamsError(f"no profile {name!r}; there are: {', '.join(known)}")
    params, overlay = load_params(params_path), load_params(overlay_path)
    current = params.get("profile")
    if current not in (BASE, name):
        raise ParamsError(
            f"params.yaml already is profile {current!r}, and overlays apply to the sample only; "
            "first: git checkout main -- params.yaml"
        )
    changed: list[str] = []
    _merge(params, overlay or {}, overlay_path, "", changed)
    if current != name:
        params["profile"] = name
        changed.insert(0, "profile")
    save_params(params_path, params)
    return changed


class _Representer(RoundTripRepresenter):
    """Writes null, where ruamel would leave the place empty."""


def _null(representer: RoundTripRepresenter, _: None) -> ScalarNode:
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")


_Representer.add_representer(type(None), _null)


def _yaml() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096  # long prompts stay on their line
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.Representer = _Representer
    return yaml


def load_params(path: Path) -> Any:
    """Return a YAML file as keys and values that remember their comments.

    Raises:
        ParamsError: The file is missing, not YAML or something else than keys and values.
    """
    try:
        found = _yaml().load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file; run from the root of the project") from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise ParamsError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if found is not None and not isinstance(found, Mapping):
        raise ParamsError(f"{path}: holds no keys and values, expected sections of params.yaml")
    return found


def save_params(path: Path, params: Any) -> None:
    """Write what ``load_params`` returned, with its comments."""
    text = io.StringIO()
    _yaml().dump(params, text)
    write_text(path, text.getvalue())


def flow_map(values: Mapping[str, Any]) -> CommentedMap:
    """Return ``values`` to be written on one line, in braces."""
    made = CommentedMap(values)
    made.fa.set_flow_style()
    return made


def _merge(base: Any, overlay: Any, source: Path, where: str, changed: list[str]) -> None:
    for key, value in overlay.items():
        name = f"{where}{key}"
        if key not in base:
            raise ParamsError(f"{source}: unknown key {name!r}; params.yaml has no such key")
        section = isinstance(base[key], Mapping) and not (value is None and key in OPTIONAL)
        if isinstance(value, Mapping) != section:
            wanted = "keys and values" if section else "a value"
            raise ParamsError(f"{source}: {name!r} is {value!r:.60}, expected {wanted}")
        if section:
            _merge(base[key], value, source, f"{name}.", changed)
        elif base[key] != value:
            base[key] = value
            changed.append(name)
