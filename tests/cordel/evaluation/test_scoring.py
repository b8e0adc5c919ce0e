"""Each token is scored once, with the context that the protocol promises."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cordel.compute import Compute
from cordel.evaluation import scoring
from cordel.evaluation.likelihood import Likelihood
from cordel.evaluation.scoring import ScoringParams, score_documents, window_protocol, windows_of
from cordel.tokens import Encoded
from tests.cordel.evaluation.conftest import CONTEXT_LENGTH, TINY, VOCAB_SIZE

EVERY_MODEL = pytest.mark.parametrize("name", sorted(TINY))
TRANSFORMERS = pytest.mark.parametrize("name", ["gpt", "llama"])
BEGIN = [1]


class Uniform:
    """Gives every id the same logit: all that is left to check is what was counted."""

    context_length = 4

    def __init__(self, *, carries_state: bool) -> None:
        self.carries_state = carries_state

    def initial_state(self) -> list[int]:
        """Return a memory that is never read."""
        return []

    def __call__(self, ids_BT: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:
        """Return equal logits."""
        return torch.zeros(*ids_BT.shape, VOCAB_SIZE), state


def documents(*lengths: int, seed: int = 0) -> list[Encoded]:
    """Return documents of random ids after ``BEGIN``, with so many ids each."""
    rng = np.random.default_rng(seed)
    return [
        Encoded(
            id=f"d{n}",
            ids=[*BEGIN, *rng.integers(0, VOCAB_SIZE, length - 1).tolist()],
            bytes=3 * length,
            unknown_bytes=n,
        )
        for n, length in enumerate(lengths)
    ]


def scores(model: Any, texts: list[Encoded], compute: Compute, **changes: Any) -> list[Likelihood]:
    """Return the scores of ``texts`` as the stage asks for them."""
    settings = {"context": BEGIN, "begin": BEGIN, "batch_size": 3} | changes
    return score_documents(model, texts, compute=compute, **settings)


# --- windows --------------------------------------------------------------------------------------


def test_windows_overlap_by_half_and_score_what_is_new() -> None:
    # Context 4, hence stride 2. A window's inputs are its ids but the last, its targets all but
    # the first: a b d e, then d e f g, of which d and e are done, so that the third is the first.
    windows = windows_of("cabdefg", 4, 1, 9)
    assert [(w.ids, w.first) for w in windows] == [("cabde", 0), ("bdefg", 2)]
    assert {w.document for w in windows} == {9}


def test_the_last_window_may_be_shorter() -> None:
    # c a b d e | b d e f g | e f g h: h alone is new, the third of the targets f g h.
    windows = windows_of("cabdefgh", 4, 1, 0)
    assert [(w.ids, w.first) for w in windows][2:] == [("efgh", 2)]


def test_a_context_of_two_ids_is_not_scored() -> None:
    # The characters' context is a blank line: of n n a b, a is the first target scored.
    assert [(w.ids, w.first) for w in windows_of("nnab", 4, 2, 0)] == [("nnab", 1)]


def targets_of(length: int, context_length: int, skip: int) -> list[tuple[int, int]]:
    """Return (position in the stream, number of ids before it in its window) of all targets."""
    return [
        (window.ids[place], place)
        for window in windows_of(range(length), context_length, skip, 0)
        for place in range(window.first + 1, len(window.ids))
    ]


@given(st.integers(2, 60), st.integers(1, 20), st.integers(1, 2))
def test_each_token_is_scored_exactly_once(length: int, context_length: int, skip: int) -> None:
    found = targets_of(length, context_length, skip)
    assert [position for position, _ in found] == list(range(skip, length))


@given(st.integers(2, 60), st.integers(1, 20))
def test_after_the_first_window_half_a_window_of_context_is_left(
    length: int, context_length: int
) -> None:
    later = [seen for at, seen in targets_of(length, context_length, 1) if at > context_length]
    assert all(context_length / 2 <= seen <= context_length for seen in later)


# --- documents ------------------------------------------------------------------------------------


@pytest.mark.parametrize("carries_state", [True, False])
def test_a_uniform_model_pays_the_logarithm_of_the_vocabulary(
    carries_state: bool, compute: Compute
) -> None:
    found = scores(Uniform(carries_state=carries_state), documents(3, 12, 7), compute)
    # All ids but the beginning: 2, 11 and 6.
    assert [score.tokens for score in found] == [2, 11, 6]
    expected = [n * np.log(VOCAB_SIZE) for n in (2, 11, 6)]
    assert [score.nats for score in found] == pytest.approx(expected)


@pytest.mark.parametrize("carries_state", [True, False])
def test_hits_are_counted_in_the_text_and_not_in_the_padding(
    carries_state: bool, compute: Compute
) -> None:
    # Of equal logits the first is the best, so id 0 is a hit; the short row is padded with zeros.
    texts = [
        Encoded(id="a", ids=[1, 0, 5, 0, 0, 2, 0], bytes=6, unknown_bytes=0),
        Encoded(id="b", ids=[1, 4, 0], bytes=2, unknown_bytes=0),
    ]
    found = scores(Uniform(carries_state=carries_state), texts, compute)
    assert [score.correct for score in found] == [4, 1]


def test_bytes_are_those_of_the_documents_in_their_order(compute: Compute) -> None:
    found = scores(Uniform(carries_state=False), documents(3, 12, 7), compute)
    assert [(score.bytes, score.unk_bytes) for score in found] == [(9, 0), (36, 1), (21, 2)]


@pytest.mark.parametrize("carries_state", [True, False])
def test_characters_read_a_blank_line_first_and_are_all_scored(
    carries_state: bool, compute: Compute
) -> None:
    text = Encoded(id="a", ids=[4, 5, 6, 0, 0], bytes=3, unknown_bytes=0)
    [found] = scores(
        Uniform(carries_state=carries_state), [text], compute, context=[0, 0], begin=[]
    )
    assert (found.tokens, found.correct) == (5, 2)


@pytest.mark.parametrize("carries_state", [True, False])
def test_progress_counts_every_token_once(carries_state: bool, compute: Compute) -> None:
    counted: list[int] = []
    model = Uniform(carries_state=carries_state)
    scores(model, documents(3, 12, 7), compute, advance=counted.append)
    assert sum(counted) == 2 + 11 + 6


@EVERY_MODEL
def test_padding_never_changes_a_score(name: str, build: Callable, compute: Compute) -> None:
    model, texts = build(name), documents(2, 21, 9, 5, 14)
    together = [score.nats for score in scores(model, texts, compute, batch_size=5)]
    alone = [scores(model, [text], compute, batch_size=1)[0].nats for text in texts]
    assert together == pytest.approx(alone, rel=1e-5)


@EVERY_MODEL
def test_the_context_replaces_the_beginning(name: str, build: Callable, compute: Compute) -> None:
    model, text = build(name), documents(9)
    other = [Encoded(id="o", ids=[7, *text[0].ids[1:]], bytes=1, unknown_bytes=0)]
    replaced = scores(model, text, compute, context=[7])[0].nats
    assert replaced == scores(model, other, compute, context=[7])[0].nats
    assert replaced != pytest.approx(scores(model, text, compute)[0].nats, rel=1e-4)


def test_scores_of_rnns_do_not_depend_on_the_chunk(
    build: Callable, compute: Compute, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, texts = build("rnn"), documents(2, 21, 9)
    whole = scores(model, texts, compute)
    monkeypatch.setattr(scoring, "RNN_CHUNK", 4)
    pieces = scores(model, texts, compute)
    assert [s.nats for s in pieces] == pytest.approx([s.nats for s in whole], rel=1e-5)
    assert [s.correct for s in pieces] == [s.correct for s in whole]


def nats_at(model: Any, read: list[int], target: int) -> float:
    """Return -ln p(target) after reading ``read`` afresh."""
    with torch.no_grad():
        logits_V = model(torch.tensor([read]))[0][0, -1].double()
    return -float(torch.log_softmax(logits_V, dim=-1)[target])


def test_an_rnn_reads_all_that_came_before(build: Callable, compute: Compute) -> None:
    model, [text] = build("rnn"), documents(30)
    expected = sum(nats_at(model, text.ids[:at], text.ids[at]) for at in range(1, 30))
    assert scores(model, [text], compute)[0].nats == pytest.approx(expected, rel=1e-5)


@TRANSFORMERS
def test_a_text_longer_than_the_context_is_read_in_windows(
    name: str, build: Callable, compute: Compute
) -> None:
    model, [text] = build(name), documents(30)
    expected = 0.0
    for at in range(1, 30):
        # Windows start at 0, 4, 8...; the id at `at` is scored by the first that reaches it.
        start = max(0, -(-(at - CONTEXT_LENGTH) // 4) * 4)
        expected += nats_at(model, text.ids[start:at], text.ids[at])
    assert scores(model, [text], compute)[0].nats == pytest.approx(expected, rel=1e-5)


# --- the thesis' own protocol ---------------------------------------------------------------------


@pytest.mark.parametrize(("max_windows", "windows"), [(100, 9), (4, 4)])
def test_the_window_protocol_predicts_only_the_id_after_each_window(
    max_windows: int, windows: int, build: Callable, compute: Compute
) -> None:
    model, stream = build("rnn"), documents(24)[0].ids
    found = window_protocol(
        model,
        stream,
        context_length=6,
        stride=2,
        max_windows=max_windows,
        batch_size=3,
        compute=compute,
    )
    # Starts 0, 2, ..., 16: the last window reads 16 to 21 and predicts 22.
    nats = [nats_at(model, stream[s : s + 6], stream[s + 6]) for s in range(0, 18, 2)][:windows]
    assert (found["windows"], found["stride"]) == (windows, 2)
    assert found["nats_per_token"] == pytest.approx(np.mean(nats), rel=1e-5)
    assert found["perplexity"] == pytest.approx(np.exp(np.mean(nats)), rel=1e-5)


def test_the_window_protocol_counts_hits(compute: Compute) -> None:
    # Windows of 2, stride 1, predict 0 (hit), 3 and 0 (hit).
    found = window_protocol(
        Uniform(carries_state=True),
        [1, 1, 0, 3, 0],
        context_length=2,
        stride=1,
        max_windows=10,
        batch_size=2,
        compute=compute,
    )
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["perplexity"] == pytest.approx(VOCAB_SIZE)


def test_a_text_shorter_than_a_window_has_no_windows(compute: Compute) -> None:
    found = window_protocol(
        Uniform(carries_state=True),
        [1, 2],
        context_length=2,
        stride=1,
        max_windows=10,
        batch_size=2,
        compute=compute,
    )
    assert found == {"windows": 0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0, expected at least 1"),
        ({"char_stride": 0}, "char_stride is 0, expected at least 1"),
        ({"subword_stride": -1}, "subword_stride is -1, expected at least 1"),
        ({"max_windows": -1}, "max_windows is -1, expected at least 0"),
    ],
)
def test_parameters_out_of_range_are_named(change: dict, message: str) -> None:
    values = {"batch_size": 1, "max_windows": 0, "char_stride": 4, "subword_stride": 2}
    with pytest.raises(ValueError, match=message):
        ScoringParams(**(values | change))
