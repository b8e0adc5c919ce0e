"""Parameters, memory and FLOPs against published figures and hand-worked ones."""

from dataclasses import replace
from typing import Any

import pytest

from cordel.runtime.errors import ParamsError
from cordel.sizing import (
    LLAMA_3_1_8B,
    LLAMA_3_1_70B,
    adapter_disk_bytes,
    adapter_training_bytes,
    checkpoint_disk_bytes,
    embedding_parameters,
    full_training_bytes,
    kv_cache_bytes,
    layer_linear_parameters,
    lora_matrix_parameters,
    lora_parameters,
    nf4_bits,
    nf4_bytes,
    qlora_flops_per_token,
    qlora_peak_bytes,
    sizes,
    total_parameters,
    training_flops,
)

GB = 1e9


# --- Llama ----------------------------------------------------------------------------------------


def test_llama_8b_has_as_many_parameters_as_published() -> None:
    # Meta's checkpoint: 8,030,261,248.
    assert total_parameters(LLAMA_3_1_8B) == 8_030_261_248
    assert embedding_parameters(LLAMA_3_1_8B) == 2 * 128_256 * 4096
    # q, o: 4096 x 4096; k, v: 4096 x 1024; three of 4096 x 14336.
    assert layer_linear_parameters(LLAMA_3_1_8B) == 2 * 16_777_216 + 2 * 4_194_304 + 3 * 58_720_256


def test_llama_70b_has_as_many_parameters_as_published() -> None:
    assert total_parameters(LLAMA_3_1_70B) == 70_553_706_496


def test_a_tied_model_has_one_embedding_less() -> None:
    tied = replace(LLAMA_3_1_8B, tied=True)
    assert total_parameters(LLAMA_3_1_8B) - total_parameters(tied) == 128_256 * 4096


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_layer": 0}, "n_layer is 0, expected at least 1"),
        ({"n_head": 24}, "d_model 4096 is not a multiple of n_head 24"),
        ({"n_kv_head": 12}, "n_head 32 is not a multiple of n_kv_head 12"),
    ],
)
def test_shapes_that_cannot_be_built_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(LLAMA_3_1_8B, **change)


# --- LoRA -----------------------------------------------------------------------------------------


def test_one_matrix_at_rank_8_trains_256_times_less() -> None:
    # The thesis' example: d = k = 4096.
    assert lora_matrix_parameters(4096, 4096, 8) == 65_536
    assert 4096 * 4096 // 65_536 == 256


@pytest.mark.parametrize(
    ("rank", "parameters"),
    [
        (16, 41_943_040),  # as the thesis' own logs say
        (64, 167_772_160),  # where its text says about 16 million
    ],
)
def test_lora_on_all_seven_matrices_of_llama_8b(rank: int, parameters: int) -> None:
    assert lora_parameters(LLAMA_3_1_8B, rank) == parameters


def test_lora_on_queries_and_values_only() -> None:
    # 32 layers x 16 x ((4096 + 4096) + (4096 + 1024)).
    assert lora_parameters(LLAMA_3_1_8B, 16, ("q_proj", "v_proj")) == 32 * 16 * 13_312


def test_a_misspelt_target_is_named() -> None:
    with pytest.raises(ValueError, match="target is 'query', expected one of q_proj, k_proj"):
        lora_parameters(LLAMA_3_1_8B, 16, ("query",))


def test_a_rank_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="rank is 0, expected at least 1"):
        lora_parameters(LLAMA_3_1_8B, 0)


# --- models from scratch --------------------------------------------------------------------------

LSTM: dict[str, Any] = {"cell": "lstm", "n_layer": 1, "layer_norm": False}
GRU: dict[str, Any] = {"cell": "gru", "n_layer": 2, "layer_norm": False}


