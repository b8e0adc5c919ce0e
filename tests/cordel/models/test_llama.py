"""v7: the same function as transformers' Llama, on the same weights."""

import math
from collections.abc import Callable

import pytest
import torch

from cordel.models.llama import Params, RMSNorm, rotate

PARAMS = {"d_model": 12, "n_layer": 2, "n_head": 2, "d_ff": 20, "tied": False}
PARAMS |= {"rope_theta": 10000.0, "norm_epsilon": 1e-5, "init_sd": 0.02}


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("theta", [10000.0, 100.0])
def test_logits_are_those_of_transformers(build: Callable, tied: bool, theta: float) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415  (several seconds)

    model = build("llama", tied=tied, rope_theta=theta)
    config = LlamaConfig(
        vocab_size=11,
        hidden_size=12,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        tie_word_embeddings=tied,
    )
    reference = LlamaForCausalLM(config).eval()
    reference.load_state_dict(model.state_dict(), strict=not tied)
    reference.tie_weights()
    ids = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3]])
    torch.testing.assert_close(model(ids)[0], reference(ids).logits, rtol=0, atol=1e-5)


def test_root_mean_square_norm_gives_unit_mean_square_times_the_gain() -> None:
    # (3, 4) has mean square 12.5; with gain (1, 2) it becomes (3, 8) / sqrt(12.5).
    norm = RMSNorm(2, 0.0)
    norm.weight.data = torch.tensor([1.0, 2.0])
    expected = torch.tensor([3.0, 8.0]) / math.sqrt(12.5)
    torch.testing.assert_close(norm(torch.tensor([3.0, 4.0])), expected)


def test_rotation_turns_a_pair_by_its_angle() -> None:
    # Halves (1) and (0): 90 degrees turn (1, 0) into (0, 1).
    turned = rotate(torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[0.0, 0.0]]), torch.ones(1, 2))
    assert turned.tolist() == [[[[0.0, 1.0]]]]


@torch.no_grad()
def test_attention_depends_on_distance_not_on_place(build: Callable) -> None:
    model = build("llama")
    x = torch.randn(1, 1, 1, 6, generator=torch.Generator().manual_seed(0))
    y = torch.randn(1, 1, 1, 6, generator=torch.Generator().manual_seed(1))

    def product(first: int, second: int) -> float:
        turned = [rotate(v, *model._rotary(p, 1, v)) for v, p in ((x, first), (y, second))]
        return (turned[0] * turned[1]).sum().item()

    assert product(2, 5) == pytest.approx(product(9, 12), abs=1e-5)
    assert product(2, 5) != pytest.approx(product(2, 6), abs=1e-2)


def test_projections_into_the_residual_start_smaller(build: Callable) -> None:
    # sd 0.3 everywhere, but 0.3 / sqrt(2 x 8 layers) = 0.075 for o_proj and down_proj.
    model = build("llama", d_model=64, d_ff=64, n_layer=8)
    layer = model.model.layers[3]
    assert layer.self_attn.q_proj.weight.std().item() == pytest.approx(0.3, rel=0.05)
    assert layer.self_attn.o_proj.weight.std().item() == pytest.approx(0.075, rel=0.05)
    assert layer.mlp.down_proj.weight.std().item() == pytest.approx(0.075, rel=0.05)


def test_no_layer_has_a_bias(build: Callable) -> None:
    assert not [name for name, _ in build("llama").named_parameters() if "bias" in name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_head": 5}, "d_model 12 / n_head 5 is not an even head width"),
        ({"n_head": 4}, "d_model 12 / n_head 4 is not an even head width"),  # 3
        ({"d_ff": 0}, "d_ff is 0, expected more than 0"),
        ({"init_sd": -0.1}, "init_sd is -0.1, expected more than 0"),
        ({"rope_theta": 0.0}, "rope_theta is 0.0, expected more than 0"),
    ],
)
def test_a_llama_that_cannot_be_built_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Params(**(PARAMS | change))
