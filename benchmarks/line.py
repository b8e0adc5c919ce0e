"""The line to beat: when v7 overtakes a Kneser-Ney trigram that reads the same text in seconds.

On test documents, and on documents of sources kept out of training. Every budget is a run of its
own to the end of its schedule. Where the longest is not there yet, a power law over the budgets
says when (and is marked so). Beside it stands what both give together: at every token their
probabilities mixed in one share, which is chosen on val.

The texts, the shape and the rate are those of ``params.yaml``, as in ``benchmarks.quality``; every
token is scored once, with the whole document before it (trigrams) or half a window of it (v7).
"""

import logging
import math
import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.quality import OURS, RECIPE, SEEDS, Run, Text
from benchmarks.study import overtakes, power_law
from cordel.evaluation.scoring import windows_of
from cordel.kneser_ney import KneserNey

log = logging.getLogger("line")

BUDGETS, QUICK_BUDGETS = (75.0, 150.0, 300.0, 600.0), (1.0, 2.0)  # CPU seconds
TEXTS = ("test", "reserved")
SHARES = np.linspace(0.0, 1.0, 21)  # of v7 in the mixture


def measure(*, quick: bool) -> dict[str, Any]:
    """Return bits per byte of the n-grams, of v7 over CPU seconds and of both, and crossings."""
    ours, recipe = (Run(name, quick=quick) for name in (OURS, RECIPE))
    trigrams, counting = fitted(ours)
    alone = {name: trigram_nats(trigrams, ours, text) for name, text in ours.texts.items()}
    theirs, counting_theirs = fitted(recipe)
    ngrams = {
        f"{ours.tokenizer.vocab_size:,} pieces of v7": {"cpu_seconds": counting}
        | {text: bits(alone[text], ours.texts[text]) for text in TEXTS},
        f"{recipe.tokenizer.vocab_size:,} pieces of v6": {"cpu_seconds": counting_theirs}
        | {
            text: bits(trigram_nats(theirs, recipe, recipe.texts[text]), recipe.texts[text])
            for text in TEXTS
        },
    }
    runs = []
    for budget in QUICK_BUDGETS if quick else BUDGETS:
        curve, model = ours.train(budget, (), seed=SEEDS[0], rate=None, marks=1)
        own = {name: token_nats(model, ours, text) for name, text in ours.texts.items()}
        share = best_share(own["val"], alone["val"])
        runs.append(
            {"cpu_seconds": round(curve[-1][0], 1), "share": share}
            | {text: bits(own[text], ours.texts[text]) for text in TEXTS}
            | {
                f"{text}, mixed": bits(mixed(own[text], alone[text], share), ours.texts[text])
                for text in TEXTS
            }
        )
        log.info("%s", runs[-1])
    points = {text: [(run["cpu_seconds"], run[text]) for run in runs] for text in TEXTS}
    laws = {text: power_law(points[text]) for text in TEXTS}
    crossings = {
        name: {text: overtakes(points[text], found[text]) for text in TEXTS}
        for name, found in ngrams.items()
    }
    return {"ngrams": ngrams, "runs": runs, "crossings": crossings} | {
        "laws": {text: law.as_json() for text, law in laws.items()}
    }


class Trigrams(KneserNey):
    """Trigrams that tell the likelihood of every token."""

    def token_nats(self, document: np.ndarray) -> np.ndarray:
        """Return ``float64[tokens]``, which ``nats`` sums."""
        packed = self._ngrams([document])
        probability = np.full(len(packed), 1 / self.vocab_size)
        for length, level in enumerate(self._levels, start=1):
            grams = packed & ((1 << self.bits * length) - 1)
            probability = level.interpolate(grams, probability)
        return -np.log(probability)


def fitted(run: Run) -> tuple[Trigrams, float]:
    """Return trigrams of the run's train text, and the CPU seconds that counting took."""
    begun = time.process_time()
    begin, end = run.tokenizer.begin, run.tokenizer.end
    ends = np.flatnonzero(np.isin(run.train_ids, end)) + 1
    documents = [ids[len(begin) :] for ids in np.split(run.train_ids, ends)[:-1]]
    pad = begin[0] if begin else run.tokenizer.vocab_size
    model = Trigrams(3, max(run.tokenizer.vocab_size, pad + 1), begin=pad)
    model.fit(documents)
    return model, round(time.process_time() - begun, 2)


def trigram_nats(model: Trigrams, run: Run, text: Text) -> np.ndarray:
    """Return the trigrams' nats of every token of a text, ends of documents included."""
    skip = len(run.tokenizer.begin)
    return np.concatenate([model.token_nats(ids[skip:]) for ids in text.documents])


@torch.no_grad()
def token_nats(model: Any, run: Run, text: Text) -> np.ndarray:
    """Return a Transformer's nats of the same tokens, in windows that overlap by half."""
    model.eval()
    found, skip = [], len(run.tokenizer.begin)
    for document in text.documents:
        for window in windows_of(document.tolist(), model.context_length, skip, 0):
            ids = torch.tensor(window.ids)
            logits_TV = model(ids[None, :-1])[0][0, window.first :].float()
            found.append(F.cross_entropy(logits_TV, ids[1 + window.first :], reduction="none"))
    return torch.cat(found).double().numpy()


def mixed(ours: np.ndarray, theirs: np.ndarray, share: float) -> np.ndarray:
    """Return the nats of both models' probabilities mixed, ``share`` of ours."""
    return -np.log(share * np.exp(-ours) + (1 - share) * np.exp(-theirs))


def best_share(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the share of ours that gives the fewest nats."""
    nats = [mixed(ours, theirs, share).sum() for share in SHARES]
    return round(float(SHARES[int(np.argmin(nats))]), 2)


def bits(nats: np.ndarray, text: Text) -> float:
    """Return bits per byte; a byte behind an unknown id costs eight."""
    found = float(nats.sum()) / math.log(2) + 8 * text.meta.unknown_bytes
    return round(found / text.meta.bytes, 4)
