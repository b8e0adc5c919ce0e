"""The embedded sample corpus: what is generated, what dirt it has, and that it is reproducible."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import GeneratorType

import pytest

from cordel.corpus.sample import INVISIBLE, SampleDocument, SampleError, generate_sample

REAL_FOLDER = Path(__file__).parents[3] / "data" / "sample"
REGISTERS = {
    *("noticias", "enciclopedia", "leis", "futebol", "receitas"),
    *("forum", "ficcao", "tecnologia", "saude", "economia"),
}
PROSE = "# Um\nPrimeira linha.\nSegunda linha.\n\n# Dois\nOutra linha.\n"
GRAMMAR = """
titulo: ["{^tema=assunto} em pauta"]
documento: ["{4..6*frase}\\n{4..6*frase}\\n\\n{4..6*frase}"]
assunto: [água, praça, escola]
frase:
  - "A {tema} recebeu {2..90} pessoas na última reunião do bairro."
  - "Ninguém soube explicar por que {tema} virou notícia tão cedo."
  - "Um vizinho contou que a opinião sobre {tema} também mudou."
"""
SHAPES: dict[str, Callable[[str], bool]] = {
    "url": lambda text: (
        re.fullmatch(r"https?://[\w.]*example\.\w+/\S+", as_example(text)) is not None
    ),
    "email": lambda text: re.fullmatch(r"[\w.]+@[\w.]*example\.\w+", as_example(text)) is not None,
    "broken_characters": lambda word: " " not in word and not word.isascii(),
    "invisible": lambda text: text in INVISIBLE,
    "short_line": lambda line: len(line) < 40,
    "menu": lambda line: all(len(item) < 22 for item in re.split(r"[|·>»/\]•]", line)),
    "uppercase_metadata": lambda line: line.isupper() and len(line) < 80,
    "digits": lambda line: sum(map(str.isalpha, line)) < 0.4 * len(line),
}


def as_example(text: str) -> str:
    """Return ``text`` with the Portuguese example domain in place of its English twin."""
    return text.replace("exemplo.com.br", "example.com")


def write_folder(folder: Path, *, prose: str = PROSE, grammar: str = GRAMMAR) -> Path:
    """Write a sample folder of one register; an empty text leaves the file out."""
    for path, text in (("prose/forum.txt", prose), ("grammar/leis.yaml", grammar)):
        if text:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of two prose documents and one grammar."""
    return write_folder(tmp_path_factory.mktemp("sample"))


@pytest.fixture(scope="module")
def sample(folder: Path) -> list[SampleDocument]:
    """Return 600 documents: two of prose, the others generated."""
    return list(generate_sample(folder, n_documents=600, seed=1))


def test_prose_comes_first_clean_and_joined_by_markers(sample: list[SampleDocument]) -> None:
    first, second = sample[0].document, sample[1].document
    assert (first.source, first.title) == ("forum", "Um")
    assert re.split(r" ?<END>[ \n]?", first.text) == ["Primeira linha.", "Segunda linha."]
    assert (second.title, second.text) == ("Dois", "Outra linha.")
    assert sample[0].dirt == sample[1].dirt == ()


def test_generated_documents_carry_register_title_and_markers(
    sample: list[SampleDocument],
) -> None:
    assert {s.document.source for s in sample[2:]} == {"leis"}
    titles = {"Água em pauta", "Praça em pauta", "Escola em pauta"}
    assert {s.document.title for s in sample[2:]} == titles
    assert min(s.document.text.count("<END>") for s in sample[2:]) == 2  # 3 paragraphs if clean


def test_the_text_repeats_what_the_title_remembered(sample: list[SampleDocument]) -> None:
    clean = next(s.document for s in sample[2:] if not s.dirt and not s.copy_of)
    subject = clean.title.split()[0].lower()
    assert set(re.findall("água|praça|escola", clean.text)) == {subject}


def test_the_same_seed_gives_the_same_sample(folder: Path, sample: list[SampleDocument]) -> None:
    assert list(generate_sample(folder, n_documents=600, seed=1)) == sample


def test_another_seed_gives_other_texts(folder: Path, sample: list[SampleDocument]) -> None:
    other = list(generate_sample(folder, n_documents=600, seed=2))
    assert not {s.document.text for s in other[2:]} & {s.document.text for s in sample[2:]}


@pytest.mark.parametrize("n", [0, 1, 50])
def test_a_larger_sample_begins_with_the_smaller_one(folder: Path, n: int) -> None:
    small = list(generate_sample(folder, n_documents=n, seed=3))
    large = list(generate_sample(folder, n_documents=100, seed=3))
    assert (len(small), len(large)) == (n, 100)
    assert small == large[:n]


def test_ids_are_unique_and_name_the_seed(sample: list[SampleDocument]) -> None:
    ids = [s.document.id for s in sample]
    assert ids[:2] == ["1-0000000", "1-0000001"]
    assert len(set(ids)) == 600


@pytest.mark.parametrize(("soiled", "copied"), [(0.5, 0.5), (1.0, 0.04), (1.0, 0.9)])
def test_dirt_stands_in_the_text_word_for_word(
    folder: Path, monkeypatch: pytest.MonkeyPatch, soiled: float, copied: float
) -> None:
    # Far dirtier than usual, so that kinds of dirt and edits of copies meet in the same words.
    monkeypatch.setattr("cordel.corpus.sample.PROBABILITY", dict.fromkeys(SHAPES, soiled))
    monkeypatch.setattr("cordel.corpus.sample.NEAR_DUPLICATE", copied)
    documents = list(generate_sample(folder, n_documents=600, seed=4))
    missing = [d for s in documents for d in s.dirt if d.text not in s.document.text]
    assert sum(len(s.dirt) for s in documents) > 600
    assert missing == []


