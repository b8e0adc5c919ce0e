"""SentencePiece tokenizers: BPE and unigram, as the thesis trained them and as they should be."""

import io
import re
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import sentencepiece as spm
from sentencepiece import sentencepiece_model_pb2 as proto

from cordel.runtime.errors import ArtifactError, InputError, ParamsError
from cordel.tokenizers.params import TokenizerParams

FILE = "tokenizer.model"
UNIGRAM = 1  # trainer_spec.model_type
NORMAL, USER_DEFINED = 1, 4  # pieces.type
TOO_HIGH = re.compile(r"Vocabulary size too high \((\d+)\).*<= (\d+)")
TOO_LOW = re.compile(r"Vocabulary size is smaller than required_chars\. (\d+) vs (\d+)")
WORD = re.compile(r"\S+")
WORD_KEEPING_SPACES = re.compile(r"\n| [^ \n]*|[^ \n]+")
# As many words as have so many characters, or one longer word; a newline is on its own.
CHUNK = r".{1,%d}(?= |\Z)|[^ ]+"  # of words with one space between them
CHUNK_KEEPING_SPACES = r"\n|[^\n]{1,%d}(?=[ \n]|\Z)| ?[^ \n]+"
MAX_WORDS = 1_000_000  # remembered: about 200 MB
EXACT_NATS = 2**24 / 1024  # as far as float32 holds every multiple of 1/1024
UNKNOWN_NATS = 10  # by which an unknown character costs more than the dearest piece (kUnkPenalty)
PIECE = {"pad_piece": "<pad>", "unk_piece": "<unk>", "bos_piece": "<s>", "eos_piece": "</s>"}
# v7's own: a web text may well contain "<s>", hardly "<|bos|>".
SAFE_PIECE = {key: f"<|{key.removesuffix('_piece')}|>" for key in PIECE}


