"""Synapses as precomputed annotations, read back by neuroglancer's own reader."""

import filecmp
import json
from collections import Counter

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from neuroglancer.read_precomputed_annotations import AnnotationReader

from synpol.errors import InputError
from synpol.scene import annotations
from synpol.scene.annotations import score_range, write_annotations
from synpol.scene.spatial_index import morton, spatial_levels
from synpol.synapses.exports import TABLE_HASH, digest_of
from synpol.synapses.table import schema_of

LOW, HIGH = (100.0, 200.0, 300.0), (4100.0, 64200.0, 32300.0)


def write_table(path, count, seed=0, sides=True, one_sided=0.1):
    """A synapse table with random places; returns its rows."""
    rng = np.random.default_rng(seed)
    columns = {}
    for field in schema_of(sides):
        if pa.types.is_floating(field.type):
            columns[field.name] = rng.random(count)
        else:
            columns[field.name] = rng.integers(1, 500, count).astype(field.type.to_pandas_dtype())
    columns["synapse_id"] = np.cumsum(rng.integers(1, 9, count)).astype(np.uint64)
    places = {p: rng.uniform(LOW, HIGH, (count, 3)) for p in ("pre", "union")}
    places["post"] = np.clip(places["pre"] + rng.normal(0, 200, (count, 3)), LOW, HIGH)
    lost = {"pre": np.zeros(count, bool), "post": rng.random(count) < one_sided, "union": False}
    if not sides:
        lost = {"pre": True, "post": True, "union": False}
    for part in ("pre", "post") if sides else ("pre", "post", "union"):
        names = [f"{part}_{a}" for a in "zyx"]
        for name, values in zip(names, places[part].T, strict=True):
            columns[name] = pa.array(values, mask=np.broadcast_to(lost[part], count).copy())
        score = columns[f"{part}_score"]
        columns[f"{part}_score"] = pa.array(score, mask=np.broadcast_to(lost[part], count).copy())
    table = pa.table({n: columns[n] for n in schema_of(sides).names}, schema=schema_of(sides))
    pq.write_table(table, path)
    return table.to_pylist()


def reader(folder):
    return AnnotationReader(f"file://{folder}")


def test_every_synapse_is_found_by_its_id_with_its_line_and_properties(tmp_path):
    rows = write_table(tmp_path / "t.parquet", 300)
    assert write_annotations(tmp_path / "a", tmp_path / "t.parquet", LOW, HIGH) == 300
    found = reader(tmp_path / "a")
    assert found.coordinate_space.names == ("x", "y", "z")
    assert found.coordinate_space.scales.tolist() == [1e-9] * 3
    names = [p.id for p in found.properties]
    for row in rows:
        line = found.by_id[row["synapse_id"]]
        ends = [[row[f"{p}_{a}"] for a in "xyz"] for p in ("pre", "post")]
        if ends[1][0] is None:
            ends[1] = ends[0]
        np.testing.assert_allclose([line.point_a, line.point_b], ends, rtol=1e-6)
        about = dict(zip(names, line.props, strict=True))
        scores = [row[f"{p}_score"] for p in ("pre", "post") if row[f"{p}_score"] is not None]
        assert about["score"] == pytest.approx(min(scores), rel=1e-6)
        assert about["contact_area"] == pytest.approx(row["contact_area"], rel=1e-6)
        assert (about["pre_voxels"], about["post_voxels"]) == (
            row["pre_voxels"],
            row["post_voxels"],
        )
    low, high = score_range(tmp_path / "t.parquet")
    assert 0 < low < high < 1


def test_synapses_without_sides_are_points(tmp_path):
    rows = write_table(tmp_path / "t.parquet", 20, sides=False)
    write_annotations(tmp_path / "a", tmp_path / "t.parquet", LOW, HIGH)
    for row in rows:
        line = reader(tmp_path / "a").by_id[row["synapse_id"]]
        place = [row[f"union_{a}"] for a in "xyz"]
        np.testing.assert_allclose([line.point_a, line.point_b], [place, place], rtol=1e-6)
        assert line.props[0] == pytest.approx(row["union_score"], rel=1e-6)


