"""Loading whichever tokenizer a folder holds."""

from hashlib import sha256
from pathlib import Path

import pytest

from cordel.runtime.errors import ArtifactError
from cordel.tokenizers.char import learn_characters
from cordel.tokenizers.saved import fingerprint, load_tokenizer


@pytest.fixture
def characters(tmp_path: Path) -> Path:
    """Return a folder with a character tokenizer."""
    learn_characters(["ação"], tmp_path)
    return tmp_path


def test_a_folder_of_characters_loads_as_characters(characters: Path) -> None:
    assert load_tokenizer(characters).kind == "char"


def test_a_folder_of_pieces_loads_as_pieces(learnt: dict) -> None:
    assert load_tokenizer(learnt["bpe"].folder).kind == "subword"


def test_an_empty_folder_names_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"tokenizer\.model.*rerun train_tokenizer"):
        load_tokenizer(tmp_path)


def test_the_fingerprint_is_the_hash_of_the_tokenizers_own_file(
    learnt: dict, characters: Path
) -> None:
    model = (learnt["bpe"].folder / "tokenizer.model").read_bytes()
    assert fingerprint(learnt["bpe"].folder) == sha256(model).hexdigest()
    assert fingerprint(characters) == sha256((characters / "char.json").read_bytes()).hexdigest()
