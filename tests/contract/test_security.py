"""What docs/security.md promises: no foreign code, no shell, no escape from a folder."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from audit.published import expected
from cordel.reporting import adaptation, results
from cordel.runtime.files import write_json, write_jsonl
from tests.contract.test_pipeline_contract import ROOT, STAGES

SOURCES = sorted(
    path for folder in ("src", "stages", "audit", ".ci") for path in (ROOT / folder).rglob("*.py")
)
SOURCES += sorted(path for path in (ROOT / ".ci").iterdir() if path.suffix == ".py")
CODE_LOADERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}
UNPACK = {"extract", "extractall", "unpack_archive", "read_pickle"}
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
PICKLED = (".pkl", ".pickle", ".pt", ".pth", ".bin.index", ".joblib", ".npy", ".npz", ".ckpt")


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Yield each call of a module with the dotted name of what is called."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def keywords(call: ast.Call) -> dict[str, Any]:
    """Return the keywords of a call whose values are constants."""
    return {
        k.arg: k.value.value for k in call.keywords if k.arg and isinstance(k.value, ast.Constant)
    }


def imports(path: Path) -> set[str]:
    """Return the packages that a module imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


every_source = pytest.mark.parametrize(
    "path", SOURCES, ids=[str(p.relative_to(ROOT)) for p in SOURCES]
)


@every_source
def test_nothing_is_unpickled_and_no_archive_unpacked(path: Path) -> None:
    assert not imports(path) & CODE_LOADERS
    for name, call in calls(path):
        assert name.rpartition(".")[2] not in UNPACK, name
        assert keywords(call).get("allow_pickle") is not True
        if name == "torch.load":
            assert keywords(call).get("weights_only") is True


@every_source
def test_no_code_of_the_hub_is_run_and_no_pickled_weights_are_read(path: Path) -> None:
    for name, call in calls(path):
        assert keywords(call).get("trust_remote_code", False) is False, name
        if name in ("AutoModelForCausalLM.from_pretrained", "auto.from_pretrained"):
            given = keywords(call)
            ours = given.get("local_files_only") is True  # what the line before has written
            assert given.get("use_safetensors") is True or ours, name


@every_source
def test_no_shell_and_no_code_from_text(path: Path) -> None:
    for name, call in calls(path):
        assert name not in SHELLS, name
        assert name not in ("eval", "exec", "compile", "__import__"), name
        assert keywords(call).get("shell", False) is False, name
        assert name not in ("yaml.unsafe_load", "yaml.full_load"), name
    assert not re.search(r"yaml\.C?(Unsafe|Full)?Loader\b", path.read_text("utf-8"))


def test_the_loader_of_params_makes_plain_values_only() -> None:
    from cordel.runtime.params import LOADER  # noqa: PLC0415

    assert LOADER in (yaml.SafeLoader, getattr(yaml, "CSafeLoader", None))


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_a_command_is_plain_words(stage: Any) -> None:
    # Committed values hold nothing that a shell would take otherwise than literally.
    assert all(re.fullmatch(r"[\w@./=,:-]+", word) for word in shlex.split(stage.cmd)), stage.cmd


def commands(value: Any) -> Iterator[str]:
    """Yield each ``cmd`` of dvc.yaml before DVC fills it in."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from [inner] if key == "cmd" else commands(inner)


COMMANDS = list(commands(yaml.safe_load((ROOT / "dvc.yaml").read_text("utf-8"))))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.split()[2])
def test_what_comes_from_params_stands_in_single_quotes(command: str) -> None:
    # DVC puts values of params.yaml into `cmd` as they are and gives it to a shell: a blank, `;` or
    # `$(...)` of a path or name is a part of that name, and not a command.
    assert "${" not in re.sub(r"(?<!\S)'[^'\s]*'(?!\S)", "", command)


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_no_out_is_a_pickle_or_outside_the_project(stage: Any) -> None:
    for out in stage.outs:
        assert not out.def_path.endswith(PICKLED), out.def_path
        assert not Path(out.def_path).is_absolute()
        assert ".." not in Path(out.def_path).parts


FILES = ["params.yaml", *(str(p.relative_to(ROOT)) for p in (ROOT / "profiles").glob("*.yaml"))]


@pytest.mark.parametrize("name", FILES)
def test_names_of_params_are_plain(name: str) -> None:
    params = yaml.safe_load((ROOT / name).read_text("utf-8"))
    for section in ("cleaning", "tokenizers", "datasets", "models", "base_models"):
        for key in params.get(section, {}):
            assert NAME.fullmatch(str(key)), key
    for group in params.get("seeds", {}).values():
        assert all(NAME.fullmatch(key) for key in group)


def test_the_audit_names_no_path_outside_its_folder() -> None:
    for name, digest in expected().items():
        assert not Path(name).is_absolute()
        assert ".." not in Path(name).parts
        assert re.fullmatch(r"[0-9a-f]{64}", digest)


@every_source
def test_the_audit_opens_no_pickle(path: Path) -> None:
    if path.is_relative_to(ROOT / "audit"):
        for name, call in calls(path):
            if name.rpartition(".")[2] in ("open", "read_bytes", "text", "json", "jsonl"):
                assert ".pkl" not in ast.unparse(call), name


HOSTILE = "```\n# título\n<script>alert(1)</script> | ![x](http://example.org/x.png) `a`"


def test_samples_cannot_leave_their_fence(tmp_path: Path) -> None:
    sample = {"seed": 1, "text": HOSTILE}
    write_json(tmp_path / "samples" / "v1.json", {"samples": [sample]})
    shown = results.samples_section(tmp_path, ["v1"])
    assert shown.count("```") == 2  # its own fence opens and closes, and nothing in between
    assert "alert(1)" in shown.split("```")[1]


def test_answers_cannot_leave_their_fence(tmp_path: Path) -> None:
    answer = {"answer": HOSTILE, "f1": 0.0, "rouge_l": 0.0, "too_long": False, "ended": True}
    row = {"task": "qa", "id": "a", "seed": 1, "instruction": HOSTILE, "input": HOSTILE}
    row |= {"reference": HOSTILE, "answers": {"base": answer}}
    write_jsonl(tmp_path / "answers.jsonl", [row])
    shown = adaptation.answers_shown(tmp_path)
    assert shown.count("```") == 2
    assert "alert(1)" in shown.split("```")[1]


def test_text_of_a_vocabulary_cannot_leave_its_cell(tmp_path: Path) -> None:
    counts = {"vocab_size": 9, "bytes_per_token": 1.0, "tokens_per_word": 1.0, "unknown_rate": 0.0}
    write_json(tmp_path / "metrics/tokenizers/a.json", counts | {"unwritable": "|<b>"})
    line = results.tokenizer_table(tmp_path).splitlines()[-1]
    assert len(re.findall(r"(?<!\\)\|", line)) == 8  # seven cells
    assert "`` \\|<b> ``" in line
