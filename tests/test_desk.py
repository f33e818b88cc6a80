"""Reviewers get what is next for them, and the estimate is that of their verdicts."""

import dataclasses

import numpy as np
import pytest
from finished import finish
from test_estimate import random_found
from test_review_matching import verdict_on

from synpol.config import Review
from synpol.errors import InputError
from synpol.review import desk as desk_module
from synpol.review.desk import CANDIDATE, FOUND, PLACE, Desk, Item
from synpol.review.store import VerdictStore
from synpol.review.verdicts import UNDO, Verdict

LOW, HIGH, BOX = np.zeros(3), np.full(3, 20_000.0), np.full(3, 2000.0)


@pytest.fixture
def make_desk(tmp_path, monkeypatch):
    """Make desks with some synapses, which share a store."""
    stores = []

    def make(count=200, seed=0, candidates=None, found=None, digest="ab", **settings):
        found = random_found(count, seed)[0] if found is None else found
        monkeypatch.setattr(desk_module, "read_found", lambda path: (found, digest))
        like = np.stack([found.score, *found.voxels.T], axis=1)
        monkeypatch.setattr(desk_module, "read_like", lambda path, rows: like[rows])
        stores.append(VerdictStore(tmp_path / "verdicts.db"))
        more = None if candidates is None else (candidates, "cd")
        return Desk(stores[-1], tmp_path / "t", LOW, HIGH, BOX, Review(**settings), candidates=more)

    yield make
    for store in stores:
        store.close()


def judge(desk, item, verdict="right", reviewer="ann"):
    """Give a verdict as the page does."""
    one = verdict_on_item(desk, item, verdict, reviewer)
    desk.store.add([one])
    return one


def verdict_on_item(desk, item, verdict, reviewer):
    about = desk.describe(item)
    names = ("pre", "post", "pre_voxels", "post_voxels", "score", "synapse_id", "table_hash")
    more = {name: about[name] for name in names if name in about}
    return Verdict(verdict=verdict, reviewer=reviewer, **more)


def rows(items):
    return [item.row for item in items]


def test_a_reviewer_gets_the_sample_in_its_order_and_each_synapse_once(make_desk):
    desk = make_desk(twice=0)
    order = desk.sample().order().tolist()
    first = desk.next_items("sample", "ann", 5, {})
    assert rows(first) == order[:5] and {item.kind for item in first} == {FOUND}
    assert rows(desk.next_items("sample", "ann", 3, {}, skip=first)) == order[5:8]
    for item in first:
        judge(desk, item)
    assert rows(desk.next_items("sample", "ann", 3, {})) == order[5:8]


def test_two_reviewers_share_the_work_but_for_what_both_shall_see(make_desk):
    desk = make_desk(twice=0)
    mine, theirs = (desk.next_items("sample", name, 10, {}) for name in ("ann", "bo"))
    assert not set(mine) & set(theirs)
    for item in mine:
        judge(desk, item)
    assert not set(mine) & set(desk.next_items("sample", "bo", 30, {}))
    desk = make_desk(twice=1)
    first, second = (desk.next_items("sample", name, 10, {}) for name in ("cy", "di"))
    assert first == second
    judge(desk, first[0], reviewer="cy")
    assert first[0] in desk.next_items("sample", "di", 10, {})
    assert first[0] not in desk.next_items("sample", "cy", 10, {})


def test_what_a_reviewer_left_is_given_to_another_after_a_while(make_desk, monkeypatch):
    desk = make_desk(twice=0)
    left = desk.next_items("sample", "ann", 5, {})
    assert desk.next_items("sample", "bo", 5, {}) != left
    monkeypatch.setattr(desk_module, "RESERVED", -1.0)
    assert desk.next_items("sample", "bo", 5, {}) == left


def test_an_undo_brings_a_synapse_back(make_desk):
    desk = make_desk(twice=0)
    (item,) = desk.next_items("score", "ann", 1, {})
    one = judge(desk, item)
    assert desk.describe(item)["given"][0]["verdict"] == "right"
    assert item not in desk.next_items("score", "ann", 5, {})
    desk.store.add([Verdict(verdict=UNDO, reviewer="ann", undoes=one.uuid)])
    assert desk.next_items("score", "ann", 5, {})[0] == item
    assert desk.describe(item)["given"] == []


def test_verdicts_of_another_server_count_too(make_desk):
    desk, other = make_desk(twice=0), make_desk(twice=0)
    (item,) = desk.next_items("sample", "ann", 1, {})
    judge(other, item, reviewer="bo")
    assert item not in desk.next_items("sample", "ann", 3, {})
    assert desk.quality()["reviewers"] == ["bo"]


