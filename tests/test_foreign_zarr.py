"""Zarr as others write it: axes, scale, place and type as the writer meant them, or refused."""

import itertools
import json
import re

import hypothesis.strategies as st
import numpy as np
import pytest
import yaml
import zarr
from hypothesis import given, settings

from synpol.config import ImageSource
from synpol.decoding.job import decode_blockwise
from synpol.errors import InputError
from synpol.images.axes import Layout
from synpol.images.image import open_image
from synpol.images.view import View
from synpol.images.writing import create_image

SIZE = (40, 4, 6)
SHAPE = (5, 7, 9)
VALUES = np.random.default_rng(0).integers(0, 2**16, SHAPE, dtype=np.uint16)
UNITS = {"t": "second"}


def ome(
    folder,
    values=VALUES,
    axes="zyx",
    scale=SIZE,
    translation=None,
    unit="nanometer",
    version="0.5",
    path="0",
    **more,
):
    """An OME-Zarr of one array; `scale` and `translation` are along z, y, x, whatever the axes."""
    along = dict(zip("zyx", scale, strict=True))
    transforms = [{"type": "scale", "scale": [along.get(a, 1.0) for a in axes]}]
    if translation is not None:
        place = dict(zip("zyx", translation, strict=True))
        transforms += [{"type": "translation", "translation": [place.get(a, 0.0) for a in axes]}]
    kinds = {"c": "channel", "t": "time"}
    named = [{"name": a, "type": kinds.get(a, "space")} for a in axes]
    for axis in named:
        if unit and axis["type"] == "space":
            axis["unit"] = unit
    image = {"axes": named, "datasets": [{"path": path, "coordinateTransformations": transforms}]}
    image |= more
    zarr_format = 2 if version == "0.4" else 3
    group = zarr.open_group(folder, mode="w", zarr_format=zarr_format)
    group.create_array(path, data=values, chunks=tuple(min(4, n) for n in values.shape))
    listed = {"multiscales": [image]}
    if zarr_format == 2:
        image["version"] = version
        group.attrs.update(listed)
    else:
        group.attrs["ome"] = {"version": version} | listed
    return folder


def array(path, values=VALUES, zarr_format=3, names=None, **attributes):
    """An array alone."""
    named = {} if names is None else {"dimension_names": names}
    made = zarr.create_array(
        path,
        shape=values.shape,
        chunks=tuple(min(4, n) for n in values.shape),
        dtype=values.dtype,
        zarr_format=zarr_format,
        **named,
    )
    made[...] = values
    made.attrs.update(attributes)
    return path


def edited(folder, change):
    """Change the multiscales of a group of version 0.5."""
    group = zarr.open_group(folder, mode="r+")
    about = json.loads(json.dumps(group.attrs["ome"]))
    change(about, about["multiscales"][0])
    group.attrs["ome"] = about
    return folder


def is_as_written(image, values=VALUES, size=SIZE, offset=(0, 0, 0)):
    assert np.array_equal(image.array[:], values)
    assert image.array.shape == values.shape
    assert image.array.dtype == values.dtype.newbyteorder("=")
    assert image.voxel_size_nm == pytest.approx(size)
    assert image.offset_nm == pytest.approx(offset)
    return True


def advised(message):
    """The mapping that a refusal recommends, as a config would read it."""
    found = re.search(r"\{path: .*?\}", message)
    assert found, message
    return ImageSource.model_validate(yaml.safe_load(found[0]))


# ---------------------------------------------------------------- axes


ORDERS = ["".join(order) for order in itertools.permutations("zyx")]


