"""The line to beat: when v7 overtakes a Kneser-Ney trigram that reads the same text in seconds.

On test documents, and on documents of sources kept out of training. The texts, the shape and the
protocol are those of ``benchmarks.quality``.
"""

from typing import Any

from benchmarks.quality import OURS, RECIPE, SEEDS, Run, crossing

RATE = 2e-3  # the sweep's of benchmarks.quality
FULL, QUICK = (1800.0, 16), (2.0, 2)  # CPU seconds, evaluations
TEXTS = ("test", "reserved")


def measure(*, quick: bool) -> dict[str, Any]:
    """Return the n-grams' bits per byte, v7's over CPU seconds, and where they cross."""
    seconds, marks = QUICK if quick else FULL
    runs = [Run(name, quick=quick) for name in (OURS, RECIPE)]
    ngrams = {f"{run.tokenizer.vocab_size:,} pieces": run.ngrams(TEXTS) for run in runs}
    curve = runs[0].train(seconds, TEXTS, seed=SEEDS[0], rate=RATE, marks=marks)
    crossings = {
        name: {
            text: crossing([(point[0], point[1 + k]) for point in curve], found[text])
            for k, text in enumerate(TEXTS)
        }
        for name, found in ngrams.items()
    }
    return {"ngrams": ngrams, "curve": curve, "crossings": crossings, "rate": RATE}
