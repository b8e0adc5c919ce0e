"""Independent stages at once: order, bound, failures, and an end that leaves nothing behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest
import yaml

from cordel.parallel import (
    UNKNOWN_SECONDS,
    StageFailed,
    gpu_environment,
    known_seconds,
    repro,
    run_stages,
    seconds_to_the_end,
    stages_run,
)
from cordel.pipeline import Stage
from cordel.runtime.files import write_json, write_text
from tests.conftest import ROOT

DIAMOND = {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c")}
LONG = 30.0  # seconds after which a test gives up
LOOP = "for i in $(seq 300); do sleep 0.1; done"  # as long
Command = Callable[[str], Sequence[str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder in which the stages of a test run."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shell(script: str) -> Command:
    """Return the command of a stage: as DVC does, a process that starts another, and waits for it.

    The script finds the stage's name in $0.
    """
    outer = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"
    inner = f'echo "start $0" >> events; {script}; code=$?; echo "end $0" >> events; exit $code'
    return lambda name: (sys.executable, "-S", "-c", outer, "sh", "-c", inner, name)


def events(folder: Path) -> list[str]:
    """Return what the stages wrote, in the order of time."""
    return (folder / "events").read_text("utf-8").splitlines()


def meeting(*names: str) -> str:
    """Return a script in which these stages wait for each other, in vain if one cannot start."""
    there = " && ".join(f"test -e met-{name}" for name in names)
    wait = "n=$((n+1)); test $n -lt 300 || exit 9; sleep 0.1"
    return f'touch met-"$0"; n=0; until {there}; do {wait}; done'


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds; fail if it does not."""
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(("b", "c"), [(5.0, 2.0), (2.0, 5.0)])
def test_the_way_to_the_end_is_the_longest(b: float, c: float) -> None:
    # d 1, before it b and c, before both a: 3 + 5 + 1.
    left = seconds_to_the_end(DIAMOND, {"a": 3.0, "b": b, "c": c, "d": 1.0})
    assert left == {"a": 9.0, "b": b + 1, "c": c + 1, "d": 1.0}


def test_a_stage_waits_for_what_comes_before(folder: Path) -> None:
    assert run_stages(DIAMOND, command=shell("true"), jobs=2) == []
    seen = events(folder)
    assert seen[:2] == ["start a", "end a"]
    assert seen[-2:] == ["start d", "end d"]
    assert set(seen[2:-2]) == {"start b", "end b", "start c", "end c"}


def test_independent_stages_run_at_once(folder: Path) -> None:
    command = shell(f"case $0 in [bc]) {meeting('b', 'c')};; esac")
    assert run_stages(DIAMOND, command=command, jobs=2) == []
    assert len(events(folder)) == 8


def test_no_more_run_at_once_than_jobs(folder: Path) -> None:
    run_stages(dict.fromkeys("abcde", ()), command=shell("sleep 0.2"), jobs=2)
    running, most = 0, 0
    for event in events(folder):
        running += 1 if event.startswith("start") else -1
        most = max(most, running)
    assert most <= 2
    assert len(events(folder)) == 10


def test_the_longest_way_goes_first(folder: Path) -> None:
    # b is short, but d comes after it.
    upstream = {"a": (), "b": (), "c": (), "d": ("b",)}
    seconds = {"a": 3.0, "b": 1.0, "c": 4.0, "d": 5.0}
    run_stages(upstream, seconds=seconds, command=shell("true"), jobs=1)
    assert [line for line in events(folder) if line.startswith("start")] == [
        "start b",
        "start d",
        "start c",
        "start a",
    ]


FAILING = {"bad": (), "after": ("bad",), "beside": (), "later": ("beside",)}


