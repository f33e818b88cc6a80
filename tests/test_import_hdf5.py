"""HDF5 as programs write it: links, virtual datasets, filters, attributes, orders of axes."""

import json

import h5py
import hdf5plugin
import numpy as np
import pytest
from importing import RAW, made_of, same
from recipes import run, tiny_config

from synpol.errors import InputError
from synpol.images.image import open_image

SIZE = (40.0, 8.0, 4.0)


def refused(source, pattern, **more):
    """Import what has to be refused; the message names the file and matches."""
    with pytest.raises(InputError, match=pattern) as caught:
        made_of(source, **{"voxel_size": SIZE, **more})
    assert source.name in str(caught.value)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.data"  # the ending does not matter


def write(path, values=RAW, key="main", **attributes):
    with h5py.File(path, "w") as file:
        file[key] = values
        file[key].attrs.update(attributes)
    return path


# ---------------------------------------------------------------- which dataset


def test_the_only_volume_of_a_file_needs_no_key(path):
    with h5py.File(path, "w") as file:
        file["deep/volume"], file["table"] = RAW, np.zeros((3, 4))
    same(made_of(path, voxel_size=SIZE), RAW, SIZE)


def test_soft_links_are_followed_absolute_and_relative_and_through_groups(path):
    with h5py.File(path, "w") as file:
        file["data/raw"] = RAW
        file["data/same"] = h5py.SoftLink("raw")
        file["link"] = h5py.SoftLink("/data/raw")
        file["group"] = h5py.SoftLink("/data")
        file["broken"] = h5py.SoftLink("/nowhere")
        file["circle"] = h5py.SoftLink("/circle")
    for key in ("link", "data/same", "group/raw", "group/same"):
        same(made_of(path, key=key, voxel_size=SIZE), RAW)
    refused(path, "no dataset 'nowhere', to which 'broken' is a link", key="broken")
    refused(path, "link that leads back to itself", key="circle")


def test_external_links_are_followed_within_the_folder_alone(path, tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    write(inside / "near.h5"), write(tmp_path / "secret.h5")
    path = inside / "a.h5"
    with h5py.File(path, "w") as file:
        file["near"] = h5py.ExternalLink("near.h5", "/main")
        file["far"] = h5py.ExternalLink("../secret.h5", "/main")
        file["absolute"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "/main")
        file["gone"] = h5py.ExternalLink("gone.h5", "/main")
    same(made_of(path, key="near", voxel_size=SIZE), RAW)
    for key in ("far", "absolute"):
        refused(path, "not in the folder", key=key)
    refused(path, r"gone\.h5, which is missing", key="gone")


def test_virtual_datasets_are_read_where_their_sources_are_there(path, tmp_path):
    for z, section in enumerate(RAW):
        write(tmp_path / f"{z}.h5", section)
    layout = h5py.VirtualLayout(RAW.shape, RAW.dtype)
    for z in range(len(RAW)):
        layout[z] = h5py.VirtualSource(f"{z}.h5", "main", RAW.shape[1:])
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("main", layout)
    same(made_of(path, voxel_size=SIZE), RAW)
    (tmp_path / "7.h5").unlink()
    refused(path, r"virtual dataset of 7\.h5, which is missing", sections=(0, 5))


def test_virtual_datasets_do_not_reach_other_folders(path, tmp_path):
    write(tmp_path / "secret.h5")
    inside = tmp_path / "inside"
    inside.mkdir()
    layout = h5py.VirtualLayout(RAW.shape, RAW.dtype)
    layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "main", RAW.shape)
    with h5py.File(inside / "a.h5", "w") as file:
        file.create_virtual_dataset("main", layout)
    refused(inside / "a.h5", "not in the folder")


def test_values_in_other_files_are_refused(path, tmp_path):
    (tmp_path / "passwords").write_bytes(bytes(RAW.nbytes))
    with h5py.File(path, "w") as file:
        file.create_dataset(
            "main", RAW.shape, RAW.dtype, external=[(str(tmp_path / "passwords"), 0, RAW.nbytes)]
        )
    refused(path, "keeps its values in other files .*passwords")


@pytest.mark.parametrize(
    "how",
    [
        hdf5plugin.Blosc(cname="zstd"),
        hdf5plugin.Blosc2(),
        hdf5plugin.Bitshuffle(),
        hdf5plugin.LZ4(),
        hdf5plugin.Zstd(),
        {"compression": "lzf"},
        {"compression": "gzip", "shuffle": True, "fletcher32": True},
    ],
    ids=str,
)
def test_every_compression_is_read(how, path):
    with h5py.File(path, "w") as file:
        file.create_dataset("main", data=RAW, chunks=(7, 8, 16), **how)
    same(made_of(path, voxel_size=SIZE), RAW)


