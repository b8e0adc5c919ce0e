"""Where documents come from: the embedded sample, local files, or a Hugging Face dataset.

Whatever the source, the corpus is a seeded sample of *all* its documents: each document's rank is a
hash of the seed and its id, and the lowest ranks are kept. (The thesis kept the first documents of
a shuffle buffer, which is a sample of the head of the stream only: thesis section 5.1.)

What was read of a source is kept in parts, so that an interrupted export goes on where it was.
"""

import heapq
import json
import logging
import os
import re
import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from itertools import count, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cordel.corpus.documents import Document, DocumentWriter, read_documents
from cordel.corpus.sample import generate_sample
from cordel.runtime.console import Stopped, stop_requests
from cordel.runtime.errors import ArtifactError, EnvironmentProblem, InputError, ParamsError
from cordel.runtime.files import read_json, write_json
from cordel.runtime.params import require
from cordel.runtime.unfinished import fingerprint

log = logging.getLogger("export_corpus")

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet", ".txt")
PART_SECONDS = 60.0  # what a killed export can lose
MARKS = "part-*.json"
COMMIT = re.compile(r"[0-9a-f]{40}")
BLANKS = " \t\n"  # that go with a paragraph marker


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


@dataclass(frozen=True, slots=True)
class Stream:
    """Documents in their order, and where in it a later stream can go on."""

    documents: Iterator[Document]
    position: Callable[[], Any]  # JSON values


def export_documents(
    params: CorpusParams, out: Path, *, revision: str, parts: Path
) -> dict[str, Any]:
    """Write the corpus to ``out/documents.parquet`` and return what is worth recording.

    Needs disk for the documents that were among the lowest ranks at some time, about
    ``max_documents * (1 + ln(total / max_documents))`` of them, and memory for their ranks.

    Args:
        params: What to take of which source.
        out: An empty folder.
        revision: What ``resolve_revision`` returned, for ``hf``.
        parts: Where what was read is kept, and found again by the next attempt.

    Raises:
        InputError: A file is missing, broken or empty, a record has no text, or an id repeats.
        EnvironmentProblem: The hub cannot be reached.
        Stopped: SIGTERM or SIGINT came; what was read is kept.
    """
    record: dict[str, Any] = {"source": params.source}
    if params.source == "hf":
        record |= {"dataset": params.hub.dataset, "revision": revision}
    seen, kept = sample_documents(
        partial(open_stream, params, revision),
        out / "documents.parquet",
        max_documents=params.max_documents,
        seed=params.seed,
        parts=parts,
    )
    if not kept:
        where = params.hub.dataset if params.source == "hf" else params.path
        raise InputError(f"{where}: no documents found; expected at least one")
    return record | {"documents_seen": seen, "documents": kept}


