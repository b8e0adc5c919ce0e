r"""How a conversation becomes ids: the same in training, scoring and generation.

``open_base`` renders the model's chat template once and keeps the ids around the user's message and
the answer, so no stage renders it again::

    opening  message  turn  answer  closing
    <|bos|><|im_start|>user\n  …  <|im_end|>\n<|im_start|>assistant\n  …  <|im_end|>

Message and answer are encoded as plain text: a document that spells ``<|im_end|>`` cannot close its
turn. There is exactly one beginning of sequence, in ``opening``. (The thesis had one in training
and two in its evaluation: section 7.3.)
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from cordel.runtime.errors import ArtifactError
from cordel.runtime.files import read_json, write_json

FILE = "chat.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatFormat:
    """The ids of one model's conversation, and the ids that every text needs.

    Attributes:
        opening: Before the user's message, beginning of sequence included.
        turn: Between the message and the answer.
        closing: After the answer; its last id is one of ``stop``.
        stop: Generation ends at the first of these.
        begin: Before a document (beginning of sequence), or none.
        end: After a document (end of sequence).
        pad: Fills short rows.
        unknown: What the tokenizer writes for text that it cannot write, or None.
        symbols: All ids that are no text.
    """

    opening: tuple[int, ...]
    turn: tuple[int, ...]
    closing: tuple[int, ...]
    stop: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    pad: int
    unknown: int | None
    symbols: tuple[int, ...]


def user_message(instruction: str, text: str) -> str:
    """Return what the user says (thesis section 5.2): the instruction, and its input if any."""
    return f"{instruction}\n\nEntrada:\n{text}" if text else instruction


class Chat:
    """A base model's tokenizer with its chat format."""

    def __init__(self, tokenizer: Tokenizer, form: ChatFormat) -> None:
        """Take both; symbols that text spells stay text."""
        tokenizer.encode_special_tokens = True
        self.tokenizer, self.form = tokenizer, form

    def encode(self, text: str) -> list[int]:
        """Return the ids of plain text, without beginning and end."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ``ids``; symbols vanish."""
        text = [index for index in ids if index not in self.form.symbols]
        return self.tokenizer.decode(text, skip_special_tokens=True)

    def document(self, text: str) -> list[int]:
        """Return begin + text + end."""
        return [*self.form.begin, *self.encode(text), *self.form.end]

    def prompt(self, message: str) -> list[int]:
        """Return the ids after which the model answers ``message``."""
        return [*self.form.opening, *self.encode(message), *self.form.turn]

    def response(self, answer: str) -> list[int]:
        """Return the ids of the answer, its closing included: what SFT supervises."""
        return [*self.encode(answer), *self.form.closing]

    def answer(self, ids: Sequence[int]) -> tuple[str, bool]:
        """Return the text of generated ids, and whether they were brought to an end."""
        for place, index in enumerate(ids):
            if index in self.form.stop:
                return self.decode(ids[:place]).strip(), True
        return self.decode(ids).strip(), False

    def unknown_bytes(self, text: str) -> int:
        """Return the UTF-8 bytes of ``text`` that hide behind an unknown id."""
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        spans = zip(encoding.ids, encoding.offsets, strict=True)
        return sum(len(text[a:b].encode()) for i, (a, b) in spans if i == self.form.unknown)


def write_chat_format(folder: Path, form: ChatFormat) -> None:
    """Write ``chat.json`` beside the tokenizer."""
    write_json(folder / FILE, asdict(form))


def load_chat(folder: Path) -> Chat:
    """Return the tokenizer and chat format that ``open_base`` wrote.

    Raises:
        ArtifactError: They are missing or broken.
    """
    base = folder / "base.json"
    if base.exists() and read_json(base)["source"] == "none":
        raise ArtifactError(
            f"base_models.{folder.name}.source is none, but this stage needs it: use local or hf"
        )
    values: Any = read_json(folder / FILE)
    try:
        form = ChatFormat(
            **{  # pyright: ignore[reportArgumentType]
                k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
            }
        )
        text = (folder / "tokenizer.json").read_text(encoding="utf-8")
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # noqa: BLE001  (tokenizers raises Exception itself)
        message = " ".join(str(error).split())
        raise ArtifactError(
            f"{folder}: no tokenizer with chat format ({message}); rerun open_base"
        ) from None
    return Chat(tokenizer, form)
