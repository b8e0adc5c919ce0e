"""Hash every object of DVC's cache, which DVC itself does not: it trusts a file that is read-only.

An object whose bytes changed on the disk is checked out as if nothing were wrong, and `dvc status`
says that all is up to date. Without the object and its copies, `dvc repro` makes them again.
"""

from collections.abc import Iterator
from functools import partial
from hashlib import file_digest, md5
from pathlib import Path

import yaml

from cordel.runtime.errors import InputError

LOCK = "dvc.lock"


def objects(cache: Path) -> Iterator[tuple[Path, str]]:
    """Yield each object of the folder ``files/md5`` with the MD5 that its name promises."""
    for path in sorted(cache.glob("[0-9a-f][0-9a-f]/*")):
        name = path.name.removesuffix(".dir")
        if len(name) == 30:  # others are DVC's temporary files
            yield path, path.parent.name + name


def digest(path: Path) -> str:
    """Return the MD5 of a file."""
    with path.open("rb") as stream:
        return file_digest(stream, partial(md5, usedforsecurity=False)).hexdigest()


def remove_damaged(root: Path, cache: Path) -> tuple[int, list[Path]]:
    """Delete objects that are not what their names promise, and their copies among the outputs.

    Returns:
        How many objects were hashed, and what was deleted.

    Raises:
        InputError: Something is damaged, and dvc.lock cannot say which outputs are: nothing is
            deleted then.
    """
    checked, found, wrong = 0, [], set()
    for path, promised in objects(cache):
        checked += 1
        if (actual := digest(path)) != promised:
            wrong.add(actual)
            found.append(path)
    if found:
        found += [path for path in _outputs(root) if digest(path) in wrong]
    for path in found:
        path.unlink()
    return checked, found


def _outputs(root: Path) -> Iterator[Path]:
    try:
        stages = yaml.safe_load((root / LOCK).read_text(encoding="utf-8"))["stages"].values()
        outs = [out["path"] for stage in stages for out in stage.get("outs", [])]
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        found = " ".join(str(error).split())[:200]
        raise InputError(f"{LOCK}: no lock of DVC ({found}); git checkout {LOCK}") from None
    for name in outs:
        path = root / name
        yield from (f for f in (path.rglob("*") if path.is_dir() else [path]) if f.is_file())
