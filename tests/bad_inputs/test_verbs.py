"""The command ``cordel`` and the audit's, with arguments and files that are none."""

from typing import Any

import pytest
import yaml

from audit import check_answers, check_figures, check_guardrails, check_samples, collect
from cordel import cli
from tests.bad_inputs.harness import Project
from tests.bad_inputs.toy import COMMANDS, main_of, toy_params

pytestmark = pytest.mark.slow
SYNTAX = [
    "",
    "nada",
    "profile",
    "profile smoke thesis",
    "estimate agora",
    "estimate --gpu X",
    "estimate --tflops 3",
    "estimate --gpu X --tflops um",
    "estimate --gpu X --tflops -1",
    "estimate --gpu X --tflops 0",
    "estimate --gpu X --tflops nan",
    "estimate --gpu X --tflops inf",
    "compare",
    "compare main",
    "compare a b c",
    "compare a b --rev main",
    "seeds v7",
    "seeds v7 x",
    "seeds v7 1.5",
    "seeds --remove",
    "seeds v7 43 --remove v7-43",
    "play --text",
    "play --text Era --score in",
    "play --instruction",
    "play --text Era --temperature um",
    "play agora",
    "publish-results",
    "publish",
    "publish v7 --yes",
    "publish v7 sft",
    "results agora",
    "guardrails",
    "guardrails --text in --out a.md",
]
MISTAKES = [
    *(f"profile {name}" for name in ("nada", "sample", "../params", "a;b", "smoke/..", "-x.yaml")),
    *(f"compare {a} workspace" for a in ("nada", "HEAD~999", "v7;rm", "a..b", "@{9}")),
    *("compare --models nada v7", "compare --models v1 nada", "compare --models v1 v7 --rev nada"),
    *("compare workspace workspace --results nada", "compare --models a b --results params.yaml"),
    *("seeds nada 43", "seeds v7 42", "seeds v7 43 43", "seeds v7 -- -1", "seeds ../v7 43"),
    *("seeds --remove nada", "seeds --remove v7-43", f"seeds v7 {10**30}"),
    *("play --text Era --models nada", "play --text Era --models v5_main", "play --score nada"),
    *("play --text Era --temperature -1", "play --text Era --temperature nan"),
    *("play --text Era --top-p 0", "play --text Era --seed -1", "play --text Era --tokens 0"),
    *("play --text Era --models v1 --instruction", "play --score data/splits.parquet"),
    *("play --port 99999999", "play --port -1", "play --score in --models nada"),
    *("publish nada", "publish ../v7", "publish v7 --to v7", "publish v7 --to a/b/c"),
    *("publish sft --base ../x --to maria/sft", "publish v7 --base maria/v7"),
    *("publish-results nada", "publish-results ../x", "publish-results smoke", "results"),
    *(
        f"guardrails --tokenizer {model} --text {text} --out a.md"
        for model in ("nada", "params.yaml", "data/splits.parquet", "data")
        for text in ("nada", "in")
    ),
    "guardrails --tokenizer data/tokenizers/unigram_v7/tokenizer.model --text nada --out a.md",
    "guardrails --tokenizer data/tokenizers/unigram_v7/tokenizer.model --text params.yaml --out a",
]


@pytest.mark.parametrize("words", SYNTAX)
def test_a_command_line_that_is_none_is_refused(toy: Project, words: str) -> None:
    found = toy.refuses(cli.main, ["cordel", *words.split()], verb=True)
    assert found.code == 2


@pytest.mark.parametrize("words", MISTAKES)
def test_a_verb_says_what_is_wrong(toy: Project, words: str) -> None:
    found = toy.refuses(cli.main, ["cordel", *words.split()], verb=True)
    assert found.code in (1, 2)


OVERLAYS = {
    "empty folder": None,
    "not YAML": b"a: [",
    "not UTF-8": b"corpus: {path: \xff}",
    "a list": b"- corpus",
    "text": b"corpus",
    "unknown section": b"nada: {a: 1}",
    "unknown key": b"corpus: {nada: 1}",
    "a value for a section": b"corpus: 7",
    "null for a section": b"corpus:",
    "a section for a value": b"corpus: {seed: {a: 1}}",
    "a key twice": b"corpus: {seed: 1, seed: 2}",
    "python objects": b"corpus: !!python/object/apply:os.system ['touch pwned']",
}


@pytest.mark.parametrize("case", OVERLAYS)
def test_an_overlay_that_is_none_is_refused(toy: Project, case: str) -> None:
    content = OVERLAYS[case]
    with toy.changed("profiles/meu.yaml", content, folder=content is None):
        toy.refuses(cli.main, ["cordel", "profile", "meu"], "meu.yaml", verb=True)


def further(**values: Any) -> dict[str, Any]:
    entry = {"run": "v7", "seed": 43, "dataset": "v7_lossless", "architecture": "llama"}
    return {"models": {"v7-43": entry | values}, "sft": {}}


SEEDS = [
    *(further(seed=seed) for seed in (-1, 42, "43", 1.5, None, 2**32, [43])),
    *(further(run=run) for run in ("v1", "nada", 7, None)),
    *(further(dataset="nada"), further(architecture="rnn"), further(nada=1)),
    *({"models": {"v7-44": further()["models"]["v7-43"]}, "sft": {}}, {"models": {}}),
    *(
        {"models": {}, "sft": {"sft-43": {"arm": "sft", "seed": seed, "start": "x"}}}
        for seed in (-1, 43)
    ),
    *({"models": {"v7-43": None}, "sft": {}}, {"models": [], "sft": {}}),
]


@pytest.mark.parametrize("section", SEEDS)
def test_seeds_written_by_hand_are_checked(toy: Project, section: dict[str, Any]) -> None:
    params = yaml.safe_dump(toy_params() | {"seeds": section}).encode()
    with toy.changed("params.yaml", params):
        toy.refuses(cli.main, ["cordel", "seeds"], "seeds", "no run", verb=True)


@pytest.mark.parametrize("seed", ["-1", "x", "1.5", "4294967296", "", "٤٣x"])
@pytest.mark.parametrize("stage", ["train_lm", "adapt_sft"])
def test_a_seed_of_the_command_line_is_checked(toy: Project, stage: str, seed: str) -> None:
    words = next(c for c in COMMANDS if c.startswith(stage)).split()
    toy.refuses(main_of(stage), [*words, f"--seed={seed}"], "seed")


@pytest.mark.parametrize("stage", list(dict.fromkeys(c.split()[0] for c in COMMANDS)))
def test_a_stage_without_arguments_or_with_unknown_ones_shows_its_usage(
    toy: Project, stage: str
) -> None:
    command = next(c for c in COMMANDS if c.startswith(f"{stage} ")).split()
    for words in ([stage], [*command, "--nada"], [stage, "nada", *command[1:]]):
        assert toy.refuses(main_of(stage), words).code == 2


@pytest.mark.parametrize("name", ["nada", "params.yaml", "data", "", "/dev/null"])
def test_the_audit_collects_from_a_folder_with_the_files(toy: Project, name: str) -> None:
    words = ["collect", name, "--out", "published"]
    toy.refuses(collect.main, words, name or "artifacts")


@pytest.mark.parametrize("check", [check_answers, check_figures, check_guardrails, check_samples])
def test_a_check_of_the_audit_wants_its_arguments(toy: Project, check: Any) -> None:
    assert toy.refuses(check.main, ["check"]).code == 2
