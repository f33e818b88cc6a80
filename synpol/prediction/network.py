"""Load the network of a checkpoint and run it on windows: precision, flipped copies, compiling."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from synpol.config import Model
from synpol.errors import InputError
from synpol.polarity import Channels

if TYPE_CHECKING:  # torch takes 6 s to import, and a driver with workers may do without it
    import torch

    from synpol.model.device import Precision
    from synpol.model.trained import Trained

#: program that computes a network
type Engine = Literal["torch", "openvino"]
#: a network as a function of windows (n, 1, z, y, x) to probabilities (n, 3, z, y, x)
type Probabilities = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Network:
    """The network that predicts, to be loaded by each process that needs it.

    Attributes
    ----------
    checkpoint : str
        Path of the checkpoint.
    model : Model
        Architecture of the network.
    exclusive : bool
        Whether the channels are classes.
    intensity_range : (float, float) or None
        Intensities that the network sees as 0 and 1.
    precision : {"auto", "float32", "bfloat16", "float16"}
        Type that convolutions compute in.
    flip_axes : "all" or list of lists of {"z", "y", "x"}
        Axes of the flipped copies that are predicted too; see `flips_of`.
    compile : bool
        Whether the network is compiled first.
    digest : str
        SHA-256 of the checkpoint; "" where it is not known yet.
    engine : {"torch", "openvino"}
        Program that computes the network.
    int8 : bool
        Whether it computes in 8-bit integers; with OpenVINO.
    """

    checkpoint: str
    model: Model
    exclusive: bool
    intensity_range: tuple[float, float] | None
    precision: Precision
    flip_axes: Literal["all"] | list[list[Literal["z", "y", "x"]]]
    compile: bool
    digest: str = ""
    engine: Engine = "torch"
    int8: bool = False

    def load(self) -> Trained:
        """Load the checkpoint.

        Raises
        ------
        InputError
            It is the checkpoint of another network, or it was replaced since `digest` was taken.
        """
        from synpol.model.trained import load_trained

        trained = load_trained(
            Path(self.checkpoint),
            model=self.model,
            exclusive=self.exclusive,
            intensity_range=self.intensity_range,
        )
        if self.digest and trained.digest != self.digest:
            raise InputError(
                f"{self.checkpoint} was replaced while it is predicted with, by a training "
                "that goes on; name a checkpoint that stays: predict.checkpoint=FILE"
            )
        return trained

    def on(self, device: torch.device) -> Probabilities:
        """Load the network and move it to a device."""
        return probabilities_of(
            self.load().model,
            device,
            precision=self.precision,
            exclusive=self.exclusive,
            flips=flips_of(self.flip_axes),
            compile=self.compile,
            engine=self.engine,
            int8=self.int8,
        )

    @property
    def title(self) -> str:
        """Name of the file, and of the program that computes."""
        engine = {"openvino": "OpenVINO", "torch": "PyTorch"}[self.engine]
        return f"{self.checkpoint}, by {engine}" + (" in 8-bit integers" if self.int8 else "")

    def at_once(self, batch_size: int) -> int:
        """Return how many windows the network gets at once: OpenVINO gains nothing by several."""
        return 1 if self.engine == "openvino" else batch_size


def probabilities_of(
    model: Any,
    device: torch.device,
    *,
    precision: Precision,
    exclusive: bool,
    flips: Sequence[Sequence[str]] = (),
    compile: bool = False,
    engine: Engine = "torch",
    int8: bool = False,
) -> Probabilities:
    """Turn a network into a function of windows to probabilities.

    Parameters
    ----------
    model : torch.nn.Module
        Network from windows (n, 1, z, y, x) to logits (n, 3, z, y, x).
    device : torch.device
        Device that the network is moved to.
    precision : {"auto", "float32", "bfloat16", "float16"}
        Type that convolutions compute in.
    exclusive : bool
        Whether the channels are classes.
    flips : sequence of sequences of {"z", "y", "x"}
        Axes of the flipped copies whose probabilities are averaged with those of the window.
    compile : bool
        Whether the network is compiled first.
    engine : {"torch", "openvino"}
        Program that computes the network; OpenVINO does so on a CPU.
    int8 : bool
        Whether OpenVINO computes in 8-bit integers.
    """
    import torch

    from synpol.model.activation import probability_of
    from synpol.model.device import autocast, choose_dtype

    channels = Channels.of(exclusive)
    dtype = choose_dtype(precision, device)
    network = _network_on(model, device, dtype, compile, engine, int8)
    flipped = [[2 + "zyx".index(a) for a in axes] for axes in flips]

    def once(windows: torch.Tensor) -> torch.Tensor:
        with autocast(device, dtype):
            logits = network(windows.contiguous(memory_format=torch.channels_last_3d)).float()
        return probability_of(logits, channels)

    def probabilities(windows: torch.Tensor) -> torch.Tensor:
        total = once(windows)
        for axes in flipped:
            total = total + once(windows.flip(axes)).flip(axes)
        return total / (1 + len(flipped))

    return probabilities


def _network_on(
    model: Any,
    device: torch.device,
    dtype: torch.dtype,
    compile: bool,
    engine: Engine,
    int8: bool,
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Make a network ready to compute on a device."""
    import torch

    if engine == "openvino":
        from synpol.model.openvino_graph import OpenVINONetwork

        if device.type != "cpu":
            raise InputError(
                f"OpenVINO computes on a CPU, but this process has the device {device}: say "
                "device=cpu, or predict.engine=torch"
            )
        return OpenVINONetwork(model, dtype, int8)
    model = model.to(device, memory_format=torch.channels_last_3d).eval()
    return torch.compile(model) if compile else model


def flips_of(flip_axes: Literal["all"] | Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """List the axes of the flipped copies that are predicted beside the image, each set once.

    Examples
    --------
    >>> flips_of([["y"], ["x", "z"], ["y"], []])
    [('y',), ('z', 'x')]
    """
    if flip_axes == "all":
        return [axes for n in (1, 2, 3) for axes in itertools.combinations("zyx", n)]
    given = [tuple(a for a in "zyx" if a in axes) for axes in flip_axes]
    return [axes for axes in dict.fromkeys(given) if axes]
