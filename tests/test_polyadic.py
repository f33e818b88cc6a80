"""Insect synapses of the synthetic tissue, and their true links."""

import hashlib

import numpy as np
import pyarrow.parquet as pq
import pytest

from synpol.config import LinkSides, SyntheticDataset
from synpol.datasets import write_synthetic as ws
from synpol.datasets.polyadic import TrueLinks
from synpol.datasets.synthetic import SyntheticVolume
from synpol.datasets.write_link_sides import write_link_sides
from synpol.evaluation.links import RULES, score_links
from synpol.images.image import open_image
from synpol.polarity import side_voxels
from synpol.synapses.links import Links, read_links

SIZE = np.array([30, 16, 16])
VOLUME = SyntheticVolume(seed=3, polyadic=True)
SHAPE = (18, 120, 120)


@pytest.fixture(scope="module")
def tissue():
    """A region, and its links."""
    return VOLUME.make((0, 0, 0), SHAPE), VOLUME.links((0, 0, 0), SHAPE)


def at(array, places):
    """Values of an array at places in nm."""
    return array[tuple(np.floor(places / SIZE).astype(int).T)]


def test_both_ends_of_every_link_lie_in_their_neurons_and_sides(tissue):
    region, links = tissue
    assert len(links.synapse) > 12
    assert np.array_equal(at(region.neurons, links.pre), links.pre_id)
    assert np.array_equal(at(region.neurons, links.post), links.post_id)
    assert np.array_equal(at(region.labels, links.pre), 2 * links.synapse - 1)
    assert np.array_equal(at(region.labels, links.post), 2 * links.synapse)
    # the two ends of a link, and the posts of a T-bar, lie as far apart as in flies
    assert 130 < np.median(np.linalg.norm(links.pre - links.post, axis=1)) < 250
    same = links.synapse[:, None] == links.synapse
    np.fill_diagonal(same, False)
    away = np.linalg.norm(links.post[:, None] - links.post, axis=2)
    nearest = np.where(same, away, np.inf).min(axis=1)
    assert 100 < np.median(nearest[np.isfinite(nearest)]) < 170


