"""Place sliding windows, blend them, and run a network over those of one block.

Windows stand on one grid anchored at the first voxel of the *volume*, not of a block, and are added
up in the grid's C order. So the probability of a voxel does not depend on the block in which it was
computed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

from synpol.blockwise.grid import BlockGrid, index_of
from synpol.blockwise.records import Index
from synpol.polarity import Channels

if TYPE_CHECKING:
    import torch

Blending = Literal["bump", "gaussian", "constant", "crop"]


def window_starts(length: int, window: int, step: int) -> list[int]:
    """Return the first voxel of each window along an axis.

    Parameters
    ----------
    length, window : int
        Number of voxels of the volume and of a window.
    step : int
        Number of voxels from one window to the next.

    Returns
    -------
    list of int
        The last window is moved back to end with the volume. A volume that is smaller than a window
        has one window, which is padded.

    Examples
    --------
    >>> window_starts(40, 16, 8)
    [0, 8, 16, 24]
    >>> window_starts(41, 16, 8)
    [0, 8, 16, 24, 25]
    """
    if length <= window:
        return [0]
    starts = list(range(0, length - window + 1, step))
    if starts[-1] != length - window:
        starts.append(length - window)
    return starts


@dataclass(frozen=True)
class WindowGrid:
    """All windows of a volume; everything is in voxels along z, y, x.

    Attributes
    ----------
    shape : (int, int, int)
        Shape of the volume.
    window : (int, int, int)
        Shape of a window: what the network sees at once.
    step : (int, int, int)
        Number of voxels from one window to the next.
    margin : (int, int, int)
        Number of voxels at each end of a window whose result does not count. Where a window reaches
        beyond the volume, the image is reflected.
    blending : {"bump", "gaussian", "constant", "crop"}
        Kind of the weight of a voxel within its window.
    """

    shape: Index
    window: Index
    step: Index
    margin: Index
    blending: Blending

    @classmethod
    def of(
        cls,
        shape: Sequence[int],
        window: Sequence[int],
        overlap: float | Sequence[float],
        blending: Blending,
    ) -> WindowGrid:
        """Lay out windows that overlap by a fraction of their size, or by one along each axis.

        With ``crop``, half of the overlap at each side of a window is not used, so each voxel is
        decided by one window, which sees what surrounds it. With the others, all windows that cover
        a voxel vote.
        """
        along = [overlap] * 3 if isinstance(overlap, int | float) else overlap
        axes = list(zip(window, along, strict=True))
        margin = [int(w * o / 2) if blending == "crop" else 0 for w, o in axes]
        if blending == "crop":
            step = [w - 2 * m for w, m in zip(window, margin, strict=True)]
        else:
            step = [max(1, round(w * (1 - o))) for w, o in axes]
        return cls(index_of(shape), index_of(window), index_of(step), index_of(margin), blending)

    @cached_property
    def starts(self) -> tuple[list[int], list[int], list[int]]:
        """First voxel of each window along z, y, x; below zero where one reaches out."""
        axes = zip(self.shape, self.window, self.step, self.margin, strict=True)
        z, y, x = ([s - m for s in window_starts(n + 2 * m, w, d)] for n, w, d, m in axes)
        return z, y, x

    def of_block(self, begin: Sequence[int], end: Sequence[int]) -> list[Index]:
        """Return the first voxel of each window that decides about a block, in C order."""
        return list(itertools.product(*self._of_block(begin, end)))  # type: ignore[arg-type]

    def _of_block(self, begin: Sequence[int], end: Sequence[int]) -> list[list[int]]:
        axes = zip(self.starts, self.window, self.margin, begin, end, strict=True)
        return [[s for s in of if s + m < e and s + w - m > b] for of, w, m, b, e in axes]

    @property
    def count(self) -> int:
        """Number of windows of the whole volume."""
        return int(np.prod([len(s) for s in self.starts]))

    def count_in(
        self,
        blocks: BlockGrid,
        offset: Sequence[int] = (0, 0, 0),
        needed: Callable[[Sequence[int], Sequence[int]], tuple[Index, Index]] | None = None,
    ) -> int:
        """Count the windows of all blocks; those at borders of blocks count more than once.

        Parameters
        ----------
        blocks : BlockGrid
            Blocks of the volume or of a region.
        offset : 3 ints
            First voxel of the blocks in the volume.
        needed : callable, optional
            Turns corner and end of a block into those of what is predicted for it, where blocks are
            of other voxels than windows.
        """
        total = 1
        for axis, parts in enumerate(blocks.grid):
            along = 0
            for part in range(parts):
                index = [0, 0, 0]
                index[axis] = part
                begin, end = blocks.bounds(index_of(index))
                low, high = (
                    index_of(a + o for a, o in zip(p, offset, strict=True)) for p in (begin, end)
                )
                box = (low, high) if needed is None else needed(low, high)
                along += len(self._of_block(*box)[axis])
            total *= along
        return total

    def weights(self) -> np.ndarray:
        """Return the weight of each voxel of a window.

        Returns
        -------
        (z, y, x) float32
            ``bump`` is that of Lee et al., arXiv:1706.00120 (exponent 1.5), ``gaussian`` has a
            standard deviation of 0.2 half windows; both have a floor of 1e-4, as in PyTorch
            Connectomics. ``crop`` is 1 inside the margin.
        """
        if self.blending in ("constant", "crop"):
            inner = tuple(slice(m, w - m) for m, w in zip(self.margin, self.window, strict=True))
            weights = np.zeros(self.window, np.float32)
            weights[inner] = 1
            return weights
        if self.blending == "bump":
            along = [np.arange(1, n + 1) / (n + 1) for n in self.window]
            cost = [(p * (1 - p)) ** -1.5 for p in along]
        else:
            cost = [np.linspace(-1, 1, n) ** 2 / (2 * 0.2**2) for n in self.window]
        total = cost[0][:, None, None] + cost[1][:, None] + cost[2]
        if self.blending == "bump":
            total -= total.min()
        return (1e-4 + np.exp(-total)).astype(np.float32)


@dataclass(frozen=True)
class BlockImage:
    """The image of one block and of what its windows see around it.

    Attributes
    ----------
    begin, end : (int, int, int)
        First voxel of the block in the volume, and one past its last.
    low : (int, int, int)
        First voxel of `image` in the volume; below zero where it was reflected.
    image : (z, y, x) float32
        Normalised image; empty where the network gets no window.
    seen, skipped : list of (int, int, int)
        First voxels of the windows that the network gets, and of those that count as zero, because
        the image is constant there or the mask is empty.
    mask : (z, y, x) bool or None
        Mask of the voxels of the block that are wanted.
    """

    begin: Index
    end: Index
    low: Index
    image: np.ndarray
    seen: list[Index]
    skipped: list[Index]
    mask: np.ndarray | None


def read_block(
    grid: WindowGrid,
    read: Callable[[tuple[slice, slice, slice]], np.ndarray],
    begin: Index,
    end: Index,
    mask: np.ndarray | None = None,
) -> BlockImage:
    """Read the image of one block and of what its windows see around it.

    Parameters
    ----------
    grid : WindowGrid
        Windows of the volume.
    read : callable
        Returns the normalised image of some slices of the volume; float32 (z, y, x).
    begin, end : (int, int, int)
        First voxel of the block in the volume, and one past its last.
    mask : (z, y, x) bool array, optional
        Mask of the voxels of the block that are wanted; the others are zero in the result.
    """
    starts = grid.of_block(begin, end)
    low = np.min(starts, axis=0)
    high = np.max(starts, axis=0) + np.array(grid.window)
    nothing = np.zeros((0, 0, 0), np.float32)
    if mask is not None and not mask.any():
        return BlockImage(begin, end, index_of(low), nothing, [], starts, mask)
    inside = [
        slice(max(0, int(a)), min(int(b), n)) for a, b, n in zip(low, high, grid.shape, strict=True)
    ]
    image = read((inside[0], inside[1], inside[2]))
    beyond = [
        (s.start - int(a), int(b) - s.stop) for s, a, b in zip(inside, low, high, strict=True)
    ]
    if any(map(any, beyond)):
        image = np.pad(image, beyond, mode="reflect")
    seen: list[Index] = []
    skipped: list[Index] = []
    for start in starts:
        patch = image[_box(np.array(start) - low, grid.window)]
        in_block, _ = _overlap(grid, start, begin, end)
        wanted = mask is None or mask[in_block].any()
        (seen if wanted and patch.min() != patch.max() else skipped).append(start)
    return BlockImage(begin, end, index_of(low), image, seen, skipped, mask)


class BlockPredictor:
    """Run a network over the windows of one block after the other.

    A network may round otherwise for a single window than for several. So a window that is left
    over goes to the network twice, and a voxel does not depend on how a block fills its batches.

    Parameters
    ----------
    network : callable
        Turns windows (n, 1, z, y, x) into probabilities (n, 3, z, y, x); float32 tensors on
        `device`.
    grid : WindowGrid
        Windows of the volume.
    batch_size : int
        Number of windows that the network gets at once. Halved for good when memory does not
        suffice.
    device : torch.device or str
        Device of the network.
    say : callable
        Gets a line of text when `batch_size` had to be halved.
    """

    def __init__(
        self,
        network: Callable[[torch.Tensor], torch.Tensor],
        grid: WindowGrid,
        batch_size: int,
        device: torch.device | str = "cpu",
        say: Callable[[str], object] = print,
    ) -> None:
        import torch

        self.network, self.grid, self.batch_size, self.say = network, grid, batch_size, say
        self.device = torch.device(device)
        self.weights = torch.from_numpy(grid.weights()).to(self.device)

    def __call__(self, block: BlockImage) -> np.ndarray:
        """Predict a block.

        Returns
        -------
        (3, z, y, x) uint8
            Probabilities, 0..255 for 0..1.

        Raises
        ------
        torch.OutOfMemoryError
            Memory does not suffice for a single window.
        """
        import torch

        size = [e - b for b, e in zip(block.begin, block.end, strict=True)]
        if not block.seen:
            return np.zeros((Channels.count, *size), np.uint8)
        with torch.inference_mode():
            image = torch.from_numpy(block.image).to(self.device)
            total = torch.zeros((Channels.count, *size), device=self.device)
            weight = torch.zeros(size, device=self.device)
            for start in block.skipped:
                in_block, in_window = _overlap(self.grid, start, block.begin, block.end)
                weight[in_block] += self.weights[in_window]
            done = 0
            while done < len(block.seen):
                batch = block.seen[done : done + self.batch_size]
                patches = [image[_box(np.subtract(s, block.low), self.grid.window)] for s in batch]
                if len(batch) == 1 < self.batch_size:
                    patches *= 2
                try:
                    probabilities = self.network(torch.stack(patches)[:, None])
                except RuntimeError as error:
                    if not self._halved(error):
                        raise
                    continue
                for start, probability in zip(batch, probabilities, strict=False):
                    in_block, in_window = _overlap(self.grid, start, block.begin, block.end)
                    total[:, *in_block] += probability[:, *in_window] * self.weights[in_window]
                    weight[in_block] += self.weights[in_window]
                done += len(batch)
            result = (total / weight * 255 + 0.5).floor_().to(torch.uint8).cpu().numpy()
        return result if block.mask is None else result * block.mask

    def _halved(self, error: RuntimeError) -> bool:
        """Halve the batch, if an error is one that fewer windows at a time may mend."""
        import torch

        out = isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
        if not out or self.batch_size == 1:
            return False
        self.batch_size //= 2
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.say(
            f"memory does not suffice for {self.batch_size * 2} windows at a time; going on with "
            f"{self.batch_size} (predict.batch_size)"
        )
        return True


def _box(begin: Sequence[int] | np.ndarray, size: Sequence[int] | np.ndarray) -> tuple[slice, ...]:
    return tuple(slice(int(b), int(b) + int(s)) for b, s in zip(begin, size, strict=True))


def _overlap(
    grid: WindowGrid, start: Index, begin: Index, end: Index
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return where a window, without its margin, overlaps a block: slices of block and window."""
    axes = list(zip(start, grid.window, grid.margin, begin, end, strict=True))
    inside = [max(s + m, b) for s, _, m, b, _ in axes]
    until = [min(s + w - m, e) for s, w, m, _, e in axes]
    extent = np.array(until) - inside
    return _box(np.subtract(inside, begin), extent), _box(np.subtract(inside, start), extent)
