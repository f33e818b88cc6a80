"""Lines drawn in neuroglancer, or written for it, are links."""

import json

import neuroglancer
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from http_files import http_files
from neuroglancer.json_utils import encode_json
from neuroglancer.write_annotations import AnnotationWriter
from recipes import run
from test_annotations import HIGH, LOW, write_table

from synpol import InputError
from synpol.config import LinkTable
from synpol.scene import annotations
from synpol.scene.annotations import write_annotations
from synpol.synapses.exports import TABLE_HASH, digest_of
from synpol.synapses.links import read_links

NM4 = {"x": [4e-9, "m"], "y": [4e-9, "m"], "z": [4e-8, "m"]}


def line(number, a, b, **more):
    return {"type": "line", "id": str(number), "pointA": a, "pointB": b, **more}


def state(*layers, dimensions=NM4):
    return {"dimensions": dimensions, "layers": [{"type": "image", "name": "raw"}, *layers]}


def layer(name="links", *lines, **more):
    lines = lines or (line(1, [10, 20, 3], [11, 21, 3.5]),)
    source = {"source": "local://annotations"}
    return {"type": "annotation", "name": name, **source, "annotations": list(lines), **more}


def saved(tmp_path, content):
    path = tmp_path / "state.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize("as_address", [False, True])
def test_lines_of_a_state_that_neuroglancer_wrote_are_links(tmp_path, as_address):
    viewer = neuroglancer.ViewerState()
    viewer.dimensions = neuroglancer.CoordinateSpace(
        names=["x", "y", "z"], units="nm", scales=[4, 4, 40]
    )
    own = neuroglancer.CoordinateSpace(names=["z", "y", "x"], units="nm", scales=[40, 8, 4])
    viewer.layers["links"] = neuroglancer.LocalAnnotationLayer(
        dimensions=own,
        annotations=[
            neuroglancer.LineAnnotation(
                id="f00", point_a=[1, 2, 3], point_b=[4, 5, 6.5], segments=[[7], [8]], props=[0.5]
            )
        ],
        annotation_relationships=["pre", "post"],
        annotation_properties=[neuroglancer.AnnotationPropertySpec(id="score", type="float32")],
    )
    text = neuroglancer.to_url(viewer) if as_address else encode_json(viewer.to_json())
    links = read_links(saved(tmp_path, text))
    assert links.pre.tolist() == [[40, 16, 12]] and links.post.tolist() == [[160, 40, 26]]
    assert (links.pre_id.tolist(), links.post_id.tolist()) == ([7], [8])
    assert links.score.tolist() == [0.5]
    path = str(saved(tmp_path, text))
    turned = read_links(LinkTable(path=path, pre_point="b", columns={"pre_id": "post"}))
    assert turned.pre.tolist() == [[160, 40, 26]] and turned.pre_id.tolist() == [8]


def test_the_transform_of_the_source_is_obeyed(tmp_path):
    matrix = [[2, 0, 0, 100], [0, 1, 0, 0], [0, 0, 1, -1]]
    transform = {"outputDimensions": {**NM4, "x": [1e-9, "m"]}, "matrix": matrix}
    moved = layer(source=[{"url": "local://annotations", "transform": transform}])
    assert read_links(saved(tmp_path, state(moved))).pre.tolist() == [[80, 80, 120]]
    assert read_links(saved(tmp_path, state(layer()))).pre.tolist() == [[120, 80, 40]]


