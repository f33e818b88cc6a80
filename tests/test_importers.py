"""Tests of the importers: what comes out is the source, in its place, and nothing else is lost."""

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile
import zarr
from funlib.persistence import open_ds
from importing import (
    LABELS,
    OFFSET,
    RAW,
    VOXEL_SIZE,
    WRITERS,
    convert,
    write_folder,
    write_hdf5,
    write_tiff,
)

from synpol.datasets.import_volume import downsampled
from synpol.errors import InputError
from synpol.images.image import open_image


@pytest.fixture
def source(tmp_path):
    """An HDF5 file with an image, labels, a mask and a plane."""
    return write_hdf5(tmp_path / "a.h5")


@pytest.fixture
def output(tmp_path):
    """Where an import is to write."""
    return tmp_path / "data" / "raw"


# ---------------------------------------------------------------- what comes out


@pytest.mark.parametrize("kind", WRITERS)
def test_every_source_reads_back_the_same_with_synpol_and_with_funlib(kind, tmp_path, output):
    made = convert(WRITERS[kind](tmp_path), output, offset=OFFSET)
    read = open_image(output, channels=0)
    assert made.path == read.path == f"{output}/s0"
    assert np.array_equal(read.array[:], RAW) and read.array.dtype == np.uint8
    assert (read.voxel_size, read.offset, read.unit) == (VOXEL_SIZE, OFFSET, "nm")
    funlib = open_ds(f"{output}/s0")
    assert np.array_equal(funlib[:], RAW) and funlib.dtype == np.uint8
    assert (funlib.voxel_size, funlib.offset, funlib.units) == (VOXEL_SIZE, OFFSET, ["nm"] * 3)


def test_image_is_ome_zarr_with_the_centre_of_the_first_voxel_as_translation(source, output):
    convert(source, output, offset=OFFSET)
    group = zarr.open_group(output, mode="r")
    image = group.attrs["ome"]["multiscales"][0]
    scale, translation = image["datasets"][0]["coordinateTransformations"]
    assert group.metadata.zarr_format == 3 and group.attrs["ome"]["version"] == "0.5"
    assert scale["scale"] == list(VOXEL_SIZE)
    assert translation["translation"] == [
        o + v / 2 for o, v in zip(OFFSET, VOXEL_SIZE, strict=True)
    ]
    assert [axis["unit"] for axis in image["axes"]] == ["nanometer"] * 3


def test_labels_above_2_to_the_53_stay_exact(source, output):
    image = convert(source, output, key="volumes/labels", kind="labels")
    assert image.array.dtype == np.uint64 and np.array_equal(image.array[:], LABELS)


def test_16_bit_pngs_keep_their_values(tmp_path, output):
    deep = RAW[:3].astype(np.uint16) * 257
    image = convert(write_folder(tmp_path / "deep", deep), output)
    assert image.array.dtype == np.uint16 and np.array_equal(image.array[:], deep)


def test_mask_becomes_0_and_1(source, output):
    image = convert(source, output, key="volumes/mask", kind="labels")
    assert image.array.dtype == np.uint8 and np.array_equal(image.array[:], RAW > 64)


def test_single_page_tiff_is_one_section(tmp_path, output):
    image = convert(write_tiff(tmp_path / "one.tif", RAW[0]), output)
    assert np.array_equal(image.array[:], RAW[:1])


@pytest.mark.parametrize("kind", WRITERS)
def test_sections_are_from_the_first_to_one_before_the_last(kind, tmp_path, output):
    image = convert(WRITERS[kind](tmp_path), output, sections=(1, 18))
    assert np.array_equal(image.array[:], RAW[1:18])


@pytest.mark.parametrize("sections", [(5, 2), (3, 3), (0, 20), (-1, 3)])
def test_sections_that_are_not_there_are_refused_before_anything_is_written(
    sections, source, output
):
    with pytest.raises(InputError, match=rf"sections is \[{sections[0]}, .* has 19 sections"):
        convert(source, output, sections=sections)
    assert not output.parent.exists()


