"""What reviewers call split or merged is mended exactly, or listed with place and reason."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from recipes import run, tiny_config, write

from synpol.config import load_config
from synpol.images.image import open_image
from synpol.polarity import split_labels
from synpol.review.apart import Separation
from synpol.review.desk import FOUND, Item
from synpol.review.found import Found
from synpol.review.opening import open_desk
from synpol.review.pieces import other_part
from synpol.review.store import VerdictStore
from synpol.review.verdicts import Verdict
from synpol.review.volumes import Volumes, sums_of
from synpol.synapses.statistics import Rows
from synpol.synapses.table import synapse_rows

SHAPE, SIZE = (14, 96, 128), (30, 16, 16)


def draw(polarity, z, y, x, flipped=False, value=255):
    """Draw a synapse of 2 x 6 x 12 voxels whose pre side lies left."""
    for channel, at in ((0, x + 6 * flipped), (1, x + 6 * (not flipped))):
        polarity[channel, z : z + 2, y : y + 6, at : at + 6] = value
    polarity[2, z : z + 2, y : y + 6, x : x + 12] = value


#: upper left corner of every synapse that is drawn, and whether it is flipped
DRAWN = {
    "part": (1, 4, 4), "its other part": (4, 4, 4),  # a section between them is empty
    "first of three": (1, 30, 4), "middle of three": (4, 30, 4), "last of three": (7, 30, 6),
    "below": (1, 60, 4), "above": (4, 60, 4),  # flipped
    "alone": (1, 80, 40),
    "left of two": (1, 4, 60), "right of two": (1, 4, 76),  # 4 voxels are dilated away
    "strong": (6, 30, 60), "stronger": (6, 30, 74),  # and a weak bridge
    "solid": (1, 60, 60),
    "beside a flipped": (1, 80, 4), "flipped": (4, 80, 4),  # drawn the other way
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A result; gives its config and the number at each place that was drawn."""
    folder = tmp_path_factory.mktemp("pieces")
    polarity = np.zeros((3, *SHAPE), np.uint8)
    for name, (z, y, x) in DRAWN.items():
        draw(polarity, z, y, x, name in ("above", "flipped"), 200 if name == "strong" else 255)
    polarity[:, 6:8, 30:36, 72:74] = [[[[140]]], [[[0]]], [[[140]]]]
    write(folder / "result", "polarity", polarity)
    write(folder / "data", "raw", np.zeros(SHAPE, np.uint8))
    config = tiny_config(folder, evaluate={})
    assert run("predict_blockwise", config, "--only", "decode") == 0
    labels = open_image(folder / "result" / "instances").array[:]
    numbers = {name: int(split_labels(labels)[0][place]) for name, place in DRAWN.items()}
    return config, numbers


def judge(config, file, verdicts):
    """Write verdicts, (number, verdict, reviewer) each, into a store."""
    output = config.parent / "result"
    with VerdictStore(file) as store:
        desk = open_desk(load_config([str(config)]), store, open_image(output / "instances"))
        rows = {int(n): row for row, n in enumerate(desk.tables[FOUND].number)}
        told = []
        for number, verdict, reviewer in verdicts:
            about = desk.describe(Item(FOUND, rows[number]))
            names = ("pre", "post", "pre_voxels", "post_voxels", "synapse_id", "table_hash")
            given = {name: about[name] for name in names}
            told.append(Verdict(verdict=verdict, reviewer=reviewer, **given))
        store.add(told)


def apply(made, tmp_path, verdicts, *options):
    """Apply verdicts, (name of a place, verdict, ...); gives labels, table and what is left."""
    config, numbers = made
    file = tmp_path / "some.db"
    judge(config, file, [(numbers[name], verdict, who) for name, verdict, who in verdicts])
    new = tmp_path / "new"
    assert run("review", config, f"review.verdicts={file}", "--apply", new, *options) == 0
    rows = {row["synapse_id"]: row for row in pq.read_table(new / "synapses.parquet").to_pylist()}
    left = json.loads((new / "left.json").read_text())
    return open_image(new / "instances").array[:], rows, left


VERDICTS = [
    ("part", "split", "ann"),
    ("first of three", "split", "ann"),
    ("middle of three", "split", "ann"),
    ("below", "split", "ann"),
    ("alone", "split", "ann"),
    ("left of two", "merged", "ann"),
    ("strong", "merged", "ann"),
    ("solid", "merged", "ann"),
    ("beside a flipped", "split", "ann"),
    ("flipped", "flipped", "ann"),
]


def test_the_drawing_is_what_the_tests_take_it_for(made):
    _, numbers = made
    merged = {"left of two": "right of two", "strong": "stronger"}
    assert all(numbers[one] == numbers[other] for one, other in merged.items())
    assert len(set(numbers.values())) == len(DRAWN) - len(merged)


