"""Files that cannot be meant: the refusal names the file, and the way that it names leads on."""

import shutil
import sys
from functools import partial

import h5py
import numpy as np
import PIL.Image
import pytest
import zarr
from importing import RAW, write_hdf5
from recipes import ROOT

from synpol.config import ImportVolume
from synpol.datasets.import_volume import import_volume
from synpol.errors import InputError

sys.path.insert(0, str(ROOT / "benchmarks"))
from input_files.arrays import zarr_array
from input_files.chunked import knossos, n5, webknossos
from input_files.file import BOTH, CORNER, SIZE
from input_files.hdf5 import h5
from input_files.headers import mrc, nifti, nrrd_file
from input_files.sections import sections
from input_files.tiff import tif

SAID = {"voxel_size": SIZE}
CREMI = {"resolution": SIZE, "offset": CORNER}
#: stands for repairing the file: it is written once more, whole
AGAIN = {"again": True}


def cut(make, part, folder):
    """Cut 200 bytes off a file, or off one inside a folder."""
    path = make(folder)
    file = path if part is None else sorted(path.rglob(part))[0]
    file.write_bytes(file.read_bytes()[:-200])
    return path


def changed(make, change, folder):
    path = make(folder)
    change(path)
    return path


def copied(path):
    shutil.copy(path / "s0003.png", path / "s0003 (1).png")


def second_kind(path):
    for z, section in enumerate(RAW):
        PIL.Image.fromarray(section).save(path / f"s{z}.png")


def smaller(path):
    PIL.Image.fromarray(RAW[3, :10]).save(path / "s0003.png")


def without_data(path):
    for other in path.parent.iterdir():
        if other != path:
            other.unlink()


def two_datasets(folder):
    return write_hdf5(folder / "a.h5", {"a": RAW, "b": RAW})


def two_arrays(folder):
    zarr.open_group(folder)
    zarr_array(folder)
    shutil.copytree(folder / "a", folder / "b")
    return folder


def virtual(folder):
    layout = h5py.VirtualLayout(RAW.shape, "u1")
    layout[:] = h5py.VirtualSource("other.h5", "a", RAW.shape)
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_virtual_dataset("main", layout)
    return folder / "a.h5"


def no_json(path):
    (path / "attributes.json").write_text("{")


def no_layers(path):
    (path / "datasource-properties.json").write_text("{}")


gzipped = partial(nrrd_file, encoding="gzip")
apart = partial(nrrd_file, encoding="gzip", ending="nhdr")
plain_n5 = partial(n5, codec="gzip")
jpeg = partial(sections, pattern="s{}.jpg")