@pytest.mark.parametrize(
    ("model", "vocab_size", "parameters"),
    [
        (LSTM | {"d_embedding": 64, "d_model": 256}, 277, 417_621),  # v1
        (LSTM | {"d_embedding": 256, "d_model": 512}, 277, 1_787_925),  # v2
        (
            LSTM | {"d_embedding": 256, "d_model": 512, "n_layer": 2, "layer_norm": True},
            277,
            3_889_173,  # v3
        ),
        (GRU | {"d_embedding": 512, "d_model": 512}, 3200, 6_431_872),  # v4_subword
        (GRU | {"d_embedding": 512, "d_model": 512}, 4000, 7_251_872),  # v4k_bf_ep2
        (
            GRU | {"d_embedding": 512, "d_model": 512, "cell": "lstm"},
            4000,
            8_298_400,  # v4k_bf_lstm_ep2
        ),
    ],
)
def test_the_thesis_recurrent_models(model: Any, vocab_size: int, parameters: int) -> None:
    found = sizes("rnn", model, vocab_size=vocab_size, context_length=160)
    assert found.parameters == parameters


@pytest.mark.parametrize(
    ("n_layer", "d_model", "vocab_size", "context_length", "parameters"),
    [
        (6, 384, 4000, 320, 12_310_432),  # v5, first try
        (4, 256, 4000, 256, 4_253_088),  # v5_main
        (6, 512, 4000, 384, 21_163_936),  # v5_scaleplus2
        (6, 320, 11_294, 256, 11_105_694),  # v5b_long
        (6, 512, 14_500, 256, 26_484_900),  # v6_long
        (6, 320, 14_500, 256, 12_134_820),  # v6_rc16k_v5b
    ],
)
def test_the_thesis_transformers(
    n_layer: int, d_model: int, vocab_size: int, context_length: int, parameters: int
) -> None:
    model = {"n_layer": n_layer, "d_model": d_model, "d_ff": 4 * d_model, "n_head": 8}
    found = sizes("gpt", model, vocab_size=vocab_size, context_length=context_length)
    assert found.parameters == parameters


def test_v7_of_the_sample_as_its_ledger_counts_it() -> None:
    model = {"d_model": 160, "n_layer": 2, "n_head": 5, "d_ff": 432, "tied": False}
    found = sizes("llama", model, vocab_size=3072, context_length=128)
    assert found.parameters == 1_603_360


def test_forward_flops_are_twice_the_matrices_and_half_the_attention() -> None:
    # One layer of width 2, feed-forward 3, vocabulary 5: 4 x 4 + 2 x 6 and 10 numbers.
    model = {"n_layer": 1, "d_model": 2, "d_ff": 3, "n_head": 1}
    found = sizes("gpt", model, vocab_size=5, context_length=7)
    assert (found.hidden, found.head) == (28, 10)
    # Scores and values: 2 products x 2 FLOPs x width 2 x 7 positions, half of them masked: 28.
    assert found.forward_flops(7) == 2 * 38 + 28


def test_a_recurrent_step_costs_the_same_at_any_length() -> None:
    model = LSTM | {"d_embedding": 3, "d_model": 2}
    found = sizes("rnn", model, vocab_size=5, context_length=7)
    # Four gates of 2 x (3 + 2) numbers, and 2 x 5 of the output.
    assert found.forward_flops(7) == found.forward_flops(700) == 2 * (40 + 10)


def test_an_unknown_architecture_is_named() -> None:
    with pytest.raises(ParamsError, match="architecture is 'mamba', expected one of gpt"):
        sizes("mamba", {}, vocab_size=5, context_length=7)


# --- memory ---------------------------------------------------------------------------------------


def test_training_7b_in_full_takes_112_gb() -> None:
    assert full_training_bytes(7_000_000_000) == 112 * GB


@pytest.mark.parametrize(("double", "bits"), [(True, 4.126953125), (False, 4.5)])
def test_nf4_carries_its_constants(double: bool, bits: float) -> None:
    assert nf4_bits(double_quantisation=double) == bits


def test_nf4_of_the_matrices_of_llama_8b() -> None:
    # 6,979,321,856 / 8 = 872,415,232; x 4 and x 65/512 for the constants.
    assert nf4_bytes(32 * 218_103_808) == 3_489_660_928 + 110_755_840


def test_the_thesis_16_3_gb_of_lora() -> None:
    found = adapter_training_bytes(8_000_000_000, 16_000_000, base_bytes=2)
    assert found == 16.256 * GB
    # With the parameters that r = 64 really has.
    real = adapter_training_bytes(8_000_000_000, lora_parameters(LLAMA_3_1_8B, 64), base_bytes=2)
    assert round(real / GB, 1) == 18.7


