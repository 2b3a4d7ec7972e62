"""What the replay hands out: typed batches, and the windows that a gather cuts out of the frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from mcurl.errors import UserError


@dataclass(frozen=True, slots=True)
class Transitions:
    """A batch of B n-step transitions.

    Attributes:
        obs: stacks, uint8 [B, K*C, h, w], oldest frame first; float32 [B, K*D] for state observations.
        action: float32 [B, A], or int64 [B] for discrete actions.
        reward: float32 [B], the discounted sum of the next k <= n rewards.
        next_obs: like `obs`, k transitions later. The final observation where an episode was cut off.
        discount: float32 [B], γ^k, or 0 where the episode (or a life) ended within the k transitions.
        rows: int64 [B], the rows drawn, for `Replay.reprioritise`. Always on the CPU: only the replay reads them.
        weights: float32 [B], importance weights in (0, 1]; ones unless drawn by priority.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    next_obs: Tensor
    discount: Tensor
    rows: Tensor
    weights: Tensor

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class Contrast:
    """What the contrastive loss looks at: pixels for queries and for keys, and the objective's own plan (opaque here).

    Attributes:
        query: uint8 [R, K*C, h, w].
        key: uint8 [R', K*C, h, w].
        plan: whatever the objective needs to make sense of the pixels.
    """

    query: Tensor
    key: Tensor
    plan: Any


@dataclass(frozen=True, slots=True)
class Batch:
    """What one update reads. `contrast` is None where the method has no contrastive loss, or nothing to contrast
    yet."""

    transitions: Transitions
    contrast: Contrast | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """Which pixels of N frames a gather takes; all K frames of one stack share theirs. With y counted over the `size`
    output rows (columns: `left`, `right`):

        out[i, y] = frame[top[i] + clamp(y - down[i], 0, crop - 1)]

    A plain crop has `crop == size` and `down == right == 0`. Elsewhere the `down` rows above the crop, and what is
    missing below it, repeat its edge; some of the crop always shows.

    Attributes:
        size: height and width of the output.
        crop: height and width of the part of the frame that is read, 1 <= crop.
        top, left: int64 [N], where that part begins, 0 <= top <= H - crop.
        down, right: int64 [N], where in the output it begins; negative cuts its first rows off.
    """

    size: int
    crop: int
    top: npt.NDArray[np.int64]
    left: npt.NDArray[np.int64]
    down: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.top)

    @property
    def is_plain(self) -> bool:
        """Whether every window is a crop and nothing else."""
        return self.crop == self.size and not self.down.any() and not self.right.any()

    def __getitem__(self, index: Any) -> Window:
        """The windows of some of the samples; `index` is whatever selects from a NumPy array of [N]."""
        return Window(self.size, self.crop, self.top[index], self.left[index], self.down[index], self.right[index])


@dataclass(frozen=True, slots=True)
class Crop:
    """A random crop.

    Attributes:
        size: height and width of the crop, in pixels.
    """

    size: int = 84

    def draw(self, n: int, frame_hw: tuple[int, int], rng: np.random.Generator) -> Window:
        """One independent crop for each of `n` stacks of H×W frames: every offset, the last included, is equally
        likely.

        Raises:
            UserError: the frames are smaller than the crop.
        """
        height, width = self._room(frame_hw)
        return self._window(rng.integers(height, size=n, endpoint=True), rng.integers(width, size=n, endpoint=True))

    def centre(self, n: int, frame_hw: tuple[int, int]) -> Window:
        """The crop in the middle, `n` times: what the policy acts on. Raises `UserError` as `draw` does."""
        height, width = self._room(frame_hw)
        return self._window(np.full(n, height // 2), np.full(n, width // 2))

    def _room(self, frame_hw: tuple[int, int]) -> tuple[int, int]:
        return _room(self.size, frame_hw)

    def _window(self, top: npt.NDArray[np.int64], left: npt.NDArray[np.int64]) -> Window:
        nothing = np.zeros_like(top)
        return Window(self.size, self.size, top, left, nothing, nothing)


@dataclass(frozen=True, slots=True)
class Shift:
    """A random crop, its edges replicated outwards, and a random crop of that: the views of data-efficient CURL on
    Atari.

    Attributes:
        crop: height and width of the first crop, in pixels.
        pad: by how many pixels each edge of the first crop is replicated.
        size: height and width of the second crop, pad < size <= crop + 2 * pad (so it always shows some of the first).
    """

    crop: int = 80
    pad: int = 4
    size: int = 84

    def __post_init__(self) -> None:
        if not 0 <= self.pad < self.size <= self.crop + 2 * self.pad:
            most = self.crop + 2 * self.pad
            raise UserError(
                f"a crop of {self.size} does not fit into {self.crop} pixels padded by {self.pad}: choose from {self.pad + 1} to {most}"
            )

    def draw(self, n: int, frame_hw: tuple[int, int], rng: np.random.Generator) -> Window:
        """One independent view for each of `n` stacks of H×W frames, over all offsets of both crops.

        Raises:
            UserError: the frames are smaller than the first crop.
        """
        height, width = _room(self.crop, frame_hw)
        top = rng.integers(height, size=n, endpoint=True)
        left = rng.integers(width, size=n, endpoint=True)
        slack = self.crop + 2 * self.pad - self.size
        down = self.pad - rng.integers(slack, size=n, endpoint=True)
        right = self.pad - rng.integers(slack, size=n, endpoint=True)
        return Window(self.size, self.crop, top, left, down, right)


def _room(crop: int, frame_hw: tuple[int, int]) -> tuple[int, int]:
    """The last offset of a crop in each direction."""
    height, width = frame_hw
    if not 1 <= crop <= min(height, width):
        raise UserError(f"a crop of {crop} pixels does not fit into frames of {height}×{width}")
    return height - crop, width - crop
