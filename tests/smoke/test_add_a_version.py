"""docs/add-a-version.md, done as it stands there: a new architecture becomes v8."""

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.clones import Clone, stages_run

pytestmark = pytest.mark.minutes

TUTORIAL = (Path(__file__).parents[2] / "docs/add-a-version.md").read_text("utf-8")


def block(language: str, begins: str) -> str:
    """Return the one code block of the tutorial that begins so, without its indentation."""
    blocks = re.findall(rf"(?ms)^( *)```{language}\n(.*?)^ *```$", TUTORIAL)
    texts = [re.sub(rf"(?m)^{indent}", "", text) for indent, text in blocks]
    [found] = [text for text in texts if text.lstrip().startswith(begins)]
    return found


@pytest.fixture(scope="module")
def clone(smoke: Clone, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """Return a reproduced clone with the tutorial's files, not run yet."""
    made = smoke.copy(tmp_path_factory.mktemp("v8"))
    made.cordel("add-run", "v8", "--like", "v7")
    (made.root / "src/cordel/models/conv.py").write_text(block("python", '"""v8'), "utf-8")
    sizing = made.root / "src/cordel/sizing.py"
    text = sizing.read_text("utf-8")
    text = text.replace(
        "SIZES = {", block("python", "def _conv_sizes") + '\n\nSIZES = {"conv": _conv_sizes, '
    )
    sizing.write_text(text, "utf-8")
    params = made.root / "params.yaml"
    before, _, after = params.read_text("utf-8").partition("  v8:")
    after = after.replace("architecture: llama", "architecture: conv", 1)
    shape = re.compile(r"    model:\n(?:      .*\n)+")
    after = shape.sub(
        lambda _: "    " + block("yaml", "model:").strip().replace("\n", "\n    ") + "\n",
        after,
        count=1,
    )
    start = re.compile(r"( *bigram_start:)\n(?: {8}.*\n)+")
    after = start.sub(r"\1 null\n", after, count=1)
    params.write_text(f"{before}  v8:{after}", "utf-8")
    return made


def test_v8_is_estimated_trained_and_ranked_and_no_other_run_is_trained(clone: Clone) -> None:
    assert "train_lm@v8" in clone.cordel("estimate")
    ran = stages_run(clone.run("dvc", "repro"))
    joins = {"rank_lm", "check_samples", "check_leakage", "account_costs"}
    joins |= {"write_cards", "render_report"}
    assert ran == {f"{stage}@v8" for stage in ("train_lm", "score_lm", "sample_lm")} | joins
    scores = json.loads((clone.root / "metrics/leaderboard.json").read_text("utf-8"))
    assert 1 < scores["v8"]["bits_per_byte"] < 8
    costs = json.loads((clone.root / "metrics/costs.json").read_text("utf-8"))
    assert costs["stages"]["train_lm@v8"]["utilisation"] is not None
    assert json.loads((clone.root / "metrics/guardrails/v8.json").read_text("utf-8"))["per_sample"]
    said = clone.cordel("compare", "--models", "v7", "v8")
    assert "bits per byte" in said


def test_its_parameters_are_counted_as_they_are(clone: Clone) -> None:
    code = (
        "import sys, json; sys.path.insert(0, 'src')\n"
        "from cordel.sizing import sizes\n"
        "c = json.load(open('data/models/v8/config.json'))\n"
        "s = sizes(c['architecture'], c['model'], vocab_size=c['vocab_size'], context_length=0)\n"
        "print(s.parameters)"
    )
    score = json.loads((clone.root / "metrics/lm/v8.json").read_text("utf-8"))
    assert int(clone.run("python", "-c", code)) == score["parameters"]


def test_a_run_that_is_removed_is_ranked_no_more(clone: Clone) -> None:
    clone.cordel("remove-run", "v8")
    assert "v8" not in yaml.safe_load((clone.root / "params.yaml").read_text("utf-8"))["models"]
    ran = stages_run(clone.run("dvc", "repro"))
    assert not [name for name in ran if "@" in name]
    assert "v8" not in json.loads((clone.root / "metrics/leaderboard.json").read_text("utf-8"))
