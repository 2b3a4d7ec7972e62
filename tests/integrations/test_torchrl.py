"""M-CURL's loss in the real TorchRL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mcurl.errors import UserError

pytest.importorskip("torchrl")
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, RandomSampler, SliceSampler, TensorDictReplayBuffer
from torchrl.objectives import SoftUpdate

from mcurl.torchrl import MCurlLoss

B, T, D, SIDE = 6, 5, 8, 6
LENGTHS = [3, 9, 1, 7]


class Encoder(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(SIDE * SIDE, D), nn.LayerNorm(D))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return super().forward(pixels / 255)  # type: ignore[no-any-return]


def slices(**options: Any) -> SliceSampler:
    return SliceSampler(slice_len=T, end_key=("next", "done"), **options)


def replay(sampler: Any = None) -> Any:
    steps = sum(LENGTHS)
    sampler = sampler or slices(strict_length=False, pad_output=True)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(steps), sampler=sampler, batch_size=B * T)
    done = torch.zeros(steps, 1, dtype=torch.bool)
    done[np.cumsum(LENGTHS) - 1] = True
    pixels = torch.randint(0, 256, (steps, 1, SIDE, SIDE), dtype=torch.uint8)
    buffer.extend(TensorDict({"pixels": pixels, "next": {"done": done}}, [steps]))
    return buffer


def build(**settings: Any) -> Any:
    torch.manual_seed(0)
    return MCurlLoss(Encoder(), D, settings={"length": T, "batch": B, "dropout": 0.0, **settings})


def learn(loss: Any, optimizer: Any, updates: int) -> list[float]:
    buffer, updater, found = replay(), SoftUpdate(loss, tau=0.05), []
    for _ in range(updates):
        value = loss(buffer.sample())["loss_mcurl"]
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        updater.step()
        found.append(value.item())
    return found


@pytest.mark.filterwarnings("ignore")
def test_the_loss_falls_and_trains_the_encoder() -> None:
    loss = build()
    online = [parameter.clone() for parameter in loss.encoder.parameters()]
    target = loss.target_encoder_params.data.clone()
    found = learn(loss, torch.optim.Adam(loss.parameters(), 1e-2), 80)
    assert np.mean(found[-20:]) < 0.9 * np.mean(found[:10])
    assert not torch.equal(next(loss.encoder.parameters()), online[0])
    assert all((value != target[key]).any() for key, value in loss.target_encoder_params.items(True, True))
    assert all(not value.is_set_to(loss.encoder_params[k]) for k, value in loss.target_encoder_params.items(True, True))
    assert all(not value.requires_grad for value in loss.target_encoder_params.values(True, True))


@pytest.mark.filterwarnings("ignore")
def test_the_mask_of_the_sampler_is_the_padding() -> None:
    loss, sample = build(), replay().sample()
    padded = loss._padded(sample)
    assert padded.any()
    np.testing.assert_array_equal(~padded.ravel(), sample["collector", "mask"].numpy().ravel())
    assert sample["pixels"].shape == (B * T, 1, SIDE, SIDE)


@pytest.mark.filterwarnings("ignore")
def test_saved_and_loaded_it_gives_the_same_loss(tmp_path: Path) -> None:
    loss, sample = build(), replay().sample()
    learn(loss, torch.optim.Adam(loss.parameters(), 1e-2), 3)
    torch.save(loss.state_dict(), tmp_path / "loss.pt")
    other = MCurlLoss(Encoder(), D, settings={"length": T, "batch": B, "dropout": 0.0}, seed=9)
    other.load_state_dict(torch.load(tmp_path / "loss.pt", weights_only=True))
    assert other(sample)["loss_mcurl"] == loss(sample)["loss_mcurl"]


@pytest.mark.filterwarnings("ignore")
def test_steps_that_are_no_whole_slices_are_refused() -> None:
    with pytest.raises(UserError, match="7 steps are no whole slices: expected a multiple of length=5"):
        build()(TensorDict({"pixels": torch.zeros(7, 1, SIDE, SIDE)}, [7]))


@pytest.mark.filterwarnings("ignore")
def test_without_a_mask_slices_are_whole() -> None:
    loss = build()
    for _ in range(5):
        assert not loss._padded(replay(slices()).sample()).any()
    moved = replay(slices()).sample().exclude("index")
    assert torch.isfinite(loss(moved)["loss_mcurl"])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("sampler", [RandomSampler(), slices(strict_length=False)])
def test_steps_that_are_no_slices_are_refused(sampler: Any) -> None:
    torch.manual_seed(0)
    with pytest.raises(UserError, match=r"no slices of 5 consecutive steps: sample with SliceSampler\(slice_len=5\)"):
        build()(replay(sampler).sample())


@pytest.mark.filterwarnings("ignore")
def test_samples_without_pixels_are_refused() -> None:
    with pytest.raises(UserError, match="no 'pixels' in the sample"):
        build()(replay().sample().exclude("pixels"))


def test_its_keys_are_named() -> None:
    loss = build()
    assert loss.in_keys == ["pixels", ("collector", "mask")]
    loss.set_keys(pixels="image")
    assert loss.in_keys == ["image", ("collector", "mask")]
    assert set(loss.out_keys) <= set(loss(replay().sample().rename_key_("pixels", "image")).keys())
