"""Text: export, cleaning, near-duplicates and encoding, in MB of UTF-8 a CPU second.

What the stages call is held against plain Python by the same rules, which has to give the same
output, and against the nearest steps of datatrove, where it is installed. Then the stages
themselves are run on ever more documents: what they take, and what memory they hold.
"""

import json
import math
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from importlib.util import find_spec
from itertools import accumulate, chain, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from tokenizers import Tokenizer

from benchmarks.measure import interleave, rates
from cordel.corpus.cleaning import BROKEN, CleaningParams, clean_text
from cordel.corpus.documents import BATCH, SCHEMA, Document, read_documents
from cordel.corpus.normalisation import ALLOWED
from cordel.corpus.sample import SampleDocument, generate_sample
from cordel.corpus.sources import (
    CorpusParams,
    HubParams,
    export_documents,
    local_documents,
    normal_form,
    rank,
)
from cordel.corpus.splits import SplitParams, split_documents
from cordel.runtime.files import write_jsonl
from cordel.runtime.params import read_params
from cordel.tokenizers.huggingface import write_huggingface
from cordel.tokenizers.params import TokenizerParams
from cordel.tokenizers.saved import load_tokenizer
from cordel.tokenizers.subword import SubwordTokenizer, learn_pieces
from cordel.tokens import write_split
from stages.encode_corpus import encoded

REAL, EXPORTED = Path("data/external/corpus_ptbr"), Path("data/corpus/documents.parquet")
SAMPLE = Path("data/sample")
MARKER = "<END>"
ALL = 1_000_000  # documents: no limit of params.yaml is to be met
FEW = 150  # documents: every split gets some
NOISE = 0.1  # CPU seconds, by which two runs of a stage can differ
DATASET = "v7_lossless"
STAGES = ("export_corpus", "split_corpus", "clean_corpus@web", "clean_corpus@lossless")
STAGES += (f"encode_corpus@{DATASET}",)
ONE_THREAD = {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}
PLAIN = "plain Python"
DATATROVE = find_spec("datatrove") is not None
# Runs a stage and prints what it took. VmHWM: ru_maxrss begins with the memory of the parent.
WATCHED = """
import json, resource, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
finally:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    found = {"cpu": sum(u.ru_utime + u.ru_stime for u in used)}
    sys.stdout.write("\\n" + json.dumps(found | {"peak_mb": int(peak.split()[1]) / 1024}))
"""


@dataclass(frozen=True, slots=True)
class Way:
    """A way to do a step; ``read`` makes what it returned one value a document, or None."""

    work: Callable[[], Any]
    read: Callable[[Any], Sequence[Any] | None] = lambda made: made


Ways = dict[str, Way]


def measure(*, quick: bool) -> dict[str, Any]:
    """Return MB a CPU second of every way to do every step, and how the stages grow."""
    os.environ |= ONE_THREAD
    size, base, times = 8_000_000, 4_000_000, (1, 4, 16)
    if quick:
        size, base, times = 600_000, 400_000, (1, 2, 4)
    origin, raw = documents(max(size, base * times[-1]))
    some = within(raw, size)
    exported = [normal_form(document, MARKER) for document in some]
    # Real text has hardly a near-duplicate; the sample's are on record.
    extra = list(sample(600 if quick else 3000, seed=8))
    mixed = exported + [normal_form(item.document, MARKER) for item in extra]
    with TemporaryDirectory() as name:
        folder = Path(name)
        learn(exported, folder / "tokenizer", vocab_size=2048 if quick else 8192)
        steps = {
            "export": (export_ways(some, folder), some),
            "clean, recipe web": (clean_ways(exported, "web"), exported),
            "clean, recipe lossless": (clean_ways(exported, "lossless"), exported),
            "near-duplicates": (duplicate_ways(mixed, folder), mixed),
            "encode": (encode_ways(exported, folder), exported),
        }
        found = {
            step: {
                "documents": len(texts),
                "megabytes": megabytes(texts),
                "ways": compared(ways, megabytes(texts), 1 if quick else 5),
            }
            for step, (ways, texts) in steps.items()
        }
        grown = growth([within(raw, base * n) for n in times], folder)
    return {
        "text": origin,
        "copies": sum(item.copy_of is not None for item in extra),
        "steps": found,
        "growth": grown,
        "left_out": [] if DATATROVE else ["datatrove"],
    }


