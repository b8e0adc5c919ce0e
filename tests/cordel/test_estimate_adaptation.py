"""Estimates of track 2, against hand-worked figures, the thesis' logs and our ledgers."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cordel.estimate import Calibration, StageEstimate, read_all
from cordel.estimate_adaptation import (
    HEAD_CHUNK,
    LOAD_SECONDS,
    LOGIT_SECONDS,
    NO_ADAPTER,
    SCORING,
    STEP_SECONDS,
    TRAINING,
    Adaptation,
    Generation,
    Lora,
    Reading,
    Scoring,
    assumptions,
    data_counts,
    estimate_adaptation,
    estimate_generation,
    estimate_scoring,
    estimate_track_2,
    find_base,
    forward_flops,
    training_flops,
)
from cordel.runtime.errors import InputError
from cordel.runtime.files import write_json
from cordel.sizing import LLAMA_3_1_8B, PROJECTIONS, Shape

CPU = Calibration(device="cpu", device_name="cpu", matmul_peak=1e9)
EPYC = replace(CPU, matmul_peak=104.5e9)
RTX_4090 = Calibration(
    device="cuda",
    device_name="NVIDIA GeForce RTX 4090",
    matmul_peak=165e12,  # data sheet
)
# A layer has 16 + 8 + 8 + 16 + 3 x 12 = 84 numbers, the head 40; with embedding and norms 176.
SMALL = Shape(vocab_size=10, d_model=4, n_layer=1, n_head=2, n_kv_head=1, d_ff=3, tied=False)
LORA = Lora(rank=1, targets=("q_proj", "lm_head"))  # 8 and 14 numbers
NOTHING = Reading(tokens=0, supervised=0)
JOB = Adaptation(
    shape=SMALL,
    lora=LORA,
    train=Reading(tokens=100, supervised=10),
    validation=NOTHING,
    block_length=5,
    blocks=2,
    checkpointing=False,
)


@pytest.fixture
def own(project: Path) -> dict[str, Any]:
    """Return the project's params.yaml, which is the sample's."""
    return deepcopy(read_all(project / "params.yaml"))


def of(stage: str, found: list[StageEstimate]) -> StageEstimate:
    """Return the estimate of one stage."""
    return next(e for e in found if e.stage == stage)


# --- adapters -------------------------------------------------------------------------------------


def test_adapters_of_embedding_and_head_are_counted() -> None:
    lora = Lora(rank=16, targets=(*PROJECTIONS, "embed_tokens", "lm_head"))
    sample = Shape(
        vocab_size=3072, d_model=160, n_layer=2, n_head=5, n_kv_head=5, d_ff=432, tied=False
    )
    # As in the ledger of adapt_cpt: 2 x 16 x (4 x 320 + 3 x 592) + 2 x 16 x (160 + 3072).
    assert lora.parameters(sample) == 97_792 + 103_424 == 201_216


def test_the_adapter_of_the_thesis() -> None:
    lora = Lora(rank=16, targets=PROJECTIONS)
    assert lora.parameters(LLAMA_3_1_8B) == lora.in_layers(LLAMA_3_1_8B) == 41_943_040
    assert lora.at_head(LLAMA_3_1_8B) == 0


# --- FLOPs ----------------------------------------------------------------------------------------


def test_the_head_sees_supervised_places_only() -> None:
    found = forward_flops(SMALL, LORA, Reading(tokens=100, supervised=10), 5)
    # 2 x (84 + 8) and attention's 4 x 5 x 4, and 2 x (40 + 14) where supervised.
    assert found == 100 * (184 + 80) + 10 * 108


@pytest.mark.parametrize(
    ("checkpointing", "flops"),
    [
        # 168 x 2 frozen, (16 + 80) x 3 for LoRA and attention; a head with LoRA, computed again:
        # 80 x 3 and 28 x 4.
        (False, 100 * (336 + 288) + 10 * (240 + 112)),
        (True, 100 * (504 + 384) + 10 * (240 + 112)),  # a forward more, of layers
    ],
)
def test_frozen_matrices_cost_as_much_on_the_way_back(checkpointing: bool, flops: int) -> None:
    assert training_flops(replace(JOB, checkpointing=checkpointing)) == flops


def test_a_head_without_an_adapter_is_computed_once() -> None:
    inner = replace(LORA, targets=tuple(t for t in LORA.targets if t != "lm_head"))
    with_head, without = training_flops(JOB), training_flops(replace(JOB, lora=inner))
    # 10 places: head and its LoRA 240 + 112 against 160 for the head alone.
    assert with_head - without == 10 * (240 + 112 - 160)


def test_validation_is_forward_only() -> None:
    read = Reading(tokens=50, supervised=5)
    found = training_flops(replace(JOB, validation=read)) - training_flops(JOB)
    assert found == forward_flops(SMALL, LORA, read, 5)


@pytest.mark.slow
def test_the_chunk_is_that_of_the_training() -> None:
    from cordel.adaptation import qlora  # noqa: PLC0415  (ten seconds)
    from cordel.losses import CHUNK  # noqa: PLC0415

    assert CHUNK == HEAD_CHUNK
    assert HEAD_CHUNK["cuda"] == qlora.HEAD_CHUNK


# --- one stage ------------------------------------------------------------------------------------


def test_seconds_of_a_training() -> None:
    found = estimate_adaptation("adapt_cpt", JOB, machine=CPU)
    # 65,920 FLOPs; 10 batches of 2 x 5 ids; 176 numbers to load.
    arithmetic = 65_920 / (1e9 * TRAINING["cpu"])
    expected = arithmetic + 10 * STEP_SECONDS["cpu"] + 176 * LOAD_SECONDS["cpu"]
    expected += 10 * 10 * LOGIT_SECONDS["cpu"]  # 10 supervised places of 10 logits
    assert found.seconds == pytest.approx(expected, rel=1e-9)
    assert (found.tokens, found.usd) == (100, None)


@pytest.mark.parametrize(("optimizer", "moments"), [("adamw_torch", 8), ("paged_adamw_8bit", 2)])
def test_disk_is_the_adapter_and_four_checkpoints(optimizer: str, moments: int) -> None:
    found = estimate_adaptation("adapt_cpt", replace(JOB, optimizer=optimizer), machine=CPU)
    # 22 trained numbers: 4 bytes as adapter, 4 and the moments in each checkpoint.
    assert found.disk_bytes == 22 * (4 + 4 * (4 + moments))


def test_memory_of_the_thesis_cpt_fits_its_gpu() -> None:
    # Performance facts, section 8: 9 to 11 GB without upcast and with few logits; ours are 1,024
    # places' at a time, 1.8 GB.
    found = estimate_adaptation("adapt_cpt", THESIS_CPT, machine=RTX_4090)
    assert 11e9 < found.peak_memory_bytes < 13e9


def test_without_checkpointing_there_is_no_room_on_24_gb() -> None:
    found = estimate_adaptation(
        "adapt_cpt", replace(THESIS_CPT, checkpointing=False), machine=RTX_4090
    )
    assert found.peak_memory_bytes > 24e9


def test_on_a_cpu_attention_keeps_its_scores() -> None:
    more_heads = replace(SMALL, n_head=4, n_kv_head=2)  # of the same widths
    two, four = (
        estimate_adaptation("x", replace(JOB, shape=shape), machine=CPU).peak_memory_bytes
        for shape in (SMALL, more_heads)
    )
    # Two heads more of 2 blocks of 5 x 5 scores, kept three times in 4 bytes.
    assert four - two == 2 * 2 * 25 * 3 * 4


def test_seconds_of_answers() -> None:
    job = Generation(
        shape=SMALL, lora=LORA, answers=5, prompt_tokens=3, new_tokens=7, longest=12, batch_size=2
    )
    found = estimate_generation("generate_answers@sft", job, machine=CPU, layer_seconds=0.5)
    # 15 prompt ids and 35 new ones at (184 + 4 x 3 x 4), heads for 5 and 35 at 108.
    arithmetic = (50 * 232 + 40 * 108) / (1e9 * SCORING["cpu"])
    # 3 batches of 7 steps through one layer.
    expected = 21 * 0.5 + arithmetic + 176 * LOAD_SECONDS["cpu"]
    assert found.seconds == pytest.approx(expected)
    assert found.tokens == 35


def test_a_longer_prompt_takes_its_cache_on_a_gpu_and_its_scores_on_a_cpu() -> None:
    short = Generation(
        shape=SMALL,
        lora=NO_ADAPTER,
        answers=1,
        prompt_tokens=1,
        new_tokens=1,
        longest=10,
        batch_size=2,
    )
    taken = [
        estimate_generation("x", replace(short, longest=20), machine=machine).peak_memory_bytes
        - estimate_generation("x", short, machine=machine).peak_memory_bytes
        for machine in (RTX_4090, CPU)
    ]
    # 20 positions more: keys and values of width 2, in 2 bytes or in 4; on the CPU 2 x 2 heads of
    # 20 x 20 instead of 10 x 10 scores.
    assert taken == [20 * 2 * 2 * 2, 20 * 2 * 2 * 4 + 4 * 4 * (400 - 100)]


def test_seconds_of_scoring() -> None:
    job = Scoring(
        shape=SMALL,
        lora=LORA,
        arms=3,
        blocks=Reading(tokens=100, supervised=10),
        documents=Reading(tokens=20, supervised=20),
        block_length=5,
        window=8,
        batch_size=2,
    )
    found = estimate_scoring("score_adaptation", [job, job], machine=CPU)
    bare = 100 * (168 + 80) + 10 * 80 + 20 * (168 + 128 + 80)
    adapted = 100 * (184 + 80) + 10 * 108 + 20 * (184 + 128 + 108)
    arithmetic = 2 * (bare + 2 * adapted) / (1e9 * SCORING["cpu"])
    assert found.seconds == pytest.approx(arithmetic + 2 * 176 * LOAD_SECONDS["cpu"])
    assert found.tokens == 2 * 3 * 120


# --- the thesis -----------------------------------------------------------------------------------

THESIS_CPT = Adaptation(
    shape=LLAMA_3_1_8B,
    lora=Lora(rank=16, targets=PROJECTIONS),
    train=Reading(tokens=3 * 2186 * 2048, supervised=3 * 2186 * 2048),
    validation=Reading(tokens=2 * 112 * 2048, supervised=2 * 112 * 2048),
    block_length=2048,
    blocks=2,
    checkpointing=True,
)


def test_the_thesis_cpt_on_a_4090() -> None:
    found = estimate_adaptation("adapt_cpt", THESIS_CPT, machine=RTX_4090)
    assert found.tokens == 13_430_784
    assert found.seconds == pytest.approx(8476.6, rel=0.10)  # its log (section 5.4)


@pytest.mark.parametrize(
    ("train", "block_length", "efficiency", "seconds"),
    [
        # As it was: 2.72 million padded ids, logits of all, at 20 % of the peak: 3804 s.
        (Reading(tokens=2_720_000, supervised=2_720_000), 170, 0.20, 3804),
        # Packed: 2.0 million ids, 46.8 answer ids of 16,000 examples (performance facts: 0.38 h).
        (Reading(tokens=2_000_000, supervised=748_800), 2048, None, 0.38 * 3600),
    ],
)
def test_the_thesis_sft_on_a_4090(
    train: Reading, block_length: int, efficiency: float | None, seconds: float
) -> None:
    job = replace(THESIS_CPT, train=train, validation=NOTHING, block_length=block_length)
    found = estimate_adaptation("adapt_sft", job, machine=RTX_4090, efficiency=efficiency)
    assert found.seconds == pytest.approx(seconds, rel=0.15)


@pytest.mark.parametrize(
    ("batch_size", "seconds", "tolerance"),
    # As it was (section 5.7), and 0.30 to 0.36 h by performance facts, section 8.
    [(4, 6531, 0.15), (32, 0.33 * 3600, 0.15)],
)
def test_the_thesis_answers_on_a_4090(batch_size: int, seconds: float, tolerance: float) -> None:
    job = Generation(
        shape=LLAMA_3_1_8B,
        lora=NO_ADAPTER,
        answers=3600,
        prompt_tokens=120,
        new_tokens=(32 + 160 + 160) / 3,
        longest=2048,
        batch_size=batch_size,
    )
    found = estimate_generation("generate_answers", job, machine=RTX_4090)
    assert found.seconds == pytest.approx(seconds, rel=tolerance)


# --- all stages -----------------------------------------------------------------------------------


def test_stages_of_one_base_come_in_the_order_of_the_pipeline(
    own: dict[str, Any], tmp_path: Path
) -> None:
    found, _ = estimate_track_2(own, machine=CPU, root=tmp_path)
    assert [e.stage for e in found] == [
        "adapt_cpt",
        "adapt_sft@sft",
        "adapt_sft@cpt_sft",
        "score_adaptation",
        "continue_documents",
        "generate_answers@base",
        "generate_answers@cpt",
        "generate_answers@sft",
        "generate_answers@cpt_sft",
    ]
    assert all(e.seconds > 0 and e.tokens > 0 and e.usd is not None for e in found)


def test_the_second_base_adds_its_arms(own: dict[str, Any], tmp_path: Path) -> None:
    own["base_models"]["instruct"]["source"] = "hf"  # Llama 3.1 8B
    found, _ = estimate_track_2(own, machine=CPU, root=tmp_path)
    assert {e.stage for e in found if "instruct" in e.stage} == {
        "open_base@instruct",
        "adapt_sft@instruct_sft",
        "generate_answers@instruct",
        "generate_answers@instruct_sft",
    }
    # 8,030,261,248 parameters in bfloat16.
    assert of("open_base@instruct", found).disk_bytes == 16_060_522_496


def test_what_is_opened_is_not_fetched_again(own: dict[str, Any], tmp_path: Path) -> None:
    own["base_models"]["instruct"]["source"] = "hf"
    opened = {"model": "meta-llama/Llama-3.1-8B-Instruct"}
    write_json(tmp_path / "data" / "base" / "instruct" / "base.json", opened)
    found, _ = estimate_track_2(own, machine=CPU, root=tmp_path)
    assert "open_base@instruct" not in {e.stage for e in found}


def test_without_a_base_there_is_nothing_to_do(own: dict[str, Any], tmp_path: Path) -> None:
    own["base_models"]["base"]["source"] = "none"
    assert estimate_track_2(own, machine=CPU, root=tmp_path) == ([], [])


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"source": "hf", "hub": {"model": "a/b", "revision": "main"}}, "hub.model is 'a/b'"),
        ({"path": "data/elsewhere"}, "path is data/elsewhere, which is not there"),
    ],
)
def test_a_base_of_unknown_shape_says_what_to_run(
    change: dict[str, Any], what: str, own: dict[str, Any], tmp_path: Path
) -> None:
    own["base_models"]["base"] |= change
    found, [note] = estimate_track_2(own, machine=CPU, root=tmp_path)
    assert found == []
    assert note.startswith(f"base_models.base: {what}")
    assert "`dvc repro open_base@base` first" in note


def test_an_untuned_base_answers_twice_and_a_tuned_one_ends(
    own: dict[str, Any], tmp_path: Path
) -> None:
    found, _ = estimate_track_2(own, machine=CPU, root=tmp_path)
    # 3 tasks x 3 seeds x 40 prompts, (24 + 48 + 48) / 3 new ids each.
    assert of("generate_answers@base", found).tokens == 2 * 360 * 40
    assert of("generate_answers@cpt", found).tokens == 360 * 40
    assert of("generate_answers@sft", found).tokens == round(360 * 40 * 0.76)


def test_each_arm_reads_the_test_documents_in_windows_that_overlap(
    own: dict[str, Any], tmp_path: Path
) -> None:
    before, _ = estimate_track_2(own, machine=CPU, root=tmp_path)
    own["evaluation"]["max_documents"] += 1000
    after, _ = estimate_track_2(own, machine=CPU, root=tmp_path)
    more = of("score_adaptation", after).tokens - of("score_adaptation", before).tokens
    # 4 arms, 965 / 2.8 ids a document; what a window of 256 does not hold is read twice.
    assert more == pytest.approx(4 * 1000 * (2 * 965 / 2.8 - 256), abs=1)


def test_without_a_brief_request_it_answers_once(own: dict[str, Any], tmp_path: Path) -> None:
    own["generation"]["brief_request"] = ""
    found, _ = estimate_track_2(own, machine=CPU, root=tmp_path)
    assert of("generate_answers@base", found).tokens == 360 * 40


# --- bases ----------------------------------------------------------------------------------------


def test_a_run_of_ours_has_the_shape_that_params_yaml_gives_it(
    own: dict[str, Any], tmp_path: Path
) -> None:
    base = find_base(own, "base", root=tmp_path)
    assert base is not None
    assert (base.shape.n_layer, base.shape.d_model, base.max_length) == (2, 160, 256)
    assert base.shape.vocab_size == own["tokenizers"]["unigram_v7"]["vocab_size"]


CONFIG = {
    "vocab_size": 10,
    "hidden_size": 4,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 3,
    "max_position_embeddings": 64,
}


@pytest.mark.parametrize(("max_length", "expected"), [(0, 64), (32, 32)])
def test_a_folder_of_hugging_face_says_its_shape(
    max_length: int, expected: int, own: dict[str, Any], tmp_path: Path
) -> None:
    write_json(tmp_path / "folder" / "config.json", CONFIG)
    own["base_models"]["base"] |= {"path": "folder", "max_length": max_length}
    base = find_base(own, "base", root=tmp_path)
    assert base is not None
    assert (base.shape, base.max_length) == (SMALL, expected)


def test_another_architecture_is_refused(own: dict[str, Any], tmp_path: Path) -> None:
    write_json(tmp_path / "folder" / "config.json", {"num_attention_heads": 2, "vocab_size": 10})
    own["base_models"]["base"]["path"] = "folder"
    with pytest.raises(InputError, match=r"config\.json: 'hidden_size' is missing.*Llama layout"):
        find_base(own, "base", root=tmp_path)


# --- counts ---------------------------------------------------------------------------------------


@pytest.fixture
def counted(tmp_path: Path) -> Path:
    """Return a project whose data is prepared."""
    write_json(
        tmp_path / "metrics" / "adaptation" / "cpt_data.json",
        {
            "train": {"documents": 10, "tokens": 1010},
            "evaluation": {"documents": 2, "tokens": 102},
        },
    )
    words = {"instruction": 6.0, "input": 4.0, "output": 5.0}
    sft = {"train": 80, "val": 10, "test": 20, "mean_words": words}
    write_json(tmp_path / "metrics" / "adaptation" / "sft_data.json", sft)
    items = {"items": {"qa": 7, "rewriting": 8, "summarization": 9}}
    write_json(tmp_path / "metrics" / "adaptation" / "tasks.json", items)
    return tmp_path


def test_prepared_data_gives_its_own_counts(own: dict[str, Any], counted: Path) -> None:
    base = find_base(own, "base", root=counted)
    assert base is not None
    found = data_counts(own, base, root=counted)
    # All but the first id of a document are read as targets.
    assert found.train == Reading(tokens=1000, supervised=1000)
    assert found.evaluation == Reading(tokens=100, supervised=100)
    # 17 + 1.98 x 15 ids, padded by 3 %; 1 + 1.98 x 5 of the answer.
    assert found.sft_train.tokens == pytest.approx(80 * 1.03 * 46.7)
    assert found.sft_test.supervised == pytest.approx(20 * 10.9)
    assert found.items == 24


def test_before_that_the_caps_do(own: dict[str, Any], tmp_path: Path) -> None:
    base = find_base(own, "base", root=tmp_path)
    assert base is not None
    found = data_counts(own, base, root=tmp_path)
    # 700 documents of 370 ids, a tenth to judge by; 5,000 examples; 3 x 40 x 3 items.
    assert found.train.tokens == pytest.approx(700 * 369 * 0.9)
    assert found.evaluation.tokens == pytest.approx(700 * 369 * 0.1)
    one = 1.03 * (17 + 1.98 * (35.4 + 9.7))
    assert found.sft_val.tokens == pytest.approx(5000 * 0.1 * one)
    assert found.items == 360


def test_counts_of_the_thesis(own: dict[str, Any], tmp_path: Path) -> None:
    own["base_models"]["base"]["source"] = own["corpus"]["source"] = own["sft_data"]["source"] = (
        "hf"
    )
    own["cpt_data"] |= {"documents": "train", "max_documents": 10_000, "evaluation": 0.05}
    own["corpus"]["max_documents"] = 140_000
    own["sft_data"]["max_examples"] = 10_000
    base = find_base(own, "base", root=tmp_path)
    assert base is not None
    found = data_counts(own, base, root=tmp_path)
    # Section 5.1: 2,186 blocks of 2,048; section 5.5: 46,765 answer ids in 1,000 examples.
    assert found.train.tokens == pytest.approx(2186 * 2048, rel=0.01)
    assert found.sft_test.supervised == pytest.approx(46_765, rel=0.02)


def test_a_small_corpus_limits_its_documents(own: dict[str, Any], tmp_path: Path) -> None:
    own["cpt_data"]["documents"] = "train"
    own["corpus"]["max_documents"] = 100
    base = find_base(own, "base", root=tmp_path)
    assert base is not None
    found = data_counts(own, base, root=tmp_path)
    assert found.train.tokens == pytest.approx(100 * 0.9 * 369 * 0.9)


def test_what_is_assumed_is_said(own: dict[str, Any], counted: Path, tmp_path: Path) -> None:
    assert "CPT documents" not in assumptions(own, root=counted)
    (tmp_path / "metrics" / "adaptation" / "cpt_data.json").unlink()
    assert "CPT documents (ids of each: 471 with Llama, thesis 5.1;" in assumptions(
        own, root=tmp_path
    )


# --- this machine's ledgers -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "cpu_seconds"),
    [
        ("adapt_cpt", 42.95),
        ("adapt_sft@sft", 60.14),
        ("score_adaptation", 24.22),
        ("generate_answers@base", 7.2),
        ("generate_answers@sft", 3.84),
    ],
)
def test_the_sample_took_about_that(
    stage: str, cpu_seconds: float, own: dict[str, Any], tmp_path: Path
) -> None:
    # One thread of an AMD EPYC, 2026-11-23; before any data is there.
    found, _ = estimate_track_2(own, machine=EPYC, root=tmp_path)
    assert of(stage, found).seconds == pytest.approx(cpu_seconds, rel=0.25)
