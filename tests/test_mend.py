"""Verdicts make a new version of a result, exactly, and labels that hold what was judged."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from finished import finish
from recipes import run, run_refused

from synpol.config import ImageSource, load_config
from synpol.images.image import open_image
from synpol.polarity import UNKNOWN, partner_of, split_labels
from synpol.review.mend import Decisions, mended_labels, voxel_boxes
from synpol.review.opening import open_desk
from synpol.review.store import VerdictStore
from synpol.review.verdicts import Verdict


def test_labels_without_sides_are_removed_alone():
    labels = np.array([0, 1, 2, 3, 4], np.uint64)
    assert mended_labels(labels, Decisions((2,), (3,), ()), False).tolist() == [0, 1, 0, 3, 4]
    assert mended_labels(labels, Decisions((2,), (1,), ()), True).tolist() == [0, 2, 1, 0, 0]


def test_boxes_hold_every_voxel_that_they_cut():
    low, high = np.array([[0.0, 15.9, 16.0]]), np.array([[30.0, 16.1, 48.0]])
    found = voxel_boxes(low, high, np.zeros(3), np.array([30, 16, 16]))
    assert found == ((0, 0, 1, 1, 2, 3),)


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """A result whose first synapse is none, whose second is flipped, whose third is right."""
    config = finish(tmp_path_factory.mktemp("mend"), "connect")
    output = config.parent / "result"
    with VerdictStore(output / "verdicts.db") as store:
        desk = open_desk(load_config([str(config)]), store, open_image(output / "instances"))
        from synpol.review.desk import FOUND, Item

        verdicts = []
        for row, verdict in enumerate(("not_synapse", "flipped", "right")):
            about = desk.describe(Item(FOUND, row))
            names = ("pre", "post", "pre_voxels", "post_voxels", "synapse_id", "table_hash")
            told = {name: about[name] for name in names}
            verdicts.append(Verdict(verdict=verdict, reviewer="ann", **told))
        far = (120.0, 1500.0, 1500.0)
        verdicts.append(Verdict(verdict="missed", reviewer="ann", pre=far, post=far))
        store.add(verdicts)
        numbers = desk.tables[FOUND].number
    return config, output, [int(n) for n in numbers[:3]]


@pytest.mark.parametrize("block_shape", ["[8, 96, 96]", "[3, 20, 31]"])
def test_a_new_version_has_what_the_verdicts_say_and_the_old_one_stays(
    judged, tmp_path, block_shape
):
    config, output, (none, flipped, right) = judged
    before = open_image(output / "instances").array[:]
    new = tmp_path / "new"
    assert run("review", config, f"decode.block_shape={block_shape}", "--apply", new) == 0
    made = open_image(new / "instances").array[:]
    synapse, _ = split_labels(before)
    expected = before.copy()
    expected[synapse == none] = 0
    expected[synapse == flipped] = partner_of(before[synapse == flipped])
    assert np.array_equal(made, expected)
    assert np.array_equal(open_image(output / "instances").array[:], before)
    old, table = (pq.read_table(f / "synapses.parquet").to_pylist() for f in (output, new))
    old = {row["synapse_id"]: row for row in old}
    assert [row["synapse_id"] for row in table] == [n for n in old if n != none]
    for row in table:
        for name, value in row.items():
            source = name
            if row["synapse_id"] == flipped and name.startswith(("pre_", "post_")):
                side, _, rest = name.partition("_")
                source = f"{'post' if side == 'pre' else 'pre'}_{rest}"
            wanted = old[row["synapse_id"]][source]
            if row["synapse_id"] == flipped and name.startswith("direction"):
                wanted = -wanted
            assert value == wanted, name
    assert pq.read_table(new / "missed.parquet")["pre_y"].to_pylist() == [1500.0]
    assert run("connect", config, f"predict.output={new}") == 0
    links = {r["synapse_id"]: r for r in pq.read_table(new / "partners.parquet").to_pylist()}
    kept = {r["synapse_id"]: r for r in pq.read_table(output / "partners.parquet").to_pylist()}
    assert links[right] == kept[right] and none not in links
    assert links[flipped]["pre_id"] == kept[flipped]["post_id"]


def test_labels_to_learn_from_are_what_was_judged_and_all_else_is_unknown(judged, tmp_path):
    config, output, (none, flipped, right) = judged
    before = open_image(output / "instances").array[:]
    synapse, _ = split_labels(before)
    shapes = {}
    for shape in ("[8, 96, 96]", "[3, 20, 31]"):
        new = tmp_path / shape
        assert run("review", config, f"decode.block_shape={shape}", "--labels", new) == 0
        shapes[shape] = open_image(new / "truth").array[:]
    made, other = shapes.values()
    assert np.array_equal(made, other)
    assert (made[synapse == none] == 0).all()
    assert np.array_equal(made[synapse == right], before[synapse == right])
    assert np.array_equal(made[synapse == flipped], partner_of(before[synapse == flipped]))
    rest = (synapse > 0) & ~np.isin(synapse, (none, flipped, right))
    assert rest.any() and (made[rest] == UNKNOWN).all()
    background = made[synapse == 0]
    assert (background == 0).any() and (background == UNKNOWN).any()
    around = np.zeros(made.shape, bool)  # 100 nm around the boxes of the three
    for number in (none, flipped, right):
        voxels = np.argwhere(synapse == number)
        low, high = voxels.min(axis=0) - (4, 7, 7), voxels.max(axis=0) + 1 + (4, 7, 7)
        around[tuple(map(slice, np.maximum(low, 0), high))] = True
    assert around[made == 0].all()
    source = ImageSource(path=f"{tmp_path}/[3, 20, 31]/truth", unknown=[UNKNOWN])
    assert open_image(source).is_marked


@pytest.mark.slow
def test_a_network_learns_from_what_was_judged(judged, tmp_path):
    config, output, _ = judged
    assert run("review", config, "--labels", tmp_path / "new") == 0
    truth = {"path": f"{tmp_path}/new/truth", "unknown": [UNKNOWN]}
    volume = {"raw": f"{output.parent}/data/raw", "truth": truth, "labels": "polarity"}
    assert (
        run("train", config, f"data.train={json.dumps([volume])}", f"run_dir={tmp_path}/run") == 0
    )


def test_a_cutoff_leaves_out_what_nobody_called_real(judged, tmp_path, capsys):
    config, output, (none, flipped, right) = judged
    assert run("review", config, "--apply", tmp_path / "new", "--above", "1.0") == 0
    table = pq.read_table(tmp_path / "new" / "synapses.parquet")["synapse_id"].to_pylist()
    scores = pq.read_table(output / "synapses.parquet", columns=["pre_score", "post_score"])
    assert {flipped, right} <= set(table) and none not in table
    below = [min(r.values()) < 1.0 for r in scores.to_pylist()]
    assert len(table) == sum(not b for b in below[3:]) + 2
    assert "--above" in run_refused(
        capsys, "review", config, "--apply", tmp_path / "x", "--above", "2"
    )
    assert "another folder" in run_refused(capsys, "review", config, "--apply", output)