def test_one_layer_of_several_is_named(tmp_path):
    path = saved(tmp_path, state(layer("a"), layer("b", line(1, [1, 1, 1], [2, 2, 2]))))
    with pytest.raises(InputError, match=r"2 layers with annotations \(a, b\)"):
        read_links(path)
    assert read_links(LinkTable(path=str(path), layer="b")).pre.tolist() == [[40, 4, 4]]
    with pytest.raises(InputError, match="no layer 'c' with annotations; it has a, b"):
        read_links(LinkTable(path=str(path), layer="c"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (state(), "has 0 layers with annotations"),
        (state(layer("a", {"type": "point", "id": "7", "point": [1, 2, 3]})), "'7'.* is a point"),
        (state({"type": "annotation", "name": "far", "source": "precomputed://x"}), "name that"),
        (state(layer(), dimensions={**NM4, "t": [1, "s"]}), "x, y and z with"),
        (state(layer(), dimensions={**NM4, "x": [1, "s"]}), "unknown unit 's'"),
        (state(layer(), dimensions={**NM4, "x": [0, "m"]}), "a length is expected"),
        (layer(), "the annotations have the dimensions None"),
        (state(layer("a", line(1, [1, 2], [3, 4]))), "not x, y, z"),
        (state(layer("a", {"type": "line", "id": "1"})), "KeyError: 'pointA'"),
        (state(layer("a", line(1, [1, 2, "x"], [3, 4, 5]))), "not as neuroglancer"),
        (state(layer("a", line(1, [1, 2, float("nan")], [3, 4, 5]))), "line 1 .* not finite"),
        (state(layer("a", 7)), "AttributeError"),
        ('{"layers": [', "JSONDecodeError"),
        ("{" + "\x00" * 40, "JSONDecodeError"),
        ('{"layers": 7}', "TypeError"),
    ],
)
def test_a_state_without_links_is_refused(tmp_path, content, words):
    with pytest.raises(InputError, match=words):
        read_links(saved(tmp_path, content))


def test_options_of_another_kind_of_links_are_refused(tmp_path):
    path = str(saved(tmp_path, state(layer())))
    for options, words in (
        ({"unit": "um"}, "say their own units"),
        ({"columns": {"pre_z": "a"}}, "have no 'pre_z'"),
        ({"columns": {"pre_id": "axon"}}, "no relation 'axon'; it has segments"),
        ({"columns": {"score": "sure"}}, "no property 'sure'"),
    ):
        with pytest.raises(InputError, match=words):
            read_links(LinkTable(path=path, **options))
    (tmp_path / "links.csv").write_text("pre_z\n1\n")
    with pytest.raises(InputError, match="which are of lines"):
        read_links(LinkTable(path=str(tmp_path / "links.csv"), pre_point="b"))


def written(folder, kind="line"):
    """Annotations of neuroglancer's own writer, with properties of every size and relations."""
    spec = neuroglancer.AnnotationPropertySpec
    writer = AnnotationWriter(
        neuroglancer.CoordinateSpace(names=["x", "y", "z"], units="nm", scales=[4, 4, 40]),
        kind,
        relationships=["pre", "post"],
        properties=[spec(id="mark", type="uint8"), spec(id="score", type="float32")],
    )
    if kind == "line":
        writer.add_line([1, 2, 3], [4, 5, 6], id=12, mark=3, score=0.25, pre=[7], post=[8, 9])
        writer.add_line([9, 8, 7], [6, 5, 4], id=5, mark=4, score=0.75, pre=[1], post=[2])
    else:
        writer.add_point([1, 2, 3], id=1, mark=3, score=0.25)
    writer.write(folder)


@pytest.mark.parametrize("at_url", [False, True])
def test_annotations_of_neuroglancers_writer_are_links(tmp_path, at_url):
    written(tmp_path / "lines")
    with http_files(tmp_path) as (url, _):
        links = read_links(f"precomputed://{url}/lines" if at_url else tmp_path / "lines")
    assert links.link_id.tolist() == [5, 12]
    assert links.pre.tolist() == [[280, 32, 36], [120, 8, 4]]
    assert links.post.tolist() == [[160, 20, 24], [240, 20, 16]]
    assert links.score.tolist() == [0.75, 0.25]
    assert links.pre_id.tolist() == [1, 7]
    assert links.post_id.tolist() == [2, 0]  # two neurons: unknown


