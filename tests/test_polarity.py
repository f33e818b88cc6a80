"""Labels to polarity targets and back."""

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from synpol import InputError, polarity_to_seg, seg_to_polarity
from synpol.polarity import check_polarity_labels

labels = hnp.arrays(np.uint64, hnp.array_shapes(min_dims=3, max_dims=3), elements=st.integers(0, 9))


@given(labels)
def test_channels_are_odd_even_and_either(label):
    target = seg_to_polarity(label)
    assert target.dtype == np.float32
    assert target.shape == (3, *label.shape)
    assert np.array_equal(target[0], label % 2 == 1)
    assert np.array_equal(target[1], (label % 2 == 0) & (label > 0))
    assert np.array_equal(target[2], label > 0)


@given(labels)
def test_exclusive_classes_are_the_channels(label):
    classes = seg_to_polarity(label, exclusive=True)
    assert classes.dtype == np.int64
    channels = seg_to_polarity(label)
    assert np.array_equal(classes, channels[0] + 2 * channels[1])


@given(labels)
def test_the_inverse_gives_number_and_side(label):
    synapse, is_pre = polarity_to_seg(label)
    assert np.array_equal(np.where(is_pre, 2 * synapse - 1, 2 * synapse), label)


@pytest.mark.parametrize("bad", [np.zeros((1, 1, 1)), np.array([[[-1]]])])
def test_labels_that_are_no_labels_are_refused(bad):
    with pytest.raises(InputError, match="label"):
        seg_to_polarity(bad)


@pytest.mark.parametrize("values", [[0, 1], [1, 3, 5], [0, 2, 4]])
def test_a_scheme_without_one_side_names_the_other_kind_of_labels(values):
    with pytest.raises(InputError, match="labels: union"):
        check_polarity_labels(np.array(values), "somewhere")


@pytest.mark.parametrize("values", [[], [0], [0, 1, 2], [3, 4, 5]])
def test_a_scheme_with_both_sides_passes(values):
    check_polarity_labels(np.array(values, dtype=np.int64), "somewhere")
