"""Which published samples are noise: golden items G12 and G13, and their controls."""

import re
from typing import Any

import pytest

from audit.check_samples import check, claim, identical
from audit.forgery import Reader
from audit.published import Published
from audit.samples import Generated, SampleSet, published_sets, tokenizers_at_hand


def sample_set(file: str, key: str, *outputs: str) -> SampleSet:
    rows = [Generated(101 + n, True, "O Brasil", text) for n, text in enumerate(outputs)]
    return SampleSet(file, key, rows)


def test_a_text_of_the_same_seed_in_two_sets_is_found():
    sets = [
        sample_set("one.json", "gru", "igual", "só aqui"),
        sample_set("two.json", "transformer", "igual", "outra"),
        sample_set("three.json", "lstm", "outra", "igual"),  # the same text of another seed
    ]

    [found] = identical(sets)
    assert (found["seed"], found["sets"]) == (101, ["one:gru", "two:transformer"])
    assert found["model_keys"] == ["gru", "transformer"]


def test_what_is_not_this_forgery_is_not_said_to_be_a_model_s():
    row = {"file": "one.json", "model_key": "gru", "of": 5, "noise": 0, "longest_prefix": 1}
    assert claim(row)["holds"] is None


def test_without_tokenizers_nothing_is_judged():
    found = check([sample_set("one.json", "gru", "texto")], {})
    assert "tokenizer v4k_bf is not at hand" in found["not_checkable"]


def test_a_prompt_is_dropped_only_from_the_start():
    prompt = Generated(101, False, "O Brasil", "O Brasil é O Brasil ")
    assert prompt.without_prompt == "é O Brasil"


# --- the published samples ------------------------------------------------------------------------

V5_MAIN, V5_FIXED = "v5_brwac_transformer_main", "v5_brwac_transformer_fixed"
RC = "v6_brwac_transformer_v6_rc16k_v5b"
NOISE = {  # set: samples that equal the forgery (thesis.md, G12 and G13), and the tokenizer
    f"samples_v5_main:{V5_MAIN}": (4, "v4k_bf"),
    f"samples_v5_greedy:{V5_MAIN}": (4, "v4k_bf"),
    f"samples_v5_main_final:{V5_MAIN}": (4, "v4k_bf"),
    f"samples_v5_fixed:{V5_FIXED}": (4, "v4k_bf"),
    f"samples_v5_fixed_bos:{V5_FIXED}": (4, "v4k_bf"),
    f"samples_v5_scaleplus:{V5_FIXED}": (3, "v4k_bf"),
    f"samples_v5_scaleplus2:{V5_FIXED}": (4, "v4k_bf"),
    "samples_v6_long:v6_brwac_transformer_v6_long": (1, "v6_16k"),
    "samples_v6_preflight_16k:v6_brwac_transformer_v6_preflight": (0, "v6_16k"),
    "samples_v6_preflight:v6_brwac_transformer_v6_long": (0, "v6_12k"),
    f"samples_v6_rc16k_v5b_TOPK_BUG:{RC}": (0, "v6_16k"),
    f"samples_v6_rc16k_v5b_backup_:{RC}": (0, "v6_16k"),
    f"samples_v6_rc16k_v5b_t07_k40_p95_fp0:{RC}": (0, "v6_16k"),
}
NOT_THIS_NOISE = (
    r"samples_brwac_.*|tmp_char:.*|samples_v5_scale:.*|samples_v5_transformer_fixed:.*"
    r"|samples_v5b_.*|samples_v6_rc16k_v5b(_aligned|_greedy|_t07_p95_nok)?:.*"
)


@pytest.fixture(scope="module")
def found(published: Published) -> dict[str, Any]:
    """Return the whole of the results."""
    readers = {name: Reader(found) for name, found in tokenizers_at_hand(published).items()}
    return check(list(published_sets(published)), readers)


