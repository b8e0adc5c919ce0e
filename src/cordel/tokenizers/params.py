"""The parameters of one tokenizer, shared by the modules that learn one."""

from dataclasses import dataclass
from typing import Literal

from cordel.runtime.params import require

MAX_VOCAB_SIZE = 2**16  # ids are stored as uint16


@dataclass(frozen=True, slots=True, kw_only=True)
class CharParams:
    """A character tokenizer of the section ``tokenizers``: it has no size to ask for."""

    kind: Literal["char"]
    recipe: str  # whose train split it learns from
    max_documents: int

    def __post_init__(self) -> None:
        """Check the range."""
        require(
            self.max_documents > 0, f"max_documents is {self.max_documents}, expected at least 1"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerParams:
    """A SentencePiece tokenizer of the section ``tokenizers``."""

    kind: Literal["bpe", "unigram"]
    recipe: str  # whose train split it learns from
    max_documents: int
    vocab_size: int
    character_coverage: float
    byte_fallback: bool
    seed_pieces: (
        int  # unigram: how many candidates to start from; the library's default is 1,000,000
    )
    hard_limit: bool  # false lets unigram give fewer pieces than asked, as the thesis' did
    normalization: Literal["nmt_nfkc", "identity"]
    dummy_prefix: bool  # put a space before the text, so that its first word has the usual piece
    keep_whitespace: bool  # runs of spaces and newlines survive
    required_characters: str  # in the vocabulary whatever the coverage
    control_symbols: tuple[str, ...]  # never found in text
    user_symbols: tuple[str, ...]  # always one piece in text

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(
            0 < self.vocab_size <= MAX_VOCAB_SIZE,
            f"vocab_size is {self.vocab_size}, expected 1 to {MAX_VOCAB_SIZE}",
        )
        require(
            self.max_documents > 0, f"max_documents is {self.max_documents}, expected at least 1"
        )
        require(
            0.9 <= self.character_coverage <= 1,
            f"character_coverage is {self.character_coverage}, expected 0.9 <= x <= 1",
        )
        require(self.seed_pieces > 0, f"seed_pieces is {self.seed_pieces}, expected at least 1")
