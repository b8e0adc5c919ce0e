"""Break a run in every way that machines break, and see whether plain ``dvc repro`` mends it.

    python -m tests.faults.campaign --kills 60 --seed 1 --out campaign.md

Works in a temporary clone of the committed tree at toy sizes, in which states are saved every
second. An undisturbed run comes first. After every fault ``dvc repro`` is run again, and if it says
in a line what to do, that is done. Then every output must have the bytes of the undisturbed run,
and every object of DVC's cache the hash that is its name. Mounting needs root; without it, those
faults are listed as not tried, and a limit on the size of files stands for the full disk.
"""

import argparse
import logging
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from cordel.profiles import apply_profile, load_params, save_params
from cordel.runtime.files import write_text
from cordel.verification import digest, objects

log = logging.getLogger("campaign")

ROOT = Path(__file__).parents[2]
DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast as the other
INTERVAL = 1.0  # seconds between two states, in the clone
INTERVALS = {  # where the constant stands that is an hour's worth or a minute's in the product
    "src/cordel/training/loop.py": ("SAVE_EVERY_SECONDS", 60.0),
    "src/cordel/adaptation/qlora.py": ("SAVE_EVERY_SECONDS", 300.0),
    "src/cordel/corpus/sources.py": ("PART_SECONDS", 60.0),
}
CHANGES: dict[str, Any] = {  # to the profile smoke: every stage in question takes some seconds
    "corpus": {"max_documents": 5000},
    "datasets": {"v7_lossless": {"max_documents": 2500}},
    "models": {
        "v1": {"training": {"epochs": 50.0, "schedule_epochs": 50.0}},
        "v5_main": {"training": {"epochs": 6.0, "schedule_epochs": 6.0}},
        "v7": {"training": {"epochs": 0.12, "schedule_epochs": 0.12}},
    },
    "cpt": {"epochs": 5.0, "batch_size": 2, "evaluations": 3},
    "sft": {"epochs": 6.0, "evaluations": 3},
    "tasks": {"per_task": 25},
    "generation": {"max_new_tokens": {"qa": 24, "summarization": 48, "rewriting": 48}},
}
AGAIN = re.compile(r"resuming|found (?:it|all|the whole)|going back|generated again|from there")
FOUND = re.compile(r"found (?:it finished|all|the whole)")
DONE = re.compile(r"best val|\"ended\": true|\"completed\": true")
LOCK_BROKEN = re.compile(
    r"'\./dvc\.lock' (?:is invalid|validation failed)|'dvc\.lock', YAML file structure is corrupted"
)
RWLOCK_BROKEN = re.compile(r"Unable to read RWLock-file '\.dvc/tmp/rwlock'")
REFUSED = re.compile(r"^error: (?:process (\d+) is already at work|.*another process is writing)")


@dataclass(frozen=True, slots=True)
class Target:
    """A long stage, where its work in progress lies, and what a save leaves there."""

    stage: str
    work: str = ""
    saved: tuple[str, ...] = ()
    damage: str = ""  # the file of a save that is damaged


