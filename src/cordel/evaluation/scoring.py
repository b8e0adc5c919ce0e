"""Run a language model over documents: nats and hits per document, each token scored once.

RNNs carry their state from the document's start, so their context is all that came before.
A Transformer sees windows of ``context_length`` tokens that overlap by half: every token but those
of the first window is scored with at least half a window of context. With context 4 and tokens
``c a b d e f g`` (``c`` opens the document and is not scored)::

    window 1 reads c a b d   scores a b d e
    window 2 reads b d e f   scores     - - f g  (d and e were scored by window 1)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cordel.compute import Compute
from cordel.evaluation.likelihood import Likelihood
from cordel.models import LanguageModel
from cordel.runtime.params import require
from cordel.tokens import Encoded

RNN_CHUNK = 256  # time steps at once: bounds the logits in memory, changes no result


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringParams:
    """The section ``scoring`` of params.yaml."""

    batch_size: int  # windows or documents at once
    max_windows: int  # of the thesis' window protocol (v1 to v4); 0 leaves it out
    char_stride: int  # between its windows, in characters
    subword_stride: int

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("batch_size", "char_stride", "subword_stride"):
            value = getattr(self, name)
            require(value > 0, f"{name} is {value}, expected at least 1")
        require(self.max_windows >= 0, f"max_windows is {self.max_windows}, expected at least 0")


@dataclass(frozen=True, slots=True)
class Window:
    """Part of a document: read ``ids``, score the targets from position ``first`` on."""

    document: int
    ids: Sequence[int]  # inputs and, shifted by one, targets
    first: int


Advance = Callable[[int], None]


def score_documents(
    model: LanguageModel,
    documents: Sequence[Encoded],
    *,
    context: list[int],
    begin: list[int],
    batch_size: int,
    compute: Compute,
    advance: Advance = lambda _: None,
) -> list[Likelihood]:
    """Return one ``Likelihood`` a document, in order.

    Args:
        model: Any architecture, in evaluation mode.
        documents: As stored: begin + text + end.
        context: Ids that stand before a document's text while it is scored.
        begin: Ids that the stored documents begin with, which are replaced by ``context``.
        batch_size: How many windows (Transformers) or documents (RNNs) at once.
        compute: Where and how precisely.
        advance: Called with the number of tokens scored.
    """
    streams = [[*context, *document.ids[len(begin) :]] for document in documents]
    score = _score_recurrent if model.carries_state else _score_windows
    with torch.no_grad():
        nats, hits = score(model, streams, len(context), batch_size, compute, advance)
    return [
        Likelihood(
            nats=nats[index],
            tokens=len(stream) - len(context),
            bytes=documents[index].bytes,
            unk_bytes=documents[index].unknown_bytes,
            correct=hits[index],
        )
        for index, stream in enumerate(streams)
    ]


def windows_of(
    stream: Sequence[int], context_length: int, skip: int, document: int
) -> list[Window]:
    """Cut one stream so that each id after the first ``skip`` is a target exactly once."""
    stride = max(1, context_length // 2)
    windows, scored, start = [], skip, 0
    while scored < len(stream):
        ids = stream[start : start + context_length + 1]
        windows.append(Window(document, ids, first=scored - start - 1))
        scored = start + len(ids)
        start += stride
    return windows


def _score_windows(
    model: LanguageModel,
    streams: list[list[int]],
    skip: int,
    batch_size: int,
    compute: Compute,
    advance: Advance,
) -> tuple[list[float], list[int]]:
    windows = [
        window
        for index, stream in enumerate(streams)
        for window in windows_of(stream, model.context_length, skip, index)
    ]
    # Longest first: windows of one length share a batch, and the largest batch comes first.
    windows.sort(key=lambda window: -len(window.ids))
    nats, hits = [0.0] * len(streams), [0] * len(streams)
    for start in range(0, len(windows), batch_size):
        batch = windows[start : start + batch_size]
        # Padding goes to the right, where no scored position looks.
        ids = _padded([w.ids for w in batch]).to(compute.device)
        with compute.autocast():
            logits_BTV, _ = model(ids[:, :-1])
        nats_BT, hits_BT = _nats_and_hits(logits_BTV, ids[:, 1:])
        for row, window in enumerate(batch):
            scored = slice(window.first, len(window.ids) - 1)
            nats[window.document] += nats_BT[row, scored].sum().item()
            hits[window.document] += int(hits_BT[row, scored].sum())
            advance(scored.stop - scored.start)
    return nats, hits


def _score_recurrent(
    model: LanguageModel,
    streams: list[list[int]],
    skip: int,
    batch_size: int,
    compute: Compute,
    advance: Advance,
) -> tuple[list[float], list[int]]:
    nats, hits = [0.0] * len(streams), [0] * len(streams)
    order = sorted(range(len(streams)), key=lambda index: -len(streams[index]))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        lengths = torch.tensor([len(streams[index]) for index in chosen], device=compute.device)
        ids = _padded([streams[index] for index in chosen]).to(compute.device)
        state: Any = model.initial_state()
        for at in range(0, ids.shape[1] - 1, RNN_CHUNK):
            piece = ids[:, at : at + RNN_CHUNK + 1]
            with compute.autocast():
                logits_BTV, state = model(piece[:, :-1], state)
            nats_BT, hits_BT = _nats_and_hits(logits_BTV, piece[:, 1:])
            place_T = torch.arange(at + 1, at + piece.shape[1], device=compute.device)
            real_BT = (place_T >= skip) & (place_T < lengths[:, None])
            nats_B = (nats_BT * real_BT).sum(dim=1).tolist()
            hits_B = (hits_BT & real_BT).sum(dim=1).tolist()
            for row, index in enumerate(chosen):
                nats[index] += nats_B[row]
                hits[index] += hits_B[row]
            advance(int(real_BT.sum()))
    return nats, hits


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """Return ``int64[B, T]`` with zeros to the right of short rows."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])


