"""Labels of sides made from links."""

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from recipes import run, run_refused, write

from synpol import InputError, seg_to_polarity
from synpol.config import LinkSides, LinkTable
from synpol.datasets import write_link_sides as module
from synpol.datasets.link_sides import STATUS
from synpol.datasets.synthetic import SyntheticVolume
from synpol.datasets.write_link_sides import write_link_sides
from synpol.evaluation.protocols import side_ends
from synpol.images.image import open_image
from synpol.polarity import side_voxels
from synpol.synapses.links import read_links

SIZE = np.array([30, 16, 16])


@pytest.fixture(scope="module")
def tissue(tmp_path_factory):
    """Synthetic tissue on disk, and the links of its synapses."""
    folder = tmp_path_factory.mktemp("tissue")
    region = SyntheticVolume((30, 16, 16), seed=3).make((0, 0, 0), (24, 260, 260))
    for name, data in (("raw", region.raw), ("neurons", region.neurons)):
        write(folder, name, data)
    ends = side_ends(region.labels, SIZE)
    links(folder / "links.csv", *((e + 0.5) * SIZE for e in ends.ends))
    return folder, region, ends


def links(path, pre, post, **more):
    columns = {}
    for side, place in (("pre", np.asarray(pre, float)), ("post", np.asarray(post, float))):
        columns |= {f"{side}_{a}": place.reshape(-1, 3)[:, k] for k, a in enumerate("zyx")}
    table = pa.table(columns | more)
    if path.suffix == ".csv":
        pa.csv.write_csv(table, path)
    else:
        pq.write_table(table, path)


def entry(folder, output, **changes):
    given = {
        "links": LinkTable(path=str(folder / "links.csv")),
        "image": str(folder / "raw"),
        "segmentation": str(folder / "neurons"),
        "output": str(output),
    }
    return LinkSides.model_validate(given | changes)


def test_sides_from_links_and_neurons_lie_on_the_true_sides(tissue, tmp_path):
    folder, region, ends = tissue
    made = write_link_sides(entry(folder, tmp_path / "truth"))
    labels = made.image.array[:]
    assert len(ends.number) >= 5
    assert made.counts["made"] >= 0.9 * len(ends.number)
    assert made.synapses == len(np.unique(labels[labels % 2 == 1]))
    for ours, true, others in zip(
        side_voxels(labels),
        side_voxels(region.labels),
        side_voxels(region.labels)[::-1],
        strict=True,
    ):
        assert (ours & true).sum() > 20 * (ours & others).sum()
    rows = pq.read_table(made.table).to_pylist()
    for row in rows:
        if row["status"] != "made":
            continue
        for side, label in (("pre", 2 * row["synapse_id"] - 1), ("post", 2 * row["synapse_id"])):
            inside = region.neurons[labels == label]
            assert set(inside.tolist()) == {row[f"{side}_id"]}  # its neuron, and no other


@pytest.mark.parametrize("clefts", [False, True])
def test_any_blocks_give_the_same_labels(tissue, tmp_path, monkeypatch, clefts):
    folder, region, _ = tissue
    more = {}
    if clefts:
        union = (region.labels > 0).astype(np.uint8)
        write(tmp_path, "clefts", union)
        more = {"clefts": str(tmp_path / "clefts")}
    tables = []
    for n, block in enumerate([(64, 256, 256), (7, 90, 130), (24, 60, 260)]):
        monkeypatch.setattr(module, "BLOCK", block)
        made = write_link_sides(entry(folder, tmp_path / f"truth{n}", **more))
        tables.append((made.image.array[:], pq.read_table(made.table)))
    assert tables[0][0].any()
    for labels, table in tables[1:]:
        assert np.array_equal(labels, tables[0][0])
        assert table == tables[0][1]


def box_volume(folder):
    """Four neurons: 1 at the left, 2 and 3 at the right, 4 far below; 0 between them."""
    neurons = np.zeros((6, 60, 60), np.uint64)
    neurons[:, :30, :30] = 1
    neurons[:, :15, 31:] = 2
    neurons[:, 15:30, 31:] = 3
    neurons[:, 50:] = 4
    write(folder, "neurons", neurons)
    write(folder, "raw", np.full(neurons.shape, 128, np.uint8))
    return neurons


