"""All partners of a synapse: parts, anchors, contacts, links; blockwise as by hand."""

from collections import Counter, defaultdict
from fractions import Fraction

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from test_connectivity import image

from synpol.config import Connect
from synpol.connectivity import parts_blockwise, write_tables
from synpol.connectivity.links import duplicates_of
from synpol.connectivity.membrane import nearest_neurons
from synpol.synapses.links import read_links

SIZE = (40, 8, 8)


def filled(labels, neurons, begin, distance):
    """Neurons of the instances' voxels; those in none get the nearest one."""
    where = tuple(slice(b, b + s) for b, s in zip(begin, labels.shape, strict=True))
    inside = neurons[where].copy()
    some = np.argwhere(neurons)
    for place in np.argwhere((labels != 0) & (inside == 0)) if distance else ():
        steps = some - (place + begin)
        length = np.round(np.sqrt(((steps * np.array(SIZE, float)) ** 2).sum(axis=1)), 6)
        best = min(
            ((far, *step) for far, step in zip(length.tolist(), steps.tolist(), strict=True)),
            default=(np.inf,),
        )
        if best[0] <= distance:
            inside[tuple(place)] = neurons[tuple(place + begin + best[1:])]
    return inside


def parts_by_hand(labels, neurons):
    """Voxels and anchor of each part, and the area between parts, voxel by voxel."""
    places, area = defaultdict(list), Counter()
    for place in map(tuple, np.argwhere(labels).tolist()):
        here = int(labels[place]), int(neurons[place])
        places[here].append(place)
        for axis in range(3):
            beside = list(place)
            beside[axis] += 1
            if beside[axis] == labels.shape[axis]:
                continue
            there = int(labels[tuple(beside)]), int(neurons[tuple(beside)])
            if there[0] and there[0] != here[0] and (there[0] + 1) // 2 == (here[0] + 1) // 2:
                pair = tuple(sorted((here, there)))  # the odd label is the pre side
                area[pair] += float(np.prod(SIZE)) / SIZE[axis]
    anchors = {}
    for part, mine in places.items():
        mean = [Fraction(sum(axis), len(mine)) for axis in zip(*mine, strict=True)]
        steps = {
            p: sum((s * (a - m)) ** 2 for s, a, m in zip(SIZE, p, mean, strict=True)) for p in mine
        }
        anchors[part] = min(mine, key=lambda p: (steps[p], p))
    return {part: len(mine) for part, mine in places.items()}, anchors, area


