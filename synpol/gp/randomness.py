"""Random numbers of the augmentation nodes.

A node draws from a generator of its own, seeded by the seed of the request and the name of the
node's stream. So what a node draws does not depend on what other nodes draw. The streams of the
first nodes carry the names that their classes had then: with another name, a run that resumes
would see other patches.
"""

from __future__ import annotations

import zlib

import gunpowder as gp
import numpy as np

#: what a node draws numbers for: whether it changes a patch, and how
_WHETHER, _HOW = 0, 1


def generator(stream: str, request: gp.BatchRequest) -> np.random.Generator:
    """Return the generator that decides how a node changes the patch of a request.

    Parameters
    ----------
    stream : str
        Name of the node's stream of random numbers.
    request : gp.BatchRequest
    """
    return _generator(stream, request, _HOW)


def leaves_alone(stream: str, request: gp.BatchRequest, p: float) -> bool:
    """Decide whether a node leaves the patch of a request as it is.

    Parameters
    ----------
    stream : str
        Name of the node's stream of random numbers.
    request : gp.BatchRequest
    p : float
        Probability that the node changes a patch.
    """
    return bool(_generator(stream, request, _WHETHER).random() >= p)


def _generator(stream: str, request: gp.BatchRequest, use: int) -> np.random.Generator:
    kind = zlib.crc32(stream.encode())
    return np.random.default_rng([request.random_seed, kind, use])
