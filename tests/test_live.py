"""The live scene: what one looks at without a run has the bytes of a run."""

from __future__ import annotations

import http.client
import io
import logging
import shutil
import socket
import threading
import time
import urllib.parse
from concurrent.futures import CancelledError

import imageio.v3 as iio
import neuroglancer
import numpy as np
import psutil
import pytest
import torch
from recipes import run, run_refused, tiny_config, tiny_volume, write
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By

from synpol.blockwise.stage import blocks_of
from synpol.config import load_config
from synpol.decoding.reference import polarity2instance
from synpol.errors import InputError
from synpol.images.appearance import Appearance
from synpol.images.image import open_image
from synpol.model import build_model
from synpol.model.device import has_vnni
from synpol.model.trained import find_checkpoint
from synpol.polarity import Channels
from synpol.prediction.live import RememberedWindows
from synpol.prediction.newest import NewestFirst
from synpol.prediction.roi import VoxelRoi
from synpol.scene.browser import browser
from synpol.scene.live import REGION, LiveScene, drawn_roi, region_text
from synpol.scene.server import BODY, scene_server, screenshot
from synpol.scene.state import Layers, scene_of
from synpol.training.checkpoint import checkpoint_path, save_checkpoint

SHAPE = (5, 27, 34)  # no multiple of any block
PRECISE = {"train__precision": "float32", "predict__block_shape": [4, 16, 16]}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny volume and a checkpoint of a network that learned nothing."""
    folder = tmp_path_factory.mktemp("live")
    tiny_volume(folder / "data", SHAPE)
    config = load_config([str(tiny_config(folder, **PRECISE))])
    torch.manual_seed(0)
    state = {
        "iteration": 1,
        "config": config.model_dump(mode="json"),
        "learned_from": [Appearance.of(open_image(folder / "data" / "raw"), None).kept()],
        "model": build_model(config.model).state_dict(),
        "ema": None,
    }
    save_checkpoint(checkpoint_path(config.run_dir, 1), state)
    return folder


def served(config, folder):
    """Serve a live scene; gives the scene and a function that asks for a path of a layer."""
    scene = LiveScene(config, find_checkpoint(config), folder)
    addresses, folders = scene.layers.places(None)
    return scene, scene_server(
        folders,
        lambda found: scene.state({**addresses, **found}),
        port=0,
        pages=scene.pages,
        chunks=scene.chunks(),
    )


def ask(url, timeout=60, method="GET", body=None):
    """Return status and body of an address."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)
    try:
        connection.request(method, parts.path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def address_of(viewer, title):
    """URL of the array of a layer."""
    [layer] = [one for one in viewer.state.layers if one.name == title]
    return layer.layer.source[0].url.partition("|")[0]


def fetched(viewer, title, blocks, channel, folder):
    """An array as a browser gets it: metadata and chunks over HTTP, put together by zarr."""
    url = address_of(viewer, title)
    paths = ["zarr.json", "s0/zarr.json"]
    paths += [f"s0/c/{channel}{z}/{y}/{x}" for z, y, x in blocks_of(blocks.grid)]
    for path in paths:
        status, body = ask(url + path)
        assert status == 200, path
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(body)
    return open_image(folder)


def result_of(folder, config, *changes):
    """Run the prediction, and return its array."""
    shutil.rmtree(folder / "result", ignore_errors=True)
    shutil.rmtree(folder / "result.work", ignore_errors=True)
    assert run("predict_blockwise", config, *changes, "--only", "predict") == 0
    return open_image(folder / "result" / "polarity", channels=Channels.count)


WAYS = [
    [],
    ["predict.overlap=0.25", "predict.blending=crop", "predict.batch_size=3"],
    ["predict.mask=MASK"],
    ["predict.raw=OTHER", "predict.resample=true"],
    ["predict.raw=GAPS", "predict.flip_axes=[[x]]"],
    ["predict.engine=torch", "predict.overlap=0.25", "predict.batch_size=3"],
    *[["predict.int8=true", "predict.flip_axes=[[y], [x, z]]"]] * has_vnni(),
]
NAMES = ["plain", "crop", "mask", "resampled", "missing", "torch", "int8"]


@pytest.mark.parametrize("changes", WAYS, ids=NAMES[: len(WAYS)])
def test_served_chunks_have_the_bytes_of_a_run(trained, tmp_path, changes):
    raw = open_image(trained / "data" / "raw").array[:]
    if "predict.mask=MASK" in changes:
        mask = np.zeros((3, 4, 5), np.uint8)
        mask[:2, 1:3, 2:4] = 1
        write(tmp_path, "mask", mask, voxel_size=(60, 128, 128))
    write(tmp_path, "other", raw, voxel_size=(30, 20, 12), offset=(60, 40, 36))
    gaps = (raw / 255).astype(np.float32)
    gaps[2:4, 10:20, 10:30] = np.nan
    write(tmp_path, "gaps", gaps)
    names = {"MASK": "mask", "OTHER": "other", "GAPS": "gaps"}
    for name, path in names.items():
        changes = [c.replace(name, f"{tmp_path}/{path}") for c in changes]
    if "gaps" in str(changes):
        changes.append("predict.intensity_range=[0,1]")
    config = tiny_config(trained, **PRECISE)
    expected = result_of(trained, config, *changes)
    scene, server = served(load_config([str(config), *changes]), tmp_path / "live")
    with server as (viewer, _):
        found = fetched(viewer, "prediction (live)", scene.blocks, "0/", tmp_path / "fetched")
        scene.close()
    assert max(scene.blocks.grid) > 2
    assert expected.array[:].any()
    assert np.array_equal(found.array[:], expected.array[:])
    assert (found.voxel_size_nm, found.offset_nm) == (expected.voxel_size_nm, expected.offset_nm)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run_dir=/nowhere"], "there is no checkpoint in /nowhere/checkpoints"),
        (["predict.raw=null"], "predict.raw"),
        (["predict.checkpoint=/no/such.pt"], "/no/such.pt"),
        (["predict.roi={offset: [0, 0, 0], shape: [30, 16, 16000]}"], "reaches beyond"),
        (["--prepare"], "leave out --prepare"),
        (["--levels", "image"], "leave out --prepare"),
        (["--screenshot", "."], "is a folder"),
        (["predict.overlap=1"], "predict.overlap"),
    ],
)
def test_what_cannot_be_shown_is_refused(trained, capsys, arguments, said):
    config = tiny_config(trained, **PRECISE)
    assert said in run_refused(capsys, "view", "--live", config, *arguments)