def test_links_of_one_site_are_one_synapse_with_several_post_sides(tmp_path):
    neurons = box_volume(tmp_path)
    pre = np.array([[3, 14, 25], [3, 15, 25], [3, 14, 25]]) * SIZE
    post = np.array([[3, 10, 34], [3, 20, 34], [3, 58, 34]]) * SIZE
    links(tmp_path / "links.csv", pre, post)
    made = write_link_sides(entry(tmp_path, tmp_path / "truth", radius=200))
    labels = made.image.array[:]
    assert set(np.unique(labels)) == {0, 1, 2}
    assert set(neurons[labels == 1]) == {1}
    assert set(neurons[labels == 2]) == {2, 3}
    rows = pq.read_table(made.table).to_pylist()
    assert [r["synapse_id"] for r in rows] == [1, 1, 1]
    assert [r["post_id"] for r in rows] == [2, 3, 4]
    assert [r["status"] for r in rows] == ["made", "made", STATUS[4]]


def test_what_cannot_be_made_is_counted_and_listed(tmp_path):
    box_volume(tmp_path)
    pre = np.array([[3, 14, 25]] * 5) * SIZE
    post = np.array([[3, 10, 34], [90, 1, 1], [3, 40, 25], [3, 14, 5], [3, 55, 30]]) * SIZE
    pre[:, 0] += np.arange(5)  # all from one neuron
    links(tmp_path / "links.csv", pre, post)
    made = write_link_sides(entry(tmp_path, tmp_path / "truth", site_distance=0))
    assert made.counts == dict.fromkeys(STATUS, 1)
    assert [r["status"] for r in pq.read_table(made.table).to_pylist()] == list(STATUS)
    assert made.synapses == 1


def test_without_neurons_a_side_is_half_of_a_ball(tmp_path):
    write(tmp_path, "raw", np.zeros((12, 40, 40), np.uint8))
    links(tmp_path / "links.csv", [[180, 320, 256]], [[180, 320, 384]])
    given = {"segmentation": None, "radius": 100}
    labels = write_link_sides(entry(tmp_path, tmp_path / "truth", **given)).image.array[:]
    z, y, x = np.meshgrid(
        *[(np.arange(n) + 0.5) * s for n, s in zip((12, 40, 40), SIZE, strict=True)], indexing="ij"
    )
    ball = (z - 180) ** 2 + (y - 320) ** 2 + (x - 320) ** 2 <= 100**2
    assert np.array_equal(labels, np.where(ball, np.where(x > 320, 2, 1), 0))


def test_a_finished_run_is_left_alone_and_other_links_make_it_anew(tmp_path):
    box_volume(tmp_path)
    links(tmp_path / "links.csv", np.array([[3, 14, 25]]) * SIZE, np.array([[3, 10, 34]]) * SIZE)
    first = write_link_sides(entry(tmp_path, tmp_path / "truth"))
    before = first.table.stat().st_mtime_ns
    assert write_link_sides(entry(tmp_path, tmp_path / "truth")).table.stat().st_mtime_ns == before
    links(tmp_path / "links.csv", np.array([[3, 14, 25]]) * SIZE, np.array([[3, 20, 34]]) * SIZE)
    again = write_link_sides(entry(tmp_path, tmp_path / "truth"))
    assert pq.read_table(again.table)["post_id"].to_pylist() == [3]


def test_links_of_another_unit_are_named(tmp_path):
    box_volume(tmp_path)
    links(tmp_path / "links.csv", [[9e6, 1, 1]], [[9e6, 1, 1]])
    with pytest.raises(InputError, match=r"no link of .*links.csv has both points inside.*unit"):
        write_link_sides(entry(tmp_path, tmp_path / "truth"))
    with pytest.raises(InputError, match="clefts are given without neurons"):
        write_link_sides(entry(tmp_path, tmp_path / "t", segmentation=None, clefts="c"))


