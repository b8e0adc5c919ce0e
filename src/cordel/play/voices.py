"""Every model of the project behind one interface: what it draws, and what a text costs it.

Nothing is computed here that the pipeline does not: ids come from ``evaluation.sampling``, scores
from ``evaluation.scoring``. Models are loaded when they are first asked, and stay.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from cordel.checkpoints import load_model
from cordel.compute import Compute
from cordel.corpus.documents import Document
from cordel.corpus.normalisation import Normalisation, normalise
from cordel.evaluation.likelihood import Likelihood
from cordel.evaluation.sampling import Draw, SamplingParams, draws
from cordel.evaluation.scoring import score_documents
from cordel.runtime.errors import ArtifactError, InputError
from cordel.runtime.files import read_json
from cordel.runtime.params import read_section
from cordel.tokenizers.saved import load_tokenizer
from cordel.tokens import Encoded, read_meta

# Arms by the base that they stand on, each with the stage that makes it.
ARMS = {
    "base": {
        "base": "open_base@base",
        "cpt": "adapt_cpt",
        "sft": "adapt_sft@sft",
        "cpt_sft": "adapt_sft@cpt_sft",
    },
    "instruct": {"instruct": "open_base@instruct", "instruct_sft": "adapt_sft@instruct_sft"},
}
ONE = 1  # document at once: there is one


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A model that the project has or could have."""

    name: str
    kind: Literal["run", "arm"]
    command: str  # that makes it
    ready: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a text cost a model."""

    likelihood: Likelihood
    bound: bool  # its normalisation erased something of this text, from which it is excused


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A prompt as a model reads it."""

    text: str  # as it is shown: the model's own normalisation of it
    ids: list[int]
    instruction: bool


class Voice(Protocol):
    """One loaded model."""

    def prompt(self, text: str, *, instruction: bool) -> Prompt:
        """Return the prompt as ids."""
        ...

    def draws(self, prompt: Prompt, params: SamplingParams, seed: int) -> Iterator[Draw]:
        """Yield what follows the prompt, id by id, its end left out."""
        ...

    def text(self, prompt: Prompt, ids: Sequence[int]) -> str:
        """Return the text of drawn ids, as it follows the prompt."""
        ...

    def score(self, text: str) -> Score:
        """Return what the text costs, on the protocol of ``score_lm`` and ``score_adaptation``."""
        ...


class RunVoice:
    """A run from scratch."""

    def __init__(self, name: str, tokens: Path, compute: Compute) -> None:
        """Load its weights, and the tokenizer that ``tokens`` holds.

        Raises:
            ArtifactError: They are missing, broken, or do not belong together.
        """
        folder = Path("data/models", name)
        meta = read_meta(tokens)
        model, config = load_model(folder)
        if config.tokenizer_sha256 != meta.tokenizer_sha256:
            raise ArtifactError(
                f"{folder}: trained with another tokenizer than {tokens}; run dvc repro"
            )
        self.compute, self.model = compute, model.to(compute.device)
        self.rules = Normalisation(**meta.normalisation)
        self.tokenizer = load_tokenizer(tokens / "tokenizer")

    def prompt(self, text: str, *, instruction: bool) -> Prompt:
        """Return the prompt under the run's own normalisation; it knows no instructions."""
        own = normalise(text, self.rules)
        ids = [*self.tokenizer.context, *self.tokenizer.encode(own)]
        return Prompt(text=own, ids=ids, instruction=instruction)

    def draws(self, prompt: Prompt, params: SamplingParams, seed: int) -> Iterator[Draw]:
        """Yield what ``sample_lm`` would draw."""
        return without_end(
            draws(
                self.model,
                prompt.ids,
                params,
                seed=seed,
                end=self.tokenizer.end,
                banned=self.tokenizer.undrawable,
                compute=self.compute,
            ),
            self.tokenizer.end,
        )

    def text(self, prompt: Prompt, ids: Sequence[int]) -> str:
        """Return the text after the prompt, with the space that may stand between."""
        before = prompt.ids[len(self.tokenizer.context) :]
        return self.tokenizer.decode([*before, *ids])[len(self.tokenizer.decode(before)) :]

    def score(self, text: str) -> Score:
        """Score f(text), to which the bytes of the text itself are charged."""
        own, tokenizer = normalise(text, self.rules), self.tokenizer
        ids = tokenizer.encode(own)
        document = Encoded(
            id="",
            ids=[*tokenizer.begin, *ids, *tokenizer.end],
            bytes=len(text.encode()),
            unknown_bytes=tokenizer.unknown_bytes(own),
        )
        (likelihood,) = score_documents(
            self.model,
            [document],
            context=tokenizer.context,
            begin=tokenizer.begin,
            batch_size=ONE,
            compute=self.compute,
        )
        return Score(likelihood=likelihood, bound=tokenizer.decode(ids) != text)


