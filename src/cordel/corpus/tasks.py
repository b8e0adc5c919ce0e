"""Task sets: questions, summaries and rewritings held out from the instruction examples.

The thesis drew 200 rows a task and seed with keyword and length rules (section 5.6). Read by hand,
about half of them are not of their task: "revisão", by which the data's translation means a
*review*, made sentiment labels into rewriting, and option letters pass for answers (section 7,
point 22). ``classify_as_published`` is those rules; ``classify`` wants a request for the task and a
reference in words. An item also may not resemble a prompt of the instruction examples; the thesis
excluded only rows that were equal to one in all three texts.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from hashlib import sha1
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cordel.corpus.documents import Document
from cordel.corpus.instruction_sample import generate_instructions
from cordel.corpus.instructions import (
    BROKEN,
    Example,
    FieldNames,
    folded,
    folded_prompt,
    hub_examples,
    local_examples,
    prompt_document,
)
from cordel.corpus.sources import HubParams, rank
from cordel.corpus.splits import WORD, SplitParams, signatures
from cordel.runtime.errors import InputError
from cordel.runtime.params import require

TASKS = ("qa", "summarization", "rewriting")
ROW_KEYS = ("task", "instruction", "input", "reference", "hash")  # of the published files
SAMPLE_FACTOR = 100  # examples to generate for one item at most: tasks come in turn, roughly


@dataclass(frozen=True, slots=True)
class TaskItem:
    """One prompt with the answer to compare with. ``id`` is the SHA-1 of ``item_id``."""

    id: str
    task: str
    seed: int
    instruction: str
    input: str
    reference: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskParams:
    """The section ``tasks`` of params.yaml."""

    source: Literal["sample", "published", "pool"]
    path: str  # folder or file: a DVC dep; of `pool` only where hub.dataset is ""
    pattern: str  # which files below path, for `pool`
    fields: FieldNames  # for `pool`
    hub: HubParams  # for `pool`; dataset "" reads path
    seeds: tuple[int, ...]  # one set each
    per_task: int  # items a task and seed; of `published` the most to take
    classifier: Literal["corrected", "as_published"]  # for `pool`
    shingle_words: int
    permutations: int
    min_similarity: float  # to an instruction example's prompt, from which an item is dropped

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(len(self.seeds) > 0, "seeds is empty, expected at least one")
        require(len(set(self.seeds)) == len(self.seeds), f"seeds {self.seeds} has one twice")
        require(self.per_task > 0, f"per_task is {self.per_task}, expected at least 1")
        _ = self.signature

    @property
    def signature(self) -> SplitParams:
        """How prompts are compared: all with all, so one band, and the shares play no part."""
        return SplitParams(
            val=0.1,
            test=0.1,
            seed=0,
            shingle_words=self.shingle_words,
            permutations=self.permutations,
            bands=1,
            min_similarity=self.min_similarity,
            reserved_sources=(),
        )


# --- The published rules ---------------------------------------------------------------------

SUMMARY_WORDS = re.compile(
    r"\b(?:resuma|resumo|sumarize|sumarização|sumariza|sumário|sintetize|síntese)\b"
)
REWRITING_WORDS = re.compile(
    r"\b(?:reescreva|reformule|corrija|melhore|parafrase|paráfrase|revise|revisão|simplifique"
    r"|transforme)\b"
)


def classify_as_published(instruction: str, context: str, output: str) -> str | None:
    """Return the task by the rules of the thesis (section 5.6), or None; first match wins."""
    text = f"{instruction}\n{context}".lower()
    n_in, n_out = len(WORD.findall(context.lower())), len(WORD.findall(output.lower()))
    if not n_out:
        return None
    if n_out <= 12 and any(sign in text for sign in ("?", "opções de resposta", "(a)", "(b)")):
        return "qa"
    shorter = n_in >= 120 and 30 <= n_out <= 140 and n_out <= int(0.55 * n_in)
    if shorter or SUMMARY_WORDS.search(text):
        return "summarization"
    alike = 20 <= n_in <= 220 and 20 <= n_out <= 220 and 0.6 <= n_out / n_in <= 1.6
    return "rewriting" if alike or REWRITING_WORDS.search(text) else None


# --- The corrected rules ---------------------------------------------------------------------

JUNK = re.compile(r"([^\W\d_]{1,2})\1{19,}")  # "ssrsrsrs...", 20 times one or two letters
# Folded answers that are an option's letter or number, or name a class. "sim" and "não" are such:
# of the five bare ones in 60 rows read, four were classes ("sim ou não?") and only one answered a
# question, and one constant answer would score half of them.
LABEL = re.compile(
    r"[^\W\d_]|\d{1,2}|sim|não|yes|no|(?:é |sim é |não é )?verdade|verdadeir[oa]|fals[oa]|true"
    r"|false|(?:in)?corret[oa]|certo|errado|positiv[oa]|negativ[oa]|neutr[oa]|mist[oa]"
    r"|(?:não )?spam|bo[am]|ruim|mau|má|outr[oa]s?|nenhuma?|(?:não )?relevante|(?:im)?possível"
    r"|(?:in)?válid[oa]|contradição|neutralidade|implicação"
)
OPTION = re.compile(r"\(?[a-eA-E]\)")  # "c) Promoção"
LABELLING = re.compile(
    r"classifi|categori[az]|polaridade|sentimento|\bdetect|(?:determin|identifi|julg|preve|decid)\w*"
    r"(?: \S+)? se\b|verdadeir[oa]s? ou fals|true\W+(?:ou|or)\W+false|sim\W+ou\W+não|sim/não"
    r"|\b(?:saída|output|responda|retorn\w+|ger\w+|diga)\W+['\"“]"
)
# One of several given answers is wanted: what is left of them is a label as well.
CHOICE = re.compile(
    r"\(a\)|\ba\) |\ba\. |opções|alternativas?|\bopção|marque|selecion|múltipla escolha"
    r"|\bou\b[^.?!]{1,60}\?|respond\w+ (?:\w+ )?\w+ ou\b|um dos seguintes"
    r"|\b(?:respond\w+|via)\W+['\"“]|['\"“]sim['\"”]|sistema automatizado e"
)
# Something other than an answer is wanted: a question, a wrong answer, a program.
NO_ANSWER = re.compile(
    r"\b(?:ger\w+|cri\w+|escrev\w+|constru\w+|formul\w+|produz\w+|faça|fazer)(?: \w+){0,3}? "
    r"(?:fatos?|enunciados?|perguntas?|questões|questão|declaraç\w+|afirmaç\w+|frases?|sentenças?"
    r"|títulos?|históri\w+|códigos?|programas?|funç\w+|scripts?|resposta (?:incorreta|errada))\b"
    r"|\breescrev|\btraduz|\bconvert|respostas? incorreta|implausíve|não responda"
)
CODE = re.compile(r"\b[Dd]ef\b|\bdef[A-Z]|\w\(\)|\breturn\b|\w\(['\"]|[{}]|</|\w_\w")
ADJECTIVES = r"(?: (?:um|uma|o|a|seu|sua|breve|curto|curta|pequeno|pequena|bom|boa|único|conciso))*"
SUMMARIZE = re.compile(
    r"(?<!que )\b(?:resuma|sumarize|sintetize|resum(?:i|ir))\b"
    r"|\b(?:escrev(?:a|er)|cri(?:e|ar)|ger(?:e|ar)|faça|fazer|fornecer|forneça|dê"
    r"|produz(?:a|ir)|elabor(?:e|ar)|prepar(?:e|ar)|apresente|quero|preciso de)"
    + ADJECTIVES
    + r" (?:resumo|sumário|síntese|sinopse|destaque)\b"
)
# The others also mean other things as infinitives ("como melhorar...") and after "que".
REWRITE = re.compile(
    r"\b(?:reescrev(?:a|er)|reformul(?:e|ar)|parafrase(?:ie|ar)?|revise)\b"
    r"|\b(?:escreva|faça|crie) uma paráfrase\b"
    r"|(?<!que )\b(?:corrija|melhore|simplifique|transforme)\b"
)
# Without an input, the text is in the instruction: after a colon, in quotes, or a sentence more.
EMBEDDED = re.compile(r"(?<!^tarefa):\s*\S|[\"“'‘].+[\"”'’]|[.!?]\s+\S")
NOT_TEXT = re.compile(
    r"\b(?:números?|códigos?|equaç\w+|funç\w+|expressão|fraç\w+|lista|array|data)\b"
)


def classify(instruction: str, context: str, output: str) -> str | None:
    """Return the task that the instruction asks for and the output answers, or None.

    Never a label, a bare letter or number of up to two digits, or junk. A summary needs a request
    for one, a text of at least 15 words, and fewer words than its prompt; a rewriting a verb that
    asks for one, a text and at least three words; an answer a question, with no classes to choose
    from, and at most twelve words.
    """
    request = instruction.lower()
    if _is_label(output, request) or JUNK.search(output) or BROKEN.search(output):
        return None
    if LABELLING.search(request):
        return None
    n_out = len(WORD.findall(output))
    if SUMMARIZE.search(request):
        return "summarization" if n_out >= 3 and _has_text(instruction, context, n_out) else None
    if REWRITE.search(request):
        given = bool(context) or EMBEDDED.search(request)
        return "rewriting" if given and n_out >= 3 and not NOT_TEXT.search(request) else None
    prompt = f"{request}\n{context.lower()}"
    other = LABELLING.search(prompt) or CHOICE.search(prompt) or NO_ANSWER.search(request)
    asks = "?" in prompt and not other and not CODE.search(output)
    return "qa" if asks and n_out <= 12 else None


def _is_label(output: str, request: str) -> bool:
    """Return whether the output is empty, a bare sign, a known label, or quoted in the request."""
    answer = folded(output)
    if not WORD.search(answer) or LABEL.fullmatch(answer):
        return True
    if OPTION.match(output.strip()):
        return True
    quoted = re.findall(r"[\"'“‘]([^\"'“”‘’]{1,40})[\"'”’]", request)
    return answer in {folded(words) for words in quoted}


def _has_text(instruction: str, context: str, n_out: int) -> bool:
    """Return whether the prompt holds a text that the output could be the summary of."""
    n_context = len(WORD.findall(context))
    n_prompt = n_context + len(WORD.findall(instruction))
    return (n_context or n_prompt) >= 15 and n_prompt > n_out


CLASSIFIERS: dict[str, Callable[[str, str, str], str | None]] = {
    "corrected": classify,
    "as_published": classify_as_published,
}


def is_corrected(item: TaskItem) -> bool:
    """Return whether the corrected rules call the item what its set calls it."""
    return classify(item.instruction, item.input, item.reference) == item.task


def item_id(instruction: str, context: str, output: str) -> str:
    """Return the SHA-1 by which the thesis names a row (section 5.6), 40 hexadecimal digits."""
    text = "\n---\n".join(part.strip() for part in (instruction, context, output))
    return sha1(text.encode(), usedforsecurity=False).hexdigest()


# --- Task sets -------------------------------------------------------------------------------


def collect_tasks(
    params: TaskParams, exclude: Iterable[Example]
) -> tuple[list[TaskItem], dict[str, Any]]:
    """Return the items of every seed and task, and a report on what was dropped and on overlap.

    Dropped are items whose prompt equals one of ``exclude`` once folded (``equal``), resembles one
    (``near_duplicate``: MinHash estimate of the Jaccard similarity of the word shingles from
    ``min_similarity``), or came before in its seed's set (``repeated``).

    Args:
        params: The section ``tasks``.
        exclude: The instruction examples that models are trained on, and those of val and test.

    Raises:
        InputError: A file is missing or broken, a seed has no published set, or a task of a
            generated or pooled set has too few items.
        EnvironmentProblem: The hub cannot be reached.
    """
    sift = _Sift(params, exclude)
    items: list[TaskItem] = []
    mismatches = 0
    pool = _classified_pool(params) if params.source == "pool" else []
    for seed in params.seeds:
        if params.source == "published":
            rows = list(published_items(Path(params.path), seed))
            mismatches += sum(stored != item.id for item, stored in rows)
            candidates = iter([item for item, _ in rows])
        elif params.source == "sample":
            candidates = _sample_items(params, seed)
        else:
            candidates = _in_order(pool, seed)
        items += _fill(params, seed, candidates, sift)
    return items, _report(params, items, sift) | {"hash_mismatches": mismatches}


@dataclass(slots=True)
class _Sift:
    """What lets a candidate pass, and the counts of those it stopped: by reason, then task."""

    params: TaskParams
    exclude: Iterable[Example]
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    _prompts: set[str] = field(default_factory=set)
    _signatures: np.ndarray | None = None

    def __post_init__(self) -> None:
        documents: list[Document] = []
        for example in self.exclude:
            self._prompts.add(folded_prompt(example.instruction, example.input))
            documents.append(prompt_document("", example.instruction, example.input))
        if documents:
            _, self._signatures = signatures(documents, self.params.signature)
        self.counts = {name: Counter() for name in ("equal", "near_duplicate", "repeated")}

    def passes(self, item: TaskItem, seen: set[str]) -> bool:
        """Return whether to take the item; ``seen`` are the folded prompts of its seed."""
        reason = self._reason(item, seen)
        if reason:
            self.counts[reason][item.task] += 1
        return reason is None

    def _reason(self, item: TaskItem, seen: set[str]) -> str | None:
        prompt = folded_prompt(item.instruction, item.input)
        if prompt in self._prompts:
            return "equal"
        if self._resembles(item):
            return "near_duplicate"
        if prompt in seen:
            return "repeated"
        seen.add(prompt)
        return None

    def _resembles(self, item: TaskItem) -> bool:
        if self._signatures is None:
            return False
        document = prompt_document("", item.instruction, item.input)
        _, own = signatures([document], self.params.signature)
        similarity = (self._signatures == own).mean(axis=1).max()
        return bool(similarity >= self.params.min_similarity)


def _fill(
    params: TaskParams, seed: int, candidates: Iterator[TaskItem], sift: _Sift
) -> list[TaskItem]:
    """Return the first ``per_task`` candidates of each task that pass, in the order of TASKS."""
    taken: dict[str, list[TaskItem]] = {task: [] for task in TASKS}
    seen: set[str] = set()
    for item in candidates:
        wanted = len(taken[item.task]) < params.per_task
        if wanted and sift.passes(item, seen):
            taken[item.task].append(item)
        if all(len(items) == params.per_task for items in taken.values()):
            break
    for task, items in taken.items():
        if len(items) < params.per_task and params.source != "published":
            raise InputError(
                f"tasks.source {params.source!r}, seed {seed}: only {len(items)} items of {task}, "
                f"expected {params.per_task}; lower tasks.per_task or use more data"
            )
    return [item for items in taken.values() for item in items]


def _sample_items(params: TaskParams, seed: int) -> Iterator[TaskItem]:
    """Yield held-out examples of the embedded sample, a stretch of their own for each seed."""
    limit = params.per_task * len(TASKS) * SAMPLE_FACTOR
    for row in generate_instructions(Path(params.path), n=limit, seed=seed, held_out=True):
        if row.task in TASKS:
            yield _item(row.task, seed, row.instruction, row.input, row.output)


def _item(task: str, seed: int, *texts: str) -> TaskItem:
    instruction, context, output = (text.strip() for text in texts)
    return TaskItem(item_id(instruction, context, output), task, seed, instruction, context, output)


def _classified_pool(params: TaskParams) -> list[tuple[str, Example]]:
    """Return the pool's examples that are of a task, with it. Holds them all in memory."""
    if params.hub.dataset:
        examples = hub_examples(params.hub, params.fields, section="tasks")
    else:
        root = Path(params.path)
        examples = local_examples(root, params.pattern, params.fields, section="tasks")
    rule = CLASSIFIERS[params.classifier]
    labelled = ((rule(e.instruction, e.input, e.output), e) for e in examples)
    return [(task, example) for task, example in labelled if task]


