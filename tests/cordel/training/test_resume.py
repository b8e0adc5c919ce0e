"""Checkpoints of a run in progress: whole or absent, one process at a time."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from cordel.runtime.errors import EnvironmentProblem
from cordel.training import resume
from cordel.training.resume import checkpoint_folder, fingerprint, load_state, save_state

HOLD = """
import fcntl, sys
lock = open(sys.argv[1], "w")
fcntl.flock(lock, fcntl.LOCK_EX)
print("held", flush=True)
input()
"""


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, as if outside DVC."""
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_state_comes_back(root: Path) -> None:
    save_state(root, {"step": 3, "weights": torch.tensor([1.5, -2.0]), "hidden": None})
    found = load_state(root)
    assert found is not None
    assert (found["step"], found["weights"].tolist(), found["hidden"]) == (3, [1.5, -2.0], None)


def test_without_a_state_there_is_none(root: Path) -> None:
    assert load_state(root) is None


@pytest.mark.parametrize("size", [0, 10, 200, -1])
def test_a_cut_state_counts_as_none_and_is_removed(root: Path, size: int) -> None:
    save_state(root, {"weights": torch.zeros(50)})
    path = root / "state.pt"
    path.write_bytes(path.read_bytes()[:size])
    assert load_state(root) is None
    assert not path.exists()


def test_a_state_that_would_run_code_counts_as_none(root: Path) -> None:
    torch.save({"path": Path("x")}, root / "state.pt")  # a class outside the weights-only list
    assert load_state(root) is None


def test_a_failed_write_leaves_the_state_before(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_state(root, {"step": 1})

    def fail(_: object, stream) -> None:
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(resume.torch, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        save_state(root, {"step": 2})
    assert load_state(root) == {"step": 1}
    assert not (root / "state.partial").exists()


def test_a_state_is_replaced_and_never_written_over(root: Path) -> None:
    save_state(root, {"step": 1})
    (root / "reader").mkdir()
    (root / "reader" / "state.pt").hardlink_to(root / "state.pt")  # as one who has it open
    save_state(root, {"step": 2})
    assert load_state(root / "reader") == {"step": 1}
    assert load_state(root) == {"step": 2}


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
def other_process(key: str) -> Iterator[None]:
    """Let another process train run v1 under ``key``."""
    with checkpoint_folder("train_lm", "v1", key) as folder:
        command = [sys.executable, "-c", HOLD, str(folder / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        yield
        process.communicate(b"\n")


def test_a_second_process_cannot_train_the_same_run() -> None:
    with (
        other_process("abc"),
        pytest.raises(EnvironmentProblem, match=r"already training v1 .*v1/abc/lock"),
        checkpoint_folder("train_lm", "v1", "abc"),
    ):
        pytest.fail("the lock was taken twice")


def test_the_lock_is_for_one_alone() -> None:
    with (
        checkpoint_folder("train_lm", "v1", "abc"),
        pytest.raises(EnvironmentProblem, match="already training v1"),
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
            save_state(folder, {"key": key})
        os.utime(base / key, (1e9 - age, 1e9 - age))
    with checkpoint_folder("train_lm", "v1", "newest"):
        assert sorted(p.name for p in base.iterdir()) == ["new", "newest"]
        assert load_state(base / "new") == {"key": "new"}


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
