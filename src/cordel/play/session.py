"""What a page or a terminal asks for, and the events that answer it, one at a time."""

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from cordel.evaluation.sampling import Draw, SamplingParams
from cordel.play.voices import Entry, Prompt, Voice, Voices
from cordel.runtime.errors import InputError, UserError
from cordel.runtime.params import LARGEST, require

PROMPT_CHARS = 4_000
NEW_TOKENS = 400
SCORED_CHARS = 100_000
INCOMPLETE = "\ufffd"  # what a byte of a character decodes to while the others are missing

Event = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """A prompt for some models, and how they continue it. No models: all that are there."""

    text: str
    models: tuple[str, ...]
    instruction: bool
    temperature: float
    top_p: float
    seed: int
    max_new_tokens: int

    def __post_init__(self) -> None:
        """Check the limits."""
        require(self.text.strip() != "", "the prompt is empty; write the beginning of a text")
        check_length("the prompt", self.text, PROMPT_CHARS)
        require(
            0 <= self.temperature <= 5, f"temperature is {self.temperature}, expected 0 <= x <= 5"
        )
        require(0 < self.top_p <= 1, f"top_p is {self.top_p}, expected 0 < x <= 1")
        require(0 <= self.seed <= LARGEST, f"seed is {self.seed}, expected 0 to {LARGEST}")
        require(
            0 < self.max_new_tokens <= NEW_TOKENS,
            f"max_new_tokens is {self.max_new_tokens}, expected 1 to {NEW_TOKENS}",
        )

    def decoding(self, params: SamplingParams) -> SamplingParams:
        """Return the settings of params.yaml with those that were asked for.

        An answer may be as short as it likes, and repeat words of the question.
        """
        changed: dict[str, Any] = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_new_tokens": self.max_new_tokens,
        }
        if self.instruction:
            changed |= {"min_new_tokens": 0, "frequency_penalty": 0.0}
        return replace(params, **changed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """A text for some models to be scored. No models: all that are there."""

    text: str
    models: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check the limits."""
        require(self.text.strip() != "", "the text is empty; paste one")
        check_length("the text", self.text, SCORED_CHARS)


def check_length(what: str, text: str, limit: int) -> None:
    """Refuse a text of more characters, or of what is no text."""
    require(len(text) <= limit, f"{what} has {len(text):,} characters, expected at most {limit:,}")
    require("\0" not in text, f"{what} has a NUL in it, which no text has")


def continue_text(voices: Voices, asked: Continuation, params: SamplingParams) -> Iterator[Event]:
    """Yield the events of all models, which take turns token by token.

    Events have a ``type``: ``asked`` (the names, first), ``missing`` (with the command that makes
    the model), ``loading``, ``start`` (with the prompt as the model reads it), ``token`` (text and
    the probability that the model gave it), ``end``, ``error``; the last is ``done``.
    """
    entries = voices.chosen(asked.models)
    if asked.instruction:
        entries = [entry for entry in entries if entry.kind == "arm"]
        if not entries:
            raise InputError(
                "runs from scratch know no instructions; ask base, cpt, sft or cpt_sft"
            )
    yield {"type": "asked", "models": [entry.name for entry in entries]}
    turns: dict[str, Iterator[Event]] = {}
    try:
        for entry in entries:
            yield from _started(voices, entry, asked, params, turns)
        while turns:
            for name in list(turns):
                event = next(turns[name], None)
                if event is None:
                    del turns[name]
                else:
                    yield event
    finally:
        for turn in turns.values():
            turn.close()  # pyright: ignore[reportAttributeAccessIssue]
    yield {"type": "done"}


def score_text(voices: Voices, asked: Scoring) -> Iterator[Event]:
    """Yield a ``score`` for each model, or why there is none; the last event is ``done``."""
    entries = voices.chosen(asked.models)
    yield {"type": "asked", "models": [entry.name for entry in entries]}
    for entry in entries:
        if not entry.ready:
            yield missing(entry)
            continue
        if not voices.is_loaded(entry):
            yield {"type": "loading", "model": entry.name}
        try:
            score = voices.of(entry).score(asked.text)
        except UserError as error:
            yield failed(entry, error)
            continue
        yield {
            "type": "score",
            "model": entry.name,
            "bits_per_byte": score.likelihood.bits_per_byte,
            "bound": score.bound,
            "tokens": score.likelihood.tokens,
            "bytes": score.likelihood.bytes,
        }
    yield {"type": "done"}


def missing(entry: Entry) -> Event:
    """Say which command makes a model."""
    return {"type": "missing", "model": entry.name, "command": entry.command}


def failed(entry: Entry, error: UserError) -> Event:
    """Say why a model does not answer."""
    return {"type": "error", "model": entry.name, "message": " ".join(str(error).split())}


def _started(
    voices: Voices,
    entry: Entry,
    asked: Continuation,
    params: SamplingParams,
    turns: dict[str, Iterator[Event]],
) -> Iterator[Event]:
    """Load a model and add its turn, or say why not."""
    if not entry.ready:
        yield missing(entry)
        return
    if not voices.is_loaded(entry):
        yield {"type": "loading", "model": entry.name}
    try:
        voice = voices.of(entry)
        prompt = voice.prompt(asked.text, instruction=asked.instruction)
        found = voice.draws(prompt, asked.decoding(params), asked.seed)
    except UserError as error:
        yield failed(entry, error)
        return
    shown = "" if prompt.instruction else prompt.text  # an answer does not go on from its question
    yield {"type": "start", "model": entry.name, "prompt": shown}
    turns[entry.name] = _tokens(entry, voice, prompt, found, asked.max_new_tokens)


def _tokens(
    entry: Entry, voice: Voice, prompt: Prompt, found: Iterator[Draw], limit: int
) -> Iterator[Event]:
    """Yield a model's tokens; bytes that make one character together are one, and so is their p."""
    ids: list[int] = []
    shown, probability = "", 1.0
    with closing(found):  # pyright: ignore[reportArgumentType]
        for draw in found:
            ids.append(draw.id)
            probability *= draw.probability
            text = voice.text(prompt, ids)
            if text.endswith(INCOMPLETE) and len(ids) < limit:
                continue
            yield _token(entry, text[len(shown) :], probability)
            shown, probability = text, 1.0
        if (text := voice.text(prompt, ids)) != shown:
            yield _token(entry, text[len(shown) :], probability)
    why = "limit" if len(ids) >= limit else "end"
    yield {"type": "end", "model": entry.name, "why": why, "tokens": len(ids)}


def _token(entry: Entry, text: str, probability: float) -> Event:
    return {"type": "token", "model": entry.name, "text": text, "p": round(probability, 6)}


def with_whole_numbers(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a request's values with whole numbers where a page wrote 1 for 1.0."""
    floats = {
        key: float(values[key]) for key in ("temperature", "top_p") if type(values.get(key)) is int
    }
    return {**values, **floats}
