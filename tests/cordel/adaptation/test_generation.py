"""Generation: a batch changes no answer, each prompt is answered once, and nothing is lost."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch

from cordel.adaptation.generation import (
    GenerationParams,
    NewTokens,
    Request,
    batches,
    generate_all,
    generate_batch,
    read_journal,
)
from cordel.adaptation.quantised import BaseModel, load_base
from cordel.compute import Compute
from cordel.runtime.files import write_json

STOP = (3, 5)


@pytest.fixture(scope="module")
def model(base: BaseModel, cpu: Compute) -> Any:
    """Return the tiny base in NF4."""
    return load_base(base, cpu)


def prompt(seed: int, length: int) -> tuple[int, ...]:
    """Return arbitrary ids."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(7, 420, (length,), generator=generator).tolist())


PROMPTS = [prompt(seed, length) for seed, length in enumerate((12, 3, 30, 7, 12, 1, 21, 5))]


class Counting:
    """A model that answers at once: the prompt's last id + 1, + 2, ... until the limit.

    Attributes:
        rows: The prompts that it was given, without padding, batch by batch.
    """

    def __init__(self) -> None:
        self.rows: list[list[tuple[int, ...]]] = []

    def generate(
        self, *, input_ids: torch.Tensor, attention_mask: torch.Tensor, **options: Any
    ) -> torch.Tensor:
        pairs = zip(input_ids, attention_mask.bool(), strict=True)
        self.rows.append([tuple(row[real].tolist()) for row, real in pairs])
        new = torch.arange(1, options["max_new_tokens"] + 1)
        return torch.cat([input_ids, input_ids[:, -1:] + new], dim=1)


Generate = Callable[..., dict[str, list[int]]]


@pytest.fixture
def generate(cpu: Compute, tmp_path: Path) -> Generate:
    """Return ``generate_all`` with a journal in ``tmp_path``."""

    def generate(
        model: Any, requests: Sequence[Request], *, batch_size: int = 2, **kwargs: Any
    ) -> dict[str, list[int]]:
        kwargs = {"journal": tmp_path / "answers.jsonl", "stop": STOP, "pad": 0} | kwargs
        return generate_all(model, requests, batch_size=batch_size, compute=cpu, **kwargs)

    return generate


# --- one batch ------------------------------------------------------------------------------------


def test_an_answer_does_not_depend_on_its_batch(model: Any, cpu: Compute) -> None:
    requests = [Request(ids, 10) for ids in PROMPTS]
    together = generate_batch(model, requests, stop=STOP, pad=0, compute=cpu)
    alone = [generate_batch(model, [r], stop=STOP, pad=0, compute=cpu)[0] for r in requests]
    assert together == alone
    assert len(set(map(tuple, alone))) == 8  # the prompts do matter


def greedy(model: Any, ids: Sequence[int], count: int) -> list[int]:
    """Return the likeliest continuation, id by id, without cache and padding."""
    row = list(ids)
    for _ in range(count):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row]), use_cache=False).logits
        row.append(int(logits[0, -1].argmax()))
    return row[len(ids) :]


def test_an_answer_is_the_likeliest_continuation(model: Any, cpu: Compute) -> None:
    requests = [Request(ids, 6) for ids in PROMPTS[:3]]
    found = generate_batch(model, requests, stop=STOP, pad=0, compute=cpu)
    assert found == [greedy(model, request.ids, 6) for request in requests]


def test_an_answer_ends_with_its_stop_id(model: Any, cpu: Compute) -> None:
    ids = greedy(model, PROMPTS[0], 10)
    place = next(place for place in range(2, 10) if ids[place] not in ids[:place])
    requests = [Request(PROMPTS[0], 10), Request(PROMPTS[2], 10)]
    found, other = generate_batch(model, requests, stop=[3, ids[place]], pad=0, compute=cpu)
    assert found == ids[: place + 1]
    assert len(other) == 10  # its neighbour goes on


def test_no_ids_are_made_after_the_last_answer_has_ended(model: Any, cpu: Compute) -> None:
    ids = greedy(model, PROMPTS[0], 4)
    recorded = Recording(model)
    [found] = generate_batch(
        recorded, [Request(PROMPTS[0], 100)], stop=[3, ids[2]], pad=0, compute=cpu
    )
    assert recorded.out.shape[1] == 12 + len(found)
    assert len(found) <= 3


def test_a_prompt_holds_stop_ids_and_is_no_answer(model: Any, cpu: Compute) -> None:
    requests = [Request((2, 5, *PROMPTS[1]), 4), Request(PROMPTS[0], 4)]
    found = generate_batch(model, requests, stop=STOP, pad=0, compute=cpu)
    assert found[0] == greedy(model, requests[0].ids, 4)


