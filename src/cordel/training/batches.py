"""Windows over a flat token array; a batch is a pure function of the step, so resuming is exact."""

from dataclasses import dataclass

import numpy as np

from cordel.runtime.errors import ParamsError


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's ids, ``int64[B, T + 1]``: inputs and, shifted by one, targets."""

    ids: np.ndarray
    starts_afresh: bool  # the recurrent state of the step before does not apply


class LaneBatches:
    """For RNNs: B parallel lanes through the text, read on from step to step.

    The lanes begin B equal distances apart, so the state carried from window to window is that of
    the text just before: truncated backpropagation over a stream, without redundant windows.
    """

    def __init__(self, ids: np.ndarray, *, context_length: int, batch_size: int) -> None:
        """Lay the lanes over ``ids``."""
        self.ids, self.context_length = ids, context_length
        self.lane = (len(ids) - 1) // batch_size
        self.steps_per_epoch = self.lane // context_length
        self._starts = np.arange(batch_size)[:, None] * self.lane
        if self.steps_per_epoch < 1:
            raise ParamsError(_too_long(len(ids), context_length, batch_size))

    def batch(self, step: int) -> Batch:
        """Return the windows of optimiser step ``step``."""
        place = step % self.steps_per_epoch
        offsets = place * self.context_length + np.arange(self.context_length + 1)
        return Batch(self.ids[self._starts + offsets].astype(np.int64), starts_afresh=place == 0)


class WindowBatches:
    """For Transformers and for the thesis' recipe: windows ``stride`` apart in a random order."""

    def __init__(
        self, ids: np.ndarray, *, context_length: int, stride: int, batch_size: int, seed: int
    ) -> None:
        """Count the windows. Each epoch shuffles them anew, from another offset."""
        self.ids, self.context_length, self.stride = ids, context_length, stride
        self.batch_size, self.seed = batch_size, seed
        # One stride less than fit, so that every offset below a stride gives as many windows.
        self.windows = (len(ids) - 1 - context_length - (stride - 1)) // stride + 1
        self.steps_per_epoch = self.windows // batch_size
        self._epoch, self._order, self._offset = -1, np.empty(0, dtype=np.int64), 0
        if self.steps_per_epoch < 1:
            raise ParamsError(_too_long(len(ids), context_length, batch_size))

    def batch(self, step: int) -> Batch:
        """Return the windows of optimiser step ``step``."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            rng = np.random.default_rng((self.seed, epoch))
            self._epoch, self._offset = epoch, int(rng.integers(self.stride))
            self._order = rng.permutation(self.windows)
        chosen = self._order[place * self.batch_size : (place + 1) * self.batch_size]
        starts = chosen[:, None] * self.stride + self._offset
        ids = self.ids[starts + np.arange(self.context_length + 1)]
        return Batch(ids.astype(np.int64), starts_afresh=True)


def _too_long(tokens: int, context_length: int, batch_size: int) -> str:
    return (
        f"context_length {context_length} x batch_size {batch_size} needs more than the "
        f"{tokens:,} training tokens; lower one of them or use more documents"
    )