@pytest.mark.parametrize("axes", ORDERS)
@pytest.mark.parametrize("by", ["0.4", "0.5", "dimension_names", "axis_names", "xarray", "key"])
def test_axes_are_read_by_their_names_in_any_order(tmp_path, axes, by):
    stored = VALUES.transpose([("zyx").index(a) for a in axes])
    along = {"voxel_size": [dict(zip("zyx", SIZE, strict=True))[a] for a in axes]}
    along["offset"] = [dict(zip("zyx", (80, 8, -12), strict=True))[a] for a in axes]
    source = tmp_path / "a"
    if by in ("0.4", "0.5"):
        ome(source, stored, axes, translation=(100, 10, -9), version=by)
    elif by == "dimension_names":
        array(source, stored, names=list(axes), **along)
    elif by == "axis_names":
        array(source, stored, axis_names=list(axes.upper()), units=["nm"] * 3, **along)
    elif by == "xarray":
        array(source, stored, zarr_format=2, _ARRAY_DIMENSIONS=list(axes), **along)
    else:
        array(source, stored, **along)
        source = ImageSource(path=str(source), axes=axes)
    image = open_image(source, channels=0)
    assert is_as_written(image, offset=(80, 8, -12))
    plain = axes == "zyx"
    assert isinstance(image.array, zarr.Array if plain else View)
    again = open_image(image.source, channels=0)
    assert is_as_written(again, offset=(80, 8, -12))


@pytest.mark.parametrize("axes", ["tczyx", "czyx", "zyxc", "tzyx", "cxyzt"])
def test_axes_of_length_one_are_dropped(tmp_path, axes):
    stored = VALUES.transpose([("zyx").index(a) for a in axes if a in "zyx"])
    stored = np.expand_dims(stored, [k for k, a in enumerate(axes) if a not in "zyx"])
    assert is_as_written(open_image(ome(tmp_path / "a", stored, axes), channels=0))
    assert is_as_written(open_image(tmp_path / "a" / "0", channels=0))


@pytest.mark.parametrize("shape", [(1, *SHAPE), (1, 1, *SHAPE), (*SHAPE, 1)])
def test_axes_of_length_one_are_dropped_where_nobody_named_them(tmp_path, shape):
    path = array(tmp_path / "a", VALUES.reshape(shape), voxel_size=list(SIZE))
    assert is_as_written(open_image(path, channels=0))


def test_a_prediction_of_one_section_keeps_its_channels(tmp_path):
    values = np.zeros((3, 1, 8, 8), np.uint8)
    path = array(tmp_path / "a", values, voxel_size=list(SIZE))
    assert open_image(path, channels=3).array.shape == (3, 1, 8, 8)
    with pytest.raises(InputError, match=r"\(z, y, x\) is expected"):
        open_image(path, channels=0)


@pytest.mark.parametrize("axes", ["czyx", "zyxc", "tczyx", "xyzct"])
def test_a_channel_and_a_time_are_chosen_by_keys(tmp_path, axes):
    sizes = dict(zip("zyxct", (*SHAPE, 2, 3), strict=True))
    stored = np.random.default_rng(1).integers(0, 255, [sizes[a] for a in axes], dtype=np.uint8)
    ome(tmp_path / "a", stored, axes)
    with pytest.raises(InputError, match=r"has (2 channels|3 times); choose one") as refusal:
        open_image(tmp_path / "a", channels=0)
    first = open_image(
        ImageSource.model_validate(
            {"time": 0, **advised(str(refusal.value)).model_dump(), "channel": 0}
            if "t" in axes
            else advised(str(refusal.value)).model_dump()
        ),
        channels=0,
    )
    inside = {"c": 0, "t": 0}
    picked = stored[tuple(inside.get(a, slice(None)) for a in axes)]
    order = [a for a in axes if a in "zyx"]
    assert is_as_written(first, picked.transpose([order.index(a) for a in "zyx"]))
    more = {"time": 2} if "t" in axes else {}
    source = ImageSource(path=str(tmp_path / "a"), channel=1, **more)
    picked = stored[tuple({"c": 1, "t": 2}.get(a, slice(None)) for a in axes)]
    assert is_as_written(
        open_image(source, channels=0), picked.transpose([order.index(a) for a in "zyx"])
    )


def test_another_channel_is_another_state_of_the_image(tmp_path):
    from synpol.images.identity import identity_of

    ome(tmp_path / "a", np.zeros((2, *SHAPE), np.uint8), "czyx")
    found = [
        identity_of(open_image(ImageSource(path=str(tmp_path / "a"), channel=c))) for c in (0, 1)
    ]
    assert found[0] != found[1]


