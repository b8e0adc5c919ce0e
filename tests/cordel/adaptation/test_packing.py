"""Packed blocks: every target once, nothing mixed, almost nothing padded."""

from collections import Counter
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cordel.adaptation.chat import Chat
from cordel.adaptation.packing import (
    NO_TARGET,
    Block,
    Piece,
    collate,
    conversation_blocks,
    conversation_piece,
    document_blocks,
    document_pieces,
    pack,
)
from cordel.tokens import Encoded

if TYPE_CHECKING:
    from cordel.adaptation.quantised import BaseModel
    from cordel.compute import Compute

N = NO_TARGET


def piece(size: int, name: int = 0) -> Piece:
    """Return a piece of ``size`` ids, all of them ``name``."""
    return Piece([name] * size, [name] * size)


def sizes(blocks: list[Block]) -> list[list[int]]:
    """Return the sizes of the pieces of each block."""
    return [list(Counter(block.segments).values()) for block in blocks]


# --- pieces ---------------------------------------------------------------------------------------


def test_a_long_document_goes_on_with_its_last_target() -> None:
    assert document_pieces([2, 10, 11, 12, 3], 2) == [
        Piece([2, 10], [10, 11]),
        Piece([11, 12], [12, 3]),
    ]


def test_a_short_document_is_one_piece() -> None:
    assert document_pieces([2, 10, 3], 512) == [Piece([2, 10], [10, 3])]


@given(count=st.integers(1, 40), length=st.integers(1, 12))
def test_each_id_but_the_first_is_a_target_once(count: int, length: int) -> None:
    ids = list(range(count))
    pieces = document_pieces(ids, length)
    assert [target for p in pieces for target in p.targets] == ids[1:]
    assert all(1 <= len(p.ids) == len(p.targets) <= length for p in pieces)


@given(count=st.integers(2, 40), length=st.integers(1, 12))
def test_each_piece_begins_with_the_last_target_of_the_one_before(count: int, length: int) -> None:
    pieces = document_pieces(list(range(count)), length)
    assert pieces[0].ids[0] == 0
    assert all(a.targets[-1] == b.ids[0] for a, b in pairwise(pieces))
    assert all(p.ids[1:] == p.targets[:-1] for p in pieces)  # the next id, nothing left out


def test_only_the_response_of_a_conversation_is_supervised() -> None:
    # The last place of the prompt predicts the first id of the response; its last id is no input.
    assert conversation_piece([1, 2, 3], [4, 5]) == Piece([1, 2, 3, 4], [N, N, 4, 5])


@given(prompt=st.integers(1, 9), response=st.integers(1, 9))
def test_all_of_the_response_and_nothing_else_is_a_target(prompt: int, response: int) -> None:
    asked, answered = list(range(prompt)), list(range(100, 100 + response))
    found = conversation_piece(asked, answered)
    assert [t for t in found.targets if t != N] == answered
    assert found.targets[: prompt - 1] == [N] * (prompt - 1)
    assert found.ids == asked + answered[:-1]


# --- blocks ---------------------------------------------------------------------------------------


def test_a_piece_goes_where_it_fits_best() -> None:
    # Longest first: 12 leaves 8; 9 opens a block, 9 joins it and leaves 2. So 2 fits exactly
    # there; first fit would have put it beside 12, and the order given would have made 2 + 9 + 9.
    found = pack([piece(2), piece(9), piece(12), piece(9)], 20)
    assert sizes(found) == [[12], [9, 9, 2]]


def test_equal_pieces_keep_their_order() -> None:
    (block,) = pack([piece(2, name) for name in (7, 5, 6)], 6)
    assert block.ids == [7, 7, 5, 5, 6, 6]


def test_a_block_numbers_its_pieces_and_their_places() -> None:
    assert pack([Piece([7], [N]), Piece([4, 5], [5, 6])], 3) == [
        Block(ids=[4, 5, 7], targets=[5, 6, N], segments=[0, 0, 1], positions=[0, 1, 0])
    ]


def test_a_block_counts_its_targets() -> None:
    (block,) = pack([Piece([7, 8, 9], [N, N, 4])], 3)
    assert block.supervised == 1


@given(lengths=st.lists(st.integers(1, 16), max_size=40))
def test_all_pieces_are_in_blocks_whole_and_once(lengths: list[int]) -> None:
    pieces = [piece(size, name) for name, size in enumerate(lengths)]
    blocks = pack(pieces, 16)
    found = [(name, size) for b in blocks for name, size in Counter(b.ids).items()]
    assert sorted(found) == list(enumerate(lengths))
    assert all(len(set(zip(b.ids, b.segments, strict=True))) == len(set(b.ids)) for b in blocks)
    assert all(len(b.ids) <= 16 for b in blocks)
    assert pack(pieces, 16) == blocks


def test_nearly_no_place_is_left_empty() -> None:
    # Lengths as those of Canarim (median 89, 95 % under 249), for want of the real ones.
    random = Random(0)
    lengths = [min(512, int(random.lognormvariate(4.5, 0.63)) + 1) for _ in range(1000)]
    blocks = pack([piece(size) for size in lengths], 512)
    assert sum(lengths) / (512 * len(blocks)) > 0.95


def test_a_piece_longer_than_a_block_is_refused() -> None:
    with pytest.raises(ValueError, match="a piece of 5 ids does not fit a block of 4"):
        pack([piece(5)], 4)


def test_documents_are_cut_and_packed() -> None:
    ids = [[2, 10, 11, 3], [2, 12, 3]]
    documents = [Encoded(id="d", ids=one, bytes=1, unknown_bytes=0) for one in ids]
    # Pieces of 2, 1 and 2 ids: the first document goes on with its last target, 11.
    first, second, third = document_blocks(documents, 2)
    assert (first.ids, second.ids, third.ids) == ([2, 10], [2, 12], [11])
    assert (first.targets, second.targets, third.targets) == ([10, 11], [12, 3], [3])


