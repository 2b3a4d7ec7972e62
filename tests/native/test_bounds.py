"""Nothing is read past the end of the arguments, nor written past the end of the workspace: the next page is
forbidden. In processes of their own, since an access kills the process."""

from __future__ import annotations

import subprocess
import sys

import pytest
from helpers import layers_run

from mcurl.native import convolutions, dense, frames

needs_layers = pytest.mark.skipif(not layers_run(), reason="neither AMX nor AVX-512 for them, or no compiler")
needs_winograd = pytest.mark.skipif(not convolutions.available("winograd"), reason="no AVX2, or no compiler")
AT_THE_END = """
import ctypes, mmap
import numpy as np
import torch
from mcurl import native
from mcurl.native import frames
from mcurl.native.amx import encoder

native.VECTORS = native.AMX
PAGE = mmap.PAGESIZE
libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
held = []

def at_the_end(shape, values=None):
    '''A uint8 array right before a page that may not be read.'''
    size = int(np.prod(shape))
    pages = mmap.mmap(-1, (-(-size // PAGE) + 1) * PAGE)
    held.append(pages)
    start = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    assert libc.mprotect(start + len(pages) - PAGE, PAGE, 0) == 0
    array = torch.from_numpy(np.frombuffer(pages, np.uint8, size, len(pages) - PAGE - size)).view(shape)
    return array.copy_(torch.randint(0, 256, shape, dtype=torch.uint8) if values is None else values)
"""

CUT = """
for channels, size, places in [(1, 84, range(0, 5)), (3, 28, range(0, 4)), (1, 25, [0])]:
    ring = at_the_end((6, channels, size, size))
    plain = ring.clone()
    blocks = size // 25
    for top in places:
        for down in (-4, 0, 1, 4):
            n, crop = 3, size - max(places)
            last, at, right = np.array([[3, 4], [4, 5], [5, 5]]), np.full(n, top), np.array([down, 4, -4])
            outputs = []
            for source in (ring, plain):
                out = at_the_end((n, blocks, blocks, 5, 5, 2 * channels, 5, 5), torch.tensor(7, dtype=torch.uint8))
                frames.cut(source, last, at, at, np.full(n, down), right, crop, out)
                outputs.append(out)
            assert torch.equal(*outputs)
print("inside")
"""

GATHER = """
ring = at_the_end((6, 3, 20, 20))
for slots in ([[4, 5], [5, 5]], [[3, 4, 5], [-1, 5, 5]]):
    channels = 3 * len(slots[0])
    for size in range(1, 20):
        corner = np.full(2, 20 - size)
        out = at_the_end((2, size, size, channels)).permute(0, 3, 1, 2)
        frames.gather(ring, np.array(slots), corner, corner, 0 * corner, 0 * corner, size, out)
        assert torch.equal(out[1, -3:], ring[5, :, 20 - size :, 20 - size :])
        for shift in (1 - size, (1 - size) // 2, size // 2, size - 1):
            there = np.full(2, shift)
            frames.gather(ring, np.array(slots), corner, corner, there, -there, size, out)
            y, x = (np.clip(np.arange(size) - by, 0, size - 1) for by in (shift, -shift))
            assert torch.equal(out[1, -3:], ring[5, :, 20 - size :, 20 - size :][:, y][:, :, x])
print("inside")
"""

ENCODE = """
from mcurl.networks.atari import DataEfficientEncoder
for shape in [(4, 84, 84), (1, 28, 28), (3, 60, 60), (20, 25, 25)]:
    for n in (1, 2, 16, 19):
        module = DataEfficientEncoder(shape, dtype=torch.bfloat16)
        patches = at_the_end((n, module.rows * module.columns * 25, shape[0] * 25))
        parameters = tuple(parameter.detach() for parameter in module.parameters())
        features, hidden = encoder.forward(patches, parameters, save=True)
        gradients = encoder.backward(patches, parameters, hidden, features, features)
        assert torch.equal(encoder.forward(patches.clone(), parameters, save=False)[0], features)
        again = encoder.backward(patches.clone(), parameters, hidden, features, features)
        assert all(map(torch.equal, gradients, again))
print("inside")
"""