@pytest.mark.parametrize("key", ["channel", "time"])
def test_a_choice_beyond_the_end_says_what_there_is(tmp_path, key):
    ome(tmp_path / "a", np.zeros((2, 3, *SHAPE), np.uint8), "ctzyx")
    source = {"path": str(tmp_path / "a"), "channel": 0, "time": 0, key: 7}
    with pytest.raises(InputError, match=f"`{key}` chooses 7; choose one of 0..[12]"):
        open_image(ImageSource.model_validate(source))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["z", "y", "z"], "two axes z"),
        (["z", "y", "lambda"], "no axis x"),
        (["y", "x", "t"], "no axis z"),
        (["z", "y", None], "without a name"),
    ],
)
def test_names_that_are_no_volume_are_refused_by_name(tmp_path, names, words):
    path = array(tmp_path / "a", names=names, voxel_size=list(SIZE))
    with pytest.raises(InputError, match=words):
        open_image(path)


def test_an_axis_of_another_kind_is_refused_by_its_name(tmp_path):
    values = np.zeros((2, *SHAPE), np.uint8)
    path = array(tmp_path / "a", values, names=["s", "z", "y", "x"], voxel_size=[1, *SIZE])
    with pytest.raises(InputError, match="s is none of z, y, x, channel and time"):
        open_image(path)


def test_axes_named_in_two_ways_are_settled_by_the_key_that_the_refusal_names(tmp_path):
    path = array(tmp_path / "a", names=["x", "y", "z"], voxel_size=[4, 4, 4], axis_names=[*"zyx"])
    with pytest.raises(InputError, match=r"named in two ways.*`dimension_names`") as refusal:
        open_image(path)
    turned = open_image(advised(str(refusal.value)))
    assert np.array_equal(turned.array[:], VALUES.transpose(2, 1, 0))
    with pytest.raises(InputError, match="the key `axes` says 'yxz'"):
        open_image(ImageSource(path=str(path), axes="yxz"))


def test_names_that_a_writer_gave_without_asking_say_nothing(tmp_path):
    from funlib.persistence import prepare_ds

    made = prepare_ds(tmp_path / "a", SHAPE, voxel_size=SIZE, units=["nm"] * 3, dtype=np.uint16)
    made[:] = VALUES
    assert is_as_written(open_image(tmp_path / "a", channels=0))
    path = array(tmp_path / "b", names=["dim_0", "dim_1", "dim_2"], voxel_size=list(SIZE))
    assert is_as_written(open_image(path, channels=0))


def test_a_polarity_array_with_channels_last_is_decoded_where_it_lies(tmp_path):
    polarity = np.zeros((3, 6, 24, 24), np.uint8)
    polarity[0, 2:5, 4:12, 4:10] = polarity[1, 2:5, 4:12, 10:16] = 255
    polarity[2] = polarity[:2].max(axis=0)
    ome(tmp_path / "a", polarity, "czyx")
    ome(tmp_path / "b", polarity.transpose(3, 2, 1, 0).copy(), "xyzc")
    found = [
        open_image(
            decode_blockwise(
                tmp_path / name, tmp_path / f"{name}.out", block_shape=(4, 16, 16), thres_small=5
            ).instances
        )
        for name in "ab"
    ]
    assert np.array_equal(found[0].array[:], found[1].array[:])
    assert set(np.unique(found[1].array[:])) == {0, 1, 2}
    assert found[1].voxel_size_nm == SIZE


# ---------------------------------------------------------------- views


slices = st.builds(
    lambda a, b, step: slice(a, b, step),
    st.none() | st.integers(-6, 9),
    st.none() | st.integers(-6, 12),
    st.none() | st.integers(1, 3),
)
one_axis = slices | st.integers(0, 3)


