"""Muon, the groups of parameters, and the two ways of clipping."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from cordel.training.optimizers import Muon, build_optimizers, clip, orthogonalise

EVERY = pytest.mark.parametrize("name", ["lstm", "gru", "gpt", "llama"])


def names_of(model: nn.Module, group: dict) -> set[str]:
    """Return the names of a group's parameters."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)] for p in group["params"]}


# --- Muon -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(16, 4), (4, 16), (32, 24), (24, 32)], ids=str)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_orthogonalising_brings_every_singular_value_near_one(
    shape: tuple[int, int], scale: float
) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(3)) * scale
    values = torch.linalg.svdvals(orthogonalise(matrix))
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_orthogonalising_keeps_the_directions() -> None:
    # A diagonal matrix stays diagonal with the same signs.
    found = orthogonalise(torch.diag(torch.tensor([3.0, -2.0, 1.0])))
    assert torch.equal(found.diag().sign(), torch.tensor([1.0, -1.0, 1.0]))
    assert torch.equal(found, torch.diag(found.diag()))


def stepped(p: nn.Parameter, gradient: torch.Tensor, *, lr: float, weight_decay: float = 0.0):
    """Return ``p`` after one step of Muon."""
    p.grad = gradient
    Muon([p], lr=lr, weight_decay=weight_decay).step()
    return p.detach()


def test_muon_steps_against_the_orthogonalised_gradient() -> None:
    # The first momentum is parallel to the gradient, and orthogonalising ignores the length.
    gradient = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    found = stepped(nn.Parameter(torch.zeros(3, 5)), gradient, lr=0.1)
    torch.testing.assert_close(found, -0.1 * orthogonalise(gradient), rtol=0, atol=1e-4)


def test_muon_takes_longer_steps_on_tall_matrices() -> None:
    # 8 rows, 2 columns: sqrt(8 / 2) = 2 times the step of the wide matrix.
    gradient = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    tall = stepped(nn.Parameter(torch.zeros(8, 2)), gradient, lr=0.1)
    wide = stepped(nn.Parameter(torch.zeros(2, 8)), gradient.T, lr=0.1)
    torch.testing.assert_close(tall, 2 * wide.T)


def test_muon_decays_weights_apart_from_the_gradient() -> None:
    # No gradient: 2 x (1 - 0.1 x 0.5) = 1.9.
    p = nn.Parameter(torch.full((2, 2), 2.0))
    found = stepped(p, torch.zeros(2, 2), lr=0.1, weight_decay=0.5)
    torch.testing.assert_close(found, torch.full((2, 2), 1.9))


def test_muon_remembers_earlier_gradients() -> None:
    # After a gradient along one axis and then one along the other, both axes move.
    p = nn.Parameter(torch.zeros(1, 2))
    optimizer = Muon([p], lr=1.0, weight_decay=0.0)
    for gradient in ([[1.0, 0.0]], [[0.0, 1.0]]):
        before = p.detach().clone()
        p.grad = torch.tensor(gradient)
        optimizer.step()
    # Momentum 0.95 x 0.05 g1 + 0.05 g2; with Nesterov 0.05 g2 + 0.95 of it: 0.045125 : 0.0975.
    moved = (p.detach() - before)[0]
    assert (moved[0] / moved[1]).item() == pytest.approx(0.045125 / 0.0975, rel=1e-4)


# --- groups ---------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "muon"])
@pytest.mark.parametrize("scope", ["all", "matrices"])
def test_every_trainable_parameter_is_in_one_group(
    build: Callable, training: Callable, name: str, optimizer: str, scope: str
) -> None:
    model = build(name)
    params = training(optimizer=optimizer, decay_scope=scope)
    groups = [g for o in build_optimizers(model, params) for g in o.param_groups]
    found = [p for group in groups for p in names_of(model, group)]
    assert sorted(found) == sorted(n for n, p in model.named_parameters() if p.requires_grad)


