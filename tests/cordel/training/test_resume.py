"""The state of a run in progress: whole or absent, and the one before as a way back."""

from pathlib import Path

import pytest
import torch

from cordel.training import resume
from cordel.training.resume import load_state, save_state


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return an empty folder."""
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


def test_a_flipped_bit_counts_as_damage(root: Path) -> None:
    save_state(root, {"weights": torch.zeros(1000)})
    path = root / "state.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # within the 4000 zeros; torch.load returns 1.4e-45 there
    path.write_bytes(content)
    assert torch.load(path)["weights"].count_nonzero() == 1
    assert load_state(root) is None


def test_a_damaged_state_is_said_and_the_one_before_it_is_taken(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (1, 2, 3):
        save_state(root, {"step": step})
    (root / "state.pt").write_bytes(b"PK half of it")
    assert load_state(root) == {"step": 2}
    assert f"{root}/state.pt is damaged (File is not a zip file)" in caplog.text
    save_state(root, {"step": 4})
    assert load_state(root) == {"step": 4}


def test_a_kill_between_the_two_renames_loses_one_state(root: Path) -> None:
    save_state(root, {"step": 1})
    (root / "state.pt").rename(root / "previous.pt")
    assert load_state(root) == {"step": 1}


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
