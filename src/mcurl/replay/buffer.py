"""The replay: a ring that stores each frame once; stacks, crops and n-step returns are computed when gathered."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mcurl.errors import UserError
from mcurl.replay import sampling
from mcurl.replay.augment import Window
from mcurl.replay.batch import Layout, Transitions
from mcurl.replay.files import Journal
from mcurl.replay.gather import BLANK, FrameGather
from mcurl.replay.priorities import Priorities
from mcurl.replay.sampling import BoolArray, Records, Rows
from mcurl.runtime.memory import check_memory

FrameDtype = Literal["uint8", "float32"]


def bytes_needed(
    capacity: int,
    frame_shape: tuple[int, ...],
    frame_dtype: FrameDtype,
    action_shape: tuple[int, ...],
    action_dtype: npt.DTypeLike,
) -> int:
    """Memory of a full replay in bytes, including the tree of priorities."""
    frame = int(np.prod(frame_shape)) * np.dtype(frame_dtype).itemsize
    return capacity * (frame + sampling.record_dtype(action_shape, action_dtype).itemsize + 4 * 8)


class Replay:
    """A ring of rows. A row is one frame, with the action taken from it and its reward and end-of-episode flags.

    An episode of n transitions has n + 1 rows. ``begin`` opens an episode with its first frame; ``append`` adds the
    action of the newest frame, and the next frame. A row is identified by its id, the number of rows written before it.
    ``replay.sampling`` defines which rows can be sampled. ``sample_*`` return ids; ``gather_*`` return the data of ids.

    Args:
        capacity: number of rows; more than frame_stack + n_step.
        frame_shape: (C, H, W) of one frame, or (D,) of a state.
        frame_dtype: "uint8" or "float32".
        frame_stack: K, number of frames in an observation ``[K*C, H, W]``.
        stack_start: how stacks at the start of an episode are filled: "repeat" the first frame, or "blank" (zeros).
        action_shape, action_dtype: of one action: (A,) and float32, or () and int64.
        n_step: n, largest number of transitions in a return, at least 1.
        discount: γ, 0 <= γ <= 1.
        device: device of the frames ("cpu", "cuda"); all other data stays on the host.
        priority_alpha: α, exponent of the priorities in prioritised sampling; None: uniform sampling only.
        layout: memory layout of gathered stacks. "planes": frame by frame. The others need uint8 frames on a CPU and
            a C compiler, else "planes" is used. "channels_last": crops in that memory format. "patches": windows as
            the patches of two 5×5 convolutions of stride 5 (``native.frames.cut``).

    Raises:
        UserError: the capacity is too small, or the frames do not fit into the machine's memory.
    """

    def __init__(
        self,
        *,
        capacity: int,
        frame_shape: tuple[int, ...],
        frame_dtype: FrameDtype,
        frame_stack: int,
        stack_start: Literal["repeat", "blank"],
        action_shape: tuple[int, ...],
        action_dtype: npt.DTypeLike,
        n_step: int = 1,
        discount: float = 0.99,
        device: torch.device | str = "cpu",
        priority_alpha: float | None = None,
        layout: Layout = "planes",
    ) -> None:
        if capacity <= frame_stack + n_step:
            raise UserError(
                f"a replay of {capacity} rows is too small: stacks of {frame_stack} frames and {n_step}-step returns "
                f"need at least {frame_stack + n_step + 1}"
            )
        check_memory(
            bytes_needed(capacity, frame_shape, frame_dtype, action_shape, action_dtype),
            f"a replay of {capacity:,} rows",
            torch.device(device),
            "choose a smaller capacity",
        )
        self.frame_shape, self.frame_stack = tuple(frame_shape), frame_stack
        self.n_step, self.discount = n_step, discount
        self._blank = stack_start == "blank"
        self._frame_dtype = np.dtype(frame_dtype)
        # Uninitialised, so that the system allocates memory only for rows that are written.
        self.frames = torch.empty(
            (capacity, *frame_shape), dtype=torch.uint8 if frame_dtype == "uint8" else torch.float32, device=device
        )
        self.records = Records(np.zeros(capacity, sampling.record_dtype(action_shape, action_dtype)))
        self.priorities = (
            None
            if priority_alpha is None
            else Priorities(self.records, priority_alpha, frame_stack=frame_stack, n_step=n_step)
        )
        self._gather = FrameGather(self.frames, frame_stack, layout)
        self._journal = Journal(self.frames, self.records)

    # Storing

    def begin(self, frame: npt.ArrayLike) -> None:
        """Open an episode with its first frame. An open episode is truncated.

        Args:
            frame: of the replay's frame shape and dtype.

        Raises:
            ValueError: the frame has another shape or dtype than the replay.
        """
        frame = self._as_frame(frame)
        self._store(self.records.begin(), frame)

    def append(
        self,
        action: npt.ArrayLike,
        reward: float,
        frame: npt.ArrayLike,
        terminated: bool,
        truncated: bool,
        life_lost: bool = False,
    ) -> None:
        """Store a transition: the action taken from the newest frame, its reward, and the next frame.

        Args:
            action: of the replay's action shape.
            reward: of this transition.
            frame: the next frame, or the final one; of the replay's frame shape and dtype.
            terminated, truncated: whether the episode ends.
            life_lost: whether the return ends, though the episode goes on.

        Raises:
            RuntimeError: no episode is open.
            ValueError: the frame or action has another shape or dtype than the replay.
        """
        if not self.records.open:
            raise RuntimeError("append needs an open episode: call begin with its first frame")
        frame, action = self._as_frame(frame), np.asarray(action)
        if action.shape != self.records.table["action"].shape[1:]:
            raise ValueError(
                f"expected an action of shape {self.records.table['action'].shape[1:]}, got {action.shape}"
            )
        slot = self.records.append(
            action, reward, sampling.TERMINATED * bool(terminated) | sampling.LIFE_LOST * bool(life_lost)
        )
        self.records.open = not (terminated or truncated)
        self._store(slot, frame)

    def close_as_truncated(self) -> None:
        """Truncate the open episode, if any. For environments whose state cannot be restored."""
        self.records.open = False
        self._sync_priorities()

    def _as_frame(self, frame: npt.ArrayLike) -> npt.NDArray[Any]:
        array = np.asarray(frame)
        if array.shape != self.frame_shape or array.dtype != self._frame_dtype:
            raise ValueError(
                f"expected a frame of shape {self.frame_shape} and {self._frame_dtype}, "
                f"got {array.shape} and {array.dtype}"
            )
        return array

    def _store(self, slot: int, frame: npt.NDArray[Any]) -> None:
        # Copied, because torch needs a writable array. CUDA has read it from pageable memory when copy_ returns.
        self.frames[slot].copy_(torch.from_numpy(frame.copy()), non_blocking=True)
        self._sync_priorities()

    def _sync_priorities(self) -> None:
        if self.priorities is not None:
            self.priorities.sync()

    # Counting

    @property
    def rewarded(self) -> bool:
        """Whether any transition in the ring has a nonzero reward."""
        return bool(self.records.table["reward"].any())

    def __len__(self) -> int:
        """Rows in the ring."""
        return self.records.written - self.records.oldest

    @property
    def written(self) -> int:
        """Number of rows written so far, including overwritten ones."""
        return self.records.written

    @property
    def sampleable(self) -> int:
        """Number of transitions that can be sampled now."""
        return int(self._transition_spans().sizes.sum())

    def _transition_spans(self) -> sampling.Spans:
        return sampling.transitions(self.records, self.frame_stack, self.n_step)

    # Sampling

    def sample_uniform(self, batch: int, rng: np.random.Generator) -> Rows:
        """Sample transitions independently and uniformly: ids ``int64 [batch]``.

        Raises:
            NothingToSample: ``sampleable`` is 0.
        """
        return self._transition_spans().sample(batch, rng)[0]

    def sample_observations(self, batch: int, rng: np.random.Generator) -> Rows:
        """Sample observations, final ones included, independently and uniformly: ids ``int64 [batch]``.

        Raises:
            NothingToSample: the replay is empty.
        """
        return sampling.observations(self.records, self.frame_stack).sample(batch, rng)[0]

    def sample_sequences(
        self, batch: int, length: int, rng: np.random.Generator, cross_episodes: bool = False
    ) -> tuple[Rows, BoolArray] | None:
        """Sample sequences of consecutive rows uniformly.

        A sequence belongs to one episode. It may start before the episode and end after it, with padding
        (see ``sampling.sample_sequences``). With ``cross_episodes``, it runs on into the next episode without padding.

        Returns:
            Ids ``int64 [batch, length]``, and the padding ``bool [batch, length]``; None while no sequence can be
            sampled.
        """
        try:
            if cross_episodes:
                rows = sampling.sample_consecutive(self.records, self.frame_stack, length, batch, rng)
                return rows, np.zeros(rows.shape, np.bool_)
            return sampling.sample_sequences(self.records, self.frame_stack, length, batch, rng)
        except sampling.NothingToSample:
            return None

    def sample_prioritised(
        self, batch: int, rng: np.random.Generator, beta: float
    ) -> tuple[Rows, npt.NDArray[np.float32]]:
        """Sample transitions in proportion to priority ** priority_alpha, one from each of ``batch`` equal strata.

        Args:
            beta: β, exponent of the importance weights, 0 to 1.

        Returns:
            Ids ``int64 [batch]``, and importance weights (N·P)^-β, divided by their maximum, ``float32 [batch]``.

        Raises:
            NothingToSample: ``sampleable`` is 0.
            RuntimeError: the replay has no priorities.
        """
        return self._require_priorities().sample(batch, rng, beta)

    def update_priorities(self, rows: Tensor | Rows, priorities: Tensor | npt.NDArray[Any]) -> None:
        """Set the priorities of sampled transitions.

        Args:
            rows: ids ``int64 [B]``. Rows that are overwritten, or whose stacks are, are ignored.
            priorities: ``[B]``; their absolute values are used.

        Raises:
            ValueError: a priority is not finite.
            RuntimeError: the replay has no priorities.
        """
        self._require_priorities().update(_to_numpy(rows), _to_numpy(priorities))

    def _require_priorities(self) -> Priorities:
        if self.priorities is None:
            raise RuntimeError("this replay has no priorities: construct it with priority_alpha=0.5")
        return self.priorities

    # Gathering

    def gather_transitions(
        self,
        rows: Rows,
        *,
        window: Window | None = None,
        next_window: Window | None = None,
        weights: npt.NDArray[np.float32] | None = None,
    ) -> Transitions:
        """Gather the n-step transitions that start at ``rows``.

        Args:
            rows: ids ``int64 [B]``.
            window: B windows of the observations; None: whole frames.
            next_window: windows of the next observations, likewise.
            weights: importance weights ``float32 [B]`` for the batch; None: ones.

        Raises:
            ValueError: a row is not a transition that can be sampled: it is overwritten, the last of its episode, or
                its return is incomplete.
        """
        if not sampling.is_sampleable(self.records, rows, self.frame_stack, self.n_step).all():
            raise ValueError("a row is not a transition that can be sampled (any more)")
        length, ended = sampling.n_step_windows(self.records, rows, self.n_step)
        steps = np.arange(self.n_step)
        rewards = np.where(steps < length[:, None], self.records.column("reward", rows[:, None] + steps), 0.0)
        discount = np.where(ended, 0.0, self.discount**length)
        return Transitions(
            obs=self.gather_stacks(rows, window),
            action=self._to_device(self.records.column("action", rows)),
            reward=self._to_device((rewards @ self.discount**steps).astype(np.float32)),
            next_obs=self.gather_stacks(rows + length, next_window),
            discount=self._to_device(discount.astype(np.float32)),
            rows=torch.from_numpy(rows),
            weights=self._to_device(np.ones(len(rows), np.float32) if weights is None else weights),
        )

    def empty_stacks(self, n: int, size: int) -> Tensor:
        """Allocate uninitialised memory for ``n`` square crops of stacks, see ``FrameGather.empty``."""
        return self._gather.empty(n, size)

    def gather_stacks(self, rows: Rows, window: Window | None = None, out: Tensor | None = None) -> Tensor:
        """Gather the observations of rows ``int64 [N]``: ``gather_frames(frame_rows(rows), ...)``.

        Raises:
            ValueError: as ``frame_rows`` and ``gather_frames``.
        """
        return self.gather_frames(self.frame_rows(rows), window, out)

    def frame_rows(self, rows: Rows) -> Rows:
        """The rows of the K frames of each stack, for rows ``int64 [N]``: ids ``int64 [N, K]``, oldest frame first.

        Frames before the start of the episode are the first frame's row, or -1 (``BLANK``) with
        ``stack_start="blank"``.

        Raises:
            ValueError: a row, or another row of its stack, is overwritten.
        """
        span = sampling.observations(self.records, self.frame_stack)
        if len(rows) and (rows.min() < span.first[0] or rows.max() >= span.stop[0]):
            raise ValueError("a row to gather has no whole stack in the replay (any more)")
        frame_rows, before = sampling.stack_rows(self.records, rows, self.frame_stack)
        if self._blank:
            frame_rows[before] = BLANK
        return frame_rows

    def gather_frames(self, frame_rows: Rows, window: Window | None = None, out: Tensor | None = None) -> Tensor:
        """Gather stacks of arbitrary frames, and apply a window to each stack, in one pass over the ring.

        Args:
            frame_rows: ``int64 [N, K]``, ids of the frames of each stack, oldest first; -1 (``BLANK``): zeros.
            window: N windows; None: whole frames.
            out: output from ``empty_stacks``; None: allocate it.

        Returns:
            ``out``, or ``[N, ...]`` as from ``empty_stacks``. Whole frames, in any layout except "patches", are
            ``[N, K*C, H, W]`` in the frames' dtype (states: ``[N, K*D]``).

        Raises:
            ValueError: a row is not in the replay, ``frame_rows`` does not have K columns, or ``window`` does not have
                N windows or is used with states.
        """
        if frame_rows.ndim != 2 or frame_rows.shape[1] != self.frame_stack:
            raise ValueError(f"expected rows of shape [N, {self.frame_stack}], got {list(frame_rows.shape)}")
        blank = frame_rows == BLANK
        if not (blank | ((frame_rows >= self.records.oldest) & (frame_rows < self.records.written))).all():
            raise ValueError("a frame to gather is not in the replay (any more)")
        n = len(frame_rows)
        if window is not None and (len(window) != n or len(self.frame_shape) != 3):
            raise ValueError(
                f"{len(window)} windows of images do not fit {n} stacks of frames of shape {self.frame_shape}"
            )
        return self._gather.gather(np.where(blank, BLANK, frame_rows % self.records.capacity), window, out)

    def _to_device(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self.frames.device, non_blocking=True)

    # Saving

    def save_files(self, folder: Path) -> dict[str, Any]:
        """Append the rows that became final since the last call to the files in ``folder``.

        The files remain valid for earlier states. ``files.prune(folder, state["oldest"])`` deletes the files that only
        older states need.

        Returns:
            The state that ``load_files`` needs in addition to the files: a tree of plain values and NumPy arrays. The
            priorities take 8 bytes per row.
        """
        return {
            **self._journal.write(folder),
            "priorities": None if self.priorities is None else self.priorities.state_dict(),
        }

    def load_files(self, folder: Path, state: dict[str, Any]) -> None:
        """Restore the exact state that ``save_files`` saved.

        The next ``save_files`` to ``folder`` continues from this state, and deletes rows that were appended after it.

        Raises:
            UserError: the state does not fit this replay, or the files are missing, too short, or were continued from
                an earlier state.
        """
        if (state["priorities"] is None) != (self.priorities is None):
            raise UserError(
                "the saved replay is prioritised and this one is not, or vice versa: resume with the original setting"
            )
        self._journal.read(folder, state)
        if self.priorities is not None:
            self.priorities.load_state_dict(state["priorities"])


def _to_numpy(values: Tensor | npt.NDArray[Any]) -> npt.NDArray[Any]:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
