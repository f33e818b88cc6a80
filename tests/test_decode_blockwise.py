"""Blockwise decoding gives what decoding in memory gives, voxel for voxel and id for id."""

import itertools
import shutil
import subprocess
import sys
from dataclasses import replace

import hypothesis.strategies as st
import networkx
import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from test_decoding import isolated, options
from volumes import block_shapes, polarity_volumes, random_polarity, write_polarity

import synpol
from synpol import InputError, decode_blockwise, polarity2instance
from synpol.blockwise import driver
from synpol.blockwise.grid import BlockGrid
from synpol.blockwise.records import record_path
from synpol.decoding import job, joining
from synpol.images.image import open_image
from synpol.images.writing import create_image


def decode(folder, volume, block_shape, **options):
    prediction = write_polarity(folder, volume, options.pop("chunk", (4, 7, 5)))
    decode_blockwise(prediction, folder / "out", block_shape=block_shape, synapses=None, **options)
    return open_image(folder / "out" / "instances").array[:]


@settings(max_examples=150)
@given(polarity_volumes, block_shapes, options)
def test_any_blocks_give_the_whole(tmp_path_factory, volume, block_shape, options):
    folder = tmp_path_factory.mktemp("decode")
    if volume.dtype.kind == "f":
        volume = np.clip(volume, 0, 1)
    found = decode(folder, volume, block_shape, **options)
    assert found.dtype == (np.uint8 if options["semantic"] else np.uint64)
    assert np.array_equal(found, polarity2instance(volume, **options))
    shutil.rmtree(folder)


@settings(max_examples=30)
@given(polarity_volumes, block_shapes, options)
def test_any_blocks_give_the_components_of_the_union(
    tmp_path_factory, volume, block_shape, options
):
    folder = tmp_path_factory.mktemp("union")
    volume = np.clip(volume, 0, 1) if volume.dtype.kind == "f" else volume
    options |= {"sides": False, "dilate_sz": 1, "thres_small": 1, "semantic": False}
    found = decode(folder, volume, block_shape, **options)
    assert np.array_equal(found, polarity2instance(volume, **options))
    shutil.rmtree(folder)


@settings(max_examples=40)
@given(polarity_volumes, block_shapes, options)
def test_the_table_says_what_a_person_would_compute(tmp_path_factory, volume, block_shape, options):
    folder = tmp_path_factory.mktemp("table")
    options = options | {"semantic": False, "sides": True}
    prediction = write_polarity(folder, volume, voxel_size=(50, 7, 9), offset=(-100, 14, 900))
    table = folder / "synapses.parquet"
    decode_blockwise(prediction, folder, block_shape=block_shape, synapses=table, **options)
    instances = open_image(folder / "instances").array[:]
    rows = pd.read_parquet(table)
    number = (instances + 1) // 2
    assert rows.synapse_id.tolist() == sorted(set(np.unique(number)) - {0})
    probability = volume.astype(float) / (255 if volume.dtype == np.uint8 else 1)
    channel = {"pre": 1, "post": 2} if options["exclusive"] else {"pre": 0, "post": 1}
    size, offset = np.array([50, 7, 9]), np.array([-100, 14, 900])
    for row in rows.itertuples():
        for side, label in (("pre", 2 * row.synapse_id - 1), ("post", 2 * row.synapse_id)):
            where = np.argwhere(instances == label)
            assert getattr(row, f"{side}_voxels") == len(where)
            place = [getattr(row, f"{side}_{axis}") for axis in "zyx"]
            score = getattr(row, f"{side}_score")
            highest = getattr(row, f"{side}_score_max")
            assert getattr(row, f"{side}_volume") == len(where) * 50 * 7 * 9
            in_voxels = [getattr(row, f"{side}_{axis}_vx") for axis in "zyx"]
            if len(where):
                assert np.allclose(in_voxels, where.mean(axis=0))
                assert np.allclose(place, offset + (where.mean(axis=0) + 0.5) * size)
                values = probability[channel[side]][instances == label]
                assert np.allclose([score, highest], [values.mean(), values.max()])
            else:
                assert np.isnan([*place, *in_voxels, score, highest]).all()
        inside = number == row.synapse_id
        union = probability[1:].sum(axis=0) if options["exclusive"] else probability[2]
        assert np.isclose(row.union_score, union[inside].mean())
        highest = probability[1:].max(axis=0) if options["exclusive"] else union
        assert np.isclose(row.union_score_max, highest[inside].max())
        where = np.argwhere(inside)
        middle = offset + (where.mean(axis=0) + 0.5) * size
        assert np.allclose([row.z, row.y, row.x], middle)
        assert row.one_sided == (0 in (row.pre_voxels, row.post_voxels))
        area = 0
        for axis, face in enumerate((7 * 9, 50 * 9, 50 * 7)):
            first, second = (
                np.take(instances, part, axis=axis)
                for part in (range(instances.shape[axis] - 1), range(1, instances.shape[axis]))
            )
            pre, post = 2 * row.synapse_id - 1, 2 * row.synapse_id
            met = ((first == pre) & (second == post)) | ((first == post) & (second == pre))
            area += face * met.sum()
        assert row.contact_area == area
        edge = (where == 0) | (where == np.array(instances.shape) - 1)
        assert row.touches_border == edge.any()
        direction = np.array([row.direction_z, row.direction_y, row.direction_x])
        way = np.array([row.post_z - row.pre_z, row.post_y - row.pre_y, row.post_x - row.pre_x])
        if row.one_sided or not way.any():
            assert np.isnan(direction).all()
        else:
            assert np.allclose(direction, way / np.linalg.norm(way))
        low, high = where.min(axis=0) * size + offset, (where.max(axis=0) + 1) * size + offset
        for k, axis in enumerate("zyx"):
            assert getattr(row, f"bbox_{axis}_min") == low[k]
            assert getattr(row, f"bbox_{axis}_max") == high[k]
    shutil.rmtree(folder)


