"""The synapse table in other forms, read back by the programs they are for."""

import itertools
import json
import sqlite3

import duckdb
import numpy as np
import pandas as pd
import polars
import psycopg2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from funlib.geometry import Roi
from funlib.persistence.graphs import PgSQLGraphDatabase, SQLiteGraphDataBase
from funlib.persistence.types import Vec
from postgres_server import postgres_server
from recipes import ROOT, run, run_refused, tiny_config, write

from synpol import InputError
from synpol.images.writing import create_image
from synpol.synapses import exports as table_forms
from synpol.synapses.links import read_links
from synpol.synapses.table import values_of


@pytest.fixture
def decoded(tmp_path, monkeypatch):
    """Three synapses in voxels of 30 x 16 x 8 nm that begin at (60, 32, -80); one has no post."""
    monkeypatch.setattr(table_forms, "ROWS", 2)  # so that there are parts
    volume = np.zeros((3, 8, 40, 40), np.uint8)
    for n, (z, y, x) in enumerate([(1, 4, 4), (2, 14, 20), (3, 30, 8)]):
        volume[0, z : z + 3, y : y + 4, x : x + 4] = 200 + n
        if n < 2:
            volume[1, z : z + 3, y : y + 4, x + 4 : x + 8] = 150 + n
        volume[2, z : z + 3, y : y + 4, x : x + 8] = 255
    place = {"voxel_size": (30, 16, 8), "offset": (60, 32, -80)}
    write(tmp_path / "result", "polarity", volume, **place)
    config = tiny_config(tmp_path)
    assert run("predict_blockwise", config, "--only", "decode") == 0
    return config


def test_csv_has_what_the_table_has(decoded, tmp_path, capsys):
    assert run("table", decoded, "--csv", tmp_path / "new" / "s.csv") == 0
    assert "3 synapses in" in capsys.readouterr().out
    found = pd.read_csv(tmp_path / "new" / "s.csv")
    expected = pd.read_parquet(tmp_path / "result" / "synapses.parquet")
    assert len(found) == 3
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)
    assert expected.one_sided.tolist() == [False, False, True]


def test_pandas_polars_duckdb_and_pyarrow_read_the_table_and_its_parts(
    decoded, tmp_path, monkeypatch
):
    table = tmp_path / "result" / "synapses.parquet"
    expected = pq.read_table(table)
    folder = tmp_path / "parts"
    assert table_forms.write_parts(table, folder, rows=2) == 2
    assert sorted(p.name for p in folder.iterdir()) == ["part-00000.parquet", "part-00001.parquet"]
    first = pq.read_table(folder / "part-00000.parquet")
    assert first["synapse_id"].to_pylist() == expected["synapse_id"].to_pylist()[:2]
    for source, files in ((table, table), (folder, folder / "*.parquet")):
        assert pq.read_table(source).equals(expected)
        pd.testing.assert_frame_equal(pd.read_parquet(source), expected.to_pandas())
        assert polars.read_parquet(files).to_arrow().to_pylist() == expected.to_pylist()
        rows = duckdb.sql(f"select * from '{files}' order by synapse_id")
        assert rows.to_arrow_table().to_pylist() == expected.to_pylist()
    assert table_forms.write_parts(table, folder) == 1  # what is there is replaced
    (folder / "notes.txt").touch()
    with pytest.raises(InputError, match="holds other files than parts of a table"):
        table_forms.write_parts(table, folder)
    (tmp_path / "new.tmp").mkdir()
    (tmp_path / "new.tmp" / "mine.txt").touch()
    with pytest.raises(InputError, match=r"new\.tmp holds other files than parts"):
        table_forms.write_parts(table, tmp_path / "new")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(InputError, match="is no folder"):
        table_forms.write_parts(table, tmp_path / "link")
    pq.write_table(expected.slice(0, 0), table)
    assert table_forms.write_parts(table, tmp_path / "empty") == 1
    assert pq.read_table(tmp_path / "empty").schema.names == expected.schema.names


def test_the_parts_of_a_long_table_are_in_order(tmp_path):
    count = 250_000
    rows = pa.table({"synapse_id": np.arange(count, dtype=np.uint64)})
    pq.write_table(rows, tmp_path / "t.parquet")
    assert table_forms.write_parts(tmp_path / "t.parquet", tmp_path / "p", rows=20_000) == 13
    assert pq.read_table(tmp_path / "p").equals(rows)


