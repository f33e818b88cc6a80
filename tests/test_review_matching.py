"""Verdicts find their synapses again, and orders show the right one first."""

import dataclasses

import hypothesis.strategies as st
import numpy as np
import pyarrow.parquet as pq
import pytest
from finished import finish
from hypothesis import given, settings

from synpol.errors import InputError
from synpol.review import orders
from synpol.review.found import Found, read_found, read_like
from synpol.review.matching import TIES, match_places, opinions_of, tie_verdicts
from synpol.review.verdicts import Verdict


def found_at(pre, post, voxels=(100, 100), score=None):
    pre, post = (np.array(p, float).reshape(-1, 3) for p in (pre, post))
    count = len(pre)
    sizes = np.broadcast_to(voxels, (count, 2)).copy()
    score = np.linspace(0.1, 0.9, count) if score is None else np.array(score)
    return Found(np.arange(1, count + 1, dtype=np.uint64), pre, post, sizes, score)


def random_found(seed, count, size=3000.0):
    rng = np.random.default_rng(seed)
    pre = rng.uniform(0, size, (count, 3))
    found = found_at(pre, pre + rng.normal(0, 80, (count, 3)), score=rng.random(count))
    return dataclasses.replace(found, voxels=rng.integers(20, 300, (count, 2)))


def verdict_on(found, row, verdict="right", reviewer="ann", **more):
    return Verdict(
        verdict=verdict,
        reviewer=reviewer,
        pre=tuple(found.pre[row]),
        post=tuple(found.post[row]),
        pre_voxels=int(found.voxels[row, 0]),
        post_voxels=int(found.voxels[row, 1]),
        synapse_id=int(found.number[row]),
        **more,
    )


def tie_of(found, verdict, distance=100.0):
    opinions, loose = opinions_of([verdict], tie_verdicts(found, [verdict], distance))
    if opinions:
        return opinions[0].row, opinions[0].verdict, TIES[opinions[0].tie]
    return None, verdict.verdict, loose[0][1]


# ---------------------------------------------------------------- matching by place


def test_the_same_synapse_is_known_whatever_its_number():
    found = found_at([[0, 0, 0], [900, 0, 0]], [[0, 0, 300], [900, 0, 300]])
    verdict = dataclasses.replace(verdict_on(found, 1), synapse_id=77)
    assert tie_of(found, verdict) == (1, "right", "same")
    assert tie_of(found, dataclasses.replace(verdict, pre=(900.0, 0.0, 20.0)))[2] == "moved"
    assert tie_of(found, dataclasses.replace(verdict, pre=(900.0, 0.0, 120.0)))[2] == "lost"
    assert tie_of(found[:0], verdict)[2] == "lost"


def test_both_sides_have_to_be_near():
    found = found_at([[0, 0, 0]], [[0, 0, 300]])
    for axis in range(3):
        for side in ("pre", "post"):
            place = list(getattr(verdict_on(found, 0), side))
            place[axis] += 101
            moved = dataclasses.replace(verdict_on(found, 0), **{side: tuple(place)})
            assert tie_of(found, moved)[2] == "lost"


def test_exchanged_sides_turn_the_verdict():
    found = found_at([[0, 0, 0]], [[0, 0, 90]])
    turned = found_at([[0, 0, 90]], [[0, 0, 0]])
    for before, after in (("right", "flipped"), ("flipped", "right"), ("not_synapse",) * 2):
        assert tie_of(turned, verdict_on(found, 0, before)) == (0, after, "exchanged")
    assert tie_of(turned, verdict_on(found, 0, "outline")) == (None, "outline", "exchanged")


def test_a_synapse_of_another_size_keeps_what_is_not_about_its_outline():
    found = found_at([[0, 0, 0]], [[0, 0, 90]])
    larger = dataclasses.replace(found, voxels=np.array([[100, 160]]))
    assert tie_of(larger, verdict_on(found, 0)) == (0, "right", "changed")
    for verdict in ("merged", "split", "outline"):
        assert tie_of(larger, verdict_on(found, 0, verdict)) == (None, verdict, "changed")
    a_bit = dataclasses.replace(found, voxels=np.array([[110, 95]]))
    assert tie_of(a_bit, verdict_on(found, 0, "merged")) == (0, "merged", "moved")


