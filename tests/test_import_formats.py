"""Formats that the importers know, each written by its own library, and formats of one's own."""

import bz2
import gzip
import subprocess
import sys
import warnings

import mrcfile
import nibabel
import nrrd
import numpy as np
import pytest
from importing import LABELS, RAW, VOXEL_SIZE, convert, made_of, same
from recipes import ROOT, run, tiny_config

from synpol import formats
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


# ---------------------------------------------------------------- files that no format opens


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        (b"PK\x03\x04rest", "ZIP archive; unpack"),
        (b"\x93NUMPY\x01", "NumPy file; write the array as TIFF"),
        (b"\x89PNG\r\n\x1a\n", "single PNG image; .*folder"),
        (b"MATLAB 5.0 MAT-file", "old version; save it with save"),
        (b"# AmiraMesh BINARY", "Amira file; open it in Fiji"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"<!DOCTYPE html>", "web page.*download the file again"),
        (gzip.compress(b"some text", mtime=0), "compressed with gzip; unpack"),
        (b"z,y,x\n1,2,3\n", "begins with the text 'z,y,x"),
        (b"", "empty"),
        (bytes(5000), "first bytes are zero.*copy it again"),
        (b"\x01\x02\x03\x04" * 100, "begins with the bytes 01 02 03 04"),
    ],
)
def test_a_file_of_no_format_is_refused_with_a_true_reason(content, pattern, tmp_path):
    source = tmp_path / "a.tif"
    source.write_bytes(content)
    refused(source, f"is neither HDF5 .*{pattern}")


# ---------------------------------------------------------------- MRC


def write_mrc(path, values, size=None, **header):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with mrcfile.new(path, overwrite=True) as file:
            file.set_data(values)
            if size is not None:
                file.voxel_size = tuple(v * 10 for v in size[::-1])  # Angstrom, x, y, z
            for name, value in header.items():
                file.header[name] = value
    return path


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.uint16, np.float32, np.float16])
def test_mrc_values_and_sizes_are_read(dtype, path):
    values = RAW.astype(dtype)
    image = made_of(write_mrc(path, values, (40, 4.6, 4.6)))
    assert image.array.dtype == dtype
    same(image, values, (40, 4.6, 4.6))


@pytest.mark.parametrize("packer", [gzip, bz2])
def test_compressed_mrc_is_read(packer, path):
    write_mrc(path, RAW.astype(np.int16), SIZE)
    path.write_bytes(packer.compress(path.read_bytes()))
    same(made_of(path, sections=(3, 18)), RAW[3:18].astype(np.int16), SIZE)
    path.write_bytes(path.read_bytes()[:-300])
    refused(path, "ends before its last section|cut or damaged")


def test_mrc_axes_are_obeyed(path):
    write_mrc(path, RAW.transpose(0, 2, 1).astype(np.int16), mapc=2, mapr=1, maps=3)
    same(made_of(path, voxel_size=SIZE), RAW.astype(np.int16))


def test_bytes_of_imod_have_no_sign_where_it_says_so(path):
    write_mrc(path, RAW.view(np.int8), SIZE)
    content = bytearray(path.read_bytes())
    content[152:160] = b"DOMI" + bytes(4)
    path.write_bytes(content)
    same(made_of(path), RAW, SIZE)


def test_mrc_without_a_scale_or_with_another_one_needs_the_config(path):
    write_mrc(path, RAW.astype(np.int16), (0.1, 0.1, 0.1))
    with pytest.raises(InputError, match="does not say its voxel size"):
        made_of(path)
    write_mrc(path, RAW.astype(np.int16), SIZE)
    refused(path, "40 x 4 x 4 nm .* says 40 x 8 x 4 nm", voxel_size=(40, 4, 4))


def test_an_origin_in_mrc_is_passed_over_with_a_word(path, caplog):
    write_mrc(path, RAW.astype(np.int16), SIZE, origin=(10, 20, 30))
    same(made_of(path), RAW.astype(np.int16), SIZE, (0, 0, 0))
    assert "origin" in caplog.text and "`offset`" in caplog.text


def test_a_cut_mrc_file_is_refused(path):
    write_mrc(path, RAW.astype(np.int16), SIZE)
    path.write_bytes(path.read_bytes()[:-10])
    refused(path, "ends before its last section.*copy it again")


# ---------------------------------------------------------------- NIfTI


