"""N5 datasets, read where they lie."""

import json

import numpy as np
import pytest
from test_import_chunked import LABELS, RAW, SIZE, write_n5

from synpol import InputError
from synpol.images.image import open_image
from synpol.images.labels import open_labels


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.n5" / "raw"


@pytest.mark.parametrize(
    ("attributes", "corner"),
    [
        ({"pixelResolution": {"dimensions": [0.004, 0.008, 0.04], "unit": "um"}}, (0, 0, 0)),
        ({"resolution": [4, 8, 40], "offset": [12, 16, 80]}, (80, 16, 12)),
        (
            {
                "transform": {
                    "axes": ["z", "y", "x"],
                    "scale": [40, 8, 4],
                    "translate": [20, 4, 2],
                    "units": ["nm"] * 3,
                }
            },
            (0, 0, 0),
        ),
    ],
    ids=["pixelResolution", "resolution", "transform"],
)
def test_a_dataset_is_read_as_its_writer_meant_it(path, attributes, corner):
    write_n5(path, RAW, **attributes)
    image = open_image(path)
    assert np.array_equal(image.array[:], RAW)
    assert np.array_equal(image.array[2:5, 3:30, 1:7], RAW[2:5, 3:30, 1:7])
    assert image.voxel_size_nm == SIZE
    assert image.offset_nm == corner


def test_channels_are_chosen_and_labels_are_exact(path):
    both = np.stack([RAW, 255 - RAW])
    write_n5(path, both, axes=["x", "y", "z", "c"], pixelResolution=[4, 8, 40])
    with pytest.raises(InputError, match="2 channels"):
        open_image(path, channels=0)
    chosen = {"path": str(path), "channel": 1}
    from synpol.config import ImageSource

    assert np.array_equal(open_image(ImageSource(**chosen)).array[:], 255 - RAW)
    write_n5(path, LABELS, resolution=[4, 8, 40])
    assert np.array_equal(open_labels(str(path), "ids").array[:], LABELS)


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({}, "says nothing about its voxel size"),
        ({"resolution": [1, 1, 1]}, "hardly nm"),
        ({"resolution": [4, 8]}, r"attributes.json.*\"resolution\""),
        ({"resolution": [4, 8, 40], "pixelResolution": [4, 8, 50]}, "say which is right"),
        ({"pixelResolution": {"dimensions": [4, 8, 40], "unit": "elle"}}, "unknown unit 'elle'"),
        ({"transform": {"axes": ["a"], "scale": [1]}}, "transform of"),
        ({"resolution": [4, 8, 40], "axes": ["x", "y"]}, r"attributes.json.*\"axes\""),
        ({"isLabelMultiset": True, "resolution": [4, 8, 40]}, "label multiset of Paintera"),
    ],
)
def test_what_is_wrong_with_attributes_is_named(path, attributes, words):
    write_n5(path, RAW, **attributes)
    with pytest.raises(InputError, match=words):
        open_image(path)


def test_damaged_attributes_and_blocks_are_named(path):
    write_n5(path, RAW, resolution=[4, 8, 40])
    about = json.loads((path / "attributes.json").read_text())
    (path / "attributes.json").write_text(json.dumps(about | {"blockSize": [1]}))
    with pytest.raises(InputError, match=r"raw cannot be read.*attributes.json.*blockSize"):
        open_image(path)
    with pytest.raises(InputError, match="N5, which is read only"):
        open_image(path, mode="r+")
