"""Open the base model before any work: is it there, may we use it, does its tokenizer fit.

What the other stages need of it beside its weights goes to a folder: the tokenizer, the chat format
as ids (``chat.py``) and ``base.json``, which identifies the weights.
"""

import logging
import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from jinja2 import TemplateError
from transformers import AutoConfig, AutoTokenizer

from cordel.adaptation.chat import ChatFormat, write_chat_format
from cordel.adaptation.hub import fetch
from cordel.runtime.errors import EnvironmentProblem, InputError, ParamsError
from cordel.runtime.files import write_json
from cordel.runtime.params import require

log = logging.getLogger("open_base")

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CHATML_SYMBOLS = ("<|im_start|>", "<|im_end|>")
DATE = "26 Jul 2024"  # Llama 3.1's own default, so that no prompt depends on the day
# Private use: no template and no vocabulary holds them.
MESSAGE, ANSWER = "\ue000m", "\ue000a"
SHAPE = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "tie_word_embeddings",
)  # for `cordel estimate`
NEEDED = ("config.json", "tokenizer.json")
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubModel:
    """A model of the Hugging Face hub."""

    model: str
    revision: str  # a 40-digit commit; a branch is resolved to one, which is printed and recorded


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseModelParams:
    """One entry of the section ``base_models``."""

    source: Literal["local", "hf", "none"]
    path: str  # of `local`: a Hugging Face folder, and a DVC dep whatever the source
    hub: HubModel
    max_length: int  # prompt and answer together; 0: what the model was trained for

    def __post_init__(self) -> None:
        """Check the range."""
        require(self.max_length >= 0, f"max_length is {self.max_length}, expected at least 0")


def open_base(params: BaseModelParams, out: Path, *, key: str) -> dict[str, Any]:
    """Write the base's tokenizer, ``chat.json`` and ``base.json`` to ``out``; return the latter.

    Args:
        params: Which model.
        out: A new folder.
        key: The section, which messages name.

    Raises:
        EnvironmentProblem: The hub cannot be reached, or gives no access.
        InputError: The folder is no model in safetensors, or its tokenizer does not fit it.
    """
    if params.source == "none":
        info = {"source": "none"}
        write_json(out / "base.json", info)
        return info
    folder, revision = _fetched(params, key)
    weights = sorted(p for p in folder.glob("*.safetensors") if p.is_file())
    # Without tokenizer.json transformers would rebuild it from tokenizer.model, with other ids.
    if not weights or not all((folder / name).is_file() for name in NEEDED):
        found = ", ".join(sorted(p.name for p in folder.glob("*"))[:8]) or "nothing"
        raise InputError(
            f"{key}: {folder} holds no model, expected {', '.join(NEEDED)} and *.safetensors "
            f"(pickled weights are never loaded), found {found}"
        )
    config = _read(AutoConfig, folder, key).get_text_config()
    tokenizer = _read(AutoTokenizer, folder, key)
    if len(tokenizer) > config.vocab_size:
        raise InputError(
            f"{key}: the tokenizer has {len(tokenizer):,} ids, the model of {folder} only "
            f"{config.vocab_size:,}; they do not belong together"
        )
    info = {
        "source": params.source,
        "model": params.hub.model if params.source == "hf" else params.path,
        "revision": revision,
        "weights": revision or _digest(weights),
        "vocab_size": config.vocab_size,
        "shape": {name: getattr(config, name, None) for name in SHAPE},
        "max_length": params.max_length or config.max_position_embeddings,
        "chat_template": "own" if tokenizer.chat_template else "chatml",
    }
    if info["max_length"] > config.max_position_embeddings:
        raise ParamsError(
            f"{key}.max_length is {params.max_length}, but the model was made for at most "
            f"{config.max_position_embeddings}"
        )
    tokenizer.chat_template = tokenizer.chat_template or CHATML
    write_chat_format(out, chat_format(tokenizer, config))
    tokenizer.save_pretrained(out)
    write_json(out / "base.json", info)
    return info