@settings(max_examples=80)
@given(
    st.permutations([0, 1, 2, 3]),
    st.integers(0, 1),
    st.tuples(*[st.integers(0, 2)] * 3),
    st.lists(one_axis, max_size=3),
    st.booleans(),
)
def test_a_view_is_indexed_as_the_array_that_it_stands_for(order, picked, begin, where, dots):
    stored = np.random.default_rng(0).integers(0, 99, (7, 8, 6, 2), dtype=np.int64)
    lengths = [7, 8, 6, 2]
    drop = order[0]
    layout = Layout(tuple(order[1:]), {drop: min(picked, lengths[drop] - 1)})
    meant = np.take(stored, min(picked, lengths[drop] - 1), drop)
    left = [axis for axis in range(4) if axis != drop]
    meant = meant.transpose([left.index(axis) for axis in order[1:]])
    begin = [min(b, n - 1) for b, n in zip(begin, meant.shape, strict=True)]
    meant = meant[tuple(slice(b, None) for b in begin)]

    class Stored:
        shape, dtype, chunks, attrs = stored.shape, stored.dtype, (2, 2, 2, 2), {}

        def __getitem__(self, index):
            assert all(isinstance(k, int | slice) for k in index)
            return stored[index]

    view = View.of("somewhere", Stored(), layout).part(begin, meant.shape)
    assert view.shape == meant.shape
    where = [min(w, n - 1) if isinstance(w, int) else w for w, n in zip(where, meant.shape)]  # noqa: B905
    index = (..., *where) if dots and len(where) == 3 else tuple(where)
    assert np.array_equal(view[index], meant[index])
    assert view[index].flags.c_contiguous or view[index].ndim == 0
    assert np.array_equal(np.asarray(view), meant)


# ---------------------------------------------------------------- groups


def test_a_group_with_one_image_inside_stands_for_it(tmp_path):
    ome(tmp_path / "a.zarr" / "em")
    zarr.open_group(tmp_path / "a.zarr", mode="a")
    assert is_as_written(open_image(tmp_path / "a.zarr"))
    zarr.open_group(tmp_path / "b.zarr", mode="w").create_array("em", data=VALUES)
    array(tmp_path / "c.zarr" / "deep" / "em", voxel_size=list(SIZE))
    zarr.open_group(tmp_path / "c.zarr", mode="a")
    zarr.open_group(tmp_path / "c.zarr" / "deep", mode="a")
    assert is_as_written(open_image(tmp_path / "c.zarr"))
    with pytest.raises(InputError, match=r"b.zarr/em says nothing about its voxel size"):
        open_image(tmp_path / "b.zarr")


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("listed", [True, False])
def test_a_single_series_of_bioformats2raw_is_entered_and_several_are_listed(
    tmp_path, version, listed
):
    zarr_format = 2 if version == "0.4" else 3
    folder = tmp_path / "a.zarr"
    layout = {"bioformats2raw.layout": 3}
    root = zarr.open_group(folder, mode="w", zarr_format=zarr_format)
    root.attrs.update(layout if version == "0.4" else {"ome": {"version": version, **layout}})
    other = root.create_group("OME")
    names = {"series": ["0"]}
    if listed:
        other.attrs.update(names if version == "0.4" else {"ome": {"version": version, **names}})
    ome(folder / "0", VALUES[None, None], "tczyx", version=version)
    assert is_as_written(open_image(folder, channels=0))
    ome(folder / "1", version=version)
    if listed:
        more = {"series": ["0", "1"]}
        other.attrs.update(more if version == "0.4" else {"ome": {"version": version, **more}})
    with pytest.raises(InputError, match=r"path of an image.* inside it: 0, 1"):
        open_image(folder)


def test_two_images_in_one_group_are_listed(tmp_path):
    def twice(about, image):
        about["multiscales"].append(image)

    with pytest.raises(
        InputError, match=r"holds 2 images; give the path of the array of one: .*/0"
    ):
        open_image(edited(ome(tmp_path / "a"), twice))


def test_an_array_deep_in_a_group_is_found_by_both_paths(tmp_path):
    path = ome(tmp_path / "a", path="scale0/image")
    for which in (path, path / "scale0" / "image"):
        image = open_image(which, channels=0)
        assert is_as_written(image)
        assert image.path == f"{path}/scale0/image"


# ---------------------------------------------------------------- scale and place


def test_a_sequence_of_transformations_is_followed(tmp_path):
    steps = [
        {"type": "identity"},
        {"type": "scale", "scale": [20, 2, 3]},
        {
            "type": "sequence",
            "transformations": [{"type": "translation", "translation": [5, 1, 1]}],
        },
        {"type": "scale", "scale": [2, 2, 2]},
    ]

    def change(about, image):
        about["version"] = "0.6"
        image["coordinateSystems"] = [{"name": "world", "axes": image.pop("axes")}]
        image["datasets"][0]["coordinateTransformations"] = [
            {"type": "sequence", "transformations": steps, "output": {"name": "world"}}
        ]

    image = open_image(edited(ome(tmp_path / "a"), change))
    assert is_as_written(image, offset=(10 - 20, 2 - 2, 2 - 3))


