"""The cache is hashed; what is damaged goes, together with its copies, and nothing else."""

from hashlib import md5
from pathlib import Path

import pytest
import yaml

from cordel.runtime.errors import InputError
from cordel.verification import remove_damaged


def put(cache: Path, content: bytes, suffix: str = "") -> Path:
    """Write an object as DVC does."""
    name = md5(content, usedforsecurity=False).hexdigest()
    path = cache / name[:2] / (name[2:] + suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o444)
    return path


def damage(path: Path, content: bytes) -> None:
    """Change an object as a disk does."""
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(0o444)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a project with two outputs, one of them a folder."""
    (tmp_path / "data/models/v1").mkdir(parents=True)
    (tmp_path / "data/models/v1/config.json").write_bytes(b"config")
    (tmp_path / "data/models/v1/model").write_bytes(b"wrong")
    (tmp_path / "data/answers").write_bytes(b"edited by hand")
    outs = [{"path": "data/models/v1"}, {"path": "data/answers"}, {"path": "data/absent"}]
    lock = {"stages": {"a": {"outs": outs}, "b": {}}}
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump(lock))
    return tmp_path


def test_a_damaged_object_goes_and_so_does_its_copy(root: Path) -> None:
    cache = root / "cache"
    kept = [put(cache, b"config"), put(cache, b"[]", ".dir"), put(cache, b"answers")]
    bad = put(cache, b"right")
    damage(bad, b"wrong")
    assert remove_damaged(root, cache) == (4, [bad, root / "data/models/v1/model"])
    assert not bad.exists()
    assert all(path.exists() for path in kept)
    left = sorted(p.name for p in (root / "data").rglob("*") if p.is_file())
    assert left == ["answers", "config.json"]


def test_a_damaged_list_of_a_folder_goes_too(root: Path) -> None:
    bad = put(root / "cache", b"[]", ".dir")
    damage(bad, b"[")
    assert remove_damaged(root, root / "cache") == (1, [bad])


def test_a_sound_cache_is_left_alone_with_what_dvc_was_writing(root: Path) -> None:
    cache = root / "cache"
    put(cache, b"right")
    (cache / ".Nkz.tmp").write_bytes(b"half")
    (cache / "ab").mkdir()
    (cache / "ab" / "short").write_bytes(b"half")
    assert remove_damaged(root, cache) == (1, [])
    assert (root / "data/models/v1/model").exists()


@pytest.mark.parametrize(
    "lock", [None, "", "stages: [1]", "stages: {a: 3}", "stages: {a: {outs: [{}]}}", "{", "\0"]
)
def test_without_a_lock_nothing_is_deleted(lock: str | None, root: Path) -> None:
    bad = put(root / "cache", b"right")
    damage(bad, b"wrong")
    (root / "dvc.lock").unlink()
    if lock is not None:
        (root / "dvc.lock").write_text(lock)
    with pytest.raises(InputError, match=r"^dvc\.lock: .*git checkout dvc\.lock$"):
        remove_damaged(root, root / "cache")
    assert bad.exists()