ADAPTED = ("checkpoint-*/complete", "finished.json")
TARGETS = (
    Target("train_lm@v1", "train_lm/v1", ("state.pt",), "state.pt"),
    Target("train_lm@v5_main", "train_lm/v5_main", ("state.pt",), "state.pt"),
    Target("train_lm@v7", "train_lm/v7", ("state.pt",), "state.pt"),
    Target("adapt_cpt", "adapt_cpt/cpt", ADAPTED, "checkpoint-*/optimizer.pt"),
    Target("adapt_sft@sft", "adapt_sft/sft", ADAPTED, "checkpoint-*/adapter_model.safetensors"),
    Target("generate_answers@sft", "generate_answers/sft", ("answers.jsonl",), "answers.jsonl"),
    Target("export_corpus", "export_corpus/corpus", ("part-*.json",), "part-*.parquet"),
    Target("encode_corpus@v7_lossless"),
)
FORCED = ("train_lm@v5_main", "adapt_sft@sft", "generate_answers@sft", "export_corpus")
LIMITED = ("train_lm@v7", "adapt_cpt", "export_corpus")
DISKS = {  # which folder is a disk of what size: too small for what the stage writes there
    "train_lm@v7": {".ckpt": "64k", "data/models": "64k", ".dvc/cache": "64k"},
    "adapt_cpt": {".ckpt": "64k"},
    "generate_answers@sft": {".ckpt": "12k"},
    "export_corpus": {".ckpt": "64k"},
    "encode_corpus@v7_lossless": {"data/tokens": "64k"},
}
CORDEL = "from cordel.cli import main; main()"  # it need not be installed
KINDS = ("process group", "DVC alone", "trainer alone")


@dataclass(slots=True)
class Row:
    """What became of one fault at one place."""

    fault: str
    where: str
    tried: int = 0
    recovered: int = 0
    identical: int = 0
    lost: list[float] = field(default_factory=list)  # since the last state of the attempt
    setup: list[float] = field(default_factory=list)  # of attempts that had saved nothing yet
    notes: list[str] = field(default_factory=list)

    def cells(self) -> list[str]:
        """Return the row as text."""
        lost, setup = (f"{max(v):.1f}" if v else "–" for v in (self.lost, self.setup))
        counts = [str(n) for n in (self.tried, self.recovered, self.identical)]
        return [self.fault, self.where, *counts, lost, setup, "; ".join(dict.fromkeys(self.notes))]