def _in_order(pool: list[tuple[str, Example]], seed: int) -> Iterator[TaskItem]:
    """Yield the pool in the order of a hash of seed and id: a seeded shuffle of all of it."""
    for task, example in sorted(pool, key=lambda pair: rank(seed, pair[1].id)):
        yield _item(task, seed, example.instruction, example.input, example.output)


def published_items(folder: Path, seed: int) -> Iterator[tuple[TaskItem, str]]:
    """Yield the items of the published set of ``seed``, as they are, with their stored hashes.

    A set is a folder with one ``*_manifest.json`` that names the seed, and a ``*_TASK.jsonl`` for
    each task.

    Raises:
        InputError: No manifest names the seed, a task has no file, or a row is broken.
    """
    home = _set_folder(folder, seed)
    for task in TASKS:
        files = sorted(home.glob(f"*_{task}.jsonl"))
        if len(files) != 1:
            raise InputError(f"{home}: {len(files)} files *_{task}.jsonl, expected one")
        try:
            lines = files[0].read_text("utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise InputError(f"{files[0]}: not UTF-8 ({error}); convert the file") from None
        for number, line in enumerate(lines, start=1):
            row = _row(line, f"{files[0]}:{number}", task)
            texts = (row["instruction"], row["input"], row["reference"])
            yield _item(task, seed, *texts), row["hash"]


def _set_folder(folder: Path, seed: int) -> Path:
    """Return the folder whose manifest names ``seed``."""
    seeds: dict[Any, Path] = {}
    for manifest in sorted(folder.rglob("*manifest.json")):
        try:
            content = json.loads(manifest.read_text("utf-8"))
        except ValueError as error:
            raise InputError(f"{manifest}: not JSON ({error})") from None
        if isinstance(content, dict) and isinstance(content.get("seed"), int):
            seeds[content["seed"]] = manifest.parent
    if seed not in seeds:
        found = ", ".join(map(str, seeds)) or "none"
        raise InputError(
            f"tasks.path {folder}: no *manifest.json names seed {seed} (found: {found}); "
            "set tasks.seeds or tasks.path"
        )
    return seeds[seed]


def _row(line: str, where: str, task: str) -> dict[str, str]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        message = f"{where}: not JSON ({error.msg} at column {error.colno})"
        raise InputError(message) from None
    if not isinstance(row, dict):
        raise InputError(f"{where}: expected an object, found {type(row).__name__}")
    lacking = [key for key in ROW_KEYS if not isinstance(row.get(key), str)]
    if lacking:
        found = ", ".join(map(str, row)) or "no field"
        message = f"{where}: no text in {', '.join(lacking)} (found: {found}); mend the record"
        raise InputError(message)
    if row["task"] != task:
        raise InputError(f"{where}: task is {row['task']!r}, expected {task!r} as in the file name")
    return row


# --- Report and files ------------------------------------------------------------------------


def _report(params: TaskParams, items: list[TaskItem], sift: _Sift) -> dict[str, Any]:
    ids = {
        (task, seed): {item.id for item in items if (item.task, item.seed) == (task, seed)}
        for task in TASKS
        for seed in params.seeds
    }
    return {
        "items": _by_task(items),
        "dropped": {
            reason: {task: counts[task] for task in TASKS} for reason, counts in sift.counts.items()
        },
        "overlap_between_seeds": {
            task: {f"{a}-{b}": len(ids[task, a] & ids[task, b]) for a, b in pairs}
            for task in TASKS
            for pairs in [list(combinations(params.seeds, 2))]
        },
        "labelled_same": {
            name: _by_task(i for i in items if rule(i.instruction, i.input, i.reference) == i.task)
            for name, rule in CLASSIFIERS.items()
        },
    }


def _by_task(items: Iterable[TaskItem]) -> dict[str, int]:
    counts = Counter(item.task for item in items)
    return {task: counts[task] for task in TASKS}


def item_row(item: TaskItem) -> dict[str, Any]:
    """Return the item as a row of a JSON Lines file."""
    return asdict(item)