@pytest.mark.parametrize("block", [(4, 8, 8), (2, 3, 5), (1, 1, 1)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_sides_touch_across_blocks_too(tmp_path, axis, block):
    volume = np.zeros((3, 4, 8, 8), np.uint8)
    halves = [slice(1, 3), slice(2, 6), slice(1, 7)]
    middle = (halves[axis].start + halves[axis].stop) // 2
    pre, post = list(halves), list(halves)
    pre[axis], post[axis] = slice(halves[axis].start, middle), slice(middle, halves[axis].stop)
    volume[0, *pre], volume[1, *post], volume[2, *halves] = 200, 180, 255
    prediction = write_polarity(tmp_path, volume, voxel_size=(50, 7, 9))
    table = tmp_path / "synapses.parquet"
    decode_blockwise(
        prediction, tmp_path, block_shape=block, synapses=table, thres_small=1, dilate_sz=3
    )
    [row] = pd.read_parquet(table).itertuples()
    assert row.contact_area == [4 * 6 * 7 * 9, 2 * 6 * 50 * 9, 2 * 4 * 50 * 7][axis]
    assert (row.pre_score_max, row.post_score_max) == (200 / 255, 180 / 255)


factors = st.sampled_from([0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.1])


@settings(max_examples=60)
@given(polarity_volumes, block_shapes, options, st.tuples(factors, factors, factors))
def test_scale_factors_give_the_whole_too(
    tmp_path_factory, volume, block_shape, options, scale_factors
):
    shape = volume.shape[1:]
    target = [int(s * f) for s, f in zip(shape, scale_factors, strict=True)]
    assume(min(target) > 0)
    folder = tmp_path_factory.mktemp("scale")
    if volume.dtype.kind == "f":
        volume = np.clip(volume, 0, 1)
    prediction = write_polarity(folder, volume, voxel_size=target)
    options |= {"scale_factors": scale_factors}
    decode_blockwise(prediction, folder / "out", block_shape=block_shape, **options)
    found = open_image(folder / "out" / "instances")
    assert np.array_equal(found.array[:], polarity2instance(volume, **options))
    assert tuple(found.voxel_size) == (tuple(target) if target == list(shape) else shape)
    shutil.rmtree(folder)


def test_rescaled_instances_are_finished_after_an_interruption(tmp_path):
    volume = random_polarity(7, (6, 30, 30), 3, 0.1, "uint8")
    rules = {"thres_small": 9, "scale_factors": (0.5, 2, 1)}
    first = decode(tmp_path, volume, (3, 10, 10), **rules)
    assert np.array_equal(first, polarity2instance(volume, **rules))
    [work] = (tmp_path / "out.work").glob("decode-*")
    [rescaled] = work.glob("rescale-*")
    z, y, x = np.argwhere(first)[-1] // (1, 10, 10)  # a block with something in it
    record_path(rescaled, (z, y, x)).unlink()
    record_path(work / "relabel-full", (1, 2, 1)).unlink()
    array = open_image(tmp_path / "out" / "instances", mode="r+").array
    array[z, y * 10 : y * 10 + 10, x * 10 : x * 10 + 10] = 77
    decode_blockwise(tmp_path / "polarity", tmp_path / "out", block_shape=(3, 10, 10), **rules)
    assert np.array_equal(open_image(tmp_path / "out" / "instances").array[:], first)


def test_other_scale_factors_redo_the_output_but_another_volume_is_refused(tmp_path):
    volume = random_polarity(7, (6, 30, 30), 3, 0.1, "uint8")
    prediction = write_polarity(tmp_path / "here", volume)
    for factors in ((0.5, 1, 1), (1, 2, 2), (1, 1, 1)):
        rules = {"thres_small": 9, "scale_factors": factors}
        decode_blockwise(prediction, tmp_path / "out", block_shape=(3, 10, 10), **rules)
        found = open_image(tmp_path / "out" / "instances").array[:]
        assert np.array_equal(found, polarity2instance(volume, **rules))
    other = write_polarity(tmp_path / "other", volume[:, :5])
    with pytest.raises(InputError, match=r"shape \(6, 30, 30\), but \(5, 30, 30\)"):
        decode_blockwise(other, tmp_path / "out", block_shape=(3, 10, 10))


def snake() -> np.ndarray:
    """One thin synapse that winds through every block several times, pre on one half of it."""
    union = np.zeros((5, 24, 24), dtype=bool)
    for z in range(0, 5, 2):
        union[z, ::4] = True
        for k, y in enumerate(range(0, 20, 4)):
            union[z, y : y + 5, 23 if k % 2 == 0 else 0] = True
    union[1, 20, 0] = union[3, 0, 0] = True
    volume = np.zeros((3, *union.shape), np.uint8)
    volume[2][union] = 255
    volume[0][union & (np.arange(24) < 12)] = 255
    volume[1][union & (np.arange(24) >= 11)] = 255
    return volume


@pytest.mark.parametrize("block_shape", [(1, 1, 24), (1, 5, 5), (2, 3, 7), (5, 4, 4), (9, 99, 99)])
def test_a_snake_through_many_blocks_is_one_synapse(tmp_path, block_shape):
    found = decode(tmp_path, snake(), block_shape, thres_small=20, dilate_sz=2)
    assert np.array_equal(found, polarity2instance(snake(), thres_small=20, dilate_sz=2))
    assert found.max() == 2


def test_more_components_than_a_byte_or_two_hold(tmp_path):
    volume = np.concatenate([isolated(33000)] * 2, axis=1)
    rules = {"thres_small": 1, "dilate_sz": 3}
    found = decode(tmp_path, volume, (1, 128, 1000), chunk=(1, 128, 1024), **rules)
    assert found.max() > 65535
    assert np.array_equal(found, polarity2instance(volume, **rules))


def test_blocks_smaller_than_the_dilation(tmp_path):
    volume = random_polarity(3, (3, 11, 11), 2, 0.1, "uint8")
    found = decode(tmp_path, volume, (1, 1, 1), thres_small=2, dilate_sz=7)
    assert np.array_equal(found, polarity2instance(volume, thres_small=2, dilate_sz=7))


def test_real_workers_give_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "DRIVER_VOXELS", 0)
    volume = random_polarity(5, (9, 40, 40), 3, 0.1, "uint8")
    found = decode(tmp_path, volume, (3, 16, 20), num_workers=2, thres_small=9)
    assert np.array_equal(found, polarity2instance(volume, thres_small=9))


@pytest.mark.parametrize("group", [2, 3, 4, 5])
@pytest.mark.parametrize(("dilate_sz", "labels"), [(1, 16), ((3, 3, 3), 2)])
def test_groups_of_any_size_give_the_same(tmp_path, monkeypatch, group, dilate_sz, labels):
    monkeypatch.setattr(job, "grouped_as_begun", lambda blocks, _: replace(blocks, group=group))
    volume = random_polarity(0, (9, 40, 37), 3, 0.15, "uint8")
    found = decode(tmp_path, volume, (2, 6, 5), thres_small=9, dilate_sz=dilate_sz)
    expected = polarity2instance(volume, thres_small=9, dilate_sz=dilate_sz)
    assert np.array_equal(found, expected)
    assert len(np.unique(found)) == labels + 1


def test_what_an_older_version_began_in_groups_of_eight_goes_on_in_them(tmp_path, monkeypatch):
    volume = random_polarity(8, (9, 40, 37), 3, 0.15, "uint8")
    with monkeypatch.context() as older:
        older.setattr(job, "grouped_as_begun", lambda blocks, _: replace(blocks, group=2))
        first = decode(tmp_path, volume, (2, 6, 5), thres_small=9)
    [work] = (tmp_path / "out.work").glob("decode-*")
    for gone in ("merge-3", "merge-2/0/0/1.record", "merge-1/1/2/3.record", "number"):
        path = work / gone
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for gone in [*work.glob("resolve-*"), *work.glob("relabel-*")]:
        shutil.rmtree(gone)
    kept = (work / "merge-1/0/0/0.record").stat().st_mtime_ns
    again = decode_blockwise(
        tmp_path / "polarity", tmp_path / "out", block_shape=(2, 6, 5), thres_small=9
    )
    assert np.array_equal(open_image(again.instances).array[:], first)
    assert not list(work.glob("groups-*"))
    assert (work / "merge-1/0/0/0.record").stat().st_mtime_ns == kept
    graph = synpol.merge_graph(tmp_path / "out.work", level=2, index=(0, 1, 1))
    assert graph.number_of_edges()


def test_the_graph_of_a_group_has_the_contacts_of_all_its_members(tmp_path):
    label = np.zeros((8, 32, 64), np.uint64)
    label[2:6, 8:16, 17:24], label[2:6, 8:16, 24:31] = 1, 2
    decode(tmp_path, 255 * synpol.seg_to_polarity(label).astype(np.uint8), (8, 32, 8), dilate_sz=1)
    graph = synpol.merge_graph(tmp_path / "out.work")
    assert (graph.number_of_nodes(), graph.number_of_edges()) == (2, 1)
    wide = tmp_path / "wide"
    wide.mkdir()
    decode(wide, 255 * synpol.seg_to_polarity(label).astype(np.uint8), (8, 32, 4), dilate_sz=1)
    graph = synpol.merge_graph(wide / "out.work", level=1, index=(0, 0, 1))
    assert graph.number_of_edges() == 3


def test_arrays_and_networkx_join_alike(tmp_path, monkeypatch):
    monkeypatch.setattr(joining, "_NETWORKX_EDGES", 0)
    volume = random_polarity(6, (9, 40, 40), 2, 0.3, "uint8")
    found = decode(tmp_path, volume, (2, 9, 9), thres_small=9)
    assert np.array_equal(found, polarity2instance(volume, thres_small=9))


@pytest.mark.parametrize("edges", [0, joining._NETWORKX_EDGES])
@pytest.mark.parametrize("seed", range(20))
def test_components_are_joined_as_networkx_joins_them(seed, edges, monkeypatch):
    monkeypatch.setattr(joining, "_NETWORKX_EDGES", edges)
    rng = np.random.default_rng(seed)
    names = np.unique(rng.integers(1, 10**15, rng.integers(1, 2000)).astype(np.uint64))
    ends = rng.choice(names, (2, rng.integers(0, 3 * len(names))))
    if seed % 2:  # a long chain in any order
        order = rng.permutation(len(names) - 1)
        ends = np.stack([names[order], names[order + 1]])
    graph = joining.contact_graph(names, *ends)
    smallest = {n: min(part) for part in networkx.connected_components(graph) for n in part}
    assert joining.join(names, *ends).tolist() == [smallest[n] for n in names.tolist()]


def test_the_graph_of_a_group_can_be_inspected(tmp_path):
    decode(tmp_path, snake(), (5, 12, 12), thres_small=40, dilate_sz=1)
    work = tmp_path / "out.work"
    graph = synpol.merge_graph(work)
    assert graph.number_of_edges() >= 3
    assert len({frozenset(graph.edges(n)) for n in graph}) == len(graph)
    sides = synpol.merge_graph(work, kind="pre")
    assert sum(voxels for _, voxels in sides.nodes(data="voxels")) > 40
    for change, words in (
        ({"level": 2}, "level is 2; this decoding has the levels 1 to 1"),
        ({"index": (0, 1, 0)}, r"index is \(0, 1, 0\); level 1 is a grid of \(1, 1, 1\)"),
        ({"kind": "prä"}, "kind is 'prä'"),
        ({"work_dir": tmp_path}, "holds no decoding"),
    ):
        with pytest.raises(InputError, match=words):
            synpol.merge_graph(**{"work_dir": work} | change)


def test_it_finishes_an_interrupted_job_and_redoes_what_other_options_concern(tmp_path):
    volume = random_polarity(7, (6, 30, 30), 3, 0.1, "uint8")
    first = decode(tmp_path, volume, (3, 10, 10), thres_small=9)
    [work] = (tmp_path / "out.work").glob("decode-*")
    [record] = work.glob("relabel-*/1/2/1.record")
    record.unlink()
    (work / "groups-4" / "merge-1" / "0" / "0" / "0.record").unlink()
    array = open_image(tmp_path / "out" / "instances", mode="r+").array
    array[3:6, 20:30, 10:20] = 77
    again = tmp_path / "polarity"
    decode_blockwise(again, tmp_path / "out", block_shape=(3, 10, 10), thres_small=9)
    assert np.array_equal(array[:], first)
    decode_blockwise(again, tmp_path / "out", block_shape=(3, 10, 10), thres_small=60)
    found = open_image(tmp_path / "out" / "instances").array[:]
    assert np.array_equal(found, polarity2instance(volume, thres_small=60))
    assert not np.array_equal(found, first)


@pytest.mark.parametrize(
    ("stage", "reader"), [("label", "relabel-*"), ("dilate", "groups-4/merge-1")]
)
def test_a_damaged_record_is_set_aside_and_made_anew(tmp_path, stage, reader):
    volume = random_polarity(8, (6, 30, 30), 3, 0.1, "uint8")
    first = decode(tmp_path, volume, (3, 10, 10), thres_small=9)
    [work] = (tmp_path / "out.work").glob("decode-*")
    z, y, x = np.argwhere(first)[0] // (3, 10, 10)  # a block with something to relabel
    record = record_path(work / stage, (z, y, x))
    record.write_bytes(record.read_bytes()[:100])
    [folder] = work.glob(reader)
    shutil.rmtree(folder)
    arguments = (tmp_path / "polarity", tmp_path / "out")
    with pytest.raises(RuntimeError, match="damaged"):
        decode_blockwise(*arguments, block_shape=(3, 10, 10), thres_small=9)
    decode_blockwise(*arguments, block_shape=(3, 10, 10), thres_small=9)
    assert np.array_equal(open_image(tmp_path / "out" / "instances").array[:], first)


def test_it_works_under_python_dash_c(tmp_path):
    volume = random_polarity(9, (4, 20, 20), 3, 0.1, "uint8")
    prediction = write_polarity(tmp_path, volume)
    code = (
        "import synpol, synpol.blockwise.driver as d; d.DRIVER_VOXELS = 0; "
        f"synpol.decode_blockwise({prediction!r}, {str(tmp_path / 'o')!r}, "
        "block_shape=(2, 10, 10), num_workers=2, thres_small=5)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, cwd=tmp_path)
    found = open_image(tmp_path / "o" / "instances").array[:]
    assert np.array_equal(found, polarity2instance(volume, thres_small=5))


def test_decoding_imports_neither_torch_nor_gunpowder_nor_dask():
    code = (
        "import sys, synpol; synpol.decode_blockwise; heavy = ('torch', 'gunpowder', 'dask', "
        "'funlib.persistence'); print([m for m in heavy if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert out.stdout.strip() == "[]"


def test_a_second_driver_is_told_who_is_first(tmp_path):
    from synpol.blockwise.lock import DriverLock

    prediction = write_polarity(tmp_path, np.zeros((3, 2, 4, 4), np.uint8))
    with (
        DriverLock(tmp_path / "out.work", "something else"),
        pytest.raises(InputError, match=r"in use: something else runs as pid \d+"),
    ):
        decode_blockwise(prediction, tmp_path / "out", block_shape=(2, 4, 4))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1.0012345, r"hold 0\.\.1\.0012345, .*probabilities 0\.\.1; .*clip the values to 0\.\.1"),
        (-0.1, r"probabilities 0\.\.1; if these are logits"),
        (np.nan, r"probabilities 0\.\.1; replace NaN"),
        (np.inf, r"probabilities 0\.\.1; replace NaN"),
    ],
)
def test_memory_and_blocks_refuse_the_same_floats_in_the_same_words(tmp_path, value, words):
    volume = np.zeros((3, 2, 4, 4), np.float64)
    volume[0, 1, 2, 3] = value
    with pytest.raises(InputError, match=words):
        decode(tmp_path, volume, (1, 4, 4))
    whole = words if np.isfinite(value) or np.isnan(value) else r"to inf, where 0\.\.255"
    with pytest.raises(InputError, match=whole):
        polarity2instance(volume)


