"""What counting gives: unigrams, bigrams, and trigrams with the token asked for taken out."""

from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cordel.kneser_ney import discounts
from cordel.models import build_model, parse_architecture
from cordel.runtime.errors import ParamsError
from cordel.training.ngrams import (
    BigramStart,
    TrigramTeacher,
    start_at_bigrams,
    start_at_unigrams,
)

V = 11
LLAMA = {
    "d_model": 16,
    "n_layer": 1,
    "n_head": 2,
    "d_ff": 24,
    "tied": False,
    "rope_theta": 1e4,
    "norm_epsilon": 1e-5,
    "init_sd": 0.02,
}
START = BigramStart(batches=150, contexts=8, learning_rate=0.05, embedding_rms=2.0)


def a_text(length: int = 1500, seed: int = 0) -> np.ndarray:
    """Return ids of a sharp Markov chain: some trigrams once, some often, some contexts once."""
    rng = np.random.default_rng(seed)
    following = rng.dirichlet(np.full(V, 0.15), size=V)
    ids = [0]
    for _ in range(length - 1):
        ids.append(int(rng.choice(V, p=following[ids[-1]])))
    return np.array(ids, dtype=np.uint16)


def a_llama(**changes: object) -> torch.nn.Module:
    torch.manual_seed(0)
    shape = parse_architecture("llama", LLAMA | changes, "test")
    return build_model("llama", shape, vocab_size=V, context_length=16)


def expected_row(ids: np.ndarray, place: int) -> np.ndarray:
    """Count everything anew without the trigram that ends at ``place``, discounts as they were."""
    trigrams = Counter(zip(*(ids[k : len(ids) - 2 + k].tolist() for k in range(3)), strict=True))
    D3 = discounts(np.array(list(trigrams.values())))
    D2 = discounts(np.array(list(Counter(t[1:] for t in trigrams).values())))
    lefts = Counter(w for _, w in {t[1:] for t in trigrams})
    D1 = discounts(np.array(list(lefts.values())))

    def interpolate(counts: dict[int, int], D: np.ndarray, below: np.ndarray) -> np.ndarray:
        total = sum(counts.values())
        if not total:
            return below
        kept = {w: c - D[min(c, 3)] for w, c in counts.items()}
        row = below * (1 - sum(kept.values()) / total)
        for w, share in kept.items():
            row[w] += share / total
        return row

    row = interpolate(lefts, D1, np.full(V, 1 / V))
    a, b, w = (int(x) for x in ids[place - 2 : place + 1])
    trigrams[a, b, w] -= 1
    there = [t for t, count in trigrams.items() if count]
    row = interpolate(Counter(t[2] for t in there if t[1] == b), D2, row)
    following = {t[2]: trigrams[t] for t in there if t[:2] == (a, b)}
    return interpolate(following, D3, row)


@pytest.mark.parametrize("seed", range(3))
def test_a_teachers_row_is_that_of_the_text_without_the_token_asked_for(seed: int) -> None:
    ids = a_text(260, seed=seed)
    windows = torch.from_numpy(ids[None, :201].astype(np.int64))
    found = TrigramTeacher(ids, V).rows(windows)
    expected = np.stack([expected_row(ids, place) for place in range(2, 201)])
    np.testing.assert_allclose(found[1:].numpy(), expected, atol=2e-6)


def test_every_row_is_a_distribution_and_windows_do_not_see_one_another() -> None:
    ids = a_text()
    teacher = TrigramTeacher(ids, V)
    windows = torch.from_numpy(np.stack([ids[5:30], ids[700:725]]).astype(np.int64))
    found = teacher.rows(windows)
    assert found.shape == (48, V)
    assert float(found.min()) > 0
    torch.testing.assert_close(found.sum(dim=-1), torch.ones(48))
    torch.testing.assert_close(found[24:], teacher.rows(windows[1:]))


def test_a_vocabulary_too_large_for_a_table_of_bigrams_is_refused() -> None:
    with pytest.raises(ParamsError, match=r"teacher_share needs a table of 40,000 x 40,000"):
        TrigramTeacher(a_text(), 40_000)


def test_a_start_at_bigrams_predicts_as_the_bigrams_do() -> None:
    ids = a_text(4000)
    model = a_llama()
    blocks = {n: p.clone() for n, p in model.named_parameters() if "layers" in n}
    start_at_bigrams(model, ids, START, seed=0)
    counts = np.zeros((V, V))
    np.add.at(counts, (ids[:-1], ids[1:]), 1)
    seen = counts.sum(axis=1) > 50
    wanted = counts / counts.sum(axis=1, keepdims=True).clip(1)
    logits = F.linear(model.past_blocks(torch.arange(V)), *model.head)
    found = logits.softmax(dim=-1).detach().numpy()
    apart = np.abs(found - wanted)[seen].sum(axis=1) / 2
    assert seen.sum() > 4
    assert apart.max() < 0.06
    assert float(model.embedding.detach().square().mean().sqrt()) == pytest.approx(2.0)
    for name, before in blocks.items():
        assert torch.equal(dict(model.named_parameters())[name], before), name


def test_a_start_at_bigrams_is_the_same_for_one_seed_and_differs_for_another() -> None:
    found = []
    for seed in (1, 1, 2):
        model = a_llama()
        start_at_bigrams(model, a_text(), START, seed=seed)
        found.append(model.embedding.detach())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_bigrams_need_an_output_of_their_own() -> None:
    with pytest.raises(ParamsError, match=r"bigram_start needs .* tied: false"):
        start_at_bigrams(a_llama(tied=True), a_text(), START, seed=0)


def test_unigrams_start_an_rnn_at_the_frequencies_of_the_train_tokens() -> None:
    shape = {"cell": "gru", "d_embedding": 4, "d_model": 4, "n_layer": 1}
    shape |= {"layer_norm": False, "input_dropout": 0.0, "output_dropout": 0.0}
    model = build_model(
        "rnn", parse_architecture("rnn", shape, "test"), vocab_size=3, context_length=4
    )
    start_at_unigrams(model, np.array([0, 0, 0, 2], dtype=np.uint16))
    assert model.output.bias.softmax(0).tolist() == pytest.approx([4 / 7, 1 / 7, 2 / 7])


def test_unigrams_need_an_output_bias() -> None:
    with pytest.raises(ParamsError, match=r"unigram_bias is true, but .* no output bias"):
        start_at_unigrams(a_llama(), np.array([0], dtype=np.uint16))
