"""SentencePiece tokenizers: what they encode, what they hide, and how they are learnt."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2 as proto

from cordel.runtime.errors import ArtifactError, InputError, ParamsError
from cordel.tokenizers import subword
from cordel.tokenizers.params import TokenizerParams
from cordel.tokenizers.subword import SubwordTokenizer, learn_pieces, load_pieces

Learn = Callable[[TokenizerParams, Path], Path]
# SentencePiece writes a space as U+2581; control characters it may drop (corpus cleaning does).
CHARACTERS = st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\u2581")
LINES = st.text(CHARACTERS | st.sampled_from("  aeiouçã0.,"), max_size=60)
TEXTS = st.text(CHARACTERS | st.sampled_from("\n  aeiouçã0.,"), max_size=60)
KINDS = pytest.mark.parametrize("kind", ["bpe", "bpe_unknown", "unigram", "v7"])
IN_CHUNKS = pytest.mark.parametrize("kind", ["unigram", "v7"])


def by_words(tokenizer: SubwordTokenizer, text: str) -> list[int]:
    """Return the ids of each word for itself, of which every sum of scores is exact."""
    words = tokenizer._words.findall(text)
    return [index for word in words for index in tokenizer.processor.encode(word)]


# --- encoding -------------------------------------------------------------------------------------


@KINDS
@settings(deadline=None, max_examples=200)
@given(line=LINES)
def test_encoding_word_by_word_is_encoding_the_whole_line(
    learnt: dict, kind: str, line: str
) -> None:
    tokenizer = learnt[kind].tokenizer
    assert tokenizer.encode(line) == tokenizer.processor.encode(line)


@KINDS
@pytest.mark.parametrize(
    "text",
    ["", "   ", "\n", " \n\n \n", "a  b", "a\x1cb\x85c\xa0d", "x\u200by \u200b z", "▁a ▁ b",
     "o\u0301 \u0301o", "<|im_start|>a<|im_end|> <s>", "🙂👩\u200d👩 🇧🇷", "日 日本", "ﬁm ㍿ ½",
     10_000 * "a", 10_000 * "0", 10_000 * " ", 500 * " 0000000",
     300 * "ж" + " 0000 " + 900 * "0" + "\n000"],
    ids=lambda text: ascii(text[:30]),
)  # fmt: skip
def test_a_nasty_text_has_the_ids_of_its_words(learnt: dict, kind: str, text: str) -> None:
    tokenizer = learnt[kind].tokenizer
    assert tokenizer.encode(text) == by_words(tokenizer, text)


@settings(deadline=None, max_examples=200)
@given(text=TEXTS)
def test_v7_gives_every_text_back(learnt: dict, text: str) -> None:
    tokenizer = learnt["v7"].tokenizer
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    ("kind", "text", "pieces"),
    [
        ("bpe", "a\nb", ["▁a", "▁b"]),
        ("bpe", "  a   b  ", ["▁a", "▁b"]),
        ("v7", "a\nb", ["a", "\n", "b"]),
        ("v7", " a\n\n", ["▁a", "\n", "\n"]),
        ("v7", "é", ["é"]),
        ("unigram", "日本", ["▁", "<unk>"]),
        # U+200B is E2 80 8B in UTF-8.
        ("v7", "x\u200by", ["x", "<0xE2>", "<0x80>", "<0x8B>", "y"]),
    ],
)
def test_spaces_newlines_and_strange_characters_are_cut_as_the_kind_says(
    learnt: dict, kind: str, text: str, pieces: list[str]
) -> None:
    tokenizer = learnt[kind].tokenizer
    assert tokenizer.pieces(tokenizer.encode(text)) == pieces


@KINDS
def test_a_second_encoding_from_memory_is_the_same(learnt: dict, kind: str, prose: list) -> None:
    fresh = load_pieces(learnt[kind].folder)
    assert fresh.encode(prose[0]) == fresh.encode(prose[0]) == fresh.processor.encode(prose[0])


def test_the_memory_of_words_is_bounded(learnt: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subword, "MAX_WORDS", 2)
    fresh = load_pieces(learnt["bpe"].folder)
    fresh.encode("um dois três")
    assert fresh.encode("fim") == fresh.processor.encode("fim")
    assert list(fresh._ids) == ["fim"]


# --- chunks ---------------------------------------------------------------------------------------


@IN_CHUNKS
def test_a_long_text_has_the_ids_of_its_words_which_one_sum_over_it_would_not_give(
    learnt: dict, kind: str, prose: list[str]
) -> None:
    tokenizer, text = learnt[kind].tokenizer, " ".join(prose)
    assert tokenizer.encode(text) == by_words(tokenizer, text)
    assert tokenizer.processor.encode(text) != by_words(tokenizer, text)


@pytest.mark.parametrize(
    ("kind", "text", "parts"),
    [
        ("unigram", " um  dois\ntrês ", ["um dois três"]),
        ("v7", " um  dois\n\ntrês ", [" um  dois", "\n", "\n", "três "]),
        ("bpe", "um dois", ["um", "dois"]),
        # The score of a user symbol is no multiple of 1/1024.
        ("unigram", "um <sep> dois", ["um", "<sep>", "dois"]),
        ("v7", "um <sep> dois", ["um <sep> dois"]),  # which has no such symbol
        # NFKC writes it with two letters.
        ("unigram", "ﬁm de ano", ["ﬁm", "de", "ano"]),
        ("v7", "ﬁm de ano", ["ﬁm de ano"]),
    ],
)
def test_only_what_adds_up_exactly_is_encoded_in_chunks(
    learnt: dict, kind: str, text: str, parts: list[str]
) -> None:
    assert learnt[kind].tokenizer._in_parts(text)[0] == parts


@IN_CHUNKS
def test_a_chunk_of_unknown_characters_alone_stays_where_float32_is_exact(
    learnt: dict, kind: str
) -> None:
    tokenizer = learnt[kind].tokenizer
    path = learnt[kind].folder / "tokenizer.model"
    model = proto.ModelProto.FromString(path.read_bytes())
    dearest = 10 - min(piece.score for piece in model.pieces if piece.type == 1)
    lengths = [len(part) for part in tokenizer._in_parts(5000 * "ж ")[0]]
    # One more for the space before the text. 2^24 steps of 1/1024 are 16,384 nats.
    assert (max(lengths) + 1) * dearest <= 16_384 < (max(lengths) + 3) * dearest


@IN_CHUNKS
def test_a_word_longer_than_a_chunk_stays_whole(learnt: dict, kind: str) -> None:
    parts, _ = learnt[kind].tokenizer._in_parts("a " + 2000 * "ã" + " b c")
    assert [len(part.strip()) for part in parts] == [1, 2000, 3]


def test_characters_that_normalisation_multiplies_make_no_sum_too_long(
    learnt: dict, prose: list[str]
) -> None:
    tokenizer = learnt["unigram"].tokenizer
    for text in prose:
        longer = 250 * "㍿ " + text  # NFKC makes it 4 unknown characters
        assert tokenizer.encode(longer) == by_words(tokenizer, longer)


def test_a_model_whose_scores_are_not_rounded_encodes_word_by_word(
    learnt: dict, prose: list[str]
) -> None:
    model = proto.ModelProto.FromString((learnt["v7"].folder / "tokenizer.model").read_bytes())
    for piece in model.pieces:
        piece.score *= 1.1
    tokenizer = SubwordTokenizer(model.SerializeToString())
    assert tokenizer._in_parts("um dois")[0] == ["um", " dois"]
    # In chunks 6 of the 112 came out otherwise.
    assert [tokenizer.encode(text) for text in prose] == [by_words(tokenizer, t) for t in prose]


@pytest.mark.parametrize(("kind", "dummy"), [("unigram", False), ("v7", True)])
def test_a_model_that_gives_the_first_word_another_space_encodes_word_by_word(
    learnt: dict, kind: str, dummy: bool
) -> None:
    path = learnt[kind].folder / "tokenizer.model"
    model = proto.ModelProto.FromString(path.read_bytes())
    model.normalizer_spec.add_dummy_prefix = dummy
    tokenizer = SubwordTokenizer(model.SerializeToString())
    assert tokenizer.encode("um dois") == by_words(tokenizer, "um dois")


@pytest.mark.parametrize(("kind", "size"), [("bpe", 600), ("unigram", 500), ("v7", 700)])
def test_ids_of_the_frame_are_fixed(learnt: dict, kind: str, size: int) -> None:
    # pad 0, unknown 1, beginning 2, end 3
    tokenizer = learnt[kind].tokenizer
    assert (tokenizer.unknown, tokenizer.begin, tokenizer.end) == (1, [2], [3])
    assert tokenizer.context == [2]
    symbols = [4, 5] if kind == "v7" else []  # the control symbols of the fixture
    assert tokenizer.undrawable == [0, 1, 2, *symbols]
    assert tokenizer.vocab_size == size


@pytest.mark.parametrize(
    ("kind", "names"),
    [("bpe", ["<pad>", "<unk>", "<s>", "</s>"]), ("v7", ["<|pad|>", "<|unk|>", "<|bos|>"])],
)
def test_v7_frames_with_symbols_that_no_web_text_spells(
    learnt: dict, kind: str, names: list[str]
) -> None:
    assert learnt[kind].tokenizer.pieces(range(len(names))) == names


@pytest.mark.parametrize("character", "ÀKWY")
def test_required_characters_are_pieces_whatever_the_coverage(learnt: dict, character: str) -> None:
    tokenizer = learnt["v7"].tokenizer
    assert tokenizer.pieces(tokenizer.encode(f"x{character}")) == ["x", character]


def test_a_text_that_spells_a_control_symbol_is_text(learnt: dict) -> None:
    tokenizer = learnt["v7"].tokenizer
    assert tokenizer.pieces([4, 5]) == ["<|im_start|>", "<|im_end|>"]
    assert not {4, 5} & set(tokenizer.encode("<|im_start|>fim<|im_end|>"))


def test_a_user_symbol_is_one_piece_wherever_it_stands(learnt: dict) -> None:
    tokenizer = learnt["bpe"].tokenizer
    assert tokenizer.pieces(tokenizer.encode("a<sep>b")) == ["▁a", "<sep>", "b"]


# --- unknown bytes --------------------------------------------------------------------------------


@pytest.mark.parametrize("warm", [False, True], ids=["before encoding", "after encoding"])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0),
        ("ação", 0),
        ("fim 日本 fim", 6),  # 2 characters of 3 bytes
        ("a日b 🙂", 7),  # 3 + 4
        ("日日日", 9),  # fused into one unknown piece
        ("ﬁm", 0),  # NFKC makes it "fim"
        ("㍿", 3),  # NFKC makes it 4 unknown characters; the text has 3 bytes
        (500 * "fim 日本 ação ", 3000),  # 6 in each
    ],
)
def test_unknown_bytes_are_the_texts_own_bytes(
    learnt: dict, text: str, expected: int, warm: bool
) -> None:
    tokenizer = load_pieces(learnt["unigram"].folder)
    if warm:
        tokenizer.encode(text)
    assert tokenizer.unknown_bytes(text) == expected


@pytest.mark.parametrize("kind", ["bpe", "v7"])
def test_byte_fallback_hides_no_byte(learnt: dict, kind: str) -> None:
    assert learnt[kind].tokenizer.unknown_bytes("日本 🙂 x\u200by") == 0


# --- learning -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bpe", "v7"])
def test_learning_twice_gives_the_same_bytes(
    learnt: dict, learn: Learn, params: dict, tmp_path: Path, kind: str
) -> None:
    again = learn(params[kind], tmp_path)
    name = "tokenizer.model"
    assert (again / name).read_bytes() == (learnt[kind].folder / name).read_bytes()


def test_unigram_scores_are_multiples_of_1_in_1024(learnt: dict) -> None:
    path = learnt["unigram"].folder / "tokenizer.model"
    model = proto.ModelProto.FromString(path.read_bytes())
    assert all((piece.score * 1024).is_integer() for piece in model.pieces)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_vocabulary_that_the_corpus_does_not_support_names_key_and_limit(
    params: dict, tmp_path: Path, kind: str
) -> None:
    wanted = replace(params[kind], vocab_size=5000)
    message = r"tokenizers\.v9\.vocab_size is 5000, but this corpus supports at most \d+ pieces"
    with pytest.raises(ParamsError, match=message):
        learn_pieces(["A avó viu a uva."] * 9, wanted, tmp_path, section="tokenizers.v9")


def test_a_vocabulary_smaller_than_its_characters_names_key_and_need(
    params: dict, tmp_path: Path
) -> None:
    # 4 frame symbols, <sep>, <mask>, the space mark and a, b, c are 10 pieces.
    wanted = replace(params["unigram"], vocab_size=8)
    message = r"tokenizers\.v9\.vocab_size is 8, but the characters alone need 10; raise it"
    with pytest.raises(ParamsError, match=message):
        learn_pieces(["abc abc cba"] * 9, wanted, tmp_path, section="tokenizers.v9")


def test_without_a_hard_limit_unigram_gives_fewer_pieces(
    learn: Learn, params: dict, tmp_path: Path
) -> None:
    # The thesis' flaw: as many candidates as pieces, of which pruning leaves fewer.
    wanted = replace(params["unigram"], vocab_size=900, seed_pieces=900, hard_limit=False)
    assert load_pieces(learn(wanted, tmp_path)).vocab_size < 900


def test_no_documents_at_all_are_refused(params: dict, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tokenizers\.v9: .* recipe 'prose' has no documents"):
        learn_pieces([], params["bpe"], tmp_path, section="tokenizers.v9")


@pytest.mark.parametrize("content", [b"", b"not a model", None], ids=repr)
def test_a_broken_or_missing_model_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"tokenizer\.model: not a SentencePiece model"):
        load_pieces(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": 70000}, "vocab_size is 70000, expected 1 to 65536"),
        ({"vocab_size": 0}, "vocab_size is 0, expected 1 to 65536"),
        ({"max_documents": 0}, "max_documents is 0, expected at least 1"),
        ({"character_coverage": 0.5}, "character_coverage is 0.5, expected 0.9 <= x <= 1"),
        ({"seed_pieces": 0}, "seed_pieces is 0, expected at least 1"),
    ],
)
def test_a_parameter_out_of_range_is_named(params: dict, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(params["bpe"], **change)
