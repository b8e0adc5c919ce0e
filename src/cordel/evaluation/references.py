"""Reference lines in bits per byte: what no neural network is needed for.

Compressors, a uniform guess, and Kneser-Ney n-grams over characters and over subwords, which learn
from the whole train split in seconds and are hard to beat at small budgets.
"""

import gzip
import lzma
from dataclasses import dataclass

from cordel.runtime.params import require


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceParams:
    """The section ``references`` of params.yaml."""

    char_order: int
    char_vocab_size: (
        int  # the most frequent characters; the others are unknown and pay 8 bits a byte
    )
    subword_order: int

    def __post_init__(self) -> None:
        """Check the ranges: an n-gram is packed into 63 bits."""
        for name in ("char_order", "subword_order"):
            value = getattr(self, name)
            require(1 <= value <= 8, f"{name} is {value}, expected 1 to 8")
        require(
            self.char_vocab_size > 1,
            f"char_vocab_size is {self.char_vocab_size}, expected at least 2",
        )


def compressed_bits_per_byte(text: bytes) -> dict[str, float]:
    """Return bits per byte of ``text`` under gzip and xz at their strongest, no training text."""
    packed = {
        "gzip": gzip.compress(text, compresslevel=9, mtime=0),
        "xz": lzma.compress(text, preset=9 | lzma.PRESET_EXTREME),
    }
    return {name: 8 * len(value) / len(text) for name, value in packed.items()}
