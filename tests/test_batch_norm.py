"""Batch norm of several voxels at a time, beside PyTorch's own."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from synpol.model.batch_norm import ByLines, normalise_by_lines
from synpol.model.rsunet import RSUNet


def volumes(channels, batch=2, sections=4, side=8):
    made = 3 * torch.randn(batch, channels, sections, side, side) + 5
    return made.contiguous(memory_format=torch.channels_last_3d)


def norm_of(channels):
    norm = nn.BatchNorm3d(channels)
    nn.init.uniform_(norm.weight, 0.5, 2)
    nn.init.normal_(norm.bias)
    return norm


def learned(norm, x, wanted):
    """The result of a norm and an activation in place, and all gradients."""
    x = x.clone().requires_grad_()
    result = nn.functional.relu(norm(x), inplace=True)
    result.backward(wanted.to(result.dtype))
    return [result.detach(), x.grad, norm.weight.grad, norm.bias.grad]


def off(found, expected):
    found = found.to(expected.dtype)
    return float((found - expected).square().mean().sqrt() / expected.square().mean().sqrt())


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("channels", [1, 8, 12, 18, 24])
def test_result_gradients_and_statistics_are_those_of_a_batch_norm(channels, threads):
    torch.manual_seed(channels)
    plain = norm_of(channels)
    mine, exact = ByLines(copy.deepcopy(plain)), copy.deepcopy(plain).double()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for _ in range(2):
            x, wanted = volumes(channels), torch.randn(2, channels, 4, 8, 8)
            for each in (plain, mine, exact):
                each.zero_grad()
            expected = learned(exact, x.double(), wanted)
            for found, theirs, right in zip(
                learned(mine, x, wanted), learned(plain, x, wanted), expected, strict=True
            ):
                assert off(found, right) < max(2 * off(theirs, right), 1e-6)
    finally:
        torch.set_num_threads(before)
    for (name, found), right in zip(mine.named_buffers(), exact.buffers(), strict=True):
        assert torch.allclose(found.double(), right.double(), rtol=1e-5), name
    mine.eval()
    assert torch.equal(mine(x), nn.functional.batch_norm(
        x, mine.running_mean, mine.running_var, mine.weight, mine.bias
    ))  # fmt: skip


@pytest.mark.parametrize(
    "x",
    [
        volumes(8, batch=1, sections=3, side=5)[..., 1:],  # not whole lines, and with gaps
        volumes(8).contiguous(),
        volumes(8).bfloat16(),
    ],
)
def test_what_it_cannot_take_together_is_normalised_as_ever(x):
    norm = norm_of(8)
    assert torch.equal(ByLines(copy.deepcopy(norm))(x), norm(x))


def test_a_constant_channel_becomes_its_bias():
    norm = norm_of(8)
    x = volumes(8)
    x[:, 3] = 7
    assert torch.allclose(ByLines(norm)(x)[:, 3], norm.bias[3].expand(2, 4, 8, 8), atol=1e-4)


def test_a_network_keeps_its_weights_and_their_names():
    network = RSUNet((8, 16, 24), 3)
    names = list(network.state_dict())
    parameters = {name: id(each) for name, each in network.named_parameters()}
    normalise_by_lines(network)
    assert list(network.state_dict()) == names
    assert {name: id(each) for name, each in network.named_parameters()} == parameters
    made = [each for each in network.modules() if isinstance(each, nn.BatchNorm3d)]
    assert {each.num_features for each in made if isinstance(each, ByLines)} == {8, 24}
