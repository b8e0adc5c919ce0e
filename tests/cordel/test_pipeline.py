"""What DVC makes of dvc.yaml, and what follows from what."""

from pathlib import Path

import pytest

from cordel.pipeline import Stage, read_pipeline, stale_stages, with_downstream
from cordel.runtime.errors import InputError


def stage(*upstream: str) -> Stage:
    """Return a stage after others."""
    return Stage(
        upstream=frozenset(upstream), deps=frozenset(), params=frozenset(), outs=frozenset()
    )


# d comes after b and c, which come after a; e stands alone.
DIAMOND = {"a": stage(), "b": stage("a"), "c": stage("a"), "d": stage("b", "c"), "e": stage()}


@pytest.mark.parametrize(
    ("names", "expected"),
    [({"a"}, set("abcd")), ({"b"}, set("bd")), ({"d", "e"}, set("de")), ({"gone"}, set())],
)
def test_what_follows_from_stages(names: set[str], expected: set[str]) -> None:
    assert with_downstream(names, DIAMOND) == expected


def test_a_stage_knows_what_it_reads_and_what_comes_before(project: Path) -> None:
    stages = read_pipeline(root=project)
    v7 = stages["train_lm@v7"]
    assert len(stages) >= 85
    assert v7.upstream == {"encode_corpus@v7_lossless"}
    assert v7.params == {"models.v7", "compute"}
    assert {"data/tokens/v7_lossless", "src/cordel/models/llama.py"} <= v7.deps
    assert "params.yaml" not in v7.deps
    assert {"data/models/v7", "metrics/ledger/train_lm/v7.json"} <= v7.outs


@pytest.mark.slow
def test_a_target_brings_what_comes_before_it_and_no_more(project: Path) -> None:
    assert set(read_pipeline(["split_corpus"], root=project)) == {"split_corpus", "export_corpus"}


@pytest.mark.slow
def test_a_group_is_a_target(project: Path) -> None:
    stages = read_pipeline(["clean_corpus"], root=project)
    recipes = {f"clean_corpus@{name}" for name in ("web", "prose", "lossless")}
    assert set(stages) == recipes | {"split_corpus", "export_corpus"}


@pytest.mark.slow
def test_an_unknown_target_is_a_mistake_of_the_user(project: Path) -> None:
    with pytest.raises(InputError, match=r"dvc: .*'train_ml'"):
        read_pipeline(["train_ml"], root=project)


@pytest.mark.parametrize("ask", [lambda root: read_pipeline(root=root), stale_stages])
def test_a_folder_without_dvc_is_a_mistake_of_the_user(ask, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not inside of a DVC repository"):
        ask(root=tmp_path)
