"""Estimates from a sample hold the truth as often as their intervals say."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from synpol.review import estimate
from synpol.review.boxes import random_boxes
from synpol.review.estimate import Interval
from synpol.review.found import Found
from synpol.review.sample import draw_sample, random_numbers


def random_found(count, seed=0):
    """Synapses whose scores tell something about whether they are real; and whether they are."""
    rng = np.random.default_rng(seed)
    pre = rng.uniform(0, 20_000, (count, 3))
    post = pre + rng.normal(0, 60, (count, 3))
    score = rng.beta(5, 2, count)
    voxels = rng.integers(10, 500, (count, 2))
    real = rng.random(count) < 0.3 + 0.7 * score
    return Found(np.arange(1, count + 1, dtype=np.uint64), pre, post, voxels, score), real


def holds(interval, truth):
    return interval.low <= truth <= interval.high


# ---------------------------------------------------------------- the sample


def test_every_synapse_is_in_one_stratum_and_every_prefix_takes_all_strata_by_turns():
    found, _ = random_found(1003)
    sample = draw_sample(found, 5, 1)
    assert sample.sizes.sum() == 1003 and np.ptp(sample.sizes) <= 1
    assert (sample.bounds[1:, 0] >= sample.bounds[:-1, 1]).all()
    order = sample.order()
    assert np.array_equal(np.sort(order), np.arange(1003))
    for end in (5, 50, 500):
        assert np.ptp(np.bincount(sample.stratum[order[:end]], minlength=5)) <= 1


def test_the_sample_is_random_and_depends_on_the_seed_alone():
    found, _ = random_found(2000)
    order = draw_sample(found, 4, 1).order()
    assert np.array_equal(order, draw_sample(found, 4, 1).order())
    assert not np.array_equal(order, draw_sample(found, 4, 2).order())
    shuffled = np.random.default_rng(0).permutation(2000)
    assert np.array_equal(shuffled[draw_sample(found[shuffled], 4, 1).order()], order)
    # its mean score differs from that of all no more than chance allows, for many seeds
    means = [found.score[draw_sample(found, 1, s).order()[:100]].mean() for s in range(100)]
    assert abs(np.mean(means) - found.score.mean()) < 4 * found.score.std() / 100
    numbers = random_numbers(found.pre, found.post, 0) / 2.0**64
    assert abs(numbers.mean() - 0.5) < 0.03 and abs(numbers.std() - 12**-0.5) < 0.02


def test_synapses_that_another_decoding_leaves_are_in_its_sample_too():
    found, _ = random_found(2000)
    kept = np.flatnonzero(np.random.default_rng(1).random(2000) > 0.05)
    first = draw_sample(found, 1, 7).order()[:200]
    second = kept[draw_sample(found[kept], 1, 7).order()[:200]]
    assert len(np.intersect1d(first, second)) > 180


def test_the_judged_sample_ends_at_the_first_gap():
    found, _ = random_found(60)
    sample = draw_sample(found, 3, 0)
    order = sample.order()
    judged = np.zeros(60, bool)
    judged[order[:31]] = True
    assert [len(rows) for rows in sample.drawn(judged)] == [11, 10, 10]
    judged[order[6]] = False  # the third of the first stratum
    judged[order[50]] = True
    assert [len(rows) for rows in sample.drawn(judged)] == [2, 10, 10]
    assert [len(rows) for rows in sample.drawn(np.zeros(60, bool))] == [0, 0, 0]


def test_no_synapses_have_a_sample_too():
    found, _ = random_found(0)
    sample = draw_sample(found, 5, 0)
    assert len(sample.order()) == 0 and [len(r) for r in sample.drawn(np.zeros(0, bool))] == [0]


@settings(max_examples=50)
@given(st.integers(0, 10**6), st.integers(1, 50), st.integers(0, 99))
def test_random_boxes_lie_in_the_volume_and_never_overlap(volume_seed, count, seed):
    rng = np.random.default_rng(volume_seed)
    low = rng.uniform(-500, 500, 3)
    high, size = low + rng.uniform(1, 900, 3), rng.uniform(50, 400, 3)
    boxes, total = random_boxes(low, high, size, count, seed)
    assert len(boxes) == min(count, total)
    assert (boxes[:, 0] >= low - 1e-6).all() and (boxes[:, 1] <= high + 1e-6).all()
    assert (boxes[:, 1] > boxes[:, 0]).all()
    assert len(np.unique(boxes[:, 0].round(3), axis=0)) == len(boxes)
    every, _ = random_boxes(low, high, size, total, seed)
    assert np.prod(every[:, 1] - every[:, 0], axis=1).sum() == pytest.approx(np.prod(high - low))


# ---------------------------------------------------------------- intervals


def test_wilsons_interval_is_that_of_textbooks():
    assert estimate.wilson(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert estimate.wilson(1.0, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert estimate.wilson(0.3, np.inf) == (0.3, 0.3)
    assert estimate.wilson(0.0, 0) == (0, 1)


def test_one_stratum_of_many_synapses_has_about_wilsons_interval():
    found = estimate.share([10**9], [50], [40])
    assert (found.value, found.judged) == (0.8, 50)
    assert (found.low, found.high) == pytest.approx(estimate.wilson(0.8, 50), abs=0.01)


def test_what_was_judged_whole_is_certain():
    found = estimate.share([10, 30], [10, 30], [5, 30])
    assert (found.value, found.low, found.high) == pytest.approx((35 / 40,) * 3)
    assert estimate.share([10, 30], [0, 0], [0, 0]) is None


def test_strata_weigh_as_many_synapses_as_they_hold():
    found = estimate.share([900, 100], [10, 10], [9, 1])
    assert found.value == pytest.approx(0.9 * 0.9 + 0.1 * 0.1)
    assert estimate.share([900, 50, 50], [10, 0, 10], [9, 0, 1]) is None
    assert estimate.ratio([900, 50, 50], [10, 0, 10], [9, 0, 1], [9, 0, 1]) is None
    assert estimate.share([], [], []) is None


def coverage(count, strata, judged, ask, seeds):
    """How often the interval from a sample holds the truth; the sample is drawn as in a review."""
    held = 0
    for seed in range(seeds):
        found, real = random_found(count, seed % 5)
        sample = draw_sample(found, strata, seed)
        mask = np.zeros(count, bool)
        mask[sample.order()[:judged]] = True
        held += ask(sample, sample.drawn(mask), real)
    return held


def precision_is_held(sample, drawn, real):
    number, hits = ([f(rows) for rows in drawn] for f in (len, lambda r: int(real[r].sum())))
    return holds(estimate.share(sample.sizes, number, hits), real.mean())


@pytest.mark.parametrize("judged", [20, 60, 150])
def test_of_fifty_samples_at_least_forty_five_hold_the_true_precision(judged):
    assert coverage(600, 5, judged, precision_is_held, 50) >= 45


@pytest.mark.slow
@pytest.mark.parametrize("judged", [15, 40, 100, 250])
@pytest.mark.parametrize("strata", [1, 5, 10])
def test_the_interval_of_the_precision_holds_the_truth_as_often_as_it_says(judged, strata):
    assert coverage(500, strata, judged, precision_is_held, 1000) >= 925


def test_the_interval_of_the_side_accuracy_holds_the_truth_as_often_as_it_says():
    def held(sample, drawn, real):
        turned = real & (np.arange(len(real)) * 7919 % 10 < 2)
        base = [int(real[rows].sum()) for rows in drawn]
        hits = [int((real & ~turned)[rows].sum()) for rows in drawn]
        found = estimate.ratio(sample.sizes, list(map(len, drawn)), base, hits)
        return holds(found, (real & ~turned).sum() / real.sum())

    assert coverage(500, 5, 80, held, 200) >= 182


def test_a_number_from_boxes_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    for spread in (0, 1):  # evenly, and in clusters
        held = 0
        for _ in range(200):
            counts = rng.poisson(0.3 * (rng.gamma(1, 1, 1000) if spread else np.ones(1000)))
            found = estimate.number_in_boxes(counts[:60], 1000)
            held += holds(found, counts.sum())
        assert held >= 182
    assert estimate.number_in_boxes([0] * 30, 1000).high == pytest.approx(
        3.69 / 30 * 1000, rel=0.02
    )
    assert estimate.number_in_boxes([], 10) is None
    assert estimate.number_in_boxes([1, 0, 2], 3).width == 0


def test_the_interval_of_the_recall_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(1)
    held = 0
    for seed in range(200):
        found, real = random_found(600, seed % 3)
        sample = draw_sample(found, 5, seed)
        mask = np.zeros(600, bool)
        mask[sample.order()[:60]] = True
        drawn = sample.drawn(mask)
        precision = estimate.share(
            sample.sizes, list(map(len, drawn)), [int(real[r].sum()) for r in drawn]
        )
        counts = rng.permutation(np.r_[np.ones(80, int), np.zeros(320, int)])
        missed = estimate.number_in_boxes(counts[:50], 400)
        recall = estimate.part_of_both(precision.times(600), missed)
        assert recall.low <= recall.value <= recall.high
        held += holds(recall, real.sum() / (real.sum() + 80))
    assert held >= 182


def test_the_recall_of_what_misses_nothing_has_a_lower_bound():
    some, none = Interval(100, 90, 105, 50, 50), estimate.number_in_boxes([0] * 20, 100)
    recall = estimate.part_of_both(some, none)
    assert recall.value == recall.high == 1 and 0.8 < recall.low < 0.9
    assert estimate.part_of_both(Interval(0, 0, 5, 50, 50), none) is None


def test_sums_of_independent_numbers():
    one = Interval(10, 7, 14, 5, 5)
    assert estimate.total(one, one).value == 20
    assert estimate.total(one, one).low == pytest.approx(20 - np.sqrt(18))
    assert estimate.total(one, None) == one
    assert estimate.total(None) is None


def test_more_verdicts_bring_the_interval_to_the_width():
    now = estimate.share([500, 500], [20, 20], [18, 15])
    more = estimate.more_verdicts(now, 0.1, 1000)
    assert 60 < more < 400
    per_stratum = (40 + more) // 2
    later = estimate.share(
        [500, 500], [per_stratum] * 2, [round(0.9 * per_stratum), round(0.75 * per_stratum)]
    )
    assert later.width == pytest.approx(0.1, abs=0.015)
    assert estimate.more_verdicts(now, 0.9, 1000) == 0
    assert estimate.more_verdicts(now, 0.0, 1000) == 960


# ---------------------------------------------------------------- agreement


def test_kappa_of_a_textbook():
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    found = estimate.kappa(first, second)
    assert found.value == pytest.approx(0.4)
    assert found.low < 0.4 < found.high and found.judged == 50


def test_kappa_of_the_same_and_of_independent_verdicts():
    rng = np.random.default_rng(0)
    one, other = (rng.choice(["right", "flipped", "not_synapse"], 3000) for _ in range(2))
    assert estimate.kappa(one, one).value == 1
    assert holds(estimate.kappa(one, other), 0) and abs(estimate.kappa(one, other).value) < 0.05
    assert estimate.kappa([], []) is None
    assert estimate.kappa(["right"] * 3, ["right"] * 3) is None


def test_the_interval_of_kappa_is_as_wide_as_kappa_varies():
    rng = np.random.default_rng(0)
    values, widths = [], []
    for _ in range(300):
        truth = rng.random(150) < 0.7
        verdicts = [np.where(rng.random(150) < 0.9, truth, ~truth).astype(str) for _ in range(2)]
        found = estimate.kappa(*verdicts)
        values.append(found.value)
        widths.append(found.width)
    assert np.mean(widths) == pytest.approx(2 * estimate.Z * np.std(values), rel=0.15)
