"""Tell which published samples are noise: drawn from NumPy's generator, not from a model.

Golden items G12 and G13. Every set of samples is held against the forgery (``audit.forgery``)
with each published tokenizer. A sample that is noise with a few other tokens is read whole, so that
the results name each token that a model can have chosen; nothing is explained away.
"""

import argparse
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any

from audit.forgery import (
    TOKENS,
    Reader,
    Reading,
    common_prefix,
    forge_with,
    log10_chance,
    noise,
    spelt,
)
from audit.published import Published, write_results
from audit.samples import TOKENIZERS, Generated, SampleSet, published_sets, tokenizers_at_hand
from cordel.runtime.console import run_stage

log = logging.getLogger(Path(__file__).stem)
SEEDS = range(101, 106)  # of the standard prompts
FREQUENT = 500  # the pieces of a unigram vocabulary are sorted by frequency
Row = dict[str, Any]
Readers = Mapping[str, Reader]


@dataclass(frozen=True, slots=True)
class Judged:
    """A sample beside the forgery that comes nearest to it."""

    sample: Generated
    tokenizer: str
    prefix: int
    equal: bool
    reading: Reading | None


def judge(sample: Generated, readers: Readers) -> Judged:
    """Return which tokenizer's noise a sample is, if any."""
    texts = {name: forge_with(r.processor, sample.seed) for name, r in readers.items()}
    prefixes = {name: common_prefix(text, sample.output) for name, text in texts.items()}
    nearest = max(prefixes, key=prefixes.__getitem__)
    reading = readers[nearest].read(sample.output, sample.seed)
    return Judged(sample, nearest, prefixes[nearest], texts[nearest] == sample.output, reading)


def sample_row(judged: Judged, readers: Readers) -> Row:
    """Return what is said of one sample.

    ``log10_chance`` is of V^-n for the n tokens that are the generator's: the chance that whoever
    does not know its stream writes the same ones.
    """
    reading = judged.reading
    row: Row = {
        "characters": len(judged.sample.output),
        "equal_from_start": judged.prefix,
        "equal": judged.equal,
        "seed_published": judged.sample.seed_published,
        "forged_by": judged.tokenizer if reading else None,
    }
    if reading is None:
        return row
    reader = readers[judged.tokenizer]
    same = len(reading.ids) - len(reading.departures)
    return row | {
        "tokens": len(reading.ids),
        "tokens_from_noise": same,
        "departures": [spelt(reader, departure) for departure in reading.departures],
        "stopped_early": len(reading.ids) < TOKENS,
        "reproduced_whole": True,
        "log10_chance": log10_chance(len(reader.surfaces), same),
    }


def set_row(samples: SampleSet, judged: Sequence[Judged], readers: Readers) -> Row:
    """Return what is said of the samples of one model in one file."""
    readings = [j.reading for j in judged if j.reading]
    tokens = sum(len(reading.ids) for reading in readings)
    departures = sum(len(reading.departures) for reading in readings)
    return {
        "file": samples.file,
        "model_key": samples.model_key,
        "samples": {str(j.sample.seed): sample_row(j, readers) for j in judged},
        "of": len(judged),
        "equal": sum(j.equal for j in judged),
        "noise": len(readings),
        "tokenizers": sorted({j.tokenizer for j in judged if j.reading}),
        "tokens": tokens,
        "departures": departures,
        "share_from_noise": (tokens - departures) / tokens if tokens else None,
        "longest_prefix": max((j.prefix for j in judged), default=0),
        "shortest_prefix": min((j.prefix for j in judged), default=0),
    }


def claim(row: Row) -> Row:
    """Return the claim that a set of samples was written by its model, and what is left of it.

    Where a set is not this forgery, that is all that was shown: ``holds`` is None.
    """
    found = {
        "published": f"{row['of']} samples of {row['model_key'] or Path(row['file']).stem}",
        "recomputed": f"{row['noise']} of {row['of']} are uniform noise without any model",
        "holds": False if row["noise"] else None,
    }
    if row["noise"]:
        why = f"{row['departures']} of {row['tokens']} tokens are not the generator's"
    else:
        why = f"no more than {row['longest_prefix']} characters in common with the forgery"
    return found | {"explanation": why}


# --- controls and causes --------------------------------------------------------------------------