def test_every_cell_of_every_level_holds_what_the_index_says(tmp_path, monkeypatch):
    monkeypatch.setattr(annotations, "LIMIT", 40)
    rows = write_table(tmp_path / "t.parquet", 3000)
    write_annotations(tmp_path / "a", tmp_path / "t.parquet", LOW, HIGH)
    found = reader(tmp_path / "a")
    seen = Counter()
    levels = json.loads((tmp_path / "a" / "info").read_text())["spatial"]
    assert len(levels) > 3
    for about, level in zip(levels, found.spatial, strict=True):
        here, size = {}, np.array(about["chunk_size"])
        for cell in np.ndindex(*about["grid_shape"]):
            lines = level[cell] if cell in level else ()  # noqa: SIM401 it is no dict
            assert len(lines) <= 40
            begin = np.array(LOW[::-1]) + size * cell
            for line in lines:
                ends = np.stack([line.point_a, line.point_b])
                assert (ends.max(axis=0) >= begin - 0.01).all()
                assert (ends.min(axis=0) <= begin + size + 0.01).all()
                here[line.id] = line
        seen.update(here.keys())
    assert seen == Counter({str(row["synapse_id"]): 1 for row in rows})


def test_synapses_are_found_by_their_neurons(tmp_path):
    rows = write_table(tmp_path / "t.parquet", 200)
    rng = np.random.default_rng(1)
    ids = np.array([row["synapse_id"] for row in rows], np.uint64)
    neurons = {s: rng.integers(0, 9, 200).astype(np.uint64) * np.uint64(2**60) for s in "ab"}
    partners = pa.table({"synapse_id": ids, "pre_id": neurons["a"], "post_id": neurons["b"]})
    partners = partners.replace_schema_metadata({TABLE_HASH: digest_of(tmp_path / "t.parquet")})
    pq.write_table(partners, tmp_path / "p.parquet")
    write_annotations(tmp_path / "a", tmp_path / "t.parquet", LOW, HIGH, tmp_path / "p.parquet")
    found = reader(tmp_path / "a")
    for side, of in (("pre", neurons["a"]), ("post", neurons["b"])):
        for neuron in set(of.tolist()) - {0}:
            lines = {int(line.id) for line in found.relationships[side][neuron]}
            assert lines == set(ids[of == neuron].tolist())
    for number, pre, post in zip(ids.tolist(), neurons["a"], neurons["b"], strict=True):
        segments = [[int(n) for n in side] for side in found.by_id[number].segments]
        assert segments == [[n] if n else [] for n in (int(pre), int(post))]
    write_table(tmp_path / "t.parquet", 200, seed=2)  # of as many synapses, elsewhere
    with pytest.raises(InputError, match="is of other synapses than the table beside it"):
        write_annotations(tmp_path / "a", tmp_path / "t.parquet", LOW, HIGH, tmp_path / "p.parquet")


def test_a_synapse_is_found_by_all_neurons_of_its_links(tmp_path):
    rows = write_table(tmp_path / "t.parquet", 30)
    ids = np.array([row["synapse_id"] for row in rows], np.uint64)
    one = np.full(30, 5, np.uint64)
    of = {TABLE_HASH: digest_of(tmp_path / "t.parquet")}
    partners = pa.table({"synapse_id": ids, "pre_id": one, "post_id": one + np.uint64(1)})
    pq.write_table(partners.replace_schema_metadata(of), tmp_path / "p.parquet")
    more = {"link_id": np.arange(1, 3), "synapse_id": ids[[3, 3]]}
    more |= {"pre_id": one[:2], "post_id": np.array([8, 6], np.uint64)}
    pq.write_table(pa.table(more).replace_schema_metadata(of), tmp_path / "l.parquet")
    tables = [tmp_path / f"{name}.parquet" for name in "tpl"]
    write_annotations(tmp_path / "a", tables[0], LOW, HIGH, *tables[1:])
    found = reader(tmp_path / "a")
    assert [int(line.id) for line in found.relationships["post"][8]] == [ids[3]]
    assert len(found.relationships["post"][6]) == len(found.relationships["pre"][5]) == 30
    segments = found.by_id[int(ids[3])].segments
    assert [[int(n) for n in side] for side in segments] == [[5], [6, 8]]
    write_annotations(tmp_path / "a", *tables[:1], LOW, HIGH, tables[1])  # made anew without them
    with pytest.raises(KeyError):
        reader(tmp_path / "a").relationships["post"][8]
    pq.write_table(pa.table(more), tables[2])
    with pytest.raises(InputError, match="is of other synapses"):
        write_annotations(tmp_path / "a", tables[0], LOW, HIGH, *tables[1:])