@pytest.mark.parametrize("block_shape", ["[14, 96, 128]", "[3, 33, 31]"])
def test_parts_are_joined_and_several_are_taken_apart_and_the_rest_is_listed(
    made, tmp_path, block_shape, capsys
):
    config, n = made
    before = open_image(config.parent / "result" / "instances").array[:]
    labels, rows, left = apply(made, tmp_path, VERDICTS, f"decode.block_shape={block_shape}")
    last = max(n.values())
    expected = before.copy()
    synapse, pre = split_labels(before)

    def renumber(voxels, number):
        expected[voxels & pre], expected[voxels & ~pre] = 2 * number - 1, 2 * number

    renumber(synapse == n["its other part"], n["part"])
    renumber(synapse == n["middle of three"], n["first of three"])
    right = np.zeros(SHAPE, bool)
    right[:6, :20, 74:] = True
    renumber((synapse == n["left of two"]) & right, last + 1)
    right = np.zeros(SHAPE, bool)
    right[6:8, :, 73:] = True  # the bridge is divided in its middle
    renumber((synapse == n["strong"]) & right, last + 2)
    flipped = synapse == n["flipped"]
    expected[flipped & pre], expected[flipped & ~pre] = 2 * n["flipped"], 2 * n["flipped"] - 1
    assert np.array_equal(labels, expected)
    assert set(rows) == set(np.unique(split_labels(labels)[0]).tolist()) - {0}
    for number, row in rows.items():
        voxels = split_labels(labels)[0] == number
        assert row["pre_voxels"] + row["post_voxels"] == voxels.sum(), number
    reasons = {one["synapse_id"]: one for one in left}
    assert set(reasons) == {n[k] for k in ("below", "alone", "solid", "beside a flipped")}
    assert "same direction" in reasons[n["below"]]["reason"]
    assert "no synapse with" in reasons[n["alone"]]["reason"]
    assert "no threshold" in reasons[n["solid"]]["reason"]
    assert "flipped" in reasons[n["beside a flipped"]]["reason"]
    assert (reasons[n["alone"]]["z"], reasons[n["alone"]]["x"]) == (60.0, 16 * 46.0)
    assert "4 split or merged ones stay as they are" in capsys.readouterr().out


def test_a_part_of_which_both_sides_are_near_is_joined_to_one_that_is_split_too(made, tmp_path):
    _, n = made
    _, rows, left = apply(made, tmp_path, [("middle of three", "split", "ann")])
    assert [one["synapse_id"] for one in left] == [n["middle of three"]]
    assert "several synapses are near" in left[0]["reason"]
    assert n["middle of three"] in rows and len(rows) == len(set(n.values()))


def test_a_chain_of_parts_is_one_synapse(made, tmp_path):
    _, n = made
    parts = ("first of three", "middle of three", "last of three")
    _, rows, left = apply(made, tmp_path, [(name, "split", "ann") for name in parts])
    assert not left
    assert rows[n["first of three"]]["pre_voxels"] == 3 * 72
    assert not {n[name] for name in parts[1:]} & set(rows)


def test_nothing_is_done_where_reviewers_disagree_and_it_is_listed(made, tmp_path):
    _, n = made
    verdicts = [
        ("part", "split", "ann"),
        ("part", "right", "bob"),
        ("left of two", "merged", "ann"),
        ("left of two", "unsure", "bob"),
        ("solid", "merged", "ann"),
        ("solid", "not_synapse", "bob"),
        ("solid", "not_synapse", "eve"),
    ]
    _, rows, left = apply(made, tmp_path, verdicts)
    assert [(one["synapse_id"], one["verdict"]) for one in left] == [(n["part"], "split")]
    assert "disagree" in left[0]["reason"]
    assert n["its other part"] in rows and n["solid"] not in rows
    assert max(rows) == max(n.values()) + 1  # who is unsure does not count


def test_what_is_not_the_same_any_more_is_listed(made, tmp_path):
    _, n = made
    far = Verdict(verdict="merged", reviewer="ann", pre=(0.0, 900.0, 1800.0), post=(9.0, 9.0, 9.0))
    with VerdictStore(tmp_path / "some.db") as store:
        store.add([far])
    _, rows, left = apply(made, tmp_path, [])
    assert len(rows) == len(set(n.values()))
    assert [(one["synapse_id"], one["x"]) for one in left] == [(0, 904.5)]
    assert "judge it again" in left[0]["reason"]


def test_without_polarity_everything_is_listed(made, tmp_path):
    config, _ = made
    polarity = config.parent / "result" / "polarity"
    polarity.rename(tmp_path / "away")
    try:
        _, _, left = apply(made, tmp_path, VERDICTS)
    finally:
        (tmp_path / "away").rename(polarity)
    assert len(left) == sum(verdict != "flipped" for _, verdict, _ in VERDICTS)
    assert all("no polarity" in one["reason"] for one in left)


