"""gunpowder nodes: targets and weights, rejection, ordered pre-caching."""

import errno
import multiprocessing
import os

import gunpowder as gp
import numpy as np
import pytest
from funlib.persistence import Array
from recipes import write

from synpol import InputError, seg_to_polarity
from synpol.gp import (
    AddPolarityTarget,
    AddSidesKnown,
    Nothing,
    OrderedPreCache,
    RejectSampling,
    StackPatches,
    request_batch,
)
from synpol.gp.add_polarity_target import polarity_target
from synpol.gp.batch_queue import BatchQueue
from synpol.images.image import open_image
from synpol.training.volumes import ByRoi

RAW, LABELS = gp.ArrayKey("RAW"), gp.ArrayKey("LABELS")
TARGET, WEIGHTS = gp.ArrayKey("TARGET"), gp.ArrayKey("WEIGHTS")
SIDES, DRAWS = gp.ArrayKey("SIDES"), gp.ArrayKey("DRAWS")
SIZE = gp.Coordinate(4, 8, 8)


def volume(fill: float = 0.02, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.where(rng.random((8, 40, 40)) < fill, rng.integers(1, 9, (8, 40, 40)), 0)
    labels[:, :20] = 0
    # every raw value tells its place
    return np.arange(labels.size, dtype=np.float32).reshape(labels.shape), labels.astype(np.uint64)


def source(raw: np.ndarray, labels: np.ndarray) -> gp.Pipeline:
    arrays = [
        Array(a, (0, 0, 0), (1, 1, 1), ["z", "y", "x"], ["nm"] * 3, ["space"] * 3)
        for a in (raw, labels)
    ]
    return (
        (gp.ArraySource(RAW, arrays[0], True), gp.ArraySource(LABELS, arrays[1], False))
        + gp.MergeProvider()
        + gp.RandomLocation()
    )


def request(*keys: gp.ArrayKey, seed: int | None = None) -> gp.BatchRequest:
    wanted = gp.BatchRequest(random_seed=seed)
    for key in keys:
        wanted.add(key, SIZE)
    return wanted


def test_parts_of_a_batch_are_those_of_the_whole():
    raw, labels = volume()

    def batch(places):
        graph = (
            source(raw, labels)
            + RejectSampling(LABELS, 3, 0.5)
            + gp.SimpleAugment()
            + gp.NoiseAugment(RAW, var=4, clip=False)
            + StackPatches(places)
        )
        with gp.build(graph):
            got = request_batch(graph, request(RAW, LABELS, seed=11))
        return got[RAW].data, got[LABELS].data

    whole, parts = batch(range(5)), [batch(range(2)), batch(range(2, 5))]
    assert whole[0].shape == (5, *SIZE)
    assert len({patch.tobytes() for patch in whole[0]}) == 5
    for array, first, second in zip(whole, *parts, strict=True):
        assert np.array_equal(array, np.concatenate([first, second]))


@pytest.mark.parametrize("fraction", [0.001, 0.2, 0.5, 0.7])
def test_weights_are_the_recipes(fraction):
    rng = np.random.default_rng(1)
    labels = np.where(rng.random((10, 20, 20)) < fraction, rng.integers(1, 5, (10, 20, 20)), 0)
    target, weights = polarity_target(labels, weight_max=100)
    assert np.array_equal(target, seg_to_polarity(labels))
    for channel, weight in zip(target, weights, strict=True):
        f = np.clip(channel.mean(), 0.05, 0.95)
        rare = (channel == 1) if f <= 0.5 else (channel == 0)
        assert np.allclose(weight[rare], max(f, 1 - f) / min(f, 1 - f))
        assert (weight[~rare] == 1).all()


def test_weights_are_bounded_and_one_without_foreground():
    labels = np.zeros((2, 10, 10), np.uint64)
    assert (polarity_target(labels)[1] == 1).all()
    labels[0, 0, 0] = 1
    assert polarity_target(labels, weight_max=5)[1].max() == 5
    assert polarity_target(labels, weight_max=100)[1].max() == pytest.approx(19)


def test_labels_without_sides_train_the_union_alone():
    labels = np.zeros((2, 4, 4), np.uint64)
    labels[0] = 255
    target, weights = polarity_target(labels, sides_known=False)
    assert target[:2].max() == weights[:2].max() == 0
    assert np.array_equal(target[2], labels > 0)
    assert (weights[2] >= 1).all()


@pytest.mark.parametrize(("exclusive", "known"), [(False, False), (False, True), (True, True)])
def test_the_node_provides_target_and_weights_of_its_patch(exclusive, known):
    raw, labels = volume(0.3)
    graph = (
        source(raw, labels)
        + AddSidesKnown(SIDES, known)
        + AddPolarityTarget(LABELS, TARGET, WEIGHTS, SIDES, exclusive)
    )
    with gp.build(graph):
        batch = graph.request_batch(request(RAW, LABELS, TARGET, WEIGHTS, seed=3))
    expected = polarity_target(batch[LABELS].data, known, exclusive)
    assert np.array_equal(batch[TARGET].data, expected[0])
    assert np.array_equal(batch[WEIGHTS].data, expected[1])
    assert batch[TARGET].data.dtype == (np.int64 if exclusive else np.float32)


def test_rejection_keeps_image_and_labels_together_and_can_be_repeated():
    raw, labels = volume()
    graph = source(raw, labels) + RejectSampling(LABELS, 5, 1.0, DRAWS)
    wanted = request(RAW, LABELS, seed=11)
    wanted[DRAWS] = gp.ArraySpec(nonspatial=True)
    with gp.build(graph):
        first = graph.request_batch(wanted.copy())
        wanted = request(RAW, LABELS, seed=11)
        wanted[DRAWS] = gp.ArraySpec(nonspatial=True)
        again = graph.request_batch(wanted.copy())
    assert np.array_equal(first[RAW].data, again[RAW].data)
    assert np.array_equal(first[DRAWS].data, again[DRAWS].data)
    assert np.count_nonzero(first[LABELS].data) >= 5
    places = first[RAW].data.astype(int)
    assert np.array_equal(labels.ravel()[places], first[LABELS].data)


def test_rejection_happens_with_probability_p():
    raw, labels = volume(fill=0)
    draws = []
    graph = source(raw, labels) + RejectSampling(LABELS, 1, 0.75, DRAWS)
    with gp.build(graph):
        for seed in range(300):
            wanted = request(RAW, LABELS, seed=seed)
            wanted[DRAWS] = gp.ArraySpec(nonspatial=True)
            draws.append(int(graph.request_batch(wanted)[DRAWS].data[0]))
    assert np.mean(draws) == pytest.approx(1 / (1 - 0.75), rel=0.2)


def test_the_image_is_read_only_for_what_is_accepted():
    class Counting(gp.BatchFilter):
        asked = 0

        def provide(self, wanted):
            Counting.asked += RAW in wanted
            return self.get_upstream_provider().request_batch(wanted)

    raw, labels = volume()
    graph = source(raw, labels) + Counting() + RejectSampling(LABELS, 5, 1.0)
    with gp.build(graph):
        for seed in range(5):
            graph.request_batch(request(RAW, LABELS, seed=seed))
    assert Counting.asked == 5


def test_where_nothing_can_be_accepted_it_says_so():
    raw, labels = volume(fill=0)
    labels[0, 30, 30] = 1
    graph = source(raw, labels) + RejectSampling(LABELS, 50, 1.0, patience=100)
    graph += OrderedPreCache(0, num_workers=0)
    with gp.build(graph), pytest.raises(InputError, match=r"largest count was [01]\b"):
        request_batch(graph, request(RAW, LABELS))


def batches(num_workers: int, first: int, count: int) -> list[np.ndarray]:
    raw, labels = volume()
    graph = (
        source(raw, labels)
        + RejectSampling(LABELS, 4, 0.9)
        + gp.SimpleAugment(transpose_only=[1, 2])
        + StackPatches(range(2))
        + OrderedPreCache(5, first, num_workers, cache_size=4)
    )
    with gp.build(graph):
        wanted = request(RAW, LABELS)
        return [graph.request_batch(wanted)[RAW].data.copy() for _ in range(count)]


def test_batches_do_not_depend_on_the_number_of_workers_nor_on_where_a_run_resumed():
    serial = batches(0, 0, 9)
    assert len({b.tobytes() for b in serial}) == 9
    for workers in (1, 3):
        assert all(
            np.array_equal(a, b) for a, b in zip(serial, batches(workers, 0, 9), strict=True)
        )
    resumed = batches(2, 4, 5)
    assert all(np.array_equal(a, b) for a, b in zip(serial[4:], resumed, strict=True))


def test_a_failure_in_a_worker_reaches_the_caller():
    raw, labels = volume(fill=0)
    graph = source(raw, labels) + RejectSampling(LABELS, 50, 1.0, patience=20)
    graph += OrderedPreCache(0, num_workers=2)
    with gp.build(graph), pytest.raises(InputError, match="size_thres = 50"):
        request_batch(graph, request(RAW, LABELS))


@pytest.mark.parametrize("change", [{"p": 1.5}, {"size_thres": -1}])
def test_rejection_refuses_what_cannot_be_meant(change):
    with pytest.raises(InputError, match=next(iter(change))):
        RejectSampling(**{"labels": LABELS, "size_thres": 5, "p": 0.5} | change)


def test_nothing_adds_no_node_wherever_it_stands_in_a_chain():
    raw, labels = volume()
    flip, stack = gp.SimpleAugment(), StackPatches(range(2))
    chains = {
        "between": source(raw, labels) + Nothing() + flip + Nothing() + stack + Nothing(),
        "first": source(raw, labels) + (Nothing() + flip + stack),
        "after a node": source(raw, labels) + (flip + Nothing()) + stack,
        "alone": source(raw, labels) + (Nothing() + Nothing()) + flip + stack,
    }
    shown = {repr(chain) for chain in [source(raw, labels) + flip + stack, *chains.values()]}
    assert len(shown) == 1
    drawn = []
    for chain in chains.values():
        with gp.build(chain):
            drawn.append(chain.request_batch(request(RAW, seed=4))[RAW].data)
    assert all(np.array_equal(drawn[0], other) for other in drawn[1:])
    sources = (source(raw, labels), source(raw, labels))
    assert sources + Nothing() is sources


@pytest.mark.parametrize("held", [0, 6 * 20 * 24 - 1, 6 * 20 * 24])
def test_images_are_read_by_boxes_from_the_disk_and_from_memory(held, tmp_path):
    values = np.random.default_rng(0).integers(0, 255, (6, 20, 24), dtype=np.uint8)
    write(tmp_path, "raw", values, offset=(45, 8, 32))
    image = open_image(tmp_path / "raw")
    source = ByRoi(image, held)
    assert source.roi == gp.Roi((30, 0, 32), (180, 320, 384))  # whole voxels
    assert source.voxel_size == (30, 16, 16) and source.dtype == np.uint8
    box = gp.Roi((60, 16, 64), (60, 32, 48))
    assert np.array_equal(source[box], values[1:3, 1:3, 2:5])
    source[source.roi][:] = 7  # a node may change what it gets
    assert np.array_equal(source[source.roi], values)
    open_image(tmp_path / "raw", mode="r+").array[:] = 0  # what is in memory stays
    assert source[box].any() == (held == values.nbytes)
    for beyond in ((30, -16, 0), (60, 288, 0), (210, 0, 32)):
        with pytest.raises(IndexError, match="reaches beyond the image"):
            source[gp.Roi(beyond, (60, 32, 48))]


class Niceness(gp.BatchFilter):
    """Put how far this process gives way into the image."""

    def process(self, batch, request):
        batch[RAW].data = np.full_like(batch[RAW].data, os.nice(0))


def test_workers_give_way_as_far_as_they_are_told():
    for workers, expected in ((1, os.nice(0) + 3), (0, os.nice(0))):
        graph = source(*volume()) + Niceness()
        graph += OrderedPreCache(0, num_workers=workers, niceness=3)
        with gp.build(graph):
            assert (request_batch(graph, request(RAW))[RAW].data == expected).all()


class Numbered(gp.BatchFilter):
    """Fill the image with the number of the batch in its process."""

    count = 0

    def process(self, batch, request):
        self.count += 1
        batch[RAW].data = np.full_like(batch[RAW].data, self.count)


def test_a_batch_stays_as_it_is_when_others_follow():
    graph = source(*volume()) + Numbered() + OrderedPreCache(0, num_workers=1, cache_size=2)
    with gp.build(graph):
        kept = [request_batch(graph, request(RAW))[RAW].data for _ in range(12)]
    for number, found in enumerate(kept, 1):
        assert (found == number).all() and found.flags.writeable


def refused(*given):
    raise OSError(errno.ENOSYS, "not here")


@pytest.mark.parametrize("missing", [None, "memfd_create", "posix_fallocate"])
def test_a_queue_passes_arrays_of_any_layout_and_none_at_all(monkeypatch, missing):
    if missing:
        monkeypatch.setattr(os, missing, refused)
    fork = multiprocessing.get_context("fork")
    given = [
        np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1),
        np.asfortranarray(np.arange(6, dtype=np.uint8).reshape(2, 3)),
        np.zeros((0, 3), np.float32),
        np.arange(10, dtype=np.uint64)[::2],
        np.arange(1000),  # more than the first
        np.arange(24.0),
    ]
    queue = BatchQueue(1)

    def run():
        for data in given:
            batch = gp.Batch()
            batch[RAW] = gp.Array(data, gp.ArraySpec(nonspatial=True))
            queue.put(batch)
        queue.put(gp.Batch())
        queue.put(None, "it broke")
        queue.queue.close()
        queue.queue.join_thread()

    process = fork.Process(target=run)
    process.start()
    for expected in given:
        batch, failure = queue.get(timeout=20)
        assert failure is None and batch[RAW].data.dtype == expected.dtype
        assert np.array_equal(batch[RAW].data, expected)
    assert not queue.get(timeout=20)[0].arrays
    assert queue.get(timeout=20) == (None, "it broke")
    process.join()
    assert (queue.memory is None) == bool(missing)
    queue.close()
    queue.close()
