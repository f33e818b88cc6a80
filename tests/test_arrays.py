"""Images on disk: what is written is where it should be, and what others wrote is understood."""

import json
import os
import re
import subprocess
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import zarr
from funlib.geometry import Coordinate, Roi
from hypothesis import given, settings

from synpol.errors import InputError
from synpol.files import is_url, join
from synpol.images.image import open_image
from synpol.images.world import NANOMETERS, whole_placement
from synpol.images.writing import check_writable, create_image

PLACE = {"voxel_size": (30, 16, 16), "offset": (60, -32, 8), "unit": "nm"}
NAMES = {"nm": "nanometer", "angstrom": "angstrom", "pm": "picometer"}


def make(container, name="raw", shape=(4, 6, 5), dtype=np.uint8, **more):
    more = PLACE | {"chunk_shape": [min(3, s) for s in shape]} | more
    return create_image(container, name, shape=shape, dtype=dtype, **more)


def ome(datasets, unit="nanometer", channels=False, outer=None, units=None):
    """Multiscales as others write them: (path, scale, translation or None) per resolution."""
    axes = [{"name": a, "type": "space"} for a in "zyx"]
    for axis, its_unit in zip(axes, units or [unit] * 3, strict=True):
        if its_unit:
            axis["unit"] = its_unit
    if channels:
        axes.insert(0, {"name": "c", "type": "channel"})
    listed = []
    for path, scale, translation in datasets:
        transforms = [{"type": "scale", "scale": [1.0] * channels + list(scale)}]
        if translation is not None:
            moved = [0.0] * channels + list(translation)
            transforms.append({"type": "translation", "translation": moved})
        listed.append({"path": path, "coordinateTransformations": transforms})
    made = {"name": "foreign", "axes": axes, "datasets": listed}
    if outer:
        made["coordinateTransformations"] = outer
    return made


def foreign(path, zarr_format, datasets, *, shape=(4, 6, 5), **more):
    """An OME-Zarr that synpol did not write: 0.4 in Zarr v2, 0.5 in Zarr v3."""
    multiscales = [ome(datasets, channels=len(shape) == 4, **more)]
    attributes = (
        {"multiscales": [multiscales[0] | {"version": "0.4"}]}
        if zarr_format == 2
        else {"ome": {"version": "0.5", "multiscales": multiscales}}
    )
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format, attributes=attributes)
    for name, *_ in datasets:
        array = group.create_array(name, shape=shape, chunks=shape, dtype=np.uint8)
        array[:] = np.arange(np.prod(shape)).reshape(shape)
    return path


def placement(image):
    return tuple(image.voxel_size), tuple(image.offset), image.unit


both_formats = pytest.mark.parametrize("zarr_format", [2, 3])


# ---------------------------------------------------------------- what synpol writes


@pytest.mark.parametrize("shape", [(4, 6, 5), (3, 4, 6, 5)])
@pytest.mark.parametrize("shards", [False, True])
def test_what_was_written_opens_by_its_group_and_by_its_array(tmp_path, shape, shards):
    shard = {"shard_shape": [6 if s > 3 else 3 for s in shape]} if shards else {}
    made = make(tmp_path / "a.zarr", shape=shape, dtype=np.uint64, **shard)
    data = np.random.default_rng(0).integers(0, 2**64, shape, dtype=np.uint64)
    assert not made.array[:].any()
    made.array[:] = data
    for path in (tmp_path / "a.zarr/raw", f"{tmp_path}/a.zarr/raw/", tmp_path / "a.zarr/raw/s0"):
        image = open_image(path)
        assert image.path == made.path == f"{tmp_path}/a.zarr/raw/s0"
        assert placement(image) == placement(made) == ((30, 16, 16), (60, -32, 8), "nm")
        assert np.array_equal(image.array[:], data)
        assert image.array.chunks == made.array.chunks == tuple(min(3, s) for s in shape)
        assert image.array.shards == (tuple(shard["shard_shape"]) if shards else None)


def test_an_image_is_read_only_unless_asked_otherwise(tmp_path):
    make(tmp_path)
    with pytest.raises(ValueError, match=r"read-only|read only"):
        open_image(tmp_path / "raw").array[:] = 1
    open_image(tmp_path / "raw", mode="r+").array[:] = 1
    assert (open_image(tmp_path / "raw").array[:] == 1).all()


