"""What a stage costs before it works, and what DVC costs around it: CPU seconds of fresh processes.

A stage's start-up is the import of its module and of what it imports late: torch's optimisers bring
``torch._dynamo`` when the first is made, transformers its model files when one is loaded. So where
there is such a thing the child also does it, on a Llama of 0.1 million parameters: it loads it in
NF4, puts an adapter on it and, where the stage trains, takes one step. What a child has loaded in
the end decides which target holds for its stage.

DVC is measured in generated projects of trivial stages. What one more stage costs is told from the
two largest, for a first run is more than linear: each stage rewrites the whole dvc.lock.
"""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.measure import Seconds, summary

HEAVY = ("torch", "transformers", "transformers.trainer", "peft", "bitsandbytes")
TARGETS = {"no torch": 1.0, "torch": 4.0, "torch, peft, bitsandbytes": 12.0}  # CPU seconds
LATE = {
    "adapt_cpt": "train",
    "adapt_sft": "train",
    "continue_documents": "load",
    "export_adapter": "load",
    "export_model": "load_plain",
    "generate_answers": "load",
    "sample_early": "make_optimizer",
    "score_adaptation": "load",
    "train_lm": "make_optimizer",
}  # what a child does besides importing the stage
FEW = ("clean_corpus", "train_lm", "adapt_sft")
ROOT = Path(__file__).resolve().parent.parent


def measure(*, quick: bool) -> dict[str, Any]:
    """Return the stages' start-up, and DVC's seconds a stage."""
    names = FEW if quick else [p.stem for p in sorted((ROOT / "stages").glob("[!_]*.py"))]
    with TemporaryDirectory() as folder:
        _save_tiny(Path(folder))
        started = _started(names, folder, rounds=1 if quick else 3)
    sizes = (5, 10) if quick else (10, 40, 80)
    return {
        "targets": TARGETS,
        "stages": started,
        "dvc": _dvc_overhead(sizes, rounds=1 if quick else 3),
        "this_project": _dvc_here(rounds=1 if quick else 3),
    }


def child(command: Sequence[str], cwd: Path, env: Mapping[str, str]) -> tuple[Seconds, str]:
    """Run a command and return what it and its children took, and its last line.

    Raises:
        RuntimeError: It failed.
    """
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(  # noqa: S603  (Python and what stands below)
        command, cwd=cwd, env=os.environ | env, capture_output=True, text=True, check=False
    )
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return Seconds(cpu, wall), (done.stdout.splitlines() or [""])[-1]


# --- stages ---------------------------------------------------------------------------------------


def _started(names: Sequence[str], folder: str, *, rounds: int) -> dict[str, Any]:
    took: dict[str, list[float]] = {name: [] for name in names}
    loads: dict[str, list[str]] = {}
    env = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}", "OMP_NUM_THREADS": "1"}
    for turn in range(-1 if rounds > 1 else 0, rounds):  # -1 writes bytecode, fills the page cache
        for name in names:
            code = f"import stages.{name}\n"
            if late := LATE.get(name):
                code += f"from benchmarks import stages as late\nlate.{late}({folder!r})\n"
            code += f"import sys; print(*[m for m in {HEAVY} if m in sys.modules])"
            seconds, line = child([sys.executable, "-c", code], ROOT, env)
            loads[name] = line.split()
            if turn >= 0:
                took[name].append(seconds.cpu)
    return {
        name: {"cpu": summary(took[name]), "loads": loads[name], "group": _group(loads[name])}
        for name in names
    }


def _group(loads: Sequence[str]) -> str:
    none, torch, adapters = TARGETS
    return adapters if "peft" in loads else torch if "torch" in loads else none


def _save_tiny(folder: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415  (not in each child)

    shape: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1}
    config = LlamaConfig(vocab_size=256, num_attention_heads=2, **shape)
    LlamaForCausalLM(config).save_pretrained(folder)


def make_optimizer(_: str) -> None:
    """Make an optimiser, as a stage that trains does."""
    import torch  # noqa: PLC0415  (in the child only)

    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], fused=True)


def load_plain(folder: str) -> None:
    """Load the tiny model as it is."""
    from transformers import AutoModelForCausalLM  # noqa: PLC0415  (in the child only)

    AutoModelForCausalLM.from_pretrained(folder)


