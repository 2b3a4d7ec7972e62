"""The replay: each frame stored once, in a ring; stacks, crops and n-step returns are put together when they are
gathered."""

from __future__ import annotations

import os
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

FrameDtype = Literal["uint8", "float32"]


def bytes_needed(
    capacity: int,
    frame_shape: tuple[int, ...],
    frame_dtype: FrameDtype,
    action_shape: tuple[int, ...],
    action_dtype: npt.DTypeLike,
) -> int:
    """Memory that a full replay takes, in bytes. A tree of priorities is included, which is small beside the frames."""
    frame = int(np.prod(frame_shape)) * np.dtype(frame_dtype).itemsize
    return capacity * (frame + sampling.record_dtype(action_shape, action_dtype).itemsize + 4 * 8)


class Replay:
    """A ring of rows. A row is one frame, the action taken from it, and what came of it; an episode of n transitions
    has n + 1 rows.

    ``begin`` opens an episode with its first frame, ``append`` gives the newest frame its action and adds the next one.
    Rows are named by their ids: ``int64``, the number of rows written before. The rule of which rows can be sampled is
    in ``replay.sampling``. Choosing ids (``sample_*``) is apart from gathering the data that they name (``gather_*``).

    Args:
        capacity: rows in the ring; more than frame_stack + n_step.
        frame_shape: (C, H, W) of one frame, or (D,) of a state.
        frame_dtype: "uint8" or "float32".
        frame_stack: K frames make an observation, ``[K*C, H, W]``.
        stack_start: what stands before an episode's first frame: its repetition, or zeros ("blank").
        action_shape, action_dtype: of one action: (A,) and float32, or () and int64.
        n_step: transitions that a return spans, 1 <= n.
        discount: γ, 0 <= γ <= 1.
        device: where the frames lie ("cpu", "cuda"); the bookkeeping stays on the host.
        priority_alpha: transitions are sampled in proportion to priority to this power; None: no prioritised sampling.
        layout: on a CPU with a compiler, gather stacks in the order in which an encoder multiplies them: crops as
            "channels_last", in bfloat16 (0 to 255 is exact), or any window as the "patches" of two 5×5 convolutions of
            stride 5, in uint8 (``native.frames.cut``). "planes": frames one after the other, in their own dtype.

    Raises:
        UserError: the capacity is too small, or its frames do not fit into the memory of the machine.
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
                f"a replay of {capacity} rows is too small: {frame_stack} frames and {n_step} steps ahead need "
                f"at least {frame_stack + n_step + 1}"
            )
        _check_memory(
            bytes_needed(capacity, frame_shape, frame_dtype, action_shape, action_dtype),
            f"a replay of {capacity:,} rows",
            torch.device(device),
        )
        self.frame_shape, self.frame_stack = tuple(frame_shape), frame_stack
        self.n_step, self.discount = n_step, discount
        self._blank = stack_start == "blank"
        self._frame_dtype = np.dtype(frame_dtype)
        # Not zeroed: memory is taken only as rows are written.
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
        """Open an episode with its first frame. An episode that is still open ends as it stands, as if truncated.

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
        """Store a transition: the action taken from the newest frame, and the frame that it led to (the final one too).

        Args:
            action: of the replay's action shape.
            reward: of this transition.
            frame: of the replay's frame shape and dtype.
            terminated, truncated: either ends the episode.
            life_lost: ends the return only, not the episode.

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
        """End the open episode, if there is one, as if its last transition had been truncated: for environments that
        cannot be restored."""
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
        # Copied first: torch wants a writable array. A GPU's driver has read the copy before copy_ returns.
        self.frames[slot].copy_(torch.from_numpy(frame.copy()), non_blocking=True)
        self._sync_priorities()

    def _sync_priorities(self) -> None:
        if self.priorities is not None:
            self.priorities.sync()

    # Counting

    @property
    def rewarded(self) -> bool:
        """Whether any transition in the ring has a reward other than 0."""
        return bool(self.records.table["reward"].any())

    def __len__(self) -> int:
        """Rows in the ring."""
        return self.records.written - self.records.oldest

    @property
    def written(self) -> int:
        """Rows ever written."""
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
        """Sample observations of the whole replay, final ones included, independently and uniformly: ids ``int64
        [batch]``.

        Raises:
            NothingToSample: the replay is empty.
        """
        return sampling.observations(self.records, self.frame_stack).sample(batch, rng)[0]

    def sample_sequences(
        self, batch: int, length: int, rng: np.random.Generator, cross_episodes: bool = False
    ) -> tuple[Rows, BoolArray] | None:
        """Sample sequences of consecutive rows, uniformly.

        A sequence stays in one episode. It may begin before the episode and end after it, and is padded there (see
        ``sampling.sample_sequences``). With ``cross_episodes`` it runs on into the next episode instead, and nothing is
        padded.

        Returns:
            Ids ``int64 [batch, length]``, and which positions are padding, ``bool [batch, length]``; None while there
            is nothing to sample.
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
        """Sample transitions in proportion to priority ** priority_alpha, one from each of ``batch`` equal parts.

        Args:
            beta: β, exponent of the importance weights, 0 to 1.

        Returns:
            Ids ``int64 [batch]``, and importance weights (N·P)^-β over the batch's maximum, ``float32 [batch]``.

        Raises:
            NothingToSample: ``sampleable`` is 0.
            RuntimeError: the replay was made without priorities.
        """
        return self._require_priorities().sample(batch, rng, beta)

    def update_priorities(self, rows: Tensor | Rows, priorities: Tensor | npt.NDArray[Any]) -> None:
        """Set the priorities of sampled transitions.

        Args:
            rows: ids ``int64 [B]``. Rows that were overwritten since, or whose stacks were, are ignored.
            priorities: ``[B]``; their absolute values count.

        Raises:
            ValueError: a priority is not finite.
            RuntimeError: the replay was made without priorities.
        """
        self._require_priorities().update(_to_numpy(rows), _to_numpy(priorities))

    def _require_priorities(self) -> Priorities:
        if self.priorities is None:
            raise RuntimeError("this replay has no priorities: make it with priority_alpha=0.5")
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
        """Gather the n-step transitions from ``rows``.

        Args:
            rows: ids ``int64 [B]``.
            window: of the observations, B windows; None: whole frames.
            next_window: of the next observations, likewise.
            weights: ``float32 [B]``, the importance weights to hand on; None: ones.

        Raises:
            ValueError: a row cannot be sampled (overwritten since, the last of its episode, or its return not whole
                yet).
        """
        if not sampling.is_sampleable(self.records, rows, self.frame_stack, self.n_step).all():
            raise ValueError("a row is not a transition that can be sampled (any more)")
        length, ended = sampling.n_step_windows(self.records, rows, self.n_step)
        ahead = np.arange(self.n_step)
        rewards = np.where(ahead < length[:, None], self.records.column("reward", rows[:, None] + ahead), 0.0)
        discount = np.where(ended, 0.0, self.discount**length)
        return Transitions(
            obs=self.gather_stacks(rows, window),
            action=self._to_device(self.records.column("action", rows)),
            reward=self._to_device((rewards @ self.discount**ahead).astype(np.float32)),
            next_obs=self.gather_stacks(rows + length, next_window),
            discount=self._to_device(discount.astype(np.float32)),
            rows=torch.from_numpy(rows),
            weights=self._to_device(np.ones(len(rows), np.float32) if weights is None else weights),
        )

    def empty_stacks(self, n: int, size: int) -> Tensor:
        """Memory for ``n`` square crops of stacks, as ``gather_stacks`` fills it: see ``FrameGather.empty``."""
        return self._gather.empty(n, size)

    def gather_stacks(self, rows: Rows, window: Window | None = None, out: Tensor | None = None) -> Tensor:
        """Gather the observations of ``rows`` ``int64 [N]``: ``gather_frames`` of their ``frame_rows``.

        Raises:
            ValueError: as ``frame_rows`` and ``gather_frames``.
        """
        return self.gather_frames(self.frame_rows(rows), window, out)

    def frame_rows(self, rows: Rows) -> Rows:
        """The row of each frame of each stack, for rows ``int64 [N]``: ids ``int64 [N, K]``, oldest frame first.

        A frame before its episode's first one is that first one's row, or -1 (``BLANK``) where the replay's stacks
        start blank.

        Raises:
            ValueError: a row was overwritten, or its stack reaches into overwritten rows.
        """
        span = sampling.observations(self.records, self.frame_stack)
        if len(rows) and (rows.min() < span.first[0] or rows.max() >= span.stop[0]):
            raise ValueError("a row to gather has no whole stack in the replay (any more)")
        frame_rows, before = sampling.stack_rows(self.records, rows, self.frame_stack)
        if self._blank:
            frame_rows[before] = BLANK
        return frame_rows

    def gather_frames(self, frame_rows: Rows, window: Window | None = None, out: Tensor | None = None) -> Tensor:
        """Gather stacks of any frames, each stack cut by its own window, in one pass over the ring.

        Args:
            frame_rows: ``int64 [N, K]``, the row of each frame of each stack, oldest first; -1 (``BLANK``): a frame of
                zeros.
            window: N windows; None: whole frames.
            out: memory to write into, as from ``empty_stacks``; None: new memory.

        Returns:
            ``[N, ...]`` as ``empty_stacks`` has it; whole frames in any layout but "patches": ``[N, K*C, H, W]`` in the
            frames' dtype (states: ``[N, K*D]``). ``out`` where it is given.

        Raises:
            ValueError: a row was overwritten or not written yet, the stacks are not of K frames, or the windows are of
                another number of stacks, or of states.
        """
        if frame_rows.ndim != 2 or frame_rows.shape[1] != self.frame_stack:
            raise ValueError(f"expected rows of shape [N, {self.frame_stack}], got {list(frame_rows.shape)}")
        blank = frame_rows == BLANK
        if not (blank | ((frame_rows >= self.records.oldest) & (frame_rows < self.records.written))).all():
            raise ValueError("a frame to gather is not in the replay (any more)")
        n = len(frame_rows)
        if window is not None and (len(window) != n or len(self.frame_shape) != 3):
            raise ValueError(f"{len(window)} windows of images for {n} stacks of {self.frame_shape}")
        return self._gather.gather(np.where(blank, BLANK, frame_rows % self.records.capacity), window, out)

    def _to_device(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self.frames.device, non_blocking=True)

    # Saving

    def save_files(self, folder: Path) -> dict[str, Any]:
        """Append to the files in ``folder`` the rows that became final since the last call.

        The files of earlier states stay valid; ``files.prune(folder, state["oldest"])`` deletes the files that only
        states older than that one need.

        Returns:
            The state that ``load_files`` needs beside the files: a tree of plain values and NumPy arrays (the open
            row's frame; the priorities, 8 bytes a row).
        """
        return {
            **self._journal.write(folder),
            "priorities": None if self.priorities is None else self.priorities.state_dict(),
        }

    def load_files(self, folder: Path, state: dict[str, Any]) -> None:
        """Restore what ``save_files`` saved, exactly. The next ``save_files`` to ``folder`` goes on from there and
        deletes what was appended beyond it.

        Raises:
            UserError: the state is of a replay of another layout, or the files are missing, too short, or were
                continued from an earlier state.
        """
        if (state["priorities"] is None) != (self.priorities is None):
            raise UserError(
                "the saved replay was prioritised and this one is not, or the reverse: keep this setting to resume"
            )
        self._journal.read(folder, state)
        if self.priorities is not None:
            self.priorities.load_state_dict(state["priorities"])


def _to_numpy(values: Tensor | npt.NDArray[Any]) -> npt.NDArray[Any]:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _check_memory(needed: int, what: str, device: torch.device) -> None:
    """Raises ``UserError`` where ``needed`` bytes are more than the machine (or the GPU) has."""
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
    elif hasattr(os, "sysconf"):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    else:  # not known here: let the allocation fail
        return
    if needed > memory:
        raise UserError(
            f"{what} takes {needed / 1e9:.1f} GB, more than the {memory / 1e9:.1f} GB of memory here: "
            "choose a smaller capacity"
        )
