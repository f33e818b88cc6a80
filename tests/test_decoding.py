"""The decoder in memory, held to a second implementation."""

import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.ndimage as nd
from hypothesis import given, settings
from volumes import polarity_volumes, scipy_decode

from synpol import InputError, polarity2instance
from synpol.decoding.dilation import box_shape, checked_box, dilate, lacks_sections
from synpol.decoding.reference import components

boxes = st.integers(1, 7) | st.tuples(*[st.integers(1, 6)] * 3)
options = st.fixed_dictionaries(
    {
        "thres": st.sampled_from([0.3, 0.5, 0.501, 0.7]),
        "thres_small": st.integers(0, 12),
        "dilate_sz": boxes,
        "exclusive": st.booleans(),
        "semantic": st.booleans(),
        "sides": st.sampled_from([True, True, False]),
    }
)


@settings(max_examples=300)
@given(polarity_volumes, options)
def test_it_gives_what_scipy_gives(volume, options):
    if volume.dtype.kind == "f" and volume.max() > 1:
        volume = volume / volume.max()
    found = polarity2instance(volume, **options)
    assert np.array_equal(found, scipy_decode(volume, **options))
    assert found.dtype == np.min_scalar_type(int(found.max()))


@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 12), boxes)
def test_dilation_is_scipys_for_even_boxes_too(seed, height, width, box):
    mask = np.random.default_rng(seed).random((5, height, width)) < 0.1
    expected = nd.binary_dilation(mask, np.ones(box_shape(box)))
    assert np.array_equal(dilate(mask, box), expected)


def test_a_box_has_one_spelling():
    assert checked_box((1, 5, 5)) == checked_box(5) == checked_box([5]) == 5
    assert checked_box([3, 5, 5]) == (3, 5, 5)
    assert checked_box((1, 5, 4)) == (1, 5, 4)


def test_isotropic_voxels_and_a_flat_box_are_noticed():
    assert lacks_sections(5, (8, 8, 8))
    assert not lacks_sections(5, (30, 8, 8))
    assert not lacks_sections((3, 5, 5), (8, 8, 8))
    assert not lacks_sections(1, (8, 8, 8))


def test_a_box_with_sections_joins_sides_that_lie_in_different_sections():
    volume = np.zeros((3, 9, 4, 4), np.uint8)
    volume[0, 0:3] = volume[1, 5:9] = 255
    volume[2] = volume[:2].max(axis=0)
    assert polarity2instance(volume, thres_small=1).max() == 4
    assert polarity2instance(volume, thres_small=1, dilate_sz=(3, 5, 5)).max() == 2


@given(st.integers(0, 10**6))
def test_components_count_up_by_their_first_voxel(seed):
    mask = np.random.default_rng(seed).random((4, 9, 7)) < 0.4
    labels, count = components(mask)
    expected, n = nd.label(mask)
    assert count == n
    assert np.array_equal(labels, expected)


def isolated(count: int) -> np.ndarray:
    """So many synapses of one pre and one post voxel, too far apart to join."""
    volume = np.zeros((3, 1, 6 * ((count - 1) // 512 + 1), 512 * 6), np.uint8)
    for n in range(count):
        y, x = 6 * (n // 512), 6 * (n % 512)
        volume[0, 0, y, x] = volume[1, 0, y, x + 1] = 255
        volume[2, 0, y, x : x + 2] = 255
    return volume


@pytest.mark.parametrize(
    ("count", "dtype"), [(127, np.uint8), (128, np.uint16), (300, np.uint16), (33000, np.uint32)]
)
def test_the_label_type_holds_the_doubled_number(count, dtype):
    found = polarity2instance(isolated(count), thres_small=1, dilate_sz=3)
    assert found.dtype == dtype
    assert found.max() == 2 * count
    assert len(np.unique(found)) == 2 * count + 1


def test_a_component_of_exactly_thres_small_voxels_stays():
    volume = np.zeros((3, 1, 1, 12), np.uint8)
    volume[:, ..., :5] = 255
    volume[1] = 0
    assert polarity2instance(volume, thres_small=5).max() == 1
    assert polarity2instance(volume, thres_small=6).max() == 0


def test_post_wins_where_both_are_kept_and_pre_shows_where_post_was_too_small():
    volume = np.zeros((3, 1, 1, 10), np.uint8)
    volume[0, ..., 0:8] = volume[2, ..., 0:10] = 255
    volume[1, ..., 5:10] = 255
    assert polarity2instance(volume, thres_small=3)[0, 0].tolist() == [1] * 5 + [2] * 5
    assert polarity2instance(volume, thres_small=6)[0, 0].tolist() == [1] * 8 + [0] * 2


def test_a_synapse_that_lost_both_sides_uses_up_its_number():
    volume = np.zeros((3, 1, 1, 40), np.uint8)
    volume[:, ..., 0:2] = 255
    volume[:, ..., 20:30] = 255
    found = polarity2instance(volume, thres_small=5)
    assert set(np.unique(found)) == {0, 4}


def test_floats_above_one_are_on_the_255_scale():
    volume = np.zeros((3, 1, 2, 4), np.float32)
    volume[:, 0, 0] = 200.0
    volume[:, 0, 1] = 100.0
    assert (polarity2instance(volume, thres_small=1)[0, 0] == 2).all()
    assert (polarity2instance(volume, thres_small=1)[0, 1] == 0).all()


def test_a_float32_just_above_a_python_threshold_is_not_above_it():
    volume = np.full((3, 1, 1, 4), 0.3, np.float32)
    assert polarity2instance(volume, thres=np.float64(0.3), thres_small=0).max() == 0


def test_scale_factors_resize_by_nearest_neighbour():
    volume = np.zeros((3, 2, 4, 4), np.uint8)
    volume[:, :, :2] = 255
    found = polarity2instance(volume, thres_small=1, scale_factors=(1, 2, 2))
    assert found.shape == (2, 8, 8)
    assert (found[:, :4] == 2).all()
    assert (found[:, 4:] == 0).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"volume": np.zeros((2, 1, 1, 1), np.uint8)}, "shape"),
        ({"volume": np.full((3, 1, 1, 1), np.nan)}, "NaN"),
        ({"volume": np.full((3, 1, 1, 1), 1.5)}, r"hold 1\.5\.\.1\.5, .*clip the values"),
        ({"volume": np.full((3, 1, 1, 1), 300.0)}, r"300 to 300, where 0\.\.255"),
        ({"volume": np.full((3, 1, 1, 1), 65535, np.uint16)}, r"uint16 with .*0\.\.255"),
        ({"volume": np.full((3, 1, 1, 1), -1, np.int8)}, r"int8 with .*0\.\.255"),
        ({"volume": np.zeros((3, 1, 1, 1), complex)}, "complex"),
        ({"dilate_sz": 0}, "dilate_sz is 0"),
        ({"thres": 1.5}, "thres is 1.5"),
        ({"thres_small": -1}, "thres_small is -1"),
        ({"scale_factors": (0.1, 1, 1)}, "scale_factors"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(change, words):
    arguments = {"volume": np.zeros((3, 1, 2, 2), np.uint8)} | change
    with pytest.raises(InputError, match=words):
        polarity2instance(**arguments)
