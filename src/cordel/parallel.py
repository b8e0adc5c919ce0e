"""Run independent stages of the pipeline at once, each by a DVC of its own.

`dvc repro` runs one stage after another, and two of them at once fail: each locks the outs of all
stages upstream, even unchanged ones. `dvc --wait-for-lock repro -s STAGE` locks what STAGE itself
reads and writes, so those whose order does not matter may run at once. DVC still decides whether a
stage has to run, restores it from the cache, and records it in dvc.lock.
"""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import psutil

from cordel.pipeline import Stage, read_pipeline, stale_stages, with_downstream
from cordel.runtime.console import Stopped, duration, stop_requests
from cordel.runtime.errors import ArtifactError, UserError
from cordel.runtime.files import read_json
from cordel.runtime.hardware import REPRO_STARTED_AT
from cordel.runtime.ledger import ESTIMATES

log = logging.getLogger("cordel")
DVC = (sys.executable, "-m", "dvc", "--wait-for-lock")
LOGS = Path("logs")
CHECK = "dvc-repro"  # names the log of the last step
UNKNOWN_SECONDS = 5.0  # of a stage that has no ledger and no estimate
TAIL_LINES = 8  # of the log of a stage that failed, shown at once
POLL_SECONDS = 0.1
GRACE_SECONDS = 10.0  # from the second request to stop to the end of whoever is left

Command = Callable[[str], Sequence[str]]


class StageFailed(UserError):
    """A stage ended with an error; its log says which."""


def repro(
    targets: Sequence[str], *, jobs: int, gpus: Sequence[str] = (), keep_going: bool = False
) -> None:
    """Do what `dvc repro` does, ``jobs`` stages at once, and end with a plain `dvc repro`.

    Args:
        targets: Stages, as `dvc repro` takes them; none for all.
        jobs: How many stages run at once, at most.
        gpus: What CUDA_VISIBLE_DEVICES says to each of them, in turn; none for what it says now.
        keep_going: After a failure go on with what does not depend on it.

    Raises:
        StageFailed: A stage failed; nothing downstream of it was started.
        Stopped: SIGINT or SIGTERM arrived, and the stages that were running have ended.
        InputError: DVC cannot read the pipeline, or knows no such target.
    """
    stages = read_pipeline(targets)
    todo = with_downstream(stale_stages(), stages)
    log.info("%d of %d stages are stale or follow from one", len(todo), len(stages))
    # What ended before this was restored, not run: account_costs asks.
    environment = {REPRO_STARTED_AT: repr(time.time())}
    failed = run_stages(
        {name: stages[name].upstream & todo for name in todo},
        seconds={name: known_seconds(name, stages[name]) for name in todo},
        command=lambda name: (*DVC, "repro", "--single-item", name),
        jobs=jobs,
        environments=[environment | gpu_environment(gpu) for gpu in gpus] or [environment],
        keep_going=keep_going,
    )
    if failed:
        raise StageFailed("; ".join(f"{name} failed, see {log_of(name)}" for name in failed))
    check(targets, environment)