@pytest.mark.parametrize("exclusive", [False, True])
def test_probabilities_that_rounding_put_above_one_count_as_one(tmp_path, exclusive):
    volume = random_polarity(3, (4, 12, 12), 2, 0.2, "float32")
    rules = {"thres_small": 3, "exclusive": exclusive}
    expected = polarity2instance(np.minimum(volume, 1), **rules)
    above = np.where(volume > 0.5, np.nextafter(np.float32(1), np.float32(2)), volume)
    assert above.max() > 1
    found = polarity2instance(above, **rules)
    assert np.array_equal(found, polarity2instance(np.minimum(above, 1), **rules))
    if not exclusive:
        assert np.array_equal(found, expected)
    path = write_polarity(tmp_path, above)
    table = tmp_path / "t.parquet"
    done = decode_blockwise(path, tmp_path / "o", block_shape=(2, 5, 5), synapses=table, **rules)
    assert np.array_equal(open_image(done.instances).array[:], found)
    if done.synapses:
        scores = pd.read_parquet(table)["pre_score"]
        assert scores.max() <= 1


def test_without_sides_other_channels_than_the_union_are_not_looked_at(tmp_path):
    volume = random_polarity(4, (4, 12, 12), 2, 0.2, "float32")
    volume[:2] = np.nan
    rules = {"thres_small": 3, "sides": False}
    path = write_polarity(tmp_path, volume)
    done = decode_blockwise(path, tmp_path / "o", block_shape=(2, 5, 5), **rules)
    assert np.array_equal(open_image(done.instances).array[:], polarity2instance(volume, **rules))


