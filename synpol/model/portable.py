"""A network in one file that travels: its weights, and what one has to know to use them.

The file is in the format safetensors, which holds tensors and texts and runs no code. A package of
bioimage.io that synpol wrote holds such a file too.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from synpol.config import Model
from synpol.errors import InputError, is_of_content
from synpol.files import write_whole
from synpol.model.content import digest_of_content
from synpol.polarity import Channels

#: endings of the files that `read_portable` reads
ENDINGS = (".safetensors", ".zip")
#: name of the network within a package
MEMBER = "network.safetensors"
#: the one entry of the metadata; several would be written in an order that changes
_ENTRY = "synpol"
#: largest ratio to which a member of a package may unpack
_RATIO = 100

_Size = Annotated[float, Field(gt=0)]


class _Part(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=()
    )


class Seen(_Part):
    """What a network saw of a training volume; see `synpol.images.appearance.Appearance`."""

    voxel_size: tuple[_Size, _Size, _Size]
    dtype: str
    intensity_range: tuple[float, float]
    largest: int | None = None

    @field_validator("intensity_range")
    @classmethod
    def _rises(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not value[0] < value[1]:
            raise ValueError("a range of intensities does not rise")
        return value


class About(_Part):
    """What a portable network says of itself.

    Attributes
    ----------
    format : int
        Version of this description.
    synpol : str
        Version of synpol that wrote it.
    model : Model
        Architecture of the network.
    exclusive : bool
        Whether the channels are classes.
    channels : tuple of str
        Names of the channels in their order.
    activation : {"sigmoid", "softmax"}
        Function from the network's output to probabilities.
    intensity_range : (float, float) or None
        ``data.intensity_range`` of the training.
    learned_from : list of Seen
        What the network saw of each training volume.
    trained_on : list of str
        Names of the training volumes, without their folders.
    iteration : int
        Number of iterations that the network was trained for.
    scores : dict of str to float
        Scores of its validation; empty where there was none.
    """

    format: Literal[1] = 1
    synpol: str
    model: Model
    exclusive: bool
    channels: tuple[str, str, str]
    activation: Literal["sigmoid", "softmax"]
    intensity_range: tuple[float, float] | None
    learned_from: list[Seen]
    trained_on: list[str]
    iteration: int = Field(ge=0)
    scores: dict[str, float] = {}

    @field_validator("channels")
    @classmethod
    def _known(cls, value: tuple[str, str, str]) -> tuple[str, str, str]:
        if value not in (Channels.of(True).names, Channels.of(False).names):
            raise ValueError(f"the channels {value} are not those of a network of synpol")
        return value

    def plain(self) -> dict[str, Any]:
        """Return it as numbers, texts, lists and dicts."""
        plain: dict[str, Any] = json.loads(self.model_dump_json())
        return plain


def is_portable(path: Path) -> bool:
    """Return whether a name is that of a portable network or of a package, not of a checkpoint."""
    return path.name.lower().endswith(ENDINGS)


def write_portable(path: Path, about: About, weights: Mapping[str, torch.Tensor]) -> None:
    """Write a network into one file, whole or not at all; the same network gives the same bytes.

    Parameters
    ----------
    path : Path
        File to write.
    about : About
    weights : mapping of str to tensor
    """
    write_whole(path, packed(about, weights))


def packed(about: About, weights: Mapping[str, torch.Tensor]) -> bytes:
    """Return the bytes of a portable network."""
    from safetensors.torch import save

    plain = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
    said = about.plain()
    said["digest"] = digest_of_content([said, plain])
    content: bytes = save(plain, {_ENTRY: json.dumps(said, sort_keys=True)})
    return content


def read_portable(path: Path) -> dict[str, Any]:
    """Read a portable network, or that of a package, as the content of a checkpoint.

    Raises
    ------
    InputError
        The file is missing or damaged, or was not written by synpol.
    """
    if not path.is_file():
        raise InputError(
            f"there is no network {path}; pipelines/export.py of synpol's repository writes one"
        )
    try:
        if path.name.lower().endswith(".zip"):
            with tempfile.TemporaryDirectory() as folder:
                return _read(_unpacked(path, Path(folder)))
        return _read(path)
    except OSError as error:
        if not is_of_content(error):
            raise
        raise _unreadable(path, error) from None
    except Exception as error:  # whatever safetensors, json and zipfile make of damaged bytes
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(
        f"{path} is not a readable network of synpol ({said_of(error):.200}); copy it again, or "
        "write it again with pipelines/export.py of synpol's repository"
    )


def said_of(error: Exception) -> str:
    """Say in a line what an error says of a description."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return str(error).partition("\n")[0] or type(error).__name__


def _unpacked(path: Path, folder: Path) -> Path:
    """Unpack the network of a package, and nothing else of it."""
    with zipfile.ZipFile(path) as archive:
        try:
            member = archive.getinfo(MEMBER)
        except KeyError:
            raise ValueError(f"it holds no {MEMBER}, so synpol did not write it") from None
        if member.file_size > _RATIO * path.stat().st_size:
            raise ValueError("it claims to hold more than it has")
        target = folder / MEMBER
        with archive.open(member) as packed_, open(target, "wb") as plain:
            shutil.copyfileobj(packed_, plain)
    return target


def _read(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:  # it checks places and sizes of tensors against the file
        entry = (file.metadata() or {}).get(_ENTRY)
        if entry is None:
            raise ValueError("it does not say what the network is, so synpol did not write it")
        said = json.loads(entry)
        if not isinstance(said, dict):
            raise TypeError("its description is no mapping")
        if said.get("format") != 1:
            raise ValueError(f"its description has the format {said.get('format')!r}, not 1")
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    digest = said.pop("digest", None)
    about = About.model_validate_json(json.dumps(said))
    if digest != digest_of_content([said, weights]):
        raise ValueError("its content is not what its digest says")
    if about.channels != Channels.of(about.exclusive).names:
        raise ValueError("its channels are not those of its kind of network")
    if (
        about.intensity_range is not None
        and not about.intensity_range[0] < about.intensity_range[1]
    ):
        raise ValueError("a range of intensities does not rise")
    return state_of(about, weights)


def state_of(about: About, weights: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Return a portable network in the form of a checkpoint's content."""
    said = about.plain()
    return {
        "iteration": about.iteration,
        "config": {
            "exclusive": about.exclusive,
            "model": said["model"],
            "data": {"intensity_range": said["intensity_range"]},
            "train": {},
        },
        "learned_from": said["learned_from"],
        "model": dict(weights),
        "ema": None,
    }


def about_checkpoint(
    stored: Mapping[str, Any],
    learned: list[dict[str, Any]],
    trained_on: list[str],
    scores: Mapping[str, float],
    version: str,
) -> About:
    """Describe the network of a checkpoint.

    Parameters
    ----------
    stored : mapping
        Content of the checkpoint.
    learned : list of dict
        What the network saw of its training volumes.
    trained_on : list of str
        Names of these volumes.
    scores : mapping of str to float
        Scores of its validation.
    version : str
        Version of synpol.
    """
    config = stored["config"]
    channels = Channels.of(config["exclusive"])
    return About(
        synpol=version,
        model=Model.model_validate(config["model"]),
        exclusive=config["exclusive"],
        channels=channels.names,
        activation="softmax" if channels.exclusive else "sigmoid",
        intensity_range=config["data"].get("intensity_range"),
        learned_from=[Seen.model_validate(one) for one in learned],
        trained_on=trained_on,
        iteration=stored["iteration"],
        scores={k: v for k, v in scores.items() if math.isfinite(v)},
    )