def source_state(params: CorpusParams, revision: str) -> object:
    """Return what changes when the documents of the source may have changed, without reading them.

    A branch of the hub that could not be resolved may name other documents at any time.
    """
    path = Path(params.hub.dataset if params.source == "hf" else params.path)
    if params.source == "hf" and not path.exists():
        return revision if COMMIT.fullmatch(revision) else time.time_ns()
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.is_file())
    return [(str(file), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]


def open_stream(params: CorpusParams, revision: str, seen: int, position: Any) -> Stream:
    """Return the documents of the source after the first ``seen``.

    Raises:
        EnvironmentProblem: The hub cannot be reached.
    """
    if params.source == "hf":
        rows = _hub_rows(params.hub, revision)
        if position is not None:  # nothing that was read is fetched again
            rows.load_state_dict(position)
        documents, position_of = hub_documents(rows, params, seen), rows.state_dict
    else:
        documents = islice(_local(params), seen, None)
        position_of = lambda: None  # noqa: E731
    return Stream((normal_form(d, params.paragraph_marker) for d in documents), position_of)


def _local(params: CorpusParams) -> Iterator[Document]:
    if params.source == "jsonl":
        return local_documents(params)
    folder = Path(params.path)
    sample = generate_sample(folder, n_documents=params.max_documents, seed=params.seed)
    return (item.document for item in sample)


def normal_form(document: Document, marker: str) -> Document:
    """Return the document with line ends as newlines and paragraph markers as line ends."""
    text = document.text.replace("\r\n", "\n").replace("\r", "\n")
    if marker and marker in text:
        first, *others = text.split(marker)
        inner = [part.strip(BLANKS) for part in others[:-1]]
        text = "\n".join([first.rstrip(BLANKS), *inner, others[-1].lstrip(BLANKS)])
    return replace(document, text=text.strip("\n"))


def rank(seed: int, document_id: str) -> int:
    """Return the document's place in a seeded shuffle of any corpus: 64 bits of a hash."""
    digest = blake2b(f"{seed}/{document_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


class _Lowest:
    """The ranks seen so far, and which of them are the lowest."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.seen: set[int] = set()
        self._worst_first: list[int] = []  # max-heap (negated) of the ranks kept so far

    def add(self, place: int) -> bool:
        """Count ``place`` and return whether it is among the lowest so far."""
        self.seen.add(place)
        if len(self._worst_first) < self.count:
            heapq.heappush(self._worst_first, -place)
        elif place < self.last:
            heapq.heapreplace(self._worst_first, -place)
        else:
            return False
        return True

    @property
    def last(self) -> int:
        """The highest rank that is kept."""
        return -self._worst_first[0] if self._worst_first else -1


def sample_documents(
    open_at: Callable[[int, Any], Stream],
    path: Path,
    *,
    max_documents: int,
    seed: int,
    parts: Path,
) -> tuple[int, int]:
    """Write the ``max_documents`` of lowest rank, in their order of arrival.

    One pass over the source: a document is spooled to disk if it is among the lowest ranks so far,
    and a second pass over the spool drops those that were pushed out later. The spool is in parts,
    each with the ranks that came meanwhile and the position after them.

    Returns:
        How many documents came, and how many were kept.
    """
    lowest = _Lowest(max_documents)
    marks = _whole_parts(parts)
    for mark in marks:
        for place in np.load(mark.with_suffix(".npy")).tolist():
            lowest.add(place)
    last = read_json(marks[-1]) if marks else {"position": None, "ended": False}
    if last["ended"]:
        log.info("found the whole source in %s; delete that folder to read it anew", parts)
    else:
        if marks:
            log.info("resuming after %d documents", len(lowest.seen))
        stream = open_at(len(lowest.seen), last["position"])
        _read_rest(stream, lowest, seed, parts, first=len(marks))
    with DocumentWriter(path) as writer:
        for mark in sorted(parts.glob(MARKS)):
            for document in read_documents(mark.with_suffix(".parquet")):
                if rank(seed, document.id) <= lowest.last:
                    writer.write(document)
    return len(lowest.seen), writer.count


def _whole_parts(folder: Path) -> list[Path]:
    """Return the marks of the parts that can be gone on with: those before the first gap."""
    folder.mkdir(parents=True, exist_ok=True)
    marks = sorted(folder.glob(MARKS))
    for number, mark in enumerate(marks):
        if mark.name != _mark(folder, number).name or not _is_whole(mark):
            log.warning("%s is damaged: reading the source again from there", mark)
            for later in marks[number:]:
                later.unlink()
            return marks[:number]
    return marks


def _mark(folder: Path, number: int) -> Path:
    return folder / f"part-{number:06d}.json"


def _is_whole(mark: Path) -> bool:
    try:
        return read_json(mark)["seal"] == fingerprint(files=_files(mark))
    except (OSError, ArtifactError, KeyError):
        return False


def _files(mark: Path) -> list[Path]:
    return [mark.with_suffix(".parquet"), mark.with_suffix(".npy")]


def _read_rest(stream: Stream, lowest: _Lowest, seed: int, parts: Path, *, first: int) -> None:
    """Read the stream to its end, part by part."""
    with stop_requests() as stop_requested:
        for number in count(first):
            mark = _mark(parts, number)
            started_at, ranks, ended = time.monotonic(), array("Q"), True
            with DocumentWriter(mark.with_suffix(".parquet")) as writer:
                for document in stream.documents:
                    place = rank(seed, document.id)
                    if place in lowest.seen:
                        message = f"document id {document.id!r} occurs twice; ids must be unique"
                        raise InputError(message)
                    ranks.append(place)
                    if lowest.add(place):
                        writer.write(document)
                    if stop_requested() or time.monotonic() - started_at > PART_SECONDS:
                        ended = False
                        break
            np.save(mark.with_suffix(".npy"), np.array(ranks, dtype=np.uint64))
            sealed = fingerprint(files=_files(mark))
            position = None if ended else stream.position()
            write_json(mark, {"seal": sealed, "ended": ended, "position": position})
            if ended:
                return
            if stop_requested():
                raise Stopped


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
    except RecursionError:
        raise InputError(f"{file}:{number}: JSON nested too deep; mend the record") from None


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


def _hub_rows(hub: HubParams, revision: str) -> Any:
    """Return a hub dataset, streamed. ``HF_HUB_OFFLINE=1`` uses the local cache.

    Raises:
        EnvironmentProblem: The dataset cannot be loaded.
    """
    from datasets import load_dataset  # noqa: PLC0415  (imports torch where it is installed)

    local = Path(hub.dataset).exists()
    try:
        return load_dataset(
            hub.dataset, split=hub.split, streaming=True, revision=None if local else revision
        )
    except Exception as error:  # noqa: BLE001  (a dozen network and hub errors, one remedy)
        raise EnvironmentProblem(_hub_message(hub, error)) from None


def hub_documents(rows: Any, params: CorpusParams, seen: int) -> Iterator[Document]:
    """Yield the documents of ``rows``, the first of which has the number ``seen``.

    Raises:
        EnvironmentProblem: The hub stops answering.
        InputError: A record has no text.
    """
    hub = params.hub
    try:
        for index, row in enumerate(rows, start=seen):
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