def load(folder: str) -> Any:
    """Return the tiny model in NF4 with an adapter, as the stages load it."""
    from cordel.adaptation.quantised import (  # noqa: PLC0415  (in the child only)
        BaseModel,
        LoraParams,
        load_base,
        new_adapter,
    )
    from cordel.compute import ComputeParams, decide  # noqa: PLC0415

    base = BaseModel(
        source="local", model=folder, revision=None, weights="0" * 64, vocab_size=256, max_length=64
    )
    compute = decide(ComputeParams(device="cpu", threads=1, compile=False))
    lora = LoraParams(rank=4, alpha=4, dropout=0.0, targets=("q_proj",))
    return new_adapter(load_base(base, compute), lora)


def train(folder: str) -> None:
    """Take one step with the tiny model, as the stages take theirs."""
    from functools import partial  # noqa: PLC0415

    from transformers import TrainingArguments  # noqa: PLC0415  (in the child only)

    from cordel.adaptation.packing import Piece, collate, pack  # noqa: PLC0415
    from cordel.adaptation.qlora import BlockTrainer  # noqa: PLC0415
    from cordel.compute import ComputeParams, decide  # noqa: PLC0415

    arguments: dict[str, Any] = {"use_cpu": True, "report_to": "none", "disable_tqdm": True}
    arguments |= {"save_strategy": "no", "max_steps": 1, "remove_unused_columns": False}
    trainer = BlockTrainer(
        model=load(folder),
        args=TrainingArguments(output_dir=f"{folder}/out", **arguments),
        train_dataset=pack([Piece([1, 2, 3], [2, 3, 4])], 8),  # pyright: ignore  (a list is one)
        data_collator=partial(collate, pad=0),
        compute=decide(ComputeParams(device="cpu", threads=1, compile=False)),
        pad=0,
    )
    trainer.train()


# --- DVC ------------------------------------------------------------------------------------------

DVC = (sys.executable, "-m", "dvc")
FORMS = {
    "first run": ("repro", "-q"),
    "nothing to do": ("repro", "-q"),
    "status": ("status", "-q"),
}  # in this order


def _dvc_overhead(sizes: Sequence[int], *, rounds: int) -> dict[str, Any]:
    took: dict[str, dict[int, list[Seconds]]] = {f: {n: [] for n in sizes} for f in FORMS}
    for _ in range(rounds):
        for size in sizes:
            with TemporaryDirectory() as folder:
                env = {"DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": f"{folder}/site"}
                project = Path(folder, "project")
                _generate(project, size, env)
                for form, arguments in FORMS.items():
                    took[form][size].append(child([*DVC, *arguments], project, env)[0])
    return {form: _lines(by_size) for form, by_size in took.items()}


def _generate(project: Path, size: int, env: Mapping[str, str]) -> None:
    project.mkdir()
    (project / "in").write_text("in\n", encoding="utf-8")
    lines = ["stages:"]
    for number in range(size):
        lines += [f"  s{number}:", f"    cmd: echo {number} > out{number}"]
        lines += ["    deps: [in]", f"    outs: [out{number}]"]
    (project / "dvc.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for command in (["git", "init", "-q"], [*DVC, "init", "-q"]):
        child(command, project, env)


def _lines(by_size: Mapping[int, Sequence[Seconds]]) -> dict[str, Any]:
    """Return the seconds by number of stages, and what one more costs between the two largest."""
    found: dict[str, Any] = {}
    for clock in ("cpu", "wall"):
        values = {n: summary([getattr(s, clock) for s in each]) for n, each in by_size.items()}
        small, large = sorted(values)[-2:]
        more = (values[large]["median"] - values[small]["median"]) / (large - small)
        found[clock] = {str(n): value for n, value in values.items()}
        found[f"{clock}_per_stage"] = float(f"{more:.3g}")
    return found


def _dvc_here(*, rounds: int) -> dict[str, Any] | None:
    """Return what DVC takes in this checkout where nothing is stale; None where something is."""
    env = {"DVC_NO_ANALYTICS": "1"}
    try:
        child([*DVC, "status", "-q"], ROOT, env)
    except RuntimeError:
        return None
    found = {}
    for form in ("nothing to do", "status"):
        took = [child([*DVC, *FORMS[form]], ROOT, env)[0] for _ in range(rounds)]
        found[form] = {
            "cpu": summary([s.cpu for s in took]),
            "wall": summary([s.wall for s in took]),
        }
    return found