@pytest.mark.parametrize("unit", NAMES)
@pytest.mark.parametrize("shape", [(4, 6, 5), (3, 4, 6, 5)])
def test_funlib_opens_the_array_in_the_same_place(tmp_path, unit, shape):
    from funlib.persistence import open_ds

    made = make(tmp_path, shape=shape, unit=unit, voxel_size=(46, 5, 7))
    found = open_ds(made.path)
    assert found.voxel_size == (46, 5, 7)
    assert found.offset == (60, -32, 8)
    assert found.roi == made.roi == Roi((60, -32, 8), (4 * 46, 6 * 5, 5 * 7))
    assert list(found.units) == [unit] * 3
    assert list(found.axis_names) == ["c^", "z", "y", "x"][4 - len(shape) :]
    assert found.shape == shape


places = st.fixed_dictionaries(
    {
        "voxel_size": st.tuples(*[st.integers(1, 10**5)] * 3),
        "offset": st.tuples(*[st.integers(-(10**8), 10**8)] * 3),
        "unit": st.sampled_from(list(NAMES)),
    }
)


@settings(max_examples=25)
@given(places, st.sampled_from([(2, 3, 4), (3, 2, 3, 4)]))
def test_the_metadata_is_ome_zarr_05_with_the_centre_of_the_first_voxel(tmp_path, place, shape):
    made = make(tmp_path, shape=shape, overwrite=True, **place)
    group = json.loads((tmp_path / "raw" / "zarr.json").read_text())
    assert (group["zarr_format"], group["node_type"]) == (3, "group")
    assert group["attributes"]["ome"]["version"] == "0.5"
    [image] = group["attributes"]["ome"]["multiscales"]
    space = [{"name": a, "type": "space", "unit": NAMES[place["unit"]]} for a in "zyx"]
    channel = [{"name": "c", "type": "channel"}] * (len(shape) == 4)
    assert image["name"] == "raw"
    assert image["axes"] == [*channel, *space]
    [dataset] = image["datasets"]
    scale, translation = dataset["coordinateTransformations"]
    corner, size = np.array(place["offset"]), np.array(place["voxel_size"])
    assert dataset["path"] == "s0"
    assert scale == {"type": "scale", "scale": [1.0] * len(channel) + size.tolist()}
    assert translation["type"] == "translation"
    assert translation["translation"] == [0.0] * len(channel) + (corner + size / 2).tolist()
    array = json.loads((tmp_path / "raw" / "s0" / "zarr.json").read_text())
    assert array["dimension_names"] == ["c", "z", "y", "x"][4 - len(shape) :]
    assert placement(made) == (place["voxel_size"], place["offset"], place["unit"])


@settings(max_examples=25)
@given(places)
def test_by_its_ome_metadata_alone_an_image_is_where_its_own_attributes_say(tmp_path, place):
    made = make(tmp_path, overwrite=True, **place)
    path = tmp_path / "raw" / "s0" / "zarr.json"
    array = json.loads(path.read_text())
    array["attributes"] = {}
    path.write_text(json.dumps(array))
    for which in (tmp_path / "raw", tmp_path / "raw" / "s0"):
        assert placement(open_image(which)) == placement(made)


def test_plain_zarr_finds_the_array_through_the_metadata(tmp_path):
    make(tmp_path / "a.zarr", "deep/raw").array[:] = 7
    group = zarr.open_group(tmp_path / "a.zarr" / "deep" / "raw", mode="r")
    found = group[group.attrs["ome"]["multiscales"][0]["datasets"][0]["path"]]
    assert (found[:] == 7).all()
    assert zarr.open_group(tmp_path / "a.zarr", mode="r").metadata.zarr_format == 3


def test_more_attributes_are_kept_with_the_array(tmp_path):
    made = make(tmp_path, attributes={"synpol": {"hash": "ab"}})
    assert open_image(made.path).array.attrs["synpol"] == {"hash": "ab"}
    assert open_image(made.path).array.attrs["voxel_size"] == [30, 16, 16]


def test_an_image_that_exists_is_refused_and_stays_as_it_is(tmp_path):
    make(tmp_path).array[:] = 3
    with pytest.raises(InputError, match=r"/raw exists already; remove it or give another path"):
        make(tmp_path)
    assert (open_image(tmp_path / "raw").array[:] == 3).all()
    with pytest.raises(InputError, match="exists already"):
        make(tmp_path / "raw" / "s0", "raw")
    make(tmp_path, overwrite=True)
    assert not open_image(tmp_path / "raw").array[:].any()


