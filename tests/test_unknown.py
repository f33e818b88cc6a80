"""What nobody looked at is neither learned nor scored."""

import itertools
import json
import os
import pickle
import subprocess
import sys

import gunpowder as gp
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import yaml
from funlib.geometry import Coordinate
from hypothesis import given, settings
from recipes import ROOT, run, run_refused, tiny_config, tiny_volume, write
from whole_batch import of_process

from synpol.config import Data, ImageSource, Loss, TrainingVolume
from synpol.errors import InputError
from synpol.evaluation.overlaps import evaluate_blockwise
from synpol.evaluation.scores import Evaluation, truth_instances
from synpol.gp import RejectSampling
from synpol.gp.add_polarity_target import polarity_target
from synpol.images.image import open_image
from synpol.images.labels import open_labels
from synpol.images.marks import MARKS
from synpol.model import build_loss
from synpol.polarity import SIDES_UNKNOWN, UNKNOWN, Channels
from synpol.training.volumes import open_volume

SHAPE = (6, 8, 10)
TERMS = Loss(bce=1, dice=1, side_contrast=1, non_overlap=1)


def labels_of(seed, shape=SHAPE, top=8):
    """Random labels in small boxes."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint64)
    for label in range(1, top + 1):
        corner = [int(rng.integers(0, n)) for n in shape]
        labels[tuple(slice(c, c + 3) for c in corner)] = label
    return labels


def unknown_in(seed, shape=SHAPE, share=0.6):
    """A mask of voxels that nobody looked at."""
    return np.random.default_rng(seed).random(shape) < share


# ---------------------------------------------------------------- reading


def test_keys_of_a_source_mark_what_is_unknown(tmp_path):
    labels = labels_of(0)
    mask = ~unknown_in(1)
    write(tmp_path, "labels", labels)
    write(tmp_path, "mask", mask.astype(np.uint8))
    said = {"path": str(tmp_path / "labels"), "unknown": [3], "sides_unknown": [5]}
    source = ImageSource(**said, known=str(tmp_path / "mask"))
    expected = labels.copy()
    expected[labels == 5] = SIDES_UNKNOWN
    expected[~mask | (labels == 3)] = UNKNOWN
    image = open_labels(source, "polarity", marked=True)
    assert np.array_equal(image.array[:], expected)
    assert np.array_equal(image.array[1:4, 2, ::3], expected[1:4, 2, ::3])
    part = image.part((1, 2, 3), (2, 3, 4))
    assert np.array_equal(part.array[:], expected[1:3, 2:5, 3:7])
    again = open_image(pickle.loads(pickle.dumps(image.source)), channels=0)  # as workers do
    assert np.array_equal(again.array[:], expected)
    beyond = image.part((-2, 0, -1), (9, 8, 12))
    padded = np.pad(expected, ((2, 1), (0, 0), (1, 1)), constant_values=UNKNOWN)
    assert np.array_equal(beyond.array[:], padded)
    assert beyond.offset == image.offset - image.voxel_size * Coordinate(2, 0, 1)
    assert np.array_equal(beyond.array[:2], padded[:2])  # wholly beyond


def test_elsewhere_unknown_labels_are_background(tmp_path):
    labels = labels_of(0)
    write(tmp_path, "labels", labels)
    write(tmp_path, "mask", (labels != 4).astype(np.uint8))
    source = ImageSource(path=str(tmp_path / "labels"), unknown=3, known=str(tmp_path / "mask"))
    image = open_labels(source, "ids")
    expected = np.where((labels == 3) | (labels == 4), 0, labels)
    for one in (image, open_image(image.source)):
        assert np.array_equal(one.array[:], expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"known": "shifted"}, "known"),
        ({"known": "nothing"}, "there is no .*nothing"),
        ({"unknown": [0, *range(1, 9)]}, "all voxels of .* are unknown"),
        ({"known": "empty"}, "all voxels of .* are unknown"),
    ],
)
def test_masks_that_cannot_be_used_are_refused(change, message, tmp_path):
    labels = labels_of(0)
    write(tmp_path, "raw", labels.astype(np.uint8))
    write(tmp_path, "labels", labels)
    write(tmp_path, "shifted", np.ones(SHAPE, np.uint8), offset=(300, 0, 0))
    write(tmp_path, "empty", np.zeros(SHAPE, np.uint8))
    if "known" in change:
        change = {"known": f"{tmp_path}/{change['known']}"}
    truth = ImageSource(path=str(tmp_path / "labels"), **change)
    with pytest.raises(InputError, match=message):
        open_volume(TrainingVolume(raw=f"{tmp_path}/raw", truth=truth, labels="union"), None)


def test_sides_whose_partners_are_unknown_are_not_missed(tmp_path, caplog):
    """The border of what is known cuts synapses, as the border of the volume does."""
    labels = np.zeros((6, 20, 40), np.uint64)
    for n in range(4):
        labels[1:4, 4 * n + 1 : 4 * n + 4, 18:20] = 2 * n + 1
        labels[1:4, 4 * n + 1 : 4 * n + 4, 20:22] = 2 * n + 2
    write(tmp_path, "raw", labels.astype(np.uint8))
    write(tmp_path, "truth", labels)
    for name, cut in (("cut", 20), ("far", 30)):
        mask = np.ones(labels.shape, np.uint8)
        mask[..., cut:] = 0
        write(tmp_path, name, mask)
    volume = {"raw": f"{tmp_path}/raw", "labels": "polarity"}
    truth = ImageSource(path=f"{tmp_path}/truth", known=f"{tmp_path}/cut")
    open_volume(TrainingVolume(**volume, truth=truth), None)
    assert "lack their partner" not in caplog.text
    write(tmp_path, "ids", np.where(labels % 2 == 1, labels, 0))
    truth = ImageSource(path=f"{tmp_path}/ids", known=f"{tmp_path}/far")
    with pytest.raises(InputError, match="only odd labels"):
        open_volume(TrainingVolume(**volume, truth=truth), None)


def test_context_is_for_training_alone(tmp_path):
    volume = {"raw": "raw", "truth": "truth", "labels": "union", "context": True}
    with pytest.raises(ValueError, match="about training patches; leave it out"):
        Data.model_validate({"validation": volume})


def test_marks_are_for_labels_alone(tmp_path):
    write(tmp_path, "raw", np.zeros(SHAPE, np.float32))
    write(tmp_path, "labels", np.full(SHAPE, UNKNOWN, np.uint64))
    with pytest.raises(InputError, match="are for labels"):
        open_image(ImageSource(path=f"{tmp_path}/raw", unknown=1))
    with pytest.raises(InputError, match=f"holds the label {UNKNOWN}"):
        _ = open_image(ImageSource(path=f"{tmp_path}/labels", unknown=1)).array[:]
    with pytest.raises(InputError, match=r"sides_unknown.*union"):
        open_labels(ImageSource(path=f"{tmp_path}/labels", sides_unknown=1), "union")


# ---------------------------------------------------------------- learning


def batch_of(labels, exclusive, marked):
    """Target and weights of a batch of one patch."""
    target, weights = polarity_target(labels, exclusive=exclusive, marked=marked)
    return torch.from_numpy(target)[None], torch.from_numpy(weights)[None]


def line(values, keep):
    """The voxels that are kept, as a volume of one row."""
    return values[..., keep][..., None, None, :]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from([0.0, 0.1, 0.6, 0.95]))
def test_the_loss_is_that_of_the_known_part_alone(seed, exclusive, share):
    labels, lost = labels_of(seed), unknown_in(seed, share=share)
    lost.flat[0] = False  # one voxel is known
    logits = torch.randn(1, 3, *SHAPE, generator=torch.Generator().manual_seed(seed % 2**31))
    channels = Channels.of(exclusive)
    results = []
    for marked in (True, False):
        values = np.where(lost, UNKNOWN, labels) if marked else line(labels, ~lost)
        given_logits = logits.clone() if marked else line(logits, torch.from_numpy(~lost))
        given_logits.requires_grad_()
        loss = build_loss(TERMS, channels, marked)
        total, terms = loss(given_logits, *batch_of(values, exclusive, marked))
        total.backward()
        gradient = given_logits.grad
        if marked:
            assert not gradient[:, :, torch.from_numpy(lost)].any()
            gradient = line(gradient, torch.from_numpy(~lost))
        results.append((total, terms, gradient))
    (total, terms, gradient), (expected, of_known, of_part) = results
    assert torch.isclose(total, expected, rtol=1e-5)
    assert terms.keys() == of_known.keys()
    for name, value in terms.items():
        assert torch.isclose(value, of_known[name], rtol=1e-5, atol=1e-7), name
    assert torch.allclose(gradient, of_part, rtol=1e-4, atol=1e-7)


def test_processes_together_count_what_is_known_in_the_whole_batch(tmp_path):
    labels = [labels_of(1), labels_of(2)]
    labels[0][unknown_in(3, share=0.9)] = UNKNOWN  # their known parts differ much
    labels[1][unknown_in(4, share=0.1)] = UNKNOWN
    logits = torch.randn(2, 3, *SHAPE, generator=torch.Generator().manual_seed(5))
    batches = {}
    for name in ("plain", "exclusive"):
        patches = [batch_of(values, name == "exclusive", True) for values in labels]
        batches[name] = [logits, *(torch.cat(part) for part in zip(*patches, strict=True))]
    torch.save(batches, tmp_path / "batch")
    of_process(0, 1, f"{tmp_path}/batch", f"{tmp_path}/alone")
    alone = torch.load(tmp_path / "alone.0")
    command = [sys.executable, f"{ROOT}/tests/whole_batch.py", f"{tmp_path}/batch"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([*command, f"{tmp_path}/two", "2"], check=True, timeout=120, env=environment)
    for rank in range(2):
        means = torch.load(tmp_path / f"two.{rank}")
        assert torch.allclose(means, alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("exclusive", [False, True])
def test_where_all_is_known_nothing_changes(exclusive):
    labels = labels_of(3)
    logits = torch.randn(2, 3, *SHAPE, requires_grad=True)
    results = []
    for marked in (False, True):
        batch = [torch.cat([part, part]) for part in batch_of(labels, exclusive, marked)]
        total, _ = build_loss(TERMS, Channels.of(exclusive), marked)(logits, *batch)
        results.append((total, *torch.autograd.grad(total, logits), *batch))
    for before, now in zip(*results, strict=True):
        assert torch.equal(before, now)


def test_a_patch_of_nothing_known_teaches_nothing():
    labels = np.full(SHAPE, UNKNOWN)
    logits = torch.randn(1, 3, *SHAPE, requires_grad=True)
    for exclusive in (False, True):
        loss = build_loss(TERMS, Channels.of(exclusive), True)
        total, _ = loss(logits, *batch_of(labels, exclusive, True))
        assert torch.isfinite(total)
        assert not torch.autograd.grad(total, logits)[0].any()


def test_synapses_of_unknown_sides_teach_their_union():
    labels = labels_of(4)
    unsided = labels == 5
    marked = np.where(unsided, SIDES_UNKNOWN, labels)
    target, weights = polarity_target(marked, marked=True)
    plain, plain_weights = polarity_target(labels)
    assert unsided.any()
    assert np.array_equal(target[2], plain[2]) and np.array_equal(weights[2], plain_weights[2])
    assert not weights[:2, unsided].any() and not target[:2, unsided].any()
    assert (weights[:2, ~unsided] > 0).all()
    classes, weight = polarity_target(marked, exclusive=True, marked=True)
    assert np.array_equal(weight == 0, unsided) and not classes[unsided].any()


class Labels(gp.BatchProvider):
    """Provide parts of labels."""

    def __init__(self, key, labels):
        self.key, self.labels = key, labels

    def setup(self):
        roi = gp.Roi((0, 0, 0), self.labels.shape)
        self.provides(self.key, gp.ArraySpec(roi, (1, 1, 1), dtype=self.labels.dtype))

    def provide(self, request):
        spec = self.spec[self.key].copy()
        spec.roi = request[self.key].roi
        batch = gp.Batch()
        batch[self.key] = gp.Array(self.labels[spec.roi.to_slices()], spec)
        return batch


def test_patches_are_accepted_by_what_is_known_in_them():
    labels = np.zeros((4, 8, 64), np.uint64)
    labels[..., 32:] = UNKNOWN
    labels[:, :, 20:24] = 7
    key = gp.ArrayKey("LABELS_OF_UNKNOWN")
    rejection = RejectSampling(key, 30, 1.0, marked=True)
    graph = Labels(key, labels) + gp.RandomLocation() + rejection
    request = gp.BatchRequest()
    request[key] = gp.ArraySpec(gp.Roi((0, 0, 0), (4, 8, 8)))
    with gp.build(graph):
        for seed in range(20):
            request._random_seed = seed
            assert (graph.request_batch(request)[key].data == 7).sum() >= 30
    any_known = RejectSampling(key, 0, 0.0, marked=True)
    graph = Labels(key, labels) + gp.RandomLocation() + any_known
    with gp.build(graph):
        for seed in range(20):
            request._random_seed = seed
            assert (graph.request_batch(request)[key].data != UNKNOWN).any()
    nothing = Labels(key, np.full_like(labels, UNKNOWN)) + gp.RandomLocation()
    graph = nothing + RejectSampling(key, 0, 0.0, patience=50, marked=True)
    with gp.build(graph), pytest.raises(Exception, match="no patch had a voxel that is known"):
        graph.request_batch(request)


# ---------------------------------------------------------------- scores


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["polarity", "union"]), st.sampled_from([0, 3]))
def test_scores_are_those_of_the_known_part_alone(seed, kind, min_size):
    known = np.zeros((6, 8, 30), bool)
    known[..., :12] = True  # 60 % is unknown, and no synapse lies on its border
    parts = [[labels_of(seed + n, (6, 8, 10)) for n in pair] for pair in ((0, 1), (2, 3), (4, 5))]
    predicted, truth = (
        np.concatenate([np.where(p[n], p[n] + np.uint64(8 * k), 0) for k, p in enumerate(parts)], 2)
        for n in range(2)
    )
    for labels in (predicted, truth):
        labels[..., 10:12] = 0
    marked = np.where(known, truth, UNKNOWN)
    whole = Evaluation.of([(predicted, marked)], kind, min_size, marked=True)
    alone = Evaluation.of([(predicted[..., :12], truth[..., :12])], kind, min_size)
    ious = (0.1, 0.5)
    expected = alone.to_json(ious)
    found = whole.to_json(ious)
    told = found.pop("unknown")
    assert found == expected
    assert told["voxels"] == 6 * 8 * 18
    assert whole.missed(0.5) == alone.missed(0.5) and whole.correct(0.5) == alone.correct(0.5)


def test_what_lies_mostly_in_the_unknown_is_scored_only_where_it_matches():
    truth, predicted = np.zeros((2, 1, 4, 40), np.uint64)
    truth[..., 20:] = UNKNOWN
    predicted[..., 18:26] = 1  # mostly unknown, and nothing true beside it
    predicted[..., 10:12] = 2  # invented
    predicted[..., 2:5] = truth[..., 2:5] = 3
    evaluation = Evaluation.of([(predicted, truth)], "union", marked=True)
    match = evaluation.score(0.5)["synapse"]
    assert (match.matched, match.predicted, match.truth) == (1, 2, 1)
    truth[..., 18:20] = 9  # the known part of a true synapse
    match = Evaluation.of([(predicted, truth)], "union", marked=True).score(0.5)["synapse"]
    assert (match.matched, match.predicted, match.truth) == (2, 3, 2)


@pytest.mark.parametrize("kind", ["polarity", "union", "mask"])
def test_blocks_score_as_the_whole_volume(kind, tmp_path):
    shape = (6, 20, 24)
    truth, predicted = labels_of(1, shape, 12), labels_of(2, shape, 12)
    mask = np.zeros(shape, np.uint8)
    mask[:, 4:, :17] = 1
    labels = "polarity" if kind == "polarity" else "union"
    if kind == "mask":
        truth = (truth > 0).astype(np.uint64)
    for name, values in (("truth", truth), ("predicted", predicted), ("mask", mask)):
        write(tmp_path, name, values)
    source = ImageSource(path=f"{tmp_path}/truth", known=f"{tmp_path}/mask")
    image = open_labels(source, labels, marked=True)
    values = truth_instances(image.array[:], labels, 3, marked=True)
    expected = Evaluation.of([(predicted, values)], labels, marked=True)
    for number, block in enumerate([(6, 20, 24), (2, 7, 9)]):
        found = evaluate_blockwise(
            open_image(tmp_path / "predicted"),
            image,
            labels,
            dilate_sz=3,
            block_shape=block,
            work_dir=tmp_path / f"work{number}",
        )
        assert found.to_json([0.1, 0.5]) == expected.to_json([0.1, 0.5])
        assert found.unknown == int((mask == 0).sum())


# ---------------------------------------------------------------- commands


def test_commands_leave_out_what_is_unknown_and_tell_it(tmp_path, capsys):
    tiny_volume(tmp_path / "data", (8, 48, 64))
    known = np.zeros((8, 48, 64), np.uint8)
    known[..., :40] = 1
    write(tmp_path / "data", "known", known)
    truth = {"path": f"{tmp_path}/data/truth", "known": f"{tmp_path}/data/known"}
    volume = {"raw": f"{tmp_path}/data/raw", "truth": truth, "labels": "polarity"}
    changes = {"data": {"train": [volume], "validation": volume}, "evaluate": {"truth": truth}}
    config = changed(tiny_config(tmp_path, train__validate_every=2), changes)
    for command in ("train", "tune", "predict_blockwise", "evaluate"):
        assert run(command, config) == 0
    told = capsys.readouterr()
    assert f"not scored: {8 * 48 * 24} voxels that are unknown" in told.out
    scores = json.loads((tmp_path / "result" / "scores.json").read_text())
    assert scores["unknown"]["voxels"] == 8 * 48 * 24
    report = (tmp_path / "result" / "report.html").read_text()
    assert f"Not scored: {8 * 48 * 24} voxels that are unknown" in report
    said = run_refused(capsys, "evaluate", config, "evaluate.protocols=[lin2020]")
    assert "are unknown" in said and "leave one of both out" in said


def changed(path, changes):
    """Write sections of a config anew."""
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))
    return path


def test_a_mask_of_nothing_unknown_trains_the_same_weights(tmp_path):
    weights = []
    for name in ("plain", "masked"):
        folder = tmp_path / name
        tiny_volume(folder / "data")
        volume = {"raw": f"{folder}/data/raw", "truth": f"{folder}/data/truth"}
        if name == "masked":
            write(folder / "data", "known", np.ones((8, 48, 48), np.uint8))
            volume["truth"] = {"path": volume["truth"], "known": f"{folder}/data/known"}
        config = tiny_config(folder, augment__elastic_p=0.5, augment__elastic_sigma=[0, 1, 1])
        assert (
            run("train", changed(config, {"data": {"train": [volume | {"labels": "polarity"}]}}))
            == 0
        )
        stored = torch.load(folder / "run" / "checkpoints" / "0000004.pt", weights_only=True)
        weights.append(stored["model"])
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


@pytest.mark.parametrize("seed", [0, 1])
def test_labels_of_a_part_are_learned_with_the_image_around_them(seed, tmp_path):
    tiny_volume(tmp_path / "data", (8, 48, 48), seed)
    truth = open_image(tmp_path / "data" / "truth").array[:]
    part = truth[2:8, 10:34, 10:34]
    write(tmp_path / "data", "part", part, offset=(60, 160, 160))
    volume = TrainingVolume(
        raw=f"{tmp_path}/data/raw", truth=f"{tmp_path}/data/part", labels="union", context=True
    )
    opened = open_volume(volume, None, patch=(4, 16, 16))
    assert tuple(opened.raw.shape_vx) == tuple(opened.truth.shape_vx) == (8, 40, 40)
    expected = np.full((8, 40, 40), UNKNOWN)
    expected[2:, 8:32, 8:32] = part
    assert np.array_equal(opened.truth.array[:], expected)
    assert opened.raw.offset == opened.truth.offset == (0, 32, 32)
    given_volume = volume.model_dump(mode="json")
    config = changed(tiny_config(tmp_path), {"data": {"train": [given_volume]}})
    assert run("train", config, "reject_sampling.size_thres=10") == 0


def test_deformed_labels_keep_their_marks(tmp_path):
    """No augmentation makes labels that were not there, as one that computes in floats would."""
    tiny_volume(tmp_path / "data", (8, 64, 64))
    known = np.ones((8, 64, 64), np.uint8)
    known[:, ::3, 20:40] = 0
    write(tmp_path / "data", "known", known)
    truth = {"path": f"{tmp_path}/data/truth", "known": f"{tmp_path}/data/known"}
    volume = {"raw": f"{tmp_path}/data/raw", "truth": truth, "labels": "polarity"}
    config = tiny_config(tmp_path, augment__elastic_p=1.0, augment__elastic_sigma=[0, 2, 2])
    from recipes import recipe

    from synpol.config import load_config
    from synpol.gp import request_batch
    from synpol.training.volumes import in_one_unit

    loaded = load_config([str(changed(config, {"data": {"train": [volume]}}))])
    train = recipe("train")
    opened = in_one_unit([open_volume(v, None, marked=True) for v in loaded.data.train])
    graph = train.request_graph(loaded, opened, 0, range(2))
    there = set(np.unique(opened[0].truth.array[:]).tolist())
    seen = set()
    with gp.build(graph):
        for _ in itertools.repeat(None, 6):
            request = train.batch_request(loaded, opened[0])
            request[train.LABELS] = request[train.TARGET].copy()
            batch = request_batch(graph, request)
            labels, weights = batch[train.LABELS].data, batch[train.WEIGHTS].data
            seen |= set(np.unique(labels).tolist())
            assert np.array_equal(weights[:, 2] == 0, labels == UNKNOWN)
    assert UNKNOWN in seen and seen <= there
    assert MARKS[0] == UNKNOWN
