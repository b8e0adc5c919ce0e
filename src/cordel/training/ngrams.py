"""What counting knows before training begins: unigrams, bigrams and trigrams of the train text.

Counting a text takes seconds; a network needs hours to learn from it what the counts say. So a
run may begin at the counts (output bias at the unigrams, embedding and output at the bigrams) and
may have Kneser-Ney trigrams among its targets. What each gives is in docs/performance.md.

Shapes: B batch, T time, N = B T places, V vocabulary.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cordel.kneser_ney import discounts
from cordel.losses import Objective, linear_cross_entropy
from cordel.runtime.errors import ParamsError
from cordel.training.params import BigramStart

MAX_BYTES = 4 * 2**30  # of the V x V table of bigrams: a vocabulary of 32,768


def start_at_unigrams(model: Any, train_ids: np.ndarray) -> None:
    """Set the output bias to the log frequencies of the train tokens (each seen once more).

    From a zero bias a GRU first learns the frequencies with its hidden units, which saturate, and
    with thousands of pieces it stays there for the first thousands of steps (docs/notebook.md).

    Raises:
        ParamsError: The architecture has no output bias.
    """
    _, bias = model.head
    if bias is None:
        raise ParamsError(
            "unigram_bias is true, but this architecture has no output bias; set false"
        )
    counts = np.bincount(train_ids, minlength=len(bias)) + 1.0
    bias.data.copy_(torch.from_numpy(np.log(counts / counts.sum())))


def start_at_bigrams(model: Any, train_ids: np.ndarray, params: BigramStart, *, seed: int) -> None:
    """Fit the embedding and the output to the bigrams of the train text, past the blocks.

    One context is one row of the V x V table, however often it occurs, so an update costs as much
    as one on ``contexts`` tokens and learns from all their occurrences. Contexts are drawn by their
    counts to the power of 0.75 and weighted back.

    Raises:
        ParamsError: The architecture has no path past its blocks, or one matrix for both.
    """
    weight, bias = model.head
    if not hasattr(model, "past_blocks") or weight is model.embedding:
        raise ParamsError(
            "bigram_start needs an embedding and an output of their own (a Llama with tied: false);"
            " set it to null"
        )
    device, V = weight.device, len(weight)
    table = _Bigrams(train_ids, V)
    seen = np.flatnonzero(table.totals)
    drawn = table.totals[seen] ** 0.75 / (table.totals[seen] ** 0.75).sum()
    back = table.totals[seen] / table.totals.sum() / drawn / params.contexts
    optimizer = torch.optim.AdamW(
        [model.embedding, weight], lr=params.learning_rate, betas=(0.9, 0.95), weight_decay=0.0
    )
    rng = np.random.default_rng((seed, params.batches))
    for batch in range(params.batches):
        chosen = rng.choice(len(seen), params.contexts, p=drawn)
        contexts = torch.from_numpy(seen[chosen]).to(device)
        objective = Objective(
            soft=torch.from_numpy(table.rows(seen[chosen])).to(device),
            soft_share=1.0,
            weights=torch.from_numpy(back[chosen].astype(np.float32)).to(device),
        )
        hidden_ND = model.past_blocks(contexts)
        loss, _ = linear_cross_entropy(hidden_ND, weight, bias, contexts, objective)
        optimizer.param_groups[0]["lr"] = params.learning_rate * min(
            1.0, (batch + 1) / 5, 2 * (1 - batch / params.batches)
        )
        loss.backward()
        optimizer.step()
        model.zero_grad(set_to_none=True)
    with torch.no_grad():
        model.embedding.mul_(params.embedding_rms / model.embedding.square().mean().sqrt())


class _Bigrams:
    """Smoothed distributions of what follows each id: discounted counts, the rest as unigrams."""

    def __init__(self, ids: np.ndarray, vocab_size: int) -> None:
        pairs = ids[:-1].astype(np.int64) * vocab_size + ids[1:]
        keys, counts = np.unique(pairs, return_counts=True)
        first, self.second = np.divmod(keys, vocab_size)
        self.starts = np.searchsorted(first, np.arange(vocab_size + 1))
        self.totals = np.bincount(first, weights=counts, minlength=vocab_size)
        shares = counts - discounts(counts)[np.minimum(counts, 3)]
        kept = np.bincount(first, weights=shares, minlength=vocab_size)
        self.left = 1 - kept / np.maximum(self.totals, 1)
        self.shares = (shares / self.totals[first]).astype(np.float32)
        unigrams = np.bincount(ids, minlength=vocab_size) + 1.0
        self.unigrams = (unigrams / unigrams.sum()).astype(np.float32)

    def rows(self, contexts: np.ndarray) -> np.ndarray:
        """Return ``float32[N, V]``."""
        found = self.left[contexts, None].astype(np.float32) * self.unigrams
        for row, context in zip(found, contexts, strict=True):
            these = slice(self.starts[context], self.starts[context + 1])
            row[self.second[these]] += self.shares[these]
        return found


class TrigramTeacher(nn.Module):
    """Interpolated modified Kneser-Ney trigrams as targets, each without the token it is asked for.

    A trigram that occurs once would tell what follows with certainty, as it was counted there. So
    the occurrence that is asked about is taken out of all counts first (of its trigram, and of its
    bigram where that was the only one with this left neighbour); unigrams stay as they are.
    """

    contexts: Tensor  # int64, sorted: the first two tokens of every trigram, as one number
    starts: Tensor  # of each context's trigrams in the next three
    words: Tensor  # the third token
    counts: Tensor
    shares: Tensor  # counts less their discounts
    totals: Tensor  # counts of each context
    kept: Tensor  # shares of each context
    bigrams: Tensor  # int64, sorted, as one number
    befores: Tensor  # how many different tokens stand before each
    bigram_totals: Tensor  # these, summed by first token
    bigram_rest: Tensor  # what discounts leave of them to the unigrams
    table: Tensor  # float32[V, V], rows of the bigrams' distributions
    unigrams: Tensor  # float32[V]
    D3: Tensor  # discounts of counts 0 to 3 and more
    D2: Tensor

    def __init__(self, ids: np.ndarray, vocab_size: int) -> None:
        """Count ``ids``, one stream with the documents' ends in it.

        Raises:
            ParamsError: The vocabulary is too large for a table of all bigrams.
        """
        super().__init__()
        V = self.vocab_size = vocab_size
        if 4 * V * V > MAX_BYTES:
            raise ParamsError(
                f"teacher_share needs a table of {V:,} x {V:,} bigrams, more than "
                f"{MAX_BYTES // 2**30} GiB; set it to 0 or take a smaller vocabulary"
            )
        x = ids.astype(np.int64)
        keys, counts = np.unique((x[:-2] * V + x[1:-1]) * V + x[2:], return_counts=True)
        contexts, start = np.unique(keys // V, return_index=True)
        # Lower orders count distinct left neighbours, not occurrences.
        bigrams, befores = np.unique(keys % (V * V), return_counts=True)
        first, second = np.divmod(bigrams, V)
        words, lefts = np.unique(second, return_counts=True)
        D3, D2, D1 = discounts(counts), discounts(befores), discounts(lefts)
        shares = counts - D3[np.minimum(counts, 3)]
        unigrams = np.full(V, D1[np.minimum(lefts, 3)].sum() / lefts.sum() / V)
        unigrams[words] += (lefts - D1[np.minimum(lefts, 3)]) / lefts.sum()
        kept = befores - D2[np.minimum(befores, 3)]
        totals = np.bincount(first, weights=befores, minlength=V)
        rest = totals - np.bincount(first, weights=kept, minlength=V)
        left = np.where(totals > 0, rest / totals.clip(1), 1.0)
        table = np.outer(left, unigrams).astype(np.float32)
        table[first, second] += (kept / totals[first]).astype(np.float32)
        found = {
            "contexts": contexts,
            "starts": np.append(start, len(keys)),
            "totals": np.add.reduceat(counts, start),
            "kept": np.add.reduceat(shares, start),
            "words": keys % V,
            "counts": counts,
            "shares": shares.astype(np.float32),
            "bigrams": bigrams,
            "befores": befores,
            "bigram_totals": totals,
            "bigram_rest": rest,
            "table": table,
            "unigrams": unigrams.astype(np.float32),
            "D3": D3,
            "D2": D2,
        }
        for name, values in found.items():
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(values)))

    @torch.no_grad()
    def rows(self, ids_BT1: Tensor) -> Tensor:
        """Return the targets ``float32[N, V]`` of all places of windows ``int64[B, T + 1]``.

        The first place of a window has one token before it: its target is the bigrams'.
        """
        b, w = ids_BT1[:, :-1].flatten(), ids_BT1[:, 1:].flatten()
        a = torch.nn.functional.pad(ids_BT1[:, :-2], (1, 0), value=-1).flatten()
        place = _find(self.contexts, a * self.vocab_size + b)
        known = place >= 0
        place = place.clamp(min=0)
        lengths = (self.starts[place + 1] - self.starts[place]) * known
        row = torch.repeat_interleave(lengths)
        nth = torch.arange(len(row), device=row.device) - (lengths.cumsum(0) - lengths)[row]
        entry = self.starts[place][row] + nth
        word, share, own = self.words[entry], self.shares[entry], self.words[entry] == w[row]
        # How often the trigram itself was counted; never, at the first place of a window.
        count = torch.zeros_like(b)
        count[row[own]] = self.counts[entry[own]]
        out = count > 0
        kept_then = _kept(count - 1, self.D3)
        total = self.totals[place] * known - 1 * out
        kept = self.kept[place] * known + (kept_then - _kept(count, self.D3)) * out
        some = total > 0
        share = torch.where(own & out[row], kept_then[row], share)
        share = torch.where(some[row], share / total[row].clamp(min=1), 0.0)
        left = torch.where(some, 1 - kept / total.clamp(min=1), 1.0)
        found_NV = self._bigram_rows(b, w, left, gone=count == 1)
        return found_NV.index_put_((row, word), share.float(), accumulate=True)

    def _bigram_rows(self, b: Tensor, w: Tensor, share: Tensor, *, gone: Tensor) -> Tensor:
        """Return ``share`` x the bigrams' rows; where ``gone``, w has one left neighbour less."""
        total, rest = self.bigram_totals[b], self.bigram_rest[b]
        before = self.befores[_find(self.bigrams, b * self.vocab_size + w).clamp(min=0)]
        change = (_kept(before - 1, self.D2) - _kept(before, self.D2)) * gone
        total_then = total - 1 * gone
        rest_then = rest - 1 * gone - change
        alone = gone & (total_then == 0)  # nothing is left but the unigrams
        total_then = total_then.clamp(min=1)
        # The table's row is shares / total + rest / total x unigrams; the wanted one has the new
        # total and rest, and w's own share changed.
        scale = torch.where(gone, total / total_then, 1.0) * ~alone
        more = (rest_then - rest) / total_then * gone
        of_rows, of_unigrams = share * scale, share * torch.where(alone, 1.0, more)
        found_NV = self.table[b] * of_rows.float()[:, None]
        found_NV.addmm_(of_unigrams.float()[:, None], self.unigrams[None])
        places = torch.arange(len(b), device=b.device)
        own = torch.where(alone, 0.0, share * change / total_then)
        return found_NV.index_put_((places, w), own.float(), accumulate=True)


def _kept(count: Tensor, discount: Tensor) -> Tensor:
    """Return what is left of counts after their discounts."""
    count = count.clamp(min=0)
    return count - discount[count.clamp(max=3)]


def _find(keys: Tensor, wanted: Tensor) -> Tensor:
    """Return the place of each wanted key among the sorted keys, or -1."""
    place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    return torch.where(keys[place] == wanted, place, -1)