def compared(ways: Ways, size: float, rounds: int) -> dict[str, Any]:
    """Return MB a CPU second of every way, and how many documents come out as with the first."""
    made = {name: way.read(way.work()) for name, way in ways.items()}  # warms up as well
    took = interleave({name: way.work for name, way in ways.items()}, rounds=rounds, warm_up=0)
    ours = made[next(iter(ways))]
    found = {}
    for name, theirs in made.items():
        agree = theirs and sum(a == b for a, b in zip(ours or (), theirs, strict=True))
        if name == PLAIN and agree != len(theirs or ()):
            raise AssertionError(f"{name}: {agree} of {len(theirs or ())} documents agree")
        found[name] = rates(took[name], size) | {"agree": agree}
    return found


# --- The text --------------------------------------------------------------------------------


def documents(size: int) -> tuple[str, list[Document]]:
    """Return where documents of ``size`` bytes come from, and the documents in a seeded order.

    Real text if it is there, else what the checkout has exported; the sample's generator gives
    what is missing.
    """
    origin, first = f"generated from {SAMPLE}", list[Document]()
    if REAL.exists():
        origin, first = str(REAL), list(local_documents(corpus_params(REAL)))
    elif EXPORTED.exists():
        origin, first = str(EXPORTED), list(read_documents(EXPORTED))
    first.sort(key=lambda document: rank(0, document.id))
    if sum(len(d.text.encode()) for d in first) < size and first:
        origin += f", then generated from {SAMPLE}"
    return origin, within(chain(first, (item.document for item in sample(ALL, seed=7))), size)


def sample(count: int, *, seed: int) -> Iterator[SampleDocument]:
    """Return documents of another seed than params.yaml's, so that no id occurs twice."""
    return generate_sample(SAMPLE, n_documents=count, seed=seed)


def within(found: Iterable[Document], size: int) -> list[Document]:
    """Return the first documents, until they have ``size`` bytes."""
    taken: list[Document] = []
    for document in found:
        taken.append(document)
        size -= len(document.text.encode())
        if size <= 0:
            break
    return taken


def megabytes(found: Iterable[Document]) -> float:
    """Return the MB of UTF-8 of the texts."""
    return sum(len(document.text.encode()) for document in found) / 1e6


def corpus_params(path: Path) -> CorpusParams:
    """Return the parameters that take all documents of JSON Lines."""
    return CorpusParams(
        source="jsonl",
        path=str(path),
        pattern="*",
        text_field="text",
        hub=HubParams(dataset="", revision="", split=""),
        max_documents=ALL,
        seed=42,
        paragraph_marker=MARKER,
    )


def write_source(path: Path, found: Iterable[Document]) -> None:
    """Write documents as the JSON Lines that an export reads."""
    names = SCHEMA.names
    write_jsonl(path, ({name: getattr(document, name) for name in names} for document in found))


def learn(found: Iterable[Document], out: Path, *, vocab_size: int) -> None:
    """Learn v7's tokenizer, of a size that the text supports."""
    params = read_params("tokenizers.unigram_v7", TokenizerParams)
    params = replace(params, vocab_size=vocab_size, hard_limit=False)
    out.mkdir()
    learn_pieces((document.text for document in found), params, out, section="benchmarks")
    write_huggingface(out)


