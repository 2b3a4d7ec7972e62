"""The policy on a few observations: compiled or not, it is the policy of the networks as they are now."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mcurl import native
from mcurl.native import convolutions, dense, frames
from mcurl.networks.acting import PixelPolicy
from mcurl.networks.encoders import Convolutions, FeatureHead, centre_crop
from mcurl.networks.heads import DeterministicActor, GaussianActor

ACTIONS, CROP = 3, 64
compiled = pytest.mark.skipif(
    not (convolutions.operation(torch.bfloat16) and dense.available() and frames.available()),
    reason="no AVX2, or no compiler",
)


def policy_of(dtype: torch.dtype = torch.bfloat16, *, filters: int = 32) -> PixelPolicy:
    torch.manual_seed(0)
    body = Convolutions(9, filters, 3, dtype=dtype)
    for parameter in body.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape)
    return PixelPolicy(CROP, body, FeatureHead(filters, body.output_size(CROP)), GaussianActor(50, ACTIONS, 128))


def frames_of(n: int, size: int = 71) -> Tensor:
    return torch.randint(0, 256, (n, 9, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(n))


def plain(policy: PixelPolicy, observations: Tensor) -> Tensor:
    with torch.no_grad(), native.without_operations(native.ALL, "the plain layers"):
        maps = policy.convolutions(centre_crop(observations, CROP))
        return torch.stack(policy.actor(policy.head(maps)))


def result(policy: PixelPolicy, observations: Tensor) -> Tensor:
    return torch.stack(policy(observations))


@pytest.mark.parametrize("n", [1, 2, 10, dense.MAX_ROWS, dense.MAX_ROWS + 1])
@pytest.mark.parametrize("filters", [32, 8])
def test_is_the_policy_of_the_networks(n: int, filters: int) -> None:
    policy, observations = policy_of(filters=filters), frames_of(n)
    ours, theirs = result(policy, observations), plain(policy, observations)
    assert ours.shape == (2, n, ACTIONS)
    assert not ours.requires_grad
    assert (ours - theirs).norm() < 0.02 * theirs.norm()


def test_float32_stays_float32() -> None:
    policy, observations = policy_of(torch.float32), frames_of(2)
    torch.testing.assert_close(result(policy, observations), plain(policy, observations))


@pytest.mark.parametrize("n", [1, 10, dense.MAX_ROWS + 1])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_drqv2s_policy_is_that_of_its_networks(n: int, dtype: torch.dtype) -> None:
    """With an offset of the pixels, and tanh on the features; also after an update of the weights."""
    torch.manual_seed(0)
    body, actor = Convolutions(9, 32, 3, dtype=dtype, offset=0.5), DeterministicActor(50, ACTIONS, 128)
    head = FeatureHead(32, body.output_size(CROP), tanh=True)
    policy, observations = PixelPolicy(CROP, body, head, actor), frames_of(n, CROP)
    for _ in range(2):
        for parameter in body.parameters():
            parameter.data += 0.05 * torch.randn(parameter.shape)
        with torch.no_grad(), native.without_operations(native.ALL, "the plain layers"):
            expected = actor(head(body(observations)))
        assert (policy(observations) - expected).norm() < 0.03 * expected.norm()


@compiled
def test_compiled_operations_are_used() -> None:
    native._used.clear()
    policy_of()(frames_of(2))
    assert {convolutions.operation(torch.bfloat16), "dense", "frames"} <= set(native.operations_used())


@compiled
def test_another_operation_serves_once_the_first_is_disabled() -> None:
    policy, observations = policy_of(), frames_of(2)
    policy(observations)
    native._used.clear()
    with native.without_operations({convolutions.operation(torch.bfloat16) or ""}, "another one is next"):
        assert (result(policy, observations) - plain(policy, observations)).norm() < 0.03
        assert convolutions.DTYPES.keys() & native.operations_used() == {convolutions.operation(torch.bfloat16)} - {
            None
        }


def test_changed_parameters_count_at_once() -> None:
    """Changed in place, as an optimizer and ``load_state_dict`` do, or replaced."""
    policy, observations = policy_of(), frames_of(2)
    before = result(policy, observations)
    for parameter in policy._parameters:
        parameter.data.mul_(1.25)
    fresh = PixelPolicy(CROP, policy.convolutions, policy.head, policy.actor)
    assert not torch.equal(result(policy, observations), before)
    assert torch.equal(result(policy, observations), result(fresh, observations))
    for parameter in policy._parameters:
        parameter.data = parameter.data / 1.25
    assert torch.allclose(result(policy, observations), before, atol=1e-2)
    policy.head.weight.data = policy.head.weight.data.contiguous()
    assert torch.allclose(result(policy, observations), before, atol=1e-2)
    policy.head.weight.data.neg_()
    after = result(policy, observations)
    policy.head.channels_last = False
    assert torch.allclose(result(policy, observations), after, atol=1e-2)
    assert torch.allclose(after, plain(policy, observations), atol=0.05)


@compiled  # oneDNN's order of sums depends on the number of observations
def test_an_observation_does_not_depend_on_the_others() -> None:
    policy, observations = policy_of(), frames_of(10)
    every = result(policy, observations)
    for i in (0, 6, 9):
        assert torch.equal(result(policy, observations[i : i + 1])[:, 0], every[:, i])


def test_observations_may_lie_in_any_order_and_have_any_size() -> None:
    policy, observations = policy_of(), frames_of(2)
    expected = result(policy, observations)
    turned = observations.transpose(2, 3).contiguous().transpose(2, 3)
    assert torch.equal(result(policy, turned), expected)
    larger = frames_of(2, 100)
    assert (result(policy, larger) - plain(policy, larger)).norm() < 0.02 * plain(policy, larger).norm()


def test_it_can_be_switched_off_between_calls() -> None:
    policy, observations = policy_of(), frames_of(2)
    policy(observations)
    with native.without_operations(native.ALL, "the plain layers"):
        assert torch.equal(result(policy, observations), plain(policy, observations))
