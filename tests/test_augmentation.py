"""Augmentations: image and labels move together, sides are never swapped or mixed."""

from __future__ import annotations

import gunpowder as gp
import numpy as np
import pytest
from funlib.persistence import Array
from recipes import recipe, run, run_refused, tiny_config, tiny_volume

from synpol.config import Augment, Section, load_config
from synpol.config.section import Fraction
from synpol.gp import (
    GammaAugment,
    MisalignAugment,
    MissingSectionsAugment,
    MotionBlurAugment,
    augmentations,
)
from synpol.gp.augmentations import Augmentation, context_of
from synpol.gp.image_augment import ImageAugment
from synpol.report import figures
from synpol.training.checkpoint import training_identity
from synpol.training.volumes import open_volume

RAW, LABELS, KNOWN = gp.ArrayKey("RAW"), gp.ArrayKey("LABELS"), gp.ArrayKey("KNOWN")
SIZE = gp.Coordinate(8, 24, 24)


class Known(gp.BatchFilter):
    """Something without a place beside the arrays, as the training graph has it."""

    def setup(self):
        self.provides(KNOWN, gp.ArraySpec(nonspatial=True))

    def process(self, batch, request):
        batch[KNOWN] = gp.Array(np.ones(1), gp.ArraySpec(nonspatial=True))


def tissue():
    """Labels of synapses with their sides next to each other, and an image that tells them."""
    rng = np.random.default_rng(0)
    labels = np.zeros((24, 80, 80), np.uint64)
    for n in range(1, 60):
        z, y, x = (
            int(rng.integers(0, s - d)) for s, d in zip(labels.shape, (5, 8, 12), strict=True)
        )
        labels[z : z + 5, y : y + 8, x : x + 6] = 2 * n - 1
        labels[z : z + 5, y : y + 8, x + 6 : x + 12] = 2 * n
    return labels


def batches(node, labels, raw, count=20):
    arrays = [
        Array(a, (0, 0, 0), (1, 1, 1), ["z", "y", "x"], ["nm"] * 3, ["space"] * 3)
        for a in (raw, labels)
    ]
    graph = (
        (gp.ArraySource(RAW, arrays[0], True), gp.ArraySource(LABELS, arrays[1], False))
        + gp.MergeProvider()
        + gp.RandomLocation()
        + Known()
        + node
    )
    found = []
    with gp.build(graph):
        for seed in range(count):
            request = gp.BatchRequest(random_seed=seed)
            request.add(RAW, SIZE)
            request.add(LABELS, SIZE)
            request[KNOWN] = gp.ArraySpec(nonspatial=True)
            batch = graph.request_batch(request)
            assert batch[RAW].data.shape == batch[LABELS].data.shape == tuple(SIZE)
            assert batch[KNOWN].data[0] == 1
            found.append((batch[RAW].data, batch[LABELS].data))
    return found


GEOMETRIC = {
    "elastic": gp.ElasticAugment((4, 8, 8), (0, 2, 2), (0, 0), subsample=2),
    "misalign": MisalignAugment(6, 1.0),
    "slip": MisalignAugment(6, 1.0, slip=1.0),
    "flips and turns": gp.SimpleAugment(transpose_only=[1, 2]),
}


@pytest.mark.parametrize("name", GEOMETRIC)
def test_image_and_labels_move_together_and_no_side_is_swapped(name):
    labels = tissue()
    side = np.where(labels == 0, 0.0, np.where(labels % 2 == 1, 0.25, 1.0)).astype(np.float32)
    moved = False
    for raw, found in batches(GEOMETRIC[name], labels, side):
        assert np.isin(found, labels).all()
        # where a label is not at a border, where interpolation blends, the image says its side
        inner = np.ones(found.shape, bool)
        for axis in range(3):
            for step in (-1, 1):
                inner &= found == np.roll(found, step, axis)
        inner[[0, -1]] = inner[:, [0, -1]] = inner[:, :, [0, -1]] = False
        expected = np.where(found == 0, 0.0, np.where(found % 2 == 1, 0.25, 1.0))
        if name == "elastic":
            agree = np.abs(raw - expected)[inner] < 0.13
            assert agree.mean() > 0.98
        else:
            assert np.allclose(raw, expected)
        moved |= bool(found.any())
    assert moved


