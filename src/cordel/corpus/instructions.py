"""Instruction examples: read, checked for quality, and split so that no prompt is in two splits.

The thesis took the first 10000 rows of a shuffle as they came. Among them were empty outputs, one
broken e-mail 115 times, and 51 prompts of val and test that were in train too (thesis sections 5.2
and 7, point 22). Here every drop has a named reason, and whole clusters of near-duplicate prompts
are assigned to a split.
"""

import heapq
import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Literal
from unicodedata import normalize

import pyarrow as pa
import pyarrow.parquet as pq

from cordel.corpus.documents import Document
from cordel.corpus.instruction_sample import generate_instructions
from cordel.corpus.sources import HubParams, rank, resolve_revision
from cordel.corpus.splits import SPLITS, WORD, SplitParams, assign, cluster, signatures
from cordel.runtime.errors import ArtifactError, EnvironmentProblem, InputError, ParamsError
from cordel.runtime.files import read_jsonl, write_jsonl
from cordel.runtime.params import require

log = logging.getLogger("prepare_sft_data")

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
REASONS = (
    "empty_instruction",
    "empty_output",
    "broken_characters",
    "junk",
    "duplicate",
    "duplicate_prompt",
    "near_duplicate",
)
# The replacement character, control characters but tab and newlines, halves of surrogate pairs.
BROKEN = re.compile("[\ufffd\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
SHOWN = 3  # ids a reason in the report


@dataclass(frozen=True, slots=True)
class Example:
    """One instruction with its context and answer, all stripped. ``input`` may be empty."""

    id: str
    instruction: str
    input: str
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldNames:
    """What the three texts are called in the file."""

    instruction: str
    input: str  # "" for a file whose instructions have no context
    output: str

    def __post_init__(self) -> None:
        """Check that only the input may be without a name."""
        for name in ("instruction", "output"):
            require(getattr(self, name) != "", f"{name} is '', expected the name of a field")


@dataclass(frozen=True, slots=True, kw_only=True)
class SftDataParams:
    """The section ``sft_data`` of params.yaml."""

    source: Literal["sample", "jsonl", "hf"]
    path: str  # folder or file of `sample` and `jsonl`: a DVC dep
    pattern: str  # which files below path, for `jsonl`: "*" or "**/*.jsonl.gz"
    fields: FieldNames
    hub: HubParams
    max_examples: int  # how many to generate (`sample`) or to keep (others)
    seed: int
    val: float  # share of the clusters of near-duplicate prompts
    test: float
    shingle_words: int  # this and the next three: as in the section splits
    permutations: int
    bands: int
    min_similarity: float
    junk: tuple[str, ...]  # regular expressions: an example with a match in any field is dropped
    near_duplicates: Literal["keep", "drop"]

    def __post_init__(self) -> None:
        """Check the ranges, and that every expression is one."""
        require(self.max_examples > 0, f"max_examples is {self.max_examples}, expected at least 1")
        _ = self.splits
        for expression in self.junk:
            try:
                re.compile(expression)
            except re.error as error:
                message = f"junk has {expression!r}, which is no regular expression ({error})"
                raise ValueError(message) from None

    @property
    def splits(self) -> SplitParams:
        """How prompts are compared and clusters assigned."""
        return SplitParams(
            val=self.val,
            test=self.test,
            seed=self.seed,
            shingle_words=self.shingle_words,
            permutations=self.permutations,
            bands=self.bands,
            min_similarity=self.min_similarity,
            reserved_sources=(),
        )


# --- Reading ---------------------------------------------------------------------------------


def read_examples(params: SftDataParams) -> Iterator[Example]:
    """Yield ``max_examples`` of the source's examples, in the source's order.

    Those of lowest rank (a hash of seed and id) of the *whole* source are kept. Memory grows with
    ``max_examples``, not with the source.

    Raises:
        InputError: A file is missing, broken or empty, a field is absent or no text, or an id
            repeats.
        ParamsError: The pattern is none.
        EnvironmentProblem: The hub cannot be reached.
    """
    if params.source == "hf":
        examples = hub_examples(params.hub, params.fields, section="sft_data")
    elif params.source == "jsonl":
        examples = local_examples(
            Path(params.path), params.pattern, params.fields, section="sft_data"
        )
    else:
        examples = sample_examples(Path(params.path), n=params.max_examples, seed=params.seed)
    yield from _lowest_ranks(examples, params.max_examples, params.seed)


def sample_examples(folder: Path, *, n: int, seed: int) -> Iterator[Example]:
    """Yield ``n`` examples of the embedded sample, none of those held out for the task sets."""
    for item in generate_instructions(folder, n=n, seed=seed, held_out=False):
        yield Example(item.id, item.instruction.strip(), item.input.strip(), item.output.strip())


def local_examples(
    root: Path, pattern: str, fields: FieldNames, *, section: str
) -> Iterator[Example]:
    """Yield the examples of a file, or of the matching files of a folder, sorted by name.

    Args:
        root: The file or folder.
        pattern: Which files below the folder.
        fields: What the texts are called in the files.
        section: Of params.yaml, for messages.

    Raises:
        InputError: Nothing matches, a file is broken or empty, or a field is absent or no text.
        ParamsError: The pattern is none.
    """
    for file in _matching_files(root, pattern, section):
        name = file.relative_to(root).as_posix() if file != root else file.name
        number = 0
        try:
            for number, record in _records(file):
                yield _example(record, f"{file}:{number}", f"{name}:{number}", fields, section)
        except UnicodeDecodeError:
            message = f"{file}: not UTF-8 (after line {number}); convert the file"
            raise InputError(message) from None
        except (OSError, pa.ArrowException, EOFError) as error:
            if isinstance(error, OSError) and error.errno:  # permission: not the file's fault
                raise
            raise InputError(f"{file}: cannot be read ({error}); is it complete?") from None
        if not number:
            raise InputError(f"{file}: empty file; expected at least one example")


def _matching_files(root: Path, pattern: str, section: str) -> list[Path]:
    if not root.exists():
        raise InputError(f"{section}.path {root}: no such file or folder; check the path")
    try:
        files = [root] if root.is_file() else sorted(root.glob(pattern))
    except (ValueError, NotImplementedError) as error:
        message = f"{section}.pattern {pattern!r}: {error}; expected such as '*'"
        raise ParamsError(message) from None
    files = [f for f in files if f.is_file() and f.name.endswith(SUFFIXES)]
    if not files:
        raise InputError(
            f"{section}.path {root}: no file matches pattern {pattern!r} "
            f"with one of {', '.join(SUFFIXES)}"
        )
    return files


def _records(file: Path) -> Iterator[tuple[int, Any]]:
    """Yield line (or row) number and value of each record of a file."""
    if file.suffix == ".parquet":
        batches = pq.ParquetFile(file).iter_batches(batch_size=512)
        yield from enumerate((row for batch in batches for row in batch.to_pylist()), start=1)
        return
    with pa.input_stream(str(file), compression="detect") as stream:
        lines = TextIOWrapper(stream, encoding="utf-8-sig", newline="\n")  # type: ignore[arg-type]
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, _parsed(line.rstrip(), f"{file}:{number}")


def _parsed(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        message = f"{where}: not JSON ({error.msg} at column {error.colno})"
        raise InputError(message) from None
    except RecursionError:
        raise InputError(f"{where}: JSON nested too deep; mend the record") from None


def hub_examples(hub: HubParams, fields: FieldNames, *, section: str) -> Iterator[Example]:
    """Yield the examples of a hub dataset, streamed. ``HF_HUB_OFFLINE=1`` uses the local cache.

    Raises:
        EnvironmentProblem: The dataset cannot be loaded.
        InputError: A field is absent or no text.
    """
    from datasets import load_dataset  # noqa: PLC0415  (imports torch where it is installed)

    revision = resolve_revision(hub)
    local = Path(hub.dataset).exists()
    log.info("%s.hub: %s at revision %s", section, hub.dataset, revision)
    try:
        rows = load_dataset(
            hub.dataset, split=hub.split, streaming=True, revision=None if local else revision
        )
        for index, row in enumerate(rows):
            where = f"{hub.dataset}[{hub.split}]:{index}"
            yield _example(row, where, f"{hub.split}:{index}", fields, section)
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001  (a dozen network and hub errors, one remedy)
        raise EnvironmentProblem(
            f"{section}.hub: cannot load {hub.dataset!r} at revision {revision!r}, split "
            f"{hub.split!r} ({type(error).__name__}: {error}); check the name, the network, "
            "`hf auth login` for gated data, or HF_HUB_OFFLINE"
        ) from None


def _example(
    record: Any, where: str, fallback_id: str, fields: FieldNames, section: str
) -> Example:
    if not isinstance(record, dict):
        raise InputError(f"{where}: expected an object, found {type(record).__name__}")
    instruction, context, output = (
        _text(record, role, getattr(fields, role), f"{where}: field", section)
        for role in ("instruction", "input", "output")
    )
    stored = record.get("id")
    name = fallback_id if stored in (None, "") else str(stored)
    # JSON can escape half of a surrogate pair, which no UTF-8 file can hold.
    return Example(name.encode(errors="replace").decode(), instruction, context, output)


def _text(record: dict[str, Any], role: str, field: str, where: str, section: str) -> str:
    """Return the stripped text of a field; an input may be null, or have no field at all."""
    if role == "input" and not field:
        return ""
    if field not in record:
        found = ", ".join(map(str, record)) or "no field"
        remedy = ' (or "" for none)' if role == "input" else ""
        raise InputError(
            f"{where} {field!r} is missing (found: {found}); "
            f"set {section}.fields.{role} to the name of its field{remedy}"
        )
    value = record[field]
    if role == "input" and value is None:
        return ""
    if not isinstance(value, str):
        raise InputError(
            f"{where} {field!r} is {value!r}, expected text; mend the record or "
            f"set {section}.fields.{role}"
        )
    return value.strip()


def _lowest_ranks(examples: Iterable[Example], limit: int, seed: int) -> list[Example]:
    """Return the ``limit`` examples of lowest rank, in their order of arrival."""
    kept: list[tuple[int, int, Example]] = []  # max-heap by negated rank
    for index, example in enumerate(examples):
        entry = (-rank(seed, example.id), index, example)
        if len(kept) < limit:
            heapq.heappush(kept, entry)
        elif entry > kept[0]:
            heapq.heapreplace(kept, entry)
    counts = Counter(example.id for _, _, example in kept)
    repeated = next((name for name, count in counts.items() if count > 1), None)
    if repeated is not None:
        raise InputError(f"example id {repeated!r} occurs twice; ids must be unique")
    return [example for _, _, example in sorted(kept, key=lambda entry: entry[1])]


# --- Quality ---------------------------------------------------------------------------------


def folded(text: str) -> str:
    """Return ``text`` without case, punctuation and runs of white space; accents stay.

    A text that is punctuation only stays as it is, so that ``+`` is not ``-``.
    """
    text = normalize("NFC", text)
    return " ".join(WORD.findall(text.lower())) or text


def folded_prompt(instruction: str, context: str) -> str:
    """Return what two prompts that count as equal share."""
    return f"{folded(instruction)}\n{folded(context)}"


def prompt_document(name: str, instruction: str, context: str) -> Document:
    """Return the prompt as a document, to compare it by its word shingles."""
    return Document(name, "", "", normalize("NFC", f"{instruction}\n{context}"))


def check_quality(
    examples: Iterable[Example], params: SftDataParams
) -> tuple[list[Example], dict[str, Any]]:
    """Return the examples worth training on and a report on all of them.

    An example is dropped for the first of ``REASONS`` that holds. Of duplicates the first one
    stays; of one prompt with two outputs also, since either output may be wrong, but to train on
    both teaches that anything goes.

    Returns:
        The kept examples, and the counts ``read``, ``kept`` and ``dropped`` (by reason), up to
        ``SHOWN`` ids of each reason, and means over the kept examples.
    """
    junk = [re.compile(expression) for expression in params.junk]
    kept: list[Example] = []
    dropped: dict[str, list[str]] = {reason: [] for reason in REASONS}
    prompts: dict[str, set[str]] = {}  # folded outputs of each folded prompt
    for example in examples:
        reason = _flaw(example, junk) or _repetition(example, prompts)
        if reason:
            dropped[reason].append(example.id)
        else:
            kept.append(example)
    if params.near_duplicates == "drop" and kept:
        first = _first_of_cluster(kept, params)
        pairs = list(zip(kept, first, strict=True))
        dropped["near_duplicate"] = [e.id for e, leader in pairs if e.id != leader]
        kept = [e for e, leader in pairs if e.id == leader]
    return kept, _report(kept, dropped)


def _flaw(example: Example, junk: list[re.Pattern[str]]) -> str | None:
    """Return what is wrong with an example on its own."""
    texts = (example.instruction, example.input, example.output)
    if not example.instruction:
        return "empty_instruction"
    if not example.output:
        return "empty_output"
    if any(BROKEN.search(text) for text in texts):
        return "broken_characters"
    return "junk" if any(e.search(text) for e in junk for text in texts) else None


def _repetition(example: Example, prompts: dict[str, set[str]]) -> str | None:
    """Return whether the example, or its prompt, came before; remember both."""
    outputs = prompts.setdefault(folded_prompt(example.instruction, example.input), set())
    output = folded(example.output)
    reason = "duplicate" if output in outputs else "duplicate_prompt" if outputs else None
    outputs.add(output)
    return reason


def _report(kept: list[Example], dropped: dict[str, list[str]]) -> dict[str, Any]:
    count = max(1, len(kept))

    def mean_words(role: str) -> float:
        return sum(len(WORD.findall(getattr(example, role))) for example in kept) / count

    return {
        "read": len(kept) + sum(map(len, dropped.values())),
        "kept": len(kept),
        "dropped": {reason: len(names) for reason, names in dropped.items()},
        "dropped_ids": {reason: names[:SHOWN] for reason, names in dropped.items() if names},
        "mean_words": {role: mean_words(role) for role in ("instruction", "input", "output")},
        "share_empty_input": sum(not example.input for example in kept) / count,
    }


# --- Splits ----------------------------------------------------------------------------------


def split_examples(kept: list[Example], params: SftDataParams) -> dict[str, list[Example]]:
    """Return the examples of train, val and test, each in their order.

    Clusters of near-duplicate prompts (instruction and input; the output plays no part) are
    assigned whole, so equal and nearly equal prompts are never in two splits.

    Raises:
        InputError: There are no examples, or a split gets none.
    """
    splits: dict[str, list[Example]] = {split: [] for split in SPLITS}
    if kept:
        for example, leader in zip(kept, _first_of_cluster(kept, params), strict=True):
            splits[assign(leader, params.splits)].append(example)
    for split, members in splits.items():
        if not members:
            raise InputError(
                f"split {split!r} gets none of the {len(kept)} examples; use more examples, "
                "or larger sft_data.val and sft_data.test"
            )
    return splits


def _first_of_cluster(examples: list[Example], params: SftDataParams) -> list[str]:
    """Return, for each example, the id of the first whose prompt is a near-duplicate of its."""
    documents = (prompt_document(e.id, e.instruction, e.input) for e in examples)
    ids, signature = signatures(documents, params.splits)
    return [ids[index] for index in cluster(signature, params.splits)]


# --- Files -----------------------------------------------------------------------------------


def write_examples(path: Path, examples: Iterable[Example]) -> None:
    """Write the examples as JSON Lines with the keys of ``Example``."""
    write_jsonl(path, map(asdict, examples))


def read_written(path: Path) -> Iterator[Example]:
    """Yield the examples of a file that ``write_examples`` wrote.

    Raises:
        ArtifactError: The file is missing or holds something else.
    """
    try:
        for row in read_jsonl(path):
            yield Example(**row)
    except (OSError, ValueError, TypeError) as error:
        message = f"{path}: cannot be read ({error}); rerun the stage that makes it"
        raise ArtifactError(message) from None
