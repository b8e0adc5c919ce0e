"""Where documents come from: the embedded sample, local files, or a Hugging Face dataset.

Whatever the source, the corpus is a seeded sample of *all* its documents: each document's rank is a
hash of the seed and its id, and the lowest ranks are kept. (The thesis kept the first documents of
a shuffle buffer, which is a sample of the head of the stream only: thesis section 5.1.)
"""

import heapq
import json
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from cordel.corpus.documents import Document, DocumentWriter, read_documents
from cordel.corpus.sample import generate_sample
from cordel.runtime.errors import EnvironmentProblem, InputError, ParamsError
from cordel.runtime.params import require

log = logging.getLogger("export_corpus")

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet", ".txt")
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubParams:
    """A dataset of the Hugging Face hub (or a local folder in its layout)."""

    dataset: str
    revision: str  # a 40-digit commit; a branch is resolved to one, which is printed and recorded
    split: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusParams:
    """The section ``corpus`` of params.yaml."""

    source: Literal["sample", "jsonl", "hf"]
    path: str  # folder or file of `sample` and `jsonl`: a DVC dep
    pattern: str  # which files below path, for `jsonl`: "*" or "**/*.jsonl.gz"
    text_field: str
    hub: HubParams
    max_documents: int  # how many to generate (`sample`) or to keep (others)
    seed: int
    paragraph_marker: str  # literal text that stands for a paragraph break; "" for none

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(
            self.max_documents > 0,
            f"max_documents is {self.max_documents}, expected at least 1",
        )


def export_documents(params: CorpusParams, out: Path) -> dict[str, Any]:
    """Write the corpus to ``out/documents.parquet`` and return what is worth recording.

    Needs disk for the documents that were among the lowest ranks at some time, about
    ``max_documents * (1 + ln(total / max_documents))`` of them, and memory for their ranks.

    Raises:
        InputError: A file is missing, broken or empty, a record has no text, or an id repeats.
        EnvironmentProblem: The hub cannot be reached.
    """
    record: dict[str, Any] = {"source": params.source}
    if params.source == "hf":
        record |= {"dataset": params.hub.dataset, "revision": resolve_revision(params.hub)}
        documents = hub_documents(params, record["revision"])
    elif params.source == "jsonl":
        documents = local_documents(params)
    else:
        folder = Path(params.path)
        sample = generate_sample(folder, n_documents=params.max_documents, seed=params.seed)
        documents = (item.document for item in sample)
    seen, kept = sample_documents(
        (normal_form(document, params.paragraph_marker) for document in documents),
        out / "documents.parquet",
        max_documents=params.max_documents,
        seed=params.seed,
    )
    if not kept:
        where = params.hub.dataset if params.source == "hf" else params.path
        raise InputError(f"{where}: no documents found; expected at least one")
    return record | {"documents_seen": seen, "documents": kept}


def normal_form(document: Document, marker: str) -> Document:
    """Return the document with line ends as newlines and paragraph markers as line ends."""
    text = document.text.replace("\r\n", "\n").replace("\r", "\n")
    if marker:
        text = re.sub(rf"[ \t\n]*{re.escape(marker)}[ \t\n]*", "\n", text)
    return replace(document, text=text.strip("\n"))


def rank(seed: int, document_id: str) -> int:
    """Return the document's place in a seeded shuffle of any corpus: 64 bits of a hash."""
    digest = blake2b(f"{seed}/{document_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def sample_documents(
    documents: Iterator[Document], path: Path, *, max_documents: int, seed: int
) -> tuple[int, int]:
    """Write the ``max_documents`` of lowest rank, in their order of arrival.

    One pass over the source: a document is spooled to disk if it is among the lowest ranks so far,
    and a second pass over the spool drops those that were pushed out later.

    Returns:
        How many documents came, and how many were kept.
    """
    spool = path.with_name("spool.parquet")
    worst_first: list[int] = []  # max-heap (negated) of the ranks kept so far
    seen: set[int] = set()
    with DocumentWriter(spool) as writer:
        for document in documents:
            place = rank(seed, document.id)
            if place in seen:
                raise InputError(f"document id {document.id!r} occurs twice; ids must be unique")
            seen.add(place)
            if len(worst_first) < max_documents:
                heapq.heappush(worst_first, -place)
            elif place < -worst_first[0]:
                heapq.heapreplace(worst_first, -place)
            else:
                continue
            writer.write(document)
    last = -worst_first[0] if worst_first else -1
    with DocumentWriter(path) as writer:
        for document in read_documents(spool):
            if rank(seed, document.id) <= last:
                writer.write(document)
    spool.unlink()
    return len(seen), writer.count


def local_documents(params: CorpusParams) -> Iterator[Document]:
    """Yield the documents of ``params.path``: a file, or the matching files of a folder, sorted.

    Raises:
        InputError: Nothing matches, or a file is broken (with its line).
        ParamsError: The pattern is none.
    """
    root = Path(params.path)
    if not root.exists():
        raise InputError(f"corpus.path {root}: no such file or folder; check the path")
    try:
        files = [root] if root.is_file() else sorted(root.glob(params.pattern))
    except (ValueError, NotImplementedError) as error:
        message = f"corpus.pattern {params.pattern!r}: {error}; expected such as '*'"
        raise ParamsError(message) from None
    files = [f for f in files if f.is_file() and f.name.endswith(SUFFIXES)]
    if not files:
        raise InputError(
            f"corpus.path {root}: no file matches pattern {params.pattern!r} "
            f"with one of {', '.join(SUFFIXES)}"
        )
    for file in files:
        name = file.relative_to(root).as_posix() if file != root else file.name
        yield from file_documents(file, name, params.text_field)