def test_annotated_partners_of_a_cremi_file_are_read(tmp_path):
    with h5py.File(tmp_path / "a.hdf", "w") as file:
        group = file.create_group("annotations")
        group.attrs["offset"] = (100.0, 0.0, 0.0)
        group["ids"] = np.array([7, 3, 5], np.uint64)
        group["locations"] = np.array([[0, 1, 2], [10, 11, 12], [20, 21, 22]], float)
        group["presynaptic_site/partners"] = np.array([[3, 7], [5, 3]], np.uint64)
    found = read_links(tmp_path / "a.hdf")
    assert found.pre.tolist() == [[110, 11, 12], [120, 21, 22]]
    assert found.post.tolist() == [[100, 1, 2], [110, 11, 12]]
    with h5py.File(tmp_path / "b.hdf", "w") as file:
        file["volumes/raw"] = np.zeros(3)
    with pytest.raises(InputError, match="holds volumes, and no annotations"):
        read_links(tmp_path / "b.hdf")


def test_the_command_makes_labels_and_a_page_to_check(tissue, tmp_path, capsys):
    folder, _, _ = tissue
    config = tmp_path / "c.yaml"
    config.write_text(
        f"run_dir: {tmp_path}/run\nprepare: {{links: [{{links: {{path: {folder}/links.csv}}, "
        f"image: {folder}/raw, segmentation: {folder}/neurons, output: {tmp_path}/truth}}]}}\n"
    )
    assert run("prepare", config) == 0
    said = capsys.readouterr().out
    assert "synapses of" in said and "made" in said
    page = (tmp_path / "truth.links.html").read_text()
    assert page.count("data:image/png") >= 5
    assert open_image(tmp_path / "truth").array.dtype == np.uint64


def test_a_real_synapse_keeps_its_direction_from_link_to_connection(microns, tmp_path, capsys):
    """Link and cells -> sides -> instances -> table -> connection, on mouse cortex."""
    data = np.load(microns)
    size = {"voxel_size": (40_000, 3580, 3580), "unit": "pm"}
    for name, values in (("raw", data["raw"]), ("cells", data["cells"].astype(np.uint64))):
        write(tmp_path, name, values, **size)
    ends = side_ends(data["sides_10px"], (40, 3.58, 3.58)).ends
    links(tmp_path / "links.csv", *((e + 0.5) * (40, 3.58, 3.58) for e in ends))
    config = tmp_path / "c.yaml"
    config.write_text(
        f"run_dir: {tmp_path}/run\n"
        f"prepare: {{links: [{{links: {{path: {tmp_path}/links.csv}}, image: {tmp_path}/raw, "
        f"segmentation: {tmp_path}/cells, output: {tmp_path}/truth}}]}}\n"
        f"predict: {{output: {tmp_path}/out}}\nconnect: {{segmentation: {tmp_path}/cells}}\n"
    )
    assert run("prepare", config) == 0
    truth = open_image(tmp_path / "truth")
    sides = seg_to_polarity(truth.array[:])
    write(tmp_path / "out", "polarity", (255 * sides).astype(np.uint8), **size)
    assert run("predict_blockwise", config, "--only", "decode") == 0
    assert run("connect", config) == 0
    (row,) = pq.read_table(tmp_path / "out" / "synapses.parquet").to_pylist()
    direction = np.array([row[f"direction_{a}"] for a in "zyx"])
    noted = (ends[1] - ends[0])[0] * (40, 3.58, 3.58)
    assert direction @ noted > 0
    (edge,) = pq.read_table(tmp_path / "out" / "connectivity.parquet").to_pylist()
    assert (edge["pre_id"], edge["post_id"]) == (1, 2)


@pytest.mark.parametrize("damage", ["cut", "column"])
def test_a_damaged_table_of_finished_labels_is_refused_by_name(tmp_path, capsys, damage):
    box_volume(tmp_path)
    links(tmp_path / "links.csv", np.array([[3, 14, 25]]) * SIZE, np.array([[3, 10, 34]]) * SIZE)
    config = tmp_path / "c.yaml"
    config.write_text(
        f"run_dir: {tmp_path}/run\nprepare: {{links: [{{links: {{path: {tmp_path}/links.csv}}, "
        f"image: {tmp_path}/raw, segmentation: {tmp_path}/neurons, output: {tmp_path}/truth}}]}}\n"
    )
    assert run("prepare", config) == 0
    table = tmp_path / "truth.links.parquet"
    if damage == "cut":
        table.write_bytes(table.read_bytes()[:-40])
    else:
        pq.write_table(pq.read_table(table).drop_columns(["pre_z"]), table)
    said = run_refused(capsys, "prepare", config)
    assert str(table) in said
    assert ("cannot be read as Parquet" if damage == "cut" else "no whole column pre_z") in said