#: how the file comes about, keys of the import, what is said, and keys that lead on
CASES = {
    "cut HDF5": (partial(cut, h5, None), SAID, "truncated file.*copy it again", AGAIN),
    "cut TIFF": (partial(cut, tif, None), SAID, "copy it again", AGAIN),
    "cut NIfTI": (
        partial(cut, partial(nifti, ending="nii.gz"), None),
        {},
        "ends before its last section.*copy it again",
        AGAIN,
    ),
    "cut MRC": (
        partial(cut, partial(mrc, dtype=np.int16), None),
        {},
        "ends before its last section.*copy it again",
        AGAIN,
    ),
    "cut NRRD": (partial(cut, gzipped, None), {}, "copy it again", AGAIN),
    "NRRD without its data": (
        partial(changed, apart, without_data),
        {},
        r"a\.raw\.gz, which is missing; copy it too",
        AGAIN,
    ),
    "cut section": (
        partial(cut, sections, "s0003*"),
        SAID,
        r"s0003\.png cannot be read.*copy it again",
        AGAIN,
    ),
    "cut KNOSSOS cube": (
        partial(cut, knossos, "*.raw"),
        {},
        r"z0000\.raw has 2096952 bytes instead of 2097152; copy it again",
        AGAIN,
    ),
    "cut N5 block": (partial(cut, plain_n5, "0/0/0"), {}, "a/0/0/0.*copy it again", AGAIN),
    "N5 without JSON": (
        partial(changed, plain_n5, no_json),
        {},
        r"attributes\.json is not JSON.*copy it again",
        AGAIN,
    ),
    "WEBKNOSSOS without layers": (
        partial(changed, webknossos, no_layers),
        {},
        "the entry 'dataLayers' is missing",
        AGAIN,
    ),
    "a gap": (
        partial(sections, gap=True),
        SAID,
        r"lacks 1 of 19 sections: s0005\.png.*`fill_missing: true`",
        {"fill_missing": True},
    ),
    "a copy of a section": (
        partial(changed, sections, copied),
        SAID,
        r"remove copies such as 's0003 \(1\)\.png', or say.*`key: 's\?\?\?\?\.png'`",
        {"key": "s????.png"},
    ),
    "a second kind of names": (
        partial(changed, partial(sections, pattern="em_{:03d}.png"), second_kind),
        SAID,
        r"different kinds of names.*`key: 'em_\*\.png'`",
        {"key": "em_*.png"},
    ),
    "a smaller section": (
        partial(changed, sections, smaller),
        SAID,
        r"s0003\.png is \(10, 37\) uint8, but .*resave or crop it",
        AGAIN,
    ),
    "no size in HDF5": (h5, {}, r"`voxel_size: \[z, y, x\]` in nm", SAID),
    "no size in TIFF": (tif, {}, r"`voxel_size: \[z, y, x\]` in nm", SAID),
    "no size of sections": (sections, {}, r"`voxel_size: \[z, y, x\]` in nm", SAID),
    "another size": (
        partial(h5, attributes=CREMI),
        {"voxel_size": (30, 8, 8)},
        "30 x 8 x 8 nm .* says 40 x 8 x 4 nm .*`ignore_metadata: true`",
        {"ignore_metadata": True},
    ),
    "another offset": (
        partial(h5, attributes=CREMI),
        {"offset": (0, 0, 8)},
        "offset is 0 x 0 x 8 nm .* says 400 x 80 x 12 nm.*leave `offset` out",
        {"offset": None},
    ),
    "another size of Zarr": (
        zarr_array,
        {"voxel_size": (30, 8, 8)},
        "30 x 8 x 8 nm .* says 40 x 8 x 4 nm .*leave `voxel_size` out",
        {"voxel_size": None},
    ),
    "two datasets": (two_datasets, SAID, "which dataset .*a, b", {"key": "a"}),
    "two arrays": (two_arrays, SAID, "inside it: a, b", {"key": "a"}),
    "a misspelt key": (two_datasets, {**SAID, "key": "c"}, "no dataset 'c'.*a, b", {"key": "b"}),
    "channels": (
        partial(h5, values=BOTH),
        SAID,
        "for instance `axes: czyx` and `channel: 0`",
        {"axes": "czyx", "channel": 0},
    ),
    "labels with fractions": (
        partial(h5, values=RAW + 0.5),
        {**SAID, "kind": "labels"},
        r"holds \d+\.5 in section 0.*`kind: image`",
        {"kind": "image"},
    ),
    "labels as JPEG": (
        jpeg,
        {**SAID, "kind": "labels"},
        "s0.jpg is JPEG, .*export the labels as PNG",
        {"kind": "image"},
    ),
    "sections beyond the end": (
        h5,
        {**SAID, "sections": (0, 99)},
        "has 19 sections; 0 <= first < last <= 19",
        {"sections": (0, 19)},
    ),
    "axes of another number": (
        h5,
        {**SAID, "axes": "zcyx"},
        r"shape \(19, 24, 37\); a letter .* for each axis",
        {"axes": "zyx"},
    ),
    "a virtual dataset without its source": (
        virtual,
        SAID,
        r"other\.h5, which is missing: copy it",
        None,
    ),
}


def made(source, output, keys):
    return import_volume(ImportVolume(source=str(source), output=str(output), **keys))


@pytest.mark.parametrize("name", CASES)
def test_a_refusal_names_the_file_and_its_way_leads_on(name, tmp_path):
    make, keys, said, way = CASES[name]
    folder = tmp_path / "in"
    folder.mkdir()
    source = make(folder)
    with pytest.raises(InputError, match=said) as refusal:
        made(source, tmp_path / "out", keys)
    assert str(folder) in str(refusal.value)
    if way is None:
        return
    if way is AGAIN:
        whole = make.args[0]
        shutil.rmtree(folder)
        folder.mkdir()
        source = whole(folder)
    else:
        keys = {key: value for key, value in {**keys, **way}.items() if value is not None}
    assert made(source, tmp_path / "out", keys).array.shape == RAW.shape


def test_copies_that_no_pattern_leaves_out_are_to_be_removed(tmp_path):
    folder = sections(tmp_path, pattern="s{}.png")
    shutil.copy(folder / "s3.png", folder / "s3 (1).png")
    with pytest.raises(InputError, match=r"remove copies such as 's3 \(1\)\.png'$"):
        made(folder, tmp_path / "out", SAID)
    (folder / "s3 (1).png").unlink()
    assert np.array_equal(made(folder, tmp_path / "out", SAID).array[:], RAW)
