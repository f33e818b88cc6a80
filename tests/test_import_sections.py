"""Folders of sections: their order, what does not belong there, and what the files hold."""

import struct
import zlib

import numpy as np
import PIL.Image
import pytest
import tifffile
from importing import RAW, made_of, same

from synpol.errors import InputError

SIZE = (40, 8, 4)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sections").mkdir()
    return tmp_path / "sections"


def save(folder, pattern="s{:04d}.png", numbers=range(19), volume=RAW):
    for number, section in zip(numbers, volume, strict=False):
        PIL.Image.fromarray(section).save(folder / pattern.format(number))
    return folder


def refused(folder, pattern, **more):
    """Import what has to be refused; the message names the folder and matches."""
    with pytest.raises(InputError, match=pattern) as caught:
        made_of(folder, **{"voxel_size": SIZE, **more})
    assert str(folder) in str(caught.value)


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("pattern", "numbers"),
    [
        ("s{}.png", range(19)),  # s2 before s10
        ("s{:04d}.png", range(1, 20)),
        ("2021-03-04_{:03d}_raw.png", range(0, 190, 10)),
        ("{:d}.PNG", range(7, 26)),
        ("vol2_slice{:d}_8nm.png", range(90, 109)),
    ],
)
def test_sections_are_in_the_order_of_the_number_that_differs(pattern, numbers, folder):
    same(made_of(save(folder, pattern, numbers), voxel_size=SIZE), RAW)


def test_a_number_that_counts_wins_over_a_time_stamp(folder):
    for z, section in enumerate(RAW):
        name = f"s{z:03d}_t{(z * 7919) % 1000:04d}.png"
        PIL.Image.fromarray(section).save(folder / name)
    same(made_of(folder, voxel_size=SIZE), RAW)


def test_missing_sections_are_named_and_filled_only_where_asked(folder):
    save(folder)
    for z in (5, 6, 11):
        (folder / f"s{z:04d}.png").unlink()
    refused(folder, r"lacks 3 of 19 sections: s0005\.png, s0006\.png, s0011\.png.*`fill_missing")
    expected = RAW.copy()
    expected[[5, 6, 11]] = 0
    same(made_of(folder, voxel_size=SIZE, fill_missing=True), expected)


def test_a_gap_in_numbers_that_count_by_ten_is_seen(folder):
    save(folder, "s{:04d}.png", range(0, 190, 10))
    (folder / "s0050.png").unlink()
    refused(folder, r"lacks 1 of 19 sections: s0050\.png")


