"""Opening a base: what is refused, what is recorded, and the chat format of three kinds of model.

``cordel.adaptation.base`` imports transformers, so it is imported where it is used.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import errors
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from cordel.adaptation.chat import Chat, load_chat
from cordel.runtime.errors import EnvironmentProblem, InputError, ParamsError
from cordel.runtime.files import read_json, write_json

pytestmark = pytest.mark.slow

KEY = "base_models.base"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONVERSATION = [{"role": "user", "content": "Olá!"}, {"role": "assistant", "content": "Oi, João."}]
HEADERS = (  # in the manner of Llama 3.1: a system turn with today's date, contents trimmed
    "{{ bos_token }}"
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "<|start_header_id|>system<|end_header_id|>\n\nToday: {{ date_string }}<|eot_id|>"
    "{% for m in messages %}"
    "<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] | trim }}<|eot_id|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
SYMBOLS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)
BEGIN, END, HEADER, HEADER_END, TURN_END = range(256, 261)  # after the 256 bytes


def opened(folder: Path, out: Path, *, max_length: int = 0) -> dict[str, Any]:
    """Open the local model of ``folder``."""
    from cordel.adaptation.base import BaseModelParams, HubModel, open_base  # noqa: PLC0415

    hub = HubModel(model="nobody/nothing", revision="main")
    params = BaseModelParams(source="local", path=str(folder), hub=hub, max_length=max_length)
    return open_base(params, out, key=KEY)


def opened_from_hub(out: Path, *, revision: str) -> dict[str, Any]:
    """Open a model of the hub."""
    from cordel.adaptation.base import BaseModelParams, HubModel, open_base  # noqa: PLC0415

    hub = HubModel(model="meta-llama/Llama-3.1-8B", revision=revision)
    params = BaseModelParams(source="hf", path="data/hub", hub=hub, max_length=0)
    return open_base(params, out, key=KEY)


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    """Return a copy of the tiny model's folder, to be changed."""
    return shutil.copytree(model_folder, tmp_path / "model")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Return an empty folder."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def change(path: Path, **values: Any) -> None:
    """Change values of a JSON file."""
    write_json(path, read_json(path) | values)


