"""One thin command per stage: arguments to library to files.

A stage imports ``cordel`` from the tree that it runs in. Queued and temporary experiments run in a
clone of their own; through an installed (editable) package they would run another tree's code.
Nothing phones home: the hub's libraries are told so before any of them is imported.
"""

import logging
import os
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# It would rather fetch kernels from the hub, and says so at each start.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
# Of transformers' and peft's own calls: nothing that a user of a stage could mend.
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
warnings.filterwarnings("ignore", message="Setting `save_embedding_layers` to `True`")
