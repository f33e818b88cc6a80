"""Two results are compared at places that were held back, and these are never learned from."""

import json
import shutil

import numpy as np
import pytest
from finished import finish
from recipes import run, run_refused, write

from synpol.config import load_config
from synpol.images.image import open_image
from synpol.polarity import UNKNOWN, split_labels
from synpol.review.compare import Places, compare, hold_back
from synpol.review.desk import CANDIDATE, FOUND, NONE, Item
from synpol.review.exchange import read_parquet, write_parquet
from synpol.review.found import Found
from synpol.review.known import Knowledge
from synpol.review.opening import open_desk
from synpol.review.store import VerdictStore
from synpol.review.verdicts import Verdict


def synapses(pre, along=60.0):
    """Synapses whose pre sides lie at places and whose post sides lie `along` further in x."""
    pre = np.array(pre, float).reshape(-1, 3)
    post = pre + [0, 0, along]
    number = np.arange(1, len(pre) + 1, dtype=np.uint64)
    return Found(number, pre, post, np.full((len(pre), 2), 50), np.full(len(pre), 0.5))


def verdict(found, row, said, reviewer="ann"):
    pre, post = tuple(found.pre[row].tolist()), tuple(found.post[row].tolist())
    return Verdict(
        verdict=said,
        reviewer=reviewer,
        pre=pre,
        post=post,
        pre_voxels=50,
        post_voxels=50,
        synapse_id=0 if said == "missed" else row + 1,
        table_hash="old",
    )


LINE = np.stack([np.zeros(8), np.zeros(8), 1000.0 * np.arange(8)], axis=1)


def test_shares_and_changes_are_those_of_the_judged_places():
    before = synapses(LINE[:6])
    said = ["right", "right", "flipped", "not_synapse", "not_synapse", "unsure"]
    verdicts = [verdict(before, row, one) for row, one in enumerate(said)]
    missed = synapses(LINE[6:7])
    for name in ("ann", "ben"):  # both add it: it is one place
        verdicts.append(verdict(missed, 0, "missed", name))
    places = Places.of(before, "old", verdicts, 100)
    assert len(places) == 6 and places.is_real.sum() == 4
    turned = Found(*(getattr(before, f) for f in ("number", "post", "pre", "voxels", "score")))
    after = synapses([])
    rows = [before[np.array([0, 3])], turned[np.array([2])], synapses(LINE[6:8])]
    after = Found(*(np.concatenate(c) for c in zip(*(vars(r).values() for r in rows), strict=True)))
    found = compare(places, before, after, 100)
    old, new = found["before"], found["after"]
    assert old["precision"]["value"] == 3 / 5 and old["precision"]["judged"] == 5
    assert old["recall"]["value"] == 3 / 4 and old["sides"]["value"] == 2 / 3
    assert new["precision"]["value"] == 3 / 4 and new["recall"]["value"] == 3 / 4
    assert new["sides"]["value"] == 1.0 and new["sides"]["judged"] == 3
    assert (old["elsewhere"], new["elsewhere"]) == (1, 1)
    # better: turned, gone, added; worse: the second one is lost
    assert (found["better"], found["worse"]) == (3, 1)
    assert found["p"] == pytest.approx(2 * 5 / 16)
    assert old["precision"]["low"] < 3 / 5 < old["precision"]["high"]


def test_reviewers_of_a_place_decide_by_majority_and_a_tie_is_left_out():
    before = synapses(LINE[:2])
    said = [(0, "right", "ann"), (0, "not_synapse", "ben"), (0, "flipped", "cy")]
    said += [(1, "right", "ann"), (1, "not_synapse", "ben")]
    verdicts = [verdict(before, row, one, name) for row, one, name in said]
    places = Places.of(before, "old", verdicts, 100)
    assert places.is_real.tolist() == [True] and places.has_sides.tolist() == [False]
    found = compare(places, before, before, 100)
    assert found["before"]["sides"] is None and found["before"]["recall"]["value"] == 1
    assert (found["better"], found["worse"], found["p"]) == (0, 0, 1.0)


def test_nothing_at_all_is_not_known():
    places = Places.of(synapses([]), "old", [], 100)
    found = compare(places, synapses([]), synapses(LINE), 100)
    assert len(places) == 0
    assert found["after"]["precision"] is None and found["after"]["elsewhere"] == 8


