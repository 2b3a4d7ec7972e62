"""Gathering of stacks of frames from the ring, with a window for each stack, in the layout that an encoder reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mcurl.native import frames as native
from mcurl.replay.augment import Window
from mcurl.replay.batch import Layout
from mcurl.replay.sampling import Rows

BLANK = -1
"""Row id or slot that denotes a frame of zeros."""


class FrameGather:
    """Gathers stacks of frames by their slots.

    Args:
        frames: ``[capacity, C, H, W]`` (states: ``[capacity, D]``), on any device.
        frame_stack: K, number of frames in a stack.
        layout: see ``Replay``. The attribute ``layout`` is "planes" if the compiled functions do not support it.
    """

    def __init__(self, frames: Tensor, frame_stack: int, layout: Layout) -> None:
        self.frames, self.frame_stack, self.frame_shape = frames, frame_stack, tuple(frames.shape[1:])
        on_cpu = frames.device.type == "cpu"
        self._stack_view = _stack_view(frames, frame_stack) if on_cpu else None
        compiled = (
            frames.dtype == torch.uint8
            and on_cpu
            and len(self.frame_shape) == 3
            and frame_stack * self.frame_shape[0] <= native.MAX_CHANNELS
            and max(self.frame_shape[1:]) <= native.MAX_CROP
            and native.available()
        )
        square = compiled and self.frame_shape[1] == self.frame_shape[2] >= 25
        self.layout: Layout = layout if compiled and (square or layout != "patches") else "planes"

    def empty(self, n: int, size: int) -> Tensor:
        """Allocate uninitialised memory for ``n`` square crops of stacks, as the output of ``gather``.

        Returns:
            Layout "planes": ``[n, K*C, size, size]`` in the frames' dtype. "channels_last": the same in that memory
            format. "patches": ``uint8 [n, P, K*C*25]`` with P = 25·⌊size/25⌋².
        """
        channels = self.frame_stack * self.frame_shape[0]
        if self.layout == "patches":
            return torch.empty((n, (size // 25) ** 2 * 25, channels * 25), dtype=torch.uint8)
        return torch.empty(
            (n, channels, size, size),
            dtype=self.frames.dtype,
            device=self.frames.device,
            memory_format=torch.channels_last if self.layout == "channels_last" else torch.contiguous_format,
        )

    def gather(self, slots: Rows, window: Window | None = None, out: Tensor | None = None) -> Tensor:
        """Gather stacks of frames in slots ``int64 [N, K]``; -1 (``BLANK``): zeros. See ``Replay.gather_frames``."""
        if self.layout == "patches":
            return self._patches(slots, window or self._whole_windows(len(slots)), out)
        if window is None or self._stack_view is None:
            stacks = self.gather_indexed(slots, window)
            return stacks if out is None else out.copy_(stacks)
        if out is None:
            out = self.empty(len(slots), window.size)
        if self.layout == "planes":
            self._copy_windows(slots, window, self._stack_view, out.numpy())
        else:
            corners = (window.top, window.left, window.down, window.right)
            native.gather(self.frames, slots, *corners, window.crop, out)
        return out

    def _patches(self, slots: Rows, window: Window, out: Tensor | None) -> Tensor:
        n, side = len(slots), window.size // 25
        out = self.empty(n, window.size) if out is None else out
        corners = (window.top, window.left, window.down, window.right)
        native.cut(self.frames, slots, *corners, window.crop, out.view(n, side, side, 25 * out.shape[2]))
        return out

    def _whole_windows(self, n: int) -> Window:
        """Windows of n stacks that contain the whole square frames."""
        size = self.frame_shape[1]
        zeros = np.zeros(n, np.int64)
        return Window(size, size, zeros, zeros, zeros, zeros)

    def gather_indexed(self, slots: Rows, window: Window | None) -> Tensor:
        """``gather`` by tensor indexing, on any device and without synchronisation."""
        corners = [] if window is None else [window.top, window.left, window.down, window.right]
        numbers = self._to_device(np.column_stack([np.maximum(slots, 0), *corners]))  # one transfer
        slot = numbers[:, : self.frame_stack]
        if window is None:
            frames = self.frames.index_select(0, slot.flatten()).reshape(*slot.shape, *self.frame_shape)
        else:
            frames = self._windows(slot, numbers[:, self.frame_stack :], window)
        blank = np.flatnonzero(slots < 0)
        if len(blank):
            frames.view(-1, *frames.shape[2:]).index_fill_(0, self._to_device(blank), 0)
        stacks: Tensor = frames.flatten(1, 2)
        return stacks

    def _windows(self, slot: Tensor, corners: Tensor, window: Window) -> Tensor:
        """Windows of frames: ``[N, K, C, size, size]``.

        Lines are selected first, then the pixels of each line, so that the index tensors stay small.

        Args:
            slot: ``int64 [N, K]``, on the device.
            corners: ``int64 [N, 4]``, top, left, down and right of ``window``, on the device.
            window: the windows on the host.
        """
        channels, height, width = self.frame_shape
        offsets = torch.arange(window.size, device=slot.device)
        top, left, down, right = corners[:, :, None].unbind(1)  # [N, 1]
        y = top + (offsets - down).clamp(0, window.crop - 1)  # [N, size]
        x = left + (offsets - right).clamp(0, window.crop - 1)
        planes = (slot[:, :, None] * channels + torch.arange(channels, device=slot.device)).flatten(1)  # [N, K*C]
        lines = planes[:, :, None] * height + y[:, None]  # [N, K*C, size]
        pixels = self.frames.view(-1, width).index_select(0, lines.flatten()).view(*lines.shape, width)
        return pixels.gather(3, x[:, None, None].expand(*lines.shape, -1)).view(
            *slot.shape, channels, window.size, window.size
        )

    def _copy_windows(self, slots: Rows, window: Window, runs: npt.NDArray[Any], out: npt.NDArray[Any]) -> None:
        """``gather`` by NumPy copies, many times faster on a CPU than indexing.

        It takes one copy per stack if its frames are adjacent in the ring, else one per frame. ``runs``: see
        ``_stack_view``.
        """
        adjacent = (slots[:, 0] >= 0) & (slots[:, 1:] - slots[:, :-1] == 1).all(1)
        frames, channels = self.frames.numpy(), self.frame_shape[0]
        for i, (first, (y, x, v, u, h, w)) in enumerate(
            zip(np.where(adjacent, slots[:, 0], -1).tolist(), _visible_parts(window), strict=True)
        ):
            image = out[i]
            if first >= 0:
                image[:, v : v + h, u : u + w] = runs[first, :, y : y + h, x : x + w]
            else:
                for k, slot in enumerate(slots[i].tolist()):
                    frame = frames[slot, :, y : y + h, x : x + w] if slot >= 0 else 0
                    image[k * channels : (k + 1) * channels, v : v + h, u : u + w] = frame
            if h < window.size or w < window.size:
                _replicate(image, v, u, h, w)

    def _to_device(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self.frames.device, non_blocking=True)


def _stack_view(frames: Tensor, frame_stack: int) -> npt.NDArray[Any]:
    """All runs of K adjacent frames as overlapping views, by the slot of the first frame.

    Returns:
        ``[capacity - K + 1, K*C, H, W]``, read-only.
    """
    array = frames.numpy()
    shape = (len(array) - frame_stack + 1, frame_stack * array.shape[1], *array.shape[2:])
    return np.lib.stride_tricks.as_strided(array, shape, array.strides, writeable=False)


def _visible_parts(window: Window) -> Iterator[tuple[int, ...]]:
    """The visible part of each stack's crop: offset in the frame (y, x), offset in the output (v, u), height, width."""
    y, x = window.top + np.maximum(-window.down, 0), window.left + np.maximum(-window.right, 0)
    v, u = np.maximum(window.down, 0), np.maximum(window.right, 0)
    height = np.minimum(window.crop - np.maximum(-window.down, 0), window.size - v)
    width = np.minimum(window.crop - np.maximum(-window.right, 0), window.size - u)
    return zip(*(values.tolist() for values in (y, x, v, u, height, width)), strict=True)


def _replicate(image: npt.NDArray[Any], v: int, u: int, h: int, w: int) -> None:
    """Replicate the edges of ``image[:, v:v+h, u:u+w]`` in place: columns first, then whole rows."""
    size = image.shape[-1]
    if u > 0:
        image[:, v : v + h, :u] = image[:, v : v + h, u : u + 1]
    if u + w < size:
        image[:, v : v + h, u + w :] = image[:, v : v + h, u + w - 1 : u + w]
    if v > 0:
        image[:, :v] = image[:, v : v + 1]
    if v + h < size:
        image[:, v + h :] = image[:, v + h - 1 : v + h]
