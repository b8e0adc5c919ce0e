"""``cordel estimate``, track 2: what each stage of the adaptation takes before it runs.

Seconds are FLOPs / (matmul peak of the machine x the share of it that such a stage reaches), plus
a time that each generated id waits for each layer. FLOPs follow the code of ``adaptation``: packed
blocks whose attention is dense, a head that sees supervised places only, frozen matrices.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cordel.estimate import (
    CUDA_BASE_BYTES,
    HEAD_CHUNK,
    WEB,
    Calibration,
    StageEstimate,
    dataset_counts,
    is_made,
    price_of,
    priced,
)
from cordel.runtime.errors import ArtifactError, InputError
from cordel.runtime.files import read_json
from cordel.sizing import (
    LLAMA_3_1_8B,
    LOGIT_BYTES,
    PROJECTIONS,
    Shape,
    adapter_disk_bytes,
    adapter_training_bytes,
    embedding_parameters,
    kv_cache_bytes,
    layer_linear_parameters,
    lora_matrix_parameters,
    lora_parameters,
    nf4_bytes,
    qlora_peak_bytes,
    total_parameters,
)

# Shares of the peak. CUDA: the thesis' CPT on an RTX 4090 (section 5.4): 8476.6 s for 13.43 million
# ids of 47.5 GFLOP. CPU: the ledgers of the sample and of ptbr (one thread of an AMD EPYC, float32,
# 104.5 GFLOP/s, CPU seconds, 2026-11-23).
TRAINING = {"cuda": 0.46, "cpu": 0.52}
SCORING = {"cuda": 0.46, "cpu": 0.45}
# A step of Trainer beside its arithmetic: hooks, logs, the optimiser. Same ledgers; on CUDA part of
# the share above. An evaluation's batch takes a third.
STEP_SECONDS = {"cuda": 0.0, "cpu": 0.025}
# Of a logit: cross-entropy, hits and the gradient. Same ledgers; an evaluation takes half.
LOGIT_SECONDS = {"cuda": 0.0, "cpu": 5.0e-9}
# Seconds a layer takes for a batch's next ids beside their arithmetic. CUDA: 65 ms through 32
# layers in NF4 (thesis 5.7: 60 to 70 whatever the batch); CPU: the same ledgers.
DECODE_SECONDS_PER_LAYER = {"cuda": 0.065 / 32, "cpu": 2.2e-3}
# Reading and quantising the base, a parameter. CPU: measured 38 ms a million; CUDA: assumed, 16 GB
# of bfloat16 at 0.5 GB/s.
LOAD_SECONDS = {"cuda": 4.0e-9, "cpu": 3.8e-8}
DOWNLOAD_BYTES_PER_SECOND = 100e6  # assumed

# transformers, peft, bitsandbytes and the data, before any model. Same ledgers.
CPU_BYTES = {"train": 680_000_000, "score": 750_000_000, "generate": 510_000_000}
SAVED_CHECKPOINTS = 4  # Trainer keeps three, the best among them, while it writes the next
TUNED_STEPS = 0.76  # until a batch of 32 has ended, of those allowed (sample: 0.82 and 0.71)
UNTUNED_STEPS = 1.0  # a base does not end by itself; nor does CPT teach it
ANSWER_BYTES = 6  # an id, as text

# --- What is assumed of data that is not there yet ------------------------------------------------

# Ids of a document with begin and end. The sample's reserved registers, measured. Hub: the thesis'
# 2,186 + 112 blocks of 2,048 ids from 10,000 documents (section 5.1).
SAMPLE_DOCUMENT, HUB_DOCUMENT = 370.0, (2186 + 112) * 2048 / 10_000
OWN_DOCUMENT = WEB.document_characters / WEB.characters_per_piece
PADDED_CONVERSATIONS = 1.03  # packed blocks of one batch differ (sample 1.05, Canarim at 512: 1.01)
# Ids a word: the sample's v7 (3,072 pieces), Canarim with v7 of ptbr (8,192) and with Llama (the
# thesis: 46.8 ids an answer of 27.5 words, section 5.5).
SAMPLE_WORD, OWN_WORD, HUB_WORD = 1.98, 1.52, 1.65
OWN_TEMPLATE, HUB_TEMPLATE = 17, 36  # ids of the chat format around prompt and answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """Mean words of a data set of instructions."""

    question: float  # instruction and input, of SFT
    answer: float
    prompt: float  # of the tasks, whose choice makes them longer or shorter


SAMPLE_WORDS = Words(question=35.4, answer=9.7, prompt=36.4)
CANARIM_WORDS = Words(question=29.0, answer=27.5, prompt=65.8)

# --- The arms, as in dvc.yaml ---------------------------------------------------------------------

CPT, SFT_BASE = "cpt", {"sft": "base", "cpt_sft": "base", "instruct_sft": "instruct"}
ARM_BASE = {"base": "base", CPT: "base", "sft": "base", "cpt_sft": "base"} | {
    "instruct": "instruct",
    "instruct_sft": "instruct",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A base model that is configured."""

    shape: Shape
    max_length: int
    hub: str  # the model's name there; "" for a folder
    run: str  # of `models`; "" if it is not one of ours
    ids_per_word: float
    template: int  # ids around a message and its answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """The adapter, as in the section ``lora``."""

    rank: int
    targets: tuple[str, ...]

    def in_layers(self, shape: Shape) -> int:
        """Return its numbers in the layers, which every id passes."""
        chosen = [name for name in self.targets if name in PROJECTIONS]
        return lora_parameters(shape, self.rank, chosen)

    def at_head(self, shape: Shape) -> int:
        """Return its numbers beside the output matrix, which supervised places pass."""
        return self._vocabulary(shape) if "lm_head" in self.targets else 0

    def parameters(self, shape: Shape) -> int:
        """Return all its numbers, those beside the embedding (a look-up) included."""
        embedding = self._vocabulary(shape) if "embed_tokens" in self.targets else 0
        return self.in_layers(shape) + self.at_head(shape) + embedding

    def _vocabulary(self, shape: Shape) -> int:
        return lora_matrix_parameters(shape.d_model, shape.vocab_size, self.rank)


