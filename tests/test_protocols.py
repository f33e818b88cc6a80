"""Scores by other people's protocols, on cases worked out by hand."""

import numpy as np
import pytest

from synpol import InputError
from synpol.evaluation.protocols import cremi_partners, lin2020, side_ends


def box(volume, label, z, y, x):
    volume[slice(*z), slice(*y), slice(*x)] = label


def test_lin2020_counts_both_ways_by_hand():
    shape = (40, 40, 60)
    truth, predicted = np.zeros(shape, np.uint64), np.zeros(shape, np.uint64)
    # found: truth 6 x 10 x 10 = 600 voxels; predicted the same box, whose dilation by a cross has
    # 600 + 2 * (60 + 60 + 100) = 1040 voxels, so the IoU is 600 / 1040 = 0.577
    box(truth, 1, (16, 22), (5, 15), (5, 10))
    box(truth, 2, (16, 22), (5, 15), (10, 15))
    box(predicted, 7, (16, 22), (5, 15), (5, 11))
    box(predicted, 8, (16, 22), (5, 15), (11, 15))
    # one predicted object over two true synapses, numbered 9/10: an object of 2 * 600 voxels and a
    # gap of one voxel that its two pieces' dilations close
    box(truth, 3, (16, 22), (25, 35), (5, 15))
    box(truth, 6, (16, 22), (25, 35), (16, 26))
    box(predicted, 9, (16, 22), (25, 35), (5, 15))
    box(predicted, 10, (16, 22), (25, 35), (16, 26))
    # too small once dilated: 2 x 4 x 4 grows to 2*16 + 2*(8 + 8 + 16) = 96 < 300 voxels
    box(truth, 11, (20, 22), (5, 9), (40, 44))
    box(predicted, 11, (20, 22), (5, 9), (40, 44))
    # in the masked sections: neither counts
    box(truth, 13, (2, 8), (5, 15), (40, 50))
    box(predicted, 13, (2, 8), (5, 15), (40, 50))
    # invented
    box(predicted, 15, (16, 22), (25, 35), (40, 50))
    score = lin2020(predicted, truth)
    # the double object: 1200, the gap of 6 x 10, and a layer on every face of the two boxes that is
    # not in the gap: 1260 + 2 * (6*10 + 6*20 + 10*20) = 2020, so each true half has IoU 600 / 2020
    assert (score.predicted_found, score.predicted) == (2, 3)
    assert (score.truth_found, score.truth) == (3, 4)
    assert score.precision == pytest.approx(2 / 3) and score.recall == pytest.approx(3 / 4)
    stricter = lin2020(predicted, truth, iou=600 / 2020)  # above, not at
    assert (stricter.predicted_found, stricter.truth_found) == (1, 1)
    assert lin2020(predicted, truth, iou=0.57).predicted_found == 1
    assert lin2020(predicted, truth, iou=0.58).predicted_found == 0
    everything = lin2020(predicted, truth, margin=0, min_size=97)
    assert (everything.predicted, everything.truth) == (4, 5)
    assert lin2020(predicted, truth, margin=0, min_size=96).predicted == 5


def test_lin2020_sees_corners_as_contacts():
    predicted = np.zeros((6, 20, 20), np.uint64)
    predicted[0, 2, 2] = predicted[3, 4, 4] = 1  # dilated, (1, 2, 2) and (2, 4, 4) do not touch
    assert lin2020(predicted, predicted, margin=0, min_size=1).predicted == 2
    predicted[2, 3, 3] = 1  # its dilation touches both
    assert lin2020(predicted, predicted, margin=0, min_size=1).predicted == 1


def test_lin2020_of_nothing_is_zero_and_bad_input_is_refused():
    nothing = np.zeros((30, 4, 4), np.uint8)
    score = lin2020(nothing, nothing)
    assert (score.precision, score.recall, score.f1, score.predicted, score.truth) == (
        0,
        0,
        0,
        0,
        0,
    )
    with pytest.raises(InputError, match="masks 14 sections at each end, but there are 28"):
        lin2020(nothing[:28], nothing[:28])
    with pytest.raises(InputError, match="shape"):
        lin2020(nothing, nothing[:29])


def synapse(volume, n, pre, post):
    volume[pre] = 2 * n - 1
    volume[post] = 2 * n


def test_partners_by_hand():
    shape = (4, 40, 200)  # voxels of 40 x 10 x 10 nm
    truth, predicted = np.zeros(shape, np.uint64), np.zeros(shape, np.uint64)
    segments = np.zeros(shape, np.uint32)
    segments[:, :20], segments[:, 20:] = 1, 2
    synapse(truth, 1, (1, 19, 10), (1, 20, 10))
    synapse(predicted, 5, (1, 19, 40), (1, 20, 20))  # 300 and 100 nm away: cost 200
    synapse(truth, 2, (1, 19, 100), (1, 20, 100))
    synapse(predicted, 6, (1, 19, 141), (1, 20, 100))  # pre 410 nm away: no pair
    synapse(truth, 3, (2, 18, 180), (2, 21, 180))
    synapse(predicted, 7, (2, 21, 181), (2, 18, 181))  # the sides swapped: other segments
    predicted[3, 30, 199] = 17  # one side only: not a pair of partners
    score = cremi_partners(predicted, truth, segments, (40, 10, 10))
    assert score.pairs == ((5, 1, 200.0),)
    assert (score.matched, score.predicted, score.truth) == (1, 3, 3)
    assert score.precision == score.recall == score.f1 == pytest.approx(1 / 3)
    assert cremi_partners(predicted, truth, segments, (40, 10, 10), 410).matched == 2
    assert cremi_partners(predicted, truth, segments * 0, (40, 10, 10)).matched == 2


def test_partners_are_matched_at_the_least_cost():
    shape = (1, 4, 100)
    truth, predicted = np.zeros(shape, np.uint64), np.zeros(shape, np.uint64)
    for n, x in ((1, 10), (2, 20)):
        synapse(truth, n, (0, 1, x), (0, 2, x))
    for n, x in ((1, 21), (2, 34)):
        synapse(predicted, n, (0, 1, x), (0, 2, x))
    # greedily 21 would take 20 and leave 34 with 10 at 240 nm; 21-10 and 34-20 cost 110 + 140
    segments = np.ones(shape, np.uint8)
    score = cremi_partners(predicted, truth, segments, (10, 10, 10), threshold=230)
    assert score.pairs == ((1, 1, 110.0), (2, 2, 140.0))


def test_partners_of_nothing():
    nothing = np.zeros((2, 3, 4), np.uint8)
    score = cremi_partners(nothing, nothing, nothing, (1, 1, 1))
    assert (score.matched, score.predicted, score.truth, score.f1) == (0, 0, 0, 0.0)
    with pytest.raises(InputError, match="segmentation"):
        cremi_partners(nothing, nothing, nothing[:1], (1, 1, 1))


def test_ends_lie_on_their_side():
    labels = np.zeros((1, 9, 9), np.uint16)
    labels[0, 1:8, 1:8] = 1
    labels[0, 2:7, 2:7] = 0  # a ring: its centroid is in the hole
    labels[0, 4, 4] = 2
    found = side_ends(labels, (1, 1, 1))
    assert found.number.tolist() == [1]
    assert found.ends[0].tolist() == [[0, 1, 4]]
    assert found.ends[1].tolist() == [[0, 4, 4]]
