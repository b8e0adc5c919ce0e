"""The base in NF4 and adapters on it: what is quantised, what an adapter changes, whose it is."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from bitsandbytes.nn.modules import Linear4bit
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    Qwen2Config,
)

from cordel.adaptation import quantised
from cordel.adaptation.packing import Block, Piece, collate, pack
from cordel.adaptation.qlora import supervised_nats
from cordel.adaptation.quantised import (
    SEGMENTS,
    BaseModel,
    LoraParams,
    adapter_in,
    arm,
    count_parameters,
    head_of,
    hidden_states,
    linear4bit_layers,
    load_adapters,
    load_base,
    new_adapter,
    read_base,
    save_adapter,
    trainable_copy,
    trainable_parameters,
)
from cordel.compute import Compute, seed_everything
from cordel.runtime.errors import ArtifactError, InputError
from cordel.runtime.files import read_json, write_json

pytestmark = pytest.mark.slow  # they load transformers and quantise

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SEVEN = LoraParams(rank=4, alpha=8, dropout=0.0, targets=TARGETS)
IDS = torch.tensor([[2, 4, 300, 17, 401, 9, 33, 260, 3]])
# The tiny Llama: ids x width twice, seven matrices and two norms a layer, one norm at the end.
LAYER = 4 * 64 * 64 + 3 * 64 * 128 + 2 * 64
BASE_PARAMETERS = 2 * 420 * 64 + 2 * LAYER + 64
# A and B of rank 4 on four 64 x 64 and three 64 x 128 matrices of two layers.
LORA_PARAMETERS = 2 * 4 * (4 * (64 + 64) + 3 * (64 + 128))


@pytest.fixture
def model(base: BaseModel, cpu: Compute) -> Any:
    """Return the tiny base in NF4."""
    return load_base(base, cpu)


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    """Return the logits of a few ids."""
    return model(input_ids=IDS, use_cache=False).logits


def trained(model: Any, *, seed: int = 1) -> Any:
    """Return the model with an adapter that changes logits, as training would make it."""
    seed_everything(seed)
    adapted = new_adapter(model, SEVEN).eval()
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return adapted


@pytest.fixture(scope="module")
def two(base: BaseModel, cpu: Compute, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Return the folders and logits of two different adapters, ``one`` and ``two``."""
    found = {}
    for seed, name in enumerate(("one", "two")):
        adapted = trained(load_base(base, cpu), seed=seed)
        folder = tmp_path_factory.mktemp(name)
        save_adapter(adapted, folder, base)
        found[name] = (folder, logits(adapted))
    return found


# --- the base -------------------------------------------------------------------------------------


def test_every_linear_layer_of_the_decoder_is_quantised_and_nothing_else(model: Any) -> None:
    linear = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    quantised_names = {name for name, layer in linear.items() if isinstance(layer, Linear4bit)}
    assert linear.keys() - quantised_names == {"lm_head"}
    assert len(quantised_names) == len(linear4bit_layers(model)) == 2 * 7
    assert {p.dtype for p in model.get_input_embeddings().parameters()} == {torch.float32}
    assert head_of(model).weight.dtype == torch.float32


def test_the_layers_are_in_nf4_with_double_quantisation(model: Any) -> None:
    states = [layer.weight.quant_state for layer in linear4bit_layers(model)]
    assert {layer.weight.quant_type for layer in linear4bit_layers(model)} == {"nf4"}
    assert {(state.quant_type, state.nested) for state in states} == {("nf4", True)}


def test_four_bits_hold_two_weights_a_byte(model: Any) -> None:
    layers = linear4bit_layers(model)
    assert {layer.weight.dtype for layer in layers} == {torch.uint8}
    weights = sum(layer.in_features * layer.out_features for layer in layers)
    assert sum(layer.weight.numel() for layer in layers) * 2 == weights


def test_a_cpu_computes_in_float32(model: Any) -> None:
    assert {layer.compute_dtype for layer in linear4bit_layers(model)} == {torch.float32}


def test_a_cpu_with_bf16_units_computes_as_every_other(
    base: BaseModel, cpu: Compute, monkeypatch: pytest.MonkeyPatch
) -> None:
    # bitsandbytes would repack its weights there and round products to bfloat16.
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)
    layers = linear4bit_layers(load_base(base, cpu))
    assert {layer.support_avx512bf16_for_cpu for layer in layers} == {False}


def test_the_base_is_frozen_and_in_evaluation_mode(model: Any) -> None:
    assert trainable_parameters(model) == 0
    assert not any(module.training for module in model.modules())


