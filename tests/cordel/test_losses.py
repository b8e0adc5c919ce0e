"""The head's cross-entropy in chunks is that of torch on all logits, gradients included."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cordel import losses
from cordel.losses import Objective, linear_cross_entropy

N, D, V = 11, 6, 9
SOFT = torch.rand(N, V, generator=torch.Generator().manual_seed(5)).softmax(dim=-1)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks and a last one that is not full."""
    monkeypatch.setattr(losses, "CHUNK", {"cpu": 4})


def case(dtype: torch.dtype = torch.float64, *, bias: bool = True) -> tuple[Tensor, ...]:
    """Return hidden states, matrix, bias and targets."""
    torch.manual_seed(0)
    hidden = torch.randn(N, D, dtype=dtype, requires_grad=True)
    weight = torch.randn(V, D, dtype=dtype, requires_grad=True)
    offset = torch.randn(V, dtype=dtype, requires_grad=True) if bias else None
    return hidden, weight, offset, torch.randint(0, V, (N,))  # pyright: ignore[reportReturnType]


def reference(parts: tuple[Tensor, ...], o: Objective) -> Tensor:
    """Return the objective as its definition has it, from all logits."""
    hidden, weight, bias, targets = parts
    logits = F.linear(hidden, weight, bias)
    hard = F.cross_entropy(logits, targets, reduction="none", label_smoothing=o.smoothing)
    share = 0.0 if o.soft is None else o.soft_share
    value = (1 - share) * hard
    if o.soft is not None:
        value = value - share * (o.soft * logits.log_softmax(dim=-1)).sum(dim=-1)
    if o.penalty:
        value = value + o.penalty * logits.softmax(dim=-1)[:, -o.penalised :].sum(dim=-1)
    return (value if o.weights is None else value * o.weights).sum()


OBJECTIVES = {
    "plain": Objective(),
    "smoothing": Objective(smoothing=0.1),
    "penalty": Objective(penalty=0.25, penalised=3),
    "a teacher": Objective(soft=SOFT, soft_share=0.9),
    "weights": Objective(weights=torch.linspace(0, 2, N)),
    "all": Objective(
        weights=torch.linspace(0, 2, N),
        smoothing=0.1,
        penalty=0.5,
        penalised=2,
        soft=SOFT,
        soft_share=0.4,
    ),
}


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("bias", [True, False])
def test_value_and_gradients_are_those_of_the_definition(name: str, bias: bool) -> None:
    objective = OBJECTIVES[name]
    ours, theirs = case(bias=bias), case(bias=bias)
    value, entropy = linear_cross_entropy(*ours, objective)
    expected = reference(theirs, objective)
    (value / N).backward()
    (expected / N).backward()
    # Sums are in float32.
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-4)
    weights = torch.ones(N) if objective.weights is None else objective.weights
    plain = weights @ F.cross_entropy(F.linear(*theirs[:3]), theirs[3], reduction="none").float()
    torch.testing.assert_close(entropy, plain, rtol=1e-5, atol=1e-4)
    for mine, other in zip(ours[:3], theirs[:3], strict=True):
        if mine is not None:
            torch.testing.assert_close(mine.grad, other.grad, rtol=1e-5, atol=1e-6)


def test_the_reported_cross_entropy_has_no_gradient() -> None:
    value, entropy = linear_cross_entropy(*case())
    assert value.requires_grad
    assert not entropy.requires_grad


def test_a_frozen_head_costs_no_gradient_of_its_own() -> None:
    hidden, weight, bias, targets = case()
    weight.requires_grad_(False)
    bias.requires_grad_(False)
    linear_cross_entropy(hidden, weight, bias, targets)[0].backward()
    assert hidden.grad is not None
    assert weight.grad is bias.grad is None


def test_without_gradients_only_the_values_are_computed() -> None:
    parts = case()
    with torch.no_grad():
        value, entropy = linear_cross_entropy(*parts)
    assert not value.requires_grad
    assert value.item() == entropy.item() == pytest.approx(reference(parts, Objective()).item())


def test_a_sure_prediction_far_from_its_target_keeps_its_nats() -> None:
    """Probabilities underflow at 104 nats in float32; logarithms of them must not be taken."""
    hidden, weight = torch.tensor([[1.0]], requires_grad=True), torch.tensor([[0.0], [500.0]])
    value, _ = linear_cross_entropy(hidden, weight, None, torch.tensor([0]))
    value.backward()
    assert value.item() == 500.0
    assert hidden.grad is not None
    assert hidden.grad.item() == 500.0


def test_in_bf16_sums_are_in_float32() -> None:
    """A sum of a thousand losses in bf16 would be off by percents."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(1000, D), torch.zeros(V, D)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, _ = linear_cross_entropy(hidden, weight, None, torch.zeros(1000, dtype=torch.long))
    assert value.item() == pytest.approx(1000 * math.log(V), rel=1e-5)


def test_under_autocast_gradients_have_the_parameters_dtype() -> None:
    hidden, weight, bias, targets = case(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, _ = linear_cross_entropy(hidden, weight, bias, targets)
    value.backward()
    exact = case(torch.float32)
    reference(exact, Objective()).backward()
    for mine, other in zip((hidden, weight, bias), exact[:3], strict=True):
        assert mine.grad.dtype == torch.float32
        torch.testing.assert_close(mine.grad, other.grad, rtol=0.1, atol=0.1)


@pytest.mark.gpu
def test_on_a_gpu_the_objective_is_that_of_the_cpu() -> None:
    objective = Objective(smoothing=0.1, soft=SOFT, soft_share=0.4)
    here = case(torch.float32)
    value, _ = linear_cross_entropy(*here, objective)
    value.backward()
    there = [each.detach().cuda().requires_grad_(each.requires_grad) for each in here]
    on_gpu = Objective(smoothing=0.1, soft=SOFT.cuda(), soft_share=0.4)
    found, _ = linear_cross_entropy(there[0], there[1], there[2], there[3], on_gpu)
    found.backward()
    torch.testing.assert_close(found.cpu(), value, rtol=1e-4, atol=1e-4)
    for mine, other in zip(there[:3], here[:3], strict=True):
        torch.testing.assert_close(mine.grad.cpu(), other.grad, rtol=1e-4, atol=1e-4)