@pytest.mark.parametrize("kind", ["affine", "rotation", "mapAxis", "displacements", None])
def test_another_transformation_is_refused_by_name_and_keys_go_on(tmp_path, kind):
    def change(about, image):
        image["datasets"][0]["coordinateTransformations"] += [{"type": kind, "affine": [[1, 0]]}]

    path = edited(ome(tmp_path / "a"), change)
    with pytest.raises(InputError, match=f"{kind}.*is not read.*axes: zyx, voxel_size"):
        open_image(path)
    source = ImageSource(path=str(path / "0"), axes="zyx", voxel_size=SIZE)
    assert is_as_written(open_image(source))


@pytest.mark.parametrize("version", ["0.7", "1.0", 5])
def test_another_version_is_refused_by_name_and_keys_go_on(tmp_path, version):
    path = edited(ome(tmp_path / "a"), lambda about, image: about.update(version=version))
    for which in (path, path / "0"):
        with pytest.raises(InputError, match=rf"version .*{version}.*not read; 0.4 to 0.6 are"):
            open_image(which)
    source = ImageSource(path=str(path / "0"), axes="zyx", voxel_size=SIZE)
    assert is_as_written(open_image(source))


def test_transformations_to_other_systems_of_version_0_6_are_refused(tmp_path):
    def change(about, image):
        about["version"] = "0.6"
        image["coordinateTransformations"] = [{"type": "scale", "scale": [2, 2, 2]}]

    with pytest.raises(InputError, match="other coordinate systems"):
        open_image(edited(ome(tmp_path / "a"), change))


@pytest.mark.parametrize("version", ["0.1", "0.2", "0.3", None])
def test_without_a_scale_nothing_is_guessed_and_the_key_goes_on(tmp_path, version):
    def change(about, image):
        image["axes"] = ["z", "y", "x"]
        del image["datasets"][0]["coordinateTransformations"]
        about["version"] = version
        if version is None:
            del about["version"]

    path = edited(ome(tmp_path / "a"), change)
    with pytest.raises(InputError, match="says nothing about its voxel size") as refusal:
        open_image(path)
    assert advised(str(refusal.value)).voxel_size == (40, 4, 4)
    assert is_as_written(open_image(ImageSource(path=str(path), voxel_size=SIZE)))


@pytest.mark.parametrize(
    ("scale", "unit", "fits"),
    [
        ((40, 4, 6), None, True),
        ((0.04, 0.004, 0.006), None, False),
        ((1, 1, 1), None, False),
        ((40000, 4000, 6000), None, False),
        ((1, 1, 1), "nanometer", True),
        ((0.04, 0.004, 0.006), "micrometer", True),
    ],
)
def test_numbers_without_a_unit_are_nm_only_where_they_can_be(tmp_path, scale, unit, fits):
    path = ome(tmp_path / "a", scale=scale, unit=unit)
    if fits:
        assert open_image(path).voxel_size_nm in (SIZE, (1, 1, 1))
        return
    with pytest.raises(InputError, match=r"without a unit.*hardly nm.*unit: um") as refusal:
        open_image(path)
    assert open_image(advised(str(refusal.value))).voxel_size_nm == tuple(1000 * v for v in scale)


def test_an_axis_without_a_unit_beside_others_is_refused_and_the_key_settles_it(tmp_path):
    def change(about, image):
        del image["axes"][0]["unit"]

    path = edited(ome(tmp_path / "a", scale=(40, 0.004, 0.006), unit="micrometer"), change)
    with pytest.raises(InputError, match="no unit along z, while y in micrometer") as refusal:
        open_image(path)
    assert is_as_written(open_image(advised(str(refusal.value))))