class SubwordTokenizer:
    """A trained SentencePiece model with beginning and end of document."""

    kind = "subword"

    def __init__(self, model: bytes) -> None:
        """Load a serialised ModelProto."""
        self.processor = spm.SentencePieceProcessor(model_proto=model)
        self.vocab_size = self.processor.get_piece_size()
        self.unknown = self.processor.unk_id()
        self.begin = [self.processor.bos_id()]
        self.end = [self.processor.eos_id()]
        self.context = self.begin
        symbols = [i for i in range(self.vocab_size) if self.processor.is_control(i)]
        self.undrawable = sorted({self.unknown, *symbols} - set(self.end))
        # What this model does to one space between letters tells how its text falls into words.
        kept = self.processor.encode(" a", out_type=str) != self.processor.encode("a", out_type=str)
        self._kept = kept
        self._words = WORD_KEEPING_SPACES if kept else WORD
        self._ids: dict[str, list[int]] = {}
        parsed: Any = proto.ModelProto.FromString(model)  # pyright: ignore[reportAttributeAccessIssue]
        size, chunk = _exact_characters(parsed), CHUNK_KEEPING_SPACES if kept else CHUNK
        self._chunks = re.compile(chunk % size) if size else None
        self._expands = bool(parsed.normalizer_spec.precompiled_charsmap)
        own = {piece.piece[0] for piece in parsed.pieces if piece.type == USER_DEFINED}
        self._starts = own - {"\n"} if kept else own  # there a newline is a chunk of its own

    def encode(self, text: str) -> list[int]:
        """Return the ids of ``text`` without beginning and end.

        Part by part: pieces never cross a space, so this is the segmentation of the whole text,
        but exact. SentencePiece adds scores in float32 over all of its input, so that in a long
        document near ties fall at random (51 of 319 documents differed from float64 sums).
        """
        return list(chain.from_iterable(self._in_parts(text)[1]))

    def _in_parts(self, text: str) -> tuple[list[str], list[list[int]]]:
        """Return the parts of ``text``, which are cut at spaces, and the ids of each.

        Parts are words, of which a dictionary keeps those met so far. Where sums stay exact over
        many words, they are chunks, which is twice as fast (and for BPE would be slower).
        """
        if self._chunks and self._adds_exactly(text):
            parts = self._chunks.findall(text if self._kept else " ".join(text.split()))
            return parts, self.processor.encode(parts, num_threads=1)
        if len(self._ids) > MAX_WORDS:
            self._ids.clear()
        words = self._words.findall(text)
        new = list(set(words).difference(self._ids))
        self._ids.update(zip(new, self.processor.encode(new, num_threads=1), strict=True))
        return words, [self._ids[word] for word in words]

    def _adds_exactly(self, text: str) -> bool:
        """Return whether a chunk of ``text`` has no more characters and no scores but those known.

        NFKC can make 18 characters of one, and the score of a user symbol is no multiple of 1/1024.
        """
        normal = not self._expands or unicodedata.is_normalized("NFKC", text)
        return normal and not any(start in text for start in self._starts)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ``ids``; control symbols vanish, an unknown piece becomes `` ⁇ ``."""
        return self.processor.decode(list(ids))

    def unknown_bytes(self, text: str) -> int:
        """Return the UTF-8 bytes of ``text`` that the model hides behind an unknown piece.

        Encodes it anew: whoever has its ids knows whether an unknown one is among them.
        """
        hidden = 0
        for part, ids in zip(*self._in_parts(text), strict=True):
            if self.unknown in ids:
                proto = self.processor.encode(part, return_type="proto")
                hidden += sum(len(p.surface.encode()) for p in proto.pieces if p.id == self.unknown)
        return hidden

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """Return the pieces of ``ids``, with ``▁`` for a space."""
        return [self.processor.id_to_piece(index) for index in ids]


def learn_pieces(texts: Iterable[str], params: TokenizerParams, out: Path, *, section: str) -> None:
    """Train on ``texts`` and write ``out/tokenizer.model``. One thread, hence the same bytes again.

    Raises:
        ParamsError: The corpus does not support ``vocab_size``.
        InputError: There is no text.
    """
    texts = iter(texts)
    first = next(texts, None)
    if first is None:
        raise InputError(f"{section}: the train split of recipe {params.recipe!r} has no documents")
    model = io.BytesIO()
    pieces: dict[str, Any] = SAFE_PIECE if params.keep_whitespace else PIECE
    try:
        spm.SentencePieceTrainer.train(
            sentence_iterator=_sentences(first, texts, keep_newlines=params.keep_whitespace),
            model_writer=model,
            model_type=params.kind,
            vocab_size=params.vocab_size,
            character_coverage=params.character_coverage,
            byte_fallback=params.byte_fallback,
            seed_sentencepiece_size=params.seed_pieces,
            hard_vocab_limit=params.hard_limit,
            normalization_rule_name=params.normalization,
            add_dummy_prefix=params.dummy_prefix,
            remove_extra_whitespaces=not params.keep_whitespace,
            required_chars=params.required_characters,
            control_symbols=list(params.control_symbols),
            user_defined_symbols=list(params.user_symbols),
            input_sentence_size=2_000_000,
            shuffle_input_sentence=True,
            max_sentence_length=1 << 16 if params.keep_whitespace else 4192,
            num_threads=1,
            pad_id=0,
            unk_id=1,
            bos_id=2,
            eos_id=3,
            minloglevel=2,
            **pieces,
        )
    except RuntimeError as error:
        raise _explained(error, params, section) from None
    (out / FILE).write_bytes(_with_exact_scores(model.getvalue()))


def _with_exact_scores(model: bytes) -> bytes:
    """Return the model with its unigram scores rounded to multiples of 1/1024.

    Sums of such scores are exact in float32 up to 16,384 nats, so that "0" + "00" and "00" + "0"
    tie exactly and every implementation breaks the tie alike. (Unrounded, float32 here and float64
    in Hugging Face tokenizers disagreed on 118 of 2,533 documents.)
    """
    parsed: Any = proto.ModelProto.FromString(model)  # pyright: ignore[reportAttributeAccessIssue]
    if parsed.trainer_spec.model_type == UNIGRAM:
        for piece in parsed.pieces:
            piece.score = round(piece.score * 1024) / 1024
    return parsed.SerializeToString(deterministic=True)


def _exact_characters(model: Any) -> int:
    """Return of how many characters the scores surely add up exactly in float32; 0: one word's.

    That is a unigram's with rounded scores (``_with_exact_scores``) which gives the first word the
    space that the others have, or none. No character costs more than an unknown one; that space is
    a character too.
    """
    scores = [piece.score for piece in model.pieces if piece.type == NORMAL]
    spaces = model.normalizer_spec
    if (
        model.trainer_spec.model_type != UNIGRAM
        or spaces.add_dummy_prefix != spaces.remove_extra_whitespaces
        or not all((score * 1024).is_integer() for score in scores)
    ):
        return 0
    return int(EXACT_NATS / (UNKNOWN_NATS - min(scores))) - 1


def _sentences(first: str, rest: Iterator[str], *, keep_newlines: bool) -> Iterator[str]:
    """Yield lines, as SentencePiece reads a file; their newline stays where it is to be learnt."""
    yield from first.splitlines(keepends=keep_newlines)
    for text in rest:
        yield from text.splitlines(keepends=keep_newlines)


def _explained(error: RuntimeError, params: TokenizerParams, section: str) -> ParamsError:
    """Turn SentencePiece's message into one that names the key and its limit."""
    message = " ".join(str(error).split())
    key = f"{section}.vocab_size"
    if match := TOO_HIGH.search(message):
        return ParamsError(
            f"{key} is {match[1]}, but this corpus supports at most {match[2]} pieces; "
            "lower it or use more text"
        )
    if match := TOO_LOW.search(message):
        return ParamsError(
            f"{key} is {match[1]}, but the characters alone need {match[2]}; raise it"
        )
    return ParamsError(f"{section}: SentencePiece refused {params.kind}: {message}")


def load_pieces(folder: Path) -> SubwordTokenizer:
    """Return the tokenizer in ``folder``.

    Raises:
        ArtifactError: There is no model, or it is broken.
    """
    path = folder / FILE
    try:
        return SubwordTokenizer(path.read_bytes())
    except (OSError, RuntimeError) as error:
        message = " ".join(str(error).split())
        raise ArtifactError(
            f"{path}: not a SentencePiece model ({message}); rerun train_tokenizer"
        ) from None
