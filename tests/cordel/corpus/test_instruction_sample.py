"""The invented instructions: correct references, and nothing shared by training and evaluation."""

import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from cordel.corpus.instruction_sample import (
    InstructionExample,
    generate_instructions,
    partition,
    without_accents,
)
from cordel.corpus.sample import SampleError

REAL_FOLDER = Path(__file__).parents[3] / "data" / "sample" / "instructions"
TASKS = ["qa", "summarization", "rewriting"]
LABELS = {"Sim", "Não", "Empate", "Notícia", "Futebol", "Fórum", "Conto"}  # determined, not quoted
SUMMARY_WORDS = {"resuma", "resumo", "sintetize", "síntese", "sumarize"}
REWRITING_WORDS = {
    *("reescreva", "reformule", "corrija", "melhore"),
    *("paráfrase", "simplifique", "transforme"),
}
SLANG = (
    r"\b(a gente|t[áôa]|pr[ao]|cês?|vcs?|tava|grana|trampo|galera|moleque|cara|caramba|mó|pessoal"
    r"|oi|olha|pois é|então|viu)\b"
)
WORD = re.compile(r"\w+")
QA = """
partition: [pessoa]
tables:
  pessoa: ["nome|o", "Ana|a", "Rui|o", "Lia|a", "Davi|o"]
rules:
  qa: ["{pessoa.nome} viu {pessoa2.nome}. {^pessoa.o} {n=2..2}.\\nquem viu?\\n{pessoa.nome}"]
"""
SUMMARIZATION = r"""
partition: [pede]
tables: {}
rules:
  summarization: ["um gato\n{pede}\ngato"]
  pede: ["resuma.", "sintetize."]
"""
REWRITING = r"""
partition: [frase]
tables: {}
rules:
  rewriting: ["~\ncorrija.\n{frase}"]
  frase: ["não há pão", "é a vovó"]
"""
FILES = {"qa": QA, "summarization": SUMMARIZATION, "rewriting": REWRITING}


def write_folder(folder: Path, **changed: str) -> Path:
    """Write the three small files, those named replaced; an empty text leaves the file out."""
    for task, text in (FILES | changed).items():
        if text:
            (folder / f"{task}.yaml").write_text(text, encoding="utf-8")
    return folder


def real(n: int, *, held_out: bool, seed: int = 1) -> list[InstructionExample]:
    return list(generate_instructions(REAL_FOLDER, n=n, seed=seed, held_out=held_out))


def shingles(example: InstructionExample) -> frozenset[str]:
    words = WORD.findall(f"{example.instruction} {example.input}".lower())
    return frozenset(" ".join(words[i : i + 5]) for i in range(max(1, len(words) - 4)))


def published_task(example: InstructionExample) -> str:
    """Return what the classifier of the thesis (5.6) says; only its rules that can match here."""
    text = f"{example.instruction}\n{example.input}".lower()
    if len(WORD.findall(example.output)) <= 12 and "?" in text:
        return "qa"
    if SUMMARY_WORDS & set(WORD.findall(text)):
        return "summarization"
    return "rewriting" if REWRITING_WORDS & set(WORD.findall(text)) else "none"


@pytest.fixture(scope="module")
def training() -> list[InstructionExample]:
    """Return 6,000 examples to learn from, as a draw at football is one in 800."""
    return real(6000, held_out=False)


@pytest.fixture(scope="module")
def evaluation() -> list[InstructionExample]:
    """Return 1,500 held-out examples."""
    return real(1500, held_out=True)


@pytest.fixture(scope="module")
def examples(
    training: list[InstructionExample], evaluation: list[InstructionExample]
) -> list[InstructionExample]:
    """Return both sides together."""
    return training + evaluation


def outputs(examples: list[InstructionExample], task: str) -> list[InstructionExample]:
    return [example for example in examples if example.task == task]


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("n", [0, 1, 50])
def test_a_larger_set_begins_with_the_smaller_one(n: int, held_out: bool) -> None:
    small = real(n, held_out=held_out)
    assert len(small) == n
    assert small == real(80, held_out=held_out)[:n]