def test_a_unit_that_the_file_says_is_not_overruled(tmp_path):
    path = ome(tmp_path / "a", unit="nanometer")
    assert is_as_written(open_image(ImageSource(path=str(path), unit="um")))  # not needed
    array(tmp_path / "b", voxel_size=list(SIZE), units=["nm"] * 3)
    with pytest.raises(InputError, match="unknown unit 'parsec'"):
        open_image(ImageSource(path=str(tmp_path / "b"), voxel_size=SIZE, unit="parsec"))


@pytest.mark.parametrize("key", ["voxel_size", "resolution"])
def test_an_attribute_against_ome_is_refused_and_the_key_settles_it(tmp_path, key):
    path = ome(tmp_path / "a")
    zarr.open_array(path / "0", mode="r+").attrs[key] = [6, 4, 40]
    for which in (path, path / "0"):
        with pytest.raises(InputError, match=rf"(?s)`{key}`.*40.0, 4.0, 6.0.*say which") as refusal:
            open_image(which)
        assert is_as_written(open_image(advised(str(refusal.value))))
    other = ImageSource(path=str(path), voxel_size=(6, 4, 40))
    assert open_image(other).voxel_size_nm == (6, 4, 40)
    with pytest.raises(InputError, match="the key `voxel_size` says"):
        open_image(ImageSource(path=str(path), voxel_size=(8, 8, 8)))


def test_two_attributes_that_disagree_are_refused(tmp_path):
    path = array(tmp_path / "a", voxel_size=list(SIZE), resolution=[6, 4, 40])
    with pytest.raises(InputError, match=r"`voxel_size`.*`resolution`; say which is right"):
        open_image(path)


def test_an_attribute_that_agrees_with_ome_is_the_more_exact_one(tmp_path):
    path = ome(tmp_path / "a", translation=(100, 10, 13), scale=(40.000001, 4, 6))
    attributes = {"voxel_size": list(SIZE), "units": ["nm"] * 3, "offset": [80, 8, 10]}
    zarr.open_array(path / "0", mode="r+").attrs.update(attributes)
    for which in (path, path / "0"):
        assert is_as_written(open_image(which), offset=(80, 8, 10))


@pytest.mark.parametrize("translation", [(100, 10, 13), (80, 8, 10)])
def test_an_offset_is_the_corner_whichever_point_ome_tells(tmp_path, translation):
    path = ome(tmp_path / "a", translation=translation)
    attributes = {"voxel_size": list(SIZE), "offset": [80, 8, 10]}
    zarr.open_array(path / "0", mode="r+").attrs.update(attributes)
    assert is_as_written(open_image(path), offset=(80, 8, 10))


def test_an_offset_against_ome_is_refused_and_the_key_settles_it(tmp_path):
    path = ome(tmp_path / "a", translation=(500, 0, 0))
    zarr.open_array(path / "0", mode="r+").attrs.update(
        {"voxel_size": [*SIZE], "offset": [0, 8, 0]}
    )
    with pytest.raises(InputError, match=r"begins at \(0.0, 8.0, 0.0\).*but at") as refusal:
        open_image(path)
    assert is_as_written(open_image(advised(str(refusal.value))), offset=(0, 8, 0))


@pytest.mark.parametrize(
    ("translation", "origin", "offset"),
    [
        (None, None, (0, 0, 0)),
        (None, "corner", (0, 0, 0)),
        (None, "centre", (-20, -2, -3)),
        ((0, 0, 0), None, (-20, -2, -3)),
        ((0, 0, 0), "corner", (0, 0, 0)),
        ((100, 10, 13), "corner", (100, 10, 13)),
        ((100, 10, 13), "centre", (80, 8, 10)),
    ],
)
def test_the_key_origin_says_which_point_is_told(tmp_path, translation, origin, offset):
    path = ome(tmp_path / "a", translation=translation)
    image = open_image(ImageSource(path=str(path), origin=origin))
    assert is_as_written(image, offset=offset)
    assert image.placed == (translation is not None or origin is not None)


def test_half_a_voxel_is_that_of_the_size_that_the_config_says(tmp_path):
    path = ome(tmp_path / "a", scale=(1, 1, 1), unit=None, translation=(0, 0, 0))
    image = open_image(ImageSource(path=str(path), voxel_size=SIZE))
    assert is_as_written(image, offset=(-20, -2, -3))


