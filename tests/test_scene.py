"""The scene, rendered by a real Chromium."""

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import imageio.v3 as iio
import neuroglancer
import numpy as np
import pytest
import yaml
import zarr
from recipes import ROOT, run, run_refused, write

import synpol
from synpol.config import load_config
from synpol.errors import InputError
from synpol.images.groups import image_path
from synpol.images.image import open_image
from synpol.images.writing import create_image
from synpol.scene.annotations import write_annotations
from synpol.scene.browser import browser
from synpol.scene.links import position_link
from synpol.scene.server import scene_server, screenshot
from synpol.scene.state import Layers, scene_of
from synpol.synapses.segmentation import write_segmentation

pytestmark = pytest.mark.browser

OFFSET, SIZE, SHAPE = (300, 160, 320), (30, 16, 16), (12, 40, 60)
#: both sides of two synapses, voxels; the second one's probability is low
PRE, POST = (slice(3, 7), slice(8, 14), slice(10, 15)), (slice(3, 7), slice(8, 14), slice(15, 20))
LOW_PRE, LOW_POST = (
    (slice(3, 7), slice(24, 30), slice(40, 46)),
    (slice(3, 7), slice(30, 36), slice(40, 46)),
)


@pytest.fixture(scope="session")
def page():
    try:
        opened = browser()
        with opened as page:
            yield page
    except InputError as error:
        pytest.skip(f"{error} (make system-deps)")


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """A config whose result is there."""
    folder = tmp_path_factory.mktemp("scene")
    raw = np.full(SHAPE, 60, np.uint8)
    raw[:, 20:22] = 200
    polarity = np.zeros((3, *SHAPE), np.uint8)
    for pre, post, value in ((PRE, POST, 255), (LOW_PRE, LOW_POST, 140)):
        polarity[0][pre] = polarity[1][post] = value
        polarity[2][pre] = polarity[2][post] = value
    place = {"voxel_size": SIZE, "offset": OFFSET}
    write(folder / "data", "raw", raw, **place)
    write(folder / "result", "polarity", polarity, **place)
    synpol.decode_blockwise(
        folder / "result" / "polarity",
        folder / "result",
        block_shape=SHAPE,
        thres_small=10,
        synapses=folder / "result" / "synapses.parquet",
    )
    truth = zarr.open_array(folder / "result" / "instances" / "s0", mode="r")[:]
    write(folder / "data", "truth", truth, **place)
    path = folder / "config.yaml"
    config = {
        "run_dir": str(folder / "run"),
        "predict": {"raw": f"{folder}/data/raw", "output": f"{folder}/result"},
        "evaluate": {"truth": f"{folder}/data/truth"},
        "view": {"port": 0},
    }
    path.write_text(yaml.safe_dump(config))
    return path


def served(config, names=None, port=0):
    """The scene of a config, with these layers alone, each voxel ten pixels wide."""
    layers, output = Layers.of(config), Path(config.predict.output)
    high = np.array(OFFSET) + np.array(SIZE) * SHAPE
    write_annotations(output / "lines", output / "synapses.parquet", OFFSET, high)
    folders = {name: Path(image_path(image)) for name, (image, _) in layers.images().items()}
    folders["synapses"] = output / "lines"

    def state_of(addresses):
        state = scene_of(layers, config, addresses, (0.5, 1.0))
        for layer in state.layers:
            layer.visible = names is None or layer.name.partition(":")[0] in names
        state.layout = "xy"
        state.cross_section_scale = 0.1
        state.position = [20 + 30, 10 + 22, 10 + 5]  # voxels of the world
        state.show_axis_lines = state.show_scale_bar = state.show_default_annotations = False
        return state

    return scene_server(folders, state_of, port=port)


def drawn(page, scene):
    """The scene as RGB, 600 x 400 pixels: voxel (y, x) is around pixel 10 * (y - 2), 10 * x."""
    viewer, address = scene
    page.get(address)
    return iio.imread(io.BytesIO(screenshot(viewer, (600, 400), 60)))[..., :3].astype(int)


def middle(mask):
    return np.argwhere(mask).mean(axis=0) + 0.5


def magenta(image):
    red, green, blue = np.moveaxis(image, -1, 0)
    return (red - green > 80) & (blue - green > 60)


def cyan(image):
    red, green, blue = np.moveaxis(image, -1, 0)
    return (green - red > 60) & (blue - red > 80)