def test_a_taken_port_is_said(trained, capsys):
    config = tiny_config(trained, **PRECISE)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ports = ["view.port=0", f"view.live_port={port}"]
        assert "view.live_port" in run_refused(capsys, "view", "--live", config, *ports)


# ---------------------------------------------------------------- one scene, many requests


@pytest.fixture(scope="module")
def live(trained, tmp_path_factory):
    """A live scene of the tiny volume; gives scene, viewer and the address that opens it."""
    config = load_config([str(tiny_config(trained, **PRECISE, decode__thres=0.45))])
    scene, server = served(config, tmp_path_factory.mktemp("served"))
    with server as (viewer, address):
        yield scene, viewer, address
        scene.close()


def test_provisional_instances_are_those_of_their_block_and_share_no_number(live, tmp_path):
    scene, viewer, _ = live
    prediction = fetched(viewer, "prediction (live)", scene.blocks, "0/", tmp_path / "a").array[:]
    instances = fetched(viewer, "instances (provisional)", scene.blocks, "", tmp_path / "b")
    options = scene.config.decode
    seen: set[int] = set()
    for index in blocks_of(scene.blocks.grid):
        where = scene.blocks.slices(index)
        expected = polarity2instance(
            prediction[(slice(None), *where)],
            thres=options.thres,
            thres_small=options.thres_small,
            dilate_sz=options.dilate_sz,
        )
        found = instances.array[where]
        assert np.array_equal(found > 0, expected > 0)
        assert np.array_equal(found[found > 0] % 2, expected[expected > 0] % 2)
        pairs = {(int(a), int(b)) for a, b in zip(found.flat, expected.flat, strict=True) if a}
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
        assert not seen & {a for a, _ in pairs}
        seen |= {a for a, _ in pairs}
    assert len(seen) > 2


@pytest.mark.parametrize(
    "path",
    [
        "s0/c/0/3/0/0",
        "s0/c/1/0/0/0",
        "s0/c/0/0/0",
        "s0/c/0/0/0/0/0",
        "s0/c/0/-1/0/0",
        "s0/c/0/00/0/0",
        "s0/c/0/0/0/",
        "s0/c/0/0/0/%C2%B2",
        "s0/c/0/0/0/9999999999999999999",
        "s0/c/",
        "s0/c",
        "s0/d/0/0/0/0",
        "../config.yaml",
    ],
)
def test_an_address_without_a_chunk_is_not_found(live, path):
    scene, viewer, _ = live
    assert ask(address_of(viewer, "prediction (live)") + path)[0] in (403, 404)
    assert scene.queue.waiting == 0