@pytest.mark.parametrize("kind", SHAPES)
def test_each_kind_of_dirt_occurs_varied_and_in_its_shape(
    sample: list[SampleDocument], kind: str
) -> None:
    texts = {d.text for s in sample for d in s.dirt if d.kind == kind}
    assert len(texts) >= (4 if kind == "invisible" else 12)
    assert [text for text in texts if not SHAPES[kind](text)] == []


@pytest.mark.parametrize("kind", ["short_line", "menu", "uppercase_metadata", "digits"])
def test_injected_lines_are_paragraphs_of_their_own(
    sample: list[SampleDocument], kind: str
) -> None:
    pairs = [(s.document.text, d.text) for s in sample for d in s.dirt if d.kind == kind]
    inside = [line for text, line in pairs if line not in re.split(r" ?<END>[ \n]?", text)]
    assert inside == []


def test_about_a_third_of_the_documents_is_clean(sample: list[SampleDocument]) -> None:
    assert 0.28 < sum(not s.dirt for s in sample[2:]) / 598 < 0.42


def test_near_duplicates_differ_in_a_few_words_only(sample: list[SampleDocument]) -> None:
    texts = {s.document.id: s.document.text for s in sample}
    pairs = [(s.document.text, texts[s.copy_of]) for s in sample if s.copy_of]
    assert 12 <= len(pairs) <= 40  # 4 % of 598 is 24
    shared = [(Counter(a.split()) & Counter(b.split())).total() for a, b in pairs]
    shares = [n / len(b.split()) for n, (_, b) in zip(shared, pairs, strict=True)]
    assert min(shares) >= 0.85
    assert all(a != b for a, b in pairs)


def test_copies_have_recent_originals_that_are_no_copies(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cordel.corpus.sample.NEAR_DUPLICATE", 0.5)
    documents = list(generate_sample(folder, n_documents=1200, seed=1))
    position = {s.document.id: i for i, s in enumerate(documents)}
    pairs = [(i, position[s.copy_of]) for i, s in enumerate(documents) if s.copy_of]
    assert len(pairs) > 500
    assert [pair for pair in pairs if documents[pair[1]].copy_of] == []
    assert min(i - j for i, j in pairs) > 0
    assert max(i - j for i, j in pairs) < 500  # 200 originals and about as many copies between


def test_the_sample_is_a_stream(folder: Path) -> None:
    # A list of so many documents would not fit into memory, and would never be finished.
    stream = generate_sample(folder, n_documents=10**12, seed=1)
    assert isinstance(stream, GeneratorType)
    assert next(stream).document.title == "Um"


@pytest.mark.parametrize(
    ("prose", "grammar", "message"),
    [
        ("", "", r"no grammar, and 0 of 9 documents in prose; expected prose/<register>\.txt"),
        (PROSE, "", r"no grammar, and 2 of 9 .* expected .*grammar/<register>\.yaml; restore"),
        ("\n", GRAMMAR, r"forum\.txt: no document at '', expected '# Title'"),
        ("Sem título.\n", GRAMMAR, r"forum\.txt: no document at 'Sem título\.'"),
        ("# Só título\n", GRAMMAR, r"forum\.txt: no document at '# Só título'"),
        (PROSE, "\n", r"leis\.yaml: rule 'titulo' is missing"),
        (PROSE, "titulo: [a]\n", r"leis\.yaml: rule 'documento' is missing"),
        (PROSE, GRAMMAR + "x: [preço: alto]\n", r"leis\.yaml: rule 'x' .* no list of quoted texts"),
        (PROSE, "titulo: [", r"leis\.yaml: not YAML"),
        (PROSE, "titulo: [a]\ndocumento: ['{z}']\n", r"leis\.yaml: no rule 'z'.*mend the grammar"),
    ],
)
def test_a_bad_folder_is_named_with_the_remedy(
    tmp_path: Path, prose: str, grammar: str, message: str
) -> None:
    write_folder(tmp_path, prose=prose, grammar=grammar)
    with pytest.raises(SampleError, match=message) as caught:
        list(generate_sample(tmp_path, n_documents=9, seed=1))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_prose_alone_is_enough_for_as_many_documents(tmp_path: Path) -> None:
    write_folder(tmp_path, grammar="")
    assert len(list(generate_sample(tmp_path, n_documents=2, seed=1))) == 2


@pytest.fixture(scope="module")
def real() -> list[SampleDocument]:
    """Return the sample of the default size from the folder in the repository."""
    return list(generate_sample(REAL_FOLDER, n_documents=4200, seed=1))


def test_the_real_sample_has_four_megabytes_of_ten_registers(real: list[SampleDocument]) -> None:
    assert sum(len(s.document.text.encode()) for s in real) >= 4_000_000
    assert {s.document.source for s in real} == REGISTERS


def test_the_real_prose_has_ten_registers() -> None:
    prose = sorted((REAL_FOLDER / "prose").glob("*.txt"))
    assert {path.stem for path in prose} == REGISTERS
    assert sum(path.stat().st_size for path in prose) >= 150_000


def test_no_real_text_has_slots_or_blanks_left_over(real: list[SampleDocument]) -> None:
    bad = r"[{}]|<END>\s*<END>|^\s*<END>|<END>\s*$|  "
    assert [s.document.id for s in real if re.search(bad, s.document.text)] == []