def test_between_two_synapses_nobody_guesses():
    found = found_at([[0, 0, 0], [0, 0, 60]], [[0, 90, 0], [0, 90, 60]])
    between = Verdict(verdict="right", reviewer="ann", pre=(0, 0, 28.0), post=(0, 90, 28.0))
    assert tie_of(found, between) == (None, "right", "unclear")
    nearer = dataclasses.replace(between, pre=(0, 0, 10.0), post=(0, 90, 10.0))
    assert tie_of(found, nearer) == (0, "right", "moved")


def test_the_last_verdict_of_a_reviewer_counts_and_each_reviewer_has_one():
    found = random_found(0, 5)
    verdicts = [
        verdict_on(found, 2, "right"),
        verdict_on(found, 2, "flipped", "bo"),
        verdict_on(found, 2, "not_synapse"),
    ]
    opinions, loose = opinions_of(verdicts, tie_verdicts(found, verdicts, 100))
    assert [(o.row, o.verdict, o.source.reviewer) for o in opinions] == [
        (2, "flipped", "bo"),
        (2, "not_synapse", "ann"),
    ]
    assert loose == []


def test_verdicts_about_this_very_table_are_known_by_number():
    found = found_at([[0, 0, 0], [0, 0, 1]], [[0, 90, 0], [0, 90, 1]])  # too near to be told apart
    verdict = verdict_on(found, 1, table_hash="ab")
    assert tie_verdicts(found, [verdict], 100, "ab").row.tolist() == [1]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.sampled_from([50.0, 150.0]))
def test_matching_is_that_of_a_plain_search(seed, count, distance):
    rng = np.random.default_rng(seed)
    found = random_found(seed, count, 600.0)
    rows = rng.integers(0, count, 12)
    pre = found.pre[rows] + rng.normal(0, 40, (12, 3))
    post = found.post[rows] + rng.normal(0, 40, (12, 3))
    matched = match_places(found, pre, post, np.zeros((12, 2), int), distance)
    for k in range(12):
        turned = ((found.post - found.pre) * (post[k] - pre[k])).sum(axis=1) < 0
        first = np.where(turned[:, None], found.post, found.pre)
        last = np.where(turned[:, None], found.pre, found.post)
        away = [np.linalg.norm(p - q, axis=1) for p, q in ((first, pre[k]), (last, post[k]))]
        gap = np.maximum(*away)
        best, second = (*np.sort(gap), np.inf)[:2]
        if best > distance:
            expected = -1
        else:
            expected = -1 if second <= distance and second < 2 * best else int(np.argmin(gap))
        assert matched.row[k] == expected


def test_many_places_match_as_few_do(monkeypatch):
    found = random_found(3, 500)
    few = match_places(found, found.pre + 5, found.post + 5, found.voxels, 80)
    monkeypatch.setattr("synpol.review.matching.FEW", 10)
    many = match_places(found, found.pre + 5, found.post + 5, found.voxels, 80)
    assert np.array_equal(few.row, many.row) and np.array_equal(few.tie, many.tie)
    assert (few.row == np.arange(500)).mean() > 0.9


# ---------------------------------------------------------------- orders


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    config = finish(tmp_path_factory.mktemp("made"), "connect")
    return config.parent / "result"


def test_a_table_is_read_as_it_is(result):
    found, digest = read_found(result / "synapses.parquet")
    table = pq.read_table(result / "synapses.parquet").to_pylist()
    assert len(digest) == 64 and len(found) == len(table) > 3
    for row, synapse in enumerate(table):
        assert found.number[row] == synapse["synapse_id"]
        assert found.score[row] == min(synapse["pre_score"], synapse["post_score"])
        for side in ("pre", "post"):
            assert getattr(found, side)[row].tolist() == [synapse[f"{side}_{a}"] for a in "zyx"]
    like = read_like(result / "synapses.parquet", np.array([0, 2]))
    assert like.shape == (2, 5) and np.isfinite(like).all()