class Recording:
    """A model that keeps what it was given and what it gave."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def generate(self, **inputs: Any) -> torch.Tensor:
        self.inputs, self.out = inputs, self.model.generate(**inputs)
        return self.out


def test_the_thesis_took_the_end_of_padded_prompts_for_the_answer(model: Any, cpu: Compute) -> None:
    requests = [Request(ids, 4) for ids in PROMPTS]
    recorded = Recording(model)
    found = generate_batch(recorded, requests, stop=STOP, pad=0, compute=cpu)
    lengths = recorded.inputs["attention_mask"].sum(dim=1).tolist()
    assert lengths == [len(ids) for ids in PROMPTS]
    as_published = [r[n:].tolist() for r, n in zip(recorded.out, lengths, strict=True)]
    wrong = [a != b for a, b in zip(as_published, found, strict=True)]
    assert wrong == [len(ids) < 30 for ids in PROMPTS]  # all rows but the longest
    assert as_published[0][-len(found[0]) - 12 :] == [*PROMPTS[0], *found[0]]


def test_padding_is_to_the_left_and_masked(cpu: Compute) -> None:
    recorded = Recording(Counting())
    generate_batch(recorded, [Request((8, 9), 1), Request((7,), 1)], stop=STOP, pad=1, compute=cpu)
    assert recorded.inputs["input_ids"].tolist() == [[8, 9], [1, 7]]
    assert recorded.inputs["attention_mask"].tolist() == [[1, 1], [0, 1]]


HABITS: list[dict[str, Any]] = [
    {"do_sample": True, "temperature": 5.0, "top_k": 3},
    {"num_beams": 2},
    {"repetition_penalty": 9.0},
    {"no_repeat_ngram_size": 1},
]


@pytest.mark.parametrize("habit", HABITS, ids=[next(iter(habit)) for habit in HABITS])
def test_a_bases_own_habits_change_no_answer(
    base: BaseModel, cpu: Compute, model: Any, tmp_path: Path, habit: dict[str, Any]
) -> None:
    [ids] = generate_batch(model, [Request(PROMPTS[0], 10)], stop=STOP, pad=0, compute=cpu)
    request = Request((*PROMPTS[0], *ids), 10)  # whose likeliest answer has some of its ids again
    shutil.copytree(base.model, tmp_path / "habitual")
    write_json(tmp_path / "habitual" / "generation_config.json", habit)
    habitual = load_base(replace(base, model=str(tmp_path / "habitual")), cpu)
    found = generate_batch(habitual, [request], stop=STOP, pad=0, compute=cpu)
    assert found == generate_batch(model, [request], stop=STOP, pad=0, compute=cpu)


# --- all requests ---------------------------------------------------------------------------------


def test_each_distinct_prompt_is_answered_once(generate: Generate) -> None:
    one, two, longer = Request((7, 8), 2), Request((9,), 2), Request((7, 8), 3)
    model, done = Counting(), []
    found = generate(model, [one, two, one, longer, two], advance=done.append)
    assert found == {one.key: [9, 10], two.key: [10, 11], longer.key: [9, 10, 11]}
    assert sorted(row for rows in model.rows for row in rows) == [(7, 8), (7, 8), (9,)]
    assert sum(done) == 3


def test_the_order_of_requests_changes_nothing(cpu: Compute, tmp_path: Path) -> None:
    requests = [Request((9,), 2), Request((7, 8), 2), Request((6, 8), 2), Request((9,), 4)]
    seen = []
    for place, order in enumerate(permutations(requests)):
        model, journal = Counting(), tmp_path / f"{place}.jsonl"
        generate_all(model, order, stop=STOP, pad=0, batch_size=2, compute=cpu, journal=journal)
        seen.append((model.rows, journal.read_bytes()))
    assert seen == [seen[0]] * 24
    # Most new ids first, then the longest prompts; never two limits in one batch.
    assert seen[0][0] == [[(9,)], [(6, 8), (7, 8)], [(9,)]]


def test_answers_come_in_any_batch_size(model: Any, generate: Generate, tmp_path: Path) -> None:
    requests = [Request(ids, 4) for ids in PROMPTS]
    found = [generate(model, requests, batch_size=n, journal=tmp_path / str(n)) for n in (1, 3, 8)]
    assert found[0] == found[1] == found[2]
    assert list(found[0]) == [request.key for request in requests]


def test_an_interrupted_run_goes_on_where_it_was(generate: Generate, tmp_path: Path) -> None:
    requests = [Request((i,), 2) for i in range(10, 16)]
    whole = generate(Counting(), requests, journal=tmp_path / "whole")
    path = tmp_path / "answers.jsonl"

    class Dying(Counting):
        def generate(self, **inputs: Any) -> torch.Tensor:
            if len(self.rows) == 2:
                raise KeyboardInterrupt
            return super().generate(**inputs)

    with pytest.raises(KeyboardInterrupt):
        generate(Dying(), requests)
    assert len(path.read_text().splitlines()) == 4
    rest, done = Counting(), []
    assert generate(rest, requests, advance=done.append) == whole
    assert rest.rows == [[(14,), (15,)]]
    assert done == [4, 2]
    assert path.read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize("cut", [1, 10, 200])
def test_a_line_cut_by_a_kill_is_generated_again(
    generate: Generate, tmp_path: Path, cut: int
) -> None:
    requests = [Request((i,), 2) for i in range(10, 16)]
    whole = generate(Counting(), requests)
    path = tmp_path / "answers.jsonl"
    content = path.read_bytes()
    path.write_bytes(content[:-cut])
    lost = 6 - content[:-cut].count(b"\n")
    rest = Counting()
    assert generate(rest, requests) == whole
    assert sum(map(len, rest.rows)) == lost
    assert path.read_bytes() == content


def test_a_journal_of_one_torn_line_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    assert list(read_journal(path)) == []
    path.write_text('{"key": "a", "ids"')
    assert list(read_journal(path)) == []
    assert path.read_bytes() == b""


# CRC-32 of "a [1]" and "b [2]", by `printf 'a [1]' | gzip -c | tail -c8 | od -tu4`.
A = b'{"key": "a", "ids": [1], "crc32": 1898769780}\n'
B = b'{"key": "b", "ids": [2], "crc32": 497140839}\n'


@pytest.mark.parametrize(
    "damage",
    [b"\0" * 20 + b"\n", b"{}\n", b"7\n", b"\xff\n", A.replace(b"[1]", b"[3]")],
)
def test_a_damaged_line_is_left_out_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: bytes
) -> None:
    caplog.set_level("INFO")
    path = tmp_path / "answers.jsonl"
    path.write_bytes(B + damage + A)
    assert list(read_journal(path)) == [("b", [2]), ("a", [1])]
    assert f"{path}: 1 lines are broken and are generated again" in caplog.text
    assert path.read_bytes() == B + A


def test_answers_that_were_found_are_said(
    generate: Generate, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    generate(Counting(), [Request((7,), 2)])
    assert caplog.text == ""
    generate(Counting(), [Request((7,), 2), Request((8,), 2)])
    assert "resuming: 1 to come, found 1 answers in " in caplog.text
    generate(Counting(), [Request((7,), 2), Request((8,), 2)])
    assert "found all 2 answers in " in caplog.text
    assert "answers.jsonl; delete it to generate anew" in caplog.text


def test_the_journal_has_a_key_and_ids_a_line(generate: Generate, tmp_path: Path) -> None:
    request = Request((7,), 2)
    generate(Counting(), [request])
    [line] = (tmp_path / "answers.jsonl").read_text().splitlines()
    row = json.loads(line)
    assert row == {"key": request.key, "ids": [8, 9], "crc32": row["crc32"]}


def test_a_new_seed_generates_new_prompts_only(generate: Generate) -> None:
    first = [Request((i,), 2) for i in (10, 11, 12)]
    second = [Request((i,), 2) for i in (11, 20, 21)]
    before = generate(Counting(), first)
    model = Counting()
    after = generate(model, first + second)
    assert model.rows == [[(20,), (21,)]]
    assert before.items() <= after.items()
    # And without the first seed, its answers are not among the results.
    assert generate(model, second).keys() == {request.key for request in second}
    assert len(model.rows) == 1


def test_nothing_missing_needs_no_model(generate: Generate) -> None:
    requests = [Request((7,), 2)]
    assert generate(Counting(), requests) == generate(None, requests)


def test_the_key_follows_prompt_and_limit() -> None:
    keys = {Request((1, 2), 3).key, Request((1, 2), 4).key, Request((2, 1), 3).key}
    assert len(keys) == 3
    assert Request((1, 2), 3).key == Request((1, 2), 3).key


@pytest.mark.parametrize(
    ("limits", "size", "expected"),
    [
        ([], 2, []),
        ([4], 2, [[4]]),
        ([4, 4, 4], 2, [[4, 4], [4]]),
        ([4, 4, 3, 3, 3, 2], 2, [[4, 4], [3, 3], [3], [2]]),
        ([4, 3, 2], 8, [[4], [3], [2]]),
        ([4, 4, 4], 1, [[4], [4], [4]]),
    ],
)
def test_a_batch_has_one_limit_and_at_most_its_size(
    limits: list[int], size: int, expected: list[list[int]]
) -> None:
    requests = [Request((place,), limit) for place, limit in enumerate(limits)]
    found = list(batches(requests, size))
    assert [[request.max_new_tokens for request in batch] for batch in found] == expected
    assert [request for batch in found for request in batch] == requests


@pytest.mark.parametrize(
    ("size", "limit", "message"),
    [
        (0, 9, "batch_size is 0, expected at least 1"),
        (1, 0, r"max_new_tokens\.rewriting is 0, expected at least 1"),
    ],
)
def test_params_out_of_range_are_named(size: int, limit: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GenerationParams(
            batch_size=size,
            max_new_tokens=NewTokens(qa=9, summarization=9, rewriting=limit),
            brief_request="",
        )
