"""Matching and scores, held to an enumeration of every possible matching."""

import dataclasses
import itertools
import json
import shutil
import tracemalloc
from fractions import Fraction

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given, settings

from synpol import InputError, match_instances
from synpol.blockwise import driver
from synpol.evaluation.matching import Matching, best_pairs
from synpol.evaluation.overlaps import evaluate_blockwise
from synpol.evaluation.scores import Evaluation, truth_instances
from synpol.images.writing import create_image

SCORES = ("polarity_correct", "synapse", "pre", "post")
IOUS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]


def label_pair(seed, shape, labels, changed):
    """Random labels, and a copy under other numbers in which a share of the voxels is changed."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, labels + 1, shape)
    other = rng.integers(0, labels + 1, shape)
    names = np.concatenate([[0], 1 + rng.permutation(labels)])
    return names[np.where(rng.random(shape) < changed, other, truth)], truth


label_pairs = st.builds(
    label_pair,
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(0, 2), st.integers(1, 4), st.integers(1, 6)),
    st.integers(1, 5),
    st.sampled_from([0.0, 0.2, 0.5, 0.8, 1.0]),
)

#: labels 0..8 are both sides of up to four synapses
polarity_pairs = st.builds(
    lambda seed, shape, synapses, changed: label_pair(seed, shape, 2 * synapses, changed),
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 8)),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.1, 0.3, 0.6]),
)


def voxels(labels):
    """The places of every label but 0."""
    return {int(n): set(np.flatnonzero(labels == n)) for n in np.unique(labels) if n}


def exact_ious(predicted, truth):
    """IoU of every two instances, as fractions."""
    return {
        (p, t): Fraction(len(a & b), len(a | b))
        for p, a in voxels(predicted).items()
        for t, b in voxels(truth).items()
    }


def good_pairs(predicted, truth, iou):
    at_least = Fraction(str(iou))
    return {pair: v for pair, v in exact_ious(predicted, truth).items() if v >= at_least}


def best_of_all_matchings(candidates):
    """Number of pairs and their sum in the best matching, by going through all of them."""
    pairs = list(candidates)

    def best(k, left, right):
        if k == len(pairs):
            return 0, Fraction(0)
        without = best(k + 1, left, right)
        p, t = pairs[k]
        if p in left or t in right:
            return without
        count, total = best(k + 1, left | {p}, right | {t})
        return max(without, (count + 1, total + candidates[pairs[k]]))

    return best(0, frozenset(), frozenset())


def polarity_labels(*synapses, shape=(1, 1, 60)):
    """A volume of one row; a synapse is n, (begin, end) of its pre and of its post side."""
    labels = np.zeros(shape, np.uint64)
    for n, pre, post in synapses:
        for label, side in ((2 * n - 1, pre), (2 * n, post)):
            if side:
                labels[..., slice(*side)] = label
    return labels


def scores(predicted, truth, iou=0.5, **options):
    return Evaluation.of([(predicted, truth)], **options).score(iou)


def counts(matchings):
    return {name: (m.matched, m.predicted, m.truth) for name, m in matchings.items()}


# ---------------------------------------------------------------- matching


@settings(max_examples=300)
@given(label_pairs, st.sampled_from(IOUS))
@example((np.array([1, 1, 2, 2]), np.array([3, 3, 3, 4])), 0.5)
def test_no_other_matching_has_more_pairs_or_a_larger_sum(pair, iou):
    predicted, truth = pair
    found = match_instances(predicted, truth, iou)
    candidates = good_pairs(predicted, truth, iou)
    count, total = best_of_all_matchings(candidates)
    assert found.matched == len(found.pairs) == count
    assert sum(v for *_, v in found.pairs) == pytest.approx(float(total))
    assert all(v == float(candidates[p, t]) for p, t, v in found.pairs)
    assert len({p for p, *_ in found.pairs}) == len({t for _, t, _ in found.pairs}) == count
    assert list(found.pairs) == sorted(found.pairs)
    assert (found.predicted, found.truth) == (len(voxels(predicted)), len(voxels(truth)))


@given(
    st.dictionaries(
        st.tuples(st.integers(0, 4), st.integers(0, 4)), st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])
    )
)
def test_the_best_pairs_of_any_graph_are_those_of_the_enumeration(values):
    candidates = {pair: Fraction(str(v)) for pair, v in values.items()}
    ends = np.array(list(values), np.int64).reshape(-1, 2)
    chosen = best_pairs(ends[:, 0], ends[:, 1], np.array(list(values.values())))
    count, total = best_of_all_matchings(candidates)
    assert len(chosen) == count
    assert len(set(ends[chosen, 0])) == len(set(ends[chosen, 1])) == count
    assert sum(list(values.values())[k] for k in chosen) == pytest.approx(float(total))


def test_two_worse_pairs_are_better_than_the_one_best_pair():
    predicted = np.repeat([1, 1, 2, 0], [6, 4, 4, 0])
    truth = np.repeat([1, 2, 1], [6, 4, 4])
    assert match_instances(predicted, truth, 0.42).pairs == ((1, 1, 6 / 14),)
    assert match_instances(predicted, truth, 0.4).pairs == ((1, 2, 0.4), (2, 1, 0.4))


def test_an_iou_of_exactly_the_threshold_is_enough():
    for part in range(1, 10):
        truth = np.ones(10, np.uint8)
        predicted = (np.arange(10) < part).astype(np.uint8)
        assert match_instances(predicted, truth, part / 10).matched == 1
        assert match_instances(predicted, truth, np.nextafter(part / 10, 1)).matched == 0


def test_a_prediction_of_two_merged_instances_is_a_pair_with_one_of_them():
    truth = np.repeat([1, 2], [6, 4])
    found = match_instances(np.full(10, 5), truth, 0.3)
    assert found.pairs == ((5, 1, 0.6),)
    assert (found.precision, found.recall, found.f1) == (1.0, 0.5, pytest.approx(2 / 3))


@given(label_pairs, st.sampled_from(IOUS))
def test_precision_and_recall_change_places_with_the_arrays(pair, iou):
    there, back = match_instances(*pair, iou), match_instances(*pair[::-1], iou)
    assert (there.matched, there.precision) == (back.matched, back.recall)
    assert there.f1 == back.f1


def test_finding_nothing_is_right_where_nothing_is_and_wrong_elsewhere():
    nothing = np.zeros((1, 1, 60), np.uint64)
    something = polarity_labels((1, (0, 10), (10, 20)), (2, (30, 40), (40, 50)))
    for predicted, truth, value in (
        (nothing, nothing, 1.0),
        (nothing, something, 0.0),
        (something, nothing, 0.0),
    ):
        matchings = [match_instances(predicted, truth), *scores(predicted, truth).values()]
        matchings += scores(predicted, truth, labels="union").values()
        assert {(m.precision, m.recall, m.f1) for m in matchings} == {(value, value, value)}
        assert {m.pairs for m in matchings} == {()}
    assert counts(scores(nothing, something)) == dict.fromkeys(SCORES, (0, 0, 2))
    assert counts(scores(something, nothing)) == dict.fromkeys(SCORES, (0, 2, 0))


def test_an_evaluation_of_no_parts_at_all_is_that_of_empty_volumes():
    assert all(m.f1 == 1.0 for m in Evaluation.of([]).score(0.5).values())
    assert match_instances(np.zeros((0, 3), int), np.zeros((0, 3), int)).f1 == 1.0


def test_a_matching_is_frozen_and_has_the_fields_of_the_contract():
    names = ["precision", "recall", "f1", "matched", "predicted", "truth", "pairs"]
    assert [field.name for field in dataclasses.fields(Matching)] == names
    found = match_instances(np.array([1]), np.array([1]))
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.f1 = 0.0
    assert found == Matching(1.0, 1.0, 1.0, 1, 1, 1, ((1, 1, 1.0),))
    hash(found)


# ---------------------------------------------------------------- labels as they come


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint8, np.int32, np.uint32, np.int64])
def test_every_type_of_whole_numbers_is_taken(dtype):
    labels = np.array([0, 1, 1, 0]).astype(dtype)
    assert match_instances(labels, labels.astype(np.uint64)).pairs == ((1, 1, 1.0),)


HUGE = [2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1]


def test_huge_labels_are_kept_apart():
    labels = np.repeat(np.array(HUGE, np.uint64), 3)
    for found in (
        match_instances(labels, labels),
        scores(labels, labels, labels="union")["synapse"],
    ):
        assert found.pairs == tuple((n, n, 1.0) for n in HUGE)


@pytest.mark.parametrize("other", [np.int64, np.int32])
def test_huge_labels_are_kept_apart_beside_signed_ones(other):
    predicted = np.repeat(np.array([2**53, 2**53 + 1], np.uint64), 3)
    truth = np.repeat([1, 2], 3).astype(other)
    expected = ((2**53, 1, 1.0), (2**53 + 1, 2, 1.0))
    assert match_instances(predicted, truth).pairs == expected
    assert scores(predicted, truth, labels="union")["synapse"].pairs == expected


def test_sides_of_huge_labels_belong_to_their_synapse():
    labels = np.repeat(np.array([2**53 + 1, 2**53 + 2, 2**64 - 3, 2**64 - 2], np.uint64), 3)
    numbers = ((2**52 + 1, 2**52 + 1, 1.0), (2**63 - 1, 2**63 - 1, 1.0))
    for match in scores(labels, labels).values():
        assert match.pairs == numbers


def test_the_largest_label_there_is_is_the_pre_side_of_a_synapse():
    labels = np.array([2**64 - 1] * 3, np.uint64)
    assert counts(scores(labels, labels))["pre"] == (1, 1, 1)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("labels", [None, "polarity", "union"])
@pytest.mark.parametrize(
    ("bad", "words"), [(np.array([0.0, 1.0]), "float64"), (np.array([0, -1]), "-1")]
)
def test_what_is_no_label_is_refused(which, labels, bad, words):
    arrays = [np.array([0, 1], np.uint64)] * 2
    arrays[which] = bad
    with pytest.raises(InputError, match=words):
        if labels is None:
            match_instances(*arrays)
        else:
            Evaluation.of([tuple(arrays)], labels)


def test_arrays_of_different_shapes_are_refused_with_both():
    with pytest.raises(InputError, match=r"\(2, 3\).*\(3, 2\)"):
        match_instances(np.zeros((2, 3), int), np.zeros((3, 2), int))


@pytest.mark.parametrize("iou", [0, -0.1, 1.5, float("nan")])
def test_an_iou_that_cannot_be_meant_is_refused(iou):
    labels = np.array([0, 1])
    with pytest.raises(InputError, match=f"iou is {iou}"):
        match_instances(labels, labels, iou)
    with pytest.raises(InputError, match=f"iou is {iou}"):
        scores(labels, labels, iou)
    with pytest.raises(InputError, match=f"iou is {iou}"):
        scores(labels, labels, iou, labels="union")


# ---------------------------------------------------------------- polarity


def expected_counts(predicted, truth, iou, min_size=0):
    """What `score` has to count, said once more with sets of voxels."""
    sides = [voxels(labels) for labels in (predicted, truth)]
    numbers = [{(label + 1) // 2 for label in each} for each in sides]
    ious = {}
    for name, labels_of in (
        ("synapse", lambda n: (2 * n - 1, 2 * n)),
        ("pre", lambda n: (2 * n - 1,)),
        ("post", lambda n: (2 * n,)),
    ):
        a, b = (
            {n: set().union(*(side.get(k, set()) for k in labels_of(n))) for n in each}
            for side, each in zip(sides, numbers, strict=True)
        )
        ious[name] = {
            (p, t): Fraction(len(a[p] & b[t]), len(a[p] | b[t]))
            for p in a
            for t in b
            if a[p] and b[t]
        }
    large = [
        {n for n in each if all(len(s.get(k, ())) >= min_size for k in (2 * n - 1, 2 * n))}
        for s, each in zip(sides, numbers, strict=True)
    ]
    least = Fraction(str(iou))
    ignored = {p for (p, t), v in ious["synapse"].items() if v >= least and t not in large[1]}
    kept = (large[0] - ignored, large[1])
    good = {
        name: {
            (p, t): v for (p, t), v in table.items() if v >= least and p in kept[0] and t in kept[1]
        }
        for name, table in ious.items()
    }
    good["polarity_correct"] = {pair: v for pair, v in good["pre"].items() if pair in good["post"]}
    there = {"polarity_correct": kept, "synapse": kept}
    for name, odd in (("pre", 1), ("post", 0)):
        there[name] = tuple(
            {n for n in each if 2 * n - odd in side} for each, side in zip(kept, sides, strict=True)
        )
    return {
        name: (best_of_all_matchings(good[name])[0], len(there[name][0]), len(there[name][1]))
        for name in SCORES
    }


@settings(max_examples=200)
@given(polarity_pairs, st.sampled_from(IOUS))
def test_scores_of_sides_count_what_the_enumeration_counts(pair, iou):
    assert counts(scores(*pair, iou)) == expected_counts(*pair, iou)


@settings(max_examples=200)
@given(polarity_pairs, st.sampled_from([0.51, 0.6, 0.8]), st.integers(1, 4))
def test_min_size_leaves_out_what_the_enumeration_leaves_out(pair, iou, min_size):
    found = scores(*pair, iou, min_size=min_size)
    assert counts(found) == expected_counts(*pair, iou, min_size)


@given(polarity_pairs, st.integers(0, 5), st.sampled_from([*IOUS, 1.0]))
def test_a_perfect_copy_under_other_numbers_is_perfect_in_everything(pair, min_size, iou):
    _, truth = pair
    number, post = (truth + 1) // 2, truth % 2 == 0
    renamed = np.where(truth > 0, 2 * (37 - 5 * number) - 1 + post, 0)
    found = scores(renamed, truth, iou, min_size=min_size)
    if not min_size:  # a synapse of one side has no polarity to be right about
        both = np.intersect1d(number[truth % 2 == 1], number[post])
        assert found.pop("polarity_correct").matched == np.count_nonzero(both)
    for match in found.values():
        assert (match.precision, match.recall, match.f1) == (1.0, 1.0, 1.0)
        assert match.matched == match.predicted == match.truth


@given(polarity_pairs, st.sampled_from(IOUS))
def test_a_polarity_correct_synapse_is_a_match_in_every_other_way(pair, iou):
    found = scores(*pair, iou)
    assert all(found["polarity_correct"].matched <= found[name].matched for name in SCORES)


def test_swapped_sides_are_a_found_synapse_of_wrong_polarity():
    truth = polarity_labels((1, (0, 10), (10, 20)), (2, (30, 40), (40, 50)))
    swapped = polarity_labels((1, (10, 20), (0, 10)), (2, (30, 40), (40, 50)))
    found = scores(swapped, truth)
    assert counts(found) == {
        "polarity_correct": (1, 2, 2),
        "synapse": (2, 2, 2),
        "pre": (1, 2, 2),
        "post": (1, 2, 2),
    }
    assert found["polarity_correct"].pairs == ((2, 2, 1.0),)


def test_the_pre_side_of_one_synapse_with_the_post_side_of_another_is_not_correct():
    truth = polarity_labels((1, (0, 10), (10, 20)), (2, (20, 30), (30, 40)))
    mixed = polarity_labels((1, (0, 10), (30, 40)), (2, (20, 30), (10, 20)))
    found = scores(mixed, truth, 0.3)
    assert found["polarity_correct"].matched == 0
    assert (found["pre"].f1, found["post"].f1) == (1.0, 1.0)
    assert scores(mixed, truth, 0.5)["synapse"].matched == 0  # each half right: 10 of 30


def test_a_synapse_of_one_side_cannot_be_correct_but_its_side_can():
    truth = polarity_labels((1, (0, 10), (10, 20)))
    for side, number in (("pre", 1), ("post", 0)):
        sides = [(0, 10), (10, 20)] if number else [None, (10, 20)]
        predicted = polarity_labels((9, sides[0], None if number else sides[1]))
        found = scores(predicted, truth, 0.5)
        other = "post" if number else "pre"
        assert counts(found) == {
            "polarity_correct": (0, 1, 1),
            "synapse": (1, 1, 1),
            side: (1, 1, 1),
            other: (0, 0, 1),
        }


def test_the_iou_of_a_correct_synapse_is_the_mean_over_its_sides():
    truth = polarity_labels((1, (0, 10), (10, 20)))
    predicted = polarity_labels((4, (0, 8), (10, 16)))
    assert scores(predicted, truth, 0.6)["polarity_correct"].pairs == ((4, 1, pytest.approx(0.7)),)
    assert scores(predicted, truth, 0.61)["polarity_correct"].pairs == ()


# ---------------------------------------------------------------- min_size


def test_min_size_leaves_out_synapses_with_a_small_side_in_truth_and_prediction_alike():
    large = polarity_labels((1, (0, 10), (10, 20)))
    small = polarity_labels((1, (0, 10), (10, 20)), (2, (30, 40), (40, 44)))
    for first, second in ((large, small), (small, large)):
        assert counts(scores(first, second, min_size=5))["synapse"] == (1, 1, 1)
        assert counts(scores(first, second, min_size=5))["post"] == (1, 1, 1)
    assert counts(scores(small, large, min_size=4))["synapse"] == (1, 2, 1)


def test_a_side_of_exactly_min_size_voxels_counts_and_a_missing_side_does_not():
    exact, one_sided = polarity_labels((1, (0, 5), (5, 10))), polarity_labels((1, (0, 5), None))
    assert counts(scores(exact, exact, min_size=5))["polarity_correct"] == (1, 1, 1)
    assert counts(scores(exact, exact, min_size=6))["polarity_correct"] == (0, 0, 0)
    assert counts(scores(one_sided, one_sided, min_size=1))["synapse"] == (0, 0, 0)
    assert counts(scores(one_sided, one_sided))["synapse"] == (1, 1, 1)


def test_a_prediction_of_a_synapse_that_was_left_out_is_neither_right_nor_wrong():
    truth = polarity_labels((1, (0, 10), (10, 12)))
    predicted = polarity_labels((7, (0, 8), (8, 16)))
    assert counts(scores(predicted, truth, min_size=5)) == dict.fromkeys(SCORES, (0, 0, 0))
    assert counts(scores(predicted, truth, 0.8, min_size=5))["synapse"] == (0, 1, 0)  # no match


def test_a_found_synapse_is_not_lost_because_it_also_touches_one_that_was_left_out():
    truth = polarity_labels((1, (0, 10), (10, 20)), (2, (20, 22), (22, 24)))
    predicted = polarity_labels((1, (0, 10), (10, 24)))
    assert counts(scores(predicted, truth, 0.1, min_size=0))["polarity_correct"] == (1, 1, 2)
    assert counts(scores(predicted, truth, 0.1, min_size=5)) == dict.fromkeys(SCORES, (1, 1, 1))


@given(polarity_pairs, st.sampled_from(IOUS), st.integers(0, 4), st.integers(0, 10**6))
def test_scores_do_not_depend_on_numbers_or_on_the_order_of_voxels(pair, iou, min_size, seed):
    rng = np.random.default_rng(seed)
    before = counts(scores(*pair, iou, min_size=min_size))
    renamed = []
    for labels in pair:
        numbers = np.concatenate([[0], 1 + rng.permutation(9)])[(labels + 1) // 2]
        renamed.append(np.where(labels > 0, 2 * numbers - labels % 2, 0))
    order = rng.permutation(renamed[0].size)
    shuffled = [labels.reshape(-1)[order] for labels in renamed]
    assert counts(scores(*shuffled, iou, min_size=min_size)) == before


# ---------------------------------------------------------------- labels without sides


def test_labels_without_sides_score_whole_synapses_alone():
    truth = np.repeat(np.array([0, 3, 3, 8], np.uint64), 4)
    found = Evaluation.of([(truth, truth)], "union").score(0.5)
    assert list(found) == ["synapse"]
    assert found["synapse"].pairs == ((3, 3, 1.0), (8, 8, 1.0))


def mask_of_three():
    """Two pieces that a dilation by 3 joins, one that it does not, one in the next section."""
    mask = np.zeros((2, 5, 16), np.uint8)
    mask[0, 0, 0:2] = mask[0, 0, 4:6] = mask[0, 0, 12:14] = mask[1, 4, 0:2] = 1
    return mask


@pytest.mark.parametrize("value", [1, 255])
def test_a_mask_stands_for_the_components_of_its_dilation(value):
    mask = mask_of_three()
    found = truth_instances(mask * np.uint8(value), "union", dilate_sz=3)
    assert found[0, 0].tolist() == [1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 2, 2, 0, 0]
    assert found[1, 4].tolist() == [3, 3] + [0] * 14
    assert np.array_equal(found != 0, mask != 0)
    assert truth_instances(mask, "union", dilate_sz=1).max() == 4
    assert truth_instances(np.zeros_like(mask), "union").max() == 0


def test_ids_stand_for_themselves():
    ids = mask_of_three() * np.uint64(2**60)
    ids[0, 0, 4:6] += np.uint64(1)
    assert np.array_equal(truth_instances(ids, "union"), ids)
    labels = mask_of_three()
    assert np.array_equal(truth_instances(labels, "polarity"), labels)


# ---------------------------------------------------------------- part by part


def same(first, second):
    """Whether two evaluations hold the same tables."""
    pairs = [(getattr(first, name), getattr(second, name)) for name in ("synapse", "pre", "post")]
    for a, b in pairs:
        if (a is None) != (b is None):
            return False
        if a and not all(
            np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a)
        ):
            return False
    return first.min_size == second.min_size


def random_parts(arrays, rng):
    """Cut arrays of one shape at random places into boxes, and hand them out in random order."""
    boxes = [()]
    for size in arrays[0].shape:
        cuts = [0, *sorted(rng.integers(0, size + 1, rng.integers(0, 4)).tolist()), size]
        steps = [slice(a, b) for a, b in itertools.pairwise(cuts)]
        boxes = [(*box, step) for box in boxes for step in steps]
    return [tuple(a[boxes[k]] for a in arrays) for k in rng.permutation(len(boxes))]


@given(
    polarity_pairs,
    st.sampled_from(["polarity", "union"]),
    st.integers(0, 3),
    st.integers(0, 2**32 - 1),
)
def test_gathering_part_by_part_gives_what_the_whole_gives(pair, labels, min_size, seed):
    parts = random_parts(pair, np.random.default_rng(seed))
    whole = Evaluation.of([pair], labels, min_size)
    gathered = Evaluation.of(iter(parts), labels, min_size)
    assert same(gathered, whole)
    assert gathered.score(0.3) == whole.score(0.3)


@pytest.mark.parametrize("labels", ["polarity", "union"])
def test_parts_are_not_kept_in_memory(labels):
    part = 1 << 14

    def parts():
        for k in range(40):
            yield (np.full(part, 2 * k + 1, np.uint64), np.full(part, 2 * k + 2, np.uint64))

    tracemalloc.start()
    try:
        Evaluation.of(parts(), labels)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * 8 * part  # a part and what is made of it; all parts are 80 such arrays


def volumes_on_disk(folder, arrays, chunks, **placement):
    where = {"voxel_size": (30, 16, 16), "offset": (0, 0, 0), "unit": "nm"} | placement
    images = []
    for name, array, chunk in zip(("instances", "truth"), arrays, chunks, strict=True):
        more = chunk if isinstance(chunk, dict) else {"chunk_shape": chunk}
        image = create_image(
            folder, name, shape=array.shape, dtype=array.dtype, overwrite=True, **where, **more
        )
        image.array[:] = array
        images.append(image)
    return images


def compared(folder, images, *arguments, block=(3, 4, 5), **options):
    return evaluate_blockwise(
        *images, *arguments, block_shape=block, work_dir=folder / "work", **options
    )


@settings(max_examples=40)
@given(
    polarity_pairs,
    st.sampled_from(["polarity", "union"]),
    st.integers(0, 3),
    st.tuples(*[st.integers(1, 9)] * 3),
)
def test_any_blocks_give_what_the_whole_gives(tmp_path_factory, pair, labels, min_size, block):
    folder = tmp_path_factory.mktemp("compare")
    pair = [np.atleast_3d(a).astype(np.uint64) for a in pair]
    expected = Evaluation.of([(pair[0], truth_instances(pair[1], labels))], labels, min_size)
    images = volumes_on_disk(folder, pair, [pair[0].shape] * 2)
    found = compared(folder, images, labels, min_size, block=block)
    assert same(found, expected)
    shutil.rmtree(folder)


def test_workers_compare_too_and_nothing_stale_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "DRIVER_VOXELS", 0)
    predicted, truth = label_pair(6, (7, 9, 13), 8, 0.3)
    predicted, truth = predicted.astype(np.uint64), truth.astype(np.uint64)
    images = volumes_on_disk(tmp_path, (predicted, truth), [(7, 9, 13)] * 2)
    found = compared(tmp_path, images, num_workers=2)
    assert same(found, Evaluation.of([(predicted, truth)]))
    corrected = np.where(truth == truth.max(), 0, truth)
    images[1].array[:] = corrected
    assert same(compared(tmp_path, images), Evaluation.of([(predicted, corrected)]))


@pytest.mark.parametrize(
    "chunks",
    [
        ((5, 7, 6), (2, 3, 11)),
        ((1, 1, 13), (7, 9, 13)),
        ({"chunk_shape": (2, 2, 2), "shard_shape": (4, 4, 8)}, (3, 3, 3)),
    ],
)
def test_images_are_compared_as_their_arrays_are(tmp_path, chunks):
    predicted, truth = label_pair(5, (7, 9, 13), 8, 0.3)
    images = volumes_on_disk(
        tmp_path, (predicted.astype(np.uint64), truth.astype(np.uint16)), chunks
    )
    for labels in ("polarity", "union"):
        found = compared(tmp_path, images, labels, min_size=2)
        assert same(found, Evaluation.of([(predicted, truth)], labels, 2))
        assert found.to_json(IOUS) == Evaluation.of([(predicted, truth)], labels, 2).to_json(IOUS)


def test_an_image_that_is_a_mask_is_compared_by_its_components(tmp_path):
    mask = mask_of_three()
    predicted = truth_instances(mask, "union", 3).astype(np.uint64) * np.uint64(2**54 + 1)
    images = volumes_on_disk(tmp_path, (predicted, mask), [(1, 2, 5)] * 2)
    found = compared(tmp_path, images, "union", dilate_sz=3).score(1)["synapse"]
    assert found.pairs == tuple((n * (2**54 + 1), n, 1.0) for n in (1, 2, 3))
    assert compared(tmp_path, images, "union", dilate_sz=1).score(1)["synapse"].truth == 4


def test_a_part_is_compared_with_that_part_of_the_truth(tmp_path):
    predicted, truth = (a.astype(np.uint64) for a in label_pair(5, (7, 9, 13), 8, 0.3))
    part = slice(2, 6), slice(1, 9), slice(0, 11)
    place = {"offset": (60 + 90, 16 + 16, -32)}
    image, _ = volumes_on_disk(tmp_path / "a", [predicted[part]] * 2, [(2, 3, 4)] * 2, **place)
    whole = {"offset": (90, 16, -32)}
    _, true = volumes_on_disk(tmp_path / "b", [truth] * 2, [(3, 2, 4)] * 2, **whole)
    for labels in ("polarity", "union"):
        found = compared(tmp_path, (image, true), labels)
        assert same(found, Evaluation.of([(predicted[part], truth[part])], labels))
    mask = (truth > 4).astype(np.uint8)
    _, true = volumes_on_disk(tmp_path / "c", [mask] * 2, [(3, 2, 4)] * 2, **whole)
    expected = Evaluation.of([(predicted[part], truth_instances(mask, "union")[part])], "union")
    assert same(compared(tmp_path, (image, true), "union"), expected)


def test_a_work_folder_that_cannot_be_is_refused(tmp_path):
    labels = np.ones((2, 3, 4), np.uint8)
    images = volumes_on_disk(tmp_path, [labels] * 2, [(2, 2, 2)] * 2)
    (tmp_path / "work").write_text("a file")
    with pytest.raises(InputError, match="work"):
        compared(tmp_path, images)


@pytest.mark.parametrize(
    ("placement", "why"),
    [
        ({"offset": (30, 0, 0)}, r"along z: it is 30..90 nm, that is 0..60 nm"),
        ({"offset": (0, -8, 0)}, r"along y: it is -8..40 nm, that is 0..48 nm"),
        ({"voxel_size": (30, 16, 8)}, r"has the voxel size \(30, 16, 8\) nm"),
    ],
)
def test_images_on_other_voxels_are_refused(tmp_path, placement, why):
    labels = np.ones((2, 3, 4), np.uint8)
    image, _ = volumes_on_disk(tmp_path / "a", [labels] * 2, [(2, 2, 2)] * 2)
    _, truth = volumes_on_disk(tmp_path / "b", [labels] * 2, [(2, 2, 2)] * 2, **placement)
    with pytest.raises(InputError, match=rf"the truth .*b/truth/s0 .*{why}"):
        compared(tmp_path, (image, truth))


def test_an_image_of_floats_is_not_a_truth(tmp_path):
    labels = np.arange(24.0).reshape(2, 3, 4)
    images = volumes_on_disk(tmp_path, (labels.astype(np.uint64), labels), [(2, 2, 2)] * 2)
    for kind in ("polarity", "union"):
        with pytest.raises(InputError, match="float64"):
            compared(tmp_path, images, kind)


# ---------------------------------------------------------------- intervals


@pytest.mark.parametrize("counts", [(30, 41, 38), (5, 5, 9), (0, 3, 4)])
def test_the_interval_of_f1_is_that_of_a_bootstrap(counts):
    matched, predicted, truth = counts
    pairs = [(n, n, 1.0) for n in range(1, matched + 1)]
    low, high = Matching.of(pairs, predicted, truth).f1_interval()
    # a pair counts for 2 in both halves of F1; a miss or a false positive for 1 below
    outcome = np.array([2] * matched + [0] * (predicted + truth - 2 * matched))
    weight = np.where(outcome > 0, 2, 1)
    rng = np.random.default_rng(1)
    drawn = rng.integers(0, len(outcome), (20_000, len(outcome)))
    f1 = outcome[drawn].sum(1) / weight[drawn].sum(1)
    assert np.allclose([low, high], np.quantile(f1, [0.025, 0.975]), atol=0.02)
    assert low <= Matching.of(pairs, predicted, truth).f1 <= high


def test_the_interval_of_what_is_certain_is_a_point():
    assert Matching.of([], 0, 0).f1_interval() == (1.0, 1.0)
    assert Matching.of([(1, 1, 1.0)] * 4, 4, 4).f1_interval() == (1.0, 1.0)


def test_which_predictions_are_correct():
    truth = polarity_labels((1, (0, 10), (10, 20)), (2, (30, 40), (40, 50)))
    predicted = polarity_labels((5, (0, 10), (10, 18)), (6, (40, 50), (30, 40)))
    assert Evaluation.of([(predicted, truth)]).correct() == {5: True, 6: False}
    assert Evaluation.of([(predicted, truth)]).missed() == {2: 20}
    union = Evaluation.of([(predicted // 9, truth // 3)], "union")  # 9..12 are 1, 3 and 4 are 1
    assert union.correct() == {1: True}
    assert union.missed() == {}


def test_what_is_missed_is_told_with_its_size_largest_first():
    truth = polarity_labels((1, (0, 3), (3, 6)), (4, (10, 14), (14, 18)), (7, (30, 40), (40, 50)))
    predicted = polarity_labels((1, (30, 40), (40, 50)))
    assert list(Evaluation.of([(predicted, truth)]).missed().items()) == [(4, 8), (1, 6)]
    assert list(Evaluation.of([(predicted, truth)], min_size=4).missed().items()) == [(4, 8)]
    huge = np.repeat(np.arange(1, 5, dtype=np.uint64) + np.uint64(2**60), [3, 10, 6, 1])
    lost = Evaluation.of([(np.zeros_like(huge), huge)], "union").missed()
    assert list(lost.items()) == [(2**60 + n, v) for n, v in ((2, 10), (3, 6), (1, 3), (4, 1))]


# ---------------------------------------------------------------- scores.json


def test_scores_json_has_the_structure_of_the_contract():
    truth = polarity_labels((1, (0, 10), (10, 20)), (2, (30, 40), (40, 50)))
    predicted = polarity_labels((5, (0, 10), (10, 18)))
    evaluation = Evaluation.of([(predicted, truth)])
    found = {"precision": 1.0, "recall": 0.5, "f1": 2 / 3, "matched": 1, "predicted": 1, "truth": 2}
    lost = {"precision": 0.0, "recall": 0.0, "f1": 0.0, "matched": 0, "predicted": 1, "truth": 2}
    content = evaluation.to_json([0.5, 0.9])
    assert content["iou"] == {
        "0.5": {"polarity_correct": found, "synapse": found, "pre": found, "post": found},
        "0.9": {"polarity_correct": lost, "synapse": found, "pre": found, "post": lost},
    }
    matchings = {iou: evaluation.score(float(iou)) for iou in content["iou"]}
    assert content["f1_interval"] == {
        iou: {name: list(match.f1_interval()) for name, match in kinds.items()}
        for iou, kinds in matchings.items()
    }
    assert list(evaluation.to_json([0.5])["iou"]["0.5"]) == list(SCORES)


def test_scores_json_names_every_iou_as_it_was_written():
    evaluation = Evaluation.of([(np.array([1, 2]), np.array([1, 2]))])
    assert list(evaluation.to_json(IOUS)["iou"]) == [str(iou) for iou in IOUS]
    assert list(evaluation.to_json([0.05, 0.125, 1])["iou"]) == ["0.05", "0.125", "1"]


@given(polarity_pairs, st.sampled_from(["polarity", "union"]))
def test_scores_json_is_plain_json(pair, labels):
    content = Evaluation.of([pair], labels).to_json([0.3, 0.5])
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    for kinds in content["iou"].values():
        assert list(kinds) == (list(SCORES) if labels == "polarity" else ["synapse"])
