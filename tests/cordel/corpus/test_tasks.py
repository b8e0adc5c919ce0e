"""Task sets: the published rules exactly, ours on rows that fooled them, exclusion, and counts."""

import json
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cordel.corpus import tasks
from cordel.corpus.instruction_sample import InstructionExample
from cordel.corpus.instructions import Example, FieldNames
from cordel.corpus.sources import HubParams
from cordel.corpus.tasks import (
    TASKS,
    TaskItem,
    TaskParams,
    classify,
    classify_as_published,
    collect_tasks,
    is_corrected,
    item_id,
    item_row,
    published_items,
)
from cordel.runtime.errors import InputError

SEEDS = (123, 456, 789)
PARAMS = TaskParams(
    source="pool",
    path="unused",
    pattern="*",
    fields=FieldNames(instruction="instruction", input="input", output="output"),
    hub=HubParams(dataset="", revision="main", split="train"),
    seeds=(1,),
    per_task=2,
    classifier="corrected",
    shingle_words=3,
    permutations=128,
    min_similarity=0.7,
)
NEWS = "A chuva de ontem deixou vinte ruas alagadas e fechou três escolas no centro da cidade."


def words(count: int) -> str:
    """Return so many words that no rule knows."""
    return " ".join(f"palavra{i}" for i in range(count))


# --- The published rules ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("instruction", "context", "output", "task"),
    [
        ("Quem?", "", words(12), "qa"),
        ("Quem?", "", words(13), None),
        ("Escolha.", "OPÇÕES DE RESPOSTA", "A", "qa"),
        ("Escolha.", "(A) um", "A", "qa"),
        ("Escolha.", "(c) um", "A", None),
        ("Resuma?", "", "...", None),  # no word at all
        ("Resuma isto?", "", "Curto.", "qa"),  # the first match wins
        ("Escreva uma síntese.", "", words(13), "summarization"),
        ("Resumir.", "", words(13), None),  # whole words of the list only
        ("Diga.", words(120), words(66), "summarization"),
        ("Diga.", words(119), words(65), None),  # a word too few, and not alike
        ("Diga.", words(120), words(67), None),
        ("Diga.", words(120), words(29), None),
        ("Diga.", words(300), words(141), None),
        ("Nesta tarefa você recebe uma revisão.", "", "positivo", "rewriting"),
        ("Diga.", words(20), words(32), "rewriting"),
        ("Diga.", words(20), words(33), None),
        ("Diga.", words(50), words(30), "rewriting"),
        ("Diga.", words(51), words(30), None),
        ("Diga.", words(19), words(20), None),
        ("Diga.", words(220), words(220), "rewriting"),
        ("Diga.", words(221), words(220), None),
        ("Diga.", words(219), words(221), None),
        ("Diga.", words(100), words(59), None),
    ],
)
def test_the_published_rules(instruction: str, context: str, output: str, task: str | None) -> None:
    assert classify_as_published(instruction, context, output) == task


