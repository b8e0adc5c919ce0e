"""The parameters of one run: the section ``models.<run>`` of params.yaml."""

from dataclasses import dataclass
from typing import Any, Literal

from cordel.runtime.params import require


@dataclass(frozen=True, slots=True, kw_only=True)
class BigramStart:
    """The section ``bigram_start`` of a run."""

    batches: int  # of contexts, each with its whole distribution
    contexts: int  # a batch
    learning_rate: float  # peak; down to 0 over the second half
    embedding_rms: float  # of the embedding then; larger: the blocks change it less at first

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("batches", "contexts", "learning_rate", "embedding_rms"):
            value = getattr(self, name)
            require(value > 0, f"{name} is {value}, expected more than 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingParams:
    """How one model is trained; the thesis' faithful recipe is an overlay, no second loop."""

    seed: int
    context_length: int
    stride: int  # between windows; equal to context_length: every token once an epoch
    targets: Literal["all", "last"]  # of each window; the thesis' RNNs predict only the last
    batch_size: int  # windows a step
    epochs: float  # how long it trains
    schedule_epochs: float  # how long the schedule is; longer for a run that was cut short
    patience: int | None  # stop after so many evaluations on val without a better one
    evaluations: int  # on val, evenly spaced, besides the one at step 0
    optimizer: Literal["adam", "adamw", "muon"]
    unigram_bias: (
        bool  # the output bias starts at the log frequencies of the train tokens, not at 0
    )
    bigram_start: BigramStart | None  # embedding and output start at the bigrams of the train text
    teacher_share: float  # of the targets that are Kneser-Ney trigrams of the train text
    learning_rate: float  # muon: of the embedding, output and norms
    muon_learning_rate: float  # of the hidden matrices
    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float
    decay_scope: Literal["all", "matrices"]  # the thesis decays norms and biases too
    schedule: Literal["constant", "cosine", "wsd"]
    warmup_steps: int
    decay_share: float  # wsd: the last part of the schedule, linear to 0
    grad_clip: float  # 0: none
    clip_mode: Literal["global", "per_variable"]  # Keras' clipnorm is per variable
    label_smoothing: float
    fallback_penalty: float  # x probability mass on the last 256 ids, as the thesis' v5b had it

    def __post_init__(self) -> None:
        """Check ranges and combinations."""
        positive = (
            "context_length",
            "stride",
            "batch_size",
            "epochs",
            "evaluations",
            "learning_rate",
        )
        for name in (*positive, "muon_learning_rate", "epsilon"):
            value = getattr(self, name)
            require(value > 0, f"{name} is {value}, expected more than 0")
        for name in ("weight_decay", "grad_clip", "warmup_steps", "fallback_penalty"):
            value = getattr(self, name)
            require(value >= 0, f"{name} is {value}, expected at least 0")
        for name in ("beta1", "beta2", "label_smoothing", "teacher_share"):
            value = getattr(self, name)
            require(0 <= value < 1, f"{name} is {value}, expected 0 <= x < 1")
        require(
            0 < self.decay_share <= 1, f"decay_share is {self.decay_share}, expected 0 < x <= 1"
        )
        require(
            self.schedule_epochs >= self.epochs,
            f"schedule_epochs {self.schedule_epochs} is less than epochs {self.epochs}",
        )
        require(
            not self.teacher_share or self.targets == "all",
            f"teacher_share is {self.teacher_share} with targets: last, expected targets: all",
        )
        require(
            self.stride <= self.context_length,
            f"stride {self.stride} is more than context_length {self.context_length}: "
            "tokens would be skipped",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunParams:
    """One run: what it reads, what it is, how it is trained."""

    dataset: str
    architecture: str
    model: Any  # the Params of cordel.models.<architecture>
    training: TrainingParams
