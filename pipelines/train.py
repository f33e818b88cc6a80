"""Train a network to mark the pre- and post-synaptic sides of synapses.

The same command resumes from the newest checkpoint in run_dir. Ctrl-C and SIGTERM save and stop.
For several GPUs or machines: torchrun --nproc-per-node N pipelines/train.py CONFIG.
"""

from __future__ import annotations

import argparse
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
    Nothing,
    OrderedPreCache,
    RejectSampling,
    StackPatches,
    request_batch,
)
from synpol.gp.augmentations import augment_chain, context_of
from synpol.images.writing import check_writable
from synpol.model.losses import check_terms
from synpol.training.data_state import data_state_of
from synpol.training.loop import Trainer
from synpol.training.processes import joined
from synpol.training.volumes import (
    HELD,
    ByRoi,
    OpenVolume,
    check_together,
    in_one_unit,
    open_volume,
    shares_of,
)

RAW, LABELS = gp.ArrayKey("RAW"), gp.ArrayKey("LABELS")
TARGET, WEIGHTS = gp.ArrayKey("TARGET"), gp.ArrayKey("WEIGHTS")
SIDES_KNOWN, DRAWS = gp.ArrayKey("SIDES_KNOWN"), gp.ArrayKey("DRAWS")


def request_graph(
    config: Config, volumes: list[OpenVolume], first: int, indices: range, niceness: int = 0
) -> gp.Pipeline:
    """Build the graph from volumes to batches; edit it to change what the network sees.

    Parameters
    ----------
    config : Config
    volumes : list of OpenVolume
    first : int
        Index of the first batch, above 0 if a run resumes.
    indices : range
        Indices of the patches of a batch that this process prepares.
    niceness : int
        How far processes that prepare batches give way to others.
    """
    patch, reject = config.train.patch, config.reject_sampling
    weighted = any(volume.weight is not None for volume in config.data.train)
    marked = config.data.has_unknown
    held = HELD // (2 * len(volumes))  # bytes of an image, or of labels

    def accepted() -> gp.Pipeline:
        """Patches with enough foreground, deformed."""
        rejection = RejectSampling(LABELS, reject.size_thres, reject.p, DRAWS, patch, marked=marked)
        return (
            (Nothing() if reject.after_augmentation else rejection)
            + augment_chain(config.augment, RAW, deforms=True)  # elastic, misalign
            + (rejection if reject.after_augmentation else Nothing())
        )

    return (
        tuple(
            (
                gp.ArraySource(RAW, ByRoi(v.raw, held)),
                gp.ArraySource(LABELS, ByRoi(v.truth, held), False),
            )
            + gp.MergeProvider()
            + gp.Normalize(RAW, v.intensity.scale)
            + gp.IntensityScaleShift(RAW, 1, v.intensity.shift)
            + gp.RandomLocation()
            + AddSidesKnown(SIDES_KNOWN, v.sides_known)
            + (accepted() if weighted else Nothing())  # a rejected patch keeps its volume
            for v in volumes
        )
        + gp.RandomProvider(probabilities=shares_of(config.data.train, volumes, patch))
        + (Nothing() if weighted else accepted())
        + augment_chain(config.augment, RAW, deforms=False)  # flip, gamma, noise, ...
        + AddPolarityTarget(
            LABELS,
            TARGET,
            WEIGHTS,
            SIDES_KNOWN,
            config.exclusive,
            config.loss.fraction_clip,
            config.loss.weight_max,
            marked,
        )
        + gp.Unsqueeze([RAW])
        + StackPatches(indices)
        + OrderedPreCache(
            config.seed, first, config.train.num_workers, config.train.cache_size, niceness
        )
    )


def batch_request(config: Config, volume: OpenVolume) -> gp.BatchRequest:
    """Build the request for a batch."""
    request = gp.BatchRequest()
    for key in (RAW, TARGET, WEIGHTS):
        request.add(key, gp.Coordinate(config.train.patch) * volume.raw.voxel_size)
    request[DRAWS] = gp.ArraySpec(nonspatial=True)
    return request


def main(config: Config, given: argparse.Namespace) -> bool:
    if not config.data.train:
        raise InputError("data.train is empty; list at least one volume (raw, truth, labels)")
    declared, marked = config.data.intensity_range, config.data.has_unknown
    volumes = [
        open_volume(v, declared, patch=config.train.patch, marked=marked) for v in config.data.train
    ]
    mixed = config.data.mixed_voxel_sizes
    check_together(volumes, config.train.patch, context_of(config.augment), mixed)
    check_terms(config.loss)
    check_writable(config.run_dir)
    with joined(config) as processes, ExitStack() as held:
        if processes.is_first:
            held.enter_context(DriverLock(config.run_dir, "training"))
        seen = [volume.appearance for volume in volumes]
        trainer = Trainer(config, data_state_of(volumes), processes, seen)
        trainer.validate()  # a run may have been killed before it had done so
        done = trainer.finished or train(config, volumes, trainer)
        if processes.is_first:
            last = Path(config.run_dir) / "checkpoints"
            print(
                f"{'trained' if done else 'stopped'} at iteration {trainer.iteration}; see {last}"
            )
    return done


def train(config: Config, volumes: list[OpenVolume], trainer: Trainer) -> bool:
    """Train to the end, or to Ctrl-C; return whether all iterations are done."""
    volumes = in_one_unit(volumes)
    processes = trainer.processes
    if processes.is_first:
        record_run(config, config.run_dir, "train")
    share = config.train.batch_size // processes.size
    indices = range(share * processes.rank, share * (processes.rank + 1))
    request = batch_request(config, volumes[0])
    niceness = 10 if processes.device.type == "cpu" else 0  # a GPU leaves them the cores
    graph = request_graph(config, volumes, trainer.iteration, indices, niceness)
    with gp.build(graph):

        def next_batch() -> dict[str, np.ndarray]:
            batch = request_batch(graph, request)
            keys = {"raw": RAW, "target": TARGET, "weights": WEIGHTS, "draws": DRAWS}
            return {name: batch[key].data for name, key in keys.items()}

        return trainer.run(next_batch, lambda: graph.output.waited)


if __name__ == "__main__":
    run_command(main, __doc__)