# --- The corrected rules ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("instruction", "context", "output", "task"),
    [
        ("Qual é a capital da China?", "", "Pequim", "qa"),
        ("Responda à pergunta.", "Quem fez a defesa?", "A advogada de defesa.", "qa"),
        ("Qual é a capital da China?", "", "", None),
        ("Qual é a capital da China?", "", words(13), None),
        ("Diga a capital da China.", "", "Pequim", None),
        ("O céu é azul?", "", "Sim.", None),  # one constant answer would score half
        ("É verdade que chove?", "", "É verdade.", None),
        ("Quantas são?", "", "12", None),
        ("Quantas são?", "", "120", "qa"),
        ("Qual?", "", "(B)", None),
        ("Qual?", "", "c) Promoção", None),
        ("Qual é?", "(A) rio (B) mar", "O mar", None),
        ("Isto é azul ou verde?", "", "Azul claro", None),
        ('Qual é o tom? Use "triste" e "feliz".', "", "Feliz.", None),  # quoted: a class
        ("Classifique: é o quê?", "", "Esporte nacional", None),
        ("Esta crítica é boa?", "Diga se é verdadeiro ou falso.", "Muito boa", None),
        ("Gere uma pergunta. O que houve?", "", "Por que choveu?", None),
        ("Como se faz em Python?", "", "def soma(x): x", None),
        ("Quem é?", "", "s" + "rs" * 30, None),
        ("Quem é?", "", "Jo\ufffdo Silva", None),
        ("Resuma o texto.", NEWS, "Chuva alaga ruas.", "summarization"),
        (f"Faça um breve resumo: {NEWS}", "", "Chuva alaga ruas.", "summarization"),
        ("Sua tarefa é gerar um destaque.", NEWS, "Chuva alaga ruas.", "summarization"),
        ("Resuma o texto.", NEWS, words(30), None),  # longer than the text
        ("Resuma o texto.", NEWS, "Chuva forte", None),  # fewer than three words
        ("Resuma o texto.", "Choveu muito ontem.", "Choveu muito, ontem.", None),  # no text
        ("Como escrever um resumo?", "", words(40), None),
        ("Sugira uma hashtag que resuma o texto.", NEWS, "#chuva no centro", None),
        ("Sugira um título com base no resumo.", NEWS, "A chuva de ontem", None),
        ("Diga.", words(120), words(66), None),  # the length rule alone asks for nothing
        ("Reescreva a frase.", "Ela foi embora.", "Ela partiu cedo.", "rewriting"),
        ("Pegue a frase e reescreva-a: ela foi.", "", "Ela partiu cedo.", "rewriting"),
        ("Corrija a frase “Nós vai”.", "", "Nós vamos embora.", "rewriting"),
        ("Parafraseie isto. Ela foi embora.", "", "Ela partiu cedo.", "rewriting"),
        ("Escreva uma paráfrase.", "Ela foi embora.", "Ela partiu cedo.", "rewriting"),
        ("Reescreva o texto.", "", "Ela partiu cedo.", None),  # which text?
        ("Tarefa: reescreva o texto.", "", "Ela partiu cedo.", None),
        ("Reescreva a frase.", "Ela foi embora.", "Ela partiu.", None),
        ("Simplifique a fração.", "3/6 de um todo", "um sobre dois", None),
        ("Recebe uma revisão da Amazon. Dê a nota.", NEWS, "nota muito boa", None),
        ("Escreva uma ideia que melhore a vida.", NEWS, "Plantar mais árvores", None),
        ("Reescreva, ou classifique, a crítica.", NEWS, "Ela partiu cedo.", None),
        ("Reescreva: quem é?", "", "Quem será ela?", "rewriting"),  # before qa
    ],
)
def test_the_corrected_rules(instruction: str, context: str, output: str, task: str | None) -> None:
    assert classify(instruction, context, output) == task


def test_an_item_is_corrected_where_the_rules_call_it_what_its_set_calls_it() -> None:
    item = TaskItem("x", "rewriting", 1, "Reescreva a frase.", "Ela foi.", "Ela partiu cedo.")
    assert is_corrected(item)
    assert not is_corrected(replace(item, task="qa"))
    assert not is_corrected(replace(item, reference="positivo"))


def test_the_id_is_the_hash_of_the_thesis() -> None:
    # printf 'a\n---\nb\n---\nc' | sha1sum
    assert item_id(" a\n", "b", "c ") == "5c60fa587c3b0f0fbf8b80cc600b3f9cbb504816"


# --- A pool ----------------------------------------------------------------------------------


def pool_row(task: str, number: int) -> dict[str, str]:
    """Return an example of a task that resembles no other in its words."""
    own = " ".join(f"{task}{number}x{i}" for i in range(20))
    instruction, output = {
        "qa": (f"Quem {own}?", f"Pessoa {number}"),
        "summarization": (f"Resuma: {own}.", f"Um resumo {number}."),
        "rewriting": (f"Reescreva: {own}.", f"Outra frase {number}."),
    }[task]
    return {"instruction": instruction, "input": "", "output": output}


def write_pool(folder: Path, rows: list[dict[str, str]]) -> TaskParams:
    """Write a pool and return the parameters to read it."""
    file = folder / "pool.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return replace(PARAMS, path=str(file))


