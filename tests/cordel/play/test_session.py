"""What is asked of models, on a toy project: the same ids and scores as the pipeline's own."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cordel.compute import ComputeParams, decide
from cordel.corpus.documents import read_documents
from cordel.evaluation.likelihood import total
from cordel.evaluation.sampling import Draw, SamplingParams
from cordel.play.session import Continuation, Scoring, continue_text, score_text
from cordel.play.terminal import print_continuations, print_scores, printable
from cordel.play.voices import Entry, Prompt, Voices, until, without_end
from cordel.runtime.errors import ArtifactError, InputError
from cordel.runtime.params import read_params

RUNS = pytest.mark.parametrize("name", ["v1", "v7"])


@pytest.fixture(scope="module")
def voices() -> Voices:
    """Return the models of the toy project, which stay loaded."""
    return Voices(decide(ComputeParams(device="cpu", threads=1, compile=False)))


def asked(**changes: Any) -> Continuation:
    """Return a request, with some of it changed."""
    values: dict[str, Any] = {"text": "O Brasil", "models": ("v1",), "instruction": False}
    values |= {"temperature": 0.85, "top_p": 0.95, "seed": 7, "max_new_tokens": 5}
    return Continuation(**(values | changes))


def sampling() -> SamplingParams:
    return read_params("sampling", SamplingParams)


def read(path: str) -> Any:
    return json.loads(Path(path).read_text("utf-8"))


# --- The same as the pipeline ---------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("here")
@RUNS
def test_ids_are_those_of_sample_lm(name: str, voices: Voices) -> None:
    params, (entry,) = sampling(), voices.chosen([name])
    voice = voices.of(entry)
    expected = read(f"data/samples/{name}.json")["samples"]
    prompts = [voice.prompt(prompt.text, instruction=False) for prompt in params.prompts]
    found = [
        [draw.id for draw in voice.draws(prompt, params, asked.seed)]
        for prompt, asked in zip(prompts, params.prompts, strict=True)
    ]
    assert found == [sample["ids"] for sample in expected]
    assert [prompt.text for prompt in prompts] == [sample["prompt"] for sample in expected]


@pytest.mark.slow
@pytest.mark.usefixtures("here")
@RUNS
def test_events_carry_the_text_of_the_sample(name: str, voices: Voices) -> None:
    params = sampling()
    prompt, sample = params.prompts[1], read(f"data/samples/{name}.json")["samples"][1]
    settings = {"temperature": params.temperature, "top_p": params.top_p, "seed": prompt.seed}
    request = asked(text=prompt.text, models=(name,), max_new_tokens=12, **settings)
    events = list(continue_text(voices, request, params))
    text = "".join(event["text"] for event in events if event["type"] == "token")
    assert text.strip() == sample["text"].strip()
    assert [event["type"] for event in events if event["type"] != "token"][-2:] == ["end", "done"]
    assert all(0 < event["p"] <= 1 for event in events if event["type"] == "token")


@pytest.mark.slow
@pytest.mark.usefixtures("here")
@RUNS
def test_bits_per_byte_are_those_of_score_lm(name: str, voices: Voices) -> None:
    (entry,) = voices.chosen([name])
    texts = [d.text for d in read_documents(Path("data/clean/lossless/test.parquet"), limit=4)]
    scores = [voices.of(entry).score(text) for text in texts]
    expected = read(f"metrics/lm/{name}.json")
    common = total([score.likelihood for score in scores])
    assert common.bits_per_byte == pytest.approx(expected["bits_per_byte"], abs=1e-6)
    assert common.unk_bytes == expected["unk_bytes"]
    assert any(score.bound for score in scores) is not expected["lossless"]


@pytest.mark.slow
@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", ["base", "cpt"])
def test_an_arm_answers_as_in_generate_answers(name: str, voices: Voices) -> None:
    (entry,) = voices.chosen([name])
    voice = voices.of(entry)
    rows = map(json.loads, Path(f"data/answers/{name}.jsonl").read_text("utf-8").splitlines())
    kept = [row for row in rows if row["arm"] == name]
    greedy = replace(sampling(), temperature=0.0, min_new_tokens=0, max_new_tokens=2)
    for row in kept:
        prompt = voice.prompt(row["prompt"], instruction=True)
        ids = [draw.id for draw in voice.draws(prompt, greedy, 0)]
        assert voice.text(prompt, ids).strip() == row["answer"]
    assert len(kept) == 6


@pytest.mark.slow
@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("text", "bounds"),
    [("era uma vez", {"v1": False, "v7": False}), ("Em 1994", {"v1": True, "v7": False})],
)
def test_a_bound_is_marked_where_something_of_this_text_is_erased(
    text: str, bounds: dict[str, bool], voices: Voices
) -> None:
    events = score_text(voices, Scoring(text=text, models=("v1", "v7")))
    assert {e["model"]: e["bound"] for e in events if e["type"] == "score"} == bounds


# --- What is not there ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("name", "command"),
    [("v5_main", "dvc repro train_lm@v5_main"), ("sft", "dvc repro adapt_sft@sft")],
)
def test_a_missing_model_is_named_with_its_command(name: str, command: str, voices: Voices) -> None:
    request = asked(models=(name, "v7"), max_new_tokens=1)
    events = list(continue_text(voices, request, sampling()))
    assert {"type": "missing", "model": name, "command": command} in events
    assert {e["model"] for e in events if e["type"] == "token"} == {"v7"}


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_no_instruct_model_is_offered_where_none_is_configured(voices: Voices) -> None:
    found = {entry.name: entry.ready for entry in voices.entries()}
    assert found == {"v1": True, "v7": True, "v5_main": False, "base": True, "cpt": True} | {
        "sft": False,
        "cpt_sft": False,
    }


@pytest.mark.slow
@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"models": ("v9",)},
            r"no model 'v9'; there are: v1, v5_main, v7, base, cpt, sft, cpt_sft",
        ),
        ({"models": ("v1",), "instruction": True}, r"runs from scratch know no instructions"),
    ],
)
def test_what_cannot_be_asked_is_refused_first(
    changes: dict[str, Any], message: str, voices: Voices
) -> None:
    with pytest.raises(InputError, match=message):
        next(continue_text(voices, asked(**changes), sampling()))


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_a_message_that_does_not_fit_is_not_cut(voices: Voices) -> None:
    request = asked(text="palavra " * 400, models=("base",), instruction=True)
    (error,) = [e for e in continue_text(voices, request, sampling()) if e["type"] == "error"]
    assert "the model has room for" in error["message"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": " \n"}, "the prompt is empty"),
        ({"text": "a" * 4001}, "the prompt has 4,001 characters, expected at most 4,000"),
        ({"text": "a\0"}, "has a NUL in it"),
        ({"temperature": -0.1}, "temperature is -0.1, expected 0 <= x <= 5"),
        ({"top_p": 0.0}, "top_p is 0.0, expected 0 < x <= 1"),
        ({"seed": 2**32}, "seed is 4294967296"),
        ({"max_new_tokens": 401}, "max_new_tokens is 401, expected 1 to 400"),
        ({"temperature": float("nan")}, "temperature is nan"),
    ],
)
def test_limits_are_told(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        asked(**changes)


# --- Tokens, with models of a few lines -----------------------------------------------------------


def drawn(*ids: int) -> Iterator[Draw]:
    """Yield ids that had probability one half each."""
    for index in ids:
        yield Draw(index, np.where(np.arange(9) == index, 0.0, -np.log(8.0)))


@pytest.mark.parametrize(
    ("ids", "end", "expected"),
    [
        ((1, 2, 3), (3,), [1, 2]),
        ((1, 2), (3,), [1, 2]),
        ((1, 7, 8), (7, 8), [1]),
        ((7, 1, 7, 7, 8), (7, 8), [7, 1, 7]),
        ((1, 7), (7, 8), [1, 7]),  # half of the end, at the limit
        ((1, 2), (), [1, 2]),
    ],
)
def test_the_end_is_left_out(ids: tuple[int, ...], end: Sequence[int], expected: list[int]) -> None:
    assert [draw.id for draw in without_end(drawn(*ids), end)] == expected


def test_an_answer_ends_at_the_first_of_its_stops() -> None:
    assert [draw.id for draw in until(drawn(1, 5, 3, 1), (3, 5))] == [1]


class Bytes:
    """Writes bytes: 1 and 2 are the two of "ã", 3 is "a", 4 can begin no character."""

    values = (b"", b"\xc3", b"\xa3", b"a", b"\xff")

    def __init__(self, *ids: int) -> None:
        """Take what it draws."""
        self.ids = ids

    def prompt(self, text: str, *, instruction: bool) -> Prompt:
        """Return the text without ids."""
        return Prompt(text=text, ids=[], instruction=instruction)

    def draws(self, *_: Any) -> Iterator[Draw]:
        """Yield its ids."""
        return drawn(*self.ids)

    def text(self, _: Prompt, ids: Sequence[int]) -> str:
        """Return the text of its bytes."""
        return b"".join(self.values[i] for i in ids).decode(errors="replace")


class Fixed:
    """Models that are given, all of them loaded."""

    def __init__(self, **models: Any) -> None:
        """Take them by name."""
        self.models = models

    def chosen(self, names: Sequence[str]) -> list[Entry]:
        """Return their entries."""
        kind: Any = "run"
        return [Entry(name=n, kind=kind, command="", ready=True) for n in names or self.models]

    def is_loaded(self, _: Entry) -> bool:
        """Return yes."""
        return True

    def of(self, entry: Entry) -> Any:
        """Return one."""
        found = self.models[entry.name]
        if isinstance(found, Exception):
            raise found
        return found


PARAMS: Any = SamplingParams(
    prompts=(Prompt,),  # pyright: ignore[reportArgumentType]
    samples_per_prompt=1,
    max_new_tokens=9,
    min_new_tokens=0,
    temperature=1.0,
    top_k=0,
    top_p=1.0,
    frequency_penalty=0.0,
)


@pytest.mark.parametrize(
    ("ids", "limit", "expected"),
    [
        ((3, 1, 2, 3), 9, [("a", 0.5), ("ã", 0.25), ("a", 0.5)]),
        ((4, 3), 9, [("\ufffda", 0.25)]),
        ((3, 1), 2, [("a", 0.5), ("\ufffd", 0.5)]),  # cut in a character, and said so
        ((3, 1), 9, [("a", 0.5), ("\ufffd", 0.5)]),
    ],
)
def test_bytes_of_one_character_are_one_token(
    ids: tuple[int, ...], limit: int, expected: list[tuple[str, float]]
) -> None:
    voices: Any = Fixed(v1=Bytes(*ids))
    events = continue_text(voices, asked(max_new_tokens=limit), PARAMS)
    assert [(e["text"], e["p"]) for e in events if e["type"] == "token"] == expected


def test_models_take_turns() -> None:
    voices: Any = Fixed(v1=Bytes(3, 3, 3), v7=Bytes(3))
    events = list(continue_text(voices, asked(models=()), PARAMS))
    order = [e["model"] for e in events if e["type"] == "token"]
    assert order == ["v1", "v7", "v1", "v1"]
    assert events[0] == {"type": "asked", "models": ["v1", "v7"]}


def test_a_model_that_fails_stops_no_other() -> None:
    voices: Any = Fixed(v1=ArtifactError("data/models/v1: broken; rerun train_lm"), v7=Bytes(3))
    events = list(continue_text(voices, asked(models=()), PARAMS))
    (error,) = [e for e in events if e["type"] == "error"]
    assert error == {
        "type": "error",
        "model": "v1",
        "message": "data/models/v1: broken; rerun train_lm",
    }
    assert [e["model"] for e in events if e["type"] == "token"] == ["v7"]


# --- The terminal ---------------------------------------------------------------------------------


def test_a_terminal_shows_each_continuation(capsys: pytest.CaptureFixture[str]) -> None:
    voices: Any = Fixed(v1=Bytes(3, 1, 2), v7=Bytes(3))
    events = continue_text(voices, asked(text="Era", models=(), max_new_tokens=3), PARAMS)
    assert print_continuations(events) == 2
    assert capsys.readouterr().out == "== v7\nEraa\n\n== v1\nEraaã …\n\n"


def test_a_terminal_names_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    gone = {"type": "missing", "model": "v2", "command": "dvc repro train_lm@v2"}
    score = {"type": "score", "bits_per_byte": 2.5, "tokens": 1000, "bytes": 4000}
    scores = [score | {"model": "v1", "bound": True}, score | {"model": "v7", "bound": False}]
    scores[1]["bits_per_byte"] = 1.5
    assert print_scores(iter([gone, *scores])) == 2
    captured = capsys.readouterr()
    assert captured.err == "v2: not here yet; dvc repro train_lm@v2\n"
    lines = captured.out.splitlines()
    best = " ".join(lines[0].split())
    assert best == "v7 1.500 bits per byte (1,000 tokens, 4,000 bytes)"
    assert lines[1].split()[:3] == ["v1", "≥", "2.500"]
    assert lines[2].startswith("≥: a lower bound")


def test_no_text_of_a_model_moves_the_cursor() -> None:
    assert printable("a\x1b[2J\r\u202eã\nb") == "a\ufffd[2J\ufffd\ufffdã\nb"
