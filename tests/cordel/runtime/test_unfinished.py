"""Folders of work in progress: keyed by what determines it, one process at a time."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cordel.runtime.errors import EnvironmentProblem
from cordel.runtime.unfinished import checkpoint_folder, fingerprint

HOLD = """
import fcntl, os, sys
lock = open(sys.argv[1], "w")
fcntl.flock(lock, fcntl.LOCK_EX)
lock.write(str(os.getpid()))
lock.flush()
print("held", flush=True)
input()
"""


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, as if outside DVC."""
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_folder_is_named_by_stage_run_and_fingerprint(root: Path) -> None:
    with checkpoint_folder("train_lm", "v1", "abc") as folder:
        assert folder.resolve() == root / ".ckpt" / "train_lm" / "v1" / "abc"
        assert folder.is_dir()


def test_in_an_experiment_the_folder_is_the_main_repositorys(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(root / "main"))
    with checkpoint_folder("train_lm", "v1", "abc") as folder:
        assert folder == root / "main" / ".ckpt" / "train_lm" / "v1" / "abc"


@contextmanager
def other_process(key: str) -> Iterator[int]:
    """Let another process train run v1 under ``key``."""
    with checkpoint_folder("train_lm", "v1", key) as folder:
        command = [sys.executable, "-c", HOLD, str(folder / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        yield process.pid
        process.communicate(b"\n")


def test_a_second_process_cannot_train_the_same_run() -> None:
    with (
        other_process("abc") as pid,
        pytest.raises(EnvironmentProblem, match=rf"^process {pid} is .* on train_lm v1 .*abc/lock"),
        checkpoint_folder("train_lm", "v1", "abc"),
    ):
        pytest.fail("the lock was taken twice")


def test_whoever_is_refused_learns_what_to_do() -> None:
    with (
        checkpoint_folder("train_lm", "v1", "abc"),
        pytest.raises(
            EnvironmentProblem, match=f"stop it with `kill {os.getpid()}`, and run again"
        ),
        checkpoint_folder("train_lm", "v1", "abc"),
    ):
        pytest.fail("the lock was taken twice")


def test_one_who_was_refused_leaves_the_name_of_the_holder(root: Path) -> None:
    for _ in range(2):  # the second is refused in the same words
        test_the_lock_is_for_one_alone()
    [lock] = root.rglob("lock")
    assert lock.read_text() == str(os.getpid())


def test_the_lock_is_for_one_alone() -> None:
    with (
        checkpoint_folder("train_lm", "v1", "abc"),
        pytest.raises(EnvironmentProblem, match=f"process {os.getpid()} is already at work"),
        checkpoint_folder("train_lm", "v1", "abc"),
    ):
        pytest.fail("the lock was taken twice")


def test_the_lock_is_free_once_its_process_ends() -> None:
    with other_process("abc"):
        pass
    with checkpoint_folder("train_lm", "v1", "abc") as folder:
        assert folder.name == "abc"


def test_an_experiment_under_way_keeps_its_folder_whatever_its_age(root: Path) -> None:
    base = root / ".ckpt" / "train_lm" / "v1"
    with other_process("under_way"):
        os.utime(base / "under_way", (1e9, 1e9))
        for key in ("new", "newest"):
            with checkpoint_folder("train_lm", "v1", key):
                pass
        assert sorted(p.name for p in base.iterdir()) == ["new", "newest", "under_way"]


def test_two_fingerprints_of_a_run_are_kept_the_latest(root: Path) -> None:
    base = root / ".ckpt" / "train_lm" / "v1"
    for age, key in ((300, "old"), (200, "middle"), (100, "new")):
        with checkpoint_folder("train_lm", "v1", key) as folder:
            (folder / "state.pt").write_text(key)
        os.utime(base / key, (1e9 - age, 1e9 - age))
    with checkpoint_folder("train_lm", "v1", "newest"):
        assert sorted(p.name for p in base.iterdir()) == ["new", "newest"]
        assert (base / "new" / "state.pt").read_text() == "new"


def test_a_fingerprint_that_is_used_again_counts_as_late(root: Path) -> None:
    base = root / ".ckpt" / "train_lm" / "v1"
    for age, key in ((300, "old"), (200, "middle")):
        with checkpoint_folder("train_lm", "v1", key):
            pass
        os.utime(base / key, (1e9 - age, 1e9 - age))
    for key in ("old", "new"):
        with checkpoint_folder("train_lm", "v1", key):
            pass
    assert sorted(p.name for p in base.iterdir()) == ["new", "old"]


def test_the_folder_of_another_run_is_left_alone(root: Path) -> None:
    for run in ("v1", "v2", "v3", "v4"):
        with checkpoint_folder("train_lm", run, "abc"):
            pass
    assert len(list((root / ".ckpt" / "train_lm").iterdir())) == 4


def test_the_fingerprint_follows_parts_and_bytes(root: Path) -> None:
    file = root / "train.bin"
    file.write_bytes(b"ab")
    first = fingerprint({"seed": 1}, files=[file])
    assert first == fingerprint({"seed": 1}, files=[file])
    assert first != fingerprint({"seed": 2}, files=[file])
    file.write_bytes(b"ac")
    assert first != fingerprint({"seed": 1}, files=[file])


def test_the_fingerprint_is_16_hex_digits(root: Path) -> None:
    assert len(bytes.fromhex(fingerprint(root, files=[]))) == 8