def test_strangers_get_no_chunk_from_either_port(live):
    _, viewer, opening = live
    url = address_of(viewer, "prediction (live)")
    assert urllib.parse.urlsplit(url).port != urllib.parse.urlsplit(opening).port
    assert ask(url + "s0/c/0/0/0/0")[0] == 200
    for address in (url, opening.replace("/open/", "/data/") + "/prediction/"):
        stranger = address.replace(viewer.token, "0" * 32)
        assert ask(stranger + "s0/c/0/0/0/0")[0] == 404
        assert ask(stranger + "zarr.json")[0] == 404
    assert ask(opening.replace("/open/", "/region/").replace(viewer.token, "guessed"))[0] == 404


def test_the_live_port_listens_on_this_machine_alone(live):
    _, viewer, _ = live
    parts = urllib.parse.urlsplit(address_of(viewer, "prediction (live)"))
    own = psutil.Process().net_connections("inet")
    listening = [one.laddr for one in own if one.status == "LISTEN"]
    assert [ip for ip, port in listening if port == parts.port] == ["127.0.0.1"]


def test_a_stranger_sends_little_to_the_live_port_and_no_log_holds_the_secret(live, caplog):
    _, viewer, _ = live
    url = address_of(viewer, "prediction (live)")
    parts = urllib.parse.urlsplit(url)
    other = f"http://{parts.netloc}"
    with caplog.at_level(logging.DEBUG):
        for path in ("/data/guessed/prediction/s0/c/0/0/0/0", "/action/guessed", "/at", "/"):
            try:  # the server refuses it by its head, and may close before all of it is sent
                status = ask(other + path, method="POST", body=b"x" * (BODY + 1))[0]
            except OSError:
                status = 400
            assert status in (400, 413), path
        for path in ("s0/c/0/0/0/0", "s0/c/9/9/9/9", "zarr.json", "s0/%00", "../x"):
            ask(url + path)
        for method in ("POST", "PUT", "DELETE"):
            assert ask(url + "zarr.json", method=method, body=b"x")[0] == 405
        ask(f"{other}/state/{viewer.token}", method="POST", body=b"no json")
    assert any("POST /state/" in record.getMessage() for record in caplog.records)
    assert viewer.token not in caplog.text


def test_only_a_get_of_a_chunk_computes_and_it_computes_that_block_alone(live, monkeypatch):
    scene, viewer, _ = live
    asked = []

    def compute(index):
        asked.append(index)
        return np.zeros((Channels.count, *scene.blocks.shape_of(index)), np.uint8)

    queue = NewestFirst(compute, 2**20)
    monkeypatch.setattr(scene, "queue", queue)
    for title, channel in (("prediction (live)", "0/"), ("instances (provisional)", "")):
        url = address_of(viewer, title)
        for path in ("zarr.json", "s0/zarr.json"):
            assert ask(url + path)[0] == 200
        chunk = f"{url}s0/c/{channel}0/1/0"
        assert ask(chunk, method="HEAD")[0] == 404
        assert ask(chunk, method="POST", body=b"")[0] == 405
        assert ask(chunk.replace(viewer.token, "0" * 32))[0] == 404
        assert not asked
    for title, channel in (("instances (provisional)", ""), ("prediction (live)", "0/")):
        assert ask(f"{address_of(viewer, title)}s0/c/{channel}0/1/0")[0] == 200
    queue.close()
    assert asked == [(0, 1, 0)]  # kept for the second layer