def test_a_filter_that_nobody_has_is_named(path):
    with h5py.File(path, "w") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((7, 8, 16))
        plist.set_filter(32123, h5py.h5z.FLAG_OPTIONAL, ())
        space = h5py.h5s.create_simple(RAW.shape)
        h5py.h5d.create(file.id, b"main", h5py.h5t.NATIVE_UINT8, space, plist)
    refused(path, "HDF5 filter 32123.*h5repack")


def test_a_damaged_chunk_is_a_refusal(path):
    with h5py.File(path, "w") as file:
        data = file.create_dataset("main", data=RAW, chunks=(7, 24, 37), compression="gzip")
        place = data.id.get_chunk_info(1).byte_offset
    content = bytearray(path.read_bytes())
    content[place : place + 200] = bytes(200)
    path.write_bytes(content)
    refused(path, "cannot be read as HDF5")


def test_a_cut_file_is_a_refusal(path):
    write(path)
    path.write_bytes(path.read_bytes()[:-1000])
    refused(path, "cannot be read as HDF5.*copy it again")


@pytest.mark.parametrize(
    "values", [np.zeros((3, 4, 5), complex), np.zeros((3, 4, 5), [("r", "u1"), ("g", "u1")])]
)
def test_values_that_are_no_numbers_are_refused(values, path):
    refused(write(path, values), "values of the type", key="main")


def test_big_endian_values_are_read(path):
    same(made_of(write(path, RAW.astype(">u2")), voxel_size=SIZE), RAW.astype(np.uint16))


# ---------------------------------------------------------------- size and place in attributes


@pytest.mark.parametrize(
    ("attributes", "size", "offset"),
    [
        ({"resolution": SIZE, "offset": (400.0, 80.0, 12.0)}, SIZE, (400, 80, 12)),  # CREMI
        ({"voxel_size": SIZE, "offset": (1, 2, 3), "units": ["nm"] * 3}, SIZE, (1, 2, 3)),
        ({"element_size_um": (0.04, 0.008, 0.004)}, SIZE, (0, 0, 0)),
        ({"resolution": (0.04, 0.0046, 0.0046), "unit": "um"}, (40, 4.6, 4.6), (0, 0, 0)),
        ({"resolution": SIZE, "element_size_um": (0.04, 0.008, 0.004)}, SIZE, (0, 0, 0)),
    ],
)
def test_size_and_offset_are_read_from_attributes(attributes, size, offset, path):
    same(made_of(write(path, **attributes)), RAW, size, offset)


def test_the_config_may_repeat_what_the_file_says(path):
    write(path, resolution=SIZE, offset=(400.0, 80.0, 12.0))
    same(made_of(path, voxel_size=SIZE, offset=(400, 80, 12)), RAW, SIZE, (400, 80, 12))


@pytest.mark.parametrize(
    ("more", "pattern"),
    [
        ({"voxel_size": (40, 4, 4)}, r"voxel_size is 40 x 4 x 4 nm .* says 40 x 8 x 4 nm"),
        ({"offset": (0, 0, 0)}, r"offset is 0 x 0 x 0 nm .* says 400 x 80 x 12 nm"),
    ],
)
def test_a_contradiction_is_refused_with_both_numbers_unless_the_file_is_wrong(more, pattern, path):
    write(path, resolution=SIZE, offset=(400.0, 80.0, 12.0))
    refused(path, pattern, **more)
    image = made_of(path, **{"voxel_size": SIZE, **more}, ignore_metadata=True)
    same(image, RAW, more.get("voxel_size", SIZE), (0, 0, 0))


def test_attributes_that_contradict_each_other_are_refused(path):
    write(path, resolution=SIZE, element_size_um=(1.0, 1.0, 1.0))
    refused(path, "contradicts itself: .*resolution .*element_size_um")


def test_small_numbers_without_a_unit_are_not_taken_for_nm(path):
    write(path, resolution=(0.04, 0.008, 0.004))
    with pytest.raises(InputError, match="without a unit"):
        made_of(path)
    same(made_of(path, voxel_size=SIZE), RAW, SIZE)
    refused(path, "voxel_size is 40 x 8 x 5 nm", voxel_size=(40, 8, 5))


