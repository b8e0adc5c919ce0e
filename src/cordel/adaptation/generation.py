"""Generate answers: greedy, sorted by length, batched, left-padded, each distinct prompt once.

What was generated is the columns after the padded prompt. (The thesis sliced at the number of
*unpadded* ids, so that in three of four rows the prompt's tail came first: section 0.1.) Every
batch is appended to a file as soon as it is done, so an interrupted run goes on where it was, and a
new task seed generates new prompts only.
"""

import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from zlib import crc32

import torch

from cordel.compute import Compute
from cordel.runtime.files import write_text
from cordel.runtime.params import require

log = logging.getLogger("generate_answers")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTokens:
    """How many ids an answer to each task may have (thesis section 5.7: 32, 160, 160)."""

    qa: int
    summarization: int
    rewriting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationParams:
    """The section ``generation`` of params.yaml."""

    batch_size: int
    max_new_tokens: NewTokens
    brief_request: str  # appended to the instruction for the arm `<base>_brief`; "" leaves it out

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(self.batch_size > 0, f"batch_size is {self.batch_size}, expected at least 1")
        for name in NewTokens.__slots__:
            value = getattr(self.max_new_tokens, name)
            require(value > 0, f"max_new_tokens.{name} is {value}, expected at least 1")


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt as ids, and how many ids its answer may have."""

    ids: tuple[int, ...]
    max_new_tokens: int

    @property
    def key(self) -> str:
        """What identifies the answer, given model and code."""
        return sha256(repr((self.ids, self.max_new_tokens)).encode()).hexdigest()[:24]


def generate_all(
    model: Any,
    requests: Sequence[Request],
    *,
    stop: Sequence[int],
    pad: int,
    batch_size: int,
    compute: Compute,
    journal: Path,
    advance: Callable[[int], None] = lambda _: None,
) -> dict[str, list[int]]:
    """Return the generated ids of each request's key, the stop id included.

    Args:
        model: A causal model of transformers, adapter switched on or off.
        requests: Prompts; equal ones are generated once.
        stop: Ids at which an answer ends.
        pad: Fills short prompts from the left.
        batch_size: Prompts at once; changes no answer (tests hold it in float32).
        compute: Where and how precisely.
        journal: Answers so far, one JSON line each; read first, appended to batch by batch.
        advance: Called with the number of answers that each batch adds.
    """
    done = dict(read_journal(journal))
    missing = {request.key: request for request in requests if request.key not in done}
    # Longest first: prompts of like length share a batch, and memory shows at once.
    waiting = sorted(missing.values(), key=lambda r: (-r.max_new_tokens, -len(r.ids), r.ids))
    found = len({request.key for request in requests}) - len(waiting)
    if found:
        what = "found all" if not waiting else f"resuming: {len(waiting)} to come, found"
        log.info("%s %d answers in %s; delete it to generate anew", what, found, journal)
    advance(found)
    with journal.open("a", encoding="utf-8") as lines:
        for batch in batches(waiting, batch_size):
            answers = generate_batch(model, batch, stop=stop, pad=pad, compute=compute)
            for request, ids in zip(batch, answers, strict=True):
                done[request.key] = ids
                lines.write(_journal_line(request.key, ids))
            lines.flush()
            os.fsync(lines.fileno())
            advance(len(batch))
    return {request.key: done[request.key] for request in requests}


def batches(requests: Sequence[Request], size: int) -> Iterator[Sequence[Request]]:
    """Yield runs of at most ``size`` requests that allow the same number of new ids."""
    start = 0
    for at in range(1, len(requests) + 1):
        full = at - start == size
        if (
            at == len(requests)
            or full
            or (requests[at].max_new_tokens != requests[start].max_new_tokens)
        ):
            yield requests[start:at]
            start = at


@torch.no_grad()
def generate_batch(
    model: Any, batch: Sequence[Request], *, stop: Sequence[int], pad: int, compute: Compute
) -> list[list[int]]:
    """Return the new ids of each request, up to and with its stop id."""
    width = max(len(request.ids) for request in batch)
    lacking = [width - len(request.ids) for request in batch]
    ids = torch.tensor([[pad] * n + list(r.ids) for n, r in zip(lacking, batch, strict=True)])
    mask = torch.tensor([[0] * n + [1] * (width - n) for n in lacking])
    with compute.autocast():
        out = model.generate(
            input_ids=ids.to(compute.device),
            attention_mask=mask.to(compute.device),
            max_new_tokens=batch[0].max_new_tokens,
            do_sample=False,
            num_beams=1,
            eos_token_id=list(stop),
            pad_token_id=pad,
        )
    return [_until_stop(row, stop) for row in out[:, width:].tolist()]


def _until_stop(ids: list[int], stop: Sequence[int]) -> list[int]:
    for place, index in enumerate(ids):
        if index in stop:
            return ids[: place + 1]
    return ids


def read_journal(path: Path) -> Iterator[tuple[str, list[int]]]:
    """Yield key and ids of each answer; a line that was cut short or damaged is left out."""
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    found = [_journal_row(line) for line in lines]
    if None in found:
        log.info("%s: %d lines are broken and are generated again", path, found.count(None))
        kept = (line for line, row in zip(lines, found, strict=True) if row is not None)
        write_text(path, b"".join(kept).decode())
    yield from (row for row in found if row is not None)


def _journal_line(key: str, ids: list[int]) -> str:
    return json.dumps({"key": key, "ids": ids, "crc32": crc32(f"{key} {ids}".encode())}) + "\n"


def _journal_row(line: bytes) -> tuple[str, list[int]] | None:
    try:
        row = json.loads(line)
        key, ids = row["key"], row["ids"]
    except (ValueError, KeyError, TypeError):
        return None
    return (key, ids) if line == _journal_line(key, ids).encode() else None