def emptied(folder: Path) -> Path:
    """Return the folder with nothing in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


# --- Export: JSON Lines to Parquet -----------------------------------------------------------


def export_ways(found: Sequence[Document], folder: Path) -> Ways:
    """Return ways to make documents.parquet of JSON Lines."""
    source = emptied(folder / "source") / "corpus.jsonl"
    write_source(source, found)
    params = corpus_params(source)

    def ours() -> Path:
        out = emptied(folder / "exported")
        export_documents(params, out, revision="", parts=emptied(folder / "parts"))
        return out / "documents.parquet"

    def plain() -> Path:
        rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
        kept = {row["id"] for row in sorted(rows, key=lambda r: rank(42, r["id"]))[:ALL]}
        rows = [row | {"text": plain_form(row["text"])} for row in rows if row["id"] in kept]
        path = emptied(folder / "plain") / "documents.parquet"
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), path, compression="zstd")
        return path

    def read(path: Path) -> list[Document]:
        return list(read_documents(path))

    ways = {"cordel": Way(ours, read), PLAIN: Way(plain, read)}
    if DATATROVE:
        name = "datatrove JsonlReader, ParquetWriter (no sample is drawn)"
        ways[name] = Way(lambda: datatrove_export(source, emptied(folder / "datatrove")), read)
    return ways


def plain_form(text: str) -> str:
    """Return the text with lines instead of paragraph markers."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return re.sub(r"[ \t\n]*<END>[ \t\n]*", "\n", text).strip("\n")


def datatrove_export(source: Path, out: Path) -> Path:
    """Do the same with datatrove's reader and writer, the text's form in the writer's adapter."""
    quiet_datatrove()
    from datatrove.pipeline.readers import JsonlReader  # noqa: PLC0415  (a peer, optional)
    from datatrove.pipeline.writers import ParquetWriter  # noqa: PLC0415

    def row(_: Any, document: Any) -> dict[str, str]:
        kept = {name: document.metadata[name] for name in ("source", "title")}
        return {"id": document.id, **kept, "text": plain_form(document.text)}

    writer = ParquetWriter(
        str(out), compression="zstd", adapter=row, batch_size=BATCH, schema=SCHEMA
    )
    for _ in writer.run(JsonlReader(str(source.parent)).run()):
        pass
    return next(out.iterdir())


def quiet_datatrove() -> None:
    """Let datatrove log nothing."""
    from loguru import logger  # noqa: PLC0415  (comes with datatrove)

    logger.disable("datatrove")


# --- Cleaning --------------------------------------------------------------------------------


def clean_ways(found: Sequence[Document], recipe: str) -> Ways:
    """Return ways to clean texts by a recipe."""
    params = read_params(f"cleaning.{recipe}", CleaningParams)
    texts = [document.text for document in found]
    ways = {
        "cordel": Way(lambda: clean_all(texts, params)),
        PLAIN: Way(lambda: [plain_clean(text, params) for text in texts]),
    }
    if DATATROVE and recipe == "web":
        name = "datatrove simplify_text (other rules: lower case, no accents, signs or line ends)"
        ways[name] = Way(lambda: datatrove_simplify(texts), lambda _: None)
    elif DATATROVE:
        name = "datatrove C4QualityFilter (other rules: how lines end, words a line, phrases)"
        ways[name] = Way(lambda: datatrove_filter(texts), lambda _: None)
    return ways


def clean_all(texts: Iterable[str], params: CleaningParams) -> list[str | None]:
    """Return the texts as clean_corpus does."""
    dropped: Counter[str] = Counter()
    return [clean_text(text, params, dropped) for text in texts]


def plain_clean(text: str, params: CleaningParams) -> str | None:
    """Return the text by the same rules, written down as they are said."""
    lines = [line for line in plain_lines(text, params) if is_kept(line, params)]
    cleaned = "\n".join(line.lower() if params.normalisation.lowercase else line for line in lines)
    return cleaned if len(cleaned) >= max(1, params.min_document_chars) else None


def plain_lines(text: str, params: CleaningParams) -> list[str]:
    """Return the normalised lines."""
    rules = params.normalisation
    if not rules.filter_characters:
        return text.split("\n")
    text = unicodedata.normalize("NFKC", text)
    text = re.sub(r"\s*<END>\s*", "\n" if rules.end_marker == "newline" else " ", text)
    text = re.sub(r"\S+@\S+", " ", re.sub(r"https?://\S+", " ", text))
    kept = []
    for character in text:
        if character in "\ufeff\u200b\r" or (
            character == "\u00ad" and rules.soft_hyphen == "delete"
        ):
            continue
        letter = unicodedata.category(character)[0] in "LN"
        kept.append(character if letter or character in ALLOWED else " ")
    text = re.sub("\n{2,}", "\n", re.sub(" {2,}", " ", "".join(kept)))
    if rules.collapse_digits:
        text = re.sub(r"\d{2,}", "0", text)
    return [line.strip() for line in text.split("\n")]


