"""The embedded sample corpus: prose and grammars turned into a stream of BrWaC-like web documents.

BrWaC is a crawl: menus, telephones and broken characters among paragraphs joined by ``<END>``. The
sample has the same faults, each on record, so that cleaning can be measured against them.
"""

import random
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from cordel.corpus.documents import Document
from cordel.corpus.grammar import Expansion, Grammar, GrammarError
from cordel.runtime.errors import InputError

MARKERS = (*8 * [" <END> "], "<END>", " <END>\n")  # the spaced marker is by far the usual one
NEAR_DUPLICATE = 0.04  # share of generated documents that repeat a recent one
RECENT = 200  # originals kept for that: bounds the memory whatever the size of the sample
MIN_COPIED_WORDS = 30  # in a shorter text a single edit is already a large share
WORDS_PER_EDIT = 60  # one edit in so many leaves far more than 90 % of the words equal
# How likely a generated document has dirt of a kind; all together leave about 35 % clean. Kinds
# inside a sentence come first, or they would land in the injected lines and alter them.
PROBABILITY = {
    "broken_characters": 0.07,  # one page in fourteen was decoded with the wrong encoding
    "url": 0.12,  # links written out in running text
    "email": 0.08,  # rarer than links: the address of a newsroom or an author
    "invisible": 0.10,  # left behind by web editors, unseen by whoever copied the text
    "short_line": 0.25,  # buttons and captions, the most common residue of a web page
    "menu": 0.15,  # navigation bars that the extraction did not recognise
    "uppercase_metadata": 0.10,  # the slug line around an article
    "digits": 0.12,  # footers with telephones, registrations and codes
}
INVISIBLE = ("\u200b", "\ufeff", "\u00ad", "\t")
MISREADINGS = (("utf-8", "cp1252"), ("latin-1", "utf-8"))  # (written as, read as)
ACCENTED = re.compile("[áâãçéêóôõú]")  # misread, à and í end in a blank and a soft hyphen

# A rule for each kind, then its parts. Telephones have area code 00, registrations begin with 99
# and hosts are reserved for examples, so that none belongs to anybody.
WEB_DIRT: Grammar = {
    rule: [" ".join(alternative.split()) for alternative in alternatives.split(";")]
    for rule, alternatives in {
        "short_line": """Leia mais; Leia também; Compartilhar; Continue lendo; Publicidade; Tags:
            {item}, {item}; Página {2..9} de {10..48}; {2..97} comentários; Foto: Divulgação; Há
            {2..23} horas; Curtir ({1..900}); Voltar ao topo; Assine por R$ {4..49},90; Mais em
            {item}; Leitura: {2..15} min; Galeria ({4..60} fotos)""",
        "menu": """{item} | {item} | {item} | {item}; {item} | {item} | {item} | {item} | {item};
            {item} · {item} · {item}; {item} > {item} > {item}; Início » {item} » {item}; {item} /
            {item} / {item}; [{item}] [{item}] [{item}]; {item} • {item} • {item}; Home | {item};
            « Anterior | {1..4} | {5..9} | Próxima »; Menu: {item} | {item}; A- | A+ | {item}""",
        "uppercase_metadata": """REDAÇÃO - ATUALIZADO ÀS {time} - CADERNO {DESK}; POR {PERSON} -
            {CITY}; {CITY}, {date} - {time}; {DESK} - EDIÇÃO {100..9999}; DA REDAÇÃO, EM {CITY};
            FOTO: {PERSON}/ARQUIVO; PUBLICADO EM {date}; ESPECIAL PARA {DESK} - {PERSON}; ENVIADO A
            {CITY}; {DESK} | ÚLTIMAS NOTÍCIAS | {time}; TEXTO: {PERSON} - EDIÇÃO: {PERSON}; {CITY}
            - CADERNO {DESK} - PÁG. {1..48}; CORREÇÃO ÀS {time}: {DESK}; © {2001..2019} {CITY}""",
        "digits": """Fone: {phone} / {2000..4999}-{1000..9999} / 0800 000 {1000..9999}; Tel. {phone}
            / {phone}; CNPJ 99.{100..999}.{100..999}/0001-{10..99}; SAC 0800 000 {1000..9999};
            CEP 00{100..999}-{100..999} - Tel. {phone}; ISSN {1000..9999}-{1000..9999} v. {1..60};
            Cód. {100000..999999}-{100000..999999}; Fax: {phone}; Ref. {10000..99999}/{10..99};
            {phone} | {phone}; {date} - {100000..999999}; Proc. {100000..999999}-{10..99}.{date}""",
        "url": """(veja em {address=link}); (leia em {address=link}); ({address=link}); [fonte:
            {address=link}]; (íntegra em {address=link}); (cf. {address=link})""",
        "email": """(contato: {address=mail}); (e-mail {address=mail}); ({address=mail}); [dúvidas:
            {address=mail}]; (escreva para {address=mail}); (inscrições em {address=mail})""",
        "link": """https://www.{host}/{path}/{10..99999}; http://www.{host}/{path};
            https://{host}/{path}-{path}-{10..999}.html; http://{path}.{host}/?id={10..99999}""",
        "mail": "{user}@{host}; {user}{1..99}@{host}; {user}.{path}@{host}; {user}@{path}.{host}",
        "host": "exemplo.com.br; example.org; example.com; example.net",
        "path": "noticia; blog; artigo; receitas; forum; saude; revista; edital; mundo; agenda",
        "user": "contato; redacao; imprensa; sac; joana; m.pereira; vendas; editor; r_souza",
        "item": """Início; Notícias; Esportes; Contato; Política; Economia; Cultura; Blogs; Fotos;
            Vídeos; Quem somos; Anuncie; Assine; Login; Busca; Mapa do site; Ajuda; Fórum; Loja""",
        "DESK": "POLÍTICA; FUTEBOL; SAÚDE; A; B; CIDADES; EDUCAÇÃO; CULTURA; OPINIÃO; MUNDO; CAMPO",
        "CITY": "RECIFE; BELÉM; MANAUS; GOIÂNIA; SALVADOR; NATAL; CUIABÁ; LONDRINA; OLINDA; BAURU",
        "PERSON": "ANA LIMA; JOÃO PRADO; RUI BASTOS; LÚCIA MELO; VERA PAZ; CAIO LEAL; RITA SALES",
        "phone": "(00) {2000..4999}-{1000..9999}; (00) 9{1000..9999}-{1000..9999}",
        "date": "{10..28}/{10..12}/{2001..2019}; {1..28}.{10..12}.{2001..2019}",
        "time": "{10..23}H{10..59}; {10..23}:{10..59}",
    }.items()
}