@pytest.fixture
def byte_folder(folder: Path) -> Path:
    """Return the tiny model with a tokenizer of bytes and Llama 3's symbols, without a template."""
    letters = {letter: n for n, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(BPE(letters, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_special_tokens(list(SYMBOLS))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer.model").unlink()
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": SYMBOLS[0],
            "eos_token": SYMBOLS[1],
        },
    )
    change(folder / "config.json", bos_token_id=BEGIN, eos_token_id=[END, TURN_END])
    return folder


def with_template(folder: Path, template: str) -> Path:
    """Give the model of ``folder`` a chat template."""
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder


def spelled(chat: Chat, ids: tuple[int, ...] | list[int]) -> str:
    """Return the text of ``ids`` with its symbols."""
    return chat.tokenizer.decode(list(ids), skip_special_tokens=False)


# --- our own export: no template, but ChatML's symbols --------------------------------------------


def test_a_base_is_recorded(base_folder: Path, model_folder: Path) -> None:
    from hashlib import sha256  # noqa: PLC0415

    weights = (model_folder / "model.safetensors").read_bytes()
    assert read_json(base_folder / "base.json") == {
        "source": "local",
        "model": str(model_folder),
        "revision": None,
        "weights": sha256(weights).hexdigest(),
        "shape": {
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "intermediate_size": 128,
            "tie_word_embeddings": False,
        },
        "vocab_size": 420,
        "max_length": 128,
        "chat_template": "chatml",
    }


def test_a_base_without_template_converses_in_chatml(chat: Chat) -> None:
    # <|bos|> 2, <|eos|> 3, <|im_start|> 4, <|im_end|> 5, all of them ids, not text.
    form = chat.form
    assert form.opening == (2, 4, *chat.encode("user\n"))
    assert form.turn == (5, *chat.encode("\n"), 4, *chat.encode("assistant\n"))
    assert form.closing == (5,)
    assert form.stop == (3, 5)
    assert (form.begin, form.end, form.pad, form.unknown) == ((2,), (3,), 0, 1)


def test_the_stored_template_renders_what_the_ids_say(base_folder: Path, chat: Chat) -> None:
    from transformers import AutoTokenizer  # noqa: PLC0415

    stored = AutoTokenizer.from_pretrained(base_folder, local_files_only=True)
    asked, whole = (
        stored.apply_chat_template(m, tokenize=False, add_generation_prompt=len(m) == 1)
        for m in (CONVERSATION[:1], CONVERSATION)
    )
    prompt = chat.prompt("Olá!")
    # ChatML names no beginning and has a line end after the answer, which nothing has to predict.
    assert spelled(chat, prompt) == f"<|bos|>{asked}"
    assert spelled(chat, prompt + chat.response("Oi, João.")) + "\n" == f"<|bos|>{whole}"


# --- other models ---------------------------------------------------------------------------------


def test_a_template_of_its_own_is_used(byte_folder: Path, out: Path) -> None:
    info = opened(with_template(byte_folder, HEADERS), out)
    chat = load_chat(out)
    form = chat.form
    assert info["chat_template"] == "own"
    assert (form.begin, form.end) == ((BEGIN,), (END,))
    assert form.closing == (TURN_END,)
    assert form.stop == (END, TURN_END)
    header = (HEADER, *chat.encode("assistant"), HEADER_END, *chat.encode("\n\n"))
    assert form.turn == (TURN_END, *header)


def test_a_template_that_writes_the_beginning_gives_one(byte_folder: Path, out: Path) -> None:
    opened(with_template(byte_folder, HEADERS), out)
    form = load_chat(out).form
    assert form.opening[0] == BEGIN
    assert form.opening.count(BEGIN) == 1


def test_no_prompt_depends_on_the_day(byte_folder: Path, out: Path) -> None:
    opened(with_template(byte_folder, HEADERS), out)
    chat = load_chat(out)
    system = "<|start_header_id|>system<|end_header_id|>\n\nToday: 26 Jul 2024<|eot_id|>"
    assert spelled(chat, chat.form.opening) == (
        f"<|begin_of_text|>{system}<|start_header_id|>user<|end_header_id|>\n\n"
    )


def test_a_tokenizer_without_padding_pads_with_its_end(byte_folder: Path, out: Path) -> None:
    opened(byte_folder, out)
    form = load_chat(out).form
    assert (form.pad, form.unknown) == (END, None)


def test_symbols_that_the_vocabulary_lacks_are_spelled(byte_folder: Path, out: Path) -> None:
    assert opened(byte_folder, out)["chat_template"] == "chatml"
    chat = load_chat(out)
    form = chat.form
    assert form.opening == (BEGIN, *chat.encode("<|im_start|>user\n"))
    assert form.turn == tuple(chat.encode("<|im_end|>\n<|im_start|>assistant\n"))
    assert form.closing == (*chat.encode("<|im_end|>\n"), END)  # which generation knows
    assert form.stop == (END, TURN_END)


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        # Generation would begin with a thought, training without one.
        (
            "{% for m in messages %}{{ m['content'] + '\n' }}{% endfor %}"
            "{% if add_generation_prompt %}Hum.{% endif %}",
            "Hum",
        ),
        (  # no message
            "Diga.{% if messages[1:] %}{{ messages[1]['content'] }}{% endif %}",
            r"'Diga\.' and 'Diga\.",
        ),
    ],
    ids=["prompt is no beginning", "message dropped"],
)
def test_a_template_that_differs_in_training_is_refused(
    folder: Path, out: Path, template: str, shown: str
) -> None:
    with pytest.raises(InputError, match=f"does not begin the conversation.*{shown}"):
        opened(with_template(folder, template), out)