def test_a_bare_array_is_decoded_with_a_warning_but_has_no_table(tmp_path):
    import zarr

    volume = random_polarity(2, (4, 12, 12), 2, 0.2, "uint8")
    zarr.save_array(tmp_path / "bare.zarr", volume)
    arguments = {"block_shape": (2, 5, 5), "thres_small": 3}
    with pytest.warns(UserWarning, match="counts as 1 nm"):
        decode_blockwise(tmp_path / "bare.zarr", tmp_path / "out", **arguments)
    found = open_image(tmp_path / "out" / "instances").array[:]
    assert np.array_equal(found, polarity2instance(volume, thres_small=3))
    with pytest.raises(InputError, match="says nothing about its voxel size"):
        decode_blockwise(
            tmp_path / "bare.zarr", tmp_path / "o", synapses=tmp_path / "t.parquet", **arguments
        )


def test_what_a_worker_refuses_is_said_without_a_traceback(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(driver, "DRIVER_VOXELS", 0)
    volume = np.zeros((3, 4, 8, 8), np.float32)
    volume[0, 3, 5, 5] = 2
    with pytest.raises(InputError, match=r"voxels \[2:4, 4:8, 4:8\] hold 0..2"):
        decode(tmp_path, volume, (2, 4, 4), num_workers=2)
    assert "Traceback" not in capfd.readouterr().err


def test_output_chunks_that_do_not_fit_are_refused_and_nothing_is_written(tmp_path):
    prediction = write_polarity(tmp_path, np.zeros((3, 8, 8, 8), np.uint8))
    create_image(
        tmp_path / "out",
        "instances",
        shape=(8, 8, 8),
        dtype=np.uint64,
        voxel_size=(30, 16, 16),
        offset=(0, 0, 0),
        unit="nm",
        chunk_shape=(3, 8, 8),
    )
    before = sorted(p for p in tmp_path.rglob("*"))
    with pytest.raises(InputError, match=r"chunks of \(3, 8, 8\) voxels, which do not fit"):
        decode_blockwise(prediction, tmp_path / "out", block_shape=(4, 8, 8))
    assert sorted(p for p in tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"block_shape": (0, 1, 1)}, "block_shape is"),
        ({"block_shape": (4, 4)}, "block_shape is"),
        ({"num_workers": 0}, "num_workers is 0"),
        ({"dilate_sz": 0}, "dilate_sz is 0"),
        ({"scale_factors": (1, 3, 1)}, r"of \(30.0, 5.333, 16.0\) nm each; whole sizes"),
        ({"scale_factors": (1, 0, 1)}, "three positive numbers"),
        ({"scale_factors": (0.2, 1, 1)}, "at least one on every axis"),
        ({"scale_factors": (1, 2, 2), "synapses": "x.parquet"}, "without scale_factors"),
        ({"semantic": True, "synapses": "x.parquet"}, "no synapse table"),
        ({"output": "s3://bucket/x"}, "give work_dir"),
        ({"prediction": "nowhere/polarity"}, "no Zarr array"),
    ],
)
def test_options_that_cannot_be_meant_are_refused_by_name(tmp_path, change, words):
    prediction = write_polarity(tmp_path, np.zeros((3, 2, 4, 4), np.uint8))
    arguments = {"prediction": prediction, "output": tmp_path / "o", "block_shape": (2, 4, 4)}
    with pytest.raises(InputError, match=words):
        decode_blockwise(**arguments | change)
    assert not (tmp_path / "o").exists()


