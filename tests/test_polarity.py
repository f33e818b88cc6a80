"""Channels, labels of sides, and polarity targets."""

import ast

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from recipes import ROOT

from synpol import InputError, polarity_to_seg, seg_to_polarity
from synpol.polarity import (
    EXCLUSIVE,
    PLAIN,
    Channels,
    check_polarity_labels,
    is_pre,
    post_label,
    pre_label,
    side_labels,
    side_voxels,
    split_labels,
    synapse_of,
)

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


any_label = st.integers(0, 2**64 - 1)


@given(hnp.arrays(np.uint64, hnp.array_shapes(), elements=any_label))
def test_labels_are_split_and_joined_up_to_the_largest_number(label):
    synapse, on_pre = split_labels(label)
    assert synapse.dtype == np.uint64
    assert np.array_equal(side_labels(synapse, on_pre, ~on_pre), label)
    assert np.array_equal(synapse, synapse_of(label))
    assert np.array_equal(on_pre, is_pre(label))
    for part, whole in zip(polarity_to_seg(label), (synapse, on_pre), strict=True):
        assert np.array_equal(part, whole)


@given(any_label.filter(bool))
def test_a_single_label_is_split_and_joined_in_its_type(number):
    for label in (number, np.uint64(number)):
        make = pre_label if is_pre(label) else post_label
        assert make(synapse_of(label)) == label
        assert type(make(synapse_of(label))) is type(label)
        assert int(synapse_of(label)) == (number + 1) // 2


@given(hnp.arrays(np.uint64, 5, elements=st.integers(1, 2**63 - 1)))
def test_the_labels_of_a_synapse_are_2n_minus_1_and_2n(synapse):
    wanted = [[2 * n - 1 for n in synapse.tolist()], [2 * n for n in synapse.tolist()]]
    assert [pre_label(synapse).tolist(), post_label(synapse).tolist()] == wanted


def test_post_wins_and_voxels_without_a_side_are_0():
    synapse = np.array([4, 4, 4, 4], np.uint64)
    pre, post = np.array([[0, 1, 0, 1], [0, 0, 1, 1]], bool)
    assert side_labels(synapse, pre, post).tolist() == [0, 7, 8, 8]
    assert side_labels(np.uint64(1), pre, post).tolist() == [0, 1, 2, 2]
    assert side_labels(synapse, pre, post).dtype == np.uint64


@given(labels)
def test_both_orders_of_channels_are_those_of_the_target(label):
    pre, post = side_voxels(label)
    plain, classes = seg_to_polarity(label), seg_to_polarity(label, exclusive=True)
    one_hot = np.stack([classes == EXCLUSIVE.index(name) for name in EXCLUSIVE.names])
    for channels, target in ((PLAIN, plain), (EXCLUSIVE, one_hot.astype(np.float32))):
        assert len(target) == channels.count
        assert np.array_equal(channels.pre(target), pre)
        assert np.array_equal(channels.post(target), post)
        assert np.array_equal(channels.union(target), label > 0)
        assert np.array_equal(channels.sides(target), [pre, post])
    assert np.array_equal(EXCLUSIVE.background(one_hot), label == 0)


@pytest.mark.parametrize("exclusive", [False, True])
def test_channels_are_views_along_any_axis_of_arrays_and_tensors(exclusive):
    torch = pytest.importorskip("torch")
    channels = Channels.of(exclusive)
    assert channels.exclusive == exclusive
    array = np.zeros((2, 3, 4))
    for values in (array, torch.zeros(2, 3, 4)):
        channels.sides(values, axis=1)[:] = 1
        channels.post(values, axis=1)[:] += 1
        for name, wanted in (("pre", 1), ("post", 2)):
            assert (values[:, channels.index(name)] == wanted).all()
        assert channels.pre(values, axis=1).shape == (2, 4)
        assert values.sum() == 2 * 4 * 3


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


def test_other_modules_ask_polarity_py_for_channels_and_kinds_of_labels():
    known_here, found = ROOT / "synpol" / "polarity.py", []
    modules = [p for folder in ("synpol", "pipelines") for p in (ROOT / folder).rglob("*.py")]
    for path in sorted(set(modules) - {known_here, ROOT / "synpol" / "__init__.py"}):
        for node in ast.walk(ast.parse(path.read_text())):
            what = None
            if isinstance(node, ast.keyword) and node.arg == "channels":
                counted = isinstance(node.value, ast.Constant) and node.value.value != 0
                what = "a number of channels: say Channels.count" if counted else None
            elif isinstance(node, ast.Name) and node.id == "polarity_to_seg":
                what = "polarity_to_seg, which is for users: say split_labels"
            elif isinstance(node, ast.Subscript) and "'polarity', 'union'" in ast.unparse(node):
                what = "the kinds of labels: say LabelKind"
            found += [f"{path.relative_to(ROOT)}:{node.lineno} has {what}"] if what else []
    assert not found