@pytest.mark.parametrize(
    ("keep_going", "ended"), [(False, {"bad", "beside"}), (True, {"bad", "beside", "later"})]
)
def test_a_failure_starts_nothing_that_follows(
    keep_going: bool, ended: set[str], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # `bad` fails while `beside` runs, which is let finish.
    both = (
        f"{meeting('bad', 'beside')}; test $0 = beside || {{ echo the reason; exit 3; }}; sleep 1"
    )
    command = shell(f"case $0 in later) true;; *) {both};; esac")
    # exit leaves the script before its end is written: only `bad` does that.
    caplog.set_level("INFO")
    assert run_stages(FAILING, command=command, jobs=2, keep_going=keep_going) == ["bad"]
    assert "    the reason" in caplog.messages
    assert {line.split()[1] for line in events(folder) if line.startswith("start")} == ended
    assert "end beside" in events(folder)


def test_each_stage_has_its_own_log(folder: Path) -> None:
    command = shell(f"{meeting('a', 'b')}; echo this is $0; echo an error of $0 >&2")
    run_stages({"a": (), "b": ()}, command=command, jobs=2)
    for name in "ab":
        text = (folder / f"logs/{name}.log").read_text("utf-8")
        assert text == f"this is {name}\nan error of {name}\n"


def test_each_job_sees_its_own_gpu(folder: Path) -> None:
    command = shell(f'{meeting("a", "b")}; echo "$CUDA_DEVICE_ORDER $CUDA_VISIBLE_DEVICES"')
    gpus = [gpu_environment(gpu) for gpu in ("3", "5")]
    run_stages({"a": (), "b": ()}, command=command, jobs=2, environments=gpus)
    seen = {(folder / f"logs/{name}.log").read_text("utf-8") for name in "ab"}
    assert seen == {"PCI_BUS_ID 3\n", "PCI_BUS_ID 5\n"}


def test_more_jobs_than_gpus_share_them(folder: Path) -> None:
    command = shell(f'{meeting("a", "b", "c")}; echo "$CUDA_VISIBLE_DEVICES" >> gpus')
    gpus = [gpu_environment(gpu) for gpu in ("0", "1")]
    run_stages(dict.fromkeys("abc", ()), command=command, jobs=3, environments=gpus)
    assert sorted((folder / "gpus").read_text("utf-8").split()) == ["0", "0", "1"]


def test_where_dvc_alone_dies_its_command_is_told_to_stop(folder: Path) -> None:
    # The outer process kills itself; the inner one would go on for long.
    outer = (
        "import os, subprocess, sys, time; subprocess.Popen(sys.argv[1:]);\n"
        "while not os.path.exists('ready'): time.sleep(0.05)\n"
        "os.kill(os.getpid(), 9)"
    )
    inner = f"trap 'echo saved > saved; exit 1' INT; touch ready; {LOOP}"
    failed = run_stages(
        {"a": ()}, command=lambda _: (sys.executable, "-S", "-c", outer, "sh", "-c", inner)
    )
    assert failed == ["a"]
    assert (folder / "saved").exists()


SCHEDULER = """
import sys
from tests.cordel.test_parallel import *
from cordel.runtime.console import run_stage
import cordel.parallel
cordel.parallel.GRACE_SECONDS = 1.0
upstream = {"a": (), "b": (), "c": (), "d": ("a",)}
run_stage(lambda: run_stages(upstream, command=shell(sys.argv[1]), jobs=2))
"""


@pytest.fixture
def interrupted(folder: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return what runs stages a and b, sends signals to the scheduler, and waits for its end."""

    def interrupt(script: str, *numbers: int) -> subprocess.CompletedProcess[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", SCHEDULER, script],
            env=os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_for(lambda: all((folder / f"ready-{name}").exists() for name in "ab"))
        for number in numbers:
            process.send_signal(number)
            wait_for(lambda: all((folder / f"told-{name}").exists() for name in "ab"))
        _, errors = process.communicate(timeout=LONG)
        return subprocess.CompletedProcess([], process.returncode, "", errors)

    return interrupt


def left_behind(folder: Path) -> list[str]:
    """Return the processes of this test that are still running."""
    return [
        str(process.info["cmdline"])
        for process in psutil.process_iter(["cwd", "cmdline", "status"])
        if process.info["cwd"] == str(folder)
        and process.pid != os.getpid()
        and process.info["status"] != psutil.STATUS_ZOMBIE
    ]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
def test_a_request_to_stop_lets_the_running_stages_save(
    number: int,
    code: int,
    interrupted: Callable[..., subprocess.CompletedProcess[str]],
    folder: Path,
) -> None:
    save = "touch told-$0; sleep 0.5 && touch saved-$0; exit 0"
    done = interrupted(f"trap '{save}' INT; touch ready-$0; {LOOP}", number)
    assert done.returncode == code
    assert (folder / "saved-a").exists()
    assert (folder / "saved-b").exists()
    assert sorted(events(folder)) == ["start a", "start b"]  # no others, though these succeeded
    assert "stopping; waiting for a, b" in done.stderr
    assert left_behind(folder) == []


def test_whoever_does_not_stop_at_the_second_request_is_killed(
    interrupted: Callable[..., subprocess.CompletedProcess[str]], folder: Path
) -> None:
    script = f"trap 'echo told >> told-$0' INT; touch ready-$0; {LOOP}; {LOOP}"
    done = interrupted(script, signal.SIGINT, signal.SIGINT)
    assert done.returncode == 130
    assert (folder / "told-a").read_text("utf-8").split() == ["told", "told"]
    assert left_behind(folder) == []


def stage_with(*outs: str) -> Stage:
    """Return a stage with these outs."""
    return Stage(upstream=frozenset(), deps=frozenset(), params=frozenset(), outs=frozenset(outs))


def test_the_ledger_knows_how_long_a_stage_takes(folder: Path) -> None:
    write_json(folder / "metrics/ledger/x.json", [{"seconds": 3.0}, {"seconds": 4.5}])
    write_json(folder / ".ckpt/estimates.json", {"x": 60.0})
    assert known_seconds("x", stage_with("data/x", "metrics/ledger/x.json")) == 7.5


def test_without_a_ledger_the_estimate_counts(folder: Path) -> None:
    write_json(folder / ".ckpt/estimates.json", {"x": 60})
    assert known_seconds("x", stage_with("metrics/ledger/x.json")) == 60.0
    assert known_seconds("y", stage_with("data/y")) == UNKNOWN_SECONDS


@pytest.mark.parametrize("text", ["{", '[{"minutes": 3}]', "3"])
def test_a_ledger_that_says_nothing_is_no_error(text: str, folder: Path) -> None:
    write_text(folder / "metrics/ledger/x.json", text)
    assert known_seconds("x", stage_with("metrics/ledger/x.json")) == UNKNOWN_SECONDS


def test_restored_stages_did_not_run(folder: Path) -> None:
    write_text(
        folder / "x.log",
        "Stage 'a' didn't change, skipping\nStage 'b' is cached - skipping run\n"
        "Running stage 'c':\n> python -m stages.c\n",
    )
    assert stages_run(folder / "x.log") == ["c"]


@pytest.fixture
def tiny(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a DVC project: a and b, which have to meet, then c and d."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(folder / "site"))
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], check=True)
    stages = {
        "a": {"cmd": "sh meet.sh a && cp in a", "deps": ["in"], "outs": ["a"]},
        "b": {"cmd": "sh meet.sh b && cp in b", "deps": ["in"], "outs": ["b"]},
        "c": {"cmd": "sh join.sh", "deps": ["a", "b", "join.sh"], "outs": ["c"]},
        "d": {"cmd": "cp c d", "deps": ["c"], "outs": ["d"]},
    }
    write_text(folder / "dvc.yaml", yaml.safe_dump({"stages": stages}))
    write_text(folder / "meet.sh", meeting("a", "b").replace('"$0"', '"$1"'))
    write_text(folder / "join.sh", "cat a b > c\n")
    write_text(folder / "in", "x\n")
    return folder


@pytest.mark.slow
def test_dvc_runs_independent_stages_at_once(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    repro([], jobs=2)
    lock = yaml.safe_load((tiny / "dvc.lock").read_text("utf-8"))
    assert set(lock["stages"]) == set("abcd")
    assert (tiny / "d").read_text("utf-8") == "x\nx\n"
    assert caplog.messages[0] == "4 of 4 stages are stale or follow from one"
    assert caplog.messages[-1] == "nothing is stale"
    # A rerun that gives the same bytes stops there: d is looked at and does not run.
    caplog.clear()
    write_text(tiny / "join.sh", "cat b a > c\n")
    repro([], jobs=2)
    said = "\n".join(caplog.messages)
    assert "2 of 4 stages are stale" in said
    assert "c: done" in said
    assert "d: nothing to run" in said


@pytest.mark.slow
def test_the_stage_that_failed_and_its_log_are_named(tiny: Path) -> None:
    write_text(tiny / "join.sh", "echo no luck; exit 3\n")
    with pytest.raises(StageFailed, match=r"^c failed, see logs/c\.log$"):
        repro(["d"], jobs=2)
    assert "no luck" in (tiny / "logs/c.log").read_text("utf-8")
    assert not (tiny / "logs/d.log").exists()