def test_a_side_that_is_missing_has_the_place_of_the_other(result, tmp_path):
    table = pq.read_table(result / "synapses.parquet")
    for name in [f"pre_{a}" for a in "zyx"]:
        values = table[name].to_pylist()
        place = table.column_names.index(name)
        table = table.set_column(place, table.schema.field(name), [[None, *values[1:]]])
    pq.write_table(table, tmp_path / "synapses.parquet")
    found, _ = read_found(tmp_path / "synapses.parquet")
    assert found.pre[0].tolist() == found.post[0].tolist()
    assert (found.pre[1] != found.post[1]).any()


def test_orders_by_score_and_by_place():
    found = random_found(1, 50)
    assert (np.diff(found.score[orders.by_score(found)]) >= 0).all()
    assert (np.diff(found.score[orders.by_score(found, lowest_first=False)]) <= 0).all()
    nearest = orders.by_place(found, (100, 200, 300))
    away = np.linalg.norm(found.middle[nearest] - (100, 200, 300), axis=1)
    assert (np.diff(away) >= 0).all()


def test_the_order_of_a_neuron_has_its_synapses_alone(result, tmp_path):
    found, _ = read_found(result / "synapses.parquet")
    partners = pq.read_table(result / "partners.parquet")
    neuron = partners["pre_id"][0].as_py()
    rows = orders.by_neuron(found, result / "partners.parquet", neuron)
    pairs = [(p["pre_id"], p["post_id"]) for p in partners.to_pylist()]
    assert sorted(rows.tolist()) == [n for n, pair in enumerate(pairs) if neuron in pair]
    with pytest.raises(InputError, match="other synapses"):
        orders.by_neuron(found[1:], result / "partners.parquet", neuron)


def test_synapses_that_other_results_see_otherwise_come_first():
    found = found_at(
        [[0, 0, 0], [900, 0, 0], [1800, 0, 0]], [[0, 0, 90], [900, 0, 90], [1800, 0, 90]]
    )
    without_first = found[1:]
    turned = dataclasses.replace(
        found, pre=found.pre[[0, 2, 1]], post=found.post[[0, 2, 1]], voxels=found.voxels
    )
    turned = dataclasses.replace(
        turned,
        pre=np.where([[True], [False], [False]], found.post, found.pre),
        post=np.where([[True], [False], [False]], found.pre, found.post),
    )
    last_turned = dataclasses.replace(
        found,
        pre=np.where([[False], [False], [True]], found.post, found.pre),
        post=np.where([[False], [False], [True]], found.pre, found.post),
    )
    share = orders.disagreement(found, [without_first, turned, last_turned], 100)
    assert share == pytest.approx([2 / 3, 0, 1 / 3])
    assert orders.by_disagreement(found, [without_first, turned, last_turned], 100).tolist() == [
        0,
        2,
    ]
    assert orders.by_disagreement(found, [], 100).tolist() == []


def test_the_most_useful_synapse_is_uncertain_and_unlike_those_judged():
    like = np.array([[0.0], [0.1], [5.0], [10.0]])
    prior = np.array([0.5, 0.5, 0.5, 0.99])
    none = np.zeros(0, int)
    assert orders.most_useful(like, prior, none, none, 4).tolist()[0] == 0
    assert orders.most_useful(like, prior, none, none, 2).tolist() == [0, 2]  # 1 is like 0
    assert orders.most_useful(like, prior, np.array([0]), np.array([True]), 1).tolist() == [2]
    assert sorted(orders.most_useful(like, prior, np.array([0, 2]), np.ones(2), 9)) == [1, 3]


def test_the_most_useful_synapses_are_found_sooner_than_by_chance():
    """A kind of synapse that is wrong half of the time, among many that are right."""
    rng = np.random.default_rng(0)
    like = rng.normal(0, 0.3, (400, 2))
    like[:40] += 4
    prior = np.full(400, 0.95)
    prior[:40] = 0.6
    chosen = orders.most_useful(like, prior, np.zeros(0, int), np.zeros(0), 12)
    assert (chosen < 40).sum() >= 4  # by chance 1.2