LAYERS = """
from mcurl.native.amx import dueling, mlp, transformer

def numbers(*shape):
    '''Float32 that are small, right before the page.'''
    size = int(np.prod(shape))
    return at_the_end((4 * size,), torch.randn(size).view(torch.uint8)).view(torch.float32).view(shape)

def workspace(size, full):
    return at_the_end((4 * size,), torch.tensor(0, dtype=torch.uint8)).view(torch.float32)

dueling.workspace = transformer.workspace = workspace
mlp.kept_workspace = lambda size: workspace(size, full=False).fill_(torch.nan)

for rows, features, actions, atoms in [(1, 32, 2, 5), (37, 64, 6, 51), (32, 96, 18, 51)]:
    x = numbers(rows, features)
    sizes = [(64, features), (atoms, 64), (64, features), (actions * atoms, 64)]
    layers = [numbers(*shape) for out, of in sizes for shape in [(out, of), (out, of), (out,), (out,)]]
    noise = numbers(sum(map(sum, sizes)))
    logits, hidden = dueling.forward(x, layers, noise)
    dueling.backward(numbers(*logits.shape), hidden, x, layers, noise)
for n, of, hidden, to, nets in [(1, 1, 32, 1, 1), (37, 50, 96, 33, 2), (32, 51, 320, 4, 1), (64, 64, 64, 32, 2)]:
    x, shapes = numbers(n, of), [(hidden, of), (hidden,), (hidden, hidden), (hidden,), (to, hidden), (to,)]
    parameters = [numbers(*shape) for shape in shapes * nets]
    out, saved = mlp.forward(x, parameters, save=True)
    there = numbers(len(saved)).copy_(saved)
    assert out.isfinite().all()
    for needs in [(True, True), (False, True), (True, False)]:
        of_x, others = mlp.backward(
            numbers(*out.shape), x, there, parameters, need_x=needs[0], need_parameters=needs[1]
        )
        assert all(g.isfinite().all() for g in [of_x, *others] if g is not None)
for batch, length, width, hidden in [(1, 1, 32, 32), (5, 10, 64, 96), (4, 16, 32, 64), (3, 33, 32, 32)]:
    h = numbers(batch, length, width)
    padded = at_the_end((batch, length), torch.tensor(0, dtype=torch.uint8)).view(torch.bool)
    words = at_the_end((2 * 2 * batch * length * width * 2,)).view(torch.int16)
    d, f = width, hidden
    shapes = [(3 * d, d), (3 * d,), (d,), (d,), (d,), (d,), (f, d), (f,), (d, f), (d,)]
    parameters = [numbers(*shape) for shape in shapes * 2]
    dropout = (words, -20000, 1.2)
    out, saved = transformer.forward(h, padded, dropout, parameters, 0.3, rounded=False)
    transformer.backward(numbers(batch, length, width), saved, dropout, parameters, 0.3, rounded=False)
    assert out.isfinite().all()
print("inside")
"""

DENSE = """
from mcurl.native import dense

def numbers(*shape):
    '''Float32 right before the page.'''
    size = int(np.prod(shape))
    return at_the_end((4 * size,), torch.randn(size).view(torch.uint8)).view(torch.float32).view(shape)

torch_empty = torch.empty
dense.torch.empty = lambda shape: numbers(*([shape] if isinstance(shape, int) else shape))
for rows in (1, 3, 10):
    for widths in [(4100, 50, 7, 2), (5, 3), (16, 4), (33, 1, 6)]:
        layers = [
            dense.Layer(numbers(o, i), numbers(o), relu=True, norm=(numbers(o), numbers(o)))
            for i, o in zip(widths, widths[1:])
        ]
        out = dense.bind(rows, layers)(numbers(rows, widths[0]))
        assert out.isfinite().all()
print("inside")
"""