def check_sides(image):
    """Refuse a picture in which the first synapse is not where its voxels are."""
    for mask, (_, y, x) in ((magenta(image), PRE), (cyan(image), POST)):
        mask[:, 300:] = False  # where the other one is
        expected = 5 * (y.start + y.stop) - 20, 5 * (x.start + x.stop)
        assert np.abs(middle(mask) - expected).max() < 1.5
        assert mask.sum() == pytest.approx(100 * 6 * 5, rel=0.1)


def test_sides_and_lines_are_where_the_voxels_are(page, result):
    config = load_config([str(result)])
    with served(config, ["prediction"]) as scene:
        image = drawn(page, scene)
    check_sides(image)
    with served(config, ["synapses"]) as scene:
        image = drawn(page, scene)
    for mask, sides in ((magenta(image), (PRE, LOW_PRE)), (cyan(image), (POST, LOW_POST))):
        for side in sides:  # a marker at the centroid of each side
            y, x = (5 * (s.start + s.stop) for s in side[1:])
            near = np.zeros_like(mask)
            near[int(y) - 30 : int(y) - 10, int(x) - 10 : int(x) + 10] = True
            assert np.abs(middle(mask & near) - [y - 20, x]).max() < 1.5
    between = image[90, 150], image[280, 430]  # half-way of each line
    assert between[0][1] > 150 > between[0][0]  # a high score is green
    assert between[1][0] > 150 > between[1][1]  # a low one red


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("together", [True, False])
def test_both_sides_are_drawn_however_channels_are_chunked(
    page, result, tmp_path, exclusive, together
):
    config = load_config([str(result)])
    folder = Path(config.predict.output)
    polarity = zarr.open_array(folder / "polarity" / "s0", mode="r")[:]
    if exclusive:  # background, pre, post
        polarity = np.stack([255 - polarity[2], polarity[0], polarity[1]])
        polarity[0, :, :2] = 0  # never predicted: all channels are 0, and nothing is drawn
    image = create_image(
        tmp_path,
        "polarity",
        shape=polarity.shape,
        dtype=np.uint8,
        voxel_size=SIZE,
        offset=OFFSET,
        unit="nm",
        chunk_shape=(3 if together else 1, 6, 20, 30),
        shard_shape=(3, *SHAPE),
    )
    image.array[:] = polarity
    for name in ("instances", "synapses.parquet"):
        (tmp_path / name).symlink_to(folder / name)
    given = [str(result), f"predict.output={tmp_path}", f"exclusive={str(exclusive).lower()}"]
    with served(load_config(given), ["prediction"]) as scene:
        image = drawn(page, scene)
    check_sides(image)


def test_nothing_is_fetched_from_elsewhere(page, result, tmp_path):
    with (
        browser(flags=[f"--log-net-log={tmp_path}/net.json"]) as own,
        served(load_config([str(result)])) as scene,
    ):
        drawn(own, scene)
        address = scene[1].partition("/open/")[0]
    about = [e.get("params", {}) for e in json.loads((tmp_path / "net.json").read_text())["events"]]
    # what Chromium itself asks for has no page that it comes from (and reaches nothing)
    urls = {a["url"] for a in about if a.get("initiator", "not an origin") != "not an origin"}
    for part in ("/synapses/", "/prediction/s0/", "/instances/", "/image/"):
        assert any(part in url for url in urls)
    assert {url for url in urls if not url.startswith(address)} == set()


def test_an_array_without_ome_metadata_lies_at_its_offset_too(page, result, tmp_path):
    config = load_config([str(result)])
    with served(config, ["image"]) as scene:
        expected = drawn(page, scene)
    for zarr_format in (2, 3):
        array = zarr.create_array(
            tmp_path / str(zarr_format) / "bare",
            data=zarr.open_array(config.predict.raw + "/s0", mode="r")[:],
            chunks=(5, 20, 20),
            zarr_format=zarr_format,
        )
        array.attrs.update({"voxel_size": SIZE, "offset": OFFSET, "units": ["nm"] * 3})
        given = [str(result), f"predict.raw={tmp_path}/{zarr_format}/bare"]
        with served(load_config(given), ["image"]) as scene:
            assert np.array_equal(drawn(page, scene), expected)