def test_quantisation_changes_logits_and_can_be_left_out(
    model: Any, base: BaseModel, cpu: Compute
) -> None:
    plain = load_base(base, cpu, quantise=False)
    assert linear4bit_layers(plain) == []
    weights = load_file(Path(base.model) / "model.safetensors")
    assert torch.equal(plain.lm_head.weight, weights["lm_head.weight"])
    assert not torch.allclose(logits(model), logits(plain), atol=1e-2)


def test_a_base_that_is_gone_is_one_line_and_not_looked_up_on_the_hub(
    base: BaseModel, cpu: Compute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*words: Any, **_: Any) -> Any:
        raise AssertionError(f"asked the network for {words[0]}")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.file_download.get_hf_file_metadata", refuse)
    gone = replace(base, model="data/export")  # reads like a name on the hub
    with pytest.raises(ArtifactError, match="data/export: the base is gone"):
        load_base(gone, cpu)


def test_a_base_that_cannot_be_read_is_one_line(
    base: BaseModel, cpu: Compute, tmp_path: Path
) -> None:
    broken = replace(base, model=str(tmp_path))
    with pytest.raises(ArtifactError, match=r": cannot be read \("):
        load_base(broken, cpu)


def test_no_base_is_none(tmp_path: Path) -> None:
    write_json(tmp_path / "base.json", {"source": "none"})
    assert read_base(tmp_path) is None


# --- an adapter -----------------------------------------------------------------------------------


def test_a_new_adapter_is_trainable_and_changes_no_logit(model: Any) -> None:
    before = logits(model)
    adapted = new_adapter(model, SEVEN).eval()
    assert torch.equal(logits(adapted), before)
    assert trainable_parameters(adapted) == LORA_PARAMETERS
    trainable = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert all("lora_" in name for name in trainable)


def test_a_trained_adapter_switched_off_is_the_base(model: Any) -> None:
    before = logits(model)
    adapted = trained(model)
    with arm(adapted, "default"):
        on = logits(adapted)
    with arm(adapted, None):
        off = logits(adapted)
    assert torch.equal(off, before)
    assert not torch.allclose(on, before, atol=1e-2)
    assert torch.equal(logits(adapted), on)  # and on again behind the block


def test_a_base_without_adapters_has_only_itself_to_switch_to(model: Any) -> None:
    with arm(model, None) as found:
        assert found is model


def test_adapters_loaded_together_are_those_loaded_alone(
    model: Any, base: BaseModel, two: dict
) -> None:
    before = logits(model)
    adapted = load_adapters(model, {name: folder for name, (folder, _) in two.items()}, base)
    for name in ("two", "one", "two"):
        with arm(adapted, name):
            assert torch.equal(logits(adapted), two[name][1])
    with arm(adapted, None):
        assert torch.equal(logits(adapted), before)
    assert not torch.equal(two["one"][1], two["two"][1])


def test_loaded_adapters_are_in_evaluation_mode_and_frozen(
    model: Any, base: BaseModel, two: dict
) -> None:
    adapted = load_adapters(model, {name: folder for name, (folder, _) in two.items()}, base)
    assert not any(module.training for module in adapted.modules())
    assert trainable_parameters(adapted) == 0


def test_a_copy_is_trainable_and_begins_as_the_original(
    model: Any, base: BaseModel, two: dict
) -> None:
    folder, expected = two["one"]
    copy = trainable_copy(model, folder, base)
    assert trainable_parameters(copy) == LORA_PARAMETERS
    assert torch.equal(logits(copy.eval()), expected)


def test_rank_16_on_the_seven_projections_of_llama_8b_is_42_million_parameters() -> None:
    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config).requires_grad_(False)
        adapted = new_adapter(model, LoraParams(rank=16, alpha=32, dropout=0, targets=TARGETS))
    assert trainable_parameters(adapted) == 41_943_040
    assert count_parameters(adapted, None) == 8_030_261_248


def test_embedding_and_head_can_be_adapted_as_well(
    model: Any, base: BaseModel, cpu: Compute, tmp_path: Path
) -> None:
    before = logits(model)
    nine = replace(SEVEN, targets=(*TARGETS, "embed_tokens", "lm_head"))
    adapted = new_adapter(model, nine).eval()
    assert torch.equal(logits(adapted), before)
    assert trainable_parameters(adapted) == LORA_PARAMETERS + 2 * 4 * (420 + 64)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name or "lora_embedding_A" in name:  # of an embedding, A begins at zero
            torch.nn.init.normal_(parameter, std=0.1)
    save_adapter(adapted, tmp_path / "nine", base)
    again = load_adapters(load_base(base, cpu), {"nine": tmp_path / "nine"}, base)
    assert torch.equal(logits(again), logits(adapted))
    count = count_parameters(again, "nine")
    assert count == BASE_PARAMETERS + LORA_PARAMETERS + 2 * 4 * (420 + 64)
    with arm(again, None):
        assert torch.equal(logits(again), before)