class ArmVoice:
    """An arm of track 2: the base in NF4, alone or with one of its adapters."""

    def __init__(self, name: str | None, model: Any, chat: Any, max_length: int, compute: Compute):
        """Take the loaded base; ``name`` is the adapter's, or None."""
        self.name, self.model, self.chat = name, model, chat
        self.max_length, self.compute = max_length, compute

    def prompt(self, text: str, *, instruction: bool) -> Prompt:
        """Return a message in the base's chat format, or the beginning of a document."""
        if instruction:
            return Prompt(text=text, ids=self.chat.prompt(text), instruction=True)
        form = self.chat.form
        ids = [*(form.begin or form.end), *self.chat.encode(text)]
        return Prompt(text=text, ids=ids, instruction=False)

    def draws(self, prompt: Prompt, params: SamplingParams, seed: int) -> Iterator[Draw]:
        """Yield what follows; an answer ends as in ``generate_answers``, at any of its stop ids.

        Raises:
            InputError: Message and answer do not fit; as there, nothing is ever cut.
        """
        form, needed = self.chat.form, len(prompt.ids) + params.max_new_tokens
        if prompt.instruction and needed > self.max_length:
            raise InputError(
                f"message and answer need up to {needed} tokens, and the model has room for "
                f"{self.max_length}; shorten the message, or ask for fewer tokens"
            )
        end = () if prompt.instruction else form.end
        # A document's sampler draws no symbol but the end, as that of a run; an answer's does.
        banned = () if prompt.instruction else set(form.symbols) - set(form.end)
        how: dict[str, Any] = {"seed": seed, "end": end, "banned": sorted(banned)}
        cached = Cached(self, self.max_length)
        found = draws(cached, prompt.ids, params, compute=self.compute, **how)
        return until(found, form.stop) if prompt.instruction else without_end(found, end)

    def text(self, prompt: Prompt, ids: Sequence[int]) -> str:
        """Return the answer, or the text after the prompt."""
        before = [] if prompt.instruction else self.chat.encode(prompt.text)
        return self.chat.decode([*before, *ids])[len(self.chat.decode(before)) :]

    def score(self, text: str) -> Score:
        """Score the text as a document."""
        from cordel.adaptation.corpus import encoded  # noqa: PLC0415
        from cordel.adaptation.quantised import arm  # noqa: PLC0415
        from cordel.adaptation.scoring import AsLanguageModel  # noqa: PLC0415

        form = self.chat.form
        with arm(self.model, self.name):
            (likelihood,) = score_documents(
                AsLanguageModel(self.model, self.max_length),  # pyright: ignore[reportArgumentType]
                list(encoded(self.chat, [Document("", "", "", text)])),
                context=[*(form.begin or form.end)],
                begin=[*form.begin],
                batch_size=ONE,
                compute=self.compute,
            )
        exact = self.chat.decode(self.chat.encode(text)) == text
        return Score(likelihood=likelihood, bound=not exact)


class Cached:
    """An arm with the interface of our own models: the state is the key-value cache.

    The adapter is switched on for each step alone, since arms that take turns share one base.
    """

    carries_state = False

    def __init__(self, voice: ArmVoice, context_length: int) -> None:
        """Wrap the arm."""
        self.voice, self.context_length = voice, context_length

    def __call__(self, ids_BT: Any, state: Any = None) -> tuple[Any, Any]:
        """Return logits ``float[B, T, V]`` and the cache after the last position."""
        from cordel.adaptation.quantised import arm  # noqa: PLC0415

        with arm(self.voice.model, self.voice.name) as model:
            out = model(input_ids=ids_BT, past_key_values=state, use_cache=True)
        return out.logits, out.past_key_values

    def initial_state(self) -> Any:
        """Return none: transformers begins a cache."""
        return None