def test_the_command_takes_a_picture_of_the_whole_scene(result, page, capsys):
    picture = result.parent / "scene.png"
    assert run("view", result, "--screenshot", picture) == 0
    image = iio.imread(picture)[..., :3].astype(int)
    assert image.shape[:2] == (900, 1200)
    assert magenta(image).sum() > 300
    assert cyan(image).sum() > 300
    assert (result.parent / "result" / "synapses.annotations" / "info").is_file()


def test_a_link_from_the_report_leads_browsers_to_its_place_that_have_opened_the_scene(
    page, result
):
    config = load_config([str(result)])
    with served(config) as (viewer, opening):
        port = int(opening.split(":")[2].split("/")[0])
        page.get(opening)
        page.get(position_link(port, (450, 400, 800)))
        assert page.current_url == viewer.get_viewer_url()
        assert np.allclose(viewer.state.position, [800 / 16, 400 / 16, 450 / 30])
        token = viewer.token
        [kept] = page.execute_cdp_cmd("Network.getAllCookies", {})["cookies"]
        assert token not in kept["value"]
        cookie = {"Cookie": f"synpol_scene={kept['value']}"}
        for path, headers, code in (
            ("/at?z=1&y=1&x=1", {}, 403),
            ("/at?z=1&y=1&x=1", {"Cookie": "synpol_scene=guessed"}, 403),
            ("/at?z=1&y=1&x=1", {"Cookie": f"synpol_scene={token}"}, 403),
            ("/at?z=1&y=1&x=1", {"Cookie": "synpol_scene=\xe9"}, 403),
            ("/at?z=one&y=1&x=1", cookie, 400),
            ("/at?z=nan&y=1&x=1", cookie, 400),
            ("/data/guessed/image/zarr.json", {}, 404),
            ("/data//image/zarr.json", {}, 404),
            (f"/data/{token}/image/../config.yaml", {}, 403),
            (f"/data/{token}/image/%00", {}, 404),
            (f"/data/{token}/image/{'a' * 300}", {}, 404),
        ):
            request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
            with pytest.raises(urllib.error.HTTPError, match=str(code)):
                urllib.request.urlopen(request)
        found = urllib.request.urlopen(f"http://127.0.0.1:{port}/data/{token}/image/zarr.json")
        assert json.load(found)["attributes"]["ome"]["version"] == "0.5"
        assert found.headers["Cache-Control"] == "no-store"
        assert np.allclose(viewer.state.position, [800 / 16, 400 / 16, 450 / 30])


def ome_image(folder, data, scale, unit, translation=None):
    """An image as others write it: no attributes on the array."""
    group = zarr.open_group(folder, mode="w", zarr_format=3)
    group.create_array("0", data=data, chunks=(5, 20, 20))
    transforms = [{"type": "scale", "scale": scale}]
    if translation:
        transforms.append({"type": "translation", "translation": translation})
    axes = [{"name": a, "type": "space", "unit": unit} for a in "zyx"]
    datasets = [{"path": "0", "coordinateTransformations": transforms}]
    group.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [{"axes": axes, "datasets": datasets}],
    }


def test_images_of_others_lie_where_they_are_taken_to_be(page, result, tmp_path):
    config = load_config([str(result)])
    with served(config, ["image"]) as scene:
        expected = drawn(page, scene)
    raw = zarr.open_array(config.predict.raw + "/s0", mode="r")[:]
    before = np.zeros((22, 50, 80), np.uint8)  # the same voxels, counted from the world's origin
    before[10:, 10:, 20:] = raw
    ome_image(tmp_path / "a", before, [30, 16, 16], "nanometer")
    ome_image(tmp_path / "b", raw, [0.03, 0.016, 0.016], "micrometer", [0.315, 0.168, 0.328])
    for name in "ab":
        with served(
            load_config([str(result), f"predict.raw={tmp_path}/{name}"]), ["image"]
        ) as scene:
            image = drawn(page, scene)
        bright, wanted = image[..., 0] > 200, expected[..., 0] > 200
        assert wanted.sum() == 20 * 600
        assert np.array_equal(bright, wanted)


