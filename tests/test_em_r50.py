"""The EM-R50 data set, from a server that breaks off in the middle to OME-Zarr."""

from __future__ import annotations

import hashlib
import http.server
import io
import threading
import zipfile

import h5py
import numpy as np
import pytest
import yaml
from recipes import run, run_refused

from synpol.datasets.em_r50 import download, record_digest, unpack
from synpol.errors import InputError
from synpol.images.image import open_image


def hdf5(array, key="main"):
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.create_dataset(key, data=array)
    return content.getvalue()


def volume(seed):
    rng = np.random.default_rng(seed)
    labels = np.zeros((4, 12, 14), np.uint16)
    labels[1:3, 2:5, 2:5], labels[1:3, 2:5, 5:8] = 1, 2
    labels[:2, 8:11, 2:5], labels[:2, 8:11, 5:8] = 3, 4
    return rng.integers(0, 255, labels.shape).astype(np.uint8), labels


def archive(volumes=("vol2", "vol3", "vol4"), odd_one=None):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for number, name in enumerate(volumes):
            raw, labels = volume(number)
            if name == odd_one:
                labels[labels > 0] = labels[labels > 0] * 2 - 1
            file.writestr(f"jwr15_synapse/{name}/im_Yx2.h5", hdf5(raw))
            file.writestr(f"jwr15_synapse/{name}/syn_Yx2.h5", hdf5(labels))
    return content.getvalue()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves one file with ranges, and closes the connection early as often as it is told to."""

    def do_GET(self):
        content, server = self.server.content, self.server
        server.requests.append(self.headers.get("Range"))
        if self.path != "/dataset/jwr15_synapse.zip":
            self.send_error(404)
            return
        begin = 0
        if (wanted := self.headers.get("Range")) and server.ranges:
            begin = int(wanted.removeprefix("bytes=").rstrip("-"))
            if begin >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        rest = content[begin:]
        if server.breaks > 0:
            server.breaks -= 1
            rest = rest[: len(rest) // 2]
        self.wfile.write(rest)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.content, running.breaks, running.ranges, running.requests = archive(), 0, True, []
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    running.url = f"http://127.0.0.1:{running.server_port}/dataset/jwr15_synapse.zip"
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def config(tmp_path, server, **options):
    given = {"archive": server.url, "output": str(tmp_path / "em"), "voxel_size": [30, 8, 8]}
    content = {"run_dir": str(tmp_path / "run"), "prepare": {"em_r50": given | options}}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_from_a_broken_download_to_volumes(tmp_path, server, capsys):
    server.breaks = 2
    assert run("prepare_em_r50", config(tmp_path, server)) == 0
    assert server.requests[0] is None
    assert all(r.startswith("bytes=") for r in server.requests[1:])
    digest = hashlib.sha256(server.content).hexdigest()
    told = capsys.readouterr().out
    assert f"SHA-256 {digest}" in told
    assert "vol3/raw/s0: 4 x 12 x 14 voxels of 30 x 8 x 8 nm, uint8" in told
    kept = (tmp_path / "em" / "jwr15_synapse.zip.sha256").read_text()
    assert kept == f"{digest}  jwr15_synapse.zip\n"
    for number, name in enumerate(("vol2", "vol3", "vol4")):
        raw, labels = volume(number)
        assert np.array_equal(open_image(tmp_path / "em" / name / "raw").array[:], raw)
        assert np.array_equal(open_image(tmp_path / "em" / name / "truth").array[:], labels)
    requests = len(server.requests)
    assert run("prepare_em_r50", config(tmp_path, server)) == 0  # nothing is fetched again
    assert len(server.requests) == requests


def test_a_download_that_was_interrupted_goes_on_in_another_run(tmp_path, server):
    part = tmp_path / "a.zip.part"
    part.write_bytes(server.content[:1000])
    download(server.url, tmp_path / "a.zip")
    assert server.requests == ["bytes=1000-"]
    assert (tmp_path / "a.zip").read_bytes() == server.content
    assert not part.exists()


def test_a_server_without_ranges_starts_over(tmp_path, server):
    server.ranges = False
    (tmp_path / "a.zip.part").write_bytes(b"something else")
    download(server.url, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == server.content


def test_what_is_not_there_is_said_with_directions(tmp_path, server, capsys):
    missing = server.url.replace("jwr15", "jwr16")
    message = run_refused(capsys, "prepare_em_r50", config(tmp_path, server, archive=missing))
    assert "404" in message
    assert "prepare.em_r50.archive=PATH" in message
    gone = config(tmp_path, server, archive=str(tmp_path / "no.zip"))
    assert "there is no such file" in run_refused(capsys, "prepare_em_r50", gone)


def test_the_voxel_size_has_to_be_confirmed(tmp_path, server, capsys):
    message = run_refused(capsys, "prepare_em_r50", config(tmp_path, server, voxel_size=None))
    assert "im_Yx2.h5 has (4, 12, 14) voxels" in message
    assert "prepare.em_r50.voxel_size=[30,8,8]" in message


def test_another_layout_is_refused_with_what_is_there(tmp_path, server, capsys):
    server.content = archive(("vol2", "vol5"))
    message = run_refused(capsys, "prepare_em_r50", config(tmp_path, server))
    assert "0 files vol3/im_Yx2.h5" in message
    assert "jwr15_synapse/vol5/im_Yx2.h5" in message
    chosen = config(tmp_path, server, volumes=["vol2", "vol5"])
    assert run("prepare_em_r50", chosen) == 0


def test_labels_without_pairs_are_refused(tmp_path, server, capsys):
    server.content = archive(odd_one="vol3")
    message = run_refused(capsys, "prepare_em_r50", config(tmp_path, server))
    assert "vol3/syn_Yx2.h5" in message


@pytest.mark.parametrize("name", ["../evil.h5", "/tmp/evil.h5", "a/../../evil.h5"])
def test_no_path_leaves_the_folder(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(zipfile.ZipInfo(name), b"x")
    with pytest.raises(InputError, match="would be written outside its folder"):
        unpack(tmp_path / "a.zip", tmp_path / "there" / "unpacked")
    assert not list(tmp_path.rglob("evil.h5"))


def test_a_damaged_archive_is_refused(tmp_path, server):
    (tmp_path / "a.zip").write_bytes(server.content[:-200])
    with pytest.raises(InputError, match="no readable ZIP file"):
        unpack(tmp_path / "a.zip", tmp_path / "unpacked")
    assert not (tmp_path / "unpacked").exists()


def test_a_digest_that_was_damaged_is_written_anew_and_one_of_other_content_is_refused(tmp_path):
    archived, kept = tmp_path / "a.zip", tmp_path / "a.zip.sha256"
    archived.write_bytes(b"content")
    digest = record_digest(archived)
    for damaged in ("", digest[:30], "\0" * 80):
        kept.write_text(damaged)
        assert record_digest(archived) == digest
        assert kept.read_text() == f"{digest}  a.zip\n"
    archived.write_bytes(b"other")
    with pytest.raises(InputError, match="has changed"):
        record_digest(archived)