def test_the_thesis_43_4_gb_of_qlora_on_70b() -> None:
    # 35 GB of 4 bits, 200 MB of adapter, 200 MB of gradient, 8 GB: no constants, no optimizer.
    found = adapter_training_bytes(
        70_000_000_000, 50_000_000, base_bytes=0.5, adapter_bytes=8, overhead=8_000_000_000
    )
    assert found == 43.4 * GB
    # With both, and the 207 million parameters of r = 16.
    real = adapter_training_bytes(
        70_000_000_000,
        lora_parameters(LLAMA_3_1_70B, 16),
        base_bytes=nf4_bits() / 8,
        overhead=8_000_000_000,
    )
    assert round(real / GB, 1) == 47.4


@pytest.mark.parametrize(
    ("head_chunk", "upcast", "low", "high"),
    [(128, False, 9, 11), (None, False, 16, 20), (None, True, 16, 20)],
)
def test_qlora_of_8b_at_2_x_2048(
    head_chunk: int | None, upcast: bool, low: float, high: float
) -> None:
    parts = qlora_peak_bytes(
        LLAMA_3_1_8B, tokens=2 * 2048, rank=16, head_chunk=head_chunk, upcast=upcast
    )
    assert low <= sum(parts.values()) / GB <= high


def test_the_parts_of_the_peak() -> None:
    parts = qlora_peak_bytes(LLAMA_3_1_8B, tokens=4096, rank=16)
    assert parts["base"] == 3_600_416_768
    assert parts["embeddings"] == 2 * 2 * 128_256 * 4096
    assert parts["adapter"] == 16 * 41_943_040
    assert parts["checkpoints"] == 32 * 4096 * 8192
    assert parts["logits"] == 14 * 4096 * 128_256
    # 7 x 4096 + 2 x 1024 + 4 x 14336 activations, 6 x 4096 + 14336 inputs of LoRA and
    # 2 x 14336 gradients a token; one matrix of 4096 x 14336.
    assert parts["recompute"] == 2 * (4096 * (88_064 + 38_912 + 28_672) + 58_720_256)


def test_a_chunk_longer_than_the_batch_saves_nothing() -> None:
    whole = qlora_peak_bytes(LLAMA_3_1_8B, tokens=100, rank=16)
    assert qlora_peak_bytes(LLAMA_3_1_8B, tokens=100, rank=16, head_chunk=128) == whole


def test_the_key_value_cache_of_llama_8b() -> None:
    # 2 x 32 layers x 8 heads x 128 x 2 bytes.
    assert kv_cache_bytes(LLAMA_3_1_8B, 1) == 131_072
    assert kv_cache_bytes(LLAMA_3_1_8B, 10, bytes_per_value=4) == 2_621_440


# --- FLOPs and disk -------------------------------------------------------------------------------


def test_six_n_d() -> None:
    assert training_flops(8_000_000_000, 13_430_784) == 6 * 8_000_000_000 * 13_430_784


@pytest.mark.parametrize(("checkpointing", "gigaflops"), [(True, 45.0), (False, 30.0)])
def test_a_frozen_base_costs_4_n_and_its_recomputation_2_n_more(
    checkpointing: bool, gigaflops: float
) -> None:
    found = qlora_flops_per_token(LLAMA_3_1_8B, checkpointing=checkpointing)
    assert found / 1e9 == pytest.approx(gigaflops, rel=0.001)


def test_the_thesis_cpt_log_counts_the_same_flops() -> None:
    # total_flos of its log over its 13,430,784 tokens: 45.3 G, adapter included.
    logged = 6.081621006986772e17 / 13_430_784
    found = qlora_flops_per_token(LLAMA_3_1_8B, checkpointing=True) + 6 * 41_943_040
    assert found == pytest.approx(logged, rel=1e-3)


def test_what_lies_on_disk() -> None:
    assert adapter_disk_bytes(41_943_040) == 167_772_160
    assert checkpoint_disk_bytes(1_000) == 16_000
