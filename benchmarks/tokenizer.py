"""Tokenizers: learning and encoding, SentencePiece as cordel calls it against Rust's tokenizers.

MB of UTF-8 a CPU second on the same lines, and bytes a token on documents that none has learnt
from. A tokenizer that may write "unknown" saves tokens by it, so the share of those stands beside.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from benchmarks.corpus import ONE_THREAD, Way, Ways, clean_all, compared, documents, emptied
from benchmarks.measure import interleave, rates
from cordel.corpus.cleaning import CleaningParams
from cordel.runtime.params import read_params
from cordel.tokenizers.huggingface import encode_like_huggingface, write_huggingface
from cordel.tokenizers.params import TokenizerParams
from cordel.tokenizers.subword import SubwordTokenizer, learn_pieces, load_pieces

UNKNOWN = "<unk>"
SIZES = {"bpe": 4000, "unigram": 16_000}  # the thesis' larger ones
Encode = Callable[[Sequence[str]], list[list[int]]]
Learnt = tuple[Encode, int, int]  # what encodes, its pieces, and the id of an unknown one
Learners = Mapping[str, Callable[[], Learnt]]


def measure(*, quick: bool) -> dict[str, Any]:
    """Return what every trainer takes and gives, and how fast the trained ones encode."""
    os.environ |= ONE_THREAD
    origin, found = documents(500_000 if quick else 8_000_000)
    recipe = read_params("cleaning.lossless", CleaningParams)
    texts = [text for text in clean_all((each.text for each in found), recipe) if text]
    cut = len(texts) * 9 // 10
    sizes = {kind: size // 8 for kind, size in SIZES.items()} if quick else SIZES
    with TemporaryDirectory() as name:
        home = Path(name)
        groups = {
            f"BPE, {sizes['bpe']:,} pieces": bpe_learners(texts[:cut], sizes["bpe"], home),
            f"Unigram, {sizes['unigram']:,} pieces": unigram_learners(
                texts[:cut], sizes["unigram"], home
            ),
        }
        learning = {
            group: learnt(learners, texts[:cut], texts[cut:], rounds=1 if quick else 3)
            for group, learners in groups.items()
        }
        encoding = {
            key: compared(encode_ways(home / key, texts), size_of(texts), 1 if quick else 5)
            for key in ("bpe4k", "unigram_v7")
        }
    return {
        "text": origin,
        "megabytes": {"learnt": size_of(texts[:cut]), "held_out": size_of(texts[cut:])},
        "documents": len(texts),
        "learning": learning,
        "encoding": encoding,
    }


def size_of(texts: Sequence[str]) -> float:
    """Return MB of UTF-8."""
    return sum(len(text.encode()) for text in texts) / 1e6


def learnt(
    learners: Learners, texts: Sequence[str], held_out: Sequence[str], *, rounds: int
) -> dict[str, Any]:
    """Return MB a CPU second of every trainer and what its tokenizer makes of other text."""
    made: dict[str, Learnt] = {}

    def keep(name: str) -> None:
        made[name] = learners[name]()

    works = {name: partial(keep, name) for name in learners}
    took = interleave(works, rounds=rounds, warm_up=0)
    found = {}
    for name, (encode, pieces, unknown) in made.items():
        ids = encode(held_out)
        tokens = sum(map(len, ids))
        found[name] = rates(took[name], size_of(texts)) | {
            "pieces": pieces,
            "bytes_per_token": size_of(held_out) * 1e6 / tokens,
            "unknown_share": sum(each.count(unknown) for each in ids) / tokens,
        }
    return found


# --- Learning --------------------------------------------------------------------------------


def bpe_learners(texts: Sequence[str], size: int, home: Path) -> Learners:
    """Return cordel's BPE with the thesis' parameters, and two of the other library."""
    return {
        "cordel, v5's: byte fallback": partial(ours, "bpe4k", texts, size, home),
        "cordel, v4's: no byte fallback": partial(ours, "bpe3k2", texts, size, home),
        "tokenizers BPE, words with ▁": partial(rust_bpe, texts, size),
        "tokenizers BPE, bytes": partial(rust_byte_bpe, texts, size),
    }


def unigram_learners(texts: Sequence[str], size: int, home: Path) -> Learners:
    """Return cordel's unigram with v7's and with the thesis' parameters, and the peer's."""
    return {
        "cordel, v7's: 1,000,000 seeds, spaces kept": partial(
            ours, "unigram_v7", texts, size, home
        ),
        "cordel, v6's: as many seeds as pieces": partial(ours, "unigram16k", texts, size, home),
        "tokenizers Unigram, words with ▁": partial(rust_unigram, texts, size),
    }


def ours(key: str, texts: Sequence[str], size: int, home: Path) -> Learnt:
    """Learn as train_tokenizer does, with a section of params.yaml but for its size."""
    params = read_params(f"tokenizers.{key}", TokenizerParams)
    few_seeds = params.seed_pieces == params.vocab_size
    params = replace(params, vocab_size=size, seed_pieces=size if few_seeds else params.seed_pieces)
    out = emptied(home / key)
    learn_pieces(texts, params, out, section="benchmarks")
    tokenizer = load_pieces(out)
    return partial(by_words, tokenizer), tokenizer.vocab_size, tokenizer.unknown


def by_words(tokenizer: SubwordTokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Return the ids as encode_corpus gets them."""
    return [tokenizer.encode(text) for text in texts]