def test_an_image_that_an_interruption_left_half_made_is_made_by_the_next_run(
    tmp_path, monkeypatch
):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(zarr.Group, "create_array", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path)
    make(tmp_path)
    assert placement(open_image(tmp_path / "raw")) == ((30, 16, 16), (60, -32, 8), "nm")


@pytest.mark.parametrize("names", [["0"], ["s1"]])
def test_a_foreign_image_without_s0_is_not_taken_for_half_made(tmp_path, names):
    path = foreign(tmp_path / "raw", 3, [(name, (40, 4, 4), None) for name in ["s0", *names]])
    group = zarr.open_group(path)
    del group["s0"]
    before = sorted(path.rglob("*"))
    with pytest.raises(InputError, match="exists already"):
        make(tmp_path)
    assert sorted(path.rglob("*")) == before


def test_images_stand_side_by_side_in_a_container(tmp_path):
    make(tmp_path, "raw").array[:] = 1
    make(tmp_path, "truth").array[:] = 2
    assert (open_image(tmp_path / "raw").array[:] == 1).all()


def test_writing_into_a_v2_container_does_not_hide_what_is_in_it(tmp_path):
    container = foreign(tmp_path / "a.zarr", 2, [("0", (40, 4, 4), None)])
    with pytest.raises(InputError, match="v2"):
        make(container)
    assert placement(open_image(container)) == ((40, 4, 4), (0, 0, 0), "nm")


def test_an_image_lies_in_the_world(tmp_path):
    made = make(tmp_path, unit="angstrom")
    assert made.shape_vx == Coordinate(4, 6, 5)
    assert made.roi == Roi((60, -32, 8), (120, 96, 80))
    assert made.voxel_size_nm == (3, 1.6, 1.6)
    assert made.offset_nm == (6, -3.2, 0.8)
    inside = Roi((90, -16, 8), (60, 32, 16))
    assert made.voxels(inside) == (slice(1, 3), slice(1, 3), slice(0, 1))


# ---------------------------------------------------------------- what others wrote


@both_formats
@pytest.mark.parametrize(
    ("translation", "offset"),
    [(None, (0, 0, 0)), ((20, 2, 2), (0, 0, 0)), ((1020.0, -6.0, 4.0), (1000, -8, 2))],
)
def test_foreign_ome_zarr_opens_by_group_and_array(tmp_path, zarr_format, translation, offset):
    path = foreign(tmp_path / "a", zarr_format, [("0", (40, 4, 4), translation)])
    for which in (path, path / "0"):
        image = open_image(which, channels=0)
        assert placement(image) == ((40, 4, 4), offset, "nm")
        assert image.path == str(path / "0")
        assert image.array[1, 0, 2] == 32


@both_formats
@pytest.mark.parametrize(
    ("unit", "scale", "translation", "expected"),
    [
        ("micrometer", (0.04, 0.004, 0.004), (1.02, 0.002, 0.006), ((40, 4, 4), (1000, 0, 4))),
        ("angstrom", (300, 46, 46), None, ((300, 46, 46), (0, 0, 0), "angstrom")),
        ("picometer", (30000, 4625, 4625), None, ((30000, 4625, 4625), (0, 0, 0), "pm")),
        (None, (40, 4, 4), None, ((40, 4, 4), (0, 0, 0))),
    ],
)
def test_lengths_are_read_in_their_unit(tmp_path, zarr_format, unit, scale, translation, expected):
    path = foreign(tmp_path / "a", zarr_format, [("s0", scale, translation)], unit=unit)
    for which in (path, path / "s0"):
        assert placement(open_image(which)) == (*expected, "nm")[:3]


@both_formats
def test_axes_in_different_units_are_refused_rather_than_misread(tmp_path, zarr_format):
    path = foreign(
        tmp_path / "a",
        zarr_format,
        [("0", (1, 4, 4), None)],
        units=["micrometer", "nanometer", "nanometer"],
    )
    with pytest.raises(InputError, match="units"):
        open_image(path)
    array = zarr.create_array(
        tmp_path / "b", shape=(4, 6, 5), chunks=(4, 6, 5), dtype=np.uint8, zarr_format=zarr_format
    )
    array.attrs.update({"voxel_size": [1, 4, 4], "units": ["um", "nm", "nm"]})
    with pytest.raises(InputError, match="units"):
        open_image(tmp_path / "b")


