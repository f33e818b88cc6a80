"""Draw a random sample, stratified by score, that stays the same over decodings.

Each synapse has a random number that depends on the seed and on the place of its two sides alone
(permanent random numbers: E. Ohlsson, "Coordination of samples using permanent random numbers",
1995). The sample of a stratum is its synapses with the smallest numbers. A synapse that another
decoding leaves where it was is in the sample again, and its verdict counts again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from synpol.review.found import Found

#: nm that a random number looks at; smaller differences are rounding
_GRAIN = 0.1


def random_numbers(pre: np.ndarray, post: np.ndarray, seed: int) -> np.ndarray:
    """Return a random number of each place, (n,) uint64, evenly distributed.

    Parameters
    ----------
    pre, post : (n, 3) float64
        Both ends, nm.
    seed : int
        Another seed gives independent numbers.
    """
    grains = np.round(np.concatenate([pre, post], axis=1) / _GRAIN).astype(np.int64)
    state = np.full(len(grains), _mixed(np.array([seed % 2**64], np.uint64))[0])
    for column in grains.T.astype(np.uint64):
        state = _mixed(state ^ column)
    return state


def _mixed(state: np.ndarray) -> np.ndarray:
    """Scramble 64-bit numbers (the SplitMix64 generator of Steele, Lea and Flood, 2014)."""
    with np.errstate(over="ignore"):
        state = state + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(state ^ (state >> np.uint64(31)))


@dataclass(frozen=True)
class Sample:
    """Strata of a table, and the order in which their synapses are drawn.

    Attributes
    ----------
    stratum : (n,) int64
        Stratum of each synapse; 0 has the smallest scores.
    rank : (n,) int64
        Place of each synapse in the random order of its stratum, from 0 on.
    sizes : (h,) int64
        Number of synapses of each stratum.
    bounds : (h, 2) float64
        Smallest and largest score of each stratum.
    """

    stratum: np.ndarray
    rank: np.ndarray
    sizes: np.ndarray
    bounds: np.ndarray

    def order(self) -> np.ndarray:
        """Return all rows in the order of drawing: one of each stratum by turns."""
        return np.lexsort((self.stratum, self.rank))

    def drawn(self, judged: np.ndarray) -> list[np.ndarray]:
        """Return the rows of each stratum that are its sample: judged without a gap.

        Parameters
        ----------
        judged : (n,) bool
            Synapses that have a verdict.

        Returns
        -------
        list of (k,) int64
            Rows in the order of drawing, up to the first that is not judged.
        """
        rows = np.flatnonzero(judged)
        found = []
        for number in range(len(self.sizes)):
            own = rows[self.stratum[rows] == number]
            own = own[np.argsort(self.rank[own])]
            whole = self.rank[own] == np.arange(len(own))
            found.append(own[: int(np.argmin(whole)) if not whole.all() else len(own)])
        return found


def draw_sample(found: Found, strata: int, seed: int) -> Sample:
    """Divide synapses into strata of equal size by score, and order each at random.

    Parameters
    ----------
    found : Found
    strata : int
        Number of strata; fewer where there are fewer synapses.
    seed : int
    """
    count = len(found)
    strata = max(1, min(strata, count))
    key = random_numbers(found.pre, found.post, seed)
    by_score = np.lexsort((key, found.score))
    stratum = np.empty(count, np.int64)
    stratum[by_score] = np.arange(count) * strata // max(count, 1)
    sizes = np.bincount(stratum, minlength=strata)
    order = np.lexsort((key, stratum))
    rank = np.empty(count, np.int64)
    rank[order] = np.arange(count) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    bounds = np.zeros((strata, 2))
    for number in range(strata if count else 0):
        own = found.score[stratum == number]
        bounds[number] = own.min(), own.max()
    return Sample(stratum, rank, sizes, bounds)