def check(targets: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run a plain `dvc repro`, which finds nothing to do unless something changed meanwhile.

    Raises:
        StageFailed: It failed.
    """
    if run_stages(
        {CHECK: ()}, command=lambda _: (*DVC, "repro", *targets), environments=[environment]
    ):
        raise StageFailed(f"`dvc repro` failed, see {log_of(CHECK)}")
    ran = stages_run(log_of(CHECK))
    log.info("nothing is stale" if not ran else f"`dvc repro` also ran {', '.join(ran)}")


def gpu_environment(gpu: str) -> dict[str, str]:
    """Return what makes a process see one GPU alone, numbered as nvidia-smi does."""
    return {"CUDA_VISIBLE_DEVICES": gpu, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def known_seconds(name: str, stage: Stage) -> float:
    """Return how long a stage took when last run, or is estimated to take; else a guess."""
    with suppress(ArtifactError, KeyError, TypeError):
        for path in stage.outs:
            if "/ledger/" in path:
                return sum(attempt["seconds"] for attempt in read_json(Path(path), kind=list))
    with suppress(ArtifactError, KeyError, TypeError):
        return float(read_json(ESTIMATES)[name])
    return UNKNOWN_SECONDS


def seconds_to_the_end(
    upstream: Mapping[str, Collection[str]], seconds: Mapping[str, float]
) -> dict[str, float]:
    """Return for each stage the seconds of the longest chain of stages that begins with it."""
    left = dict(seconds)
    for name in reversed(list(TopologicalSorter(upstream).static_order())):
        for before in upstream[name]:
            left[before] = max(left[before], seconds[before] + left[name])
    return left


def run_stages(
    upstream: Mapping[str, Collection[str]],
    *,
    command: Command,
    seconds: Mapping[str, float] | None = None,
    jobs: int = 1,
    environments: Sequence[Mapping[str, str]] = ({},),
    keep_going: bool = False,
) -> list[str]:
    """Run the command of every stage after those upstream of it, and return the stages that failed.

    Of the stages that could start, the one with the longest way to the end does.

    Args:
        upstream: The stages, and which of them each has to wait for.
        command: What runs a stage. Its own process is never signalled, only those that it starts.
        seconds: How long each stage takes, about.
        jobs: How many run at once, at most.
        environments: Variables for each of those, in turn.
        keep_going: After a failure go on with what does not depend on it.

    Raises:
        Stopped: SIGINT or SIGTERM arrived, and the stages that were running have ended.
    """
    left = seconds_to_the_end(upstream, seconds or dict.fromkeys(upstream, 1.0))
    order = TopologicalSorter(upstream)
    order.prepare()
    ready: list[str] = []
    failed: list[str] = []
    workers = Workers(command, jobs, environments, total=len(upstream))
    with stop_requests() as asked, workers:
        while True:
            ready = sorted([*ready, *order.get_ready()], key=lambda name: (-left[name], name))
            while ready and workers.idle and not asked() and (keep_going or not failed):
                workers.start(ready.pop(0))
            if not workers.running:
                break
            time.sleep(POLL_SECONDS)
            if asked():
                workers.interrupt()
            for name, succeeded in workers.finished():
                order.done(name) if succeeded else failed.append(name)
        if asked():
            raise Stopped
    return failed


@dataclass(slots=True, kw_only=True)
class Running:
    """A stage that is running."""

    name: str
    process: subprocess.Popen[bytes]
    started_at: float
    told: set[int] = field(default_factory=set)  # processes that were asked to stop


class Workers:
    """Processes that run stages, each in a process group of its own, with a log of its own.

    Ctrl-C in a terminal therefore reaches none of them; ``interrupt`` passes it on.
    """

    def __init__(
        self,
        command: Command,
        jobs: int,
        environments: Sequence[Mapping[str, str]] = ({},),
        *,
        total: int,
    ) -> None:
        """Start nothing yet."""
        self._command = command
        self._environments = [environments[i % len(environments)] for i in range(jobs)]
        self._total, self._ended = total, 0
        self._stopping = False
        self.running: dict[int, Running] = {}  # by its place among the jobs

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave no process behind, whatever happened: ask once more, then kill."""
        try:
            for running in self.running.values():
                running.told.clear()
            end = time.monotonic() + GRACE_SECONDS
            while self.running and time.monotonic() < end:
                self.interrupt()
                time.sleep(POLL_SECONDS)
                self.finished()
        finally:
            for running in self.running.values():
                _kill(running.process.pid)

    @property
    def idle(self) -> bool:
        """Whether another stage may start."""
        return len(self.running) < len(self._environments)

    def start(self, name: str) -> None:
        """Start a stage in the first free place."""
        place = next(i for i in range(len(self._environments)) if i not in self.running)
        environment = self._environments[place]
        with open_log(name) as output:
            process = subprocess.Popen(  # noqa: S603  (a stage's name, without a shell)
                [*self._command(name)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | environment,
                start_new_session=True,
            )
        self.running[place] = Running(name=name, process=process, started_at=time.monotonic())
        gpu = environment.get("CUDA_VISIBLE_DEVICES")
        log.info("%s: started%s", name, "" if gpu is None else f" on GPU {gpu}")

    def finished(self) -> list[tuple[str, bool]]:
        """Return the stages that have ended since, and whether each succeeded."""
        ended = []
        for place, running in list(self.running.items()):
            code = running.process.poll()
            if code is None:
                continue
            if code and _members(running.process.pid):
                self._tell(running)  # DVC alone was killed, and its command would go on
                continue
            del self.running[place]
            ended.append((running.name, code == 0))
            self._report(running, code)
        return ended

    def interrupt(self) -> None:
        """Pass on to every command, once, that it shall save and stop, but never to DVC itself.

        DVC may be writing dvc.lock, of which a part would be left. It ends with its command, and
        one that it starts later is told then.
        """
        if not self._stopping:
            self._stopping = True
            names = ", ".join(running.name for running in self.running.values())
            log.info("stopping; waiting for %s", names)
        for running in self.running.values():
            self._tell(running)

    def _tell(self, running: Running) -> None:
        dvc, told = running.process.pid, frozenset(running.told)
        for process in _members(dvc):
            with suppress(psutil.NoSuchProcess):
                # What a command starts while it saves is left in peace.
                if process.pid != dvc and not told & {process.pid, process.ppid()}:
                    running.told.add(process.pid)
                    process.send_signal(signal.SIGINT)

    def _report(self, running: Running, code: int) -> None:
        self._ended += 1
        took = duration(time.monotonic() - running.started_at)
        path = log_of(running.name)
        ended_badly = "stopped" if self._stopping else "failed"
        how = ended_badly if code else "done" if stages_run(path) else "nothing to run"
        others = ", ".join(other.name for other in self.running.values())
        log.info(
            "%s: %s, %s; %d of %d%s",
            *(running.name, how, took, self._ended, self._total),
            f"; running: {others}" if others else "",
        )
        if code and not self._stopping:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            for line in lines[-TAIL_LINES:]:
                log.info("    %s", line)


def _members(group: int) -> set[psutil.Process]:
    """Return the processes of a group, without those that have ended and that nobody waits for."""
    found = set()
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, ProcessLookupError, PermissionError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.add(process)
    return found


def _kill(group: int) -> None:
    """Kill a group at once, as one of its processes may be about to start another; see it end."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    end = time.monotonic() + GRACE_SECONDS
    while _members(group) and time.monotonic() < end:
        time.sleep(POLL_SECONDS)


def log_of(name: str) -> Path:
    """Return where a stage's output goes."""
    return LOGS / f"{name}.log"


def open_log(name: str) -> IO[bytes]:
    """Return a stage's log, empty."""
    path = log_of(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("wb")


def stages_run(path: Path) -> list[str]:
    """Return the stages that DVC says to have run in its output, restored ones not included."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line.split("'")[1] for line in lines if line.startswith("Running stage '")]