@both_formats
def test_every_resolution_opens_by_its_own_scale_and_the_group_by_the_first(tmp_path, zarr_format):
    datasets = [("s0", (40, 4, 4), (20, 2, 2)), ("s1", (40, 8, 8), (20, 4, 4))]
    path = foreign(tmp_path / "a", zarr_format, datasets)
    assert placement(open_image(path)) == ((40, 4, 4), (0, 0, 0), "nm")
    assert placement(open_image(path / "s1")) == ((40, 8, 8), (0, 0, 0), "nm")


@both_formats
def test_a_transformation_of_the_whole_image_comes_after_that_of_its_dataset(tmp_path, zarr_format):
    outer = [
        {"type": "scale", "scale": [10.0, 2.0, 2.0]},
        {"type": "translation", "translation": [100.0, 0.0, -4.0]},
    ]
    path = foreign(tmp_path / "a", zarr_format, [("0", (4, 2, 2), (2, 1, 3))], outer=outer)
    for which in (path, path / "0"):
        assert placement(open_image(which)) == ((40, 4, 4), (100, 0, 0), "nm")


@both_formats
def test_channels_of_foreign_images_come_first(tmp_path, zarr_format):
    path = foreign(tmp_path / "a", zarr_format, [("0", (40, 4, 4), (20, 2, 6))], shape=(3, 4, 6, 5))
    image = open_image(path, channels=3)
    assert placement(image) == ((40, 4, 4), (0, 0, 4), "nm")
    assert image.shape_vx == (4, 6, 5)


@both_formats
@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"voxel_size": [40, 4, 4]}, ((40, 4, 4), (0, 0, 0), "nm")),
        ({"resolution": [40, 4, 4], "offset": [80, 0, -4]}, ((40, 4, 4), (80, 0, -4), "nm")),
        ({"voxel_size": [40.0, 4.0, 4.0], "units": ["nm"] * 3}, ((40, 4, 4), (0, 0, 0), "nm")),
        (
            {"voxel_size": [400, 46, 46], "offset": [0, 0, 46], "units": ["angstrom"] * 3},
            ((400, 46, 46), (0, 0, 46), "angstrom"),
        ),
        (
            {"voxel_size": [0.04, 0.004, 0.004], "offset": [1, 0, 0], "units": ["um"] * 3},
            ((40, 4, 4), (1000, 0, 0), "nm"),
        ),
    ],
)
def test_an_array_with_only_funlibs_attributes_is_read_by_them(
    tmp_path, zarr_format, attributes, expected
):
    array = zarr.create_array(
        tmp_path / "a", shape=(4, 6, 5), chunks=(4, 6, 5), dtype=np.uint8, zarr_format=zarr_format
    )
    array.attrs.update(attributes)
    assert placement(open_image(tmp_path / "a", channels=0)) == expected


def test_what_funlib_writes_opens(tmp_path):
    from funlib.persistence import prepare_ds

    prepare_ds(
        tmp_path / "a.zarr" / "raw",
        (3, 4, 6, 5),
        offset=(80, 4, -4),
        voxel_size=(40, 4, 4),
        axis_names=["c^", "z", "y", "x"],
        units=["nm", "nm", "nm"],
        dtype=np.uint8,
    )
    image = open_image(tmp_path / "a.zarr" / "raw", channels=3)
    assert placement(image) == ((40, 4, 4), (80, 4, -4), "nm")


# ---------------------------------------------------------------- what cannot be read


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("a.zarr/rawr", r"no Zarr array or group at .*/rawr .*a.zarr exists; did you mean 'raw'\?"),
        ("a.zarr/zzz", r"there is: raw, zarr.json"),
        ("b.zarr/raw", r"did you mean 'a.zarr'\?"),
        ("a.zarr/raw/s1", r"a.zarr/raw exists; there is: s0, zarr.json"),
        ("a.zarr/raw/zarr.json/s0", r"zarr.json is a file"),
    ],
)
def test_a_missing_path_names_what_is_near(tmp_path, missing, words):
    make(tmp_path / "a.zarr")
    with pytest.raises(InputError, match=words):
        open_image(tmp_path / missing)


def test_a_missing_relative_path_names_what_is_near(tmp_path, monkeypatch):
    make(tmp_path / "a.zarr")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"at b.zarr/raw .*did you mean 'a.zarr'\?"):
        open_image("b.zarr/raw")


