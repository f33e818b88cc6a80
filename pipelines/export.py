"""Write a trained network into one file for others, and as a package for bioimage.io.

The network is that of predict.checkpoint, else the best or the latest of run_dir. It is written to
export.output (by default network.safetensors in run_dir); predict.checkpoint and train.initial
take this file. With export.package it is written as a package too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import synpol
from synpol.command import run_command
from synpol.config import Config
from synpol.errors import InputError
from synpol.images.appearance import learned_from
from synpol.images.image import check_readable, open_image
from synpol.images.intensity import range_of
from synpol.images.writing import check_writable
from synpol.model import build_model
from synpol.model.content import check_weights
from synpol.model.package import Sample, check_export, write_package
from synpol.model.portable import About, about_checkpoint, said_of, write_portable
from synpol.model.trained import find_checkpoint, load_checkpoint, weights_of
from synpol.prediction.contract import check_like, declared_range
from synpol.training.validation import scores_of


def names_of(config: Config, stored: dict) -> list[str]:
    """Name the training volumes, without their folders and without what a URL says beside."""
    if config.export.trained_on is not None:
        return config.export.trained_on
    names = []
    for volume in stored["config"]["data"].get("train", []):
        raw = volume["raw"]
        path = raw["path"] if isinstance(raw, dict) else raw
        names.append(path.partition("?")[0].partition("#")[0].rstrip("/").rpartition("/")[2])
    return names


def described(config: Config, checkpoint: Path, stored: dict, learned: tuple) -> About:
    """Describe the network of a checkpoint.

    Raises
    ------
    InputError
        What the checkpoint says of its training is malformed.
    """
    scores = scores_of(config.run_dir, checkpoint, stored["iteration"])
    try:
        names, seen = names_of(config, stored), [one.kept() for one in learned]
        return about_checkpoint(stored, seen, names, scores, synpol.__version__)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f"{checkpoint} is not a checkpoint that synpol wrote ({said_of(error):.200}); copy it "
            "again, or train again"
        ) from None


def sample_of(config: Config, about: About, learned: tuple, checkpoint: Path) -> Sample:
    """Cut the middle out of export.sample, as large as a window; or generate noise."""
    if config.export.sample is None:
        return Sample.noise(config.window, about)
    image = open_image(config.export.sample, channels=0)
    check_readable(image)
    check_like(config, image, learned, str(checkpoint))
    if any(n < w for n, w in zip(image.shape_vx, config.window, strict=True)):
        raise InputError(
            f"export.sample {image.path} has {tuple(image.shape_vx)} voxels (z, y, x), fewer than "
            f"a window of {tuple(config.window)}; name a larger image, or a smaller predict.window"
        )
    begins = [(n - w) // 2 for n, w in zip(image.shape_vx, config.window, strict=True)]
    where = tuple(slice(b, b + w) for b, w in zip(begins, config.window, strict=True))
    return Sample(np.asarray(image.array[where]), range_of(image, declared_range(config)))


def main(config: Config, given: argparse.Namespace) -> None:
    if config.export.package is not None:
        check_export(config.export)
    checkpoint = find_checkpoint(config)
    stored = load_checkpoint(checkpoint)
    learned = learned_from(stored)
    about = described(config, checkpoint, stored, learned)
    name, weights = weights_of(stored)
    check_weights(checkpoint, name, weights, build_model(about.model).state_dict())
    output = Path(config.export.output or Path(config.run_dir) / "network.safetensors")
    if output.suffix != ".safetensors":
        raise InputError(
            f"export.output is {output}; a name that ends in .safetensors is expected, such as "
            f"{output.with_suffix('.safetensors')}"
        )
    sample = None
    if config.export.package is not None:
        sample = sample_of(config, about, learned, checkpoint)
        check_writable(Path(config.export.package).parent)
    check_writable(output.parent)
    write_portable(output, about, weights)
    print(f"the network of {checkpoint} (iteration {about.iteration}) is in {output}")
    if sample is not None:
        write_package(config.export, about, weights, sample)
        print(f"and as a package for bioimage.io in {config.export.package}")


if __name__ == "__main__":
    run_command(main, __doc__)