POOL = [pool_row(task, number) for number in range(30) for task in TASKS]


def test_a_pool_gives_each_seed_its_own_items_of_every_task(tmp_path: Path) -> None:
    params = replace(write_pool(tmp_path, POOL), seeds=(1, 2), per_task=10)
    items, report = collect_tasks(params, [])
    assert [(i.seed, i.task) for i in items] == [
        (seed, task) for seed in (1, 2) for task in TASKS for _ in range(10)
    ]
    assert report["items"] == dict.fromkeys(TASKS, 20)
    assert all(i.id == item_id(i.instruction, i.input, i.reference) for i in items)
    first, second = ([i.id for i in items if i.seed == seed] for seed in (1, 2))
    assert first != second
    shared = {t: report["overlap_between_seeds"][t]["1-2"] for t in TASKS}
    assert sum(shared.values()) == len(set(first) & set(second)) > 0
    assert collect_tasks(replace(params, seeds=(2,)), [])[0] == items[30:]
    assert report["labelled_same"]["corrected"] == dict.fromkeys(TASKS, 20)
    assert report["labelled_same"]["as_published"] == dict.fromkeys(TASKS, 20)


def test_the_published_rules_may_be_asked_for(tmp_path: Path) -> None:
    reviews = [
        {"instruction": f"Esta revisão {i} é o quê?", "input": "", "output": "positivo"}
        for i in range(2)
    ]
    others = [pool_row(task, number) for task in TASKS[1:] for number in range(5)]
    params = write_pool(tmp_path, reviews + others)
    with pytest.raises(InputError, match="only 0 items of qa"):
        collect_tasks(params, [])
    items, report = collect_tasks(replace(params, classifier="as_published"), [])
    assert [i.reference for i in items if i.task == "qa"] == ["positivo"] * 2
    assert report["labelled_same"]["corrected"]["qa"] == 0


def test_too_few_items_are_counted(tmp_path: Path) -> None:
    params = replace(write_pool(tmp_path, POOL[:-1]), per_task=30)
    message = (
        "tasks.source 'pool', seed 1: only 29 items of rewriting, expected 30; "
        "lower tasks.per_task or use more data"
    )
    with pytest.raises(InputError, match=message):
        collect_tasks(params, [])


def test_equal_similar_and_repeated_prompts_are_dropped_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [*POOL[:9], POOL[0] | {"output": "Outra pessoa"}]
    trained = [
        Example("a", POOL[4]["instruction"].upper(), "", "Outro."),  # summarization, once folded
        # rewriting: the last of 21 words is another, so 18 of 20 shingles are shared
        Example("b", POOL[5]["instruction"].replace("x19.", "y."), "", "Outro."),
        Example("c", "Reescreva o que segue.", "", "Outro."),
    ]
    monkeypatch.setattr(tasks, "published_items", lambda *_: _labelled(rows))
    items, report = collect_tasks(replace(PARAMS, source="published", per_task=10), trained)
    assert report["dropped"] == {
        "equal": {"qa": 0, "summarization": 1, "rewriting": 0},
        "near_duplicate": {"qa": 0, "summarization": 0, "rewriting": 1},
        "repeated": {"qa": 1, "summarization": 0, "rewriting": 0},
    }
    assert report["items"] == {"qa": 3, "summarization": 2, "rewriting": 2}
    assert len(items) == 7


def _labelled(rows: list[dict[str, str]]) -> Iterator[tuple[TaskItem, str]]:
    for number, row in enumerate(rows):
        task = TASKS[number % 3]
        texts = (row["instruction"], row["input"], row["output"])
        yield TaskItem(item_id(*texts), task, 1, *texts), ""


# --- The embedded sample ---------------------------------------------------------------------