def test_many_browsers_at_once_get_the_same_bytes(live):
    scene, viewer, _ = live
    url = address_of(viewer, "prediction (live)")
    paths = [f"{url}s0/c/0/{z}/{y}/{x}" for z, y, x in blocks_of(scene.blocks.grid)][:12]
    expected = {path: ask(path) for path in paths}
    found = []

    def browse(order):
        found.extend((path, ask(path)) for path in order)

    threads = [threading.Thread(target=browse, args=(paths[n:] + paths[:n],)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 72
    assert all(answer == expected[path] for path, answer in found)


# ---------------------------------------------------------------- who is served first


class Slow:
    """Computes a key only when it is let; notes the order."""

    def __init__(self):
        self.order, self.go, self.begun = [], threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, key):
        self.order.append(key)
        self.begun.release()
        assert self.go.acquire(timeout=30)
        if key == "bad":
            raise InputError("it cannot be read")
        return np.full(10, key, np.uint8)


def test_the_newest_request_is_computed_first_and_what_was_given_up_never():
    slow = Slow()
    queue = NewestFirst(slow, 1000)
    first = queue.ask(0)
    assert slow.begun.acquire(timeout=30)
    futures = {key: queue.ask(key) for key in (1, 2, 3, 4)}
    again = queue.ask(2)
    assert queue.waiting == 5
    assert futures[3].cancel()
    assert not first.cancel()  # it is computed already
    slow.go.release(10)
    assert [int(f.result(30)[0]) for f in (first, futures[1], futures[2], futures[4], again)] == [
        *(0, 1, 2, 4, 2)
    ]
    assert slow.order == [0, 2, 4, 1]
    assert queue.ask(4).result(30)[0] == 4
    assert slow.order == [0, 2, 4, 1]
    queue.close()
    assert queue.ask(7).cancelled()


def test_no_more_bytes_are_kept_than_allowed_and_the_oldest_go_first():
    slow = Slow()
    slow.go.release(100)
    queue = NewestFirst(slow, 25)
    for key in (1, 2, 1, 3, 1, 2):
        assert queue.ask(key).result(30)[0] == key
    assert slow.order == [1, 2, 3, 2]
    assert queue.kept_bytes == 20
    queue.close()


def test_an_error_goes_to_the_one_who_asked_and_the_thread_goes_on():
    slow = Slow()
    slow.go.release(100)
    queue = NewestFirst(slow, 25)
    with pytest.raises(InputError, match="cannot be read"):
        queue.ask("bad").result(30)
    assert queue.ask(1).result(30)[0] == 1
    queue.close()


def test_requests_that_wait_when_the_scene_ends_are_cancelled():
    slow = Slow()
    queue = NewestFirst(slow, 1000)
    first, second = queue.ask(1), None
    assert slow.begun.acquire(timeout=30)
    second = queue.ask(2)
    ending = threading.Thread(target=queue.close)
    ending.start()
    with pytest.raises(CancelledError):
        second.result(30)
    slow.go.release()
    ending.join(30)
    assert first.result(30)[0] == 1
    assert slow.order == [1]


def test_a_chunk_is_not_computed_when_its_browser_has_gone(live, monkeypatch):
    scene, viewer, _ = live
    slow = Slow()
    queue = NewestFirst(lambda index: slow(index[2]), 1000)
    monkeypatch.setattr(scene, "queue", queue)
    parts = urllib.parse.urlsplit(address_of(viewer, "prediction (live)"))
    sockets = []
    for x in range(3):
        sockets.append(socket.create_connection((parts.hostname, parts.port)))
        sockets[x].sendall(f"GET {parts.path}s0/c/0/0/0/{x} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        until(lambda x=x: queue.waiting == x and slow.order == [0])
    sockets[2].close()
    until(lambda: queue.waiting == 1)
    slow.go.release(10)
    until(lambda: queue.waiting == 0)
    queue.close()
    assert slow.order == [0, 1]
    for one in sockets[:2]:
        one.close()


def until(condition):
    """Wait until something is so."""
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it never was so")


# ---------------------------------------------------------------- windows


def test_windows_are_computed_once_and_a_lone_one_as_several_are():
    sizes = []

    def network(windows):
        sizes.append(len(windows))
        return torch.cat([windows] * 3, dim=1) * (1 if len(windows) > 1 else 2)

    windows = torch.arange(5.0).reshape(5, 1, 1, 1, 1)
    remembered = RememberedWindows(network, 4 * 12)  # four windows of 12 bytes
    for chosen in ([0, 1], [0, 1], [1, 2], [2, 2], [3, 4], [0, 1]):
        found = remembered(windows[chosen])
        assert torch.equal(found, torch.cat([windows[chosen]] * 3, dim=1))
    assert sizes == [2, 2, 2, 2]
    assert remembered(windows[[2]])[0, 0] == 4  # where one is given, one is computed


# ---------------------------------------------------------------- a box becomes predict.roi


def box(state, a, b):
    state.layers[REGION].layer.annotations.append(
        neuroglancer.AxisAlignedBoundingBoxAnnotation(id=str(a), point_a=a, point_b=b)
    )


@pytest.mark.parametrize(
    ("a", "b", "begin", "shape"),
    [
        ([10.3, 5, 2.5], [20.7, 9, 4.5], (2, 5, 10), (3, 4, 11)),
        ([20.7, 9, 4.5], [10.3, 5, 2.5], (2, 5, 10), (3, 4, 11)),
        ([10, 5, 2], [10, 9, 2], (2, 5, 10), (1, 4, 1)),  # flat boxes get a voxel
        ([-40, -3, -1], [90, 90, 90], (0, 0, 0), SHAPE),
    ],
)
@pytest.mark.parametrize("place", [{}, {"voxel_size": (46, 40, 40), "unit": "angstrom"}])
def test_a_box_becomes_a_region_of_whole_voxels(live, tmp_path, a, b, begin, shape, place):
    scene, _, _ = live
    offset = (0, 0, 0)
    if place:
        offset = (460, 80, -400)
        write(tmp_path, "raw", np.zeros(SHAPE, np.uint8), offset=offset, **place)
    source = open_image(tmp_path / "raw") if place else scene.source
    state = scene.state({"image": "a", "prediction": "b", "instances": "c", "truth": "d"})
    state.dimensions = neuroglancer.CoordinateSpace(
        names="xyz", units="nm", scales=source.voxel_size_nm[::-1]
    )
    state.layers[REGION] = neuroglancer.LocalAnnotationLayer(state.dimensions)
    first = np.array(source.offset_nm)[::-1] / source.voxel_size_nm[::-1]
    box(state, [1, 1, 1], [2, 2, 2])
    box(state, a + first, b + first)
    found = VoxelRoi.of(source, drawn_roi(state, source))
    assert (found.offset, found.shape) == (begin, shape)


def test_a_box_beside_the_image_and_none_are_said(live):
    scene, viewer, _ = live
    state = viewer.state
    state = neuroglancer.ViewerState(state.to_json())
    assert "there is no box" in region_text(state, scene.source)
    box(state, [60, 0, 0], [70, 5, 5])
    assert "beside the image along x" in region_text(state, scene.source)


def test_the_page_says_a_config_that_predicts_the_box(live, tmp_path, trained):
    scene, viewer, opening = live
    before = viewer.state
    with viewer.txn() as state:
        box(state, [8, 4, 1], [30, 24, 5])
    status, text = ask(opening.replace("/open/", "/region/"))
    viewer.set_state(before)
    assert status == 200
    path = tmp_path / "roi.yaml"
    path.write_bytes(text)
    config = load_config([str(tiny_config(trained, **PRECISE)), str(path)])
    found = VoxelRoi.of(scene.source, config.predict.roi)
    assert (found.offset, found.shape) == ((1, 4, 8), (4, 20, 22))
    again = LiveScene(config, find_checkpoint(config), tmp_path / "again")
    again.close()
    state = again.state({"image": "a", "prediction": "b", "instances": "c", "truth": "d"})
    assert drawn_roi(state, scene.source) == config.predict.roi


# ---------------------------------------------------------------- a real Chromium


@pytest.fixture(scope="module")
def page():
    try:
        opened = browser()
        with opened as page:
            yield page
    except InputError as error:
        pytest.skip(f"{error} (make system-deps)")


@pytest.mark.slow
@pytest.mark.browser
def test_a_browser_draws_the_live_layer_as_that_of_a_run_and_a_box_becomes_a_region(
    page, trained, tmp_path
):
    path = tiny_config(trained, **PRECISE)
    config = load_config([str(path)])
    result_of(trained, path)
    scene, server = served(config, tmp_path)
    pictures = []

    def picture(viewer, address, shown):
        with viewer.txn() as state:
            for layer in state.layers:
                layer.visible = layer.name in (shown, REGION)
            state.selected_layer.visible = False
            state.cross_section_scale = 0.1
            state.show_axis_lines = state.show_scale_bar = False
            state.show_default_annotations = False
        page.get(address)
        return iio.imread(io.BytesIO(screenshot(viewer, (340, 270), 60)))

    with server as (viewer, address):
        pictures.append(picture(viewer, address, "prediction (live)"))
        panel = page.find_element(By.CSS_SELECTOR, ".neuroglancer-rendered-data-panel")
        for x, y in ((-60, -40), (50, 60)):
            mouse = ActionChains(page).move_to_element_with_offset(panel, x, y)
            mouse.key_down(Keys.CONTROL).click().key_up(Keys.CONTROL).perform()
        until(lambda: "shape" in region_text(viewer.state, scene.source))
        drawn = VoxelRoi.of(scene.source, drawn_roi(viewer.state, scene.source))
        state = neuroglancer.ViewerState(viewer.state.to_json())
        scene.close()
    assert drawn.shape == (2, 11, 12)  # neuroglancer makes a flat box a voxel thick
    layers = Layers.around(
        config, scene.source, open_image(trained / "result" / "polarity"), scene.layers.instances
    )
    folders = layers.places(None)[1]
    with scene_server(folders, lambda at: alike(scene_of(layers, config, at), state), port=0) as (
        viewer,
        address,
    ):
        pictures.append(picture(viewer, address, "prediction"))
    assert np.ptp(pictures[0][..., :3].astype(int), axis=-1).max() > 50
    assert np.array_equal(*pictures)


def alike(made, state):
    made.position, made.layout = state.position, state.layout
    return made