# ---------------------------------------------------------------- downsampling and units


def test_downsampled_image_is_the_rounded_mean_of_whole_boxes_in_plane(source, output):
    image = convert(source, output, downsample=4, offset=OFFSET)
    mean = RAW[:, :24, :36].reshape(19, 6, 4, 9, 4).mean(axis=(2, 4))
    assert np.array_equal(image.array[:], np.rint(mean))
    assert (image.voxel_size, image.offset) == ((40, 32, 16), OFFSET)
    assert open_ds(f"{output}/s0").voxel_size == (40, 32, 16)


def test_downsampled_labels_are_labels_of_their_own_boxes(source, output):
    image = convert(source, output, key="volumes/labels", kind="labels", downsample=3)
    boxes = LABELS[:, :24, :36].reshape(19, 8, 3, 12, 3)
    small = image.array[:]
    assert small.shape == (19, 8, 12)
    assert (boxes == small[:, :, None, :, None]).any(axis=(2, 4)).all()


def test_downsampled_floats_are_averaged_without_rounding():
    slab = np.random.default_rng(2).random((2, 4, 6), dtype=np.float32)
    mean = slab.reshape(2, 2, 2, 3, 2).mean(axis=(2, 4))
    assert np.allclose(downsampled(slab, 2, "image"), mean)


def test_downsampled_mask_read_as_an_image_rounds_like_any_image(source, output):
    image = convert(source, output, key="volumes/mask", downsample=3)
    mean = (RAW > 64)[:, :24, :36].reshape(19, 8, 3, 12, 3).mean(axis=(2, 4))
    assert np.array_equal(image.array[:], mean > 0.5)


def test_factor_larger_than_a_section_is_refused(source, output):
    with pytest.raises(InputError, match="downsample"):
        convert(source, output, downsample=25)


def test_voxels_of_4_6_nm_can_be_given_in_angstrom_and_shrunk_fourfold(source, output):
    image = convert(
        source, output, voxel_size=(300, 46, 46), offset=(0, 23, -46), unit="angstrom", downsample=4
    )
    assert (image.voxel_size, image.offset, image.unit) == (
        (300, 184, 184),
        (0, 23, -46),
        "angstrom",
    )
    read = open_image(output)
    assert read.voxel_size_nm == pytest.approx((30, 18.4, 18.4))
    funlib = open_ds(read.path)
    assert (funlib.voxel_size, funlib.offset) == ((300, 184, 184), (0, 23, -46))
    assert funlib.units == ["angstrom"] * 3


def test_size_that_becomes_whole_by_downsampling_is_accepted(source, output):
    image = convert(source, output, voxel_size=(30, 4.6, 4.6), downsample=5)
    assert image.voxel_size == (30, 23, 23)


@pytest.mark.parametrize(
    ("more", "voxel_size", "offset"),
    [
        ({"voxel_size": (30, 4.6, 4.6)}, (300, 46, 46), (0, 0, 0)),
        ({"offset": (0, 0.5, 0)}, (400, 80, 40), (0, 5, 0)),
    ],
)
def test_size_that_is_not_whole_is_written_in_a_finer_unit(
    more, voxel_size, offset, source, output
):
    image = convert(source, output, **{"voxel_size": (40, 8, 4), "offset": (0, 0, 0), **more})
    assert (image.voxel_size, image.offset, image.unit) == (voxel_size, offset, "angstrom")
    assert open_image(output).voxel_size_nm == pytest.approx([v / 10 for v in voxel_size])


def test_voxel_size_of_zero_is_refused(source, output):
    with pytest.raises(InputError, match=r"voxel_size .* above zero"):
        convert(source, output, voxel_size=(30, 0, 4))


# ---------------------------------------------------------------- sources at fault


def test_missing_key_lists_what_the_file_holds(source, output):
    with pytest.raises(InputError, match=r"which dataset .*one, volumes/labels, volumes/mask"):
        convert(source, output, key=None)