HEADER = (
    "fault",
    "where",
    "tried",
    "recovered",
    "identical",
    "lost, s",
    "before a first state, s",
    "what was said",
)


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown."""
    lines = [list(HEADER), ["---"] * len(HEADER), *(row.cells() for row in rows)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


# --- the project ----------------------------------------------------------------------------------


class Project:
    """A clone with its own caches, and what its outputs should be."""

    def __init__(self, folder: Path, targets: tuple[Target, ...]) -> None:
        """Clone the committed tree, shrink it and let it save often."""
        self.root, self.targets = folder / "project", targets
        self.folder = folder
        self.env = os.environ | {
            "DVC_SITE_CACHE_DIR": str(folder / "site"),
            "DVC_GLOBAL_CONFIG_DIR": str(folder / "config"),
            "OMP_NUM_THREADS": "1",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        for name in ("DVC_ROOT", "PYTHONPATH"):
            self.env.pop(name, None)
        subprocess.run(["git", "clone", "-q", str(ROOT), str(self.root)], check=True)
        apply_profile("smoke", root=self.root)
        params = load_params(self.root / "params.yaml")
        merge(params, CHANGES)
        save_params(self.root / "params.yaml", params)
        for name, (constant, seconds) in INTERVALS.items():
            path = self.root / name
            text = path.read_text(encoding="utf-8")
            changed = text.replace(f"{constant} = {seconds}", f"{constant} = {INTERVAL}")
            if changed == text:
                raise RuntimeError(f"{name}: no line {constant} = {seconds}")
            path.write_text(changed, encoding="utf-8")
        self.durations: dict[str, float] = {}
        self.expected: dict[str, dict[str, str]] = {}
        self.undisturbed: dict[str, Any] = {}  # the stages of dvc.lock
        self.cache = self.root / ".dvc/cache/files/md5"

    def run(self, *words: str, prefix: Path | None = None) -> tuple[int, str]:
        """Return exit code and output."""
        env = self.env if prefix is None else self.env | {"PATH": f"{prefix}:{self.env['PATH']}"}
        with (self.folder / "output").open("w+b") as stream:
            # Into a file: an orphan would keep a pipe open.
            code = subprocess.run(
                words, cwd=self.root, env=env, stdout=stream, stderr=stream, check=False
            ).returncode
            stream.seek(0)
            return code, stream.read().decode()

    def start(self, *words: str) -> "subprocess.Popen[bytes]":
        """Start a command as the leader of a process group."""
        with (self.folder / "output").open("wb") as stream:
            return subprocess.Popen(
                words,
                cwd=self.root,
                env=self.env,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )

    def commit(self) -> None:
        """Commit everything."""
        author = ("-c", "user.name=test", "-c", "user.email=test@example.org")
        self.run("git", "add", "-A")
        self.run("git", *author, "commit", "-q", "--allow-empty", "-m", "faults")

    def lock(self) -> dict[str, Any]:
        """Return the stages of dvc.lock."""
        text = (self.root / "dvc.lock").read_text(encoding="utf-8")
        return yaml.load(text, Loader=LOADER)["stages"]  # noqa: S506  (a safe loader)

    def outs(self, stage: str) -> dict[str, str]:
        """Return what dvc.lock says of a stage's outputs, without its ledger."""
        found = self.lock().get(stage, {"outs": []})["outs"]
        return {out["path"]: out["md5"] for out in found if "ledger" not in out["path"]}

    def files(self, paths: list[str]) -> dict[str, str]:
        """Return the hash of every file of the outputs as it is now."""
        found: dict[str, str] = {}
        for name in paths:
            path = self.root / name
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if file.is_file():
                    found[file.relative_to(self.root).as_posix()] = digest(file)
        return found

    def is_as_expected(self, stage: str) -> bool:
        """Compare lock and files of a stage with the undisturbed run's, and check the cache."""
        outs = self.outs(stage)
        now = outs | self.files(list(outs))
        cached = [md5 for path, md5 in now.items() if path.startswith("data/")]
        kept = all((self.cache / md5[:2] / md5[2:]).exists() for md5 in cached)
        return kept and now == self.expected[stage] and not self.broken_objects()

    def broken_objects(self) -> list[Path]:
        """Return the objects of the cache whose bytes are not what their names promise."""
        return [path for path, promised in objects(self.cache) if digest(path) != promised]

    def forget(self, target: Target) -> None:
        """Leave nothing of a stage: lock, outputs, cache, work in progress, run cache."""
        # Not from dvc.lock as it is: the kill before may have cut it.
        stages = dict(self.undisturbed or self.lock())
        stages.pop(target.stage, None)
        text = yaml.dump({"schema": "2.0", "stages": stages}, Dumper=DUMPER, sort_keys=False)
        write_text(self.root / "dvc.lock", text)
        for path, md5 in self.expected[target.stage].items():
            for place in (self.root / path, self.cache / md5[:2] / md5[2:]):
                shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
        shutil.rmtree(self.root / ".dvc/cache/runs", ignore_errors=True)
        if target.work:
            shutil.rmtree(self.work(target), ignore_errors=True)

    def work(self, target: Target) -> Path:
        """Return the folder of a stage's work in progress."""
        return self.root / ".ckpt" / target.work

    def saved_at(self, target: Target) -> float:
        """Return when the last state was saved (0 for never)."""
        paths = [p for name in target.saved for p in self.work(target).glob(f"*/{name}")]
        return max((p.stat().st_mtime for p in paths if p.stat().st_size), default=0.0)

    def began_at(self, target: Target) -> float:
        """Return when the last attempt took the lock of its work in progress."""
        paths = [*self.work(target).glob("*/lock")] if target.work else []
        return max((p.stat().st_mtime for p in paths), default=0.0)

    def has_finished(self, target: Target) -> bool:
        """Tell whether a stage had done its work and was writing its outputs or ledger."""
        folder = self.work(target)
        texts = [(self.folder / "output").read_text(encoding="utf-8")]
        texts += [p.read_text("utf-8") for p in folder.glob("*/part-*.json")]
        texts += [p.read_text("utf-8") for p in folder.glob("*/attempts.json")]
        return any(folder.glob("*/finished.json")) or bool(DONE.search("\n".join(texts)))

    def reference(self) -> None:
        """Run undisturbed, twice: for the hashes and, once the machine is warm, for the times."""
        names = [target.stage for target in self.targets]
        code, output = self.run("dvc", "repro", *names)
        if code:
            raise RuntimeError(f"the undisturbed run failed:\n{output[-3000:]}")
        for target in self.targets:
            outs = self.outs(target.stage)
            self.expected[target.stage] = outs | self.files(list(outs))
            self.forget(target)
            started_at = time.monotonic()
            self.repro(target)
            self.durations[target.stage] = time.monotonic() - started_at
            if not self.is_as_expected(target.stage):
                raise RuntimeError(f"{target.stage} does not give the same bytes twice")
            log.info("%s takes %.1f s", target.stage, self.durations[target.stage])
        self.commit()
        self.undisturbed = self.lock()

    def repro(self, target: Target, *words: str, prefix: Path | None = None) -> tuple[int, str]:
        """Run a stage as a user does."""
        return self.run("dvc", "repro", "-s", target.stage, *words, prefix=prefix)

    def trainers(self, target: Target) -> list[int]:
        """Return the processes of a stage in this clone, shells apart."""
        module, found = f"stages.{target.stage.partition('@')[0]}", []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                words = path.read_bytes().decode().split("\0")
                here = (path.parent / "cwd").resolve().is_relative_to(self.root)
                if here and words[1:3] == ["-m", module]:
                    found.append(int(path.parent.name))
        return found

    def wait_for_trainers(self, target: Target) -> None:
        """Wait until nobody works at a stage."""
        while self.trainers(target):
            time.sleep(0.05)

    def recover(self, target: Target, row: Row) -> tuple[bool, str]:
        """Run plain ``dvc repro`` until it succeeds, doing what it says; return all its output."""
        outputs = ""
        for _ in range(5):
            code, output = self.repro(target)
            outputs += output
            if code == 0:
                return True, outputs
            if broken := LOCK_BROKEN.search(output):
                row.notes.append(f"`{broken[0]}`, then `git checkout dvc.lock`")
                code, output = self.run("git", "checkout", "dvc.lock")
                row.notes += [f"GIT FAILED: {output}"] if code else []
                continue
            if broken := RWLOCK_BROKEN.search(output):
                row.notes.append(f"`{broken[0]} …`, then `rm .dvc/tmp/rwlock`")
                (self.root / ".dvc/tmp/rwlock").unlink()
                continue
            lines = [line for line in output.splitlines() if line.startswith("error: ")]
            refused = REFUSED.match(lines[0]) if len(lines) == 1 else None
            if refused is None or "Traceback" in output:
                break
            if refused[1]:
                row.notes.append("`process N is already at work …; stop it with kill N`")
                with suppress(ProcessLookupError):
                    os.kill(int(refused[1]), signal.SIGTERM)
            else:
                row.notes.append("`another process is writing it; wait until that ends`")
            self.wait_for_trainers(target)
        row.notes.append(f"NOT RECOVERED: {' '.join(outputs.split())[-300:]}")
        log.error("%s", outputs)
        self.run("git", "checkout", "dvc.lock")  # the next fault shall not suffer from this one
        return False, outputs

    def judge(self, target: Target, row: Row, count: int = 1) -> str:
        """Recover, compare, and add it to the row."""
        good, output = self.recover(target, row)
        row.recovered += count * good
        row.identical += count * (good and self.is_as_expected(target.stage))
        return output