@pytest.mark.parametrize("value", ["fine", (40.0, 8.0), np.zeros((3, 3)), (np.nan, 8.0, 4.0)])
def test_attributes_that_cannot_be_understood_are_refused(value, path):
    refused(write(path, resolution=value), "attribute resolution")
    same(made_of(path, voxel_size=SIZE, ignore_metadata=True), RAW, SIZE)


def test_a_file_that_says_no_size_is_refused_without_one(path):
    with pytest.raises(InputError, match=r"does not say its voxel size.*`voxel_size:"):
        made_of(write(path))


# ---------------------------------------------------------------- axes


def axistags(letters):
    return json.dumps({"axes": [{"key": k, "typeFlags": 2} for k in letters]})


@pytest.mark.parametrize(
    ("attributes", "axes"),
    [
        ({"axistags": axistags("xyz")}, (2, 1, 0)),
        ({"axis_names": ["y", "x", "z"]}, (1, 2, 0)),
        ({"axes": "zxy"}, (0, 2, 1)),
    ],
)
def test_named_axes_are_obeyed_by_values_and_sizes(attributes, axes, path):
    size = [SIZE[a] for a in axes]
    write(path, RAW.transpose(axes), resolution=size, offset=size, **attributes)
    same(made_of(path), RAW, SIZE, SIZE)


def test_scales_of_dimensions_name_axes(path):
    write(path, RAW.transpose(2, 1, 0))
    with h5py.File(path, "r+") as file:
        for number, name in enumerate("xyz"):
            file["main"].dims[number].label = name
    same(made_of(path, voxel_size=SIZE), RAW)


@pytest.mark.parametrize(
    "values",
    [RAW[..., None], RAW[None], RAW[None, None], RAW[None, ..., None], RAW[:, None, :, :, None]],
    ids=lambda v: str(v.shape),
)
def test_axes_of_length_one_are_dropped(values, path):
    same(made_of(write(path, values), voxel_size=SIZE), RAW)


def test_ilastik_channels_are_chosen_or_refused(path):
    both = np.stack([RAW, 255 - RAW], axis=-1)
    write(path, both, "exported_data", axistags=axistags("zyxc"))
    refused(path, "2 channels .*`channel: 0`")
    same(made_of(path, voxel_size=SIZE, channel=1), 255 - RAW)
    refused(path, "channel is 2, but .* has 2", channel=2)


def test_times_are_chosen_or_refused(path):
    write(path, np.stack([RAW, 255 - RAW]), axes="tzyx")
    refused(path, "2 times .*`time: 0`")
    same(made_of(path, voxel_size=SIZE, time=1), 255 - RAW)


def test_axes_without_names_are_said_in_the_config(path):
    write(path, np.stack([RAW, 255 - RAW], axis=1))
    refused(path, "shape .*say what its axes are|Say what its axes are")
    same(made_of(path, voxel_size=SIZE, axes="zcyx", channel=1), 255 - RAW)
    refused(path, "axes is 'zyx'", axes="zyx")


@pytest.mark.parametrize(
    ("attributes", "pattern"),
    [
        ({"axes": "zyxc"}, "3 axes .* names z, y, x, c"),
        ({"axes": "zyq"}, "z, y and x are expected"),
        ({"axes": "zyx", "axis_names": ["x", "y", "z"]}, "different ways"),
        ({"axistags": "nonsense"}, "axistags"),
    ],
)
def test_wrong_names_of_axes_are_refused(attributes, pattern, path):
    refused(write(path, **attributes), pattern)


def test_a_channel_of_a_volume_without_channels_is_refused(path):
    refused(write(path), "channel is 0, but .* has no channel", channel=0)


# ---------------------------------------------------------------- programs


def matlab(path, values, kind="uint8"):
    with h5py.File(path, "w", userblock_size=512) as file:
        file["vol"] = values
        file["vol"].attrs["MATLAB_class"] = np.bytes_(kind)
        file["#refs#/other"] = values
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    return path


def test_matlab_rows_and_columns_are_turned_back(path):
    same(made_of(matlab(path, RAW.transpose(0, 2, 1)), key="vol", voxel_size=SIZE), RAW)


def test_matlab_structures_are_refused(path):
    refused(matlab(path, RAW, "struct"), "MATLAB variable of the class struct", key="vol")


