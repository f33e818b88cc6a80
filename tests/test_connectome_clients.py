"""The forms of CAVE and neuPrint are taken by caveclient and neuprint-python themselves."""

import contextlib
import http.server
import json
import threading
from types import SimpleNamespace
from urllib.parse import urlsplit, urlunsplit

import jsonschema
import neuprint.client
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from caveclient.annotationengine import AnnotationClient
from caveclient.auth import AuthClient
from caveclient.emannotationschemas import SchemaClient
from neuprint import NeuronCriteria, SynapseCriteria, merge_neuron_properties
from neuprint.queries.synapses import _fetch_synapse_connections
from neuprint.utils import connection_table_to_matrix
from requests.adapters import HTTPAdapter

from synpol import InputError
from synpol.config import LinkTable
from synpol.synapses.exports import cave_rows
from synpol.synapses.link_forms import cave_link_rows, neuprint_rows
from synpol.synapses.links import read_links

IMAGE = SimpleNamespace(voxel_size_nm=(40, 4, 4))
#: what the service of schemas says about the type `synapse`
POINT = {"type": "object", "required": ["position"], "additionalProperties": False}
NUMBER = {"type": "integer"}
SCHEMA = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "$ref": "#/definitions/SynapseSchema",
    "definitions": {
        "SpatialPoint": {**POINT, "properties": {"position": {"type": "array"}}},
        "BoundSpatialPoint": {
            **POINT,
            "properties": {
                "position": {"type": "array"},
                "root_id": NUMBER,
                "supervoxel_id": NUMBER,
            },
        },
        "SynapseSchema": {
            "type": "object",
            "required": ["ctr_pt", "post_pt", "pre_pt"],
            "additionalProperties": True,
            "properties": {
                "ctr_pt": {"type": "object", "$ref": "#/definitions/SpatialPoint"},
                "post_pt": {"type": "object", "$ref": "#/definitions/BoundSpatialPoint"},
                "pre_pt": {"type": "object", "$ref": "#/definitions/BoundSpatialPoint"},
                "size": {"type": "number", "format": "float"},
                "valid": {"type": "boolean"},
            },
        },
    },
}