def _nats_and_hits(logits_BTV: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
    logits_NV = logits_BTV.flatten(0, 1).float()
    nats_N = F.cross_entropy(logits_NV, targets_BT.flatten(), reduction="none").double()
    hits_N = logits_NV.argmax(dim=-1) == targets_BT.flatten()
    return nats_N.view_as(targets_BT), hits_N.view_as(targets_BT)


def window_protocol(
    model: LanguageModel,
    stream: Sequence[int],
    *,
    context_length: int,
    stride: int,
    max_windows: int,
    batch_size: int,
    compute: Compute,
) -> dict[str, float | int]:
    """Return the thesis' own measure of v1 to v4 (section 4.1), for comparison with its tables.

    Windows of ``context_length`` ids start ``stride`` apart from the head of the text, each with an
    empty state, and only the id after each window is predicted. Not comparable with anything else.
    """
    starts = range(0, len(stream) - context_length, stride)[:max_windows]
    nats, hits = 0.0, 0
    with torch.no_grad():
        for at in range(0, len(starts), batch_size):
            batch = starts[at : at + batch_size]
            ids = torch.tensor([list(stream[s : s + context_length + 1]) for s in batch])
            ids = ids.to(compute.device)
            with compute.autocast():
                logits_BTV, _ = model(ids[:, :-1])
            nats_BT, hits_BT = _nats_and_hits(logits_BTV[:, -1:], ids[:, -1:])
            nats += nats_BT.sum().item()
            hits += int(hits_BT.sum())
    if not starts:
        return {"windows": 0}
    mean = Likelihood(nats=nats, tokens=len(starts), bytes=1, unk_bytes=0, correct=hits)
    return {
        "windows": len(starts),
        "stride": stride,
        "nats_per_token": nats / len(starts),
        "perplexity": mean.perplexity,
        "accuracy": mean.accuracy,
    }