def file_documents(file: Path, name: str, text_field: str) -> Iterator[Document]:
    """Yield the documents of one file; ``name`` is what their ids begin with.

    Raises:
        InputError: The file cannot be read, is empty, or a record has no text.
    """
    try:
        if file.suffix == ".txt":
            text = _decode(file, 0, file.read_bytes())
            records: Iterator[tuple[int, Any]] = iter([(1, {text_field: text})])
        elif file.suffix == ".parquet":
            batches = pq.ParquetFile(file).iter_batches(batch_size=512)
            records = enumerate((row for batch in batches for row in batch.to_pylist()), start=1)
        else:
            records = _json_lines(file)
        count = 0
        for count, record in records:
            yield _document(record, f"{file}:{count}", f"{name}:{count}", text_field)
    except (OSError, pa.ArrowException, EOFError) as error:
        if isinstance(error, OSError) and error.errno:  # disk full, permission: not its fault
            raise
        raise InputError(f"{file}: cannot be read ({error}); is it complete?") from None
    if not count:
        raise InputError(f"{file}: empty file; expected at least one document")


def _json_lines(file: Path) -> Iterator[tuple[int, Any]]:
    """Yield line number and object of a (compressed) JSON Lines file, naming a broken line."""
    with pa.input_stream(str(file), compression="detect") as stream:
        rest = b""
        number = 0
        while chunk := stream.read(1 << 20):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                number += 1
                if line.strip():
                    yield number, _json_object(file, number, line)
        if rest.strip():
            yield number + 1, _json_object(file, number + 1, rest)


def _json_object(file: Path, number: int, line: bytes) -> Any:
    text = _decode(file, number, line)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{file}:{number}: not JSON ({error.msg} at column {error.colno})"
        ) from None


def _decode(file: Path, number: int, raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig" if number <= 1 else "utf-8")
    except UnicodeDecodeError as error:
        where = f"{file}:{number}" if number else str(file)
        raise InputError(
            f"{where}: not UTF-8 (byte 0x{raw[error.start]:02x} at {error.start}); convert the file"
        ) from None


def _document(record: Any, where: str, fallback_id: str, text_field: str) -> Document:
    if not isinstance(record, dict):
        raise InputError(f"{where}: expected an object with a text, found {type(record).__name__}")
    text = record.get(text_field)
    if not isinstance(text, str) or not text.strip():
        found = ", ".join(map(str, record)) or "no field"
        what = "is empty" if isinstance(text, str) else "is missing"
        raise InputError(
            f"{where}: field {text_field!r} {what} (found: {found}); set corpus.text_field"
        )
    document = Document(
        id=str(record.get("id") or record.get("doc_id") or fallback_id),
        source=str(record.get("source") or ""),
        title=str(record.get("title") or ""),
        text=text,
    )
    try:  # JSON can escape half of a surrogate pair, which no UTF-8 file can hold
        "".join((document.id, document.source, document.title, text)).encode()
    except UnicodeEncodeError:
        message = f"{where}: half of a surrogate pair (\\ud800 to \\udfff); remove it"
        raise InputError(message) from None
    return document


def resolve_revision(hub: HubParams) -> str:
    """Return the commit that ``hub.revision`` names now, and print the pin to write down.

    A local folder has no commits; offline, the revision is used as it is.

    Raises:
        EnvironmentProblem: The hub does not answer, or does not know the dataset or revision.
    """
    if COMMIT.fullmatch(hub.revision) or Path(hub.dataset).exists():
        return hub.revision
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return hub.revision
    from huggingface_hub import HfApi  # noqa: PLC0415  (1 CPU second, only needed here)

    try:
        commit = HfApi().dataset_info(hub.dataset, revision=hub.revision).sha
    except Exception as error:  # noqa: BLE001  (a dozen network and hub errors, one remedy)
        raise EnvironmentProblem(_hub_message(hub, error)) from None
    log.info("to pin this dataset, set corpus.hub.revision: %s", commit)
    return commit or hub.revision


def hub_documents(params: CorpusParams, revision: str) -> Iterator[Document]:
    """Yield the documents of a hub dataset, streamed. ``HF_HUB_OFFLINE=1`` uses the local cache.

    Raises:
        EnvironmentProblem: The dataset cannot be loaded.
        InputError: A record has no text.
    """
    from datasets import load_dataset  # noqa: PLC0415  (imports torch where it is installed)

    hub = params.hub
    local = Path(hub.dataset).exists()
    try:
        rows = load_dataset(
            hub.dataset, split=hub.split, streaming=True, revision=None if local else revision
        )
        for index, row in enumerate(rows):
            where = f"{hub.dataset}[{hub.split}]:{index}"
            yield _document(row, where, f"{hub.split}:{index}", params.text_field)
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001  (a dozen network and hub errors, one remedy)
        raise EnvironmentProblem(_hub_message(hub, error)) from None


def _hub_message(hub: HubParams, error: Exception) -> str:
    return (
        f"corpus.hub: cannot load {hub.dataset!r} at revision {hub.revision!r}, split "
        f"{hub.split!r} ({type(error).__name__}: {error}); check the name, the network, "
        "`hf auth login` for gated data, or HF_HUB_OFFLINE"
    )