@pytest.mark.parametrize("key", ["volumes/rwa", "raw", "volumes"])
def test_wrong_key_names_the_nearest(key, source, output):
    with pytest.raises(InputError, match=f"no dataset '{key}'.*volumes/raw"):
        convert(source, output, key=key)


def test_plane_is_not_a_volume(source, output):
    with pytest.raises(InputError, match=r"one has the shape \(24, 37\); \(z, y, x\) is expected"):
        convert(source, output, key="one")


def test_missing_file_is_named_with_its_neighbour(source, output):
    with pytest.raises(InputError, match=r"no file or folder .*b\.h5; did you mean 'a\.h5'"):
        convert(source.with_name("b.h5"), output)


@pytest.mark.parametrize("name", ["a.h5", "a.tif", "a.txt"])
def test_unreadable_file_is_named(name, tmp_path, output):
    (tmp_path / name).write_text("neither of them")
    with pytest.raises(InputError, match=f"{name} (cannot be read as|is neither)"):
        convert(tmp_path / name, output)


def test_folder_without_sections_is_refused(tmp_path, output):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no PNG or TIFF sections"):
        convert(tmp_path / "empty", output)


def test_colour_sections_are_refused(tmp_path, output):
    folder = write_folder(tmp_path / "colour", np.stack([RAW[:2]] * 3, axis=-1))
    with pytest.raises(InputError, match=r"shape \(24, 37, 3\); a grey image is expected"):
        convert(folder, output)


@pytest.mark.parametrize("odd", [RAW[0, 1:], RAW[0].astype(np.uint16)], ids=["shape", "dtype"])
def test_section_unlike_the_first_is_named(odd, tmp_path, output):
    folder = write_folder(tmp_path / "pngs", [RAW[0], RAW[1], odd])
    with pytest.raises(
        InputError, match=r"section_002.png is .* but .*section_000.png is .* alike"
    ):
        convert(folder, output)


def test_import_that_failed_half_way_is_made_anew_when_its_source_is_mended(tmp_path, output):
    folder = write_folder(tmp_path / "pngs", [*RAW[:18], RAW[18, 1:]])
    with pytest.raises(InputError, match="section_018"):
        convert(folder, output)
    iio.imwrite(folder / "section_018.png", RAW[18])
    assert np.array_equal(convert(folder, output).array[:], RAW)


def test_all_pages_of_a_tiff_are_read_even_where_each_is_a_series(tmp_path, output):
    with tifffile.TiffWriter(tmp_path / "pages.tif") as file:
        for section in RAW:
            file.write(section, photometric="minisblack", contiguous=False)
    assert np.array_equal(convert(tmp_path / "pages.tif", output).array[:], RAW)


def test_tiff_with_unequal_pages_is_refused(tmp_path, output):
    with tifffile.TiffWriter(tmp_path / "pages.tif") as file:
        for section in (RAW[0], RAW[1], RAW[2, 1:]):
            file.write(section, photometric="minisblack", contiguous=False)
    with pytest.raises(InputError, match=r"pages\.tif"):
        convert(tmp_path / "pages.tif", output)


def test_tiff_whose_sections_are_not_pages_is_read(tmp_path, output):
    # as ImageJ above 4 GB
    tifffile.imwrite(tmp_path / "a.tif", RAW, imagej=True, truncate=True, metadata={"axes": "ZYX"})
    assert np.array_equal(convert(tmp_path / "a.tif", output).array[:], RAW)


def test_tiff_whose_sections_are_channels_is_refused(tmp_path, output):
    tifffile.imwrite(tmp_path / "a.tif", RAW, imagej=True)
    with pytest.raises(InputError, match=r"a\.tif has 19 channels .*`axes: zyx`"):
        convert(tmp_path / "a.tif", output)
    assert np.array_equal(convert(tmp_path / "a.tif", output, axes="zyx").array[:], RAW)