def test_bigdataviewer_values_have_no_sign_and_the_xml_says_their_size(path):
    values = (RAW.astype(np.uint16) * 257).view(np.int16)
    path = path.with_suffix(".h5")
    with h5py.File(path, "w") as file:
        file["t00000/s00/0/cells"] = values
        file["t00000/s00/1/cells"] = values[:, ::2, ::2]
        file["s00/resolutions"] = np.array([[1.0, 1, 1], [2, 2, 1]])
    path.with_suffix(".xml").write_text(
        "<SpimData><SequenceDescription><ViewSetups><ViewSetup><id>0</id><voxelSize>"
        "<unit>um</unit><size>0.004 0.008 0.04</size></voxelSize></ViewSetup></ViewSetups>"
        "</SequenceDescription></SpimData>"
    )
    same(made_of(path, key="t00000/s00/0/cells"), RAW.astype(np.uint16) * 257, SIZE)
    coarse = made_of(path, key="t00000/s00/1/cells")
    same(coarse, RAW[:, ::2, ::2].astype(np.uint16) * 257, (40, 16, 8))


def test_imaris_padding_is_cut_off(path):
    key = "DataSet/ResolutionLevel 0/TimePoint 0/Channel 0"
    letters = lambda text: np.array([c.encode() for c in text], "S1")  # noqa: E731
    with h5py.File(path, "w") as file:
        file[f"{key}/Data"] = np.pad(RAW, [(0, 13), (0, 8), (0, 27)])
        for axis, length in zip("ZYX", RAW.shape, strict=True):
            file[key].attrs[f"ImageSize{axis}"] = letters(str(length))
        about = file.create_group("DataSetInfo/Image").attrs
        for number, (length, size) in enumerate(zip(RAW.shape[::-1], SIZE[::-1], strict=True)):
            about[f"ExtMin{number}"] = letters("0")
            about[f"ExtMax{number}"] = letters(f"{length * size / 1000:.6f}")
        about["Unit"] = letters("um")
    same(made_of(path, key=f"{key}/Data"), RAW, SIZE)


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32])
def test_predictions_of_pytorch_connectomics_become_polarity(dtype, path):
    values = np.stack([RAW, 255 - RAW, RAW])
    values = values.astype(dtype) / dtype(1 if dtype == np.uint8 else 255)
    write(path, values.astype(dtype), "vol0")
    refused(path, "`kind: polarity`")
    image = made_of(path, voxel_size=SIZE, kind="polarity")
    assert image.array.dtype == dtype
    same(image, values.astype(dtype), SIZE)
    same(made_of(path, voxel_size=SIZE, channel=1), values[1].astype(dtype))


def test_a_prediction_with_channels_last_is_turned(path):
    values = np.stack([RAW, 255 - RAW, RAW])
    write(path, values.transpose(1, 2, 3, 0), axistags=axistags("zyxc"))
    same(made_of(path, voxel_size=SIZE, kind="polarity"), values)


def test_polarity_of_another_number_of_channels_is_refused(path):
    refused(write(path, np.stack([RAW, RAW])), "three channels", kind="polarity")
    refused(write(path), r"three channels|shape", kind="polarity")


def test_labels_in_floats_become_whole_numbers_or_are_refused(path):
    write(path, RAW.astype(np.float32))
    image = made_of(path, voxel_size=SIZE, kind="labels")
    assert image.array.dtype == np.uint32
    same(image, RAW.astype(np.uint32))
    values = RAW.astype(np.float32)
    values[17, 3, 4] = 0.5
    refused(write(path, values), r"holds 0\.5 in section 17", kind="labels")


def test_all_volumes_of_a_cremi_file_are_imported_by_one_entry(tmp_path):
    path, out = tmp_path / "sample_A.hdf", tmp_path / "cremi"
    with h5py.File(path, "w") as file:
        for key, values in (("raw", RAW), ("labels/clefts", RAW.astype(np.uint64))):
            file[f"volumes/{key}"] = values
            file[f"volumes/{key}"].attrs["resolution"] = SIZE
        file["volumes/labels/clefts"].attrs["offset"] = (400.0, 80.0, 12.0)
        file["annotations/ids"] = np.arange(5)
    entry = {"source": str(path), "output": str(out), "key": "*"}
    assert run("prepare", tiny_config(tmp_path, prepare={"imports": [entry]})) == 0
    same(open_image(out / "raw"), RAW, SIZE, (0, 0, 0))
    same(open_image(out / "clefts"), RAW.astype(np.uint64), SIZE, (400, 80, 12))
