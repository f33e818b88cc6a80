"""What the peer scripts share: their arguments, the clock, the JSON line and the labels to check.

A peer script is run by `uv run --no-project --script`, in an environment of its own, so this
module needs nothing but numpy and the standard library.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

Block = tuple[int, int, int]


@dataclass(frozen=True)
class Request:
    """One labeling: the mask, where the labels go, and how."""

    input: Path
    output: Path
    block: Block
    workers: int
    check: Path | None

    @property
    def scratch(self) -> Path:
        """A folder beside the output for converted inputs and the peer's own records."""
        return self.output.with_name(self.output.name + ".scratch")


def parse_request(description: str | None) -> Request:
    """The command line; an output and a scratch folder of an earlier run are removed."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("input", type=Path, help="Zarr v3 array, uint8, 0 or 1, (z, y, x)")
    parser.add_argument("output", type=Path, help="the labels, in the format the peer writes")
    parser.add_argument("--block", type=int, nargs=3, required=True, metavar=("Z", "Y", "X"))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--check", type=Path, help="save the labels here as .npy, untimed")
    given = parser.parse_args()
    z, y, x = given.block
    request = Request(
        given.input.resolve(), given.output.resolve(), (z, y, x), given.workers, given.check
    )
    for path in (request.output, request.scratch):
        shutil.rmtree(path, ignore_errors=True)
    request.scratch.mkdir(parents=True)
    return request


def boxes(shape: tuple[int, ...], block: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """The blocks of an array, in C order."""
    starts = (range(0, s, b) for s, b in zip(shape, block, strict=True))
    for corner in itertools.product(*starts):
        yield tuple(slice(c, min(c + b, s)) for c, b, s in zip(corner, block, shape, strict=True))


def peak_megabytes() -> float:
    """The largest resident set of this process, or of the largest child that has ended."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(w).ru_maxrss for w in who) / 1024


def run_peer(
    request: Request,
    peer: str,
    label: Callable[[], object],
    open_labels: Callable[[], Any],
    end_workers: Callable[[], object] | None = None,
) -> None:
    """Time `label`, read its result block by block, print the line.

    `open_labels` gives the labels on disk as something that has a shape (z, y, x) and is sliced.
    `end_workers`, untimed, ends processes that the peer leaves behind: the memory of a child
    counts only once it has ended.
    """
    started = time.perf_counter()
    label()
    seconds = time.perf_counter() - started
    if end_workers is not None:
        end_workers()
    peak = peak_megabytes()
    labels = open_labels()
    saved = None
    if request.check is not None:
        saved = np.lib.format.open_memmap(
            request.check, "w+", np.dtype(np.uint64), tuple(labels.shape)
        )
    ids = np.zeros(0, np.uint64)
    for box in boxes(tuple(labels.shape), request.block):
        part = np.asarray(labels[box]).astype(np.uint64)
        ids = np.union1d(ids, np.unique(part))
        if saved is not None:
            saved[box] = part
    if saved is not None:
        saved.flush()
    shutil.rmtree(request.scratch, ignore_errors=True)
    figures = {
        "peer": peer,
        "version": version(peer),
        "seconds": seconds,
        "peak_mb": peak,
        "components": int(np.count_nonzero(ids)),
    }
    print(json.dumps(figures), flush=True)