@pytest.mark.parametrize("targets", [("c_attn",), ("q_proj", "c_attn")])
def test_a_target_that_no_layer_has_is_one_line(model: Any, targets: tuple[str, ...]) -> None:
    params = LoraParams(rank=4, alpha=8, dropout=0.0, targets=targets)
    with pytest.raises(InputError, match=r"lora\.targets names c_attn"):
        new_adapter(model, params)


def test_embedding_and_head_that_are_one_matrix_are_not_adapted(model: Any) -> None:
    params = LoraParams(rank=4, alpha=8, dropout=0.0, targets=("q_proj", "lm_head"))
    tied = type("Tied", (), {"tie_word_embeddings": True})()
    shared = SimpleNamespace(
        config=SimpleNamespace(get_text_config=lambda: tied), named_modules=model.named_modules
    )
    with pytest.raises(InputError, match="names lm_head, which are one matrix in this model"):
        new_adapter(shared, params)


# --- its files ------------------------------------------------------------------------------------


def test_an_adapter_is_three_files_and_no_card(two: dict) -> None:
    names = sorted(path.name for path in two["one"][0].iterdir())
    assert names == ["adaptation.json", "adapter_config.json", "adapter_model.safetensors"]


def test_the_configuration_names_the_base_and_its_targets_in_order(
    model: Any, base: BaseModel, tmp_path: Path
) -> None:
    of_hub = replace(base, model="meta-llama/Llama-3.1-8B", revision="d04e592b")
    save_adapter(trained(model), tmp_path, of_hub)
    config = read_json(tmp_path / "adapter_config.json")
    assert config["target_modules"] == sorted(TARGETS)
    assert config["base_model_name_or_path"] == "meta-llama/Llama-3.1-8B"
    assert config["revision"] == "d04e592b"
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (4, 8, "LORA")


