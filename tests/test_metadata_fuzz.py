"""Damaged metadata: an image opens as its metadata say, or is refused by the name of its file."""

import copy
import json
import random
import shutil

import numpy as np
import pytest
import zarr

from synpol.errors import InputError
from synpol.images.image import check_readable, open_image
from synpol.images.writing import create_image

SIZE, SHAPE = (40, 4, 6), (4, 6, 5)
VALUES = np.arange(np.prod(SHAPE), dtype=np.uint16).reshape(SHAPE)
#: what a key may become
OTHERS = [
    None,
    "",
    "x",
    "nanometer",
    True,
    -1,
    0,
    3,
    0.5,
    1e300,
    float("nan"),
    2**70,
    [],
    [[]],
    {},
    [1, 2],
    ["z", "y"],
    {"name": "x"},
    [None, None, None],
]
#: keys that say what an image is: where one of these is changed, another image may be meant
MEANT = {
    "scale",
    "translation",
    "unit",
    "units",
    "name",
    "axes",
    "axis_names",
    "dimension_names",
    "coordinateTransformations",
    "coordinateSystems",
    "transformations",
    "output",
    "type",
    "datasets",
    "path",
    "voxel_size",
    "offset",
    "attributes",
    "shape",
    "chunk_shape",
    "chunk_grid",
    "configuration",
    "chunks",
    "data_type",
    "dtype",
    "codecs",
    "endian",
    "filters",
    "compressor",
    "fill_value",
    "order",
    "chunk_key_encoding",
    "separator",
    "dimension_separator",
}


def transforms(version):
    steps = [
        {"type": "scale", "scale": [40.0, 4.0, 6.0]},
        {"type": "translation", "translation": [20.0, 2.0, 3.0]},
    ]
    if version == "0.6":
        return [{"type": "sequence", "output": {"name": "world"}, "transformations": steps}]
    return steps


def with_ome(folder, version):
    group = zarr.open_group(folder, mode="w", zarr_format=2 if version == "0.4" else 3)
    group.create_array("0", data=VALUES, chunks=(2, 3, 5))
    axes = [{"name": a, "type": "space", "unit": "nanometer"} for a in "zyx"]
    image = {"datasets": [{"path": "0", "coordinateTransformations": transforms(version)}]}
    image |= {"coordinateSystems": [{"name": "world", "axes": axes}]} if version == "0.6" else {}
    image |= {} if version == "0.6" else {"axes": axes}
    if version == "0.4":
        group.attrs["multiscales"] = [image | {"version": version}]
    else:
        group.attrs["ome"] = {"version": version, "multiscales": [image]}


def with_attributes(folder, zarr_format):
    array = zarr.create_array(
        folder, shape=SHAPE, chunks=(2, 3, 5), dtype=VALUES.dtype, zarr_format=zarr_format
    )
    array[:] = VALUES
    about = {"voxel_size": list(SIZE), "offset": [0, 0, 0], "units": ["nm"] * 3}
    array.attrs.update(about | {"axis_names": ["z", "y", "x"]})


def by_synpol(folder):
    image = create_image(
        folder.parent,
        folder.name,
        shape=SHAPE,
        dtype=VALUES.dtype,
        voxel_size=SIZE,
        offset=(0, 0, 0),
        unit="nm",
        chunk_shape=(2, 3, 5),
    )
    image.array[:] = VALUES


WRITERS = {
    "ome04": lambda folder: with_ome(folder, "0.4"),
    "ome05": lambda folder: with_ome(folder, "0.5"),
    "ome06": lambda folder: with_ome(folder, "0.6"),
    "funlib_v2": lambda folder: with_attributes(folder, 2),
    "funlib_v3": lambda folder: with_attributes(folder, 3),
    "synpol": by_synpol,
}


def places(node, path=()):
    """Every place in a JSON document."""
    yield path
    if isinstance(node, dict | list):
        for key in node if isinstance(node, dict) else range(len(node)):
            yield from places(node[key], (*path, key))


def changed(document, rng):
    """A copy with one place changed, and that place."""
    document = copy.deepcopy(document)
    *parents, last = rng.choice([p for p in places(document) if p])
    node = document
    for key in parents:
        node = node[key]
    kind = rng.choice(["replace", "replace", "delete", "double", "turn"])
    if kind == "delete":
        del node[last]
    elif kind == "double" and isinstance(node, list):
        node.append(copy.deepcopy(node[last]))
    elif kind == "turn" and isinstance(node, list):
        node.reverse()
    else:
        node[last] = copy.deepcopy(rng.choice(OTHERS))
    return document, (*parents, last)


def damage(folder, rng):
    """Change a metadata file of a folder at one place; returns the place, None for broken JSON."""
    names = ("zarr.json", ".zarray", ".zattrs")
    files = [p for p in sorted(folder.rglob("*")) if p.name in names and len(p.read_bytes()) > 3]
    file = rng.choice(files)
    if rng.random() < 0.1:
        content = file.read_bytes()
        cut = rng.randrange(len(content))
        file.write_bytes(content[:cut] + rng.choice([b"", b"\xff", b"}"]))
        return None
    document, place = changed(json.loads(file.read_text()), rng)
    file.write_text(json.dumps(document))
    return place


def outcome(folder):
    try:
        image = open_image(folder, channels=0)
        check_readable(image)
    except InputError as error:
        assert str(folder) in str(error), error
        assert len(str(error)) > len(str(folder)) + 20
        return None
    values = image.array[: SHAPE[0], : SHAPE[1], : SHAPE[2]] if max(image.shape_vx) < 99 else None
    return values, image.voxel_size_nm, image.offset_nm


def check(tmp_path, writer, seed):
    folder = tmp_path / "image"
    shutil.rmtree(folder, ignore_errors=True)
    WRITERS[writer](folder)
    place = damage(folder, random.Random(f"{writer} {seed}"))
    found = outcome(folder)
    if found is None:
        return False
    values, size, offset = found
    assert size != (1, 1, 1)
    same = values is not None and np.array_equal(values, VALUES)
    same = same and (size, offset) == (SIZE, (0, 0, 0))
    assert same or (place is not None and MEANT & set(place)), place
    return True


@pytest.mark.parametrize("writer", WRITERS)
def test_damaged_metadata_are_read_or_refused(tmp_path, writer):
    opened = [check(tmp_path, writer, seed) for seed in range(40)]
    assert 0 < sum(opened) < len(opened)


@pytest.mark.slow
@pytest.mark.parametrize("writer", WRITERS)
def test_damaged_metadata_are_read_or_refused_many_times(tmp_path, writer):
    for seed in range(40, 1000):
        check(tmp_path, writer, seed)
