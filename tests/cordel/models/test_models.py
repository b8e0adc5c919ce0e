"""What every architecture must do: published sizes, causality, a memory that changes nothing."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from cordel.models import build_model, count_parameters, describe, parse_architecture
from cordel.runtime.errors import ParamsError

EVERY = pytest.mark.parametrize("name", ["lstm", "gru", "gpt", "llama", "llama_tied"])
IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3], [2, 7, 1, 8, 2, 8, 1, 8, 2, 8]])


def rnn(cell: str, embedding: int, width: int, layers: int, norm: bool = False) -> dict:
    """Return the shape of a recurrent model; dropout has no parameters."""
    sizes = {"d_embedding": embedding, "d_model": width, "n_layer": layers}
    return sizes | {"cell": cell, "layer_norm": norm, "input_dropout": 0.0, "output_dropout": 0.0}


def gpt(layers: int, width: int, d_ff: int) -> dict:
    """Return the shape of a Transformer of 8 heads."""
    return {"d_model": width, "n_layer": layers, "n_head": 8, "d_ff": d_ff, "dropout": 0.0}


@pytest.mark.parametrize(
    ("architecture", "shape", "vocab_size", "published"),
    [
        # thesis 3.1. v1: 277 x 64 + 4 x 256 x (64 + 256 + 1) + 257 x 277
        pytest.param("rnn", rnn("lstm", 64, 256, 1), 277, 417_621, id="v1"),
        pytest.param("rnn", rnn("lstm", 256, 512, 1), 277, 1_787_925, id="v2"),
        pytest.param("rnn", rnn("lstm", 256, 512, 2, norm=True), 277, 3_889_173, id="v3"),
        pytest.param("rnn", rnn("gru", 512, 512, 2), 3200, 6_431_872, id="v4_subword"),
        pytest.param("rnn", rnn("gru", 512, 512, 2), 4000, 7_251_872, id="v4k_bf"),
        pytest.param("rnn", rnn("lstm", 512, 512, 2), 4000, 8_298_400, id="v4k_bf_lstm"),
        # thesis 3.2
        pytest.param("gpt", gpt(4, 256, 1024), 4000, 4_253_088, id="v5_main"),
        pytest.param("gpt", gpt(6, 320, 1280), 11294, 11_105_694, id="v5b_long"),
        pytest.param("gpt", gpt(6, 320, 1280), 14500, 12_134_820, id="v6_rc16k_v5b"),
    ],
)
def test_a_thesis_model_has_its_published_number_of_parameters(
    architecture: str, shape: dict, vocab_size: int, published: int
) -> None:
    params = parse_architecture(architecture, shape, "thesis")
    with torch.device("meta"):
        model = build_model(architecture, params, vocab_size=vocab_size, context_length=256)
    assert count_parameters(model) == published


@pytest.mark.parametrize(
    # Embedding 11 x 12; a block 4 x 12 x 12 + 3 x 12 x 20 + 2 x 12 = 1320; last norm 12; output.
    ("name", "expected"),
    [("llama", 132 + 2 * 1320 + 12 + 132), ("llama_tied", 132 + 2 * 1320 + 12)],
)
def test_a_tied_llama_has_no_output_matrix(build: Callable, name: str, expected: int) -> None:
    assert count_parameters(build(name)) == expected


@EVERY
def test_logits_have_one_row_of_the_vocabulary_a_token(build: Callable, name: str) -> None:
    logits, _ = build(name)(IDS)
    assert logits.shape == (2, 10, 11)


@EVERY
def test_the_same_seed_builds_the_same_weights(build: Callable, name: str) -> None:
    first, second = build(name).state_dict(), build(name).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@torch.no_grad()
@EVERY
@pytest.mark.parametrize("place", [1, 5, 9])
def test_a_later_id_changes_no_earlier_logit(build: Callable, name: str, place: int) -> None:
    model, other = build(name), IDS.clone()
    other[:, place] = 0
    before, after = model(IDS)[0], model(other)[0]
    assert torch.equal(before[:, :place], after[:, :place])
    assert not torch.allclose(before[:, place:], after[:, place:])


@torch.no_grad()
@EVERY
def test_every_earlier_id_changes_the_last_logit(build: Callable, name: str) -> None:
    model = build(name)
    others = IDS[:1].repeat(9, 1)
    others[range(9), range(9)] = 0  # the k-th row differs in the k-th id; none of them is 0
    last = model(IDS[:1])[0][:, -1]
    assert ((model(others)[0][:, -1] - last).abs().amax(dim=1) > 1e-6).all()


@torch.no_grad()
@EVERY
@pytest.mark.parametrize("cuts", [(4,), (1, 2), (9,), tuple(range(1, 10))], ids=str)
def test_reading_in_pieces_gives_the_logits_of_reading_at_once(
    build: Callable, name: str, cuts: tuple[int, ...]
) -> None:
    model = build(name)
    state, pieces = model.initial_state(), []
    for piece in torch.tensor_split(IDS, cuts, dim=1):
        logits, state = model(piece, state)
        pieces.append(logits)
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(IDS)[0], rtol=0, atol=1e-5)


@torch.no_grad()
@EVERY
def test_a_memory_changes_what_comes_next(build: Callable, name: str) -> None:
    model = build(name)
    _, state = model(IDS[:, :5], model.initial_state())
    remembering, afresh = model(IDS[:, 5:], state)[0], model(IDS[:, 5:])[0]
    assert not torch.allclose(remembering, afresh, atol=1e-3)


@EVERY
def test_only_recurrent_models_carry_their_state_unasked(build: Callable, name: str) -> None:
    model = build(name)
    assert model.carries_state == (name in ("lstm", "gru"))
    assert (model(IDS)[1] is not None) == model.carries_state


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("lstm", {"input_dropout": 0.5}),
        ("gru", {"output_dropout": 0.5}),
        ("gpt", {"dropout": 0.5}),
    ],
)
def test_dropout_is_random_in_training_and_absent_in_evaluation(
    build: Callable, name: str, changes: dict
) -> None:
    model = build(name, **changes)
    assert torch.equal(model(IDS)[0], build(name)(IDS)[0])
    model.train()
    assert not torch.equal(model(IDS)[0], model(IDS)[0])


def test_an_unknown_architecture_is_refused() -> None:
    message = r"models\.v9: architecture is 'mamba', expected one of .*'gpt', 'llama', 'rnn'"
    with pytest.raises(ParamsError, match=message):
        parse_architecture("mamba", {}, "models.v9")


@pytest.mark.parametrize(
    ("architecture", "shape", "message"),
    [
        ("rnn", rnn("lstm", 0, 4, 1), "d_embedding is 0, expected at least 1"),
        ("rnn", rnn("gru", 4, 0, 1), "d_model is 0, expected at least 1"),
        ("rnn", rnn("gru", 4, 4, 0), "n_layer is 0, expected at least 1"),
        ("rnn", rnn("elman", 4, 4, 1), "'cell' is 'elman', expected one of lstm, gru"),
        ("rnn", rnn("gru", 4, 4, 1) | {"input_dropout": 1.0}, "input_dropout is 1.0, expected 0"),
        ("rnn", rnn("gru", 4, 4, 1) | {"output_dropout": -0.1}, "'output_dropout' is -0.1"),
        ("gpt", gpt(2, 20, 8), "d_model 20 is not a multiple of n_head 8"),
        ("gpt", gpt(2, 16, 0), "d_ff is 0, expected at least 1"),
        ("gpt", gpt(2, 16, 8) | {"dropout": 1.0}, "dropout is 1.0, expected 0 <= x < 1"),
    ],
)
def test_a_shape_that_cannot_be_built_is_refused(
    architecture: str, shape: dict[str, Any], message: str
) -> None:
    with pytest.raises(ParamsError, match=rf"v9\.model: .*{message}"):
        parse_architecture(architecture, shape, "v9")


def test_a_shape_comes_back_as_plain_values() -> None:
    shape = gpt(2, 16, 8)
    assert describe(parse_architecture("gpt", shape, "v9")) == shape
