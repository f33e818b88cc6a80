"""TIFF as programs write it: layouts, codecs, axes, sizes, and copies that stopped."""

import numpy as np
import pytest
import tifffile
from importing import LABELS, RAW, made_of, same

from synpol.errors import InputError

SIZE = (40.0, 8.0, 4.0)
GREY = {"photometric": "minisblack"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.data"  # the ending does not matter


def refused(source, pattern, **more):
    """Import what has to be refused; the message names the file and matches."""
    with pytest.raises(InputError, match=pattern) as caught:
        made_of(source, **{"voxel_size": SIZE, **more})
    assert source.name in str(caught.value)


# ---------------------------------------------------------------- layouts


@pytest.mark.parametrize(
    "how",
    [
        {"bigtiff": True},
        {"byteorder": ">"},
        {"bigtiff": True, "byteorder": ">"},
        {"tile": (16, 16)},
        {"rowsperstrip": 5},
        {"volumetric": True},
        {"volumetric": True, "tile": (16, 16, 16)},
        {"metadata": None, "contiguous": False},
        {"compression": "lzw"},
        {"compression": "zlib", "predictor": True},
        {"compression": "zstd", "tile": (16, 16)},
        {"compression": "lzma"},
        {"compression": "packbits"},
        {"compression": "jpeg2000"},
        {"compression": "jpegxl", "compressionargs": {"lossless": True}},
        {"ome": True, "metadata": {"axes": "ZYX"}},
    ],
    ids=str,
)
def test_every_layout_and_codec_reads_back(how, path):
    with tifffile.TiffWriter(path, **{k: how.pop(k) for k in list(how) if k in _WRITER}) as file:
        if how.get("contiguous") is False:
            for section in RAW:
                file.write(section, **GREY, **how)
        else:
            file.write(RAW, **GREY, **how)
    same(made_of(path, voxel_size=SIZE), RAW)


_WRITER = ("bigtiff", "byteorder", "ome")


@pytest.mark.parametrize("dtype", ["u1", "i1", "<u2", ">u2", "i2", "u4", "u8", "f4", "f2", "f8"])
@pytest.mark.parametrize("codec", [None, "zlib"])
def test_every_type_reads_back(dtype, codec, path):
    values = RAW.astype(dtype)
    order = values.dtype.str[0].replace("|", "<")
    tifffile.imwrite(path, values, compression=codec, byteorder=order)
    image = made_of(path, voxel_size=SIZE)
    assert image.array.dtype == values.dtype.newbyteorder("=")
    same(image, values)


def test_labels_of_64_bits_stay_exact(path):
    tifffile.imwrite(path, LABELS, compression="zlib", **GREY)
    same(made_of(path, voxel_size=SIZE, kind="labels"), LABELS)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_are_read_as_stored(bits, path):
    values = RAW & (2**bits - 1)
    if bits == 1:
        tifffile.imwrite(path, values.astype(bool), **GREY)
    else:
        write_packed(path, values, bits)
    same(made_of(path, voxel_size=SIZE, kind="labels"), values)


def write_packed(path, values, bits):
    """Write with few bits a sample, which no writer at hand does: rows packed, tag 258 changed."""
    per = 8 // bits
    wide = np.pad(values, [(0, 0), (0, 0), (0, -values.shape[2] % per)])
    parts = [wide[:, :, k::per].astype(int) << bits * (per - 1 - k) for k in range(per)]
    tifffile.imwrite(path, sum(parts).astype(np.uint8), metadata=None, **GREY)
    with tifffile.TiffFile(path, mode="r+") as file:
        for page in list(file.pages):
            page.tags["ImageWidth"].overwrite(values.shape[2])
            page.tags["BitsPerSample"].overwrite(bits)


def test_imagej_stacks_above_4_gb_are_read_in_both_byte_orders(path):
    """Their only directory is that of the first section; the others follow its data."""
    values = RAW.astype(">u2") * 257
    about = "ImageJ=1.54f\nimages=19\nslices=19\nloop=false\n"
    tifffile.imwrite(
        path, values[0], byteorder=">", description=about, metadata=None, software="", **GREY
    )
    with open(path, "ab") as file:
        file.write(values[1:].tobytes())
    same(made_of(path, voxel_size=SIZE), values)
    path.write_bytes(path.read_bytes()[:-10])
    refused(path, "cut|ends before|cannot be read")


def test_a_number_chooses_one_of_several_images(path):
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(RAW[:3], metadata={"axes": "ZYX"}, **GREY)
        file.write(RAW, metadata={"axes": "ZYX"}, **GREY)
    refused(path, "2 images .*`key: '0'`")
    same(made_of(path, voxel_size=SIZE, key="1"), RAW)
    refused(path, "has no image '2'", key="2")


def test_a_pyramid_is_read_at_full_resolution(path):
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(RAW, subifds=1, metadata={"axes": "ZYX"}, **GREY)
        file.write(RAW[:, ::2, ::2], subfiletype=1, **GREY)
    same(made_of(path, voxel_size=SIZE), RAW)


# ---------------------------------------------------------------- axes and values


@pytest.mark.parametrize("imagej", [True, False])
def test_channels_are_chosen_or_refused(imagej, path):
    both = np.stack([RAW, 255 - RAW], axis=1)
    tifffile.imwrite(path, both, imagej=imagej, ome=not imagej, metadata={"axes": "ZCYX"})
    refused(path, "2 channels .*`channel: 0`")
    same(made_of(path, voxel_size=SIZE, channel=1), 255 - RAW)


def test_times_are_chosen_or_refused(path):
    tifffile.imwrite(path, np.stack([RAW, 255 - RAW]), imagej=True, metadata={"axes": "TZYX"})
    refused(path, "2 times .*`time: 0`")
    same(made_of(path, voxel_size=SIZE, time=1), 255 - RAW)


def test_sections_that_were_saved_as_times_are_read_when_the_config_says_so(path):
    tifffile.imwrite(path, RAW, imagej=True, metadata={"axes": "TYX"})
    refused(path, "19 times .*`axes: zyx`")
    same(made_of(path, voxel_size=SIZE, axes="zyx"), RAW)


def test_two_unnamed_axes_are_said_in_the_config(path):
    tifffile.imwrite(path, np.stack([RAW, 255 - RAW], axis=1), **GREY)
    refused(path, "several axes .*`axes: zcyx`")
    same(made_of(path, voxel_size=SIZE, axes="zcyx", channel=1), 255 - RAW)


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_colours_are_chosen_or_refused(planar, path):
    colours = np.stack([RAW, 255 - RAW, RAW // 2], axis=-1 if planar == "contig" else 1)
    tifffile.imwrite(path, colours, photometric="rgb", planarconfig=planar)
    refused(path, "3 channels .*`channel: 0`")
    same(made_of(path, voxel_size=SIZE, channel=2), RAW // 2)


@pytest.mark.parametrize("codec", [None, "zlib"])
def test_min_is_white_is_inverted_as_viewers_do(codec, path):
    tifffile.imwrite(path, 255 - RAW, photometric="miniswhite", compression=codec)
    same(made_of(path, voxel_size=SIZE), RAW)
    refused(path, "min-is-white", kind="labels")


def test_a_palette_of_colours_is_no_grey_but_labels_keep_its_indices(path):
    colours = np.random.default_rng(0).integers(0, 65536, (3, 256), dtype=np.uint16)
    tifffile.imwrite(path, RAW, photometric="palette", colormap=colours)
    refused(path, "palette of colours")
    same(made_of(path, voxel_size=SIZE, kind="labels"), RAW)


def test_a_palette_of_greys_is_an_image(path):
    greys = np.tile(np.arange(256, dtype=np.uint16) * 257, (3, 1))
    tifffile.imwrite(path, RAW, photometric="palette", colormap=greys)
    same(made_of(path, voxel_size=SIZE), RAW)


# ---------------------------------------------------------------- copies that stopped


@pytest.mark.parametrize("codec", [None, "zlib"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95, 0.999])
@pytest.mark.parametrize("kind", ["pages", "volumetric", "imagej", "ome"])
def test_a_cut_file_is_never_imported(kind, share, codec, path):
    with tifffile.TiffWriter(path, imagej=kind == "imagej", ome=kind == "ome") as file:
        if kind == "pages":
            for section in RAW:
                file.write(section, contiguous=False, metadata=None, compression=codec, **GREY)
        else:
            axes = {"metadata": {"axes": "ZYX"}} if kind != "volumetric" else {"volumetric": True}
            file.write(RAW, compression=codec, **axes, **GREY)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(path, "cut|cannot be read as TIFF|lacks data")


def test_a_file_cut_between_its_pages_is_refused(path):
    with tifffile.TiffWriter(path) as file:
        for section in RAW:
            file.write(section, contiguous=False, metadata=None, **GREY)
    with tifffile.TiffFile(path) as file:
        end = file.pages[8].offset
    path.write_bytes(path.read_bytes()[:end])
    refused(path, "is cut: 8 pages are there.*copy it again")


def test_a_damaged_strip_is_refused(path):
    tifffile.imwrite(path, RAW, compression="zlib", **GREY)
    with tifffile.TiffFile(path) as file:
        place, count = file.pages[9].dataoffsets[0], file.pages[9].databytecounts[0]
    content = bytearray(path.read_bytes())
    content[place : place + count] = bytes(count)
    path.write_bytes(content)
    refused(path, "cannot be read as TIFF")


# ---------------------------------------------------------------- voxel size


def imagej(path, resolution=(250, 125), **about):
    # pixels in a unit along x and y
    tifffile.imwrite(
        path, RAW, imagej=True, resolution=resolution, metadata={"axes": "ZYX", **about}
    )
    return path


@pytest.mark.parametrize("unit", ["um", "micron", "\\u00B5m"])
def test_imagej_scales_are_read(unit, path):
    same(made_of(imagej(path, spacing=0.04, unit=unit)), RAW, SIZE)


def test_sizes_that_are_not_whole_are_exact(path):
    image = made_of(imagej(path, (1000 / 4.6, 1000 / 4.6), spacing=0.03, unit="um"))
    same(image, RAW, (30, 4.6, 4.6))


def test_a_scale_in_pixels_says_nothing(path):
    with pytest.raises(InputError, match="does not say its voxel size"):
        made_of(imagej(path, spacing=40, unit="pixel"))


def test_a_scale_without_spacing_has_to_be_completed(path):
    with pytest.raises(InputError, match=r"8 nm along y, 4 nm along x .* not along z"):
        made_of(imagej(path, unit="um"))
    same(made_of(path, voxel_size=SIZE), RAW, SIZE)


def test_a_contradiction_is_refused_with_both_numbers_unless_the_file_is_wrong(path):
    imagej(path, spacing=0.04, unit="um")
    refused(path, "40 x 4 x 4 nm .* says 40 x 8 x 4 nm .*ignore_metadata", voxel_size=(40, 4, 4))
    same(made_of(path, voxel_size=(40, 4, 4), ignore_metadata=True), RAW, (40, 4, 4))


@pytest.mark.parametrize("unit", ["nm", "µm", "Å"])
def test_ome_sizes_are_read(unit, path):
    factor = {"nm": 1, "µm": 0.001, "Å": 10}[unit]
    about = {f"PhysicalSize{a}": s * factor for a, s in zip("ZYX", SIZE, strict=True)}
    about |= {f"PhysicalSize{a}Unit": unit for a in "ZYX"}
    tifffile.imwrite(path, RAW, ome=True, metadata={"axes": "ZYX", **about})
    same(made_of(path), RAW, SIZE)


def test_resolution_tags_in_centimeters_are_read(path):
    tifffile.imwrite(path, RAW, resolution=(2.5e6, 1.25e6), resolutionunit="CENTIMETER", **GREY)
    refused(path, r"40 x 4 x 4 nm .* says \? x 8 x 4 nm", voxel_size=(40, 4, 4))
    same(made_of(path, voxel_size=SIZE), RAW, SIZE)


@pytest.mark.parametrize("dots", [72, 96, 300, 1200])
def test_dots_per_inch_of_a_printer_say_nothing(dots, path):
    tifffile.imwrite(path, RAW, resolution=(dots, dots), resolutionunit="INCH", **GREY)
    same(made_of(path, voxel_size=SIZE), RAW, SIZE)
