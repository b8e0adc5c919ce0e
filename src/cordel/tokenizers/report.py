"""What a tokenizer does to held-out text: fertility, unknown and byte rates, missing characters."""

import re
from collections.abc import Sequence
from typing import Any

from cordel.tokenizers.saved import Tokenizer

WORD = re.compile(r"\w+")
# What Portuguese prose needs; the thesis' v6 tokenizers wrote Y, À and every dash as unknown.
LETTERS = "abcdefghijklmnopqrstuvwxyzáàâãéêíóôõúüç"
REQUIRED = LETTERS + LETTERS.upper() + "0123456789" + ".,;:!?()\"'-–—“”‘’…ºª%$/"


def describe_tokenizer(tokenizer: Tokenizer, texts: Sequence[str]) -> dict[str, Any]:
    """Return the tokenizer's metrics on ``texts``, which it has not learnt from.

    ``tokens_per_word`` divides by runs of letters and digits. ``byte_rate`` is the share of tokens
    that are single bytes of a character without a piece. ``unwritable`` lists the required
    characters that do not survive encoding and decoding.
    """
    tokens = words = size = unknown = unknown_bytes = fallback = exact = 0
    for text in texts:
        ids = tokenizer.encode(text)
        tokens += len(ids)
        words += len(WORD.findall(text))
        size += len(text.encode())
        unknown += ids.count(tokenizer.unknown)
        unknown_bytes += tokenizer.unknown_bytes(text) if tokenizer.unknown in ids else 0
        fallback += sum(piece.startswith("<0x") for piece in tokenizer.pieces(ids))
        exact += tokenizer.decode(ids) == text
    missing = [c for c in REQUIRED if c not in tokenizer.decode(tokenizer.encode(f"a{c}a"))]
    return {
        "vocab_size": tokenizer.vocab_size,
        "bytes_per_token": size / max(1, tokens),
        "tokens_per_word": tokens / max(1, words),
        "unknown_rate": unknown / max(1, tokens),
        "unknown_bytes_rate": unknown_bytes / max(1, size),
        "byte_rate": fallback / max(1, tokens),
        "exact_documents_rate": exact / max(1, len(texts)),
        "unwritable": "".join(missing),
        "unwritable_count": len(missing),
    }
