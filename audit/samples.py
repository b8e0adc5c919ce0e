"""The published samples of track 1 and the published tokenizers that they could come from."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece as spm

from audit.published import NotAtHandError, Published, expected, missing

V5, V5B = "versions/v4-subword-lstm/tokenizer_v4k_bf", "versions/v5b-transformer/tokenizers"
V6 = "versions/v6-release-candidate/tokenizers"
TOKENIZERS = {
    "v4k_bf": f"{V5}/spm_v4k_bf.model",  # also of all v5
    "v5b_12k": f"{V5B}/unigram_12k/spm_v5b.model",
    "v5b_40k": f"{V5B}/unigram_40k/spm_v5b.model",
    "v6_12k": f"{V6}/unigram_12k/spm_v6.model",
    "v6_16k": f"{V6}/unigram_16k/spm_v6.model",
}
FOLDERS = ("analysis/artifacts/samples/", "versions/v6-release-candidate/analysis/samples_")
FIRST_SEED = 101  # of the five standard prompts (thesis.md, section 4.3)


@dataclass(frozen=True, slots=True)
class Generated:
    """One published sample; ``seed`` is by position (101 to 105) where the file has none."""

    seed: int
    seed_published: bool
    prompt: str
    output: str

    @property
    def without_prompt(self) -> str:
        """Return the output less the prompt, which the files of v5b repeat at the start."""
        return self.output.removeprefix(self.prompt).strip()


@dataclass(frozen=True, slots=True)
class SampleSet:
    """The samples of one model in one file."""

    file: str
    model_key: str  # empty where the file is a bare list
    samples: list[Generated]

    @property
    def name(self) -> str:
        """Return the file's stem and the model's key, unique among the published sets."""
        return f"{Path(self.file).stem}:{self.model_key}".rstrip(":")


def published_sets(published: Published) -> Iterator[SampleSet]:
    """Yield every set of samples at hand; files without any are passed over."""
    for file in sorted(expected()):
        if not file.startswith(FOLDERS):
            continue
        try:
            content = published.json(file)
        except NotAtHandError:
            continue
        models = content if isinstance(content, dict) else {"": content}
        for key, rows in models.items():
            yield SampleSet(file, key, [_generated(row, n) for n, row in enumerate(rows)])


def samples_not_at_hand(published: Published) -> list[str]:
    """Return the files of samples that were not found."""
    return [name for name in missing(published.folder) if name.startswith(FOLDERS)]


def _generated(row: dict[str, Any], position: int) -> Generated:
    """Return a row of a sample file."""
    seed = row.get("seed", FIRST_SEED + position)
    return Generated(seed, "seed" in row, row["prompt"], row["output"])


def load_pieces(path: Path) -> spm.SentencePieceProcessor:
    """Return the SentencePiece model in ``path``."""
    return spm.SentencePieceProcessor(model_file=str(path))


def tokenizers_at_hand(published: Published) -> dict[str, spm.SentencePieceProcessor]:
    """Return the published tokenizers that were found, by the names of ``TOKENIZERS``."""
    found = {}
    for name, file in TOKENIZERS.items():
        try:
            found[name] = load_pieces(published.path(file))
        except NotAtHandError:
            continue
    return found