@pytest.mark.parametrize("what", ["folder", "file.tif"])
def test_something_that_is_not_zarr_is_not_recommended_instead_of_itself(tmp_path, what):
    if what == "folder":
        make(tmp_path / what / "brain")
    else:
        (tmp_path / what).write_bytes(b"II*\0")
    with pytest.raises(InputError, match=what) as failure:
        open_image(tmp_path / what)
    assert f"did you mean {what!r}" not in str(failure.value)
    assert ("brain" in str(failure.value)) == (what == "folder")


def test_broken_metadata_is_named(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "zarr.json").write_text("{")
    with pytest.raises(InputError, match="/a cannot be opened as Zarr"):
        open_image(tmp_path / "a")


def test_a_group_that_is_no_image_lists_its_members(tmp_path):
    make(tmp_path / "a.zarr", "raw")
    make(tmp_path / "a.zarr", "truth")
    with pytest.raises(InputError, match=r"without OME multiscales.*inside it: raw, truth"):
        open_image(tmp_path / "a.zarr")
    zarr.open_group(tmp_path / "empty.zarr", mode="w")
    with pytest.raises(InputError, match=r"without OME multiscales metadata; .* inside it$"):
        open_image(tmp_path / "empty.zarr")


@both_formats
def test_an_image_whose_array_is_missing_says_so(tmp_path, zarr_format):
    path = foreign(tmp_path / "a", zarr_format, [("s0", (40, 4, 4), None)])
    (path / "s0").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="'s0' is missing"):
        open_image(path)


@both_formats
def test_without_a_voxel_size_nothing_is_guessed(tmp_path, zarr_format):
    group = zarr.open_group(tmp_path / "a", mode="w", zarr_format=zarr_format)
    group.create_array("raw", shape=(4, 6, 5), chunks=(4, 6, 5), dtype=np.uint8)
    with pytest.raises(InputError, match=r"/raw says nothing about its voxel size.*`voxel_size`"):
        open_image(tmp_path / "a" / "raw")


def test_the_message_about_a_missing_voxel_size_names_the_command_that_imports(tmp_path):
    zarr.create_array(tmp_path / "a", shape=(4, 6, 5), chunks=(4, 6, 5), dtype=np.uint8)
    with pytest.raises(InputError) as failure:
        open_image(tmp_path / "a")
    [command] = re.findall(r"pipelines/\w+\.py", str(failure.value))
    assert (Path(__file__).resolve().parents[1] / command).is_file()


@both_formats
def test_a_size_that_is_not_whole_is_read_in_a_finer_unit(tmp_path, zarr_format):
    path = foreign(tmp_path / "a", zarr_format, [("s0", (30, 4.6, 4.6), None)])
    for which in (path, path / "s0"):
        assert placement(open_image(which)) == ((300, 46, 46), (0, 0, 0), "angstrom")
    alone = zarr.create_array(
        tmp_path / "b", shape=(4, 6, 5), chunks=(4, 6, 5), dtype=np.uint8, zarr_format=zarr_format
    )
    alone.attrs.update({"voxel_size": [30, 46, 46.25], "units": ["angstrom"] * 3})
    found = placement(open_image(tmp_path / "b"))
    assert found == ((3000, 4600, 4625), (0, 0, 0), "pm")


def test_an_offset_that_is_not_whole_is_read_in_a_finer_unit(tmp_path):
    path = foreign(tmp_path / "a", 3, [("s0", (40, 4, 4), (20.0, 2.00005, 2.0))])
    image = open_image(path)
    assert (image.unit, image.offset_nm) == ("fm", (0, 0.00005, 0))
    assert image.voxel_size_nm == (40, 4, 4)


def test_half_a_voxel_that_is_whole_only_in_a_finer_unit_is_read_in_that(tmp_path):
    path = foreign(tmp_path / "a", 3, [("s0", (45, 4, 4), (0.0, 0.0, 0.0))])
    image = open_image(path)
    assert (image.unit, tuple(image.voxel_size)) == ("angstrom", (450, 40, 40))
    assert image.offset_nm == (-22.5, -2, -2)


@pytest.mark.parametrize("size", [[0, 4, 4], [40, -4, 4], [40, 4]])
def test_a_size_that_is_no_size_is_refused(tmp_path, size):
    array = zarr.create_array(tmp_path / "a", shape=(4, 6, 5), chunks=(4, 6, 5), dtype=np.uint8)
    array.attrs["voxel_size"] = size
    with pytest.raises(InputError, match=r"voxel_size of .*(above zero|three numbers)"):
        open_image(tmp_path / "a")