def test_every_column_says_its_unit(decoded, tmp_path):
    schema = pq.read_schema(tmp_path / "result" / "synapses.parquet")
    assert schema.field("pre_x").metadata[b"unit"] == b"nm"
    assert schema.field("pre_volume").metadata[b"unit"] == b"nm^3"
    assert all(field.metadata[b"meaning"] for field in schema)


def test_cave_columns_are_voxels_x_first(decoded, tmp_path, capsys):
    path = tmp_path / "cave.parquet"
    assert run("table", decoded, "--cave", path) == 0
    assert "2 synapses in" in (said := capsys.readouterr().out) and "1 with a single side" in said
    rows = pq.read_table(path)
    assert rows.schema.metadata[b"voxel_resolution"] == b"[8, 16, 30]"
    first = rows.to_pylist()[0]
    assert first["id"] == 1 and first["size"] == 2 * 3 * 4 * 4
    # the offset is (2, 2, -10) voxels; the middles of pre are (2.5, 6, 6), of post (2.5, 6, 10)
    assert first["pre_pt_position"] == [6 - 10, 6 + 2, 2 + 2]
    assert first["post_pt_position"] == [10 - 10, 6 + 2, 2 + 2]
    assert first["ctr_pt_position"] == [8 - 10, 6 + 2, 2 + 2]


def test_cave_rows_have_the_supervoxels_of_their_points(decoded, tmp_path, capsys):
    path, wide = tmp_path / "cave.parquet", (60, 32, 16)
    supervoxels = 2**60 + np.arange(4 * 12 * 20, dtype=np.uint64).reshape(4, 12, 20)
    supervoxels[:, :, 15:] = 0
    image = create_image(
        tmp_path, "supervoxels", shape=supervoxels.shape, dtype=np.uint64, voxel_size=wide,
        offset=(60, 32, -80), unit="nm", chunk_shape=(2, 5, 7),
    )  # fmt: skip
    image.array[:] = supervoxels
    asked = ("table", decoded, "--cave", path, "--supervoxels", image.path)
    assert run(*asked) == 0
    said = capsys.readouterr().out
    rows = pq.read_table(path)
    missing = 0
    for row in rows.to_pylist():
        for side in ("pre", "post"):
            nm = (np.array(row[f"{side}_pt_position"])[::-1] + 0.5) * (30, 16, 8)
            voxel = np.floor((nm - (60, 32, -80)) / wide).astype(int)
            inside = (voxel >= 0).all() and (voxel < supervoxels.shape).all()
            expected = int(supervoxels[tuple(voxel)]) if inside else 0
            assert row[f"{side}_pt_supervoxel_id"] == expected
            missing += expected == 0
    assert missing == (int(said.split(" points lie in no")[0].split()[-1]) if missing else 0)
    assert "--cave FILE" in run_refused(capsys, "table", decoded, "--csv", path, *asked[4:])


def test_synful_columns_are_nm(decoded, tmp_path):
    path = tmp_path / "synful.parquet"
    assert run("table", decoded, "--synful", path) == 0
    rows = pd.read_parquet(path)
    assert " ".join(rows) == "id pre_x pre_y pre_z post_x post_y post_z scores"
    assert rows.pre_x.tolist() == [6 * 8 - 80, 22 * 8 - 80]
    assert rows.post_z.tolist() == [60 + 2.5 * 30, 60 + 3.5 * 30]
    assert np.allclose(rows.scores, [150 / 255, 151 / 255])


