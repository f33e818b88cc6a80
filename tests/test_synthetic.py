"""Tests of the synthetic volume: block by block equality, labels, and no give-away in grey."""

import numpy as np
import pytest
from scipy import ndimage, stats

from synpol.datasets.synthetic import SyntheticVolume
from synpol.errors import InputError

SHAPE = (28, 192, 192)


@pytest.fixture(scope="module", params=[0.0, 1.0], ids=["easy", "hard"])
def large(request):
    """Raw and labels of a large region at both ends of the difficulty."""
    return SyntheticVolume(seed=3, difficulty=request.param).region((5, 40, 70), SHAPE)


def synapse_numbers(labels):
    """Numbers of the synapses in a label array."""
    return np.unique((labels[labels > 0].astype(np.int64) + 1) // 2)


@pytest.mark.parametrize(
    ("volume", "offset", "shape", "start", "part"),
    [
        (SyntheticVolume(seed=1), (0, 0, 0), (14, 90, 100), (3, 17, 41), (9, 50, 57)),
        (SyntheticVolume(seed=2), (7, 10**6, 33), (10, 70, 60), (5, 21, 0), (5, 49, 48)),
        (
            SyntheticVolume(seed=2, difficulty=1.0),
            (90, 5, 700),
            (9, 70, 60),
            (8, 69, 59),
            (1,) * 3,
        ),
        (
            SyntheticVolume((30, 8, 8), 3, 0.5),
            (-20, -60, 11),
            (5, 110, 90),
            (1, 30, 40),
            (4, 79, 50),
        ),
    ],
)
def test_region_cut_from_a_larger_region_equals_region_made_alone(
    volume, offset, shape, start, part
):
    whole = volume.make(offset, shape)
    alone = volume.make(tuple(np.add(offset, start).tolist()), part)
    cut = tuple(slice(a, a + n) for a, n in zip(start, part, strict=True))
    assert whole[1].any()
    for a, b in zip(whole, alone, strict=True):
        assert a[cut].tobytes() == b.tobytes()


def test_regions_side_by_side_join_without_a_seam():
    volume = SyntheticVolume(seed=7)
    whole = volume.make((0, 0, 0), (8, 50, 90))
    halves = [volume.make((0, 0, x), (8, 50, 45)) for x in (0, 45)]
    assert np.intersect1d(*(half[1][half[1] > 0] for half in halves)).size  # some cross the seam
    for i in (0, 1, 2):
        assert np.array_equal(whole[i], np.concatenate([half[i] for half in halves], axis=2))


def test_the_sides_of_a_synapse_lie_in_two_neurons():
    _, labels, neurons = SyntheticVolume(seed=7).make((0, 0, 0), (20, 160, 160))
    assert neurons.dtype == np.uint64 and neurons.all()
    owners = {int(n): np.unique(neurons[labels == n]) for n in np.unique(labels) if n}
    assert len(owners) > 20
    assert all(len(owner) == 1 for owner in owners.values())
    both = [(owners[n], owners[n + 1]) for n in owners if n % 2 and n + 1 in owners]
    assert len(both) > 8 and all(pre != post for pre, post in both)


def test_same_seed_repeats_and_other_seeds_differ():
    make = [SyntheticVolume(seed=s).region((0, 0, 0), (2, 30, 30)) for s in (0, 0, 1, 2**40)]
    assert np.array_equal(make[0][0], make[1][0]) and np.array_equal(make[0][1], make[1][1])
    assert not np.array_equal(make[0][0], make[2][0])
    assert not np.array_equal(make[0][0], make[3][0])


def test_arrays_have_the_promised_form(large):
    raw, labels = large
    assert raw.shape == labels.shape == SHAPE
    assert raw.dtype == np.uint8 and labels.dtype == np.uint64
    assert 90 < raw.mean() < 190 and 20 < raw.std() < 70


def test_labels_come_in_pairs_inside(large):
    labels = large[1]
    present = set(np.unique(labels).tolist()) - {0}
    border = np.ones(SHAPE, bool)
    border[1:-1, 1:-1, 1:-1] = False
    inside = present - set(np.unique(labels[border]).tolist())
    assert len(inside) > 10
    pairs = [(label + 1) // 2 for label in inside]
    assert all(2 * n - 1 in present and 2 * n in present for n in pairs)
    assert max(present) < 2**63


def test_fill_fraction(large):
    assert 0.003 < (large[1] > 0).mean() < 0.04


def test_grey_level_alone_does_not_tell_pre_from_post(large):
    raw, labels = large
    pre, post = raw[labels % 2 == 1], raw[(labels > 0) & (labels % 2 == 0)]
    ranks = stats.rankdata(np.concatenate([pre, post]))[: len(pre)].sum()
    auc = (ranks - len(pre) * (len(pre) + 1) / 2) / (len(pre) * len(post))
    assert max(auc, 1 - auc) < 0.7


def test_sides_and_pairs_are_single_components_and_pairs_stay_apart(large):
    labels = large[1].astype(np.int64)
    at_border = set()
    for axis in range(3):
        for end in (0, -1):
            at_border |= set(synapse_numbers(np.take(labels, end, axis=axis)).tolist())
    whole = [n for n in synapse_numbers(labels).tolist() if n not in at_border]
    joined = 0
    for n in whole:
        for mask in (labels == 2 * n - 1, labels == 2 * n):
            assert mask.sum() >= 40 and ndimage.label(mask)[1] == 1
        joined += ndimage.label((labels + 1) // 2 == n)[1] == 1
    assert joined >= 0.95 * len(whole)
    pair = np.where(labels > 0, (labels + 1) // 2, 0)
    highest = ndimage.maximum_filter(pair, (1, 5, 5))
    lowest = -ndimage.maximum_filter(np.where(pair > 0, -pair, -(2**62)), (1, 5, 5))
    assert np.array_equal(highest[highest > 0], lowest[highest > 0])


def test_another_voxel_size_shows_the_same_tissue():
    coarse = SyntheticVolume((30, 16, 16), seed=5).region((0, 0, 0), (10, 90, 90))
    fine = SyntheticVolume((30, 8, 8), seed=5).region((0, 0, 0), (10, 180, 180))
    assert fine[0].shape == (10, 180, 180)
    mean = fine[0].reshape(10, 90, 2, 90, 2).mean(axis=(2, 4))
    assert np.corrcoef(mean.ravel(), coarse[0].ravel())[0, 1] > 0.6
    common = np.intersect1d(synapse_numbers(coarse[1]), synapse_numbers(fine[1]))
    assert len(common) >= 1
    same = fine[1][:, ::2, ::2] == coarse[1]
    assert same.mean() > 0.99


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"voxel_size": (30, 0, 16)}, r"voxel_size is \(30, 0, 16\); expected .*>= 1"),
        ({"voxel_size": (30, 16.5, 16)}, r"voxel_size is \(30, 16.5, 16\)"),
        ({"voxel_size": (30, 16)}, r"voxel_size is \(30, 16\); expected three whole numbers"),
        ({"difficulty": 1.5}, r"difficulty is 1.5; expected a number from 0 to 1"),
        ({"difficulty": float("nan")}, r"difficulty is nan"),
        ({"seed": -1}, r"seed is -1; expected a whole number"),
    ],
)
def test_bad_volume_arguments_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        SyntheticVolume(**arguments)


@pytest.mark.parametrize(
    ("offset", "shape", "message"),
    [
        ((0, 0, 0), (0, 5, 5), r"shape_vx is \(0, 5, 5\); expected three whole numbers >= 1"),
        ((0, 0, 0.5), (5, 5, 5), r"offset_vx is \(0, 0, 0.5\); expected three whole numbers"),
        ((0, 0, 10**9), (5, 5, 5), r"offset_vx is .*; expected a region within"),
        ((0, 0, 2**62), (5, 5, 5), r"offset_vx is .*; expected three whole numbers"),
        ((0, 0, 0), (5, 5, 10**30), r"shape_vx is .*; expected three whole numbers"),
    ],
)
def test_bad_region_arguments_are_named(offset, shape, message):
    with pytest.raises(InputError, match=message):
        SyntheticVolume().region(offset, shape)