@pytest.mark.parametrize(
    ("shape", "channels", "expected"),
    [
        ((4, 6, 5), 3, r"\(4, 6, 5\); \(3, z, y, x\) is expected"),
        ((3, 4, 6, 5), 0, r"\(3, 4, 6, 5\); \(z, y, x\) is expected"),
        ((2, 4, 6, 5), 3, r"\(2, 4, 6, 5\); \(3, z, y, x\) is expected"),
    ],
)
def test_other_channels_than_expected_are_refused(tmp_path, shape, channels, expected):
    make(tmp_path, shape=shape)
    with pytest.raises(InputError, match=f"/raw/s0 has the shape {expected}"):
        open_image(tmp_path / "raw", channels=channels)
    assert open_image(tmp_path / "raw").array.shape == shape


@pytest.mark.parametrize("shape", [(6,), (6, 5), (2, 3, 4, 6, 5)])
def test_arrays_of_other_dimensions_are_refused(tmp_path, shape):
    array = zarr.create_array(tmp_path / "a", shape=shape, chunks=shape, dtype=np.uint8)
    array.attrs["voxel_size"] = [40, 4, 4]
    with pytest.raises(
        InputError, match=r"has the shape \(.*\); \(z, y, x\) or \(channel, z, y, x\)"
    ):
        open_image(tmp_path / "a")


# ---------------------------------------------------------------- world units


@given(
    st.tuples(*[st.integers(1, 10**6)] * 3),
    st.tuples(*[st.integers(-(10**6), 10**6)] * 3),
    st.sampled_from([("nm", 1), ("angstrom", 1), ("pm", 1), ("um", 1000), ("micrometer", 1000)]),
)
def test_whole_sizes_stay_what_they_are_however_they_are_written(sizes, offset, unit):
    name, factor = unit
    size, corner = ([v / factor for v in values] for values in (sizes, offset))
    found = whole_placement(size, corner, name.upper(), "a")
    assert (found.voxel_size, found.offset) == (sizes, offset)
    assert found.unit == found.said_unit == ("nm" if factor > 1 else name)


@given(st.integers(1, 10**6), st.integers(1, 9))
def test_sizes_that_are_not_whole_are_never_rounded(whole, tenth):
    found = whole_placement([1, 1, whole + tenth / 10], [0, 0, 0], "nm", "a")
    assert (found.unit, found.voxel_size[2]) == ("angstrom", 10 * whole + tenth)


@given(
    st.tuples(*[st.floats(0.001, 1e4)] * 3),
    st.tuples(*[st.floats(-1e6, 1e6)] * 3),
    st.sampled_from([("nm", 1.0), ("µm", 1e3), ("Ångström", 0.1), ("millimetres", 1e6)]),
)
def test_what_is_never_whole_is_off_by_half_a_femtometre_at_most(size, offset, unit):
    name, factor = unit
    size, offset = ([v / factor for v in values] for values in (size, offset))
    found = whole_placement(size, offset, name, "a")
    for values, whole in ((size, found.voxel_size), (offset, found.offset)):
        for value, here in zip(values, whole, strict=True):
            rounding = max(0.5e-6, 1e-6 * NANOMETERS[found.unit], 1e-6 * abs(value * factor))
            assert abs(value * factor - here * NANOMETERS[found.unit]) <= rounding


@pytest.mark.parametrize(
    "name",
    [
        "m",
        "cm",
        "mm",
        "millimeter",
        "Micrometer",
        "um",
        "µm",
        "\u03bcm",
        "micron",
        "nanometers",
        "å",
    ],
)
def test_units_that_files_name_are_understood(name):
    powers = {"m": 9, "cm": 7, "mm": 6, "millimeter": 6, "nanometers": 0, "å": -1}
    size = [40 / 10.0 ** powers.get(name, 3), 4 / 10.0 ** powers.get(name, 3)]
    found = whole_placement([*size, size[1]], [0, 0, 0], name, "a")
    in_nm = [v * NANOMETERS[found.unit] for v in found.voxel_size]
    assert in_nm == [40, 4, 4]