def links_by_hand(voxels, anchors, area, least, share):
    """Links of all partners, by the rules of docs/partners.md."""
    total = Counter()
    for (label, _), count in voxels.items():
        total[label] += count
    fraction = {part: count / total[part[0]] for part, count in voxels.items()}
    links = set()
    for n in sorted({(label + 1) // 2 for label in total}):
        sides = [
            {
                neuron
                for (of, neuron), count in voxels.items()
                if of == label and neuron and count >= least and fraction[of, neuron] >= share
            }
            for label in (2 * n - 1, 2 * n)
        ]
        both = sides[0] & sides[1]
        more = {m for m in both if fraction[2 * n, m] > fraction[2 * n - 1, m]}
        pre, post = sides[0] - more or sides[0], sides[1] - (both - more) or sides[1]

        def best(mine, others, key, side, n=n):
            def rank(other):
                pair = ((2 * n - 1, mine), (2 * n, other))
                if side:
                    pair = ((2 * n - 1, other), (2 * n, mine))
                touch = 0 if mine == other else area[pair]
                places = [np.array(anchors[part]) * SIZE for part in pair]
                far = float(((places[0] - places[1]) ** 2).sum())
                return (touch == 0, -touch, mine == other, 0 if touch else far, other)

            return min(others, key=rank, default=None)

        found = {(best(m, pre, area, 1), m) for m in post if pre}
        lonely = pre - {p for p, _ in found}
        found |= {(m, best(m, post, area, 0)) for m in lonely if post}
        links |= {(n, *pair) for pair in found}
    return sorted(links)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.tuples(*[st.integers(1, 5)] * 3),
    st.sampled_from([1, 2]),
    st.sampled_from([0.0, 8.0, 20.0, 60.0]),
    st.sampled_from([(1, 0.0), (2, 0.0), (1, 0.2)]),
)
def test_parts_and_links_are_those_by_hand_whatever_the_blocks(
    tmp_path_factory, seed, block, multiple, distance, least
):
    folder = tmp_path_factory.mktemp("partners")
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(2, 8, 3))
    labels = rng.integers(0, 5, shape) * (rng.random(shape) < 0.7)
    begin = [int(b) for b in rng.integers(0, 4, 3)]
    factors = (1, multiple, multiple)
    coarse = [-(-(s + b) // f) for s, b, f in zip(shape, begin, factors, strict=True)]
    neurons = rng.integers(0, 5, coarse) * (rng.random(coarse) < 0.6)
    fine = neurons
    for axis, f in enumerate(factors):
        fine = np.repeat(fine, f, axis=axis)
    first = image(
        folder,
        "instances",
        labels.astype(np.uint64),
        offset=[b * v for b, v in zip(begin, SIZE, strict=True)],
    )
    size = [v * f for v, f in zip(SIZE, factors, strict=True)]
    second = image(folder, "neurons", neurons.astype(np.uint32), voxel_size=size)
    with parts_blockwise(
        first, second, max_distance=distance, block_shape=block, work_dir=folder / "work"
    ) as ranges:
        [parts] = ranges
    assert [
        p.name for p in (folder / "work").iterdir() if p.name.startswith(("parts", "anch"))
    ] == []
    voxels, anchors, area = parts_by_hand(labels, filled(labels, fine, begin, distance))
    keys = list(zip(parts.label.tolist(), parts.neuron.tolist(), strict=True))
    assert keys == sorted(voxels)
    assert dict(zip(keys, parts.voxels.tolist(), strict=True)) == voxels
    centre = (np.array([anchors[key] for key in keys]).reshape(-1, 3) + begin + 0.5) * SIZE
    np.testing.assert_array_equal(parts.anchor, centre)
    touching = {
        (keys[i], keys[j]): a
        for i, j, a in zip(parts.pre.tolist(), parts.post.tolist(), parts.area, strict=True)
    }
    assert touching == dict(area)
    numbers = sorted({(label + 1) // 2 for label, _ in keys})
    table = pa.table(
        {
            "synapse_id": pa.array(numbers, pa.uint64()),
            "pre_score": pa.array([0.5] * len(numbers), pa.float64()),
            "post_score": pa.array([0.75] * len(numbers), pa.float64()),
            "contact_area": pa.array([0.0] * len(numbers), pa.float64()),
        }
    )
    pq.write_table(table, folder / "synapses.parquet")
    options = Connect(partners="all", min_voxels=least[0], min_fraction=least[1])
    write_tables([parts], folder / "synapses.parquet", folder, options, folder)
    rows = pq.read_table(folder / "links.parquet").to_pylist()
    by_hand = links_by_hand(voxels, anchors, area, *least)
    assert [(r["synapse_id"], r["pre_id"], r["post_id"]) for r in rows] == by_hand
    for row in rows:
        pre, post = (
            (2 * row["synapse_id"] - 1, row["pre_id"]),
            (2 * row["synapse_id"], row["post_id"]),
        )
        assert row["contact_area"] == area[pre, post]
        assert (row["pre_voxels"], row["post_voxels"]) == (voxels[pre], voxels[post])
        assert row["autapse"] == (row["pre_id"] == row["post_id"])


def described(folder, labels, neurons, **options):
    """Links of two arrays."""
    first = image(folder, "instances", labels.astype(np.uint64))
    second = image(folder, "neurons", neurons.astype(np.uint64))
    numbers = sorted({(int(label) + 1) // 2 for label in np.unique(labels) if label})
    rows = {"synapse_id": pa.array(numbers, pa.uint64())}
    rows |= {name: pa.array([0.5] * len(numbers)) for name in ("pre_score", "post_score")}
    pq.write_table(
        pa.table(rows | {"contact_area": pa.array([1.0] * len(numbers))}), folder / "s.parquet"
    )
    settings = Connect(**options)
    with parts_blockwise(
        first,
        second,
        max_distance=settings.max_distance,
        block_shape=(3, 5, 7),
        work_dir=folder / "work",
    ) as ranges:
        told = write_tables(ranges, folder / "s.parquet", folder, settings, folder)
    links = pq.read_table(folder / "links.parquet").to_pylist()
    return [(row["pre_id"], row["post_id"]) for row in links], told


def t_bar():
    """One pre side in neuron 10, and four post sides in 11 to 14 around it."""
    labels, neurons = np.zeros((2, 6, 24, 24), int)
    labels[2:5, 9:15, 9:15], neurons[:, 9:15, 9:15] = 1, 10
    for n, (y, x) in enumerate(((3, 9), (15, 9), (9, 3), (9, 15))):
        labels[2:5, y : y + 6, x : x + 6] = 2
        neurons[:, y : y + 6, x : x + 6] = 11 + n
    return labels, neurons


def test_a_t_bar_with_four_posts_is_four_links(tmp_path):
    links, told = described(tmp_path, *t_bar(), partners="all")
    assert links == [(10, 11), (10, 12), (10, 13), (10, 14)]
    assert (told.polyadic, told.left_out) == (1, 0)
    graph = pq.read_table(tmp_path / "connectivity.parquet").to_pylist()
    assert [row["contact_area"] for row in graph] == [3 * 6 * 40 * 8] * 4
    parts = pq.read_table(tmp_path / "parts.parquet").to_pylist()
    assert [(r["side"], r["neuron_id"]) for r in parts] == [("pre", 10)] + [
        ("post", n) for n in (11, 12, 13, 14)
    ]
    assert parts[0]["contact_area"] == 4 * 3 * 6 * 40 * 8
    read = read_links(tmp_path / "links.parquet")
    labels, neurons = t_bar()
    for place, neuron in zip([*read.pre, *read.post], [*read.pre_id, *read.post_id], strict=True):
        at = tuple((place // SIZE).astype(int))
        assert labels[at] and neurons[at] == neuron


def test_the_largest_partner_alone_is_one_link_and_the_rest_is_counted(tmp_path):
    links, told = described(tmp_path, *t_bar())
    assert links == [(10, 11)]
    assert (told.polyadic, told.left_out) == (1, 3)
    [edge] = pq.read_table(tmp_path / "connectivity.parquet").to_pylist()
    assert edge["contact_area"] == 1.0  # that of the whole synapse, as its table says


def test_two_synapses_that_were_merged_are_two_links(tmp_path):
    labels, neurons = np.zeros((2, 4, 12, 12), int)
    labels[:, :, 2:6], labels[:, :, 6:10] = 1, 2
    neurons[:, :6, :6], neurons[:, :6, 6:] = 1, 2
    neurons[:, 6:, :6], neurons[:, 6:, 6:] = 3, 4
    assert described(tmp_path, labels, neurons, partners="all")[0] == [(1, 2), (3, 4)]


def test_a_side_that_spills_into_its_partner_makes_no_link_back(tmp_path):
    labels, neurons = np.zeros((2, 4, 12, 12), int)
    labels[:, :, 2:6], labels[:, :, 6:10] = 1, 2
    neurons[:, :, :5], neurons[:, :, 5:] = 7, 9  # a quarter of the pre side lies in neuron 9
    assert described(tmp_path, labels, neurons, partners="all")[0] == [(7, 9)]
    neurons[:] = 7
    (tmp_path / "one").mkdir()
    assert described(tmp_path / "one", labels, neurons, partners="all")[0] == [(7, 7)]


def test_sides_on_membrane_get_the_nearest_neuron(tmp_path):
    labels, neurons = np.zeros((2, 4, 12, 12), int)
    labels[:, 4:6, 4:6], labels[:, 4:6, 6:8] = 1, 2
    neurons[:, :, :3], neurons[:, :, 9:] = 5, 6
    links, told = described(tmp_path, labels, neurons, partners="all")
    assert (links, told.outside) == ([], 2)
    (tmp_path / "b").mkdir()
    links, told = described(tmp_path / "b", labels, neurons, partners="all", max_distance=24)
    assert (links, told.outside) == ([(5, 6)], 0)
    (tmp_path / "c").mkdir()
    links, told = described(tmp_path / "c", labels, neurons, partners="all", max_distance=15.9)
    assert (links, told.outside) == ([], 2)


def test_of_neurons_equally_far_the_first_is_taken():
    neurons = np.zeros((3, 3, 3), np.uint64)
    middle = np.array([[1, 1, 1]])
    assert nearest_neurons(neurons, middle, (8, 8, 8), 8) == [0]
    for place, neuron in (((1, 2, 1), 5), ((1, 0, 1), 6), ((0, 1, 1), 7)):
        neurons[place] = neuron
        assert nearest_neurons(neurons, middle, (8, 8, 8), 8) == [neuron]
        assert nearest_neurons(neurons, middle, (8, 8, 8), 7.9) == [0]


def test_links_that_repeat_others_are_marked_and_counted_once(tmp_path):
    labels, neurons = np.zeros((2, 3, 8, 40), int)
    for n, x in enumerate((0, 12, 30)):
        labels[:, 2:4, x : x + 4], labels[:, 4:6, x : x + 4] = 2 * n + 1, 2 * n + 2
    neurons[:, :4], neurons[:, 4:] = 1, 2
    links, told = described(tmp_path, labels, neurons, duplicates=100)
    assert links == [(1, 2)] * 3
    marks = pq.read_table(tmp_path / "links.parquet")["duplicate_of"].to_pylist()
    assert marks == [0, 1, 0]
    assert told.duplicates == 1
    [edge] = pq.read_table(tmp_path / "connectivity.parquet").to_pylist()
    assert edge["synapses"] == 2


def test_duplicates_are_those_of_a_comparison_of_all_with_all(monkeypatch):
    rng = np.random.default_rng(2)
    pre, post = rng.integers(1, 4, (2, 300)).astype(np.uint64) << np.uint64(61)
    place, score = rng.random((300, 3)) * 100, rng.integers(0, 9, 300) / 8
    near = np.linalg.norm(place[:, None] - place[None], axis=2) <= 9
    near &= (pre[:, None] == pre) & (post[:, None] == post)
    group = np.arange(300)
    for _ in range(300):
        group = np.array([group[row].min() for row in near])
    expected = [
        min(np.flatnonzero(group == group[k]).tolist(), key=lambda r: (-score[r], r))
        for k in range(300)
    ]
    for at_once in (1_000_000, 50, 1):
        monkeypatch.setattr("synpol.connectivity.links._AT_ONCE", at_once)
        assert duplicates_of(pre, post, place, score, 9).tolist() == expected


def test_links_of_a_low_score_stay_in_the_table_and_make_no_connection(tmp_path):
    _, told = described(tmp_path, *t_bar(), partners="all", min_score=0.51)
    assert (told.links, told.below, told.connections) == (4, 4, 0)
    (tmp_path / "b").mkdir()
    _, told = described(tmp_path / "b", *t_bar(), partners="all", min_score=0.5)
    assert (told.links, told.below, told.connections) == (4, 0, 4)


def test_a_segmentation_of_a_part_is_taken_where_it_is_allowed(tmp_path):
    labels = np.tile([1, 2], (2, 4, 3)).astype(np.uint64)
    first = image(tmp_path, "instances", labels)
    second = image(tmp_path, "neurons", np.full((2, 2, 9), 3, np.uint8), offset=(0, 16, -8))
    with parts_blockwise(
        first, second, partly=True, block_shape=(1, 3, 2), work_dir=tmp_path / "w"
    ) as ranges:
        [parts] = ranges
    assert parts.neuron.tolist() == [0, 3, 0, 3]
    assert parts.voxels.tolist() == [12, 12, 12, 12]


@pytest.mark.parametrize("at_once", [1, 2])
def test_ranges_of_synapses_are_in_their_order(tmp_path, monkeypatch, at_once):
    labels = np.repeat(np.arange(1, 13), 2).reshape(1, 1, 24)
    neurons = np.arange(1, 25).reshape(1, 1, 24)
    images = [image(tmp_path, n, a.astype(np.uint64)) for n, a in (("a", labels), ("b", neurons))]

    def parts():
        with parts_blockwise(*images, block_shape=(1, 1, 5), work_dir=tmp_path / "w") as ranges:
            return list(ranges)

    [whole] = parts()
    monkeypatch.setattr("synpol.connectivity.job.SYNAPSES_AT_ONCE", at_once)
    some = parts()
    assert len(some) == 6 // at_once
    for name in ("label", "neuron", "voxels", "anchor", "area"):
        joined = np.concatenate([getattr(one, name) for one in some])
        np.testing.assert_array_equal(joined, getattr(whole, name))
