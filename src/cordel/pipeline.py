"""The pipeline as DVC resolves it: what each stage reads, what comes before it, what is stale."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cordel.runtime.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage, such as ``train_lm@v7``."""

    upstream: frozenset[str]  # stages whose outs it reads
    deps: frozenset[str]  # files and folders, from the root
    params: frozenset[str]  # keys of params.yaml with all below them
    outs: frozenset[str]


def read_pipeline(targets: Iterable[str] = (), *, root: Path = Path()) -> dict[str, Stage]:
    """Return the stages that `dvc repro` of ``targets`` goes through, by name; without any, all.

    Raises:
        InputError: DVC cannot read the pipeline, or knows no such target.
    """
    with _dvc(root) as repo:
        from dvc.repo.reproduce import collect_stages  # noqa: PLC0415

        graph = repo.index.graph
        wanted = collect_stages(repo, targets) if targets else list(graph)
        found = set()
        while wanted:
            stage = wanted.pop()
            if stage not in found:
                found.add(stage)
                wanted += graph.successors(stage)  # DVC's edges lead to what comes before
        return {
            stage.addressing: Stage(
                upstream=frozenset(before.addressing for before in graph.successors(stage)),
                deps=frozenset(d.def_path for d in stage.deps if not hasattr(d, "params")),
                params=frozenset(k for d in stage.deps for k in getattr(d, "params", ())),
                outs=frozenset(out.def_path for out in stage.outs),
            )
            for stage in sorted(found, key=lambda stage: stage.addressing)
        }


def stale_stages(*, root: Path = Path()) -> set[str]:
    """Return the stages that `dvc status` names: an input, an out or the command has changed.

    Raises:
        InputError: DVC cannot tell.
    """
    with _dvc(root) as repo:
        return set(repo.status())


def with_downstream(names: Iterable[str], stages: Mapping[str, Stage]) -> set[str]:
    """Return those of ``names`` that are stages, and all that follow from them."""
    found = set(names) & stages.keys()
    while more := {
        name for name, stage in stages.items() if name not in found and stage.upstream & found
    }:
        found |= more
    return found


@contextmanager
def _dvc(root: Path) -> Iterator[Any]:
    """Give DVC's own view of the project; what it says of a mistake is one line.

    DVC is imported here: it costs a third of a second, and modules of stages never need it.
    """
    from dvc.exceptions import DvcException  # noqa: PLC0415
    from dvc.repo import Repo  # noqa: PLC0415

    try:
        with Repo(str(root)) as repo:
            yield repo
    except DvcException as error:
        raise InputError(f"dvc: {error}; `dvc status` says more") from error