def merge(base: Any, changes: dict[str, Any]) -> None:
    """Put the leaves of ``changes`` into ``base``."""
    for key, value in changes.items():
        if isinstance(value, dict):
            merge(base[key], value)
        else:
            base[key] = value


# --- kills ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Strike:
    """A signal that was sent to a stage."""

    started_at: float
    at: float  # 0: the stage had ended by then


def strike(
    project: Project,
    target: Target,
    kind: str,
    number: int,
    after: float,
    *,
    once: Callable[[], bool] = lambda: True,
) -> Strike:
    """Start a stage and send a signal some seconds after ``once`` holds."""
    process, started_at = project.start("dvc", "repro", "-s", target.stage), time.time()
    while process.poll() is None and not once():
        time.sleep(0.01)
    with suppress(subprocess.TimeoutExpired):
        process.wait(after)
    while kind == "trainer alone" and process.poll() is None and not project.trainers(target):
        time.sleep(0.01)
    if process.poll() is not None:
        return Strike(started_at, 0.0)
    at = time.time()
    if kind == "process group":
        os.killpg(process.pid, number)
    elif kind == "DVC alone":
        os.kill(process.pid, number)
    else:
        for pid in project.trainers(target):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
    process.wait()
    if kind != "DVC alone":
        project.wait_for_trainers(target)
    return Strike(started_at, at)


