"""The audit: what the thesis published, recomputed from its own artifacts.

A pipeline of its own (``audit/dvc.yaml``), never part of ``dvc repro`` at the root. Run it with
``make audit PUBLISHED=<folder>``; read ``audit/report.md``. Like a stage, it imports ``cordel``
from the tree that it stands in.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))