@pytest.mark.slow
def test_conversations_are_packed_and_the_bytes_of_answers_counted(chat: Chat) -> None:
    examples = [
        {"instruction": "Diga.", "input": "", "output": "coração"},
        {"instruction": "Repita.", "input": "olá " * 30, "output": "olá " * 30},
        {"instruction": "Some.", "input": "1", "output": "2"},
    ]
    blocks, answer_bytes, too_long = conversation_blocks(chat, examples, 120)
    assert too_long == 1
    assert answer_bytes == 9 + 1  # ç and ã have two bytes
    assert sum(b.supervised for b in blocks) == len(chat.response("coração") + chat.response("2"))
    assert [i for b in blocks for i in b.ids].count(chat.form.begin[0]) == 2


@pytest.mark.slow
def test_a_conversation_may_just_fill_a_block(chat: Chat) -> None:
    example = {"instruction": "Some.", "input": "1 e 2", "output": "3"}
    # The last id of the response is no input.
    room = len(chat.prompt("Some.\n\nEntrada:\n1 e 2") + chat.response("3")) - 1
    assert conversation_blocks(chat, [example], room)[2] == 0
    assert conversation_blocks(chat, [example], room - 1) == ([], 0, 1)


# --- batches --------------------------------------------------------------------------------------


def test_a_place_looks_at_its_own_piece_up_to_itself() -> None:
    pieces = [Piece([4, 5], [N, 6]), Piece([7], [8])]
    batch = collate([*pack(pieces, 3), *pack([Piece([1] * 5, [2] * 5)], 5)], pad=9)
    # Two ids, one id, two places of padding, which see padding alone: no row is empty, for a
    # softmax of nothing is not a number.
    assert batch["attention_mask"].shape == (2, 1, 5, 5)
    assert batch["attention_mask"][0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 1, 1],
    ]
    assert batch["attention_mask"][1, 0].equal(torch.ones(5, 5).tril().bool())


def test_short_blocks_are_padded_without_targets() -> None:
    pieces = [Piece([4, 5], [N, 6]), Piece([7], [8])]
    batch = collate([*pack(pieces, 3), *pack([Piece([1] * 5, [2] * 5)], 5)], pad=9)
    assert batch["input_ids"].tolist() == [[4, 5, 7, 9, 9], [1] * 5]
    assert batch["labels"].tolist() == [[N, 6, 8, N, N], [2] * 5]
    assert batch["position_ids"].tolist() == [[0, 1, 0, 0, 0], [0, 1, 2, 3, 4]]


def test_the_lengths_of_segments_say_what_the_mask_says() -> None:
    pieces = [Piece([4, 5], [N, 6]), Piece([7], [8])]
    one = pack([Piece([1] * 5, [2] * 5)], 5)  # numbered 0, as is the first of the row below
    batch = collate([*pack(pieces, 3), *one, *one], pad=9)
    assert batch["lengths"].tolist() == [2, 1, 2, 5, 5]
    parts = [torch.ones(n, n).tril().bool() for n in (2, 1, 2)]
    assert batch["attention_mask"][0, 0].equal(torch.block_diag(*parts).bool())


# --- through the model ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(base: "BaseModel", cpu: "Compute") -> Any:
    """Return the tiny base, not quantised."""
    from cordel.adaptation.quantised import load_base  # noqa: PLC0415

    return load_base(base, cpu, quantise=False)


@pytest.fixture(scope="module")
def blocks() -> list[Block]:
    """Return two packed blocks of unequal length, 3 + 2 pieces."""
    random = Random(0)
    pieces = []
    for size in (20, 16, 9, 15, 8):
        ids = [2, *(random.randrange(6, 420) for _ in range(size))]
        pieces.append(Piece(ids[:-1], ids[1:]))
    return pack(pieces, 40)


@torch.no_grad()
def logits_of(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Return ``float32[B, T, V]`` as training computes them."""
    from cordel.adaptation.quantised import head_of, hidden_states  # noqa: PLC0415

    return head_of(model)(hidden_states(model, batch))


def separate_logits(model: Any, block: Block) -> Tensor:
    """Return ``float32[T, V]``: each piece alone in its batch."""
    found = []
    for number in sorted(set(block.segments)):
        ids = [i for i, n in zip(block.ids, block.segments, strict=True) if n == number]
        batch = collate(pack([Piece(ids, ids)], len(ids)), pad=0)
        found.append(logits_of(model, batch)[0])
    return torch.cat(found)


def difference(packed: Tensor, blocks: list[Block], model: Any) -> float:
    """Return the largest difference between packed and separate logits."""
    pairs = zip(packed, blocks, strict=True)
    return max(
        (row[: len(b.ids)] - separate_logits(model, b)).abs().max().item() for row, b in pairs
    )


@pytest.mark.slow
def test_a_packed_piece_has_the_logits_that_it_has_alone(model: Any, blocks: list[Block]) -> None:
    assert sizes(blocks) == [[20, 16], [15, 9, 8]]
    packed = logits_of(model, collate(blocks, pad=0))
    assert difference(packed, blocks, model) < 1e-5


@pytest.mark.slow
@torch.no_grad()
def test_without_the_mask_pieces_would_mix_in_silence(model: Any, blocks: list[Block]) -> None:
    # Why the mask is explicit: positions that restart are not enough, with transformers' defaults.
    batch = collate(blocks, pad=0)
    mixed = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"]).logits
    assert difference(mixed, blocks, model) > 1e-2
