"""v5 and v6: positions, tied output, initialisation."""

from collections.abc import Callable

import pytest
import torch

from cordel.models.gpt import F

IDS = torch.tensor([[1, 2, 3]])


def test_the_output_is_the_token_embedding_with_a_bias_of_its_own(build: Callable) -> None:
    model = build("gpt")
    before = model(IDS)[0]
    model.vocab_bias.data[4] = 2.0
    difference = model(IDS)[0] - before
    expected = torch.tensor([0, 0, 0, 0, 2.0] + [0] * 6).expand(1, 3, -1)
    torch.testing.assert_close(difference, expected)


def test_the_place_of_a_token_matters(build: Callable) -> None:
    # The same id everywhere: without positions every place would see the same.
    logits = build("gpt")(torch.tensor([[7, 7, 7]]))[0]
    assert not torch.allclose(logits[0, 0], logits[0, 1], atol=1e-4)


def test_more_than_the_context_is_refused(build: Callable) -> None:
    with pytest.raises(IndexError, match="index out of range"):
        build("gpt")(torch.zeros(1, 17, dtype=torch.int64))


def test_biases_start_at_zero_and_embeddings_within_a_twentieth(build: Callable) -> None:
    model = build("gpt")
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    assert not any(bias.any() for bias in biases)
    assert 0.04 < model.tokens.weight.abs().max().item() <= 0.05


def test_kernels_are_glorot_uniform(build: Callable) -> None:
    # sqrt(6 / (12 + 20)) bounds a matrix between widths 12 and 20.
    largest = build("gpt").blocks[0].up_proj.weight.abs().max().item()
    assert 0.9 < largest / (6 / 32) ** 0.5 <= 1


def test_dropout_follows_the_embedding_and_both_halves_of_a_block(
    build: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []
    monkeypatch.setattr(F, "dropout", lambda x, *_: shapes.append(x.shape[-1]) or x)
    build("gpt").train()(IDS)
    # Width 12 after the embedding and attention, 20 inside the feed-forward (thesis 3.2).
    assert shapes == [12, *[12, 20] * 2]


def test_attention_itself_has_dropout(build: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(F, "dropout", lambda x, *_: x)
    model = build("gpt", dropout=0.5).train()
    assert not torch.equal(model(IDS)[0], model(IDS)[0])