def test_orders_that_there_is_nothing_for_are_absent_and_refused(make_desk):
    desk = make_desk()
    for name in ("candidates", "neuron", "disagreement"):
        assert name not in desk.orders()
        with pytest.raises(InputError, match=name):
            desk.next_items(name, "ann", 1, {})
    for given in ({}, {"z": "1", "y": "x", "x": "3"}, {"z": "nan", "y": "0", "x": "0"}):
        with pytest.raises(InputError, match="number"):
            desk.next_items("place", "ann", 1, given)
    place = dict(zip("zyx", map(str, desk.tables[FOUND].middle[7]), strict=True))
    assert desk.next_items("place", "ann", 1, place)[0] == Item(FOUND, 7)
    for item in (Item(FOUND, 200), Item(FOUND, -1), Item("x", 0), Item(CANDIDATE, 0)):
        with pytest.raises(InputError, match="look at"):
            desk.describe(item)


def test_the_most_useful_synapses_change_with_the_verdicts(make_desk):
    desk = make_desk(twice=0)
    first = desk.next_items("useful", "ann", 12, {})
    assert len(set(first)) == 12
    for item in first:
        judge(desk, item, "not_synapse")
    second = desk.next_items("useful", "ann", 12, {})
    assert len(second) == 12 and not set(first) & set(second)


def test_disputed_synapses_and_changed_ones_are_conflicts(make_desk):
    found, _ = random_found(50)
    desk = make_desk(found=found, twice=1)
    desk.store.add([verdict_on(found, 3, "right", "ann", table_hash="ab")])
    desk.store.add([verdict_on(found, 3, "not_synapse", "bo", table_hash="ab")])
    desk.store.add([verdict_on(found, 8, "right", "ann", table_hash="ab")])
    assert rows(desk.next_items("conflicts", "cy", 9, {})) == [3]
    assert desk.quality()["disputed"] == 1
    desk.store.add([verdict_on(found, 3, "right", "cy", table_hash="ab")])
    assert desk.next_items("conflicts", "di", 9, {}) == []
    # the same synapses, of which one has grown, in another decoding
    later = dataclasses.replace(
        found, voxels=found.voxels * np.where(np.arange(50) == 8, 3, 1)[:, None]
    )
    again = make_desk(found=later, digest="ef", twice=1)
    assert rows(again.next_items("conflicts", "ann", 9, {})) == [8]
    judge(again, Item(FOUND, 8))
    assert again.next_items("conflicts", "ann", 9, {}) == []


# ---------------------------------------------------------------- how good it is


def answer(desk, truth, order, reviewer="ann", count=10**6):
    """Judge what comes in an order by the truth: (real, sides right) of each synapse."""
    items, verdicts = desk.next_items(order, reviewer, count, {}), []
    for item in items:
        real, sides = truth[item.kind][item.row]
        said = ("right" if sides else "flipped") if real else "not_synapse"
        verdicts.append(verdict_on_item(desk, item, said, reviewer))
    desk.store.add(verdicts)
    return len(items)


def test_what_was_judged_whole_is_known(make_desk):
    found, real = random_found(40)
    sides = np.arange(40) % 4 > 0
    desk = make_desk(found=found, twice=0)
    assert desk.quality()["precision"] is None
    assert answer(desk, {FOUND: list(zip(real, sides, strict=True))}, "sample") == 40
    quality = desk.quality()
    for name, value in (
        ("precision", real.mean()),
        ("sides", (real & sides).sum() / real.sum()),
        ("right", (real & sides).mean()),
    ):
        assert [quality[name][k] for k in ("value", "low", "high")] == pytest.approx([value] * 3)
    assert quality["more"] == 0 and quality["judged"] == 40
    assert sum(s["synapses"] for s in quality["strata"]) == 40
    assert quality["strata"][0]["from_here"]["value"] == pytest.approx(real.mean())
    assert quality["recall"] is None and "recognises" in quality["blind"]


def test_the_cutoff_is_the_one_with_the_best_f1(make_desk):
    found, _ = random_found(60)
    real = found.score > np.quantile(found.score, 0.5)
    desk = make_desk(found=found, twice=0)
    assert desk.quality()["cutoff"] is None
    answer(desk, {FOUND: [(r, True) for r in real]}, "sample")
    cutoff = desk.quality()["cutoff"]
    assert cutoff["f1"] == 1 and cutoff["score"] == found.score[real].min()
    assert cutoff["f1_without"] == pytest.approx(2 * 30 / (60 + 30))