def is_kept(line: str, params: CleaningParams) -> bool:
    """Return whether the recipe keeps the line."""
    if not line.strip() or len(line) < params.min_line_chars:
        return False
    if sum(character.isalpha() for character in line) / len(line) < params.min_letter_share:
        return False
    if params.drop_uppercase and len(line) < 80 and line.isupper():
        return False
    return not (params.drop_broken and BROKEN.search(line))


def datatrove_simplify(texts: Iterable[str]) -> None:
    """Normalise with what datatrove's deduplication normalises with."""
    from datatrove.utils.text import TextNormConfig, simplify_text  # noqa: PLC0415  (a peer)

    config = TextNormConfig()
    for text in texts:
        simplify_text(text, config)


def datatrove_filter(texts: Iterable[str]) -> None:
    """Drop lines by the rules of C4; those on sentences would need spaCy."""
    quiet_datatrove()
    from datatrove.data import Document as Item  # noqa: PLC0415  (a peer, optional)
    from datatrove.pipeline.filters import C4QualityFilter  # noqa: PLC0415

    items = (Item(text=text, id=str(number)) for number, text in enumerate(texts))
    for _ in C4QualityFilter(min_num_sentences=-1).run(items):  # pyright: ignore[reportArgumentType]
        pass


# --- Near-duplicates -------------------------------------------------------------------------


def duplicate_ways(found: Sequence[Document], folder: Path) -> Ways:
    """Return ways to find each document's cluster, which has the id of its first document."""
    params = replace(read_params("splits", SplitParams), reserved_sources=())
    ways = {
        "cordel": Way(lambda: split_documents(found, params)["cluster"]),
        "MinHash with NumPy, as datasketch does it": Way(lambda: numpy_clusters(found, params)),
    }
    if DATATROVE:
        name = "datatrove Minhash (64 bits, joins what shares a bucket unchecked)"
        ways[name] = Way(
            lambda: datatrove_clusters(found, params, emptied(folder / "minhash")),
            lambda made: named_clusters(found, made),
        )
    return ways


def numpy_clusters(found: Sequence[Document], params: SplitParams) -> list[str]:
    """Return the clusters by other hashes: near the threshold some pairs come out otherwise."""
    prime, rng = np.uint64((1 << 61) - 1), np.random.default_rng(params.seed)
    a, b = rng.integers(1, int(prime), (2, params.permutations), dtype=np.uint64)
    signatures = []
    for document in found:
        words, width = re.findall(r"\w+", document.text.lower()), params.shingle_words
        shingles = {tuple(words[i : i + width]) for i in range(max(1, len(words) - width + 1))}
        hashes = [blake2b(" ".join(s).encode(), digest_size=4).digest() for s in shingles]
        column = np.frombuffer(b"".join(hashes), dtype=np.uint32).astype(np.uint64)[:, None]
        signatures.append(((column * a + b) % prime).astype(np.uint32).min(axis=0))
    first = list(range(len(found)))
    size = params.permutations // params.bands
    for start in range(0, params.permutations, size):
        groups: dict[bytes, list[int]] = defaultdict(list)
        for index, signature in enumerate(signatures):
            groups[signature[start : start + size].tobytes()].append(index)
        for group in groups.values():
            for low, high in pairwise(group):
                if (signatures[low] == signatures[high]).mean() >= params.min_similarity:
                    roots = sorted((root(first, low), root(first, high)))
                    first[roots[1]] = roots[0]
    return [found[root(first, index)].id for index in range(len(found))]


def root(first: list[int], index: int) -> int:
    """Return the first document of a document's cluster."""
    while first[index] != index:
        index = first[index]
    return index


