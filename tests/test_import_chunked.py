"""Chunked formats that are imported: Zarr, precomputed, N5, local and at a URL."""

import json

import numpy as np
import pytest
import tensorstore
import zarr
from importing import LABELS, RAW, made_of, same

from synpol.config import ImageSource, ImportVolume
from synpol.datasets.import_volume import import_volume
from synpol.errors import InputError
from synpol.images.image import open_image

SIZE = (40.0, 8.0, 4.0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.data"  # the ending does not matter


@pytest.fixture
def output(tmp_path):
    """Where an import is to write."""
    return tmp_path / "data" / "raw"


def refused(source, pattern, **more):
    """Import what has to be refused; the message names the file and matches."""
    with pytest.raises(InputError, match=pattern) as caught:
        made_of(source, **{"voxel_size": SIZE, **more})
    assert source.name in str(caught.value)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr_is_imported_with_the_size_that_it_says(zarr_format, path):
    array = zarr.create_array(path, data=RAW, chunks=(8, 8, 8), zarr_format=zarr_format)
    with pytest.raises(InputError, match="does not say its voxel size"):
        made_of(path)
    same(made_of(path, voxel_size=SIZE), RAW, SIZE)
    array.attrs.update({"voxel_size": [40, 8, 4], "offset": [400, 80, 12]})
    same(made_of(path), RAW, SIZE, (400, 80, 12))
    refused(path, "40 x 4 x 4 nm .* says 40 x 8 x 4 nm", voxel_size=(40, 4, 4))


def test_an_array_inside_a_group_is_found_by_its_key(path):
    group = zarr.open_group(path, mode="w")
    group.create_array("volumes/raw", data=RAW)
    same(made_of(path, voxel_size=SIZE, key="volumes/raw"), RAW)


def test_zarr_axes_are_obeyed_and_its_channels_and_times_chosen(path):
    both = np.stack([RAW, 255 - RAW])
    for name, key in (("c", "channel"), ("t", "time")):
        names = ["x", name, "y", "z"]
        source = path.with_name(name)
        zarr.create_array(source, data=both.transpose(3, 0, 2, 1), dimension_names=names)
        refused(source, f"2 {key}s.*`{key}: 0`")
        same(made_of(source, voxel_size=SIZE, **{key: 1}), 255 - RAW, SIZE)


def test_zarr_predictions_become_polarity(path):
    values = np.stack([RAW, 255 - RAW, RAW])
    zarr.create_array(path, data=values)
    refused(path, "channel")
    same(made_of(path, voxel_size=SIZE, kind="polarity"), values)


def test_zarr_at_a_url_is_imported(path, output):
    url = f"memory://{path.parent.name}/source"
    zarr.create_array(url, data=RAW, attributes={"voxel_size": [40, 8, 4]})
    same(import_volume(ImportVolume(source=url, output=str(output))), RAW, SIZE)


def test_zarr_rewritten_in_place_is_imported_again(path):
    array = zarr.create_array(path, data=RAW, chunks=(8, 8, 8))
    made_of(path, voxel_size=SIZE)
    array[:] = 255 - RAW
    same(made_of(path, voxel_size=SIZE), 255 - RAW)


def test_a_precomputed_segmentation_is_imported(path):
    write_precomputed(path, LABELS)
    same(made_of(path, kind="labels"), LABELS, SIZE)


def write_precomputed(path, values):
    tensorstore.open(
        {
            "driver": "neuroglancer_precomputed",
            "kvstore": {"driver": "file", "path": f"{path}/"},
            "multiscale_metadata": {
                "type": "segmentation",
                "data_type": "uint64",
                "num_channels": 1,
            },
            "scale_metadata": {
                "resolution": SIZE[::-1],
                "size": values.shape[::-1],
                "encoding": "raw",
                "chunk_size": [16, 16, 8],
            },
        },
        create=True,
        open=True,
    ).result()[..., 0].write(values.T).result()


def write_n5(path, values, codec="gzip", **attributes):
    tensorstore.open(
        {
            "driver": "n5",
            "kvstore": {"driver": "file", "path": f"{path}/"},
            "metadata": {
                "dimensions": values.shape[::-1],
                "blockSize": [16, 16, 8][: values.ndim] + [1] * (values.ndim - 3),
                "dataType": str(values.dtype),
                "compression": {"type": codec},
            },
        },
        create=True,
        delete_existing=True,
    ).result().write(values.T).result()
    about = json.loads((path / "attributes.json").read_text())
    (path / "attributes.json").write_text(json.dumps(about | attributes))


@pytest.mark.parametrize(
    "attributes",
    [
        {"pixelResolution": {"dimensions": [0.004, 0.008, 0.04], "unit": "um"}},
        {"resolution": [4, 8, 40]},
        {
            "transform": {
                "axes": ["z", "y", "x"],
                "scale": [40, 8, 4],
                "translate": [20, 4, 2],
                "units": ["nm"] * 3,
            }
        },
    ],
    ids=lambda a: next(iter(a)),
)
@pytest.mark.parametrize("codec", ["gzip", "raw", "zstd", "bzip2"])
def test_n5_values_and_sizes_are_read(codec, attributes, path):
    write_n5(path, RAW, codec, **attributes)
    same(made_of(path), RAW, SIZE, (0, 0, 0))


def test_an_n5_container_lists_its_datasets(path):
    write_n5(path / "volumes" / "raw", RAW)
    (path / "attributes.json").write_text('{"n5": "2.5.1"}')
    refused(path, "no N5 dataset: say which one with `key`.*volumes/raw")
    same(made_of(path, voxel_size=SIZE, key="volumes/raw"), RAW)


def test_n5_labels_stay_exact_and_channels_are_chosen(path):
    write_n5(path, LABELS)
    same(made_of(path, voxel_size=SIZE, kind="labels"), LABELS)
    write_n5(path, np.stack([RAW, 255 - RAW]), axes=["x", "y", "z", "c"])
    refused(path, "2 channels")
    same(made_of(path, voxel_size=SIZE, channel=1), 255 - RAW)


def test_label_multisets_of_paintera_are_refused(path):
    write_n5(path, RAW, isLabelMultiset=True)
    refused(path, "label multiset of Paintera; export")


# ---------------------------------------------------------------- KNOSSOS and WEBKNOSSOS


def write_knossos(path, values, size=SIZE):
    folder = path / "mag1"
    folder.mkdir(parents=True)
    lines = ['experiment name "tiny";', "magnification 1;"]
    for axis, length, step in zip("zyx", values.shape, size, strict=True):
        lines += [f"boundary {axis} {length};", f"scale {axis} {step};"]
    (folder / "knossos.conf").write_text("\n".join(lines))
    padded = np.pad(values, [(0, -n % 128) for n in values.shape])
    for z, y, x in np.ndindex(*(n // 128 for n in padded.shape)):
        cube = folder / f"x{x:04d}" / f"y{y:04d}" / f"z{z:04d}"
        cube.mkdir(parents=True)
        at = tuple(slice(i * 128, i * 128 + 128) for i in (z, y, x))
        padded[at].tofile(cube / f"tiny_mag1_x{x:04d}_y{y:04d}_z{z:04d}.raw")


def test_knossos_cubes_are_read_and_a_missing_one_refused(path):
    values = np.random.default_rng(0).integers(0, 256, (130, 140, 260), np.uint8)
    write_knossos(path, values)
    same(made_of(path), values, SIZE)
    cube = "x0001/y0001/z0000/tiny_mag1_x0001_y0001_z0000.raw"
    (path / "mag1" / cube).unlink()
    refused(path, f"{cube} is missing.*`fill_missing")
    values[:128, 128:, 128:256] = 0
    same(made_of(path, fill_missing=True), values)


def test_webknossos_layers_are_read_with_their_axes_and_scale(path):
    array = path / "color" / "1"
    zarr.create_array(array, data=RAW.T[None], chunks=(1, 8, 8, 8))
    mag = {"mag": [1, 1, 1], "axisOrder": {"c": 0, "x": 1, "y": 2, "z": 3}, "path": "color/1"}
    layer = {"name": "color", "dataFormat": "zarr3", "mags": [mag]}
    scale = {"factor": list(SIZE[::-1]), "unit": "nanometer"}
    about = {"dataLayers": [layer], "scale": scale}
    (path / "datasource-properties.json").write_text(json.dumps(about))
    same(made_of(path), RAW, SIZE)
    about["dataLayers"].append({**layer, "name": "old", "dataFormat": "wkw"})
    (path / "datasource-properties.json").write_text(json.dumps(about))
    refused(path, "say which layer .*color, old")
    refused(path, "stored as wkw; convert it", key="old")


@pytest.mark.parametrize("moved", [None, [0, 0, 0], [10, 20, 30]])
def test_a_place_without_a_voxel_size_is_the_same_in_place_and_imported(moved, path, output):
    group = zarr.open_group(path, mode="w")
    group.create_array("s0", data=RAW, chunks=(8, 8, 8))
    transforms = [{"type": "scale", "scale": [1, 1, 1]}]
    if moved is not None:
        transforms.append({"type": "translation", "translation": moved})
    axes = [{"name": name, "type": "space"} for name in "zyx"]
    dataset = {"path": "s0", "coordinateTransformations": transforms}
    group.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [{"axes": axes, "datasets": [dataset]}],
    }
    in_place = open_image(ImageSource(path=str(path), voxel_size=SIZE))
    expected = [0, 0, 0] if moved is None else np.subtract(moved, np.divide(SIZE, 2))
    np.testing.assert_array_equal(in_place.offset_nm, expected)
    made = import_volume(ImportVolume(source=str(path), output=str(output), voxel_size=SIZE))
    np.testing.assert_array_equal(made.offset_nm, expected)
    assert made.place_of(in_place, "the source") == (0, 0, 0)
    for offset in ([0, 0, 0], [7, 8, 9]):  # what the config says counts, if it can be meant
        if moved == [10, 20, 30]:
            refused(path, "offset", offset=offset)
        else:
            same(made_of(path, voxel_size=SIZE, offset=offset), RAW, SIZE, offset)