def test_what_is_held_back_is_a_random_share_by_place_and_whole(tmp_path):
    rng = np.random.default_rng(0)
    found = synapses(rng.uniform(0, 1e5, (400, 3)))
    verdicts = [verdict(found, row, "right", name) for row in range(400) for name in ("ann", "ben")]
    boxes = [(5e3 * k, 5e3 * k + 2e3) for k in range(40)]
    inside = synapses([(low + 500.0,) * 3 for low, _ in boxes])
    for k, (low, high) in enumerate(boxes):
        verdicts.append(Verdict(verdict="seen", reviewer="ann", pre=(low,) * 3, post=(high,) * 3))
        verdicts.append(verdict(inside, k, "missed"))
    with VerdictStore(tmp_path / "a.db") as store:
        store.add(verdicts)
        known = Knowledge(store, found, NONE, ("old", ""), 1.0).now()
    others, held, elsewhere = hold_back(found, known, 0.3, 1)
    away, left = ([v for v in some if v.verdict == "right"] for some in (held, others.verdicts))
    assert len(away) + len(left) == 800
    assert not {v.pre for v in away} & {v.pre for v in left}
    assert 0.2 < len(away) / 800 < 0.4
    assert {o.source.uuid for o in others.found} == {v.uuid for v in left}
    assert others.judged.seen.sum() == len(left) / 2
    seen = {v.pre[0] for v in held if v.verdict == "seen"}
    assert 4 <= len(seen) <= 20 and {v.pre[0] - 500 for v in elsewhere} == seen
    assert {v.uuid for v in elsewhere} <= {v.uuid for v in held}
    assert len(others.missed) == 40  # none of them becomes background
    assert hold_back(found, known, 0.3, 1)[1] == held
    assert hold_back(found, known, 0.3, 2)[1] != held
    more = {v.uuid for v in hold_back(found, known, 0.6, 1)[1]}
    assert {v.uuid for v in held} < more


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """A result of which every synapse was judged right, and another one without its first."""
    config = finish(tmp_path_factory.mktemp("compare"))
    output = config.parent / "result"
    with VerdictStore(output / "verdicts.db") as store:
        desk = open_desk(load_config([str(config)]), store, open_image(output / "instances"))
        names = ("pre", "post", "pre_voxels", "post_voxels", "synapse_id", "table_hash")
        for row in range(len(desk.tables[FOUND])):
            told = {name: desk.describe(Item(FOUND, row))[name] for name in names}
            store.add([Verdict(verdict="right", reviewer=r, **told) for r in ("ann", "ben")])
    polarity = np.asarray(open_image(output / "polarity").array[:])
    synapse, _ = split_labels(open_image(output / "instances").array[:])
    other = config.parent / "other"
    first = int(desk.tables[FOUND].number[0])
    write(other, "polarity", np.where(synapse == first, 0, polarity))
    assert run("predict_blockwise", config, f"predict.output={other}", "--only", "decode") == 0
    return config, output, other


def test_what_is_held_back_is_unknown_in_the_labels_and_compared(judged, tmp_path, capsys):
    config, output, other = judged
    synapse, _ = split_labels(open_image(output / "instances").array[:])
    number = {n for n in np.unique(synapse).tolist() if n}
    assert run("review", config, "--labels", tmp_path, "--hold-back", "0.5") == 0
    held = {v.synapse_id for v in read_parquet(tmp_path / "held_back.parquet")}
    assert held and held < number
    made = open_image(tmp_path / "truth").array[:]
    for one in number:
        assert ((made[synapse == one] == UNKNOWN).all()) == (one in held)

    with VerdictStore(output / "verdicts.db") as store:
        write_parquet(tmp_path / "all.parquet", store.read()[0])
    capsys.readouterr()
    assert run("review", config, "--compare", other, "--on", tmp_path / "all.parquet") == 0
    said = capsys.readouterr().out
    count = len(number)
    assert f"{count} places, {count} of them synapses" in said
    found = json.loads((other / "compare.json").read_text())
    assert found["before"]["recall"]["value"] == 1
    assert found["after"]["recall"]["value"] == pytest.approx((count - 1) / count)
    assert (found["better"], found["worse"]) == (0, 1)
    page = (other / "compare.html").read_text()
    assert "side accuracy" in page and str(other) in page
    assert run("review", config, "--compare", output, "--on", tmp_path / "all.parquet") == 0
    assert json.loads((output / "compare.json").read_text())["worse"] == 0


def test_a_candidate_that_is_a_synapse_is_never_taken_for_background(judged, tmp_path):
    config, output, other = judged
    (other / "candidates").mkdir()
    for path in output.glob("synapses.parquet*"):
        shutil.copy(path, other / "candidates")
    changes = ["review.thres=0.3", f"review.verdicts={tmp_path}/verdicts.db"]
    changes.append(f"predict.output={other}")
    with VerdictStore(tmp_path / "verdicts.db") as store:
        desk = open_desk(
            load_config([str(config), *changes]), store, open_image(other / "instances")
        )
        about = desk.describe(Item(CANDIDATE, 0))
        told = {k: about[k] for k in ("pre", "post", "synapse_id", "table_hash")}
        box = {"pre": (0.0, 0.0, 0.0), "post": (1e5, 1e5, 1e5)}
        store.add([Verdict(verdict="seen", reviewer="ann", **box)])
        for said, background in (("not_synapse", True), ("right", False)):
            store.add([Verdict(verdict=said, reviewer="ann", **told)])
            assert run("review", config, *changes, "--labels", tmp_path / said) == 0
            image = open_image(tmp_path / said / "truth")
            middle = (np.array(about["pre"]) + about["post"]) / 2
            voxel = tuple((middle / image.voxel_size_nm).astype(int))
            assert (image.array[:][voxel] == 0) == background


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--compare", "OTHER"], "--on FILE"),
        (["--on", "FILE"], "--compare FOLDER"),
        (["--hold-back", "0.5"], "--labels FOLDER"),
        (["--labels", "OTHER/labels", "--hold-back", "1.5"], "between 0 and 1"),
        (["--compare", "OTHER", "--on", "OTHER/none.parquet"], "none.parquet"),
        (["--compare", "OTHER", "--on", "EMPTY"], "no verdict that says"),
        (["--compare", "EMPTY", "--on", "EMPTY"], "instances"),
        (["--compare", "SMALL", "--on", "EMPTY"], "predict.roi"),
    ],
)
def test_what_cannot_be_compared_is_refused(judged, tmp_path, capsys, options, said):
    config, _, other = judged
    empty = tmp_path / "empty.parquet"
    write_parquet(empty, [])
    write(tmp_path / "small", "instances", np.zeros((8, 48, 48), np.uint64))
    names = {"OTHER": other, "EMPTY": empty, "SMALL": tmp_path / "small"}
    for name, path in names.items():
        options = [option.replace(name, str(path)) for option in options]
    assert said in run_refused(capsys, "review", config, *options)
