"""Neurons on both sides of synapses, and the graph of them."""

import hypothesis.strategies as st
import networkx as nx
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from recipes import run, run_refused, tiny_config, write

from synpol import InputError
from synpol.config import Connect
from synpol.connectivity import graph_of, partners_blockwise, partners_of, write_tables
from synpol.connectivity.partners import Parts
from synpol.images.image import open_image
from synpol.images.writing import create_image


def image(folder, name, array, voxel_size=(40, 8, 8), offset=(0, 0, 0)):
    made = create_image(
        folder,
        name,
        shape=array.shape,
        dtype=array.dtype,
        voxel_size=voxel_size,
        offset=offset,
        unit="nm",
        chunk_shape=[min(4, s) for s in array.shape],
    )
    made.array[:] = array
    return made


def by_hand(instances, neurons):
    """Majority of each side, voxel by voxel."""
    rows = []
    for n in sorted({int(label + 1) // 2 for label in np.unique(instances) if label}):
        row = [n]
        for label in (2 * n - 1, 2 * n):
            inside = neurons[instances == label]
            counts = {int(s): int((inside == s).sum()) for s in np.unique(inside) if s}
            best = min(counts, key=lambda s: (-counts[s], s), default=0)
            row += [best, counts[best] / len(inside) if best else 0.0]
        unassigned = 0 in (row[1], row[3])
        rows.append([*row, unassigned, not unassigned and row[1] == row[3]])
    return rows


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.tuples(*[st.integers(1, 5)] * 3), st.sampled_from([1, 2, 3]))
def test_partners_are_the_majority_whatever_the_blocks(tmp_path_factory, seed, block, multiple):
    folder = tmp_path_factory.mktemp("partners")
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, 7, 3))
    labels = rng.integers(0, 7, shape) * (rng.random(shape) < 0.6)
    begin = [int(b) for b in rng.integers(0, 4, 3)]
    factors = (1, multiple, multiple)
    coarse = [-(-(s + b) // f) for s, b, f in zip(shape, begin, factors, strict=True)]
    neurons = rng.integers(0, 4, coarse)
    fine = neurons
    for axis, f in enumerate(factors):
        fine = np.repeat(fine, f, axis=axis)
    seen = fine[tuple(slice(b, b + s) for b, s in zip(begin, shape, strict=True))]
    size = (40, 8, 8)
    found = partners_blockwise(
        image(
            folder,
            "instances",
            labels.astype(np.uint64),
            offset=[b * v for b, v in zip(begin, size, strict=True)],
        ),
        image(
            folder,
            "neurons",
            neurons.astype(np.uint32),
            voxel_size=[v * f for v, f in zip(size, factors, strict=True)],
        ),
        block_shape=block,
        work_dir=folder / "work",
    )
    rows = [list(row.values()) for row in found.to_pylist()]
    names = ["synapse_id", "pre_id", "pre_fraction", "post_id", "post_fraction"]
    assert found.column_names == [*names, "unassigned", "autapse"]
    assert rows == by_hand(labels, seen)


def test_equal_shares_go_to_the_smaller_id_and_nothing_is_nobody():
    pairs = np.array([[1, 9], [1, 4], [1, 9], [2, 0], [4, 7]], np.uint64)
    found = partners_of(pairs, np.array([2, 5, 3, 8, 1])).to_pylist()
    assert [row["pre_id"] for row in found] == [4, 0]
    assert [row["post_id"] for row in found] == [0, 7]
    assert found[0]["pre_fraction"] == 0.5 and found[1]["pre_fraction"] == 0
    assert partners_of(pairs[:0], np.zeros(0, np.int64)).num_rows == 0


def test_a_segmentation_that_does_not_fit_is_refused(tmp_path):
    labels = np.ones((2, 4, 4), np.uint64)
    instances = image(tmp_path, "instances", labels)
    for name, more, why in (
        ("finer", {"voxel_size": (20, 8, 8)}, "no whole multiple"),
        ("odd", {"voxel_size": (40, 12, 8)}, "no whole multiple"),
        ("beside", {"offset": (0, 8, 0)}, "does not cover"),
        ("between", {"offset": (0, -4, 0)}, "on whole voxels"),
    ):
        other = image(tmp_path, name, np.ones((2, 5, 4), np.uint8), **more)
        with pytest.raises(InputError, match=f"the segmentation .*{why}"):
            partners_blockwise(instances, other, block_shape=(2, 2, 2), work_dir=tmp_path / "w")


def parts_of(rows):
    """Parts of one voxel for each pair of label and neuron, sorted, which touch nothing."""
    label, neuron = np.array(sorted(rows), np.uint64).reshape(-1, 2).T
    none = np.zeros(0, np.int64)
    voxels = np.ones(len(label), np.int64)
    return Parts(label, neuron, voxels, np.zeros((len(label), 3)), none, none, none.astype(float))


def write_synapses(path, rows):
    names = ["synapse_id", "pre_score", "post_score", "contact_area"]
    columns = [pa.array(column) for column in zip(*rows, strict=True)]
    pq.write_table(pa.table([columns[0].cast(pa.uint64()), *columns[1:]], names), path)


def test_the_graph_adds_up_synapses(tmp_path):
    pairs = [[1, 10], [2, 20], [3, 10], [4, 20], [5, 20], [6, 20], [7, 10], [8, 0], [9, 30]]
    write_synapses(
        tmp_path / "synapses.parquet",
        [(1, 0.5, 0.9, 100.0), (2, 0.8, 0.7, 50.0), (3, 0.6, 0.9, 7.0), (4, 0.9, 0.9, 9.0)]
        + [(5, 0.9, None, 0.0)],
    )
    told = write_tables(
        [parts_of(pairs)], tmp_path / "synapses.parquet", tmp_path, Connect(), tmp_path
    )
    edges = pq.read_table(tmp_path / "connectivity.parquet")
    graph = graph_of(edges)
    assert sorted(graph.edges) == [(10, 20), (20, 20)]
    assert graph.edges[10, 20] == pytest.approx(
        {"synapses": 2, "contact_area": 150.0, "score": 0.6}
    )
    assert graph.edges[20, 20]["synapses"] == 1  # an autapse
    rows = edges.to_pylist()
    assert [(r["pre_id"], r["post_id"], r["synapses"]) for r in rows] == [(10, 20, 2), (20, 20, 1)]
    read = nx.read_graphml(tmp_path / "connectivity.graphml", node_type=int)
    assert dict(read.edges) == dict(graph.edges) and read.is_directed()
    assert (told.synapses, told.unassigned, told.autapses, told.outside) == (5, 2, 1, 1)
    assert (told.links, told.neurons, told.connections) == (3, 2, 2)
    none = pq.read_table(tmp_path / "synapses.parquet").slice(0, 0)
    pq.write_table(none, tmp_path / "synapses.parquet")
    write_tables([parts_of([])], tmp_path / "synapses.parquet", tmp_path, Connect(), tmp_path)
    assert pq.read_table(tmp_path / "connectivity.parquet").num_rows == 0
    assert nx.read_graphml(tmp_path / "connectivity.graphml").number_of_nodes() == 0


def test_the_graph_is_the_same_however_many_synapses_are_done_at_once(tmp_path):
    rng = np.random.default_rng(3)
    pairs = [[label, int(rng.integers(1, 4))] for label in range(1, 81)]
    scores = rng.integers(1, 8, (2, 40)) / 8
    write_synapses(
        tmp_path / "synapses.parquet",
        [(n + 1, *scores[:, n].tolist(), float(n)) for n in range(40)],
    )
    tables = []
    for cut in (80, 24, 2):
        ranges = [parts_of(pairs[first : first + cut]) for first in range(0, 80, cut)]
        options = Connect(partners="all", duplicates=10, min_score=0.2)
        write_tables(ranges, tmp_path / "synapses.parquet", tmp_path, options, tmp_path)
        names = ("parts", "partners", "links", "connectivity")
        tables.append([pq.read_table(tmp_path / f"{name}.parquet") for name in names])
    assert tables[0] == tables[1] == tables[2]
    made = [f"{name}.parquet" for name in names]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        [*made, *(f"{name}.sha256" for name in made), "synapses.parquet", "connectivity.graphml"]
    )


def test_the_command_writes_tables_and_graph(tmp_path, capsys):
    volume = np.zeros((3, 8, 40, 40), np.uint8)
    for z, y, x in [(1, 4, 4), (2, 14, 20), (3, 30, 8)]:
        volume[0, z : z + 3, y : y + 4, x : x + 4] = 200
        volume[1, z : z + 3, y : y + 4, x + 4 : x + 8] = 250
        volume[2, z : z + 3, y : y + 4, x : x + 8] = 255
    neurons = np.ones((8, 20, 20), np.uint64) * 2**40
    neurons[:, :, 4:] = 7
    neurons[:, 14:] = 0
    write(tmp_path / "result", "polarity", volume)
    write(tmp_path, "neurons", neurons, voxel_size=(30, 32, 32))
    config = tiny_config(tmp_path, connect={"segmentation": f"{tmp_path}/neurons"})
    message = run_refused(capsys, "connect", config)
    assert "instances" in message
    assert run("predict_blockwise", config, "--only", "decode") == 0
    assert run("connect", config) == 0
    said = capsys.readouterr().out
    assert "3 synapses, 1 with a side in no neuron, 1 autapses" in said
    assert "2 sides lie where the segmentation has no neuron; connect.max_distance=50" in said
    result = tmp_path / "result"
    partners = pd.read_parquet(result / "partners.parquet")
    assert partners.pre_id.tolist() == [2**40, 7, 0] and partners.post_id.tolist() == [7, 7, 0]
    graph = nx.read_graphml(result / "connectivity.graphml", node_type=int)
    assert dict(graph.edges[2**40, 7])["synapses"] == 1
    area = open_image(result / "instances").voxel_size_nm
    assert graph.edges[2**40, 7]["contact_area"] == 3 * 4 * area[0] * area[1]
    assert pd.read_parquet(result / "connectivity.parquet").synapses.tolist() == [1, 1]
    assert not list(result.parent.glob("result.work/*.unmarked"))
    assert run("connect", config, "connect.max_distance=60", "connect.min_score=0.9") == 0
    said = capsys.readouterr().out
    assert "3 synapses, 0 with a side in no neuron" in said
    assert "3 links; not counted: 0 that repeat others within 0 nm, 3 below the score 0.9" in said
    assert run("connect", config, "connect.max_distance=10") == 0
    assert "2 sides have no neuron within 10 nm" in capsys.readouterr().out
    assert run("predict_blockwise", config, "decode.sides=false", "--only", "decode") == 0
    assert "was decoded with sides = False" in run_refused(capsys, "connect", config)
    assert "connect.segmentation" in run_refused(capsys, "connect", tiny_config(tmp_path))


def write_precomputed(folder, neurons, resolution, begin):
    """A segmentation as other programs write it; arrays z, y, x."""
    import tensorstore

    store = tensorstore.open(
        {
            "driver": "neuroglancer_precomputed",
            "kvstore": f"file://{folder}/",
            "multiscale_metadata": {
                "type": "segmentation",
                "data_type": "uint64",
                "num_channels": 1,
            },
            "scale_metadata": {
                "size": neurons.shape[::-1],
                "voxel_offset": begin[::-1],
                "resolution": resolution[::-1],
                "chunk_size": [5, 4, 3],
                "encoding": "compressed_segmentation",
                "compressed_segmentation_block_size": [4, 4, 4],
            },
        },
        create=True,
    ).result()
    store[..., 0] = neurons.T


def test_a_precomputed_segmentation_gives_what_the_same_zarr_gives(tmp_path):
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 9, (6, 10, 12)).astype(np.uint64)
    neurons = rng.integers(0, 2**40, (4, 7, 8)).astype(np.uint64) >> np.uint64(38)
    instances = image(tmp_path, "instances", labels, offset=(40, 16, 32))
    zarr_neurons = image(tmp_path, "neurons", neurons, voxel_size=(80, 16, 16))
    write_precomputed(tmp_path / "p", neurons, [80, 16, 16], [0, 0, 0])
    write_precomputed(tmp_path / "q", neurons, [80, 16, 16], [3, 2, 5])
    shifted = image(tmp_path, "far", labels, offset=(280, 48, 112))
    found = []
    for first, second in (
        (instances, zarr_neurons),
        (instances, open_image(f"precomputed://{tmp_path}/p")),
        (shifted, open_image(f"precomputed://{tmp_path}/q", channels=0)),
    ):
        found.append(
            partners_blockwise(
                first, second, block_shape=(4, 5, 6), work_dir=tmp_path / "w", num_workers=1
            )
        )
    assert found[0] == found[1] == found[2]
    assert found[0].num_rows == 4


def test_what_is_no_precomputed_volume_is_named(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"precomputed://.*/none cannot be opened"):
        open_image(f"precomputed://{tmp_path}/none")
    write_precomputed(tmp_path / "p", np.ones((2, 2, 2), np.uint64), [8, 1 / 3, 4], [0, 0, 0])
    found = open_image(f"precomputed://{tmp_path}/p")
    assert found.voxel_size_nm == (8, 0.333333, 4)
    for size in (4.5, 4.25):
        write_precomputed(
            tmp_path / f"q{size}", np.ones((2, 2, 2), np.uint64), [8, size, 4], [1, 1, 0]
        )
        found = open_image(f"precomputed://{tmp_path}/q{size}")
        assert (found.voxel_size_nm, found.offset_nm) == ((8, size, 4), (8, size, 0))
    monkeypatch.chdir(tmp_path)
    assert open_image("precomputed://q4.5").shape_vx == found.shape_vx
    with pytest.raises(InputError, match=r"\(3, z, y, x\) is expected"):
        open_image("precomputed://q4.5", channels=3)
