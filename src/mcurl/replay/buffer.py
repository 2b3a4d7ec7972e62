"""The replay: each frame stored once, in a ring; stacks, crops and n-step returns are put together when they are asked
for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mcurl.errors import UserError
from mcurl.native import frames as native
from mcurl.replay import sampling
from mcurl.replay.batch import Transitions, Window
from mcurl.replay.files import Journal
from mcurl.replay.priorities import Priorities
from mcurl.replay.sampling import Mask, Records, Rows

FrameDtype = Literal["uint8", "float32"]
Layout = Literal["planes", "channels_last", "patches"]


def bytes_needed(
    capacity: int,
    frame_shape: tuple[int, ...],
    frame_dtype: FrameDtype,
    action_shape: tuple[int, ...],
    action_dtype: npt.DTypeLike,
) -> int:
    """Memory that a full replay takes, in bytes; a tree of priorities included, which is small beside the frames."""
    frame = int(np.prod(frame_shape)) * np.dtype(frame_dtype).itemsize
    return capacity * (frame + sampling.record_dtype(action_shape, action_dtype).itemsize + 4 * 8)


class Replay:
    """A ring of rows. A row is one frame, the action taken from it, and what came of it; an episode of n transitions
    has n + 1 rows.

    `begin` opens an episode with its first frame, `append` gives the newest frame its action and adds the next one.
    Rows are named by their ids (int64, the number of rows written before; see `replay.sampling`, where the rule of
    which rows may be drawn lives). Choosing ids is apart from gathering what they name.

    Args:
        capacity: rows held; more than frame_stack + n_step.
        frame_shape: (C, H, W) of one frame, or (D,) of a state.
        frame_dtype: "uint8" or "float32".
        frame_stack: K frames make an observation, uint8 [K*C, H, W].
        stack_start: what stands before an episode's first frame: its repetition, or zeros ("blank").
        action_shape, action_dtype: of one action: (A,) and float32, or () and int64.
        n_step: transitions that a return spans, 1 <= n.
        discount: γ, 0 <= γ <= 1.
        device: where the frames lie ("cpu", "cuda"); the bookkeeping stays on the host.
        priority_alpha: draws are in proportion to priority to this power; None, and there are no prioritised draws.
        layout: on a CPU with a compiler, gather stacks in the order in which an encoder multiplies them: crops
            "channels_last", as bfloat16 (0 to 255 is exact), or any window as the "patches" of two 5×5 convolutions of
            stride 5, as uint8 (`native.cut`). "planes": uint8, as they are.

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
                f"a replay of {capacity} rows is too small: {frame_stack} frames and {n_step} steps ahead need at least {frame_stack + n_step + 1}"
            )
        _check_memory(
            bytes_needed(capacity, frame_shape, frame_dtype, action_shape, action_dtype),
            f"a replay of {capacity:,} rows",
            torch.device(device),
        )
        self.frame_shape, self.frame_stack, self.n_step, self.discount = (
            tuple(frame_shape),
            frame_stack,
            n_step,
            discount,
        )
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
        self._stacked_view = _stacked_view(self.frames, frame_stack) if self.frames.device.type == "cpu" else None
        compiled = (
            frame_dtype == "uint8" and len(frame_shape) == 3 and self.frames.device.type == "cpu" and native.available()
        )
        square = compiled and frame_shape[1] == frame_shape[2] >= 25
        self._layout: Layout = layout if compiled and (square or layout != "patches") else "planes"
        self._journal = Journal(self.frames, self.records)

    # Storing

    def begin(self, frame: npt.ArrayLike) -> None:
        """Opens an episode with its first frame. One that is still open ends as it stands, as if truncated."""
        frame = self._checked(frame)
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
        """Stores a transition: the action taken from the newest frame, and the frame that it led to (the final one
        too).

        `terminated` and `truncated` end the episode; `life_lost` ends the return only, not the episode.

        Raises:
            RuntimeError: no episode is open.
            ValueError: the frame or action has another shape or dtype than the replay.
        """
        if not self.records.open:
            raise RuntimeError("append needs an open episode: call begin with its first frame")
        frame, action = self._checked(frame), np.asarray(action)
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
        """Ends the open episode, if there is one, as if its last transition had been truncated: for environments that
        cannot be restored."""
        self.records.open = False
        self._follow()

    def _checked(self, frame: npt.ArrayLike) -> npt.NDArray[Any]:
        array = np.asarray(frame)
        if array.shape != self.frame_shape or array.dtype != self._frame_dtype:
            raise ValueError(
                f"expected a frame of shape {self.frame_shape} and {self._frame_dtype}, got {array.shape} and {array.dtype}"
            )
        return array

    def _store(self, slot: int, frame: npt.NDArray[Any]) -> None:
        # Copied first: torch wants a writable array. A GPU's driver has taken what it needs of it before copy_ returns.
        self.frames[slot].copy_(torch.from_numpy(frame.copy()), non_blocking=True)
        self._follow()

    def _follow(self) -> None:
        if self.priorities is not None:
            self.priorities.sync()

    # Counting

    @property
    def rewarded(self) -> bool:
        """Whether any transition in the ring has a reward other than 0."""
        return bool(self.records.table["reward"].any())

    def __len__(self) -> int:
        """Rows held."""
        return self.records.written - self.records.oldest

    @property
    def written(self) -> int:
        """Rows ever written."""
        return self.records.written

    @property
    def drawable(self) -> int:
        """Transitions that may be drawn now."""
        return int(self._transition_spans().sizes.sum())

    def _transition_spans(self) -> sampling.Spans:
        return sampling.transitions(self.records, self.frame_stack, self.n_step)

    # Choosing

    def uniform(self, batch: int, rng: np.random.Generator) -> Rows:
        """Ids of `batch` transitions, independent and uniform. Raises `NothingToDraw` where `drawable` is 0."""
        return self._transition_spans().draw(batch, rng)[0]

    def observations(self, batch: int, rng: np.random.Generator) -> Rows:
        """Ids of `batch` observations of the whole replay, final ones included, independent and uniform. Raises
        `NothingToDraw` where no row is held."""
        return sampling.observations(self.records, self.frame_stack).draw(batch, rng)[0]

    def sequences(
        self, batch: int, length: int, rng: np.random.Generator, cross_episodes: bool = False
    ) -> tuple[Rows, Mask] | None:
        """Ids [batch, length] of consecutive rows, and which positions are padding [batch, length]; None where there is
        nothing to draw yet.

        A sequence stays in one episode, may begin before it and end after it, and is padded there (see
        `sampling.draw_sequences`). With `cross_episodes` it runs on into the next episode instead, and nothing is
        padded.
        """
        try:
            if cross_episodes:
                rows = sampling.draw_runs(self.records, self.frame_stack, length, batch, rng)
                return rows, np.zeros(rows.shape, np.bool_)
            return sampling.draw_sequences(self.records, self.frame_stack, length, batch, rng)
        except sampling.NothingToDraw:
            return None

    def prioritised(self, batch: int, rng: np.random.Generator, beta: float) -> tuple[Rows, npt.NDArray[np.float32]]:
        """Ids of `batch` transitions, stratified, in proportion to priority ** exponent, and their importance weights
        (N·P)^-β over the batch's maximum.

        Raises:
            NothingToDraw: `drawable` is 0.
            RuntimeError: the replay was made without priorities.
        """
        return self._priorities().draw(batch, rng, beta)

    def reprioritise(self, rows: Tensor | Rows, priorities: Tensor | npt.NDArray[Any]) -> None:
        """Sets the priorities of drawn transitions to |priorities| [B]. Rows overwritten since are ignored. Raises
        `ValueError` where one is not finite."""
        self._priorities().update(_on_host(rows), _on_host(priorities))

    def _priorities(self) -> Priorities:
        if self.priorities is None:
            raise RuntimeError("this replay has no priorities: make it with priority_alpha=0.5")
        return self.priorities

    # Gathering

    def transitions(
        self,
        rows: Rows,
        *,
        window: Window | None = None,
        next_window: Window | None = None,
        weights: npt.NDArray[np.float32] | None = None,
    ) -> Transitions:
        """The n-step transitions [B] from `rows`, observations cut by `window` and next observations by `next_window`.

        Raises:
            ValueError: a row may not be drawn (overwritten since, the last of its episode, or its return not whole
                yet).
        """
        if not sampling.is_drawable(self.records, rows, self.frame_stack, self.n_step).all():
            raise ValueError("a row is not a transition that may be drawn (any more)")
        length, ended = sampling.n_step_windows(self.records, rows, self.n_step)
        ahead = np.arange(self.n_step)
        rewards = np.where(ahead < length[:, None], self.records.of("reward", rows[:, None] + ahead), 0.0)
        discount = np.where(ended, 0.0, self.discount**length)
        return Transitions(
            obs=self.stacks(rows, window),
            action=self._sent(self.records.of("action", rows)),
            reward=self._sent((rewards @ self.discount**ahead).astype(np.float32)),
            next_obs=self.stacks(rows + length, next_window),
            discount=self._sent(discount.astype(np.float32)),
            rows=torch.from_numpy(rows),
            weights=self._sent(np.ones(len(rows), np.float32) if weights is None else weights),
        )

    def empty(self, n: int, size: int) -> Tensor:
        """Room for `n` square crops of stacks, as `stacks` fills it: [n, K*C, size, size], uint8 or bfloat16
        channels-last, or uint8 patches (`layout`)."""
        channels = self.frame_stack * self.frame_shape[0]
        if self._layout == "patches":
            return torch.empty((n, (size // 25) ** 2 * 25, channels * 25), dtype=torch.uint8)
        if self._layout == "channels_last":
            return torch.empty((n, channels, size, size), dtype=torch.bfloat16, memory_format=torch.channels_last)
        return torch.empty((n, channels, size, size), dtype=self.frames.dtype, device=self.frames.device)

    def stacks(self, rows: Rows, window: Window | None = None, out: Tensor | None = None) -> Tensor:
        """The observations of `rows` [N], each cut by its own window: [N, K*C, h, w], as `empty` makes room for them;
        whole frames in the frames' dtype.

        Gathers and cuts in one pass over the ring. `out`, if given, is written and returned.

        Raises:
            ValueError: a row was overwritten or its stack reaches into overwritten rows, or the window is of another
                number of stacks, or of states.
        """
        held = sampling.observations(self.records, self.frame_stack)
        if len(rows) and (rows.min() < held.first[0] or rows.max() >= held.stop[0]):
            raise ValueError("a row to gather has no whole stack in the replay (any more)")
        if window is not None and (len(window) != len(rows) or len(self.frame_shape) != 3):
            raise ValueError(f"{len(window)} windows of images for {len(rows)} stacks of {self.frame_shape}")
        if self._layout == "patches":
            window = window or self._whole(len(rows))
            out = self.empty(len(rows), window.size) if out is None else out
            blocks = (window.size // 25, window.size // 25)
            slots, places = self._stack_slots(rows)[0], (window.top, window.left, window.down, window.right)
            native.cut(self.frames, slots, *places, window.crop, out.view(len(out), *blocks, -1))
            return out
        if window is None or self._stacked_view is None:
            found = self._stacks_indexed(rows, window)
            return found if out is None else out.copy_(found)
        if out is None:
            out = self.empty(len(rows), window.size)
        if out.dtype != torch.bfloat16:
            self._copy_windows(rows, window, self._stacked_view, out.numpy())
        elif window.is_plain:
            native.gather(self.frames, self._stack_slots(rows)[0], window.top, window.left, out)
        else:
            out.copy_(self._stacks_indexed(rows, window))
        return out

    def _whole(self, n: int) -> Window:
        """Whole square frames as windows of n stacks."""
        size = self.frame_shape[1]
        nothing = np.zeros(n, np.int64)
        return Window(size, size, nothing, nothing, nothing, nothing)

    def _stacks_indexed(self, rows: Rows, window: Window | None) -> Tensor:
        """`stacks` on any device, without waiting for it: whole lines first, then their pixels, so that indices stay
        small."""
        slots, _ = self._stack_slots(rows)
        corners = [] if window is None else [window.top, window.left, window.down, window.right]
        sent = self._sent(np.column_stack([slots, *corners]))  # one transfer
        slot = sent[:, : self.frame_stack]
        if window is None:
            found = self.frames.index_select(0, slot.clamp_min(0).flatten()).reshape(*slot.shape, *self.frame_shape)
        else:
            found = self._windows(slot.clamp_min(0), sent[:, self.frame_stack :], window)
        if self._blank:
            found = found * (slot >= 0).view(*slot.shape, *[1] * len(self.frame_shape))
        stacks: Tensor = found.flatten(1, 2)
        return stacks

    def _windows(self, slot: Tensor, corners: Tensor, window: Window) -> Tensor:
        """The windows [N, K, C, size, size] of the frames in `slot` [N, K]; `corners` [N, 4] holds `window` on the
        device."""
        channels, height, width = self.frame_shape
        along = torch.arange(window.size, device=slot.device)
        top, left, down, right = corners[:, :, None].unbind(1)  # [N, 1]
        y = top + (along - down).clamp(0, window.crop - 1)  # [N, size]
        x = left + (along - right).clamp(0, window.crop - 1)
        planes = (slot[:, :, None] * channels + torch.arange(channels, device=slot.device)).flatten(1)  # [N, K*C]
        lines = planes[:, :, None] * height + y[:, None]  # [N, K*C, size]
        found = self.frames.view(-1, width).index_select(0, lines.flatten()).view(*lines.shape, width)
        return found.gather(3, x[:, None, None].expand(*lines.shape, -1)).view(
            *slot.shape, channels, window.size, window.size
        )

    def _copy_windows(self, rows: Rows, window: Window, whole: npt.NDArray[Any], out: npt.NDArray[Any]) -> None:
        """`stacks` as one NumPy copy per stack where its frames lie side by side, else one per frame: on a CPU many
        times faster than indexing."""
        slots, before = self._stack_slots(rows)
        together = ~before[:, 0] & (slots[:, 0] <= slots[:, -1])
        single, channels = self.frames.numpy(), self.frame_shape[0]
        for i, (first, (y, x, v, u, h, w)) in enumerate(
            zip(np.where(together, slots[:, 0], -1).tolist(), _places(window), strict=True)
        ):
            image = out[i]
            if first >= 0:
                image[:, v : v + h, u : u + w] = whole[first, :, y : y + h, x : x + w]
            else:
                for k, slot in enumerate(slots[i].tolist()):
                    frame = single[slot, :, y : y + h, x : x + w] if slot >= 0 else 0
                    image[k * channels : (k + 1) * channels, v : v + h, u : u + w] = frame
            if h < window.size or w < window.size:
                _replicate(image, v, u, h, w)

    def _stack_slots(self, rows: Rows) -> tuple[npt.NDArray[np.int64], Mask]:
        """The slot of each frame of each stack [N, K], -1 for a blank one, and which frames come before their episode
        [N, K]."""
        frame_rows, before = sampling.stack_rows(self.records, rows, self.frame_stack)
        slots = frame_rows % self.records.capacity
        if self._blank:
            slots[before] = -1
        return slots, before

    def _sent(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self.frames.device, non_blocking=True)

    # Saving

    def write(self, folder: Path) -> dict[str, Any]:
        """Appends to the files in `folder` the rows that became final since the last call, and gives the state that
        `read` needs beside them.

        The state is a tree of plain values and NumPy arrays (the open row's frame, the priorities: 8 bytes a row). The
        files of earlier states stay valid; `files.prune(folder, state["oldest"])` deletes what only states older than
        that one need.
        """
        return {
            **self._journal.write(folder),
            "priorities": None if self.priorities is None else self.priorities.state_dict(),
        }

    def read(self, folder: Path, state: dict[str, Any]) -> None:
        """Restores what `write` saved, exactly; the next `write` to `folder` goes on from there and drops what was
        appended beyond it.

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


def _stacked_view(frames: Tensor, frame_stack: int) -> npt.NDArray[Any]:
    """All runs of K frames that lie side by side, as overlapping views: [capacity - K + 1, K*C, H, W], by the slot of
    the first."""
    array = frames.numpy()
    shape = (len(array) - frame_stack + 1, frame_stack * array.shape[1], *array.shape[2:])
    return np.lib.stride_tricks.as_strided(array, shape, array.strides, writeable=False)


def _places(window: Window) -> Iterator[tuple[int, ...]]:
    """For each sample, where the part of its crop that shows begins in the frame (y, x) and in the output (v, u), and
    its height and width."""
    y, x = window.top + np.maximum(-window.down, 0), window.left + np.maximum(-window.right, 0)
    v, u = np.maximum(window.down, 0), np.maximum(window.right, 0)
    height = np.minimum(window.crop - np.maximum(-window.down, 0), window.size - v)
    width = np.minimum(window.crop - np.maximum(-window.right, 0), window.size - u)
    return zip(*(values.tolist() for values in (y, x, v, u, height, width)), strict=True)


def _replicate(image: npt.NDArray[Any], v: int, u: int, h: int, w: int) -> None:
    """Repeats the edges of the filled part image[:, v:v+h, u:u+w] outwards, in place: sideways first, then whole
    rows."""
    size = image.shape[-1]
    if u > 0:
        image[:, v : v + h, :u] = image[:, v : v + h, u : u + 1]
    if u + w < size:
        image[:, v : v + h, u + w :] = image[:, v : v + h, u + w - 1 : u + w]
    if v > 0:
        image[:, :v] = image[:, v : v + 1]
    if v + h < size:
        image[:, v + h :] = image[:, v + h - 1 : v + h]


def _on_host(values: Tensor | npt.NDArray[Any]) -> npt.NDArray[Any]:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _check_memory(needed: int, what: str, device: torch.device) -> None:
    """Raises `UserError` where `needed` bytes are more than the machine (or the GPU) has."""
    if device.type == "cuda":
        there = torch.cuda.get_device_properties(device).total_memory
    elif hasattr(os, "sysconf"):
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    else:  # not known here: let the allocation fail
        return
    if needed > there:
        raise UserError(
            f"{what} takes {needed / 1e9:.1f} GB, more than the {there / 1e9:.1f} GB of memory here: choose a smaller capacity"
        )
