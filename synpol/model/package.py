"""A network as a package of bioimage.io: a ZIP file that other programs run without synpol.

It holds the weights with the source of the network, a test input with its output, a cover, and the
portable file, from which synpol predicts.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image as Picture

from synpol.config.export import Export
from synpol.errors import InputError
from synpol.files import write_whole
from synpol.model import build_model, rsunet
from synpol.model.activation import probability_of
from synpol.model.portable import MEMBER, About, packed
from synpol.polarity import Channels

#: largest difference of probabilities between computers that counts as the same
TOLERANCE = 1e-3
#: what bioimage.io asks for, by keys of `export`
_NEEDED = ("name", "description", "authors", "license")
#: version of the format; any reader of 0.5 reads it
_FORMAT = "0.5.4"


@dataclass(frozen=True)
class Sample:
    """A window to test a network with.

    Attributes
    ----------
    values : (z, y, x) array
        Intensities as they are stored.
    intensity_range : (float, float)
        Values that the network sees as 0 and 1.
    """

    values: np.ndarray
    intensity_range: tuple[float, float]

    @classmethod
    def noise(cls, window: Sequence[int], about: About) -> Sample:
        """Generate values of the type and range that a network learned from."""
        seen = about.learned_from[0] if about.learned_from else None
        low, high = seen.intensity_range if seen is not None else (0.0, 255.0)
        dtype = np.dtype("float32" if seen is None or seen.dtype == "float" else seen.dtype)
        noise = np.random.default_rng(0).random(tuple(window))
        for axis in range(3):  # as smooth as tissue is, more or less
            noise = (noise + np.roll(noise, 1, axis) + np.roll(noise, -1, axis)) / 3
        return cls((low + noise * (high - low)).astype(dtype), (low, high))


def check_export(export: Export) -> None:
    """Refuse a package that lacks what bioimage.io asks for.

    Raises
    ------
    InputError
        It names every key that is missing, with an example.
    """
    missing = [key for key in _NEEDED if not getattr(export, key)]
    if missing:
        raise InputError(
            f"export.package needs {', '.join('export.' + key for key in missing)}, which "
            "bioimage.io asks for. Say for example: export: {name: Synapses of fly cortex, "
            "description: Marks both sides of synapses in ssTEM., authors: [{name: Your Name}], "
            "license: CC-BY-4.0}; or leave out export.package"
        )
    assert export.package is not None
    if not export.package.lower().endswith(".zip"):
        raise InputError(
            f"export.package is {export.package}; a name that ends in .zip is expected, such as "
            f"{export.package}.bioimage.io.zip"
        )


def write_package(
    export: Export, about: About, weights: Mapping[str, torch.Tensor], sample: Sample
) -> None:
    """Write the package, whole or not at all; the same network gives the same bytes.

    Parameters
    ----------
    export : Export
        What people have to know; see `check_export`.
    about : About
    weights : mapping of str to tensor
    sample : Sample
    """
    low, high = sample.intensity_range
    scale, shift = 1 / (high - low), -low / (high - low)
    values = sample.values[None, None].astype(np.float32)  # readers cast inputs back to their type
    seen = values * np.float32(scale) + np.float32(shift)
    probabilities = _probabilities(about, weights, seen)
    plain = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
    buffer = io.BytesIO()
    torch.save(plain, buffer)
    files = {
        "weights.pt": buffer.getvalue(),
        "rsunet.py": Path(rsunet.__file__).read_bytes(),
        "test_input.npy": _npy(values),
        "test_output.npy": _npy(probabilities),
        "cover.png": _cover(seen[0, 0], probabilities[0], Channels.of(about.exclusive)),
        "README.md": _readme(export, about).encode(),
        MEMBER: packed(about, weights),
    }
    described = _described(export, about, sample, (scale, shift), files)
    files["rdf.yaml"] = yaml.safe_dump(described, sort_keys=False, allow_unicode=True).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    write_whole(Path(str(export.package)), buffer.getvalue())


def _probabilities(
    about: About, weights: Mapping[str, torch.Tensor], seen: np.ndarray
) -> np.ndarray:
    network = build_model(about.model)
    network.load_state_dict(weights)
    network.eval()
    with torch.no_grad():
        logits = network(torch.from_numpy(seen))
        return np.asarray(probability_of(logits, Channels.of(about.exclusive)).numpy())


def _npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def _cover(seen: np.ndarray, probabilities: np.ndarray, channels: Channels) -> bytes:
    """Draw the middle section, and beside it the sides: pre in red, post in green."""
    section = len(seen) // 2
    grey = np.repeat(np.clip(seen[section], 0, 1)[..., None], 3, axis=-1)
    sides = np.zeros_like(grey)
    sides[..., 0] = channels.pre(probabilities)[section]
    sides[..., 1] = channels.post(probabilities)[section]
    both = np.concatenate([grey, sides], axis=1)
    buffer = io.BytesIO()
    picture = Picture.fromarray(np.rint(both * 255).astype(np.uint8))
    picture.resize((512, 256)).save(buffer, "png")
    return buffer.getvalue()


def _file(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    return {"source": name, "sha256": hashlib.sha256(files[name]).hexdigest()}


def _described(
    export: Export,
    about: About,
    sample: Sample,
    rule: tuple[float, float],
    files: Mapping[str, bytes],
) -> dict[str, Any]:
    """Return the content of rdf.yaml."""
    authors = [one.model_dump(exclude_none=True) for one in export.authors]
    scale, shift = rule
    steps: list[dict[str, Any]] = [{"id": "ensure_dtype", "kwargs": {"dtype": "float32"}}]
    if rule != (1, 0):
        steps.append({"id": "scale_linear", "kwargs": {"gain": scale, "offset": shift}})
    softmax = {"id": "softmax", "kwargs": {"axis": "channel"}}
    last = softmax if about.activation == "softmax" else {"id": "sigmoid"}
    model = about.model
    return {
        "format_version": _FORMAT,
        "type": "model",
        "name": export.name,
        "description": export.description,
        "authors": authors,
        "license": export.license,
        "cite": [one.model_dump(exclude_none=True) for one in export.cite],
        "documentation": _file(files, "README.md"),
        "covers": [_file(files, "cover.png")],
        "attachments": [_file(files, MEMBER)],
        "tags": ["electron-microscopy", "synapses", "semantic-segmentation", "3d", "pytorch"],
        "inputs": [
            {
                "id": "raw",
                "description": f"electron microscopy; {sample.intensity_range} become 0 and 1",
                "axes": _axes(about, ["image"], None),
                "data": {"type": "float32"},
                "preprocessing": steps,
                "test_tensor": _file(files, "test_input.npy"),
            }
        ],
        "outputs": [
            {
                "id": "polarity",
                "description": "probabilities of " + ", ".join(about.channels),
                "axes": _axes(about, list(about.channels), "raw"),
                "data": {"type": "float32", "range": [0, 1]},
                "postprocessing": [last],
                "test_tensor": _file(files, "test_output.npy"),
            }
        ],
        "weights": {
            "pytorch_state_dict": _file(files, "weights.pt")
            | {
                "pytorch_version": torch.__version__.partition("+")[0],
                "architecture": _file(files, "rsunet.py")
                | {
                    "callable": "RSUNet",
                    "kwargs": {
                        "filters": list(model.filters),
                        "out_channels": Channels.count,
                        "norm": model.norm,
                        "activation": model.activation,
                        "residual": model.residual,
                    },
                },
            }
        },
        "config": {
            "bioimageio": {
                "reproducibility_tolerance": [
                    {"absolute_tolerance": TOLERANCE, "relative_tolerance": TOLERANCE}
                ]
            },
            "synpol": about.plain(),
        },
    }


def _axes(about: About, channels: list[str], source: str | None) -> list[dict[str, Any]]:
    """Describe the axes of a tensor; those of the output are as long as those of the input."""
    step = 2 ** (len(about.model.filters) - 1)
    sizes = [one.voxel_size for one in about.learned_from]
    axes: list[dict[str, Any]] = [
        {"type": "batch"},
        {"type": "channel", "channel_names": channels},
    ]
    for n, name in enumerate("zyx"):
        axis: dict[str, Any] = {"type": "space", "id": name}
        if sizes:
            axis |= {"unit": "nanometer", "scale": sizes[0][n]}
        smallest = 1 if name == "z" else step
        own: dict[str, Any] = {"min": smallest, "step": smallest}
        axis["size"] = own if source is None else {"tensor_id": source, "axis_id": name}
        axes.append(axis)
    return axes


def _readme(export: Export, about: About) -> str:
    """Write the documentation of the package."""
    sizes = dict.fromkeys(one.voxel_size for one in about.learned_from)
    sized = " or ".join(" x ".join(f"{v:g}" for v in size) + " nm" for size in sizes)
    scores = ", ".join(f"{name} {value:g}" for name, value in about.scores.items())
    return "\n".join(
        [
            f"# {export.name}",
            "",
            str(export.description),
            "",
            f"The network gives each voxel three probabilities: {', '.join(about.channels)}. It "
            f"learned from voxels (z, y, x) of {sized or 'a size that is not known'}, and was "
            f"trained for {about.iteration} iterations on {', '.join(about.trained_on) or '?'}.",
            "",
            f"`{MEMBER}` in this package is the same network for synpol {about.synpol}: name the "
            "package in `predict.checkpoint` to predict, or in `train.initial` to go on training.",
            "",
            "## Validation",
            "",
            f"On the validation volume of its training: {scores}."
            if scores
            else "The training of this network had no validation.",
            "",
        ]
    )
