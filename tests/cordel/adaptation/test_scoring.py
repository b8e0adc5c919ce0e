"""An adapted model in the shape of our own, scored by the function that scores them."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from cordel.adaptation.chat import Chat
from cordel.adaptation.corpus import encoded
from cordel.adaptation.quantised import BaseModel, LoraParams, arm, load_base, new_adapter
from cordel.adaptation.scoring import AsLanguageModel
from cordel.compute import Compute, seed_everything
from cordel.corpus.documents import Document
from cordel.evaluation.likelihood import Likelihood
from cordel.evaluation.scoring import score_documents
from cordel.tokens import Encoded

TEXTS = ("Bom dia.", "A praça da estação ficou fechada.", "Não há pão em casa, só café.")


@pytest.fixture(scope="module")
def model(base: BaseModel, cpu: Compute) -> Any:
    """Return the tiny base in NF4 with an adapter that changes its logits."""
    seed_everything(0)
    lora = LoraParams(rank=2, alpha=4, dropout=0.0, targets=("q_proj", "down_proj"))
    adapted = new_adapter(load_base(base, cpu), lora)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return adapted.eval()


@pytest.fixture(scope="module")
def documents(chat: Chat) -> list[Encoded]:
    """Return three short documents of different lengths."""
    return list(encoded(chat, (Document(t, "", "", t) for t in TEXTS)))


def score(
    model: Any, documents: list[Encoded], cpu: Compute, *, context_length: int = 128
) -> list[Likelihood]:
    """Return what the stage computes: a frame of begin and end, windows in batches of 2."""
    wrapped: Any = AsLanguageModel(model, context_length)
    return score_documents(wrapped, documents, context=[2], begin=[2], batch_size=2, compute=cpu)


def test_the_logits_are_the_models(model: Any) -> None:
    ids = torch.tensor([[2, 40, 300, 17], [2, 8, 9, 10]])
    with torch.no_grad():
        found, state = AsLanguageModel(model, 128)(ids)
        assert torch.equal(found, model(input_ids=ids, use_cache=False).logits)
    assert state is None


def test_it_is_a_transformer_without_a_state(model: Any) -> None:
    wrapped = AsLanguageModel(model, 99)
    assert (wrapped.carries_state, wrapped.context_length) == (False, 99)
    assert wrapped.initial_state() is None


@pytest.mark.parametrize("name", ["default", None])
def test_a_documents_score_is_its_cross_entropy(
    model: Any, documents: list[Encoded], cpu: Compute, name: str | None
) -> None:
    with arm(model, name), torch.no_grad():
        scores = score(model, documents, cpu)
        for found, document in zip(scores, documents, strict=True):
            ids = torch.tensor([document.ids])
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
            nats = F.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
            assert found.nats == pytest.approx(nats, abs=1e-4)
            assert found.correct == int((logits.argmax(dim=-1) == ids[0, 1:]).sum())
            assert found.tokens == len(document.ids) - 1


def test_bytes_are_those_of_the_text(model: Any, documents: list[Encoded], cpu: Compute) -> None:
    scores = score(model, documents, cpu)
    assert [s.bytes for s in scores] == [len(text.encode()) for text in TEXTS]


def test_a_long_document_is_read_in_windows_that_overlap_by_half(
    model: Any, documents: list[Encoded], cpu: Compute
) -> None:
    ids = documents[2].ids
    [found] = score(model, documents[2:], cpu, context_length=8)
    expected, scored = 0.0, 1
    with torch.no_grad():
        for start in range(0, len(ids), 4):
            window = torch.tensor([ids[start : start + 9]])
            if start + window.shape[1] <= scored:
                break
            logits = model(input_ids=window[:, :-1], use_cache=False).logits[0]
            nats = F.cross_entropy(logits, window[0, 1:], reduction="none")
            expected += nats[scored - start - 1 :].sum().item()
            scored = start + window.shape[1]
    assert scored == len(ids) > 12
    assert found.nats == pytest.approx(expected, abs=1e-4)


def test_the_adapter_that_is_on_is_scored(
    model: Any, documents: list[Encoded], cpu: Compute
) -> None:
    with arm(model, "default"):
        on = score(model, documents, cpu)
    with arm(model, None):
        off = score(model, documents, cpu)
    assert all(abs(a.nats - b.nats) > 0.1 for a, b in zip(on, off, strict=True))