def lost(project: Project, target: Target, struck: Strike, row: Row) -> None:
    """Add the seconds of work that a signal has cost."""
    began, saved = project.began_at(target), project.saved_at(target)
    if began < struck.started_at:  # it had not begun to work
        row.setup.append(0.0)
    elif project.has_finished(target):
        row.lost.append(0.0)
    elif saved > began:
        row.lost.append(max(0.0, struck.at - saved))
    else:
        row.setup.append(struck.at - began)


def kill_chain(project: Project, target: Target, rows: dict[str, Row], rng: random.Random) -> int:
    """Kill one run up to five times at random instants, let it end, and return how often."""
    project.forget(target)
    struck: list[Row] = []
    for number in range(5):
        row = rows[rng.choice(KINDS)]
        after = rng.uniform(0.1, 1.0) * project.durations[target.stage]
        kind = row.fault.removeprefix("kill -9, ")
        sent = strike(project, target, kind, signal.SIGKILL, after)
        if not sent.at:
            if not number:  # what else the machine does changes how long a stage takes
                project.durations[target.stage] *= 0.8
            break
        if target.work and kind != "DVC alone":
            lost(project, target, sent, row)
            if project.began_at(target) < sent.started_at:
                project.durations[target.stage] *= 1.1
        row.tried += 1
        struck.append(row)
        if project.broken_objects():
            row.notes.append("PARTIAL OBJECTS IN THE CACHE")
        if kind == "DVC alone":  # its orphan must end first: `recover` sees to that
            break
    last = struck[-1] if struck else next(iter(rows.values()))
    good, _ = project.recover(target, last)
    same = good and project.is_as_expected(target.stage)
    for row in struck:
        row.recovered += good
        row.identical += same
    return len(struck)


def kills(project: Project, count: int, rng: random.Random) -> list[Row]:
    """Kill every target in turn until ``count`` kills have struck."""
    rows = {t.stage: {k: Row(f"kill -9, {k}", t.stage) for k in KINDS} for t in project.targets}
    done = 0
    while done < count:
        for target in project.targets:
            if done < count:
                done += kill_chain(project, target, rows[target.stage], rng)
                log.info("%d of %d kills, last of %s", done, count, target.stage)
    return [row for kinds in rows.values() for row in kinds.values() if row.tried]


def strike_inside(
    project: Project,
    target: Target,
    kind: str,
    number: int,
    rng: random.Random,
    since: Callable[[Target], float],
) -> Strike:
    """Strike a fresh run between what ``since`` tells the time of and the end of its work."""
    for attempt in range(1, 20):
        project.forget(target)
        after = rng.uniform(0.0, 0.5) * project.durations[target.stage] / attempt
        sent = strike(project, target, kind, number, after, once=lambda: since(target) > 0)
        # A stop in the last step is none; a state that is final would not be gone on with.
        if sent.at and not project.has_finished(target):
            return sent
    raise RuntimeError(f"{target.stage} is too short to be struck")