def datatrove_clusters(found: Sequence[Document], params: SplitParams, folder: Path) -> Path:
    """Run datatrove's three steps with as many buckets and hashes, words found as cordel does.

    Its own words of Portuguese would need spaCy, which takes far longer than all the rest.
    """
    quiet_datatrove()
    from datatrove.data import Document as Item  # noqa: PLC0415  (a peer, optional)
    from datatrove.pipeline.dedup import minhash  # noqa: PLC0415
    from datatrove.utils.word_tokenizers import WhitespaceTokenizer  # noqa: PLC0415

    class Words(WhitespaceTokenizer):
        def word_tokenize(self, text: str) -> list[str]:
            return re.findall(r"\w+", text)

    config = minhash.MinhashConfig(
        n_grams=params.shingle_words,
        num_buckets=params.bands,
        hashes_per_bucket=params.permutations // params.bands,
    )
    signed, paired, clustered = (str(folder / name) for name in ("signed", "paired", "clustered"))
    items: Any = (Item(text=document.text, id=document.id) for document in found)
    language: Any = Words()  # as its documentation has it: an object for a language
    signing = minhash.MinhashDedupSignature(signed, config, language)
    digest = signing._hash_func  # which gives xxhash a str, as it took until its version 4
    signing._hash_func = lambda text: digest(text.encode())  # pyright: ignore[reportArgumentType]
    signing.run(items)
    for bucket in range(params.bands):
        minhash.MinhashDedupBuckets(signed, paired, config=config).run(None, bucket, params.bands)
    minhash.MinhashDedupCluster(paired, clustered, config, save_cluster_id=True).run()
    return Path(clustered)


def named_clusters(found: Sequence[Document], folder: Path) -> list[str]:
    """Return the clusters of datatrove's table, where those of one document are not."""
    names = [document.id for document in found]
    path = folder / "000000.clusters"
    first: dict[int, str] = {}
    for index, cluster in struct.iter_unpack("<2I", path.read_bytes() if path.exists() else b""):
        names[index] = first.setdefault(cluster, names[index])
    return names


# --- Encoding --------------------------------------------------------------------------------


def encode_ways(found: Sequence[Document], folder: Path) -> Ways:
    """Return ways to encode documents to a file of ids; every one begins by loading its model."""
    home, out = folder / "tokenizer", emptied(folder / "ids")
    texts = [document.text for document in found]

    def ours() -> Path:
        tokenizer = load_tokenizer(home)
        write_split(out, "ours", (encoded(tokenizer, each, each.text) for each in found))
        return out / "ours.bin"

    def read_ours(path: Path) -> list[list[int]]:
        lengths = pq.read_table(path.with_suffix(".parquet"))["tokens"].to_pylist()
        return [ids[1:-1] for ids in cut(path, list(accumulate(lengths)))]  # begin and end

    ways = {
        "cordel": Way(ours, read_ours),
        "SentencePiece, a document a call": Way(lambda: sentencepiece_ids(home, texts, out)),
        "tokenizers encode_batch": Way(lambda: tokenizers_ids(home, texts, out)),
    }
    if DATATROVE:
        ways["datatrove DocumentTokenizer"] = Way(
            lambda: datatrove_ids(home, texts, emptied(folder / "datatrove")),
            lambda path: cut(path, np.fromfile(f"{path}.index", "<u8").tolist()),
        )
    return ways


def cut(path: Path, ends: Sequence[int]) -> list[list[int]]:
    """Return the ids of every document of a file."""
    ids = np.fromfile(path, "<u2").tolist()
    return [ids[start:end] for start, end in pairwise([0, *ends])]


def written(ids: list[list[int]], path: Path) -> list[list[int]]:
    """Write ids to a file and return them."""
    with path.open("wb") as stream:
        for some in ids:
            np.asarray(some, dtype="<u2").tofile(stream)
    return ids


def sentencepiece_ids(home: Path, texts: list[str], out: Path) -> list[list[int]]:
    """Encode without cordel's chunks, whose scores add exactly."""
    processor = SubwordTokenizer((home / "tokenizer.model").read_bytes()).processor
    return written([processor.encode(text) for text in texts], out / "plain.bin")


