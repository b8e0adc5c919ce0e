"""The sampler draws from the model's distribution, and from nothing else."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece as spm
import torch

from cordel.compute import Compute
from cordel.evaluation.sampling import Prompt, SamplingParams, choose, generate
from cordel.evaluation.sampling import draws as draws_of
from tests.cordel.evaluation.conftest import CONTEXT_LENGTH, TINY, VOCAB_SIZE

EVERY_MODEL = pytest.mark.parametrize("name", sorted(TINY))
NEVER = -np.inf
PLAIN = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}


def settings(**changes: Any) -> SamplingParams:
    """Return decode settings: greedy, 20 tokens, with some changed."""
    values: dict[str, Any] = {"prompts": (Prompt(seed=1, text="O Brasil"),)}
    values |= {"samples_per_prompt": 1, "max_new_tokens": 20, "min_new_tokens": 0}
    values |= {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "frequency_penalty": 0.0}
    return SamplingParams(**(values | changes))


def draws(logits: list[float], count: int, **how: Any) -> np.ndarray:
    """Return how often each id is drawn."""
    rng = np.random.default_rng(7)
    found = [choose(np.asarray(logits), rng=rng, **(PLAIN | how)) for _ in range(count)]
    return np.bincount(found, minlength=len(logits))


# --- choose ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0, 0.3, 1.0, 5.0])
@pytest.mark.parametrize("top_k", [0, 1, 3, 80])
@pytest.mark.parametrize("top_p", [0.1, 0.95, 1.0])
def test_a_one_hot_model_is_obeyed(temperature: float, top_k: int, top_p: float) -> None:
    found = draws([NEVER, NEVER, 2.0, NEVER], 20, temperature=temperature, top_k=top_k, top_p=top_p)
    assert found.tolist() == [0, 0, 20, 0]


@pytest.mark.parametrize("how", [{}, {"top_k": 4}, {"top_p": 0.99}, {"temperature": 9.0}])
def test_excluded_ids_are_never_drawn(how: dict) -> None:
    found = draws([NEVER, 0.5, NEVER, 0.1, 0.3, NEVER], 500, **how)
    assert found[[0, 2, 5]].tolist() == [0, 0, 0]
    assert (found[[1, 3, 4]] > 0).all()


class AlmostOne:
    """Draws the largest number below 1, which a real generator does once in 2^53 times."""

    def random(self) -> float:
        """Return it."""
        return float(np.nextafter(1.0, 0.0))


def test_rounding_does_not_let_an_excluded_id_in() -> None:
    # Ten times 0.1 sum to 1 - 2^-53 in floating point: the draw lies beyond all ten.
    logits = np.asarray([0.0] * 10 + [NEVER] * 5)
    rng: Any = AlmostOne()
    assert choose(logits, rng=rng, temperature=1.0, top_k=0, top_p=1.0) == 9


@pytest.mark.parametrize("how", [{"top_k": 1}, {"temperature": 0}, {"top_p": 1e-9}])
def test_one_candidate_is_greedy(how: dict) -> None:
    assert draws([0.1, 0.3, 0.2], 50, **how).tolist() == [0, 50, 0]


def test_the_lowest_of_equals_is_greedy() -> None:
    assert draws([0.1, 0.3, 0.3], 1, temperature=0).tolist() == [0, 1, 0]


def test_ids_that_tie_with_the_kth_are_dropped_beyond_k() -> None:
    # Many, since numpy's unstable sorts leave short arrays in order.
    found = draws([1.0] * 500 + [2.0] + [1.0] * 500, 300, top_k=3)
    assert np.flatnonzero(found).tolist() == [0, 1, 500]


@pytest.mark.parametrize("temperature", [0, 1.0])
@pytest.mark.parametrize(
    "logits", [[0.0, np.nan], [0.0, np.inf], [NEVER, NEVER]], ids=["NaN", "inf", "all excluded"]
)
def test_what_is_no_distribution_raises(logits: list[float], temperature: float) -> None:
    with pytest.raises(ValueError, match="logits are not a distribution: NaN, infinite, or all"):
        draws(logits, 1, temperature=temperature)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_frequencies_follow_the_softmax(temperature: float) -> None:
    # Logits ln 4, ln 3, ln 2, ln 1: shares 4:3:2:1, and their squares at temperature 1/2.
    weights = np.asarray([4.0, 3.0, 2.0, 1.0])
    shares = weights ** (1 / temperature) / (weights ** (1 / temperature)).sum()
    found = draws(np.log(weights).tolist(), 20_000, temperature=temperature)
    sd = np.sqrt(20_000 * shares * (1 - shares))
    assert (np.abs(found - 20_000 * shares) < 3 * sd).all()


@pytest.mark.parametrize(("top_p", "kept"), [(0.39, 1), (0.41, 2), (0.69, 2), (0.71, 3), (0.95, 4)])
def test_the_nucleus_is_the_smallest_set_that_reaches_its_mass(top_p: float, kept: int) -> None:
    # Shares 0.1, 0.4, 0.2, 0.3; cumulative from the best: 0.4, 0.7, 0.9, 1.0.
    found = draws(np.log([0.1, 0.4, 0.2, 0.3]).tolist(), 500, top_p=top_p)
    best = [1, 3, 2, 0][:kept]
    assert sorted(np.flatnonzero(found)) == sorted(best)


def test_the_nucleus_keeps_its_proportions() -> None:
    # 0.4 and 0.3 are kept: 4/7 and 3/7 of 20,000.
    found = draws(np.log([0.1, 0.4, 0.2, 0.3]).tolist(), 20_000, top_p=0.6)
    assert found[1] == pytest.approx(20_000 * 4 / 7, abs=3 * np.sqrt(20_000 * 12 / 49))
    assert found[1] + found[3] == 20_000


# --- generate -------------------------------------------------------------------------------------


class Wish:
    """Gives the same logits at every step, so that the settings alone decide what is drawn."""

    carries_state = True
    context_length = 4

    def __init__(self, *logits: float) -> None:
        self.logits = logits

    def initial_state(self) -> list[int]:
        """Return a memory that is never read."""
        return []

    def __call__(self, ids_BT: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:
        """Return the logits at every position."""
        return torch.tensor(self.logits).expand(*ids_BT.shape, -1), state


class Script(Wish):
    """Wants the ids of a script one after the other; its state is the place in it."""

    def __call__(self, ids_BT: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:
        """Return one-hot logits of the next id."""
        wanted = int(self.logits[len(state)])
        logits_V = torch.nn.functional.one_hot(torch.tensor(wanted), VOCAB_SIZE).float()
        return logits_V.expand(*ids_BT.shape, -1), [*state, wanted]


def generated(model: Any, compute: Compute, prompt: tuple[int, ...] = (1, 5), **how: Any) -> list:
    """Return the new ids; the end, the banned ids and the seed are among the settings."""
    other = {"seed": 1, "end": [3], "banned": []}
    other |= {key: how.pop(key) for key in list(how) if key in other}
    return generate(model, prompt, settings(**how), compute=compute, **other)


def reread(model: Any, prompt: tuple[int, ...], count: int) -> list[int]:
    """Generate greedily without a cache, reading the whole window again at every step."""
    window, new = list(prompt), []
    for _ in range(count):
        if not model.carries_state and len(window) > CONTEXT_LENGTH:
            # The prompt's last ids, but the second half of a window that became full.
            window = window[-(CONTEXT_LENGTH // 2 if new else CONTEXT_LENGTH) :]
        with torch.no_grad():
            new.append(int(model(torch.tensor([window]))[0][0, -1].argmax()))
        window.append(new[-1])
    return new


@EVERY_MODEL
@pytest.mark.parametrize("length", [1, 5, 8, 12])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_cache_changes_nothing(
    name: str, length: int, seed: int, build: Callable, compute: Compute
) -> None:
    model = build(name, seed)
    prompt = tuple(np.random.default_rng(seed).integers(0, VOCAB_SIZE, length).tolist())
    # 25 new ids: the window of 8 becomes full several times.
    found = generated(model, compute, prompt, max_new_tokens=25, end=[VOCAB_SIZE])
    assert found == reread(model, prompt, 25)


@EVERY_MODEL
def test_the_same_seed_draws_the_same_ids(name: str, build: Callable, compute: Compute) -> None:
    how = {"temperature": 1.0, "end": [VOCAB_SIZE]}
    first, again = (generated(build(name), compute, seed=5, **how) for _ in range(2))
    assert first == again
    assert first != generated(build(name), compute, seed=6, **how)


@EVERY_MODEL
@pytest.mark.parametrize("seed", [101, 102])
def test_two_checkpoints_draw_different_ids_with_one_seed(
    name: str, seed: int, build: Callable, compute: Compute
) -> None:
    how = {"temperature": 0.85, "top_k": 80, "top_p": 0.95, "seed": seed, "end": [VOCAB_SIZE]}
    one, other = (generated(build(name, weights), compute, **how) for weights in (0, 1))
    assert one != other


@EVERY_MODEL
@pytest.mark.parametrize("seed", [101, 102, 103, 104, 105])
def test_samples_are_not_the_uniform_noise_of_the_thesis(
    name: str, seed: int, build: Callable, compute: Compute
) -> None:
    found = generated(build(name), compute, seed=seed, temperature=1.0, end=[VOCAB_SIZE])
    noise = np.random.default_rng(seed).choice(VOCAB_SIZE, 20)
    shares = np.full(VOCAB_SIZE, 1 / VOCAB_SIZE)
    assert found != noise.tolist()
    assert found != np.random.default_rng(seed).choice(VOCAB_SIZE, 20, p=shares).tolist()


def test_at_most_so_many_ids_are_drawn(compute: Compute) -> None:
    assert generated(Wish(0.0, 1.0, 0.0, 0.0), compute, max_new_tokens=6) == [1] * 6


def test_the_end_stops_and_is_left_out(compute: Compute) -> None:
    assert generated(Script(5, 6, 3, 7, 8), compute) == [5, 6]


def test_an_end_of_two_ids_stops_only_as_a_pair(compute: Compute) -> None:
    assert generated(Script(4, 5, 4, 4, 6, 6), compute, end=[4, 4]) == [4, 5]


def test_an_end_is_not_drawn_before_the_least_number_of_ids(compute: Compute) -> None:
    # 3 is the favourite and 1 the next.
    found = generated(Wish(0.0, 1.0, 0.5, 2.0), compute, min_new_tokens=4, max_new_tokens=9)
    assert found == [1] * 4


def test_an_end_of_two_ids_leaves_the_least_number_of_ids(compute: Compute) -> None:
    # 3 3 3 3 and then the end 3 3.
    wish = Wish(0.0, 1.0, 0.5, 2.0)
    assert generated(wish, compute, end=[3, 3], min_new_tokens=4) == [3] * 4


def test_banned_ids_are_never_drawn(compute: Compute) -> None:
    found = generated(
        Wish(9.0, 0.0, 9.0, 0.0, 0.0), compute, banned=[0, 2], temperature=2.0, end=[5]
    )
    assert len(found) == 20
    assert set(found) == {1, 3, 4}


def test_the_frequency_penalty_counts_what_was_drawn(compute: Compute) -> None:
    # Logits 1.0, 0.8, 0.1 and 0.5 off for each time: 1.0 | 0.8 | 0.5 against 0.3 | 0.3 against 0.0
    # | 0.1 against 0.0 and -0.2.
    wish = Wish(1.0, 0.8, 0.1, -9.0)
    found = generated(wish, compute, frequency_penalty=0.5, max_new_tokens=5)
    assert found == [0, 1, 0, 1, 2]


# --- parameters -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": ()}, "prompts is empty, expected at least one"),
        ({"samples_per_prompt": 0}, "samples_per_prompt is 0, expected at least 1"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0, expected at least 1"),
        ({"temperature": -0.1}, "temperature is -0.1, expected at least 0"),
        ({"top_k": -1}, "top_k is -1, expected at least 0"),
        ({"frequency_penalty": -0.5}, "frequency_penalty is -0.5, expected at least 0"),
        ({"min_new_tokens": -1}, "min_new_tokens is -1, expected at least 0"),
        ({"top_p": 0.0}, "top_p is 0.0, expected 0 < x <= 1"),
        ({"top_p": 1.1}, "top_p is 1.1, expected 0 < x <= 1"),
    ],
)
def test_parameters_out_of_range_are_named(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**change)


def test_every_sample_carries_its_decode_settings() -> None:
    keys = "max_new_tokens min_new_tokens temperature top_k top_p frequency_penalty"
    assert set(settings().decoding()) == set(keys.split())


# --- the defect that must not come back -----------------------------------------------------------

FORGED = {  # file of samples: how many of the five are noise from beginning to end (thesis.md, G13)
    "samples_v5_main": 4,
    "samples_v5_fixed": 4,
    "samples_v5_fixed_bos": 4,
    "samples_v5_greedy": 4,
    "samples_v5_main_final": 4,
    "samples_v5_scaleplus": 3,
    "samples_v5_scaleplus2": 4,
}


@pytest.mark.shared
@pytest.mark.parametrize(("name", "equal"), FORGED.items())
def test_published_samples_of_v5_are_uniform_noise(name: str, equal: int, shared: Path) -> None:
    golden = shared / "data" / "golden"
    model = golden / "tokenizers" / "v4k_bf" / "spm_v4k_bf.model"
    processor = spm.SentencePieceProcessor(model_file=str(model))
    text = (golden / "artifacts" / "samples" / f"{name}.json").read_text("utf-8")
    [samples] = json.loads(text).values()
    found = 0
    for sample in samples:
        rng, shares = np.random.default_rng(sample["seed"]), np.full(4000, 1 / 4000)
        ids = [int(rng.choice(4000, p=shares)) for _ in range(280)]
        # The published script removed control characters.
        found += re.sub(r"[\x00-\x1f]", "", processor.decode(ids)) == sample["output"]
    assert (len(samples), found) == (5, equal)


class Loaded:
    """Gives the ids 0 to 3 the probabilities 0.1, 0.2, 0.3 and 0.4, whatever came before."""

    carries_state = True
    context_length = 4

    def __call__(self, ids_BT: torch.Tensor, state: None) -> tuple[torch.Tensor, None]:
        """Return the same logits at every place, shifted by what cancels out."""
        logits = torch.log(torch.tensor([0.1, 0.2, 0.3, 0.4])) + 7
        return logits.expand(*ids_BT.shape, 4), state

    def initial_state(self) -> None:
        """Return nothing."""


def test_a_draw_knows_what_the_model_itself_gave_it(compute: Compute) -> None:
    # At temperature 0 with the best id banned: 0.3 all the same.
    how: Any = {"seed": 0, "end": [9], "banned": [3], "compute": compute}
    found = list(draws_of(Loaded(), [0], settings(max_new_tokens=2), **how))
    assert [draw.id for draw in found] == [2, 2]
    assert [draw.probability for draw in found] == pytest.approx([0.3, 0.3])


def test_the_end_is_drawn_and_not_generated(compute: Compute) -> None:
    how: Any = {"seed": 0, "end": [3], "banned": [], "compute": compute}
    assert [draw.id for draw in draws_of(Loaded(), [0], settings(), **how)] == [3]
    assert generate(Loaded(), [0], settings(), **how) == []