def test_the_forms_have_a_row_for_each_link_where_links_are_known(decoded, tmp_path, capsys):
    assert "pipelines/connect.py makes it" in run_refused(
        capsys, "table", decoded, "--neuprint", tmp_path / "n.parquet"
    )
    neurons = np.ones((8, 40, 40), np.uint8)
    neurons[:, :, 8:20], neurons[:, 6:, 8:20], neurons[:, :, 24:] = 2, 3, 4
    place = {"voxel_size": (30, 16, 8), "offset": (60, 32, -80)}
    write(tmp_path, "neurons", neurons, **place)
    links = [decoded, f"connect.segmentation={tmp_path}/neurons", "connect.partners=all"]
    assert run("connect", *links) == 0
    said = capsys.readouterr().out
    assert "1 synapses join several neurons on a side: a link for each" in said
    forms = {form: tmp_path / f"{form}.parquet" for form in ("cave", "synful", "neuprint")}
    given = itertools.chain(*((f"--{form}", path) for form, path in forms.items()))
    assert run("table", decoded, *given) == 0
    assert "3 links in" in capsys.readouterr().out
    cave = pq.read_table(forms["cave"])
    assert cave.schema.metadata[b"voxel_resolution"] == b"[8, 16, 30]"
    rows = cave.to_pylist()
    pairs = [(1, 2), (1, 3), (1, 4)]
    assert [(r["pre_pt_root_id"], r["post_pt_root_id"]) for r in rows] == pairs
    assert [r["id"] for r in rows] == [1, 2, 3] and rows[0]["size"] == 3 * 4 * 4 + 3 * 4 * 2
    for row in rows:  # anchors lie in their neurons
        for side in ("pre", "post"):
            x, y, z = np.array(row[f"{side}_pt_position"]) - (-10, 2, 2)
            assert neurons[z, y, x] == row[f"{side}_pt_root_id"]
    table = pd.read_parquet(forms["neuprint"])
    assert " ".join(table) == (
        "bodyId_pre bodyId_post x_pre y_pre z_pre x_post y_post z_post confidence_pre "
        "confidence_post"
    )
    assert [(r.x_post, r.y_post, r.z_post) for r in table.itertuples()] == [
        tuple(r["post_pt_position"]) for r in rows
    ]
    for form in ("synful", "neuprint"):
        links = read_links(forms[form])
        assert links.pre_id.tolist() == [1, 1, 1] and links.post_id.tolist() == [2, 3, 4]
    np.testing.assert_allclose(links.score, [150 / 255, 150 / 255, 151 / 255])
    assert run("predict_blockwise", decoded, "decode.thres_small=1000", "--only", "decode") == 0
    refused = run_refused(capsys, "table", decoded, "--cave", tmp_path / "c.parquet")
    assert "links.parquet is of other synapses" in refused


def nodes_in(graph, offset, shape):
    return sorted(graph.read_graph(Roi(offset, shape)).nodes(data=True))


def check_graph(graph):
    whole = nodes_in(graph, (60, 32, -80), (240, 640, 320))
    assert [n for n, _ in whole] == [1, 2, 3]
    about = dict(whole)[2]
    assert np.allclose(about["position"], (60 + 3.5 * 30, 32 + 16 * 16, 24 * 8 - 80))
    assert about["pre_voxels"] == 48 and about["one_sided"] == 0
    assert dict(whole)[3]["post_x"] is None and dict(whole)[3]["one_sided"] == 1
    # x of the middles: -16, 112, 0 nm
    assert [n for n, _ in nodes_in(graph, (0, 0, -20), (1000, 1000, 30))] == [1, 3]
    assert [n for n, _ in nodes_in(graph, (0, 0, -20), (1000, 400, 30))] == [1]


def test_synapses_are_nodes_in_sqlite(decoded, tmp_path):
    path = tmp_path / "db" / "synapses.db"
    for _ in range(2):  # a second time replaces the first
        assert run("table", decoded, "--sqlite", path) == 0
    check_graph(SQLiteGraphDataBase(path, "position", mode="r"))
    with sqlite3.connect(path) as plain:
        assert plain.execute("select count(*) from nodes").fetchone() == (3,)
    about = json.loads((tmp_path / "db" / "synapses-meta.json").read_text())
    assert about["position_attribute"] == "position"


def test_what_the_page_says_of_reading_works(decoded, tmp_path, monkeypatch, capsys):
    assert run("table", decoded, "--sqlite", tmp_path / "synapses.db") == 0
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    code = (ROOT / "docs" / "table.md").read_text().partition("```python\n")[2].partition("```")[0]
    exec(code, {})
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in told] == ["2", "3"]  # x of the first is -16 nm


def test_a_database_of_somebody_else_is_left_alone(decoded, tmp_path, capsys):
    path = tmp_path / "mine.db"
    with sqlite3.connect(path) as plain:
        plain.execute("create table nodes (id integer)")
    assert "holds no synapses" in run_refused(capsys, "table", decoded, "--sqlite", path)
    (tmp_path / "free-meta.json").write_text('{"mine": 1}')
    assert "another" in run_refused(capsys, "table", decoded, "--sqlite", tmp_path / "free.db")
    assert (tmp_path / "free-meta.json").read_text() == '{"mine": 1}'
    SQLiteGraphDataBase(
        tmp_path / "other.db", "position", mode="w", node_attrs={"position": Vec(float, 3)}
    ).close()
    message = run_refused(capsys, "table", decoded, "--sqlite", tmp_path / "other.db")
    assert "holds another graph" in message