def test_seed_and_side_change_the_examples(training: list[InstructionExample]) -> None:
    prompts = {(e.instruction, e.input) for e in training[:60]}
    other_seed = {(e.instruction, e.input) for e in real(60, held_out=False, seed=2)}
    assert not prompts & other_seed


def test_tasks_take_turns_and_ids_name_seed_and_side(
    training: list[InstructionExample], evaluation: list[InstructionExample]
) -> None:
    assert [e.task for e in training[:6]] == TASKS * 2
    assert [e.id for e in training[:2]] == ["1-training-0000000", "1-training-0000001"]
    assert evaluation[9].id == "1-evaluation-0000009"


def test_a_small_grammar_gives_the_examples_worked_by_hand(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    question, summary, rewriting = generate_instructions(folder, n=3, seed=1, held_out=False)
    match = re.fullmatch(r"(\w+) viu (\w+)\. ([AO]) 2\.", question.input)
    assert match
    genders = {"Ana": "A", "Rui": "O", "Lia": "A", "Davi": "O"}
    assert match[1] != match[2]
    assert genders[match[1]] == match[3]
    assert (question.instruction, question.output) == ("Quem viu?", match[1])
    assert (summary.input, summary.output) == ("Um gato", "Gato")
    assert (rewriting.input, rewriting.output) in {
        ("Nao ha pao", "Não há pão"),
        ("E a vovo", "É a vovó"),
    }


@pytest.mark.parametrize("task", ["summarization", "rewriting"])
def test_a_partitioned_rule_gives_each_side_its_own_alternative(tmp_path: Path, task: str) -> None:
    folder = write_folder(tmp_path, qa=QA.replace("pessoa2", "pessoa"))
    sides = [
        {
            (e.instruction, e.output)
            for e in generate_instructions(folder, n=60, seed=1, held_out=held_out)
            if e.task == task
        }
        for held_out in (False, True)
    ]
    assert [len(side) for side in sides] == [1, 1]
    assert sides[0] != sides[1]


@pytest.mark.parametrize(
    ("texts", "held_out"),
    [("abcdefgh", "ef"), ("ab", "a"), ("ba", "a"), ("aabcd", "c"), ("hgfedcba", "fe")],
)
def test_a_quarter_is_held_out_by_the_hash_of_the_text(texts: str, held_out: str) -> None:
    kept = [text for text in texts if text not in held_out]
    assert partition(list(texts)) == (kept, list(held_out))


def test_no_evaluation_prompt_resembles_one_of_training(
    training: list[InstructionExample], evaluation: list[InstructionExample]
) -> None:
    sets = [shingles(example) for example in training]
    owners: dict[str, list[int]] = defaultdict(list)
    for index, own in enumerate(sets):
        for shingle in own:
            owners[shingle].append(index)
    worst = 0.0
    for example in evaluation:
        own = shingles(example)
        shared = Counter(index for shingle in own for index in owners[shingle])
        similar = (n / (len(own) + len(sets[index]) - n) for index, n in shared.items())
        worst = max(worst, *similar, 0.0)
    assert worst < 0.3  # 0.7 would be a near duplicate; undivided, the sides come to 1


def test_the_two_sides_share_no_city_person_or_request(
    training: list[InstructionExample], evaluation: list[InstructionExample]
) -> None:
    def facts(examples: list[InstructionExample]) -> list[set[str]]:
        summaries = outputs(examples, "summarization")
        passives = [re.search(r"\bfoi .* por (\w+)", e.output) for e in examples]
        return [
            {e.output.split(",")[0] for e in summaries},
            {e.instruction for e in summaries},
            {match[1] for match in passives if match},
        ]

    for ours, theirs in zip(facts(training), facts(evaluation), strict=True):
        assert len(ours) > len(theirs) > 5
        assert not ours & theirs


def test_prompts_hardly_ever_repeat(training: list[InstructionExample]) -> None:
    prompts = {(e.instruction, e.input) for e in training[:5000]}
    assert len(prompts) > 0.99 * 5000


@pytest.mark.parametrize("task", TASKS)
def test_each_task_has_many_requests_and_the_published_classifier_agrees(
    examples: list[InstructionExample], task: str
) -> None:
    own = outputs(examples, task)
    assert {published_task(example) for example in own} == {task}
    assert len({example.instruction for example in own}) >= 25


def test_examples_fit_the_context(examples: list[InstructionExample]) -> None:
    assert max(len(e.instruction) + len(e.input) for e in examples) <= 420
    assert max(len(e.output) for e in examples) <= 140


def test_summaries_and_their_texts_have_the_stated_words(
    examples: list[InstructionExample],
) -> None:
    summaries = outputs(examples, "summarization")
    given = [len(e.input.split()) for e in summaries]
    wanted = [len(e.output.split()) for e in summaries]
    assert 40 <= min(given) < max(given) <= 60
    assert 10 <= min(wanted) < max(wanted) <= 22


def test_texts_are_well_formed(examples: list[InstructionExample]) -> None:
    text = "\n".join(f"{e.input}\n{e.instruction}\n{e.output}" for e in examples)
    faults = r"[{}~]|  |\.\.|[.!?] [a-zà-ú]|^[a-zà-ú]| ,|\bde [oa]s? |\bpor [oa] |\bem [oa] "
    assert re.findall(faults, text, re.MULTILINE) == []


def test_quoted_answers_stand_in_the_passage(examples: list[InstructionExample]) -> None:
    quoted = [e for e in outputs(examples, "qa") if e.output not in LABELS]
    assert [e for e in quoted if e.output.lower() not in e.input.lower()] == []
    # Half the questions are of `sim_nao`, a sixth of `tipo`; `fechada` adds 0.07.
    assert 0.7 < 1 - len(quoted) / len(outputs(examples, "qa")) < 0.8


def test_the_winner_has_more_goals_and_the_loser_fewer(examples: list[InstructionExample]) -> None:
    checked = Counter()
    for example in outputs(examples, "qa"):
        score = re.search(r": ([^:.]+) (\d), ([^:.]+) (\d)\.", example.input)
        if score:
            (_, loser), (_, winner) = sorted([(score[2], score[1]), (score[4], score[3])])
            named = loser if "perdeu" in example.instruction else winner
            expected = "Empate" if score[2] == score[4] else named
            assert example.output == expected
            checked[expected == "Empate"] += 1
    assert min(checked[True], checked[False]) > 5


@pytest.mark.parametrize(
    ("asked", "largest"),
    [("mais velha", True), ("mais nova", False), ("por último", True), ("primeiro", False)],
)
def test_comparisons_follow_the_numbers(
    examples: list[InstructionExample], asked: str, largest: bool
) -> None:
    checked = 0
    for example in outputs(examples, "qa"):
        names = re.search(r"(\w+) ou (\w+)\?", example.instruction)
        if names and asked in example.instruction:
            # Every passage names the two people in the order of their figures.
            ordered = sorted(names.groups(), key=example.input.index)
            low, high = sorted(
                zip(map(int, re.findall(r"\d+", example.input)), ordered, strict=True)
            )
            assert low[0] < high[0]
            assert example.output == (high if largest else low)[1]
            checked += 1
    assert checked > 10


def test_opening_days_decide_between_yes_and_no(examples: list[InstructionExample]) -> None:
    days = re.compile(r" (?:abre|dá para ir até .*) (n[ao] [\w-]+)\?")
    asked = [(e, days.search(e.instruction)) for e in outputs(examples, "qa")]
    pairs = [(e.output, m[1] in e.input.lower()) for e, m in asked if m]
    assert set(pairs) == {("Sim", True), ("Não", False)}


def test_prices_decide_whether_entry_is_free(examples: list[InstructionExample]) -> None:
    costs = re.compile(r"preciso pagar|é paga|tem de pagar")
    checked = Counter()
    for example in outputs(examples, "qa"):
        asked = costs.search(example.instruction)
        if asked or "é de graça" in example.instruction:
            paid = "R$" in example.input
            assert example.output == ("Sim" if paid == bool(asked) else "Não")
            checked[bool(asked), example.output] += 1
    assert len(checked) == 4
    assert min(checked.values()) > 50


@pytest.mark.parametrize("held_out", [False, True])
def test_neither_yes_nor_no_is_the_better_guess(
    training: list[InstructionExample], evaluation: list[InstructionExample], held_out: bool
) -> None:
    answers = Counter(e.output for e in (evaluation if held_out else training))
    assert 0.4 < answers["Sim"] / (answers["Sim"] + answers["Não"]) < 0.6


def test_numbers_and_names_of_a_summary_stand_in_the_text(
    examples: list[InstructionExample],
) -> None:
    for example in outputs(examples, "summarization"):
        facts = re.findall(r"\d+|(?<= )[A-ZÁÉÍÓÚÂÊÔ]\w+", example.output)
        assert len(facts) >= 2
        assert [fact for fact in facts if fact not in example.input] == []


def test_accents_are_all_that_their_correction_changes(examples: list[InstructionExample]) -> None:
    own = [e for e in outputs(examples, "rewriting") if "acent" in e.instruction.lower()]
    assert len(own) > 100
    assert [e for e in own if without_accents(e.output) != e.input or e.input == e.output] == []


@pytest.mark.parametrize(
    ("asked", "gone", "come"),
    [
        ("passiva", r"^$", r"^([AO]) .*\bfoi \w+\1 (por|pel[ao]) |^.*, ([ao]) .*\bfoi \w+\3 por "),
        ("terceira pessoa|história de|“eu”", r"\b(eu|meu|minha)\b", r"^[A-Z]"),
        ("formal|gírias|culta|jornal", SLANG, r"^[A-ZÀ-Ú]"),
        ("mais simples|com menos|mais direto|Simplifique", r"\b(efetuar|realizar|fato de)\b", "^"),
    ],
)
def test_rewritings_have_what_was_asked_for(
    examples: list[InstructionExample], asked: str, gone: str, come: str
) -> None:
    own = [e for e in outputs(examples, "rewriting") if re.search(asked, e.instruction)]
    assert len(own) > 50
    wanted = [e.output for e in own if e.output != e.input]
    assert len(wanted) == len(own)
    assert [o for o in wanted if re.search(gone, o, re.IGNORECASE)] == []
    assert [o for o in wanted if not re.search(come, o, re.IGNORECASE)] == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"qa": ""}, r"qa\.yaml: cannot be read"),
        ({"qa": "rules: ["}, r"qa\.yaml: not YAML"),
        ({"qa": "- a"}, r"qa\.yaml: sections .*expected \['partition', 'tables', 'rules'\]"),
        ({"qa": QA + "mais: []"}, r"qa\.yaml: sections \['mais', "),
        ({"qa": QA.replace("[pessoa]", "pessoa")}, r"'partition' is 'pessoa', expected a list"),
        ({"qa": QA.replace('"Rui|o"', '"Rui"')}, r"table 'pessoa': row 'Rui' .*columns 'nome\|o'"),
        ({"qa": QA.replace("  qa:", "  q:")}, r"no rule 'qa', from which examples start"),
        ({"qa": QA.replace("[pessoa]", "[gente]")}, r"partition names 'gente', which is no rule"),
        ({"rewriting": REWRITING.replace(', "é a vovó"', "")}, r"partition names 'frase'"),
        ({"rewriting": REWRITING.replace("{}", "[]")}, r"section 'tables' is \[\], expected names"),
        ({"rewriting": REWRITING.replace("{}", "{a: [b]}")}, r"table 'a' has only its columns"),
        ({"rewriting": REWRITING + "  pede: [a]"}, r"rewriting\.yaml: 'pede' is in another file"),
        ({"rewriting": REWRITING + "  vazia: []"}, r"'vazia' is \[\], expected a list"),
    ],
)
def test_a_malformed_file_is_named_with_what_to_mend(
    tmp_path: Path, changed: dict[str, str], message: str
) -> None:
    with pytest.raises(SampleError, match=message):
        generate_instructions(write_folder(tmp_path, **changed), n=1, seed=1, held_out=False)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (r"\nquem viu?", "", "expected three lines"),
        (r"quem viu?", " ", "expected three lines"),
        ("{n=2..2}", "{nada}", "no rule 'nada'"),
        ("{pessoa2.nome}", "{pessoa4.nome}", "no rule 'pessoa4.nome'"),
    ],
)
def test_a_faulty_alternative_is_reported_when_it_is_drawn(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    examples = generate_instructions(
        write_folder(tmp_path, qa=QA.replace(old, new)), n=1, seed=1, held_out=False
    )
    with pytest.raises(SampleError, match=message):
        next(examples)