NO_ADAPTER = Lora(rank=1, targets=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Ids that pass a model in packed blocks, and those of them that are supervised."""

    tokens: float
    supervised: float

    def times(self, factor: float) -> "Reading":
        """Return it ``factor`` times."""
        return Reading(tokens=self.tokens * factor, supervised=self.supervised * factor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptation:
    """One QLoRA training, in plain numbers: those of the sections ``cpt`` and ``sft``."""

    shape: Shape
    lora: Lora
    train: Reading  # all epochs, padding included
    validation: Reading  # all evaluations together
    block_length: int
    blocks: int  # a microbatch
    checkpointing: bool
    optimizer: str = "adamw_torch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What ``generate_answers`` of one arm or ``continue_documents`` writes, in plain numbers."""

    shape: Shape
    lora: Lora
    answers: int
    prompt_tokens: float  # mean, padding included
    new_tokens: float  # mean of the longest answer in each batch
    longest: int  # prompt and answer together, at most: the first batch may hold such
    batch_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """What ``score_adaptation`` reads with one base and the arms on it."""

    shape: Shape
    lora: Lora
    arms: int
    blocks: Reading  # the two evaluation splits
    documents: Reading  # the common test documents, in windows
    block_length: int
    window: int  # ids of a window of the documents
    batch_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Tokens of the adaptation's data for one base, real or assumed."""

    train: Reading  # one epoch of CPT
    evaluation: Reading
    sft_train: Reading
    sft_val: Reading
    sft_test: Reading
    items: int  # task prompts, all seeds
    prompt_tokens: float


# --- FLOPs ----------------------------------------------------------------------------------------


def forward_flops(shape: Shape, lora: Lora, read: Reading, context: float) -> float:
    """Return the FLOPs of one pass: 2 a weight, and 4 T d a layer of dense attention.

    Args:
        shape: Of the base.
        lora: The adapter that is switched on.
        read: What passes.
        context: Positions that each id is compared with (T): a packed block's length, whatever the
            mask hides. A CPU attends by segments since its shares of the peak were measured, so
            that its trainings take less time than is estimated.
    """
    layers = 2 * (shape.n_layer * layer_linear_parameters(shape) + lora.in_layers(shape))
    attention = 4 * context * shape.d_model * shape.n_layer
    head = 2 * (shape.vocab_size * shape.d_model + lora.at_head(shape))
    return read.tokens * (layers + attention) + read.supervised * head


def training_flops(job: Adaptation) -> float:
    """Return the FLOPs of training: a forward and, for frozen matrices, as much on the way back.

    What has weights of its own to learn (LoRA), and attention, takes twice that on the way back.
    Recomputation adds a forward: of layers with gradient checkpointing, and of a head with an
    adapter of its own.
    """
    shape, lora, read = job.shape, job.lora, job.train
    frozen = 2 * shape.n_layer * layer_linear_parameters(shape)
    learning = 2 * lora.in_layers(shape) + 4 * job.block_length * shape.d_model * shape.n_layer
    again = int(job.checkpointing)
    head, head_lora = 2 * shape.vocab_size * shape.d_model, 2 * lora.at_head(shape)
    return (
        read.tokens * (frozen * (2 + again) + learning * (3 + again))
        + read.supervised * (head * (3 if head_lora else 2) + head_lora * 4)
        + forward_flops(shape, lora, job.validation, job.block_length)
    )


def _supervised_at_once(job: Adaptation) -> float:
    share = job.train.supervised / job.train.tokens if job.train.tokens else 0
    return job.blocks * job.block_length * share


# --- One stage ------------------------------------------------------------------------------------


def estimate_adaptation(
    stage: str, job: Adaptation, *, machine: Calibration, efficiency: float | None = None
) -> StageEstimate:
    """Return the estimate of ``adapt_cpt`` or ``adapt_sft``, without a price.

    Args:
        stage: Its name with its item.
        job: What is trained on what.
        machine: From ``calibrate``, or a data sheet's peak.
        efficiency: Share of the peak; by default ``TRAINING`` of the device.
    """
    share = efficiency or TRAINING[machine.device]
    trained = job.lora.parameters(job.shape)
    batches = (job.train.tokens + job.validation.tokens / 3) / (job.blocks * job.block_length)
    logits = (job.train.supervised + job.validation.supervised / 2) * job.shape.vocab_size
    seconds = _loading(job.shape, machine) + batches * STEP_SECONDS[machine.device]
    seconds += logits * LOGIT_SECONDS[machine.device]
    moments = 2 if "8bit" in job.optimizer else 8
    return StageEstimate(
        stage=stage,
        tokens=round(job.train.tokens),
        seconds=seconds + training_flops(job) / (machine.matmul_peak * share),
        peak_memory_bytes=_training_memory(job, machine, trained, moments),
        disk_bytes=adapter_disk_bytes(trained) + SAVED_CHECKPOINTS * (4 + moments) * trained,
        usd=None,
    )


def _training_memory(job: Adaptation, machine: Calibration, trained: int, moments: int) -> int:
    """Return the peak of ``qlora_peak_bytes``, in float32 on a CPU, with this adapter and head."""
    on_cpu = machine.device == "cpu"
    shape, tokens = job.shape, job.blocks * job.block_length
    parts = qlora_peak_bytes(shape, tokens=tokens, rank=job.lora.rank, upcast=on_cpu)
    chunk = HEAD_CHUNK["cuda" if job.lora.at_head(shape) else machine.device]
    at_once = round(min(_supervised_at_once(job), chunk))
    parts["logits"] = LOGIT_BYTES * at_once * shape.vocab_size
    parts["adapter"] = adapter_training_bytes(0, trained, base_bytes=0, adapter_bytes=8 + moments)
    if not job.checkpointing:
        # Every layer keeps what one would compute again.
        parts["recompute"] *= shape.n_layer
        parts["checkpoints"] = 0
    if on_cpu:
        parts["context"] = CPU_BYTES["train"]
        # Attention's scores, weights and their gradient, which CUDA's kernels do not store.
        heads = shape.n_head * (1 if job.checkpointing else shape.n_layer)
        parts["attention"] = 3 * 4 * heads * tokens * job.block_length
        parts["recompute"] *= 2
        parts["checkpoints"] *= 2
    return sum(parts.values())


def estimate_generation(
    stage: str, job: Generation, *, machine: Calibration, layer_seconds: float | None = None
) -> StageEstimate:
    """Return the estimate of a stage that generates, without a price: prompts, then id by id.

    Args:
        stage: Its name with its item.
        job: What is generated by what.
        machine: From ``calibrate``, or a data sheet's peak.
        layer_seconds: An id's step through one layer beside its arithmetic; by default
            ``DECODE_SECONDS_PER_LAYER`` of the device.
    """
    floor = layer_seconds or DECODE_SECONDS_PER_LAYER[machine.device]
    reached = machine.matmul_peak * SCORING[machine.device]
    steps = -(-job.answers // job.batch_size) * job.new_tokens
    prompts = Reading(tokens=job.answers * job.prompt_tokens, supervised=job.answers)
    generated = job.answers * job.new_tokens
    answers = Reading(tokens=generated, supervised=generated)
    arithmetic = forward_flops(job.shape, job.lora, prompts, job.prompt_tokens)
    arithmetic += forward_flops(job.shape, job.lora, answers, job.prompt_tokens)
    return StageEstimate(
        stage=stage,
        tokens=round(generated),
        seconds=_loading(job.shape, machine)
        + arithmetic / reached
        + steps * floor * job.shape.n_layer,
        peak_memory_bytes=_generation_memory(job, machine),
        disk_bytes=round(ANSWER_BYTES * generated),
        usd=None,
    )


def _generation_memory(job: Generation, machine: Calibration) -> int:
    """Return model and cache; on a CPU, also the scores of one layer's attention to the prompt."""
    on_cpu = machine.device == "cpu"
    positions = job.batch_size * job.longest
    cache = kv_cache_bytes(job.shape, positions, bytes_per_value=4 if on_cpu else 2)
    scores = 4 * job.shape.n_head * positions * job.longest if on_cpu else 0
    return _model_memory(job.shape, job.lora, machine, "generate") + cache + scores


def estimate_scoring(stage: str, jobs: list[Scoring], *, machine: Calibration) -> StageEstimate:
    """Return the estimate of ``score_adaptation`` over all bases, without a price."""
    flops = 0.0
    for job in jobs:
        for adapter in [NO_ADAPTER, *[job.lora] * (job.arms - 1)]:
            flops += forward_flops(job.shape, adapter, job.blocks, job.block_length)
            flops += forward_flops(job.shape, adapter, job.documents, job.window)
    loading = sum(_loading(job.shape, machine) for job in jobs)
    return StageEstimate(
        stage=stage,
        tokens=round(sum(job.arms * (job.blocks.tokens + job.documents.tokens) for job in jobs)),
        seconds=loading + flops / (machine.matmul_peak * SCORING[machine.device]),
        peak_memory_bytes=max(
            _model_memory(job.shape, job.lora, machine, "score")
            + LOGIT_BYTES * job.batch_size * job.window * job.shape.vocab_size
            for job in jobs
        ),
        disk_bytes=0,
        usd=None,
    )


def _model_memory(shape: Shape, lora: Lora, machine: Calibration, kind: str) -> int:
    """Return the base in NF4 with its embeddings, an adapter in float32, and what runs them."""
    on_cpu = machine.device == "cpu"
    layers = nf4_bytes(shape.n_layer * layer_linear_parameters(shape))
    embeddings = embedding_parameters(shape) * (4 if on_cpu else 2)
    context = CPU_BYTES[kind] if on_cpu else CUDA_BASE_BYTES
    return layers + embeddings + 4 * lora.parameters(shape) + context


def _loading(shape: Shape, machine: Calibration) -> float:
    return LOAD_SECONDS[machine.device] * total_parameters(shape)


# --- All stages -----------------------------------------------------------------------------------


def estimate_track_2(
    params: Mapping[str, Any], *, machine: Calibration, root: Path = Path()
) -> tuple[list[StageEstimate], list[str]]:
    """Return the estimates of track 2 in the order of the pipeline, and notes on what they rest on.

    Arms whose base has source ``none`` are left out. So are those of a base whose shape is not
    known yet; a note then says what to run first.

    Args:
        params: All of params.yaml.
        machine: From ``calibrate``, or a data sheet's peak.
        root: Of the project; ``metrics/adaptation`` below it gives real counts.

    Raises:
        InputError: A local base has no readable config.json.
    """
    price, _ = price_of(params, machine)
    bases: dict[str, Base] = {}
    notes: list[str] = []
    for key, section in params["base_models"].items():
        base = find_base(params, key, root=root)
        if base is not None:
            bases[key] = base
        elif section["source"] != "none":
            notes.append(_what_first(key, section))
    if bases:
        notes.append(assumptions(params, root=root))
    found = [
        *_downloads(bases, root),
        *_trainings(params, bases, machine, root),
        *_scorings(params, bases, machine, root),
        *_continuations(params, bases, machine),
        *_generations(params, bases, machine, root),
    ]
    return [priced(e, price) for e in found], notes


def _downloads(bases: Mapping[str, Base], root: Path) -> Iterator[StageEstimate]:
    """Yield what ``open_base`` fetches of the hub, unless it did."""
    for key, base in bases.items():
        if not base.hub or _opened(key, root).get("model") == base.hub:
            continue
        size = 2 * total_parameters(base.shape)  # bfloat16
        yield StageEstimate(
            stage=f"open_base@{key}",
            tokens=0,
            seconds=size / DOWNLOAD_BYTES_PER_SECOND,
            peak_memory_bytes=CUDA_BASE_BYTES,
            disk_bytes=size,
            usd=None,
        )


def _trainings(
    params: Mapping[str, Any], bases: Mapping[str, Base], machine: Calibration, root: Path
) -> Iterator[StageEstimate]:
    if "base" in bases:
        counts = data_counts(params, bases["base"], root=root)
        job = _training(params, "cpt", bases["base"], counts.train, counts.evaluation)
        yield estimate_adaptation("adapt_cpt", job, machine=machine)
    for arm, key in SFT_BASE.items():
        if key in bases:
            counts = data_counts(params, bases[key], root=root)
            job = _training(params, "sft", bases[key], counts.sft_train, counts.sft_val)
            yield estimate_adaptation(f"adapt_sft@{arm}", job, machine=machine)


def _training(
    params: Mapping[str, Any], name: str, base: Base, train: Reading, val: Reading
) -> Adaptation:
    section = params[name]
    return Adaptation(
        shape=base.shape,
        lora=_lora(params),
        train=train.times(section["epochs"]),
        validation=val.times(section["evaluations"] + 1),  # one before the first step
        block_length=min(section["block_length"], base.max_length),
        blocks=section["batch_size"],
        checkpointing=section["gradient_checkpointing"],
        optimizer=section["optimizer"],
    )


def _scorings(
    params: Mapping[str, Any], bases: Mapping[str, Base], machine: Calibration, root: Path
) -> Iterator[StageEstimate]:
    section, jobs = params["scoring_adaptation"], []
    for key, base in bases.items():
        counts = data_counts(params, base, root=root)
        splits = counts.evaluation, counts.sft_test
        documents = params["evaluation"]["max_documents"]
        jobs.append(
            Scoring(
                shape=base.shape,
                lora=_lora(params),
                arms=sum(of == key for of in ARM_BASE.values()),
                blocks=Reading(
                    tokens=sum(read.tokens for read in splits),
                    supervised=sum(read.supervised for read in splits),
                ),
                documents=_windows(_document(params, base, root), base.max_length).times(documents),
                block_length=min(section["block_length"], base.max_length),
                window=base.max_length,
                batch_size=section["batch_size"],
            )
        )
    if jobs:
        yield estimate_scoring("score_adaptation", jobs, machine=machine)


def _windows(document: float, context: int) -> Reading:
    """Return what is read of a document of so many ids: windows overlap by half, all is scored."""
    read = document if document <= context else 2 * document - context
    return Reading(tokens=read, supervised=read)


def _generations(
    params: Mapping[str, Any], bases: Mapping[str, Base], machine: Calibration, root: Path
) -> Iterator[StageEstimate]:
    section = params["generation"]
    limits = section["max_new_tokens"].values()
    for arm, key in ARM_BASE.items():
        if key not in bases:
            continue
        base, untuned = bases[key], arm == key
        counts = data_counts(params, base, root=root)
        asked = 2 if untuned and section["brief_request"] else 1
        ends = TUNED_STEPS if arm in SFT_BASE else UNTUNED_STEPS
        job = Generation(
            shape=base.shape,
            lora=NO_ADAPTER if untuned else _lora(params),
            answers=asked * counts.items,
            prompt_tokens=min(counts.prompt_tokens, base.max_length),
            new_tokens=ends * sum(limits) / len(limits),
            longest=base.max_length,
            batch_size=section["batch_size"],
        )
        yield estimate_generation(f"generate_answers@{arm}", job, machine=machine)


def _continuations(
    params: Mapping[str, Any], bases: Mapping[str, Base], machine: Calibration
) -> Iterator[StageEstimate]:
    if "base" in bases:
        section, base = params["continuation"], bases["base"]
        prompt = min(section["prompt_tokens"], base.max_length)
        job = Generation(
            shape=base.shape,
            lora=_lora(params),
            answers=2 * section["documents"],  # base and cpt
            prompt_tokens=prompt,
            new_tokens=section["new_tokens"],
            longest=prompt + section["new_tokens"],
            batch_size=section["documents"],
        )
        yield estimate_generation("continue_documents", job, machine=machine)


def _lora(params: Mapping[str, Any]) -> Lora:
    return Lora(rank=params["lora"]["rank"], targets=tuple(params["lora"]["targets"]))


# --- Bases ----------------------------------------------------------------------------------------


def find_base(params: Mapping[str, Any], key: str, *, root: Path) -> Base | None:
    """Return the base ``key`` of ``base_models``, or None if there is none or it is not known yet.

    Raises:
        InputError: A local base has no readable config.json.
    """
    section = params["base_models"][key]
    if section["source"] == "none":
        return None
    run = hub = ""
    if section["source"] == "hf":
        hub = section["hub"]["model"]
        shape, longest = _hub_shape(key, hub, root)
    elif run := _own_run(params, section["path"]):
        shape, longest = _run_shape(params, run, root)
    else:
        config = root / section["path"] / "config.json"
        shape, longest = _configured(config) if config.exists() else (None, 0)
    if shape is None:
        return None
    own = SAMPLE_WORD if _is_sample(params) else OWN_WORD
    return Base(
        shape=shape,
        max_length=section["max_length"] or longest,
        hub=hub,
        run=run,
        ids_per_word=own if run else HUB_WORD,
        template=OWN_TEMPLATE if run else HUB_TEMPLATE,
    )


def _is_sample(params: Mapping[str, Any]) -> bool:
    return params["corpus"]["source"] == "sample"


def _what_first(key: str, section: Mapping[str, Any]) -> str:
    if section["source"] == "hf":
        what = f"hub.model is {section['hub']['model']!r}, whose shape is not known here"
    else:
        what = f"path is {section['path']}, which is not there"
    return (
        f"base_models.{key}: {what}, so its arms are left out; `dvc repro open_base@{key}` first, "
        "then estimate again"
    )


def _own_run(params: Mapping[str, Any], path: str) -> str:
    """Return the run of ``models`` that export_model writes to ``path``, or ""."""
    name = Path(path).name
    return name if name in params["models"] and Path(path) == Path("data/export", name) else ""


def _run_shape(params: Mapping[str, Any], name: str, root: Path) -> tuple[Shape, int]:
    """Return shape and context of a run, of a Llama layout as all that is exported.

    What params.yaml says holds before it is trained, and after its profile was changed.
    """
    run = params["models"][name]
    model = run["model"]
    shape = Shape(
        vocab_size=dataset_counts(params, run["dataset"], root=root).vocab_size,
        d_model=model["d_model"],
        n_layer=model["n_layer"],
        n_head=model["n_head"],
        n_kv_head=model["n_head"],
        d_ff=model["d_ff"],
        tied=model["tied"],
    )
    return shape, run["training"]["context_length"]


def _hub_shape(key: str, model: str, root: Path) -> tuple[Shape | None, int]:
    """Return that of Llama 3.1 8B by its name, and of others once they are in the hub's cache."""
    if "llama-3.1-8b" in model.lower():
        return LLAMA_3_1_8B, 131_072
    opened = _opened(key, root)
    if opened.get("model") != model:
        return None, 0
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415  (0.3 seconds)

    config = try_to_load_from_cache(model, "config.json", revision=opened["revision"])
    return _configured(Path(config)) if isinstance(config, str) else (None, 0)


def _opened(key: str, root: Path) -> dict[str, Any]:
    """Return what ``open_base`` found out, if it ran."""
    path = root / "data" / "base" / key / "base.json"
    return read_json(path) if path.exists() else {}


def _configured(path: Path) -> tuple[Shape, int]:
    config = read_json(path)
    try:
        heads = config["num_attention_heads"]
        shape = Shape(
            vocab_size=config["vocab_size"],
            d_model=config["hidden_size"],
            n_layer=config["num_hidden_layers"],
            n_head=heads,
            n_kv_head=config.get("num_key_value_heads") or heads,
            d_ff=config["intermediate_size"],
            tied=config.get("tie_word_embeddings", False),
        )
        return shape, config["max_position_embeddings"]
    except ArtifactError as error:
        raise InputError(
            f"{error}; expected a decoder in the Llama layout, use such a base"
        ) from None


# --- Counts ---------------------------------------------------------------------------------------

STATISTICS = ("cpt_data", "sft_data", "tasks")


def _statistics(params: Mapping[str, Any], name: str, root: Path) -> dict[str, Any]:
    """Return what the stage ``prepare_...`` counted, or {} before it ran with these parameters."""
    path = f"metrics/adaptation/{name}.json"
    return read_json(root / path) if is_made(path, params, root=root) else {}


def assumptions(params: Mapping[str, Any], *, root: Path) -> str:
    """Return one line that says which token counts of track 2 are assumed, and on what grounds."""
    source = {
        "cpt_data": f"CPT documents (ids of each: {HUB_DOCUMENT:.0f} with Llama, thesis 5.1; "
        f"{SAMPLE_DOCUMENT:.0f} of the sample; {OWN_DOCUMENT:.0f} of other text with our pieces)",
        "sft_data": "SFT examples (all of max_examples, as long as Canarim's or the sample's)",
        "tasks": "task items (per_task of each seed)",
    }
    missing = [text for name, text in source.items() if not _statistics(params, name, root)]
    always = "ids a word of instructions (measured with v7 and Llama), steps until answers end"
    return "assumed in track 2: " + "; ".join([*missing, always])


def data_counts(params: Mapping[str, Any], base: Base, *, root: Path) -> Counts:
    """Return the token counts of CPT, SFT and tasks for ``base``, real ones where there are any."""
    train, evaluation = _cpt_counts(params, base, root)
    sft = _statistics(params, "sft_data", root)
    section = params["sft_data"]
    shares = {"train": 1 - section["val"] - section["test"]}
    shares |= {"val": section["val"], "test": section["test"]}
    examples = {n: sft.get(n, section["max_examples"] * share) for n, share in shares.items()}
    one = _conversation(sft, base, SAMPLE_WORDS if section["source"] == "sample" else CANARIM_WORDS)
    tasks = params["tasks"]
    items = _statistics(params, "tasks", root).get("items")
    words = SAMPLE_WORDS if tasks["source"] == "sample" else CANARIM_WORDS
    return Counts(
        train=train,
        evaluation=evaluation,
        sft_train=one.times(examples["train"]),
        sft_val=one.times(examples["val"]),
        sft_test=one.times(examples["test"]),
        items=sum(items.values()) if items else 3 * tasks["per_task"] * len(tasks["seeds"]),
        prompt_tokens=base.template + base.ids_per_word * words.prompt,
    )


def _conversation(statistics: Mapping[str, Any], base: Base, assumed: Words) -> Reading:
    """Return one example, its share of padding included."""
    mean = statistics.get("mean_words")
    answer = mean["output"] if mean else assumed.answer
    question = mean["instruction"] + mean["input"] if mean else assumed.question
    ids = base.template + base.ids_per_word * (question + answer)
    return Reading(tokens=PADDED_CONVERSATIONS * ids, supervised=1 + base.ids_per_word * answer)


def _cpt_counts(params: Mapping[str, Any], base: Base, root: Path) -> tuple[Reading, Reading]:
    """Return train and evaluation; each id but a document's first is a target."""
    found = _statistics(params, "cpt_data", root)
    if found:
        counts = [
            found[name]["tokens"] - found[name]["documents"] for name in ("train", "evaluation")
        ]
    else:
        section, splits = params["cpt_data"], params["splits"]
        documents = section["max_documents"]
        if section["documents"] == "train":
            rest = 1 - splits["val"] - splits["test"]
            documents = min(documents, params["corpus"]["max_documents"] * rest)
        ids = documents * (_document(params, base, root, reserved=True) - 1)
        counts = [ids * (1 - section["evaluation"]), ids * section["evaluation"]]
    train, evaluation = (Reading(tokens=count, supervised=count) for count in counts)
    return train, evaluation


def _document(
    params: Mapping[str, Any], base: Base, root: Path, *, reserved: bool = False
) -> float:
    """Return the mean ids of a document."""
    if not base.run:
        return HUB_DOCUMENT
    if not reserved:
        dataset = params["models"][base.run]["dataset"]
        return dataset_counts(params, dataset, root=root).tokens_per_document
    if _is_sample(params):
        return SAMPLE_DOCUMENT
    return OWN_DOCUMENT