def rust_bpe(texts: Sequence[str], size: int) -> Learnt:
    """Learn BPE of characters, with the words of SentencePiece."""
    return rust(
        Tokenizer(models.BPE(unk_token=UNKNOWN)),
        trainers.BpeTrainer(vocab_size=size, special_tokens=[UNKNOWN], show_progress=False),
        texts,
    )


def rust_unigram(texts: Sequence[str], size: int) -> Learnt:
    """Learn a unigram with the words of SentencePiece."""
    trainer = trainers.UnigramTrainer(
        vocab_size=size, special_tokens=[UNKNOWN], unk_token=UNKNOWN, show_progress=False
    )
    return rust(Tokenizer(models.Unigram()), trainer, texts)


def rust_byte_bpe(texts: Sequence[str], size: int) -> Learnt:
    """Learn BPE of bytes, as GPT-2 did."""
    bytes_of = pre_tokenizers.ByteLevel
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[UNKNOWN],
        initial_alphabet=bytes_of.alphabet(),
        show_progress=False,
    )
    return rust(Tokenizer(models.BPE()), trainer, texts, bytes_of(add_prefix_space=False))


def rust(made: Any, trainer: Any, texts: Sequence[str], words: Any = None) -> Learnt:
    """Train on the lines that SentencePiece gets, and return what encodes."""
    if words is None:
        spaces = normalizers.Replace(Regex(r"\s+"), " ")
        made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Strip(), spaces])
    made.pre_tokenizer = words or pre_tokenizers.Metaspace()
    made.train_from_iterator((line for text in texts for line in text.splitlines()), trainer)

    def encode(some: Sequence[str]) -> list[list[int]]:
        return [each.ids for each in made.encode_batch(some, add_special_tokens=False)]

    return encode, made.get_vocab_size(), made.token_to_id(UNKNOWN)


# --- Encoding --------------------------------------------------------------------------------


def encode_ways(home: Path, texts: list[str]) -> Ways:
    """Return ways to encode with one of cordel's tokenizers; each begins by loading it."""
    write_huggingface(home)
    return {
        "cordel": Way(lambda: by_words(load_pieces(home), texts)),
        "SentencePiece, all documents in a call": Way(
            lambda: load_pieces(home).processor.encode(texts, num_threads=1)
        ),
        "tokenizers encode_batch, cordel's tokenizer.json": Way(
            lambda: encode_like_huggingface(home, texts)
        ),
    }