def test_a_synapse_has_one_pre_neuron_and_one_to_six_post_neurons(tissue):
    region, links = tissue
    counts = []
    for synapse in np.unique(links.synapse):
        rows = links.synapse == synapse
        assert len(np.unique(links.pre_id[rows])) == 1
        assert len(np.unique(links.post_id[rows])) == rows.sum()
        assert len(np.unique(links.pre[rows], axis=0)) == 1
        counts.append(rows.sum())
        assert set(region.neurons[region.labels == 2 * synapse - 1]) == {links.pre_id[rows][0]}
        assert set(links.post_id[rows]) <= set(region.neurons[region.labels == 2 * synapse])
    assert min(counts) >= 1 and max(counts) <= 6 and len(set(counts)) >= 3
    # what the border leaves of a post is no link where it is a sliver
    posts = region.labels[(region.labels > 0) & (region.labels % 2 == 0)]
    assert set(links.synapse) <= set(posts // 2)
    assert links.post_id.max() < 2**63


def test_a_post_neuron_lies_at_one_synapse_and_is_thin(tissue):
    region, links = tissue
    for neuron in links.post_id:
        z, y, x = np.nonzero(region.neurons == neuron)
        extent = np.ptp(np.stack([z, y, x], axis=1), axis=0) * SIZE
        assert (extent < 540).all()
        assert len(z) * SIZE.prod() < 1.2e7  # nm^3; a neurite of this tissue has 1.8e8


@pytest.mark.parametrize(
    ("volume", "offset", "shape", "start", "part"),
    [
        (VOLUME, (4, 30, 70), (9, 80, 70), (3, 17, 21), (6, 50, 47)),
        (
            SyntheticVolume((40, 8, 8), 5, 1.0, polyadic=True),
            (2, 40, 100),
            (5, 100, 110),
            (1, 20, 20),
            (3, 60, 70),
        ),
    ],
)
def test_region_cut_from_a_larger_region_equals_region_made_alone(
    volume, offset, shape, start, part
):
    whole = volume.make(offset, shape)
    alone = volume.make(tuple(np.add(offset, start).tolist()), part)
    cut = tuple(slice(a, a + n) for a, n in zip(start, part, strict=True))
    assert whole.labels[cut].any()
    for a, b in zip(whole, alone, strict=True):
        assert a[cut].tobytes() == b.tobytes()


def test_the_links_of_blocks_are_those_of_the_region(tissue):
    _, links = tissue
    rows = []
    for z, y, x in np.ndindex(1, 2, 1):
        block = (18 * z, 60 * y, 120 * x), (18, 60, 120)
        found = VOLUME.links(*block, within=((0, 0, 0), SHAPE))
        rows += list(zip(*(a.tolist() for a in found), strict=True))
    assert len(rows) == len(links.synapse)
    assert sorted(rows) == list(zip(*(a.tolist() for a in links), strict=True))


def test_there_are_thin_profiles_without_a_synapse(tissue):
    region, _ = tissue
    thin = np.unique(region.neurons[region.neurons > 2**60 + 2**59])
    at_synapses = np.unique(region.neurons[region.labels > 0])
    assert len(np.setdiff1d(thin, at_synapses)) >= 2


def test_tissue_that_is_not_polyadic_is_what_it_was():
    region = SyntheticVolume(seed=1).make((0, 0, 0), (14, 90, 100))
    found = [hashlib.sha256(array.tobytes()).hexdigest()[:12] for array in region]
    assert found == ["b83b341ca1ac", "0eae2fa28611", "0201827dc9ea"]
    told = SyntheticDataset(output="a", shape=(1, 2, 3)).model_dump(mode="json")
    assert "polyadic" not in told


def dataset(folder, **changes):
    given = {"output": str(folder), "shape": (12, 72, 72), "seed": 25, "min_side_voxels": 20}
    return SyntheticDataset.model_validate({**given, "polyadic": True, **changes})


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Tissue on disk with its table of links."""
    folder = tmp_path_factory.mktemp("polyadic") / "s"
    ws.write_synthetic(dataset(folder), 1)
    return folder


def test_the_table_tells_of_the_synapses_of_the_truth(written):
    links = read_links(written / "true_links.parquet")
    table = pq.read_table(written / "true_links.parquet").to_pydict()
    truth, neurons = (open_image(written / name).array[:] for name in ("truth", "neurons"))
    assert table["link_id"] == list(range(1, len(links) + 1)) and len(links) > 4
    synapse = np.array(table["synapse_id"])
    assert np.array_equal(at(truth, links.pre), 2 * synapse - 1)
    assert np.array_equal(at(truth, links.post), 2 * synapse)
    assert np.array_equal(at(neurons, links.pre), links.pre_id)
    assert np.array_equal(at(neurons, links.post), links.post_id)
    scores = score_links(links, links, RULES["cremi"])
    assert scores.matching.f1 == 1
    posts = np.unique(synapse, return_counts=True)[1]
    assert scores.recall_of_one_post == pytest.approx(len(posts) / posts.sum())


def test_any_blocks_give_the_same_bytes(written, tmp_path, monkeypatch):
    monkeypatch.setattr(ws, "BLOCK", (12, 40, 72))
    ws.write_synthetic(dataset(tmp_path / "s"), 1)
    table = tmp_path / "s" / "true_links.parquet"
    expected = (written / "true_links.parquet").read_bytes()
    assert table.read_bytes() == expected
    for name in ws.IMAGES:
        ours, theirs = (open_image(f / name).array[:] for f in (written, tmp_path / "s"))
        assert np.array_equal(ours, theirs)
    before = table.stat().st_mtime_ns
    ws.write_synthetic(dataset(tmp_path / "s"), 1)
    assert table.stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_lost_table_is_made_anew_and_other_tissue_has_none(tmp_path):
    table = tmp_path / "s" / "true_links.parquet"
    ws.write_synthetic(dataset(tmp_path / "s", shape=(2, 8, 8)), 1)
    assert len(read_links(table)) == 0
    expected = table.read_bytes()
    table.unlink()
    ws.write_synthetic(dataset(tmp_path / "s", shape=(2, 8, 8)), 1)
    assert table.read_bytes() == expected
    ws.write_synthetic(dataset(tmp_path / "s", shape=(2, 8, 8), polyadic=False), 1)
    assert not table.exists()


def test_labels_made_from_the_links_lie_on_the_true_sides(written, tmp_path):
    made = write_link_sides(
        LinkSides.model_validate(
            {
                "links": {"path": str(written / "true_links.parquet")},
                "image": str(written / "raw"),
                "segmentation": str(written / "neurons"),
                "output": str(tmp_path / "truth"),
                "radius": 120,
                "thickness": 80,
                "gap": 40,
            }
        )
    )
    truth, labels = open_image(written / "truth").array[:], made.image.array[:]
    for ours, true in zip(side_voxels(labels), side_voxels(truth), strict=True):
        assert (ours & true).sum() > 0.6 * (ours | true).sum()


def test_links_of_nothing_are_empty():
    empty = TrueLinks.of([], SIZE)
    assert len(empty.synapse) == 0 and empty.pre.shape == (0, 3)
    assert len(Links.of(empty.pre, empty.post)) == 0