class SampleError(InputError):
    """The folder of the sample is missing, empty or not in the expected form."""


@dataclass(frozen=True, slots=True)
class Dirt:
    """One piece of web dirt in a document: its kind and the exact string in the text.

    That is the whole line, the address alone, the broken word or the invisible character itself.
    """

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class SampleDocument:
    """A document, the dirt that was put into it and the id of its original if it is a copy."""

    document: Document
    dirt: tuple[Dirt, ...]
    copy_of: str | None


def generate_sample(folder: Path, *, n_documents: int, seed: int) -> Iterator[SampleDocument]:
    """Return a generator of ``n_documents`` documents: all prose once, then generated ones.

    Document ``i`` depends on ``(seed, i)`` only, so a larger sample begins with the smaller one.

    Raises:
        SampleError: A file is missing, empty or malformed; from the generator, a grammar lacks a
            rule that a document needs.
    """
    prose = [d for path in sorted(folder.glob("prose/*.txt")) for d in _read_prose(path)]
    grammars = [(path, _read_grammar(path)) for path in sorted(folder.glob("grammar/*.yaml"))]
    if n_documents > len(prose) and not grammars:
        raise SampleError(
            f"{folder}: no grammar, and {len(prose)} of {n_documents} documents in prose; expected "
            "prose/<register>.txt and grammar/<register>.yaml; restore them or correct the path"
        )
    return _stream(prose, grammars, n_documents, seed)


def _stream(
    prose: Sequence[Document], grammars: Sequence[tuple[Path, Grammar]], count: int, seed: int
) -> Iterator[SampleDocument]:
    recent: deque[SampleDocument] = deque(maxlen=RECENT)
    for index in range(count):
        rng = random.Random(f"{seed}/{index}")
        name = f"{seed}-{index:07d}"
        if index < len(prose):
            text = _join(rng, prose[index].text.split("\n"))
            yield SampleDocument(replace(prose[index], id=name, text=text), (), None)
        elif rng.random() < NEAR_DUPLICATE and recent:
            yield _near_duplicate(rng, name, rng.choice(recent))
        else:
            sample = _generate(rng, name, *rng.choice(grammars))
            if len(sample.document.text.split()) >= MIN_COPIED_WORDS:
                recent.append(sample)
            yield sample


def _generate(rng: random.Random, name: str, path: Path, grammar: Grammar) -> SampleDocument:
    expansion = Expansion(grammar, rng)
    try:
        title = expansion.expand("titulo").strip()  # first: the text repeats what it remembers
        lines = expansion.expand("documento").splitlines()
    except GrammarError as error:
        raise SampleError(f"{path}: {error}; mend the grammar") from error
    paragraphs = [line.split() for line in lines if line.strip()]
    dirt = _soil(rng, paragraphs)
    text = _join(rng, [" ".join(words) for words in paragraphs])
    return SampleDocument(Document(name, path.stem, title, text), tuple(dirt), None)


