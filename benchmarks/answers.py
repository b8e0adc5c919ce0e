"""Answers to the run's own task prompts: prompts a CPU second by batch size, and identical answers.

Greedy, by the base of this checkout in NF4. The thesis answered four prompts at a time in the order
of its file; cordel sorts them by length and takes ``generation.batch_size`` at once.
"""

from pathlib import Path
from typing import Any

from benchmarks.measure import Work, interleave, rates
from cordel.adaptation.chat import Chat, load_chat, user_message
from cordel.adaptation.generation import Request, batches, generate_batch
from cordel.adaptation.quantised import load_base, read_base
from cordel.compute import Compute, ComputeParams, decide
from cordel.runtime.errors import InputError
from cordel.runtime.files import read_jsonl

NEW_TOKENS = 24
SORTED = (4, 8, 16, 32)


def measure(*, quick: bool) -> dict[str, Any]:
    """Return prompts a CPU second of each way, and how many answers are those of one by one."""
    compute = decide(ComputeParams(device="cpu", threads=1, compile=False))
    folder = Path("data/base/base")
    base, chat = read_base(folder), load_chat(folder)
    if base is None:
        raise InputError(f"{folder}: no base; `dvc repro open_base` makes it")
    model = load_base(base, compute)
    requests = some_requests(chat, 12 if quick else 64, base.max_length)
    longest_first = sorted(requests, key=lambda r: (-len(r.ids), r.ids))
    ways = {
        "one by one": [(request,) for request in requests],
        "four at a time, as they come": list(batches(requests, 4)),
        **{f"{size}, sorted": list(batches(longest_first, size)) for size in SORTED},
    }
    answers: dict[str, dict[str, list[int]]] = {name: {} for name in ways}

    def answering(name: str) -> Work:
        def work() -> None:
            for batch in ways[name]:
                found = answer(model, chat, list(batch), compute)
                answers[name] |= dict(zip((r.key for r in batch), found, strict=True))

        return work

    took = interleave({n: answering(n) for n in ways}, rounds=1 if quick else 3, warm_up=0)
    alone = answers["one by one"]
    return {
        "variants": {
            name: rates(seconds, len(requests))
            | {"identical": sum(answers[name][key] == ids for key, ids in alone.items())}
            for name, seconds in took.items()
        },
        "prompts": len(requests),
        "new_tokens": NEW_TOKENS,
    }


def some_requests(chat: Chat, count: int, max_length: int) -> list[Request]:
    """Return the first distinct prompts of ``data/tasks.jsonl`` that fit, in the file's order."""
    found: dict[str, Request] = {}
    for row in read_jsonl(Path("data/tasks.jsonl")):
        ids = tuple(chat.prompt(user_message(row["instruction"], row["input"])))
        request = Request(ids, NEW_TOKENS)
        if len(ids) + NEW_TOKENS <= max_length:
            found.setdefault(request.key, request)
        if len(found) == count:
            break
    return list(found.values())


def answer(model: Any, chat: Chat, batch: list[Request], compute: Compute) -> list[list[int]]:
    """Return the new ids of a batch."""
    return generate_batch(model, batch, stop=chat.form.stop, pad=chat.form.pad, compute=compute)