def test_a_model_without_an_end_is_refused(byte_folder: Path, out: Path) -> None:
    write_json(
        byte_folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": SYMBOLS[0]},
    )
    change(byte_folder / "config.json", eos_token_id=None)
    with pytest.raises(InputError, match="neither tokenizer nor model names an end of sequence"):
        opened(byte_folder, out)


# --- what is refused ------------------------------------------------------------------------------


def test_no_base_is_no_error(out: Path) -> None:
    from cordel.adaptation.base import BaseModelParams, HubModel, open_base  # noqa: PLC0415
    from cordel.adaptation.quantised import read_base  # noqa: PLC0415

    hub = HubModel(model="nobody/nothing", revision="main")
    params = BaseModelParams(source="none", path="data/hub", hub=hub, max_length=0)
    assert open_base(params, out, key=KEY) == {"source": "none"}
    assert read_base(out) is None
    assert [file.name for file in out.iterdir()] == ["base.json"]


def test_a_negative_length_is_refused(out: Path) -> None:
    with pytest.raises(ValueError, match="max_length is -1, expected at least 0"):
        opened(out, out, max_length=-1)


def test_a_length_is_recorded(model_folder: Path, out: Path) -> None:
    assert opened(model_folder, out, max_length=64)["max_length"] == 64


def test_more_positions_than_the_model_has_are_refused(model_folder: Path, out: Path) -> None:
    assert opened(model_folder, out, max_length=128)["max_length"] == 128
    with pytest.raises(ParamsError, match=r"base\.max_length is 129, .* at most 128"):
        opened(model_folder, out, max_length=129)


def test_a_tokenizer_of_another_model_is_refused(folder: Path, out: Path) -> None:
    change(folder / "config.json", vocab_size=419)
    with pytest.raises(InputError, match=f"{KEY}: the tokenizer has 420 ids, .* only 419;"):
        opened(folder, out)


def test_pickled_weights_are_refused(folder: Path, out: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"never loaded\), found .*config.json.*pytorch_model.bin"):
        opened(folder, out)


def test_weights_without_a_configuration_are_refused(folder: Path, out: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"expected config\.json, .* found .*model\.safetensors"):
        opened(folder, out)