CONVOLUTIONS = """
from mcurl.native import convolutions

def numbers(*shape, dtype=torch.float32):
    '''Numbers that are small, right before the page.'''
    values = (torch.randn(int(np.prod(shape))) / 8).to(dtype).view(torch.uint8)
    return at_the_end(values.shape, values).view(dtype).view(shape)

def channels_last(x):
    return x.permute(0, 3, 1, 2)

def workspace(size):
    '''NaN, so that nothing may count that was not written before.'''
    assert size > 0 and size % 16 == 0
    return at_the_end((4 * size,), torch.tensor(255, dtype=torch.uint8)).view(torch.float32)

def empty(size, dtype):
    '''NaN, right before the page.'''
    numbers = int(np.prod(size))
    return at_the_end((numbers * dtype.itemsize,), torch.tensor(255, dtype=torch.uint8)).view(dtype).view(size)

torch_empty = torch.empty
convolutions.kept_workspace = workspace
dtypes = convolutions.DTYPES[OPERATION]
native.disable(convolutions.DTYPES.keys() - {OPERATION}, "another one is tested")
assert all(convolutions.operation(dtype) == OPERATION for dtype in dtypes)

for n, channels, height, width, layers in [
    (1, 9, 84, 84, 4), (3, 9, 20, 21, 4), (9, 3, 11, 12, 3), (2, 9, 3, 3, 1), (2, 9, 4, 3, 1), (1, 12, 15, 14, 2),
    (2, 42, 9, 9, 1),
]:
    bytes_of = channels_last(at_the_end((n, height, width, channels)))
    weights = [channels_last(numbers(32, 3, 3, 32 if layer else channels)) for layer in range(layers)]
    parameters = [*weights, *(numbers(32) for _ in range(layers))]
    for threads, dtype, wide in [(threads, dtype, threads == 2) for threads in (1, 2, 3) for dtype in dtypes]:
        torch.set_num_threads(threads)
        pixels = channels_last(numbers(n, height, width, channels, dtype=dtype)) if wide else bytes_of
        torch.empty = empty
        maps, hidden = convolutions.forward(pixels, parameters, dtype, save=True)
        torch.empty = torch_empty
        assert hidden is None or hidden.view(dtype).isfinite().all()
        assert torch.equal(convolutions.forward(pixels, parameters, dtype, save=False)[0], maps)
        assert maps.isfinite().all()
        shape = maps.permute(0, 2, 3, 1).shape
        there = numbers(*shape, dtype=dtype).copy_(maps.permute(0, 2, 3, 1))
        if hidden is not None:
            hidden = numbers(len(hidden)).copy_(hidden)
        gradient = numbers(*shape, dtype=dtype)
        for lowest in range(layers):
            gradients = convolutions.backward(
                channels_last(gradient), pixels, hidden, channels_last(there), parameters, lowest=lowest
            )
            assert all(g.isfinite().all() for g in gradients if g is not None)
print("inside")
"""

FEATURES = """
from mcurl.native.amx import features

def numbers(*shape, dtype=torch.float32):
    '''Numbers that are small, right before the page.'''
    values = torch.randn(int(np.prod(shape))).to(dtype).view(torch.uint8)
    return at_the_end(values.shape, values).view(dtype).view(shape)

def workspace(size):
    '''NaN, so that nothing may count that was not written before.'''
    assert size > 0 and size % 16 == 0
    return at_the_end((4 * size,), torch.tensor(255, dtype=torch.uint8)).view(torch.float32)

features.kept_workspace = workspace

for n, inputs, outputs in [(1, 32, 1), (3, 39200, 50), (16, 320, 50), (37, 352, 64), (64, 2304, 33)]:
    maps, weight = numbers(n, inputs, dtype=torch.bfloat16), numbers(outputs, inputs)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        assert features.forward(maps, weight).isfinite().all()
        for needs in [(True, True), (False, True), (True, False)]:
            gradients = features.backward(
                numbers(n, outputs), maps, weight, need_maps=needs[0], need_weight=needs[1]
            )
            assert all(g.isfinite().all() for g in gradients if g is not None)
print("inside")
"""


@pytest.mark.parametrize(
    "work",
    [
        pytest.param(CUT, id="cut", marks=pytest.mark.skipif(not frames.available(), reason="no compiler")),
        pytest.param(GATHER, id="gather", marks=pytest.mark.skipif(not frames.available(), reason="no compiler")),
        pytest.param(DENSE, id="dense", marks=pytest.mark.skipif(not dense.available(), reason="no compiler")),
        pytest.param(ENCODE, id="encode", marks=needs_layers),
        pytest.param(LAYERS, id="layers", marks=needs_layers),
        *(
            pytest.param(f"OPERATION = {name!r}{CONVOLUTIONS}", id=name, marks=mark)
            for name, mark in (("amx.convolutions", needs_layers), ("winograd", needs_winograd))
        ),
        pytest.param(FEATURES, id="features", marks=needs_layers),
    ],
)
def test_reads_nothing_behind_the_end(work: str) -> None:
    done = subprocess.run([sys.executable, "-c", AT_THE_END + work], capture_output=True, text=True, timeout=120)
    assert done.stdout == "inside\n", done.stderr