@contextlib.contextmanager
def service(answer):
    """A server on loopback that answers with JSON; gives its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            size = int(self.headers.get("Content-Length", 0))
            found = answer(self.path, self.rfile.read(size).decode())
            self.send_response(404 if found is None else 200)
            self.end_headers()
            self.wfile.write(json.dumps(found).encode())

        do_POST = do_GET

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def links_table():
    """Links of `links.parquet`; the third repeats the first."""
    places = {
        f"{side}_{axis}": [40.0 + k, 80.0, 120.0 + 4 * k]
        for k, side in ((0, "pre"), (1, "post"))
        for axis in "zyx"
    }
    ids = {"pre_id": [7, 8, 7], "post_id": [9, 7, 9]}
    return pa.table(
        {"link_id": pa.array([1, 2, 3], pa.uint64())}
        | {name: pa.array(values, pa.uint64()) for name, values in ids.items()}
        | places
        | {f"{side}_voxels": pa.array([5, 6, 7], pa.int64()) for side in ("pre", "post")}
        | {"score": [0.5, 0.75, 0.25], "duplicate_of": pa.array([0, 0, 1], pa.uint64())}
    )


def cave(path, _):
    """Answers of the CAVE services of schemas and of annotations."""
    if path.endswith("/versions"):
        return [2]
    return {
        "/schema/api/v2/type/synapse": SCHEMA,
        "/annotation/api/v2/aligned_volume/tissue/table/mine": {
            "schema_type": "synapse",
            **{f"voxel_resolution_{axis}": n for axis, n in zip("xyz", (8, 8, 40), strict=True)},
        },
    }.get(path)


@pytest.fixture
def annotation_client():
    """A CAVE client for annotations, and what it talks to."""
    with service(cave) as address:
        auth = AuthClient(token="none")
        schema = SchemaClient(f"http://{address}", auth)
        yield AnnotationClient(f"http://{address}", "tissue", auth, schema_client=schema)


def test_caveclient_stages_and_validates_every_row(annotation_client, tmp_path):
    pq.write_table(cave_link_rows(links_table(), IMAGE), tmp_path / "cave.parquet")
    rows = pd.read_parquet(tmp_path / "cave.parquet")
    resolution = json.loads(pq.read_schema(tmp_path / "cave.parquet").metadata[b"voxel_resolution"])
    staged = annotation_client.stage_annotations("mine", annotation_resolution=resolution)
    staged.add_dataframe(rows[rows.columns.intersection(staged.fields)])
    assert len(staged) == 2
    first = staged.annotation_list[0]
    assert first == {
        "pre_pt": {"position": [10 / 2, 10 / 2, 1]},
        "post_pt": {"position": [10 / 2, 10 / 2, 1]},
        "ctr_pt": {"position": [10 / 2, 10 / 2, 1]},
        "size": 10,
    }


def test_caveclient_takes_ids_and_synapses_without_neurons_and_refuses_wrong_rows(
    annotation_client,
):
    names = [f"{side}_{name}" for side in ("pre", "post") for name in ("z", "y", "x", "voxels")]
    table = (
        links_table().select(names).append_column("synapse_id", pa.array([4, 5, 9], pa.uint64()))
    )
    rows = cave_rows(table, IMAGE).to_pandas()
    staged = annotation_client.stage_annotations(schema_name="synapse", id_field=True)
    staged.add_dataframe(rows[rows.columns.intersection(staged.fields)])
    assert [one["id"] for one in staged.annotation_list] == [4, 5, 9]
    with pytest.raises(jsonschema.ValidationError):
        staged.add(id=1, pre_pt_position=3, post_pt_position=[1, 2, 3], ctr_pt_position=[1, 2, 3])


def test_tables_of_caveclient_come_back_as_links(tmp_path):
    path = tmp_path / "cave.parquet"
    pq.write_table(cave_link_rows(links_table(), IMAGE), path)
    links = read_links(path)
    assert links.pre.tolist() == [[40, 40, 40], [80, 80, 80]]
    assert (links.pre_id.tolist(), links.post_id.tolist()) == ([7, 8], [9, 7])
    # materialize.synapse_query gives the columns without the resolution
    pd.read_parquet(path).to_parquet(path)
    with pytest.raises(InputError, match="no voxel_resolution in its metadata"):
        read_links(path)
    given = LinkTable(path=str(path), voxel_size=(40, 4, 4))
    assert read_links(given).pre.tolist() == links.pre.tolist()
    short = pa.table({f"{s}_pt_position": [[1, 2, 3], [1, 2]] for s in ("pre", "post")})
    pq.write_table(short, path)
    with pytest.raises(InputError, match="pre_pt_position is not x, y, z in every row"):
        read_links(given)


META = {"dataset": "synpol", "primaryRois": ["PB"]}


def neuprint_answers(rows):
    """Answers of a neuPrint server that holds the rows."""

    def answer(path, body):
        if path == "/api/dbmeta/datasets":
            return {"synpol": {}}
        if path != "/api/custom/custom":
            return None
        query = json.loads(body)["cypher"]
        if "ntSynapseProperties" in query:
            return {"columns": ["n"], "data": [["{}"]]}
        if "as confidence_pre" in query:
            names = ["bodyId_pre", "bodyId_post", "x_pre", "y_pre", "z_pre", "x_post", "y_post"]
            names += ["z_post", "confidence_pre", "confidence_post"]
            values = rows[names].astype(object).to_numpy().tolist()
            return {"columns": [], "data": [[*row, {"PB": True}, {}] for row in values]}
        names = ["meta", "roiInfo", "roiHierarchy", "neuroglancerInfo", "neuroglancerMeta"]
        return {
            "columns": [*names, "statusDefinitions"],
            "data": [[META, {"PB": {}}, {}, {}, {}, {}]],
        }

    return answer


class ToLoopback(HTTPAdapter):
    """Sends requests to loopback without TLS: neuprint-python refuses http addresses."""

    def send(self, request, *args, **more):
        request.url = urlunsplit(urlsplit(request.url)._replace(scheme="http"))
        return super().send(request, *args, **more)


def test_neuprint_python_gives_the_columns_that_we_write(monkeypatch):
    ours = neuprint_rows(links_table(), IMAGE).to_pandas()
    monkeypatch.setattr(neuprint.client, "HTTPAdapter", ToLoopback)
    with service(neuprint_answers(ours)) as address:
        client = neuprint.client.Client(address, "synpol", token="none", progress=False)
        source, target = (NeuronCriteria(matchvar=v, bodyId=[7, 8, 9], client=client) for v in "nm")
        every = SynapseCriteria(client=client)
        theirs = _fetch_synapse_connections(source, target, every, 1, None, client)
    assert theirs["roi_pre"].tolist() == ["PB", "PB"]
    theirs = theirs.drop(columns=["roi_pre", "roi_post"])
    assert list(theirs.columns) == list(ours.columns)
    assert theirs.to_numpy().tolist() == ours.to_numpy().tolist()


def test_neuprint_pythons_own_functions_take_our_rows():
    ours = neuprint_rows(links_table(), IMAGE).to_pandas()
    neurons = pd.DataFrame({"bodyId": [7, 8, 9], "type": ["a", "b", "c"], "instance": list("xyz")})
    merged = merge_neuron_properties(neurons, ours, ["type"])
    assert merged["type_pre"].tolist() == ["a", "b"]
    assert merged["type_post"].tolist() == ["c", "a"]
    matrix = connection_table_to_matrix(merged.assign(weight=1), "type", make_square=True)
    expected = pd.DataFrame(0, index=list("abc"), columns=list("abc"))
    expected.loc["a", "c"] = expected.loc["b", "a"] = 1
    assert np.array_equal(matrix.to_numpy(), expected.to_numpy())
