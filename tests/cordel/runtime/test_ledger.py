"""What a stage cost: one record per attempt, whether or not the attempt succeeded."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cordel.runtime import ledger as ledger_module
from cordel.runtime.files import read_json, write_json
from cordel.runtime.ledger import ledger


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the ledger goes: a folder that does not exist yet."""
    return tmp_path / "metrics" / "ledger" / "v1.json"


@pytest.fixture
def pending(tmp_path: Path) -> Path:
    """Return where unfinished attempts wait: beside a checkpoint."""
    (tmp_path / "checkpoint").mkdir()
    return tmp_path / "checkpoint" / "attempts.json"


def attempt(path: Path, pending: Path | None = None, *, fails: bool = False, **known: Any) -> None:
    """Run one attempt that knows ``known``."""
    with ledger(path, stage="train_lm@v1", pending=pending) as record:
        record.update(known)
        if fails:
            raise InterruptedError("desligado")


def test_a_ledger_is_a_list_so_that_it_stays_out_of_dvc_metrics(path: Path) -> None:
    attempt(path)
    assert isinstance(read_json(path, kind=list), list)
    assert len(read_json(path, kind=list)) == 1


def test_a_record_holds_what_the_block_knows_beside_what_is_measured(path: Path) -> None:
    attempt(path, tokens=1200)
    (record,) = read_json(path, kind=list)
    expected = {"schema": 2, "stage": "train_lm@v1", "completed": True, "tokens": 1200}
    assert expected.items() <= record.items()
    assert record.keys() > {"started_at", "device", "python", "versions", "git_commit", "dirty"}
    assert record["versions"]["pyarrow"]


def test_seconds_are_of_the_wall_and_cpu_seconds_of_the_processor(path: Path) -> None:
    with ledger(path, stage="x"):
        time.sleep(0.2)  # waits without computing
    (record,) = read_json(path, kind=list)
    assert 0.2 <= record["seconds"] < 2
    assert record["cpu_seconds"] < 0.2


def test_computing_counts_as_cpu_seconds(path: Path) -> None:
    with ledger(path, stage="x"):
        end = time.process_time() + 0.1
        while time.process_time() < end:
            pass
    assert read_json(path, kind=list)[0]["cpu_seconds"] >= 0.09


def test_the_peak_memory_is_in_mebibytes(path: Path) -> None:
    attempt(path)
    # A Python process with pytest needs tens of MiB; in KiB it would be tens of thousands.
    assert 10 < read_json(path, kind=list)[0]["peak_memory_mib"] < 20_000


MIB = 1 << 20


@pytest.mark.slow
def test_the_peak_memory_grows_with_what_is_held(path: Path) -> None:
    attempt(path)
    before = read_json(path, kind=list)[0]["peak_memory_mib"]
    held = int(before) * MIB * b"x"
    attempt(path)
    assert read_json(path, kind=list)[0]["peak_memory_mib"] > 1.5 * before
    del held


@pytest.mark.skipif(not ledger_module.STATUS.exists(), reason="no /proc")
def test_the_peak_memory_is_not_that_of_the_program_which_started_this_one(path: Path) -> None:
    child = (
        "import mmap, sys; from pathlib import Path; from cordel.runtime.ledger import ledger\n"
        f"untouched = mmap.mmap(-1, {300 * MIB})\n"
        "with ledger(Path(sys.argv[1]), stage='x'): pass"
    )
    parent = (
        f"import os, sys; held = {300 * MIB} * b'x'; "
        "os.execv(sys.executable, [sys.executable, '-c', *sys.argv[1:]])"
    )
    subprocess.run([sys.executable, "-c", parent, child, str(path)], check=True)
    assert 5 < read_json(path, kind=list)[0]["peak_memory_mib"] < 200


@pytest.mark.parametrize("status", [None, "Name:\tpython\nVmRSS:\t 10 kB\n"], ids=["none", "short"])
def test_without_a_peak_in_proc_the_systems_own_is_told(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str | None
) -> None:
    file = tmp_path / "status"
    if status is not None:
        file.write_text(status)
    monkeypatch.setattr(ledger_module, "STATUS", file)
    attempt(path)
    assert 10 < read_json(path, kind=list)[0]["peak_memory_mib"] < 20_000