def test_the_same_weights_are_the_same_bytes(
    model: Any, base: BaseModel, two: dict, tmp_path: Path
) -> None:
    folder, _ = two["one"]
    save_adapter(trainable_copy(model, folder, base), tmp_path, base)
    for path in folder.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_saving_twice_gives_the_same_bytes(model: Any, base: BaseModel, tmp_path: Path) -> None:
    adapted = trained(model)
    for name in ("first", "second"):
        save_adapter(adapted, tmp_path / name, base)
    for path in (tmp_path / "first").iterdir():
        assert (tmp_path / "second" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("take", [trainable_copy, load_adapters])
def test_an_adapter_of_another_base_is_refused(
    model: Any, base: BaseModel, two: dict, tmp_path: Path, take: Any
) -> None:
    folder = tmp_path / "foreign"
    other = replace(base, weights="0123456789abcdef")
    adapted = trained(model)
    save_adapter(adapted, folder, other)
    message = (
        rf"foreign: .* other weights \(0123456789ab\) than those of {base.model} "
        rf"\({base.weights[:12]}\)"
    )
    good = two["one"][0]
    folders: Any = folder if take is trainable_copy else {"good": good, "bad": folder}
    with pytest.raises(ArtifactError, match=message):
        take(adapted, folders, base)


def test_a_folder_is_an_adapter_or_a_base_or_an_error(
    base_folder: Path, two: dict, tmp_path: Path
) -> None:
    assert adapter_in(two["one"][0]) == two["one"][0]
    assert adapter_in(base_folder) is None
    with pytest.raises(ArtifactError, match="neither an adapter nor a base"):
        adapter_in(tmp_path)


# --- counting and calling -------------------------------------------------------------------------


def test_parameters_are_counted_as_if_not_quantised(model: Any, base: BaseModel, two: dict) -> None:
    assert count_parameters(model, None) == BASE_PARAMETERS
    adapted = load_adapters(model, {name: folder for name, (folder, _) in two.items()}, base)
    assert count_parameters(adapted, None) == BASE_PARAMETERS
    assert count_parameters(adapted, "two") == BASE_PARAMETERS + LORA_PARAMETERS


@pytest.mark.parametrize("with_adapter", [False, True])
def test_hidden_states_and_head_give_the_models_logits(model: Any, with_adapter: bool) -> None:
    adapted = trained(model) if with_adapter else model
    ids = IDS[0].tolist()
    block = Block(ids=ids, targets=ids, segments=[0] * len(ids), positions=list(range(len(ids))))
    with torch.no_grad():
        found = head_of(adapted)(hidden_states(adapted, collate([block], pad=0)))
    torch.testing.assert_close(found, logits(adapted), atol=1e-5, rtol=0)


def test_an_adapter_that_was_never_saved_is_missing(base: BaseModel, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=quantised.IDENTITY):
        load_adapters(None, {"gone": tmp_path}, base)


def test_weights_of_another_model_are_refused(
    model_folder: Path, base: BaseModel, cpu: Compute, tmp_path: Path
) -> None:
    # transformers would warn, and go on with random weights.
    shutil.copytree(model_folder, tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    save_file({f"x.{k}": v for k, v in load_file(path).items()}, path, metadata={"format": "pt"})
    with pytest.raises(ArtifactError, match=r"model: the weights lack lm_head\.weight"):
        load_base(replace(base, model=str(path.parent)), cpu)


def test_an_adapter_with_other_matrices_is_refused(
    base: BaseModel, cpu: Compute, tmp_path: Path
) -> None:
    # peft would warn, and go on with an adapter that does nothing.
    save_adapter(new_adapter(load_base(base, cpu), SEVEN), tmp_path, base)
    path = tmp_path / "adapter_model.safetensors"
    save_file({f"x.{k}": v for k, v in load_file(path).items()}, path)
    with pytest.raises(ArtifactError, match=r"adapter_model\.safetensors: not the weights of"):
        load_adapters(load_base(base, cpu), {"arm": tmp_path}, base)


# --- attention by segments ------------------------------------------------------------------------

ARCHITECTURES = {
    "llama": LlamaConfig,
    "llama, grouped": partial(LlamaConfig, num_key_value_heads=2),
    "qwen2": partial(Qwen2Config, num_key_value_heads=1),
    "mistral": partial(MistralConfig, num_key_value_heads=2, sliding_window=20),
}


def other_base(base: BaseModel, folder: Path, architecture: Any) -> BaseModel:
    """Return a base of random weights, as small as the tiny Llama."""
    config = architecture(
        vocab_size=420,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        initializer_range=0.2,
    )
    seed_everything(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return replace(base, model=str(folder))


@pytest.fixture(params=ARCHITECTURES)
def tuned(base: BaseModel, cpu: Compute, tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    """Return a base of each architecture in NF4 with an adapter that changes its logits."""
    other = other_base(base, tmp_path, ARCHITECTURES[request.param])
    return trained(load_base(other, cpu))


def some_pieces(*sizes: int) -> list[Piece]:
    """Return pieces of random ids, all of them supervised."""
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randint(6, 420, (size + 1,), generator=generator).tolist() for size in sizes]
    return [Piece(ids[:-1], ids[1:]) for ids in drawn]


PIECES = some_pieces(20, 16, 15, 9, 8)  # two blocks of 40: 20 + 16, 15 + 9 + 8 and 4 of padding
LENGTHS = [20, 16, 15, 9, 8, 4]


def packed() -> dict[str, torch.Tensor]:
    """Return the batch of all pieces."""
    batch = collate(pack(PIECES, 40), pad=0)
    assert batch["lengths"].tolist() == LENGTHS
    return batch


def alone(model: Any, piece: Piece) -> torch.Tensor:
    """Return the logits ``float[T, V]`` of a piece by itself, as transformers has them."""
    model.get_base_model().set_attn_implementation("sdpa")
    found = model(input_ids=torch.tensor([piece.ids]), use_cache=False).logits[0]
    model.get_base_model().set_attn_implementation(SEGMENTS)
    return found


@pytest.fixture
def attended(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows with the length of everything that is attended to."""
    lengths: list[int] = []
    attend = quantised.sdpa_attention_forward

    def watched(module: Any, query: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        lengths.append(query.shape[2])
        return attend(module, query, *args, **kwargs)

    monkeypatch.setattr(quantised, "sdpa_attention_forward", watched)
    return lengths


@pytest.mark.slow
@torch.no_grad()
def test_on_a_cpu_each_segment_is_attended_to_by_itself(tuned: Any, attended: list[int]) -> None:
    found = head_of(tuned)(hidden_states(tuned, packed()))
    assert attended == LENGTHS * 2  # layers
    rows = torch.cat([found[0, :36], found[1, :32]])
    expected = torch.cat([alone(tuned, piece) for piece in PIECES])
    assert expected.std() > 0.5
    torch.testing.assert_close(rows, expected, atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_of_packed_pieces_are_those_of_one_by_one(
    tuned: Any, attended: list[int], checkpointing: bool
) -> None:
    def gradients() -> dict[str, torch.Tensor]:
        found = {n: p.grad.clone() for n, p in tuned.named_parameters() if p.requires_grad}
        tuned.zero_grad()
        return found

    for piece in PIECES:
        F.cross_entropy(
            alone(tuned, piece), torch.tensor(piece.targets), reduction="sum"
        ).backward()
    expected = gradients()
    if checkpointing:
        tuned.gradient_checkpointing_enable({"use_reentrant": False})
        tuned.train()
    supervised_nats(tuned, packed()).backward()
    assert sorted(attended) == sorted(LENGTHS * 2 * (1 + checkpointing))  # layers; computed again
    found = gradients()
    assert max(gradient.abs().max() for gradient in expected.values()) > 1
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@torch.no_grad()
def test_a_piece_does_not_see_its_neighbours(tuned: Any) -> None:
    batch = packed()
    before = hidden_states(tuned, batch)
    batch["input_ids"][0, 16:20] += 1  # the end of the first piece
    batch["input_ids"][1, 15:24] += 1  # the one in the middle
    batch["input_ids"][1, 32:] += 1  # padding
    changed = (hidden_states(tuned, batch) != before).any(dim=-1)
    assert changed[0].tolist() == [False] * 16 + [True] * 4 + [False] * 16
    assert changed[1].tolist() == [False] * 15 + [True] * 9 + [False] * 8 + [True] * 4


@pytest.mark.slow
@torch.no_grad()
def test_padded_prompts_are_continued_as_they_are_alone(tuned: Any) -> None:
    # transformers drops the mask of an attention for which it knows no masks, in silence.
    short, long = PIECES[4].ids, PIECES[0].ids
    lacking = len(long) - len(short)
    how: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    together = tuned.generate(
        input_ids=torch.tensor([[0] * lacking + short, long]),
        attention_mask=torch.tensor([[0] * lacking + [1] * len(short), [1] * len(long)]),
        **how,
    )
    for row, ids in zip(together, (short, long), strict=True):
        tuned.get_base_model().set_attn_implementation("sdpa")
        expected = tuned.generate(input_ids=torch.tensor([ids]), **how)[0]
        tuned.get_base_model().set_attn_implementation(SEGMENTS)
        assert row[len(long) :].tolist() == expected[len(ids) :].tolist()


@pytest.mark.slow
@torch.no_grad()
def test_a_model_whose_layers_hand_nothing_on_keeps_the_dense_mask(
    base: BaseModel, cpu: Compute, attended: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = hidden_states(load_base(base, cpu), packed())
    assert attended == LENGTHS * 2
    monkeypatch.setattr(LlamaForCausalLM, "_supports_attention_backend", False)
    model = load_base(base, cpu)
    model.model.register_forward_pre_hook(refuse_lengths, with_kwargs=True)
    torch.testing.assert_close(hidden_states(model, packed()), expected, atol=1e-5, rtol=0)
    assert attended == LENGTHS * 2  # nothing more


def refuse_lengths(_: Any, __: Any, options: dict[str, Any]) -> None:
    """Stand for a decoder that does not take them."""
    assert "segment_lengths" not in options


def test_a_piece_longer_than_the_sliding_window_is_refused(
    base: BaseModel, cpu: Compute, tmp_path: Path
) -> None:
    narrow = partial(MistralConfig, num_key_value_heads=2, sliding_window=19)
    model = load_base(other_base(base, tmp_path, narrow), cpu)
    with pytest.raises(InputError, match=r"a piece of 20 ids .* block_length of at most 19"):
        hidden_states(model, packed())
    fitting = collate(pack(some_pieces(19, 18, 3), 37), pad=0)  # 34 places of padding do not count
    assert hidden_states(model, fitting).shape == (2, 37, 64)


def test_no_file_names_an_attention_that_others_lack(
    model: Any, base: BaseModel, tmp_path: Path
) -> None:
    assert model.config._attn_implementation == SEGMENTS
    save_adapter(trained(model), tmp_path / "adapter", base)
    model.save_pretrained(tmp_path / "model")
    files = list(tmp_path.glob("*/*.json"))
    assert {"adapter_config.json", "config.json"} <= {path.name for path in files}
    assert not [path for path in files if SEGMENTS in path.read_text(encoding="utf-8")]