def sigterm(project: Project, target: Target, rng: random.Random) -> Row:
    """Ask a stage to stop: it saves first."""
    row = Row("SIGTERM", target.stage)
    for kind in ("process group", "trainer alone"):
        sent = strike_inside(project, target, kind, signal.SIGTERM, rng, project.began_at)
        row.tried += 1
        lost(project, target, sent, row)
        output = (project.folder / "output").read_text(encoding="utf-8")
        row.notes += ["`stopped by SIGTERM`"] if "stopped by SIGTERM" in output else []
        output = project.judge(target, row)
        row.notes += AGAIN.findall(output)[:1]
    return row


# --- damage ---------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    """Cut a file in half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    """Flip one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def damaged_state(project: Project, target: Target, rng: random.Random) -> Row:
    """Damage the newest state of an interrupted run."""
    row = Row("truncated or bit-flipped state", target.stage)
    for harm in (cut, flip):
        strike_inside(project, target, "process group", signal.SIGKILL, rng, project.saved_at)
        paths = project.work(target).glob(f"*/{target.damage}")
        harm(max(paths, key=lambda path: path.stat().st_mtime))
        row.tried += 1
        output = project.judge(target, row)
        said = re.findall(r"is damaged: going back|are broken|is damaged: reading", output)
        said += re.findall(r"is damaged \(.*?\): going back", output)
        row.notes += [f"`{text}`" for text in said[:1]]
    return row


def cache_object(project: Project, target: Target) -> Row:
    """Damage an object of the cache that is then needed."""
    row = Row("corrupted cache object", target.stage)
    for harm in (cut, flip):
        [(path, md5)] = [
            (p, m) for p, m in project.expected[target.stage].items() if p.endswith(".safetensors")
        ]
        place = project.cache / md5[:2] / md5[2:]
        place.chmod(0o644)
        harm(place)
        place.chmod(0o444)
        (project.root / path).unlink()
        row.tried += 1
        _, output = project.repro(target)
        if digest(project.root / path) != md5:
            row.notes.append("DVC restores it unseen")
        _, output = project.run("env", "PYTHONPATH=src", "python", "-c", CORDEL, "verify")
        row.notes += [f"`{m}`" for m in re.findall(r"\d files deleted; .*", output)]
        project.judge(target, row)
    return row


