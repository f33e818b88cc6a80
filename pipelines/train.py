"""Train a network to mark the pre- and post-synaptic sides of synapses.

Called again it resumes from the newest checkpoint in run_dir. Ctrl-C and SIGTERM save and stop.
Several GPUs or machines: torchrun --nproc-per-node N pipelines/train.py CONFIG.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import gunpowder as gp
import numpy as np

from synpol.blockwise.lock import DriverLock
from synpol.command import record_run, run_command
from synpol.config import Config
from synpol.errors import InputError
from synpol.gp import (
    AddPolarityTarget,
    AddSidesKnown,
    GammaAugment,
    MisalignAugment,
    MissingSectionsAugment,
    MotionBlurAugment,
    OrderedPreCache,
    RejectSampling,
    StackPatches,
    request_batch,
)
from synpol.images.identity import identity_of
from synpol.images.writing import check_writable
from synpol.training.loop import Trainer
from synpol.training.processes import joined
from synpol.training.volumes import OpenVolume, as_funlib, check_together, open_volume

RAW, LABELS = gp.ArrayKey("RAW"), gp.ArrayKey("LABELS")
TARGET, WEIGHTS = gp.ArrayKey("TARGET"), gp.ArrayKey("WEIGHTS")
SIDES_KNOWN, DRAWS = gp.ArrayKey("SIDES_KNOWN"), gp.ArrayKey("DRAWS")


def request_graph(
    config: Config, volumes: list[OpenVolume], first: int, places: range
) -> gp.Pipeline:
    """From volumes on disk to batches; edit here to change what the network sees."""
    augment, patch, reject = config.augment, config.train.patch, config.reject_sampling
    fits = np.array([v.positions(patch) for v in volumes], dtype=float)
    voxel = volumes[0].raw.voxel_size
    graph = tuple(
        (
            gp.ArraySource(RAW, as_funlib(v.raw)),
            gp.ArraySource(LABELS, as_funlib(v.truth), False),
        )
        + gp.MergeProvider()
        + gp.Normalize(RAW, v.intensity.scale)
        + gp.IntensityScaleShift(RAW, 1, v.intensity.shift)
        + gp.RandomLocation()
        + AddSidesKnown(SIDES_KNOWN, v.sides_known)
        for v in volumes
    ) + gp.RandomProvider(probabilities=list(fits / fits.sum()))
    rejection = RejectSampling(LABELS, reject.size_thres, reject.p, DRAWS, patch)
    spacing, sigma = augment.elastic_spacing, augment.elastic_sigma
    geometry = [
        *active(
            augment.elastic_p,
            # every second voxel of the field, others between them: a fifth of the time
            lambda p: gp.ElasticAugment(spacing, sigma, (0, 0), subsample=2, p=p),
        ),
        *active(
            augment.misalign_p,
            lambda p: MisalignAugment(augment.misalign, p, augment.misalign_slip),
        ),
    ]
    for node in (
        *([*geometry, rejection] if reject.after_augmentation else [rejection, *geometry]),
        gp.SimpleAugment(
            mirror_probs=[0.5 if augment.flip else 0.0] * 3,
            transpose_only=[1, 2] if augment.rotate90 and voxel[1] == voxel[2] else [],
        ),
        *active(augment.gamma_p, lambda p: GammaAugment(RAW, augment.gamma, p)),
        gp.IntensityAugment(
            RAW,
            1 - augment.section_contrast,
            1 + augment.section_contrast,
            -augment.section_brightness,
            augment.section_brightness,
            slab=(1, -1, -1),  # each section of its own
            clip=False,
        ),
        *active(
            augment.noise_p, lambda p: gp.NoiseAugment(RAW, var=augment.noise**2, clip=False, p=p)
        ),
        *active(
            augment.blur_p, lambda p: MotionBlurAugment(RAW, augment.blur, p, augment.blur_length)
        ),
        *active(
            augment.missing_p,
            lambda p: MissingSectionsAugment(RAW, augment.missing, p, augment.missing_whole),
        ),
        AddPolarityTarget(
            LABELS,
            TARGET,
            WEIGHTS,
            SIDES_KNOWN,
            config.exclusive,
            config.loss.fraction_clip,
            config.loss.weight_max,
        ),
        gp.Unsqueeze([RAW]),
        StackPatches(places),
        OrderedPreCache(config.seed, first, config.train.num_workers, config.train.cache_size),
    ):
        graph += node
    return graph


def batch_request(config: Config, volume: OpenVolume) -> gp.BatchRequest:
    """What a batch has to hold."""
    request = gp.BatchRequest()
    for key in (RAW, TARGET, WEIGHTS):
        request.add(key, gp.Coordinate(config.train.patch) * volume.raw.voxel_size)
    request[LABELS] = gp.ArraySpec(roi=request[TARGET].roi)
    request[DRAWS] = gp.ArraySpec(nonspatial=True)
    return request


def active(p: float, node: Callable[[float], gp.BatchFilter]) -> list[gp.BatchFilter]:
    """A node that acts with a probability; none where that is 0, since a node costs a seed."""
    return [node(p)] if p else []


def main(config: Config, given: argparse.Namespace) -> bool:
    if not config.data.train:
        raise InputError("data.train is empty; list at least one volume (raw, truth, labels)")
    volumes = [open_volume(v, config.data.intensity_range) for v in config.data.train]
    check_together(volumes, config.train.patch, config.augment.context)
    check_writable(config.run_dir)
    with joined(config) as processes, ExitStack() as held:
        if processes.is_first:
            held.enter_context(DriverLock(config.run_dir, "training"))
        data_state = [identity_of(i) for v in volumes for i in (v.raw, v.truth)]
        trainer = Trainer(config, data_state, processes)
        trainer.validate()  # a run may have been killed before it was done with that
        done = trainer.finished or train(config, volumes, trainer)
        if processes.is_first:
            last = Path(config.run_dir) / "checkpoints"
            print(
                f"{'trained' if done else 'stopped'} at iteration {trainer.iteration}; see {last}"
            )
    return done


def train(config: Config, volumes: list[OpenVolume], trainer: Trainer) -> bool:
    """Train to the end, or to Ctrl-C; returns whether it was the end."""
    processes = trainer.processes
    if processes.is_first:
        record_run(config, config.run_dir, "train")
    share = config.train.batch_size // processes.size
    places = range(share * processes.rank, share * (processes.rank + 1))
    request = batch_request(config, volumes[0])
    graph = request_graph(config, volumes, trainer.iteration, places)
    with gp.build(graph):

        def next_batch() -> dict[str, np.ndarray]:
            batch = request_batch(graph, request)
            keys = {"raw": RAW, "target": TARGET, "weights": WEIGHTS, "draws": DRAWS}
            return {name: batch[key].data for name, key in keys.items()}

        return trainer.run(next_batch, lambda: graph.output.waited)


if __name__ == "__main__":
    run_command(main, __doc__)