def tokenizers_ids(home: Path, texts: list[str], out: Path) -> list[list[int]]:
    """Encode with Hugging Face's library, in batches of which none takes gigabytes."""
    tokenizer = Tokenizer.from_file(str(home / "tokenizer.json"))
    batches = (texts[start : start + BATCH] for start in range(0, len(texts), BATCH))
    ids = [each.ids for batch in batches for each in tokenizer.encode_batch(batch)]
    return written(ids, out / "batch.bin")


def datatrove_ids(home: Path, texts: Iterable[str], out: Path) -> Path:
    """Encode with datatrove's step, which calls the same library."""
    quiet_datatrove()
    from datatrove.data import Document as Item  # noqa: PLC0415  (a peer, optional)
    from datatrove.pipeline.tokens import DocumentTokenizer  # noqa: PLC0415

    items: Any = (Item(text=text, id=str(number)) for number, text in enumerate(texts))
    model = str(home / "tokenizer.json")
    DocumentTokenizer(
        str(out), model, shuffle_documents=False, save_final_metadata=False, batch_size=BATCH
    ).run(items)
    return next(out.glob("*.ds"))


# --- The stages as the corpus grows ----------------------------------------------------------


def growth(sizes: Sequence[Sequence[Document]], folder: Path) -> dict[str, Any]:
    """Return CPU seconds and peak memory of the stages over ever more documents.

    ``exponent`` is the slope of log(CPU seconds less those of starting) over log(MB): 1 is linear.
    Starting is what some small documents take: libraries are imported when they are first needed.
    """
    home = emptied(folder / "project")
    shutil.copytree(folder / "tokenizer", home / "data" / "tokenizers" / "unigram_v7")
    write_params(home)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in STAGES}
    for found in ([item.document for item in sample(FEW, seed=7)], *sizes):
        write_source(home / "corpus.jsonl", found)
        for name in STAGES:
            runs[name].append(run_watched(home, words_of(name)))
    return {
        "documents": [len(found) for found in sizes],
        "megabytes": [megabytes(found) for found in sizes],
        "stages": {
            name: {
                "start": start,
                "runs": taken,
                "exponent": exponent(
                    [megabytes(found) for found in sizes],
                    [run["cpu"] - start["cpu"] for run in taken],
                ),
            }
            for name, (start, *taken) in runs.items()
        },
    }


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float | None:
    """Return the slope of the logarithms by least squares, or None if all is noise."""
    if min(seconds) < NOISE:
        return None
    slope = np.polyfit([math.log(x) for x in sizes], [math.log(x) for x in seconds], 1)[0]
    return round(float(slope), 3)


def write_params(home: Path) -> None:
    """Write params.yaml with JSON Lines as the source and no limit to the documents."""
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    params["corpus"] |= {"source": "jsonl", "path": "corpus.jsonl", "max_documents": ALL}
    params["splits"]["reserved_sources"] = []
    params["evaluation"]["max_documents"] = ALL
    params["datasets"][DATASET] |= {"max_documents": ALL, "max_val_documents": ALL}
    (home / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")


def words_of(stage: str) -> list[str]:
    """Return the module and the arguments that dvc.yaml gives a stage."""
    name, _, item = stage.partition("@")
    spec = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"][name]
    values = {"corpus.path": "corpus.jsonl", "key": item}
    values |= {"item.recipe": "lossless", "item.tokenizer": "unigram_v7"}
    filled = re.sub(r"\$\{([\w.]+)\}", lambda m: values[m[1]], spec.get("do", spec)["cmd"])
    return shlex.split(filled)[2:]  # after: python -m


def run_watched(home: Path, words: Sequence[str]) -> dict[str, float]:
    """Run a stage in a process of its own and return its CPU seconds and peak memory.

    The folder holds params.yaml and data; the code is this checkout's.
    """
    code = [str(Path("src").resolve()), str(Path.cwd())]
    done = subprocess.run(  # noqa: S603  (our own stages)
        [sys.executable, "-c", WATCHED, *words],
        cwd=home,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(code), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])
