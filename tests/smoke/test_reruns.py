"""The table of reruns is true: every edit is made in a copy, and `dvc status` is asked."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.dependency import param
from dvc.repo import Repo, lock_repo

from cordel.reporting.reruns import default_stages, fates

pytestmark = pytest.mark.minutes
ROOT = Path(__file__).parents[2]
INSIDE = {"data/clean": "test.parquet"}  # a file of a folder that is a dep itself
EDITS = fates(ROOT, default_stages(ROOT))


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repo]:
    """Return the project with an invented file for every out, committed to DVC."""
    root = tmp_path_factory.mktemp("reruns") / "project"
    files = ("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    listed = subprocess.run(files, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, root / name)
    (root / ".dvc/config.local").write_text("[core]\n    no_scm = true\n", "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_SITE_CACHE_DIR", str(root.parent / "site"))
        patch.chdir(root)  # stages are named relative to it
        patch.setattr(param, "load_path", parse_once(param.load_path))
        with Repo(str(root)) as repo:
            commit_invented_outs(repo)
            assert repo.status() == {}
            yield repo


def parse_once(load_path: Any) -> Any:
    """Return DVC's reader, which keeps what it read: params.yaml is read anew for each stage."""
    known: dict[bytes, Any] = {}

    def load(path: str, *rest: Any, **more: Any) -> Any:
        content = Path(path).read_bytes()
        if content not in known:
            known.clear()
            known[content] = load_path(path, *rest, **more)
        return known[content]

    return load


def commit_invented_outs(repo: Repo) -> None:
    """Do what `dvc commit --force` does, but write dvc.lock once."""
    for path in ("dvc.lock", "metrics", "plots"):
        shutil.rmtree(Path(repo.root_dir) / path, ignore_errors=True)
    (Path(repo.root_dir) / "dvc.lock").unlink(missing_ok=True)
    with lock_repo(repo):
        stages = repo.index.stages
        for stage in stages:
            for out in stage.outs:
                path = Path(out.fs_path)
                inside = INSIDE.get(Path(out.def_path).parent.as_posix())
                path = path / inside if inside else path
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(out.def_path, "utf-8")
        for stage in stages:
            stage.save(run_cache=False)
            stage.commit()
        stages[0].dvcfile.dump_stages(stages, update_pipeline=False)


def other(value: Any) -> Any:
    """Return another value of the same type."""
    if isinstance(value, bool):
        return not value
    return f"{value}x" if isinstance(value, str) else value + 1


def edit_first_below(values: dict[str, Any], key: str) -> str | None:
    """Change the first value below ``key`` that no other edit names; return its key."""
    for name, value in values.items():
        below = f"{key}.{name}" if key else name
        if key in EDITS and below in EDITS:
            continue
        if isinstance(value, dict):
            if found := edit_first_below(value, below):
                return found
        elif value is not None and not isinstance(value, list):
            values[name] = other(value)
            return below
    return None


def edit_params(path: Path, key: str) -> None:
    """Change one value at or below ``key`` of params.yaml."""
    params = yaml.safe_load(path.read_text("utf-8"))
    *folders, last = key.split(".")
    holder = params
    for folder in folders:
        holder = holder[folder]
    if isinstance(holder[last], dict):
        assert edit_first_below(holder[last], key)
    else:
        holder[last] = other(holder[last])
    path.write_text(yaml.safe_dump(params, allow_unicode=True, sort_keys=False), "utf-8")


@pytest.mark.parametrize("edit", [edit for edit, stale in EDITS.items() if stale])
def test_dvc_status_names_the_stages_of_the_table(edit: str, copy: Repo) -> None:
    path = Path(copy.root_dir) / (edit if "/" in edit else "params.yaml")
    before = path.read_bytes()
    try:
        if "/" in edit:
            path.write_bytes(before + b"\n# a comment\n")
        else:
            edit_params(path, edit)
        assert path.read_bytes() != before
        stale = {name for name in copy.status() if "_seeds@" not in name}
    finally:
        path.write_bytes(before)
    assert stale == EDITS[edit]


def test_dvc_status_names_nothing_where_the_table_does(copy: Repo) -> None:
    # All at once: what each of them made stale, all would.
    paths = [Path(copy.root_dir) / edit for edit in EDITS if "/" in edit and not EDITS[edit]]
    before = {path: path.read_bytes() for path in paths}
    try:
        for path in paths:
            path.write_bytes(before[path] + b"\n# a comment\n")
        assert copy.status() == {}
    finally:
        for path in before:
            path.write_bytes(before[path])
    assert {edit for edit in EDITS if "/" not in edit and not EDITS[edit]} == {"seeds"}
    assert len(paths) >= 15


def test_a_further_seed_is_stages_of_its_own(copy: Repo) -> None:
    path = Path(copy.root_dir) / "params.yaml"
    before = path.read_bytes()
    entry = {"run": "v7", "seed": 43, "dataset": "v7_lossless", "architecture": "llama"}
    try:
        params = yaml.safe_load(before)
        params["seeds"]["models"]["v7-43"] = entry
        path.write_text(yaml.safe_dump(params, allow_unicode=True, sort_keys=False), "utf-8")
        assert set(copy.status()) == {"train_lm_seeds@v7-43", "score_lm_seeds@v7-43"}
    finally:
        path.write_bytes(before)