def test_elastic_moves_by_a_few_voxels_in_plane_and_does_not_zoom():
    axes = np.meshgrid(*[np.arange(n, dtype=np.float32) for n in (24, 80, 80)], indexing="ij")
    for axis, place in enumerate(axes):
        spread = []
        node = gp.ElasticAugment((4, 16, 16), (0, 2, 2), (0, 0), subsample=2)
        for patch, _ in batches(node, tissue(), place):
            corner = np.median(patch - axes[axis][:8, :24, :24])
            moved = patch - axes[axis][:8, :24, :24] - corner
            spread.append(np.abs(moved).max())
            if axis == 0:
                assert np.abs(moved).max() < 1e-4
        assert max(spread) < 10
        assert axis == 0 or max(spread) > 1


def test_a_slip_moves_one_section_and_a_translation_all_from_one_on():
    ramp = np.broadcast_to(np.arange(80, dtype=np.float32), (24, 80, 80)).copy()
    kinds = {"slip": set(), "translation": set()}
    for kind, slip in (("slip", 1.0), ("translation", 0.0)):
        for raw, _ in batches(MisalignAugment(6, 1.0, slip=slip), tissue(), ramp):
            shift = raw[:, 0, 0] - raw[0, 0, 0]
            assert np.abs(shift).max() <= 6
            changed = np.flatnonzero(shift)
            kinds[kind].add(len(changed))
            if kind == "translation" and len(changed):
                assert changed[-1] == len(raw) - 1
                assert (np.diff(changed) == 1).all()
                assert len(set(shift[changed])) == 1
    assert kinds["slip"] == {0, 1} or kinds["slip"] == {1}
    assert max(kinds["translation"]) > 1


def test_missing_sections_are_filled_wholly_or_to_one_side():
    raw = np.random.default_rng(0).random((24, 80, 80)).astype(np.float32)
    whole = part = 0
    for patch, _ in batches(MissingSectionsAugment(RAW, 3, 1.0), tissue(), raw):
        touched = 0
        for section in patch:
            _, counts = np.unique(section, return_counts=True)
            share = counts.max() / section.size
            touched += share > 0.1
            whole += share == 1
            part += 0.2 < share < 0.8
        assert 1 <= touched <= 3
    assert whole
    assert part


def test_motion_blur_blurs_some_sections_along_one_axis():
    raw = np.random.default_rng(0).random((24, 80, 80)).astype(np.float32)
    for patch, _ in batches(MotionBlurAugment(RAW, 2, 1.0, 11), tissue(), raw, 10):
        rough = np.stack([np.abs(np.diff(patch, axis=a)).mean((1, 2)) for a in (1, 2)])
        blurred = rough.min(0) < 0.15
        assert 1 <= blurred.sum() <= 2
        assert (rough.max(0)[blurred] < 0.2).all()


def test_gamma_keeps_the_ends_and_bends_the_middle():
    raw = np.full((24, 80, 80), 0.5, np.float32)
    middles = [patch.mean() for patch, _ in batches(GammaAugment(RAW, 2.0, 1.0), tissue(), raw)]
    assert 0.25 <= min(middles) < 0.45 < 0.55 < max(middles) <= 0.5**0.5 + 1e-6


@pytest.mark.parametrize(
    "node",
    [
        gp.ElasticAugment((4, 8, 8), (0, 2, 2), (0, 0), p=0.0),
        MisalignAugment(6, 0.0),
        MissingSectionsAugment(RAW, 3, 0.0),
        MotionBlurAugment(RAW, 3, 0.0),
        GammaAugment(RAW, 2.0, 0.0),
    ],
    ids=lambda node: type(node).__name__,
)
def test_with_probability_0_nothing_changes(node):
    raw = np.arange(24 * 80 * 80, dtype=np.float32).reshape(24, 80, 80)
    for patch, _ in batches(node, tissue(), raw, 5):
        assert (np.diff(patch, axis=2) == 1).all()
        assert (np.diff(patch, axis=0) == 80 * 80).all()


