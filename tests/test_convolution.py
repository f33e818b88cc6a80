"""Training on a CPU: convolutions by threes of sections, and memory that is kept."""

from __future__ import annotations

import copy
import ctypes
import platform
import subprocess
import sys

import pytest
import torch
from torch import nn

from synpol.model.convolution import ByThrees, convolve_by_threes
from synpol.model.device import keep_freed_memory
from synpol.model.rsunet import RSUNet, _Convolution


def learned(network, x, wanted, dtype=torch.float32):
    """The result of a network and the gradients of its weights, and of the input."""
    network.zero_grad()
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        result = network(x)
    result.backward(wanted.to(result.dtype))
    gradients = [p.grad.clone() for p in network.parameters()]
    return [found.detach() for found in (result, x.grad, *gradients)]


def off(found, expected):
    """Root mean square of a difference, as a share of that of what is expected."""
    found = found.to(expected.dtype)
    return float((found - expected).square().mean().sqrt() / expected.square().mean().sqrt())


@pytest.mark.parametrize("sections", [1, 2, 3, 4, 8, 18])
def test_any_number_of_sections_has_the_result_and_gradients_of_a_convolution(sections):
    torch.manual_seed(sections)
    direct = nn.Conv3d(36, 40, 3, padding=1, bias=False)
    x, wanted = torch.randn(2, 36, sections, 6, 5), torch.randn(2, 40, sections, 6, 5)
    expected = learned(direct, x, wanted)
    for layout in (torch.contiguous_format, torch.channels_last_3d):
        found = learned(ByThrees(direct.weight), x.contiguous(memory_format=layout), wanted)
        for one, other in zip(found, expected, strict=True):
            assert one.shape == other.shape and off(one, other) < 5e-6


def test_in_bfloat16_it_is_off_by_little_more_than_a_convolution():
    torch.manual_seed(0)
    direct = nn.Conv3d(36, 36, 3, padding=1, bias=False)
    x, wanted = torch.randn(1, 36, 6, 16, 16).relu(), torch.randn(1, 36, 6, 16, 16)
    exact = learned(direct, x, wanted)
    rounded = learned(direct, x, wanted, torch.bfloat16)
    found = learned(ByThrees(direct.weight), x, wanted, torch.bfloat16)
    for ours, theirs, expected in zip(found, rounded, exact, strict=True):
        assert off(theirs, expected) < 0.01 and off(ours, expected) < 0.015


def test_the_default_network_learns_the_same_under_the_same_names():
    torch.manual_seed(0)
    direct = RSUNet().to(torch.float64, memory_format=torch.channels_last_3d)
    quick = copy.deepcopy(direct)
    convolve_by_threes(quick)
    assert sum(isinstance(m, ByThrees) for m in quick.modules()) == 28  # all below the first level
    assert list(quick.state_dict()) == list(direct.state_dict())
    x, wanted = torch.rand(1, 1, 6, 32, 32).double(), torch.randn(1, 3, 6, 32, 32)
    for one, other in zip(learned(quick, x, wanted), learned(direct, x, wanted), strict=True):
        assert off(one, other) < 1e-6


def test_a_network_of_few_channels_convolves_as_it_predicts():
    network = RSUNet((8, 16, 24, 32))
    convolve_by_threes(network)
    assert not any(isinstance(m, ByThrees) for m in network.modules())


@pytest.mark.parametrize("sections", [1, 2, 3])
@pytest.mark.parametrize("threes", [False, True])
def test_few_sections_learn_in_bfloat16_as_in_float32(sections, threes):
    torch.manual_seed(1)
    network = _Convolution(8, 8, (3, 3, 3))
    if threes:
        network = ByThrees(network.weight)
    x, wanted = torch.randn(2, 8, sections, 16, 16), torch.randn(2, 8, sections, 16, 16)
    x = x.to(memory_format=torch.channels_last_3d)
    exact = learned(network, x, wanted)
    rounded = learned(network, x, wanted, torch.bfloat16)
    for one, other in zip(rounded, exact, strict=True):
        assert one.shape == other.shape
        assert off(one, other) < 0.02


REPEATED = """
import resource
from synpol.model.device import keep_freed_memory
keep_freed_memory()
before = []
for _ in range(4):
    before.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    b"x" * (1 << 26)
print(before[-1] - before[1])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives memory back")
def test_memory_that_was_freed_is_not_asked_of_the_kernel_again():
    told = subprocess.run([sys.executable, "-c", REPEATED], capture_output=True, check=True)
    assert int(told.stdout) < 2 * (1 << 26) / 4096 / 10  # pages of two arrays


@pytest.mark.parametrize("library", [object(), None])
def test_a_c_library_without_such_settings_is_left_alone(monkeypatch, library):
    def opened(_):
        if library is None:
            raise OSError("no such library")
        return library

    monkeypatch.setattr(ctypes, "CDLL", opened)
    keep_freed_memory()


def test_a_single_volume_has_the_result_that_it_has_beside_others():
    torch.manual_seed(0)
    network = RSUNet((8, 16, 24)).to(memory_format=torch.channels_last_3d).eval()
    volumes = torch.rand(2, 1, 6, 48, 48).contiguous(memory_format=torch.channels_last_3d)
    with torch.no_grad():
        assert torch.equal(network(volumes[:1]), network(volumes)[:1])
    with torch.profiler.profile() as profile:
        network.train()(volumes[:1]).sum().backward()
    names = {event.key for event in profile.key_averages()}
    assert "aten::mkldnn_convolution" in names and "aten::slow_conv3d_forward" not in names
