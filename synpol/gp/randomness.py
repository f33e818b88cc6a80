"""Random numbers of a node."""

from __future__ import annotations

import zlib

import gunpowder as gp
import numpy as np


def generator(node: gp.BatchFilter, request: gp.BatchRequest, use: int) -> np.random.Generator:
    """A generator that the seed of a request, the kind of the node and the use decide.

    So whether a node changes a patch, and how, depends on nothing that other nodes draw.
    """
    kind = zlib.crc32(type(node).__name__.encode())
    return np.random.default_rng([request.random_seed, kind, use])


def leaves_alone(node: gp.BatchFilter, request: gp.BatchRequest, p: float) -> bool:
    """Whether a node that changes a patch with probability `p` leaves this one alone."""
    return bool(generator(node, request, 0).random() >= p)