def test_the_key_offset_places_what_has_no_place(tmp_path):
    for number, translation in enumerate([None, (0, 0, 0)]):
        path = ome(tmp_path / f"a{number}", translation=translation)
        source = ImageSource(path=str(path), offset=(0.4, 0.04, -0.06), unit="um")
        assert is_as_written(open_image(source), offset=(400, 40, -60))
    path = ome(tmp_path / "b", translation=(100, 10, 13))
    assert is_as_written(
        open_image(ImageSource(path=str(path), offset=(80, 8, 10))), offset=(80, 8, 10)
    )
    with pytest.raises(InputError, match="the key `offset` says"):
        open_image(ImageSource(path=str(path), offset=(0, 0, 0)))


def test_no_translation_and_translation_zero_are_the_same_place(tmp_path):
    said, unsaid = ome(tmp_path / "a", translation=(0, 0, 0)), ome(tmp_path / "b")
    for one, other in ((said, unsaid), (unsaid, said)):
        first, second = open_image(one), open_image(other)
        first.same_grid(second, "the labels")
        assert first.place_of(second, "the image") == (0, 0, 0)
        moved = second.fitted_to(first)
        assert (moved.offset, moved.unit) == (first.offset, first.unit)
    crop = open_image(ome(tmp_path / "c", VALUES[1:], translation=(40, 0, 0)))
    assert open_image(unsaid).place_of(crop, "the image") == (1, 0, 0)


def test_two_places_half_a_voxel_apart_are_refused_and_the_key_settles_it(tmp_path):
    raw = open_image(array(tmp_path / "a", voxel_size=list(SIZE), offset=[0, 0, 0]))
    labels = open_image(ome(tmp_path / "b", translation=(0, 0, 0)))
    with pytest.raises(InputError, match=r"half a voxel apart.*origin: corner") as refusal:
        raw.same_grid(labels, "the labels")
    raw.same_grid(open_image(advised(str(refusal.value))), "the labels")
    for one, other in ((raw, labels), (labels, raw)):
        with pytest.raises(InputError, match="half a voxel apart") as refusal:
            one.place_of(other, "the image")
        source = advised(str(refusal.value))
        mended = {image.path: image for image in (raw, labels)} | {source.path: open_image(source)}
        assert mended[one.path].place_of(mended[other.path], "the image") == (0, 0, 0)


def test_two_offsets_half_a_voxel_apart_are_settled_by_the_key_too(tmp_path):
    raw = open_image(array(tmp_path / "a", voxel_size=list(SIZE), offset=[-20, -2, -3]))
    labels = open_image(array(tmp_path / "b", voxel_size=list(SIZE), offset=[0, 0, 0]))
    with pytest.raises(InputError, match=r"half a voxel apart.*origin: centre") as refusal:
        raw.same_grid(labels, "the labels")
    raw.same_grid(open_image(advised(str(refusal.value))), "the labels")


def test_labels_without_a_place_beside_a_placed_image_are_refused_and_the_key_goes_on(tmp_path):
    raw = open_image(ome(tmp_path / "a", translation=(100, 10, 13)))
    labels = open_image(ome(tmp_path / "b"))
    with pytest.raises(InputError, match=r"Nothing says where .*/b/0 lies") as refusal:
        raw.same_grid(labels, "the labels")
    raw.same_grid(open_image(advised(str(refusal.value))), "the labels")


def test_what_is_made_of_an_image_without_a_place_has_none_either(tmp_path):
    image = create_image(
        tmp_path,
        "made",
        shape=SHAPE,
        dtype=np.uint8,
        voxel_size=SIZE,
        offset=(0, 0, 0),
        unit="nm",
        chunk_shape=SHAPE,
        placed=False,
    )
    for found in (image, open_image(tmp_path / "made"), open_image(image.path)):
        assert (found.placed, found.offset) == (False, (0, 0, 0))
        found.same_grid(open_image(ome(tmp_path / "b", translation=(0, 0, 0))), "the truth")


