"""Several stages at once, interrupted and resumed, make what one after another makes."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from cordel.profiles import apply_profile
from tests.clones import Clone, stages_run

pytestmark = pytest.mark.minutes
REPRO = (sys.executable, "-c", "from cordel.cli import main; main()", "repro", "--jobs", "2")
LONG = 600.0


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    """Return a clone at toy sizes, which `cordel` is run from."""
    made = Clone(tmp_path / "several")
    made.env["PYTHONPATH"] = str(made.root / "src")
    apply_profile("smoke", root=made.root)
    (made.root / "dvc.lock").unlink()  # then it tells what was run here
    return made


def interrupt_in_training(clone: Clone) -> subprocess.CompletedProcess[str]:
    """Start `cordel repro`, and send it SIGINT when a run is about to be trained."""
    process = subprocess.Popen(
        REPRO, cwd=clone.root, env=clone.env, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + LONG
    logs = clone.root / "logs"
    while not any("parameters" in log.read_text() for log in logs.glob("train_lm@*.log")):
        assert time.monotonic() < end
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=LONG)
    return subprocess.CompletedProcess(REPRO, process.returncode, "", errors)


def running_in(folder: Path) -> list[str]:
    """Return the processes that run in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == folder:
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def test_several_at_once_give_the_same_bytes(clone: Clone, smoke: Clone) -> None:
    stopped = interrupt_in_training(clone)
    assert stopped.returncode == 130, stopped.stderr
    assert running_in(clone.root) == []
    done = yaml.safe_load((clone.root / "dvc.lock").read_text("utf-8"))["stages"]
    assert "rank_lm" not in done

    said = clone.run(*REPRO)
    assert "nothing is stale" in said.splitlines()[-1]
    assert stages_run(clone.run("dvc", "repro")) == set()
    # Finished stages were not looked at again.
    of_all = len(yaml.safe_load((clone.root / "dvc.lock").read_text("utf-8"))["stages"])
    assert f"{of_all - len(done)} of {of_all} stages" in said

    assert clone.lock() == smoke.lock()
    assert len(clone.lock()) > 100