def test_attempts_add_up(path: Path, pending: Path) -> None:
    for _ in range(2):
        with pytest.raises(InterruptedError, match="desligado"):
            attempt(path, pending, fails=True, steps=10)
    attempt(path, pending, steps=5)
    attempts = read_json(path, kind=list)
    assert [a["completed"] for a in attempts] == [False, False, True]
    assert sum(a["steps"] for a in attempts) == 25


def test_a_failed_attempt_waits_beside_the_checkpoint_and_writes_no_ledger(
    path: Path, pending: Path
) -> None:
    with pytest.raises(InterruptedError, match="desligado"):
        attempt(path, pending, fails=True)
    assert not path.exists()
    assert [a["completed"] for a in read_json(pending, kind=list)] == [False]


def test_a_failed_attempt_without_a_checkpoint_leaves_nothing(path: Path, tmp_path: Path) -> None:
    with pytest.raises(InterruptedError, match="desligado"):
        attempt(path, fails=True)
    assert list(tmp_path.iterdir()) == []


def test_a_finished_run_still_knows_beside_its_checkpoint_what_it_cost(
    path: Path, pending: Path
) -> None:
    attempt(path, pending, steps=5)
    path.unlink()
    attempt(path, pending, steps=0)
    assert [a["steps"] for a in read_json(path, kind=list)] == [5, 0]


@pytest.mark.parametrize("content", ["", '[{"sec', "\0\0\0"])
def test_damaged_attempts_are_lost_and_stop_nothing(
    path: Path, pending: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    pending.write_text(content)
    attempt(path, pending, steps=5)
    assert [a["steps"] for a in read_json(path, kind=list)] == [5]
    assert "the costs of earlier attempts are lost" in caplog.text


def test_a_failed_rerun_keeps_the_ledger_of_the_last_success(path: Path) -> None:
    attempt(path, steps=5)
    with pytest.raises(InterruptedError, match="desligado"):
        attempt(path, fails=True)
    assert [a["steps"] for a in read_json(path, kind=list)] == [5]


def test_without_git_the_commit_is_null(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    attempt(path)
    assert read_json(path, kind=list)[0]["git_commit"] is None


def test_outside_a_repository_the_commit_is_null(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    attempt(path)
    assert read_json(path, kind=list)[0]["git_commit"] is None


def test_the_index_of_git_is_only_read(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A stage that is killed while git refreshes its index would leave .git/index.lock behind.
    file = tmp_path / "params.yaml"
    file.write_text("a: 1\n")
    for words in (("init", "-q"), ("add", file.name)):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    os.utime(file, (0, 0))  # what git remembers of it is stale: a refresh would be due
    index = tmp_path / ".git/index"
    before = index.read_bytes()
    monkeypatch.chdir(tmp_path)
    attempt(path)
    assert read_json(path, kind=list)[0]["dirty"] is True
    assert index.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "dirty"),
    [("params.yaml", True), ("src/a.py", True), ("metrics/a.json", False), ("dvc.lock", False)],
)
def test_what_the_pipeline_writes_itself_makes_no_run_dirty(
    name: str, dirty: bool, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("a\n")
    monkeypatch.chdir(tmp_path)
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    for words in (("init", "-q"), ("add", name), (*identity, "commit", "-qm", "one")):
        subprocess.run(["git", *words], check=True)
    attempt(path)
    (tmp_path / name).write_text("b\n")
    attempt(path)
    assert [a["dirty"] for a in read_json(path, kind=list)] == [dirty]


def test_energy_is_unknown_where_nothing_measures_it_and_never_zero(path: Path) -> None:
    attempt(path)
    assert read_json(path, kind=list)[0]["energy_joules"] is None


def test_what_trained_is_judged_by_what_the_machine_can_do(path: Path) -> None:
    compute = {"device": "cpu", "dtype": "float32"}
    attempt(path, parameters=7, compute=compute)
    assert read_json(path, kind=list)[0]["matmul_peak_flops"] > 1e9


def test_what_did_not_train_pays_for_no_measurement(path: Path) -> None:
    attempt(path, compute={"device": "cpu", "dtype": "float32"})
    assert "matmul_peak_flops" not in read_json(path, kind=list)[0]


def test_the_estimate_stands_beside_what_it_took(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    attempt(path)
    assert read_json(path, kind=list)[0]["estimated_seconds"] is None
    write_json(tmp_path / ".ckpt/estimates.json", {"train_lm@v1": 12.5})
    attempt(path)
    assert read_json(path, kind=list)[0]["estimated_seconds"] == 12.5