def test_images_beside_labels_are_refused_or_chosen(folder):
    save(folder, "{:03d}_image.png")
    save(folder, "{:03d}_label.png", volume=RAW // 50)
    refused(folder, r"different kinds of names: 19 like .*`key: '\*_(image|label)\.png'")
    same(made_of(folder, voxel_size=SIZE, key="*_image.png"), RAW)
    same(made_of(folder, voxel_size=SIZE, kind="labels", key="*_label.png"), RAW // 50)
    refused(folder, "holds no PNG or TIFF sections.*names match", key="*.tif")


@pytest.mark.parametrize("name", ["overview.png", "s0005 (1).png", "s0005 - copy.png", "s0005.tif"])
def test_strangers_copies_and_two_kinds_of_one_section_are_refused(name, folder):
    save(folder)
    PIL.Image.fromarray(RAW[5]).save(folder / name)
    refused(folder, "different kinds of names")


def test_one_number_twice_is_refused(folder):
    save(folder)
    PIL.Image.fromarray(RAW[5]).save(folder / "s05.png")
    refused(folder, r"section 5 twice, s0005\.png and s05\.png")


def test_tiles_are_no_sections(folder):
    for y in range(3):
        for x in range(3):
            PIL.Image.fromarray(RAW[y]).save(folder / f"tile_{y}_{x}.png")
    refused(folder, "several numbers.*stitch")


def test_numbers_that_are_far_apart_are_no_row(folder):
    save(folder, "s{}.png", (1634567890123, 1634567890777, 1634567999999))
    refused(folder, "far apart.*rename")


def test_hidden_files_and_other_kinds_of_files_are_passed_over(folder):
    save(folder)
    for z in range(19):
        (folder / f"._s{z:04d}.png").write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X")
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "notes.txt", "s0000.png.md5"):
        (folder / name).write_text("no section")
    (folder / "thumbnails").mkdir()
    same(made_of(folder, voxel_size=SIZE), RAW)


def test_a_section_that_is_no_image_is_named(folder):
    save(folder)
    (folder / "s0019.png").write_bytes(b"")
    refused(folder, r"s0019\.png cannot be read as an image.*copy it again")


def test_a_section_that_is_cut_is_named(folder):
    save(folder)
    content = (folder / "s0018.png").read_bytes()
    (folder / "s0018.png").write_bytes(content[:-100])
    refused(folder, r"s0018\.png cannot be read as an image")


def test_files_without_endings_are_known_by_their_content(folder):
    save(folder)
    for path in list(folder.iterdir()):
        path.rename(path.with_suffix(""))
    same(made_of(folder, voxel_size=SIZE), RAW)


# ---------------------------------------------------------------- what the files hold


def test_jpeg_sections_are_images_and_never_labels(folder):
    smooth = np.tile(np.arange(64, dtype=np.uint8)[:, None], (4, 1, 64))
    save(folder, "s{:04d}.jpg", volume=smooth)
    image = made_of(folder, voxel_size=SIZE)
    assert np.abs(image.array[:].astype(int) - smooth).max() < 4
    refused(folder, "is JPEG, whose compression changes labels", kind="labels")


def png(path, values, bits, palette=None):
    """Write a PNG of few bits; the layout is that of the PNG standard."""
    per = 8 // bits
    wide = np.pad(values, [(0, 0), (0, -values.shape[1] % per)]).astype(int)
    packed = sum(wide[:, k::per] << bits * (per - 1 - k) for k in range(per)).astype(np.uint8)
    kind = 0 if palette is None else 3
    head = struct.pack(">IIBBBBB", *values.shape[::-1], bits, kind, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in packed))
    chunks = [(b"IHDR", head), (b"IDAT", rows), (b"IEND", b"")]
    if palette is not None:
        chunks.insert(1, (b"PLTE", palette))
    parts = [
        struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("coloured", [False, True])
def test_few_bits_and_palettes_keep_the_numbers_that_are_stored(bits, coloured, folder):
    values = RAW[:3] & (2**bits - 1)
    colours = np.random.default_rng(0).integers(1, 255, 3 * 2**bits).astype(np.uint8).tobytes()
    for z, section in enumerate(values):
        png(folder / f"{z}.png", section, bits, colours if coloured else None)
    same(made_of(folder, voxel_size=SIZE, kind="labels"), values)
    if coloured:
        refused(folder, "palette of colours")


def test_a_palette_of_greys_is_an_image(folder):
    greys = bytes(v for g in range(256) for v in (g, g, g))
    for z, section in enumerate(RAW[:3]):
        png(folder / f"{z}.png", section, 8, greys)
    same(made_of(folder, voxel_size=SIZE), RAW[:3])


def test_colours_are_chosen_or_refused(folder):
    save(folder, volume=np.stack([RAW, 255 - RAW, RAW // 2], axis=-1))
    refused(folder, "shape .* a grey image is expected.*`channel: 0`")
    same(made_of(folder, voxel_size=SIZE, channel=1), 255 - RAW)
    refused(folder, "channel is 3, but .* has 3", channel=3)


def test_large_sections_are_no_attack(folder, monkeypatch):
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 10)
    same(made_of(save(folder), voxel_size=SIZE), RAW)


def test_tiff_sections_are_read_with_their_codecs_and_sizes(folder):
    for z, section in enumerate(RAW):
        tifffile.imwrite(
            folder / f"s{z}.tif",
            255 - section,
            photometric="miniswhite",
            compression="lzw",
            resolution=(2.5e6, 1.25e6),
            resolutionunit="CENTIMETER",
        )
    same(made_of(folder, voxel_size=SIZE), RAW, SIZE)
    refused(folder, r"40 x 4 x 4 nm .* says \? x 8 x 4 nm", voxel_size=(40, 4, 4))


def test_stacks_in_a_folder_are_no_sections(folder):
    for number in range(2):
        tifffile.imwrite(folder / f"stack{number}.tif", RAW, photometric="minisblack")
    refused(folder, r"stack0\.tif has the shape .*one section a file is expected")
