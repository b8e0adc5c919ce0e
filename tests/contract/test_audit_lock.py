"""audit/dvc.lock is of the code that is committed: CI makes the audit anew and compares."""

from hashlib import md5
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
AUDIT = ROOT / "audit"


def test_the_audit_was_made_by_the_code_that_is_here() -> None:
    stages = yaml.safe_load((AUDIT / "dvc.lock").read_text("utf-8"))["stages"]
    deps = {dep["path"]: dep["md5"] for stage in stages.values() for dep in stage["deps"]}
    files = {path: AUDIT / path for path in deps if not path.startswith("published")}
    assert len([path for path in files if path.endswith(".py")]) > 10
    stale = [
        path
        for path, file in files.items()
        if md5(file.read_bytes(), usedforsecurity=False).hexdigest() != deps[path]
    ]
    assert stale == [], "run `make audit PUBLISHED=<folder>` and commit audit/dvc.lock"