class Voices:
    """The models of the project; each is loaded once, when it is first asked."""

    def __init__(self, compute: Compute) -> None:
        """Load nothing yet."""
        self.compute = compute
        self._runs: dict[str, RunVoice] = {}
        self._bases: dict[str, tuple[Any, Any, int, set[str]]] = {}

    def entries(self) -> list[Entry]:
        """Return what there is or could be, runs in the order of params.yaml, then arms."""
        found = [
            Entry(
                name=name,
                kind="run",
                command=f"dvc repro train_lm@{name}",
                ready=is_run_there(name, Path("data/tokens", str(run.get("dataset")))),
            )
            for name, run in read_section("models", kind=dict[str, dict[str, Any]]).items()
        ]
        for key, arms in ARMS.items():
            if read_section(f"base_models.{key}.source", kind=str) == "none":
                continue
            found += [
                Entry(
                    name=name,
                    kind="arm",
                    command=f"dvc repro {stage}",
                    ready=is_arm_there(name, key),
                )
                for name, stage in arms.items()
            ]
        return found

    def chosen(self, names: Sequence[str]) -> list[Entry]:
        """Return the entries of ``names``, or all of them if there are no names.

        Raises:
            InputError: A name is none of a model.
        """
        entries = {entry.name: entry for entry in self.entries()}
        if unknown := [name for name in names if name not in entries]:
            raise InputError(f"no model {unknown[0]!r}; there are: {', '.join(entries)}")
        return [entries[name] for name in dict.fromkeys(names)] or list(entries.values())

    def is_loaded(self, entry: Entry) -> bool:
        """Return whether asking it takes no loading."""
        return entry.name in self._runs or any(
            entry.name in names for *_, names in self._bases.values()
        )

    def of(self, entry: Entry) -> Voice:
        """Return the model, loaded.

        Raises:
            ArtifactError: It cannot be.
        """
        if entry.kind == "run":
            if entry.name not in self._runs:
                dataset = read_section(f"models.{entry.name}.dataset", kind=str)
                tokens = Path("data/tokens", dataset)
                self._runs[entry.name] = RunVoice(entry.name, tokens, self.compute)
            return self._runs[entry.name]
        key = next(key for key, arms in ARMS.items() if entry.name in arms)
        if key not in self._bases or entry.name not in self._bases[key][3]:
            self._bases[key] = self._load_base(key)
        model, chat, max_length, _ = self._bases[key]
        adapter = None if entry.name == key else entry.name
        return ArmVoice(adapter, model, chat, max_length, self.compute)

    def _load_base(self, key: str) -> tuple[Any, Any, int, set[str]]:
        """Return a base with all its adapters that are there: one load for all arms."""
        # About ten CPU seconds of imports, which a page of runs from scratch never needs.
        from cordel.adaptation.chat import load_chat  # noqa: PLC0415
        from cordel.adaptation.quantised import (  # noqa: PLC0415
            load_adapters,
            load_base,
            read_base,
        )

        folder = Path("data/base", key)
        base = read_base(folder)
        if base is None:
            raise ArtifactError(f"{folder}: no base is configured; run dvc repro open_base")
        names = [name for name in ARMS[key] if is_arm_there(name, key)]
        adapters = {name: Path("data/adapters", name) for name in names if name != key}
        model = load_base(base, self.compute)
        if adapters:
            model = load_adapters(model, adapters, base)
        return model, load_chat(folder), base.max_length, {key, *names}


def is_run_there(name: str, tokens: Path) -> bool:
    """Return whether a run's weights and tokenizer are on this machine."""
    return Path("data/models", name, "config.json").is_file() and (tokens / "meta.json").is_file()


def is_arm_there(name: str, key: str) -> bool:
    """Return whether an arm's base, and its adapter if it has one, are on this machine."""
    info = Path("data/base", key, "base.json")
    if not info.is_file():
        return False
    base = read_json(info)
    if base["source"] == "none" or (base["revision"] is None and not Path(base["model"]).is_dir()):
        return False
    return name == key or Path("data/adapters", name, "adaptation.json").is_file()


def without_end(found: Iterator[Draw], end: Sequence[int]) -> Iterator[Draw]:
    """Yield draws but those of the end, which are held back until it is clear what they are."""
    held: list[Draw] = []
    for draw in found:
        held.append(draw)
        while held and [d.id for d in held] != list(end[: len(held)]):
            yield held.pop(0)
    if len(held) < len(end):
        yield from held


def until(found: Iterator[Draw], stop: Sequence[int]) -> Iterator[Draw]:
    """Yield draws before the first of the ids ``stop``."""
    for draw in found:
        if draw.id in stop:
            return
        yield draw