def test_the_nearest_of_several_is_the_other_part_if_both_are_split_and_nearest_to_each_other():
    ends = np.zeros((4, 3))
    found = Found(np.arange(1, 5, dtype=np.uint64), ends, ends + 1.0, ends[:, :2], ends[:, 0])
    near = {2: {3: 40.0, 1: 50.0}, 3: {2: 40.0, 4: 50.0}}
    assert other_part(2, near, found, (), (), ()) == (3, "")
    assert other_part(3, near, found, (), (), ()) == (2, "")
    assert other_part(2, {2: near[2]}, found, (), (), ())[0] is None
    assert other_part(2, near | {3: {4: 30.0, 2: 40.0}}, found, (), (), ())[0] is None
    assert other_part(2, near, found, (1,), (), ()) == (3, "")
    assert "flipped" in other_part(2, {2: {3: 40.0}}, flip(found, 3), (), (3,), ())[1]
    assert "merged" in other_part(2, near, found, (), (), (3,))[1]


def flip(found, number):
    """Exchange the sides of a synapse."""
    own = (found.number == number)[:, None]
    pre, post = np.where(own, found.post, found.pre), np.where(own, found.pre, found.post)
    return replace(found, pre=pre, post=post)


@pytest.mark.parametrize("sides", [True, False])
def test_rows_from_voxels_are_those_of_the_table(made, tmp_path, sides):
    config, _ = made
    output, new = config.parent / "result", tmp_path / "result"
    changes = [f"decode.sides={str(sides).lower()}", f"predict.output={new}"]
    new.mkdir()
    (new / "polarity").symlink_to(output / "polarity")
    assert run("predict_blockwise", config, *changes, "--only", "decode") == 0
    volumes = Volumes(
        open_image(new / "instances", channels=0), open_image(new / "polarity", channels=3)
    )
    table = pq.read_table(new / "synapses.parquet")
    labels = volumes.instances.array[:]
    polarity, box = volumes.polarity.array[:], (0, 0, 0, *SHAPE)
    numbers = table["synapse_id"].to_pylist()
    rows = Rows.joined([sums_of(labels, polarity, box, n, sides) for n in numbers])
    found = synapse_rows(np.array(numbers), rows, volumes.instances, 255, sides=sides)
    assert found.num_rows > 10
    assert found.equals(table)
    boxes = volumes.boxes(new / "synapses.parquet", numbers)
    own = [split_labels(labels)[0] if sides else labels] * len(numbers)
    for number, synapse in zip(numbers, own, strict=True):
        at = np.argwhere(synapse == number)
        assert boxes[number] == (*at.min(axis=0), *(at.max(axis=0) + 1))


def test_labels_without_sides_are_joined_and_taken_apart_too(made, tmp_path):
    config, _ = made
    output, new = config.parent / "result", tmp_path / "result"
    changes = ["decode.sides=false", f"predict.output={new}"]
    new.mkdir()
    (new / "polarity").symlink_to(output / "polarity")
    assert run("predict_blockwise", config, *changes, "--only", "decode") == 0
    before = open_image(new / "instances").array[:]
    numbers = {name: int(before[place]) for name, place in DRAWN.items()}
    with VerdictStore(new / "verdicts.db") as store:
        loaded = load_config([str(config), *changes])
        desk = open_desk(loaded, store, open_image(new / "instances"))
        rows = {int(k): row for row, k in enumerate(desk.tables[FOUND].number)}
        told = []
        for name, verdict in (("part", "split"), ("strong", "merged")):
            about = desk.describe(Item(FOUND, rows[numbers[name]]))
            given = {k: about[k] for k in ("pre", "post", "synapse_id", "table_hash")}
            told.append(Verdict(verdict=verdict, reviewer="ann", **given))
        store.add(told)
    assert run("review", config, *changes, "--apply", tmp_path / "mended") == 0
    labels = open_image(tmp_path / "mended" / "instances").array[:]
    expected = before.copy()
    expected[before == numbers["its other part"]] = numbers["part"]
    right = np.zeros(SHAPE, bool)
    right[:, :, 73:] = True
    expected[(before == numbers["strong"]) & right] = max(numbers.values()) + 1
    assert np.array_equal(labels, expected)


def test_an_exclusive_result_is_taken_apart_by_the_sum_of_both_sides():
    labels = np.array([[[1, 1, 2, 1, 2, 2]]], np.uint64)
    polarity = np.zeros((3, 1, 1, 6), np.uint8)
    polarity[1, 0, 0] = [255, 255, 0, 200, 0, 0]
    polarity[2, 0, 0] = [0, 0, 130, 0, 255, 255]
    how = Separation(level=127, least=1, sides=True, exclusive=True, size=(1, 1, 1))
    assert how.separate(labels, polarity, 1) is None  # the left piece has no post side
    polarity[2, 0, 0, 2], polarity[1, 0, 0, 3] = 200, 130
    assert how.separate(labels, polarity, 1) is None
    labels = np.array([[[1, 2, 1, 1, 2, 0]]], np.uint64)
    polarity[1, 0, 0], polarity[2, 0, 0] = [200, 0, 130, 200, 0, 0], [0, 200, 0, 0, 200, 0]
    pieces = how.separate(labels, polarity, 1)
    assert pieces.tolist() in ([[[1, 1, 1, 2, 2, 0]]], [[[1, 1, 2, 2, 2, 0]]])