def lock_file(project: Project, target: Target) -> Row:
    """Damage dvc.lock."""
    row = Row("corrupted dvc.lock", target.stage)
    path = project.root / "dvc.lock"
    whole = path.read_bytes()
    for content in (bytes(1000), whole[: len(whole) // 2], b"<<<<<<< HEAD\n" + whole):
        path.write_bytes(content)
        row.tried += 1
        project.judge(target, row)
        path.write_bytes(whole)
    return row


def deleted(project: Project, target: Target) -> Row:
    """Delete an output, then also its objects in the cache."""
    row = Row("deleted output", target.stage)
    for also_cache in (False, True):
        for path, md5 in project.expected[target.stage].items():
            if path.startswith("data/") and (file := project.root / path).is_file():
                file.unlink()
                if also_cache:
                    (project.cache / md5[:2] / md5[2:]).unlink()
        row.tried += 1
        output = project.judge(target, row)
        row.notes.append("`checking out outputs`" if "checking out" in output else "run again")
    return row


def forced(project: Project, target: Target) -> Row:
    """Force a finished run: it says that it is finished, and how to have it made anew."""
    row = Row("dvc repro -f, finished", target.stage, tried=1)
    project.forget(target)
    project.repro(target)
    _, output = project.repro(target, "-f")
    row.notes += [f"`{m} …; delete …`" for m in FOUND.findall(output)]
    shutil.rmtree(project.work(target))
    _, output = project.repro(target, "-f")
    if FOUND.search(output):
        row.notes.append("FOUND AGAIN")
    project.judge(target, row)
    return row


# --- disks ----------------------------------------------------------------------------------------


@contextmanager
def mounted(*words: str, at: Path) -> Iterator[bool]:
    """Mount something for a block; give False where that is not allowed."""
    at.mkdir(parents=True, exist_ok=True)
    command = ["mount", *words, str(at)]
    done = subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield done
    finally:
        if done:
            subprocess.run(["umount", "-l", str(at)], check=True)


def full_disk(project: Project, target: Target, where: str, size: str) -> Row:
    """Let a folder be a disk that is too small."""
    row = Row("full disk (tmpfs)", f"{target.stage}, {where}")
    project.forget(target)
    with mounted("-t", "tmpfs", "-o", f"size={size}", "none", at=project.root / where) as done:
        if not done:
            row.notes.append("not tried: mounting is not allowed")
            return row
        row.tried += 1
        code, output = project.repro(target)
        note_failure(row, code, output)
    project.judge(target, row)
    return row


def size_limit(project: Project, target: Target, kilobytes: int) -> Row:
    """Limit the size of a stage's files, for want of a small disk."""
    row = Row("full disk (limit on file size)", target.stage, tried=1)
    shim = project.folder / "shim"
    shim.mkdir(exist_ok=True)
    script = f'#!/bin/bash\nulimit -f {kilobytes}\nexec {sys.executable} "$@"\n'
    (shim / "python").write_text(script, encoding="utf-8")
    (shim / "python").chmod(0o755)
    project.forget(target)
    note_failure(row, *project.repro(target, prefix=shim))
    project.judge(target, row)
    return row


def read_only_cache(project: Project, target: Target) -> Row:
    """Let the cache be on a disk that is mounted read-only."""
    row = Row("read-only cache", target.stage)
    project.forget(target)
    cache = project.root / ".dvc/cache"
    with mounted("--bind", str(cache), at=cache) as done:
        if done:
            again = ["mount", "-o", "remount,bind,ro", str(cache)]
            subprocess.run(again, check=True)
            row.tried += 1
            code, output = project.repro(target)
            note_failure(row, code, output)
        else:
            row.notes.append("not tried: mounting is not allowed")
    project.judge(target, row, row.tried)
    return row


def note_failure(row: Row, code: int, output: str) -> None:
    """Note how a stage that could not write has ended."""
    if "Traceback" in output:
        row.notes.append("TRACEBACK")
        log.error("%s", output)
    if not code:
        row.notes.append("exit code 0")
    lines = [line for line in output.splitlines() if line.lower().startswith("error: ")]
    words = re.findall(
        r"No space left[^:]*|File too large|Read-only file system|cannot be written|failed writing",
        lines[0] if lines else "",
    )
    row.notes += [f"`error: … {words[0]} …`"] if words else [" ".join(lines)[:80]]


# --- experiments ----------------------------------------------------------------------------------


def experiment(project: Project, target: Target, rng: random.Random, *, queue: bool) -> Row:
    """Kill an experiment in its own folder and start it again."""
    row = Row("dvc queue kill" if queue else "dvc exp run --temp, kill -9", target.stage)
    project.forget(target)
    run = ("dvc", "exp", "run", "--temp", "-s", target.stage)
    for _ in range(10):
        if queue:
            project.run("dvc", "exp", "run", "--queue", "-n", "queued", "-s", target.stage)
            project.run("dvc", "queue", "start")
            process = None
        else:
            process = project.start(*run)
        while not project.saved_at(target) and (process is None or process.poll() is None):
            time.sleep(0.05)
        time.sleep(rng.uniform(0.0, 0.5) * project.durations[target.stage])
        running = project.trainers(target)
        if process is None:
            project.run("dvc", "queue", "kill", "--force", "queued")
        else:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        project.wait_for_trainers(target)
        if running:
            break
        project.forget(target)
    else:
        raise RuntimeError(f"{row.fault}: {target.stage} was never caught at work")
    row.tried += 1
    code, output = project.run(*run, "-n", f"again-{int(queue)}")
    row.notes += AGAIN.findall(output)[:1]
    row.recovered += code == 0
    refs = project.run("git", "for-each-ref", "--format=%(refname)", "refs/exps")[1].split()
    refs = [ref for ref in refs if ref.endswith(f"again-{int(queue)}")]
    if refs:
        _, text = project.run("git", "show", f"{refs[0]}:dvc.lock")
        outs = yaml.load(text, Loader=LOADER)["stages"][target.stage]["outs"]  # noqa: S506
        found = {out["path"]: out["md5"] for out in outs if "ledger" not in out["path"]}
        row.identical += found.items() <= project.expected[target.stage].items()
    project.forget(target)
    project.recover(target, row)
    return row


# --- the campaign ---------------------------------------------------------------------------------


def faults(project: Project, rng: random.Random) -> Iterator[Callable[[], Row]]:
    """Yield what is tried beside kills."""
    saving = [target for target in project.targets if target.work]
    for target in saving:
        yield partial(sigterm, project, target, rng)
        yield partial(damaged_state, project, target, rng)
        if target.stage in FORCED:
            yield partial(forced, project, target)
    for target in project.targets:
        for where, size in DISKS.get(target.stage, {}).items():
            yield partial(full_disk, project, target, where, size)
    for target in saving:
        if target.stage in LIMITED:
            yield partial(size_limit, project, target, 24)
    for target in project.targets:
        if target.stage == "train_lm@v7":
            for fault in (read_only_cache, cache_object, lock_file, deleted):
                yield partial(fault, project, target)
            for queue in (False, True):
                yield partial(experiment, project, target, rng, queue=queue)


def campaign(
    folder: Path, targets: tuple[Target, ...], count: int, rng: random.Random
) -> tuple[list[Row], bool]:
    """Return what became of each fault, and whether in the end nothing is left of them."""
    project = Project(folder, targets)
    project.reference()
    rows = kills(project, count, rng)
    log.info("%s", table(rows))
    for fault in faults(project, rng):
        rows.append(fault())
        log.info("%s", " | ".join(rows[-1].cells()))
    code, output = project.run("dvc", "repro", *(target.stage for target in targets))
    clean = code == 0 and "Running stage" not in output
    return rows, clean and all(project.is_as_expected(target.stage) for target in targets)


def main() -> None:
    """Run the campaign and write its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", nargs="+", metavar="STAGE", help="of these stages alone")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        targets = tuple(t for t in TARGETS if args.only is None or t.stage in args.only)
        rows, clean = campaign(Path(folder), targets, args.kills, random.Random(args.seed))
    text = table(rows) + summary(rows, clean=clean)
    sys.stdout.write(text)
    if args.out:
        write_text(args.out, text)
    sys.exit(0 if clean and all(r.tried == r.recovered == r.identical for r in rows) else 1)


def summary(rows: list[Row], *, clean: bool) -> str:
    """Return the totals in a sentence."""
    killed = [row for row in rows if row.fault.startswith("kill -9")]
    lost_at_most = max((v for row in killed for v in row.lost), default=0.0)
    kill_sum, tried, recovered, identical = (
        sum(row.tried for row in killed),
        *(sum(getattr(row, name) for row in rows) for name in ("tried", "recovered", "identical")),
    )
    return (
        f"\n{kill_sum} kills of {tried} faults; {recovered} recovered, {identical} with identical "
        f"hashes; at most {lost_at_most:.1f} s lost since a state, of which there is one every "
        f"{INTERVAL:.0f} s. In the end {'all is' if clean else 'NOT ALL IS'} as undisturbed.\n"
    )


if __name__ == "__main__":
    main()