def test_what_was_written_anew_is_drawn_anew(page, result, tmp_path):
    port = 0
    values = []
    for value in (60, 240):
        write(
            tmp_path / str(value),
            "raw",
            np.full(SHAPE, value, np.uint8),
            voxel_size=SIZE,
            offset=OFFSET,
        )
        (tmp_path / "raw").unlink(missing_ok=True)
        (tmp_path / "raw").symlink_to(tmp_path / str(value) / "raw")
        old = time.time() - 3 * 86400  # what has not changed for long is kept for long
        for path in (tmp_path / str(value)).rglob("*"):
            os.utime(path, (old, old))
        config = load_config([str(result), f"predict.raw={tmp_path}/raw"])
        with served(config, ["image"], port) as scene:
            port = int(scene[1].split(":")[2].split("/")[0])
            with scene[0].txn() as state:
                state.layers[
                    "image"
                ].shader = "void main() { emitGrayscale(toNormalized(getDataValue())); }"
            values.append(int(drawn(page, scene)[200, 300, 0]))
    assert values == [60, 240]


def test_a_selected_neuron_shows_its_synapses_alone(page, result, tmp_path):
    config = load_config([str(result)])
    neurons = np.full(SHAPE, 7, np.uint64)
    neurons[:, 20:] = 9  # of the second synapse
    write(tmp_path, "neurons", neurons, voxel_size=SIZE, offset=OFFSET)
    given = [str(result), f"connect.segmentation={tmp_path}/neurons"]
    assert run("connect", *given) == 0
    config = load_config(given)
    partners = Path(config.predict.output) / "partners.parquet"
    with served(config, ["synapses", "neurons"]) as (viewer, address):
        high = np.array(OFFSET) + np.array(SIZE) * SHAPE
        table = partners.with_name("synapses.parquet")
        write_annotations(partners.with_name("lines"), table, OFFSET, high, partners)
        with viewer.txn() as state:
            state.layers["neurons"].selected_alpha = 0
            state.layers["neurons"].visible = True
        found = []
        for selected in ([], [9], [7]):
            with viewer.txn() as state:
                state.layers["neurons"].segments = selected
            image = drawn(page, (viewer, address))
            found.append((bool(magenta(image[:, :300]).any()), bool(magenta(image[:, 300:]).any())))
    partners.unlink()
    assert found == [(True, True), (False, True), (True, False)]


def test_a_port_that_is_taken_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(InputError, match=rf"cannot be served at 127.0.0.1:{port}"),
            scene_server({}, lambda addresses: None, port=port),
        ):
            pass


def test_the_command_prints_a_link_and_serves_until_it_is_interrupted(result):
    command = [sys.executable, str(ROOT / "pipelines" / "view.py"), str(result), "--link"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = next(text for text in process.stdout if text.startswith("http://127.0.0.1:"))
        opening = urllib.request.urlopen(line.strip()).read().decode()
        way = re.search(r'const way = "(.*)"', opening)[1]
        scene = urllib.request.urlopen(urllib.parse.urljoin(line, way)).read().decode()
        assert "neuroglancer" in scene and "synpol_scene" not in scene
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


def test_what_is_missing_is_named(result, tmp_path, capsys):
    said = run_refused(capsys, "view", result, f"predict.output={tmp_path}/none")
    assert "there is no Zarr array or group at" in said
    said = run_refused(capsys, "view", result, "--levels", "neurons")
    assert "--levels neurons: the config names no neurons" in said
    said = run_refused(capsys, "view", result, "--screenshot", tmp_path)
    assert "is a folder; a file to write is expected" in said


def test_neuroglancer_shows_instances_that_were_written_for_it(page, tmp_path):
    labels = np.zeros(SHAPE, np.uint64)
    labels[PRE], labels[POST] = 2**40 + 1, 2
    write(tmp_path, "instances", labels, voxel_size=SIZE, offset=OFFSET)
    place = tmp_path / "segmentation"
    write_segmentation(open_image(tmp_path / "instances"), str(place), work_dir=tmp_path / "work")

    def state_of(addresses):
        state = neuroglancer.ViewerState()
        state.dimensions = neuroglancer.CoordinateSpace(
            names=["x", "y", "z"], units="nm", scales=SIZE[::-1]
        )
        state.layers["instances"] = neuroglancer.SegmentationLayer(
            source=f"precomputed://{addresses['segmentation']}",
            segments=[2**40 + 1, 2],
            segment_colors={2**40 + 1: "#ff00ff", 2: "#00ffff"},
            selected_alpha=1,
        )
        state.layout = "xy"
        state.cross_section_scale = 0.1
        state.position = [20 + 30, 10 + 22, 10 + 5]
        state.show_axis_lines = state.show_scale_bar = state.show_default_annotations = False
        return state

    with scene_server({"segmentation": place}, state_of, port=0) as scene:
        check_sides(drawn(page, scene))