def test_a_part_of_what_has_no_place_keeps_its_distance(tmp_path):
    create_image(
        tmp_path,
        "part",
        shape=(2, *SHAPE[1:]),
        dtype=np.uint8,
        voxel_size=SIZE,
        offset=(80, 0, 0),
        unit="nm",
        chunk_shape=(2, *SHAPE[1:]),
        placed=False,
    )
    part = open_image(tmp_path / "part")
    assert (part.placed, part.offset) == (False, (80, 0, 0))
    for number, translation in enumerate([None, (0, 0, 0)]):
        whole = open_image(ome(tmp_path / f"whole{number}", translation=translation))
        assert whole.place_of(part, "the image") == (2, 0, 0)


def test_volumes_in_other_units_are_compared_in_nm(tmp_path):
    one = open_image(array(tmp_path / "a", voxel_size=[40, 4.6, 4.6]))
    other = open_image(ome(tmp_path / "b", scale=(0.04, 0.0046, 0.0046), unit="micrometer"))
    third = open_image(array(tmp_path / "c", voxel_size=[400, 46, 46], units=["angstrom"] * 3))
    assert [i.unit for i in (one, other, third)] == ["angstrom"] * 3
    for image in (other, third):
        one.same_grid(image, "the labels")
        assert image.place_of(one, "the image") == (0, 0, 0)
    calibrated = open_image(array(tmp_path / "d", voxel_size=[50, 3.72134, 3.72134]))
    single = [float(v) for v in np.array([0.05, 0.00372134, 0.00372134], np.float32)]
    rounded = open_image(ome(tmp_path / "e", scale=single, unit="micrometer"))
    assert calibrated.voxel_size != rounded.voxel_size
    assert calibrated.unit == rounded.unit == "fm"
    calibrated.same_grid(rounded, "the labels")
    assert rounded.fitted_to(calibrated).voxel_size == calibrated.voxel_size


def test_the_scene_shows_an_image_stored_otherwise_where_it_is_read(tmp_path):
    from synpol.scene.state import _source

    ome(tmp_path / "a", VALUES[None, None].transpose(0, 1, 2, 4, 3), "tczxy")
    stored = _source(open_image(tmp_path / "a", channels=0), "http://here/a")
    space = stored.transform.output_dimensions
    assert space.names == ("axis0'", "axis1'", "z", "x", "y")
    assert [scale * 1e9 for scale in space.scales[2:]] == pytest.approx([40, 6, 4])
    array(tmp_path / "b", VALUES.T, names=[*"xyz"], voxel_size=[6, 4, 40], offset=[60, 0, 80])
    stored = _source(open_image(tmp_path / "b", channels=0), "http://here/b")
    assert stored.transform.output_dimensions.names == ("x", "y", "z")
    matrix = stored.transform.matrix
    assert np.diag(matrix).tolist() == pytest.approx([6e-9, 4e-9, 40e-9])
    assert matrix[:, 3].tolist() == pytest.approx([10, 0, 2])


# ---------------------------------------------------------------- types


@pytest.mark.parametrize("dtype", [">u2", ">i4", ">f4", "?", "i1", "i2", "<u8", "f8"])
def test_values_are_read_in_the_byte_order_of_this_machine(tmp_path, dtype):
    values = (VALUES % 100 > 50 if dtype == "?" else VALUES % 100).astype(dtype)
    path = array(tmp_path / "a", values, zarr_format=2, voxel_size=list(SIZE))
    assert is_as_written(open_image(path), values)
    assert open_image(path).array.dtype.isnative


def test_an_image_stored_otherwise_than_read_is_not_written_to(tmp_path):
    path = array(tmp_path / "a", VALUES.astype(">u2"), zarr_format=2, voxel_size=list(SIZE))
    with pytest.raises(InputError, match=r"cannot be written to; import it"):
        open_image(path, mode="r+")


@pytest.mark.parametrize("dtype", ["c8", "M8[s]", "S3"])
def test_other_values_than_numbers_are_refused_by_their_type(tmp_path, dtype):
    path = array(tmp_path / "a", np.zeros(SHAPE, dtype), zarr_format=2, voxel_size=list(SIZE))
    with pytest.raises(InputError, match=r"/a is of the type .*; whole or real numbers"):
        open_image(path)


def test_keys_that_a_format_does_not_read_are_refused(tmp_path):
    path = ome(tmp_path / "a")
    with pytest.raises(InputError, match="`fill_missing` is not read; leave it out"):
        open_image(ImageSource(path=str(path), fill_missing=True))