@pytest.mark.shared
@pytest.mark.parametrize("name", NOISE)
def test_every_sample_of_the_buggy_sampler_is_reproduced_whole(name: str, found: dict[str, Any]):
    equal, tokenizer = NOISE[name]
    row = found["sets"][name]
    assert (row["noise"], row["equal"], row["tokenizers"]) == (5, equal, [tokenizer])
    assert row["share_from_noise"] > 0.94
    assert found["claims"][name]["holds"] is False


@pytest.mark.shared
def test_the_other_samples_share_nothing_with_the_forgery(found: dict[str, Any]):
    other = {name: row for name, row in found["sets"].items() if not row["noise"]}
    assert len(other) == 34
    assert [name for name in other if not re.fullmatch(NOT_THIS_NOISE, name)] == []
    assert max(row["longest_prefix"] for row in other.values()) == 1


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "seed", "prefix", "of"),
    [
        (f"samples_v5_main:{V5_MAIN}", "104", 457, 1353),
        ("samples_v6_preflight_16k:v6_brwac_transformer_v6_preflight", "105", 1590, 1591),
        (f"samples_v6_rc16k_v5b_TOPK_BUG:{RC}", "103", 41, 1537),
        (f"samples_v6_rc16k_v5b_TOPK_BUG:{RC}", "102", 414, 1641),
    ],
)
def test_the_prefixes_are_those_of_the_first_audit(
    name: str, seed: str, prefix: int, of: int, found: dict[str, Any]
):
    row = found["sets"][name]["samples"][seed]
    assert (row["equal_from_start"], row["characters"]) == (prefix, of)


@pytest.mark.shared
def test_one_token_of_v5_main_is_not_the_generator_s(found: dict[str, Any]):
    # "inclus" + "ário" was drawn, "inclusão" is published; the 190 tokens after it are noise again.
    samples = found["sets"][f"samples_v5_main:{V5_MAIN}"]["samples"]
    [departure] = samples["104"]["departures"]
    assert (departure["position"], departure["drawn"], departure["published"]) == (89, "ário", "ão")
    assert samples["101"]["log10_chance"] == pytest.approx(-1008.6, abs=0.1)  # 4000^-280


@pytest.mark.shared
def test_one_sample_of_v6_preflight_drew_an_end_of_document(found: dict[str, Any]):
    name = "samples_v6_preflight_16k:v6_brwac_transformer_v6_preflight"
    samples = found["sets"][name]["samples"]
    assert {seed: row["tokens"] for seed, row in samples.items() if row["stopped_early"]} == {
        "103": 227
    }
    assert samples["103"]["departures"][-1]["published"] == "</s>"


@pytest.mark.shared
def test_noise_is_never_read_with_a_wrong_seed(found: dict[str, Any]):
    control = found["control"]
    assert (control["texts"], control["tried"]) == (41, 164)
    assert (control["read_as_noise"], control["longest_prefix"]) == (0, 1)
    assert set(found["special_ids_drawn"].values()) == {0}


@pytest.mark.shared
def test_checkpoints_of_different_architectures_share_a_text(found: dict[str, Any]):
    # v5_main has 4 layers of 256, v5_scaleplus2 has 6 of 512 (thesis.md, section 3.2).
    [shared] = [r for r in found["identical"] if (r["seed"], r["characters"]) == (101, 1348)]
    files = {name.partition(":")[0] for name in shared["sets"]}
    assert {"samples_v5_main", "samples_v5_scaleplus2"} <= files
    assert shared["model_keys"] == [V5_FIXED, V5_MAIN]


@pytest.mark.shared
def test_the_departures_are_the_frequent_pieces(found: dict[str, Any]):
    # A piece that is drawn by chance has half of the vocabulary before it.
    ranks = found["departure_ranks"]["v6_16k"]
    assert ranks["median_id_published"] < 500 < 6000 < ranks["median_id_drawn"]
    assert ranks["published_among_first_500"] > 10 * ranks["first_500_of_vocabulary"]