def test_an_empty_folder_holds_no_model(tmp_path: Path, out: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty holds no model, .* found nothing"):
        opened(tmp_path / "empty", out)


def test_a_missing_folder_is_named(tmp_path: Path, out: Path) -> None:
    with pytest.raises(InputError, match=rf"{KEY}\.path .*absent: no such folder"):
        opened(tmp_path / "absent", out)


def test_an_unreadable_configuration_is_one_line(folder: Path, out: Path) -> None:
    (folder / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=rf"{KEY}: .* cannot be read \(.*config\.json.*\)$"):
        opened(folder, out)


@pytest.mark.parametrize("model_type", ["llama", "unheard_of"])
def test_code_that_a_model_brings_is_not_run(
    folder: Path, out: Path, tmp_path: Path, model_type: str
) -> None:
    trace = tmp_path / "was_run"
    code = f"from pathlib import Path\nPath({str(trace)!r}).touch()\n"
    code += "from transformers import LlamaConfig as Config\n"
    (folder / "brought.py").write_text(code, encoding="utf-8")
    change(folder / "config.json", model_type=model_type, auto_map={"AutoConfig": "brought.Config"})
    if model_type == "llama":  # which transformers knows without it
        assert opened(folder, out)["shape"]["hidden_size"] == 64
    else:
        with pytest.raises(InputError, match=f"{KEY}: .* cannot be read"):
            opened(folder, out)
    assert not trace.exists()


# --- the hub, which no test reaches ---------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, model_folder: Path) -> Callable[..., list[str]]:
    """Return a function that puts a hub in place, and returns the list of what is asked of it."""
    from cordel.adaptation import base  # noqa: PLC0415

    def put(*, info: Exception | None = None, download: Exception | None = None) -> list[str]:
        asked: list[str] = []

        def model_info(model: str, *, revision: str) -> SimpleNamespace:
            asked.append(f"info {model} {revision}")
            if info:
                raise info
            return SimpleNamespace(sha=COMMIT)

        def snapshot_download(model: str, *, revision: str, **patterns: list[str]) -> str:
            asked.append(f"download {model} {revision}")
            allowed = patterns["allow_patterns"]
            assert not any(pattern.endswith((".bin", ".py", ".pth")) for pattern in allowed)
            if download:
                raise download
            return str(model_folder)

        monkeypatch.setattr(base, "HfApi", lambda: SimpleNamespace(model_info=model_info))
        monkeypatch.setattr("cordel.adaptation.hub.snapshot_download", snapshot_download)
        return asked

    return put


def answered(kind: type[errors.HfHubHTTPError], message: str = "Client Error") -> Exception:
    """Return the error that the hub's answer would raise."""
    answer: Any = SimpleNamespace(headers={}, request=None)  # all that the error reads of it
    return kind(message, response=answer)


PROBLEMS = {
    "gated": (answered(errors.GatedRepoError), "is gated: accept its licence .*hf auth login"),
    "unknown": (
        answered(errors.RepositoryNotFoundError),
        rf"{KEY}\.hub: no model 'meta-llama/Llama-3.1-8B' at revision 'main'.*hf auth whoami",
    ),
    "revision": (answered(errors.RevisionNotFoundError), f"{KEY}.*at revision 'main'"),
    "offline": (
        errors.OfflineModeIsEnabled("offline\nmode"),
        r"cannot be fetched \(OfflineModeIsEnabled: offline mode\); .*source: local",
    ),
    "server": (
        answered(errors.HfHubHTTPError, "500 Server Error"),
        r"cannot be fetched \(HfHubHTTPError: 500 Server Error\); check the network",
    ),
    "not cached": (
        errors.LocalEntryNotFoundError("not cached"),
        r"cannot be fetched \(LocalEntryNotFoundError: not cached\)",
    ),
    "disk": (OSError(28, "No space left on device"), "OSError: .*No space left on device"),
}


@pytest.mark.parametrize("at", ["info", "download"])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_problem_with_the_hub_is_one_line(
    hub: Callable[..., list[str]], out: Path, problem: str, at: str
) -> None:
    error, message = PROBLEMS[problem]
    hub(**{at: error})
    with pytest.raises(EnvironmentProblem, match=message) as caught:
        opened_from_hub(out, revision="main")
    assert "\n" not in str(caught.value)
    assert not list(out.iterdir())


def test_no_network_is_one_line(
    hub: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, out: Path
) -> None:
    from huggingface_hub import HfApi  # noqa: PLC0415

    from cordel.adaptation import base  # noqa: PLC0415

    hub()
    nowhere = HfApi(endpoint="http://127.0.0.1:9")  # the port "discard", where nothing listens
    monkeypatch.setattr(base, "HfApi", lambda: nowhere)
    with pytest.raises(EnvironmentProblem, match=r"cannot be fetched \("):
        opened_from_hub(out, revision="main")


def test_a_branch_is_resolved_once_and_the_commit_recorded(
    hub: Callable[..., list[str]], out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = hub()
    with caplog.at_level("INFO", logger="open_base"):
        info = opened_from_hub(out, revision="main")
    model = "meta-llama/Llama-3.1-8B"
    assert asked == [f"info {model} main", f"download {model} {COMMIT}"]
    assert (info["source"], info["model"]) == ("hf", model)
    assert info["revision"] == info["weights"] == COMMIT
    assert json.loads((out / "base.json").read_text("utf-8")) == info
    assert f"pin it: {KEY}.hub.revision: {COMMIT}" in caplog.text


def test_a_pinned_commit_is_not_looked_up(hub: Callable[..., list[str]], out: Path) -> None:
    pinned = "f" * 40
    asked = hub()
    assert opened_from_hub(out, revision=pinned)["revision"] == pinned
    assert asked == [f"download meta-llama/Llama-3.1-8B {pinned}"]