def write_nifti(path, values, steps=SIZE[::-1], centre=(0, 0, 0), unit="micron", factor=0.001):
    affine = np.diag([*(s * factor for s in steps), 1.0])
    affine[:3, 3] = [c * factor for c in centre]
    image = nibabel.Nifti1Image(
        values.transpose(*range(values.ndim)[::-1]), affine, dtype=values.dtype
    )
    image.header.set_xyzt_units(unit)
    real = path.with_name("b.nii.gz" if path.suffix == ".gz" else "b.nii")
    nibabel.save(image, real)
    real.rename(path)
    return path


@pytest.mark.parametrize("ending", ["data", "gz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint64, np.float32])
def test_nifti_values_sizes_and_places_are_read(dtype, ending, path):
    path = path.with_suffix(f".{ending}")
    centre = [o + s / 2 for o, s in zip((100, 200, 400), SIZE[::-1], strict=True)]
    values = LABELS if dtype == np.uint64 else RAW.astype(dtype)
    image = made_of(write_nifti(path, values, centre=centre))
    assert image.array.dtype == dtype
    same(image, values, SIZE, (400, 200, 100))


def test_nifti_of_itk_points_left_and_posterior(path):
    steps, centre = (-4, -8, 40), (-102, -204, 420)
    same(made_of(write_nifti(path, RAW, steps, centre)), RAW, SIZE, (400, 200, 100))


def test_mirrored_and_oblique_nifti_is_refused(path):
    refused(write_nifti(path, RAW, (4, 8, -40)), "mirrored axes.*ignore_metadata")
    same(made_of(path, voxel_size=SIZE, ignore_metadata=True), RAW, SIZE)
    affine = np.eye(4)
    affine[0, 1] = 0.5
    image = nibabel.Nifti1Image(RAW.T, affine)
    nibabel.save(image, path.with_name("b.nii"))
    refused(path.with_name("b.nii"), "oblique")


def test_nifti_without_a_unit_needs_the_config(path):
    write_nifti(path, RAW, unit="unknown", factor=1)
    with pytest.raises(InputError, match="without a unit; if they are nm, say `unit: nm`"):
        made_of(path)
    same(made_of(path, unit="nm"), RAW, SIZE)
    nibabel.save(nibabel.Nifti1Image(RAW.T, np.eye(4)), path.with_name("b.nii"))
    same(made_of(path.with_name("b.nii"), voxel_size=SIZE), RAW, SIZE)


def test_nifti_channels_and_times_are_chosen(path):
    write_nifti(path, np.stack([RAW, 255 - RAW]))
    refused(path, "2 times .*`time: 0`")
    same(made_of(path, time=1), 255 - RAW, SIZE)


def test_scaled_nifti_is_an_image_and_no_labels(path):
    image = nibabel.Nifti1Image(RAW.T, np.eye(4))
    image.header.set_slope_inter(0.5, 3)
    nibabel.save(image, path.with_name("b.nii"))
    source = path.with_name("b.nii")
    refused(source, "scales its values", kind="labels")
    expected = np.asarray(nibabel.load(source).dataobj).T.astype(np.float32)
    same(made_of(source, voxel_size=SIZE), expected)


# ---------------------------------------------------------------- NRRD


def nrrd_header(size=SIZE, unit="nm", origin=(0, 0, 0)):
    return {
        "space directions": np.diag(size[::-1]),
        "space origin": np.asarray(origin, float),
        "space": "left-posterior-superior",
        "space units": [unit] * 3,
        "kinds": ["domain"] * 3,
    }


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2"])
@pytest.mark.parametrize("detached", [False, True])
def test_nrrd_values_sizes_and_places_are_read(encoding, detached, tmp_path):
    path = tmp_path / ("a.nhdr" if detached else "a.nrrd")
    header = nrrd_header(origin=(102, 204, 420)) | {"encoding": encoding}
    nrrd.write(str(path), RAW.astype(">u2").T, header, index_order="F")
    same(made_of(path, sections=(2, 19)), RAW[2:].astype(np.uint16), SIZE, (400, 200, 100))


@pytest.mark.parametrize(("name", "factor"), [("um", 1e-3), ("mm", 1e-6)])
def test_numbers_without_a_unit_are_told_in_the_unit_that_is_plausible(name, factor, path):
    real = path.with_suffix(".nrrd")
    nrrd.write(str(real), RAW.T, {"spacings": [v * factor for v in SIZE[::-1]]})
    sizes = ", ".join(f"{v:g}" for v in SIZE)
    with pytest.raises(InputError, match=rf"if they are {name}, say `voxel_size: \[{sizes}\]`"):
        made_of(real)
    same(made_of(real, voxel_size=SIZE), RAW, SIZE)


def test_nrrd_spacings_without_a_unit_need_the_config(path):
    real = path.with_suffix(".nrrd")
    nrrd.write(str(real), RAW.T, {"spacings": list(SIZE[::-1])})
    with pytest.raises(InputError, match="without a unit"):
        made_of(real)
    same(made_of(real, unit="nm"), RAW, SIZE)
    refused(real, "voxel_size is 40 x 4 x 4 nm", voxel_size=(40, 4, 4))


def test_nrrd_axes_are_obeyed(path):
    real = path.with_suffix(".nrrd")
    header = nrrd_header()
    header["space directions"] = np.diag(SIZE[::-1])[[2, 0, 1]]  # stored z, x, y; fastest first
    nrrd.write(str(real), RAW.transpose(0, 2, 1), header, index_order="F")
    same(made_of(real), RAW, SIZE)


def test_nrrd_channels_are_chosen(path):
    real = path.with_suffix(".nrrd")
    both = np.stack([RAW.T, 255 - RAW.T])
    nrrd.write(str(real), both, {"kinds": ["vector", "domain", "domain", "domain"]})
    refused(real, "2 channels .*`channel: 0`")
    same(made_of(real, voxel_size=SIZE, channel=1), 255 - RAW)


def test_cut_and_unreadable_nrrd_is_refused(path):
    real = path.with_suffix(".nrrd")
    for encoding in ("raw", "gzip"):
        nrrd.write(str(real), RAW.T, {"encoding": encoding})
        real.write_bytes(real.read_bytes()[:-500])
        refused(real, "ends before its last section.*copy it again")
    nrrd.write(str(real), RAW.T, {"encoding": "ascii"})
    refused(real, "encoding ascii; save it")


def test_nrrd_values_in_another_folder_are_refused(tmp_path):
    (tmp_path / "secret").write_bytes(RAW.tobytes())
    (tmp_path / "inside").mkdir()
    path = tmp_path / "inside" / "a.nhdr"
    about = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 37 24 19\nencoding: raw\ndata file: {}\n"
    for name in ("../secret", str(tmp_path / "secret")):
        path.write_text(about.format(name))
        refused(path, "one file in the same folder is expected")
    path.write_text(about.format("gone"))
    refused(path, "which is missing")


# ---------------------------------------------------------------- a format of one's own


@pytest.fixture
def npy(monkeypatch):
    """A format that lives outside the package: a NumPy file."""
    monkeypatch.setitem(formats.FORMATS, "NumPy", None)  # gone after the test

    @formats.register
    class NpyStack(formats.Stack):
        name = "NumPy"
        files = "NumPy (.npy)"

        def __init__(self, path, key):
            self.data = np.load(path, mmap_mode="r")
            self.shape, self.dtype = self.data.shape, self.data.dtype

        @classmethod
        def opens(cls, path):
            return path.suffix == ".npy"

        def slab(self, begin, end):
            return self.data[begin:end]


def test_a_format_from_outside_is_imported_by_the_command(npy, tmp_path, output):
    np.save(tmp_path / "a.npy", RAW)
    volume = {"source": f"{tmp_path}/a.npy", "output": f"{output}", "voxel_size": VOXEL_SIZE}
    config = tiny_config(tmp_path, prepare={"imports": [volume]})
    assert run("prepare", config) == 0
    image = open_image(output)
    assert np.array_equal(image.array[:], RAW)
    assert image.voxel_size == VOXEL_SIZE


def test_a_format_from_outside_is_named_in_messages_and_help(npy, tmp_path, output):
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(InputError, match=r"is neither HDF5 .*, nor TIFF .*, nor NumPy \(\.npy\)"):
        convert(tmp_path / "a.txt", output)
    assert "NumPy (.npy)" in formats.known_formats()


def test_of_two_formats_for_a_file_the_later_one_opens_it(npy, tmp_path, monkeypatch):
    monkeypatch.setitem(formats.FORMATS, "reversed NumPy", None)

    @formats.register
    class Reversed(formats.FORMATS["NumPy"]):
        name = "reversed NumPy"

        def slab(self, begin, end):
            return self.data[::-1][begin:end]

    np.save(tmp_path / "a.npy", RAW)
    stack = formats.open_stack(str(tmp_path / "a.npy"), None)
    assert np.array_equal(stack.slab(0, 1)[0], RAW[-1])


def test_the_command_lists_formats_in_its_help():
    script = [sys.executable, str(ROOT / "pipelines" / "prepare.py"), "--help"]
    told = subprocess.run(script, capture_output=True, text=True, check=True).stdout
    assert "Formats that are imported: HDF5 (.h5)" in told