def test_the_sample_gives_each_seed_a_stretch_of_its_held_out_side(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def generate(folder: Path, *, n: int, seed: int, held_out: bool) -> Any:
        assert (folder, held_out) == (Path("pasta"), True)
        for i in range(n):
            task: Any = TASKS[i % 3]
            yield InstructionExample(f"{i}", task, f" {seed} {task} {i} ", "", f"{i}")

    monkeypatch.setattr(tasks, "generate_instructions", generate)
    params = replace(PARAMS, source="sample", path="pasta", seeds=(5, 6))
    items, report = collect_tasks(params, [Example("a", "5 qa 0", "", "")])
    assert [i.instruction for i in items if i.task == "qa"] == [
        "5 qa 3",
        "5 qa 6",
        "6 qa 0",
        "6 qa 3",
    ]
    assert report["dropped"]["equal"] == {"qa": 1, "summarization": 0, "rewriting": 0}


# --- The published sets ----------------------------------------------------------------------


def write_set(folder: Path, seed: int, **changes: Any) -> Path:
    """Write a published set of one item a task."""
    folder.mkdir(parents=True)
    (folder / "x_manifest.json").write_text(json.dumps({"seed": seed}), encoding="utf-8")
    for task in TASKS:
        row = {"task": task, "instruction": f"{task} {seed}?", "input": "", "reference": "r"}
        row |= {"hash": item_id(row["instruction"], "", "r")} | changes
        (folder / f"x_{task}.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    return folder


def published(folder: Path, *seeds: int) -> TaskParams:
    """Return the parameters that take published sets as they are."""
    return replace(PARAMS, source="published", path=str(folder), seeds=seeds)


def test_published_sets_are_found_by_the_seed_in_their_manifest(tmp_path: Path) -> None:
    write_set(tmp_path / "a", 456)
    write_set(tmp_path / "b" / "c", 123)
    items, report = collect_tasks(published(tmp_path, 123, 456), [])
    assert [i.instruction for i in items] == [f"{t} {s}?" for s in (123, 456) for t in TASKS]
    assert report["hash_mismatches"] == 0


def test_hashes_that_do_not_fit_are_counted(tmp_path: Path) -> None:
    write_set(tmp_path / "a", 123, hash="0" * 40)
    assert collect_tasks(published(tmp_path, 123), [])[1]["hash_mismatches"] == 3


def test_a_seed_without_a_set_is_named(tmp_path: Path) -> None:
    write_set(tmp_path / "a", 456)
    message = r"no \*manifest.json names seed 123 \(found: 456\); set tasks.seeds or tasks.path"
    with pytest.raises(InputError, match=message):
        collect_tasks(published(tmp_path, 123), [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "x_qa.jsonl:1: not JSON (Expecting property name enclosed in double quotes at col"),
        ("[]", "x_qa.jsonl:1: expected an object, found list"),
        ('{"task": "qa"}', "x_qa.jsonl:1: no text in instruction, input, reference, hash (found:"),
        (
            '{"task": "x", "instruction": "", "input": "", "reference": "", "hash": ""}',
            "x_qa.jsonl:1: task is 'x', expected 'qa' as in the file name",
        ),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, content: str, message: str) -> None:
    (write_set(tmp_path / "a", 123) / "x_qa.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=re.escape(message)):
        collect_tasks(published(tmp_path, 123), [])


def test_a_missing_file_and_a_broken_manifest_are_named(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "a", 123)
    (folder / "x_qa.jsonl").unlink()
    with pytest.raises(InputError, match=r"0 files \*_qa.jsonl, expected one"):
        collect_tasks(published(tmp_path, 123), [])
    (folder / "x_manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"x_manifest.json: not JSON \("):
        collect_tasks(published(tmp_path, 123), [])


def test_an_item_as_a_row_has_the_fields_of_an_item() -> None:
    item = TaskItem("i", "qa", 1, "a", "b", "c")
    assert TaskItem(**item_row(item)) == item


# --- Parameters ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": ()}, "seeds is empty, expected at least one"),
        ({"seeds": (1, 2, 1)}, "seeds (1, 2, 1) has one twice"),
        ({"per_task": 0}, "per_task is 0, expected at least 1"),
        ({"min_similarity": 0.0}, "min_similarity is 0.0, expected 0 < x <= 1"),
        ({"shingle_words": 0}, "shingle_words is 0, expected at least 1"),
        ({"permutations": 0}, "permutations 0 is not a multiple of bands 1"),
    ],
)
def test_a_parameter_out_of_range_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        replace(PARAMS, **changes)


# --- The thesis' sets ------------------------------------------------------------------------


@pytest.fixture(scope="session")
def canarim(shared: Path) -> list[tuple[TaskItem, str]]:
    """Return the 1800 published items with their hashes."""
    folder = shared / "data" / "canarim"
    return [row for seed in SEEDS for row in published_items(folder, seed)]


def by_task(items: list[TaskItem]) -> dict[str, int]:
    """Return how many of the items are of each task."""
    return {task: sum(item.task == task for item in items) for task in TASKS}


@pytest.mark.shared
def test_the_published_rules_and_hashes_give_the_published_sets(
    canarim: list[tuple[TaskItem, str]],
) -> None:
    assert by_task([item for item, _ in canarim]) == dict.fromkeys(TASKS, 600)
    assert all(item.id == stored for item, stored in canarim)
    labels = [classify_as_published(i.instruction, i.input, i.reference) for i, _ in canarim]
    assert labels == [item.task for item, _ in canarim]


@pytest.mark.shared
def test_how_many_published_rows_are_of_their_task_by_the_corrected_rules(
    canarim: list[tuple[TaskItem, str]],
) -> None:
    kept = [item for item, _ in canarim if is_corrected(item)]
    assert by_task(kept) == {"qa": 222, "summarization": 188, "rewriting": 194}
    noun_only = re.compile(r"\brevisão\b", re.IGNORECASE)
    reviews = [i for i in kept if i.task == "rewriting" and noun_only.search(i.instruction)]
    assert reviews == []


# 60 published rows a task, drawn with random.Random(60).sample(range(600), 60) and read: the places
# in that draw of those that ask for the task and whose reference is an answer of that kind (not a
# label, not junk), right or wrong.
DRAW = {
    "qa": "0 1 2 5 6 8 9 11 12 14 17 18 19 21 22 24 28 29 34 35 36 40 41 44 49 50 51 53 56",
    "summarization": "0 1 3 4 5 6 13 17 18 22 23 25 26 28 32 33 34 35 36 37 38 41 46 47 50 53 55"
    " 57",
    "rewriting": "0 2 3 6 14 16 17 18 20 21 22 29 30 32 41 47 51 53 54 56 58 59",
}


@pytest.mark.shared
@pytest.mark.parametrize(
    ("task", "published_right", "kept", "kept_right"),
    [("qa", 29, 24, 23), ("summarization", 28, 24, 24), ("rewriting", 22, 18, 18)],
)
def test_precision_on_the_rows_read_by_hand(
    canarim: list[tuple[TaskItem, str]],
    task: str,
    published_right: int,
    kept: int,
    kept_right: int,
) -> None:
    items = [item for item, _ in canarim if item.task == task]
    places = random.Random(60).sample(range(600), 60)
    right = {int(place) for place in DRAW[task].split()}
    ours = {n for n, index in enumerate(places) if is_corrected(items[index])}
    assert (len(right), len(ours), len(ours & right)) == (published_right, kept, kept_right)


@pytest.mark.slow
@pytest.mark.shared
def test_the_prompts_that_the_thesis_trained_on_are_dropped(shared: Path) -> None:
    folder = shared / "data" / "canarim"
    rows = (folder / "canarim_sft_10k_train.jsonl").read_text("utf-8").splitlines()
    trained = [Example("", r["instruction"], r["input"], "") for r in map(json.loads, rows)]
    params = replace(published(folder, *SEEDS), per_task=200)
    _, report = collect_tasks(params, trained)
    assert report["dropped"] == {
        "equal": {"qa": 3, "summarization": 2, "rewriting": 1},  # the 6 of section 5.6
        "near_duplicate": {"qa": 15, "summarization": 20, "rewriting": 5},
        "repeated": {"qa": 0, "summarization": 15, "rewriting": 1},
    }
    assert report["items"] == {"qa": 582, "summarization": 563, "rewriting": 593}
    assert report["hash_mismatches"] == 0