def control(judged: Sequence[Judged], readers: Readers) -> Row:
    """Return what the method says where it must say no: noise read with each other seed."""
    forged = {j.sample.output: j for j in judged if j.reading}
    read = longest = tried = 0
    for text, j in forged.items():
        for seed in set(SEEDS) - {j.sample.seed}:
            tried += 1
            read += readers[j.tokenizer].read(text, seed) is not None
            wrong = forge_with(readers[j.tokenizer].processor, seed)
            longest = max(longest, common_prefix(wrong, text))
    return {"texts": len(forged), "tried": tried, "read_as_noise": read, "longest_prefix": longest}


def special_ids(readers: Readers) -> Row:
    """Return how many control and unknown ids the streams draw: none, so no rule of them acts."""
    return {
        name: sum(
            reader.processor.is_control(n) or reader.processor.is_unknown(n)
            for seed in SEEDS
            for n in noise(len(reader.surfaces), seed)
        )
        for name, reader in readers.items()
    }


def departure_ranks(judged: Sequence[Judged], readers: Readers) -> Row:
    """Return which pieces stand where noise was not: a model's, if they are the frequent ones.

    The step's threshold was the position in the vocabulary of the k-th logit. A piece survives it
    only where that position is smaller than the largest logit, that is, next to zero.
    """
    pairs: dict[str, set[tuple[str, int, int, int]]] = defaultdict(set)
    for j in judged:
        for d in j.reading.departures if j.reading else []:
            pairs[j.tokenizer].add((j.sample.output, d.position, d.drawn, d.published))
    found: Row = {}
    for name, unique in sorted(pairs.items()):
        ids = [published for *_, published in unique]
        found[name] = {
            "departures": len(ids),
            "vocabulary": len(readers[name].surfaces),
            "median_id_drawn": median(drawn for *_, drawn, _ in unique),
            "median_id_published": median(ids),
            "published_among_first_500": sum(n < FREQUENT for n in ids) / len(ids),
            "first_500_of_vocabulary": FREQUENT / len(readers[name].surfaces),
        }
    return found


def identical(sets: Sequence[SampleSet]) -> list[Row]:
    """Return the texts that stand in several sets under the same seed, byte for byte."""
    where: dict[tuple[int, str], list[SampleSet]] = defaultdict(list)
    for samples in sets:
        for sample in samples.samples:
            where[sample.seed, sample.output].append(samples)
    return [
        {
            "seed": seed,
            "characters": len(text),
            "sha256": sha256(text.encode()).hexdigest(),
            "sets": [samples.name for samples in found],
            "files": len({samples.file for samples in found}),
            "model_keys": sorted({samples.model_key for samples in found}),
        }
        for (seed, text), found in sorted(where.items(), key=lambda item: item[0])
        if len(found) > 1
    ]


def main() -> None:
    """Write all of it as one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--published", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    published = Published(args.published)
    readers = {name: Reader(found) for name, found in tokenizers_at_hand(published).items()}
    sets = list(published_sets(published))
    found = check(sets, readers)
    write_results(args.out, found)
    for name, row in found.get("sets", {}).items():
        log.info(
            "%s: %d of %d are noise, %d equal; longest common prefix %d",
            *(name, row["noise"], row["of"], row["equal"], row["longest_prefix"]),
        )


def check(sets: Sequence[SampleSet], readers: Readers) -> Row:
    """Return the whole of the results."""
    missing = sorted(set(TOKENIZERS) - set(readers))
    absent = "; ".join(f"tokenizer {name} is not at hand" for name in missing)
    if not readers or not sets:
        return {"not_checkable": absent or "no file of samples is at hand"}
    judged = {samples.name: [judge(s, readers) for s in samples.samples] for samples in sets}
    rows = {s.name: set_row(s, judged[s.name], readers) for s in sets}
    everyone = [j for of_set in judged.values() for j in of_set]
    return {
        "not_tried": absent or None,
        "sets": rows,
        "claims": {name: claim(row) for name, row in rows.items()},
        "identical": identical(sets),
        "control": control(everyone, readers),
        "special_ids_drawn": special_ids(readers),
        "departure_ranks": departure_ranks(everyone, readers),
    }


if __name__ == "__main__":
    run_stage(main)