def test_synapses_are_nodes_in_postgres(decoded, monkeypatch, capsys):
    monkeypatch.setenv("PGUSER", "tester")
    try:
        server = postgres_server()
        address = server.__enter__()
    except FileNotFoundError as error:
        pytest.skip(f"not installed: {error}")
    try:
        for _ in range(2):
            assert run("table", decoded, "--postgres", f"{address}/synapses") == 0
        host, _, port = address.partition(":")
        graph = PgSQLGraphDatabase(
            "position",
            "synapses",
            host,
            "tester",
            db_port=int(port),
            mode="r",
        )
        check_graph(graph)
        graph.connection.close()
        theirs = {"position": Vec(float, 3)}
        other = PgSQLGraphDatabase(
            "position", "other", host, "tester", db_port=int(port), mode="w", node_attrs=theirs
        )
        other.connection.close()
        message = run_refused(capsys, "table", decoded, "--postgres", f"{address}/other")
        assert "holds another graph" in message
        login = {"host": host, "port": int(port), "user": "tester"}
        with psycopg2.connect(database="other", **login) as plain, plain.cursor() as cursor:
            cursor.execute("DROP TABLE metadata")
            cursor.execute("DROP TABLE nodes; CREATE TABLE nodes (who text)")
            cursor.execute("INSERT INTO nodes VALUES ('me')")
        plain.close()
        message = run_refused(capsys, "table", decoded, "--postgres", f"{address}/other")
        assert "holds no synapses" in message
        with psycopg2.connect(database="other", **login) as plain, plain.cursor() as cursor:
            cursor.execute("SELECT who FROM nodes")
            assert cursor.fetchall() == [("me",)]
        plain.close()
        monkeypatch.setenv("PGUSER", "nobody")
        message = run_refused(capsys, "table", decoded, "--postgres", f"{address}/synapses")
        assert "refuses" in message and "nobody" in message
    finally:
        server.__exit__(None, None, None)
    message = run_refused(capsys, "table", decoded, "--postgres", f"{address}/synapses")
    assert "refuses" in message


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((), "say what to write"),
        (("--postgres", "somewhere"), "HOST/DATABASE"),
        (("--postgres", "host:x/db"), "HOST/DATABASE"),
        (("--postgres", "host/d-b"), "HOST/DATABASE"),
    ],
)
def test_what_cannot_be_meant_is_refused(decoded, capsys, arguments, why):
    assert why in run_refused(capsys, "table", decoded, *arguments)


@pytest.mark.parametrize("form", ["--csv", "--cave", "--sqlite"])
def test_a_folder_is_no_file_to_write(decoded, tmp_path, capsys, form):
    assert "is a folder" in run_refused(capsys, "table", decoded, form, tmp_path)
    (tmp_path / "result" / "synapses.parquet").unlink()
    assert "no synapse table" in run_refused(capsys, "table", decoded, form, tmp_path / "a")


def test_a_missing_or_foreign_table_is_refused(decoded, tmp_path, capsys):
    table = tmp_path / "result" / "synapses.parquet"
    table.write_text("id,x\n")
    assert "not a Parquet file" in run_refused(capsys, "table", decoded, "--csv", tmp_path / "a")
    pd.DataFrame({"id": [1]}).to_parquet(table)
    assert "no column synapse_id" in run_refused(capsys, "table", decoded, "--csv", tmp_path / "a")
    table.unlink()
    assert "no synapse table" in run_refused(capsys, "table", decoded, "--csv", tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_an_empty_table_has_columns(tmp_path):
    write(tmp_path / "result", "polarity", np.zeros((3, 4, 8, 8), np.uint8))
    config = tiny_config(tmp_path)
    assert run("predict_blockwise", config, "--only", "decode") == 0
    forms = ["--csv", tmp_path / "a.csv", "--cave", tmp_path / "a.parquet"]
    assert run("table", config, *forms, "--sqlite", tmp_path / "a.db") == 0
    assert "synapse_id" in pd.read_csv(tmp_path / "a.csv")
    assert "pre_pt_position" in pd.read_parquet(tmp_path / "a.parquet")


def test_columns_are_read_as_pyarrow_reads_them():
    whole = pa.chunked_array([[1, 2, 3], [4]], pa.int64())
    some = pa.chunked_array([[0.5, None, 2.5, None], [None], [], [7.0]], pa.float64())
    numbers = pa.chunked_array([[None, 2**60, 3]], pa.uint64())
    for column in (whole, some, numbers, some.slice(1, 4), some.slice(3), whole.slice(2, 0)):
        expected, found = column.to_numpy(), values_of(column)
        assert found.dtype == expected.dtype
        assert np.array_equal(found, expected, equal_nan=found.dtype.kind == "f")
    assert values_of(some.chunk(0).slice(1, 2)).tolist()[1] == 2.5
    assert values_of(pa.chunked_array([], pa.int64())).dtype == np.int64
