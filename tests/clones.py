"""Clones of the committed tree, in which tests do what users do."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
AUTHOR = ("-c", "user.name=test", "-c", "user.email=test@example.org")


class Clone:
    """A project folder with its own DVC caches, site folder and configuration."""

    def __init__(self, folder: Path, source: Path | None = ROOT) -> None:
        """Clone ``source`` to ``folder/project``; without one, the folder is filled elsewhere."""
        self.root = folder / "project"
        self.env = os.environ | {
            "DVC_SITE_CACHE_DIR": str(folder / "site"),
            "DVC_GLOBAL_CONFIG_DIR": str(folder / "config"),
            "DVC_NO_ANALYTICS": "1",
            "OMP_NUM_THREADS": "1",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        self.env.pop("DVC_ROOT", None)
        if source is not None:
            folder.mkdir(parents=True, exist_ok=True)
            subprocess.run(["git", "clone", "-q", str(source), str(self.root)], check=True)

    def copy(self, folder: Path) -> "Clone":
        """Return a copy with data, models and caches, in which nothing needs to run."""
        copied = Clone(folder, source=None)
        shutil.copytree(self.root, copied.root, symlinks=True)
        return copied

    def run(self, *words: str, check: bool = True) -> str:
        """Return what a command says on both streams; it must end with 0 if ``check``."""
        done = self.ended(*words)
        if check and done.returncode:
            raise AssertionError(f"{' '.join(words)} ended with {done.returncode}:\n{done.stderr}")
        return done.stdout + done.stderr

    def ended(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Return how a command ended."""
        return subprocess.run(
            words, cwd=self.root, env=self.env, capture_output=True, text=True, check=False
        )

    def cordel(self, *words: str) -> str:
        """Return what the command ``cordel`` of this tree says."""
        code = "import sys; sys.path.insert(0, 'src'); from cordel.cli import main; main()"
        return self.run(sys.executable, "-c", code, *words)

    def commit(self, message: str) -> None:
        self.run("git", "add", "-A")
        self.run("git", *AUTHOR, "commit", "-q", "--allow-empty", "-m", message)

    def restore(self) -> None:
        """Take back what an experiment left in the workspace, as docs/experiments.md says."""
        self.run("git", "reset", "-q", "--hard")  # a killed experiment leaves changes staged
        self.run("dvc", "checkout", "-q")

    def add_remote(self, url: str, **options: str) -> None:
        """Set the default remote, with options of ``dvc remote modify``, for this clone only."""
        self.run("dvc", "remote", "add", "--local", "-d", "storage", url)
        for key, value in options.items():
            self.run("dvc", "remote", "modify", "--local", "storage", key, value)

    def at(self, revision: str, path: str) -> str:
        """Return a file as it is in a revision or in a DVC experiment."""
        refs = self.run("git", "for-each-ref", "--format=%(refname)", "refs/exps").split()
        ref = next((name for name in refs if name.endswith(f"/{revision}")), revision)
        return self.run("git", "show", f"{ref}:{path}")

    def lock(self) -> dict[str, Any]:
        """The lock's outs, but of what shows how long it took: what two runs must agree on."""
        stages = yaml.safe_load((self.root / "dvc.lock").read_text(encoding="utf-8"))["stages"]
        return {
            f"{name}: {out['path']}": out.get("md5")
            for name, stage in stages.items()
            for out in stage["outs"]
            if "ledger" not in out["path"]
            and out["path"] != "metrics/costs.json"
            and not out["path"].startswith(("reports/index", "data/cards"))
        }


def stages_run(output: str) -> set[str]:
    """Return the stages that DVC says it runs."""
    return {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")}


def smoke_project(folder: Path) -> Clone:
    """Return a reproduced clone on branch ``smoke``; branch ``sample`` is what was cloned."""
    made = Clone(folder)
    made.run("git", "branch", "sample")
    made.run("git", "switch", "-q", "-c", "smoke")
    made.cordel("profile", "smoke")
    made.run("dvc", "repro")
    made.commit("smoke")
    return made
