"""Imports that are run again: what is left alone, made anew, gone on with, or refused."""

import time

import imageio.v3 as iio
import numpy as np
import pytest
import zarr
from importing import RAW, convert, write_folder, write_hdf5, write_tiff

from synpol import formats
from synpol.datasets import import_volume
from synpol.errors import InputError
from synpol.images.identity import hash_of
from synpol.images.image import open_image


@pytest.fixture
def source(tmp_path):
    """An HDF5 file with an image, labels, a mask and a plane."""
    return write_hdf5(tmp_path / "a.h5")


@pytest.fixture
def output(tmp_path):
    """Where an import is to write."""
    return tmp_path / "data" / "raw"


# ---------------------------------------------------------------- what is there already


def written(folder):
    """Every file below a folder with the time it was written."""
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_import_again_leaves_the_finished_one_alone(source, output):
    convert(source, output)
    before = written(output)
    assert np.array_equal(convert(source, output).array[:], RAW)
    assert written(output) == before


def test_import_with_other_settings_replaces_the_earlier_one(source, output):
    convert(source, output)
    assert np.array_equal(convert(source, output, sections=(2, 6)).array[:], RAW[2:6])
    assert open_image(output).array.shape == (4, 24, 37)


def test_changed_file_is_imported_again(tmp_path, output):
    convert(write_tiff(tmp_path / "a.tif"), output)
    time.sleep(0.02)
    write_tiff(tmp_path / "a.tif", 255 - RAW)
    assert np.array_equal(convert(tmp_path / "a.tif", output).array[:], 255 - RAW)


def test_section_changed_in_place_is_imported_again(tmp_path, output):
    folder = write_folder(tmp_path / "pngs", RAW[:3])
    convert(folder, output)
    time.sleep(0.02)
    (folder / "section_001.png").write_bytes(iio.imwrite("<bytes>", RAW[9], extension=".png"))
    assert np.array_equal(convert(folder, output).array[1], RAW[9])


def test_neighbouring_images_of_one_container_do_not_disturb_each_other(source, output):
    convert(source, output)
    before = written(output)
    convert(source, output.with_name("truth"), key="volumes/labels", kind="labels")
    assert written(output) == before


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("place", ["array", "group"])
def test_zarr_that_synpol_did_not_write_is_left_alone(zarr_format, place, source, output):
    where = output if place == "array" else output / "inside"
    foreign = zarr.create_array(
        where, shape=(4, 4, 4), chunks=(4, 4, 4), dtype=np.uint8, zarr_format=zarr_format
    )
    foreign[:] = 7
    foreign.attrs["voxel_size"] = [1, 1, 1]
    before = written(output)
    with pytest.raises(InputError, match=str(output)):
        convert(source, output)
    assert written(output) == before


def test_folder_with_other_files_is_left_alone(source, output):
    output.mkdir(parents=True)
    (output / "notes.txt").write_text("years of work")
    with pytest.raises(InputError, match=str(output)):
        convert(source, output)
    assert (output / "notes.txt").read_text() == "years of work"


def test_sections_survive_when_output_is_the_source_folder(tmp_path):
    folder = write_folder(tmp_path / "pngs", RAW[:3])
    with pytest.raises(InputError, match=str(folder)):
        convert(folder, folder)
    assert len(list(folder.glob("*.png"))) == 3


def test_file_in_the_place_of_the_output_is_left_alone(source, output):
    output.parent.mkdir()
    output.write_text("a file")
    with pytest.raises(InputError, match=str(output)):
        convert(source, output)
    assert output.read_text() == "a file"


def test_container_that_cannot_be_made_is_named(source, output):
    output.parent.write_text("a file where a folder is needed")
    with pytest.raises(InputError, match=f"{output.parent} cannot be written"):
        convert(source, output)


def test_import_of_which_a_kill_left_coarser_levels_alone_is_made_anew(source, output):
    expected = convert(source, output).array[:]
    (output / "s0").rename(output / "s1")  # an array of ours, not the full resolution
    assert np.array_equal(convert(source, output).array[:], expected)
    assert not (output / "s1").exists()


# ---------------------------------------------------------------- resuming, and where it is written


def test_an_import_that_was_finished_by_older_code_is_left_alone(source, output):
    image = convert(source, output)
    about = {
        "source": str(source),
        "output": str(output),
        "kind": "image",
        "key": "volumes/raw",
        "voxel_size": [40.0, 8.0, 4.0],
        "offset": [0.0, 0.0, 0.0],
        "unit": "nm",
        "sections": None,
        "downsample": 1,
    }
    made_of = [[source.name, source.stat().st_mtime_ns, source.stat().st_size]]
    assert image.array.attrs["synpol_hash"] == hash_of([about, made_of])


def test_an_interrupted_import_goes_on_after_its_last_note(source, output, monkeypatch):
    monkeypatch.setattr(import_volume, "_NOTED_EVERY", 0.0)
    read, broken = formats.FORMATS["HDF5"].slab, []

    def slab(self, begin, end):
        broken.append(begin)
        if begin and len(broken) < 3:
            raise KeyboardInterrupt
        return read(self, begin, end)

    monkeypatch.setattr(formats.FORMATS["HDF5"], "slab", slab)
    with pytest.raises(KeyboardInterrupt):
        convert(source, output)
    image = convert(source, output)
    assert broken == [0, 16, 16]  # the first slab is read once
    assert np.array_equal(image.array[:], RAW)
    assert "synpol_sections" not in image.array.attrs


def test_imports_are_written_to_urls(source):
    url = f"memory://{source.parent.name}/data/raw"
    image = convert(source, url)
    assert image.path == f"{url}/s0"
    assert np.array_equal(open_image(url).array[:], RAW)
    assert convert(source, url).array.attrs["synpol_complete"]
    with pytest.raises(InputError, match="foreign exists"):
        foreign = f"memory://{source.parent.name}/foreign"
        zarr.create_array(foreign, shape=(4, 4, 4), chunks=(4, 4, 4), dtype=np.uint8)
        convert(source, foreign)