def test_synpols_own_annotations_come_back(tmp_path, monkeypatch):
    monkeypatch.setattr(annotations, "LIMIT", 20)  # several levels
    monkeypatch.setattr(annotations, "FILE_BYTES", 2**12)  # several shards
    monkeypatch.setattr(annotations, "MINISHARD_KEYS", 8)
    table = tmp_path / "synapses.parquet"
    rows = write_table(table, 700, one_sided=0.0)
    ids = np.array([row["synapse_id"] for row in rows])
    neurons = np.arange(1, 701, dtype=np.uint64)
    partners = tmp_path / "partners.parquet"
    columns = {"synapse_id": ids.astype(np.uint64), "pre_id": neurons, "post_id": neurons * 3}
    mark = {TABLE_HASH: digest_of(table)}
    pq.write_table(pa.table(columns).replace_schema_metadata(mark), partners)
    folder = tmp_path / "lines"
    write_annotations(folder, table, LOW, HIGH, partners)
    links = read_links(folder)
    assert links.link_id.tolist() == ids.tolist()
    for side in ("pre", "post"):
        expected = [[row[f"{side}_{axis}"] for axis in "zyx"] for row in rows]
        np.testing.assert_allclose(getattr(links, side), expected, rtol=1e-6)
    assert np.isfinite(links.score).all()
    assert (links.pre_id == neurons).all() and (links.post_id == neurons * 3).all()


def test_damaged_annotations_and_points_are_refused(tmp_path):
    written(tmp_path / "points", "point")
    with pytest.raises(InputError, match="the type point; lines are expected"):
        read_links(tmp_path / "points")
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="has no file info"):
        read_links(tmp_path / "none")
    written(tmp_path / "lines")
    info, cell = (tmp_path / "lines" / name for name in ("info", "spatial0/0_0_0"))
    whole = cell.read_bytes()
    for damaged in (whole[:-3], b"\x09", b"\xff" * 8 + whole[8:], whole[:8] + b"\x00" * 16):
        cell.write_bytes(damaged)
        with pytest.raises(InputError, match="the file is damaged"):
            read_links(tmp_path / "lines")
    cell.write_bytes(whole)
    (tmp_path / "lines/by_id/12").write_bytes(b"\x00" * 33)
    with pytest.raises(InputError, match="index by id is damaged"):
        read_links(tmp_path / "lines")
    (tmp_path / "lines/by_id/12").unlink()
    with pytest.raises(InputError, match="missing in the index by id"):
        read_links(tmp_path / "lines")
    good = json.loads(info.read_text())
    grids = {"spatial": [{**good["spatial"][0], "grid_shape": [10**6, 10**6, 1]}]}
    for change, words in (
        ({"@type": "neuroglancer_multiscale_volume"}, "neuroglancer_annotations_v1 is"),
        (grids, "cells; at most"),
        ({"spatial": None}, "TypeError"),
        ({"dimensions": {"x": [1, "m"]}}, "x, y and z with"),
        ({"properties": [{"id": "score", "type": "text"}]}, "KeyError"),
    ):
        info.write_text(json.dumps({**good, **change}))
        with pytest.raises(InputError, match=words):
            read_links(tmp_path / "lines")
    with pytest.raises(InputError, match=r"layer 'a' is asked for"):
        read_links(LinkTable(path=str(tmp_path / "lines"), layer="a"))


def test_the_command_scores_lines_against_lines(tmp_path, capsys):
    written(tmp_path / "lines")
    drawn = saved(
        tmp_path,
        state(layer("a", line(1, [4, 5, 6], [1, 2, 3]), line(2, [500, 5, 4], [900, 8, 7]))),
    )
    args = [
        f"run_dir={tmp_path / 'run'}",
        f"evaluate.links.truth={{path: {tmp_path / 'lines'}}}",
        f"evaluate.links.predicted={{path: {drawn}, pre_point: b}}",
        "evaluate.links.same_neurons=false",
        f"predict.output={tmp_path / 'scores'}",
    ]
    assert run("evaluate_links", *args) == 0
    assert "1 found, 1 wrong, 1 missed" in capsys.readouterr().out