def test_the_context_is_what_geometry_looks_at():
    assert context_of(Augment()) == (0, 0, 0)
    assert context_of(Augment(misalign_p=0.5)) == (0, 16, 16)
    both = Augment(misalign_p=0.5, misalign=3, elastic_p=1, elastic_sigma=(0.5, 2, 2.1))
    assert context_of(both) == (2, 11, 12)


# ---------------------------------------------------------------- the list


class Fog(Section):
    """Options of an augmentation that is not in the package."""

    p: Fraction = 0.5
    grey: Fraction = 0.25


class FogAugment(ImageAugment):
    """Replace the image by one grey value."""

    stream = "Fog"

    def __init__(self, image, grey, p):
        super().__init__(image, p)
        self.grey = grey

    def process(self, batch, request):
        batch[self.image].data[:] = self.grey


@pytest.fixture
def fog(monkeypatch):
    entry = Augmentation(
        "fog", Fog, lambda options, image: FogAugment(image, options.grey, options.p)
    )
    monkeypatch.setattr(augmentations, "AUGMENTATIONS", [*augmentations.AUGMENTATIONS, entry])


def raw_of_the_recipe(folder, *changes):
    """The image of the first batch."""
    config = load_config([str(tiny_config(folder)), *changes])
    train = recipe("train")
    volume = open_volume(config.data.train[0], None)
    graph = train.request_graph(config, [volume], 0, range(2))
    with gp.build(graph):
        return graph.request_batch(train.batch_request(config, volume))[train.RAW].data


def test_an_augmentation_from_outside_is_in_the_recipe_and_in_the_picture(
    tmp_path, fog, monkeypatch
):
    tiny_volume(tmp_path / "data")
    plain = raw_of_the_recipe(tmp_path)
    always = raw_of_the_recipe(tmp_path, "augment.extra.fog={p: 1, grey: 0.375}")
    assert (always == 0.375).all()
    assert np.ptp(plain) > 0.3
    assert np.array_equal(plain, raw_of_the_recipe(tmp_path, "augment.extra.fog.p=0"))

    drawn = {}
    gallery = figures.augmentation_gallery
    monkeypatch.setattr(
        figures,
        "augmentation_gallery",
        lambda rows, plain: drawn.update(rows) or gallery(rows, plain),
    )
    asked_for = (tiny_config(tmp_path), "augment.extra.fog.p=0.01")
    assert run("augmentations", *asked_for) == 0
    assert list(drawn)[:3] == ["as it is", "elastic", "slip"]
    assert list(drawn)[-1] == "fog"
    assert (drawn["fog"][0] == 0.25).all()

    assert run("train", *asked_for) == 0
    assert run("train", *asked_for, "train.iterations=4") == 0


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            "augment.extra.fgo={}",
            "augment.extra.fgo: there is no such augmentation; did you mean 'fog'",
        ),
        ("augment.extra.gamma={p: 1}", "augment.extra.gamma: there is no such augmentation"),
        ("augment.extra.fog.gray=1", "unknown key 'augment.extra.fog.gray'; did you mean"),
        ("augment.extra.fog.grey=2", "augment.extra.fog.grey: Input should be less than"),
        ("augment.extra.fog=1", "augment.extra.fog"),
    ],
)
def test_an_extra_augmentation_that_cannot_be_meant_is_refused(
    tmp_path, fog, capsys, change, expected
):
    tiny_volume(tmp_path / "data")
    for command in ("train", "augmentations"):
        assert expected in run_refused(capsys, command, tiny_config(tmp_path), change)
    assert not (tmp_path / "run").exists()


def test_a_run_does_not_resume_with_another_extra_augmentation(tmp_path, fog, capsys):
    tiny_volume(tmp_path / "data")
    plain = tiny_config(tmp_path)
    assert "extra" not in training_identity(load_config([str(plain)]))["augment"]
    assert run("train", plain, "augment.extra.fog.p=0.5") == 0
    for change in ("augment.extra.fog.p=0.6", "augment.extra={}"):
        message = run_refused(capsys, "train", plain, change)
        assert "was trained with augment.extra = {'fog': {'p': 0.5}}" in message