def _join(rng: random.Random, paragraphs: Sequence[str]) -> str:
    gaps = [*rng.choices(MARKERS, k=max(len(paragraphs) - 1, 0)), ""]
    return "".join(paragraph + gap for paragraph, gap in zip(paragraphs, gaps, strict=False))


def _soil(rng: random.Random, paragraphs: list[list[str]]) -> list[Dirt]:
    """Put dirt into ``paragraphs``, lists of words, and return what was put in."""
    expansion = Expansion(WEB_DIRT, rng)
    dirt: list[Dirt] = []
    for kind, probability in PROBABILITY.items():
        if rng.random() < probability:
            if kind in ("broken_characters", "url", "email", "invisible"):
                dirt += [Dirt(kind, text) for text in _soil_words(kind, paragraphs, expansion)]
            else:
                line = expansion.expand(kind)
                paragraphs.insert(rng.randint(0, len(paragraphs)), [line])
                dirt.append(Dirt(kind, line))
    return dirt


def _soil_words(kind: str, paragraphs: list[list[str]], expansion: Expansion) -> Iterator[str]:
    """Put dirt of ``kind`` into one to three words that have none yet and yield what it was."""
    rng = expansion.rng
    written, read = rng.choice(MISREADINGS)  # one for the page, as every page has one encoding
    broken, invisible = kind == "broken_characters", kind == "invisible"
    # Invisible characters must not hit a broken word, and a broken word is never ASCII.
    fits = ACCENTED.search if broken else str.isascii if invisible else str.isalpha
    words = [(p, i) for p in paragraphs for i, w in enumerate(p) if w.isalpha() and fits(w)]
    for paragraph, i in rng.sample(words, min(rng.randint(1, 3), len(words))):
        word = paragraph[i]
        if broken:
            paragraph[i] = word.encode(written, "replace").decode(read, "replace")
            yield paragraph[i]
        elif invisible:
            character = rng.choice(INVISIBLE)
            cut = len(word) if character == "\t" else rng.randint(1, len(word))
            paragraph[i] = word[:cut] + character + word[cut:]
            yield character
        else:
            paragraph[i] += " " + expansion.expand(kind)  # no word now: left alone
            yield expansion.remembered["address"]


def _near_duplicate(rng: random.Random, name: str, original: SampleDocument) -> SampleDocument:
    """Return ``original`` under another id with a few words changed, its dirt untouched."""
    words = original.document.text.split(" ")
    dirty = {word for dirt in original.dirt for word in dirt.text.split()}
    for _ in range(rng.randint(1, 1 + len(words) // WORDS_PER_EDIT)):
        free = [i for i, word in enumerate(words) if word.isalnum() and word not in dirty]
        if not free:
            break
        i = rng.choice(free)
        if words[i].isdecimal():
            words[i] = str(int(words[i]) + rng.randint(1, 9))
        elif i + 1 in free and rng.random() < 0.5 and words[i] != words[i + 1]:
            words[i], words[i + 1] = words[i + 1], words[i]
        else:
            del words[i]
    document = replace(original.document, id=name, text=" ".join(words))
    return SampleDocument(document, original.dirt, original.document.id)


def _read_prose(path: Path) -> list[Document]:
    """Return the documents of a prose file, without ids, a paragraph a line."""
    documents: list[Document] = []
    for block in re.split(r"\n\s*\n", path.read_text(encoding="utf-8").strip()):
        title, *lines = [line.strip() for line in block.split("\n")]
        if not title.startswith("# ") or not lines:
            raise SampleError(
                f"{path}: no document at {title[:40]!r}, expected '# Title' and a paragraph a "
                "line, a blank line between documents; mend or restore the file"
            )
        documents.append(Document("", path.stem, title[2:], "\n".join(lines)))
    return documents


def _read_grammar(path: Path) -> Grammar:
    try:
        # BaseLoader builds texts only, so that an alternative "no" or "1.50" stays as it is.
        rules = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CBaseLoader)  # noqa: S506
    except yaml.YAMLError as error:
        raise SampleError(f"{path}: not YAML ({' '.join(str(error).split())}); mend it") from error
    rules = rules if isinstance(rules, dict) else {}
    for rule in ("titulo", "documento", *rules):
        texts = rules.get(rule)
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise SampleError(
                f"{path}: rule {rule!r} is missing or no list of quoted texts; mend it"
            )
    return rules