def test_an_unknown_unit_names_the_known_ones():
    with pytest.raises(InputError, match=r"of a: unknown unit 'angstroem'; did you mean 'ang"):
        whole_placement([1, 1, 1], [0, 0, 0], "angstroem", "a")
    with pytest.raises(InputError, match=r"unknown unit 'furlong'; there is: angstrom, cm, fm"):
        whole_placement([1, 1, 1], [0, 0, 0], "furlong", "a")


@pytest.mark.parametrize(
    ("size", "offset", "words"),
    [
        ((1e-7, 4, 4), (0, 0, 0), "below 1 fm"),
        ((1e30, 4, 4), (0, 0, 0), "no microscope"),
        ((40, 4, 4), (0, 1e30, 0), "no microscope"),
        ((40, float("nan"), 4), (0, 0, 0), "three finite numbers"),
        ((40, 4, 4), (0, "0", 0), "three finite numbers"),
    ],
)
def test_numbers_that_cannot_be_meant_are_refused(size, offset, words):
    with pytest.raises(InputError, match=words):
        whole_placement(size, offset, "nm", "a")


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"shape": (4, 6, 6)}, r"shape \(z, y, x\) \(4, 6, 6\) voxels, but .* \(4, 6, 5\) voxels"),
        ({"voxel_size": (30, 16, 8)}, r"voxel size \(30, 16, 8\) nm, but .* \(30, 16, 16\) nm"),
        ({"offset": (0, 0, 0)}, r"offset \(0, 0, 0\) nm, but .* has \(60, -32, 8\) nm"),
        ({"unit": "angstrom"}, r"voxel size \(3.0, 1.6, 1.6\) nm, but .* \(30, 16, 16\) nm"),
    ],
)
def test_images_on_other_voxels_are_told_apart_by_name(tmp_path, other, words):
    image = make(tmp_path, "raw")
    with pytest.raises(InputError, match=f"the truth .*/truth/s0 has the {words}; both must cover"):
        image.same_grid(make(tmp_path, "truth", **other), "the truth")


def test_the_same_voxels_may_have_channels_and_another_unit(tmp_path):
    image = make(tmp_path, "raw")
    image.same_grid(make(tmp_path, "polarity", shape=(3, 4, 6, 5)), "the prediction")
    finer = {"voxel_size": (300, 160, 160), "offset": (600, -320, 80), "unit": "angstrom"}
    image.same_grid(make(tmp_path, "truth", **finer), "the truth")


def test_paths_and_urls_are_joined_alike():
    assert join("s3://bucket/a/", "raw", "s0") == "s3://bucket/a/raw/s0"
    assert join(Path("/a"), "raw") == "/a/raw"
    assert (is_url("s3://bucket"), is_url(Path("/a"))) == (True, False)


# ---------------------------------------------------------------- places to write


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, of 64 kB, for as long as the test."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "synpol-test", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"mounting needs root outside of a container: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_folder_is_made_and_found_writable_and_nothing_stays_in_it(tmp_path):
    for _ in range(2):
        check_writable(tmp_path / "a" / "b")
        assert list((tmp_path / "a" / "b").iterdir()) == []
    check_writable("s3://bucket/a")  # not looked at


@pytest.mark.parametrize("place", ["file", "file/a"])
def test_a_place_that_cannot_be_a_folder_is_refused(tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=f"output folder .*{place} cannot be written: "):
        check_writable(tmp_path / place)


def test_a_read_only_place_is_refused_before_any_work(small_disk):
    make(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    before = sorted(small_disk.rglob("*"))
    for folder in (small_disk, small_disk / "new"):
        with pytest.raises(InputError, match=f"{folder} cannot be written: Read-only file system"):
            check_writable(folder)
    with pytest.raises(InputError, match=r"/truth cannot be written: .*Read-only file system"):
        make(small_disk, "truth")
    assert open_image(small_disk / "raw").array.shape == (4, 6, 5)
    assert sorted(small_disk.rglob("*")) == before


def test_a_full_disk_is_refused_before_any_work_and_nothing_stays_on_it(small_disk):
    (small_disk / "ballast").write_bytes(bytes(63 << 10))
    with pytest.raises(InputError, match=f"{small_disk} cannot be written: No space left"):
        check_writable(small_disk)
    assert [p.name for p in small_disk.iterdir()] == ["ballast"]
    made = []
    with pytest.raises(InputError, match=r"/raw cannot be written: .*No space left"):
        for k in range(40):
            made.append(f"{k}/raw")
            make(small_disk, made[-1])
    (small_disk / "ballast").unlink()
    make(small_disk, made[-1])