def test_blocks_that_would_overfill_a_folder_are_refused():
    with pytest.raises(InputError, match=r"10001 blocks along x.*at least 2 voxels there"):
        BlockGrid.of((1, 1, 10_001), (1, 1, 1))
    assert BlockGrid.of((1, 1, 10_001), (1, 1, 2)).grid == (1, 1, 5001)


def test_mutations_of_the_rules_would_be_noticed(tmp_path):
    """The volumes are rich enough: dropping a rule changes the answer of at least one."""
    from volumes import scipy_decode

    rules = {"thres": 0.5, "thres_small": 6, "dilate_sz": 4}
    changed = dict.fromkeys(["size", "and union", "even box", "post wins"], 0)
    for seed, density in itertools.product(range(12), (0.1, 0.3)):
        volume = random_polarity(seed, (4, 20, 20), 2, density, "uint8")
        truth = scipy_decode(volume, **rules)
        changed["size"] += not np.array_equal(
            truth, scipy_decode(volume, **rules | {"thres_small": 7})
        )
        outside = volume.copy()
        outside[:2][:, volume[2] <= 127] = 255
        without = scipy_decode(np.stack([volume[0], volume[1], volume.max(axis=0)]), **rules)
        changed["and union"] += not np.array_equal(truth, without)
        changed["even box"] += not np.array_equal(
            truth, scipy_decode(volume[..., ::-1], **rules)[..., ::-1]
        )
        swapped = scipy_decode(volume[[1, 0, 2]], **rules)
        back = np.where(swapped == 0, 0, np.where(swapped % 2 == 1, swapped + 1, swapped - 1))
        changed["post wins"] += not np.array_equal(truth, back)
    assert all(changed.values()), changed


def test_public_names_are_there():
    assert all(hasattr(synpol, name) for name in synpol.__all__)


@given(st.integers(1, 200), st.integers(1, 200))
def test_inner_chunks_divide_the_block(a, b):
    from synpol.images.writing import inner_chunks

    chunks = inner_chunks((a, b, 7))
    assert a % chunks[0] == b % chunks[1] == 7 % chunks[2] == 0
    assert all(32 <= c <= 128 or c == n for c, n in zip(chunks, (a, b, 7), strict=True))