def _fetched(params: BaseModelParams, key: str) -> tuple[Path, str | None]:
    """Return the folder of the model, and its commit if it comes from the hub."""
    if params.source == "local":
        folder = Path(params.path)
        if not folder.is_dir():
            raise InputError(f"{key}.path {folder}: no such folder; expected a Hugging Face model")
        return folder, None
    model, revision = params.hub.model, params.hub.revision
    try:
        if not COMMIT.fullmatch(revision):
            revision = str(HfApi().model_info(model, revision=revision).sha)
            log.info("%s is at %s; pin it: %s.hub.revision: %s", model, revision, key, revision)
        return fetch(model, revision), revision
    except GatedRepoError:
        raise EnvironmentProblem(
            f"{model} is gated: accept its licence on its page while logged in, then "
            "`hf auth login` (or set HF_TOKEN) and run again"
        ) from None
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise EnvironmentProblem(
            f"{key}.hub: no model {model!r} at revision {params.hub.revision!r}, or no token that "
            "may see it; check the name, and `hf auth whoami`"
        ) from None
    except Exception as error:  # noqa: BLE001  (no network: the client's own errors, of many kinds)
        message = " ".join(str(error).split())[:200]
        raise EnvironmentProblem(
            f"{model} cannot be fetched ({type(error).__name__}: {message}); check the network, "
            "or download it and set source: local"
        ) from None


def _read(kind: Any, folder: Path, key: str) -> Any:
    try:
        return kind.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # noqa: BLE001  (a broken file raises whatever its bytes lead to)
        message = " ".join(str(error).split())[:200]
        raise InputError(f"{key}: {folder} cannot be read ({message})") from None


def _digest(files: list[Path]) -> str:
    digest = sha256()
    for file in files:
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def chat_format(tokenizer: Any, config: Any) -> ChatFormat:
    """Return the ids of the tokenizer's chat template around a message and its answer.

    Raises:
        InputError: The template renders a conversation and its prompt differently, or drops the
            message.
    """
    said = [{"role": "user", "content": MESSAGE}]
    whole = _rendered(tokenizer, [*said, {"role": "assistant", "content": ANSWER}], prompt=False)
    prompt = _rendered(tokenizer, said, prompt=True)
    if MESSAGE not in prompt or not whole.startswith(prompt + ANSWER):
        raise InputError(
            "the chat template renders a prompt that does not begin the conversation, so training "
            f"and generation would differ: {prompt!r} and {whole!r}"
        )
    before, turn = prompt.split(MESSAGE, 1)
    begin = () if tokenizer.bos_token_id is None else (tokenizer.bos_token_id,)
    end = _end(tokenizer, config)
    opening = _symbols_and_text(tokenizer, before)
    if begin and opening[:1] != begin:
        opening = begin + opening
    stop = {*end, *_as_ids(getattr(config, "eos_token_id", None))}
    closing = _symbols_and_text(tokenizer, whole.removeprefix(prompt + ANSWER))
    symbols = {i for i in closing if i in _symbol_ids(tokenizer)}
    if symbols:  # the turn ends at the first symbol; a line end after it is no part of the answer
        closing = closing[: min(closing.index(i) for i in symbols) + 1]
        stop.add(closing[-1])
    else:
        closing += end
    return ChatFormat(
        opening=opening,
        turn=_symbols_and_text(tokenizer, turn),
        closing=closing,
        stop=tuple(sorted(stop)),
        begin=begin,
        end=end,
        pad=end[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
        unknown=tokenizer.unk_token_id,
        symbols=tuple(sorted(_symbol_ids(tokenizer))),
    )


def _rendered(tokenizer: Any, messages: list[dict[str, str]], *, prompt: bool) -> str:
    try:
        return tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=prompt, date_string=DATE
        )
    except TemplateError as error:
        raise InputError(
            f"the chat template refuses a question and its answer ({error}); it needs another model"
        ) from None


def _end(tokenizer: Any, config: Any) -> tuple[int, ...]:
    ids = _as_ids(tokenizer.eos_token_id) or _as_ids(getattr(config, "eos_token_id", None))
    if not ids:
        raise InputError("neither tokenizer nor model names an end of sequence (eos_token)")
    return ids[:1]


def _as_ids(value: int | list[int] | None) -> tuple[int, ...]:
    return () if value is None else tuple(value) if isinstance(value, list) else (value,)


def _symbol_ids(tokenizer: Any) -> dict[int, str]:
    """Return the ids of symbols: special tokens, and ChatML's where the vocabulary has them."""
    found = {i: t.content for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    vocabulary = tokenizer.get_vocab()
    return found | {vocabulary[s]: s for s in CHATML_SYMBOLS if s in vocabulary}


def _symbols_and_text(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Return the ids of template text: symbols as themselves, the rest as plain text."""
    ids_of = {symbol: index for index, symbol in _symbol_ids(tokenizer).items()}
    ids: list[int] = []
    for part in re.split("(" + "|".join(map(re.escape, sorted(ids_of))) + ")", text):
        if part in ids_of:
            ids.append(ids_of[part])
        elif part:
            ids += tokenizer.encode(part, add_special_tokens=False, split_special_tokens=True)
    return tuple(ids)