def files_of(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_the_same_table_gives_the_same_bytes_and_is_not_written_again(tmp_path):
    write_table(tmp_path / "t.parquet", 500)
    for name in ("a", "b"):
        write_annotations(tmp_path / name, tmp_path / "t.parquet", LOW, HIGH)
    names = files_of(tmp_path / "a")
    assert files_of(tmp_path / "b") == names
    assert filecmp.cmpfiles(tmp_path / "a", tmp_path / "b", names, shallow=False)[0] == names
    written = (tmp_path / "a" / "info").stat().st_mtime_ns
    assert write_annotations(tmp_path / "a", tmp_path / "t.parquet", LOW, HIGH) == 500
    assert (tmp_path / "a" / "info").stat().st_mtime_ns == written
    write_table(tmp_path / "t.parquet", 501)
    assert write_annotations(tmp_path / "a", tmp_path / "t.parquet", LOW, HIGH) == 501


def test_a_table_without_rows_is_written_and_none_is_refused(tmp_path):
    write_table(tmp_path / "t.parquet", 0)
    assert write_annotations(tmp_path / "a", tmp_path / "t.parquet", LOW, HIGH) == 0
    assert score_range(tmp_path / "t.parquet") == (0, 1)
    pq.write_table(pa.table({"synapse_id": [1], "pre_x": [2.0]}), tmp_path / "v.parquet")
    with pytest.raises(InputError, match="has no column pre_y"):
        write_annotations(tmp_path / "a", tmp_path / "v.parquet", LOW, HIGH)
    with pytest.raises(InputError, match="there is no synapse table"):
        write_annotations(tmp_path / "a", tmp_path / "u.parquet", LOW, HIGH)


@settings(max_examples=30)
@given(
    st.integers(0, 200), st.integers(1, 20), st.integers(0, 2**32 - 1), st.booleans(), st.booleans()
)
def test_each_line_is_on_one_level_in_all_cells_that_it_meets(count, limit, seed, same, long):
    rng = np.random.default_rng(seed)
    low, high = np.zeros(3), np.array([1000.0, 900.0, 90.0])
    first = np.zeros((count, 3)) if same else rng.uniform(low, high, (count, 3))
    last = rng.uniform(low, high, (count, 3)) if long else first
    lines = np.concatenate([first, last], axis=1)
    seen = np.zeros(count, int)
    for level in spatial_levels(lines, low, high, limit):
        counts = np.unique(level.cell, return_counts=True)[1]
        assert not seen[level.line].any()
        seen[np.unique(level.line)] += 1
        if not seen.all():
            assert counts.max(initial=0) <= limit
        if level.grid.prod() > 5000:
            continue
        places = np.array(list(np.ndindex(*level.grid)))
        begin = dict(zip(morton(places, level.grid).tolist(), places * level.size, strict=True))
        for cell, line in zip(level.cell.tolist(), level.line, strict=True):
            ends = np.stack([first[line], last[line]])
            assert (ends.max(axis=0) >= begin[cell] - 1e-9).all()
            assert (ends.min(axis=0) <= begin[cell] + level.size + 1e-9).all()
    assert (seen == 1).all()


def test_cells_are_numbered_as_neuroglancer_numbers_them():
    from neuroglancer.read_precomputed_annotations import _zorder_compressed

    for grid in ((1, 1, 1), (4, 2, 1), (3, 5, 2), (16, 1, 8)):
        places = np.array(list(np.ndindex(*grid)))
        expected = [_zorder_compressed(place, grid) for place in places]
        assert morton(places, np.array(grid)).tolist() == expected