def test_only_the_random_sample_makes_the_estimate(make_desk):
    found, real = random_found(300)
    desk = make_desk(found=found, twice=0)
    truth = {FOUND: [(r, True) for r in real]}
    answer(desk, truth, "score", count=150)  # the worst ones; some of them begin the sample
    assert desk.quality()["judged"] == 150
    assert desk.quality()["precision"] is None  # nothing is known of high scores
    judged = [stratum["judged"] for stratum in desk.quality()["strata"]]
    assert judged[:2] == [60, 60] and judged[3:] == [0, 0]
    answer(desk, truth, "sample", count=60)
    precision = desk.quality()["precision"]
    assert precision["low"] <= real.mean() <= precision["high"]


def test_the_recall_counts_candidates_and_random_places(make_desk):
    found, real = random_found(100)
    candidates, some = random_found(60, 9)
    desk = make_desk(found=found, candidates=candidates, twice=0)
    truth = {FOUND: [(r, True) for r in real], CANDIDATE: [(r, True) for r in some]}
    answer(desk, truth, "sample")
    answer(desk, truth, "candidates")
    quality = desk.quality()
    expected = real.sum() / (real.sum() + some.sum())
    assert quality["recall"]["value"] == pytest.approx(expected)
    assert quality["missed_among_candidates"]["value"] == pytest.approx(some.sum())
    assert quality["missed_elsewhere"] is None
    places = desk.next_items("places", "ann", 20, {})
    assert {item.kind for item in places} == {PLACE}
    for item in places:
        judge(desk, item, "seen")
    assert desk.next_items("places", "bo", 1, {})[0].row == 20
    corner = desk.boxes[3][0]
    point = tuple((corner + 700).tolist())
    for name in ("ann", "bo"):  # both add the same synapse
        missed = Verdict(verdict="missed", reviewer=name, pre=point, post=point)
        desk.store.add([missed])
    assert len(desk.describe(Item(PLACE, 3))["missed"]) == 2
    quality = desk.quality()
    assert quality["places"] == 1000 and quality["places_searched"] == 20
    assert quality["missed_elsewhere"]["value"] == 1 / 20 * 1000
    assert quality["recall"]["value"] < expected


def test_a_missed_synapse_that_is_found_now_counts_no_more(make_desk):
    found, _ = random_found(30)
    desk = make_desk(found=found)
    one = verdict_on(found, 4)
    missed = Verdict(verdict="missed", reviewer="ann", pre=one.pre, post=one.post)
    desk.store.add([missed])
    assert desk.quality()["added"] == 0
    desk.store.add(
        [Verdict(verdict="missed", reviewer="ann", pre=(-900.0, 0, 0), post=(-900.0, 0, 0))]
    )
    assert desk.quality()["added"] == 1


def test_the_agreement_of_reviewers_is_that_of_what_both_judged(make_desk):
    found, real = random_found(60)
    desk = make_desk(found=found, twice=1)
    truth = {FOUND: [(r, True) for r in real]}
    answer(desk, truth, "sample", "ann", 40)
    answer(desk, truth, "sample", "bo", 20)
    (pair,) = desk.quality()["agreement"]
    assert pair["reviewers"] == ["ann", "bo"] and pair["synapses"] == pair["same"] == 20
    assert pair["kappa"]["value"] == 1


def test_verdicts_that_have_lost_their_synapse_are_told(make_desk):
    found, _ = random_found(30)
    desk = make_desk(found=found)
    desk.store.add([verdict_on(found, 4), verdict_on(found, 5)])
    again = make_desk(found=found[np.arange(30) != 4], digest="ef")
    assert again.quality()["loose"] == {"lost": 1}
    assert again.quality()["judged"] == 1


def test_a_real_result_has_a_desk(tmp_path):
    config = finish(tmp_path / "made", "connect")
    table = config.parent / "result" / "synapses.parquet"
    with VerdictStore(table.with_name("verdicts.db")) as store:
        desk = Desk(store, table, LOW, HIGH, BOX, Review(compare=[str(table.parent)]))
        assert set(desk.orders()) == set(desk_module.ORDERS) - {"candidates"}
        for order in desk.orders():
            given = {"z": "0", "y": "0", "x": "0", "neuron": "3"}
            items = desk.next_items(order, "ann", 3, given)
            assert [desk.describe(item)["row"] for item in items] == rows(items)
            assert bool(items) == (order not in ("disagreement", "conflicts"))
