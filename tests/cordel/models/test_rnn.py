"""v1 to v4: the initialisation and the bias that Keras does not have."""

from collections.abc import Callable

import pytest
import torch
from torch.nn.functional import cross_entropy


def test_an_lstm_begins_by_remembering(build: Callable) -> None:
    # PyTorch's gates are input, forget, cell, output; the width is 8.
    expected = [0.0] * 8 + [1.0] * 8 + [0.0] * 16
    assert [layer.bias_ih_l0.tolist() for layer in build("lstm").layers] == [expected, expected]


def test_the_second_bias_of_an_lstm_stays_zero_in_training(build: Callable) -> None:
    model = build("lstm").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    ids = torch.tensor([[1, 2, 3]])
    cross_entropy(model(ids)[0].flatten(0, 1), ids.flatten()).backward()
    optimizer.step()
    assert not any(layer.bias_hh_l0.any() for layer in model.layers)
    assert not any(layer.bias_hh_l0.requires_grad for layer in model.layers)


def test_both_biases_of_a_gru_are_trained_from_zero(build: Callable) -> None:
    layer = build("gru").layers[0]
    assert not layer.bias_ih_l0.any()
    assert not layer.bias_hh_l0.any()
    assert layer.bias_ih_l0.requires_grad
    assert layer.bias_hh_l0.requires_grad


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_the_recurrent_matrix_is_orthogonal_over_all_gates_at_once(
    build: Callable, name: str
) -> None:
    matrix = build(name).layers[1].weight_hh_l0  # gates x 8 rows, 8 columns
    torch.testing.assert_close(matrix.T @ matrix, torch.eye(8))


@pytest.mark.parametrize(("name", "gates"), [("lstm", 4), ("gru", 3)])
def test_the_input_matrix_is_glorot_uniform_over_all_gates_at_once(
    build: Callable, name: str, gates: int
) -> None:
    # sqrt(6 / (inputs + gates x width)) bounds Keras' kernel of 6 inputs and width 8.
    largest = build(name).layers[0].weight_ih_l0.abs().max().item()
    assert 0.9 < largest / (6 / (6 + gates * 8)) ** 0.5 <= 1


def test_the_embedding_is_uniform_and_the_output_starts_without_bias(build: Callable) -> None:
    model = build("lstm")
    largest = model.embedding.weight.abs().max().item()
    assert 0.04 < largest <= 0.05  # of 66 draws between -0.05 and 0.05
    assert not model.output.bias.any()


@pytest.mark.parametrize("layer_norm", [True, False])
def test_layer_norm_follows_each_layer_where_it_is_asked_for(
    build: Callable, layer_norm: bool
) -> None:
    names = dict(build("lstm", layer_norm=layer_norm).named_parameters())
    assert ("norms.1.weight" in names) == layer_norm


def test_the_output_reads_what_the_last_norm_gives(build: Callable) -> None:
    # A last norm that gives zeros leaves the output's bias alone.
    model = build("lstm")
    model.norms[-1].weight.data.zero_()
    model.output.bias.data = torch.arange(11.0)
    assert model(torch.tensor([[1, 2]]))[0].tolist() == [[list(map(float, range(11)))] * 2]