@EVERY
def test_under_matrices_norms_and_biases_do_not_decay(
    build: Callable, training: Callable, name: str
) -> None:
    model = build(name)
    params = training(decay_scope="matrices", weight_decay=0.3)
    [optimizer] = build_optimizers(model, params)
    groups = {g["weight_decay"]: names_of(model, g) for g in optimizer.param_groups}
    vectors = {n for n, p in model.named_parameters() if p.requires_grad and p.dim() < 2}
    assert groups[0.0] == vectors != set()
    assert all("norm" not in n and "bias" not in n for n in groups[0.3])


@EVERY
def test_under_all_everything_decays(build: Callable, training: Callable, name: str) -> None:
    params = training(decay_scope="all", weight_decay=0.3)
    [group] = build_optimizers(build(name), params)[0].param_groups
    assert group["weight_decay"] == 0.3


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        (
            "llama",
            {
                f"model.layers.{layer}.{part}_proj.weight"
                for layer in (0, 1)
                for part in (
                    *("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o"),
                    *("mlp.gate", "mlp.up", "mlp.down"),
                )
            },
        ),
        ("gpt", {f"blocks.0.{part}_proj.weight" for part in ("q", "k", "v", "o", "up", "down")}),
        ("lstm", {"layers.0.weight_ih_l0", "layers.0.weight_hh_l0"}),
    ],
)
def test_muon_takes_the_hidden_matrices_only(
    build: Callable, training: Callable, name: str, hidden: set[str]
) -> None:
    model = build(name)
    muon, rest = build_optimizers(model, training(optimizer="muon"))
    assert names_of(model, muon.param_groups[0]) == hidden
    assert isinstance(muon, Muon)
    assert isinstance(rest, torch.optim.AdamW)


def test_each_group_remembers_its_peak_rate(build: Callable, training: Callable) -> None:
    params = training(optimizer="muon", learning_rate=0.003, muon_learning_rate=0.02)
    muon, rest = build_optimizers(build("llama"), params)
    assert [g["peak"] for g in muon.param_groups] == [0.02]
    assert {g["peak"] for g in rest.param_groups} == {0.003}


@pytest.mark.parametrize(("name", "kind"), [("adam", "Adam"), ("adamw", "AdamW")])
def test_the_optimiser_is_the_one_asked_for(
    build: Callable, training: Callable, name: str, kind: str
) -> None:
    [found] = build_optimizers(build("gpt"), training(optimizer=name, beta2=0.9, epsilon=1e-6))
    assert type(found).__name__ == kind
    assert found.defaults["betas"] == (0.9, 0.9)
    assert found.defaults["eps"] == 1e-6


# --- clipping -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "first", "second"),
    [
        # Norms 5 and 0.5: each by itself only the first is scaled, to 1.
        ("per_variable", [0.6, 0.8], [0.3, 0.4]),
        # Together sqrt(25 + 0.25) = 5.024938.
        ("global", [0.597022, 0.796030], [0.059702, 0.079603]),
    ],
)
def test_gradients_are_clipped_to_norm_one(
    training: Callable, mode: str, first: list, second: list
) -> None:
    model = nn.ParameterList([torch.zeros(2), torch.zeros(2)])
    model[0].grad, model[1].grad = torch.tensor([3.0, 4.0]), torch.tensor([0.3, 0.4])
    clip(model, training(grad_clip=1.0, clip_mode=mode))
    assert model[0].grad.tolist() == pytest.approx(first, abs=1e-5)
    assert model[1].grad.tolist() == pytest.approx(second, abs=1e-5)


@pytest.mark.parametrize("mode", ["per_variable", "global"])
def test_a_clip_of_zero_clips_nothing(training: Callable, mode: str) -> None:
    model = nn.ParameterList([torch.zeros(2)])
    model[0].grad = torch.tensor([300.0, 400.0])
    clip(model, training(grad_clip=0.0, clip_mode=mode))
    assert model[0].grad.tolist() == [300, 400]
