"""Find the published artifacts by SHA-256 and lay them where the audit's stages read them.

They may lie anywhere under PUBLISHED, under any name: a clone of the thesis' repository will do.
The copies in audit/published bear the paths of that repository, so results do not depend on where
they were found. What is missing is listed; the checks that need it then say so.
"""

import argparse
import logging
import os
import shutil
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from audit.published import expected
from cordel.runtime.console import progress, run_stage
from cordel.runtime.errors import InputError
from cordel.runtime.files import new_directory

log = logging.getLogger(Path(__file__).stem)
SKIPPED = {".git", ".dvc", ".venv", "node_modules", "__pycache__"}
LARGEST = (
    16 * 2**20
)  # bytes; the largest artifact has 3.1 MB, a corpus beside it may have gigabytes


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the files that could be an artifact, in a fixed order."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in SKIPPED)
        for name in sorted(names):
            path = Path(parent, name)
            if path.is_file() and path.stat().st_size <= LARGEST:
                yield path


def find(folder: Path, table: dict[str, str]) -> dict[str, Path]:
    """Return where each artifact of ``table`` lies under ``folder``: the first of equal files.

    Raises:
        InputError: ``folder`` is no folder, or holds none of them.
    """
    if not folder.is_dir():
        raise InputError(f"PUBLISHED is {folder}, which is no folder; give it the published files")
    wanted = set(table.values())
    by_hash: dict[str, Path] = {}
    for path in progress(files_below(folder), label="hashed", unit="files"):
        digest = sha256(path.read_bytes()).hexdigest()
        if digest in wanted:
            by_hash.setdefault(digest, path)
    if not by_hash:
        raise InputError(
            f"{folder}: none of the {len(table)} artifacts of audit/artifacts.yaml is below it; "
            "a clone of cristovamperes/llm-ptbr-from-scratch-vs-qlora at dcfba60 has them"
        )
    return {name: by_hash[digest] for name, digest in table.items() if digest in by_hash}


def main() -> None:
    """Fill the folder of copies and list what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("published", type=Path, metavar="PUBLISHED")
    parser.add_argument("--out", type=Path, default=Path("audit/published"))
    args = parser.parse_args()
    table = expected()
    found = find(args.published, table)
    with new_directory(args.out) as out:
        for name, path in found.items():
            target = out / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    log.info("%d of %d artifacts found under %s", len(found), len(table), args.published)
    for name in sorted(table.keys() - found.keys()):
        log.info("missing: %s", name)


if __name__ == "__main__":
    run_stage(main)
